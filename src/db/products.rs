//! The catalogue.

use chrono::{DateTime, Utc};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel::sql_types::Timestamptz;
use diesel_async::RunQueryDsl;

use super::locks::{self, Rank};
use super::prepared::Prepare as _;
use super::schema::{products, stock};
use super::told::{self, Fact};
use super::{Conn, DbError};
use crate::domain::ids::ProductId;
use crate::domain::money::Currency;
use crate::news::Item;

/// A product as stored.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = products, check_for_backend(diesel::pg::Pg))]
pub struct ProductRow {
    /// Its id.
    pub id: ProductId,
    /// 1–100 characters.
    pub name: String,
    /// Minor units, positive.
    pub price: i64,
    /// Of `price`.
    pub currency: Currency,
    /// Whether it can be ordered.
    pub active: bool,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// What a change leaves alone is `None`.
#[derive(Debug, Clone, Default, AsChangeset)]
#[diesel(table_name = products)]
pub struct ProductChange {
    /// New name.
    pub name: Option<String>,
    /// New price in minor units.
    pub price: Option<i64>,
    /// New activity.
    pub active: Option<bool>,
}

/// Stores a product and its empty stock row.
pub async fn insert(conn: &Conn, product: ProductRow) -> Result<(), DbError> {
    let id = product.id;
    diesel::insert_into(products::table).values(product).execute(&mut &*conn).await?;
    diesel::insert_into(stock::table)
        .values((stock::product_id.eq(id), stock::available.eq(0)))
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Applies a change; `false` if there is no such product.
pub async fn change(conn: &Conn, id: ProductId, change: ProductChange) -> Result<bool, DbError> {
    locks::takes(Rank::Product, id.uuid());
    let changed = diesel::update(products::table.find(id))
        .set((change, products::updated_at.eq(now)))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    told::once_committed(Fact::News(Item::Product(id)));
    Ok(changed == 1)
}

/// One product with its available units.
pub async fn find(conn: &Conn, id: ProductId) -> Result<Option<(ProductRow, i64)>, DbError> {
    let found = products::table
        .find(id)
        .inner_join(stock::table.on(stock::product_id.eq(products::id)))
        .select((ProductRow::as_select(), stock::available))
        .first(&mut &*conn)
        .await
        .optional()?;
    Ok(found)
}

/// The products with these ids, in no order.
pub async fn find_all(conn: &Conn, ids: &[ProductId]) -> Result<Vec<ProductRow>, DbError> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.uuid()).collect();
    Ok(products::table.filter(products::id.eq_any(ids)).select(ProductRow::as_select()).load(&mut &*conn).await?)
}

/// The products with these ids and their available units, in no order; each with the database's clock.
pub async fn find_with_stock(conn: &Conn, ids: &[ProductId]) -> Result<Vec<(ProductRow, i64, DateTime<Utc>)>, DbError> {
    let query = products::table
        .inner_join(stock::table.on(stock::product_id.eq(products::id)))
        .select((ProductRow::as_select(), stock::available, now.into_sql::<Timestamptz>()))
        .into_boxed();
    let query = match ids {
        // Of a list the server does not know how long it will be, so it plans each time.
        [one] => query.filter(products::id.eq(*one)),
        many => query.filter(products::id.eq_any(many.iter().map(|id| id.uuid()).collect::<Vec<_>>())),
    };
    Ok(query.load(&mut &*conn).await?)
}

/// A page of the catalogue, oldest first, after `after`.
pub async fn list(conn: &Conn, after: Option<ProductId>, limit_rows: i64) -> Result<Vec<(ProductRow, i64)>, DbError> {
    let mut query = products::table
        .inner_join(stock::table.on(stock::product_id.eq(products::id)))
        .select((ProductRow::as_select(), stock::available))
        .order(products::id.asc())
        .limit(limit_rows)
        .into_boxed();
    if let Some(after) = after {
        query = query.filter(products::id.gt(after));
    }
    Ok(query.load(&mut &*conn).await?)
}
