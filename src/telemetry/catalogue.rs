//! Every metric of paygauge, in one table with a file for each topic.
//!
//! From it come the buckets and help texts of the exposition, the list behind the documentation, and the families that
//! `record` writes to. Nobody else can add to the exposition. Names are written in full (`_seconds`, `_total`):
//! the exporter changes none of them.

use std::sync::LazyLock;

use super::labels::ProviderLabel;

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
    /// Minor units (won, cents) of the currency that a label names.
    MinorUnits,
    /// The moment of the process's start, whose name is older than the rule for moments.
    StartTime,
}

/// One label of a metric.
#[derive(Debug, Clone, Copy)]
pub struct LabelInfo {
    /// Its name.
    pub name: &'static str,
    /// Its values; empty where they are status codes, route templates or the build's own version.
    pub values: &'static [&'static str],
}

/// How the values of a histogram that carries exemplars relate to the span in which they are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measures {
    /// A value is how long the span lasted.
    Span,
    /// A value is the time of a part of it, or from some earlier moment.
    Part,
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
    /// Whether its buckets carry exemplars, and what they measure.
    pub exemplars: Option<Measures>,
}

/// HTTP requests: the semantic conventions' advice, and room for a slow PG.
const HTTP: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0];
/// Money operations and PG calls.
const PAY: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0];
/// Transactions and waits for a connection.
const DB: &[f64] = &[0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0];

/// Steps of a use case, from a statement to a slow PG.
const STEPS: &[f64] = &[0.000_25, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 7.5, 30.0];
/// How late background work is.
const LAG: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];
/// How long something stays in a state: from a moment to a week.
const STATE: &[f64] =
    &[0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 21_600.0, 86_400.0, 604_800.0];
/// Amounts in won; those of other currencies fall into few of them.
const KRW: &[f64] = &[1e3, 5e3, 1e4, 3e4, 5e4, 1e5, 2e5, 3e5, 5e5, 1e6, 3e6, 1e7];
/// Orders of one transaction.
const ORDERS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

macro_rules! catalogue {
    (
        $topic:ident
        [$($instrument:ident $family:ident = $name:literal {
            $($label:ident: $values:ty),*
        } $unit:ident, $(buckets $buckets:ident,)? $(exemplars $measures:ident,)? from_zero $from_zero:expr, $help:literal;)+]
        [$($kind:ident $scraped:literal { $($scrape_label:ident),* } $scrape_unit:ident, $scrape_help:literal;)*]
    ) => {
        $(
            #[doc = $help]
            pub(in crate::telemetry) static $family: Family<$instrument, ($($values,)*)> =
                Family::new($name, &[$(stringify!($label)),*]);
        )+

        static METRICS: &[MetricInfo] = &[
            $(MetricInfo {
                name: $name,
                kind: Kind::$instrument,
                unit: Unit::$unit,
                help: $help,
                labels: &[$(LabelInfo { name: stringify!($label), values: <$values as Label>::TEXTS }),*],
                buckets: catalogue!(@buckets $($buckets)?),
                exemplars: catalogue!(@exemplars $($measures)?),
            },)+
            $(MetricInfo {
                name: $scraped,
                kind: Kind::$kind,
                unit: Unit::$scrape_unit,
                help: $scrape_help,
                labels: &[$(LabelInfo { name: stringify!($scrape_label), values: &[] }),*],
                buckets: None,
                exemplars: None,
            },)*
        ];

        fn start_at_zero() {
            $($family.start(&$from_zero);)+
        }

        #[cfg(test)]
        fn touch_all() {
            use crate::telemetry::family::LabelSet;
            $(let _made = $family.of(<($($values,)*)>::nth(0).expect("a label has at least one value"));)+
        }

        pub(super) static $topic: super::Topic = super::Topic {
            metrics: METRICS,
            start_at_zero,
            #[cfg(test)]
            touch_all,
        };
    };
    (@buckets) => { None };
    (@buckets $buckets:ident) => { Some($buckets) };
    (@exemplars) => { None };
    (@exemplars $measures:ident) => { Some(super::Measures::$measures) };
}

mod business;
mod database;
mod edge;
mod overview;
mod provider;
mod runtime;
mod worker;

pub(super) use self::business::*;
pub(super) use self::database::*;
pub(super) use self::edge::*;
pub(super) use self::overview::*;
pub(super) use self::provider::*;
pub(super) use self::runtime::*;
pub(super) use self::worker::*;

/// The metrics of one file.
struct Topic {
    metrics: &'static [MetricInfo],
    start_at_zero: fn(),
    /// Makes one series of every family exist.
    #[cfg(test)]
    touch_all: fn(),
}

static TOPICS: [&Topic; 7] = [&EDGE, &BUSINESS, &PROVIDER, &DATABASE, &WORKER, &OVERVIEW, &RUNTIME];

/// Every metric, in the order of the tables.
#[must_use]
pub fn all() -> &'static [MetricInfo] {
    static ALL: LazyLock<Vec<MetricInfo>> =
        LazyLock::new(|| TOPICS.iter().flat_map(|topic| topic.metrics).copied().collect());
    &ALL
}

/// The names of the metrics that one worker alone shows.
#[cfg(test)]
pub(super) fn overview_metrics() -> impl Iterator<Item = &'static str> {
    OVERVIEW.metrics.iter().map(|metric| metric.name)
}

/// Makes the series exist on which alerts compute rates.
pub(super) fn start_at_zero() {
    for topic in TOPICS {
        (topic.start_at_zero)();
    }
}

/// Whether a label stands for a PG that there is.
pub(super) const fn real(provider: ProviderLabel) -> bool {
    match provider {
        ProviderLabel::Toss => true,
        ProviderLabel::None | ProviderLabel::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::telemetry;

    #[test]
    fn every_metric_is_exposed_with_its_own_type_and_help() {
        let metrics = telemetry::for_tests().metrics();
        telemetry::runtime::show_config(1, "test");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async { telemetry::runtime::watch() });
        // Another test waits for what it measures.
        std::mem::forget(runtime);
        TOPICS.iter().for_each(|topic| (topic.touch_all)());
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
            let seconds = matches!(metric.unit, Unit::Seconds | Unit::Timestamp | Unit::StartTime);
            assert_eq!(stem.ends_with("_seconds"), seconds, "{name}: unit");
            assert_eq!(stem.ends_with("_minor_units"), metric.unit == Unit::MinorUnits, "{name}: unit");
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
            r#"payments_operations_total{operation="confirm",outcome="unknown",provider="toss",method="none"}"#,
            r#"payments_operations_total{operation="order_create",outcome="success",provider="none",method="none"}"#,
            r#"payments_reversals_total{provider="toss"}"#,
            r#"payments_log_redactions_total{rule="card_number"}"#,
            r#"payments_operation_duration_seconds_bucket{operation="confirm",outcome_class="ok",le="2.5"}"#,
            "db_client_connection_timeouts_total",
            r#"payments_operations_total{operation="confirm",outcome="error",provider="toss",method="none"}"#,
            r#"payments_operations_total{operation="cancel",outcome="pg_error",provider="toss",method="none"}"#,
            r#"payments_operations_total{operation="confirm",outcome="success",provider="toss",method="virtual_account"}"#,
            r#"payments_operation_duration_seconds_bucket{operation="confirm",outcome_class="ok",le="7.5"}"#,
            r#"payments_step_duration_seconds_count{operation="confirm",step="unattributed"}"#,
            r#"payments_declines_total{provider="toss",decline_class="other"}"#,
            r#"payments_pg_breaker_transitions_total{provider="toss",operation="confirm",to="open"}"#,
            r#"payments_pg_unmapped_codes_total{provider="toss",operation="inquire"}"#,
            r#"payments_pg_last_success_timestamp_seconds{provider="toss",operation="confirm"}"#,
            r#"payments_pg_resends_total{provider="toss",operation="cancel"}"#,
            r#"payments_doubts_opened_total{provider="toss",operation="confirm",cause="timeout"}"#,
            r#"payments_doubts_resolved_total{provider="toss",operation="confirm",resolution="approved",in_time="true"}"#,
            r#"payments_doubts_resolved_total{provider="toss",operation="cancel",resolution="refused",in_time="false"}"#,
            r#"payments_audit_violations{rule="stock_conserved"}"#,
            r#"payments_findings_total{kind="missing_here"}"#,
            r#"payments_reconcile_runs_total{provider="toss",outcome="incomplete"}"#,
            r#"payments_webhooks_received_total{provider="toss",outcome="stored"}"#,
            r#"payments_webhooks_applied_total{provider="toss",outcome="secret_mismatch"}"#,
            r#"payments_webhook_delay_seconds_bucket{provider="toss",le="2.5"}"#,
            r#"payments_webhook_last_received_timestamp_seconds{provider="toss"}"#,
            r#"payments_idempotency_total{route="confirm",result="mismatch"}"#,
            r#"payments_db_transaction_contention_total{tx="confirm_resolve",reason="deadlock"}"#,
            r#"payments_http_rejections_total{reason="shed"}"#,
            r#"payments_stock_reservations_total{result="error"}"#,
            r#"payments_funnel_total{stage="paid"}"#,
            r#"payments_transitions_total{aggregate="payment",from_status="confirming",to_status="approved"}"#,
            r#"payments_worker_ticks_total{task="recovery",result="failed"}"#,
            r#"payments_worker_round_duration_seconds_count{task="webhooks"}"#,
            r#"payments_event_loop_lag_seconds_bucket{le="0.5"}"#,
            "payments_panics_total",
            "payments_log_lines_dropped_total",
        ] {
            assert!(text.lines().any(|line| line.strip_prefix(series).is_some_and(|v| v.starts_with(' '))), "{series}");
        }
        assert!(!text.contains(r#"operation="order_create",outcome="conflict",provider="toss""#));
        assert!(!text.contains(r#"aggregate="order",from_status="canceled""#), "no series for what cannot happen");
    }
}
