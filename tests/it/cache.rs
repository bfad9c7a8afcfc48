//! The catalogue as buyers' pages are shown it: one contract wherever it is remembered, never older than promised, seen
//! anew at once after a change, and right whatever becomes of Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use paygauge::cache::Cache;
use paygauge::domain::ids::ProductId;
use paygauge::http::auth::keys::{self, Role};
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio::sync::Notify;

use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::served::Served;
use crate::support::shop::{Client, PATIENCE};

/// Long beside any test.
const HOUR: Duration = Duration::from_secs(3_600);

/// Both places to remember; Redis gets all the time it needs.
async fn backends(life: Duration) -> Vec<(Arc<Cache>, Option<Redis>)> {
    let mut all = vec![(Arc::new(Cache::new(life, None)), None)];
    if let Some(server) = Redis::start().await {
        all.push((Arc::new(Cache::new(life, Some(server.patient_client().await))), Some(server)));
    }
    all
}

/// What the cache gives, and whether `fresh` was read for it.
async fn get(cache: &Cache, name: &str, fresh: &str) -> (String, bool) {
    let reads = AtomicUsize::new(0);
    let text = cache
        .text(
            name,
            |text| !text.starts_with("bad"),
            async || {
                reads.fetch_add(1, Ordering::SeqCst);
                Ok::<_, ()>(Some(fresh.to_owned()))
            },
        )
        .await;
    let text = text.expect("it reads").expect("a text").to_string();
    (text, reads.into_inner() == 1)
}

fn read(text: &str) -> (String, bool) {
    (text.to_owned(), true)
}

fn remembered(text: &str) -> (String, bool) {
    (text.to_owned(), false)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_remembered_until_it_is_forgotten() {
    for (cache, server) in backends(HOUR).await {
        assert_eq!(get(&cache, "a", "1").await, read("1"), "redis: {}", server.is_some());
        assert_eq!(get(&cache, "a", "2").await, remembered("1"));
        assert_eq!(get(&cache, "b", "3").await, read("3"), "another text");
        cache.forget().await;
        assert_eq!(get(&cache, "a", "4").await, read("4"));
        assert_eq!(get(&cache, "b", "5").await, read("5"));
        assert_eq!(get(&cache, "a", "6").await, remembered("4"));
        let none = async || Ok::<_, ()>(None);
        assert_eq!(cache.text("nothing", |_| true, none).await, Ok(None));
        assert_eq!(get(&cache, "nothing", "7").await, read("7"), "that there is nothing is not remembered");
        let failed = cache.text("c", |_| true, async || Err("away")).await;
        assert_eq!(failed, Err("away"));
        assert_eq!(get(&cache, "c", "8").await, read("8"), "nor is a failure");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_given_for_its_life_and_not_at_all_without_one() {
    for (cache, _server) in backends(Duration::from_millis(300)).await {
        assert_eq!(get(&cache, "a", "1").await, read("1"));
        tokio::time::sleep(Duration::from_millis(301)).await;
        assert_eq!(get(&cache, "a", "2").await, read("2"));
    }
    for (cache, _server) in backends(Duration::ZERO).await {
        assert_eq!(get(&cache, "a", "1").await, read("1"));
        assert_eq!(get(&cache, "a", "2").await, read("2"));
    }
}

/// A reader that began before a change and ends after it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_a_change_is_not_given_after_it() {
    for (cache, _server) in backends(HOUR).await {
        let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let slow = {
            let (cache, begun, go) = (Arc::clone(&cache), Arc::clone(&begun), Arc::clone(&go));
            tokio::spawn(async move {
                let load = async || {
                    begun.notify_one();
                    go.notified().await;
                    Ok::<_, ()>(Some("old".to_owned()))
                };
                cache.text("a", |_| true, load).await
            })
        };
        begun.notified().await;
        cache.forget().await;
        assert_eq!(get(&cache, "a", "new").await, read("new"), "it waits for nobody who began before");
        go.notify_one();
        assert_eq!(slow.await.expect("no panic").expect("it reads").as_deref(), Some("old"));
        assert_eq!(get(&cache, "a", "newer").await, remembered("new"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_want_the_same_text_one_reads() {
    for (cache, _server) in backends(HOUR).await {
        let (reads, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let asking: Vec<_> = (0..50)
            .map(|_| {
                let (cache, reads, go) = (Arc::clone(&cache), Arc::clone(&reads), Arc::clone(&go));
                tokio::spawn(async move {
                    let load = async || {
                        reads.fetch_add(1, Ordering::SeqCst);
                        go.notified().await;
                        Ok::<_, ()>(Some("text".to_owned()))
                    };
                    cache.text("a", |_| true, load).await
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(200)).await;
        go.notify_one();
        for answer in join_all(asking).await {
            assert_eq!(answer.expect("no panic").expect("it reads").as_deref(), Some("text"));
        }
        assert_eq!(reads.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_one_that_fails_or_leaves_reads_by_itself() {
    for (cache, _server) in backends(HOUR).await {
        for leaves in [false, true] {
            let begun = Arc::new(Notify::new());
            let (first, seen) = (Arc::clone(&cache), Arc::clone(&begun));
            let failing = tokio::spawn(async move {
                let load = async || {
                    seen.notify_one();
                    tokio::time::sleep(Duration::from_millis(if leaves { 3_600_000 } else { 200 })).await;
                    Err::<Option<String>, _>("away")
                };
                first.text("a", |_| true, load).await
            });
            begun.notified().await;
            let second = Arc::clone(&cache);
            let waiting = tokio::spawn(async move { get(&second, "a", "mine").await });
            tokio::time::sleep(Duration::from_millis(50)).await;
            if leaves {
                failing.abort();
            } else {
                assert_eq!(failing.await.expect("no panic"), Err("away"));
            }
            assert_eq!(waiting.await.expect("no panic"), read("mine"));
            cache.forget().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spoilt_in_redis_is_read_from_the_database() {
    let Some(server) = Redis::start().await else { return };
    let cache = Cache::new(HOUR, Some(server.patient_client().await));
    assert_eq!(get(&cache, "a", "1").await, read("1"));
    let names = server.keys("paygauge:catalogue*:a").await;
    let [name] = names.as_slice() else { panic!("one text: {names:?}") };
    server.run(redis::cmd("SET").arg(name).arg("bad")).await;
    assert_eq!(get(&cache, "a", "2").await, read("2"), "no good text");
    assert_eq!(get(&cache, "a", "3").await, remembered("2"), "and a good one in its place");
    server.run(redis::cmd("DEL").arg(name)).await;
    server.run(redis::cmd("LPUSH").arg(name).arg("a list")).await;
    assert_eq!(get(&cache, "a", "4").await, read("4"), "no text at all");
    assert_eq!(get(&cache, "a", "5").await, remembered("4"), "remembered by the process");
    server.flush().await;
    assert_eq!(get(&cache, "a", "6").await, read("6"), "emptied");
    server.run(redis::cmd("DEL").arg("paygauge:catalogue")).await;
    server.run(redis::cmd("LPUSH").arg("paygauge:catalogue").arg("a list")).await;
    cache.forget().await;
    assert_eq!(get(&cache, "a", "7").await, read("7"), "a change overwrites what is no generation");
    server.stop();
    assert_eq!(get(&cache, "a", "8").await, read("8"), "away");
    assert_eq!(get(&cache, "a", "9").await, remembered("8"));
    cache.forget().await;
    assert_eq!(get(&cache, "a", "10").await, read("10"));
}

async fn publishable(served: &Served) -> Client {
    let pool = paygauge::db::connect::pool(&served.database).await.expect("a pool");
    let db = paygauge::db::Db::new(pool, 2, paygauge::crash::CrashSwitch::default());
    let (_, key) = keys::create(&db, Role::Publishable, "test").await.expect("a key");
    let buyer = Client::new(&served.base, key.expose_secret());
    becomes_known(&buyer).await;
    buyer
}

/// A process that has just looked for keys does not look for a new one within the same second.
async fn becomes_known(buyer: &Client) {
    eventually("the key is known", PATIENCE, async || {
        (buyer.get("/v1/products").await.status == StatusCode::OK).then_some(())
    })
    .await;
}

fn read_as(metrics: &str, result: &str) -> f64 {
    let series = format!(r#"payments_cache_reads_total{{result="{result}"}} "#);
    metrics.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse().ok()).expect("a count")
}

/// Two processes: what one changes is shown by both, and the shop itself is never shown what is old.
async fn is_shown_anew(variables: &[(&str, &str)], others_at_once: bool) {
    let one = Served::start(variables).await;
    let token = one.secret.token().to_owned();
    let other =
        Served::beside(Arc::clone(&one.mock), one.database.clone(), &token, variables).await.expect("it serves");
    let body = json!({ "name": "Coffee beans", "price": 12_000, "initialStock": 5 });
    let product = one.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id");
    let path = format!("/v1/products/{product}");
    let buyer = publishable(&one).await;
    let buyers = [buyer.clone(), Client::new(&other.base, buyer.token())];
    becomes_known(&buyers[1]).await;
    for price in [12_000, 13_000, 14_000] {
        one.secret.request(reqwest::Method::PATCH, &path, Some(&json!({ "price": price })), None).await;
        for (at, buyer) in buyers.iter().enumerate() {
            eventually("the new price is shown", PATIENCE, async || {
                let shown = buyer.get(&path).await.expect(StatusCode::OK);
                let listed = buyer.get("/v1/products").await.expect(StatusCode::OK);
                let is_new = shown.number("price") == price && listed.body["items"][0]["price"] == price;
                assert!(is_new || (at == 1 && !others_at_once), "{} at {at}", shown.raw);
                is_new.then_some(())
            })
            .await;
        }
    }
    let shown = buyers[0].get(&path).await.expect(StatusCode::OK);
    assert_eq!(shown.header("content-type"), Some("application/json"));
    assert_eq!(shown.body, one.secret.get(&path).await.body, "the same text from both places");
    let pages = [&buyers[0], &one.secret].map(|who| who.get("/v1/products?limit=1"));
    let pages = join_all(pages).await;
    assert_eq!(pages[0].body, pages[1].body);
    let restock = json!({ "delta": 7, "kind": "restock", "reason": "delivery" });
    one.secret.post(&format!("{path}/stock-adjustments"), &restock).await.expect(StatusCode::CREATED);
    assert_eq!(buyers[0].get(&path).await.number("available"), 12);
    let order = json!({ "lines": [{ "productId": product, "quantity": 2 }] });
    one.secret.post_with_key("/v1/orders", &order).await.expect(StatusCode::CREATED);
    assert_eq!(one.secret.get(&path).await.number("available"), 10, "the shop reads the database");
    eventually("buyers see it, too", PATIENCE, async || {
        (buyers[1].get(&path).await.number("available") == 10).then_some(())
    })
    .await;
    let gone = format!("/v1/products/{}", ProductId::new());
    buyers[0].get(&gone).await.problem(StatusCode::NOT_FOUND, "product_not_found");
    let metrics = one.metrics().await;
    assert!(read_as(&metrics, "miss") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_shown_without_redis() {
    is_shown_anew(&[], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_shown_everywhere_at_once_with_redis() {
    let Some(redis) = Redis::start().await else { return };
    is_shown_anew(&[("REDIS_URL", &redis.url()), ("PAYGAUGE_REDIS_DEADLINE_MS", "1000")], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_is_read_while_redis_stalls_and_dies() {
    let Some(redis) = Redis::start().await else { return };
    let served = Served::start(&[("REDIS_URL", &redis.url())]).await;
    let buyer = publishable(&served).await;
    let body = json!({ "name": "Coffee beans", "price": 12_000, "initialStock": 5 });
    let product = served.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id");
    let path = format!("/v1/products/{product}");
    let harms: [fn(&Redis); 3] = [Redis::pause, Redis::resume, Redis::stop];
    for harm in harms {
        harm(&redis);
        for _ in 0..20 {
            assert_eq!(buyer.get(&path).await.expect(StatusCode::OK).number("price"), 12_000);
        }
    }
    redis.start_again().await;
    eventually("it is remembered in Redis again", PATIENCE, async || {
        buyer.get(&path).await.expect(StatusCode::OK);
        (!redis.keys("paygauge:catalogue*prod_*").await.is_empty()).then_some(())
    })
    .await;
}
