//! Cancel: give a paid order's money back, in full, by amount or by lines; close a virtual account before its
//! deposit.
//!
//! Two commits. *Intend* takes the capacity and writes the cancellation, *act* asks the PG with the balance we expect,
//! *resolve* moves the amounts and gives the stock back. The PG's balance is certain only between cancels, so a
//! payment has one open cancellation at a time.

mod intend;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use self::intend::intend;
use super::resolve::Target;
use super::resolve_cancel::{self, CancelResolution, resolve_cancel};
use super::{told, view};
use crate::app::App;
use crate::db::cancellations::{self, CancellationRow, NewCancellation};
use crate::db::events::{self, Origin, Subject};
use crate::db::idempotency::{Response, Scope};
use crate::db::orders::OrderRow;
use crate::db::payments::PaymentRow;
use crate::db::{self, Conn, DbError};
use crate::domain::cancellation::{CancellationEvent, CancellationOrigin, CancellationStatus};
use crate::domain::evidence::{CancelAnswer, Doubt, DoubtReason};
use crate::domain::ids::{CancellationId, PaymentId};
use crate::domain::money::Money;
use crate::domain::order::OrderStatus;
use crate::domain::payment::{Method, PaymentStatus};
use crate::domain::resolution::CancelEvidence;
use crate::domain::stock::{CancelPlan, CancelScope, ScopeError, plan_cancel};
use crate::provider::call::Call;
use crate::provider::protection::{Permit, Refused};
use crate::provider::{CancelRequest, RefundAccount};
use crate::telemetry::facts::{self, Fact};
use crate::telemetry::propagate::{self, Link};
use crate::telemetry::traces;

/// What the caller wants.
#[derive(Debug, Clone)]
pub struct Cancel {
    /// The payment.
    pub payment: PaymentId,
    /// Why; 1–200 characters, shown to the buyer by the PG.
    pub reason: String,
    /// How much.
    pub scope: CancelScope,
    /// Where to send the money of a paid virtual account.
    pub refund_account: Option<RefundAccount>,
    /// Whether the caller may cancel money that was taken.
    pub may_cancel_paid: bool,
}

/// The answer to a caller.
#[derive(Debug, Clone)]
pub enum Canceled {
    /// Decided now or before.
    Answered {
        /// 200 or 409, with the cancellation's view.
        response: Response,
        /// Whether it was decided before this request.
        replayed: bool,
    },
    /// Not certain yet: poll the payment.
    Undecided(Box<view::CancellationView>),
}

/// Why nothing was canceled.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// No such payment.
    #[error("no such payment")]
    PaymentNotFound,
    /// The caller's token reaches only unpaid orders.
    #[error("the checkout token cannot cancel a paid order")]
    NotAllowed,
    /// The payment holds no money that could go back.
    #[error("the payment is {}", status.as_str())]
    NotCancelable {
        /// Where it stands.
        status: PaymentStatus,
    },
    /// The payment's outcome is not certain yet.
    #[error("the payment is being decided")]
    PaymentInFlight,
    /// Another cancellation is being decided.
    #[error("another cancellation of this payment is being decided")]
    CancellationInProgress,
    /// What is asked does not fit what is left.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// A deposited virtual account needs an account to refund to.
    #[error("a refund account is needed")]
    RefundAccountNeeded,
    /// An account that is not paid yet can only be closed as a whole.
    #[error("an unpaid account can only be canceled in full")]
    PartialNotAllowed,
    /// The idempotency key was used for something else.
    #[error("the idempotency key was used for another request")]
    KeyMismatch,
    /// The first request with this key is still running.
    #[error("the first request with this key is still running")]
    KeyInFlight,
    /// The PG is not asked now; nothing was written.
    #[error(transparent)]
    NotAdmitted(#[from] Refused),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Cancels.
pub async fn cancel(app: &Arc<App>, request: Cancel, scope: Scope, origin: Origin) -> Result<Canceled, CancelError> {
    facts::tell(Fact::Payment(request.payment));
    let intended = match intend(app, &request, &scope, &origin).await? {
        Intended::Go(intended) => intended,
        Intended::Known(id) => return today(app, id).await,
        Intended::Replay(response) => return Ok(Canceled::Answered { response, replayed: true }),
    };
    let Go { order, confirmed_in, cancellation, request: asked, permit } = *intended;
    propagate::link(confirmed_in.as_deref(), Link::Confirm);
    traces::about_order(&order.id);
    traces::about_payment(&request.payment);
    told::cancellation(&cancellation, order.currency);
    told::customer(&order);
    let (evidence, call) = act(app, &asked, permit).await;
    let target = Target { payment: request.payment, order: order.id, seen: None };
    let id = cancellation.id;
    match resolve_cancel(app, target, id, evidence, Some(&call), &origin).await {
        Ok(resolution) => Ok(answered(resolution)),
        Err(error) => {
            // The money may be back already, so this is no failure: recovery looks and records it.
            tracing::error!(cancellation_id = %id, %error, "the PG's answer could not be recorded");
            let currency = order.currency.code();
            Ok(Canceled::Undecided(Box::new(view::cancellation(&cancellation, &[], currency))))
        }
    }
}

fn answered(resolution: CancelResolution) -> Canceled {
    let replayed = !resolution.changed;
    from_view(resolution.cancellation.status, resolution.view, replayed)
}

fn from_view(status: CancellationStatus, view: view::CancellationView, replayed: bool) -> Canceled {
    let status = match status {
        CancellationStatus::Requested => return Canceled::Undecided(Box::new(view)),
        CancellationStatus::Done => 200,
        CancellationStatus::Refused => 409,
    };
    match view::stored(status, &view) {
        Ok(response) => Canceled::Answered { response, replayed },
        Err(_) => Canceled::Undecided(Box::new(view)),
    }
}

async fn today(app: &App, id: CancellationId) -> Result<Canceled, CancelError> {
    facts::tell(Fact::Cancellation(id));
    app.db
        .read(async |conn| {
            let row = cancellations::find(conn, id).await?.ok_or(CancelError::PaymentNotFound)?;
            let payment = db::payments::find(conn, row.payment_id).await?.ok_or(CancelError::PaymentNotFound)?;
            let units = cancellations::units(conn, id).await?;
            Ok(from_view(row.status, view::cancellation(&row, &units, payment.currency.code()), true))
        })
        .await
}

struct Go {
    order: OrderRow,
    /// The trace of the payment's confirm.
    confirmed_in: Option<String>,
    cancellation: CancellationRow,
    request: CancelRequest,
    permit: Permit,
}

enum Intended {
    Go(Box<Go>),
    Known(CancellationId),
    Replay(Response),
}

enum Stop {
    Replay(Response),
    Known(CancellationId),
    Refused(CancelError),
}

impl From<DbError> for Stop {
    fn from(error: DbError) -> Self {
        Self::Refused(CancelError::Db(error))
    }
}

impl From<CancelError> for Stop {
    fn from(error: CancelError) -> Self {
        Self::Refused(error)
    }
}

/// Whether the payment can be canceled so.
fn check(payment: &PaymentRow, request: &Cancel) -> Result<(), CancelError> {
    match payment.status {
        PaymentStatus::Confirming => return Err(CancelError::PaymentInFlight),
        PaymentStatus::AwaitingDeposit => return Ok(()),
        PaymentStatus::Approved | PaymentStatus::PartiallyCanceled => {}
        status @ (PaymentStatus::Ready
        | PaymentStatus::Canceled
        | PaymentStatus::Declined
        | PaymentStatus::Expired
        | PaymentStatus::Reversing) => return Err(CancelError::NotCancelable { status }),
    }
    if !request.may_cancel_paid {
        return Err(CancelError::NotAllowed);
    }
    if payment.method == Some(Method::VirtualAccount) && request.refund_account.is_none() {
        return Err(CancelError::RefundAccountNeeded);
    }
    Ok(())
}

/// The request to the PG. All of a payment that had no cancel before is asked for without an amount, so that the PG
/// closes it as a whole.
fn build(
    payment: &PaymentRow,
    cancellation: &CancellationRow,
    is_full: bool,
    refund_account: Option<RefundAccount>,
) -> CancelRequest {
    let untouched = is_full && payment.canceled_amount == 0;
    let deposited = payment.status != PaymentStatus::AwaitingDeposit;
    let left = payment.approved_amount.unwrap_or(payment.amount) - payment.canceled_amount;
    CancelRequest {
        payment_key: payment.provider_payment_key.clone(),
        cancellation_id: cancellation.id,
        reason: cancellation.reason.clone(),
        amount: (!untouched).then(|| Money::new(cancellation.amount, payment.currency)),
        expected_balance: deposited.then(|| Money::new(left, payment.currency)),
        refund_account,
        idempotency_key: cancellation.cancel_key(),
    }
}

/// The request to the PG for a cancellation that recovery sends again.
#[must_use]
pub(super) fn rebuild(payment: &PaymentRow, cancellation: &CancellationRow) -> CancelRequest {
    let taken = payment.approved_amount.unwrap_or(payment.amount);
    let is_full = payment.canceled_amount + cancellation.amount == taken;
    let mut request = build(payment, cancellation, is_full, None);
    if cancellation.origin == CancellationOrigin::Compensation {
        // All of it goes back, whatever the PG believes it to be.
        (request.amount, request.expected_balance) = (None, None);
    }
    request
}

/// Asks the PG to give the money back.
pub(super) async fn act(app: &App, request: &CancelRequest, permit: Permit) -> (CancelEvidence, Call) {
    let (answer, call) = app.provider.cancel(permit, request).await;
    let evidence = match answer {
        CancelAnswer::Answered(snapshot) => CancelEvidence::Snapshot(snapshot),
        CancelAnswer::Refused(refusal) => CancelEvidence::Refused(refusal),
        // The intent stands: recovery sends it until the PG answers.
        CancelAnswer::NotSent(not_sent) => {
            CancelEvidence::Doubt(Doubt { reason: DoubtReason::TryLater, code: not_sent.code })
        }
        CancelAnswer::Unknown(doubt) => CancelEvidence::Doubt(doubt),
    };
    (evidence, call)
}

/// What a cancellation is to take, against locked rows.
pub(super) struct Intent<'a> {
    pub(super) order: &'a OrderRow,
    pub(super) payment: &'a PaymentRow,
    pub(super) scope: CancelScope,
    pub(super) reason: &'a str,
    pub(super) origin: CancellationOrigin,
    pub(super) needs_account: bool,
    pub(super) recover_after: Duration,
}

/// Takes the capacity and writes the cancellation with its first event, in the caller's transaction.
pub(super) async fn write_intent(conn: &Conn, intent: Intent<'_>, origin: &Origin) -> Result<(), CancelError> {
    write_intent_as(conn, CancellationId::new(), intent, origin).await.map(|_| ())
}

async fn write_intent_as(
    conn: &Conn,
    id: CancellationId,
    intent: Intent<'_>,
    origin: &Origin,
) -> Result<(CancellationRow, bool), CancelError> {
    let (order, payment) = (intent.order, intent.payment);
    if cancellations::open_of(conn, payment.id).await?.is_some() {
        return Err(CancelError::CancellationInProgress);
    }
    // A reversal's order keeps or gives back its stock by itself.
    let lines = match payment.status {
        PaymentStatus::Reversing => Vec::new(),
        PaymentStatus::Ready
        | PaymentStatus::Confirming
        | PaymentStatus::AwaitingDeposit
        | PaymentStatus::Approved
        | PaymentStatus::PartiallyCanceled
        | PaymentStatus::Canceled
        | PaymentStatus::Declined
        | PaymentStatus::Expired => resolve_cancel::lines(conn, order.id, order.currency).await?,
    };
    let plan = plan_cancel(&intent.scope, payment.balance(), &lines)?;
    if !db::payments::take_capacity(conn, payment.id, plan.amount).await?
        || !db::orders::take_line_capacity(conn, order.id, &plan.lines).await?
    {
        return Err(ScopeError::ExceedsBalance { balance: payment.balance() }.into());
    }
    let is_full = plan.is_full;
    let row = cancellations::insert(conn, intent.new_cancellation(id, plan, origin)).await?;
    let (subject, detail) = requested(&row);
    events::append(conn, order.id, row.version, subject, origin, detail).await?;
    Ok((row, is_full))
}

impl Intent<'_> {
    fn new_cancellation(&self, id: CancellationId, plan: CancelPlan, origin: &Origin) -> NewCancellation {
        NewCancellation {
            id,
            payment_id: self.payment.id,
            order_id: self.order.id,
            provider: self.payment.provider.clone(),
            amount: plan.amount,
            reason: self.reason.to_owned(),
            origin: self.origin,
            needs_account: self.needs_account,
            units: plan.lines,
            recover_after: self.recover_after,
            trace_id: origin.trace_id.clone(),
        }
    }
}

/// The event of a new cancellation.
fn requested(row: &CancellationRow) -> (Subject, Value) {
    let (event, to) = (CancellationEvent::Requested, CancellationStatus::Requested);
    let detail = json!({ "amount": row.amount, "origin": row.origin.as_str(), "payment": row.payment_id });
    (Subject::Cancellation { id: row.id, event, from: None, to }, detail)
}

/// Whether an order can be canceled only by giving its payment back.
#[must_use]
pub const fn needs_payment_cancel(status: OrderStatus) -> bool {
    match status {
        OrderStatus::AwaitingDeposit | OrderStatus::Paid | OrderStatus::PartiallyCanceled => true,
        OrderStatus::Pending | OrderStatus::Confirming | OrderStatus::Canceled | OrderStatus::Expired => false,
    }
}
