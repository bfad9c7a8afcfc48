//! What callers are told when the fault is ours: the database is away, others hold the rows, a row is spoiled.

use std::time::{Duration, Instant};

use paygauge::http::problem::Code;
use reqwest::StatusCode;
use serde_json::json;

use super::{Books, Seen};
use crate::support::database::{self, Outage};
use crate::support::eventually;
use crate::support::shop::{PATIENCE, Shop, ShopOptions, invariants_client};

/// A shop that waits for nothing longer than a moment; for connections a little longer, since a busy machine needs that.
async fn impatient() -> Shop {
    let mut config = database::fresh().await;
    (config.pool_wait, config.lock_timeout) = (Duration::from_millis(1_500), Duration::from_millis(400));
    Shop::on(config, ShopOptions { worker: false, webhooks: false, ..ShopOptions::default() }).await
}

pub async fn a_database_that_is_away_is_said_so_and_the_service_comes_back() -> Seen {
    let (shop, mut seen) = (impatient().await, Seen::default());
    let product = shop.product(12_000, 5).await;
    let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let outage = Outage::of(&shop.database).await;
    let asked = Instant::now();
    // A connection of the pool may have died unseen; that is the same to a caller.
    for _ in 0..3 {
        seen.take(shop.publishable.post_with_key("/v1/orders", &body).await, Code::DatabaseUnavailable);
        seen.take(shop.secret.get(&format!("/v1/products/{product}")).await, Code::DatabaseUnavailable);
    }
    assert!(asked.elapsed() < Duration::from_secs(20), "nobody hangs: {:?}", asked.elapsed());
    outage.end().await;
    eventually("orders are taken again", PATIENCE, async || {
        let answer = shop.publishable.post_with_key("/v1/orders", &body).await;
        (answer.status == StatusCode::CREATED).then_some(())
    })
    .await;
    assert_eq!(shop.count("select count(*) from orders").await, 1, "what was refused was not written");
    shop.close().await;
    seen
}

pub async fn a_request_that_waits_too_long_for_others_is_told_to_come_again() -> Seen {
    let (shop, mut seen) = (impatient().await, Seen::default());
    let product = shop.product(12_000, 5).await;
    let books = Books::of(&shop).await;
    let before = books.read().await;
    let mut other = invariants_client(&shop.database).await;
    let held = other.transaction().await.expect("a transaction");
    held.execute("select 1 from stock for update", &[]).await.expect("a lock");
    let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let answer = shop.publishable.post_as("/v1/orders", &body, "k-1").await;
    seen.take(answer, Code::Busy);
    held.rollback().await.expect("an end");
    assert_eq!(books.read().await, before, "nothing was written");
    // The key was not spent.
    let answer = shop.publishable.post_as("/v1/orders", &body, "k-1").await.expect(StatusCode::CREATED);
    assert!(!answer.is_replayed());
    shop.close().await;
    seen
}

pub async fn our_own_fault_is_told_without_its_cause() -> Seen {
    let (shop, mut seen) = (impatient().await, Seen::default());
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    shop.sql("alter table orders drop constraint orders_status_known; update orders set status = 'spoiled'").await;
    let answer = seen.take(order.buyer.get(&format!("/v1/orders/{}", order.id)).await, Code::Internal);
    for inside in ["spoiled", "orders", "constraint", "status_known", "diesel"] {
        assert!(!answer.text("detail").contains(inside), "{}", answer.raw);
    }
    shop.sql("update orders set status = 'pending'").await;
    shop.close().await;
    seen
}
