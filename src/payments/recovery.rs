//! Recovery: asks the PG about intents without a certain outcome, for as long as it takes.
//!
//! A row that is due is leased by a column, never locked, while the PG is asked. What comes back goes through
//! `resolve` like any other evidence. Retries change the pace, never the state: only the PG's word ends an intent.
//! A PG that is not asked now (its breaker is open, or all places are taken) changes nothing but the next try's time.

use std::sync::Arc;
use std::time::Duration;

use super::resolve::{Change, ResolveError, Target, resolve};
use super::resolve_cancel::{CancelResolution, resolve_cancel};
use super::{cancel, doubt, measure, told};
use crate::app::App;
use crate::clock;
use crate::config::Settings;
use crate::db::cancellations::{self, CancellationRow};
use crate::db::events::Origin;
use crate::db::payments::PaymentRow;
use crate::db::{self, DbError};
use crate::domain::cancellation::{CancellationOrigin, CancellationStatus};
use crate::domain::evidence::{
    ConfirmAnswer, Doubt, DoubtReason, Inquiry, NotSent, NotSentReason, PgStatus, Refusal, RefusalClass, Snapshot,
};
use crate::domain::ids::{OrderId, PaymentId};
use crate::domain::payment::PaymentStatus;
use crate::domain::resolution::{CancelEvidence, Evidence, find_cancel, is_all_back};
use crate::provider::ConfirmRequest;
use crate::provider::call::Call;
use crate::provider::protection::Refused;
use crate::telemetry::labels::{InquiryResult, Lane, Operation, ProviderOperation, Tx};
use crate::telemetry::propagate::{self, Link};
use crate::telemetry::{Span, SpanKind, current_trace_id, ledger, record, traces};

/// The pauses between inquiries, in milliseconds; the last one repeats for ever.
const PAUSES_MS: [u64; 9] = [300, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000];

/// How often "the PG does not know it" must be heard, after the quarantine, to count as "never arrived".
const NOT_FOUND_TIMES: i32 = 2;

/// The refusal of a cancel that asks for more than the PG has left.
pub(super) const BALANCE_TOO_SMALL: &str = "BALANCE_TOO_SMALL";

/// How long to wait after `inquiries` tries, with up to a fifth more so that many do not fall due together.
#[must_use]
pub fn wait(inquiries: i32) -> Duration {
    let index = usize::try_from(inquiries).unwrap_or(0).min(PAUSES_MS.len() - 1);
    let pause = PAUSES_MS.get(index).copied().unwrap_or(900_000);
    Duration::from_millis(pause + rand::random_range(0..=pause / 5))
}

/// How long to wait before a payment is asked about again: a deposit may take days, anything else should be quick.
#[must_use]
pub(super) fn pause(settings: &Settings, payment: &PaymentRow) -> Duration {
    if payment.status == PaymentStatus::AwaitingDeposit { settings.deposit_poll } else { wait(payment.inquiries) }
}

/// Leases what is due and takes one step with each; returns how many.
pub async fn recover_batch(app: &Arc<App>) -> Result<usize, DbError> {
    let (lease, rows) = (app.settings.worker_lease, inquiries_now(app));
    if rows == 0 {
        return Ok(0);
    }
    let (payments, cancels) = app
        .db
        .transaction(Tx::Lease, async |conn| {
            let payments = db::payments::lease_due(conn, lease, rows).await?;
            let cancels = cancellations::lease_due(conn, lease, rows).await?;
            Ok::<_, DbError>((payments, cancels))
        })
        .await?;
    let count = payments.len() + cancels.len();
    let payments = payments.into_iter().map(|row| {
        let app = Arc::clone(app);
        let item = async move {
            about(&row.order_id, &row.id, row.trace_id.as_deref(), Link::Confirm);
            let origin = own_origin();
            let item = Box::pin(recover_payment(&app, &row, &origin));
            measure::measured_item(&app, Operation::Recover, &row.id, measure::recovered, item).await;
        };
        Span::root(SpanKind::Internal, "recover payment").scope(item)
    });
    let cancels = cancels.into_iter().map(|row| {
        let app = Arc::clone(app);
        let item = async move {
            about(&row.order_id, &row.payment_id, row.trace_id.as_deref(), Link::Cancel);
            let origin = own_origin();
            let item = Box::pin(recover_cancel(&app, &row, &origin));
            measure::measured_item(&app, Operation::Recover, &row.id, measure::recovered, item).await;
        };
        Span::root(SpanKind::Internal, "recover cancellation").scope(item)
    });
    futures_util::future::join(futures_util::future::join_all(payments), futures_util::future::join_all(cancels)).await;
    Ok(count)
}

/// The item's own trace stands behind what it changes.
fn own_origin() -> Origin {
    Origin { actor: "recovery".to_owned(), trace_id: current_trace_id() }
}

/// Tells the item's span what it is about, and links it to the trace that left the doubt.
fn about(order: &OrderId, payment: &PaymentId, trace: Option<&str>, left_by: Link) {
    traces::about_order(order);
    traces::about_payment(payment);
    propagate::link(trace, left_by);
}

/// How many rows to take: no more than can be asked about. While the PG is known not to answer, none: they stay as
/// they are, instead of being taken and put back for nothing.
pub(super) fn inquiries_now(app: &App) -> i64 {
    app.settings.worker_batch_rows.min(i64::from(app.provider.inquiry_room()))
}

/// Asks about one payment and records what is learnt.
pub async fn recover_payment(app: &App, row: &PaymentRow, origin: &Origin) -> Result<Change, ResolveError> {
    Ok(ask_about(app, row, origin).await?.change)
}

/// What asking about a payment came to.
pub(super) struct Asked {
    /// What changed.
    pub(super) change: Change,
    /// Whether the PG has never heard of its key.
    pub(super) is_unknown: bool,
}

/// One step with a leased payment.
pub(super) async fn ask_about(app: &App, row: &PaymentRow, origin: &Origin) -> Result<Asked, ResolveError> {
    ledger::paid_by(row.method);
    told::payment(row);
    let target = Target { payment: row.id, order: row.order_id, seen: Some(row.version) };
    let (found, call) = match app.provider.inquire(Lane::Background, &row.provider_payment_key).await {
        Ok(asked) => asked,
        Err(refused) => return Ok(Asked { change: put_off(app, row, refused).await?, is_unknown: false }),
    };
    let is_unknown = matches!(found, Inquiry::NotFound);
    let change = match found {
        Inquiry::Found(snapshot)
            if row.status == PaymentStatus::Confirming && snapshot.status == PgStatus::InProgress =>
        {
            send_again(app, row, target, origin).await?
        }
        Inquiry::Found(snapshot) => {
            let resolution = resolve(app, target, Evidence::Snapshot(snapshot), Some(&call), origin).await?;
            told(app, &resolution.change);
            resolution.change
        }
        Inquiry::NotFound => not_found(app, row, target, &call, origin).await?,
        Inquiry::Unknown(_) => {
            record::inquiry(app.provider.label(), InquiryResult::StillUnknown);
            postpone(app, row, 0).await?;
            Change::StillOpen
        }
    };
    Ok(Asked { change, is_unknown })
}

fn told(app: &App, change: &Change) {
    let result = match change {
        Change::Decided | Change::BackToReady(_) | Change::Nothing => InquiryResult::Resolved,
        Change::StillOpen => InquiryResult::StillUnknown,
    };
    record::inquiry(app.provider.label(), result);
}

/// The PG waits for a confirm: ours never arrived, or did nothing. Sending it again is safe, because the PG takes the
/// money of one payment key at most once. A key that was answered only repeats its answer, so a new one is used.
async fn send_again(app: &App, row: &PaymentRow, target: Target, origin: &Origin) -> Result<Change, ResolveError> {
    let permit = match app.provider.admit_soon(ProviderOperation::Confirm).await {
        Ok(permit) => permit,
        Err(refused) => return put_off(app, row, refused).await,
    };
    let lease = app.settings.worker_lease;
    let next = app
        .db
        .transaction(Tx::Lease, async |conn| {
            let order = db::orders::find(conn, row.order_id).await?;
            if order.is_none_or(|order| order.cancel_requested_at.is_some()) {
                return Ok::<_, DbError>(None);
            }
            if row.doubt.is_some_and(DoubtReason::key_is_spent) {
                db::payments::next_attempt(conn, row.id, lease).await
            } else {
                Ok(Some(row.clone()))
            }
        })
        .await?;
    let Some(row) = next else {
        // The buyer wants out: nothing more is asked for; the PG's session will run out.
        postpone(app, row, 0).await?;
        return Ok(Change::StillOpen);
    };
    let request = ConfirmRequest {
        payment_key: row.provider_payment_key.clone(),
        order_id: row.order_id,
        amount: row.total(),
        idempotency_key: row.confirm_key(),
    };
    let (answer, call) = app.provider.confirm(permit, &request).await;
    let evidence = match answer {
        ConfirmAnswer::Answered(snapshot) => Evidence::Snapshot(snapshot),
        ConfirmAnswer::Declined(decline) => Evidence::Declined(decline),
        // Only this sending did nothing; an earlier one may still have.
        ConfirmAnswer::NotSent(not_sent) => {
            Evidence::Doubt(Doubt { reason: DoubtReason::TryLater, code: not_sent.code })
        }
        ConfirmAnswer::Unknown(doubt) => Evidence::Doubt(doubt),
    };
    let resolution = resolve(app, target, evidence, Some(&call), origin).await?;
    told(app, &resolution.change);
    Ok(resolution.change)
}

async fn not_found(
    app: &App,
    row: &PaymentRow,
    target: Target,
    call: &Call,
    origin: &Origin,
) -> Result<Change, ResolveError> {
    record::inquiry(app.provider.label(), InquiryResult::NotFound);
    let seen = row.not_found_count + 1;
    let quarantine_over = clock::now() > row.confirm_started_at + app.settings.not_found_quarantine;
    if row.status == PaymentStatus::Confirming && quarantine_over && seen >= NOT_FOUND_TIMES {
        let reason = NotSentReason::NeverArrived;
        let not_sent = NotSent { reason, code: call.code.clone(), retry_after_s: None };
        let resolution = resolve(app, target, Evidence::NotSent(not_sent), Some(call), origin).await?;
        return Ok(resolution.change);
    }
    // Only sightings after the quarantine count.
    postpone(app, row, if quarantine_over { seen } else { 0 }).await?;
    Ok(Change::StillOpen)
}

async fn postpone(app: &App, row: &PaymentRow, not_found_count: i32) -> Result<(), DbError> {
    let pause = pause(&app.settings, row);
    app.db
        .transaction(Tx::Lease, async |conn| {
            doubt::payment_stays_open(row);
            db::payments::postpone(conn, row.id, pause, None, not_found_count).await
        })
        .await
}

/// The PG was not asked: the row waits until it may be, and this try does not count.
async fn put_off(app: &App, row: &PaymentRow, refused: Refused) -> Result<Change, ResolveError> {
    let pause = until_admitted(refused);
    app.db.transaction(Tx::Lease, async |conn| db::payments::put_off(conn, row.id, pause).await).await?;
    Ok(Change::StillOpen)
}

/// With up to a fifth more, so that many do not come back together.
fn until_admitted(refused: Refused) -> Duration {
    let millis = u64::try_from(refused.retry_after.as_millis()).unwrap_or(u64::MAX / 2);
    Duration::from_millis(millis + rand::random_range(0..=millis / 5))
}

/// Looks whether a cancellation was made, and sends it (again) if it certainly was not.
pub async fn recover_cancel(app: &App, row: &CancellationRow, origin: &Origin) -> Result<Change, ResolveError> {
    let payment =
        app.db.read(async |conn| db::payments::find(conn, row.payment_id).await).await?.ok_or(ResolveError::Missing)?;
    ledger::paid_by(payment.method);
    told::cancellation(row, payment.currency);
    let target = Target { payment: row.payment_id, order: row.order_id, seen: Some(payment.version) };
    let (found, call) = match app.provider.inquire(Lane::Background, &payment.provider_payment_key).await {
        Ok(asked) => asked,
        Err(refused) => return put_off_cancel(app, row, refused).await,
    };
    let Inquiry::Found(snapshot) = found else {
        record::inquiry(app.provider.label(), InquiryResult::StillUnknown);
        return postpone_cancel(app, row, None, 0).await;
    };
    let by_hand = row.origin == CancellationOrigin::Compensation && is_all_back(&snapshot);
    if by_hand || find_cancel(&snapshot, row.id, payment.status).is_some() {
        let evidence = CancelEvidence::Snapshot(snapshot.clone());
        let resolution = resolve_cancel(app, target, row.id, evidence, Some(&call), origin).await?;
        // The PG may list cancels beside ours that nobody else will ask about.
        resolve(app, target, Evidence::Snapshot(snapshot), Some(&call), origin).await?;
        let done = resolution.cancellation.status == CancellationStatus::Done;
        let result = if done { InquiryResult::Resolved } else { InquiryResult::StillUnknown };
        record::inquiry(app.provider.label(), result);
        return Ok(change(&resolution));
    }
    // Whatever else happened at the PG goes into the books first.
    resolve(app, target, Evidence::Snapshot(snapshot.clone()), Some(&call), origin).await?;
    if let Some(refusal) = hopeless(app, row, &snapshot) {
        let evidence = CancelEvidence::Refused(refusal);
        let refused = resolve_cancel(app, target, row.id, evidence, Some(&call), origin).await?;
        // The capacity that it held is free: a cancel made at the PG that did not fit before does now.
        resolve(app, target, Evidence::Snapshot(snapshot), Some(&call), origin).await?;
        return Ok(change(&refused));
    }
    if row.needs_account {
        let seen = row.not_found_count + i32::from(quarantine_over(app, row));
        return postpone_cancel(app, row, None, seen).await;
    }
    send_cancel_again(app, row, target, origin).await
}

fn change(resolution: &CancelResolution) -> Change {
    match resolution.cancellation.status {
        CancellationStatus::Requested => Change::StillOpen,
        CancellationStatus::Done | CancellationStatus::Refused => Change::Decided,
    }
}

fn quarantine_over(app: &App, row: &CancellationRow) -> bool {
    clock::now() > row.created_at + app.settings.not_found_quarantine
}

/// Whether the PG's balance leaves no way to make this cancel, or its refund account is lost.
fn hopeless(app: &App, row: &CancellationRow, snapshot: &Snapshot) -> Option<Refusal> {
    let compensates = row.origin == CancellationOrigin::Compensation;
    if snapshot.balance < row.amount && !compensates && snapshot.amount.is_some() {
        return Some(Refusal { class: RefusalClass::Amount, code: BALANCE_TOO_SMALL.to_owned() });
    }
    let lost = row.needs_account && quarantine_over(app, row) && row.not_found_count + 1 >= NOT_FOUND_TIMES;
    lost.then(|| Refusal { class: RefusalClass::RefundAccount, code: "REQUEST_LOST".to_owned() })
}

async fn send_cancel_again(
    app: &App,
    row: &CancellationRow,
    target: Target,
    origin: &Origin,
) -> Result<Change, ResolveError> {
    let permit = match app.provider.admit_soon(ProviderOperation::Cancel).await {
        Ok(permit) => permit,
        Err(refused) => return put_off_cancel(app, row, refused).await,
    };
    let lease = app.settings.worker_lease;
    let still_open = app
        .db
        .transaction(Tx::Lease, async |conn| {
            // Read together under the payment's lock: the balance that is sent and the key that it is sent under.
            let payment = db::payments::lock(conn, row.payment_id).await?.ok_or(ResolveError::Missing)?;
            let row = cancellations::lock(conn, row.id).await?.ok_or(ResolveError::Missing)?;
            let next = if row.doubt.is_some_and(DoubtReason::key_is_spent) {
                cancellations::next_attempt(conn, row.id, lease).await?
            } else {
                Some(row).filter(|row| row.status == CancellationStatus::Requested)
            };
            Ok::<_, ResolveError>(next.map(|row| (row, payment)))
        })
        .await?;
    let Some((row, payment)) = still_open else {
        // Somebody else has decided it since the PG was asked.
        return Ok(Change::Nothing);
    };
    let (evidence, call) = cancel::act(app, &cancel::rebuild(&payment, &row), permit).await;
    let evidence = match evidence {
        // Only this sending was refused for the shop's own fault; an earlier one may have gone through.
        CancelEvidence::Refused(refusal) if refusal.class == RefusalClass::MerchantConfig && row.doubt.is_some() => {
            CancelEvidence::Doubt(Doubt { reason: DoubtReason::ProviderFault, code: Some(refusal.code) })
        }
        CancelEvidence::Snapshot(_) | CancelEvidence::Refused(_) | CancelEvidence::Doubt(_) => evidence,
    };
    if row.origin == CancellationOrigin::Compensation && row.inquiries > 3 {
        tracing::error!(cancellation_id = %row.id, "money that no order may keep is still not returned");
    }
    Ok(change(&resolve_cancel(app, target, row.id, evidence, Some(&call), origin).await?))
}

async fn postpone_cancel(
    app: &App,
    row: &CancellationRow,
    noted: Option<DoubtReason>,
    not_found_count: i32,
) -> Result<Change, ResolveError> {
    let pause = wait(row.inquiries);
    app.db
        .transaction(Tx::Lease, async |conn| {
            doubt::cancellation_stays_open(row, app.provider.name());
            cancellations::postpone(conn, row.id, pause, noted, not_found_count).await
        })
        .await?;
    Ok(Change::StillOpen)
}

async fn put_off_cancel(app: &App, row: &CancellationRow, refused: Refused) -> Result<Change, ResolveError> {
    let pause = until_admitted(refused);
    app.db.transaction(Tx::Lease, async |conn| cancellations::put_off(conn, row.id, pause).await).await?;
    Ok(Change::StillOpen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_never_end() {
        assert!(wait(0) < Duration::from_millis(400));
        assert!(wait(8) >= Duration::from_secs(900));
        assert!(wait(i32::MAX) <= Duration::from_secs(1_080));
        assert!(wait(-1) < Duration::from_millis(400));
    }
}
