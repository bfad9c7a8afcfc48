//! What must be true whenever nothing is in flight: our rows, the stock and the PG's book agree.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::Client;

use super::eventually;
use super::shop::{Shop, invariants_client};

/// Rules over our own rows: each query lists what breaks the rule.
const RULES: &[(&str, &str)] = &[
    (
        "stock is conserved: adjustments = available + held + sold and not given back",
        "select p.id::text from products p
         join stock s on s.product_id = p.id
         where (select coalesce(sum(delta), 0) from stock_adjustments a where a.product_id = p.id) <>
             s.available + (
                 select coalesce(sum(i.quantity - case when o.status in ('paid', 'partially_canceled')
                                                  then i.canceled_quantity else 0 end), 0)
                 from order_items i join orders o on o.id = i.order_id
                 where i.product_id = p.id
                   and o.status in ('pending', 'confirming', 'awaiting_deposit', 'paid', 'partially_canceled'))",
    ),
    (
        "history has no gaps: seq runs from 1 to the row's version",
        "select a.id::text from (
             select 'order' as aggregate, id, version from orders
             union all select 'payment', id, version from payments
             union all select 'cancellation', id, version from cancellations) a
         left join lateral (
             select count(*) as n, min(seq) as lo, max(seq) as hi from events e
             where e.aggregate = a.aggregate and e.aggregate_id = a.id) e on true
         where e.n <> a.version or e.lo <> 1 or e.hi <> a.version",
    ),
    (
        "the newest event tells the row's status",
        "select a.id::text from (
             select 'order' as aggregate, id, version, status from orders
             union all select 'payment', id, version, status from payments
             union all select 'cancellation', id, version, status from cancellations) a
         join events e on e.aggregate = a.aggregate and e.aggregate_id = a.id and e.seq = a.version
         where e.to_status <> a.status",
    ),
    (
        "each event starts where the one before ended",
        "select e.aggregate_id::text from events e
         join events b on b.aggregate = e.aggregate and b.aggregate_id = e.aggregate_id and b.seq = e.seq - 1
         where e.from_status is distinct from b.to_status",
    ),
    (
        "an order is paid exactly when it has a live payment with its money",
        "select o.id::text from orders o
         where (o.status in ('paid', 'partially_canceled')) <>
             exists (select 1 from payments p where p.order_id = o.id and p.status in ('approved', 'partially_canceled'))
            or (o.status = 'confirming') <>
             exists (select 1 from payments p where p.order_id = o.id and p.status = 'confirming')
            or (o.status = 'awaiting_deposit') <>
             exists (select 1 from payments p where p.order_id = o.id and p.status = 'awaiting_deposit')",
    ),
    (
        "what was canceled of a payment is the sum of its cancellations",
        "select p.id::text from payments p
         where p.canceled_amount <> (select coalesce(sum(moved_amount), 0) from cancellations c
                                     where c.payment_id = p.id and c.status = 'done')
            or p.canceling_amount <> (select coalesce(sum(amount), 0) from cancellations c
                                      where c.payment_id = p.id and c.status = 'requested')",
    ),
    (
        "what was canceled of a line is the sum of its cancellations' units",
        "select i.order_id::text from order_items i
         where i.canceled_quantity <> (select coalesce(sum(u.quantity), 0) from cancellation_items u
                 join cancellations c on c.id = u.cancellation_id
                 where u.order_id = i.order_id and u.line = i.line and c.status = 'done')
            or i.canceling_quantity <> (select coalesce(sum(u.quantity), 0) from cancellation_items u
                 join cancellations c on c.id = u.cancellation_id
                 where u.order_id = i.order_id and u.line = i.line and c.status = 'requested')",
    ),
    (
        "a payment is fully canceled exactly when nothing is left",
        "select id::text from payments where approved_amount is not null and status <> 'reversing'
         and (status = 'canceled') <> (canceled_amount = approved_amount)",
    ),
    (
        "an order's amount is the sum of its lines",
        "select o.id::text from orders o
         where o.amount <> (select sum(quantity * unit_price) from order_items i where i.order_id = o.id)",
    ),
    (
        "an answered key has a decided resource",
        "select k.key from idempotency_keys k
         join payments p on p.id = k.resource_id
         where k.status = 'done' and p.status in ('confirming', 'ready')",
    ),
];

/// Waits until nothing is in flight, then checks every rule and the PG's book.
pub async fn hold(shop: &Shop) {
    let client = invariants_client(&shop.database).await;
    if shop.has_worker {
        quiet(&client).await;
    }
    rules(&client).await;
    let book = shop.mock.book();
    let mut theirs = BTreeMap::new();
    for payment in &book.payments {
        *theirs.entry(payment.order_id.clone()).or_default() += kept(payment.approved, payment.canceled);
    }
    books_agree(&client, &theirs).await;
    for (key, used) in &book.calls.idempotency_keys {
        assert!(used.body_hashes.len() <= 1, "the PG key {key} was used with two bodies");
    }
}

/// What the PG still has of the buyer's money. An account that was closed before its deposit lists a cancel of money
/// that never came.
pub fn kept(approved: i64, canceled: i64) -> i64 {
    if approved == 0 { 0 } else { approved - canceled }
}

/// Checks every rule over our own rows.
pub async fn rules(client: &Client) {
    for (rule, query) in RULES {
        let broken: Vec<String> = client.query(*query, &[]).await.expect(rule).iter().map(|row| row.get(0)).collect();
        assert!(broken.is_empty(), "broken: {rule}: {broken:?}");
    }
}

/// How long recovery may take after a crash: an intent belongs to its request until the PG call's deadline is over.
const QUIET: Duration = Duration::from_secs(90);

/// Counts the outcomes that are not certain.
pub const OPEN: &str = "select (select count(*) from payments where status in ('confirming', 'reversing'))
    + (select count(*) from cancellations where status = 'requested')
    + (select count(*) from webhook_inbox where processed_at is null)";

/// Waits until no outcome is open.
pub async fn quiet(client: &Client) {
    eventually("every outcome is certain", QUIET, async || {
        let count: i64 = client.query_one(OPEN, &[]).await.expect("a count").get(0);
        (count == 0).then_some(())
    })
    .await;
}

/// For every order: what the PG still has of the buyer's money is what our books say. `theirs` is by order.
pub async fn books_agree(client: &Client, theirs: &BTreeMap<String, i64>) {
    let name = |row: &tokio_postgres::Row| format!("ord_{}", row.get::<_, String>(0));
    let taken = "select replace(order_id::text, '-', ''), sum(case when approved_amount is null then 0
                    else approved_amount - canceled_amount end)::bigint from payments
                where status <> 'confirming' group by order_id";
    let rows = client.query(taken, &[]).await.expect("our books");
    let ours: BTreeMap<String, i64> = rows.iter().map(|row| (name(row), row.get(1))).collect();
    let open = "select replace(order_id::text, '-', '') from payments where status = 'confirming'
                union select replace(order_id::text, '-', '') from cancellations where status = 'requested'";
    let open: Vec<String> = client.query(open, &[]).await.expect("open").iter().map(name).collect();
    for (order, net) in theirs {
        if !open.contains(order) {
            assert_eq!(ours.get(order).copied().unwrap_or(0), *net, "the PG's book and ours differ on {order}");
        }
    }
    for (order, net) in &ours {
        if !open.contains(order) {
            assert_eq!(theirs.get(order).copied().unwrap_or(0), *net, "we book money on {order} that the PG has not");
        }
    }
}
