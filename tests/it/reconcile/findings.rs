//! What people do with findings, and where the units of an order go that was canceled in the console.

use paygauge::config::{ExternalCancelStock, Settings};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{all, brief, close_disagreeing, confirm_there, deaf, one, run_twice, settings, written};
use crate::support::shop::Shop;

async fn adjustments(shop: &Shop, product: &str) -> Vec<(i64, String)> {
    let path = format!("/v1/products/{product}/stock-adjustments");
    let answer = shop.secret.get(&path).await.expect(StatusCode::OK);
    let of =
        |row: &Value| (row["delta"].as_i64().expect("a delta"), row["reason"].as_str().expect("a text").to_owned());
    answer.body["items"].as_array().expect("items").iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_an_order_canceled_in_the_console_can_be_kept_out_of_stock() {
    let settings = Settings { external_cancel_stock: ExternalCancelStock::Hold, ..settings() };
    let shop = deaf(settings).await;
    let (beans, cup) = (shop.product(6_000, 5).await, shop.product(4_000, 5).await);
    let order = shop.order_of(&[(&beans, 2), (&cup, 1)]).await;
    let key = shop.pay(&order);
    let payment = shop.confirm(&order, &key).await.expect(StatusCode::OK).text("id");
    let line = json!({ "reason": "one back", "lines": [{ "line": 1, "quantity": 1 }] });
    shop.cancel(&payment, &line).await.expect(StatusCode::OK);
    assert_eq!(shop.available(&beans).await, 4, "our own cancels restore");
    shop.mock.cancel_in_console(&key, 3_000);
    run_twice(&shop).await;
    assert_eq!(brief(&shop).await.len(), 1, "a part keeps no unit out");
    shop.mock.cancel_in_console(&key, 7_000);
    run_twice(&shop).await;
    assert_eq!(shop.order_now(&order.id).await.text("status"), "canceled");
    assert_eq!((shop.available(&beans).await, shop.available(&cup).await), (4, 4));
    let out = format!("kept out: {} was canceled in the PG's console", order.id);
    assert_eq!(adjustments(&shop, &beans).await[0], (-1, out.clone()));
    assert_eq!(adjustments(&shop, &cup).await[0], (-1, out));
    let held = all(&shop).await.into_iter().find(|finding| finding["kind"] == "stock_held").expect("a finding");
    assert_eq!((&held["status"], &held["amount"]), (&json!("waiting"), &json!(7_000)));
    let reason = held["reason"].as_str().expect("a reason");
    assert!(reason.contains(&format!("1 of {beans}")) && reason.contains(&format!("1 of {cup}")), "{reason}");
    // A person has looked, puts the units back, and says so.
    for product in [&beans, &cup] {
        let body = json!({ "delta": 1, "kind": "correction", "reason": "looked at, can be sold" });
        let path = format!("/v1/products/{product}/stock-adjustments");
        shop.secret.post(&path, &body).await.expect(StatusCode::CREATED);
    }
    let path = format!("/v1/findings/{}/close", held["id"].as_str().expect("an id"));
    shop.secret.post(&path, &json!({ "reason": "back on the shelf" })).await.expect(StatusCode::OK);
    assert_eq!((shop.available(&beans).await, shop.available(&cup).await), (5, 5));
    run_twice(&shop).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finding_that_a_person_closed_stays_closed_and_moves_nothing() {
    let shop = deaf(settings()).await;
    let key = shop.mock.pay("somebody-elses-order", 9_000);
    confirm_there(&shop, &key, "somebody-elses-order", 9_000).await;
    run_twice(&shop).await;
    let id = all(&shop).await[0]["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/findings/{id}/close");
    let before = written(&shop).await;
    let closed = shop.secret.post(&path, &json!({ "reason": "another shop's, ticket 4711" })).await;
    let closed = closed.expect(StatusCode::OK);
    assert_eq!((closed.text("status"), closed.text("reason")), ("closed".into(), "another shop's, ticket 4711".into()));
    let after = written(&shop).await;
    assert_eq!((after.0, after.1, after.2, after.3), (before.0, before.1 + 1, before.2, before.3));
    assert_eq!(run_twice(&shop).await.filed, 0);
    assert_eq!(brief(&shop).await, one("missing_here", "closed", 9_000));
    let again = shop.secret.post(&path, &json!({ "reason": "again" })).await;
    let again = again.problem(StatusCode::CONFLICT, "finding_settled");
    assert_eq!(again.text("findingStatus"), "closed");
    let by = "select count(*) from finding_history where status = 'closed' and actor like 'key_%'";
    assert_eq!(shop.count(by).await, 1, "the history says who");
    close_disagreeing(shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_are_listed_by_status_and_kind_in_pages() {
    let shop = deaf(settings()).await;
    let product = shop.product(12_000, 5).await;
    for number in 0..3 {
        let order = format!("somebody-elses-order-{number}");
        let key = shop.mock.pay(&order, 9_000);
        confirm_there(&shop, &key, &order, 9_000).await;
    }
    let (order, _) = shop.paid(&product, 1).await;
    shop.mock.cancel_in_console(&shop.payment_key(&order.id), 1_000);
    run_twice(&shop).await;
    let list = async |query: &str| shop.secret.get(&format!("/v1/findings{query}")).await.expect(StatusCode::OK);
    let count = |page: &crate::support::shop::Answer| page.body["items"].as_array().expect("items").len();
    assert_eq!(count(&list("").await), 4);
    assert_eq!(count(&list("?status=waiting").await), 3);
    assert_eq!(count(&list("?status=repaired&kind=canceled_there_only").await), 1);
    assert_eq!(count(&list("?kind=late_approval").await), 0);
    let first = list("?status=waiting&limit=2").await;
    let rest = list(&format!("?status=waiting&limit=2&after={}", first.text("next"))).await;
    assert_eq!((count(&first), count(&rest), rest.body["next"].is_null()), (2, 1, true));
    for (query, parameter) in [("?status=lost", "status"), ("?kind=odd", "kind"), ("?cursor=1", "cursor")] {
        let answer = shop.secret.get(&format!("/v1/findings{query}")).await;
        let answer = answer.problem(StatusCode::BAD_REQUEST, "invalid_parameter");
        assert_eq!(answer.text("parameter"), parameter);
    }
    close_disagreeing(shop).await;
}
