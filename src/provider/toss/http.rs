//! One request over the wire, told by how far it got.
//!
//! Owns the line between "certainly not sent" and "nobody can know": only a failure to connect (DNS, TCP, TLS, the
//! connect timeout) lies before it. Called by the adapter's operations; it never retries and reads no JSON.

use reqwest::header::{HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Client, Request, Response};

use crate::domain::evidence::{DoubtReason, NotSentReason};

/// The header of the PG's own trace id.
const TRACE_ID: HeaderName = HeaderName::from_static("x-tosspayments-trace-id");

/// A replay carries two trace ids; this leaves room for both.
const TRACE_ID_CHARS: usize = 128;

/// A payment is a few kilobytes; more than this is not one.
const BODY_LIMIT_BYTES: usize = 1024 * 1024;

/// A whole answer. It has no `Debug`: the body is personal data.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) trace_id: Option<String>,
    pub(super) retry_after_s: Option<u64>,
    pub(super) body: Vec<u8>,
}

/// How far a request got.
pub(super) enum Outcome {
    /// There and back.
    Reply(Reply),
    /// No byte of it left us.
    NotSent(NotSentReason),
    /// It may have arrived; what is known of the answer is attached.
    Lost { reason: DoubtReason, http_status: Option<u16>, trace_id: Option<String> },
}

/// Sends once. A request that could not even be built is a fault of our settings, not of the network.
pub(super) async fn send(client: &Client, request: reqwest::Result<Request>) -> Outcome {
    send_within(client, request, BODY_LIMIT_BYTES).await
}

/// The same for an answer that may have up to `body_bytes_max`.
pub(super) async fn send_within(client: &Client, request: reqwest::Result<Request>, body_bytes_max: usize) -> Outcome {
    let Ok(request) = request else {
        return Outcome::NotSent(NotSentReason::Misconfigured);
    };
    match client.execute(request).await {
        Ok(response) => receive(response, body_bytes_max).await,
        // Asked before `is_timeout`: a connect timeout is both, and certain.
        Err(error) if error.is_connect() => Outcome::NotSent(NotSentReason::Unreachable),
        Err(error) => Outcome::Lost { reason: loss(&error), http_status: None, trace_id: None },
    }
}

async fn receive(mut response: Response, body_bytes_max: usize) -> Outcome {
    let status = response.status().as_u16();
    let trace_id = trace_id(response.headers());
    let retry_after_s = retry_after_s(response.headers());
    match read_body(&mut response, body_bytes_max).await {
        Ok(body) => Outcome::Reply(Reply { status, trace_id, retry_after_s, body }),
        Err(reason) => Outcome::Lost { reason, http_status: Some(status), trace_id },
    }
}

/// Reads piece by piece, so that an endless answer costs no more than the limit.
async fn read_body(response: &mut Response, bytes_max: usize) -> Result<Vec<u8>, DoubtReason> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| loss(&error))? {
        if body.len().saturating_add(chunk.len()) > bytes_max {
            return Err(DoubtReason::Undecodable);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn loss(error: &reqwest::Error) -> DoubtReason {
    if error.is_timeout() { DoubtReason::Timeout } else { DoubtReason::ConnectionLost }
}

fn trace_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(&TRACE_ID)?.to_str().ok()?.trim();
    let printable = !text.is_empty() && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    printable.then(|| text.chars().take(TRACE_ID_CHARS).collect())
}

/// Seconds only; the form with a date would need a clock, and Toss documents neither.
fn retry_after_s(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}
