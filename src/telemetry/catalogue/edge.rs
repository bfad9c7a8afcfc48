//! The metrics of the edge: requests, refusals, idempotency keys, webhooks at the door.

use metrics::{Counter, Gauge};

use super::{HTTP, Kind, LabelInfo, MetricInfo, Unit, real};
use crate::telemetry::family::{Family, FromZero};
use crate::telemetry::histogram::Histogram;
use crate::telemetry::labels::{
    HttpMethod, IdempotencyResult, IdempotentRoute, Label, ProviderLabel, RejectionReason, RouteLabel, StatusLabel,
    StreamEnd, WebhookReceived,
};

catalogue! {
    EDGE
    [
    Histogram HTTP_REQUEST = "http_server_request_duration_seconds" {
        http_request_method: HttpMethod, http_route: RouteLabel, http_response_status_code: StatusLabel
    } Seconds, buckets HTTP, exemplars Span, from_zero FromZero::Never,
    "Time from the first byte of a request's head to the head of its response. Which route is slow or failing?";
    Gauge HTTP_ACTIVE = "http_server_active_requests" { http_request_method: HttpMethod } Count,
    from_zero FromZero::Every, "Requests being answered now. Are we saturated or stuck?";
    Counter HTTP_REJECTIONS = "payments_http_rejections_total" { reason: RejectionReason } Count,
    from_zero FromZero::Every, "Requests turned away before any use case saw them. Are we refusing real customers?";
    Counter IDEMPOTENCY = "payments_idempotency_total" { route: IdempotentRoute, result: IdempotencyResult } Count,
    from_zero FromZero::Every, "Uses of Idempotency-Key. Are clients retrying, or using a key for two things?";
    Gauge STREAMS = "payments_event_streams" {} Count, from_zero FromZero::Every,
    "Streams of events that are open now. How many buyers wait?";
    Counter STREAMS_ENDED = "payments_event_streams_ended_total" { reason: StreamEnd } Count, from_zero FromZero::Every,
    "Streams of events that ended, by why. Do buyers give up?";
    Counter WEBHOOKS_RECEIVED = "payments_webhooks_received_total" {
        provider: ProviderLabel, outcome: WebhookReceived
    } Count, from_zero FromZero::Those(|(provider, _)| real(provider)),
    "Webhooks at the door. Do the PG's events arrive?";
    Gauge WEBHOOK_LAST = "payments_webhook_last_received_timestamp_seconds" { provider: ProviderLabel } Timestamp,
    from_zero FromZero::Those(|(provider,)| real(provider)),
    "When this process last received a webhook; 0 if never. Has the PG fallen silent?";
    ]
    [
    ]
}
