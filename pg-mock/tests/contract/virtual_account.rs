//! Virtual accounts: issued, paid, taken back, canceled.

use std::time::Duration;

use pg_mock::{Options, Status};
use serde_json::{Value, json};

use crate::shop::{ORDER, Shop};

async fn issued(shop: &Shop) -> String {
    let payment_key = shop.pg.pay_by_virtual_account(ORDER, 50_000);
    let heard = shop.confirm("issue", &payment_key, 50_000).await;
    assert_eq!(heard.status, 200);
    let payment = heard.json();
    assert_eq!((&payment["status"], &payment["approvedAt"]), (&json!("WAITING_FOR_DEPOSIT"), &Value::Null));
    let account = &payment["virtualAccount"];
    assert!(account["accountNumber"].as_str().unwrap().starts_with('X'));
    assert_eq!((&account["bankCode"], &account["expired"]), (&json!("20"), &json!(false)));
    assert_eq!(shop.pg.book().approved(ORDER), 0);
    payment_key
}

#[tokio::test]
async fn money_is_booked_with_the_deposit_and_unbooked_when_it_is_taken_back() {
    let shop = Shop::open().await;
    let payment_key = issued(&shop).await;
    shop.pg.deposit(&payment_key);
    assert_eq!(shop.look_up(&payment_key).await["status"], "DONE");
    assert_eq!(shop.pg.book().approved(ORDER), 50_000);
    shop.pg.reverse_deposit(&payment_key);
    let payment = shop.look_up(&payment_key).await;
    assert_eq!((&payment["status"], &payment["approvedAt"]), (&json!("WAITING_FOR_DEPOSIT"), &Value::Null));
    assert_eq!(shop.pg.book().approved(ORDER), 0);
    shop.pg.deposit(&payment_key);
    assert_eq!(shop.pg.book().approved(ORDER), 50_000);
    assert_eq!(shop.pg.book().payment(&payment_key).unwrap().approvals.len(), 2);
}

#[tokio::test]
async fn an_unpaid_account_is_canceled_as_a_whole_without_an_account_to_refund_to() {
    let shop = Shop::open().await;
    let payment_key = issued(&shop).await;
    let part = shop.cancel("k1", &payment_key, json!({"cancelReason": "x", "cancelAmount": 1})).await;
    assert_eq!((part.status, part.code().as_str()), (403, "NOT_ALLOWED_PARTIAL_REFUND_WAITING_DEPOSIT"));
    let whole = shop.cancel("k2", &payment_key, json!({"cancelReason": "x"})).await;
    assert_eq!(whole.json()["status"], "CANCELED");
    let book = shop.pg.book();
    assert_eq!((book.approved(ORDER), book.canceled(ORDER)), (0, 0));
}

#[tokio::test]
async fn a_paid_account_needs_an_account_to_refund_to() {
    let shop = Shop::open().await;
    let payment_key = issued(&shop).await;
    shop.pg.deposit(&payment_key);
    let account = |bank: &str, number: &str, holder: &str| {
        json!({"cancelReason": "x", "cancelAmount": 10_000,
               "refundReceiveAccount": {"bank": bank, "accountNumber": number, "holderName": holder}})
    };
    for (key, body, code) in [
        ("k1", json!({"cancelReason": "x"}), "INVALID_REFUND_ACCOUNT_INFO"),
        ("k2", account("ZZ", "123", "김"), "INVALID_BANK"),
        ("k3", account("20", "12-3", "김"), "INVALID_REFUND_ACCOUNT_NUMBER"),
        ("k4", account("20", "123", ""), "INVALID_REFUND_ACCOUNT_INFO"),
    ] {
        let heard = shop.cancel(key, &payment_key, body).await;
        assert_eq!((heard.status, heard.code().as_str()), (400, code));
    }
    let heard = shop.cancel("k5", &payment_key, account("20", "1000123456789", "김구매")).await;
    assert_eq!(heard.json()["status"], "PARTIAL_CANCELED");
    assert_eq!(heard.json()["virtualAccount"]["refundStatus"], "PENDING");
    assert_eq!(shop.pg.book().net(ORDER), 40_000);
}

#[tokio::test]
async fn an_account_past_its_due_date_stays_waiting_and_takes_no_deposit() {
    let shop = Shop::with(Options { deposit_due: Duration::ZERO, ..Options::default() }).await;
    let payment_key = shop.pg.pay_by_virtual_account(ORDER, 50_000);
    shop.confirm("issue", &payment_key, 50_000).await;
    let payment = shop.look_up(&payment_key).await;
    assert_eq!(
        (&payment["status"], &payment["virtualAccount"]["expired"]),
        (&json!("WAITING_FOR_DEPOSIT"), &json!(true))
    );
    let path = format!("/mock/payments/{payment_key}/deposit");
    assert_eq!(shop.post(&path, "", &json!({})).await.unwrap().status, 409);
    assert_eq!(shop.pg.book().payment(&payment_key).unwrap().status, Status::WaitingForDeposit);
}

#[tokio::test]
async fn deposits_can_be_made_over_http() {
    let shop = Shop::open().await;
    let payment_key = issued(&shop).await;
    for (step, status) in [("deposit", "DONE"), ("reverse-deposit", "WAITING_FOR_DEPOSIT")] {
        let path = format!("/mock/payments/{payment_key}/{step}");
        assert_eq!(shop.post(&path, "", &json!({})).await.unwrap().json()["status"], status);
    }
}
