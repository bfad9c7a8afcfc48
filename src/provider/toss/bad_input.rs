//! Properties of what is read from outside: webhooks that anybody may send, and answers of a PG that has gone astray.
//! `PROPTEST_CASES` sets how many cases are tried.

use std::time::Duration;

use proptest::prelude::*;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::http::{Outcome, Reply};
use super::{Toss, TossConfig, amount, webhook};
use crate::domain::evidence::{CancelAnswer, ConfirmAnswer, Inquiry, NotSentReason, PgStatus};
use crate::provider::Notice;

/// The codes by which a confirm is certainly over. A list of its own, on purpose: a word that is added to the table of
/// the product must be added here too.
const CONFIRM_ENDS: &[&str] = &[
    "INVALID_REQUEST",
    "INVALID_API_KEY",
    "INVALID_ORDER_ID",
    "INVALID_PAYMENT_KEY",
    "NOT_FOUND_TERMINAL_ID",
    "INVALID_UNREGISTERED_SUBMALL",
    "NOT_REGISTERED_BUSINESS",
    "INVALID_AUTHORIZE_AUTH",
    "BELOW_MINIMUM_AMOUNT",
    "EXCEED_MAX_CARD_INSTALLMENT_PLAN",
    "NOT_SUPPORTED_INSTALLMENT_PLAN_CARD_OR_MERCHANT",
    "INVALID_CARD_INSTALLMENT_PLAN",
    "NOT_SUPPORTED_MONTHLY_INSTALLMENT_PLAN",
    "INVALID_CARD_NUMBER",
    "INVALID_CARD_EXPIRATION",
    "INVALID_STOPPED_CARD",
    "INVALID_REJECT_CARD",
    "INVALID_CARD_LOST_OR_STOLEN",
    "NOT_ALLOWED_POINT_USE",
    "EXCEED_MAX_DAILY_PAYMENT_COUNT",
    "EXCEED_MAX_PAYMENT_AMOUNT",
    "EXCEED_MAX_AMOUNT",
    "EXCEED_MAX_MONTHLY_PAYMENT_AMOUNT",
    "EXCEED_MAX_ONE_DAY_WITHDRAW_AMOUNT",
    "EXCEED_MAX_ONE_TIME_WITHDRAW_AMOUNT",
    "RESTRICTED_TRANSFER_ACCOUNT",
    "INVALID_ACCOUNT_INFO_RE_REGISTER",
    "NOT_AVAILABLE_PAYMENT",
    "PAY_PROCESS_CANCELED",
    "PAY_PROCESS_ABORTED",
    "EXCEEDS_TRANSFER_AMOUNT_MAXIMUM",
    "MAINTAINED_METHOD",
    "INVALID_IDEMPOTENCY_KEY",
    "INVALID_TEST_CODE",
    "API_VERSION_UPDATE_NEEDED",
    "UNAUTHORIZED_KEY",
    "REJECT_CARD_PAYMENT",
    "REJECT_ACCOUNT_PAYMENT",
    "REJECT_CARD_COMPANY",
    "REJECT_TOSSPAY_INVALID_ACCOUNT",
    "INVALID_PASSWORD",
    "EXCEED_MAX_AUTH_COUNT",
    "EXCEED_MAX_ONE_DAY_AMOUNT",
    "NOT_AVAILABLE_BANK",
    "FDS_ERROR",
    "FORBIDDEN_REQUEST",
    "INCORRECT_BASIC_AUTH_FORMAT",
    "NOT_SUPPORTED_WIDGET_KEY",
    "INSECURE_KEY_USAGE",
];
/// The codes by which a cancel is certainly refused.
const CANCEL_ENDS: &[&str] = &[
    "INVALID_REFUND_ACCOUNT_INFO",
    "INVALID_REFUND_ACCOUNT_NUMBER",
    "INVALID_BANK",
    "FORBIDDEN_BANK_REFUND_REQUEST",
    "EXCEED_CANCEL_AMOUNT_DISCOUNT_AMOUNT",
    "REFUND_REJECTED",
    "INVALID_REQUEST",
    "UNAUTHORIZED_KEY",
    "NOT_CANCELABLE_PAYMENT",
    "EXCEED_MAX_REFUND_DUE",
    "NOT_ALLOWED_PARTIAL_REFUND",
    "NOT_ALLOWED_PARTIAL_REFUND_WAITING_DEPOSIT",
    "NOT_CANCELABLE_PAYMENT_FOR_DORMANT_USER",
    "EXCEED_CANCEL_LIMIT",
    "FORBIDDEN_REQUEST",
    "INCORRECT_BASIC_AUTH_FORMAT",
    "NOT_FOUND_PAYMENT",
    "INVALID_API_KEY",
    "INVALID_PAYMENT_KEY",
    "INVALID_IDEMPOTENCY_KEY",
    "INVALID_TEST_CODE",
    "API_VERSION_UPDATE_NEEDED",
    "NOT_SUPPORTED_WIDGET_KEY",
    "INSECURE_KEY_USAGE",
    "INVALID_REFUND_AMOUNT",
    "NOT_SUPPORTED_REFUND",
    "NOT_ALLOWED_REFUND_BANK",
];
/// Codes that decide nothing about a confirm or a cancel.
const DECIDE_NOTHING: &[&str] =
    &["PROVIDER_ERROR", "ALREADY_PROCESSED_PAYMENT", "FAILED_INTERNAL_SYSTEM_PROCESSING", "reject_card_company", ""];

/// Any JSON, with the odd members that break readers.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        prop::sample::select([CONFIRM_ENDS, CANCEL_ENDS, DECIDE_NOTHING].concat()).prop_map(Value::from),
        prop::sample::select(vec![
            "DONE",
            "CANCELED",
            "WAITING_FOR_DEPOSIT",
            "KRW",
            "-0",
            "1e400",
            "\u{0}",
            "\u{feff}"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(member(), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn member() -> impl Strategy<Value = String> {
    let known = vec![
        "eventType",
        "data",
        "entityBody",
        "paymentKey",
        "orderId",
        "status",
        "secret",
        "transactionKey",
        "code",
        "message",
        "error",
        "mId",
        "currency",
        "totalAmount",
        "balanceAmount",
        "cancels",
        "method",
        "virtualAccount",
    ];
    prop_oneof![4 => prop::sample::select(known).prop_map(str::to_owned), 1 => ".{0,12}"]
}

/// A body with one of its members spoilt: another value, the same member twice, a sign cut out or put in.
fn spoilt(valid: Value) -> impl Strategy<Value = Vec<u8>> {
    let text = valid.to_string();
    let length = text.len();
    let replaced = (member(), any_json()).prop_map(move |(name, value)| {
        let mut spoilt = valid.clone();
        match spoilt["data"].as_object_mut().filter(|data| data.contains_key(&name)) {
            Some(data) => drop(data.insert(name, value)),
            None => spoilt[name] = value,
        }
        spoilt.to_string().into_bytes()
    });
    let twice = (member(), any_json()).prop_map({
        let text = text.clone();
        move |(name, value)| format!("{{{}:{value},{}", Value::from(name), text.trim_start_matches('{')).into_bytes()
    });
    let bytes = text.into_bytes();
    let broken =
        (0..length, prop::collection::vec(any::<u8>(), 0..4), any::<bool>()).prop_map(move |(at, put, cut)| {
            let mut broken = bytes.clone();
            let _gone: Vec<u8> = broken.splice(at..if cut { length } else { at }, put).collect();
            broken
        });
    prop_oneof![replaced, twice, broken]
}

/// Bodies as they come: noise, JSON, spoilt JSON, and the shapes that exhaust a reader.
fn body(valid: Value) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..400),
        1 => any_json().prop_map(|value| value.to_string().into_bytes()),
        4 => spoilt(valid),
        1 => (1..20_000_usize).prop_map(|depth| format!("{{\"data\":{}", "[".repeat(depth)).into_bytes()),
        1 => (1..400_usize).prop_map(|digits| format!("{{\"totalAmount\":{}}}", "9".repeat(digits)).into_bytes()),
        1 => prop::sample::select(vec![
            &b"\xef\xbb\xbf{}"[..], b"{\"orderId\":\"\\ud800\"}", b"{\"data\":NaN}", b"{\"data\":-Infinity}", b"{\"a\":01}",
        ])
        .prop_map(<[u8]>::to_vec),
    ]
}

fn notice() -> Value {
    json!({ "eventType": "PAYMENT_STATUS_CHANGED", "createdAt": "2026-11-21T10:00:00.000000",
        "data": { "paymentKey": "beans20260504", "orderId": "ord_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b", "status": "DONE" } })
}

fn payment() -> Value {
    json!({ "mId": "beanshop", "paymentKey": "beans", "orderId": "ord_1", "status": "DONE", "currency": "KRW",
        "totalAmount": 18_700, "balanceAmount": 18_700, "method": "카드", "data": {} })
}

fn refusal() -> impl Strategy<Value = Value> {
    let codes = [CONFIRM_ENDS, CANCEL_ENDS, DECIDE_NOTHING].concat();
    let code = prop_oneof![prop::sample::select(codes).prop_map(str::to_owned), ".{0,30}"];
    (code, any_json()).prop_map(|(code, message)| json!({ "code": code, "message": message }))
}

fn toss() -> Toss {
    let second = Duration::from_secs(1);
    Toss::new(TossConfig {
        base_url: "http://127.0.0.1:9".to_owned(),
        secret_key: SecretString::from("test_sk_beans"),
        m_id: Some("beanshop".to_owned()),
        connect_timeout: second,
        confirm_timeout: second,
        cancel_timeout: second,
        inquiry_timeout: second,
    })
    .unwrap()
}

/// Whether the body is an object that names one of these codes where an error names its code.
fn names(body: &[u8], codes: &[&str]) -> bool {
    let text = String::from_utf8_lossy(body);
    codes.iter().any(|code| text.contains(&format!("\"{code}\"")))
}

proptest! {
    #[test]
    fn a_webhook_is_read_without_harm_and_only_plain_words_go_on(body in body(notice())) {
        let plain = |text: &str| !text.is_empty() && text.len() <= 200 && text.bytes().all(|b| b.is_ascii_graphic());
        match webhook::read(&body) {
            Notice::Undecodable => {}
            Notice::Irrelevant { event } => prop_assert!(plain(&event)),
            Notice::Payment { event, payment_key, order_id, status } => {
                prop_assert!(plain(&event));
                prop_assert!(payment_key.is_some() || order_id.is_some());
                prop_assert!(payment_key.is_none_or(|key| plain(key.as_str())));
                prop_assert!(order_id.is_none_or(|id| plain(&id)) && status.is_none_or(|status| plain(&status)));
            }
            Notice::Deposit { order_id, status, .. } => prop_assert!(plain(&order_id) && plain(&status)),
        }
    }

    /// A value with this many decimals is read back exactly, however it is spelt; the arithmetic is 128 bits wide.
    #[test]
    fn an_amount_is_exact_or_refused(
        digits in "0|[1-9][0-9]{0,22}", fraction in "[0-9]{0,6}", power in prop::option::of(-30_i32..30), decimals in 0_u8..4,
    ) {
        let mut text = digits.clone();
        if !fraction.is_empty() { text.push('.'); text.push_str(&fraction); }
        if let Some(power) = power { text.push_str(&format!("e{power}")); }
        let shift = power.unwrap_or(0) + i32::from(decimals) - i32::try_from(fraction.len()).unwrap();
        let mantissa: u128 = format!("{digits}{fraction}").parse().unwrap();
        let ten = |power: i32| 10_u128.checked_pow(power.unsigned_abs());
        let expected = match (mantissa, ten(shift)) {
            (0, _) => Some(0),
            (_, Some(factor)) if shift >= 0 => mantissa.checked_mul(factor).and_then(|minor| i64::try_from(minor).ok()),
            (_, Some(factor)) if mantissa.is_multiple_of(factor) => i64::try_from(mantissa / factor).ok(),
            _ => None,
        };
        let raw = serde_json::value::RawValue::from_string(text).unwrap();
        prop_assert_eq!(amount::minor_units(&raw, decimals), expected, "{}", raw.get());
    }

    #[test]
    fn an_amount_is_no_other_json(value in any_json()) {
        let raw = serde_json::value::RawValue::from_string(value.to_string()).unwrap();
        if !value.is_number() {
            prop_assert_eq!(amount::minor_units(&raw, 0), None);
        }
    }

    #[test]
    fn an_answer_is_certain_only_by_a_listed_code_or_a_whole_payment(
        status in prop_oneof![prop::sample::select(vec![200_u16, 400, 403, 404, 409, 429, 500, 503]), 100..600_u16],
        body in prop_oneof![body(payment()), refusal().prop_map(|value| value.to_string().into_bytes())],
        retry_after_s in prop::option::of(any::<u64>()),
    ) {
        let reply = || Outcome::Reply(Reply { status, trace_id: None, retry_after_s, body: body.clone() });
        let success = (200..300).contains(&status);
        let toss = toss();
        match toss.exchange::<ConfirmAnswer>(reply()).answer {
            ConfirmAnswer::Answered(snapshot) => {
                prop_assert!(success && serde_json::from_slice::<Value>(&body).is_ok_and(|value| value.is_object()));
                let says_done = names(&body, &["DONE"]);
                prop_assert!(snapshot.status != PgStatus::Done || says_done, "done is what the PG calls done");
            }
            ConfirmAnswer::Declined(decline) => {
                prop_assert!(!success && CONFIRM_ENDS.contains(&decline.code.as_str()));
            }
            ConfirmAnswer::NotSent(not_sent) if not_sent.reason == NotSentReason::RateLimited => {
                prop_assert_eq!(status, 429);
            }
            ConfirmAnswer::NotSent(not_sent) => {
                prop_assert!(!success && not_sent.code.is_some_and(|code| CONFIRM_ENDS.contains(&code.as_str())));
            }
            ConfirmAnswer::Unknown(_) => {}
        }
        match toss.exchange::<CancelAnswer>(reply()).answer {
            CancelAnswer::Answered(_) => prop_assert!(success),
            CancelAnswer::Refused(refusal) => {
                prop_assert!(!success && CANCEL_ENDS.contains(&refusal.code.as_str()));
            }
            CancelAnswer::NotSent(_) => prop_assert!(false, "an answer came, so the request was sent"),
            CancelAnswer::Unknown(_) => {}
        }
        match toss.exchange::<Inquiry>(reply()).answer {
            Inquiry::Found(_) => prop_assert!(success),
            Inquiry::NotFound => {
                let codes = ["NOT_FOUND_PAYMENT", "NOT_FOUND", "NOT_FOUND_PAYMENT_SESSION"];
                prop_assert!(status == 404 && names(&body, &codes));
            }
            Inquiry::Unknown(_) => {}
        }
    }
}
