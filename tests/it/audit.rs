//! The auditor: each rule finds the row that was spoiled for it and no other rule does, clean books are clean also while
//! they are written, nothing that commits late is missed, and one process audits at a time.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Duration;

use paygauge::config::{AuditSettings, Settings};
use paygauge::crash::CrashSwitch;
use paygauge::db::audit::{lease, release};
use paygauge::db::connect::{self, DbConfig};
use paygauge::db::{Db, DbError};
use paygauge::domain::audit::{AuditRule, AuditSeverity};
use paygauge::payments::audit::rounds::Auditor;
use paygauge::payments::audit::{Report, audit};
use paygauge::payments::{expire, webhook};
use paygauge::telemetry::labels::{AuditMode, Tx};
use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::invariants::audited;
use crate::support::served::Served;
use crate::support::shop::{Order, PATIENCE, Shop, ShopOptions, confirm_body, http, invariants_client, settings};
use crate::support::{database, eventually};

/// A spoiled row: the rule that must find it, the table it is in, and the statements that spoil it. `{…}` is an order
/// of [`Fixture`].
const SPOILED: &[(AuditRule, &str, &str)] = &[
    (
        AuditRule::StockConserved,
        "stock",
        "update stock set available = available + 1 where product_id = (select min(id::text)::uuid from products)",
    ),
    (
        AuditRule::StockAdjusted,
        "stock_adjustments",
        "update stock_adjustments set available_after = available_after + 1
      where id = (select min(id::text)::uuid from stock_adjustments)",
    ),
    (
        AuditRule::ProductWhole,
        "products",
        "alter table products drop constraint products_price_positive;
      update products set price = 0 where id = (select min(id::text)::uuid from products)",
    ),
    (AuditRule::ProductWhole, "stock", "insert into stock values (gen_random_uuid(), 0)"),
    (AuditRule::OrderTotal, "orders", "update orders set amount = amount + 1 where id = '{pending}'"),
    (
        AuditRule::OrderTotal,
        "order_items",
        "update order_items set unit_price = unit_price + 1 where order_id = '{pending}'",
    ),
    (
        AuditRule::OrderMoney,
        "orders",
        "update orders set status = 'paid', version = version + 1 where id = '{waiting}';
      insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor)
          select 'order', id, version, id, 'OrderPaid', 'awaiting_deposit', 'paid', 'test'
          from orders where id = '{waiting}'",
    ),
    (
        AuditRule::LineOwner,
        "order_items",
        "update order_items set product_id = gen_random_uuid() where order_id = '{expired}'",
    ),
    (AuditRule::LineUnits, "order_items", "update order_items set canceling_quantity = 1 where order_id = '{pending}'"),
    (
        AuditRule::LineUnits,
        "cancellation_items",
        "update cancellation_items set quantity = quantity + 1
      where order_id = '{partly}'",
    ),
    (AuditRule::PaymentAmount, "payments", "update payments set amount = amount + 1 where status = 'declined'"),
    (
        AuditRule::PaymentLiveOnce,
        "payments",
        "drop index payments_one_live_per_order;
      insert into payments (id, order_id, provider, provider_payment_key, status, amount, currency, approved_amount,
              approved_at, version)
          select '0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5e', order_id, provider, 'another key', 'approved', amount,
              currency, amount, now(), 2 from payments where status = 'approved';
      insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor)
          select 'payment', id, 1, order_id, 'PaymentConfirmStarted', null, 'confirming', 'test' from payments
              where provider_payment_key = 'another key'
          union all select 'payment', id, 2, order_id, 'PaymentApproved', 'confirming', 'approved', 'test' from payments
              where provider_payment_key = 'another key'",
    ),
    (AuditRule::PaymentFacts, "payments", "update payments set approved_at = null where order_id = '{partly}'"),
    (
        AuditRule::PaymentCapacity,
        "payments",
        "alter table payments drop constraint payments_capacity;
      update payments set approved_amount = approved_amount - 1 where status = 'reversing'",
    ),
    (
        AuditRule::PaymentCanceled,
        "payments",
        "update payments set canceled_amount = canceled_amount + 1 where order_id = '{partly}'",
    ),
    (
        AuditRule::PaymentCanceled,
        "cancellations",
        "update cancellations set amount = amount - 1 where order_id = '{open}'",
    ),
    (
        AuditRule::PaymentEmptied,
        "payments",
        "update cancellations set amount = amount - 1, moved_amount = moved_amount - 1 where order_id = '{returned}';
      update payments set canceled_amount = canceled_amount - 1 where order_id = '{returned}'",
    ),
    (
        AuditRule::ReversalReturned,
        "cancellations",
        "update cancellations set status = 'refused', refusal_class = 'other', inquire_at = null, version = version + 1
          where origin = 'compensation';
      insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor)
          select 'cancellation', id, version, order_id, 'CancellationRefused', 'requested', 'refused', 'test'
          from cancellations where origin = 'compensation';
      update payments set canceling_amount = 0 where status = 'reversing'",
    ),
    (
        AuditRule::FactBookedOnce,
        "payments",
        "alter table payments drop constraint payments_transaction_once;
      update payments set provider_transaction_key = 'the same' where order_id in ('{partly}', '{returned}')",
    ),
    (
        AuditRule::FactBookedOnce,
        "cancellations",
        "alter table cancellations drop constraint cancellations_transaction_once;
      update cancellations set provider_transaction_key = 'the same' where order_id in ('{partly}', '{returned}')",
    ),
    (
        AuditRule::CancellationOwner,
        "cancellations",
        "update cancellations set provider = 'another' where order_id = '{partly}'",
    ),
    (
        AuditRule::CancellationFacts,
        "cancellations",
        "alter table cancellations drop constraint cancellations_done_has_proof;
      update cancellations set provider_transaction_key = null where order_id = '{partly}'",
    ),
    (
        AuditRule::OpenInquired,
        "payments",
        "alter table payments drop constraint payments_unresolved_is_inquired;
      update payments set inquire_at = null where order_id = '{doubtful}'",
    ),
    (
        AuditRule::HistoryGapless,
        "events",
        "delete from events where aggregate = 'payment' and order_id = '{partly}' and seq = 2",
    ),
    (AuditRule::HistoryStatus, "payments", "update payments set status = 'expired' where status = 'declined'"),
    (
        AuditRule::HistoryChain,
        "events",
        "update events set from_status = 'partially_canceled'
      where kind = 'PaymentPartiallyCanceled' and order_id = '{partly}'",
    ),
    (
        AuditRule::HistoryLegal,
        "events",
        "update events set kind = 'PaymentDeclined' where kind = 'PaymentApproved' and order_id = '{partly}'",
    ),
    (
        AuditRule::HistoryOwner,
        "events",
        "update events set order_id = '{pending}' where aggregate = 'payment' and order_id = '{partly}' and seq = 1",
    ),
    (
        AuditRule::KeyAnswered,
        "idempotency_keys",
        "update idempotency_keys set resource_id = gen_random_uuid() where resource_id = '{pending}'",
    ),
    (AuditRule::WebhookWhole, "webhook_inbox", "update webhook_inbox set payload = 'x' where processed_at is not null"),
    (AuditRule::ApiKeyWhole, "api_keys", "update api_keys set hash = 'x' where role = 'secret'"),
    (AuditRule::FindingWhole, "findings", "update findings set status = 'closed'"),
    (
        AuditRule::StuckConfirm,
        "payments",
        "update payments set confirm_started_at = now() - interval '1 day' where order_id = '{doubtful}'",
    ),
    (
        AuditRule::StuckCancel,
        "cancellations",
        "update cancellations set created_at = now() - interval '1 day' where order_id = '{open}'",
    ),
    (
        AuditRule::StuckDeposit,
        "payments",
        "update payments set deposit_due_at = now() - interval '1 day' where order_id = '{waiting}'",
    ),
    (
        AuditRule::StuckHold,
        "orders",
        "update orders set hold_expires_at = now() - interval '1 day' where id = '{pending}'",
    ),
    (
        AuditRule::StuckWebhook,
        "webhook_inbox",
        "update webhook_inbox set received_at = now() - interval '1 day' where processed_at is null",
    ),
];

/// The tables of the first migration.
const TABLES: [&str; 13] = [
    "products",
    "stock",
    "stock_adjustments",
    "orders",
    "order_items",
    "payments",
    "cancellations",
    "cancellation_items",
    "idempotency_keys",
    "webhook_inbox",
    "events",
    "api_keys",
    "findings",
];

/// A finding as a reconciliation files it.
const FINDING: &str = "with filed as (
        insert into findings (id, provider, dedupe_key, kind, status, provider_payment_key, provider_order_id, reason)
        values (gen_random_uuid(), 'toss', 'x', 'missing_here', 'waiting', 'key', 'elsewhere', 'not our order')
        returning id)
    insert into finding_history (finding_id, seq, status, reason, actor)
    select id, 1, 'waiting', 'not our order', 'reconcile' from filed";

/// Books in which every rule has rows to judge.
struct Fixture {
    orders: Vec<(&'static str, Order)>,
}

impl Fixture {
    async fn write(shop: &Shop) -> Self {
        let (beans, cup) = (shop.product(6_000, 50).await, shop.product(4_000, 50).await);
        let expired = shop.order(&beans, 1).await;
        shop.sql("update orders set hold_expires_at = now()").await;
        expire::expire_batch(shop.running.app(), None).await.expect("a batch");
        let (partly, payment) = {
            let order = shop.order_of(&[(&beans, 3), (&cup, 1)]).await;
            let key = shop.pay(&order);
            let payment = shop.confirm(&order, &key).await.expect(StatusCode::OK).text("id");
            (order, payment)
        };
        let one = json!({ "reason": "one", "lines": [{ "line": 1, "quantity": 1 }] });
        shop.cancel(&payment, &one).await.expect(StatusCode::OK);
        let (returned, payment) = shop.paid(&cup, 2).await;
        shop.cancel(&payment, &json!({ "reason": "all" })).await.expect(StatusCode::OK);
        let (open, payment) = shop.paid(&cup, 2).await;
        let fails = || Behaviour::ErrorBefore { status: 500, code: "FAILED_INTERNAL_SYSTEM_PROCESSING".to_owned() };
        shop.mock.script(Rule::cancel(fails()));
        shop.cancel(&payment, &json!({ "reason": "part", "amount": 1_000 })).await.expect(StatusCode::ACCEPTED);
        let declined =
            Self::confirmed(shop, &beans, Behaviour::Decline { code: "REJECT_CARD_PAYMENT".to_owned() }).await;
        let reversing = Self::confirmed(shop, &beans, Behaviour::MismatchedAmount { amount: 20_000 }).await;
        let doubtful = Self::confirmed(shop, &beans, fails()).await;
        let (waiting, ..) = shop.awaiting_deposit(&cup).await;
        let pending = shop.order(&cup, 1).await;
        shop.sql(FINDING).await;
        let inbox = format!("{}/v1/webhooks/toss", shop.base);
        for body in ["{\"read\":1}", "{\"unread\":1}"] {
            http().post(&inbox).body(body).send().await.expect("an answer");
            if body.contains("\"read") {
                webhook::apply_batch(shop.running.app()).await.expect("a batch");
            }
        }
        let orders = [
            ("expired", expired),
            ("partly", partly),
            ("returned", returned),
            ("open", open),
            ("declined", declined),
            ("reversing", reversing),
            ("doubtful", doubtful),
            ("waiting", waiting),
            ("pending", pending),
        ];
        Self { orders: orders.into() }
    }

    async fn confirmed(shop: &Shop, product: &str, behaviour: Behaviour) -> Order {
        let order = shop.order(product, 1).await;
        let key = shop.pay(&order);
        shop.mock.script(Rule::confirm(behaviour));
        shop.confirm(&order, &key).await;
        order
    }

    fn fill(&self, sql: &str) -> String {
        let fill = |sql: String, (name, order): &(&str, Order)| sql.replace(&format!("{{{name}}}"), &uuid(order));
        self.orders.iter().fold(sql.to_owned(), fill)
    }
}

fn uuid(order: &Order) -> String {
    order.id.trim_start_matches("ord_").to_owned()
}

/// Runs statements as nobody but a hand at the database could: without triggers and foreign keys.
async fn spoil(database: &DbConfig, sql: &str) {
    let by_hand = format!("set session_replication_role = replica; {sql}");
    invariants_client(database).await.batch_execute(&by_hand).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
}

fn broken(report: &Report) -> BTreeSet<AuditRule> {
    report.rules.iter().filter(|found| found.broken > 0).map(|found| found.rule).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_row_is_found_by_the_rule_that_is_meant_for_it_and_by_no_other() {
    let shop = Shop::without_worker().await;
    let fixture = Fixture::write(&shop).await;
    let clean = audited(&shop.database, &AuditSettings::default()).await;
    assert_eq!(broken(&clean), BTreeSet::new(), "{clean:#?}");
    for found in &clean.rules {
        assert!(found.rows_checked > 0, "{} had nothing to judge", found.rule);
        assert_eq!(found.proven_until, clean.started_at);
    }
    let source = database::closed(&shop.database).await;
    let mut wrong = Vec::new();
    for (rule, table, sql) in SPOILED {
        let copy = database::copy_of(&source).await;
        spoil(&copy, &fixture.fill(sql)).await;
        let report = audited(&copy, &AuditSettings::default()).await;
        if broken(&report) != BTreeSet::from([*rule]) {
            wrong.push(format!("{rule} in {table}: found by {:?}", broken(&report)));
        }
        let ids: usize = report.rules.iter().map(|found| found.ids.len()).sum();
        assert!(ids > 0, "{rule}: a finding has a name");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_rule_and_every_table_has_a_spoiled_row() {
    let rules: BTreeSet<AuditRule> = SPOILED.iter().map(|(rule, ..)| *rule).collect();
    assert_eq!(rules, AuditRule::ALL.iter().copied().collect());
    let tables: BTreeSet<&str> = SPOILED.iter().map(|(_, table, _)| *table).collect();
    assert_eq!(tables, TABLES.into());
    for (rule, table, sql) in SPOILED {
        let changes = [format!("update {table} "), format!("insert into {table} "), format!("delete from {table} ")];
        assert!(changes.iter().any(|change| sql.contains(change.as_str())), "{rule}: {table}");
    }
}

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
    for behaviour in [Behaviour::ApproveThenHang { ms: 1_500 }, Behaviour::DropBefore, Behaviour::Garbage] {
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

fn paygauge(database: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paygauge"));
    command.arg("audit").args(args).env_clear().env("DATABASE_URL", database).output().expect("the program")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_by_its_code_whether_the_books_are_right() {
    let shop = Shop::without_worker().await;
    let product = shop.product(6_000, 50).await;
    let order = shop.order(&product, 1).await;
    let url = shop.database.url.expose_secret().to_owned();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();

    let clean = paygauge(&url, &[]);
    assert_eq!(clean.status.code(), Some(0), "{}", text(&clean.stderr));
    assert!(text(&clean.stdout).contains("the books are right until "), "{}", text(&clean.stdout));

    spoil(&shop.database, "update orders set hold_expires_at = now() - interval '1 day'").await;
    let stuck = paygauge(&url, &["--json"]);
    let said: Value = serde_json::from_slice(&stuck.stdout).expect("JSON");
    assert_eq!((stuck.status.code(), &said["stuck"], &said["clean"]), (Some(0), &json!(1), &json!(true)));

    spoil(&shop.database, "update orders set amount = 1").await;
    let wrong = paygauge(&url, &["--json"]);
    let said: Value = serde_json::from_slice(&wrong.stdout).expect("JSON");
    assert_eq!((wrong.status.code(), &said["violations"], &said["clean"]), (Some(1), &json!(1), &json!(false)));
    let rules = said["rules"].as_array().expect("rules");
    assert_eq!(rules.len(), AuditRule::ALL.len());
    let found = rules.iter().find(|found| found["rule"] == "order_total").expect("the rule");
    assert_eq!(
        (&found["rowsChecked"], &found["broken"], &found["severity"]),
        (&json!(1), &json!(1), &json!("violation"))
    );
    assert_eq!(found["ids"][0].as_str().expect("an id").replace('-', ""), uuid(&order));
    assert!(found["provenUntil"].is_string());
    let shown = paygauge(&url, &[]);
    assert!(text(&shown.stdout).contains("VIOLATION  order_total"), "{}", text(&shown.stdout));
    assert_eq!(paygauge(&url, &["--rule", "stock_conserved"]).status.code(), Some(0), "one rule alone");

    assert_eq!(paygauge(&url, &["--rule", "nonsense"]).status.code(), Some(2));
    assert_eq!(paygauge("postgres://127.0.0.1:1/nothing?sslmode=disable", &[]).status.code(), Some(2));
    assert_eq!(paygauge("nowhere", &["--json"]).status.code(), Some(2));
    let empty = database::empty().await;
    let not_migrated = paygauge(empty.url.expose_secret(), &[]);
    assert_eq!(not_migrated.status.code(), Some(2), "{}", text(&not_migrated.stdout));
}

#[test]
fn only_what_is_stuck_is_of_the_severity_stuck() {
    for rule in AuditRule::ALL {
        assert_eq!(rule.as_str().starts_with("stuck_"), rule.severity() == AuditSeverity::Stuck, "{rule}");
    }
}
