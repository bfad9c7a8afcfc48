//! What each rule has proven, and which process audits.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::Verdict;
use crate::db::locks::{self, Rank};
use crate::db::schema::{audit_leases, audit_progress};
use crate::db::{Conn, DbError, later};
use crate::domain::audit::AuditRule;
use crate::telemetry::labels::AuditMode;

/// How far a rule has come.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = audit_progress, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are explained in the migration")]
pub struct ProgressRow {
    pub rule: String,
    pub mode: String,
    pub rows_checked: i64,
    pub violations: i64,
    pub duration_ms: i64,
    pub proven_until: Option<DateTime<Utc>>,
    pub last_violation_at: Option<DateTime<Utc>>,
    pub event_id: Option<i64>,
    pub next_event_id: Option<i64>,
    pub next_transaction: Option<i64>,
    pub standing: Vec<Uuid>,
}

/// The progress of every rule and mode that has run.
pub async fn all(conn: &Conn) -> Result<Vec<ProgressRow>, DbError> {
    Ok(audit_progress::table.select(ProgressRow::as_select()).load(&mut &*conn).await?)
}

/// Up to which event a rule has come for certain, and which event is next once older transactions have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    /// Every event up to here was visible to a round.
    pub event: i64,
    /// The event that is next.
    pub next_event: i64,
    /// The transaction below which all must have ended for that.
    pub next_transaction: i64,
}

/// A round over what changed.
#[derive(Debug)]
pub struct ChangedRound<'a> {
    /// By which rule.
    pub rule: AuditRule,
    /// What it found.
    pub verdict: &'a Verdict,
    /// How long it took.
    pub took: Duration,
    /// Until when everything is proven now.
    pub proven_until: DateTime<Utc>,
    /// Where the next round begins.
    pub watermark: Watermark,
    /// What was wrong before, and was looked at again.
    pub looked_again: &'a [Uuid],
}

/// Keeps what a round over what changed has come to. What was looked at again and is right stands no longer; what a full
/// run has added meanwhile stays.
pub async fn record_changed(conn: &Conn, round: &ChangedRound<'_>) -> Result<(), DbError> {
    diesel::sql_query(
        "insert into audit_progress as a (rule, mode, rows_checked, violations, duration_ms, proven_until,
             last_violation_at, event_id, next_event_id, next_transaction, standing)
         values ($1, 'changed', $2, $3, $4, $5, case when $3 > 0 then $5 end, $6, $7, $8, $9)
         on conflict (rule, mode) do update set rows_checked = excluded.rows_checked,
             violations = excluded.violations, duration_ms = excluded.duration_ms,
             proven_until = excluded.proven_until,
             last_violation_at = coalesce(excluded.last_violation_at, a.last_violation_at),
             event_id = excluded.event_id, next_event_id = excluded.next_event_id,
             next_transaction = excluded.next_transaction,
             standing = array((select unnest(a.standing) except select unnest($10))
                              union select unnest(excluded.standing) limit 1000)",
    )
    .bind::<Text, _>(round.rule.as_str())
    .bind::<BigInt, _>(round.verdict.rows_checked)
    .bind::<BigInt, _>(round.verdict.broken)
    .bind::<BigInt, _>(millis(round.took))
    .bind::<Timestamptz, _>(round.proven_until)
    .bind::<BigInt, _>(round.watermark.event)
    .bind::<BigInt, _>(round.watermark.next_event)
    .bind::<BigInt, _>(round.watermark.next_transaction)
    .bind::<Array<SqlUuid>, _>(&round.verdict.subjects)
    .bind::<Array<SqlUuid>, _>(round.looked_again)
    .execute(&mut &*conn)
    .await?;
    Ok(())
}

/// A run over every row.
#[derive(Debug)]
pub struct FullRun<'a> {
    /// By which rule.
    pub rule: AuditRule,
    /// What it found.
    pub verdict: &'a Verdict,
    /// How long it took.
    pub took: Duration,
    /// When it began.
    pub started_at: DateTime<Utc>,
}

/// Keeps what a run over every row has come to, and has what it found looked at again by the rounds after it.
pub async fn record_full(conn: &Conn, run: &FullRun<'_>) -> Result<(), DbError> {
    locks::takes(Rank::Turn, Uuid::nil());
    diesel::sql_query(
        "insert into audit_progress as a
             (rule, mode, rows_checked, violations, duration_ms, proven_until, last_violation_at)
         values ($1, 'full', $2, $3, $4, $5, case when $3 > 0 then $5 end)
         on conflict (rule, mode) do update set rows_checked = excluded.rows_checked,
             violations = excluded.violations, duration_ms = excluded.duration_ms,
             proven_until = excluded.proven_until,
             last_violation_at = coalesce(excluded.last_violation_at, a.last_violation_at)",
    )
    .bind::<Text, _>(run.rule.as_str())
    .bind::<BigInt, _>(run.verdict.rows_checked)
    .bind::<BigInt, _>(run.verdict.broken)
    .bind::<BigInt, _>(millis(run.took))
    .bind::<Nullable<Timestamptz>, _>(Some(run.started_at))
    .execute(&mut &*conn)
    .await?;
    diesel::sql_query(
        "update audit_progress set violations = greatest(violations, $2),
             standing = array(select unnest(standing) union select unnest($3) limit 1000)
         where rule = $1 and mode = 'changed' and $2 > 0",
    )
    .bind::<Text, _>(run.rule.as_str())
    .bind::<BigInt, _>(run.verdict.broken)
    .bind::<Array<SqlUuid>, _>(&run.verdict.subjects)
    .execute(&mut &*conn)
    .await?;
    Ok(())
}

fn millis(took: Duration) -> i64 {
    i64::try_from(took.as_millis()).unwrap_or(i64::MAX)
}

/// Takes or keeps the right to audit; `false` if another process has it.
pub async fn lease(conn: &Conn, mode: AuditMode, owner: Uuid, lease: Duration) -> Result<bool, DbError> {
    locks::takes(Rank::Turn, Uuid::nil());
    let free = audit_leases::owner.eq(owner).or(audit_leases::lease_until.lt(diesel::dsl::now));
    let upsert = diesel::insert_into(audit_leases::table)
        .values((
            audit_leases::mode.eq(mode.as_str()),
            audit_leases::owner.eq(owner),
            audit_leases::lease_until.eq(later(lease)),
        ))
        .on_conflict(audit_leases::mode)
        .do_update()
        .set((audit_leases::owner.eq(owner), audit_leases::lease_until.eq(later(lease))));
    let taken = diesel::query_dsl::methods::FilterDsl::filter(upsert, free).execute(&mut &*conn).await?;
    Ok(taken == 1)
}

/// Gives the right to audit back.
pub async fn release(conn: &Conn, mode: AuditMode, owner: Uuid) -> Result<(), DbError> {
    locks::takes(Rank::Turn, Uuid::nil());
    diesel::delete(audit_leases::table.find(mode.as_str()))
        .filter(audit_leases::owner.eq(owner))
        .execute(&mut &*conn)
        .await?;
    Ok(())
}
