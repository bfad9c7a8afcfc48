//! The heart: what evidence from the PG makes of a payment and its order (`cancel_resolution`: of a cancellation).
//!
//! `payments::resolve` is the only caller. Everything here is a total function over values, so the whole protocol
//! can be read and tested without a database or a PG.

use super::evidence::{Decline, DeclineClass, Doubt, DoubtReason, NotSent, PaymentKey, PgStatus, Snapshot};
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
    /// Whether the payment changed after the PG was asked, so that the evidence may be older than the books.
    pub changed_since_asked: bool,
    /// Whether any cancellation was made or is under way.
    pub has_cancellations: bool,
    /// How the buyer pays, if known.
    pub method: Option<Method>,
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

/// The one legal step back: a bank reverses a deposit, usually within minutes. A question that was asked before the
/// deposit and answered late looks the same, so evidence that may be older than the books is not taken for it.
fn approved(payment: &PaymentFacts, snapshot: Box<Snapshot>) -> Verdict {
    let reversed = snapshot.status == PgStatus::WaitingForDeposit
        && payment.method == Some(Method::VirtualAccount)
        && !payment.changed_since_asked
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
    Verdict::StillOpen(Doubt { reason: DoubtReason::Inconclusive, code: None })
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::Currency;

    fn facts(status: PaymentStatus) -> PaymentFacts {
        PaymentFacts {
            payment_key: PaymentKey::parse("pk").unwrap(),
            order_id: "ord_1".to_owned(),
            status,
            amount: Money::new(1_000, Currency::KRW),
            changed_since_asked: false,
            has_cancellations: false,
            method: None,
            deposit_overdue: false,
        }
    }

    fn snapshot(status: PgStatus) -> Box<Snapshot> {
        Box::new(Snapshot {
            payment_key: PaymentKey::parse("pk").unwrap(),
            order_id: "ord_1".to_owned(),
            status,
            method: None,
            amount: Some(Money::new(1_000, Currency::KRW)),
            balance: 1_000,
            own_shop: true,
            approved_at: Some(chrono::DateTime::UNIX_EPOCH),
            transaction_key: None,
            secret: None,
            deposit: None,
            deposit_closed: false,
            cancels: Vec::new(),
            failure_code: None,
        })
    }

    #[test]
    fn money_of_the_right_amount_is_approved() {
        let verdict = decide(&facts(PaymentStatus::Confirming), Evidence::Snapshot(snapshot(PgStatus::Done)));
        assert!(matches!(verdict, Verdict::Approve(_)));
    }

    #[test]
    fn money_of_another_amount_order_currency_or_shop_goes_back() {
        let mut cases = Vec::new();
        let mut other = snapshot(PgStatus::Done);
        other.amount = Some(Money::new(999, Currency::KRW));
        cases.push(other);
        let mut other = snapshot(PgStatus::Done);
        other.order_id = "ord_2".to_owned();
        cases.push(other);
        let mut other = snapshot(PgStatus::Done);
        other.amount = None;
        cases.push(other);
        let mut other = snapshot(PgStatus::Done);
        other.own_shop = false;
        cases.push(other);
        for case in cases {
            let verdict = decide(&facts(PaymentStatus::Confirming), Evidence::Snapshot(case));
            assert!(
                matches!(verdict, Verdict::Reverse(Reversal { cause: ReversalCause::Mismatch, .. })),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn the_snapshot_of_another_payment_says_nothing() {
        let mut other = snapshot(PgStatus::Done);
        other.payment_key = PaymentKey::parse("pk2").unwrap();
        let verdict = decide(&facts(PaymentStatus::Confirming), Evidence::Snapshot(other));
        assert!(matches!(verdict, Verdict::StillOpen(_)));
    }

    #[test]
    fn doubt_never_ends_a_payment() {
        for &reason in DoubtReason::ALL {
            let evidence = Evidence::Doubt(Doubt { reason, code: None });
            assert!(matches!(decide(&facts(PaymentStatus::Confirming), evidence), Verdict::StillOpen(_)));
        }
    }

    #[test]
    fn late_money_on_a_closed_payment_goes_back() {
        for status in [PaymentStatus::Ready, PaymentStatus::Declined, PaymentStatus::Expired] {
            let verdict = decide(&facts(status), Evidence::Snapshot(snapshot(PgStatus::Done)));
            assert!(matches!(verdict, Verdict::Reverse(Reversal { cause: ReversalCause::Late, .. })));
        }
    }

    #[test]
    fn repeated_evidence_changes_nothing() {
        for status in [PaymentStatus::Approved, PaymentStatus::PartiallyCanceled, PaymentStatus::Canceled] {
            let verdict = decide(&facts(status), Evidence::Snapshot(snapshot(PgStatus::Done)));
            assert!(matches!(verdict, Verdict::Unchanged));
        }
    }

    #[test]
    fn a_decline_that_arrives_after_the_approval_changes_nothing() {
        let decline = Decline { class: DeclineClass::Other, code: "X".to_owned() };
        assert!(matches!(decide(&facts(PaymentStatus::Approved), Evidence::Declined(decline)), Verdict::Unchanged));
        let aborted = Evidence::Snapshot(snapshot(PgStatus::Aborted));
        assert!(matches!(decide(&facts(PaymentStatus::Approved), aborted), Verdict::Unchanged));
    }

    #[test]
    fn only_an_uncanceled_virtual_account_steps_back() {
        let mut payment = facts(PaymentStatus::Approved);
        let waiting = || Evidence::Snapshot(snapshot(PgStatus::WaitingForDeposit));
        assert!(matches!(decide(&payment, waiting()), Verdict::Unchanged));
        payment.method = Some(Method::VirtualAccount);
        assert!(matches!(decide(&payment, waiting()), Verdict::DepositReversed(_)));
        payment.changed_since_asked = true;
        assert!(matches!(decide(&payment, waiting()), Verdict::Unchanged), "an old answer is no step back");
        payment.changed_since_asked = false;
        payment.has_cancellations = true;
        assert!(matches!(decide(&payment, waiting()), Verdict::Unchanged));
    }
}
