//! Orders: place, read, list, cancel, and their history.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::auth::{OrderParty, Shop, ShopFront};
use super::extract::{Id, Json, Params};
use super::idempotency::{self, GivenKey};
use super::numbers;
use super::payments::RefundAccountBody;
use super::problem::{Problem, cancellation_refused, order_not_found};
use super::rules::{self, Page, Whole};
use super::verb::{self, Answer, Verb};
use crate::db::orders::OrderFilter;
use crate::db::{self, DbError};
use crate::domain::ids::{OrderId, ProductId};
use crate::domain::order::OrderStatus;
use crate::payments::cancel_order::{self, CancelOrder, OrderCanceled};
use crate::payments::order::{self, Place};
use crate::payments::view::{self, EventView, OrderView};
use crate::telemetry::labels::{IdempotentRoute, Operation, ProviderLabel};

const QUANTITY_MAX: i32 = 100_000;
const CUSTOMER_REF_CHARS_MAX: usize = 100;
/// The longest reason of a cancel, in characters.
pub const REASON_CHARS_MAX: usize = 200;
/// The longest history that is shown.
pub const TIMELINE_ROWS_MAX: i64 = 500;

/// An order to place.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlaceOrder {
    /// What is ordered; each product once, at most 50 unless set up otherwise.
    #[schema(min_items = 1, max_items = 50)]
    pub lines: Vec<PlaceLine>,
    /// The shop's own reference of the customer: no name, no address. At most 100 characters.
    #[schema(
        example = "customer-4711",
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub customer_ref: Option<String>,
}

/// A line of an order to place.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlaceLine {
    /// `prod_…`
    #[schema(value_type = String, example = "prod_0193a1b2c3d47e5f8a9b0c1d2e3f4a5e", pattern = "^prod_[0-9a-f]{32}$")]
    pub product_id: ProductId,
    /// Units, 1 to 100000.
    #[schema(example = 2, minimum = 1, maximum = 100_000)]
    #[serde(deserialize_with = "numbers::whole")]
    pub quantity: i32,
}

/// A placed order, with the buyer's right to it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlacedOrder {
    /// The order.
    #[serde(flatten)]
    pub order: OrderView,
    /// Lets its holder see this order, confirm it, and cancel it while it is unpaid.
    #[schema(example = "ct_AZOhssPUfl-KmwwdLj9KWwAAAABpI…")]
    pub checkout_token: String,
}

/// An order to cancel.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CancelOrderBody {
    /// Why; 1 to 200 characters, shown to the buyer by the PG.
    #[schema(
        example = "changed my mind",
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
    /// Where to send the money of a paid virtual account.
    pub refund_account: Option<RefundAccountBody>,
}

/// Which orders to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OrderParams {
    /// Only this status.
    #[param(
        example = "paid",
        pattern = "^(pending|confirming|awaiting_deposit|paid|partially_canceled|canceled|expired)$"
    )]
    status: Option<String>,
    /// Placed at or after, RFC 3339.
    from: Option<DateTime<Utc>>,
    /// Placed before, RFC 3339.
    to: Option<DateTime<Utc>>,
    /// Rows of the page; 20 if not given.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(value_type = Option<String>, pattern = "^ord_[0-9a-f]{32}$")]
    after: Option<OrderId>,
}

/// Place an order
///
/// Prices come from the catalogue. The stock of every line is held until `holdExpiresAt`; all of it or nothing.
#[utoipa::path(post, path = "/v1/orders", operation_id = "placeOrder", tag = "orders", request_body = PlaceOrder,
    params(("Idempotency-Key" = String, Header, min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$", description = "A fresh key for each new order, the same one for each repeat.")),
    responses((status = 201, description = "Placed; `Location` is the order.", body = PlacedOrder)),
    security(("secretKey" = []), ("publishableKey" = [])))]
pub async fn place(
    State(state): State<AppState>,
    ShopFront(caller): ShopFront,
    key: GivenKey,
    Json(body): Json<PlaceOrder>,
) -> Result<Answer, Problem> {
    let key = key.required(IdempotentRoute::Order)?;
    let asked = serde_json::to_vec(&body).map_err(Problem::internal)?;
    let request = placeable(body, state.settings.order_lines_max)?;
    let scope = idempotency::scope(&caller, "orders.place", key, &[&asked]);
    let origin = caller.origin();
    let verb = Verb { operation: Operation::OrderCreate, route: IdempotentRoute::Order, provider: ProviderLabel::None };
    let edge = state.clone();
    let work = async move {
        let placed = order::place(&edge, request, scope, origin).await?;
        with_token(&edge, &placed.response.body, placed.replayed)
    };
    verb::run(&state, verb, work).await
}

fn placeable(body: PlaceOrder, lines_max: usize) -> Result<Place, Problem> {
    if body.lines.is_empty() || body.lines.len() > lines_max {
        return Err(Problem::invalid("lines", format!("An order has 1 to {lines_max} lines.")));
    }
    let mut lines: Vec<(ProductId, i32)> = Vec::with_capacity(body.lines.len());
    for (at, line) in body.lines.into_iter().enumerate() {
        let quantity = rules::within(&format!("lines[{at}].quantity"), line.quantity, 1..=QUANTITY_MAX)?;
        if lines.iter().any(|(product, _)| *product == line.product_id) {
            return Err(Problem::invalid(&format!("lines[{at}].productId"), "Each product has one line."));
        }
        lines.push((line.product_id, quantity));
    }
    let reference = |text| rules::text("customerRef", text, CUSTOMER_REF_CHARS_MAX);
    let customer_ref = body.customer_ref.map(reference).transpose()?;
    Ok(Place { lines, customer_ref })
}

/// What the token of a stored order needs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredOrder {
    id: OrderId,
    created_at: DateTime<Utc>,
}

/// The stored order, byte for byte, and its token behind the last field.
fn with_token(state: &AppState, stored: &str, replayed: bool) -> Result<Answer, Problem> {
    let order: StoredOrder = serde_json::from_str(stored).map_err(Problem::internal)?;
    let token = state.tokens().mint(order.id, order.created_at);
    let fields = stored.strip_suffix('}').ok_or_else(|| Problem::internal("a stored order is no object"))?;
    let body = format!(r#"{fields},"checkoutToken":"{token}"}}"#);
    Ok(Answer::done(StatusCode::CREATED, body, replayed).at(&format!("/v1/orders/{}", order.id)))
}

/// Read an order
#[utoipa::path(get, path = "/v1/orders/{id}", operation_id = "getOrder", tag = "orders",
    params(("id" = String, Path, pattern = "^ord_[0-9a-f]{32}$", description = "`ord_…`")),
    responses((status = 200, description = "The order.", body = OrderView)),
    security(("secretKey" = []), ("checkoutToken" = [])))]
pub async fn get(
    State(state): State<AppState>,
    OrderParty(caller): OrderParty,
    Id(id): Id<OrderId>,
) -> Result<axum::Json<OrderView>, Problem> {
    if !caller.reaches(id) {
        return Err(order_not_found());
    }
    Ok(axum::Json(state.db.read(async |conn| cancel_order::read(conn, id).await).await?))
}

/// List orders
///
/// Newest first.
#[utoipa::path(get, path = "/v1/orders", operation_id = "listOrders", tag = "orders", params(OrderParams),
    responses((status = 200, description = "A page of orders.", body = Page<OrderView>)),
    security(("secretKey" = [])))]
pub async fn list(
    State(state): State<AppState>,
    _shop: Shop,
    Params(params): Params<OrderParams>,
) -> Result<axum::Json<Page<OrderView>>, Problem> {
    let rows = rules::page_rows(params.limit, state.settings.page_rows_max)?;
    let status = rules::status(params.status.as_deref(), OrderStatus::parse)?;
    let filter = OrderFilter { status, from: params.from, to: params.to, after: params.after };
    let views = state.db.read(async |conn| read_page(conn, filter, rows + 1).await).await?;
    Ok(axum::Json(Page::cut(views, rows, |order| order.id.to_string())))
}

async fn read_page(conn: &mut db::Conn, filter: OrderFilter, rows: i64) -> Result<Vec<OrderView>, DbError> {
    let orders = db::orders::list(conn, filter, rows).await?;
    let ids: Vec<OrderId> = orders.iter().map(|order| order.id).collect();
    let items = db::orders::items_of(conn, &ids).await?;
    let payments = db::payments::shown_with(conn, &ids).await?;
    Ok(orders.iter().map(|order| view::order(order, &items, view::shown_payment(&payments, order.id))).collect())
}

/// Cancel an order
///
/// At once while it is unpaid; by canceling its payment in full once it is paid. While a payment's outcome is open the
/// wish is remembered and acted on as soon as it is known (202).
#[utoipa::path(post, path = "/v1/orders/{id}/cancel", operation_id = "cancelOrder", tag = "orders", request_body = CancelOrderBody,
    params(("id" = String, Path, pattern = "^ord_[0-9a-f]{32}$", description = "`ord_…`"),
        ("Idempotency-Key" = String, Header, min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$", description = "A fresh key for each new cancel, the same one for each repeat.")),
    responses((status = 200, description = "The canceled order.", body = OrderView),
        (status = 202, description = "Being decided; poll `Location`.", body = OrderView)),
    security(("secretKey" = []), ("checkoutToken" = [])))]
pub async fn cancel(
    State(state): State<AppState>,
    OrderParty(caller): OrderParty,
    Id(id): Id<OrderId>,
    key: GivenKey,
    Json(body): Json<CancelOrderBody>,
) -> Result<Answer, Problem> {
    if !caller.reaches(id) {
        return Err(order_not_found());
    }
    let key = key.required(IdempotentRoute::Cancel)?;
    let reason = rules::text("reason", body.reason, REASON_CHARS_MAX)?;
    let refund_account = body.refund_account.map(RefundAccountBody::checked).transpose()?;
    let bank = refund_account.as_ref().map_or("", |account| account.bank_code.as_str());
    let asked = [id.to_string(), reason.clone(), bank.to_owned()];
    let parts: Vec<&[u8]> = asked.iter().map(String::as_bytes).collect();
    let scope = idempotency::scope(&caller, "orders.cancel", key, &parts);
    let origin = caller.origin();
    let may_cancel_paid = caller.may_cancel_paid(state.settings.buyer_cancel);
    let request = CancelOrder { order: id, reason, refund_account, may_cancel_paid };
    let verb =
        Verb { operation: Operation::OrderCancel, route: IdempotentRoute::Cancel, provider: state.provider.label() };
    let edge = state.clone();
    let work = async move {
        match cancel_order::cancel_order(&edge, request, scope, origin).await? {
            OrderCanceled::Now { order, is_decided: true, replayed } => {
                Ok(Answer::done(StatusCode::OK, verb::json(&order)?, replayed))
            }
            OrderCanceled::Now { order, is_decided: false, .. } => {
                Answer::undecided(&order, &format!("/v1/orders/{id}"))
            }
            OrderCanceled::Refused { response, replayed } => {
                Ok(Answer::refused(cancellation_refused(&response.body), replayed))
            }
        }
    };
    verb::run(&state, verb, work).await
}

/// Read an order's history
///
/// Every event of the order, its payments and their cancellations, oldest first, at most 500.
#[utoipa::path(get, path = "/v1/orders/{id}/timeline", operation_id = "getOrderTimeline", tag = "orders",
    params(("id" = String, Path, pattern = "^ord_[0-9a-f]{32}$", description = "`ord_…`")),
    responses((status = 200, description = "What happened.", body = Whole<EventView>)),
    security(("secretKey" = []), ("checkoutToken" = [])))]
pub async fn timeline(
    State(state): State<AppState>,
    OrderParty(caller): OrderParty,
    Id(id): Id<OrderId>,
) -> Result<axum::Json<Whole<EventView>>, Problem> {
    if !caller.reaches(id) {
        return Err(order_not_found());
    }
    let rows = state.db.read(async |conn| db::events::of_order(conn, id, TIMELINE_ROWS_MAX).await).await?;
    // An order's first event is written with it.
    if rows.is_empty() {
        return Err(order_not_found());
    }
    Ok(axum::Json(Whole { items: rows.into_iter().map(view::event).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Code;

    fn line(product_id: ProductId, quantity: i32) -> PlaceLine {
        PlaceLine { product_id, quantity }
    }

    fn refused(lines: Vec<PlaceLine>, customer_ref: Option<&str>) -> Code {
        let body = PlaceOrder { lines, customer_ref: customer_ref.map(str::to_owned) };
        placeable(body, 2).expect_err("refused").code()
    }

    #[test]
    fn an_order_has_lines_of_different_products_and_sane_quantities() {
        let (a, b) = (ProductId::new(), ProductId::new());
        let fits = placeable(PlaceOrder { lines: vec![line(a, 1), line(b, QUANTITY_MAX)], customer_ref: None }, 2);
        assert_eq!(fits.expect("fits").lines, [(a, 1), (b, QUANTITY_MAX)]);
        for lines in [
            vec![],
            vec![line(a, 1), line(a, 2)],
            vec![line(a, 0)],
            vec![line(a, -1)],
            vec![line(a, QUANTITY_MAX + 1)],
            vec![line(a, 1), line(b, 1), line(ProductId::new(), 1)],
        ] {
            assert_eq!(refused(lines, None), Code::InvalidParameter);
        }
        assert_eq!(refused(vec![line(a, 1)], Some("")), Code::InvalidParameter);
        assert_eq!(refused(vec![line(a, 1)], Some(&"x".repeat(101))), Code::InvalidParameter);
    }
}
