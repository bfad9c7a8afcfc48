//! Histograms: a counter for each bucket, so that a value costs two additions and nobody has to gather values later.
//!
//! The exporter's own keep every value with its moment until somebody folds them, and are copied whole to be rendered.
//! Only `family` makes series; they stay until the process ends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use metrics::{Key, Label};

use super::catalogue::{Measures, MetricInfo};
use super::parts::metrics_are_off;
use super::{catalogue, traces};

/// Every series that is rendered, by the name of its metric.
static ALL: Mutex<BTreeMap<&'static str, OfOne>> = Mutex::new(BTreeMap::new());

/// The series of one metric.
struct OfOne {
    metric: &'static MetricInfo,
    series: Vec<&'static Series>,
}

/// One series of a histogram. Where the catalogue says so, each value may become an exemplar.
#[derive(Debug, Clone, Copy)]
pub struct Histogram(Option<&'static Series>);

impl Histogram {
    pub(super) fn register(key: &Key) -> Self {
        let metric = catalogue::all().iter().find(|metric| metric.name == key.name());
        let Some(metric) = metric.filter(|_| !metrics_are_off()) else { return Self(None) };
        let Some(series) = Series::new(key, metric) else { return Self(None) };
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(metric.name).or_insert_with(|| OfOne { metric, series: Vec::new() }).series.push(series);
        Self(Some(series))
    }

    /// Counts a value into its bucket, and offers it to the trace being worked in.
    pub fn record(&self, value: f64) {
        if let Some(series) = self.0 {
            series.count(value);
            if series.measures.is_some() {
                traces::offer(series, value);
            }
        }
    }
}

/// What is counted of one series.
#[derive(Debug)]
pub struct Series {
    /// From 0, each once.
    pub(super) id: u32,
    /// How the lines of its buckets begin in the exposition, up to the bucket's bound: `x_bucket{a="b",le="`.
    pub(super) line_start: String,
    /// Its labels as the other two lines have them: `{a="b"}`.
    labels: String,
    /// Under which name a span carries the value that was measured in it.
    pub(super) attribute: String,
    pub(super) bounds: &'static [f64],
    /// Whether and how its values become exemplars.
    pub(super) measures: Option<Measures>,
    /// How many values each bucket holds that no smaller one does; the last has no bound.
    buckets: Box<[AtomicU64]>,
    /// The bits of the sum of all values.
    sum: AtomicU64,
}

impl Series {
    /// Of a metric with buckets.
    pub(super) fn new(key: &Key, metric: &MetricInfo) -> Option<&'static Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let bounds = metric.buckets?;
        let mut pairs = String::new();
        for label in key.labels() {
            pairs.extend([label.key(), "=\"", label.value(), "\","]);
        }
        let last = key.labels().last().map_or("", Label::value);
        let labels = pairs.strip_suffix(',').map_or_else(String::new, |pairs| format!("{{{pairs}}}"));
        Some(Box::leak(Box::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            line_start: format!("{}_bucket{{{pairs}le=\"", metric.name),
            labels,
            attribute: format!("{}.{last}", metric.name),
            bounds,
            measures: metric.exemplars,
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0.0_f64.to_bits()),
        })))
    }

    /// The tightest bucket that holds the value; the last one has no bound.
    pub(super) fn bucket(&self, value: f64) -> usize {
        self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len())
    }

    fn count(&self, value: f64) {
        if let Some(bucket) = self.buckets.get(self.bucket(value)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let add = |sum| Some((f64::from_bits(sum) + value).to_bits());
        // It is tried until nobody else has added meanwhile.
        let _before = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Its lines; `bounds` are the texts of its buckets' bounds.
    fn render(&self, name: &str, bounds: &[String], out: &mut String) -> std::fmt::Result {
        let mut count = 0;
        for (bucket, bound) in self.buckets.iter().zip(bounds) {
            count += bucket.load(Ordering::Relaxed);
            writeln!(out, "{}{bound}\"}} {count}", self.line_start)?;
        }
        let (labels, sum) = (&self.labels, f64::from_bits(self.sum.load(Ordering::Relaxed)));
        writeln!(out, "{name}_sum{labels} {sum}")?;
        writeln!(out, "{name}_count{labels} {count}")
    }
}

/// Adds all histograms in Prometheus' text format.
pub(super) fn render(out: &mut String) {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, OfOne { metric, series }) in all.iter() {
        out.extend(["# HELP ", name, " ", metric.help, "\n# TYPE ", name, " histogram\n"]);
        let bounds = metric.buckets.unwrap_or_default().iter().map(ToString::to_string);
        let bounds: Vec<String> = bounds.chain(["+Inf".to_owned()]).collect();
        for series in series {
            let written = series.render(name, &bounds, out);
            debug_assert!(written.is_ok(), "writing to a String cannot fail");
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &'static str, labels: &[(&'static str, &'static str)]) -> &'static Series {
        let metric = catalogue::all().iter().find(|metric| metric.name == name).expect("in the catalogue");
        let labels: Vec<_> = labels.iter().map(|(key, value)| Label::new(*key, *value)).collect();
        Series::new(&Key::from_parts(name, labels), metric).expect("it has buckets")
    }

    fn rendered(series: &Series, name: &str) -> Vec<String> {
        let (mut text, mut bounds) = (String::new(), Vec::from_iter(series.bounds.iter().map(ToString::to_string)));
        bounds.push("+Inf".to_owned());
        series.render(name, &bounds, &mut text).expect("written");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn each_value_is_counted_in_every_bucket_that_holds_it_also_on_its_bound() {
        let name = "payments_orders_per_transaction";
        let series = series(name, &[]);
        for value in [1.0, 2.0, 2.5, 1e9] {
            series.count(value);
        }
        let lines = rendered(series, name);
        let count = |bound: &str| {
            let start = format!("{name}_bucket{{le=\"{bound}\"}} ");
            lines.iter().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
        };
        assert_eq!(
            [count("1"), count("2"), count("4"), count("+Inf")].map(Option::unwrap_or_default),
            ["1", "2", "3", "4"]
        );
        assert!(
            lines.contains(&format!("{name}_count 4")) && lines.contains(&format!("{name}_sum 1000000005.5")),
            "{lines:?}"
        );
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let (name, labels) = ("payments_step_duration_seconds", [("operation", "confirm"), ("step", "compute")]);
        let series = series(name, &labels);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| series.count(0.25)));
            }
        });
        let lines = rendered(series, name);
        let labels = r#"{operation="confirm",step="compute"}"#;
        assert!(lines.contains(&format!("{name}_sum{labels} 10000")), "{lines:?}");
        assert!(lines.contains(&format!("{name}_count{labels} 40000")), "{lines:?}");
        let whole = r#"payments_step_duration_seconds_bucket{operation="confirm",step="compute",le="+Inf"} 40000"#;
        assert!(lines.iter().any(|line| line == whole), "{lines:?}");
    }
}
