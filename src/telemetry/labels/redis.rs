//! The words of what Redis helps with, and of how it fails to.

use crate::domain::vocabulary;

vocabulary! {
    /// What Redis is asked for.
    pub enum RedisFeature {
        /// Whether a caller is within its budgets.
        RateLimit => "rate_limit",
    }
}

vocabulary! {
    /// Why something was done without Redis.
    pub enum RedisFailure {
        /// There is no connection.
        Unreachable => "unreachable",
        /// It did not answer in time.
        Slow => "slow",
        /// It answered with an error, or with something that we did not ask for.
        Error => "error",
    }
}
