//! The comparison as a table: what both sides say, and what of it is a difference.

use super::*;
use crate::domain::evidence::PgCancel;
use crate::domain::money::Currency;

const ORDER: &str = "ord_0196a3f0c0de7abc8def001122334455";

fn won(minor: i64) -> Money {
    Money::new(minor, Currency::KRW)
}

fn at(minute: u32) -> DateTime<Utc> {
    format!("2026-05-04T03:{minute:02}:00Z").parse().unwrap()
}

/// Our books with `canceled` given back by cancels of these keys.
fn books(status: PaymentStatus, taken: Option<i64>, cancels: &[(&str, i64)]) -> Books {
    let given =
        |(key, amount): &(&str, i64)| Given { transaction_key: (*key).to_owned(), amount: *amount, moved: *amount };
    Books {
        order_id: ORDER.to_owned(),
        status,
        amount: won(10_000),
        approved_amount: taken,
        approved_at: taken.map(|_| at(10)),
        canceled_amount: cancels.iter().map(|(_, amount)| amount).sum(),
        cancels: cancels.iter().map(given).collect(),
    }
}

/// The PG's view of a payment of 10,000 won with these cancels.
fn there(status: PgStatus, balance: i64, cancels: &[(&str, i64)]) -> Snapshot {
    let cancel = |(key, amount): &(&str, i64)| PgCancel {
        transaction_key: (*key).to_owned(),
        amount: *amount,
        reason: "back".to_owned(),
        canceled_at: Some(at(20)),
        done: true,
    };
    let took = matches!(status, PgStatus::Done | PgStatus::PartiallyCanceled | PgStatus::Canceled);
    Snapshot {
        payment_key: PaymentKey::parse("beans1").unwrap(),
        order_id: ORDER.to_owned(),
        status,
        method: None,
        amount: Some(won(10_000)),
        balance,
        own_shop: true,
        approved_at: took.then(|| at(10)),
        transaction_key: None,
        secret: None,
        deposit: None,
        deposit_closed: false,
        cancels: cancels.iter().map(cancel).collect(),
        failure_code: None,
    }
}

fn row(key: &str, status: PgStatus, amount: i64) -> Listed {
    Listed {
        transaction_key: key.to_owned(),
        payment_key: PaymentKey::parse("beans1").unwrap(),
        order_id: ORDER.to_owned(),
        status,
        at: Some(at(10)),
        amount: Some(won(amount)),
        own_shop: true,
    }
}

/// What differs, as kind and amount.
fn found(books: &Books, snapshot: &Snapshot) -> Vec<(FindingKind, i64)> {
    let all = differences(books, snapshot, &[]);
    all.iter().map(|found| (found.kind, found.amount.map_or(0, |amount| amount.minor))).collect()
}

#[test]
fn books_that_agree_differ_in_nothing() {
    use PaymentStatus as S;
    for (here, snapshot) in [
        (books(S::Approved, Some(10_000), &[]), there(PgStatus::Done, 10_000, &[])),
        (
            books(S::PartiallyCanceled, Some(10_000), &[("c1", 4_000)]),
            there(PgStatus::PartiallyCanceled, 6_000, &[("c1", 4_000)]),
        ),
        (books(S::Canceled, Some(10_000), &[("c1", 10_000)]), there(PgStatus::Canceled, 0, &[("c1", 10_000)])),
        (books(S::Reversing, Some(10_000), &[]), there(PgStatus::Done, 10_000, &[])),
        (books(S::Reversing, Some(10_000), &[]), there(PgStatus::Canceled, 0, &[("by hand", 10_000)])),
        // A compensation that was fulfilled by hand in two parts has the last one as its proof.
        (
            books(S::Canceled, Some(10_000), &[("h2", 10_000)]),
            there(PgStatus::PartiallyCanceled, 0, &[("h1", 4_000), ("h2", 6_000)]),
        ),
        (books(S::Confirming, None, &[]), there(PgStatus::InProgress, 10_000, &[])),
        (books(S::Declined, None, &[]), there(PgStatus::Aborted, 0, &[])),
        (books(S::Expired, None, &[]), there(PgStatus::WaitingForDeposit, 10_000, &[])),
        (books(S::Declined, None, &[]), there(PgStatus::Canceled, 0, &[("c", 10_000)])),
    ] {
        assert_eq!(found(&here, &snapshot), [], "{here:?} {snapshot:?}");
    }
}

#[test]
fn each_difference_has_its_kind_and_its_amount() {
    use FindingKind as F;
    use PaymentStatus as S;
    let paid = || books(S::Approved, Some(10_000), &[]);
    for (here, snapshot, expected) in [
        (books(S::Confirming, None, &[]), there(PgStatus::Done, 10_000, &[]), (F::MissingHere, 10_000)),
        (books(S::AwaitingDeposit, None, &[]), there(PgStatus::Done, 10_000, &[]), (F::MissingHere, 10_000)),
        (books(S::Ready, None, &[]), there(PgStatus::Done, 10_000, &[]), (F::LateApproval, 10_000)),
        (books(S::Declined, None, &[]), there(PgStatus::Done, 10_000, &[]), (F::LateApproval, 10_000)),
        (
            books(S::Expired, None, &[]),
            there(PgStatus::PartiallyCanceled, 7_000, &[("c", 3_000)]),
            (F::LateApproval, 7_000),
        ),
        (books(S::Canceled, None, &[]), there(PgStatus::Done, 10_000, &[]), (F::LateApproval, 10_000)),
        (paid(), there(PgStatus::PartiallyCanceled, 6_000, &[("c1", 4_000)]), (F::CanceledThereOnly, 4_000)),
        (paid(), there(PgStatus::Canceled, 0, &[("c1", 10_000)]), (F::CanceledThereOnly, 10_000)),
        (
            books(S::PartiallyCanceled, Some(10_000), &[("c1", 4_000)]),
            there(PgStatus::PartiallyCanceled, 5_000, &[("c1", 4_000), ("c2", 1_000)]),
            (F::CanceledThereOnly, 1_000),
        ),
        (
            books(S::PartiallyCanceled, Some(10_000), &[("c1", 4_000)]),
            there(PgStatus::Done, 10_000, &[]),
            (F::MissingThere, 4_000),
        ),
        (
            books(S::Canceled, Some(10_000), &[("c1", 10_000)]),
            there(PgStatus::Done, 10_000, &[]),
            (F::MissingThere, 10_000),
        ),
        // The bank took a deposit back, or the PG ended the payment.
        (paid(), there(PgStatus::WaitingForDeposit, 10_000, &[]), (F::MissingThere, 10_000)),
        (paid(), there(PgStatus::Expired, 0, &[]), (F::MissingThere, 10_000)),
        (paid(), there(PgStatus::PartiallyCanceled, 9_000, &[]), (F::AmountDiffers, 1_000)),
        (books(S::Reversing, Some(4_000), &[]), there(PgStatus::Done, 10_000, &[]), (F::AmountDiffers, 6_000)),
    ] {
        assert_eq!(found(&here, &snapshot), [expected], "{here:?} {snapshot:?}");
    }
}

#[test]
fn an_account_that_was_closed_before_its_deposit_was_canceled_there() {
    let mut closed = there(PgStatus::Canceled, 0, &[("c1", 10_000)]);
    closed.approved_at = None;
    let waiting = books(PaymentStatus::AwaitingDeposit, None, &[]);
    assert_eq!(found(&waiting, &closed), [(FindingKind::CanceledThereOnly, 10_000)]);
    assert_eq!(found(&books(PaymentStatus::Canceled, None, &[]), &closed), []);
}

#[test]
fn kept_money_of_another_amount_currency_order_or_shop_is_told_apart() {
    let spoil: [fn(&mut Snapshot); 5] = [
        |snapshot| snapshot.amount = Some(won(12_000)),
        |snapshot| snapshot.amount = Some(Money::new(10_000, Currency::parse("USD").unwrap())),
        |snapshot| snapshot.amount = None,
        |snapshot| snapshot.order_id = "ord_of_somebody_else".to_owned(),
        |snapshot| snapshot.own_shop = false,
    ];
    for (index, spoil) in spoil.iter().enumerate() {
        let mut snapshot = there(PgStatus::Done, 10_000, &[]);
        spoil(&mut snapshot);
        let differences = differences(&books(PaymentStatus::Approved, Some(10_000), &[]), &snapshot, &[]);
        let kinds: Vec<FindingKind> = differences.iter().map(|found| found.kind).collect();
        assert_eq!(kinds, [FindingKind::AmountDiffers], "{index}");
        assert_eq!(differences[0].amount, snapshot.amount, "{index}");
    }
}

#[test]
fn a_list_that_its_own_pg_does_not_bear_out_is_told() {
    let (paid, done) = (books(PaymentStatus::Approved, Some(10_000), &[]), there(PgStatus::Done, 10_000, &[]));
    let kinds = |rows: &[Listed]| -> Vec<FindingKind> {
        differences(&paid, &done, rows).iter().map(|found| found.kind).collect()
    };
    assert_eq!(kinds(&[row("t1", PgStatus::Done, 10_000)]), []);
    assert_eq!(kinds(&[row("t1", PgStatus::Done, 11_000)]), [FindingKind::AmountDiffers]);
    assert_eq!(kinds(&[row("t2", PgStatus::Canceled, 10_000)]), [FindingKind::AmountDiffers]);
    assert_eq!(kinds(&[row("t2", PgStatus::WaitingForDeposit, 0)]), []);
}

#[test]
fn what_our_books_explain_needs_no_question() {
    use PaymentStatus as S;
    let paid = books(S::Approved, Some(10_000), &[]);
    let part = books(S::PartiallyCanceled, Some(10_000), &[("c1", 4_000)]);
    let later = |row: Listed| Listed { at: Some(at(30)), ..row };
    for (here, row, explained) in [
        (&paid, row("t", PgStatus::Done, 10_000), true),
        (&paid, row("t", PgStatus::Done, 9_999), false),
        (&books(S::Confirming, None, &[]), row("t", PgStatus::Done, 10_000), false),
        (&books(S::Declined, None, &[]), row("t", PgStatus::Done, 10_000), false),
        (&books(S::Reversing, Some(10_000), &[]), row("t", PgStatus::Done, 10_000), true),
        (&part, row("c1", PgStatus::PartiallyCanceled, 4_000), true),
        (&part, row("c1", PgStatus::PartiallyCanceled, 4_001), false),
        (&part, row("c2", PgStatus::PartiallyCanceled, 4_000), false),
        (&paid, row("c1", PgStatus::Canceled, 10_000), false),
        (&books(S::Canceled, None, &[]), row("c1", PgStatus::Canceled, 10_000), true),
        (&books(S::AwaitingDeposit, None, &[]), row("c1", PgStatus::Canceled, 10_000), false),
        (&books(S::AwaitingDeposit, None, &[]), row("t", PgStatus::WaitingForDeposit, 0), true),
        // Issued, then paid; or paid, and taken back by the bank.
        (&paid, row("t", PgStatus::WaitingForDeposit, 0), true),
        (&paid, later(row("t", PgStatus::WaitingForDeposit, 0)), false),
        (&paid, row("t", PgStatus::Unrecognized, 0), false),
        (&paid, row("t", PgStatus::Aborted, 0), true),
        (&paid, Listed { own_shop: false, ..row("t", PgStatus::Done, 10_000) }, false),
        (&paid, Listed { order_id: "other".to_owned(), ..row("t", PgStatus::Done, 10_000) }, false),
        (&paid, Listed { amount: None, ..row("t", PgStatus::Done, 10_000) }, false),
    ] {
        assert_eq!(explains(here, &row), explained, "{here:?} {row:?}");
    }
}

#[test]
fn the_same_difference_is_the_same_finding_and_another_cancel_another_one() {
    let key = PaymentKey::parse("beans1").unwrap();
    let paid = books(PaymentStatus::Approved, Some(10_000), &[]);
    let of = |snapshot: &Snapshot| -> Vec<String> {
        differences(&paid, snapshot, &[]).iter().map(|found| dedupe_key("toss", &key, found)).collect()
    };
    let one = of(&there(PgStatus::PartiallyCanceled, 6_000, &[("c1", 4_000)]));
    assert_eq!(one, ["canceled_there_only:toss:beans1:c1"]);
    let two = of(&there(PgStatus::PartiallyCanceled, 5_000, &[("c1", 4_000), ("c2", 1_000)]));
    assert_eq!(two, ["canceled_there_only:toss:beans1:c1", "canceled_there_only:toss:beans1:c2"]);
}

#[test]
fn a_window_has_whole_seconds_and_both_its_ends() {
    let moment = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let window = Window::covering(moment("2026-05-04T03:00:00.9Z"), moment("2026-05-04T03:00:01.1Z")).unwrap();
    assert_eq!(window.from, moment("2026-05-04T03:00:00Z"));
    assert_eq!((window.until, window.end()), (moment("2026-05-04T03:00:01Z"), moment("2026-05-04T03:00:02Z")));
    assert_eq!(Window::covering(moment("2026-05-04T03:00:02Z"), moment("2026-05-04T03:00:01Z")), None);
}
