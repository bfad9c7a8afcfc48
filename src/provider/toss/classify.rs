//! What each documented code means, as tables. Pure; the code decides, not the HTTP status.
//!
//! Called by the adapter for every answer that is not a payment. Only a listed code can be a certain no: a wrong
//! entry here loses money or sells twice, so whatever is not listed stays unknown and is counted as such. Codes of
//! other endpoints (billing, payouts) are left out on purpose.

use crate::domain::evidence::{
    CancelAnswer, ConfirmAnswer, Decline, DeclineClass, Doubt, DoubtReason, Inquiry, NotSent, NotSentReason, Refusal,
    RefusalClass,
};

/// What a code says about a confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confirm {
    /// Certainly refused; another method may do.
    Declined(DeclineClass),
    /// Certainly not acted on, and our settings or contract are why.
    Misconfigured,
    /// Nobody can know yet.
    Doubt(DoubtReason),
}

/// What a code says about a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancel {
    /// Certainly refused.
    Refused(RefusalClass),
    /// Nobody can know yet.
    Doubt(DoubtReason),
}

/// What a code says about an inquiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// With a 404: the PG has no such payment.
    NotFound,
    /// No answer.
    Doubt(DoubtReason),
}

/// Confirm, in the order of the provider's list.
#[rustfmt::skip]
const CONFIRM: &[(&str, Confirm)] = {
    use Confirm::{Declined, Doubt, Misconfigured};
    use DeclineClass as D;
    use DoubtReason as R;
    &[
        ("ALREADY_PROCESSED_PAYMENT", Doubt(R::AlreadyProcessed)),
        ("PROVIDER_ERROR", Doubt(R::ProviderFault)),
        ("CARD_PROCESSING_ERROR", Doubt(R::ProviderFault)),
        ("DUPLICATED_ORDER_ID", Doubt(R::AlreadyProcessed)),
        ("INVALID_REQUEST", Misconfigured),
        ("INVALID_API_KEY", Misconfigured),
        ("INVALID_ORDER_ID", Misconfigured),
        ("INVALID_PAYMENT_KEY", Misconfigured),
        ("UNAPPROVED_ORDER_ID", Doubt(R::SessionGone)),
        ("NOT_FOUND_TERMINAL_ID", Misconfigured),
        ("INVALID_UNREGISTERED_SUBMALL", Misconfigured),
        ("NOT_REGISTERED_BUSINESS", Misconfigured),
        ("INVALID_AUTHORIZE_AUTH", Misconfigured),
        ("BELOW_MINIMUM_AMOUNT", Misconfigured),
        ("EXCEED_MAX_CARD_INSTALLMENT_PLAN", Declined(D::CardInvalid)),
        ("NOT_SUPPORTED_INSTALLMENT_PLAN_CARD_OR_MERCHANT", Declined(D::CardInvalid)),
        ("INVALID_CARD_INSTALLMENT_PLAN", Declined(D::CardInvalid)),
        ("NOT_SUPPORTED_MONTHLY_INSTALLMENT_PLAN", Declined(D::CardInvalid)),
        ("INVALID_CARD_NUMBER", Declined(D::CardInvalid)),
        ("INVALID_CARD_EXPIRATION", Declined(D::CardInvalid)),
        ("INVALID_STOPPED_CARD", Declined(D::CardBlocked)),
        ("INVALID_REJECT_CARD", Declined(D::IssuerReject)),
        ("INVALID_CARD_LOST_OR_STOLEN", Declined(D::CardBlocked)),
        ("NOT_ALLOWED_POINT_USE", Declined(D::MethodUnavailable)),
        ("EXCEED_MAX_DAILY_PAYMENT_COUNT", Declined(D::LimitExceeded)),
        ("EXCEED_MAX_PAYMENT_AMOUNT", Declined(D::LimitExceeded)),
        ("EXCEED_MAX_AMOUNT", Declined(D::LimitExceeded)),
        ("EXCEED_MAX_MONTHLY_PAYMENT_AMOUNT", Declined(D::LimitExceeded)),
        ("EXCEED_MAX_ONE_DAY_WITHDRAW_AMOUNT", Declined(D::LimitExceeded)),
        ("EXCEED_MAX_ONE_TIME_WITHDRAW_AMOUNT", Declined(D::LimitExceeded)),
        ("RESTRICTED_TRANSFER_ACCOUNT", Declined(D::MethodUnavailable)),
        ("INVALID_ACCOUNT_INFO_RE_REGISTER", Declined(D::MethodUnavailable)),
        ("NOT_AVAILABLE_PAYMENT", Declined(D::MethodUnavailable)),
        ("PAY_PROCESS_CANCELED", Declined(D::UserCanceled)),
        ("PAY_PROCESS_ABORTED", Declined(D::Other)),
        ("EXCEEDS_TRANSFER_AMOUNT_MAXIMUM", Declined(D::LimitExceeded)),
        ("MAINTAINED_METHOD", Declined(D::MethodUnavailable)),
        ("INVALID_IDEMPOTENCY_KEY", Misconfigured),
        ("INVALID_TEST_CODE", Misconfigured),
        ("API_VERSION_UPDATE_NEEDED", Misconfigured),
        ("UNAUTHORIZED_KEY", Misconfigured),
        // Both limit and balance hide behind this one; buyers are helped by the more common of the two.
        ("REJECT_CARD_PAYMENT", Declined(D::InsufficientFunds)),
        ("REJECT_ACCOUNT_PAYMENT", Declined(D::InsufficientFunds)),
        ("REJECT_CARD_COMPANY", Declined(D::IssuerReject)),
        ("REJECT_TOSSPAY_INVALID_ACCOUNT", Declined(D::MethodUnavailable)),
        ("INVALID_PASSWORD", Declined(D::AuthFailed)),
        ("EXCEED_MAX_AUTH_COUNT", Declined(D::AuthFailed)),
        ("EXCEED_MAX_ONE_DAY_AMOUNT", Declined(D::LimitExceeded)),
        ("NOT_AVAILABLE_BANK", Declined(D::MethodUnavailable)),
        ("FDS_ERROR", Declined(D::FraudSuspected)),
        ("FORBIDDEN_REQUEST", Misconfigured),
        ("INCORRECT_BASIC_AUTH_FORMAT", Misconfigured),
        ("NOT_SUPPORTED_WIDGET_KEY", Misconfigured),
        ("INSECURE_KEY_USAGE", Misconfigured),
        ("NOT_FOUND_PAYMENT_SESSION", Doubt(R::SessionGone)),
        ("NOT_FOUND_PAYMENT", Doubt(R::SessionGone)),
        ("IDEMPOTENT_REQUEST_PROCESSING", Doubt(R::InFlight)),
        ("FAILED_PAYMENT_INTERNAL_SYSTEM_PROCESSING", Doubt(R::ServerError)),
        ("FAILED_INTERNAL_SYSTEM_PROCESSING", Doubt(R::ServerError)),
        ("UNKNOWN_PAYMENT_ERROR", Doubt(R::ServerError)),
    ]
};

/// Cancel, in the order of the provider's list; the last group is documented without an endpoint.
#[rustfmt::skip]
const CANCEL: &[(&str, Cancel)] = {
    use Cancel::{Doubt, Refused};
    use DoubtReason as R;
    use RefusalClass as C;
    &[
        ("ALREADY_CANCELED_PAYMENT", Doubt(R::AlreadyProcessed)),
        ("ALREADY_REFUND_PAYMENT", Doubt(R::AlreadyProcessed)),
        ("NOT_MATCHES_REFUNDABLE_AMOUNT", Doubt(R::BalanceDiffers)),
        ("PROVIDER_ERROR", Doubt(R::ProviderFault)),
        ("INVALID_REFUND_ACCOUNT_INFO", Refused(C::RefundAccount)),
        ("INVALID_REFUND_ACCOUNT_NUMBER", Refused(C::RefundAccount)),
        ("INVALID_BANK", Refused(C::RefundAccount)),
        ("FORBIDDEN_BANK_REFUND_REQUEST", Refused(C::RefundAccount)),
        ("EXCEED_CANCEL_AMOUNT_DISCOUNT_AMOUNT", Refused(C::Amount)),
        ("REFUND_REJECTED", Refused(C::Other)),
        ("INVALID_REQUEST", Refused(C::MerchantConfig)),
        ("UNAUTHORIZED_KEY", Refused(C::MerchantConfig)),
        // The measured answer to repeating a cancel that emptied the payment: it may be ours.
        ("NOT_CANCELABLE_AMOUNT", Doubt(R::AlreadyProcessed)),
        ("NOT_CANCELABLE_PAYMENT", Refused(C::NotCancelable)),
        ("EXCEED_MAX_REFUND_DUE", Refused(C::TooLate)),
        ("NOT_ALLOWED_PARTIAL_REFUND", Refused(C::PartialNotAllowed)),
        ("NOT_ALLOWED_PARTIAL_REFUND_WAITING_DEPOSIT", Refused(C::PartialNotAllowed)),
        ("NOT_CANCELABLE_PAYMENT_FOR_DORMANT_USER", Refused(C::NotCancelable)),
        ("EXCEED_CANCEL_LIMIT", Refused(C::MerchantConfig)),
        ("FORBIDDEN_CONSECUTIVE_REQUEST", Doubt(R::TryLater)),
        ("NOT_AVAILABLE_BANK", Doubt(R::TryLater)),
        ("FORBIDDEN_REQUEST", Refused(C::MerchantConfig)),
        ("INCORRECT_BASIC_AUTH_FORMAT", Refused(C::MerchantConfig)),
        ("NOT_FOUND_PAYMENT", Refused(C::MerchantConfig)),
        ("IDEMPOTENT_REQUEST_PROCESSING", Doubt(R::InFlight)),
        ("FAILED_INTERNAL_SYSTEM_PROCESSING", Doubt(R::ServerError)),
        ("FAILED_REFUND_PROCESS", Doubt(R::ServerError)),
        ("FAILED_METHOD_HANDLING_CANCEL", Doubt(R::ServerError)),
        ("FAILED_PARTIAL_REFUND", Doubt(R::ServerError)),
        ("COMMON_ERROR", Doubt(R::ServerError)),
        ("FAILED_PAYMENT_INTERNAL_SYSTEM_PROCESSING", Doubt(R::ServerError)),
        ("INVALID_API_KEY", Refused(C::MerchantConfig)),
        ("INVALID_PAYMENT_KEY", Refused(C::MerchantConfig)),
        ("INVALID_IDEMPOTENCY_KEY", Refused(C::MerchantConfig)),
        ("INVALID_TEST_CODE", Refused(C::MerchantConfig)),
        ("API_VERSION_UPDATE_NEEDED", Refused(C::MerchantConfig)),
        ("NOT_SUPPORTED_WIDGET_KEY", Refused(C::MerchantConfig)),
        ("INSECURE_KEY_USAGE", Refused(C::MerchantConfig)),
        ("INVALID_REFUND_AMOUNT", Refused(C::Amount)),
        ("EXCEED_MAX_REFUND_AMOUNT", Doubt(R::AlreadyProcessed)),
        ("NOT_SUPPORTED_REFUND", Refused(C::NotCancelable)),
        ("NOT_ALLOWED_REFUND_BANK", Refused(C::RefundAccount)),
        ("ALREADY_REFUNDING_PAYMENT", Doubt(R::AlreadyProcessed)),
    ]
};

/// Inquiries. A key or contract at fault says nothing about the payment.
#[rustfmt::skip]
const INQUIRY: &[(&str, Asked)] = {
    use Asked::{Doubt, NotFound};
    use DoubtReason as R;
    &[
        ("NOT_FOUND_PAYMENT", NotFound),
        ("NOT_FOUND", NotFound),
        ("NOT_FOUND_PAYMENT_SESSION", NotFound),
        ("FORBIDDEN_CONSECUTIVE_REQUEST", Doubt(R::TryLater)),
        ("UNAUTHORIZED_KEY", Doubt(R::Inconclusive)),
        ("INVALID_API_KEY", Doubt(R::Inconclusive)),
        ("INCORRECT_BASIC_AUTH_FORMAT", Doubt(R::Inconclusive)),
        ("FORBIDDEN_REQUEST", Doubt(R::Inconclusive)),
        ("INVALID_REQUEST", Doubt(R::Inconclusive)),
        ("INVALID_PAYMENT_KEY", Doubt(R::Inconclusive)),
        ("INVALID_ORDER_ID", Doubt(R::Inconclusive)),
        ("DUPLICATED_ORDER_ID", Doubt(R::Inconclusive)),
        ("API_VERSION_UPDATE_NEEDED", Doubt(R::Inconclusive)),
        ("NOT_SUPPORTED_WIDGET_KEY", Doubt(R::Inconclusive)),
        ("INSECURE_KEY_USAGE", Doubt(R::Inconclusive)),
        ("NOT_SUPPORTED_MONTHLY_INSTALLMENT_PLAN_BELOW_AMOUNT", Doubt(R::Inconclusive)),
        ("PROVIDER_ERROR", Doubt(R::ProviderFault)),
        ("FAILED_PAYMENT_INTERNAL_SYSTEM_PROCESSING", Doubt(R::ServerError)),
        ("FAILED_INTERNAL_SYSTEM_PROCESSING", Doubt(R::ServerError)),
        ("COMMON_ERROR", Doubt(R::ServerError)),
    ]
};

const TOO_MANY_REQUESTS: u16 = 429;
const NOT_FOUND: u16 = 404;

/// The answer to a confirm that did not come back as a payment.
pub(super) fn confirm(status: u16, code: Option<&str>, retry_after_s: Option<u64>) -> ConfirmAnswer {
    let owned = code.map(str::to_owned);
    match code.and_then(|code| listed(CONFIRM, code).map(|meaning| (code, meaning))) {
        Some((code, Confirm::Declined(class))) => ConfirmAnswer::Declined(Decline { class, code: code.to_owned() }),
        Some((_, Confirm::Misconfigured)) => {
            ConfirmAnswer::NotSent(NotSent { reason: NotSentReason::Misconfigured, code: owned, retry_after_s: None })
        }
        Some((_, Confirm::Doubt(reason))) => ConfirmAnswer::Unknown(Doubt { reason, code: owned }),
        None if status == TOO_MANY_REQUESTS => {
            ConfirmAnswer::NotSent(NotSent { reason: NotSentReason::RateLimited, code: owned, retry_after_s })
        }
        None => ConfirmAnswer::Unknown(unlisted(status, owned)),
    }
}

/// The answer to a cancel that did not come back as a payment.
pub(super) fn cancel(status: u16, code: Option<&str>) -> CancelAnswer {
    let owned = code.map(str::to_owned);
    match code.and_then(|code| listed(CANCEL, code).map(|meaning| (code, meaning))) {
        Some((code, Cancel::Refused(class))) => CancelAnswer::Refused(Refusal { class, code: code.to_owned() }),
        Some((_, Cancel::Doubt(reason))) => CancelAnswer::Unknown(Doubt { reason, code: owned }),
        None => CancelAnswer::Unknown(unlisted(status, owned)),
    }
}

/// The answer to an inquiry that did not come back as a payment.
pub(super) fn inquiry(status: u16, code: Option<&str>) -> Inquiry {
    let owned = code.map(str::to_owned);
    match code.and_then(|code| listed(INQUIRY, code)) {
        // Both must agree: a 404 from something before the PG must not make a payment vanish.
        Some(Asked::NotFound) if status == NOT_FOUND => Inquiry::NotFound,
        Some(Asked::NotFound) => Inquiry::Unknown(Doubt { reason: DoubtReason::Inconclusive, code: owned }),
        Some(Asked::Doubt(reason)) => Inquiry::Unknown(Doubt { reason, code: owned }),
        None => Inquiry::Unknown(unlisted(status, owned)),
    }
}

fn listed<T: Copy>(table: &[(&str, T)], code: &str) -> Option<T> {
    table.iter().find(|(listed, _)| *listed == code).map(|(_, meaning)| *meaning)
}

fn unlisted(status: u16, code: Option<String>) -> Doubt {
    let reason = match (status, &code) {
        (TOO_MANY_REQUESTS, _) => DoubtReason::TryLater,
        (_, Some(_)) => DoubtReason::UnlistedCode,
        (500..=599, None) => DoubtReason::ServerError,
        (_, None) => DoubtReason::Undecodable,
    };
    Doubt { reason, code }
}

#[cfg(test)]
mod tests;
