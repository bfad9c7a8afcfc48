//! One function per fact that is measured. The only way to a metric from outside of this folder.
//!
//! Each takes closed enums, durations and counts; none takes text:
//!
//! ```
//! use paygauge::domain::evidence::DeclineClass;
//! use paygauge::telemetry::{labels::ProviderLabel, record};
//! record::decline(ProviderLabel::Toss, DeclineClass::LimitExceeded);
//! ```
//!
//! ```compile_fail
//! use paygauge::telemetry::{labels::ProviderLabel, record};
//! record::decline(ProviderLabel::Toss, "limit exceeded");
//! ```

use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::Gauge;

use super::catalogue as c;
use super::labels::{
    AdmissionRefusal, AuditMode, BreakerState, Contention, HttpMethod, IdempotencyResult, IdempotentRoute,
    InquiryResult, Lane, LogLevel, Operation, OperationOutcome, OutcomeClass, PoolConnectionState, ProviderLabel,
    ProviderOperation, ProviderOutcome, ReconcileOutcome, RedactionRule, RejectionReason, RouteLabel, StatusLabel,
    StockMovement, Task, TickResult, Tx, TxResult, UnresolvedKind, WebhookApplied, WebhookReceived,
};
use crate::domain::audit::AuditRule;
use crate::domain::evidence::DeclineClass;
use crate::domain::reconciliation::FindingKind;

/// Counts something as going on until it is dropped.
#[must_use = "dropped at once, it counts nothing"]
pub struct Active(Gauge);

impl Active {
    fn begin(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// A request is being answered.
pub fn http_active(method: HttpMethod) -> Active {
    Active::begin(c::HTTP_ACTIVE.of((method,)))
}

/// A request was answered, or its client left.
pub fn http_request(method: HttpMethod, route: RouteLabel, status: StatusLabel, elapsed: Duration) {
    c::HTTP_REQUEST.of((method, route, status)).record(elapsed.as_secs_f64());
}

/// A request was turned away at the edge.
pub fn rejection(reason: RejectionReason) {
    c::HTTP_REJECTIONS.of((reason,)).increment(1);
}

/// A use case ended; told once, after commit.
pub fn operation(operation: Operation, outcome: OperationOutcome, provider: ProviderLabel, elapsed: Duration) {
    c::OPERATIONS.of((operation, outcome, provider)).increment(1);
    c::OPERATION_DURATION.of((operation, OutcomeClass::of(outcome))).record(elapsed.as_secs_f64());
}

/// The PG refused a payment.
pub fn decline(provider: ProviderLabel, class: DeclineClass) {
    c::DECLINES.of((provider, class)).increment(1);
}

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

/// The database pool at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSnapshot {
    /// Connections waiting in the pool.
    pub idle: u32,
    /// Connections lent out.
    pub used: u32,
    /// The most it opens.
    pub max: u32,
    /// Callers waiting.
    pub pending: u32,
}

/// What the database pool looks like now.
pub fn pool(now: PoolSnapshot) {
    c::POOL_CONNECTIONS.of((PoolConnectionState::Idle,)).set(now.idle);
    c::POOL_CONNECTIONS.of((PoolConnectionState::Used,)).set(now.used);
    c::POOL_MAX.of(()).set(now.max);
    c::POOL_PENDING.of(()).set(now.pending);
}

/// A connection was lent after this long.
pub fn pool_wait(elapsed: Duration) {
    c::POOL_WAIT.of(()).record(elapsed.as_secs_f64());
}

/// No connection was to be had in time.
pub fn pool_timeout() {
    c::POOL_TIMEOUTS.of(()).increment(1);
}

/// A transaction ended.
pub fn transaction(tx: Tx, result: TxResult, elapsed: Duration) {
    c::TRANSACTION.of((tx, result)).record(elapsed.as_secs_f64());
}

/// Others made a transaction fail.
pub fn contention(tx: Tx, contention: Contention) {
    c::TRANSACTION_CONTENTION.of((tx, contention)).increment(1);
}

/// A transaction that others made fail is tried again.
pub fn transaction_retry(tx: Tx) {
    c::TRANSACTION_RETRIES.of((tx,)).increment(1);
}

/// What an idempotency key led to.
pub fn idempotency(route: IdempotentRoute, result: IdempotencyResult) {
    c::IDEMPOTENCY.of((route, result)).increment(1);
}

/// A webhook came in.
pub fn webhook_received(provider: ProviderLabel, outcome: WebhookReceived) {
    c::WEBHOOKS_RECEIVED.of((provider, outcome)).increment(1);
}

/// A stored webhook was dealt with.
pub fn webhook_applied(provider: ProviderLabel, outcome: WebhookApplied) {
    c::WEBHOOKS_APPLIED.of((provider, outcome)).increment(1);
}

/// The PG was asked about an uncertain outcome.
pub fn inquiry(provider: ProviderLabel, result: InquiryResult) {
    c::INQUIRIES.of((provider, result)).increment(1);
}

/// How many outcomes are not certain, and since when the oldest.
pub fn unresolved(kind: UnresolvedKind, count: u32, oldest: Option<DateTime<Utc>>) {
    c::UNRESOLVED.of((kind,)).set(count);
    c::OLDEST_UNRESOLVED.of((kind,)).set(oldest.map_or(0.0, unix_seconds));
}

/// The figures from the database are right as of `now`.
pub fn overview_succeeded(now: DateTime<Utc>) {
    c::OVERVIEW_SUCCESS.of(()).set(unix_seconds(now));
}

/// Money that no order may keep is sent back.
pub fn reversal(provider: ProviderLabel) {
    c::REVERSALS.of((provider,)).increment(1);
}

/// The PG's books and ours were found to differ, for the first time in this.
pub fn finding_filed(kind: FindingKind) {
    c::FINDINGS_FILED.of((kind,)).increment(1);
}

/// How many differences of this kind are not settled.
pub fn findings_open(kind: FindingKind, count: u32) {
    c::FINDINGS_OPEN.of((kind,)).set(count);
}

/// Up to when the books were compared.
pub fn reconciled_until(provider: ProviderLabel, until: Option<DateTime<Utc>>) {
    c::RECONCILED_UNTIL.of((provider,)).set(until.map_or(0.0, unix_seconds));
}

/// A comparison of the books ended.
pub fn reconcile_run(provider: ProviderLabel, outcome: ReconcileOutcome) {
    c::RECONCILE_RUNS.of((provider, outcome)).increment(1);
}

/// Rows of the PG's list were compared.
pub fn reconcile_transactions(provider: ProviderLabel, rows: u64) {
    c::RECONCILED_TRANSACTIONS.of((provider,)).increment(rows);
}

/// Units of stock moved.
pub fn stock_movement(kind: StockMovement, units: u64) {
    c::STOCK_MOVEMENTS.of((kind,)).increment(units);
}

/// Orders whose hold ran out.
pub fn holds_expired(orders: u64) {
    c::HOLDS_EXPIRED.of(()).increment(orders);
}

/// A round of a worker's task ended at `now`.
pub fn worker_tick(task: Task, result: TickResult, now: DateTime<Utc>) {
    c::WORKER_TICKS.of((task, result)).increment(1);
    match result {
        TickResult::Idle | TickResult::Worked => c::WORKER_SUCCESS.of((task,)).set(unix_seconds(now)),
        TickResult::Failed => {}
    }
}

/// Rows break a rule now.
pub fn audit_violations(rule: AuditRule, rows: u32) {
    c::AUDIT_VIOLATIONS.of((rule,)).set(rows);
}

/// A rule judged rows.
pub fn audit_rows(rule: AuditRule, mode: AuditMode, rows: u64) {
    c::AUDIT_ROWS.of((rule, mode)).increment(rows);
}

/// A rule has judged what was committed before `until`, and its last run took this long.
pub fn audit_proven(rule: AuditRule, mode: AuditMode, until: Option<DateTime<Utc>>, took: Duration) {
    c::AUDIT_PROVEN.of((rule, mode)).set(until.map_or(0.0, unix_seconds));
    c::AUDIT_DURATION.of((rule, mode)).set(took.as_secs_f64());
}

/// Log lines found no room.
pub(super) fn log_lines_dropped(lines: u64) {
    c::LOG_LINES_DROPPED.of(()).increment(lines);
}

/// A log line was written.
pub(super) fn log_line(level: LogLevel) {
    c::LOG_LINES.of((level,)).increment(1);
}

/// Something was masked in a log line.
pub(super) fn log_redaction(rule: RedactionRule) {
    c::LOG_REDACTIONS.of((rule,)).increment(1);
}

/// Seconds since 1970 with milliseconds; 0 outside of 1970–2106.
fn unix_seconds(at: DateTime<Utc>) -> f64 {
    let seconds = u32::try_from(at.timestamp()).unwrap_or(0);
    f64::from(seconds) + f64::from(at.timestamp_subsec_millis()) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry;

    fn value(series: &str) -> Option<f64> {
        let text = telemetry::for_tests().metrics().render();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    #[test]
    fn an_operation_counts_once_and_falls_into_its_class() {
        let total = r#"payments_operations_total{operation="recover",outcome="conflict",provider="toss"}"#;
        let class = r#"payments_operation_duration_seconds_count{operation="recover",outcome_class="declined"}"#;
        let before = (value(total).expect("zero"), value(class).expect("zero"));
        operation(Operation::Recover, OperationOutcome::Conflict, ProviderLabel::Toss, Duration::from_millis(40));
        assert_eq!((value(total), value(class)), (Some(before.0 + 1.0), Some(before.1 + 1.0)));
        let bucket = |le| {
            format!(
                r#"payments_operation_duration_seconds_bucket{{operation="recover",outcome_class="declined",le="{le}"}}"#
            )
        };
        assert_eq!((value(&bucket("0.025")), value(&bucket("0.05"))), (Some(before.1), Some(before.1 + 1.0)));
    }

    #[test]
    fn what_is_active_is_counted_until_it_is_dropped() {
        let series = r#"http_client_active_requests{provider="toss",operation="cancel"}"#;
        let guard = provider_active(ProviderLabel::Toss, ProviderOperation::Cancel);
        assert_eq!(value(series), Some(1.0));
        drop(guard);
        assert_eq!(value(series), Some(0.0));
    }

    #[test]
    fn a_failed_tick_is_no_success() {
        let series = r#"payments_worker_last_success_timestamp_seconds{task="housekeeping"}"#;
        let at = DateTime::from_timestamp(1_800_000_000, 250_000_000).expect("in range");
        worker_tick(Task::Housekeeping, TickResult::Worked, at);
        worker_tick(Task::Housekeeping, TickResult::Failed, at + chrono::TimeDelta::hours(1));
        assert_eq!(value(series), Some(1_800_000_000.25));
    }

    #[test]
    fn a_call_without_an_answer_has_no_status() {
        provider_call(ProviderLabel::Toss, ProviderOperation::Inquire, ProviderOutcome::Unknown, None, Duration::ZERO);
        let series = r#"http_client_request_duration_seconds_count{provider="toss",operation="inquire",outcome="unknown",http_response_status_code="none"}"#;
        assert!(value(series).is_some_and(|count| count >= 1.0));
    }

    #[test]
    fn nothing_unresolved_has_no_age() {
        unresolved(UnresolvedKind::Cancel, 0, None);
        assert_eq!(value(r#"payments_oldest_unresolved_timestamp_seconds{kind="cancel"}"#), Some(0.0));
    }
}
