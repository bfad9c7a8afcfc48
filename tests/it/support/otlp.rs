//! A real receiver of spans in this process, by OTLP over HTTP or gRPC; and receivers that are of no use.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::eventually;
use super::shop::PATIENCE;

/// A running receiver.
pub struct Receiver {
    /// Its base URL, for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: String,
    /// For `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub protocol: &'static str,
    spans: Spans,
    serving: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Span>>>);

impl Spans {
    fn take_in(&self, request: ExportTraceServiceRequest) {
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().expect("spans").extend(scopes.flat_map(|scope| scope.spans));
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.take_in(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    /// Receives protobuf over HTTP at `/v1/traces`.
    pub async fn http() -> Self {
        let (listener, endpoint) = listener().await;
        let spans = Spans::default();
        let kept = spans.clone();
        let take = async move |body: axum::body::Bytes| {
            kept.take_in(ExportTraceServiceRequest::decode(body).expect("protobuf"));
        };
        let router = axum::Router::new().route("/v1/traces", axum::routing::post(take));
        let router = router.layer(axum::extract::DefaultBodyLimit::disable());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("a server") });
        Self { endpoint, protocol: "http/protobuf", spans, serving }
    }

    /// Receives gRPC.
    pub async fn grpc() -> Self {
        let (listener, endpoint) = listener().await;
        let spans = Spans::default();
        let service = TraceServiceServer::new(spans.clone());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
        let serving = tokio::spawn(async move { server.await.expect("a server") });
        Self { endpoint, protocol: "grpc", spans, serving }
    }

    /// The environment of a server that sends here and keeps this share of ordinary traces.
    pub fn variables<'a>(&'a self, keep_ratio: &'a str) -> [(&'a str, &'a str); 3] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", self.protocol),
            ("PAYGAUGE_TRACE_KEEP_RATIO", keep_ratio),
        ]
    }

    /// What came so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.0.lock().expect("spans").clone()
    }

    /// The spans of a trace so far, by its id in hexadecimal digits.
    pub fn trace(&self, trace: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| hex(&span.trace_id) == trace).collect()
    }

    /// The ids of all traces so far, in hexadecimal digits.
    pub fn traces(&self) -> BTreeSet<String> {
        self.spans.0.lock().expect("spans").iter().map(|span| hex(&span.trace_id)).collect()
    }

    /// Waits for the root span of a trace; a trace comes as a whole.
    pub async fn root(&self, trace: &str) -> Span {
        eventually(&format!("the root of {trace} arrives"), PATIENCE, async || {
            self.trace(trace).into_iter().find(|span| span.parent_span_id.is_empty())
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    (listener, endpoint)
}

/// Takes connections and what comes over them, and never answers. Returns its base URL; it goes with the test.
pub async fn black_hole() -> String {
    let (listener, endpoint) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move { tokio::io::copy(&mut connection, &mut tokio::io::sink()).await });
        }
    });
    endpoint
}

/// The base URL of a port at which nobody listens.
pub async fn refusing() -> String {
    listener().await.1
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An attribute of a span as text, `None` if it has none of the name.
pub fn attribute(span: &Span, name: &str) -> Option<String> {
    let value = span.attributes.iter().find(|attribute| attribute.key == name)?.value.clone()?.value?;
    Some(match value.clone() {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(yes) => yes.to_string(),
        Value::ArrayValue(_) | Value::KvlistValue(_) | Value::BytesValue(_) | Value::StringValueStrindex(_) => {
            format!("{value:?}")
        }
    })
}

/// How long a span lasted, in seconds.
pub fn seconds(span: &Span) -> f64 {
    std::time::Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano).as_secs_f64()
}

/// Whether a span is marked as an error.
pub fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == 2)
}
