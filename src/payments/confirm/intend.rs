//! The intent to confirm: the hold is frozen, the payment written and the key claimed, in one transaction; or it is told
//! why not.
//!
//! Usually nothing is in the way: then what was looked at is locked, and everything is written at once. Otherwise, and if
//! somebody comes between the two, it is done step by step, which tells what is wrong.

use chrono::{DateTime, Utc};
use futures_util::TryFutureExt as _;
use serde_json::{Value, json};

use super::{Confirm, ConfirmError};
use crate::app::App;
use crate::db::batch::Batch;
use crate::db::events::{self, NewEvent, Origin, Subject};
use crate::db::idempotency::{self, Response, Scope};
use crate::db::orders::OrderRow;
use crate::db::payments::{NewConfirm, PaymentRow};
use crate::db::{self, Conn, DbError, Look};
use crate::domain::ids::PaymentId;
use crate::domain::order::{OrderEvent, OrderStatus};
use crate::domain::payment::{PaymentEvent, PaymentStatus};
use crate::payments::claim::{Claim, claim};
use crate::payments::resolve::Target;
use crate::payments::resolve_cancel;
use crate::provider::ConfirmRequest;
use crate::provider::protection::{Permit, Refused};
use crate::telemetry::labels::{ProviderOperation, Tx};

/// A committed intent.
pub(super) struct Go {
    pub(super) order: OrderRow,
    pub(super) payment: PaymentRow,
    pub(super) request: ConfirmRequest,
    pub(super) permit: Permit,
}

/// What became of a wish to confirm.
pub(super) enum Intended {
    Go(Box<Go>),
    Known(PaymentId),
    Replay(Response),
}

/// Writes the intent, or tells what stands against it.
pub(super) async fn intend(
    app: &App,
    request: &Confirm,
    scope: &Scope,
    origin: &Origin,
) -> Result<Intended, ConfirmError> {
    let look = Before { request, scope, provider: app.provider.name() };
    let work = app.db.transaction_after(Tx::ConfirmIntend, look, async |conn, seen| {
        // The hold is not frozen for a request that the PG would turn away; what is known is told without it.
        match (app.provider.admit(ProviderOperation::Confirm), seen) {
            (Ok(permit), Some((order, now))) => at_once(conn, app, (request, scope, origin), order, now, permit).await,
            (admitted, _) => step_by_step(conn, app, (request, scope, origin), admitted).await,
        }
    });
    let mut intended = work.await;
    if let Err(Stop::Refused(ConfirmError::Db(DbError::Constraint(_)))) = &intended {
        // Somebody came between the look and the writing; this way tells what is wrong now.
        let work = app.db.transaction(Tx::ConfirmIntend, async |conn| {
            let admitted = app.provider.admit(ProviderOperation::Confirm);
            step_by_step(conn, app, (request, scope, origin), admitted).await
        });
        intended = work.await;
    }
    match intended {
        Ok(go) => Ok(Intended::Go(Box::new(go))),
        Err(Stop::Replay(response)) => Ok(Intended::Replay(response)),
        Err(Stop::Known(payment)) => Ok(Intended::Known(payment)),
        Err(Stop::Refused(error)) => Err(error),
    }
}

/// What a confirm looks at before its intent is written.
struct Before<'a> {
    request: &'a Confirm,
    scope: &'a Scope,
    provider: &'static str,
}

impl Look for Before<'_> {
    /// The order and the database's clock, if nothing seems to be in the way.
    type Seen = Option<(OrderRow, DateTime<Utc>)>;

    async fn look(&self, conn: &Conn) -> Result<Self::Seen, DbError> {
        let request = self.request;
        let (order, payment, known) = futures_util::join!(
            db::orders::lock_payable(conn, request.order_id, request.amount),
            db::payments::find_by_key(conn, self.provider, &request.payment_key),
            idempotency::find(conn, self.scope),
        );
        // In the order in which they were sent: the first that failed is why the others did.
        let (order, payment, known) = (order?, payment?, known?);
        Ok(order.filter(|_| payment.is_none() && known.is_none()))
    }
}

/// What is asked, under which key, by whom.
type Asked<'a> = (&'a Confirm, &'a Scope, &'a Origin);

/// Writes everything in one go. What is refused meanwhile undoes all of it.
async fn at_once(
    conn: &Conn,
    app: &App,
    (request, scope, origin): Asked<'_>,
    mut order: OrderRow,
    now: DateTime<Utc>,
    permit: Permit,
) -> Result<Go, Stop> {
    let new = new_confirm(app, request, &order, origin);
    let payment = new.row(now);
    (order.status, order.version, order.updated_at) = (OrderStatus::Confirming, order.version + 1, now);
    let (lease, keep) = (app.settings.idempotency_lease, app.settings.idempotency_keep);
    let mut batch = Batch::new(conn);
    batch.add(db::orders::set_status(conn, order.id, OrderStatus::Confirming).map_ok(drop));
    batch.add(db::payments::insert_confirm(conn, new));
    batch.add(idempotency::claim_free(conn, scope, payment.id.uuid(), lease, keep));
    for (subject, seq, detail) in started(&order, &payment) {
        batch.event(NewEvent::new(order.id, seq, subject, origin, detail));
    }
    batch.commit().await?;
    let request = to_send(request, &order, &payment);
    Ok(Go { order, payment, request, permit })
}

/// Writes one thing after the other, each after a look at what became of the one before.
async fn step_by_step(
    conn: &Conn,
    app: &App,
    (request, scope, origin): Asked<'_>,
    admitted: Result<Permit, Refused>,
) -> Result<Go, Stop> {
    // Order and payment are locked first, as everywhere; if the key then says stop, they are as they were.
    let frozen = match &admitted {
        Ok(_) => db::orders::freeze_hold(conn, request.order_id, request.amount).await?,
        Err(_) => None,
    };
    let payment = match &frozen {
        Some(order) => db::payments::begin_confirm(conn, new_confirm(app, request, order, origin)).await?,
        None => None,
    };
    let id = payment.as_ref().map_or_else(PaymentId::new, |payment| payment.id);
    match claim(conn, scope, id.uuid(), &app.settings).await? {
        Claim::Fresh => {}
        Claim::Done(response) => return Err(Stop::Replay(response)),
        Claim::Unresolved(payment) => return Err(Stop::Known(PaymentId::from(payment))),
        Claim::InFlight => return Err(Stop::Refused(ConfirmError::KeyInFlight)),
        Claim::Mismatch => return Err(Stop::Refused(ConfirmError::KeyMismatch)),
    }
    let permit = match admitted {
        Ok(permit) => permit,
        Err(refused) => return Err(why_not(conn, app, request, refused.into()).await?),
    };
    match (frozen, payment) {
        (Some(order), Some(payment)) => {
            let request = write(conn, request, &order, &payment, origin).await?;
            Ok(Go { order, payment, request, permit })
        }
        (Some(_), None) => Err(known_payment(conn, app, request).await?),
        (None, _) => Err(why_not(conn, app, request, ConfirmError::OrderExpired).await?),
    }
}

/// Why the intent's transaction is rolled back.
enum Stop {
    Replay(Response),
    Known(PaymentId),
    Refused(ConfirmError),
}

impl From<DbError> for Stop {
    fn from(error: DbError) -> Self {
        Self::Refused(ConfirmError::Db(error))
    }
}

fn new_confirm(app: &App, request: &Confirm, order: &OrderRow, origin: &Origin) -> NewConfirm {
    NewConfirm {
        id: PaymentId::new(),
        order_id: order.id,
        provider: app.provider.name(),
        payment_key: request.payment_key.clone(),
        total: order.total(),
        recover_after: resolve_cancel::recover_after(app),
        trace_id: origin.trace_id.clone(),
    }
}

async fn write(
    conn: &Conn,
    request: &Confirm,
    order: &OrderRow,
    payment: &PaymentRow,
    origin: &Origin,
) -> Result<ConfirmRequest, Stop> {
    for (subject, seq, detail) in started(order, payment) {
        events::append(conn, order.id, seq, subject, origin, detail).await?;
    }
    Ok(to_send(request, order, payment))
}

/// The events of a confirm that begins, of the order and of the payment.
fn started(order: &OrderRow, payment: &PaymentRow) -> [(Subject, i32, Value); 2] {
    let of_order = Subject::Order {
        event: OrderEvent::ConfirmStarted,
        from: Some(OrderStatus::Pending),
        to: OrderStatus::Confirming,
    };
    let from = (payment.version > 1).then_some(PaymentStatus::Ready);
    let of_payment =
        Subject::Payment { id: payment.id, event: PaymentEvent::ConfirmStarted, from, to: PaymentStatus::Confirming };
    let detail = json!({ "amount": order.amount, "attempt": payment.confirm_attempt });
    [(of_order, order.version, json!({})), (of_payment, payment.version, detail)]
}

fn to_send(request: &Confirm, order: &OrderRow, payment: &PaymentRow) -> ConfirmRequest {
    ConfirmRequest {
        payment_key: request.payment_key.clone(),
        order_id: order.id,
        amount: order.total(),
        idempotency_key: payment.confirm_key(),
    }
}

/// Takes over a payment that the PG has approved and our books lost, by the intent that a confirm of it would write;
/// nothing is sent. `None` if the order cannot be paid (any more), exactly as for a confirm.
pub(in crate::payments) async fn adopt(
    app: &App,
    request: &Confirm,
    origin: &Origin,
) -> Result<Option<Target>, DbError> {
    let adopted = app
        .db
        .transaction(Tx::ConfirmIntend, async |conn| {
            let frozen = db::orders::freeze_hold(conn, request.order_id, request.amount).await?;
            let Some(order) = frozen else { return Err(Stop::Refused(ConfirmError::OrderExpired)) };
            let new = new_confirm(app, request, &order, origin);
            let Some(payment) = db::payments::begin_confirm(conn, new).await? else {
                return Err(known_payment(conn, app, request).await?);
            };
            write(conn, request, &order, &payment, origin).await?;
            Ok((order, payment))
        })
        .await;
    match adopted {
        Ok((order, payment)) => Ok(Some(Target { payment: payment.id, order: order.id, seen: Some(payment.version) })),
        Err(Stop::Refused(ConfirmError::Db(error))) => Err(error),
        Err(Stop::Refused(_) | Stop::Known(_) | Stop::Replay(_)) => Ok(None),
    }
}

/// The order cannot be frozen: say why, or show the payment that this very request asks for again. An order that is
/// pending is not the reason; `if_pending` is.
async fn why_not(conn: &Conn, app: &App, request: &Confirm, if_pending: ConfirmError) -> Result<Stop, DbError> {
    let Some(order) = db::orders::find(conn, request.order_id).await? else {
        return Ok(Stop::Refused(ConfirmError::OrderNotFound));
    };
    if order.total() != request.amount {
        return Ok(Stop::Refused(ConfirmError::AmountMismatch { expected: order.total() }));
    }
    let known = db::payments::find_by_key(conn, app.provider.name(), &request.payment_key).await?;
    if let Some(payment) = known {
        if payment.order_id != order.id {
            return Ok(Stop::Refused(ConfirmError::PaymentOfAnotherOrder));
        }
        let in_flight = payment.status == PaymentStatus::Confirming && payment.doubt.is_none();
        let refused = ConfirmError::PaymentInFlight { payment: Some(payment.id) };
        // A payment that was never sent has no outcome to wait for: what its order has come to decides.
        if payment.status != PaymentStatus::Ready {
            return Ok(if in_flight { Stop::Refused(refused) } else { Stop::Known(payment.id) });
        }
    }
    let refused = match order.status {
        OrderStatus::Confirming => {
            let live = db::payments::of_order(conn, order.id).await?;
            let payment = live.iter().find(|payment| payment.status.is_live()).map(|payment| payment.id);
            ConfirmError::PaymentInFlight { payment }
        }
        OrderStatus::Pending => if_pending,
        OrderStatus::Expired => ConfirmError::OrderExpired,
        status @ (OrderStatus::AwaitingDeposit
        | OrderStatus::Paid
        | OrderStatus::PartiallyCanceled
        | OrderStatus::Canceled) => ConfirmError::OrderNotPending { status },
    };
    Ok(Stop::Refused(refused))
}

/// The PG payment is known and cannot start again: it was decided before, or belongs elsewhere.
async fn known_payment(conn: &Conn, app: &App, request: &Confirm) -> Result<Stop, DbError> {
    let known = db::payments::find_by_key(conn, app.provider.name(), &request.payment_key).await?;
    Ok(match known {
        Some(payment) if payment.order_id == request.order_id => Stop::Known(payment.id),
        Some(_) | None => Stop::Refused(ConfirmError::PaymentOfAnotherOrder),
    })
}
