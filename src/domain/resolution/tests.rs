//! The tables of `resolution`, told as sentences: money of ours, of somebody else, late, doubted and given back.

use super::*;
use crate::domain::money::Currency;

fn facts(status: PaymentStatus) -> PaymentFacts {
    PaymentFacts {
        payment_key: PaymentKey::parse("pk").unwrap(),
        order_id: "ord_1".to_owned(),
        status,
        amount: Money::new(1_000, Currency::KRW),
        has_cancellations: false,
        method: None,
        ever_taken: false,
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
        assert!(matches!(verdict, Verdict::Reverse(Reversal { cause: ReversalCause::Mismatch, .. })), "{verdict:?}");
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
        let taken = PaymentFacts { ever_taken: true, ..facts(status) };
        let verdict = decide(&taken, Evidence::Snapshot(snapshot(PgStatus::Done)));
        assert!(matches!(verdict, Verdict::Unchanged));
    }
}

#[test]
fn money_in_an_account_that_was_closed_without_any_goes_back() {
    let verdict = decide(&facts(PaymentStatus::Canceled), Evidence::Snapshot(snapshot(PgStatus::Done)));
    assert!(matches!(verdict, Verdict::Reverse(Reversal { cause: ReversalCause::Late, .. })));
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
    payment.has_cancellations = true;
    assert!(matches!(decide(&payment, waiting()), Verdict::Unchanged));
}

#[test]
fn a_cancel_is_found_by_its_own_id_only() {
    let (mine, other) = (CancellationId::new(), CancellationId::new());
    let mut seen = snapshot(PgStatus::PartiallyCanceled);
    seen.cancels.push(PgCancel {
        transaction_key: "tx1".to_owned(),
        amount: 300,
        reason: format!("changed my mind [{mine}]"),
        canceled_at: None,
        done: true,
    });
    let decide = |id, amount| {
        let evidence = CancelEvidence::Snapshot(seen.clone());
        decide_cancel(id, amount, CancellationOrigin::Request, PaymentStatus::Approved, evidence)
    };
    assert!(matches!(decide(mine, 300), CancelVerdict::Done(_)));
    assert!(matches!(decide(mine, 301), CancelVerdict::StillOpen(_)));
    assert!(matches!(decide(other, 300), CancelVerdict::StillOpen(_)));
}

#[test]
fn a_refused_compensation_stays_open() {
    use crate::domain::evidence::RefusalClass;
    let refusal = Refusal { class: RefusalClass::TooLate, code: "EXCEED_MAX_REFUND_DUE".to_owned() };
    let decide = |origin| {
        let evidence = CancelEvidence::Refused(refusal.clone());
        decide_cancel(CancellationId::new(), 1, origin, PaymentStatus::Reversing, evidence)
    };
    assert!(matches!(decide(CancellationOrigin::Compensation), CancelVerdict::StillOpen(_)));
    assert!(matches!(decide(CancellationOrigin::Request), CancelVerdict::Refuse(_)));
}

#[test]
fn a_compensation_is_done_once_nothing_is_left_and_a_request_only_by_its_own_cancel() {
    let mut seen = snapshot(PgStatus::PartiallyCanceled);
    seen.balance = 0;
    seen.cancels.push(PgCancel {
        transaction_key: "tx1".to_owned(),
        amount: 1_000,
        reason: "by hand".to_owned(),
        canceled_at: None,
        done: true,
    });
    let decide = |seen: &Snapshot, origin| {
        let evidence = CancelEvidence::Snapshot(Box::new(seen.clone()));
        decide_cancel(CancellationId::new(), 1_000, origin, PaymentStatus::Reversing, evidence)
    };
    assert!(matches!(decide(&seen, CancellationOrigin::Compensation), CancelVerdict::Done(_)));
    assert!(matches!(decide(&seen, CancellationOrigin::Request), CancelVerdict::StillOpen(_)));
    seen.balance = 1;
    assert!(matches!(decide(&seen, CancellationOrigin::Compensation), CancelVerdict::StillOpen(_)));
    seen.balance = 0;
    seen.cancels.iter_mut().for_each(|cancel| cancel.done = false);
    assert!(matches!(decide(&seen, CancellationOrigin::Compensation), CancelVerdict::StillOpen(_)));
}
