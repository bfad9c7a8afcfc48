//! The development stack: one process with everything a shop needs, started by `cargo run`.
//!
//! Order: database, schema, keys, fake PG, API and worker, demo checkout; stopped in reverse. Data lives in one
//! directory and survives a restart; a port that is taken is replaced by the next free one.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use pg_mock::PgMock;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::checkout::{self, CheckoutConfig};
use super::postgres::{self, Cluster, Lifetime};
use super::prometheus::{self, Prometheus};
use crate::app::App;
use crate::config::{self, BuyerCancel, Config, DevVars, Environment, Roles, Settings};
use crate::crash::CrashSwitch;
use crate::db::Db;
use crate::db::connect::{self, DbConfig};
use crate::domain::money::{Currency, Money};
use crate::http::auth::keys::{self, Role};
use crate::limits::Proxies;
use crate::payments::catalogue::{self, Actor, NewProduct};
use crate::provider::toss::TossConfig;
use crate::serve::{self, Running};
use crate::telemetry::{self, LogFormat, Parts, TelemetryConfig, TracesConfig};

const DATABASE: &str = "paygauge";
/// What the development keys are called.
const LABEL: &str = "development";

/// What the command line says.
pub struct StackOptions {
    /// Throw the data of earlier runs away first.
    pub fresh: bool,
    /// Where the data lives.
    pub data_dir: PathBuf,
}

/// Runs the stack until Ctrl-C or SIGTERM.
pub fn run(options: &StackOptions) -> anyhow::Result<()> {
    let vars = config::dev_vars().map_err(|mistakes| anyhow::anyhow!(mistakes.join("\n")))?;
    let telemetry = telemetry::init(telemetry_config(&vars))?;
    if options.fresh && vars.database_url.is_some() {
        anyhow::bail!("--fresh throws away only our own data; DATABASE_URL names a database that is not ours to empty");
    }
    if options.fresh {
        throw_away(&options.data_dir)?;
    }
    std::fs::create_dir_all(&options.data_dir)
        .with_context(|| format!("cannot create {}", options.data_dir.display()))?;
    let database = Database::start(&vars, &options.data_dir)?;
    let stack = Stack { data_dir: &options.data_dir, vars: &vars, metrics: telemetry.metrics() };
    let done = serve::runtime()?.block_on(stack.run(&database));
    database.stop();
    telemetry.shutdown();
    done
}

fn telemetry_config(vars: &DevVars) -> TelemetryConfig {
    TelemetryConfig {
        log_format: LogFormat::Human,
        log_filter: vars.log_filter.clone().unwrap_or_else(|| "warn,paygauge=info".to_owned()),
        traces: traces_config(vars),
        service_version: env!("CARGO_PKG_VERSION"),
        revision: "development",
        environment: Environment::Development.as_str().to_owned(),
        role: "all",
        parts: Parts::ALL,
    }
}

/// Here every trace is worth a look.
fn traces_config(vars: &DevVars) -> TracesConfig {
    TracesConfig { otlp_endpoint: vars.otlp_endpoint.clone(), otlp_protocol: vars.otlp_protocol, keep_ratio: 1.0 }
}

fn throw_away(data_dir: &Path) -> anyhow::Result<()> {
    postgres::throw_away(data_dir)?;
    for file in ["pg-mock.json", "pg-mock.json.journal", "keys.json"] {
        match std::fs::remove_file(data_dir.join(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// The database: our own child, or the one that `DATABASE_URL` names.
enum Database {
    Embedded(Box<Cluster>),
    Given(SecretString),
}

impl Database {
    fn start(vars: &DevVars, data_dir: &Path) -> anyhow::Result<Self> {
        if let Some(url) = &vars.database_url {
            return Ok(Self::Given(url.clone()));
        }
        let options = postgres::Options {
            lifetime: Lifetime::Kept(data_dir.to_owned()),
            bin_dir: vars.pg_bin_dir.clone(),
            search_path: vars.search_path.clone(),
        };
        let cluster = Cluster::start(&options)?;
        cluster.on_death(|message| {
            eprintln!("paygauge: {message}");
            std::process::exit(1);
        });
        Ok(Self::Embedded(Box::new(cluster)))
    }

    fn describe(&self) -> String {
        match self {
            Self::Embedded(cluster) => cluster.describe(),
            Self::Given(_) => "the one that DATABASE_URL names".to_owned(),
        }
    }

    async fn prepare(&self) -> anyhow::Result<DbConfig> {
        let config = match self {
            Self::Given(url) => db_config(url.clone()),
            Self::Embedded(cluster) => {
                connect::ensure_database(&db_config(cluster.url("postgres").into()), DATABASE, None).await?;
                db_config(cluster.url(DATABASE).into())
            }
        };
        connect::migrate(&config).await?;
        Ok(config)
    }

    fn stop(self) {
        match self {
            Self::Embedded(cluster) => {
                if let Err(error) = cluster.stop() {
                    eprintln!("paygauge: {error}");
                }
            }
            Self::Given(_) => {}
        }
    }
}

fn db_config(url: SecretString) -> DbConfig {
    DbConfig {
        url,
        pool_connections_max: 16,
        pool_wait: Duration::from_secs(3),
        statement_timeout: Duration::from_secs(10),
        lock_timeout: Duration::from_secs(5),
        root_cert_file: None,
    }
}

/// Keys that last as long as the data.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DevKeys {
    secret_key: String,
    publishable_key: String,
    token_secret: String,
}

impl DevKeys {
    /// The keys of the data directory, known to this database too.
    async fn load_or_make(data_dir: &Path, db: &Db) -> anyhow::Result<Self> {
        let file = data_dir.join("keys.json");
        if let Ok(text) = std::fs::read_to_string(&file) {
            let known: Self = serde_json::from_str(&text).with_context(|| format!("cannot read {}", file.display()))?;
            keys::ensure(db, Role::Secret, LABEL, &known.secret_key.clone().into()).await?;
            keys::ensure(db, Role::Publishable, LABEL, &known.publishable_key.clone().into()).await?;
            return Ok(known);
        }
        let (_, secret) = keys::create(db, Role::Secret, LABEL).await?;
        let (_, publishable) = keys::create(db, Role::Publishable, LABEL).await?;
        let random = || uuid::Uuid::new_v4().as_simple().to_string();
        let made = Self {
            secret_key: secret.expose_secret().to_owned(),
            publishable_key: publishable.expose_secret().to_owned(),
            token_secret: random() + &random(),
        };
        write_private(&file, &serde_json::to_string_pretty(&made)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(made)
    }
}

/// Writes a file that only its owner can read, whole or not at all: half a file would stop every later start.
fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    let unfinished = file.with_extension("new");
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    open.write_all(text.as_bytes())?;
    open.sync_all()?;
    std::fs::rename(&unfinished, file)
}

struct Stack<'a> {
    data_dir: &'a Path,
    vars: &'a DevVars,
    metrics: telemetry::MetricsHandle,
}

impl Stack<'_> {
    async fn run(&self, database: &Database) -> anyhow::Result<()> {
        let database_config = database.prepare().await?;
        let db = Db::new(
            connect::pool(&database_config).await?,
            database_config.pool_connections_max,
            CrashSwitch::default(),
        );
        let dev_keys = DevKeys::load_or_make(self.data_dir, &db).await?;
        drop(db);
        let (api, ops) = (listen_near(8080).await?, listen_near(9464).await?);
        let demo = listen_near(3000).await?;
        let api_url = format!("http://{}", api.local_addr()?);
        let mock = self.start_mock(&api_url).await?;
        let config = self.config(database_config, &dev_keys, &mock, demo.local_addr()?);
        let running = Running::start(config, Some(api), ops, self.metrics.clone()).await?;
        let app = Arc::clone(running.app());
        let product = seed(&app).await?;
        let prometheus = self.start_prometheus(running.ops_addr()).await;
        let urls = Urls {
            docs: format!("{api_url}/docs"),
            ops: format!("http://{}", running.ops_addr()),
            mock: mock.url(),
            demo: format!("http://{}", demo.local_addr()?),
            prometheus: prometheus.as_ref().map_or(prometheus::HOW_TO_GET.to_owned(), Prometheus::pages),
            api: api_url,
        };
        let router = checkout::router(CheckoutConfig {
            api_url: urls.api.clone(),
            publishable_key: dev_keys.publishable_key.clone(),
            window_url: format!("{}/window", urls.mock),
            client_key: "test_ck_mock".to_owned(),
            docs_url: urls.docs.clone(),
            ops_url: format!("{}/readyz", urls.ops),
        });
        let demo = tokio::spawn(async move { axum::serve(demo, router).await });
        print_welcome(database, &urls, &dev_keys, &product);
        serve::stop_signal().await;
        println!("stopping …");
        demo.abort();
        running.stop().await;
        drop(mock);
        tokio::task::spawn_blocking(|| drop(prometheus)).await.context("Prometheus could not be stopped")
    }

    /// The stack is whole without it.
    async fn start_prometheus(&self, ops: SocketAddr) -> Option<Prometheus> {
        let started = async {
            let probe = listen_near(9090).await?;
            let listen = probe.local_addr()?;
            drop(probe);
            Prometheus::start(self.vars.search_path.as_deref(), self.data_dir, listen, ops).await
        };
        started.await.unwrap_or_else(|error: anyhow::Error| {
            tracing::warn!("{error:#}");
            None
        })
    }

    async fn start_mock(&self, api_url: &str) -> anyhow::Result<PgMock> {
        let probe = listen_near(8090).await?;
        let listen = probe.local_addr()?;
        drop(probe);
        let options = pg_mock::Options {
            listen,
            webhook_url: Some(format!("{api_url}/v1/webhooks/toss")),
            state_file: Some(self.data_dir.join("pg-mock.json")),
            ..pg_mock::Options::default()
        };
        PgMock::start(options).await.context("cannot start pg-mock")
    }

    fn config(&self, database: DbConfig, keys: &DevKeys, mock: &PgMock, demo: SocketAddr) -> Config {
        let seconds = Duration::from_secs;
        Config {
            environment: Environment::Development,
            roles: Roles { api: true, worker: true },
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ops_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            database,
            toss: TossConfig {
                base_url: mock.url(),
                secret_key: "test_sk_mock".into(),
                m_id: None,
                connect_timeout: seconds(3),
                confirm_timeout: seconds(10),
                cancel_timeout: seconds(10),
                inquiry_timeout: seconds(5),
            },
            token_secrets: vec![SecretString::from(keys.token_secret.clone())],
            cors_origins: vec![format!("http://{demo}"), format!("http://localhost:{}", demo.port())],
            trusted_proxies: Proxies::default(),
            redis: self.vars.redis.clone(),
            settings: Settings {
                buyer_cancel: BuyerCancel::Paid,
                drain: Duration::ZERO,
                deposit_poll: seconds(15),
                provider_deadline: seconds(12),
                recovery_grace: seconds(2),
                worker_lease: seconds(30),
                rates: self.vars.rates,
                ..Settings::default()
            },
            log_format: LogFormat::Human,
            log_filter: String::new(),
            traces: traces_config(self.vars),
            telemetry: Parts::ALL,
            crash: CrashSwitch::default(),
        }
    }
}

/// Listens on the first free port from `port` on, on the loopback address only.
async fn listen_near(port: u16) -> anyhow::Result<TcpListener> {
    for port in port..port.saturating_add(100) {
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return Ok(listener);
        }
    }
    TcpListener::bind(("127.0.0.1", 0)).await.context("no free port")
}

/// Two products to buy, unless there are some; returns one for the printed lines, if possible one that can be bought.
async fn seed(app: &App) -> anyhow::Result<catalogue::ProductView> {
    let there = catalogue::list(app, None, 100).await?;
    let sells = |product: &&catalogue::ProductView| product.active && product.available > 0;
    if let Some(product) = there.iter().find(sells).or(there.first()) {
        return Ok(product.clone());
    }
    let actor = Actor { name: "system".to_owned(), trace_id: None };
    let won = |minor| Money::new(minor, Currency::KRW);
    let beans = NewProduct { name: "Coffee beans, 500 g".to_owned(), price: won(12_000), initial_stock: 100 };
    let cup = NewProduct { name: "Enamel cup".to_owned(), price: won(18_500), initial_stock: 20 };
    let product = catalogue::create(app, beans, &actor).await?;
    catalogue::create(app, cup, &actor).await?;
    Ok(product)
}

struct Urls {
    api: String,
    docs: String,
    ops: String,
    mock: String,
    demo: String,
    /// Its pages, or how to get one.
    prometheus: String,
}

fn print_welcome(database: &Database, urls: &Urls, keys: &DevKeys, product: &catalogue::ProductView) {
    let Urls { api, docs, ops, mock, demo, prometheus } = urls;
    let (secret, publishable) = (&keys.secret_key, &keys.publishable_key);
    let (id, price) = (product.id, product.price);
    println!(
        r#"
paygauge {version}, development stack

  demo checkout  {demo}
  API            {api}/v1
  API docs       {docs}
  operations     {ops}/metrics  {ops}/readyz
  Prometheus     {prometheus}
  pg-mock        {mock}/mock/book
  database       {database}

  secret key       {secret}
  publishable key  {publishable}

Place an order, confirm it, cancel it:

  API={api} MOCK={mock} KEY={secret}
  ORDER=$(curl -sS $API/v1/orders -H "Authorization: Bearer $KEY" -H "Idempotency-Key: $(date +%s%N)" -H 'Content-Type: application/json' -d '{{"lines":[{{"productId":"{id}","quantity":1}}]}}' | grep -o 'ord_[0-9a-f]*' | head -n 1); echo $ORDER
  PAYMENT_KEY=$(curl -sS $MOCK/mock/payments -H 'Content-Type: application/json' -d "{{\"orderId\":\"$ORDER\",\"amount\":{price}}}" | grep -o '"paymentKey":"[^"]*"' | cut -d '"' -f 4); echo $PAYMENT_KEY
  PAYMENT=$(curl -sS $API/v1/payments/confirm -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' -d "{{\"paymentKey\":\"$PAYMENT_KEY\",\"orderId\":\"$ORDER\",\"amount\":{price}}}" | tee /dev/stderr | grep -o 'pay_[0-9a-f]*' | head -n 1); echo; echo $PAYMENT
  curl -sS $API/v1/payments/$PAYMENT/cancel -H "Authorization: Bearer $KEY" -H "Idempotency-Key: $(date +%s%N)" -H 'Content-Type: application/json' -d '{{"reason":"changed my mind"}}'; echo
  curl -sS $API/v1/orders/$ORDER/timeline -H "Authorization: Bearer $KEY"; echo

Ctrl-C stops everything; the data stays (--fresh throws it away).

ready"#,
        version = env!("CARGO_PKG_VERSION"),
        database = database.describe(),
    );
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_keys_are_for_their_owners_eyes() {
        let dir = std::env::temp_dir().join(format!("paygauge-keys-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).expect("a directory");
        let file = dir.join("keys.json");
        std::fs::write(dir.join("keys.new"), "left by a crash").expect("writable");
        write_private(&file, "secret").expect("writable");
        let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
        assert_eq!((mode & 0o777, std::fs::read_to_string(&file).expect("readable")), (0o600, "secret".to_owned()));
        assert_eq!(std::fs::read_dir(&dir).expect("readable").count(), 1, "nothing is left beside it");
        std::fs::remove_dir_all(&dir).expect("ours");
    }
}
