//! What was measured: for each step its outcomes and its latencies, and the course of the run second by second.
//!
//! Latencies are those of answers that did something or said why not; a request that was shed, failed or was never
//! answered counts in its class alone, so that quick refusals do not make the rest look quick.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::domain::vocabulary;

/// The longest latency that is told apart.
const LONGEST: Duration = Duration::from_secs(300);
/// Digits that a latency is exact to.
const DIGITS: u8 = 3;

vocabulary! {
    /// What became of a request, or of a whole turn.
    pub enum Outcome {
        /// Done.
        Ok => "ok",
        /// The PG said no.
        Declined => "declined",
        /// Refused for what it asks: sold out, expired.
        Rejected => "rejected",
        /// Taken in hand, not certain yet.
        Unknown => "unknown",
        /// Turned away: 429 or 503.
        Shed => "shed",
        /// Any other answer: nobody should ever see one.
        Error => "error",
        /// No answer.
        Transport => "transport",
        /// Not begun, since too many turns were unfinished.
        Overflow => "overflow",
    }
}

impl Outcome {
    /// Whether its latency says something of the work.
    #[must_use]
    pub const fn is_served(self) -> bool {
        match self {
            Self::Ok | Self::Declined | Self::Rejected | Self::Unknown => true,
            Self::Shed | Self::Error | Self::Transport | Self::Overflow => false,
        }
    }
}

vocabulary! {
    /// What is timed.
    pub enum Step {
        /// All steps of a turn, without the time in the PG's window.
        Whole => "whole turn",
        /// `POST /v1/orders`
        Order => "order",
        /// The buyer in the PG's window: pg-mock's time, not the product's.
        Window => "window (pg-mock)",
        /// `POST /v1/payments/confirm`
        Confirm => "confirm",
        /// `POST /v1/payments/{id}/cancel`
        Cancel => "cancel",
        /// `GET /v1/products`
        List => "list",
        /// `GET /v1/products/{id}`
        Product => "product",
        /// An order sent again with its key.
        ReplayOrder => "order again",
        /// A confirm sent again.
        ReplayConfirm => "confirm again",
        /// `POST /v1/webhooks/toss`
        Webhook => "webhook",
        /// The same delivery a second time.
        WebhookAgain => "webhook again",
    }
}

/// One timed thing that is over.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// What.
    pub step: Step,
    /// What became of it.
    pub outcome: Outcome,
    /// From its (intended) beginning to its answer.
    pub latency: Duration,
    /// Of it, the PG's own time, where the server told it.
    pub pg: Duration,
}

/// What is known of one step.
pub struct StepStats {
    /// µs.
    pub latency: Histogram<u64>,
    /// µs, without the PG's own time.
    pub without_pg: Histogram<u64>,
    /// Whether the server ever told the PG's own time.
    pub knows_pg: bool,
    /// How many of each.
    pub outcomes: BTreeMap<Outcome, u64>,
}

/// One second of the run.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Second {
    /// Turns that did what they were to do.
    pub ok: u64,
    /// Turns that ended otherwise.
    pub other: u64,
    /// Median of a turn, ms.
    pub p50_ms: f64,
    /// 99th percentile, ms.
    pub p99_ms: f64,
}

struct State {
    steps: BTreeMap<Step, StepStats>,
    seconds: Vec<Second>,
    running: Second,
    of_second: Histogram<u64>,
    begun: Instant,
    last_end: Instant,
}

/// Collects samples of all buyers.
pub struct Recorder {
    state: Mutex<State>,
}

/// A histogram of latencies in µs.
///
/// # Errors
/// Never in fact: the bounds are constants.
fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, micros(LONGEST), DIGITS)?)
}

/// Whole microseconds, at least one.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}

/// Milliseconds of a histogram's value.
#[must_use]
pub fn millis(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64() * 1_000.0
}

impl StepStats {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { latency: histogram()?, without_pg: histogram()?, knows_pg: false, outcomes: BTreeMap::new() })
    }

    /// How many there were with this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(&outcome).copied().unwrap_or(0)
    }

    fn add(&mut self, sample: &Sample) {
        *self.outcomes.entry(sample.outcome).or_default() += 1;
        if sample.outcome.is_served() {
            self.latency.saturating_record(micros(sample.latency));
            self.without_pg.saturating_record(micros(sample.latency.saturating_sub(sample.pg)));
            self.knows_pg |= !sample.pg.is_zero();
        }
    }
}

impl Recorder {
    /// An empty one.
    ///
    /// # Errors
    /// Never in fact.
    pub fn new() -> anyhow::Result<Self> {
        let now = Instant::now();
        let state = State {
            steps: Step::ALL
                .iter()
                .map(|step| StepStats::new().map(|stats| (*step, stats)))
                .collect::<Result<_, _>>()?,
            seconds: Vec::new(),
            running: Second::default(),
            of_second: histogram()?,
            begun: now,
            last_end: now,
        };
        Ok(Self { state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the warm-up: what comes now counts.
    ///
    /// # Errors
    /// Never in fact.
    pub fn begin(&self) -> anyhow::Result<()> {
        let fresh = Self::new()?.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.state() = fresh;
        Ok(())
    }

    /// Takes a sample.
    pub fn record(&self, sample: &Sample) {
        let mut state = self.state();
        state.last_end = Instant::now();
        if let Some(stats) = state.steps.get_mut(&sample.step) {
            stats.add(sample);
        }
        if sample.step == Step::Whole {
            if sample.outcome == Outcome::Ok {
                state.running.ok += 1;
            } else {
                state.running.other += 1;
            }
            if sample.outcome.is_served() {
                state.of_second.saturating_record(micros(sample.latency));
            }
        }
    }

    /// Ends a second of the course; returns it with the percentiles of the whole run so far, for the progress line.
    pub fn tick(&self) -> (Second, String) {
        let mut state = self.state();
        let mut second = std::mem::take(&mut state.running);
        second.p50_ms = millis(state.of_second.value_at_quantile(0.5));
        second.p99_ms = millis(state.of_second.value_at_quantile(0.99));
        state.of_second.reset();
        state.seconds.push(second);
        let whole = state.steps.get(&Step::Whole);
        let so_far = whole.map_or_else(String::new, |stats| {
            let at = |quantile| millis(stats.latency.value_at_quantile(quantile));
            let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
            format!("so far p50 {p50:.1} p99 {p99:.1} p99.9 {p999:.1} ms, max {:.1} ms", millis(stats.latency.max()))
        });
        (second, so_far)
    }

    /// Turns that did what they were to do, up to now.
    pub fn done(&self) -> u64 {
        self.state().steps.get(&Step::Whole).map_or(0, |stats| stats.count(Outcome::Ok))
    }

    /// Lets `read` look at everything: the steps, the seconds, and how long it took from the beginning to the last end.
    pub fn look<T>(&self, read: impl FnOnce(&BTreeMap<Step, StepStats>, &[Second], Duration) -> T) -> T {
        let state = self.state();
        read(&state.steps, &state.seconds, state.last_end.duration_since(state.begun))
    }
}
