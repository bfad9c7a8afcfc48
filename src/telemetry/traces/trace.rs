//! A trace in the making: when its spans begin and end, and when it is decided about it. What is known of them stands in
//! its room; `tail` decides.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use opentelemetry::Value;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceId};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator};

use super::room::{Name, Room, Told};
use crate::telemetry::exemplars::Offer;
use crate::telemetry::export::count;
use crate::telemetry::histogram::Measured;
use crate::telemetry::labels::{SpanResult, TraceDecision};
use crate::telemetry::tail::{Tail, count_trace, is_kept};

/// Values of one trace that can become exemplars.
const OFFERS_MAX: usize = 64;

/// A trace whose spans have not all ended.
#[derive(Debug)]
pub(in crate::telemetry) struct Trace {
    id: TraceId,
    /// Who decides about it. Without, no span leaves the process, and nothing but ids is kept of them.
    tail: Option<Arc<Tail>>,
    /// Whether a span that has ended is an error.
    has_error: AtomicBool,
    /// While it is held, `tail` may be asked; but never the other way around.
    room: Mutex<Room>,
}

/// A span that has not ended. It does when this is dropped.
#[derive(Debug)]
pub(in crate::telemetry) struct Open {
    trace: Arc<Trace>,
    id: SpanId,
    /// Its place in the room.
    at: usize,
}

impl Open {
    /// Begins a trace: its root's id is the second half of its own.
    pub(in crate::telemetry) fn root(tail: Option<Arc<Tail>>, kind: SpanKind, name: Name) -> Self {
        let trace = RandomIdGenerator::default().new_trace_id();
        let [.., a, b, c, d, e, f, g, h] = trace.to_bytes();
        let id = SpanId::from_bytes([a, b, c, d, e, f, g, h]);
        let room = if tail.is_some() { Room::begin() } else { Room::default() };
        let trace = Trace { id: trace, tail, has_error: AtomicBool::new(false), room: Mutex::new(room) };
        Self::begin(Arc::new(trace), id, SpanId::INVALID, kind, name)
    }

    /// Begins a part of it.
    pub(in crate::telemetry) fn child(&self, kind: SpanKind, name: Name) -> Self {
        let id = RandomIdGenerator::default().new_span_id();
        Self::begin(Arc::clone(&self.trace), id, self.id, kind, name)
    }

    fn begin(trace: Arc<Trace>, id: SpanId, parent: SpanId, kind: SpanKind, name: Name) -> Self {
        let at = if trace.tail.is_some() { trace.room().add(id, parent, kind, name) } else { 0 };
        Self { trace, id, at }
    }

    pub(in crate::telemetry) fn ids(&self) -> (TraceId, SpanId) {
        (self.trace.id, self.id)
    }

    /// Says something about it.
    pub(in crate::telemetry) fn tell(&self, key: &'static str, value: impl Into<Value>) {
        self.tell_all([(key, Told::Value(value.into()))]);
    }

    pub(in crate::telemetry) fn tell_all<const N: usize>(&self, told: [(&'static str, Told); N]) {
        self.with_room(|room, at| told.into_iter().for_each(|(key, told)| room.tell(at, key, told)));
    }

    pub(in crate::telemetry) fn rename(&self, name: Name) {
        self.with_room(|room, at| room.rename(at, name));
    }

    /// It is an error of this kind.
    pub(in crate::telemetry) fn fail(&self, kind: &'static str) {
        self.with_room(|room, at| room.fail(at, kind));
    }

    pub(in crate::telemetry) fn link(&self, to: SpanContext, why: &'static str) {
        self.with_room(|room, at| room.link(at, to, why));
    }

    fn with_room(&self, act: impl FnOnce(&mut Room, usize)) {
        if self.trace.tail.is_some() {
            act(&mut self.trace.room(), self.at);
        }
    }

    /// Takes a value that was measured in it.
    pub(in crate::telemetry) fn offer(&self, measured: Measured) {
        let Some(tail) = &self.trace.tail else { return };
        let mut room = self.trace.room();
        if room.offers.len() < OFFERS_MAX && room.verdict.unwrap_or_else(|| self.trace.waits(&mut room, tail)) {
            room.offers.push(Offer { measured, span: self.id });
        }
    }

    /// Has it last this long so far.
    #[cfg(test)]
    pub(in crate::telemetry) fn began_before(&self, lasted: std::time::Duration) {
        self.with_room(|room, at| room.began_before(at, lasted));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(tail) = &self.trace.tail {
            self.trace.end(tail, self.at);
        }
    }
}

impl Trace {
    pub(in crate::telemetry) const fn id(&self) -> TraceId {
        self.id
    }

    pub(in crate::telemetry) fn has_error(&self) -> bool {
        self.has_error.load(Ordering::Relaxed)
    }

    /// A span has ended.
    fn end(self: &Arc<Self>, tail: &Tail, at: usize) {
        let (now, mut room) = (SystemTime::now(), self.room());
        if room.verdict.is_none() && at > 0 && !tail.take_place() {
            // Another one's room is asked for, so this one's is left meanwhile.
            drop(room);
            let is_made = tail.make_place();
            room = self.room();
            if !is_made {
                room.lose(at);
                drop(room);
                return count(SpanResult::QueueFull, 1);
            }
            if room.verdict.is_some() {
                tail.leave_places(1);
            }
        }
        if let Some(is_kept) = room.verdict {
            return self.follow(tail, room, is_kept, (at, now));
        }
        if room.end(at, now) {
            self.has_error.store(true, Ordering::Relaxed);
        }
        if at == 0 {
            self.decide(tail, room, None);
        } else {
            // Without room for one more to wait for, it waits unknown: its root's end is all it needs.
            let _known = self.waits(&mut room, tail);
        }
    }

    /// Lets `tail` know that this trace waits for its root; `false` if there are too many.
    fn waits(self: &Arc<Self>, room: &mut Room, tail: &Tail) -> bool {
        if !room.is_waiting {
            room.is_waiting = tail.wait_for(self);
        }
        room.is_waiting
    }

    /// A span that ends after it was decided about its trace.
    fn follow(&self, tail: &Tail, mut room: MutexGuard<'_, Room>, is_kept: bool, (at, now): (usize, SystemTime)) {
        if !is_kept {
            drop(room);
            return count(SpanResult::SampledOut, 1);
        }
        room.end(at, now);
        let spans = room.take_ended(self.id);
        let is_its = |offer: &Offer| spans.iter().any(|span| span.span_context.span_id() == offer.span);
        let (offers, others): (Vec<_>, Vec<_>) = std::mem::take(&mut room.offers).into_iter().partition(is_its);
        room.offers = others;
        drop(room);
        tail.keep(spans, &offers, false);
    }

    /// Decides about it if that was not done yet, whatever its root does.
    pub(in crate::telemetry) fn settle(&self, tail: &Tail, decision: TraceDecision) {
        let room = self.room();
        if room.verdict.is_none() {
            self.decide(tail, room, Some(decision));
        }
    }

    /// Decides about it, by its root or `already`, and does with it what was decided.
    fn decide(&self, tail: &Tail, mut room: MutexGuard<'_, Room>, already: Option<TraceDecision>) {
        let decision = match already {
            _ if self.has_error() => TraceDecision::Error,
            Some(decision) => decision,
            None => room.seen().map_or(TraceDecision::Dropped, |root| tail.decide(self.id, root, &room.offers)),
        };
        tail.leave_places(room.places());
        if room.is_waiting {
            tail.forget(self.id);
        }
        if is_kept(decision) {
            room.verdict = Some(true);
            let (spans, offers) = (room.take_ended(self.id), std::mem::take(&mut room.offers));
            drop(room);
            tail.keep(spans, &offers, matches!(decision, TraceDecision::Exemplar | TraceDecision::Sample));
        } else {
            let dropped = room.empty();
            drop(room);
            let is_given_up = decision == TraceDecision::Overflow;
            count(if is_given_up { SpanResult::QueueFull } else { SpanResult::SampledOut }, dropped.ended);
            dropped.give_back();
        }
        count_trace(decision);
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
