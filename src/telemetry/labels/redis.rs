//! The words of what Redis helps with, of how it fails to, and of those who wait for what it tells.

use crate::domain::vocabulary;

vocabulary! {
    /// What Redis is asked for.
    pub enum RedisFeature {
        /// Whether a caller is within its budgets.
        RateLimit => "rate_limit",
        /// What is remembered of the catalogue.
        Catalogue => "catalogue",
        /// Telling other processes that something was committed.
        News => "news",
    }
}

vocabulary! {
    /// Where a text of the catalogue came from.
    pub enum CacheResult {
        /// It was remembered.
        Hit => "hit",
        /// The database.
        Miss => "miss",
        /// Another request that was reading it.
        Joined => "joined",
    }
}

vocabulary! {
    /// Why a stream of events ended.
    pub enum StreamEnd {
        /// Nothing can happen to its order any more.
        Final => "final",
        /// It was open for as long as it may be.
        Life => "life",
        /// The process stops.
        Stopping => "stopping",
        /// The client hung up.
        ClientLeft => "client_left",
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
