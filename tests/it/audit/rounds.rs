//! The worker's rounds: clean books are clean also while they are written, nothing that commits late is missed, and one
//! process audits at a time.

use std::time::Duration;

use paygauge::config::{AuditSettings, Settings};
use paygauge::crash::CrashSwitch;
use paygauge::db::audit::{lease, release};
use paygauge::db::connect::{self, DbConfig};
use paygauge::db::{Db, DbError};
use paygauge::domain::audit::AuditRule;
use paygauge::payments::audit::audit;
use paygauge::payments::audit::rounds::Auditor;
use paygauge::telemetry::labels::{AuditMode, Tx};
use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{spoil, uuid};
use crate::support::eventually;
use crate::support::served::Served;
use crate::support::shop::{Order, PATIENCE, Shop, ShopOptions, confirm_body, invariants_client, settings};

/// An auditor whose rounds are due as soon as they may be.
async fn auditor(database: &DbConfig, full_interval: Duration) -> Auditor {
    let settings = AuditSettings { interval: Duration::ZERO, full_interval, ..AuditSettings::default() };
    Auditor::new(db(database).await, settings, CancellationToken::new())
}

async fn db(database: &DbConfig) -> Db {
    Db::new(connect::pool(database).await.expect("a pool"), 4, CrashSwitch::default())
}

/// Rounds until each rule has been judged in one that began after this was called.
async fn judge_changed(auditor: &Auditor, shop: &Shop) {
    let began = "select extract(epoch from clock_timestamp())::text";
    let client = invariants_client(&shop.database).await;
    let began: String = client.query_one(began, &[]).await.expect("the time").get(0);
    let done = format!(
        "select count(*) from audit_progress where mode = 'changed' and extract(epoch from proven_until) > {began}"
    );
    eventually("every rule was judged again", PATIENCE, async || {
        auditor.changed().await.expect("a round");
        (usize::try_from(shop.count(&done).await) == Ok(AuditRule::ALL.len())).then_some(())
    })
    .await;
}

/// Judges until every event so far is behind the watermark. Transactions of the whole server can hold it back, those of
/// other tests too.
async fn judge_until_certain(auditor: &Auditor, shop: &Shop) {
    let behind =
        "select count(*) from audit_progress where mode = 'changed' and event_id < (select max(id) from events)";
    eventually("every event is certain", PATIENCE, async || {
        judge_changed(auditor, shop).await;
        (shop.count(behind).await == 0).then_some(())
    })
    .await;
}

async fn known(shop: &Shop, rule: AuditRule, mode: &str) -> i64 {
    shop.count(&format!("select violations from audit_progress where rule = '{rule}' and mode = '{mode}'")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_find_what_is_wrong_in_what_changed_and_a_full_run_what_is_wrong_anywhere() {
    let shop = Shop::without_worker().await;
    let product = shop.product(6_000, 50).await;
    let old = shop.order(&product, 1).await;
    let auditor = auditor(&shop.database, Duration::ZERO).await;
    judge_until_certain(&auditor, &shop).await;
    spoil(&shop.database, &format!("update orders set amount = amount + 1 where id = '{}'", uuid(&old))).await;
    judge_changed(&auditor, &shop).await;
    assert_eq!(known(&shop, AuditRule::OrderTotal, "changed").await, 0, "nothing tells of a hand at an old row");

    let new = shop.order(&product, 1).await;
    spoil(&shop.database, &format!("update order_items set unit_price = 1 where order_id = '{}'", uuid(&new))).await;
    judge_changed(&auditor, &shop).await;
    assert_eq!(known(&shop, AuditRule::OrderTotal, "changed").await, 1);
    assert_eq!(auditor.full().await.expect("a run"), AuditRule::ALL.len());
    assert_eq!(known(&shop, AuditRule::OrderTotal, "full").await, 2);

    // What was found stands until it is right, although it does not change.
    judge_changed(&auditor, &shop).await;
    assert_eq!(known(&shop, AuditRule::OrderTotal, "changed").await, 2);
    let repair =
        "update orders o set amount = (select sum(quantity * unit_price) from order_items where order_id = o.id)";
    spoil(&shop.database, repair).await;
    judge_changed(&auditor, &shop).await;
    assert_eq!(known(&shop, AuditRule::OrderTotal, "changed").await, 0);
    let standing = "select count(*) from audit_progress where cardinality(standing) > 0";
    assert_eq!(shop.count(standing).await, 0);
}

/// A statement of the audit may take longer than one of a request, so what bounds the work of requests must not end it.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_takes_longer_than_a_request_may_is_judged() {
    let shop = Shop::without_worker().await;
    let hasty = db(&shop.database).await.answering_within(Duration::from_millis(500));
    let settings = AuditSettings { interval: Duration::ZERO, ..AuditSettings::default() };
    let auditor = Auditor::new(hasty.clone(), settings.clone(), CancellationToken::new());
    let client = invariants_client(&shop.database).await;
    client.batch_execute("begin; lock table api_keys in access exclusive mode").await.expect("a lock");
    let release = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        client.batch_execute("commit").await.expect("the end");
    };
    let full =
        async { (audit(&hasty, &settings, AuditRule::ALL).await, auditor.full().await, auditor.changed().await) };
    let (judged, ()) = tokio::join!(full, release);
    let all = AuditRule::ALL.len();
    assert_eq!(judged.0.expect("an audit").rules.len(), all);
    assert_eq!((judged.1.expect("a run"), judged.2.expect("a round")), (all, all));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_that_was_adjusted_is_judged_although_no_event_tells_of_it() {
    let shop = Shop::without_worker().await;
    let auditor = auditor(&shop.database, Duration::ZERO).await;
    judge_changed(&auditor, &shop).await;
    let product = shop.product(6_000, 50).await;
    judge_changed(&auditor, &shop).await;
    assert_eq!(known(&shop, AuditRule::StockConserved, "changed").await, 0);
    spoil(&shop.database, "update stock set available = available - 1").await;
    let restock = json!({ "delta": 1, "kind": "restock", "reason": "more" });
    let path = format!("/v1/products/{product}/stock-adjustments");
    shop.secret.post(&path, &restock).await.expect(StatusCode::CREATED);
    judge_changed(&auditor, &shop).await;
    assert_eq!(known(&shop, AuditRule::StockConserved, "changed").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_commits_late_is_judged_although_later_events_were_seen_before() {
    let shop = Shop::without_worker().await;
    let product = shop.product(6_000, 50).await;
    let late = shop.order(&product, 1).await;
    let auditor = auditor(&shop.database, Duration::ZERO).await;
    judge_until_certain(&auditor, &shop).await;

    let slow = invariants_client(&shop.database).await;
    let id = uuid(&late);
    let change = format!(
        "begin; update order_items set unit_price = 1 where order_id = '{id}';
         insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor)
             values ('order', '{id}', 2, '{id}', 'OrderConfirmStarted', 'pending', 'confirming', 'test')"
    );
    slow.batch_execute(&change).await.expect("a transaction that takes its time");
    for _ in 0..3 {
        shop.order(&product, 1).await;
        judge_changed(&auditor, &shop).await;
    }
    assert_eq!(known(&shop, AuditRule::OrderTotal, "changed").await, 0, "nothing is committed yet");
    slow.batch_execute("commit").await.expect("a commit");
    judge_changed(&auditor, &shop).await;
    assert_eq!(known(&shop, AuditRule::OrderTotal, "changed").await, 1);
    // And once all is certain, a round no longer begins so far back.
    judge_until_certain(&auditor, &shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_workers_one_audits_at_a_time() {
    let shop = Shop::without_worker().await;
    shop.product(6_000, 50).await;
    let day = Duration::from_secs(86_400);
    let mut auditors = Vec::new();
    for _ in 0..6 {
        auditors.push(auditor(&shop.database, day).await);
    }
    let runs = futures_util::future::join_all(auditors.iter().map(Auditor::full)).await;
    let ran: Vec<usize> = runs.into_iter().map(|run| run.expect("a run")).filter(|rules| *rules > 0).collect();
    assert_eq!(ran, [AuditRule::ALL.len()], "one run, by one of them");

    // While another process has the lease, nobody else works.
    let (db, other, minute) = (db(&shop.database).await, uuid::Uuid::now_v7(), Duration::from_secs(60));
    let take = db.transaction(Tx::Audit, async |conn| lease(conn, AuditMode::Changed, other, minute).await);
    assert!(take.await.expect("a lease"));
    for auditor in &auditors {
        assert_eq!(auditor.changed().await.expect("a round"), 0);
    }
    assert_eq!(shop.count("select count(*) from audit_progress where mode = 'changed'").await, 0);
    let give = db.transaction(Tx::Audit, async |conn| release(conn, AuditMode::Changed, other).await);
    give.await.map_err(|error: DbError| error.to_string()).expect("given back");
    assert_eq!(auditors[0].changed().await.expect("a round"), AuditRule::ALL.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_auditor_sees_nothing_wrong_while_buyers_and_cancels_race() {
    let audit = AuditSettings {
        interval: Duration::from_millis(10),
        full_interval: Duration::from_millis(300),
        page_rows: 3,
        ..AuditSettings::default()
    };
    let settings = Settings { audit, ..settings() };
    let shop = Shop::with(ShopOptions { settings, ..ShopOptions::default() }).await;
    let (beans, cup) = (shop.product(6_000, 25).await, shop.product(4_000, 1_000).await);
    // None whose payment the PG may never have begun: that one is waited for until it can no longer come.
    for behaviour in [Behaviour::ApproveThenHang { ms: 1_500 }, Behaviour::ApproveThenDrop, Behaviour::Garbage] {
        shop.mock.script(Rule::confirm(behaviour));
    }
    let buyer = async |number: usize| {
        for round in 0..8 {
            let lines = json!([{ "productId": beans, "quantity": 1 }, { "productId": cup, "quantity": 2 }]);
            let placed = shop.publishable.post_with_key("/v1/orders", &json!({ "lines": lines })).await;
            if placed.status != StatusCode::CREATED {
                continue;
            }
            let order = Order {
                id: placed.text("id"),
                amount: placed.number("amount"),
                buyer: paygauge_client(&shop, &placed.text("checkoutToken")),
            };
            let body = confirm_body(&order, &shop.pay(&order));
            let cancel = json!({ "reason": "never mind" });
            let path = format!("/v1/orders/{}/cancel", order.id);
            let canceling = async {
                if (number + round).is_multiple_of(3) {
                    shop.secret.post_with_key(&path, &cancel).await;
                }
            };
            let (confirmed, ()) = tokio::join!(order.buyer.post("/v1/payments/confirm", &body), canceling);
            if let Some(payment) = confirmed.body["id"].as_str().filter(|id| id.starts_with("pay_")) {
                let part = json!({ "reason": "one", "lines": [{ "line": 2, "quantity": 1 }] });
                let all = json!({ "reason": "all" });
                tokio::join!(shop.cancel(payment, &part), shop.cancel(payment, &all));
            }
        }
    };
    futures_util::future::join_all((0..8).map(buyer)).await;
    eventually("a run over every row, after all of that", PATIENCE, async || {
        let late = "select count(*) from audit_progress
                    where proven_until > (select max(occurred_at) from events)";
        (usize::try_from(shop.count(late).await) == Ok(2 * AuditRule::ALL.len())).then_some(())
    })
    .await;
    // Judges once more, and fails if any round of the worker has seen anything.
    shop.close().await;
}

fn paygauge_client(shop: &Shop, token: &str) -> crate::support::shop::Client {
    crate::support::shop::Client::new(&shop.base, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_shows_what_is_proven_and_tells_once_what_is_not() {
    let served = Served::start(&[("PAYGAUGE_AUDIT_SECONDS", "1"), ("PAYGAUGE_AUDIT_FULL_SECONDS", "2")]).await;
    let begun = served.metrics().await;
    for rule in AuditRule::ALL {
        assert!(begun.contains(&format!("payments_audit_violations{{rule=\"{rule}\"}} 0")), "{rule} from the start");
    }
    let product = json!({ "name": "Coffee beans", "price": 6_000, "initialStock": 5 });
    let product = served.secret.post("/v1/products", &product).await.expect(StatusCode::CREATED).text("id");
    let order = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let order = served.secret.post_with_key("/v1/orders", &order).await.expect(StatusCode::CREATED).text("id");
    let positive = |text: &str, series: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse::<f64>().ok());
        value.is_some_and(|value| value > 0.0)
    };
    for mode in ["changed", "full"] {
        let rows = format!("payments_audit_rows_checked_total{{rule=\"order_total\",mode=\"{mode}\"}} ");
        let until = format!("payments_audit_proven_until_timestamp_seconds{{rule=\"order_total\",mode=\"{mode}\"}} ");
        eventually(&format!("{mode}: rows and time"), PATIENCE, async || {
            let text = served.metrics().await;
            (positive(&text, &rows) && positive(&text, &until)).then_some(())
        })
        .await;
    }
    let id = order.trim_start_matches("ord_");
    spoil(&served.database, &format!("update order_items set unit_price = 1 where order_id = '{id}'")).await;
    let path = format!("/v1/orders/{order}/cancel");
    served.secret.post_with_key(&path, &json!({ "reason": "enough" })).await.expect(StatusCode::OK);
    eventually("the gauge shows it", PATIENCE, async || {
        served.metrics().await.contains("payments_audit_violations{rule=\"order_total\"} 1").then_some(())
    })
    .await;
    let told = served.lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    let told: Vec<Value> = told.filter(|line| line["rule"] == "order_total").collect();
    assert!(told.iter().all(|line| line["level"].as_str().is_some_and(|level| level.eq_ignore_ascii_case("error"))));
    let ids = told.first().and_then(|line| line["ids"].as_str()).expect("a line with ids");
    assert!(ids.replace('-', "").contains(id), "{ids}");
}
