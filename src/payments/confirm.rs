//! Confirm: the buyer authenticated a payment in the PG's window; take the money for the order, once.
//!
//! Two commits. *Intend* freezes the hold and writes the payment, *act* asks the PG with nothing in hand,
//! *resolve* records the answer. An answer that is not certain stays `confirming` for recovery.

use std::sync::Arc;

use serde_json::json;

use super::claim::{Claim, claim};
use super::resolve::{self, Change, Resolution, Target};
use super::{resolve_cancel, told, view};
use crate::app::App;
use crate::db::events::{self, Origin, Subject};
use crate::db::idempotency::{Response, Scope};
use crate::db::orders::OrderRow;
use crate::db::payments::{NewConfirm, PaymentRow};
use crate::db::{self, Conn, DbError};
use crate::domain::evidence::{
    ConfirmAnswer, Decline, DeclineClass, DoubtReason, Inquiry, NotSent, PaymentKey, PgStatus,
};
use crate::domain::ids::{OrderId, PaymentId};
use crate::domain::money::Money;
use crate::domain::order::{OrderEvent, OrderStatus};
use crate::domain::payment::{PaymentEvent, PaymentStatus};
use crate::domain::resolution::Evidence;
use crate::provider::ConfirmRequest;
use crate::provider::call::Call;
use crate::provider::protection::{Permit, Refused};
use crate::telemetry::facts::{self, Fact};
use crate::telemetry::labels::{Lane, ProviderOperation, Tx};
use crate::telemetry::ledger;
use crate::telemetry::propagate::{self, Link};
use crate::telemetry::traces;

/// What the caller wants.
#[derive(Debug, Clone)]
pub struct Confirm {
    /// The PG's key, from the redirect.
    pub payment_key: PaymentKey,
    /// The order, from the redirect.
    pub order_id: OrderId,
    /// The amount, from the redirect: compared with the order, never charged.
    pub amount: Money,
}

/// The answer to a caller.
#[derive(Debug, Clone)]
pub enum Confirmed {
    /// Decided now or before; `replayed` says which.
    Answered {
        /// 200, 402 or 409, with the payment's view.
        response: Response,
        /// Whether it was decided before this request.
        replayed: bool,
    },
    /// Not certain yet: poll the payment.
    Undecided(Box<view::PaymentView>),
}

/// Why nothing was confirmed.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// No such order.
    #[error("no such order")]
    OrderNotFound,
    /// Amount or currency is not the order's.
    #[error("the amount is not the order's")]
    AmountMismatch {
        /// What the order costs.
        expected: Money,
    },
    /// The hold is over.
    #[error("the order has expired")]
    OrderExpired,
    /// The order is past paying.
    #[error("the order is {}", status.as_str())]
    OrderNotPending {
        /// Where it stands.
        status: OrderStatus,
    },
    /// Another payment of the order is being decided.
    #[error("another payment of this order is being decided")]
    PaymentInFlight {
        /// Which.
        payment: Option<PaymentId>,
    },
    /// The PG payment belongs to another order.
    #[error("the payment belongs to another order")]
    PaymentOfAnotherOrder,
    /// The idempotency key was used for something else.
    #[error("the idempotency key was used for another request")]
    KeyMismatch,
    /// The first request with this key is still running.
    #[error("the first request with this key is still running")]
    KeyInFlight,
    /// The PG certainly did nothing.
    #[error("the PG did nothing: {}", .0.reason)]
    NotSent(NotSent),
    /// The PG is not asked now; nothing was written.
    #[error(transparent)]
    NotAdmitted(#[from] Refused),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Confirms a payment.
pub async fn confirm(
    app: &Arc<App>,
    request: Confirm,
    scope: Scope,
    origin: Origin,
) -> Result<Confirmed, ConfirmError> {
    facts::tell(Fact::Order(request.order_id));
    facts::tell(Fact::Money(request.amount));
    let intended = match intend(app, &request, &scope, &origin).await? {
        Intended::Go(intended) => intended,
        Intended::Known(payment) => return today(app, payment).await,
        Intended::Replay(response) => {
            ledger::paid_by(view::method_of(&response));
            return Ok(Confirmed::Answered { response, replayed: true });
        }
    };
    let Go { order, payment, request, permit } = *intended;
    propagate::link(order.trace_id.as_deref(), Link::Order);
    traces::about_order(&order.id);
    traces::about_payment(&payment.id);
    told::payment(&payment);
    told::customer(&order);
    let (evidence, call) = act(app, &payment, &request, permit).await;
    let target = Target { payment: payment.id, order: order.id, seen: Some(payment.version) };
    match resolve::resolve(app, target, evidence, Some(&call), &origin).await {
        Ok(resolution) => outcome(resolution),
        Err(error) => {
            // The money may be taken, so this is no failure: recovery asks the PG again and records it.
            tracing::error!(payment_id = %target.payment, %error, "the PG's answer could not be recorded");
            Ok(Confirmed::Undecided(Box::new(view::payment_with(&payment, "confirming", &[]))))
        }
    }
}

fn outcome(resolution: Resolution) -> Result<Confirmed, ConfirmError> {
    match resolution.change {
        Change::StillOpen => Ok(Confirmed::Undecided(Box::new(resolution.view))),
        Change::BackToReady(not_sent) => Err(ConfirmError::NotSent(not_sent)),
        Change::Decided => Ok(answered(&resolution.payment, resolution.view, false)),
        // Somebody else was faster: a webhook's inquiry, or recovery.
        Change::Nothing => Ok(answered(&resolution.payment, resolution.view, true)),
    }
}

/// How a known payment stands today, as the answer to a confirm of it.
fn answered(payment: &PaymentRow, view: view::PaymentView, replayed: bool) -> Confirmed {
    let status = match payment.status {
        PaymentStatus::Confirming | PaymentStatus::Ready => return Confirmed::Undecided(Box::new(view)),
        PaymentStatus::Declined => 402,
        PaymentStatus::Reversing => 409,
        PaymentStatus::AwaitingDeposit
        | PaymentStatus::Approved
        | PaymentStatus::PartiallyCanceled
        | PaymentStatus::Canceled
        | PaymentStatus::Expired => 200,
    };
    match view::stored(status, &view) {
        Ok(response) => Confirmed::Answered { response, replayed },
        Err(_) => Confirmed::Undecided(Box::new(view)),
    }
}

async fn today(app: &App, payment: PaymentId) -> Result<Confirmed, ConfirmError> {
    facts::tell(Fact::Payment(payment));
    app.db
        .read(async |conn| {
            let row = db::payments::find(conn, payment).await?.ok_or(ConfirmError::OrderNotFound)?;
            ledger::paid_by(row.method);
            let order = db::orders::find(conn, row.order_id).await?.ok_or(ConfirmError::OrderNotFound)?;
            let view = view::payment(conn, &row, &order).await?;
            Ok(answered(&row, view, true))
        })
        .await
}

/// A committed intent.
struct Go {
    order: OrderRow,
    payment: PaymentRow,
    request: ConfirmRequest,
    permit: Permit,
}

enum Intended {
    Go(Box<Go>),
    Known(PaymentId),
    Replay(Response),
}

async fn intend(app: &App, request: &Confirm, scope: &Scope, origin: &Origin) -> Result<Intended, ConfirmError> {
    let intended = app
        .db
        .transaction(Tx::ConfirmIntend, async |conn| {
            // Order and payment are locked first, as everywhere; if the key then says stop, they are as they were. The
            // hold is not frozen for a request that the PG would turn away; what is known is told without it.
            let admitted = app.provider.admit(ProviderOperation::Confirm);
            let frozen = match &admitted {
                Ok(_) => db::orders::freeze_hold(conn, request.order_id, request.amount).await?,
                Err(_) => None,
            };
            let payment = match &frozen {
                Some(order) => begin(conn, app, request, order, origin).await?,
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
                    let (order, payment, request) = write(conn, request, order, payment, origin).await?;
                    Ok(Go { order, payment, request, permit })
                }
                (Some(_), None) => Err(known_payment(conn, app, request).await?),
                (None, _) => Err(why_not(conn, app, request, ConfirmError::OrderExpired).await?),
            }
        })
        .await;
    match intended {
        Ok(go) => Ok(Intended::Go(Box::new(go))),
        Err(Stop::Replay(response)) => Ok(Intended::Replay(response)),
        Err(Stop::Known(payment)) => Ok(Intended::Known(payment)),
        Err(Stop::Refused(error)) => Err(error),
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

/// The payment to confirm, if this PG payment may be confirmed for the order.
async fn begin(
    conn: &mut Conn,
    app: &App,
    request: &Confirm,
    order: &OrderRow,
    origin: &Origin,
) -> Result<Option<PaymentRow>, DbError> {
    let new = NewConfirm {
        id: PaymentId::new(),
        order_id: order.id,
        provider: app.provider.name(),
        payment_key: request.payment_key.clone(),
        total: order.total(),
        recover_after: resolve_cancel::recover_after(app),
        trace_id: origin.trace_id.clone(),
    };
    db::payments::begin_confirm(conn, new).await
}

async fn write(
    conn: &mut Conn,
    request: &Confirm,
    order: OrderRow,
    payment: PaymentRow,
    origin: &Origin,
) -> Result<(OrderRow, PaymentRow, ConfirmRequest), Stop> {
    let subject = Subject::Order {
        event: OrderEvent::ConfirmStarted,
        from: Some(OrderStatus::Pending),
        to: OrderStatus::Confirming,
    };
    events::append(conn, order.id, order.version, subject, origin, json!({})).await?;
    let from = (payment.version > 1).then_some(PaymentStatus::Ready);
    let subject =
        Subject::Payment { id: payment.id, event: PaymentEvent::ConfirmStarted, from, to: PaymentStatus::Confirming };
    let detail = json!({ "amount": order.amount, "attempt": payment.confirm_attempt });
    events::append(conn, order.id, payment.version, subject, origin, detail).await?;
    let request = ConfirmRequest {
        payment_key: request.payment_key.clone(),
        order_id: order.id,
        amount: order.total(),
        idempotency_key: payment.confirm_key(),
    };
    Ok((order, payment, request))
}

/// Takes over a payment that the PG has approved and our books lost, by the intent that a confirm of it would write;
/// nothing is sent. `None` if the order cannot be paid (any more), exactly as for a confirm.
pub(super) async fn adopt(app: &App, request: &Confirm, origin: &Origin) -> Result<Option<Target>, DbError> {
    let adopted = app
        .db
        .transaction(Tx::ConfirmIntend, async |conn| {
            let frozen = db::orders::freeze_hold(conn, request.order_id, request.amount).await?;
            let Some(order) = frozen else { return Err(Stop::Refused(ConfirmError::OrderExpired)) };
            let Some(payment) = begin(conn, app, request, &order, origin).await? else {
                return Err(known_payment(conn, app, request).await?);
            };
            write(conn, request, order, payment, origin).await
        })
        .await;
    match adopted {
        Ok((order, payment, _)) => {
            Ok(Some(Target { payment: payment.id, order: order.id, seen: Some(payment.version) }))
        }
        Err(Stop::Refused(ConfirmError::Db(error))) => Err(error),
        Err(Stop::Refused(_) | Stop::Known(_) | Stop::Replay(_)) => Ok(None),
    }
}

/// The order cannot be frozen: say why, or show the payment that this very request asks for again. An order that is
/// pending is not the reason; `if_pending` is.
async fn why_not(conn: &mut Conn, app: &App, request: &Confirm, if_pending: ConfirmError) -> Result<Stop, DbError> {
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
async fn known_payment(conn: &mut Conn, app: &App, request: &Confirm) -> Result<Stop, DbError> {
    let known = db::payments::find_by_key(conn, app.provider.name(), &request.payment_key).await?;
    Ok(match known {
        Some(payment) if payment.order_id == request.order_id => Stop::Known(payment.id),
        Some(_) | None => Stop::Refused(ConfirmError::PaymentOfAnotherOrder),
    })
}

/// Asks the PG to take the money. Where its answer says "go and look", looks once.
async fn act(app: &App, payment: &PaymentRow, request: &ConfirmRequest, permit: Permit) -> (Evidence, Call) {
    let (answer, call) = app.provider.confirm(permit, request).await;
    let doubt = match answer {
        ConfirmAnswer::Answered(snapshot) => return (Evidence::Snapshot(snapshot), call),
        ConfirmAnswer::Declined(decline) => return (Evidence::Declined(decline), call),
        ConfirmAnswer::NotSent(not_sent) => return (Evidence::NotSent(not_sent), call),
        ConfirmAnswer::Unknown(doubt) => doubt,
    };
    if !matches!(doubt.reason, DoubtReason::AlreadyProcessed | DoubtReason::SessionGone) {
        return (Evidence::Doubt(doubt), call);
    }
    let Ok((found, look)) = app.provider.inquire(Lane::Caller, &request.payment_key).await else {
        return (Evidence::Doubt(doubt), call);
    };
    let session_gone = doubt.reason == DoubtReason::SessionGone;
    match found {
        Inquiry::Found(snapshot) if session_gone && never_started(&snapshot.status) => {
            (Evidence::Declined(gone(doubt.code)), call)
        }
        // Nothing to see yet: the first answer's doubt stands, so that the next try knows what became of this key.
        Inquiry::Found(snapshot) if is_undecided(&snapshot.status) => (Evidence::Doubt(doubt), call),
        Inquiry::Found(snapshot) => (Evidence::Snapshot(snapshot), look),
        // The PG refused for want of a session, and knows no such payment: this request moved no money, and no
        // earlier one was sent for this attempt.
        Inquiry::NotFound if session_gone && payment.confirm_attempt == 1 => {
            (Evidence::Declined(gone(doubt.code)), call)
        }
        Inquiry::NotFound | Inquiry::Unknown(_) => (Evidence::Doubt(doubt), call),
    }
}

fn never_started(status: &PgStatus) -> bool {
    matches!(status, PgStatus::Ready | PgStatus::InProgress)
}

fn is_undecided(status: &PgStatus) -> bool {
    matches!(status, PgStatus::Ready | PgStatus::InProgress | PgStatus::Unrecognized)
}

fn gone(code: Option<String>) -> Decline {
    Decline { class: DeclineClass::SessionExpired, code: code.unwrap_or_else(|| "SESSION_GONE".to_owned()) }
}
