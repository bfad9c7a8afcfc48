//! The intent to cancel: the capacity is taken, the cancellation written and the key claimed, in one transaction; or it
//! is told why not.
//!
//! Usually nothing is in the way: then what was looked at is locked, and everything is written at once. Otherwise, and if
//! somebody comes between the two, it is done step by step, which tells what is wrong.

use chrono::{DateTime, Utc};

use super::{Cancel, CancelError, Go, Intended, Intent, Stop, build, check, requested, write_intent_as};
use crate::app::App;
use crate::db::batch::Batch;
use crate::db::cancellations;
use crate::db::events::{NewEvent, Origin};
use crate::db::idempotency::{self, Scope};
use crate::db::orders::{ItemRow, OrderRow};
use crate::db::payments::PaymentRow;
use crate::db::{self, Conn, DbError, Look};
use crate::domain::cancellation::CancellationOrigin;
use crate::domain::ids::{CancellationId, PaymentId};
use crate::domain::payment::{Method, PaymentStatus};
use crate::domain::stock::{CancelPlan, plan_cancel};
use crate::payments::claim::{Claim, claim};
use crate::payments::resolve_cancel;
use crate::telemetry::labels::{ProviderOperation, Tx};
use crate::telemetry::ledger;

/// What is asked, under which key, by whom.
type Asked<'a> = (&'a Cancel, &'a Scope, &'a Origin);

/// Writes the intent, or tells what stands against it.
pub(super) async fn intend(
    app: &App,
    request: &Cancel,
    scope: &Scope,
    origin: &Origin,
) -> Result<Intended, CancelError> {
    let asked = (request, scope, origin);
    let look = Before { payment: request.payment, scope };
    let work = app.db.transaction_after(Tx::CancelIntend, look, async |conn, seen| match seen.plan(request) {
        Some((seen, plan)) => at_once(conn, app, asked, seen, plan).await,
        None => step_by_step(conn, app, asked).await,
    });
    let mut intended = work.await;
    if let Err(Stop::Refused(CancelError::Db(DbError::Constraint(_)))) = &intended {
        // Somebody came between the look and the writing; this way tells what is wrong now.
        let work = app.db.transaction(Tx::CancelIntend, async |conn| step_by_step(conn, app, asked).await);
        intended = work.await;
    }
    match intended {
        Ok(go) => Ok(Intended::Go(Box::new(go))),
        Err(Stop::Replay(response)) => Ok(Intended::Replay(response)),
        Err(Stop::Known(id)) => Ok(Intended::Known(id)),
        Err(Stop::Refused(error)) => Err(error),
    }
}

/// What a cancel looks at before its intent is written.
struct Before<'a> {
    payment: PaymentId,
    scope: &'a Scope,
}

/// What it saw there: order and payment are locked.
struct Seen {
    order: Option<(OrderRow, DateTime<Utc>)>,
    payment: Option<PaymentRow>,
    key_is_free: bool,
    has_open: bool,
    items: Vec<ItemRow>,
}

/// The locked rows of a cancel that nothing is in the way of.
struct Clear {
    order: OrderRow,
    payment: PaymentRow,
    /// The database's clock.
    now: DateTime<Utc>,
}

impl Look for Before<'_> {
    type Seen = Seen;

    async fn look(&self, conn: &Conn) -> Result<Seen, DbError> {
        let (order, payment, known, open, items) = futures_util::join!(
            db::orders::lock_of_payment(conn, self.payment),
            db::payments::lock(conn, self.payment),
            idempotency::find(conn, self.scope),
            cancellations::open_of(conn, self.payment),
            db::orders::items_of_payment(conn, self.payment),
        );
        // In the order in which they were sent: the first that failed is why the others did.
        let (order, payment) = (order?, payment?);
        let (key_is_free, has_open) = (known?.is_none(), open?.is_some());
        Ok(Seen { order, payment, key_is_free, has_open, items: items? })
    }
}

impl Seen {
    /// What the cancel takes, if nothing is in the way.
    fn plan(self, request: &Cancel) -> Option<(Clear, CancelPlan)> {
        let ((order, now), payment) = (self.order?, self.payment?);
        let keeps_money = matches!(payment.status, PaymentStatus::Approved | PaymentStatus::PartiallyCanceled);
        if !keeps_money || !self.key_is_free || self.has_open || check(&payment, request).is_err() {
            return None;
        }
        let lines = resolve_cancel::as_lines(&self.items, order.currency);
        let plan = plan_cancel(&request.scope, payment.balance(), &lines).ok()?;
        Some((Clear { order, payment, now }, plan))
    }
}

fn intent<'a>(app: &App, request: &'a Cancel, order: &'a OrderRow, payment: &'a PaymentRow) -> Intent<'a> {
    let deposited = payment.status != PaymentStatus::AwaitingDeposit;
    Intent {
        order,
        payment,
        scope: request.scope.clone(),
        reason: &request.reason,
        origin: CancellationOrigin::Request,
        needs_account: payment.method == Some(Method::VirtualAccount) && deposited,
        recover_after: resolve_cancel::recover_after(app),
    }
}

/// Writes everything in one go. What is refused meanwhile undoes all of it.
async fn at_once(
    conn: &Conn,
    app: &App,
    (request, scope, origin): Asked<'_>,
    Clear { order, payment, now }: Clear,
    plan: CancelPlan,
) -> Result<Go, Stop> {
    ledger::paid_by(payment.method);
    // Only now is the PG needed; no capacity is taken for a request that it would turn away.
    let permit = app.provider.admit(ProviderOperation::Cancel).map_err(CancelError::from)?;
    let (id, is_full) = (CancellationId::new(), plan.is_full);
    let intent = intent(app, request, &order, &payment);
    let needs_account = intent.needs_account;
    let new = intent.new_cancellation(id, plan, origin);
    let (row, units) = (new.row(now), new.units.clone());
    let (lease, keep) = (app.settings.idempotency_lease, app.settings.idempotency_keep);
    let (subject, detail) = requested(&row);
    let mut batch = Batch::new(conn);
    batch.add(db::payments::take_known_capacity(conn, payment.id, row.amount));
    for unit in &units {
        batch.add(db::orders::take_unit_capacity(conn, order.id, *unit));
    }
    batch.add(cancellations::write(conn, new));
    for unit in &units {
        batch.add(cancellations::write_unit(conn, id, order.id, *unit));
    }
    batch.add(idempotency::claim_free(conn, scope, id.uuid(), lease, keep));
    batch.event(NewEvent::new(order.id, row.version, subject, origin, detail));
    batch.commit().await?;
    let account = request.refund_account.clone().filter(|_| needs_account);
    let request = build(&payment, &row, is_full, account);
    Ok(Go { order, confirmed_in: payment.trace_id, cancellation: row, request, permit })
}

/// Writes one thing after the other, each after a look at what became of the one before.
async fn step_by_step(conn: &Conn, app: &App, (request, scope, origin): Asked<'_>) -> Result<Go, Stop> {
    let unlocked = db::payments::find(conn, request.payment).await?.ok_or(CancelError::PaymentNotFound)?;
    let (order, _) = db::orders::lock(conn, unlocked.order_id).await?.ok_or(CancelError::PaymentNotFound)?;
    let payment = db::payments::lock(conn, request.payment).await?.ok_or(CancelError::PaymentNotFound)?;
    ledger::paid_by(payment.method);
    let id = CancellationId::new();
    match claim(conn, scope, id.uuid(), &app.settings).await? {
        Claim::Fresh => {}
        Claim::Done(response) => return Err(Stop::Replay(response)),
        Claim::Unresolved(known) => return Err(Stop::Known(CancellationId::from(known))),
        Claim::InFlight => return Err(CancelError::KeyInFlight.into()),
        Claim::Mismatch => return Err(CancelError::KeyMismatch.into()),
    }
    check(&payment, request)?;
    // Only now is the PG needed; no capacity is taken for a request that it would turn away.
    let permit = app.provider.admit(ProviderOperation::Cancel).map_err(CancelError::from)?;
    let intent = intent(app, request, &order, &payment);
    let needs_account = intent.needs_account;
    let (cancellation, is_full) = write_intent_as(conn, id, intent, origin).await?;
    if payment.status == PaymentStatus::AwaitingDeposit && !is_full {
        return Err(CancelError::PartialNotAllowed.into());
    }
    // An account that is not needed is not sent: recovery, which has none, must be able to repeat the request.
    let account = request.refund_account.clone().filter(|_| needs_account);
    let request = build(&payment, &cancellation, is_full, account);
    Ok(Go { order, confirmed_in: payment.trace_id, cancellation, request, permit })
}
