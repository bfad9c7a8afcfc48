//! The words of what stands between us and a PG that fails: breakers, lanes, and refusals.

use crate::domain::vocabulary;

vocabulary! {
    /// Where the circuit breaker of one operation stands.
    pub enum BreakerState {
        /// Calls go through.
        Closed => "closed",
        /// One call at a time goes through, to find out.
        HalfOpen => "half_open",
        /// No call goes through.
        Open => "open",
    }
}

vocabulary! {
    /// Who calls a PG. Each has a share of the concurrency that the other cannot use up.
    pub enum Lane {
        /// A request that somebody waits for.
        Caller => "caller",
        /// Recovery, webhooks and operators: they ask about what was begun.
        Background => "background",
    }
}

vocabulary! {
    /// Why a call was not even tried.
    pub enum AdmissionRefusal {
        /// The PG failed too often just now.
        BreakerOpen => "breaker_open",
        /// As many calls as are allowed are waiting for an answer already.
        Saturated => "saturated",
    }
}
