//! Where the time of one request went. `db` and `provider::call` add to it, the HTTP middleware reads it.
//!
//! It travels as a task-local. Work that is detached from the request takes it along:
//! `tokio::spawn(ledger::handle().scope(work))`. Outside of any request, adding does nothing.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::futures::TaskLocalFuture;

tokio::task_local! {
    static LEDGER: Ledger;
}

/// What the time was spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The database, including the wait for a connection.
    Db,
    /// A PG.
    Provider,
}

/// The account of one request, shared by everything that works for it.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Sums>);

#[derive(Debug, Default)]
struct Sums {
    db_nanos: AtomicU64,
    provider_nanos: AtomicU64,
}

impl Ledger {
    /// An empty account.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a future whose [`add`]s go to this account.
    pub fn scope<F: Future>(self, work: F) -> TaskLocalFuture<Self, F> {
        LEDGER.scope(self, work)
    }

    /// The time spent on a step so far. Steps that ran side by side count in full each.
    #[must_use]
    pub fn total(&self, step: Step) -> Duration {
        Duration::from_nanos(self.nanos(step).load(Ordering::Relaxed))
    }

    fn nanos(&self, step: Step) -> &AtomicU64 {
        match step {
            Step::Db => &self.0.db_nanos,
            Step::Provider => &self.0.provider_nanos,
        }
    }
}

/// Adds time to the account of the request being worked for, if there is one.
pub fn add(step: Step, elapsed: Duration) {
    let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    if let Ok(ledger) = LEDGER.try_with(Clone::clone) {
        ledger.nanos(step).fetch_add(nanos, Ordering::Relaxed);
    }
}

/// The account of the request being worked for, or an empty one; to be taken along by detached work.
#[must_use]
pub fn handle() -> Ledger {
    LEDGER.try_with(Clone::clone).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn detached_work_writes_to_the_same_account() {
        let ledger = Ledger::new();
        let work = async {
            add(Step::Db, Duration::from_millis(2));
            let detached = handle().scope(async {
                add(Step::Db, Duration::from_millis(3));
                add(Step::Provider, Duration::from_millis(7));
            });
            tokio::spawn(detached).await.expect("nothing panics in it");
        };
        ledger.clone().scope(work).await;
        assert_eq!(ledger.total(Step::Db), Duration::from_millis(5));
        assert_eq!(ledger.total(Step::Provider), Duration::from_millis(7));
    }

    #[test]
    fn outside_of_a_request_nothing_is_kept() {
        add(Step::Db, Duration::from_secs(1));
        assert_eq!(handle().total(Step::Db), Duration::ZERO);
    }
}
