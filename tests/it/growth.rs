//! What must stay true as the tables grow: nothing that runs all day reads a table from end to end, what has served its
//! time goes, and sales are told without looking at orders.

mod first_minute;
mod keys;
mod partitions;
mod reads;
mod sales;

use paygauge::config::Settings;
use paygauge::db::connect::DbConfig;
use paygauge::load::seed::{SeedOptions, fill};
use secrecy::ExposeSecret as _;

use crate::support::shop::{Shop, ShopOptions, invariants_client};
use crate::support::{database, invariants};

/// Keys of three years ago, in no partition of their time. Each was the key of some order that is there.
const STRAY_KEYS: &str = "insert into idempotency_keys (owner, route, key, fingerprint, status, resource_id, response_status,
        response_body, lease_until, created_at, expires_at, under_lock)
    select 'order', 'orders.place', 'stray ' || n, sha256(''), 'done', (select id from orders limit 1), 201, '{}', day, day, day, true
    from generate_series(1, 6000) n, lateral (select now() - interval '3 years' + n * interval '1 s' as day) at";

/// A database with a history.
async fn seeded(orders: u64, products: u32, days: u32) -> DbConfig {
    let database = database::fresh().await;
    fill(&database, SeedOptions { orders, products, days }).await.expect("rows");
    database
}

/// A shop on it that does nothing by itself.
async fn still(database: DbConfig, settings: Settings) -> Shop {
    Shop::on(database, ShopOptions { worker: false, webhooks: false, settings, ..ShopOptions::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seeded_history_obeys_every_rule() {
    let database = database::fresh().await;
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_paygauge"));
    command.args(["load", "seed", "--orders", "1500", "--products", "7", "--days", "30"]).env_clear();
    command.env("DATABASE_URL", database.url.expose_secret());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a thread").expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("rows/s"));
    invariants::rules(&database).await;

    let client = invariants_client(&database).await;
    let counts = "select count(*), count(distinct status), count(*) filter (where status = 'paid'),
            bool_and(created_at < now() - interval '4 days') from orders";
    let row = client.query_one(counts, &[]).await.expect("SQL");
    let (orders, states, paid, is_old): (i64, i64, i64, bool) = (row.get(0), row.get(1), row.get(2), row.get(3));
    assert_eq!((orders, states, is_old), (1500, 4, true));
    assert!((900..1400).contains(&paid), "{paid} of 1500 are paid");
    let keys: i64 = client.query_one("select count(*) from idempotency_keys", &[]).await.expect("SQL").get(0);
    assert_eq!(keys, orders);

    let mut wrong = std::process::Command::new(env!("CARGO_BIN_EXE_paygauge"));
    wrong.args(["load", "seed", "--orders", "0"]).env_clear().env("DATABASE_URL", database.url.expose_secret());
    let refused = tokio::task::spawn_blocking(move || wrong.output()).await.expect("a thread").expect("it runs");
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
}
