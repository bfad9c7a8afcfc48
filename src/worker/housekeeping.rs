//! Makes room for what will come, and forgets what has served its time: answered idempotency keys and read webhooks. The
//! history is never deleted.
//!
//! Partitions of which the time is over are dropped. What went with none (an unread webhook holds its week, or nobody had made
//! one in time) is deleted in small pieces, each a transaction of its own that waits for no lock and is cut off if it takes
//! long, with a rest after each: whatever is waiting to be deleted, at most half of one connection's time goes into it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::db::{self, DbError, idempotency, partitions, webhooks};
use crate::telemetry::labels::Tx;

/// Rows deleted in one transaction, so that no lock is held long.
const PIECE_ROWS: usize = 1_000;
/// A piece that takes longer is given up; the next round tries again.
const PIECE_LIMIT: Duration = Duration::from_secs(5);
/// How long a round goes on; what is left then waits for the next one.
const ROUND_LIMIT: Duration = Duration::from_secs(40);

#[derive(Debug, Clone, Copy)]
enum Piece {
    /// A partition of deliveries.
    Deliveries,
    /// A partition of idempotency keys.
    Keys,
    /// Deliveries that went with no partition.
    LeftDeliveries,
    /// Keys that went with no partition.
    LeftKeys,
}

impl Piece {
    /// Whether there may be more of it, when so much of it went.
    const fn is_more(self, gone: usize) -> bool {
        match self {
            Self::Deliveries | Self::Keys => gone > 0,
            Self::LeftDeliveries | Self::LeftKeys => gone == PIECE_ROWS,
        }
    }
}

/// Makes the partitions to come, and takes away piece by piece what is over until nothing is left or the round is over;
/// returns how many partitions and rows went. The kinds take turns, and go on without one that fails: what is many or
/// broken must not keep personal data from being forgotten.
pub async fn sweep(app: &App, stop: &CancellationToken) -> Result<usize, DbError> {
    let began = Instant::now();
    let made = app.db.transaction(Tx::Housekeeping, async |conn| partitions::make_next(conn).await).await;
    let (mut gone, mut failed) = (0, made.err());
    let mut waiting = VecDeque::from([Piece::Deliveries, Piece::Keys, Piece::LeftDeliveries, Piece::LeftKeys]);
    while let Some(piece) = waiting.pop_front() {
        let piece_began = Instant::now();
        match take_away(app, piece).await {
            Ok(done) => {
                gone += done;
                if piece.is_more(done) {
                    waiting.push_back(piece);
                }
            }
            Err(error) => failed = failed.or(Some(error)),
        }
        let rest = tokio::time::sleep(piece_began.elapsed());
        if waiting.is_empty() || began.elapsed() >= ROUND_LIMIT || stop.run_until_cancelled(rest).await.is_none() {
            break;
        }
    }
    failed.map_or(Ok(gone), Err)
}

async fn take_away(app: &App, piece: Piece) -> Result<usize, DbError> {
    let (retention, keep) = (app.settings.webhook_retention, app.settings.idempotency_keep);
    let rows = i64::try_from(PIECE_ROWS).unwrap_or(i64::MAX);
    app.db
        .transaction(Tx::Housekeeping, async |conn| {
            db::limit_statements(conn, PIECE_LIMIT).await?;
            match piece {
                Piece::Deliveries => {
                    Ok(usize::from(partitions::drop_oldest_deliveries(conn, retention).await?.is_some()))
                }
                Piece::Keys => Ok(usize::from(partitions::drop_oldest_keys(conn, keep).await?.is_some())),
                Piece::LeftDeliveries => webhooks::delete_left(conn, retention, rows).await,
                Piece::LeftKeys => idempotency::delete_left(conn, rows).await,
            }
        })
        .await
}
