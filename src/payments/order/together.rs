//! Several orders of one product in one transaction: all of those that the look finds room for, or none of them.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use chrono::{DateTime, Utc};

use super::{Draft, Place, PlaceError};
use crate::app::App;
use crate::db::batch::Batch;
use crate::db::idempotency::{self, Key};
use crate::db::products::ProductRow;
use crate::db::{self, Conn, DbError, Look};
use crate::domain::ids::{OrderId, ProductId};
use crate::queues::{Placed, Ticket};
use crate::telemetry::labels::Tx;
use crate::telemetry::{propagate, record};

/// Places those of these orders that nothing seems to be in the way of; each by its position. The others need a
/// transaction of their own, to replay or to say what is wrong.
pub(super) async fn place(
    app: &App,
    product: ProductId,
    tickets: &[Ticket],
) -> Result<BTreeMap<usize, Placed>, PlaceError> {
    let looked_at = Instant::now();
    let look = Before { product, tickets };
    let work = app.db.transaction_after(Tx::OrderPlaceTogether, look, async |conn, seen| {
        let seen: Seen = seen;
        if seen.is_sold_out() {
            let most = tickets.iter().map(|ticket| ticket.wanted.quantity).max().unwrap_or_default();
            app.news.gate().close(product, most, looked_at);
        }
        at_once(conn, app, product, tickets, seen).await
    });
    let drafts = work.await?;
    let orders = u32::try_from(drafts.len()).unwrap_or(u32::MAX);
    if orders > 0 {
        record::orders_taken(orders);
    }
    let trace_id = propagate::current_trace_id();
    let placed = |draft: Draft| Placed {
        id: draft.order.id,
        total: draft.order.total(),
        response: draft.response,
        orders,
        trace_id: trace_id.clone(),
    };
    Ok(drafts.into_iter().map(|(at, draft)| (at, placed(draft))).collect())
}

/// What the orders look at before they are written.
struct Before<'a> {
    product: ProductId,
    tickets: &'a [Ticket],
}

/// What they saw there.
struct Seen {
    used: HashSet<Key>,
    /// The product with its available units and the database's clock.
    product: Option<(ProductRow, i64, DateTime<Utc>)>,
}

impl Look for Before<'_> {
    type Seen = Seen;

    async fn look(&self, conn: &Conn) -> Result<Seen, DbError> {
        let scopes: Vec<_> = self.tickets.iter().map(|ticket| &ticket.wanted.scope).collect();
        let product = [self.product];
        let (used, products) =
            futures_util::join!(idempotency::used(conn, &scopes), db::products::find_with_stock(conn, &product),);
        Ok(Seen { used: used?, product: products?.pop() })
    }
}

impl Seen {
    fn is_sold_out(&self) -> bool {
        self.product.as_ref().is_some_and(|(product, available, _)| product.active && *available == 0)
    }
}

/// Writes everything in one go. What is refused meanwhile undoes all of it.
async fn at_once(
    conn: &Conn,
    app: &App,
    product: ProductId,
    tickets: &[Ticket],
    seen: Seen,
) -> Result<Vec<(usize, Draft)>, PlaceError> {
    let Some((row, available, now)) = seen.product else { return Ok(Vec::new()) };
    let products = [row];
    let mut drafts = Vec::new();
    for at in fitting(available, seen.used, tickets) {
        let Some(wanted) = tickets.get(at).map(|ticket| &ticket.wanted) else { continue };
        let lines = vec![(product, wanted.quantity)];
        let request = Place { lines, customer_ref: wanted.customer_ref.clone() };
        match Draft::new(OrderId::new(), &request, &products, &wanted.origin, now, &app.settings) {
            Ok(draft) => drafts.push((at, draft)),
            // Not for sale, or too dear: it will be told so alone.
            Err(PlaceError::UnknownProduct(_) | PlaceError::Money(_)) => {}
            Err(error) => return Err(error),
        }
    }
    if drafts.is_empty() {
        return Ok(drafts);
    }
    let mut batch = Batch::new(conn);
    let mut units = 0;
    for (at, draft) in &drafts {
        if let Some(wanted) = tickets.get(*at).map(|ticket| &ticket.wanted) {
            draft.write(&mut batch, &wanted.scope, &wanted.origin, &app.settings);
            units += i64::from(wanted.quantity);
        }
    }
    batch.put_events();
    batch.add(db::stock::take_or_fail(conn, product, units));
    batch.commit().await?;
    Ok(drafts)
}

/// The positions of those whose keys are free and for whom enough is left, first come, first served; in the order of their
/// keys, so that two processes that take the same ones never wait for each other in a circle.
fn fitting(available: i64, mut used: HashSet<Key>, tickets: &[Ticket]) -> Vec<usize> {
    let mut left = available;
    let mut fitting: Vec<(Key, usize)> = Vec::new();
    for (at, ticket) in tickets.iter().enumerate() {
        let (key, units) = (ticket.wanted.scope.whole(), i64::from(ticket.wanted.quantity));
        if units <= left && used.insert(key.clone()) {
            left -= units;
            fitting.push((key, at));
        }
    }
    fitting.sort_unstable();
    fitting.into_iter().map(|(_, at)| at).collect()
}
