//! Makes a failing history smaller, as far as chance allows: what happens at the same time happens differently each
//! time, so a candidate counts as harmless only after several runs.

use std::time::Instant;

use super::command::History;
use super::{Outcome, play};

/// Runs of a candidate before it counts as harmless.
const RUNS: usize = 6;

/// The smallest history found until `deadline` that still breaks the same rule, and how that went.
pub async fn shrink(history: History, outcome: Outcome, parallel: usize, deadline: Instant) -> (History, Outcome) {
    let rules: Vec<String> = outcome.broken.iter().map(|broken| broken.rule.clone()).collect();
    let (mut best, mut shown) = (history, outcome);
    let mut size = best.len().div_ceil(2).max(1);
    while Instant::now() < deadline {
        let candidates = smaller(&best, size);
        match first_that_breaks(&candidates, &rules, parallel, deadline).await {
            Some((smaller, outcome)) => {
                eprintln!("  shrunk to {} commands", smaller.len());
                (best, shown) = (smaller, outcome);
                size = size.min(best.len().max(1));
            }
            None if size > 1 => size = size.div_ceil(2),
            None => break,
        }
    }
    (best, shown)
}

/// Candidates without `size` commands in a row, and a few that are simpler otherwise.
fn smaller(history: &History, size: usize) -> Vec<History> {
    let mut found = Vec::new();
    for lane in 0..history.lanes.len() {
        if history.lanes.len() > 1 && history.lanes[lane].len() <= size {
            let mut candidate = history.clone();
            candidate.lanes.remove(lane);
            found.push(candidate);
        }
        if size < history.lanes[lane].len() {
            for start in (0..history.lanes[lane].len()).step_by(size) {
                let mut candidate = history.clone();
                let end = (start + size).min(history.lanes[lane].len());
                candidate.lanes[lane].drain(start..end);
                found.push(candidate);
            }
        }
    }
    if size == 1 {
        let simpler = |change: fn(&mut History)| {
            let mut candidate = history.clone();
            change(&mut candidate);
            (candidate != *history).then_some(candidate)
        };
        found.extend(simpler(|history| history.processes = 1));
        found.extend(simpler(|history| history.ends_by_crash = false));
        found.extend(simpler(|history| history.orders.truncate(1)));
    }
    found
}

async fn first_that_breaks(
    candidates: &[History],
    rules: &[String],
    parallel: usize,
    deadline: Instant,
) -> Option<(History, Outcome)> {
    for _ in 0..RUNS {
        for some in candidates.chunks(parallel.max(1)) {
            if Instant::now() > deadline {
                return None;
            }
            let runs = some.iter().map(|candidate| play(candidate.clone()));
            let outcomes = futures_util::future::join_all(runs).await;
            let same = |outcome: &Outcome| outcome.broken.iter().any(|broken| rules.contains(&broken.rule));
            if let Some((candidate, outcome)) = some.iter().zip(outcomes).find(|(_, outcome)| same(outcome)) {
                return Some((candidate.clone(), outcome));
            }
        }
    }
    None
}
