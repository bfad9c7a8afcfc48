//! Which traces are kept: decided in this process when the root of a trace ends, since only then it is known how it
//! went. Head sampling would lose the one payment that somebody asks for.
//!
//! Ended spans wait here for their root. Every root of this process begins a trace of its own (`propagate` continues
//! nobody's), so a trace is what hangs under one local root. Kept is what failed or is not certain, what was slow, what
//! a bucket of a histogram wants as its exemplar, and one in many of the rest. The memory is bounded: when there is no
//! room, ordinary traces are given up first; all of it is counted. Spans that end after their root follow its verdict.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{SpanId, SpanKind, Status, TraceId};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};

use super::catalogue as c;
use super::exemplars::{Candidate, Offer, Store};
use super::export::{Kept, QUEUE_SPANS_MAX, Queue, count};
use super::labels::{SpanResult, TraceDecision};

/// Spans that wait for their root at most.
pub(super) const BUFFERED_SPANS_MAX: usize = 16_384;
/// Who has no end by then is slow, whatever it is.
const ROOT_WITHIN: Duration = Duration::from_secs(30);
/// Verdicts that are remembered for spans that end after their root.
const VERDICTS_MAX: usize = 4_096;
/// Room for the spans and values that most traces have, so that they are not moved while their number grows.
const USUAL_SPANS: usize = 8;
/// How many rooms each thread keeps for its next traces, and how large one may be for that.
const ROOMS_MAX: usize = 16;
const ROOM_SPANS_MAX: usize = 64;
/// Values of one trace that can become exemplars.
const OFFERS_MAX: usize = 64;
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

static TAIL: OnceLock<Arc<Tail>> = OnceLock::new();

/// Where values of this process are offered, if it keeps traces.
pub(super) fn of_this_process() -> Option<&'static Arc<Tail>> {
    TAIL.get()
}

/// Makes this the one to which values are offered; the first stays it.
pub(super) fn set_of_this_process(tail: &Arc<Tail>) {
    let _first = TAIL.set(Arc::clone(tail));
}

/// Holds spans until their root has ended.
#[derive(Debug)]
pub(super) struct Tail {
    buffer: Mutex<Buffer>,
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
struct Buffer {
    open: ByTrace<Open>,
    /// Open traces in the order of their beginning, with some that are settled in between.
    oldest: VecDeque<(TraceId, Instant)>,
    spans: usize,
    verdicts: ByTrace<Verdict>,
    verdicts_oldest: VecDeque<TraceId>,
}

/// A trace whose root has not ended.
#[derive(Debug)]
struct Open {
    spans: Vec<SpanData>,
    offers: Vec<Offer>,
    has_error: bool,
}

thread_local! {
    /// Of traces that were dropped.
    static ROOMS: RefCell<Vec<Open>> = RefCell::default();
}

impl Open {
    fn begin() -> Self {
        let kept = ROOMS.try_with(|rooms| rooms.borrow_mut().pop()).ok().flatten();
        let room = || Self {
            spans: Vec::with_capacity(USUAL_SPANS),
            offers: Vec::with_capacity(USUAL_SPANS),
            has_error: false,
        };
        kept.unwrap_or_else(room)
    }

    fn drop_all(mut self) {
        self.spans.clear();
        self.offers.clear();
        self.has_error = false;
        // A thread that ends has no rooms any more.
        let _ended = ROOMS.try_with(|rooms| {
            let mut rooms = rooms.borrow_mut();
            if rooms.len() < ROOMS_MAX && self.spans.capacity() <= ROOM_SPANS_MAX {
                rooms.push(self);
            }
        });
    }
}

/// A trace about which it is decided.
#[must_use = "it is to be kept or dropped"]
struct Settled {
    trace: Open,
    decision: TraceDecision,
}

/// What was decided about a trace, for those who come late.
#[derive(Debug)]
struct Verdict {
    is_kept: bool,
    offers: Vec<Offer>,
}

impl Tail {
    pub(super) fn new(keep_ratio: f64, store: Arc<Store>) -> Arc<Self> {
        Self::with_room(keep_ratio, store, BUFFERED_SPANS_MAX, QUEUE_SPANS_MAX)
    }

    pub(super) fn with_room(keep_ratio: f64, store: Arc<Store>, buffered: usize, queued: usize) -> Arc<Self> {
        let queue = Queue::new(queued);
        Arc::new(Self { buffer: Mutex::default(), queue, store, keep_ratio, spans_max: buffered })
    }

    pub(super) const fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Takes a value that was measured in a span of this trace.
    pub(super) fn offer(&self, trace: TraceId, offer: Offer) {
        let mut buffer = self.buffer();
        let has_room = buffer.open.len() < self.spans_max;
        if let Some(verdict) = buffer.verdicts.get_mut(&trace) {
            if verdict.is_kept {
                push_bounded(&mut verdict.offers, offer);
            }
        } else if has_room {
            push_bounded(&mut buffer.open(trace).offers, offer);
        }
    }

    /// Takes a span that has ended.
    fn end(&self, span: SpanData) {
        let trace = span.span_context.trace_id();
        let mut buffer = self.buffer();
        if let Some(verdict) = buffer.verdicts.get_mut(&trace) {
            let own = span.span_context.span_id();
            let (offers, others): (Vec<Offer>, _) =
                std::mem::take(&mut verdict.offers).into_iter().partition(|offer| offer.span == own);
            verdict.offers = others;
            let is_kept = verdict.is_kept;
            drop(buffer);
            return self.follow(is_kept, span, &offers);
        }
        let is_root = span.parent_span_id == SpanId::INVALID;
        if !is_root && buffer.spans >= self.spans_max && !buffer.give_up_an_ordinary_one() {
            return count(SpanResult::QueueFull, 1);
        }
        let open = buffer.open(trace);
        open.has_error |= matches!(span.status, Status::Error { .. });
        open.spans.push(span);
        buffer.spans += 1;
        if is_root {
            let settled = self.settle(&mut buffer, trace, None);
            drop(buffer);
            self.finish(settled);
        }
    }

    /// A span that ends after the verdict about its trace.
    fn follow(&self, is_kept: bool, span: SpanData, offers: &[Offer]) {
        if is_kept {
            self.queue.push(kept(vec![span], offers, false));
        } else {
            count(SpanResult::SampledOut, 1);
        }
    }

    /// Decides about a trace, by its root or `already`.
    fn settle(&self, buffer: &mut Buffer, trace: TraceId, already: Option<TraceDecision>) -> Option<Settled> {
        let open = buffer.open.remove(&trace)?;
        buffer.spans -= open.spans.len();
        let decision =
            if open.has_error { TraceDecision::Error } else { already.unwrap_or_else(|| self.decide(trace, &open)) };
        buffer.remember(trace, is_kept(decision));
        Some(Settled { trace: open, decision })
    }

    /// Does with a trace what was decided. Nobody has to wait for that.
    fn finish(&self, settled: Option<Settled>) {
        let Some(Settled { trace, decision }) = settled else { return };
        c::TRACES.of((decision,)).increment(1);
        if is_kept(decision) {
            let is_ordinary = matches!(decision, TraceDecision::Exemplar | TraceDecision::Sample);
            self.queue.push(kept(trace.spans, &trace.offers, is_ordinary));
        } else {
            count(SpanResult::SampledOut, trace.spans.len());
            trace.drop_all();
        }
    }

    fn decide(&self, trace: TraceId, open: &Open) -> TraceDecision {
        // The root is the span that ended last.
        let Some(root) = open.spans.last() else { return TraceDecision::Dropped };
        if root.end_time.duration_since(root.start_time).is_ok_and(|lasted| lasted >= slow_after(root)) {
            TraceDecision::Slow
        } else if self.store.choose(&open.offers, SystemTime::now()) {
            TraceDecision::Exemplar
        } else if is_sampled(trace, self.keep_ratio) && attribute(root, ROWS) != Some(&Value::I64(0)) {
            TraceDecision::Sample
        } else {
            TraceDecision::Dropped
        }
    }

    /// Decides about the traces that have been waiting for their root for too long: they are slow.
    pub(super) fn sweep(&self, now: Instant) {
        let (mut buffer, mut settled) = (self.buffer(), Vec::new());
        while let Some(&(trace, began)) = buffer.oldest.front()
            && now.saturating_duration_since(began) >= ROOT_WITHIN
        {
            buffer.oldest.pop_front();
            settled.push(self.settle(&mut buffer, trace, Some(TraceDecision::Slow)));
        }
        drop(buffer);
        settled.into_iter().for_each(|settled| self.finish(settled));
    }

    /// The process ends: what failed so far is kept, the rest has no end to judge by.
    fn settle_all(&self) {
        let mut buffer = self.buffer();
        let open: Vec<TraceId> = buffer.open.keys().copied().collect();
        let settle = |trace| self.settle(&mut buffer, trace, Some(TraceDecision::Dropped));
        let settled: Vec<_> = open.into_iter().map(settle).collect();
        drop(buffer);
        settled.into_iter().for_each(|settled| self.finish(settled));
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many spans wait for their root.
    #[cfg(test)]
    pub(super) fn spans(&self) -> usize {
        self.buffer().spans
    }
}

impl Buffer {
    fn open(&mut self, trace: TraceId) -> &mut Open {
        if !self.open.contains_key(&trace) {
            while self.oldest.front().is_some_and(|(first, _)| !self.open.contains_key(first)) {
                self.oldest.pop_front();
            }
            self.oldest.push_back((trace, Instant::now()));
        }
        self.open.entry(trace).or_insert_with(Open::begin)
    }

    /// Makes room by one of the oldest traces in which nothing has failed so far; `false` if there is none.
    fn give_up_an_ordinary_one(&mut self) -> bool {
        let is_ordinary = |(trace, _): &&(TraceId, Instant)| self.open.get(trace).is_some_and(|open| !open.has_error);
        let Some(&(trace, _)) = self.oldest.iter().take(LOOKED_AT).find(is_ordinary) else { return false };
        let Some(given_up) = self.open.remove(&trace) else { return false };
        self.spans -= given_up.spans.len();
        count(SpanResult::QueueFull, given_up.spans.len());
        c::TRACES.of((TraceDecision::Overflow,)).increment(1);
        self.remember(trace, false);
        true
    }

    fn remember(&mut self, trace: TraceId, is_kept: bool) {
        if self.verdicts_oldest.len() >= VERDICTS_MAX
            && let Some(first) = self.verdicts_oldest.pop_front()
        {
            self.verdicts.remove(&first);
        }
        self.verdicts_oldest.push_back(trace);
        self.verdicts.insert(trace, Verdict { is_kept, offers: Vec::new() });
    }
}

const fn is_kept(decision: TraceDecision) -> bool {
    match decision {
        TraceDecision::Error | TraceDecision::Slow | TraceDecision::Exemplar | TraceDecision::Sample => true,
        TraceDecision::Dropped | TraceDecision::Overflow => false,
    }
}

fn push_bounded(offers: &mut Vec<Offer>, offer: Offer) {
    if offers.len() < OFFERS_MAX {
        offers.push(offer);
    }
}

/// Makes spans and what was measured in them tell the same: a span whose time is an observation lasts exactly as long,
/// and each carries the values that its exemplars show.
fn kept(mut spans: Vec<SpanData>, offers: &[Offer], is_ordinary: bool) -> Kept {
    let payment = spans.iter().rev().find_map(|span| attribute(span, PAYMENT_ID)).map(|id| id.as_str().into_owned());
    let mut exemplars = Vec::new();
    for offer in offers {
        let Some(span) = spans.iter_mut().find(|span| span.span_context.span_id() == offer.span) else { continue };
        if offer.is_the_spans_own()
            && let Ok(lasted) = Duration::try_from_secs_f64(offer.value)
        {
            span.end_time = span.start_time + lasted;
        }
        span.attributes.push(KeyValue::new(offer.attribute().to_owned(), offer.value));
        exemplars.push(Candidate::new(offer, span.span_context.trace_id(), payment.clone()));
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

fn slow_after(root: &SpanData) -> Duration {
    let takes_money =
        attribute(root, OPERATION).is_some_and(|value| matches!(value.as_str().as_ref(), "confirm" | "cancel"));
    match root.span_kind {
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

/// Hands ended spans to [`Tail`].
#[derive(Debug)]
pub(super) struct TailProcessor(pub(super) Arc<Tail>);

impl SpanProcessor for TailProcessor {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.settle_all();
        if self.0.queue.close(timeout) { Ok(()) } else { Err(OTelSdkError::Timeout(timeout)) }
    }
}

#[cfg(test)]
mod tests;
