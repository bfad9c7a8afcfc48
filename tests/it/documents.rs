//! What the documents list is what the program has: error codes, metrics and settings, both ways.

use std::collections::BTreeSet;
use std::path::Path;

use paygauge::domain::audit::AuditRule;
use paygauge::http::problem::Code;
use paygauge::telemetry::catalogue;

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// The first column of a document's tables, without the backticks.
fn first_column(document: &str) -> BTreeSet<String> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next()).map(str::to_owned).collect()
}

#[test]
fn the_errors_page_lists_every_code_with_its_status_and_no_other() {
    // Rows of the form: | 400 | `bad_json` | …
    let page = text("docs/errors.md");
    let rows = page.lines().filter(|line| line.starts_with("| 4") || line.starts_with("| 5"));
    let listed: BTreeSet<(String, String)> = rows
        .map(|row| {
            let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).skip(1);
            (cells.next().expect("a status"), cells.next().expect("a code"))
        })
        .collect();
    let known: BTreeSet<(String, String)> =
        Code::ALL.iter().map(|code| (code.status().as_u16().to_string(), code.as_str().to_owned())).collect();
    assert_eq!(listed.symmetric_difference(&known).collect::<Vec<_>>(), Vec::<&(String, String)>::new());
}

#[test]
fn the_operations_page_lists_every_metric_and_no_other() {
    let listed: BTreeSet<String> =
        first_column(&text("docs/operations.md")).into_iter().filter(|name| is_metric(name)).collect();
    let known: BTreeSet<String> = catalogue::all().iter().map(|metric| metric.name.to_owned()).collect();
    assert_eq!(listed.symmetric_difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn the_operations_page_lists_every_rule_of_the_audit_with_its_severity_and_no_other() {
    // Rows of the form: | `order_total` | violation | …
    let page = text("docs/operations.md");
    let rows = page.lines().filter(|line| line.contains("` | violation |") || line.contains("` | stuck |"));
    let listed: BTreeSet<(String, String)> = rows
        .map(|row| {
            let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).skip(1);
            (cells.next().expect("a rule"), cells.next().expect("a severity"))
        })
        .collect();
    let known: BTreeSet<(String, String)> =
        AuditRule::ALL.iter().map(|rule| (rule.to_string(), rule.severity().to_string())).collect();
    assert_eq!(listed.symmetric_difference(&known).collect::<Vec<_>>(), Vec::<&(String, String)>::new());
}

fn is_metric(name: &str) -> bool {
    // Labels stand in tables too; of the prefixes only `http_` begins both.
    let is_label = ["http_request_method", "http_response_status_code", "http_route"].contains(&name);
    !is_label && ["payments_", "http_", "db_client_", "process_"].iter().any(|prefix| name.starts_with(prefix))
}

/// The names of all tests: functions right below a test's attribute.
fn tests_below(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            tests_below(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&entry).expect("a source");
            let lines: Vec<&str> = source.lines().map(str::trim).collect();
            for pair in lines.windows(2).filter(|pair| pair[0].starts_with("#[") && pair[0].contains("test")) {
                let name = pair[1].trim_start_matches("async ").strip_prefix("fn ");
                found.extend(name.and_then(|rest| rest.split('(').next()).map(str::to_owned));
            }
        }
    }
}

#[test]
fn every_test_that_the_page_on_concurrency_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = BTreeSet::new();
    tests_below(&root.join("src"), &mut known);
    tests_below(&root.join("tests"), &mut known);
    let page = text("docs/concurrency.md");
    // Names of tests are sentences; nothing else in backticks has that many words and no other sign.
    let is_test = |word: &&str| {
        word.matches('_').count() >= 4
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let metrics: BTreeSet<&str> = catalogue::all().iter().map(|metric| metric.name).collect();
    let named: BTreeSet<&str> =
        page.split('`').skip(1).step_by(2).map(|word| word.trim_start_matches("tidy::")).filter(is_test).collect();
    // `cancellations_one_open_per_payment` and its like are constraints.
    let rules = std::fs::read_to_string(root.join("migrations/2026-11-21-000001_core/up.sql")).expect("the schema");
    let missing: Vec<_> = named
        .iter()
        .filter(|name| !known.contains(**name) && !metrics.contains(**name) && !rules.contains(*name))
        .collect();
    assert!(named.len() > 30, "the page names its tests: {named:?}");
    assert!(missing.is_empty(), "no such test: {missing:?}");
}

#[test]
fn the_readme_lists_every_setting_and_no_other() {
    let is_setting = |name: &String| {
        name.starts_with("PAYGAUGE_")
            || name.starts_with("TOSS_")
            || matches!(
                name.as_str(),
                "DATABASE_URL" | "REDIS_URL" | "OTEL_EXPORTER_OTLP_ENDPOINT" | "OTEL_EXPORTER_OTLP_PROTOCOL"
            )
    };
    let listed: BTreeSet<String> = first_column(&text("README.md")).into_iter().filter(is_setting).collect();
    let config = text("src/config.rs");
    let program = config.split("#[cfg(test)]").next().expect("the program").to_owned() + &text("src/config/reader.rs");
    let read: BTreeSet<String> = program
        .split('"')
        .map(str::to_owned)
        .filter(|word| is_setting(word) && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        .collect();
    assert_eq!(listed.symmetric_difference(&read).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// The pages that are read at three in the morning.
fn runbooks() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
    let pages = std::fs::read_dir(directory).expect("the runbooks").map(|entry| entry.expect("an entry").path());
    let page = |path: std::path::PathBuf| (path.display().to_string(), std::fs::read_to_string(path).expect("a page"));
    pages.map(page).collect()
}

#[test]
fn runbooks_name_settings_that_the_readme_lists() {
    let listed = first_column(&text("README.md"));
    let is_of_a_name = |letter: char| letter.is_ascii_uppercase() || letter == '_';
    let mut named = 0;
    for (page, text) in runbooks() {
        for setting in text.split(|letter| !is_of_a_name(letter)).filter(|word| word.starts_with("PAYGAUGE_")) {
            named += 1;
            assert!(listed.contains(setting), "{page}: no setting {setting}");
        }
    }
    assert!(named > 0, "no runbook names a setting");
}

#[test]
fn runbooks_search_for_spans_that_the_operations_page_lists() {
    let operations = text("docs/operations.md");
    let (_, section) = operations.split_once("\n## Traces\n").expect("the section on traces");
    let spans: String = section.lines().filter(|line| line.starts_with("| `")).collect();
    let mut named = 0;
    for (page, text) in runbooks() {
        for search in text.split("```traceql").skip(1).filter_map(|rest| rest.split("```").next()) {
            let names = search.split("&& name ").skip(1).filter_map(|rest| rest.split('"').nth(1));
            for name in names.flat_map(|pattern| pattern.split('|')) {
                named += 1;
                let name = name.trim_matches(['.', '*', ' ']);
                assert!(spans.contains(name), "{page}: no span {name:?}");
            }
        }
    }
    assert!(named >= 6, "{named} searches for spans by name");
}
