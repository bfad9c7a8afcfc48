//! Telemetry: metrics, traces and logs of one process.
//!
//! `catalogue` lists every metric, `record` is the only way to one, `labels` holds the closed words that may stand
//! in a label. `ledger` says where a request's time went, `propagate` carries traces over the edges, `logs` and
//! `redact` write lines. Everything above `domain` may call this; it calls nobody. It refuses free text in labels
//! and never waits for a backend.

pub mod catalogue;
mod family;
pub mod labels;
pub mod ledger;
mod logs;
mod process;
pub mod propagate;
pub mod record;
mod redact;
pub mod runtime;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Once, OnceLock};
use std::time::Duration;

use metrics::{Key, Label, Level as MetricLevel, Metadata, Recorder as _};
use metrics_exporter_prometheus::PrometheusHandle;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use tracing::{Level, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, WorkerGuard};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

pub use self::logs::LogFormat;
use self::logs::{LogLayer, MemorySink, Sink};
pub use self::propagate::current_trace_id;

/// How many log lines found no room.
static DROPPED_LINES: OnceLock<ErrorCounter> = OnceLock::new();
static DROPPED_LINES_SEEN: AtomicUsize = AtomicUsize::new(0);

/// How often samples of histograms are folded into their buckets.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);
/// Spans waiting for the exporter; more are dropped.
const SPAN_QUEUE: usize = 8192;
const SPAN_BATCH: usize = 512;
const SPAN_BATCH_EVERY: Duration = Duration::from_secs(1);
/// How long one export may take; it runs on a thread of its own.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a text can say which log lines are written.
pub fn check_log_filter(filter: &str) -> Result<(), TelemetryError> {
    parse_log_filter(filter).map(|_| ())
}

fn parse_log_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(filter)
        .map_err(|error| TelemetryError::LogFilter { filter: filter.to_owned(), reason: error.to_string() })
}

/// What telemetry needs to know.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which lines are written, in the syntax of `tracing_subscriber`'s `EnvFilter`, e.g. `info,paygauge=debug`.
    pub log_filter: String,
    /// Base URL of an OTLP/HTTP receiver, e.g. `http://127.0.0.1:4318`; without one no span leaves the process.
    pub otlp_endpoint: Option<String>,
    /// The version that is running.
    pub service_version: &'static str,
    /// The commit it was built from, or `unknown`.
    pub revision: &'static str,
    /// Where it is running: `production`, `development`, …
    pub environment: String,
}

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log_filter` cannot be read.
    #[error("the log filter {filter:?} cannot be read: {reason}")]
    LogFilter {
        /// As configured.
        filter: String,
        /// What is wrong with it; as text, since this cause repeats its own causes.
        reason: String,
    },
    /// `otlp_endpoint` cannot be used.
    #[error("spans cannot be sent to {endpoint:?}: {reason}")]
    OtlpEndpoint {
        /// As configured.
        endpoint: String,
        /// What is wrong with it; as text, since this cause repeats its own causes.
        reason: String,
    },
}

/// Running telemetry. Keep it until the end and call [`Telemetry::shutdown`]: dropping it loses the last spans.
#[derive(Debug)]
#[must_use = "shutdown() sends the last spans"]
pub struct Telemetry {
    tracers: SdkTracerProvider,
    metrics: MetricsHandle,
    /// Writes the last lines when it goes.
    lines: Option<WorkerGuard>,
}

impl Telemetry {
    /// Gives the exposition of the metrics.
    #[must_use]
    pub fn metrics(&self) -> MetricsHandle {
        self.metrics.clone()
    }

    /// Sends what is left, waiting at most five seconds. Blocks the thread, so it is the last thing to do.
    pub fn shutdown(self) {
        if let Err(error) = self.tracers.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!(%error, "the last spans were not sent");
        }
        drop(self.lines);
    }
}

/// Gives the exposition of this process's metrics. Cheap to clone.
#[derive(Clone)]
pub struct MetricsHandle(PrometheusHandle);

impl std::fmt::Debug for MetricsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetricsHandle")
    }
}

impl MetricsHandle {
    /// The exposition in Prometheus' text format 0.0.4 (`text/plain; version=0.0.4`). Reads `/proc`, so it belongs
    /// on a blocking thread when scrapes are frequent.
    #[must_use]
    pub fn render(&self) -> String {
        count_dropped_lines();
        let mut text = self.0.render();
        process::render(&mut text);
        text
    }
}

/// Starts telemetry. The first call of a process installs the subscriber; later ones change nothing of it and give a
/// handle to the same metrics, so tests may each call it.
///
/// # Errors
/// A log filter or an endpoint that cannot be read.
pub fn init(config: TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let (sink, guard, dropped) = Sink::stdout();
    let mut telemetry = start(config, sink)?;
    // A second call changes nothing of the first one's lines.
    let _first = DROPPED_LINES.set(dropped);
    telemetry.lines = Some(guard);
    Ok(telemetry)
}

/// Adds what was dropped since the last look.
fn count_dropped_lines() {
    let total = DROPPED_LINES.get().map_or(0, ErrorCounter::dropped_lines);
    let before = DROPPED_LINES_SEEN.swap(total, Ordering::Relaxed);
    record::log_lines_dropped(u64::try_from(total.saturating_sub(before)).unwrap_or(0));
}

fn start(config: TelemetryConfig, sink: Sink) -> Result<Telemetry, TelemetryError> {
    let filter = parse_log_filter(&config.log_filter)?;
    let tracers = tracer_provider(&config)?;
    let spans = span_layer(&tracers);
    let lines = LogLayer::new(config.log_format, sink, config.service_version, &config.environment);
    let subscriber = tracing_subscriber::registry().with(spans).with(lines.with_filter(filter));
    let first = tracing::subscriber::set_global_default(subscriber).is_ok();
    let metrics = start_metrics(config.service_version, config.revision);
    tracing::debug!(first, "telemetry is running");
    Ok(Telemetry { tracers, metrics, lines: None })
}

fn span_layer<S>(tracers: &SdkTracerProvider) -> impl tracing_subscriber::Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(tracers.tracer("paygauge"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        // Spans whatever the log filter says, or lines would lose their trace; events stay in the log, which masks.
        .with_filter(filter_fn(|of| of.is_span() && *of.level() <= Level::INFO && of.target().starts_with("paygauge")))
}

fn tracer_provider(config: &TelemetryConfig) -> Result<SdkTracerProvider, TelemetryError> {
    let resource = Resource::builder_empty()
        .with_service_name("paygauge")
        .with_attributes([
            KeyValue::new("service.version", config.service_version),
            KeyValue::new("deployment.environment.name", config.environment.clone()),
        ])
        .build();
    // Not parent-based: a client's `traceparent` must not choose what we keep.
    let builder = SdkTracerProvider::builder().with_resource(resource).with_sampler(Sampler::AlwaysOn);
    Ok(match &config.otlp_endpoint {
        Some(endpoint) => builder.with_span_processor(span_processor(endpoint)?).build(),
        None => builder.build(),
    })
}

fn span_processor(endpoint: &str) -> Result<BatchSpanProcessor, TelemetryError> {
    // The exporter's HTTP client needs a process-wide choice of cryptography; an earlier one is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(traces_url(endpoint))
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| TelemetryError::OtlpEndpoint { endpoint: endpoint.to_owned(), reason: error.to_string() })?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(SPAN_QUEUE)
        .with_max_export_batch_size(SPAN_BATCH)
        .with_scheduled_delay(SPAN_BATCH_EVERY)
        .build();
    Ok(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
}

fn traces_url(endpoint: &str) -> String {
    let base = endpoint.trim_end_matches('/');
    if base.ends_with("/v1/traces") { base.to_owned() } else { format!("{base}/v1/traces") }
}

fn start_metrics(version: &'static str, revision: &'static str) -> MetricsHandle {
    static STARTED: Once = Once::new();
    let handle = family::recorder().handle();
    STARTED.call_once(|| {
        catalogue::start_at_zero();
        let metadata = Metadata::new("paygauge", MetricLevel::INFO, None);
        let labels = vec![Label::new("version", version), Label::new("revision", revision)];
        family::recorder().register_gauge(&Key::from_parts("payments_build_info", labels), &metadata).set(1.0);
        let upkeep = handle.clone();
        let spawned = std::thread::Builder::new().name("metrics-upkeep".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(UPKEEP_EVERY);
                upkeep.run_upkeep();
            }
        });
        if let Err(error) = spawned {
            // Rendering folds samples too, so a scraped process loses nothing.
            tracing::warn!(%error, "no thread for the upkeep of metrics");
        }
    });
    MetricsHandle(handle)
}

/// Telemetry of a test process: lines are kept in memory, all levels of paygauge's own, no span is exported.
#[derive(Debug, Clone)]
pub struct TestTelemetry {
    metrics: MetricsHandle,
    lines: MemorySink,
}

impl TestTelemetry {
    /// Gives the exposition of the metrics.
    #[must_use]
    pub fn metrics(&self) -> MetricsHandle {
        self.metrics.clone()
    }

    /// The newest lines of the whole process as JSON texts, oldest first. Tests run side by side: look for an id.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lines()
    }
}

/// Starts telemetry for tests, once per process; every call gives the same. If `init` came first, lines go to where
/// that one sends them.
#[must_use]
pub fn for_tests() -> TestTelemetry {
    static TELEMETRY: LazyLock<TestTelemetry> = LazyLock::new(|| {
        let lines = MemorySink::default();
        let config = TelemetryConfig {
            log_format: LogFormat::Json,
            log_filter: "info,paygauge=trace".to_owned(),
            otlp_endpoint: None,
            service_version: "0.0.0-test",
            revision: "unknown",
            environment: "test".to_owned(),
        };
        let metrics = match start(config, Sink::Memory(lines.clone())) {
            Ok(telemetry) => telemetry.metrics(),
            // The filter above is a constant and there is no endpoint; metrics need neither.
            Err(_) => start_metrics("0.0.0-test", "unknown"),
        };
        TestTelemetry { metrics, lines }
    });
    TELEMETRY.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TelemetryConfig {
        TelemetryConfig {
            log_format: LogFormat::Human,
            log_filter: "info".to_owned(),
            otlp_endpoint: None,
            service_version: "0.0.0-test",
            revision: "unknown",
            environment: "test".to_owned(),
        }
    }

    #[test]
    fn starting_twice_is_harmless_and_shares_the_metrics() {
        let kept = for_tests();
        let second = init(config()).expect("a good configuration");
        assert!(
            second.metrics().render().contains(r#"payments_build_info{version="0.0.0-test",revision="unknown"} 1"#)
        );
        second.shutdown();
        tracing::info!(target: "paygauge", marker = "after-the-second-start", "still here");
        assert!(kept.lines().iter().any(|line| line.contains("after-the-second-start")));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_name() {
        let error = init(TelemetryConfig { log_filter: "a=b=c".to_owned(), ..config() }).expect_err("not a filter");
        assert!(error.to_string().contains("a=b=c"), "{error}");
        let whole = format!("{:#}", anyhow::Error::from(error));
        assert_eq!(whole.matches("error parsing level filter").count(), 1, "{whole}");
        let endpoint = Some("http://exa mple:4318".to_owned());
        let error = init(TelemetryConfig { otlp_endpoint: endpoint, ..config() }).expect_err("not a URL");
        assert!(error.to_string().contains("exa mple"), "{error}");
    }

    #[test]
    fn the_receivers_base_url_gets_the_path_of_traces() {
        assert_eq!(traces_url("http://a:4318/"), "http://a:4318/v1/traces");
        assert_eq!(traces_url("http://a:4318/v1/traces"), "http://a:4318/v1/traces");
    }

    /// Spans made by `act` go to a receiver at `endpoint`.
    fn exporting(endpoint: String, act: impl FnOnce()) -> SdkTracerProvider {
        let config = TelemetryConfig { otlp_endpoint: Some(endpoint), ..config() };
        let tracers = tracer_provider(&config).expect("a good endpoint");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(span_layer(&tracers)), act);
        tracers
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn spans_reach_an_otlp_receiver_with_their_name_and_without_events() {
        use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
        use prost::Message as _;
        use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

        let receiver = MockServer::start().await;
        let traces = Mock::given(matchers::path("/v1/traces")).respond_with(ResponseTemplate::new(200));
        traces.mount(&receiver).await;
        let tracers = exporting(receiver.uri(), || {
            let span = tracing::info_span!("x", otel.name = "GET /v1/products", status = tracing::field::Empty);
            span.in_scope(|| tracing::info!("an event"));
            span.record("status", 200);
            tracing::debug_span!("too fine").in_scope(|| ());
            tracing::info_span!(target: "hyper", "not ours").in_scope(|| ());
        });
        let flushed = tokio::task::spawn_blocking(move || tracers.shutdown_with_timeout(SHUTDOWN_TIMEOUT)).await;
        flushed.expect("it does not panic").expect("the receiver answers");

        let requests = receiver.received_requests().await.expect("recording is on");
        let decoded = requests.iter().map(|r| ExportTraceServiceRequest::decode(r.body.as_slice()).expect("protobuf"));
        let resources: Vec<_> = decoded.flat_map(|request| request.resource_spans).collect();
        let service = &resources[0].resource.as_ref().expect("a resource").attributes;
        assert!(service.iter().any(|a| a.key == "service.name" && format!("{:?}", a.value).contains("paygauge")));
        let spans: Vec<_> = resources.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans).collect();
        assert_eq!(spans.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["GET /v1/products"]);
        assert!(spans[0].events.is_empty() && spans[0].attributes.iter().any(|a| a.key == "status"));
    }

    #[test]
    fn a_receiver_that_never_answers_holds_nobody_up() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", silent.local_addr().expect("it is bound"));
        let started = std::time::Instant::now();
        let tracers = exporting(endpoint, || {
            for _ in 0..4 * SPAN_QUEUE {
                tracing::info_span!("one of many").in_scope(|| ());
            }
        });
        assert!(started.elapsed() < EXPORT_TIMEOUT, "spans beyond the queue are dropped, not waited for");
        assert!(tracers.shutdown_with_timeout(Duration::from_millis(200)).is_err());
        assert!(started.elapsed() < EXPORT_TIMEOUT + Duration::from_secs(1), "the wait at the end is bounded");
    }

    #[test]
    fn a_span_has_a_trace_even_when_no_line_is_wanted() {
        let tracers = tracer_provider(&config()).expect("no endpoint");
        let lines = MemorySink::default();
        let silent =
            LogLayer::new(LogFormat::Json, Sink::Memory(lines.clone()), "", "").with_filter(EnvFilter::new("off"));
        let subscriber = tracing_subscriber::registry().with(span_layer(&tracers)).with(silent);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("test").in_scope(|| {
                tracing::error!(target: "paygauge", "nobody reads this");
                assert!(current_trace_id().is_some());
            });
        });
        assert!(lines.lines().is_empty());
    }

    #[test]
    fn what_is_written_and_what_is_masked_is_counted() {
        let kept = for_tests();
        let value = |series: &str| -> f64 {
            let text = kept.metrics().render();
            let found = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
            found.expect("registered from the start")
        };
        let (lines, masked) =
            (r#"payments_log_lines_total{level="trace"}"#, r#"payments_log_redactions_total{rule="checkout_token"}"#);
        let before = (value(lines), value(masked));
        tracing::trace!(target: "paygauge", marker = "counted", token = "ct_0123456789abcdef0123", "a careless line");
        assert!(value(lines) >= before.0 + 1.0 && value(masked) >= before.1 + 1.0);
        let line = kept.lines().into_iter().find(|line| line.contains(r#""marker":"counted""#));
        assert!(line.is_some_and(|line| line.contains(r#""token":"ct_[redacted]""#)));
    }

    #[test]
    fn lines_in_a_span_carry_its_trace() {
        let kept = for_tests();
        let trace = tracing::info_span!("test").in_scope(|| {
            tracing::info!(target: "paygauge", marker = "inside-of-a-span", "here");
            current_trace_id().expect("a span has a trace")
        });
        let lines = kept.lines();
        let line = lines.iter().find(|line| line.contains("inside-of-a-span")).expect("it was written");
        assert!(line.contains(&format!(r#""trace_id":"{trace}""#)), "{line}");
    }
}
