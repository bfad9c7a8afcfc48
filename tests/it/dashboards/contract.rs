//! Which names exist: metrics with their labels, recording rules, alerts.

use std::collections::{BTreeMap, BTreeSet};

use paygauge::telemetry::catalogue::{self, Kind};

use super::texts;

/// A metric: its kind and labels.
#[derive(Clone)]
pub struct Metric {
    pub kind: Kind,
    pub labels: BTreeSet<String>,
}

/// Read from the database by one worker for all; the others expose NaN, so only `max` and `min` see through it.
pub const SERVICE: &[&str] = &[
    "payments_unresolved",
    "payments_oldest_unresolved_timestamp_seconds",
    "payments_overview_last_success_timestamp_seconds",
    "payments_findings_open",
    "payments_reconciled_until_timestamp_seconds",
    "payments_in_state",
    "payments_oldest_in_state_timestamp_seconds",
    "payments_unresolved_amount_minor_units",
    "payments_stock_held_units",
    "payments_holds_overdue",
    "payments_oldest_overdue_hold_timestamp_seconds",
    "payments_webhook_inbox_pending",
    "payments_webhook_oldest_pending_timestamp_seconds",
    "payments_findings_oldest_timestamp_seconds",
    "payments_idempotency_oldest_open_timestamp_seconds",
    "payments_db_blocked_sessions",
    "payments_db_oldest_transaction_timestamp_seconds",
    "payments_db_server_connections",
    "payments_db_server_connections_max",
];

/// What Prometheus itself adds, with the labels that are used of it.
const PROMETHEUS: &[(&str, Kind, &[&str])] = &[
    ("up", Kind::Gauge, &[]),
    ("scrape_duration_seconds", Kind::Gauge, &[]),
    ("scrape_samples_post_metric_relabeling", Kind::Gauge, &[]),
    ("prometheus_rule_evaluation_failures_total", Kind::Counter, &["rule_group"]),
    ("ALERTS", Kind::Gauge, &["alertname", "alertstate", "severity", "provider", "job"]),
];

/// Labels of the recording rules that dashboards use.
const RECORDED: &[(&str, &[&str])] = &[
    ("payments:operations:rate1m", &["operation", "outcome"]),
    ("payments:db_transactions:rate1m", &["tx", "result"]),
    ("payments:verdict_reason", &["reason"]),
    ("slo:objective:ratio", &["slo"]),
    ("slo:error_budget:ratio", &["slo"]),
    ("slo:current_burn_rate:ratio", &["slo"]),
    ("slo:budget_remaining:ratio", &["slo"]),
];

/// Every metric that a query may name.
pub fn metrics() -> BTreeMap<String, Metric> {
    let mut known = BTreeMap::new();
    for metric in catalogue::all() {
        let labels = metric.labels.iter().map(|label| label.name.to_owned()).collect();
        known.insert(metric.name.to_owned(), Metric { kind: metric.kind, labels });
    }
    for (name, kind, labels) in PROMETHEUS {
        let labels: BTreeSet<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        let metric = known.entry((*name).to_owned()).or_insert_with(|| Metric { kind: *kind, labels: labels.clone() });
        metric.labels.extend(labels);
    }
    known
}

/// The metric behind a series of it, such as a histogram's buckets.
pub fn metric_of<'a>(known: &'a BTreeMap<String, Metric>, series: &str) -> Option<(&'a str, &'a Metric)> {
    if let Some((name, metric)) = known.get_key_value(series) {
        return (metric.kind != Kind::Histogram).then_some((name.as_str(), metric));
    }
    let stem = ["_bucket", "_count", "_sum"].iter().find_map(|end| series.strip_suffix(end))?;
    let (name, metric) = known.get_key_value(stem)?;
    (metric.kind == Kind::Histogram).then_some((name.as_str(), metric))
}

/// What the rules record and how they call their alerts.
pub struct Rules {
    pub recorded: BTreeSet<String>,
    pub alerts: BTreeSet<String>,
    pub text: String,
}

pub fn rules() -> Rules {
    let mut rules = Rules { recorded: BTreeSet::new(), alerts: BTreeSet::new(), text: String::new() };
    for (_, text) in texts("prometheus/rules", "yml") {
        for line in text.lines().map(|line| line.trim().trim_start_matches("- ")) {
            let value = |key: &str| line.strip_prefix(key).map(|rest| rest.trim().trim_matches('"').to_owned());
            rules.recorded.extend(value("record:"));
            rules.alerts.extend(value("alert:"));
        }
        rules.text.push_str(&text);
    }
    rules
}

/// The labels of a recorded series, beside the job.
pub fn recorded_labels(name: &str) -> BTreeSet<String> {
    let labels = RECORDED.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, labels)| labels);
    labels.iter().map(|label| (*label).to_owned()).collect()
}
