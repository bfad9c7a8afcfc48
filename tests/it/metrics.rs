//! What the metrics say is what happened: counted against the tables, and their times against each other. Each test
//! drives programs of its own, so that nobody else counts in their series.

use std::collections::BTreeMap;
use std::time::Duration;

use paygauge::crash::CrashSwitch;
use paygauge::db::Db;
use paygauge::db::connect;
use paygauge::db::overview::Lead;
use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::served::Served;
use crate::support::shop::{Answer, PATIENCE, Shop, invariants_client};
use crate::support::{database, eventually};

/// One exposition, by series.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    async fn of(served: &Served) -> Self {
        let text = served.metrics().await;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| line.rsplit_once(' '));
        Self(series.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect())
    }

    fn value(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("no {series}"))
    }

    /// All series of a metric that are not 0, by their labels.
    fn counted(&self, metric: &str) -> BTreeMap<String, f64> {
        let start = format!("{metric}{{");
        let own = self.0.iter().filter(|(name, value)| name.starts_with(&start) && **value != 0.0);
        own.map(|(name, value)| (name[start.len()..name.len() - 1].to_owned(), *value)).collect()
    }
}

/// Whether two sums of times are the same but for rounding.
fn same(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-6 * right.abs().max(1.0)
}

pub async fn new_product(served: &Served, stock: i64) -> String {
    let body = json!({ "name": "Coffee beans", "price": 12_000, "initialStock": stock });
    served.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id")
}

pub async fn new_order(served: &Served, product: &str, quantity: i64) -> (String, i64) {
    let body = json!({ "lines": [{ "productId": product, "quantity": quantity }] });
    let order = served.secret.post_with_key("/v1/orders", &body).await.expect(StatusCode::CREATED);
    (order.text("id"), order.number("amount"))
}

pub async fn confirm(served: &Served, order: &(String, i64), key: &str) -> Answer {
    let body = json!({ "paymentKey": key, "orderId": order.0, "amount": order.1 });
    served.secret.post("/v1/payments/confirm", &body).await
}

async fn bought(served: &Served, product: &str) -> (String, String) {
    let order = new_order(served, product, 1).await;
    let key = served.mock.pay(&order.0, order.1);
    let payment = confirm(served, &order, &key).await.expect(StatusCode::OK).text("id");
    (order.0, payment)
}

async fn cancel(served: &Served, payment: &str, body: &Value) -> Answer {
    served.secret.post_with_key(&format!("/v1/payments/{payment}/cancel"), body).await
}

async fn payment_becomes(served: &Served, payment: &str, status: &str) {
    let path = format!("/v1/payments/{payment}");
    eventually(&format!("{payment} becomes {status}"), PATIENCE, async || {
        let now = served.secret.get(&path).await.expect(StatusCode::OK);
        (now.text("status") == status).then_some(())
    })
    .await;
}

async fn order_becomes(served: &Served, order: &str, status: &str) {
    let path = format!("/v1/orders/{order}");
    eventually(&format!("{order} becomes {status}"), PATIENCE, async || {
        let now = served.secret.get(&path).await.expect(StatusCode::OK);
        (now.text("status") == status).then_some(())
    })
    .await;
}

/// Something of everything: paid, declined, taken back in part and in full, ended unpaid, waited for a deposit that came
/// twice, and two outcomes that were uncertain for a while.
pub async fn trade(served: &Served) {
    let product = new_product(served, 100).await;
    for _ in 0..3 {
        bought(served, &product).await;
    }
    let (_, payment) = bought(served, &product).await;
    cancel(served, &payment, &json!({ "reason": "x", "amount": 2_000 })).await.expect(StatusCode::OK);
    cancel(served, &payment, &json!({ "reason": "x" })).await.expect(StatusCode::OK);
    cancel(served, &payment, &json!({ "reason": "x" })).await.expect(StatusCode::CONFLICT);

    let order = new_order(served, &product, 1).await;
    served.mock.script(Rule::confirm(Behaviour::Decline { code: "REJECT_CARD_PAYMENT".to_owned() }));
    let key = served.mock.pay(&order.0, order.1);
    confirm(served, &order, &key).await.expect(StatusCode::PAYMENT_REQUIRED);
    // The same order, paid after all: it is confirmed for the second time.
    let key = served.mock.pay(&order.0, order.1);
    confirm(served, &order, &key).await.expect(StatusCode::OK);

    let order = new_order(served, &product, 2).await;
    let body = json!({ "reason": "x" });
    served.secret.post_with_key(&format!("/v1/orders/{}/cancel", order.0), &body).await.expect(StatusCode::OK);
    let too_much = json!({ "lines": [{ "productId": product, "quantity": 1_000 }] });
    served.secret.post_with_key("/v1/orders", &too_much).await.expect(StatusCode::CONFLICT);

    let order = new_order(served, &product, 1).await;
    let key = served.mock.pay_by_virtual_account(&order.0, order.1);
    confirm(served, &order, &key).await.expect(StatusCode::OK);
    served.mock.deposit(&key);
    order_becomes(served, &order.0, "paid").await;
    served.mock.reverse_deposit(&key);
    order_becomes(served, &order.0, "awaiting_deposit").await;
    served.mock.deposit(&key);
    order_becomes(served, &order.0, "paid").await;

    for (behaviour, becomes) in [(Behaviour::ApproveThenDrop, "approved"), (Behaviour::DropBefore, "approved")] {
        served.mock.script(Rule::confirm(behaviour));
        let order = new_order(served, &product, 1).await;
        let key = served.mock.pay(&order.0, order.1);
        let payment = confirm(served, &order, &key).await.expect(StatusCode::ACCEPTED).text("id");
        payment_becomes(served, &payment, becomes).await;
    }
    let (order, payment) = bought(served, &product).await;
    served.mock.script(Rule::cancel(Behaviour::ApproveThenDrop));
    cancel(served, &payment, &json!({ "reason": "x" })).await.expect(StatusCode::ACCEPTED);
    order_becomes(served, &order, "canceled").await;
    let expired = new_order(served, &product, 1).await;
    let client = invariants_client(&served.database).await;
    let turned = "update orders set hold_expires_at = now() - interval '1 second' where status = 'pending'";
    client.batch_execute(turned).await.expect("SQL");
    order_becomes(served, &expired.0, "expired").await;
}

/// Waits until the worker has nothing left to do, so that nothing is counted between two looks.
async fn quiet(served: &Served) {
    let client = invariants_client(&served.database).await;
    eventually("nothing is left to do", PATIENCE, async || {
        let left = "select (select count(*) from webhook_inbox where processed_at is null)
                         + (select count(*) from payments where inquire_at is not null)
                         + (select count(*) from cancellations where inquire_at is not null)";
        let left: i64 = client.query_one(left, &[]).await.expect("SQL").get(0);
        (left == 0).then_some(())
    })
    .await;
}

/// Text and number of each row.
async fn rows(served: &Served, query: &str) -> BTreeMap<String, f64> {
    let client = invariants_client(&served.database).await;
    let rows = client.query(query, &[]).await.expect("SQL");
    rows.iter().map(|row| (row.get::<_, String>(0), row.get::<_, f64>(1))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_is_what_the_tables_hold() {
    let served = Served::start(&[("PAYGAUGE_WORKER_POLL_MS", "50")]).await;
    trade(&served).await;
    quiet(&served).await;
    let transitions = "select format('aggregate=\"%s\",from_status=\"%s\",to_status=\"%s\"', aggregate,
        coalesce(from_status, 'none'), to_status), count(*)::float8 from events group by 1";
    // A transaction tells right after its commit, so the last one may still be about to.
    eventually("the transitions are those of the history", PATIENCE, async || {
        let scrape = Scrape::of(&served).await;
        (scrape.counted("payments_transitions_total") == rows(&served, transitions).await).then_some(())
    })
    .await;
    let scrape = Scrape::of(&served).await;
    let funnel = "select format('stage=\"%s\"', stage), count(*)::float8 from (
        select distinct order_id, case kind when 'OrderPlaced' then 'order_created'
            when 'OrderConfirmStarted' then 'confirm_requested' when 'OrderPaid' then 'paid'
            when 'OrderDepositAwaited' then 'deposit_awaited' when 'OrderCanceled' then 'canceled'
            when 'OrderCanceledUnpaid' then 'canceled' when 'OrderHoldExpired' then 'expired'
            when 'OrderDepositOverdue' then 'expired' end as stage
        from events where aggregate = 'order') reached where stage is not null group by 1";
    assert_eq!(scrape.counted("payments_funnel_total"), rows(&served, funnel).await);
    let net = "select 'net', sum(coalesce(approved_amount, 0) - canceled_amount)::float8 from payments";
    let sum = |operation: &str| {
        scrape.value(&format!(r#"payments_amount_minor_units_sum{{operation="{operation}",currency="KRW"}}"#))
    };
    assert!(same(sum("confirm") - sum("cancel"), rows(&served, net).await["net"]));
    assert!(same(sum("cancel"), 12_000.0 * 3.0), "two cancels, and a deposit that was taken back");
    placed_and_reserved(&served, &scrape).await;
    doubts_have_ended(&served, &scrape).await;
}

async fn placed_and_reserved(served: &Served, scrape: &Scrape) {
    let placed = rows(served, "select 'orders', count(*)::float8 from orders").await["orders"];
    let success =
        r#"payments_operations_total{operation="order_create",outcome="success",provider="none",method="none"}"#;
    assert!(same(scrape.value(success), placed));
    assert!(same(scrape.value(r#"payments_stock_reservations_total{result="reserved"}"#), placed));
    assert!(same(scrape.value(r#"payments_stock_reservations_total{result="insufficient"}"#), 1.0));
    let by_method = scrape.counted("payments_operations_total");
    let of = |operation: &str, outcome: &str, method: &str| {
        let labels = format!(r#"operation="{operation}",outcome="{outcome}",provider="toss",method="{method}""#);
        by_method.get(&labels).copied().unwrap_or_default()
    };
    assert!(same(of("confirm", "success", "card"), 6.0), "{by_method:?}");
    assert!(same(of("confirm", "success", "virtual_account"), 1.0), "{by_method:?}");
    assert!(same(of("confirm", "declined", "none"), 1.0), "{by_method:?}");
    assert!(same(of("cancel", "success", "card"), 2.0), "{by_method:?}");
    assert!(same(of("cancel", "unknown", "card"), 1.0), "{by_method:?}");
    let transactions = "select 'commits', (select count(*) from orders)::float8";
    let commits = r#"payments_db_transaction_duration_seconds_count{tx="order_place",result="commit"}"#;
    assert!(same(scrape.value(commits), rows(served, transactions).await["commits"]), "transactions can be counted");
}

async fn doubts_have_ended(served: &Served, scrape: &Scrape) {
    let opened = scrape.counted("payments_doubts_opened_total");
    let events = "select case aggregate when 'payment' then 'confirm' else 'cancel' end, count(*)::float8 from events
        where kind in ('PaymentOutcomeUnknown', 'CancellationOutcomeUnknown') group by 1";
    for (operation, count) in rows(served, events).await {
        let own = opened.iter().filter(|(labels, _)| labels.contains(&format!(r#"operation="{operation}""#)));
        assert!(same(own.map(|(_, count)| count).sum(), count), "{operation}: {opened:?}");
    }
    let resolved = scrape.counted("payments_doubts_resolved_total");
    let of = |operation: &str, resolution: &str| {
        let labels = format!(r#"provider="toss",operation="{operation}",resolution="{resolution}",in_time="true""#);
        resolved.get(&labels).copied().unwrap_or_default()
    };
    assert!(same(of("confirm", "approved"), 2.0) && same(of("cancel", "canceled"), 1.0), "{resolved:?}");
    assert!(same(resolved.values().sum(), opened.values().sum()), "{opened:?} {resolved:?}");
    let lasted = scrape.value(r#"payments_doubt_duration_seconds_count{operation="confirm",resolution="approved"}"#);
    assert!(same(lasted, 2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_steps_of_every_use_case_account_for_its_time() {
    let served = Served::start(&[("PAYGAUGE_WORKER_POLL_MS", "50")]).await;
    trade(&served).await;
    // A PG that takes its time, so that a step that is missed would show.
    let slow = || Behaviour::Delay { ms: 300 };
    served.mock.script(Rule::confirm(slow()));
    served.mock.script(Rule::cancel(slow()));
    let (_, payment) = bought(&served, &new_product(&served, 1).await).await;
    cancel(&served, &payment, &json!({ "reason": "x" })).await.expect(StatusCode::OK);
    quiet(&served).await;
    let wanted = ["order_create", "order_cancel", "confirm", "cancel", "webhook_apply", "expire", "recover"];
    let scrape = Scrape::of(&served).await;
    for operation in wanted {
        let start = format!(r#"payments_operation_duration_seconds_sum{{operation="{operation}","#);
        let whole: f64 = scrape.0.iter().filter(|(name, _)| name.starts_with(&start)).map(|(_, spent)| spent).sum();
        let step = |step: &str| {
            scrape.value(&format!(r#"payments_step_duration_seconds_sum{{operation="{operation}",step="{step}"}}"#))
        };
        let named = ["pool_wait", "tx_begin", "lock_wait", "statements", "tx_commit", "pg_call", "compute"];
        let accounted: f64 = named.into_iter().map(step).sum();
        assert!(whole > 0.0, "{operation} has happened");
        assert!(same(accounted + step("unattributed"), whole), "{operation}: the steps are the whole");
        assert!(accounted >= 0.98 * whole, "{operation}: {accounted} of {whole}");
        assert!(step("compute") < 0.9 * whole, "{operation}: what is waited for is not computed");
        for needed in ["pool_wait", "tx_begin", "lock_wait", "statements", "tx_commit"] {
            assert!(step(needed) > 0.0, "{operation}: {needed}");
        }
    }
    let calls = |operation: &str| {
        let series = format!(r#"payments_step_duration_seconds_sum{{operation="{operation}",step="pg_call"}}"#);
        scrape.value(&series)
    };
    assert!(calls("confirm") >= 0.3 && calls("cancel") >= 0.3, "the PG's time is the PG's");
    assert!(same(calls("order_create"), 0.0));
    for resource in ["order", "payment", "cancellation", "idempotency", "webhook", "stock"] {
        let count = scrape.value(&format!(r#"payments_db_lock_wait_seconds_count{{resource="{resource}"}}"#));
        assert!(count > 0.0, "{resource}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_workers_one_shows_the_figures_and_the_other_takes_over() {
    let mut first = Served::start(&[]).await;
    let leads = async |served: &Served| {
        let scrape = Scrape::of(served).await;
        let shown = scrape.0.get("payments_overview_leader").copied()?;
        let figure = scrape.value(r#"payments_in_state{aggregate="order",status="pending"}"#);
        // Who does not lead shows NaN; a scrape may fall into the middle of the change, and says nothing then.
        (figure.is_nan() == (shown < 0.5)).then_some(shown > 0.5)
    };
    eventually("the first leads", PATIENCE, async || leads(&first).await.filter(|leads| *leads)).await;
    let (mock, secret) = (std::sync::Arc::clone(&first.mock), first.secret.token().to_owned());
    let second = Served::beside(mock, first.database.clone(), &secret, &[]).await.expect("it serves");
    eventually("the second knows that it does not", PATIENCE, async || leads(&second).await.filter(|leads| !leads))
        .await;
    // Several rounds of both: it stays as it is.
    for _ in 0..3 {
        let before = Scrape::of(&first).await.value("payments_overview_last_success_timestamp_seconds");
        eventually("another round", PATIENCE, async || {
            let scrape = Scrape::of(&first).await;
            (scrape.value("payments_overview_last_success_timestamp_seconds") > before).then_some(())
        })
        .await;
        assert_eq!((leads(&first).await, leads(&second).await), (Some(true), Some(false)));
    }
    first.kill().await;
    eventually("the second leads", PATIENCE, async || leads(&second).await.filter(|leads| *leads)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_show_the_figures_ends_with_its_session() {
    let shop = Shop::without_worker().await;
    let lead = async || {
        let pool = connect::pool(&shop.database).await.expect("a pool");
        Lead::new(Db::new(pool, 2, CrashSwitch::default()))
    };
    let (mut one, mut two) = (lead().await, lead().await);
    assert!(one.look().await.expect("figures").is_some());
    assert!(two.look().await.expect("an answer").is_none());
    assert!(one.look().await.expect("figures").is_some(), "it keeps what it has");
    database::cut_connections(&shop.database).await;
    assert!(one.look().await.is_err(), "its session is gone, and so is its right");
    assert!(two.look().await.is_err());
    eventually("the other one gets it", PATIENCE, async || two.look().await.expect("an answer").map(drop)).await;
    assert!(one.look().await.expect("an answer").is_none());
    drop(two);
    eventually("the first has it again", PATIENCE, async || one.look().await.expect("an answer").map(drop)).await;
    drop(one);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_tell_what_is_open_and_since_when() {
    let served = Served::start(&[]).await;
    let product = new_product(&served, 10).await;
    let order = new_order(&served, &product, 3).await;
    let client = invariants_client(&served.database).await;
    let since = async |query: &str| client.query_one(query, &[]).await.expect("SQL").get::<_, f64>(0);
    let created =
        since(&format!("select extract(epoch from updated_at)::float8 from orders where amount = {}", order.1)).await;
    let key = served.mock.pay(&order.0, order.1);
    served.mock.script(Rule::any(Behaviour::HtmlError { status: 502 }).always());
    eventually("the order is seen", PATIENCE, async || {
        let scrape = Scrape::of(&served).await;
        (scrape.0.get(r#"payments_in_state{aggregate="order",status="pending"}"#) == Some(&1.0)).then_some(())
    })
    .await;
    let scrape = Scrape::of(&served).await;
    let oldest = r#"payments_oldest_in_state_timestamp_seconds{aggregate="order",status="pending"}"#;
    assert!((scrape.value(oldest) - created).abs() < 0.01);
    assert!(same(scrape.value("payments_stock_held_units"), 3.0));
    assert!(same(scrape.value(r#"payments_oldest_unresolved_timestamp_seconds{kind="confirm"}"#), 0.0));
    confirm(&served, &order, &key).await.expect(StatusCode::ACCEPTED);
    let at_risk = r#"payments_unresolved_amount_minor_units{kind="confirm",currency="KRW"}"#;
    eventually("the doubt is seen", PATIENCE, async || {
        (Scrape::of(&served).await.0.get(at_risk) == Some(&36_000.0)).then_some(())
    })
    .await;
    let scrape = Scrape::of(&served).await;
    let begun = since("select extract(epoch from confirm_started_at)::float8 from payments").await;
    for series in [
        r#"payments_oldest_in_state_timestamp_seconds{aggregate="payment",status="confirming"}"#,
        r#"payments_oldest_in_state_timestamp_seconds{aggregate="order",status="confirming"}"#,
        r#"payments_oldest_unresolved_timestamp_seconds{kind="confirm"}"#,
    ] {
        assert!((scrape.value(series) - begun).abs() < 1.0, "{series}");
    }
    assert!(same(scrape.value(r#"payments_in_state{aggregate="order",status="confirming"}"#), 1.0));
    assert!(same(scrape.value("payments_stock_held_units"), 3.0));
    assert!(scrape.value("payments_idempotency_oldest_open_timestamp_seconds") > 0.0);
    assert!(scrape.value("payments_db_server_connections") >= 2.0);
    assert!(scrape.value("payments_db_server_connections_max") > scrape.value("payments_db_server_connections"));
    assert!(same(scrape.value(r#"payments_dependency_up{dependency="database"}"#), 1.0));
    assert!(same(scrape.counted("payments_config_info").values().sum(), 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_holds_shows_as_a_blocked_session() {
    let served = Served::start(&[]).await;
    let product = new_product(&served, 10).await;
    let mut client = invariants_client(&served.database).await;
    let holding = client.transaction().await.expect("a transaction");
    holding.batch_execute("select * from stock for update").await.expect("a lock");
    let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let secret = served.secret.clone();
    let waiting = tokio::spawn(async move {
        // Waits for as long as a statement waits for a row, again and again.
        loop {
            secret.post_with_key("/v1/orders", &body).await;
        }
    });
    eventually("the blocked session is seen", PATIENCE.max(Duration::from_secs(60)), async || {
        let scrape = Scrape::of(&served).await;
        let blocked = scrape.0.get("payments_db_blocked_sessions").copied().unwrap_or_default();
        let oldest = scrape.0.get("payments_db_oldest_transaction_timestamp_seconds").copied().unwrap_or_default();
        (blocked >= 1.0 && oldest > 0.0).then_some(())
    })
    .await;
    waiting.abort();
}
