//! The heart: what evidence from the PG makes of a payment, its order and a cancellation.
//!
//! `payments::resolve` is the only caller. Everything here is a total function over values, so the whole protocol
//! can be read and tested without a database or a PG.

use super::cancellation::CancellationOrigin;
use super::evidence::{
    Decline, DeclineClass, Doubt, DoubtReason, NotSent, PaymentKey, PgCancel, PgStatus, Refusal, Snapshot,
};
use super::ids::CancellationId;
use super::money::Money;
use super::order::OrderEvent;
use super::payment::{Method, PaymentStatus};

/// What is known about a payment when evidence arrives.
#[derive(Debug, Clone)]
pub struct PaymentFacts {
    /// The PG's key of it.
    pub payment_key: PaymentKey,
    /// Our order id, as the PG must have it.
    pub order_id: String,
    /// Where the payment stands.
    pub status: PaymentStatus,
    /// What the order costs.
    pub amount: Money,
    /// Whether any cancellation was made or is under way.
    pub has_cancellations: bool,
    /// How the buyer pays, if known.
    pub method: Option<Method>,
    /// Whether the PG ever took money for it.
    pub ever_taken: bool,
    /// Whether the virtual account's due date and its grace are over.
    pub deposit_overdue: bool,
}

/// What is known about the order when evidence arrives.
#[derive(Debug, Clone, Copy)]
pub struct OrderFacts {
    /// Whether the hold would still be alive if it were not frozen.
    pub hold_alive: bool,
    /// Whether a cancel was asked for while the outcome was open.
    pub cancel_requested: bool,
}

/// What somebody learnt about a payment.
#[derive(Debug, Clone)]
pub enum Evidence {
    /// The PG's view.
    Snapshot(Box<Snapshot>),
    /// The PG refused the confirm.
    Declined(Decline),
    /// The confirm certainly did nothing.
    NotSent(NotSent),
    /// Nobody knows.
    Doubt(Doubt),
}

/// What must be done with a payment.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Nothing to record.
    Unchanged,
    /// Still open: note the doubt, ask again later.
    StillOpen(Doubt),
    /// The money is ours.
    Approve(Box<Snapshot>),
    /// A virtual account waits.
    AwaitDeposit(Box<Snapshot>),
    /// The PG said no.
    Decline(Decline),
    /// Nothing happened; the same PG payment may be confirmed again.
    BackToReady(NotSent),
    /// The bank took a deposit back.
    DepositReversed(Box<Snapshot>),
    /// No deposit came in time.
    DepositOverdue,
    /// The account was closed at the PG before a deposit.
    AccountClosed(Box<Snapshot>),
    /// Real money that no order may keep: give it back.
    Reverse(Reversal),
}

/// Money to give back.
#[derive(Debug, Clone)]
pub struct Reversal {
    /// The PG's view.
    pub snapshot: Box<Snapshot>,
    /// Minor units the PG still has from the buyer.
    pub taken: i64,
    /// Why no order may keep it.
    pub cause: ReversalCause,
}

super::vocabulary! {
    /// Why money goes back by itself.
    pub enum ReversalCause {
        /// The PG took another amount or currency, or booked it on another order or shop.
        Mismatch => "mismatch",
        /// It surfaced after the payment had been closed.
        Late => "late",
    }
}

/// Decides what `evidence` makes of a payment. Repeating evidence is harmless: it decides `Unchanged`.
#[must_use]
pub fn decide(payment: &PaymentFacts, evidence: Evidence) -> Verdict {
    if is_about_another(payment, &evidence) {
        return if payment.status.is_open() { inconclusive() } else { Verdict::Unchanged };
    }
    match (payment.status, evidence) {
        (PaymentStatus::Confirming, Evidence::Snapshot(snapshot)) => confirming(payment, snapshot),
        (PaymentStatus::Confirming, Evidence::Declined(decline)) => Verdict::Decline(decline),
        (PaymentStatus::Confirming, Evidence::NotSent(not_sent)) => Verdict::BackToReady(not_sent),
        (PaymentStatus::Confirming | PaymentStatus::AwaitingDeposit, Evidence::Doubt(doubt)) => {
            Verdict::StillOpen(doubt)
        }
        (PaymentStatus::AwaitingDeposit, Evidence::Snapshot(snapshot)) => awaiting(payment, snapshot),
        (PaymentStatus::Approved, Evidence::Snapshot(snapshot)) => approved(payment, snapshot),
        (PaymentStatus::Ready | PaymentStatus::Declined | PaymentStatus::Expired, Evidence::Snapshot(snapshot)) => {
            closed(snapshot)
        }
        // A virtual account that was closed, and got a deposit after all.
        (PaymentStatus::Canceled, Evidence::Snapshot(snapshot)) if !payment.ever_taken => closed(snapshot),
        (
            PaymentStatus::PartiallyCanceled | PaymentStatus::Canceled | PaymentStatus::Reversing,
            Evidence::Snapshot(_) | Evidence::Declined(_) | Evidence::NotSent(_) | Evidence::Doubt(_),
        )
        | (
            PaymentStatus::Ready
            | PaymentStatus::AwaitingDeposit
            | PaymentStatus::Approved
            | PaymentStatus::Declined
            | PaymentStatus::Expired,
            Evidence::Declined(_) | Evidence::NotSent(_),
        )
        | (
            PaymentStatus::Ready | PaymentStatus::Approved | PaymentStatus::Declined | PaymentStatus::Expired,
            Evidence::Doubt(_),
        ) => Verdict::Unchanged,
    }
}

/// A snapshot of another PG payment says nothing about this one.
fn is_about_another(payment: &PaymentFacts, evidence: &Evidence) -> bool {
    match evidence {
        Evidence::Snapshot(snapshot) => snapshot.payment_key != payment.payment_key,
        Evidence::Declined(_) | Evidence::NotSent(_) | Evidence::Doubt(_) => false,
    }
}

fn confirming(payment: &PaymentFacts, snapshot: Box<Snapshot>) -> Verdict {
    match snapshot.status {
        PgStatus::Ready | PgStatus::InProgress | PgStatus::Unrecognized => inconclusive(),
        PgStatus::Aborted => Verdict::Decline(Decline {
            class: DeclineClass::Other,
            code: snapshot.failure_code.clone().unwrap_or_else(|| "ABORTED".to_owned()),
        }),
        PgStatus::Expired => Verdict::Decline(Decline {
            class: DeclineClass::SessionExpired,
            code: snapshot.failure_code.clone().unwrap_or_else(|| "EXPIRED".to_owned()),
        }),
        PgStatus::WaitingForDeposit if is_ours(payment, &snapshot) => Verdict::AwaitDeposit(snapshot),
        PgStatus::WaitingForDeposit => reverse(snapshot, ReversalCause::Mismatch),
        PgStatus::Canceled if snapshot.approved_at.is_none() => {
            Verdict::Decline(Decline { class: DeclineClass::UserCanceled, code: "CANCELED".to_owned() })
        }
        PgStatus::Done | PgStatus::PartiallyCanceled | PgStatus::Canceled => money_taken(payment, snapshot),
    }
}

fn awaiting(payment: &PaymentFacts, snapshot: Box<Snapshot>) -> Verdict {
    match snapshot.status {
        PgStatus::WaitingForDeposit if snapshot.deposit_closed || payment.deposit_overdue => Verdict::DepositOverdue,
        PgStatus::WaitingForDeposit | PgStatus::Ready | PgStatus::InProgress | PgStatus::Unrecognized => inconclusive(),
        PgStatus::Aborted | PgStatus::Expired => Verdict::DepositOverdue,
        PgStatus::Canceled if snapshot.approved_at.is_none() => Verdict::AccountClosed(snapshot),
        PgStatus::Done | PgStatus::PartiallyCanceled | PgStatus::Canceled => money_taken(payment, snapshot),
    }
}

/// The one legal step back: a bank reverses a deposit, usually within minutes.
fn approved(payment: &PaymentFacts, snapshot: Box<Snapshot>) -> Verdict {
    let reversed = snapshot.status == PgStatus::WaitingForDeposit
        && payment.method == Some(Method::VirtualAccount)
        && !payment.has_cancellations;
    if reversed { Verdict::DepositReversed(snapshot) } else { Verdict::Unchanged }
}

/// A payment that we had closed turns out to hold money.
fn closed(snapshot: Box<Snapshot>) -> Verdict {
    match snapshot.status {
        PgStatus::Done | PgStatus::PartiallyCanceled if snapshot.balance > 0 => reverse(snapshot, ReversalCause::Late),
        PgStatus::Done
        | PgStatus::PartiallyCanceled
        | PgStatus::Ready
        | PgStatus::InProgress
        | PgStatus::WaitingForDeposit
        | PgStatus::Canceled
        | PgStatus::Aborted
        | PgStatus::Expired
        | PgStatus::Unrecognized => Verdict::Unchanged,
    }
}

fn money_taken(payment: &PaymentFacts, snapshot: Box<Snapshot>) -> Verdict {
    if is_ours(payment, &snapshot) {
        return Verdict::Approve(snapshot);
    }
    if snapshot.balance > 0 {
        return reverse(snapshot, ReversalCause::Mismatch);
    }
    Verdict::Decline(Decline { class: DeclineClass::Other, code: "MISMATCH_ALREADY_CANCELED".to_owned() })
}

fn is_ours(payment: &PaymentFacts, snapshot: &Snapshot) -> bool {
    snapshot.own_shop && snapshot.order_id == payment.order_id && snapshot.amount == Some(payment.amount)
}

fn reverse(snapshot: Box<Snapshot>, cause: ReversalCause) -> Verdict {
    let taken = snapshot.balance;
    if taken <= 0 {
        return inconclusive();
    }
    Verdict::Reverse(Reversal { snapshot, taken, cause })
}

fn inconclusive() -> Verdict {
    Verdict::StillOpen(NOTHING_LEARNT)
}

/// What an answer leaves that says nothing certain.
const NOTHING_LEARNT: Doubt = Doubt { reason: DoubtReason::Inconclusive, code: None };

/// What becomes of an order whose open payment ended without money.
#[must_use]
pub const fn order_without_money(order: OrderFacts) -> OrderEvent {
    if order.cancel_requested {
        OrderEvent::CanceledUnpaid
    } else if order.hold_alive {
        OrderEvent::Reopened
    } else {
        OrderEvent::HoldExpired
    }
}

/// What somebody learnt about a cancellation.
#[derive(Debug, Clone)]
pub enum CancelEvidence {
    /// The PG's view of the payment.
    Snapshot(Box<Snapshot>),
    /// The PG refused.
    Refused(Refusal),
    /// Nobody knows, or it is still to be sent.
    Doubt(Doubt),
}

/// What must be done with a cancellation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelVerdict {
    /// The money went back.
    Done(PgCancel),
    /// Give the capacity back.
    Refuse(Refusal),
    /// Still open: note the doubt, go on later.
    StillOpen(Doubt),
}

/// Decides what `evidence` makes of the open cancellation `id` of `amount` minor units.
///
/// Money that no order may keep goes back for ever: a refused compensation stays open, with an alarm.
#[must_use]
pub fn decide_cancel(
    id: CancellationId,
    amount: i64,
    origin: CancellationOrigin,
    payment: PaymentStatus,
    evidence: CancelEvidence,
) -> CancelVerdict {
    match evidence {
        CancelEvidence::Snapshot(snapshot) => match find_cancel(&snapshot, id, payment) {
            Some(cancel) if cancel.done && cancel.amount == amount => CancelVerdict::Done(cancel),
            Some(_) | None if origin == CancellationOrigin::Compensation && is_all_back(&snapshot) => {
                CancelVerdict::Done(last_cancel(&snapshot, id))
            }
            Some(_) | None => CancelVerdict::StillOpen(Doubt { reason: DoubtReason::Inconclusive, code: None }),
        },
        CancelEvidence::Refused(refusal) if origin == CancellationOrigin::Compensation => {
            CancelVerdict::StillOpen(Doubt { reason: DoubtReason::ProviderFault, code: Some(refusal.code) })
        }
        CancelEvidence::Refused(refusal) => CancelVerdict::Refuse(refusal),
        CancelEvidence::Doubt(doubt) => CancelVerdict::StillOpen(doubt),
    }
}

/// Whether the PG has given back all of a payment, whoever asked for it.
#[must_use]
pub fn is_all_back(snapshot: &Snapshot) -> bool {
    let ended = matches!(snapshot.status, PgStatus::Canceled | PgStatus::PartiallyCanceled);
    ended && snapshot.balance == 0 && snapshot.cancels.iter().all(|cancel| cancel.done)
}

/// The cancel that ended a payment: the newest that the PG lists.
fn last_cancel(snapshot: &Snapshot, id: CancellationId) -> PgCancel {
    snapshot.cancels.last().cloned().unwrap_or_else(|| PgCancel {
        transaction_key: snapshot.transaction_key.clone().unwrap_or_else(|| format!("closed:{id}")),
        amount: 0,
        reason: String::new(),
        canceled_at: None,
        done: true,
    })
}

/// Finds our cancel by the id that ends its reason. An account closed before any deposit may list none.
#[must_use]
pub fn find_cancel(snapshot: &Snapshot, id: CancellationId, payment: PaymentStatus) -> Option<PgCancel> {
    let suffix = format!("[{id}]");
    let listed = snapshot.cancels.iter().find(|cancel| cancel.reason.ends_with(&suffix)).cloned();
    let closed = || {
        let empty = matches!(payment, PaymentStatus::AwaitingDeposit | PaymentStatus::Reversing)
            && snapshot.status == PgStatus::Canceled
            && snapshot.cancels.is_empty();
        empty.then(|| PgCancel {
            transaction_key: snapshot.transaction_key.clone().unwrap_or_else(|| format!("closed:{id}")),
            amount: snapshot.amount.map_or(0, |amount| amount.minor),
            reason: String::new(),
            canceled_at: None,
            done: true,
        })
    };
    listed.or_else(closed)
}

#[cfg(test)]
mod tests;
