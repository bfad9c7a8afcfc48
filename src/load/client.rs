//! The HTTP side of a buyer: asks, and tells what became of it in the words of the report.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;

use super::recorder::Outcome;

/// A request that is not answered by then never will be.
const GIVE_UP: Duration = Duration::from_secs(120);

/// A caller of one base address.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<SecretString>,
}

/// The fields of an answer that a buyer reads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fields {
    /// Of an order, payment, cancellation or product.
    pub id: String,
    /// Minor units.
    pub amount: i64,
    /// Where it stands.
    pub status: String,
    /// Of an order: its payment.
    pub payment_id: Option<String>,
    /// Of pg-mock's payment.
    pub payment_key: String,
    /// Of a product: units that can be ordered.
    pub available: i64,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its class.
    pub outcome: Outcome,
    /// The fields of a success.
    pub fields: Fields,
    /// The PG's own time within the request, where the server told it.
    pub pg: Duration,
    /// Whether it was answered from memory.
    pub replayed: bool,
    /// Status and the beginning of the body, or why there is none: for a person to read.
    pub text: String,
}

impl Client {
    /// A caller of `base`, with a key if it wants one. Of `roots` (PEM), if there are any, and of nobody else the
    /// certificate of a server may come.
    ///
    /// # Errors
    /// When there is no HTTP client to be had, or the roots cannot be read.
    pub fn new(base: &str, key: Option<SecretString>, roots: Option<&[u8]>) -> anyhow::Result<Self> {
        // Fails if a provider is installed already, which serves as well.
        let _known = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .timeout(GIVE_UP);
        if let Some(pem) = roots {
            let roots = reqwest::Certificate::from_pem_bundle(pem)?;
            anyhow::ensure!(!roots.is_empty(), "there is no certificate in it");
            builder = builder.tls_certs_only(roots);
        }
        let http = builder.build()?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), key })
    }

    /// Asks for a resource.
    pub async fn get(&self, path: &str) -> Said {
        self.send(self.request(Method::GET, path)).await
    }

    /// Sends a body; with an idempotency key, if there is one.
    pub async fn post(&self, path: &str, body: &Value, idempotency_key: Option<&str>) -> Said {
        let mut request = self.request(Method::POST, path).json(body);
        if let Some(key) = idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        self.send(request).await
    }

    /// Delivers a webhook under a transmission id.
    pub async fn deliver(&self, body: Value, transmission_id: &str) -> Said {
        let request = self.http.post(format!("{}/v1/webhooks/toss", self.base)).json(&body);
        self.send(request.header("tosspayments-webhook-transmission-id", transmission_id)).await
    }

    /// The whole JSON of a resource.
    ///
    /// # Errors
    /// When it does not come, or is no success.
    pub async fn json(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.request(Method::GET, path).send().await?;
        anyhow::ensure!(answer.status().is_success(), "GET {path}: {}", answer.status());
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key.expose_secret()),
            None => request,
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Said {
        match Self::answer(request).await {
            Ok(said) => said,
            Err(error) => Said {
                outcome: Outcome::Transport,
                fields: Fields::default(),
                pg: Duration::ZERO,
                replayed: false,
                text: format!("{:#}", anyhow::Error::from(error.without_url())),
            },
        }
    }

    async fn answer(request: reqwest::RequestBuilder) -> reqwest::Result<Said> {
        let answer = request.send().await?;
        let status = answer.status();
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let pg = header("server-timing").map_or(Duration::ZERO, pg_time);
        let replayed = header("idempotency-replayed") == Some("true");
        let body = answer.bytes().await?;
        let (outcome, fields) = if status.is_success() {
            match serde_json::from_slice(&body) {
                Ok(fields) => (class(status), fields),
                Err(_) => (Outcome::Error, Fields::default()),
            }
        } else {
            (class(status), Fields::default())
        };
        let text = if outcome == Outcome::Ok { String::new() } else { excerpt(status, &body) };
        Ok(Said { outcome, fields, pg, replayed, text })
    }
}

/// What a status means to a buyer.
fn class(status: StatusCode) -> Outcome {
    match status.as_u16() {
        202 => Outcome::Unknown,
        200..=299 => Outcome::Ok,
        402 => Outcome::Declined,
        409 => Outcome::Rejected,
        429 | 503 => Outcome::Shed,
        _ => Outcome::Error,
    }
}

fn excerpt(status: StatusCode, body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
    format!("{} {text}", status.as_u16())
}

/// The PG's own time in a `Server-Timing` header: the entry `pg_call`, or `provider`.
fn pg_time(header: &str) -> Duration {
    let entry = |wanted: &str| {
        header.split(',').find_map(|entry| {
            let (name, rest) = entry.trim().split_once(';')?;
            let millis = rest.split(';').find_map(|part| part.trim().strip_prefix("dur="))?;
            (name == wanted).then(|| millis.parse::<f64>().ok()).flatten()
        })
    };
    let millis = entry("pg_call").or_else(|| entry("provider")).unwrap_or(0.0);
    Duration::try_from_secs_f64(millis / 1_000.0).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pgs_time_is_read_under_both_of_its_names() {
        let millis = Duration::from_millis;
        assert_eq!(pg_time("total;dur=262.3, db;dur=12.345, provider;dur=250"), millis(250));
        assert_eq!(pg_time("total;dur=9, pg_call;desc=\"PG\";dur=7"), millis(7));
        assert_eq!(pg_time("total;dur=9, db;dur=7"), Duration::ZERO);
        assert_eq!(pg_time("provider;dur=-1"), Duration::ZERO);
        assert_eq!(pg_time("provider;dur=soon"), Duration::ZERO);
    }

    #[test]
    fn each_status_has_its_class() {
        let told = |status: u16| class(StatusCode::from_u16(status).unwrap());
        assert_eq!([told(200), told(201), told(204)], [Outcome::Ok; 3]);
        assert_eq!((told(202), told(402), told(409)), (Outcome::Unknown, Outcome::Declined, Outcome::Rejected));
        assert_eq!([told(429), told(503)], [Outcome::Shed; 2]);
        assert_eq!([told(400), told(401), told(404), told(422), told(500), told(502)], [Outcome::Error; 6]);
    }
}
