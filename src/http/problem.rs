//! Problems (RFC 9457): the one place where refusals and failures become a status, a stable `code` and words.
//!
//! Every handler, extractor and fallback answers its failures with a [`Problem`]. What a caller may not know (SQL,
//! constraint names, the PG's complaints about our key) goes into the log line's cause, never into the body.

mod from;
mod stored;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::Value;

pub use self::code::Code;
pub(in crate::http) use self::from::{order_not_found, payment_not_found};
pub use self::stored::{cancellation_refused, payment_not_taken};
use super::middleware::telemetry::{ErrorCode, InternalCause};
use crate::telemetry::labels::RejectionReason;
use crate::telemetry::record;

mod code;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"paygauge\"");

/// A refusal or failure as a caller sees it, and its cause as the log sees it.
#[derive(Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    fields: Vec<(&'static str, Value)>,
    retry_after_s: Option<u64>,
    cause: Option<String>,
}

impl Problem {
    /// A problem of this kind; `detail` speaks about this occurrence.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after_s = code.retry_after_s();
        Self { code, detail: detail.into(), fields: Vec::new(), retry_after_s, cause: None }
    }

    /// A field, parameter or header that cannot be taken.
    #[must_use]
    pub fn invalid(parameter: &str, detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidParameter, detail).with("parameter", parameter)
    }

    /// Our own fault; `cause` is logged and never sent.
    #[must_use]
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Self::new(Code::Internal, "The request failed on our side.").because(cause)
    }

    /// Adds a member to the body.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// Says why, to the log alone.
    #[must_use]
    pub fn because(mut self, cause: impl std::fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Asks the caller to wait this long instead of the kind's usual time.
    #[must_use]
    pub const fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Its kind.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &self.code.urn())?;
        map.serialize_entry("title", self.code.title())?;
        map.serialize_entry("status", &self.code.status().as_u16())?;
        map.serialize_entry("detail", &self.detail)?;
        map.serialize_entry("code", self.code.as_str())?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if let Some(reason) = rejection(self.code) {
            record::rejection(reason);
        }
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code.status() == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, CHALLENGE);
        }
        let extensions = response.extensions_mut();
        extensions.insert(ErrorCode(self.code.as_str()));
        if let Some(cause) = self.cause.filter(|_| self.code.status().is_server_error()) {
            extensions.insert(InternalCause(cause));
        }
        response
    }
}

/// The kinds that are turned away before any use case sees them, as the metric counts them.
fn rejection(code: Code) -> Option<RejectionReason> {
    let reasons = [
        (Code::Unauthorized, RejectionReason::Unauthorized),
        (Code::Forbidden, RejectionReason::Forbidden),
        (Code::BodyTooLarge, RejectionReason::BodyTooLarge),
        (Code::BadJson, RejectionReason::BadJson),
        (Code::RateLimited, RejectionReason::RateLimited),
        (Code::TooManyStreams, RejectionReason::Shed),
    ];
    reasons.into_iter().find_map(|(of, reason)| (of == code).then_some(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(problem: Problem) -> (Response<()>, Value) {
        let (parts, body) = problem.into_response().into_parts();
        let bytes = axum::body::to_bytes(body, 10_000).await.expect("a short body");
        (Response::from_parts(parts, ()), serde_json::from_slice(&bytes).expect("JSON"))
    }

    #[tokio::test]
    async fn a_problem_carries_its_kind_its_words_and_its_members() {
        let problem = Problem::new(Code::InsufficientStock, "2 are left").with("available", 2).with("requested", 3);
        let (response, body) = read(problem).await;
        assert_eq!(response.status(), 409);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.extensions().get(), Some(&ErrorCode("insufficient_stock")));
        assert_eq!(body["type"], "urn:paygauge:problem:insufficient_stock");
        assert_eq!((&body["status"], &body["code"]), (&409.into(), &"insufficient_stock".into()));
        assert_eq!((&body["available"], &body["requested"]), (&2.into(), &3.into()));
    }

    #[tokio::test]
    async fn a_cause_reaches_the_log_and_never_the_caller() {
        let (response, body) = read(Problem::internal("constraint payments_pkey")).await;
        assert_eq!(response.extensions().get(), Some(&InternalCause("constraint payments_pkey".to_owned())));
        assert!(!body.to_string().contains("payments_pkey"));
    }

    #[tokio::test]
    async fn waiting_and_authenticating_are_said_in_headers() {
        let (response, _) = read(Problem::new(Code::DatabaseUnavailable, "later")).await;
        assert!(response.headers().contains_key("retry-after"));
        let (response, _) = read(Problem::new(Code::ProviderUnavailable, "later").retry_after(7)).await;
        assert_eq!(response.headers()["retry-after"], "7");
        let (response, _) = read(Problem::new(Code::Unauthorized, "who?")).await;
        assert!(response.headers()["www-authenticate"].to_str().is_ok_and(|value| value.starts_with("Bearer")));
    }

    #[test]
    fn every_kind_has_a_status_of_failure_and_words_of_its_own() {
        let mut titles: Vec<_> = Code::ALL.iter().map(|code| code.title()).collect();
        titles.sort_unstable();
        titles.dedup();
        assert_eq!(titles.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code}");
            assert!(code.explanation().ends_with('.'), "{code}");
        }
    }
}
