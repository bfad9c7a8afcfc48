//! Values that only the name in front of them gives away: `paymentKey=…`, `"secret":"…"`, `account_number: …`.

use super::super::labels::RedactionRule;
use super::run;

/// Between a name and its value: quotes, escaped ones too, and one of `=` and `:`.
const LONGEST_GAP: usize = 6;
/// Names, lower case and without underscores; the value of a name that ends so is masked.
const NAMES: [(&[u8], RedactionRule); 8] = [
    (b"paymentkey", RedactionRule::PaymentKey),
    (b"secret", RedactionRule::Secret),
    (b"secretkey", RedactionRule::Secret),
    (b"billingkey", RedactionRule::Secret),
    (b"customerkey", RedactionRule::Secret),
    (b"account", RedactionRule::Account),
    (b"accountnumber", RedactionRule::Account),
    ("계좌번호".as_bytes(), RedactionRule::Account),
];
/// No name is longer, underscores included.
const LONGEST_NAME: usize = 24;
/// Digits of a Korean account.
const ACCOUNT_DIGITS: std::ops::RangeInclusive<usize> = 10..=16;

/// What the value behind `head` is, if a name stands at its end.
pub(super) fn rule(head: &[u8]) -> Option<RedactionRule> {
    let is_gap = |byte: &u8| matches!(byte, b'"' | b'\\' | b'\'' | b'=' | b':' | b' ');
    let gap = head.iter().rev().take(LONGEST_GAP).take_while(|byte| is_gap(byte)).count();
    if gap == 0 {
        return None;
    }
    let (name, gap) = head.split_at_checked(head.len() - gap)?;
    let is_assigned = gap.iter().any(|byte| matches!(byte, b'=' | b':'));
    let (_, rule) = NAMES.into_iter().find(|(known, _)| ends_with(name, known))?;
    // An account number may follow its word with nothing but a space between; a word may follow "secret" that way.
    let is_loose = rule == RedactionRule::Account;
    (is_assigned || is_loose).then_some(rule)
}

/// Whether a name ends the text, in any case and with or without underscores, and is a word of its own or the last
/// part of one.
fn ends_with(text: &[u8], name: &[u8]) -> bool {
    let mut letters = text.iter().rev().take(LONGEST_NAME).filter(|byte| **byte != b'_');
    name.iter().rev().all(|byte| letters.next().is_some_and(|letter| letter.eq_ignore_ascii_case(byte)))
}

/// The length of the account number at the start of `text`: digits, in groups or in a row; 0 if it is none.
pub(super) fn account_number(text: &[u8]) -> usize {
    let length = run(text, 0, |byte| byte.is_ascii_digit() || byte == b'-');
    let length = text.iter().take(length).rposition(u8::is_ascii_digit).map_or(0, |last| last + 1);
    let digits = text.iter().take(length).filter(|byte| byte.is_ascii_digit()).count();
    let is_word = text.get(length).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    if ACCOUNT_DIGITS.contains(&digits) && !is_word { length } else { 0 }
}
