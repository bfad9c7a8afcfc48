//! Buyers at an even pace, as a shop sees them on an ordinary day: most pay, some are declined, some cancel, some look,
//! some click twice. They shrug at every error; what becomes of their money is for other tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pg_mock::{Behaviour, PgMock, Rule};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::shop::http;

const PRICE: i64 = 12_000;
/// They come back.
const CUSTOMERS: u64 = 40;

/// Buyers at work until it is dropped.
pub struct Traffic {
    stop: CancellationToken,
    pace: JoinHandle<()>,
    bought: Arc<AtomicU64>,
}

/// Where buyers shop.
#[derive(Clone)]
pub struct Counter {
    pub base: String,
    pub token: String,
    pub mock: Arc<PgMock>,
    pub product: String,
}

impl Traffic {
    /// Sends so many buyers in each second.
    pub fn start(counter: Counter, per_second: u32) -> Self {
        let (stop, bought) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), Arc::clone(&bought));
        let pace = tokio::spawn(async move {
            let mut buyers = JoinSet::new();
            let mut tick = tokio::time::interval(Duration::from_secs(1) / per_second);
            let mut number = 0_u64;
            while !stopped.is_cancelled() {
                tick.tick().await;
                number += 1;
                let (counter, counted) = (counter.clone(), Arc::clone(&counted));
                buyers.spawn(async move {
                    if counter.buy(number).await.is_some() {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                });
                while buyers.try_join_next().is_some() {}
            }
            buyers.abort_all();
        });
        Self { stop, pace, bought }
    }

    /// How many buyers came to their end.
    pub fn bought(&self) -> u64 {
        self.bought.load(Ordering::Relaxed)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.cancel();
        self.pace.abort();
    }
}

impl Counter {
    /// One buyer's visit; `None` where something was in the way.
    pub async fn buy(&self, number: u64) -> Option<()> {
        let order = self
            .ask(
                "/v1/orders",
                json!({
                    "lines": [{ "productId": self.product, "quantity": 1 }],
                    "customerRef": format!("customer-{}", number % CUSTOMERS),
                }),
            )
            .await?;
        let id = order["id"].as_str()?.to_owned();
        let key = self.mock.pay(&id, PRICE);
        if number % 10 == 3 {
            let code = if number % 20 == 3 { "REJECT_CARD_PAYMENT" } else { "EXCEED_MAX_AMOUNT" };
            self.mock.script(Rule::confirm(Behaviour::Decline { code: code.to_owned() }).for_order(&id));
        }
        let body = json!({ "paymentKey": key, "orderId": id, "amount": PRICE });
        let paid = self.ask("/v1/payments/confirm", body.clone()).await?;
        if number.is_multiple_of(7) {
            // A second click: the answer is given again.
            self.ask("/v1/payments/confirm", body).await?;
        }
        let Some(payment) = paid["id"].as_str().filter(|_| paid["status"] == "approved") else { return Some(()) };
        if number.is_multiple_of(4) {
            self.ask(&format!("/v1/payments/{payment}/cancel"), json!({ "reason": "changed my mind" })).await?;
        }
        let url = format!("{}/v1/orders/{id}", self.base);
        http_client().request(Method::GET, url).bearer_auth(&self.token).send().await.ok().map(|_| ())
    }

    /// A request under a new key; `None` if there is no answer or it is a 5xx.
    pub async fn ask(&self, path: &str, body: Value) -> Option<Value> {
        let request = http_client().post(format!("{}{path}", self.base)).bearer_auth(&self.token).json(&body);
        let request = request.header("Idempotency-Key", uuid::Uuid::new_v4().to_string());
        let answer = request.send().await.ok()?;
        let failed = answer.status().is_server_error();
        answer.json().await.ok().filter(|_| !failed)
    }
}

/// One client for all, with a limit that no buyer has.
fn http_client() -> &'static reqwest::Client {
    static CLIENT: std::sync::OnceLock<reqwest::Client> = std::sync::OnceLock::new();
    CLIENT.get_or_init(http)
}
