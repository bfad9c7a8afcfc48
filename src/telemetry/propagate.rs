//! W3C trace context at the edges: from a request's headers into a span, from a span into headers.
//!
//! Only `traceparent` in its exact version 00 shape is believed; `tracestate` and baggage are neither read nor sent.

use axum::http::{HeaderMap, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

const TRACEPARENT: &str = "traceparent";

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

/// Makes the caller's span the parent of `span`, if the headers name one. To be called before `span` is entered.
pub fn adopt_parent(span: &Span, headers: &HeaderMap) {
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    if parent.span().span_context().is_valid() {
        // Fails only where no trace layer is installed, and then there is no trace to continue.
        drop(span.set_parent(parent));
    }
}

/// Adds the current span as `traceparent`; nothing outside of a trace. For receivers that document the header.
pub fn inject(headers: &mut HeaderMap) {
    let value = current().and_then(|span| HeaderValue::try_from(traceparent(&span)).ok());
    if let Some(value) = value {
        headers.insert(TRACEPARENT, value);
    }
}

fn traceparent(span: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags())
}

fn current() -> Option<SpanContext> {
    let span = Context::current().span().span_context().clone();
    span.is_valid().then_some(span)
}

/// The trace being worked in: 32 hexadecimal digits.
#[must_use]
pub fn current_trace_id() -> Option<String> {
    current().map(|span| span.trace_id().to_string())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            HeaderName::from_static(TRACEPARENT),
            HeaderValue::from_str(value).expect("a header value"),
        )])
    }

    fn trace_of(value: &str) -> Option<String> {
        drop(crate::telemetry::for_tests());
        let span = tracing::info_span!("test");
        adopt_parent(&span, &headers(value));
        span.in_scope(current_trace_id)
    }

    #[test]
    fn a_span_continues_the_callers_trace_and_passes_it_on() {
        drop(crate::telemetry::for_tests());
        let span = tracing::info_span!("test");
        adopt_parent(&span, &headers(GOOD));
        span.in_scope(|| {
            assert_eq!(current_trace_id().as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
            let mut outgoing = HeaderMap::new();
            inject(&mut outgoing);
            let sent = outgoing.get(TRACEPARENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
            assert!(is_exact(sent) && sent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{sent}");
            assert!(!sent.contains("00f067aa0ba902b7"), "our own span is the parent of what follows");
        });
    }

    #[test]
    fn every_span_has_a_trace_even_with_no_exporter_and_no_parent() {
        for bad in [
            "",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-1-1-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            let trace = trace_of(bad).expect("a span always has a trace");
            assert_eq!(trace.len(), 32);
            assert!(!trace.starts_with("4bf92f35") && !trace.trim_matches('0').is_empty(), "{bad}: {trace}");
        }
    }

    #[test]
    fn outside_of_a_span_there_is_nothing_to_pass_on() {
        let mut outgoing = HeaderMap::new();
        inject(&mut outgoing);
        assert!(outgoing.is_empty() && current_trace_id().is_none());
    }
}
