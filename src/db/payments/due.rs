//! What recovery does with a payment: takes it, puts it off, or starts another attempt.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::PaymentRow;
use crate::db::locks::{self, Rank};
use crate::db::prepared::Prepare as _;
use crate::db::schema::payments;
use crate::db::{Conn, DbError, later};
use crate::domain::evidence::DoubtReason;
use crate::domain::ids::PaymentId;
use crate::domain::payment::PaymentStatus;

/// Plans the next inquiry of an undecided payment without an event: only the bookkeeping of waiting changes.
pub async fn postpone(
    conn: &Conn,
    id: PaymentId,
    wait: Duration,
    doubt: Option<DoubtReason>,
    not_found_count: i32,
) -> Result<(), DbError> {
    locks::takes(Rank::Payment, id.uuid());
    diesel::update(payments::table.find(id))
        .filter(
            payments::status
                .eq_any([PaymentStatus::Confirming, PaymentStatus::AwaitingDeposit].map(PaymentStatus::as_str)),
        )
        .set((
            payments::inquire_at.eq(later(wait).nullable()),
            payments::lease_until.eq(None::<DateTime<Utc>>),
            payments::inquiries.eq(payments::inquiries + 1),
            payments::not_found_count.eq(not_found_count),
            doubt.map(|doubt| payments::doubt.eq(doubt)),
        ))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Plans the next inquiry of an undecided payment that nobody could ask about: nothing was learnt, no try is counted.
pub async fn put_off(conn: &Conn, id: PaymentId, wait: Duration) -> Result<(), DbError> {
    locks::takes(Rank::Payment, id.uuid());
    diesel::update(payments::table.find(id))
        .filter(payments::inquire_at.is_not_null())
        .set((payments::inquire_at.eq(later(wait).nullable()), payments::lease_until.eq(None::<DateTime<Utc>>)))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// A new idempotency key for the same confirm, after an inquiry has shown that the old one is spent for nothing.
pub async fn next_attempt(conn: &Conn, id: PaymentId, lease: Duration) -> Result<Option<PaymentRow>, DbError> {
    locks::takes(Rank::Payment, id.uuid());
    let row = diesel::update(payments::table.find(id))
        .filter(payments::status.eq(PaymentStatus::Confirming))
        .set((
            payments::confirm_attempt.eq(payments::confirm_attempt + 1),
            payments::inquire_at.eq(later(lease).nullable()),
            payments::updated_at.eq(now),
        ))
        .returning(PaymentRow::as_returning())
        .prepared()
        .get_result(&mut &*conn)
        .await
        .optional()?;
    Ok(row)
}

/// Leases up to `limit_rows` payments whose inquiry is due, so that no two workers ask for one at a time. The lease
/// is a column, not a lock: nothing is held while the PG is asked.
pub async fn lease_due(conn: &Conn, lease: Duration, limit_rows: i64) -> Result<Vec<PaymentRow>, DbError> {
    let due: Vec<uuid::Uuid> = payments::table
        .filter(payments::inquire_at.le(now))
        .filter(payments::lease_until.is_null().or(payments::lease_until.lt(now)))
        .select(payments::id)
        .order(payments::inquire_at)
        .limit(limit_rows)
        .for_update()
        .skip_locked()
        .load(&mut &*conn)
        .await?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    locks::took_free(Rank::Payment, due.iter().copied());
    let rows = diesel::update(payments::table.filter(payments::id.eq_any(due)))
        .set(payments::lease_until.eq(later(lease).nullable()))
        .returning(PaymentRow::as_returning())
        .prepared()
        .get_results(&mut &*conn)
        .await?;
    Ok(rows)
}

/// Leases one payment whatever its time, if it is open, no worker has it, and its first request is over.
pub async fn lease_open(conn: &Conn, id: PaymentId, lease: Duration) -> Result<Option<PaymentRow>, DbError> {
    locks::takes(Rank::Payment, id.uuid());
    let request_over = payments::doubt
        .is_not_null()
        .or(payments::inquire_at.le(now))
        .or(payments::status.eq(PaymentStatus::AwaitingDeposit));
    let row = diesel::update(payments::table.find(id))
        .filter(payments::inquire_at.is_not_null())
        .filter(payments::lease_until.is_null().or(payments::lease_until.lt(now)))
        .filter(request_over)
        .set(payments::lease_until.eq(later(lease).nullable()))
        .returning(PaymentRow::as_returning())
        .prepared()
        .get_result(&mut &*conn)
        .await
        .optional()?;
    Ok(row)
}

/// Until when a worker has the payment in hand, or last had.
pub async fn leased_until(conn: &Conn, id: PaymentId) -> Result<Option<DateTime<Utc>>, DbError> {
    Ok(payments::table.find(id).select(payments::lease_until).first(&mut &*conn).await?)
}
