//! The documented codes once more, grouped by their documented class and written without looking at the tables.

use super::*;

/// A decline: the buyer can pay another way.
const CONFIRM_DECLINED: &str = "
    EXCEED_MAX_CARD_INSTALLMENT_PLAN NOT_SUPPORTED_INSTALLMENT_PLAN_CARD_OR_MERCHANT INVALID_CARD_INSTALLMENT_PLAN
    NOT_SUPPORTED_MONTHLY_INSTALLMENT_PLAN
    INVALID_CARD_NUMBER INVALID_CARD_EXPIRATION INVALID_STOPPED_CARD INVALID_REJECT_CARD INVALID_CARD_LOST_OR_STOLEN
    NOT_ALLOWED_POINT_USE
    EXCEED_MAX_DAILY_PAYMENT_COUNT EXCEED_MAX_PAYMENT_AMOUNT EXCEED_MAX_AMOUNT EXCEED_MAX_MONTHLY_PAYMENT_AMOUNT
    EXCEED_MAX_ONE_DAY_WITHDRAW_AMOUNT EXCEED_MAX_ONE_TIME_WITHDRAW_AMOUNT
    RESTRICTED_TRANSFER_ACCOUNT INVALID_ACCOUNT_INFO_RE_REGISTER NOT_AVAILABLE_PAYMENT
    PAY_PROCESS_CANCELED PAY_PROCESS_ABORTED EXCEEDS_TRANSFER_AMOUNT_MAXIMUM MAINTAINED_METHOD
    REJECT_ACCOUNT_PAYMENT REJECT_CARD_PAYMENT REJECT_CARD_COMPANY REJECT_TOSSPAY_INVALID_ACCOUNT INVALID_PASSWORD
    EXCEED_MAX_AUTH_COUNT EXCEED_MAX_ONE_DAY_AMOUNT NOT_AVAILABLE_BANK FDS_ERROR";

/// A fault of the shop's settings, contract or request.
const CONFIRM_CONFIG: &str = "
    INVALID_REQUEST INVALID_API_KEY INVALID_ORDER_ID INVALID_PAYMENT_KEY
    NOT_FOUND_TERMINAL_ID INVALID_UNREGISTERED_SUBMALL NOT_REGISTERED_BUSINESS
    INVALID_AUTHORIZE_AUTH BELOW_MINIMUM_AMOUNT
    INVALID_IDEMPOTENCY_KEY INVALID_TEST_CODE API_VERSION_UPDATE_NEEDED UNAUTHORIZED_KEY
    FORBIDDEN_REQUEST INCORRECT_BASIC_AUTH_FORMAT NOT_SUPPORTED_WIDGET_KEY INSECURE_KEY_USAGE";

const CONFIRM_SESSION_GONE: &str = "UNAPPROVED_ORDER_ID NOT_FOUND_PAYMENT_SESSION NOT_FOUND_PAYMENT";
const CONFIRM_LOOK: &str = "ALREADY_PROCESSED_PAYMENT DUPLICATED_ORDER_ID";
const CONFIRM_PROVIDER: &str = "PROVIDER_ERROR CARD_PROCESSING_ERROR";
const CONFIRM_SERVER: &str =
    "FAILED_PAYMENT_INTERNAL_SYSTEM_PROCESSING FAILED_INTERNAL_SYSTEM_PROCESSING UNKNOWN_PAYMENT_ERROR";

const CANCEL_ACCOUNT: &str = "
    INVALID_REFUND_ACCOUNT_INFO INVALID_REFUND_ACCOUNT_NUMBER INVALID_BANK FORBIDDEN_BANK_REFUND_REQUEST
    NOT_ALLOWED_REFUND_BANK";
const CANCEL_NEVER: &str = "NOT_CANCELABLE_PAYMENT NOT_CANCELABLE_PAYMENT_FOR_DORMANT_USER NOT_SUPPORTED_REFUND";
const CANCEL_PARTIAL: &str = "NOT_ALLOWED_PARTIAL_REFUND NOT_ALLOWED_PARTIAL_REFUND_WAITING_DEPOSIT";
const CANCEL_AMOUNT: &str = "EXCEED_CANCEL_AMOUNT_DISCOUNT_AMOUNT INVALID_REFUND_AMOUNT";
const CANCEL_CONFIG: &str = "
    INVALID_REQUEST UNAUTHORIZED_KEY EXCEED_CANCEL_LIMIT FORBIDDEN_REQUEST INCORRECT_BASIC_AUTH_FORMAT
    NOT_FOUND_PAYMENT INVALID_API_KEY INVALID_PAYMENT_KEY INVALID_IDEMPOTENCY_KEY INVALID_TEST_CODE
    API_VERSION_UPDATE_NEEDED NOT_SUPPORTED_WIDGET_KEY INSECURE_KEY_USAGE";
const CANCEL_LOOK: &str = "
    ALREADY_CANCELED_PAYMENT ALREADY_REFUND_PAYMENT NOT_CANCELABLE_AMOUNT EXCEED_MAX_REFUND_AMOUNT
    ALREADY_REFUNDING_PAYMENT";
const CANCEL_LATER: &str = "FORBIDDEN_CONSECUTIVE_REQUEST NOT_AVAILABLE_BANK";
const CANCEL_SERVER: &str = "
    FAILED_INTERNAL_SYSTEM_PROCESSING FAILED_REFUND_PROCESS FAILED_METHOD_HANDLING_CANCEL FAILED_PARTIAL_REFUND
    COMMON_ERROR FAILED_PAYMENT_INTERNAL_SYSTEM_PROCESSING";

/// With a listed code the status must not matter, so each is tried with honest and with absurd ones.
const STATUSES: [u16; 8] = [400, 401, 403, 404, 409, 429, 500, 502];

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split_whitespace()
}

fn confirm_doubt(list: &str, wanted: DoubtReason) -> usize {
    for (code, status) in words(list).flat_map(|code| STATUSES.map(|status| (code, status))) {
        let answer = confirm(status, Some(code), Some(7));
        let ConfirmAnswer::Unknown(doubt) = &answer else { panic!("{code} with {status}: {answer:?}") };
        assert_eq!((doubt.reason, doubt.code.as_deref()), (wanted, Some(code)));
    }
    words(list).count()
}

fn cancel_refused(list: &str, wanted: RefusalClass) -> usize {
    for (code, status) in words(list).flat_map(|code| STATUSES.map(|status| (code, status))) {
        let answer = cancel(status, Some(code));
        let CancelAnswer::Refused(refusal) = &answer else { panic!("{code} with {status}: {answer:?}") };
        assert_eq!((refusal.class, refusal.code.as_str()), (wanted, code));
    }
    words(list).count()
}

fn cancel_doubt(list: &str, wanted: DoubtReason) -> usize {
    for (code, status) in words(list).flat_map(|code| STATUSES.map(|status| (code, status))) {
        let answer = cancel(status, Some(code));
        let CancelAnswer::Unknown(doubt) = &answer else { panic!("{code} with {status}: {answer:?}") };
        assert_eq!((doubt.reason, doubt.code.as_deref()), (wanted, Some(code)));
    }
    words(list).count()
}

#[test]
fn every_documented_confirm_code_has_its_documented_class() {
    let mut seen = 0;
    for (code, status) in words(CONFIRM_DECLINED).flat_map(|code| STATUSES.map(|status| (code, status))) {
        let answer = confirm(status, Some(code), None);
        assert!(matches!(&answer, ConfirmAnswer::Declined(decline) if decline.code == code), "{code}: {answer:?}");
    }
    seen += words(CONFIRM_DECLINED).count();
    for (code, status) in words(CONFIRM_CONFIG).flat_map(|code| STATUSES.map(|status| (code, status))) {
        let wanted = NotSent { reason: NotSentReason::Misconfigured, code: Some(code.to_owned()), retry_after_s: None };
        let answer = confirm(status, Some(code), Some(7));
        assert!(matches!(&answer, ConfirmAnswer::NotSent(got) if *got == wanted), "{code}: {answer:?}");
    }
    seen += words(CONFIRM_CONFIG).count();
    seen += confirm_doubt(CONFIRM_SESSION_GONE, DoubtReason::SessionGone);
    seen += confirm_doubt(CONFIRM_LOOK, DoubtReason::AlreadyProcessed);
    seen += confirm_doubt(CONFIRM_PROVIDER, DoubtReason::ProviderFault);
    seen += confirm_doubt(CONFIRM_SERVER, DoubtReason::ServerError);
    seen += confirm_doubt("IDEMPOTENT_REQUEST_PROCESSING", DoubtReason::InFlight);
    assert_eq!(seen, CONFIRM.len(), "a listed code is missing from this test, or listed twice");
}

#[test]
fn declines_are_told_apart_for_the_buyer() {
    for (code, class) in [
        ("REJECT_ACCOUNT_PAYMENT", DeclineClass::InsufficientFunds),
        ("EXCEED_MAX_ONE_DAY_AMOUNT", DeclineClass::LimitExceeded),
        ("INVALID_CARD_EXPIRATION", DeclineClass::CardInvalid),
        ("INVALID_CARD_LOST_OR_STOLEN", DeclineClass::CardBlocked),
        ("REJECT_CARD_COMPANY", DeclineClass::IssuerReject),
        ("INVALID_PASSWORD", DeclineClass::AuthFailed),
        ("FDS_ERROR", DeclineClass::FraudSuspected),
        ("PAY_PROCESS_CANCELED", DeclineClass::UserCanceled),
        ("NOT_AVAILABLE_BANK", DeclineClass::MethodUnavailable),
        ("PAY_PROCESS_ABORTED", DeclineClass::Other),
    ] {
        let answer = confirm(400, Some(code), None);
        assert!(matches!(&answer, ConfirmAnswer::Declined(decline) if decline.class == class), "{code}: {answer:?}");
    }
}

#[test]
fn every_documented_cancel_code_has_its_documented_class() {
    let seen = cancel_refused(CANCEL_ACCOUNT, RefusalClass::RefundAccount)
        + cancel_refused(CANCEL_NEVER, RefusalClass::NotCancelable)
        + cancel_refused("EXCEED_MAX_REFUND_DUE", RefusalClass::TooLate)
        + cancel_refused(CANCEL_PARTIAL, RefusalClass::PartialNotAllowed)
        + cancel_refused(CANCEL_AMOUNT, RefusalClass::Amount)
        + cancel_refused(CANCEL_CONFIG, RefusalClass::MerchantConfig)
        + cancel_refused("REFUND_REJECTED", RefusalClass::Other)
        + cancel_doubt(CANCEL_LOOK, DoubtReason::AlreadyProcessed)
        + cancel_doubt("NOT_MATCHES_REFUNDABLE_AMOUNT", DoubtReason::BalanceDiffers)
        + cancel_doubt("PROVIDER_ERROR", DoubtReason::ProviderFault)
        + cancel_doubt(CANCEL_LATER, DoubtReason::TryLater)
        + cancel_doubt("IDEMPOTENT_REQUEST_PROCESSING", DoubtReason::InFlight)
        + cancel_doubt(CANCEL_SERVER, DoubtReason::ServerError);
    assert_eq!(seen, CANCEL.len(), "a listed code is missing from this test, or listed twice");
}

#[test]
fn an_inquiry_finds_nothing_only_with_404_and_a_code_that_says_so() {
    for code in ["NOT_FOUND_PAYMENT", "NOT_FOUND", "NOT_FOUND_PAYMENT_SESSION"] {
        assert!(matches!(inquiry(404, Some(code)), Inquiry::NotFound), "{code}");
        assert!(matches!(inquiry(400, Some(code)), Inquiry::Unknown(_)), "{code}");
    }
    for (status, code, wanted) in [
        (404, None, DoubtReason::Undecodable),
        (404, Some("NO_SUCH_ROUTE"), DoubtReason::UnlistedCode),
        (403, Some("FORBIDDEN_CONSECUTIVE_REQUEST"), DoubtReason::TryLater),
        (429, None, DoubtReason::TryLater),
        (401, Some("UNAUTHORIZED_KEY"), DoubtReason::Inconclusive),
        (403, Some("INCORRECT_BASIC_AUTH_FORMAT"), DoubtReason::Inconclusive),
        (400, Some("NOT_SUPPORTED_MONTHLY_INSTALLMENT_PLAN_BELOW_AMOUNT"), DoubtReason::Inconclusive),
        (500, Some("FAILED_PAYMENT_INTERNAL_SYSTEM_PROCESSING"), DoubtReason::ServerError),
        (503, None, DoubtReason::ServerError),
    ] {
        let answer = inquiry(status, code);
        let Inquiry::Unknown(doubt) = &answer else { panic!("{status} {code:?}: {answer:?}") };
        assert_eq!((doubt.reason, doubt.code.as_deref()), (wanted, code));
    }
    for (code, _) in INQUIRY {
        assert!(!matches!(inquiry(200, Some(code)), Inquiry::NotFound), "{code}");
    }
}

#[test]
fn a_code_that_nobody_listed_decides_nothing() {
    for status in [302, 400, 401, 403, 404, 409, 500, 503] {
        let unlisted = DoubtReason::UnlistedCode;
        assert!(matches!(confirm(status, Some("BRAND_NEW"), None), ConfirmAnswer::Unknown(d) if d.reason == unlisted));
        assert!(matches!(cancel(status, Some("BRAND_NEW")), CancelAnswer::Unknown(d) if d.reason == unlisted));
        let silent = if status < 500 { DoubtReason::Undecodable } else { DoubtReason::ServerError };
        assert!(matches!(confirm(status, None, None), ConfirmAnswer::Unknown(d) if d.reason == silent));
        assert!(matches!(cancel(status, None), CancelAnswer::Unknown(d) if d.reason == silent));
    }
}

#[test]
fn too_many_requests_means_that_nothing_was_tried() {
    for code in [None, Some("TOO_MANY_REQUESTS")] {
        let wanted =
            NotSent { reason: NotSentReason::RateLimited, code: code.map(str::to_owned), retry_after_s: Some(9) };
        assert!(matches!(confirm(429, code, Some(9)), ConfirmAnswer::NotSent(got) if got == wanted));
        assert!(matches!(cancel(429, code), CancelAnswer::Unknown(d) if d.reason == DoubtReason::TryLater));
    }
}

#[test]
fn no_table_lists_a_code_twice_or_one_that_could_not_be_read() {
    fn check<T>(table: &[(&str, T)]) {
        for (at, (code, _)) in table.iter().enumerate() {
            assert!(super::super::wire::is_code(code), "{code}");
            assert!(table.iter().skip(at + 1).all(|(other, _)| other != code), "{code} twice");
        }
    }
    check(CONFIRM);
    check(CANCEL);
    check(INQUIRY);
}
