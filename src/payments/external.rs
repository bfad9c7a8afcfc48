//! Cancels that the PG lists and we did not make: somebody used the PG's own console.
//!
//! They are recorded as done, once each by the PG's transaction key. When the last of the money is gone the order
//! gives all its remaining units back, as after our own cancels; with the policy `hold` a correction takes them out of
//! stock in the same breath, and a finding tells a person.

use serde_json::json;

use super::after_commit::KeptOut;
use super::findings::FINDING_REASON_CHARS_MAX;
use super::resolve::{ResolveError, Step};
use super::resolve_cancel;
use crate::config::ExternalCancelStock;
use crate::db::cancellations::{self, NewCancellation};
use crate::db::events::{self, Subject};
use crate::db::findings::{self, NewFinding};
use crate::db::payments::PaymentChange;
use crate::db::told::{Fact, once_committed};
use crate::domain::cancellation::{CancellationEvent, CancellationOrigin, CancellationStatus};
use crate::domain::evidence::{PgCancel, Snapshot};
use crate::domain::ids::{CancellationId, ProductId};
use crate::domain::money::Money;
use crate::domain::order::OrderEvent;
use crate::domain::payment::{PaymentEvent, PaymentStatus};
use crate::domain::reconciliation::{Difference, FindingKind, FindingStatus, dedupe_key};
use crate::domain::stock::{CancelPlan, CancelScope, LineQuantity, plan_cancel};
use crate::telemetry::labels::MoneyMove;
use crate::telemetry::record;

/// Records what is new; `true` if anything was.
pub(super) async fn record(step: &mut Step<'_>, snapshot: &Snapshot) -> Result<bool, ResolveError> {
    let keeps_money = matches!(step.payment.status, PaymentStatus::Approved | PaymentStatus::PartiallyCanceled);
    if !keeps_money || snapshot.cancels.is_empty() {
        return Ok(false);
    }
    let known = cancellations::known_transactions(step.conn().await?, step.payment.id).await?;
    let open = cancellations::open_of(step.conn().await?, step.payment.id).await?;
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
    let lines = resolve_cancel::lines(step.conn().await?, step.order.id, step.order.currency).await?;
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
    if !cancellations::insert_external(step.conn().await?, new, cancel).await? {
        return Ok(false);
    }
    let subject =
        Subject::Cancellation { id, event: CancellationEvent::Done, from: None, to: CancellationStatus::Done };
    let detail = json!({ "amount": cancel.amount, "origin": "external" });
    events::append(step.conn().await?, step.order.id, 1, subject, step.origin, detail).await?;
    move_money(step, cancel, &plan).await?;
    once_committed(Fact::Moved(MoneyMove::Cancel, Money::new(cancel.amount, step.payment.currency)));
    if step.app.settings.external_cancel_stock == ExternalCancelStock::Hold && !plan.lines.is_empty() {
        keep_out(step, cancel, &plan.lines).await?;
    }
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
    crate::db::orders::take_line_capacity(step.conn().await?, step.order.id, &plan.lines).await?;
    resolve_cancel::restore(step.conn().await?, &mut step.after, step.order.id, &plan.lines).await?;
    Ok(())
}

/// Has units that are given back taken out of stock again, and files what there is to decide.
async fn keep_out(step: &mut Step<'_>, cancel: &PgCancel, lines: &[LineQuantity]) -> Result<(), ResolveError> {
    let items = crate::db::orders::items(step.conn().await?, step.order.id).await?;
    let mut units: Vec<_> = lines
        .iter()
        .filter_map(|unit| {
            let item = items.iter().find(|item| item.line == unit.line)?;
            Some((item.product_id, i64::from(unit.quantity)))
        })
        .collect();
    units.sort_unstable();
    for &(product, quantity) in &units {
        let (actor, trace_id) = (step.origin.actor.clone(), step.origin.trace_id.clone());
        step.after.keep_out(product, quantity, KeptOut { order: step.order.id, actor, trace_id });
    }
    file_held(step, cancel, &units).await
}

async fn file_held(step: &mut Step<'_>, cancel: &PgCancel, units: &[(ProductId, i64)]) -> Result<(), ResolveError> {
    let payment = &step.payment;
    let difference = Difference {
        kind: FindingKind::StockHeld,
        amount: Some(Money::new(cancel.amount, payment.currency)),
        transaction_key: Some(cancel.transaction_key.clone()),
        at: cancel.canceled_at,
        why: "",
    };
    let listed: Vec<String> = units.iter().map(|(product, quantity)| format!("{quantity} of {product}")).collect();
    let reason = format!("kept out of stock until somebody has looked: {}", listed.join(", "));
    let new = NewFinding {
        provider: payment.provider.clone(),
        dedupe_key: dedupe_key(&payment.provider, &payment.provider_payment_key, &difference),
        kind: difference.kind,
        status: FindingStatus::Waiting,
        amount: difference.amount,
        payment_key: payment.provider_payment_key.clone(),
        transaction_key: difference.transaction_key,
        provider_order_id: step.order.id.to_string(),
        payment_id: Some(payment.id),
        order_id: Some(step.order.id),
        reason: reason.chars().take(FINDING_REASON_CHARS_MAX).collect(),
        trace_id: payment.trace_id.clone(),
        occurred_at: difference.at,
    };
    if findings::file(step.conn().await?, new, step.origin).await? {
        record::finding_filed(FindingKind::StockHeld);
    }
    Ok(())
}
