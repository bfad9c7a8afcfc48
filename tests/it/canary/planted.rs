//! A PG whose every answer is full of people, cards and secrets: pg-mock behind a proxy that adds what a real one may
//! send.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{CARD, EMAIL, MASKED_CARD, PHONE, REFUND_ACCOUNT, VIRTUAL_ACCOUNT, canary};
use crate::support::shop::http;

const BODY_BYTES: usize = 1 << 20;
/// What the adapter passes on to the PG, and gets back.
const REQUEST_HEADERS: [&str; 4] = ["authorization", "content-type", "idempotency-key", "accept"];
const TRACE_ID: &str = "x-tosspayments-trace-id";

/// The proxy.
pub struct Planted {
    pub url: String,
    gate: Arc<Mutex<()>>,
}

#[derive(Clone)]
struct Proxy {
    to: String,
    gate: Arc<Mutex<()>>,
    http: reqwest::Client,
}

impl Planted {
    /// Starts it before the PG at `to`.
    pub async fn start(to: String) -> Self {
        let gate = Arc::new(Mutex::new(()));
        let proxy = Proxy { to, gate: Arc::clone(&gate), http: http() };
        let router = Router::new().fallback(pass).with_state(proxy);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, gate }
    }

    /// No answer comes until the guard is dropped.
    pub async fn hold(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.gate).lock_owned().await
    }
}

async fn pass(State(proxy): State<Proxy>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut onward = proxy.http.request(parts.method, format!("{}{path}", proxy.to));
    for name in REQUEST_HEADERS {
        if let Some(value) = parts.headers.get(name) {
            onward = onward.header(name, value);
        }
    }
    let body = to_bytes(body, BODY_BYTES).await.expect("a body");
    let Ok(answer) = onward.body(body).send().await else {
        // The PG cut the connection: so does a handler that panics before its answer.
        return cut();
    };
    let (status, kind) = (answer.status(), answer.headers().get("content-type").cloned());
    let Ok(bytes) = answer.bytes().await else { return cut() };
    drop(proxy.gate.lock().await);
    let planted = match serde_json::from_slice::<Value>(&bytes) {
        Ok(mut value) => {
            plant(&mut value);
            value.to_string().into_bytes()
        }
        Err(_) => [&bytes[..], canary("pg-garbage").as_bytes()].concat(),
    };
    let mut response = Response::new(Body::from(planted));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("content-type", kind.unwrap_or(HeaderValue::from_static("application/json")));
    headers.insert(TRACE_ID, HeaderValue::try_from(format!("of {}", canary("pg-trace"))).expect("a value"));
    headers.insert("x-kind-regards", HeaderValue::try_from(canary("pg-header")).expect("a value"));
    headers.insert("set-cookie", HeaderValue::try_from(canary("pg-cookie")).expect("a value"));
    response
}

/// An answer that breaks off: its length is a lie.
fn cut() -> Response {
    let broken = futures_util::stream::iter([Err::<Vec<u8>, _>(std::io::Error::other("cut"))]);
    let mut response = Response::new(Body::from_stream(broken));
    *response.status_mut() = StatusCode::OK;
    response
}

/// Adds what must not come out anywhere to a payment, an error, a list of transactions.
fn plant(value: &mut Value) {
    if let Some(rows) = value.as_array_mut() {
        rows.iter_mut().for_each(plant);
        return;
    }
    let Some(object) = value.as_object_mut() else { return };
    for (name, text) in [
        ("message", canary("pg-message")),
        ("customerName", canary("pg-customer-name")),
        ("customerEmail", EMAIL.to_owned()),
        ("customerMobilePhone", PHONE.to_owned()),
        ("customerKey", canary("pg-customer-key")),
        ("orderName", canary("pg-order-name")),
        ("unheardOf", canary("pg-new-field")),
    ] {
        object.insert(name.to_owned(), json!(text));
    }
    object.insert("metadata".to_owned(), json!({ canary("pg-metadata-key"): canary("pg-metadata") }));
    let merge = |object: &mut serde_json::Map<String, Value>, name: &str, with: Value| {
        let (Some(part), Some(with)) = (object.get_mut(name).and_then(Value::as_object_mut), with.as_object()) else {
            return;
        };
        part.extend(with.clone());
    };
    merge(object, "card", json!({ "number": MASKED_CARD, "approveNo": canary("pg-approve-no"), "pan": CARD }));
    merge(object, "easyPay", json!({ "provider": canary("pg-wallet") }));
    merge(object, "failure", json!({ "message": canary("pg-failure") }));
    merge(object, "receipt", json!({ "url": format!("https://r.example/{}", canary("pg-receipt")) }));
    merge(object, "checkout", json!({ "url": format!("https://c.example/{}", canary("pg-checkout")) }));
    let account = json!({
        "accountNumber": VIRTUAL_ACCOUNT,
        "customerName": canary("pg-deposit-holder"),
        "depositorName": canary("pg-depositor"),
        "refundReceiveAccount": {
            "bankCode": "88", "accountNumber": REFUND_ACCOUNT, "holderName": canary("pg-refund-holder") },
    });
    merge(object, "virtualAccount", account);
    object.insert("cashReceipt".to_owned(), json!({ "receiptUrl": canary("pg-cash-receipt"), "issueNumber": PHONE }));
    if let Some(cancels) = object.get_mut("cancels").and_then(Value::as_array_mut) {
        for cancel in cancels.iter_mut().filter_map(Value::as_object_mut) {
            cancel.insert("receiptKey".to_owned(), json!(canary("pg-cancel-receipt")));
        }
    }
}
