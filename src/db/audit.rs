//! The auditor's statements: judging rows by a rule, what changed, what is proven, and who audits.
//!
//! Each judgement is one statement, so it sees one moment of the database, and every transaction of the program leaves
//! the rules true: what a rule finds is never something half done. None of them writes to or locks a row of the books.

mod progress;
mod rules;

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Interval, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use uuid::Uuid;

pub use self::progress::{
    ChangedRound, FullRun, ProgressRow, Watermark, all as all_progress, lease, record_changed, record_full, release,
};
use super::{Conn, DbError, first_id_at, in_future};
use crate::domain::audit::{AuditReach, AuditRule};

/// The most subjects that a verdict lists, and that are looked at again until they are right.
pub const SUBJECTS_MAX: usize = 1_000;

/// Which rows a rule judges.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Those of these ids.
    Of(&'a [Uuid]),
    /// Those of a range of ids, both ends included.
    Between(Uuid, Uuid),
    /// All of them.
    All,
}

/// What a rule found.
#[derive(Debug, Clone, Default, QueryableByName)]
pub struct Verdict {
    /// Rows judged.
    #[diesel(sql_type = BigInt)]
    pub rows_checked: i64,
    /// Rows that break the rule.
    #[diesel(sql_type = BigInt)]
    pub broken: i64,
    /// The first of them, by name.
    #[diesel(sql_type = Array<Text>)]
    pub ids: Vec<String>,
    /// By which ids they are found again.
    #[diesel(sql_type = Array<SqlUuid>)]
    pub subjects: Vec<Uuid>,
    /// Since when the oldest of them is stuck.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub oldest_at: Option<DateTime<Utc>>,
}

/// Makes this transaction one that can only read, and whose statements may each run for `limit`, on one processor: the
/// others are for those who buy. To be called first.
pub async fn only_read(conn: &Conn, limit: Duration) -> Result<(), DbError> {
    let settings = format!(
        "set transaction read only;
         set local statement_timeout = {};
         set local max_parallel_workers_per_gather = 0",
        limit.as_millis()
    );
    (&mut &*conn).batch_execute(&settings).await?;
    Ok(())
}

/// Judges rows by a rule. `steps` are the legal steps of a history, `age` is when something counts as stuck.
pub async fn judge(
    conn: &Conn,
    rule: AuditRule,
    rows: Rows<'_>,
    steps: &[String],
    age: Duration,
) -> Result<Verdict, DbError> {
    let (ids, first, last): (&[Uuid], Uuid, Uuid) = match rows {
        Rows::Of(ids) => (ids, Uuid::nil(), Uuid::nil()),
        Rows::Between(first, last) => (&[], first, last),
        Rows::All => (&[], Uuid::nil(), Uuid::nil()),
    };
    let verdict = diesel::sql_query(rules::statement(rule, &rows))
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<SqlUuid, _>(first)
        .bind::<SqlUuid, _>(last)
        .bind::<Array<Text>, _>(steps)
        .bind::<Interval, _>(in_future(age))
        .get_result(&mut &*conn)
        .await?;
    Ok(verdict)
}

/// The id that the page after the one from `first` on begins with; `None` if there is no page after it.
pub async fn next_page(conn: &Conn, reach: AuditReach, first: Uuid, page_rows: i64) -> Result<Option<Uuid>, DbError> {
    #[derive(QueryableByName)]
    struct Next {
        #[diesel(sql_type = SqlUuid)]
        id: Uuid,
    }
    let (table, column) = match reach {
        AuditReach::Orders => ("orders", "id"),
        AuditReach::Products => ("products", "id"),
        AuditReach::Resources => ("idempotency_keys", "resource_id"),
        AuditReach::Deliveries => ("webhook_inbox", "id"),
        AuditReach::Everything => return Ok(None),
    };
    let statement =
        format!("select {column} as id from {table} where {column} > $1 order by {column} offset $2 limit 1");
    let query = diesel::sql_query(statement).bind::<SqlUuid, _>(first).bind::<BigInt, _>(page_rows);
    Ok(query.get_result::<Next>(&mut &*conn).await.optional()?.map(|next| next.id))
}

/// The database at one moment.
#[derive(Debug, Clone, QueryableByName)]
pub struct Moment {
    /// When: whatever was committed before is in it.
    #[diesel(sql_type = Timestamptz)]
    pub taken_at: DateTime<Utc>,
    /// The highest number of an event in it, or 0.
    #[diesel(sql_type = BigInt)]
    pub newest_event: i64,
    /// Every transaction below this number had ended.
    #[diesel(sql_type = BigInt)]
    pub oldest_transaction: i64,
}

/// Looks at the clock, the events and the transactions under way, all in one snapshot.
pub async fn moment(conn: &Conn) -> Result<Moment, DbError> {
    let moment = diesel::sql_query(
        "select statement_timestamp() as taken_at, coalesce((select max(id) from events), 0) as newest_event,
             pg_snapshot_xmin(pg_current_snapshot())::text::bigint as oldest_transaction",
    )
    .get_result(&mut &*conn)
    .await?;
    Ok(moment)
}

/// The number of this very transaction: whatever had begun to write before has a lower one. The upper end of a snapshot
/// would not do, because transactions under way can be above it.
pub async fn own_transaction(conn: &Conn) -> Result<i64, DbError> {
    #[derive(QueryableByName)]
    struct Own {
        #[diesel(sql_type = BigInt)]
        number: i64,
    }
    let query = diesel::sql_query("select pg_current_xact_id()::text::bigint as number");
    Ok(query.get_result::<Own>(&mut &*conn).await?.number)
}

/// A batch of events.
#[derive(Debug, QueryableByName)]
pub struct Batch {
    /// How many.
    #[diesel(sql_type = BigInt)]
    pub events: i64,
    /// The number of the last one, or 0.
    #[diesel(sql_type = BigInt)]
    pub last: i64,
    /// The orders that they name, each once.
    #[diesel(sql_type = Array<SqlUuid>)]
    pub orders: Vec<Uuid>,
}

/// The next events after `after` and up to `until`, which is looked at last: with both ends PostgreSQL would take the events in
/// between for few, and read all of them for the first ones.
pub async fn changed_orders(conn: &Conn, after: i64, until: i64, limit_rows: i64) -> Result<Batch, DbError> {
    let batch = diesel::sql_query(
        "select count(*) as events, coalesce(max(id), 0) as last,
             coalesce(array_agg(distinct order_id), '{}') as orders
         from (select id, order_id from events where id > $1 order by id limit $3) e where id <= $2",
    )
    .bind::<BigInt, _>(after)
    .bind::<BigInt, _>(until)
    .bind::<BigInt, _>(limit_rows)
    .get_result(&mut &*conn)
    .await?;
    Ok(batch)
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

/// The products that these orders took stock of.
pub async fn products_of(conn: &Conn, orders: &[Uuid]) -> Result<Vec<Uuid>, DbError> {
    let query = "select distinct product_id as id from order_items where order_id = any ($1)";
    let found = diesel::sql_query(query).bind::<Array<SqlUuid>, _>(orders).load::<Found>(&mut &*conn).await?;
    Ok(found.into_iter().map(|found| found.id).collect())
}

/// The products whose stock was adjusted since.
pub async fn products_adjusted_since(conn: &Conn, since: DateTime<Utc>) -> Result<Vec<Uuid>, DbError> {
    let query = "select distinct product_id as id from stock_adjustments where id >= $1";
    let found = diesel::sql_query(query).bind::<SqlUuid, _>(first_id_at(since)).load::<Found>(&mut &*conn).await?;
    Ok(found.into_iter().map(|found| found.id).collect())
}

/// What idempotency keys can stand for: these orders, their payments and cancellations.
pub async fn resources_of(conn: &Conn, orders: &[Uuid]) -> Result<Vec<Uuid>, DbError> {
    let query = "select id from unnest($1) id
         union all select p.id from payments p where p.order_id = any ($1)
         union all select c.id from cancellations c where c.order_id = any ($1)";
    let found = diesel::sql_query(query).bind::<Array<SqlUuid>, _>(orders).load::<Found>(&mut &*conn).await?;
    Ok(found.into_iter().map(|found| found.id).collect())
}
