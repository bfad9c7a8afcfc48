//! Quantities: what an order's lines cost, and which of them a cancel gives back.

use super::money::{Money, MoneyError};

/// The most units of one product in one order.
pub const QUANTITY_MAX: i32 = 100_000;

/// One line of an order, as a cancel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub line: i32,
    /// Minor units each.
    pub unit_price: Money,
    /// Units ordered.
    pub quantity: i32,
    /// Units already given back, or about to be.
    pub canceled: i32,
}

/// Units of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineQuantity {
    /// The line's number.
    pub line: i32,
    /// How many.
    pub quantity: i32,
}

/// What the caller wants to cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelScope {
    /// All that is left.
    Everything,
    /// This many minor units; no stock comes back unless nothing is left.
    Amount(i64),
    /// These units, at their price.
    Lines(Vec<LineQuantity>),
}

/// What a cancel takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelPlan {
    /// Minor units.
    pub amount: i64,
    /// Units that go back into stock once it is done.
    pub lines: Vec<LineQuantity>,
    /// Whether nothing is left afterwards.
    pub is_full: bool,
}

/// Why a cancel cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// Zero, negative, or a line twice.
    #[error("the cancel names nothing, or a line twice")]
    Empty,
    /// The order has no such line.
    #[error("the order has no line {0}")]
    UnknownLine(i32),
    /// More units than are left in this line.
    #[error("line {line} has {left} units left to cancel")]
    TooMany {
        /// The line.
        line: i32,
        /// What is left.
        left: i32,
    },
    /// More money than is left.
    #[error("{balance} is left to cancel")]
    ExceedsBalance {
        /// Minor units that are left.
        balance: i64,
    },
    /// Numbers that do not fit.
    #[error(transparent)]
    Money(#[from] MoneyError),
}

/// Plans a cancel against `balance` minor units and the order's `lines`.
///
/// Whoever cancels the last of the money gives all remaining units back, so that an order without money never
/// keeps stock.
pub fn plan_cancel(scope: &CancelScope, balance: i64, lines: &[Line]) -> Result<CancelPlan, ScopeError> {
    let (amount, wanted) = match scope {
        CancelScope::Everything => (balance, Vec::new()),
        CancelScope::Amount(amount) => (*amount, Vec::new()),
        CancelScope::Lines(wanted) => (price(wanted, lines)?, wanted.clone()),
    };
    if amount <= 0 {
        return Err(if balance <= 0 { ScopeError::ExceedsBalance { balance } } else { ScopeError::Empty });
    }
    if amount > balance {
        return Err(ScopeError::ExceedsBalance { balance });
    }
    let is_full = amount == balance;
    let lines = if is_full { remaining(lines) } else { wanted };
    Ok(CancelPlan { amount, lines, is_full })
}

fn price(wanted: &[LineQuantity], lines: &[Line]) -> Result<i64, ScopeError> {
    let mut total: i64 = 0;
    for (index, want) in wanted.iter().enumerate() {
        if want.quantity <= 0 || wanted.iter().take(index).any(|earlier| earlier.line == want.line) {
            return Err(ScopeError::Empty);
        }
        let line = lines.iter().find(|line| line.line == want.line).ok_or(ScopeError::UnknownLine(want.line))?;
        let left = line.quantity - line.canceled;
        if want.quantity > left {
            return Err(ScopeError::TooMany { line: want.line, left });
        }
        let part = line.unit_price.checked_mul(want.quantity)?;
        total = total.checked_add(part.minor).ok_or(MoneyError::Overflow)?;
    }
    Ok(total)
}

/// The units that no cancel has taken.
#[must_use]
pub fn remaining(lines: &[Line]) -> Vec<LineQuantity> {
    lines
        .iter()
        .map(|line| LineQuantity { line: line.line, quantity: line.quantity - line.canceled })
        .filter(|left| left.quantity > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::Currency;

    fn lines() -> Vec<Line> {
        let won = |minor| Money::new(minor, Currency::KRW);
        vec![
            Line { line: 1, unit_price: won(1_000), quantity: 3, canceled: 1 },
            Line { line: 2, unit_price: won(500), quantity: 2, canceled: 0 },
        ]
    }

    #[test]
    fn lines_cost_what_they_were_sold_for() {
        let scope = CancelScope::Lines(vec![LineQuantity { line: 1, quantity: 1 }]);
        let plan = plan_cancel(&scope, 3_000, &lines()).unwrap();
        assert_eq!((plan.amount, plan.is_full), (1_000, false));
        assert_eq!(plan.lines, [LineQuantity { line: 1, quantity: 1 }]);
    }

    #[test]
    fn the_last_won_brings_all_units_back() {
        let plan = plan_cancel(&CancelScope::Amount(3_000), 3_000, &lines()).unwrap();
        assert!(plan.is_full);
        assert_eq!(plan.lines, [LineQuantity { line: 1, quantity: 2 }, LineQuantity { line: 2, quantity: 2 }]);
    }

    #[test]
    fn a_part_by_amount_moves_no_stock() {
        let plan = plan_cancel(&CancelScope::Amount(1), 3_000, &lines()).unwrap();
        assert_eq!(plan.lines, []);
    }

    #[test]
    fn one_won_beyond_the_balance_is_refused() {
        let error = plan_cancel(&CancelScope::Amount(3_001), 3_000, &lines()).unwrap_err();
        assert_eq!(error, ScopeError::ExceedsBalance { balance: 3_000 });
    }

    #[test]
    fn nonsense_is_refused() {
        for scope in [
            CancelScope::Amount(0),
            CancelScope::Amount(-1),
            CancelScope::Lines(vec![]),
            CancelScope::Lines(vec![LineQuantity { line: 1, quantity: 0 }]),
            CancelScope::Lines(vec![LineQuantity { line: 1, quantity: 1 }, LineQuantity { line: 1, quantity: 1 }]),
            CancelScope::Lines(vec![LineQuantity { line: 9, quantity: 1 }]),
            CancelScope::Lines(vec![LineQuantity { line: 1, quantity: 3 }]),
            CancelScope::Lines(vec![LineQuantity { line: 1, quantity: i32::MAX }]),
        ] {
            assert!(plan_cancel(&scope, 3_000, &lines()).is_err(), "{scope:?}");
        }
        assert!(plan_cancel(&CancelScope::Everything, 0, &lines()).is_err());
    }
}
