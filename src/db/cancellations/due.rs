//! What recovery does with a cancellation: takes it, puts it off, or starts another attempt.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::CancellationRow;
use crate::db::locks::{self, Rank};
use crate::db::prepared::Prepare as _;
use crate::db::schema::cancellations;
use crate::db::{Conn, DbError, later};
use crate::domain::cancellation::CancellationStatus;
use crate::domain::evidence::DoubtReason;
use crate::domain::ids::{CancellationId, PaymentId};

/// Plans the next step of an undecided cancellation without an event.
pub async fn postpone(
    conn: &Conn,
    id: CancellationId,
    wait: Duration,
    doubt: Option<DoubtReason>,
    not_found_count: i32,
) -> Result<(), DbError> {
    locks::takes(Rank::Cancellation, id.uuid());
    diesel::update(cancellations::table.find(id))
        .filter(cancellations::status.eq(CancellationStatus::Requested))
        .set((
            cancellations::inquire_at.eq(later(wait).nullable()),
            cancellations::lease_until.eq(None::<DateTime<Utc>>),
            cancellations::inquiries.eq(cancellations::inquiries + 1),
            cancellations::not_found_count.eq(not_found_count),
            doubt.map(|doubt| cancellations::doubt.eq(doubt)),
        ))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Plans the next step of an undecided cancellation that could not be taken: no try is counted.
pub async fn put_off(conn: &Conn, id: CancellationId, wait: Duration) -> Result<(), DbError> {
    locks::takes(Rank::Cancellation, id.uuid());
    diesel::update(cancellations::table.find(id))
        .filter(cancellations::inquire_at.is_not_null())
        .set((
            cancellations::inquire_at.eq(later(wait).nullable()),
            cancellations::lease_until.eq(None::<DateTime<Utc>>),
        ))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// A new idempotency key for the same cancellation, after an inquiry has shown that the old one is spent for nothing.
pub async fn next_attempt(
    conn: &Conn,
    id: CancellationId,
    lease: Duration,
) -> Result<Option<CancellationRow>, DbError> {
    locks::takes(Rank::Cancellation, id.uuid());
    let row = diesel::update(cancellations::table.find(id))
        .filter(cancellations::status.eq(CancellationStatus::Requested))
        .set((
            cancellations::attempt.eq(cancellations::attempt + 1),
            cancellations::inquire_at.eq(later(lease).nullable()),
            cancellations::updated_at.eq(now),
        ))
        .returning(CancellationRow::as_returning())
        .prepared()
        .get_result(&mut &*conn)
        .await
        .optional()?;
    Ok(row)
}

/// A new idempotency key for the open cancellation of a payment that has changed: the old one stands for a request that
/// names another balance. The payment must be locked already.
pub async fn renew_key(conn: &Conn, payment: PaymentId) -> Result<(), DbError> {
    // The payment is locked, so what is open stays open.
    let Some(open) = super::open_of(conn, payment).await? else { return Ok(()) };
    locks::takes(Rank::Cancellation, open.id.uuid());
    diesel::update(cancellations::table.find(open.id))
        .set((cancellations::attempt.eq(cancellations::attempt + 1), cancellations::updated_at.eq(now)))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Leases up to `limit_rows` cancellations whose next step is due.
pub async fn lease_due(conn: &Conn, lease: Duration, limit_rows: i64) -> Result<Vec<CancellationRow>, DbError> {
    let due: Vec<uuid::Uuid> = cancellations::table
        .filter(cancellations::inquire_at.le(now))
        .filter(cancellations::lease_until.is_null().or(cancellations::lease_until.lt(now)))
        .select(cancellations::id)
        .order(cancellations::inquire_at)
        .limit(limit_rows)
        .for_update()
        .skip_locked()
        .load(&mut &*conn)
        .await?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    locks::took_free(Rank::Cancellation, due.iter().copied());
    let rows = diesel::update(cancellations::table.filter(cancellations::id.eq_any(due)))
        .set(cancellations::lease_until.eq(later(lease).nullable()))
        .returning(CancellationRow::as_returning())
        .prepared()
        .get_results(&mut &*conn)
        .await?;
    Ok(rows)
}

/// Leases a payment's open cancellation whatever its time, if no worker has it and its first request is over.
pub async fn lease_open(conn: &Conn, payment: PaymentId, lease: Duration) -> Result<Option<CancellationRow>, DbError> {
    locks::takes(Rank::Cancellation, uuid::Uuid::nil());
    let row = diesel::update(cancellations::table)
        .filter(cancellations::payment_id.eq(payment))
        .filter(cancellations::status.eq(CancellationStatus::Requested))
        .filter(cancellations::lease_until.is_null().or(cancellations::lease_until.lt(now)))
        .filter(cancellations::doubt.is_not_null().or(cancellations::inquire_at.le(now)))
        .set(cancellations::lease_until.eq(later(lease).nullable()))
        .returning(CancellationRow::as_returning())
        .prepared()
        .get_result(&mut &*conn)
        .await
        .optional()?;
    Ok(row)
}

/// Until when a worker has the cancellation in hand, or last had.
pub async fn leased_until(conn: &Conn, id: CancellationId) -> Result<Option<DateTime<Utc>>, DbError> {
    Ok(cancellations::table.find(id).select(cancellations::lease_until).first(&mut &*conn).await?)
}
