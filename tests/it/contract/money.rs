//! What the verbs refuse: stock, keys, confirms, the PG's own refusals, cancels.

use paygauge::domain::ids::{OrderId, ProductId};
use paygauge::http::problem::Code;
use paygauge::payments::recovery;
use pg_mock::{Behaviour, Rule};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Books, Seen};
use crate::support::eventually;
use crate::support::shop::{Order, PATIENCE, Shop, ShopOptions, WINDOW, confirm_body};

const CONFIRM: &str = "/v1/payments/confirm";

fn one(product: &str, quantity: i64) -> Value {
    json!({ "lines": [{ "productId": product, "quantity": quantity }] })
}

fn failing(status: u16, code: &str) -> Behaviour {
    Behaviour::ErrorBefore { status, code: code.to_owned() }
}

pub async fn what_cannot_be_sold_is_not_ordered() -> Seen {
    let (shop, mut seen) = (Shop::without_worker().await, Seen::default());
    let (product, gone) = (shop.product(12_000, 5).await, shop.product(5_000, 5).await);
    let (path, change) = (format!("/v1/products/{gone}"), json!({ "active": false }));
    shop.secret.request(Method::PATCH, &path, Some(&change), None).await.expect(StatusCode::OK);
    let books = Books::of(&shop).await;
    let before = books.read().await;
    for unknown in [gone, ProductId::new().to_string()] {
        let answer = shop.publishable.post_with_key("/v1/orders", &one(&unknown, 1)).await;
        assert_eq!(seen.take(answer, Code::UnknownProduct).text("productId"), unknown);
    }
    let answer = shop.publishable.post_with_key("/v1/orders", &one(&product, 6)).await;
    let answer = seen.take(answer, Code::InsufficientStock);
    assert_eq!((answer.number("available"), answer.number("requested")), (5, 6));
    assert_eq!(answer.text("productId"), product);
    let less = json!({ "delta": -6, "kind": "correction", "reason": "counted" });
    let answer = shop.secret.post(&format!("/v1/products/{product}/stock-adjustments"), &less).await;
    assert_eq!(seen.take(answer, Code::StockBelowZero).number("available"), 5);
    assert_eq!(books.read().await, before, "nothing was written");
    shop.close().await;
    seen
}

/// Waits until the PG has this many confirms in hand or behind it.
async fn asked(shop: &Shop, confirms: u64) {
    eventually("the PG is asked", PATIENCE, async || (shop.mock.book().calls.confirm >= confirms).then_some(())).await;
}

/// A shop without a worker, which waits for a slow PG.
fn slow() -> ShopOptions {
    ShopOptions { worker: false, webhooks: false, ..ShopOptions::waiting_for_the_pg() }
}

pub async fn a_key_answers_one_request_and_waits_for_the_first_one() -> Seen {
    let (shop, mut seen) = (Shop::with(slow()).await, Seen::default());
    let product = shop.product(12_000, 50).await;
    let body = one(&product, 1);
    shop.publishable.post_as("/v1/orders", &body, "k-1").await.expect(StatusCode::CREATED);
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    let body = confirm_body(&order, &key);
    // Held for as long as the test needs it: the PG answers late.
    shop.mock.script(Rule::confirm(WINDOW));
    let books = Books::of(&shop).await;
    let ask = async {
        asked(&shop, 1).await;
        let before = books.read().await;
        let other = shop.publishable.post_as("/v1/orders", &one(&product, 2), "k-1").await;
        seen.take(other, Code::IdempotencyKeyMismatch);
        let again = order.buyer.post(CONFIRM, &body).await;
        let again = seen.take(again, Code::IdempotencyKeyInFlight);
        assert_eq!(again.header("retry-after"), Some("1"));
        let fresh_key = order.buyer.post_with_key(CONFIRM, &body).await;
        seen.take(fresh_key, Code::PaymentInFlight);
        assert_eq!(books.read().await, before, "nothing was written");
    };
    let (first, ()) = tokio::join!(order.buyer.post(CONFIRM, &body), ask);
    let first = first.expect(StatusCode::OK);
    let again = order.buyer.post(CONFIRM, &body).await.expect(StatusCode::OK);
    assert!(again.is_replayed());
    assert_eq!(again.raw, first.raw);
    let mut other = body.clone();
    other["amount"] = json!(1);
    seen.take(order.buyer.post(CONFIRM, &other).await, Code::IdempotencyKeyMismatch);
    shop.close().await;
    seen
}

pub async fn a_confirm_that_does_not_fit_its_order_charges_nothing() -> Seen {
    let (shop, mut seen) = (Shop::without_worker().await, Seen::default());
    let product = shop.product(12_000, 50).await;
    let (paid, _) = shop.paid(&product, 1).await;
    let (order, late, canceled) =
        (shop.order(&product, 1).await, shop.order(&product, 1).await, shop.order(&product, 1).await);
    let late_id = late.id.parse::<OrderId>().expect("an id").uuid();
    shop.sql(&format!("update orders set hold_expires_at = now() - interval '1 second' where id = '{late_id}'")).await;
    let path = format!("/v1/orders/{}/cancel", canceled.id);
    canceled.buyer.post_with_key(&path, &json!({ "reason": "no" })).await.expect(StatusCode::OK);
    let calls = shop.mock.book().calls.confirm;
    let books = Books::of(&shop).await;
    let before = books.read().await;

    let unknown = json!({ "paymentKey": "k", "orderId": OrderId::new(), "amount": 12_000 });
    seen.take(shop.secret.post(CONFIRM, &unknown).await, Code::OrderNotFound);
    for (field, value) in [("amount", json!(11_999)), ("amount", json!(12_001)), ("currency", json!("USD"))] {
        let mut body = confirm_body(&order, &shop.pay(&order));
        body[field] = value;
        let answer = seen.take(order.buyer.post(CONFIRM, &body).await, Code::AmountMismatch);
        assert_eq!(answer.number("expectedAmount"), 12_000);
    }
    for (order, status) in [(&paid, "paid"), (&canceled, "canceled")] {
        let answer = shop.confirm(order, "another-payment-key").await;
        assert_eq!(seen.take(answer, Code::OrderNotPending).text("orderStatus"), status);
    }
    seen.take(shop.confirm(&late, &shop.pay(&late)).await, Code::OrderExpired);
    seen.take(shop.confirm(&order, &shop.payment_key(&paid.id)).await, Code::PaymentOfAnotherOrder);

    assert_eq!(books.read().await, before, "nothing was written");
    assert_eq!(shop.mock.book().calls.confirm, calls, "the PG was not even asked");
    shop.close().await;
    seen
}

pub async fn what_the_pg_does_not_take_is_told_apart() -> Seen {
    let (shop, mut seen) = (Shop::open().await, Seen::default());
    let product = shop.product(12_000, 50).await;
    for (behaviour, code) in [
        (Behaviour::Decline { code: "REJECT_CARD_PAYMENT".to_owned() }, Code::PaymentDeclined),
        (Behaviour::TooManyRequests { retry_after_s: 9 }, Code::ProviderUnavailable),
        (failing(401, "UNAUTHORIZED_KEY"), Code::ProviderRefusedRequest),
        (Behaviour::MismatchedAmount { amount: 20_000 }, Code::PaymentReversed),
    ] {
        let order = shop.order(&product, 1).await;
        let key = shop.pay(&order);
        shop.mock.script(Rule::confirm(behaviour).for_payment(&key));
        let answer = seen.take(shop.confirm(&order, &key).await, code);
        if code == Code::PaymentDeclined {
            assert_eq!(answer.text("declineClass"), "insufficient_funds");
            assert_eq!(answer.text("providerCode"), "REJECT_CARD_PAYMENT");
            assert_eq!((answer.text("orderId"), answer.text("orderStatus")), (order.id.clone(), "pending".to_owned()));
        }
        if code == Code::ProviderUnavailable {
            assert_eq!(answer.header("retry-after"), Some("9"));
        }
        if code == Code::PaymentReversed {
            shop.payment_becomes(&answer.text("paymentId"), "canceled").await;
        }
        assert!(!answer.raw.contains("UNAUTHORIZED_KEY"), "that is between us and the PG: {}", answer.raw);
        shop.order_becomes(&order.id, "pending").await;
        assert_eq!(shop.mock.book().net(&order.id), 0);
    }
    shop.close().await;
    seen
}

/// A virtual account that waits for its deposit: the order, the payment's key and id.
async fn awaiting(shop: &Shop, product: &str) -> (Order, String, String) {
    let order = shop.order(product, 1).await;
    let key = shop.mock.pay_by_virtual_account(&order.id, order.amount);
    let payment = shop.confirm(&order, &key).await.expect(StatusCode::OK).text("id");
    (order, key, payment)
}

pub async fn a_cancel_that_cannot_be_is_told_why() -> Seen {
    let (shop, mut seen) = (Shop::with(slow()).await, Seen::default());
    let product = shop.product(12_000, 50).await;
    let (order, payment) = shop.paid(&product, 2).await;
    let (account, key, waiting) = awaiting(&shop, &product).await;
    let all = json!({ "reason": "x" });
    let amount = |amount: i64| json!({ "reason": "x", "amount": amount });
    let lines = |lines: Value| json!({ "reason": "x", "lines": lines });
    let unit = |line: i32, quantity: i32| json!({ "line": line, "quantity": quantity });

    let books = Books::of(&shop).await;
    let before = books.read().await;
    let too_much = seen.take(shop.cancel(&payment, &amount(24_001)).await, Code::CancelAmountExceedsBalance);
    assert_eq!(too_much.number("balance"), 24_000);
    let both = json!({ "reason": "x", "amount": 1, "lines": [unit(1, 1)] });
    for wrong in [both, lines(json!([])), lines(json!([unit(2, 1)])), lines(json!([unit(1, 3)]))] {
        seen.take(shop.cancel(&payment, &wrong).await, Code::InvalidCancelScope);
    }
    seen.take(shop.cancel(&payment, &lines(json!([unit(1, 1), unit(1, 1)]))).await, Code::InvalidCancelScope);
    seen.take(shop.cancel(&waiting, &amount(1_000)).await, Code::PartialCancelNotAllowed);
    assert_eq!(books.read().await, before, "nothing was written");

    shop.mock.deposit(&key);
    shop.sql("update payments set inquire_at = now() where status = 'awaiting_deposit'").await;
    recovery::recover_batch(shop.running.app()).await.expect("a batch");
    assert_eq!(shop.order_now(&account.id).await.text("status"), "paid");
    let before = books.read().await;
    seen.take(shop.cancel(&waiting, &all).await, Code::RefundAccountNeeded);
    let path = format!("/v1/orders/{}/cancel", account.id);
    seen.take(shop.secret.post_with_key(&path, &all).await, Code::RefundAccountNeeded);
    assert_eq!(books.read().await, before, "nothing was written");

    shop.mock.script(Rule::cancel(failing(403, "EXCEED_MAX_REFUND_DUE")).for_payment(shop.payment_key(&order.id)));
    let refused = seen.take(shop.cancel(&payment, &all).await, Code::CancellationRefused);
    assert_eq!((refused.text("refusalClass").as_str(), refused.text("paymentId")), ("too_late", payment.clone()));

    shop.mock.script(Rule::cancel(WINDOW).for_payment(shop.payment_key(&order.id)));
    let calls = shop.mock.book().calls.cancel;
    let ask = async {
        eventually("the PG is asked", PATIENCE, async || (shop.mock.book().calls.cancel > calls).then_some(())).await;
        seen.take(shop.cancel(&payment, &amount(1)).await, Code::CancellationInProgress);
    };
    let (answer, ()) = tokio::join!(shop.cancel(&payment, &all), ask);
    answer.expect(StatusCode::OK);
    let ended = seen.take(shop.cancel(&payment, &all).await, Code::PaymentNotCancelable);
    assert_eq!(ended.text("paymentStatus"), "canceled");
    let path = format!("/v1/orders/{}/cancel", order.id);
    seen.take(shop.secret.post_with_key(&path, &all).await, Code::OrderNotCancelable);
    shop.close().await;
    seen
}
