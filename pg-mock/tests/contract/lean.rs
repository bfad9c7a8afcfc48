//! The lean door answers as the other one does, and writes into the same book.

use pg_mock::{Behaviour, Options, Rule};
use reqwest::Method;
use serde_json::{Value, json};

use crate::shop::{ORDER, Shop};

/// What can be told of an answer: status, code and the payment's state, or that none came.
fn told(answer: reqwest::Result<crate::shop::Heard>) -> Value {
    match answer {
        Ok(heard) => {
            let body: Value = serde_json::from_str(&heard.text).unwrap_or_default();
            json!([heard.status, heard.header("content-type"), body["code"], body["status"], body["totalAmount"]])
        }
        Err(_) => json!("no answer"),
    }
}

async fn story(lean: bool) -> Vec<Value> {
    let shop = Shop::with(Options { lean, ..Options::default() }).await;
    let mut heard = Vec::new();
    let behaviours = [
        None,
        Some(Behaviour::Decline { code: "REJECT_CARD_COMPANY".to_owned() }),
        Some(Behaviour::ApproveThenDrop),
        Some(Behaviour::DropBefore),
        Some(Behaviour::HtmlError { status: 502 }),
        Some(Behaviour::ApproveThenHang { ms: 20 }),
        Some(Behaviour::TooManyRequests { retry_after_s: 1 }),
    ];
    for behaviour in behaviours {
        let key = shop.pg.pay(ORDER, 1_000);
        if let Some(behaviour) = behaviour {
            shop.pg.script(Rule::confirm(behaviour));
        }
        let body = json!({ "paymentKey": key, "orderId": ORDER, "amount": 1_000 }).to_string();
        let headers = [
            ("authorization", crate::shop::CREDENTIALS),
            ("idempotency-key", &key),
            ("content-type", "application/json"),
        ];
        heard.push(told(shop.send(Method::POST, "/v1/payments/confirm", &headers, body).await));
        let book = shop.pg.book();
        let payment = book.payment(&key).unwrap();
        heard.push(json!([payment.approved, payment.status]));
    }
    for path in ["/nowhere", "/mock/nowhere", "/v1/payments/x", "/mock/healthz"] {
        heard.push(told(shop.send(Method::GET, path, &[], String::new()).await));
    }
    heard
}

#[tokio::test]
async fn both_doors_lead_to_the_same_book() {
    let (usual, lean) = (story(false).await, story(true).await);
    assert!(usual.contains(&json!("no answer")), "{usual:?}");
    assert_eq!(usual, lean);
}
