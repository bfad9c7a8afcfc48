//! What our spans become: ids, roots, errors; and that events do not.

use std::sync::Mutex;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::telemetry::LogFormat;
use crate::telemetry::logs::{LogLayer, MemorySink, Sink};
use crate::telemetry::propagate::current_trace_id;

/// Remembers every span that ended.
#[derive(Debug, Clone, Default)]
pub(in crate::telemetry) struct Ended(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Ended {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().expect("spans").push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The spans that `act` makes, in the order of their ends.
pub(in crate::telemetry) fn spans_of(act: impl FnOnce()) -> Vec<SpanData> {
    let ended = Ended::default();
    let builder = SdkTracerProvider::builder().with_id_generator(Ids::default());
    let tracers = builder.with_span_processor(ended.clone()).build();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer(&tracers)), act);
    std::mem::take(&mut *ended.0.lock().expect("spans"))
}

fn config(traces: TracesConfig) -> TelemetryConfig {
    TelemetryConfig {
        log_format: LogFormat::Human,
        log_filter: "info".to_owned(),
        traces,
        service_version: "0.0.0-test",
        revision: "unknown",
        environment: "test".to_owned(),
        role: "all",
        parts: crate::telemetry::Parts::ALL,
    }
}

#[test]
fn the_receivers_base_url_gets_the_path_of_traces() {
    assert_eq!(traces_url("http://a:4318/"), "http://a:4318/v1/traces");
    assert_eq!(traces_url("http://a:4318/v1/traces"), "http://a:4318/v1/traces");
}

#[test]
fn the_root_of_a_trace_is_found_by_the_traces_id_alone() {
    let mut traces = Vec::new();
    for _ in 0..3 {
        let spans = spans_of(|| tracing::info_span!("root").in_scope(|| tracing::info_span!("child").in_scope(|| ())));
        let [child, root] = spans.as_slice() else { panic!("two spans: {spans:?}") };
        let trace = root.span_context.trace_id().to_string();
        assert!(trace.ends_with(&root.span_context.span_id().to_string()), "{root:?}");
        assert_eq!(child.span_context.trace_id(), root.span_context.trace_id());
        assert_eq!(child.parent_span_id, root.span_context.span_id());
        assert!(!trace.starts_with("0000000000000000"));
        traces.push(trace);
    }
    traces.dedup();
    assert_eq!(traces.len(), 3);
}

#[test]
fn an_item_is_a_root_of_its_own_and_a_doubt_is_an_error_where_a_no_is_none() {
    let spans = spans_of(|| {
        tracing::info_span!("round").in_scope(|| {
            item("recover payment").in_scope(|| {
                about_payment(&"pay_1");
                ended(Operation::Recover, OperationOutcome::Unknown);
            });
            ended(Operation::Confirm, OperationOutcome::Declined);
        });
    });
    let [item, round] = spans.as_slice() else { panic!("two spans: {spans:?}") };
    assert_eq!((item.name.as_ref(), item.parent_span_id), ("recover payment", SpanId::INVALID));
    assert_ne!(item.span_context.trace_id(), round.span_context.trace_id());
    assert_eq!((&item.status, &round.status), (&Status::error("unknown"), &Status::Unset));
    let told: Vec<_> = item.attributes.iter().map(|told| format!("{}={}", told.key, told.value)).collect();
    let wanted = ["payments.payment.id=pay_1", "payments.operation=recover", "error.type=unknown"];
    assert!(wanted.iter().all(|wanted| told.iter().any(|told| told == wanted)), "{told:?}");
}

#[test]
fn a_span_has_a_trace_even_when_no_line_is_wanted_and_events_stay_in_the_log() {
    let tracers = provider(&config(TracesConfig::none()), Arc::default()).expect("no endpoint");
    let lines = MemorySink::default();
    let silent = LogLayer::new(&config(TracesConfig::none()), Sink::Memory(lines.clone()));
    let silent = silent.with_filter(tracing_subscriber::filter::LevelFilter::OFF);
    let subscriber = tracing_subscriber::registry().with(layer(&tracers)).with(silent);
    tracing::subscriber::with_default(subscriber, || {
        tracing::info_span!("test").in_scope(|| {
            tracing::error!(target: "paygauge", "nobody reads this");
            assert!(current_trace_id().is_some());
        });
    });
    assert!(lines.lines().is_empty());
    let spans = spans_of(|| {
        tracing::info_span!("x", otel.name = "GET /v1/products").in_scope(|| tracing::error!("an event"));
        tracing::debug_span!("too fine").in_scope(|| ());
        tracing::info_span!(target: "hyper", "not ours").in_scope(|| ());
    });
    let [span] = spans.as_slice() else { panic!("one span: {spans:?}") };
    assert!(span.name == "GET /v1/products" && span.events.is_empty() && span.status == Status::Unset, "{span:?}");
}
