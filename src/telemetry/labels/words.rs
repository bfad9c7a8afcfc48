//! The words of business, database and worker metrics. Each list is closed: a new word is a change of this file.

use crate::domain::vocabulary;

vocabulary! {
    /// Why a request was turned away before any use case saw it.
    pub enum RejectionReason {
        /// Too many requests from one caller.
        RateLimited => "rate_limited",
        /// The body is larger than the route takes.
        BodyTooLarge => "body_too_large",
        /// Not the JSON that the route reads.
        BadJson => "bad_json",
        /// No usable credential.
        Unauthorized => "unauthorized",
        /// A credential that may not do this.
        Forbidden => "forbidden",
        /// A signature that does not verify.
        BadSignature => "bad_signature",
        /// More work than the process will queue.
        Shed => "shed",
    }
}

vocabulary! {
    /// A use case.
    pub enum Operation {
        /// Place an order.
        OrderCreate => "order_create",
        /// Cancel an order that is not paid.
        OrderCancel => "order_cancel",
        /// Confirm a payment.
        Confirm => "confirm",
        /// Cancel a payment, wholly or in part.
        Cancel => "cancel",
        /// Act on a stored webhook.
        WebhookApply => "webhook_apply",
        /// Release the hold of an unpaid order.
        Expire => "expire",
        /// Find out an uncertain outcome.
        Recover => "recover",
    }
}

vocabulary! {
    /// How a use case ended. Disjoint and total.
    pub enum OperationOutcome {
        /// Done.
        Success => "success",
        /// The PG said no.
        Declined => "declined",
        /// Our rules said no: amount, stock, state.
        Rejected => "rejected",
        /// An earlier answer was given again.
        Replayed => "replayed",
        /// Another request was at work on the same thing.
        Conflict => "conflict",
        /// The PG could not be asked, or certainly did nothing.
        PgError => "pg_error",
        /// Nobody can know yet.
        Unknown => "unknown",
        /// Our own fault.
        Error => "error",
    }
}

vocabulary! {
    /// Outcomes as a waiting customer sees them.
    pub enum OutcomeClass {
        /// It worked.
        Ok => "ok",
        /// A no that stands.
        Declined => "declined",
        /// Not the customer's doing.
        Failed => "failed",
        /// To be told later.
        Unknown => "unknown",
    }
}

impl OutcomeClass {
    /// The class of an outcome.
    #[must_use]
    pub const fn of(outcome: OperationOutcome) -> Self {
        match outcome {
            OperationOutcome::Success | OperationOutcome::Replayed => Self::Ok,
            OperationOutcome::Declined | OperationOutcome::Rejected | OperationOutcome::Conflict => Self::Declined,
            OperationOutcome::PgError | OperationOutcome::Error => Self::Failed,
            OperationOutcome::Unknown => Self::Unknown,
        }
    }
}

vocabulary! {
    /// A PG, as a label. A new adapter adds its name here.
    pub enum ProviderLabel {
        /// Toss Payments.
        Toss => "toss",
        /// No PG takes part.
        None => "none",
        /// A name that this list does not have, for example from a request's path.
        Other => "other",
    }
}

impl ProviderLabel {
    /// The label of `Provider::name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self::parse(name).unwrap_or(Self::Other)
    }
}

vocabulary! {
    /// What is asked of a PG.
    pub enum ProviderOperation {
        /// Take the money.
        Confirm => "confirm",
        /// Give money back.
        Cancel => "cancel",
        /// Tell what is known.
        Inquire => "inquire",
        /// List what happened.
        List => "list",
    }
}

vocabulary! {
    /// What came of one call to a PG.
    pub enum ProviderOutcome {
        /// A payment came back.
        Answered => "answered",
        /// A certain no to a confirm.
        Declined => "declined",
        /// A certain no to a cancel.
        Refused => "refused",
        /// Certainly not acted on.
        NotSent => "not_sent",
        /// Not certain.
        Unknown => "unknown",
        /// The PG does not know the payment.
        NotFound => "not_found",
    }
}

impl ProviderOutcome {
    /// Whether the PG has answered, be it with a no.
    #[must_use]
    pub const fn is_certain(self) -> bool {
        match self {
            Self::Answered | Self::Declined | Self::Refused | Self::NotFound => true,
            Self::NotSent | Self::Unknown => false,
        }
    }
}

vocabulary! {
    /// What a pooled connection is doing.
    pub enum PoolConnectionState {
        /// Waiting in the pool.
        Idle => "idle",
        /// Lent out.
        Used => "used",
    }
}

vocabulary! {
    /// The kinds of database transaction.
    pub enum Tx {
        /// Hold stock and write the order.
        OrderPlace => "order_place",
        /// The same for several orders of one product.
        OrderPlaceTogether => "order_place_together",
        /// Release an unpaid order.
        OrderCancel => "order_cancel",
        /// Commit the intent to confirm.
        ConfirmIntend => "confirm_intend",
        /// Record the answer to a confirm.
        ConfirmResolve => "confirm_resolve",
        /// Take capacity for a cancel.
        CancelIntend => "cancel_intend",
        /// Record the answer to a cancel.
        CancelResolve => "cancel_resolve",
        /// Release holds that ran out.
        Expire => "expire",
        /// Take due rows for recovery.
        Lease => "lease",
        /// Store a webhook.
        WebhookReceive => "webhook_receive",
        /// Mark a webhook as dealt with.
        WebhookApply => "webhook_apply",
        /// Change products and stock.
        Catalogue => "catalogue",
        /// Answer a read.
        Read => "read",
        /// Look up or change API keys.
        Keys => "keys",
        /// Count what is open.
        Overview => "overview",
        /// Remove what is too old to matter.
        Housekeeping => "housekeeping",
        /// Judge the books.
        Audit => "audit",
        /// File a difference between the PG's books and ours, or what became of it.
        Reconcile => "reconcile",
        /// Count what was sold and given back.
        Sales => "sales",
    }
}

vocabulary! {
    /// How a transaction ended.
    pub enum TxResult {
        /// It was committed.
        Commit => "commit",
        /// It was rolled back.
        Rollback => "rollback",
    }
}

vocabulary! {
    /// How others made a transaction fail.
    pub enum Contention {
        /// Transactions waited for each other in a circle, and this one was ended.
        Deadlock => "deadlock",
        /// What it read was changed meanwhile.
        Serialization => "serialization",
        /// A row was not free in time.
        LockTimeout => "lock_timeout",
        /// A statement ran out of time.
        StatementTimeout => "statement_timeout",
    }
}

vocabulary! {
    /// The routes that take an `Idempotency-Key`.
    pub enum IdempotentRoute {
        /// Place an order.
        Order => "order",
        /// Confirm.
        Confirm => "confirm",
        /// Cancel.
        Cancel => "cancel",
    }
}

vocabulary! {
    /// What an `Idempotency-Key` led to.
    pub enum IdempotencyResult {
        /// First use.
        Fresh => "fresh",
        /// The stored answer was given.
        Replayed => "replayed",
        /// The first request is still running.
        InFlight => "in_flight",
        /// The key belongs to another body.
        Mismatch => "mismatch",
        /// No key where one is required.
        Missing => "missing",
    }
}

vocabulary! {
    /// What became of a webhook at the door.
    pub enum WebhookReceived {
        /// Kept for the worker.
        Stored => "stored",
        /// Already kept.
        Duplicate => "duplicate",
        /// Larger than any real one.
        TooLarge => "too_large",
        /// Not readable.
        Undecodable => "undecodable",
    }
}

vocabulary! {
    /// What a stored webhook led to.
    pub enum WebhookApplied {
        /// State changed.
        Changed => "changed",
        /// We knew already.
        Unchanged => "unchanged",
        /// No payment of ours.
        UnknownPayment => "unknown_payment",
        /// A deposit callback without the payment's secret.
        SecretMismatch => "secret_mismatch",
        /// An event that needs nothing of us.
        Irrelevant => "irrelevant",
        /// Not readable.
        Undecodable => "undecodable",
        /// The PG could not be asked; later again.
        Deferred => "deferred",
    }
}

vocabulary! {
    /// What asking about an uncertain outcome gave.
    pub enum InquiryResult {
        /// Certain now.
        Resolved => "resolved",
        /// Still not certain.
        StillUnknown => "still_unknown",
        /// The PG does not know the payment.
        NotFound => "not_found",
    }
}

vocabulary! {
    /// What can be waiting for certainty.
    pub enum UnresolvedKind {
        /// A payment that is `confirming`.
        Confirm => "confirm",
        /// A cancellation that is `requested`.
        Cancel => "cancel",
    }
}

vocabulary! {
    /// Why stock moved.
    pub enum StockMovement {
        /// An order was placed.
        Hold => "hold",
        /// An order ended unpaid.
        Release => "release",
        /// A paid order's lines were canceled.
        Restore => "restore",
        /// New goods came in.
        Restock => "restock",
        /// A count was put right.
        Correction => "correction",
    }
}

vocabulary! {
    /// The worker's tasks.
    pub enum Task {
        /// Ask about uncertain outcomes.
        Recovery => "recovery",
        /// Release holds that ran out.
        Expiry => "expiry",
        /// Act on stored webhooks.
        Webhooks => "webhooks",
        /// Count what is open.
        Overview => "overview",
        /// Remove what is too old to matter.
        Housekeeping => "housekeeping",
        /// Judge what changed.
        Audit => "audit",
        /// Judge every row.
        AuditFull => "audit_full",
        /// Compare the PG's books with ours.
        Reconcile => "reconcile",
        /// Count what was sold and given back.
        Sales => "sales",
    }
}

vocabulary! {
    /// Which rows a run of the auditor is about.
    pub enum AuditMode {
        /// What changed since the last round.
        Changed => "changed",
        /// Every row.
        Full => "full",
    }
}

vocabulary! {
    /// How one run of the comparison with a PG ended.
    pub enum ReconcileOutcome {
        /// Everything in its time was compared.
        Complete => "complete",
        /// The PG or one item could not be judged; the same time is compared again.
        Incomplete => "incomplete",
        /// Another run was at it.
        Busy => "busy",
    }
}

vocabulary! {
    /// How one tick of a task ended.
    pub enum TickResult {
        /// There was nothing to do.
        Idle => "idle",
        /// Something was done.
        Worked => "worked",
        /// It failed.
        Failed => "failed",
    }
}

vocabulary! {
    /// The level of a log line.
    pub enum LogLevel {
        /// A human must act.
        Error => "error",
        /// Out of the ordinary.
        Warn => "warn",
        /// The ordinary.
        Info => "info",
        /// For whoever is looking into something.
        Debug => "debug",
        /// Everything.
        Trace => "trace",
    }
}

impl LogLevel {
    /// The label of a `tracing` level.
    #[must_use]
    pub fn of(level: tracing::Level) -> Self {
        match level {
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warn,
            tracing::Level::INFO => Self::Info,
            tracing::Level::DEBUG => Self::Debug,
            tracing::Level::TRACE => Self::Trace,
        }
    }
}

vocabulary! {
    /// What was masked in a log line.
    pub enum RedactionRule {
        /// An `Authorization: Bearer` credential.
        Bearer => "bearer",
        /// An `Authorization: Basic` credential.
        Basic => "basic",
        /// One of our API keys.
        ApiKey => "api_key",
        /// A checkout token.
        CheckoutToken => "checkout_token",
        /// A PG's secret key.
        ProviderKey => "provider_key",
        /// A card number.
        CardNumber => "card_number",
        /// An e-mail address.
        Email => "email",
        /// A Korean telephone number.
        Phone => "phone",
        /// The number of a bank account or a virtual account.
        Account => "account",
        /// The PG's key of a payment, wholly.
        PaymentKey => "payment_key",
        /// A value that is named as a secret, a billing key or a customer key.
        Secret => "secret",
    }
}
