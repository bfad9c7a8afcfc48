//! The dashboards as they are committed, and what their source promises of each panel.

use serde_json::Value;

/// One dashboard.
pub struct Dashboard {
    pub uid: String,
    pub panels: Vec<Panel>,
    /// The variables, with what "All" stands for.
    pub variables: Vec<(String, String)>,
}

/// One panel that asks something.
pub struct Panel {
    pub id: u64,
    pub title: String,
    /// `data`, `zero` or `drill`.
    pub class: String,
    pub targets: Vec<Target>,
}

/// One question.
pub struct Target {
    pub name: String,
    pub source: Source,
    pub text: String,
    pub is_instant: bool,
    pub has_exemplars: bool,
}

/// Whom it is asked of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Prometheus,
    Sql,
    /// Tempo and Loki, which do not run here.
    Elsewhere,
}

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/grafana");

/// All of them.
pub fn all() -> Vec<Dashboard> {
    let promised = read(&format!("{DIRECTORY}/expectations.json"));
    let files = std::fs::read_dir(format!("{DIRECTORY}/dashboards")).expect("the dashboards");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    let read = paths.iter().map(|path| dashboard(&read(&path.to_string_lossy()), &promised));
    let all: Vec<_> = read.collect();
    assert!(!all.is_empty(), "no dashboards");
    all
}

fn read(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))).expect(path)
}

fn dashboard(json: &Value, promised: &Value) -> Dashboard {
    let uid = text(&json["uid"]);
    let panels = flat(&json["panels"]).into_iter().filter(|panel| panel["targets"].is_array());
    let panels = panels.map(|panel| {
        let id = panel["id"].as_u64().expect("a panel's id");
        let class = text(&promised[&uid][id.to_string()]["class"]);
        assert!(matches!(class.as_str(), "data" | "zero" | "drill"), "{uid} {id}: promises {class:?}");
        let targets = panel["targets"].as_array().expect("targets").iter();
        Panel { id, title: text(&panel["title"]), class, targets: targets.map(|it| target(it, panel)).collect() }
    });
    let panels = panels.collect();
    let variables = json["templating"]["list"].as_array().expect("variables").iter().filter_map(|variable| {
        let all = variable["allValue"].as_str().unwrap_or(".+");
        (variable["type"] != "datasource").then(|| (text(&variable["name"]), all.to_owned()))
    });
    let variables = variables.collect();
    Dashboard { uid, panels, variables }
}

/// Panels with those inside of folded rows.
fn flat(panels: &Value) -> Vec<&Value> {
    let panels = panels.as_array().map_or(&[][..], Vec::as_slice);
    panels.iter().flat_map(|panel| std::iter::once(panel).chain(flat(&panel["panels"]))).collect()
}

fn target(target: &Value, panel: &Value) -> Target {
    let kind = [&target["datasource"]["type"], &panel["datasource"]["type"]].into_iter().find_map(Value::as_str);
    let source = match kind {
        Some("prometheus") => Source::Prometheus,
        Some(name) if name.contains("postgres") => Source::Sql,
        Some(_) => Source::Elsewhere,
        None => panic!("a target without a data source: {target}"),
    };
    let asked = ["expr", "rawSql", "query"].iter().find_map(|name| target[*name].as_str()).unwrap_or_default();
    Target {
        name: text(&target["refId"]),
        source,
        text: asked.to_owned(),
        is_instant: target["instant"] == true,
        has_exemplars: target["exemplar"] == true,
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
