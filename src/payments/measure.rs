//! One outcome per item of a worker, counted when it is done. Requests are counted where they are answered.

use super::resolve::{Change, ResolveError};
use crate::app::App;
use crate::telemetry::canonical;
use crate::telemetry::labels::{Operation, OperationOutcome, WebhookApplied};
use crate::telemetry::ledger::{self, Account};
use crate::telemetry::record::{self, Ended};

/// Runs a worker's item and counts what it came to.
pub(super) async fn measured_item<T>(
    app: &App,
    operation: Operation,
    id: &impl std::fmt::Display,
    outcome: fn(&Result<T, ResolveError>) -> OperationOutcome,
    item: impl Future<Output = Result<T, ResolveError>>,
) {
    // Within the line's own account: a second one inside would keep the steps from it.
    let mut account = Account::unknown();
    let measured = async {
        let running = ledger::begin();
        let result = item.await;
        account = running.end();
        result
    };
    let provider = app.provider.label();
    let result = canonical::item(operation, provider, outcome, measured).await;
    record::operation(Ended { operation, outcome: outcome(&result), provider, account: &account });
    if let Err(error) = result {
        tracing::error!(operation = operation.as_str(), %id, %error, "an item failed, and will be tried again");
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
