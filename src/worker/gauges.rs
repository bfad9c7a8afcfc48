//! Gauges that only the database knows: what is undecided, and since when.

use crate::app::App;
use crate::clock;
use crate::db::{DbError, overview};
use crate::telemetry::labels::UnresolvedKind;
use crate::telemetry::record;

/// Reads the backlog and sets the gauges; always "no rows worked on".
pub(super) async fn refresh(app: &App) -> Result<usize, DbError> {
    let now = app.db.read(async |conn| overview::unresolved(conn).await).await?;
    let count = |rows: i64| u32::try_from(rows).unwrap_or(u32::MAX);
    record::unresolved(UnresolvedKind::Confirm, count(now.confirms), now.oldest_confirm_at);
    record::unresolved(UnresolvedKind::Cancel, count(now.cancels), now.oldest_cancel_at);
    record::overview_succeeded(clock::now());
    Ok(0)
}
