//! Spans: how they are made, what is told about them, and where they go.
//!
//! Every root begins a trace of its own, and its span id is the second half of its trace id. So a stored trace id is
//! enough to link to the root of that trace. Spans carry ids, words of closed vocabularies and durations; events stay
//! in the log, which masks.

mod room;
mod trace;

use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use opentelemetry::trace::SpanKind;
use opentelemetry::trace::{SpanContext, SpanId, TraceId};
use opentelemetry::{KeyValue, Value};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use uuid::Uuid;

#[cfg(test)]
pub(super) use self::room::LINK_KIND;
pub use self::room::Name;
use self::room::Told;
pub(super) use self::trace::{Open, Trace};
use super::exemplars::Store;
use super::histogram::Measured;
use super::labels::{Operation, OperationOutcome};
use super::tail::{self, Tail};
use super::{TelemetryConfig, TelemetryError, export};
use crate::domain::ids::{OrderId, PaymentId};

/// How long the exporter itself waits for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Shorter waits are none.
const WORTH_TELLING: Duration = Duration::from_millis(1);

/// How spans are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OtlpProtocol {
    /// Protobuf over HTTP, at `…/v1/traces`.
    #[default]
    HttpProtobuf,
    /// gRPC.
    Grpc,
}

impl FromStr for OtlpProtocol {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "http/protobuf" => Ok(Self::HttpProtobuf),
            "grpc" => Ok(Self::Grpc),
            _ => Err(()),
        }
    }
}

/// Where spans go, and which.
#[derive(Debug, Clone, PartialEq)]
pub struct TracesConfig {
    /// Base URL of an OTLP receiver, e.g. `http://127.0.0.1:4318`; without one no span leaves the process.
    pub otlp_endpoint: Option<String>,
    /// How spans are sent.
    pub otlp_protocol: OtlpProtocol,
    /// Which share of ordinary traces is kept, 0 to 1. What failed, was slow or not certain is kept whatever it is.
    pub keep_ratio: f64,
}

impl TracesConfig {
    /// No span leaves the process.
    #[must_use]
    pub const fn none() -> Self {
        Self { otlp_endpoint: None, otlp_protocol: OtlpProtocol::HttpProtobuf, keep_ratio: 1.0 }
    }
}

/// Decides about traces, and sends those that are kept to the endpoint, if there is one.
pub(super) fn start(config: &TelemetryConfig, store: Arc<Store>) -> Result<Option<Arc<Tail>>, TelemetryError> {
    let Some(endpoint) = &config.traces.otlp_endpoint else { return Ok(None) };
    let resource = Resource::builder_empty()
        .with_service_name("paygauge")
        .with_attributes([
            KeyValue::new("service.version", config.service_version),
            KeyValue::new("deployment.environment.name", config.environment.clone()),
        ])
        .build();
    // The exporter's HTTP client needs a process-wide choice of cryptography; an earlier one is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let tail = Tail::new(config.traces.keep_ratio, store);
    let (protocol, to) = (config.traces.otlp_protocol, endpoint.clone());
    let started = export::start(tail.clone(), move || {
        let mut exporter = exporter(protocol, &to)?;
        exporter.set_resource(&resource);
        Ok(exporter)
    });
    started.map_err(|reason| TelemetryError::OtlpEndpoint { endpoint: endpoint.clone(), reason })?;
    Ok(Some(tail))
}

fn exporter(protocol: OtlpProtocol, endpoint: &str) -> Result<SpanExporter, String> {
    let built = match protocol {
        OtlpProtocol::HttpProtobuf => {
            let builder = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
            builder.with_endpoint(traces_url(endpoint)).with_timeout(ANSWER_WITHIN).build()
        }
        OtlpProtocol::Grpc => {
            let builder = SpanExporter::builder().with_tonic();
            builder.with_endpoint(endpoint).with_timeout(ANSWER_WITHIN).build()
        }
    };
    built.map_err(|error| error.to_string())
}

fn traces_url(endpoint: &str) -> String {
    let base = endpoint.trim_end_matches('/');
    if base.ends_with("/v1/traces") { base.to_owned() } else { format!("{base}/v1/traces") }
}

/// Makes spans, every one: only its trace's end can tell whether it is worth keeping. Without a tail they have ids, and
/// are not kept.
#[derive(Debug, Clone)]
struct Tracer(Option<Arc<Tail>>);

/// What makes this process's spans; none without tracing.
static TRACER: OnceLock<Tracer> = OnceLock::new();

tokio::task_local! {
    /// The span being worked in.
    static CURRENT: Span;
}

/// Spans are made from now on, and `tail` decides about them; the first stays it.
pub(super) fn begin_in_this_process(tail: Option<Arc<Tail>>) {
    let _first = TRACER.set(Tracer(tail));
}

/// A piece of work as a trace shows it. Clones are the same span; it ends when the last of them is dropped.
///
/// It is the current one of what runs in its [`scope`](Self::scope), and nowhere else: what is spawned takes its span
/// along.
#[derive(Debug, Clone)]
pub struct Span(Option<Arc<Open>>);

impl Span {
    /// Begins a part of the span being worked in; outside of any, a trace of its own.
    #[must_use]
    pub fn begin(kind: SpanKind, name: impl Into<Name>) -> Self {
        match Self::current().0 {
            Some(current) => Self(Some(Arc::new(current.child(kind, name.into())))),
            None => Self::root(kind, name),
        }
    }

    /// Begins a trace of its own, whatever is being worked in.
    #[must_use]
    pub fn root(kind: SpanKind, name: impl Into<Name>) -> Self {
        Self(tracer().map(|Tracer(tail)| Arc::new(Open::root(tail, kind, name.into()))))
    }

    /// The span being worked in.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or(Self(None))
    }

    /// Says something about it.
    pub fn tell(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(open) = &self.0 {
            open.tell(key, value);
        }
    }

    /// Work that is done in this span.
    pub fn scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(self.clone(), work)
    }

    /// Does something in this span at once.
    pub fn in_scope<T>(&self, act: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), act)
    }

    /// Links it to another one.
    pub(super) fn link(&self, to: SpanContext, why: &'static str) {
        if let Some(open) = &self.0 {
            open.link(to, why);
        }
    }
}

#[cfg(not(test))]
fn tracer() -> Option<Tracer> {
    TRACER.get().cloned()
}

#[cfg(test)]
use self::tests::tracer;

/// Does something with the span being worked in, if there is one.
fn with_current<T>(act: impl FnOnce(&Open) -> T) -> Option<T> {
    CURRENT.try_with(|span| span.0.as_deref().map(act)).ok().flatten()
}

/// The trace and the span being worked in.
pub(super) fn current_ids() -> Option<(TraceId, SpanId)> {
    with_current(Open::ids)
}

/// The ids of a trace and a span, as texts. Those of the library are written digit by digit.
pub(super) fn with_texts<T>((trace, span): (TraceId, SpanId), act: impl FnOnce(&str, &str) -> T) -> T {
    let (mut of_trace, mut of_span) = (Uuid::encode_buffer(), Uuid::encode_buffer());
    let trace = Uuid::from_bytes(trace.to_bytes()).as_simple().encode_lower(&mut of_trace);
    let span = Uuid::from_u64_pair(u64::from_be_bytes(span.to_bytes()), 0).as_simple().encode_lower(&mut of_span);
    act(trace, span.get(..16).unwrap_or_default())
}

/// Offers a value that was measured to the span being worked in.
pub(super) fn offer(measured: Measured) {
    with_current(|span| span.offer(measured)).unwrap_or_default();
}

/// Says something about the span being worked in.
fn tell(key: &'static str, value: impl Into<Value>) {
    with_current(|span| span.tell(key, value)).unwrap_or_default();
}

/// A request that the span being worked in sends to a PG: its route without ids, and the server.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The path with placeholders, e.g. `/v1/payments/{paymentKey}`.
    pub template: &'static str,
    /// The server's host.
    pub host: &'a str,
    /// The server's port.
    pub port: u16,
}

/// Names the span being worked in after the request that it sends.
pub fn sends(request: Sent<'_>) {
    with_current(|span| {
        span.rename([request.method, " ", request.template].into());
        span.tell_all([
            ("http.request.method", Told::Value(request.method.into())),
            ("url.template", Told::Value(request.template.into())),
            ("server.address", Told::Value(request.host.to_owned().into())),
            ("server.port", Told::Value(i64::from(request.port).into())),
        ]);
    })
    .unwrap_or_default();
}

/// A wait that the span being worked in had, if it is worth telling.
pub fn waited(key: &'static str, wait: Duration) {
    if wait > WORTH_TELLING {
        tell(key, wait.as_secs_f64() * 1_000.0);
    }
}

/// The order that the span being worked in is about.
pub fn about_order(order: &OrderId) {
    let id = Told::Id(OrderId::PREFIX, order.uuid());
    with_current(|span| span.tell_all([("payments.order.id", id)])).unwrap_or_default();
}

/// The payment that the span being worked in is about; exemplars of its trace lead to it.
pub fn about_payment(payment: &PaymentId) {
    let id = Told::Id(PaymentId::PREFIX, payment.uuid());
    with_current(|span| span.tell_all([(tail::PAYMENT_ID, id)])).unwrap_or_default();
}

/// How many rows a worker's round dealt with.
pub fn rows(rows: usize) {
    tell(tail::ROWS, i64::try_from(rows).unwrap_or(i64::MAX));
}

/// A use case ended in the span being worked in. A no is an answer; what is uncertain or failed is an error.
pub(super) fn ended(operation: Operation, outcome: OperationOutcome) {
    let told = [
        (tail::OPERATION, Told::Value(operation.as_str().into())),
        ("payments.outcome", Told::Value(outcome.as_str().into())),
    ];
    with_current(|span| span.tell_all(told)).unwrap_or_default();
    match outcome {
        OperationOutcome::PgError | OperationOutcome::Unknown | OperationOutcome::Error => failed(outcome.as_str()),
        OperationOutcome::Success
        | OperationOutcome::Declined
        | OperationOutcome::Rejected
        | OperationOutcome::Replayed
        | OperationOutcome::Conflict => {}
    }
}

/// The span being worked in is an error of this kind.
pub fn failed(kind: &'static str) {
    with_current(|span| span.fail(kind)).unwrap_or_default();
}

#[cfg(test)]
pub(super) mod tests;
