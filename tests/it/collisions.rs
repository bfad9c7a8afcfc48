//! Collisions: two things happen to one payment at a time, or in an order that nobody planned, and the books still agree.

use std::time::Duration;

use paygauge::payments::resolve::Change;
use paygauge::payments::{expire, recovery, webhook};
use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::shop::{PATIENCE, Shop, ShopOptions, WINDOW, confirm_body, http};

fn error_before(status: u16, code: &str) -> Behaviour {
    Behaviour::ErrorBefore { status, code: code.to_owned() }
}

/// One round of recovery over everything that is open.
async fn recover(shop: &Shop) {
    for table in ["payments", "cancellations"] {
        shop.sql(&format!("update {table} set inquire_at = now(), lease_until = null where inquire_at is not null"))
            .await;
    }
    recovery::recover_batch(shop.running.app()).await.expect("a batch");
}

async fn deliver(shop: &Shop, body: &Value) {
    let sent = http().post(format!("{}/v1/webhooks/toss", shop.base)).json(body).send().await.expect("an answer");
    assert_eq!(sent.status(), StatusCode::OK);
}

async fn read_webhooks(shop: &Shop) {
    webhook::apply_batch(shop.running.app()).await.expect("a batch");
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
    let shop = Shop::with(ShopOptions { webhooks: false, ..ShopOptions::waiting_for_the_pg() }).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::HangBefore { ms: 3_000 }));
    let forged = json!({ "eventType": "PAYMENT_STATUS_CHANGED", "data": { "paymentKey": key, "status": "DONE" } });
    let notice = async {
        shop.order_becomes(&order.id, "confirming").await;
        deliver(&shop, &forged).await;
        eventually("the notice is read", PATIENCE, async || {
            (shop.count("select count(*) from webhook_inbox where processed_at is not null").await == 1).then_some(())
        })
        .await;
        // Recovery goes by these two columns: the intent still belongs to its request.
        let left_alone = "select count(*) from payments where doubt is null and inquire_at > now()";
        assert_eq!(shop.count(left_alone).await, 1);
        (shop.mock.book().calls.confirm, shop.kinds(&order.id).await)
    };
    let (_, (confirms, kinds)) = tokio::join!(shop.confirm(&order, &key), notice);
    assert_eq!(confirms, 1, "the request still owns its confirm");
    assert!(!kinds.contains(&"PaymentOutcomeUnknown".to_owned()), "{kinds:?}");
    shop.order_becomes(&order.id, "paid").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reversal_ends_when_the_money_went_back_by_hand() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    for by_hand in [20_000, 5_000] {
        let order = shop.order(&product, 1).await;
        let key = shop.pay(&order);
        shop.mock.script(Rule::confirm(Behaviour::MismatchedAmount { amount: 20_000 }));
        let answer = shop.confirm(&order, &key).await.problem(StatusCode::CONFLICT, "payment_reversed");
        let payment = answer.text("paymentId");
        shop.mock.script(Rule::cancel(error_before(403, "NOT_CANCELABLE_PAYMENT")));
        recover(&shop).await;
        assert_eq!(shop.payment_now(&payment).await.text("status"), "reversing");
        shop.mock.cancel_in_console(&key, by_hand);
        shop.mock.clear_script();
        recover(&shop).await;
        recover(&shop).await;
        assert_eq!(shop.payment_now(&payment).await.text("status"), "canceled", "{by_hand} by hand");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_that_was_never_sent_is_not_being_checked_once_its_order_has_ended() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let (first, second) = (shop.order(&product, 1).await, shop.order(&product, 1).await);
    let (one, two) = (shop.pay(&first), shop.pay(&second));
    for (order, key) in [(&first, &one), (&second, &two)] {
        shop.mock.script(Rule::confirm(Behaviour::TooManyRequests { retry_after_s: 1 }));
        shop.confirm(order, key).await.problem(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable");
    }
    let path = format!("/v1/orders/{}/cancel", second.id);
    second.buyer.post_with_key(&path, &json!({ "reason": "no" })).await.expect(StatusCode::OK);
    shop.sql("update orders set hold_expires_at = now() - interval '1 second'").await;
    let over = shop.confirm(&first, &one).await;
    assert_eq!(over.body["code"], "order_expired", "{}", over.raw);
    expire::expire_batch(shop.running.app(), None).await.expect("a batch");
    let expired = shop.confirm(&first, &one).await;
    assert_eq!(expired.body["code"], "order_expired", "{}", expired.raw);
    shop.confirm(&second, &two).await.problem(StatusCode::CONFLICT, "order_not_pending");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_view_of_an_account_does_not_undo_its_deposit() {
    let shop = Shop::with(ShopOptions { worker: false, webhooks: false, ..ShopOptions::waiting_for_the_pg() }).await;
    let product = shop.product(12_000, 5).await;
    let (order, key, _) = shop.awaiting_deposit(&product).await;
    // This inquiry sees the account before the deposit, and is told so after it.
    shop.mock.script(Rule::lookup(WINDOW));
    let before = shop.mock.book().calls.lookup;
    let deposit = async {
        eventually("the inquiry is on its way", PATIENCE, async || {
            (shop.mock.book().calls.lookup > before).then_some(())
        })
        .await;
        shop.mock.deposit(&key);
        deliver(&shop, &shop.mock.webhook_body(&key)).await;
        read_webhooks(&shop).await;
        assert_eq!(shop.order_now(&order.id).await.text("status"), "paid");
    };
    tokio::join!(recover(&shop), deposit);
    assert_eq!(shop.order_now(&order.id).await.text("status"), "paid");
    assert!(!shop.kinds(&order.id).await.contains(&"PaymentDepositReversed".to_owned()));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_view_of_a_deposit_does_not_pay_the_order_after_the_bank_took_it_back() {
    let shop = Shop::with(ShopOptions { worker: false, webhooks: false, ..ShopOptions::waiting_for_the_pg() }).await;
    let product = shop.product(12_000, 5).await;
    let (order, key, payment) = shop.awaiting_deposit(&product).await;
    shop.mock.deposit(&key);
    deliver(&shop, &shop.mock.webhook_body(&key)).await;
    read_webhooks(&shop).await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "paid");
    // This inquiry sees the deposit, and is told so after the bank has taken it back.
    shop.mock.script(Rule::lookup(WINDOW));
    let before = shop.mock.book().calls.lookup;
    let reversal = async {
        eventually("the inquiry is on its way", PATIENCE, async || {
            (shop.mock.book().calls.lookup > before).then_some(())
        })
        .await;
        shop.mock.reverse_deposit(&key);
        deliver(&shop, &shop.mock.webhook_body(&key)).await;
        read_webhooks(&shop).await;
        assert_eq!(shop.order_now(&order.id).await.text("status"), "awaiting_deposit");
    };
    let look = async {
        shop.secret.post(&format!("/v1/payments/{payment}/inquire"), &json!({})).await.expect(StatusCode::OK);
    };
    tokio::join!(look, reversal);
    assert_eq!(shop.order_now(&order.id).await.text("status"), "awaiting_deposit");
    // It is looked at again at once, not when the account is polled the next time.
    eventually("the account is due", PATIENCE, async || {
        (shop.count("select count(*) from payments where inquire_at <= now() + interval '1 second'").await == 1)
            .then_some(())
    })
    .await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_cancel_of_an_order_is_replayed_after_the_order_has_expired() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let (order, ..) = shop.awaiting_deposit(&product).await;
    shop.mock.script(Rule::cancel(error_before(403, "NOT_CANCELABLE_PAYMENT")));
    let (path, body) = (format!("/v1/orders/{}/cancel", order.id), json!({ "reason": "no" }));
    let first = order.buyer.post_as(&path, &body, "k-1").await;
    let first = first.problem(StatusCode::CONFLICT, "cancellation_refused");
    shop.sql("update payments set deposit_due_at = now() - interval '1 hour'").await;
    recover(&shop).await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "expired");
    let again = order.buyer.post_as(&path, &body, "k-1").await;
    assert_eq!(again.problem(StatusCode::CONFLICT, "cancellation_refused").raw, first.raw);
    assert_eq!(shop.available(&product).await, 5);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_cancel_closes_the_account_that_was_issued_meanwhile() {
    let shop = Shop::with(ShopOptions::waiting_for_the_pg()).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.mock.pay_by_virtual_account(&order.id, order.amount);
    shop.mock.script(Rule::confirm(WINDOW));
    let path = format!("/v1/orders/{}/cancel", order.id);
    let wish = async {
        shop.order_becomes(&order.id, "confirming").await;
        order.buyer.post_with_key(&path, &json!({ "reason": "too slow" })).await.expect(StatusCode::ACCEPTED);
    };
    let (_, ()) = tokio::join!(shop.confirm(&order, &key), wish);
    shop.order_becomes(&order.id, "canceled").await;
    assert_eq!(shop.available(&product).await, 5);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_dropped_half_way_holds_no_lock_and_no_connection() {
    use paygauge::db::{DbError, orders};
    use paygauge::telemetry::labels::Tx;

    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let id: paygauge::domain::ids::OrderId = order.id.parse().expect("an id");
    for _ in 0..10 {
        let work = shop.running.app().db.transaction(Tx::Lease, async |conn| {
            orders::lock(conn, id).await?;
            tokio::time::sleep(Duration::from_secs(20)).await;
            Ok::<_, DbError>(())
        });
        assert!(
            tokio::time::timeout(Duration::from_millis(100), work).await.is_err(),
            "dropped while it holds the lock"
        );
    }
    let key = shop.pay(&order);
    shop.confirm(&order, &key).await.expect(StatusCode::OK);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_over_is_not_confirmed_although_nobody_has_swept_it() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.sql("update orders set hold_expires_at = now() - interval '1 second'").await;
    let late = shop.confirm(&order, &key).await;
    assert_eq!(late.body["code"], "order_expired", "{}", late.raw);
    assert_eq!(shop.mock.book().calls.confirm, 0);
    expire::expire_batch(shop.running.app(), None).await.expect("a batch");
    assert_eq!(shop.available(&product).await, 5);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_that_is_not_the_one_we_know_stops_a_cancel_until_we_have_looked() {
    let shop = Shop::without_worker().await;
    let product = shop.product(10_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    shop.mock.cancel_in_console(&shop.payment_key(&order.id), 3_000);
    let answer =
        shop.cancel(&payment, &json!({ "reason": "part", "amount": 5_000 })).await.expect(StatusCode::ACCEPTED);
    assert_eq!(shop.mock.book().canceled(&order.id), 3_000, "the PG refused the balance of our books");
    recover(&shop).await;
    let ours = shop.secret.get(&format!("/v1/cancellations/{}", answer.text("id"))).await.expect(StatusCode::OK);
    assert_eq!(ours.text("status"), "done");
    assert_eq!(shop.payment_now(&payment).await.number("canceledAmount"), 8_000);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_cancel_is_repeated_under_a_new_key_once_the_balance_it_named_is_another() {
    let shop = Shop::without_worker().await;
    let product = shop.product(10_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    shop.mock.script(Rule::cancel(Behaviour::DropBefore));
    let body = json!({ "reason": "part", "amount": 5_000 });
    let answer = shop.cancel(&payment, &body).await.expect(StatusCode::ACCEPTED);
    shop.mock.cancel_in_console(&shop.payment_key(&order.id), 3_000);
    recover(&shop).await;
    let id = answer.text("id");
    let ours = shop.secret.get(&format!("/v1/cancellations/{id}")).await.expect(StatusCode::OK);
    assert_eq!(ours.text("status"), "done");
    assert_eq!(shop.mock.book().canceled(&order.id), 8_000);
    let book = shop.mock.book();
    let bodies = |attempt: u8| book.calls.idempotency_keys[&format!("{id}:{attempt}")].body_hashes.len();
    assert_eq!((bodies(1), bodies(2)), (1, 1));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_close_of_an_account_is_repeated_as_it_was_although_the_buyer_named_a_refund_account() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let (order, _, payment) = shop.awaiting_deposit(&product).await;
    let account = json!({ "bankCode": "88", "accountNumber": "110123456789", "holder": "Kim" });
    shop.mock.script(Rule::cancel(Behaviour::DropBefore));
    let body = json!({ "reason": "no more", "refundAccount": account });
    let answer = shop.cancel(&payment, &body).await.expect(StatusCode::ACCEPTED);
    recover(&shop).await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "canceled");
    let book = shop.mock.book();
    let key = &book.calls.idempotency_keys[&format!("{}:1", answer.text("id"))];
    assert_eq!((key.calls, key.body_hashes.len()), (2, 1));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_that_did_nothing_is_not_sent_again_once_a_cancel_was_asked_for() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::DropBefore));
    shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
    let path = format!("/v1/orders/{}/cancel", order.id);
    order.buyer.post_with_key(&path, &json!({ "reason": "no" })).await.expect(StatusCode::ACCEPTED);
    recover(&shop).await;
    assert_eq!(shop.mock.book().calls.confirm, 1);
    shop.mock.expire(&key);
    recover(&shop).await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "canceled");
    assert_eq!(shop.available(&product).await, 5);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decline_after_the_hold_has_ended_ends_the_order() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::DropBefore));
    shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
    shop.sql("update orders set hold_expires_at = now() - interval '1 second'").await;
    shop.mock.expire(&key);
    recover(&shop).await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "expired");
    assert_eq!(shop.available(&product).await, 5);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_whose_account_was_lost_is_refused_after_the_quarantine_and_can_be_asked_for_again() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let (order, key, payment) = shop.awaiting_deposit(&product).await;
    shop.mock.deposit(&key);
    recover(&shop).await;
    let account = json!({ "bankCode": "88", "accountNumber": "110123456789", "holder": "Kim" });
    let body = json!({ "reason": "back", "refundAccount": account });
    shop.mock.script(Rule::cancel(Behaviour::DropBefore));
    shop.cancel(&payment, &body).await.expect(StatusCode::ACCEPTED);
    recover(&shop).await;
    assert_eq!(shop.payment_now(&payment).await.number("balance"), 0, "it may still be on its way");
    tokio::time::sleep(shop.running.app().settings.not_found_quarantine).await;
    for _ in 0..2 {
        recover(&shop).await;
    }
    let now = shop.payment_now(&payment).await;
    assert_eq!(now.body["cancellations"][0]["status"], "refused");
    assert_eq!((now.number("balance"), shop.mock.book().calls.cancel), (12_000, 1));
    shop.cancel(&payment, &body).await.expect(StatusCode::OK);
    assert_eq!(shop.mock.book().net(&order.id), 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_the_pg_does_not_know_stays_open_until_the_quarantine_is_over() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let body = confirm_body(&order, "no-such-payment-at-the-pg");
    shop.mock.script(Rule::confirm(Behaviour::DropBefore));
    order.buyer.post("/v1/payments/confirm", &body).await.expect(StatusCode::ACCEPTED);
    for _ in 0..3 {
        recover(&shop).await;
    }
    assert_eq!(shop.order_now(&order.id).await.text("status"), "confirming");
    tokio::time::sleep(shop.running.app().settings.not_found_quarantine).await;
    recover(&shop).await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "confirming", "seen once only");
    recover(&shop).await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "pending");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_into_an_account_that_we_closed_goes_back() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    for closed_by_us in [true, false] {
        let (order, key, payment) = shop.awaiting_deposit(&product).await;
        if closed_by_us {
            shop.cancel(&payment, &json!({ "reason": "changed my mind" })).await.expect(StatusCode::OK);
        } else {
            shop.mock.cancel_in_console(&key, 12_000);
            recover(&shop).await;
        }
        let closed = shop.payment_now(&payment).await;
        assert_eq!((closed.text("status").as_str(), closed.number("canceledAmount")), ("canceled", 0));
        shop.mock.deposit_anyway(&key, 12_000);
        deliver(&shop, &shop.mock.webhook_body(&key)).await;
        read_webhooks(&shop).await;
        assert_eq!(shop.payment_now(&payment).await.text("status"), "reversing");
        assert_eq!(shop.order_now(&order.id).await.text("status"), "canceled");
        // A deposit goes back only to an account of the buyer's, which a person of the shop asks for.
        recover(&shop).await;
        shop.mock.cancel_in_console(&key, 12_000);
        recover(&shop).await;
        let back = shop.payment_now(&payment).await;
        assert_eq!((back.text("status").as_str(), back.number("canceledAmount")), ("canceled", 12_000));
        assert_eq!((shop.available(&product).await, shop.mock.book().net(&order.id)), (5, 0));
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_that_is_too_small_is_booked_beside_an_open_close_of_its_account() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    for taken in [5_000, 15_000] {
        let (order, key, payment) = shop.awaiting_deposit(&product).await;
        let failing = error_before(500, "FAILED_INTERNAL_SYSTEM_PROCESSING");
        shop.mock.script(Rule::cancel(failing));
        let open = shop.cancel(&payment, &json!({ "reason": "changed my mind" })).await;
        let cancellation = open.expect(StatusCode::ACCEPTED).text("id");
        shop.mock.deposit_anyway(&key, taken);
        deliver(&shop, &shop.mock.webhook_body(&key)).await;
        read_webhooks(&shop).await;
        let now = shop.payment_now(&payment).await;
        assert_eq!((now.text("status").as_str(), now.number("approvedAmount")), ("reversing", taken));
        let now = shop.secret.get(&format!("/v1/cancellations/{cancellation}")).await.expect(StatusCode::OK);
        assert_eq!(now.number("amount"), taken.min(12_000));
        for _ in 0..2 {
            recover(&shop).await;
        }
        shop.mock.cancel_in_console(&key, taken);
        for _ in 0..3 {
            recover(&shop).await;
        }
        assert_eq!(shop.payment_now(&payment).await.text("status"), "canceled");
        assert_eq!((shop.available(&product).await, shop.mock.book().net(&order.id)), (5, 0));
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_cancel_takes_what_a_console_cancel_left() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::ApproveThenDrop));
    let payment = shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED).text("id");
    let path = format!("/v1/orders/{}/cancel", order.id);
    order.buyer.post_with_key(&path, &json!({ "reason": "no" })).await.expect(StatusCode::ACCEPTED);
    // The PG's console comes first, and the wish asks for more than is left.
    shop.mock.script(Rule::cancel(error_before(500, "FAILED_INTERNAL_SYSTEM_PROCESSING")));
    recover(&shop).await;
    recover(&shop).await;
    shop.mock.cancel_in_console(&key, 4_000);
    for _ in 0..3 {
        recover(&shop).await;
    }
    let now = shop.payment_now(&payment).await;
    assert_eq!((now.text("status").as_str(), now.number("canceledAmount")), ("canceled", 12_000));
    assert_eq!(
        (shop.order_now(&order.id).await.text("status"), shop.available(&product).await),
        ("canceled".into(), 5)
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_was_decided_meanwhile_is_not_sent_again() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let (_, payment) = shop.paid(&product, 1).await;
    shop.mock.script(Rule::cancel(Behaviour::DropBefore));
    let open = shop.cancel(&payment, &json!({ "reason": "part", "amount": 4_000 })).await.expect(StatusCode::ACCEPTED);
    let (app, id) = (shop.running.app(), open.text("id").parse().expect("an id"));
    let old = app.db.read(async |conn| paygauge::db::cancellations::find(conn, id).await).await;
    let old = old.expect("a read").expect("a cancellation");
    shop.mock.script(Rule::cancel(Behaviour::Decline { code: "NOT_CANCELABLE_PAYMENT".to_owned() }));
    recover(&shop).await;
    let asked = shop.mock.book().calls.cancel;
    let origin = paygauge::db::events::Origin { actor: "test".to_owned(), trace_id: None };
    let change = recovery::recover_cancel(app, &old, &origin).await.expect("no error");
    assert_eq!((change, shop.mock.book().calls.cancel), (Change::Nothing, asked));
    shop.close().await;
}
