//! The real program dies by SIGKILL after any statement and at any crash point, PostgreSQL dies under it, its disk is
//! full or read-only: what a client was told stays true, and the three books agree.

mod database;
mod disk;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use paygauge::crash::{CrashPoint, CrashSwitch};
use paygauge::db::Db;
use paygauge::db::connect::{self, DbConfig};
use paygauge::http::auth::keys::{self, Role};
use paygauge::telemetry::labels::{ProviderOperation, Tx};
use pg_mock::PgMock;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio_postgres::Client as Sql;

use crate::support::served::Served;
use crate::support::shop::{Answer, PATIENCE, invariants_client};
use crate::support::{self, eventually, invariants};

const TEMPLATE: &str = "template_process_kill";
const STOCK: i64 = 100;
/// Programs running at a time: they mostly wait, so there may be more of them where nothing else runs.
const AT_ONCE: usize = 4;
const AT_ONCE_ALL: usize = 10;
/// How many statements the sample of `cargo test` tries, of about this many that the flow takes.
const SAMPLE: u64 = 12;
const STATEMENTS: u64 = 180;
/// The long form ends after so many runs in a row that were over before the statement came.
const BEYOND: usize = 8;

/// A migrated database with a product and a secret key, and their names; each run gets a copy.
struct Prepared {
    product: String,
    secret: String,
}

async fn prepared() -> &'static Prepared {
    static PREPARED: OnceCell<Prepared> = OnceCell::const_new();
    PREPARED
        .get_or_init(|| async {
            let fresh = support::database::fresh().await;
            let db = Db::new(connect::pool(&fresh).await.expect("a pool"), 2, CrashSwitch::default());
            let (_, secret) = keys::create(&db, Role::Secret, "test").await.expect("a key");
            drop(db);
            let secret = secret.expose_secret().to_owned();
            let mock = Arc::new(PgMock::start(pg_mock::Options::default()).await.expect("pg-mock"));
            let mut served = Served::beside(mock, fresh.clone(), &secret, &[]).await.expect("it serves");
            let body = json!({ "name": "Coffee beans", "price": 4_000, "initialStock": STOCK });
            let product = served.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id");
            served.kill().await;
            let name = invariants_client(&fresh).await.query_one("select current_database()::text", &[]).await;
            let name: String = name.expect("its name").get(0);
            let admin = invariants_client(&support::database::config("postgres")).await;
            // Nobody may be connected to what is copied.
            eventually("the template is left alone", PATIENCE, async || {
                admin.batch_execute(&format!("alter database {name} rename to {TEMPLATE}")).await.ok()
            })
            .await;
            Prepared { product, secret }
        })
        .await
}

async fn copy() -> DbConfig {
    prepared().await;
    let name = format!("killed_{}", uuid::Uuid::new_v4().as_simple());
    let admin = support::database::config("postgres");
    // PostgreSQL copies a database for one at a time.
    eventually("a copy", PATIENCE, async || connect::ensure_database(&admin, &name, Some(TEMPLATE)).await.ok()).await;
    support::database::config(&name)
}

/// The clients of one shop: they do the same things in the same order whenever they are asked, and repeat with the
/// same key what they got no answer to.
struct Clients {
    mock: Arc<PgMock>,
    database: DbConfig,
    sql: Sql,
    secret: String,
    product: String,
    served: Option<Served>,
    crash: String,
    deaths: u32,
    /// What the buyers' windows gave, by order.
    keys: BTreeMap<String, String>,
    told: BTreeMap<&'static str, String>,
}

impl Clients {
    async fn of_a_process_that_dies_at(crash: &str) -> Self {
        let (database, prepared) = (copy().await, prepared().await);
        let sql = invariants_client(&database).await;
        let mock = Arc::new(PgMock::start(pg_mock::Options::default()).await.expect("pg-mock"));
        let (secret, product) = (prepared.secret.clone(), prepared.product.clone());
        let mut clients = Self {
            mock,
            database,
            sql,
            secret,
            product,
            served: None,
            crash: crash.to_owned(),
            deaths: 0,
            keys: BTreeMap::new(),
            told: BTreeMap::new(),
        };
        let crash = clients.crash.clone();
        clients.start(&[("PAYGAUGE_CRASH_AT", &crash)]).await;
        if clients.served.is_none() {
            clients.revive().await;
        }
        clients
    }

    async fn start(&mut self, further: &[(&str, &str)]) {
        let calm = [("PAYGAUGE_WORKER_POLL_MS", "1000"), ("PAYGAUGE_DB_CONNECTIONS_MAX", "4")];
        let variables: Vec<_> = calm.iter().chain(further).copied().collect();
        let mock = Arc::clone(&self.mock);
        self.served = Served::beside(mock, self.database.clone(), &self.secret, &variables).await;
    }

    /// It died where it was told to: starts it again, to live this time, and lets the time pass that would.
    async fn revive(&mut self) {
        if let Some(mut dead) = self.served.take() {
            dead.ended().await;
        }
        assert_eq!(self.deaths, 0, "{}: it died twice", self.crash);
        self.deaths += 1;
        self.start(&[]).await;
        assert!(self.served.is_some(), "{}: it does not start again", self.crash);
    }

    /// Whoever owned an intent or a lease is dead, and the time that is granted to the living is over.
    async fn time_passes(&self) {
        let over = "update payments set inquire_at = now(), lease_until = null where inquire_at is not null;
                    update cancellations set inquire_at = now(), lease_until = null where inquire_at is not null;
                    update webhook_inbox set next_at = now(), lease_until = null where processed_at is null;
                    update idempotency_keys set lease_until = now() where status = 'in_progress'";
        self.sql.batch_execute(over).await.expect("SQL");
    }

    async fn send(&mut self, method: &Method, path: &str, body: &Value, key: &str) -> Option<Answer> {
        let served = self.served.as_mut()?;
        let mut request = served.secret.raw(method.clone(), path).header("Idempotency-Key", key);
        if *method == Method::POST {
            request = request.json(body);
        }
        let answered = async {
            let response = request.send().await.ok()?;
            let (status, headers) = (response.status(), response.headers().clone());
            let raw = response.text().await.ok()?;
            let body = serde_json::from_str(&raw).unwrap_or(Value::Null);
            Some(Answer { status, headers, raw, body })
        };
        tokio::time::timeout(PATIENCE, answered).await.expect("no request hangs")
    }

    /// Asks until there is a certain answer. If there was one before, it must be the same.
    async fn ask(&mut self, name: &'static str, method: Method, path: &str, body: &Value) -> Answer {
        let begun = std::time::Instant::now();
        loop {
            assert!(begun.elapsed() < 3 * PATIENCE, "{}: no certain answer to {name}", self.crash);
            match self.send(&method, path, body, name).await {
                None => self.revive().await,
                Some(answer) if matches!(answer.status, StatusCode::OK | StatusCode::CREATED) => {
                    if method == Method::POST {
                        let before = self.told.entry(name).or_insert_with(|| answer.raw.clone());
                        assert_eq!(*before, answer.raw, "{}: {name} was told something else before", self.crash);
                    }
                    return answer;
                }
                Some(answer) => {
                    let passing = [StatusCode::ACCEPTED, StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE];
                    assert!(passing.contains(&answer.status), "{}: {name}: {}", self.crash, answer.raw);
                    if self.deaths > 0 {
                        self.time_passes().await;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn post(&mut self, name: &'static str, path: &str, body: Value) -> Answer {
        self.ask(name, Method::POST, path, &body).await
    }

    async fn order(&mut self, name: &'static str, quantity: i64) -> (String, i64) {
        let body = json!({ "lines": [{ "productId": self.product, "quantity": quantity }] });
        let order = self.post(name, "/v1/orders", body).await;
        (order.text("id"), order.number("amount"))
    }

    async fn confirm(&mut self, name: &'static str, order: &(String, i64), key: String) -> Answer {
        let key = self.keys.entry(order.0.clone()).or_insert(key).clone();
        let body = json!({ "paymentKey": key, "orderId": order.0, "amount": order.1 });
        self.post(name, "/v1/payments/confirm", body).await
    }

    async fn becomes(&mut self, order: &str, status: &str) {
        let begun = std::time::Instant::now();
        let path = format!("/v1/orders/{order}");
        while self.ask("look", Method::GET, &path, &Value::Null).await.text("status") != status {
            assert!(begun.elapsed() < 3 * PATIENCE, "{}: {order} does not become {status}", self.crash);
            if self.deaths > 0 {
                self.time_passes().await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A purchase with two cancels, an account with its deposit, an order that is given up, one that runs out.
    async fn shop(&mut self) {
        let card = self.order("place", 3).await;
        let key = self.window(&card, PgMock::pay);
        let payment = self.confirm("confirm", &card, key).await.text("id");
        let path = format!("/v1/payments/{payment}/cancel");
        let one = json!({ "reason": "one less", "lines": [{ "line": 1, "quantity": 1 }] });
        self.post("cancel a part", &path, one).await;
        self.post("cancel the rest", &path, json!({ "reason": "no" })).await;

        let account = self.order("place by account", 2).await;
        let key = self.window(&account, PgMock::pay_by_virtual_account);
        self.confirm("issue", &account, key).await;
        if self.mock.book().approved(&account.0) == 0 {
            self.mock.deposit(&self.keys[&account.0]);
        }
        self.becomes(&account.0, "paid").await;

        let given_up = self.order("place in vain", 1).await;
        self.post("give up", &format!("/v1/orders/{}/cancel", given_up.0), json!({ "reason": "no" })).await;

        let late = self.order("place and forget", 1).await;
        let over = format!(
            "update orders set hold_expires_at = now() - interval '1 second' where status = 'pending'
             and replace(id::text, '-', '') = '{}'",
            late.0.trim_start_matches("ord_")
        );
        self.sql.batch_execute(&over).await.expect("SQL");
        self.becomes(&late.0, "expired").await;
    }

    /// A buyer authenticates once.
    fn window(&self, order: &(String, i64), pay: fn(&PgMock, &str, i64) -> String) -> String {
        self.keys.get(&order.0).cloned().unwrap_or_else(|| pay(&self.mock, &order.0, order.1))
    }

    /// Shops, shops again by the same keys, and compares the books. Whether the process died.
    async fn live_through_it(mut self) -> bool {
        self.shop().await;
        self.shop().await;
        if self.deaths > 0 {
            self.time_passes().await;
        }
        invariants::quiet(&self.sql).await;
        invariants::rules(&self.database).await;
        let book = self.mock.book();
        let mut theirs = BTreeMap::new();
        for payment in &book.payments {
            *theirs.entry(payment.order_id.clone()).or_default() +=
                invariants::kept(payment.approved, payment.canceled);
        }
        assert_eq!(theirs.len(), 2, "{}: one payment for each paid order", self.crash);
        invariants::books_agree(&self.sql, &theirs).await;
        for (key, used) in &book.calls.idempotency_keys {
            assert!(used.body_hashes.len() <= 1, "the PG key {key} was used with two bodies");
        }
        let left = "select available::bigint from stock";
        let left: i64 = self.sql.query_one(left, &[]).await.expect("stock").get(0);
        assert_eq!(left, STOCK - 2, "{}: only the account's two units are sold", self.crash);
        let orders: i64 = self.sql.query_one("select count(*) from orders", &[]).await.expect("a count").get(0);
        assert_eq!(orders, 4, "{}: nothing was ordered twice", self.crash);
        self.deaths > 0
    }
}

/// Lives through every one of these deaths, a few at a time; says which of them came.
async fn deaths(at: impl IntoIterator<Item = String>) -> Vec<(String, bool)> {
    futures_util::stream::iter(at)
        .map(|crash| async move {
            let died = Clients::of_a_process_that_dies_at(&crash).await.live_through_it().await;
            (crash, died)
        })
        .buffered(if wants_all() { AT_ONCE_ALL } else { AT_ONCE })
        .collect()
        .await
}

fn wants_all() -> bool {
    std::env::var("PAYGAUGE_KILL_ALL").is_ok_and(|value| value == "1")
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_statement_it_goes_on_where_it_was_and_every_answer_stays_true() {
    if wants_all() {
        let from = std::env::var("PAYGAUGE_KILL_FROM").map_or(1, |text| text.parse().expect("a number"));
        let (mut first, mut beyond, mut died) = (from, 0, 0);
        // The worker's own rounds are statements too, so the course has a last one, but the process has none.
        while beyond < BEYOND && first <= from.max(3 * STATEMENTS) {
            let next = first + 20;
            for (crash, came) in deaths((first..next).map(|n| format!("statement:{n}"))).await {
                beyond = if came { 0 } else { beyond + 1 };
                died += u32::from(came);
                println!("{crash}: {}", if came { "killed" } else { "over before" });
            }
            first = next;
        }
        println!("killed {died} times");
        return;
    }
    let step = STATEMENTS / SAMPLE;
    let offset = rand::random_range(1..=step);
    let sample = (0..SAMPLE).map(|n| format!("statement:{}", offset + n * step));
    let came = deaths(sample).await;
    println!("{came:?}");
    let died = came.iter().filter(|(_, died)| *died).count();
    assert!(died > came.len() / 2, "most of these statements exist: {came:?}");
}

/// What the flow does not do: the command line's, the shop owner's and the worker's own housekeeping, and what takes a crowd
/// at one product (`crash_points` stops at that).
fn is_visited(point: CrashPoint) -> bool {
    match point {
        CrashPoint::Uncommitted(tx) | CrashPoint::Committed(tx) => !matches!(
            tx,
            Tx::Audit
                | Tx::Catalogue
                | Tx::Keys
                | Tx::OrderPlaceTogether
                | Tx::Overview
                | Tx::Housekeeping
                | Tx::Read
                | Tx::Reconcile
                | Tx::Sales
        ),
        // Reconciliation is killed by its own tests, which make something to find.
        CrashPoint::Calling(call) | CrashPoint::Answered(call) => call != ProviderOperation::List,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_crash_point_it_goes_on_where_it_was_and_every_answer_stays_true() {
    let points: Vec<_> = CrashPoint::all().filter(|point| is_visited(*point)).map(|point| point.to_string()).collect();
    assert!(points.len() > 20, "{points:?}");
    // A third of them in each run of `cargo test`, another one each time.
    let third = rand::random_range(0..3_usize);
    let chosen = points.into_iter().enumerate().filter(|(index, _)| wants_all() || index % 3 == third);
    let came = deaths(chosen.map(|(_, point)| point)).await;
    let missed: Vec<_> = came.iter().filter(|(_, died)| !died).collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
    println!("killed at {} points", came.len());
}
