//! `paygauge load seed`: a database with months of history in it, filled by COPY in minutes.
//!
//! The rows are what the program itself would have left behind: every rule of the audit holds for them, and after each
//! batch, since a batch is one transaction that also takes the stock of its orders. All of it has ended, so a worker on
//! such a database has nothing to ask the PG; and it is older than reconciliation looks back, because no PG knows of it.
//!
//! One thread makes rows while the database takes the batch before them. No more than three batches are in memory.

mod goods;
mod order;
mod rows;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::SinkExt as _;
use tokio::sync::mpsc;
use tokio_postgres::Client;

use self::goods::Goods;
use self::order::Maker;
use self::rows::{Rows, Table};
use crate::clock;
use crate::db::connect::{self, DbConfig};
use crate::serve;

/// Orders in one transaction.
const BATCH_ORDERS: u64 = 2_000;
/// Batches that wait for the database.
const BATCHES_WAITING: usize = 1;
/// The youngest order is so old: reconciliation looks back three days.
const ENDED: TimeDelta = TimeDelta::days(4);
/// How often it is said how far it is.
const SAID_EVERY: Duration = Duration::from_secs(2);
/// The most orders of one run.
const ORDERS_MAX: u64 = 100_000_000;
/// The most products of one run.
const PRODUCTS_MAX: u32 = 10_000;
/// The most days of one run.
const DAYS_MAX: u32 = 3_650;

/// What is to be there.
#[derive(Debug, Clone, Copy)]
pub struct SeedOptions {
    /// Orders.
    pub orders: u64,
    /// Products that they are of; the first are bought most.
    pub products: u32,
    /// Days that they are spread over, evenly.
    pub days: u32,
}

impl SeedOptions {
    fn mistakes(&self) -> Vec<&'static str> {
        let mut wrong = Vec::new();
        if !(1..=ORDERS_MAX).contains(&self.orders) {
            wrong.push("--orders: 1 to 100000000");
        }
        if !(order::LINES_MAX..=PRODUCTS_MAX).contains(&self.products) {
            wrong.push("--products: 3 to 10000");
        }
        if !(1..=DAYS_MAX).contains(&self.days) {
            wrong.push("--days: 1 to 3650");
        }
        wrong
    }
}

/// What a run has written.
#[derive(Debug, Clone, Default)]
pub struct Seeded {
    /// Rows by table.
    pub rows: BTreeMap<&'static str, u64>,
    /// How long writing them took, without the vacuum at the end.
    pub took: Duration,
}

impl Seeded {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.rows.values().sum()
    }

    /// Rows written in a second.
    #[must_use]
    pub fn per_second(&self) -> u64 {
        let millis = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX).max(1);
        self.total().saturating_mul(1_000) / millis
    }
}

/// Fills the database, says how far it is on stderr, and what came of it on stdout.
///
/// # Errors
/// When the options are wrong or the database is not there. What was committed until then stays, and obeys the rules.
pub fn run(database: &DbConfig, options: SeedOptions) -> anyhow::Result<()> {
    let seeded = serve::runtime()?.block_on(async {
        connect::migrate(database).await?;
        fill(database, options).await
    })?;
    for (table, rows) in &seeded.rows {
        println!("{table:<20} {rows:>12}");
    }
    println!(
        "{:<20} {:>12} rows in {:.1} s: {} rows/s",
        "all",
        seeded.total(),
        seeded.took.as_secs_f64(),
        seeded.per_second()
    );
    Ok(())
}

/// Fills a migrated database, and has it vacuumed and analysed as it would have been over the months.
///
/// # Errors
/// As [`run`].
pub async fn fill(database: &DbConfig, options: SeedOptions) -> anyhow::Result<Seeded> {
    let mistakes = options.mistakes();
    anyhow::ensure!(mistakes.is_empty(), "{}", mistakes.join("\n  "));
    let mut client = connect::client(database).await?;
    client.batch_execute("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0").await?;
    let until = clock::now() - ENDED;
    let began = until - TimeDelta::days(i64::from(options.days));
    // Otherwise the past would lie in the default partitions.
    for table in ["events", "webhook_inbox", "idempotency_keys"] {
        let days = i32::try_from(TimeDelta::num_days(&ENDED) + i64::from(options.days) + 1)?;
        client
            .execute("select make_partitions($1, now() - make_interval(days => $2), now())", &[&table, &days])
            .await?;
    }
    let goods = catalogue(&mut client, options, began).await?;
    let started = Instant::now();
    let mut seeded = Seeded::default();
    let (send, mut batches) = mpsc::channel(BATCHES_WAITING);
    let making = tokio::task::spawn_blocking(move || make(options, (began, until), &goods, &send));
    let mut said = Instant::now();
    while let Some(batch) = batches.recv().await {
        write(&mut client, &batch).await?;
        for table in Table::ALL {
            *seeded.rows.entry(table.name()).or_default() += batch.count(table);
        }
        seeded.took = started.elapsed();
        if said.elapsed() >= SAID_EVERY {
            let done = seeded.rows.get(Table::Orders.name()).copied().unwrap_or(0);
            eprintln!("seed: {done} of {} orders, {} rows/s", options.orders, seeded.per_second());
            said = Instant::now();
        }
    }
    making.await.context("the rows could not be made")?;
    eprintln!("seed: vacuum, analyze …");
    client.batch_execute("vacuum (analyze)").await?;
    Ok(seeded)
}

/// Makes batch after batch, as long as somebody takes them.
fn make(options: SeedOptions, (began, until): (DateTime<Utc>, DateTime<Utc>), goods: &Goods, to: &mpsc::Sender<Rows>) {
    let span = (until - began).num_milliseconds();
    let mut maker = Maker::new(goods);
    for number in 0..options.orders {
        let share = i128::from(span) * i128::from(number) / i128::from(options.orders);
        maker.order(began + TimeDelta::milliseconds(i64::try_from(share).unwrap_or(span)));
        let is_full = (number + 1) % BATCH_ORDERS == 0;
        if (is_full || number + 1 == options.orders) && to.blocking_send(maker.take()).is_err() {
            return;
        }
    }
}

/// Writes a batch, and takes its stock.
async fn write(client: &mut Client, batch: &Rows) -> anyhow::Result<()> {
    let transaction = client.transaction().await?;
    for table in Table::ALL {
        let sink = transaction.copy_in(table.statement()).await.with_context(|| table.name())?;
        let mut sink = std::pin::pin!(sink);
        sink.send(batch.text(table)).await.with_context(|| table.name())?;
        sink.finish().await.with_context(|| table.name())?;
    }
    let taken: Vec<String> = batch.sold.iter().map(|(id, units)| format!("('{id}'::uuid, {units}::bigint)")).collect();
    if !taken.is_empty() {
        let take = format!(
            "update stock set available = available - taken.units from (values {}) as taken (id, units)
             where product_id = taken.id",
            taken.join(", ")
        );
        transaction.batch_execute(&take).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// The products, each with more units than can be sold.
async fn catalogue(client: &mut Client, options: SeedOptions, at: DateTime<Utc>) -> anyhow::Result<Goods> {
    let goods = Goods::new(options.products, at);
    let units = i64::try_from(options.orders)?.saturating_mul(i64::from(order::UNITS_MAX)).saturating_add(1_000);
    let made_at = order::time(at);
    let transaction = client.transaction().await?;
    for (id, name, price) in goods.iter() {
        let adjustment = goods::id_at(at);
        // Numbers and words of our own alone.
        let rows = format!(
            "insert into products (id, name, price, currency, created_at, updated_at)
                 values ('{id}', '{name}', {price}, 'KRW', '{made_at}', '{made_at}');
             insert into stock (product_id, available) values ('{id}', {units});
             insert into stock_adjustments (id, product_id, delta, kind, reason, actor, available_after, created_at)
                 values ('{adjustment}', '{id}', {units}, 'initial', 'initial stock', 'seed', {units}, '{made_at}')"
        );
        transaction.batch_execute(&rows).await?;
    }
    transaction.commit().await?;
    // Else the checks of foreign keys go by the plan for an empty table.
    client.batch_execute("analyze products").await?;
    Ok(goods)
}
