//! Problems made from a stored answer: what was decided is kept as the payment's or cancellation's view, and the same
//! view always makes the same bytes, so that a replay cannot be told from the first answer by its body.

use serde::Deserialize;

use super::{Code, Problem};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredPayment {
    id: String,
    order_id: String,
    order_status: String,
    decline: Option<StoredReason>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredCancellation {
    id: String,
    payment_id: String,
    order_id: String,
    refusal: Option<StoredReason>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredReason {
    class: String,
    provider_code: String,
}

/// The problem of a payment's view that was answered with 402 (declined) or 409 (reversed).
#[must_use]
pub fn payment_not_taken(status: i16, view: &str) -> Problem {
    let payment: StoredPayment = match serde_json::from_str(view) {
        Ok(payment) => payment,
        Err(error) => return Problem::internal(format_args!("a stored payment cannot be read: {error}")),
    };
    let problem = if status == 402 {
        let reason = payment.decline.unwrap_or_else(StoredReason::unknown);
        Problem::new(Code::PaymentDeclined, "Nothing was charged.")
            .with("declineClass", reason.class)
            .with("providerCode", reason.provider_code)
    } else {
        Problem::new(Code::PaymentReversed, "The money that was taken goes back in full.")
    };
    problem.with("orderId", payment.order_id).with("paymentId", payment.id).with("orderStatus", payment.order_status)
}

/// The problem of a cancellation's view that was answered with 409 (refused).
#[must_use]
pub fn cancellation_refused(view: &str) -> Problem {
    let cancellation: StoredCancellation = match serde_json::from_str(view) {
        Ok(cancellation) => cancellation,
        Err(error) => return Problem::internal(format_args!("a stored cancellation cannot be read: {error}")),
    };
    let reason = cancellation.refusal.unwrap_or_else(StoredReason::unknown);
    Problem::new(Code::CancellationRefused, "Nothing went back.")
        .with("refusalClass", reason.class)
        .with("providerCode", reason.provider_code)
        .with("cancellationId", cancellation.id)
        .with("paymentId", cancellation.payment_id)
        .with("orderId", cancellation.order_id)
}

impl StoredReason {
    fn unknown() -> Self {
        Self { class: "other".to_owned(), provider_code: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_decline_makes_the_same_bytes_each_time() {
        let view = r#"{"id":"pay_1","orderId":"ord_1","orderStatus":"pending","amount":5,
            "decline":{"class":"insufficient_funds","providerCode":"REJECT_CARD_PAYMENT"}}"#;
        let bytes = || serde_json::to_string(&payment_not_taken(402, view)).expect("JSON");
        assert_eq!(bytes(), bytes());
        assert!(bytes().contains(
            r#""code":"payment_declined","declineClass":"insufficient_funds","providerCode":"REJECT_CARD_PAYMENT","orderId":"ord_1","paymentId":"pay_1","orderStatus":"pending"}"#
        ));
        assert_eq!(payment_not_taken(409, view).code(), Code::PaymentReversed);
    }

    #[test]
    fn a_stored_refusal_says_why() {
        let view = r#"{"id":"can_1","paymentId":"pay_1","orderId":"ord_1",
            "refusal":{"class":"too_late","providerCode":"EXCEED_MAX_REFUND_DUE"}}"#;
        let text = serde_json::to_string(&cancellation_refused(view)).expect("JSON");
        assert!(text.contains(r#""refusalClass":"too_late","providerCode":"EXCEED_MAX_REFUND_DUE""#), "{text}");
    }

    #[test]
    fn a_view_that_cannot_be_read_is_our_fault() {
        assert_eq!(payment_not_taken(402, "{}").code(), Code::Internal);
        assert_eq!(cancellation_refused("[").code(), Code::Internal);
    }
}
