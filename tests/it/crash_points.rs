//! The crash matrix: every verb × every behaviour of the PG × every gap between two steps × two ways to die there.
//!
//! For each verb and behaviour a run without a crash tells which points are reached; each of them is then a cell of
//! its own: a fresh database, PG and process, which ends at that point. Afterwards the PG is well again, a new process
//! (or the same one, if only a future was dropped) recovers, the client repeats what it got no answer to, and the
//! three books (our rows, the stock, the PG's) must agree.
//!
//! In an ordinary run each verb × point × death meets one of the behaviours, another one each time along the list;
//! `PAYGAUGE_CRASH_MATRIX=all` runs every cell. `--nocapture` tells the matrix's size.

mod asked;
mod cell;
mod moods;
mod scene;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use paygauge::crash::CrashPoint;
use paygauge::telemetry::labels::{ProviderOperation, Tx};
use tokio::runtime::Builder;

use self::cell::{Cell, Death, World};
use self::moods::Mood;
use self::verbs::Verb;

/// Cells at a time: most of a cell's time is waiting.
const AT_A_TIME: usize = 8;

/// Transactions that no verb of the matrix makes, with the reason why none is needed.
const NO_VERB: &[(Tx, &str)] = &[
    (Tx::Catalogue, "one transaction and nothing around it"),
    (Tx::Read, "changes nothing"),
    (Tx::Keys, "one transaction and nothing around it"),
    (Tx::Overview, "changes nothing"),
    (Tx::Housekeeping, "deletes what nobody reads any more"),
    (Tx::Sales, "counts what the history says, and no verb waits for it: `growth` cuts it off"),
    (Tx::Audit, "reads the books, and writes what it has proven alone"),
];

#[test]
fn no_crash_between_two_steps_loses_money_or_stock() {
    let started = Instant::now();
    let scenes: Vec<(Verb, Mood)> =
        Verb::ALL.iter().flat_map(|&verb| verb.moods().into_iter().map(move |mood| (verb, mood))).collect();
    let controls = side_by_side("runs without a crash", &scenes, async |world, &(verb, mood)| {
        cell::control(world, verb, mood).await
    });
    let failed = controls.iter().filter(|points| points.is_none()).count();
    assert_eq!(failed, 0, "of {} runs without a crash", scenes.len());
    let controls: Vec<BTreeSet<CrashPoint>> = controls.into_iter().flatten().collect();
    let reached: BTreeSet<CrashPoint> = controls.iter().flatten().copied().collect();
    let missed: Vec<_> = expected().filter(|point| !reached.contains(point)).collect();
    assert!(missed.is_empty(), "no verb reaches {missed:?}");

    let mut matrix: BTreeMap<(Verb, CrashPoint, Death), Vec<Mood>> = BTreeMap::new();
    for ((verb, mood), points) in scenes.iter().zip(&controls) {
        for (&point, &death) in points.iter().flat_map(|point| Death::ALL.iter().map(move |death| (point, death))) {
            matrix.entry((*verb, point, death)).or_default().push(*mood);
        }
    }
    let cells = chosen(&matrix, std::env::var("PAYGAUGE_CRASH_MATRIX").is_ok_and(|which| which == "all"));
    let done = side_by_side("cells", &cells, async |world, cell| cell.run(world).await);
    println!(
        "crash matrix: {} of {} cells, from {} verbs with what the PG can do to them ({} runs without a crash), {} points, {} deaths; {:?}",
        cells.len(),
        matrix.values().map(Vec::len).sum::<usize>(),
        Verb::ALL.len(),
        scenes.len(),
        reached.len(),
        Death::ALL.len(),
        started.elapsed(),
    );
    for verb in Verb::ALL {
        println!("  {:4}  {}", cells.iter().filter(|cell| cell.verb == *verb).count(), verb.name());
    }
    let failed: Vec<&Cell> = cells.iter().zip(&done).filter(|(_, done)| done.is_none()).map(|(cell, _)| cell).collect();
    assert!(failed.is_empty(), "{} of {} cells failed: {failed:#?}", failed.len(), cells.len());
}

/// All cells, or one behaviour for each verb, point and death.
fn chosen(matrix: &BTreeMap<(Verb, CrashPoint, Death), Vec<Mood>>, all: bool) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (at, (&(verb, point, death), moods)) in matrix.iter().enumerate() {
        let chosen = if all { moods.as_slice() } else { &moods[at % moods.len()..][..1] };
        cells.extend(chosen.iter().map(|&mood| Cell { verb, mood, point, death }));
    }
    cells
}

/// Works on all `items`, some at a time, each in a world that its predecessor left in order; `None` for one that failed.
fn side_by_side<I: Sync, T: Send>(
    what: &str,
    items: &[I],
    work: impl AsyncFn(&mut World, &I) -> T + Sync,
) -> Vec<Option<T>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
                let mut world = None;
                while let Some((at, item)) = items.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = catch_unwind(AssertUnwindSafe(|| {
                        runtime.block_on(async {
                            let mut own = match world.take() {
                                Some(own) => own,
                                None => World::new().await,
                            };
                            let outcome = work(&mut own, item).await;
                            world = Some(own).filter(World::is_in_order);
                            outcome
                        })
                    }));
                    let mut done = done.lock().expect("no panic while it is held");
                    done.push((at, outcome.ok()));
                    if done.len() % 100 == 0 {
                        println!("{} of {} {what}", done.len(), items.len());
                    }
                }
                drop(world);
                runtime.shutdown_background();
            });
        }
    });
    let mut done = done.into_inner().expect("no panic while it is held");
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Every point that a verb must reach.
fn expected() -> impl Iterator<Item = CrashPoint> {
    CrashPoint::all().filter(|point| match point {
        CrashPoint::Uncommitted(tx) | CrashPoint::Committed(tx) => !NO_VERB.iter().any(|(none, _)| none == tx),
        CrashPoint::Calling(call) | CrashPoint::Answered(call) => ProviderOperation::ALL.contains(call),
    })
}
