//! One function per fact that is measured. The only way to a metric from outside of this folder.
//!
//! Each takes closed enums, durations and counts; none takes text:
//!
//! ```
//! use paygauge::domain::evidence::DeclineClass;
//! use paygauge::telemetry::{labels::ProviderLabel, record};
//! record::decline(ProviderLabel::Toss, DeclineClass::LimitExceeded);
//! ```
//!
//! ```compile_fail
//! use paygauge::telemetry::{labels::ProviderLabel, record};
//! record::decline(ProviderLabel::Toss, "limit exceeded");
//! ```

mod business;
mod database;
mod edge;
mod overview;
mod provider;
mod runtime;
mod worker;

use chrono::{DateTime, Utc};
use metrics::Gauge;

pub use self::business::*;
pub use self::database::*;
pub use self::edge::*;
pub use self::overview::*;
pub use self::provider::*;
pub use self::runtime::*;
pub use self::worker::*;

/// Counts something as going on until it is dropped.
#[must_use = "dropped at once, it counts nothing"]
pub struct Active(&'static Gauge);

impl Active {
    fn begin(gauge: &'static Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Seconds since 1970 with milliseconds; 0 outside of 1970–2106.
fn unix_seconds(at: DateTime<Utc>) -> f64 {
    let seconds = u32::try_from(at.timestamp()).unwrap_or(0);
    f64::from(seconds) + f64::from(at.timestamp_subsec_millis()) / 1000.0
}

/// A count or an amount as a metric has it; exact up to 2^53.
fn float(number: i64) -> f64 {
    let (high, low) = (i32::try_from(number >> 32).unwrap_or(0), u32::try_from(number & 0xffff_ffff).unwrap_or(0));
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry;
    use crate::telemetry::labels::{
        Operation, OperationOutcome, ProviderLabel, ProviderOperation, ProviderOutcome, Step, Task, TickResult,
    };
    use crate::telemetry::ledger::Account;

    pub(super) fn value(series: &str) -> Option<f64> {
        let text = telemetry::for_tests().metrics().render();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    #[test]
    fn an_operation_counts_once_and_falls_into_its_class() {
        let total =
            r#"payments_operations_total{operation="recover",outcome="conflict",provider="toss",method="none"}"#;
        let class = r#"payments_operation_duration_seconds_count{operation="recover",outcome_class="declined"}"#;
        let before = (value(total).expect("zero"), value(class).expect("zero"));
        let account = Account::of(Step::PgCall, Duration::from_millis(40));
        let (recover, conflict) = (Operation::Recover, OperationOutcome::Conflict);
        operation(Ended { operation: recover, outcome: conflict, provider: ProviderLabel::Toss, account: &account });
        assert_eq!((value(total), value(class)), (Some(before.0 + 1.0), Some(before.1 + 1.0)));
        let bucket = |le| {
            format!(
                r#"payments_operation_duration_seconds_bucket{{operation="recover",outcome_class="declined",le="{le}"}}"#
            )
        };
        assert_eq!((value(&bucket("0.025")), value(&bucket("0.05"))), (Some(before.1), Some(before.1 + 1.0)));
    }

    #[test]
    fn what_is_active_is_counted_until_it_is_dropped() {
        let series = r#"http_client_active_requests{provider="toss",operation="cancel"}"#;
        let guard = provider_active(ProviderLabel::Toss, ProviderOperation::Cancel);
        assert_eq!(value(series), Some(1.0));
        drop(guard);
        assert_eq!(value(series), Some(0.0));
    }

    #[test]
    fn a_failed_tick_is_no_success() {
        let series = r#"payments_worker_last_success_timestamp_seconds{task="housekeeping"}"#;
        let at = DateTime::from_timestamp(1_800_000_000, 250_000_000).expect("in range");
        worker_tick(Task::Housekeeping, TickResult::Worked, at);
        worker_tick(Task::Housekeeping, TickResult::Failed, at + chrono::TimeDelta::hours(1));
        assert_eq!(value(series), Some(1_800_000_000.25));
    }

    #[test]
    fn a_call_without_an_answer_has_no_status() {
        provider_call(ProviderLabel::Toss, ProviderOperation::Inquire, ProviderOutcome::Unknown, None, Duration::ZERO);
        let series = r#"http_client_request_duration_seconds_count{provider="toss",operation="inquire",outcome="unknown",http_response_status_code="none"}"#;
        assert!(value(series).is_some_and(|count| count >= 1.0));
    }
}
