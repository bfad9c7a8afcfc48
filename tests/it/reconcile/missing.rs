//! What only one side has: payments that our books lost, payments that the PG lost, money that is nobody's.

use std::time::Duration;

use pg_mock::{Method, NewPayment};
use serde_json::json;

use super::{all, at_the_pg, brief, close_disagreeing, confirm_there, deaf, one, run_twice, settings};
use crate::support::shop::{Order, Shop};

/// The reason of the only finding.
async fn reason(shop: &Shop) -> String {
    let all = all(shop).await;
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]["reason"].as_str().expect("a reason").to_owned()
}

/// An order whose payment the PG has taken, and of which our books know nothing.
async fn paid_there_only(shop: &Shop, product: &str) -> (Order, String) {
    let order = shop.order(product, 1).await;
    let key = shop.pay(&order);
    confirm_there(shop, &key, &order.id, order.amount).await;
    (order, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_our_books_lost_is_taken_over_if_its_order_still_waits_for_exactly_it() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, key) = paid_there_only(&shop, &product).await;
    let confirms = shop.mock.book().calls.confirm;
    assert_eq!(run_twice(&shop).await.repaired, 1);
    assert_eq!(brief(&shop).await, one("missing_here", "repaired", 12_000));
    let now = shop.order_now(&order.id).await;
    assert_eq!(now.text("status"), "paid");
    assert_eq!(all(&shop).await[0]["paymentId"], json!(now.text("paymentId")));
    assert_eq!(shop.mock.book().calls.confirm, confirms, "nothing was sent");
    let again = shop.confirm(&order, &key).await;
    assert_eq!((again.status.as_u16(), again.text("status")), (200, "approved".to_owned()), "the buyer comes back");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_payment_whose_order_is_over_waits_for_a_person() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, _) = paid_there_only(&shop, &product).await;
    shop.sql("update orders set hold_expires_at = now() - interval '1 second'").await;
    assert_eq!(run_twice(&shop).await.repaired, 0);
    assert_eq!(brief(&shop).await, one("missing_here", "waiting", 12_000));
    assert!(reason(&shop).await.contains("the hold of its order is over"));
    assert_eq!(shop.order_now(&order.id).await.text("status"), "pending", "nothing is changed");
    assert_eq!(shop.count("select count(*) from payments").await, 0);
    close_disagreeing(shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_beside_the_payment_of_a_paid_order_waits_for_a_person() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, _) = shop.paid(&product, 1).await;
    let second = shop.pay(&order);
    confirm_there(&shop, &second, &order.id, order.amount).await;
    assert_eq!(run_twice(&shop).await.repaired, 0);
    assert_eq!(brief(&shop).await, one("missing_here", "waiting", 12_000));
    assert!(reason(&shop).await.contains("may have paid twice"));
    assert_eq!(all(&shop).await[0]["orderId"], json!(order.id));
    // Given back by hand, it is nobody's business any more, except for the person who writes down what was done.
    shop.mock.cancel_in_console(&second, order.amount);
    run_twice(&shop).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_payment_of_another_amount_or_currency_waits_for_a_person() {
    for (amount, currency) in [(11_000, "KRW"), (12_000, "USD")] {
        let shop = deaf(settings()).await;
        let product = shop.product(12_000, 5).await;
        let order = shop.order(&product, 1).await;
        let key = shop.mock.open_window(NewPayment {
            order_id: order.id.clone(),
            amount,
            currency: currency.to_owned(),
            method: Method::Card,
            order_name: "beans".to_owned(),
        });
        shop.mock.authenticate(&key);
        confirm_there(&shop, &key, &order.id, amount).await;
        assert_eq!(run_twice(&shop).await.repaired, 0);
        let finding = all(&shop).await.remove(0);
        assert_eq!((&finding["kind"], &finding["status"]), (&json!("missing_here"), &json!("waiting")));
        assert_eq!(finding["currency"], json!(currency));
        assert!(reason(&shop).await.contains("amount or currency is not the order's"));
        assert_eq!(shop.order_now(&order.id).await.text("status"), "pending");
        close_disagreeing(shop).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_payment_that_is_given_back_in_part_waits_for_a_person_with_what_is_left() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, key) = paid_there_only(&shop, &product).await;
    shop.mock.cancel_in_console(&key, 5_000);
    assert_eq!(run_twice(&shop).await.repaired, 0);
    assert_eq!(brief(&shop).await, one("missing_here", "waiting", 7_000));
    assert_eq!(shop.order_now(&order.id).await.text("status"), "pending");
    close_disagreeing(shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_under_an_order_id_that_is_not_ours_waits_for_a_person() {
    let shop = deaf(settings()).await;
    for order in ["somebody-elses-order", "ord_0196a3f0c0de7abc8def001122334455"] {
        let key = shop.mock.pay(order, 9_000);
        confirm_there(&shop, &key, order, 9_000).await;
    }
    let report = run_twice(&shop).await;
    assert_eq!((report.filed, report.repaired), (2, 0));
    for finding in all(&shop).await {
        assert_eq!((&finding["kind"], &finding["status"]), (&json!("missing_here"), &json!("waiting")));
        assert_eq!(finding["reason"], "no order of ours has the id that the PG has it under");
        assert!(finding["orderId"].is_null() && finding["paymentId"].is_null());
        assert_eq!(finding["traceId"], "trace-of-the-run");
    }
    close_disagreeing(shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_that_never_came_to_anything_are_nobodys_business() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let abandoned = shop.pay(&order);
    shop.mock.expire(&abandoned);
    let _opened = shop.mock.pay("somebody-elses-order", 9_000);
    assert_eq!(run_twice(&shop).await.filed, 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_the_pg_lost_waits_for_a_person() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    let (_, kept) = shop.paid(&product, 1).await;
    shop.mock.lose(&shop.payment_key(&order.id));
    let report = run_twice(&shop).await;
    assert_eq!((report.filed, report.repaired), (1, 0));
    assert_eq!(brief(&shop).await, one("missing_there", "waiting", 12_000));
    assert!(reason(&shop).await.contains("by its key or by its order"));
    for payment in [payment, kept] {
        assert_eq!(shop.payment_now(&payment).await.text("status"), "approved");
    }
    close_disagreeing(shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_the_pg_has_under_another_key_is_two_findings_of_one_order() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, _) = shop.paid(&product, 1).await;
    shop.mock.lose(&shop.payment_key(&order.id));
    let other = shop.pay(&order);
    confirm_there(&shop, &other, &order.id, order.amount).await;
    assert_eq!(run_twice(&shop).await.filed, 2);
    let mut found: Vec<(String, bool)> = Vec::new();
    for finding in all(&shop).await {
        let another = finding["reason"].as_str().is_some_and(|reason| reason.contains("knows another of this order"));
        found.push((finding["kind"].as_str().expect("a kind").to_owned(), another));
        assert_eq!((&finding["status"], &finding["orderId"]), (&json!("waiting"), &json!(order.id)));
    }
    found.sort();
    assert_eq!(found, [("missing_here".to_owned(), false), ("missing_there".to_owned(), true)]);
    close_disagreeing(shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_pg_lists_late_is_no_difference() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    shop.cancel(&payment, &json!({ "reason": "part", "amount": 2_000 })).await.expect(reqwest::StatusCode::OK);
    let key = shop.payment_key(&order.id);
    for _ in 0..2 {
        shop.mock.unlist_newest(&key);
        assert_eq!(run_twice(&shop).await.filed, 0, "asked for itself, the PG knows it");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_outside_of_the_window_is_left_alone() {
    let mut settings = settings();
    settings.reconcile_settle = Duration::from_secs(3_600);
    let shop = deaf(settings).await;
    let product = shop.product(12_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    let key = shop.payment_key(&order.id);
    at_the_pg(&shop, &format!("/v1/payments/{key}/cancel"), &json!({ "cancelReason": "by hand" })).await;
    let report = run_twice(&shop).await;
    assert_eq!((report.transactions, report.filed), (0, 0), "it has not settled yet");
    assert_eq!(shop.payment_now(&payment).await.text("status"), "approved");
    close_disagreeing(shop).await;
}
