//! What is told of requests and webhooks at the door.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Active, unix_seconds};
use crate::telemetry::catalogue as c;
use crate::telemetry::labels::{
    HttpMethod, IdempotencyResult, IdempotentRoute, ProviderLabel, RejectionReason, RouteLabel, StatusLabel, StreamEnd,
    WebhookReceived,
};

/// A request is being answered.
pub fn http_active(method: HttpMethod) -> Active {
    Active::begin(c::HTTP_ACTIVE.of((method,)))
}

/// A request was answered, or its client left.
pub fn http_request(method: HttpMethod, route: RouteLabel, status: StatusLabel, elapsed: Duration) {
    c::HTTP_REQUEST.of((method, route, status)).record(elapsed.as_secs_f64());
}

/// A request was turned away at the edge.
pub fn rejection(reason: RejectionReason) {
    c::HTTP_REJECTIONS.of((reason,)).increment(1);
}

/// What an idempotency key led to.
pub fn idempotency(route: IdempotentRoute, result: IdempotencyResult) {
    c::IDEMPOTENCY.of((route, result)).increment(1);
}

/// A webhook came in.
pub fn webhook_received(provider: ProviderLabel, outcome: WebhookReceived) {
    c::WEBHOOKS_RECEIVED.of((provider, outcome)).increment(1);
}

/// A webhook was received at `now`.
pub fn webhook_seen(provider: ProviderLabel, now: DateTime<Utc>) {
    c::WEBHOOK_LAST.of((provider,)).set(unix_seconds(now));
}

/// A stream of events is open.
pub fn stream_open() -> Active {
    Active::begin(c::STREAMS.of(()))
}

/// A stream of events ended.
pub fn stream_ended(reason: StreamEnd) {
    c::STREAMS_ENDED.of((reason,)).increment(1);
}
