//! Each verb's errors as problems, exhaustively.

use super::{Code, Problem};
use crate::db::DbError;
use crate::domain::evidence::{NotSent, NotSentReason};
use crate::domain::money::MoneyError;
use crate::domain::stock::ScopeError;
use crate::payments::cancel::CancelError;
use crate::payments::cancel_order::CancelOrderError;
use crate::payments::catalogue::CatalogueError;
use crate::payments::confirm::ConfirmError;
use crate::payments::findings::CloseError;
use crate::payments::inquire::InquireError;
use crate::payments::order::PlaceError;
use crate::payments::resolve::ResolveError;
use crate::provider::protection::Refused;
use crate::telemetry::labels::AdmissionRefusal;

/// A PG that asks for patience gets no more than this from a caller.
const LONGEST_RETRY_AFTER_S: u64 = 60;

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        match &error {
            DbError::Unavailable(_) => {
                Self::new(Code::DatabaseUnavailable, "The request could not be served now.").because(&error)
            }
            DbError::Contended(_) => Self::new(Code::Busy, "The request waited too long for others.").because(&error),
            DbError::OutOfRange => Self::new(Code::InvalidParameter, "A number is too large."),
            DbError::Constraint(_) | DbError::Query(_) => Self::internal(&error),
        }
    }
}

impl From<PlaceError> for Problem {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::UnknownProduct(product) => {
                Self::new(Code::UnknownProduct, format!("{product} is not for sale."))
                    .with("productId", product.to_string())
            }
            PlaceError::InsufficientStock { product, available, requested } => {
                Self::new(Code::InsufficientStock, format!("{available} units of {product} are left."))
                    .with("productId", product.to_string())
                    .with("available", available)
                    .with("requested", requested)
            }
            PlaceError::Money(MoneyError::Overflow) => Self::invalid("lines", "The order's total is too large."),
            PlaceError::Money(MoneyError::CurrencyMismatch) => {
                Self::invalid("lines", "The lines are priced in different currencies.")
            }
            PlaceError::KeyMismatch => key_mismatch(),
            PlaceError::KeyInFlight => key_in_flight(),
            PlaceError::Crowded => Self::new(Code::Busy, "Too many orders of this product are waiting."),
            PlaceError::Db(error) => error.into(),
            PlaceError::Json(error) => Self::internal(error),
        }
    }
}

impl From<ConfirmError> for Problem {
    fn from(error: ConfirmError) -> Self {
        match error {
            ConfirmError::OrderNotFound => order_not_found(),
            ConfirmError::AmountMismatch { expected } => {
                Self::new(Code::AmountMismatch, format!("The order costs {expected}."))
                    .with("expectedAmount", expected.minor)
                    .with("expectedCurrency", expected.currency.code())
            }
            ConfirmError::OrderExpired => Self::new(Code::OrderExpired, "The stock is no longer held."),
            ConfirmError::OrderNotPending { status } => {
                Self::new(Code::OrderNotPending, format!("The order is {status}.")).with("orderStatus", status.as_str())
            }
            ConfirmError::PaymentInFlight { payment } => {
                let problem = payment_in_flight();
                payment.map_or_else(payment_in_flight, |id| problem.with("paymentId", id.to_string()))
            }
            ConfirmError::PaymentOfAnotherOrder => {
                Self::new(Code::PaymentOfAnotherOrder, "This payment key was used for another order.")
            }
            ConfirmError::KeyMismatch => key_mismatch(),
            ConfirmError::KeyInFlight => key_in_flight(),
            ConfirmError::NotSent(not_sent) => not_sent.into(),
            ConfirmError::NotAdmitted(refused) => refused.into(),
            ConfirmError::Db(error) => error.into(),
        }
    }
}

impl From<CloseError> for Problem {
    fn from(error: CloseError) -> Self {
        match error {
            CloseError::NotFound => Self::new(Code::FindingNotFound, "No finding has this id."),
            CloseError::Settled { status } => Self::new(Code::FindingSettled, format!("The finding is {status}."))
                .with("findingStatus", status.as_str()),
            CloseError::Db(error) => error.into(),
        }
    }
}

impl From<NotSent> for Problem {
    fn from(not_sent: NotSent) -> Self {
        let cause = format!("{} {}", not_sent.reason, not_sent.code.as_deref().unwrap_or(""));
        match not_sent.reason {
            NotSentReason::Misconfigured => {
                Self::new(Code::ProviderRefusedRequest, "Nothing was charged.").because(cause)
            }
            NotSentReason::Unreachable | NotSentReason::RateLimited | NotSentReason::NeverArrived => {
                let problem = Self::new(Code::ProviderUnavailable, "Nothing was charged.")
                    .with("reason", not_sent.reason.as_str())
                    .because(cause);
                match not_sent.retry_after_s {
                    Some(seconds) => problem.retry_after(seconds.clamp(1, LONGEST_RETRY_AFTER_S)),
                    None => problem,
                }
            }
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let detail = match refused.reason {
            AdmissionRefusal::BreakerOpen => "The PG fails at the moment, so it was not asked. Nothing was done.",
            AdmissionRefusal::Saturated => "Too many requests wait for the PG already. Nothing was done.",
        };
        // Up to the next whole second: coming back early is in vain.
        let seconds = refused.retry_after.as_secs() + u64::from(refused.retry_after.subsec_nanos() > 0);
        Self::new(Code::ProviderUnavailable, detail)
            .with("reason", refused.reason.as_str())
            .retry_after(seconds.clamp(1, LONGEST_RETRY_AFTER_S))
            .because(refused)
    }
}

impl From<CancelError> for Problem {
    fn from(error: CancelError) -> Self {
        match error {
            CancelError::PaymentNotFound => payment_not_found(),
            CancelError::NotAllowed => {
                Self::new(Code::Forbidden, "A checkout token cancels an order only while it is unpaid.")
            }
            CancelError::NotCancelable { status } => {
                Self::new(Code::PaymentNotCancelable, format!("The payment is {status}."))
                    .with("paymentStatus", status.as_str())
            }
            CancelError::PaymentInFlight => payment_in_flight(),
            CancelError::CancellationInProgress => {
                Self::new(Code::CancellationInProgress, "Another cancellation of this payment is not decided yet.")
            }
            CancelError::Scope(error) => error.into(),
            CancelError::RefundAccountNeeded => {
                Self::new(Code::RefundAccountNeeded, "Give refundAccount with bankCode, accountNumber and holder.")
            }
            CancelError::PartialNotAllowed => {
                Self::new(Code::PartialCancelNotAllowed, "The virtual account has no deposit yet.")
            }
            CancelError::KeyMismatch => key_mismatch(),
            CancelError::KeyInFlight => key_in_flight(),
            CancelError::NotAdmitted(refused) => refused.into(),
            CancelError::Db(error) => error.into(),
        }
    }
}

impl From<InquireError> for Problem {
    fn from(error: InquireError) -> Self {
        match error {
            InquireError::PaymentNotFound => payment_not_found(),
            InquireError::NotAdmitted(refused) => refused.into(),
            // The row keeps its next inquiry: asking again does no harm.
            InquireError::Resolve(ResolveError::Db(error)) | InquireError::Db(error) => error.into(),
            InquireError::Resolve(error) => Self::internal(error),
        }
    }
}

impl From<ScopeError> for Problem {
    fn from(error: ScopeError) -> Self {
        match error {
            ScopeError::ExceedsBalance { balance } => {
                Self::new(Code::CancelAmountExceedsBalance, format!("{balance} is left to cancel."))
                    .with("balance", balance)
            }
            ScopeError::Empty => Self::new(Code::InvalidCancelScope, "The cancel names nothing, or a line twice."),
            ScopeError::UnknownLine(line) => {
                Self::new(Code::InvalidCancelScope, format!("The order has no line {line}.")).with("line", line)
            }
            ScopeError::TooMany { line, left } => {
                Self::new(Code::InvalidCancelScope, format!("Line {line} has {left} units left to cancel."))
                    .with("line", line)
                    .with("left", left)
            }
            ScopeError::Money(_) => Self::new(Code::InvalidCancelScope, "The amount is too large."),
        }
    }
}

impl From<CancelOrderError> for Problem {
    fn from(error: CancelOrderError) -> Self {
        match error {
            CancelOrderError::OrderNotFound => order_not_found(),
            CancelOrderError::OrderNotCancelable { status } => {
                Self::new(Code::OrderNotCancelable, format!("The order is {status}."))
                    .with("orderStatus", status.as_str())
            }
            CancelOrderError::Payment(error) => error.into(),
            CancelOrderError::Json(error) => Self::internal(error),
        }
    }
}

impl From<CatalogueError> for Problem {
    fn from(error: CatalogueError) -> Self {
        match error {
            CatalogueError::ProductNotFound => Self::new(Code::ProductNotFound, "No product has this id."),
            CatalogueError::StockBelowZero { available } => {
                Self::new(Code::StockBelowZero, format!("{available} units are available."))
                    .with("available", available)
            }
            CatalogueError::StockTooLarge => Self::invalid("delta", "The stock would be too large."),
            CatalogueError::Db(error) => error.into(),
        }
    }
}

/// No such order, or none that this caller may know of.
pub(in crate::http) fn order_not_found() -> Problem {
    Problem::new(Code::OrderNotFound, "No order has this id.")
}

/// No such payment, or none that this caller may know of.
pub(in crate::http) fn payment_not_found() -> Problem {
    Problem::new(Code::PaymentNotFound, "No payment has this id.")
}

fn payment_in_flight() -> Problem {
    Problem::new(Code::PaymentInFlight, "The payment's outcome is not certain yet.")
}

fn key_mismatch() -> Problem {
    Problem::new(Code::IdempotencyKeyMismatch, "The key was used for another request.")
}

fn key_in_flight() -> Problem {
    Problem::new(Code::IdempotencyKeyInFlight, "The first request with this key is still running.")
}
