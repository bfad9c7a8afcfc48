//! Confirm: the money is taken once, for the order's own amount, and an uncertain answer ends certain.

use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::eventually;
use crate::support::shop::{PATIENCE, Shop, ShopOptions, WINDOW, confirm_body};

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_is_charged_once_and_keeps_its_stock() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let (order, payment) = shop.paid(&product, 2).await;

    assert_eq!(shop.mock.book().net(&order.id), 24_000);
    assert_eq!(shop.available(&product).await, 3);
    let now = shop.payment_now(&payment).await;
    assert_eq!((now.number("approvedAmount"), now.number("balance")), (24_000, 24_000));
    assert_eq!(now.text("method"), "card");
    assert_eq!(
        shop.kinds(&order.id).await,
        ["OrderPlaced", "OrderConfirmStarted", "PaymentConfirmStarted", "PaymentApproved", "OrderPaid"]
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timeline_tells_time_actor_call_and_trace() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    let answer = order.buyer.get(&format!("/v1/payments/{payment}/timeline")).await.expect(StatusCode::OK);
    let items = answer.body["items"].as_array().expect("items");
    let approved = items.iter().find(|event| event["kind"] == "PaymentApproved").expect("an approval");
    assert_eq!(approved["actor"], "checkout");
    assert_eq!(approved["from"], "confirming");
    assert_eq!(approved["to"], "approved");
    assert_eq!(approved["detail"]["call"]["operation"], "confirm");
    assert_eq!(approved["detail"]["call"]["httpStatus"], 200);
    assert!(approved["detail"]["call"]["durationMs"].is_u64());
    assert!(approved["detail"]["call"]["providerTraceId"].is_string());
    assert_eq!(approved["traceId"].as_str().map(str::len), Some(32));
    assert!(approved["at"].as_str().is_some_and(|at| at.ends_with('Z')));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tampered_amount_charges_nothing() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.mock.pay(&order.id, 100);
    let body = json!({ "paymentKey": key, "orderId": order.id, "amount": 100 });
    let answer = order.buyer.post("/v1/payments/confirm", &body).await;
    answer.problem(StatusCode::UNPROCESSABLE_ENTITY, "amount_mismatch");

    // The order's own amount on a payment that was opened for another: the PG refuses it, and nothing is charged.
    shop.confirm(&order, &key).await;
    assert_eq!(shop.mock.book().net(&order.id), 0);
    assert_eq!(shop.mock.book().approved(&order.id), 0);
    shop.order_becomes(&order.id, "pending").await;
    let key = shop.pay(&order);
    shop.confirm(&order, &key).await.expect(StatusCode::OK);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_currency_is_another_amount() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    let mut body = confirm_body(&order, &key);
    body["currency"] = json!("USD");
    let answer = order.buyer.post("/v1/payments/confirm", &body).await;
    answer.problem(StatusCode::UNPROCESSABLE_ENTITY, "amount_mismatch");
    assert_eq!(shop.mock.book().calls.confirm, 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_confirm_many_times_at_once_charges_once_and_then_replays() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::Delay { ms: 200 }));
    let all = futures_util::future::join_all((0..8).map(|_| shop.confirm(&order, &key))).await;
    let approved = all.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert!(approved >= 1, "{all:?}");
    for answer in all.iter().filter(|answer| answer.status != StatusCode::OK) {
        assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.raw);
        assert!(answer.header("retry-after").is_some());
    }
    let first = shop.confirm(&order, &key).await.expect(StatusCode::OK);
    let second = shop.confirm(&order, &key).await.expect(StatusCode::OK);
    assert!(first.is_replayed() && second.is_replayed());
    assert_eq!(first.raw, second.raw);
    assert_eq!(shop.mock.book().calls.confirm, 1);
    assert_eq!(shop.mock.book().net(&order.id), 12_000);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn different_keys_at_once_charge_once() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    let body = confirm_body(&order, &key);
    shop.mock.script(Rule::confirm(Behaviour::Delay { ms: 150 }));
    let all =
        futures_util::future::join_all((0..6).map(|_| order.buyer.post_with_key("/v1/payments/confirm", &body))).await;
    assert!(all.iter().any(|answer| answer.status == StatusCode::OK));
    for answer in &all {
        assert!(matches!(answer.status, StatusCode::OK | StatusCode::CONFLICT), "{}", answer.raw);
    }
    assert_eq!(shop.mock.book().calls.confirm, 1);
    assert_eq!(shop.mock.book().net(&order.id), 12_000);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_cards_for_one_order_at_once_charge_one() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let (one, two) = (shop.pay(&order), shop.pay(&order));
    let (one, two) = tokio::join!(shop.confirm(&order, &one), shop.confirm(&order, &two));
    let mut statuses = [one.status, two.status];
    statuses.sort();
    assert_eq!(statuses, [StatusCode::OK, StatusCode::CONFLICT], "{} {}", one.raw, two.raw);
    assert_eq!(shop.mock.book().net(&order.id), 12_000);
    shop.close().await;
}

/// Every way in which the PG's answer can be lost or odd, and what the order comes to.
fn misbehaviours() -> Vec<(&'static str, Behaviour, &'static str)> {
    let code = |text: &str| text.to_owned();
    vec![
        ("approves, then cuts the line", Behaviour::ApproveThenDrop, "paid"),
        ("approves, then hangs", Behaviour::ApproveThenHang { ms: 2_500 }, "paid"),
        ("cuts the line, and approves later", Behaviour::DropThenApprove { ms: 400 }, "paid"),
        ("cuts the line before doing anything", Behaviour::DropBefore, "paid"),
        ("hangs, and does nothing", Behaviour::HangBefore { ms: 2_500 }, "paid"),
        (
            "fails before doing anything",
            Behaviour::ErrorBefore { status: 500, code: code("FAILED_INTERNAL_SYSTEM_PROCESSING") },
            "paid",
        ),
        (
            "fails after approving",
            Behaviour::ErrorAfter { status: 500, code: code("FAILED_PAYMENT_INTERNAL_SYSTEM_PROCESSING") },
            "paid",
        ),
        ("says PROVIDER_ERROR", Behaviour::ErrorBefore { status: 400, code: code("PROVIDER_ERROR") }, "paid"),
        ("says a code nobody knows", Behaviour::ErrorAfter { status: 400, code: code("BRAND_NEW_CODE") }, "paid"),
        ("answers with a web page", Behaviour::HtmlError { status: 502 }, "paid"),
        ("answers garbage after approving", Behaviour::Garbage, "paid"),
        ("answers with unknown words", Behaviour::UnknownEnum, "paid"),
        ("says that it is still at it", Behaviour::InProgressConflict, "paid"),
        (
            "says that it was done already",
            Behaviour::ErrorAfter { status: 400, code: code("ALREADY_PROCESSED_PAYMENT") },
            "paid",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_uncertain_answer_ends_certain_and_charged_at_most_once() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 1_000).await;
    let runs = misbehaviours().into_iter().map(|(what, behaviour, end)| {
        let (shop, product) = (&shop, &product);
        async move {
            let order = shop.order(product, 1).await;
            let key = shop.pay(&order);
            shop.mock.script(Rule::confirm(behaviour).for_order(&order.id));
            let answer = shop.confirm(&order, &key).await;
            assert!(
                matches!(answer.status, StatusCode::OK | StatusCode::ACCEPTED),
                "the PG {what}: {} {}",
                answer.status,
                answer.raw
            );
            if answer.status == StatusCode::ACCEPTED {
                assert_eq!(answer.text("status"), "confirming", "the PG {what}");
                assert!(answer.header("location").is_some_and(|location| location.starts_with("/v1/payments/pay_")));
                assert!(answer.header("retry-after").is_some());
            }
            shop.order_becomes(&order.id, end).await;
            assert_eq!(shop.mock.book().net(&order.id), 12_000, "the PG {what}");
            // The same confirm again shows today's truth.
            let again = shop.confirm(&order, &key).await.expect(StatusCode::OK);
            assert!(again.is_replayed());
            assert_eq!(again.text("status"), "approved");
        }
    });
    futures_util::future::join_all(runs).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_never_shown_as_a_failure() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::ApproveThenDrop));
    let first = shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
    let again = shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
    assert_eq!(first.text("id"), again.text("id"));
    // While it is open no other card is asked for.
    let other = shop.pay(&order);
    shop.confirm(&order, &other).await.problem(StatusCode::CONFLICT, "payment_in_flight");
    // Ageing changes nothing: the hold stays frozen however old it gets.
    shop.sql("update orders set hold_expires_at = now() - interval '1 day'").await;
    let expired = paygauge::payments::expire::expire_batch(shop.running.app(), None).await.expect("a batch");
    assert_eq!(expired, 0);
    shop.sql("update payments set inquire_at = now()").await;
    paygauge::payments::recovery::recover_batch(shop.running.app()).await.expect("a batch");
    assert_eq!(shop.order_now(&order.id).await.text("status"), "paid");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_decline_another_card_pays() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::Decline { code: "REJECT_CARD_PAYMENT".to_owned() }));
    let declined = shop.confirm(&order, &key).await.problem(StatusCode::PAYMENT_REQUIRED, "payment_declined");
    assert_eq!(declined.text("providerCode"), "REJECT_CARD_PAYMENT");
    assert_eq!(declined.text("orderStatus"), "pending");
    assert_eq!(shop.available(&product).await, 4, "the stock stays held");

    let replay = shop.confirm(&order, &key).await.problem(StatusCode::PAYMENT_REQUIRED, "payment_declined");
    assert!(replay.is_replayed());
    assert_eq!(replay.raw, declined.raw, "a replay is the same answer");

    let key = shop.pay(&order);
    shop.confirm(&order, &key).await.expect(StatusCode::OK);
    assert_eq!(shop.mock.book().net(&order.id), 12_000);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ran_out_is_a_decline() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.expire(&key);
    let declined = shop.confirm(&order, &key).await.problem(StatusCode::PAYMENT_REQUIRED, "payment_declined");
    assert_eq!(declined.text("declineClass"), "session_expired");
    shop.order_becomes(&order.id, "pending").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_pg_charges_nothing_and_frees_the_key() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::TooManyRequests { retry_after_s: 7 }));
    let answer = shop.confirm(&order, &key).await.problem(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable");
    assert_eq!(answer.header("retry-after"), Some("7"));
    assert_eq!(shop.order_now(&order.id).await.text("status"), "pending");
    // The same key and the same PG payment, once more: now it goes through.
    let answer = shop.confirm(&order, &key).await.expect(StatusCode::OK);
    assert!(!answer.is_replayed());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pg_that_refuses_our_own_key_is_our_fault_not_the_buyers() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    let behaviour = Behaviour::ErrorBefore { status: 401, code: "UNAUTHORIZED_KEY".to_owned() };
    shop.mock.script(Rule::confirm(behaviour));
    shop.confirm(&order, &key).await.problem(StatusCode::BAD_GATEWAY, "provider_refused_request");
    assert_eq!(shop.order_now(&order.id).await.text("status"), "pending");
    shop.confirm(&order, &key).await.expect(StatusCode::OK);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_of_another_amount_is_given_back() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    for behaviour in [
        Behaviour::MismatchedAmount { amount: 20_000 },
        Behaviour::MismatchedAmount { amount: 500 },
        Behaviour::MismatchedOrder { order_id: "ord_somebody_elses".to_owned() },
    ] {
        let order = shop.order(&product, 1).await;
        let key = shop.pay(&order);
        shop.mock.script(Rule::confirm(behaviour).for_payment(&key));
        let answer = shop.confirm(&order, &key).await.problem(StatusCode::CONFLICT, "payment_reversed");
        let payment = answer.text("paymentId");
        shop.payment_becomes(&payment, "canceled").await;
        shop.order_becomes(&order.id, "pending").await;
        let book = shop.mock.book();
        let entry = book.payment(&key).expect("the payment");
        assert_eq!(entry.approved - entry.canceled, 0, "all of it went back");
        let key = shop.pay(&order);
        shop.confirm(&order, &key).await.expect(StatusCode::OK);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_who_hangs_up_does_not_stop_the_confirm() {
    let shop = Shop::with(ShopOptions::waiting_for_the_pg()).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(WINDOW));
    let body = confirm_body(&order, &key);
    let impatient = tokio::spawn(order.buyer.raw(reqwest::Method::POST, "/v1/payments/confirm").json(&body).send());
    eventually("the PG is asked", PATIENCE, async || (shop.mock.book().calls.confirm == 1).then_some(())).await;
    impatient.abort();
    assert!(impatient.await.is_err_and(|end| end.is_cancelled()), "it hung up before there was an answer");
    let now = shop.order_becomes(&order.id, "paid").await;
    let payment = now.text("paymentId");
    let timeline = shop.kinds(&order.id).await;
    assert!(!timeline.contains(&"PaymentOutcomeUnknown".to_owned()), "the request itself saw it through");
    shop.payment_becomes(&payment, "approved").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_the_pg_has_never_heard_of_frees_the_order_after_the_quarantine() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let body = confirm_body(&order, "no-such-payment-at-the-pg");
    shop.mock.script(Rule::confirm(Behaviour::DropBefore));
    order.buyer.post("/v1/payments/confirm", &body).await.expect(StatusCode::ACCEPTED);
    let now = eventually("the order is pending again", PATIENCE, async || {
        let now = shop.order_now(&order.id).await;
        (now.text("status") == "pending").then_some(now)
    })
    .await;
    assert_eq!(shop.payment_now(&now.text("paymentId")).await.text("status"), "ready");
    let key = shop.pay(&order);
    shop.confirm(&order, &key).await.expect(StatusCode::OK);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_of_another_order_is_refused() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let (first, _) = shop.paid(&product, 1).await;
    let key = shop.payment_key(&first.id);
    let second = shop.order(&product, 1).await;
    let answer = shop.confirm(&second, &key).await;
    answer.problem(StatusCode::CONFLICT, "payment_of_another_order");
    assert_eq!(shop.order_now(&second.id).await.text("status"), "pending");
    shop.close().await;
}
