//! Webhooks are hints: whenever, however often and from whomever they come, only the PG's own word counts.

use pg_mock::{Behaviour, Rule, WebhookMode};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::shop::{Answer, PATIENCE, Shop, ShopOptions, http};

async fn deliver(shop: &Shop, body: &Value) -> Answer {
    let http = http();
    let sent = http.post(format!("{}/v1/webhooks/toss", shop.base)).json(body).send().await;
    Answer::read(sent.expect("an answer")).await
}

/// The outcomes of all deliveries so far, once each has one.
async fn outcomes(shop: &Shop) -> Vec<String> {
    eventually("every delivery is read", PATIENCE, async || {
        let unread = shop.count("select count(*) from webhook_inbox where processed_at is null").await;
        (unread == 0).then_some(())
    })
    .await;
    let client = crate::support::shop::invariants_client(&shop.database).await;
    let rows = client.query("select outcome from webhook_inbox order by received_at", &[]).await.expect("outcomes");
    rows.iter().map(|row| row.get(0)).collect()
}

fn quiet() -> ShopOptions {
    ShopOptions { webhooks: false, ..ShopOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_before_the_answer_changes_nothing_for_the_buyer() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.webhooks(WebhookMode::BeforeResponse { hold_ms: 400 });
    let answer = shop.confirm(&order, &key).await.expect(StatusCode::OK);
    assert_eq!(answer.text("status"), "approved");
    assert_eq!(shop.mock.book().net(&order.id), 12_000);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_brings_the_certainty_that_a_lost_answer_took() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::ApproveThenHang { ms: 3_000 }));
    let (answer, _) = tokio::join!(shop.confirm(&order, &key), shop.order_becomes(&order.id, "paid"));
    assert!(matches!(answer.status, StatusCode::OK | StatusCode::ACCEPTED), "{}", answer.raw);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_delivery_twice_is_answered_and_counted_once() {
    let shop = Shop::with(quiet()).await;
    let product = shop.product(12_000, 5).await;
    let (order, _) = shop.paid(&product, 1).await;
    let key = shop.payment_key(&order.id);
    let body = shop.mock.webhook_body(&key);
    for _ in 0..3 {
        deliver(&shop, &body).await.expect(StatusCode::OK);
    }
    assert_eq!(outcomes(&shop).await, ["unchanged"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_and_reordering_end_in_the_same_state() {
    for mode in [WebhookMode::Duplicate { times: 3, fresh_ids: true }, WebhookMode::Reorder { batch: 2 }] {
        let shop = Shop::open().await;
        let product = shop.product(12_000, 5).await;
        shop.mock.webhooks(mode);
        let (order, payment) = shop.paid(&product, 1).await;
        shop.cancel(&payment, &json!({ "reason": "part", "amount": 2_000 })).await.expect(StatusCode::OK);
        shop.cancel(&payment, &json!({ "reason": "rest" })).await.expect(StatusCode::OK);
        shop.order_becomes(&order.id, "canceled").await;
        assert_eq!(shop.available(&product).await, 5);
        shop.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_webhook_causes_one_lookup_and_no_more() {
    let shop = Shop::with(quiet()).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::Decline { code: "REJECT_CARD_COMPANY".to_owned() }));
    let declined = shop.confirm(&order, &key).await;
    let payment = declined.problem(StatusCode::PAYMENT_REQUIRED, "payment_declined").text("paymentId");
    let before = shop.mock.book().calls.lookup;
    let forged = json!({
        "eventType": "PAYMENT_STATUS_CHANGED", "createdAt": "2026-11-21T10:00:00.000000",
        "data": { "paymentKey": key, "orderId": order.id, "status": "DONE", "totalAmount": 12_000 }
    });
    deliver(&shop, &forged).await.expect(StatusCode::OK);
    assert_eq!(outcomes(&shop).await, ["unchanged"]);
    assert_eq!(shop.mock.book().calls.lookup, before + 1);
    assert_eq!(shop.payment_now(&payment).await.text("status"), "declined");
    assert_eq!(shop.order_now(&order.id).await.text("status"), "pending");
    let unknown =
        json!({ "eventType": "PAYMENT_STATUS_CHANGED", "data": { "paymentKey": "nobody", "status": "DONE" } });
    deliver(&shop, &unknown).await.expect(StatusCode::OK);
    assert_eq!(outcomes(&shop).await, ["unchanged", "unknown_payment"]);
    assert_eq!(shop.mock.book().calls.lookup, before + 1, "a payment that we do not know is not asked about");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_notice_must_show_the_payments_own_secret() {
    let shop = Shop::with(quiet()).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.mock.pay_by_virtual_account(&order.id, order.amount);
    shop.confirm(&order, &key).await.expect(StatusCode::OK);
    let mut forged = shop.mock.deposit_callback_body(&key);
    forged["secret"] = json!("ps_guessed");
    forged["status"] = json!("DONE");
    deliver(&shop, &forged).await.expect(StatusCode::OK);
    assert_eq!(outcomes(&shop).await, ["secret_mismatch"]);
    shop.mock.deposit(&key);
    deliver(&shop, &shop.mock.deposit_callback_body(&key)).await.expect(StatusCode::OK);
    shop.order_becomes(&order.id, "paid").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_envelopes_are_kept_answered_and_left_alone() {
    let shop = Shop::with(quiet()).await;
    let bodies = [
        json!({ "eventType": "payout.changed", "entityType": "payout", "entityBody": { "id": "x" } }),
        json!({ "eventType": "BILLING_DELETED", "data": { "billingKey": "b" } }),
        json!({ "eventType": "METHOD_UPDATED", "data": { "customerKey": "c", "status": "ENABLED" } }),
        json!({ "something": "else" }),
    ];
    for body in &bodies {
        deliver(&shop, body).await.expect(StatusCode::OK);
    }
    let outcomes = outcomes(&shop).await;
    assert_eq!(outcomes.len(), bodies.len());
    assert!(outcomes.iter().all(|outcome| outcome == "irrelevant" || outcome == "undecodable"), "{outcomes:?}");
    let http = http();
    let url = format!("{}/v1/webhooks/toss", shop.base);
    let broken = http.post(&url).body("not json at all").send().await.expect("an answer");
    assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
    let large = http.post(&url).body(vec![b' '; 300 * 1024]).send().await.expect("an answer");
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let elsewhere = http.post(format!("{}/v1/webhooks/nobody", shop.base)).body("{}").send().await.expect("an answer");
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_money_on_a_closed_payment_goes_back_and_the_order_stays() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.mock.pay_by_virtual_account(&order.id, order.amount);
    let answer = shop.confirm(&order, &key).await.expect(StatusCode::OK);
    let payment = answer.text("id");
    // Our books close the account although the bank still takes the transfer.
    shop.sql(
        "begin;
         update payments set status = 'expired', inquire_at = null, version = version + 1;
         insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor)
             select 'payment', id, version, order_id, 'PaymentDepositOverdue', 'awaiting_deposit', status, 'test' from payments;
         update orders set status = 'expired', version = version + 1;
         insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor)
             select 'order', id, version, id, 'OrderDepositOverdue', 'awaiting_deposit', status, 'test' from orders;
         update stock set available = available + 1;
         commit"
    )
    .await;
    shop.mock.deposit(&key);
    shop.payment_becomes(&payment, "reversing").await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "expired");
    assert_eq!(shop.available(&product).await, 5);
    // A deposit cannot go back without an account, so this one waits for a person, for ever and alarmed; the books
    // agree that the PG still has the money.
    let taken = shop.payment_now(&payment).await;
    assert_eq!(taken.number("approvedAmount"), 12_000);
    assert_eq!(shop.mock.book().net(&order.id), 12_000);
    shop.running.stop().await;
}
