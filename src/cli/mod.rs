//! The commands besides `serve` and the development stack, one file each. They print for people unless asked for JSON,
//! and end with a code that a script can use.

pub mod audit;
pub mod explain;
pub mod inquire;
pub mod keys;
#[cfg(feature = "dev")]
pub mod load;
pub mod reconcile;
