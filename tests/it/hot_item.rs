//! A hot item: many buyers at once on one product are taken together, and nobody can tell by his answer: each gets his
//! own order or refusal, each once, whatever becomes of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use paygauge::config::Settings;
use paygauge::crash::{CrashPlan, CrashPoint, CrashSwitch};
use paygauge::db::events::Origin;
use paygauge::db::idempotency::Scope;
use paygauge::domain::ids::ProductId;
use paygauge::payments::order::{self, Place};
use paygauge::telemetry::labels::Tx;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_postgres::Client as Sql;

use crate::support::otlp::{Receiver, attribute, hex};
use crate::support::served::Served;
use crate::support::shop::{Answer, Client, PATIENCE, Shop, ShopOptions, invariants_client, settings};
use crate::support::{database, eventually};

const PRICE: i64 = 12_000;

async fn shop_with(settings: Settings, crash: &CrashSwitch) -> Shop {
    let options = ShopOptions { worker: false, webhooks: false, settings, crash: crash.clone(), ..Default::default() };
    Shop::with(options).await
}

async fn shop() -> Shop {
    shop_with(settings(), &CrashSwitch::default()).await
}

fn order_of(product: &str, quantity: i64) -> Value {
    json!({ "lines": [{ "productId": product, "quantity": quantity }] })
}

fn fresh_key() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn id(product: &str) -> ProductId {
    product.parse().expect("an id")
}

fn ask(client: &Client, product: &str, quantity: i64, key: &str) -> JoinHandle<Answer> {
    let (client, body, key) = (client.clone(), order_of(product, quantity), key.to_owned());
    tokio::spawn(async move { client.post_as("/v1/orders", &body, &key).await })
}

/// Waits until so many sessions wait for a lock.
pub async fn blocked(sql: &Sql, count: i64) {
    let query = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and pid <> pg_backend_pid()";
    eventually(&format!("{count} sessions wait"), PATIENCE, async || {
        // Within a transaction the view stands still.
        sql.batch_execute("select pg_stat_clear_snapshot()").await.expect("a fresh view");
        let now: i64 = sql.query_one(query, &[]).await.expect("a count").get(0);
        (now == count).then_some(())
    })
    .await;
}

async fn queued(shop: &Shop, product: &str, count: usize) {
    let queues = &shop.running.app().queues;
    eventually(&format!("{count} wait in the queue"), PATIENCE, async || {
        (queues.waiting(id(product)) == count).then_some(())
    })
    .await;
}

/// A stock row in other hands: whoever orders its product stops at the end of its transaction, and the others come
/// to stand behind it.
struct Held(Sql);

impl Held {
    async fn stock(shop: &Shop) -> Self {
        let sql = invariants_client(&shop.database).await;
        sql.batch_execute("begin; select 1 from stock for update").await.expect("the rows");
        Self(sql)
    }

    /// The first order, which has the turn and waits for the row.
    async fn first(&self, shop: &Shop, product: &str) -> JoinHandle<Answer> {
        let first = ask(&shop.publishable, product, 1, &fresh_key());
        blocked(&self.0, 1).await;
        first
    }

    async fn free(self) {
        self.0.batch_execute("rollback").await.expect("the rows are free");
    }
}

/// So many orders of one unit behind a first one, and their answers.
async fn crowd(shop: &Shop, product: &str, count: usize) -> Vec<Answer> {
    let held = Held::stock(shop).await;
    let mut asked = vec![held.first(shop, product).await];
    asked.extend((0..count).map(|_| ask(&shop.publishable, product, 1, &fresh_key())));
    queued(shop, product, count).await;
    held.free().await;
    answers(asked).await
}

async fn answers(asked: Vec<JoinHandle<Answer>>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for asked in asked {
        answers.push(asked.await.expect("no panic"));
    }
    answers
}

/// How many transactions wrote the orders there are.
async fn transactions(shop: &Shop) -> i64 {
    shop.count("select count(distinct xmin::text) from orders").await
}

async fn orders(shop: &Shop) -> i64 {
    shop.count("select count(*) from orders").await
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_are_taken_in_one_transaction_and_each_has_an_order_of_its_own() {
    let shop = shop().await;
    let product = shop.product(PRICE, 100).await;
    let answers = crowd(&shop, &product, 20).await;
    let mut ids = BTreeSet::new();
    for answer in answers {
        let mut placed = answer.expect(StatusCode::CREATED);
        assert!(!placed.is_replayed());
        let trace = placed.header("traceresponse").expect("a trace")[3..35].to_owned();
        let path = format!("/v1/orders/{}", placed.text("id"));
        assert_eq!(placed.header("location"), Some(path.as_str()));
        let buyer = Client::new(&shop.base, &placed.text("checkoutToken"));
        placed.body.as_object_mut().expect("an order").remove("checkoutToken");
        assert_eq!(placed.body, buyer.get(&path).await.expect(StatusCode::OK).body, "answered is what is stored");
        let timeline = buyer.get(&format!("{path}/timeline")).await.expect(StatusCode::OK);
        let events = timeline.body["items"].as_array().expect("items");
        assert_eq!((events.len(), &events[0]["kind"]), (1, &json!("OrderPlaced")));
        assert_eq!(events[0]["traceId"], trace, "the trace of its own request");
        let uuid = placed.text("id").trim_start_matches("ord_").to_owned();
        let stored = format!("select count(*) from orders where id = '{uuid}' and trace_id = '{trace}'");
        assert_eq!(shop.count(&stored).await, 1);
        let claimed = format!("select count(*) from idempotency_keys where resource_id = '{uuid}' and status = 'done'");
        assert_eq!(shop.count(&claimed).await, 1, "a claim of its own");
        assert!(ids.insert(placed.text("id")));
    }
    assert_eq!((ids.len(), orders(&shop).await, transactions(&shop).await), (21, 21, 2));
    assert_eq!(shop.available(&product).await, 79);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_takes_no_more_than_it_may() {
    let shop = shop_with(Settings { orders_together: 4, ..settings() }, &CrashSwitch::default()).await;
    let product = shop.product(PRICE, 100).await;
    crowd(&shop, &product, 9).await.into_iter().for_each(|answer| drop(answer.expect(StatusCode::CREATED)));
    let sizes =
        "select coalesce(max(size), 0)::bigint from (select count(*) as size from orders group by xmin::text) t";
    assert_eq!((orders(&shop).await, transactions(&shop).await, shop.count(sizes).await), (10, 4, 4));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_is_alone() {
    let shop = shop().await;
    let product = shop.product(PRICE, 100).await;
    let other = shop.product(PRICE, 100).await;
    for _ in 0..5 {
        shop.order(&product, 1).await;
        assert_eq!(shop.running.app().queues.waiting(id(&product)), 0);
    }
    assert_eq!((orders(&shop).await, transactions(&shop).await), (5, 5));

    // Who wants several products stands in no queue, and another product is another queue.
    let held = Held::stock(&shop).await;
    let mut asked = vec![held.first(&shop, &product).await];
    let several = json!({ "lines": [{ "productId": product, "quantity": 1 }, { "productId": other, "quantity": 1 }] });
    for _ in 0..2 {
        let (client, several) = (shop.publishable.clone(), several.clone());
        asked.push(tokio::spawn(async move { client.post_with_key("/v1/orders", &several).await }));
    }
    asked.push(ask(&shop.publishable, &other, 1, &fresh_key()));
    blocked(&held.0, 4).await;
    held.free().await;
    answers(asked).await.into_iter().for_each(|answer| drop(answer.expect(StatusCode::CREATED)));
    assert_eq!((orders(&shop).await, transactions(&shop).await), (9, 9));
    shop.close().await;

    let off = shop_with(Settings { orders_together: 1, ..settings() }, &CrashSwitch::default()).await;
    let product = off.product(PRICE, 100).await;
    let held = Held::stock(&off).await;
    let mut asked = vec![held.first(&off, &product).await];
    asked.extend((0..4).map(|_| ask(&off.publishable, &product, 1, &fresh_key())));
    blocked(&held.0, 5).await;
    held.free().await;
    answers(asked).await.into_iter().for_each(|answer| drop(answer.expect(StatusCode::CREATED)));
    assert_eq!((orders(&off).await, transactions(&off).await), (5, 5));
    off.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_unit_that_is_not_there_and_every_unit_is_sold_together() {
    for sold_out_life in [Duration::ZERO, Duration::from_secs(3_600)] {
        let shop = shop_with(Settings { sold_out_life, ..settings() }, &CrashSwitch::default()).await;
        let product = shop.product(PRICE, 8).await;
        let (mut placed, mut refused) = (0, 0);
        for answer in crowd(&shop, &product, 49).await {
            if answer.status == StatusCode::CREATED {
                placed += 1;
            } else {
                let refusal = answer.problem(StatusCode::CONFLICT, "insufficient_stock");
                assert_eq!((refusal.number("available"), refusal.number("requested")), (0, 1));
                refused += 1;
            }
        }
        assert_eq!((placed, refused, orders(&shop).await, shop.available(&product).await), (8, 42, 8, 0));
        assert_eq!(transactions(&shop).await, 2, "the end of the stock is no reason to go alone");
        shop.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_come_is_first_served_and_who_wants_too_much_is_told_so() {
    let shop = shop().await;
    let product = shop.product(PRICE, 10).await;
    let held = Held::stock(&shop).await;
    let mut asked = vec![held.first(&shop, &product).await];
    // Of the nine left: four, then three; five are too many; two; one is too many.
    for (place, quantity) in [4, 3, 5, 2, 1].into_iter().enumerate() {
        asked.push(ask(&shop.publishable, &product, quantity, &fresh_key()));
        queued(&shop, &product, place + 1).await;
    }
    held.free().await;
    let answers = answers(asked).await;
    let told: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(told, [201, 201, 201, 409, 201, 409]);
    assert_eq!((answers[3].number("requested"), answers[3].number("available")), (5, 0));
    assert_eq!((transactions(&shop).await, shop.available(&product).await), (2, 0));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_twice_among_those_who_wait_is_one_order() {
    let shop = shop().await;
    let product = shop.product(PRICE, 100).await;
    let used = fresh_key();
    let before = ask(&shop.publishable, &product, 1, &used).await.expect("no panic").expect(StatusCode::CREATED);
    let held = Held::stock(&shop).await;
    let mut asked = vec![held.first(&shop, &product).await];
    let (key, other) = (fresh_key(), fresh_key());
    for (place, (key, quantity)) in
        [(&key, 1), (&key, 1), (&other, 1), (&other, 2), (&used, 1), (&fresh_key(), 1)].into_iter().enumerate()
    {
        asked.push(ask(&shop.publishable, &product, quantity, key));
        queued(&shop, &product, place + 1).await;
    }
    held.free().await;
    let answers = answers(asked).await;
    let [_, one, again, first, mismatch, known, last] = <[Answer; 7]>::try_from(answers).expect("seven answers");
    let one = one.expect(StatusCode::CREATED);
    assert!(!one.is_replayed());
    assert!(again.is_replayed());
    assert_eq!(again.raw, one.raw);
    first.expect(StatusCode::CREATED);
    mismatch.problem(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_mismatch");
    assert!(known.is_replayed());
    assert_eq!(known.raw, before.raw);
    last.expect(StatusCode::CREATED);
    assert_eq!((orders(&shop).await, transactions(&shop).await, shop.available(&product).await), (5, 3, 95));
    shop.close().await;
}

/// A key in other hands: whoever wants it waits until it is freed, or claimed for good.
async fn hold_key(shop: &Shop, owner: &str, key: &str) -> Sql {
    let sql = invariants_client(&shop.database).await;
    let claim = format!(
        "begin; insert into idempotency_keys (owner, route, key, fingerprint, status, resource_id, lease_until, expires_at)
         values ('{owner}', 'orders.place', '{key}', '\\x00', 'in_progress', gen_random_uuid(), now() + interval '1 hour',
                 now() + interval '1 hour')"
    );
    sql.batch_execute(&claim).await.expect("the key");
    sql
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_claimed_meanwhile_hurts_nobody_else() {
    let shop = shop().await;
    let product = shop.product(PRICE, 100).await;
    shop.order(&product, 1).await;
    let sql = invariants_client(&shop.database).await;
    let owner: String = sql.query_one("select owner from idempotency_keys", &[]).await.expect("one").get(0);
    let held = Held::stock(&shop).await;
    let first = held.first(&shop, &product).await;
    let keys: Vec<String> = (0..6).map(|_| fresh_key()).collect();
    let asked: Vec<_> = keys.iter().map(|key| ask(&shop.publishable, &product, 1, key)).collect();
    queued(&shop, &product, 6).await;
    let rival = hold_key(&shop, &owner, &keys[3]).await;
    held.free().await;
    first.await.expect("no panic").expect(StatusCode::CREATED);
    blocked(&sql, 1).await;
    rival.batch_execute("commit").await.expect("it is claimed");
    for (number, answer) in answers(asked).await.into_iter().enumerate() {
        if number == 3 {
            answer.problem(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_mismatch");
        } else {
            assert!(!answer.expect(StatusCode::CREATED).is_replayed());
        }
    }
    assert_eq!((orders(&shop).await, transactions(&shop).await), (7, 7), "undone, and then each alone");
    assert_eq!(shop.available(&product).await, 93);
    shop.sql("delete from idempotency_keys where status = 'in_progress'").await;
    shop.close().await;
}

/// Places an order of one unit by a call whose future can be dropped.
fn call(shop: &Shop, product: &str, key: &str) -> JoinHandle<bool> {
    let app = Arc::clone(shop.running.app());
    let place = Place { lines: vec![(id(product), 1)], customer_ref: None };
    let scope =
        Scope { owner: "test".to_owned(), route: "orders.place", key: key.to_owned(), fingerprint: vec![7; 32] };
    let origin = Origin { actor: "test".to_owned(), trace_id: None };
    tokio::spawn(async move { order::place(&app, place, scope, origin).await.expect("an order").replayed })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_takes_nobody_along() {
    let shop = shop().await;
    let product = shop.product(PRICE, 100).await;
    let sql = invariants_client(&shop.database).await;
    // Whoever has the turn goes away: the next ones have it.
    let held = Held::stock(&shop).await;
    let first = call(&shop, &product, "gone first");
    blocked(&held.0, 1).await;
    let mut waiting: Vec<_> = (0..4).map(|number| call(&shop, &product, &format!("waits {number}"))).collect();
    queued(&shop, &product, 4).await;
    // So does one of those who wait.
    let gone = waiting.remove(1);
    gone.abort();
    assert!(gone.await.expect_err("it is gone").is_cancelled());
    first.abort();
    assert!(first.await.expect_err("it is gone").is_cancelled());
    blocked(&held.0, 1).await;
    held.free().await;
    for waited in waiting {
        assert!(!waited.await.expect("no panic"));
    }
    assert_eq!((orders(&shop).await, transactions(&shop).await), (3, 1));
    assert_eq!(shop.available(&product).await, 97);

    // One goes away in the middle of the common transaction: its order is placed, as its key knows.
    let held = Held::stock(&shop).await;
    let first = call(&shop, &product, "second round");
    blocked(&held.0, 1).await;
    let taken: Vec<_> = (0..4).map(|number| call(&shop, &product, &format!("is taken {number}"))).collect();
    queued(&shop, &product, 4).await;
    let rival = hold_key(&shop, "test", "is taken 2").await;
    held.free().await;
    assert!(!first.await.expect("no panic"));
    blocked(&sql, 1).await;
    taken[0].abort();
    rival.batch_execute("rollback").await.expect("the key is free");
    for (number, taken) in taken.into_iter().enumerate() {
        assert_eq!(taken.await.ok(), (number > 0).then_some(false), "{number}");
    }
    assert!(call(&shop, &product, "is taken 0").await.expect("no panic"), "a repeat");
    assert_eq!((orders(&shop).await, transactions(&shop).await), (8, 3));
    assert_eq!(shop.available(&product).await, 92);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_common_transaction_that_dies_leaves_each_to_itself() {
    for (point, dies_with, replayed) in [
        (CrashPoint::Uncommitted(Tx::OrderPlaceTogether), 5, false),
        (CrashPoint::Committed(Tx::OrderPlaceTogether), 2, true),
    ] {
        let crash = CrashSwitch::default();
        let shop = shop_with(settings(), &crash).await;
        let product = shop.product(PRICE, 100).await;
        let held = Held::stock(&shop).await;
        let first = held.first(&shop, &product).await;
        let asked: Vec<_> = (0..4).map(|_| ask(&shop.publishable, &product, 1, &fresh_key())).collect();
        queued(&shop, &product, 4).await;
        crash.arm(CrashPlan::Panic(point));
        held.free().await;
        assert!(!first.await.expect("no panic").expect(StatusCode::CREATED).is_replayed());
        let answers = answers(asked).await;
        assert!(crash.reached().contains(&point));
        for answer in answers {
            assert_eq!(answer.expect(StatusCode::CREATED).is_replayed(), replayed, "{point}");
        }
        assert_eq!((orders(&shop).await, transactions(&shop).await), (5, dies_with), "{point}");
        assert_eq!(shop.available(&product).await, 95);
        shop.order(&product, 1).await;
        shop.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_long_is_told_to_come_again_and_who_is_being_taken_is_not() {
    let mut database = database::fresh().await;
    database.pool_wait = Duration::from_millis(600);
    let options = ShopOptions { worker: false, webhooks: false, ..Default::default() };
    let shop = Shop::on(database, options).await;
    let product = shop.product(PRICE, 100).await;
    let held = Held::stock(&shop).await;
    let first = held.first(&shop, &product).await;
    let keys: Vec<String> = (0..3).map(|_| fresh_key()).collect();
    let asked: Vec<_> = keys.iter().map(|key| ask(&shop.publishable, &product, 1, key)).collect();
    for answer in answers(asked).await {
        let busy = answer.problem(StatusCode::SERVICE_UNAVAILABLE, "busy");
        assert!(busy.header("retry-after").is_some());
    }
    assert_eq!(shop.running.app().queues.waiting(id(&product)), 0);
    held.free().await;
    first.await.expect("no panic").expect(StatusCode::CREATED);
    assert_eq!(orders(&shop).await, 1, "nothing was written for who was sent away");
    for key in &keys {
        let placed = ask(&shop.publishable, &product, 1, key).await.expect("no panic").expect(StatusCode::CREATED);
        assert!(!placed.is_replayed());
    }

    let sql = invariants_client(&shop.database).await;
    let held = Held::stock(&shop).await;
    let first = call(&shop, &product, "first");
    blocked(&held.0, 1).await;
    let taken: Vec<_> = (0..3).map(|number| call(&shop, &product, &format!("{number}"))).collect();
    queued(&shop, &product, 3).await;
    let rival = hold_key(&shop, "test", "1").await;
    held.free().await;
    assert!(!first.await.expect("no panic"));
    blocked(&sql, 1).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    rival.batch_execute("rollback").await.expect("the key is free");
    for taken in taken {
        assert!(!taken.await.expect("it is placed"));
    }
    shop.close().await;
}

/// The value of a series in an exposition.
fn value(metrics: &str, series: &str) -> f64 {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_has_its_own_line_and_trace_and_the_time_is_accounted_for() {
    let receiver = Receiver::http().await;
    let served = Served::start(&receiver.variables("1")).await;
    let body = json!({ "name": "Coffee beans", "price": PRICE, "initialStock": 100 });
    let product = served.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id");
    let sql = invariants_client(&served.database).await;
    sql.batch_execute("begin; select 1 from stock for update").await.expect("the row");
    let mut asked = vec![ask(&served.secret, &product, 1, &fresh_key())];
    blocked(&sql, 1).await;
    asked.extend((0..12).map(|_| ask(&served.secret, &product, 1, &fresh_key())));
    eventually("all have come", PATIENCE, async || {
        let active = value(&served.metrics().await, r#"http_server_active_requests{http_request_method="POST"}"#);
        (active > 12.5).then_some(())
    })
    .await;
    sql.batch_execute("rollback").await.expect("the row is free");
    let traces: BTreeMap<String, String> = answers(asked)
        .await
        .into_iter()
        .map(|answer| {
            let trace = answer.header("traceresponse").expect("a trace")[3..35].to_owned();
            (answer.expect(StatusCode::CREATED).text("id"), trace)
        })
        .collect();

    let metrics = served.metrics().await;
    let taken = |end: &str| value(&metrics, &format!("payments_orders_per_transaction_{end}"));
    assert!((taken("sum") - 13.0).abs() < 0.5 && taken("count") < 12.5 && taken("count") > 1.5, "{metrics}");
    let commits = |tx: &str| {
        value(&metrics, &format!(r#"payments_db_transaction_duration_seconds_count{{tx="{tx}",result="commit"}}"#))
    };
    assert!((commits("order_place") + commits("order_place_together") - taken("count")).abs() < 0.5);
    assert!(commits("order_place_together") > 0.5);
    let steps = |step: &str| {
        value(&metrics, &format!(r#"payments_step_duration_seconds_sum{{operation="order_create",step="{step}"}}"#))
    };
    assert!(steps("queue_wait") > 0.0 && steps("shared_tx") > 0.0);
    let whole: f64 = metrics
        .lines()
        .filter(|line| line.starts_with(r#"payments_operation_duration_seconds_sum{operation="order_create""#))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!(steps("unattributed") <= 0.02 * whole, "{} of {whole}", steps("unattributed"));

    let lines = eventually("every line is there", PATIENCE, async || {
        let all = served.lines();
        let of =
            |line: &String| serde_json::from_str::<Value>(line).ok().filter(|line| line["http_route"] == "/v1/orders");
        let lines: Vec<Value> = all.iter().filter_map(of).collect();
        (lines.len() == 13).then_some(lines)
    })
    .await;
    let mut together = Vec::new();
    for line in &lines {
        let order = line["order_id"].as_str().expect("an order");
        assert_eq!((&line["trace_id"], line["amount"].as_i64()), (&json!(traces[order]), Some(PRICE)), "{line}");
        if let Some(orders) = line["together"].as_i64() {
            assert!(orders >= 2 && line["shared_tx_ms"].is_number() && line["queue_wait_ms"].is_number(), "{line}");
            assert!(line.get("tx_begin_ms").is_none(), "it had no transaction of its own: {line}");
            together.push(traces[order].clone());
        } else {
            assert!(line["tx_begin_ms"].is_number() && line.get("shared_tx_ms").is_none(), "{line}");
        }
    }
    assert!(together.len() >= 2, "{lines:#?}");
    // From each request to the common transaction, and back.
    let mut common = BTreeSet::new();
    for trace in &together {
        let root = receiver.root(trace).await;
        let links: Vec<_> = root.links.iter().map(|link| hex(&link.trace_id)).collect();
        let [link] = links.as_slice() else { panic!("one link: {links:?}") };
        common.insert(link.clone());
    }
    let mut back = BTreeSet::new();
    for trace in &common {
        let root = receiver.root(trace).await;
        assert_eq!(root.name, "orders together");
        assert!(attribute(&root, "payments.operation").is_none(), "a use case is a request's");
        back.extend(root.links.iter().map(|link| hex(&link.trace_id)));
    }
    assert!(together.iter().all(|trace| back.contains(trace)), "{together:?} {back:?}");
}
