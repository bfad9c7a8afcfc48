//! Live order status: a browser that waits learns of every change, whichever process makes it and whatever becomes of
//! Redis, and its waiting takes nothing from anybody.

use std::sync::Arc;
use std::time::Duration;

use paygauge::domain::ids::{OrderId, ProductId};
use paygauge::news::{Item, News};
use paygauge::redis::RedisConfig;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::served::Served;
use crate::support::shop::{Client, Order, PATIENCE, Shop};

const ROUTE: &str = "/v1/orders/{id}/events";

/// What befalls Redis, by its name.
type Harm = (&'static str, fn(&Redis));

/// A stream as a browser reads it.
struct Stream {
    response: reqwest::Response,
    text: String,
}

#[derive(Debug)]
struct Event {
    id: i64,
    order: Value,
}

impl Event {
    fn status(&self) -> &str {
        self.order["status"].as_str().expect("a status")
    }
}

impl Stream {
    async fn open(client: &Client, order: &str) -> Self {
        let response = client.raw(Method::GET, &path(order)).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        assert_eq!(header("content-type"), Some("text/event-stream"));
        assert_eq!((header("cache-control"), header("x-accel-buffering")), (Some("no-store"), Some("no")));
        Self { response, text: String::new() }
    }

    /// The next event; `None` at the stream's orderly end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some(event) = read(&block) {
                    return Some(event);
                }
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await.expect("something comes");
            match chunk.expect("the stream does not break off") {
                Some(bytes) => self.text.push_str(std::str::from_utf8(&bytes).expect("UTF-8")),
                None => return None,
            }
        }
    }

    /// The events until the order has this status.
    async fn until(&mut self, status: &str) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("it ends before {status}: {events:?}"));
            events.push(event);
            if events.last().is_some_and(|event| event.status() == status) {
                return events;
            }
        }
    }
}

fn read(block: &str) -> Option<Event> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let data = field("data:")?;
    assert_eq!(field("event:"), Some("order"), "{block}");
    let id = field("id:").and_then(|id| id.parse().ok()).expect("an id");
    Some(Event { id, order: serde_json::from_str(data).expect("JSON") })
}

fn path(order: &str) -> String {
    format!("/v1/orders/{order}/events")
}

async fn cancel(client: &Client, order: &str) {
    let body = json!({ "reason": "changed my mind" });
    client.post_with_key(&format!("/v1/orders/{order}/cancel"), &body).await.expect(StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_how_an_order_stands_and_whenever_something_happens_to_it() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 10).await;
    let order = shop.order(&product, 2).await;
    let mut stream = Stream::open(&order.buyer, &order.id).await;
    let first = stream.next().await.expect("at once");
    assert_eq!((first.id, first.order.clone()), (1, shop.order_now(&order.id).await.body));
    let key = shop.pay(&order);
    shop.confirm(&order, &key).await.expect(StatusCode::OK);
    let events = stream.until("paid").await;
    let history = i64::try_from(shop.kinds(&order.id).await.len()).expect("few");
    let last = events.last().expect("an event");
    assert_eq!((last.id, last.order.clone()), (history, shop.order_now(&order.id).await.body));
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id) && events[0].id > 1, "{events:?}");

    let payment = last.order["paymentId"].as_str().expect("a payment").to_owned();
    let part = json!({ "reason": "one is enough", "lines": [{ "line": 1, "quantity": 1 }] });
    shop.cancel(&payment, &part).await.expect(StatusCode::OK);
    stream.until("partially_canceled").await;
    // Whoever comes again finds how it stands, whatever it saw before.
    let again = order.buyer.raw(Method::GET, &path(&order.id)).header("last-event-id", "3").send().await;
    let mut again = Stream { response: again.expect("an answer"), text: String::new() };
    assert_eq!(again.next().await.expect("at once").status(), "partially_canceled");

    shop.cancel(&payment, &json!({ "reason": "none is better" })).await.expect(StatusCode::OK);
    for stream in [&mut stream, &mut again] {
        stream.until("canceled").await;
        assert!(stream.next().await.is_none(), "nothing can happen any more");
    }
    let mut late = Stream::open(&shop.secret, &order.id).await;
    assert_eq!(late.next().await.expect("at once").status(), "canceled");
    assert!(late.next().await.is_none());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_see_an_order_may_follow_it() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 10).await;
    let (own, other) = (shop.order(&product, 1).await, shop.order(&product, 1).await);
    own.buyer.get(&path(&other.id)).await.problem(StatusCode::NOT_FOUND, "order_not_found");
    shop.secret.get(&path(&OrderId::new().to_string())).await.problem(StatusCode::NOT_FOUND, "order_not_found");
    shop.publishable.get(&path(&own.id)).await.problem(StatusCode::FORBIDDEN, "forbidden");
    Client::new(&shop.base, "").get(&path(&own.id)).await.problem(StatusCode::UNAUTHORIZED, "unauthorized");
    let in_address = format!("{}?token={}", path(&own.id), own.buyer.token());
    Client::new(&shop.base, "").get(&in_address).await.problem(StatusCode::UNAUTHORIZED, "unauthorized");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_expires_by_itself_is_told() {
    let settings = paygauge::config::Settings { hold: Duration::from_secs(1), ..crate::support::shop::settings() };
    let options = crate::support::shop::ShopOptions { settings, ..Default::default() };
    let shop = Shop::with(options).await;
    let product = shop.product(12_000, 10).await;
    let order = shop.order(&product, 1).await;
    let mut stream = Stream::open(&order.buyer, &order.id).await;
    stream.until("expired").await;
    assert!(stream.next().await.is_none());
    shop.close().await;
}

fn gauge(metrics: &str, series: &str) -> f64 {
    let found = metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {series} in {metrics}"))
}

async fn product(served: &Served, stock: i64) -> String {
    let body = json!({ "name": "Coffee beans", "price": 12_000, "initialStock": stock });
    served.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id")
}

async fn place(served: &Served, product: &str) -> Order {
    let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let answer = served.secret.post_with_key("/v1/orders", &body).await.expect(StatusCode::CREATED);
    let buyer = Client::new(&served.base, &answer.text("checkoutToken"));
    Order { id: answer.text("id"), amount: answer.number("amount"), buyer }
}

/// A process beside another, on its database.
async fn beside(one: &Served, variables: &[(&str, &str)]) -> Served {
    let token = one.secret.token().to_owned();
    Served::beside(Arc::clone(&one.mock), one.database.clone(), &token, variables).await.expect("it serves")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_does_is_seen_at_another_without_redis() {
    let one = Served::start(&[]).await;
    let other = beside(&one, &[]).await;
    let product = product(&one, 5).await;
    let order = place(&one, &product).await;
    let mut stream = Stream::open(&other.secret, &order.id).await;
    assert_eq!(stream.next().await.expect("at once").status(), "pending");
    cancel(&one.secret, &order.id).await;
    stream.until("canceled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_does_is_seen_at_another_whatever_becomes_of_redis() {
    let Some(redis) = Redis::start().await else { return };
    let url = redis.url();
    let variables = [("REDIS_URL", url.as_str()), ("PAYGAUGE_REDIS_DEADLINE_MS", "1000")];
    let one = Served::start(&variables).await;
    let other = beside(&one, &variables).await;
    let product = product(&one, 50).await;
    let mut waiting = Vec::new();
    for _ in 0..6 {
        let order = place(&one, &product).await;
        let mut stream = Stream::open(&other.secret, &order.id).await;
        assert_eq!(stream.next().await.expect("at once").status(), "pending");
        waiting.push((order, stream));
    }
    let harms: [Harm; 5] = [
        ("well", |_| ()),
        ("stalled", Redis::pause),
        ("going on", Redis::resume),
        ("killed", Redis::stop),
        ("still away", |_| ()),
    ];
    for (name, harm) in harms {
        let (order, mut stream) = waiting.pop().expect("one is left");
        harm(&redis);
        cancel(&one.secret, &order.id).await;
        assert_eq!(stream.until("canceled").await.len(), 1, "{name}");
    }
    redis.start_again().await;
    let (order, mut stream) = waiting.pop().expect("one is left");
    cancel(&one.secret, &order.id).await;
    stream.until("canceled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_of_units_that_came_back_open_the_gate_of_other_processes() {
    let Some(redis) = Redis::start().await else { return };
    let stop = CancellationToken::new();
    let ((_, one), (_, other)) = (at(&redis, &stop).await, at(&redis, &stop).await);
    let (product, another) = (ProductId::new(), ProductId::new());
    for product in [product, another] {
        other.gate().close(product, 1, std::time::Instant::now());
    }
    eventually("the gate opens", PATIENCE, async || {
        one.tell(Item::Product(product));
        tokio::time::sleep(Duration::from_millis(50)).await;
        (!other.gate().is_closed(product, 1)).then_some(())
    })
    .await;
    assert!(other.gate().is_closed(another, 1));
    stop.cancel();
}

async fn at(redis: &Redis, stop: &CancellationToken) -> (Arc<paygauge::redis::Redis>, Arc<News>) {
    let config = RedisConfig { url: redis.url().into(), deadline: PATIENCE };
    let known = Arc::new(paygauge::redis::Redis::new(&config).expect("an address"));
    known.check().await;
    let news = Arc::new(News::new(Some(Arc::clone(&known)), Duration::from_secs(3_600)));
    let (watched, running, stopped) = (Arc::clone(&known), Arc::clone(&news), stop.clone());
    tokio::spawn(async move { tokio::join!(watched.watch(stopped.clone()), running.run(stopped)) });
    (known, news)
}

/// Tells until it is heard: a message for who is not there yet is lost.
async fn heard(from: &News, to: &News) {
    let order = OrderId::new();
    let mut watch = to.watch(order);
    eventually("news arrive", PATIENCE, async || {
        from.tell(Item::Order(order));
        timeout(Duration::from_millis(200), watch.rung()).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_reach_other_processes_and_who_lost_some_is_told_to_look() {
    let Some(redis) = Redis::start().await else { return };
    let stop = CancellationToken::new();
    let ((_, one), (_, other)) = (at(&redis, &stop).await, at(&redis, &stop).await);
    let often = News::default().look_every();
    heard(&one, &other).await;
    heard(&other, &one).await;
    assert!(other.look_every() > often, "with news there is no need to look often");
    timeout(PATIENCE, other.missed()).await.expect("before it listened, something may have happened");

    redis.stop();
    eventually("it looks often", PATIENCE, async || (other.look_every() == often).then_some(())).await;
    redis.start_again().await;
    timeout(PATIENCE, other.missed()).await.expect("what was told meanwhile is lost");
    heard(&one, &other).await;
    assert!(other.look_every() > often);

    // Connected, and nothing comes any more.
    redis.pause();
    eventually("silence is noticed", PATIENCE, async || (other.look_every() == often).then_some(())).await;
    redis.resume();
    heard(&one, &other).await;
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_hold_no_connection_and_count_as_answered() {
    let variables = [("PAYGAUGE_DB_CONNECTIONS_MAX", "2"), ("PAYGAUGE_ROLES", "api")];
    let served = Served::start(&variables).await;
    let product = product(&served, 50).await;
    let mut streams = Vec::new();
    for _ in 0..30 {
        let order = place(&served, &product).await;
        let mut stream = Stream::open(&order.buyer, &order.id).await;
        stream.next().await.expect("at once");
        streams.push((order, stream));
    }
    let metrics = served.metrics().await;
    assert_eq!(gauge(&metrics, "payments_event_streams"), 30.0);
    let counted = format!(
        r#"http_server_request_duration_seconds_count{{http_request_method="GET",http_route="{ROUTE}",http_response_status_code="200"}}"#
    );
    assert_eq!(gauge(&metrics, &counted), 30.0, "measured up to the head, not to the end");
    assert_eq!(gauge(&metrics, r#"http_server_active_requests{http_request_method="GET"}"#), 0.0);
    assert_eq!(gauge(&metrics, r#"db_client_connection_count{state="used"}"#), 0.0);
    served.secret.get("/v1/orders").await.expect(StatusCode::OK);

    // Some hang up, the others learn of their orders.
    let left = streams.split_off(20);
    drop(left);
    eventually("who left is noticed", PATIENCE, async || {
        (gauge(&served.metrics().await, "payments_event_streams") == 20.0).then_some(())
    })
    .await;
    for (order, stream) in &mut streams {
        cancel(&served.secret, &order.id).await;
        stream.until("canceled").await;
        assert!(stream.next().await.is_none());
    }
    let metrics = eventually("all are over", PATIENCE, async || {
        let metrics = served.metrics().await;
        (gauge(&metrics, "payments_event_streams") == 0.0).then_some(metrics)
    })
    .await;
    for (reason, count) in [("final", 20.0), ("client_left", 10.0), ("life", 0.0), ("stopping", 0.0)] {
        let series = format!(r#"payments_event_streams_ended_total{{reason="{reason}"}}"#);
        assert_eq!(gauge(&metrics, &series), count, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_room_for_so_many_and_a_place_is_given_back() {
    let served = Served::start(&[("PAYGAUGE_EVENT_STREAMS_MAX", "1"), ("PAYGAUGE_EVENT_STREAM_SECONDS", "3600")]).await;
    let product = product(&served, 5).await;
    let order = place(&served, &product).await;
    let stream = Stream::open(&order.buyer, &order.id).await;
    let refused = order.buyer.get(&path(&order.id)).await;
    let refused = refused.problem(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams");
    assert!(refused.header("retry-after").is_some());
    drop(stream);
    let response = eventually("there is room again", PATIENCE, async || {
        let answer = order.buyer.raw(Method::GET, &path(&order.id)).send().await.expect("an answer");
        (answer.status() == StatusCode::OK).then_some(answer)
    })
    .await;
    let mut stream = Stream { response, text: String::new() };
    assert_eq!(stream.next().await.expect("at once").status(), "pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_after_its_time_and_when_the_process_stops() {
    let brief = Served::start(&[("PAYGAUGE_EVENT_STREAM_SECONDS", "1")]).await;
    let product = product(&brief, 5).await;
    let order = place(&brief, &product).await;
    let mut stream = Stream::open(&order.buyer, &order.id).await;
    assert_eq!(stream.next().await.expect("at once").status(), "pending");
    assert!(stream.next().await.is_none(), "its time is over");

    let mut served = beside(&brief, &[("PAYGAUGE_EVENT_STREAM_SECONDS", "3600")]).await;
    let buyer = Client::new(&served.base, order.buyer.token());
    let mut stream = Stream::open(&buyer, &order.id).await;
    stream.next().await.expect("at once");
    served.terminate();
    assert!(stream.next().await.is_none(), "an orderly end, not a cut");
    assert!(served.ended().await.success());
    let lines = served.lines();
    assert!(!lines.iter().any(|line| line.contains("before the last client")), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_news_of_it_that_cannot_be_read_at_first_is_told_all_the_same() {
    let shop = Shop::without_worker().await;
    let product = shop.product(12_000, 10).await;
    let order = shop.order(&product, 1).await;
    let mut stream = Stream::open(&order.buyer, &order.id).await;
    stream.next().await.expect("at once");
    let id = order.id.trim_start_matches("ord_");
    let change = format!(
        "update orders set status = 'confirming', version = 2 where id = '{id}';
         insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor, detail)
         values ('order', '{id}', 2, '{id}', 'OrderConfirmStarted', 'pending', 'confirming', 'test', '{{}}');
         alter table events rename to lost"
    );
    shop.sql(&change).await;
    shop.running.app().news.tell(Item::Order(order.id.parse().expect("an id")));
    tokio::time::sleep(Duration::from_millis(300)).await;
    shop.sql("alter table lost rename to events").await;
    assert_eq!(stream.next().await.expect("a change").status(), "confirming");
    // The books are spoilt.
    shop.running.stop().await;
    assert!(stream.next().await.is_none());
}
