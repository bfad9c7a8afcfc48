//! A dashboard: rows of panels from left to right, the variables that they use, annotations and links.

use serde_json::{Value, json};

use crate::panel::{Panel, scoped};

const COLUMNS: u32 = 24;

enum Item {
    Row(&'static str),
    Panel(Box<Panel>),
}

/// A dashboard under construction.
pub struct Dashboard {
    /// What other dashboards and alerts call it.
    pub uid: &'static str,
    title: &'static str,
    question: &'static str,
    alert: &'static str,
    items: Vec<Item>,
}

impl Dashboard {
    /// `question` is what it answers, `alert` the runbook that its header leads to.
    #[must_use]
    pub const fn new(uid: &'static str, title: &'static str, question: &'static str, alert: &'static str) -> Self {
        Self { uid, title, question, alert, items: Vec::new() }
    }

    /// Starts a row.
    #[must_use]
    pub fn row<const N: usize>(mut self, title: &'static str, panels: [Panel; N]) -> Self {
        self.items.push(Item::Row(title));
        self.panels(panels)
    }

    /// Adds panels, from left to right and then below.
    #[must_use]
    pub fn panels<const N: usize>(mut self, panels: [Panel; N]) -> Self {
        self.items.extend(panels.into_iter().map(|panel| Item::Panel(Box::new(panel))));
        self
    }

    /// The file for Grafana, and what is expected of each panel by its id.
    #[must_use]
    pub fn finish(&self) -> (Value, Value) {
        let (panels, expectations) = self.place();
        let annotations = annotations();
        let links = self.links();
        let used = format!("{} {} {}", json!(panels), annotations, links);
        let dashboard = json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.question,
            "tags": ["paygauge"],
            "schemaVersion": 39,
            "version": 1,
            "editable": false,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": "10s",
            "time": { "from": "now-1h", "to": "now" },
            "timepicker": { "refresh_intervals": ["5s", "10s", "30s", "1m", "5m", "15m"] },
            "templating": { "list": variables(&used) },
            "annotations": { "list": annotations },
            "links": links,
            "panels": panels,
        });
        (dashboard, expectations)
    }

    fn place(&self) -> (Vec<Value>, Value) {
        let mut panels = Vec::new();
        let mut expectations = serde_json::Map::new();
        // The next free column, where this line begins and how high it is, and the lower left corner of the last panel.
        let (mut x, mut y, mut height, mut under) = (0, 0, 0, (0, 0));
        for (id, item) in (1_u32..).zip(&self.items) {
            match item {
                Item::Row(title) => {
                    (x, y, height) = (0, y + height, 0);
                    let place = json!({ "x": 0, "y": y, "w": COLUMNS, "h": 1 });
                    panels.push(json!({ "id": id, "type": "row", "title": title, "collapsed": false,
                        "gridPos": place, "panels": [] }));
                    y += 1;
                }
                Item::Panel(panel) => {
                    let (wide, high) = panel.size;
                    if !panel.below && x + wide > COLUMNS {
                        (x, y, height) = (0, y + height, 0);
                    }
                    let at = if panel.below { under } else { (x, y) };
                    panels.push(panel.json(id, at));
                    expectations.insert(id.to_string(), panel.expectation());
                    under = (at.0, at.1 + high);
                    x = at.0 + wide;
                    height = height.max(under.1 - y);
                }
            }
        }
        (panels, Value::Object(expectations))
    }

    /// The other dashboards, the runbook, and the logs and traces of the same time.
    fn links(&self) -> Value {
        let link = |title: &str, icon: &str, tooltip: &str, url: String| {
            json!({ "title": title, "type": "link", "icon": icon, "tooltip": tooltip, "url": url, "tags": [],
                "asDropdown": false, "targetBlank": true, "includeVars": false, "keepTime": false })
        };
        let logs = json!({ "logs": {
            "datasource": "${loki_datasource}",
            "queries": [{ "refId": "A", "expr": r#"{service="paygauge",level=~"error|warn"}"#,
                "datasource": { "type": "loki", "uid": "${loki_datasource}" } }],
            "range": { "from": "${__from}", "to": "${__to}" },
        } });
        let traces = json!({ "traces": {
            "datasource": "${tempo_datasource}",
            "queries": [{ "refId": "A", "queryType": "traceql", "limit": 20,
                "query": r#"{resource.service.name="paygauge" && (status=error || traceDuration>2.5s)}"#,
                "datasource": { "type": "tempo", "uid": "${tempo_datasource}" } }],
            "range": { "from": "${__from}", "to": "${__to}" },
        } });
        let explore = |pane: &Value| format!("/explore?schemaVersion=1&panes={}", encoded(&pane.to_string()));
        json!([
            { "title": "Payments", "type": "dashboards", "icon": "external link", "tooltip": "The other dashboards",
                "url": "", "tags": ["paygauge"], "asDropdown": true, "targetBlank": false, "includeVars": true,
                "keepTime": true },
            link("Runbook", "doc", "What to do", format!("${{runbooks}}/{}.md", self.alert)),
            link("Logs", "gf-logs", "Warnings and errors of this time", explore(&logs)),
            link("Traces", "bolt", "Failed and slow traces of this time", explore(&traces)),
        ])
    }
}

/// Text within a URL; `$`, braces and what is harmless stay, so that Grafana finds its variables.
pub(crate) fn encoded(text: &str) -> String {
    let mut url = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => url.push(char::from(byte)),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'{' | b'}' | b':' | b',' => url.push(char::from(byte)),
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url
}

fn annotations() -> Value {
    let prometheus = json!({ "type": "prometheus", "uid": "${prometheus_datasource}" });
    let mark = |name: &str, color: &str, expr: &str, title: &str, text: &str| {
        json!({ "name": name, "enable": true, "hide": false, "iconColor": color, "datasource": prometheus,
            "expr": scoped(expr), "titleFormat": title, "textFormat": text, "step": "10s",
            "useValueForTime": false })
    };
    let new = |name: &str, by: &str| {
        format!("max by ({by}) ({name}{{@job}}) unless max by ({by}) ({name}{{@job}} offset 2m)")
    };
    let deploys = new("payments_build_info", "version, revision");
    let settings = new("payments_config_info", "hash, env");
    let restarts = "max by (instance) (time() - process_start_time_seconds{@job} < 30)";
    let pages = r#"max by (alertname, provider) (ALERTS{alertstate="firing",severity="page"})"#;
    json!([
        mark("Deploys", "blue", &deploys, "Deploy", "{{version}} {{revision}}"),
        mark("Configuration", "purple", &settings, "Configuration changed", "{{env}} {{hash}}"),
        mark("Restarts", "yellow", restarts, "Restart", "{{instance}}"),
        mark("Pages", "red", pages, "Page", "{{alertname}} {{provider}}"),
    ])
}

/// Every variable there is, and of them those that occur in the text.
fn variables(used: &str) -> Vec<Value> {
    let mut all = vec![
        datasource("prometheus_datasource", "prometheus", "Prometheus data source"),
        datasource("tempo_datasource", "tempo", "Tempo data source"),
        datasource("loki_datasource", "loki", "Loki data source"),
        datasource("postgres_datasource", "grafana-postgresql-datasource", "PostgreSQL data source"),
        labels("job", "Job", "payments_build_info", "job"),
        labels("instance", "Instance", r#"payments_build_info{job=~"$job"}"#, "instance"),
        labels("provider", "Provider", r#"payments_declines_total{job=~"$job"}"#, "provider"),
        labels("method", "Method", r#"payments_operations_total{job=~"$job"}"#, "method"),
        labels("operation", "Operation", r#"payments_operations_total{job=~"$job"}"#, "operation"),
        labels("currency", "Currency", r#"payments_amount_minor_units_count{job=~"$job"}"#, "currency"),
        labels("slo", "SLO", "slo:objective:ratio", "slo"),
        choice("outcome", "Outcome", &["uncertain", "declined", "not_sent", "reversing", "refused", "expired"]),
        json!({ "name": "payment_id", "label": "Payment", "type": "textbox", "hide": 0, "query": "",
            "description": "The id of a payment, pay_…", "options": [],
            "current": { "text": "", "value": "", "selected": false } }),
    ];
    // Where Grafana serves docs/runbooks; another place is one edit of the variable's value.
    let runbooks = "/public/runbooks";
    let option = json!({ "text": runbooks, "value": runbooks, "selected": true });
    all.push(json!({ "name": "runbooks", "label": "Runbooks", "type": "constant", "hide": 2, "query": runbooks,
        "skipUrlSync": true, "current": option, "options": [option] }));
    all.retain(|variable| variable.get("name").and_then(Value::as_str).is_some_and(|name| occurs(used, name)));
    all
}

fn occurs(text: &str, name: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    ["$", "${"].iter().any(|opening| {
        let wanted = format!("{opening}{name}");
        text.match_indices(&wanted).any(|(at, _)| text.get(at + wanted.len()..).is_some_and(ends))
    })
}

fn datasource(name: &str, plugin: &str, label: &str) -> Value {
    json!({ "name": name, "label": label, "type": "datasource", "query": plugin, "refresh": 1, "hide": 0,
        "multi": false, "includeAll": false, "regex": "", "options": [] })
}

fn labels(name: &str, label: &str, series: &str, of: &str) -> Value {
    let query = format!("label_values({series}, {of})");
    json!({ "name": name, "label": label, "type": "query", "refresh": 2, "sort": 1, "hide": 0,
        "datasource": { "type": "prometheus", "uid": "${prometheus_datasource}" },
        "query": query, "definition": query, "regex": "",
        "multi": true, "includeAll": true, "allValue": ".+", "options": [],
        "current": { "text": ["All"], "value": ["$__all"], "selected": true } })
}

fn choice(name: &str, label: &str, values: &[&str]) -> Value {
    let options: Vec<Value> =
        values.iter().map(|value| json!({ "text": value, "value": value, "selected": false })).collect();
    json!({ "name": name, "label": label, "type": "custom", "hide": 0, "query": values.join(","),
        "multi": true, "includeAll": true, "allValue": ".+", "options": options,
        "current": { "text": ["All"], "value": ["$__all"], "selected": true } })
}
