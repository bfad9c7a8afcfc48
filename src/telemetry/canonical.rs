//! The canonical line: one line per request, worker item and round, with everything that is known about it.
//!
//! Written from a drop guard, so that a panic, a client that hangs up and a task that is given up leave one too. Which
//! fields a line has is known at its end, and `tracing` wants to know at compile time: the fields wait in a
//! thread-local while the event passes the layer of `logs`, on the same thread and within one call.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use tracing::Level;

use super::facts::{self, Fact, Pair, Value};
use super::labels::{Operation, OperationOutcome, ProviderLabel, Task, TickResult};
use super::ledger::{self, Ledger, Step};
use crate::domain::vocabulary;

/// How many fields a line of money work has.
const FIELDS_USUAL: usize = 40;

thread_local! {
    /// The fields of the line that this thread is writing; empty outside of [`Line::write`].
    static FIELDS: RefCell<Vec<Pair>> = const { RefCell::new(Vec::new()) };
    /// The room of the line that this thread wrote last.
    static SPARE: Cell<Vec<Pair>> = const { Cell::new(Vec::new()) };
}

vocabulary! {
    /// How the work that a line tells of ended.
    pub enum Ending {
        /// The caller has the answer.
        Answered => "answered",
        /// Nobody waited for the answer.
        ClientClosed => "client_closed",
        /// The item or round came to its end.
        Done => "done",
        /// It was given up: the process stops, or another item of the round panicked.
        Abandoned => "abandoned",
        /// It panicked.
        Panicked => "panicked",
    }
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request.
    Request,
    /// The end of money work whose client had left before.
    Late,
    /// One thing that a worker dealt with.
    Item,
    /// A round of a worker's task.
    Round,
}

/// A line in the making.
#[derive(Debug, Default)]
pub struct Line(Vec<Pair>);

impl Line {
    /// An empty line.
    #[must_use]
    pub fn new() -> Self {
        let mut fields = SPARE.take();
        fields.reserve(FIELDS_USUAL);
        Self(fields)
    }

    /// Adds a word of a closed vocabulary.
    #[must_use]
    pub fn word(mut self, name: &'static str, word: &'static str) -> Self {
        self.0.push((name, Value::Word(word)));
        self
    }

    /// Adds what is known to hold nothing that must not be in a line.
    #[must_use]
    pub fn known(mut self, name: &'static str, text: &str) -> Self {
        self.0.push((name, Value::Known(text.to_owned())));
        self
    }

    /// Adds a cause that the log may show.
    #[must_use]
    pub fn text(mut self, name: &'static str, text: &str) -> Self {
        self.0.push((name, Value::Text(text.to_owned())));
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn whole(mut self, name: &'static str, number: impl Into<i64>) -> Self {
        self.0.push((name, Value::Whole(number.into())));
        self
    }

    /// Adds how long it took, where the time went, and what is known about it. Steps that took no time are left out.
    #[must_use]
    pub fn account(mut self, ledger: &Ledger, elapsed: Duration) -> Self {
        self.0.push(("duration_ms", Value::Millis(Millis::of(elapsed))));
        ledger.sheet().pairs(&mut self.0);
        let counts = ledger.counts();
        let counted = [
            ("db_queries", counts.db_queries),
            ("db_round_trips", counts.db_round_trips),
            ("pg_attempts", counts.pg_attempts),
        ];
        for (name, count) in counted {
            if count > 0 {
                self.0.push((name, Value::Whole(count.into())));
            }
        }
        let steps = ledger.steps();
        let database = ledger::of_database(steps.clone());
        let steps = steps.map(|(step, spent)| (field(step), spent));
        for (name, spent) in std::iter::once(("db_ms", database)).chain(steps) {
            if !spent.is_zero() {
                self.0.push((name, Value::Millis(Millis::of(spent))));
            }
        }
        self
    }

    /// Writes it.
    pub fn write(self, kind: Kind, level: Level) {
        macro_rules! event {
            ($target:literal, $message:literal) => {
                match level {
                    Level::ERROR => tracing::error!(target: $target, $message),
                    Level::WARN => tracing::warn!(target: $target, $message),
                    Level::DEBUG | Level::TRACE => tracing::debug!(target: $target, $message),
                    _ => tracing::info!(target: $target, $message),
                }
            };
        }
        FIELDS.set(self.0);
        match kind {
            Kind::Request => event!("paygauge::http", "request"),
            Kind::Late => event!("paygauge::http", "finished after its client had left"),
            Kind::Item => event!("paygauge::worker", "item"),
            Kind::Round => event!("paygauge::worker", "round"),
        }
        let mut fields = FIELDS.take();
        fields.clear();
        SPARE.set(fields);
    }
}

/// The fields of the line that is being written, for the layer that writes it.
pub(super) fn each(mut look: impl FnMut(&str, &Value)) {
    FIELDS.with_borrow(|fields| fields.iter().for_each(|(name, value)| look(name, value)));
}

/// Under which name a line has the time of a step.
const fn field(step: Step) -> &'static str {
    match step {
        Step::QueueWait => "queue_wait_ms",
        Step::SharedTx => "shared_tx_ms",
        Step::PoolWait => "pool_wait_ms",
        Step::TxBegin => "tx_begin_ms",
        Step::LockWait => "lock_wait_ms",
        Step::Statements => "statements_ms",
        Step::TxCommit => "tx_commit_ms",
        Step::PgCall => "pg_call_ms",
        Step::Compute => "compute_ms",
        Step::Unattributed => "unattributed_ms",
    }
}

/// Milliseconds as they are told: with three decimals, of which the last ones are left out if they are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Millis {
    micros: u64,
}

impl Millis {
    /// Rounded to a microsecond.
    #[must_use]
    pub fn of(elapsed: Duration) -> Self {
        Self { micros: u64::try_from((elapsed.as_nanos() + 500) / 1_000).unwrap_or(u64::MAX) }
    }
}

impl Millis {
    /// Writes it behind `to`. Whole numbers are written much faster than the shortest form of a fraction is found, and a
    /// line has ten of them.
    pub fn push_to(self, to: &mut String) {
        let (whole, rest) = (self.micros / 1_000, self.micros % 1_000);
        to.push_str(itoa::Buffer::new().format(whole));
        if rest > 0 {
            // The one in front keeps the zeros behind the point.
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(rest + 1_000).trim_end_matches('0');
            to.push('.');
            to.push_str(digits.get(1..).unwrap_or_default());
        }
    }
}

/// Marks a request's line as written. To be called before its facts are read: whoever tells one later and sees this
/// mark writes the rest by [`late`].
pub fn close(ledger: &Ledger) {
    ledger.sheet().close();
}

/// Tells how money work ended whose request has its line already, because the client had left.
pub fn late(started: Instant) {
    let ledger = ledger::handle();
    if ledger.sheet().is_closed() {
        let line = Line::new().word("ending", Ending::Done.as_str());
        line.account(&ledger, started.elapsed()).write(Kind::Late, Level::INFO);
    }
}

/// Runs a worker's item in an account of its own, and writes its line however it ends. `outcome` is asked when it is
/// done; a panic is our own fault.
pub fn item<T>(
    operation: Operation,
    provider: ProviderLabel,
    outcome: impl FnOnce(&T) -> OperationOutcome,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    // Boxed here, or whoever awaits it carries a second copy.
    let work = Box::pin(work);
    async move {
        let mut guard = Guard::begin(Kind::Item);
        guard.ledger.clone().scope(told(operation, provider, outcome, work, &mut guard.ending)).await
    }
}

async fn told<T>(
    operation: Operation,
    provider: ProviderLabel,
    outcome: impl FnOnce(&T) -> OperationOutcome,
    work: impl Future<Output = T>,
    ending: &mut Ending,
) -> T {
    facts::tell(Fact::Operation(operation));
    facts::tell(Fact::Provider(provider));
    let done = work.await;
    facts::tell(Fact::Outcome(outcome(&done)));
    *ending = Ending::Done;
    done
}

/// Runs a round of a task in an account of its own. A round that found nothing to do leaves no line, and one that only
/// took up items, which leave their own, or looked around leaves it for those who want to know everything.
pub fn round(task: Task, work: impl Future<Output = TickResult>) -> impl Future<Output = TickResult> {
    let work = Box::pin(work);
    async move {
        let mut guard = Guard::begin(Kind::Round);
        let told = async {
            facts::tell(Fact::Task(task));
            let result = work.await;
            facts::tell(Fact::Round(result));
            result
        };
        let result = guard.ledger.clone().scope(told).await;
        guard.ending = Ending::Done;
        guard.is_silent = result == TickResult::Idle;
        guard.level = level(task);
        result
    }
}

const fn level(task: Task) -> Level {
    match task {
        Task::Recovery | Task::Webhooks | Task::Overview | Task::Sales => Level::DEBUG,
        Task::Expiry | Task::Housekeeping | Task::Audit | Task::AuditFull | Task::Reconcile => Level::INFO,
    }
}

/// Writes the line of an item or a round when it goes.
struct Guard {
    kind: Kind,
    started: Instant,
    ledger: Ledger,
    ending: Ending,
    is_silent: bool,
    level: Level,
}

impl Guard {
    fn begin(kind: Kind) -> Self {
        let (started, ledger) = (Instant::now(), Ledger::new());
        Self { kind, started, ledger, ending: Ending::Abandoned, is_silent: false, level: Level::INFO }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.is_silent {
            return;
        }
        if self.ending == Ending::Abandoned && std::thread::panicking() {
            self.ending = Ending::Panicked;
            let failed = match self.kind {
                Kind::Round => Fact::Round(TickResult::Failed),
                Kind::Request | Kind::Late | Kind::Item => Fact::Outcome(OperationOutcome::Error),
            };
            self.ledger.sheet().note(failed);
        }
        let level = if self.ending == Ending::Panicked { Level::ERROR } else { self.level };
        let line = Line::new().word("ending", self.ending.as_str());
        line.account(&self.ledger, self.started.elapsed()).write(self.kind, level);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;
    use crate::domain::ids::PaymentId;
    use crate::telemetry::for_tests;

    fn lines(payment: PaymentId) -> Vec<Json> {
        let id = payment.to_string();
        let all = for_tests().lines().into_iter().filter_map(|line| serde_json::from_str::<Json>(&line).ok());
        all.filter(|line| line["payment_id"] == id.as_str()).collect()
    }

    #[test]
    fn milliseconds_are_told_as_short_as_they_are() {
        for (nanos, told) in [
            (0, "0"),
            (499, "0"),
            (500, "0.001"),
            (12_345_000, "12.345"),
            (12_340_000, "12.34"),
            (12_300_000, "12.3"),
            (7_040_000, "7.04"),
            (250_000_000, "250"),
            (1_999_999_600, "2000"),
        ] {
            let mut text = String::from("=");
            Millis::of(Duration::from_nanos(nanos)).push_to(&mut text);
            assert_eq!(text, format!("={told}"));
        }
    }

    fn recovered(_: &()) -> OperationOutcome {
        OperationOutcome::Unknown
    }

    #[tokio::test]
    async fn an_item_leaves_one_line_with_its_facts_and_times() {
        let _running = for_tests();
        let payment = PaymentId::new();
        let work = async {
            facts::tell(Fact::Payment(payment));
            ledger::add(Step::Statements, Duration::from_micros(1_500));
        };
        item(Operation::Recover, ProviderLabel::Toss, recovered, work).await;
        let lines = lines(payment);
        let [line] = lines.as_slice() else { panic!("one line: {lines:?}") };
        for (name, value) in [
            ("msg", "item"),
            ("level", "info"),
            ("target", "paygauge::worker"),
            ("ending", "done"),
            ("event", "recover.unknown"),
            ("operation", "recover"),
            ("outcome", "unknown"),
            ("provider", "toss"),
        ] {
            assert_eq!(line[name], value, "{name}");
        }
        assert_eq!((line["db_ms"].as_f64(), line["statements_ms"].as_f64()), (Some(1.5), Some(1.5)));
        assert!(line["duration_ms"].is_number() && line.get("pg_call_ms").is_none(), "{line}");
    }

    #[tokio::test]
    async fn an_item_that_panics_or_is_given_up_leaves_its_line_too() {
        let _running = for_tests();
        let (panicking, abandoned) = (PaymentId::new(), PaymentId::new());
        let work = async move {
            facts::tell(Fact::Payment(panicking));
            if true {
                panic!("a defect");
            }
        };
        let ended = tokio::spawn(item(Operation::Recover, ProviderLabel::Toss, recovered, work)).await;
        assert!(ended.expect_err("it panics").is_panic());
        let lines_of = lines(panicking);
        let [line] = lines_of.as_slice() else { panic!("one line: {lines_of:?}") };
        assert_eq!((&line["ending"], &line["level"]), (&"panicked".into(), &"error".into()));
        assert_eq!(line["outcome"], "error");

        let work = async move {
            facts::tell(Fact::Payment(abandoned));
            std::future::pending::<()>().await;
        };
        let endless = item(Operation::Recover, ProviderLabel::Toss, recovered, work);
        assert!(tokio::time::timeout(Duration::from_millis(20), endless).await.is_err());
        assert_eq!(lines(abandoned).first().map(|line| line["ending"].clone()), Some("abandoned".into()));
    }

    #[tokio::test]
    async fn a_round_tells_what_it_did_and_is_silent_if_there_was_nothing() {
        let _running = for_tests();
        let (idle, worked) = (PaymentId::new(), PaymentId::new());
        for (payment, result) in [(idle, TickResult::Idle), (worked, TickResult::Worked)] {
            round(Task::Audit, async {
                facts::tell(Fact::Payment(payment));
                facts::tell(Fact::Rows(7));
                result
            })
            .await;
        }
        assert!(lines(idle).is_empty());
        let line = lines(worked).pop().expect("a line");
        assert_eq!((&line["task"], &line["round"], &line["rows"]), (&"audit".into(), &"worked".into(), &7.into()));
    }

    #[tokio::test]
    async fn work_that_outlives_its_client_tells_its_end_and_other_work_does_not() {
        let _running = for_tests();
        let (left, answered) = (PaymentId::new(), PaymentId::new());
        for (payment, is_closed) in [(left, true), (answered, false)] {
            let ledger = Ledger::new();
            if is_closed {
                close(&ledger);
            }
            let work = async {
                facts::tell(Fact::Payment(payment));
                late(Instant::now());
            };
            ledger.scope(work).await;
        }
        assert!(lines(answered).is_empty());
        let line = lines(left).pop().expect("a line");
        assert_eq!(line["msg"], "finished after its client had left");
    }
}
