//! Random histories: many callers, a PG that misbehaves, clocks that jump and processes that die, all at once; then
//! three books and every answer are judged.
//!
//! A history is data (`command.rs`). It is played in a world of its own (`world.rs`) by callers that write down what
//! they hear (`client.rs`), and judged when everything has come to rest (`judge.rs`). One that breaks a rule is shrunk
//! (`shrink.rs`) and kept under `regressions/`, from where every run plays it again.

mod client;
mod command;
mod judge;
mod shrink;
mod world;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use tokio::task::JoinSet;

use self::client::Callers;
use self::command::{History, histories};
use self::judge::Broken;
use self::world::World;

/// Histories at the same time: most of each is waiting.
const PARALLEL: usize = 6;
/// The seeds that every run tries.
const FIXED_SEEDS: std::ops::Range<u64> = 0..24;
/// How often each kept history is played: whether it shows its defect is up to chance.
const REPLAYS: usize = 3;
/// No fresh history is begun after this in the short form.
const SHORT: Duration = Duration::from_secs(40);

/// How a history went.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub broken: Vec<Broken>,
    pub commands: usize,
    pub requests: usize,
    pub faults: BTreeMap<String, u64>,
    /// Seconds that its beginning, its commands and its judgement took.
    pub took: [f64; 3],
    /// What each caller asked and heard.
    pub story: Vec<String>,
}

/// Plays one history in a world of its own, and judges it.
pub async fn play(history: History) -> Outcome {
    let commands = history.len();
    let played = tokio::spawn(async move { played(&history).await }).await;
    played.unwrap_or_else(|error| Outcome {
        broken: vec![Broken { rule: "a history can be played".to_owned(), detail: judge::said(error) }],
        commands,
        ..Outcome::default()
    })
}

async fn played(history: &History) -> Outcome {
    let started = Instant::now();
    let world = World::begin(history).await;
    let callers = Arc::new(Callers::begin(world, history).await);
    let begun = started.elapsed();
    let mut lanes = JoinSet::new();
    for (number, lane) in history.lanes.iter().cloned().enumerate() {
        let callers = Arc::clone(&callers);
        lanes.spawn(async move {
            for command in &lane {
                callers.run(number, command).await;
            }
        });
    }
    lanes.join_all().await;
    let played = started.elapsed();
    let broken = judge::judge(history, &callers).await;
    let log = callers.log();
    let outcome = Outcome {
        broken,
        commands: history.len(),
        requests: log.len(),
        faults: callers.world.faults(),
        took: [begun, played - begun, started.elapsed() - played].map(|part| part.as_secs_f64()),
        story: log.iter().map(judge::line).collect(),
    };
    callers.world.end().await;
    outcome
}

/// The history of a seed: always the same.
fn of_seed(seed: u64) -> History {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    histories().new_tree(&mut runner).expect("a history").current()
}

/// What was played so far.
#[derive(Default)]
struct Tally {
    histories: u32,
    commands: usize,
    requests: usize,
    faults: BTreeMap<String, u64>,
    took: [f64; 3],
    failed: Option<(String, History, Outcome)>,
}

impl Tally {
    fn add(&mut self, name: String, history: History, outcome: Outcome) {
        self.histories += 1;
        self.commands += outcome.commands;
        self.requests += outcome.requests;
        (0..3).for_each(|part| self.took[part] += outcome.took[part]);
        for (kind, count) in &outcome.faults {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
        if !outcome.broken.is_empty() && self.failed.is_none() {
            eprintln!("{name} broke: {}", outcome.broken[0]);
            self.failed = Some((name, history, outcome));
        }
    }

    fn report(&self) -> String {
        let faults: u64 = self.faults.values().sum();
        let mut text = format!(
            "{} histories, {} commands, {} requests, {faults} faults",
            self.histories, self.commands, self.requests
        );
        for (kind, count) in &self.faults {
            write!(text, "\n  {count:>7}  {kind}").expect("a string");
        }
        text
    }
}

/// Plays what `next` gives, several at a time, until it gives no more or a rule is broken.
async fn explore(
    parallel: usize,
    next: impl FnMut() -> Option<(String, History)> + Send + 'static,
    progress: Option<Duration>,
) -> Tally {
    let next = Arc::new(Mutex::new(next));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let started = Instant::now();
    let mut told = Instant::now();
    let workers: Vec<_> = (0..parallel)
        .map(|_| {
            let (next, tally) = (Arc::clone(&next), Arc::clone(&tally));
            tokio::spawn(async move {
                while lock(&tally).failed.is_none() {
                    let drawn = (*lock(&next))();
                    let Some((name, history)) = drawn else { return };
                    let outcome = play(history.clone()).await;
                    lock(&tally).add(name, history, outcome);
                }
            })
        })
        .collect();
    while workers.iter().any(|worker| !worker.is_finished()) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if progress.is_some_and(|every| told.elapsed() > every) {
            told = Instant::now();
            let tally = lock(&tally);
            let [begin, play, judge] = tally.took.map(|part| part / f64::from(tally.histories.max(1)));
            eprintln!(
                "{:>5} s: {} histories, {} commands; each {begin:.1} s to begin, {play:.1} s to play, {judge:.1} s to judge",
                started.elapsed().as_secs(),
                tally.histories,
                tally.commands,
            );
        }
    }
    for worker in workers {
        worker.await.expect("a worker");
    }
    std::mem::take(&mut *lock(&tally))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shrinks and keeps what broke, and fails with everything there is to say about it.
async fn fail_if_broken(tally: Tally, parallel: usize, shrink_for: Duration) {
    let report = tally.report();
    let Some((name, history, outcome)) = tally.failed else {
        eprintln!("{report}");
        return;
    };
    let first = outcome.broken.clone();
    let (mut history, outcome) = shrink::shrink(history, outcome, parallel, Instant::now() + shrink_for).await;
    history.about = format!("{name}: {}", outcome.broken[0].rule);
    let file = regressions().join(format!("found-{}.json", name.replace(' ', "-")));
    let text = serde_json::to_string_pretty(&history).expect("JSON");
    std::fs::write(&file, text + "\n").expect("the failing history is kept");
    let list = |lines: &mut dyn Iterator<Item = String>| lines.fold(String::new(), |text, line| text + "\n  " + &line);
    panic!(
        "{name} breaks:{}\nshrunk, it breaks:{}\n{history}heard:{}\nkept as {}\n{report}",
        list(&mut first.iter().map(ToString::to_string)),
        list(&mut outcome.broken.iter().map(ToString::to_string)),
        list(&mut outcome.story.into_iter()),
        file.display(),
    );
}

fn regressions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/histories/regressions")
}

/// The histories that once broke a rule.
fn kept() -> Vec<(String, History)> {
    let entries = std::fs::read_dir(regressions()).expect("the kept histories");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files.iter().map(|file| (file.file_stem().expect("a name").to_string_lossy().into_owned(), read(file))).collect()
}

fn read(file: &Path) -> History {
    let text = std::fs::read_to_string(file).expect("a history");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a whole number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_history_breaks_a_rule() {
    let kept = kept().into_iter().flat_map(|known| std::iter::repeat_n(known, REPLAYS));
    let mut certain = kept.chain(FIXED_SEEDS.map(|seed| (format!("seed {seed}"), of_seed(seed))));
    let started = Instant::now();
    let next = move || {
        certain.next().or_else(|| {
            let seed = rand::random::<u64>();
            (started.elapsed() < SHORT).then(|| (format!("seed {seed}"), of_seed(seed)))
        })
    };
    fail_if_broken(explore(PARALLEL, next, None).await, PARALLEL, Duration::from_secs(60)).await;
}

/// `PAYGAUGE_HISTORIES_MINUTES` (10), `…_SEED` (a random one to begin with), `…_PARALLEL`, `…_FILE` (only this one).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes as long as it is told to"]
async fn long_search_finds_no_history_that_breaks_a_rule() {
    let minutes = number("PAYGAUGE_HISTORIES_MINUTES").unwrap_or(10);
    let parallel =
        number("PAYGAUGE_HISTORIES_PARALLEL").and_then(|count| usize::try_from(count).ok()).unwrap_or(PARALLEL);
    let mut seed = number("PAYGAUGE_HISTORIES_SEED").unwrap_or_else(|| rand::random::<u64>() >> 16);
    let file = std::env::var_os("PAYGAUGE_HISTORIES_FILE").map(|file| read(Path::new(&file)));
    eprintln!("{minutes} min, {parallel} at a time, from seed {seed}");
    let started = Instant::now();
    let next = move || {
        let time_left = started.elapsed() < Duration::from_secs(60 * minutes);
        seed += 1;
        let name = format!("seed {}", seed - 1);
        time_left.then(|| match &file {
            Some(history) => ("file".to_owned(), history.clone()),
            None => (name, of_seed(seed - 1)),
        })
    };
    let tally = explore(parallel, next, Some(Duration::from_secs(10))).await;
    let shrink_for = 60 * number("PAYGAUGE_HISTORIES_SHRINK_MINUTES").unwrap_or(5);
    fail_if_broken(tally, parallel, Duration::from_secs(shrink_for)).await;
}
