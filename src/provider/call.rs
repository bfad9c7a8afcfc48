//! The only door to a PG: every call is admitted, bounded, measured, traced, and made with no database connection in
//! hand.
//!
//! Money is asked for with a [`Permit`] that was taken before the intent was written. A request of which certainly no
//! byte left us is sent once more, with the same key; nothing else is ever sent twice from here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::time::Instant;

use super::breaker::Health;
use super::protection::{Limits, Permit, Protection, Refused};
use super::{CancelRequest, ConfirmRequest, Exchange, ListRequest, Listing, Notice, Provider};
use crate::clock;
use crate::crash::{CrashPoint, CrashSwitch};
use crate::domain::evidence::{CancelAnswer, ConfirmAnswer, Doubt, DoubtReason, Inquiry, NotSentReason, PaymentKey};
use crate::domain::ids::OrderId;
use crate::telemetry::facts::{self, Fact};
use crate::telemetry::labels::{BreakerState, Lane, ProviderLabel, ProviderOperation, ProviderOutcome};
use crate::telemetry::ledger::{self, Step};
use crate::telemetry::{Span, SpanKind, record, traces};

/// How long to wait before a request that never left is sent again, in milliseconds: less or more, so that many do
/// not come back together.
const RESEND_AFTER_MS: std::ops::RangeInclusive<u64> = 50..=150;
/// No list takes longer than this.
const LIST_DEADLINE: Duration = Duration::from_secs(75);

/// What the history keeps of a call.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// `confirm`, `cancel`, `inquire` or `list`.
    pub operation: &'static str,
    /// What it came to.
    pub outcome: &'static str,
    /// HTTP status, if an answer came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// The PG's code, if one came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Milliseconds it took.
    pub duration_ms: u64,
    /// The PG's own trace id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_trace_id: Option<String>,
}

/// The door to one PG.
#[derive(Clone)]
pub struct Door {
    provider: Arc<dyn Provider>,
    label: ProviderLabel,
    deadline: Duration,
    protection: Arc<Protection>,
    crash: CrashSwitch,
}

impl Door {
    /// Opens the door to `provider`; no call lasts longer than `deadline`, and no more are made than `limits` allow.
    #[must_use]
    pub fn new(
        provider: Arc<dyn Provider>,
        label: ProviderLabel,
        deadline: Duration,
        limits: Limits,
        crash: CrashSwitch,
    ) -> Self {
        Self { provider, label, deadline, protection: Protection::new(label, limits), crash }
    }

    /// The PG's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.provider.name()
    }

    /// The PG's metric label.
    #[must_use]
    pub const fn label(&self) -> ProviderLabel {
        self.label
    }

    /// The right to take or give back money for a request: to be had before its intent is written, at once or not at
    /// all. A permit that turns out not to be needed is dropped.
    pub fn admit(&self, operation: ProviderOperation) -> Result<Permit, Refused> {
        self.protection.admit(operation)
    }

    /// The same for recovery, which waits for a place, but not long.
    pub async fn admit_soon(&self, operation: ProviderOperation) -> Result<Permit, Refused> {
        let _waiting = ledger::wait_for(Step::PgCall);
        self.protection.admit_soon(operation).await
    }

    /// How many inquiries recovery may plan now. None while the PG is known not to answer them.
    #[must_use]
    pub fn inquiry_room(&self) -> u32 {
        self.protection.background_room(ProviderOperation::Inquire)
    }

    /// Where the circuit breaker of each operation stands.
    #[must_use]
    pub fn breakers(&self) -> Vec<(ProviderOperation, BreakerState)> {
        self.protection.states()
    }

    /// Takes the money.
    pub async fn confirm(&self, permit: Permit, request: &ConfirmRequest) -> (ConfirmAnswer, Call) {
        self.made(permit, || self.provider.confirm(request)).await
    }

    /// Gives money back.
    pub async fn cancel(&self, permit: Permit, request: &CancelRequest) -> (CancelAnswer, Call) {
        self.made(permit, || self.provider.cancel(request)).await
    }

    /// Asks about a payment. An inquiry needs no intent, so it is admitted here.
    pub async fn inquire(&self, lane: Lane, key: &PaymentKey) -> Result<(Inquiry, Call), Refused> {
        let permit = self.inquirer(lane).await?;
        Ok(self.made(permit, || self.provider.inquire(key)).await)
    }

    /// Asks about an order's payment.
    pub async fn inquire_by_order(&self, lane: Lane, order: OrderId) -> Result<(Inquiry, Call), Refused> {
        let permit = self.inquirer(lane).await?;
        Ok(self.made(permit, || self.provider.inquire_by_order(order)).await)
    }

    /// Asks for a page of what happened. Lists are slow where single payments are not, so they get a time of their own;
    /// only the background asks for them.
    pub async fn transactions(&self, request: &ListRequest) -> Result<(Listing, Call), Refused> {
        let permit = self.admit_soon(ProviderOperation::List).await?;
        let patient = Self { deadline: self.deadline.max(LIST_DEADLINE), ..self.clone() };
        Ok(patient.made(permit, || self.provider.transactions(request)).await)
    }

    /// Reads a webhook's body.
    #[must_use]
    pub fn read_webhook(&self, body: &[u8]) -> Notice {
        self.provider.read_webhook(body)
    }

    async fn inquirer(&self, lane: Lane) -> Result<Permit, Refused> {
        match lane {
            Lane::Caller => self.admit(ProviderOperation::Inquire),
            Lane::Background => self.admit_soon(ProviderOperation::Inquire).await,
        }
    }

    /// Makes the call, and once more if certainly no byte of it left us. Both together last no longer than the
    /// deadline, and the answer that stands is the second.
    async fn made<'a, A: Answer + Send>(
        &'a self,
        mut permit: Permit,
        call: impl Fn() -> BoxFuture<'a, Exchange<A>> + Send,
    ) -> (A, Call) {
        let _waiting = ledger::wait_for(Step::PgCall);
        let span = Span::begin(SpanKind::Internal, ["pg", ".", permit.operation().as_str()]);
        span.tell("payments.provider", self.provider.name());
        let tried = async {
            let until = Instant::now() + self.deadline;
            let first = self.measured(&mut permit, until, None, call()).await;
            if first.0.not_sent() != Some(NotSentReason::Unreachable) {
                return (first, 1);
            }
            tokio::time::sleep(Duration::from_millis(rand::random_range(RESEND_AFTER_MS))).await;
            if Instant::now() >= until || !permit.renew() {
                return (first, 1);
            }
            record::provider_resend(self.label, permit.operation());
            (self.measured(&mut permit, until, Some(1), call()).await, 2)
        };
        let (stands, attempts) = span.scope(tried).await;
        span.tell("payments.pg.attempts", attempts);
        span.tell("payments.pg.outcome", stands.1.outcome);
        span.in_scope(|| told(stands.0.outcome()));
        stands
    }

    async fn measured<A: Answer>(
        &self,
        permit: &mut Permit,
        until: Instant,
        resend: Option<i64>,
        call: impl Future<Output = Exchange<A>> + Send,
    ) -> (A, Call) {
        debug_assert!(!crate::db::holds_connection(), "a database connection is held across a PG call");
        let operation = permit.operation();
        let span = Span::begin(SpanKind::Client, "pg.attempt");
        span.tell("peer.service", self.provider.name());
        span.tell("payments.pg.operation", operation.as_str());
        if let Some(resend) = resend {
            span.tell("http.request.resend_count", resend);
        }
        self.crash.reach(CrashPoint::Calling(operation)).await;
        let _in_flight = record::provider_active(self.label, operation);
        ledger::attempt();
        let started = Instant::now();
        let exchange = tokio::time::timeout_at(until, span.scope(call)).await.unwrap_or_else(|_| {
            let doubt = Doubt { reason: DoubtReason::Timeout, code: None };
            Exchange { answer: A::unknown(doubt), http_status: None, code: None, provider_trace_id: None }
        });
        let elapsed = started.elapsed();
        permit.report(health(&exchange));
        self.crash.reach(CrashPoint::Answered(operation)).await;
        let outcome = exchange.answer.outcome();
        span.tell("payments.pg.outcome", outcome.as_str());
        if let Some(status) = exchange.http_status {
            span.tell("http.response.status_code", i64::from(status));
        }
        if let Some(code) = exchange.code.as_ref().filter(|code| facts::is_word(code)) {
            span.tell("payments.pg.code", code.clone());
        }
        if let Some(id) = exchange.provider_trace_id.as_ref().filter(|id| facts::is_word(id)) {
            span.tell("payments.pg.request_id", id.clone());
        }
        span.in_scope(|| {
            record::provider_call(self.label, operation, outcome, exchange.http_status, elapsed);
            told(outcome);
        });
        if outcome.is_certain() {
            record::provider_success(self.label, operation, clock::now());
        }
        let (code, request_id) = (exchange.code.as_deref(), exchange.provider_trace_id.as_deref());
        facts::tell(Fact::PgAnswer { code, request_id });
        self.note_unlisted(operation, exchange.answer.doubt());
        let call = Call {
            operation: operation.as_str(),
            outcome: outcome.as_str(),
            http_status: exchange.http_status,
            code: exchange.code,
            duration_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            provider_trace_id: exchange.provider_trace_id,
        };
        (exchange.answer, call)
    }

    /// The PG used a code that our table does not list: count it, so that the table grows.
    fn note_unlisted(&self, operation: ProviderOperation, doubt: Option<&Doubt>) {
        if let Some(doubt) = doubt.filter(|doubt| doubt.reason == DoubtReason::UnlistedCode) {
            record::unmapped_code(self.label, operation);
            tracing::warn!(operation = operation.as_str(), pg_code = doubt.code, "the PG used a code we do not know");
        }
    }
}

/// A no is an answer. What never left or came to nothing certain is an error of the span being worked in.
fn told(outcome: ProviderOutcome) {
    match outcome {
        ProviderOutcome::NotSent | ProviderOutcome::Unknown => traces::failed(outcome.as_str()),
        ProviderOutcome::Answered
        | ProviderOutcome::Declined
        | ProviderOutcome::Refused
        | ProviderOutcome::NotFound => {}
    }
}

/// What an exchange says about the PG itself. A no, of whatever kind, is an answer; a 5xx is none, whatever its code
/// says, unless the adapter could read a certain answer out of it.
fn health<A: Answer>(exchange: &Exchange<A>) -> Health {
    let unreachable = exchange.answer.not_sent() == Some(NotSentReason::Unreachable);
    let fails = exchange.answer.doubt().is_some_and(|doubt| {
        doubt.reason.is_technical() || exchange.http_status.is_some_and(|status| (500..=599).contains(&status))
    });
    if unreachable || fails { Health::Fails } else { Health::Answers }
}

/// What the door must know of every operation's answer.
trait Answer: Send {
    fn unknown(doubt: Doubt) -> Self;
    fn doubt(&self) -> Option<&Doubt>;
    fn not_sent(&self) -> Option<NotSentReason>;
    fn outcome(&self) -> ProviderOutcome;
}

impl Answer for ConfirmAnswer {
    fn unknown(doubt: Doubt) -> Self {
        Self::Unknown(doubt)
    }

    fn doubt(&self) -> Option<&Doubt> {
        match self {
            Self::Unknown(doubt) => Some(doubt),
            Self::Answered(_) | Self::Declined(_) | Self::NotSent(_) => None,
        }
    }

    fn not_sent(&self) -> Option<NotSentReason> {
        match self {
            Self::NotSent(not_sent) => Some(not_sent.reason),
            Self::Answered(_) | Self::Declined(_) | Self::Unknown(_) => None,
        }
    }

    fn outcome(&self) -> ProviderOutcome {
        match self {
            Self::Answered(_) => ProviderOutcome::Answered,
            Self::Declined(_) => ProviderOutcome::Declined,
            Self::NotSent(_) => ProviderOutcome::NotSent,
            Self::Unknown(_) => ProviderOutcome::Unknown,
        }
    }
}

impl Answer for CancelAnswer {
    fn unknown(doubt: Doubt) -> Self {
        Self::Unknown(doubt)
    }

    fn doubt(&self) -> Option<&Doubt> {
        match self {
            Self::Unknown(doubt) => Some(doubt),
            Self::Answered(_) | Self::Refused(_) | Self::NotSent(_) => None,
        }
    }

    fn not_sent(&self) -> Option<NotSentReason> {
        match self {
            Self::NotSent(not_sent) => Some(not_sent.reason),
            Self::Answered(_) | Self::Refused(_) | Self::Unknown(_) => None,
        }
    }

    fn outcome(&self) -> ProviderOutcome {
        match self {
            Self::Answered(_) => ProviderOutcome::Answered,
            Self::Refused(_) => ProviderOutcome::Refused,
            Self::NotSent(_) => ProviderOutcome::NotSent,
            Self::Unknown(_) => ProviderOutcome::Unknown,
        }
    }
}

impl Answer for Inquiry {
    fn unknown(doubt: Doubt) -> Self {
        Self::Unknown(doubt)
    }

    fn doubt(&self) -> Option<&Doubt> {
        match self {
            Self::Unknown(doubt) => Some(doubt),
            Self::Found(_) | Self::NotFound => None,
        }
    }

    /// An inquiry that never left is as unknown as one whose answer was lost; recovery asks again anyway.
    fn not_sent(&self) -> Option<NotSentReason> {
        None
    }

    fn outcome(&self) -> ProviderOutcome {
        match self {
            Self::Found(_) => ProviderOutcome::Answered,
            Self::NotFound => ProviderOutcome::NotFound,
            Self::Unknown(_) => ProviderOutcome::Unknown,
        }
    }
}

impl Answer for Listing {
    fn unknown(doubt: Doubt) -> Self {
        Self::Unknown(doubt)
    }

    fn doubt(&self) -> Option<&Doubt> {
        match self {
            Self::Unknown(doubt) => Some(doubt),
            Self::Page(_) => None,
        }
    }

    /// A list that never left is as unknown as one whose answer was lost.
    fn not_sent(&self) -> Option<NotSentReason> {
        None
    }

    fn outcome(&self) -> ProviderOutcome {
        match self {
            Self::Page(_) => ProviderOutcome::Answered,
            Self::Unknown(_) => ProviderOutcome::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
