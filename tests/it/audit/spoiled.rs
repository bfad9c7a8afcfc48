//! Each rule finds the row that was spoiled for it, and no other rule does.

use std::collections::BTreeSet;

use paygauge::config::AuditSettings;
use paygauge::domain::audit::AuditRule;
use paygauge::payments::{expire, webhook};
use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::json;

use super::{broken, spoil, uuid};
use crate::support::database;
use crate::support::invariants::audited;
use crate::support::shop::{Order, Shop, http};

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
        "insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor)
          select aggregate, aggregate_id, seq, '{pending}', kind, from_status, to_status, actor
          from events where aggregate = 'payment' and order_id = '{partly}' and seq = 1",
    ),
    (
        AuditRule::KeyAnswered,
        "idempotency_keys",
        "update idempotency_keys set resource_id = gen_random_uuid() where resource_id = '{pending}'",
    ),
    (
        AuditRule::KeyAnswered,
        "idempotency_keys",
        "insert into idempotency_keys (owner, route, key, fingerprint, status, resource_id, response_status, response_body,
            lease_until, created_at, expires_at, under_lock)
          select owner, route, key, fingerprint, status, resource_id, response_status, response_body,
            lease_until, now() - interval '10 years', expires_at, true
          from idempotency_keys where status = 'done' limit 1",
    ),
    (AuditRule::WebhookWhole, "webhook_inbox", "update webhook_inbox set payload = 'x' where processed_at is not null"),
    (
        AuditRule::WebhookWhole,
        "webhook_inbox",
        "insert into webhook_inbox (id, provider, dedupe_key, payload, processed_at, outcome)
          select id_at(now() - interval '10 days'), provider, dedupe_key, payload, processed_at, outcome
          from webhook_inbox where processed_at is not null limit 1",
    ),
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
