//! What every request and worker shares: the database, the PG's door, the settings, and the tasks in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::cache::Cache;
use crate::config::Settings;
use crate::db::Db;
use crate::db::known_keys::KnownKeys;
use crate::news::News;
use crate::provider::call::Door;
use crate::queues::Queues;
use crate::telemetry::{Span, ledger};

/// One running paygauge.
pub struct App {
    /// PostgreSQL.
    pub db: Db,
    /// The PG.
    pub provider: Door,
    /// Durations, limits and policies.
    pub settings: Settings,
    /// Money work that must not die with a client's connection; shutdown waits for it.
    pub tasks: TaskTracker,
    /// What buyers' pages are shown of the catalogue.
    pub cache: Cache,
    /// Which idempotency keys were used.
    pub known_keys: KnownKeys,
    /// Who waits for an order of the same product.
    pub queues: Queues,
    /// What was committed, for whoever waits for it.
    pub news: Arc<News>,
    /// Wakes the workers of this process before their timer does.
    pub nudges: Nudges,
}

/// One wake-up call per worker that can have urgent work.
#[derive(Default)]
pub struct Nudges {
    /// An outcome became uncertain, or a compensation was written.
    pub recovery: Notify,
    /// A webhook was stored.
    pub webhooks: Notify,
}

impl App {
    /// Runs `work` to its end even if whoever awaits it goes away, and lets shutdown wait for it.
    ///
    /// `None` means that the work panicked; the panic is logged by its own task.
    pub async fn detached<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let work = Span::current().scope(ledger::handle().scope(work));
        self.tasks.spawn(work).await.ok()
    }
}

/// What `/readyz` asks about besides the database: set by whoever starts, works and stops, read by `http/ops`.
#[derive(Debug, Default)]
pub struct Readiness {
    migrated: AtomicBool,
    shutting_down: AtomicBool,
    worker_expected: AtomicBool,
    /// Seconds since 1970 of the worker's last round; 0 before the first.
    worker_ticked_s: AtomicI64,
}

impl Readiness {
    /// The database's schema is the one that this program needs.
    pub fn set_migrated(&self) {
        self.migrated.store(true, Ordering::Relaxed);
    }

    /// No new work is taken any more.
    pub fn start_shutdown(&self) {
        self.shutting_down.store(true, Ordering::Relaxed);
    }

    /// This process runs the worker role, so that its silence counts.
    pub fn expect_worker(&self) {
        self.worker_expected.store(true, Ordering::Relaxed);
    }

    /// The worker ended a round at `now`.
    pub fn worker_ticked(&self, now: DateTime<Utc>) {
        self.worker_ticked_s.fetch_max(now.timestamp(), Ordering::Relaxed);
    }

    /// Whether the schema is known to be right.
    #[must_use]
    pub fn is_migrated(&self) -> bool {
        self.migrated.load(Ordering::Relaxed)
    }

    /// Whether the process is on its way out.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Relaxed)
    }

    /// Whether this process runs the worker role.
    #[must_use]
    pub fn is_worker_expected(&self) -> bool {
        self.worker_expected.load(Ordering::Relaxed)
    }

    /// When the worker last ended a round, if it has.
    #[must_use]
    pub fn worker_last_ticked(&self) -> Option<DateTime<Utc>> {
        let seconds = self.worker_ticked_s.load(Ordering::Relaxed);
        DateTime::from_timestamp(seconds, 0).filter(|_| seconds > 0)
    }
}
