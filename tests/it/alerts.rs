//! Claims about `prometheus/`: every alert is complete, asks only for what the catalogue has, and is tested so well
//! that breaking its expression anywhere is noticed.
//!
//! What reads files alone runs always. What needs promtool is ignored; `.ci/watch` runs it.

mod broken;
mod complete;
mod expression;
mod files;
mod mutants;
mod queries;
mod zero;
