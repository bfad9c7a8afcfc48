//! Services that only the development stack and the tests embed.

pub mod checkout;
pub mod postgres;
mod prometheus;
pub mod stack;
