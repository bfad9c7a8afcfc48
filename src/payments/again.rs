//! A resolution that others made fail is tried again: it is rolled back for certain, and what it records is already true
//! at the PG, so repeating it is safe and spares the customer the wait for recovery.

use std::time::Duration;

use crate::db::DbError;
use crate::telemetry::facts::{self, Fact};
use crate::telemetry::labels::{Contention, Step, Tx};
use crate::telemetry::ledger;
use crate::telemetry::record;

use super::resolve::ResolveError;

/// Tries beside the first.
const MORE_TRIES: u64 = 3;
/// The longest pause before the first further try; it grows with each.
const PAUSE_MS: u64 = 20;

/// Waits a moment before another try; `false` if there is to be none. `tries` counts those made so far.
pub(super) async fn may_try_again(tx: Tx, error: &ResolveError, tries: &mut u64) -> bool {
    if *tries >= MORE_TRIES || !is_over(error) {
        return false;
    }
    *tries += 1;
    record::transaction_retry(tx);
    facts::tell(Fact::Retry);
    tracing::warn!(tx = tx.as_str(), tries = *tries, %error, "a resolution was rolled back and is tried again");
    // Whoever won needs a moment; two losers must not meet again.
    let _waiting = ledger::wait_for(Step::LockWait);
    tokio::time::sleep(Duration::from_millis(rand::random_range(1..=PAUSE_MS * *tries))).await;
    true
}

/// Whether the cause is over by now. Who ran out of patience once would do so again: that is recovery's.
fn is_over(error: &ResolveError) -> bool {
    let ResolveError::Db(DbError::Contended(contention)) = error else { return false };
    match contention {
        Contention::Deadlock | Contention::Serialization => true,
        Contention::LockTimeout | Contention::StatementTimeout => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_victim_tries_again_a_few_times_and_the_impatient_not_at_all() {
        let lost = |contention| ResolveError::Db(DbError::Contended(contention));
        let mut tries = 0;
        for expected in [true, true, true, false] {
            let again = may_try_again(Tx::ConfirmResolve, &lost(Contention::Deadlock), &mut tries).await;
            assert_eq!(again, expected);
        }
        for other in [lost(Contention::LockTimeout), lost(Contention::StatementTimeout), ResolveError::Missing] {
            assert!(!may_try_again(Tx::ConfirmResolve, &other, &mut 0).await, "{other}");
        }
    }
}
