//! The fake PG itself: its payments, its clocks, and what the buyer and the back office do.
//!
//! All state sits behind one lock in [`Gateway`] and changes through [`State::commit`] only. Called by
//! the endpoint modules and by [`crate::PgMock`]. Refuses steps a real buyer could not take, with a
//! [`Misuse`].

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::Options;
use crate::book::{Book, BookPayment};
use crate::payment::{CancelOrder, CancelOrigin, Card, Method, Payment, ReturnUrls, Status};
use crate::state::State;
use crate::store::{Kept, Store};
use crate::webhook::Webhooks;

/// A payment window to be opened.
#[derive(Clone, Debug)]
pub struct NewPayment {
    /// The shop's order, 6 to 64 of `A–Z a–z 0–9 - _`.
    pub order_id: String,
    /// In minor units of `currency`.
    pub amount: i64,
    /// ISO 4217 code.
    pub currency: String,
    /// How the buyer wants to pay.
    pub method: Method,
    /// What the buyer sees.
    pub order_name: String,
}

/// A step that does not fit the payment it is asked of.
#[derive(Debug)]
pub(crate) struct Misuse(pub String);

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) struct Gateway {
    pub options: Options,
    pub webhooks: Webhooks,
    state: Mutex<State>,
}

impl Gateway {
    /// # Errors
    /// When the state file cannot be used.
    pub fn new(options: Options, webhooks: Webhooks) -> io::Result<Gateway> {
        let (store, kept) = match &options.state_file {
            Some(path) => Store::open(path).map(|(store, kept)| (Some(store), kept))?,
            None => (None, Kept::default()),
        };
        let mut state = State::new(store, kept, webhooks.clone());
        // Folds the journal into the snapshot; nothing is served on files that cannot be written.
        state.compact()?;
        Ok(Gateway { options, webhooks, state: Mutex::new(state) })
    }

    /// The state, with everything done that has come due.
    pub fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.settle(Utc::now());
        state
    }

    pub fn book(&self) -> Book {
        let state = self.state();
        Book {
            payments: state.payments().map(BookPayment::from).collect(),
            calls: state.calls.clone(),
            webhooks: self.webhooks.counts(),
            failed_writes: state.failed_writes(),
        }
    }

    /// Opens a payment window: `READY`.
    pub fn open(&self, new: NewPayment, return_urls: Option<ReturnUrls>) -> String {
        let now = Utc::now();
        let mut state = self.state();
        let payment_key = loop {
            let key = new_payment_key(&self.options.m_id, now);
            if state.payment(&key).is_none() {
                break key;
            }
        };
        state.commit(Payment {
            payment_key: payment_key.clone(),
            order_id: new.order_id,
            order_name: new.order_name,
            currency: new.currency,
            method: new.method,
            status: Status::Ready,
            requested_amount: new.amount,
            total_amount: new.amount,
            tax_free_amount: 0,
            discount: 0,
            requested_at: now,
            deadline: later(now, self.options.window),
            approved_at: None,
            due_at: None,
            secret: format!("ps_{}", Uuid::new_v4().simple()),
            last_transaction_key: None,
            escrow: false,
            partial_cancelable: true,
            card: Card::Good,
            failure: None,
            approvals: Vec::new(),
            cancels: Vec::new(),
            transactions: Vec::new(),
            return_urls,
        });
        payment_key
    }

    /// The buyer authenticates with `method` and, for a card, the given one: `IN_PROGRESS`.
    pub fn authenticate(&self, payment_key: &str, method: Method, card: Card) -> Result<(), Misuse> {
        let deadline = later(Utc::now(), self.options.session);
        self.step(payment_key, &[Status::Ready], |mut payment| {
            payment.method = method;
            payment.card = card;
            Ok(payment.authenticate(deadline))
        })
    }

    /// The card company turns the buyer away inside the window.
    pub fn refuse_in_window(&self, payment_key: &str, code: &str) -> Result<(), Misuse> {
        self.step(payment_key, &[Status::Ready], |payment| Ok(payment.abort(code)))
    }

    /// The buyer pays into the virtual account.
    pub fn deposit(&self, payment_key: &str) -> Result<(), Misuse> {
        let now = Utc::now();
        self.step(payment_key, &[Status::WaitingForDeposit], |payment| match payment.due_at {
            Some(due) if due < now => Err(Misuse(format!("{payment_key}: the account took deposits until {due} only"))),
            Some(_) | None => Ok(payment.deposit(now)),
        })
    }

    /// The bank takes money that it should have refused: of another amount, or into an account that is closed or over.
    pub fn deposit_anyway(&self, payment_key: &str, amount: i64) -> Result<(), Misuse> {
        let unpaid = [Status::WaitingForDeposit, Status::Canceled, Status::Expired];
        self.step(payment_key, &unpaid, |payment| {
            if payment.method == Method::VirtualAccount && payment.approvals.is_empty() {
                Ok(payment.deposit_anyway(Utc::now(), amount))
            } else {
                Err(Misuse(format!("{payment_key} is no unpaid virtual account")))
            }
        })
    }

    /// The bank takes the deposit back.
    pub fn reverse_deposit(&self, payment_key: &str) -> Result<(), Misuse> {
        self.step(payment_key, &[Status::Done], |payment| {
            if payment.method == Method::VirtualAccount {
                Ok(payment.reverse_deposit(Utc::now()))
            } else {
                Err(Misuse(format!("{payment_key} is no virtual account")))
            }
        })
    }

    /// The clock of the payment runs out now.
    pub fn expire(&self, payment_key: &str) -> Result<(), Misuse> {
        let open = [Status::Ready, Status::InProgress];
        self.step(payment_key, &open, |payment| Ok(payment.expire()))
    }

    /// Somebody cancels in the PG's back office.
    pub fn cancel_in_console(&self, payment_key: &str, amount: i64) -> Result<(), Misuse> {
        let cancelable = [Status::Done, Status::PartialCanceled, Status::WaitingForDeposit];
        self.step(payment_key, &cancelable, |payment| {
            let left = payment.balance();
            // An account without a deposit can only be closed as a whole.
            let least = if payment.status == Status::WaitingForDeposit { left } else { 1 };
            if amount < least || amount > left {
                return Err(Misuse(format!("{payment_key}: {amount} is not in {least}..={left}")));
            }
            Ok(payment.cancel(&CancelOrder {
                at: Utc::now(),
                amount,
                reason: "상점관리자 취소",
                idempotency_key: None,
                origin: CancelOrigin::Console,
            }))
        })
    }

    /// Changes facts about a payment that no API call changes (escrow, discounts).
    pub fn adjust(&self, payment_key: &str, change: impl FnOnce(&mut Payment)) -> Result<(), Misuse> {
        let mut state = self.state();
        let mut payment = state.find(payment_key)?.clone();
        change(&mut payment);
        state.commit(payment);
        Ok(())
    }

    fn step(
        &self,
        payment_key: &str,
        from: &[Status],
        change: impl FnOnce(Payment) -> Result<Payment, Misuse>,
    ) -> Result<(), Misuse> {
        let mut state = self.state();
        let payment = state.find(payment_key)?.clone();
        if !from.contains(&payment.status) {
            let status = payment.status;
            return Err(Misuse(format!("{payment_key} is {status:?}, not {from:?}")));
        }
        if state.is_busy(payment_key) {
            return Err(Misuse(format!("{payment_key}: a delayed call is at work on it")));
        }
        let payment = change(payment)?;
        state.commit(payment);
        Ok(())
    }

    /// Forgets every payment, answer, rule and count.
    pub fn reset(&self) {
        self.state().reset();
    }
}

/// `moment` plus `length`; the end of time if that is out of range.
pub(crate) fn later(moment: DateTime<Utc>, length: std::time::Duration) -> DateTime<Utc> {
    TimeDelta::from_std(length)
        .ok()
        .and_then(|length| moment.checked_add_signed(length))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// The documented shape: shop id, time, five characters.
fn new_payment_key(m_id: &str, now: DateTime<Utc>) -> String {
    let time = now.with_timezone(&crate::toss::KST).format("%Y%m%d%H%M%S");
    let random = Uuid::new_v4().simple().to_string();
    let tail: String = random.chars().take(5).collect();
    format!("{m_id}{time}{tail}")
}
