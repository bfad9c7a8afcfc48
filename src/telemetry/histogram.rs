//! Histograms: a counter for each bucket, so that a value costs two additions and nobody has to gather values later; and
//! their part of the exposition.
//!
//! The exporter's own keep every value with its moment until somebody folds them, and are copied whole to be rendered.
//! Only `family` makes series; they stay until the process ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use metrics::{Key, Label};

use super::catalogue::{Measures, MetricInfo};
use super::exemplars::Exemplar;
use super::parts::metrics_are_off;
use super::{catalogue, openmetrics, traces};

/// More than any metric has; what lies above all bounds has one, too.
const BUCKETS_MAX: usize = 20;
/// How many threads count into memory of their own; of more, some share one's.
const SHARDS: usize = 4;

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
            let measured = series.measured(value);
            series.count(measured);
            if series.measures.is_some() {
                traces::offer(measured);
            }
        }
    }
}

/// What is counted of one series.
#[derive(Debug)]
pub struct Series {
    counted: [Shard; SHARDS],
    pub(super) bounds: &'static [f64],
    names: Box<Names>,
    /// Of its first bucket, if the buckets of all series are counted from 0.
    first: usize,
    /// Whether and how its values become exemplars.
    pub(super) measures: Option<Measures>,
}

/// What it is called; apart from what is touched whenever a value comes.
#[derive(Debug)]
struct Names {
    /// How the lines of its buckets begin, up to the bound: `x_bucket{a="b",le="`.
    line_start: String,
    /// As the other two lines have them: `{a="b"}`.
    labels: String,
    attribute: String,
}

/// What some of the threads have counted: two that count at once would take each other's cache lines again and again.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard {
    /// The bits of the sum of all values.
    sum: AtomicU64,
    /// How many values each bucket holds that no smaller one does; the one behind the last bound has none.
    buckets: [AtomicU64; BUCKETS_MAX],
}

impl Shard {
    /// The place of this thread's.
    fn own() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static OWN: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
        }
        OWN.try_with(|own| *own).unwrap_or_default()
    }
}

/// A value of a series, and the tightest bucket that holds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) series: &'static Series,
    pub(super) value: f64,
    pub(super) bucket: usize,
}

impl Measured {
    /// The place of its bucket among those of all series.
    pub(super) const fn place(self) -> usize {
        self.series.first + self.bucket
    }
}

impl Series {
    /// Of a metric with buckets.
    pub(super) fn new(key: &Key, metric: &MetricInfo) -> Option<&'static Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let bounds = metric.buckets?;
        let mut pairs = String::new();
        for label in key.labels() {
            pairs.extend([label.key(), "=\"", label.value(), "\","]);
        }
        let last = key.labels().last().map_or("", Label::value);
        let labels = pairs.strip_suffix(',').map_or_else(String::new, |pairs| format!("{{{pairs}}}"));
        let line_start = format!("{}_bucket{{{pairs}le=\"", metric.name);
        let names = Box::new(Names { line_start, labels, attribute: format!("{}.{last}", metric.name) });
        let first = NEXT.fetch_add(bounds.len() + 1, Ordering::Relaxed);
        let counted = std::array::from_fn(|_| Shard::default());
        Some(Box::leak(Box::new(Self { counted, bounds, names, first, measures: metric.exemplars })))
    }

    /// Under which name a span carries the value that was measured in it.
    pub(super) fn attribute(&self) -> &str {
        &self.names.attribute
    }

    /// The last bucket has no bound.
    pub(super) fn measured(&'static self, value: f64) -> Measured {
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        Measured { series: self, value, bucket }
    }

    fn count(&self, Measured { value, bucket, .. }: Measured) {
        let Some(own) = self.counted.get(Shard::own()) else { return };
        if let Some(bucket) = own.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let add = |sum| Some((f64::from_bits(sum) + value).to_bits());
        // It is tried until nobody else has added meanwhile.
        let _before = own.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Its lines, with exemplars behind the buckets; `bounds` are the texts of their bounds.
    fn render(&self, name: &str, bounds: &[String], shown: &BTreeMap<usize, Exemplar>, out: &mut String) {
        let (Names { line_start, labels, .. }, mut digits) = (&*self.names, itoa::Buffer::new());
        let mut count = 0;
        for (bucket, bound) in bounds.iter().enumerate() {
            let of_shard = |shard: &Shard| shard.buckets.get(bucket).map_or(0, |held| held.load(Ordering::Relaxed));
            count += self.counted.iter().map(of_shard).sum::<u64>();
            out.extend([line_start, bound, "\"} ", digits.format(count)]);
            if let Some(exemplar) = shown.get(&(self.first + bucket)) {
                openmetrics::write_exemplar(out, exemplar);
            }
            out.push('\n');
        }
        let sum: f64 = self.counted.iter().map(|shard| f64::from_bits(shard.sum.load(Ordering::Relaxed))).sum();
        out.extend([name, "_sum", labels, " ", &sum.to_string(), "\n"]);
        out.extend([name, "_count", labels, " ", digits.format(count), "\n"]);
    }
}

/// Adds all histograms, which both formats write alike, with the exemplars that are shown; Prometheus' text format has none.
pub(super) fn render(shown: &BTreeMap<usize, Exemplar>, out: &mut String) {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, OfOne { metric, series }) in all.iter() {
        out.extend(["# HELP ", name, " ", metric.help, "\n# TYPE ", name, " histogram\n"]);
        let bounds = metric.buckets.unwrap_or_default().iter().map(ToString::to_string);
        let bounds: Vec<String> = bounds.chain(["+Inf".to_owned()]).collect();
        for series in series {
            series.render(name, &bounds, shown, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use opentelemetry::trace::TraceId;

    use super::*;
    use crate::telemetry::exemplars::tests::{confirm, series};

    fn rendered(series: &Series, name: &str, shown: &BTreeMap<usize, Exemplar>) -> Vec<String> {
        let (mut text, mut bounds) = (String::new(), Vec::from_iter(series.bounds.iter().map(ToString::to_string)));
        bounds.push("+Inf".to_owned());
        series.render(name, &bounds, shown, &mut text);
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn each_value_is_counted_in_every_bucket_that_holds_it_also_on_its_bound() {
        let name = "payments_orders_per_transaction";
        let series = series(name, &[]);
        for value in [1.0, 2.0, 2.5, 1e9] {
            series.count(series.measured(value));
        }
        let lines = rendered(series, name, &BTreeMap::new());
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
    fn an_exemplar_stands_behind_its_bucket_and_nowhere_else() {
        let (name, series) = ("payments_operation_duration_seconds", confirm());
        let at = UNIX_EPOCH + Duration::from_millis(1_800_000_000_250);
        let exemplar = Exemplar { trace: TraceId::from(255), payment: Some("pay_1".to_owned()), value: 0.3125, at };
        let lines = rendered(series, name, &BTreeMap::from([(series.measured(0.3125).place(), exemplar)]));
        let with: Vec<&String> = lines.iter().filter(|line| line.contains('#')).collect();
        let start = format!("{name}_bucket{{operation=\"confirm\",outcome_class=\"ok\",le=\"0.5\"}} 0");
        let trace = "000000000000000000000000000000ff";
        let wanted = format!(r#"{start} # {{trace_id="{trace}",payment_id="pay_1"}} 0.3125 1800000000.250"#);
        assert_eq!(with, [&wanted]);
        assert_eq!(lines.len(), series.bounds.len() + 3);
    }

    #[test]
    fn every_metric_finds_room_for_its_buckets() {
        let most = catalogue::all().iter().filter_map(|metric| metric.buckets).map(<[f64]>::len).max();
        assert!(most.is_some_and(|most| most < BUCKETS_MAX), "{most:?}");
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let (name, labels) = ("payments_step_duration_seconds", [("operation", "confirm"), ("step", "compute")]);
        let series = series(name, &labels);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| series.count(series.measured(0.25))));
            }
        });
        let lines = rendered(series, name, &BTreeMap::new());
        let labels = r#"{operation="confirm",step="compute"}"#;
        assert!(lines.contains(&format!("{name}_sum{labels} 10000")), "{lines:?}");
        assert!(lines.contains(&format!("{name}_count{labels} 40000")), "{lines:?}");
        let whole = r#"payments_step_duration_seconds_bucket{operation="confirm",step="compute",le="+Inf"} 40000"#;
        assert!(lines.iter().any(|line| line == whole), "{lines:?}");
    }
}
