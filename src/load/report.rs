//! What a run found, in one shape for all outputs.

pub mod html;
mod plots;
pub mod text;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::buyer::Ledger;
use super::options::{Extent, LoadOptions, Pace, Scenario, Shares};
use super::proof::Proof;
use super::recorder::{Outcome, Recorder, Second, Step, StepStats, millis};
use super::target::Target;
use super::usage::{self, Machine, Usage, Used};

/// Where the latency curve is drawn, in nines: 0 is the median's left edge, 4 is 99.99 %.
const CURVE: [f64; 25] = [
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.997,
    0.998, 0.9985, 0.999, 0.9995, 0.9999,
];

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| millis(histogram.value_at_quantile(quantile));
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: millis(histogram.max()),
            mean: histogram.mean() / 1_000.0,
        }
    }
}

/// One step.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// Its name.
    pub step: &'static str,
    /// How many of each outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Of answers that did something or said why not.
    pub latency_ms: Percentiles,
    /// The same without the PG's own time, where the server told it.
    pub latency_without_pg_ms: Option<Percentiles>,
    /// `[quantile, ms]`
    pub curve: Vec<(f64, f64)>,
}

impl StepReport {
    fn of(step: Step, stats: &StepStats) -> Self {
        let curve = CURVE.iter().map(|quantile| (*quantile, millis(stats.latency.value_at_quantile(*quantile))));
        Self {
            step: step.as_str(),
            outcomes: stats.outcomes.iter().map(|(outcome, count)| (outcome.as_str(), *count)).collect(),
            latency_ms: Percentiles::of(&stats.latency),
            latency_without_pg_ms: stats.knows_pg.then(|| Percentiles::of(&stats.without_pg)),
            curve: curve.collect(),
        }
    }

    /// How many of this outcome.
    fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(outcome.as_str()).copied().unwrap_or(0)
    }
}

/// Everything that a run found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What each buyer did.
    pub scenario: &'static str,
    /// Who decided when.
    pub pace: String,
    /// How long, before and measured; how many products.
    pub extent: String,
    /// What it was sent to.
    pub target: String,
    /// This program's version.
    pub version: &'static str,
    /// When it ended, by the clock of this machine.
    pub ended_at: chrono::DateTime<chrono::Utc>,
    /// Where it ran.
    pub machine: Machine,
    /// Seconds from the beginning of the measured part to its last answer.
    pub measured_seconds: f64,
    /// Turns that did what they were to do, per second.
    pub turns_per_second: f64,
    /// Each step that occurred; the whole turn first.
    pub steps: Vec<StepReport>,
    /// The course of the run.
    pub seconds: Vec<Second>,
    /// CPU and memory of the parts that run on this machine.
    pub usage: Vec<Usage>,
    /// Whether money and stock agree.
    pub proof: Proof,
    /// The first answers that nobody should see.
    pub examples: Vec<String>,
}

impl Report {
    /// Gathers it.
    pub fn of(
        options: &LoadOptions,
        target: &Target,
        machine: Machine,
        recorder: &Recorder,
        (before, after): (&BTreeMap<&'static str, Used>, &BTreeMap<&'static str, Used>),
        ledger: &Ledger,
        proof: Proof,
    ) -> Self {
        let (steps, seconds, took) = recorder.look(|steps, seconds, took| {
            let occurred = steps.iter().filter(|(_, stats)| !stats.outcomes.is_empty());
            let steps: Vec<StepReport> = occurred.map(|(step, stats)| StepReport::of(*step, stats)).collect();
            (steps, seconds.to_vec(), took.as_secs_f64())
        });
        Self {
            scenario: options.scenario.as_str(),
            pace: pace_in_words(options.pace),
            extent: extent_in_words(options),
            target: target.described.clone(),
            version: env!("CARGO_PKG_VERSION"),
            ended_at: crate::clock::now(),
            machine,
            measured_seconds: took,
            turns_per_second: if took > 0.0 { real(recorder.done()) / took } else { 0.0 },
            steps,
            seconds,
            usage: usage::between(before, after, took),
            proof,
            examples: ledger.examples(),
        }
    }
}

/// A count as a real number.
fn real(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Who decides when, for people.
#[must_use]
pub fn pace_in_words(pace: Pace) -> String {
    match pace {
        Pace::Closed { clients: 1 } => "closed loop, 1 client".to_owned(),
        Pace::Closed { clients } => format!("closed loop, {clients} clients"),
        Pace::Open { rate, in_flight_max } => {
            format!("open loop, {rate}/s, at most {in_flight_max} unfinished, latency from the intended start")
        }
    }
}

fn extent_in_words(options: &LoadOptions) -> String {
    let measured = match options.extent {
        Extent::Duration(duration) => format!("{} s", duration.as_secs()),
        Extent::Turns(turns) => format!("{turns} turns"),
    };
    let warm_up = options.warm_up.as_secs();
    let products = match options.products_made() {
        1 => "1 product".to_owned(),
        products => format!("{products} products"),
    };
    let mut words = format!("{measured} after {warm_up} s of warm-up, {products}");
    if options.scenario == Scenario::Mixed {
        let Shares { declines, timeouts, unknowns } = options.shares;
        words.push_str(&format!(", {declines} % declined, {timeouts} % timed out, {unknowns} % cut"));
    }
    words
}
