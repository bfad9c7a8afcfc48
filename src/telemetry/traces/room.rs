//! The room of a trace: its spans, what is told about them and what was measured in them.
//!
//! Most traces are dropped when their root has ended. So nothing is made for a receiver before it is known that one is to
//! have it: a span is a row here, what is told about it stands behind what was told before, and the room of a trace that
//! is dropped goes to the thread's next one. What is kept becomes OpenTelemetry's.

use std::cell::RefCell;
use std::time::SystemTime;

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use uuid::Uuid;

use crate::telemetry::exemplars::Offer;
use crate::telemetry::tail::Seen;

/// Attributes and links that a span has at most, each; OpenTelemetry's own limits.
const OF_A_SPAN_MAX: u32 = 128;
/// Room that most traces need, so that nothing is moved while they grow.
const USUAL_SPANS: usize = 8;
const USUAL_TOLD: usize = 48;
/// How many rooms each thread keeps for its next traces, and how large one may be for that.
const ROOMS_MAX: usize = 16;
const ROOM_SPANS_MAX: usize = 64;
const ROOM_TOLD_MAX: usize = 512;
/// Says on a link why it is there.
pub(in crate::telemetry) const LINK_KIND: &str = "payments.link.kind";

/// What a span is called: words of ours, which are put together when somebody is to read them.
#[derive(Debug, Clone)]
pub enum Name {
    /// What is known before the program runs.
    Words([&'static str; 3]),
    /// Anything else.
    Text(String),
}

impl From<&'static str> for Name {
    fn from(word: &'static str) -> Self {
        Self::Words([word, "", ""])
    }
}

impl From<[&'static str; 3]> for Name {
    fn from(words: [&'static str; 3]) -> Self {
        Self::Words(words)
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Name {
    fn text(&self) -> String {
        match self {
            Self::Words(words) => words.concat(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// The value of an attribute.
#[derive(Debug)]
pub(in crate::telemetry) enum Told {
    /// As it is sent.
    Value(Value),
    /// An id of ours: what stands before the underscore, and the rest.
    Id(&'static str, Uuid),
}

impl Told {
    fn value(&self) -> Value {
        match self {
            Self::Value(value) => value.clone(),
            Self::Id(prefix, id) => format!("{prefix}_{}", id.as_simple()).into(),
        }
    }
}

/// What is known of a trace.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// The root is the first.
    spans: Vec<Row>,
    /// Place of the span, key and value, in the order in which they were told.
    told: Vec<(usize, &'static str, Told)>,
    links: Vec<(usize, SpanContext, &'static str)>,
    pub(super) offers: Vec<Offer>,
    /// How many have ended and wait for the root.
    pub(super) ended: usize,
    /// Whether `tail` knows that this trace waits for its root.
    pub(super) is_waiting: bool,
    /// Whether the trace is kept, once that is decided.
    pub(super) verdict: Option<bool>,
}

#[derive(Debug)]
struct Row {
    id: SpanId,
    parent: SpanId,
    kind: SpanKind,
    name: Name,
    began: SystemTime,
    state: State,
    error: Option<&'static str>,
    told: u32,
    links: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// As the nth of its trace.
    Ended {
        at: SystemTime,
        nth: usize,
    },
    /// It is with the receiver's queue, or lost.
    Gone,
}

thread_local! {
    /// Of traces that were dropped.
    static ROOMS: RefCell<Vec<Room>> = RefCell::default();
}

impl Room {
    pub(super) fn begin() -> Self {
        let kept = ROOMS.try_with(|rooms| rooms.borrow_mut().pop()).ok().flatten();
        kept.unwrap_or_else(|| Self {
            spans: Vec::with_capacity(USUAL_SPANS),
            told: Vec::with_capacity(USUAL_TOLD),
            offers: Vec::with_capacity(USUAL_TOLD),
            ..Self::default()
        })
    }

    /// All that is in it: the trace is dropped, and nothing more comes into it.
    pub(super) fn empty(&mut self) -> Self {
        std::mem::replace(self, Self { verdict: Some(false), ..Self::default() })
    }

    /// Leaves what it has to the thread's next trace.
    pub(super) fn give_back(mut self) {
        self.spans.clear();
        self.told.clear();
        self.links.clear();
        self.offers.clear();
        (self.ended, self.is_waiting, self.verdict) = (0, false, None);
        // A thread that ends has no rooms any more.
        let _ended = ROOMS.try_with(|rooms| {
            let mut rooms = rooms.borrow_mut();
            let is_usual = self.spans.capacity() <= ROOM_SPANS_MAX && self.told.capacity() <= ROOM_TOLD_MAX;
            if rooms.len() < ROOMS_MAX && is_usual && self.links.capacity() <= ROOM_TOLD_MAX {
                rooms.push(self);
            }
        });
    }

    /// The new span's place. One of a trace that is dropped has none, so that nothing is kept of it.
    pub(super) fn add(&mut self, id: SpanId, parent: SpanId, kind: SpanKind, name: Name) -> usize {
        if self.verdict == Some(false) {
            return usize::MAX;
        }
        let (began, state) = (SystemTime::now(), State::Open);
        self.spans.push(Row { id, parent, kind, name, began, state, error: None, told: 0, links: 0 });
        self.spans.len() - 1
    }

    pub(super) fn tell(&mut self, at: usize, key: &'static str, told: Told) {
        if let Some(span) = self.spans.get_mut(at) {
            span.told += 1;
            if span.told <= OF_A_SPAN_MAX {
                self.told.push((at, key, told));
            }
        }
    }

    /// It is an error of this kind; what was told first stays.
    pub(super) fn fail(&mut self, at: usize, kind: &'static str) {
        self.tell(at, "error.type", Told::Value(kind.into()));
        if let Some(span) = self.spans.get_mut(at) {
            span.error.get_or_insert(kind);
        }
    }

    pub(super) fn rename(&mut self, at: usize, name: Name) {
        if let Some(span) = self.spans.get_mut(at) {
            span.name = name;
        }
    }

    pub(super) fn link(&mut self, at: usize, to: SpanContext, why: &'static str) {
        if let Some(span) = self.spans.get_mut(at) {
            span.links += 1;
            if span.links <= OF_A_SPAN_MAX {
                self.links.push((at, to, why));
            }
        }
    }

    /// Has it last this long so far.
    #[cfg(test)]
    pub(super) fn began_before(&mut self, at: usize, lasted: std::time::Duration) {
        if let Some(span) = self.spans.get_mut(at) {
            span.began = SystemTime::now() - lasted;
        }
    }

    /// Whether it was an error.
    pub(super) fn end(&mut self, at: usize, now: SystemTime) -> bool {
        let Some(span) = self.spans.get_mut(at) else { return false };
        span.state = State::Ended { at: now, nth: self.ended };
        self.ended += 1;
        span.error.is_some()
    }

    /// How many of those that wait have taken a place: all but the root.
    pub(super) fn places(&self) -> usize {
        let has_root = self.spans.first().is_some_and(|root| root.state != State::Open);
        self.ended.saturating_sub(usize::from(has_root))
    }

    /// There is no room for it.
    pub(super) fn lose(&mut self, at: usize) {
        if let Some(span) = self.spans.get_mut(at) {
            span.state = State::Gone;
        }
        self.tidy();
    }

    /// What a verdict looks at, if the root has ended.
    pub(super) fn seen(&self) -> Option<Seen> {
        let root = self.spans.first()?;
        let State::Ended { at, .. } = root.state else { return None };
        let lasted = at.duration_since(root.began).unwrap_or_default();
        let told = |key: &str| {
            let told = self.told.iter().find(|told| told.0 == 0 && told.1 == key);
            told.and_then(|told| if let Told::Value(value) = &told.2 { Some(value) } else { None })
        };
        Some(Seen::of(&root.kind, lasted, told))
    }

    /// The spans that have ended, in that order, as a receiver has them.
    pub(super) fn take_ended(&mut self, trace: TraceId) -> Vec<SpanData> {
        let mut ended: Vec<_> = self.spans.iter().enumerate().filter_map(|(at, span)| span.ended(at)).collect();
        ended.sort_unstable_by_key(|(_, nth, _)| *nth);
        let made = ended.iter().filter_map(|(at, _, until)| Some(self.made(trace, self.spans.get(*at)?, *at, *until)));
        let made = made.collect();
        for (at, _, _) in ended {
            if let Some(span) = self.spans.get_mut(at) {
                span.state = State::Gone;
            }
        }
        self.ended = 0;
        self.tidy();
        made
    }

    /// Forgets what was told about spans that are gone, and their rows behind the last that is not.
    fn tidy(&mut self) {
        let spans = &mut self.spans;
        while spans.last().is_some_and(|span| span.state == State::Gone) {
            spans.pop();
        }
        let is_there = |at: usize| spans.get(at).is_some_and(|span| span.state != State::Gone);
        self.told.retain(|told| is_there(told.0));
        self.links.retain(|link| is_there(link.0));
    }

    fn made(&self, trace: TraceId, span: &Row, at: usize, end_time: SystemTime) -> SpanData {
        let told = self.told.iter().filter(|told| told.0 == at);
        let links = self.links.iter().filter(|link| link.0 == at);
        let linked = |to: &SpanContext, why| Link::new(to.clone(), vec![KeyValue::new(LINK_KIND, why)], 0);
        let mut all = SpanLinks::default();
        all.links = links.map(|(_, to, why)| linked(to, *why)).collect();
        all.dropped_count = span.links.saturating_sub(OF_A_SPAN_MAX);
        SpanData {
            span_context: SpanContext::new(trace, span.id, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: span.parent,
            parent_span_is_remote: false,
            span_kind: span.kind.clone(),
            name: span.name.text().into(),
            start_time: span.began,
            end_time,
            attributes: told.map(|(_, key, value)| KeyValue::new(*key, value.value())).collect(),
            dropped_attributes_count: span.told.saturating_sub(OF_A_SPAN_MAX),
            events: SpanEvents::default(),
            links: all,
            status: span.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: InstrumentationScope::builder("paygauge").build(),
        }
    }
}

impl Row {
    fn ended(&self, place: usize) -> Option<(usize, usize, SystemTime)> {
        match self.state {
            State::Ended { at, nth } => Some((place, nth, at)),
            State::Open | State::Gone => None,
        }
    }
}
