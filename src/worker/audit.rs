//! The auditor's two loops: what changed, often; every row, seldom.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Worker, awake};
use crate::app::App;
use crate::db::DbError;
use crate::payments::audit::rounds::Auditor;
use crate::telemetry::labels::Task;

/// How often it is asked whether a run over every row is due.
const FULL_LOOKED_AT_EVERY: Duration = Duration::from_secs(30);

/// Judges what changed, and shows what is proven.
pub(super) async fn changed_loop(worker: Worker, stop: CancellationToken) {
    let auditor = auditor(&worker, &stop);
    let (never, every) = (Notify::new(), worker.app.settings.audit.interval);
    while awake(&stop, &never, every).await {
        let auditing = Arc::clone(&auditor);
        worker.tick(Task::Audit, move |_: &Arc<App>| changed(Arc::clone(&auditing))).await;
        if let Err(error) = auditor.publish().await {
            tracing::warn!(%error, "what is proven cannot be shown");
        }
    }
}

/// Judges every row, when it is time.
pub(super) async fn full_loop(worker: Worker, stop: CancellationToken) {
    let auditor = auditor(&worker, &stop);
    let every = worker.app.settings.audit.full_interval.min(FULL_LOOKED_AT_EVERY);
    let never = Notify::new();
    while awake(&stop, &never, every).await {
        let auditing = Arc::clone(&auditor);
        worker.tick(Task::AuditFull, move |_: &Arc<App>| full(Arc::clone(&auditing))).await;
    }
}

fn auditor(worker: &Worker, stop: &CancellationToken) -> Arc<Auditor> {
    Arc::new(Auditor::new(worker.app.db.clone(), worker.app.settings.audit.clone(), stop.clone()))
}

async fn changed(auditor: Arc<Auditor>) -> Result<usize, DbError> {
    auditor.changed().await
}

async fn full(auditor: Arc<Auditor>) -> Result<usize, DbError> {
    auditor.full().await
}
