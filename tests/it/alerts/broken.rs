//! The unit tests of the rules notice every small break of a rule.
//!
//! A break is judged by promtool with the rules and the cases that concern it alone: other alerts of the file cannot
//! make a case fail, and a case cannot pass because another one fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::files::{self, Rule};
use super::{expression, mutants};
use crate::support::programs;

/// Breaks that change nothing, and why.
const EQUIVALENT: [(&str, &str); 2] = [
    ("Watchdog: 1 doubled", "it fires whatever the value is"),
    ("Watchdog: 1 halved", "it fires whatever the value is"),
];

/// How many promtools run at a time.
const AT_A_TIME: usize = 2;

/// One rule, and what belongs to it.
struct Subject {
    rule: Rule,
    /// The rule file with only what concerns the rule.
    rules: Value,
    /// The test files with only the cases that concern it.
    tests: BTreeMap<String, Value>,
}

/// A break of a rule: what was done, and the rule file with it.
struct Break {
    name: String,
    rules: Value,
}

/// The rules of a file that concern a rule: the alerts of its name, or all recorded metrics that it is made of or that
/// are made of it.
fn concerned(rule: &Rule, all: &[Rule]) -> BTreeSet<String> {
    let mut names = BTreeSet::from([rule.name.clone()]);
    if rule.is_alert {
        return names;
    }
    loop {
        let linked = |other: &&Rule| {
            let uses = |expr: &str, name: &str| expr.contains(name);
            names.contains(&other.name)
                || names.iter().any(|name| uses(&other.expr, name))
                || all.iter().any(|one| names.contains(&one.name) && uses(&one.expr, &other.name))
        };
        let more: BTreeSet<String> =
            all.iter().filter(|other| other.file == rule.file).filter(linked).map(|other| other.name.clone()).collect();
        if more == names {
            return names;
        }
        names = more;
    }
}

fn subject(rule: &Rule, all: &[Rule]) -> Subject {
    let names = concerned(rule, all);
    let mut rules = files::yaml(&files::root(&format!("prometheus/rules/{}.yml", rule.file)));
    // Only the rules of these names; the others become harmless, so that positions stay.
    for group in rules["groups"].as_array_mut().expect("groups") {
        for one in group["rules"].as_array_mut().expect("rules") {
            let name = one["alert"].as_str().or(one["record"].as_str()).expect("a name").to_owned();
            if !names.contains(&name) {
                *one = json!({"record": format!("unconcerned:{}", name.replace(':', "_")), "expr": "1"});
            }
        }
    }
    let mut tests = files::tests_of(&rule.file);
    for test in tests.values_mut() {
        test["rule_files"] = json!(["rules.yml"]);
        let cases = test["tests"].as_array_mut().expect("tests");
        for case in cases.iter_mut() {
            keep(case, "alert_rule_test", |claim| claim["alertname"].as_str().is_some_and(|name| names.contains(name)));
            keep(case, "promql_expr_test", |claim| {
                let expr = claim["expr"].as_str().expect("an expression");
                names.iter().any(|name| expr.contains(name.as_str()))
            });
        }
        cases.retain(|case| ["alert_rule_test", "promql_expr_test"].iter().any(|kind| !case[*kind].is_null()));
    }
    tests.retain(|_, test| test["tests"].as_array().is_some_and(|cases| !cases.is_empty()));
    Subject { rule: rule.clone(), rules, tests }
}

fn keep(case: &mut Value, kind: &str, wanted: impl Fn(&Value) -> bool) {
    let Some(claims) = case[kind].as_array_mut() else { return };
    claims.retain(wanted);
    if claims.is_empty() {
        case.as_object_mut().expect("a case").remove(kind);
    }
}

fn breaks(subject: &Subject) -> Vec<Break> {
    let rule = &subject.rule;
    let (group, at) = rule.at;
    let slo = ["slo", "scope", "reason"].iter().find_map(|label| rule.labels.get(*label));
    let title = slo.map_or(rule.name.clone(), |value| format!("{} ({value})", rule.name));
    let changed = |what: &str, change: &dyn Fn(&mut Value)| {
        let mut rules = subject.rules.clone();
        change(&mut rules["groups"][group]["rules"][at]);
        Break { name: format!("{title}: {what}"), rules }
    };
    let mut all: Vec<Break> = mutants::all(&expression::parse(&rule.expr))
        .into_iter()
        .map(|mutant| {
            let text = mutant.expr.to_string();
            changed(&format!("{}\n    {text}", mutant.what), &|rule| rule["expr"] = json!(text))
        })
        .collect();
    if rule.hold.is_some() {
        all.push(changed("without its `for`", &|rule| drop(rule.as_object_mut().expect("a rule").remove("for"))));
    }
    all
}

/// Runs the subject's cases over a rule file; what promtool said if one fails.
fn failure(promtool: &Path, directory: &Path, rules: &Value) -> Option<String> {
    std::fs::write(directory.join("rules.yml"), rules.to_string()).expect("a rule file");
    let tests = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut tests: Vec<PathBuf> = tests.filter(|path| path.to_string_lossy().ends_with("_test.yml")).collect();
    tests.sort();
    let mut command = Command::new(promtool);
    command.args(["test", "rules"]).args(tests).env("TMPDIR", directory);
    let ran = command.output().expect("promtool runs");
    (!ran.status.success()).then(|| String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned())
}

/// Breaks one rule in every way; returns how many ways there are, and the names of those that nobody noticed.
fn unnoticed(promtool: &Path, directory: &Path, subject: &Subject) -> (usize, Vec<String>) {
    std::fs::create_dir_all(directory).expect("a directory");
    for (name, test) in &subject.tests {
        std::fs::write(directory.join(format!("{name}.yml")), test.to_string()).expect("a test file");
    }
    // As it is, and printed by the library that breaks it: neither may change anything.
    let mut printed = subject.rules.clone();
    let (group, at) = subject.rule.at;
    printed["groups"][group]["rules"][at]["expr"] = json!(expression::parse(&subject.rule.expr).to_string());
    if let Some(said) = failure(promtool, directory, &printed) {
        panic!("{} fails as it is:\n{said}", subject.rule.name);
    }
    let breaks = breaks(subject);
    let survives = |broken: &&Break| match failure(promtool, directory, &broken.rules) {
        None => true,
        Some(said) => {
            assert!(!said.contains("could not parse"), "{} is not PromQL:\n{said}", broken.name);
            false
        }
    };
    (breaks.len(), breaks.iter().filter(survives).map(|broken| broken.name.clone()).collect())
}

#[test]
#[ignore = "needs Prometheus and Alertmanager: .ci/watch runs it"]
fn every_break_of_a_rule_makes_a_test_fail() {
    let Some(promtool) = programs::wanted("promtool") else { return };
    let only = std::env::var("PAYGAUGE_ALERTS_ONLY").ok();
    let all = files::rules();
    let subjects: Vec<Subject> = all
        .iter()
        .filter(|rule| only.as_ref().is_none_or(|only| rule.file == *only || rule.name == *only))
        .map(|rule| subject(rule, &all))
        .collect();
    let home = std::env::temp_dir().join(format!("paygauge-alerts-{}", std::process::id()));
    let (next, found) = (AtomicUsize::new(0), Mutex::new((0, Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(subject) = subjects.get(at) else { return };
                    let (tried, mut survivors) = unnoticed(&promtool, &home.join(at.to_string()), subject);
                    let mut found = found.lock().expect("no thread panicked");
                    found.0 += tried;
                    found.1.append(&mut survivors);
                }
            });
        }
    });
    std::fs::remove_dir_all(&home).expect("the directory is ours");
    let (tried, mut survivors) = found.into_inner().expect("no thread panicked");
    let survived = survivors.len();
    survivors.retain(|name| !EQUIVALENT.iter().any(|(known, _)| name.starts_with(known)));
    println!("{} of {tried} breaks noticed, {} change nothing", tried - survived, survived - survivors.len());
    assert!(survivors.is_empty(), "{} breaks that no test notices:\n  {}", survivors.len(), survivors.join("\n  "));
}
