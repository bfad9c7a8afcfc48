//! Services that only the development stack and the tests embed.

pub mod checkout;
pub mod postgres;
pub mod stack;
