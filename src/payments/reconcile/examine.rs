//! One payment under the magnifier: what the PG says of it, against what our books say; file, repair, look again.
//!
//! What differs is filed before anything is done about it, so a run that dies in between leaves an open finding, which
//! the next run takes up. Repairs are evidence given to `resolve`, or the intent that a confirm would have written.

use chrono::{DateTime, TimeDelta, Utc};

use super::{books, filing, stranger};
use crate::app::App;
use crate::clock;
use crate::db::cancellations::{self, CancellationRow};
use crate::db::events::Origin;
use crate::db::orders::OrderRow;
use crate::db::payments::PaymentRow;
use crate::db::{self, reconciliations};
use crate::domain::evidence::{Inquiry, PaymentKey, Snapshot};
use crate::domain::ids::{OrderId, PaymentId};
use crate::domain::money::Money;
use crate::domain::payment::PaymentStatus;
use crate::domain::reconciliation::{Books, Difference, FindingKind, Listed, differences, is_ours};
use crate::domain::resolution::{CancelEvidence, Evidence, find_cancel};
use crate::payments::resolve::{ResolveError, Target, resolve};
use crate::payments::resolve_cancel::resolve_cancel;
use crate::provider::call::Call;
use crate::telemetry::labels::Lane;

/// Looks at a payment that changes meanwhile before it counts as in flight.
const LOOKS_MAX: u32 = 3;

/// What to look at: a PG payment, and the rows of the list that led to it.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    pub(super) key: &'a PaymentKey,
    pub(super) rows: &'a [Listed],
    /// When what led to it happened, if that is known.
    pub(super) at: Option<DateTime<Utc>>,
}

/// What was filed and repaired.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) filed: u64,
    pub(super) repaired: u64,
}

/// How looking at a payment ended.
pub(super) enum Examined {
    /// It is dealt with: the books agree, or the difference is filed.
    Settled(Tally),
    /// Our own verbs are at it.
    InFlight,
    /// The PG did not say.
    Unanswered,
}

/// Looks at one payment and deals with what differs.
pub(super) async fn examine(app: &App, item: Item<'_>, origin: &Origin) -> Result<Examined, ResolveError> {
    let (key, provider) = (item.key, app.provider.name());
    match app.db.read(async |conn| db::payments::find_by_key(conn, provider, key).await).await? {
        Some(payment) => of_ours(app, item, payment.id, origin).await,
        None => stranger::examine(app, item, origin).await,
    }
}

async fn of_ours(app: &App, item: Item<'_>, id: PaymentId, origin: &Origin) -> Result<Examined, ResolveError> {
    let sight = match look(app, item, id).await? {
        Look::Seen(sight) => sight,
        Look::InFlight => return Ok(Examined::InFlight),
        Look::Unanswered => return Ok(Examined::Unanswered),
    };
    if sight.differences.is_empty() {
        return Ok(Examined::Settled(filing::settle(app, item, &sight, origin).await?));
    }
    let tally = filing::file(app, item, &sight, origin).await?;
    if let Some(snapshot) = sight.snapshot.as_ref().filter(|snapshot| speaks_of_ours(&sight, snapshot)) {
        apply(app, &sight.payment, snapshot, &sight.call, origin).await?;
    }
    conclude_look(app, item, id, tally, origin).await
}

/// Looks again after a repair was tried, and concludes what was filed.
pub(super) async fn conclude_look(
    app: &App,
    item: Item<'_>,
    id: PaymentId,
    before: Tally,
    origin: &Origin,
) -> Result<Examined, ResolveError> {
    match look(app, item, id).await? {
        Look::Seen(sight) => {
            let after = filing::settle(app, item, &sight, origin).await?;
            let (filed, repaired) = (before.filed + after.filed, before.repaired + after.repaired);
            Ok(Examined::Settled(Tally { filed, repaired }))
        }
        // The finding stays open, and the next run takes it up.
        Look::InFlight => Ok(Examined::Settled(before)),
        Look::Unanswered => Ok(Examined::Unanswered),
    }
}

/// A payment as both sides see it at one moment.
pub(super) struct Sight {
    pub(super) payment: PaymentRow,
    pub(super) trace_id: Option<String>,
    pub(super) snapshot: Option<Box<Snapshot>>,
    pub(super) differences: Vec<Difference>,
    call: Call,
}

enum Look {
    Seen(Box<Sight>),
    InFlight,
    Unanswered,
}

/// Our rows before and after the PG was asked; equal, they are of the moment of its answer.
struct Ours {
    payment: PaymentRow,
    order: Option<OrderRow>,
    open: Option<CancellationRow>,
    books: Books,
}

impl Ours {
    /// The payment is read last, since each of these reads sees what was committed before it: if its version is the one of an
    /// earlier look, nothing has changed from then until now, and the rest is of that moment too.
    async fn read(app: &App, id: PaymentId) -> Result<Self, ResolveError> {
        app.db
            .read(async |conn| {
                let open = cancellations::open_of(conn, id).await?;
                let given = reconciliations::given_back(conn, &[id]).await?;
                let payment = db::payments::find(conn, id).await?.ok_or(ResolveError::Missing)?;
                let order = db::orders::find(conn, payment.order_id).await?;
                let books = books(&payment, given.into_iter().map(|(_, given)| given).collect());
                Ok(Self { payment, order, open, books })
            })
            .await
    }

    fn is_same_as(&self, other: &Self) -> bool {
        let open = |ours: &Self| ours.open.as_ref().map(|row| row.id);
        self.payment.version == other.payment.version && open(self) == open(other)
    }

    /// Whether our own verbs may be at it. Money that is on its way back is judged nevertheless: it differs in nothing.
    fn is_in_flight(&self, app: &App) -> bool {
        let patience = TimeDelta::from_std(app.settings.reconcile_patience).unwrap_or(TimeDelta::MAX);
        let recent = |since| clock::now() - since < patience;
        match self.payment.status {
            PaymentStatus::Confirming => recent(self.payment.confirm_started_at),
            PaymentStatus::Reversing => false,
            PaymentStatus::Ready
            | PaymentStatus::AwaitingDeposit
            | PaymentStatus::Approved
            | PaymentStatus::PartiallyCanceled
            | PaymentStatus::Canceled
            | PaymentStatus::Declined
            | PaymentStatus::Expired => self.open.as_ref().is_some_and(|open| recent(open.created_at)),
        }
    }
}

async fn look(app: &App, item: Item<'_>, id: PaymentId) -> Result<Look, ResolveError> {
    for _ in 0..LOOKS_MAX {
        let before = Ours::read(app, id).await?;
        if before.is_in_flight(app) {
            return Ok(Look::InFlight);
        }
        let Some((snapshot, call, known)) = ask(app, item.key, before.payment.order_id).await else {
            return Ok(Look::Unanswered);
        };
        let after = Ours::read(app, id).await?;
        if !before.is_same_as(&after) {
            continue;
        }
        let differences = match &snapshot {
            Some(snapshot) => differences(&after.books, snapshot, item.rows),
            None => unknown_there(&after.books, known),
        };
        let trace_id = after.payment.trace_id.clone().or_else(|| after.order.and_then(|order| order.trace_id));
        return Ok(Look::Seen(Box::new(Sight { payment: after.payment, trace_id, snapshot, call, differences })));
    }
    Ok(Look::InFlight)
}

/// What the PG knows besides the payment that was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// The payment, or nothing.
    Nothing,
    /// Another payment of the same order.
    AnotherPayment,
}

/// The PG's view by the payment's key, else by the order's id. `None` if it does not say, or is not asked because it is
/// known not to answer.
async fn ask(app: &App, key: &PaymentKey, order: OrderId) -> Option<(Option<Box<Snapshot>>, Call, Known)> {
    let (found, call) = app.provider.inquire(Lane::Background, key).await.ok()?;
    match found {
        Inquiry::Found(snapshot) => return Some((Some(snapshot), call, Known::Nothing)),
        Inquiry::Unknown(_) => return None,
        Inquiry::NotFound => {}
    }
    let (found, call) = app.provider.inquire_by_order(Lane::Background, order).await.ok()?;
    match found {
        Inquiry::Found(snapshot) if snapshot.payment_key == *key => Some((Some(snapshot), call, Known::Nothing)),
        Inquiry::Found(_) => Some((None, call, Known::AnotherPayment)),
        Inquiry::NotFound => Some((None, call, Known::Nothing)),
        Inquiry::Unknown(_) => None,
    }
}

/// The PG has never heard of the payment: that matters if our books have money on it.
fn unknown_there(books: &Books, known: Known) -> Vec<Difference> {
    let Some(taken) = books.approved_amount else { return Vec::new() };
    let why = match known {
        Known::Nothing => "our books have a payment that the PG does not know, by its key or by its order",
        Known::AnotherPayment => "our books have a payment that the PG does not know; it knows another of this order",
    };
    let amount = Some(Money::new(taken, books.amount.currency));
    vec![Difference { kind: FindingKind::MissingThere, amount, transaction_key: None, at: books.approved_at, why }]
}

/// Whether this evidence may be given to `resolve`. A payment that keeps its money is not argued with by a view of
/// another amount, currency, order or shop.
fn speaks_of_ours(sight: &Sight, snapshot: &Snapshot) -> bool {
    match sight.payment.status {
        PaymentStatus::Approved | PaymentStatus::PartiallyCanceled => {
            is_ours(&sight.payment.order_id.to_string(), sight.payment.total(), snapshot)
        }
        PaymentStatus::Ready
        | PaymentStatus::Confirming
        | PaymentStatus::AwaitingDeposit
        | PaymentStatus::Canceled
        | PaymentStatus::Declined
        | PaymentStatus::Expired
        | PaymentStatus::Reversing => true,
    }
}

/// Records what the PG says of a payment and of its open cancellation, as a webhook's inquiry does.
async fn apply(
    app: &App,
    payment: &PaymentRow,
    snapshot: &Snapshot,
    call: &Call,
    origin: &Origin,
) -> Result<(), ResolveError> {
    let target = Target { payment: payment.id, order: payment.order_id, seen: Some(payment.version) };
    let evidence = || Evidence::Snapshot(Box::new(snapshot.clone()));
    let resolution = resolve(app, target, evidence(), Some(call), origin).await?;
    let open = app.db.read(async |conn| cancellations::open_of(conn, payment.id).await).await?;
    let Some(open) = open.filter(|open| find_cancel(snapshot, open.id, resolution.payment.status).is_some()) else {
        return Ok(());
    };
    let of_cancel = CancelEvidence::Snapshot(Box::new(snapshot.clone()));
    resolve_cancel(app, target, open.id, of_cancel, Some(call), origin).await?;
    // The PG may list cancels beside ours that did not fit before.
    resolve(app, target, evidence(), Some(call), origin).await?;
    Ok(())
}
