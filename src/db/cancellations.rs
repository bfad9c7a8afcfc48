//! Cancellations and the units they give back.

mod ahead;
mod due;

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel::upsert::excluded;
use diesel_async::RunQueryDsl;

pub use self::ahead::{finish, write, write_unit};
pub use self::due::{lease_due, lease_open, leased_until, next_attempt, postpone, put_off, renew_key};
use super::locks::{self, Rank};
use super::prepared::Prepare as _;
use super::schema::{cancellation_items, cancellations};
use super::{Conn, DbError, later};
use crate::domain::cancellation::{CancellationOrigin, CancellationStatus};
use crate::domain::evidence::{DoubtReason, PgCancel, Refusal, RefusalClass};
use crate::domain::ids::{CancellationId, OrderId, PaymentId};
use crate::domain::stock::LineQuantity;

/// A cancellation as stored.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = cancellations, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are explained in the migration")]
pub struct CancellationRow {
    pub id: CancellationId,
    pub payment_id: PaymentId,
    pub order_id: OrderId,
    pub amount: i64,
    pub reason: String,
    pub status: CancellationStatus,
    pub origin: CancellationOrigin,
    pub attempt: i32,
    pub needs_account: bool,
    pub refusal_class: Option<RefusalClass>,
    pub refusal_code: Option<String>,
    pub doubt: Option<DoubtReason>,
    pub inquire_at: Option<DateTime<Utc>>,
    pub inquiries: i32,
    pub not_found_count: i32,
    pub canceled_at: Option<DateTime<Utc>>,
    pub trace_id: Option<String>,
    pub version: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl CancellationRow {
    /// The PG's idempotency key of the current try.
    #[must_use]
    pub fn cancel_key(&self) -> String {
        format!("{}:{}", self.id, self.attempt)
    }
}

/// A cancellation about to be requested.
#[derive(Debug, Clone)]
pub struct NewCancellation {
    /// Its id.
    pub id: CancellationId,
    /// The payment it takes from.
    pub payment_id: PaymentId,
    /// That payment's order.
    pub order_id: OrderId,
    /// Which PG.
    pub provider: String,
    /// Minor units.
    pub amount: i64,
    /// The shop's reason.
    pub reason: String,
    /// Why it exists.
    pub origin: CancellationOrigin,
    /// Whether it can only be sent with a refund account.
    pub needs_account: bool,
    /// Units to give back once it is done.
    pub units: Vec<LineQuantity>,
    /// When recovery takes over.
    pub recover_after: Duration,
    /// The request's trace.
    pub trace_id: Option<String>,
}

/// A cancellation as it is written first.
#[derive(Insertable)]
#[diesel(table_name = cancellations, treat_none_as_default_value = false)]
struct Intent<'a> {
    id: CancellationId,
    payment_id: PaymentId,
    order_id: OrderId,
    provider: &'a str,
    amount: i64,
    reason: &'a str,
    status: CancellationStatus,
    origin: CancellationOrigin,
    needs_account: bool,
    trace_id: Option<&'a str>,
}

impl NewCancellation {
    fn intent(&self) -> Intent<'_> {
        Intent {
            id: self.id,
            payment_id: self.payment_id,
            order_id: self.order_id,
            provider: &self.provider,
            amount: self.amount,
            reason: &self.reason,
            status: CancellationStatus::Requested,
            origin: self.origin,
            needs_account: self.needs_account,
            trace_id: self.trace_id.as_deref(),
        }
    }
}

/// Writes the intent. The payment's and the lines' capacity must have been taken in the same transaction.
pub async fn insert(conn: &Conn, new: NewCancellation) -> Result<CancellationRow, DbError> {
    let row = diesel::insert_into(cancellations::table)
        .values((new.intent(), cancellations::inquire_at.eq(later(new.recover_after).nullable())))
        .returning(CancellationRow::as_returning())
        .get_result(&mut &*conn)
        .await?;
    insert_units(conn, new.id, new.order_id, &new.units).await?;
    Ok(row)
}

/// Records a cancel that was made in the PG's own console. `false` if it is known already.
pub async fn insert_external(conn: &Conn, new: NewCancellation, cancel: &PgCancel) -> Result<bool, DbError> {
    let (id, order_id) = (new.id, new.order_id);
    // The same cancel may be found twice, by two who ask about one payment.
    locks::belongs_to(Rank::Order, order_id.uuid());
    let inserted = diesel::insert_into(cancellations::table)
        .values((
            cancellations::id.eq(id),
            cancellations::payment_id.eq(new.payment_id),
            cancellations::order_id.eq(order_id),
            cancellations::provider.eq(new.provider),
            cancellations::amount.eq(new.amount),
            cancellations::moved_amount.eq(new.amount),
            cancellations::reason.eq(new.reason),
            cancellations::status.eq(CancellationStatus::Done),
            cancellations::origin.eq(CancellationOrigin::External),
            cancellations::provider_transaction_key.eq(&cancel.transaction_key),
            cancellations::canceled_at.eq(cancel.canceled_at.unwrap_or_else(crate::clock::now)),
            cancellations::trace_id.eq(new.trace_id),
        ))
        .on_conflict_do_nothing()
        .execute(&mut &*conn)
        .await?;
    if inserted == 1 {
        insert_units(conn, id, order_id, &new.units).await?;
    }
    Ok(inserted == 1)
}

/// Lets a cancellation give back `units` more.
pub async fn add_units(
    conn: &Conn,
    id: CancellationId,
    order_id: OrderId,
    units: &[LineQuantity],
) -> Result<(), DbError> {
    insert_units(conn, id, order_id, units).await
}

async fn insert_units(
    conn: &Conn,
    id: CancellationId,
    order_id: OrderId,
    units: &[LineQuantity],
) -> Result<(), DbError> {
    if units.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = units
        .iter()
        .map(|unit| {
            (
                cancellation_items::cancellation_id.eq(id),
                cancellation_items::order_id.eq(order_id),
                cancellation_items::line.eq(unit.line),
                cancellation_items::quantity.eq(unit.quantity),
            )
        })
        .collect();
    locks::belongs_to(Rank::Order, order_id.uuid());
    diesel::insert_into(cancellation_items::table)
        .values(rows)
        .on_conflict((cancellation_items::cancellation_id, cancellation_items::line))
        .do_update()
        .set(cancellation_items::quantity.eq(cancellation_items::quantity + excluded(cancellation_items::quantity)))
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// The cancellation, without locking it.
pub async fn find(conn: &Conn, id: CancellationId) -> Result<Option<CancellationRow>, DbError> {
    Ok(cancellations::table.find(id).select(CancellationRow::as_select()).first(&mut &*conn).await.optional()?)
}

/// The cancellation, locked. Its order and payment must be locked already.
pub async fn lock(conn: &Conn, id: CancellationId) -> Result<Option<CancellationRow>, DbError> {
    locks::takes(Rank::Cancellation, id.uuid());
    let row = cancellations::table
        .find(id)
        .select(CancellationRow::as_select())
        .for_update()
        .first(&mut &*conn)
        .await
        .optional()?;
    Ok(row)
}

/// The units a cancellation gives back.
pub async fn units(conn: &Conn, id: CancellationId) -> Result<Vec<LineQuantity>, DbError> {
    let rows: Vec<(i32, i32)> = cancellation_items::table
        .filter(cancellation_items::cancellation_id.eq(id))
        .select((cancellation_items::line, cancellation_items::quantity))
        .order(cancellation_items::line)
        .load(&mut &*conn)
        .await?;
    Ok(rows.into_iter().map(|(line, quantity)| LineQuantity { line, quantity }).collect())
}

/// The cancellations of a payment without their units, oldest first.
pub async fn of_payment(conn: &Conn, payment: PaymentId) -> Result<Vec<CancellationRow>, DbError> {
    let rows = cancellations::table
        .filter(cancellations::payment_id.eq(payment))
        .select(CancellationRow::as_select())
        .order(cancellations::id)
        .load(&mut &*conn)
        .await?;
    Ok(rows)
}

/// All cancellations of these payments with their units, oldest first.
pub async fn of_payments(
    conn: &Conn,
    payments: &[PaymentId],
) -> Result<Vec<(CancellationRow, Vec<LineQuantity>)>, DbError> {
    let ids: Vec<uuid::Uuid> = payments.iter().map(|id| id.uuid()).collect();
    let rows: Vec<CancellationRow> = cancellations::table
        .filter(cancellations::payment_id.eq_any(ids))
        .select(CancellationRow::as_select())
        .order(cancellations::id)
        .load(&mut &*conn)
        .await?;
    let ids: Vec<uuid::Uuid> = rows.iter().map(|row| row.id.uuid()).collect();
    let units: Vec<(CancellationId, i32, i32)> = cancellation_items::table
        .filter(cancellation_items::cancellation_id.eq_any(ids))
        .select((cancellation_items::cancellation_id, cancellation_items::line, cancellation_items::quantity))
        .order((cancellation_items::cancellation_id, cancellation_items::line))
        .load(&mut &*conn)
        .await?;
    let with_units = rows.into_iter().map(|row| {
        let own = units.iter().filter(|(id, ..)| *id == row.id);
        let units = own.map(|&(_, line, quantity)| LineQuantity { line, quantity }).collect();
        (row, units)
    });
    Ok(with_units.collect())
}

/// The PG's transaction keys of a payment's decided cancellations.
pub async fn known_transactions(conn: &Conn, payment: PaymentId) -> Result<Vec<String>, DbError> {
    let keys: Vec<Option<String>> = cancellations::table
        .filter(cancellations::payment_id.eq(payment))
        .filter(cancellations::provider_transaction_key.is_not_null())
        .select(cancellations::provider_transaction_key)
        .load(&mut &*conn)
        .await?;
    Ok(keys.into_iter().flatten().collect())
}

/// The payment's undecided cancellation, if there is one.
pub async fn open_of(conn: &Conn, payment: PaymentId) -> Result<Option<CancellationRow>, DbError> {
    let row = cancellations::table
        .filter(cancellations::payment_id.eq(payment))
        .filter(cancellations::status.eq(CancellationStatus::Requested))
        .select(CancellationRow::as_select())
        .first(&mut &*conn)
        .await
        .optional()?;
    Ok(row)
}

/// The newest cancellation of a payment that came from a remembered cancel of its order.
pub async fn newest_wish(conn: &Conn, payment: PaymentId) -> Result<Option<CancellationRow>, DbError> {
    let row = cancellations::table
        .filter(cancellations::payment_id.eq(payment))
        .filter(cancellations::origin.eq(CancellationOrigin::Wish))
        .select(CancellationRow::as_select())
        .order(cancellations::id.desc())
        .first(&mut &*conn)
        .await
        .optional()?;
    Ok(row)
}

/// Lowers what an undecided cancellation gives back; returns its new version.
pub async fn reduce(conn: &Conn, id: CancellationId, amount: i64) -> Result<i32, DbError> {
    locks::takes(Rank::Cancellation, id.uuid());
    let version = diesel::update(cancellations::table.find(id))
        .set((
            cancellations::amount.eq(amount),
            cancellations::version.eq(cancellations::version + 1),
            cancellations::updated_at.eq(now),
        ))
        .returning(cancellations::version)
        .prepared()
        .get_result(&mut &*conn)
        .await?;
    Ok(version)
}

/// `requested → done`, with what really went back; returns the new row.
pub async fn set_done(
    conn: &Conn,
    id: CancellationId,
    cancel: &PgCancel,
    moved_amount: i64,
) -> Result<CancellationRow, DbError> {
    locks::takes(Rank::Cancellation, id.uuid());
    let row = diesel::update(cancellations::table.find(id))
        .set((
            cancellations::status.eq(CancellationStatus::Done),
            cancellations::moved_amount.eq(moved_amount),
            cancellations::provider_transaction_key.eq(&cancel.transaction_key),
            cancellations::canceled_at.eq(cancel.canceled_at.unwrap_or_else(crate::clock::now)),
            cancellations::doubt.eq(None::<DoubtReason>),
            cancellations::inquire_at.eq(None::<DateTime<Utc>>),
            cancellations::lease_until.eq(None::<DateTime<Utc>>),
            cancellations::version.eq(cancellations::version + 1),
            cancellations::updated_at.eq(now),
        ))
        .returning(CancellationRow::as_returning())
        .prepared()
        .get_result(&mut &*conn)
        .await?;
    Ok(row)
}

/// `requested → refused`; returns the new row.
pub async fn set_refused(conn: &Conn, id: CancellationId, refusal: &Refusal) -> Result<CancellationRow, DbError> {
    locks::takes(Rank::Cancellation, id.uuid());
    let row = diesel::update(cancellations::table.find(id))
        .set((
            cancellations::status.eq(CancellationStatus::Refused),
            cancellations::refusal_class.eq(refusal.class),
            cancellations::refusal_code.eq(&refusal.code),
            cancellations::doubt.eq(None::<DoubtReason>),
            cancellations::inquire_at.eq(None::<DateTime<Utc>>),
            cancellations::lease_until.eq(None::<DateTime<Utc>>),
            cancellations::version.eq(cancellations::version + 1),
            cancellations::updated_at.eq(now),
        ))
        .returning(CancellationRow::as_returning())
        .prepared()
        .get_result(&mut &*conn)
        .await?;
    Ok(row)
}

/// Records the first doubt about a cancellation as an event-worthy change; returns the new version.
pub async fn set_doubt(conn: &Conn, id: CancellationId, doubt: DoubtReason, wait: Duration) -> Result<i32, DbError> {
    locks::takes(Rank::Cancellation, id.uuid());
    let version = diesel::update(cancellations::table.find(id))
        .set((
            cancellations::doubt.eq(doubt),
            cancellations::inquire_at.eq(later(wait).nullable()),
            cancellations::lease_until.eq(None::<DateTime<Utc>>),
            cancellations::version.eq(cancellations::version + 1),
            cancellations::updated_at.eq(now),
        ))
        .returning(cancellations::version)
        .prepared()
        .get_result(&mut &*conn)
        .await?;
    Ok(version)
}
