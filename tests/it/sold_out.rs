//! What is sold out is refused without a transaction, and nothing else about it changes: the answer, the keys, who gets
//! the last unit, and that a unit which comes back is sold at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use paygauge::config::Settings;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::served::Served;
use crate::support::shop::{Answer, Client, PATIENCE, Shop, ShopOptions, settings};

/// Long beside any test.
const HOUR: Duration = Duration::from_secs(3_600);

async fn shop(sold_out_life: Duration) -> Shop {
    let settings = Settings { sold_out_life, ..settings() };
    Shop::with(ShopOptions { worker: false, webhooks: false, settings, ..ShopOptions::default() }).await
}

fn order_of(product: &str, quantity: i64) -> Value {
    json!({ "lines": [{ "productId": product, "quantity": quantity }] })
}

async fn cancel(client: &Client, order: &str) {
    let body = json!({ "reason": "changed my mind" });
    client.post_with_key(&format!("/v1/orders/{order}/cancel"), &body).await.expect(StatusCode::OK);
}

async fn sell(shop: &Shop, product: &str, active: bool) {
    let (path, change) = (format!("/v1/products/{product}"), json!({ "active": active }));
    shop.secret.request(reqwest::Method::PATCH, &path, Some(&change), None).await.expect(StatusCode::OK);
}

fn refused(answer: Answer) -> Answer {
    answer.problem(StatusCode::CONFLICT, "insufficient_stock")
}

/// Whether it was the gate that refused: the answer of a request that began no transaction says so.
fn is_at_the_gate(answer: &Answer) -> bool {
    !answer.header("server-timing").expect("where the time went").contains("tx_begin")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_answers_as_the_database_does_and_leaves_the_key_fresh() {
    let shop = shop(HOUR).await;
    let product = shop.product(12_000, 1).await;
    let last = shop.order(&product, 1).await;
    let told = refused(shop.publishable.post_with_key("/v1/orders", &order_of(&product, 2)).await);
    assert!(!is_at_the_gate(&told));
    let key = uuid::Uuid::new_v4().to_string();
    let at_the_gate = refused(shop.publishable.post_as("/v1/orders", &order_of(&product, 2), &key).await);
    assert!(is_at_the_gate(&at_the_gate), "{at_the_gate:?}");
    assert_eq!(at_the_gate.body, told.body);
    let again = refused(shop.publishable.post_as("/v1/orders", &order_of(&product, 2), &key).await);
    assert!(is_at_the_gate(&again) && !again.is_replayed());
    assert_eq!(shop.count(&format!("select count(*) from idempotency_keys where key = '{key}'")).await, 0);

    // What the database would refuse for another reason is refused for that.
    let more = refused(shop.publishable.post_with_key("/v1/orders", &order_of(&product, 3)).await);
    assert!(!is_at_the_gate(&more), "nobody has asked for so many");
    let two = json!({ "lines": [{ "productId": product, "quantity": 1 },
        { "productId": paygauge::domain::ids::ProductId::new().to_string(), "quantity": 1 }] });
    let unknown = shop.publishable.post_with_key("/v1/orders", &two).await;
    unknown.problem(StatusCode::UNPROCESSABLE_ENTITY, "unknown_product");
    sell(&shop, &product, false).await;
    let gone = shop.publishable.post_with_key("/v1/orders", &order_of(&product, 1)).await;
    gone.problem(StatusCode::UNPROCESSABLE_ENTITY, "unknown_product");
    sell(&shop, &product, true).await;

    refused(shop.publishable.post_with_key("/v1/orders", &order_of(&product, 1)).await);
    cancel(&shop.secret, &last.id).await;
    let body = json!({ "delta": 1, "kind": "restock", "reason": "delivery" });
    shop.secret.post(&format!("/v1/products/{product}/stock-adjustments"), &body).await.expect(StatusCode::CREATED);
    let placed = shop.publishable.post_as("/v1/orders", &order_of(&product, 2), &key).await.expect(StatusCode::CREATED);
    assert!(!placed.is_replayed(), "the key was fresh");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_used_means_what_it_meant() {
    let shop = shop(HOUR).await;
    let product = shop.product(12_000, 1).await;
    let key = uuid::Uuid::new_v4().to_string();
    let placed = shop.publishable.post_as("/v1/orders", &order_of(&product, 1), &key).await.expect(StatusCode::CREATED);
    refused(shop.publishable.post_with_key("/v1/orders", &order_of(&product, 5)).await);
    let gated = refused(shop.publishable.post_with_key("/v1/orders", &order_of(&product, 5)).await);
    assert!(is_at_the_gate(&gated));
    let again = shop.publishable.post_as("/v1/orders", &order_of(&product, 1), &key).await.expect(StatusCode::CREATED);
    assert!(again.is_replayed());
    assert_eq!(again.raw, placed.raw, "the order that was placed, whatever is left today");
    let other = shop.publishable.post_as("/v1/orders", &order_of(&product, 2), &key).await;
    other.problem(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_mismatch");
    // The same key of another owner is another key.
    refused(shop.secret.post_as("/v1/orders", &order_of(&product, 1), &key).await);

    // Many at once, some of whom have ordered before.
    let mut asking = Vec::new();
    for number in 0..60 {
        let (client, key, product) = (shop.publishable.clone(), key.clone(), product.clone());
        asking.push(tokio::spawn(async move {
            let key = if number % 3 == 0 { key } else { uuid::Uuid::new_v4().to_string() };
            (number, client.post_as("/v1/orders", &order_of(&product, 1), &key).await)
        }));
    }
    for asked in asking {
        let (number, answer) = asked.await.expect("no panic");
        if number % 3 == 0 {
            assert_eq!((answer.is_replayed(), &answer.raw), (true, &placed.raw));
        } else {
            assert!(is_at_the_gate(&refused(answer)));
        }
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_comes_back_is_sold_at_once_however_many_are_refused_meanwhile() {
    let shop = shop(HOUR).await;
    let product = shop.product(12_000, 1).await;
    let gated = Arc::new(AtomicI64::new(0));
    let mut held = shop.order(&product, 1).await.id;
    for _ in 0..30 {
        refused(shop.publishable.post_with_key("/v1/orders", &order_of(&product, 2)).await);
        // Refusals that begin before the unit comes back and end after it, at the gate or not.
        let refusals: Vec<_> = (0..6)
            .map(|_| {
                let (client, product, gated) = (shop.publishable.clone(), product.clone(), Arc::clone(&gated));
                tokio::spawn(async move {
                    let answer = client.post_with_key("/v1/orders", &order_of(&product, 2)).await;
                    gated.fetch_add(i64::from(is_at_the_gate(&refused(answer))), Ordering::SeqCst);
                })
            })
            .collect();
        cancel(&shop.secret, &held).await;
        for refusal in refusals {
            refusal.await.expect("no panic");
        }
        held = shop.order(&product, 1).await.id;
    }
    assert!(gated.load(Ordering::SeqCst) > 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_a_hold_that_ends_are_sold() {
    let settings = Settings { sold_out_life: HOUR, hold: Duration::from_secs(1), ..settings() };
    let shop = Shop::with(ShopOptions { settings, ..ShopOptions::default() }).await;
    let product = shop.product(12_000, 1).await;
    let first = shop.order(&product, 1).await;
    let refusal = shop.publishable.post_with_key("/v1/orders", &order_of(&product, 1)).await;
    assert!(refusal.status == StatusCode::CONFLICT || refusal.status == StatusCode::CREATED, "{refusal:?}");
    shop.order_becomes(&first.id, "expired").await;
    eventually("it is sold again", PATIENCE, async || {
        let answer = shop.publishable.post_with_key("/v1/orders", &order_of(&product, 1)).await;
        (answer.status == StatusCode::CREATED).then_some(())
    })
    .await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_unit_that_is_not_there_and_every_unit_is_sold() {
    let shop = shop(Duration::from_millis(5)).await;
    let product = shop.product(12_000, 20).await;
    let buyers: Vec<_> = (0..80)
        .map(|_| {
            let (client, product) = (shop.publishable.clone(), product.clone());
            tokio::spawn(async move { client.post_with_key("/v1/orders", &order_of(&product, 1)).await.status })
        })
        .collect();
    let mut sold = 0;
    for buyer in buyers {
        match buyer.await.expect("no panic") {
            StatusCode::CREATED => sold += 1,
            status => assert_eq!(status, StatusCode::CONFLICT),
        }
    }
    assert_eq!((sold, shop.available(&product).await), (20, 0));
    shop.close().await;
}

async fn made(served: &Served) -> String {
    let body = json!({ "name": "Coffee beans", "price": 12_000, "initialStock": 1 });
    served.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id")
}

async fn sells(served: &Served, product: &str) -> String {
    eventually("it sells", PATIENCE, async || {
        let answer = served.secret.post_with_key("/v1/orders", &order_of(product, 1)).await;
        match answer.status {
            StatusCode::CREATED => Some(answer.text("id")),
            _ => {
                refused(answer);
                None
            }
        }
    })
    .await
}

fn counted(metrics: &str, series: &str) -> f64 {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0.0)
}

/// Two processes; `harm` befalls the news between them after each sale.
async fn is_sold_at_the_other(variables: &[(&str, &str)], harm: impl AsyncFn(usize)) {
    let one = Served::start(variables).await;
    let token = one.secret.token().to_owned();
    let other =
        Served::beside(Arc::clone(&one.mock), one.database.clone(), &token, variables).await.expect("it serves");
    let product = made(&one).await;
    let mut order = sells(&one, &product).await;
    for round in 0..4 {
        for _ in 0..3 {
            refused(other.secret.post_with_key("/v1/orders", &order_of(&product, 1)).await);
        }
        harm(round).await;
        cancel(&one.secret, &order).await;
        order = sells(&other, &product).await;
    }
    let metrics = other.metrics().await;
    let gated = counted(&metrics, r#"payments_stock_reservations_total{result="sold_out"}"#);
    assert!(gated > 0.0, "{metrics}");
    eventually("the lines say so", PATIENCE, async || {
        let said = other.lines().iter().filter(|line| line.contains(r#""gate":"sold_out""#)).count();
        (said >= 4).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_sells_what_came_back_without_redis() {
    is_sold_at_the_other(&[], async |_| ()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_sells_what_came_back_whatever_becomes_of_redis() {
    let Some(redis) = Redis::start().await else { return };
    let url = redis.url();
    is_sold_at_the_other(&[("REDIS_URL", url.as_str())], async |round| match round {
        1 => redis.pause(),
        2 => redis.resume(),
        3 => redis.stop(),
        _ => {}
    })
    .await;
}
