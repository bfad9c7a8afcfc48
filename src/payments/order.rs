//! Place an order: price it from the catalogue, take its stock, answer. One commit; all of it or nothing.
//!
//! Orders of one product that come together are taken together: see `queue` and `together`.

mod queue;
mod together;

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use self::queue::Way;
use super::claim::{Claim, claim};
use super::view;
use crate::app::App;
use crate::config::Settings;
use crate::db::batch::Batch;
use crate::db::events::{self, NewEvent, Origin, Subject};
use crate::db::idempotency::{self, Response, Scope};
use crate::db::orders::{ItemRow, NewOrder, OrderRow};
use crate::db::products::ProductRow;
use crate::db::{self, Conn, DbError, Look};
use crate::domain::ids::{OrderId, ProductId};
use crate::domain::money::{MINOR_MAX, Money, MoneyError};
use crate::domain::order::{OrderEvent, OrderStatus};
use crate::news::Gate;
use crate::telemetry::facts::{self, Fact};
use crate::telemetry::labels::{ReservationResult, StockMovement, Tx};
use crate::telemetry::propagate::{self, Link};
use crate::telemetry::{record, traces};

/// What the caller wants: no price, that is the catalogue's.
#[derive(Debug, Clone)]
pub struct Place {
    /// Products and units; each product once, units positive.
    pub lines: Vec<(ProductId, i32)>,
    /// The shop's own reference of the customer.
    pub customer_ref: Option<String>,
}

/// The answer to a caller.
#[derive(Debug, Clone)]
pub struct Placed {
    /// 201 and the order's view.
    pub response: Response,
    /// Whether the order was placed before this request.
    pub replayed: bool,
}

/// Why no order was placed. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A product does not exist, or is not sold any more.
    #[error("product {0} is not for sale")]
    UnknownProduct(ProductId),
    /// Less is left than wanted.
    #[error("{available} units of {product} are left")]
    InsufficientStock {
        /// Which product.
        product: ProductId,
        /// Units left.
        available: i64,
        /// Units wanted.
        requested: i32,
    },
    /// Lines of two currencies, or a total that does not fit.
    #[error(transparent)]
    Money(#[from] MoneyError),
    /// The idempotency key was used for something else.
    #[error("the idempotency key was used for another request")]
    KeyMismatch,
    /// The first request with this key is still running.
    #[error("the first request with this key is still running")]
    KeyInFlight,
    /// Too many want the same product.
    #[error("too many orders of this product are waiting")]
    Crowded,
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The answer could not be written as JSON.
    #[error("answer: {0}")]
    Json(#[from] serde_json::Error),
}

enum Stop {
    Replay(Response),
    Refused(PlaceError),
}

impl<E: Into<PlaceError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// Places an order.
pub async fn place(app: &Arc<App>, request: Place, scope: Scope, origin: Origin) -> Result<Placed, PlaceError> {
    if let Some(reference) = &request.customer_ref {
        facts::tell(Fact::Customer(reference));
    }
    if let Some(refusal) = at_the_gate(app, &request, &scope).await {
        return Err(refusal);
    }
    let placed = match queue::enter(app, &request, &scope, &origin).await {
        Ok(Way::Placed(placed)) => Ok(with_others(placed)),
        Ok(Way::Alone(leave)) => {
            // The last unit may have gone meanwhile.
            if leave.has_waited()
                && let Some(refusal) = at_the_gate(app, &request, &scope).await
            {
                return Err(refusal);
            }
            alone(app, &request, &scope, &origin).await
        }
        Err(error) => Err(error.into()),
    };
    match placed {
        Ok((id, response)) => {
            let units = request.lines.iter().map(|(_, quantity)| i64::from(*quantity)).sum::<i64>();
            traces::about_order(&id);
            record::reservation(ReservationResult::Reserved);
            record::stock_movement(StockMovement::Hold, units.unsigned_abs());
            Ok(Placed { response, replayed: false })
        }
        Err(Stop::Replay(response)) => Ok(Placed { response, replayed: true }),
        Err(Stop::Refused(error)) => {
            match &error {
                PlaceError::InsufficientStock { .. } => record::reservation(ReservationResult::Insufficient),
                PlaceError::Db(_) | PlaceError::Crowded => record::reservation(ReservationResult::Error),
                PlaceError::UnknownProduct(_)
                | PlaceError::Money(_)
                | PlaceError::KeyMismatch
                | PlaceError::KeyInFlight
                | PlaceError::Json(_) => {}
            }
            Err(error)
        }
    }
}

/// Tells in the request's own span and line what was done in a transaction that was not its own.
fn with_others(placed: crate::queues::Placed) -> (OrderId, Response) {
    facts::tell(Fact::Order(placed.id));
    facts::tell(Fact::Money(placed.total));
    facts::tell(Fact::Together(placed.orders));
    propagate::link(placed.trace_id.as_deref(), Link::Together);
    (placed.id, placed.response)
}

/// Places an order in a transaction of its own.
async fn alone(app: &App, request: &Place, scope: &Scope, origin: &Origin) -> Result<(OrderId, Response), Stop> {
    let products: Vec<ProductId> = request.lines.iter().map(|(product, _)| *product).collect();
    let look = Before { scope, products: &products };
    let work = app.db.transaction_after(Tx::OrderPlace, look, async |conn, seen| {
        if seen.is_clear(request) {
            at_once(conn, app, request, scope, origin, seen).await
        } else {
            step_by_step(conn, app, request, scope, origin).await
        }
    });
    let mut placed = work.await;
    if let Err(Stop::Refused(PlaceError::Db(DbError::Constraint(_)))) = &placed {
        // Somebody came between the look and the writing; this way tells what is wrong now.
        let work =
            app.db.transaction(Tx::OrderPlace, async |conn| step_by_step(conn, app, request, scope, origin).await);
        placed = work.await;
    }
    if placed.is_ok() {
        record::orders_taken(1);
    }
    placed
}

/// Refuses what is known to be sold out without a transaction. Only of one product: of several, another one might be the
/// reason. A key that was used before has its answer in the database, whatever is left today.
async fn at_the_gate(app: &App, request: &Place, scope: &Scope) -> Option<PlaceError> {
    let &[(product, requested)] = request.lines.as_slice() else { return None };
    if !app.news.gate().is_closed(product, requested) || app.known_keys.may_know(&app.db, scope).await {
        return None;
    }
    facts::tell(Fact::AtTheGate);
    record::reservation(ReservationResult::SoldOut);
    Some(PlaceError::InsufficientStock { product, available: 0, requested })
}

/// What an order looks at before it is written.
struct Before<'a> {
    scope: &'a Scope,
    products: &'a [ProductId],
}

/// What it saw there.
struct Seen {
    key_is_free: bool,
    /// The products with their available units and the database's clock.
    products: Vec<(ProductRow, i64, DateTime<Utc>)>,
}

impl Look for Before<'_> {
    type Seen = Seen;

    async fn look(&self, conn: &Conn) -> Result<Seen, DbError> {
        let (known, products) = futures_util::join!(
            idempotency::find(conn, self.scope),
            db::products::find_with_stock(conn, self.products),
        );
        Ok(Seen { key_is_free: known?.is_none(), products: products? })
    }
}

impl Seen {
    /// Whether nothing seems to be in the way.
    fn is_clear(&self, request: &Place) -> bool {
        let is_there = |(wanted, quantity): &(ProductId, i32)| {
            let found = self.products.iter().find(|(product, ..)| product.id == *wanted);
            found.is_some_and(|(_, available, _)| *available >= i64::from(*quantity))
        };
        self.key_is_free && request.lines.iter().all(is_there)
    }
}

/// Writes everything in one go. What is refused meanwhile undoes all of it.
async fn at_once(
    conn: &Conn,
    app: &App,
    request: &Place,
    scope: &Scope,
    origin: &Origin,
    seen: Seen,
) -> Result<(OrderId, Response), Stop> {
    let now = seen.products.first().map_or_else(crate::clock::now, |(.., now)| *now);
    let products: Vec<ProductRow> = seen.products.into_iter().map(|(product, ..)| product).collect();
    let draft = Draft::new(OrderId::new(), request, &products, origin, now, &app.settings)?;
    let mut batch = Batch::new(conn);
    draft.write(&mut batch, scope, origin, &app.settings);
    batch.put_events();
    for (product, quantity) in in_lock_order(&request.lines) {
        batch.add(db::stock::take_or_fail(conn, product, i64::from(quantity)));
    }
    batch.commit().await.map_err(PlaceError::Db)?;
    Ok((draft.order.id, draft.response))
}

/// An order as it will be stored, with its answer.
struct Draft {
    new: NewOrder,
    items: Vec<ItemRow>,
    order: OrderRow,
    response: Response,
}

impl Draft {
    /// An order at the catalogue's prices, for a transaction that begins at `now`.
    fn new(
        id: OrderId,
        request: &Place,
        products: &[ProductRow],
        origin: &Origin,
        now: DateTime<Utc>,
        settings: &Settings,
    ) -> Result<Self, PlaceError> {
        let (new, items) = priced(id, request, products, origin)?;
        let order = new.row(now, settings.hold);
        let response = view::stored(201, &view::order(&order, &items, None))?;
        Ok(Self { new, items, order, response })
    }

    /// Adds everything but the stock.
    fn write<'c>(&'c self, batch: &mut Batch<'c>, scope: &'c Scope, origin: &'c Origin, settings: &Settings) {
        let (conn, id) = (batch.conn(), self.order.id);
        let (lease, keep) = (settings.idempotency_lease, settings.idempotency_keep);
        batch.add(idempotency::claim_answered(conn, scope, id.uuid(), &self.response, lease, keep));
        batch.add(db::orders::write(conn, self.new.clone(), settings.hold));
        for item in &self.items {
            batch.add(db::orders::write_item(conn, item.clone()));
        }
        let (subject, detail) = placed_event(&self.order, &self.items);
        batch.event(NewEvent::new(id, self.order.version, subject, origin, detail));
    }
}

/// Writes one thing after the other, each after a look at what became of the one before.
async fn step_by_step(
    conn: &Conn,
    app: &App,
    request: &Place,
    scope: &Scope,
    origin: &Origin,
) -> Result<(OrderId, Response), Stop> {
    let id = OrderId::new();
    match claim(conn, scope, id.uuid(), &app.settings).await? {
        Claim::Fresh => {}
        Claim::Done(response) => return Err(Stop::Replay(response)),
        Claim::Mismatch => return Err(PlaceError::KeyMismatch.into()),
        Claim::InFlight | Claim::Unresolved(_) => return Err(PlaceError::KeyInFlight.into()),
    }
    let ids: Vec<ProductId> = request.lines.iter().map(|(product, _)| *product).collect();
    let products = db::products::find_all(conn, &ids).await?;
    let (new, items) = priced(id, request, &products, origin)?;
    let order = db::orders::insert(conn, new, app.settings.hold).await?;
    db::orders::insert_items(conn, items.clone()).await?;
    let (subject, detail) = placed_event(&order, &items);
    events::append(conn, id, order.version, subject, origin, detail).await?;
    let response = view::stored(201, &view::order(&order, &items, None))?;
    idempotency::answer(conn, id.uuid(), &response).await?;
    take_stock(conn, app.news.gate(), &request.lines).await?;
    Ok((id, response))
}

/// The order and its lines at the catalogue's prices.
fn priced(
    id: OrderId,
    request: &Place,
    products: &[ProductRow],
    origin: &Origin,
) -> Result<(NewOrder, Vec<ItemRow>), PlaceError> {
    let (items, total) = price(id, &request.lines, products)?;
    let new = NewOrder {
        id,
        status: OrderStatus::Pending,
        amount: total.minor,
        currency: total.currency,
        name: name(&items),
        customer_ref: request.customer_ref.clone(),
        trace_id: origin.trace_id.clone(),
    };
    facts::tell(Fact::Order(id));
    facts::tell(Fact::Money(total));
    Ok((new, items))
}

fn placed_event(order: &OrderRow, items: &[ItemRow]) -> (Subject, Value) {
    let subject = Subject::Order { event: OrderEvent::Placed, from: None, to: OrderStatus::Pending };
    (subject, json!({ "amount": order.amount, "lines": items.len() }))
}

/// Takes each line's stock, in product order: the last thing the transaction does, so that a wanted row is held
/// shortly and two orders never wait for each other.
async fn take_stock(conn: &Conn, gate: &Gate, lines: &[(ProductId, i32)]) -> Result<(), PlaceError> {
    for (product, requested) in in_lock_order(lines) {
        if !db::stock::take(conn, product, i64::from(requested)).await? {
            let seen_at = Instant::now();
            let available = db::stock::available(conn, product).await?.unwrap_or(0);
            if available == 0 {
                gate.close(product, requested, seen_at);
            }
            return Err(PlaceError::InsufficientStock { product, available, requested });
        }
    }
    Ok(())
}

fn in_lock_order(lines: &[(ProductId, i32)]) -> Vec<(ProductId, i32)> {
    let mut lines = lines.to_vec();
    lines.sort_unstable();
    lines
}

fn price(
    order_id: OrderId,
    lines: &[(ProductId, i32)],
    products: &[ProductRow],
) -> Result<(Vec<ItemRow>, Money), PlaceError> {
    let mut items = Vec::with_capacity(lines.len());
    let mut total: Option<Money> = None;
    for (number, &(product_id, quantity)) in (1..).zip(lines) {
        let product = products
            .iter()
            .find(|product| product.id == product_id && product.active)
            .ok_or(PlaceError::UnknownProduct(product_id))?;
        let cost = Money::new(product.price, product.currency).checked_mul(quantity)?;
        total = Some(total.map_or(Ok(cost), |sum| sum.checked_add(cost))?);
        items.push(ItemRow {
            order_id,
            line: number,
            product_id,
            name: product.name.clone(),
            quantity,
            unit_price: product.price,
            canceled_quantity: 0,
            canceling_quantity: 0,
        });
    }
    let total = total.filter(|total| total.minor <= MINOR_MAX).ok_or(MoneyError::Overflow)?;
    Ok((items, total))
}

/// What the PG's window shows: the first product, and how many more; at most 100 characters.
fn name(items: &[ItemRow]) -> String {
    let first: String = items.first().map_or_else(String::new, |item| item.name.chars().take(80).collect());
    match items.len() {
        0 | 1 => first,
        count => format!("{first} and {} more", count - 1),
    }
}
