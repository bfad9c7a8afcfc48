//! Fire drills: something is broken in a shop that runs, and the alert that was made for it must ring in time, and no
//! other page. Everything is real but the PG: the program, PostgreSQL, Prometheus with the repository's own
//! configuration and rules, Alertmanager with its routes and inhibitions. In real time, so not part of a plain
//! `cargo test`: `.ci/watch` runs them side by side.

use std::time::{Duration, Instant};

use pg_mock::{Behaviour, Rule};
use serde_json::Value;
use tokio_postgres::Client as Sql;

use crate::support::eventually;
use crate::support::shop::invariants_client;
use crate::support::traffic::Traffic;
use crate::support::watched::Watched;

/// Before anything is broken; no page may ring in it.
const PEACE: Duration = Duration::from_secs(45);
/// How long is waited for pages that should not come, after the one that should.
const AFTERMATH: Duration = Duration::from_secs(30);

/// What is expected of a drill.
struct Drill {
    name: &'static str,
    /// One of these rings.
    expected: &'static [&'static str],
    severity: &'static str,
    within: Duration,
}

impl Drill {
    /// A watched shop at peace; `None` where a program is missing.
    async fn begin(&self, variables: &[(&str, &str)]) -> Option<Watched> {
        let shop = Watched::open(variables).await?;
        shop.settle(PEACE).await;
        let pages = shop.alertmanager.rang("page");
        assert!(pages.is_empty(), "{}: pages in a shop at peace: {pages:?}", self.name);
        Some(shop)
    }

    /// Waits for the ring; writes the drill's line of the report.
    async fn rings(&self, shop: &Watched) {
        let broken = Instant::now();
        let ring = shop.alertmanager.first_ring(self.expected, self.within).await;
        let Some(ring) = ring else {
            let firing = shop.prometheus.firing().await;
            panic!(
                "{}: none of {:?} rang within {:?}; Prometheus has {firing:?} firing, {:?} rang",
                self.name,
                self.expected,
                self.within,
                shop.alertmanager.rang("page")
            );
        };
        assert_eq!(ring.severity, self.severity, "{}", self.name);
        assert_told(&ring.alert, &ring.annotations);
        tokio::time::sleep(AFTERMATH).await;
        let pages = shop.alertmanager.rang("page");
        let others: Vec<_> = pages.iter().filter(|page| **page != ring.alert).cloned().collect();
        let took = ring.at.duration_since(broken).as_secs_f64();
        let line = format!(
            "| {} | `{}` | {} | {took:.0} s | {} s | {} |",
            self.name,
            ring.alert,
            ring.severity,
            self.within.as_secs(),
            if others.is_empty() { "none".to_owned() } else { others.join(", ") }
        );
        println!("{line}");
        if let Some(report) = std::env::var_os("PAYGAUGE_DRILLS") {
            use std::io::Write as _;
            let file = std::fs::OpenOptions::new().create(true).append(true).open(report);
            writeln!(file.expect("the report"), "{line}").expect("the report");
        }
        assert!(others.is_empty(), "{}: {others:?} rang too", self.name);
    }
}

/// A ring says what happened, whom it hits and what to do.
fn assert_told(alert: &str, annotations: &Value) {
    for name in ["summary", "runbook_url", "dashboard_url"] {
        let text = annotations[name].as_str().unwrap_or_default();
        assert!(!text.is_empty() && !text.contains("<no value>"), "{alert}: {name} is {text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus and Alertmanager, and minutes: .ci/watch runs it"]
async fn the_pg_answers_with_errors() {
    let drill =
        Drill { name: "the PG answers 500", expected: &["PgDown"], severity: "page", within: Duration::from_secs(120) };
    let Some(shop) = drill.begin(&[]).await else { return };
    shop.mock.script(Rule::any(Behaviour::HtmlError { status: 500 }).always());
    drill.rings(&shop).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus and Alertmanager, and minutes: .ci/watch runs it"]
async fn the_pg_hangs() {
    let drill = Drill {
        name: "the PG takes every call and answers none",
        expected: &["PgDown", "DoubtSurge"],
        severity: "page",
        within: Duration::from_secs(180),
    };
    let Some(shop) = drill.begin(&[]).await else { return };
    shop.mock.script(Rule::any(Behaviour::HangBefore { ms: 600_000 }).always());
    drill.rings(&shop).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus and Alertmanager, and minutes: .ci/watch runs it"]
async fn the_worker_is_killed() {
    let drill = Drill {
        name: "the only worker is killed",
        expected: &["WorkerDead"],
        severity: "page",
        within: Duration::from_secs(150),
    };
    let Some(mut shop) = drill.begin(&[]).await else { return };
    shop.worker.as_mut().expect("a worker").kill().await;
    drill.rings(&shop).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus and Alertmanager, and minutes: .ci/watch runs it"]
async fn a_stock_row_is_corrupted() {
    let drill = Drill {
        name: "one unit of stock appears from nowhere",
        expected: &["AuditViolation"],
        severity: "page",
        within: Duration::from_secs(60),
    };
    let Some(shop) = drill.begin(&[]).await else { return };
    let sql = invariants_client(&shop.database).await;
    sql.batch_execute("update stock set available = available + 1").await.expect("SQL");
    drill.rings(&shop).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus and Alertmanager, and minutes: .ci/watch runs it"]
async fn a_row_is_blocked() {
    let drill = Drill {
        name: "a forgotten session holds a product's stock row",
        expected: &["DbBlocked"],
        severity: "page",
        within: Duration::from_secs(120),
    };
    let Some(shop) = drill.begin(&[]).await else { return };
    let sql: Sql = invariants_client(&shop.database).await;
    sql.batch_execute("begin; select * from stock for update").await.expect("SQL");
    drill.rings(&shop).await;
    sql.batch_execute("rollback").await.expect("SQL");
    let is_over =
        async || (shop.prometheus.value("max(payments_db_blocked_sessions)").await == Some(0.0)).then_some(());
    eventually("nobody is blocked any more", Duration::from_secs(60), is_over).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus and Alertmanager, and minutes: .ci/watch runs it"]
async fn redis_is_killed() {
    let drill = Drill {
        name: "Redis is killed",
        expected: &["RedisDown"],
        severity: "ticket",
        within: Duration::from_secs(120),
    };
    let Some(shop) = drill.begin(&[]).await else { return };
    let before = shop.traffic.as_ref().map_or(0, Traffic::bought);
    shop.redis.stop();
    drill.rings(&shop).await;
    let bought = shop.traffic.as_ref().map_or(0, Traffic::bought) - before;
    assert!(bought > 100, "only {bought} buyers came through without Redis");
}
