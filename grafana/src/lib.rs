//! The source of paygauge's Grafana dashboards: one file for each, made of rows of panels.
//!
//! A panel is a few builder calls (see any of the files); what all panels share is in [`panel`], what all dashboards
//! share in [`dashboard`]. `cargo run -p paygauge-dashboards` writes the files that Grafana reads.

pub mod dashboard;
pub mod panel;
pub mod query;

mod affected;
mod db;
mod events;
mod funnel;
mod overview;
mod payment;
mod pg;
mod runtime;
mod slo;
mod stock;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use self::dashboard::Dashboard;

/// Every dashboard.
#[must_use]
pub fn all() -> Vec<Dashboard> {
    vec![
        overview::dashboard(),
        funnel::dashboard(),
        pg::dashboard(),
        stock::dashboard(),
        db::dashboard(),
        events::dashboard(),
        runtime::dashboard(),
        slo::dashboard(),
        payment::dashboard(),
        affected::dashboard(),
    ]
}

/// What belongs into which file, by its path below `grafana/`.
#[must_use]
pub fn files() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut expected = Map::new();
    for dashboard in all() {
        let (json, expectations) = dashboard.finish();
        files.insert(format!("dashboards/{}.json", dashboard.uid), format!("{json:#}\n"));
        expected.insert(dashboard.uid.to_owned(), expectations);
    }
    files.insert("expectations.json".to_owned(), format!("{:#}\n", Value::Object(expected)));
    files
}
