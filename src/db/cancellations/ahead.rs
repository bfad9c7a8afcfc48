//! Changes of cancellations whose rows are known before they are written, so that the statements can be sent together.

use chrono::{DateTime, Utc};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{CancellationRow, NewCancellation};
use crate::db::locks::{self, Rank};
use crate::db::payments::stored;
use crate::db::prepared::Prepare as _;
use crate::db::schema::{cancellation_items, cancellations};
use crate::db::{Conn, DbError, later};
use crate::domain::cancellation::CancellationStatus;
use crate::domain::evidence::DoubtReason;
use crate::domain::ids::{CancellationId, OrderId};
use crate::domain::stock::LineQuantity;

impl NewCancellation {
    /// The row as it will be when it is written by a transaction that began at `began_at`, by the database's clock.
    #[must_use]
    pub fn row(&self, began_at: DateTime<Utc>) -> CancellationRow {
        CancellationRow {
            id: self.id,
            payment_id: self.payment_id,
            order_id: self.order_id,
            amount: self.amount,
            reason: self.reason.clone(),
            status: CancellationStatus::Requested,
            origin: self.origin,
            attempt: 1,
            needs_account: self.needs_account,
            refusal_class: None,
            refusal_code: None,
            doubt: None,
            inquire_at: Some(began_at + self.recover_after),
            inquiries: 0,
            not_found_count: 0,
            canceled_at: None,
            trace_id: self.trace_id.clone(),
            version: 1,
            created_at: began_at,
            updated_at: began_at,
        }
    }
}

/// Writes an intent without its units, see [`NewCancellation::row`].
pub async fn write(conn: &Conn, new: NewCancellation) -> Result<(), DbError> {
    diesel::insert_into(cancellations::table)
        .values((new.intent(), cancellations::inquire_at.eq(later(new.recover_after).nullable())))
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

/// Writes a unit of a new intent.
pub async fn write_unit(conn: &Conn, id: CancellationId, order: OrderId, unit: LineQuantity) -> Result<(), DbError> {
    diesel::insert_into(cancellation_items::table)
        .values((
            cancellation_items::cancellation_id.eq(id),
            cancellation_items::order_id.eq(order),
            cancellation_items::line.eq(unit.line),
            cancellation_items::quantity.eq(unit.quantity),
        ))
        .execute(&mut &*conn)
        .await?;
    Ok(())
}

impl CancellationRow {
    /// The locked row as it will be when [`finish`] is applied by a transaction that began at `began_at`.
    #[must_use]
    pub fn finished(&self, canceled_at: DateTime<Utc>, began_at: DateTime<Utc>) -> Self {
        let mut row = self.clone();
        row.status = CancellationStatus::Done;
        row.canceled_at = Some(stored(canceled_at));
        (row.doubt, row.inquire_at) = (None, None);
        row.version += 1;
        row.updated_at = began_at;
        row
    }
}

/// `requested → done`, with what really went back, see [`CancellationRow::finished`].
pub async fn finish(
    conn: &Conn,
    id: CancellationId,
    transaction_key: String,
    canceled_at: DateTime<Utc>,
    moved_amount: i64,
) -> Result<(), DbError> {
    locks::takes(Rank::Cancellation, id.uuid());
    diesel::update(cancellations::table.find(id))
        .set((
            cancellations::status.eq(CancellationStatus::Done),
            cancellations::moved_amount.eq(moved_amount),
            cancellations::provider_transaction_key.eq(transaction_key),
            cancellations::canceled_at.eq(canceled_at),
            cancellations::doubt.eq(None::<DoubtReason>),
            cancellations::inquire_at.eq(None::<DateTime<Utc>>),
            cancellations::lease_until.eq(None::<DateTime<Utc>>),
            cancellations::version.eq(cancellations::version + 1),
            cancellations::updated_at.eq(now),
        ))
        .prepared()
        .execute(&mut &*conn)
        .await?;
    Ok(())
}
