//! Webhooks: take a delivery in, whole and unread, and answer at once; a worker reads it and asks the PG.
//!
//! Nobody authenticates here, so nothing that is said is believed: the address, the size and the shape are checked, and
//! a duplicate is as welcome as the first.

use std::collections::HashMap;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName};
use serde::de::IgnoredAny;

use super::AppState;
use super::extract::{self, Id};
use super::problem::{Code, Problem};
use super::rates;
use crate::payments::webhook;
use crate::telemetry;
use crate::telemetry::labels::WebhookReceived;
use crate::telemetry::record;

const BODY_BYTES_MAX: usize = 256 * 1024;
const TRANSMISSION_ID: HeaderName = HeaderName::from_static("tosspayments-webhook-transmission-id");
const TRANSMISSION_ID_BYTES_MAX: usize = 128;

/// Take a PG's webhook
///
/// For the PG. The body is a JSON object of the PG's own form, at most 256 KiB; it is stored, and the PG is asked
/// before anything changes. A duplicate is answered like the first delivery.
#[utoipa::path(post, path = "/v1/webhooks/{provider}", operation_id = "receiveWebhook", tag = "webhooks",
    params(("provider" = String, Path, description = "The PG's name.", example = "toss")),
    request_body(content = Object, description = "The PG's own envelope.", content_type = "application/json",
        example = json!({"eventType": "PAYMENT_STATUS_CHANGED", "createdAt": "2026-11-21T10:00:00.000000",
            "data": {"paymentKey": "tviva20261121abcdEFGH", "orderId": "ord_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b", "status": "DONE"}})),
    responses((status = 200, description = "Stored, now or before.", body = Object, example = json!({}))),
    security(()))]
pub async fn receive(
    State(state): State<AppState>,
    Id(provider): Id<String>,
    request: Request,
) -> Result<axum::Json<serde_json::Value>, Problem> {
    let (parts, body) = request.into_parts();
    rates::count_webhook(&state, &parts).await?;
    let request = Request::from_parts(parts, body);
    if provider != state.provider.name() {
        return Err(Problem::new(Code::RouteNotFound, "No such payment provider is set up."));
    }
    let label = state.provider.label();
    let transmission_id = transmission_id(request.headers());
    let body = extract::bytes(request, BODY_BYTES_MAX).await.inspect_err(|problem| {
        if problem.code() == Code::BodyTooLarge {
            record::webhook_received(label, WebhookReceived::TooLarge);
        }
    })?;
    if !is_object(&body) {
        record::webhook_received(label, WebhookReceived::Undecodable);
        return Err(Problem::new(Code::BadJson, "A webhook is a JSON object."));
    }
    webhook::receive(&state, body.into(), transmission_id, telemetry::current_trace_id()).await?;
    Ok(axum::Json(serde_json::json!({})))
}

fn is_object(body: &[u8]) -> bool {
    serde_json::from_slice::<HashMap<String, IgnoredAny>>(body).is_ok()
}

/// The PG's number of this delivery; one of an odd form is no number.
fn transmission_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(TRANSMISSION_ID)?.to_str().ok()?;
    let sane = (1..=TRANSMISSION_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    sane.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_webhook_is_a_json_object() {
        assert!(is_object(b"{}") && is_object(br#"{"data":{"a":[1,null]}}"#));
        for bad in [&b""[..], b"[]", b"1", b"null", b"{", b"{}x", b"\xff", "{\"a\":1,}".as_bytes()] {
            assert!(!is_object(bad), "{bad:?}");
        }
    }

    #[test]
    fn an_odd_transmission_id_is_none() {
        let with = |value: &str| {
            let value = HeaderValue::from_str(value).expect("a header value");
            transmission_id(&HeaderMap::from_iter([(TRANSMISSION_ID, value)]))
        };
        assert_eq!(with("6d0a-1_x").as_deref(), Some("6d0a-1_x"));
        assert_eq!((with(""), with("a b"), with(&"a".repeat(129))), (None, None, None));
        assert_eq!(transmission_id(&HeaderMap::new()), None);
    }
}
