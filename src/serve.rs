//! Serving: builds the app from a configuration, runs its listeners and worker, and ends them in order.
//!
//! Used by `paygauge serve`, by the development stack and by the tests, so that all three run the same thing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::{App, Nudges, Readiness};
use crate::cache::Cache;
use crate::clock;
use crate::config::{Config, Settings};
use crate::crash::CrashSwitch;
use crate::db::connect::{self, DbConfig};
use crate::db::known_keys::KnownKeys;
use crate::db::{self, Db, DbError};
use crate::http::auth::tokens::Tokens;
use crate::http::listen::{End, listen};
use crate::http::streams::Streams;
use crate::http::{self, AppState, OpsState};
use crate::limits::RateLimiter;
use crate::news::News;
use crate::payments::live;
use crate::provider::call::Door;
use crate::provider::toss::{Toss, TossConfig};
use crate::queues::Queues;
use crate::redis::{Redis, RedisConfig};
use crate::telemetry::labels::{Dependency, ProviderLabel};
use crate::telemetry::{self, MetricsHandle, TelemetryConfig, record};
use crate::worker;

/// How often a schema that is not ready is looked at again.
const SCHEMA_POLL: Duration = Duration::from_secs(2);
/// How often the database is asked whether it is there.
const DEPENDENCY_POLL: Duration = Duration::from_secs(5);
/// How long a connection that was opened when the listener was just closing may bring its request, if anybody in front
/// was given notice at all.
const LINGER: Duration = Duration::from_secs(1);

/// The runtime of every command.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Serves until SIGTERM or Ctrl-C.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let telemetry = telemetry::init(TelemetryConfig {
        log_format: config.log_format,
        log_filter: config.log_filter.clone(),
        traces: config.traces.clone(),
        service_version: env!("CARGO_PKG_VERSION"),
        revision: option_env!("PAYGAUGE_REVISION").unwrap_or("unknown"),
        environment: config.environment.as_str().to_owned(),
        role: config.roles.as_str(),
        parts: config.telemetry,
    })?;
    let api = if config.roles.api { Some(bind(config.listen).await?) } else { None };
    let ops = bind(config.ops_listen).await?;
    let running = Running::start(config, api, ops, telemetry.metrics()).await?;
    let api = running.api_addr().map_or_else(|| "off".to_owned(), |addr| addr.to_string());
    tracing::info!(%api, worker = running.has_worker, ops = %running.ops_addr(), "serving");
    stop_signal().await;
    tracing::info!("stopping: soon no new requests; money work goes on to its end");
    running.stop().await;
    tokio::task::spawn_blocking(|| telemetry.shutdown()).await?;
    Ok(())
}

async fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("cannot listen on {addr}"))
}

/// Resolves on Ctrl-C or SIGTERM. A Ctrl-C after that ends the process at once: somebody is sitting there and does not
/// want to wait for clients or the PG. What was in hand is as after a crash: committed intents, taken up by recovery.
pub async fn stop_signal() {
    let (mut interrupts, mut terminations) = (signals(SignalKind::interrupt()), signals(SignalKind::terminate()));
    tokio::select! {
        () = next(&mut interrupts) => {}
        () = next(&mut terminations) => {}
    }
    tokio::spawn(async move {
        next(&mut interrupts).await;
        eprintln!("paygauge: stopped at once; recovery goes on with what was in hand at the next start");
        std::process::exit(130);
    });
}

fn signals(kind: SignalKind) -> Option<Signal> {
    signal(kind).inspect_err(|error| tracing::warn!(?kind, %error, "a signal cannot be listened to")).ok()
}

/// Without a handler there is only the other signal to wait for.
async fn next(signals: &mut Option<Signal>) {
    let Some(signals) = signals else { return std::future::pending().await };
    if signals.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// A running paygauge.
pub struct Running {
    app: Arc<App>,
    api_addr: Option<SocketAddr>,
    has_worker: bool,
    ops_addr: SocketAddr,
    readiness: Arc<Readiness>,
    stop_worker: CancellationToken,
    leaving: CancellationToken,
    stop_edges: CancellationToken,
    stop_ops: CancellationToken,
    edges: Vec<JoinHandle<()>>,
    ops: JoinHandle<()>,
}

impl Running {
    /// Starts the roles of `config`: the API on its listener, if there is one, and the worker. A database that is away for now is waited for; `/readyz` says
    /// so meanwhile.
    pub async fn start(
        config: Config,
        api: Option<TcpListener>,
        ops: TcpListener,
        metrics: MetricsHandle,
    ) -> anyhow::Result<Self> {
        telemetry::runtime::count_panics();
        telemetry::runtime::watch();
        telemetry::runtime::show_config(config.fingerprint(), config.environment.as_str());
        let (stop_edges, stop_ops) = (CancellationToken::new(), CancellationToken::new());
        let redis = start_redis(config.redis.as_ref(), &stop_edges).await?;
        let app = app_at(&config.database, &config.toss, &config.settings, &config.crash, redis.clone()).await?;
        exchange_news(Arc::clone(&app.news), stop_ops.clone());
        let readiness = Arc::new(Readiness::default());
        match connect::is_migrated(&config.database).await {
            Ok(true) => readiness.set_migrated(),
            Ok(false) => anyhow::bail!("the database's schema is older than this program: run `paygauge migrate`"),
            Err(error) => {
                tracing::warn!(%error, "the database is not there yet");
                tokio::spawn(watch_schema(config.database.clone(), Arc::clone(&readiness)));
            }
        }
        let (stop_worker, leaving) = (CancellationToken::new(), CancellationToken::new());
        let api_addr = api.as_ref().map(TcpListener::local_addr).transpose()?;
        let (has_worker, ops_addr) = (config.roles.worker, ops.local_addr()?);
        let mut edges = Vec::new();
        if let Some(api) = api {
            let tokens = Tokens::new(&config.token_secrets, config.settings.checkout_token_life)?;
            let limiter = RateLimiter::new(config.settings.rates, config.trusted_proxies, redis.clone());
            let settings = &config.settings;
            let streams = Streams::new(settings.event_streams_max, settings.event_stream_life, leaving.clone());
            let state = AppState::new(Arc::clone(&app), tokens, limiter, streams);
            let router = http::router(state, &config.cors_origins);
            let linger = if settings.drain.is_zero() { Duration::ZERO } else { LINGER };
            let end = End { near: leaving.clone(), stop: stop_edges.clone(), linger };
            edges.push(tokio::spawn(listen(api, router, end)));
            let (app, stop) = (Arc::clone(&app), stop_edges.clone());
            edges.push(tokio::spawn(async move { live::look(&app, stop).await }));
        }
        if has_worker {
            readiness.expect_worker();
            let (app, readiness) = (Arc::clone(&app), Arc::clone(&readiness));
            edges.push(tokio::spawn(worker::run(app, readiness, stop_worker.clone())));
        }
        let state = OpsState { app: Some(Arc::clone(&app)), readiness: Arc::clone(&readiness), redis, metrics };
        tokio::spawn(watch_database(Arc::clone(&app), stop_ops.clone()));
        let ops = tokio::spawn(listen(ops, http::ops_router(state), End::at(stop_ops.clone())));
        Ok(Self {
            app,
            api_addr,
            has_worker,
            ops_addr,
            readiness,
            stop_worker,
            leaving,
            stop_edges,
            stop_ops,
            edges,
            ops,
        })
    }

    /// What the roles share.
    #[must_use]
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Where the API listens, if this process serves it.
    #[must_use]
    pub fn api_addr(&self) -> Option<SocketAddr> {
        self.api_addr
    }

    /// Where the operations port listens.
    #[must_use]
    pub fn ops_addr(&self) -> SocketAddr {
        self.ops_addr
    }

    /// Ends: not ready any more; for `drain` everybody is answered and asked to give the connection up; then no new
    /// requests, the worker's batch to its end, money work to its end, all bounded by `shutdown_grace`; the operations
    /// port last, so that the end can be watched.
    pub async fn stop(self) {
        self.readiness.start_shutdown();
        self.stop_worker.cancel();
        self.leaving.cancel();
        if self.api_addr.is_some() {
            tokio::time::sleep(self.app.settings.drain).await;
        }
        self.stop_edges.cancel();
        self.app.tasks.close();
        let finish = async {
            for edge in self.edges {
                if let Err(error) = edge.await {
                    tracing::error!(%error, "a role ended by a panic");
                }
            }
            self.app.tasks.wait().await;
        };
        if tokio::time::timeout(self.app.settings.shutdown_grace, finish).await.is_err() {
            match self.app.tasks.len() {
                0 => tracing::warn!("stopped before the last client or the worker was done; no money work was in hand"),
                tasks => tracing::error!(
                    tasks,
                    "stopped with money work in hand; its intents are committed, and recovery goes on with them"
                ),
            }
        }
        self.stop_ops.cancel();
        // A scrape that hangs must not keep the process.
        if tokio::time::timeout(Duration::from_secs(2), self.ops).await.is_err() {
            tracing::warn!("the operations port was closed with a request in hand");
        }
    }
}

/// The database and the PG together, as the operators' commands use them.
///
/// # Errors
/// If the database's address or the PG's settings cannot be used.
pub async fn app(
    database: &DbConfig,
    toss: &TossConfig,
    settings: &Settings,
    crash: &CrashSwitch,
) -> anyhow::Result<Arc<App>> {
    app_at(database, toss, settings, crash, None).await
}

/// The same, as every role uses them: sharing what can be shared with the others at this Redis.
async fn app_at(
    database: &DbConfig,
    toss: &TossConfig,
    settings: &Settings,
    crash: &CrashSwitch,
    redis: Option<Arc<Redis>>,
) -> anyhow::Result<Arc<App>> {
    let news = Arc::new(News::new(redis.clone(), settings.sold_out_life));
    let cache = Cache::new(settings.catalogue_life, redis);
    let pool = connect::pool(database).await?;
    let db = Db::new(pool, database.pool_connections_max, crash.clone())
        .answering_within(database.answer_within())
        .connecting_within(database.pool_wait)
        .telling(Arc::clone(&news));
    let toss = Toss::new(toss.clone())?;
    let settings = settings.clone();
    let provider = Door::new(
        Arc::new(toss),
        ProviderLabel::Toss,
        settings.provider_deadline,
        settings.provider_limits,
        crash.clone(),
    );
    Ok(Arc::new(App {
        db,
        provider,
        settings,
        tasks: TaskTracker::new(),
        cache,
        known_keys: KnownKeys::default(),
        queues: Queues::default(),
        news,
        nudges: Nudges::default(),
    }))
}

/// Tells whether the database answers, until the process ends.
async fn watch_database(app: Arc<App>, stop: CancellationToken) {
    loop {
        let is_up = app.db.read(async |conn| db::overview::ping(conn).await).await.is_ok();
        record::dependency(Dependency::Database, is_up, clock::now());
        tokio::select! {
            () = tokio::time::sleep(DEPENDENCY_POLL) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The Redis of the configuration, looked at once so that the first request knows whether to ask it, and from then on
/// until `stop`.
async fn start_redis(config: Option<&RedisConfig>, stop: &CancellationToken) -> anyhow::Result<Option<Arc<Redis>>> {
    let Some(config) = config else { return Ok(None) };
    let redis = Arc::new(Redis::new(config).context("REDIS_URL")?);
    redis.check().await;
    let (watched, stop) = (Arc::clone(&redis), stop.clone());
    tokio::spawn(async move { watched.watch(stop).await });
    Ok(Some(redis))
}

/// Exchanges news with the other processes until `stop`: the last work of this one is told, too.
fn exchange_news(news: Arc<News>, stop: CancellationToken) {
    tokio::spawn(async move { news.run(stop).await });
}

async fn watch_schema(config: DbConfig, readiness: Arc<Readiness>) {
    loop {
        tokio::time::sleep(SCHEMA_POLL).await;
        match connect::is_migrated(&config).await {
            Ok(true) => return readiness.set_migrated(),
            Ok(false) => tracing::error!("the database's schema is older than this program: run `paygauge migrate`"),
            Err(error) => tracing::debug!(error = %DbError::from(error), "still no database"),
        }
    }
}
