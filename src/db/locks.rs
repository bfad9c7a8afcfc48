//! What a task holds while it has a connection: the connection itself, the row locks of its transaction, and what made
//! the transaction fail if that was others.
//!
//! Every statement that locks rows says so here first. A debug build then asserts that locks are taken in one order
//! (docs/concurrency.md), which is why two transactions never wait for each other in a circle. A release build keeps
//! only what the next statement locks, to measure it.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::told::Fact;
use crate::telemetry::labels::{Contention, LockResource};

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
    /// What the next statement locks.
    next: Cell<Option<Rank>>,
    /// What the statement that is going on locks, and since when it is.
    current: Cell<Option<(Rank, Instant)>>,
    facts: RefCell<Vec<Fact>>,
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

/// Runs `work` as one transaction.
pub(super) async fn with_transaction<T>(work: impl Future<Output = T>) -> (T, Left) {
    let held = Held { is_transaction: true, ..Held::default() };
    let left = |held: &Held| Left { contention: *held.contention.borrow(), facts: held.facts.take() };
    HELD.scope(held, async { (work.await, HELD.with(left)) }).await
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

/// A statement is sent; `true` if it locks rows.
pub(super) fn statement_begins() -> bool {
    let begins = |held: &Held| {
        let locked = held.next.take();
        held.current.set(locked.map(|rank| (rank, Instant::now())));
        locked.is_some()
    };
    HELD.try_with(begins).unwrap_or_default()
}

/// A statement was answered; what it locked, if it did, and how long it took.
pub(super) fn statement_ended() -> Option<(LockResource, Duration)> {
    let ended = HELD.try_with(|held| held.current.take()).ok()??;
    Some((ended.0.resource(), ended.1.elapsed()))
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
    HELD.try_with(|held| held.next.set(Some(rank))).unwrap_or_default();
    note(|locks| {
        if locks.contains(&(rank, id)) {
            return;
        }
        let later = locks.iter().find(|lock| **lock > (rank, id));
        debug_assert!(later.is_none(), "locks out of order: {rank:?} {id} after {:?}", later.copied());
        locks.push((rank, id));
    });
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
        tokio::spawn(with_transaction(async { work() })).await.is_ok()
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
            assert!(statement_begins());
            assert_eq!(statement_ended().map(|(resource, _)| resource), Some(LockResource::Idempotency));
            assert!(!statement_begins());
            assert_eq!(statement_ended(), None);
        };
        with_transaction(work).await;
        assert!(!statement_begins() && statement_ended().is_none());
    }

    #[tokio::test]
    async fn facts_are_kept_by_the_transaction_that_makes_them() {
        let fact = Fact::Stage(crate::telemetry::labels::FunnelStage::Paid);
        keep(fact);
        let ((), left) = with_transaction(async { keep(fact) }).await;
        assert_eq!(left.facts, [fact]);
        with_connection(async { keep(fact) }).await;
        let ((), left) = with_transaction(async {}).await;
        assert_eq!(left.facts, []);
    }

    #[tokio::test]
    async fn a_transaction_forgets_its_locks_and_a_read_has_none() {
        with_transaction(async { takes(Rank::Stock, id(1)) }).await;
        with_transaction(async { takes(Rank::Order, id(1)) }).await;
        with_connection(async {
            assert!(holds_connection());
            takes(Rank::Stock, id(2));
            takes(Rank::Stock, id(1));
        })
        .await;
        assert!(!holds_connection());
    }
}
