//! What is told of the process itself.

use std::time::Duration;

use crate::telemetry::catalogue as c;
use crate::telemetry::labels::{LogLevel, RedactionRule};

/// A log line was written.
pub(in crate::telemetry) fn log_line(level: LogLevel) {
    c::LOG_LINES.of((level,)).increment(1);
}

/// Log lines found no room.
pub(in crate::telemetry) fn log_lines_dropped(lines: u64) {
    c::LOG_LINES_DROPPED.of(()).increment(lines);
}

/// Something was masked in a log line.
pub(in crate::telemetry) fn log_redaction(rule: RedactionRule) {
    c::LOG_REDACTIONS.of((rule,)).increment(1);
}

/// A timer fired this late.
pub fn loop_lag(late: Duration) {
    c::LOOP_LAG.of(()).record(late.as_secs_f64());
}

/// Something panicked.
pub(in crate::telemetry) fn panic() {
    c::PANICS.of(()).increment(1);
}
