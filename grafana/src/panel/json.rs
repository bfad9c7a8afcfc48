//! A panel as Grafana reads it.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Expect, GREY, Kind, Link, Panel, Source, link};

impl Panel {
    pub(crate) fn expectation(&self) -> Value {
        let (class, why) = match self.expect {
            Expect::Data(why) => ("data", why),
            Expect::Zero(why) => ("zero", why),
            Expect::Drill(why) => ("drill", why),
        };
        json!({ "class": class, "why": why })
    }

    pub(crate) fn json(&self, id: u32, (x, y): (u32, u32)) -> Value {
        let (width, height) = self.size;
        let mut panel = json!({
            "id": id,
            "type": self.kind_name(),
            "title": self.title,
            "description": self.about,
            "gridPos": { "x": x, "y": y, "w": width, "h": height },
            "links": self.links.iter().map(Link::json).collect::<Vec<_>>(),
            "fieldConfig": { "defaults": self.defaults(), "overrides": self.overrides() },
            "options": self.options(),
            "transparent": false,
        });
        if let (Some(source), Some(fields)) = (self.sources.first(), panel.as_object_mut()) {
            fields.insert("datasource".to_owned(), source.datasource());
            fields.insert("targets".to_owned(), self.targets());
            if self.kind == Kind::Table {
                fields.insert("transformations".to_owned(), self.transformations());
            }
        }
        panel
    }

    const fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Stat => "stat",
            Kind::Lines | Kind::Stack => "timeseries",
            Kind::Heatmap => "heatmap",
            Kind::Table => "table",
            Kind::States => "state-timeline",
            Kind::Bars => "bargauge",
            Kind::Logs => "logs",
            Kind::Text => "text",
        }
    }

    fn targets(&self) -> Value {
        let letters = ('A'..='Z').map(String::from);
        let mut asked = BTreeSet::new();
        let targets = self.sources.iter().zip(letters).map(|(source, letter)| {
            // Quantiles of the same buckets have the same dots: one query of them is enough.
            let is_new = source.buckets().is_some_and(|buckets| asked.insert(buckets));
            source.target(self.kind, &letter, is_new)
        });
        targets.collect()
    }

    fn defaults(&self) -> Value {
        let steps = self.steps.iter().map(|(value, color)| json!({ "value": value, "color": color }));
        let first = json!({ "value": null, "color": self.base });
        let mut defaults = json!({
            "unit": self.unit,
            "noValue": self.no_value,
            "mappings": self.mappings(),
            "thresholds": { "mode": "absolute", "steps": std::iter::once(first).chain(steps).collect::<Vec<_>>() },
            "color": { "mode": self.colour_mode() },
            "links": self.each,
            "custom": self.custom(),
        });
        let limits = [("decimals", self.decimals.map(Value::from)), ("max", self.max.map(Value::from))];
        if let Some(fields) = defaults.as_object_mut() {
            for (name, value) in limits.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))) {
                fields.insert(name.to_owned(), value);
            }
            if self.kind == Kind::Bars {
                fields.insert("min".to_owned(), json!(0));
            }
        }
        defaults
    }

    /// Nothing known is a word, and never green.
    fn mappings(&self) -> Value {
        let result = json!({ "text": self.no_value, "color": GREY, "index": 0 });
        let unknown = json!({ "type": "special", "options": { "match": "null+nan", "result": result } });
        if self.words.is_empty() {
            return json!([unknown]);
        }
        let mut options = Map::new();
        for (index, (value, text, color)) in (1_u32..).zip(&self.words) {
            options.insert(value.to_string(), json!({ "text": text, "color": color, "index": index }));
        }
        json!([unknown, { "type": "value", "options": options }])
    }

    const fn colour_mode(&self) -> &'static str {
        match self.kind {
            Kind::Lines | Kind::Stack => "palette-classic",
            Kind::Stat | Kind::Heatmap | Kind::Table | Kind::States | Kind::Bars | Kind::Logs | Kind::Text => {
                "thresholds"
            }
        }
    }

    fn custom(&self) -> Value {
        let line = if self.steps.is_empty() { "off" } else { "dashed" };
        match self.kind {
            Kind::Lines | Kind::Stack => json!({
                "drawStyle": "line", "lineWidth": 1, "showPoints": "never", "spanNulls": false,
                "fillOpacity": if self.kind == Kind::Stack { 60 } else { 8 },
                "stacking": { "mode": if self.kind == Kind::Stack { "normal" } else { "none" }, "group": "A" },
                "thresholdsStyle": { "mode": line }, "axisSoftMin": 0,
            }),
            Kind::States => json!({ "lineWidth": 0, "fillOpacity": 80 }),
            Kind::Table => json!({ "align": "auto", "inspect": false, "filterable": true }),
            Kind::Stat | Kind::Heatmap | Kind::Bars | Kind::Logs | Kind::Text => json!({}),
        }
    }

    fn overrides(&self) -> Value {
        let column = |(field, name, unit): &(&str, &str, &str)| {
            let mut properties =
                vec![json!({ "id": "displayName", "value": name }), json!({ "id": "unit", "value": unit })];
            if *unit == "percentunit" {
                // 99.99 % and 100 % are not the same promise.
                properties.push(json!({ "id": "decimals", "value": 2 }));
            }
            json!({ "matcher": { "id": "byName", "options": field }, "properties": properties })
        };
        self.columns.iter().map(column).collect()
    }

    fn options(&self) -> Value {
        let legend = json!({ "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] });
        let tooltip = json!({ "mode": "multi", "sort": "desc" });
        let reduce = json!({ "values": false, "calcs": ["lastNotNull"], "fields": "" });
        match self.kind {
            Kind::Stat => json!({
                "graphMode": "none", "colorMode": "background", "justifyMode": "auto", "textMode": "auto",
                "wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard",
                "orientation": "auto", "reduceOptions": reduce,
            }),
            Kind::Lines | Kind::Stack => json!({ "legend": legend, "tooltip": tooltip }),
            Kind::Heatmap => json!({
                "calculate": false, "cellGap": 1, "showValue": "never", "legend": { "show": true },
                "color": { "mode": "scheme", "scheme": "Oranges", "fill": "dark-orange", "exponent": 0.5,
                    "steps": 64, "reverse": false },
                "yAxis": { "axisPlacement": "left", "reverse": false, "unit": self.unit },
                "tooltip": { "mode": "single", "yHistogram": true },
                "exemplars": { "color": "rgba(255,0,255,0.7)" }, "filterValues": { "le": 1e-9 },
            }),
            Kind::Table => json!({ "frameIndex": 0, "showHeader": true, "cellHeight": "sm" }),
            Kind::States => json!({
                "showValue": "never", "rowHeight": 0.9, "mergeValues": true, "alignValue": "left",
                "legend": legend, "tooltip": tooltip,
            }),
            Kind::Bars => json!({
                "displayMode": "basic", "valueMode": "color", "namePlacement": "auto", "showUnfilled": true,
                "sizing": "auto", "minVizWidth": 8, "minVizHeight": 16, "maxVizHeight": 300,
                "orientation": "horizontal", "legend": legend, "reduceOptions": reduce,
            }),
            Kind::Logs => json!({
                "showLabels": false, "showCommonLabels": false, "showTime": true, "showLogContextToggle": true,
                "wrapLogMessage": true, "prettifyLogMessage": false, "enableLogDetails": true,
                "sortOrder": "Descending", "dedupStrategy": "none",
            }),
            Kind::Text => json!({ "mode": "markdown", "content": self.text }),
        }
    }

    /// Prometheus' tables have a column of time, and one value for each query, named after it.
    fn transformations(&self) -> Value {
        let mut hidden = Map::new();
        let has_time = matches!(self.sources.first(), Some(Source::Prometheus { .. }));
        for field in self.hidden.iter().copied().chain(has_time.then_some("Time")) {
            hidden.insert(field.to_owned(), json!(true));
        }
        let organize = json!({ "id": "organize", "options": {
            "excludeByName": hidden, "indexByName": {}, "renameByName": {} } });
        if self.sources.len() > 1 { json!([{ "id": "merge", "options": {} }, organize]) } else { json!([organize]) }
    }
}

impl Source {
    fn datasource(&self) -> Value {
        match self {
            Self::Prometheus { .. } => json!({ "type": "prometheus", "uid": "${prometheus_datasource}" }),
            Self::Postgres(_) => json!({ "type": "grafana-postgresql-datasource", "uid": "${postgres_datasource}" }),
            Self::Tempo(_) => json!({ "type": "tempo", "uid": "${tempo_datasource}" }),
            Self::Loki(_) => json!({ "type": "loki", "uid": "${loki_datasource}" }),
        }
    }

    /// Of a query over the buckets of a histogram, all but the rank.
    fn buckets(&self) -> Option<&str> {
        let Self::Prometheus { expr, .. } = self else { return None };
        let without_rank = expr.strip_prefix("histogram_quantile(").and_then(|rest| rest.split_once(", "));
        expr.contains("_bucket{").then_some(without_rank.map_or(expr.as_str(), |(_, of)| of))
    }

    fn target(&self, kind: Kind, letter: &str, has_dots: bool) -> Value {
        let datasource = self.datasource();
        match self {
            Self::Prometheus { expr, legend } => {
                // A figure is as of now: a series that has ended must not stand there as if it were alive.
                let instant = matches!(kind, Kind::Stat | Kind::Table | Kind::Bars);
                let format = match kind {
                    Kind::Table => "table",
                    Kind::Heatmap => "heatmap",
                    Kind::Stat | Kind::Lines | Kind::Stack | Kind::States | Kind::Bars | Kind::Logs | Kind::Text => {
                        "time_series"
                    }
                };
                json!({
                    "refId": letter, "datasource": datasource, "editorMode": "code", "expr": expr,
                    "legendFormat": legend, "format": format, "instant": instant, "range": !instant,
                    "exemplar": !instant && has_dots,
                })
            }
            Self::Postgres(sql) => json!({
                "refId": letter, "datasource": datasource, "editorMode": "code", "format": "table",
                "rawQuery": true, "rawSql": sql,
            }),
            Self::Tempo(query) => json!({
                "refId": letter, "datasource": datasource, "queryType": "traceql", "query": query,
                "limit": 20, "tableType": "traces", "filters": [],
            }),
            Self::Loki(expr) => json!({
                "refId": letter, "datasource": datasource, "editorMode": "code", "expr": expr,
                "queryType": "range", "maxLines": 200,
            }),
        }
    }
}

impl Link {
    fn json(&self) -> Value {
        let (title, tooltip, url) = match self {
            Self::Dashboard(uid) => (
                format!("Open {uid}"),
                "The same time and choices, from another side",
                format!("/d/{uid}?${{__url_time_range}}&${{__all_variables}}"),
            ),
            Self::Runbook(alert) => {
                (format!("Runbook {alert}"), "What to do about it", format!("${{runbooks}}/{alert}.md"))
            }
        };
        link(&title, tooltip, &url, matches!(self, Self::Runbook(_)))
    }
}
