//! Explain: why a payment is where it is. Gathers what is stored, and lets `domain::explanation` put it into words.
//! Reads only; whoever wants more certainty asks the PG by `inquire`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::findings::{self, FindingView};
use super::view::{self, EventView};
use crate::clock;
use crate::db::cancellations::{self, CancellationRow};
use crate::db::events::{self, EventRow};
use crate::db::findings::FindingRow;
use crate::db::orders::OrderRow;
use crate::db::payments::PaymentRow;
use crate::db::{self, Conn, Db, DbError};
use crate::domain::explanation::{self, Action, Facts, OpenCancel};
use crate::domain::ids::{CancellationId, OrderId, PaymentId};
use crate::domain::payment::PaymentStatus;
use crate::provider::call::Door;

/// The most events of an order that are looked through.
const EVENTS_MAX: i64 = 500;

/// Why a payment is where it is.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Explanation)]
pub struct ExplanationView {
    /// `pay_…`
    #[schema(value_type = String)]
    pub payment_id: PaymentId,
    /// Its order.
    #[schema(value_type = String)]
    pub order_id: OrderId,
    /// Where the payment stands.
    #[schema(example = "confirming")]
    pub status: &'static str,
    /// Where the order stands.
    #[schema(example = "confirming")]
    pub order_status: &'static str,
    /// Both in words.
    pub summary: String,
    /// What has to happen next: `nothing`, `answer`, `inquiry`, `deposit`, `cancellation` or `buyer`.
    #[schema(example = "inquiry")]
    pub awaits: &'static str,
    /// What the buyer is shown meanwhile.
    pub buyer_sees: &'static str,
    /// Why the outcome is not certain, if that was noted.
    #[schema(example = "timeout")]
    pub doubt: Option<&'static str>,
    /// When the PG is asked next, if it is.
    pub inquiry: Option<InquiryPlan>,
    /// The cancellation that is not decided.
    pub open_cancellation: Option<OpenCancellationView>,
    /// The newest call to the PG, and what it came to.
    pub last_call: Option<LastCall>,
    /// What was learnt, oldest first: the payment's events and its cancellations', each with its call to the PG.
    pub evidence: Vec<EventView>,
    /// What reconciliations found about this payment, newest first.
    pub findings: Vec<FindingView>,
    /// The circuit breakers of this process; absent where there are none, as on the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breakers: Option<Vec<BreakerView>>,
    /// What an operator may do, the most useful first.
    pub actions: Vec<ActionView>,
}

/// When the PG is asked next.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InquiryPlan {
    /// Not before.
    pub next_at: DateTime<Utc>,
    /// How often it was asked already.
    pub made: i32,
    /// How often it did not know the payment, after the quarantine.
    pub not_found_seen: i32,
    /// Which sending this is: the number after the colon of the PG's idempotency key.
    pub attempt: i32,
    /// Until when a worker has it in hand, if one has.
    pub leased_until: Option<DateTime<Utc>>,
}

/// A cancellation that is not decided.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenCancellationView {
    /// `can_…`
    #[schema(value_type = String)]
    pub id: CancellationId,
    /// Minor units that it has taken from the balance.
    pub amount: i64,
    /// `request`, `wish` or `compensation`.
    pub origin: &'static str,
    /// Why it is open.
    pub why: String,
    /// Why its outcome is not certain, if that was noted.
    pub doubt: Option<&'static str>,
    /// When it is looked after next.
    pub inquiry: Option<InquiryPlan>,
    /// When it was asked for.
    pub since: DateTime<Utc>,
}

/// The newest call to the PG.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastCall {
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// The event that recorded it.
    #[schema(example = "PaymentOutcomeUnknown")]
    pub recorded_by: String,
    /// Operation, outcome, HTTP status, code, duration and the PG's own trace id.
    #[schema(value_type = Object)]
    pub call: serde_json::Value,
}

/// Where the circuit breaker of an operation stands.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakerView {
    /// `confirm`, `cancel`, `inquire`.
    pub operation: &'static str,
    /// `closed`, `half_open` or `open`.
    pub state: &'static str,
}

/// What an operator may do.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActionView {
    /// `wait`, `inquire`, `cancel`, `cancel_order`, `ask_provider` or `refund_in_console`.
    #[schema(example = "inquire")]
    pub action: &'static str,
    /// The route, with the secret key.
    pub route: Option<String>,
    /// The command.
    pub command: Option<String>,
    /// What it does.
    pub what: &'static str,
}

/// Explains a payment; `door` is the PG's, where this process has one. `None` if there is no such payment.
pub async fn explain(db: &Db, door: Option<&Door>, id: PaymentId) -> Result<Option<ExplanationView>, DbError> {
    let gathered = db.read(async |conn| gather(conn, id).await).await?;
    Ok(gathered.map(|gathered| told(&gathered, door)))
}

struct Gathered {
    payment: PaymentRow,
    leased_until: Option<DateTime<Utc>>,
    order: OrderRow,
    open: Option<(CancellationRow, Option<DateTime<Utc>>)>,
    evidence: Vec<EventRow>,
    findings: Vec<FindingRow>,
}

async fn gather(conn: &Conn, id: PaymentId) -> Result<Option<Gathered>, DbError> {
    let Some(payment) = db::payments::find(conn, id).await? else { return Ok(None) };
    let Some(order) = db::orders::find(conn, payment.order_id).await? else { return Ok(None) };
    let leased_until = db::payments::leased_until(conn, id).await?;
    let own: Vec<_> =
        cancellations::of_payments(conn, &[id]).await?.into_iter().map(|(row, _)| row.id.uuid()).collect();
    let open = match cancellations::open_of(conn, id).await? {
        Some(row) => {
            let leased_until = cancellations::leased_until(conn, row.id).await?;
            Some((row, leased_until))
        }
        None => None,
    };
    let mut evidence = events::of_order(conn, payment.order_id, EVENTS_MAX).await?;
    evidence.retain(|event| event.aggregate_id == id.uuid() || own.contains(&event.aggregate_id));
    let findings = db::findings::of_payment(conn, &payment.provider, &payment.provider_payment_key).await?;
    Ok(Some(Gathered { payment, leased_until, order, open, evidence, findings }))
}

fn told(gathered: &Gathered, door: Option<&Door>) -> ExplanationView {
    let (payment, order) = (&gathered.payment, &gathered.order);
    let explanation = explanation::explain(&facts(gathered, door.is_some_and(|door| door.inquiry_room() == 0)));
    let plan = |next_at, made, not_found_seen, attempt, leased_until: Option<DateTime<Utc>>| InquiryPlan {
        next_at,
        made,
        not_found_seen,
        attempt,
        leased_until: leased_until.filter(|until| *until > clock::now()),
    };
    let open = gathered.open.as_ref().map(|(row, leased)| OpenCancellationView {
        id: row.id,
        amount: row.amount,
        origin: row.origin.as_str(),
        why: explanation.open_cancellation.clone().unwrap_or_default(),
        doubt: row.doubt.map(crate::domain::evidence::DoubtReason::as_str),
        inquiry: row.inquire_at.map(|at| plan(at, row.inquiries, row.not_found_count, row.attempt, *leased)),
        since: row.created_at,
    });
    let breaker = |(operation, state): (crate::telemetry::labels::ProviderOperation, _)| {
        let state: crate::telemetry::labels::BreakerState = state;
        BreakerView { operation: operation.as_str(), state: state.as_str() }
    };
    ExplanationView {
        payment_id: payment.id,
        order_id: order.id,
        status: payment.status.as_str(),
        order_status: order.status.as_str(),
        summary: explanation.summary,
        awaits: explanation.awaits.as_str(),
        buyer_sees: explanation.buyer_sees,
        doubt: payment.doubt.map(crate::domain::evidence::DoubtReason::as_str),
        inquiry: payment.inquire_at.map(|at| {
            let (made, seen) = (payment.inquiries, payment.not_found_count);
            plan(at, made, seen, payment.confirm_attempt, gathered.leased_until)
        }),
        open_cancellation: open,
        last_call: gathered.evidence.iter().rev().find_map(last_call),
        evidence: gathered.evidence.iter().cloned().map(view::event).collect(),
        findings: gathered.findings.iter().cloned().map(findings::view).collect(),
        breakers: door.map(|door| door.breakers().into_iter().map(breaker).collect()),
        actions: explanation.actions.into_iter().map(|action| action_view(action, payment.id, order.id)).collect(),
    }
}

fn facts(gathered: &Gathered, inquiries_stopped: bool) -> Facts {
    let (payment, order) = (&gathered.payment, &gathered.order);
    let is_ahead = |at: Option<DateTime<Utc>>| at.is_some_and(|at| at > clock::now());
    Facts {
        status: payment.status,
        order: order.status,
        method: payment.method,
        doubt: payment.doubt,
        request_running: payment.status == PaymentStatus::Confirming
            && payment.doubt.is_none()
            && is_ahead(payment.inquire_at),
        cancel_wished: order.cancel_requested_at.is_some(),
        inquiries_stopped,
        open: gathered.open.as_ref().map(|(row, _)| OpenCancel {
            origin: row.origin,
            doubt: row.doubt,
            request_running: row.doubt.is_none() && is_ahead(row.inquire_at),
            needs_account: row.needs_account,
        }),
    }
}

fn last_call(event: &EventRow) -> Option<LastCall> {
    let call = event.detail.get("call")?.clone();
    Some(LastCall { at: event.occurred_at, recorded_by: event.kind.clone(), call })
}

fn action_view(action: Action, payment: PaymentId, order: OrderId) -> ActionView {
    let (route, command, what) = match action {
        Action::Wait => (None, None, "Nothing: recovery asks the PG at `nextAt`, and applies what it says."),
        Action::Inquire => (
            Some(format!("POST /v1/payments/{payment}/inquire")),
            Some(format!("paygauge inquire {payment}")),
            "Asks the PG now, and applies what it says as recovery would.",
        ),
        Action::Cancel => (
            Some(format!("POST /v1/payments/{payment}/cancel")),
            None,
            "Gives money back, or closes the virtual account.",
        ),
        Action::CancelOrder => (
            Some(format!("POST /v1/orders/{order}/cancel")),
            None,
            "Ends the order: at once while it is unpaid, or as soon as the outcome is certain.",
        ),
        Action::AskProvider => (None, None, "Give the PG's support the `providerTraceId` of the calls above."),
        Action::RefundInConsole => {
            (None, None, "Ask the buyer for an account, and refund all of it in the PG's own console; then inquire.")
        }
    };
    ActionView { action: action.as_str(), route, command, what }
}
