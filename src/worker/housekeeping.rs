//! Forgets what has served its time: answered idempotency keys and read webhooks. The history is never deleted.
//!
//! In small pieces, each a transaction of its own that waits for no lock and is cut off if it takes long, with a rest
//! after each: whatever is waiting to be deleted, at most half of one connection's time goes into it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::db::{self, DbError, idempotency, webhooks};
use crate::telemetry::labels::Tx;

/// Rows deleted in one transaction, so that no lock is held long.
const PIECE_ROWS: usize = 1_000;
/// A piece that takes longer is given up; the next round tries again.
const PIECE_LIMIT: Duration = Duration::from_secs(5);
/// How long a round goes on; what is left then waits for the next one.
const ROUND_LIMIT: Duration = Duration::from_secs(40);

#[derive(Debug, Clone, Copy)]
enum Served {
    Keys,
    Deliveries,
}

/// Deletes piece by piece until nothing is left or the round is over; returns how many rows. The kinds take turns, and
/// go on without one that fails: what is many or broken must not keep personal data from being forgotten.
pub async fn sweep(app: &App, stop: &CancellationToken) -> Result<usize, DbError> {
    let began = Instant::now();
    let mut waiting = VecDeque::from([Served::Keys, Served::Deliveries]);
    let (mut deleted, mut failed) = (0, None);
    while let Some(kind) = waiting.pop_front() {
        let piece_began = Instant::now();
        match piece(app, kind).await {
            Ok(rows) => {
                deleted += rows;
                if rows == PIECE_ROWS {
                    waiting.push_back(kind);
                }
            }
            Err(error) => failed = failed.or(Some(error)),
        }
        let rest = tokio::time::sleep(piece_began.elapsed());
        if waiting.is_empty() || began.elapsed() >= ROUND_LIMIT || stop.run_until_cancelled(rest).await.is_none() {
            break;
        }
    }
    failed.map_or(Ok(deleted), Err)
}

async fn piece(app: &App, kind: Served) -> Result<usize, DbError> {
    let (retention, rows) = (app.settings.webhook_retention, i64::try_from(PIECE_ROWS).unwrap_or(i64::MAX));
    app.db
        .transaction(Tx::Housekeeping, async |conn| {
            db::limit_statements(conn, PIECE_LIMIT).await?;
            match kind {
                Served::Keys => idempotency::delete_expired(conn, rows).await,
                Served::Deliveries => webhooks::delete_old(conn, retention, rows).await,
            }
        })
        .await
}
