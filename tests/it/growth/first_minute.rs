//! A shop's first minute: PostgreSQL knows nothing of its tables yet, and each connection keeps the plans that it made
//! when they were empty.

use paygauge::config::AuditSettings;
use paygauge::payments::audit::rounds::Auditor;
use reqwest::StatusCode;
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::reads::tell_reads;
use super::still;
use crate::support::database;
use crate::support::shop::{Shop, invariants_client, settings};

/// By then a plan that reads a table for each row is told from one that finds it.
const FLOWS: usize = 120;

/// Indexes that gave more entries than they were asked for rows.
async fn searched(shop: &Shop) -> Vec<(String, i64, i64)> {
    let client = invariants_client(&shop.database).await;
    tell_reads(shop).await;
    let searched = "select indexrelname::text, idx_scan, idx_tup_read from pg_stat_user_indexes
        where idx_tup_read > 500 and idx_tup_read > 10 * idx_scan";
    let rows = client.query(searched, &[]).await.expect("statistics");
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

async fn sell(shop: &Shop) {
    let product = shop.product(1_000, 1_000).await;
    for _ in 0..FLOWS {
        let (_, payment) = shop.paid(&product, 1).await;
        shop.cancel(&payment, &json!({ "reason": "changed my mind" })).await.expect(StatusCode::OK);
    }
}

/// A shop on an empty database of which PostgreSQL learns nothing. With one connection all of its plans are of that time.
async fn opened() -> Shop {
    let mut database = database::fresh().await;
    database.pool_connections_max = 1;
    let client = invariants_client(&database).await;
    let learns_nothing = "do $$ declare name regclass; begin
        for name in select oid from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace loop
            execute format('alter table %s set (autovacuum_enabled = off)', name);
        end loop; end $$";
    client.batch_execute(learns_nothing).await.expect("SQL");
    still(database, settings()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_that_were_made_of_empty_tables_find_a_row_and_do_not_search_for_it() {
    let shop = opened().await;
    sell(&shop).await;
    assert_eq!(searched(&shop).await, []);
    let audit = AuditSettings { interval: Duration::ZERO, ..AuditSettings::default() };
    let auditor = Auditor::new(shop.running.app().db.clone(), audit, CancellationToken::new());
    auditor.changed().await.expect("a round");
    let books = searched(&shop).await;
    assert!(books.iter().all(|(index, ..)| !index.starts_with("payments_")), "{books:?}");
    shop.close().await;

    // The same look finds an index that begins with what all rows have in common.
    let shop = opened().await;
    shop.sql(
        "alter table payments drop constraint payments_transaction_once,
             add constraint payments_transaction_once unique (provider, provider_transaction_key)",
    )
    .await;
    sell(&shop).await;
    let searched = searched(&shop).await;
    assert!(searched.iter().any(|(index, ..)| index == "payments_transaction_once"), "{searched:?}");
    shop.close().await;
}
