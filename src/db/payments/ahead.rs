//! Changes of payments whose rows are known before they are written, so that the statements can be sent together.

use chrono::{DateTime, SubsecRound as _, Utc};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{NewConfirm, PaymentChange, PaymentRow};
use crate::db::locks::{self, Rank};
use crate::db::prepared::Prepare as _;
use crate::db::schema::payments;
use crate::db::{Conn, DbError, later};
use crate::domain::ids::PaymentId;
use crate::domain::payment::PaymentStatus;

/// Digits of a second that the database keeps.
const MICROS: u16 = 6;

impl NewConfirm {
    /// The row as it will be when it is inserted by a transaction that began at `began_at`, by the database's clock.
    #[must_use]
    pub fn row(&self, began_at: DateTime<Utc>) -> PaymentRow {
        PaymentRow {
            id: self.id,
            order_id: self.order_id,
            provider: self.provider.to_owned(),
            provider_payment_key: self.payment_key.clone(),
            method: None,
            status: PaymentStatus::Confirming,
            amount: self.total.minor,
            currency: self.total.currency,
            approved_amount: None,
            canceled_amount: 0,
            canceling_amount: 0,
            confirm_attempt: 1,
            confirm_started_at: began_at,
            provider_secret: None,
            deposit_bank_code: None,
            deposit_account_number: None,
            deposit_holder: None,
            deposit_due_at: None,
            decline_class: None,
            decline_code: None,
            doubt: None,
            inquire_at: Some(began_at + self.recover_after),
            inquiries: 0,
            not_found_count: 0,
            approved_at: None,
            canceled_at: None,
            trace_id: self.trace_id.clone(),
            version: 1,
            created_at: began_at,
            updated_at: began_at,
        }
    }
}

/// Writes the intent to confirm a PG payment that seemed to be new to us; if it is not, `payments_provider_key_once`
/// refuses.
pub async fn insert_confirm(conn: &Conn, confirm: NewConfirm) -> Result<(), DbError> {
    locks::takes(Rank::Payment, confirm.id.uuid());
    diesel::insert_into(payments::table)
        .values((confirm.intent(), payments::inquire_at.eq(later(confirm.recover_after).nullable())))
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

impl PaymentRow {
    /// The locked row as it will be when [`change`] is applied by a transaction that began at `began_at`.
    #[must_use]
    pub fn changed(&self, change: &PaymentChange, began_at: DateTime<Utc>) -> Self {
        let mut row = self.clone();
        row.status = change.status.unwrap_or(row.status);
        row.method = change.method.or(row.method);
        row.approved_amount = change.approved_amount.unwrap_or(row.approved_amount);
        row.canceled_amount = change.canceled_amount.unwrap_or(row.canceled_amount);
        row.canceling_amount = change.canceling_amount.unwrap_or(row.canceling_amount);
        row.provider_secret = change.provider_secret.clone().or(row.provider_secret);
        row.deposit_bank_code = change.deposit_bank_code.clone().or(row.deposit_bank_code);
        row.deposit_account_number = change.deposit_account_number.clone().or(row.deposit_account_number);
        row.deposit_holder = change.deposit_holder.clone().or(row.deposit_holder);
        row.deposit_due_at = change.deposit_due_at.map(stored).or(row.deposit_due_at);
        row.decline_class = change.decline_class.or(row.decline_class);
        row.decline_code = change.decline_code.clone().or(row.decline_code);
        row.doubt = change.doubt.unwrap_or(row.doubt);
        row.inquire_at = change.inquire_at.map_or(row.inquire_at, |at| at.map(stored));
        row.approved_at = change.approved_at.map_or(row.approved_at, |at| at.map(stored));
        row.canceled_at = change.canceled_at.map(stored).or(row.canceled_at);
        row.version += 1;
        row.updated_at = began_at;
        row
    }
}

/// A time as the database keeps it.
pub(in crate::db) fn stored(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(MICROS)
}

/// Applies a change to a locked payment, see [`PaymentRow::changed`].
pub async fn change(conn: &Conn, id: PaymentId, change: PaymentChange) -> Result<(), DbError> {
    locks::takes(Rank::Payment, id.uuid());
    diesel::update(payments::table.find(id))
        .set((change, payments::version.eq(payments::version + 1), payments::updated_at.eq(now)))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Takes `amount` of what is left of a locked payment that is known to have it; `payments_capacity` refuses otherwise.
pub async fn take_known_capacity(conn: &Conn, id: PaymentId, amount: i64) -> Result<(), DbError> {
    locks::takes(Rank::Payment, id.uuid());
    diesel::update(payments::table.find(id))
        .set((payments::canceling_amount.eq(payments::canceling_amount + amount), payments::updated_at.eq(now)))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}
