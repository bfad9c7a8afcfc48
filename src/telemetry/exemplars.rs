//! Exemplars: from a bucket of a histogram to the trace of a real payment.
//!
//! A histogram that carries them offers each value to `tail` together with the span it was measured in. Only after the
//! trace was kept and a receiver has it, the values are published here: no exemplar leads to a trace that is nowhere.
//! There is one place per bucket of each series, the newest wins, and it is forgotten after a while; so the memory is
//! bounded by the series.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanId, TraceId};

use super::catalogue::Measures;
use super::histogram::Series;

/// An exemplar that is older than this is shown no more.
const SHOWN_FOR: Duration = Duration::from_secs(600);
/// A bucket asks for the trace of another example after this.
const RENEWED_EVERY: Duration = Duration::from_secs(30);

/// A value that was measured in a span.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    series: &'static Series,
    pub(super) span: SpanId,
    pub(super) value: f64,
    at: SystemTime,
}

impl Offer {
    pub(super) const fn new(series: &'static Series, span: SpanId, value: f64, at: SystemTime) -> Self {
        Self { series, span, value, at }
    }

    /// How the span carries the value.
    pub(super) fn attribute(&self) -> &str {
        &self.series.attribute
    }

    /// Whether the value is how long the span lasted, and not only a part of it.
    pub(super) fn is_the_spans_own(&self) -> bool {
        self.series.measures == Some(Measures::Span)
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
    series: &'static Series,
    exemplar: Exemplar,
}

impl Candidate {
    pub(super) fn new(offer: &Offer, trace: TraceId, payment: Option<String>) -> Self {
        let exemplar = Exemplar { trace, payment, value: offer.value, at: offer.at };
        Self { series: offer.series, exemplar }
    }
}

/// The exemplars of this process.
#[derive(Debug, Default)]
pub(super) struct Store(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    shown: BTreeMap<u32, (&'static Series, Vec<Option<Exemplar>>)>,
    /// When a bucket last chose a trace, by the number of its series and its own.
    chosen: Vec<Vec<Option<SystemTime>>>,
}

impl Store {
    /// Whether the buckets of these values want an example, counted from `now`; if any does, all of them have one.
    pub(super) fn choose(&self, offers: &[Offer], now: SystemTime) -> bool {
        let mut places = self.places();
        let is_old = |chosen: &SystemTime| now.duration_since(*chosen).is_ok_and(|age| age >= RENEWED_EVERY);
        let wanted = offers.iter().any(|offer| places.chosen(offer).is_none_or(|chosen| is_old(&chosen)));
        if wanted {
            offers.iter().for_each(|offer| places.choose(offer, now));
        }
        wanted
    }

    /// Shows them: their traces have arrived.
    pub(super) fn publish(&self, candidates: Vec<Candidate>) {
        let mut places = self.places();
        for Candidate { series, exemplar } in candidates {
            let bucket = series.bucket(exemplar.value);
            let empty = || (series, vec![None; series.bounds.len() + 1]);
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

impl Places {
    fn chosen(&self, offer: &Offer) -> Option<SystemTime> {
        let buckets = self.chosen.get(usize::try_from(offer.series.id).ok()?)?;
        buckets.get(offer.series.bucket(offer.value)).copied().flatten()
    }

    fn choose(&mut self, offer: &Offer, now: SystemTime) {
        let (id, series) = (usize::try_from(offer.series.id).unwrap_or(usize::MAX), offer.series);
        if self.chosen.len() <= id {
            self.chosen.resize_with(id.saturating_add(1), Vec::new);
        }
        if let Some(buckets) = self.chosen.get_mut(id) {
            buckets.resize(series.bounds.len() + 1, None);
            if let Some(bucket) = buckets.get_mut(series.bucket(offer.value)) {
                *bucket = Some(now);
            }
        }
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
    use metrics::Key;

    use super::*;
    use crate::telemetry::catalogue::all;

    pub(in crate::telemetry) fn series(name: &'static str, labels: &[(&'static str, &'static str)]) -> &'static Series {
        let metric = all().iter().find(|metric| metric.name == name).expect("in the catalogue");
        let labels: Vec<_> = labels.iter().map(|(key, value)| metrics::Label::new(*key, *value)).collect();
        Series::new(&Key::from_parts(name, labels), metric).expect("it carries exemplars")
    }

    pub(in crate::telemetry) fn confirm() -> &'static Series {
        series("payments_operation_duration_seconds", &[("operation", "confirm"), ("outcome_class", "ok")])
    }

    pub(in crate::telemetry) const LINE: &str =
        r#"payments_operation_duration_seconds_bucket{operation="confirm",outcome_class="ok",le=""#;

    fn candidate(series: &'static Series, value: f64, trace: u128, at: SystemTime) -> Candidate {
        let offer = Offer::new(series, SpanId::from(7), value, at);
        Candidate::new(&offer, TraceId::from(trace), None)
    }

    #[test]
    fn the_newest_value_stands_at_its_tightest_bucket_and_is_forgotten() {
        let (store, series, now) = (Store::default(), confirm(), SystemTime::now());
        store.publish(vec![candidate(series, 0.3, 2, now)]);
        store.publish(vec![candidate(series, 0.4, 1, now - Duration::from_secs(1))]);
        store.publish(vec![candidate(series, 61.0, 3, now), candidate(series, 0.25, 4, now)]);
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
        let offer = |value| vec![Offer::new(series, SpanId::from(7), value, now)];
        assert!(store.choose(&offer(0.3), now));
        assert!(!store.choose(&offer(0.4), now), "the same bucket");
        assert!(store.choose(&offer(0.6), now), "another one");
        assert!(store.choose(&offer(0.3), now + RENEWED_EVERY));
        assert!(!store.choose(&[], now));
    }

    #[test]
    fn a_series_is_found_as_the_exporter_writes_it() {
        use crate::telemetry::labels::{Operation, OutcomeClass};
        let _made = crate::telemetry::catalogue::OPERATION_DURATION.of((Operation::Confirm, OutcomeClass::Ok));
        let text = crate::telemetry::for_tests().metrics().render();
        let lines = text.lines().filter(|line| line.starts_with(LINE)).count();
        assert_eq!(lines, confirm().bounds.len() + 1);
        assert_eq!(confirm().line_start, LINE);
    }
}
