//! The cancel endpoint: amounts, tax, and the documented refusals.

use serde_json::json;

use crate::shop::{ORDER, Shop};

#[tokio::test]
async fn partial_cancels_move_the_balance_and_the_tax() {
    let shop = Shop::open().await;
    let payment_key = shop.paid().await;
    let body = json!({"cancelReason": "고객 변심 [rf_000042]", "cancelAmount": 11_000, "refundableAmount": 34_100});
    let heard = shop.cancel("refund:1", &payment_key, body).await;
    assert_eq!(heard.status, 200);
    let payment = heard.json();
    assert_eq!(payment["status"], "PARTIAL_CANCELED");
    assert_eq!(
        [&payment["totalAmount"], &payment["balanceAmount"], &payment["suppliedAmount"], &payment["vat"]],
        [34_100, 23_100, 21_000, 2_100]
    );
    let cancel = &payment["cancels"][0];
    assert_eq!(cancel["transactionKey"], payment["lastTransactionKey"]);
    assert_eq!(cancel["cancelReason"], "고객 변심 [rf_000042]");
    assert_eq!([&cancel["cancelAmount"], &cancel["refundableAmount"]], [11_000, 23_100]);
    assert_eq!(cancel["cancelStatus"], "DONE");
    let rest = shop.cancel("refund:2", &payment_key, json!({"cancelReason": "나머지"})).await.json();
    assert_eq!((&rest["status"], &rest["balanceAmount"]), (&json!("PARTIAL_CANCELED"), &json!(0)));
    let beyond = shop.cancel("refund:3", &payment_key, json!({"cancelReason": "또", "cancelAmount": 1})).await;
    assert_eq!((beyond.status, beyond.code().as_str()), (403, "NOT_CANCELABLE_AMOUNT"));
    let book = shop.pg.book();
    assert_eq!((book.approved(ORDER), book.canceled(ORDER)), (34_100, 34_100));
}

#[tokio::test]
async fn a_full_cancel_cannot_be_repeated() {
    let shop = Shop::open().await;
    let payment_key = shop.paid().await;
    let heard = shop.cancel("refund:1", &payment_key, json!({"cancelReason": "품절"})).await;
    assert_eq!(heard.json()["status"], "CANCELED");
    let again = shop.cancel("refund:2", &payment_key, json!({"cancelReason": "품절"})).await;
    assert_eq!((again.status, again.code().as_str()), (400, "ALREADY_CANCELED_PAYMENT"));
    assert_eq!(shop.pg.book().net(ORDER), 0);
}

#[tokio::test]
async fn a_cancel_that_breaks_a_rule_changes_nothing() {
    let shop = Shop::open().await;
    let payment_key = shop.paid().await;
    let cases = [
        (json!({"cancelAmount": 100}), 400, "INVALID_REQUEST"),
        (json!({"cancelReason": ""}), 400, "INVALID_REQUEST"),
        (json!({"cancelReason": "가".repeat(201)}), 400, "INVALID_REQUEST"),
        (json!({"cancelReason": "x", "cancelAmount": "100"}), 400, "INVALID_REQUEST"),
        (json!({"cancelReason": "x", "currency": "USD"}), 400, "INVALID_REQUEST"),
        (json!({"cancelReason": "x", "refundableAmount": 34_000}), 400, "NOT_MATCHES_REFUNDABLE_AMOUNT"),
        (json!({"cancelReason": "x", "cancelAmount": 34_101}), 403, "NOT_CANCELABLE_AMOUNT"),
        (json!({"cancelReason": "x", "cancelAmount": 0}), 403, "NOT_CANCELABLE_AMOUNT"),
        (json!({"cancelReason": "x", "cancelAmount": -5}), 403, "NOT_CANCELABLE_AMOUNT"),
    ];
    for (number, (body, status, code)) in cases.into_iter().enumerate() {
        let heard = shop.cancel(&format!("k{number}"), &payment_key, body.clone()).await;
        assert_eq!((heard.status, heard.code().as_str()), (status, code), "{body}");
    }
    let waiting = shop.pg.pay(ORDER, 1_000);
    let early = shop.cancel("early", &waiting, json!({"cancelReason": "x"})).await;
    assert_eq!((early.status, early.code().as_str()), (403, "NOT_CANCELABLE_PAYMENT"));
    let nobody = shop.cancel("nobody", "nobody", json!({"cancelReason": "x"})).await;
    assert_eq!((nobody.status, nobody.code().as_str()), (404, "NOT_FOUND_PAYMENT"));
    assert_eq!(shop.pg.book().canceled(ORDER), 0);
}

#[tokio::test]
async fn some_payments_can_only_be_canceled_as_a_whole() {
    let shop = Shop::open().await;
    let payment_key = shop.paid().await;
    let part = json!({"cancelReason": "x", "cancelAmount": 100});
    shop.pg.set_discount(&payment_key, 1_000);
    let discounted = shop.cancel("k1", &payment_key, part.clone()).await;
    assert_eq!(discounted.code(), "EXCEED_CANCEL_AMOUNT_DISCOUNT_AMOUNT");
    shop.pg.use_escrow(&payment_key);
    let escrow = shop.cancel("k2", &payment_key, part).await;
    assert_eq!((escrow.status, escrow.code().as_str()), (403, "NOT_ALLOWED_PARTIAL_REFUND"));
    assert_eq!(shop.look_up(&payment_key).await["isPartialCancelable"], false);
    assert_eq!(shop.cancel("k3", &payment_key, json!({"cancelReason": "x"})).await.status, 200);
}

#[tokio::test]
async fn a_cancel_in_the_back_office_shows_in_lookups() {
    let shop = Shop::open().await;
    let payment_key = shop.paid().await;
    shop.pg.cancel_in_console(&payment_key, 4_100);
    let payment = shop.look_up(&payment_key).await;
    assert_eq!((&payment["balanceAmount"], &payment["cancels"][0]["cancelAmount"]), (&json!(30_000), &json!(4_100)));
    assert_eq!(shop.pg.book().canceled(ORDER), 4_100);
}
