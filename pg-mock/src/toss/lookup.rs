//! `GET /v1/payments/{paymentKey}` and `GET /v1/payments/orders/{orderId}`.
//!
//! Called by [`super::behave`]. Every payment is found, in any status. Where several payments share an
//! order id, the newest that got past confirm is given, else the newest.

use super::behave::Outcome;
use super::errors::ApiError;
use crate::payment::Payment;
use crate::state::State;

pub(crate) fn by_payment_key(state: &State, payment_key: &str) -> Outcome {
    found(state.payment(payment_key))
}

pub(crate) fn by_order_id(state: &State, order_id: &str) -> Outcome {
    found(state.payment_of_order(order_id))
}

fn found(payment: Option<&Payment>) -> Outcome {
    match payment {
        Some(payment) => Outcome::done(payment.clone()),
        None => Outcome::error(ApiError::of("NOT_FOUND_PAYMENT")),
    }
}
