//! The only door to a PG: every call is bounded, measured, traced, and made with no database connection in hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::Instrument;

use super::{CancelRequest, ConfirmRequest, Exchange, Notice, Provider};
use crate::crash::{CrashPoint, CrashSwitch};
use crate::domain::evidence::{CancelAnswer, ConfirmAnswer, Doubt, DoubtReason, Inquiry, PaymentKey};
use crate::domain::ids::OrderId;
use crate::telemetry::labels::{ProviderLabel, ProviderOperation, ProviderOutcome};
use crate::telemetry::ledger::{self, Step};
use crate::telemetry::record;

/// What the history keeps of a call.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// `confirm`, `cancel` or `inquire`.
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
    crash: CrashSwitch,
}

impl Door {
    /// Opens the door to `provider`; no call lasts longer than `deadline`.
    #[must_use]
    pub fn new(provider: Arc<dyn Provider>, label: ProviderLabel, deadline: Duration, crash: CrashSwitch) -> Self {
        Self { provider, label, deadline, crash }
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

    /// Takes the money.
    pub async fn confirm(&self, request: &ConfirmRequest) -> (ConfirmAnswer, Call) {
        let call = self.provider.confirm(request);
        let done = self.measured(ProviderOperation::Confirm, call, ConfirmAnswer::Unknown, confirm_outcome).await;
        if let ConfirmAnswer::Unknown(doubt) = &done.0 {
            self.note_unlisted(ProviderOperation::Confirm, doubt);
        }
        done
    }

    /// Gives money back.
    pub async fn cancel(&self, request: &CancelRequest) -> (CancelAnswer, Call) {
        let call = self.provider.cancel(request);
        let done = self.measured(ProviderOperation::Cancel, call, CancelAnswer::Unknown, cancel_outcome).await;
        if let CancelAnswer::Unknown(doubt) = &done.0 {
            self.note_unlisted(ProviderOperation::Cancel, doubt);
        }
        done
    }

    /// Asks about a payment.
    pub async fn inquire(&self, key: &PaymentKey) -> (Inquiry, Call) {
        let call = self.provider.inquire(key);
        self.asked(call).await
    }

    /// Asks about an order's payment.
    pub async fn inquire_by_order(&self, order: OrderId) -> (Inquiry, Call) {
        let call = self.provider.inquire_by_order(order);
        self.asked(call).await
    }

    /// Reads a webhook's body.
    #[must_use]
    pub fn read_webhook(&self, body: &[u8]) -> Notice {
        self.provider.read_webhook(body)
    }

    async fn asked(&self, call: impl Future<Output = Exchange<Inquiry>> + Send) -> (Inquiry, Call) {
        let done = self.measured(ProviderOperation::Inquire, call, Inquiry::Unknown, inquiry_outcome).await;
        if let Inquiry::Unknown(doubt) = &done.0 {
            self.note_unlisted(ProviderOperation::Inquire, doubt);
        }
        done
    }

    /// The PG used a code that our table does not list: count it, so that the table grows.
    fn note_unlisted(&self, operation: ProviderOperation, doubt: &Doubt) {
        if doubt.reason == DoubtReason::UnlistedCode {
            record::unmapped_code(self.label, operation);
            tracing::warn!(operation = operation.as_str(), pg_code = doubt.code, "the PG used a code we do not know");
        }
    }

    async fn measured<A>(
        &self,
        operation: ProviderOperation,
        call: impl Future<Output = Exchange<A>> + Send,
        unknown: fn(Doubt) -> A,
        outcome: fn(&A) -> ProviderOutcome,
    ) -> (A, Call) {
        debug_assert!(!crate::db::holds_connection(), "a database connection is held across a PG call");
        let span = tracing::info_span!(
            "provider.call",
            otel.kind = "client",
            provider = self.provider.name(),
            operation = operation.as_str(),
            outcome = tracing::field::Empty,
            http_status = tracing::field::Empty,
            pg_code = tracing::field::Empty,
        );
        self.crash.reach(CrashPoint::Calling(operation)).await;
        let _in_flight = record::provider_active(self.label, operation);
        let started = Instant::now();
        let exchange = tokio::time::timeout(self.deadline, call.instrument(span.clone())).await.unwrap_or_else(|_| {
            let doubt = Doubt { reason: DoubtReason::Timeout, code: None };
            Exchange { answer: unknown(doubt), http_status: None, code: None, provider_trace_id: None }
        });
        let elapsed = started.elapsed();
        self.crash.reach(CrashPoint::Answered(operation)).await;
        let outcome = outcome(&exchange.answer);
        span.record("outcome", outcome.as_str());
        span.record("http_status", exchange.http_status);
        span.record("pg_code", exchange.code.as_deref());
        record::provider_call(self.label, operation, outcome, exchange.http_status, elapsed);
        ledger::add(Step::Provider, elapsed);
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
}

fn confirm_outcome(answer: &ConfirmAnswer) -> ProviderOutcome {
    match answer {
        ConfirmAnswer::Answered(_) => ProviderOutcome::Answered,
        ConfirmAnswer::Declined(_) => ProviderOutcome::Declined,
        ConfirmAnswer::NotSent(_) => ProviderOutcome::NotSent,
        ConfirmAnswer::Unknown(_) => ProviderOutcome::Unknown,
    }
}

fn cancel_outcome(answer: &CancelAnswer) -> ProviderOutcome {
    match answer {
        CancelAnswer::Answered(_) => ProviderOutcome::Answered,
        CancelAnswer::Refused(_) => ProviderOutcome::Refused,
        CancelAnswer::NotSent(_) => ProviderOutcome::NotSent,
        CancelAnswer::Unknown(_) => ProviderOutcome::Unknown,
    }
}

fn inquiry_outcome(answer: &Inquiry) -> ProviderOutcome {
    match answer {
        Inquiry::Found(_) => ProviderOutcome::Answered,
        Inquiry::NotFound => ProviderOutcome::NotFound,
        Inquiry::Unknown(_) => ProviderOutcome::Unknown,
    }
}
