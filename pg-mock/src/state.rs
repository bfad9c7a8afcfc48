//! Everything the fake PG holds in memory, and the one way to change it.
//!
//! Every change of a payment goes through [`State::commit`], which writes it to the state file, wakes
//! the webhooks and sets the clocks; so no path can change money and forget one of them. Owned by
//! [`crate::gateway::Gateway`], behind its lock. It does not judge whether a change is allowed.

use std::collections::{BTreeSet, HashMap};
use std::io;

use chrono::{DateTime, Utc};

use crate::book::Calls;
use crate::gateway::Misuse;
use crate::idempotency::{Answers, Remembered};
use crate::payment::{Payment, Status};
use crate::script::Script;
use crate::store::{Kept, Line, Store};
use crate::webhook::Webhooks;

/// A change that becomes visible later.
pub(crate) struct Deferred {
    pub at: DateTime<Utc>,
    pub payment: Payment,
    pub answer: Option<Remembered>,
}

pub(crate) struct State {
    payments: HashMap<String, Payment>,
    opened: Vec<String>,
    by_order: HashMap<String, Vec<String>>,
    /// Moments at which something may be due for a payment: an expiry or a deferred change.
    clocks: BTreeSet<(DateTime<Utc>, String)>,
    deferred: HashMap<String, Deferred>,
    pub answers: Answers,
    pub script: Script,
    pub calls: Calls,
    store: Option<Store>,
    failed_writes: u64,
    webhooks: Webhooks,
}

impl State {
    /// What an earlier run kept, with the last version of everything on top.
    pub fn new(store: Option<Store>, kept: Kept, webhooks: Webhooks) -> State {
        let mut state = State {
            payments: HashMap::new(),
            opened: Vec::new(),
            by_order: HashMap::new(),
            clocks: BTreeSet::new(),
            deferred: HashMap::new(),
            answers: Answers::default(),
            script: Script::default(),
            calls: Calls::default(),
            store,
            failed_writes: 0,
            webhooks,
        };
        for payment in kept.payments {
            state.put(payment);
        }
        for answer in kept.answers {
            state.answers.remember(answer);
        }
        state
    }

    /// Forgets every payment, answer, rule and count.
    pub fn reset(&mut self) {
        let kept = Kept::default();
        *self = State::new(self.store.take(), kept, self.webhooks.clone());
        let written = self.compact();
        self.note(written);
    }

    pub fn failed_writes(&self) -> u64 {
        self.failed_writes
    }

    pub fn payment(&self, payment_key: &str) -> Option<&Payment> {
        self.payments.get(payment_key)
    }

    /// Forgets one payment; a state file keeps it.
    pub fn lose(&mut self, payment_key: &str) -> Result<(), Misuse> {
        let payment = self.find(payment_key)?.clone();
        self.payments.remove(payment_key);
        self.opened.retain(|key| key != payment_key);
        if let Some(keys) = self.by_order.get_mut(&payment.order_id) {
            keys.retain(|key| key != payment_key);
        }
        Ok(())
    }

    /// Every payment, in the order in which the windows were opened.
    pub fn payments(&self) -> impl Iterator<Item = &Payment> {
        self.opened.iter().filter_map(|key| self.payments.get(key))
    }

    /// The payment an order id stands for: the newest that got past confirm, else the newest.
    pub fn payment_of_order(&self, order_id: &str) -> Option<&Payment> {
        let keys = self.by_order.get(order_id)?;
        let newest_first = || keys.iter().rev().filter_map(|key| self.payments.get(key));
        newest_first().find(|payment| payment.last_transaction_key.is_some()).or_else(|| newest_first().next())
    }

    /// Whether a scripted delay is still working on the payment.
    pub fn is_busy(&self, payment_key: &str) -> bool {
        self.deferred.contains_key(payment_key)
    }

    /// Makes `payment` the truth. Says whether a webhook goes out for it.
    pub fn commit(&mut self, payment: Payment) -> bool {
        self.commit_with(payment, None)
    }

    /// As [`State::commit`], together with the answer that tells of it.
    pub fn commit_with(&mut self, payment: Payment, answer: Option<Remembered>) -> bool {
        let mut lines = vec![Line::Payment(Box::new(payment.clone()))];
        lines.extend(answer.clone().map(Line::Answer));
        self.write(&lines);
        if let Some(answer) = answer {
            self.answers.remember(answer);
        }
        let before = self.payments.get(&payment.payment_key);
        let changed = before.is_none_or(|before| {
            before.status != payment.status || before.last_transaction_key != payment.last_transaction_key
        });
        let told = changed && self.webhooks.tell(&payment);
        self.put(payment);
        told
    }

    /// Binds an answer that changed nothing.
    pub fn remember(&mut self, answer: Remembered) {
        self.write(&[Line::Answer(answer.clone())]);
        self.answers.remember(answer);
    }

    /// Has a change become visible later. Until then repeats of its key find it running.
    pub fn defer(&mut self, deferred: Deferred) {
        if let Some(answer) = &deferred.answer {
            self.answers.remember(answer.clone());
        }
        let payment_key = deferred.payment.payment_key.clone();
        self.clocks.insert((deferred.at, payment_key.clone()));
        self.deferred.insert(payment_key, deferred);
    }

    pub fn find(&self, payment_key: &str) -> Result<&Payment, Misuse> {
        self.payments.get(payment_key).ok_or_else(|| Misuse(format!("there is no payment {payment_key}")))
    }

    /// Does what has come due: delayed effects and expiries.
    pub fn settle(&mut self, now: DateTime<Utc>) {
        while self.clocks.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, payment_key)) = self.clocks.pop_first() else {
                return;
            };
            if let Some(deferred) = self.deferred.remove(&payment_key) {
                if deferred.at <= now {
                    self.commit_with(deferred.payment, deferred.answer);
                } else {
                    self.deferred.insert(payment_key, deferred);
                }
                continue;
            }
            let Some(payment) = self.payments.get(&payment_key) else {
                continue;
            };
            let open = matches!(payment.status, Status::Ready | Status::InProgress);
            if open && payment.deadline <= now {
                let expired = payment.clone().expire();
                self.commit(expired);
            }
        }
    }

    fn put(&mut self, payment: Payment) {
        let key = payment.payment_key.clone();
        if matches!(payment.status, Status::Ready | Status::InProgress) {
            self.clocks.insert((payment.deadline, key.clone()));
        }
        let order_id = payment.order_id.clone();
        if self.payments.insert(key.clone(), payment).is_none() {
            self.by_order.entry(order_id).or_default().push(key.clone());
            self.opened.push(key);
        }
    }

    fn write(&mut self, lines: &[Line]) {
        let entries = self.payments.len() + self.answers.len();
        let Some(store) = &mut self.store else {
            return;
        };
        let mut written = store.append(lines);
        if written.is_ok() && store.is_long(entries) {
            written = self.compact();
        }
        self.note(written);
    }

    /// Folds the journal of the state file into its snapshot.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn compact(&mut self) -> io::Result<()> {
        if self.store.is_none() {
            return Ok(());
        }
        let kept =
            Kept { payments: self.payments().cloned().collect(), answers: self.answers.all().cloned().collect() };
        match &mut self.store {
            Some(store) => store.compact(&kept),
            None => Ok(()),
        }
    }

    /// A write that failed is told and counted; the call goes on, because the effect has happened.
    fn note(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            self.failed_writes += 1;
            eprintln!("pg-mock: the state file cannot be written: {error}");
        }
    }
}
