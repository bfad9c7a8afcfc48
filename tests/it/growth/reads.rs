//! The program's own functions over tables of a size, and what the server says that they read: no table from end to end,
//! and no more rows than they are about.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use paygauge::config::{AuditSettings, Settings};
use paygauge::db::connect::DbConfig;
use paygauge::db::overview::Lead;
use paygauge::db::{idempotency, partitions, payments, reconciliations};
use paygauge::domain::audit::AuditRule;
use paygauge::domain::reconciliation::Window;
use paygauge::payments::audit::rounds::Auditor;
use paygauge::payments::{expire, reconcile, recovery, sales, webhook};
use paygauge::telemetry::labels::Tx;
use reqwest::StatusCode;
use serde_json::json;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::{seeded, still};
use crate::support::shop::{Order, PATIENCE, Shop, invariants_client, settings};
use crate::support::{database, eventually};

/// Tables that grow with orders.
const GROWING: &str = "('orders', 'order_items', 'payments', 'cancellations', 'cancellation_items', 'events',
    'idempotency_keys', 'webhook_inbox', 'sales')";
/// Enough that the planner has a choice.
const ORDERS: u64 = 60_000;
/// Rows of a page, and what belongs to them.
const A_PAGE: i64 = 1_500;

/// What was read of each growing table: times it was read from end to end, rows fetched by index.
type Reads = BTreeMap<String, (i64, i64)>;

/// Work whose reads are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    LookUps,
    Lists,
    ListsOfThePast,
    Replay,
    Recovery,
    Expiry,
    Webhooks,
    Gauges,
    AuditFirst,
    Audit,
    Reconcile,
    ReconcileLookUps,
    Retention,
    SalesFirst,
    Sales,
}

impl Work {
    /// Each, and how many rows it may fetch however large the tables are.
    const ALL: [(Self, i64); 15] = [
        (Self::LookUps, A_PAGE),
        (Self::Lists, 6 * A_PAGE),
        (Self::ListsOfThePast, 6 * A_PAGE),
        (Self::Replay, 100),
        (Self::Recovery, 100),
        (Self::Expiry, 100),
        (Self::Webhooks, 100),
        (Self::Gauges, 500),
        // The first round begins 10000 events back.
        (Self::AuditFirst, i64::MAX),
        // One order and its product, and what the rounds before have to see again.
        (Self::Audit, 2 * A_PAGE),
        (Self::Reconcile, 100),
        (Self::ReconcileLookUps, 2 * A_PAGE),
        // A piece of 1000 keys that lie in no partition; partitions go without being read.
        (Self::Retention, 5_000),
        // Everything that is there.
        (Self::SalesFirst, i64::MAX),
        (Self::Sales, A_PAGE),
    ];
}

struct Grown {
    shop: Shop,
    client: Client,
    paid: (Order, String),
    payment_key: String,
    auditor: Auditor,
}

impl Grown {
    async fn new() -> Self {
        let database = seeded(ORDERS, 300, 120).await;
        // With one connection it is known which one has to tell what it has read.
        let database = DbConfig { pool_connections_max: 1, ..database };
        let audit = AuditSettings { interval: Duration::ZERO, ..AuditSettings::default() };
        let shop = still(database, Settings { audit: audit.clone(), ..settings() }).await;
        let product = shop.product(1_000, 1_000).await;
        let paid = shop.paid(&product, 2).await;
        shop.order(&product, 1).await;
        shop.awaiting_deposit(&product).await;
        let auditor = Auditor::new(shop.running.app().db.clone(), audit, CancellationToken::new());
        let client = invariants_client(&shop.database).await;
        client.batch_execute(super::STRAY_KEYS).await.expect("SQL");
        client.batch_execute("vacuum (analyze)").await.expect("SQL");
        let payment_key = shop.payment_key(&paid.0.id);
        Self { shop, client, paid, payment_key, auditor }
    }

    async fn get(&self, path: &str) {
        self.shop.secret.get(path).await.expect(StatusCode::OK);
    }

    /// Does it once.
    async fn does(&self, work: Work) {
        let (shop, app) = (&self.shop, self.shop.running.app());
        let (order, payment) = &self.paid;
        let past = |days| (Utc::now() - TimeDelta::days(days)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
        match work {
            Work::LookUps => {
                for part in ["", "/timeline"] {
                    self.get(&format!("/v1/orders/{}{part}", order.id)).await;
                    self.get(&format!("/v1/payments/{payment}{part}")).await;
                }
                self.get(&format!("/v1/payments/{payment}/explain")).await;
            }
            Work::Lists => {
                for list in ["orders", "payments"] {
                    self.get(&format!("/v1/{list}?limit=100")).await;
                    self.get(&format!("/v1/{list}?limit=100&status=canceled")).await;
                    self.get(&format!("/v1/{list}?limit=100&from={}", past(1))).await;
                }
                self.get(&format!("/v1/payments?orderId={}", order.id)).await;
            }
            Work::ListsOfThePast => {
                for list in ["orders", "payments"] {
                    self.get(&format!("/v1/{list}?limit=100&to={}", past(90))).await;
                    self.get(&format!("/v1/{list}?limit=100&from={}&to={}", past(61), past(60))).await;
                    self.get(&format!("/v1/{list}?limit=50&status=canceled&to={}", past(80))).await;
                }
            }
            Work::Replay => {
                let product = shop.product(500, 5).await;
                let lines = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
                for _ in 0..2 {
                    shop.secret.post_as("/v1/orders", &lines, &product).await.expect(StatusCode::CREATED);
                }
            }
            Work::Recovery => {
                recovery::recover_batch(app).await.expect("a round");
            }
            Work::Expiry => {
                expire::expire_batch(app, None).await.expect("a round");
            }
            Work::Webhooks => {
                let body = json!({ "eventType": "PAYMENT_STATUS_CHANGED", "data": { "paymentKey": shop.payment_key(&order.id),
                    "orderId": order.id, "status": "DONE" }, "nonce": uuid::Uuid::new_v4() });
                shop.secret.post("/v1/webhooks/toss", &body).await.expect(StatusCode::OK);
                assert_eq!(webhook::apply_batch(app).await.expect("a round"), 1);
            }
            Work::Gauges => {
                Lead::new(app.db.clone()).look().await.expect("figures").expect("nobody else shows them");
            }
            Work::AuditFirst => self.audit_what_is_there().await,
            Work::Audit => {
                let product = shop.product(900, 5).await;
                shop.paid(&product, 2).await;
                self.audit().await;
            }
            Work::Reconcile => {
                let origin = paygauge::db::events::Origin { actor: "test".to_owned(), trace_id: None };
                reconcile::run(app, reconcile::Span::Next, &origin).await.expect("a run");
            }
            Work::ReconcileLookUps => self.look_up_books().await,
            Work::Retention => self.retain().await,
            Work::SalesFirst | Work::Sales => {
                self.count_what_is_there().await;
                self.get("/v1/sales?from=2026-01-01&to=2026-12-31&limit=100").await;
            }
        }
    }

    /// A round of every rule.
    async fn audit(&self) {
        // A rule rests by how long it took, which is not what is looked at here.
        self.client.batch_execute("update audit_progress set duration_ms = 0").await.expect("SQL");
        assert_eq!(self.auditor.changed().await.expect("a round"), AuditRule::ALL.len());
    }

    /// Rounds of the auditor until all that is there now lies behind every rule.
    async fn audit_what_is_there(&self) {
        let behind = "select count(*) from audit_progress where mode = 'changed' and event_id < $1";
        self.until_none_is_behind(behind, async || self.audit().await).await;
    }

    /// Rounds of counting sales until all that is there now is counted.
    async fn count_what_is_there(&self) {
        let behind = "select count(*) from sales_progress where event_id < $1";
        let db = &self.shop.running.app().db;
        let round = async || {
            sales::count(db, &CancellationToken::new()).await.expect("a round");
        };
        self.until_none_is_behind(behind, round).await;
    }

    /// Two rounds are enough where nobody else writes; but a transaction that is open anywhere at the server, whosever
    /// database it is at, is waited for.
    async fn until_none_is_behind(&self, behind: &str, round: impl AsyncFn()) {
        let newest = "select coalesce(max(id), 0) from events";
        let newest: i64 = self.client.query_one(newest, &[]).await.expect("SQL").get(0);
        eventually("what is there lies behind", PATIENCE, async || {
            round().await;
            let behind: i64 = self.client.query_one(behind, &[&newest]).await.expect("SQL").get(0);
            (behind == 0).then_some(())
        })
        .await;
    }

    async fn look_up_books(&self) {
        let db = &self.shop.running.app().db;
        let then = Utc::now() - TimeDelta::days(50);
        let window = Window::covering(then, then + TimeDelta::minutes(15)).expect("a window");
        db.read(async |conn| {
            let booked = reconciliations::approved_in(conn, "toss", window, None, 1_000).await?;
            reconciliations::canceled_in(conn, "toss", window, None, 1_000).await?;
            let ids: Vec<_> = booked.iter().map(|booked| booked.payment_id).collect();
            reconciliations::given_back(conn, &ids).await?;
            payments::find_by_keys(conn, "toss", &[&self.payment_key]).await
        })
        .await
        .expect("books");
    }

    async fn retain(&self) {
        let [deliveries, keys] = [30, 15].map(|days| Duration::from_secs(days * 24 * 60 * 60));
        let gone = self
            .shop
            .running
            .app()
            .db
            .transaction(Tx::Housekeeping, async |conn| {
                let deliveries = partitions::drop_oldest_deliveries(conn, deliveries).await?;
                let keys = partitions::drop_oldest_keys(conn, keys).await?;
                let left = idempotency::delete_left(conn, 1_000).await?;
                Ok::<_, paygauge::db::DbError>((deliveries.is_some(), keys.is_some(), left))
            })
            .await;
        assert_eq!(gone.expect("a piece"), (true, true, 1_000));
    }

    /// What the program has read so far of each table or partition, which is named by its table and itself.
    async fn reads(&self) -> BTreeMap<(String, String), (i64, i64)> {
        tell_reads(&self.shop).await;
        // One of a few pages is rightly read from end to end.
        let all = format!(
            "select name, relname::text, case when pg_relation_size(relid) > 65536 then seq_scan else 0 end, coalesce(idx_tup_fetch, 0)
             from (select coalesce(parent.relname, s.relname)::text as name, s.* from pg_stat_user_tables s
                 left join pg_inherits i on i.inhrelid = s.relid
                 left join pg_class parent on parent.oid = i.inhparent) s
             where name in {GROWING}"
        );
        let rows = self.client.query(&all, &[]).await.expect("statistics");
        rows.iter().map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3)))).collect()
    }

    /// Reads that this work does.
    async fn measured(&self, work: Work) -> Reads {
        let before = self.reads().await;
        self.does(work).await;
        // The gauges have a session of their own, which tells when it has ended.
        eventually("its sessions are over", PATIENCE, async || {
            let others = "select count(*) from pg_stat_activity
                where datname = current_database() and application_name = 'paygauge'";
            let others: i64 = self.client.query_one(others, &[]).await.expect("SQL").get(0);
            (others <= 1).then_some(())
        })
        .await;
        let after = self.reads().await;
        let mut reads = Reads::new();
        for (part, (scans, rows)) in after {
            let (scans_before, rows_before) = before.get(&part).copied().unwrap_or_default();
            let sum = reads.entry(part.0).or_default();
            *sum = (sum.0 + scans - scans_before, sum.1 + rows - rows_before);
        }
        reads
    }
}

/// Has the program's only connection tell what it has read so far.
pub(super) async fn tell_reads(shop: &Shop) {
    let told = "select pg_stat_force_next_flush()";
    let work = shop.running.app().db.read(async |conn| {
        diesel_async::RunQueryDsl::execute(diesel::sql_query(told), conn).await?;
        // What was forced happens when the statement is over.
        diesel_async::RunQueryDsl::execute(diesel::sql_query("select 1"), conn).await?;
        Ok::<_, paygauge::db::DbError>(())
    });
    work.await.expect("statistics");
}

/// Of these there are few, of which the planner knows that they are faster read from end to end.
const FEW: [&str; 2] = ["cancellations", "cancellation_items"];

fn is_bounded(reads: &Reads, most: i64, small: &[&str]) -> bool {
    let is_scanned = reads.iter().any(|(table, (scans, _))| *scans > 0 && !small.contains(&table.as_str()));
    !is_scanned && reads.values().map(|(_, rows)| rows).sum::<i64>() <= most
}

/// Has every new connection do without reading tables from end to end where there is any other way, or not.
async fn with_scans(mut grown: Grown, setting: &str) -> Grown {
    let name: String = grown.client.query_one("select current_database()::text", &[]).await.expect("SQL").get(0);
    grown.client.batch_execute(&format!("alter database {name} {setting}")).await.expect("SQL");
    database::cut_connections(&grown.shop.database).await;
    grown.client = invariants_client(&grown.shop.database).await;
    grown
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_all_day_reads_what_it_is_about_and_no_table_from_end_to_end() {
    let grown = Grown::new().await;
    let mut wrong = Vec::new();
    for (work, most) in Work::ALL {
        let reads = grown.measured(work).await;
        println!("{work:?} (rows at most: {most}): {reads:?}");
        if !is_bounded(&reads, most, &FEW) {
            wrong.push((work, most, reads));
        }
        grown.client.batch_execute("analyze sales").await.expect("SQL");
    }
    assert!(wrong.is_empty(), "table: (from end to end, rows by index): {wrong:#?}");

    // Whatever the size of a table, there is an index that serves.
    let grown = with_scans(grown, "set enable_seqscan = off").await;
    for (work, _) in Work::ALL {
        let reads = grown.measured(work).await;
        assert!(is_bounded(&reads, i64::MAX, &[]), "{work:?}: {reads:?}");
    }
    let grown = with_scans(grown, "reset enable_seqscan").await;

    // The same look finds what a missing index does.
    for (index, work) in [
        ("alter table events drop constraint events_pkey", Work::LookUps),
        ("drop index payments_due", Work::Recovery),
        ("drop index webhook_inbox_due", Work::Webhooks),
        ("drop index idempotency_keys_in_progress", Work::Gauges),
        ("drop index payments_by_approval", Work::ReconcileLookUps),
        ("drop index idempotency_keys_default_by_expiry", Work::Retention),
        ("drop index events_by_id", Work::Audit),
    ] {
        let most = Work::ALL.iter().find(|(other, _)| *other == work).expect("listed").1;
        grown.client.batch_execute(index).await.expect("SQL");
        let reads = grown.measured(work).await;
        assert!(!is_bounded(&reads, most, &FEW), "{work:?} after {index}: {reads:?}");
    }
    grown.shop.running.stop().await;
}
