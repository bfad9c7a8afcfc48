//! The explanation over every payment status, every doubt and every open cancellation.

use std::collections::BTreeSet;

use super::*;

const FACTS: Facts = Facts {
    status: PaymentStatus::Approved,
    order: OrderStatus::Paid,
    method: Some(Method::Card),
    doubt: None,
    request_running: false,
    cancel_wished: false,
    inquiries_stopped: false,
    open: None,
};

fn doubts() -> impl Iterator<Item = Option<DoubtReason>> {
    std::iter::once(None).chain(DoubtReason::ALL.iter().copied().map(Some))
}

/// No cancellation, and every kind of open one.
fn open_cancels() -> Vec<Option<OpenCancel>> {
    let mut all = vec![None];
    for &origin in CancellationOrigin::ALL {
        for doubt in doubts() {
            for (request_running, needs_account) in [(false, false), (true, false), (false, true)] {
                all.push(Some(OpenCancel { origin, doubt, request_running, needs_account }));
            }
        }
    }
    all
}

fn every_combination() -> Vec<Facts> {
    let mut all = Vec::new();
    for &status in PaymentStatus::ALL {
        for &order in OrderStatus::ALL {
            for doubt in doubts() {
                for open in open_cancels() {
                    all.push(Facts { status, order, doubt, open, ..FACTS });
                }
            }
        }
    }
    all
}

#[test]
fn every_combination_has_words_an_end_and_something_to_do() {
    let all = every_combination();
    assert!(all.len() > 9 * 7 * 13 * 100, "{}", all.len());
    for facts in all {
        let told = explain(&facts);
        assert!(told.summary.ends_with('.') && !told.buyer_sees.is_empty(), "{facts:?}: {told:?}");
        assert_eq!(told.open_cancellation.is_some(), facts.open.is_some(), "{facts:?}");
        assert!(told.actions.contains(&Action::Inquire), "evidence can always be asked for: {facts:?}");
        let open = facts.status.is_open() || facts.status == PaymentStatus::Reversing || facts.open.is_some();
        assert_eq!(told.actions.first() == Some(&Action::Wait), open, "{facts:?}");
        assert!(!open || told.awaits != Awaited::Nothing, "what is open awaits something: {facts:?}");
        if facts.open.is_some() {
            assert_eq!(told.awaits, Awaited::Cancellation, "{facts:?}");
            assert!(!told.actions.contains(&Action::Cancel), "one open cancellation at a time: {facts:?}");
        }
        let unique: BTreeSet<_> = told.actions.iter().collect();
        assert_eq!(unique.len(), told.actions.len(), "{facts:?}");
    }
}

/// Status, order; what is awaited, a part of the summary, what the buyer sees, the actions.
type Row = (PaymentStatus, OrderStatus, Awaited, &'static str, &'static str, &'static [Action]);

#[test]
fn each_status_says_its_own() {
    use Action::{Cancel, CancelOrder, Inquire, Wait};
    use OrderStatus as O;
    use PaymentStatus as P;
    let table: &[Row] = &[
        (P::Ready, O::Pending, Awaited::Buyer, "certainly did nothing", "nothing was charged", &[Inquire, CancelOrder]),
        (P::Ready, O::Expired, Awaited::Nothing, "certainly did nothing", "expired", &[Inquire]),
        (
            P::Confirming,
            O::Confirming,
            Awaited::Inquiry,
            "left no answer",
            "being checked",
            &[Wait, Inquire, CancelOrder],
        ),
        (
            P::AwaitingDeposit,
            O::AwaitingDeposit,
            Awaited::Deposit,
            "waits for the buyer's transfer",
            "account number",
            &[Wait, Inquire, Cancel],
        ),
        (P::Approved, O::Paid, Awaited::Nothing, "all of it is kept", "paid", &[Inquire, Cancel]),
        (
            P::PartiallyCanceled,
            O::PartiallyCanceled,
            Awaited::Nothing,
            "a part of it went back",
            "a part given back",
            &[Inquire, Cancel],
        ),
        (P::Canceled, O::Canceled, Awaited::Nothing, "Nothing of the buyer's money", "canceled", &[Inquire]),
        (P::Declined, O::Pending, Awaited::Nothing, "refused, for certain", "declined", &[Inquire, CancelOrder]),
        (P::Declined, O::Paid, Awaited::Nothing, "refused, for certain", "paid", &[Inquire]),
        (P::Expired, O::Expired, Awaited::Nothing, "due date passed", "expired", &[Inquire]),
        (P::Reversing, O::Expired, Awaited::Cancellation, "no order may keep", "being returned", &[Wait, Inquire]),
    ];
    let told: BTreeSet<_> = table.iter().map(|(status, ..)| *status).collect();
    assert_eq!(told.len(), PaymentStatus::ALL.len(), "every status is in the table");
    for &(status, order, awaited, summary, buyer, actions) in table {
        let told = explain(&Facts { status, order, ..FACTS });
        assert_eq!((told.awaits, told.actions.as_slice()), (awaited, actions), "{status} {order}");
        assert!(told.summary.contains(summary), "{status} {order}: {}", told.summary);
        assert!(told.buyer_sees.contains(buyer), "{status} {order}: {}", told.buyer_sees);
    }
}

#[test]
fn a_confirm_says_whether_its_request_runs_and_what_is_in_doubt() {
    let confirming = Facts { status: PaymentStatus::Confirming, order: OrderStatus::Confirming, ..FACTS };
    let running = explain(&Facts { request_running: true, ..confirming });
    assert_eq!(running.awaits, Awaited::Answer);
    assert!(running.summary.contains("under way"), "{}", running.summary);
    let mut sentences = BTreeSet::new();
    for &doubt in DoubtReason::ALL {
        let told = explain(&Facts { doubt: Some(doubt), request_running: true, ..confirming });
        assert_eq!(told.awaits, Awaited::Inquiry, "a doubt was noted: nobody waits any more");
        assert_eq!(told.actions.contains(&Action::AskProvider), is_odd(Some(doubt)), "{doubt}");
        sentences.insert(told.summary);
    }
    assert_eq!(sentences.len(), DoubtReason::ALL.len(), "each doubt has words of its own");
    let wished = explain(&Facts { cancel_wished: true, ..confirming });
    assert!(wished.summary.contains("A cancel was asked for") && !wished.actions.contains(&Action::CancelOrder));
}

#[test]
fn an_open_cancellation_says_whence_it_comes_and_what_it_waits_for() {
    let mut sentences = BTreeSet::new();
    for open in open_cancels().into_iter().flatten().filter(|open| !open.needs_account && !open.request_running) {
        sentences.insert(why_open(&open));
    }
    assert_eq!(sentences.len(), CancellationOrigin::ALL.len() * (DoubtReason::ALL.len() + 1));
    let lost = OpenCancel {
        origin: CancellationOrigin::Request,
        doubt: Some(DoubtReason::Timeout),
        request_running: false,
        needs_account: true,
    };
    assert!(why_open(&lost).contains("stored nowhere"));
}

#[test]
fn what_would_be_refused_is_not_offered() {
    let stopped = explain(&Facts { inquiries_stopped: true, ..FACTS });
    assert!(!stopped.actions.contains(&Action::Inquire));
    let account = Facts { status: PaymentStatus::Reversing, method: Some(Method::VirtualAccount), ..FACTS };
    assert!(explain(&account).actions.contains(&Action::RefundInConsole));
    assert!(!explain(&Facts { method: Some(Method::Card), ..account }).actions.contains(&Action::RefundInConsole));
}
