//! Confirm: the buyer authenticated a payment in the PG's window; take the money for the order, once.
//!
//! Two commits. *Intend* freezes the hold and writes the payment, *act* asks the PG with nothing in hand,
//! *resolve* records the answer. An answer that is not certain stays `confirming` for recovery.

mod intend;

use std::sync::Arc;

pub(super) use self::intend::adopt;
use self::intend::{Go, Intended, intend};
use super::resolve::{self, Change, Resolution, Target};
use super::{told, view};
use crate::app::App;
use crate::db::events::Origin;
use crate::db::idempotency::{Response, Scope};
use crate::db::payments::PaymentRow;
use crate::db::{self, DbError};
use crate::domain::evidence::{
    ConfirmAnswer, Decline, DeclineClass, DoubtReason, Inquiry, NotSent, PaymentKey, PgStatus,
};
use crate::domain::ids::{OrderId, PaymentId};
use crate::domain::money::Money;
use crate::domain::order::OrderStatus;
use crate::domain::payment::PaymentStatus;
use crate::domain::resolution::Evidence;
use crate::provider::ConfirmRequest;
use crate::provider::call::Call;
use crate::provider::protection::{Permit, Refused};
use crate::telemetry::facts::{self, Fact};
use crate::telemetry::labels::Lane;
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
