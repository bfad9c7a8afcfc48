//! Cancels that the PG lists and we did not make: somebody used the PG's own console.
//!
//! They are recorded as done, once each by the PG's transaction key. When the last of the money is gone the order
//! gives all its remaining units back, as after our own cancels.

use serde_json::json;

use super::resolve::{ResolveError, Step};
use super::resolve_cancel;
use crate::db::cancellations::{self, NewCancellation};
use crate::db::events::{self, Subject};
use crate::db::payments::PaymentChange;
use crate::domain::cancellation::{CancellationEvent, CancellationOrigin, CancellationStatus};
use crate::domain::evidence::{PgCancel, Snapshot};
use crate::domain::ids::CancellationId;
use crate::domain::order::OrderEvent;
use crate::domain::payment::{PaymentEvent, PaymentStatus};
use crate::domain::stock::{CancelPlan, CancelScope, plan_cancel};

/// Records what is new; `true` if anything was.
pub(super) async fn record(step: &mut Step<'_>, snapshot: &Snapshot) -> Result<bool, ResolveError> {
    let keeps_money = matches!(step.payment.status, PaymentStatus::Approved | PaymentStatus::PartiallyCanceled);
    if !keeps_money || snapshot.cancels.is_empty() {
        return Ok(false);
    }
    let known = cancellations::known_transactions(step.conn, step.payment.id).await?;
    let open = cancellations::open_of(step.conn, step.payment.id).await?;
    let ours = open.map(|row| format!("[{}]", row.id));
    let mut recorded = false;
    for cancel in &snapshot.cancels {
        let is_ours = ours.as_ref().is_some_and(|suffix| cancel.reason.ends_with(suffix));
        if cancel.done && cancel.amount > 0 && !is_ours && !known.contains(&cancel.transaction_key) {
            recorded |= record_one(step, cancel).await?;
        }
    }
    Ok(recorded)
}

async fn record_one(step: &mut Step<'_>, cancel: &PgCancel) -> Result<bool, ResolveError> {
    let lines = resolve_cancel::lines(step.conn, step.order.id, step.order.currency).await?;
    let kept = step.payment.approved_amount.unwrap_or(0) - step.payment.canceled_amount;
    let plan = plan_cancel(&CancelScope::Amount(cancel.amount), kept, &lines);
    let Some(plan) = plan.ok().filter(|plan| plan.amount <= step.payment.balance()) else {
        // An open cancellation of ours holds that capacity; it will be refused, and this one recorded then.
        tracing::warn!(payment_id = %step.payment.id, "a cancel made at the PG does not fit yet");
        return Ok(false);
    };
    let id = CancellationId::new();
    let new = NewCancellation {
        id,
        payment_id: step.payment.id,
        order_id: step.order.id,
        provider: step.payment.provider.clone(),
        amount: cancel.amount,
        reason: "canceled in the PG's console".to_owned(),
        origin: CancellationOrigin::External,
        needs_account: false,
        units: plan.lines.clone(),
        recover_after: std::time::Duration::ZERO,
        trace_id: step.origin.trace_id.clone(),
    };
    if !cancellations::insert_external(step.conn, new, cancel).await? {
        return Ok(false);
    }
    let subject =
        Subject::Cancellation { id, event: CancellationEvent::Done, from: None, to: CancellationStatus::Done };
    let detail = json!({ "amount": cancel.amount, "origin": "external" });
    events::append(step.conn, step.order.id, 1, subject, step.origin, detail).await?;
    move_money(step, cancel, &plan).await?;
    Ok(true)
}

async fn move_money(step: &mut Step<'_>, cancel: &PgCancel, plan: &CancelPlan) -> Result<(), ResolveError> {
    let canceled = step.payment.canceled_amount + cancel.amount;
    let is_empty = step.payment.approved_amount == Some(canceled);
    let (event, order_event) = if is_empty {
        (PaymentEvent::Canceled, OrderEvent::Canceled)
    } else {
        (PaymentEvent::PartiallyCanceled, OrderEvent::PartiallyCanceled)
    };
    let change = PaymentChange {
        canceled_amount: Some(canceled),
        canceled_at: is_empty.then(|| cancel.canceled_at.unwrap_or_else(crate::clock::now)),
        ..PaymentChange::default()
    };
    step.payment_to(event, change, json!({ "amount": cancel.amount, "by": "provider" })).await?;
    step.order_to(order_event).await?;
    crate::db::orders::take_line_capacity(step.conn, step.order.id, &plan.lines).await?;
    resolve_cancel::restore(step.conn, &mut step.after, step.order.id, &plan.lines).await?;
    Ok(())
}
