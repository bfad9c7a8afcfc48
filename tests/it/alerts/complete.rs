//! Every alert says what a person needs, has its runbook, and a case in which it fires and one in which it does not.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::files::{self, Rule};

/// The dashboards that exist.
const DASHBOARDS: [&str; 10] = [
    "pay-overview",
    "pay-funnel",
    "pay-pg",
    "pay-stock",
    "pay-db",
    "pay-events",
    "pay-runtime",
    "pay-slo",
    "pay-payment",
    "pay-affected",
];

fn alerts() -> Vec<Rule> {
    files::rules().into_iter().filter(|rule| rule.is_alert).collect()
}

/// The names of a dashboard's variables.
fn variables(uid: &str) -> BTreeSet<String> {
    let file = files::root(&format!("grafana/dashboards/{uid}.json"));
    let dashboard: Value = serde_json::from_slice(&std::fs::read(file).expect("a dashboard")).expect("JSON");
    let list = dashboard["templating"]["list"].as_array().expect("variables");
    list.iter().filter_map(|variable| variable["name"].as_str().map(str::to_owned)).collect()
}

#[test]
fn every_alert_says_what_it_is_about_where_to_look_and_what_to_do() {
    for alert in alerts() {
        let name = &alert.name;
        let severity = alert.labels.get("severity").map(String::as_str);
        assert!(matches!(severity, Some("page" | "ticket" | "none")), "{name}: severity {severity:?}");
        assert_eq!(severity == Some("none"), name == "Watchdog", "{name}: only the sign of life calls nobody");
        for wanted in ["summary", "blast_radius", "worst", "dashboard_url", "runbook_url"] {
            let text = alert.annotations.get(wanted).unwrap_or_else(|| panic!("{name} has no {wanted}"));
            assert!(!text.trim().is_empty() && !text.contains("$value"), "{name}: {wanted} is {text:?}");
        }
        assert_eq!(alert.annotations.len(), 5, "{name} has other annotations");
        assert_eq!(alert.annotations["runbook_url"], format!("{{{{ $externalLabels.runbooks }}}}/{name}.md"), "{name}");
        let uid = alert.annotations["dashboard_url"].strip_prefix("/d/").and_then(|path| path.split('?').next());
        assert!(uid.is_some_and(|uid| DASHBOARDS.contains(&uid)), "{name}: dashboard {uid:?}");
        let link = &alert.annotations["dashboard_url"];
        assert!(link.contains("from=now-"), "{name}: the link shows a time");
        let known = variables(uid.unwrap_or_default());
        for variable in link.split(['?', '&']).filter_map(|part| part.strip_prefix("var-")?.split('=').next()) {
            assert!(known.contains(variable), "{name}: {uid:?} has no variable {variable}");
        }
        assert!(alert.labels.values().all(|value| !value.contains("{{")), "{name}: a label must not change with time");
    }
}

#[test]
fn every_alert_has_a_runbook_in_the_index_and_no_runbook_is_without_an_alert() {
    let known: BTreeSet<String> = alerts().into_iter().map(|alert| alert.name).collect();
    let directory = std::fs::read_dir(files::root("docs/runbooks")).expect("docs/runbooks");
    let pages: BTreeSet<String> = directory
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(".md").map(str::to_owned))
        .filter(|name| name != "README")
        .collect();
    assert_eq!(pages.symmetric_difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
    let index = std::fs::read_to_string(files::root("docs/runbooks/README.md")).expect("the index");
    for name in &known {
        assert!(index.contains(&format!("]({name}.md)")), "the index does not lead to {name}");
        let page = std::fs::read_to_string(files::root(&format!("docs/runbooks/{name}.md"))).expect("a page");
        assert!(page.starts_with(&format!("# {name}\n")), "{name}: the page's title");
        let sections =
            ["## What it means", "## First 60 seconds", "## Decide", "## Do", "## Queries", "## It is over when"];
        for section in sections {
            assert!(page.contains(&format!("\n{section}\n")), "{name} lacks {section:?}");
        }
    }
}

#[test]
fn every_alert_is_seen_firing_and_silent() {
    let mut seen: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for test in files::all_yaml("prometheus/tests").values() {
        for (alert, fires) in files::expectations(test) {
            let counts = seen.entry(alert).or_default();
            if fires { counts.0 += 1 } else { counts.1 += 1 }
        }
    }
    for alert in alerts() {
        let (firing, silent) = seen.get(&alert.name).copied().unwrap_or_default();
        // What is always on has no silence; promtool is asked about another name instead.
        let needs_silence = alert.name != "Watchdog";
        assert!(firing > 0 && (silent > 0 || !needs_silence), "{}: {firing} firing, {silent} silent", alert.name);
    }
    let all: (usize, usize) = seen.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    println!("{} alerts, {} firing and {} silent cases", alerts().len(), all.0, all.1);
}

#[test]
fn inhibition_names_alerts_that_exist_and_never_silences_wrong_books() {
    let known: BTreeSet<String> = alerts().into_iter().map(|alert| alert.name).collect();
    let config = files::yaml(&files::root("prometheus/alertmanager.yml"));
    let matcher = |text: &str| {
        let (name, value) = text.strip_prefix("alertname ")?.split_once(' ')?;
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    };
    for rule in config["inhibit_rules"].as_array().expect("inhibition") {
        for side in ["source_matchers", "target_matchers"] {
            let texts = rule[side].as_array().expect("matchers").iter().filter_map(|text| text.as_str());
            let (_, names) = texts.filter_map(matcher).next().unwrap_or_else(|| panic!("{rule}: no alertname"));
            for pattern in alternatives(&names) {
                let matched: Vec<&String> = known
                    .iter()
                    .filter(|name| match pattern.strip_suffix(".*") {
                        Some(start) => name.starts_with(start),
                        None => **name == pattern,
                    })
                    .collect();
                assert!(!matched.is_empty(), "no alert is called {pattern}");
                let never = ["AuditViolation", "ReversalOpened", "RedactionTripped", "Watchdog"];
                let silenced = matched.iter().find(|name| never.contains(&name.as_str()));
                assert!(side == "source_matchers" || silenced.is_none(), "{silenced:?} is never silenced");
            }
        }
    }
}

/// `A|B(x|y)` is `A`, `Bx` and `By`.
fn alternatives(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('(') else {
        return pattern.split('|').map(str::to_owned).collect();
    };
    let (inner, after) = rest.split_once(')').expect("a closing bracket");
    let (others, stem) = before.rsplit_once('|').map_or(("", before), |(others, stem)| (others, stem));
    let mut all: Vec<String> = others.split('|').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    all.extend(inner.split('|').map(|end| format!("{stem}{end}")));
    all.extend(after.split('|').filter(|name| !name.is_empty()).map(str::to_owned));
    all
}
