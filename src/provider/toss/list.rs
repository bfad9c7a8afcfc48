//! `GET /v1/transactions`: one row per approval and per cancel of a span of time, in pages.
//!
//! Called by the adapter. Strict where money or identity hangs on it: a page with one row that cannot be read is no
//! page, since a row that is skipped would look like money that is missing. Toss does not say in which order the rows
//! come, nor whether the amount of a cancel has a sign; neither is relied on.

use chrono::{DateTime, FixedOffset, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::http::Outcome;
use super::{amount, classify, encode_segment, times, wire};
use crate::domain::evidence::{Doubt, DoubtReason, Inquiry, NotSentReason, PaymentKey};
use crate::domain::money::{Currency, Money};
use crate::domain::reconciliation::Listed;
use crate::provider::{Exchange, ListRequest, Listing, Page};

/// Toss takes no more.
const ROWS_MAX: u32 = 5_000;

/// Korea has had UTC+9 all year since 1988.
const KST_SECONDS_EAST: i32 = 9 * 3600;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    transaction_key: String,
    payment_key: String,
    order_id: String,
    status: String,
    amount: Box<RawValue>,
    #[serde(default)]
    currency: Option<String>,
    #[serde(default)]
    m_id: Option<String>,
    #[serde(default, deserialize_with = "wire::lenient")]
    transaction_at: Option<String>,
}

/// The path with its question. Toss wants Korean time without an offset.
pub(super) fn path(request: &ListRequest) -> String {
    let mut path = format!(
        "/v1/transactions?startDate={}&endDate={}&limit={}",
        encode_segment(&korean(request.window.from)),
        encode_segment(&korean(request.window.until)),
        rows_max(request),
    );
    if let Some(after) = &request.after {
        path.push_str("&startingAfter=");
        path.push_str(&encode_segment(after));
    }
    path
}

fn rows_max(request: &ListRequest) -> u32 {
    request.rows_max.clamp(1, ROWS_MAX)
}

fn korean(at: DateTime<Utc>) -> String {
    let form = "%Y-%m-%dT%H:%M:%S";
    FixedOffset::east_opt(KST_SECONDS_EAST)
        .map_or_else(|| at.format(form).to_string(), |korea| at.with_timezone(&korea).format(form).to_string())
}

/// What came over the wire, as a page or as the reason why there is none.
pub(super) fn exchange(outcome: Outcome, request: &ListRequest, m_id: Option<&str>) -> Exchange<Listing> {
    let unknown = |reason, code| Listing::Unknown(Doubt { reason, code });
    match outcome {
        Outcome::NotSent(reason) => {
            let reason = match reason {
                NotSentReason::Unreachable => DoubtReason::ConnectionLost,
                NotSentReason::RateLimited => DoubtReason::TryLater,
                NotSentReason::Misconfigured | NotSentReason::NeverArrived => DoubtReason::Inconclusive,
            };
            Exchange { answer: unknown(reason, None), http_status: None, code: None, provider_trace_id: None }
        }
        Outcome::Lost { reason, http_status, trace_id } => {
            Exchange { answer: unknown(reason, None), http_status, code: None, provider_trace_id: trace_id }
        }
        Outcome::Reply(reply) => {
            let success = (200..300).contains(&reply.status);
            let page = if success { page(&reply.body, request, m_id) } else { None };
            let code = if page.is_some() { None } else { wire::error_code(&reply.body) };
            let answer = match page {
                Some(page) => Listing::Page(page),
                None if success => unknown(DoubtReason::Undecodable, code.clone()),
                None => refused(reply.status, code.as_deref()),
            };
            Exchange { answer, http_status: Some(reply.status), code, provider_trace_id: reply.trace_id }
        }
    }
}

/// A list is a question like an inquiry, and its refusals mean the same; nothing is "not found" in it.
fn refused(status: u16, code: Option<&str>) -> Listing {
    let listed = |code: &str| matches!(code, "INVALID_DATE");
    match classify::inquiry(status, code) {
        Inquiry::Unknown(doubt) if !code.is_some_and(listed) => Listing::Unknown(doubt),
        Inquiry::Unknown(_) | Inquiry::Found(_) | Inquiry::NotFound => {
            Listing::Unknown(Doubt { reason: DoubtReason::Inconclusive, code: code.map(str::to_owned) })
        }
    }
}

/// The page in a body, or `None` if not all of it can be trusted. A page that is not full is the last one.
fn page(body: &[u8], request: &ListRequest, m_id: Option<&str>) -> Option<Page> {
    let rows: Vec<Row> = serde_json::from_slice(body).ok()?;
    let rows: Vec<Listed> = rows.into_iter().map(|row| listed(row, m_id)).collect::<Option<_>>()?;
    let is_full = u32::try_from(rows.len()).is_ok_and(|count| count >= rows_max(request));
    let next = rows.last().filter(|_| is_full).map(|row| row.transaction_key.clone());
    Some(Page { rows, next })
}

fn listed(row: Row, m_id: Option<&str>) -> Option<Listed> {
    let currency = row.currency.as_deref().and_then(Currency::parse);
    let decimals = currency.map_or(wire::UNKNOWN_CURRENCY_DECIMALS, Currency::exponent);
    let minor = unsigned(&row.amount, decimals)?;
    if row.transaction_key.is_empty() {
        return None;
    }
    Some(Listed {
        transaction_key: row.transaction_key,
        payment_key: PaymentKey::parse(&row.payment_key)?,
        order_id: row.order_id,
        status: wire::pg_status(&row.status),
        at: row.transaction_at.as_deref().and_then(times::parse),
        amount: currency.map(|currency| Money::new(minor, currency)),
        own_shop: m_id.is_none_or(|ours| row.m_id.as_deref().is_none_or(|theirs| theirs == ours)),
    })
}

fn unsigned(number: &RawValue, decimals: u8) -> Option<i64> {
    match number.get().strip_prefix('-') {
        Some(digits) => amount::minor_units(&RawValue::from_string(digits.to_owned()).ok()?, decimals),
        None => amount::minor_units(number, decimals),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::evidence::PgStatus;
    use crate::domain::reconciliation::Window;

    fn request(rows_max: u32) -> ListRequest {
        let at = |text: &str| text.parse().unwrap();
        let window = Window { from: at("2026-05-03T15:00:00Z"), until: at("2026-05-04T14:59:59Z") };
        ListRequest { window, after: None, rows_max }
    }

    fn row() -> Value {
        json!({
            "mId": "beanshop", "transactionKey": "txrd_a01", "paymentKey": "beans20260504120000Qw7Er",
            "orderId": "ord_0196a3f0c0de7abc8def001122334455", "method": "카드", "customerKey": null,
            "useEscrow": false, "receiptUrl": "https://receipt.invalid/1", "status": "DONE",
            "transactionAt": "2026-05-04T12:00:00+09:00", "currency": "KRW", "amount": 18700
        })
    }

    fn with(field: &str, value: Value) -> Value {
        let mut row = row();
        row[field] = value;
        row
    }

    fn read(rows: &Value, rows_max: u32) -> Option<Page> {
        page(rows.to_string().as_bytes(), &request(rows_max), Some("beanshop"))
    }

    #[test]
    fn the_question_is_in_korean_time_and_goes_on_after_the_last_row() {
        let first = request(100);
        let expected = "/v1/transactions?startDate=2026-05-04T00%3A00%3A00&endDate=2026-05-04T23%3A59%3A59&limit=100";
        assert_eq!(path(&first), expected);
        let next = ListRequest { after: Some("txrd&a=1".to_owned()), ..first };
        assert_eq!(path(&next), format!("{expected}&startingAfter=txrd%26a%3D1"));
        assert!(path(&request(0)).ends_with("limit=1") && path(&request(9_999)).ends_with("limit=5000"));
    }

    #[test]
    fn a_row_is_read_in_full() {
        let page = read(&json!([row()]), 100).unwrap();
        let expected = Listed {
            transaction_key: "txrd_a01".to_owned(),
            payment_key: PaymentKey::parse("beans20260504120000Qw7Er").unwrap(),
            order_id: "ord_0196a3f0c0de7abc8def001122334455".to_owned(),
            status: PgStatus::Done,
            at: Some("2026-05-04T03:00:00Z".parse().unwrap()),
            amount: Some(Money::new(18_700, Currency::KRW)),
            own_shop: true,
        };
        assert_eq!(page, Page { rows: vec![expected], next: None });
    }

    #[test]
    fn a_full_page_has_a_next_one_and_an_empty_list_has_none() {
        let rows = json!([row(), with("transactionKey", json!("txrd_a02"))]);
        assert_eq!(read(&rows, 2).unwrap().next.as_deref(), Some("txrd_a02"));
        assert_eq!(read(&rows, 3).unwrap().next, None);
        assert_eq!(read(&json!([]), 1), Some(Page { rows: Vec::new(), next: None }));
    }

    #[test]
    fn details_that_nothing_hangs_on_may_be_odd() {
        type Check = fn(&Listed) -> bool;
        let cases: [(&str, Value, Check); 8] = [
            ("amount", json!(-18_700), |row| row.amount == Some(Money::new(18_700, Currency::KRW))),
            ("amount", json!(0), |row| row.amount.is_some_and(|amount| amount.minor == 0)),
            ("status", json!("PARTIAL_CANCELED"), |row| row.status == PgStatus::PartiallyCanceled),
            ("status", json!("ON_ITS_WAY"), |row| row.status == PgStatus::Unrecognized),
            ("transactionAt", json!("2026-05-04T12:00:00"), |row| row.at == "2026-05-04T03:00:00Z".parse().ok()),
            ("transactionAt", json!(5), |row| row.at.is_none()),
            ("currency", json!("XTS"), |row| row.amount.is_none()),
            ("mId", json!("teashop"), |row| !row.own_shop),
        ];
        for (field, value, holds) in cases {
            let page = read(&json!([with(field, value.clone())]), 100).unwrap();
            assert!(page.rows.iter().all(holds), "{field} = {value}");
        }
        let dollars = with("currency", json!("USD"));
        let mut dollars = dollars;
        dollars["amount"] = serde_json::from_str("-12.05").unwrap();
        let page = read(&json!([dollars]), 100).unwrap();
        assert_eq!(page.rows[0].amount.map(|amount| amount.to_string()).as_deref(), Some("12.05 USD"));
    }

    #[test]
    fn one_row_that_cannot_be_read_spoils_the_page() {
        for (field, value) in [
            ("transactionKey", json!(null)),
            ("transactionKey", json!("")),
            ("paymentKey", json!("")),
            ("paymentKey", json!(7)),
            ("orderId", json!(null)),
            ("status", json!(null)),
            ("amount", json!(null)),
            ("amount", json!("18700")),
            ("amount", json!(18700.5)),
            ("amount", json!([1])),
        ] {
            assert_eq!(read(&json!([row(), with(field, value.clone())]), 100), None, "{field} = {value}");
        }
        for body in ["", "{}", "null", "[", "[1]", "<html>"] {
            assert_eq!(page(body.as_bytes(), &request(100), None), None, "{body}");
        }
    }

    #[test]
    fn a_refusal_is_never_an_empty_list() {
        for (status, code, reason) in [
            (400, Some("INVALID_DATE"), DoubtReason::Inconclusive),
            (404, Some("NOT_FOUND"), DoubtReason::Inconclusive),
            (401, Some("UNAUTHORIZED_KEY"), DoubtReason::Inconclusive),
            (429, None, DoubtReason::TryLater),
            (500, None, DoubtReason::ServerError),
            (502, Some("BRAND_NEW"), DoubtReason::UnlistedCode),
        ] {
            let Listing::Unknown(doubt) = refused(status, code) else { panic!("{status} {code:?}") };
            assert_eq!(doubt.reason, reason, "{status} {code:?}");
        }
    }
}
