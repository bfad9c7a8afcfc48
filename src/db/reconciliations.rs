//! How far each PG's books were compared with ours, and what our books have in a span of time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::locks::{self, Rank};
use super::prepared::Prepare as _;
use super::schema::{cancellations, payments, reconciliations};
use super::{Conn, DbError, later};
use crate::domain::cancellation::CancellationStatus;
use crate::domain::evidence::PaymentKey;
use crate::domain::ids::PaymentId;
use crate::domain::reconciliation::{Given, Window};

/// What a run of the comparison works from.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Names the run, so that a later one can tell whose lease it is.
    pub owner: Uuid,
    /// Up to when everything was compared before, if anything was.
    pub reconciled_until: Option<DateTime<Utc>>,
}

/// When a run wants its turn.
#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    /// Now: a person asked.
    Now,
    /// When it is due. A PG that was never compared is due one interval from now.
    WhenDue {
        /// The interval.
        every: Duration,
    },
}

/// Takes the turn of comparing with this PG; `None` if another run has it, or none is due.
pub async fn begin(conn: &Conn, provider: &str, wanted: Wanted, lease: Duration) -> Result<Option<Turn>, DbError> {
    locks::takes(Rank::Turn, Uuid::nil());
    let first = match wanted {
        Wanted::Now => Duration::ZERO,
        Wanted::WhenDue { every } => every,
    };
    diesel::insert_into(reconciliations::table)
        .values((reconciliations::provider.eq(provider), reconciliations::next_run_at.eq(later(first))))
        .on_conflict_do_nothing()
        .execute(&mut &*conn)
        .await?;
    let owner = Uuid::now_v7();
    let free = reconciliations::lease_until.is_null().or(reconciliations::lease_until.lt(now));
    let mut due = diesel::update(reconciliations::table.find(provider)).into_boxed().filter(free);
    if let Wanted::WhenDue { .. } = wanted {
        due = due.filter(reconciliations::next_run_at.le(now));
    }
    let until: Option<Option<DateTime<Utc>>> = due
        .set((reconciliations::lease_owner.eq(owner), reconciliations::lease_until.eq(later(lease).nullable())))
        .returning(reconciliations::reconciled_until)
        .get_result(&mut &*conn)
        .await
        .optional()?;
    Ok(until.map(|reconciled_until| Turn { owner, reconciled_until }))
}

/// Keeps the turn for another `lease`; `false` if another run has taken it.
pub async fn renew(conn: &Conn, provider: &str, owner: Uuid, lease: Duration) -> Result<bool, DbError> {
    locks::takes(Rank::Turn, Uuid::nil());
    let kept = diesel::update(reconciliations::table.find(provider))
        .filter(reconciliations::lease_owner.eq(owner))
        .set(reconciliations::lease_until.eq(later(lease).nullable()))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(kept == 1)
}

/// Gives the turn back. `until` is how far everything is compared now; it never goes back.
pub async fn end(
    conn: &Conn,
    provider: &str,
    owner: Uuid,
    until: Option<DateTime<Utc>>,
    next_in: Duration,
) -> Result<(), DbError> {
    locks::takes(Rank::Turn, Uuid::nil());
    let own = diesel::update(reconciliations::table.find(provider)).filter(reconciliations::lease_owner.eq(owner));
    own.set((
        reconciliations::lease_owner.eq(None::<Uuid>),
        reconciliations::lease_until.eq(None::<DateTime<Utc>>),
        reconciliations::next_run_at.eq(later(next_in)),
    ))
    .execute(&mut &*conn)
    .await?;
    let Some(until) = until else { return Ok(()) };
    diesel::update(reconciliations::table.find(provider))
        .filter(reconciliations::reconciled_until.is_null().or(reconciliations::reconciled_until.lt(until)))
        .set(reconciliations::reconciled_until.eq(until))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// How far each PG was compared.
pub async fn all(conn: &Conn) -> Result<Vec<(String, Option<DateTime<Utc>>)>, DbError> {
    let rows = reconciliations::table
        .select((reconciliations::provider, reconciliations::reconciled_until))
        .load(&mut &*conn)
        .await?;
    Ok(rows)
}

/// Something that our books say the PG did.
#[derive(Debug, Clone, Queryable)]
pub struct Booked {
    /// The payment.
    pub payment_id: PaymentId,
    /// The PG's key of it.
    pub payment_key: PaymentKey,
    /// When it was done.
    pub at: Option<DateTime<Utc>>,
    /// Our row, for the next page.
    pub row: Uuid,
    /// The PG's identity of it, where a row of its own must have one.
    pub transaction_key: Option<String>,
}

/// What comes after this row.
pub type After = (DateTime<Utc>, Uuid);

/// Payments whose money was taken in this time, oldest first.
pub async fn approved_in(
    conn: &Conn,
    provider: &str,
    window: Window,
    after: Option<After>,
    limit_rows: i64,
) -> Result<Vec<Booked>, DbError> {
    let mut query = payments::table
        .filter(payments::provider.eq(provider))
        .filter(payments::approved_at.ge(window.from))
        .filter(payments::approved_at.lt(window.end()))
        .select((
            payments::id,
            payments::provider_payment_key,
            payments::approved_at,
            payments::id,
            None::<String>.into_sql::<diesel::sql_types::Nullable<diesel::sql_types::Text>>(),
        ))
        .order((payments::approved_at, payments::id))
        .limit(limit_rows)
        .into_boxed();
    if let Some((at, id)) = after {
        let same = payments::approved_at.eq(at).and(payments::id.gt(id));
        query = query.filter(payments::approved_at.gt(at).or(same));
    }
    Ok(query.load(&mut &*conn).await?)
}

/// Cancellations that were done in this time, oldest first.
pub async fn canceled_in(
    conn: &Conn,
    provider: &str,
    window: Window,
    after: Option<After>,
    limit_rows: i64,
) -> Result<Vec<Booked>, DbError> {
    let mut query = cancellations::table
        .inner_join(payments::table.on(payments::id.eq(cancellations::payment_id)))
        .filter(cancellations::provider.eq(provider))
        .filter(cancellations::status.eq(CancellationStatus::Done))
        .filter(cancellations::canceled_at.ge(window.from))
        .filter(cancellations::canceled_at.lt(window.end()))
        // Closing an account before its deposit moved no money.
        .filter(cancellations::moved_amount.gt(0))
        .select((
            payments::id,
            payments::provider_payment_key,
            cancellations::canceled_at,
            cancellations::id,
            cancellations::provider_transaction_key,
        ))
        .order((cancellations::canceled_at, cancellations::id))
        .limit(limit_rows)
        .into_boxed();
    if let Some((at, id)) = after {
        let same = cancellations::canceled_at.eq(at).and(cancellations::id.gt(id));
        query = query.filter(cancellations::canceled_at.gt(at).or(same));
    }
    Ok(query.load(&mut &*conn).await?)
}

/// The cancels that are done of these payments.
pub async fn given_back(conn: &Conn, payments: &[PaymentId]) -> Result<Vec<(PaymentId, Given)>, DbError> {
    let ids: Vec<Uuid> = payments.iter().map(|id| id.uuid()).collect();
    let rows: Vec<(PaymentId, Option<String>, i64, Option<i64>)> = cancellations::table
        .filter(cancellations::payment_id.eq_any(ids))
        .filter(cancellations::status.eq(CancellationStatus::Done))
        .select((
            cancellations::payment_id,
            cancellations::provider_transaction_key,
            cancellations::amount,
            cancellations::moved_amount,
        ))
        .load(&mut &*conn)
        .await?;
    let given = |(id, key, amount, moved): (PaymentId, Option<String>, i64, Option<i64>)| {
        Some((id, Given { transaction_key: key?, amount, moved: moved? }))
    };
    Ok(rows.into_iter().filter_map(given).collect())
}
