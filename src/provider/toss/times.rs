//! Toss's times: RFC 3339, or without an offset and then Korean (UTC+9, no summer time).
//!
//! Called by `wire`. What is not a time is `None`: no decision hangs on one alone.

use chrono::{DateTime, FixedOffset, NaiveDateTime, Utc};

const KST_SECONDS_EAST: i32 = 9 * 3600;

/// The moment a text names.
pub(super) fn parse(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    let with_offset =
        DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z"));
    if let Ok(time) = with_offset {
        return Some(time.with_timezone(&Utc));
    }
    let korea = FixedOffset::east_opt(KST_SECONDS_EAST)?;
    let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok()?;
    Some(local.and_local_timezone(korea).single()?.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_counts_and_its_absence_means_korea() {
        let noon = "2026-05-04T03:00:00Z".parse::<DateTime<Utc>>().unwrap();
        for text in [
            "2026-05-04T12:00:00+09:00",
            "2026-05-04T12:00:00+0900",
            "2026-05-04T12:00:00",
            "2026-05-04T12:00:00.000000",
            "2026-05-04T03:00:00Z",
            " 2026-05-04T12:00:00.0+09:00 ",
        ] {
            assert_eq!(parse(text), Some(noon), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_time() {
        for text in ["", "2026-05-04", "2026-13-04T12:00:00", "noon", "2026-05-04T12:00", "999999999-01-01T00:00:00"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
