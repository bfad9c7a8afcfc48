//! The masked views: the documented role can run every query of the dashboards, sees nothing that is nobody's business,
//! and reaches no table.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use chrono::Utc;
use tokio_postgres::Client;

use super::{boards, list, none, read, word};
use crate::support::database;
use crate::support::shop::invariants_client;

/// What must never come out of a view.
const CANARY: &str = "Gil-dong Hong";
/// The role of the data source, which is one for a whole cluster.
const VIEWER: &str = "paygauge_viewer";

/// An id of the fixture; like every id, it begins with the time.
fn id(number: &str) -> String {
    static BEGAN: OnceLock<String> = OnceLock::new();
    let began = BEGAN.get_or_init(|| format!("{:012x}", Utc::now().timestamp_millis()));
    format!("{began}700080000000000000{number}")
}

/// What `deploy/viewer.sql` does after it has made the role, for a role of another name.
fn documented_grants(role: &str) -> String {
    let file = read("deploy/viewer.sql");
    let (_, grants) = file.split_once("\\gexec").expect("the role is made first");
    format!("create role {VIEWER} login;{grants}").replace(":'password'", "'secret'").replace(VIEWER, role)
}

/// One of everything, with the canary wherever a person may have written something.
async fn fill(client: &Client) {
    let sql = "
        insert into products (id, name, price, currency) values (u('00'), CANARY, 1000, 'KRW');
        insert into stock values (u('00'), 5);
        insert into orders (id, status, amount, currency, name, customer_ref, hold_expires_at, cancel_reason, version)
            values (u('02'), 'confirming', 1000, 'KRW', CANARY, CANARY, now() - interval '1 hour', CANARY, 1),
                (u('12'), 'pending', 1000, 'KRW', CANARY, CANARY, now() - interval '1 hour', CANARY, 1);
        insert into order_items (order_id, line, product_id, name, quantity, unit_price)
            values (u('02'), 1, u('00'), CANARY, 1, 1000);
        insert into payments (id, order_id, provider, provider_payment_key, method, status, amount, currency,
            provider_secret, deposit_account_number, deposit_holder, doubt, inquire_at, confirm_started_at)
            values (u('01'), u('02'), 'toss', CANARY || 'secret', 'foreign', 'confirming', 1000, 'KRW', CANARY, CANARY,
                CANARY, 'timeout', now(), now() - interval '1 hour');
        insert into cancellations (id, payment_id, order_id, provider, amount, reason, status, origin, doubt, inquire_at)
            values (u('03'), u('01'), u('02'), 'toss', 500, CANARY, 'requested', 'request', 'timeout', now());
        insert into events (aggregate, aggregate_id, seq, order_id, kind, to_status, actor, detail)
            values ('order', u('02'), 1, u('02'), 'OrderPlaced', 'pending', 'key_1', jsonb_build_object('reason', CANARY)),
                ('payment', u('01'), 1, u('02'), 'PaymentConfirmStarted', 'confirming', 'key_1', '{\"amount\": 1000}'),
                ('cancellation', u('03'), 1, u('02'), 'CancellationRequested', 'requested', 'key_1',
                    jsonb_build_object('reason', CANARY, 'origin', 'request'));
        insert into webhook_inbox (id, provider, dedupe_key, payload)
            values (u('04'), 'toss', CANARY, convert_to(CANARY || 'ord_' || replace(u('02')::text, '-', ''), 'UTF8'));
        insert into findings (id, provider, dedupe_key, kind, status, amount, currency, provider_payment_key,
            provider_order_id, payment_id, order_id, reason)
            values (u('05'), 'toss', CANARY, 'missing_there', 'open', 1000, 'KRW', CANARY, CANARY, u('01'), u('02'),
                CANARY);";
    let mut sql = sql.replace("CANARY", &format!("'{CANARY}'"));
    for number in ["00", "01", "02", "03", "04", "05", "12"] {
        sql = sql.replace(&format!("u('{number}')"), &format!("uuid '{}'", id(number)));
    }
    client.batch_execute(&sql).await.expect("rows");
}

/// As Grafana would send it for a payment, all values, and a time that has every row.
fn substituted(sql: &str) -> String {
    let mut text = sql.replace("$__timeFrom()", "'2025-01-01T00:00:00Z'");
    while let Some((before, rest)) = text.split_once("$__timeFilter(") {
        let (column, after) = rest.split_once(')').expect("a column");
        text = format!("{before}{column} between '2025-01-01T00:00:00Z' and '2100-01-01T00:00:00Z'{after}");
    }
    for name in ["provider", "method", "outcome"] {
        text = text.replace(&format!("${{{name}:regex}}"), ".+");
    }
    text.replace("${payment_id:sqlstring}", &format!("'pay_{}'", id("01")))
}

async fn reader(client: &Client) -> String {
    let name: String = client.query_one("select current_database()::text", &[]).await.expect("a name").get(0);
    // A role is the cluster's, and every test has a database of its own.
    let role = format!("reader_of_{name}");
    client.batch_execute(&documented_grants(&role)).await.expect("the documented statements");
    client.batch_execute(&format!("set role {role}")).await.expect("the role");
    role
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_role_runs_every_query_of_the_dashboards_and_finds_rows() {
    let client = invariants_client(&database::fresh().await).await;
    fill(&client).await;
    reader(&client).await;
    let (mut wrong, mut empty) = (Vec::new(), BTreeSet::new());
    for board in boards() {
        for panel in board.panels() {
            for target in list(panel, "/targets").iter().filter(|target| target.get("rawSql").is_some()) {
                match client.simple_query(&substituted(word(target, "/rawSql"))).await {
                    Ok(rows) if rows.len() > 2 => {}
                    Ok(_) => {
                        empty.insert(board.place(panel));
                    }
                    Err(error) => wrong.push(format!("{}: {error:?}", board.place(panel))),
                }
            }
        }
    }
    none(wrong, "queries of the database");
    // Nobody paid, nobody has failed twice, and no other session has a transaction.
    let no_rows = [
        "pay-affected: Customers hit more than once",
        "pay-db: Open transactions",
        "pay-funnel: Time from order to money",
        "pay-payment: Others of the same customer",
    ];
    empty.retain(|place| !no_rows.contains(&place.as_str()));
    assert!(empty.is_empty(), "found nothing: {empty:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn views_show_nothing_that_a_person_wrote_or_that_names_one() {
    let client = invariants_client(&database::fresh().await).await;
    fill(&client).await;
    let role = reader(&client).await;
    let sql = "select table_name::text from information_schema.views where table_schema = 'observability'";
    let views: Vec<String> = client.query(sql, &[]).await.expect("views").iter().map(|row| row.get(0)).collect();
    assert_eq!(views.len(), 10, "{role} may read every view: {views:?}");
    for view in views {
        let rows =
            client.query(&format!("select to_jsonb(v)::text from observability.{view} v"), &[]).await.expect(&view);
        assert!(!rows.is_empty() || view == "sessions", "{view} has rows");
        for row in rows {
            let text: String = row.get(0);
            assert!(!text.contains(CANARY), "{view}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_reaches_no_table_not_even_the_salt() {
    let client = invariants_client(&database::fresh().await).await;
    fill(&client).await;
    reader(&client).await;
    let payment = format!("select count(customer) from observability.payments where payment_id = 'pay_{}'", id("01"));
    assert_eq!(client.query_one(&payment, &[]).await.expect("a customer").get::<_, i64>(0), 1);
    for refused in [
        "select * from observability_owner.salt",
        "select * from payments",
        "select * from orders",
        "select * from api_keys",
        "update observability.payments set status = 'approved'",
        "delete from observability.findings",
    ] {
        let error = client.simple_query(refused).await.expect_err(refused);
        let code = error.code().expect("an answer of the server").code().to_owned();
        assert!(matches!(code.as_str(), "42501" | "55000"), "{refused}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_views_go_and_come_back() {
    let client = invariants_client(&database::fresh().await).await;
    fill(&client).await;
    let of = |half: &str| read(&format!("migrations/2026-11-21-000005_observability/{half}.sql"));
    client.batch_execute(&of("down")).await.expect("down");
    let left = "select count(*) from pg_namespace where nspname like 'observability%'";
    assert_eq!(client.query_one(left, &[]).await.expect("a count").get::<_, i64>(0), 0);
    client.batch_execute(&of("up")).await.expect("up");
    assert_eq!(client.query("select from observability.timeline", &[]).await.expect("rows").len(), 5);
}
