//! Payments: rows that stand for one PG payment each.

mod ahead;
mod due;

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel::upsert::excluded;
use diesel_async::RunQueryDsl;

pub(in crate::db) use self::ahead::stored;
pub use self::ahead::{change, insert_confirm, take_known_capacity};
pub use self::due::{lease_due, lease_open, leased_until, next_attempt, postpone, put_off};
use super::locks::{self, Rank};
use super::prepared::Prepare as _;
use super::schema::payments;
use super::{Conn, DbError, first_id_at, later};
use crate::domain::evidence::{Decline, DeclineClass, DoubtReason, PaymentKey, Snapshot};
use crate::domain::ids::{OrderId, PaymentId};
use crate::domain::money::{Currency, Money};
use crate::domain::payment::{Method, PaymentStatus};

/// A payment as stored. No `Debug`: it holds a secret and a bank account.
#[derive(Clone, Queryable, Selectable)]
#[diesel(table_name = payments, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are explained in the migration")]
pub struct PaymentRow {
    pub id: PaymentId,
    pub order_id: OrderId,
    pub provider: String,
    pub provider_payment_key: PaymentKey,
    pub method: Option<Method>,
    pub status: PaymentStatus,
    pub amount: i64,
    pub currency: Currency,
    pub approved_amount: Option<i64>,
    pub canceled_amount: i64,
    pub canceling_amount: i64,
    pub confirm_attempt: i32,
    pub confirm_started_at: DateTime<Utc>,
    pub provider_secret: Option<String>,
    pub deposit_bank_code: Option<String>,
    pub deposit_account_number: Option<String>,
    pub deposit_holder: Option<String>,
    pub deposit_due_at: Option<DateTime<Utc>>,
    pub decline_class: Option<DeclineClass>,
    pub decline_code: Option<String>,
    pub doubt: Option<DoubtReason>,
    pub inquire_at: Option<DateTime<Utc>>,
    pub inquiries: i32,
    pub not_found_count: i32,
    pub approved_at: Option<DateTime<Utc>>,
    pub canceled_at: Option<DateTime<Utc>>,
    pub trace_id: Option<String>,
    pub version: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl PaymentRow {
    /// What the order costs.
    #[must_use]
    pub const fn total(&self) -> Money {
        Money::new(self.amount, self.currency)
    }

    /// Minor units that the PG still has of the buyer's and no cancellation has taken.
    #[must_use]
    pub fn balance(&self) -> i64 {
        let taken = match self.status {
            PaymentStatus::AwaitingDeposit => self.amount,
            PaymentStatus::Ready
            | PaymentStatus::Confirming
            | PaymentStatus::Approved
            | PaymentStatus::PartiallyCanceled
            | PaymentStatus::Canceled
            | PaymentStatus::Declined
            | PaymentStatus::Expired
            | PaymentStatus::Reversing => self.approved_amount.unwrap_or(0),
        };
        taken - self.canceled_amount - self.canceling_amount
    }

    /// The PG's idempotency key of the current confirm.
    #[must_use]
    pub fn confirm_key(&self) -> String {
        format!("{}:{}", self.id, self.confirm_attempt)
    }
}

/// A confirm that is about to start.
#[derive(Debug, Clone)]
pub struct NewConfirm {
    /// The id if this PG payment is new to us.
    pub id: PaymentId,
    /// The order.
    pub order_id: OrderId,
    /// Which PG.
    pub provider: &'static str,
    /// The PG's key.
    pub payment_key: PaymentKey,
    /// The order's total.
    pub total: Money,
    /// When recovery takes over if nobody resolves it.
    pub recover_after: Duration,
    /// The request's trace.
    pub trace_id: Option<String>,
}

/// A payment as it is written first.
#[derive(Insertable)]
#[diesel(table_name = payments, treat_none_as_default_value = false)]
struct Intent<'a> {
    id: PaymentId,
    order_id: OrderId,
    provider: &'a str,
    provider_payment_key: &'a PaymentKey,
    status: PaymentStatus,
    amount: i64,
    currency: Currency,
    trace_id: Option<&'a str>,
}

impl NewConfirm {
    fn intent(&self) -> Intent<'_> {
        Intent {
            id: self.id,
            order_id: self.order_id,
            provider: self.provider,
            provider_payment_key: &self.payment_key,
            status: PaymentStatus::Confirming,
            amount: self.total.minor,
            currency: self.total.currency,
            trace_id: self.trace_id.as_deref(),
        }
    }
}

/// Writes the intent to confirm: a new row, or the same PG payment again if it certainly was not sent before.
/// `None` if that PG payment is known and may not be confirmed (again) for this order.
pub async fn begin_confirm(conn: &Conn, confirm: NewConfirm) -> Result<Option<PaymentRow>, DbError> {
    let again = payments::status
        .eq(PaymentStatus::Ready)
        .and(payments::order_id.eq(confirm.order_id))
        .and(payments::amount.eq(confirm.total.minor));
    let upsert = diesel::insert_into(payments::table)
        .values((confirm.intent(), payments::inquire_at.eq(later(confirm.recover_after).nullable())))
        .on_conflict((payments::provider, payments::provider_payment_key))
        .do_update()
        .set((
            payments::status.eq(PaymentStatus::Confirming),
            payments::confirm_attempt.eq(payments::confirm_attempt + 1),
            payments::confirm_started_at.eq(now),
            payments::inquire_at.eq(excluded(payments::inquire_at)),
            payments::inquiries.eq(0),
            payments::not_found_count.eq(0),
            payments::doubt.eq(None::<DoubtReason>),
            payments::trace_id.eq(excluded(payments::trace_id)),
            payments::version.eq(payments::version + 1),
            payments::updated_at.eq(now),
        ));
    // The row of a key that is known has another id, and is locked even if it may not be confirmed again.
    locks::takes(Rank::Payment, confirm.id.uuid());
    let row = diesel::query_dsl::methods::FilterDsl::filter(upsert, again)
        .returning(PaymentRow::as_returning())
        .prepared()
        .get_result(&mut &*conn)
        .await
        .optional()?;
    Ok(row)
}

/// The payment, without locking it.
pub async fn find(conn: &Conn, id: PaymentId) -> Result<Option<PaymentRow>, DbError> {
    Ok(payments::table.find(id).select(PaymentRow::as_select()).first(&mut &*conn).await.optional()?)
}

/// The payment, locked until the transaction ends. Its order must be locked already.
pub async fn lock(conn: &Conn, id: PaymentId) -> Result<Option<PaymentRow>, DbError> {
    locks::takes(Rank::Payment, id.uuid());
    Ok(payments::table.find(id).select(PaymentRow::as_select()).for_update().first(&mut &*conn).await.optional()?)
}

/// The payment that stands for this PG payment.
pub async fn find_by_key(conn: &Conn, provider: &str, key: &PaymentKey) -> Result<Option<PaymentRow>, DbError> {
    let row = payments::table
        .filter(payments::provider.eq(provider))
        .filter(payments::provider_payment_key.eq(key))
        .select(PaymentRow::as_select())
        .first(&mut &*conn)
        .await
        .optional()?;
    Ok(row)
}

/// The payments that stand for these PG payments.
pub async fn find_by_keys(conn: &Conn, provider: &str, keys: &[&str]) -> Result<Vec<PaymentRow>, DbError> {
    let rows = payments::table
        .filter(payments::provider.eq(provider))
        .filter(payments::provider_payment_key.eq_any(keys))
        .select(PaymentRow::as_select())
        .load(&mut &*conn)
        .await?;
    Ok(rows)
}

/// All payments of an order, newest first.
pub async fn of_order(conn: &Conn, order: OrderId) -> Result<Vec<PaymentRow>, DbError> {
    let rows = payments::table
        .filter(payments::order_id.eq(order))
        .select(PaymentRow::as_select())
        .order(payments::id.desc())
        .load(&mut &*conn)
        .await?;
    Ok(rows)
}

/// The payment to show with each of these orders: the live one, else the newest.
pub async fn shown_with(conn: &Conn, orders: &[OrderId]) -> Result<Vec<(OrderId, PaymentId, PaymentStatus)>, DbError> {
    let ids: Vec<uuid::Uuid> = orders.iter().map(|id| id.uuid()).collect();
    let rows = payments::table
        .filter(payments::order_id.eq_any(ids))
        .select((payments::order_id, payments::id, payments::status))
        .order((payments::order_id, payments::id.desc()))
        .load(&mut &*conn)
        .await?;
    Ok(rows)
}

/// The columns that a resolution may change; `None` leaves a column alone unless said otherwise.
#[derive(Default, AsChangeset)]
#[diesel(table_name = payments)]
#[expect(missing_docs, reason = "the columns are explained in the migration")]
pub struct PaymentChange {
    pub status: Option<PaymentStatus>,
    pub method: Option<Method>,
    pub approved_amount: Option<Option<i64>>,
    pub canceled_amount: Option<i64>,
    pub canceling_amount: Option<i64>,
    pub provider_transaction_key: Option<String>,
    pub provider_secret: Option<String>,
    pub deposit_bank_code: Option<String>,
    pub deposit_account_number: Option<String>,
    pub deposit_holder: Option<String>,
    pub deposit_due_at: Option<DateTime<Utc>>,
    pub decline_class: Option<DeclineClass>,
    pub decline_code: Option<String>,
    pub doubt: Option<Option<DoubtReason>>,
    pub inquire_at: Option<Option<DateTime<Utc>>>,
    pub lease_until: Option<Option<DateTime<Utc>>>,
    pub approved_at: Option<Option<DateTime<Utc>>>,
    pub canceled_at: Option<DateTime<Utc>>,
}

impl PaymentChange {
    /// To `status`, with nothing left to ask.
    #[must_use]
    pub fn decided(status: PaymentStatus) -> Self {
        Self {
            status: Some(status),
            doubt: Some(None),
            inquire_at: Some(None),
            lease_until: Some(None),
            ..Self::default()
        }
    }

    /// With a PG's no.
    #[must_use]
    pub fn declined(mut self, decline: &Decline) -> Self {
        self.decline_class = Some(decline.class);
        self.decline_code = Some(decline.code.clone());
        self
    }

    /// With what the PG's snapshot says of method, secret, account and transaction.
    #[must_use]
    pub fn with_snapshot(mut self, snapshot: &Snapshot) -> Self {
        use secrecy::ExposeSecret;
        self.method = snapshot.method;
        self.provider_transaction_key.clone_from(&snapshot.transaction_key);
        self.provider_secret = snapshot.secret.as_ref().map(|secret| secret.expose_secret().to_owned());
        if let Some(deposit) = &snapshot.deposit {
            self.deposit_bank_code = Some(deposit.bank_code.clone());
            self.deposit_account_number = Some(deposit.account_number.clone());
            self.deposit_holder = Some(deposit.holder.clone());
            self.deposit_due_at = deposit.due_at;
        }
        self
    }
}

/// Applies a change to a locked payment; returns the new row, one version later.
pub async fn apply(conn: &Conn, id: PaymentId, change: PaymentChange) -> Result<PaymentRow, DbError> {
    locks::takes(Rank::Payment, id.uuid());
    let row = diesel::update(payments::table.find(id))
        .set((change, payments::version.eq(payments::version + 1), payments::updated_at.eq(now)))
        .returning(PaymentRow::as_returning())
        .prepared()
        .get_result(&mut &*conn)
        .await?;
    Ok(row)
}

/// Takes `amount` of what is left for a cancellation; `None` if less is left. Counts no version: the
/// cancellation's own event tells the story.
pub async fn take_capacity(conn: &Conn, id: PaymentId, amount: i64) -> Result<bool, DbError> {
    let limit = diesel::dsl::sql::<diesel::sql_types::BigInt>("coalesce(approved_amount, amount)");
    locks::takes(Rank::Payment, id.uuid());
    let taken = diesel::update(payments::table.find(id))
        .filter(
            payments::status.eq_any(
                [
                    PaymentStatus::Approved,
                    PaymentStatus::PartiallyCanceled,
                    PaymentStatus::AwaitingDeposit,
                    PaymentStatus::Reversing,
                ]
                .map(PaymentStatus::as_str),
            ),
        )
        .filter((payments::canceled_amount + payments::canceling_amount + amount).le(limit))
        .set((payments::canceling_amount.eq(payments::canceling_amount + amount), payments::updated_at.eq(now)))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(taken == 1)
}

/// Gives back what a refused cancellation had taken.
pub async fn release_capacity(conn: &Conn, id: PaymentId, amount: i64) -> Result<(), DbError> {
    locks::takes(Rank::Payment, id.uuid());
    diesel::update(payments::table.find(id))
        .set((payments::canceling_amount.eq(payments::canceling_amount - amount), payments::updated_at.eq(now)))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Which payments to list. Times are bounds on when the confirm first came.
#[derive(Debug, Clone, Copy, Default)]
pub struct PaymentFilter {
    /// Only this status.
    pub status: Option<PaymentStatus>,
    /// Only of this order.
    pub order: Option<OrderId>,
    /// At or after.
    pub from: Option<DateTime<Utc>>,
    /// Before.
    pub to: Option<DateTime<Utc>>,
    /// Older than this payment.
    pub after: Option<PaymentId>,
}

/// How far the time in an id may be from the row's: ids are made by the clock of a process, a moment before the row.
const IDS_ASTRAY: chrono::TimeDelta = chrono::TimeDelta::minutes(5);

/// A page of payments, newest first. A span of time is a span of ids too, so that it costs nothing to look far back.
pub async fn list(conn: &Conn, filter: PaymentFilter, limit_rows: i64) -> Result<Vec<PaymentRow>, DbError> {
    let mut query =
        payments::table.select(PaymentRow::as_select()).order(payments::id.desc()).limit(limit_rows).into_boxed();
    if let Some(status) = filter.status {
        query = query.filter(payments::status.eq(status));
    }
    if let Some(order) = filter.order {
        query = query.filter(payments::order_id.eq(order));
    }
    if let Some(from) = filter.from {
        let first = first_id_at(from.checked_sub_signed(IDS_ASTRAY).unwrap_or(from));
        query = query.filter(payments::id.ge(first)).filter(payments::created_at.ge(from));
    }
    if let Some(to) = filter.to {
        let first = first_id_at(to.checked_add_signed(IDS_ASTRAY).unwrap_or(to));
        query = query.filter(payments::id.lt(first)).filter(payments::created_at.lt(to));
    }
    if let Some(after) = filter.after {
        query = query.filter(payments::id.lt(after));
    }
    Ok(query.load(&mut &*conn).await?)
}
