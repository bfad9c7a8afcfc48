//! The Payment object as it goes over the wire.
//!
//! Made for answers and for webhooks from one [`Payment`]. A payment that never got past confirm
//! leaves keys out, as the real API does, so that clients learn to live without them.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::{KST, errors};
use crate::Options;
use crate::payment::{Cancellation, Method, Payment, Status};

/// Korean time with offset, whole seconds.
pub(crate) fn time(moment: DateTime<Utc>) -> String {
    moment.with_timezone(&KST).format("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

pub(crate) fn method(method: Method) -> &'static str {
    match method {
        Method::Card => "카드",
        Method::VirtualAccount => "가상계좌",
        Method::EasyPay => "간편결제",
        Method::Transfer => "계좌이체",
    }
}

pub(crate) fn receipt_url(payment: &Payment) -> String {
    let key = &payment.payment_key;
    format!("https://dashboard.tosspayments.com/receipt/{key}")
}

/// The whole Payment object.
pub(crate) fn payment(payment: &Payment, options: &Options, now: DateTime<Utc>) -> Value {
    let mut object = core(payment, options);
    match payment.status {
        Status::Expired => {
            object.insert("method".into(), Value::Null);
            object.insert("useEscrow".into(), Value::Null);
            object.insert("failure".into(), failure(payment));
        }
        Status::Aborted => {
            object.insert("failure".into(), failure(payment));
            object.insert("card".into(), Value::Null);
        }
        Status::Ready
        | Status::InProgress
        | Status::WaitingForDeposit
        | Status::Done
        | Status::Canceled
        | Status::PartialCanceled => object.extend(details(payment, now)),
    }
    Value::Object(object)
}

fn core(payment: &Payment, options: &Options) -> Map<String, Value> {
    let balance = payment.balance();
    let vat = vat(balance - payment.tax_free_amount);
    let key = &payment.payment_key;
    let fields = [
        ("version", json!("2022-11-16")),
        ("mId", json!(options.m_id)),
        ("paymentKey", json!(key)),
        ("lastTransactionKey", json!(payment.last_transaction_key)),
        ("type", json!("NORMAL")),
        ("orderId", json!(payment.order_id)),
        ("orderName", json!(payment.order_name)),
        ("currency", json!(payment.currency)),
        ("country", json!("KR")),
        ("method", json!(method(payment.method))),
        ("status", json!(payment.status)),
        ("totalAmount", json!(payment.total_amount)),
        ("balanceAmount", json!(balance)),
        ("suppliedAmount", json!(balance - payment.tax_free_amount - vat)),
        ("vat", json!(vat)),
        ("taxFreeAmount", json!(payment.tax_free_amount)),
        ("taxExemptionAmount", json!(0)),
        ("requestedAt", json!(time(payment.requested_at))),
        ("approvedAt", json!(payment.approved_at.map(time))),
        ("useEscrow", json!(payment.escrow)),
        ("cultureExpense", json!(false)),
        ("isPartialCancelable", json!(payment.partial_cancelable && !payment.escrow)),
        ("secret", json!(payment.secret)),
        ("checkout", json!({"url": format!("https://api.tosspayments.com/v1/payments/{key}/checkout")})),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn details(payment: &Payment, now: DateTime<Utc>) -> Map<String, Value> {
    let past_confirm = payment.last_transaction_key.is_some();
    let when = |method: Method, value: Value| {
        if past_confirm && payment.method == method { value } else { Value::Null }
    };
    let cancels: Vec<Value> = payment.cancels.iter().map(cancel).collect();
    let discount = payment.discount;
    let fields = [
        ("card", when(Method::Card, card(payment))),
        ("virtualAccount", when(Method::VirtualAccount, virtual_account(payment, now))),
        ("transfer", when(Method::Transfer, json!({"bankCode": "88", "settlementStatus": "INCOMPLETED"}))),
        (
            "easyPay",
            when(
                Method::EasyPay,
                json!({
                    "provider": "토스페이", "amount": payment.total_amount, "discountAmount": 0,
                }),
            ),
        ),
        ("mobilePhone", Value::Null),
        ("giftCertificate", Value::Null),
        ("cashReceipt", Value::Null),
        ("cashReceipts", Value::Null),
        ("discount", if discount > 0 { json!({"amount": discount}) } else { Value::Null }),
        ("cancels", if cancels.is_empty() { Value::Null } else { Value::Array(cancels) }),
        ("failure", Value::Null),
        ("metadata", Value::Null),
        ("receipt", if past_confirm { json!({"url": receipt_url(payment)}) } else { Value::Null }),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// One entry of `cancels`.
pub(crate) fn cancel(cancel: &Cancellation) -> Value {
    json!({
        "transactionKey": cancel.transaction_key,
        "cancelAmount": cancel.amount,
        "cancelReason": cancel.reason,
        "taxFreeAmount": 0,
        "taxExemptionAmount": 0,
        "refundableAmount": cancel.refundable_amount,
        "cardDiscountAmount": 0,
        "transferDiscountAmount": 0,
        "easyPayDiscountAmount": 0,
        "canceledAt": time(cancel.canceled_at),
        "receiptKey": null,
        "cancelStatus": "DONE",
        "cancelRequestId": null,
    })
}

fn failure(payment: &Payment) -> Value {
    let code = payment.failure.as_deref().unwrap_or("PAY_PROCESS_ABORTED");
    json!({ "code": code, "message": errors::message(code) })
}

fn card(payment: &Payment) -> Value {
    json!({
        "amount": payment.total_amount,
        "issuerCode": "41",
        "acquirerCode": "41",
        "number": "53870012****345*",
        "installmentPlanMonths": 0,
        "approveNo": "00012345",
        "useCardPoint": false,
        "cardType": "신용",
        "ownerType": "개인",
        "acquireStatus": if payment.status == Status::Canceled { "CANCELED" } else { "READY" },
        "isInterestFree": false,
        "interestPayer": null,
    })
}

fn virtual_account(payment: &Payment, now: DateTime<Utc>) -> Value {
    let paid = payment.approved_at.is_some();
    let due = payment.due_at.map(|due| {
        let local = due.with_timezone(&KST);
        // The documented form of this one field has no offset.
        local.format("%Y-%m-%dT%H:%M:%S").to_string()
    });
    json!({
        "accountType": "일반",
        "accountNumber": account_number(&payment.secret),
        "bankCode": "20",
        "customerName": "김구매",
        "depositorName": if paid { json!("김구매") } else { Value::Null },
        "dueDate": due,
        "refundStatus": if paid && !payment.cancels.is_empty() { "PENDING" } else { "NONE" },
        "expired": !paid && payment.due_at.is_some_and(|due| due < now),
        "settlementStatus": "INCOMPLETED",
        "refundReceiveAccount": null,
    })
}

/// Test account numbers begin with `X`; the digits only have to differ between payments.
fn account_number(secret: &str) -> String {
    let digits = secret.bytes().filter(u8::is_ascii_digit).map(char::from);
    let mut number = String::from("X");
    number.extend(digits.chain("00000000000000".chars()).take(14));
    number
}

/// One eleventh, rounded half up.
fn vat(taxable: i64) -> i64 {
    (taxable * 2 + 11) / 22
}
