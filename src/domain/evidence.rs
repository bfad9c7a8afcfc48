//! What a PG says, in paygauge's words. Adapters make these values; `resolution` turns them into state.
//!
//! "Unknown" is an answer here, never an error: it says that nobody can know yet, and it never ages into a refusal.

use chrono::{DateTime, Utc};

use super::money::Money;
use super::payment::Method;
use super::vocabulary;

/// The PG's own name of a payment. Opaque, at most 200 characters; shown in logs by its last six only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PaymentKey(String);

impl PaymentKey {
    /// Accepts 1–200 printable ASCII characters without space, slash, `?` or `#`. A lone `.` or `..` would step
    /// out of its place in a URL, so it is no key either.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= 200 && !matches!(text, "." | "..");
        let plain = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'%' | b'\\'));
        (fits && plain).then(|| Self(text.to_owned()))
    }

    /// The whole key, for the PG and the database.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for PaymentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tail: String = self.0.chars().rev().take(6).collect::<Vec<_>>().into_iter().rev().collect();
        write!(f, "…{tail}")
    }
}

vocabulary! {
    /// The PG's state of a payment.
    pub enum PgStatus {
        /// The window is open, the buyer has not authenticated.
        Ready => "ready",
        /// The buyer authenticated; a confirm is awaited or running.
        InProgress => "in_progress",
        /// A virtual account waits for a transfer.
        WaitingForDeposit => "waiting_for_deposit",
        /// The money was taken.
        Done => "done",
        /// Some of it went back.
        PartiallyCanceled => "partially_canceled",
        /// All of it went back, or the account was closed before a deposit.
        Canceled => "canceled",
        /// The approval failed.
        Aborted => "aborted",
        /// The session ran out.
        Expired => "expired",
        /// A state newer than this list.
        Unrecognized => "unrecognized",
    }
}

/// One cancel as the PG lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgCancel {
    /// The PG's identity of this cancel.
    pub transaction_key: String,
    /// Minor units given back.
    pub amount: i64,
    /// The reason sent with it; ours end in `[can_…]`.
    pub reason: String,
    /// When it happened, if it has.
    pub canceled_at: Option<DateTime<Utc>>,
    /// Whether the money really went back (asynchronous methods list a cancel before that).
    pub done: bool,
}

/// Where a virtual account's money is to be sent. Personal data: never logged, so `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct DepositAccount {
    /// Two-character bank code.
    pub bank_code: String,
    /// Account number.
    pub account_number: String,
    /// Name the account is issued in.
    pub holder: String,
    /// Until when a deposit is taken.
    pub due_at: Option<DateTime<Utc>>,
}

impl std::fmt::Debug for DepositAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DepositAccount(…)")
    }
}

/// The PG's view of one payment at one moment.
#[derive(Clone)]
pub struct Snapshot {
    /// The PG's key.
    pub payment_key: PaymentKey,
    /// The merchant's order id as the PG has it.
    pub order_id: String,
    /// Its state.
    pub status: PgStatus,
    /// How the buyer pays, once chosen.
    pub method: Option<Method>,
    /// The original amount. `None` when its currency is one that paygauge does not know.
    pub amount: Option<Money>,
    /// Minor units that can still be canceled.
    pub balance: i64,
    /// Whether the payment belongs to our shop at the PG.
    pub own_shop: bool,
    /// When the money was taken.
    pub approved_at: Option<DateTime<Utc>>,
    /// The key of the newest transaction.
    pub transaction_key: Option<String>,
    /// The per-payment secret that a deposit callback must show.
    pub secret: Option<secrecy::SecretString>,
    /// The virtual account, if one was issued.
    pub deposit: Option<DepositAccount>,
    /// Whether the PG itself says that the virtual account takes no deposit any more.
    pub deposit_closed: bool,
    /// The cancels, in the PG's order.
    pub cancels: Vec<PgCancel>,
    /// Why an approval failed.
    pub failure_code: Option<String>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("payment_key", &self.payment_key)
            .field("status", &self.status)
            .field("amount", &self.amount)
            .field("balance", &self.balance)
            .field("cancels", &self.cancels.len())
            .finish_non_exhaustive()
    }
}

vocabulary! {
    /// Why a payment was refused, coarse enough for a metric and for words to a buyer.
    pub enum DeclineClass {
        /// Not enough money.
        InsufficientFunds => "insufficient_funds",
        /// A limit of the card, the account or the day.
        LimitExceeded => "limit_exceeded",
        /// Wrong number, expiry or plan.
        CardInvalid => "card_invalid",
        /// Lost, stolen, stopped.
        CardBlocked => "card_blocked",
        /// The card company or bank said no without a reason.
        IssuerReject => "issuer_reject",
        /// Wrong password or too many tries.
        AuthFailed => "auth_failed",
        /// A fraud system stopped it.
        FraudSuspected => "fraud_suspected",
        /// The buyer gave up.
        UserCanceled => "user_canceled",
        /// The PG's session ran out; nothing was taken.
        SessionExpired => "session_expired",
        /// The method cannot be used now.
        MethodUnavailable => "method_unavailable",
        /// The shop's contract, key or request is at fault.
        MerchantConfig => "merchant_config",
        /// Anything else that is certain.
        Other => "other",
    }
}

vocabulary! {
    /// Why a cancel was refused.
    pub enum RefusalClass {
        /// A bank account for the refund is missing or wrong.
        RefundAccount => "refund_account",
        /// This payment can never be canceled through the PG.
        NotCancelable => "not_cancelable",
        /// It is too late to cancel.
        TooLate => "too_late",
        /// Only the whole amount can be canceled.
        PartialNotAllowed => "partial_not_allowed",
        /// The amount is more than is left, or less than a discount.
        Amount => "amount",
        /// The shop's contract, key or request is at fault.
        MerchantConfig => "merchant_config",
        /// Anything else that is certain.
        Other => "other",
    }
}

vocabulary! {
    /// Why an outcome is not certain.
    pub enum DoubtReason {
        /// No answer in time.
        Timeout => "timeout",
        /// The connection broke after bytes had left us.
        ConnectionLost => "connection_lost",
        /// The PG or something before it answered 5xx.
        ServerError => "server_error",
        /// The answer could not be read.
        Undecodable => "undecodable",
        /// The same request is still running at the PG.
        InFlight => "in_flight",
        /// The PG asks to wait; nothing was processed.
        TryLater => "try_later",
        /// A temporary fault behind the PG.
        ProviderFault => "provider_fault",
        /// The PG says that it was done already: go and look.
        AlreadyProcessed => "already_processed",
        /// The PG no longer has the session: go and look.
        SessionGone => "session_gone",
        /// The PG's balance is not the one we expected: go and look.
        BalanceDiffers => "balance_differs",
        /// A code that the table does not list.
        UnlistedCode => "unlisted_code",
        /// The answer is about another payment, or in a state that answers nothing.
        Inconclusive => "inconclusive",
    }
}

impl DoubtReason {
    /// Whether the way to the PG or the PG itself failed, rather than the PG having its reasons. Only such failures
    /// count against it: they say that the next buyer will fare no better.
    #[must_use]
    pub const fn is_technical(self) -> bool {
        match self {
            Self::Timeout | Self::ConnectionLost | Self::ServerError | Self::Undecodable => true,
            Self::InFlight
            | Self::TryLater
            | Self::ProviderFault
            | Self::AlreadyProcessed
            | Self::SessionGone
            | Self::BalanceDiffers
            | Self::UnlistedCode
            | Self::Inconclusive => false,
        }
    }

    /// Whether the PG gave an answer to this idempotency key. Such a key only repeats that answer, so the next
    /// try, made after an inquiry has shown that nothing happened, needs a new one (Toss keeps them for 15 days).
    #[must_use]
    pub const fn key_is_spent(self) -> bool {
        match self {
            Self::Timeout | Self::ConnectionLost | Self::InFlight => false,
            Self::ServerError
            | Self::Undecodable
            | Self::TryLater
            | Self::ProviderFault
            | Self::AlreadyProcessed
            | Self::SessionGone
            | Self::BalanceDiffers
            | Self::UnlistedCode
            | Self::Inconclusive => true,
        }
    }
}

/// An outcome that nobody can know yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// Why.
    pub reason: DoubtReason,
    /// The PG's code, if it gave one.
    pub code: Option<String>,
}

vocabulary! {
    /// Why the PG certainly did not act on a request.
    pub enum NotSentReason {
        /// No connection could be made.
        Unreachable => "unreachable",
        /// The PG turned the request away before looking at it (429).
        RateLimited => "rate_limited",
        /// The PG refused our key, contract or request: a person of the shop must act.
        Misconfigured => "misconfigured",
        /// The PG has never heard of the request, asked twice after a quarantine.
        NeverArrived => "never_arrived",
    }
}

/// Certainty that nothing happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotSent {
    /// Why.
    pub reason: NotSentReason,
    /// The PG's code, if it gave one.
    pub code: Option<String>,
    /// Seconds the PG asked us to wait.
    pub retry_after_s: Option<u64>,
}

/// A certain no to a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decline {
    /// Coarse reason.
    pub class: DeclineClass,
    /// The PG's own code.
    pub code: String,
}

/// A certain no to a cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Coarse reason.
    pub class: RefusalClass,
    /// The PG's own code.
    pub code: String,
}

/// The answer to a confirm.
#[derive(Debug, Clone)]
pub enum ConfirmAnswer {
    /// 2xx with a payment in it (approved, or waiting for a deposit). Whether it is *our* payment with *our*
    /// amount is decided by `resolution`.
    Answered(Box<Snapshot>),
    /// Certainly refused.
    Declined(Decline),
    /// Certainly not acted on.
    NotSent(NotSent),
    /// Not certain.
    Unknown(Doubt),
}

/// The answer to a cancel.
#[derive(Debug, Clone)]
pub enum CancelAnswer {
    /// 2xx with the payment as it is now; ours is the cancel whose reason carries our id.
    Answered(Box<Snapshot>),
    /// Certainly refused.
    Refused(Refusal),
    /// Certainly not acted on.
    NotSent(NotSent),
    /// Not certain.
    Unknown(Doubt),
}

/// The answer to "what do you know of this payment?".
#[derive(Debug, Clone)]
pub enum Inquiry {
    /// The PG's view.
    Found(Box<Snapshot>),
    /// The PG does not know it. Not proof while a confirm may still be on its way.
    NotFound,
    /// No usable answer.
    Unknown(Doubt),
}
