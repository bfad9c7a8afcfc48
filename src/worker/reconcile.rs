//! The scheduled comparison of the PG's books with ours. The database knows when it is due and who is at it.

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::config::Settings;
use crate::db::DbError;
use crate::payments::reconcile;
use crate::telemetry::current_trace_id;

/// How often it is asked whether a run is due, at most: the task shows a sign of life that often.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// How often to ask whether a run is due.
pub(super) fn poll(settings: &Settings) -> Duration {
    settings.reconcile_every.min(ASK_EVERY)
}

/// Compares if a run is due; returns how many transactions.
pub(super) async fn compare(app: &Arc<App>) -> Result<usize, DbError> {
    reconcile::run_if_due(app, current_trace_id()).await
}
