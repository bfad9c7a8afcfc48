//! What OpenMetrics 1.0 writes otherwise than Prometheus' text format: no empty lines, counter families without their
//! `_total`, exemplars behind the buckets, an end. The series are the same in both formats.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use super::exemplars::Exemplar;

/// What ends an exposition.
pub(super) const END: &str = "# EOF\n";

/// Rewrites an exposition, or a part of one.
pub(super) fn from_text(text: &str) -> String {
    let mut out = String::with_capacity(2 * text.len());
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("# ") {
            Some(comment) => write_header(&mut out, comment),
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

/// The samples in an exposition.
pub(super) fn samples(text: &str) -> usize {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count()
}

/// `HELP name …` and `TYPE name …`. Only counters end in `_total`: `catalogue` checks that.
fn write_header(out: &mut String, comment: &str) {
    let mut words = comment.splitn(3, ' ');
    let (keyword, name, rest) =
        (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let family = name.strip_suffix("_total").unwrap_or(name);
    out.extend(["# ", keyword, " ", family, " ", rest]);
}

/// Adds an exemplar behind its sample.
pub(super) fn write_exemplar(out: &mut String, exemplar: &Exemplar) {
    let Exemplar { trace, payment, value, at } = exemplar;
    let payment = payment.as_ref().map_or_else(String::new, |id| format!(r#",payment_id="{id}""#));
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let written = write!(out, r#" # {{trace_id="{trace}"{payment}}} {value} {seconds:.3}"#);
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Exposition;

    #[test]
    fn counters_lose_their_ending_in_the_headers_only_and_empty_lines_go() {
        let text = "# HELP a_total Things. Why?\n# TYPE a_total counter\na_total{b=\"c\"} 1\n\n# TYPE g gauge\ng 2\n\n";
        let wanted = "# HELP a Things. Why?\n# TYPE a counter\na_total{b=\"c\"} 1\n# TYPE g gauge\ng 2\n";
        assert_eq!(from_text(text), wanted);
        assert_eq!((samples(text), samples(wanted)), (2, 2));
    }

    #[test]
    fn the_whole_exposition_has_one_family_per_name() {
        let text = crate::telemetry::for_tests().metrics().render();
        let open = from_text(&text);
        let types: Vec<&str> = open.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let mut names: Vec<&str> = types.iter().filter_map(|line| line.split(' ').next()).collect();
        names.sort_unstable();
        let families = names.len();
        names.dedup();
        assert!(families > 30 && names.len() == families, "two families of one name");
        let is_sample = |line: &&str| !line.starts_with('#');
        let before: Vec<&str> = text.lines().filter(|line| !line.is_empty()).filter(is_sample).collect();
        assert_eq!(open.lines().filter(is_sample).collect::<Vec<_>>(), before, "the same series with the same values");
        let whole = crate::telemetry::for_tests().metrics().render_as(Exposition::OpenMetrics);
        assert!(whole.ends_with("\n# EOF\n") && !whole.contains("\n\n") && whole.contains("_bucket{"));
    }
}
