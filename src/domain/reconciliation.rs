//! Reconciliation: what the PG's books and ours disagree on, decided over values.
//!
//! The PG's transaction list only raises suspicion: the order of its rows and the sign of their amounts are not
//! promised, and it may lag. What counts is the PG's view of the payment itself, compared by [`differences`].

use chrono::{DateTime, TimeDelta, Utc};

use super::evidence::{PaymentKey, PgStatus, Snapshot};
use super::money::Money;
use super::payment::PaymentStatus;
use super::vocabulary;

vocabulary! {
    /// What two books can disagree on.
    pub enum FindingKind {
        /// The PG took money that our books do not have.
        MissingHere => "missing_here",
        /// Our books have money, or a cancel, that the PG does not have.
        MissingThere => "missing_there",
        /// Both know the payment, with different amounts, currency or order.
        AmountDiffers => "amount_differs",
        /// Somebody canceled in the PG's own console.
        CanceledThereOnly => "canceled_there_only",
        /// A payment that was closed here holds money there.
        LateApproval => "late_approval",
        /// Units of an order that was canceled in the PG's console are kept out of stock for a person to look at.
        StockHeld => "stock_held",
    }
}

vocabulary! {
    /// Where a finding stands.
    pub enum FindingStatus {
        /// Filed; its repair is under way.
        Open => "open",
        /// The books agree again.
        Repaired => "repaired",
        /// A person has to decide.
        Waiting => "waiting",
        /// A person settled it elsewhere, and said how.
        Closed => "closed",
    }
}

impl FindingStatus {
    /// Whether somebody or something still has to act.
    #[must_use]
    pub const fn is_unsettled(self) -> bool {
        match self {
            Self::Open | Self::Waiting => true,
            Self::Repaired | Self::Closed => false,
        }
    }
}

/// A span of time, both ends included, in whole seconds as PGs count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its beginning.
    pub from: DateTime<Utc>,
    /// Its end.
    pub until: DateTime<Utc>,
}

impl Window {
    /// The window of whole seconds that covers `from` to `until`; `None` if it is empty.
    #[must_use]
    pub fn covering(from: DateTime<Utc>, until: DateTime<Utc>) -> Option<Self> {
        let whole = |at: DateTime<Utc>| DateTime::from_timestamp(at.timestamp(), 0);
        let window = Self { from: whole(from)?, until: whole(until)? };
        (window.from <= window.until).then_some(window)
    }

    /// The first moment behind it.
    #[must_use]
    pub fn end(&self) -> DateTime<Utc> {
        self.until + TimeDelta::seconds(1)
    }
}

/// One row of a PG's transaction list: an approval or a cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The PG's identity of this row.
    pub transaction_key: String,
    /// The payment that it belongs to.
    pub payment_key: PaymentKey,
    /// The merchant's order id as the PG has it.
    pub order_id: String,
    /// The payment's state after it.
    pub status: PgStatus,
    /// When it happened.
    pub at: Option<DateTime<Utc>>,
    /// How much moved, without a sign; `None` in a currency that we do not know.
    pub amount: Option<Money>,
    /// Whether it belongs to our shop at the PG.
    pub own_shop: bool,
}

impl Listed {
    /// Whether money moved, or an account was closed: what our books must have a row for.
    #[must_use]
    pub const fn is_booked(&self) -> bool {
        match self.status {
            PgStatus::Done | PgStatus::PartiallyCanceled | PgStatus::Canceled => true,
            PgStatus::Ready
            | PgStatus::InProgress
            | PgStatus::WaitingForDeposit
            | PgStatus::Aborted
            | PgStatus::Expired
            | PgStatus::Unrecognized => false,
        }
    }
}

/// A cancel that our books have as done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The PG's identity of it.
    pub transaction_key: String,
    /// Minor units that were asked back.
    pub amount: i64,
    /// Minor units that went back: the amount, or nothing where it closed an account before any deposit.
    pub moved: i64,
}

/// What our books say of one payment.
#[derive(Debug, Clone)]
pub struct Books {
    /// Our order id.
    pub order_id: String,
    /// Where the payment stands.
    pub status: PaymentStatus,
    /// What the order costs.
    pub amount: Money,
    /// Minor units that the PG took, if it did.
    pub approved_amount: Option<i64>,
    /// When.
    pub approved_at: Option<DateTime<Utc>>,
    /// Minor units given back.
    pub canceled_amount: i64,
    /// The cancels that are done.
    pub cancels: Vec<Given>,
}

impl Books {
    /// Minor units that the PG must still have of the buyer's.
    #[must_use]
    pub fn kept(&self) -> i64 {
        self.approved_amount.map_or(0, |taken| taken - self.canceled_amount)
    }

    const fn keeps_money(&self) -> bool {
        match self.status {
            PaymentStatus::Approved | PaymentStatus::PartiallyCanceled => true,
            PaymentStatus::Ready
            | PaymentStatus::Confirming
            | PaymentStatus::AwaitingDeposit
            | PaymentStatus::Canceled
            | PaymentStatus::Declined
            | PaymentStatus::Expired
            | PaymentStatus::Reversing => false,
        }
    }

    fn has_cancel(&self, transaction_key: &str) -> bool {
        self.cancels.iter().any(|given| given.transaction_key == transaction_key)
    }
}

/// Whether our books alone explain a row of the list, so that the PG need not be asked about the payment.
#[must_use]
pub fn explains(books: &Books, row: &Listed) -> bool {
    let same_order = row.own_shop && row.order_id == books.order_id;
    let moved = row.amount.filter(|amount| amount.currency == books.amount.currency).map(|amount| amount.minor);
    match row.status {
        PgStatus::Done => same_order && moved.is_some() && moved == books.approved_amount,
        PgStatus::PartiallyCanceled | PgStatus::Canceled => {
            let given = books.cancels.iter().find(|given| given.transaction_key == row.transaction_key);
            let closed_unpaid = books.approved_amount.is_none()
                && books.status == PaymentStatus::Canceled
                && row.status == PgStatus::Canceled;
            same_order && (closed_unpaid || given.is_some_and(|given| moved == Some(given.amount)))
        }
        // After the deposit only a bank that takes it back lists one.
        PgStatus::WaitingForDeposit if books.keeps_money() => {
            row.at.zip(books.approved_at).is_some_and(|(at, approved)| at <= approved)
        }
        PgStatus::WaitingForDeposit
        | PgStatus::Ready
        | PgStatus::InProgress
        | PgStatus::Aborted
        | PgStatus::Expired => true,
        PgStatus::Unrecognized => false,
    }
}

/// One thing that the books disagree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What kind of thing.
    pub kind: FindingKind,
    /// How much of the buyer's money is at stake; `None` in a currency that we do not know.
    pub amount: Option<Money>,
    /// The one transaction that it is about, if it is about one.
    pub transaction_key: Option<String>,
    /// When the PG says that it happened.
    pub at: Option<DateTime<Utc>>,
    /// What a person has to know.
    pub why: &'static str,
}

/// What the PG's view of a payment and our books disagree on. `listed` are the rows that led here, possibly none.
#[must_use]
pub fn differences(books: &Books, snapshot: &Snapshot, listed: &[Listed]) -> Vec<Difference> {
    let mut found = Vec::new();
    if is_mismatched(books, snapshot) {
        found.push(Difference {
            kind: FindingKind::AmountDiffers,
            amount: snapshot.amount,
            transaction_key: None,
            at: snapshot.approved_at,
            why: "the PG has this payment with another amount, currency, order or shop",
        });
    }
    found.extend(unknown_cancels(books, snapshot));
    found.extend(unlisted_cancels(books, snapshot));
    if found.is_empty() {
        found.extend(balance(books, snapshot));
    }
    found.extend(listed.iter().filter_map(|row| contradiction(row, snapshot)));
    found
}

/// What the PG still has of the buyer's money.
#[must_use]
pub fn kept_there(snapshot: &Snapshot) -> i64 {
    match snapshot.status {
        PgStatus::Done | PgStatus::PartiallyCanceled => snapshot.balance,
        PgStatus::Canceled
        | PgStatus::Ready
        | PgStatus::InProgress
        | PgStatus::WaitingForDeposit
        | PgStatus::Aborted
        | PgStatus::Expired
        | PgStatus::Unrecognized => 0,
    }
}

/// Whether the PG ever took money for it.
#[must_use]
pub fn took_money(snapshot: &Snapshot) -> bool {
    match snapshot.status {
        PgStatus::Done | PgStatus::PartiallyCanceled => true,
        PgStatus::Canceled => snapshot.approved_at.is_some(),
        PgStatus::Ready
        | PgStatus::InProgress
        | PgStatus::WaitingForDeposit
        | PgStatus::Aborted
        | PgStatus::Expired
        | PgStatus::Unrecognized => false,
    }
}

/// Whether the PG's payment is the one that our order asks for.
#[must_use]
pub fn is_ours(order_id: &str, amount: Money, snapshot: &Snapshot) -> bool {
    snapshot.own_shop && snapshot.order_id == order_id && snapshot.amount == Some(amount)
}

/// Money that is kept, or about to be, must be the order's own. Wrong money that is closed already goes its own way.
fn is_mismatched(books: &Books, snapshot: &Snapshot) -> bool {
    let counts = books.keeps_money() || books.status == PaymentStatus::Confirming;
    counts && took_money(snapshot) && !is_ours(&books.order_id, books.amount, snapshot)
}

/// Cancels that the PG made and we have not: somebody used its console.
fn unknown_cancels(books: &Books, snapshot: &Snapshot) -> Vec<Difference> {
    let unpaid = snapshot.status == PgStatus::Canceled && snapshot.approved_at.is_none();
    if books.status == PaymentStatus::AwaitingDeposit && unpaid {
        let closed = snapshot.cancels.last();
        return vec![Difference {
            kind: FindingKind::CanceledThereOnly,
            amount: snapshot.amount,
            transaction_key: closed.map(|cancel| cancel.transaction_key.clone()),
            at: closed.and_then(|cancel| cancel.canceled_at),
            why: "the account was closed at the PG before any deposit",
        }];
    }
    if !books.keeps_money() {
        return Vec::new();
    }
    let new = snapshot.cancels.iter().filter(|cancel| cancel.done && !books.has_cancel(&cancel.transaction_key));
    new.map(|cancel| Difference {
        kind: FindingKind::CanceledThereOnly,
        amount: snapshot.amount.map(|amount| Money::new(cancel.amount, amount.currency)),
        transaction_key: Some(cancel.transaction_key.clone()),
        at: cancel.canceled_at,
        why: "the PG gave money back that our books still have",
    })
    .collect()
}

/// Cancels that we have as done and the PG does not list. One that moved no money owes the buyer none, and the PG need
/// not list it once a deposit came into the closed account after all.
fn unlisted_cancels(books: &Books, snapshot: &Snapshot) -> Vec<Difference> {
    if books.approved_amount.is_none() || !took_money(snapshot) {
        return Vec::new();
    }
    let lists = |key: &str| snapshot.cancels.iter().any(|cancel| cancel.transaction_key == key);
    let lost = books.cancels.iter().filter(|given| given.moved > 0 && !lists(&given.transaction_key));
    lost.map(|given| Difference {
        kind: FindingKind::MissingThere,
        amount: Some(Money::new(given.amount, books.amount.currency)),
        transaction_key: Some(given.transaction_key.clone()),
        at: None,
        why: "our books have a cancel that the PG does not list: the buyer may still wait for the money",
    })
    .collect()
}

/// What is left on both sides.
fn balance(books: &Books, snapshot: &Snapshot) -> Option<Difference> {
    let (here, there) = (books.kept(), kept_there(snapshot));
    let money = |minor: i64| Money::new(minor, snapshot.amount.map_or(books.amount.currency, |amount| amount.currency));
    let differs = |kind, minor: i64, why| {
        Some(Difference { kind, amount: Some(money(minor)), transaction_key: None, at: snapshot.approved_at, why })
    };
    if there > here {
        return match books.status {
            PaymentStatus::Confirming | PaymentStatus::AwaitingDeposit => {
                differs(FindingKind::MissingHere, there, "the PG took the money and our books do not have it yet")
            }
            PaymentStatus::Ready | PaymentStatus::Declined | PaymentStatus::Expired => {
                differs(FindingKind::LateApproval, there, "the payment was closed here and holds money there")
            }
            PaymentStatus::Canceled if books.approved_amount.is_none() => {
                differs(FindingKind::LateApproval, there, "the payment was closed here and holds money there")
            }
            PaymentStatus::Approved
            | PaymentStatus::PartiallyCanceled
            | PaymentStatus::Canceled
            | PaymentStatus::Reversing => {
                differs(FindingKind::AmountDiffers, there - here, "the PG has more of the buyer's money than our books")
            }
        };
    }
    if here <= there || is_on_its_way_back(books) {
        return None;
    }
    if took_money(snapshot) {
        return differs(
            FindingKind::AmountDiffers,
            here - there,
            "the PG has less of the buyer's money than our books",
        );
    }
    differs(FindingKind::MissingThere, here, "our books have money that the PG says it does not have")
}

/// Money that is being returned may be gone there before our books say so: somebody helped by hand.
fn is_on_its_way_back(books: &Books) -> bool {
    books.status == PaymentStatus::Reversing
}

/// A row of the list that the PG's own view of the payment does not bear out.
fn contradiction(row: &Listed, snapshot: &Snapshot) -> Option<Difference> {
    let agrees = match row.status {
        PgStatus::Done => !took_money(snapshot) || row.amount.is_none() || row.amount == snapshot.amount,
        PgStatus::PartiallyCanceled | PgStatus::Canceled => {
            let cancel = snapshot.cancels.iter().find(|cancel| cancel.transaction_key == row.transaction_key);
            let unpaid = !took_money(snapshot);
            unpaid || cancel.is_some_and(|cancel| row.amount.is_none_or(|amount| amount.minor == cancel.amount))
        }
        PgStatus::Ready
        | PgStatus::InProgress
        | PgStatus::WaitingForDeposit
        | PgStatus::Aborted
        | PgStatus::Expired
        | PgStatus::Unrecognized => true,
    };
    (!agrees).then(|| Difference {
        kind: FindingKind::AmountDiffers,
        amount: row.amount,
        transaction_key: Some(row.transaction_key.clone()),
        at: row.at,
        why: "the PG's transaction list and its own view of the payment disagree",
    })
}

/// The identity of a difference: seen again, it is the same finding. What is not one of the list's contradictions is
/// told apart by its transaction only where one payment can have several.
#[must_use]
pub fn dedupe_key(provider: &str, payment_key: &PaymentKey, difference: &Difference) -> String {
    let transaction = difference.transaction_key.as_deref().unwrap_or("-");
    format!("{}:{provider}:{}:{transaction}", difference.kind, payment_key.as_str())
}

#[cfg(test)]
mod tests;
