//! The ledger's clock, by real but short waits: no test depends on how long they turn out to be.

use super::*;

const PAUSE: Duration = Duration::from_millis(20);

fn spin() {
    let started = Instant::now();
    while started.elapsed() < PAUSE {
        std::hint::spin_loop();
    }
}

#[tokio::test]
async fn every_moment_goes_to_one_step_and_all_of_them_to_the_whole() {
    let ledger = Ledger::new();
    let work = async {
        let whole = Instant::now();
        let running = begin();
        spin();
        {
            let _called = wait_for(Step::PgCall);
            tokio::time::sleep(PAUSE).await;
            spin();
        }
        tokio::time::sleep(PAUSE).await;
        let account = running.end();
        (account, whole.elapsed())
    };
    let (account, whole) = ledger.clone().scope(work).await;
    let of = |wanted| account.steps().find(|(step, _)| *step == wanted).expect("every step is there").1;
    assert!(of(Step::Compute) >= PAUSE, "{account:?}");
    assert!(of(Step::PgCall) >= 2 * PAUSE, "our own work within a step is the step's: {account:?}");
    assert!(of(Step::Unattributed) >= PAUSE, "a wait for nothing that is named: {account:?}");
    assert_eq!(account.steps().map(|(_, spent)| spent).sum::<Duration>(), account.elapsed());
    assert!(account.elapsed() <= whole && account.elapsed() + PAUSE > whole, "{account:?} in {whole:?}");
    assert_eq!(ledger.total(Step::Statements), Duration::ZERO);
}

#[tokio::test]
async fn with_a_connection_in_hand_what_is_waited_for_is_the_database() {
    let ledger = Ledger::new();
    let work = async {
        let _database = wait_for(Step::PoolWait);
        statement_begins(Step::Statements);
        transaction_begins();
        statement_begins(Step::TxBegin);
        statement_ended();
        statement_begins(Step::LockWait);
        tokio::time::sleep(PAUSE).await;
        statement_ended();
        tokio::time::sleep(PAUSE).await;
        spin();
        statement_begins(Step::TxCommit);
        tokio::time::sleep(PAUSE).await;
        statement_ended();
    };
    ledger.clone().scope(work).await;
    for step in [Step::LockWait, Step::Statements, Step::Compute, Step::TxCommit] {
        assert!(ledger.total(step) >= PAUSE, "{step}: {ledger:?}");
    }
    assert!(ledger.database() >= 3 * PAUSE && ledger.total(Step::Unattributed) < PAUSE);
    let counts = Counts { db_queries: 1, db_transactions: 1, db_round_trips: 3, pg_attempts: 0 };
    assert_eq!(ledger.counts(), counts, "BEGIN and COMMIT are no statements of ours, and a ping is not counted");
}

#[tokio::test]
async fn statements_that_are_sent_together_are_waited_for_once_and_each_has_its_own_time() {
    let ledger = Ledger::new();
    let work = async {
        let _database = wait_for(Step::PoolWait);
        transaction_begins();
        statement_begins(Step::TxBegin);
        statement_begins(Step::LockWait);
        tokio::time::sleep(PAUSE).await;
        statement_ended();
        statement_begins(Step::Statements);
        tokio::time::sleep(PAUSE).await;
        statement_ended();
        tokio::time::sleep(PAUSE).await;
        statement_ended();
    };
    ledger.clone().scope(work).await;
    for step in [Step::TxBegin, Step::LockWait, Step::Statements] {
        assert!(ledger.total(step) >= PAUSE, "{step}: {ledger:?}");
    }
    let counts = Counts { db_queries: 2, db_transactions: 1, db_round_trips: 1, pg_attempts: 0 };
    assert_eq!(ledger.counts(), counts);
}

#[tokio::test]
async fn work_that_is_dropped_in_a_step_leaves_it() {
    let ledger = Ledger::new();
    let work = async {
        let _called = wait_for(Step::PgCall);
        std::future::pending::<()>().await;
    };
    assert!(tokio::time::timeout(PAUSE, ledger.clone().scope(work)).await.is_err());
    let called = ledger.total(Step::PgCall);
    spin();
    assert!(called >= PAUSE / 2);
    assert_eq!(ledger.total(Step::PgCall), called);
    assert!(ledger.total(Step::Unattributed) >= PAUSE, "nobody polls it any more");
}

#[tokio::test]
async fn detached_work_writes_to_the_same_account() {
    let ledger = Ledger::new();
    let work = async {
        let detached = handle().scope(async {
            paid_by(PaymentMethod::Card);
            attempt();
            add(Step::PgCall, Duration::from_secs(7));
        });
        tokio::spawn(detached).await.expect("nothing panics in it");
    };
    ledger.clone().scope(work).await;
    assert!(ledger.total(Step::PgCall) >= Duration::from_secs(7));
    assert_eq!((ledger.method(), ledger.counts().pg_attempts), (PaymentMethod::Card, 1));
}

#[test]
fn outside_of_a_scope_nothing_is_kept() {
    add(Step::Statements, Duration::from_secs(1));
    attempt();
    assert_eq!(handle().total(Step::Statements), Duration::ZERO);
    assert_eq!(handle().counts(), Counts::default());
}
