//! Reconciliation: whatever the PG's books and ours disagree on is found once, repaired if evidence alone can repair
//! it, and left to a person otherwise; and books that agree are never called into question.

mod findings;
mod missing;
mod runs;

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use paygauge::config::Settings;
use paygauge::db::events::Origin;
use paygauge::payments::reconcile::{self, Report, Span};
use paygauge::payments::recovery;
use paygauge::telemetry::labels::ReconcileOutcome;
use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::invariants;
use crate::support::shop::{Shop, ShopOptions, http, settings as short};

/// Nothing has to settle, a page has two rows, and an intent without an outcome is looked at, at once.
fn settings() -> Settings {
    Settings { reconcile_settle: Duration::ZERO, reconcile_patience: Duration::ZERO, reconcile_page_rows: 2, ..short() }
}

/// A shop in which nobody notices anything but by reconciling.
async fn deaf(settings: Settings) -> Shop {
    Shop::with(ShopOptions { worker: false, webhooks: false, settings, ..ShopOptions::default() }).await
}

fn origin() -> Origin {
    Origin { actor: "test".to_owned(), trace_id: Some("trace-of-the-run".to_owned()) }
}

/// The whole of the last hour, and a little more than now.
fn lately() -> Span {
    Span::Between { from: Utc::now() - TimeDelta::hours(1), until: Utc::now() + TimeDelta::seconds(5) }
}

async fn run(shop: &Shop) -> Report {
    reconcile::run(shop.running.app(), lately(), &origin()).await.expect("a run")
}

/// Runs, and runs again: the second run finds, repairs and writes nothing new.
async fn run_twice(shop: &Shop) -> Report {
    let first = run(shop).await;
    assert_eq!(first.outcome, ReconcileOutcome::Complete, "{:?}", first.trouble);
    let before = written(shop).await;
    let second = run(shop).await;
    assert_eq!((second.outcome, second.filed, second.repaired), (ReconcileOutcome::Complete, 0, 0));
    assert_eq!(written(shop).await, before, "the second run adds nothing");
    first
}

/// Everything that a run could write twice.
async fn written(shop: &Shop) -> (i64, i64, i64, i64) {
    (
        shop.count("select count(*) from findings").await,
        shop.count("select count(*) from finding_history").await,
        shop.count("select count(*) from events").await,
        shop.count("select count(*) from cancellations").await,
    )
}

/// All findings as the API shows them, oldest first.
async fn all(shop: &Shop) -> Vec<Value> {
    let answer = shop.secret.get("/v1/findings?limit=100").await.expect(StatusCode::OK);
    let mut items = answer.body["items"].as_array().expect("items").clone();
    items.reverse();
    items
}

/// All findings as kind, status and amount.
async fn brief(shop: &Shop) -> Vec<(String, String, i64)> {
    let text = |finding: &Value, field: &str| finding[field].as_str().expect("a text").to_owned();
    let of = |finding: &Value| {
        (text(finding, "kind"), text(finding, "status"), finding["amount"].as_i64().unwrap_or_default())
    };
    all(shop).await.iter().map(of).collect()
}

fn one(kind: &str, status: &str, amount: i64) -> Vec<(String, String, i64)> {
    vec![(kind.to_owned(), status.to_owned(), amount)]
}

/// One round of recovery over everything that is open.
async fn recover(shop: &Shop) {
    for table in ["payments", "cancellations"] {
        shop.sql(&format!("update {table} set inquire_at = now(), lease_until = null where inquire_at is not null"))
            .await;
    }
    recovery::recover_batch(shop.running.app()).await.expect("a batch");
}

/// Speaks to the PG behind our back, with the shop's own key.
async fn at_the_pg(shop: &Shop, path: &str, body: &Value) {
    let request = http().post(format!("{}{path}", shop.mock.url())).basic_auth("test_sk_mock", Some("")).json(body);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.text().await);
}

/// Has the PG take the money of an authenticated payment without us.
async fn confirm_there(shop: &Shop, key: &str, order: &str, amount: i64) {
    let body = json!({ "paymentKey": key, "orderId": order, "amount": amount });
    at_the_pg(shop, "/v1/payments/confirm", &body).await;
}

/// Ends a shop whose PG holds other money than our books on purpose: only our own rows must be in order.
async fn close_disagreeing(shop: Shop) {
    invariants::rules(&shop.database).await;
    shop.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_in_the_console_whose_webhook_is_lost_is_booked_once() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, payment) = shop.paid(&product, 2).await;
    shop.mock.cancel_in_console(&shop.payment_key(&order.id), 24_000);
    let report = run_twice(&shop).await;
    assert_eq!((report.filed, report.repaired, report.transactions), (1, 1, 2));
    assert_eq!(brief(&shop).await, one("canceled_there_only", "repaired", 24_000));
    let now = shop.payment_now(&payment).await;
    assert_eq!((now.text("status"), now.number("canceledAmount")), ("canceled".to_owned(), 24_000));
    assert_eq!(now.body["cancellations"][0]["origin"], "external");
    assert_eq!(shop.order_now(&order.id).await.text("status"), "canceled");
    assert_eq!(shop.available(&product).await, 5);
    let finding = all(&shop).await.remove(0);
    assert_eq!((&finding["paymentId"], &finding["orderId"]), (&json!(payment), &json!(order.id)));
    assert_eq!(finding["transactionKey"], json!(shop.mock.book().payments[0].cancels[0].transaction_key));
    assert_eq!(finding["traceId"], shop.payment_now(&payment).await.body["traceId"]);
    assert!(finding["ageSeconds"].is_i64() && finding["occurredAt"].is_string(), "{finding}");
    let path = format!("/v1/payments/{payment}/explain");
    let explained = shop.secret.get(&path).await.expect(StatusCode::OK);
    assert_eq!(explained.body["findings"][0]["id"], finding["id"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_cancels_in_the_console_are_one_finding_each() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    let key = shop.payment_key(&order.id);
    shop.cancel(&payment, &json!({ "reason": "ours", "amount": 1_000 })).await.expect(StatusCode::OK);
    shop.mock.cancel_in_console(&key, 3_000);
    shop.mock.cancel_in_console(&key, 4_000);
    assert_eq!(run_twice(&shop).await.repaired, 2);
    let expected = [3_000, 4_000].map(|amount| one("canceled_there_only", "repaired", amount).remove(0));
    assert_eq!(brief(&shop).await, expected);
    assert_eq!(shop.payment_now(&payment).await.number("canceledAmount"), 8_000);
    assert_eq!(shop.available(&product).await, 4, "an amount brings no unit back");
    shop.mock.cancel_in_console(&key, 4_000);
    assert_eq!(run_twice(&shop).await.repaired, 1);
    assert_eq!(shop.available(&product).await, 5);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_whose_answer_was_lost_is_booked() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::ApproveThenDrop));
    shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
    assert_eq!(run_twice(&shop).await.repaired, 1);
    assert_eq!(brief(&shop).await, one("missing_here", "repaired", 12_000));
    assert_eq!(shop.order_now(&order.id).await.text("status"), "paid");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_cancel_whose_answer_was_lost_is_booked_as_ours() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (_, payment) = shop.paid(&product, 1).await;
    shop.mock.script(Rule::cancel(Behaviour::ApproveThenDrop));
    shop.cancel(&payment, &json!({ "reason": "back", "amount": 2_000 })).await.expect(StatusCode::ACCEPTED);
    assert_eq!(run_twice(&shop).await.repaired, 1);
    let now = shop.payment_now(&payment).await;
    let cancels = now.body["cancellations"].as_array().expect("cancellations");
    assert_eq!((cancels.len(), &cancels[0]["origin"], &cancels[0]["status"]), (1, &json!("request"), &json!("done")));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_with_another_amount_there_waits_for_a_person_until_the_books_agree() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, payment) = shop.paid(&product, 1).await;
    let key = shop.payment_key(&order.id);
    shop.mock.rebook(&key, 13_000);
    let report = run_twice(&shop).await;
    assert_eq!((report.filed, report.repaired), (1, 0));
    assert_eq!(brief(&shop).await, one("amount_differs", "waiting", 13_000));
    assert_eq!(shop.payment_now(&payment).await.text("status"), "approved", "no state is argued with");
    shop.mock.rebook(&key, 12_000);
    assert_eq!(run_twice(&shop).await.repaired, 1);
    assert_eq!(brief(&shop).await, one("amount_differs", "repaired", 13_000));
    shop.mock.rebook(&key, 13_000);
    assert_eq!(run_twice(&shop).await.filed, 0, "the same difference is the same finding");
    assert_eq!(brief(&shop).await, one("amount_differs", "waiting", 13_000));
    shop.mock.rebook(&key, 12_000);
    run_twice(&shop).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_on_a_payment_that_was_declined_here_goes_back() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    let declined = Behaviour::ErrorBefore { status: 403, code: "REJECT_CARD_PAYMENT".to_owned() };
    shop.mock.script(Rule::confirm(declined));
    let answer = shop.confirm(&order, &key).await.expect(StatusCode::PAYMENT_REQUIRED);
    confirm_there(&shop, &key, &order.id, order.amount).await;
    assert_eq!(run_twice(&shop).await.repaired, 1);
    assert_eq!(brief(&shop).await, one("late_approval", "repaired", 12_000));
    let payment = answer.text("paymentId");
    assert_eq!(shop.payment_now(&payment).await.text("status"), "reversing");
    recover(&shop).await;
    assert_eq!(shop.payment_now(&payment).await.text("status"), "canceled");
    assert_eq!((shop.mock.book().net(&order.id), run_twice(&shop).await.filed), (0, 0));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_after_the_account_was_given_up_goes_back_or_waits_for_its_account() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, key, payment) = shop.awaiting_deposit(&product).await;
    shop.sql("update payments set deposit_due_at = now() - interval '1 hour'").await;
    recover(&shop).await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "expired");
    assert_eq!(run_twice(&shop).await.filed, 0, "an account without money is no difference");
    shop.mock.deposit(&key);
    assert_eq!(run_twice(&shop).await.repaired, 1);
    assert_eq!(brief(&shop).await, one("late_approval", "repaired", 12_000));
    assert_eq!(shop.payment_now(&payment).await.text("status"), "reversing");
    shop.mock.cancel_in_console(&key, 12_000);
    recover(&shop).await;
    assert_eq!(shop.payment_now(&payment).await.text("status"), "canceled");
    assert_eq!(run_twice(&shop).await.filed, 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_account_is_followed_through_its_deposit_its_loss_and_its_end() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (order, key, _) = shop.awaiting_deposit(&product).await;
    assert_eq!(run_twice(&shop).await.filed, 0);
    shop.mock.deposit(&key);
    assert_eq!(run_twice(&shop).await.repaired, 1);
    assert_eq!(shop.order_now(&order.id).await.text("status"), "paid");
    // The list has whole seconds: what the bank takes back within the second of its deposit looks older.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    shop.mock.reverse_deposit(&key);
    assert_eq!(run_twice(&shop).await.repaired, 1);
    assert_eq!(shop.order_now(&order.id).await.text("status"), "awaiting_deposit");
    at_the_pg(&shop, &format!("/v1/payments/{key}/cancel"), &json!({ "cancelReason": "closed by hand" })).await;
    assert_eq!(run_twice(&shop).await.repaired, 1);
    assert_eq!(shop.order_now(&order.id).await.text("status"), "canceled");
    assert_eq!(shop.available(&product).await, 5);
    let kinds: Vec<String> =
        brief(&shop).await.into_iter().map(|(kind, status, _)| format!("{kind} {status}")).collect();
    assert_eq!(kinds, ["missing_here repaired", "missing_there repaired", "canceled_there_only repaired"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_close_of_an_account_that_got_a_deposit_after_all_is_no_missing_cancel() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    let (_, key, payment) = shop.awaiting_deposit(&product).await;
    shop.cancel(&payment, &json!({ "reason": "changed my mind" })).await.expect(StatusCode::OK);
    assert_eq!(run_twice(&shop).await.filed, 0);
    shop.mock.deposit_anyway(&key, 12_000);
    assert_eq!(run_twice(&shop).await.filed, 1);
    assert_eq!(brief(&shop).await, one("late_approval", "repaired", 12_000));
    assert_eq!(shop.payment_now(&payment).await.text("status"), "reversing");
    shop.mock.cancel_in_console(&key, 12_000);
    recover(&shop).await;
    assert_eq!(shop.payment_now(&payment).await.text("status"), "canceled");
    assert_eq!(run_twice(&shop).await.filed, 0);
    shop.close().await;
}
