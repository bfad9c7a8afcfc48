//! A shop that is watched as in production: the real program, a real Prometheus with the repository's own configuration
//! and rules, a real Alertmanager, and traffic.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use paygauge::crash::CrashSwitch;
use paygauge::db::Db;
use paygauge::db::connect::{self, DbConfig};
use paygauge::http::auth::keys::{self, Role};
use pg_mock::PgMock;
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::alertmanager::Alertmanager;
use super::database;
use super::otlp::Receiver;
use super::prometheus::Prometheus;
use super::redis::Redis;
use super::served::Served;
use super::traffic::{Counter, Traffic};

/// What the directory of the repository holds for Prometheus.
const PROMETHEUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/prometheus");
/// Buyers in a second.
const PACE: u32 = 4;

/// The shop and its watchers.
pub struct Watched {
    pub api: Served,
    pub worker: Option<Served>,
    pub mock: Arc<PgMock>,
    pub database: DbConfig,
    pub counter: Counter,
    pub prometheus: Prometheus,
    pub alertmanager: Alertmanager,
    pub redis: Redis,
    spans: Receiver,
    pub traffic: Option<Traffic>,
    pub opened: Instant,
    _files: Directory,
}

/// A directory that goes with its owner.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

impl Watched {
    /// Opens it with further variables for its processes: one serves, the other works. `None` where a program is not
    /// installed.
    pub async fn open(variables: &[(&str, &str)]) -> Option<Self> {
        let (alertmanager, redis) = (Alertmanager::start().await?, Redis::start().await?);
        let spans = Receiver::http().await;
        // Half of the ordinary traces are thrown away: no exemplar may lead to one of them.
        let (redis_url, sends) = (redis.url(), spans.variables("0.5"));
        let database = database::fresh().await;
        let db = Db::new(connect::pool(&database).await.expect("a pool"), 2, CrashSwitch::default());
        let (_, secret) = keys::create(&db, Role::Secret, "test").await.expect("a key");
        drop(db);
        let secret = secret.expose_secret().to_owned();
        let mock = Arc::new(PgMock::start(pg_mock::Options::default()).await.expect("pg-mock"));
        let process = async |role| {
            let own = [
                ("PAYGAUGE_ROLES", role),
                ("TOSS_CONFIRM_TIMEOUT_SECONDS", "2"),
                ("REDIS_URL", &redis_url),
                // Drills side by side share one PostgreSQL, which takes 200 connections in all.
                ("PAYGAUGE_DB_CONNECTIONS_MAX", "8"),
            ];
            let variables: Vec<_> = own.into_iter().chain(sends).chain(variables.iter().copied()).collect();
            Served::beside(Arc::clone(&mock), database.clone(), &secret, &variables).await.expect("it serves")
        };
        let (worker, api) = (process("worker").await, process("api").await);
        let body = json!({ "name": "Coffee beans", "price": 12_000, "initialStock": 1_000_000 });
        let product = api.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id");
        let counter = Counter { base: api.base.clone(), token: secret, mock: Arc::clone(&mock), product };
        let files = files(&[&api.ops, &worker.ops], &alertmanager.address);
        let config = std::fs::read_to_string(Path::new(PROMETHEUS).join("prometheus.yml")).expect("its configuration");
        let rules = Path::new(PROMETHEUS).join("rules");
        let links = [rules, files.0.join("targets"), files.0.join("alertmanagers")];
        let links: Vec<&Path> = links.iter().map(PathBuf::as_path).collect();
        let prometheus = Prometheus::with_config(&config, &links).await?;
        let traffic = Some(Traffic::start(counter.clone(), PACE));
        let (worker, opened) = (Some(worker), Instant::now());
        Some(Self {
            api,
            worker,
            mock,
            database,
            counter,
            prometheus,
            alertmanager,
            redis,
            spans,
            traffic,
            opened,
            _files: files,
        })
    }

    /// The traces that were received.
    pub fn traces(&self) -> BTreeSet<String> {
        self.spans.traces()
    }

    /// Waits so long, and until everything is scraped and buyers come through.
    pub async fn settle(&self, at_least: Duration) {
        super::eventually("both processes are scraped", Duration::from_secs(90), async || {
            self.prometheus.value(r#"min(sum_over_time(up{job="paygauge"}[1h])) >= 3"#).await
        })
        .await;
        super::eventually("buyers come through", Duration::from_secs(60), async || {
            let bought = self.traffic.as_ref().map_or(u64::MAX, Traffic::bought);
            (bought >= 20).then_some(())
        })
        .await;
        tokio::time::sleep(at_least.saturating_sub(self.opened.elapsed())).await;
    }
}

/// The files that say where everything is; the rest of the configuration is the repository's.
fn files(ops: &[&str], alertmanager: &str) -> Directory {
    let directory = Directory(std::env::temp_dir().join(format!("paygauge-watched-{}", uuid::Uuid::new_v4().simple())));
    let write = |name: &str, targets: &[&str]| {
        std::fs::create_dir_all(directory.0.join(name)).expect("a directory");
        let targets: Vec<_> = targets.iter().map(|url| url.trim_start_matches("http://")).collect();
        let text = json!([{ "targets": targets }]).to_string();
        // JSON is YAML too.
        std::fs::write(directory.0.join(name).join("here.yml"), text).expect("a file");
    };
    write("targets", ops);
    write("alertmanagers", &[alertmanager]);
    directory
}
