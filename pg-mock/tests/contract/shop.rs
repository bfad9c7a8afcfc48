//! The shop's side of the wire: a client, and an address for webhooks.

use std::time::{Duration, Instant};

use pg_mock::{Options, PgMock};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, redirect};
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

/// `test_sk_mock:` in base64.
pub const CREDENTIALS: &str = "Basic dGVzdF9za19tb2NrOg==";
pub const ORDER: &str = "ord_20260302_000017";

pub struct Shop {
    pub pg: PgMock,
    pub http: Client,
}

#[derive(Debug)]
pub struct Heard {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Heard {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Shop {
    pub async fn open() -> Shop {
        Shop::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Shop {
        let pg = PgMock::start(options).await.unwrap();
        let http = Client::builder().no_proxy().redirect(redirect::Policy::none()).build().unwrap();
        Shop { pg, http }
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> reqwest::Result<Heard> {
        let mut request = self.http.request(method, format!("{}{path}", self.pg.url())).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        Ok(Heard {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: String::from_utf8_lossy(&response.bytes().await?).into_owned(),
        })
    }

    pub async fn get(&self, path: &str) -> Heard {
        let headers = [("authorization", CREDENTIALS)];
        self.send(Method::GET, path, &headers, String::new()).await.unwrap()
    }

    pub async fn post(&self, path: &str, key: &str, body: &Value) -> reqwest::Result<Heard> {
        let headers = [("authorization", CREDENTIALS), ("idempotency-key", key)];
        self.send(Method::POST, path, &headers, body.to_string()).await
    }

    pub async fn try_confirm(&self, key: &str, payment_key: &str, amount: i64) -> reqwest::Result<Heard> {
        let body = json!({"paymentKey": payment_key, "orderId": ORDER, "amount": amount});
        self.post("/v1/payments/confirm", key, &body).await
    }

    pub async fn confirm(&self, key: &str, payment_key: &str, amount: i64) -> Heard {
        self.try_confirm(key, payment_key, amount).await.unwrap()
    }

    pub async fn cancel(&self, key: &str, payment_key: &str, body: Value) -> Heard {
        let path = format!("/v1/payments/{payment_key}/cancel");
        self.post(&path, key, &body).await.unwrap()
    }

    /// A card payment of 34 100 won, confirmed.
    pub async fn paid(&self) -> String {
        let payment_key = self.pg.pay(ORDER, 34_100);
        let heard = self.confirm("confirm:paid", &payment_key, 34_100).await;
        assert_eq!(heard.status, 200, "{}", heard.text);
        payment_key
    }

    pub async fn look_up(&self, payment_key: &str) -> Value {
        self.get(&format!("/v1/payments/{payment_key}")).await.json()
    }
}

/// The shop's address for webhooks.
pub async fn mailbox(template: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    server.register(Mock::given(any()).respond_with(template)).await;
    server
}

/// Waits until `condition` holds, 5 s at the most.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(5), "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The first `count` webhooks.
pub async fn letters(mailbox: &MockServer, count: usize) -> Vec<Request> {
    until("webhooks", async || mailbox.received_requests().await.unwrap().len() >= count).await;
    mailbox.received_requests().await.unwrap()
}
