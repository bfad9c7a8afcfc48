//! What is kept, what makes room, and what becomes of exemplars, told with spans made by hand.

use std::sync::atomic::{AtomicUsize, Ordering};

use opentelemetry::InstrumentationScope;
use opentelemetry::trace::{SpanContext, TraceFlags, TraceState};
use opentelemetry_sdk::trace::{SpanEvents, SpanExporter, SpanLinks};

use super::*;
use crate::telemetry::exemplars::tests::{confirm, series};
use crate::telemetry::export;

/// A trace that no other test of this process has.
fn fresh() -> TraceId {
    TraceId::from(uuid::Uuid::new_v4().as_u128())
}

fn span(trace: TraceId, id: u64, parent: u64, lasted: Duration) -> SpanData {
    let start_time = SystemTime::now();
    let context = SpanContext::new(trace, SpanId::from(id), TraceFlags::SAMPLED, false, TraceState::default());
    SpanData {
        span_context: context,
        parent_span_id: SpanId::from(parent),
        parent_span_is_remote: false,
        span_kind: SpanKind::Server,
        name: "test".into(),
        start_time,
        end_time: start_time + lasted,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::default(),
    }
}

fn root(trace: TraceId, lasted: Duration) -> SpanData {
    span(trace, 1, 0, lasted)
}

fn child(trace: TraceId) -> SpanData {
    span(trace, 2, 1, Duration::ZERO)
}

fn failed(mut span: SpanData) -> SpanData {
    span.status = Status::error("unknown");
    span
}

fn of_operation(mut span: SpanData, operation: &'static str) -> SpanData {
    span.attributes.push(KeyValue::new(OPERATION, operation));
    span
}

/// Keeps no ordinary trace.
fn strict(buffered: usize, queued: usize) -> Arc<Tail> {
    Tail::with_room(0.0, Arc::default(), buffered, queued)
}

/// How many spans wait for the receiver after `act`, more than before.
fn queued(tail: &Tail, act: impl FnOnce()) -> usize {
    let before = tail.queue().spans();
    act();
    tail.queue().spans() - before
}

const QUICK: Duration = Duration::from_millis(20);

#[test]
fn what_failed_anywhere_is_kept_whole_and_what_went_well_is_not() {
    let tail = strict(100, 100);
    let well = fresh();
    let kept = queued(&tail, || {
        tail.end(child(well));
        tail.end(root(well, QUICK));
    });
    assert_eq!(kept, 0);
    let bad = fresh();
    let kept = queued(&tail, || {
        tail.end(failed(child(bad)));
        tail.end(child(bad));
        tail.end(root(bad, QUICK));
    });
    assert_eq!((kept, tail.spans()), (3, 0));
}

#[test]
fn what_is_slow_depends_on_what_it_is() {
    let tail = strict(100, 100);
    let is_kept = |span: SpanData| queued(&tail, || tail.end(span)) == 1;
    let millis = Duration::from_millis;
    assert!(is_kept(root(fresh(), SLOW_REQUEST)) && !is_kept(root(fresh(), SLOW_REQUEST - millis(1))));
    for operation in ["confirm", "cancel"] {
        assert!(is_kept(of_operation(root(fresh(), SLOW_MONEY), operation)));
        assert!(!is_kept(of_operation(root(fresh(), SLOW_MONEY - millis(1)), operation)));
    }
    let work = |lasted| SpanData { span_kind: SpanKind::Internal, ..root(fresh(), lasted) };
    assert!(is_kept(work(SLOW_WORK)) && !is_kept(work(SLOW_WORK - millis(1))));
}

#[test]
fn spans_after_their_root_follow_its_verdict() {
    let tail = strict(100, 100);
    let (good, bad) = (fresh(), fresh());
    tail.end(root(good, QUICK));
    tail.end(failed(root(bad, QUICK)));
    assert_eq!(queued(&tail, || tail.end(failed(child(good)))), 0);
    assert_eq!(queued(&tail, || tail.end(child(bad))), 1);
    assert_eq!(tail.spans(), 0, "nobody waits for a root that has ended");
}

#[test]
fn a_root_that_does_not_come_is_slow_and_its_trace_is_told_in_parts() {
    let tail = strict(100, 100);
    let trace = fresh();
    tail.end(child(trace));
    assert_eq!(queued(&tail, || tail.sweep(Instant::now())), 0);
    assert_eq!(queued(&tail, || tail.sweep(Instant::now() + ROOT_WITHIN)), 1);
    assert_eq!(queued(&tail, || tail.end(root(trace, QUICK))), 1);
}

#[test]
fn ordinary_traces_make_room_for_those_that_failed() {
    let tail = strict(10, 4);
    let bad = fresh();
    tail.end(failed(child(bad)));
    for _ in 0..30 {
        tail.end(child(fresh()));
    }
    assert_eq!(tail.spans(), 10, "bounded");
    for _ in 0..30 {
        tail.end(failed(child(fresh())));
    }
    assert_eq!(tail.spans(), 10, "bounded, when all of them matter too");
    assert_eq!(queued(&tail, || tail.end(root(bad, QUICK))), 2, "the one that failed is still whole");

    let tail = Tail::with_room(1.0, Arc::default(), 100, 4);
    for _ in 0..4 {
        tail.end(root(fresh(), QUICK));
    }
    tail.end(root(fresh(), QUICK));
    assert_eq!(tail.queue().spans(), 4, "an ordinary one finds no room");
    for _ in 0..6 {
        tail.end(failed(root(fresh(), QUICK)));
    }
    assert_eq!(tail.queue().spans(), 4, "one that failed takes the place of an ordinary one, as long as there is one");
}

#[test]
fn one_in_many_is_kept_and_an_idle_round_never() {
    let tail = Tail::with_room(0.25, Arc::default(), 100, 100_000);
    let kept = (0..4_000).filter(|_| queued(&tail, || tail.end(root(fresh(), QUICK))) == 1).count();
    assert!((800..1_200).contains(&kept), "{kept} of 4000");
    let all = Tail::with_room(1.0, Arc::default(), 100, 100);
    let rows = |rows: i64| {
        let mut span = root(fresh(), QUICK);
        span.attributes.push(KeyValue::new(ROWS, rows));
        span
    };
    assert_eq!(queued(&all, || all.end(rows(0))), 0);
    assert_eq!(queued(&all, || all.end(rows(1))), 1);
}

/// An exporter that counts, refuses, or never answers.
#[derive(Debug, Clone)]
enum To {
    Counter(Arc<AtomicUsize>),
    Nobody,
    BlackHole,
}

impl SpanExporter for To {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        match self {
            Self::Counter(spans) => {
                spans.fetch_add(batch.len(), Ordering::SeqCst);
                Ok(())
            }
            Self::Nobody => Err(OTelSdkError::InternalFailure("refused".to_owned())),
            Self::BlackHole => std::future::pending().await,
        }
    }
}

fn confirm_of(tail: &Tail, seconds: f64) -> (TraceId, Vec<SpanData>) {
    let trace = fresh();
    let http = series(
        "http_server_request_duration_seconds",
        &[("http_request_method", "POST"), ("http_route", "/x"), ("http_response_status_code", "200")],
    );
    let offer = |series: &_, value| tail.offer(trace, Offer::new(series, SpanId::from(1), value, SystemTime::now()));
    offer(&confirm(), seconds);
    offer(&http, seconds + 0.001);
    let mut ended = of_operation(root(trace, Duration::from_secs(1)), "confirm");
    ended.attributes.extend([KeyValue::new(PAYMENT_ID, "pay_7"), KeyValue::new("error.type", "unknown")]);
    ended.attributes.push(KeyValue::new("error.type", "provider_unavailable"));
    let spans = vec![child(trace), ended];
    for span in spans.clone() {
        tail.end(span);
    }
    (trace, spans)
}

#[test]
fn a_bucket_without_an_example_has_its_trace_kept_and_shows_it_once_it_has_arrived() {
    let (store, sent) = (Arc::new(Store::default()), Arc::new(AtomicUsize::new(0)));
    let tail = Tail::with_room(0.0, Arc::clone(&store), 100, 100);
    let (trace, _) = confirm_of(&tail, 0.3);
    assert_eq!(tail.queue().spans(), 2);
    assert_eq!(store.snapshot(SystemTime::now()).count, 0, "nothing has arrived");
    let to = To::Counter(Arc::clone(&sent));
    export::start(Arc::clone(&tail), || Ok(to)).expect("a thread");
    assert!(tail.queue().close(Duration::from_secs(30)));
    assert_eq!(sent.load(Ordering::SeqCst), 2);
    let shown = store.snapshot(SystemTime::now());
    let line = crate::telemetry::exemplars::tests::LINE;
    let exemplar = shown.find(line, "0.5").expect("it has arrived");
    assert_eq!((exemplar.trace, exemplar.value), (trace, 0.3));
    assert_eq!(exemplar.payment.as_deref(), Some("pay_7"));
    assert_eq!(shown.count, 2, "one of each histogram");
}

#[test]
fn a_span_tells_what_was_measured_in_it_and_lasts_as_long() {
    let tail = strict(100, 100);
    let (trace, mut spans) = confirm_of(&tail, 0.3);
    let own = Offer::new(
        &series("payments_db_transaction_duration_seconds", &[("tx", "lease"), ("result", "commit")]),
        SpanId::from(2),
        0.0125,
        SystemTime::now(),
    );
    let part = Offer::new(&confirm(), SpanId::from(1), 0.25, SystemTime::now());
    let elsewhere = Offer::new(&confirm(), SpanId::from(99), 0.25, SystemTime::now());
    spans.reverse();
    let kept = kept(spans, &[own, part, elsewhere], true);
    let [root, child] = kept.spans.as_slice() else { panic!("two spans") };
    let lasted = |span: &SpanData| span.end_time.duration_since(span.start_time).expect("it ends after its start");
    assert_eq!((lasted(child), lasted(root)), (Duration::from_micros(12_500), Duration::from_secs(1)));
    let told = |span: &SpanData, key: &str| attribute(span, key).cloned();
    let name = "payments_operation_duration_seconds.ok";
    assert_eq!(told(root, name), Some(Value::F64(0.25)));
    assert_eq!(told(root, "error.type"), Some(Value::from("unknown")), "what was told first stays");
    assert_eq!(root.attributes.iter().filter(|told| told.key.as_str() == "error.type").count(), 1);
    assert_eq!(kept.exemplars.len(), 2, "a value whose span is not there leads nowhere");
    assert!(kept.exemplars.iter().all(|exemplar| format!("{exemplar:?}").contains(&trace.to_string())));
}

#[test]
fn what_no_receiver_took_is_no_exemplar_and_nobody_waits_for_it() {
    for to in [To::Nobody, To::BlackHole] {
        let store = Arc::new(Store::default());
        let tail = Tail::with_room(1.0, Arc::clone(&store), 50, 40);
        let never = to.clone();
        export::start(Arc::clone(&tail), || Ok(never)).expect("a thread");
        for _ in 0..500 {
            confirm_of(&tail, 0.3);
            assert!(tail.spans() <= 50 && tail.queue().spans() <= 40, "bounded");
        }
        let closed = tail.queue().close(Duration::from_millis(200));
        assert_eq!(closed, matches!(to, To::Nobody), "{to:?}");
        assert_eq!(store.snapshot(SystemTime::now()).count, 0, "{to:?}");
    }
}
