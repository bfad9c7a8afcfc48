//! Turns evidence about a cancellation into state: one transaction that moves the amounts, stamps the time, gives
//! the stock back and stores the answer; or gives the capacity back.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::after_commit::AfterCommit;
use super::resolve::{ResolveError, Target};
use super::{again, cancel, doubt, recovery, told, view};
use crate::app::App;
use crate::db::batch::Batch;
use crate::db::cancellations::{self, CancellationRow};
use crate::db::events::{self, NewEvent, Origin, Subject};
use crate::db::idempotency;
use crate::db::orders::{ItemRow, LineOutcome, OrderRow};
use crate::db::payments::{PaymentChange, PaymentRow};
use crate::db::told::{Fact, once_committed};
use crate::db::{self, Conn, DbError, Look};
use crate::domain::cancellation::{self, CancellationEvent, CancellationOrigin, CancellationStatus};
use crate::domain::evidence::{Doubt, PgCancel, Refusal};
use crate::domain::ids::{CancellationId, OrderId};
use crate::domain::money::{Currency, Money};
use crate::domain::order::{self, OrderEvent};
use crate::domain::payment::{self, PaymentEvent, PaymentStatus};
use crate::domain::resolution::{CancelEvidence, CancelVerdict, decide_cancel};
use crate::domain::stock::{CancelScope, Line, LineQuantity, remaining};
use crate::provider::call::Call;
use crate::telemetry::labels::{MoneyMove, Tx};
use crate::telemetry::ledger;

/// What the evidence came to.
#[derive(Clone)]
pub struct CancelResolution {
    /// The cancellation afterwards.
    pub cancellation: CancellationRow,
    /// What callers see.
    pub view: view::CancellationView,
    /// Whether this call changed its status.
    pub changed: bool,
}

/// Records `evidence` about a cancellation.
pub async fn resolve_cancel(
    app: &App,
    target: Target,
    id: CancellationId,
    evidence: CancelEvidence,
    call: Option<&Call>,
    origin: &Origin,
) -> Result<CancelResolution, ResolveError> {
    let mut tries = 0;
    let (resolution, after, currency) = loop {
        match write(app, target, id, evidence.clone(), call, origin).await {
            Err(error) if again::may_try_again(Tx::CancelResolve, &error, &mut tries).await => {}
            done => break done?,
        }
    };
    after.tell(app, target);
    told::cancellation(&resolution.cancellation, currency);
    if resolution.cancellation.status == CancellationStatus::Requested {
        app.nudges.recovery.notify_one();
    }
    Ok(resolution)
}

async fn write(
    app: &App,
    target: Target,
    id: CancellationId,
    evidence: CancelEvidence,
    call: Option<&Call>,
    origin: &Origin,
) -> Result<(CancelResolution, AfterCommit, Currency), ResolveError> {
    let work = app.db.transaction_after(Tx::CancelResolve, Before { target, id }, async |conn, seen| {
        let (order, _, now) = seen.order.ok_or(ResolveError::Missing)?;
        let payment = seen.payment.ok_or(ResolveError::Missing)?;
        let row = seen.row.ok_or(ResolveError::Missing)?;
        let currency = payment.currency;
        ledger::paid_by(payment.method);
        let (batch, after, units, items) = (Batch::new(conn), AfterCommit::default(), seen.units, seen.items);
        let mut step = CancelStep { batch, order, payment, row, units, items, now, call, origin, after };
        let changed = step.apply(evidence).await?;
        let CancelStep { mut batch, row, units, after, .. } = step;
        let view = view::cancellation(&row, &units, currency.code());
        answer(&mut batch, &row, &view)?;
        after.give_back(&mut batch).await?;
        batch.commit().await?;
        Ok((CancelResolution { cancellation: row, view, changed }, after, currency))
    });
    work.await
}

/// What a resolution looks at first.
struct Before {
    target: Target,
    id: CancellationId,
}

/// The rows, locked, and the database's clock.
struct Seen {
    order: Option<(OrderRow, bool, DateTime<Utc>)>,
    payment: Option<PaymentRow>,
    row: Option<CancellationRow>,
    units: Vec<LineQuantity>,
    items: Vec<ItemRow>,
}

impl Look for Before {
    type Seen = Seen;

    async fn look(&self, conn: &Conn) -> Result<Seen, DbError> {
        let (order, payment, row, units, items) = futures_util::join!(
            db::orders::lock_at(conn, self.target.order),
            db::payments::lock(conn, self.target.payment),
            cancellations::lock(conn, self.id),
            cancellations::units(conn, self.id),
            db::orders::items(conn, self.target.order),
        );
        Ok(Seen { order: order?, payment: payment?, row: row?, units: units?, items: items? })
    }
}

fn answer(batch: &mut Batch<'_>, row: &CancellationRow, view: &view::CancellationView) -> Result<(), ResolveError> {
    let (conn, id) = (batch.conn(), row.id.uuid());
    let status = match row.status {
        CancellationStatus::Requested => {
            batch.add(idempotency::end_lease(conn, id));
            return Ok(());
        }
        CancellationStatus::Done => 200,
        CancellationStatus::Refused => 409,
    };
    let response = view::stored(status, view)?;
    batch.add(async move { idempotency::answer(conn, id, &response).await });
    Ok(())
}

/// One resolution in progress: the rows locked, and what every event of it says. The rows are as they will be once what
/// is in the batch is written.
struct CancelStep<'a> {
    /// What is to be written at the end, in this order.
    batch: Batch<'a>,
    order: OrderRow,
    payment: PaymentRow,
    row: CancellationRow,
    units: Vec<LineQuantity>,
    /// The order's lines when they were looked at.
    items: Vec<ItemRow>,
    /// The database's clock.
    now: DateTime<Utc>,
    call: Option<&'a Call>,
    origin: &'a Origin,
    after: AfterCommit,
}

impl<'a> CancelStep<'a> {
    /// The connection, for what needs answers: everything that was collected is written first.
    async fn conn(&mut self) -> Result<&'a Conn, DbError> {
        self.batch.send().await?;
        Ok(self.batch.conn())
    }

    async fn apply(&mut self, evidence: CancelEvidence) -> Result<bool, ResolveError> {
        if self.row.status != CancellationStatus::Requested {
            return Ok(false);
        }
        let verdict = decide_cancel(self.row.id, self.row.amount, self.row.origin, self.payment.status, evidence);
        match verdict {
            CancelVerdict::Done(cancel) => self.done(&cancel).await.map(|()| true),
            CancelVerdict::Refuse(refusal) => self.refuse(&refusal).await.map(|()| true),
            CancelVerdict::StillOpen(doubt) => self.still_open(&doubt).await.map(|()| false),
        }
    }

    async fn done(&mut self, cancel: &PgCancel) -> Result<(), ResolveError> {
        let before = self.payment.status;
        // An account that is closed before its deposit gives nothing back.
        let moved = if before == PaymentStatus::AwaitingDeposit { 0 } else { self.row.amount };
        doubt::cancellation_changes(&self.row, &self.payment.provider, CancellationEvent::Done, None);
        if moved > 0 {
            once_committed(Fact::Moved(MoneyMove::Cancel, Money::new(moved, self.payment.currency)));
        }
        let canceled_at = cancel.canceled_at.unwrap_or_else(crate::clock::now);
        let (conn, id, key) = (self.batch.conn(), self.row.id, cancel.transaction_key.clone());
        self.row = self.row.finished(canceled_at, self.now);
        self.batch.add(cancellations::finish(conn, id, key, canceled_at, moved));
        self.event(CancellationEvent::Done, json!({ "amount": self.row.amount, "moved": moved }))?;
        let is_empty = self.move_money(canceled_at, moved)?;
        match before {
            PaymentStatus::Approved | PaymentStatus::PartiallyCanceled if is_empty => {
                self.take_remaining_units().await?;
                self.order_to(OrderEvent::Canceled)?;
            }
            PaymentStatus::Approved | PaymentStatus::PartiallyCanceled => {
                self.order_to(OrderEvent::PartiallyCanceled)?;
            }
            PaymentStatus::AwaitingDeposit => self.order_to(OrderEvent::CanceledUnpaid)?,
            // A reversal's order has gone its own way.
            PaymentStatus::Reversing
            | PaymentStatus::Ready
            | PaymentStatus::Confirming
            | PaymentStatus::Canceled
            | PaymentStatus::Declined
            | PaymentStatus::Expired => {}
        }
        self.settle_units(LineOutcome::Canceled);
        // The order of a reversal gave the stock back when it began.
        if before != PaymentStatus::Reversing {
            for unit in &self.units {
                if let Some(item) = self.items.iter().find(|item| item.line == unit.line) {
                    self.after.restore(item.product_id, i64::from(unit.quantity));
                }
            }
        }
        self.compensate_rest().await
    }

    /// Whoever cancels the last of the money gives all units back. A cancel planned as a part becomes the last one if
    /// the rest went back meanwhile in the PG's console.
    async fn take_remaining_units(&mut self) -> Result<(), ResolveError> {
        let rest = remaining(&as_lines(&self.items, self.order.currency));
        if rest.is_empty() {
            return Ok(());
        }
        let conn = self.conn().await?;
        if !db::orders::take_line_capacity(conn, self.order.id, &rest).await? {
            return Err(ResolveError::Intent("the units that are left could not be taken".to_owned()));
        }
        cancellations::add_units(conn, self.row.id, self.order.id, &rest).await?;
        self.units = cancellations::units(conn, self.row.id).await?;
        Ok(())
    }

    fn settle_units(&mut self, outcome: LineOutcome) {
        let (conn, order) = (self.batch.conn(), self.order.id);
        for unit in self.units.clone() {
            self.batch.add(db::orders::settle_unit_capacity(conn, order, unit, outcome));
        }
    }

    /// A reversal whose cancellation ended with money left needs another one, until nothing is left.
    async fn compensate_rest(&mut self) -> Result<(), ResolveError> {
        if self.payment.status != PaymentStatus::Reversing {
            return Ok(());
        }
        let conn = self.conn().await?;
        let payment = db::payments::find(conn, self.payment.id).await?.ok_or(ResolveError::Missing)?;
        if payment.balance() <= 0 {
            return Ok(());
        }
        let intent = cancel::Intent {
            order: &self.order,
            payment: &payment,
            scope: CancelScope::Everything,
            reason: "returned automatically (the rest)",
            origin: CancellationOrigin::Compensation,
            needs_account: false,
            recover_after: Duration::ZERO,
        };
        cancel::write_intent(conn, intent, self.origin).await.map_err(|e| ResolveError::Intent(e.to_string()))
    }

    /// Moves the amount from taken to canceled; `true` if nothing is left.
    fn move_money(&mut self, canceled_at: DateTime<Utc>, moved: i64) -> Result<bool, ResolveError> {
        let canceled = self.payment.canceled_amount + moved;
        let is_empty = canceled == self.payment.approved_amount.unwrap_or(0);
        let event = if is_empty { PaymentEvent::Canceled } else { PaymentEvent::PartiallyCanceled };
        let from = self.payment.status;
        let to = payment::next(from, event)?;
        let change = PaymentChange {
            status: Some(to),
            canceled_amount: Some(canceled),
            canceling_amount: Some(self.payment.canceling_amount - self.row.amount),
            canceled_at: is_empty.then_some(canceled_at),
            inquire_at: is_empty.then_some(None),
            ..PaymentChange::default()
        };
        self.payment = self.payment.changed(&change, self.now);
        let (conn, id) = (self.batch.conn(), self.payment.id);
        self.batch.add(db::payments::change(conn, id, change));
        let detail = json!({ "amount": moved, "cancellation": self.row.id });
        self.append(self.payment.version, Subject::Payment { id, event, from: Some(from), to }, detail);
        Ok(is_empty)
    }

    async fn refuse(&mut self, refusal: &Refusal) -> Result<(), ResolveError> {
        doubt::cancellation_changes(&self.row, &self.payment.provider, CancellationEvent::Refused, None);
        let conn = self.conn().await?;
        self.row = cancellations::set_refused(conn, self.row.id, refusal).await?;
        self.batch.add(db::payments::release_capacity(conn, self.payment.id, self.row.amount));
        self.settle_units(LineOutcome::Released);
        let detail = json!({ "class": refusal.class.as_str(), "code": refusal.code });
        self.event(CancellationEvent::Refused, detail)?;
        self.compensate_rest().await
    }

    async fn still_open(&mut self, doubt: &Doubt) -> Result<(), ResolveError> {
        let wait = recovery::wait(self.row.inquiries);
        if self.row.doubt.is_some() {
            let noted = self.call.is_some_and(|call| call.operation != "inquire").then_some(doubt.reason);
            cancellations::postpone(self.conn().await?, self.row.id, wait, noted, 0).await?;
            return Ok(());
        }
        let unknown = CancellationEvent::OutcomeUnknown;
        doubt::cancellation_changes(&self.row, &self.payment.provider, unknown, Some(doubt.reason));
        self.row.version = cancellations::set_doubt(self.conn().await?, self.row.id, doubt.reason, wait).await?;
        let detail = json!({ "doubt": doubt.reason.as_str(), "code": doubt.code });
        self.event(unknown, detail)
    }

    fn event(&mut self, event: CancellationEvent, mut detail: Value) -> Result<(), ResolveError> {
        let from = CancellationStatus::Requested;
        let to = cancellation::next(from, event)?;
        if let (Some(call), Some(object)) = (self.call, detail.as_object_mut()) {
            object.insert("call".to_owned(), serde_json::to_value(call)?);
        }
        let subject = Subject::Cancellation { id: self.row.id, event, from: Some(from), to };
        self.append(self.row.version, subject, detail);
        Ok(())
    }

    /// Appends an event; none of a cancellation's needs a look at the history.
    fn append(&mut self, seq: i32, subject: Subject, detail: Value) {
        debug_assert!(!events::needs_a_look(subject), "{subject:?}");
        self.batch.event(NewEvent::new(self.order.id, seq, subject, self.origin, detail));
    }

    fn order_to(&mut self, event: OrderEvent) -> Result<(), ResolveError> {
        let from = self.order.status;
        let to = order::next(from, event)?;
        let (conn, id) = (self.batch.conn(), self.order.id);
        self.batch.add(async move { db::orders::set_status(conn, id, to).await.map(drop) });
        (self.order.status, self.order.version, self.order.updated_at) = (to, self.order.version + 1, self.now);
        self.append(self.order.version, Subject::Order { event, from: Some(from), to }, json!({}));
        Ok(())
    }
}

/// Counts the units of a cancellation that is done as canceled; their stock comes back at the end.
pub(super) async fn restore(
    conn: &Conn,
    after: &mut AfterCommit,
    order: OrderId,
    units: &[LineQuantity],
) -> Result<(), DbError> {
    if units.is_empty() {
        return Ok(());
    }
    db::orders::settle_line_capacity(conn, order, units, LineOutcome::Canceled).await?;
    let items = db::orders::items(conn, order).await?;
    for unit in units {
        if let Some(item) = items.iter().find(|item| item.line == unit.line) {
            after.restore(item.product_id, i64::from(unit.quantity));
        }
    }
    Ok(())
}

/// The order's lines as a cancel sees them.
pub(super) async fn lines(conn: &Conn, order: OrderId, currency: Currency) -> Result<Vec<Line>, DbError> {
    Ok(as_lines(&db::orders::items(conn, order).await?, currency))
}

/// Lines as a cancel sees them.
pub(super) fn as_lines(items: &[ItemRow], currency: Currency) -> Vec<Line> {
    let line = |item: &ItemRow| Line {
        line: item.line,
        unit_price: Money::new(item.unit_price, currency),
        quantity: item.quantity,
        canceled: item.canceled_quantity + item.canceling_quantity,
    };
    items.iter().map(line).collect()
}

/// How long a request that was just written belongs to whoever wrote it.
#[must_use]
pub(super) fn recover_after(app: &App) -> Duration {
    app.settings.provider_deadline + app.settings.recovery_grace
}
