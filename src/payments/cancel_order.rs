//! Cancel an order: at once while nothing is paid; by giving its payment back otherwise; remembered while a payment's
//! outcome is open.

use std::sync::Arc;

use serde_json::json;

use super::cancel::{self, Cancel, CancelError, Canceled};
use super::claim::{Claim, claim};
use super::view;
use crate::app::App;
use crate::db::events::{self, Origin, Subject};
use crate::db::idempotency::{self, Response, Scope};
use crate::db::orders::OrderRow;
use crate::db::{self, Conn, DbError};
use crate::domain::ids::{CancellationId, OrderId, PaymentId};
use crate::domain::order::{OrderEvent, OrderStatus};
use crate::domain::stock::CancelScope;
use crate::provider::RefundAccount;
use crate::telemetry::facts::{self, Fact};
use crate::telemetry::labels::{StockMovement, Tx};
use crate::telemetry::{record, traces};

/// What the caller wants.
#[derive(Debug, Clone)]
pub struct CancelOrder {
    /// The order.
    pub order: OrderId,
    /// Why; 1–200 characters.
    pub reason: String,
    /// Where to send the money of a paid virtual account.
    pub refund_account: Option<RefundAccount>,
    /// Whether the caller may cancel money that was taken.
    pub may_cancel_paid: bool,
}

/// The answer to a caller.
#[derive(Debug, Clone)]
pub enum OrderCanceled {
    /// The order as it is now.
    Now {
        /// Its view.
        order: Box<view::OrderView>,
        /// Whether the cancel is certain; if not, poll the order.
        is_decided: bool,
        /// Whether the key was answered before this request.
        replayed: bool,
    },
    /// The PG refused to give the payment back.
    Refused {
        /// 409 and the cancellation's view.
        response: Response,
        /// Whether it was decided before this request.
        replayed: bool,
    },
}

/// Why nothing was canceled.
#[derive(Debug, thiserror::Error)]
pub enum CancelOrderError {
    /// No such order.
    #[error("no such order")]
    OrderNotFound,
    /// The order has ended.
    #[error("the order is {}", status.as_str())]
    OrderNotCancelable {
        /// Where it stands.
        status: OrderStatus,
    },
    /// The payment's cancel could not start.
    #[error(transparent)]
    Payment(#[from] CancelError),
    /// The answer could not be written as JSON.
    #[error("answer: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<DbError> for CancelOrderError {
    fn from(error: DbError) -> Self {
        Self::Payment(CancelError::Db(error))
    }
}

/// Cancels an order.
pub async fn cancel_order(
    app: &Arc<App>,
    request: CancelOrder,
    scope: Scope,
    origin: Origin,
) -> Result<OrderCanceled, CancelOrderError> {
    traces::about_order(&request.order);
    facts::tell(Fact::Order(request.order));
    let step =
        app.db.transaction(Tx::OrderCancel, async |conn| decide(conn, app, &request, &scope, &origin).await).await?;
    let (is_decided, replayed) = match step {
        Step::Released { units } => {
            record::stock_movement(StockMovement::Release, units);
            (true, false)
        }
        Step::Replayed => (true, true),
        Step::Remembered => (false, false),
        Step::CancelPayment(payment) => {
            let cancel = Cancel {
                payment,
                reason: request.reason.clone(),
                scope: CancelScope::Everything,
                refund_account: request.refund_account.clone(),
                may_cancel_paid: request.may_cancel_paid,
            };
            match cancel::cancel(app, cancel, scope, origin).await? {
                Canceled::Answered { response, replayed } if response.status != 200 => {
                    return Ok(OrderCanceled::Refused { response, replayed });
                }
                Canceled::Answered { replayed, .. } => (true, replayed),
                Canceled::Undecided(_) => (false, false),
            }
        }
    };
    let order = app.db.read(async |conn| read(conn, request.order).await).await?;
    Ok(OrderCanceled::Now { order: Box::new(order), is_decided, replayed })
}

enum Step {
    /// Canceled now; so many units went back into stock.
    Released {
        units: u64,
    },
    Replayed,
    Remembered,
    CancelPayment(PaymentId),
}

async fn decide(
    conn: &Conn,
    app: &App,
    request: &CancelOrder,
    scope: &Scope,
    origin: &Origin,
) -> Result<Step, CancelOrderError> {
    let (order, _) = db::orders::lock(conn, request.order).await?.ok_or(CancelOrderError::OrderNotFound)?;
    if let Some(known) = idempotency::find(conn, scope).await? {
        if known.fingerprint != scope.fingerprint {
            return Err(CancelError::KeyMismatch.into());
        }
        if known.resource_id == order.id.uuid() {
            let is_open = known.response_status.is_none() && wish_is_open(conn, &order).await?;
            return Ok(if is_open { Step::Remembered } else { Step::Replayed });
        }
        // The key stands for a cancellation: that one's answer, whatever has become of the order since.
        if let Some(made) = db::cancellations::find(conn, CancellationId::from(known.resource_id)).await? {
            return Ok(Step::CancelPayment(made.payment_id));
        }
    }
    if cancel::needs_payment_cancel(order.status) {
        let payments = db::payments::of_order(conn, order.id).await?;
        let live = payments.iter().find(|payment| payment.status.is_live()).or_else(|| payments.first());
        if let Some(payment) = live {
            return Ok(Step::CancelPayment(payment.id));
        }
    }
    match order.status {
        OrderStatus::Pending => cancel_now(conn, app, &order, request, scope, origin).await,
        OrderStatus::Confirming => remember(conn, app, &order, request, scope, origin).await,
        status @ (OrderStatus::AwaitingDeposit
        | OrderStatus::Paid
        | OrderStatus::PartiallyCanceled
        | OrderStatus::Canceled
        | OrderStatus::Expired) => Err(CancelOrderError::OrderNotCancelable { status }),
    }
}

/// Whether a remembered cancel still waits for the payment's outcome, or for the PG to give the money back.
async fn wish_is_open(conn: &Conn, order: &OrderRow) -> Result<bool, DbError> {
    if order.status == OrderStatus::Confirming {
        return Ok(true);
    }
    let payments = db::payments::of_order(conn, order.id).await?;
    Ok(payments.iter().any(|payment| payment.status.is_live() && payment.canceling_amount > 0))
}

async fn take_key(conn: &Conn, app: &App, order: &OrderRow, scope: &Scope) -> Result<(), CancelOrderError> {
    match claim(conn, scope, order.id.uuid(), &app.settings).await? {
        Claim::Fresh => Ok(()),
        Claim::Done(_) | Claim::InFlight | Claim::Unresolved(_) => Err(CancelError::KeyInFlight.into()),
        Claim::Mismatch => Err(CancelError::KeyMismatch.into()),
    }
}

async fn cancel_now(
    conn: &Conn,
    app: &App,
    order: &OrderRow,
    request: &CancelOrder,
    scope: &Scope,
    origin: &Origin,
) -> Result<Step, CancelOrderError> {
    take_key(conn, app, order, scope).await?;
    let version = db::orders::set_status(conn, order.id, OrderStatus::Canceled).await?;
    let subject = Subject::Order {
        event: OrderEvent::CanceledUnpaid,
        from: Some(OrderStatus::Pending),
        to: OrderStatus::Canceled,
    };
    events::append(conn, order.id, version, subject, origin, json!({ "reason": request.reason })).await?;
    let view = read(conn, order.id).await?;
    idempotency::answer(conn, order.id.uuid(), &view::stored(200, &view)?).await?;
    let items = db::orders::items(conn, order.id).await?;
    let units: Vec<_> = items.iter().map(|item| (item.product_id, i64::from(item.quantity))).collect();
    let released = units.iter().map(|(_, quantity)| quantity.unsigned_abs()).sum();
    db::stock::give_back(conn, units).await?;
    Ok(Step::Released { units: released })
}

/// The payment's outcome is open: act on the wish once it is certain.
async fn remember(
    conn: &Conn,
    app: &App,
    order: &OrderRow,
    request: &CancelOrder,
    scope: &Scope,
    origin: &Origin,
) -> Result<Step, CancelOrderError> {
    take_key(conn, app, order, scope).await?;
    if order.cancel_requested_at.is_some() {
        return Ok(Step::Remembered);
    }
    let version = db::orders::remember_cancel(conn, order.id, &request.reason).await?;
    let subject = Subject::Order {
        event: OrderEvent::CancelRequested,
        from: Some(OrderStatus::Confirming),
        to: OrderStatus::Confirming,
    };
    events::append(conn, order.id, version, subject, origin, json!({ "reason": request.reason })).await?;
    Ok(Step::Remembered)
}

/// The order as callers see it.
pub async fn read(conn: &Conn, id: OrderId) -> Result<view::OrderView, CancelOrderError> {
    let order = db::orders::find(conn, id).await?.ok_or(CancelOrderError::OrderNotFound)?;
    let items = db::orders::items(conn, id).await?;
    let payments = db::payments::shown_with(conn, &[id]).await?;
    Ok(view::order(&order, &items, view::shown_payment(&payments, id)))
}
