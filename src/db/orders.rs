//! Orders and their lines.

use chrono::{DateTime, Utc};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel::sql_types::Timestamptz;
use diesel_async::RunQueryDsl;

use super::locks::{self, Rank};
use super::prepared::Prepare as _;
use super::schema::{order_items, orders, payments};
use super::{Conn, DbError};
use crate::domain::ids::{OrderId, PaymentId, ProductId};
use crate::domain::money::{Currency, Money};
use crate::domain::order::OrderStatus;
use crate::domain::stock::LineQuantity;

/// An order as stored.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = orders, check_for_backend(diesel::pg::Pg))]
pub struct OrderRow {
    /// Its id.
    pub id: OrderId,
    /// Where it stands.
    pub status: OrderStatus,
    /// Minor units; never changes.
    pub amount: i64,
    /// Of `amount`.
    pub currency: Currency,
    /// What the PG shows the buyer.
    pub name: String,
    /// The shop's own reference of the customer.
    pub customer_ref: Option<String>,
    /// Until when the stock is held unpaid.
    pub hold_expires_at: DateTime<Utc>,
    /// When a cancel was asked for while the outcome was open.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// The reason given with it.
    pub cancel_reason: Option<String>,
    /// The trace of the request that placed it.
    pub trace_id: Option<String>,
    /// Grows with each event; equals the newest event's `seq`.
    pub version: i32,
    /// When it was placed.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

impl OrderRow {
    /// What it costs.
    #[must_use]
    pub const fn total(&self) -> Money {
        Money::new(self.amount, self.currency)
    }
}

/// A line as stored.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = order_items, check_for_backend(diesel::pg::Pg))]
pub struct ItemRow {
    /// Its order.
    pub order_id: OrderId,
    /// From 1.
    pub line: i32,
    /// What was ordered.
    pub product_id: ProductId,
    /// Its name at that time.
    pub name: String,
    /// Units.
    pub quantity: i32,
    /// Minor units each, at that time.
    pub unit_price: i64,
    /// Units given back.
    pub canceled_quantity: i32,
    /// Units that an undecided cancellation wants to give back.
    pub canceling_quantity: i32,
}

/// A new order, pending from the start.
#[derive(Debug, Clone, Insertable)]
#[diesel(table_name = orders)]
pub struct NewOrder {
    /// Its id.
    pub id: OrderId,
    /// Always pending.
    pub status: OrderStatus,
    /// Minor units.
    pub amount: i64,
    /// Of `amount`.
    pub currency: Currency,
    /// What the PG shows the buyer.
    pub name: String,
    /// The shop's reference of the customer.
    pub customer_ref: Option<String>,
    /// The trace that placed it.
    pub trace_id: Option<String>,
}

impl NewOrder {
    /// The row as it will be when it is stored by a transaction that begins at `began_at`, by the database's clock.
    #[must_use]
    pub fn row(&self, began_at: DateTime<Utc>, hold: std::time::Duration) -> OrderRow {
        OrderRow {
            id: self.id,
            status: self.status,
            amount: self.amount,
            currency: self.currency,
            name: self.name.clone(),
            customer_ref: self.customer_ref.clone(),
            hold_expires_at: began_at + hold,
            cancel_requested_at: None,
            cancel_reason: None,
            trace_id: self.trace_id.clone(),
            version: 1,
            created_at: began_at,
            updated_at: began_at,
        }
    }
}

/// Stores an order whose row is known beforehand, see [`NewOrder::row`].
pub async fn write(conn: &Conn, order: NewOrder, hold: std::time::Duration) -> Result<(), DbError> {
    diesel::insert_into(orders::table)
        .values((order, orders::hold_expires_at.eq(super::later(hold))))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Stores a line.
pub async fn write_item(conn: &Conn, item: ItemRow) -> Result<(), DbError> {
    diesel::insert_into(order_items::table).values(item).prepared().execute(&mut &*conn).await?;
    Ok(())
}

/// Stores an order whose hold lasts for `hold` by the database's clock.
pub async fn insert(conn: &Conn, order: NewOrder, hold: std::time::Duration) -> Result<OrderRow, DbError> {
    let row = diesel::insert_into(orders::table)
        .values((order, orders::hold_expires_at.eq(super::later(hold))))
        .returning(OrderRow::as_returning())
        .prepared()
        .get_result(&mut &*conn)
        .await?;
    Ok(row)
}

/// Stores the lines.
pub async fn insert_items(conn: &Conn, items: Vec<ItemRow>) -> Result<(), DbError> {
    diesel::insert_into(order_items::table).values(items).execute(&mut &*conn).await?;
    Ok(())
}

/// The order, without locking it.
pub async fn find(conn: &Conn, id: OrderId) -> Result<Option<OrderRow>, DbError> {
    Ok(orders::table.find(id).select(OrderRow::as_select()).first(&mut &*conn).await.optional()?)
}

/// The order, locked until the transaction ends; with whether its hold is alive by the database's clock.
pub async fn lock(conn: &Conn, id: OrderId) -> Result<Option<(OrderRow, bool)>, DbError> {
    Ok(lock_at(conn, id).await?.map(|(order, hold_alive, _)| (order, hold_alive)))
}

/// The same, with the database's clock: it stands still while a transaction runs.
pub async fn lock_at(conn: &Conn, id: OrderId) -> Result<Option<(OrderRow, bool, DateTime<Utc>)>, DbError> {
    locks::takes(Rank::Order, id.uuid());
    let row = orders::table
        .find(id)
        .select((OrderRow::as_select(), orders::hold_expires_at.gt(now), now.into_sql::<Timestamptz>()))
        .for_update()
        .first(&mut &*conn)
        .await
        .optional()?;
    Ok(row)
}

/// The order if it can be paid now with exactly this total, locked until the transaction ends, and the database's clock.
/// An order that cannot is not waited for.
pub async fn lock_payable(
    conn: &Conn,
    id: OrderId,
    total: Money,
) -> Result<Option<(OrderRow, DateTime<Utc>)>, DbError> {
    locks::takes(Rank::Order, id.uuid());
    let row = orders::table
        .find(id)
        .filter(orders::status.eq(OrderStatus::Pending))
        .filter(orders::hold_expires_at.gt(now))
        .filter(orders::amount.eq(total.minor))
        .filter(orders::currency.eq(total.currency))
        .select((OrderRow::as_select(), now.into_sql::<Timestamptz>()))
        .for_update()
        .first(&mut &*conn)
        .await
        .optional()?;
    Ok(row)
}

/// The order of a payment, locked until the transaction ends, and the database's clock.
pub async fn lock_of_payment(conn: &Conn, payment: PaymentId) -> Result<Option<(OrderRow, DateTime<Utc>)>, DbError> {
    locks::takes_first(Rank::Order);
    let row: Option<(OrderRow, DateTime<Utc>)> = orders::table
        .filter(orders::id.eq_any(payments::table.find(payment).select(payments::order_id)))
        .select((OrderRow::as_select(), now.into_sql::<Timestamptz>()))
        .for_update()
        .first(&mut &*conn)
        .await
        .optional()?;
    locks::took_free(Rank::Order, row.iter().map(|(order, _)| order.id.uuid()));
    Ok(row)
}

/// The lines of a payment's order, in line order.
pub async fn items_of_payment(conn: &Conn, payment: PaymentId) -> Result<Vec<ItemRow>, DbError> {
    let rows = order_items::table
        .filter(order_items::order_id.eq_any(payments::table.find(payment).select(payments::order_id)))
        .select(ItemRow::as_select())
        .order(order_items::line)
        .load(&mut &*conn)
        .await?;
    Ok(rows)
}

/// The lines, in line order.
pub async fn items(conn: &Conn, id: OrderId) -> Result<Vec<ItemRow>, DbError> {
    let rows = order_items::table
        .filter(order_items::order_id.eq(id))
        .select(ItemRow::as_select())
        .order(order_items::line)
        .load(&mut &*conn)
        .await?;
    Ok(rows)
}

/// The lines of several orders.
pub async fn items_of(conn: &Conn, ids: &[OrderId]) -> Result<Vec<ItemRow>, DbError> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let rows = order_items::table
        .filter(order_items::order_id.eq_any(ids))
        .select(ItemRow::as_select())
        .order((order_items::order_id, order_items::line))
        .load(&mut &*conn)
        .await?;
    Ok(rows)
}

/// `pending → confirming`, only while the hold is alive and the total is the one asked for. Expiry runs the same
/// kind of statement on the same row, so exactly one of the two wins.
pub async fn freeze_hold(conn: &Conn, id: OrderId, total: Money) -> Result<Option<OrderRow>, DbError> {
    locks::takes(Rank::Order, id.uuid());
    let row = diesel::update(orders::table.find(id))
        .filter(orders::status.eq(OrderStatus::Pending))
        .filter(orders::hold_expires_at.gt(now))
        .filter(orders::amount.eq(total.minor))
        .filter(orders::currency.eq(total.currency))
        .set((
            orders::status.eq(OrderStatus::Confirming),
            orders::version.eq(orders::version + 1),
            orders::updated_at.eq(now),
        ))
        .returning(OrderRow::as_returning())
        .prepared()
        .get_result(&mut &*conn)
        .await
        .optional()?;
    Ok(row)
}

/// Moves a locked order to `status`; returns its new version.
pub async fn set_status(conn: &Conn, id: OrderId, status: OrderStatus) -> Result<i32, DbError> {
    locks::takes(Rank::Order, id.uuid());
    let version = diesel::update(orders::table.find(id))
        .set((orders::status.eq(status), orders::version.eq(orders::version + 1), orders::updated_at.eq(now)))
        .returning(orders::version)
        .prepared()
        .get_result(&mut &*conn)
        .await?;
    Ok(version)
}

/// Remembers that a cancel was asked for; returns the new version.
pub async fn remember_cancel(conn: &Conn, id: OrderId, reason: &str) -> Result<i32, DbError> {
    locks::takes(Rank::Order, id.uuid());
    let version = diesel::update(orders::table.find(id))
        .set((
            orders::cancel_requested_at.eq(now),
            orders::cancel_reason.eq(reason),
            orders::version.eq(orders::version + 1),
            orders::updated_at.eq(now),
        ))
        .returning(orders::version)
        .prepared()
        .get_result(&mut &*conn)
        .await?;
    Ok(version)
}

/// Expires up to `limit_rows` pending orders whose hold is over, skipping those somebody else has in hand.
pub async fn expire_due(conn: &Conn, limit_rows: i64) -> Result<Vec<OrderRow>, DbError> {
    let due: Vec<OrderId> = orders::table
        .filter(orders::status.eq(OrderStatus::Pending))
        .filter(orders::hold_expires_at.le(now))
        .select(orders::id)
        .order(orders::hold_expires_at)
        .limit(limit_rows)
        .for_update()
        .skip_locked()
        .load(&mut &*conn)
        .await?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<uuid::Uuid> = due.iter().map(|id| id.uuid()).collect();
    locks::took_free(Rank::Order, ids.iter().copied());
    let rows = diesel::update(orders::table.filter(orders::id.eq_any(ids)))
        .filter(orders::status.eq(OrderStatus::Pending))
        .set((
            orders::status.eq(OrderStatus::Expired),
            orders::version.eq(orders::version + 1),
            orders::updated_at.eq(now),
        ))
        .returning(OrderRow::as_returning())
        .prepared()
        .get_results(&mut &*conn)
        .await?;
    Ok(rows)
}

/// Takes capacity of lines for an undecided cancellation; `false` if a line has less left.
pub async fn take_line_capacity(conn: &Conn, id: OrderId, units: &[LineQuantity]) -> Result<bool, DbError> {
    locks::belongs_to(Rank::Order, id.uuid());
    for unit in units {
        let taken = diesel::update(order_items::table.find((id, unit.line)))
            .filter(
                (order_items::canceled_quantity + order_items::canceling_quantity + unit.quantity)
                    .le(order_items::quantity),
            )
            .set(order_items::canceling_quantity.eq(order_items::canceling_quantity + unit.quantity))
            .prepared()
            .execute(&mut &*conn)
            .await?;
        if taken != 1 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes capacity of one line that is known to have it; `order_items_capacity` refuses otherwise.
pub async fn take_unit_capacity(conn: &Conn, id: OrderId, unit: LineQuantity) -> Result<(), DbError> {
    locks::belongs_to(Rank::Order, id.uuid());
    diesel::update(order_items::table.find((id, unit.line)))
        .set(order_items::canceling_quantity.eq(order_items::canceling_quantity + unit.quantity))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// What a cancellation's units become once it is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineOutcome {
    /// They count as canceled.
    Canceled,
    /// They can be canceled again.
    Released,
}

/// Ends the capacity that a cancellation had taken.
pub async fn settle_line_capacity(
    conn: &Conn,
    id: OrderId,
    units: &[LineQuantity],
    outcome: LineOutcome,
) -> Result<(), DbError> {
    for unit in units {
        settle_unit_capacity(conn, id, *unit, outcome).await?;
    }
    Ok(())
}

/// The same of one line.
pub async fn settle_unit_capacity(
    conn: &Conn,
    id: OrderId,
    unit: LineQuantity,
    outcome: LineOutcome,
) -> Result<(), DbError> {
    locks::belongs_to(Rank::Order, id.uuid());
    let canceled = match outcome {
        LineOutcome::Canceled => unit.quantity,
        LineOutcome::Released => 0,
    };
    diesel::update(order_items::table.find((id, unit.line)))
        .set((
            order_items::canceling_quantity.eq(order_items::canceling_quantity - unit.quantity),
            order_items::canceled_quantity.eq(order_items::canceled_quantity + canceled),
        ))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Where these orders stand.
pub async fn statuses(conn: &Conn, ids: &[OrderId]) -> Result<Vec<(OrderId, OrderStatus)>, DbError> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.uuid()).collect();
    Ok(orders::table.filter(orders::id.eq_any(ids)).select((orders::id, orders::status)).load(&mut &*conn).await?)
}

/// Which orders to list. Times are bounds on when the order was placed.
#[derive(Debug, Clone, Copy, Default)]
pub struct OrderFilter {
    /// Only this status.
    pub status: Option<OrderStatus>,
    /// Placed at or after.
    pub from: Option<DateTime<Utc>>,
    /// Placed before.
    pub to: Option<DateTime<Utc>>,
    /// Older than this order.
    pub after: Option<OrderId>,
}

/// A page of orders, newest first.
pub async fn list(conn: &Conn, filter: OrderFilter, limit_rows: i64) -> Result<Vec<OrderRow>, DbError> {
    let mut query = orders::table.select(OrderRow::as_select()).order(orders::id.desc()).limit(limit_rows).into_boxed();
    if let Some(status) = filter.status {
        query = query.filter(orders::status.eq(status));
    }
    if let Some(from) = filter.from {
        query = query.filter(orders::id.ge(super::first_id_at(from))).filter(orders::created_at.ge(from));
    }
    if let Some(to) = filter.to {
        query = query.filter(orders::id.lt(super::first_id_at(to)));
    }
    if let Some(after) = filter.after {
        query = query.filter(orders::id.lt(after));
    }
    Ok(query.load(&mut &*conn).await?)
}
