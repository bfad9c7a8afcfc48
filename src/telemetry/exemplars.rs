//! Exemplars: from a bucket of a histogram to the trace of a real payment.
//!
//! A histogram that carries them offers each value to `tail` together with the span it was measured in. Only after the
//! trace was kept and a receiver has it, the values are published here: no exemplar leads to a trace that is nowhere.
//! There is one place per bucket of each series, the newest wins, and it is forgotten after a while; so the memory is
//! bounded by the series.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanId, TraceId};

use super::catalogue::Measures;
use super::histogram::Measured;

/// An exemplar that is older than this is shown no more.
const SHOWN_FOR: Duration = Duration::from_secs(600);
/// A bucket asks for the trace of another example after this.
const RENEWED_EVERY: Duration = Duration::from_secs(30);

/// A value that was measured in a span.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    pub(super) measured: Measured,
    pub(super) span: SpanId,
}

impl Offer {
    /// How the span carries the value.
    pub(super) fn attribute(&self) -> &str {
        self.measured.series.attribute()
    }

    /// Whether the value is how long the span lasted, and not only a part of it.
    pub(super) fn is_the_spans_own(&self) -> bool {
        self.measured.series.measures == Some(Measures::Span)
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
    place: usize,
    exemplar: Exemplar,
}

impl Candidate {
    /// `at` is when it was decided to keep the trace.
    pub(super) const fn new(offer: &Offer, trace: TraceId, payment: Option<String>, at: SystemTime) -> Self {
        let Offer { measured, .. } = *offer;
        Self { place: measured.place(), exemplar: Exemplar { trace, payment, value: measured.value, at } }
    }
}

/// The exemplars of this process.
#[derive(Debug, Default)]
pub(super) struct Store(Mutex<Places>);

/// By the place of a bucket among those of all series.
#[derive(Debug, Default)]
struct Places {
    shown: BTreeMap<usize, Exemplar>,
    /// When a bucket last chose a trace.
    chosen: Vec<Option<SystemTime>>,
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
        for Candidate { place, exemplar } in candidates {
            let is_newest = places.shown.get(&place).is_none_or(|shown| shown.at <= exemplar.at);
            if is_newest {
                places.shown.insert(place, exemplar);
            }
        }
    }

    /// What is shown at `now`, by the place of its bucket.
    pub(super) fn snapshot(&self, now: SystemTime) -> BTreeMap<usize, Exemplar> {
        let mut places = self.places();
        let is_old = |at| now.duration_since(at).is_ok_and(|age| age >= SHOWN_FOR);
        places.shown.retain(|_, shown| !is_old(shown.at));
        places.shown.clone()
    }

    fn places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn chosen(&self, offer: &Offer) -> Option<SystemTime> {
        self.chosen.get(offer.measured.place()).copied().flatten()
    }

    fn choose(&mut self, offer: &Offer, now: SystemTime) {
        let place = offer.measured.place();
        if self.chosen.len() <= place {
            self.chosen.resize(place + 1, None);
        }
        if let Some(chosen) = self.chosen.get_mut(place) {
            *chosen = Some(now);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::LazyLock;

    use metrics::Key;

    use super::*;
    use crate::telemetry::catalogue::all;
    use crate::telemetry::histogram::Series;

    pub(in crate::telemetry) fn series(name: &'static str, labels: &[(&'static str, &'static str)]) -> &'static Series {
        let metric = all().iter().find(|metric| metric.name == name).expect("in the catalogue");
        let labels: Vec<_> = labels.iter().map(|(key, value)| metrics::Label::new(*key, *value)).collect();
        Series::new(&Key::from_parts(name, labels), metric).expect("it carries exemplars")
    }

    pub(in crate::telemetry) fn confirm() -> &'static Series {
        static CONFIRM: LazyLock<&Series> = LazyLock::new(|| {
            series("payments_operation_duration_seconds", &[("operation", "confirm"), ("outcome_class", "ok")])
        });
        &CONFIRM
    }

    pub(in crate::telemetry) fn offer(series: &'static Series, value: f64) -> Offer {
        Offer { measured: series.measured(value), span: SpanId::from(7) }
    }

    fn candidate(series: &'static Series, value: f64, trace: u128, at: SystemTime) -> Candidate {
        Candidate::new(&offer(series, value), TraceId::from(trace), None, at)
    }

    #[test]
    fn the_newest_value_stands_at_its_tightest_bucket_and_is_forgotten() {
        let (store, series, now) = (Store::default(), confirm(), SystemTime::now());
        store.publish(vec![candidate(series, 0.3, 2, now)]);
        store.publish(vec![candidate(series, 0.4, 1, now - Duration::from_secs(1))]);
        store.publish(vec![candidate(series, 61.0, 3, now), candidate(series, 0.25, 4, now)]);
        let shown = store.snapshot(now);
        let trace = |value| shown.get(&series.measured(value).place()).map(|exemplar| exemplar.trace);
        assert_eq!(trace(0.5), Some(TraceId::from(2)), "an older one does not take its place");
        assert_eq!((trace(1e9), trace(0.25)), (Some(TraceId::from(3)), Some(TraceId::from(4))));
        assert_eq!((trace(0.75), trace(60.0), trace(0.1)), (None, None, None));
        assert_eq!(shown.len(), 3);
        assert_eq!(store.snapshot(now + SHOWN_FOR).len(), 0);
    }

    #[test]
    fn a_bucket_asks_again_only_after_a_while() {
        let (store, series, now) = (Store::default(), confirm(), SystemTime::now());
        let one = |value| [offer(series, value)];
        assert!(store.choose(&one(0.3), now));
        assert!(!store.choose(&one(0.4), now), "the same bucket");
        assert!(store.choose(&one(0.6), now), "another one");
        assert!(store.choose(&one(0.3), now + RENEWED_EVERY));
        assert!(!store.choose(&[], now));
    }
}
