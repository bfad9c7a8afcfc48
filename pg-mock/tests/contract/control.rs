//! The `/mock/` routes, and what survives a restart.

use pg_mock::{Options, Status};
use reqwest::Method;
use serde_json::{Value, json};

use crate::shop::{ORDER, Shop, mailbox};

async fn mock(shop: &Shop, method: Method, path: &str, body: Value) -> (u16, String) {
    let heard = shop.send(method, path, &[], body.to_string()).await.unwrap();
    (heard.status, heard.text)
}

#[tokio::test]
async fn the_script_is_written_and_cleared_over_http() {
    let shop = Shop::open().await;
    let rules = json!([
        {"operation": "lookup", "behaviour": {"html_error": {"status": 503}}, "times": "always"},
        {"operation": "confirm", "behaviour": "approve_then_drop", "orderId": ORDER},
        {"operation": "any", "behaviour": {"too_many_requests": {"retryAfterS": 1}}, "times": 2},
    ]);
    let (status, text) = mock(&shop, Method::POST, "/mock/script", rules).await;
    assert_eq!(status, 201, "{text}");
    assert_eq!(shop.pg.script_left().len(), 3);
    assert_eq!(shop.get("/v1/payments/x").await.status, 503);
    assert_eq!(mock(&shop, Method::DELETE, "/mock/script", Value::Null).await.0, 204);
    assert_eq!(shop.get("/v1/payments/x").await.status, 404);
}

#[tokio::test]
async fn a_rule_that_cannot_be_played_is_refused_with_a_reason() {
    let shop = Shop::open().await;
    for (rule, reason) in [
        (json!({"operation": "refund", "behaviour": "garbage"}), "refund"),
        (json!({"operation": "confirm", "behaviour": "explode"}), "explode"),
        (json!({"operation": "confirm", "behaviour": "garbage", "time": 2}), "time"),
        (json!({"operation": "confirm", "behaviour": {"error_before": {"status": 200, "code": "X"}}}), "400..=599"),
        (json!({"operation": "confirm", "behaviour": {"html_error": {"status": 999}}}), "999"),
    ] {
        let (status, text) = mock(&shop, Method::POST, "/mock/script", rule).await;
        assert!(status == 400 && text.contains(reason), "{status} {text}");
    }
    assert!(shop.pg.script_left().is_empty());
}

#[tokio::test]
async fn the_book_is_read_and_reset_over_http() {
    let shop = Shop::open().await;
    let payment_key = shop.paid().await;
    let (_, text) = mock(&shop, Method::GET, "/mock/book", Value::Null).await;
    let book: Value = serde_json::from_str(&text).unwrap();
    let payment = &book["payments"][0];
    assert_eq!((&payment["paymentKey"], &payment["approved"]), (&json!(payment_key), &json!(34_100)));
    assert_eq!(payment["approvals"][0]["idempotencyKey"], "confirm:paid");
    assert_eq!(book["calls"]["confirm"], 1);
    assert_eq!(book["calls"]["idempotencyKeys"]["confirm:paid"]["bodyHashes"].as_array().unwrap().len(), 1);
    assert_eq!(mock(&shop, Method::POST, "/mock/reset", Value::Null).await.0, 204);
    assert!(shop.pg.book().payments.is_empty());
}

#[tokio::test]
async fn the_buyer_and_the_back_office_act_over_http() {
    let shop = Shop::open().await;
    let (status, text) = mock(&shop, Method::POST, "/mock/payments", json!({"orderId": ORDER, "amount": 500})).await;
    assert_eq!(status, 201);
    let payment: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(payment["status"], "IN_PROGRESS");
    let payment_key = payment["paymentKey"].as_str().unwrap();
    let step = |name: &str| format!("/mock/payments/{payment_key}/{name}");
    assert_eq!(mock(&shop, Method::POST, &step("deposit"), json!({})).await.0, 409);
    assert_eq!(shop.confirm("k", payment_key, 500).await.status, 200);
    assert_eq!(mock(&shop, Method::POST, &step("cancel"), json!({"amount": 501})).await.0, 409);
    assert_eq!(mock(&shop, Method::POST, &step("cancel"), json!({"amount": 500})).await.0, 200);
    assert_eq!(shop.pg.book().payment(payment_key).unwrap().status, Status::Canceled);
    assert_eq!(mock(&shop, Method::POST, "/mock/payments", json!({"orderId": "x", "amount": 500})).await.0, 400);
    assert_eq!(mock(&shop, Method::POST, "/mock/payments", json!({"orderId": ORDER, "amount": 0})).await.0, 400);
    assert_eq!(mock(&shop, Method::GET, "/mock/nothing", Value::Null).await.0, 404);
}

#[tokio::test]
async fn webhooks_are_set_over_http() {
    let mailbox = mailbox(wiremock::ResponseTemplate::new(200)).await;
    let shop = Shop::open().await;
    let body = json!({"url": mailbox.uri(), "mode": {"duplicate": {"times": 2}}});
    assert_eq!(mock(&shop, Method::POST, "/mock/webhooks", body).await.0, 204);
    shop.paid().await;
    crate::shop::letters(&mailbox, 2).await;
    assert_eq!(mock(&shop, Method::POST, "/mock/webhooks", json!({"url": "nowhere"})).await.0, 400);
}

#[tokio::test]
async fn payments_and_remembered_answers_survive_a_restart() {
    let folder = std::env::temp_dir().join(format!("pg-mock-{}", uuid::Uuid::new_v4()));
    let options = Options { state_file: Some(folder.join("book.json")), ..Options::default() };
    let shop = Shop::with(options.clone()).await;
    let payment_key = shop.paid().await;
    let first = shop.cancel("refund", &payment_key, json!({"cancelReason": "x", "cancelAmount": 100})).await;
    let waiting = shop.pg.pay("ord_waiting", 700);
    for _ in 0..2 {
        let shop = Shop::with(options.clone()).await;
        assert_eq!(shop.pg.book().net(ORDER), 34_000);
        let repeat = shop.cancel("refund", &payment_key, json!({"cancelReason": "x", "cancelAmount": 100})).await;
        assert_eq!(repeat.json(), first.json());
        assert_eq!(shop.pg.book().payment(&waiting).unwrap().status, Status::InProgress);
        assert_eq!(shop.pg.book().payments.len(), 2);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_torn_last_line_is_forgotten_and_a_foreign_file_refused() {
    let folder = std::env::temp_dir().join(format!("pg-mock-{}", uuid::Uuid::new_v4()));
    let file = folder.join("book.json");
    let options = Options { state_file: Some(file.clone()), ..Options::default() };
    let shop = Shop::with(options.clone()).await;
    shop.paid().await;
    drop(shop);
    let journal = folder.join("book.json.journal");
    let mut text = std::fs::read_to_string(&journal).unwrap();
    text.push_str("{\"payment\":{\"paymentKey\":\"hal");
    std::fs::write(&journal, text).unwrap();
    assert_eq!(Shop::with(options.clone()).await.pg.book().net(ORDER), 34_100);
    std::fs::write(&file, "not ours").unwrap();
    let refused = pg_mock::PgMock::start(options).await.err().unwrap();
    assert!(refused.to_string().contains("book.json is not a pg-mock state file"), "{refused}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
#[should_panic(expected = "is InProgress, not")]
async fn a_step_that_does_not_fit_ends_the_test() {
    let shop = Shop::open().await;
    let payment_key = shop.pg.pay(ORDER, 1_000);
    shop.pg.deposit(&payment_key);
}
