//! The metrics of the process itself: log lines, panics, the runtime, memory and files.

use metrics::{Counter, Histogram};

use super::{DB, Kind, LabelInfo, MetricInfo, Unit};
use crate::telemetry::family::{Family, FromZero};
use crate::telemetry::labels::{Label, LogLevel, RedactionRule};

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
