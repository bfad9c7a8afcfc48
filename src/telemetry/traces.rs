//! Spans: how they are made, what is told about them, and where they go.
//!
//! Every root begins a trace of its own, and its span id is the second half of its trace id. So a stored trace id is
//! enough to link to the root of that trace. Spans carry ids, words of closed vocabularies and durations; events stay
//! in the log, which masks.

use std::cell::Cell;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{SpanId, Status, TraceContextExt as _, TraceId, TracerProvider as _};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, Sampler, SdkTracerProvider, SpanExporter as _};
use tracing::{Level, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Layer as _;
use tracing_subscriber::registry::LookupSpan;

use super::exemplars::Store;
use super::labels::{Operation, OperationOutcome};
use super::tail::{self, Tail, TailProcessor};
use super::{TelemetryConfig, TelemetryError, export};

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

/// Makes OpenTelemetry's spans from ours.
pub(super) fn layer<S>(tracers: &SdkTracerProvider) -> impl tracing_subscriber::Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(tracers.tracer("paygauge"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        // It would cost each poll of each span more than `current` costs where somebody asks.
        .with_context_activation(false)
        // Spans whatever the log filter says, or lines would lose their trace; events stay in the log, which masks.
        .with_filter(filter_fn(|of| of.is_span() && *of.level() <= Level::INFO && of.target().starts_with("paygauge")))
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

/// The span being worked in; an invalid one outside of any.
pub(super) fn current() -> Context {
    tracing::Span::current().context()
}

/// Says something about the span being worked in.
fn tell(key: &'static str, value: impl Into<Value>) {
    current().span().set_attribute(KeyValue::new(key, value));
}

/// The root span of an item of a worker: a trace of its own, whatever is being worked in.
#[must_use]
pub fn item(name: &'static str) -> tracing::Span {
    tracing::info_span!(parent: None, "worker.item", otel.name = name)
}

/// The root span of a transaction that takes the orders of several requests: it belongs to none of them.
#[must_use]
pub fn together() -> tracing::Span {
    tracing::info_span!(parent: None, "orders.together", otel.name = "orders together")
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
