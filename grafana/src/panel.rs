//! One panel: its builder and its JSON. What is the same in all panels of a kind is decided here, once.
//!
//! In queries `{@}` stands for the chosen job and instances, `{@job}` for the chosen job alone (figures that one
//! worker reads from the database for all), and `[@]` for the rate interval. `{@,operation="confirm"}` adds matchers.

use serde_json::{Value, json};

mod json;

/// Act now.
pub const RED: &str = "red";
/// Look when there is time.
pub const AMBER: &str = "orange";
/// Proven to be well.
pub const GREEN: &str = "green";
/// A number that asks for nothing, or is not known.
pub const GREY: &str = "#8e8e8e";
/// A number to read, with no judgement in it.
pub const PLAIN: &str = "#5794f2";

/// How a panel draws.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One big figure for each series, as of the end of the range.
    Stat,
    /// Lines over time.
    Lines,
    /// Areas on top of each other.
    Stack,
    /// Buckets over time.
    Heatmap,
    /// Rows.
    Table,
    /// Coloured bars over time.
    States,
    /// Bars beside each other.
    Bars,
    /// Log lines.
    Logs,
    /// Words.
    Text,
}

/// What a run of the queries has to find.
#[derive(Clone, Copy)]
enum Expect {
    Data(&'static str),
    Zero(&'static str),
    Drill(&'static str),
}

enum Source {
    Prometheus { expr: String, legend: String },
    Postgres(String),
    Tempo(String),
    Loki(String),
}

enum Link {
    Dashboard(&'static str),
    Runbook(&'static str),
}

/// A panel under construction.
pub struct Panel {
    kind: Kind,
    title: &'static str,
    pub(crate) size: (u32, u32),
    pub(crate) below: bool,
    unit: &'static str,
    decimals: Option<u32>,
    max: Option<f64>,
    sources: Vec<Source>,
    about: String,
    links: Vec<Link>,
    each: Vec<Value>,
    base: &'static str,
    steps: Vec<(f64, &'static str)>,
    words: Vec<(i64, &'static str, &'static str)>,
    columns: Vec<(&'static str, &'static str, &'static str)>,
    hidden: Vec<&'static str>,
    no_value: &'static str,
    expect: Expect,
    text: String,
}

macro_rules! kinds {
    ($($name:ident $kind:ident $width:literal $height:literal $doc:literal;)+) => {$(
        #[doc = $doc]
        #[must_use]
        pub fn $name(title: &'static str) -> Panel {
            Panel::new(Kind::$kind, title, ($width, $height))
        }
    )+};
}

kinds! {
    stat Stat 4 4 "One big figure.";
    lines Lines 8 8 "Lines over time.";
    stack Stack 8 8 "Areas on top of each other.";
    heatmap Heatmap 12 9 "Buckets over time.";
    table Table 12 8 "Rows.";
    states States 12 8 "Coloured bars over time.";
    bars Bars 8 8 "Bars beside each other.";
    logs Logs 24 9 "Log lines.";
    text Text 8 8 "Words.";
}

impl Panel {
    fn new(kind: Kind, title: &'static str, size: (u32, u32)) -> Self {
        Self {
            kind,
            title,
            size,
            below: false,
            unit: "short",
            decimals: None,
            max: None,
            sources: Vec::new(),
            about: String::new(),
            links: Vec::new(),
            each: Vec::new(),
            base: PLAIN,
            steps: Vec::new(),
            words: Vec::new(),
            columns: Vec::new(),
            hidden: Vec::new(),
            no_value: "no data",
            expect: Expect::Data("load moves it, and zero is exposed before the first event"),
            text: String::new(),
        }
    }

    /// A PromQL query and what its series are called.
    #[must_use]
    pub fn query(mut self, expr: impl Into<String>, legend: impl Into<String>) -> Self {
        self.sources.push(Source::Prometheus { expr: scoped(&expr.into()), legend: legend.into() });
        self
    }

    /// p50 to p99.9 of a histogram; `matchers` as between braces, `by` the labels to keep apart.
    #[must_use]
    pub fn quantiles(mut self, histogram: &str, matchers: &str, by: &str) -> Self {
        let apart = if by.is_empty() { String::new() } else { format!(", {by}") };
        let name = if by.is_empty() { String::new() } else { format!(" {{{{{by}}}}}") };
        for (rank, text) in [("0.5", "p50"), ("0.9", "p90"), ("0.95", "p95"), ("0.99", "p99"), ("0.999", "p99.9")] {
            let rate = format!("sum by (le{apart}) (rate({histogram}_bucket{{{matchers}}}[@]))");
            self = self.query(format!("histogram_quantile({rank}, {rate})"), format!("{text}{name}"));
        }
        self
    }

    /// A read of the masked views; its columns are the panel's.
    #[must_use]
    pub fn sql(mut self, sql: &str) -> Self {
        if self.kind == Kind::Table {
            // Amounts and counts as they are, not rounded to thousands.
            self.unit = "locale";
        }
        self.sources.push(Source::Postgres(sql.split_whitespace().collect::<Vec<_>>().join(" ")));
        self
    }

    /// A TraceQL search.
    #[must_use]
    pub fn traces(mut self, query: &str) -> Self {
        self.sources.push(Source::Tempo(query.to_owned()));
        self
    }

    /// A LogQL search.
    #[must_use]
    pub fn lines_of(mut self, query: &str) -> Self {
        self.sources.push(Source::Loki(query.to_owned()));
        self
    }

    /// What a text panel says, in Markdown.
    #[must_use]
    pub fn says(mut self, markdown: &str) -> Self {
        markdown.clone_into(&mut self.text);
        self
    }

    /// The question, how to read the answer, and what to do about it.
    #[must_use]
    pub fn about(mut self, question: &str, read: &str, act: &str) -> Self {
        self.about = format!("**{question}**\n\nRead: {read}\n\nDo: {act}");
        self
    }

    /// Grafana's name of the unit.
    #[must_use]
    pub const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    /// How many digits follow the point.
    #[must_use]
    pub const fn decimals(mut self, decimals: u32) -> Self {
        self.decimals = Some(decimals);
        self
    }

    /// The end of the scale.
    #[must_use]
    pub const fn max(mut self, max: f64) -> Self {
        self.max = Some(max);
        self
    }

    /// Columns of 24 and rows of the grid.
    #[must_use]
    pub const fn size(mut self, width: u32, height: u32) -> Self {
        self.size = (width, height);
        self
    }

    /// Stands below the panel before it rather than beside it.
    #[must_use]
    pub const fn below(mut self) -> Self {
        self.below = true;
        self
    }

    /// The colour to begin with, and from which value on it is another.
    #[must_use]
    pub fn colours(mut self, base: &'static str, steps: &[(f64, &'static str)]) -> Self {
        self.base = base;
        self.steps = steps.to_vec();
        self
    }

    /// Words and colours for exact values.
    #[must_use]
    pub fn words(mut self, words: &[(i64, &'static str, &'static str)]) -> Self {
        self.words = words.to_vec();
        self
    }

    /// What a table calls a column, and the unit of it.
    #[must_use]
    pub fn column(mut self, field: &'static str, name: &'static str, unit: &'static str) -> Self {
        self.columns.push((field, name, unit));
        self
    }

    /// Leaves a column out.
    #[must_use]
    pub fn without(mut self, field: &'static str) -> Self {
        self.hidden.push(field);
        self
    }

    /// What stands there when nothing was found.
    #[must_use]
    pub const fn empty(mut self, words: &'static str) -> Self {
        self.no_value = words;
        self
    }

    /// Leads to another dashboard; time and variables stay.
    #[must_use]
    pub fn to(mut self, uid: &'static str) -> Self {
        self.links.push(Link::Dashboard(uid));
        self
    }

    /// Leads to the page that says what to do about an alert.
    #[must_use]
    pub fn runbook(mut self, alert: &'static str) -> Self {
        self.links.push(Link::Runbook(alert));
        self
    }

    /// Leads from each value or row to its own payment, by a column `payment_id`.
    #[must_use]
    pub fn each_payment(mut self) -> Self {
        let url = "/d/pay-payment?${__url_time_range}&var-payment_id=${__data.fields.payment_id}";
        self.each.push(link("This payment", "What happened to it", url, false));
        self
    }

    /// Leads from each row to its trace, by a column `trace_id`.
    #[must_use]
    pub fn each_trace(mut self) -> Self {
        let pane = json!({ "trace": {
            "datasource": "${tempo_datasource}",
            "queries": [{ "refId": "A", "queryType": "traceql", "query": "${__data.fields.trace_id}",
                "datasource": { "type": "tempo", "uid": "${tempo_datasource}" } }],
            "range": { "from": "now-7d", "to": "now" },
        } });
        let url = format!("/explore?schemaVersion=1&panes={}", crate::dashboard::encoded(&pane.to_string()));
        self.each.push(link("This trace", "From end to end", &url, true));
        self
    }

    /// Leads from each value to the payments behind it, by provider and method.
    #[must_use]
    pub fn each_affected(mut self) -> Self {
        let of = if self.kind == Kind::Table { "__data.fields" } else { "__field.labels" };
        let url = format!(
            "/d/pay-affected?${{__url_time_range}}&var-provider=${{{of}.provider}}&var-method=${{{of}.method}}"
        );
        self.each.push(link("Who is hit", "Customers and orders of this slice", &url, false));
        self
    }

    /// Every query finds something once there was load.
    #[must_use]
    pub const fn data(mut self, why: &'static str) -> Self {
        self.expect = Expect::Data(why);
        self
    }

    /// The series are there, and 0 while all is well.
    #[must_use]
    pub const fn zero(mut self, why: &'static str) -> Self {
        self.expect = Expect::Zero(why);
        self
    }

    /// There may be nothing to find while all is well.
    #[must_use]
    pub const fn drill(mut self, why: &'static str) -> Self {
        self.expect = Expect::Drill(why);
        self
    }
}

/// Writes the short forms of a query out.
pub(crate) fn scoped(query: &str) -> String {
    query
        .replace("{@job", r#"{job=~"$job""#)
        .replace("{@", r#"{job=~"$job",instance=~"$instance""#)
        .replace("[@]", "[$__rate_interval]")
}

/// A link as Grafana's schema has it; time and variables are in the URL.
fn link(title: &str, tooltip: &str, url: &str, blank: bool) -> Value {
    json!({ "title": title, "type": "link", "icon": "", "tooltip": tooltip, "url": url, "tags": [],
        "asDropdown": false, "targetBlank": blank, "includeVars": false, "keepTime": false })
}
