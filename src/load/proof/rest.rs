//! The proof without a database: what REST shows of the orders and the products of this run, against the PG's book.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::Value;
use tokio::time::Instant;

use super::{Buyers, Findings, Money, agrees, book};
use crate::domain::order::OrderStatus;
use crate::load::buyer::Told;

/// Orders that are looked at; of more, so many evenly spread.
const ORDERS_MAX: usize = 5_000;
/// Requests at a time.
const AT_ONCE: usize = 8;
/// How often an undecided order is looked at.
const POLL: Duration = Duration::from_millis(500);

/// An order as REST shows it.
struct Seen {
    told: Told,
    status: Option<OrderStatus>,
    money: Money,
}

/// Compares what can be seen.
pub(super) async fn prove(buyers: &Buyers, settle: Duration, findings: &mut Findings) -> anyhow::Result<()> {
    let all = buyers.ledger.told();
    let every = all.len().div_ceil(ORDERS_MAX).max(1);
    let chosen: Vec<Told> = all.iter().step_by(every).cloned().collect();
    let begun = Instant::now();
    let looks = chosen.into_iter().map(|told| see(buyers, told, begun + settle));
    let seen: Vec<anyhow::Result<Seen>> = stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
    let seen = seen.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let book = book(buyers).await?;
    let theirs = book.by_order();
    let mut sum = Money::default();
    for order in &seen {
        let Seen { told, status, money } = order;
        sum.add(money.taken, money.given_back);
        let other = theirs.get(told.order.as_str()).copied().unwrap_or_default();
        findings.must(other == *money, || format!("{}: REST shows {money:?}, the PG's book {other:?}", told.order));
        findings.must(status.is_some_and(|status| agrees(told, status)), || {
            format!("{}: a buyer was told {:?}, but it is {status:?}", told.order, told.state)
        });
    }
    book.keys_had_one_body(findings);
    findings.saw(format!(
        "without the database, over REST: {} of {} orders of this run, {} won taken and {} given back there and in the \
         PG's book, and as buyers were told",
        seen.len(),
        all.len(),
        sum.taken,
        sum.given_back
    ));
    let unanswered = buyers.ledger.unanswered_orders();
    if every > 1 || unanswered > 0 {
        findings.saw("the stock is NOT proven: not every order was looked at or answered".to_owned());
        return Ok(());
    }
    stock(buyers, &seen, findings).await
}

async fn see(buyers: &Buyers, told: Told, until: Instant) -> anyhow::Result<Seen> {
    loop {
        let order = buyers.api.json(&format!("/v1/orders/{}", told.order)).await?;
        let status = order.get("status").and_then(Value::as_str).and_then(OrderStatus::parse);
        if status == Some(OrderStatus::Confirming) && Instant::now() < until {
            tokio::time::sleep(POLL).await;
            continue;
        }
        let mut money = Money::default();
        if let Some(payment) = order.get("paymentId").and_then(Value::as_str) {
            let payment = buyers.api.json(&format!("/v1/payments/{payment}")).await?;
            let number = |name: &str| payment.get(name).and_then(Value::as_i64).unwrap_or(0);
            if number("approvedAmount") != 0 {
                money.add(number("approvedAmount"), number("canceledAmount"));
            }
        }
        return Ok(Seen { told, status, money });
    }
}

/// The products are this run's own, so what is missing of their stock is held or sold by its orders.
async fn stock(buyers: &Buyers, seen: &[Seen], findings: &mut Findings) -> anyhow::Result<()> {
    let mut gone: HashMap<&str, i64> = HashMap::new();
    for order in seen {
        let keeps = match order.status {
            Some(OrderStatus::Canceled | OrderStatus::Expired) | None => 0,
            Some(
                OrderStatus::Pending
                | OrderStatus::Confirming
                | OrderStatus::AwaitingDeposit
                | OrderStatus::Paid
                | OrderStatus::PartiallyCanceled,
            ) => 1,
        };
        *gone.entry(&order.told.product).or_default() += keeps;
    }
    for product in &buyers.products {
        let view = buyers.api.json(&format!("/v1/products/{product}")).await?;
        let available = view.get("available").and_then(Value::as_i64).unwrap_or(-1);
        let gone = gone.get(product.as_str()).copied().unwrap_or(0);
        findings.must(available + gone == i64::from(buyers.stock), || {
            format!("{product}: {} units came, but {available} available + {gone} held or sold", buyers.stock)
        });
    }
    findings.saw(format!("stock of {} products agrees with its orders", buyers.products.len()));
    Ok(())
}
