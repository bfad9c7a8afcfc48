//! The Toss Payments adapter: core API v1, versions 2022-11-16 and newer.
//!
//! Owns the wire format, the HTTP client and the meaning of every answer. Called by `provider::call` alone. Refuses
//! to guess: what it cannot read, or does not list, is *unknown*. Nothing here logs, and no error carries a body,
//! a key or a person.

mod amount;
mod classify;
mod http;
mod list;
mod times;
mod webhook;
mod wire;

use std::net::IpAddr;
use std::sync::Once;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Request, Url};
use secrecy::{ExposeSecret as _, SecretString};

use super::{CancelRequest, ConfirmRequest, Exchange, ListRequest, Listing, Notice, Provider};
use crate::domain::evidence::{
    CancelAnswer, ConfirmAnswer, Doubt, DoubtReason, Inquiry, NotSent, NotSentReason, PaymentKey, Snapshot,
};
use crate::domain::ids::OrderId;
use crate::telemetry::traces::{self, Sent};
use http::{Outcome, Reply};

/// The header that makes a POST repeatable for 15 days.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Idle connections are dropped before the other side's usual 60 s: a confirm that meets a connection the PG is just
/// closing ends as *unknown*, which costs an inquiry.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// A list may take a minute, says Toss.
const LIST_TIMEOUT: Duration = Duration::from_secs(70);

/// A row of a list has well below a kilobyte, a page at most 5,000 of them.
const LIST_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How to reach Toss.
#[derive(Debug, Clone)]
pub struct TossConfig {
    /// `https://api.tosspayments.com`, or a stand-in; a path is kept as a prefix.
    pub base_url: String,
    /// `test_sk_…`, `live_gsk_…` and so on.
    pub secret_key: SecretString,
    /// Our shop's id at Toss; when given, a payment that names another is not ours.
    pub m_id: Option<String>,
    /// For DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// For a whole confirm, from the first byte sent to the last one read.
    pub confirm_timeout: Duration,
    /// For a whole cancel.
    pub cancel_timeout: Duration,
    /// For a whole inquiry.
    pub inquiry_timeout: Duration,
}

/// Why the adapter cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TossSetupError {
    /// The base URL is not usable.
    #[error("the Toss base URL must be http(s)://host[:port][/path], without credentials, query or fragment")]
    BaseUrl,
    /// The secret key cannot be sent.
    #[error("the Toss secret key must be printable ASCII without spaces or colons")]
    SecretKey,
    /// No HTTP client: usually the machine has no root certificates.
    #[error("the HTTP client for Toss could not be built (are root certificates installed?)")]
    Client(#[source] reqwest::Error),
}

/// Toss Payments.
pub struct Toss {
    client: Client,
    base_url: String,
    host: String,
    port: u16,
    m_id: Option<String>,
    confirm_timeout: Duration,
    cancel_timeout: Duration,
    inquiry_timeout: Duration,
}

impl Toss {
    /// The name in the database, metrics and routes.
    pub const NAME: &str = "toss";

    /// Prepares the connection pool; nothing is sent yet. TLS trusts the machine's root certificates.
    ///
    /// # Errors
    /// When the URL or the key cannot be used, or the machine has no root certificates for an `https` URL.
    pub fn new(config: TossConfig) -> Result<Self, TossSetupError> {
        install_crypto();
        let base_url = parse_base_url(&config.base_url)?;
        let client = build_client(&base_url, &config)?;
        Ok(Self {
            client,
            host: base_url.host_str().unwrap_or_default().to_owned(),
            port: base_url.port_or_known_default().unwrap_or_default(),
            base_url: base_url.as_str().trim_end_matches('/').to_owned(),
            m_id: config.m_id,
            confirm_timeout: config.confirm_timeout,
            cancel_timeout: config.cancel_timeout,
            inquiry_timeout: config.inquiry_timeout,
        })
    }

    async fn send_confirm(&self, request: &ConfirmRequest) -> Exchange<ConfirmAnswer> {
        self.sends("POST", "/v1/payments/confirm");
        let post = self.post("/v1/payments/confirm", &request.idempotency_key, self.confirm_timeout);
        let outcome = match wire::confirm_body(request) {
            Some(body) => http::send(&self.client, post.body(body).build()).await,
            None => Outcome::NotSent(NotSentReason::Misconfigured),
        };
        self.exchange(outcome)
    }

    async fn send_cancel(&self, request: &CancelRequest) -> Exchange<CancelAnswer> {
        self.sends("POST", "/v1/payments/{paymentKey}/cancel");
        let path = format!("/v1/payments/{}/cancel", encode_segment(request.payment_key.as_str()));
        let post = self.post(&path, &request.idempotency_key, self.cancel_timeout);
        let outcome = match wire::cancel_body(request) {
            Some(body) => http::send(&self.client, post.body(body).build()).await,
            None => Outcome::NotSent(NotSentReason::Misconfigured),
        };
        self.exchange(outcome)
    }

    async fn send_inquiry(&self, path: &str, template: &'static str) -> Exchange<Inquiry> {
        self.sends("GET", template);
        self.exchange(http::send(&self.client, self.get(path)).await)
    }

    async fn send_list(&self, request: &ListRequest) -> Exchange<Listing> {
        self.sends("GET", "/v1/transactions");
        let path = list::path(request);
        let get = self.client.get(format!("{}{path}", self.base_url)).timeout(LIST_TIMEOUT).build();
        let outcome = http::send_within(&self.client, get, LIST_BODY_BYTES_MAX).await;
        list::exchange(outcome, request, self.m_id.as_deref())
    }

    /// Tells the attempt's span what is sent, without the ids in it.
    fn sends(&self, method: &'static str, template: &'static str) {
        traces::sends(Sent { method, template, host: &self.host, port: self.port });
    }

    fn post(&self, path: &str, idempotency_key: &str, timeout: Duration) -> reqwest::RequestBuilder {
        self.client
            .post(format!("{}{path}", self.base_url))
            .header(CONTENT_TYPE, "application/json")
            .header(IDEMPOTENCY_KEY, idempotency_key)
            .timeout(timeout)
    }

    fn get(&self, path: &str) -> reqwest::Result<Request> {
        self.client.get(format!("{}{path}", self.base_url)).timeout(self.inquiry_timeout).build()
    }

    /// Turns what came over the wire, or did not, into the operation's answer.
    fn exchange<A: Answer>(&self, outcome: Outcome) -> Exchange<A> {
        match outcome {
            Outcome::NotSent(reason) => {
                Exchange { answer: A::not_sent(reason), http_status: None, code: None, provider_trace_id: None }
            }
            Outcome::Lost { reason, http_status, trace_id } => Exchange {
                answer: A::unknown(Doubt { reason, code: None }),
                http_status,
                code: None,
                provider_trace_id: trace_id,
            },
            Outcome::Reply(reply) => self.read(reply),
        }
    }

    fn read<A: Answer>(&self, reply: Reply) -> Exchange<A> {
        let success = (200..300).contains(&reply.status);
        let snapshot = if success { wire::snapshot(&reply.body, self.m_id.as_deref()) } else { None };
        let code = if snapshot.is_some() { None } else { wire::error_code(&reply.body) };
        let answer = match snapshot {
            Some(snapshot) => A::answered(Box::new(snapshot)),
            // A code inside a success contradicts itself, so it decides nothing.
            None if success => A::unknown(Doubt { reason: DoubtReason::Undecodable, code: code.clone() }),
            None => A::classified(reply.status, code.as_deref(), reply.retry_after_s),
        };
        Exchange { answer, http_status: Some(reply.status), code, provider_trace_id: reply.trace_id }
    }
}

impl Provider for Toss {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn confirm<'a>(&'a self, request: &'a ConfirmRequest) -> BoxFuture<'a, Exchange<ConfirmAnswer>> {
        Box::pin(self.send_confirm(request))
    }

    fn cancel<'a>(&'a self, request: &'a CancelRequest) -> BoxFuture<'a, Exchange<CancelAnswer>> {
        Box::pin(self.send_cancel(request))
    }

    fn inquire<'a>(&'a self, payment_key: &'a PaymentKey) -> BoxFuture<'a, Exchange<Inquiry>> {
        let path = format!("/v1/payments/{}", encode_segment(payment_key.as_str()));
        Box::pin(async move { self.send_inquiry(&path, "/v1/payments/{paymentKey}").await })
    }

    fn inquire_by_order<'a>(&'a self, order_id: OrderId) -> BoxFuture<'a, Exchange<Inquiry>> {
        let path = format!("/v1/payments/orders/{}", encode_segment(&order_id.to_string()));
        Box::pin(async move { self.send_inquiry(&path, "/v1/payments/orders/{orderId}").await })
    }

    fn transactions<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Exchange<Listing>> {
        Box::pin(self.send_list(request))
    }

    fn read_webhook(&self, body: &[u8]) -> Notice {
        webhook::read(body)
    }
}

/// What the three operations' answers have in common, so that the transport is told once.
trait Answer {
    fn answered(snapshot: Box<Snapshot>) -> Self;
    fn not_sent(reason: NotSentReason) -> Self;
    fn unknown(doubt: Doubt) -> Self;
    fn classified(status: u16, code: Option<&str>, retry_after_s: Option<u64>) -> Self;
}

impl Answer for ConfirmAnswer {
    fn answered(snapshot: Box<Snapshot>) -> Self {
        Self::Answered(snapshot)
    }
    fn not_sent(reason: NotSentReason) -> Self {
        Self::NotSent(NotSent { reason, code: None, retry_after_s: None })
    }
    fn unknown(doubt: Doubt) -> Self {
        Self::Unknown(doubt)
    }
    fn classified(status: u16, code: Option<&str>, retry_after_s: Option<u64>) -> Self {
        classify::confirm(status, code, retry_after_s)
    }
}

impl Answer for CancelAnswer {
    fn answered(snapshot: Box<Snapshot>) -> Self {
        Self::Answered(snapshot)
    }
    fn not_sent(reason: NotSentReason) -> Self {
        Self::NotSent(NotSent { reason, code: None, retry_after_s: None })
    }
    fn unknown(doubt: Doubt) -> Self {
        Self::Unknown(doubt)
    }
    fn classified(status: u16, code: Option<&str>, _retry_after_s: Option<u64>) -> Self {
        classify::cancel(status, code)
    }
}

impl Answer for Inquiry {
    fn answered(snapshot: Box<Snapshot>) -> Self {
        Self::Found(snapshot)
    }
    /// A question that was never asked leaves the same doubt as one whose answer was lost.
    fn not_sent(reason: NotSentReason) -> Self {
        let reason = match reason {
            NotSentReason::Unreachable => DoubtReason::ConnectionLost,
            NotSentReason::RateLimited => DoubtReason::TryLater,
            NotSentReason::Misconfigured | NotSentReason::NeverArrived => DoubtReason::Inconclusive,
        };
        Self::Unknown(Doubt { reason, code: None })
    }
    fn unknown(doubt: Doubt) -> Self {
        Self::Unknown(doubt)
    }
    fn classified(status: u16, code: Option<&str>, _retry_after_s: Option<u64>) -> Self {
        classify::inquiry(status, code)
    }
}

/// reqwest is built without a crypto provider of its own; whoever installed one first keeps it.
fn install_crypto() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // An error says that the process has a provider already, which serves as well.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
}

fn parse_base_url(text: &str) -> Result<Url, TossSetupError> {
    let url = Url::parse(text).map_err(|_| TossSetupError::BaseUrl)?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.host_str().is_some_and(|host| !host.is_empty());
    if plain && matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err(TossSetupError::BaseUrl) }
}

fn build_client(base_url: &Url, config: &TossConfig) -> Result<Client, TossSetupError> {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, authorization(&config.secret_key)?);
    let mut builder = Client::builder()
        .default_headers(headers)
        .user_agent(concat!("paygauge/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(config.connect_timeout)
        .pool_idle_timeout(POOL_IDLE)
        .http1_only()
        // Following one would send the key, and the money, to another door.
        .redirect(reqwest::redirect::Policy::none())
        // Only requests that never left the queue of a closed connection are sent again, by hyper itself.
        .retry(reqwest::retry::never());
    if is_loopback(base_url) {
        builder = builder.no_proxy();
    }
    if base_url.scheme() == "http" {
        // No TLS will happen, so a machine without root certificates is fine.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(TossSetupError::Client)
}

/// Basic authentication with the key as user and no password.
fn authorization(secret_key: &SecretString) -> Result<HeaderValue, TossSetupError> {
    let key = secret_key.expose_secret();
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
        return Err(TossSetupError::SecretKey);
    }
    let encoded = BASE64.encode(format!("{key}:"));
    let mut value = HeaderValue::try_from(format!("Basic {encoded}")).map_err(|_| TossSetupError::SecretKey)?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Percent-encodes everything that is not unreserved, so that no proxy reads structure into a key.
fn encode_segment(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut segment, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
        segment
    })
}

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod tests;
