//! Idempotency: what a key means when it comes, and comes again.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::resolve::{Change, ResolveError};
use super::view;
use crate::config::Settings;
use crate::db::batch::Batch;
use crate::db::idempotency::{self, Response, Scope};
use crate::db::payments::PaymentRow;
use crate::db::{Conn, DbError};
use crate::domain::payment::PaymentStatus;

/// What the caller of a claim must do.
#[derive(Debug, Clone)]
pub enum Claim {
    /// The key is ours: go on.
    Fresh,
    /// Answered before: give the same answer.
    Done(Response),
    /// The first request is still running.
    InFlight,
    /// The first request ended without a certain outcome: show how `resource` stands today.
    Unresolved(Uuid),
    /// The key was used for something else.
    Mismatch,
}

/// Claims the key for `resource` in the caller's transaction, or says what it means already.
pub async fn claim(conn: &Conn, scope: &Scope, resource: Uuid, settings: &Settings) -> Result<Claim, DbError> {
    let lease = settings.idempotency_lease;
    if idempotency::claim(conn, scope, resource, lease, settings.idempotency_keep).await? {
        return Ok(Claim::Fresh);
    }
    let Some(row) = idempotency::find(conn, scope).await? else {
        // Freed between the two statements: the first request did nothing, and the caller may try again.
        return Ok(Claim::InFlight);
    };
    if row.fingerprint != scope.fingerprint {
        return Ok(Claim::Mismatch);
    }
    if let (Some(status), Some(body)) = (row.response_status, row.response_body) {
        return Ok(Claim::Done(Response { status, body }));
    }
    if row.lease_until > crate::clock::now() {
        return Ok(Claim::InFlight);
    }
    Ok(Claim::Unresolved(row.resource_id))
}

/// Keeps the answer for the caller's key, as far as there is one.
pub(super) fn keep_answer(
    batch: &mut Batch<'_>,
    payment: &PaymentRow,
    view: &view::PaymentView,
    change: &Change,
) -> Result<(), ResolveError> {
    let (conn, id) = (batch.conn(), payment.id.uuid());
    match change {
        Change::Nothing => {}
        Change::StillOpen => batch.add(idempotency::end_lease(conn, id)),
        Change::BackToReady(_) => batch.add(idempotency::free(conn, id)),
        Change::Decided => {
            let response = view::stored(http_status(payment.status), view)?;
            batch.add(async move { idempotency::answer(conn, id, &response).await });
        }
    }
    Ok(())
}

/// The HTTP status of a decided confirm.
const fn http_status(status: PaymentStatus) -> i16 {
    match status {
        PaymentStatus::Declined => 402,
        PaymentStatus::Reversing => 409,
        PaymentStatus::Ready
        | PaymentStatus::Confirming
        | PaymentStatus::AwaitingDeposit
        | PaymentStatus::Approved
        | PaymentStatus::PartiallyCanceled
        | PaymentStatus::Canceled
        | PaymentStatus::Expired => 200,
    }
}

/// The fingerprint of a request: its parts in order, told apart by their lengths.
#[must_use]
pub fn fingerprint(parts: &[&[u8]]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}
