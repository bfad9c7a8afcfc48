//! Which browser pages may call the API.

use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::rates;

/// How long a browser may remember the answer to its question.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Lets pages of these origins (`scheme://host[:port]`) call; one that is no header value is left out.
pub fn layer(origins: &[String]) -> CorsLayer {
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.collect::<Vec<_>>()))
        .allow_methods([Method::GET, Method::POST, Method::PATCH])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
            HeaderName::from_static("x-request-id"),
            HeaderName::from_static("traceparent"),
        ])
        .expose_headers([
            RETRY_AFTER,
            LOCATION,
            rates::RATELIMIT,
            rates::RATELIMIT_POLICY,
            HeaderName::from_static("idempotency-replayed"),
            HeaderName::from_static("x-request-id"),
            HeaderName::from_static("server-timing"),
            HeaderName::from_static("traceresponse"),
        ])
        .max_age(REMEMBERED)
}
