//! Orders and the catalogue: priced by us, held at once, given back by themselves.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;

use crate::support::shop::{Shop, ShopOptions, settings};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_priced_by_the_catalogue_and_keeps_its_price() {
    let shop = Shop::open().await;
    let (beans, cup) = (shop.product(12_000, 10).await, shop.product(5_000, 10).await);
    let order = shop.order_of(&[(&beans, 2), (&cup, 1)]).await;
    assert_eq!(order.amount, 29_000);
    let path = format!("/v1/products/{beans}");
    let change = json!({ "price": 99_000 });
    shop.secret.request(reqwest::Method::PATCH, &path, Some(&change), None).await.expect(StatusCode::OK);
    let now = shop.order_now(&order.id).await;
    assert_eq!(now.number("amount"), 29_000);
    assert_eq!(now.body["lines"][0]["unitPrice"], 12_000);
    assert_eq!(now.text("name"), "Coffee beans and 1 more");
    assert_eq!((shop.available(&beans).await, shop.available(&cup).await), (8, 9));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_filled_takes_nothing() {
    let shop = Shop::open().await;
    let (beans, cup) = (shop.product(12_000, 10).await, shop.product(5_000, 1).await);
    let lines = json!([{ "productId": beans, "quantity": 2 }, { "productId": cup, "quantity": 2 }]);
    let answer = shop.publishable.post_as("/v1/orders", &json!({ "lines": lines }), "k").await;
    let answer = answer.problem(StatusCode::CONFLICT, "insufficient_stock");
    assert_eq!((answer.text("productId"), answer.number("available"), answer.number("requested")), (cup.clone(), 1, 2));
    assert_eq!((shop.available(&beans).await, shop.available(&cup).await), (10, 1));
    assert_eq!(shop.count("select count(*) from orders").await, 0);
    // The key was not spent: restock, and the same request goes through.
    let restock = json!({ "delta": 5, "kind": "restock", "reason": "delivery" });
    shop.secret.post(&format!("/v1/products/{cup}/stock-adjustments"), &restock).await.expect(StatusCode::CREATED);
    shop.publishable.post_as("/v1/orders", &json!({ "lines": lines }), "k").await.expect(StatusCode::CREATED);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_by_itself_and_gives_the_stock_back() {
    let settings = paygauge::config::Settings { hold: Duration::from_millis(300), ..settings() };
    let shop = Shop::with(ShopOptions { settings, ..ShopOptions::default() }).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 3).await;
    assert_eq!(shop.available(&product).await, 2);
    shop.order_becomes(&order.id, "expired").await;
    assert_eq!(shop.available(&product).await, 5);
    let key = shop.pay(&order);
    shop.confirm(&order, &key).await.problem(StatusCode::CONFLICT, "order_expired");
    assert_eq!(shop.mock.book().calls.confirm, 0, "the PG is not even asked");
    assert_eq!(shop.kinds(&order.id).await, ["OrderPlaced", "OrderHoldExpired"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_changes_are_appended_with_a_reason_and_never_below_zero() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let path = format!("/v1/products/{product}/stock-adjustments");
    let adjust = |delta: i64, kind: &str| json!({ "delta": delta, "kind": kind, "reason": "stocktaking" });
    let answer = shop.secret.post(&path, &adjust(7, "restock")).await.expect(StatusCode::CREATED);
    assert_eq!(answer.number("available"), 12);
    shop.secret.post(&path, &adjust(-2, "correction")).await.expect(StatusCode::CREATED);
    let below = shop.secret.post(&path, &adjust(-11, "correction")).await;
    assert_eq!(below.problem(StatusCode::CONFLICT, "stock_below_zero").number("available"), 10);
    let negative = shop.secret.post(&path, &adjust(-1, "restock")).await;
    negative.problem(StatusCode::BAD_REQUEST, "invalid_parameter");
    let list = shop.secret.get(&path).await.expect(StatusCode::OK);
    let kinds: Vec<_> = list.body["items"].as_array().expect("items").iter().map(|item| item["kind"].clone()).collect();
    assert_eq!(kinds, ["correction", "restock", "initial"]);
    let rewriting = "update stock_adjustments set delta = 1";
    let client = crate::support::shop::invariants_client(&shop.database).await;
    assert!(client.batch_execute(rewriting).await.is_err(), "history is append-only");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_go_page_by_page_without_losing_or_repeating_a_row() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 100).await;
    let mut placed = Vec::new();
    for _ in 0..7 {
        placed.push(shop.order(&product, 1).await.id);
    }
    shop.secret
        .post_with_key(&format!("/v1/orders/{}/cancel", placed[3]), &json!({ "reason": "x" }))
        .await
        .expect(StatusCode::OK);
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let answer = shop.secret.get(&format!("/v1/orders?limit=3{after}")).await.expect(StatusCode::OK);
        let items = answer.body["items"].as_array().expect("items").clone();
        seen.extend(items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()));
        match answer.body["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    placed.reverse();
    assert_eq!(seen, placed, "newest first, each once");
    let answer = shop.secret.get("/v1/orders?status=canceled").await.expect(StatusCode::OK);
    assert_eq!(answer.body["items"].as_array().map(Vec::len), Some(1));
    let from = "2999-01-01T00:00:00Z";
    let answer = shop.secret.get(&format!("/v1/orders?from={from}")).await.expect(StatusCode::OK);
    assert_eq!(answer.body["items"].as_array().map(Vec::len), Some(0));
    let answer = shop.secret.get(&format!("/v1/orders?to={from}")).await.expect(StatusCode::OK);
    assert_eq!(answer.body["items"].as_array().map(Vec::len), Some(7));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_that_is_not_sold_any_more_cannot_be_ordered() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let path = format!("/v1/products/{product}");
    let off = json!({ "active": false });
    shop.secret.request(reqwest::Method::PATCH, &path, Some(&off), None).await.expect(StatusCode::OK);
    let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let answer = shop.publishable.post_with_key("/v1/orders", &body).await;
    answer.problem(StatusCode::UNPROCESSABLE_ENTITY, "unknown_product");
    shop.close().await;
}
