//! What our spans become: ids, roots, errors; and that events do not.

use std::cell::RefCell;

use opentelemetry::trace::Status;
use opentelemetry_sdk::trace::SpanData;

use super::*;
use crate::telemetry::propagate::current_trace_id;

thread_local! {
    /// What makes the spans of this test.
    static OWN: RefCell<Option<Tracer>> = const { RefCell::new(None) };
}

/// The test's own tracer, or else the process's.
pub(super) fn tracer() -> Option<Tracer> {
    OWN.with_borrow(Clone::clone).or_else(|| TRACER.get().cloned())
}

/// The spans that `act` makes, in the order of the ends of their traces and, within each, of their own.
pub(in crate::telemetry) fn spans_of(act: impl FnOnce()) -> Vec<SpanData> {
    let tail = Tail::new(1.0, Arc::default());
    OWN.set(Some(Tracer(Some(Arc::clone(&tail)))));
    act();
    OWN.set(None);
    tail.queue().take_all()
}

fn of(name: &'static str) -> Span {
    Span::begin(SpanKind::Internal, name)
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
        let spans = spans_of(|| of("root").in_scope(|| drop(of("child"))));
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
fn ids_are_written_as_the_library_writes_them() {
    for (trace, span) in
        [(1, 0xfedc_ba98_7654_3210), (u128::MAX, u64::MAX), (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 1)]
    {
        let ids = (TraceId::from(trace), SpanId::from(span));
        let texts = with_texts(ids, |trace, span| (trace.to_owned(), span.to_owned()));
        assert_eq!(texts, (ids.0.to_string(), ids.1.to_string()));
    }
}

#[test]
fn an_item_is_a_root_of_its_own_and_a_doubt_is_an_error_where_a_no_is_none() {
    let payment = PaymentId::new();
    let spans = spans_of(|| {
        of("round").in_scope(|| {
            Span::root(SpanKind::Internal, "recover payment").in_scope(|| {
                about_payment(&payment);
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
    let id = format!("payments.payment.id={payment}");
    let wanted = [id.as_str(), "payments.operation=recover", "error.type=unknown"];
    assert!(wanted.iter().all(|wanted| told.iter().any(|told| told == wanted)), "{told:?}");
}

#[test]
fn a_span_ends_with_its_last_clone_and_lines_are_none_of_it() {
    let spans = spans_of(|| {
        let (span, kept) = {
            let span = Span::root(SpanKind::Server, "GET /v1/products");
            (span.clone(), span)
        };
        span.in_scope(|| tracing::error!("an event"));
        drop(span);
        kept.tell("told.late", true);
    });
    let [span] = spans.as_slice() else { panic!("one span: {spans:?}") };
    assert_eq!(
        (span.name.as_ref(), &span.span_kind, &span.status),
        ("GET /v1/products", &SpanKind::Server, &Status::Unset)
    );
    assert!(span.events.is_empty() && span.attributes == [KeyValue::new("told.late", true)], "{span:?}");
}

#[tokio::test]
async fn what_is_spawned_takes_its_span_along_or_has_none() {
    let _telemetry = crate::telemetry::for_tests();
    let span = of("request");
    let (own, taken, lost) = span
        .scope(async {
            let taken = tokio::spawn(Span::current().scope(async { current_trace_id() }));
            let lost = tokio::spawn(async { current_trace_id() });
            tokio::task::yield_now().await;
            (current_trace_id(), taken.await.expect("it runs"), lost.await.expect("it runs"))
        })
        .await;
    assert!(own.is_some() && own == taken && lost.is_none(), "{own:?} {taken:?} {lost:?}");
    assert_eq!(current_trace_id(), None);
}
