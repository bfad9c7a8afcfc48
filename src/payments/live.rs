//! Live orders: how an order stands with the length of its history, and the look that makes up for lost news.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cancel_order;
use super::view::OrderView;
use crate::app::App;
use crate::db::{self, DbError};
use crate::domain::ids::OrderId;

/// How often it is asked whether it is time to look.
const TICK: Duration = Duration::from_secs(1);
/// Orders of one statement.
const CHUNK: usize = 500;

/// An order, and how long its history was at the least when it stood so.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The order.
    pub order: OrderView,
    /// Events of its history.
    pub events: i64,
}

/// How an order stands now, if there is one and its history is no longer of this length.
pub async fn unless_seen(
    app: &App,
    order: OrderId,
    seen: Option<i64>,
) -> Result<Option<Snapshot>, cancel_order::CancelOrderError> {
    app.db
        .read(async |conn| {
            // First the history, so that what is read after it is never older.
            let events = db::events::lengths(conn, &[order]).await?.first().map_or(0, |(_, events)| *events);
            if seen == Some(events) {
                return Ok(None);
            }
            Ok(Some(Snapshot { order: cancel_order::read(conn, order).await?, events }))
        })
        .await
}

/// Looks every few seconds, until `stop`, whether orders that somebody waits for have changed without news of it: all of
/// them in one question, however many wait.
pub async fn look(app: &App, stop: CancellationToken) {
    let mut looked = Instant::now();
    loop {
        let is_due = tokio::select! {
            () = stop.cancelled() => return,
            () = app.news.missed() => true,
            () = tokio::time::sleep(TICK) => looked.elapsed() >= app.news.look_every(),
        };
        if is_due {
            looked = Instant::now();
            if let Err(error) = look_once(app).await {
                tracing::debug!(%error, "the watched orders could not be looked at; the next look makes up for it");
            }
        }
    }
}

async fn look_once(app: &App) -> Result<(), DbError> {
    let watched = app.news.watched();
    for some in watched.chunks(CHUNK) {
        let orders: Vec<OrderId> = some.iter().map(|(order, _)| *order).collect();
        let lengths = app.db.read(async |conn| db::events::lengths(conn, &orders).await).await?;
        for (order, known) in some {
            let now = lengths.iter().find(|(of, _)| of == order).map(|(_, events)| *events);
            if now != *known {
                app.news.ring(*order);
            }
        }
    }
    Ok(())
}
