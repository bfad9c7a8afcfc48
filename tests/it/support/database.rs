//! One throw-away cluster for the whole run, a migrated template, and a copy of it for each test.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use paygauge::db::connect::{self, DbConfig};
use paygauge::dev::postgres::{Cluster, Lifetime, Options};
use tokio::sync::OnceCell;

use super::shop::invariants_client;

const TEMPLATE: &str = "template_paygauge";

static CLUSTER: OnceLock<Cluster> = OnceLock::new();
static MIGRATED: OnceCell<()> = OnceCell::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The cluster of this run; started by the first test, removed with the process.
pub fn cluster() -> &'static Cluster {
    CLUSTER.get_or_init(|| {
        let options = Options {
            lifetime: Lifetime::Throwaway,
            bin_dir: std::env::var_os("PG_BIN_DIR").map(Into::into),
            search_path: std::env::var_os("PATH"),
        };
        Cluster::start(&options).expect("the tests need PostgreSQL")
    })
}

/// How to reach a database of the cluster.
pub fn config(database: &str) -> DbConfig {
    DbConfig {
        url: cluster().url(database).into(),
        pool_connections_max: 8,
        pool_wait: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(20),
        lock_timeout: Duration::from_secs(10),
        root_cert_file: None,
    }
}

/// A database of its own, with the schema and nothing in it.
pub async fn fresh() -> DbConfig {
    MIGRATED
        .get_or_init(|| async {
            connect::ensure_database(&config("postgres"), TEMPLATE, None).await.expect("a template");
            connect::migrate(&config(TEMPLATE)).await.expect("migrations");
        })
        .await;
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    connect::ensure_database(&config("postgres"), &name, Some(TEMPLATE)).await.expect("a database");
    config(&name)
}

/// A database of its own, without the schema.
pub async fn empty() -> DbConfig {
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    connect::ensure_database(&config("postgres"), &name, None).await.expect("a database");
    config(&name)
}

/// Ends every use of a database for good, so that it can be copied; returns its name.
pub async fn closed(database: &DbConfig) -> String {
    Outage::of(database).await.name
}

/// A copy of a closed database.
pub async fn copy_of(source: &str) -> DbConfig {
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    connect::ensure_database(&config("postgres"), &name, Some(source)).await.expect("a copy");
    config(&name)
}

/// A database that nobody can reach, until this ends.
pub struct Outage {
    name: String,
    admin: tokio_postgres::Client,
}

impl Outage {
    /// Cuts every connection to the database and lets no new one in.
    pub async fn of(database: &DbConfig) -> Self {
        let inside = invariants_client(database).await;
        let name = inside.query_one("select current_database()::text", &[]).await.expect("its name").get(0);
        drop(inside);
        let outage = Self { name, admin: invariants_client(&config("postgres")).await };
        outage.let_in(false).await;
        outage.cut().await;
        outage
    }

    /// Lets connections in again.
    pub async fn end(self) {
        self.let_in(true).await;
    }

    async fn let_in(&self, allowed: bool) {
        let statement = format!("alter database {} with allow_connections {allowed}", self.name);
        self.admin.batch_execute(&statement).await.expect("a change of the database");
    }

    async fn cut(&self) {
        let all = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = $1";
        self.admin.query_one(all, &[&self.name]).await.expect("connections are cut");
    }
}

/// Cuts every connection to the database once; new ones are let in.
pub async fn cut_connections(database: &DbConfig) {
    let inside = invariants_client(database).await;
    let all = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid()";
    inside.query_one(all, &[]).await.expect("connections are cut");
}
