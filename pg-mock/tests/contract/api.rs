//! Endpoints: request and response pairs of the documented API.

use std::time::Duration;

use pg_mock::{Method, NewPayment, Options, Status};
use serde_json::{Value, json};

use crate::shop::{CREDENTIALS, ORDER, Shop};

#[tokio::test]
async fn a_confirm_answers_the_whole_payment() {
    let shop = Shop::open().await;
    let payment_key = shop.pg.pay(ORDER, 34_100);
    let heard = shop.confirm("confirm:1", &payment_key, 34_100).await;
    assert_eq!(heard.status, 200);
    assert_eq!(heard.header("idempotency-key"), "confirm:1");
    assert!(!heard.header("x-tosspayments-trace-id").is_empty());
    let payment = heard.json();
    for (name, value) in [
        ("version", json!("2022-11-16")),
        ("mId", json!("mshop")),
        ("paymentKey", json!(payment_key)),
        ("type", json!("NORMAL")),
        ("orderId", json!(ORDER)),
        ("currency", json!("KRW")),
        ("country", json!("KR")),
        ("method", json!("카드")),
        ("status", json!("DONE")),
        ("totalAmount", json!(34_100)),
        ("balanceAmount", json!(34_100)),
        ("suppliedAmount", json!(31_000)),
        ("vat", json!(3_100)),
        ("taxFreeAmount", json!(0)),
        ("taxExemptionAmount", json!(0)),
        ("useEscrow", json!(false)),
        ("cultureExpense", json!(false)),
        ("isPartialCancelable", json!(true)),
        ("virtualAccount", Value::Null),
        ("cancels", Value::Null),
        ("failure", Value::Null),
    ] {
        assert_eq!(payment.get(name), Some(&value), "{name}");
    }
    assert_eq!(payment["card"]["amount"], 34_100);
    assert_eq!(payment["card"]["cardType"], "신용");
    assert!(payment["secret"].as_str().unwrap().starts_with("ps_"));
    assert!(payment["lastTransactionKey"].as_str().unwrap().len() <= 64);
    for time in ["requestedAt", "approvedAt"] {
        assert!(payment[time].as_str().unwrap().ends_with("+09:00"), "{time}");
    }
    let book = shop.pg.book();
    assert_eq!(book.net(ORDER), 34_100);
    let approval = &book.payment(&payment_key).unwrap().approvals[0];
    assert_eq!(approval.idempotency_key.as_deref(), Some("confirm:1"));
}

#[tokio::test]
async fn a_payment_is_found_by_its_key_and_by_its_order() {
    let shop = Shop::open().await;
    let payment_key = shop.paid().await;
    let by_key = shop.get(&format!("/v1/payments/{payment_key}")).await;
    let by_order = shop.get(&format!("/v1/payments/orders/{ORDER}")).await;
    assert_eq!((by_key.status, by_order.status), (200, 200));
    assert_eq!(by_key.json(), by_order.json());
    let missing = shop.get("/v1/payments/orders/ord_nobody").await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "NOT_FOUND_PAYMENT"));
}

#[tokio::test]
async fn credentials_are_checked_with_the_documented_errors() {
    let shop = Shop::open().await;
    for (given, status, code) in [
        (None, 401, "UNAUTHORIZED_KEY"),
        // test_sk_mock without the colon
        (Some("Basic dGVzdF9za19tb2Nr"), 403, "INCORRECT_BASIC_AUTH_FORMAT"),
        (Some("Bearer dGVzdF9za19tb2NrOg=="), 403, "INCORRECT_BASIC_AUTH_FORMAT"),
        // test_sk_other:
        (Some("Basic dGVzdF9za19vdGhlcjo="), 401, "UNAUTHORIZED_KEY"),
        // test_ck_mock:
        (Some("Basic dGVzdF9ja19tb2NrOg=="), 400, "INVALID_API_KEY"),
        (Some(CREDENTIALS), 404, "NOT_FOUND_PAYMENT"),
    ] {
        let headers: Vec<_> = given.map(|value| ("authorization", value)).into_iter().collect();
        let path = "/v1/payments/nothing";
        let heard = shop.send(reqwest::Method::GET, path, &headers, String::new()).await.unwrap();
        assert_eq!((heard.status, heard.code().as_str()), (status, code), "{given:?}");
    }
    assert_eq!(shop.pg.book().calls.unauthorized, 5);
}

#[tokio::test]
async fn a_confirm_must_repeat_what_the_window_was_opened_for() {
    let shop = Shop::open().await;
    let payment_key = shop.pg.pay(ORDER, 34_100);
    let wrong_amount = shop.confirm("k-amount", &payment_key, 100).await;
    assert_eq!((wrong_amount.status, wrong_amount.code().as_str()), (400, "INVALID_REQUEST"));
    let body = json!({"paymentKey": payment_key, "orderId": "ord_another", "amount": 34_100});
    let wrong_order = shop.post("/v1/payments/confirm", "k-order", &body).await.unwrap();
    assert_eq!((wrong_order.status, wrong_order.code().as_str()), (404, "NOT_FOUND_PAYMENT_SESSION"));
    let unknown = shop.confirm("k-unknown", "nobody", 34_100).await;
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "NOT_FOUND_PAYMENT"));
    let empty = shop.post("/v1/payments/confirm", "k-empty", &json!({})).await.unwrap();
    assert_eq!((empty.status, empty.code().as_str()), (400, "INVALID_REQUEST"));
    let small = shop.pg.pay(ORDER, 99);
    assert_eq!(shop.confirm("k-small", &small, 99).await.code(), "BELOW_MINIMUM_AMOUNT");
    assert_eq!(shop.pg.book().approved(ORDER), 0);
    assert_eq!(shop.confirm("k-right", &payment_key, 34_100).await.status, 200);
}

#[tokio::test]
async fn a_second_confirm_with_another_key_takes_no_money() {
    let shop = Shop::open().await;
    let payment_key = shop.paid().await;
    let again = shop.confirm("another", &payment_key, 34_100).await;
    assert_eq!((again.status, again.code().as_str()), (400, "ALREADY_PROCESSED_PAYMENT"));
    assert_eq!(shop.pg.book().approved(ORDER), 34_100);
}

#[tokio::test]
async fn a_session_that_ran_out_is_expired_and_lacks_keys() {
    let shop = Shop::with(Options { session: Duration::ZERO, ..Options::default() }).await;
    let payment_key = shop.pg.pay(ORDER, 34_100);
    let heard = shop.confirm("late", &payment_key, 34_100).await;
    assert_eq!((heard.status, heard.code().as_str()), (404, "NOT_FOUND_PAYMENT_SESSION"));
    let payment = shop.look_up(&payment_key).await;
    assert_eq!(payment["status"], "EXPIRED");
    assert_eq!(payment["failure"]["code"], "EXPIRED_PAYMENT");
    assert_eq!((&payment["method"], &payment["approvedAt"]), (&Value::Null, &Value::Null));
    for absent in ["card", "virtualAccount", "cancels", "receipt"] {
        assert!(payment.get(absent).is_none(), "{absent}");
    }
}

#[tokio::test]
async fn a_window_nobody_authenticated_in_cannot_be_confirmed_and_expires() {
    let shop = Shop::open().await;
    let payment_key = shop.pg.open_window(NewPayment {
        order_id: ORDER.to_owned(),
        amount: 5_000,
        currency: "KRW".to_owned(),
        method: Method::Card,
        order_name: "원두".to_owned(),
    });
    assert_eq!(shop.look_up(&payment_key).await["status"], "READY");
    assert_eq!(shop.confirm("early", &payment_key, 5_000).await.code(), "NOT_FOUND_PAYMENT_SESSION");
    shop.pg.expire(&payment_key);
    assert_eq!(shop.pg.book().payment(&payment_key).unwrap().status, Status::Expired);
}

#[tokio::test]
async fn the_transaction_list_has_a_row_per_approval_and_cancel_in_pages() {
    let shop = Shop::open().await;
    let payment_key = shop.paid().await;
    for (key, amount) in [("k1", 100), ("k2", 200)] {
        shop.cancel(key, &payment_key, json!({"cancelReason": "x", "cancelAmount": amount})).await;
    }
    let span = "/v1/transactions?startDate=2020-01-01&endDate=2999-12-31T23:59:59";
    let rows = shop.get(span).await.json();
    assert_eq!(rows.as_array().unwrap().len(), 3);
    let mut keys = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = shop.get(&format!("{span}&limit=2{cursor}")).await.json();
        let page = page.as_array().unwrap().clone();
        keys.extend(page.iter().map(|row| row["transactionKey"].clone()));
        if page.len() < 2 {
            break;
        }
        cursor = format!("&startingAfter={}", keys.last().unwrap().as_str().unwrap());
    }
    let all: Vec<Value> = rows.as_array().unwrap().iter().map(|row| row["transactionKey"].clone()).collect();
    assert_eq!(keys, all);
    assert_eq!(rows[0]["paymentKey"], json!(payment_key));
    assert_eq!((&rows[0]["status"], &rows[2]["status"]), (&json!("DONE"), &json!("PARTIAL_CANCELED")));
    assert!(rows[0]["transactionAt"].as_str().unwrap().ends_with("+09:00"));
    assert_eq!(shop.get("/v1/transactions?startDate=2999-01-01&endDate=2999-01-02").await.json(), json!([]));
}

#[tokio::test]
async fn what_is_not_documented_of_the_transaction_list_can_be_tried_both_ways() {
    let options = Options { list_newest_first: true, list_unsigned_cancels: true, ..Options::default() };
    let shop = Shop::with(options).await;
    let payment_key = shop.paid().await;
    shop.cancel("k1", &payment_key, json!({"cancelReason": "x", "cancelAmount": 100})).await;
    let span = "/v1/transactions?startDate=2020-01-01&endDate=2999-12-31T23:59:59";
    let rows = shop.get(span).await.json();
    assert_eq!((&rows[0]["status"], &rows[0]["amount"]), (&json!("PARTIAL_CANCELED"), &json!(100)));
    let next = shop.get(&format!("{span}&limit=1&startingAfter={}", rows[0]["transactionKey"].as_str().unwrap())).await;
    assert_eq!(next.json(), json!([rows[1]]));
    shop.pg.unlist_newest(&payment_key);
    assert_eq!(shop.get(span).await.json().as_array().unwrap().len(), 1, "the cancel is listed late");
    assert_eq!(shop.look_up(&payment_key).await["cancels"].as_array().unwrap().len(), 1);
    shop.pg.lose(&payment_key);
    assert_eq!(shop.get(span).await.json(), json!([]));
    assert_eq!(shop.get(&format!("/v1/payments/{payment_key}")).await.code(), "NOT_FOUND_PAYMENT");
}

#[tokio::test]
async fn the_transaction_list_refuses_bad_spans() {
    let shop = Shop::open().await;
    for (query, code) in [
        ("", "INVALID_REQUEST"),
        ("startDate=2026-01-01T00:00:00Z&endDate=2026-01-02", "INVALID_DATE"),
        ("startDate=2026-01-01&endDate=tomorrow", "INVALID_DATE"),
        ("startDate=2026-01-01&endDate=2026-01-02&limit=5001", "INVALID_REQUEST"),
        ("startDate=2026-01-01&endDate=2026-01-02&startingAfter=nobody", "INVALID_REQUEST"),
    ] {
        let heard = shop.get(&format!("/v1/transactions?{query}")).await;
        assert_eq!((heard.status, heard.code().as_str()), (400, code), "{query}");
    }
}

#[tokio::test]
async fn unknown_routes_and_bad_json_are_errors_of_the_documented_shape() {
    let shop = Shop::open().await;
    let route = shop.get("/v1/nothing").await;
    assert_eq!((route.status, route.code().as_str()), (404, "NOT_FOUND"));
    let headers = [("authorization", CREDENTIALS)];
    let path = "/v1/payments/confirm";
    let bad = shop.send(reqwest::Method::POST, path, &headers, "{".to_owned()).await.unwrap();
    assert_eq!((bad.status, bad.code().as_str()), (400, "INVALID_REQUEST"));
    assert!(!bad.json()["message"].as_str().unwrap().is_empty());
}
