//! What a PromQL expression asks for.

use std::collections::BTreeSet;
use std::time::Duration;

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};

/// One selector of an expression.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The metric.
    pub metric: String,
    /// What its labels must be; [`values`] says what one names.
    pub matchers: Vec<Matcher>,
    /// The window, of a range selector.
    pub range: Option<Duration>,
    /// The function right around it.
    pub function: Option<&'static str>,
}

/// An aggregation: the labels it keeps or removes, and the metrics below it.
#[derive(Debug, Clone)]
pub struct Grouped {
    /// The labels named.
    pub labels: Vec<String>,
    /// The metrics below.
    pub metrics: BTreeSet<String>,
}

/// Everything that an expression asks for.
#[derive(Debug, Default)]
pub struct Questions {
    /// Its selectors.
    pub selectors: Vec<Asked>,
    /// Its aggregations.
    pub groups: Vec<Grouped>,
}

/// Reads an expression.
pub fn parse(text: &str) -> Expr {
    parser::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What the expression asks for.
pub fn questions(expr: &Expr) -> Questions {
    let mut found = Questions::default();
    walk(expr, None, &mut found);
    found
}

fn walk(expr: &Expr, function: Option<&'static str>, found: &mut Questions) {
    match expr {
        Expr::Aggregate(aggregate) => {
            let mut below = Questions::default();
            walk(&aggregate.expr, None, &mut below);
            if let Some(LabelModifier::Include(labels) | LabelModifier::Exclude(labels)) = &aggregate.modifier {
                let metrics = below.selectors.iter().map(|asked| asked.metric.clone()).collect();
                found.groups.push(Grouped { labels: labels.labels.clone(), metrics });
            }
            found.selectors.append(&mut below.selectors);
            found.groups.append(&mut below.groups);
        }
        Expr::Unary(unary) => walk(&unary.expr, None, found),
        Expr::Binary(binary) => {
            walk(&binary.lhs, None, found);
            walk(&binary.rhs, None, found);
        }
        Expr::Paren(paren) => walk(&paren.expr, function, found),
        Expr::Subquery(subquery) => walk(&subquery.expr, None, found),
        Expr::VectorSelector(selector) => found.selectors.push(asked(selector, None, function)),
        Expr::MatrixSelector(selector) => found.selectors.push(asked(&selector.vs, Some(selector.range), function)),
        Expr::Call(call) => call.args.args.iter().for_each(|arg| walk(arg, Some(call.func.name), found)),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}

fn asked(selector: &VectorSelector, range: Option<Duration>, function: Option<&'static str>) -> Asked {
    let matchers = selector.matchers.matchers.clone();
    Asked { metric: selector.name.clone().unwrap_or_default(), matchers, range, function }
}

/// What a matcher names: its value, or the alternatives of its regular expression.
pub fn values(matcher: &Matcher) -> Vec<String> {
    match &matcher.op {
        MatchOp::Equal | MatchOp::NotEqual => vec![matcher.value.clone()],
        MatchOp::Re(_) | MatchOp::NotRe(_) => matcher.value.split('|').map(str::to_owned).collect(),
    }
}
