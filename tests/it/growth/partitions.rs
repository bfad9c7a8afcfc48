//! Tables in partitions by time: a delivery and a key count once whatever partition they lie in, and partitions come and go
//! while the shop sells.

use std::time::Duration;

use paygauge::config::AuditSettings;
use paygauge::domain::audit::AuditRule;
use paygauge::worker::housekeeping;
use reqwest::StatusCode;
use serde_json::json;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::{seeded, still};
use crate::support::invariants::audited;
use crate::support::shop::{PATIENCE, Shop, http, invariants_client, settings};
use crate::support::{eventually, invariants};

/// The same delivery, with an id of a moment.
const DELIVERY: &str = "insert into webhook_inbox (id, provider, dedupe_key, payload)
    values (id_at($1::text::timestamptz), 'toss', 'the same', '')";

const PARTED: [&str; 3] = ["events", "webhook_inbox", "idempotency_keys"];

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
async fn of_two_deliveries_at_once_on_both_sides_of_a_weeks_end_one_is_stored() {
    let shop = Shop::without_worker().await;
    let (one, other) = (invariants_client(&shop.database).await, invariants_client(&shop.database).await);
    shop.sql("select make_partitions('webhook_inbox', now() - interval '7 days', now())").await;
    let weeks = weeks(&one).await;
    for (end, first, second) in [("commit", 0, 1), ("commit", 1, 0), ("rollback", 0, 1)] {
        one.batch_execute("begin").await.expect("SQL");
        assert_eq!(one.execute(DELIVERY, &[&weeks[first]]).await.expect("the first"), 1);
        let waits = async {
            eventually("the other one waits for the first", PATIENCE, async || {
                let waiting = "select count(*) from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory'";
                (shop.count(waiting).await == 1).then_some(())
            })
            .await;
            one.batch_execute(end).await.expect("SQL");
        };
        let stores = async { other.execute(DELIVERY, &[&weeks[second]]).await.expect("no error") };
        let (stored, ()) = tokio::join!(stores, waits);
        assert_eq!(stored, if end == "commit" { 0 } else { 1 });
        assert_eq!(shop.count("select count(*) from webhook_inbox").await, 1);
        shop.sql("delete from webhook_inbox").await;
    }
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
async fn what_has_served_its_time_goes_and_nothing_else_does() {
    let shop = still(seeded(4_000, 20, 60).await, settings()).await;
    let client = invariants_client(&shop.database).await;
    // The clock goes on meanwhile: what becomes old within the hour is not counted.
    let now: String = client.query_one("select now()::text", &[]).await.expect("SQL").get(0);
    client.batch_execute(super::STRAY_KEYS).await.expect("SQL");
    let young = &format!(
        "select (select count(*) from idempotency_keys where expires_at > timestamptz '{now}' + interval '1 hour')
             + (select count(*) from webhook_inbox where received_at > timestamptz '{now}' - interval '30 days' + interval '1 hour')"
    );
    // With the others of its partition a key may stay for as long again.
    let keys =
        &format!("select count(*) from idempotency_keys where expires_at < timestamptz '{now}' - interval '15 days'");
    let old =
        &format!("select count(*) from webhook_inbox where received_at < timestamptz '{now}' - interval '37 days'");
    let (kept, over) = (count(&client, young).await, count(&client, old).await);
    assert!(kept > 500 && over > 500, "{kept} and {over}");
    let strays = "select count(*) from idempotency_keys_default";
    assert!(count(&client, keys).await > 8_000 && count(&client, strays).await == 6_000);
    let weeks = partitions(&client, "webhook_inbox").await;
    // What nobody has read holds its week.
    let unread =
        format!("update {} set processed_at = null, outcome = null where id = (select id from {0} limit 1)", weeks[1]);
    client.batch_execute(&unread).await.expect("SQL");

    // Whoever has a week in hand is waited for, but not long, and the keys are not left for that; nor is a key waited for.
    let holder = invariants_client(&shop.database).await;
    let hold = format!(
        "begin; select from {} limit 1 for update; select from idempotency_keys_default limit 1 for update",
        weeks[0]
    );
    holder.batch_execute(&hold).await.expect("SQL");
    let never = CancellationToken::new();
    let held = tokio::time::timeout(Duration::from_secs(20), housekeeping::sweep(shop.running.app(), &never));
    held.await.expect("no long wait").expect_err("it is in use");
    assert!(partitions(&client, "webhook_inbox").await.contains(&weeks[0]));
    assert_eq!(count(&client, strays).await, 1);
    holder.batch_execute("rollback").await.expect("SQL");

    // Of a week that is held only what is unread stays: the others hold personal data.
    sweep(&shop).await;
    assert_eq!((count(&client, young).await, count(&client, keys).await, count(&client, old).await), (kept, 0, 1));
    let left = partitions(&client, "webhook_inbox").await;
    assert!(left.contains(&weeks[1]) && !left.contains(&weeks[0]) && !left.contains(&weeks[2]), "{left:?}");
    let read = format!("update {} set processed_at = now(), outcome = 'nothing' where processed_at is null", weeks[1]);
    client.batch_execute(&read).await.expect("SQL");
    sweep(&shop).await;
    assert_eq!((count(&client, young).await, count(&client, old).await), (kept, 0));
    assert!(!partitions(&client, "webhook_inbox").await.contains(&weeks[1]));
    assert!(partitions(&client, "events").await.len() > 2, "the history stays");

    // Deliveries of no week go one by one.
    let strays = "insert into webhook_inbox (id, provider, dedupe_key, payload, received_at, processed_at, outcome)
        select id_at(now() - interval '3 years' + n * interval '1 s'), 'toss', n::text, '', now() - interval '3 years', now(), ''
        from generate_series(1, 2500) n";
    client.batch_execute(strays).await.expect("SQL");
    assert!(sweep(&shop).await >= 2_500);
    assert_eq!(count(&client, "select count(*) from webhook_inbox_default").await, 0);
    assert_eq!(count(&client, young).await, kept);
    invariants::rules(&shop.database).await;
    shop.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_come_and_go_while_the_shop_sells_and_nobody_notices() {
    let shop = still(seeded(300, 10, 200).await, settings()).await;
    let client = invariants_client(&shop.database).await;
    let before = partitions(&client, "webhook_inbox").await;
    let keys_before = partitions(&client, "idempotency_keys").await;
    let product = shop.product(1_000, 1_000).await;
    let inbox = format!("{}/v1/webhooks/toss", shop.base);
    let buyers = futures_util::future::join_all((0..6).map(|buyer| {
        let (shop, product, inbox) = (&shop, &product, &inbox);
        async move {
            for turn in 0..6 {
                let (_, payment) = shop.paid(product, 1).await;
                shop.cancel(&payment, &json!({ "reason": "changed my mind" })).await.expect(StatusCode::OK);
                let notice = http().post(inbox).body(format!("{{\"notice\":\"{buyer} {turn}\"}}"));
                assert_eq!(notice.send().await.expect("an answer").status(), StatusCode::OK);
            }
        }
    }));
    let clerk = async {
        let mut gone = [("webhook_inbox", false), ("idempotency_keys", false)];
        for round in 1.. {
            for table in PARTED {
                let days = 10 * round.min(12);
                let make = format!("select make_partitions('{table}', now(), now() + interval '{days} days')");
                client.batch_execute(&make).await.expect("made");
            }
            for (table, is_gone) in &mut gone {
                // Not taken away when somebody is in the way; then the next time.
                client.batch_execute("begin; set local lock_timeout = 100").await.expect("SQL");
                let drop = "select drop_partition($1, now() - interval '15 days')";
                let dropped = client.query_one(drop, &[table]).await;
                client.batch_execute(if dropped.is_ok() { "commit" } else { "rollback" }).await.expect("SQL");
                *is_gone |= dropped.is_ok_and(|name| name.get::<_, Option<String>>(0).is_none());
            }
            if gone.iter().all(|(_, is_gone)| *is_gone) && round >= 12 {
                break;
            }
            assert!(round < 1_000, "somebody is always in the way");
        }
    };
    tokio::join!(buyers, clerk);
    let after = partitions(&client, "webhook_inbox").await;
    assert!(before.len() > 25 && before[..20].iter().all(|week| !after.contains(week)), "{before:?}, {after:?}");
    assert!(after.iter().filter(|week| !before.contains(week)).count() > 10, "{after:?}");
    let after = partitions(&client, "idempotency_keys").await;
    assert!(
        keys_before.len() > 12 && keys_before[..11].iter().all(|span| !after.contains(span)),
        "{keys_before:?}, {after:?}"
    );
    assert!(after.iter().filter(|span| !keys_before.contains(span)).count() > 5, "{after:?}");
    assert_eq!(
        shop.count("select count(*) from orders where status = 'canceled' and created_at > now() - interval '1 hour'")
            .await,
        36
    );
    for table in PARTED {
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
    assert!(made.contains(&0) && made.iter().any(|made| *made >= 4), "{made:?}");

    shop.sql(&DELIVERY.replace("$1::text::timestamptz", "now() + interval '60 days'")).await;
    let make = "select make_partitions('webhook_inbox', now(), now() + interval '80 days')";
    let made: i32 = one.query_one(make, &[]).await.expect("all others").get(0);
    let weeks = partitions(&one, "webhook_inbox").await;
    assert!(made >= 8, "{made}");
    assert_eq!(shop.count("select count(*) from webhook_inbox_default").await, 1, "nothing is lost");
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
