//! Inquire: an operator wants the PG asked now. What it says goes through `resolve` as always, with `operator` as the
//! actor: evidence changes a payment, nobody's wish does.

use serde::Serialize;
use utoipa::ToSchema;

use super::explain::{self, ExplanationView};
use super::recovery::{self, Asked};
use super::resolve::{Change, ResolveError, Target, resolve};
use super::resolve_cancel::resolve_cancel;
use crate::app::App;
use crate::db::cancellations::{self, CancellationRow};
use crate::db::events::Origin;
use crate::db::payments::PaymentRow;
use crate::db::{self, DbError};
use crate::domain::evidence::Inquiry;
use crate::domain::ids::PaymentId;
use crate::domain::resolution::{CancelEvidence, Evidence, find_cancel};
use crate::domain::vocabulary;
use crate::provider::protection::Refused;
use crate::telemetry::labels::{Lane, ProviderOperation, Tx};

/// Who the history says it was.
pub const ACTOR: &str = "operator";

vocabulary! {
    /// What asking came to.
    pub enum Learnt {
        /// The outcome is certain now.
        Decided => "decided",
        /// The PG certainly did nothing; the payment may be confirmed again.
        BackToReady => "back_to_ready",
        /// Still not certain; the next inquiry is planned.
        StillOpen => "still_open",
        /// We knew already.
        Nothing => "nothing",
    }
}

vocabulary! {
    /// What the PG knows by the order, where it does not know the payment's key.
    pub enum ByOrder {
        /// The same payment.
        SamePayment => "same_payment",
        /// Another payment of this order: not ours to record here, but somebody should look.
        AnotherPayment => "another_payment",
        /// Nothing.
        NotFound => "not_found",
        /// It did not say.
        Unknown => "unknown",
    }
}

/// What asking came to, and how the payment stands afterwards.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Inquired)]
pub struct Inquired {
    /// `decided`, `back_to_ready`, `still_open` or `nothing`.
    #[schema(example = "decided")]
    pub learnt: &'static str,
    /// `same_payment`, `another_payment`, `not_found` or `unknown`: what the PG knows by the order id, if that was asked.
    pub by_order: Option<&'static str>,
    /// How it stands now.
    pub explanation: ExplanationView,
}

/// Why nothing was learnt.
#[derive(Debug, thiserror::Error)]
pub enum InquireError {
    /// No such payment.
    #[error("no such payment")]
    PaymentNotFound,
    /// The PG is not asked now.
    #[error(transparent)]
    NotAdmitted(#[from] Refused),
    /// What was learnt could not be recorded.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Asks the PG about a payment and applies what it says.
pub async fn inquire(app: &App, id: PaymentId, trace_id: Option<String>) -> Result<Inquired, InquireError> {
    let origin = Origin { actor: ACTOR.to_owned(), trace_id };
    let payment = app.db.read(async |conn| db::payments::find(conn, id).await).await?;
    let payment = payment.ok_or(InquireError::PaymentNotFound)?;
    // Before anything is leased: a PG that is not asked now is told to the operator, who can come back.
    drop(app.provider.admit_soon(ProviderOperation::Inquire).await?);
    let asked = match take(app, id).await? {
        Taken::Cancellation(row) => {
            Asked { change: recovery::recover_cancel(app, &row, &origin).await?, is_unknown: false }
        }
        Taken::Payment(row) => recovery::ask_about(app, &row, &origin).await?,
        Taken::Nothing => look(app, &payment, &origin).await?.asked(),
    };
    let (mut change, mut by_order) = (asked.change, None);
    if asked.is_unknown && change == Change::StillOpen {
        let (found, learnt) = ask_by_order(app, &payment, &origin).await?;
        (by_order, change) = (Some(found.as_str()), learnt);
    }
    let explanation = explain::explain(&app.db, Some(&app.provider), id).await?;
    let learnt = match change {
        Change::Decided => Learnt::Decided,
        Change::BackToReady(_) => Learnt::BackToReady,
        Change::StillOpen => Learnt::StillOpen,
        Change::Nothing => Learnt::Nothing,
    };
    let explanation = explanation.ok_or(InquireError::PaymentNotFound)?;
    Ok(Inquired { learnt: learnt.as_str(), by_order, explanation })
}

/// What recovery could do now, if nobody else has it in hand.
enum Taken {
    Cancellation(Box<CancellationRow>),
    Payment(Box<PaymentRow>),
    /// There is nothing to send again, or its request or a worker is at it: looking is all that is safe.
    Nothing,
}

async fn take(app: &App, id: PaymentId) -> Result<Taken, DbError> {
    let lease = app.settings.worker_lease;
    // A transaction each: together they would lock a payment after its cancellation.
    let open = app.db.transaction(Tx::Lease, async |conn| cancellations::lease_open(conn, id, lease).await).await?;
    if let Some(row) = open {
        return Ok(Taken::Cancellation(Box::new(row)));
    }
    let payment = app.db.transaction(Tx::Lease, async |conn| db::payments::lease_open(conn, id, lease).await).await?;
    Ok(payment.map_or(Taken::Nothing, |row| Taken::Payment(Box::new(row))))
}

/// What a look at the PG's view came to.
pub(super) enum Look {
    /// It was not asked, or said nothing that can be used.
    Unclear,
    /// It has never heard of the payment.
    NotFound,
    /// It said something that is older than what was booked meanwhile: look again.
    TooOld,
    /// It said what we know, or something new.
    Applied {
        /// Whether that changed anything.
        changed: bool,
        /// Whether the outcome is still open.
        is_open: bool,
    },
}

impl Look {
    const fn asked(&self) -> Asked {
        let change = match self {
            Self::Applied { changed: true, .. } => Change::Decided,
            Self::Applied { changed: false, is_open: false } => Change::Nothing,
            Self::Unclear | Self::NotFound | Self::TooOld | Self::Applied { changed: false, is_open: true } => {
                Change::StillOpen
            }
        };
        Asked { change, is_unknown: matches!(self, Self::NotFound) }
    }
}

/// Asks about a payment, and records what the PG says of it and of its open cancellation. Never sends anything again,
/// so it is safe beside a request or a worker that is at the same payment.
pub(super) async fn look(app: &App, payment: &PaymentRow, origin: &Origin) -> Result<Look, ResolveError> {
    let (snapshot, call) = match app.provider.inquire(Lane::Background, &payment.provider_payment_key).await {
        Ok((Inquiry::Found(snapshot), call)) => (snapshot, call),
        Ok((Inquiry::NotFound, _)) => return Ok(Look::NotFound),
        Ok((Inquiry::Unknown(_), _)) | Err(_) => return Ok(Look::Unclear),
    };
    let target = Target { payment: payment.id, order: payment.order_id, seen: Some(payment.version) };
    let resolution = resolve(app, target, Evidence::Snapshot(snapshot.clone()), Some(&call), origin).await?;
    let is_open = resolution.payment.status.is_open();
    if resolution.change == Change::StillOpen && !is_open {
        return Ok(Look::TooOld);
    }
    let open = app.db.read(async |conn| cancellations::open_of(conn, payment.id).await).await?;
    let listed = open.filter(|row| find_cancel(&snapshot, row.id, resolution.payment.status).is_some());
    let mut changed = resolution.change == Change::Decided;
    if let Some(row) = listed {
        let evidence = CancelEvidence::Snapshot(snapshot);
        changed |= resolve_cancel(app, target, row.id, evidence, Some(&call), origin).await?.changed;
    }
    Ok(Look::Applied { changed, is_open })
}

/// The PG does not know the payment's key: what does it know by our order?
async fn ask_by_order(app: &App, payment: &PaymentRow, origin: &Origin) -> Result<(ByOrder, Change), ResolveError> {
    let Ok((found, call)) = app.provider.inquire_by_order(Lane::Background, payment.order_id).await else {
        return Ok((ByOrder::Unknown, Change::StillOpen));
    };
    match found {
        Inquiry::Found(snapshot) if snapshot.payment_key == payment.provider_payment_key => {
            let target = Target { payment: payment.id, order: payment.order_id, seen: None };
            let resolution = resolve(app, target, Evidence::Snapshot(snapshot), Some(&call), origin).await?;
            Ok((ByOrder::SamePayment, resolution.change))
        }
        Inquiry::Found(snapshot) => {
            tracing::warn!(
                payment_id = %payment.id, order_id = %payment.order_id, pg_status = snapshot.status.as_str(),
                "the PG knows another payment of this order"
            );
            Ok((ByOrder::AnotherPayment, Change::StillOpen))
        }
        Inquiry::NotFound => Ok((ByOrder::NotFound, Change::StillOpen)),
        Inquiry::Unknown(_) => Ok((ByOrder::Unknown, Change::StillOpen)),
    }
}
