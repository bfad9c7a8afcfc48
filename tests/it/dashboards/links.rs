//! Every link leads somewhere, and each question of on-call is answered within two clicks from the overview.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::contract;
use super::{Board, boards, list, none, read, root, texts, word};

/// Where the eight questions are answered, and after how many clicks at most.
const QUESTIONS: &[(&str, &str, &str, usize)] = &[
    ("are payments OK now", "pay-overview", "Verdict", 0),
    ("which PG, method or step hurts", "pay-overview", "Worst slices", 0),
    ("which customers and orders are hit", "pay-affected", "Payments that are hit", 1),
    ("is money drifting", "pay-overview", "Money that does not add up", 0),
    ("is stock drifting", "pay-overview", "Stock that does not add up", 0),
    ("what changed", "pay-overview", "What runs", 0),
    ("show me one payment end to end", "pay-payment", "Timeline", 2),
    ("what do I do, and is it over", "pay-overview", "Pages that fire", 0),
];

/// Every link of a dashboard: where it stands and its URL.
fn urls(board: &Board) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in board.panels() {
        for link in list(panel, "/links").iter().chain(list(panel, "/fieldConfig/defaults/links")) {
            found.push((board.place(panel), word(link, "/url").to_owned()));
        }
    }
    for link in list(&board.json, "/links").iter().filter(|link| word(link, "/type") == "link") {
        found.push((format!("{}: {}", board.uid, word(link, "/title")), word(link, "/url").to_owned()));
    }
    found
}

fn target_uid(url: &str) -> Option<&str> {
    url.strip_prefix("/d/").and_then(|rest| rest.split(['?', '/']).next())
}

#[test]
fn every_link_leads_to_a_dashboard_a_runbook_or_a_search_that_exists() {
    let boards = boards();
    let rules = contract::rules();
    let written: BTreeSet<String> = texts("docs/runbooks", "md").into_iter().map(|(name, _)| name).collect();
    let mut wrong = Vec::new();
    for (place, url) in boards.iter().flat_map(urls) {
        let leads = if let Some(uid) = target_uid(&url) {
            boards.iter().find(|board| board.uid == uid).is_some_and(|target| keeps(target, &url))
        } else if let Some(alert) = url.strip_prefix("${runbooks}/").and_then(|rest| rest.strip_suffix(".md")) {
            rules.alerts.contains(alert) && (written.is_empty() || written.contains(alert))
        } else {
            explores(&url)
        };
        (!leads).then(|| wrong.push(format!("{place}: {url}")));
    }
    none(wrong, "dead links");
}

/// Whether a link keeps the time and sets only variables that its target has.
fn keeps(target: &Board, url: &str) -> bool {
    let mut set = url.split("var-").skip(1).filter_map(|rest| rest.split('=').next());
    let known: BTreeSet<&str> = target.variables().iter().map(|variable| word(variable, "/name")).collect();
    url.contains("${__url_time_range}") && set.all(|name| known.contains(name))
}

/// Whether a search opens with a query that is whole JSON.
fn explores(url: &str) -> bool {
    let Some(panes) = url.strip_prefix("/explore?schemaVersion=1&panes=") else { return false };
    let mut bytes = Vec::new();
    let mut rest = panes.bytes();
    while let Some(byte) = rest.next() {
        let hex: Vec<u8> = if byte == b'%' { rest.by_ref().take(2).collect() } else { Vec::new() };
        let decoded = std::str::from_utf8(&hex).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(decoded.unwrap_or(byte));
    }
    serde_json::from_slice::<Value>(&bytes).is_ok_and(|panes| {
        let pane = panes.as_object().and_then(|panes| panes.values().next()).cloned().unwrap_or_default();
        !list(&pane, "/queries").is_empty() && word(&pane, "/datasource").ends_with("_datasource}")
    })
}

#[test]
fn every_panel_leads_on_and_every_dashboard_to_the_others_its_runbook_logs_and_traces() {
    let mut wrong = Vec::new();
    for board in boards() {
        wrong.extend(board.panels().filter(|panel| list(panel, "/links").is_empty()).map(|panel| board.place(panel)));
        let links = list(&board.json, "/links");
        let dropdown = links.iter().any(|link| {
            word(link, "/type") == "dashboards"
                && link["asDropdown"] == true
                && link["includeVars"] == true
                && link["keepTime"] == true
                && list(link, "/tags") == list(&board.json, "/tags")
        });
        let titles: BTreeSet<&str> = links.iter().map(|link| word(link, "/title")).collect();
        let all = ["Runbook", "Logs", "Traces"].iter().all(|title| titles.contains(title));
        (!(dropdown && all)).then(|| wrong.push(board.uid.clone()));
    }
    none(wrong, "ends of the road");
}

#[test]
fn each_question_of_on_call_is_answered_within_two_clicks() {
    let boards = boards();
    let mut clicks = BTreeMap::from([("pay-overview".to_owned(), 0_usize)]);
    let mut next = vec!["pay-overview".to_owned()];
    while let Some(uid) = next.pop() {
        let (from, board) = (clicks[&uid], boards.iter().find(|board| board.uid == uid).expect("a dashboard"));
        // The header's drop-down leads everywhere and is not counted: a panel must know where to go on.
        let panels =
            urls(board).into_iter().filter(|(place, _)| board.panels().any(|panel| board.place(panel) == *place));
        for to in panels.filter_map(|(_, url)| target_uid(&url).map(str::to_owned)) {
            if clicks.get(&to).is_none_or(|known| *known > from + 1) {
                clicks.insert(to.clone(), from + 1);
                next.push(to);
            }
        }
    }
    for (question, uid, title, most) in QUESTIONS {
        let board = boards.iter().find(|board| board.uid == *uid).expect("a dashboard");
        assert!(board.panel(title).is_some(), "{question}: {uid} has a panel {title}");
        assert!(clicks.get(*uid).is_some_and(|clicks| clicks <= most), "{question}: {clicks:?}");
    }
    assert_eq!(clicks.len(), boards.len(), "the overview leads to every dashboard: {clicks:?}");
    assert!(clicks.values().all(|clicks| *clicks <= 2), "{clicks:?}");
}

#[test]
fn what_to_do_is_one_click_from_every_panel_of_the_overview_that_can_turn_red() {
    let overview = boards().into_iter().find(|board| board.uid == "pay-overview").expect("the overview");
    let red =
        |panel: &Value| list(panel, "/fieldConfig/defaults/thresholds/steps").iter().any(|step| step["color"] == "red");
    let without = overview.panels().filter(|panel| red(panel)).filter(|panel| {
        let links = list(panel, "/links");
        !links
            .iter()
            .any(|link| word(link, "/url").starts_with("${runbooks}/") || word(link, "/url").contains("pay-affected"))
    });
    none(without.map(|panel| overview.place(panel)).collect(), "red with no word on what to do");
}

#[test]
fn the_data_sources_are_provisioned_with_ways_between_the_signals() {
    let text = read("grafana/provisioning/datasources/paygauge.yaml");
    for needed in [
        "- name: trace_id\n          datasourceUid: paygauge-tempo",
        "- name: payment_id\n          url: /d/pay-payment?var-payment_id=$${__value.raw}",
        "tracesToLogsV2:",
        "tracesToMetrics:",
        "serviceMap:",
        "derivedFields:",
        "correlations:",
        "user: paygauge_viewer",
    ] {
        assert!(text.contains(needed), "{needed}");
    }
    let uids: BTreeSet<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("uid: ")).collect();
    let compose = read("deploy/compose.yaml");
    for mount in ["../grafana/provisioning:", "../grafana/dashboards:/etc/paygauge/dashboards:", "../docs/runbooks:"] {
        assert!(compose.contains(mount), "the compose file mounts {mount}");
    }
    let mut wrong = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        let target = ["datasourceUid: ", "- targetUID: "].iter().find_map(|key| line.strip_prefix(key));
        if target.is_some_and(|uid| !uids.contains(uid)) {
            wrong.push(format!("line {number}: {line}"));
        }
        // Grafana replaces `$NAME` by the environment; everything else is written with two.
        let mut single = line.replace("$$", "");
        for name in ["PROMETHEUS_URL", "TEMPO_URL", "LOKI_URL", "OBSERVABILITY_DATABASE", "OBSERVABILITY_PASSWORD"] {
            single = single.replace(&format!("${name}"), "");
            assert!(compose.contains(&format!("      {name}: ")), "the compose file sets {name}");
        }
        if single.contains('$') && !line.starts_with('#') {
            wrong.push(format!("line {number}: one $: {line}"));
        }
    }
    none(wrong, "provisioning");
    let boards = read("grafana/provisioning/dashboards/paygauge.yaml");
    assert!(boards.contains("allowUiUpdates: false") && boards.contains("disableDeletion: true"));
    assert!(root().join("grafana/dashboards").is_dir());
}
