//! Gauges that only the database knows: what is undecided, and since when.

use crate::app::App;
use crate::clock;
use crate::db::{DbError, findings, overview, reconciliations};
use crate::payments::reconcile::record_unsettled;
use crate::telemetry::labels::{ProviderLabel, UnresolvedKind};
use crate::telemetry::record;

/// Reads the backlog and sets the gauges; always "no rows worked on".
pub(super) async fn refresh(app: &App) -> Result<usize, DbError> {
    let now = app.db.read(async |conn| overview::unresolved(conn).await).await?;
    let count = |rows: i64| u32::try_from(rows).unwrap_or(u32::MAX);
    record::unresolved(UnresolvedKind::Confirm, count(now.confirms), now.oldest_confirm_at);
    record::unresolved(UnresolvedKind::Cancel, count(now.cancels), now.oldest_cancel_at);
    let (findings, compared) = app
        .db
        .read(async |conn| {
            Ok::<_, DbError>((findings::unsettled_counts(conn).await?, reconciliations::all(conn).await?))
        })
        .await?;
    record_unsettled(&findings);
    for (provider, until) in compared {
        record::reconciled_until(ProviderLabel::of(&provider), until);
    }
    record::overview_succeeded(clock::now());
    Ok(0)
}
