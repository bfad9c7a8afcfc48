//! What the canonical line is told of rows: ids, amounts and closed words, once they are committed.

use crate::db::cancellations::CancellationRow;
use crate::db::orders::OrderRow;
use crate::db::payments::PaymentRow;
use crate::domain::cancellation::CancellationStatus;
use crate::domain::money::{Currency, Money};
use crate::domain::payment::PaymentStatus;
use crate::telemetry::facts::{Fact, tell};

/// A payment as it is now.
pub(super) fn payment(row: &PaymentRow) {
    tell(Fact::Order(row.order_id));
    tell(Fact::Payment(row.id));
    tell(Fact::Money(row.total()));
    tell(Fact::Attempt(row.confirm_attempt));
    if let Some(method) = row.method {
        tell(Fact::Method(method));
    }
    if let Some(class) = row.decline_class.filter(|_| row.status == PaymentStatus::Declined) {
        tell(Fact::Declined(class));
    }
    tell(Fact::Doubt(row.doubt.filter(|_| row.status == PaymentStatus::Confirming)));
}

/// A cancellation as it is now.
pub(super) fn cancellation(row: &CancellationRow, currency: Currency) {
    tell(Fact::Order(row.order_id));
    tell(Fact::Payment(row.payment_id));
    tell(Fact::Cancellation(row.id));
    tell(Fact::Cancel { money: Money::new(row.amount, currency), attempt: row.attempt });
    if let Some(class) = row.refusal_class {
        tell(Fact::Refused(class));
    }
    tell(Fact::Doubt(row.doubt.filter(|_| row.status == CancellationStatus::Requested)));
}

/// Whose order it is.
pub(super) fn customer(order: &OrderRow) {
    if let Some(reference) = &order.customer_ref {
        tell(Fact::Customer(reference));
    }
}
