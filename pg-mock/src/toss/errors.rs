//! The documented error codes, their HTTP statuses, and which of them end a payment.
//!
//! A table and nothing else; consulted by every endpoint and by the script. Codes outside the table
//! get status 400, so that a test can also send what nobody has documented.

use serde_json::{Value, json};

use crate::answer::Reply;
use crate::script::Operation;

/// What a code says about the payment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    /// The buyer is refused for good: a confirm ends as `ABORTED`.
    Refused,
    /// The request or the shop's set-up is wrong.
    Faulty,
    /// Trouble at the PG or its partners; nothing certain about the payment.
    Trouble,
    /// Come back later.
    Later,
    /// The payment is not in a state for this.
    Conflict,
}

/// Which endpoints a code belongs to.
#[derive(Clone, Copy)]
struct On {
    confirm: bool,
    cancel: bool,
    lookup: bool,
}

const CONFIRM: On = On { confirm: true, cancel: false, lookup: false };
const CANCEL: On = On { confirm: false, cancel: true, lookup: false };
const LOOKUP: On = On { confirm: false, cancel: false, lookup: true };
const CHANGES: On = On { confirm: true, cancel: true, lookup: false };
const ALL: On = On { confirm: true, cancel: true, lookup: true };
const NONE: On = On { confirm: false, cancel: false, lookup: false };

#[rustfmt::skip]
const CODES: &[(&str, u16, Says, On)] = &[
    ("ALREADY_PROCESSED_PAYMENT", 400, Says::Conflict, CONFIRM),
    ("PROVIDER_ERROR", 400, Says::Trouble, CHANGES),
    ("CARD_PROCESSING_ERROR", 400, Says::Trouble, CONFIRM),
    ("DUPLICATED_ORDER_ID", 400, Says::Conflict, CONFIRM),
    ("INVALID_REQUEST", 400, Says::Faulty, ALL),
    ("INVALID_API_KEY", 400, Says::Faulty, ALL),
    ("INVALID_ORDER_ID", 400, Says::Faulty, CONFIRM),
    ("INVALID_PAYMENT_KEY", 400, Says::Faulty, CONFIRM),
    ("UNAPPROVED_ORDER_ID", 400, Says::Faulty, CONFIRM),
    ("NOT_FOUND_TERMINAL_ID", 400, Says::Faulty, CONFIRM),
    ("INVALID_UNREGISTERED_SUBMALL", 400, Says::Faulty, CONFIRM),
    ("NOT_REGISTERED_BUSINESS", 400, Says::Faulty, CONFIRM),
    ("INVALID_AUTHORIZE_AUTH", 400, Says::Faulty, CONFIRM),
    ("BELOW_MINIMUM_AMOUNT", 400, Says::Faulty, CONFIRM),
    ("EXCEED_MAX_CARD_INSTALLMENT_PLAN", 400, Says::Refused, CONFIRM),
    ("NOT_SUPPORTED_INSTALLMENT_PLAN_CARD_OR_MERCHANT", 400, Says::Refused, CONFIRM),
    ("INVALID_CARD_INSTALLMENT_PLAN", 400, Says::Refused, CONFIRM),
    ("NOT_SUPPORTED_MONTHLY_INSTALLMENT_PLAN", 400, Says::Refused, CONFIRM),
    ("INVALID_CARD_NUMBER", 400, Says::Refused, CONFIRM),
    ("INVALID_CARD_EXPIRATION", 400, Says::Refused, CONFIRM),
    ("INVALID_STOPPED_CARD", 400, Says::Refused, CONFIRM),
    ("INVALID_REJECT_CARD", 400, Says::Refused, CONFIRM),
    ("INVALID_CARD_LOST_OR_STOLEN", 400, Says::Refused, CONFIRM),
    ("NOT_ALLOWED_POINT_USE", 400, Says::Refused, CONFIRM),
    ("EXCEED_MAX_DAILY_PAYMENT_COUNT", 400, Says::Refused, CONFIRM),
    ("EXCEED_MAX_PAYMENT_AMOUNT", 400, Says::Refused, CONFIRM),
    ("EXCEED_MAX_AMOUNT", 400, Says::Refused, CONFIRM),
    ("EXCEED_MAX_MONTHLY_PAYMENT_AMOUNT", 400, Says::Refused, CONFIRM),
    ("EXCEED_MAX_ONE_DAY_WITHDRAW_AMOUNT", 400, Says::Refused, CONFIRM),
    ("EXCEED_MAX_ONE_TIME_WITHDRAW_AMOUNT", 400, Says::Refused, CONFIRM),
    ("RESTRICTED_TRANSFER_ACCOUNT", 400, Says::Refused, CONFIRM),
    ("INVALID_ACCOUNT_INFO_RE_REGISTER", 400, Says::Refused, CONFIRM),
    ("NOT_AVAILABLE_PAYMENT", 400, Says::Refused, CONFIRM),
    ("PAY_PROCESS_CANCELED", 400, Says::Refused, CONFIRM),
    ("PAY_PROCESS_ABORTED", 400, Says::Refused, CONFIRM),
    ("EXCEEDS_TRANSFER_AMOUNT_MAXIMUM", 400, Says::Refused, CONFIRM),
    ("MAINTAINED_METHOD", 400, Says::Refused, CONFIRM),
    ("INVALID_IDEMPOTENCY_KEY", 400, Says::Faulty, CHANGES),
    ("INVALID_TEST_CODE", 400, Says::Faulty, CHANGES),
    ("API_VERSION_UPDATE_NEEDED", 400, Says::Faulty, ALL),
    ("UNAUTHORIZED_KEY", 401, Says::Faulty, ALL),
    ("REJECT_ACCOUNT_PAYMENT", 403, Says::Refused, CONFIRM),
    ("REJECT_CARD_PAYMENT", 403, Says::Refused, CONFIRM),
    ("REJECT_CARD_COMPANY", 403, Says::Refused, CONFIRM),
    ("REJECT_TOSSPAY_INVALID_ACCOUNT", 403, Says::Refused, CONFIRM),
    ("INVALID_PASSWORD", 403, Says::Refused, CONFIRM),
    ("EXCEED_MAX_AUTH_COUNT", 403, Says::Refused, CONFIRM),
    ("EXCEED_MAX_ONE_DAY_AMOUNT", 403, Says::Refused, CONFIRM),
    ("NOT_AVAILABLE_BANK", 403, Says::Refused, CHANGES),
    ("FDS_ERROR", 403, Says::Refused, CONFIRM),
    ("FORBIDDEN_REQUEST", 403, Says::Faulty, ALL),
    ("INCORRECT_BASIC_AUTH_FORMAT", 403, Says::Faulty, ALL),
    ("NOT_FOUND_PAYMENT_SESSION", 404, Says::Conflict, CONFIRM),
    ("NOT_FOUND_PAYMENT", 404, Says::Conflict, ALL),
    ("NOT_FOUND", 404, Says::Conflict, LOOKUP),
    ("IDEMPOTENT_REQUEST_PROCESSING", 409, Says::Later, CHANGES),
    // The status is documented, its code is not.
    ("TOO_MANY_REQUESTS", 429, Says::Later, NONE),
    ("FAILED_PAYMENT_INTERNAL_SYSTEM_PROCESSING", 500, Says::Trouble, ALL),
    ("FAILED_INTERNAL_SYSTEM_PROCESSING", 500, Says::Trouble, CHANGES),
    ("UNKNOWN_PAYMENT_ERROR", 500, Says::Trouble, CONFIRM),
    ("NOT_SUPPORTED_MONTHLY_INSTALLMENT_PLAN_BELOW_AMOUNT", 400, Says::Faulty, LOOKUP),
    ("FORBIDDEN_CONSECUTIVE_REQUEST", 403, Says::Later, On { confirm: false, cancel: true, lookup: true }),
    ("INVALID_DATE", 400, Says::Faulty, NONE),
    ("ALREADY_CANCELED_PAYMENT", 400, Says::Conflict, CANCEL),
    ("ALREADY_REFUND_PAYMENT", 400, Says::Conflict, CANCEL),
    ("NOT_MATCHES_REFUNDABLE_AMOUNT", 400, Says::Conflict, CANCEL),
    ("INVALID_REFUND_ACCOUNT_INFO", 400, Says::Refused, CANCEL),
    ("INVALID_REFUND_ACCOUNT_NUMBER", 400, Says::Refused, CANCEL),
    ("INVALID_BANK", 400, Says::Refused, CANCEL),
    ("FORBIDDEN_BANK_REFUND_REQUEST", 400, Says::Refused, CANCEL),
    ("EXCEED_CANCEL_AMOUNT_DISCOUNT_AMOUNT", 400, Says::Refused, CANCEL),
    ("REFUND_REJECTED", 400, Says::Refused, CANCEL),
    ("NOT_CANCELABLE_AMOUNT", 403, Says::Refused, CANCEL),
    ("NOT_CANCELABLE_PAYMENT", 403, Says::Refused, CANCEL),
    ("EXCEED_MAX_REFUND_DUE", 403, Says::Refused, CANCEL),
    ("NOT_ALLOWED_PARTIAL_REFUND", 403, Says::Refused, CANCEL),
    ("NOT_ALLOWED_PARTIAL_REFUND_WAITING_DEPOSIT", 403, Says::Refused, CANCEL),
    ("NOT_CANCELABLE_PAYMENT_FOR_DORMANT_USER", 403, Says::Refused, CANCEL),
    ("EXCEED_CANCEL_LIMIT", 403, Says::Faulty, CANCEL),
    ("FAILED_REFUND_PROCESS", 500, Says::Trouble, CANCEL),
    ("FAILED_METHOD_HANDLING_CANCEL", 500, Says::Trouble, CANCEL),
    ("FAILED_PARTIAL_REFUND", 500, Says::Trouble, CANCEL),
    ("COMMON_ERROR", 500, Says::Trouble, CANCEL),
];

/// An error answer.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub status: u16,
    pub code: String,
}

impl ApiError {
    /// The error with its documented status; 400 for an undocumented code.
    pub fn of(code: &str) -> ApiError {
        let status = row(code).map_or(400, |(_, status, _, _)| *status);
        ApiError::with_status(status, code)
    }

    pub fn with_status(status: u16, code: &str) -> ApiError {
        ApiError { status, code: code.to_owned() }
    }

    pub fn body(&self) -> Value {
        json!({ "code": self.code, "message": message(&self.code) })
    }

    pub fn reply(&self) -> Reply {
        Reply::json(self.status, &self.body())
    }
}

/// Whether a confirm answered with this code ends the payment.
pub(crate) fn ends_payment(code: &str) -> bool {
    matches!(row(code), Some((_, _, Says::Refused, on)) if on.confirm)
}

/// Whether the code is one this operation can answer with.
pub(crate) fn belongs(code: &str, operation: Operation) -> bool {
    row(code).is_some_and(|(_, _, _, on)| match operation {
        Operation::Confirm => on.confirm,
        Operation::Cancel => on.cancel,
        Operation::Lookup | Operation::Transactions => on.lookup,
        Operation::Any => on.confirm || on.cancel || on.lookup,
    })
}

/// Text for people. Clients must not read it, so it is only as exact as people need.
pub(crate) fn message(code: &str) -> &'static str {
    match (code, row(code).map(|(_, _, says, _)| *says)) {
        ("REJECT_CARD_COMPANY", _) => "카드사에서 결제를 거절했습니다.",
        ("REJECT_CARD_PAYMENT", _) => "카드 한도를 넘었거나 잔액이 모자랍니다.",
        ("PAY_PROCESS_CANCELED", _) => "구매자가 결제를 취소했습니다.",
        ("EXPIRED_PAYMENT", _) => "결제 시간이 지났습니다.",
        ("NOT_FOUND_PAYMENT_SESSION", _) => "결제 세션이 없거나 시간이 지났습니다.",
        ("NOT_FOUND_PAYMENT", _) => "그런 결제가 없습니다.",
        ("ALREADY_PROCESSED_PAYMENT", _) => "이미 처리된 결제입니다.",
        ("ALREADY_CANCELED_PAYMENT", _) => "이미 취소된 결제입니다.",
        ("IDEMPOTENT_REQUEST_PROCESSING", _) => "같은 멱등키의 요청을 처리하고 있습니다.",
        (_, Some(Says::Refused)) => "요청이 거절되었습니다.",
        (_, Some(Says::Faulty)) => "요청 또는 상점 설정이 올바르지 않습니다.",
        (_, Some(Says::Trouble)) => "처리 중에 일시적인 오류가 났습니다.",
        (_, Some(Says::Later)) => "잠시 뒤에 다시 시도해 주세요.",
        (_, Some(Says::Conflict)) => "지금 상태에서는 할 수 없습니다.",
        (_, None) => "알 수 없는 오류입니다.",
    }
}

fn row(code: &str) -> Option<&'static (&'static str, u16, Says, On)> {
    CODES.iter().find(|(known, _, _, _)| *known == code)
}
