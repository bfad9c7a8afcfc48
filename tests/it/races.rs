//! The lesson of the last unit: how a naive shop oversells, three ways that do not, and the real thing.
//!
//! The variants run on a shelf of their own with the same number of buyers, each on a connection of its own, and print
//! what they cost: tries that had to be repeated, and time. The last tests race the product through its public door.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use reqwest::StatusCode;
use serde_json::json;
use tokio::sync::Barrier;
use tokio_postgres::Client;

use crate::support::database;
use crate::support::shop::{Shop, ShopOptions, invariants_client, settings};

const BUYERS: usize = 16;
const UNITS: i64 = 5;

/// What a way of taking the last units came to.
struct Sale {
    sold: usize,
    left: i64,
}

/// What every buyer of a race shares.
struct Race {
    start: Barrier,
    everybody_has_looked: Barrier,
    retries: AtomicU64,
}

/// Lets all buyers try at once and says what came of it.
async fn sell(name: &str, buy: impl AsyncFn(&Client, &Race) -> bool) -> Sale {
    let config = database::fresh().await;
    let shelf = invariants_client(&config).await;
    let setup = format!(
        "create table shelf (id int primary key, units bigint not null, version int not null);
         insert into shelf values (1, {UNITS}, 1)"
    );
    shelf.batch_execute(&setup).await.expect("a shelf");
    let race =
        Race { start: Barrier::new(BUYERS), everybody_has_looked: Barrier::new(BUYERS), retries: AtomicU64::new(0) };
    let mut clients = Vec::new();
    for _ in 0..BUYERS {
        clients.push(invariants_client(&config).await);
    }
    let begun = Instant::now();
    let buyers = clients.iter().map(async |client| {
        race.start.wait().await;
        buy(client, &race).await
    });
    let sold = futures_util::future::join_all(buyers).await.into_iter().filter(|&bought| bought).count();
    let elapsed = begun.elapsed();
    let left: i64 = shelf.query_one("select units from shelf", &[]).await.expect("the shelf").get(0);
    let retries = race.retries.load(Ordering::Relaxed);
    println!("{name}: {BUYERS} buyers, {UNITS} units: sold {sold}, left {left}, {retries} retries, {elapsed:?}");
    Sale { sold, left }
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_first_and_writing_later_oversells() {
    let sale = sell("read, then write", async |client, race| {
        let units: i64 = client.query_one("select units from shelf", &[]).await.expect("a look").get(0);
        race.everybody_has_looked.wait().await;
        if units < 1 {
            return false;
        }
        client.execute("update shelf set units = $1", &[&(units - 1)]).await.expect("a write");
        true
    })
    .await;
    assert_eq!(sale.sold, BUYERS, "everybody saw units, and everybody was sold one");
    assert_eq!(sale.left, UNITS - 1, "and the shelf has lost track");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_check_sells_exactly_what_is_there_at_the_price_of_retries() {
    let sale = sell("optimistic: version check", async |client, race| {
        loop {
            let row = client.query_one("select units, version from shelf", &[]).await.expect("a look");
            let (units, version): (i64, i32) = (row.get(0), row.get(1));
            if units < 1 {
                return false;
            }
            let write = "update shelf set units = units - 1, version = version + 1 where version = $1";
            if client.execute(write, &[&version]).await.expect("a write") == 1 {
                return true;
            }
            race.retries.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    assert_eq!((i64::try_from(sale.sold).expect("a count"), sale.left), (UNITS, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_lock_sells_exactly_what_is_there_at_the_price_of_waiting() {
    let sale = sell("pessimistic: select for update", async |client, _| {
        client.batch_execute("begin").await.expect("begin");
        let row = client.query_one("select units from shelf for update", &[]).await.expect("a lock");
        let units: i64 = row.get(0);
        if units > 0 {
            client.execute("update shelf set units = units - 1", &[]).await.expect("a write");
        }
        client.batch_execute("commit").await.expect("commit");
        units > 0
    })
    .await;
    assert_eq!((i64::try_from(sale.sold).expect("a count"), sale.left), (UNITS, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_conditional_statement_sells_exactly_what_is_there() {
    let sale = sell("one conditional statement", async |client, _| {
        let take = "update shelf set units = units - 1 where units >= 1";
        client.execute(take, &[]).await.expect("a write") == 1
    })
    .await;
    assert_eq!((i64::try_from(sale.sold).expect("a count"), sale.left), (UNITS, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_buyers_of_the_last_unit_and_exactly_one_wins() {
    let shop = Shop::open().await;
    for _ in 0..10 {
        let product = shop.product(12_000, 1).await;
        let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
        let (one, two) = tokio::join!(
            shop.publishable.post_with_key("/v1/orders", &body),
            shop.publishable.post_with_key("/v1/orders", &body)
        );
        let mut statuses = [one.status, two.status];
        statuses.sort();
        assert_eq!(statuses, [StatusCode::CREATED, StatusCode::CONFLICT]);
        let loser = if one.status == StatusCode::CONFLICT { one } else { two };
        let loser = loser.problem(StatusCode::CONFLICT, "insufficient_stock");
        assert_eq!((loser.text("productId"), loser.number("available")), (product.clone(), 0));
        assert_eq!(shop.available(&product).await, 0);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_buys_everything_and_not_one_unit_more() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 30).await;
    let body = json!({ "lines": [{ "productId": product, "quantity": 2 }] });
    let crowd = (0..40).map(|_| shop.publishable.post_with_key("/v1/orders", &body));
    let answers = futures_util::future::join_all(crowd).await;
    let bought = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    assert_eq!(bought, 15);
    assert_eq!(shop.available(&product).await, 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_the_same_products_in_any_order_never_deadlock() {
    let shop = Shop::open().await;
    let products = [shop.product(1_000, 500).await, shop.product(1_000, 500).await, shop.product(1_000, 500).await];
    let orders = (0..60_usize).map(|number| {
        let mut lines: Vec<_> = products.iter().map(|product| json!({ "productId": product, "quantity": 1 })).collect();
        lines.rotate_left(number % 3);
        if number % 2 == 0 {
            lines.reverse();
        }
        let (shop, body) = (&shop, json!({ "lines": lines }));
        async move { shop.publishable.post_with_key("/v1/orders", &body).await.status }
    });
    let statuses = futures_util::future::join_all(orders).await;
    assert!(statuses.iter().all(|&status| status == StatusCode::CREATED), "{statuses:?}");
    let deadlocks = shop.count("select deadlocks from pg_stat_database where datname = current_database()").await;
    assert_eq!(deadlocks, 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_order_sent_many_times_at_once_is_placed_once() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 30).await;
    let body = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let all = (0..12).map(|_| shop.publishable.post_as("/v1/orders", &body, "one-order"));
    let answers = futures_util::future::join_all(all).await;
    let first = answers[0].raw.clone();
    for answer in &answers {
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.raw);
        assert_eq!(answer.raw, first);
    }
    assert_eq!(answers.iter().filter(|answer| !answer.is_replayed()).count(), 1);
    assert_eq!(shop.available(&product).await, 29);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_races_confirm_and_exactly_one_wins() {
    let settings = settings();
    let shop = Shop::with(ShopOptions { worker: false, settings, ..ShopOptions::default() }).await;
    let product = shop.product(12_000, 100).await;
    let (mut paid, mut expired) = (0, 0);
    for round in 0..30_u32 {
        let order = shop.order(&product, 1).await;
        let key = shop.pay(&order);
        let soon = format!(
            "update orders set hold_expires_at = clock_timestamp() + interval '{} ms' where status = 'pending'",
            round % 15
        );
        shop.sql(&soon).await;
        let sweep = async {
            for _ in 0..10 {
                paygauge::payments::expire::expire_batch(shop.running.app(), None).await.expect("a batch");
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        let (answer, ()) = tokio::join!(shop.confirm(&order, &key), sweep);
        let now = shop.order_now(&order.id).await.text("status");
        match answer.status {
            StatusCode::OK => {
                assert_eq!(now, "paid");
                paid += 1;
            }
            _ => {
                answer.problem(StatusCode::CONFLICT, "order_expired");
                paygauge::payments::expire::expire_batch(shop.running.app(), None).await.expect("a batch");
                assert_eq!(shop.order_now(&order.id).await.text("status"), "expired");
                assert_eq!(shop.mock.book().net(&order.id), 0);
                expired += 1;
            }
        }
    }
    println!("expiry against confirm: {paid} paid, {expired} expired");
    assert_eq!(shop.available(&product).await, 100 - paid);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_races_confirm_and_the_books_agree_whoever_wins() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 100).await;
    for _ in 0..15 {
        let order = shop.order(&product, 1).await;
        let key = shop.pay(&order);
        let path = format!("/v1/orders/{}/cancel", order.id);
        let cancel_body = json!({ "reason": "never mind" });
        let cancel = shop.secret.post_with_key(&path, &cancel_body);
        let (confirmed, canceled) = tokio::join!(shop.confirm(&order, &key), cancel);
        assert!(
            matches!(canceled.status, StatusCode::OK | StatusCode::ACCEPTED),
            "{} {} (confirm: {})",
            canceled.status,
            canceled.raw,
            confirmed.status
        );
        shop.order_becomes(&order.id, "canceled").await;
        assert_eq!(shop.mock.book().net(&order.id), 0);
    }
    assert_eq!(shop.available(&product).await, 100);
    shop.close().await;
}
