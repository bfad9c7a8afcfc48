//! The append-only history: one row per change of state, in the transaction that makes it.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::prepared::Prepare as _;
use super::schema::events;
use super::told::{self, Fact};
use super::{Conn, DbError};
use crate::domain::cancellation::{CancellationEvent, CancellationStatus};
use crate::domain::ids::{CancellationId, OrderId, PaymentId};
use crate::domain::order::{OrderEvent, OrderStatus};
use crate::domain::payment::{PaymentEvent, PaymentStatus};
use crate::news::Item;
use crate::telemetry::labels::{Aggregate, FunnelStage, StatusWord};

/// What an event is about.
#[derive(Debug, Clone, Copy)]
pub enum Subject {
    /// An order.
    Order {
        /// What happened.
        event: OrderEvent,
        /// The state before; `None` for the first event.
        from: Option<OrderStatus>,
        /// The state after.
        to: OrderStatus,
    },
    /// A payment of the order.
    Payment {
        /// Which.
        id: PaymentId,
        /// What happened.
        event: PaymentEvent,
        /// The state before.
        from: Option<PaymentStatus>,
        /// The state after.
        to: PaymentStatus,
    },
    /// A cancellation of one of the order's payments.
    Cancellation {
        /// Which.
        id: CancellationId,
        /// What happened.
        event: CancellationEvent,
        /// The state before.
        from: Option<CancellationStatus>,
        /// The state after.
        to: CancellationStatus,
    },
}

/// Who and what stands behind a change: written into each of its events.
#[derive(Debug, Clone)]
pub struct Origin {
    /// A key's id, `checkout`, `webhook`, `recovery`, `expiry` …
    pub actor: String,
    /// The trace of the request or worker item.
    pub trace_id: Option<String>,
}

/// The version of an order after its first confirm began: nothing but that can be the second event of a paid order.
const FIRST_CONFIRM: i32 = 2;

/// Whether [`append`] looks at the history before it writes: then it is more than one statement.
#[must_use]
pub fn needs_a_look(subject: Subject) -> bool {
    matches!(subject, Subject::Order { event: OrderEvent::Paid, from: Some(OrderStatus::AwaitingDeposit), .. })
}

/// An event as it is written.
#[derive(Debug, Clone, Insertable)]
#[diesel(table_name = events, treat_none_as_default_value = false)]
pub struct NewEvent {
    aggregate: &'static str,
    aggregate_id: Uuid,
    seq: i32,
    order_id: OrderId,
    kind: &'static str,
    from_status: Option<&'static str>,
    to_status: &'static str,
    actor: String,
    detail: serde_json::Value,
    trace_id: Option<String>,
}

impl NewEvent {
    /// An event of an order; `seq` is the row's version after the change. It is told once it is committed. Not for one that
    /// [`needs_a_look`].
    #[must_use]
    pub fn new(order: OrderId, seq: i32, subject: Subject, origin: &Origin, detail: serde_json::Value) -> Self {
        if let Some(stage) = stage(seq, subject) {
            told::once_committed(Fact::Stage(stage));
        }
        Self::without_stage(order, seq, subject, origin, detail)
    }

    fn without_stage(order: OrderId, seq: i32, subject: Subject, origin: &Origin, detail: serde_json::Value) -> Self {
        told::once_committed(transition(subject));
        // Nobody can wait for an order that was not there.
        if !matches!(subject, Subject::Order { event: OrderEvent::Placed, .. }) {
            told::once_committed(Fact::News(Item::Order(order)));
        }
        let (aggregate, aggregate_id, kind, from_status, to_status) = match subject {
            Subject::Order { event, from, to } => {
                ("order", order.uuid(), event.as_str(), from.map(OrderStatus::as_str), to.as_str())
            }
            Subject::Payment { id, event, from, to } => {
                ("payment", id.uuid(), event.as_str(), from.map(PaymentStatus::as_str), to.as_str())
            }
            Subject::Cancellation { id, event, from, to } => {
                ("cancellation", id.uuid(), event.as_str(), from.map(CancellationStatus::as_str), to.as_str())
            }
        };
        let (actor, trace_id) = (origin.actor.clone(), origin.trace_id.clone());
        Self { aggregate, aggregate_id, seq, order_id: order, kind, from_status, to_status, actor, detail, trace_id }
    }
}

/// Appends an event; `seq` is the row's version after the change. One statement, unless it [`needs_a_look`].
pub async fn append(
    conn: &Conn,
    order: OrderId,
    seq: i32,
    subject: Subject,
    origin: &Origin,
    detail: serde_json::Value,
) -> Result<(), DbError> {
    // Banks take deposits back, and they can come again.
    let is_again = needs_a_look(subject) && was_paid(conn, order).await?;
    let event = if is_again {
        NewEvent::without_stage(order, seq, subject, origin, detail)
    } else {
        NewEvent::new(order, seq, subject, origin, detail)
    };
    append_all(conn, vec![event]).await
}

/// Appends events by one statement.
pub async fn append_all(conn: &Conn, events: Vec<NewEvent>) -> Result<(), DbError> {
    // One transaction has a few, or one for each order that is taken together: so many texts there are.
    diesel::insert_into(events::table).values(events).prepared().execute(&mut &*conn).await?;
    Ok(())
}

fn transition(subject: Subject) -> Fact {
    let (aggregate, from, to) = match subject {
        Subject::Order { from, to, .. } => (Aggregate::Order, from.map(StatusWord::from), to.into()),
        Subject::Payment { from, to, .. } => (Aggregate::Payment, from.map(StatusWord::from), to.into()),
        Subject::Cancellation { from, to, .. } => (Aggregate::Cancellation, from.map(StatusWord::from), to.into()),
    };
    Fact::Transition { aggregate, from: from.unwrap_or(StatusWord::None), to }
}

/// The stage that an order reaches for the first time by this event.
fn stage(seq: i32, subject: Subject) -> Option<FunnelStage> {
    let Subject::Order { event, .. } = subject else { return None };
    match event {
        OrderEvent::Placed => Some(FunnelStage::OrderCreated),
        // An order that is open again can be confirmed again.
        OrderEvent::ConfirmStarted => (seq == FIRST_CONFIRM).then_some(FunnelStage::ConfirmRequested),
        OrderEvent::DepositAwaited => Some(FunnelStage::DepositAwaited),
        OrderEvent::Paid => Some(FunnelStage::Paid),
        OrderEvent::CanceledUnpaid | OrderEvent::Canceled => Some(FunnelStage::Canceled),
        OrderEvent::HoldExpired | OrderEvent::DepositOverdue => Some(FunnelStage::Expired),
        OrderEvent::Reopened
        | OrderEvent::DepositReversed
        | OrderEvent::PartiallyCanceled
        | OrderEvent::CancelRequested => None,
    }
}

async fn was_paid(conn: &Conn, order: OrderId) -> Result<bool, DbError> {
    let paid = events::table
        .filter(events::order_id.eq(order))
        .filter(events::aggregate.eq("order"))
        .filter(events::aggregate_id.eq(order.uuid()))
        .filter(events::kind.eq(OrderEvent::Paid.as_str()));
    Ok(diesel::select(diesel::dsl::exists(paid)).get_result(&mut &*conn).await?)
}

/// An event as stored.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = events, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are explained in the migration")]
pub struct EventRow {
    pub id: i64,
    pub aggregate: String,
    pub aggregate_id: Uuid,
    pub seq: i32,
    pub order_id: OrderId,
    pub kind: String,
    pub from_status: Option<String>,
    pub to_status: String,
    pub actor: String,
    pub detail: serde_json::Value,
    pub trace_id: Option<String>,
    pub occurred_at: DateTime<Utc>,
}

/// Everything that happened to an order, its payments and their cancellations, oldest first, bounded.
pub async fn of_order(conn: &Conn, order: OrderId, limit_rows: i64) -> Result<Vec<EventRow>, DbError> {
    let rows = events::table
        .filter(events::order_id.eq(order))
        .select(EventRow::as_select())
        .order(events::id)
        .limit(limit_rows)
        .load(&mut &*conn)
        .await?;
    Ok(rows)
}

/// How long the histories of these orders are. A history only grows, so that whoever knows its length knows whether there
/// is something new.
pub async fn lengths(conn: &mut Conn, orders: &[OrderId]) -> Result<Vec<(OrderId, i64)>, DbError> {
    let ids: Vec<Uuid> = orders.iter().map(|order| order.uuid()).collect();
    let lengths = events::table
        .filter(events::order_id.eq_any(ids))
        .group_by(events::order_id)
        .select((events::order_id, diesel::dsl::count_star()));
    Ok(lengths.load(conn).await?)
}
