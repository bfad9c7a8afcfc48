//! Sales totals by day and product, counted from the history as it grows.
//!
//! Each event is counted once: what a piece of the history adds is committed together with how far it goes. Events are
//! numbered before their transactions commit, so a piece never goes beyond an event below which everything has ended:
//! the newest event is looked for, then a transaction number is taken, and once every transaction below that number has
//! ended, no event up to the noted one can appear any more. (`audit/rounds.rs` relies on the same.)

use std::time::Instant;

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::app::App;
use crate::db::audit::{self, Moment};
use crate::db::sales::{self, Place, Progress, SalesRow};
use crate::db::{Conn, Db, DbError};
use crate::domain::ids::ProductId;
use crate::telemetry::labels::Tx;

/// Events counted in one transaction.
const PIECE_EVENTS: i64 = 2_000;
/// How often a round may note a newer end: the second time it counts what came while it counted.
const ENDS_PER_ROUND: u32 = 2;

/// What was sold of a product on a day, and given back.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Sales)]
pub struct SalesView {
    /// In UTC.
    pub day: NaiveDate,
    /// ISO 4217.
    #[schema(example = "KRW")]
    pub currency: String,
    /// Null for money that was given back without units.
    #[schema(value_type = Option<String>, example = "prod_0193a1b2c3d47e5f8a9b0c1d2e3f4a5e")]
    pub product_id: Option<ProductId>,
    /// Units of orders that were paid on this day.
    pub sold_units: i64,
    /// What they cost, in minor units.
    pub sold_amount: i64,
    /// Units given back on this day, whenever they were sold.
    pub canceled_units: i64,
    /// Money given back on this day, in minor units. Without a product it can be negative: units came back whose money
    /// had gone back before.
    pub canceled_amount: i64,
}

impl From<SalesRow> for SalesView {
    fn from(row: SalesRow) -> Self {
        Self {
            day: row.day,
            currency: row.currency,
            product_id: (!row.product_id.is_nil()).then(|| row.product_id.into()),
            sold_units: row.sold_units,
            sold_amount: row.sold_amount,
            canceled_units: row.canceled_units,
            canceled_amount: row.canceled_amount,
        }
    }
}

/// Reads the totals of some days, and until when everything is in them.
pub async fn read(
    app: &App,
    days: (NaiveDate, NaiveDate),
    after: Option<&Place>,
    limit_rows: i64,
) -> Result<(Vec<SalesView>, Option<DateTime<Utc>>), DbError> {
    app.db
        .read(async |conn| {
            // First: what is counted meanwhile is more than was promised.
            let until = sales::progress(conn).await?.counted_until;
            let rows = sales::list(conn, days, after, limit_rows).await?;
            Ok((rows.into_iter().map(SalesView::from).collect(), until))
        })
        .await
}

/// Counts what can be counted now, piece by piece; returns how many pieces. Does nothing while another process is at it.
pub async fn count(db: &Db, stop: &CancellationToken) -> Result<usize, DbError> {
    let (mut pieces, mut ends) = (0, 0);
    while !stop.is_cancelled() {
        let began = Instant::now();
        // Before the transaction begins, whose number is the one that all those below the newest event are below.
        let moment = db.read(async |conn| audit::moment(conn).await).await?;
        match db.transaction(Tx::Sales, async |conn| piece(conn, &moment).await).await? {
            Piece::Counted => {
                pieces += 1;
                // As long as it took: a history that was never counted must not keep the database busy.
                stop.run_until_cancelled(tokio::time::sleep(began.elapsed())).await;
            }
            Piece::NewEnd if ends + 1 < ENDS_PER_ROUND => ends += 1,
            Piece::NewEnd | Piece::Nothing => break,
        }
    }
    Ok(pieces)
}

/// What became of a piece.
enum Piece {
    /// It is counted.
    Counted,
    /// There was none, but there will be.
    NewEnd,
    /// There is none, or another process is counting.
    Nothing,
}

async fn piece(conn: &Conn, moment: &Moment) -> Result<Piece, DbError> {
    let Some(progress) = sales::take_turn(conn).await? else { return Ok(Piece::Nothing) };
    let is_safe = progress.next_transaction <= moment.oldest_transaction;
    if progress.event_id < progress.next_event_id {
        if !is_safe {
            return Ok(Piece::Nothing);
        }
        let end = sales::piece_end(conn, progress.event_id, progress.next_event_id, PIECE_EVENTS).await?;
        let end = end.unwrap_or(progress.next_event_id);
        sales::add(conn, progress.event_id, end).await?;
        let is_all = end == progress.next_event_id;
        let counted_until = if is_all { progress.next_counted_until } else { progress.counted_until };
        sales::keep(conn, &Progress { event_id: end, counted_until, ..progress }).await?;
        return Ok(Piece::Counted);
    }
    if moment.newest_event <= progress.event_id {
        // Nothing has come since; what is still under way is not committed.
        let counted_until = progress.counted_until.max(Some(moment.taken_at));
        sales::keep(conn, &Progress { counted_until, ..progress }).await?;
        return Ok(Piece::Nothing);
    }
    let next = Progress {
        next_event_id: moment.newest_event,
        next_transaction: audit::own_transaction(conn).await?,
        next_counted_until: Some(moment.taken_at),
        ..progress
    };
    sales::keep(conn, &next).await?;
    Ok(Piece::NewEnd)
}
