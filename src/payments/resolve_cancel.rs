//! Turns evidence about a cancellation into state: one transaction that moves the amounts, stamps the time, gives
//! the stock back and stores the answer; or gives the capacity back.

use std::time::Duration;

use serde_json::{Value, json};

use super::after_commit::AfterCommit;
use super::resolve::{ResolveError, Target};
use super::{again, cancel, doubt, recovery, told, view};
use crate::app::App;
use crate::db::cancellations::{self, CancellationRow};
use crate::db::events::{self, Origin, Subject};
use crate::db::idempotency;
use crate::db::orders::{LineOutcome, OrderRow};
use crate::db::payments::{PaymentChange, PaymentRow};
use crate::db::told::{Fact, once_committed};
use crate::db::{self, Conn, DbError};
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
    app.db
        .transaction(Tx::CancelResolve, async |conn| {
            let (order, _) = db::orders::lock(conn, target.order).await?.ok_or(ResolveError::Missing)?;
            let payment = db::payments::lock(conn, target.payment).await?.ok_or(ResolveError::Missing)?;
            let row = cancellations::lock(conn, id).await?.ok_or(ResolveError::Missing)?;
            let units = cancellations::units(conn, id).await?;
            let currency = payment.currency;
            ledger::paid_by(payment.method);
            let after = AfterCommit::default();
            let mut step = CancelStep { conn, order, payment, row, units, call, origin, after };
            let changed = step.apply(evidence).await?;
            let CancelStep { conn, row, units, after, .. } = step;
            let view = view::cancellation(&row, &units, currency.code());
            answer(conn, &row, &view).await?;
            after.give_back(conn).await?;
            Ok((CancelResolution { cancellation: row, view, changed }, after, currency))
        })
        .await
}

async fn answer(conn: &mut Conn, row: &CancellationRow, view: &view::CancellationView) -> Result<(), ResolveError> {
    let id = row.id.uuid();
    match row.status {
        CancellationStatus::Requested => idempotency::end_lease(conn, id).await?,
        CancellationStatus::Done => idempotency::answer(conn, id, &view::stored(200, view)?).await?,
        CancellationStatus::Refused => idempotency::answer(conn, id, &view::stored(409, view)?).await?,
    }
    Ok(())
}

struct CancelStep<'a> {
    conn: &'a mut Conn,
    order: OrderRow,
    payment: PaymentRow,
    row: CancellationRow,
    units: Vec<LineQuantity>,
    call: Option<&'a Call>,
    origin: &'a Origin,
    after: AfterCommit,
}

impl CancelStep<'_> {
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
        self.row = cancellations::set_done(self.conn, self.row.id, cancel, moved).await?;
        self.event(CancellationEvent::Done, json!({ "amount": self.row.amount, "moved": moved })).await?;
        let is_empty = self.move_money(cancel, moved).await?;
        match before {
            PaymentStatus::Approved | PaymentStatus::PartiallyCanceled if is_empty => {
                self.take_remaining_units().await?;
                self.order_to(OrderEvent::Canceled).await?;
            }
            PaymentStatus::Approved | PaymentStatus::PartiallyCanceled => {
                self.order_to(OrderEvent::PartiallyCanceled).await?;
            }
            PaymentStatus::AwaitingDeposit => self.order_to(OrderEvent::CanceledUnpaid).await?,
            // A reversal's order has gone its own way.
            PaymentStatus::Reversing
            | PaymentStatus::Ready
            | PaymentStatus::Confirming
            | PaymentStatus::Canceled
            | PaymentStatus::Declined
            | PaymentStatus::Expired => {}
        }
        if before == PaymentStatus::Reversing {
            // Its order gave the stock back when the reversal began.
            let (order, units) = (self.order.id, &self.units);
            db::orders::settle_line_capacity(self.conn, order, units, LineOutcome::Canceled).await?;
        } else {
            restore(self.conn, &mut self.after, self.order.id, &self.units).await?;
        }
        self.compensate_rest().await
    }

    /// Whoever cancels the last of the money gives all units back. A cancel planned as a part becomes the last one if
    /// the rest went back meanwhile in the PG's console.
    async fn take_remaining_units(&mut self) -> Result<(), ResolveError> {
        let rest = remaining(&lines(self.conn, self.order.id, self.order.currency).await?);
        if rest.is_empty() {
            return Ok(());
        }
        if !db::orders::take_line_capacity(self.conn, self.order.id, &rest).await? {
            return Err(ResolveError::Intent("the units that are left could not be taken".to_owned()));
        }
        cancellations::add_units(self.conn, self.row.id, self.order.id, &rest).await?;
        self.units = cancellations::units(self.conn, self.row.id).await?;
        Ok(())
    }

    /// A reversal whose cancellation ended with money left needs another one, until nothing is left.
    async fn compensate_rest(&mut self) -> Result<(), ResolveError> {
        let payment = db::payments::find(self.conn, self.payment.id).await?.ok_or(ResolveError::Missing)?;
        if payment.status != PaymentStatus::Reversing || payment.balance() <= 0 {
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
        cancel::write_intent(self.conn, intent, self.origin).await.map_err(|e| ResolveError::Intent(e.to_string()))
    }

    /// Moves the amount from taken to canceled; `true` if nothing is left.
    async fn move_money(&mut self, cancel: &PgCancel, moved: i64) -> Result<bool, ResolveError> {
        let canceled = self.payment.canceled_amount + moved;
        let is_empty = canceled == self.payment.approved_amount.unwrap_or(0);
        let event = if is_empty { PaymentEvent::Canceled } else { PaymentEvent::PartiallyCanceled };
        let from = self.payment.status;
        let to = payment::next(from, event)?;
        let change = PaymentChange {
            status: Some(to),
            canceled_amount: Some(canceled),
            canceling_amount: Some(self.payment.canceling_amount - self.row.amount),
            canceled_at: is_empty.then(|| cancel.canceled_at.unwrap_or_else(crate::clock::now)),
            inquire_at: is_empty.then_some(None),
            ..PaymentChange::default()
        };
        self.payment = db::payments::apply(self.conn, self.payment.id, change).await?;
        let subject = Subject::Payment { id: self.payment.id, event, from: Some(from), to };
        let detail = json!({ "amount": moved, "cancellation": self.row.id });
        events::append(self.conn, self.order.id, self.payment.version, subject, self.origin, detail).await?;
        Ok(is_empty)
    }

    async fn refuse(&mut self, refusal: &Refusal) -> Result<(), ResolveError> {
        doubt::cancellation_changes(&self.row, &self.payment.provider, CancellationEvent::Refused, None);
        self.row = cancellations::set_refused(self.conn, self.row.id, refusal).await?;
        db::payments::release_capacity(self.conn, self.payment.id, self.row.amount).await?;
        db::orders::settle_line_capacity(self.conn, self.order.id, &self.units, LineOutcome::Released).await?;
        let detail = json!({ "class": refusal.class.as_str(), "code": refusal.code });
        self.event(CancellationEvent::Refused, detail).await?;
        self.compensate_rest().await
    }

    async fn still_open(&mut self, doubt: &Doubt) -> Result<(), ResolveError> {
        let wait = recovery::wait(self.row.inquiries);
        if self.row.doubt.is_some() {
            let noted = self.call.is_some_and(|call| call.operation != "inquire").then_some(doubt.reason);
            cancellations::postpone(self.conn, self.row.id, wait, noted, 0).await?;
            return Ok(());
        }
        let unknown = CancellationEvent::OutcomeUnknown;
        doubt::cancellation_changes(&self.row, &self.payment.provider, unknown, Some(doubt.reason));
        self.row.version = cancellations::set_doubt(self.conn, self.row.id, doubt.reason, wait).await?;
        let detail = json!({ "doubt": doubt.reason.as_str(), "code": doubt.code });
        self.event(unknown, detail).await
    }

    async fn event(&mut self, event: CancellationEvent, mut detail: Value) -> Result<(), ResolveError> {
        let from = CancellationStatus::Requested;
        let to = cancellation::next(from, event)?;
        if let (Some(call), Some(object)) = (self.call, detail.as_object_mut()) {
            object.insert("call".to_owned(), serde_json::to_value(call)?);
        }
        let subject = Subject::Cancellation { id: self.row.id, event, from: Some(from), to };
        events::append(self.conn, self.order.id, self.row.version, subject, self.origin, detail).await?;
        Ok(())
    }

    async fn order_to(&mut self, event: OrderEvent) -> Result<(), ResolveError> {
        let from = self.order.status;
        let to = order::next(from, event)?;
        let version = db::orders::set_status(self.conn, self.order.id, to).await?;
        (self.order.status, self.order.version) = (to, version);
        let subject = Subject::Order { event, from: Some(from), to };
        events::append(self.conn, self.order.id, version, subject, self.origin, json!({})).await?;
        Ok(())
    }
}

/// Counts the units of a cancellation that is done as canceled; their stock comes back at the end.
pub(super) async fn restore(
    conn: &mut Conn,
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
pub(super) async fn lines(conn: &mut Conn, order: OrderId, currency: Currency) -> Result<Vec<Line>, DbError> {
    let items = db::orders::items(conn, order).await?;
    let line = |item: &db::orders::ItemRow| Line {
        line: item.line,
        unit_price: Money::new(item.unit_price, currency),
        quantity: item.quantity,
        canceled: item.canceled_quantity + item.canceling_quantity,
    };
    Ok(items.iter().map(line).collect())
}

/// How long a request that was just written belongs to whoever wrote it.
#[must_use]
pub(super) fn recover_after(app: &App) -> Duration {
    app.settings.provider_deadline + app.settings.recovery_grace
}
