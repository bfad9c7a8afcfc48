//! `GET /v1/transactions`: every approval and cancellation of a span of time, in pages.
//!
//! Called by [`super::behave`]. Refuses dates in another form than the documented one (no offset,
//! Korean time) with `INVALID_DATE`, and a missing span, page size or cursor it does not know with
//! `INVALID_REQUEST`. The order of rows and the sign of a cancellation's amount are not documented;
//! here rows are oldest first and cancellations negative, unless the options say otherwise.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SubsecRound, TimeZone, Utc};
use serde_json::{Value, json};

use super::errors::ApiError;
use super::{KST, wire};
use crate::Options;
use crate::gateway::Gateway;
use crate::payment::{Payment, Transaction};
use crate::state::State;

const DEFAULT_ROWS: usize = 100;
const MOST_ROWS: usize = 5_000;

/// The page that `query` asks for, as a JSON array.
pub(crate) fn list(gateway: &Gateway, state: &State, query: &[(String, String)]) -> Result<Value, ApiError> {
    let start = moment(parameter(query, "startDate"))?;
    let end = moment(parameter(query, "endDate"))?;
    let limit = match parameter(query, "limit") {
        None => DEFAULT_ROWS,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=MOST_ROWS).contains(limit))
            .ok_or_else(|| ApiError::of("INVALID_REQUEST"))?,
    };
    let mut rows: Vec<(&Payment, &Transaction)> = state
        .payments()
        .flat_map(|payment| payment.transactions.iter().map(move |row| (payment, row)))
        .filter(|(_, row)| (start..=end).contains(&row.at.trunc_subsecs(0)))
        .collect();
    rows.sort_by(|(_, a), (_, b)| (a.at, &a.transaction_key).cmp(&(b.at, &b.transaction_key)));
    if gateway.options.list_newest_first {
        rows.reverse();
    }
    let skipped = match parameter(query, "startingAfter") {
        None => 0,
        Some(cursor) => rows
            .iter()
            .position(|(_, row)| row.transaction_key == cursor)
            .map(|position| position + 1)
            .ok_or_else(|| ApiError::of("INVALID_REQUEST"))?,
    };
    let page = rows.into_iter().skip(skipped).take(limit);
    Ok(page.map(|(payment, row)| row_json(&gateway.options, payment, row)).collect())
}

fn row_json(options: &Options, payment: &Payment, row: &Transaction) -> Value {
    json!({
        "mId": options.m_id,
        "transactionKey": row.transaction_key,
        "paymentKey": payment.payment_key,
        "orderId": payment.order_id,
        "method": wire::method(payment.method),
        "customerKey": null,
        "useEscrow": payment.escrow,
        "receiptUrl": wire::receipt_url(payment),
        "status": row.status,
        "transactionAt": wire::time(row.at),
        "currency": payment.currency,
        "amount": if options.list_unsigned_cancels { row.amount.abs() } else { row.amount },
    })
}

fn parameter<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn moment(text: Option<&str>) -> Result<DateTime<Utc>, ApiError> {
    let text = text.ok_or_else(|| ApiError::of("INVALID_REQUEST"))?;
    let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S")
        .or_else(|_| NaiveDate::parse_from_str(text, "%Y-%m-%d").map(|date| date.and_time(NaiveTime::MIN)));
    local
        .ok()
        .and_then(|local| KST.from_local_datetime(&local).single())
        .map(|moment| moment.with_timezone(&Utc))
        .ok_or_else(|| ApiError::of("INVALID_DATE"))
}
