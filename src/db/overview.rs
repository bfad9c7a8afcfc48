//! What the gauges show: how much is open, and since when. One process at a time reads it, the one that holds an
//! advisory lock.
//!
//! The lock belongs to a session of its own outside of the pool, and the figures are read on that same session: whoever
//! reads them holds it, and it is free as soon as its holder is gone. Every statement goes by an index over what is open,
//! so that its cost follows the backlog, not the history.

use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text, Timestamptz};
use diesel_async::RunQueryDsl;

use super::{Conn, Db, DbError, Own, reconciliations};
use crate::domain::money::Currency;
use crate::domain::reconciliation::FindingKind;
use crate::telemetry::labels::{Aggregate, CurrencyLabel, ProviderLabel, StatusWord, UnresolvedKind};
use crate::telemetry::record::{Backlog, Overview, Server};

/// The advisory lock of whoever shows the figures: "pg" "ov".
const LOCK: i64 = 0x7067_6f76;

/// How soon the server notices that the holder's machine is gone: its lock is free after some half a minute, not hours.
const KEEPALIVE: &str = "set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3";

/// The right to show the figures, as far as this process has it.
pub struct Lead {
    db: Db,
    session: Option<Own>,
    is_ours: bool,
}

impl Lead {
    /// Has no right yet.
    #[must_use]
    pub const fn new(db: Db) -> Self {
        Self { db, session: None, is_ours: false }
    }

    /// The figures, if this process has the right to show them or can get it; `None` if another one has it.
    ///
    /// # Errors
    /// If the database does not answer. Then the right is given up with the session, for nobody knows which end is gone.
    pub async fn look(&mut self) -> Result<Option<Overview>, DbError> {
        let looked = self.try_look().await;
        if looked.is_err() {
            (self.session, self.is_ours) = (None, false);
        }
        looked
    }

    async fn try_look(&mut self) -> Result<Option<Overview>, DbError> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.db.own(KEEPALIVE).await?,
        };
        let is_ours = self.is_ours || session.read(async |conn| take(conn).await).await?;
        let figures = if is_ours { Some(session.read(async |conn| figures(conn).await).await?) } else { None };
        (self.session, self.is_ours) = (Some(session), is_ours);
        Ok(figures)
    }
}

async fn take(conn: &Conn) -> Result<bool, DbError> {
    Ok(diesel::select(sql::<Bool>("pg_try_advisory_lock(").bind::<BigInt, _>(LOCK).sql(")"))
        .get_result(&mut &*conn)
        .await?)
}

/// Everything, read one after the other. Nothing is shown before all of it is there.
async fn figures(conn: &Conn) -> Result<Overview, DbError> {
    let (unresolved, amounts) = (unresolved(conn).await?, unresolved_amounts(conn).await?);
    let stock = stock(conn).await?;
    let reconciled = reconciliations::all(conn).await?;
    Ok(Overview {
        unresolved,
        unresolved_amounts: amounts,
        in_state: in_state(conn).await?,
        stock_held_units: stock.held_units,
        holds_overdue: Backlog { count: stock.overdue, oldest_at: stock.oldest_at },
        webhooks_pending: webhooks(conn).await?,
        findings: findings(conn).await?,
        reconciled: reconciled.into_iter().map(|(name, until)| (ProviderLabel::of(&name), until)).collect(),
        idempotency_oldest_at: idempotency(conn).await?,
        server: server(conn).await?,
    })
}

/// How many there are of something, and since when the oldest.
#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = Text)]
    aggregate: String,
    #[diesel(sql_type = Text)]
    word: String,
    #[diesel(sql_type = BigInt)]
    count: i64,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    oldest_at: Option<DateTime<Utc>>,
}

impl Counted {
    const fn backlog(&self) -> Backlog {
        Backlog { count: self.count, oldest_at: self.oldest_at }
    }
}

async fn unresolved(conn: &Conn) -> Result<Vec<(UnresolvedKind, Backlog)>, DbError> {
    let rows: Vec<Counted> = diesel::sql_query(
        "select 'payment' as aggregate, 'confirm' as word, count(*) as count, min(confirm_started_at) as oldest_at
         from payments where inquire_at is not null and status = 'confirming'
         union all
         select 'cancellation', 'cancel', count(*), min(created_at)
         from cancellations where inquire_at is not null and status = 'requested'",
    )
    .load(&mut &*conn)
    .await?;
    Ok(rows.iter().filter_map(|row| Some((UnresolvedKind::parse(&row.word)?, row.backlog()))).collect())
}

#[derive(QueryableByName)]
struct AtRisk {
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    currency: String,
    #[diesel(sql_type = BigInt)]
    amount: i64,
}

async fn unresolved_amounts(conn: &Conn) -> Result<Vec<(UnresolvedKind, CurrencyLabel, i64)>, DbError> {
    let rows: Vec<AtRisk> = diesel::sql_query(
        "select 'confirm' as kind, currency, sum(amount)::bigint as amount
         from payments where inquire_at is not null and status = 'confirming' group by currency
         union all
         select 'cancel', p.currency, sum(c.amount)::bigint
         from cancellations c join payments p on p.id = c.payment_id
         where c.inquire_at is not null and c.status = 'requested' group by p.currency",
    )
    .load(&mut &*conn)
    .await?;
    let currency = |row: &AtRisk| Currency::parse(&row.currency).map_or(CurrencyLabel::Other, CurrencyLabel::from);
    Ok(rows.iter().filter_map(|row| Some((UnresolvedKind::parse(&row.kind)?, currency(row), row.amount))).collect())
}

/// Where a row's columns do not tell since when it stands where it does, the history does; of those there are few.
async fn in_state(conn: &Conn) -> Result<Vec<(Aggregate, StatusWord, Backlog)>, DbError> {
    let rows: Vec<Counted> = diesel::sql_query(
        "select 'order' as aggregate, status as word, count(*) as count, min(updated_at) as oldest_at
         from orders where status in ('pending', 'awaiting_deposit') group by status
         union all
         select 'order', 'confirming', count(*), min(since.at) from orders o cross join lateral (
             select max(e.occurred_at) as at from events e
             where e.order_id = o.id and e.aggregate = 'order' and e.aggregate_id = o.id
                 and e.to_status = 'confirming' and e.from_status is distinct from 'confirming') since
         where o.status = 'confirming'
         union all
         select 'payment', 'confirming', count(*), min(confirm_started_at) from payments where status = 'confirming'
         union all
         select 'payment', 'awaiting_deposit', count(*), min(updated_at) from payments
         where status = 'awaiting_deposit'
         union all
         select 'payment', 'reversing', count(*), min(since.at) from payments p cross join lateral (
             select max(e.occurred_at) as at from events e
             where e.order_id = p.order_id and e.aggregate = 'payment' and e.aggregate_id = p.id
                 and e.to_status = 'reversing' and e.from_status is distinct from 'reversing') since
         where p.status = 'reversing'
         union all
         select 'cancellation', 'requested', count(*), min(created_at) from cancellations where status = 'requested'",
    )
    .load(&mut &*conn)
    .await?;
    let state = |row: &Counted| Some((Aggregate::parse(&row.aggregate)?, StatusWord::parse(&row.word)?, row.backlog()));
    Ok(rows.iter().filter_map(state).collect())
}

#[derive(QueryableByName)]
struct HeldStock {
    #[diesel(sql_type = BigInt)]
    held_units: i64,
    #[diesel(sql_type = BigInt)]
    overdue: i64,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    oldest_at: Option<DateTime<Utc>>,
}

async fn stock(conn: &Conn) -> Result<HeldStock, DbError> {
    let held = diesel::sql_query(
        "select (select coalesce(sum(i.quantity), 0)::bigint from orders o join order_items i on i.order_id = o.id
                 where o.status in ('pending', 'confirming', 'awaiting_deposit')) as held_units,
             count(*) as overdue, min(hold_expires_at) as oldest_at
         from orders where status = 'pending' and hold_expires_at < now()",
    )
    .get_result(&mut &*conn)
    .await?;
    Ok(held)
}

async fn webhooks(conn: &Conn) -> Result<Backlog, DbError> {
    let row: Counted = diesel::sql_query(
        "select '' as aggregate, '' as word, count(*) as count, min(next_at) as oldest_at
         from webhook_inbox where processed_at is null and next_at <= now()",
    )
    .get_result(&mut &*conn)
    .await?;
    Ok(row.backlog())
}

async fn findings(conn: &Conn) -> Result<Vec<(FindingKind, Backlog)>, DbError> {
    let rows: Vec<Counted> = diesel::sql_query(
        "select '' as aggregate, kind as word, count(*) as count, min(first_seen_at) as oldest_at
         from findings where status in ('open', 'waiting') group by kind",
    )
    .load(&mut &*conn)
    .await?;
    Ok(rows.iter().filter_map(|row| Some((FindingKind::parse(&row.word)?, row.backlog()))).collect())
}

async fn idempotency(conn: &Conn) -> Result<Option<DateTime<Utc>>, DbError> {
    use super::schema::idempotency_keys::dsl::{created_at, idempotency_keys, status};
    let open = idempotency_keys.filter(status.eq("in_progress"));
    Ok(open.select(diesel::dsl::min(created_at)).first(&mut &*conn).await?)
}

#[derive(QueryableByName)]
struct Sessions {
    #[diesel(sql_type = BigInt)]
    blocked: i64,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    oldest_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = BigInt)]
    connections: i64,
    #[diesel(sql_type = Integer)]
    connections_max: i32,
}

/// Of this database, but the connections, which all databases of the server share. Another role's sessions show their
/// waits only to members of `pg_read_all_stats`.
async fn server(conn: &Conn) -> Result<Server, DbError> {
    let row: Sessions = diesel::sql_query(
        "select count(*) filter (where datname = current_database() and wait_event_type = 'Lock') as blocked,
             min(xact_start) filter (where datname = current_database() and pid <> pg_backend_pid()) as oldest_at,
             count(*) as connections, current_setting('max_connections')::int as connections_max
         from pg_stat_activity where backend_type = 'client backend'",
    )
    .get_result(&mut &*conn)
    .await?;
    Ok(Server {
        blocked_sessions: row.blocked,
        oldest_transaction_at: row.oldest_at,
        connections: row.connections,
        connections_max: i64::from(row.connections_max),
    })
}

/// Answers if the database does.
pub async fn ping(conn: &Conn) -> Result<(), DbError> {
    diesel::sql_query("select 1").execute(&mut &*conn).await?;
    Ok(())
}
