//! Spans: how they are made, what is told about them, and where they go.
//!
//! Every root begins a trace of its own, and its span id is the second half of its trace id. So a stored trace id is
//! enough to link to the root of that trace. Spans carry ids, words of closed vocabularies and durations; events stay
//! in the log, which masks.

use std::borrow::Cow;
use std::cell::Cell;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use opentelemetry::trace::SpanKind;
use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanId, Status, TraceContextExt as _, TraceId, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SdkTracer, SdkTracerProvider, SpanExporter as _,
};

use super::exemplars::Store;
use super::labels::{Operation, OperationOutcome};
use super::tail::{self, Tail, TailProcessor};
use super::{TelemetryConfig, TelemetryError, export};

/// How long the exporter itself waits for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Room for what most spans tell.
const USUAL_ATTRIBUTES: usize = 8;
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

/// Makes spans, and sends those that are kept to the endpoint, if there is one.
pub(super) fn provider(config: &TelemetryConfig, store: Arc<Store>) -> Result<SdkTracerProvider, TelemetryError> {
    let resource = Resource::builder_empty()
        .with_service_name("paygauge")
        .with_attributes([
            KeyValue::new("service.version", config.service_version),
            KeyValue::new("deployment.environment.name", config.environment.clone()),
        ])
        .build();
    // Every span is made: only its trace's end can tell whether it is worth keeping.
    let builder = SdkTracerProvider::builder().with_resource(resource.clone()).with_sampler(Sampler::AlwaysOn);
    let builder = builder.with_id_generator(Ids::default());
    let Some(endpoint) = &config.traces.otlp_endpoint else { return Ok(builder.build()) };
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
    tail::set_of_this_process(&tail);
    Ok(builder.with_span_processor(TailProcessor(tail)).build())
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

/// Random ids, of which a root's span id is the second half of its trace id.
#[derive(Debug, Default)]
struct Ids(RandomIdGenerator);

thread_local! {
    /// The span id that was made last on this thread: the one of the span whose trace id is asked for next.
    static LAST: Cell<u64> = const { Cell::new(0) };
}

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        let random = u128::from_be_bytes(self.0.new_trace_id().to_bytes());
        match LAST.get() {
            0 => TraceId::from(random),
            span => TraceId::from(random << 64 | u128::from(span)),
        }
    }

    fn new_span_id(&self) -> SpanId {
        let id = self.0.new_span_id();
        LAST.set(u64::from_be_bytes(id.to_bytes()));
        id
    }
}

/// What makes this process's spans; none without tracing.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

tokio::task_local! {
    /// The span being worked in.
    static CURRENT: Context;
}

/// Makes this the one that makes spans; the first stays it.
pub(super) fn set_of_this_process(tracers: &SdkTracerProvider) {
    let _first = TRACER.set(tracers.tracer("paygauge"));
}

/// A piece of work as a trace shows it. Clones are the same span; it ends when the last of them is dropped.
///
/// It is the current one of what runs in its [`scope`](Self::scope), and nowhere else: what is spawned takes its span
/// along.
#[derive(Debug, Clone)]
pub struct Span(Context);

impl Span {
    /// Begins a part of the span being worked in; outside of any, a trace of its own.
    #[must_use]
    pub fn begin(kind: SpanKind, name: impl Into<Cow<'static, str>>) -> Self {
        Self::begin_in(&current(), kind, name.into())
    }

    /// Begins a trace of its own, whatever is being worked in.
    #[must_use]
    pub fn root(kind: SpanKind, name: impl Into<Cow<'static, str>>) -> Self {
        Self::begin_in(&Context::new(), kind, name.into())
    }

    /// The span being worked in.
    #[must_use]
    pub fn current() -> Self {
        Self(current())
    }

    fn begin_in(parent: &Context, kind: SpanKind, name: Cow<'static, str>) -> Self {
        let Some(tracer) = tracer() else { return Self(Context::new()) };
        let attributes = Vec::with_capacity(USUAL_ATTRIBUTES);
        let builder = SpanBuilder::from_name(name).with_kind(kind).with_attributes(attributes);
        Self(Context::new().with_span(tracer.build_with_context(builder, parent)))
    }

    /// Says something about it.
    pub fn tell(&self, key: &'static str, value: impl Into<Value>) {
        self.0.span().set_attribute(KeyValue::new(key, value));
    }

    /// Work that is done in this span.
    pub fn scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(self.0.clone(), work)
    }

    /// Does something in this span at once.
    pub fn in_scope<T>(&self, act: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.0.clone(), act)
    }

    /// Links it to another one.
    pub(super) fn link(&self, to: SpanContext, why: KeyValue) {
        self.0.span().add_link(to, vec![why]);
    }
}

#[cfg(not(test))]
fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

#[cfg(test)]
use self::tests::tracer;

/// The span being worked in; an invalid one outside of any.
pub(super) fn current() -> Context {
    CURRENT.try_with(Context::clone).unwrap_or_default()
}

/// Says something about the span being worked in.
fn tell(key: &'static str, value: impl Into<Value>) {
    current().span().set_attribute(KeyValue::new(key, value));
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
    let context = current();
    let span = context.span();
    span.update_name(format!("{} {}", request.method, request.template));
    span.set_attributes([
        KeyValue::new("http.request.method", request.method),
        KeyValue::new("url.template", request.template),
        KeyValue::new("server.address", request.host.to_owned()),
        KeyValue::new("server.port", i64::from(request.port)),
    ]);
}

/// A wait that the span being worked in had, if it is worth telling.
pub fn waited(key: &'static str, wait: Duration) {
    if wait > WORTH_TELLING {
        tell(key, wait.as_secs_f64() * 1_000.0);
    }
}

/// The order that the span being worked in is about.
pub fn about_order(order: &impl std::fmt::Display) {
    tell("payments.order.id", order.to_string());
}

/// The payment that the span being worked in is about; exemplars of its trace lead to it.
pub fn about_payment(payment: &impl std::fmt::Display) {
    tell(tail::PAYMENT_ID, payment.to_string());
}

/// How many rows a worker's round dealt with.
pub fn rows(rows: usize) {
    tell(tail::ROWS, i64::try_from(rows).unwrap_or(i64::MAX));
}

/// A use case ended in the span being worked in. A no is an answer; what is uncertain or failed is an error.
pub(super) fn ended(operation: Operation, outcome: OperationOutcome) {
    let context = current();
    let span = context.span();
    span.set_attribute(KeyValue::new(tail::OPERATION, operation.as_str()));
    span.set_attribute(KeyValue::new("payments.outcome", outcome.as_str()));
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
    let context = current();
    let span = context.span();
    span.set_attribute(KeyValue::new("error.type", kind));
    span.set_status(Status::error(kind));
}

#[cfg(test)]
pub(super) mod tests;
