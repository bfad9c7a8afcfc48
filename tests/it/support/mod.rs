//! What the tests stand on: a cluster, a database per test, a whole shop, and the invariants.

pub mod alertmanager;
pub mod certificates;
pub mod chaos;
pub mod cluster;
pub mod database;
pub mod invariants;
pub mod load;
pub mod nginx;
pub mod otlp;
pub mod panics;
pub mod ports;
pub mod programs;
pub mod prometheus;
pub mod ready;
pub mod redis;
pub mod served;
pub mod shop;
pub mod traffic;
pub mod watched;

use std::time::{Duration, Instant};

/// Waits until `check` gives something, at most `limit`; panics with `what` otherwise.
pub async fn eventually<T>(what: &str, limit: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
