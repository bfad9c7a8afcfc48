//! Every PromQL query: it parses, names what exists, and asks in a way whose answer can be trusted.

use std::collections::BTreeSet;

use paygauge::telemetry::catalogue::{self, Kind};
use promql_parser::label::MatchOp;
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};

use super::contract::{self, SERVICE, metric_of};
use super::{Board, boards, list, none, read, texts, variables_in, word};

const SCRAPE_SECONDS: u64 = 5;

/// One use of a series within a query.
struct Use {
    name: String,
    matchers: Vec<(String, String)>,
    exact: Vec<(String, String)>,
    /// How far a range of it reaches back.
    seconds: Option<u64>,
    /// The aggregations around it, the nearest first: its word and the labels that it keeps.
    around: Vec<(String, Vec<String>)>,
    /// The functions around it, the nearest first.
    calls: Vec<String>,
}

/// All queries: where each stands, and its text.
pub fn queries() -> Vec<(String, String, bool)> {
    let mut found = Vec::new();
    for board in boards() {
        for panel in board.panels() {
            for target in list(panel, "/targets").iter().filter(|target| is_prometheus(target)) {
                found.push((board.place(panel), word(target, "/expr").to_owned(), true));
            }
        }
        for annotation in list(&board.json, "/annotations/list") {
            let place = format!("{}: annotation {}", board.uid, word(annotation, "/name"));
            found.push((place, word(annotation, "/expr").to_owned(), true));
        }
        for variable in board.variables().iter().filter(|variable| word(variable, "/type") == "query") {
            let query = word(variable, "/query");
            let inner = query.strip_prefix("label_values(").and_then(|rest| rest.rsplit_once(','));
            let place = format!("{}: variable {}", board.uid, word(variable, "/name"));
            found.push((place, inner.map_or(query, |(series, _)| series).to_owned(), false));
        }
    }
    for line in read("grafana/provisioning/datasources/paygauge.yaml").lines() {
        if let Some(query) = line.trim().strip_prefix("query: ").filter(|query| query.contains("(rate(")) {
            found.push(("provisioning".to_owned(), query.to_owned(), false));
        }
    }
    found
}

fn is_prometheus(target: &serde_json::Value) -> bool {
    word(target, "/datasource/type") == "prometheus"
}

/// With values for the variables, as Grafana would send it.
fn substituted(query: &str) -> String {
    let mut text = query.replace("$__rate_interval", "1m").replace("$__range", "1h");
    for name in variables_in(query).into_iter().filter(|name| !name.starts_with("__")) {
        text = text.replace(&format!("${name}"), ".+");
    }
    text
}

fn uses(query: &str) -> Result<Vec<Use>, String> {
    let expression = parser::parse(&substituted(query))?;
    let mut found = Vec::new();
    walk(&expression, &mut Vec::new(), &mut Vec::new(), &mut found);
    Ok(found)
}

fn walk(expr: &Expr, around: &mut Vec<(String, Vec<String>)>, calls: &mut Vec<String>, found: &mut Vec<Use>) {
    match expr {
        Expr::Aggregate(inner) => {
            let kept = match &inner.modifier {
                Some(LabelModifier::Include(labels)) => labels.labels.clone(),
                Some(LabelModifier::Exclude(_)) | None => Vec::new(),
            };
            around.push((inner.op.to_string(), kept));
            walk(&inner.expr, around, calls, found);
            around.pop();
        }
        Expr::Unary(inner) => walk(&inner.expr, around, calls, found),
        Expr::Binary(inner) => {
            walk(&inner.lhs, around, calls, found);
            walk(&inner.rhs, around, calls, found);
        }
        Expr::Paren(inner) => walk(&inner.expr, around, calls, found),
        Expr::Subquery(inner) => walk(&inner.expr, around, calls, found),
        Expr::VectorSelector(selector) => found.push(used(selector, None, around, calls)),
        Expr::MatrixSelector(inner) => found.push(used(&inner.vs, Some(inner.range.as_secs()), around, calls)),
        Expr::Call(call) => {
            calls.push(call.func.name.to_owned());
            call.args.args.iter().for_each(|argument| walk(argument, around, calls, found));
            calls.pop();
        }
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}

fn used(selector: &VectorSelector, seconds: Option<u64>, around: &[(String, Vec<String>)], calls: &[String]) -> Use {
    let all = || selector.matchers.matchers.iter();
    Use {
        name: selector.name.clone().unwrap_or_default(),
        matchers: all().map(|matcher| (matcher.name.clone(), matcher.value.clone())).collect(),
        exact: all()
            .filter(|matcher| matches!(matcher.op, MatchOp::Equal))
            .map(|matcher| (matcher.name.clone(), matcher.value.clone()))
            .collect(),
        seconds,
        around: around.iter().rev().cloned().collect(),
        calls: calls.iter().rev().cloned().collect(),
    }
}

/// Says of each use of a series what is wrong with it.
fn judge(complaint: impl Fn(&Use, &str, bool) -> Option<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (place, query, on_dashboard) in queries() {
        match uses(&query) {
            Ok(found) => wrong.extend(
                found
                    .iter()
                    .filter_map(|used| complaint(used, &query, on_dashboard))
                    .map(|what| format!("{place}: {what}")),
            ),
            Err(error) => wrong.push(format!("{place}: {error}: {query}")),
        }
    }
    wrong
}

#[test]
fn every_query_parses_and_names_series_and_labels_that_exist() {
    let (known, rules) = (contract::metrics(), contract::rules());
    let wrong = judge(|used, _, _| {
        let labels = if used.name.contains(':') {
            if !rules.recorded.contains(&used.name) {
                return Some(format!("no rule records {}", used.name));
            }
            contract::recorded_labels(&used.name)
        } else {
            let Some((_, metric)) = metric_of(&known, &used.name) else {
                return Some(format!("no metric is called {}", used.name));
            };
            metric.labels.clone()
        };
        let exists = |label: &str| {
            matches!(label, "job" | "instance")
                || labels.contains(label)
                || (label == "le" && used.name.ends_with("_bucket"))
        };
        let matched = used.matchers.iter().map(|(label, _)| label).find(|label| !exists(label));
        // Only the nearest aggregation keeps labels of the series itself.
        let kept = used.around.first().and_then(|(_, kept)| kept.iter().find(|label| !exists(label)));
        matched.or(kept).map(|label| format!("{} has no label {label}", used.name))
    });
    none(wrong, "queries");
}

#[test]
fn values_of_labels_in_queries_are_of_their_closed_lists() {
    let wrong = judge(|used, _, _| {
        let info = catalogue::all()
            .iter()
            .find(|metric| used.name.starts_with(metric.name) && metric_suffix(metric.name, &used.name))?;
        used.exact.iter().find_map(|(label, value)| {
            let of = info.labels.iter().find(|of| of.name == label)?;
            let unknown = !of.values.is_empty() && !of.values.contains(&value.as_str());
            unknown.then(|| format!("{}: {label} is never {value}", used.name))
        })
    });
    none(wrong, "values of labels");
}

fn metric_suffix(metric: &str, series: &str) -> bool {
    matches!(series.strip_prefix(metric), Some("" | "_bucket" | "_count" | "_sum"))
}

#[test]
fn queries_follow_the_chosen_job_and_instances() {
    let wrong = judge(|used, query, on_dashboard| {
        if !on_dashboard || used.name.contains(':') || used.name == "ALERTS" || used.name.starts_with("prometheus_") {
            return None;
        }
        let has = |label: &str| {
            query.contains(&format!(r#"{label}=~"${label}""#)) && used.matchers.iter().any(|(name, _)| name == label)
        };
        if !has("job") {
            return Some(format!("{} for every job", used.name));
        }
        let of_all = SERVICE.contains(&used.name.as_str())
            || used.name.starts_with("payments_audit_")
            || [
                "up",
                "payments_build_info",
                "payments_config_info",
                "process_start_time_seconds",
                "payments_overview_leader",
            ]
            .contains(&used.name.as_str());
        (!of_all && !has("instance")).then(|| format!("{} for every instance", used.name))
    });
    none(wrong, "queries that ignore the choice of job or instance");
}

#[test]
fn counters_are_only_read_as_rates_over_the_interval_that_fits() {
    let known = contract::metrics();
    let wrong = judge(|used, query, on_dashboard| {
        let (_, metric) = metric_of(&known, &used.name)?;
        let counts = matches!(metric.kind, Kind::Counter | Kind::Histogram);
        let as_rate = used.calls.first().is_some_and(|call| matches!(call.as_str(), "rate" | "increase"));
        if on_dashboard && counts && !as_rate {
            return Some(format!("{} without a rate", used.name));
        }
        if used.seconds.is_some_and(|seconds| seconds < 4 * SCRAPE_SECONDS) {
            return Some(format!("{}: the range is shorter than four scrapes", used.name));
        }
        let ranges = query.split('[').skip(1).filter_map(|rest| rest.split(']').next());
        let fixed = ranges.into_iter().find(|range| !range.starts_with("$__range") && *range != "$__rate_interval");
        fixed.filter(|_| on_dashboard).map(|range| format!("a fixed window [{range}]"))
    });
    none(wrong, "ranges");
}

#[test]
fn gauges_of_the_whole_service_are_never_added_up_over_instances() {
    let wrong = judge(|used, _, on_dashboard| {
        let nearest = used.around.first().map(|(op, _)| op.as_str());
        let seen = matches!(nearest, Some("max" | "min"));
        (on_dashboard && SERVICE.contains(&used.name.as_str()) && !seen)
            .then(|| format!("{} needs max or min", used.name))
    });
    none(wrong, "service gauges");
}

#[test]
fn quantiles_keep_their_buckets_and_money_its_currency() {
    let wrong = judge(|used, query, _| {
        let kept: Vec<&str> =
            used.around.first().map_or(Vec::new(), |(_, kept)| kept.iter().map(String::as_str).collect());
        if used.name.ends_with("_bucket")
            && used.matchers.iter().all(|(label, _)| label != "le")
            && !kept.contains(&"le")
        {
            return Some(format!("{} loses le", used.name));
        }
        if used.matchers.iter().any(|(label, value)| label == "le" && !value.contains('.')) {
            return Some(format!("{} matches an integer le, which is written differently by others", used.name));
        }
        if used.calls.iter().any(|call| call == "histogram_quantile") && used.around.iter().any(|(op, _)| op == "avg") {
            return Some("an average of quantiles means nothing".to_owned());
        }
        let without =
            query.contains(&format!("max without (instance) ({}", used.name)) && query.contains("by (currency)");
        let keeps = kept.contains(&"currency") || without;
        (used.name.contains("amount_minor_units") && !keeps && query.contains("sum"))
            .then(|| format!("{} adds up currencies", used.name))
    });
    none(wrong, "quantiles and money");
}

#[test]
fn no_metric_is_an_orphan() {
    let known = contract::metrics();
    let mut seen = BTreeSet::new();
    for (_, query, _) in queries() {
        for used in uses(&query).unwrap_or_default() {
            seen.extend(metric_of(&known, &used.name).map(|(name, _)| name.to_owned()));
        }
    }
    let elsewhere =
        contract::rules().text + &texts("docs/runbooks", "md").into_iter().map(|(_, text)| text).collect::<String>();
    let orphans = catalogue::all().iter().map(|metric| metric.name);
    let orphans = orphans.filter(|name| !seen.contains(*name) && !elsewhere.contains(name));
    none(orphans.map(str::to_owned).collect(), "metrics that nobody looks at");
}

#[test]
fn a_dot_leads_on_from_every_latency_panel() {
    let mut wrong = Vec::new();
    for board in boards() {
        wrong.extend(without_exemplars(&board));
    }
    none(wrong, "latency panels without exemplars");
}

fn without_exemplars(board: &Board) -> Vec<String> {
    let mut wrong = Vec::new();
    for panel in board.panels().filter(|panel| matches!(word(panel, "/type"), "timeseries" | "heatmap")) {
        let targets = list(panel, "/targets").iter();
        let latency = targets.filter(|target| word(target, "/expr").contains("_bucket{") && is_prometheus(target));
        // Quantiles of the same buckets have the same dots; drawn five times they say nothing more, and cost five queries.
        let of = |target: &serde_json::Value| {
            let expr = word(target, "/expr");
            let without_rank = expr.strip_prefix("histogram_quantile(").and_then(|rest| rest.split_once(", "));
            (without_rank.map_or(expr, |(_, of)| of).to_owned(), target["exemplar"] == true)
        };
        let (with, without): (Vec<_>, Vec<_>) = latency.map(of).partition(|(_, has_dots)| *has_dots);
        let dotted: BTreeSet<&String> = with.iter().map(|(buckets, _)| buckets).collect();
        if dotted.len() != with.len() || without.iter().any(|(buckets, _)| !dotted.contains(buckets)) {
            wrong.push(board.place(panel));
        }
    }
    wrong
}
