//! Every metric of paygauge, in one table.
//!
//! From it come the exporter's buckets and help texts, the list behind the documentation, and the families that
//! `record` writes to. Nobody else can add to the exposition. Names are written in full (`_seconds`, `_total`):
//! the exporter changes none of them.

use metrics::{Counter, Gauge, Histogram};

use super::family::{Family, FromZero};
use super::labels::{
    AdmissionRefusal, AuditMode, BreakerState, Contention, HttpMethod, IdempotencyResult, IdempotentRoute,
    InquiryResult, Label, Lane, LogLevel, Operation, OperationOutcome, OutcomeClass, PoolConnectionState,
    ProviderLabel, ProviderOperation, ProviderOutcome, ReconcileOutcome, RedactionRule, RejectionReason, RouteLabel,
    StatusLabel, StockMovement, Task, TickResult, Tx, TxResult, UnresolvedKind, WebhookApplied, WebhookReceived,
};
use crate::domain::audit::AuditRule;
use crate::domain::evidence::DeclineClass;
use crate::domain::reconciliation::FindingKind;

/// What the exposition calls a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations into buckets.
    Histogram,
}

impl Kind {
    /// The word after `# TYPE`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a value of a metric is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things counted.
    Count,
    /// Seconds.
    Seconds,
    /// A moment: seconds since 1970-01-01 UTC, 0 for "none".
    Timestamp,
    /// Bytes.
    Bytes,
}

/// One label of a metric.
#[derive(Debug, Clone, Copy)]
pub struct LabelInfo {
    /// Its name.
    pub name: &'static str,
    /// Its values; empty where they are status codes, route templates or the build's own version.
    pub values: &'static [&'static str],
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct MetricInfo {
    /// The name in the exposition.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// The question it answers.
    pub help: &'static str,
    /// Its labels, in order.
    pub labels: &'static [LabelInfo],
    /// Upper bounds of a histogram's buckets, rising.
    pub buckets: Option<&'static [f64]>,
}

/// HTTP requests: the semantic conventions' advice, and room for a slow PG.
const HTTP: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0];
/// Money operations and PG calls.
const PAY: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0];
/// Transactions and waits for a connection.
const DB: &[f64] = &[0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0];

macro_rules! catalogue {
    (
        [$($instrument:ident $family:ident = $name:literal {
            $($label:ident: $values:ty),*
        } $unit:ident, $(buckets $buckets:ident,)? from_zero $from_zero:expr, $help:literal;)+]
        [$($kind:ident $scraped:literal { $($scrape_label:ident),* } $scrape_unit:ident, $scrape_help:literal;)+]
    ) => {
        $(
            #[doc = $help]
            pub(super) static $family: Family<$instrument, ($($values,)*)> =
                Family::new($name, &[$(stringify!($label)),*]);
        )+

        static ALL: &[MetricInfo] = &[
            $(MetricInfo {
                name: $name,
                kind: Kind::$instrument,
                unit: Unit::$unit,
                help: $help,
                labels: &[$(LabelInfo { name: stringify!($label), values: <$values as Label>::TEXTS }),*],
                buckets: catalogue!(@buckets $($buckets)?),
            },)+
            $(MetricInfo {
                name: $scraped,
                kind: Kind::$kind,
                unit: Unit::$scrape_unit,
                help: $scrape_help,
                labels: &[$(LabelInfo { name: stringify!($scrape_label), values: &[] }),*],
                buckets: None,
            },)+
        ];

        /// Makes the series exist on which alerts compute rates.
        pub(super) fn start_at_zero() {
            $($family.start(&$from_zero);)+
        }

        /// Makes one series of every family exist.
        #[cfg(test)]
        pub(super) fn touch_all() {
            use super::family::LabelSet;
            $(drop($family.of(<($($values,)*)>::nth(0).expect("a label has at least one value")));)+
        }
    };
    (@buckets) => { None };
    (@buckets $buckets:ident) => { Some($buckets) };
}

/// Every metric, in the order of the table.
#[must_use]
pub fn all() -> &'static [MetricInfo] {
    ALL
}

const fn real(provider: ProviderLabel) -> bool {
    match provider {
        ProviderLabel::Toss => true,
        ProviderLabel::None | ProviderLabel::Other => false,
    }
}

/// Operations that a PG takes part in are expected with a PG, the others without.
const fn expected(operation: Operation, provider: ProviderLabel) -> bool {
    match operation {
        Operation::OrderCreate | Operation::OrderCancel | Operation::Expire => matches!(provider, ProviderLabel::None),
        Operation::Confirm | Operation::Cancel | Operation::WebhookApply | Operation::Recover => real(provider),
    }
}

catalogue! {
    [
    Histogram HTTP_REQUEST = "http_server_request_duration_seconds" {
        http_request_method: HttpMethod, http_route: RouteLabel, http_response_status_code: StatusLabel
    } Seconds, buckets HTTP, from_zero FromZero::Never,
    "Time from the first byte of a request's head to the head of its response. Which route is slow or failing?";
    Gauge HTTP_ACTIVE = "http_server_active_requests" { http_request_method: HttpMethod } Count,
    from_zero FromZero::Every, "Requests being answered now. Are we saturated or stuck?";
    Counter HTTP_REJECTIONS = "payments_http_rejections_total" { reason: RejectionReason } Count,
    from_zero FromZero::Every, "Requests turned away before any use case saw them. Are we refusing real customers?";

    Counter OPERATIONS = "payments_operations_total" {
        operation: Operation, outcome: OperationOutcome, provider: ProviderLabel
    } Count, from_zero FromZero::Those(|(operation, _, provider)| expected(operation, provider)),
    "Use cases ended, counted after commit. How many per second succeed, and how do the others end?";
    Histogram OPERATION_DURATION = "payments_operation_duration_seconds" {
        operation: Operation, outcome_class: OutcomeClass
    } Seconds, buckets PAY, from_zero FromZero::Every,
    "Time of a whole use case. How long does a customer wait for money?";
    Counter DECLINES = "payments_declines_total" { provider: ProviderLabel, decline_class: DeclineClass } Count,
    from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Payments that the PG refused. Is it the customers, the PG or our contract?";
    Counter UNMAPPED_CODES = "payments_pg_unmapped_codes_total" {
        provider: ProviderLabel, operation: ProviderOperation
    } Count, from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Answers with a code that our table does not list; the code itself is in the log. Did the PG change?";

    Histogram PROVIDER_CALL = "http_client_request_duration_seconds" {
        provider: ProviderLabel, operation: ProviderOperation, outcome: ProviderOutcome,
        http_response_status_code: StatusLabel
    } Seconds, buckets PAY, from_zero FromZero::Never,
    "Time of one call to a PG. Is the PG slow or failing?";
    Gauge PROVIDER_ACTIVE = "http_client_active_requests" {
        provider: ProviderLabel, operation: ProviderOperation
    } Count, from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Calls to a PG that are waiting for an answer now.";
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

    Gauge POOL_CONNECTIONS = "db_client_connection_count" { state: PoolConnectionState } Count,
    from_zero FromZero::Never, "Connections of the database pool.";
    Gauge POOL_MAX = "db_client_connection_max" {} Count, from_zero FromZero::Never,
    "The most connections that the database pool opens.";
    Gauge POOL_PENDING = "db_client_connection_pending_requests" {} Count, from_zero FromZero::Never,
    "Callers waiting for a database connection now.";
    Histogram POOL_WAIT = "db_client_connection_wait_time_seconds" {} Seconds, buckets DB, from_zero FromZero::Every,
    "Time until a database connection was lent. Is the pool starved?";
    Counter POOL_TIMEOUTS = "db_client_connection_timeouts_total" {} Count, from_zero FromZero::Every,
    "Callers that never got a database connection.";
    Histogram TRANSACTION = "payments_db_transaction_duration_seconds" { tx: Tx, result: TxResult } Seconds,
    buckets DB, from_zero FromZero::Never, "Time from begin to the end of a transaction. Which one is long?";
    Counter TRANSACTION_CONTENTION = "payments_db_transaction_contention_total" { tx: Tx, reason: Contention } Count,
    from_zero FromZero::Every, "Transactions that others made fail. A deadlock is a bug: locks have one order.";
    Counter TRANSACTION_RETRIES = "payments_db_transaction_retries_total" { tx: Tx } Count,
    from_zero FromZero::Every, "Resolutions tried again after a deadlock or a serialization failure.";

    Counter IDEMPOTENCY = "payments_idempotency_total" { route: IdempotentRoute, result: IdempotencyResult } Count,
    from_zero FromZero::Every, "Uses of Idempotency-Key. Are clients retrying, or using a key for two things?";
    Counter WEBHOOKS_RECEIVED = "payments_webhooks_received_total" {
        provider: ProviderLabel, outcome: WebhookReceived
    } Count, from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Webhooks at the door. Do the PG's events arrive?";
    Counter WEBHOOKS_APPLIED = "payments_webhooks_applied_total" {
        provider: ProviderLabel, outcome: WebhookApplied
    } Count, from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Stored webhooks dealt with. What did they change, and is somebody forging them?";
    Counter INQUIRIES = "payments_inquiries_total" { provider: ProviderLabel, result: InquiryResult } Count,
    from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Questions to the PG about an uncertain outcome. Does doubt end?";
    Gauge UNRESOLVED = "payments_unresolved" { kind: UnresolvedKind } Count, from_zero FromZero::Never,
    "Payments and cancellations whose outcome is not certain, from the database.";
    Gauge OLDEST_UNRESOLVED = "payments_oldest_unresolved_timestamp_seconds" { kind: UnresolvedKind } Timestamp,
    from_zero FromZero::Never, "Since when the oldest uncertain one is open; 0 when there is none.";
    Gauge OVERVIEW_SUCCESS = "payments_overview_last_success_timestamp_seconds" {} Timestamp,
    from_zero FromZero::Never, "When the figures from the database were last right. Old means: trust none of them.";
    Counter REVERSALS = "payments_reversals_total" { provider: ProviderLabel } Count,
    from_zero FromZero::Those(|(provider,)| real(provider)),
    "Real money that no order may keep, on its way back. Each one wants an explanation.";
    Counter FINDINGS_FILED = "payments_findings_total" { kind: FindingKind } Count, from_zero FromZero::Every,
    "Differences between the PG's books and ours, counted when they are first seen. What is going wrong?";
    Gauge FINDINGS_OPEN = "payments_findings_open" { kind: FindingKind } Count, from_zero FromZero::Never,
    "Differences that are not settled, from the database. What waits for a person?";
    Gauge RECONCILED_UNTIL = "payments_reconciled_until_timestamp_seconds" { provider: ProviderLabel } Timestamp,
    from_zero FromZero::Never, "Up to when the PG's books and ours were compared; 0 before the first run.";
    Counter RECONCILE_RUNS = "payments_reconcile_runs_total" {
        provider: ProviderLabel, outcome: ReconcileOutcome
    } Count, from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Comparisons with the PG's books. Do they come to their end?";
    Counter RECONCILED_TRANSACTIONS = "payments_reconcile_transactions_total" { provider: ProviderLabel } Count,
    from_zero FromZero::Those(|(provider,)| real(provider)),
    "Rows of the PG's transaction list that were compared with our books.";
    Counter STOCK_MOVEMENTS = "payments_stock_movements_total" { kind: StockMovement } Count,
    from_zero FromZero::Every, "Units of stock moved, by why.";
    Counter HOLDS_EXPIRED = "payments_holds_expired_total" {} Count, from_zero FromZero::Every,
    "Orders whose hold ran out unpaid.";
    Counter WORKER_TICKS = "payments_worker_ticks_total" { task: Task, result: TickResult } Count,
    from_zero FromZero::Every, "Rounds of the worker's tasks.";
    Gauge WORKER_SUCCESS = "payments_worker_last_success_timestamp_seconds" { task: Task } Timestamp,
    from_zero FromZero::Never, "When a task last ended a round well. Which loop is dead?";

    Gauge AUDIT_VIOLATIONS = "payments_audit_violations" { rule: AuditRule } Count, from_zero FromZero::Every,
    "Rows that break a rule now, as far as they are known. Are the books right, and is anything stuck?";
    Counter AUDIT_ROWS = "payments_audit_rows_checked_total" { rule: AuditRule, mode: AuditMode } Count,
    from_zero FromZero::Every, "Rows judged by a rule. Nothing broken among no rows proves nothing.";
    Gauge AUDIT_PROVEN = "payments_audit_proven_until_timestamp_seconds" { rule: AuditRule, mode: AuditMode }
    Timestamp, from_zero FromZero::Every,
    "Until when a rule has judged what was committed; 0 if never. For how long is money not proven?";
    Gauge AUDIT_DURATION = "payments_audit_duration_seconds" { rule: AuditRule, mode: AuditMode } Seconds,
    from_zero FromZero::Every, "How long the database took for the last run of a rule.";

    Counter LOG_LINES = "payments_log_lines_total" { level: LogLevel } Count, from_zero FromZero::Every,
    "Log lines written.";
    Counter LOG_LINES_DROPPED = "payments_log_lines_dropped_total" {} Count, from_zero FromZero::Every,
    "Log lines that a slow reader of standard output left no room for. Is the log shipper stuck?";
    Counter LOG_REDACTIONS = "payments_log_redactions_total" { rule: RedactionRule } Count,
    from_zero FromZero::Every, "Secrets or personal data masked at the last moment. Must stay 0: each one is a bug.";

    ]
    // Read or known only when somebody scrapes: written by `process` and at the start.
    [
    Gauge "payments_build_info" { version, revision } Count, "Always 1; the labels tell what is running.";
    Gauge "process_resident_memory_bytes" {} Bytes, "Memory that the process occupies.";
    Gauge "process_open_fds" {} Count, "Files and sockets that the process holds open.";
    Counter "process_cpu_seconds_total" {} Seconds, "Processor time used, in user and system mode.";
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::telemetry;

    #[test]
    fn every_metric_is_exposed_with_its_own_type_and_help() {
        let metrics = telemetry::for_tests().metrics();
        touch_all();
        let text = metrics.render();
        let headers = |word: &str| -> HashMap<String, String> {
            text.lines()
                .filter_map(|line| line.strip_prefix(&format!("# {word} ")))
                .filter_map(|rest| rest.split_once(' '))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        };
        let (types, helps) = (headers("TYPE"), headers("HELP"));
        for metric in all() {
            if metric.name.starts_with("process_") && !cfg!(target_os = "linux") {
                continue;
            }
            assert_eq!(types.get(metric.name).map(String::as_str), Some(metric.kind.as_str()), "{}", metric.name);
            assert_eq!(helps.get(metric.name).map(String::as_str), Some(metric.help), "{}", metric.name);
        }
        assert_eq!(types.len(), all().len(), "nothing is exposed that the catalogue does not list");
        assert!(!text.contains("quantile="), "a histogram without buckets has become a summary");
    }

    #[test]
    fn the_table_keeps_the_rules_of_metric_names() {
        let snake = |name: &str| {
            name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                && name.starts_with(|first: char| first.is_ascii_lowercase())
        };
        let mut names = HashSet::new();
        for metric in all() {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            assert!(snake(name) && metric.labels.iter().all(|label| snake(label.name)), "{name}: snake_case");
            assert!(metric.help.ends_with(['.', '?']) && !metric.help.contains('\n'), "{name}: help is a sentence");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}: counters end in _total");
            let stem = name.strip_suffix("_total").unwrap_or(name);
            assert_eq!(stem.ends_with("_timestamp_seconds"), metric.unit == Unit::Timestamp, "{name}: unit");
            let seconds = matches!(metric.unit, Unit::Seconds | Unit::Timestamp);
            assert_eq!(stem.ends_with("_seconds"), seconds, "{name}: unit");
            assert_eq!(stem.ends_with("_bytes"), metric.unit == Unit::Bytes, "{name}: unit");
            assert!(
                !["_bucket", "_count", "_sum"].iter().any(|end| name.ends_with(end))
                    || name.ends_with("connection_count")
            );
            assert!(metric.labels.iter().all(|label| !matches!(label.name, "le" | "quantile" | "job" | "instance")));
        }
    }

    #[test]
    fn histograms_and_only_they_have_rising_buckets_with_the_thresholds_of_alerts() {
        for metric in all() {
            assert_eq!(metric.buckets.is_some(), metric.kind == Kind::Histogram, "{}", metric.name);
            let buckets = metric.buckets.unwrap_or_default();
            assert!(buckets.windows(2).all(|pair| pair[0] < pair[1]), "{}", metric.name);
        }
        for threshold in [0.25, 0.5, 2.5, 7.5] {
            assert!(HTTP.contains(&threshold) && PAY.contains(&threshold));
        }
    }

    #[test]
    fn what_an_alert_computes_a_rate_of_is_zero_from_the_start() {
        let text = telemetry::for_tests().metrics().render();
        for series in [
            r#"payments_operations_total{operation="confirm",outcome="unknown",provider="toss"}"#,
            r#"payments_operations_total{operation="order_create",outcome="success",provider="none"}"#,
            r#"payments_reversals_total{provider="toss"}"#,
            r#"payments_log_redactions_total{rule="card_number"}"#,
            r#"payments_operation_duration_seconds_bucket{operation="confirm",outcome_class="ok",le="2.5"}"#,
            "db_client_connection_timeouts_total",
        ] {
            assert!(text.lines().any(|line| line.strip_prefix(series).is_some_and(|v| v.starts_with(' '))), "{series}");
        }
        assert!(!text.contains(r#"operation="order_create",outcome="conflict",provider="toss""#));
    }
}
