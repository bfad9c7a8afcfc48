//! The exposition in OpenMetrics 1.0, made from Prometheus' text format: no empty lines, counter families without
//! their `_total`, exemplars behind the buckets, `# EOF`. The series are the same in both formats.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use super::exemplars::{Exemplar, Shown};

/// How many of a thousand characters an exemplar adds, roughly.
const ROOM_FOR_EXEMPLARS: usize = 160;

/// Rewrites an exposition.
pub(super) fn from_text(text: &str, shown: &Shown) -> String {
    let mut out = String::with_capacity(text.len() + shown.count * ROOM_FOR_EXEMPLARS);
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("# ") {
            Some(comment) => write_header(&mut out, comment),
            None => write_sample(&mut out, line, shown),
        }
        out.push('\n');
    }
    out.push_str("# EOF\n");
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

fn write_sample(out: &mut String, line: &str, shown: &Shown) {
    out.push_str(line);
    let Some((series, _)) = line.split_once('}') else { return };
    let Some(at) = series.rfind("le=\"").map(|at| at + "le=\"".len()) else { return };
    let (start, bound) = series.split_at(at);
    if let Some(exemplar) = shown.find(start, bound.trim_end_matches('"')) {
        write_exemplar(out, exemplar);
    }
}

fn write_exemplar(out: &mut String, exemplar: &Exemplar) {
    let Exemplar { trace, payment, value, at } = exemplar;
    let payment = payment.as_ref().map_or_else(String::new, |id| format!(r#",payment_id="{id}""#));
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let written = write!(out, r#" # {{trace_id="{trace}"{payment}}} {value} {seconds:.3}"#);
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use opentelemetry::trace::{SpanId, TraceId};

    use super::*;
    use crate::telemetry::exemplars::tests::{LINE, confirm};
    use crate::telemetry::exemplars::{Candidate, Offer, Store};

    #[test]
    fn exemplars_stand_behind_their_bucket_and_nothing_else_changes() {
        let (store, at) = (Store::default(), UNIX_EPOCH + Duration::from_millis(1_800_000_000_250));
        let offer = Offer::new(confirm(), SpanId::from(7), 0.3125, at);
        store.publish(vec![Candidate::new(&offer, TraceId::from(255), Some("pay_1".to_owned()))]);
        let text = format!(
            "# HELP a_total Things. Why?\n# TYPE a_total counter\na_total{{b=\"c\"}} 1\n\n# TYPE h histogram\n\
             {LINE}0.25\"}} 0\n{LINE}0.5\"}} 1\n{LINE}0.75\"}} 1\n{LINE}+Inf\"}} 1\nh_sum 0.3125\nh_count 1\n\n"
        );
        let wanted = format!(
            "# HELP a Things. Why?\n# TYPE a counter\na_total{{b=\"c\"}} 1\n# TYPE h histogram\n\
             {LINE}0.25\"}} 0\n{LINE}0.5\"}} 1 # {{trace_id=\"000000000000000000000000000000ff\",payment_id=\"pay_1\"}} \
             0.3125 1800000000.250\n{LINE}0.75\"}} 1\n{LINE}+Inf\"}} 1\nh_sum 0.3125\nh_count 1\n# EOF\n"
        );
        assert_eq!(from_text(&text, &store.snapshot(at)), wanted);
        assert_eq!(samples(&text), 7);
    }

    #[test]
    fn the_whole_exposition_has_one_family_per_name() {
        let text = crate::telemetry::for_tests().metrics().render();
        let open = from_text(&text, &Store::default().snapshot(SystemTime::now()));
        let types: Vec<&str> = open.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let mut names: Vec<&str> = types.iter().filter_map(|line| line.split(' ').next()).collect();
        names.sort_unstable();
        let families = names.len();
        names.dedup();
        assert!(families > 30 && names.len() == families, "two families of one name");
        assert!(open.ends_with("\n# EOF\n") && !open.contains("\n\n"));
        let is_sample = |line: &&str| !line.starts_with('#');
        let before: Vec<&str> = text.lines().filter(|line| !line.is_empty()).filter(is_sample).collect();
        assert_eq!(open.lines().filter(is_sample).collect::<Vec<_>>(), before, "the same series with the same values");
    }
}
