//! Telemetry: metrics, traces and logs of one process.
//!
//! `catalogue` lists every metric, `record` is the only way to one, `labels` holds the closed words that may stand
//! in a label. `ledger` says where a request's time went and `facts` what it was about, `canonical` tells both in one
//! line, `propagate` links traces over the edges, `logs`, `redact` and `panics` write lines. `traces` makes spans, `tail`
//! keeps those of traces that somebody will ask for, `export` sends them, and `exemplars` lead to them from the metrics.
//! Everything above `domain` may call this; it calls nobody. It refuses free text in labels and never waits for a
//! backend.

pub mod canonical;
pub mod catalogue;
mod exemplars;
mod export;
pub mod facts;
mod family;
mod histogram;
pub mod labels;
pub mod ledger;
mod logs;
mod openmetrics;
mod panics;
mod parts;
mod process;
pub mod propagate;
pub mod record;
mod redact;
pub mod runtime;
mod tail;
pub mod traces;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Once, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use metrics::{Key, Label, Level as MetricLevel, Metadata, Recorder as _};
use metrics_exporter_prometheus::PrometheusHandle;
use tracing_subscriber::filter::{FilterExt as _, Targets, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

use self::exemplars::Store;
pub use self::logs::LogFormat;
use self::logs::{LastLines, Lines, LogLayer, MemorySink, Sink};
pub use self::parts::Parts;
pub use self::propagate::current_trace_id;
pub use self::redact::is_clean;
use self::tail::Tail;
pub use self::traces::{OtlpProtocol, Span, SpanKind, TracesConfig};

/// The lines of this process, some of which may find no room.
static LINES: OnceLock<Arc<Lines>> = OnceLock::new();
static DROPPED_LINES_SEEN: AtomicU64 = AtomicU64::new(0);

const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a text can say which log lines are written.
pub fn check_log_filter(filter: &str) -> Result<(), TelemetryError> {
    parse_log_filter(filter).map(|_| ())
}

fn parse_log_filter(filter: &str) -> Result<Targets, TelemetryError> {
    let parsed = filter.parse::<Targets>();
    parsed.map_err(|error| TelemetryError::LogFilter { filter: filter.to_owned(), reason: error.to_string() })
}

/// What telemetry needs to know.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which lines are written: a level, and others for some targets, e.g. `info,paygauge=debug`.
    pub log_filter: String,
    /// Where spans go, and which.
    pub traces: TracesConfig,
    /// The version that is running.
    pub service_version: &'static str,
    /// The commit it was built from, or `unknown`.
    pub revision: &'static str,
    /// Where it is running: `production`, `development`, …
    pub environment: String,
    /// What it does: `api`, `worker` or `all`.
    pub role: &'static str,
    /// Which parts run.
    pub parts: Parts,
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
    /// The receiver of spans cannot be used.
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
    tail: Option<Arc<Tail>>,
    metrics: MetricsHandle,
    /// Writes the last lines when it goes.
    lines: Option<LastLines>,
}

impl Telemetry {
    /// Gives the exposition of the metrics.
    #[must_use]
    pub fn metrics(&self) -> MetricsHandle {
        self.metrics.clone()
    }

    /// Sends what is left, waiting at most five seconds. Blocks the thread, so it is the last thing to do.
    pub fn shutdown(self) {
        if self.tail.is_some_and(|tail| !tail.shut_down(SHUTDOWN_TIMEOUT)) {
            tracing::warn!(waited_s = SHUTDOWN_TIMEOUT.as_secs(), "the last spans were not sent");
        }
        drop(self.lines);
    }
}

/// Gives the exposition of this process's metrics. Cheap to clone.
#[derive(Clone)]
pub struct MetricsHandle {
    exporter: PrometheusHandle,
    exemplars: Arc<Store>,
}

impl std::fmt::Debug for MetricsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetricsHandle")
    }
}

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
}

impl Exposition {
    /// The media type of an answer in this format.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl MetricsHandle {
    /// The metrics in Prometheus' text format, see [`MetricsHandle::render_as`].
    #[must_use]
    pub fn render(&self) -> String {
        self.render_as(Exposition::Text)
    }

    /// The metrics in this format. Reads `/proc` and writes thousands of lines, so it belongs on a blocking thread. How long it
    /// took and how many samples it gave are told by the next one.
    #[must_use]
    pub fn render_as(&self, exposition: Exposition) -> String {
        let started = Instant::now();
        count_dropped_lines();
        let shown = self.exemplars.snapshot(SystemTime::now());
        catalogue::EXEMPLARS_STORED.of(()).set(u32::try_from(shown.len()).unwrap_or(u32::MAX));
        let mut written = self.exporter.render();
        process::render(&mut written);
        match exposition {
            Exposition::Text => histogram::render(&BTreeMap::new(), &mut written),
            Exposition::OpenMetrics => {
                written = openmetrics::from_text(&written);
                histogram::render(&shown, &mut written);
                written.push_str(openmetrics::END);
            }
        }
        catalogue::SERIES.of(()).set(u32::try_from(openmetrics::samples(&written)).unwrap_or(u32::MAX));
        catalogue::RENDER.of(()).record(started.elapsed().as_secs_f64());
        written
    }
}

/// Starts telemetry. The first call of a process installs the subscriber; later ones change nothing of it and give a
/// handle to the same metrics, so tests may each call it.
///
/// # Errors
/// A log filter or an endpoint that cannot be read.
pub fn init(config: TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let (lines, last_lines) = Sink::stdout();
    panics::install(config.log_format);
    let mut telemetry = start(config, Sink::Stdout(Arc::clone(&lines)))?;
    // A second call changes nothing of the first one's lines.
    let _first = LINES.set(lines);
    telemetry.lines = Some(last_lines);
    Ok(telemetry)
}

/// Adds what was dropped since the last look.
fn count_dropped_lines() {
    let total = LINES.get().map_or(0, |lines| lines.dropped());
    let before = DROPPED_LINES_SEEN.swap(total, Ordering::Relaxed);
    record::log_lines_dropped(total.saturating_sub(before));
}

fn start(config: TelemetryConfig, sink: Sink) -> Result<Telemetry, TelemetryError> {
    let (filter, parts) = (parse_log_filter(&config.log_filter)?, config.parts);
    parts.apply();
    let exemplars = Arc::new(Store::default());
    let tail = traces::start(&config, Arc::clone(&exemplars))?;
    if parts.traces {
        traces::begin_in_this_process(tail.clone());
    }
    // Spans are made by `traces`; those of others would cost something and be read by nobody.
    let wanted = if parts.logs { filter } else { Targets::new() };
    let events = wanted.and(filter_fn(|of| !of.is_span()));
    let subscriber = tracing_subscriber::registry().with(LogLayer::new(&config, sink).with_filter(events));
    let first = tracing::subscriber::set_global_default(subscriber).is_ok();
    let metrics = start_metrics(config.service_version, config.revision, exemplars);
    tracing::debug!(first, "telemetry is running");
    Ok(Telemetry { tail, metrics, lines: None })
}

fn start_metrics(version: &'static str, revision: &'static str, exemplars: Arc<Store>) -> MetricsHandle {
    static STARTED: Once = Once::new();
    let handle = family::recorder().handle();
    STARTED.call_once(|| {
        catalogue::start_at_zero();
        let metadata = Metadata::new("paygauge", MetricLevel::INFO, None);
        let labels = vec![Label::new("version", version), Label::new("revision", revision)];
        family::recorder().register_gauge(&Key::from_parts("payments_build_info", labels), &metadata).set(1.0);
    });
    MetricsHandle { exporter: handle, exemplars }
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
            traces: TracesConfig::none(),
            service_version: "0.0.0-test",
            revision: "unknown",
            environment: "test".to_owned(),
            role: "all",
            parts: Parts::ALL,
        };
        let metrics = match start(config, Sink::Memory(lines.clone())) {
            Ok(telemetry) => telemetry.metrics(),
            // The filter above is a constant and there is no endpoint; metrics need neither.
            Err(_) => start_metrics("0.0.0-test", "unknown", Arc::default()),
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
            traces: TracesConfig::none(),
            service_version: "0.0.0-test",
            revision: "unknown",
            environment: "test".to_owned(),
            role: "all",
            parts: Parts::ALL,
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
        assert_eq!(whole.matches("too many '='").count(), 1, "{whole}");
        for otlp_protocol in [OtlpProtocol::HttpProtobuf, OtlpProtocol::Grpc] {
            let otlp_endpoint = Some("http://exa mple:4318".to_owned());
            let traces = TracesConfig { otlp_endpoint, otlp_protocol, keep_ratio: 1.0 };
            let error = init(TelemetryConfig { traces, ..config() }).expect_err("not a URL");
            assert!(error.to_string().contains("exa mple"), "{error}");
        }
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
        let trace = Span::root(SpanKind::Internal, "test").in_scope(|| {
            tracing::info!(target: "paygauge", marker = "inside-of-a-span", "here");
            current_trace_id().expect("a span has a trace")
        });
        let lines = kept.lines();
        let line = lines.iter().find(|line| line.contains("inside-of-a-span")).expect("it was written");
        assert!(line.contains(&format!(r#""trace_id":"{trace}""#)), "{line}");
    }
}
