//! Every query of a rule, an annotation and a runbook asks for metrics, labels and values that exist, in a way that
//! gives a true answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use paygauge::telemetry::catalogue::{self, Kind, MetricInfo};

use super::expression::{self, Asked};
use super::files;

/// What Prometheus and Alertmanager say about themselves and about a scrape, with labels that we cannot know.
const THEIRS: [&str; 3] = ["prometheus_", "alertmanager_", "scrape_"];
/// Four scrapes: what a window must hold, so that one that fails is no hole.
const WINDOW_MIN: Duration = Duration::from_secs(4 * 5);
/// Functions that know that a counter starts again at 0.
pub const OF_COUNTERS: [&str; 5] = ["rate", "increase", "irate", "changes", "resets"];
/// Labels that Prometheus adds, or a rule does.
const ADDED: [&str; 5] = ["job", "instance", "slo", "reason", "le"];

/// A metric of the catalogue and the part of it that is asked for: a histogram has `_bucket`, `_sum` and `_count`.
pub fn known(name: &str) -> Option<(&'static MetricInfo, bool)> {
    let direct = catalogue::all().iter().find(|metric| metric.name == name && metric.kind != Kind::Histogram);
    if let Some(metric) = direct {
        return Some((metric, metric.kind == Kind::Counter));
    }
    let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end))?;
    catalogue::all().iter().find(|metric| metric.name == stem && metric.kind == Kind::Histogram).map(|m| (m, true))
}

struct Judge {
    recorded: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Judge {
    fn judge(&mut self, place: &str, query: &str) {
        let questions = expression::questions(&expression::parse(query));
        let mut labels: BTreeMap<String, Option<BTreeSet<&str>>> = BTreeMap::new();
        for asked in &questions.selectors {
            labels.insert(asked.metric.clone(), self.selector(place, asked));
        }
        for group in &questions.groups {
            for label in group.labels.iter().filter(|label| !ADDED.contains(&label.as_str())) {
                let exists = group.metrics.iter().any(|metric| {
                    labels.get(metric).is_none_or(|known| known.as_ref().is_none_or(|l| l.contains(label.as_str())))
                });
                self.unless(exists, place, &format!("nothing below has the label {label}"));
            }
        }
    }

    /// Judges a selector; returns the labels of its metric where they are known.
    fn selector(&mut self, place: &str, asked: &Asked) -> Option<BTreeSet<&'static str>> {
        let name = &asked.metric;
        let long_enough = asked.range.is_none_or(|range| range >= WINDOW_MIN);
        self.unless(long_enough, place, &format!("a window of {:?} holds fewer than four scrapes", asked.range));
        let foreign = name == "up" || name == "ALERTS" || THEIRS.iter().any(|start| name.starts_with(start));
        if foreign || self.recorded.contains(name) {
            return None;
        }
        let Some((metric, counts)) = known(name) else {
            self.wrong.push(format!("{place}: there is no metric {name}"));
            return None;
        };
        let by_counter = asked.function.is_some_and(|function| OF_COUNTERS.contains(&function));
        self.unless(counts == by_counter, place, &format!("{name} inside {:?}", asked.function));
        for matcher in &asked.matchers {
            self.matcher(place, metric, &matcher.name, &expression::values(matcher));
        }
        Some(metric.labels.iter().map(|label| label.name).collect())
    }

    fn matcher(&mut self, place: &str, metric: &MetricInfo, label: &str, values: &[String]) {
        if label == "le" {
            // Prometheus 3 calls the bucket 1 "1.0", 2 calls it "1".
            let fits = |le: &String| {
                le.contains('.') && metric.buckets.is_some_and(|buckets| buckets.iter().any(|b| b.to_string() == **le))
            };
            self.unless(values.iter().all(fits), place, &format!("{} has no such bucket: {values:?}", metric.name));
        } else if !ADDED.contains(&label) || metric.labels.iter().any(|info| info.name == label) {
            let Some(info) = metric.labels.iter().find(|info| info.name == label) else {
                self.wrong.push(format!("{place}: {} has no label {label}", metric.name));
                return;
            };
            let fits = |value: &String| match value.strip_suffix(".*") {
                Some(start) => info.values.iter().any(|known| known.starts_with(start)),
                // A value that an annotation fills in.
                None => value == "%s" || info.values.contains(&value.as_str()),
            };
            let open = info.values.is_empty();
            self.unless(open || values.iter().all(fits), place, &format!("{label} is never one of {values:?}"));
        }
    }

    fn unless(&mut self, right: bool, place: &str, wrong: &str) {
        if !right {
            self.wrong.push(format!("{place}: {wrong}"));
        }
    }
}

fn judge() -> Judge {
    let rules = files::rules();
    let recorded = rules.into_iter().filter(|rule| !rule.is_alert).map(|rule| rule.name).collect();
    Judge { recorded, wrong: Vec::new() }
}

/// The queries of an annotation: they stand between backquotes.
fn inner_queries(annotation: &str) -> impl Iterator<Item = &str> {
    annotation.split('`').skip(1).step_by(2)
}

#[test]
fn every_rule_and_annotation_asks_for_what_exists() {
    let mut judge = judge();
    for rule in files::rules() {
        let place = format!("{}: {}", rule.file, rule.name);
        judge.judge(&place, &rule.expr);
        for (name, annotation) in &rule.annotations {
            for query in inner_queries(annotation) {
                judge.judge(&format!("{place}, {name}"), query);
            }
        }
    }
    assert!(judge.wrong.is_empty(), "{:#?}", judge.wrong);
}

#[test]
fn every_query_of_a_runbook_asks_for_what_exists() {
    let mut judge = judge();
    let mut queries = 0;
    for entry in std::fs::read_dir(files::root("docs/runbooks")).expect("docs/runbooks") {
        let path = entry.expect("an entry").path();
        let page = std::fs::read_to_string(&path).expect("a page");
        let place = path.file_name().expect("a name").to_string_lossy().into_owned();
        for block in page.split("```promql\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            for query in block.split("\n\n").map(str::trim).filter(|query| !query.is_empty()) {
                queries += 1;
                judge.judge(&place, query);
            }
        }
    }
    assert!(queries > 40, "only {queries} queries were found");
    assert!(judge.wrong.is_empty(), "{:#?}", judge.wrong);
}

#[test]
fn the_judge_finds_what_is_wrong() {
    let wrong = |query: &str| {
        let mut judge = judge();
        judge.judge("here", query);
        judge.wrong.len()
    };
    for query in [
        "payments_nothing_total",
        "payments_operations_total",
        "rate(payments_unresolved[1m])",
        "rate(payments_operations_total[10s])",
        r#"rate(payments_operations_total{outcome="fine"}[1m])"#,
        r#"rate(payments_operations_total{outcome=~"success|fine"}[1m])"#,
        r#"rate(payments_operations_total{weather="fine"}[1m])"#,
        "sum by (weather) (rate(payments_operations_total[1m]))",
        r#"rate(payments_operation_duration_seconds_bucket{le="1"}[1m])"#,
        r#"rate(payments_operation_duration_seconds_bucket{le="2.4"}[1m])"#,
        r#"payments_audit_violations{rule=~"luck_.*"}"#,
    ] {
        assert_eq!(wrong(query), 1, "{query}");
    }
    for query in [
        r#"sum by (job, outcome) (rate(payments_operations_total{outcome=~"success|error"}[1m]))"#,
        r#"rate(payments_operation_duration_seconds_bucket{le="2.5"}[1m])"#,
        r#"payments_audit_violations{rule=~"stuck_.*"}"#,
        "payments:verdict",
    ] {
        assert_eq!(wrong(query), 0, "{query}");
    }
}
