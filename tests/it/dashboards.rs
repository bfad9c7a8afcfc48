//! What Grafana shows, as claims that need no Grafana: the committed JSON is what its source writes and has the shape
//! that Grafana publishes; every query parses, names only what exists and runs; every link leads somewhere.

use std::path::{Path, PathBuf};

use serde_json::Value;

mod books;
mod contract;
mod links;
mod lint;
mod queries;
mod shape;

const NOTHING: &[Value] = &[];

/// A dashboard as committed.
pub struct Board {
    pub uid: String,
    pub text: String,
    pub json: Value,
}

impl Board {
    pub fn panels(&self) -> impl Iterator<Item = &Value> {
        list(&self.json, "/panels").iter().filter(|panel| word(panel, "/type") != "row")
    }

    pub fn variables(&self) -> &[Value] {
        list(&self.json, "/templating/list")
    }

    pub fn panel(&self, title: &str) -> Option<&Value> {
        self.panels().find(|panel| word(panel, "/title") == title)
    }

    /// `uid: title of the panel`, for messages.
    pub fn place(&self, panel: &Value) -> String {
        format!("{}: {}", self.uid, word(panel, "/title"))
    }
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text of every file of a directory, by name; nothing if it is not there.
pub fn texts(directory: &str, extension: &str) -> Vec<(String, String)> {
    let Ok(entries) = std::fs::read_dir(root().join(directory)) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let wanted = paths.filter(|path| path.extension().is_some_and(|of| of == extension));
    let mut found: Vec<_> = wanted
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("a text"))
        })
        .collect();
    found.sort();
    found
}

pub fn boards() -> Vec<Board> {
    let found = texts("grafana/dashboards", "json").into_iter();
    found.map(|(uid, text)| Board { json: serde_json::from_str(&text).expect("JSON"), uid, text }).collect()
}

pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(NOTHING, Vec::as_slice)
}

pub fn word<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Every text within a value.
pub fn words<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| words(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| words(field, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The names of the variables in a text: `$name`, `${name}`, `${name:format}`.
pub fn variables_in(text: &str) -> Vec<String> {
    let name_of = |rest: &str| -> String {
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    text.split('$').skip(1).map(name_of).filter(|name| !name.is_empty()).collect()
}

#[track_caller]
pub fn none(mut wrong: Vec<String>, what: &str) {
    wrong.sort();
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

#[test]
fn the_committed_files_are_what_the_source_writes() {
    let written = paygauge_dashboards::files();
    for (path, text) in &written {
        let committed: Value = serde_json::from_str(&read(&format!("grafana/{path}"))).expect("JSON");
        let wanted: Value = serde_json::from_str(text).expect("JSON");
        assert!(committed == wanted, "grafana/{path} is old: cargo run -p paygauge-dashboards");
    }
    assert_eq!(boards().len() + 1, written.len(), "no file is left over");
}

#[test]
fn every_panel_says_what_a_run_must_find() {
    let expectations: Value = serde_json::from_str(&read("grafana/expectations.json")).expect("JSON");
    let mut wrong = Vec::new();
    for board in boards() {
        let of = expectations.get(&board.uid).and_then(Value::as_object).expect("each dashboard");
        assert_eq!(of.len(), board.panels().count(), "{}: one for each panel", board.uid);
        for panel in board.panels() {
            let expected = of.get(&panel["id"].to_string()).unwrap_or(&Value::Null);
            let known = matches!(word(expected, "/class"), "data" | "zero" | "drill");
            if !known || word(expected, "/why").len() < 10 {
                wrong.push(board.place(panel));
            }
        }
    }
    none(wrong, "panels without an expectation and its reason");
}
