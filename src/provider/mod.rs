//! The PG providers: one trait, one adapter per PG, and `call`, the only door through which they are reached.
//!
//! An adapter translates: our request into the PG's wire format, and whatever comes back (or does not) into
//! `domain::evidence`. It never touches the database, never retries, and classifies by one pure, table-tested
//! function whose default is *unknown*.

pub mod breaker;
pub mod call;
pub mod protection;
pub mod toss;

use futures_util::future::BoxFuture;
use secrecy::SecretString;

use crate::domain::evidence::{CancelAnswer, ConfirmAnswer, Doubt, Inquiry, PaymentKey};
use crate::domain::ids::{CancellationId, OrderId};
use crate::domain::money::Money;
use crate::domain::reconciliation::{Listed, Window};

/// "Take the money": the amount is the stored one, never the browser's.
#[derive(Debug, Clone)]
pub struct ConfirmRequest {
    /// The PG payment the buyer authenticated.
    pub payment_key: PaymentKey,
    /// Our order.
    pub order_id: OrderId,
    /// What the order costs.
    pub amount: Money,
    /// The PG's idempotency key: `{payment id}:{attempt}`.
    pub idempotency_key: String,
}

/// A bank account for a refund. Personal data: `Debug` shows nothing, it is sent once and stored nowhere.
#[derive(Clone)]
pub struct RefundAccount {
    /// Two-character bank code.
    pub bank_code: String,
    /// Digits only, at most 20.
    pub account_number: SecretString,
    /// At most 60 characters.
    pub holder: SecretString,
}

impl std::fmt::Debug for RefundAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RefundAccount(…)")
    }
}

/// "Give money back."
#[derive(Debug, Clone)]
pub struct CancelRequest {
    /// The payment.
    pub payment_key: PaymentKey,
    /// Our cancellation; it ends the reason as `[can_…]`, by which an inquiry finds it again.
    pub cancellation_id: CancellationId,
    /// The shop's reason.
    pub reason: String,
    /// How much; `None` for all that is left.
    pub amount: Option<Money>,
    /// What we believe is left before this cancel; the PG refuses if it disagrees.
    pub expected_balance: Option<Money>,
    /// Where to send the money of a paid virtual account.
    pub refund_account: Option<RefundAccount>,
    /// The PG's idempotency key: `{cancellation id}:{attempt}`.
    pub idempotency_key: String,
}

/// An answer with the facts of the wire, for history, logs and metrics.
#[derive(Debug, Clone)]
pub struct Exchange<A> {
    /// What it means.
    pub answer: A,
    /// HTTP status, if an answer came.
    pub http_status: Option<u16>,
    /// The PG's code, if one came.
    pub code: Option<String>,
    /// The PG's own trace id, which its support asks for.
    pub provider_trace_id: Option<String>,
}

/// "What happened in this time?", page by page.
#[derive(Debug, Clone)]
pub struct ListRequest {
    /// Which time.
    pub window: Window,
    /// The last row of the page before; `None` for the first page.
    pub after: Option<String>,
    /// Rows of a page at most.
    pub rows_max: u32,
}

/// A page of the transaction list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its rows. Their order is not promised.
    pub rows: Vec<Listed>,
    /// What the next page starts after; `None` on the last one.
    pub next: Option<String>,
}

/// The answer to a question for a page.
#[derive(Debug, Clone)]
pub enum Listing {
    /// The whole page.
    Page(Page),
    /// No usable answer. A page that can be read only in part is one of these.
    Unknown(Doubt),
}

/// What a webhook says. Always a hint: the PG is asked before anything changes.
#[derive(Debug)]
pub enum Notice {
    /// A payment changed.
    Payment {
        /// The event's name.
        event: String,
        /// The PG's key.
        payment_key: Option<PaymentKey>,
        /// Our order id as it came.
        order_id: Option<String>,
        /// The status it claims, as it came.
        status: Option<String>,
    },
    /// A virtual account's deposit changed; `secret` must equal the payment's own.
    Deposit {
        /// Our order id as it came.
        order_id: String,
        /// Proof that the PG sent it.
        secret: SecretString,
        /// The status it claims.
        status: String,
    },
    /// Something that needs nothing of us: kept, answered 200, not acted on.
    Irrelevant {
        /// The event's name.
        event: String,
    },
    /// Not readable as any known envelope.
    Undecodable,
}

/// One PG.
pub trait Provider: Send + Sync + 'static {
    /// Its name in the database, metrics and routes, e.g. `toss`.
    fn name(&self) -> &'static str;

    /// Takes the money of an authenticated payment.
    fn confirm<'a>(&'a self, request: &'a ConfirmRequest) -> BoxFuture<'a, Exchange<ConfirmAnswer>>;

    /// Gives money back.
    fn cancel<'a>(&'a self, request: &'a CancelRequest) -> BoxFuture<'a, Exchange<CancelAnswer>>;

    /// Asks what the PG knows of a payment.
    fn inquire<'a>(&'a self, payment_key: &'a PaymentKey) -> BoxFuture<'a, Exchange<Inquiry>>;

    /// Asks by our order id, for when the key is not known.
    fn inquire_by_order<'a>(&'a self, order_id: OrderId) -> BoxFuture<'a, Exchange<Inquiry>>;

    /// Lists what happened in a span of time.
    fn transactions<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Exchange<Listing>>;

    /// Reads a webhook's raw body.
    fn read_webhook(&self, body: &[u8]) -> Notice;
}
