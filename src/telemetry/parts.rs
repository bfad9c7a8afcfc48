//! Which parts of telemetry run: all of them, but for a benchmark that asks what they cost.

use std::sync::atomic::{AtomicBool, Ordering};

/// Series that are made while this is set count nothing.
static METRICS_OFF: AtomicBool = AtomicBool::new(false);

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Series count.
    pub metrics: bool,
    /// Lines are written.
    pub logs: bool,
    /// Spans are made.
    pub traces: bool,
}

impl Parts {
    /// Everything, as always in earnest.
    pub const ALL: Self = Self { metrics: true, logs: true, traces: true };

    /// `off`, or some of `metrics,logs,traces`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = Self { metrics: false, logs: false, traces: false };
        if text == "off" {
            return Some(parts);
        }
        for part in text.split(',') {
            match part {
                "metrics" => parts.metrics = true,
                "logs" => parts.logs = true,
                "traces" => parts.traces = true,
                _ => return None,
            }
        }
        Some(parts)
    }

    /// To be called before anything is counted.
    pub(super) fn apply(self) {
        METRICS_OFF.store(!self.metrics, Ordering::Relaxed);
    }
}

/// Whether a new series is to count nothing.
pub(super) fn metrics_are_off() -> bool {
    METRICS_OFF.load(Ordering::Relaxed)
}

#[test]
fn parts_are_read_by_name() {
    assert_eq!(Parts::parse("metrics,logs,traces"), Some(Parts::ALL));
    assert_eq!(Parts::parse("logs"), Some(Parts { metrics: false, logs: true, traces: false }));
    assert_eq!(Parts::parse("off"), Some(Parts { metrics: false, logs: false, traces: false }));
    assert_eq!(Parts::parse("metrics, logs"), None);
    assert_eq!(Parts::parse(""), None);
}
