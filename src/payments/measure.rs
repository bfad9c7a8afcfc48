//! One outcome per operation: counted once, when the verb returns, after its commit.

use std::time::Instant;

use super::cancel::{CancelError, Canceled};
use super::cancel_order::{CancelOrderError, OrderCanceled};
use super::confirm::{ConfirmError, Confirmed};
use super::order::{PlaceError, Placed};
use super::resolve::{Change, ResolveError};
use crate::app::App;
use crate::db::DbError;
use crate::db::idempotency::Response;
use crate::domain::evidence::NotSentReason;
use crate::telemetry::labels::{Operation, OperationOutcome, WebhookApplied};
use crate::telemetry::record;

/// Runs a verb and counts what it came to.
pub(super) async fn measured<T>(
    app: &App,
    operation: Operation,
    outcome: fn(&T) -> OperationOutcome,
    verb: impl Future<Output = T>,
) -> T {
    let started = Instant::now();
    let result = verb.await;
    let outcome = outcome(&result);
    record::operation(operation, outcome, app.provider.label(), started.elapsed());
    tracing::debug!(operation = operation.as_str(), outcome = outcome.as_str(), "operation ended");
    result
}

/// Runs a worker's item and counts what it came to.
pub(super) async fn measured_item<T>(
    app: &App,
    operation: Operation,
    outcome: fn(&Result<T, ResolveError>) -> OperationOutcome,
    item: impl Future<Output = Result<T, ResolveError>>,
) {
    let result = measured(app, operation, outcome, item).await;
    if let Err(error) = result {
        tracing::error!(operation = operation.as_str(), %error, "an item failed, and will be tried again");
    }
}

pub(super) fn recovered(result: &Result<Change, ResolveError>) -> OperationOutcome {
    match result {
        Ok(Change::Nothing | Change::Decided | Change::BackToReady(_)) => OperationOutcome::Success,
        Ok(Change::StillOpen) => OperationOutcome::Unknown,
        Err(_) => OperationOutcome::Error,
    }
}

pub(super) fn webhook_read(result: &Result<WebhookApplied, ResolveError>) -> OperationOutcome {
    match result {
        Ok(WebhookApplied::Changed | WebhookApplied::Unchanged) => OperationOutcome::Success,
        Ok(WebhookApplied::Deferred) => OperationOutcome::Unknown,
        Ok(
            WebhookApplied::UnknownPayment
            | WebhookApplied::SecretMismatch
            | WebhookApplied::Irrelevant
            | WebhookApplied::Undecodable,
        ) => OperationOutcome::Rejected,
        Err(_) => OperationOutcome::Error,
    }
}

fn database(error: &DbError) -> OperationOutcome {
    tracing::error!(%error, "an operation failed at the database");
    OperationOutcome::Error
}

fn answered(response: &Response, replayed: bool, failure: OperationOutcome) -> OperationOutcome {
    match (replayed, response.status) {
        (true, _) => OperationOutcome::Replayed,
        (false, 200 | 201) => OperationOutcome::Success,
        (false, 402) => OperationOutcome::Declined,
        (false, _) => failure,
    }
}

pub(super) fn placed(result: &Result<Placed, PlaceError>) -> OperationOutcome {
    match result {
        Ok(placed) => answered(&placed.response, placed.replayed, OperationOutcome::Error),
        Err(PlaceError::UnknownProduct(_) | PlaceError::InsufficientStock { .. } | PlaceError::Money(_)) => {
            OperationOutcome::Rejected
        }
        Err(PlaceError::KeyMismatch | PlaceError::KeyInFlight) => OperationOutcome::Conflict,
        Err(PlaceError::Db(error)) => database(error),
        Err(PlaceError::Json(_)) => OperationOutcome::Error,
    }
}

pub(super) fn confirmed(result: &Result<Confirmed, ConfirmError>) -> OperationOutcome {
    match result {
        Ok(Confirmed::Answered { response, replayed }) => answered(response, *replayed, OperationOutcome::PgError),
        Ok(Confirmed::Undecided(_)) => OperationOutcome::Unknown,
        Err(ConfirmError::OrderNotFound | ConfirmError::AmountMismatch { .. } | ConfirmError::OrderExpired) => {
            OperationOutcome::Rejected
        }
        Err(
            ConfirmError::OrderNotPending { .. }
            | ConfirmError::PaymentInFlight { .. }
            | ConfirmError::PaymentOfAnotherOrder
            | ConfirmError::KeyMismatch
            | ConfirmError::KeyInFlight,
        ) => OperationOutcome::Conflict,
        Err(ConfirmError::NotSent(not_sent)) => match not_sent.reason {
            NotSentReason::Misconfigured
            | NotSentReason::Unreachable
            | NotSentReason::RateLimited
            | NotSentReason::NeverArrived => OperationOutcome::PgError,
        },
        Err(ConfirmError::Db(error)) => database(error),
    }
}

pub(super) fn canceled(result: &Result<Canceled, CancelError>) -> OperationOutcome {
    match result {
        Ok(Canceled::Answered { response, replayed }) => answered(response, *replayed, OperationOutcome::Declined),
        Ok(Canceled::Undecided(_)) => OperationOutcome::Unknown,
        Err(error) => cancel_failed(error),
    }
}

fn cancel_failed(error: &CancelError) -> OperationOutcome {
    match error {
        CancelError::PaymentNotFound
        | CancelError::NotAllowed
        | CancelError::NotCancelable { .. }
        | CancelError::Scope(_)
        | CancelError::RefundAccountNeeded
        | CancelError::PartialNotAllowed => OperationOutcome::Rejected,
        CancelError::PaymentInFlight
        | CancelError::CancellationInProgress
        | CancelError::KeyMismatch
        | CancelError::KeyInFlight => OperationOutcome::Conflict,
        CancelError::Db(error) => database(error),
    }
}

pub(super) fn order_canceled(result: &Result<OrderCanceled, CancelOrderError>) -> OperationOutcome {
    match result {
        Ok(OrderCanceled::Now { replayed: true, .. } | OrderCanceled::Refused { replayed: true, .. }) => {
            OperationOutcome::Replayed
        }
        Ok(OrderCanceled::Now { is_decided: true, .. }) => OperationOutcome::Success,
        Ok(OrderCanceled::Now { .. }) => OperationOutcome::Unknown,
        Ok(OrderCanceled::Refused { .. }) => OperationOutcome::Declined,
        Err(CancelOrderError::OrderNotFound | CancelOrderError::OrderNotCancelable { .. }) => {
            OperationOutcome::Rejected
        }
        Err(CancelOrderError::Payment(error)) => cancel_failed(error),
        Err(CancelOrderError::Json(_)) => OperationOutcome::Error,
    }
}
