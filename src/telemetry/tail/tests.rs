//! What is kept, what makes room, and what becomes of exemplars.

use std::sync::atomic::AtomicUsize;

use opentelemetry::InstrumentationScope;
use opentelemetry::trace::{SpanContext, SpanId, Status, TraceFlags, TraceState};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanEvents, SpanExporter, SpanLinks};

use super::*;
use crate::telemetry::exemplars::tests::{confirm, series};
use crate::telemetry::export;
use crate::telemetry::traces::Open;

/// A root that has lasted so long.
fn root(tail: &Arc<Tail>, lasted: Duration) -> Open {
    of_kind(tail, SpanKind::Server, lasted)
}

fn of_kind(tail: &Arc<Tail>, kind: SpanKind, lasted: Duration) -> Open {
    let root = Open::root(Some(Arc::clone(tail)), kind, "test".into());
    root.began_before(lasted);
    root
}

fn child(of: &Open) -> Open {
    of.child(SpanKind::Internal, "child".into())
}

fn failed(span: Open) -> Open {
    span.fail("unknown");
    span
}

fn of_operation(span: Open, operation: &'static str) -> Open {
    span.tell(OPERATION, operation);
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
    let kept = queued(&tail, || {
        let well = root(&tail, QUICK);
        drop(child(&well));
    });
    assert_eq!(kept, 0);
    let kept = queued(&tail, || {
        let bad = root(&tail, QUICK);
        drop(failed(child(&bad)));
        drop(child(&bad));
    });
    assert_eq!((kept, tail.spans()), (3, 0));
}

#[test]
fn what_is_slow_depends_on_what_it_is() {
    let tail = strict(100, 100);
    let is_kept = |span: Open| queued(&tail, || drop(span)) == 1;
    // What is just not slow has some time to end.
    let (millis, less) = (Duration::from_millis, Duration::from_millis(400));
    assert!(is_kept(root(&tail, SLOW_REQUEST)) && !is_kept(root(&tail, SLOW_REQUEST - less)));
    for operation in ["confirm", "cancel"] {
        assert!(is_kept(of_operation(root(&tail, SLOW_MONEY), operation)));
        assert!(!is_kept(of_operation(root(&tail, SLOW_MONEY - less), operation)));
    }
    let work = |lasted| of_kind(&tail, SpanKind::Internal, lasted);
    assert!(is_kept(work(SLOW_WORK)) && !is_kept(work(SLOW_WORK - less)));
    let seen = |lasted| Seen::of(&SpanKind::Server, lasted, |_| None).is_slow;
    assert!(seen(SLOW_REQUEST) && !seen(SLOW_REQUEST - millis(1)));
}

#[test]
fn spans_after_their_root_follow_its_verdict() {
    let tail = strict(100, 100);
    let (good, bad) = (root(&tail, QUICK), root(&tail, QUICK));
    let (after_good, after_bad) = (child(&good), child(&bad));
    drop(good);
    drop(failed(bad));
    let later = (child(&after_good), child(&after_bad));
    later.1.tell("told.late", true);
    assert_eq!(queued(&tail, || drop(failed(after_good))), 0);
    assert_eq!(queued(&tail, || drop(after_bad)), 1);
    assert_eq!(queued(&tail, || drop(later)), 1, "also those that begin after it");
    assert_eq!(tail.spans(), 0, "nobody waits for a root that has ended");
    let told: Vec<_> = tail.queue().take_all().into_iter().map(|span| span.attributes).collect();
    assert_eq!(told.last(), Some(&vec![KeyValue::new("told.late", true)]));
}

#[test]
fn a_root_that_does_not_come_is_slow_and_its_trace_is_told_in_parts() {
    let tail = strict(100, 100);
    let root = root(&tail, QUICK);
    drop(child(&root));
    assert_eq!(queued(&tail, || tail.sweep(Instant::now())), 0);
    assert_eq!(queued(&tail, || tail.sweep(Instant::now() + ROOT_WITHIN)), 1);
    assert_eq!(queued(&tail, || drop(root)), 1);
}

#[test]
fn ordinary_traces_make_room_for_those_that_failed() {
    let tail = strict(10, 4);
    let (bad, mut roots) = (root(&tail, QUICK), Vec::new());
    let mut fresh = || {
        roots.push(root(&tail, QUICK));
        child(roots.last().expect("just begun"))
    };
    drop(failed(child(&bad)));
    for _ in 0..30 {
        drop(fresh());
    }
    assert_eq!(tail.spans(), 10, "bounded");
    for _ in 0..30 {
        drop(failed(fresh()));
    }
    assert_eq!(tail.spans(), 10, "bounded, when all of them matter too");
    assert_eq!(queued(&tail, || drop(bad)), 2, "the one that failed is still whole");
    drop(roots);
    assert_eq!(tail.spans(), 0, "each place is left once");

    let tail = Tail::with_room(1.0, Arc::default(), 100, 4);
    for _ in 0..4 {
        drop(root(&tail, QUICK));
    }
    drop(root(&tail, QUICK));
    assert_eq!(tail.queue().spans(), 4, "an ordinary one finds no room");
    for _ in 0..6 {
        drop(failed(root(&tail, QUICK)));
    }
    assert_eq!(tail.queue().spans(), 4, "one that failed takes the place of an ordinary one, as long as there is one");
}

#[test]
fn one_in_many_is_kept_and_an_idle_round_never() {
    let tail = Tail::with_room(0.25, Arc::default(), 100, 100_000);
    let kept = (0..4_000).filter(|_| queued(&tail, || drop(root(&tail, QUICK))) == 1).count();
    assert!((800..1_200).contains(&kept), "{kept} of 4000");
    let all = Tail::with_room(1.0, Arc::default(), 100, 100);
    let rows = |rows: i64| {
        let span = root(&all, QUICK);
        span.tell(ROWS, rows);
        span
    };
    assert_eq!(queued(&all, || drop(rows(0))), 0);
    assert_eq!(queued(&all, || drop(rows(1))), 1);
}

#[test]
fn the_end_of_the_process_keeps_what_failed_and_waits_for_nobody() {
    let tail = strict(100, 100);
    let (good, bad) = (root(&tail, QUICK), root(&tail, QUICK));
    drop(child(&good));
    drop(failed(child(&bad)));
    assert_eq!(queued(&tail, || assert!(!tail.shut_down(Duration::ZERO))), 1);
    assert_eq!(queued(&tail, || drop((good, bad))), 0, "the queue is closed");
    assert_eq!(tail.spans(), 0);
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

/// A confirm that took so many seconds by two histograms: of two spans.
fn confirm_of(tail: &Arc<Tail>, seconds: f64) -> TraceId {
    let http = series(
        "http_server_request_duration_seconds",
        &[("http_request_method", "POST"), ("http_route", "/x"), ("http_response_status_code", "200")],
    );
    let root = of_operation(root(tail, Duration::from_secs(1)), "confirm");
    drop(child(&root));
    root.offer(confirm().measured(seconds));
    root.offer(http.measured(seconds + 0.001));
    root.tell(PAYMENT_ID, "pay_7");
    root.ids().0
}

#[test]
fn a_bucket_without_an_example_has_its_trace_kept_and_shows_it_once_it_has_arrived() {
    let (store, sent) = (Arc::new(Store::default()), Arc::new(AtomicUsize::new(0)));
    let tail = Tail::with_room(0.0, Arc::clone(&store), 100, 100);
    let trace = confirm_of(&tail, 0.3);
    assert_eq!(tail.queue().spans(), 2);
    assert_eq!(store.snapshot(SystemTime::now()).len(), 0, "nothing has arrived");
    let to = To::Counter(Arc::clone(&sent));
    export::start(Arc::clone(&tail), || Ok(to)).expect("a thread");
    assert!(tail.queue().close(Duration::from_secs(30)));
    assert_eq!(sent.load(Ordering::SeqCst), 2);
    let shown = store.snapshot(SystemTime::now());
    let exemplar = shown.get(&confirm().measured(0.3).place()).expect("it has arrived");
    assert_eq!((exemplar.trace, exemplar.value), (trace, 0.3));
    assert_eq!(exemplar.payment.as_deref(), Some("pay_7"));
    assert_eq!(shown.len(), 2, "one of each histogram");
}

/// A span of this trace as a receiver has it.
fn made(trace: TraceId, id: u64, parent: u64, lasted: Duration) -> SpanData {
    let start_time = SystemTime::now();
    SpanData {
        span_context: SpanContext::new(trace, SpanId::from(id), TraceFlags::SAMPLED, false, TraceState::default()),
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

#[test]
fn a_span_tells_what_was_measured_in_it_and_lasts_as_long() {
    let trace = TraceId::from(uuid::Uuid::new_v4().as_u128());
    let (mut root, child) = (made(trace, 1, 0, Duration::from_secs(1)), made(trace, 2, 1, Duration::ZERO));
    let told = [("error.type", "unknown"), ("error.type", "provider_unavailable")];
    root.attributes.extend(told.map(|(key, value)| KeyValue::new(key, value)));
    let spans = vec![root, child];
    let transaction = series("payments_db_transaction_duration_seconds", &[("tx", "lease"), ("result", "commit")]);
    let own = Offer { measured: transaction.measured(0.0125), span: SpanId::from(2) };
    let part = Offer { measured: confirm().measured(0.25), span: SpanId::from(1) };
    let elsewhere = Offer { span: SpanId::from(99), ..part };
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
        assert_eq!(store.snapshot(SystemTime::now()).len(), 0, "{to:?}");
    }
}
