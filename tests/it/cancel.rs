//! Cancel: money goes back at most once, stock comes back exactly once, and an uncertain answer ends certain.

use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::shop::{Shop, ShopOptions, WINDOW, confirm_body};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cancel_gives_the_money_and_the_stock_back() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 5).await;
    let (order, payment) = shop.paid(&product, 3).await;
    assert_eq!(shop.available(&product).await, 2);

    let answer = shop.cancel(&payment, &json!({ "reason": "changed my mind" })).await.expect(StatusCode::OK);
    assert_eq!((answer.text("status").as_str(), answer.number("amount")), ("done", 36_000));
    assert!(answer.body["canceledAt"].is_string());
    assert_eq!(shop.available(&product).await, 5);
    assert_eq!(shop.mock.book().net(&order.id), 0);
    assert_eq!(shop.order_now(&order.id).await.text("status"), "canceled");
    let now = shop.payment_now(&payment).await;
    assert_eq!((now.text("status").as_str(), now.number("balance")), ("canceled", 0));
    assert!(now.body["canceledAt"].is_string());

    let again = shop.cancel(&payment, &json!({ "reason": "again" })).await;
    again.problem(StatusCode::CONFLICT, "payment_not_cancelable");
    assert_eq!(shop.available(&product).await, 5, "the stock comes back once");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_canceled_one_by_one_and_each_brings_its_stock_back() {
    let shop = Shop::open().await;
    let (beans, cup) = (shop.product(12_000, 10).await, shop.product(5_000, 10).await);
    let order = shop.order_of(&[(&beans, 3), (&cup, 2)]).await;
    let key = shop.pay(&order);
    let payment = shop.confirm(&order, &key).await.expect(StatusCode::OK).text("id");

    let body = json!({ "reason": "one too many", "lines": [{ "line": 1, "quantity": 1 }] });
    let answer = shop.cancel(&payment, &body).await.expect(StatusCode::OK);
    assert_eq!(answer.number("amount"), 12_000);
    assert_eq!((shop.available(&beans).await, shop.available(&cup).await), (8, 8));
    let now = shop.order_now(&order.id).await;
    assert_eq!(now.text("status"), "partially_canceled");
    assert_eq!(now.body["lines"][0]["canceledQuantity"], 1);

    let body = json!({ "reason": "too many", "lines": [{ "line": 1, "quantity": 3 }] });
    shop.cancel(&payment, &body).await.problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid_cancel_scope");

    let body = json!({ "reason": "rest", "lines": [{ "line": 1, "quantity": 2 }, { "line": 2, "quantity": 2 }] });
    shop.cancel(&payment, &body).await.expect(StatusCode::OK);
    assert_eq!((shop.available(&beans).await, shop.available(&cup).await), (10, 10));
    assert_eq!(shop.order_now(&order.id).await.text("status"), "canceled");
    assert_eq!(shop.mock.book().net(&order.id), 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_add_up_to_the_total_and_one_won_beyond_is_refused() {
    let shop = Shop::open().await;
    let product = shop.product(10_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    for amount in [3_000, 3_000, 3_999] {
        shop.cancel(&payment, &json!({ "reason": "part", "amount": amount })).await.expect(StatusCode::OK);
    }
    let beyond = shop.cancel(&payment, &json!({ "reason": "beyond", "amount": 2 })).await;
    beyond.problem(StatusCode::UNPROCESSABLE_ENTITY, "cancel_amount_exceeds_balance");
    assert_eq!(shop.available(&product).await, 4, "parts by amount move no stock");
    shop.cancel(&payment, &json!({ "reason": "last", "amount": 1 })).await.expect(StatusCode::OK);
    assert_eq!(shop.available(&product).await, 5, "the last won brings the units back");
    assert_eq!(shop.mock.book().canceled(&order.id), 10_000);
    assert_eq!(shop.order_now(&order.id).await.text("status"), "canceled");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_repeated_by_its_key_and_not_by_another_body() {
    let shop = Shop::open().await;
    let product = shop.product(10_000, 5).await;
    let (_, payment) = shop.paid(&product, 1).await;
    let path = format!("/v1/payments/{payment}/cancel");
    let body = json!({ "reason": "part", "amount": 4_000 });
    let first = shop.secret.post_as(&path, &body, "k-1").await.expect(StatusCode::OK);
    let again = shop.secret.post_as(&path, &body, "k-1").await.expect(StatusCode::OK);
    assert!(again.is_replayed() && !first.is_replayed());
    assert_eq!(first.raw, again.raw);
    let other = json!({ "reason": "part", "amount": 4_001 });
    let refused = shop.secret.post_as(&path, &other, "k-1").await;
    refused.problem(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_mismatch");
    let missing = shop.secret.post(&path, &body).await;
    missing.problem(StatusCode::BAD_REQUEST, "idempotency_key_missing");
    assert_eq!(shop.payment_now(&payment).await.number("canceledAmount"), 4_000);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_cancels_at_once_give_back_once() {
    let shop = Shop::open().await;
    let product = shop.product(10_000, 5).await;
    let (order, payment) = shop.paid(&product, 2).await;
    let body = json!({ "reason": "all of us" });
    let all = futures_util::future::join_all((0..6).map(|_| shop.cancel(&payment, &body))).await;
    let done = all.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!(done, 1, "{all:?}");
    for answer in all.iter().filter(|answer| answer.status != StatusCode::OK) {
        assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.raw);
    }
    assert_eq!(shop.mock.book().canceled(&order.id), 20_000);
    assert_eq!(shop.available(&product).await, 5);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_uncertain_cancel_ends_done_and_gives_back_once() {
    let shop = Shop::open().await;
    let product = shop.product(10_000, 1_000).await;
    let code = |text: &str| text.to_owned();
    let behaviours = [
        Behaviour::ApproveThenDrop,
        Behaviour::ApproveThenHang { ms: 2_500 },
        Behaviour::DropBefore,
        Behaviour::HangBefore { ms: 2_500 },
        Behaviour::ErrorBefore { status: 500, code: code("FAILED_INTERNAL_SYSTEM_PROCESSING") },
        Behaviour::ErrorAfter { status: 500, code: code("FAILED_REFUND_PROCESS") },
        Behaviour::ErrorBefore { status: 400, code: code("PROVIDER_ERROR") },
        Behaviour::ErrorBefore { status: 403, code: code("FORBIDDEN_CONSECUTIVE_REQUEST") },
        Behaviour::ErrorAfter { status: 400, code: code("ALREADY_CANCELED_PAYMENT") },
        Behaviour::HtmlError { status: 502 },
        Behaviour::Garbage,
        Behaviour::InProgressConflict,
        Behaviour::TooManyRequests { retry_after_s: 1 },
    ];
    let runs = behaviours.into_iter().enumerate().map(|(number, behaviour)| {
        let (shop, product) = (&shop, &product);
        async move {
            let (order, payment) = shop.paid(product, 2).await;
            let what = format!("{behaviour:?}");
            shop.mock.script(Rule::cancel(behaviour).for_order(&order.id));
            let body = if number % 2 == 0 {
                json!({ "reason": "all" })
            } else {
                json!({ "reason": "one", "lines": [{ "line": 1, "quantity": 1 }] })
            };
            let answer = shop.cancel(&payment, &body).await;
            assert!(matches!(answer.status, StatusCode::OK | StatusCode::ACCEPTED), "{what}: {}", answer.raw);
            let (status, back) = if number % 2 == 0 { ("canceled", 20_000) } else { ("partially_canceled", 10_000) };
            shop.payment_becomes(&payment, status).await;
            assert_eq!(shop.mock.book().canceled(&order.id), back, "{what}");
        }
    });
    futures_util::future::join_all(runs).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_cancel_gives_the_capacity_back() {
    let shop = Shop::open().await;
    let product = shop.product(10_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    let behaviour = Behaviour::ErrorBefore { status: 403, code: "EXCEED_MAX_REFUND_DUE".to_owned() };
    shop.mock.script(Rule::cancel(behaviour));
    let body = json!({ "reason": "late" });
    let path = format!("/v1/payments/{payment}/cancel");
    let answer = shop.secret.post_as(&path, &body, "k-late").await;
    let answer = answer.problem(StatusCode::CONFLICT, "cancellation_refused");
    assert_eq!(answer.text("refusalClass"), "too_late");
    let replay = shop.secret.post_as(&path, &body, "k-late").await;
    assert_eq!(replay.problem(StatusCode::CONFLICT, "cancellation_refused").raw, answer.raw);
    assert_eq!(shop.payment_now(&payment).await.number("balance"), 10_000);
    assert_eq!(shop.order_now(&order.id).await.text("status"), "paid");
    shop.cancel(&payment, &body).await.expect(StatusCode::OK);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpaid_order_is_canceled_without_the_pg() {
    let shop = Shop::open().await;
    let product = shop.product(10_000, 5).await;
    let order = shop.order(&product, 2).await;
    let path = format!("/v1/orders/{}/cancel", order.id);
    let body = json!({ "reason": "not now" });
    let answer = order.buyer.post_as(&path, &body, "k-1").await.expect(StatusCode::OK);
    assert_eq!(answer.text("status"), "canceled");
    assert_eq!(shop.available(&product).await, 5);
    assert!(order.buyer.post_as(&path, &body, "k-1").await.expect(StatusCode::OK).is_replayed());
    let again = order.buyer.post_as(&path, &body, "k-2").await;
    again.problem(StatusCode::CONFLICT, "order_not_cancelable");
    assert_eq!(shop.available(&product).await, 5);
    let key = shop.mock.pay(&order.id, order.amount);
    let late = shop.confirm(&order, &key).await;
    late.problem(StatusCode::CONFLICT, "order_not_pending");
    assert_eq!(shop.mock.book().calls.confirm, 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_during_the_confirm_is_remembered_and_acted_on() {
    let shop = Shop::with(ShopOptions::waiting_for_the_pg()).await;
    let product = shop.product(10_000, 5).await;
    for (behaviour, end) in [
        (WINDOW, "canceled"),
        (Behaviour::ApproveThenDrop, "canceled"),
        (Behaviour::Decline { code: "REJECT_CARD_COMPANY".to_owned() }, "canceled"),
    ] {
        let order = shop.order(&product, 1).await;
        let key = shop.pay(&order);
        let slow = matches!(behaviour, Behaviour::Decline { .. });
        shop.mock.script(Rule::confirm(behaviour).for_order(&order.id));
        // Nobody learns how it went before the cancel is there, on a busy machine either.
        shop.mock.script(Rule::lookup(WINDOW).for_order(&order.id));
        let body = confirm_body(&order, &key);
        let path = format!("/v1/orders/{}/cancel", order.id);
        let cancel = async {
            if !slow {
                shop.order_becomes(&order.id, "confirming").await;
            }
            order.buyer.post_with_key(&path, &json!({ "reason": "changed my mind" })).await
        };
        let (_, canceled) = tokio::join!(order.buyer.post("/v1/payments/confirm", &body), cancel);
        assert!(
            matches!(canceled.status, StatusCode::OK | StatusCode::ACCEPTED),
            "{} {}",
            canceled.status,
            canceled.raw
        );
        shop.order_becomes(&order.id, end).await;
        assert_eq!(shop.mock.book().net(&order.id), 0);
    }
    assert_eq!(shop.available(&product).await, 5);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_in_the_pgs_own_console_reaches_our_books() {
    let shop = Shop::open().await;
    let product = shop.product(10_000, 5).await;
    let (order, payment) = shop.paid(&product, 2).await;
    let key = shop.payment_key(&order.id);
    shop.mock.cancel_in_console(&key, 5_000);
    shop.payment_becomes(&payment, "partially_canceled").await;
    let now = shop.payment_now(&payment).await;
    assert_eq!(now.body["cancellations"][0]["origin"], "external");
    assert_eq!(shop.available(&product).await, 3, "a part by amount moves no stock");
    shop.mock.cancel_in_console(&key, 15_000);
    shop.order_becomes(&order.id, "canceled").await;
    assert_eq!(shop.available(&product).await, 5);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_paid_is_canceled_by_giving_its_payment_back() {
    let shop = Shop::open().await;
    let product = shop.product(10_000, 5).await;
    let (order, _) = shop.paid(&product, 1).await;
    let path = format!("/v1/orders/{}/cancel", order.id);
    let body = json!({ "reason": "recall" });
    let buyer = order.buyer.post_with_key(&path, &body).await;
    buyer.problem(StatusCode::FORBIDDEN, "forbidden");
    let answer = shop.secret.post_as(&path, &body, "k-1").await.expect(StatusCode::OK);
    assert_eq!(answer.text("status"), "canceled");
    let replay = shop.secret.post_as(&path, &body, "k-1").await.expect(StatusCode::OK);
    assert!(replay.is_replayed());
    assert_eq!(shop.mock.book().canceled(&order.id), 10_000);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_cancel_repeated_by_its_key_shows_how_it_ended() {
    let shop = Shop::with(ShopOptions::waiting_for_the_pg()).await;
    let product = shop.product(10_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(WINDOW));
    let path = format!("/v1/orders/{}/cancel", order.id);
    let body = json!({ "reason": "changed my mind" });
    let cancel = async {
        shop.order_becomes(&order.id, "confirming").await;
        order.buyer.post_as(&path, &body, "wish").await
    };
    let (_, remembered) = tokio::join!(shop.confirm(&order, &key), cancel);
    let remembered = remembered.expect(StatusCode::ACCEPTED);
    assert_eq!(remembered.body["cancelRequested"], true);
    shop.order_becomes(&order.id, "canceled").await;
    let again = order.buyer.post_as(&path, &body, "wish").await.expect(StatusCode::OK);
    assert_eq!(again.text("status"), "canceled");
    assert!(again.is_replayed());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_cancel_that_collides_with_ours_is_booked_and_ours_is_refused() {
    let shop = Shop::without_worker().await;
    let product = shop.product(10_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    shop.mock.script(Rule::cancel(Behaviour::DropBefore));
    let answer = shop.cancel(&payment, &json!({ "reason": "all of it" })).await.expect(StatusCode::ACCEPTED);
    let cancellation = answer.text("id");
    shop.mock.cancel_in_console(&shop.payment_key(&order.id), 4_000);
    shop.sql("update cancellations set inquire_at = now() where inquire_at is not null").await;
    paygauge::payments::recovery::recover_batch(shop.running.app()).await.expect("a batch");
    let ours = shop.secret.get(&format!("/v1/cancellations/{cancellation}")).await.expect(StatusCode::OK);
    assert_eq!(ours.text("status"), "refused");
    let now = shop.payment_now(&payment).await;
    assert_eq!((now.number("canceledAmount"), now.number("balance")), (4_000, 6_000));
    assert_eq!(shop.available(&product).await, 4);
    shop.close().await;
}
