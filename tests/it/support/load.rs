//! Buyers who place, confirm, cancel and look, whatever happens, and remember what they were told: at the end every
//! answer is held against the books.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::eventually;
use super::shop::{Answer, Client, Shop};

/// A request that is not answered by then hangs. The sum of all that may be waited for is half of it; the rest is for
/// busy machines.
pub const HANGS: Duration = Duration::from_secs(40);
const BUYERS: usize = 6;
const PRICE: i64 = 3_000;
const UNITS: i64 = 3;
/// "Try again" that says nothing of what was asked.
const PASSING: [&str; 6] = [
    "database_unavailable",
    "busy",
    "provider_unavailable",
    "idempotency_key_in_flight",
    "payment_in_flight",
    "cancellation_in_progress",
];

/// What a client was told, and may rely on.
#[derive(Debug, Clone)]
enum Told {
    Placed { order: String, amount: i64 },
    Approved { order: String, payment: String, body: Value },
    Canceled { payment: String, cancellation: String, amount: i64 },
    Saw { order: String, status: String },
}

/// The memory of all buyers.
#[derive(Default)]
pub struct Memory {
    told: Mutex<Vec<Told>>,
    odd: Mutex<Vec<String>>,
    answers: AtomicUsize,
    purchases: AtomicUsize,
    failures: AtomicUsize,
    enough: AtomicBool,
}

/// Buyers at work.
pub struct Load {
    memory: Arc<Memory>,
    buyers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Sends the buyers in.
    pub fn start(shop: &Arc<Shop>, product: &str) -> Self {
        let memory = Arc::new(Memory::default());
        let buyers = (0..BUYERS).map(|number| {
            let buyer = Buyer { shop: Arc::clone(shop), product: product.to_owned(), memory: Arc::clone(&memory) };
            tokio::spawn(async move {
                let mut round = number;
                while !buyer.memory.enough.load(Ordering::Relaxed) {
                    buyer.buy(round).await;
                    round += 1;
                }
            })
        });
        Self { buyers: buyers.collect(), memory }
    }

    /// What the load sells for.
    pub async fn product(shop: &Shop) -> String {
        shop.product(PRICE, 100_000).await
    }

    /// Purchases that got as far as an approval.
    pub fn purchases(&self) -> usize {
        self.memory.purchases.load(Ordering::Relaxed)
    }

    /// Waits for `more` approvals.
    pub async fn goes_on(&self, more: usize) {
        let before = self.purchases();
        eventually("the load goes on by itself", 2 * HANGS, async || (self.purchases() >= before + more).then_some(()))
            .await;
    }

    /// Waits for `more` requests that are told to try again.
    pub async fn fails(&self, more: usize) {
        let before = self.memory.failures();
        eventually("requests are answered meanwhile", 2 * HANGS, async || {
            (self.memory.failures() >= before + more).then_some(())
        })
        .await;
    }

    /// Lets everybody finish what they have in hand.
    pub async fn stop(self) -> Arc<Memory> {
        self.memory.enough.store(true, Ordering::Relaxed);
        for buyer in self.buyers {
            buyer.await.expect("a buyer does not panic");
        }
        self.memory
    }
}

impl Memory {
    /// Answers that came, of any kind.
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// "Try again" among them.
    pub fn failures(&self) -> usize {
        self.failures.load(Ordering::Relaxed)
    }

    /// Every answer was a right one or a plain "try again", and whatever was told is so. For when nothing is in flight.
    pub async fn is_true(&self, shop: &Shop) {
        let odd = self.odd.lock().expect("a lock").clone();
        let lines = paygauge::telemetry::for_tests().lines();
        let why: Vec<_> = lines.iter().filter(|line| line.contains("\"code\":\"internal\"")).collect();
        assert!(odd.is_empty(), "{odd:#?}\n{why:#?}");
        let told = self.told.lock().expect("a lock").clone();
        assert!(!told.is_empty(), "nobody was told anything");
        let book = shop.mock.book();
        for told in told {
            match &told {
                Told::Placed { order, amount } => {
                    assert_eq!(shop.order_now(order).await.number("amount"), *amount, "{told:?}");
                }
                Told::Approved { order, payment, body } => {
                    let now = shop.payment_now(payment).await;
                    let status = now.text("status");
                    assert!(
                        ["approved", "partially_canceled", "canceled"].contains(&status.as_str()),
                        "{told:?} {now:?}"
                    );
                    let taken: i64 = book.of_order(order).map(|payment| payment.approved).sum();
                    assert_eq!(taken, now.number("amount"), "{told:?}");
                    let again = shop.secret.post("/v1/payments/confirm", body).await.expect(StatusCode::OK);
                    assert!(again.is_replayed() && again.text("id") == *payment, "{told:?} {again:?}");
                }
                Told::Canceled { payment, cancellation, amount } => {
                    let path = format!("/v1/cancellations/{cancellation}");
                    let now = shop.secret.get(&path).await.expect(StatusCode::OK);
                    assert_eq!((now.text("status"), now.number("amount")), ("done".to_owned(), *amount), "{told:?}");
                    assert!(shop.payment_now(payment).await.number("canceledAmount") >= *amount, "{told:?}");
                }
                Told::Saw { order, status } => {
                    let now = shop.order_now(order).await.text("status");
                    assert!(rank(&now) >= rank(status), "{told:?}, but it is {now}");
                }
            }
        }
    }
}

/// Orders of this load only ever go this way.
fn rank(status: &str) -> usize {
    let way = ["pending", "confirming", "paid", "partially_canceled", "canceled"];
    way.iter().position(|known| *known == status).unwrap_or_else(|| panic!("an order of the load is {status}"))
}

struct Buyer {
    shop: Arc<Shop>,
    product: String,
    memory: Arc<Memory>,
}

impl Buyer {
    /// Buys; every third one then takes a unit back, and every sixth the rest as well.
    async fn buy(&self, round: usize) {
        let body = json!({ "lines": [{ "productId": self.product, "quantity": UNITS }] });
        let Some(placed) = self.insist(&self.shop.publishable, "/v1/orders", &body).await else { return };
        let (order, amount) = (placed.text("id"), placed.number("amount"));
        self.tell(Told::Placed { order: order.clone(), amount });
        let key = self.shop.mock.pay(&order, amount);
        let body = json!({ "paymentKey": key, "orderId": order, "amount": amount });
        let Some(confirmed) = self.insist(&self.shop.secret, "/v1/payments/confirm", &body).await else { return };
        let payment = confirmed.text("id");
        self.tell(Told::Approved { order: order.clone(), payment: payment.clone(), body });
        self.memory.purchases.fetch_add(1, Ordering::Relaxed);
        let path = format!("/v1/payments/{payment}/cancel");
        let parts =
            [json!({ "reason": "one less", "lines": [{ "line": 1, "quantity": 1 }] }), json!({ "reason": "no" })];
        let wanted = if round.is_multiple_of(6) { 2 } else { usize::from(round.is_multiple_of(3)) };
        for part in parts.iter().take(wanted) {
            let Some(done) = self.insist(&self.shop.secret, &path, part).await else { break };
            let (cancellation, amount) = (done.text("id"), done.number("amount"));
            self.tell(Told::Canceled { payment: payment.clone(), cancellation, amount });
        }
        let request = self.shop.secret.raw(reqwest::Method::GET, &format!("/v1/orders/{order}"));
        if let Some(seen) = self.ask(request).await.filter(|answer| answer.status == StatusCode::OK) {
            self.tell(Told::Saw { order, status: seen.text("status") });
        }
    }

    fn tell(&self, told: Told) {
        self.memory.told.lock().expect("a lock").push(told);
    }

    /// Repeats with the same key until there is a certain answer, or everybody goes home.
    async fn insist(&self, client: &Client, path: &str, body: &Value) -> Option<Answer> {
        let key = uuid::Uuid::new_v4().to_string();
        loop {
            let request = client.raw(reqwest::Method::POST, path).header("Idempotency-Key", &key).json(body);
            let answer = self.ask(request).await;
            let certain = answer.filter(|answer| matches!(answer.status, StatusCode::OK | StatusCode::CREATED));
            if certain.is_some() || self.memory.enough.load(Ordering::Relaxed) {
                return certain;
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Option<Answer> {
        let begun = Instant::now();
        let answered = async { Some(Answer::read(request.send().await.ok()?).await) };
        let Ok(answer) = tokio::time::timeout(HANGS, answered).await else {
            self.memory.odd.lock().expect("a lock").push("a request hangs".to_owned());
            return None;
        };
        let Some(answer) = answer else {
            let after = begun.elapsed();
            self.memory.odd.lock().expect("a lock").push(format!("a request was not answered, after {after:?}"));
            return None;
        };
        self.memory.answers.fetch_add(1, Ordering::Relaxed);
        if !answer.status.is_success() {
            self.memory.failures.fetch_add(1, Ordering::Relaxed);
            let code = answer.body["code"].as_str().unwrap_or_default();
            let clean = answer.header("content-type") == Some("application/problem+json");
            if !clean || !PASSING.contains(&code) {
                self.memory.odd.lock().expect("a lock").push(format!("{} {}", answer.status, answer.raw));
            }
        }
        Some(answer)
    }
}
