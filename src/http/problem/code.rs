//! The closed list of problem kinds: status, words, and what each means for metrics.

use axum::http::StatusCode;

use crate::domain::vocabulary;
use crate::telemetry::labels::OperationOutcome;

vocabulary! {
    /// A kind of problem: the stable `code` of an answer, also its log field.
    pub enum Code {
        /// The body is no JSON.
        BadJson => "bad_json",
        /// The body is not declared as JSON.
        UnsupportedMediaType => "unsupported_media_type",
        /// The body is too long.
        BodyTooLarge => "body_too_large",
        /// The body did not arrive in time.
        RequestTimeout => "request_timeout",
        /// A field, parameter or header is unknown, missing, of another type or out of range.
        InvalidParameter => "invalid_parameter",
        /// There is no such address.
        RouteNotFound => "route_not_found",
        /// The address does not know the method.
        MethodNotAllowed => "method_not_allowed",
        /// No usable credential.
        Unauthorized => "unauthorized",
        /// The credential does not reach this far.
        Forbidden => "forbidden",
        /// No such product.
        ProductNotFound => "product_not_found",
        /// No such order, or not for this credential.
        OrderNotFound => "order_not_found",
        /// No such payment, or not for this credential.
        PaymentNotFound => "payment_not_found",
        /// No such cancellation, or not for this credential.
        CancellationNotFound => "cancellation_not_found",
        /// No such finding.
        FindingNotFound => "finding_not_found",
        /// The finding is repaired or closed already.
        FindingSettled => "finding_settled",
        /// The header is required here.
        IdempotencyKeyMissing => "idempotency_key_missing",
        /// The header's value is no key.
        IdempotencyKeyInvalid => "idempotency_key_invalid",
        /// The key belongs to another request.
        IdempotencyKeyMismatch => "idempotency_key_mismatch",
        /// The key's first request is running.
        IdempotencyKeyInFlight => "idempotency_key_in_flight",
        /// An ordered product does not exist or is not sold.
        UnknownProduct => "unknown_product",
        /// Less is left than ordered.
        InsufficientStock => "insufficient_stock",
        /// A correction takes more than there is.
        StockBelowZero => "stock_below_zero",
        /// The amount is not the order's.
        AmountMismatch => "amount_mismatch",
        /// The hold is over.
        OrderExpired => "order_expired",
        /// The order is past paying.
        OrderNotPending => "order_not_pending",
        /// A payment of the order is being decided.
        PaymentInFlight => "payment_in_flight",
        /// The PG payment belongs to another order.
        PaymentOfAnotherOrder => "payment_of_another_order",
        /// The PG said no.
        PaymentDeclined => "payment_declined",
        /// The money came too late or wrong, and goes back.
        PaymentReversed => "payment_reversed",
        /// The PG could not be reached.
        ProviderUnavailable => "provider_unavailable",
        /// The PG refused our request as such.
        ProviderRefusedRequest => "provider_refused_request",
        /// The payment holds no money that could go back.
        PaymentNotCancelable => "payment_not_cancelable",
        /// Another cancellation is being decided.
        CancellationInProgress => "cancellation_in_progress",
        /// The PG refused the cancel.
        CancellationRefused => "cancellation_refused",
        /// More than is left.
        CancelAmountExceedsBalance => "cancel_amount_exceeds_balance",
        /// Nothing, both kinds, or lines that do not exist.
        InvalidCancelScope => "invalid_cancel_scope",
        /// A paid virtual account needs an account to refund to.
        RefundAccountNeeded => "refund_account_needed",
        /// An unpaid virtual account is closed as a whole.
        PartialCancelNotAllowed => "partial_cancel_not_allowed",
        /// The order has ended.
        OrderNotCancelable => "order_not_cancelable",
        /// Too many requests of this caller.
        RateLimited => "rate_limited",
        /// No database connection.
        DatabaseUnavailable => "database_unavailable",
        /// Too much contention.
        Busy => "busy",
        /// As many streams are open as there may be.
        TooManyStreams => "too_many_streams",
        /// Our own fault.
        Internal => "internal",
    }
}

/// Seconds after which something that is running now is usually over.
const RUNNING_S: u64 = 1;
/// Seconds after which something that is down may be back.
const DOWN_S: u64 = 3;

impl Code {
    /// The `type` of the problem.
    #[must_use]
    pub fn urn(self) -> String {
        format!("urn:paygauge:problem:{self}")
    }

    /// The HTTP status, one per kind.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadJson | Self::InvalidParameter | Self::IdempotencyKeyMissing | Self::IdempotencyKeyInvalid => {
                StatusCode::BAD_REQUEST
            }
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::PaymentDeclined => StatusCode::PAYMENT_REQUIRED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::RouteNotFound
            | Self::ProductNotFound
            | Self::OrderNotFound
            | Self::PaymentNotFound
            | Self::CancellationNotFound
            | Self::FindingNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::IdempotencyKeyInFlight
            | Self::InsufficientStock
            | Self::StockBelowZero
            | Self::OrderExpired
            | Self::OrderNotPending
            | Self::PaymentInFlight
            | Self::PaymentOfAnotherOrder
            | Self::PaymentReversed
            | Self::PaymentNotCancelable
            | Self::CancellationInProgress
            | Self::CancellationRefused
            | Self::OrderNotCancelable
            | Self::FindingSettled => StatusCode::CONFLICT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::IdempotencyKeyMismatch
            | Self::UnknownProduct
            | Self::AmountMismatch
            | Self::CancelAmountExceedsBalance
            | Self::InvalidCancelScope
            | Self::RefundAccountNeeded
            | Self::PartialCancelNotAllowed => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ProviderRefusedRequest => StatusCode::BAD_GATEWAY,
            Self::ProviderUnavailable | Self::DatabaseUnavailable | Self::Busy | Self::TooManyStreams => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The problem's title: the same for every occurrence.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.words().0
    }

    /// One sentence for the documentation: what it means, and what to do.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        self.words().1
    }

    #[rustfmt::skip]
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::BadJson => ("The body is not JSON", "The body cannot be read as JSON."),
            Self::UnsupportedMediaType => ("The body is not declared as JSON", "Send `Content-Type: application/json`."),
            Self::BodyTooLarge => ("The body is too large", "The body has more bytes than this address takes."),
            Self::RequestTimeout => ("The body did not arrive in time", "Send the request again; nothing was done."),
            Self::InvalidParameter => ("A parameter cannot be taken", "`parameter` names the field, query parameter or path part that is unknown, missing, of another type or out of range."),
            Self::RouteNotFound => ("There is nothing at this address", "No route has this path."),
            Self::MethodNotAllowed => ("The method is not known here", "`Allow` lists the methods of this path."),
            Self::Unauthorized => ("A usable credential is needed", "The `Authorization: Bearer` credential is missing, wrong, revoked or expired."),
            Self::Forbidden => ("The credential does not reach this far", "The credential is good, but not for this operation."),
            Self::ProductNotFound => ("There is no such product", "No product has this id."),
            Self::OrderNotFound => ("There is no such order", "No order has this id, or the checkout token belongs to another one."),
            Self::PaymentNotFound => ("There is no such payment", "No payment has this id, or the checkout token belongs to another order."),
            Self::CancellationNotFound => ("There is no such cancellation", "No cancellation has this id, or the checkout token belongs to another order."),
            Self::FindingNotFound => ("There is no such finding", "No finding has this id."),
            Self::FindingSettled => ("The finding is settled already", "The finding is in `findingStatus`: repaired by itself, or closed by somebody."),
            Self::IdempotencyKeyMissing => ("An Idempotency-Key is needed", "Send a fresh `Idempotency-Key` with each new intent, and the same one with each repeat."),
            Self::IdempotencyKeyInvalid => ("The Idempotency-Key cannot be taken", "A key is one header of 1 to 255 printable ASCII characters."),
            Self::IdempotencyKeyMismatch => ("The Idempotency-Key belongs to another request", "The key was used with another body; a new intent needs a new key."),
            Self::IdempotencyKeyInFlight => ("The first request with this Idempotency-Key is running", "Repeat it after `Retry-After` seconds to get its answer."),
            Self::UnknownProduct => ("A product is not for sale", "`productId` does not exist or is not sold any more; nothing was ordered."),
            Self::InsufficientStock => ("Not enough is left", "Of `productId`, `available` units are left and `requested` were ordered; nothing was held."),
            Self::StockBelowZero => ("The correction takes more than there is", "Only `available` units can be taken away."),
            Self::AmountMismatch => ("The amount is not the order's", "The order costs `expectedAmount`; nothing was charged."),
            Self::OrderExpired => ("The order's hold has ended", "The stock went back and nothing was charged; place a new order."),
            Self::OrderNotPending => ("The order cannot be paid", "The order is in `orderStatus`, which is past paying; nothing was charged."),
            Self::PaymentInFlight => ("A payment of this order is being decided", "Poll `paymentId`, if given, until it is decided."),
            Self::PaymentOfAnotherOrder => ("The payment belongs to another order", "This payment key was used for another order; nothing was charged."),
            Self::PaymentDeclined => ("The payment was declined", "Nothing was charged; `declineClass` says why, and the hold lasts, so that another way to pay can be tried."),
            Self::PaymentReversed => ("The payment is being sent back", "The money came too late, twice, or with another amount; it is being returned in full."),
            Self::ProviderUnavailable => ("The payment provider could not be asked", "Nothing was charged and nothing went back; repeat the request, with the same key, after `Retry-After` seconds. `reason` is `unreachable`, `rate_limited`, `never_arrived`, `breaker_open` (the provider fails, so it is not asked for a while) or `saturated` (too many requests wait for it)."),
            Self::ProviderRefusedRequest => ("The payment provider refused the shop's request", "Nothing was charged; the shop's contract or settings at the provider need a person."),
            Self::PaymentNotCancelable => ("The payment cannot be canceled", "The payment is in `paymentStatus`, where no money can go back."),
            Self::CancellationInProgress => ("Another cancellation is being decided", "A payment has one open cancellation at a time; repeat this one when that is decided."),
            Self::CancellationRefused => ("The payment provider refused the cancellation", "Nothing went back; `refusalClass` says why."),
            Self::CancelAmountExceedsBalance => ("More than what is left", "Only `balance` minor units can still be canceled."),
            Self::InvalidCancelScope => ("What is to be canceled cannot be taken", "Give `amount` or `lines`, each line once and with no more units than are left, or neither for everything."),
            Self::RefundAccountNeeded => ("An account to refund to is needed", "A virtual account that was paid is refunded to `refundAccount`."),
            Self::PartialCancelNotAllowed => ("Only the whole can be canceled", "A virtual account without a deposit can only be closed as a whole."),
            Self::OrderNotCancelable => ("The order cannot be canceled", "The order has ended in `orderStatus`."),
            Self::RateLimited => ("There are too many requests", "Nothing was done. Repeat the request, with the same key, after `Retry-After` seconds; `policies` names the budgets that are used up, and `RateLimit` says how each stands."),
            Self::DatabaseUnavailable => ("The database is not available", "It cannot be reached, does not answer in time, or takes no changes. Repeat the request, with the same key, after `Retry-After` seconds."),
            Self::Busy => ("Too many are at work on the same thing", "Repeat the request, with the same key, after `Retry-After` seconds."),
            Self::TooManyStreams => ("Too many follow their orders", "Follow the order again after `Retry-After` seconds, and read it now and then meanwhile."),
            Self::Internal => ("The request failed on our side", "Repeat the request with the same key, and report its `x-request-id` if it fails again."),
        }
    }

    /// When a repeat makes sense by itself, in seconds.
    #[must_use]
    pub const fn retry_after_s(self) -> Option<u64> {
        if matches!(
            self,
            Self::IdempotencyKeyInFlight
                | Self::PaymentInFlight
                | Self::CancellationInProgress
                | Self::Busy
                | Self::RateLimited
        ) {
            Some(RUNNING_S)
        } else if matches!(self.status(), StatusCode::SERVICE_UNAVAILABLE) {
            Some(DOWN_S)
        } else {
            None
        }
    }

    /// What a use case that ended with this problem counts as.
    #[must_use]
    pub const fn outcome(self) -> OperationOutcome {
        match self {
            Self::PaymentDeclined | Self::CancellationRefused => OperationOutcome::Declined,
            Self::IdempotencyKeyInFlight | Self::PaymentInFlight | Self::CancellationInProgress => {
                OperationOutcome::Conflict
            }
            Self::ProviderUnavailable | Self::ProviderRefusedRequest => OperationOutcome::PgError,
            Self::DatabaseUnavailable | Self::Busy | Self::TooManyStreams | Self::Internal => OperationOutcome::Error,
            Self::BadJson
            | Self::UnsupportedMediaType
            | Self::BodyTooLarge
            | Self::RequestTimeout
            | Self::InvalidParameter
            | Self::RouteNotFound
            | Self::MethodNotAllowed
            | Self::Unauthorized
            | Self::Forbidden
            | Self::ProductNotFound
            | Self::OrderNotFound
            | Self::PaymentNotFound
            | Self::CancellationNotFound
            | Self::FindingNotFound
            | Self::FindingSettled
            | Self::IdempotencyKeyMissing
            | Self::IdempotencyKeyInvalid
            | Self::IdempotencyKeyMismatch
            | Self::UnknownProduct
            | Self::InsufficientStock
            | Self::StockBelowZero
            | Self::AmountMismatch
            | Self::OrderExpired
            | Self::OrderNotPending
            | Self::PaymentOfAnotherOrder
            | Self::PaymentReversed
            | Self::PaymentNotCancelable
            | Self::CancelAmountExceedsBalance
            | Self::InvalidCancelScope
            | Self::RefundAccountNeeded
            | Self::PartialCancelNotAllowed
            | Self::OrderNotCancelable
            | Self::RateLimited => OperationOutcome::Rejected,
        }
    }
}
