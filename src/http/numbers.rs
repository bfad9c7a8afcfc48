//! Whole numbers in JSON: `12000` and `12000.0` are the same number there, and `12000.5` is none.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use crate::domain::money::MINOR_MAX;

/// Reads a whole number.
///
/// # Errors
/// For anything else, and for one that `T` cannot hold.
pub fn whole<'de, T: TryFrom<i64>, D: Deserializer<'de>>(value: D) -> Result<T, D::Error> {
    value.deserialize_any(Whole(PhantomData))
}

/// Reads a whole number, or null for none.
///
/// # Errors
/// For anything else.
pub fn whole_or_null<'de, T: TryFrom<i64>, D: Deserializer<'de>>(value: D) -> Result<Option<T>, D::Error> {
    struct Read<T>(T);
    impl<'de, T: TryFrom<i64>> Deserialize<'de> for Read<T> {
        fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
            whole(value).map(Self)
        }
    }
    Ok(Option::<Read<T>>::deserialize(value)?.map(|read| read.0))
}

struct Whole<T>(PhantomData<T>);

impl<T: TryFrom<i64>> Visitor<'_> for Whole<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        T::try_from(value).map_err(|_| E::invalid_value(Unexpected::Signed(value), &"a smaller number"))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        let fits = i64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &"a smaller number"));
        self.visit_i64(fits?)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        // The text of a float without a fraction is that of an integer.
        let whole = if value.fract() == 0.0 { value.to_string().parse::<i64>().ok() } else { None };
        match whole.filter(|number| number.unsigned_abs() <= MINOR_MAX.unsigned_abs()) {
            Some(number) => self.visit_i64(number),
            None => Err(E::invalid_value(Unexpected::Float(value), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Body {
        #[serde(deserialize_with = "whole")]
        quantity: i32,
        #[serde(default, deserialize_with = "whole_or_null")]
        amount: Option<i64>,
    }

    fn body(text: &str) -> Option<(i32, Option<i64>)> {
        serde_json::from_str::<Body>(text).ok().map(|body| (body.quantity, body.amount))
    }

    #[test]
    fn a_number_without_a_fraction_is_whole_however_it_is_written() {
        assert_eq!(body(r#"{"quantity": 3}"#), Some((3, None)));
        assert_eq!(body(r#"{"quantity": 3.0, "amount": 1.2e4}"#), Some((3, Some(12_000))));
        assert_eq!(body(r#"{"quantity": -3, "amount": null}"#), Some((-3, None)));
        assert_eq!(body(r#"{"quantity": 1, "amount": 9007199254740991.0}"#), Some((1, Some(MINOR_MAX))));
    }

    #[test]
    fn nothing_else_is() {
        let neither = ["3.5", "\"3\"", "true", "[]", "1e300", "-1e300", "9007199254740992.0", "18446744073709551615"];
        for wrong in neither {
            assert_eq!(body(&format!(r#"{{"quantity": 1, "amount": {wrong}}}"#)), None, "{wrong}");
        }
        for wrong in neither.into_iter().chain(["null", "2147483648"]) {
            assert_eq!(body(&format!(r#"{{"quantity": {wrong}}}"#)), None, "{wrong}");
        }
    }
}
