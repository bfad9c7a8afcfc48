//! What a resolution does to its rows. Nothing that it writes needs another's answer, since the rows are locked and known:
//! so it is collected, and sent together.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ResolveError, Step};
use crate::db::events::{self, NewEvent, Subject};
use crate::db::payments::PaymentChange;
use crate::db::{self, Conn, DbError};
use crate::domain::evidence::DoubtReason;
use crate::domain::order::{self, OrderEvent, OrderStatus};
use crate::domain::payment::{self, PaymentEvent};
use crate::domain::resolution::{self, OrderFacts};
use crate::payments::{doubt, view};

impl<'a> Step<'a> {
    /// The connection, for what needs answers: everything that was collected is written first.
    pub(in crate::payments) async fn conn(&mut self) -> Result<&'a Conn, DbError> {
        self.batch.send().await?;
        Ok(self.batch.conn())
    }

    /// What callers see once everything is written.
    pub(super) async fn view(&mut self) -> Result<view::PaymentView, DbError> {
        if self.has_cancellations {
            let conn = self.conn().await?;
            return view::payment(conn, &self.payment, &self.order).await;
        }
        Ok(view::payment_with(&self.payment, self.order.status.as_str(), &[]))
    }

    /// Plans the next inquiry.
    pub(super) fn postpone(&mut self, wait: Duration, doubt: Option<DoubtReason>) {
        let conn = self.batch.conn();
        self.batch.add(db::payments::postpone(conn, self.payment.id, wait, doubt, 0));
    }

    /// Appends an event.
    pub(super) async fn append(&mut self, seq: i32, subject: Subject, detail: Value) -> Result<(), ResolveError> {
        let (order, origin) = (self.order.id, self.origin);
        if events::needs_a_look(subject) {
            events::append(self.conn().await?, order, seq, subject, origin, detail).await?;
        } else {
            self.batch.event(NewEvent::new(order, seq, subject, origin, detail));
        }
        Ok(())
    }

    /// Changes the payment by `event`; the table of `domain/` has the last word on the state.
    pub(in crate::payments) async fn payment_to(
        &mut self,
        event: PaymentEvent,
        change: PaymentChange,
        mut detail: Value,
    ) -> Result<(), ResolveError> {
        let from = self.payment.status;
        let to = payment::next(from, event)?;
        debug_assert!(change.status.is_none_or(|status| status == to), "{event} leads to {to}");
        doubt::payment_changes(&self.payment, event, change.doubt.flatten());
        let change = PaymentChange { status: Some(to), ..change };
        self.payment = self.payment.changed(&change, self.now);
        let (conn, id) = (self.batch.conn(), self.payment.id);
        self.batch.add(db::payments::change(conn, id, change));
        if self.payment.canceling_amount > 0 {
            db::cancellations::renew_key(self.conn().await?, id).await?;
        }
        if let (Some(call), Some(object)) = (self.call, detail.as_object_mut()) {
            object.insert("call".to_owned(), serde_json::to_value(call)?);
        }
        let subject = Subject::Payment { id, event, from: Some(from), to };
        self.append(self.payment.version, subject, detail).await
    }

    /// Changes the order by `event`, and gives its stock back if that ends it unpaid.
    pub(in crate::payments) async fn order_to(&mut self, event: OrderEvent) -> Result<(), ResolveError> {
        let from = self.order.status;
        let to = order::next(from, event)?;
        let (conn, id) = (self.batch.conn(), self.order.id);
        self.batch.add(async move { db::orders::set_status(conn, id, to).await.map(drop) });
        (self.order.status, self.order.version, self.order.updated_at) = (to, self.order.version + 1, self.now);
        let subject = Subject::Order { event, from: Some(from), to };
        self.append(self.order.version, subject, json!({})).await?;
        match event {
            OrderEvent::CanceledUnpaid | OrderEvent::HoldExpired | OrderEvent::DepositOverdue => {
                let conn = self.conn().await?;
                self.after.release(conn, id).await?;
            }
            OrderEvent::Placed
            | OrderEvent::ConfirmStarted
            | OrderEvent::Reopened
            | OrderEvent::DepositAwaited
            | OrderEvent::Paid
            | OrderEvent::DepositReversed
            | OrderEvent::PartiallyCanceled
            | OrderEvent::Canceled
            | OrderEvent::CancelRequested => {}
        }
        Ok(())
    }

    pub(super) async fn order_without_money(&mut self) -> Result<(), ResolveError> {
        if self.order.status != OrderStatus::Confirming {
            return Ok(());
        }
        let facts =
            OrderFacts { hold_alive: self.hold_alive, cancel_requested: self.order.cancel_requested_at.is_some() };
        self.order_to(resolution::order_without_money(facts)).await
    }
}
