//! Rate limits: one contract whoever counts, and that a Redis which is killed, emptied, stalled or spoilt while
//! requests come in refuses nobody, delays nobody, and is used again when it is well.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use paygauge::domain::ids::{KeyId, OrderId};
use paygauge::limits::{Budget, Class, Counter, Proxies, RateLimiter, Rates, Subject, Verdict};
use paygauge::redis::RedisConfig;
use paygauge::telemetry::labels::{RedisFailure, RedisFeature};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::load::HANGS;
use crate::support::redis::Redis;
use crate::support::served::Served;
use crate::support::shop::{Answer, Client, PATIENCE, Shop, ShopOptions, settings};
use crate::support::{database, eventually};

/// Long beside any test, so that nothing comes back meanwhile.
const HOUR_S: u32 = 3_600;

fn hourly(requests: u32) -> Option<Budget> {
    Budget::new(requests, HOUR_S)
}

/// Both ways to count. Redis gets all the time it needs: what happens without is tested by itself.
async fn backends(rates: Rates) -> Vec<(RateLimiter, Counter, Option<Redis>)> {
    let alone = RateLimiter::new(rates, Proxies::default(), None);
    let mut all = vec![(alone, Counter::Process, None)];
    if let Some(server) = Redis::start().await {
        let limiter = RateLimiter::new(rates, Proxies::default(), Some(server.patient_client().await));
        all.push((limiter, Counter::Redis, Some(server)));
    }
    all
}

async fn take(limiter: &RateLimiter, class: Class, subjects: &[Subject]) -> Verdict {
    limiter.take(class, subjects).await.expect("such requests have a budget")
}

fn address(text: &str) -> Subject {
    Subject::Address(text.parse().expect("an address"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_spent_to_the_last_request_and_everybody_has_an_own_one() {
    let rates = Rates { key_orders: hourly(5), key_reads: hourly(2), address_orders: hourly(3), ..Rates::OFF };
    for (limiter, counter, _server) in backends(rates).await {
        let (one, other) = (Subject::Key(KeyId::new()), Subject::Key(KeyId::new()));
        for left in (0..5).rev() {
            let verdict = take(&limiter, Class::Orders, &[one]).await;
            assert_eq!((verdict.is_admitted, verdict.counter), (true, counter));
            assert_eq!((verdict.standings.len(), verdict.standings[0].remaining), (1, left));
            assert_eq!(verdict.retry_after(), Duration::ZERO);
        }
        for _ in 0..3 {
            let refused = take(&limiter, Class::Orders, &[one]).await;
            assert_eq!((refused.is_admitted, refused.standings[0].remaining), (false, 0));
            // One request comes back every twelve minutes.
            assert!((600..=720).contains(&refused.retry_after().as_secs()), "{refused:?}");
            assert!(refused.standings[0].whole_in <= Duration::from_secs(HOUR_S.into()));
        }
        assert!(take(&limiter, Class::Orders, &[other]).await.is_admitted, "another key");
        assert!(take(&limiter, Class::Reads, &[one]).await.is_admitted, "another class");
        assert!(take(&limiter, Class::Orders, &[address("203.0.113.1")]).await.is_admitted, "another kind");
        assert_eq!(limiter.take(Class::Payments, &[one]).await, None, "what has no budget has no limit");
        assert_eq!(limiter.take(Class::Orders, &[]).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_takes_from_all_of_its_budgets_or_from_none() {
    let rates = Rates { key_orders: hourly(10), address_orders: hourly(2), ..Rates::OFF };
    for (limiter, counter, _server) in backends(rates).await {
        let (key, home) = (Subject::Key(KeyId::new()), address("203.0.113.2"));
        for _ in 0..2 {
            assert!(take(&limiter, Class::Orders, &[key, home]).await.is_admitted);
        }
        for _ in 0..4 {
            let refused = take(&limiter, Class::Orders, &[key, home]).await;
            assert_eq!((refused.is_admitted, refused.standings[0].remaining), (false, 8), "{counter:?}");
            assert_eq!((refused.standings[0].next_in, refused.standings[1].remaining), (Duration::ZERO, 0));
        }
        let elsewhere = take(&limiter, Class::Orders, &[key, address("203.0.113.3")]).await;
        assert_eq!((elsewhere.is_admitted, elsewhere.standings[0].remaining), (true, 7));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spent_comes_back() {
    let rates = Rates { order_payments: Budget::new(2, 1), ..Rates::OFF };
    for (limiter, counter, server) in backends(rates).await {
        let order = Subject::Order(OrderId::new());
        for _ in 0..3 {
            let refused = eventually("the budget is spent", PATIENCE, async || {
                let verdict = take(&limiter, Class::Payments, &[order]).await;
                (!verdict.is_admitted).then_some(verdict)
            })
            .await;
            assert!(refused.retry_after() <= Duration::from_millis(500), "{refused:?}");
            tokio::time::sleep(refused.retry_after()).await;
            let next = take(&limiter, Class::Payments, &[order]).await;
            assert_eq!((next.is_admitted, next.counter), (true, counter));
        }
        if let Some(server) = server {
            eventually("Redis keeps no bucket that is full again", PATIENCE, async || {
                server.keys("paygauge:limit:*").await.is_empty().then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_once_get_exactly_what_there_is() {
    let rates = Rates { key_orders: hourly(50), address_orders: hourly(120), ..Rates::OFF };
    for (limiter, counter, _server) in backends(rates).await {
        let (key, limiter, place) = (Subject::Key(KeyId::new()), Arc::new(limiter), address("203.0.113.4"));
        let asking = (0..200).map(|_| {
            let limiter = Arc::clone(&limiter);
            tokio::spawn(async move { take(&limiter, Class::Orders, &[key, place]).await })
        });
        let verdicts: Vec<Verdict> =
            join_all(asking).await.into_iter().map(|verdict| verdict.expect("no panic")).collect();
        assert!(verdicts.iter().all(|verdict| verdict.counter == counter));
        let admitted = verdicts.iter().filter(|verdict| verdict.is_admitted);
        let left: BTreeSet<u64> = admitted.map(|verdict| verdict.standings[0].remaining).collect();
        assert_eq!(left, (0..50).collect(), "{counter:?}: each of the fifty once");
        let after = take(&limiter, Class::Orders, &[Subject::Key(KeyId::new()), place]).await;
        assert_eq!(after.standings[1].remaining, 120 - 50 - 1, "the others took nothing from the address");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spoilt_in_redis_limits_nobody_for_good() {
    let rates = Rates { key_orders: hourly(2), ..Rates::OFF };
    let Some(server) = Redis::start().await else { return };
    let limiter = RateLimiter::new(rates, Proxies::default(), Some(server.patient_client().await));
    let key = Subject::Key(KeyId::new());
    assert_eq!(take(&limiter, Class::Orders, &[key]).await.counter, Counter::Redis);
    let names = server.keys("paygauge:limit:*").await;
    let [name] = names.as_slice() else { panic!("one bucket: {names:?}") };
    let ahead = format!("7200000000 {}", 9_000_000_000_000_000_u64);
    for fresh in ["nonsense", "", "1 2 3", &ahead] {
        server.run(redis::cmd("SET").arg(name).arg(fresh)).await;
        let verdict = take(&limiter, Class::Orders, &[key]).await;
        assert_eq!((verdict.counter, verdict.is_admitted), (Counter::Redis, true), "{fresh:?}");
        assert_eq!(verdict.standings[0].remaining, 1, "{fresh:?} counts as a fresh bucket");
    }
    server.run(redis::cmd("DEL").arg(name)).await;
    server.run(redis::cmd("LPUSH").arg(name).arg("a list")).await;
    let verdict = take(&limiter, Class::Orders, &[key]).await;
    assert_eq!((verdict.counter, verdict.is_admitted), (Counter::Process, true));
    let other = take(&limiter, Class::Orders, &[Subject::Key(KeyId::new())]).await;
    assert_eq!(other.counter, Counter::Redis, "others are not concerned");
    server.flush().await;
    let verdict = take(&limiter, Class::Orders, &[key]).await;
    assert_eq!((verdict.counter, verdict.standings[0].remaining), (Counter::Redis, 1), "the script is sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_one_slow_answer_nobody_asks_until_redis_was_looked_at() {
    let Some(server) = Redis::start().await else { return };
    let short = RedisConfig { url: server.url().into(), deadline: Duration::from_millis(200) };
    let redis = paygauge::redis::Redis::new(&short).expect("an address");
    let asked = AtomicUsize::new(0);
    let ask = async || {
        let never = async |_connection: &mut _| {
            asked.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<redis::RedisResult<()>>().await
        };
        assert_eq!(redis.ask(RedisFeature::RateLimit, never).await, None);
        asked.load(Ordering::Relaxed)
    };
    assert_eq!((ask().await, redis.away_because()), (0, Some(RedisFailure::Unreachable)), "nobody has looked yet");
    for round in 1..3 {
        eventually("Redis is well", PATIENCE, async || {
            redis.check().await;
            redis.away_because().is_none().then_some(())
        })
        .await;
        for _ in 0..5 {
            assert_eq!((ask().await, redis.away_because()), (round, Some(RedisFailure::Slow)));
        }
    }
}

fn order_of(product: &str) -> Value {
    json!({ "lines": [{ "productId": product, "quantity": 1 }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_limited_changes_nothing_and_its_key_stays_fresh() {
    let rates = Rates { key_orders: Budget::new(2, 2), ..Rates::OFF };
    let settings = paygauge::config::Settings { rates, ..settings() };
    let shop = Shop::with(ShopOptions { worker: false, webhooks: false, settings, ..ShopOptions::default() }).await;
    let product = shop.product(12_000, 1_000).await;
    let (refused, key) = eventually("an order is refused", PATIENCE, async || {
        let key = uuid::Uuid::new_v4().to_string();
        let answer = shop.publishable.post_as("/v1/orders", &order_of(&product), &key).await;
        (answer.status == StatusCode::TOO_MANY_REQUESTS).then_some((answer, key))
    })
    .await;
    let refused = refused.problem(StatusCode::TOO_MANY_REQUESTS, "rate_limited");
    assert_eq!(refused.body["policies"], json!(["orders-per-key"]));
    assert_eq!(refused.header("ratelimit-policy"), Some(r#""orders-per-key";q=2;w=2"#));
    assert_eq!(refused.header("ratelimit"), Some(r#""orders-per-key";r=0;t=1"#));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let count = "select count(*) from idempotency_keys where key = ";
    assert_eq!(shop.count(&format!("{count}'{key}'")).await, 0);
    shop.secret.get("/v1/orders").await.expect(StatusCode::OK);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let placed = shop.publishable.post_as("/v1/orders", &order_of(&product), &key).await.expect(StatusCode::CREATED);
    assert!(!placed.is_replayed(), "the first one was never carried out");
    assert!(placed.header("ratelimit").is_some_and(|told| told.starts_with(r#""orders-per-key";r="#)), "{placed:?}");
    shop.close().await;
}

/// Variables that limit an API key to `requests` reads an hour, counted in this Redis, which may be as slow as a busy
/// machine makes it.
fn counted_in(url: &str, requests: u32) -> [(String, String); 3] {
    let reads = format!("{requests}/{HOUR_S}");
    [("REDIS_URL", url), ("PAYGAUGE_RATE_KEY_READS", reads.as_str()), ("PAYGAUGE_REDIS_DEADLINE_MS", "1000")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn borrowed(variables: &[(String, String)]) -> Vec<(&str, &str)> {
    variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_a_budget_through_redis() {
    let Some(redis) = Redis::start().await else { return };
    let variables = counted_in(&redis.url(), 30);
    let one = Served::start(&borrowed(&variables)).await;
    let token = one.secret.token().to_owned();
    let mock = Arc::clone(&one.mock);
    let other = Served::beside(mock, one.database.clone(), &token, &borrowed(&variables)).await.expect("it serves");
    let mut admitted = 0;
    for round in 0..25 {
        for served in [&one, &other] {
            let answer = served.secret.get("/v1/orders").await;
            match answer.status {
                StatusCode::OK => admitted += 1,
                StatusCode::TOO_MANY_REQUESTS => {}
                _ => panic!("{answer:?}"),
            }
            let limited = answer.status == StatusCode::TOO_MANY_REQUESTS;
            assert_eq!(limited, round >= 15, "the thirty are spent after fifteen of each");
        }
    }
    assert_eq!(admitted, 30);
    for served in [&one, &other] {
        let metrics = served.metrics().await;
        assert_eq!(value(&metrics, r#"payments_http_rejections_total{reason="rate_limited"}"#), 10.0);
        assert_eq!(fallbacks(&metrics), 0.0, "{:#?}", served.lines());
        assert_eq!(value(&metrics, UP), 1.0);
    }
}

const UP: &str = r#"payments_dependency_up{dependency="redis"}"#;
const CHECKED: &str = r#"payments_dependency_last_check_timestamp_seconds{dependency="redis"}"#;

fn value(metrics: &str, series: &str) -> f64 {
    let found = metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {series} in {metrics}"))
}

fn fallback(metrics: &str, reason: &str) -> f64 {
    value(metrics, &format!(r#"payments_redis_fallbacks_total{{feature="rate_limit",reason="{reason}"}}"#))
}

fn fallbacks(metrics: &str) -> f64 {
    ["unreachable", "slow", "error"].iter().map(|reason| fallback(metrics, reason)).sum()
}

/// Readers who never stop; every answer that is not 200 is remembered.
struct Readers {
    answers: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Readers {
    fn start(client: &Client) -> Self {
        let (answers, enough) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let tasks = (0..4).map(|_| {
            let (client, answers, enough) = (client.clone(), Arc::clone(&answers), Arc::clone(&enough));
            tokio::spawn(async move {
                let mut odd = Vec::new();
                while !enough.load(Ordering::Relaxed) {
                    let request = client.raw(reqwest::Method::GET, "/v1/orders").timeout(HANGS);
                    match request.send().await {
                        Ok(response) => {
                            let answer = Answer::read(response).await;
                            if answer.status != StatusCode::OK {
                                odd.push(answer.raw);
                            }
                        }
                        Err(error) => odd.push(error.to_string()),
                    }
                    answers.fetch_add(1, Ordering::Relaxed);
                }
                odd
            })
        });
        let tasks = tasks.collect();
        Self { answers, enough, tasks }
    }

    /// Waits for answers to requests that begin from now on.
    async fn go_on(&self) {
        let before = self.answers.load(Ordering::Relaxed);
        eventually("requests are answered", HANGS, async || {
            (self.answers.load(Ordering::Relaxed) > before + 40).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.enough.store(true, Ordering::Relaxed);
        for task in self.tasks {
            assert_eq!(task.await.expect("a reader does not panic"), [""; 0]);
        }
    }
}

async fn becomes(served: &Served, up: f64) {
    eventually(&format!("Redis counts as {up}"), PATIENCE, async || {
        (value(&served.metrics().await, UP) == up).then_some(())
    })
    .await;
}

fn said(served: &Served, words: &str) -> usize {
    served.lines().iter().filter(|line| line.contains(words)).count()
}

async fn readyz(served: &Served) -> Answer {
    let http = crate::support::shop::http();
    Answer::read(http.get(format!("{}/readyz", served.ops)).send().await.expect("an answer")).await
}

/// A process under load, whose Redis suffers `harm` and is then healed: nobody notices, but the metrics and the log.
async fn survives(reason: &str, harm: impl AsyncFn(&Redis), heal: impl AsyncFn(&Redis)) {
    let Some(redis) = Redis::start().await else { return };
    let variables = counted_in(&redis.url(), Budget::REQUESTS_MAX);
    let served = Served::start(&borrowed(&variables)).await;
    becomes(&served, 1.0).await;
    let readers = Readers::start(&served.secret);
    readers.go_on().await;

    harm(&redis).await;
    eventually("it does without", PATIENCE, async || (fallback(&served.metrics().await, reason) > 0.0).then_some(()))
        .await;
    becomes(&served, 0.0).await;
    readers.go_on().await;
    let ready = readyz(&served).await.expect(StatusCode::OK);
    let shown = ready.body["checks"].as_array().expect("checks").iter().find(|check| check["name"] == "redis");
    assert_eq!(shown.map(|check| (&check["ok"], &check["optional"])), Some((&json!(false), &json!(true))));
    eventually("it is told", PATIENCE, async || (said(&served, "Redis is away") > 0).then_some(())).await;
    let away = said(&served, "Redis is away");
    let checked = value(&served.metrics().await, CHECKED);
    eventually("it is still looked at", PATIENCE, async || {
        (value(&served.metrics().await, CHECKED) > checked + 3.0).then_some(())
    })
    .await;
    assert_eq!(said(&served, "Redis is away"), away, "told once, not for each request");

    heal(&redis).await;
    becomes(&served, 1.0).await;
    // A request that has a budget is counted by Redis, or as done without.
    eventually("requests count in Redis again", PATIENCE, async || {
        let before = fallbacks(&served.metrics().await);
        readers.go_on().await;
        (fallbacks(&served.metrics().await) == before).then_some(())
    })
    .await;
    eventually("it is told", PATIENCE, async || (said(&served, "Redis is back") > 0).then_some(())).await;
    readers.stop().await;
    assert_eq!(said(&served, Redis::PASSWORD), 0, "the password is told nowhere");
    assert!(!served.metrics().await.contains(Redis::PASSWORD));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_is_done_without_and_used_again() {
    survives("unreachable", async |redis| redis.stop(), async |redis| redis.start_again().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stalls_is_waited_for_once() {
    survives("slow", async |redis| redis.pause(), async |redis| redis.resume()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_takes_no_writes_is_done_without() {
    let refuse = async |redis: &Redis| {
        redis.run(redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg(1)).await;
    };
    let take = async |redis: &Redis| {
        redis.run(redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg(0)).await;
    };
    survives("error", refuse, take).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_emptied_gives_everybody_a_fresh_budget_and_nothing_else() {
    let Some(redis) = Redis::start().await else { return };
    let variables = counted_in(&redis.url(), 5);
    let served = Served::start(&borrowed(&variables)).await;
    for _ in 0..2 {
        for _ in 0..5 {
            served.secret.get("/v1/orders").await.expect(StatusCode::OK);
        }
        served.secret.get("/v1/orders").await.problem(StatusCode::TOO_MANY_REQUESTS, "rate_limited");
        redis.flush().await;
    }
    assert_eq!(fallbacks(&served.metrics().await), 0.0, "{:#?}", served.lines());
    let ready = readyz(&served).await.expect(StatusCode::OK);
    assert!(ready.raw.contains(r#"{"name":"redis","ok":true,"optional":true}"#), "{}", ready.raw);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_starts_without_the_redis_that_it_was_promised() {
    let Some(redis) = Redis::start().await else { return };
    redis.stop();
    let variables = counted_in(&redis.url(), 5);
    let served = Served::at(database::fresh().await, &borrowed(&variables)).await;
    for _ in 0..5 {
        served.secret.get("/v1/orders").await.expect(StatusCode::OK);
    }
    served.secret.get("/v1/orders").await.problem(StatusCode::TOO_MANY_REQUESTS, "rate_limited");
    let metrics = served.metrics().await;
    assert_eq!((value(&metrics, UP), fallback(&metrics, "unreachable")), (0.0, 6.0));
    assert_eq!(said(&served, "Redis is away"), 1);
    redis.start_again().await;
    // Only Redis has a budget left. A machine that is busy for longer than the deadline has a request do without it.
    eventually("requests count in Redis", PATIENCE, async || {
        (served.secret.get("/v1/orders").await.status == StatusCode::OK).then_some(())
    })
    .await;
    becomes(&served, 1.0).await;
}
