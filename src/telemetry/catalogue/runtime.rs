//! The metrics of the process itself: log lines, panics, the runtime, memory and files.

use metrics::{Counter, Gauge};

use super::{DB, Kind, LabelInfo, MetricInfo, Unit};
use crate::telemetry::family::{Family, FromZero};
use crate::telemetry::histogram::Histogram;
use crate::telemetry::labels::{Label, LogLevel, RedactionRule, SpanResult, TraceDecision};

catalogue! {
    RUNTIME
    [
    Counter LOG_LINES = "payments_log_lines_total" { level: LogLevel } Count, from_zero FromZero::Every,
    "Log lines written.";
    Counter LOG_LINES_DROPPED = "payments_log_lines_dropped_total" {} Count, from_zero FromZero::Every,
    "Log lines that a slow reader of standard output left no room for. Is the log shipper stuck?";
    Counter LOG_REDACTIONS = "payments_log_redactions_total" { rule: RedactionRule } Count,
    from_zero FromZero::Every, "Secrets or personal data masked at the last moment. Must stay 0: each one is a bug.";
    Histogram LOOP_LAG = "payments_event_loop_lag_seconds" {} Seconds, buckets DB, from_zero FromZero::Every,
    "How late a timer fires. Is the runtime starved of processor time, or blocked?";
    Counter PANICS = "payments_panics_total" {} Count, from_zero FromZero::Every,
    "Panics, caught or not. Each one is a bug.";
    Counter TRACE_SPANS = "payments_trace_spans_total" { result: SpanResult } Count, from_zero FromZero::Every,
    "Spans, by what became of them. Do traces arrive, or is the receiver away or too slow?";
    Counter TRACES = "payments_traces_total" { decision: TraceDecision } Count, from_zero FromZero::Every,
    "Traces, by why they were kept. Do we keep what somebody will ask for?";
    Gauge EXEMPLARS_STORED = "payments_exemplars_stored" {} Count, from_zero FromZero::Every,
    "Buckets that lead to a trace now.";
    Histogram RENDER = "payments_metrics_render_duration_seconds" {} Seconds, buckets DB, from_zero FromZero::Every,
    "Time to write the metrics for a scraper.";
    Gauge SERIES = "payments_metrics_series" {} Count, from_zero FromZero::Every,
    "Samples in the last answer to a scraper. Does a label grow without bound?";
    ]
    [
    Gauge "payments_build_info" { version, revision } Count, "Always 1; the labels tell what is running.";
    Gauge "payments_config_info" { hash, env } Count,
    "Always 1; the labels tell under which settings, secrets left out. Do two processes differ?";
    Gauge "payments_tokio_workers" {} Count, "Threads that run tasks.";
    Gauge "payments_tokio_alive_tasks" {} Count, "Tasks that have not ended.";
    Gauge "payments_tokio_queue_depth" {} Count, "Tasks that are ready and wait for a thread in the common queue.";
    Counter "payments_tokio_busy_seconds_total" {} Seconds, "Time that these threads spent running tasks.";
    Gauge "process_resident_memory_bytes" {} Bytes, "Memory that the process occupies.";
    Gauge "process_open_fds" {} Count, "Files and sockets that the process holds open.";
    Gauge "process_max_fds" {} Count, "The most files and sockets that it may hold open.";
    Gauge "process_start_time_seconds" {} StartTime, "When the process started, in seconds since 1970.";
    Counter "process_cpu_seconds_total" {} Seconds, "Processor time used, in user and system mode.";
    ]
}
