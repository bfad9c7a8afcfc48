//! PostgreSQL, the only truth: the pool, transactions, and one file of statements per table family.
//!
//! The functions in the files below are statements named like sentences over a connection; they decide nothing and
//! open no transaction. Transactions are opened in `payments/` and `worker/`, through [`Db::transaction`] and
//! [`Db::transaction_after`], which measure each, and never while a PG is being called.

pub mod audit;
pub mod batch;
pub mod cancellations;
pub mod connect;
pub mod events;
pub mod findings;
pub mod idempotency;
pub mod keys;
pub mod known_keys;
mod locks;
pub mod orders;
pub mod overview;
pub mod partitions;
pub mod payments;
mod prepared;
pub mod products;
pub mod reconciliations;
pub mod sales;
pub mod schema;
mod statements;
pub mod stock;
pub mod told;
mod transaction;
pub mod types;
pub mod webhooks;

use std::ops::AsyncFnOnce;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use diesel::result::{DatabaseErrorKind, Error as DieselError};
#[cfg(feature = "dev")]
use diesel_async::AsyncConnection;
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::bb8;
use diesel_async::{AnsiTransactionManager, TransactionManager};

use crate::crash::CrashSwitch;
use crate::news::News;
use crate::telemetry::labels::Contention;
use crate::telemetry::ledger::{self, Step};
use crate::telemetry::record;

pub use self::locks::holds_connection;
pub use self::transaction::{Look, SendLookedWork};

/// A connection, inside or outside a transaction.
pub type Conn = AsyncPgConnection;

/// What the database can answer besides rows.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// No connection or no answer in time, or a server that takes no changes.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A constraint said no; its name is the reason.
    #[error("constraint {0} refused the change")]
    Constraint(String),
    /// A number does not fit its column.
    #[error("a number does not fit")]
    OutOfRange,
    /// Others were in the way. The transaction is rolled back, whole and for certain.
    #[error("others were in the way: {0}")]
    Contended(Contention),
    /// Anything else.
    #[error("database: {0}")]
    Query(#[source] DieselError),
}

impl From<DieselError> for DbError {
    fn from(error: DieselError) -> Self {
        let DieselError::DatabaseError(kind, info) = &error else { return Self::Query(error) };
        if is_lost(kind, info.message()) || cannot_write(kind, info.message()) {
            return Self::Unavailable(info.message().to_owned());
        }
        if let Some(contention) = contention(kind, info.message()) {
            locks::failed_by(contention);
            return Self::Contended(contention);
        }
        let by_constraint = matches!(
            kind,
            DatabaseErrorKind::UniqueViolation
                | DatabaseErrorKind::CheckViolation
                | DatabaseErrorKind::ForeignKeyViolation
        );
        match info.constraint_name() {
            Some(name) if by_constraint => Self::Constraint(name.to_owned()),
            Some(_) | None if info.message().contains("out of range") => Self::OutOfRange,
            Some(_) | None => Self::Query(error),
        }
    }
}

/// Whether the connection is gone, and nothing wrong with the statement. The driver gives an error without a SQLSTATE
/// the kind `UnableToSendCommand`; the server's farewell (57P01 to 57P03) it passes on in words alone.
fn is_lost(kind: &DatabaseErrorKind, message: &str) -> bool {
    matches!(kind, DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand)
        || message.starts_with("terminating connection")
        || message.starts_with("the database system is")
}

/// Whether the server is there but takes no changes: its disk is full, read-only or failing, or it is a standby.
/// Diesel does not pass on the SQLSTATE (53100, 58030), so the words of the operating system must do.
fn cannot_write(kind: &DatabaseErrorKind, message: &str) -> bool {
    const WORDS: [&str; 4] =
        ["No space left on device", "Disk quota exceeded", "Read-only file system", "Input/output error"];
    matches!(kind, DatabaseErrorKind::ReadOnlyTransaction) || WORDS.iter().any(|words| message.contains(words))
}

/// Whether others made the statement fail. The driver passes on the SQLSTATE of a serialization failure (40001) alone;
/// a deadlock (40P01), a lock timeout (55P03) and a cancelled statement (57014) are told apart by the server's English
/// words, for which `connect` asks.
fn contention(kind: &DatabaseErrorKind, message: &str) -> Option<Contention> {
    let words = [
        ("deadlock detected", Contention::Deadlock),
        ("lock timeout", Contention::LockTimeout),
        ("statement timeout", Contention::StatementTimeout),
    ];
    if matches!(kind, DatabaseErrorKind::SerializationFailure) {
        return Some(Contention::Serialization);
    }
    let is_told = |(said, _): &&(&str, Contention)| message.contains(said);
    let told = words.iter().find(is_told).filter(|_| matches!(kind, DatabaseErrorKind::Unknown));
    told.map(|(_, contention)| *contention)
}

impl DbError {
    /// Whether this constraint refused the change.
    #[must_use]
    pub fn is_constraint(&self, name: &str) -> bool {
        matches!(self, Self::Constraint(found) if found == name)
    }
}

/// A closure whose future can move between threads. `AsyncFnOnce` alone cannot say so yet.
pub trait SendWork<C, R>: FnOnce(C) -> <Self as SendWork<C, R>>::Running {
    /// What the closure returns.
    type Running: Future<Output = R> + Send;
}

impl<F, C, R, Running> SendWork<C, R> for F
where
    F: FnOnce(C) -> Running,
    Running: Future<Output = R> + Send,
{
    type Running = Running;
}

/// The pool.
#[derive(Clone)]
pub struct Db {
    pool: bb8::Pool<Conn>,
    connections_max: u32,
    pending: Arc<AtomicU32>,
    answer_within: Duration,
    connect_within: Duration,
    crash: CrashSwitch,
    news: Option<Arc<News>>,
}

/// How long work may take unless [`Db::answering_within`] says otherwise.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long a connection is waited for unless [`Db::connecting_within`] says otherwise.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

impl Db {
    /// Wraps a pool made by [`connect::pool`].
    #[must_use]
    pub fn new(pool: bb8::Pool<Conn>, connections_max: u32, crash: CrashSwitch) -> Self {
        Self {
            pool,
            connections_max,
            pending: Arc::default(),
            answer_within: ANSWER_WITHIN,
            connect_within: CONNECT_WITHIN,
            crash,
            news: None,
        }
    }

    /// With another limit for the work on one connection, see [`connect::DbConfig::answer_within`].
    #[must_use]
    pub fn answering_within(self, answer_within: Duration) -> Self {
        Self { answer_within, ..self }
    }

    /// Tells these news what is committed.
    #[must_use]
    pub fn telling(self, news: Arc<News>) -> Self {
        Self { news: Some(news), ..self }
    }

    /// With another limit for the wait for a connection that answers, see [`connect::DbConfig::pool_wait`].
    #[must_use]
    pub fn connecting_within(self, connect_within: Duration) -> Self {
        Self { connect_within, ..self }
    }

    /// How long a connection is waited for.
    #[must_use]
    pub const fn connects_within(&self) -> Duration {
        self.connect_within
    }

    /// How long an idle connection may take to answer before it is replaced. Two such tries fit into a request's wait for
    /// a connection.
    fn ping_within(&self) -> Duration {
        self.connect_within * 2 / 5
    }

    /// Connections as they are now, for the gauges.
    #[must_use]
    pub fn snapshot(&self) -> record::PoolSnapshot {
        let state = self.pool.state();
        record::PoolSnapshot {
            idle: state.idle_connections,
            used: state.connections.saturating_sub(state.idle_connections),
            max: self.connections_max,
            pending: self.pending.load(Ordering::Relaxed),
        }
    }

    /// Runs read-only `work` on a connection without opening a transaction.
    pub async fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'r> AsyncFnOnce(&'r mut Conn) -> Result<T, E> + for<'r> SendWork<&'r mut Conn, Result<T, E>> + Send,
        T: Send,
        E: From<DbError> + Send,
    {
        let _waiting = ledger::wait_for(Step::PoolWait);
        let mut conn = self.answering_connection().await?;
        ledger::turn_to_connected();
        let ended =
            locks::with_connection(Box::pin(async { tokio::time::timeout(self.answer_within, work(&mut conn)).await }))
                .await;
        if ended.is_err() {
            // Else the next one would inherit the wait.
            give_up(&mut conn);
        }
        drop(conn);
        ended.unwrap_or_else(|_| Err(self.no_answer().into()))
    }

    /// A connection outside of the pool, for what belongs to one session; `settings` are for it alone.
    pub async fn own(&self, settings: &str) -> Result<Own, DbError> {
        use diesel_async::SimpleAsyncConnection as _;
        let dialed = self.pool.dedicated_connection().await;
        let mut conn = dialed.map_err(|error| DbError::Unavailable(error.to_string()))?;
        conn.batch_execute(settings).await?;
        Ok(Own { conn, answer_within: self.answer_within })
    }

    fn no_answer(&self) -> DbError {
        no_answer(self.answer_within)
    }

    /// A connection that has just answered.
    async fn answering_connection(&self) -> Result<bb8::PooledConnection<'_, Conn>, DbError> {
        let wanted = Instant::now();
        loop {
            let mut conn = self.connection().await?;
            match connect::ping(&mut conn, self.ping_within()).await {
                Ok(()) => return Ok(conn),
                Err(error) => self.try_another(conn, wanted, error.into())?,
            }
        }
    }

    /// Throws a connection away that did not answer; an error if there is no time for another one.
    fn try_another(
        &self,
        mut conn: bb8::PooledConnection<'_, Conn>,
        wanted: Instant,
        error: DbError,
    ) -> Result<(), DbError> {
        give_up(&mut conn);
        if wanted.elapsed() < self.connect_within {
            return Ok(());
        }
        record::pool_timeout();
        Err(error)
    }

    /// A connection, which may be dead.
    async fn connection(&self) -> Result<bb8::PooledConnection<'_, Conn>, DbError> {
        let started = Instant::now();
        let waiting = Waiting::begin(&self.pending);
        let conn = self.pool.get().await;
        drop(waiting);
        record::pool_wait(started.elapsed());
        let conn = conn.map_err(|error| {
            record::pool_timeout();
            DbError::Unavailable(error.to_string())
        })?;
        #[cfg(feature = "dev")]
        let conn = counting(conn, &self.crash);
        Ok(conn)
    }
}

/// A connection of its own. Once it has failed it is to be thrown away: nobody knows what it is waiting for.
pub struct Own {
    conn: Conn,
    answer_within: Duration,
}

impl Own {
    /// Runs `work` on it without opening a transaction.
    pub async fn read<T, F>(&mut self, work: F) -> Result<T, DbError>
    where
        F: for<'r> AsyncFnOnce(&'r mut Conn) -> Result<T, DbError>
            + for<'r> SendWork<&'r mut Conn, Result<T, DbError>>
            + Send,
        T: Send,
    {
        let (limit, conn) = (self.answer_within, &mut self.conn);
        let ended = locks::with_connection(Box::pin(async { tokio::time::timeout(limit, work(conn)).await })).await;
        ended.unwrap_or_else(|_| Err(no_answer(limit)))
    }
}

/// The pool drops the connection instead of handing it out again.
fn give_up(conn: &mut Conn) {
    AnsiTransactionManager::transaction_manager_status_mut(conn).set_in_error();
}

fn no_answer(within: Duration) -> DbError {
    DbError::Unavailable(format!("no answer within {within:?}"))
}

/// Lets the crash switch count this connection's statements, if it wants to.
#[cfg(feature = "dev")]
fn counting<'a>(mut conn: bb8::PooledConnection<'a, Conn>, crash: &CrashSwitch) -> bb8::PooledConnection<'a, Conn> {
    if crash.counts_statements() {
        conn.set_instrumentation(statements::Watch::counting(crash.clone()));
    }
    conn
}

/// Counts whoever waits for a connection, also if that one gives up.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets no statement of this transaction run for longer than `limit`.
pub async fn limit_statements(conn: &Conn, limit: Duration) -> Result<(), DbError> {
    use diesel_async::SimpleAsyncConnection as _;
    (&mut &*conn).batch_execute(&format!("set local statement_timeout = {}", limit.as_millis())).await?;
    Ok(())
}

/// The database's clock, as a point in time of its own type.
type Now = diesel::dsl::AsExprOf<diesel::dsl::now, diesel::sql_types::Timestamptz>;

/// The moment `wait` from now, by the database's clock.
#[must_use]
pub fn later(wait: Duration) -> <Now as std::ops::Add<diesel::data_types::PgInterval>>::Output {
    use diesel::IntoSql;
    diesel::dsl::now.into_sql::<diesel::sql_types::Timestamptz>() + in_future(wait)
}

/// `duration` as whole seconds and microseconds for an SQL interval, never negative.
#[must_use]
pub fn in_future(duration: Duration) -> diesel::data_types::PgInterval {
    let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    diesel::data_types::PgInterval::from_microseconds(micros)
}

/// The latest time that an id can carry, in milliseconds: the year 10889.
const ID_MILLIS_MAX: u64 = (1 << 48) - 1;

/// The smallest id made at `time`: ids carry their time in front, so a range of time is a range of ids.
#[must_use]
pub fn first_id_at(time: chrono::DateTime<chrono::Utc>) -> uuid::Uuid {
    let millis = u64::try_from(time.timestamp_millis()).unwrap_or(0).min(ID_MILLIS_MAX);
    uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: DatabaseErrorKind, words: &str) -> DbError {
        DieselError::DatabaseError(kind, Box::new(words.to_owned())).into()
    }

    #[test]
    fn ids_follow_time_as_far_as_they_can() {
        let at = |seconds| chrono::DateTime::from_timestamp(seconds, 0).expect("a time");
        let ids =
            [-1, 0, 1_700_000_000, 281_474_976_710, 281_474_976_711, 8_000_000_000_000].map(|s| first_id_at(at(s)));
        assert!(ids.is_sorted(), "{ids:?}");
    }

    #[test]
    fn a_server_that_takes_no_changes_is_not_available() {
        for words in [
            "could not extend file \"base/16384/16512\": No space left on device",
            "could not write to file \"pg_wal/xlogtemp.4711\": No space left on device",
            "could not open file \"base/16384/16512\": Read-only file system",
            "could not read block 7 in file \"base/16384/16512\": Input/output error",
        ] {
            assert!(matches!(told(DatabaseErrorKind::Unknown, words), DbError::Unavailable(_)), "{words}");
        }
        let standby = told(DatabaseErrorKind::ReadOnlyTransaction, "cannot execute INSERT in a read-only transaction");
        assert!(matches!(standby, DbError::Unavailable(_)), "{standby}");
        let mistake = told(DatabaseErrorKind::Unknown, "column \"amuont\" does not exist");
        assert!(matches!(mistake, DbError::Query(_)), "{mistake}");
    }
}
