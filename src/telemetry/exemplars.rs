//! Exemplars: from a bucket of a histogram to the trace of a real payment.
//!
//! A histogram that carries them offers each value to `tail` together with the span it was measured in. Only after the
//! trace was kept and a receiver has it, the values are published here: no exemplar leads to a trace that is nowhere.
//! There is one place per bucket of each series, the newest wins, and it is forgotten after a while; so the memory is
//! bounded by the series.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use metrics::Key;
use opentelemetry::trace::{SpanId, TraceContextExt as _, TraceId};

use super::catalogue::{Measures, MetricInfo};
use super::{tail, traces};

/// An exemplar that is older than this is shown no more.
const SHOWN_FOR: Duration = Duration::from_secs(600);
/// A bucket asks for the trace of another example after this.
const RENEWED_EVERY: Duration = Duration::from_secs(30);

/// A series of a histogram that carries exemplars.
#[derive(Debug)]
pub struct Series {
    id: u32,
    /// How the lines of its buckets begin in the exposition, up to the bucket's bound: `x_bucket{a="b",le="`.
    line_start: String,
    /// Under which name a span carries the value that was measured in it.
    attribute: String,
    bounds: &'static [f64],
    measures: Measures,
}

impl Series {
    pub(super) fn new(key: &Key, metric: &MetricInfo) -> Option<Arc<Self>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (measures, bounds) = (metric.exemplars?, metric.buckets?);
        let mut line_start = format!("{}_bucket{{", metric.name);
        for label in key.labels() {
            line_start.extend([label.key(), "=\"", label.value(), "\","]);
        }
        line_start.push_str("le=\"");
        let last = key.labels().last().map_or("", metrics::Label::value);
        let attribute = format!("{}.{last}", metric.name);
        Some(Arc::new(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), line_start, attribute, bounds, measures }))
    }

    /// The tightest bucket that holds the value; the last one has no bound.
    fn bucket(&self, value: f64) -> usize {
        self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len())
    }
}

/// A value that was measured in a span.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    series: Arc<Series>,
    pub(super) span: SpanId,
    pub(super) value: f64,
    at: SystemTime,
}

impl Offer {
    #[cfg(test)]
    pub(super) fn new(series: &Arc<Series>, span: SpanId, value: f64, at: SystemTime) -> Self {
        Self { series: Arc::clone(series), span, value, at }
    }

    /// How the span carries the value.
    pub(super) fn attribute(&self) -> &str {
        &self.series.attribute
    }

    /// Whether the value is how long the span lasted, and not only a part of it.
    pub(super) fn is_the_spans_own(&self) -> bool {
        self.series.measures == Measures::Span
    }
}

/// Offers a value to the trace being worked in, if traces are kept at all.
pub(super) fn offer(series: &Arc<Series>, value: f64) {
    let Some(tail) = tail::of_this_process() else { return };
    let context = traces::current();
    let span = context.span();
    let span = span.span_context();
    if span.is_valid() {
        let series = Arc::clone(series);
        tail.offer(span.trace_id(), Offer { series, span: span.span_id(), value, at: SystemTime::now() });
    }
}

/// What a bucket shows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Exemplar {
    pub(super) trace: TraceId,
    pub(super) payment: Option<String>,
    pub(super) value: f64,
    pub(super) at: SystemTime,
}

/// An exemplar that waits for its trace to arrive.
#[derive(Debug)]
pub(super) struct Candidate {
    series: Arc<Series>,
    exemplar: Exemplar,
}

impl Candidate {
    pub(super) fn new(offer: &Offer, trace: TraceId, payment: Option<String>) -> Self {
        let exemplar = Exemplar { trace, payment, value: offer.value, at: offer.at };
        Self { series: Arc::clone(&offer.series), exemplar }
    }
}

/// The exemplars of this process.
#[derive(Debug, Default)]
pub(super) struct Store(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    shown: BTreeMap<u32, (Arc<Series>, Vec<Option<Exemplar>>)>,
    /// When a bucket last chose a trace.
    chosen: HashMap<(u32, usize), SystemTime>,
}

impl Store {
    /// Whether the buckets of these values want an example, counted from `now`; if any does, all of them have one.
    pub(super) fn choose(&self, offers: &[Offer], now: SystemTime) -> bool {
        let mut places = self.places();
        let is_old = |chosen: &SystemTime| now.duration_since(*chosen).is_ok_and(|age| age >= RENEWED_EVERY);
        let wanted = offers.iter().any(|offer| {
            let place = (offer.series.id, offer.series.bucket(offer.value));
            places.chosen.get(&place).is_none_or(is_old)
        });
        if wanted {
            for offer in offers {
                places.chosen.insert((offer.series.id, offer.series.bucket(offer.value)), now);
            }
        }
        wanted
    }

    /// Shows them: their traces have arrived.
    pub(super) fn publish(&self, candidates: Vec<Candidate>) {
        let mut places = self.places();
        for Candidate { series, exemplar } in candidates {
            let bucket = series.bucket(exemplar.value);
            let empty = || (Arc::clone(&series), vec![None; series.bounds.len() + 1]);
            let (_, buckets) = places.shown.entry(series.id).or_insert_with(empty);
            if let Some(place) = buckets.get_mut(bucket)
                && place.as_ref().is_none_or(|shown| shown.at <= exemplar.at)
            {
                *place = Some(exemplar);
            }
        }
    }

    /// What is shown at `now`, by the start of a bucket's line and its bound.
    pub(super) fn snapshot(&self, now: SystemTime) -> Shown {
        let mut places = self.places();
        let is_old = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age >= SHOWN_FOR);
        let mut shown = Shown::default();
        for (series, buckets) in places.shown.values_mut() {
            for place in buckets.iter_mut() {
                if place.as_ref().is_some_and(|exemplar| is_old(exemplar.at)) {
                    *place = None;
                }
            }
            shown.count += buckets.iter().flatten().count();
            shown.series.insert(series.line_start.clone(), (series.bounds, buckets.clone()));
        }
        shown
    }

    fn places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the buckets show at one moment.
#[derive(Debug, Default)]
pub(super) struct Shown {
    series: HashMap<String, (&'static [f64], Vec<Option<Exemplar>>)>,
    /// How many there are.
    pub(super) count: usize,
}

impl Shown {
    /// The exemplar of the bucket whose line begins so and has this bound.
    pub(super) fn find(&self, line_start: &str, bound: &str) -> Option<&Exemplar> {
        let (bounds, buckets) = self.series.get(line_start)?;
        let bound: f64 = bound.parse().ok()?;
        let bucket = bounds.iter().position(|of| *of >= bound).unwrap_or(bounds.len());
        buckets.get(bucket)?.as_ref()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::telemetry::catalogue::all;

    pub(in crate::telemetry) fn series(name: &'static str, labels: &[(&'static str, &'static str)]) -> Arc<Series> {
        let metric = all().iter().find(|metric| metric.name == name).expect("in the catalogue");
        let labels: Vec<_> = labels.iter().map(|(key, value)| metrics::Label::new(*key, *value)).collect();
        Series::new(&Key::from_parts(name, labels), metric).expect("it carries exemplars")
    }

    pub(in crate::telemetry) fn confirm() -> Arc<Series> {
        series("payments_operation_duration_seconds", &[("operation", "confirm"), ("outcome_class", "ok")])
    }

    pub(in crate::telemetry) const LINE: &str =
        r#"payments_operation_duration_seconds_bucket{operation="confirm",outcome_class="ok",le=""#;

    fn candidate(series: &Arc<Series>, value: f64, trace: u128, at: SystemTime) -> Candidate {
        let offer = Offer::new(series, SpanId::from(7), value, at);
        Candidate::new(&offer, TraceId::from(trace), None)
    }

    #[test]
    fn the_newest_value_stands_at_its_tightest_bucket_and_is_forgotten() {
        let (store, series, now) = (Store::default(), confirm(), SystemTime::now());
        store.publish(vec![candidate(&series, 0.3, 2, now)]);
        store.publish(vec![candidate(&series, 0.4, 1, now - Duration::from_secs(1))]);
        store.publish(vec![candidate(&series, 61.0, 3, now), candidate(&series, 0.25, 4, now)]);
        let shown = store.snapshot(now);
        let trace = |bound: &str| shown.find(LINE, bound).map(|exemplar| exemplar.trace);
        assert_eq!(trace("0.5"), Some(TraceId::from(2)), "an older one does not take its place");
        assert_eq!((trace("+Inf"), trace("0.25")), (Some(TraceId::from(3)), Some(TraceId::from(4))));
        assert_eq!((trace("0.75"), trace("60"), trace("0.1")), (None, None, None));
        assert_eq!(shown.count, 3);
        assert_eq!(store.snapshot(now + SHOWN_FOR).count, 0);
    }

    #[test]
    fn a_bucket_asks_again_only_after_a_while() {
        let (store, series, now) = (Store::default(), confirm(), SystemTime::now());
        let offer = |value| vec![Offer::new(&series, SpanId::from(7), value, now)];
        assert!(store.choose(&offer(0.3), now));
        assert!(!store.choose(&offer(0.4), now), "the same bucket");
        assert!(store.choose(&offer(0.6), now), "another one");
        assert!(store.choose(&offer(0.3), now + RENEWED_EVERY));
        assert!(!store.choose(&[], now));
    }

    #[test]
    fn a_series_is_found_as_the_exporter_writes_it() {
        use crate::telemetry::labels::{Operation, OutcomeClass};
        drop(crate::telemetry::catalogue::OPERATION_DURATION.of((Operation::Confirm, OutcomeClass::Ok)));
        let text = crate::telemetry::for_tests().metrics().render();
        let lines = text.lines().filter(|line| line.starts_with(LINE)).count();
        assert_eq!(lines, confirm().bounds.len() + 1);
        assert_eq!(confirm().line_start, LINE);
    }
}
