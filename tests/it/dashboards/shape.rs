//! The shape of the JSON, by the schemas that Grafana publishes.
//!
//! They are not part of the repository: `GRAFANA_JSONSCHEMA_DIR` names the directory that has them.

use std::collections::BTreeSet;
use std::path::Path;

use jsonschema::Validator;
use serde_json::{Value, json};

use super::{Board, boards, list, none, word};

/// A panel's type, and the file of its schema.
const PANELS: &[(&str, &str)] = &[
    ("stat", "stat"),
    ("timeseries", "timeseries"),
    ("heatmap", "heatmap"),
    ("table", "table"),
    ("state-timeline", "statetimeline"),
    ("bargauge", "bargauge"),
    ("logs", "logs"),
    ("text", "text"),
];

fn schema(directory: &Path, file: &str, definition: &str) -> Validator {
    let path = directory.join(format!("{file}.jsonschema.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut schema: Value = serde_json::from_str(&text).expect("JSON");
    let known = schema["definitions"].get(definition).is_some();
    assert!(known, "{file} defines {definition}");
    schema["$ref"] = json!(format!("#/definitions/{definition}"));
    jsonschema::validator_for(&schema).expect("a schema")
}

fn complaints(place: &str, validator: &Validator, value: &Value) -> Vec<String> {
    validator.iter_errors(value).map(|error| format!("{place}: {}: {error}", error.instance_path())).collect()
}

/// The published schema takes the values of overrides and the options of their matchers for objects, while Grafana
/// itself writes texts and numbers there; so those two are looked at by `lint` instead.
fn without_overrides(panel: &Value) -> Value {
    let mut panel = panel.clone();
    if let Some(config) = panel.get_mut("fieldConfig") {
        config["overrides"] = json!([]);
    }
    panel
}

fn wrong_shapes(directory: &Path, board: &Board) -> Vec<String> {
    let whole = schema(directory, "dashboard", "Dashboard");
    let (panel_shape, row_shape) =
        (schema(directory, "dashboard", "Panel"), schema(directory, "dashboard", "RowPanel"));
    let variable_shape = schema(directory, "dashboard", "VariableModel");
    let mut json = board.json.clone();
    let panels = json["panels"].take();
    json["panels"] = json!([]);
    let mut wrong = complaints(&board.uid, &whole, &json);
    for variable in board.variables() {
        wrong.extend(complaints(&format!("{}: {}", board.uid, word(variable, "/name")), &variable_shape, variable));
    }
    for panel in panels.as_array().into_iter().flatten() {
        let (place, kind) = (board.place(panel), word(panel, "/type"));
        if kind == "row" {
            wrong.extend(complaints(&place, &row_shape, panel));
            continue;
        }
        wrong.extend(complaints(&place, &panel_shape, &without_overrides(panel)));
        let Some((_, file)) = PANELS.iter().find(|(name, _)| *name == kind) else {
            wrong.push(format!("{place}: no schema for {kind}"));
            continue;
        };
        wrong.extend(complaints(&place, &schema(directory, file, "Options"), &panel["options"]));
        if !matches!(kind, "stat" | "bargauge" | "logs" | "text") {
            let custom = &panel["fieldConfig"]["defaults"]["custom"];
            wrong.extend(complaints(&place, &schema(directory, file, "FieldConfig"), custom));
        }
        for target in list(panel, "/targets") {
            let (file, definition) = match word(target, "/datasource/type") {
                "prometheus" => ("prometheus", "Dataquery"),
                "tempo" => ("tempo", "Dataquery"),
                "loki" => ("loki", "dataquery"),
                _ => continue,
            };
            wrong.extend(complaints(&place, &schema(directory, file, definition), target));
        }
    }
    wrong
}

#[test]
fn dashboards_have_the_shape_that_grafana_publishes() {
    let Some(directory) = std::env::var_os("GRAFANA_JSONSCHEMA_DIR") else {
        eprintln!("not checked against Grafana's schemas: GRAFANA_JSONSCHEMA_DIR is not set");
        return;
    };
    let directory = Path::new(&directory);
    let mut wrong = Vec::new();
    for board in boards() {
        wrong.extend(wrong_shapes(directory, &board));
    }
    none(wrong, "against Grafana's schemas");

    let units = std::fs::read_to_string(directory.join("units.jsonschema.json")).expect("units");
    let mut used = BTreeSet::new();
    for board in boards() {
        used.extend(board.panels().map(|panel| word(panel, "/fieldConfig/defaults/unit").to_owned()));
    }
    let unknown = used.into_iter().filter(|unit| !units.contains(&format!("\"{unit}\"")));
    none(unknown.collect(), "units that Grafana does not know");
}

#[test]
fn a_key_that_grafana_does_not_know_is_found() {
    let Some(directory) = std::env::var_os("GRAFANA_JSONSCHEMA_DIR") else { return };
    let mut board = boards().into_iter().next().expect("a dashboard");
    let spoil = |path: &str, board: &mut Board| {
        *board.json.pointer_mut(path).expect("a place") = json!({ "misspelt": true });
    };
    assert!(wrong_shapes(Path::new(&directory), &board).is_empty());
    spoil("/panels/1/gridPos", &mut board);
    spoil("/panels/1/options", &mut board);
    spoil("/annotations", &mut board);
    assert!(wrong_shapes(Path::new(&directory), &board).len() >= 3);
}

#[test]
fn a_query_of_the_database_is_whole() {
    let mut wrong = Vec::new();
    for board in boards() {
        for panel in board.panels() {
            let targets = list(panel, "/targets").iter();
            let queries = targets.filter(|target| target.get("rawSql").is_some());
            for target in queries {
                let whole = target["rawQuery"] == true && target["format"] == "table" && target["refId"].is_string();
                let known = ["datasource", "editorMode", "format", "rawQuery", "rawSql", "refId"];
                let only = target.as_object().is_some_and(|keys| keys.keys().all(|key| known.contains(&key.as_str())));
                (!(whole && only)).then(|| wrong.push(board.place(panel)));
            }
        }
    }
    none(wrong, "queries of the database");
}
