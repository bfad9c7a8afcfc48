//! Money: a whole number of minor units and a currency. Arithmetic is checked; floats never touch it.

use std::fmt;

/// A currency of ISO 4217 that paygauge knows the exponent of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency {
    code: &'static str,
    exponent: u8,
}

/// Codes and exponents (digits after the decimal point), from ISO 4217.
const KNOWN: &[Currency] = &[
    Currency { code: "KRW", exponent: 0 },
    Currency { code: "USD", exponent: 2 },
    Currency { code: "EUR", exponent: 2 },
    Currency { code: "JPY", exponent: 0 },
    Currency { code: "GBP", exponent: 2 },
    Currency { code: "CNY", exponent: 2 },
    Currency { code: "HKD", exponent: 2 },
    Currency { code: "TWD", exponent: 2 },
    Currency { code: "SGD", exponent: 2 },
    Currency { code: "AUD", exponent: 2 },
    Currency { code: "CAD", exponent: 2 },
    Currency { code: "CHF", exponent: 2 },
    Currency { code: "THB", exponent: 2 },
    Currency { code: "VND", exponent: 0 },
    Currency { code: "KWD", exponent: 3 },
];

impl Currency {
    /// The South Korean won; it has no minor unit.
    pub const KRW: Self = Self { code: "KRW", exponent: 0 };

    /// The currency with this upper-case code.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        KNOWN.iter().copied().find(|currency| currency.code == code)
    }

    /// The ISO 4217 code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        self.code
    }

    /// Digits after the decimal point: 0 for KRW, 2 for USD.
    #[must_use]
    pub const fn exponent(self) -> u8 {
        self.exponent
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

/// An amount in minor units (won, cents) of one currency.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    /// Minor units.
    pub minor: i64,
    /// Their currency.
    pub currency: Currency,
}

/// Arithmetic that has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The result does not fit 64 bits.
    #[error("the amount is too large")]
    Overflow,
    /// Two currencies met.
    #[error("amounts of two currencies cannot be combined")]
    CurrencyMismatch,
}

/// The most minor units of an order: JSON's readers tell whole numbers apart up to 2^53 − 1.
pub const MINOR_MAX: i64 = 9_007_199_254_740_991;

impl Money {
    /// An amount of `minor` units.
    #[must_use]
    pub const fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// The sum, if both are of one currency and it fits.
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::CurrencyMismatch);
        }
        let minor = self.minor.checked_add(other.minor).ok_or(MoneyError::Overflow)?;
        Ok(Self::new(minor, self.currency))
    }

    /// `quantity` times this amount, if it fits.
    pub fn checked_mul(self, quantity: i32) -> Result<Self, MoneyError> {
        let minor = self.minor.checked_mul(i64::from(quantity)).ok_or(MoneyError::Overflow)?;
        Ok(Self::new(minor, self.currency))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = usize::from(self.currency.exponent);
        if digits == 0 {
            return write!(f, "{} {}", self.minor, self.currency);
        }
        let scale = 10_u64.pow(u32::from(self.currency.exponent));
        let size = self.minor.unsigned_abs();
        let sign = if self.minor < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{:0digits$} {}", size / scale, size % scale, self.currency)
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_products_that_do_not_fit_are_errors() {
        let max = Money::new(i64::MAX, Currency::KRW);
        assert_eq!(max.checked_add(Money::new(1, Currency::KRW)), Err(MoneyError::Overflow));
        assert_eq!(max.checked_mul(2), Err(MoneyError::Overflow));
    }

    #[test]
    fn currencies_do_not_mix() {
        let usd = Currency::parse("USD").unwrap();
        let sum = Money::new(1, Currency::KRW).checked_add(Money::new(1, usd));
        assert_eq!(sum, Err(MoneyError::CurrencyMismatch));
    }

    #[test]
    fn amounts_print_with_the_currency_s_own_digits() {
        let usd = Currency::parse("USD").unwrap();
        assert_eq!(Money::new(34_100, Currency::KRW).to_string(), "34100 KRW");
        assert_eq!(Money::new(-1_205, usd).to_string(), "-12.05 USD");
    }
}
