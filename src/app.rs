//! What every request and worker shares: the database, the PG's door, the settings, and the tasks in flight.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::config::Settings;
use crate::db::Db;
use crate::provider::call::Door;
use crate::telemetry::ledger;

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
        let span = tracing::Span::current();
        let ledger = ledger::handle();
        let work = tracing::Instrument::instrument(ledger.scope(work), span);
        self.tasks.spawn(work).await.ok()
    }
}
