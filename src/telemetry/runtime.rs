//! The process from within: the async runtime, panics, and under which settings it runs. Whoever starts the process
//! calls these once.

use std::sync::{Once, OnceLock};
use std::time::Duration;

use metrics::{Key, Label, Level, Metadata, Recorder as _};
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior};

use super::{family, record};

/// How often the timer fires whose lateness is measured.
const LAG_EVERY: Duration = Duration::from_millis(250);

/// The runtime whose figures are shown.
static RUNTIME: OnceLock<Handle> = OnceLock::new();

/// Shows the figures of the runtime that this is called in, and measures how late its timers are, for as long as it
/// lives. Later calls change nothing.
pub fn watch() {
    let handle = Handle::current();
    if RUNTIME.set(handle.clone()).is_ok() {
        handle.spawn(measure_lag());
    }
}

async fn measure_lag() {
    let mut timer = tokio::time::interval(LAG_EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = timer.tick().await;
        record::loop_lag(Instant::now().saturating_duration_since(due));
    }
}

/// Counts panics from now on, whether somebody catches them or not; what was done about them before is done still.
pub fn count_panics() {
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            record::panic();
            before(info);
        }));
    });
}

/// Shows under which settings this process runs: a hash of them, and where it is running.
pub fn show_config(hash: u64, environment: &'static str) {
    let metadata = Metadata::new("paygauge", Level::INFO, None);
    let labels = vec![Label::new("hash", format!("{hash:016x}")), Label::new("env", environment)];
    family::recorder().register_gauge(&Key::from_parts("payments_config_info", labels), &metadata).set(1.0);
}

/// The figures of the runtime, by the name of their metric.
pub(super) fn figures() -> Vec<(&'static str, f64)> {
    let Some(runtime) = RUNTIME.get() else { return Vec::new() };
    let metrics = runtime.metrics();
    let busy: Duration = (0..metrics.num_workers()).map(|worker| metrics.worker_total_busy_duration(worker)).sum();
    let count = |number: usize| u32::try_from(number).map_or(f64::MAX, f64::from);
    vec![
        ("payments_tokio_workers", count(metrics.num_workers())),
        ("payments_tokio_alive_tasks", count(metrics.num_alive_tasks())),
        ("payments_tokio_queue_depth", count(metrics.global_queue_depth())),
        ("payments_tokio_busy_seconds_total", busy.as_secs_f64()),
    ]
}

/// A hash of a text that is the same in every process and version: FNV-1a.
#[must_use]
pub fn stable_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry;

    fn value(series: &str) -> Option<f64> {
        let text = telemetry::for_tests().metrics().render();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    #[tokio::test]
    async fn the_runtime_shows_its_workers_and_how_late_its_timers_are() {
        watch();
        while value("payments_event_loop_lag_seconds_count").is_none_or(|fired| fired < 1.0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(value("payments_tokio_workers").is_some_and(|workers| workers >= 1.0));
        assert!(value("payments_tokio_alive_tasks").is_some());
        assert!(value("payments_tokio_busy_seconds_total").is_some_and(|busy| busy >= 0.0));
    }

    #[test]
    fn a_panic_counts_and_is_told_as_before() {
        count_panics();
        count_panics();
        let before = value("payments_panics_total").expect("zero");
        assert!(std::thread::spawn(|| panic!("on purpose")).join().is_err());
        assert!(value("payments_panics_total").expect("counted") >= before + 1.0);
    }

    #[test]
    fn settings_are_told_by_a_hash_that_stays_the_same() {
        assert_eq!(stable_hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stable_hash("foobar"), 0x8594_4171_f739_67e8, "the published value");
        show_config(0xab, "test");
        assert_eq!(value(r#"payments_config_info{hash="00000000000000ab",env="test"}"#), Some(1.0));
    }
}
