//! Findings: what the PG's books and ours disagree on, each once, with its history. No statement here moves money.

use chrono::{DateTime, Utc};
use diesel::dsl::{count_star, max, now};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::events::Origin;
use super::locks::{self, Rank};
use super::prepared::Prepare as _;
use super::schema::{finding_history, findings};
use super::{Conn, DbError};
use crate::domain::evidence::PaymentKey;
use crate::domain::ids::{FindingId, OrderId, PaymentId};
use crate::domain::money::{Currency, Money};
use crate::domain::reconciliation::{FindingKind, FindingStatus};

/// A finding as stored.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = findings, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are explained in the migration")]
pub struct FindingRow {
    pub id: FindingId,
    pub provider: String,
    pub dedupe_key: String,
    pub kind: FindingKind,
    pub status: FindingStatus,
    pub amount: Option<i64>,
    pub currency: Option<Currency>,
    pub provider_payment_key: PaymentKey,
    pub provider_transaction_key: Option<String>,
    pub provider_order_id: String,
    pub payment_id: Option<PaymentId>,
    pub order_id: Option<OrderId>,
    pub reason: String,
    pub trace_id: Option<String>,
    pub occurred_at: Option<DateTime<Utc>>,
    pub first_seen_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub version: i32,
}

/// A difference that was seen.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the columns are explained in the migration")]
pub struct NewFinding {
    pub provider: String,
    pub dedupe_key: String,
    pub kind: FindingKind,
    pub status: FindingStatus,
    pub amount: Option<Money>,
    pub payment_key: PaymentKey,
    pub transaction_key: Option<String>,
    pub provider_order_id: String,
    pub payment_id: Option<PaymentId>,
    pub order_id: Option<OrderId>,
    pub reason: String,
    pub trace_id: Option<String>,
    pub occurred_at: Option<DateTime<Utc>>,
}

/// Files a difference; `true` if it was not known. A known one is only seen again, except that what had counted as
/// repaired is open again.
pub async fn file(conn: &Conn, new: NewFinding, origin: &Origin) -> Result<bool, DbError> {
    locks::takes(Rank::Finding, uuid::Uuid::nil());
    let id = FindingId::new();
    let (dedupe_key, status, reason) = (new.dedupe_key.clone(), new.status, new.reason.clone());
    let inserted = diesel::insert_into(findings::table)
        .values((
            findings::id.eq(id),
            findings::provider.eq(new.provider),
            findings::dedupe_key.eq(new.dedupe_key),
            findings::kind.eq(new.kind),
            findings::status.eq(new.status),
            findings::amount.eq(new.amount.map(|amount| amount.minor)),
            findings::currency.eq(new.amount.map(|amount| amount.currency)),
            findings::provider_payment_key.eq(new.payment_key),
            findings::provider_transaction_key.eq(new.transaction_key),
            findings::provider_order_id.eq(new.provider_order_id),
            findings::payment_id.eq(new.payment_id),
            findings::order_id.eq(new.order_id),
            findings::reason.eq(new.reason),
            findings::trace_id.eq(new.trace_id),
            findings::occurred_at.eq(new.occurred_at),
        ))
        .on_conflict(findings::dedupe_key)
        .do_nothing()
        .execute(&mut &*conn)
        .await?;
    if inserted == 1 {
        note(conn, id, 1, Step { status, reason: &reason }, origin).await?;
        return Ok(true);
    }
    let known = findings::table
        .filter(findings::dedupe_key.eq(&dedupe_key))
        .select(FindingRow::as_select())
        .for_update()
        .first(&mut &*conn)
        .await
        .optional()?;
    let Some(known) = known else { return Ok(false) };
    diesel::update(findings::table.find(known.id))
        .set(findings::last_seen_at.eq(now))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    if known.status == FindingStatus::Repaired {
        move_to(conn, known.id, Step { status, reason: &reason }, origin).await?;
    }
    Ok(false)
}

/// Where a finding goes, and why.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Its next status.
    pub status: FindingStatus,
    /// Why, for a person.
    pub reason: &'a str,
}

/// Moves a locked finding; returns it afterwards.
pub async fn move_to(conn: &Conn, id: FindingId, step: Step<'_>, origin: &Origin) -> Result<FindingRow, DbError> {
    locks::takes(Rank::Finding, id.uuid());
    let row: FindingRow = diesel::update(findings::table.find(id))
        .set((
            findings::status.eq(step.status),
            findings::reason.eq(step.reason),
            findings::version.eq(findings::version + 1),
        ))
        .returning(FindingRow::as_returning())
        .prepared()
        .get_result(&mut &*conn)
        .await?;
    note(conn, id, row.version, step, origin).await?;
    Ok(row)
}

async fn note(conn: &Conn, id: FindingId, seq: i32, step: Step<'_>, origin: &Origin) -> Result<(), DbError> {
    diesel::insert_into(finding_history::table)
        .values((
            finding_history::finding_id.eq(id),
            finding_history::seq.eq(seq),
            finding_history::status.eq(step.status),
            finding_history::reason.eq(step.reason),
            finding_history::actor.eq(&origin.actor),
            finding_history::trace_id.eq(&origin.trace_id),
        ))
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// The finding, locked until the transaction ends.
pub async fn lock(conn: &Conn, id: FindingId) -> Result<Option<FindingRow>, DbError> {
    locks::takes(Rank::Finding, id.uuid());
    Ok(findings::table.find(id).select(FindingRow::as_select()).for_update().first(&mut &*conn).await.optional()?)
}

/// What is not settled about one PG payment, locked. Stock that is kept out waits for a person, whatever the PG says.
pub async fn unsettled_of(conn: &Conn, provider: &str, key: &PaymentKey) -> Result<Vec<FindingRow>, DbError> {
    locks::takes(Rank::Finding, uuid::Uuid::nil());
    let rows = findings::table
        .filter(findings::provider.eq(provider))
        .filter(findings::provider_payment_key.eq(key))
        .filter(findings::status.eq_any([FindingStatus::Open, FindingStatus::Waiting].map(FindingStatus::as_str)))
        .filter(findings::kind.ne(FindingKind::StockHeld))
        .select(FindingRow::as_select())
        .order(findings::id)
        .for_update()
        .load(&mut &*conn)
        .await?;
    Ok(rows)
}

/// The PG payments about which something is not settled, those not looked at for the longest first.
pub async fn unsettled_keys(conn: &Conn, provider: &str, limit_rows: i64) -> Result<Vec<PaymentKey>, DbError> {
    let rows: Vec<(PaymentKey, Option<DateTime<Utc>>)> = findings::table
        .filter(findings::provider.eq(provider))
        .filter(findings::status.eq_any([FindingStatus::Open, FindingStatus::Waiting].map(FindingStatus::as_str)))
        .filter(findings::kind.ne(FindingKind::StockHeld))
        .group_by(findings::provider_payment_key)
        .select((findings::provider_payment_key, max(findings::last_seen_at)))
        .order(max(findings::last_seen_at))
        .limit(limit_rows)
        .load(&mut &*conn)
        .await?;
    Ok(rows.into_iter().map(|(key, _)| key).collect())
}

/// Takes note that these were looked at, and that the payment which they are about is known meanwhile.
pub async fn seen_with(conn: &Conn, id: FindingId, payment: Option<(PaymentId, OrderId)>) -> Result<(), DbError> {
    locks::takes(Rank::Finding, id.uuid());
    diesel::update(findings::table.find(id))
        .set((
            findings::last_seen_at.eq(now),
            payment.map(|(payment, order)| (findings::payment_id.eq(payment), findings::order_id.eq(order))),
        ))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// How many of each kind are not settled.
pub async fn unsettled_counts(conn: &Conn) -> Result<Vec<(FindingKind, i64)>, DbError> {
    let rows = findings::table
        .filter(findings::status.eq_any([FindingStatus::Open, FindingStatus::Waiting].map(FindingStatus::as_str)))
        .group_by(findings::kind)
        .select((findings::kind, count_star()))
        .load(&mut &*conn)
        .await?;
    Ok(rows)
}

/// Which findings to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct FindingFilter {
    /// Only this status.
    pub status: Option<FindingStatus>,
    /// Only this kind.
    pub kind: Option<FindingKind>,
    /// Only those that are not settled.
    pub unsettled: bool,
    /// Older than this finding.
    pub after: Option<FindingId>,
}

/// What was found about one PG payment, newest first.
pub async fn of_payment(conn: &Conn, provider: &str, key: &PaymentKey) -> Result<Vec<FindingRow>, DbError> {
    let rows = findings::table
        .filter(findings::provider.eq(provider))
        .filter(findings::provider_payment_key.eq(key))
        .select(FindingRow::as_select())
        .order(findings::id.desc())
        .load(&mut &*conn)
        .await?;
    Ok(rows)
}

/// A page of findings, newest first.
pub async fn list(conn: &Conn, filter: FindingFilter, limit_rows: i64) -> Result<Vec<FindingRow>, DbError> {
    let mut query =
        findings::table.select(FindingRow::as_select()).order(findings::id.desc()).limit(limit_rows).into_boxed();
    if let Some(status) = filter.status {
        query = query.filter(findings::status.eq(status));
    }
    if filter.unsettled {
        query = query
            .filter(findings::status.eq_any([FindingStatus::Open, FindingStatus::Waiting].map(FindingStatus::as_str)));
    }
    if let Some(kind) = filter.kind {
        query = query.filter(findings::kind.eq(kind));
    }
    if let Some(after) = filter.after {
        query = query.filter(findings::id.lt(after));
    }
    Ok(query.load(&mut &*conn).await?)
}
