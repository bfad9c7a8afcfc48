//! The operations port and what operators do: outages, restarts, shutdowns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use paygauge::telemetry::catalogue;
use pg_mock::{Behaviour, Rule};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::database::{self, Outage};
use crate::support::eventually;
use crate::support::served::Served;
use crate::support::shop::{Answer, PATIENCE, Shop, ShopOptions, WINDOW, confirm_body, invariants_client};

/// No request may take longer, whatever happens to the database.
const LONGEST: Duration = Duration::from_secs(8);

async fn ask(ops: &str, path: &str) -> Option<Answer> {
    let http = reqwest::Client::builder().no_proxy().timeout(LONGEST).build().expect("a client");
    Some(Answer::read(http.get(format!("{ops}{path}")).send().await.ok()?).await)
}

/// The names of what is missing.
fn missing(readyz: &Answer) -> Vec<String> {
    let checks = readyz.body["checks"].as_array().expect("checks");
    let failed = checks.iter().filter(|check| check["ok"] == false);
    failed.map(|check| check["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_what_is_missing_and_life_goes_on() {
    let shop = Shop::open().await;
    let ops = format!("http://{}", shop.running.ops_addr());
    eventually("it is ready", PATIENCE, async || ask(&ops, "/readyz").await.filter(|ready| ready.status == 200)).await;
    let outage = Outage::of(&shop.database).await;
    let away = eventually("it says that it is not ready", PATIENCE, async || {
        ask(&ops, "/readyz").await.filter(|ready| ready.status == StatusCode::SERVICE_UNAVAILABLE)
    })
    .await;
    assert!(missing(&away).contains(&"database".to_owned()), "{}", away.raw);
    assert_eq!(away.text("status"), "not_ready");
    assert!(!away.raw.contains("postgres"), "no internals: {}", away.raw);
    ask(&ops, "/livez").await.expect("an answer").expect(StatusCode::OK);
    ask(&ops, "/metrics").await.expect("an answer").expect(StatusCode::OK);
    outage.end().await;
    let back = eventually("it is ready again", PATIENCE, async || {
        ask(&ops, "/readyz").await.filter(|ready| ready.status == StatusCode::OK)
    })
    .await;
    assert!(missing(&back).is_empty());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_takes_nothing_new_says_so_and_finishes_the_confirm_in_hand() {
    let mut options = ShopOptions::waiting_for_the_pg();
    options.settings.shutdown_grace = PATIENCE;
    let shop = Shop::with(options).await;
    let product = shop.product(12_000, 5).await;
    let order = shop.order(&product, 1).await;
    let key = shop.pay(&order);
    shop.mock.script(Rule::confirm(WINDOW));
    let (database, base) = (shop.database.clone(), shop.base.clone());
    let ops = format!("http://{}", shop.running.ops_addr());
    let confirm = tokio::spawn({
        let (buyer, body) = (order.buyer.clone(), confirm_body(&order, &key));
        async move { buyer.post("/v1/payments/confirm", &body).await }
    });
    eventually("the PG is asked", PATIENCE, async || (shop.mock.book().calls.confirm == 1).then_some(())).await;
    let (mock, running) = (shop.mock, shop.running);
    let stopping = tokio::spawn(running.stop());
    let said = eventually("it says that it is stopping", PATIENCE, async || {
        ask(&ops, "/readyz").await.filter(|ready| missing(ready).contains(&"running".to_owned()))
    })
    .await;
    assert_eq!(said.status, StatusCode::SERVICE_UNAVAILABLE);
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    assert!(http.get(format!("{base}/v1/products")).send().await.is_err(), "no new connection is taken");
    let answer = confirm.await.expect("a task").expect(StatusCode::OK);
    assert_eq!(answer.text("status"), "approved");
    stopping.await.expect("an end");
    let client = invariants_client(&database).await;
    let row = client.query_one("select status from payments", &[]).await.expect("a payment");
    assert_eq!(row.get::<_, String>(0), "approved");
    assert_eq!(mock.book().net(&order.id), 12_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_the_middle_of_a_confirm_loses_nothing_and_ends_well() {
    let mut served = Served::start(&[]).await;
    let product = new_product(&served).await;
    let (order, amount) = new_order(&served, &product).await;
    let body = json!({ "paymentKey": served.mock.pay(&order, amount), "orderId": order, "amount": amount });
    served.mock.script(Rule::confirm(WINDOW));
    let secret = served.secret.clone();
    let confirm = tokio::spawn(async move { secret.post("/v1/payments/confirm", &body).await });
    eventually("the PG is asked", PATIENCE, async || (served.mock.book().calls.confirm == 1).then_some(())).await;
    served.terminate();
    let answer = confirm.await.expect("a task").expect(StatusCode::OK);
    assert_eq!(answer.text("status"), "approved");
    assert!(served.ended().await.success());
    assert!(served.lines().iter().any(|line| line.contains("stopping")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ctrl_c_waits_for_nobody_and_the_intent_stays() {
    let mut served = Served::start(&[]).await;
    let product = new_product(&served).await;
    let (order, amount) = new_order(&served, &product).await;
    let body = json!({ "paymentKey": served.mock.pay(&order, amount), "orderId": order, "amount": amount });
    // Without the second one, the end would come after this.
    served.mock.script(Rule::confirm(Behaviour::Delay { ms: 25_000 }));
    let secret = served.secret.clone();
    let confirm = tokio::spawn(async move { secret.post("/v1/payments/confirm", &body).await });
    eventually("the PG is asked", PATIENCE, async || (served.mock.book().calls.confirm == 1).then_some(())).await;
    served.interrupt();
    eventually("it says so", PATIENCE, async || {
        served.lines().iter().any(|line| line.contains("stopping")).then_some(())
    })
    .await;
    served.interrupt();
    assert_eq!(served.ended().await.code(), Some(130));
    confirm.abort();
    let client = invariants_client(&served.database).await;
    let row = client.query_one("select status from payments", &[]).await.expect("a payment");
    assert_eq!(row.get::<_, String>(0), "confirming");
}

async fn new_product(served: &Served) -> String {
    let body = json!({ "name": "Coffee beans", "price": 12_000, "initialStock": 5 });
    served.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id")
}

async fn new_order(served: &Served, product: &str) -> (String, i64) {
    let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let order = served.secret.post_with_key("/v1/orders", &body).await.expect(StatusCode::CREATED);
    (order.text("id"), order.number("amount"))
}

/// The value of a series, 0 if it is not there.
fn value(exposition: &str, series: &str) -> f64 {
    let line = exposition.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("a number"))
}

/// Reads one line of the exposition; panics if a scraper could not.
fn scraped(line: &str) -> &str {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
    assert!(value.parse::<f64>().is_ok(), "{line:?}");
    let (name, labels) = series.split_once('{').map_or((series, None), |(name, rest)| (name, Some(rest)));
    assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty(), "{line:?}");
    if let Some(labels) = labels {
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line:?}"));
        for label in labels.split("\",") {
            let (key, text) = label.split_once("=\"").unwrap_or_else(|| panic!("{line:?}"));
            assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line:?}");
            assert!(!text.trim_end_matches('"').contains('"'), "{line:?}");
        }
    }
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_counts_once_in_every_series_that_tells_of_it() {
    let served = Served::start(&[]).await;
    let product = new_product(&served).await;
    let (order, amount) = new_order(&served, &product).await;
    let body = json!({ "paymentKey": served.mock.pay(&order, amount), "orderId": order, "amount": amount });
    let payment = served.secret.post("/v1/payments/confirm", &body).await.expect(StatusCode::OK).text("id");
    served.secret.post("/v1/payments/confirm", &body).await.expect(StatusCode::OK);
    let cancel = format!("/v1/payments/{payment}/cancel");
    served.secret.post_with_key(&cancel, &json!({ "reason": "x" })).await.expect(StatusCode::OK);
    served.secret.get("/v1/orders/ord_nonsense").await.expect(StatusCode::BAD_REQUEST);

    let text = served.metrics().await;
    for (series, count) in [
        (r#"payments_operations_total{operation="order_create",outcome="success",provider="none",method="none"}"#, 1.0),
        (r#"payments_operations_total{operation="confirm",outcome="success",provider="toss",method="card"}"#, 1.0),
        (r#"payments_operations_total{operation="confirm",outcome="replayed",provider="toss",method="card"}"#, 1.0),
        (r#"payments_operations_total{operation="cancel",outcome="success",provider="toss",method="card"}"#, 1.0),
        (r#"payments_operations_total{operation="confirm",outcome="error",provider="toss",method="none"}"#, 0.0),
        (r#"payments_idempotency_total{route="confirm",result="fresh"}"#, 1.0),
        (r#"payments_idempotency_total{route="confirm",result="replayed"}"#, 1.0),
        (
            r#"http_server_request_duration_seconds_count{http_request_method="POST",http_route="/v1/payments/confirm",http_response_status_code="200"}"#,
            2.0,
        ),
        (
            r#"http_server_request_duration_seconds_count{http_request_method="GET",http_route="/v1/orders/{id}",http_response_status_code="400"}"#,
            1.0,
        ),
        (r#"payments_log_redactions_total{rule="api_key"}"#, 0.0),
        (r#"db_client_connection_timeouts_total"#, 0.0),
    ] {
        assert!(
            (value(&text, series) - count).abs() < f64::EPSILON,
            "{series}: {} instead of {count}",
            value(&text, series)
        );
    }
    let calls = r#"http_client_request_duration_seconds_count{provider="toss",operation="confirm","#;
    let calls: f64 = text
        .lines()
        .filter(|line| line.starts_with(calls))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!((calls - 1.0).abs() < f64::EPSILON, "one call to the PG: {calls}");

    let known: Vec<&str> = catalogue::all().iter().map(|metric| metric.name).collect();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let name = scraped(line);
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(known.contains(&name) || known.contains(&stem), "{name} is not in the catalogue");
        assert!(!line.contains(&order) && !line.contains(&payment) && !line.contains(&product), "{line}");
    }
    // Figures from the database come with the worker's first round.
    eventually("the whole catalogue is exposed", PATIENCE, async || {
        let text = served.metrics().await;
        let is_there = |metric: &&catalogue::MetricInfo| {
            let rare = metric.name.starts_with("process_") || metric.name.contains("retries");
            rare || text.contains(&format!("# TYPE {} {}\n", metric.name, metric.kind.as_str()))
        };
        catalogue::all().iter().all(|metric| is_there(&metric)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_cut_in_the_middle_of_load_hang_no_request_and_lose_no_money() {
    let shop = Arc::new(Shop::open().await);
    let product = shop.product(12_000, 10_000).await;
    let (done, enough) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let buyers: Vec<_> = (0..6)
        .map(|_| {
            let (shop, product) = (Arc::clone(&shop), product.clone());
            let (done, enough) = (Arc::clone(&done), Arc::clone(&enough));
            tokio::spawn(async move {
                let mut odd = Vec::new();
                while !enough.load(Ordering::Relaxed) {
                    odd.extend(buy(&shop, &product).await);
                    done.fetch_add(1, Ordering::Relaxed);
                }
                odd
            })
        })
        .collect();
    for _ in 0..4 {
        let before = done.load(Ordering::Relaxed);
        eventually("some load", PATIENCE, async || (done.load(Ordering::Relaxed) >= before + 12).then_some(())).await;
        database::cut_connections(&shop.database).await;
    }
    enough.store(true, Ordering::Relaxed);
    for buyer in buyers {
        let odd = buyer.await.expect("a buyer");
        let lines = paygauge::telemetry::for_tests().lines();
        let why: Vec<_> = lines.iter().filter(|line| line.contains("\"code\":\"internal\"")).collect();
        assert!(odd.is_empty(), "{odd:?} {why:#?}");
    }
    let (order, _) = shop.paid(&product, 1).await;
    assert_eq!(shop.mock.book().net(&order.id), 12_000);
    let Ok(shop) = Arc::try_unwrap(shop) else { panic!("every buyer has left") };
    shop.close().await;
}

/// Buys once; tells of answers that are neither right nor a plain "try again".
async fn buy(shop: &Shop, product: &str) -> Vec<String> {
    let begun = Instant::now();
    let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let placed = shop.publishable.post_with_key("/v1/orders", &body).await;
    let mut answers = vec![placed.clone()];
    if placed.status == StatusCode::CREATED {
        let (order, amount) = (placed.text("id"), placed.number("amount"));
        let key = shop.mock.pay(&order, amount);
        let body = json!({ "paymentKey": key, "orderId": order, "amount": amount });
        answers.push(shop.secret.post("/v1/payments/confirm", &body).await);
    }
    let took = begun.elapsed();
    let fine = |answer: &Answer| {
        answer.status.is_success() || answer.status == StatusCode::SERVICE_UNAVAILABLE && answer.body != Value::Null
    };
    let mut odd: Vec<String> = answers
        .iter()
        .filter(|answer| !fine(answer))
        .map(|answer| format!("{} {}", answer.status, answer.raw))
        .collect();
    if took > 2 * LONGEST {
        odd.push(format!("took {took:?}"));
    }
    odd
}
