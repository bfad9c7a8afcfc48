//! Each scripted misbehaviour: what the client sees, and what the book says really happened.

use std::time::{Duration, Instant};

use pg_mock::{Behaviour, Card, Rule, Status};
use serde_json::json;

use crate::shop::{Heard, ORDER, Shop, until};

/// Confirms 1 000 won under `behaviour`.
async fn confirmed(shop: &Shop, behaviour: Behaviour) -> (String, reqwest::Result<Heard>) {
    let payment_key = shop.pg.pay(ORDER, 1_000);
    shop.pg.script(Rule::confirm(behaviour).for_payment(&payment_key));
    let heard = shop.try_confirm(&format!("c:{payment_key}"), &payment_key, 1_000).await;
    (payment_key, heard)
}

fn approved(shop: &Shop, payment_key: &str) -> i64 {
    shop.pg.book().payment(payment_key).unwrap().approved
}

#[tokio::test]
async fn declined_for_good_ends_the_payment() {
    let shop = Shop::open().await;
    let decline = Behaviour::Decline { code: "REJECT_CARD_PAYMENT".to_owned() };
    let (payment_key, heard) = confirmed(&shop, decline).await;
    let heard = heard.unwrap();
    assert_eq!((heard.status, heard.code().as_str()), (403, "REJECT_CARD_PAYMENT"));
    let payment = shop.look_up(&payment_key).await;
    assert_eq!((&payment["status"], &payment["failure"]["code"]), (&json!("ABORTED"), &json!("REJECT_CARD_PAYMENT")));
    assert_eq!(shop.confirm("again", &payment_key, 1_000).await.code(), "NOT_FOUND_PAYMENT_SESSION");
    assert_eq!(approved(&shop, &payment_key), 0);
}

#[tokio::test]
async fn trouble_at_the_provider_leaves_the_payment_open() {
    let shop = Shop::open().await;
    let decline = Behaviour::Decline { code: "PROVIDER_ERROR".to_owned() };
    let (payment_key, heard) = confirmed(&shop, decline).await;
    assert_eq!(heard.unwrap().status, 400);
    assert_eq!(shop.look_up(&payment_key).await["status"], "IN_PROGRESS");
    assert_eq!(shop.confirm("again", &payment_key, 1_000).await.status, 200);
}

#[tokio::test]
async fn a_bad_card_is_refused_at_confirm() {
    let shop = Shop::open().await;
    for (card, code) in [(Card::Refused, "REJECT_CARD_COMPANY"), (Card::InsufficientBalance, "REJECT_CARD_PAYMENT")] {
        let body = json!({"orderId": ORDER, "amount": 1_000, "card": card});
        let opened = shop.post("/mock/payments", "", &body).await.unwrap();
        assert_eq!(opened.status, 201, "{}", opened.text);
        let payment_key = opened.json()["paymentKey"].as_str().unwrap().to_owned();
        assert_eq!(shop.confirm(code, &payment_key, 1_000).await.code(), code);
        assert_eq!(shop.pg.book().payment(&payment_key).unwrap().status, Status::Aborted);
    }
}

#[tokio::test]
async fn a_delayed_call_takes_effect_at_its_end() {
    let shop = Shop::open().await;
    let payment_key = shop.pg.pay(ORDER, 1_000);
    shop.pg.script(Rule::confirm(Behaviour::Delay { ms: 1_000 }));
    let start = Instant::now();
    let (heard, ()) = tokio::join!(shop.confirm("k", &payment_key, 1_000), async {
        until("the call", async || shop.pg.book().calls.confirm == 1).await;
        assert_eq!(shop.look_up(&payment_key).await["status"], "IN_PROGRESS");
        let other = shop.confirm("other", &payment_key, 1_000).await;
        assert_eq!(other.code(), "ALREADY_PROCESSED_PAYMENT");
        assert_eq!(approved(&shop, &payment_key), 0);
    });
    assert!(start.elapsed() >= Duration::from_millis(1_000));
    assert_eq!(heard.json()["status"], "DONE");
    assert_eq!(approved(&shop, &payment_key), 1_000);
}

#[tokio::test]
async fn hanging_before_has_no_effect_and_frees_the_key() {
    let shop = Shop::open().await;
    let (payment_key, heard) = confirmed(&shop, Behaviour::HangBefore { ms: 30 }).await;
    assert_eq!(heard.unwrap().status, 500);
    assert_eq!(approved(&shop, &payment_key), 0);
    assert_eq!(shop.confirm(&format!("c:{payment_key}"), &payment_key, 1_000).await.status, 200);
}

#[tokio::test]
async fn dropped_connections_differ_only_in_the_book() {
    let shop = Shop::open().await;
    let (approved_key, heard) = confirmed(&shop, Behaviour::ApproveThenDrop).await;
    let error = heard.unwrap_err();
    assert!(!error.is_timeout() && !error.is_connect(), "{error:?}");
    assert_eq!(approved(&shop, &approved_key), 1_000);
    let (untouched_key, heard) = confirmed(&shop, Behaviour::DropBefore).await;
    assert!(heard.is_err());
    assert_eq!(approved(&shop, &untouched_key), 0);
}

#[tokio::test]
async fn an_approval_can_surface_after_the_connection_was_cut() {
    let shop = Shop::open().await;
    let (payment_key, heard) = confirmed(&shop, Behaviour::DropThenApprove { ms: 500 }).await;
    assert!(heard.is_err());
    assert_eq!(shop.look_up(&payment_key).await["status"], "IN_PROGRESS");
    until("the approval", async || approved(&shop, &payment_key) == 1_000).await;
}

#[tokio::test]
async fn errors_before_and_after_the_effect_look_the_same() {
    let shop = Shop::open().await;
    let code = || "UNKNOWN_PAYMENT_ERROR".to_owned();
    for (behaviour, money) in [
        (Behaviour::ErrorBefore { status: 500, code: code() }, 0),
        (Behaviour::ErrorAfter { status: 500, code: code() }, 1_000),
    ] {
        let (payment_key, heard) = confirmed(&shop, behaviour).await;
        let heard = heard.unwrap();
        assert_eq!((heard.status, heard.code()), (500, code()));
        assert_eq!(approved(&shop, &payment_key), money);
    }
}

#[tokio::test]
async fn answers_that_are_no_json() {
    let shop = Shop::open().await;
    let (payment_key, heard) = confirmed(&shop, Behaviour::HtmlError { status: 502 }).await;
    let heard = heard.unwrap();
    assert_eq!(heard.status, 502);
    assert!(heard.header("content-type").starts_with("text/html") && heard.text.contains("<html>"));
    assert_eq!(approved(&shop, &payment_key), 0);
    let (payment_key, heard) = confirmed(&shop, Behaviour::Garbage).await;
    let heard = heard.unwrap();
    assert_eq!(heard.status, 200);
    assert!(serde_json::from_str::<serde_json::Value>(&heard.text).is_err());
    assert_eq!(approved(&shop, &payment_key), 1_000);
}

#[tokio::test]
async fn answers_nobody_has_documented() {
    let shop = Shop::open().await;
    let (payment_key, heard) = confirmed(&shop, Behaviour::UnknownEnum).await;
    let payment = heard.unwrap().json();
    assert_eq!((&payment["status"], &payment["method"]), (&json!("ON_ITS_WAY"), &json!("생체결제")));
    assert!(payment.get("carbonOffset").is_some());
    assert_eq!(approved(&shop, &payment_key), 1_000);
    let (_, heard) = confirmed(&shop, Behaviour::MissingFields { fields: Vec::new() }).await;
    assert_eq!(heard.unwrap().json().as_object().unwrap().len(), 7);
    let fields = vec!["approvedAt".to_owned()];
    let (_, heard) = confirmed(&shop, Behaviour::MissingFields { fields }).await;
    let payment = heard.unwrap().json();
    assert!(payment.get("approvedAt").is_none() && payment.get("card").is_some());
}

#[tokio::test]
async fn another_amount_is_really_taken_and_another_order_only_named() {
    let shop = Shop::open().await;
    let (payment_key, heard) = confirmed(&shop, Behaviour::MismatchedAmount { amount: 9_000 }).await;
    assert_eq!(heard.unwrap().json()["totalAmount"], 9_000);
    assert_eq!(approved(&shop, &payment_key), 9_000);
    let order_id = "ord_somebody_else".to_owned();
    let (payment_key, heard) = confirmed(&shop, Behaviour::MismatchedOrder { order_id }).await;
    assert_eq!(heard.unwrap().json()["orderId"], "ord_somebody_else");
    assert_eq!(shop.pg.book().payment(&payment_key).unwrap().order_id, ORDER);
    shop.pg.script(Rule::lookup(Behaviour::MismatchedAmount { amount: 1 }));
    assert_eq!(shop.look_up(&payment_key).await["totalAmount"], 1);
    assert_eq!(approved(&shop, &payment_key), 1_000);
}

#[tokio::test]
async fn being_turned_away_has_no_effect_and_frees_the_key() {
    let shop = Shop::open().await;
    let busy = Behaviour::TooManyRequests { retry_after_s: 7 };
    let (payment_key, heard) = confirmed(&shop, busy).await;
    let heard = heard.unwrap();
    assert_eq!((heard.status, heard.header("retry-after")), (429, "7"));
    shop.pg.script(Rule::confirm(Behaviour::InProgressConflict));
    let key = format!("c:{payment_key}");
    assert_eq!(shop.confirm(&key, &payment_key, 1_000).await.status, 409);
    assert_eq!(approved(&shop, &payment_key), 0);
    assert_eq!(shop.confirm(&key, &payment_key, 1_000).await.status, 200);
}

#[tokio::test]
async fn cancels_misbehave_in_the_same_ways() {
    let shop = Shop::open().await;
    let payment_key = shop.paid().await;
    let part = json!({"cancelReason": "x", "cancelAmount": 100});
    let path = format!("/v1/payments/{payment_key}/cancel");
    shop.pg.script(Rule::cancel(Behaviour::ApproveThenDrop));
    assert!(shop.post(&path, "k", &part).await.is_err());
    assert_eq!(shop.cancel("k", &payment_key, part.clone()).await.json()["balanceAmount"], 34_000);
    let refused = Behaviour::Decline { code: "NOT_CANCELABLE_AMOUNT".to_owned() };
    shop.pg.script(Rule::cancel(refused));
    assert_eq!(shop.cancel("k2", &payment_key, part).await.status, 403);
    assert_eq!(shop.pg.book().canceled(ORDER), 100);
}

#[tokio::test]
async fn rules_are_taken_in_order_by_the_calls_they_match() {
    let shop = Shop::open().await;
    let payment_key = shop.paid().await;
    let error = |status| Behaviour::ErrorBefore { status, code: "X".to_owned() };
    shop.pg.script(Rule::lookup(error(501)).for_order("ord_other"));
    shop.pg.script(Rule::lookup(error(502)).for_order(ORDER).times(2));
    shop.pg.script(Rule::any(error(503)).always());
    let path = format!("/v1/payments/{payment_key}");
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(shop.get(&path).await.status);
    }
    assert_eq!(seen, [502, 502, 503, 503]);
    assert_eq!(shop.pg.script_left().len(), 2);
    shop.pg.clear_script();
    assert_eq!(shop.get(&path).await.status, 200);
}

#[tokio::test]
async fn slow_answers_do_not_hold_up_others() {
    let shop = Shop::open().await;
    let payment_key = shop.paid().await;
    shop.pg.script(Rule::lookup(Behaviour::Delay { ms: 5_000 }).times(20));
    let start = Instant::now();
    let path = format!("/v1/payments/{payment_key}");
    let slow: Vec<_> = (0..20).map(|_| Box::pin(shop.get(&path))).collect();
    let mut slow = slow;
    for call in &mut slow {
        let waited = tokio::time::timeout(Duration::from_millis(20), call).await;
        assert!(waited.is_err());
    }
    assert_eq!(shop.get("/mock/healthz").await.status, 200);
    assert!(start.elapsed() < Duration::from_millis(4_900));
}

#[tokio::test]
async fn thousands_of_requests_meet_no_gap() {
    let shop = Shop::open().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (http, url) = (shop.http.clone(), format!("{}/mock/healthz", shop.pg.url()));
        calls.spawn(async move {
            for _ in 0..700 {
                assert_eq!(http.get(&url).send().await.unwrap().status(), 200);
            }
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
}
