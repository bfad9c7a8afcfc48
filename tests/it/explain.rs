//! Why a payment is where it is, and asking the PG about it now: told for every state, by evidence only.

use std::process::Command;

use paygauge::config::Settings;
use paygauge::provider::protection::Limits;
use paygauge::telemetry::labels::ProviderOperation;
use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::protection::{rows, turned_away};
use crate::support::eventually;
use crate::support::shop::{Answer, Client, Order, PATIENCE, Shop, ShopOptions, settings};

async fn explain(shop: &Shop, payment: &str) -> Answer {
    shop.secret.get(&format!("/v1/payments/{payment}/explain")).await.expect(StatusCode::OK)
}

/// Asks the PG now; panics if something else was learnt.
async fn inquire(shop: &Shop, payment: &str, learnt: &str) -> Answer {
    let answer = shop.secret.post(&format!("/v1/payments/{payment}/inquire"), &Value::Null).await;
    let answer = answer.expect(StatusCode::OK);
    assert_eq!(answer.text("learnt"), learnt, "{}", answer.raw);
    answer
}

/// Asks once more: nothing is learnt, and no row changes.
async fn inquire_again(shop: &Shop, payment: &str) {
    let before = rows(shop).await;
    inquire(shop, payment, "nothing").await;
    assert_eq!(rows(shop).await, before, "the same evidence twice changes nothing");
}

#[track_caller]
fn says(explanation: &Value, status: &str, awaits: &str, buyer: &str, actions: &[&str]) {
    assert_eq!((&explanation["status"], &explanation["awaits"]), (&json!(status), &json!(awaits)), "{explanation}");
    assert!(explanation["buyerSees"].as_str().is_some_and(|sees| sees.contains(buyer)), "{explanation}");
    let all = explanation["actions"].as_array().expect("actions");
    let names: Vec<&str> = all.iter().filter_map(|action| action["action"].as_str()).collect();
    assert_eq!(names, actions, "{explanation}");
}

/// The actors of a payment's and its cancellations' events, by kind.
fn actor_of<'a>(explanation: &'a Value, kind: &str) -> &'a str {
    let events = explanation["evidence"].as_array().expect("evidence");
    let event = events.iter().rev().find(|event| event["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"));
    event["actor"].as_str().expect("an actor")
}

/// An order whose confirm came to `answer`; with its payment.
async fn confirmed(shop: &Shop, with: Option<Behaviour>, status: StatusCode) -> (Order, String) {
    let product = shop.product(12_000, 10).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    if let Some(behaviour) = with {
        shop.mock.script(Rule::confirm(behaviour).for_order(&order.id));
    }
    shop.confirm(&order, &key).await.expect(status);
    let payment = shop.order_now(&order.id).await.text("paymentId");
    (order, payment)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_payment_awaits_nothing_and_shows_its_evidence() {
    let shop = Shop::without_worker().await;
    let (order, payment) = confirmed(&shop, None, StatusCode::OK).await;
    let told = explain(&shop, &payment).await;
    says(&told.body, "approved", "nothing", "paid", &["inquire", "cancel"]);
    assert_eq!(
        (told.text("paymentId"), told.text("orderId"), told.text("orderStatus")),
        (payment.clone(), order.id.clone(), "paid".into())
    );
    assert_eq!(told.body["lastCall"]["call"]["outcome"], "answered");
    assert!(told.body["lastCall"]["call"]["providerTraceId"].is_string());
    assert_eq!(told.body["inquiry"], Value::Null);
    assert_eq!(told.body["breakers"].as_array().map(Vec::len), Some(ProviderOperation::ALL.len()));
    let route = format!("POST /v1/payments/{payment}/inquire");
    assert_eq!(told.body["actions"][0]["route"], route);
    assert_eq!(told.body["actions"][0]["command"], format!("paygauge inquire {payment}"));
    inquire_again(&shop, &payment).await;
    inquire_again(&shop, &payment).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_in_doubt_is_explained_and_ended_by_asking() {
    let shop = Shop::without_worker().await;
    let (order, payment) = confirmed(&shop, Some(Behaviour::ApproveThenDrop), StatusCode::ACCEPTED).await;
    let told = explain(&shop, &payment).await;
    says(&told.body, "confirming", "inquiry", "being checked", &["wait", "inquire", "cancel_order"]);
    assert_eq!((told.text("doubt"), told.body["inquiry"]["made"].clone()), ("connection_lost".into(), json!(0)));
    assert!(told.body["inquiry"]["nextAt"].is_string());
    assert!(told.text("summary").contains("connection broke"), "{}", told.raw);
    let asked = inquire(&shop, &payment, "decided").await;
    says(&asked.body["explanation"], "approved", "nothing", "paid", &["inquire", "cancel"]);
    assert_eq!(actor_of(&asked.body["explanation"], "PaymentApproved"), "operator");
    assert_eq!(shop.mock.book().calls.confirm, 1, "looking was enough");
    inquire_again(&shop, &payment).await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "paid");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_that_never_arrived_is_sent_again_as_recovery_would() {
    let shop = Shop::without_worker().await;
    let (order, payment) = confirmed(&shop, Some(Behaviour::DropBefore), StatusCode::ACCEPTED).await;
    inquire(&shop, &payment, "decided").await;
    assert_eq!(shop.mock.book().net(&order.id), 12_000);
    inquire_again(&shop, &payment).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_request_that_runs_asking_looks_and_sends_nothing() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 10).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::HangBefore { ms: 2_500 }));
    let request = shop.confirm(&order, &key);
    let meanwhile = async {
        eventually("it is under way", PATIENCE, async || (shop.mock.book().calls.confirm == 1).then_some(())).await;
        let payment = shop.order_now(&order.id).await.text("paymentId");
        let told = explain(&shop, &payment).await;
        says(&told.body, "confirming", "answer", "being checked", &["wait", "inquire", "cancel_order"]);
        let before = rows(&shop).await;
        let answer = shop.secret.post(&format!("/v1/payments/{payment}/inquire"), &Value::Null).await;
        assert_ne!(answer.expect(StatusCode::OK).text("learnt"), "decided");
        assert_eq!((rows(&shop).await, shop.mock.book().calls.confirm), (before, 1));
        payment
    };
    let (answer, payment) = tokio::join!(request, meanwhile);
    answer.expect(StatusCode::ACCEPTED);
    // The PG is still at it for a while; then it has done nothing, and asking sends it again.
    eventually("asking decides", PATIENCE, async || {
        let answer = shop.secret.post(&format!("/v1/payments/{payment}/inquire"), &Value::Null).await;
        (answer.expect(StatusCode::OK).text("learnt") == "decided").then_some(())
    })
    .await;
    assert_eq!(shop.mock.book().net(&order.id), 12_000);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_account_awaits_its_deposit_until_it_is_there_or_overdue() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 10).await;
    let (_, key, paid) = shop.awaiting_deposit(&product).await;
    let (_, _, unpaid) = shop.awaiting_deposit(&product).await;
    let told = explain(&shop, &paid).await;
    says(&told.body, "awaiting_deposit", "deposit", "account number", &["wait", "inquire", "cancel"]);
    inquire(&shop, &paid, "still_open").await;
    shop.mock.deposit(&key);
    let asked = inquire(&shop, &paid, "decided").await;
    says(&asked.body["explanation"], "approved", "nothing", "paid", &["inquire", "cancel"]);
    inquire_again(&shop, &paid).await;

    let statement = "update payments set deposit_due_at = now() - interval '1 day' where status = 'awaiting_deposit'";
    shop.sql(statement).await;
    let asked = inquire(&shop, &unpaid, "decided").await;
    says(&asked.body["explanation"], "expired", "nothing", "expired", &["inquire"]);
    inquire_again(&shop, &unpaid).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_cancellation_says_why_and_is_ended_by_asking() {
    let shop = Shop::without_worker().await;
    let (_, payment) = confirmed(&shop, None, StatusCode::OK).await;
    shop.cancel(&payment, &json!({ "reason": "a part", "amount": 2_000 })).await.expect(StatusCode::OK);
    shop.mock.script(Rule::cancel(Behaviour::ApproveThenDrop));
    let open = shop.cancel(&payment, &json!({ "reason": "more", "amount": 3_000 })).await.expect(StatusCode::ACCEPTED);
    let told = explain(&shop, &payment).await;
    says(&told.body, "partially_canceled", "cancellation", "a part given back", &["wait", "inquire"]);
    let cancellation = &told.body["openCancellation"];
    assert_eq!((&cancellation["id"], &cancellation["amount"]), (&json!(open.text("id")), &json!(3_000)));
    assert_eq!((&cancellation["origin"], &cancellation["doubt"]), (&json!("request"), &json!("connection_lost")));
    assert!(cancellation["why"].as_str().is_some_and(|why| why.contains("connection broke")), "{cancellation}");
    assert!(cancellation["inquiry"]["nextAt"].is_string());
    let asked = inquire(&shop, &payment, "decided").await;
    says(&asked.body["explanation"], "partially_canceled", "nothing", "a part given back", &["inquire", "cancel"]);
    assert_eq!(asked.body["explanation"]["openCancellation"], Value::Null);
    assert_eq!(actor_of(&asked.body["explanation"], "CancellationDone"), "operator");
    assert_eq!(shop.payment_now(&payment).await.number("balance"), 7_000);
    inquire_again(&shop, &payment).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_no_order_may_keep_says_so_and_goes_back_by_asking() {
    let shop = Shop::without_worker().await;
    let wrong = Behaviour::MismatchedAmount { amount: 11_000 };
    let (order, payment) = confirmed(&shop, Some(wrong), StatusCode::CONFLICT).await;
    let told = explain(&shop, &payment).await;
    says(&told.body, "reversing", "cancellation", "being returned", &["wait", "inquire", "cancel_order"]);
    assert_eq!(told.body["openCancellation"]["origin"], "compensation");
    let asked = inquire(&shop, &payment, "decided").await;
    assert_eq!(asked.body["explanation"]["status"], "canceled");
    assert_eq!(shop.mock.book().net(&order.id), 0);
    inquire_again(&shop, &payment).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_money_it_says_whether_the_same_payment_may_be_tried_again() {
    let shop = Shop::without_worker().await;
    let no = Behaviour::Decline { code: "REJECT_CARD_PAYMENT".to_owned() };
    let (_, declined) = confirmed(&shop, Some(no), StatusCode::PAYMENT_REQUIRED).await;
    let told = explain(&shop, &declined).await;
    says(&told.body, "declined", "nothing", "declined", &["inquire", "cancel_order"]);
    inquire_again(&shop, &declined).await;

    let wait = Behaviour::TooManyRequests { retry_after_s: 1 };
    let (_, ready) = confirmed(&shop, Some(wait), StatusCode::SERVICE_UNAVAILABLE).await;
    let told = explain(&shop, &ready).await;
    says(&told.body, "ready", "buyer", "nothing was charged", &["inquire", "cancel_order"]);
    inquire_again(&shop, &ready).await;

    let (_, canceled) = confirmed(&shop, None, StatusCode::OK).await;
    shop.cancel(&canceled, &json!({ "reason": "all" })).await.expect(StatusCode::OK);
    says(&explain(&shop, &canceled).await.body, "canceled", "nothing", "canceled", &["inquire"]);
    inquire_again(&shop, &canceled).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_in_the_console_is_found_by_asking() {
    let shop = Shop::without_worker().await;
    let (order, payment) = confirmed(&shop, None, StatusCode::OK).await;
    shop.mock.cancel_in_console(&shop.payment_key(&order.id), 12_000);
    inquire(&shop, &payment, "decided").await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "canceled");
    inquire_again(&shop, &payment).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_whose_key_the_pg_does_not_know_is_asked_for_by_its_order() {
    let shop = Shop::without_worker().await;
    let (order, payment) = confirmed(&shop, Some(Behaviour::ApproveThenDrop), StatusCode::ACCEPTED).await;
    let unknown = Behaviour::ErrorBefore { status: 404, code: "NOT_FOUND_PAYMENT".to_owned() };
    shop.mock.script(Rule::lookup(unknown.clone()));
    let asked = inquire(&shop, &payment, "decided").await;
    assert_eq!(asked.text("byOrder"), "same_payment");
    assert_eq!(shop.order_now(&order.id).await.text("status"), "paid");

    let (_, other) = confirmed(&shop, Some(Behaviour::ApproveThenDrop), StatusCode::ACCEPTED).await;
    shop.mock.script(Rule::lookup(unknown).times(2));
    let asked = inquire(&shop, &other, "still_open").await;
    assert_eq!(asked.text("byOrder"), "not_found");
    assert_eq!(asked.body["explanation"]["status"], "confirming");
    assert_eq!(asked.body["explanation"]["inquiry"]["made"], 1);
    inquire(&shop, &other, "decided").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_secret_key_is_told_and_may_ask() {
    let shop = Shop::without_worker().await;
    let (order, payment) = confirmed(&shop, None, StatusCode::OK).await;
    let (get, post) = (format!("/v1/payments/{payment}/explain"), format!("/v1/payments/{payment}/inquire"));
    let lookups = shop.mock.book().calls.lookup;
    for caller in [&shop.publishable, &order.buyer] {
        caller.get(&get).await.problem(StatusCode::FORBIDDEN, "forbidden");
        caller.post(&post, &Value::Null).await.problem(StatusCode::FORBIDDEN, "forbidden");
    }
    let nobody = Client::new(&shop.base, "nobody");
    nobody.get(&get).await.problem(StatusCode::UNAUTHORIZED, "unauthorized");
    nobody.post(&post, &Value::Null).await.problem(StatusCode::UNAUTHORIZED, "unauthorized");
    let unknown = paygauge::domain::ids::PaymentId::new();
    let answer = shop.secret.get(&format!("/v1/payments/{unknown}/explain")).await;
    answer.problem(StatusCode::NOT_FOUND, "payment_not_found");
    let answer = shop.secret.post(&format!("/v1/payments/{unknown}/inquire"), &Value::Null).await;
    answer.problem(StatusCode::NOT_FOUND, "payment_not_found");
    assert_eq!(shop.mock.book().calls.lookup, lookups, "the PG was not asked");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pg_that_is_not_asked_now_is_told_and_changes_nothing() {
    let limits = Limits { background_calls_max: 1, ..settings().provider_limits };
    let settings = Settings { provider_limits: limits, ..settings() };
    let shop = Shop::with(ShopOptions { worker: false, webhooks: false, settings, ..ShopOptions::default() }).await;
    let (_, payment) = confirmed(&shop, Some(Behaviour::ApproveThenDrop), StatusCode::ACCEPTED).await;
    let door = &shop.running.app().provider;
    let place = door.admit_soon(ProviderOperation::Inquire).await.expect("the one place");
    let before = rows(&shop).await;
    turned_away(shop.secret.post(&format!("/v1/payments/{payment}/inquire"), &Value::Null).await, "saturated");
    assert_eq!(rows(&shop).await, before);
    drop(place);
    inquire(&shop, &payment, "decided").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_tell_the_same_as_the_routes() {
    let shop = Shop::without_worker().await;
    let (_, payment) = confirmed(&shop, Some(Behaviour::ApproveThenDrop), StatusCode::ACCEPTED).await;
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_paygauge"))
            .args(arguments)
            .env_clear()
            .env("PAYGAUGE_ENV", "test")
            .env("DATABASE_URL", shop.database.url.expose_secret())
            .env("TOSS_BASE_URL", shop.mock.url())
            .env("TOSS_SECRET_KEY", "test_sk_mock")
            .output()
            .expect("the program");
        let text = String::from_utf8(output.stdout).expect("text");
        (output.status.success(), text, String::from_utf8(output.stderr).expect("text"))
    };
    let (done, text, _) = run(&["explain", &payment, "--json"]);
    assert!(done);
    let told: Value = serde_json::from_str(&text).expect("JSON");
    let mut route = explain(&shop, &payment).await.body;
    route.as_object_mut().expect("an object").remove("breakers");
    assert_eq!(told, route, "only a serving process has breakers");

    let (done, text, _) = run(&["explain", &payment]);
    assert!(done);
    for part in ["is confirming", "The buyer sees: being checked", "PaymentOutcomeUnknown", "paygauge inquire pay_"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (done, text, _) = run(&["inquire", &payment, "--json"]);
    assert!(done);
    let learnt: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&learnt["learnt"], &learnt["explanation"]["status"]), (&json!("decided"), &json!("approved")));
    let (done, text, _) = run(&["inquire", &payment]);
    assert!(done && text.starts_with("Learnt: nothing"), "{text}");
    let unknown = paygauge::domain::ids::PaymentId::new().to_string();
    for command in ["explain", "inquire"] {
        let (done, _, error) = run(&[command, &unknown]);
        assert!(!done && error.contains("no"), "{error}");
    }
    shop.close().await;
}
