//! `POST /v1/payments/confirm`: turns an authenticated payment into money, or into an account number.
//!
//! Called by [`super::behave`]. Refuses a confirm whose order or amount is not the one the window was
//! opened for, one that comes too late, and a second one.

use serde_json::Value;

use super::errors::ApiError;
use super::{Inquiry, behave::Outcome};
use crate::gateway::{Gateway, later};
use crate::payment::{Confirmation, Payment, Status};
use crate::state::State;

/// Performs the confirm in `body`, charging `charged` instead of the asked amount if given.
pub(crate) fn perform(
    gateway: &Gateway,
    state: &State,
    inquiry: &Inquiry,
    body: &Value,
    charged: Option<i64>,
) -> Outcome {
    let payment = match admit(state, body, inquiry) {
        Ok(payment) => payment.clone(),
        Err(error) => return Outcome::error(error),
    };
    if let Some(code) = payment.card.refusal() {
        return Outcome { payment: Some(payment.abort(code)), error: Some(ApiError::of(code)) };
    }
    let charged = charged.unwrap_or(payment.requested_amount);
    Outcome::done(payment.confirm(Confirmation {
        at: inquiry.now,
        idempotency_key: inquiry.idempotency_key.as_deref(),
        charged,
        deposit_due_at: later(inquiry.now, gateway.options.deposit_due),
    }))
}

/// The payment, if everything about the request is right.
pub(crate) fn admit<'a>(state: &'a State, body: &Value, inquiry: &Inquiry) -> Result<&'a Payment, ApiError> {
    let invalid = || ApiError::of("INVALID_REQUEST");
    let payment_key = body.get("paymentKey").and_then(Value::as_str);
    let payment_key = payment_key.ok_or_else(invalid)?;
    let order_id = body.get("orderId").and_then(Value::as_str).ok_or_else(invalid)?;
    let amount = body.get("amount").and_then(Value::as_i64).ok_or_else(invalid)?;
    if payment_key.is_empty() || payment_key.chars().count() > 200 || amount < 1 {
        return Err(invalid());
    }
    if !is_order_id(order_id) {
        return Err(ApiError::of("INVALID_ORDER_ID"));
    }
    let payment = state.payment(payment_key).ok_or_else(|| ApiError::of("NOT_FOUND_PAYMENT"))?;
    if state.is_busy(payment_key) {
        return Err(ApiError::of("ALREADY_PROCESSED_PAYMENT"));
    }
    match payment.status {
        Status::InProgress => {}
        Status::Ready | Status::Aborted | Status::Expired => {
            return Err(ApiError::of("NOT_FOUND_PAYMENT_SESSION"));
        }
        Status::WaitingForDeposit | Status::Done | Status::Canceled | Status::PartialCanceled => {
            return Err(ApiError::of("ALREADY_PROCESSED_PAYMENT"));
        }
    }
    if payment.deadline <= inquiry.now || payment.order_id != order_id {
        return Err(ApiError::of("NOT_FOUND_PAYMENT_SESSION"));
    }
    if payment.requested_amount != amount {
        // That it is refused is documented, the code is not.
        return Err(invalid());
    }
    if payment.currency == "KRW" && amount < payment.method.minimum_krw() {
        return Err(ApiError::of("BELOW_MINIMUM_AMOUNT"));
    }
    Ok(payment)
}

/// 6 to 64 characters of `A–Z a–z 0–9 - _ =`.
pub(crate) fn is_order_id(text: &str) -> bool {
    (6..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'='))
}
