//! Rules that a dashboard has to keep beyond its shape: those of Grafana's own linter, and what on-call needs on top.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Board, boards, list, none, variables_in, word, words};

const MOST_PANELS: usize = 30;
const SOURCES: &[(&str, &str, &str)] = &[
    ("prometheus_datasource", "prometheus", "Prometheus data source"),
    ("tempo_datasource", "tempo", "Tempo data source"),
    ("loki_datasource", "loki", "Loki data source"),
    ("postgres_datasource", "grafana-postgresql-datasource", "PostgreSQL data source"),
];
/// Units of Grafana that are used here.
const UNITS: &[&str] =
    &["short", "percentunit", "percent", "s", "reqps", "ops", "rowsps", "locale", "bytes", "d", "string"];
/// Variables of Grafana itself.
const BUILT_IN: &[&str] = &[
    "__rate_interval",
    "__range",
    "__from",
    "__to",
    "__url_time_range",
    "__all_variables",
    "__data",
    "__field",
    "__timeFilter",
    "__timeFrom",
];

/// What a rule finds wrong on each dashboard.
fn check(rule: fn(&Board, &mut Vec<String>), what: &str) {
    let (boards, mut wrong) = (boards(), Vec::new());
    assert_eq!(boards.len(), 10);
    boards.iter().for_each(|board| rule(board, &mut wrong));
    none(wrong, what);
}

/// What a rule finds wrong on each panel.
fn check_panels(rule: fn(&Board, &Value) -> Option<String>, what: &str) {
    let mut wrong = Vec::new();
    for board in boards() {
        for panel in board.panels() {
            wrong.extend(rule(&board, panel).map(|found| format!("{}: {found}", board.place(panel))));
        }
    }
    none(wrong, what);
}

#[test]
fn the_data_sources_the_job_and_the_instances_are_chosen_by_variables_that_follow_the_time() {
    check(
        |board, wrong| {
            let names: BTreeSet<&str> = board.variables().iter().map(|variable| word(variable, "/name")).collect();
            for name in ["prometheus_datasource", "job"] {
                (!names.contains(name)).then(|| wrong.push(format!("{}: no variable {name}", board.uid)));
            }
            wrong.extend(board.variables().iter().filter_map(|variable| {
                let good = match word(variable, "/type") {
                    "datasource" => {
                        SOURCES.contains(&(word(variable, "/name"), word(variable, "/query"), word(variable, "/label")))
                    }
                    "query" => {
                        let name = word(variable, "/name");
                        word(variable, "/datasource/uid") == "${prometheus_datasource}"
                            && word(variable, "/label").to_lowercase() == name
                            && variable["multi"] == true
                            && word(variable, "/allValue") == ".+"
                            && variable["refresh"] == 2
                            && word(variable, "/query").starts_with("label_values(")
                            && word(variable, "/query").ends_with(&format!(", {name})"))
                    }
                    "custom" | "textbox" | "constant" => !word(variable, "/label").is_empty(),
                    _ => false,
                };
                (!good).then(|| format!("{}: variable {}", board.uid, word(variable, "/name")))
            }));
        },
        "variables",
    );
}

#[test]
fn every_variable_is_used_and_every_one_that_is_used_exists() {
    check(
        |board, wrong| {
            let mut texts = Vec::new();
            for part in ["panels", "annotations", "links"] {
                words(&board.json[part], &mut texts);
            }
            let mut used: BTreeSet<String> = texts.iter().flat_map(|text| variables_in(text)).collect();
            let known: BTreeSet<String> =
                board.variables().iter().map(|variable| word(variable, "/name").to_owned()).collect();
            // The choice of one may narrow the values of another, which is no use of its own.
            wrong.extend(known.difference(&used).map(|name| format!("{}: ${name} is not used", board.uid)));
            used.retain(|name| !BUILT_IN.contains(&name.as_str()));
            wrong.extend(used.difference(&known).map(|name| format!("{}: ${name} does not exist", board.uid)));
        },
        "variables",
    );
}

#[test]
fn panels_and_queries_take_their_data_source_from_a_variable() {
    check_panels(
        |_, panel| {
            let of = |value: &Value| {
                let found = (word(value, "/datasource/uid").to_owned(), word(value, "/datasource/type").to_owned());
                SOURCES.iter().any(|(name, kind, _)| found == (format!("${{{name}}}"), (*kind).to_owned()))
            };
            if word(panel, "/type") == "text" {
                return None;
            }
            let targets = list(panel, "/targets");
            (targets.is_empty() || !of(panel) || !targets.iter().all(of)).then(|| "its queries".to_owned())
        },
        "data sources",
    );
    check(
        |board, wrong| {
            let fixed = ["paygauge-prometheus", "paygauge-tempo", "paygauge-loki", "paygauge-postgres"];
            wrong.extend(
                fixed.iter().filter(|uid| board.text.contains(**uid)).map(|uid| format!("{}: {uid}", board.uid)),
            );
        },
        "fixed data sources",
    );
}

#[test]
fn a_panel_asks_a_question_says_how_to_read_the_answer_and_what_to_do() {
    check_panels(
        |board, panel| {
            let about = word(panel, "/description");
            let mut parts = about.split("\n\n");
            let question = parts.next().is_some_and(|part| part.starts_with("**") && part.ends_with("?**"));
            let read = parts.next().is_some_and(|part| part.starts_with("Read: ") && part.len() > 20);
            let act = parts.next().is_some_and(|part| part.starts_with("Do: ") && part.len() > 15);
            let once = board.panels().filter(|other| word(other, "/title") == word(panel, "/title")).count() == 1;
            let titled = !word(panel, "/title").is_empty() && once;
            (!(question && read && act && titled)).then(|| about.to_owned())
        },
        "titles and descriptions",
    );
}

#[test]
fn units_are_ones_that_grafana_knows() {
    check_panels(
        |_, panel| {
            let units = list(panel, "/fieldConfig/overrides").iter();
            let units = units.flat_map(|column| list(column, "/properties"));
            let units =
                units.filter(|property| word(property, "/id") == "unit").map(|property| word(property, "/value"));
            let unit = word(panel, "/fieldConfig/defaults/unit");
            units.chain([unit]).find(|unit| !UNITS.contains(unit)).map(str::to_owned)
        },
        "units",
    );
}

#[test]
fn a_colour_means_an_action_and_nothing_known_is_never_green() {
    check_panels(
        |_, panel| {
            let defaults = &panel["fieldConfig"]["defaults"];
            let steps = list(defaults, "/thresholds/steps");
            if steps.is_empty() || !steps[0]["value"].is_null() {
                return Some("no colour to begin with".to_owned());
            }
            let rising = steps[1..].windows(2).all(|pair| pair[0]["value"].as_f64() < pair[1]["value"].as_f64());
            if !rising {
                return Some("the steps do not rise".to_owned());
            }
            if matches!(word(panel, "/type"), "stat" | "bargauge" | "state-timeline")
                && steps.len() < 2
                && word(panel, "/title") != "Orders by stage reached"
            {
                return Some("no threshold".to_owned());
            }
            let unknown =
                list(defaults, "/mappings").iter().find(|mapping| word(mapping, "/options/match") == "null+nan");
            let Some(unknown) = unknown else { return Some("nothing known has no word".to_owned()) };
            let silent = word(unknown, "/options/result/text").is_empty() || word(defaults, "/noValue").is_empty();
            (silent || word(unknown, "/options/result/color") != "#8e8e8e")
                .then(|| "nothing known has a colour".to_owned())
        },
        "colours",
    );
}

#[test]
fn figures_are_as_of_now() {
    check_panels(
        |_, panel| {
            let now = matches!(word(panel, "/type"), "stat" | "bargauge" | "table");
            let targets = list(panel, "/targets").iter();
            let mut queries = targets.filter(|target| word(target, "/datasource/type") == "prometheus");
            queries.any(|target| target["instant"] != now || target["range"] == now).then(|| "instant".to_owned())
        },
        "figures that could be old, or lines that are points",
    );
}

#[test]
fn panels_do_not_overlap_and_are_few_enough_to_read() {
    check(
        |board, wrong| {
            let count = board.panels().count();
            if !(12..=MOST_PANELS).contains(&count) {
                wrong.push(format!("{}: {count} panels", board.uid));
            }
            let mut cells = BTreeSet::new();
            let mut ids = BTreeSet::new();
            for panel in list(&board.json, "/panels") {
                let at = |name: &str| panel["gridPos"][name].as_u64().expect("a place");
                let place = board.place(panel);
                (!ids.insert(panel["id"].as_u64())).then(|| wrong.push(format!("{place}: its id is another's")));
                (at("x") + at("w") > 24 || at("w") == 0 || at("h") == 0)
                    .then(|| wrong.push(format!("{place}: too wide")));
                for cell in (at("y")..at("y") + at("h")).flat_map(|y| (at("x")..at("x") + at("w")).map(move |x| (x, y)))
                {
                    if !cells.insert(cell) {
                        wrong.push(format!("{place} lies on another"));
                        break;
                    }
                }
            }
        },
        "places",
    );
    let overview = boards().into_iter().find(|board| board.uid == "pay-overview").expect("the overview");
    let ends = overview
        .panels()
        .map(|panel| panel["gridPos"]["y"].as_u64().unwrap() + panel["gridPos"]["h"].as_u64().unwrap());
    assert!(ends.max().expect("panels") <= 24, "the overview fits a screen of 1080 lines");
}

#[test]
fn a_dashboard_cannot_be_edited_and_marks_what_changed() {
    check(
        |board, wrong| {
            let json = &board.json;
            let fixed = json["editable"] == false && json["schemaVersion"] == 39 && json["graphTooltip"] == 1;
            let shown = word(json, "/timezone") == "browser"
                && word(json, "/refresh") == "10s"
                && json["uid"] == board.uid.as_str();
            (!(fixed && shown)).then(|| wrong.push(format!("{}: its settings", board.uid)));
            let annotations = list(json, "/annotations/list");
            for series in ["payments_build_info", "payments_config_info", "process_start_time_seconds", "ALERTS{"] {
                let marked =
                    annotations.iter().any(|mark| word(mark, "/expr").contains(series) && mark["enable"] == true);
                (!marked).then(|| wrong.push(format!("{}: no mark of {series}", board.uid)));
            }
        },
        "settings and marks",
    );
}

#[test]
fn searches_of_logs_and_traces_name_the_service_and_close_what_they_open() {
    check_panels(
        |_, panel| {
            list(panel, "/targets").iter().find_map(|target| {
                let (query, named) = match word(target, "/datasource/type") {
                    "loki" => (word(target, "/expr"), r#"{service="paygauge""#),
                    "tempo" => (word(target, "/query"), "{ "),
                    _ => return None,
                };
                let pairs = [('{', '}'), ('(', ')')];
                let closed =
                    pairs.iter().all(|(open, close)| query.matches(*open).count() == query.matches(*close).count());
                let quoted = ['"', '`'].iter().all(|sign| query.matches(*sign).count() % 2 == 0);
                (!(query.starts_with(named) && closed && quoted)).then(|| query.to_owned())
            })
        },
        "searches",
    );
}
