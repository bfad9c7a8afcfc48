//! The unit tests of the rules notice every small break of a rule.
//!
//! A break is judged by promtool with the rules and the cases that concern it alone: other alerts of the file cannot
//! make a case fail, and a case cannot pass because another one fails. There are a thousand breaks, so each case is a
//! file of its own with the series that its rules read; the first case that fails ends the judgement of a break, and
//! is asked first about the next one.

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

/// Where promtool writes: memory, if the machine offers it as a directory. Gone with the value, also when a rule fails as
/// it is.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let memory = PathBuf::from("/dev/shm");
        let home = if memory.is_dir() { memory } else { std::env::temp_dir() };
        Self(home.join(format!("paygauge-alerts-{}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing is there if no rule was tried.
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// One rule, and what belongs to it.
struct Subject {
    rule: Rule,
    /// The rule file with only what concerns the rule.
    rules: Value,
    /// Where the rule is in it: group and rule.
    at: (usize, usize),
    /// The cases that concern it, each as a test file, by name.
    cases: BTreeMap<String, Value>,
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
    let (group, at) = rule.at;
    let groups = rules["groups"].as_array_mut().expect("groups");
    let is_concerned =
        |one: &Value| one["alert"].as_str().or(one["record"].as_str()).is_some_and(|name| names.contains(name));
    let before = groups[group]["rules"].as_array().expect("rules").iter().take(at).filter(|one| is_concerned(one));
    let at = (group, before.count());
    for group in groups.iter_mut() {
        group["rules"].as_array_mut().expect("rules").retain(&is_concerned);
    }
    let read = rules.to_string();
    let mut cases = BTreeMap::new();
    for (name, mut test) in files::tests_of(&rule.file) {
        let all_cases = test["tests"].take();
        test["rule_files"] = json!(["rules.yml"]);
        for (number, case) in all_cases.as_array().expect("tests").iter().enumerate() {
            if let Some(case) = concerning(case.clone(), &names, &read) {
                test["tests"] = json!([case]);
                cases.insert(format!("{name}-{number:02}"), test.clone());
            }
        }
    }
    Subject { rule: rule.clone(), rules, at, cases }
}

/// The part of a case that concerns rules of these names, with the series that occur in what they read.
fn concerning(mut case: Value, names: &BTreeSet<String>, read: &str) -> Option<Value> {
    keep(&mut case, "alert_rule_test", |claim| claim["alertname"].as_str().is_some_and(|name| names.contains(name)));
    keep(&mut case, "promql_expr_test", |claim| {
        let expr = claim["expr"].as_str().expect("an expression");
        names.iter().any(|name| expr.contains(name.as_str()))
    });
    let claims = ["alert_rule_test", "promql_expr_test"].map(|kind| case[kind].to_string()).concat();
    if claims == "nullnull" {
        return None;
    }
    let is_read = |series: &Value| {
        let name = series["series"].as_str().expect("a series").split('{').next().unwrap_or_default();
        read.contains(name) || claims.contains(name)
    };
    if let Some(series) = case["input_series"].as_array_mut() {
        series.retain(is_read);
    }
    Some(case)
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
    let (group, at) = subject.at;
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

/// Runs cases over a rule file; what promtool said if one fails.
fn failure(promtool: &Path, directory: &Path, cases: &[PathBuf]) -> Option<String> {
    let mut command = Command::new(promtool);
    // Hundreds of short runs: what one leaves behind in its memory is not worth clearing up.
    command.args(["test", "rules"]).args(cases).env("TMPDIR", directory).env("GOGC", "400").env("GOMAXPROCS", "1");
    let ran = command.output().expect("promtool runs");
    (!ran.status.success()).then(|| String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned())
}

/// Breaks one rule in every way; returns how many ways there are, and the names of those that nobody noticed.
fn unnoticed(promtool: &Path, directory: &Path, subject: &Subject) -> (usize, Vec<String>) {
    std::fs::create_dir_all(directory).expect("a directory");
    let mut cases = Vec::new();
    for (name, case) in &subject.cases {
        let path = directory.join(format!("{name}.yml"));
        std::fs::write(&path, case.to_string()).expect("a test file");
        cases.push(path);
    }
    let write = |rules: &Value| std::fs::write(directory.join("rules.yml"), rules.to_string()).expect("a rule file");
    // As it is, and printed by the library that breaks it: neither may change anything.
    let mut printed = subject.rules.clone();
    let (group, at) = subject.at;
    printed["groups"][group]["rules"][at]["expr"] = json!(expression::parse(&subject.rule.expr).to_string());
    write(&printed);
    if let Some(said) = failure(promtool, directory, &cases) {
        panic!("{} fails as it is:\n{said}", subject.rule.name);
    }
    let breaks = breaks(subject);
    let mut survivors = Vec::new();
    for broken in &breaks {
        write(&broken.rules);
        let noticed = cases.iter().enumerate().find_map(|(at, case)| {
            let said = failure(promtool, directory, std::slice::from_ref(case))?;
            assert!(!said.contains("could not parse"), "{} is not PromQL:\n{said}", broken.name);
            Some(at)
        });
        match noticed {
            Some(at) => cases[..=at].rotate_right(1),
            None => survivors.push(broken.name.clone()),
        }
    }
    (breaks.len(), survivors)
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
    let home = Scratch::new();
    let (next, found) = (AtomicUsize::new(0), Mutex::new((0, Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(subject) = subjects.get(at) else { return };
                    let (tried, mut survivors) = unnoticed(&promtool, &home.0.join(at.to_string()), subject);
                    let mut found = found.lock().expect("no thread panicked");
                    found.0 += tried;
                    found.1.append(&mut survivors);
                }
            });
        }
    });
    let (tried, mut survivors) = found.into_inner().expect("no thread panicked");
    let survived = survivors.len();
    survivors.retain(|name| !EQUIVALENT.iter().any(|(known, _)| name.starts_with(known)));
    println!("{} of {tried} breaks noticed, {} change nothing", tried - survived, survived - survivors.len());
    assert!(survivors.is_empty(), "{} breaks that no test notices:\n  {}", survivors.len(), survivors.join("\n  "));
}
