//! What a task holds while it has a connection: the connection itself, the row locks of its transaction, and what made
//! the transaction fail if that was others.
//!
//! Every statement that locks rows says so here first. A debug build then asserts that locks are taken in one order
//! (docs/concurrency.md), which is why two transactions never wait for each other in a circle. A release build keeps
//! only what the next statement locks, to measure it.
//!
//! Statements may be sent before the ones before them are answered (`batch`). The server answers them in the order in
//! which they were sent, so what is under way is a queue.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::told::Fact;
use crate::telemetry::labels::{Contention, LockResource, Step};

/// The kinds of rows that are locked, in the order in which one transaction may lock them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Whose turn it is to audit or to reconcile, and how far that came.
    Turn,
    /// An API key.
    Key,
    /// A product; not its stock.
    Product,
    /// An order, and with it its lines.
    Order,
    /// A payment.
    Payment,
    /// A cancellation.
    Cancellation,
    /// A finding of a reconciliation.
    Finding,
    /// The claims on idempotency keys that stand for one resource.
    Claim,
    /// A webhook in the inbox.
    Delivery,
    /// The stock of a product: many want it, so it is locked last.
    Stock,
}

#[derive(Default)]
struct Held {
    /// Empty, and left so, outside of a transaction.
    locks: RefCell<Vec<(Rank, Uuid)>>,
    is_transaction: bool,
    contention: RefCell<Option<Contention>>,
    /// What the next statement does besides reading and writing.
    next: Cell<Option<Does>>,
    /// What the statements that are under way lock, and since when they are.
    current: RefCell<VecDeque<(Option<Rank>, Instant)>>,
    /// When the last statement was answered.
    answered_at: Cell<Option<Instant>>,
    /// Whether the transaction's end may be sent together with its last statements.
    may_end_early: bool,
    end: Cell<End>,
    facts: RefCell<Vec<Fact>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    /// Opens the transaction.
    Open,
    /// Ends the transaction.
    Close,
    /// Locks rows of this kind.
    Lock(Rank),
}

/// How far a transaction's end has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum End {
    /// Nobody has asked for it.
    #[default]
    Open,
    /// It is asked for, and not answered, or with an error: nobody knows.
    Sent,
    /// It is over: committed, or rolled back because a statement failed.
    Over,
}

impl Rank {
    const fn resource(self) -> LockResource {
        match self {
            Self::Product => LockResource::Product,
            Self::Order => LockResource::Order,
            Self::Payment => LockResource::Payment,
            Self::Cancellation => LockResource::Cancellation,
            Self::Claim => LockResource::Idempotency,
            Self::Delivery => LockResource::Webhook,
            Self::Stock => LockResource::Stock,
            Self::Turn | Self::Key | Self::Finding => LockResource::Other,
        }
    }
}

tokio::task_local! {
    /// Set while a task holds a connection, so that `provider::call` can refuse to run meanwhile.
    static HELD: Held;
}

/// Whether the current task holds a database connection.
#[must_use]
pub fn holds_connection() -> bool {
    HELD.try_with(|_| ()).is_ok()
}

/// Runs `work` as the holder of a connection that is in no transaction.
pub(super) async fn with_connection<T>(work: impl Future<Output = T>) -> T {
    HELD.scope(Held::default(), work).await
}

/// What a transaction leaves behind.
pub(super) struct Left {
    /// Whether others made it fail, and how.
    pub(super) contention: Option<Contention>,
    /// What is to be told if it was committed.
    pub(super) facts: Vec<Fact>,
}

/// Runs `work` as one transaction; `may_end_early` says whether its end may be sent together with its last statements.
pub(super) async fn with_transaction<T>(may_end_early: bool, work: impl Future<Output = T>) -> (T, Left) {
    let held = Held { is_transaction: true, may_end_early, ..Held::default() };
    let left = |held: &Held| Left { contention: *held.contention.borrow(), facts: held.facts.take() };
    HELD.scope(held, async { (work.await, HELD.with(left)) }).await
}

/// Whether the end of the transaction that is going on may be sent together with its last statements.
pub(super) fn may_end_early() -> bool {
    HELD.try_with(|held| held.may_end_early).unwrap_or_default()
}

/// How far the end of the transaction that is going on has come.
pub(super) fn end() -> End {
    HELD.try_with(|held| held.end.get()).unwrap_or_default()
}

/// Notes how far the end of the transaction has come.
pub(super) fn set_end(end: End) {
    HELD.try_with(|held| held.end.set(end)).unwrap_or_default();
}

/// The next statement opens the transaction.
pub(super) fn opens() {
    HELD.try_with(|held| held.next.set(Some(Does::Open))).unwrap_or_default();
}

/// The next statement ends the transaction.
pub(super) fn closes() {
    HELD.try_with(|held| held.next.set(Some(Does::Close))).unwrap_or_default();
}

/// Keeps a fact until the end of the transaction.
pub(super) fn keep(fact: Fact) {
    HELD.try_with(|held| {
        if held.is_transaction {
            held.facts.borrow_mut().push(fact);
        }
    })
    .unwrap_or_default();
}

/// A statement is sent; the step to which its time goes.
pub(super) fn statement_begins() -> Step {
    let begins = |held: &Held| {
        let does = held.next.take();
        let locked = match does {
            Some(Does::Lock(rank)) => Some(rank),
            Some(Does::Open | Does::Close) | None => None,
        };
        debug_assert!(
            held.end.get() == End::Open || does == Some(Does::Close),
            "a statement after the end of its transaction"
        );
        held.current.borrow_mut().push_back((locked, Instant::now()));
        match does {
            Some(Does::Open) => Step::TxBegin,
            Some(Does::Close) => {
                held.end.set(End::Sent);
                Step::TxCommit
            }
            Some(Does::Lock(_)) => Step::LockWait,
            None => Step::Statements,
        }
    };
    HELD.try_with(begins).unwrap_or(Step::Statements)
}

/// The oldest statement that was under way is answered; what it locked, if it did, and how long it took, without the
/// time in which the server was at the ones before it.
pub(super) fn statement_ended() -> Option<(LockResource, Duration)> {
    let ended = |held: &Held| {
        let now = Instant::now();
        let before = held.answered_at.replace(Some(now));
        let (locked, begun) = held.current.borrow_mut().pop_front()?;
        let begun = before.map_or(begun, |before| before.max(begun));
        Some((locked?.resource(), now.saturating_duration_since(begun)))
    };
    HELD.try_with(ended).ok().flatten()
}

/// Notes that a statement failed because of others.
pub(super) fn failed_by(contention: Contention) {
    // Outside of a scope nobody asks for it.
    HELD.try_with(|held| held.contention.replace(Some(contention))).unwrap_or_default();
}

/// The next statement locks this row, and waits for it if it must.
#[track_caller]
pub(super) fn takes(rank: Rank, id: Uuid) {
    // Outside of a scope nobody measures it.
    measures(rank);
    note(|locks| {
        if locks.contains(&(rank, id)) {
            return;
        }
        let later = locks.iter().find(|lock| **lock > (rank, id));
        debug_assert!(later.is_none(), "locks out of order: {rank:?} {id} after {:?}", later.copied());
        locks.push((rank, id));
    });
}

fn measures(rank: Rank) {
    HELD.try_with(|held| held.next.set(Some(Does::Lock(rank)))).unwrap_or_default();
}

/// The next statement locks a row whose id only its answer tells, to be noted by [`took_free`] then. It must be the
/// first lock of its transaction.
#[track_caller]
pub(super) fn takes_first(rank: Rank) {
    measures(rank);
    note(|locks| debug_assert!(locks.is_empty(), "{rank:?} is locked after {:?}", locks.first()));
}

/// The last statement locked these rows without waiting for any (`SKIP LOCKED`), so their order does not matter.
pub(super) fn took_free(rank: Rank, ids: impl IntoIterator<Item = Uuid>) {
    note(|locks| locks.extend(ids.into_iter().map(|id| (rank, id))));
}

/// The next statement locks rows that only the holder of this one may touch, so that nobody waits for them.
#[track_caller]
pub(super) fn belongs_to(rank: Rank, id: Uuid) {
    note(|locks| debug_assert!(locks.contains(&(rank, id)), "a part of {rank:?} {id} is changed without its lock"));
}

#[track_caller]
fn note(noted: impl FnOnce(&mut Vec<(Rank, Uuid)>)) {
    if cfg!(debug_assertions) {
        // Outside of a scope there is no transaction whose locks could meet.
        HELD.try_with(|held| {
            if held.is_transaction {
                noted(&mut held.locks.borrow_mut());
            }
        })
        .unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a transaction may lock so.
    async fn passes(work: impl FnOnce() + Send + 'static) -> bool {
        tokio::spawn(with_transaction(true, async { work() })).await.is_ok()
    }

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[tokio::test]
    async fn a_lower_rank_after_a_higher_one_fails_the_test_that_does_it() {
        assert!(
            passes(|| {
                takes(Rank::Order, id(9));
                takes(Rank::Payment, id(1));
                takes(Rank::Stock, id(1));
            })
            .await
        );
        assert!(
            !passes(|| {
                takes(Rank::Stock, id(1));
                takes(Rank::Order, id(9));
            })
            .await
        );
    }

    #[tokio::test]
    async fn rows_of_one_rank_are_locked_in_the_order_of_their_ids() {
        let stock = |ids: [u128; 2]| passes(move || ids.into_iter().for_each(|number| takes(Rank::Stock, id(number))));
        assert!(stock([1, 2]).await);
        assert!(!stock([2, 1]).await);
    }

    #[tokio::test]
    async fn a_row_that_is_held_can_be_changed_at_any_time() {
        assert!(
            passes(|| {
                takes(Rank::Order, id(1));
                takes(Rank::Stock, id(1));
                takes(Rank::Order, id(1));
                belongs_to(Rank::Order, id(1));
            })
            .await
        );
        assert!(!passes(|| belongs_to(Rank::Order, id(1))).await, "a line without its order");
    }

    #[tokio::test]
    async fn what_is_locked_without_waiting_needs_no_order_but_is_held() {
        assert!(passes(|| took_free(Rank::Order, [id(2), id(1)])).await);
        assert!(
            !passes(|| {
                took_free(Rank::Stock, [id(1)]);
                takes(Rank::Order, id(1));
            })
            .await
        );
    }

    #[tokio::test]
    async fn only_the_statement_after_it_is_said_is_measured_as_one_that_locks() {
        let work = async {
            takes(Rank::Claim, id(1));
            assert_eq!(statement_begins(), Step::LockWait);
            assert_eq!(statement_ended().map(|(resource, _)| resource), Some(LockResource::Idempotency));
            assert_eq!(statement_begins(), Step::Statements);
            assert_eq!(statement_ended(), None);
        };
        with_transaction(true, work).await;
        assert_eq!((statement_begins(), statement_ended()), (Step::Statements, None));
    }

    #[tokio::test]
    async fn statements_under_way_are_answered_in_the_order_in_which_they_were_sent() {
        let work = async {
            opens();
            assert_eq!(statement_begins(), Step::TxBegin);
            takes(Rank::Order, id(1));
            assert_eq!(statement_begins(), Step::LockWait);
            assert_eq!(statement_begins(), Step::Statements);
            let waited = Instant::now();
            while waited.elapsed() < Duration::from_millis(20) {}
            assert_eq!(statement_ended(), None);
            let (resource, elapsed) = statement_ended().expect("a lock");
            assert_eq!(resource, LockResource::Order);
            assert!(elapsed < Duration::from_millis(20), "the wait for the one before it is not its own: {elapsed:?}");
            assert_eq!(statement_ended(), None);
        };
        with_transaction(true, work).await;
    }

    #[tokio::test]
    async fn nothing_may_be_sent_after_the_end_of_a_transaction() {
        let sends = |after_the_end: bool| async move {
            let work = async move {
                closes();
                assert_eq!(statement_begins(), Step::TxCommit);
                assert_eq!(end(), End::Sent);
                if after_the_end {
                    statement_begins();
                }
            };
            tokio::spawn(with_transaction(true, work)).await.is_ok()
        };
        assert!(sends(false).await);
        assert!(!sends(true).await, "it would be committed by itself");
    }

    #[tokio::test]
    async fn a_lock_whose_row_is_not_known_yet_comes_first() {
        assert!(
            passes(|| {
                takes_first(Rank::Order);
                takes(Rank::Payment, id(1));
                took_free(Rank::Order, [id(2)]);
                takes(Rank::Order, id(2));
            })
            .await
        );
        assert!(
            !passes(|| {
                takes(Rank::Payment, id(1));
                takes_first(Rank::Order);
            })
            .await
        );
    }

    #[tokio::test]
    async fn facts_are_kept_by_the_transaction_that_makes_them() {
        let fact = Fact::Stage(crate::telemetry::labels::FunnelStage::Paid);
        keep(fact);
        let ((), left) = with_transaction(true, async { keep(fact) }).await;
        assert_eq!(left.facts, [fact]);
        with_connection(async { keep(fact) }).await;
        let ((), left) = with_transaction(true, async {}).await;
        assert_eq!(left.facts, []);
    }

    #[tokio::test]
    async fn a_transaction_forgets_its_locks_and_a_read_has_none() {
        with_transaction(true, async { takes(Rank::Stock, id(1)) }).await;
        with_transaction(true, async { takes(Rank::Order, id(1)) }).await;
        with_connection(async {
            assert!(holds_connection());
            takes(Rank::Stock, id(2));
            takes(Rank::Stock, id(1));
        })
        .await;
        assert!(!holds_connection());
    }
}
