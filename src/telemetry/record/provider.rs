//! What is told of a PG and of what protects us from one.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Active, unix_seconds};
use crate::telemetry::catalogue as c;
use crate::telemetry::labels::{
    AdmissionRefusal, BreakerState, Lane, ProviderLabel, ProviderOperation, ProviderOutcome, StatusLabel,
};

/// The PG gave a code that the adapter's table does not list.
pub fn unmapped_code(provider: ProviderLabel, operation: ProviderOperation) {
    c::UNMAPPED_CODES.of((provider, operation)).increment(1);
}

/// A call to a PG is on its way.
pub fn provider_active(provider: ProviderLabel, operation: ProviderOperation) -> Active {
    Active::begin(c::PROVIDER_ACTIVE.of((provider, operation)))
}

/// A call to a PG ended; `status` is `None` when no HTTP answer came.
pub fn provider_call(
    provider: ProviderLabel,
    operation: ProviderOperation,
    outcome: ProviderOutcome,
    status: Option<u16>,
    elapsed: Duration,
) {
    let labels = (provider, operation, outcome, StatusLabel::of(status));
    c::PROVIDER_CALL.of(labels).record(elapsed.as_secs_f64());
}

/// A PG gave a certain answer at `now`.
pub fn provider_success(provider: ProviderLabel, operation: ProviderOperation, now: DateTime<Utc>) {
    c::PROVIDER_SUCCESS.of((provider, operation)).set(unix_seconds(now));
}

/// A request that never left is sent once more.
pub fn provider_resend(provider: ProviderLabel, operation: ProviderOperation) {
    c::PROVIDER_RESENDS.of((provider, operation)).increment(1);
}

/// A permit to call a PG is taken.
pub fn provider_permit(provider: ProviderLabel, lane: Lane) -> Active {
    Active::begin(c::PROVIDER_PERMITS.of((provider, lane)))
}

/// How many permits a lane has.
pub fn provider_permits_max(provider: ProviderLabel, lane: Lane, max: u32) {
    c::PROVIDER_PERMITS_MAX.of((provider, lane)).set(max);
}

/// Where a breaker stands.
pub fn breaker_state(provider: ProviderLabel, operation: ProviderOperation, now: BreakerState) {
    for state in BreakerState::ALL {
        let value = if *state == now { 1.0 } else { 0.0 };
        c::BREAKER_STATE.of((provider, operation, *state)).set(value);
    }
}

/// A breaker changed its state.
pub fn breaker_transition(provider: ProviderLabel, operation: ProviderOperation, to: BreakerState) {
    c::BREAKER_TRANSITIONS.of((provider, operation, to)).increment(1);
    breaker_state(provider, operation, to);
}

/// A call to a PG was not even tried.
pub fn admission_refused(provider: ProviderLabel, operation: ProviderOperation, lane: Lane, reason: AdmissionRefusal) {
    c::ADMISSIONS_REFUSED.of((provider, operation, lane, reason)).increment(1);
}
