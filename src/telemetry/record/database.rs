//! What is told of the database as this process uses it, and of Redis beside it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::unix_seconds;
use crate::telemetry::catalogue as c;
use crate::telemetry::labels::{
    CacheResult, Contention, Dependency, LockResource, PoolConnectionState, RedisFailure, RedisFeature, Tx, TxResult,
};

/// The database pool at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSnapshot {
    /// Connections waiting in the pool.
    pub idle: u32,
    /// Connections lent out.
    pub used: u32,
    /// The most it opens.
    pub max: u32,
    /// Callers waiting.
    pub pending: u32,
}

/// What the database pool looks like now.
pub fn pool(now: PoolSnapshot) {
    c::POOL_CONNECTIONS.of((PoolConnectionState::Idle,)).set(now.idle);
    c::POOL_CONNECTIONS.of((PoolConnectionState::Used,)).set(now.used);
    c::POOL_MAX.of(()).set(now.max);
    c::POOL_PENDING.of(()).set(now.pending);
}

/// A connection was lent after this long.
pub fn pool_wait(elapsed: Duration) {
    c::POOL_WAIT.of(()).record(elapsed.as_secs_f64());
}

/// No connection was to be had in time.
pub fn pool_timeout() {
    c::POOL_TIMEOUTS.of(()).increment(1);
}

/// A transaction ended.
pub fn transaction(tx: Tx, result: TxResult, elapsed: Duration) {
    c::TRANSACTION.of((tx, result)).record(elapsed.as_secs_f64());
}

/// Others made a transaction fail.
pub fn contention(tx: Tx, contention: Contention) {
    c::TRANSACTION_CONTENTION.of((tx, contention)).increment(1);
}

/// A transaction that others made fail is tried again.
pub fn transaction_retry(tx: Tx) {
    c::TRANSACTION_RETRIES.of((tx,)).increment(1);
}

/// A statement that locks rows ended after this long.
pub fn lock_wait(resource: LockResource, elapsed: Duration) {
    c::LOCK_WAIT.of((resource,)).record(elapsed.as_secs_f64());
}

/// A dependency was asked at `now`, and answered or not.
pub fn dependency(dependency: Dependency, is_up: bool, now: DateTime<Utc>) {
    c::DEPENDENCY_UP.of((dependency,)).set(if is_up { 1.0 } else { 0.0 });
    c::DEPENDENCY_CHECKED.of((dependency,)).set(unix_seconds(now));
}

/// Something was done without Redis.
pub fn redis_fallback(feature: RedisFeature, reason: RedisFailure) {
    c::REDIS_FALLBACKS.of((feature, reason)).increment(1);
}

/// A page of the catalogue was wanted.
pub fn cache_read(result: CacheResult) {
    c::CACHE_READS.of((result,)).increment(1);
}
