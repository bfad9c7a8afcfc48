//! The metrics of what goes to a PG and what protects us from one.

use metrics::{Counter, Gauge};

use super::{Kind, LabelInfo, MetricInfo, PAY, Unit, real};
use crate::telemetry::family::{Family, FromZero};
use crate::telemetry::histogram::Histogram;
use crate::telemetry::labels::{
    AdmissionRefusal, BreakerState, Label, Lane, ProviderLabel, ProviderOperation, ProviderOutcome, StatusLabel,
};

catalogue! {
    PROVIDER
    [
    Histogram PROVIDER_CALL = "http_client_request_duration_seconds" {
        provider: ProviderLabel, operation: ProviderOperation, outcome: ProviderOutcome,
        http_response_status_code: StatusLabel
    } Seconds, buckets PAY, exemplars Span, from_zero FromZero::Those(is_usual),
    "Time of one call to a PG. Is the PG slow or failing?";
    Gauge PROVIDER_ACTIVE = "http_client_active_requests" {
        provider: ProviderLabel, operation: ProviderOperation
    } Count, from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Calls to a PG that are waiting for an answer now.";
    Gauge PROVIDER_SUCCESS = "payments_pg_last_success_timestamp_seconds" {
        provider: ProviderLabel, operation: ProviderOperation
    } Timestamp, from_zero FromZero::Those(|(provider, _)| real(provider)),
    "When a PG last gave this process a certain answer; 0 if never. Is the PG alive?";
    Counter PROVIDER_RESENDS = "payments_pg_resends_total" {
        provider: ProviderLabel, operation: ProviderOperation
    } Count, from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Requests of which no byte had left us and that were sent once more. Is the way to the PG bad?";
    Counter UNMAPPED_CODES = "payments_pg_unmapped_codes_total" {
        provider: ProviderLabel, operation: ProviderOperation
    } Count, from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Answers with a code that our table does not list; the code itself is in the log. Did the PG change?";
    Gauge PROVIDER_PERMITS = "payments_pg_permits" { provider: ProviderLabel, lane: Lane } Count,
    from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Permits to call a PG that are taken now. Are we near the limit?";
    Gauge PROVIDER_PERMITS_MAX = "payments_pg_permits_max" { provider: ProviderLabel, lane: Lane } Count,
    from_zero FromZero::Never, "The most permits to call a PG that are given at a time.";
    Gauge BREAKER_STATE = "payments_pg_breaker_state" {
        provider: ProviderLabel, operation: ProviderOperation, state: BreakerState
    } Count, from_zero FromZero::Never, "1 at the state in which a circuit breaker is, 0 at the others. What do we not ask a PG now?";
    Counter BREAKER_TRANSITIONS = "payments_pg_breaker_transitions_total" {
        provider: ProviderLabel, operation: ProviderOperation, to: BreakerState
    } Count, from_zero FromZero::Those(|(provider, ..)| real(provider)),
    "Changes of a circuit breaker's state. How often does a PG fail, and come back?";
    Counter ADMISSIONS_REFUSED = "payments_pg_admissions_refused_total" {
        provider: ProviderLabel, operation: ProviderOperation, lane: Lane, reason: AdmissionRefusal
    } Count, from_zero FromZero::Those(|(provider, ..)| real(provider)),
    "Calls to a PG that were not even tried; no decline is among them. Whom do we turn away, and why?";
    ]
    [
    ]
}

/// Whether calls to a PG often end so, of those that alerts count. The first call that ends with another status is not seen
/// by a rate; all of them from the start would be more series than everything else.
fn is_usual(
    (provider, operation, outcome, status): (ProviderLabel, ProviderOperation, ProviderOutcome, StatusLabel),
) -> bool {
    use {ProviderOperation as P, ProviderOutcome as O};
    let statuses: &[Option<u16>] = match (operation, outcome) {
        (P::Confirm | P::Cancel | P::Inquire, O::Answered) => &[Some(200)],
        (P::Confirm, O::Declined) | (P::Cancel, O::Refused) => &[Some(400), Some(403)],
        (P::Confirm | P::Cancel | P::Inquire, O::NotSent) => &[None],
        (P::Confirm | P::Cancel | P::Inquire, O::Unknown) => &[None, Some(500)],
        (P::List, _) | (_, O::Declined | O::Refused | O::NotFound) => &[],
    };
    real(provider) && statuses.iter().any(|usual| StatusLabel::of(*usual) == status)
}
