//! Runs a money verb for a request: to its end even if the client hangs up, measured once, its answer made whole.

use std::time::Instant;

use axum::http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::AppState;
use super::problem::{Code, Problem};
use crate::telemetry::canonical;
use crate::telemetry::facts::{self, Fact};
use crate::telemetry::labels::{IdempotencyResult, IdempotentRoute, Operation, OperationOutcome, ProviderLabel};
use crate::telemetry::ledger::{self, Account};
use crate::telemetry::record::{self, Ended};

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// When to poll for what is undecided, in seconds.
const POLL_AFTER_S: u64 = 1;

/// Which verb runs, for the metrics.
#[derive(Debug, Clone, Copy)]
pub struct Verb {
    /// The use case.
    pub operation: Operation,
    /// Where its idempotency keys belong.
    pub route: IdempotentRoute,
    /// The PG that takes part.
    pub provider: ProviderLabel,
}

impl Verb {
    const fn ended(self, outcome: OperationOutcome, account: &Account) -> Ended<'_> {
        Ended { operation: self.operation, outcome, provider: self.provider, account }
    }
}

/// What a verb came to.
#[derive(Debug)]
pub struct Answer {
    response: Response,
    outcome: OperationOutcome,
    replayed: bool,
}

impl Answer {
    /// It is done: JSON with this status.
    #[must_use]
    pub fn done(status: StatusCode, body: String, replayed: bool) -> Self {
        let mut response = body.into_response();
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        Self { response, outcome: OperationOutcome::Success, replayed }
    }

    /// It is not certain yet: 202, and where to look.
    ///
    /// # Errors
    /// If the view cannot be written.
    pub fn undecided(view: &impl Serialize, location: &str) -> Result<Self, Problem> {
        let mut answer = Self::done(StatusCode::ACCEPTED, json(view)?, false).at(location);
        answer.response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(POLL_AFTER_S));
        answer.outcome = OperationOutcome::Unknown;
        Ok(answer)
    }

    /// It was decided against the caller, and that is kept.
    #[must_use]
    pub fn refused(problem: Problem, replayed: bool) -> Self {
        let outcome = problem.code().outcome();
        Self { response: problem.into_response(), outcome, replayed }
    }

    /// Adds where the thing can be read.
    #[must_use]
    pub fn at(mut self, location: &str) -> Self {
        if let Ok(location) = HeaderValue::from_str(location) {
            self.response.headers_mut().insert(LOCATION, location);
        }
        self
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = self.response;
        if self.replayed {
            response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// A view as JSON text.
///
/// # Errors
/// If it cannot be written.
pub fn json(view: &impl Serialize) -> Result<String, Problem> {
    serde_json::to_string(view).map_err(Problem::internal)
}

/// Runs `work` detached from the client's connection.
///
/// # Errors
/// Those of `work`, and an internal one if it panicked.
pub async fn run(
    state: &AppState,
    verb: Verb,
    work: impl Future<Output = Result<Answer, Problem>> + Send + 'static,
) -> Result<Answer, Problem> {
    let measured = async move {
        let (started, running) = (Instant::now(), ledger::begin());
        facts::tell(Fact::Operation(verb.operation));
        facts::tell(Fact::Provider(verb.provider));
        let result = Box::pin(work).await;
        let (outcome, key) = told(&result);
        facts::tell(Fact::Outcome(outcome));
        facts::tell(Fact::Idempotency(key));
        record::operation(verb.ended(outcome, &running.end()));
        record::idempotency(verb.route, key);
        canonical::late(started);
        result
    };
    match state.detached(measured).await {
        Some(result) => result,
        None => {
            facts::tell(Fact::Outcome(OperationOutcome::Error));
            record::operation(verb.ended(OperationOutcome::Error, &Account::unknown()));
            Err(Problem::internal("the work panicked"))
        }
    }
}

fn told(result: &Result<Answer, Problem>) -> (OperationOutcome, IdempotencyResult) {
    match result {
        Ok(answer) if answer.replayed => (OperationOutcome::Replayed, IdempotencyResult::Replayed),
        Ok(answer) => (answer.outcome, IdempotencyResult::Fresh),
        Err(problem) => {
            // Every other problem met a key that was fresh.
            let known = [
                (Code::IdempotencyKeyInFlight, IdempotencyResult::InFlight),
                (Code::IdempotencyKeyMismatch, IdempotencyResult::Mismatch),
            ];
            let key = known.into_iter().find_map(|(code, key)| (code == problem.code()).then_some(key));
            let key = key.unwrap_or(IdempotencyResult::Fresh);
            (problem.code().outcome(), key)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_says_so_and_counts_as_one() {
        let answer = Answer::done(StatusCode::CREATED, "{}".to_owned(), true).at("/v1/orders/ord_1");
        assert_eq!(told(&Ok(answer)), (OperationOutcome::Replayed, IdempotencyResult::Replayed));
        let response = Answer::done(StatusCode::CREATED, "{}".to_owned(), true).at("/v1/orders/ord_1").into_response();
        assert_eq!(response.headers()["idempotency-replayed"], "true");
        assert_eq!(response.headers()["location"], "/v1/orders/ord_1");
        assert_eq!(response.headers()["content-type"], "application/json");
    }

    #[test]
    fn what_is_undecided_tells_where_and_when_to_look() {
        let answer = Answer::undecided(&"view", "/v1/payments/pay_1").expect("JSON");
        assert_eq!(told(&Ok(answer)), (OperationOutcome::Unknown, IdempotencyResult::Fresh));
        let response = Answer::undecided(&"view", "/v1/payments/pay_1").expect("JSON").into_response();
        assert_eq!(
            (response.status(), &response.headers()["retry-after"]),
            (StatusCode::ACCEPTED, &"1".parse().expect("a value"))
        );
        assert!(!response.headers().contains_key("idempotency-replayed"));
    }

    #[test]
    fn problems_tell_what_became_of_the_key() {
        let with = |code| told(&Err(Problem::new(code, "")));
        assert_eq!(with(Code::IdempotencyKeyMismatch), (OperationOutcome::Rejected, IdempotencyResult::Mismatch));
        assert_eq!(with(Code::IdempotencyKeyInFlight), (OperationOutcome::Conflict, IdempotencyResult::InFlight));
        assert_eq!(with(Code::ProviderUnavailable), (OperationOutcome::PgError, IdempotencyResult::Fresh));
    }
}
