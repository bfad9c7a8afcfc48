//! W3C trace context at the edges: a caller's trace and ours are linked, never one.
//!
//! A public client must not choose our trace ids or what we keep, so its `traceparent` only becomes a link, and only in
//! its exact version 00 shape; `traceresponse` tells it our trace. `tracestate` and baggage are neither read nor sent,
//! and no PG is sent anything: none documents the header.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use super::traces::{self, Span};

const TRACEPARENT: &str = "traceparent";
/// In which the answer to a request names its trace.
pub const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Why a span links to another trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The caller's own trace.
    Caller,
    /// The trace that placed the order.
    Order,
    /// The trace that last began to confirm the payment.
    Confirm,
    /// The trace that asked for the cancellation.
    Cancel,
    /// The trace that took in the webhook.
    Webhook,
    /// The trace of a transaction that took several orders, or of an order that it took.
    Together,
}

impl Link {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Order => "order",
            Self::Confirm => "confirm",
            Self::Cancel => "cancel",
            Self::Webhook => "webhook",
            Self::Together => "together",
        }
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then(|| self.0.get(TRACEPARENT)?.to_str().ok()).flatten().filter(|v| is_exact(v))
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

/// `00-{32 hex}-{16 hex}-{2 hex}`, lower case.
fn is_exact(value: &str) -> bool {
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let parts: Vec<&str> = value.split('-').collect();
    match parts.as_slice() {
        ["00", trace_id, span_id, flags] => hex(trace_id, 32) && hex(span_id, 16) && hex(flags, 2),
        _ => false,
    }
}

/// Links `span` to the caller's, if the headers name one.
pub fn link_caller(span: &Span, headers: &HeaderMap) {
    if !headers.contains_key(TRACEPARENT) {
        return;
    }
    let caller = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    let caller = caller.span().span_context().clone();
    if caller.is_valid() {
        span.link(caller, Link::Caller.as_str());
    }
}

/// Links the span being worked in to the root of a trace that is stored on a row.
pub fn link(stored: Option<&str>, why: Link) {
    let is_of_another = |root: &SpanContext| traces::current_ids().is_none_or(|(own, _)| own != root.trace_id());
    if let Some(root) = stored.and_then(root_of).filter(is_of_another) {
        Span::current().link(root, why.as_str());
    }
}

/// The root of one of our traces: `traces` gives it the second half of the trace's id.
fn root_of(trace: &str) -> Option<SpanContext> {
    let trace = TraceId::from_hex(trace).ok().filter(|_| trace.len() == 32)?;
    let [.., a, b, c, d, e, f, g, h] = trace.to_bytes();
    let root = SpanId::from_bytes([a, b, c, d, e, f, g, h]);
    let context = SpanContext::new(trace, root, TraceFlags::SAMPLED, true, TraceState::default());
    context.is_valid().then_some(context)
}

/// The span being worked in, as the value of `traceresponse`.
#[must_use]
pub fn traceresponse() -> Option<HeaderValue> {
    // Each is made, whether it is kept or not: 01.
    let told = |trace: &str, span: &str| HeaderValue::try_from(["00-", trace, "-", span, "-01"].concat());
    traces::with_texts(traces::current_ids()?, told).ok()
}

/// The trace being worked in: 32 hexadecimal digits.
#[must_use]
pub fn current_trace_id() -> Option<String> {
    traces::current_ids().map(|ids| traces::with_texts(ids, |trace, _| trace.to_owned()))
}

#[cfg(test)]
mod tests {
    use opentelemetry::KeyValue;

    use super::*;
    use crate::telemetry::SpanKind;
    use crate::telemetry::traces::LINK_KIND;
    use crate::telemetry::traces::tests::spans_of;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            HeaderName::from_static(TRACEPARENT),
            HeaderValue::from_str(value).expect("a header value"),
        )])
    }

    fn links_of(value: &str) -> (String, Vec<String>) {
        let spans = spans_of(|| link_caller(&Span::root(SpanKind::Server, "test"), &headers(value)));
        let span = spans.first().expect("a span");
        let links = span.links.iter().map(|link| {
            format!("{} {} {}", link.span_context.trace_id(), link.span_context.span_id(), link.attributes[0].value)
        });
        (span.span_context.trace_id().to_string(), links.collect())
    }

    #[test]
    fn a_callers_trace_is_linked_and_never_continued() {
        let (own, links) = links_of(GOOD);
        assert_eq!(links, ["4bf92f3577b34da6a3ce929d0e0e4736 00f067aa0ba902b7 caller"]);
        assert!(own.len() == 32 && !own.starts_with("4bf92f35"), "{own}");
    }

    #[test]
    fn what_is_no_exact_traceparent_is_no_link() {
        for bad in [
            "",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-1-1-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            let (own, links) = links_of(bad);
            assert!(own.len() == 32 && !own.trim_matches('0').is_empty(), "{bad}: {own}");
            assert_eq!(links, Vec::<String>::new(), "{bad}");
        }
    }

    #[test]
    fn a_stored_trace_leads_to_its_root_and_nonsense_to_nothing() {
        let mut stored = None;
        let spans = spans_of(|| {
            Span::root(SpanKind::Internal, "first").in_scope(|| stored = current_trace_id());
            Span::root(SpanKind::Internal, "second").in_scope(|| {
                link(stored.as_deref(), Link::Order);
                link(current_trace_id().as_deref(), Link::Confirm);
                for nonsense in [None, Some(""), Some("kim@example.com"), Some("0"), Some(&"0".repeat(32))] {
                    link(nonsense, Link::Confirm);
                }
            });
        });
        let [first, second] = spans.as_slice() else { panic!("two spans: {spans:?}") };
        let links: Vec<_> = second.links.iter().collect();
        assert_eq!(links.len(), 1, "{links:?}");
        assert_eq!(links[0].span_context.trace_id(), first.span_context.trace_id());
        assert_eq!(links[0].span_context.span_id(), first.span_context.span_id());
        assert_eq!(links[0].attributes, [KeyValue::new(LINK_KIND, "order")]);
    }

    #[test]
    fn an_answer_names_its_trace_and_outside_of_a_span_there_is_none() {
        assert!(traceresponse().is_none() && current_trace_id().is_none());
        let spans = spans_of(|| {
            Span::root(SpanKind::Internal, "test").in_scope(|| {
                let told = traceresponse().expect("a trace");
                let told = told.to_str().expect("text");
                assert!(is_exact(told) && told.contains(&current_trace_id().expect("a trace")), "{told}");
            });
        });
        assert_eq!(spans.len(), 1);
    }
}
