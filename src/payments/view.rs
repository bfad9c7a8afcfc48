//! What callers see of orders, payments and cancellations: the bodies of answers, and of stored answers.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::db::cancellations::{self, CancellationRow};
use crate::db::events::EventRow;
use crate::db::idempotency::Response;
use crate::db::orders::{ItemRow, OrderRow};
use crate::db::payments::PaymentRow;
use crate::db::{Conn, DbError};
use crate::domain::ids::{CancellationId, OrderId, PaymentId};
use crate::domain::payment::{Method, PaymentStatus};
use crate::domain::stock::LineQuantity;

/// An order.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Order)]
pub struct OrderView {
    /// `ord_…`
    #[schema(value_type = String, example = "ord_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b")]
    pub id: OrderId,
    /// `pending`, `confirming`, `awaiting_deposit`, `paid`, `partially_canceled`, `canceled` or `expired`.
    #[schema(example = "pending")]
    pub status: &'static str,
    /// Minor units (won).
    #[schema(example = 34100)]
    pub amount: i64,
    /// ISO 4217.
    #[schema(example = "KRW")]
    pub currency: &'static str,
    /// What the PG's window shows the buyer.
    #[schema(example = "Coffee beans 500 g and 1 more")]
    pub name: String,
    /// What was ordered.
    pub lines: Vec<OrderLineView>,
    /// Until when the stock is held unpaid. Frozen while a confirm is being decided.
    pub hold_expires_at: DateTime<Utc>,
    /// The shop's own reference of the customer.
    pub customer_ref: Option<String>,
    /// Whether a cancel was asked for while the payment's outcome was open.
    pub cancel_requested: bool,
    /// The payment that counts: the live one, else the newest.
    #[schema(value_type = Option<String>, example = "pay_0193a1b2c3d47e5f8a9b0c1d2e3f4a5c")]
    pub payment_id: Option<PaymentId>,
    /// Trace of the request that placed it.
    pub trace_id: Option<String>,
    /// When it was placed.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// A line of an order.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrderLine)]
pub struct OrderLineView {
    /// From 1.
    #[schema(example = 1)]
    pub line: i32,
    /// `prod_…`
    #[schema(value_type = String)]
    pub product_id: crate::domain::ids::ProductId,
    /// The product's name when it was ordered.
    pub name: String,
    /// Units.
    #[schema(example = 2)]
    pub quantity: i32,
    /// Minor units each, when it was ordered.
    #[schema(example = 12000)]
    pub unit_price: i64,
    /// Units given back.
    #[schema(example = 0)]
    pub canceled_quantity: i32,
}

/// A payment.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Payment)]
pub struct PaymentView {
    /// `pay_…`
    #[schema(value_type = String, example = "pay_0193a1b2c3d47e5f8a9b0c1d2e3f4a5c")]
    pub id: PaymentId,
    /// Its order.
    #[schema(value_type = String)]
    pub order_id: OrderId,
    /// Where the order stands.
    #[schema(example = "paid")]
    pub order_status: &'static str,
    /// Which PG.
    #[schema(example = "toss")]
    pub provider: String,
    /// How the buyer pays, once known.
    #[schema(example = "card")]
    pub method: Option<&'static str>,
    /// `confirming` (being checked), `awaiting_deposit`, `approved`, `partially_canceled`, `canceled`, `declined`,
    /// `expired`, `reversing` or `ready`.
    #[schema(example = "approved")]
    pub status: &'static str,
    /// Minor units asked.
    #[schema(example = 34100)]
    pub amount: i64,
    /// ISO 4217.
    #[schema(example = "KRW")]
    pub currency: &'static str,
    /// Minor units the PG took; equal to `amount` for money that is kept.
    pub approved_amount: Option<i64>,
    /// Minor units given back.
    pub canceled_amount: i64,
    /// Minor units that can still be canceled.
    pub balance: i64,
    /// Where to transfer to, for a virtual account.
    pub deposit: Option<DepositView>,
    /// Why it was declined.
    pub decline: Option<DeclineView>,
    /// When the money was taken.
    pub approved_at: Option<DateTime<Utc>>,
    /// When the last of it went back.
    pub canceled_at: Option<DateTime<Utc>>,
    /// Its cancellations, oldest first.
    pub cancellations: Vec<CancellationView>,
    /// Trace of the confirm.
    pub trace_id: Option<String>,
    /// When the confirm first came.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// A virtual account.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Deposit)]
pub struct DepositView {
    /// The PG's two-character bank code.
    pub bank_code: String,
    /// Account number.
    pub account_number: String,
    /// Name it is issued in.
    pub holder: String,
    /// Until when a deposit is taken.
    pub due_at: Option<DateTime<Utc>>,
}

/// Why a payment was declined.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Decline)]
pub struct DeclineView {
    /// Coarse reason.
    #[schema(example = "insufficient_funds")]
    pub class: &'static str,
    /// The PG's own code.
    #[schema(example = "REJECT_CARD_PAYMENT")]
    pub provider_code: String,
}

/// A cancellation.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Cancellation)]
pub struct CancellationView {
    /// `can_…`
    #[schema(value_type = String, example = "can_0193a1b2c3d47e5f8a9b0c1d2e3f4a5d")]
    pub id: CancellationId,
    /// The payment it takes from.
    #[schema(value_type = String)]
    pub payment_id: PaymentId,
    /// That payment's order.
    #[schema(value_type = String)]
    pub order_id: OrderId,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217.
    #[schema(example = "KRW")]
    pub currency: &'static str,
    /// `requested` (being decided), `done` or `refused`.
    #[schema(example = "done")]
    pub status: &'static str,
    /// The reason given.
    pub reason: String,
    /// `request`, `wish`, `compensation` or `external`.
    #[schema(example = "request")]
    pub origin: &'static str,
    /// Units given back with it.
    pub lines: Vec<LineQuantityView>,
    /// Why the PG refused.
    pub refusal: Option<RefusalView>,
    /// When the money went back.
    pub canceled_at: Option<DateTime<Utc>>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
}

/// Units of a line.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = LineQuantity)]
pub struct LineQuantityView {
    /// The line's number.
    pub line: i32,
    /// Units.
    pub quantity: i32,
}

/// Why a cancel was refused.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Refusal)]
pub struct RefusalView {
    /// Coarse reason.
    #[schema(example = "too_late")]
    pub class: &'static str,
    /// The PG's own code.
    #[schema(example = "EXCEED_MAX_REFUND_DUE")]
    pub provider_code: String,
}

/// One entry of an order's history.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TimelineEvent)]
pub struct EventView {
    /// When it was written.
    pub at: DateTime<Utc>,
    /// `order`, `payment` or `cancellation`.
    #[schema(example = "payment")]
    pub aggregate: String,
    /// The id of what changed.
    pub aggregate_id: String,
    /// 1, 2, 3 … without gaps for each `aggregateId`.
    pub seq: i32,
    /// What happened, in the past tense.
    #[schema(example = "PaymentApproved")]
    pub kind: String,
    /// The state before.
    pub from: Option<String>,
    /// The state after.
    pub to: String,
    /// Who: a key's id, `checkout`, `webhook`, `recovery`, `expiry`.
    pub actor: String,
    /// The trace in which it happened.
    pub trace_id: Option<String>,
    /// Amounts and, under `call`, the PG call's outcome, status, code and duration.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
}

/// Builds an order's view.
#[must_use]
pub fn order(row: &OrderRow, items: &[ItemRow], payment_id: Option<PaymentId>) -> OrderView {
    OrderView {
        id: row.id,
        status: row.status.as_str(),
        amount: row.amount,
        currency: row.currency.code(),
        name: row.name.clone(),
        lines: items.iter().filter(|item| item.order_id == row.id).map(line).collect(),
        hold_expires_at: row.hold_expires_at,
        customer_ref: row.customer_ref.clone(),
        cancel_requested: row.cancel_requested_at.is_some(),
        payment_id,
        trace_id: row.trace_id.clone(),
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

fn line(item: &ItemRow) -> OrderLineView {
    OrderLineView {
        line: item.line,
        product_id: item.product_id,
        name: item.name.clone(),
        quantity: item.quantity,
        unit_price: item.unit_price,
        canceled_quantity: item.canceled_quantity,
    }
}

/// The payment to show with an order: the live one, else the newest.
#[must_use]
pub fn shown_payment(rows: &[(OrderId, PaymentId, PaymentStatus)], order: OrderId) -> Option<PaymentId> {
    let own = || rows.iter().filter(|(of, ..)| *of == order);
    own().find(|(.., status)| status.is_live()).or_else(|| own().next()).map(|&(_, id, _)| id)
}

/// Builds a payment's view, reading its cancellations.
pub async fn payment(conn: &Conn, row: &PaymentRow, order: &OrderRow) -> Result<PaymentView, DbError> {
    let cancellations = cancellations::of_payments(conn, &[row.id]).await?;
    Ok(payment_with(row, order.status.as_str(), &cancellations))
}

/// Builds a payment's view from rows at hand.
#[must_use]
pub fn payment_with(
    row: &PaymentRow,
    order_status: &'static str,
    cancellations: &[(CancellationRow, Vec<LineQuantity>)],
) -> PaymentView {
    let currency = row.currency.code();
    let own = cancellations.iter().filter(|(cancellation, _)| cancellation.payment_id == row.id);
    PaymentView {
        id: row.id,
        order_id: row.order_id,
        order_status,
        provider: row.provider.clone(),
        method: row.method.map(Method::as_str),
        status: row.status.as_str(),
        amount: row.amount,
        currency,
        approved_amount: row.approved_amount,
        canceled_amount: row.canceled_amount,
        balance: row.balance(),
        deposit: deposit(row),
        decline: row.decline_class.map(|class| DeclineView {
            class: class.as_str(),
            provider_code: row.decline_code.clone().unwrap_or_default(),
        }),
        approved_at: row.approved_at,
        canceled_at: row.canceled_at,
        cancellations: own.map(|(cancellation, units)| self::cancellation(cancellation, units, currency)).collect(),
        trace_id: row.trace_id.clone(),
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

fn deposit(row: &PaymentRow) -> Option<DepositView> {
    Some(DepositView {
        bank_code: row.deposit_bank_code.clone()?,
        account_number: row.deposit_account_number.clone()?,
        holder: row.deposit_holder.clone().unwrap_or_default(),
        due_at: row.deposit_due_at,
    })
}

/// Builds a cancellation's view.
#[must_use]
pub fn cancellation(row: &CancellationRow, units: &[LineQuantity], currency: &'static str) -> CancellationView {
    CancellationView {
        id: row.id,
        payment_id: row.payment_id,
        order_id: row.order_id,
        amount: row.amount,
        currency,
        status: row.status.as_str(),
        reason: row.reason.clone(),
        origin: row.origin.as_str(),
        lines: units.iter().map(|unit| LineQuantityView { line: unit.line, quantity: unit.quantity }).collect(),
        refusal: row.refusal_class.map(|class| RefusalView {
            class: class.as_str(),
            provider_code: row.refusal_code.clone().unwrap_or_default(),
        }),
        canceled_at: row.canceled_at,
        created_at: row.created_at,
    }
}

/// Builds a history entry's view.
#[must_use]
pub fn event(row: EventRow) -> EventView {
    let aggregate_id = match row.aggregate.as_str() {
        "order" => OrderId::from(row.aggregate_id).to_string(),
        "payment" => PaymentId::from(row.aggregate_id).to_string(),
        _ => CancellationId::from(row.aggregate_id).to_string(),
    };
    EventView {
        at: row.occurred_at,
        aggregate: row.aggregate,
        aggregate_id,
        seq: row.seq,
        kind: row.kind,
        from: row.from_status,
        to: row.to_status,
        actor: row.actor,
        trace_id: row.trace_id,
        detail: row.detail,
    }
}

/// How the payment is made that a kept answer shows.
pub(super) fn method_of(response: &Response) -> Option<Method> {
    #[derive(serde::Deserialize)]
    struct Shown {
        method: Option<String>,
    }
    let shown: Shown = serde_json::from_str(&response.body).ok()?;
    Method::parse(&shown.method?)
}

/// The answer to keep for a key: a status and the view as JSON.
pub fn stored(status: i16, view: &impl Serialize) -> Result<Response, serde_json::Error> {
    Ok(Response { status, body: serde_json::to_string(view)? })
}
