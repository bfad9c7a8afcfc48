//! What stands between us and a PG that fails: who is turned away, what that leaves behind (nothing), who is answered
//! all the same, and how it ends.

use std::time::Duration;

use paygauge::config::Settings;
use paygauge::payments::recovery;
use paygauge::provider::breaker::BreakerRules;
use paygauge::provider::protection::{Limits, Permit};
use paygauge::telemetry::labels::{BreakerState, ProviderOperation};
use pg_mock::{Behaviour, PgMock, Rule};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::eventually;
use crate::support::invariants;
use crate::support::served::Served;
use crate::support::shop::{
    Answer, Client, Order, PATIENCE, Shop, ShopOptions, confirm_body, invariants_client, settings,
};

/// Longer than any test: a breaker that opened stays open.
const FOR_GOOD: Duration = Duration::from_secs(3_600);

fn guarded(worker: bool, limits: Limits) -> ShopOptions {
    let settings = Settings { provider_limits: limits, ..settings() };
    ShopOptions { worker, webhooks: false, settings, ..ShopOptions::default() }
}

fn breaking(failures: u32, open: Duration) -> Limits {
    Limits { breaker: BreakerRules { failures, open }, ..settings().provider_limits }
}

fn failure(status: u16) -> Behaviour {
    Behaviour::ErrorBefore { status, code: "FAILED_INTERNAL_SYSTEM_PROCESSING".to_owned() }
}

fn state(shop: &Shop, of: ProviderOperation) -> BreakerState {
    let all = shop.running.app().provider.breakers();
    all.into_iter().find_map(|(operation, state)| (operation == of).then_some(state)).expect("every operation has one")
}

/// Every row that a request could leave behind, as one text.
pub async fn rows(shop: &Shop) -> String {
    let all = "select coalesce(string_agg(t, '|' order by t), '') from (
         select o::text from orders o union all select i::text from order_items i
         union all select p::text from payments p union all select c::text from cancellations c
         union all select k::text from idempotency_keys k union all select e::text from events e
         union all select s::text from stock s) x(t)";
    invariants_client(&shop.database).await.query_one(all, &[]).await.expect("rows").get(0)
}

/// All that turns a request away: 503, when to come back, and why.
pub fn turned_away(answer: Answer, reason: &str) -> Answer {
    let answer = answer.problem(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable");
    assert_eq!(answer.text("reason"), reason, "{}", answer.raw);
    let seconds: u64 = answer.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
    answer
}

/// Every permit that the callers of this shop can have.
fn saturate(shop: &Shop, operation: ProviderOperation) -> Vec<Permit> {
    let door = &shop.running.app().provider;
    std::iter::from_fn(|| door.admit(operation).ok()).collect()
}

/// Confirms fresh orders until the breaker of confirms is open; returns the first of them with its key.
async fn open_the_breaker(shop: &Shop, product: &str, failures: u32, with: Behaviour) -> (Order, String) {
    shop.mock.script(Rule::confirm(with).always());
    let mut first = None;
    for _ in 0..failures {
        assert_eq!(state(shop, ProviderOperation::Confirm), BreakerState::Closed);
        let order = shop.order(product, 1).await;
        let key = shop.pay(&order);
        shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
        first.get_or_insert((order, key));
    }
    assert_eq!(state(shop, ProviderOperation::Confirm), BreakerState::Open);
    first.expect("a failure")
}

async fn opens_on(behaviour: Behaviour) {
    let shop = Shop::with(guarded(false, breaking(3, FOR_GOOD))).await;
    let product = shop.product(12_000, 10).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    open_the_breaker(&shop, &product, 3, behaviour).await;
    let (before, calls) = (rows(&shop).await, shop.mock.book().calls.confirm);
    turned_away(shop.confirm(&order, &key).await, "breaker_open");
    assert_eq!(rows(&shop).await, before, "a request that is turned away leaves nothing behind");
    assert_eq!(shop.mock.book().calls.confirm, calls, "the PG is not asked");
    assert_eq!(shop.order_now(&order.id).await.text("status"), "pending");
    invariants::rules(&shop.database).await;
    shop.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pg_that_hangs_is_not_asked_any_more() {
    opens_on(Behaviour::HangBefore { ms: 2_500 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pg_that_answers_5xx_is_not_asked_any_more() {
    opens_on(failure(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pg_that_answers_garbage_is_not_asked_any_more() {
    opens_on(Behaviour::HtmlError { status: 502 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pg_that_cuts_the_line_is_not_asked_any_more() {
    opens_on(Behaviour::DropBefore).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pg_that_cannot_be_reached_is_not_asked_any_more() {
    // Each confirm that never left is sent once more, so two of them are four failures.
    let mut shop = Shop::with(guarded(true, breaking(4, FOR_GOOD))).await;
    let product = shop.product(12_000, 10).await;
    let (one, two) = (shop.order(&product, 1).await, shop.order(&product, 1).await);
    let (one_key, two_key) = (shop.pay(&one), shop.pay(&two));
    shop.mock = PgMock::start(pg_mock::Options::default()).await.expect("another PG, elsewhere");
    turned_away(shop.confirm(&one, &one_key).await, "unreachable");
    assert_eq!(state(&shop, ProviderOperation::Confirm), BreakerState::Closed);
    turned_away(shop.confirm(&two, &two_key).await, "unreachable");
    let before = rows(&shop).await;
    turned_away(shop.confirm(&one, &one_key).await, "breaker_open");
    assert_eq!(rows(&shop).await, before);
    for order in [&one, &two] {
        assert_eq!(shop.order_now(&order.id).await.text("status"), "pending");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn declines_open_nothing() {
    let shop = Shop::with(guarded(true, breaking(1, FOR_GOOD))).await;
    let product = shop.product(12_000, 100).await;
    shop.mock.script(Rule::confirm(Behaviour::Decline { code: "REJECT_CARD_PAYMENT".to_owned() }).times(100));
    let buyers = (0..10).map(async |_| {
        let order = shop.order(&product, 1).await;
        for _ in 0..10 {
            let key = shop.pay(&order);
            shop.confirm(&order, &key).await.problem(StatusCode::PAYMENT_REQUIRED, "payment_declined");
        }
        order
    });
    let orders = futures_util::future::join_all(buyers).await;
    assert_eq!(shop.mock.book().calls.confirm, 100);
    assert_eq!(state(&shop, ProviderOperation::Confirm), BreakerState::Closed);
    let order = orders.first().expect("an order");
    shop.confirm(order, &shop.pay(order)).await.expect(StatusCode::OK);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_that_are_refusals_doubts_or_unlisted_open_nothing() {
    let shop = Shop::with(guarded(true, breaking(1, FOR_GOOD))).await;
    let product = shop.product(12_000, 100).await;
    let code = |status, code: &str| Behaviour::ErrorBefore { status, code: code.to_owned() };
    let answers = [
        code(400, "PROVIDER_ERROR"),
        code(400, "BRAND_NEW_CODE"),
        code(401, "UNAUTHORIZED_KEY"),
        Behaviour::InProgressConflict,
        Behaviour::TooManyRequests { retry_after_s: 1 },
    ];
    for answer in answers {
        let order = shop.order(&product, 1).await;
        let key = shop.pay(&order);
        shop.mock.script(Rule::confirm(answer.clone()).for_order(&order.id));
        shop.confirm(&order, &key).await;
        assert_eq!(state(&shop, ProviderOperation::Confirm), BreakerState::Closed, "{answer:?}");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_finds_out_that_the_pg_is_back_and_the_same_key_is_good() {
    let shop = Shop::with(guarded(true, breaking(2, Duration::from_millis(400)))).await;
    let product = shop.product(12_000, 10).await;
    // Inquiries fail too, so that recovery does not confirm again beside us.
    shop.mock.script(Rule::lookup(failure(500)).always());
    open_the_breaker(&shop, &product, 2, failure(500)).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.clear_script();
    let paid = eventually("the PG is asked again", PATIENCE, async || {
        let answer = shop.confirm(&order, &key).await;
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            turned_away(answer, "breaker_open");
            return None;
        }
        Some(answer)
    })
    .await;
    assert_eq!(paid.expect(StatusCode::OK).text("status"), "approved");
    assert_eq!(state(&shop, ProviderOperation::Confirm), BreakerState::Closed);
    // The two whose outcome was unknown end certain, too.
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pg_that_fails_is_no_reason_not_to_be_ready_nor_to_refuse_reads() {
    let shop = Shop::with(guarded(true, breaking(1, Duration::from_millis(500)))).await;
    let ops = format!("http://{}/readyz", shop.running.ops_addr());
    let product = shop.product(12_000, 10).await;
    eventually("it is ready", PATIENCE, async || {
        let answer = Client::new(&ops, "nobody").get("").await;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    open_the_breaker(&shop, &product, 1, failure(500)).await;
    let ready = Client::new(&ops, "nobody").get("").await.expect(StatusCode::OK);
    assert_eq!(ready.text("status"), "ready");
    let order = shop.order(&product, 1).await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "pending");
    assert!(shop.available(&product).await > 0);
    shop.mock.clear_script();
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_is_told_with_the_pg_away() {
    let shop = Shop::with(guarded(true, breaking(1, Duration::from_millis(500)))).await;
    let product = shop.product(12_000, 10).await;
    let (paid, payment) = shop.paid(&product, 1).await;
    let paid_key = shop.payment_key(&paid.id);
    let body = json!({ "reason": "a part", "amount": 1_000 });
    let path = format!("/v1/payments/{payment}/cancel");
    let canceled = shop.secret.post_as(&path, &body, "part").await.expect(StatusCode::OK);
    let declined = shop.order(&product, 1).await;
    let declined_key = shop.pay(&declined);
    shop.mock.script(Rule::confirm(Behaviour::Decline { code: "REJECT_CARD_PAYMENT".to_owned() }));
    let no = shop.confirm(&declined, &declined_key).await.problem(StatusCode::PAYMENT_REQUIRED, "payment_declined");

    let places: Vec<Permit> = [ProviderOperation::Confirm, ProviderOperation::Cancel]
        .into_iter()
        .flat_map(|of| saturate(&shop, of))
        .collect();
    let calls = shop.mock.book().calls.confirm;
    let before = rows(&shop).await;
    let again = shop.confirm(&paid, &paid_key).await.expect(StatusCode::OK);
    assert!(again.is_replayed());
    let body_again = confirm_body(&paid, &paid_key);
    let other_key = paid.buyer.post_as("/v1/payments/confirm", &body_again, "another").await.expect(StatusCode::OK);
    assert!(other_key.is_replayed() && other_key.text("id") == payment);
    assert_eq!(shop.confirm(&declined, &declined_key).await.expect(StatusCode::PAYMENT_REQUIRED).raw, no.raw);
    assert_eq!(shop.secret.post_as(&path, &body, "part").await.expect(StatusCode::OK).raw, canceled.raw);
    // Nor is the PG needed to say no.
    let other = shop.order(&product, 1).await;
    let key = shop.pay(&other);
    let mut wrong = confirm_body(&other, &key);
    wrong["amount"] = json!(1);
    let wrong = other.buyer.post("/v1/payments/confirm", &wrong).await;
    wrong.problem(StatusCode::UNPROCESSABLE_ENTITY, "amount_mismatch");
    let nothing = shop.cancel(&no.text("paymentId"), &json!({ "reason": "declined" })).await;
    nothing.problem(StatusCode::CONFLICT, "payment_not_cancelable");
    turned_away(shop.confirm(&other, &key).await, "saturated");
    assert_eq!(shop.mock.book().calls.confirm, calls);
    assert_ne!(rows(&shop).await, before, "the order was placed meanwhile, and nothing else");
    drop(places);
    shop.confirm(&other, &key).await.expect(StatusCode::OK);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_calls_take_all_places_and_the_next_is_turned_away_at_once() {
    let limits = Limits { caller_calls_max: 2, ..settings().provider_limits };
    let shop = Shop::with(guarded(true, limits)).await;
    let product = shop.product(12_000, 10).await;
    let orders = [shop.order(&product, 1).await, shop.order(&product, 1).await];
    let keys = orders.each_ref().map(|order| shop.pay(order));
    let next = shop.order(&product, 1).await;
    let next_key = shop.pay(&next);
    // Longer than a confirm may take: both end as unknown, and hold their place until then.
    shop.mock.script(Rule::confirm(Behaviour::ApproveThenHang { ms: 2_500 }).times(2));
    let slow = async {
        tokio::join!(shop.confirm(&orders[0], &keys[0]), shop.confirm(&orders[1], &keys[1]));
    };
    let meanwhile = async {
        eventually("both are under way", PATIENCE, async || (shop.mock.book().calls.confirm == 2).then_some(())).await;
        turned_away(shop.confirm(&next, &next_key).await, "saturated");
        assert_eq!(shop.order_now(&next.id).await.text("status"), "pending");
        let calls = shop.mock.book().calls.confirm;
        assert_eq!(calls, 2, "the PG is not asked a third time");
    };
    tokio::join!(slow, meanwhile);
    // The same key is good as soon as there is a place.
    shop.confirm(&next, &next_key).await.expect(StatusCode::OK);
    for order in &orders {
        shop.order_becomes(&order.id, "paid").await;
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_take_every_place_do_not_starve_recovery() {
    let shop = Shop::with(guarded(true, settings().provider_limits)).await;
    let product = shop.product(12_000, 10).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    // Nobody can take it up before every place is taken.
    shop.mock.script(Rule::lookup(failure(500)).always());
    shop.mock.script(Rule::confirm(Behaviour::ApproveThenDrop));
    shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
    let places: Vec<Permit> = [ProviderOperation::Inquire, ProviderOperation::Confirm]
        .into_iter()
        .flat_map(|of| saturate(&shop, of))
        .collect();
    let other = shop.order(&product, 1).await;
    let other_key = shop.pay(&other);
    turned_away(shop.confirm(&other, &other_key).await, "saturated");
    shop.mock.clear_script();
    shop.sql("update payments set inquire_at = now() where status = 'confirming'").await;
    shop.order_becomes(&order.id, "paid").await;
    turned_away(shop.confirm(&other, &other_key).await, "saturated");
    drop(places);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_that_takes_every_place_does_not_starve_callers_and_waits_itself() {
    let limits = Limits { background_calls_max: 1, ..settings().provider_limits };
    let shop = Shop::with(guarded(false, limits)).await;
    let app = shop.running.app();
    let product = shop.product(12_000, 10).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::ApproveThenDrop));
    shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
    let place = app.provider.admit_soon(ProviderOperation::Inquire).await.expect("the one place");
    shop.paid(&product, 1).await;
    shop.sql("update payments set inquire_at = now() - interval '1 minute' where status = 'confirming'").await;
    let said =
        "select status || inquiries || version || doubt || not_found_count from payments where doubt is not null";
    let read = async || -> String {
        invariants_client(&shop.database).await.query_one(said, &[]).await.expect("a payment").get(0)
    };
    let before = read().await;
    assert_eq!(recovery::recover_batch(app).await.expect("a round"), 1);
    assert_eq!(read().await, before, "not to be asked is no evidence, and no try");
    let due = "select count(*) from payments where inquire_at > now() and lease_until is null and doubt is not null";
    assert_eq!(shop.count(due).await, 1, "it waits for its turn");
    drop(place);
    shop.sql("update payments set inquire_at = now() where status = 'confirming'").await;
    recovery::recover_batch(app).await.expect("a round");
    assert_eq!(shop.order_now(&order.id).await.text("status"), "paid");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_does_not_touch_a_row_while_the_pg_does_not_answer_inquiries() {
    let shop = Shop::with(guarded(false, breaking(1, FOR_GOOD))).await;
    let app = shop.running.app();
    let product = shop.product(12_000, 10).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(Behaviour::ApproveThenDrop));
    shop.mock.script(Rule::lookup(failure(500)));
    shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
    shop.sql("update payments set inquire_at = now() - interval '1 minute'").await;
    assert_eq!(recovery::recover_batch(app).await.expect("a round"), 1);
    assert_eq!(state(&shop, ProviderOperation::Inquire), BreakerState::Open);
    shop.sql("update payments set inquire_at = now() - interval '1 minute'").await;
    let (before, calls) = (rows(&shop).await, shop.mock.book().calls.lookup);
    for _ in 0..3 {
        assert_eq!(recovery::recover_batch(app).await.expect("a round"), 0);
    }
    assert_eq!(rows(&shop).await, before);
    assert_eq!(shop.mock.book().calls.lookup, calls);
    assert_eq!(shop.order_now(&order.id).await.text("status"), "confirming");
    shop.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_finds_out_by_itself_that_inquiries_are_answered_again() {
    let shop = Shop::with(guarded(true, breaking(1, Duration::from_millis(300)))).await;
    let product = shop.product(12_000, 10).await;
    shop.mock.script(Rule::lookup(failure(500)).always());
    let mut orders = Vec::new();
    for _ in 0..4 {
        let order = shop.order(&product, 1).await;
        let key = shop.pay(&order);
        shop.mock.script(Rule::confirm(Behaviour::UnknownEnum).for_order(&order.id));
        shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
        orders.push(order);
    }
    eventually("inquiries are given up", PATIENCE, async || {
        (state(&shop, ProviderOperation::Inquire) == BreakerState::Open).then_some(())
    })
    .await;
    shop.mock.clear_script();
    for order in &orders {
        shop.order_becomes(&order.id, "paid").await;
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_confirms_fail_inquiries_go_on_and_end_the_doubt() {
    let shop = Shop::with(guarded(true, breaking(1, FOR_GOOD))).await;
    let product = shop.product(12_000, 10).await;
    let (order, _) = open_the_breaker(&shop, &product, 1, Behaviour::ApproveThenDrop).await;
    shop.order_becomes(&order.id, "paid").await;
    assert_eq!(state(&shop, ProviderOperation::Confirm), BreakerState::Open, "an inquiry does not speak for confirms");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_is_turned_away_takes_nothing_and_works_with_its_key_later() {
    let shop = Shop::with(guarded(true, breaking(2, FOR_GOOD))).await;
    let product = shop.product(12_000, 10).await;
    let mut payments = Vec::new();
    for _ in 0..3 {
        payments.push(shop.paid(&product, 1).await);
    }
    let (order, payment) = payments.pop().expect("a payment");
    let path = format!("/v1/payments/{payment}/cancel");
    let body = json!({ "reason": "changed my mind" });
    let places = saturate(&shop, ProviderOperation::Cancel);
    let before = rows(&shop).await;
    turned_away(shop.secret.post_as(&path, &body, "mine").await, "saturated");
    let of_order = format!("/v1/orders/{}/cancel", order.id);
    turned_away(shop.secret.post_as(&of_order, &body, "order's").await, "saturated");
    assert_eq!(rows(&shop).await, before);
    drop(places);
    shop.secret.post_as(&path, &body, "mine").await.expect(StatusCode::OK);

    // The same by the breaker; what was begun ends all the same, since the PG did it and inquiries find it.
    shop.mock.script(Rule::cancel(Behaviour::ApproveThenDrop).always());
    for (_, payment) in &payments {
        shop.cancel(payment, &body).await.expect(StatusCode::ACCEPTED);
    }
    assert_eq!(state(&shop, ProviderOperation::Cancel), BreakerState::Open);
    assert_eq!(state(&shop, ProviderOperation::Confirm), BreakerState::Closed, "cancels do not speak for confirms");
    let (order, payment) = shop.paid(&product, 1).await;
    for (_, payment) in &payments {
        shop.payment_becomes(payment, "canceled").await;
    }
    let (before, calls) = (rows(&shop).await, shop.mock.book().calls.cancel);
    turned_away(shop.cancel(&payment, &body).await, "breaker_open");
    let of_order = format!("/v1/orders/{}/cancel", order.id);
    turned_away(shop.secret.post_with_key(&of_order, &body).await, "breaker_open");
    assert_eq!((rows(&shop).await, shop.mock.book().calls.cancel), (before, calls));
    assert_eq!(shop.payment_now(&payment).await.number("balance"), 12_000);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_lines_tell_a_pg_that_fails_from_one_that_declines() {
    // Without the worker, so that nobody but these requests calls the PG.
    let guarded = [("PAYGAUGE_ROLES", "api"), ("TOSS_BREAKER_FAILURES", "2"), ("TOSS_BREAKER_OPEN_SECONDS", "600")];
    let served = Served::start(&guarded).await;
    let product = json!({ "name": "Coffee beans", "price": 12_000, "initialStock": 50 });
    let product = served.secret.post("/v1/products", &product).await.expect(StatusCode::CREATED).text("id");
    let confirm = async |behaviour: Behaviour| {
        let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
        let order = served.secret.post_with_key("/v1/orders", &body).await.expect(StatusCode::CREATED).text("id");
        served.mock.script(Rule::confirm(behaviour).for_order(&order));
        let key = served.mock.pay(&order, 12_000);
        let body = json!({ "paymentKey": key, "orderId": order, "amount": 12_000 });
        served.secret.post("/v1/payments/confirm", &body).await
    };
    let state = |text: &str, state: &str| {
        let line = format!("payments_pg_breaker_state{{provider=\"toss\",operation=\"confirm\",state=\"{state}\"}} 1");
        text.lines().any(|found| found == line)
    };
    for _ in 0..4 {
        let decline = Behaviour::Decline { code: "REJECT_CARD_PAYMENT".to_owned() };
        confirm(decline).await.problem(StatusCode::PAYMENT_REQUIRED, "payment_declined");
    }
    assert!(state(&served.metrics().await, "closed"));
    for _ in 0..4 {
        confirm(failure(500)).await.expect(StatusCode::ACCEPTED);
    }
    turned_away(confirm(failure(500)).await, "breaker_open");
    let text = served.metrics().await;
    assert!(state(&text, "open") && !state(&text, "closed"), "{text}");
    for line in [
        "payments_pg_breaker_transitions_total{provider=\"toss\",operation=\"confirm\",to=\"open\"} 1",
        "payments_pg_admissions_refused_total{provider=\"toss\",operation=\"confirm\",lane=\"caller\",reason=\"breaker_open\"} 1",
        "payments_pg_permits_max{provider=\"toss\",lane=\"caller\"} 64",
        "payments_pg_permits{provider=\"toss\",lane=\"caller\"} 0",
        "payments_declines_total{provider=\"toss\",decline_class=\"insufficient_funds\"} 4",
        "payments_operations_total{operation=\"confirm\",outcome=\"pg_error\",provider=\"toss\",method=\"none\"} 1",
        "payments_operations_total{operation=\"confirm\",outcome=\"declined\",provider=\"toss\",method=\"none\"} 4",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let opened: Vec<String> =
        served.lines().into_iter().filter(|line| line.contains("\"msg\":\"the PG fails")).collect();
    assert_eq!(opened.len(), 1, "{opened:?}");
    assert!(
        opened.iter().all(|line| line.contains("\"operation\":\"confirm\"") && line.contains("\"level\":\"warn\""))
    );
    let turned = served.lines().into_iter().find(|line| line.contains("\"code\":\"provider_unavailable\""));
    assert!(turned.is_some_and(|line| line.contains("breaker_open")), "the request's line says why");
}
