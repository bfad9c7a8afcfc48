//! The webhook inbox: stored first, read later, each delivery counted once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::locks::{self, Rank};
use super::prepared::Prepare as _;
use super::schema::webhook_inbox;
use super::{Conn, DbError, in_future, later};
use crate::domain::ids::DeliveryId;

/// A delivery to store.
#[derive(Insertable)]
#[diesel(table_name = webhook_inbox)]
pub struct NewDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// Which PG.
    pub provider: &'static str,
    /// SHA-256 of the body, in hexadecimal.
    pub dedupe_key: String,
    /// The PG's own id of the transmission, if it sent one.
    pub transmission_id: Option<String>,
    /// The body as it came. Holds personal data: kept only as long as `retention` says.
    pub payload: Vec<u8>,
    /// The request's trace.
    pub trace_id: Option<String>,
}

/// A delivery to work on.
#[derive(Queryable, Selectable)]
#[diesel(table_name = webhook_inbox, check_for_backend(diesel::pg::Pg))]
pub struct DeliveryRow {
    /// Its id.
    pub id: DeliveryId,
    /// Which PG.
    pub provider: String,
    /// The body as it came.
    pub payload: Vec<u8>,
    /// Tries so far.
    pub attempts: i32,
    /// When it came.
    pub received_at: DateTime<Utc>,
    /// The trace it came with.
    pub trace_id: Option<String>,
}

/// Stores a delivery; `false` if the same one is stored already: the trigger `webhook_inbox_once` skips it then.
pub async fn store(conn: &Conn, delivery: NewDelivery) -> Result<bool, DbError> {
    locks::takes(Rank::Delivery, delivery.id.uuid());
    let stored = diesel::insert_into(webhook_inbox::table).values(delivery).execute(&mut &*conn).await?;
    Ok(stored == 1)
}

/// Leases up to `limit_rows` unread deliveries.
pub async fn lease_due(conn: &Conn, lease: Duration, limit_rows: i64) -> Result<Vec<DeliveryRow>, DbError> {
    let due: Vec<uuid::Uuid> = webhook_inbox::table
        .filter(webhook_inbox::processed_at.is_null())
        .filter(webhook_inbox::next_at.le(now))
        .filter(webhook_inbox::lease_until.is_null().or(webhook_inbox::lease_until.lt(now)))
        .select(webhook_inbox::id)
        .order(webhook_inbox::next_at)
        .limit(limit_rows)
        .for_update()
        .skip_locked()
        .load(&mut &*conn)
        .await?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    locks::took_free(Rank::Delivery, due.iter().copied());
    let rows = diesel::update(webhook_inbox::table.filter(webhook_inbox::id.eq_any(due)))
        .set((
            webhook_inbox::lease_until.eq(later(lease).nullable()),
            webhook_inbox::attempts.eq(webhook_inbox::attempts + 1),
        ))
        .returning(DeliveryRow::as_returning())
        .prepared()
        .get_results(&mut &*conn)
        .await?;
    Ok(rows)
}

/// Marks a delivery as read.
pub async fn finish(conn: &Conn, id: DeliveryId, outcome: &str) -> Result<(), DbError> {
    locks::takes(Rank::Delivery, id.uuid());
    diesel::update(webhook_inbox::table.find(id))
        .set((webhook_inbox::processed_at.eq(now), webhook_inbox::outcome.eq(outcome)))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Puts a delivery back for later.
pub async fn postpone(conn: &Conn, id: DeliveryId, wait: Duration) -> Result<(), DbError> {
    locks::takes(Rank::Delivery, id.uuid());
    diesel::update(webhook_inbox::table.find(id))
        .set((webhook_inbox::next_at.eq(later(wait)), webhook_inbox::lease_until.eq(None::<DateTime<Utc>>)))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// A partition of the inbox.
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Forgets read deliveries whose whole week is older than `retention`, wherever they lie, the oldest first; returns how many.
/// For what went with no partition: an unread one holds its week, or there was none. Waits for no lock.
pub async fn delete_left(conn: &Conn, retention: Duration, limit_rows: i64) -> Result<usize, DbError> {
    locks::took_free(Rank::Delivery, []);
    let deleted = diesel::sql_query(
        "delete from webhook_inbox where id = any (array(
             select id from webhook_inbox where processed_at is not null and received_at < now() - $1
             order by received_at limit $2 for update skip locked))",
    )
    .bind::<diesel::sql_types::Interval, _>(in_future(retention + WEEK))
    .bind::<diesel::sql_types::BigInt, _>(limit_rows)
    .execute(&mut &*conn)
    .await?;
    Ok(deleted)
}
