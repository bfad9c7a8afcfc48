//! Which traces are kept: decided in this process when the root of a trace ends, since only then it is known how it
//! went. Head sampling would lose the one payment that somebody asks for.
//!
//! Ended spans wait in the room of their trace for its root. Every root of this process begins a trace of its own (`propagate` continues
//! nobody's), so a trace is what hangs under one local root. Kept is what failed or is not certain, what was slow, what
//! a bucket of a histogram wants as its exemplar, and one in many of the rest. The memory is bounded: when there is no
//! room, ordinary traces are given up first; all of it is counted. Spans that end after their root follow its verdict.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{SpanKind, TraceId};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::SpanData;

use super::catalogue as c;
use super::exemplars::{Candidate, Offer, Store};
use super::export::{Kept, QUEUE_SPANS_MAX, Queue};
use super::labels::TraceDecision;
use super::traces::Trace;

/// Spans that wait for their root at most.
pub(super) const BUFFERED_SPANS_MAX: usize = 16_384;
/// Who has no end by then is slow, whatever it is.
const ROOT_WITHIN: Duration = Duration::from_secs(30);
/// How many of the oldest traces are looked at to find one to give up.
const LOOKED_AT: usize = 64;
/// A request that takes or gives back money, any other request, and an item or round of a worker are slow after this.
const SLOW_MONEY: Duration = Duration::from_millis(2_500);
const SLOW_REQUEST: Duration = Duration::from_millis(500);
const SLOW_WORK: Duration = Duration::from_secs(10);

/// The attributes that a verdict looks at.
pub(super) const OPERATION: &str = "payments.operation";
pub(super) const PAYMENT_ID: &str = "payments.payment.id";
pub(super) const ROWS: &str = "payments.worker.rows";

/// Knows the traces that wait for their root.
#[derive(Debug)]
pub(super) struct Tail {
    waiting: Mutex<Waiting>,
    /// How many spans wait, of all traces.
    spans: AtomicUsize,
    queue: Queue,
    store: Arc<Store>,
    /// Which share of ordinary traces is kept, 0 to 1.
    keep_ratio: f64,
    spans_max: usize,
}

/// Our traces' ids are random, and no caller chooses one: they need no mixing.
type ByTrace<T> = HashMap<TraceId, T, BuildHasherDefault<Random>>;

#[derive(Debug, Default)]
struct Random(u64);

impl Hasher for Random {
    fn write(&mut self, bytes: &[u8]) {
        for eight in bytes.as_chunks::<8>().0 {
            self.0 ^= u64::from_ne_bytes(*eight);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug, Default)]
struct Waiting {
    traces: ByTrace<Arc<Trace>>,
    /// In the order of their beginning, with some that are settled in between.
    oldest: VecDeque<(TraceId, Instant)>,
}

/// What a verdict knows about the root of a trace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    is_slow: bool,
    /// A round of a worker that found nothing to do.
    is_idle: bool,
}

impl Seen {
    /// Of a root of this kind that took so long; `told` is what was told about it.
    pub(super) fn of<'a>(kind: &SpanKind, lasted: Duration, told: impl Fn(&str) -> Option<&'a Value>) -> Self {
        let is_slow = lasted >= slow_after(kind, told(OPERATION));
        Self { is_slow, is_idle: told(ROWS) == Some(&Value::I64(0)) }
    }
}

impl Tail {
    pub(super) fn new(keep_ratio: f64, store: Arc<Store>) -> Arc<Self> {
        Self::with_room(keep_ratio, store, BUFFERED_SPANS_MAX, QUEUE_SPANS_MAX)
    }

    pub(super) fn with_room(keep_ratio: f64, store: Arc<Store>, buffered: usize, queued: usize) -> Arc<Self> {
        let (waiting, spans, queue) = (Mutex::default(), AtomicUsize::new(0), Queue::new(queued));
        Arc::new(Self { waiting, spans, queue, store, keep_ratio, spans_max: buffered })
    }

    pub(super) const fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Takes the place of one more span that waits, if there is one.
    pub(super) fn take_place(&self) -> bool {
        let one_more = |spans: usize| (spans < self.spans_max).then_some(spans + 1);
        self.spans.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    pub(super) fn leave_places(&self, spans: usize) {
        self.spans.fetch_sub(spans, Ordering::Relaxed);
    }

    /// Takes a place that one of the oldest traces leaves in which nothing has failed so far; `false` if there is none.
    /// Not to be called with the room of a trace in hand.
    pub(super) fn make_place(&self) -> bool {
        let given_up = self.waiting().take_an_ordinary_one();
        given_up.is_some_and(|trace| {
            trace.settle(self, TraceDecision::Overflow);
            self.take_place()
        })
    }

    /// Knows from now on that this trace waits for its root, if that are not too many.
    pub(super) fn wait_for(&self, trace: &Arc<Trace>) -> bool {
        let mut waiting = self.waiting();
        let has_room = waiting.traces.len() < self.spans_max;
        if has_room {
            waiting.add(trace);
        }
        has_room
    }

    /// It is decided about this trace.
    pub(super) fn forget(&self, trace: TraceId) {
        let forgotten = self.waiting().traces.remove(&trace);
        drop(forgotten);
    }

    pub(super) fn decide(&self, trace: TraceId, root: Seen, offers: &[Offer]) -> TraceDecision {
        if root.is_slow {
            TraceDecision::Slow
        } else if self.store.choose(offers, SystemTime::now()) {
            TraceDecision::Exemplar
        } else if is_sampled(trace, self.keep_ratio) && !root.is_idle {
            TraceDecision::Sample
        } else {
            TraceDecision::Dropped
        }
    }

    /// Hands spans to the receiver's queue, with what was measured in them.
    pub(super) fn keep(&self, spans: Vec<SpanData>, offers: &[Offer], is_ordinary: bool) {
        self.queue.push(kept(spans, offers, is_ordinary));
    }

    /// Decides about the traces that have been waiting for their root for too long: they are slow.
    pub(super) fn sweep(&self, now: Instant) {
        let (mut waiting, mut late) = (self.waiting(), Vec::new());
        while let Some(&(trace, began)) = waiting.oldest.front()
            && now.saturating_duration_since(began) >= ROOT_WITHIN
        {
            waiting.oldest.pop_front();
            late.extend(waiting.traces.remove(&trace));
        }
        drop(waiting);
        late.into_iter().for_each(|trace| trace.settle(self, TraceDecision::Slow));
    }

    /// The process ends: what failed so far is kept, the rest has no end to judge by. Waits for what is left to be sent;
    /// `false` if that takes longer than `limit`.
    pub(super) fn shut_down(&self, limit: Duration) -> bool {
        let traces = std::mem::take(&mut self.waiting().traces);
        traces.into_values().for_each(|trace| trace.settle(self, TraceDecision::Dropped));
        self.queue.close(limit)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many spans wait for their root.
    #[cfg(test)]
    pub(super) fn spans(&self) -> usize {
        self.spans.load(Ordering::Relaxed)
    }
}

impl Waiting {
    fn add(&mut self, trace: &Arc<Trace>) {
        while self.oldest.front().is_some_and(|(first, _)| !self.traces.contains_key(first)) {
            self.oldest.pop_front();
        }
        self.oldest.push_back((trace.id(), Instant::now()));
        self.traces.insert(trace.id(), Arc::clone(trace));
    }

    fn take_an_ordinary_one(&mut self) -> Option<Arc<Trace>> {
        let is_ordinary = |(trace, _): &&(TraceId, Instant)| self.traces.get(trace).is_some_and(|of| !of.has_error());
        let &(trace, _) = self.oldest.iter().take(LOOKED_AT).find(is_ordinary)?;
        self.traces.remove(&trace)
    }
}

/// Counts what was decided about a trace.
pub(super) fn count_trace(decision: TraceDecision) {
    c::TRACES.of((decision,)).increment(1);
}

pub(super) const fn is_kept(decision: TraceDecision) -> bool {
    match decision {
        TraceDecision::Error | TraceDecision::Slow | TraceDecision::Exemplar | TraceDecision::Sample => true,
        TraceDecision::Dropped | TraceDecision::Overflow => false,
    }
}

/// Makes spans and what was measured in them tell the same: a span whose time is an observation lasts exactly as long,
/// and each carries the values that its exemplars show.
fn kept(mut spans: Vec<SpanData>, offers: &[Offer], is_ordinary: bool) -> Kept {
    let payment = spans.iter().rev().find_map(|span| attribute(span, PAYMENT_ID)).map(|id| id.as_str().into_owned());
    let (mut exemplars, now) = (Vec::new(), SystemTime::now());
    for offer in offers {
        let Some(span) = spans.iter_mut().find(|span| span.span_context.span_id() == offer.span) else { continue };
        if offer.is_the_spans_own()
            && let Ok(lasted) = Duration::try_from_secs_f64(offer.measured.value)
        {
            span.end_time = span.start_time + lasted;
        }
        span.attributes.push(KeyValue::new(offer.attribute().to_owned(), offer.measured.value));
        exemplars.push(Candidate::new(offer, span.span_context.trace_id(), payment.clone(), now));
    }
    for span in &mut spans {
        keep_what_was_told_first(&mut span.attributes);
    }
    Kept { spans, exemplars, is_ordinary }
}

/// A verb's own outcome comes before what the edge makes of it.
fn keep_what_was_told_first(attributes: &mut Vec<KeyValue>) {
    let mut at = 0;
    while at < attributes.len() {
        let (told, rest) = attributes.split_at(at);
        let is_again = rest.first().is_some_and(|next| told.iter().any(|before| before.key == next.key));
        if is_again {
            attributes.remove(at);
        } else {
            at += 1;
        }
    }
}

fn attribute<'a>(span: &'a SpanData, key: &str) -> Option<&'a Value> {
    span.attributes.iter().find(|attribute| attribute.key.as_str() == key).map(|attribute| &attribute.value)
}

fn slow_after(kind: &SpanKind, operation: Option<&Value>) -> Duration {
    let takes_money = operation.is_some_and(|value| matches!(value.as_str().as_ref(), "confirm" | "cancel"));
    match kind {
        SpanKind::Server if takes_money => SLOW_MONEY,
        SpanKind::Server => SLOW_REQUEST,
        SpanKind::Internal | SpanKind::Client | SpanKind::Producer | SpanKind::Consumer => SLOW_WORK,
    }
}

/// One in many, by the trace's id alone, so that whoever knows the id and the share can tell.
fn is_sampled(trace: TraceId, keep_ratio: f64) -> bool {
    let [a, b, c, d, ..] = trace.to_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) < keep_ratio * (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests;
