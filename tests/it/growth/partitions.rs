//! Tables in partitions by time: a key and a delivery count once whatever partition they lie in, and partitions come and go
//! while the shop sells.

use std::time::Duration;

use paygauge::config::AuditSettings;
use paygauge::domain::audit::AuditRule;
use paygauge::worker::housekeeping;
use reqwest::StatusCode;
use serde_json::json;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use super::{seeded, still};
use crate::support::invariants::audited;
use crate::support::shop::{PATIENCE, Shop, http, invariants_client, settings};
use crate::support::{eventually, invariants};

const CLAIM: &str = "insert into idempotency_keys (owner, route, key, fingerprint, status, resource_id, lease_until, created_at,
    expires_at) values ('somebody', 'orders.place', 'one', '', 'in_progress', gen_random_uuid(), now(), $1::text::timestamptz, now())";

async fn sweep(shop: &Shop) -> usize {
    housekeeping::sweep(shop.running.app(), &CancellationToken::new()).await.expect("a sweep")
}

/// The partitions of a table by name, without the default one.
async fn partitions(client: &Client, table: &str) -> Vec<String> {
    let names = "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = $1::text::regclass and c.relname !~ '_default$' order by 1";
    client.query(names, &[&table]).await.expect("SQL").iter().map(|row| row.get(0)).collect()
}

async fn count(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.expect("SQL").get(0)
}

/// A moment of last week and one of this week, so that rows of them lie in different partitions.
async fn weeks(client: &Client) -> [String; 2] {
    let moments = client.query_one("select (now() - interval '7 days')::text, now()::text", &[]).await.expect("SQL");
    [moments.get(0), moments.get(1)]
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_claims_at_once_on_both_sides_of_a_weeks_end_one_is_refused() {
    let shop = Shop::without_worker().await;
    let (one, other) = (invariants_client(&shop.database).await, invariants_client(&shop.database).await);
    shop.sql("select make_partitions('idempotency_keys', now() - interval '7 days', now())").await;
    let weeks = weeks(&one).await;
    for (end, first, second) in [("commit", 0, 1), ("commit", 1, 0), ("rollback", 0, 1)] {
        one.batch_execute("begin").await.expect("SQL");
        one.execute(CLAIM, &[&weeks[first]]).await.expect("the first");
        let waits = async {
            eventually("the other one waits for the first", PATIENCE, async || {
                let waiting = "select count(*) from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory'";
                (shop.count(waiting).await == 1).then_some(())
            })
            .await;
            one.batch_execute(end).await.expect("SQL");
        };
        let claims = async { other.execute(CLAIM, &[&weeks[second]]).await };
        let (claimed, ()) = tokio::join!(claims, waits);
        if end == "commit" {
            let refused = claimed.expect_err("the key is taken");
            let refused = refused.as_db_error().expect("by the database");
            assert_eq!(refused.code(), &SqlState::UNIQUE_VIOLATION);
            assert_eq!(refused.constraint(), Some("idempotency_keys_once"));
        } else {
            claimed.expect("nobody has it");
        }
        assert_eq!(shop.count("select count(*) from idempotency_keys").await, 1);
        shop.sql("delete from idempotency_keys").await;
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_an_earlier_week_is_answered_as_it_was_and_refused_for_something_else() {
    let shop = Shop::without_worker().await;
    shop.sql("select make_partitions('idempotency_keys', now() - interval '14 days', now())").await;
    let product = shop.product(1_000, 10).await;
    let place = |quantity: u32| json!({ "lines": [{ "productId": product, "quantity": quantity }] });
    let first = shop.secret.post_as("/v1/orders", &place(1), "monday").await.expect(StatusCode::CREATED);
    let before = shop
        .count("select count(distinct tableoid) from idempotency_keys where created_at > now() - interval '1 day'")
        .await;
    assert_eq!(before, 1);
    shop.sql("update idempotency_keys set created_at = created_at - interval '8 days'").await;

    let again = shop.secret.post_as("/v1/orders", &place(1), "monday").await.expect(StatusCode::CREATED);
    assert_eq!(again.text("id"), first.text("id"));
    let other = shop.secret.post_as("/v1/orders", &place(2), "monday").await;
    other.problem(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_mismatch");
    // Also if everybody asks at once.
    let at_once = futures_util::future::join_all((0..8).map(|_| {
        let (secret, body) = (&shop.secret, place(1));
        async move { secret.post_as("/v1/orders", &body, "monday").await.expect(StatusCode::CREATED).text("id") }
    }));
    assert!(at_once.await.iter().all(|id| *id == first.text("id")));
    assert_eq!(shop.count("select count(*) from orders").await, 1);
    assert_eq!(shop.available(&product).await, 9);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_of_an_earlier_week_is_not_stored_again() {
    let shop = Shop::without_worker().await;
    let inbox = format!("{}/v1/webhooks/toss", shop.base);
    let deliver = async || http().post(&inbox).body("{\"one\":1}").send().await.expect("an answer").status();
    assert_eq!(deliver().await, StatusCode::OK);
    shop.sql(
        "select make_partitions('webhook_inbox', now() - interval '14 days', now());
         update webhook_inbox set id = id_at(now() - interval '8 days')",
    )
    .await;
    assert_eq!(deliver().await, StatusCode::OK);
    assert_eq!(shop.count("select count(*) from webhook_inbox").await, 1);
    assert_eq!(shop.count("select count(*) from only webhook_inbox_default").await, 0, "it has its week");
    shop.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_served_its_time_goes_as_a_whole_and_nothing_else_does() {
    let shop = still(seeded(3_000, 20, 50).await, settings()).await;
    let client = invariants_client(&shop.database).await;
    let young = "select (select count(*) from idempotency_keys where expires_at > now())
        + (select count(*) from webhook_inbox where received_at > now() - interval '30 days')";
    let old = "select (select count(*) from idempotency_keys where expires_at < now() - interval '7 days')
        + (select count(*) from webhook_inbox where received_at < now() - interval '37 days')";
    let (kept, over) = (count(&client, young).await, count(&client, old).await);
    assert!(kept > 500 && over > 500, "{kept} and {over}");
    let weeks = partitions(&client, "idempotency_keys").await;
    // What is still open holds its week.
    let open = format!(
        "update {} set status = 'in_progress', response_status = null, response_body = null
        where key = (select min(key) from {0})",
        weeks[1]
    );
    client.batch_execute(&open).await.expect("SQL");

    // Whoever has it in hand is waited for, but not long, and the rest is not left for that.
    let holder = invariants_client(&shop.database).await;
    holder.batch_execute(&format!("begin; select from {} limit 1 for update", weeks[0])).await.expect("SQL");
    let never = CancellationToken::new();
    let held = tokio::time::timeout(Duration::from_secs(20), housekeeping::sweep(shop.running.app(), &never));
    held.await.expect("no long wait").expect_err("it is in use");
    assert!(partitions(&client, "idempotency_keys").await.contains(&weeks[0]));
    holder.batch_execute("rollback").await.expect("SQL");

    sweep(&shop).await;
    assert_eq!(
        (count(&client, young).await, count(&client, old).await),
        (kept, count(&client, &format!("select count(*) from {}", weeks[1])).await)
    );
    let left = partitions(&client, "idempotency_keys").await;
    assert!(left.contains(&weeks[1]) && !left.contains(&weeks[0]), "{left:?}");
    client
        .batch_execute(&format!(
            "update {} set status = 'done', response_status = 200, response_body = '' where status <> 'done'",
            weeks[1]
        ))
        .await
        .expect("SQL");
    assert_eq!((sweep(&shop).await, sweep(&shop).await), (1, 0));
    assert_eq!((count(&client, young).await, count(&client, old).await), (kept, 0));
    assert!(partitions(&client, "events").await.len() > 2, "the history stays");

    // Rows of no week go one by one.
    let strays = "insert into idempotency_keys (owner, route, key, fingerprint, status, resource_id, lease_until, created_at, expires_at,
            response_status, response_body)
        select 'o', 'r', n::text, '', 'done', gen_random_uuid(), now(), now() - interval '3 years', now() - interval '1 day', 200, ''
        from generate_series(1, 2500) n";
    client.batch_execute(strays).await.expect("SQL");
    assert_eq!((sweep(&shop).await, sweep(&shop).await), (2_500, 0));
    assert_eq!(count(&client, young).await, kept);
    invariants::rules(&shop.database).await;
    shop.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_come_and_go_while_the_shop_sells_and_nobody_notices() {
    let shop = still(seeded(300, 10, 200).await, settings()).await;
    let client = invariants_client(&shop.database).await;
    let before = partitions(&client, "idempotency_keys").await.len();
    let product = shop.product(1_000, 1_000).await;
    let buyers = futures_util::future::join_all((0..6).map(|_| async {
        for _ in 0..6 {
            let (_, payment) = shop.paid(&product, 1).await;
            shop.cancel(&payment, &json!({ "reason": "changed my mind" })).await.expect(StatusCode::OK);
        }
    }));
    let clerk = async {
        let mut refused = 0;
        for ahead in (0..60).map(|round| round.min(12)) {
            for table in ["events", "idempotency_keys", "webhook_inbox"] {
                let make = format!("select make_partitions('{table}', now(), now() + interval '{} days')", 10 * ahead);
                client.batch_execute(&make).await.expect("made");
            }
            // Not taken away when somebody is in the way; then the next time.
            let gone = "begin; set local lock_timeout = 100; select drop_partition('idempotency_keys', now() - interval '15 days'); commit";
            if client.batch_execute(gone).await.is_err() {
                refused += 1;
                client.batch_execute("rollback").await.expect("SQL");
            }
        }
        assert!(refused < 30, "it waits for each that is in the way: {refused}");
    };
    tokio::join!(buyers, clerk);
    let after = partitions(&client, "idempotency_keys").await;
    assert!(before > 25 && after.len() < before, "{before}, {after:?}");
    assert_eq!(
        shop.count("select count(*) from orders where status = 'canceled' and created_at > now() - interval '1 hour'")
            .await,
        36
    );
    for table in ["events", "idempotency_keys", "webhook_inbox"] {
        assert_eq!(shop.count(&format!("select count(*) from {table}_default")).await, 0, "{table}");
    }
    invariants::rules(&shop.database).await;
    shop.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_make_the_same_partitions_once_and_a_span_that_came_too_late_is_left_where_it_is() {
    let shop = Shop::without_worker().await;
    let (one, other) = (invariants_client(&shop.database).await, invariants_client(&shop.database).await);
    let make = "select make_partitions('events', now(), now() + interval '200 days')";
    let (a, b) = tokio::join!(one.query_one(make, &[]), other.query_one(make, &[]));
    let made = [a, b].map(|row| row.expect("no quarrel").get::<_, i32>(0));
    assert!(made.contains(&0) && made.iter().any(|made| *made >= 5), "{made:?}");

    shop.sql(&CLAIM.replace("$1::text::timestamptz", "now() + interval '60 days'")).await;
    let make = "select make_partitions('idempotency_keys', now(), now() + interval '80 days')";
    let made: i32 = one.query_one(make, &[]).await.expect("all others").get(0);
    let weeks = partitions(&one, "idempotency_keys").await;
    assert!(made >= 8, "{made}");
    assert_eq!(shop.count("select count(*) from idempotency_keys_default").await, 1, "nothing is lost");
    let spans = "select count(*) from generate_series(date_trunc('week', now()), now() + interval '80 days', interval '7 days')";
    assert_eq!(i64::try_from(weeks.len()).expect("few"), shop.count(spans).await - 1, "{weeks:?}");
    shop.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_of_histories_that_is_taken_away_on_purpose_is_not_missed() {
    let shop = still(seeded(600, 10, 120).await, settings()).await;
    let client = invariants_client(&shop.database).await;
    let months = partitions(&client, "events").await;
    let dropped: Option<String> =
        client.query_one("select drop_partition('events', now() - interval '60 days')", &[]).await.expect("SQL").get(0);
    assert_eq!(dropped.as_ref(), months.first());
    invariants::rules(&shop.database).await;

    // One that goes in another way is missed.
    client.batch_execute(&format!("drop table {}", months[1])).await.expect("SQL");
    let report = audited(&shop.database, &AuditSettings::default()).await;
    let broken: Vec<AuditRule> = report.rules.iter().filter(|found| found.broken > 0).map(|found| found.rule).collect();
    assert_eq!(broken, [AuditRule::HistoryGapless]);
    shop.running.stop().await;
}
