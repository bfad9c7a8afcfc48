//! Gauges that only the database knows: what is undecided, and since when.

use crate::app::App;
use crate::clock;
use crate::db::{DbError, findings, overview, reconciliations};
use crate::telemetry::labels::{ProviderLabel, UnresolvedKind};
use crate::telemetry::record::{self, Backlog, Overview};

/// Reads the backlog and sets the gauges; always "no rows worked on".
pub(super) async fn refresh(app: &App) -> Result<usize, DbError> {
    let now = app.db.read(async |conn| overview::unresolved(conn).await).await?;
    let (findings, compared) = app
        .db
        .read(async |conn| {
            Ok::<_, DbError>((findings::unsettled_counts(conn).await?, reconciliations::all(conn).await?))
        })
        .await?;
    let figures = Overview {
        unresolved: vec![
            (UnresolvedKind::Confirm, Backlog { count: now.confirms, oldest_at: now.oldest_confirm_at }),
            (UnresolvedKind::Cancel, Backlog { count: now.cancels, oldest_at: now.oldest_cancel_at }),
        ],
        findings: findings.into_iter().map(|(kind, count)| (kind, Backlog { count, oldest_at: None })).collect(),
        reconciled: compared.into_iter().map(|(name, until)| (ProviderLabel::of(&name), until)).collect(),
        ..Overview::default()
    };
    record::overview(&figures, clock::now());
    Ok(0)
}
