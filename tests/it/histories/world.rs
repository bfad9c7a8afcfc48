//! The world of one history: a database, a PG, and processes of paygauge that die and come back.
//!
//! Each process has a runtime of its own. Killing it ends every task between two steps, as `kill -9` does, and what
//! it had sent stays sent.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use paygauge::config::{Roles, Settings};
use paygauge::crash::{CrashPlan, CrashPoint, CrashSwitch};
use paygauge::db::Db;
use paygauge::db::connect::{self, DbConfig};
use paygauge::http::auth::keys::{self, Role};
use paygauge::serve::Running;
use paygauge::telemetry;
use pg_mock::PgMock;
use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::command::History;
use crate::support::database;
use crate::support::shop::{self, invariants_client};

/// How long a process that is to die at a point is waited for.
const POINT_PATIENCE: Duration = Duration::from_millis(1_000);
/// How long a process may take to come back.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// No scripted effect at the PG comes later than this after its call.
pub const LATEST_EFFECT: Duration = Duration::from_millis(800);

/// Databases that a history has left behind, emptied. Making one anew takes longer than most histories.
static EMPTY: Mutex<Vec<DbConfig>> = Mutex::new(Vec::new());

async fn empty_database() -> DbConfig {
    let left = EMPTY.lock().unwrap_or_else(PoisonError::into_inner).pop();
    match left {
        Some(database) => database,
        None => database::fresh().await,
    }
}

/// Keeps no connection: the process at the other end may be dead by the next request.
static HTTP: LazyLock<reqwest::Client> = LazyLock::new(|| {
    // An error says that it was done before, which is as good.
    let _known = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client")
});

/// Durations, all short; what must hold between them holds.
fn settings() -> Settings {
    let millis = Duration::from_millis;
    Settings {
        provider_deadline: millis(600),
        recovery_grace: millis(250),
        not_found_quarantine: millis(1_000),
        deposit_poll: millis(300),
        deposit_grace: millis(100),
        idempotency_lease: millis(1_000),
        worker_lease: millis(1_800),
        worker_poll: millis(30),
        shutdown_grace: millis(1_000),
        ..shop::settings()
    }
}

/// One process.
struct Process {
    runtime: Option<Runtime>,
    running: Running,
    crash: CrashSwitch,
}

/// Everything around the commands of one history.
pub struct World {
    pub mock: PgMock,
    pub database: DbConfig,
    pub http: reqwest::Client,
    pub secret: String,
    pub publishable: String,
    /// Ids, in the history's order.
    pub products: Vec<String>,
    /// Taken by whoever ends or starts the process.
    processes: Vec<tokio::sync::Mutex<Option<Process>>>,
    bases: RwLock<Vec<Option<String>>>,
    faults: Mutex<BTreeMap<String, u64>>,
}

impl World {
    /// A world at its beginning: everything runs, the catalogue is full, nothing was ordered.
    pub async fn begin(history: &History) -> Self {
        let mut database = empty_database().await;
        database.pool_connections_max = 5;
        database.pool_wait = Duration::from_secs(3);
        database.lock_timeout = Duration::from_secs(3);
        let millis = Duration::from_millis;
        let options = pg_mock::Options {
            replay_server_errors: history.binds_server_errors,
            webhook_latency: millis(5),
            webhook_retries: vec![millis(50), millis(200), millis(800)],
            webhook_timeout: Duration::from_secs(2),
            ..pg_mock::Options::default()
        };
        let mock = PgMock::start(options).await.expect("pg-mock");
        let db = Db::new(connect::pool(&database).await.expect("a pool"), 2, CrashSwitch::default());
        let (_, secret) = keys::create(&db, Role::Secret, "test").await.expect("a key");
        let (_, publishable) = keys::create(&db, Role::Publishable, "test").await.expect("a key");
        drop(db);
        assert_eq!(settings().mistakes(), Vec::<String>::new(), "the durations fit together");
        let count = history.processes.clamp(1, 2);
        let world = Self {
            mock,
            database,
            http: HTTP.clone(),
            secret: secret.expose_secret().to_owned(),
            publishable: publishable.expose_secret().to_owned(),
            products: Vec::new(),
            processes: (0..count).map(|_| tokio::sync::Mutex::new(None)).collect(),
            bases: RwLock::new(vec![None; count]),
            faults: Mutex::default(),
        };
        for index in 0..count {
            let mut process = world.processes[index].lock().await;
            world.start(index, &mut process).await;
        }
        world
    }

    /// Ends everything, and the database with it.
    pub async fn end(&self) {
        for slot in &self.processes {
            if let Some(process) = slot.lock().await.take() {
                kill(process).await;
            }
        }
        // What the dead had sent is carried out or thrown away before the next history begins.
        let alone = "do $$ begin
                perform pg_terminate_backend(pid) from pg_stat_activity
                    where datname = current_database() and pid <> pg_backend_pid();
                if found then raise exception 'not alone yet'; end if;
            end $$";
        self.sql(alone).await;
        let empty = "do $$ declare list text; begin
                select string_agg(format('%I', tablename), ', ') into list from pg_tables
                    where schemaname = 'public' and tablename <> '__diesel_schema_migrations';
                execute 'truncate ' || list || ' restart identity';
            end $$";
        self.sql(empty).await;
        EMPTY.lock().unwrap_or_else(PoisonError::into_inner).push(self.database.clone());
    }

    /// Where a process listens now; of the one asked for, else of any; `None` while all are down.
    pub fn base(&self, wish: usize) -> Option<String> {
        let bases = self.bases.read().unwrap_or_else(PoisonError::into_inner);
        let wished = bases.get(wish % bases.len()).cloned().flatten();
        wished.or_else(|| bases.iter().flatten().next().cloned())
    }

    /// Counts a fault that was really done.
    pub fn fault(&self, kind: &str) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner).entry(kind.to_owned()).or_default() += 1;
    }

    /// The faults so far, by kind.
    pub fn faults(&self) -> BTreeMap<String, u64> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Kills a process, if it reaches the point soon then there, and starts it again after a while.
    pub async fn crash(&self, index: usize, at: Option<&str>, down: Duration) {
        let index = index % self.processes.len();
        let mut slot = self.processes[index].lock().await;
        let Some(process) = slot.take() else { return };
        let point = at.and_then(CrashPoint::parse);
        let mut died_at = "crash between steps".to_owned();
        if let Some(point) = point {
            process.crash.arm(CrashPlan::Hold(point));
            if tokio::time::timeout(POINT_PATIENCE, process.crash.held()).await.is_ok() {
                died_at = format!("crash at {point}");
            }
        }
        self.fault(&died_at);
        self.set_base(index, None);
        kill(process).await;
        tokio::time::sleep(down).await;
        self.start(index, &mut slot).await;
    }

    /// Kills every process and starts it again.
    pub async fn crash_all(&self) {
        for index in 0..self.processes.len() {
            self.fault("crash at the end");
            let mut slot = self.processes[index].lock().await;
            let Some(process) = slot.take() else { continue };
            self.set_base(index, None);
            kill(process).await;
            self.start(index, &mut slot).await;
        }
    }

    /// Money work that requests began and nobody has ended.
    pub async fn work_in_hand(&self) -> usize {
        let mut count = 0;
        for slot in &self.processes {
            count += slot.lock().await.as_ref().map_or(0, |process| process.running.app().tasks.len());
        }
        count
    }

    /// Moves everything that is written down into the past, except when virtual accounts stop to take deposits: the PG
    /// keeps that day too.
    pub async fn age(&self, seconds: i64) {
        let moved = [
            ("orders", &["hold_expires_at", "cancel_requested_at", "created_at", "updated_at"][..]),
            ("payments", &["confirm_started_at", "inquire_at", "lease_until", "created_at", "updated_at"]),
            ("cancellations", &["inquire_at", "lease_until", "created_at", "updated_at"]),
            // When a key was claimed says in which partition it lies, and nothing else.
            ("idempotency_keys", &["lease_until", "expires_at"]),
            ("webhook_inbox", &["next_at", "lease_until", "received_at"]),
        ];
        let statements = moved.map(|(table, columns)| {
            let sets: Vec<String> =
                columns.iter().map(|column| format!("{column} = {column} - interval '{seconds} s'")).collect();
            format!("begin; update {table} set {}; commit", sets.join(", "))
        });
        self.sql(&statements.join("; ")).await;
    }

    /// Cuts every connection that the processes have.
    pub async fn cut(&self) {
        self.sql(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .await;
    }

    /// A connection beside the processes'. Whoever cuts all cuts this one too, so nobody keeps it.
    pub async fn client(&self) -> tokio_postgres::Client {
        invariants_client(&self.database).await
    }

    /// Runs SQL, again if the connection is cut or the statement is a deadlock's victim.
    pub async fn sql(&self, statement: &str) {
        let started = Instant::now();
        while self.try_sql(statement).await.is_none() {
            assert!(started.elapsed() < START_PATIENCE, "not within {START_PATIENCE:?}: {statement}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn try_sql(&self, statement: &str) -> Option<()> {
        let connected = tokio_postgres::connect(self.database.url.expose_secret(), tokio_postgres::NoTls).await;
        let (client, connection) = connected.ok()?;
        tokio::spawn(connection);
        client.batch_execute(statement).await.ok()
    }

    async fn start(&self, index: usize, slot: &mut Option<Process>) {
        let started = Instant::now();
        let process = loop {
            if let Some(process) = self.try_start().await {
                break process;
            }
            assert!(started.elapsed() < START_PATIENCE, "a process does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let base = format!("http://{}", process.running.api_addr().expect("an API"));
        if index == 0 {
            self.mock.set_webhook_url(Some(format!("{base}/v1/webhooks/toss")));
        }
        self.set_base(index, Some(base));
        *slot = Some(process);
    }

    async fn try_start(&self) -> Option<Process> {
        let crash = CrashSwitch::default();
        let roles = Roles { api: true, worker: true };
        let mut config = shop::config(self.database.clone(), &self.mock.url(), roles, settings());
        let millis = Duration::from_millis;
        config.crash = crash.clone();
        config.toss.connect_timeout = millis(300);
        config.toss.confirm_timeout = millis(500);
        config.toss.cancel_timeout = millis(500);
        config.toss.inquiry_timeout = millis(500);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let running = runtime.spawn(async move {
            let any = || TcpListener::bind(("127.0.0.1", 0));
            let (api, ops) = (any().await.ok()?, any().await.ok()?);
            Running::start(config, Some(api), ops, telemetry::for_tests().metrics()).await.ok()
        });
        match running.await.ok().flatten() {
            Some(running) => Some(Process { runtime: Some(runtime), running, crash }),
            None => {
                runtime.shutdown_background();
                None
            }
        }
    }

    fn set_base(&self, index: usize, base: Option<String>) {
        self.bases.write().unwrap_or_else(PoisonError::into_inner)[index] = base;
    }
}

/// Ends a process between two of its steps. When this returns, it does nothing any more.
async fn kill(mut process: Process) {
    let runtime = process.runtime.take();
    let ended = tokio::task::spawn_blocking(move || {
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
        drop(process);
    });
    ended.await.expect("a runtime ends");
}

/// Only a history that could not be played to its end leaves processes behind.
impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
