//! A bad day: everything that can go wrong and be lived with, beside the ordinary buyers.

use std::time::Duration;

use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::shop::invariants_client;
use crate::support::traffic::Counter;
use crate::support::watched::Watched;

const PRICE: i64 = 12_000;
const ROUNDS: u64 = 20;
const ROUND: Duration = Duration::from_secs(5);
/// The rounds in which the PG answers nothing of use: once it comes back, the second time it does not.
const OUTAGE: std::ops::Range<u64> = 5..11;
const RELAPSE: u64 = 16;
/// The round in which the PG forgets a payment of the regular customer.
const LOSS: u64 = 3;
/// What has begun to ring by then.
const RINGS_WITHIN: Duration = Duration::from_secs(120);

/// A shop that ends holds and compares its books soon, and counts requests in Redis. It waits for Redis as long as it may: all
/// panels are asked beside it, and what takes more than 50 ms then is the machine's.
pub const VARIABLES: &[(&str, &str)] = &[
    ("PAYGAUGE_HOLD_SECONDS", "45"),
    ("PAYGAUGE_RECONCILE_SECONDS", "10"),
    ("PAYGAUGE_RECONCILE_SETTLE_SECONDS", "20"),
    ("PAYGAUGE_RATE_KEY_READS", "100000/60"),
    ("PAYGAUGE_RATE_KEY_PAYMENTS", "100000/60"),
    ("PAYGAUGE_REDIS_DEADLINE_MS", "1000"),
];

/// The whole of it.
pub async fn all(shop: &Watched) {
    let counter = &shop.counter;
    let hand = invariants_client(&shop.database).await;
    hand.batch_execute("update stock set available = available + 1").await.expect("somebody's hand in the stock");
    shop.redis.stop();
    let (rare, last_one) = (product(shop, "A rare tea").await, product(shop, "The last cup").await);
    let forgotten = invariants_client(&shop.database).await;
    let hold = format!("begin; select * from stock where product_id = observability.id_of('{rare}') for update");
    forgotten.batch_execute(&hold).await.expect("a forgotten session");
    let regular = regular(shop).await;
    let mut waiting = tokio::task::JoinSet::new();
    for round in 0..ROUNDS {
        if round == OUTAGE.start || round == RELAPSE {
            shop.mock.script(Rule::any(Behaviour::HtmlError { status: 500 }).always());
        } else if round == OUTAGE.end {
            shop.mock.clear_script();
        }
        if round == LOSS {
            shop.mock.lose(regular.as_ref().expect("the regular customer paid"));
        }
        for _ in 0..2 {
            let (counter, rare) = (counter.clone(), rare.clone());
            waiting.spawn(async move { order(&counter, &rare, 1, None).await });
        }
        if !OUTAGE.contains(&round) && round < RELAPSE {
            oddities(shop).await;
        }
        clients(shop, &last_one, round).await;
        tokio::time::sleep(ROUND).await;
    }
    eventually("the page about the stock rings", RINGS_WITHIN, async || {
        shop.prometheus.firing().await.contains(&"AuditViolation".to_owned()).then_some(())
    })
    .await;
    // Who asks now still sees it.
    tokio::spawn(async move {
        let _keeps_its_row = forgotten;
        std::future::pending::<()>().await;
    });
}

/// A product, of which there is one.
async fn product(shop: &Watched, name: &str) -> String {
    let body = json!({ "name": name, "price": PRICE, "initialStock": 1 });
    shop.api.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id")
}

/// One buyer for each thing that can go wrong at the PG.
async fn oddities(shop: &Watched) {
    let counter = &shop.counter;
    for behaviour in [
        Behaviour::ApproveThenDrop,
        Behaviour::ErrorBefore { status: 500, code: "FAILED_INTERNAL_SYSTEM_PROCESSING".to_owned() },
        Behaviour::TooManyRequests { retry_after_s: 1 },
        Behaviour::MismatchedAmount { amount: 11_000 },
    ] {
        let Some((order, key)) = started(counter).await else { continue };
        shop.mock.script(Rule::confirm(behaviour).for_order(&order));
        confirm(counter, &order, &key, PRICE).await;
    }
    if let Some((order, key)) = started(counter).await {
        // Somebody changed the amount on the way.
        confirm(counter, &order, &key, 1_000).await;
    }
    deposit(shop).await;
    console_cancel(shop).await;
}

/// What clients do wrong, whatever the PG does.
async fn clients(shop: &Watched, last_one: &str, round: u64) {
    let counter = &shop.counter;
    order(counter, last_one, 2, None).await;
    mismatched_key(counter, round).await;
    forged_webhook(counter).await;
    let stranger = Counter { token: "sk_test_of_nobody".to_owned(), ..counter.clone() };
    order(&stranger, &counter.product, 1, None).await;
    let broken = crate::support::shop::http().post(format!("{}/v1/orders", counter.base)).bearer_auth(&counter.token);
    let broken = broken.header("Idempotency-Key", format!("broken-{round}")).header("Content-Type", "application/json");
    let answer = broken.body("{").send().await.expect("an answer");
    assert!(answer.status().is_client_error(), "{answer:?}");
}

/// An order, if there is one.
async fn order(counter: &Counter, product: &str, quantity: u32, customer: Option<&str>) -> Option<String> {
    let body = json!({ "lines": [{ "productId": product, "quantity": quantity }], "customerRef": customer });
    let order = counter.ask("/v1/orders", body).await?;
    order["id"].as_str().map(str::to_owned)
}

/// An order, and the PG's key after its window.
async fn started(counter: &Counter) -> Option<(String, String)> {
    let order = order(counter, &counter.product, 1, Some(&uuid::Uuid::new_v4().to_string())).await?;
    let key = counter.mock.pay(&order, PRICE);
    Some((order, key))
}

async fn confirm(counter: &Counter, order: &str, key: &str, amount: i64) -> Option<Value> {
    let body = json!({ "paymentKey": key, "orderId": order, "amount": amount });
    counter.ask("/v1/payments/confirm", body).await
}

/// Two payments of one customer; of the second a part is given back. Its key at the PG.
async fn regular(shop: &Watched) -> Option<String> {
    let counter = &shop.counter;
    let mut last = None;
    for _ in 0..2 {
        let order = order(counter, &counter.product, 2, Some("a regular customer")).await?;
        let key = shop.mock.pay(&order, 2 * PRICE);
        let paid = confirm(counter, &order, &key, 2 * PRICE).await?;
        last = Some((paid["id"].as_str()?.to_owned(), key));
    }
    let (payment, key) = last?;
    let part = json!({ "reason": "one is enough", "amount": PRICE });
    counter.ask(&format!("/v1/payments/{payment}/cancel"), part).await?;
    Some(key)
}

async fn deposit(shop: &Watched) {
    let Some(order) = order(&shop.counter, &shop.counter.product, 1, None).await else { return };
    let key = shop.mock.pay_by_virtual_account(&order, PRICE);
    let accepted = confirm(&shop.counter, &order, &key, PRICE).await;
    if accepted.is_some_and(|payment| payment["status"] == "awaiting_deposit") {
        shop.mock.deposit(&key);
    }
}

async fn console_cancel(shop: &Watched) {
    let Some((order, key)) = started(&shop.counter).await else { return };
    let paid = confirm(&shop.counter, &order, &key, PRICE).await;
    if paid.is_some_and(|paid| paid["status"] == "approved") {
        shop.mock.cancel_in_console(&key, PRICE);
    }
}

/// One key for two bodies, then the first one again.
async fn mismatched_key(counter: &Counter, round: u64) {
    let http = crate::support::shop::http();
    for quantity in [1, 2, 1] {
        let body = json!({ "lines": [{ "productId": counter.product, "quantity": quantity }] });
        let request = http.post(format!("{}/v1/orders", counter.base)).bearer_auth(&counter.token).json(&body);
        let answer = request.header("Idempotency-Key", format!("round-{round}")).send().await.expect("an answer");
        assert_ne!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}

async fn forged_webhook(counter: &Counter) {
    let forged = json!({ "eventType": "PAYMENT_STATUS_CHANGED", "createdAt": "2026-01-01T00:00:00.000000",
        "data": { "paymentKey": format!("forged-{}", uuid::Uuid::new_v4()), "orderId": "none", "status": "DONE" } });
    counter.ask("/v1/webhooks/toss", forged).await;
}
