//! The money proof: at the end of a run our rows, the stock and the PG's book agree to the last won and unit, and every
//! answer that a buyer was given is so. With the database all of it is looked at; without it what REST shows.

mod database;
mod rest;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::buyer::{Buyers, Told, ToldState};
use super::target::Target;
use crate::domain::order::OrderStatus;

/// Differences that are named; more are counted.
const NAMED_MAX: usize = 20;

/// What the proof says.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// Whether nothing differs.
    pub holds: bool,
    /// One line for people.
    pub line: String,
    /// The first differences.
    pub differences: Vec<String>,
}

/// What was compared, and what did not agree.
#[derive(Default)]
struct Findings {
    seen: Vec<String>,
    differences: Vec<String>,
    more: usize,
}

impl Findings {
    fn saw(&mut self, what: String) {
        self.seen.push(what);
    }

    fn differs(&mut self, what: String) {
        if self.differences.len() < NAMED_MAX {
            self.differences.push(what);
        } else {
            self.more += 1;
        }
    }

    fn must(&mut self, is_right: bool, otherwise: impl FnOnce() -> String) {
        if !is_right {
            self.differs(otherwise());
        }
    }

    fn proof(mut self) -> Proof {
        if self.more > 0 {
            self.differences.push(format!("and {} more", self.more));
        }
        let holds = self.differences.is_empty();
        let verdict = if holds { "PROOF HOLDS" } else { "PROOF FAILS" };
        Proof { holds, line: format!("{verdict}: {}", self.seen.join("; ")), differences: self.differences }
    }
}

/// The PG's book, as far as the proof reads it.
#[derive(Deserialize)]
struct Book {
    payments: Vec<BookPayment>,
    calls: Calls,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookPayment {
    order_id: String,
    approved: i64,
    canceled: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Calls {
    idempotency_keys: BTreeMap<String, KeyUse>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyUse {
    body_hashes: Vec<String>,
}

/// Money of one order, in minor units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Money {
    taken: i64,
    given_back: i64,
}

impl Money {
    fn add(&mut self, taken: i64, given_back: i64) {
        self.taken += taken;
        self.given_back += given_back;
    }
}

impl Book {
    /// By order; what is without money is left out. An account that was closed before its deposit lists a cancel of
    /// money that never came.
    fn by_order(&self) -> HashMap<&str, Money> {
        let mut orders: HashMap<&str, Money> = HashMap::new();
        for payment in self.payments.iter().filter(|payment| payment.approved != 0) {
            orders.entry(&payment.order_id).or_default().add(payment.approved, payment.canceled);
        }
        orders
    }

    fn keys_had_one_body(&self, findings: &mut Findings) {
        for (key, used) in &self.calls.idempotency_keys {
            findings.must(used.body_hashes.len() <= 1, || format!("the PG's key {key} was used with two bodies"));
        }
    }
}

/// Proves it, or says what differs. Waits for what is undecided, at most `settle`.
///
/// # Errors
/// When it cannot be looked at.
pub async fn prove(target: &Target, buyers: &Buyers, settle: Duration) -> anyhow::Result<Proof> {
    let mut findings = Findings::default();
    match &target.db {
        Some(db) => database::prove(db, buyers, settle, &mut findings).await?,
        None => rest::prove(buyers, settle, &mut findings).await?,
    }
    Ok(findings.proof())
}

/// Reads the book as it is now.
async fn book(buyers: &Buyers) -> anyhow::Result<Book> {
    Ok(serde_json::from_value(buyers.mock.json("/mock/book").await?)?)
}

/// Whether an order that stands so agrees with the last certain word about it.
fn agrees(told: &Told, status: OrderStatus) -> bool {
    let decided = !matches!(status, OrderStatus::Confirming);
    match told.state {
        ToldState::Placed | ToldState::Declined => matches!(status, OrderStatus::Pending | OrderStatus::Expired),
        ToldState::Asked => decided,
        ToldState::Paid => status == OrderStatus::Paid,
        ToldState::CancelAsked => matches!(status, OrderStatus::Paid | OrderStatus::Canceled),
        ToldState::Canceled => status == OrderStatus::Canceled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(state: ToldState) -> Told {
        Told { order: String::new(), product: String::new(), payment_key: None, payment: None, state }
    }

    #[test]
    fn what_was_said_for_certain_must_be_so() {
        assert!(agrees(&told(ToldState::Paid), OrderStatus::Paid));
        assert!(!agrees(&told(ToldState::Paid), OrderStatus::Pending));
        assert!(!agrees(&told(ToldState::Canceled), OrderStatus::Paid));
        assert!(!agrees(&told(ToldState::Declined), OrderStatus::Paid));
        assert!(
            agrees(&told(ToldState::Asked), OrderStatus::Paid) && agrees(&told(ToldState::Asked), OrderStatus::Pending)
        );
        assert!(!agrees(&told(ToldState::Asked), OrderStatus::Confirming));
    }

    #[test]
    fn one_difference_is_enough() {
        let mut findings = Findings::default();
        findings.saw("2 orders".to_owned());
        findings.must(true, || "not this".to_owned());
        assert!(findings.differences.is_empty());
        (0..NAMED_MAX + 3).for_each(|number| findings.differs(format!("{number}")));
        let proof = findings.proof();
        assert!(!proof.holds && proof.line == "PROOF FAILS: 2 orders");
        assert_eq!(proof.differences.last().map(String::as_str), Some("and 3 more"));
    }
}
