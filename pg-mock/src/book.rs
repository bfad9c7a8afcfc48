//! The book: what the fake PG really took and gave back, and how it was asked.
//!
//! It is the oracle of every test, so it holds facts and no opinions: a scripted lie in an answer
//! never shows here. Read through [`crate::PgMock::book`] and `GET /mock/book`; written only by
//! [`crate::gateway`].

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::payment::{Approval, Cancellation, Method, Payment, Status};

/// A snapshot of everything the fake PG knows.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Book {
    /// Every payment, in the order in which the windows were opened.
    pub payments: Vec<BookPayment>,
    /// How the API was used since the start (not kept across restarts).
    pub calls: Calls,
    /// What became of outgoing webhooks since the start.
    pub webhooks: WebhookCounts,
    /// Writes to the state file that failed: above 0, the file lags behind this book.
    pub failed_writes: u64,
}

impl Book {
    /// The payment with this key.
    #[must_use]
    pub fn payment(&self, payment_key: &str) -> Option<&BookPayment> {
        self.payments.iter().find(|payment| payment.payment_key == payment_key)
    }

    /// Every payment of one order, oldest first.
    pub fn of_order<'a>(&'a self, order_id: &'a str) -> impl Iterator<Item = &'a BookPayment> {
        self.payments.iter().filter(move |payment| payment.order_id == order_id)
    }

    /// Money taken and not reversed by the bank, before cancellations, for one order.
    #[must_use]
    pub fn approved(&self, order_id: &str) -> i64 {
        self.of_order(order_id).map(|payment| payment.approved).sum()
    }

    /// Money returned by cancellations for one order.
    #[must_use]
    pub fn canceled(&self, order_id: &str) -> i64 {
        self.of_order(order_id).map(|payment| payment.canceled).sum()
    }

    /// What the shop keeps of one order.
    #[must_use]
    pub fn net(&self, order_id: &str) -> i64 {
        self.approved(order_id) - self.canceled(order_id)
    }
}

/// What the PG really did with one payment.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BookPayment {
    /// The PG's identity of the payment.
    pub payment_key: String,
    /// The shop's order.
    pub order_id: String,
    /// How the buyer pays.
    pub method: Method,
    /// Where the payment stands.
    pub status: Status,
    /// ISO 4217 code.
    pub currency: String,
    /// What the payment is for, in minor units (what was charged, once it was).
    pub total_amount: i64,
    /// Money taken and not reversed by the bank.
    pub approved: i64,
    /// Money returned by cancellations.
    pub canceled: i64,
    /// Each time money was taken.
    pub approvals: Vec<Approval>,
    /// Each cancellation.
    pub cancels: Vec<Cancellation>,
    /// When the window was opened.
    pub requested_at: DateTime<Utc>,
}

impl From<&Payment> for BookPayment {
    fn from(payment: &Payment) -> Self {
        BookPayment {
            payment_key: payment.payment_key.clone(),
            order_id: payment.order_id.clone(),
            method: payment.method,
            status: payment.status,
            currency: payment.currency.clone(),
            total_amount: payment.total_amount,
            approved: payment.approved(),
            canceled: payment.canceled(),
            approvals: payment.approvals.clone(),
            cancels: payment.cancels.clone(),
            requested_at: payment.requested_at,
        }
    }
}

/// How the API was called.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Calls {
    /// Requests that reached an endpoint with a good API key.
    pub confirm: u64,
    /// Lookups by payment key and by order id.
    pub lookup: u64,
    /// Cancels.
    pub cancel: u64,
    /// Reads of the transaction list.
    pub transactions: u64,
    /// Requests refused for their credentials.
    pub unauthorized: u64,
    /// Use of every idempotency key seen.
    pub idempotency_keys: BTreeMap<String, KeyUse>,
}

/// How one idempotency key was used.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyUse {
    /// Requests that carried the key.
    pub calls: u64,
    /// Of these, answered from memory.
    pub replayed: u64,
    /// Of these, turned away because the first was still running.
    pub conflicts: u64,
    /// Paths the key was sent to.
    pub paths: BTreeSet<String>,
    /// SHA-256 of every distinct body sent under the key, in hex: more than one is a client's bug.
    pub body_hashes: BTreeSet<String>,
}

/// What became of outgoing webhooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookCounts {
    /// Deliveries begun (a duplicate counts again, a retry does not).
    pub begun: u64,
    /// Deliveries answered with 200.
    pub delivered: u64,
    /// Attempts that were not answered with 200.
    pub failed_attempts: u64,
    /// Deliveries given up after the last retry.
    pub given_up: u64,
    /// Webhooks lost because the queue was full.
    pub overflowed: u64,
}
