//! Transactions: opened, measured and ended here, with as few waits for the database as can be.
//!
//! The beginning is what a connection is tested by, so it costs no ping; [`Db::transaction_after`] sends the first look
//! at the rows along with it. The end is sent with the last statements by [`Batch::commit`](super::batch::Batch::commit),
//! and after them otherwise.

use std::ops::AsyncFnOnce;
use std::time::{Duration, Instant};

use diesel::connection::TransactionManagerStatus;
use diesel_async::{AnsiTransactionManager, RunQueryDsl as _, TransactionManager as _};
use futures_util::FutureExt as _;

use super::batch::Control;
use super::locks::{self, End, Left};
use super::{Conn, Db, DbError, SendWork, give_up, told};
use crate::crash::CrashPoint;
use crate::telemetry::labels::{Tx, TxResult};
use crate::telemetry::ledger::{self, Step};
use crate::telemetry::{Span, SpanKind, record, traces};

/// What a transaction looks at first. It is sent together with the transaction's beginning, so it only reads and locks:
/// it must do no harm if there is no transaction after all. It may be tried again on another connection.
pub trait Look: Send + Sync {
    /// What was found.
    type Seen: Send;

    /// Looks, by statements none of which needs another's answer.
    fn look(&self, conn: &Conn) -> impl Future<Output = Result<Self::Seen, DbError>> + Send;
}

/// Looks at nothing.
struct Nothing;

impl Look for Nothing {
    type Seen = ();

    async fn look(&self, _conn: &Conn) -> Result<(), DbError> {
        Ok(())
    }
}

/// [`SendWork`] of a transaction that has looked first.
pub trait SendLookedWork<C, L, R>: FnOnce(C, L) -> <Self as SendLookedWork<C, L, R>>::Running {
    /// What the closure returns.
    type Running: Future<Output = R> + Send;
}

impl<F, C, L, R, Running> SendLookedWork<C, L, R> for F
where
    F: FnOnce(C, L) -> Running,
    Running: Future<Output = R> + Send,
{
    type Running = Running;
}

/// Why a transaction could not be opened.
enum Closed<E> {
    /// The connection is dead; nothing was sent on it that could have an effect.
    Dead(DbError),
    /// Anything else.
    Failed(E),
}

impl Db {
    /// Runs `work` in one transaction at READ COMMITTED; commits if it returns `Ok`, rolls back otherwise. If the time
    /// is over, nobody knows whether it was committed, and its connection is thrown away.
    pub async fn transaction<T, E, F>(&self, tx: Tx, work: F) -> Result<T, E>
    where
        F: for<'r> AsyncFnOnce(&'r mut Conn) -> Result<T, E> + for<'r> SendWork<&'r mut Conn, Result<T, E>> + Send,
        T: Send,
        E: From<DbError> + Send,
    {
        self.transaction_after(tx, Nothing, async move |conn: &mut Conn, ()| work(conn).await).await
    }

    /// The same for work that looks at rows first: `look` is sent together with the transaction's beginning, and `work`
    /// gets what it saw.
    pub async fn transaction_after<L, T, E, F>(&self, tx: Tx, look: L, work: F) -> Result<T, E>
    where
        L: Look,
        F: for<'r> AsyncFnOnce(&'r mut Conn, L::Seen) -> Result<T, E>
            + for<'r> SendLookedWork<&'r mut Conn, L::Seen, Result<T, E>>
            + Send,
        T: Send,
        E: From<DbError> + Send,
    {
        let _waiting = ledger::wait_for(Step::PoolWait);
        let mut work = Some(work);
        let wanted = Instant::now();
        loop {
            let mut conn = self.connection().await?;
            let account = Account::begin(tx, wanted);
            let closed = locks::with_transaction(
                !self.crash.is_watched(),
                Box::pin(async {
                    let seen = self.open(&mut conn, &look).await?;
                    let Some(work) = work.take() else { return Err(Closed::Failed(self.no_answer().into())) };
                    let limited = tokio::time::timeout(self.answer_within, async {
                        let done = work(&mut conn, seen).await;
                        self.close(tx, &mut conn, done).await
                    });
                    limited.await.unwrap_or_else(|_| Err(self.no_answer().into())).map_err(Closed::Failed)
                }),
            );
            let (done, left) = account.span.scope(closed).await;
            match done {
                Err(Closed::Dead(error)) => self.try_another(conn, wanted, error)?,
                Err(Closed::Failed(error)) => {
                    drop(conn);
                    return self.told(account, Err(error), left).await;
                }
                Ok(value) => {
                    drop(conn);
                    return self.told(account, Ok(value), left).await;
                }
            }
        }
    }

    /// Opens a transaction and looks. Until it is ended for certain, the connection counts as broken.
    async fn open<L: Look, E: From<DbError>>(&self, conn: &mut Conn, look: &L) -> Result<L::Seen, Closed<E>> {
        give_up(conn);
        ledger::transaction_begins();
        let shared: &Conn = conn;
        let begin = async {
            locks::opens();
            let begun = Control::BEGIN.execute(&mut &*shared);
            // A beginning waits for nobody, so a connection that does not answer it is dead.
            match tokio::time::timeout(self.ping_within(), begun).await {
                Ok(begun) => begun.map(drop).map_err(DbError::from),
                Err(_) => Err(DbError::Unavailable("a connection of the pool does not answer any more".to_owned())),
            }
        };
        let looked = tokio::time::timeout(self.answer_within, look.look(shared));
        let looked = match futures_util::try_join!(begin, looked.map(Ok)) {
            Ok(((), looked)) => looked,
            Err(error @ DbError::Unavailable(_)) => return Err(Closed::Dead(error)),
            Err(error) => return Err(Closed::Failed(error.into())),
        };
        match looked {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(error)) => {
                self.roll_back(conn).await;
                Err(Closed::Failed(error.into()))
            }
            Err(_) => Err(Closed::Failed(self.no_answer().into())),
        }
    }

    /// Ends a transaction, unless its last statements have done so.
    async fn close<T, E: From<DbError>>(&self, tx: Tx, conn: &mut Conn, done: Result<T, E>) -> Result<T, E> {
        match (locks::end(), done) {
            (End::Over, done) => {
                is_whole(conn);
                done
            }
            // Nobody knows how it ended, so the connection is thrown away.
            (End::Sent, done) => done,
            (End::Open, Ok(value)) => {
                self.crash.reach(CrashPoint::Uncommitted(tx)).await;
                locks::closes();
                Control::COMMIT.execute(&mut &*conn).await.map_err(DbError::from)?;
                is_whole(conn);
                Ok(value)
            }
            (End::Open, Err(error)) => {
                self.roll_back(conn).await;
                Err(error)
            }
        }
    }

    async fn roll_back(&self, conn: &mut Conn) {
        locks::closes();
        if Control::ROLLBACK.execute(&mut &*conn).await.is_ok() {
            is_whole(conn);
        }
    }

    /// Tells how a transaction ended.
    async fn told<T, E>(&self, account: Account, done: Result<T, E>, left: Left) -> Result<T, E> {
        if done.is_ok() {
            told::tell(left.facts, self.news.as_deref());
            self.crash.reach(CrashPoint::Committed(account.tx)).await;
        }
        let result = if done.is_ok() { TxResult::Commit } else { TxResult::Rollback };
        account.span.in_scope(|| {
            record::transaction(account.tx, result, account.busy.elapsed());
            account.span.tell("payments.tx.result", result.as_str());
            traces::waited("payments.tx.pool_wait_ms", account.waited);
            let locked = ledger::handle().total(Step::LockWait).saturating_sub(account.locked);
            traces::waited("payments.tx.lock_wait_ms", locked);
            if let Some(contention) = left.contention {
                record::contention(account.tx, contention);
                traces::failed(contention.as_str());
            }
        });
        done
    }
}

/// The transaction is over, so the connection is as good as new.
fn is_whole(conn: &mut Conn) {
    *AnsiTransactionManager::transaction_manager_status_mut(conn) = TransactionManagerStatus::default();
}

/// What is measured of one transaction.
struct Account {
    tx: Tx,
    span: Span,
    busy: Instant,
    waited: Duration,
    locked: Duration,
}

impl Account {
    /// The connection that was wanted since `wanted` is there.
    fn begin(tx: Tx, wanted: Instant) -> Self {
        let busy = Instant::now();
        let span = Span::begin(SpanKind::Internal, ["tx", " ", tx.as_str()]);
        span.tell("db.system.name", "postgresql");
        span.tell("payments.tx.name", tx.as_str());
        Self { tx, span, busy, waited: busy - wanted, locked: ledger::handle().total(Step::LockWait) }
    }
}
