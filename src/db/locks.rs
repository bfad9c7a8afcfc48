//! What a task holds while it has a connection: the connection itself, the row locks of its transaction, and what made
//! the transaction fail if that was others.
//!
//! Every statement that locks rows says so here first. A debug build then asserts that locks are taken in one order
//! (docs/concurrency.md), which is why two transactions never wait for each other in a circle. A release build notes
//! nothing.

use std::cell::RefCell;

use uuid::Uuid;

use crate::telemetry::labels::Contention;

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

/// Runs `work` as one transaction; the second value says whether others made it fail, and how.
pub(super) async fn with_transaction<T>(work: impl Future<Output = T>) -> (T, Option<Contention>) {
    let held = Held { is_transaction: true, ..Held::default() };
    HELD.scope(held, async { (work.await, HELD.with(|held| *held.contention.borrow())) }).await
}

/// Notes that a statement failed because of others.
pub(super) fn failed_by(contention: Contention) {
    // Outside of a scope nobody asks for it.
    HELD.try_with(|held| held.contention.replace(Some(contention))).unwrap_or_default();
}

/// The next statement locks this row, and waits for it if it must.
#[track_caller]
pub(super) fn takes(rank: Rank, id: Uuid) {
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
