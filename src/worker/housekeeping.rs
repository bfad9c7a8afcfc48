//! Forgets what has served its time: answered idempotency keys and read webhooks.

use crate::app::App;
use crate::db::{DbError, idempotency, webhooks};
use crate::telemetry::labels::Tx;

/// Rows deleted in one statement, so that no lock is held long.
const SWEEP_ROWS: i64 = 1_000;

/// Deletes one batch of each; returns how many rows.
pub(super) async fn sweep(app: &App) -> Result<usize, DbError> {
    let retention = app.settings.webhook_retention;
    app.db
        .transaction(Tx::Housekeeping, async |conn| {
            let keys = idempotency::delete_expired(conn, SWEEP_ROWS).await?;
            let deliveries = webhooks::delete_old(conn, retention, SWEEP_ROWS).await?;
            Ok(keys + deliveries)
        })
        .await
}
