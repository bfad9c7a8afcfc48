//! Chaos on the wire: the links to PostgreSQL and to the PG misbehave by a seed, and nothing hangs, comes back dirty,
//! panics, lies or stays broken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::sql_types::{BigInt, Text};
use diesel_async::RunQueryDsl as _;
use futures_util::FutureExt as _;
use paygauge::config::Roles;
use paygauge::crash::{CrashPlan, CrashPoint, CrashSwitch};
use paygauge::db::connect::DbConfig;
use paygauge::db::{Conn, Db, DbError};
use paygauge::payments::{expire, recovery, webhook};
use paygauge::serve::Running;
use paygauge::telemetry::labels::Tx;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::StatusCode;
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::chaos::{Link, Weather};
use crate::support::load::{HANGS, Load};
use crate::support::ready::{becomes_ready, readiness, says_that_the_database_is_away};
use crate::support::served::Served;
use crate::support::shop::{PATIENCE, Shop, ShopOptions, config, invariants_client, settings};
use crate::support::{database, eventually, invariants, panics};

/// How many connections the pools here may open.
const POOL: u32 = 6;

/// Short limits, so that silence is noticed in seconds: no work on one connection lasts longer than four.
fn hasty(database: DbConfig) -> DbConfig {
    DbConfig {
        pool_connections_max: POOL,
        pool_wait: Duration::from_secs(1),
        statement_timeout: Duration::from_secs(2),
        lock_timeout: Duration::from_millis(1_500),
        ..database
    }
}

/// A shop behind links.
struct Exposed {
    shop: Arc<Shop>,
    to_database: Link,
    to_pg: Link,
}

impl Exposed {
    async fn open(seed: u64) -> Self {
        panics::watch();
        let direct = hasty(database::fresh().await);
        let (to_database, exposed) = Link::to_database(seed, &direct);
        let to_pg = Link::new(seed.wrapping_add(1));
        let options = ShopOptions { pg_url: Some(to_pg.url()), ..ShopOptions::default() };
        let mut shop = Shop::on(exposed, options).await;
        to_pg.lead_to(&shop.mock.url());
        // What a test looks at is not in the storm.
        shop.database = direct;
        Self { shop: Arc::new(shop), to_database, to_pg }
    }

    /// Everything is in order again: no panic, nothing left running or lent, a clean pool, the three books.
    async fn close(self) {
        assert_eq!(panics::seen(), Vec::<String>::new());
        let app = self.shop.running.app();
        eventually("no work and no connection is left in anybody's hands", PATIENCE, async || {
            let pool = app.db.snapshot();
            (app.tasks.is_empty() && pool.used == 0 && pool.pending == 0).then_some(())
        })
        .await;
        clean(&self.shop.running.app().db, &self.shop.database).await;
        let Ok(shop) = Arc::try_unwrap(self.shop) else { panic!("every buyer has left") };
        shop.close().await;
    }
}

#[derive(diesel::QueryableByName)]
struct Found {
    #[diesel(sql_type = Text)]
    mark: String,
    #[diesel(sql_type = Text)]
    session: String,
    #[diesel(sql_type = Text)]
    transaction: String,
}

/// Asks one connection for a word, its settings, and its transaction.
async fn look(conn: &mut Conn, mark: &str) -> Result<Found, DbError> {
    let query = "select $1 as mark,
                 (select min(virtualtransaction) from pg_locks where pid = pg_backend_pid()) as transaction,
                 concat_ws(' ', current_setting('statement_timeout'), current_setting('lock_timeout'),
                           current_setting('idle_in_transaction_session_timeout'),
                           current_setting('transaction_isolation'), current_setting('search_path')) as session";
    Ok(diesel::sql_query(query).bind::<Text, _>(mark).get_result(conn).await?)
}

/// Asks twice: whoever is inside a transaction that somebody else began is in the same one both times.
async fn look_twice(conn: &mut Conn, mark: &str) -> Result<Found, DbError> {
    let (before, found) = (look(conn, "before").await?, look(conn, mark).await?);
    assert_ne!(before.transaction, found.transaction, "a connection was lent inside a transaction");
    Ok(found)
}

/// Every connection of the pool is clean: it answers what it is asked, has our settings and no open transaction, and
/// the server keeps none open either.
async fn clean(db: &Db, direct: &DbConfig) {
    let seconds = |time: Duration| {
        let millis = time.as_millis();
        if millis.is_multiple_of(1_000) { format!("{}s", millis / 1_000) } else { format!("{millis}ms") }
    };
    let session = format!(
        "{} {} {} read committed \"$user\", public",
        seconds(direct.statement_timeout),
        seconds(direct.lock_timeout),
        seconds(direct.answer_within())
    );
    // Each waits until all have theirs, so that every connection is looked at.
    let together = Arc::new(tokio::sync::Barrier::new(usize::try_from(direct.pool_connections_max).expect("a number")));
    let looking = (0..direct.pool_connections_max).map(|number| {
        let (db, together, mark) = (db.clone(), Arc::clone(&together), format!("mark {number}"));
        tokio::spawn(async move {
            let found = db
                .read(async |conn| {
                    let found = look_twice(conn, &mark).await?;
                    // A worker may have the last connection for a moment.
                    tokio::time::timeout(Duration::from_secs(2), together.wait()).await.map(drop).unwrap_or_default();
                    Ok::<_, DbError>(found)
                })
                .await;
            (mark, found)
        })
    });
    for looked in futures_util::future::join_all(looking).await {
        let (mark, found) = looked.expect("a look");
        match found {
            Ok(found) => {
                assert_eq!((found.mark, found.session.as_str()), (mark, session.as_str()));
            }
            // The others keep all connections while they wait.
            Err(error) => assert!(matches!(error, DbError::Unavailable(_)), "{error}"),
        }
    }
    nothing_open(direct).await;
}

/// The server holds no transaction open for us, and so no lock.
async fn nothing_open(direct: &DbConfig) {
    let client = invariants_client(direct).await;
    let open = "select count(*) from pg_stat_activity where datname = current_database()
                and pid <> pg_backend_pid() and state like 'idle in transaction%'";
    eventually("no transaction is left open", PATIENCE, async || {
        let count: i64 = client.query_one(open, &[]).await.expect("a count").get(0);
        (count == 0).then_some(())
    })
    .await;
}

/// Seeds to try: of `PAYGAUGE_CHAOS_SEED` (one), or as many new ones as `PAYGAUGE_CHAOS_RUNS` says, else one.
fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("PAYGAUGE_CHAOS_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("PAYGAUGE_CHAOS_RUNS").unwrap_or(1)).map(|_| rand::random()).collect(),
    }
}

fn storm_length() -> Duration {
    let seconds = std::env::var("PAYGAUGE_CHAOS_SECONDS").ok();
    Duration::from_secs(seconds.map_or(5, |text| text.parse().expect("a number")))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Database,
    Pg,
    Both,
}

async fn storm(place: Where) {
    for seed in seeds() {
        println!("{place:?}: PAYGAUGE_CHAOS_SEED={seed}");
        let exposed = Exposed::open(seed).await;
        let product = Load::product(&exposed.shop).await;
        let load = Load::start(&exposed.shop, &product);
        load.goes_on(1).await;
        let ask_for_readiness = async {
            let long = storm_length();
            let begun = Instant::now();
            while begun.elapsed() < long {
                let asked = Instant::now();
                readiness(&exposed.shop.running).await;
                assert!(asked.elapsed() < HANGS / 4, "/readyz took {:?}", asked.elapsed());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let on = |link, hit: bool| async move {
            if hit {
                Link::storm(link, storm_length()).await;
            }
        };
        tokio::join!(
            on(&exposed.to_database, place != Where::Pg),
            on(&exposed.to_pg, place != Where::Database),
            ask_for_readiness
        );
        becomes_ready(&exposed.shop.running).await;
        load.goes_on(2).await;
        let memory = load.stop().await;
        invariants::hold(&exposed.shop).await;
        memory.is_true(&exposed.shop).await;
        println!(
            "{} answers, {} of them \"try again\"; database link {:?}; PG link {:?}",
            memory.answers(),
            memory.failures(),
            exposed.to_database.dealt(),
            exposed.to_pg.dealt()
        );
        exposed.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_on_the_database_link_loses_no_money_and_passes_without_a_trace() {
    storm(Where::Database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_on_the_link_to_the_pg_loses_no_money_and_passes_without_a_trace() {
    storm(Where::Pg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_on_both_links_loses_no_money_and_passes_without_a_trace() {
    storm(Where::Both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_database_link() {
    let exposed = Exposed::open(0).await;
    becomes_ready(&exposed.shop.running).await;
    for weather in [Weather::Cut, Weather::Silent] {
        exposed.to_database.set(weather);
        says_that_the_database_is_away(&exposed.shop.running).await;
        exposed.to_database.set(Weather::Fair);
        becomes_ready(&exposed.shop.running).await;
    }
    exposed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_link_that_swallows_everything_hangs_no_request_and_its_connections_are_left_behind() {
    let exposed = Exposed::open(0).await;
    let product = Load::product(&exposed.shop).await;
    let load = Load::start(&exposed.shop, &product);
    load.goes_on(6).await;
    exposed.to_database.set(Weather::Silent);
    says_that_the_database_is_away(&exposed.shop.running).await;
    load.fails(12).await;
    // Whoever was connected before stays without an answer: nothing tells these connections from good ones.
    exposed.to_database.set(Weather::Fair);
    becomes_ready(&exposed.shop.running).await;
    load.goes_on(6).await;
    let memory = load.stop().await;
    invariants::hold(&exposed.shop).await;
    memory.is_true(&exposed.shop).await;
    exposed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_while_the_database_says_nothing_and_is_ready_once_it_speaks() {
    let direct = hasty(database::fresh().await);
    let (link, exposed) = Link::to_database(0, &direct);
    link.set(Weather::Silent);
    let any = || async { TcpListener::bind(("127.0.0.1", 0)).await.expect("a port") };
    let config = config(exposed, "http://127.0.0.1:9", Roles { api: true, worker: true }, settings());
    let metrics = paygauge::telemetry::for_tests().metrics();
    let starting = Running::start(config, Some(any().await), any().await, metrics);
    let running = tokio::time::timeout(HANGS, starting).await.expect("it does not hang").expect("it starts");
    says_that_the_database_is_away(&running).await;
    link.set(Weather::Fair);
    becomes_ready(&running).await;
    running.stop().await;
}

/// Requests of a route that ended with this status, as the exposition has them.
fn counted(exposition: &str, route: &str, status: &str) -> usize {
    let series = format!(
        "http_server_request_duration_seconds_count{{http_request_method=\"POST\",http_route=\"{route}\",http_response_status_code=\"{status}\"}} "
    );
    let value = exposition.lines().find_map(|line| line.strip_prefix(series.as_str()));
    value.map_or(0, |value| value.parse().expect("a whole number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counters_of_a_stormy_hour_are_what_the_clients_saw() {
    const ROUTE: &str = "/v1/orders";
    let seed = seeds()[0];
    println!("PAYGAUGE_CHAOS_SEED={seed}");
    let direct = database::fresh().await;
    let (link, exposed) = Link::to_database(seed, &direct);
    let seconds = [("PAYGAUGE_DB_STATEMENT_SECONDS", "1"), ("PAYGAUGE_DB_POOL_WAIT_SECONDS", "1")];
    let served = Served::at(exposed, &seconds).await;
    let body = json!({ "name": "Coffee beans", "price": 4_000, "initialStock": 10_000 });
    let product = served.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id");
    let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let over = AtomicBool::new(false);
    let clients = futures_util::future::join_all((0..4).map(async |_| {
        let mut statuses = Vec::new();
        while !AtomicBool::load(&over, Ordering::Relaxed) {
            statuses.push(served.secret.post_with_key(ROUTE, &body).await.status);
        }
        statuses
    }));
    let weather = async {
        link.storm(storm_length()).await;
        over.store(true, Ordering::Relaxed);
    };
    let (statuses, ()) = tokio::join!(clients, weather);
    let saw = |status: StatusCode| statuses.iter().flatten().filter(|seen| **seen == status).count();
    let (created, refused) = (saw(StatusCode::CREATED), saw(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(created + refused, statuses.iter().flatten().count(), "{statuses:?}");
    let figures = eventually("nothing is in flight", PATIENCE, async || {
        let figures = served.metrics().await;
        figures.contains("http_server_active_requests{http_request_method=\"POST\"} 0").then_some(figures)
    })
    .await;
    assert_eq!((counted(&figures, ROUTE, "201"), counted(&figures, ROUTE, "503")), (created, refused));
    // An order whose commit was not answered exists all the same; its client would repeat with the same key.
    let exist = invariants_client(&direct).await.query_one("select count(*) from orders", &[]).await;
    let exist: i64 = exist.expect("a count").get(0);
    let exist = usize::try_from(exist).expect("a count");
    assert!((created..=created + refused).contains(&exist), "{created} created, {refused} refused, {exist} exist");
    let panicked: Vec<_> = served.lines().into_iter().filter(|line| line.contains("panicked")).collect();
    assert!(panicked.is_empty(), "{panicked:?}");
    println!("{created} created, {refused} told to try again; {:?}", link.dealt());
}

/// A pool of one connection, so that the next one to ask gets the very connection that was left.
async fn single(crash: &CrashSwitch) -> (Db, DbConfig, Shop) {
    let mut direct = hasty(database::fresh().await);
    direct.pool_connections_max = 1;
    let options = ShopOptions { worker: false, webhooks: false, crash: crash.clone(), ..ShopOptions::default() };
    let shop = Shop::on(direct.clone(), options).await;
    (shop.running.app().db.clone(), direct, shop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ends_before_its_commit_leaves_neither_transaction_nor_lock_nor_settings() {
    let crash = CrashSwitch::default();
    let (db, direct, shop) = single(&crash).await;
    let product = shop.product(1_000, 5).await;
    let id: uuid::Uuid = product.trim_start_matches("prod_").parse().expect("an id");
    for tx in Tx::ALL {
        crash.arm(CrashPlan::Hold(CrashPoint::Uncommitted(*tx)));
        let held = tokio::spawn({
            let (db, tx) = (db.clone(), *tx);
            async move {
                db.transaction(tx, async |conn| {
                    // What a later statement of this session would still feel, if it were the same one.
                    diesel::sql_query("set statement_timeout = '7s'").execute(conn).await.map_err(DbError::from)?;
                    let take = diesel::sql_query("update stock set available = available - 1 where product_id = $1");
                    take.bind::<diesel::sql_types::Uuid, _>(id).execute(conn).await.map_err(DbError::from)?;
                    Ok::<_, DbError>(())
                })
                .await
            }
        });
        crash.held().await;
        held.abort();
        assert!(held.await.expect_err("it is ended").is_cancelled());
        clean(&db, &direct).await;
        // Waits for no lock: a lock that is left costs 1.5 s and an error.
        shop.sql("set lock_timeout = '1s'; update stock set available = available").await;
        assert_eq!(shop.available(&product).await, 5, "{tx}");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_of_the_worker_that_end_before_their_commit_leave_nothing_open() {
    let crash = CrashSwitch::default();
    let (db, direct, shop) = single(&crash).await;
    let app = Arc::clone(shop.running.app());
    let rounds = [
        (Tx::Expire, expire::expire_batch(&app, None).map(drop).boxed()),
        (Tx::Lease, recovery::recover_batch(&app).map(drop).boxed()),
        (Tx::WebhookReceive, webhook::receive(&app, b"{}".to_vec(), None, None).map(drop).boxed()),
    ];
    for (tx, round) in rounds {
        crash.arm(CrashPlan::Hold(CrashPoint::Uncommitted(tx)));
        tokio::select! {
            () = round => panic!("{tx} is held"),
            () = crash.held() => {}
        }
        clean(&db, &direct).await;
    }
    assert_eq!(shop.count("select count(*) from webhook_inbox").await, 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_is_dropped_at_any_moment_leaves_a_clean_connection() {
    panics::watch();
    let seed = seeds()[0];
    println!("PAYGAUGE_CHAOS_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let (db, direct, shop) = single(&CrashSwitch::default()).await;
    let product = shop.product(1_000, 5).await;
    let mut dropped = 0;
    for round in 0..150 {
        let work = {
            let db = db.clone();
            async move {
                let statements = async |conn: &mut Conn| {
                    for number in 0..3_i64 {
                        let query =
                            diesel::sql_query("select $1 as n, pg_sleep(0.001)::text").bind::<BigInt, _>(number);
                        query.execute(conn).await.map_err(DbError::from)?;
                    }
                    diesel::sql_query("update stock set available = 4").execute(conn).await.map_err(DbError::from)?;
                    Err::<(), _>(DbError::OutOfRange)
                };
                if round % 3 == 0 {
                    db.read(async |conn| look(conn, "dropped").await.map(drop)).await
                } else {
                    db.transaction(Tx::Lease, statements).await
                }
            }
        };
        let patience = Duration::from_micros(chance.random_range(0..12_000));
        dropped += u32::from(tokio::time::timeout(patience, work).await.is_err());
        let mark = format!("round {round}");
        let found = db.read(async |conn| look_twice(conn, &mark).await).await.expect("the next one gets a connection");
        assert_eq!(found.mark, mark);
    }
    assert!(dropped > 20, "{dropped} dropped");
    clean(&db, &direct).await;
    assert_eq!(shop.available(&product).await, 5);
    assert_eq!(panics::seen(), Vec::<String>::new());
    shop.close().await;
}
