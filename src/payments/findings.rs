//! Findings as callers see them, and the one thing that a person can do with one: close it with a reason.
//!
//! Closing edits the finding alone. Money and stock move by their own verbs.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::clock;
use crate::db::DbError;
use crate::db::events::Origin;
use crate::db::findings::{self, FindingFilter, FindingRow, Step};
use crate::domain::ids::{FindingId, OrderId, PaymentId};
use crate::domain::reconciliation::FindingStatus;
use crate::telemetry::labels::Tx;

/// The longest reason that a finding can have.
pub const FINDING_REASON_CHARS_MAX: usize = 500;

/// A difference between the PG's books and ours.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Finding)]
pub struct FindingView {
    /// `fnd_…`
    #[schema(value_type = String, example = "fnd_0193a1b2c3d47e5f8a9b0c1d2e3f4a5e")]
    pub id: FindingId,
    /// `missing_here`, `missing_there`, `amount_differs`, `canceled_there_only`, `late_approval` or `stock_held`.
    #[schema(example = "canceled_there_only")]
    pub kind: &'static str,
    /// `open` (being repaired), `repaired`, `waiting` (for a person) or `closed` (by a person).
    #[schema(example = "waiting")]
    pub status: &'static str,
    /// What is wrong, what was done about it, or what a person has to know.
    pub reason: String,
    /// Minor units at stake; null where the PG names a currency that paygauge does not know.
    #[schema(example = 34100)]
    pub amount: Option<i64>,
    /// ISO 4217.
    #[schema(example = "KRW")]
    pub currency: Option<&'static str>,
    /// Which PG.
    #[schema(example = "toss")]
    pub provider: String,
    /// The PG's key of the payment.
    #[schema(example = "tviva20261121abcdEFGH")]
    pub payment_key: String,
    /// The PG's key of the one transaction that it is about, if it is about one.
    pub transaction_key: Option<String>,
    /// The merchant's order id as the PG has it; not always one of ours.
    pub provider_order_id: String,
    /// Our payment, if there is one.
    #[schema(value_type = Option<String>)]
    pub payment_id: Option<PaymentId>,
    /// Our order, if there is one.
    #[schema(value_type = Option<String>)]
    pub order_id: Option<OrderId>,
    /// Seconds since it happened, or since it was first seen where the PG does not say when.
    #[schema(example = 3600)]
    pub age_seconds: i64,
    /// When the PG says that it happened.
    pub occurred_at: Option<DateTime<Utc>>,
    /// When it was first seen.
    pub first_seen_at: DateTime<Utc>,
    /// When it was last looked at.
    pub last_seen_at: DateTime<Utc>,
    /// Trace of the confirm or the order, else of the run that found it.
    pub trace_id: Option<String>,
}

/// A finding as callers see it.
#[must_use]
pub fn view(row: FindingRow) -> FindingView {
    let since = row.occurred_at.unwrap_or(row.first_seen_at);
    FindingView {
        id: row.id,
        kind: row.kind.as_str(),
        status: row.status.as_str(),
        reason: row.reason,
        amount: row.amount,
        currency: row.currency.map(crate::domain::money::Currency::code),
        provider: row.provider,
        payment_key: row.provider_payment_key.as_str().to_owned(),
        transaction_key: row.provider_transaction_key,
        provider_order_id: row.provider_order_id,
        payment_id: row.payment_id,
        order_id: row.order_id,
        age_seconds: (clock::now() - since).num_seconds().max(0),
        occurred_at: row.occurred_at,
        first_seen_at: row.first_seen_at,
        last_seen_at: row.last_seen_at,
        trace_id: row.trace_id,
    }
}

/// A page of findings, newest first.
pub async fn list(app: &App, filter: FindingFilter, limit_rows: i64) -> Result<Vec<FindingView>, DbError> {
    let found = app.db.read(async |conn| findings::list(conn, filter, limit_rows).await).await?;
    Ok(found.into_iter().map(view).collect())
}

/// Why a finding cannot be closed.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// There is none with this id.
    #[error("no such finding")]
    NotFound,
    /// It is settled already.
    #[error("the finding is {}", status.as_str())]
    Settled {
        /// How.
        status: FindingStatus,
    },
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Closes a finding that a person has settled elsewhere. Only the finding changes.
pub async fn close(app: &App, id: FindingId, reason: &str, origin: &Origin) -> Result<FindingView, CloseError> {
    let closed = app
        .db
        .transaction(Tx::Reconcile, async |conn| {
            let row = findings::lock(conn, id).await?.ok_or(CloseError::NotFound)?;
            if !row.status.is_unsettled() {
                return Err(CloseError::Settled { status: row.status });
            }
            let step = Step { status: FindingStatus::Closed, reason };
            Ok::<_, CloseError>(findings::move_to(conn, id, step, origin).await?)
        })
        .await?;
    Ok(view(closed))
}
