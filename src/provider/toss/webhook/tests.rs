//! Every envelope, and a great deal of garbage.

use secrecy::ExposeSecret as _;

use super::*;

const PAYMENT: &str = r#"{"eventType":"PAYMENT_STATUS_CHANGED","createdAt":"2026-05-04T12:00:01.000100","data":{"paymentKey":"beans20260504120000Qw7Er","orderId":"ord_0196a3f0c0de7abc8def001122334455","status":"DONE","totalAmount":18700,"secret":"ps_beansSecret0001","card":{"number":"94100000****001*"}}}"#;
const DEPOSIT: &str = r#"{"createdAt":"2026-05-04T13:00:00.5","secret":"ps_beansSecret0002","status":"DONE","transactionKey":"txrd_a02deposit","orderId":"ord_0196a3f0c0de7abc8def001122334456"}"#;
const PAYOUT: &str = r#"{"eventType":"payout.changed","createdAt":"2026-05-04T13:00:00+09:00","version":"2022-11-16","eventId":"e1","entityType":"payout","entityBody":{"id":"p1","status":"COMPLETED"}}"#;

#[test]
fn a_payment_event_is_a_hint_with_both_names() {
    let notice = read(PAYMENT.as_bytes());
    let Notice::Payment { event, payment_key, order_id, status } = notice else { panic!("{notice:?}") };
    assert_eq!(event, "PAYMENT_STATUS_CHANGED");
    assert_eq!(payment_key.unwrap().as_str(), "beans20260504120000Qw7Er");
    assert_eq!(order_id.as_deref(), Some("ord_0196a3f0c0de7abc8def001122334455"));
    assert_eq!(status.as_deref(), Some("DONE"));
}

#[test]
fn an_event_newer_than_this_code_is_a_hint_if_it_names_a_payment() {
    let body = br#"{"eventType":"PAYMENT_DISPUTED","data":{"orderId":"ord_1","status":{"odd":1}}}"#;
    let notice = read(body);
    assert!(
        matches!(&notice, Notice::Payment { event, payment_key: None, order_id: Some(_), status: None } if event == "PAYMENT_DISPUTED"),
        "{notice:?}"
    );
    let nameless = read(br#"{"eventType":"WEATHER_CHANGED","data":{"sky":"blue"}}"#);
    assert!(matches!(nameless, Notice::Irrelevant { event } if event == "WEATHER_CHANGED"));
}

#[test]
fn a_deposit_callback_is_known_by_its_keys() {
    let notice = read(DEPOSIT.as_bytes());
    assert!(!format!("{notice:?}").contains("ps_beans"), "the secret shows");
    let Notice::Deposit { order_id, secret, status } = notice else { panic!("{notice:?}") };
    assert_eq!(order_id, "ord_0196a3f0c0de7abc8def001122334456");
    assert_eq!(secret.expose_secret(), "ps_beansSecret0002");
    assert_eq!(status, "DONE");
    for key in ["secret", "status", "transactionKey", "orderId"] {
        let renamed = DEPOSIT.replace(&format!("\"{key}\""), "\"renamed\"");
        assert!(matches!(read(renamed.as_bytes()), Notice::Undecodable), "{key}");
    }
}

#[test]
fn events_about_other_things_need_nothing_of_us() {
    let classic = |event: &str, data: &str| format!(r#"{{"eventType":"{event}","createdAt":"x","data":{data}}}"#);
    for (event, body) in [
        ("payout.changed", PAYOUT.to_owned()),
        ("seller.changed", r#"{"eventType":"seller.changed","entityBody":{"id":"s"}}"#.to_owned()),
        ("ars-reservation.changed", r#"{"eventType":"ars-reservation.changed","entityBody":{}}"#.to_owned()),
        ("CANCEL_STATUS_CHANGED", classic("CANCEL_STATUS_CHANGED", r#"{"transactionKey":"t","cancelAmount":1}"#)),
        ("BILLING_DELETED", classic("BILLING_DELETED", r#"{"billingKey":"b","reason":null}"#)),
        ("METHOD_UPDATED", classic("METHOD_UPDATED", r#"{"customerKey":"c","status":"ENABLE"}"#)),
        ("CUSTOMER_STATUS_CHANGED", classic("CUSTOMER_STATUS_CHANGED", r#"{"customerKey":"c"}"#)),
        ("ORDER_PAYMENT_STATUS_CHANGED", classic("ORDER_PAYMENT_STATUS_CHANGED", r#"{"orderId":"ord_1"}"#)),
        ("PAYOUT_STATUS_CHANGED", classic("PAYOUT_STATUS_CHANGED", "[]")),
    ] {
        let notice = read(body.as_bytes());
        assert!(matches!(&notice, Notice::Irrelevant { event: seen } if seen == event), "{event}: {notice:?}");
    }
}

#[test]
fn the_newest_envelope_wins_over_the_older_ones() {
    let both = r#"{"eventType":"payout.changed","entityBody":{},"data":{"paymentKey":"k"},"secret":"s","transactionKey":"t","orderId":"o","status":"DONE"}"#;
    assert!(matches!(read(both.as_bytes()), Notice::Irrelevant { .. }));
    let classic = both.replace("\"entityBody\":{}", "\"entityBody\":null");
    assert!(matches!(read(classic.as_bytes()), Notice::Payment { .. }));
    let flat = classic.replace("\"data\":{\"paymentKey\":\"k\"}", "\"data\":null");
    assert!(matches!(read(flat.as_bytes()), Notice::Deposit { .. }));
}

#[test]
fn garbage_is_undecodable() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_data = format!(r#"{{"eventType":"E","data":{deep}}}"#);
    let long_event = format!(r#"{{"eventType":"{}","data":{{"orderId":"o"}}}}"#, "E".repeat(65));
    for body in [
        "",
        " ",
        "null",
        "17",
        "\"text\"",
        "[]",
        "{}",
        r#"["PAYMENT_STATUS_CHANGED",null,{"paymentKey":"k"}]"#,
        r#"{"data":{"paymentKey":"k"}}"#,
        r#"{"eventType":"log\ninjection","data":{"paymentKey":"k"}}"#,
        r#"{"eventType":"PAYMENT_STATUS_CHANGED","data":{}}"#,
        r#"{"eventType":"PAYMENT_STATUS_CHANGED","data":"text"}"#,
        r#"{"eventType":"PAYMENT_STATUS_CHANGED","data":{"paymentKey":"../x","orderId":"a b"}}"#,
        r#"{"eventType":"PAYMENT_STATUS_CHANGED"}"#,
        r#"{"entityBody":{}}"#,
        "{\"a\":1}trailing",
        &deep,
        &deep_data,
        &long_event,
    ] {
        let shown: String = body.chars().take(60).collect();
        assert!(matches!(read(body.as_bytes()), Notice::Undecodable), "{shown}");
    }
    assert!(matches!(read(&[0xff, 0xfe, 0x00]), Notice::Undecodable));
}

/// xorshift: the same garbage on every run, so that a failure can be repeated.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn no_truncation_is_mistaken_for_an_envelope() {
    for body in [PAYMENT, DEPOSIT, PAYOUT] {
        for end in 0..body.len() {
            assert!(matches!(read(&body.as_bytes()[..end]), Notice::Undecodable), "{end} of {body}");
        }
    }
}

#[test]
fn no_mutation_panics_or_lets_odd_text_through() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut read_on = 0_u32;
    for round in 0..20_000 {
        let mut body = [PAYMENT, DEPOSIT, PAYOUT][round % 3].as_bytes().to_vec();
        for _ in 0..=next(&mut state) % 3 {
            let at = usize::try_from(next(&mut state)).unwrap() % body.len();
            let byte = next(&mut state).to_le_bytes()[0];
            match next(&mut state) % 4 {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                2 => drop(body.remove(at)),
                _ => body[at] ^= 1 << (byte % 8),
            }
        }
        let plain = |text: &str| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic());
        match read(&body) {
            Notice::Payment { event, payment_key, order_id, status } => {
                read_on += 1;
                assert!(payment_key.is_some() || order_id.is_some());
                assert!(plain(&event) && order_id.as_deref().is_none_or(plain) && status.as_deref().is_none_or(plain));
            }
            Notice::Deposit { order_id, status, .. } => assert!(plain(&order_id) && plain(&status)),
            Notice::Irrelevant { event } => assert!(plain(&event)),
            Notice::Undecodable => {}
        }
    }
    assert!(read_on > 500, "the mutations were all too coarse: {read_on}");
}
