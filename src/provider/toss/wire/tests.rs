//! What is read from answers, and what is sent.

use serde_json::{Value, json};

use super::*;
use crate::domain::ids::OrderId;
use crate::provider::RefundAccount;

fn paid() -> Value {
    json!({
        "version": "2022-11-16", "mId": "beanshop", "type": "NORMAL",
        "paymentKey": "beans20260504120000Qw7Er", "orderId": "ord_0196a3f0c0de7abc8def001122334455",
        "orderName": "드립백 10개", "currency": "KRW", "country": "KR", "method": "카드", "status": "DONE",
        "totalAmount": 18700, "balanceAmount": 18700, "suppliedAmount": 17000, "vat": 1700,
        "taxFreeAmount": 0, "taxExemptionAmount": 0, "useEscrow": false, "cultureExpense": false,
        "requestedAt": "2026-05-04T11:58:40+09:00", "approvedAt": "2026-05-04T12:00:00+09:00",
        "lastTransactionKey": "txrd_a02approval", "isPartialCancelable": true,
        "card": {"amount": 18700, "issuerCode": "61", "acquirerCode": "31", "number": "94100000****001*",
            "installmentPlanMonths": 0, "approveNo": "00000000", "interestPayer": null},
        "virtualAccount": null, "transfer": null, "mobilePhone": null, "giftCertificate": null,
        "easyPay": null, "cashReceipt": null, "discount": null, "cancels": null, "failure": null,
        "metadata": null, "secret": "ps_beansSecret0001", "receipt": {"url": "https://receipt.invalid/1"}
    })
}

/// `paid` with some keys changed.
fn with(changes: Value) -> Value {
    let mut payment = paid();
    payment.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    payment
}

fn without(keys: &[&str]) -> Value {
    let mut payment = paid();
    payment.as_object_mut().unwrap().retain(|key, _| !keys.contains(&key.as_str()));
    payment
}

fn read(payment: &Value) -> Option<Snapshot> {
    snapshot(payment.to_string().as_bytes(), Some("beanshop"))
}

fn utc(text: &str) -> Option<chrono::DateTime<chrono::Utc>> {
    Some(text.parse().unwrap())
}

#[test]
fn a_paid_card_payment_is_read_in_full() {
    let snapshot = read(&paid()).unwrap();
    assert_eq!(snapshot.payment_key.as_str(), "beans20260504120000Qw7Er");
    assert_eq!(snapshot.order_id, "ord_0196a3f0c0de7abc8def001122334455");
    assert_eq!(snapshot.status, PgStatus::Done);
    assert_eq!(snapshot.method, Some(Method::Card));
    assert_eq!(snapshot.amount, Some(Money::new(18_700, Currency::KRW)));
    assert_eq!(snapshot.balance, 18_700);
    assert!(snapshot.own_shop);
    assert_eq!(snapshot.approved_at, utc("2026-05-04T03:00:00Z"));
    assert_eq!(snapshot.transaction_key.as_deref(), Some("txrd_a02approval"));
    assert_eq!(snapshot.secret.unwrap().expose_secret(), "ps_beansSecret0001");
    assert_eq!(snapshot.deposit, None);
    assert!(!snapshot.deposit_closed);
    assert_eq!(snapshot.cancels, vec![]);
    assert_eq!(snapshot.failure_code, None);
}

#[test]
fn a_payment_without_identity_or_a_readable_amount_is_no_payment() {
    for key in ["paymentKey", "orderId", "status", "totalAmount"] {
        assert!(read(&without(&[key])).is_none(), "{key}");
        assert!(read(&with(json!({key: null}))).is_none(), "{key}");
        assert!(read(&with(json!({key: {}}))).is_none(), "{key}");
    }
    for (key, odd) in [
        ("totalAmount", json!(-1)),
        ("totalAmount", json!(10.5)),
        ("totalAmount", json!("18700")),
        ("totalAmount", json!(18_446_744_073_709_551_615_u64)),
        ("balanceAmount", json!(0.1)),
        ("paymentKey", json!("")),
        ("paymentKey", json!("a/b")),
        ("paymentKey", json!("..")),
        ("mId", json!(5)),
    ] {
        assert!(read(&with(json!({key: odd}))).is_none(), "{key} {odd}");
    }
    for body in ["", "{}", "[]", "null", "<html></html>", "{\"code\":\"X\",\"message\":\"y\"}", "[1,2,3]"] {
        assert!(snapshot(body.as_bytes(), None).is_none(), "{body}");
    }
    let twice = paid().to_string().replacen('{', "{\"totalAmount\":1,", 1);
    assert!(snapshot(twice.as_bytes(), None).is_none());
}

#[test]
fn an_expired_payment_leaves_nearly_everything_out() {
    let body = json!({
        "paymentKey": "beans1", "orderId": "ord_1", "status": "EXPIRED", "currency": "KRW", "totalAmount": 18700,
        "method": null, "useEscrow": null, "failure": {"code": "EXPIRED_PAYMENT", "message": "…"}
    });
    let snapshot = read(&body).unwrap();
    assert_eq!(snapshot.status, PgStatus::Expired);
    assert_eq!((snapshot.method, snapshot.balance, snapshot.own_shop), (None, 0, true));
    assert_eq!(snapshot.failure_code.as_deref(), Some("EXPIRED_PAYMENT"));
}

#[test]
fn news_from_the_pg_does_not_break_reading() {
    let snapshot = read(&with(json!({
        "status": "HELD_FOR_REVIEW", "method": "양자결제", "brandNew": {"a": [1, {"b": null}]},
        "card": "odd", "easyPay": "토스페이", "secret": 17, "approvedAt": {"no": "time"},
        "virtualAccount": ["unexpected"], "failure": "text", "metadata": 5
    })))
    .unwrap();
    assert_eq!(snapshot.status, PgStatus::Unrecognized);
    assert_eq!(snapshot.method, Some(Method::Other));
    assert!(snapshot.secret.is_none() && snapshot.approved_at.is_none() && snapshot.failure_code.is_none());
    assert!(read(&with(json!({"easyPay": {"provider": "토스페이", "amount": 1, "discountAmount": 0}}))).is_some());
    assert_eq!(read(&with(json!({"failure": {"code": "<b>no code</b>"}}))).unwrap().failure_code, None);
    let older = with(json!({"lastTransactionKey": null, "transactionKey": "old_tx"}));
    assert_eq!(read(&older).unwrap().transaction_key.as_deref(), Some("old_tx"));
}

#[test]
fn every_status_and_method_name_is_known() {
    for (text, status) in [
        ("READY", PgStatus::Ready),
        ("IN_PROGRESS", PgStatus::InProgress),
        ("WAITING_FOR_DEPOSIT", PgStatus::WaitingForDeposit),
        ("DONE", PgStatus::Done),
        ("PARTIAL_CANCELED", PgStatus::PartiallyCanceled),
        ("CANCELED", PgStatus::Canceled),
        ("ABORTED", PgStatus::Aborted),
        ("EXPIRED", PgStatus::Expired),
    ] {
        assert_eq!(pg_status(text), status);
    }
    for (names, wanted) in [
        ("카드 CARD Card", Method::Card),
        ("가상계좌 VIRTUAL_ACCOUNT VirtualAccount", Method::VirtualAccount),
        ("간편결제 EASY_PAY Easy-Pay", Method::EasyPay),
        ("휴대폰 MOBILE_PHONE Mobile", Method::Mobile),
        ("계좌이체 TRANSFER Transfer", Method::Transfer),
        ("문화상품권 도서문화상품권 게임문화상품권 CULTURE_GIFT_CERTIFICATE", Method::Gift),
        ("해외간편결제 FOREIGN_EASY_PAY", Method::Foreign),
        ("주식 STOCKS", Method::Other),
    ] {
        for name in names.split_whitespace() {
            assert_eq!(method(name), wanted, "{name}");
        }
    }
    assert_eq!(method("Virtual account"), Method::VirtualAccount);
}

#[test]
fn another_shop_s_payment_is_not_ours() {
    assert!(!read(&with(json!({"mId": "teashop"}))).unwrap().own_shop);
    assert!(read(&without(&["mId"])).unwrap().own_shop);
    let unconfigured = snapshot(with(json!({"mId": "teashop"})).to_string().as_bytes(), None);
    assert!(unconfigured.unwrap().own_shop);
}

#[test]
fn amounts_follow_their_currency() {
    let usd = Currency::parse("USD").unwrap();
    // Written as text: the point is that no float comes between.
    let text = paid().to_string().replace("\"KRW\"", "\"USD\"");
    let text = text.replace("\"totalAmount\":18700", "\"totalAmount\":90071992547409.93");
    let snapshot = snapshot(text.as_bytes(), None).unwrap();
    assert_eq!(snapshot.amount, Some(Money::new(9_007_199_254_740_993, usd)));
    assert_eq!(snapshot.balance, 1_870_000);
    assert_eq!(read(&with(json!({"totalAmount": 18700.0}))).unwrap().amount.unwrap().minor, 18_700);
    let unknown = read(&with(json!({"currency": "XTS", "totalAmount": 12.5, "balanceAmount": 0}))).unwrap();
    assert_eq!((unknown.amount, unknown.balance), (None, 0));
    assert_eq!(read(&without(&["currency"])).unwrap().amount, None);
}

fn canceled(cancel: Value) -> Value {
    with(json!({"status": "PARTIAL_CANCELED", "balanceAmount": 15000, "cancels": [cancel]}))
}

#[test]
fn cancels_are_read_strictly_where_money_hangs_on_them() {
    let entry = json!({
        "transactionKey": "txrd_a02cancel", "cancelAmount": 3700, "cancelReason": "맛이 없음 [can_1]",
        "canceledAt": "2026-05-05T09:30:00+09:00", "cancelStatus": "DONE", "refundableAmount": 15000
    });
    let snapshot = read(&canceled(entry.clone())).unwrap();
    let wanted = PgCancel {
        transaction_key: "txrd_a02cancel".to_owned(),
        amount: 3_700,
        reason: "맛이 없음 [can_1]".to_owned(),
        canceled_at: utc("2026-05-05T00:30:00Z"),
        done: true,
    };
    assert_eq!(snapshot.cancels, vec![wanted]);
    let changed = |key: &str, value: Value| {
        let mut cancel = entry.clone();
        cancel.as_object_mut().unwrap().insert(key.to_owned(), value);
        read(&canceled(cancel))
    };
    assert!(changed("cancelStatus", Value::Null).unwrap().cancels.iter().all(|cancel| cancel.done));
    for waiting in ["IN_PROGRESS", "ABORTED", "SOMETHING_NEW"] {
        assert!(!changed("cancelStatus", json!(waiting)).unwrap().cancels.iter().any(|cancel| cancel.done));
    }
    assert!(changed("canceledAt", json!("later")).unwrap().cancels.iter().all(|cancel| cancel.canceled_at.is_none()));
    assert!(changed("cancelAmount", json!("much")).is_none());
    assert!(changed("transactionKey", Value::Null).is_none());
    assert!(read(&with(json!({"cancels": "none"}))).is_none());
}

#[test]
fn a_missing_balance_is_never_taken_for_a_full_refund() {
    assert_eq!(read(&without(&["balanceAmount"])).unwrap().balance, 18_700);
    let mut part = canceled(json!({"transactionKey": "t", "cancelAmount": 3700}));
    part.as_object_mut().unwrap().remove("balanceAmount");
    assert_eq!(read(&part).unwrap().balance, 15_000);
    let mut over = canceled(json!({"transactionKey": "t", "cancelAmount": 18701}));
    over.as_object_mut().unwrap().remove("balanceAmount");
    assert!(read(&over).is_none());
}

#[test]
fn a_virtual_account_is_read_with_either_form_of_due_date() {
    for (due, expired) in [("2026-05-11T23:59:59", false), ("2026-05-11T23:59:59+09:00", true)] {
        let snapshot = read(&with(json!({
            "method": "가상계좌", "status": "WAITING_FOR_DEPOSIT", "approvedAt": null, "card": null,
            "virtualAccount": {"accountType": "일반", "accountNumber": "X5550001112223", "bankCode": "20",
                "customerName": "김원두", "dueDate": due, "expired": expired, "refundReceiveAccount": null}
        })))
        .unwrap();
        let account = snapshot.deposit.unwrap();
        assert_eq!((account.bank_code.as_str(), account.account_number.as_str()), ("20", "X5550001112223"));
        assert_eq!((account.holder.as_str(), account.due_at), ("김원두", utc("2026-05-11T14:59:59Z")));
        assert_eq!(snapshot.deposit_closed, expired);
        assert_eq!(snapshot.approved_at, None);
    }
    let older = read(&with(json!({"virtualAccount": {"accountNumber": "1", "bank": "88"}}))).unwrap();
    assert_eq!(older.deposit.unwrap().bank_code, "88");
}

#[test]
fn every_truncation_of_an_answer_is_undecodable() {
    let body = paid().to_string();
    for end in 0..body.len() {
        assert!(snapshot(&body.as_bytes()[..end], None).is_none(), "{end}");
    }
}

#[test]
fn a_code_is_believed_only_if_it_looks_like_one() {
    let code = |body: &str| error_code(body.as_bytes());
    assert_eq!(code(r#"{"code":"REJECT_CARD_COMPANY","message":"…"}"#).as_deref(), Some("REJECT_CARD_COMPANY"));
    assert_eq!(code(r#"{"version":"x","error":{"code":"NOT_FOUND"}}"#).as_deref(), Some("NOT_FOUND"));
    let long = format!(r#"{{"code":"{}"}}"#, "A".repeat(65));
    for body in [
        "",
        "<html>502</html>",
        "[]",
        "{}",
        r#"{"code":""}"#,
        r#"{"code":500}"#,
        r#"{"code":"card 4111"}"#,
        r#"{"code":"lower"}"#,
        r#"{"message":"CODE"}"#,
        long.as_str(),
    ] {
        assert_eq!(code(body), None, "{body}");
    }
}

#[test]
fn the_shop_s_reason_is_cut_and_ours_is_kept() {
    let id = CancellationId::new();
    assert_eq!(cancel_reason(" 단순 변심 ", id), format!("단순 변심 [{id}]"));
    assert_eq!(cancel_reason("", id), format!("[{id}]"));
    for character in ["a", "한", "😀", "e\u{301}"] {
        let reason = cancel_reason(&character.repeat(500), id);
        assert!(reason.ends_with(&format!(" [{id}]")));
        assert!(reason.encode_utf16().count() <= 200);
        assert!(reason.chars().count() >= 119, "{}", reason.chars().count());
    }
    assert_eq!(cancel_reason(&"x".repeat(161), id).chars().count(), 200);
}

fn cancel_request() -> CancelRequest {
    CancelRequest {
        payment_key: PaymentKey::parse("beans1").unwrap(),
        cancellation_id: CancellationId::new(),
        reason: "r".to_owned(),
        amount: None,
        expected_balance: None,
        refund_account: None,
        idempotency_key: "k".to_owned(),
    }
}

fn sent(request: &CancelRequest) -> String {
    String::from_utf8(cancel_body(request).unwrap()).unwrap()
}

#[test]
fn a_cancel_says_only_what_it_was_given() {
    let usd = Currency::parse("USD").unwrap();
    let mut request = cancel_request();
    let reason = format!("r [{}]", request.cancellation_id);
    assert_eq!(sent(&request), format!(r#"{{"cancelReason":"{reason}"}}"#));
    request.expected_balance = Some(Money::new(2_000, usd));
    request.amount = Some(Money::new(1_205, usd));
    assert_eq!(
        sent(&request),
        format!(r#"{{"cancelReason":"{reason}","cancelAmount":12.05,"refundableAmount":20.00,"currency":"USD"}}"#)
    );
    request.amount = Some(Money::new(1, Currency::KRW));
    assert!(cancel_body(&request).is_none());
    request.amount = None;
    request.expected_balance = None;
    request.refund_account =
        Some(RefundAccount { bank_code: "20".to_owned(), account_number: "123".into(), holder: "김".into() });
    assert_eq!(
        sent(&request),
        format!(
            r#"{{"cancelReason":"{reason}","refundReceiveAccount":{{"bank":"20","accountNumber":"123","holderName":"김"}}}}"#
        )
    );
}

#[test]
fn a_confirm_carries_the_exact_amount() {
    let order_id = OrderId::new();
    let request = ConfirmRequest {
        payment_key: PaymentKey::parse("beans1").unwrap(),
        order_id,
        amount: Money::new(9_007_199_254_740_993, Currency::KRW),
        idempotency_key: "k".to_owned(),
    };
    let body = String::from_utf8(confirm_body(&request).unwrap()).unwrap();
    assert_eq!(body, format!(r#"{{"paymentKey":"beans1","orderId":"{order_id}","amount":9007199254740993}}"#));
}
