//! Amounts as JSON numbers, exactly. A binary float never holds money, not even in passing.
//!
//! Called by `wire`. Refuses negative amounts, more decimals than the currency has, and whatever does not fit 64 bits.

use serde_json::value::RawValue;

use crate::domain::money::Money;

/// No amount is longer than this; it bounds the work an odd number can cause.
const TEXT_LIMIT: usize = 64;

/// The PG's form of an amount: `34100` won, `12.05` dollars.
pub(super) fn number(money: Money) -> Option<Box<RawValue>> {
    let sign = if money.minor < 0 { "-" } else { "" };
    let decimals = usize::from(money.currency.exponent());
    let mut text = format!("{:0>width$}", money.minor.unsigned_abs(), width = decimals + 1);
    if decimals > 0 {
        text.insert(text.len().saturating_sub(decimals), '.');
    }
    RawValue::from_string(format!("{sign}{text}")).ok()
}

/// The minor units that a JSON number stands for, in a currency with this many decimals.
pub(super) fn minor_units(number: &RawValue, decimals: u8) -> Option<i64> {
    let text = number.get();
    if text.len() > TEXT_LIMIT {
        return None;
    }
    let (mantissa, power) = match text.split_once(['e', 'E']) {
        Some((mantissa, power)) => (mantissa, power.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = format!("{whole}{fraction}");
    if whole.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if digits.bytes().all(|b| b == b'0') {
        return Some(0);
    }
    let shift = power.checked_add(i32::from(decimals))?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let distance = usize::try_from(shift.unsigned_abs()).ok()?;
    if shift >= 0 {
        // Zeros beyond the limit overflow anyway.
        digits.extend(std::iter::repeat_n('0', distance.min(TEXT_LIMIT)));
    } else {
        let (kept, cut) = digits.split_at_checked(digits.len().checked_sub(distance)?)?;
        if cut.bytes().any(|b| b != b'0') {
            return None;
        }
        digits = kept.to_owned();
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::Currency;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn every_amount_reads_back_as_itself() {
        for code in ["KRW", "USD", "KWD"] {
            let currency = Currency::parse(code).unwrap();
            for minor in [0, 1, 5, 10, 99, 100, 101, 34_100, 1_205, 9_007_199_254_740_993, i64::MAX] {
                let sent = number(Money::new(minor, currency)).unwrap();
                assert_eq!(minor_units(&sent, currency.exponent()), Some(minor), "{minor} {code}");
            }
        }
    }

    #[test]
    fn amounts_are_written_with_the_currency_s_decimals() {
        let form = |minor, code| number(Money::new(minor, Currency::parse(code).unwrap())).unwrap().get().to_owned();
        assert_eq!(form(34_100, "KRW"), "34100");
        assert_eq!(form(1_205, "USD"), "12.05");
        assert_eq!(form(5, "USD"), "0.05");
        assert_eq!(form(-5, "USD"), "-0.05");
        assert_eq!(form(1_000, "KWD"), "1.000");
    }

    #[test]
    fn other_spellings_of_a_number_are_read_exactly() {
        for (text, decimals, minor) in [
            ("34100", 0, 34_100),
            ("34100.0", 0, 34_100),
            ("34100.000", 2, 3_410_000),
            ("12.05", 2, 1_205),
            ("12.5", 2, 1_250),
            ("12", 2, 1_200),
            ("3.41e4", 0, 34_100),
            ("341E+2", 0, 34_100),
            ("34100000e-3", 0, 34_100),
            ("0.0", 0, 0),
            ("0e999", 0, 0),
            ("90071992547409.93", 2, 9_007_199_254_740_993),
        ] {
            assert_eq!(minor_units(&raw(text), decimals), Some(minor), "{text}");
        }
    }

    #[test]
    fn what_is_not_an_exact_amount_is_refused() {
        for (text, decimals) in [
            ("12.055", 2),
            ("34100.5", 0),
            ("1e-1", 0),
            ("1e-999", 2),
            ("-5", 0),
            ("9223372036854775808", 0),
            ("92233720368547758.08", 2),
            ("1e30", 0),
            ("1e2147483647", 2),
            ("1e99999999999", 0),
            ("\"34100\"", 0),
            ("true", 0),
            ("null", 0),
            ("[1]", 0),
            ("{}", 0),
        ] {
            assert_eq!(minor_units(&raw(text), decimals), None, "{text}");
        }
        let long = format!("1{}", "0".repeat(100));
        assert_eq!(minor_units(&raw(&long), 0), None);
    }
}
