//! Collisions: two things happen to one payment at a time, or in an order that nobody planned, and the books still agree.

use std::time::Duration;

use paygauge::payments::recovery;
use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::shop::{Shop, ShopOptions, http};

fn error_before(status: u16, code: &str) -> Behaviour {
    Behaviour::ErrorBefore { status, code: code.to_owned() }
}

/// One round of recovery over everything that is open.
async fn recover(shop: &Shop) {
    for table in ["payments", "cancellations"] {
        shop.sql(&format!("update {table} set inquire_at = now(), lease_until = null where inquire_at is not null"))
            .await;
    }
    recovery::recover_batch(shop.running.app(), None).await.expect("a batch");
}

async fn deliver(shop: &Shop, body: &Value) {
    let sent = http().post(format!("{}/v1/webhooks/toss", shop.base)).json(body).send().await.expect("an answer");
    assert_eq!(sent.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_turns_out_to_be_the_last_brings_all_units_back() {
    let shop = Shop::without_worker().await;
    let (beans, cup) = (shop.product(6_000, 5).await, shop.product(4_000, 5).await);
    for part in [
        json!({ "reason": "part", "amount": 6_000 }),
        json!({ "reason": "beans", "lines": [{ "line": 1, "quantity": 1 }] }),
    ] {
        let order = shop.order_of(&[(&beans, 1), (&cup, 1)]).await;
        let key = shop.pay(&order);
        let payment = shop.confirm(&order, &key).await.expect(StatusCode::OK).text("id");
        shop.mock.script(Rule::cancel(error_before(500, "FAILED_INTERNAL_SYSTEM_PROCESSING")));
        shop.cancel(&payment, &part).await.expect(StatusCode::ACCEPTED);
        shop.mock.cancel_in_console(&key, 4_000);
        recover(&shop).await;
        assert_eq!(shop.order_now(&order.id).await.text("status"), "canceled");
        assert_eq!((shop.available(&beans).await, shop.available(&cup).await), (5, 5));
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_books_a_console_cancel_that_it_sees_beside_ours() {
    let shop = Shop::without_worker().await;
    let product = shop.product(10_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    shop.mock.script(Rule::cancel(Behaviour::ApproveThenDrop));
    shop.cancel(&payment, &json!({ "reason": "part", "amount": 6_000 })).await.expect(StatusCode::ACCEPTED);
    shop.mock.cancel_in_console(&shop.payment_key(&order.id), 4_000);
    recover(&shop).await;
    assert_eq!(shop.payment_now(&payment).await.number("canceledAmount"), 10_000);
    assert_eq!(shop.order_now(&order.id).await.text("status"), "canceled");
    assert_eq!(shop.available(&product).await, 5);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_during_a_confirm_neither_doubts_nor_repeats_it() {
    let shop = Shop::with(ShopOptions { webhooks: false, ..ShopOptions::default() }).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::HangBefore { ms: 900 }));
    let forged = json!({ "eventType": "PAYMENT_STATUS_CHANGED", "data": { "paymentKey": key, "status": "DONE" } });
    let notice = async {
        shop.order_becomes(&order.id, "confirming").await;
        deliver(&shop, &forged).await;
        tokio::time::sleep(Duration::from_millis(550)).await;
        (shop.mock.book().calls.confirm, shop.kinds(&order.id).await)
    };
    let (_, (confirms, kinds)) = tokio::join!(shop.confirm(&order, &key), notice);
    assert_eq!(confirms, 1, "the request still owns its confirm");
    assert!(!kinds.contains(&"PaymentOutcomeUnknown".to_owned()), "{kinds:?}");
    shop.order_becomes(&order.id, "paid").await;
    shop.close().await;
}
