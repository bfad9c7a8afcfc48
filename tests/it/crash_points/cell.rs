//! One cell of the matrix: a process of its own that ends at one point, and what must be true afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use paygauge::app::App;
use paygauge::config::{Roles, Settings};
use paygauge::crash::{CrashPlan, CrashPoint, CrashSwitch};
use paygauge::db::connect::DbConfig;
use paygauge::http::auth::keys::{self, Role};
use paygauge::payments::{expire, recovery, webhook};
use paygauge::serve::Running;
use paygauge::telemetry;
use pg_mock::PgMock;
use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::asked::Asked;
use super::moods::Mood;
use super::scene::Scene;
use super::verbs::Verb;
use crate::support::shop::{Client, PATIENCE, Shop, config, invariants_client, settings};
use crate::support::{database, eventually, invariants};

/// How a step in progress comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Death {
    /// All of the process is gone at once.
    ProcessKilled,
    /// Only the task is gone; the process, its pool and its leases live on.
    FutureDropped,
}

impl Death {
    pub const ALL: &'static [Self] = &[Self::ProcessKilled, Self::FutureDropped];
}

/// One cell.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub verb: Verb,
    pub mood: Mood,
    pub point: CrashPoint,
    pub death: Death,
}

impl Cell {
    pub async fn run(&self, world: &mut World) {
        let _told = Told(*self);
        let scene = self.verb.prepare(world).await;
        self.verb.spoil(&world.shop, self.mood);
        world.crash.arm(CrashPlan::Hold(self.point));
        let by = match self.death {
            Death::ProcessKilled => {
                let request = self.verb.ask(world, &scene);
                tokio::time::timeout(PATIENCE, world.crash.held()).await.expect("the point is reached");
                world.kill().await;
                // The answer is lost with the process.
                let _lost = tokio::time::timeout(PATIENCE, request).await.expect("the connection is closed");
                Asked::OverHttp
            }
            Death::FutureDropped if Verb::is_nobodys(self.point) => {
                // The task dies by itself, and the requests find another way.
                world.crash.arm(CrashPlan::Panic(self.point));
                let task = self.verb.call(world, &scene);
                assert!(task.await.expect("a call that ends"), "they go on without it");
                assert!(world.crash.reached().contains(&self.point), "the point is reached");
                world.nothing_is_left_in_a_transaction().await;
                self.verb.asked()
            }
            Death::FutureDropped => {
                let task = self.verb.call(world, &scene);
                tokio::time::timeout(PATIENCE, world.crash.held()).await.expect("the point is reached");
                task.abort();
                assert!(task.await.is_err(), "the future was dropped");
                world.nothing_is_left_in_a_transaction().await;
                self.verb.asked()
            }
        };
        world.recover(self.verb, self.mood, &scene, by).await;
    }
}

/// Names the cell of a failed assertion.
struct Told(Cell);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed: {:?}", self.0);
        }
    }
}

/// The same without a crash; returns the points that were reached.
pub async fn control(world: &mut World, verb: Verb, mood: Mood) -> BTreeSet<CrashPoint> {
    let scene = verb.prepare(world).await;
    verb.spoil(&world.shop, mood);
    world.crash.watch();
    verb.ask(world, &scene).await.expect("the verb ends");
    let reached = world.crash.reached();
    world.recover(verb, mood, &scene, Asked::OverHttp).await;
    reached
}

/// A paygauge in a runtime of its own, so that all of it can end at once.
pub struct World {
    pub shop: Shop,
    pub crash: CrashSwitch,
    system: Option<Runtime>,
    in_order: bool,
}

impl World {
    pub async fn new() -> Self {
        let database = database::fresh().await;
        let mock = PgMock::start(pg_mock::Options::default()).await.expect("pg-mock");
        let crash = CrashSwitch::default();
        let (system, running, base) = start(&database, &mock, Roles { api: true, worker: false }, &crash).await;
        let db = running.app().db.clone();
        let keys = system.spawn(async move {
            let (_, secret) = keys::create(&db, Role::Secret, "test").await.expect("a key");
            let (_, publishable) = keys::create(&db, Role::Publishable, "test").await.expect("a key");
            (secret, publishable)
        });
        let (secret, publishable) = keys.await.expect("keys");
        let shop = Shop {
            running,
            mock,
            database,
            secret: Client::new(&base, secret.expose_secret()),
            publishable: Client::new(&base, publishable.expose_secret()),
            base,
            has_worker: false,
        };
        Self { shop, crash, system: Some(system), in_order: true }
    }

    pub fn app(&self) -> Arc<App> {
        Arc::clone(self.shop.running.app())
    }

    /// Runs `work` inside the process.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.system.as_ref().expect("a running system").spawn(work)
    }

    /// Ends all of the process, and starts another one.
    async fn kill(&mut self) {
        if let Some(system) = self.system.take() {
            system.shutdown_background();
        }
        let roles = Roles { api: true, worker: false };
        self.crash = CrashSwitch::default();
        let (system, running, base) = start(&self.shop.database, &self.shop.mock, roles, &self.crash).await;
        self.shop.secret = Client::new(&base, self.shop.secret.token());
        self.shop.publishable = Client::new(&base, self.shop.publishable.token());
        (self.shop.running, self.shop.base, self.system) = (running, base, Some(system));
    }

    /// The PG is well again, time passes, the worker works, and the client asks for what it did not hear.
    async fn recover(&mut self, verb: Verb, mood: Mood, scene: &Scene, by: Asked) {
        self.shop.mock.clear_script();
        self.in_order = !verb.waits_for_a_person(&self.shop, mood, scene);
        self.work().await;
        if self.in_order {
            verb.repeat(self, scene, by).await;
            self.until_quiet().await;
        }
        verb.check(&self.shop, mood, scene).await;
        invariants::hold(&self.shop).await;
    }

    /// Whether nothing is open, so that another verb finds the books in order.
    pub fn is_in_order(&self) -> bool {
        self.in_order
    }

    /// Whatever belonged to somebody belongs to nobody any more, and is due.
    pub async fn time_passes(&self) {
        let statements = "update payments set inquire_at = now() where inquire_at is not null;
             update payments set lease_until = null where lease_until is not null;
             update cancellations set inquire_at = now() where inquire_at is not null;
             update cancellations set lease_until = null where lease_until is not null;
             update webhook_inbox set next_at = now(), lease_until = null where processed_at is null;
             update reconciliations set lease_until = null, lease_owner = null;
             update idempotency_keys set lease_until = now() where lease_until > now();";
        self.shop.sql(statements).await;
    }

    /// One round of the worker, after some time.
    pub async fn work(&self) {
        self.time_passes().await;
        let app = self.app();
        let round = async move {
            recovery::recover_batch(&app).await.expect("a round of recovery");
            webhook::apply_batch(&app).await.expect("a round of webhooks");
            expire::expire_batch(&app, None).await.expect("a round of expiry");
        };
        self.spawn(round).await.expect("a round that ends");
    }

    async fn until_quiet(&self) {
        for _ in 0..20 {
            if self.shop.count(invariants::OPEN).await == 0 {
                return;
            }
            self.work().await;
        }
        panic!("after 20 rounds an outcome is still open");
    }

    async fn nothing_is_left_in_a_transaction(&self) {
        let client = invariants_client(&self.shop.database).await;
        let query = "select count(*) from pg_stat_activity
                     where datname = current_database() and state like 'idle in transaction%'";
        eventually("no transaction is left open", PATIENCE, async || {
            let open: i64 = client.query_one(query, &[]).await.expect("a count").get(0);
            (open == 0).then_some(())
        })
        .await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(system) = self.system.take() {
            system.shutdown_background();
        }
    }
}

async fn start(database: &DbConfig, mock: &PgMock, roles: Roles, crash: &CrashSwitch) -> (Runtime, Running, String) {
    let system = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let config = of(database, mock, roles, crash);
    let starting = system.spawn(async move {
        let (api, ops) = (listener().await, listener().await);
        let base = format!("http://{}", api.local_addr().expect("an address"));
        let running = Running::start(config, Some(api), ops, telemetry::for_tests().metrics()).await;
        (running.expect("a running paygauge"), base)
    });
    let (running, base) = starting.await.expect("a start");
    (system, running, base)
}

fn of(database: &DbConfig, mock: &PgMock, roles: Roles, crash: &CrashSwitch) -> paygauge::config::Config {
    let settings = Settings { reconcile_settle: Duration::ZERO, reconcile_patience: Duration::ZERO, ..settings() };
    let mut config = config(database.clone(), &mock.url(), roles, settings);
    config.database.pool_connections_max = 4;
    config.crash = crash.clone();
    config
}

async fn listener() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.expect("a port")
}
