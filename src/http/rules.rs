//! Rules that a field's type alone does not say: lengths, ranges, pages. Each names its field when it refuses.

use std::ops::RangeInclusive;

use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::domain::money::Currency;

/// Rows of a page when none are asked for.
const PAGE_ROWS: i64 = 20;

/// A text of 1 to `chars_max` characters, without control characters and not only of spaces.
///
/// # Errors
/// Otherwise.
pub fn text(field: &str, value: String, chars_max: usize) -> Result<String, Problem> {
    let fits = !value.trim().is_empty() && value.chars().count() <= chars_max;
    if fits && !value.chars().any(char::is_control) {
        return Ok(value);
    }
    Err(Problem::invalid(field, format!("{field} has 1 to {chars_max} characters and no control characters.")))
}

/// A number within `range`.
///
/// # Errors
/// Otherwise.
pub fn within<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, Problem> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Problem::invalid(field, format!("{field} is {} to {}.", range.start(), range.end())))
}

/// A known currency; KRW where none is named.
///
/// # Errors
/// For a code that is not listed.
pub fn currency(code: Option<&str>) -> Result<Currency, Problem> {
    code.map_or(Some(Currency::KRW), Currency::parse)
        .ok_or_else(|| Problem::invalid("currency", "currency is an ISO 4217 code such as KRW."))
}

/// A status by its name.
///
/// # Errors
/// For a name that `parse` does not know.
pub fn status<T>(name: Option<&str>, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Problem> {
    let Some(name) = name else { return Ok(None) };
    parse(name).map(Some).ok_or_else(|| Problem::invalid("status", "status is not one of the listed ones."))
}

/// How many rows a page has: `limit`, or the usual number, never more than `rows_max`.
///
/// # Errors
/// If `limit` is out of range.
pub fn page_rows(limit: Option<i64>, rows_max: i64) -> Result<i64, Problem> {
    limit.map_or(Ok(PAGE_ROWS.min(rows_max)), |limit| within("limit", limit, 1..=rows_max))
}

/// A page of a list, and where the next one starts.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Send it as `after` for the next page; null on the last one.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page of `rows` from rows of which one more was asked for; `cursor` is a row's place in the list.
    #[must_use]
    pub fn cut(mut items: Vec<T>, rows: i64, cursor: impl Fn(&T) -> String) -> Self {
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let has_more = items.len() > rows;
        items.truncate(rows);
        let next = items.last().filter(|_| has_more).map(cursor);
        Self { items, next }
    }
}

/// A list that is given as a whole.
#[derive(Debug, Serialize, ToSchema)]
pub struct Whole<T> {
    /// The rows, oldest first.
    pub items: Vec<T>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_a_length_and_can_be_read() {
        assert!(text("reason", "재고 실사".to_owned(), 5).is_ok());
        for bad in ["", "  ", "six ch", "a\nb", "nul\0"] {
            assert!(text("reason", bad.to_owned(), 5).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_page_says_where_the_next_one_starts_and_the_last_one_does_not() {
        let page = |rows: Vec<i32>| Page::cut(rows, 2, ToString::to_string);
        assert_eq!(page(vec![1, 2, 3]).next.as_deref(), Some("2"));
        assert_eq!(page(vec![1, 2, 3]).items, [1, 2]);
        assert_eq!(page(vec![1, 2]).next, None);
        assert_eq!(page(vec![]).next, None);
        assert!(page_rows(Some(0), 100).is_err() && page_rows(Some(101), 100).is_err());
        assert!(matches!((page_rows(None, 100), page_rows(None, 5)), (Ok(20), Ok(5))));
    }
}
