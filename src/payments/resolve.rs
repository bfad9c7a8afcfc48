//! `resolve`: the one function that turns evidence about a payment into state, whoever brings it: the request
//! itself, a webhook's inquiry, recovery or reconciliation. One transaction; repeating it changes nothing.

mod changes;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;

use super::after_commit::AfterCommit;
use super::{again, cancel, claim, external, recovery, told, view};
use crate::app::App;
use crate::db::batch::Batch;
use crate::db::events::{Origin, Subject};
use crate::db::orders::OrderRow;
use crate::db::payments::{PaymentChange, PaymentRow};
use crate::db::told::{Fact, once_committed};
use crate::db::{self, Conn, DbError, Look};
use crate::domain::IllegalTransition;
use crate::domain::cancellation::{self, CancellationEvent, CancellationOrigin, CancellationStatus};
use crate::domain::evidence::{Doubt, NotSent, Snapshot};
use crate::domain::ids::{OrderId, PaymentId};
use crate::domain::money::Money;
use crate::domain::order::OrderEvent;
use crate::domain::payment::{PaymentEvent, PaymentStatus};
use crate::domain::resolution::{self, Evidence, PaymentFacts, Reversal, Verdict};
use crate::domain::stock::CancelScope;
use crate::provider::call::Call;
use crate::telemetry::labels::{MoneyMove, Tx};
use crate::telemetry::ledger;

/// Which payment; the order is named too, because it is locked first.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The payment.
    pub payment: PaymentId,
    /// Its order.
    pub order: OrderId,
    /// The payment's version when the PG was asked, if it was: what has changed since is newer than the answer.
    pub seen: Option<i32>,
}

/// What the evidence came to.
#[derive(Clone)]
pub struct Resolution {
    /// The order afterwards.
    pub order: OrderRow,
    /// The payment afterwards.
    pub payment: PaymentRow,
    /// What changed.
    pub change: Change,
    /// What callers see.
    pub view: view::PaymentView,
}

/// What a resolution changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Nothing,
    /// Only that a doubt was noted, or the next inquiry planned.
    StillOpen,
    /// The certain outcome of a confirm or a deposit.
    Decided,
    /// Certainty that nothing happened: the same PG payment may be confirmed again.
    BackToReady(NotSent),
}

/// Why evidence could not be recorded. Nothing was: the row keeps its next inquiry.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The tables of `domain/` and the rows disagree: a defect.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// The payment or its order is gone.
    #[error("no such payment")]
    Missing,
    /// An answer could not be written as JSON.
    #[error("answer: {0}")]
    Json(#[from] serde_json::Error),
    /// The intent of a compensation or of a remembered cancel could not be written.
    #[error("compensation: {0}")]
    Intent(String),
}

/// Records `evidence` about a payment.
pub async fn resolve(
    app: &App,
    target: Target,
    evidence: Evidence,
    call: Option<&Call>,
    origin: &Origin,
) -> Result<Resolution, ResolveError> {
    let mut tries = 0;
    let (resolution, after) = loop {
        match write(app, target, evidence.clone(), call, origin).await {
            Err(error) if again::may_try_again(Tx::ConfirmResolve, &error, &mut tries).await => {}
            done => break done?,
        }
    };
    after.tell(app, target);
    ledger::paid_by(resolution.payment.method);
    told::payment(&resolution.payment);
    if after.follow_up || resolution.change == Change::StillOpen {
        app.nudges.recovery.notify_one();
    }
    Ok(resolution)
}

async fn write(
    app: &App,
    target: Target,
    evidence: Evidence,
    call: Option<&Call>,
    origin: &Origin,
) -> Result<(Resolution, AfterCommit), ResolveError> {
    let work = app.db.transaction_after(Tx::ConfirmResolve, Before { target }, async |conn, seen| {
        let (order, hold_alive, now) = seen.order.ok_or(ResolveError::Missing)?;
        let payment = seen.payment.ok_or(ResolveError::Missing)?;
        let facts = facts(&payment, app.settings.deposit_grace);
        let snapshot = match &evidence {
            Evidence::Snapshot(snapshot) => Some(snapshot.clone()),
            Evidence::Declined(_) | Evidence::NotSent(_) | Evidence::Doubt(_) => None,
        };
        let is_old = target.seen.is_some_and(|version| version != payment.version);
        let verdict = resolution::decide(&facts, evidence);
        let is_outdated = is_old && goes_by_the_latest(payment.status, &verdict);
        let (batch, after) = (Batch::new(conn), AfterCommit::default());
        let has_cancellations = seen.has_cancellations;
        let mut step = Step { batch, app, order, payment, hold_alive, has_cancellations, now, call, origin, after };
        let mut change = if is_outdated { step.look_again() } else { step.apply(verdict).await? };
        if let Some(snapshot) = snapshot
            && external::record(&mut step, &snapshot).await?
        {
            step.has_cancellations = true;
            step.renew_wish().await?;
            change = Change::Decided;
        }
        let view = step.view().await?;
        let Step { mut batch, order, payment, after, .. } = step;
        claim::keep_answer(&mut batch, &payment, &view, &change)?;
        after.give_back(&mut batch).await?;
        batch.commit().await?;
        Ok((Resolution { order, payment, change, view }, after))
    });
    work.await
}

/// What a resolution looks at first.
struct Before {
    target: Target,
}

/// The rows, locked, and the database's clock.
struct Seen {
    order: Option<(OrderRow, bool, DateTime<Utc>)>,
    payment: Option<PaymentRow>,
    has_cancellations: bool,
}

impl Look for Before {
    type Seen = Seen;

    async fn look(&self, conn: &Conn) -> Result<Seen, DbError> {
        let (order, payment, cancellations) = futures_util::join!(
            db::orders::lock_at(conn, self.target.order),
            db::payments::lock(conn, self.target.payment),
            db::cancellations::of_payment(conn, self.target.payment),
        );
        Ok(Seen { order: order?, payment: payment?, has_cancellations: !cancellations?.is_empty() })
    }
}

/// Whether only a fresh look may lead to this: banks take deposits back, so an answer from before the last change may be
/// about a deposit that had not come yet, or is gone again.
fn goes_by_the_latest(status: PaymentStatus, verdict: &Verdict) -> bool {
    match verdict {
        Verdict::DepositReversed(_) => true,
        Verdict::Approve(_) | Verdict::Reverse(_) => status == PaymentStatus::AwaitingDeposit,
        Verdict::Unchanged
        | Verdict::StillOpen(_)
        | Verdict::AwaitDeposit(_)
        | Verdict::Decline(_)
        | Verdict::BackToReady(_)
        | Verdict::DepositOverdue
        | Verdict::AccountClosed(_) => false,
    }
}

fn facts(payment: &PaymentRow, deposit_grace: Duration) -> PaymentFacts {
    let overdue = payment.deposit_due_at.is_some_and(|due| due + deposit_grace < crate::clock::now());
    PaymentFacts {
        payment_key: payment.provider_payment_key.clone(),
        order_id: payment.order_id.to_string(),
        status: payment.status,
        amount: payment.total(),
        has_cancellations: payment.canceled_amount + payment.canceling_amount > 0,
        method: payment.method,
        ever_taken: payment.approved_amount.is_some(),
        deposit_overdue: overdue,
    }
}

/// One resolution in progress: both rows locked, and what every event of it says. The rows are as they will be once
/// what is in the batch is written.
pub(super) struct Step<'a> {
    /// What is to be written at the end, in this order.
    batch: Batch<'a>,
    pub(super) app: &'a App,
    pub(super) order: OrderRow,
    pub(super) payment: PaymentRow,
    hold_alive: bool,
    has_cancellations: bool,
    /// The database's clock.
    now: DateTime<Utc>,
    call: Option<&'a Call>,
    pub(super) origin: &'a Origin,
    /// What its end has to do.
    pub(super) after: AfterCommit,
}

impl Step<'_> {
    async fn apply(&mut self, verdict: Verdict) -> Result<Change, ResolveError> {
        match verdict {
            Verdict::Unchanged => return Ok(Change::Nothing),
            Verdict::StillOpen(doubt) => return self.still_open(doubt).await,
            Verdict::BackToReady(not_sent) => {
                let detail = json!({ "reason": not_sent.reason.as_str(), "code": not_sent.code });
                self.payment_to(PaymentEvent::NotSent, PaymentChange::decided(PaymentStatus::Ready), detail).await?;
                self.order_without_money().await?;
                return Ok(Change::BackToReady(not_sent));
            }
            Verdict::Approve(snapshot) => self.approve(&snapshot).await?,
            Verdict::AwaitDeposit(snapshot) => self.await_deposit(&snapshot).await?,
            Verdict::Decline(decline) => {
                let change = PaymentChange::decided(PaymentStatus::Declined).declined(&decline);
                let detail = json!({ "class": decline.class.as_str(), "code": decline.code });
                self.payment_to(PaymentEvent::Declined, change, detail).await?;
                self.order_without_money().await?;
                self.after.declined = Some(decline.class);
            }
            Verdict::DepositReversed(snapshot) => {
                let mut change = self.waiting_for_deposit(&snapshot);
                if let Some(taken) = self.payment.approved_amount {
                    once_committed(Fact::Moved(MoneyMove::Cancel, Money::new(taken, self.payment.currency)));
                }
                (change.approved_amount, change.approved_at) = (Some(None), Some(None));
                self.payment_to(PaymentEvent::DepositReversed, change, json!({})).await?;
                self.order_to(OrderEvent::DepositReversed).await?;
            }
            Verdict::DepositOverdue | Verdict::AccountClosed(_) if self.payment.canceling_amount > 0 => {
                // Our own cancel is on its way: `resolve_cancel` tells that story.
                self.postpone(self.app.settings.deposit_poll, None);
                return Ok(Change::StillOpen);
            }
            Verdict::DepositOverdue => {
                let change = PaymentChange::decided(PaymentStatus::Expired);
                self.payment_to(PaymentEvent::DepositOverdue, change, json!({})).await?;
                self.order_to(OrderEvent::DepositOverdue).await?;
            }
            Verdict::AccountClosed(_) => {
                let mut change = PaymentChange::decided(PaymentStatus::Canceled);
                change.canceled_at = Some(crate::clock::now());
                self.payment_to(PaymentEvent::Canceled, change, json!({ "by": "provider" })).await?;
                self.order_to(OrderEvent::CanceledUnpaid).await?;
            }
            Verdict::Reverse(reversal) => self.reverse(&reversal).await?,
        }
        Ok(Change::Decided)
    }

    /// What was learnt is too old: an account that waits is asked about again at once.
    fn look_again(&mut self) -> Change {
        self.postpone(Duration::ZERO, None);
        Change::StillOpen
    }

    async fn approve(&mut self, snapshot: &Snapshot) -> Result<(), ResolveError> {
        let mut change = PaymentChange::decided(PaymentStatus::Approved).with_snapshot(snapshot);
        change.approved_amount = Some(Some(self.payment.amount));
        change.approved_at = Some(Some(snapshot.approved_at.unwrap_or_else(crate::clock::now)));
        self.payment_to(PaymentEvent::Approved, change, json!({ "amount": self.payment.amount })).await?;
        once_committed(Fact::Moved(MoneyMove::Confirm, self.payment.total()));
        self.order_to(OrderEvent::Paid).await?;
        self.honor_wish().await
    }

    async fn await_deposit(&mut self, snapshot: &Snapshot) -> Result<(), ResolveError> {
        let change = self.waiting_for_deposit(snapshot);
        self.payment_to(PaymentEvent::DepositAwaited, change, json!({ "amount": self.payment.amount })).await?;
        self.order_to(OrderEvent::DepositAwaited).await?;
        self.honor_wish().await
    }

    fn waiting_for_deposit(&self, snapshot: &Snapshot) -> PaymentChange {
        let mut change = PaymentChange::decided(PaymentStatus::AwaitingDeposit).with_snapshot(snapshot);
        change.inquire_at = Some(Some(crate::clock::now() + self.app.settings.deposit_poll));
        change
    }

    /// Acts on a cancel that was asked for while the outcome was open.
    async fn honor_wish(&mut self) -> Result<(), ResolveError> {
        if self.order.cancel_requested_at.is_none() {
            return Ok(());
        }
        let reason = self.order.cancel_reason.clone().unwrap_or_else(|| "canceled by the buyer".to_owned());
        self.cancel_all(CancellationOrigin::Wish, &reason).await
    }

    /// A cancel made in the PG's console came before the remembered one, which then asked for more than was left. The
    /// buyer still wants all of it back.
    async fn renew_wish(&mut self) -> Result<(), ResolveError> {
        if self.payment.status != PaymentStatus::PartiallyCanceled || self.payment.canceling_amount > 0 {
            return Ok(());
        }
        let wish = db::cancellations::newest_wish(self.conn().await?, self.payment.id).await?;
        if wish.is_some_and(|wish| wish.refusal_code.as_deref() == Some(recovery::BALANCE_TOO_SMALL)) {
            self.honor_wish().await?;
        }
        Ok(())
    }

    /// The open close of a virtual account cannot give back more than the PG has taken meanwhile.
    async fn reduce_open_cancellation(&mut self, taken: i64) -> Result<(), ResolveError> {
        let conn = self.conn().await?;
        let open = db::cancellations::open_of(conn, self.payment.id).await?.ok_or(ResolveError::Missing)?;
        let version = db::cancellations::reduce(conn, open.id, taken).await?;
        let (from, event) = (CancellationStatus::Requested, CancellationEvent::Reduced);
        let to = cancellation::next(from, event)?;
        let subject = Subject::Cancellation { id: open.id, event, from: Some(from), to };
        let detail = json!({ "amount": taken, "asked": open.amount });
        self.append(version, subject, detail).await
    }

    /// Gives back real money that no order may keep.
    async fn reverse(&mut self, reversal: &Reversal) -> Result<(), ResolveError> {
        let before = self.payment.status;
        let mut change = PaymentChange::decided(PaymentStatus::Reversing).with_snapshot(&reversal.snapshot);
        change.approved_amount = Some(Some(reversal.taken));
        change.approved_at = Some(Some(reversal.snapshot.approved_at.unwrap_or_else(crate::clock::now)));
        if self.payment.canceling_amount > reversal.taken {
            self.reduce_open_cancellation(reversal.taken).await?;
            change.canceling_amount = Some(reversal.taken);
        }
        let detail = json!({ "taken": reversal.taken, "cause": reversal.cause.as_str() });
        self.payment_to(PaymentEvent::ReversalStarted, change, detail).await?;
        once_committed(Fact::Moved(MoneyMove::Confirm, Money::new(reversal.taken, self.payment.currency)));
        match before {
            PaymentStatus::Confirming => self.order_without_money().await?,
            PaymentStatus::AwaitingDeposit => self.order_to(OrderEvent::DepositOverdue).await?,
            PaymentStatus::Ready
            | PaymentStatus::Approved
            | PaymentStatus::PartiallyCanceled
            | PaymentStatus::Canceled
            | PaymentStatus::Declined
            | PaymentStatus::Expired
            | PaymentStatus::Reversing => {}
        }
        self.after.reversed = Some((reversal.taken, reversal.cause));
        let reason = format!("returned automatically ({})", reversal.cause);
        self.cancel_all(CancellationOrigin::Compensation, &reason).await
    }

    /// Writes the intent to cancel all of this payment; recovery drives it. A cancellation that is open already goes on
    /// instead: when it is decided, `resolve_cancel` sees to what is left of a reversal.
    async fn cancel_all(&mut self, origin: CancellationOrigin, reason: &str) -> Result<(), ResolveError> {
        if self.payment.canceling_amount > 0 {
            self.after.follow_up = true;
            return Ok(());
        }
        let conn = self.conn().await?;
        self.has_cancellations = true;
        let intent = cancel::Intent {
            order: &self.order,
            payment: &self.payment,
            scope: CancelScope::Everything,
            reason,
            origin,
            needs_account: false,
            recover_after: Duration::ZERO,
        };
        cancel::write_intent(conn, intent, self.origin).await.map_err(|e| ResolveError::Intent(e.to_string()))?;
        self.payment = db::payments::find(conn, self.payment.id).await?.ok_or(ResolveError::Missing)?;
        self.after.follow_up = true;
        Ok(())
    }

    async fn still_open(&mut self, doubt: Doubt) -> Result<Change, ResolveError> {
        if self.is_with_its_request() {
            return Ok(Change::Nothing);
        }
        let payment = &self.payment;
        let wait = recovery::pause(&self.app.settings, payment);
        if payment.status == PaymentStatus::Confirming && payment.doubt.is_none() {
            let change = PaymentChange {
                doubt: Some(Some(doubt.reason)),
                inquire_at: Some(Some(crate::clock::now() + wait)),
                lease_until: Some(None),
                ..PaymentChange::default()
            };
            let detail = json!({ "doubt": doubt.reason.as_str(), "code": doubt.code });
            self.payment_to(PaymentEvent::OutcomeUnknown, change, detail).await?;
        } else {
            // The reason why a key is spent must survive an inquiry that says nothing new.
            let noted = (self.call.is_some_and(|call| call.operation != "inquire")).then_some(doubt.reason);
            self.postpone(wait, noted);
        }
        Ok(Change::StillOpen)
    }

    /// Whether the request that wrote the intent still waits for the PG's answer. An inquiry that learns nothing, set
    /// off by whoever sent a webhook, must not make recovery confirm a second time beside it.
    fn is_with_its_request(&self) -> bool {
        let asked = self.call.is_some_and(|call| call.operation == "inquire");
        let payment = &self.payment;
        let waits = payment.status == PaymentStatus::Confirming && payment.doubt.is_none();
        asked && waits && payment.inquire_at.is_some_and(|due| due > crate::clock::now())
    }
}
