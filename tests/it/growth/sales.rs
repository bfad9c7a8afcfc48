//! Sales totals are what a scan over the books says, whatever happened to the orders and whoever died while counting.

use std::collections::BTreeMap;
use std::time::Duration;

use paygauge::payments::sales;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{seeded, still};
use crate::support::shop::{PATIENCE, Shop, ShopOptions, invariants_client, settings};
use crate::support::{eventually, invariants};

/// What an order still keeps, by product: units that were paid and not given back.
const UNITS_KEPT: &str = "select i.product_id::text, sum(i.quantity - i.canceled_quantity)::bigint
    from orders o join order_items i on i.order_id = o.id
    where o.status in ('paid', 'partially_canceled') group by i.product_id";
const UNITS_COUNTED: &str = "select product_id::text, sum(sold_units - canceled_units)::bigint from sales
    group by product_id having sum(sold_units - canceled_units) <> 0";

/// The same of money, by currency.
const MONEY_KEPT: &str = "select o.currency, sum(p.approved_amount - p.canceled_amount)::bigint
    from orders o join payments p on p.order_id = o.id and p.status in ('approved', 'partially_canceled')
    where o.status in ('paid', 'partially_canceled') group by o.currency";
const MONEY_COUNTED: &str = "select currency, sum(sold_amount - canceled_amount)::bigint from sales group by currency";

/// Money that came, by day; and money that went back of what orders had.
const SOLD_BY_DAY: &str = "select (e.occurred_at at time zone 'UTC')::date::text, sum(o.amount)::bigint
    from events e join orders o on o.id = e.order_id where e.kind = 'OrderPaid' group by 1";
const SOLD_COUNTED: &str =
    "select day::text, sum(sold_amount)::bigint from sales group by 1 having sum(sold_amount) <> 0";
const BACK_BY_DAY: &str = "select day, sum(amount)::bigint from (
        select (e.occurred_at at time zone 'UTC')::date::text as day, c.moved_amount as amount
        from events e join cancellations c on c.id = e.aggregate_id
        where e.kind = 'CancellationDone' and c.origin <> 'compensation'
        union all
        select (e.occurred_at at time zone 'UTC')::date::text, o.amount
        from events e join orders o on o.id = e.order_id where e.kind = 'OrderDepositReversed') back
    group by day having sum(amount) <> 0";
const BACK_COUNTED: &str =
    "select day::text, sum(canceled_amount)::bigint from sales group by 1 having sum(canceled_amount) <> 0";

async fn table(shop: &Shop, query: &str) -> BTreeMap<String, i64> {
    let rows = invariants_client(&shop.database).await.query(query, &[]).await.expect("SQL");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn agree(shop: &Shop) {
    for (scanned, counted) in [
        (UNITS_KEPT, UNITS_COUNTED),
        (MONEY_KEPT, MONEY_COUNTED),
        (SOLD_BY_DAY, SOLD_COUNTED),
        (BACK_BY_DAY, BACK_COUNTED),
    ] {
        let (scanned, counted) = (table(shop, scanned).await, table(shop, counted).await);
        assert!(!scanned.is_empty());
        assert_eq!(scanned, counted);
    }
}

async fn count(shop: &Shop) -> usize {
    sales::count(&shop.running.app().db, &CancellationToken::new()).await.expect("a round")
}

/// Counts until nothing is left. It may take a while: what is under way anywhere in the cluster is waited for.
async fn all(shop: &Shop) {
    let left = "select (select coalesce(max(id), 0) from events) - event_id from sales_progress";
    eventually("everything is counted", PATIENCE, async || {
        count(shop).await;
        (shop.count(left).await == 0).then_some(())
    })
    .await;
}

/// Everything that can happen to sold money and units.
async fn live(shop: &Shop) {
    let product = shop.product(1_200, 1_000).await;
    let other = shop.product(700, 1_000).await;
    let cancel = async |payment: &str, body: Value| {
        shop.cancel(payment, &body).await.expect(StatusCode::OK);
    };
    let order = shop.order_of(&[(&product, 3), (&other, 2)]).await;
    let paid = shop.confirm(&order, &shop.pay(&order)).await.expect(StatusCode::OK).text("id");
    cancel(&paid, json!({ "reason": "a unit", "lines": [{ "line": 1, "quantity": 1 }] })).await;
    cancel(&paid, json!({ "reason": "some money", "amount": 900 })).await;
    let (_, paid) = shop.paid(&product, 2).await;
    cancel(&paid, json!({ "reason": "some money", "amount": 500 })).await;
    cancel(&paid, json!({ "reason": "the rest, and all units" })).await;
    let (_, paid) = shop.paid(&other, 4).await;
    cancel(&paid, json!({ "reason": "all" })).await;
    shop.paid(&other, 5).await;
    // A deposit that comes, goes, and comes again.
    let (order, key, _) = shop.awaiting_deposit(&product).await;
    shop.mock.deposit(&key);
    shop.order_becomes(&order.id, "paid").await;
    shop.mock.reverse_deposit(&key);
    shop.order_becomes(&order.id, "awaiting_deposit").await;
    shop.mock.deposit(&key);
    shop.order_becomes(&order.id, "paid").await;
    // An account that is closed before anything came.
    let (_, _, closed) = shop.awaiting_deposit(&product).await;
    cancel(&closed, json!({ "reason": "no more" })).await;
    // What is canceled in the PG's console, a part and all of it.
    for amount in [400, 2_400] {
        let (order, payment) = shop.paid(&product, 2).await;
        shop.mock.cancel_in_console(&shop.payment_key(&order.id), amount);
        shop.secret.post(&format!("/v1/payments/{payment}/inquire"), &json!({})).await.expect(StatusCode::OK);
        shop.order_becomes(&order.id, if amount == 400 { "partially_canceled" } else { "canceled" }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_are_what_a_scan_says_also_if_counting_is_cut_off_anywhere() {
    let database = seeded(3_000, 12, 60).await;
    let shop = Shop::on(database, ShopOptions::default()).await;
    let app = shop.running.app();
    // The worker counts too, and each of these may die at any statement.
    let doomed = async {
        for micros in (0..60).map(|round| 300 + round * 700) {
            let never = CancellationToken::new();
            let cut = tokio::time::timeout(Duration::from_micros(micros), sales::count(&app.db, &never)).await;
            if let Ok(ended) = cut {
                ended.expect("a round");
            }
        }
    };
    tokio::join!(doomed, live(&shop));
    let database = shop.database.clone();
    shop.running.stop().await;
    invariants::rules(&database).await;
    let shop = still(database, settings()).await;
    all(&shop).await;
    agree(&shop).await;
    assert_eq!(count(&shop).await, 0);
    agree(&shop).await;

    // And they are what is told.
    let (mut told, mut rows, mut after) = (0, 0, String::new());
    loop {
        let today = chrono::Utc::now().date_naive();
        let from = today - chrono::TimeDelta::days(100);
        let path = format!("/v1/sales?from={from}&to={today}&limit=100{after}");
        let page = shop.secret.get(&path).await.expect(StatusCode::OK);
        assert!(page.body["countedUntil"].is_string(), "{}", page.raw);
        for row in page.body["items"].as_array().expect("items") {
            told += row["soldAmount"].as_i64().expect("a sum") - row["canceledAmount"].as_i64().expect("a sum");
            rows += 1;
        }
        let Some(next) = page.body["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(told, table(&shop, MONEY_KEPT).await["KRW"]);
    assert_eq!(rows, shop.count("select count(*) from sales").await);
    shop.running.stop().await;
}

/// Numbers of events are given out before their transactions commit.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_commits_late_is_counted_too_and_once() {
    let shop = still(crate::support::database::fresh().await, settings()).await;
    let product = shop.product(1_000, 100).await;
    let (first, _) = shop.paid(&product, 1).await;
    all(&shop).await;
    let sold = async || shop.count("select coalesce(sum(sold_units), 0)::bigint from sales").await;
    assert_eq!(sold().await, 1);
    let late = invariants_client(&shop.database).await;
    let order = first.id.trim_start_matches("ord_");
    late.batch_execute(&format!(
        "begin;
         insert into stock_adjustments (id, product_id, delta, kind, reason, actor, available_after)
             select gen_random_uuid(), id, 1, 'restock', 'takes a number', 'test', 1 from products limit 1;
         insert into events (aggregate, aggregate_id, seq, order_id, kind, from_status, to_status, actor)
             values ('order', '{order}', 99, '{order}', 'OrderPaid', 'confirming', 'paid', 'test')"
    ))
    .await
    .expect("SQL");
    shop.paid(&product, 2).await;
    for _ in 0..3 {
        count(&shop).await;
    }
    assert_eq!(sold().await, 1, "nothing beyond what may still come is counted");
    late.batch_execute("commit").await.expect("SQL");
    all(&shop).await;
    assert_eq!(sold().await, 1 + 1 + 2, "both are, once the first has ended");
    all(&shop).await;
    assert_eq!(sold().await, 4);
    shop.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_day_is_refused_and_any_two_days_are_a_span() {
    let shop = still(crate::support::database::fresh().await, settings()).await;
    let list = async |query: &str| shop.secret.get(&format!("/v1/sales{query}")).await;
    for (query, parameter) in [
        ("", "from"),
        ("?from=2026-11-01", "to"),
        ("?from=2026-02-30&to=2026-11-01", "from"),
        ("?from=2026-11-01&to=2026-11-01&after=x", "after"),
        ("?from=2026-11-01&to=2026-11-01&limit=0", "limit"),
    ] {
        let refused = list(query).await;
        assert_eq!(
            (refused.status, refused.text("parameter")),
            (StatusCode::BAD_REQUEST, parameter.to_owned()),
            "{query}"
        );
    }
    for empty in ["?from=2026-11-01&to=2026-11-01", "?from=2026-11-02&to=2026-11-01", "?from=0001-01-01&to=9999-12-31"]
    {
        let empty = list(empty).await.expect(StatusCode::OK);
        assert_eq!(empty.body, json!({ "items": [], "next": null, "countedUntil": null }));
    }
    let buyer = shop.publishable.get("/v1/sales?from=2026-11-01&to=2026-11-01").await;
    assert_eq!(buyer.status, StatusCode::FORBIDDEN);
    shop.running.stop().await;
}
