//! The catalogue and its stock: create, change, restock, correct.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::App;
use crate::clock;
use crate::db::products::{ProductChange, ProductRow};
use crate::db::stock::AdjustmentRow;
use crate::db::{self, DbError};
use crate::domain::ids::ProductId;
use crate::domain::money::Money;
use crate::domain::vocabulary;
use crate::telemetry::labels::{StockMovement, Tx};
use crate::telemetry::record;

vocabulary! {
    /// Why stock changes without an order.
    pub enum AdjustmentKind {
        /// The stock a product starts with.
        Initial => "initial",
        /// New units arrived.
        Restock => "restock",
        /// Counted again: more or fewer than believed.
        Correction => "correction",
    }
}

/// A product.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Product)]
pub struct ProductView {
    /// `prod_…`
    #[schema(value_type = String, example = "prod_0193a1b2c3d47e5f8a9b0c1d2e3f4a5e")]
    pub id: ProductId,
    /// 1–100 characters.
    #[schema(example = "Coffee beans 500 g")]
    pub name: String,
    /// Minor units (won).
    #[schema(example = 12000)]
    pub price: i64,
    /// ISO 4217.
    #[schema(example = "KRW")]
    pub currency: &'static str,
    /// Whether it can be ordered.
    pub active: bool,
    /// Units that can be ordered now.
    #[schema(example = 20)]
    pub available: i64,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

/// A change of stock that no order explains.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StockAdjustment)]
pub struct AdjustmentView {
    /// Its id.
    pub id: Uuid,
    /// Which product.
    #[schema(value_type = String)]
    pub product_id: ProductId,
    /// Units added, or taken away.
    #[schema(example = 50)]
    pub delta: i64,
    /// `initial`, `restock` or `correction`.
    #[schema(example = "restock")]
    pub kind: String,
    /// Why.
    #[schema(example = "delivery 2026-11")]
    pub reason: String,
    /// Units available afterwards.
    pub available: i64,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// A product to create.
#[derive(Debug, Clone)]
pub struct NewProduct {
    /// 1–100 characters.
    pub name: String,
    /// Positive.
    pub price: Money,
    /// Units to start with.
    pub initial_stock: i64,
}

/// A change of stock.
#[derive(Debug, Clone)]
pub struct Adjust {
    /// Which product.
    pub product: ProductId,
    /// Units to add, or to take away.
    pub delta: i64,
    /// Why, as a kind.
    pub kind: AdjustmentKind,
    /// Why, in words; 1–200 characters.
    pub reason: String,
}

/// Why the catalogue was not changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// No such product.
    #[error("no such product")]
    ProductNotFound,
    /// The correction takes more than is available.
    #[error("{available} units are available")]
    StockBelowZero {
        /// Units available.
        available: i64,
    },
    /// The stock would not fit 64 bits.
    #[error("the stock is too large")]
    StockTooLarge,
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Who does it, and in which trace.
#[derive(Debug, Clone)]
pub struct Actor {
    /// A key's id, or `system`.
    pub name: String,
    /// The request's trace.
    pub trace_id: Option<String>,
}

/// Creates a product with its first stock.
pub async fn create(app: &App, new: NewProduct, actor: &Actor) -> Result<ProductView, CatalogueError> {
    let now = clock::now();
    let row = ProductRow {
        id: ProductId::new(),
        name: new.name,
        price: new.price.minor,
        currency: new.price.currency,
        active: true,
        created_at: now,
        updated_at: now,
    };
    let view = product(&row, new.initial_stock);
    app.db
        .transaction(Tx::Catalogue, async |conn| {
            let id = row.id;
            db::products::insert(conn, row).await?;
            let start = Adjust {
                product: id,
                delta: new.initial_stock,
                kind: AdjustmentKind::Initial,
                reason: "initial stock".to_owned(),
            };
            write_adjustment(conn, &start, actor).await
        })
        .await?;
    app.cache.forget().await;
    Ok(view)
}

/// Changes name, price or activity. Orders keep the price they were placed at.
pub async fn change(app: &App, id: ProductId, change: ProductChange) -> Result<ProductView, CatalogueError> {
    let changed = app
        .db
        .transaction(Tx::Catalogue, async |conn| {
            if !db::products::change(conn, id, change).await? {
                return Err(CatalogueError::ProductNotFound);
            }
            let found = db::products::find(conn, id).await?;
            found.map(|(row, available)| product(&row, available)).ok_or(CatalogueError::ProductNotFound)
        })
        .await?;
    app.cache.forget().await;
    Ok(changed)
}

/// One product.
pub async fn find(app: &App, id: ProductId) -> Result<ProductView, CatalogueError> {
    let found = app.db.read(async |conn| db::products::find(conn, id).await).await?;
    found.map(|(row, available)| product(&row, available)).ok_or(CatalogueError::ProductNotFound)
}

/// A page of products, oldest first.
pub async fn list(app: &App, after: Option<ProductId>, limit_rows: i64) -> Result<Vec<ProductView>, CatalogueError> {
    let rows = app.db.read(async |conn| db::products::list(conn, after, limit_rows).await).await?;
    Ok(rows.iter().map(|(row, available)| product(row, *available)).collect())
}

/// Restocks or corrects.
pub async fn adjust(app: &App, adjust: Adjust, actor: &Actor) -> Result<AdjustmentView, CatalogueError> {
    let done = app.db.transaction(Tx::Catalogue, async |conn| write_adjustment(conn, &adjust, actor).await).await;
    match done {
        Ok(view) => {
            let movement = match adjust.kind {
                AdjustmentKind::Initial | AdjustmentKind::Restock => StockMovement::Restock,
                AdjustmentKind::Correction => StockMovement::Correction,
            };
            record::stock_movement(movement, adjust.delta.unsigned_abs());
            app.cache.forget().await;
            Ok(view)
        }
        Err(CatalogueError::Db(error)) if error.is_constraint("stock_never_negative") => {
            let available =
                app.db.read(async |conn| db::stock::available(conn, adjust.product).await).await?.unwrap_or(0);
            Err(CatalogueError::StockBelowZero { available })
        }
        Err(CatalogueError::Db(DbError::OutOfRange)) => Err(CatalogueError::StockTooLarge),
        Err(error) => Err(error),
    }
}

async fn write_adjustment(
    conn: &mut db::Conn,
    adjust: &Adjust,
    actor: &Actor,
) -> Result<AdjustmentView, CatalogueError> {
    let after = db::stock::shift(conn, adjust.product, adjust.delta).await?;
    let available_after = after.ok_or(CatalogueError::ProductNotFound)?;
    let row = AdjustmentRow {
        id: Uuid::now_v7(),
        product_id: adjust.product,
        delta: adjust.delta,
        kind: adjust.kind.as_str().to_owned(),
        reason: adjust.reason.clone(),
        actor: actor.name.clone(),
        available_after,
        trace_id: actor.trace_id.clone(),
        created_at: clock::now(),
    };
    let view = adjustment(&row);
    db::stock::record_adjustment(conn, row).await?;
    Ok(view)
}

/// A product's adjustments, newest first.
pub async fn adjustments(
    app: &App,
    product: ProductId,
    before: Option<Uuid>,
    limit_rows: i64,
) -> Result<Vec<AdjustmentView>, CatalogueError> {
    let rows = app
        .db
        .read(async |conn| {
            db::products::find(conn, product).await?.ok_or(CatalogueError::ProductNotFound)?;
            Ok::<_, CatalogueError>(db::stock::list_adjustments(conn, product, before, limit_rows).await?)
        })
        .await?;
    Ok(rows.iter().map(adjustment).collect())
}

fn product(row: &ProductRow, available: i64) -> ProductView {
    ProductView {
        id: row.id,
        name: row.name.clone(),
        price: row.price,
        currency: row.currency.code(),
        active: row.active,
        available,
        created_at: row.created_at,
    }
}

fn adjustment(row: &AdjustmentRow) -> AdjustmentView {
    AdjustmentView {
        id: row.id,
        product_id: row.product_id,
        delta: row.delta,
        kind: row.kind.clone(),
        reason: row.reason.clone(),
        available: row.available_after,
        created_at: row.created_at,
    }
}
