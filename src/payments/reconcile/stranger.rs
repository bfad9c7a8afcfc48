//! A PG payment that our books do not have: filed always, and taken over if its order waits for exactly this money.

use super::examine::{Examined, Item, Tally, conclude_look};
use super::filing;
use crate::app::App;
use crate::db::events::Origin;
use crate::db::findings::NewFinding;
use crate::db::orders::OrderRow;
use crate::db::{self, DbError};
use crate::domain::evidence::{Inquiry, PgStatus, Snapshot};
use crate::domain::ids::{OrderId, PaymentId};
use crate::domain::money::Money;
use crate::domain::order::OrderStatus;
use crate::domain::reconciliation::{
    Difference, FindingKind, FindingStatus, dedupe_key, is_ours, kept_there, took_money,
};
use crate::domain::resolution::Evidence;
use crate::payments::confirm::{self, Confirm};
use crate::payments::resolve::{ResolveError, resolve};
use crate::provider::call::Call;
use crate::telemetry::labels::Lane;

/// A merchant's order id at the PG is no longer; what is, is cut.
const ORDER_ID_CHARS_MAX: usize = 200;

/// Looks at a PG payment that our books do not have.
pub(super) async fn examine(app: &App, item: Item<'_>, origin: &Origin) -> Result<Examined, ResolveError> {
    let Ok((found, call)) = app.provider.inquire(Lane::Background, item.key).await else {
        return Ok(Examined::Unanswered);
    };
    match found {
        Inquiry::Found(snapshot) => found_there(app, item, &snapshot, &call, origin).await,
        Inquiry::Unknown(_) => Ok(Examined::Unanswered),
        Inquiry::NotFound => {
            let Some(row) = item.rows.iter().find(|row| row.own_shop && row.is_booked()) else {
                return Ok(Examined::Settled(Tally::default()));
            };
            let stranger = Stranger { order_id: row.order_id.clone(), amount: row.amount, at: row.at, order: None };
            let why = "the PG lists this payment, and does not know it when asked";
            let tally = file(app, item, &stranger, why, origin).await?;
            filing::leave_to_person(app, item, why, origin).await?;
            Ok(Examined::Settled(tally))
        }
    }
}

async fn found_there(
    app: &App,
    item: Item<'_>,
    snapshot: &Snapshot,
    call: &Call,
    origin: &Origin,
) -> Result<Examined, ResolveError> {
    // Another shop's business, or a payment that never came to anything.
    if !snapshot.own_shop || (!took_money(snapshot) && snapshot.status != PgStatus::WaitingForDeposit) {
        return Ok(Examined::Settled(Tally::default()));
    }
    let stranger = Stranger::of(app, snapshot).await?;
    let why = obstacle(stranger.order.as_ref(), snapshot);
    let tally = file(app, item, &stranger, why.unwrap_or("our books do not have this payment"), origin).await?;
    let adopted = match (why, &stranger.order) {
        (None, Some(order)) => adopt(app, order, snapshot, call, origin).await?,
        (_, _) => None,
    };
    match adopted {
        Some(id) => conclude_look(app, item, id, tally, origin).await,
        None => {
            let why = why.unwrap_or("our books do not have this payment, and the hold of its order is over");
            filing::leave_to_person(app, item, why, origin).await?;
            Ok(Examined::Settled(tally))
        }
    }
}

/// What is known of a payment that is not in our books.
struct Stranger {
    order_id: String,
    /// What the PG has of the buyer's, or waits for.
    amount: Option<Money>,
    at: Option<chrono::DateTime<chrono::Utc>>,
    /// The order that it names, if that is ours.
    order: Option<OrderRow>,
}

impl Stranger {
    async fn of(app: &App, snapshot: &Snapshot) -> Result<Self, DbError> {
        let order = match snapshot.order_id.parse::<OrderId>() {
            Ok(id) => app.db.read(async |conn| db::orders::find(conn, id).await).await?,
            Err(_) => None,
        };
        let kept = snapshot.amount.map(|amount| Money::new(kept_there(snapshot), amount.currency));
        let amount = if took_money(snapshot) { kept } else { snapshot.amount };
        Ok(Self { order_id: snapshot.order_id.clone(), amount, at: snapshot.approved_at, order })
    }
}

/// Why a payment that we do not have cannot be taken over; `None` if it can. It can if confirming it through the API
/// would lead to the same: the order waits for exactly this money, and the PG has all of it.
fn obstacle(order: Option<&OrderRow>, snapshot: &Snapshot) -> Option<&'static str> {
    let Some(order) = order else { return Some("no order of ours has the id that the PG has it under") };
    if !is_ours(&order.id.to_string(), order.total(), snapshot) {
        return Some("our books do not have this payment, and its amount or currency is not the order's");
    }
    if snapshot.status != PgStatus::Done || snapshot.balance != order.amount {
        return Some(
            "our books do not have this payment, and the PG no longer has, or does not have yet, all of its money",
        );
    }
    match order.status {
        OrderStatus::Pending => None,
        OrderStatus::Confirming | OrderStatus::AwaitingDeposit => {
            Some("our books do not have this payment, and another payment of its order is being decided")
        }
        OrderStatus::Paid | OrderStatus::PartiallyCanceled => Some(
            "our books do not have this payment, and its order is paid by another one: the buyer may have paid twice",
        ),
        OrderStatus::Canceled | OrderStatus::Expired => {
            Some("our books do not have this payment, and its order has ended: the money belongs to the buyer")
        }
    }
}

async fn file(
    app: &App,
    item: Item<'_>,
    stranger: &Stranger,
    why: &'static str,
    origin: &Origin,
) -> Result<Tally, DbError> {
    let (kind, provider) = (FindingKind::MissingHere, app.provider.name());
    let found = Difference { kind, amount: stranger.amount, transaction_key: None, at: stranger.at, why };
    let order_trace = stranger.order.as_ref().and_then(|order| order.trace_id.clone());
    let new = NewFinding {
        provider: provider.to_owned(),
        dedupe_key: dedupe_key(provider, item.key, &found),
        kind,
        status: FindingStatus::Open,
        amount: found.amount,
        payment_key: item.key.clone(),
        transaction_key: None,
        provider_order_id: stranger.order_id.chars().take(ORDER_ID_CHARS_MAX).collect(),
        payment_id: None,
        order_id: stranger.order.as_ref().map(|order| order.id),
        reason: why.to_owned(),
        trace_id: order_trace.or_else(|| origin.trace_id.clone()),
        occurred_at: found.at,
    };
    filing::file_all(app, item, vec![new], origin).await
}

/// Takes the payment over: the intent that its confirm would have written, then the PG's word as its outcome.
async fn adopt(
    app: &App,
    order: &OrderRow,
    snapshot: &Snapshot,
    call: &Call,
    origin: &Origin,
) -> Result<Option<PaymentId>, ResolveError> {
    let request = Confirm { payment_key: snapshot.payment_key.clone(), order_id: order.id, amount: order.total() };
    let Some(target) = confirm::adopt(app, &request, origin).await? else { return Ok(None) };
    resolve(app, target, Evidence::Snapshot(Box::new(snapshot.clone())), Some(call), origin).await?;
    Ok(Some(target.payment))
}
