//! Stock rows. They are locked last and shortest, in product order.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::locks::{self, Rank};
use super::prepared::Prepare as _;
use super::schema::{stock, stock_adjustments};
use super::told::{self, Fact};
use super::{Conn, DbError};
use crate::domain::ids::ProductId;
use crate::news::Item;

/// Takes `quantity` units if that many are left; `false` if not. The one statement that prevents overselling.
pub async fn take(conn: &Conn, product: ProductId, quantity: i64) -> Result<bool, DbError> {
    locks::takes(Rank::Stock, product.uuid());
    let taken = diesel::update(stock::table.find(product))
        .filter(stock::available.ge(quantity))
        .set(stock::available.eq(stock::available - quantity))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(taken == 1)
}

/// Takes `quantity` units; if fewer are left, `stock_never_negative` refuses it, and with it the transaction.
pub async fn take_or_fail(conn: &Conn, product: ProductId, quantity: i64) -> Result<(), DbError> {
    locks::takes(Rank::Stock, product.uuid());
    diesel::update(stock::table.find(product))
        .set(stock::available.eq(stock::available - quantity))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Gives units back, each product in its own statement, in product order.
pub async fn give_back(conn: &Conn, mut units: Vec<(ProductId, i64)>) -> Result<(), DbError> {
    units.sort_unstable();
    for (product, quantity) in units {
        give(conn, product, quantity).await?;
    }
    Ok(())
}

/// Gives units of one product back.
pub async fn give(conn: &Conn, product: ProductId, quantity: i64) -> Result<(), DbError> {
    locks::takes(Rank::Stock, product.uuid());
    diesel::update(stock::table.find(product))
        .set(stock::available.eq(stock::available + quantity))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    told::once_committed(Fact::News(Item::Product(product)));
    Ok(())
}

/// Units that can be sold now.
pub async fn available(conn: &Conn, product: ProductId) -> Result<Option<i64>, DbError> {
    Ok(stock::table.find(product).select(stock::available).first(&mut &*conn).await.optional()?)
}

/// A change of stock that no order explains.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = stock_adjustments, check_for_backend(diesel::pg::Pg))]
pub struct AdjustmentRow {
    /// Its id.
    pub id: Uuid,
    /// Which product.
    pub product_id: ProductId,
    /// Units added (positive) or taken away.
    pub delta: i64,
    /// `initial`, `restock` or `correction`.
    pub kind: String,
    /// Why, in the shop's words.
    pub reason: String,
    /// Who: a key's id, or `system`.
    pub actor: String,
    /// Units available afterwards.
    pub available_after: i64,
    /// The request's trace.
    pub trace_id: Option<String>,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// Moves `available` by `delta`; `None` if there is no such product. Below zero the constraint refuses.
pub async fn shift(conn: &Conn, product: ProductId, delta: i64) -> Result<Option<i64>, DbError> {
    locks::takes(Rank::Stock, product.uuid());
    let after = diesel::update(stock::table.find(product))
        .set(stock::available.eq(stock::available + delta))
        .returning(stock::available)
        .prepared()
        .get_result(&mut &*conn)
        .await
        .optional()?;
    told::once_committed(Fact::News(Item::Product(product)));
    Ok(after)
}

/// Appends the record of an adjustment.
pub async fn record_adjustment(conn: &Conn, adjustment: AdjustmentRow) -> Result<(), DbError> {
    diesel::insert_into(stock_adjustments::table).values(adjustment).execute(&mut &*conn).await?;
    Ok(())
}

/// A product's adjustments, newest first, before `before`.
pub async fn list_adjustments(
    conn: &Conn,
    product: ProductId,
    before: Option<Uuid>,
    limit_rows: i64,
) -> Result<Vec<AdjustmentRow>, DbError> {
    let mut query = stock_adjustments::table
        .filter(stock_adjustments::product_id.eq(product))
        .select(AdjustmentRow::as_select())
        .order(stock_adjustments::id.desc())
        .limit(limit_rows)
        .into_boxed();
    if let Some(before) = before {
        query = query.filter(stock_adjustments::id.lt(before));
    }
    Ok(query.load(&mut &*conn).await?)
}
