//! What a rule takes a rate of is there before anything happened: Prometheus does not see the first increment of a series
//! that begins with it, and that may be the only one.

use std::collections::BTreeMap;

use promql_parser::label::{MatchOp, Matcher};

use super::expression::{self, Asked};
use super::files;
use super::queries::{OF_COUNTERS, known};
use crate::support::served::Served;

/// Labels that Prometheus gives to whatever it scrapes.
const OF_A_TARGET: [&str; 2] = ["job", "instance"];

/// A series of the exposition: its name and its labels.
struct Series(String, BTreeMap<String, String>);

impl Series {
    fn read(line: &str) -> Self {
        let (series, _) = line.rsplit_once(' ').expect("a series and its value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let pairs = labels.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.trim_end_matches('"').split_once("=\"").expect("a label and its value"));
        Self(name.to_owned(), pairs.map(|(label, value)| (label.to_owned(), value.to_owned())).collect())
    }

    fn fits(&self, asked: &Asked, one: Option<(&str, &str)>) -> bool {
        let has = |label: &str| self.1.get(label).map_or("", String::as_str);
        self.0 == asked.metric
            && asked.matchers.iter().filter(is_ours).all(|matcher| matcher.is_match(has(&matcher.name)))
            && one.is_none_or(|(label, value)| has(label) == value)
    }
}

fn is_ours(matcher: &&Matcher) -> bool {
    !OF_A_TARGET.contains(&matcher.name.as_str())
}

/// Every value that a selector names and wants; at last the selector as a whole.
fn wanted(asked: &Asked) -> Vec<Option<(&str, String)>> {
    let wants = |matcher: &&Matcher| matches!(matcher.op, MatchOp::Equal | MatchOp::Re(_));
    let named = asked.matchers.iter().filter(is_ours).filter(wants);
    let named = named.flat_map(|matcher| expression::values(matcher).into_iter().map(|of| (&*matcher.name, of)));
    // A pattern such as `stuck_.*` names none.
    named.filter(|(label, value)| *label == "le" || !value.contains(".*")).map(Some).chain([None]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_takes_a_rate_of_is_there_before_anything_happens() {
    let served = Served::start(&[]).await;
    let text = served.metrics().await;
    let series: Vec<Series> =
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(Series::read).collect();
    let (mut looked, mut missing) = (0, Vec::new());
    for rule in files::rules() {
        for asked in expression::questions(&expression::parse(&rule.expr)).selectors {
            let is_rate = asked.function.is_some_and(|function| OF_COUNTERS.contains(&function));
            if !is_rate || known(&asked.metric).is_none() {
                continue;
            }
            for one in wanted(&asked) {
                looked += 1;
                let one = one.as_ref().map(|(label, value)| (*label, value.as_str()));
                if !series.iter().any(|series| series.fits(&asked, one)) {
                    missing.push(format!("{}: {} {one:?}", rule.name, asked.metric));
                }
            }
        }
    }
    missing.sort();
    missing.dedup();
    assert!(looked > 100, "only {looked}");
    assert!(missing.is_empty(), "{missing:#?}");
}
