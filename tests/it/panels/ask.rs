//! Asks the questions of a dashboard as Grafana would: variables and macros put in, over the time that is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::SimpleQueryMessage;

use super::dashboards::{Dashboard, Source, Target};
use crate::support::prometheus::now;
use crate::support::shop::{http, invariants_client};
use crate::support::watched::Watched;

const STEP_S: f64 = 5.0;
/// Four scrapes, the least that Grafana takes for it.
const RATE_INTERVAL: &str = "20s";

/// The payment of which most is known: it differs from the PG's books, was given back, or has siblings.
const EVENTFUL: &str = "
    select observability.public_id('pay', p.id)
    from payments p join orders o on o.id = p.order_id
    order by exists (select from findings f where f.payment_id = p.id)
            and exists (select from cancellations c where c.payment_id = p.id) desc,
        exists (select from cancellations c where c.payment_id = p.id) desc, o.customer_ref is not null desc,
        p.created_at desc
    limit 1";

/// What one dashboard's panels were answered.
pub struct Answers {
    from: f64,
    to: f64,
    panels: BTreeMap<u64, BTreeMap<String, Value>>,
}

impl Answers {
    pub fn panels(&self) -> usize {
        self.panels.len()
    }

    pub fn queries(&self) -> usize {
        self.panels.keys().map(|panel| self.of(*panel).count()).sum()
    }

    /// The traces of all dots.
    pub fn exemplars(&self) -> impl Iterator<Item = String> {
        let answers = self.panels.values().flat_map(BTreeMap::values);
        let series = answers.filter_map(|answer| answer["exemplars"].as_array()).flatten();
        let dots = series.filter_map(|series| series["exemplars"].as_array()).flatten();
        dots.map(|dot| dot["labels"]["trace_id"].as_str().unwrap_or_default().to_owned())
    }

    pub fn of(&self, panel: u64) -> impl Iterator<Item = (&String, &Value)> {
        self.panels.get(&panel).into_iter().flatten().filter(|(_, answer)| answer["resultType"] != "none")
    }

    pub fn json(&self) -> Value {
        json!({ "from": self.from, "to": self.to, "step": STEP_S, "panels": self.panels })
    }
}

/// Every number in an answer.
pub fn samples(answer: &Value) -> Vec<f64> {
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    if answer["resultType"] == "table" {
        // A table shows something if it has a row.
        return answer["rows"].as_array().into_iter().flatten().map(|_| 1.0).collect();
    }
    let series = answer["result"].as_array().map_or(&[][..], Vec::as_slice);
    let of = |series: &Value| -> Vec<f64> {
        let one = series["value"].as_array().into_iter();
        let many = series["values"].as_array().into_iter().flatten().filter_map(Value::as_array);
        one.chain(many).filter_map(|pair| number(&pair[1])).collect()
    };
    series.iter().flat_map(of).collect()
}

/// Asks about the time that ends now.
pub struct Asker<'a> {
    shop: &'a Watched,
    from: f64,
    to: f64,
    sql: tokio_postgres::Client,
    /// A payment to look at closely.
    payment: String,
}

impl<'a> Asker<'a> {
    /// About so long at most.
    pub async fn begin(shop: &'a Watched, at_most: Duration) -> Self {
        let to = now();
        let sql = invariants_client(&shop.database).await;
        let payment: String = sql.query_one(EVENTFUL, &[]).await.expect("a payment").get(0);
        // As Grafana's role: it may look at the masked views, and at nothing else.
        let role = "grafana_viewer_of_tests";
        sql.batch_execute(&format!(
            "do $$ begin create role {role}; exception when duplicate_object then null; end $$;
             grant usage on schema observability to {role};
             grant select on all tables in schema observability to {role};
             set role {role}"
        ))
        .await
        .expect("a role that may read the views");
        Self { shop, from: to - shop.opened.elapsed().min(at_most).as_secs_f64(), to, sql, payment }
    }

    /// All of a dashboard's panels, with "All" in every variable.
    pub async fn ask(&self, dashboard: &Dashboard, wrong: &mut BTreeSet<String>) -> Answers {
        let mut panels = BTreeMap::new();
        for panel in &dashboard.panels {
            let mut answers = BTreeMap::new();
            for target in &panel.targets {
                let text = self.fill(&target.text, |name| self.all(dashboard, name));
                match self.one(target, &text).await {
                    Ok(mut answer) => {
                        if target.has_exemplars {
                            answer["exemplars"] = json!(self.dots(&text).await);
                        }
                        answers.insert(target.name.clone(), answer);
                    }
                    Err(refused) => {
                        wrong.insert(format!(
                            "{} / {} {}: {refused}\n    {text}",
                            dashboard.uid, panel.title, target.name
                        ));
                    }
                }
            }
            panels.insert(panel.id, answers);
        }
        Answers { from: self.from, to: self.to, panels }
    }

    /// The same with one value in every variable: it must be understood, whatever it shows.
    pub async fn ask_of_one(&self, dashboard: &Dashboard, wrong: &mut BTreeSet<String>) -> usize {
        let mut queries = 0;
        for panel in &dashboard.panels {
            for target in &panel.targets {
                let text = self.fill(&target.text, |name| self.one_value(name));
                queries += usize::from(target.source != Source::Elsewhere);
                if let Err(refused) = self.one(target, &text).await {
                    wrong.insert(format!("{} / {} {}: {refused}\n    {text}", dashboard.uid, panel.title, target.name));
                }
            }
        }
        queries
    }

    fn all(&self, dashboard: &Dashboard, name: &str) -> Option<String> {
        let known = dashboard.variables.iter().find(|(variable, _)| variable == name);
        known.map(|(_, all)| if name == "payment_id" { self.payment.clone() } else { all.clone() })
    }

    fn one_value(&self, name: &str) -> Option<String> {
        let value = match name {
            "job" => "paygauge",
            "instance" => self.shop.api.ops.trim_start_matches("http://"),
            "provider" => "toss",
            "method" => "card",
            "operation" => "confirm",
            "currency" => "KRW",
            "slo" => "confirm",
            "outcome" => "uncertain",
            "payment_id" => &self.payment,
            _ => ".+",
        };
        Some(value.to_owned())
    }

    async fn one(&self, target: &Target, text: &str) -> Result<Value, String> {
        match target.source {
            Source::Prometheus => self.promql(target.is_instant, text).await,
            Source::Sql => self.sql(text).await,
            Source::Elsewhere => Ok(json!({ "resultType": "none" })),
        }
    }

    async fn promql(&self, is_instant: bool, text: &str) -> Result<Value, String> {
        let (from, to, step) = (self.from.to_string(), self.to.to_string(), STEP_S.to_string());
        let (path, parameters) = if is_instant {
            ("query", vec![("query", text), ("time", &to)])
        } else {
            ("query_range", vec![("query", text), ("start", &from), ("end", &to), ("step", &step)])
        };
        let url = format!("{}/api/v1/{path}", self.shop.prometheus.base);
        let url = reqwest::Url::parse_with_params(&url, &parameters).expect("a URL");
        let answer = http().get(url).send().await.map_err(|error| error.to_string())?;
        let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer["error"].to_string()) }
    }

    async fn sql(&self, text: &str) -> Result<Value, String> {
        let said = self.sql.simple_query(text).await.map_err(|error| match error.as_db_error() {
            Some(told) => told.message().to_owned(),
            None => error.to_string(),
        })?;
        let (mut columns, mut rows) = (Vec::new(), Vec::new());
        for message in &said {
            if let SimpleQueryMessage::RowDescription(described) = message {
                columns = described.iter().map(|column| column.name().to_owned()).collect();
            } else if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect::<Vec<_>>());
            }
        }
        Ok(json!({ "resultType": "table", "columns": columns, "rows": rows }))
    }

    async fn dots(&self, text: &str) -> Vec<Value> {
        self.shop.prometheus.query_exemplars(text, self.from, self.to).await
    }

    /// Puts the built-in variables, then the dashboard's, then the macros of SQL.
    fn fill(&self, text: &str, value: impl Fn(&str) -> Option<String>) -> String {
        let seconds = format!("{}s", (self.to - self.from).ceil());
        let built_in = |name: &str| {
            let milliseconds = |at: f64| (at * 1000.0).round().to_string();
            Some(match name {
                "__rate_interval" => RATE_INTERVAL.to_owned(),
                "__interval" => format!("{STEP_S}s"),
                "__range" => seconds.clone(),
                "__from" => milliseconds(self.from),
                "__to" => milliseconds(self.to),
                _ => return value(name),
            })
        };
        let (from, to) = (format!("to_timestamp({})", self.from), format!("to_timestamp({})", self.to));
        let text = macros(text, &from, &to);
        variables(&text, built_in)
    }
}

/// `$__timeFrom()`, `$__timeTo()` and `$__timeFilter(column)`.
fn macros(text: &str, from: &str, to: &str) -> String {
    let mut text = text.replace("$__timeFrom()", from).replace("$__timeTo()", to);
    while let Some(at) = text.find("$__timeFilter(") {
        let open = at + "$__timeFilter(".len();
        let close = open + text[open..].find(')').expect("a closing bracket");
        let column = text[open..close].to_owned();
        text.replace_range(at..=close, &format!("{column} between {from} and {to}"));
    }
    text
}

/// `$name`, `${name}` and `${name:format}`; what nobody knows stays, and is refused later.
fn variables(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        filled.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (inner, after) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((inner, after)) => (inner, after),
            None => rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len())),
        };
        let (name, format) = inner.split_once(':').unwrap_or((inner, ""));
        match value(name).filter(|_| !name.is_empty()).and_then(|value| formatted(value, format)) {
            Some(value) => {
                filled.push_str(&value);
                rest = after;
            }
            None => filled.push('$'),
        }
    }
    filled + rest
}

/// One value as a format of Grafana writes it.
fn formatted(value: String, format: &str) -> Option<String> {
    match format {
        // A pattern for "All" is taken as it is, and the values of labels have nothing to escape.
        "" | "regex" => Some(value),
        "sqlstring" => Some(format!("'{}'", value.replace('\'', "''"))),
        _ => None,
    }
}

#[test]
fn variables_and_macros_are_put_in_as_grafana_does() {
    let value = |name: &str| (name == "job").then(|| "a.+".to_owned());
    assert_eq!(variables(r#"{j="$job",k="${job:regex}",l=~"x$"}"#, value), r#"{j="a.+",k="a.+",l=~"x$"}"#);
    assert_eq!(variables("= ${job:sqlstring} ${job:odd}", value), "= 'a.+' ${job:odd}");
    assert_eq!(macros("where $__timeFilter(at) and b > $__timeFrom()", "1", "2"), "where at between 1 and 2 and b > 1");
}
