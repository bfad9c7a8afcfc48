//! `POST /v1/payments/{paymentKey}/cancel`: gives back part or all of a payment.
//!
//! Called by [`super::behave`]. Refuses, with the documented codes, what is not there, not paid,
//! already gone, more than is left, in parts where only the whole can be canceled, or without an
//! account to pay into where one is needed.

use serde_json::Value;

use super::errors::ApiError;
use super::{Inquiry, behave::Outcome};
use crate::payment::{CancelOrder, CancelOrigin, Method, Payment, Status};
use crate::state::State;

/// Two-character codes of the banks a refund can be paid into.
const BANKS: &[&str] = &[
    "39", "34", "12", "32", "45", "64", "88", "48", "27", "20", "71", "50", "37", "35", "90", "89", "92", "81", "54",
    "03", "06", "31", "02", "11", "23", "07",
];

const REASON_CHARS: usize = 200;

/// Performs the cancel in `body`, returning `charged` instead of the asked amount if given.
pub(crate) fn perform(
    state: &State,
    inquiry: &Inquiry,
    payment_key: &str,
    body: &Value,
    charged: Option<i64>,
) -> Outcome {
    match admit(state, payment_key, body) {
        Ok((payment, amount)) => {
            let reason = body.get("cancelReason").and_then(Value::as_str);
            Outcome::done(payment.clone().cancel(&CancelOrder {
                at: inquiry.now,
                amount: charged.unwrap_or(amount),
                reason: reason.unwrap_or_default(),
                idempotency_key: inquiry.idempotency_key.as_deref(),
                origin: CancelOrigin::Api,
            }))
        }
        Err(code) => Outcome::error(ApiError::of(code)),
    }
}

fn admit<'a>(state: &'a State, payment_key: &str, body: &Value) -> Result<(&'a Payment, i64), &'static str> {
    let reason = body.get("cancelReason").and_then(Value::as_str);
    if !reason.is_some_and(|reason| (1..=REASON_CHARS).contains(&reason.chars().count())) {
        return Err("INVALID_REQUEST");
    }
    let asked = optional_amount(body, "cancelAmount")?;
    let expected = optional_amount(body, "refundableAmount")?;
    let payment = state.payment(payment_key).ok_or("NOT_FOUND_PAYMENT")?;
    if state.is_busy(payment_key) {
        return Err("FORBIDDEN_CONSECUTIVE_REQUEST");
    }
    match payment.status {
        Status::Done | Status::PartialCanceled | Status::WaitingForDeposit => {}
        Status::Canceled => return Err("ALREADY_CANCELED_PAYMENT"),
        Status::Ready | Status::InProgress | Status::Aborted | Status::Expired => {
            return Err("NOT_CANCELABLE_PAYMENT");
        }
    }
    match body.get("currency") {
        None | Some(Value::Null) => {}
        Some(currency) if currency.as_str() == Some(payment.currency.as_str()) => {}
        Some(_) => return Err("INVALID_REQUEST"),
    }
    let balance = payment.balance();
    if expected.is_some_and(|expected| expected != balance) {
        return Err("NOT_MATCHES_REFUNDABLE_AMOUNT");
    }
    let amount = asked.unwrap_or(balance);
    if amount < 1 || amount > balance {
        return Err("NOT_CANCELABLE_AMOUNT");
    }
    if amount < payment.total_amount {
        allow_part(payment, amount)?;
    }
    if payment.method == Method::VirtualAccount && payment.status != Status::WaitingForDeposit {
        check_account(body.get("refundReceiveAccount"))?;
    }
    Ok((payment, amount))
}

fn allow_part(payment: &Payment, amount: i64) -> Result<(), &'static str> {
    if payment.status == Status::WaitingForDeposit {
        return Err("NOT_ALLOWED_PARTIAL_REFUND_WAITING_DEPOSIT");
    }
    if payment.escrow || !payment.partial_cancelable {
        return Err("NOT_ALLOWED_PARTIAL_REFUND");
    }
    if amount < payment.discount {
        return Err("EXCEED_CANCEL_AMOUNT_DISCOUNT_AMOUNT");
    }
    Ok(())
}

fn check_account(account: Option<&Value>) -> Result<(), &'static str> {
    let account = account.filter(|account| account.is_object()).ok_or("INVALID_REFUND_ACCOUNT_INFO")?;
    let text = |name: &str| account.get(name).and_then(Value::as_str).unwrap_or_default();
    if !BANKS.contains(&text("bank")) {
        return Err("INVALID_BANK");
    }
    let number = text("accountNumber");
    if !(1..=20).contains(&number.len()) || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("INVALID_REFUND_ACCOUNT_NUMBER");
    }
    if !(1..=60).contains(&text("holderName").chars().count()) {
        return Err("INVALID_REFUND_ACCOUNT_INFO");
    }
    Ok(())
}

/// An optional whole number; anything else in its place is a bad request.
fn optional_amount(body: &Value, name: &str) -> Result<Option<i64>, &'static str> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(amount) => amount.as_i64().map(Some).ok_or("INVALID_REQUEST"),
    }
}
