//! `Idempotency-Key`: what is replayed, what is not, and what the book keeps of it.

use pg_mock::{Behaviour, Options, Rule};
use reqwest::Method;
use serde_json::json;

use crate::shop::{CREDENTIALS, ORDER, Shop, until};

#[tokio::test]
async fn a_repeat_gets_the_first_answer_whatever_its_body() {
    let shop = Shop::open().await;
    let first_key = shop.pg.pay(ORDER, 1_000);
    let other_key = shop.pg.pay(ORDER, 2_000);
    let first = shop.confirm("k", &first_key, 1_000).await;
    let repeat = shop.confirm("k", &other_key, 2_000).await;
    assert_eq!((repeat.status, repeat.json()), (200, first.json()));
    assert_eq!(repeat.header("idempotency-key"), "k");
    let traces: Vec<&str> = repeat.header("x-tosspayments-trace-id").split(',').collect();
    assert_eq!(traces.len(), 2);
    assert_eq!(traces[1], first.header("x-tosspayments-trace-id"));
    let book = shop.pg.book();
    let used = &book.calls.idempotency_keys["k"];
    assert_eq!((used.calls, used.replayed, used.body_hashes.len()), (2, 1, 2));
    assert_eq!(book.approved(ORDER), 1_000);
}

#[tokio::test]
async fn an_error_is_bound_to_its_key_and_a_corrected_body_does_not_help() {
    let shop = Shop::open().await;
    let payment_key = shop.pg.pay(ORDER, 1_000);
    assert_eq!(shop.confirm("k", &payment_key, 999).await.code(), "INVALID_REQUEST");
    let corrected = shop.confirm("k", &payment_key, 1_000).await;
    assert_eq!((corrected.status, corrected.code().as_str()), (400, "INVALID_REQUEST"));
    assert_eq!(shop.confirm("new", &payment_key, 1_000).await.status, 200);
}

#[tokio::test]
async fn the_path_is_part_of_the_scope() {
    let shop = Shop::open().await;
    let payment_key = shop.pg.pay(ORDER, 1_000);
    assert_eq!(shop.confirm("k", &payment_key, 1_000).await.status, 200);
    let cancel = shop.cancel("k", &payment_key, json!({"cancelReason": "x"})).await;
    assert_eq!(cancel.json()["status"], "CANCELED");
}

#[tokio::test]
async fn a_repeat_while_the_first_is_running_is_a_conflict() {
    let shop = Shop::open().await;
    let payment_key = shop.pg.pay(ORDER, 1_000);
    shop.pg.script(Rule::confirm(Behaviour::ApproveThenHang { ms: 1_000 }));
    let confirm = || shop.confirm("k", &payment_key, 1_000);
    let (first, second) = tokio::join!(confirm(), async {
        until("the first call", async || shop.pg.book().calls.confirm == 1).await;
        confirm().await
    });
    assert_eq!((second.status, second.code().as_str()), (409, "IDEMPOTENT_REQUEST_PROCESSING"));
    assert_eq!(first.status, 200);
    let third = confirm().await;
    assert_eq!((third.status, third.json()), (200, first.json()));
    let book = shop.pg.book();
    let used = &book.calls.idempotency_keys["k"];
    assert_eq!((used.calls, used.conflicts, used.replayed), (3, 1, 1));
}

#[tokio::test]
async fn a_key_of_more_than_300_characters_is_refused() {
    let shop = Shop::open().await;
    let payment_key = shop.pg.pay(ORDER, 1_000);
    let heard = shop.confirm(&"k".repeat(301), &payment_key, 1_000).await;
    assert_eq!((heard.status, heard.code().as_str()), (400, "INVALID_IDEMPOTENCY_KEY"));
    assert_eq!(shop.confirm(&"k".repeat(300), &payment_key, 1_000).await.status, 200);
}

#[tokio::test]
async fn lookups_ignore_the_key() {
    let shop = Shop::open().await;
    let payment_key = shop.pg.pay(ORDER, 1_000);
    let path = format!("/v1/payments/{payment_key}");
    let headers = [("authorization", CREDENTIALS), ("idempotency-key", "k")];
    let look = || shop.send(Method::GET, &path, &headers, String::new());
    assert_eq!(look().await.unwrap().json()["status"], "IN_PROGRESS");
    shop.confirm("k", &payment_key, 1_000).await;
    assert_eq!(look().await.unwrap().json()["status"], "DONE");
}

#[tokio::test]
async fn a_server_error_is_replayed_only_if_so_wished() {
    for (replayed, second_status) in [(false, 200), (true, 500)] {
        let shop = Shop::with(Options { replay_server_errors: replayed, ..Options::default() }).await;
        for effect in [true, false] {
            let payment_key = shop.pg.pay(ORDER, 1_000);
            let (status, code) = (500, "UNKNOWN_PAYMENT_ERROR".to_owned());
            shop.pg.script(Rule::confirm(if effect {
                Behaviour::ErrorAfter { status, code }
            } else {
                Behaviour::ErrorBefore { status, code }
            }));
            assert_eq!(shop.confirm(&payment_key, &payment_key, 1_000).await.status, 500);
            assert_eq!(shop.confirm(&payment_key, &payment_key, 1_000).await.status, second_status);
        }
    }
}

#[tokio::test]
async fn a_test_code_forces_its_error_without_touching_the_payment() {
    let shop = Shop::open().await;
    let payment_key = shop.pg.pay(ORDER, 1_000);
    let body = json!({"paymentKey": payment_key, "orderId": ORDER, "amount": 1_000}).to_string();
    for (code, key, status, answered) in [
        ("REJECT_CARD_PAYMENT", None, 403, "REJECT_CARD_PAYMENT"),
        ("NOT_CANCELABLE_AMOUNT", None, 400, "INVALID_TEST_CODE"),
        ("NO_SUCH_CODE", None, 400, "INVALID_TEST_CODE"),
        ("IDEMPOTENT_REQUEST_PROCESSING", Some("k"), 409, "IDEMPOTENT_REQUEST_PROCESSING"),
    ] {
        let mut headers = vec![("authorization", CREDENTIALS), ("TossPayments-Test-Code", code)];
        headers.extend(key.map(|key| ("idempotency-key", key)));
        let heard = shop.send(Method::POST, "/v1/payments/confirm", &headers, body.clone()).await.unwrap();
        assert_eq!((heard.status, heard.code().as_str()), (status, answered), "{code}");
    }
    assert_eq!(shop.confirm("k", &payment_key, 1_000).await.status, 200);
}

#[tokio::test]
async fn a_cut_connection_is_bound_to_the_answer_that_was_lost() {
    let shop = Shop::open().await;
    let payment_key = shop.pg.pay(ORDER, 1_000);
    shop.pg.script(Rule::confirm(Behaviour::ApproveThenDrop).times(2));
    assert!(shop.try_confirm("k", &payment_key, 1_000).await.is_err());
    assert!(shop.try_confirm("k", &payment_key, 1_000).await.is_err(), "the line is still down");
    assert_eq!(shop.confirm("k", &payment_key, 1_000).await.json()["status"], "DONE");
    assert_eq!(shop.pg.book().approved(ORDER), 1_000);
}

#[tokio::test]
async fn a_client_that_gave_up_finds_the_answer_later() {
    let shop = Shop::open().await;
    let payment_key = shop.pg.pay(ORDER, 1_000);
    shop.pg.script(Rule::confirm(Behaviour::ApproveThenHang { ms: 500 }));
    tokio::select! {
        _ = shop.confirm("k", &payment_key, 1_000) => panic!("the answer was not held back"),
        () = until("the call", async || shop.pg.book().calls.confirm == 1) => {}
    }
    assert_eq!(shop.look_up(&payment_key).await["status"], "DONE");
    until("the answer", async || shop.confirm("k", &payment_key, 1_000).await.status == 200).await;
    assert_eq!(shop.pg.book().approved(ORDER), 1_000);
}
