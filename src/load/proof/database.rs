//! The proof with the database at hand: every row.

use std::collections::HashMap;
use std::time::Duration;

use diesel::sql_types::{BigInt, Text};
use diesel_async::RunQueryDsl as _;
use tokio::time::Instant;

use super::{Book, Buyers, Findings, Money, agrees, book};
use crate::config::AuditSettings;
use crate::db::{Db, DbError};
use crate::domain::audit::AuditRule;
use crate::domain::order::OrderStatus;
use crate::payments::audit;

/// How often is looked whether everything is decided.
const POLL: Duration = Duration::from_millis(200);

const OPEN: &str = "select (select count(*) from payments where status in ('confirming', 'reversing'))
    + (select count(*) from cancellations where status = 'requested')
    + (select count(*) from webhook_inbox where processed_at is null) as number";

const MONEY: &str = "select 'ord_' || replace(order_id::text, '-', '') as name,
        sum(approved_amount)::bigint as first, sum(canceled_amount)::bigint as second
    from payments where approved_amount is not null group by order_id";

const STATUSES: &str = "select 'ord_' || replace(id::text, '-', '') as name, status as value from orders";

/// `moved_amount` of cancellations that are done, and what the payments say was given back.
const CANCELLATIONS: &str = "select 'cancellations' as name,
        (select coalesce(sum(moved_amount), 0)::bigint from cancellations where status = 'done') as first,
        (select coalesce(sum(canceled_amount), 0)::bigint from payments) as second";

const COUNTS: &str = "select 'rows' as name, (select count(*) from payments) as first,
        (select count(*) from cancellations where status = 'done') as second";

/// For each product what came in, and what is there: available, held and sold.
const STOCK: &str = "select s.product_id::text as product, s.available,
        (select coalesce(sum(a.delta), 0)::bigint from stock_adjustments a where a.product_id = s.product_id) as came,
        coalesce(sum(i.quantity) filter (where o.status in ('pending', 'confirming', 'awaiting_deposit')), 0)::bigint
            as held,
        coalesce(sum(i.quantity - i.canceled_quantity) filter (where o.status in ('paid', 'partially_canceled')),
            0)::bigint as sold
    from stock s left join order_items i on i.product_id = s.product_id left join orders o on o.id = i.order_id
    group by s.product_id, s.available";

#[derive(diesel::QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[derive(diesel::QueryableByName)]
struct Pair {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = BigInt)]
    first: i64,
    #[diesel(sql_type = BigInt)]
    second: i64,
}

#[derive(diesel::QueryableByName)]
struct Word {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    value: String,
}

#[derive(diesel::QueryableByName)]
struct Stock {
    #[diesel(sql_type = Text)]
    product: String,
    #[diesel(sql_type = BigInt)]
    available: i64,
    #[diesel(sql_type = BigInt)]
    came: i64,
    #[diesel(sql_type = BigInt)]
    held: i64,
    #[diesel(sql_type = BigInt)]
    sold: i64,
}

/// Compares everything.
pub(super) async fn prove(db: &Db, buyers: &Buyers, settle: Duration, findings: &mut Findings) -> anyhow::Result<()> {
    let waited = quiet(db, settle, findings).await?;
    let book = book(buyers).await?;
    money(db, &book, findings).await?;
    book.keys_had_one_body(findings);
    stock(db, findings).await?;
    told(db, buyers, findings).await?;
    audited(db, findings).await?;
    findings.saw(format!("everything was decided after {:.1} s", waited.as_secs_f64()));
    Ok(())
}

async fn quiet(db: &Db, settle: Duration, findings: &mut Findings) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    loop {
        let open: Vec<Number> = rows(db, OPEN).await?;
        let open: i64 = open.iter().map(|row| row.number).sum();
        if open == 0 {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() >= settle {
            findings.differs(format!("{open} outcomes are still not certain after {} s", settle.as_secs()));
            return Ok(begun.elapsed());
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn money(db: &Db, book: &Book, findings: &mut Findings) -> anyhow::Result<()> {
    let rows_of_money: Vec<Pair> = rows(db, MONEY).await?;
    let ours: HashMap<&str, Money> = rows_of_money
        .iter()
        .map(|row| (row.name.as_str(), Money { taken: row.first, given_back: row.second }))
        .collect();
    let theirs = book.by_order();
    let mut sum = Money::default();
    for (order, money) in &ours {
        sum.add(money.taken, money.given_back);
        let other = theirs.get(order).copied().unwrap_or_default();
        findings.must(other == *money, || {
            format!(
                "{order}: our rows took {} and gave back {}, the PG took {} and gave back {}",
                money.taken, money.given_back, other.taken, other.given_back
            )
        });
    }
    for (order, money) in theirs.iter().filter(|(order, _)| !ours.contains_key(**order)) {
        findings.differs(format!("{order}: the PG took {} of which our rows know nothing", money.taken));
    }
    let cancellations: Vec<Pair> = rows(db, CANCELLATIONS).await?;
    for row in &cancellations {
        findings.must(row.first == row.second, || {
            format!("the cancellations moved {}, the payments gave back {}", row.first, row.second)
        });
    }
    let counts: Vec<Pair> = rows(db, COUNTS).await?;
    for row in &counts {
        findings.saw(format!(
            "{} payments and {} cancellations, {} won taken and {} given back in our rows and in the PG's book, the same \
             for each of {} orders",
            row.first,
            row.second,
            sum.taken,
            sum.given_back,
            ours.len()
        ));
    }
    Ok(())
}

async fn stock(db: &Db, findings: &mut Findings) -> anyhow::Result<()> {
    let products: Vec<Stock> = rows(db, STOCK).await?;
    let (mut came, mut available, mut held, mut sold) = (0, 0, 0, 0);
    for product in &products {
        came += product.came;
        available += product.available;
        held += product.held;
        sold += product.sold;
        findings.must(product.came == product.available + product.held + product.sold, || {
            let Stock { product, came, available, held, sold } = product;
            format!("product {product}: {came} units came, but {available} available + {held} held + {sold} sold")
        });
    }
    findings.saw(format!(
        "stock of {} products: {came} came = {available} available + {held} held + {sold} sold",
        products.len()
    ));
    Ok(())
}

async fn told(db: &Db, buyers: &Buyers, findings: &mut Findings) -> anyhow::Result<()> {
    let statuses: Vec<Word> = rows(db, STATUSES).await?;
    let statuses: HashMap<&str, &str> = statuses.iter().map(|row| (row.name.as_str(), row.value.as_str())).collect();
    let all = buyers.ledger.told();
    for told in &all {
        let status = statuses.get(told.order.as_str()).copied();
        let is_so = status.and_then(OrderStatus::parse).is_some_and(|status| agrees(told, status));
        findings.must(is_so, || {
            format!("{}: a buyer was told {:?}, but it is {}", told.order, told.state, status.unwrap_or("not there"))
        });
    }
    findings.saw(format!("what buyers were told of {} orders is so", all.len()));
    Ok(())
}

async fn audited(db: &Db, findings: &mut Findings) -> anyhow::Result<()> {
    let report = audit::audit(db, &AuditSettings::default(), AuditRule::ALL).await?;
    for found in report.rules.iter().filter(|found| found.broken > 0) {
        findings.differs(format!("audit: {} rows break {}: {}", found.broken, found.rule, found.ids.join(" ")));
    }
    let judged: i64 = report.rules.iter().map(|found| found.rows_checked).sum();
    findings.saw(format!("the audit's {} rules found nothing in {judged} rows", report.rules.len()));
    Ok(())
}

async fn rows<T>(db: &Db, query: &'static str) -> anyhow::Result<Vec<T>>
where
    T: diesel::deserialize::QueryableByName<diesel::pg::Pg> + Send + 'static,
{
    Ok(db.read(async |conn| diesel::sql_query(query).load(conn).await.map_err(DbError::from)).await?)
}
