//! Virtual accounts: the order waits for a transfer, gets it, loses it again, or gives up at the due date.

use std::time::Duration;

use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::shop::{Shop, ShopOptions, WINDOW};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_waits_for_the_deposit_and_is_paid_by_it() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let (order, key, payment) = shop.awaiting_deposit(&product).await;
    let now = shop.payment_now(&payment).await;
    assert!(now.body["deposit"]["accountNumber"].is_string() && now.body["deposit"]["dueAt"].is_string());
    assert_eq!(now.text("orderStatus"), "awaiting_deposit");
    assert_eq!(shop.mock.book().net(&order.id), 0);
    shop.mock.deposit(&key);
    shop.order_becomes(&order.id, "paid").await;
    assert_eq!(shop.payment_now(&payment).await.number("approvedAmount"), 12_000);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_is_noticed_without_any_webhook() {
    let shop = Shop::with(ShopOptions { webhooks: false, ..ShopOptions::default() }).await;
    let product = shop.product(12_000, 5).await;
    let (order, key, _) = shop.awaiting_deposit(&product).await;
    shop.mock.deposit(&key);
    shop.order_becomes(&order.id, "paid").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reversed_deposit_is_the_one_legal_step_back() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let (order, key, payment) = shop.awaiting_deposit(&product).await;
    shop.mock.deposit(&key);
    shop.order_becomes(&order.id, "paid").await;
    shop.mock.reverse_deposit(&key);
    shop.order_becomes(&order.id, "awaiting_deposit").await;
    assert_eq!(shop.available(&product).await, 4, "the stock stays held");
    assert!(shop.payment_now(&payment).await.body["approvedAmount"].is_null());
    shop.mock.deposit(&key);
    shop.order_becomes(&order.id, "paid").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_deposit_until_the_due_date_expires_the_order() {
    let mock = pg_mock::Options { deposit_due: Duration::from_secs(2), ..pg_mock::Options::default() };
    let shop = Shop::with(ShopOptions { mock, ..ShopOptions::default() }).await;
    let product = shop.product(12_000, 5).await;
    let (order, _, payment) = shop.awaiting_deposit(&product).await;
    shop.order_becomes(&order.id, "expired").await;
    shop.payment_becomes(&payment, "expired").await;
    assert_eq!(shop.available(&product).await, 5);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_closed_before_its_deposit() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let (order, _, payment) = shop.awaiting_deposit(&product).await;
    let part = shop.cancel(&payment, &json!({ "reason": "half", "amount": 6_000 })).await;
    part.problem(StatusCode::UNPROCESSABLE_ENTITY, "partial_cancel_not_allowed");
    let path = format!("/v1/orders/{}/cancel", order.id);
    let answer = order.buyer.post_with_key(&path, &json!({ "reason": "no" })).await.expect(StatusCode::OK);
    assert_eq!(answer.text("status"), "canceled");
    assert_eq!(shop.available(&product).await, 5);
    shop.payment_becomes(&payment, "canceled").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_account_is_refunded_to_an_account_of_the_buyers() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let (order, key, payment) = shop.awaiting_deposit(&product).await;
    shop.mock.deposit(&key);
    shop.order_becomes(&order.id, "paid").await;
    let without = shop.cancel(&payment, &json!({ "reason": "back" })).await;
    without.problem(StatusCode::UNPROCESSABLE_ENTITY, "refund_account_needed");
    let account = json!({ "bankCode": "88", "accountNumber": "110123456789", "holder": "Kim" });
    let body = json!({ "reason": "back", "refundAccount": account });
    shop.cancel(&payment, &body).await.expect(StatusCode::OK);
    assert_eq!(shop.mock.book().net(&order.id), 0);
    assert_eq!(
        shop.count("select count(*) from events where detail::text like '%110123456789%'").await,
        0,
        "the refund account is stored nowhere"
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_the_issue_of_an_account_is_found_again() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.mock.pay_by_virtual_account(&order.id, order.amount);
    shop.mock.script(Rule::confirm(Behaviour::ApproveThenDrop));
    shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
    shop.order_becomes(&order.id, "awaiting_deposit").await;
    shop.mock.deposit(&key);
    shop.order_becomes(&order.id, "paid").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_is_booked_although_a_cancel_of_the_account_is_still_open() {
    let shop = Shop::with(ShopOptions::waiting_for_the_pg()).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.mock.pay_by_virtual_account(&order.id, order.amount);
    shop.mock.script(Rule::confirm(WINDOW));
    let failing = Behaviour::ErrorBefore { status: 500, code: "FAILED_INTERNAL_SYSTEM_PROCESSING".to_owned() };
    shop.mock.script(Rule::cancel(failing).for_order(&order.id));
    let path = format!("/v1/orders/{}/cancel", order.id);
    let wish = async {
        shop.order_becomes(&order.id, "confirming").await;
        order.buyer.post_with_key(&path, &json!({ "reason": "too slow" })).await.expect(StatusCode::ACCEPTED);
    };
    let (confirmed, ()) = tokio::join!(shop.confirm(&order, &key), wish);
    let payment = confirmed.expect(StatusCode::OK).text("id");
    shop.mock.deposit(&key);
    shop.payment_becomes(&payment, "approved").await;
    // The money is there now, and goes back only to an account of the buyer's: the PG refuses, and a person decides.
    crate::support::eventually("the wish is decided", crate::support::shop::PATIENCE, async || {
        let now = shop.payment_now(&payment).await;
        (now.body["cancellations"][0]["status"] == "refused").then_some(())
    })
    .await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "paid");
    assert_eq!(shop.mock.book().net(&order.id), 12_000);
    shop.close().await;
}
