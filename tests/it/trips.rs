//! Round trips to the database: as few as can be, counted, and nothing is lost by sending statements together.

use std::collections::BTreeMap;

use paygauge::crash::CrashSwitch;
use paygauge::db::batch::Batch;
use paygauge::db::connect::{self, DbConfig};
use paygauge::db::{Db, DbError, stock};
use paygauge::domain::ids::ProductId;
use paygauge::telemetry::labels::Tx;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::served::Served;
use crate::support::shop::{PATIENCE, Shop, ShopOptions};
use crate::support::{database, eventually};

/// Waits for the database and statements of one request each: two waits for every transaction.
const COSTS: [(&str, u64, u64); 3] =
    [("/v1/orders", 2, 7), ("/v1/payments/confirm", 4, 14), ("/v1/payments/{id}/cancel", 4, 23)];

async fn flow(served: &Served, product: &str) {
    let lines = json!({ "lines": [{ "productId": product, "quantity": 1 }] });
    let order = served.secret.post_with_key("/v1/orders", &lines).await.expect(StatusCode::CREATED);
    let key = served.mock.pay(&order.text("id"), order.number("amount"));
    let body = json!({ "paymentKey": key, "orderId": order.text("id"), "amount": order.number("amount") });
    let payment = served.secret.post("/v1/payments/confirm", &body).await.expect(StatusCode::OK).text("id");
    let path = format!("/v1/payments/{payment}/cancel");
    served.secret.post_with_key(&path, &json!({ "reason": "x" })).await.expect(StatusCode::OK);
}

/// The canonical lines of the flows' requests, by route.
fn told(served: &Served) -> BTreeMap<String, Vec<Value>> {
    let mut told: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in served.lines().iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if line["msg"] == "request" && line["http_method"] == "POST" {
            told.entry(line["http_route"].as_str().unwrap_or_default().to_owned()).or_default().push(line);
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn each_transaction_of_a_verb_waits_for_the_database_twice() {
    let served = Served::start(&[]).await;
    let body = json!({ "name": "Coffee beans", "price": 12_000, "initialStock": 10 });
    let product = served.secret.post("/v1/products", &body).await.expect(StatusCode::CREATED).text("id");
    for _ in 0..3 {
        flow(&served, &product).await;
    }
    let lines = eventually("all lines are there", PATIENCE, async || {
        let told = told(&served);
        COSTS.iter().all(|(route, ..)| told.get(*route).is_some_and(|lines| lines.len() == 3)).then_some(told)
    })
    .await;
    for (route, trips, queries) in COSTS {
        for line in &lines[route] {
            let cost = (line["db_round_trips"].as_u64(), line["db_queries"].as_u64());
            assert_eq!(cost, (Some(trips), Some(queries)), "{route}: {line}");
        }
    }
}

/// How often each statement that stays prepared was run with a plan for its values, and with one for any.
async fn prepared(db: &Db) -> BTreeMap<String, (i64, i64)> {
    #[derive(diesel::QueryableByName)]
    struct Statement {
        #[diesel(sql_type = diesel::sql_types::Text)]
        statement: String,
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        custom_plans: i64,
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        generic_plans: i64,
    }
    let query = diesel::sql_query("select statement, custom_plans, generic_plans from pg_prepared_statements");
    let statements = db.read(async |conn| {
        let statements: Vec<Statement> = diesel_async::RunQueryDsl::load(query, conn).await?;
        Ok::<_, DbError>(statements)
    });
    let statements = statements.await.expect("the connection's statements").into_iter();
    statements.map(|of| (of.statement, (of.custom_plans, of.generic_plans))).collect()
}

/// Parsed once for each connection, and planned once more or less: the server keeps its plan after five.
#[tokio::test(flavor = "multi_thread")]
async fn no_statement_of_a_verb_is_parsed_or_planned_each_time() {
    let database = DbConfig { pool_connections_max: 1, ..database::fresh().await };
    let options = ShopOptions { worker: false, webhooks: false, ..ShopOptions::default() };
    let shop = Shop::on(database, options).await;
    let product = shop.product(12_000, 50).await;
    let flow = async || {
        let (_, payment) = shop.paid(&product, 1).await;
        shop.cancel(&payment, &json!({ "reason": "x" })).await.expect(StatusCode::OK);
    };
    for _ in 0..8 {
        flow().await;
    }
    let app = shop.running.app();
    let before = prepared(&app.db).await;
    flow().await;
    let after = prepared(&app.db).await;
    let mut run = 0;
    for (statement, (custom, generic)) in after {
        let (custom_before, generic_before) = before.get(&statement).copied().unwrap_or_default();
        if !matches!(statement.as_str(), "BEGIN" | "COMMIT") {
            run += custom + generic - custom_before - generic_before;
            assert_eq!(custom, custom_before, "planned again: {statement}");
        }
    }
    let statements: u64 = COSTS.iter().map(|(.., statements)| statements).sum();
    assert_eq!(u64::try_from(run), Ok(statements), "the others were parsed again");
    shop.close().await;
}

/// An answer is put together before its rows are stored; it must tell them as they are.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_is_what_is_stored() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 50).await;
    let other = shop.product(700, 50).await;
    let lines = json!({ "lines": [{ "productId": product, "quantity": 2 }, { "productId": other, "quantity": 3 }],
        "customerRef": "customer-1" });
    let answer = shop.secret.post_with_key("/v1/orders", &lines).await.expect(StatusCode::CREATED);
    let mut placed = answer.body.clone();
    placed.as_object_mut().expect("an order").remove("checkoutToken").expect("a token");
    let path = format!("/v1/orders/{}", answer.text("id"));
    assert_eq!(placed, shop.secret.get(&path).await.expect(StatusCode::OK).body);

    let is_stored = async |answered: &Value| {
        let path = format!("/v1/payments/{}", answered["id"].as_str().expect("an id"));
        assert_eq!(*answered, shop.secret.get(&path).await.expect(StatusCode::OK).body);
    };
    let order = shop.order(&product, 2).await;
    let paid = shop.confirm(&order, &shop.pay(&order)).await.expect(StatusCode::OK);
    is_stored(&paid.body).await;
    for body in [json!({ "reason": "a part", "amount": 5_000 }), json!({ "reason": "the rest" })] {
        let canceled = shop.cancel(&paid.text("id"), &body).await.expect(StatusCode::OK);
        let path = format!("/v1/cancellations/{}", canceled.text("id"));
        assert_eq!(canceled.body, shop.secret.get(&path).await.expect(StatusCode::OK).body);
    }

    let order = shop.order(&product, 1).await;
    let key = shop.mock.pay_by_virtual_account(&order.id, order.amount);
    let waiting = shop.confirm(&order, &key).await.expect(StatusCode::OK);
    is_stored(&waiting.body).await;
    shop.close().await;
}

async fn one_connection(database: &DbConfig) -> Db {
    let config = DbConfig { pool_connections_max: 1, ..database.clone() };
    Db::new(connect::pool(&config).await.expect("a pool"), 1, CrashSwitch::default())
}

async fn take_together(db: &Db, product: ProductId, units: &[i64]) -> Result<(), DbError> {
    db.transaction(Tx::OrderPlace, async |conn| {
        let mut batch = Batch::new(conn);
        for quantity in units {
            batch.add(stock::take_or_fail(conn, product, *quantity));
        }
        batch.commit().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_are_sent_together_are_committed_together_or_not_at_all() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 10).await;
    let id: ProductId = product.parse().expect("an id");
    let db = one_connection(&shop.database).await;
    // The first time every statement has to be prepared too, with the end of the transaction waiting behind it.
    for units in [&[4, 20, 1][..], &[20, 1, 1], &[1, 1, 20]] {
        let refused = take_together(&db, id, units).await.expect_err("too much");
        assert!(refused.is_constraint("stock_never_negative"), "the cause and not what followed from it: {refused}");
        assert_eq!(shop.available(&product).await, 10, "{units:?}");
    }
    take_together(&db, id, &[4, 2, 1]).await.expect("enough");
    assert_eq!(shop.available(&product).await, 3);
    take_together(&db, id, &[-7]).await.expect("nothing is missing at the end");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_a_transaction_finds_out_that_its_connection_is_dead() {
    let shop = Shop::open().await;
    let product = shop.product(12_000, 10).await;
    let id: ProductId = product.parse().expect("an id");
    let db = one_connection(&shop.database).await;
    take_together(&db, id, &[1]).await.expect("a connection");
    for left in [8, 7] {
        database::cut_connections(&shop.database).await;
        take_together(&db, id, &[1]).await.expect("another connection");
        assert_eq!(shop.available(&product).await, left);
    }
    take_together(&db, id, &[-3]).await.expect("nothing is missing at the end");
    shop.close().await;
}
