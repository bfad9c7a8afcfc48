//! Payments: confirm, read, list, cancel, and their history; a cancellation by itself.

use std::collections::HashMap;

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::auth::{Caller, OrderParty, Shop};
use super::extract::{Id, Json, Params};
use super::idempotency::{self, GivenKey};
use super::numbers;
use super::orders::{REASON_CHARS_MAX, TIMELINE_ROWS_MAX};
use super::problem::{Code, Problem, cancellation_refused, order_not_found, payment_not_found, payment_not_taken};
use super::rules::{self, Page, Whole};
use super::verb::{self, Answer, Verb};
use crate::db::orders::OrderRow;
use crate::db::payments::{PaymentFilter, PaymentRow};
use crate::db::{self, Conn};
use crate::domain::evidence::PaymentKey;
use crate::domain::ids::{CancellationId, OrderId, PaymentId};
use crate::domain::money::{MINOR_MAX, Money};
use crate::domain::order::OrderStatus;
use crate::domain::payment::PaymentStatus;
use crate::domain::stock::{CancelScope, LineQuantity};
use crate::payments::cancel::{self, Cancel, Canceled};
use crate::payments::confirm::{self, Confirm, Confirmed};
use crate::payments::view::{self, CancellationView, EventView, PaymentView};
use crate::provider::RefundAccount;
use crate::telemetry::labels::{IdempotentRoute, Operation};

const ACCOUNT_DIGITS_MAX: usize = 20;
const HOLDER_CHARS_MAX: usize = 60;
const QUANTITY_MAX: i32 = 100_000;

/// A payment to confirm: what the PG's redirect carried.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfirmBody {
    /// The PG's key.
    #[schema(
        example = "tviva20261121abcdEFGH",
        min_length = 1,
        max_length = 200,
        pattern = r"^([!\x22$&'-\-0->@-\[\]-~][!\x22$&'-.0->@-\[\]-~]*|\.[!\x22$&'-\-0->@-\[\]-~][!\x22$&'-.0->@-\[\]-~]*|\.\.[!\x22$&'-.0->@-\[\]-~]+)$"
    )]
    pub payment_key: String,
    /// `ord_…`
    #[schema(value_type = String, example = "ord_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b", pattern = "^ord_[0-9a-f]{32}$")]
    pub order_id: OrderId,
    /// Minor units (won); compared with the order, never charged as given.
    #[schema(example = 34100, minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    #[serde(deserialize_with = "numbers::whole")]
    pub amount: i64,
    /// ISO 4217; KRW if not given.
    #[schema(example = "KRW", pattern = "^(KRW|USD|EUR|JPY|GBP|CNY|HKD|TWD|SGD|AUD|CAD|CHF|THB|VND|KWD)$")]
    pub currency: Option<String>,
}

/// What to cancel: all that is left, or `amount`, or `lines`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CancelBody {
    /// Why; 1 to 200 characters, shown to the buyer by the PG.
    #[schema(
        example = "one cup was broken",
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub reason: String,
    /// This many minor units; no stock comes back unless nothing is left.
    #[schema(example = 5000, minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    #[serde(default, deserialize_with = "numbers::whole_or_null")]
    pub amount: Option<i64>,
    /// These units, at their price; their stock comes back.
    #[schema(min_items = 1)]
    pub lines: Option<Vec<CancelLine>>,
    /// Where to send the money of a paid virtual account.
    pub refund_account: Option<RefundAccountBody>,
}

/// Units of a line to cancel.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CancelLine {
    /// The line's number in the order.
    #[schema(example = 1, minimum = 1)]
    #[serde(deserialize_with = "numbers::whole")]
    pub line: i32,
    /// Units, 1 to 100000.
    #[schema(example = 1, minimum = 1, maximum = 100_000)]
    #[serde(deserialize_with = "numbers::whole")]
    pub quantity: i32,
}

/// A bank account. Personal data: sent to the PG once, stored and logged nowhere.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RefundAccountBody {
    /// The PG's two-character bank code.
    #[schema(example = "88", pattern = "^[A-Za-z0-9]{2}$")]
    bank_code: String,
    /// 1 to 20 digits.
    #[schema(value_type = String, example = "110123456789", pattern = "^[0-9]{1,20}$")]
    account_number: SecretText,
    /// 1 to 60 characters.
    #[schema(value_type = String, example = "홍길동", min_length = 1, max_length = 60, pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$")]
    holder: SecretText,
}

/// A text that no `Debug` shows.
#[derive(Deserialize)]
struct SecretText(String);

impl RefundAccountBody {
    /// The account, if it can be one.
    ///
    /// # Errors
    /// If a part cannot be.
    pub fn checked(self) -> Result<RefundAccount, Problem> {
        let number = self.account_number.0;
        if self.bank_code.len() != 2 || !self.bank_code.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Problem::invalid("refundAccount.bankCode", "A bank code has two letters or digits."));
        }
        if !(1..=ACCOUNT_DIGITS_MAX).contains(&number.len()) || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Problem::invalid("refundAccount.accountNumber", "An account number has 1 to 20 digits."));
        }
        let holder = rules::text("refundAccount.holder", self.holder.0, HOLDER_CHARS_MAX)?;
        Ok(RefundAccount {
            bank_code: self.bank_code,
            account_number: SecretString::from(number),
            holder: SecretString::from(holder),
        })
    }
}

/// Which payments to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PaymentParams {
    /// Only this status.
    #[param(
        example = "approved",
        pattern = "^(ready|confirming|awaiting_deposit|approved|partially_canceled|canceled|declined|expired|reversing)$"
    )]
    status: Option<String>,
    /// Only of this order.
    #[param(value_type = Option<String>, pattern = "^ord_[0-9a-f]{32}$")]
    order_id: Option<OrderId>,
    /// Confirmed at or after, RFC 3339.
    from: Option<DateTime<Utc>>,
    /// Confirmed before, RFC 3339.
    to: Option<DateTime<Utc>>,
    /// Rows of the page; 20 if not given.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(value_type = Option<String>, pattern = "^pay_[0-9a-f]{32}$")]
    after: Option<PaymentId>,
}

/// Confirm a payment
///
/// Takes the money of a payment that the buyer authenticated in the PG's window, once. An outcome that is not certain
/// yet is 202, never a failure: poll `Location`.
#[utoipa::path(post, path = "/v1/payments/confirm", operation_id = "confirmPayment", tag = "payments", request_body = ConfirmBody,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$", description = "The payment key if not given.")),
    responses((status = 200, description = "Approved, or a virtual account that awaits its deposit.", body = PaymentView),
        (status = 202, description = "Being checked; poll `Location`.", body = PaymentView)),
    security(("secretKey" = []), ("checkoutToken" = [])))]
pub async fn confirm(
    State(state): State<AppState>,
    OrderParty(caller): OrderParty,
    key: GivenKey,
    Json(body): Json<ConfirmBody>,
) -> Result<Answer, Problem> {
    if !caller.reaches(body.order_id) {
        return Err(order_not_found());
    }
    let request = confirmable(&body)?;
    let key = key.or(&body.payment_key);
    let (order, amount) = (request.order_id.uuid(), request.amount);
    let scope = idempotency::scope(
        &caller,
        "payments.confirm",
        key,
        &[
            body.payment_key.as_bytes(),
            order.as_bytes(),
            &amount.minor.to_be_bytes(),
            amount.currency.code().as_bytes(),
        ],
    );
    let origin = caller.origin();
    let verb =
        Verb { operation: Operation::Confirm, route: IdempotentRoute::Confirm, provider: state.provider.label() };
    let edge = state.clone();
    let work = async move {
        match confirm::confirm(&edge, request, scope, origin).await? {
            Confirmed::Answered { response, replayed } => Ok(match response.status {
                status @ (402 | 409) => Answer::refused(payment_not_taken(status, &response.body), replayed),
                _ => Answer::done(StatusCode::OK, response.body, replayed),
            }),
            Confirmed::Undecided(view) => Answer::undecided(&view, &format!("/v1/payments/{}", view.id)),
        }
    };
    verb::run(&state, verb, work).await
}

fn confirmable(body: &ConfirmBody) -> Result<Confirm, Problem> {
    let payment_key = PaymentKey::parse(&body.payment_key)
        .ok_or_else(|| Problem::invalid("paymentKey", "A payment key has 1 to 200 plain characters."))?;
    let minor = rules::within("amount", body.amount, 1..=MINOR_MAX)?;
    let currency = rules::currency(body.currency.as_deref())?;
    Ok(Confirm { payment_key, order_id: body.order_id, amount: Money::new(minor, currency) })
}

/// Read a payment
#[utoipa::path(get, path = "/v1/payments/{id}", operation_id = "getPayment", tag = "payments",
    params(("id" = String, Path, pattern = "^pay_[0-9a-f]{32}$", description = "`pay_…`")),
    responses((status = 200, description = "The payment.", body = PaymentView)),
    security(("secretKey" = []), ("checkoutToken" = [])))]
pub async fn get(
    State(state): State<AppState>,
    OrderParty(caller): OrderParty,
    Id(id): Id<PaymentId>,
) -> Result<axum::Json<PaymentView>, Problem> {
    let payment = state
        .db
        .read(async |conn| {
            let (payment, order) = reached(conn, &caller, id).await?;
            Ok::<_, Problem>(view::payment(conn, &payment, &order).await?)
        })
        .await?;
    Ok(axum::Json(payment))
}

/// The payment and its order, if the caller may know of them.
async fn reached(conn: &Conn, caller: &Caller, id: PaymentId) -> Result<(PaymentRow, OrderRow), Problem> {
    let payment = db::payments::find(conn, id).await?.filter(|payment| caller.reaches(payment.order_id));
    let payment = payment.ok_or_else(payment_not_found)?;
    let order = db::orders::find(conn, payment.order_id).await?.ok_or_else(payment_not_found)?;
    Ok((payment, order))
}

/// List payments
///
/// Newest first.
#[utoipa::path(get, path = "/v1/payments", operation_id = "listPayments", tag = "payments", params(PaymentParams),
    responses((status = 200, description = "A page of payments.", body = Page<PaymentView>)),
    security(("secretKey" = [])))]
pub async fn list(
    State(state): State<AppState>,
    _shop: Shop,
    Params(params): Params<PaymentParams>,
) -> Result<axum::Json<Page<PaymentView>>, Problem> {
    let rows = rules::page_rows(params.limit, state.settings.page_rows_max)?;
    let status = rules::status(params.status.as_deref(), PaymentStatus::parse)?;
    let filter =
        PaymentFilter { status, order: params.order_id, from: params.from, to: params.to, after: params.after };
    let views = state.db.read(async |conn| read_page(conn, filter, rows + 1).await).await?;
    Ok(axum::Json(Page::cut(views, rows, |payment| payment.id.to_string())))
}

async fn read_page(conn: &Conn, filter: PaymentFilter, rows: i64) -> Result<Vec<PaymentView>, Problem> {
    let payments = db::payments::list(conn, filter, rows).await?;
    let ids: Vec<PaymentId> = payments.iter().map(|payment| payment.id).collect();
    let cancellations = db::cancellations::of_payments(conn, &ids).await?;
    let orders: Vec<OrderId> = payments.iter().map(|payment| payment.order_id).collect();
    let statuses: HashMap<OrderId, OrderStatus> = db::orders::statuses(conn, &orders).await?.into_iter().collect();
    let shown = payments.iter().map(|payment| {
        let status = statuses.get(&payment.order_id).map_or("", |status| status.as_str());
        view::payment_with(payment, status, &cancellations)
    });
    Ok(shown.collect())
}

/// Cancel a payment
///
/// Gives money back: all that is left, or `amount`, or `lines`. With the money of a line its stock comes back.
#[utoipa::path(post, path = "/v1/payments/{id}/cancel", operation_id = "cancelPayment", tag = "payments", request_body = CancelBody,
    params(("id" = String, Path, pattern = "^pay_[0-9a-f]{32}$", description = "`pay_…`"),
        ("Idempotency-Key" = String, Header, min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$", description = "A fresh key for each new cancel, the same one for each repeat.")),
    responses((status = 200, description = "The money is back.", body = CancellationView),
        (status = 202, description = "Being decided; poll `Location`.", body = CancellationView)),
    security(("secretKey" = []), ("checkoutToken" = [])))]
pub async fn cancel(
    State(state): State<AppState>,
    OrderParty(caller): OrderParty,
    Id(id): Id<PaymentId>,
    key: GivenKey,
    Json(body): Json<CancelBody>,
) -> Result<Answer, Problem> {
    if let Caller::Checkout(_) = caller {
        state.db.read(async |conn| reached(conn, &caller, id).await).await?;
    }
    let key = key.required(IdempotentRoute::Cancel)?;
    let cancel_scope = cancel_scope(&body)?;
    let reason = rules::text("reason", body.reason, REASON_CHARS_MAX)?;
    let refund_account = body.refund_account.map(RefundAccountBody::checked).transpose()?;
    let scope = idempotency::scope(
        &caller,
        "payments.cancel",
        key,
        &[
            id.uuid().as_bytes(),
            reason.as_bytes(),
            &asked(&cancel_scope),
            // The account itself is personal data with few possible values: not even its hash is kept.
            refund_account.as_ref().map_or("", |account| account.bank_code.as_str()).as_bytes(),
        ],
    );
    let origin = caller.origin();
    let may_cancel_paid = caller.may_cancel_paid(state.settings.buyer_cancel);
    let request = Cancel { payment: id, reason, scope: cancel_scope, refund_account, may_cancel_paid };
    let verb = Verb { operation: Operation::Cancel, route: IdempotentRoute::Cancel, provider: state.provider.label() };
    let edge = state.clone();
    let work = async move {
        match cancel::cancel(&edge, request, scope, origin).await? {
            Canceled::Answered { response, replayed } if response.status == 409 => {
                Ok(Answer::refused(cancellation_refused(&response.body), replayed))
            }
            Canceled::Answered { response, replayed } => Ok(Answer::done(StatusCode::OK, response.body, replayed)),
            Canceled::Undecided(view) => Answer::undecided(&view, &format!("/v1/payments/{id}")),
        }
    };
    verb::run(&state, verb, work).await
}

fn cancel_scope(body: &CancelBody) -> Result<CancelScope, Problem> {
    match (body.amount, &body.lines) {
        (None, None) => Ok(CancelScope::Everything),
        (Some(amount), None) => Ok(CancelScope::Amount(rules::within("amount", amount, 1..=MINOR_MAX)?)),
        (None, Some(lines)) if lines.is_empty() => Err(Problem::new(Code::InvalidCancelScope, "lines names no line.")),
        (None, Some(lines)) => {
            let mut units = Vec::with_capacity(lines.len());
            for (at, line) in lines.iter().enumerate() {
                let quantity = rules::within(&format!("lines[{at}].quantity"), line.quantity, 1..=QUANTITY_MAX)?;
                units.push(LineQuantity { line: line.line, quantity });
            }
            Ok(CancelScope::Lines(units))
        }
        (Some(_), Some(_)) => Err(Problem::new(Code::InvalidCancelScope, "Give amount or lines, not both.")),
    }
}

/// What is to be canceled, as bytes that differ where the meaning differs.
fn asked(scope: &CancelScope) -> Vec<u8> {
    match scope {
        CancelScope::Everything => b"everything".to_vec(),
        CancelScope::Amount(amount) => format!("amount {amount}").into_bytes(),
        CancelScope::Lines(lines) => {
            let mut lines: Vec<(i32, i32)> = lines.iter().map(|line| (line.line, line.quantity)).collect();
            lines.sort_unstable();
            format!("lines {lines:?}").into_bytes()
        }
    }
}

/// Read a payment's history
///
/// Every event of the payment's order, oldest first, at most 500.
#[utoipa::path(get, path = "/v1/payments/{id}/timeline", operation_id = "getPaymentTimeline", tag = "payments",
    params(("id" = String, Path, pattern = "^pay_[0-9a-f]{32}$", description = "`pay_…`")),
    responses((status = 200, description = "What happened.", body = Whole<EventView>)),
    security(("secretKey" = []), ("checkoutToken" = [])))]
pub async fn timeline(
    State(state): State<AppState>,
    OrderParty(caller): OrderParty,
    Id(id): Id<PaymentId>,
) -> Result<axum::Json<Whole<EventView>>, Problem> {
    let rows = state
        .db
        .read(async |conn| {
            let (payment, _) = reached(conn, &caller, id).await?;
            Ok::<_, Problem>(db::events::of_order(conn, payment.order_id, TIMELINE_ROWS_MAX).await?)
        })
        .await?;
    Ok(axum::Json(Whole { items: rows.into_iter().map(view::event).collect() }))
}

/// Read a cancellation
#[utoipa::path(get, path = "/v1/cancellations/{id}", operation_id = "getCancellation", tag = "payments",
    params(("id" = String, Path, pattern = "^can_[0-9a-f]{32}$", description = "`can_…`")),
    responses((status = 200, description = "The cancellation.", body = CancellationView)),
    security(("secretKey" = []), ("checkoutToken" = [])))]
pub async fn get_cancellation(
    State(state): State<AppState>,
    OrderParty(caller): OrderParty,
    Id(id): Id<CancellationId>,
) -> Result<axum::Json<CancellationView>, Problem> {
    let not_found = || Problem::new(Code::CancellationNotFound, "No cancellation has this id.");
    let cancellation = state
        .db
        .read(async |conn| {
            let row = db::cancellations::find(conn, id).await?.filter(|row| caller.reaches(row.order_id));
            let row = row.ok_or_else(not_found)?;
            let order = db::orders::find(conn, row.order_id).await?.ok_or_else(not_found)?;
            let units = db::cancellations::units(conn, id).await?;
            Ok::<_, Problem>(view::cancellation(&row, &units, order.currency.code()))
        })
        .await?;
    Ok(axum::Json(cancellation))
}
