//! Toss's JSON, both ways. Tolerant where Toss may change without notice, strict where money or identity hangs on it.
//!
//! Called by the adapter. Unknown fields, unknown enum values and missing details pass; a payment without key, order,
//! status or a readable amount, or with a cancel that cannot be read, is not a payment. No type here has `Debug`:
//! what they hold is personal data and secrets.

use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{amount, times};
use crate::domain::evidence::{DepositAccount, PaymentKey, PgCancel, PgStatus, Snapshot};
use crate::domain::ids::CancellationId;
use crate::domain::money::{Currency, Money};
use crate::domain::payment::Method;
use crate::provider::{CancelRequest, ConfirmRequest};

/// Toss counts characters; UTF-16 units are the stricter reading of that.
const REASON_LIMIT: usize = 200;

/// Amounts in a currency we do not know are read in ten-thousandths, which no ISO 4217 currency in use undercuts.
/// They are exact, but fit only to be compared with zero and with each other.
pub(super) const UNKNOWN_CURRENCY_DECIMALS: u8 = 4;

/// Longest code that is believed to be one.
const CODE_LIMIT: usize = 64;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfirmBody<'a> {
    payment_key: &'a str,
    order_id: String,
    amount: Box<RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CancelBody<'a> {
    cancel_reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel_amount: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refundable_amount: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refund_receive_account: Option<RefundReceiveAccount<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RefundReceiveAccount<'a> {
    bank: &'a str,
    account_number: &'a str,
    holder_name: &'a str,
}

/// The body of a confirm.
pub(super) fn confirm_body(request: &ConfirmRequest) -> Option<Vec<u8>> {
    let body = ConfirmBody {
        payment_key: request.payment_key.as_str(),
        order_id: request.order_id.to_string(),
        amount: amount::number(request.amount)?,
    };
    serde_json::to_vec(&body).ok()
}

/// The body of a cancel. `None` when its two amounts are not of one currency.
pub(super) fn cancel_body(request: &CancelRequest) -> Option<Vec<u8>> {
    let currencies = [request.amount, request.expected_balance].map(|money| money.map(|money| money.currency));
    let currency = match currencies {
        [Some(one), Some(other)] if one != other => return None,
        [one, other] => one.or(other),
    };
    let body = CancelBody {
        cancel_reason: cancel_reason(&request.reason, request.cancellation_id),
        cancel_amount: optional_number(request.amount)?,
        refundable_amount: optional_number(request.expected_balance)?,
        currency: currency.filter(|currency| *currency != Currency::KRW).map(Currency::code),
        refund_receive_account: request.refund_account.as_ref().map(|account| RefundReceiveAccount {
            bank: &account.bank_code,
            account_number: account.account_number.expose_secret(),
            holder_name: account.holder.expose_secret(),
        }),
    };
    serde_json::to_vec(&body).ok()
}

/// The outer `None` is an amount that cannot be written, the inner one an amount that is not given.
fn optional_number(money: Option<Money>) -> Option<Option<Box<RawValue>>> {
    match money {
        Some(money) => amount::number(money).map(Some),
        None => Some(None),
    }
}

/// The shop's words, cut to leave room for our id, by which an inquiry finds this cancel again.
pub(super) fn cancel_reason(reason: &str, id: CancellationId) -> String {
    let suffix = format!("[{id}]");
    let room = REASON_LIMIT.saturating_sub(suffix.len() + 1);
    let mut used = 0;
    let fitting = reason.trim().chars().take_while(|c| {
        used += c.len_utf16();
        used <= room
    });
    let words: String = fitting.collect();
    match words.trim_end() {
        "" => suffix,
        words => format!("{words} {suffix}"),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payment {
    payment_key: String,
    order_id: String,
    status: String,
    total_amount: Box<RawValue>,
    #[serde(default)]
    balance_amount: Option<Box<RawValue>>,
    #[serde(default)]
    currency: Option<String>,
    #[serde(default)]
    m_id: Option<String>,
    #[serde(default)]
    cancels: Option<Vec<Cancel>>,
    #[serde(default, deserialize_with = "lenient")]
    method: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    approved_at: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    last_transaction_key: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    transaction_key: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    secret: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    virtual_account: Option<VirtualAccount>,
    #[serde(default, deserialize_with = "lenient")]
    failure: Option<Coded>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cancel {
    transaction_key: String,
    cancel_amount: Box<RawValue>,
    #[serde(default, deserialize_with = "lenient")]
    cancel_reason: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    canceled_at: Option<String>,
    #[serde(default)]
    cancel_status: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VirtualAccount {
    #[serde(default, deserialize_with = "lenient")]
    bank_code: Option<String>,
    /// The bank code's name before version 2022-11-16.
    #[serde(default, deserialize_with = "lenient")]
    bank: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    account_number: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    customer_name: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    due_date: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    expired: Option<bool>,
}

/// A bare v1 error; newer endpoints put the same inside `error`.
#[derive(Deserialize)]
struct Coded {
    #[serde(default, deserialize_with = "lenient")]
    code: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    error: Option<Box<Coded>>,
}

/// The payment in a body, or `None` if there is none that can be trusted.
pub(super) fn snapshot(body: &[u8], m_id: Option<&str>) -> Option<Snapshot> {
    let payment: Payment = object(body)?;
    let currency = payment.currency.as_deref().and_then(Currency::parse);
    let decimals = currency.map_or(UNKNOWN_CURRENCY_DECIMALS, Currency::exponent);
    let total = amount::minor_units(&payment.total_amount, decimals)?;
    let status = pg_status(&payment.status);
    let cancels = payment.cancels.unwrap_or_default();
    let cancels = cancels.into_iter().map(|cancel| pg_cancel(cancel, decimals)).collect::<Option<Vec<_>>>()?;
    let balance = match &payment.balance_amount {
        Some(number) => amount::minor_units(number, decimals)?,
        None => derived_balance(status, total, &cancels)?,
    };
    let deposit_closed = payment.virtual_account.as_ref().is_some_and(|account| account.expired == Some(true));
    Some(Snapshot {
        payment_key: PaymentKey::parse(&payment.payment_key)?,
        order_id: payment.order_id,
        status,
        method: payment.method.as_deref().map(method),
        amount: currency.map(|currency| Money::new(total, currency)),
        balance,
        // Only another shop's name speaks against us; expired payments leave keys out.
        own_shop: m_id.is_none_or(|ours| payment.m_id.as_deref().is_none_or(|theirs| theirs == ours)),
        approved_at: payment.approved_at.as_deref().and_then(times::parse),
        transaction_key: payment.last_transaction_key.or(payment.transaction_key),
        secret: payment.secret.filter(|secret| !secret.is_empty()).map(SecretString::from),
        deposit: payment.virtual_account.and_then(deposit_account),
        deposit_closed,
        cancels,
        failure_code: payment.failure.and_then(|failure| failure.code).filter(|code| is_code(code)),
    })
}

/// The PG's code in an error's body.
pub(super) fn error_code(body: &[u8]) -> Option<String> {
    let Coded { code, error } = object(body)?;
    code.or_else(|| error.and_then(|error| error.code)).filter(|code| is_code(code))
}

/// Whether a text looks like one of the PG's codes, so that it may be logged and counted.
pub(super) fn is_code(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    plain && (1..=CODE_LIMIT).contains(&text.len())
}

/// Reads one JSON object; an array in its place would otherwise fill a struct field by field.
pub(super) fn object<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    let is_object = body.trim_ascii_start().first() == Some(&b'{');
    if is_object { serde_json::from_slice(body).ok() } else { None }
}

/// Reads a detail that nothing hangs on: an unexpected shape is as good as none.
pub(super) fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let raw = Option::<Box<RawValue>>::deserialize(deserializer)?;
    Ok(raw.and_then(|raw| serde_json::from_str(raw.get()).ok()))
}

pub(super) fn pg_status(text: &str) -> PgStatus {
    match text {
        "READY" => PgStatus::Ready,
        "IN_PROGRESS" => PgStatus::InProgress,
        "WAITING_FOR_DEPOSIT" => PgStatus::WaitingForDeposit,
        "DONE" => PgStatus::Done,
        "PARTIAL_CANCELED" => PgStatus::PartiallyCanceled,
        "CANCELED" => PgStatus::Canceled,
        "ABORTED" => PgStatus::Aborted,
        "EXPIRED" => PgStatus::Expired,
        _ => PgStatus::Unrecognized,
    }
}

/// Korean by default; English, in whatever spelling, when the shop's account is set to it.
fn method(text: &str) -> Method {
    match text.trim() {
        "카드" => return Method::Card,
        "가상계좌" => return Method::VirtualAccount,
        "간편결제" => return Method::EasyPay,
        "휴대폰" => return Method::Mobile,
        "계좌이체" => return Method::Transfer,
        "문화상품권" | "도서문화상품권" | "게임문화상품권" => return Method::Gift,
        "해외간편결제" => return Method::Foreign,
        _ => {}
    }
    let letters: String = text.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase()).collect();
    match letters.as_str() {
        "card" => Method::Card,
        "virtualaccount" => Method::VirtualAccount,
        "easypay" => Method::EasyPay,
        "mobilephone" | "mobile" | "phone" => Method::Mobile,
        "transfer" | "banktransfer" | "accounttransfer" => Method::Transfer,
        "foreigneasypay" => Method::Foreign,
        gift if gift.ends_with("giftcertificate") => Method::Gift,
        _ => Method::Other,
    }
}

fn pg_cancel(cancel: Cancel, decimals: u8) -> Option<PgCancel> {
    Some(PgCancel {
        amount: amount::minor_units(&cancel.cancel_amount, decimals)?,
        transaction_key: cancel.transaction_key,
        reason: cancel.cancel_reason.unwrap_or_default(),
        canceled_at: cancel.canceled_at.as_deref().and_then(times::parse),
        done: cancel.cancel_status.is_none_or(|status| status == "DONE"),
    })
}

/// What is left when the PG does not say: a missing balance must not look like a payment given back in full.
fn derived_balance(status: PgStatus, total: i64, cancels: &[PgCancel]) -> Option<i64> {
    match status {
        PgStatus::Canceled | PgStatus::Aborted | PgStatus::Expired => Some(0),
        PgStatus::Ready
        | PgStatus::InProgress
        | PgStatus::WaitingForDeposit
        | PgStatus::Done
        | PgStatus::PartiallyCanceled
        | PgStatus::Unrecognized => {
            let mut done = cancels.iter().filter(|cancel| cancel.done);
            done.try_fold(total, |left, cancel| left.checked_sub(cancel.amount)).filter(|left| *left >= 0)
        }
    }
}

fn deposit_account(account: VirtualAccount) -> Option<DepositAccount> {
    Some(DepositAccount {
        bank_code: account.bank_code.or(account.bank).unwrap_or_default(),
        account_number: account.account_number.filter(|number| !number.is_empty())?,
        holder: account.customer_name.unwrap_or_default(),
        due_at: account.due_date.as_deref().and_then(times::parse),
    })
}

#[cfg(test)]
mod tests;
