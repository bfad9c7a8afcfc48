//! The rule files and their unit tests, as they are in the tree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// One rule of a rule file.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The file's stem, such as `burn`.
    pub file: String,
    /// The rule's alert or recorded metric.
    pub name: String,
    /// Whether it is an alert.
    pub is_alert: bool,
    /// Its PromQL.
    pub expr: String,
    /// How long the expression must hold, if that is said.
    pub hold: Option<String>,
    /// Its static labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Where it is in its file: group and rule.
    pub at: (usize, usize),
}

/// The directory of a thing of `prometheus/`, or another path of the repository.
pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A YAML file as a value.
pub fn yaml(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every YAML file of a directory, by its stem.
pub fn all_yaml(directory: &str) -> BTreeMap<String, Value> {
    let entries = std::fs::read_dir(root(directory)).expect("a directory").map(|entry| entry.expect("an entry").path());
    let files = entries.filter(|path| path.extension().is_some_and(|extension| extension == "yml"));
    files.map(|path| (path.file_stem().expect("a stem").to_string_lossy().into_owned(), yaml(&path))).collect()
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries.map(|(key, value)| (key.clone(), value.as_str().expect("a text").to_owned())).collect()
}

/// Every rule of every file.
pub fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for (file, content) in all_yaml("prometheus/rules") {
        for (g, group) in content["groups"].as_array().expect("groups").iter().enumerate() {
            for (r, rule) in group["rules"].as_array().expect("rules").iter().enumerate() {
                let name = rule["alert"].as_str().or(rule["record"].as_str()).expect("an alert or a record");
                rules.push(Rule {
                    file: file.clone(),
                    name: name.to_owned(),
                    is_alert: rule["alert"].is_string(),
                    expr: rule["expr"].as_str().expect("an expression").to_owned(),
                    hold: rule["for"].as_str().map(str::to_owned),
                    labels: texts(&rule["labels"]),
                    annotations: texts(&rule["annotations"]),
                    at: (g, r),
                });
            }
        }
    }
    rules
}

/// Every test file that loads a rule file, by the test's stem.
pub fn tests_of(rule_file: &str) -> BTreeMap<String, Value> {
    let wanted = format!("../rules/{rule_file}.yml");
    let mut tests = all_yaml("prometheus/tests");
    tests.retain(|_, test| test["rule_files"].as_array().expect("rule files").iter().any(|file| file == &wanted));
    tests
}

/// The expectations on alerts of a test file: alert, and whether it is to fire.
pub fn expectations(test: &Value) -> Vec<(String, bool)> {
    let cases = test["tests"].as_array().expect("tests").iter();
    cases
        .flat_map(|case| case["alert_rule_test"].as_array().into_iter().flatten())
        .map(|claim| {
            let fires = claim["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
            (claim["alertname"].as_str().expect("an alert").to_owned(), fires)
        })
        .collect()
}
