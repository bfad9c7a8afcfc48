//! Many at once on the same rows: no deadlock, and whoever loses one all the same is told or repeated, never lost.
//! `docs/concurrency.md` lists the races, and which test decides each.

use std::time::Duration;

use paygauge::db;
use paygauge::payments::{recovery, webhook};
use paygauge::telemetry::labels::Tx;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_postgres::Client as Session;

use crate::support::served::Served;
use crate::support::shop::{Answer, PATIENCE, Shop, ShopOptions, invariants_client};
use crate::support::{database, eventually, invariants};

const DEADLOCKS: &str = "select deadlocks from pg_stat_database where datname = current_database()";

async fn number(session: &Session, query: &str) -> i64 {
    session.query_one(query, &[]).await.expect("SQL").get(0)
}

/// What one client of the crowd does, so that all kinds of transactions meet on the same three products.
async fn be_a_client(served: &Served, session: &Session, products: &[String; 3], client: usize) -> Vec<Answer> {
    let mut answers = Vec::new();
    for round in 0..6 {
        let mut lines: Vec<Value> =
            products.iter().map(|product| json!({ "productId": product, "quantity": 2 })).collect();
        lines.rotate_left((client + round) % 3);
        if client.is_multiple_of(2) {
            lines.reverse();
        }
        let placed = served.secret.post_with_key("/v1/orders", &json!({ "lines": lines })).await;
        let (order, amount) = (placed.text("id"), placed.number("amount"));
        answers.push(placed);
        let key = served.mock.pay(&order, amount);
        let confirm = json!({ "paymentKey": key, "orderId": order, "amount": amount });
        let confirm = async || served.secret.post("/v1/payments/confirm", &confirm).await;
        let cancel =
            async |body: Value| served.secret.post_with_key(&format!("/v1/orders/{order}/cancel"), &body).await;
        match (client + round) % 4 {
            0 => answers.extend(<[_; 2]>::from(tokio::join!(confirm(), confirm()))),
            1 => answers.extend(<[_; 2]>::from(tokio::join!(confirm(), cancel(json!({ "reason": "never mind" }))))),
            2 => {
                let over = format!(
                    "update orders set hold_expires_at = now() where status = 'pending'
                    and replace(id::text, '-', '') = '{}'",
                    order.trim_start_matches("ord_")
                );
                session.batch_execute(&over).await.expect("SQL");
                answers.push(confirm().await);
            }
            _ => {
                let paid = confirm().await;
                let path = format!("/v1/payments/{}/cancel", paid.text("id"));
                answers.push(paid);
                let part = |line: usize| json!({ "reason": "part", "lines": [{ "line": line, "quantity": 1 }] });
                let (one, other) = (part(1 + round % 3), part(1 + (round + 1) % 3));
                let cancels =
                    tokio::join!(served.secret.post_with_key(&path, &one), served.secret.post_with_key(&path, &other),);
                answers.extend(<[_; 2]>::from(cancels));
            }
        }
        let counted =
            json!({ "delta": if round % 2 == 0 { 3 } else { -3 }, "kind": "correction", "reason": "counted" });
        let path = format!("/v1/products/{}/stock-adjustments", products[(client + round) % 3]);
        answers.push(served.secret.post(&path, &counted).await);
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_does_everything_at_once_meets_no_deadlock() {
    let mut served = Served::start(&[]).await;
    let mut products: [String; 3] = Default::default();
    for product in &mut products {
        let body = json!({ "name": "Beans", "price": 1_000, "initialStock": 1_000 });
        *product = served.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id");
    }
    let session = invariants_client(&served.database).await;
    let crowd = (0..8).map(|client| be_a_client(&served, &session, &products, client));
    let answers: Vec<Answer> = futures_util::future::join_all(crowd).await.into_iter().flatten().collect();
    for answer in &answers {
        // 503 would be a wait that was given up.
        assert!(!answer.status.is_server_error(), "{} {}", answer.status, answer.raw);
    }
    invariants::quiet(&session).await;
    invariants::rules(&served.database).await;
    let metrics = served.metrics().await;
    let contended: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("payments_db_transaction_contention_total{") && !line.ends_with(" 0"))
        .collect();
    assert!(metrics.contains("payments_db_transaction_contention_total{"), "the counter is there");
    assert!(contended.is_empty(), "{contended:?}");
    served.terminate();
    served.ended().await;
    // A server process hands its figures in when it ends, at the latest.
    assert_eq!(number(&session, DEADLOCKS).await, 0);
    let panics: Vec<String> = served.lines().into_iter().filter(|line| line.contains("panicked")).collect();
    assert!(panics.is_empty(), "{panics:?}");
    println!("{} requests at once, no deadlock", answers.len());
}

/// A shop whose server takes its time to look for deadlocks, and a session that never looks: so ours is the victim.
async fn shop_with_a_rival() -> (Shop, Session) {
    let database = database::fresh().await;
    let rival = invariants_client(&database).await;
    let name: String = rival.query_one("select current_database()::text", &[]).await.expect("SQL").get(0);
    rival.batch_execute(&format!("alter database {name} set deadlock_timeout = '4s'")).await.expect("SQL");
    rival.batch_execute("set deadlock_timeout = '1h'").await.expect("SQL");
    let options = ShopOptions { worker: false, webhooks: false, ..ShopOptions::default() };
    (Shop::on(database, options).await, rival)
}

/// Takes the locks of payment and order the wrong way round, the second once somebody of ours waits for the first.
async fn provoke_a_deadlock(shop: &Shop, rival: &Session) {
    let waits = "select count(*) from pg_stat_activity where datname = current_database()
                 and application_name = 'paygauge' and wait_event_type = 'Lock'";
    eventually("somebody waits", PATIENCE, async || (shop.count(waits).await > 0).then_some(())).await;
    rival.batch_execute("select 1 from orders for update; rollback").await.expect("the rival wins");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_that_loses_a_deadlock_is_busy_and_its_key_can_be_used_again() {
    let (shop, rival) = shop_with_a_rival().await;
    let product = shop.product(12_000, 5).await;
    let (_, payment) = shop.paid(&product, 1).await;
    rival.batch_execute("begin; select 1 from payments for update").await.expect("SQL");
    let (path, body) = (format!("/v1/payments/{payment}/cancel"), json!({ "reason": "changed my mind" }));
    let (lost, ()) = tokio::join!(shop.secret.post_as(&path, &body, "one"), provoke_a_deadlock(&shop, &rival));
    let lost = lost.problem(StatusCode::SERVICE_UNAVAILABLE, "busy");
    assert!(lost.header("retry-after").is_some());
    shop.secret.post_as(&path, &body, "one").await.expect(StatusCode::OK);
    assert_eq!(shop.available(&product).await, 5);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolution_that_loses_a_deadlock_is_tried_again_at_once() {
    let (shop, rival) = shop_with_a_rival().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.mock.pay_by_virtual_account(&order.id, order.amount);
    shop.confirm(&order, &key).await.expect(StatusCode::OK);
    shop.mock.deposit(&key);
    rival.batch_execute("begin; select 1 from payments for update").await.expect("SQL");
    let notice = json!({ "eventType": "PAYMENT_STATUS_CHANGED", "data": { "paymentKey": key, "status": "DONE" } });
    let sent = shop.publishable.raw(reqwest::Method::POST, "/v1/webhooks/toss").json(&notice).send().await;
    assert_eq!(sent.expect("an answer").status(), StatusCode::OK);
    let (read, ()) = tokio::join!(webhook::apply_batch(shop.running.app()), provoke_a_deadlock(&shop, &rival));
    assert_eq!(read.expect("a batch"), 1);
    assert_eq!(shop.order_now(&order.id).await.text("status"), "paid");
    let once = "select count(*) from webhook_inbox where outcome = 'changed' and attempts = 1";
    assert_eq!(shop.count(once).await, 1);
    eventually("the deadlock is counted", PATIENCE, async || (number(&rival, DEADLOCKS).await == 1).then_some(()))
        .await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_ask_about_one_payment_once() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(pg_mock::Rule::confirm(pg_mock::Behaviour::ApproveThenDrop));
    shop.confirm(&order, &key).await.expect(StatusCode::ACCEPTED);
    shop.sql("update payments set inquire_at = now()").await;
    let before = shop.mock.book().calls.lookup;
    let (app, other) = (shop.running.app(), shop.running.app());
    let rounds = tokio::join!(recovery::recover_batch(app), recovery::recover_batch(other));
    assert_eq!(rounds.0.expect("a round") + rounds.1.expect("a round"), 1, "one of them has it in hand");
    assert_eq!(shop.mock.book().calls.lookup, before + 1);
    assert_eq!(shop.order_now(&order.id).await.text("status"), "paid");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correction_and_orders_race_for_the_last_units_and_stock_stays_above_zero() {
    let shop = Shop::without_worker().await;
    let product = shop.product(1_000, 10).await;
    let adjust = json!({ "delta": -5, "kind": "correction", "reason": "counted" });
    let path = format!("/v1/products/{product}/stock-adjustments");
    let place = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let corrections = futures_util::future::join_all((0..2).map(|_| shop.secret.post(&path, &adjust)));
    let orders = futures_util::future::join_all((0..8).map(|_| shop.secret.post_with_key("/v1/orders", &place)));
    let (corrections, orders) = tokio::join!(corrections, orders);
    let done = |answers: &[Answer]| {
        i64::try_from(answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count()).expect("a count")
    };
    for refused in corrections.iter().chain(&orders).filter(|answer| answer.status != StatusCode::CREATED) {
        assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.raw);
    }
    assert_eq!(shop.available(&product).await, 10 - 5 * done(&corrections) - done(&orders));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_leaves_what_others_hold_and_waits_for_nobody() {
    let shop = Shop::without_worker().await;
    let product = shop.product(1_000, 10).await;
    let place = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    for key in ["held", "free"] {
        shop.secret.post_as("/v1/orders", &place, key).await.expect(StatusCode::CREATED);
    }
    // Those that lie in no partition of their time; all others go with theirs.
    shop.sql(
        "update idempotency_keys
         set under_lock = true, created_at = now() - interval '3 years', expires_at = now() - interval '1 day'",
    )
    .await;
    let holder = invariants_client(&shop.database).await;
    holder.batch_execute("begin; select 1 from idempotency_keys where key = 'held' for update").await.expect("SQL");
    let sweep = async || {
        let swept = shop
            .running
            .app()
            .db
            .transaction(Tx::Housekeeping, async |conn| db::idempotency::delete_left(conn, 100).await);
        tokio::time::timeout(Duration::from_secs(9), swept).await.expect("no wait for the lock").expect("a sweep")
    };
    assert_eq!(sweep().await, 1);
    holder.batch_execute("rollback").await.expect("SQL");
    assert_eq!(sweep().await, 1);
    shop.close().await;
}
