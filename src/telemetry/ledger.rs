//! Where the time of one piece of work went. `db` and `provider::call` say what is being waited for; whoever runs a use
//! case takes the account at its end, and the HTTP middleware reads the whole of a request.
//!
//! A ledger is a clock with one hand: every moment goes to exactly one step, so that the steps add up to the whole.
//! While no step is named, time in which the work is being polled is `compute`, and time in which it is not is
//! `unattributed`; with a database connection in hand, there is nobody else to wait for, so the latter is `statements`.
//!
//! It travels as a task-local. Work that is detached from the request takes it along:
//! `tokio::spawn(ledger::handle().scope(work))`. Outside of any scope, nothing is kept.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::labels::{Label as _, PaymentMethod};

pub use super::labels::Step;

use super::facts::Sheet;

tokio::task_local! {
    static LEDGER: Ledger;
}

/// Time by step, in the order of the vocabulary.
type Spent = [Duration; Step::COUNT];

/// The account of one piece of work, shared by everything that works for it.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    clock: Mutex<Clock>,
    /// What is known about the work besides its times.
    sheet: Sheet,
}

/// Where the hand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hand {
    /// At no step.
    Free,
    /// At no step, with a database connection.
    Connected,
    /// At a step.
    At(Step),
}

#[derive(Debug)]
struct Clock {
    since: Instant,
    hand: Hand,
    /// How many polls are going on: a request and the work that it has detached can be polled at once.
    polls: u32,
    spent: Spent,
    method: PaymentMethod,
    counts: Counts,
    /// The statements that are under way, in the order in which they were sent and will be answered. The hand is at the
    /// first one.
    under_way: VecDeque<Step>,
}

/// What was done, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Statements, without those that open and end transactions.
    pub db_queries: u32,
    /// Transactions.
    pub db_transactions: u32,
    /// How often an answer of the database was waited for, transactions' beginnings and ends counted: statements that
    /// are sent together are waited for once.
    pub db_round_trips: u32,
    /// Requests to a PG, each sending counted.
    pub pg_attempts: u32,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            hand: Hand::Free,
            polls: 0,
            spent: Spent::default(),
            method: PaymentMethod::None,
            counts: Counts::default(),
            under_way: VecDeque::new(),
        }
    }
}

impl Clock {
    /// Books the time since the last change.
    fn settle(&mut self) {
        let now = Instant::now();
        let step = match (self.hand, self.polls) {
            (Hand::At(step), _) => step,
            (Hand::Connected, 0) => Step::Statements,
            (Hand::Free, 0) => Step::Unattributed,
            (Hand::Connected | Hand::Free, _) => Step::Compute,
        };
        if let Some(spent) = self.spent.get_mut(step.index()) {
            *spent += now.saturating_duration_since(self.since);
        }
        self.since = now;
    }

    fn turn(&mut self, hand: Hand) {
        self.settle();
        self.hand = hand;
    }
}

impl Ledger {
    /// An empty account, whose time begins now.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a future that writes to this account.
    pub fn scope<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        let ledger = self.clone();
        LEDGER.scope(self, async move {
            let mut work = std::pin::pin!(work);
            std::future::poll_fn(|context| {
                let _polled = Polled::begin(&ledger);
                work.as_mut().poll(context)
            })
            .await
        })
    }

    /// The time spent on a step so far.
    #[must_use]
    pub fn total(&self, step: Step) -> Duration {
        self.spent().get(step.index()).copied().unwrap_or_default()
    }

    /// The time spent on each step so far.
    pub fn steps(&self) -> impl Iterator<Item = (Step, Duration)> + Clone + use<> {
        Step::ALL.iter().copied().zip(self.spent())
    }

    /// The time spent on the database so far, including the wait for a connection.
    #[must_use]
    pub fn database(&self) -> Duration {
        of_database(self.steps())
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.clock().counts
    }

    /// Time goes to this step from now on: something else does it for the work, which waits within the life of a
    /// [`Waiting`].
    pub fn turn_to(&self, step: Step) {
        self.clock().turn(Hand::At(step));
    }

    /// The facts of the work.
    pub(super) fn sheet(&self) -> &Sheet {
        &self.0.sheet
    }

    /// How the payment is made that the work is about, as far as it is known.
    #[must_use]
    pub fn method(&self) -> PaymentMethod {
        self.clock().method
    }

    fn spent(&self) -> Spent {
        let mut clock = self.clock();
        clock.settle();
        clock.spent
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.0.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which part of these times went to the database.
pub(super) fn of_database(steps: impl Iterator<Item = (Step, Duration)>) -> Duration {
    steps.filter(|(step, _)| is_database(*step)).map(|(_, spent)| spent).sum()
}

const fn is_database(step: Step) -> bool {
    match step {
        Step::QueueWait
        | Step::SharedTx
        | Step::PoolWait
        | Step::TxBegin
        | Step::LockWait
        | Step::Statements
        | Step::TxCommit => true,
        Step::PgCall | Step::Compute | Step::Unattributed => false,
    }
}

/// Counts as being polled until it is dropped.
struct Polled<'a>(&'a Ledger);

impl<'a> Polled<'a> {
    fn begin(ledger: &'a Ledger) -> Self {
        let mut clock = ledger.clock();
        clock.settle();
        clock.polls += 1;
        Self(ledger)
    }
}

impl Drop for Polled<'_> {
    fn drop(&mut self) {
        let mut clock = self.0.clock();
        clock.settle();
        clock.polls = clock.polls.saturating_sub(1);
    }
}

/// Notes something about the work going on, if there is any.
pub(super) fn note(look: impl FnOnce(&Sheet)) {
    LEDGER.try_with(|ledger| look(ledger.sheet())).unwrap_or_default();
}

fn with(act: impl FnOnce(&mut Clock)) {
    // Outside of a scope nobody asks for it.
    LEDGER.try_with(|ledger| act(&mut ledger.clock())).unwrap_or_default();
}

/// Until it is dropped, the hand may be moved; then it goes back to where it was.
#[must_use = "dropped at once, it measures nothing"]
pub struct Waiting {
    ledger: Option<Ledger>,
    before: Hand,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(ledger) = &self.ledger {
            let mut clock = ledger.clock();
            // What was under way is given up, or was the caller's before.
            clock.under_way.clear();
            clock.turn(self.before);
        }
    }
}

/// Time goes to this step from now on.
pub fn wait_for(step: Step) -> Waiting {
    let ledger = LEDGER.try_with(Clone::clone).ok();
    let mut before = Hand::Free;
    if let Some(ledger) = &ledger {
        let mut clock = ledger.clock();
        before = clock.hand;
        clock.turn(Hand::At(step));
    }
    Waiting { ledger, before }
}

/// Time goes to this step now; for what happens within the life of a [`Waiting`].
pub fn turn_to(step: Step) {
    with(|clock| clock.turn(Hand::At(step)));
}

/// A connection is in hand, and no step is going on; for what happens within the life of a [`Waiting`].
pub fn turn_to_connected() {
    with(|clock| clock.turn(Hand::Connected));
}

/// A transaction is being opened, with a connection in hand; for what happens within the life of a [`Waiting`].
pub fn transaction_begins() {
    with(|clock| {
        clock.counts.db_transactions = clock.counts.db_transactions.saturating_add(1);
        clock.turn(Hand::Connected);
    });
}

/// A statement is sent; `step` says what for. It may be sent while others are under way.
pub fn statement_begins(step: Step) {
    with(|clock| {
        let is_first = clock.hand == Hand::Connected;
        if !is_first && clock.under_way.is_empty() {
            return;
        }
        let of_transaction = matches!(step, Step::TxBegin | Step::TxCommit);
        clock.counts.db_queries = clock.counts.db_queries.saturating_add(u32::from(!of_transaction));
        clock.under_way.push_back(step);
        if is_first {
            clock.counts.db_round_trips = clock.counts.db_round_trips.saturating_add(1);
            clock.turn(Hand::At(step));
        }
    });
}

/// The statement that was sent first of those under way was answered.
pub fn statement_ended() {
    with(|clock| {
        if clock.under_way.pop_front().is_some() {
            let next = clock.under_way.front().map_or(Hand::Connected, |step| Hand::At(*step));
            clock.turn(next);
        }
    });
}

/// A request goes to a PG.
pub fn attempt() {
    with(|clock| clock.counts.pg_attempts = clock.counts.pg_attempts.saturating_add(1));
}

/// The work is about a payment that is made so.
pub fn paid_by(method: impl Into<PaymentMethod>) {
    let method = method.into();
    with(|clock| clock.method = method);
}

/// The account of the work going on, or an empty one; to be taken along by detached work.
#[must_use]
pub fn handle() -> Ledger {
    LEDGER.try_with(Clone::clone).unwrap_or_default()
}

/// A use case going on: a part of what its ledger is about.
#[derive(Debug)]
pub struct Running {
    ledger: Ledger,
    before: Spent,
}

/// A use case begins.
#[must_use]
pub fn begin() -> Running {
    let ledger = handle();
    let before = ledger.spent();
    Running { ledger, before }
}

impl Running {
    /// It ended.
    #[must_use]
    pub fn end(&self) -> Account {
        let mut spent = self.ledger.spent();
        for (spent, before) in spent.iter_mut().zip(self.before) {
            *spent = spent.saturating_sub(before);
        }
        Account { spent, method: self.ledger.method() }
    }
}

/// What a use case took.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    spent: Spent,
    method: PaymentMethod,
}

impl Account {
    /// Of a use case that nothing is known of.
    #[must_use]
    pub fn unknown() -> Self {
        Self { spent: Spent::default(), method: PaymentMethod::None }
    }

    /// Of a use case that took one step.
    #[cfg(test)]
    pub(crate) fn of(step: Step, elapsed: Duration) -> Self {
        let mut account = Self::unknown();
        if let Some(spent) = account.spent.get_mut(step.index()) {
            *spent = elapsed;
        }
        account
    }

    /// All of its time.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.spent.iter().sum()
    }

    /// The time by step; together they are all of it.
    pub fn steps(&self) -> impl Iterator<Item = (Step, Duration)> + use<> {
        Step::ALL.iter().copied().zip(self.spent)
    }

    /// How the payment is made, as far as it is known.
    #[must_use]
    pub const fn method(&self) -> PaymentMethod {
        self.method
    }
}

/// Adds time that nobody waited for.
#[cfg(test)]
pub(crate) fn add(step: Step, elapsed: Duration) {
    with(|clock| {
        if let Some(spent) = clock.spent.get_mut(step.index()) {
            *spent += elapsed;
        }
    });
}

#[cfg(test)]
mod tests;
