//! The catalogue and its stock: list, read, create, change, restock, correct.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;
use uuid::Uuid;

use super::AppState;
use super::auth::{Caller, Shop, ShopFront};
use super::extract::{Id, Json, Params};
use super::numbers;
use super::problem::Problem;
use super::rules::{self, Page};
use super::verb;
use crate::db::products::ProductChange;
use crate::domain::ids::ProductId;
use crate::domain::money::Money;
use crate::payments::catalogue::{
    self, Adjust, AdjustmentKind, AdjustmentView, CatalogueError, NewProduct, ProductView,
};

const NAME_CHARS_MAX: usize = 100;
const PRICE_MAX: i64 = 1_000_000_000_000;
const UNITS_MAX: i64 = 1_000_000_000;
const REASON_CHARS_MAX: usize = 200;

/// A product to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateProduct {
    /// 1 to 100 characters.
    #[schema(
        example = "Coffee beans 500 g",
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    name: String,
    /// Minor units (won), 1 to 1000000000000.
    #[schema(example = 12000, minimum = 1, maximum = 1_000_000_000_000_i64)]
    #[serde(deserialize_with = "numbers::whole")]
    price: i64,
    /// ISO 4217; KRW if not given.
    #[schema(example = "KRW", pattern = "^(KRW|USD|EUR|JPY|GBP|CNY|HKD|TWD|SGD|AUD|CAD|CHF|THB|VND|KWD)$")]
    currency: Option<String>,
    /// Units to start with; 0 if not given.
    #[schema(example = 20, minimum = 0, maximum = 1_000_000_000)]
    #[serde(default, deserialize_with = "numbers::whole_or_null")]
    initial_stock: Option<i64>,
}

/// What to change, at least one thing; what is not given stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(min_properties = 1)]
pub struct ChangeProduct {
    /// 1 to 100 characters.
    #[schema(
        example = "Coffee beans 500 g, dark",
        nullable = false,
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    #[serde(default, deserialize_with = "given")]
    name: Option<String>,
    /// Minor units (won). Orders keep the price they were placed at.
    #[schema(example = 12500, nullable = false, minimum = 1, maximum = 1_000_000_000_000_i64)]
    #[serde(default, deserialize_with = "given_whole")]
    price: Option<i64>,
    /// Whether it can be ordered.
    #[schema(nullable = false)]
    #[serde(default, deserialize_with = "given")]
    active: Option<bool>,
}

/// A value that is given, if at all: null is none.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// The same of a whole number.
fn given_whole<'de, D: Deserializer<'de>>(value: D) -> Result<Option<i64>, D::Error> {
    numbers::whole(value).map(Some)
}

/// A change of stock that no order explains.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdjustStock {
    /// Units to add, or to take away; not 0.
    #[schema(example = 50, minimum = -1_000_000_000, maximum = 1_000_000_000)]
    #[serde(deserialize_with = "numbers::whole")]
    delta: i64,
    /// `restock` (adds) or `correction`.
    #[schema(example = "restock", pattern = "^(restock|correction)$")]
    kind: String,
    /// Why; 1 to 200 characters.
    #[schema(
        example = "delivery 2026-11",
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    reason: String,
}

/// Which page of products.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ProductParams {
    /// Rows of the page; 20 if not given.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(value_type = Option<String>, pattern = "^prod_[0-9a-f]{32}$")]
    after: Option<ProductId>,
}

/// Which page of stock adjustments.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AdjustmentParams {
    /// Rows of the page; 20 if not given.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    after: Option<Uuid>,
}

/// 201 with the address of what was created.
pub type Created<T> = (StatusCode, [(HeaderName, String); 1], axum::Json<T>);

/// List products
///
/// Oldest first, also those that are not sold any more. What a publishable key reads may be a second old, `available`
/// above all; placing an order decides by what is there then.
#[utoipa::path(get, path = "/v1/products", operation_id = "listProducts", tag = "products", params(ProductParams),
    responses((status = 200, description = "A page of products.", body = Page<ProductView>)),
    security(("secretKey" = []), ("publishableKey" = [])))]
pub async fn list(
    State(state): State<AppState>,
    ShopFront(caller): ShopFront,
    Params(params): Params<ProductParams>,
) -> Result<Response, Problem> {
    let rows = rules::page_rows(params.limit, state.settings.page_rows_max)?;
    let page = async || -> Result<Page<ProductView>, Problem> {
        let products = catalogue::list(&state, params.after, rows + 1).await?;
        Ok(Page::cut(products, rows, |product| product.id.to_string()))
    };
    if matches!(caller, Caller::Secret(_)) {
        return Ok(axum::Json(page().await?).into_response());
    }
    let name = format!("page:{rows}:{}", params.after.map(|id| id.to_string()).unwrap_or_default());
    let is_good = |text: &str| serde_json::from_str::<ShownPage>(text).is_ok();
    let text = state.cache.text(&name, is_good, async || verb::json(&page().await?).map(Some)).await?;
    text.map(shown).ok_or_else(|| Problem::internal("a page is no text"))
}

/// What a remembered product must have to be shown.
#[derive(Deserialize)]
struct Shown {
    id: ProductId,
    #[serde(rename = "price")]
    _price: i64,
    #[serde(rename = "available")]
    _available: i64,
}

/// The same of a page.
#[derive(Deserialize)]
struct ShownPage {
    #[serde(rename = "items")]
    _items: Vec<Shown>,
    #[serde(rename = "next")]
    _next: Option<String>,
}

fn shown(text: Arc<str>) -> Response {
    ([(CONTENT_TYPE, "application/json")], text.to_string()).into_response()
}

/// Read a product
///
/// What a publishable key reads may be a second old, `available` above all; placing an order decides by what is there then.
#[utoipa::path(get, path = "/v1/products/{id}", operation_id = "getProduct", tag = "products",
    params(("id" = String, Path, pattern = "^prod_[0-9a-f]{32}$", description = "`prod_…`")),
    responses((status = 200, description = "The product.", body = ProductView)),
    security(("secretKey" = []), ("publishableKey" = [])))]
pub async fn get(
    State(state): State<AppState>,
    ShopFront(caller): ShopFront,
    Id(id): Id<ProductId>,
) -> Result<Response, Problem> {
    if matches!(caller, Caller::Secret(_)) {
        return Ok(axum::Json(catalogue::find(&state, id).await?).into_response());
    }
    let is_good = |text: &str| serde_json::from_str::<Shown>(text).is_ok_and(|shown| shown.id == id);
    let load = async || match catalogue::find(&state, id).await {
        Ok(product) => verb::json(&product).map(Some),
        Err(CatalogueError::ProductNotFound) => Ok(None),
        Err(error) => Err(Problem::from(error)),
    };
    let text = state.cache.text(&id.to_string(), is_good, load).await?;
    text.map(shown).ok_or_else(|| CatalogueError::ProductNotFound.into())
}

/// Create a product
#[utoipa::path(post, path = "/v1/products", operation_id = "createProduct", tag = "products", request_body = CreateProduct,
    responses((status = 201, description = "Created; `Location` is the product.", body = ProductView)),
    security(("secretKey" = [])))]
pub async fn create(
    State(state): State<AppState>,
    Shop(caller): Shop,
    Json(body): Json<CreateProduct>,
) -> Result<Created<ProductView>, Problem> {
    let name = rules::text("name", body.name, NAME_CHARS_MAX)?;
    let price = rules::within("price", body.price, 1..=PRICE_MAX)?;
    let currency = rules::currency(body.currency.as_deref())?;
    let initial_stock = rules::within("initialStock", body.initial_stock.unwrap_or(0), 0..=UNITS_MAX)?;
    let new = NewProduct { name, price: Money::new(price, currency), initial_stock };
    let product = catalogue::create(&state, new, &caller.catalogue_actor()).await?;
    let location = format!("/v1/products/{}", product.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], axum::Json(product)))
}

/// Change a product
#[utoipa::path(patch, path = "/v1/products/{id}", operation_id = "changeProduct", tag = "products", request_body = ChangeProduct,
    params(("id" = String, Path, pattern = "^prod_[0-9a-f]{32}$", description = "`prod_…`")),
    responses((status = 200, description = "The product as it is now.", body = ProductView)),
    security(("secretKey" = [])))]
pub async fn change(
    State(state): State<AppState>,
    _shop: Shop,
    Id(id): Id<ProductId>,
    Json(body): Json<ChangeProduct>,
) -> Result<axum::Json<ProductView>, Problem> {
    let change = ProductChange {
        name: body.name.map(|name| rules::text("name", name, NAME_CHARS_MAX)).transpose()?,
        price: body.price.map(|price| rules::within("price", price, 1..=PRICE_MAX)).transpose()?,
        active: body.active,
    };
    if change.name.is_none() && change.price.is_none() && change.active.is_none() {
        return Err(Problem::invalid("body", "Give name, price or active."));
    }
    Ok(axum::Json(catalogue::change(&state, id, change).await?))
}

/// Restock or correct
#[utoipa::path(post, path = "/v1/products/{id}/stock-adjustments", operation_id = "adjustStock", tag = "products", request_body = AdjustStock,
    params(("id" = String, Path, pattern = "^prod_[0-9a-f]{32}$", description = "`prod_…`")),
    responses((status = 201, description = "Adjusted.", body = AdjustmentView)),
    security(("secretKey" = [])))]
pub async fn adjust(
    State(state): State<AppState>,
    Shop(caller): Shop,
    Id(product): Id<ProductId>,
    Json(body): Json<AdjustStock>,
) -> Result<Created<AdjustmentView>, Problem> {
    let adjust = adjustable(product, body)?;
    let done = catalogue::adjust(&state, adjust, &caller.catalogue_actor()).await?;
    let location = format!("/v1/products/{product}/stock-adjustments");
    Ok((StatusCode::CREATED, [(LOCATION, location)], axum::Json(done)))
}

fn adjustable(product: ProductId, body: AdjustStock) -> Result<Adjust, Problem> {
    // `initial` belongs to creation.
    let kind = match AdjustmentKind::parse(&body.kind) {
        Some(kind @ (AdjustmentKind::Restock | AdjustmentKind::Correction)) => kind,
        Some(AdjustmentKind::Initial) | None => {
            return Err(Problem::invalid("kind", "kind is restock or correction."));
        }
    };
    let delta = rules::within("delta", body.delta, -UNITS_MAX..=UNITS_MAX)?;
    if delta == 0 {
        return Err(Problem::invalid("delta", "delta is not 0."));
    }
    if kind == AdjustmentKind::Restock && delta < 0 {
        return Err(Problem::invalid("delta", "A restock adds; use a correction to take away."));
    }
    Ok(Adjust { product, delta, kind, reason: rules::text("reason", body.reason, REASON_CHARS_MAX)? })
}

/// List stock adjustments
///
/// Newest first.
#[utoipa::path(get, path = "/v1/products/{id}/stock-adjustments", operation_id = "listStockAdjustments", tag = "products",
    params(("id" = String, Path, pattern = "^prod_[0-9a-f]{32}$", description = "`prod_…`"), AdjustmentParams),
    responses((status = 200, description = "A page of adjustments.", body = Page<AdjustmentView>)),
    security(("secretKey" = [])))]
pub async fn adjustments(
    State(state): State<AppState>,
    _shop: Shop,
    Id(product): Id<ProductId>,
    Params(params): Params<AdjustmentParams>,
) -> Result<axum::Json<Page<AdjustmentView>>, Problem> {
    let rows = rules::page_rows(params.limit, state.settings.page_rows_max)?;
    let found = catalogue::adjustments(&state, product, params.after, rows + 1).await?;
    Ok(axum::Json(Page::cut(found, rows, |adjustment| adjustment.id.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_changes_by_a_reason_and_a_number_that_is_something() {
        let adjust = |delta, kind: &str, reason: &str| {
            let body = AdjustStock { delta, kind: kind.to_owned(), reason: reason.to_owned() };
            adjustable(ProductId::new(), body).is_ok()
        };
        assert!(adjust(5, "restock", "delivery") && adjust(-5, "correction", "counted"));
        assert!(!adjust(0, "correction", "counted"), "nothing");
        assert!(!adjust(-5, "restock", "delivery"), "a restock adds");
        assert!(!adjust(5, "initial", "start") && !adjust(5, "gift", "start"), "kinds");
        assert!(!adjust(UNITS_MAX + 1, "restock", "delivery") && !adjust(i64::MIN, "correction", "counted"));
        assert!(!adjust(5, "restock", ""), "a reason is needed");
    }
}
