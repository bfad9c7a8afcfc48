//! What must be true whenever nothing is in flight: our rows, the stock and the PG's book agree.

use std::collections::BTreeMap;
use std::time::Duration;

use paygauge::config::AuditSettings;
use paygauge::crash::CrashSwitch;
use paygauge::db::Db;
use paygauge::db::connect::{self, DbConfig};
use paygauge::domain::audit::AuditRule;
use paygauge::payments::audit::{Report, audit};
use tokio_postgres::Client;

use super::eventually;
use super::shop::{Shop, invariants_client};

/// Waits until nothing is in flight, then checks every rule and the PG's book.
pub async fn hold(shop: &Shop) {
    let client = invariants_client(&shop.database).await;
    if shop.has_worker {
        quiet(&client).await;
    }
    rules(&shop.database).await;
    let book = shop.mock.book();
    let mut theirs = BTreeMap::new();
    for payment in &book.payments {
        *theirs.entry(payment.order_id.clone()).or_default() += kept(payment.approved, payment.canceled);
    }
    books_agree(&client, &theirs).await;
    for (key, used) in &book.calls.idempotency_keys {
        assert!(used.body_hashes.len() <= 1, "the PG key {key} was used with two bodies");
    }
}

/// What the PG still has of the buyer's money. An account that was closed before its deposit lists a cancel of money
/// that never came.
pub fn kept(approved: i64, canceled: i64) -> i64 {
    if approved == 0 { 0 } else { approved - canceled }
}

/// Audits our own rows, and has the worker's own auditor never have found anything either.
pub async fn rules(database: &DbConfig) {
    let report = audited(database, &AuditSettings::default()).await;
    let broken: Vec<_> = report.rules.iter().filter(|found| found.broken > 0).collect();
    assert!(broken.is_empty(), "broken: {broken:#?}");
    let found = "select rule || ' ' || mode from audit_progress where last_violation_at is not null";
    let client = invariants_client(database).await;
    let found: Vec<String> = client.query(found, &[]).await.expect("progress").iter().map(|row| row.get(0)).collect();
    assert!(found.is_empty(), "the worker's auditor saw something broken: {found:?}");
}

/// What the auditor says of every row.
pub async fn audited(database: &DbConfig, settings: &AuditSettings) -> Report {
    let db = Db::new(connect::pool(database).await.expect("a pool"), 2, CrashSwitch::default());
    audit(&db, settings, AuditRule::ALL).await.expect("an audit")
}

/// How long recovery may take after a crash: an intent belongs to its request until the PG call's deadline is over.
const QUIET: Duration = Duration::from_secs(240);

/// Counts the outcomes that are not certain.
pub const OPEN: &str = "select (select count(*) from payments where status in ('confirming', 'reversing'))
    + (select count(*) from cancellations where status = 'requested')
    + (select count(*) from webhook_inbox where processed_at is null)";

/// Waits until no outcome is open.
pub async fn quiet(client: &Client) {
    eventually("every outcome is certain", QUIET, async || {
        let count: i64 = client.query_one(OPEN, &[]).await.expect("a count").get(0);
        (count == 0).then_some(())
    })
    .await;
}

/// For every order: what the PG still has of the buyer's money is what our books say. `theirs` is by order.
pub async fn books_agree(client: &Client, theirs: &BTreeMap<String, i64>) {
    let name = |row: &tokio_postgres::Row| format!("ord_{}", row.get::<_, String>(0));
    let taken = "select replace(order_id::text, '-', ''), sum(case when approved_amount is null then 0
                    else approved_amount - canceled_amount end)::bigint from payments
                where status <> 'confirming' group by order_id";
    let rows = client.query(taken, &[]).await.expect("our books");
    let ours: BTreeMap<String, i64> = rows.iter().map(|row| (name(row), row.get(1))).collect();
    let open = "select replace(order_id::text, '-', '') from payments where status = 'confirming'
                union select replace(order_id::text, '-', '') from cancellations where status = 'requested'";
    let open: Vec<String> = client.query(open, &[]).await.expect("open").iter().map(name).collect();
    for (order, net) in theirs {
        if !open.contains(order) {
            assert_eq!(ours.get(order).copied().unwrap_or(0), *net, "the PG's book and ours differ on {order}");
        }
    }
    for (order, net) in &ours {
        if !open.contains(order) {
            assert_eq!(theirs.get(order).copied().unwrap_or(0), *net, "we book money on {order} that the PG has not");
        }
    }
}
