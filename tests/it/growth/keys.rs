//! An idempotency key counts once, whatever partition it lies in: on both sides of a partition's end, days later, and where
//! nobody has made a partition.

use std::time::Duration;

use futures_util::future::join_all;
use paygauge::db::idempotency::{self, Scope};
use paygauge::db::{Db, DbError};
use paygauge::telemetry::labels::Tx;
use reqwest::StatusCode;
use serde_json::json;
use tokio::sync::oneshot;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::shop::{Shop, confirm_body, invariants_client};
use crate::support::{eventually, invariants, shop::PATIENCE};

const MINUTE: Duration = Duration::from_secs(60);
const CLAIMS: &str = "select count(*) from idempotency_keys";
const HELD: &str = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
    where l.locktype = 'advisory' and d.datname = current_database()";

/// Takes away all partitions of keys but the default one.
async fn without_partitions(client: &Client) {
    let drop = "do $$ declare child regclass; begin
        for child in select inhrelid::regclass from pg_inherits where inhparent = 'idempotency_keys'::regclass
            and inhrelid <> 'idempotency_keys_default'::regclass
        loop execute 'drop table ' || child; end loop; end $$";
    client.batch_execute(drop).await.expect("SQL");
}

/// Has a partition end in two seconds; returns when.
async fn ends_soon(client: &Client) -> String {
    without_partitions(client).await;
    let end = "select (date_trunc('milliseconds', now() at time zone 'UTC') + interval '2 s')::text";
    let end: String = client.query_one(end, &[]).await.expect("SQL").get(0);
    let cut = format!(
        "create or replace function partition_begin(parent text, at timestamp) returns timestamp language sql immutable as
            $$ select date_bin('15 days', at, '{end}') $$;
         select make_partitions('idempotency_keys', now(), now() + interval '1 minute')"
    );
    client.batch_execute(&cut).await.expect("SQL");
    end
}

/// Claims a key in a transaction that began when it was told to, and goes on until it may end; tells whether the key was free.
struct Claimant {
    claims: oneshot::Sender<()>,
    ends: oneshot::Sender<()>,
    claimed: tokio::task::JoinHandle<bool>,
}

impl Claimant {
    async fn begins(db: &Db, scope: Scope) -> Self {
        let ((claims, may_claim), (ends, may_end)) = (oneshot::channel(), oneshot::channel());
        let (began, has_begun) = oneshot::channel();
        let db = db.clone();
        let claimed = tokio::spawn(async move {
            let work = db.transaction(Tx::OrderPlace, async move |conn| {
                // A transaction begins with its first statement.
                idempotency::find(conn, &scope).await?;
                began.send(()).expect("it is waited for");
                may_claim.await.expect("it is told");
                let is_ours = idempotency::claim(conn, &scope, Uuid::now_v7(), MINUTE, MINUTE).await?;
                may_end.await.expect("it is told");
                Ok::<_, DbError>(is_ours)
            });
            work.await.expect("no error")
        });
        has_begun.await.expect("it begins");
        Self { claims, ends, claimed }
    }
}

fn scope(key: &str) -> Scope {
    Scope { owner: "somebody".to_owned(), route: "orders.place", key: key.to_owned(), fingerprint: vec![0; 32] }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_claims_at_once_on_both_sides_of_a_partitions_end_one_is_taken() {
    let shop = Shop::without_worker().await;
    let client = invariants_client(&shop.database).await;
    let db = &shop.running.app().db;
    for is_old_first in [true, false] {
        let scope = scope(&format!("old first: {is_old_first}"));
        let end = ends_soon(&client).await;
        let old = Claimant::begins(db, scope.clone()).await;
        eventually("the partition has ended", PATIENCE, async || {
            let is_over =
                format!("select count(*) from (select) now where clock_timestamp() at time zone 'UTC' > '{end}'");
            (shop.count(&is_over).await == 1).then_some(())
        })
        .await;
        let new = Claimant::begins(db, scope.clone()).await;
        let (first, second) = if is_old_first { (old, new) } else { (new, old) };
        first.claims.send(()).expect("it waits");
        eventually("the first has its lock", PATIENCE, async || (shop.count(HELD).await == 1).then_some(())).await;
        second.claims.send(()).expect("it waits");
        eventually("the other one waits for the first", PATIENCE, async || {
            let waiting = "select count(*) from pg_stat_activity
                where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory'";
            (shop.count(waiting).await == 1).then_some(())
        })
        .await;
        first.ends.send(()).expect("it waits");
        second.ends.send(()).expect("it waits");
        let taken = (first.claimed.await.expect("no panic"), second.claimed.await.expect("no panic"));
        assert_eq!(taken, (true, false));
        assert_eq!(shop.count(CLAIMS).await, 1);

        // A claim that did not wait is not taken there at all.
        let hasty = db.transaction(Tx::OrderPlace, async |conn| {
            idempotency::claim_free(conn, &self::scope("hasty"), Uuid::now_v7(), MINUTE, MINUTE).await
        });
        let refused = hasty.await.expect_err("near the end");
        assert!(matches!(&refused, DbError::Constraint(name) if name == "idempotency_keys_under_lock"), "{refused:?}");
    }
    shop.sql("delete from idempotency_keys").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_buys_while_a_partition_ends_buys_once() {
    let shop = Shop::without_worker().await;
    let client = invariants_client(&shop.database).await;
    let product = shop.product(1_000, 10_000).await;
    let end = ends_soon(&client).await;
    let is_over = format!("select count(*) from orders where created_at at time zone 'UTC' > '{end}'");
    let mut turns = 0;
    while shop.count(&is_over).await < 10 {
        turns += 1;
        let key = Uuid::new_v4().to_string();
        let lines = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
        let asked = join_all((0..4).map(|_| shop.secret.post_as("/v1/orders", &lines, &key))).await;
        // Whoever meets the first one on its way is told so.
        let placed: Vec<_> = asked.into_iter().filter(|answer| answer.status == StatusCode::CREATED).collect();
        assert!(placed.iter().all(|answer| answer.text("id") == placed[0].text("id")));
        let again = shop.secret.post_as("/v1/orders", &lines, &key).await.expect(StatusCode::CREATED);
        assert!(again.is_replayed());
    }
    let partitions = shop.count("select count(distinct tableoid) from idempotency_keys").await;
    assert_eq!((partitions, shop.count(CLAIMS).await), (2, turns));
    assert_eq!(
        (shop.count("select count(*) from orders").await, shop.available(&product).await),
        (turns, 10_000 - turns)
    );
    invariants::rules(&shop.database).await;
    shop.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_an_earlier_partition_is_not_claimed_again() {
    let shop = Shop::without_worker().await;
    let product = shop.product(1_000, 100).await;
    let lines = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let other = json!({ "lines": [{ "productId": product, "quantity": 2 }] });
    let placed = shop.secret.post_as("/v1/orders", &lines, "order").await.expect(StatusCode::CREATED);
    let unpaid = shop.secret.post_as("/v1/orders", &lines, "unpaid").await.expect(StatusCode::CREATED);
    let (id, cancel) = (unpaid.text("id"), json!({ "reason": "changed my mind" }));
    let canceled =
        shop.secret.post_as(&format!("/v1/orders/{id}/cancel"), &cancel, "cancel").await.expect(StatusCode::OK);
    let order = shop.order(&product, 1).await;
    let confirm = confirm_body(&order, &shop.pay(&order));
    let paid = order.buyer.post_as("/v1/payments/confirm", &confirm, "confirm").await.expect(StatusCode::OK);
    let claims = shop.count(CLAIMS).await;
    shop.sql(
        "select make_partitions('idempotency_keys', now() - interval '20 days', now());
         update idempotency_keys set under_lock = true, created_at = created_at - interval '15 days'",
    )
    .await;
    assert_eq!(shop.count("select count(*) from idempotency_keys_default").await, 0, "they have their partition");

    let again = shop.secret.post_as("/v1/orders", &lines, "order").await.expect(StatusCode::CREATED);
    assert!(again.is_replayed() && again.text("id") == placed.text("id"));
    let mismatch = shop.secret.post_as("/v1/orders", &other, "order").await;
    mismatch.problem(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_mismatch");
    let again = shop.secret.post_as(&format!("/v1/orders/{id}/cancel"), &cancel, "cancel").await.expect(StatusCode::OK);
    assert!(again.is_replayed() && again.raw == canceled.raw);
    let again = order.buyer.post_as("/v1/payments/confirm", &confirm, "confirm").await.expect(StatusCode::OK);
    assert!(again.is_replayed() && again.raw == paid.raw);
    assert_eq!(shop.count(CLAIMS).await, claims);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_partition_of_today_everything_is_sold_once_too() {
    let shop = Shop::without_worker().await;
    without_partitions(&invariants_client(&shop.database).await).await;
    let product = shop.product(1_000, 100).await;
    let lines = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let placed = join_all((0..8).map(|_| shop.secret.post_as("/v1/orders", &lines, "the same"))).await;
    assert!(placed.iter().any(|answer| answer.status == StatusCode::CREATED));
    let others = join_all((0..8).map(|_| shop.secret.post_with_key("/v1/orders", &lines))).await;
    assert!(others.iter().all(|answer| answer.status == StatusCode::CREATED));
    let (_, payment) = shop.paid(&product, 1).await;
    shop.cancel(&payment, &json!({ "reason": "changed my mind" })).await.expect(StatusCode::OK);
    assert_eq!((shop.count("select count(*) from orders").await, shop.available(&product).await), (10, 91));
    let lie_there = "select count(*) from idempotency_keys_default where under_lock";
    assert_eq!((shop.count(CLAIMS).await, shop.count(lie_there).await), (12, 12));
    shop.close().await;
}
