//! Small ways to break an expression: a term dropped, a comparison turned round, a number or a window doubled or
//! halved, another value of a label, one alternative fewer.

use std::time::Duration;

use promql_parser::label::MatchOp;
use promql_parser::parser::token::{T_EQLC, T_GTE, T_GTR, T_LSS, T_LTE, T_NEQ, TokenType};
use promql_parser::parser::{BinaryExpr, Expr, Offset, VectorSelector};

use super::expression::values;

/// A broken expression.
#[derive(Debug, Clone)]
pub struct Mutant {
    /// What was done to it.
    pub what: String,
    /// The expression.
    pub expr: Expr,
}

fn mutant(what: String, expr: Expr) -> Mutant {
    Mutant { what, expr }
}

/// Puts broken children back into their parent.
fn inside(child: &Expr, rebuild: impl Fn(Box<Expr>) -> Expr) -> Vec<Mutant> {
    all(child).into_iter().map(|broken| mutant(broken.what, rebuild(Box::new(broken.expr)))).collect()
}

/// Every expression that is one small break away.
pub fn all(expr: &Expr) -> Vec<Mutant> {
    match expr {
        Expr::Binary(binary) => of_binary(binary),
        Expr::NumberLiteral(number) => of_number(number.val),
        Expr::VectorSelector(selector) => {
            of_selector(selector).into_iter().map(|(what, s)| mutant(what, Expr::VectorSelector(s))).collect()
        }
        Expr::MatrixSelector(selector) => {
            let with = |vs: VectorSelector, range: Duration| {
                let mut broken = selector.clone();
                (broken.vs, broken.range) = (vs, range);
                Expr::MatrixSelector(broken)
            };
            let range = selector.range;
            let mut broken: Vec<Mutant> = [(range * 2, "doubled"), (range / 2, "halved")]
                .map(|(window, how)| mutant(format!("window of {range:?} {how}"), with(selector.vs.clone(), window)))
                .into();
            let others = of_selector(&selector.vs).into_iter();
            broken.extend(others.map(|(what, vs)| mutant(what, with(vs, range))));
            broken
        }
        Expr::Call(call) => {
            let of = |at: usize| {
                inside(&call.args.args[at], |arg| {
                    let mut broken = call.clone();
                    broken.args.args[at] = arg;
                    Expr::Call(broken)
                })
            };
            (0..call.args.args.len()).flat_map(of).collect()
        }
        Expr::Aggregate(aggregate) => inside(&aggregate.expr, |inner| {
            let mut broken = aggregate.clone();
            broken.expr = inner;
            Expr::Aggregate(broken)
        }),
        Expr::Paren(paren) => inside(&paren.expr, |inner| {
            let mut broken = paren.clone();
            broken.expr = inner;
            Expr::Paren(broken)
        }),
        Expr::Unary(_) | Expr::Subquery(_) => panic!("no rule has one; say here how to break it"),
        Expr::StringLiteral(_) | Expr::Extension(_) => Vec::new(),
    }
}

fn of_binary(binary: &BinaryExpr) -> Vec<Mutant> {
    let mut broken = Vec::new();
    let operator = &binary.op;
    if operator.is_set_operator() {
        broken.push(mutant(format!("only the left of {operator}"), (*binary.lhs).clone()));
        broken.push(mutant(format!("only the right of {operator}"), (*binary.rhs).clone()));
    }
    if operator.is_comparison_operator() {
        let turned = TokenType::new(match operator.id() {
            T_GTR => T_LSS,
            T_LSS => T_GTR,
            T_GTE => T_LTE,
            T_LTE => T_GTE,
            T_EQLC => T_NEQ,
            _ => T_EQLC,
        });
        let what = format!("{operator} {} turned round", binary.rhs);
        broken.push(mutant(what, Expr::Binary(BinaryExpr { op: turned, ..binary.clone() })));
    }
    broken.extend(inside(&binary.lhs, |lhs| Expr::Binary(BinaryExpr { lhs, ..binary.clone() })));
    broken.extend(inside(&binary.rhs, |rhs| Expr::Binary(BinaryExpr { rhs, ..binary.clone() })));
    broken
}

fn of_number(value: f64) -> Vec<Mutant> {
    let made = |to: f64, how: &str| mutant(format!("{value} {how}"), Expr::from(to));
    if value == 0.0 { Vec::new() } else { vec![made(value * 2.0, "doubled"), made(value / 2.0, "halved")] }
}

fn of_selector(selector: &VectorSelector) -> Vec<(String, VectorSelector)> {
    let mut broken = Vec::new();
    for (at, matcher) in selector.matchers.matchers.iter().enumerate() {
        let mut change = |what: String, value: String| {
            let mut other = selector.clone();
            other.matchers.matchers[at].value = value;
            broken.push((what, other));
        };
        let alternatives = values(matcher);
        let is_pattern = matches!(matcher.op, MatchOp::Re(_) | MatchOp::NotRe(_));
        if is_pattern && alternatives.len() > 1 {
            for dropped in &alternatives {
                let rest: Vec<&str> = alternatives.iter().filter(|one| *one != dropped).map(String::as_str).collect();
                change(format!("{} without {dropped}", matcher.name), rest.join("|"));
            }
        } else {
            change(format!("{} is not {}", matcher.name, matcher.value), "mutant".to_owned());
        }
    }
    if let Some(Offset::Pos(offset)) = selector.offset {
        for (other, how) in [(offset * 2, "doubled"), (offset / 2, "halved")] {
            let shifted = VectorSelector { offset: Some(Offset::Pos(other)), ..selector.clone() };
            broken.push((format!("offset of {offset:?} {how}"), shifted));
        }
    }
    broken
}

#[test]
fn an_expression_is_broken_in_every_place() {
    let expr = super::expression::parse(r#"rate(a{x="1",y=~"p|q"}[5m] offset 1w) > 2 and b"#);
    let broken: Vec<String> = all(&expr).into_iter().map(|mutant| mutant.expr.to_string()).collect();
    assert_eq!(
        broken,
        [
            r#"rate(a{x="1",y=~"p|q"}[5m] offset 1w) > 2"#,
            "b",
            r#"rate(a{x="1",y=~"p|q"}[5m] offset 1w) < 2 and b"#,
            r#"rate(a{x="1",y=~"p|q"}[10m] offset 1w) > 2 and b"#,
            r#"rate(a{x="1",y=~"p|q"}[2m30s] offset 1w) > 2 and b"#,
            r#"rate(a{x="mutant",y=~"p|q"}[5m] offset 1w) > 2 and b"#,
            r#"rate(a{x="1",y=~"q"}[5m] offset 1w) > 2 and b"#,
            r#"rate(a{x="1",y=~"p"}[5m] offset 1w) > 2 and b"#,
            r#"rate(a{x="1",y=~"p|q"}[5m] offset 2w) > 2 and b"#,
            r#"rate(a{x="1",y=~"p|q"}[5m] offset 3d12h) > 2 and b"#,
            r#"rate(a{x="1",y=~"p|q"}[5m] offset 1w) > 4 and b"#,
            r#"rate(a{x="1",y=~"p|q"}[5m] offset 1w) > 1 and b"#,
        ]
    );
}
