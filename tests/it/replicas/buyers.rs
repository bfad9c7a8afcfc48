//! Buyers who go through nginx, repeat with the same key what they got no certain answer to, and remember both.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pg_mock::PgMock;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::order_of;
use crate::support::eventually;
use crate::support::load::HANGS;
use crate::support::shop::Client;

const BUYERS: usize = 6;
/// Answers that mean "ask again with the same key", beside the gateway's own.
const REPEATABLE: [&str; 10] = [
    "202",
    // A look, told without a code: nginx leaves a process alone for two seconds after it was killed, also once it is there
    // again, and the other one may be killed meanwhile.
    "GET 502 Bad Gateway",
    "gateway_unavailable",
    "gateway_timeout",
    "idempotency_key_in_flight",
    "payment_in_flight",
    "cancellation_in_progress",
    "database_unavailable",
    "provider_unavailable",
    "busy",
];

/// What a buyer was told for certain.
#[derive(Debug)]
struct Told {
    path: String,
    body: Value,
    key: String,
    answer: String,
}

/// What all buyers saw.
#[derive(Default)]
pub struct Memory {
    told: Mutex<Vec<Told>>,
    gone_wrong: Mutex<BTreeMap<String, usize>>,
    answers: AtomicUsize,
    purchases: AtomicUsize,
    enough: AtomicBool,
}

/// Buyers at work.
pub struct Buyers {
    memory: Arc<Memory>,
    tasks: Vec<JoinHandle<()>>,
}

impl Buyers {
    /// Sends them in.
    pub fn start(shop: &Client, mock: &Arc<PgMock>, product: &str) -> Self {
        let memory = Arc::new(Memory::default());
        let buyer = || Buyer {
            shop: shop.clone(),
            mock: Arc::clone(mock),
            product: product.to_owned(),
            memory: Arc::clone(&memory),
        };
        let tasks = (0..BUYERS).map(|number| {
            let buyer = buyer();
            tokio::spawn(async move {
                let mut round = number;
                while !buyer.memory.enough.load(Ordering::Relaxed) {
                    buyer.buy(round).await;
                    round += 1;
                }
            })
        });
        Self { tasks: tasks.collect(), memory }
    }

    /// Waits for `more` purchases.
    pub async fn go_on(&self, more: usize) {
        let before = self.memory.purchases();
        eventually("buyers go on", 2 * HANGS, async || (self.memory.purchases() >= before + more).then_some(())).await;
    }

    /// Lets everybody finish what they have in hand, to a certain answer.
    pub async fn stop(self) -> Arc<Memory> {
        self.memory.enough.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a buyer gets a certain answer in the end");
        }
        self.memory
    }
}

impl Memory {
    /// Purchases that were paid.
    pub fn purchases(&self) -> usize {
        self.purchases.load(Ordering::Relaxed)
    }

    /// Answers that came, of any kind.
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// What was no certain answer, and how often.
    pub fn gone_wrong(&self) -> BTreeMap<String, usize> {
        self.gone_wrong.lock().expect("a lock").clone()
    }

    /// Every request was answered at once by what was asked for.
    pub fn nothing_went_wrong(&self) {
        assert_eq!(self.gone_wrong(), BTreeMap::new(), "of {} answers", self.answers());
    }

    /// Nobody was told something that is not so, such as a decline or a conflict over their own order.
    pub fn saw_only_what_can_be_repeated(&self) {
        let wrong = self.gone_wrong();
        let odd: Vec<_> = wrong.keys().filter(|what| !REPEATABLE.iter().any(|code| what.ends_with(code))).collect();
        assert!(odd.is_empty(), "{odd:?} in {wrong:?}");
    }

    /// Whatever was told is told again, word for word.
    pub async fn is_true(&self, shop: &Client) {
        let told = std::mem::take(&mut *self.told.lock().expect("a lock"));
        assert!(!told.is_empty(), "nobody was told anything");
        for Told { path, body, key, answer } in told {
            let again = shop.post_as(&path, &body, &key).await;
            assert!(again.is_replayed() && again.raw == answer, "{path}: told {answer}, and now {}", again.raw);
        }
    }
}

struct Buyer {
    shop: Client,
    mock: Arc<PgMock>,
    product: String,
    memory: Arc<Memory>,
}

impl Buyer {
    /// Buys; every third one then changes their mind.
    async fn buy(&self, round: usize) {
        let order = self.insist("/v1/orders", order_of(&self.product)).await;
        let (id, amount) = (&order["id"], order["amount"].as_i64().expect("an amount"));
        let key = self.mock.pay(id.as_str().expect("an id"), amount);
        let body = json!({ "paymentKey": key, "orderId": id, "amount": amount });
        let payment = self.insist("/v1/payments/confirm", body).await;
        assert_eq!(payment["status"], "approved", "{payment}");
        self.memory.purchases.fetch_add(1, Ordering::Relaxed);
        if round.is_multiple_of(3) {
            let path = format!("/v1/payments/{}/cancel", payment["id"].as_str().expect("an id"));
            self.insist(&path, json!({ "reason": "changed my mind" })).await;
        }
        let path = format!("/v1/orders/{}", id.as_str().expect("an id"));
        if let Some((status, _)) = self.answered(self.shop.raw(Method::GET, &path)).await {
            self.memory.answers.fetch_add(1, Ordering::Relaxed);
            self.wrong_unless(status.is_success(), || format!("GET {status}"));
        }
    }

    /// Repeats with the same key until there is a certain answer.
    async fn insist(&self, path: &str, body: Value) -> Value {
        let key = uuid::Uuid::new_v4().to_string();
        let begun = Instant::now();
        let raw = loop {
            assert!(begun.elapsed() < 3 * HANGS, "no certain answer to {path}");
            let request = self.shop.raw(Method::POST, path).header("Idempotency-Key", &key).json(&body);
            if let Some((status, raw)) = self.answered(request).await {
                self.memory.answers.fetch_add(1, Ordering::Relaxed);
                if matches!(status, StatusCode::OK | StatusCode::CREATED) {
                    break raw;
                }
                let problem: Value = serde_json::from_str(&raw).unwrap_or_default();
                let code = problem["code"].as_str().unwrap_or_default().to_owned();
                self.wrong_unless(false, || if status == StatusCode::ACCEPTED { "202".to_owned() } else { code });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let value = serde_json::from_str(&raw).expect("JSON");
        self.memory.told.lock().expect("a lock").push(Told { path: path.to_owned(), body, key, answer: raw });
        value
    }

    async fn answered(&self, request: reqwest::RequestBuilder) -> Option<(StatusCode, String)> {
        let answer = async {
            let answer = request.send().await?;
            let status = answer.status();
            answer.text().await.map(|text| (status, text))
        };
        let answer = tokio::time::timeout(HANGS, answer).await.expect("no request hangs");
        answer.inspect_err(|error| self.wrong_unless(false, || format!("no answer: {error:?}"))).ok()
    }

    fn wrong_unless(&self, is_right: bool, what: impl FnOnce() -> String) {
        if !is_right {
            *self.memory.gone_wrong.lock().expect("a lock").entry(what()).or_default() += 1;
        }
    }
}
