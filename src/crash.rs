//! Crash points: the gaps between two steps, where a test ends the process, stops a task for good, or looks on.
//!
//! A step is a transaction or a PG call; `db::Db::transaction` and `provider::call::Door` reach the points, so every
//! verb has them without naming them. A build without the feature `dev` has none: [`CrashSwitch::reach`] is empty.

use std::fmt;

use crate::telemetry::labels::{ProviderOperation, Tx};

/// A gap between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CrashPoint {
    /// Every statement of the transaction was executed, nothing is committed.
    Uncommitted(Tx),
    /// The transaction is committed, and nobody was told yet.
    Committed(Tx),
    /// The PG is about to be called.
    Calling(ProviderOperation),
    /// The PG's answer (or its absence) is known in memory only.
    Answered(ProviderOperation),
}

impl CrashPoint {
    /// Every point there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let transactions = Tx::ALL.iter().flat_map(|tx| [Self::Uncommitted(*tx), Self::Committed(*tx)]);
        let calls = ProviderOperation::ALL.iter().flat_map(|call| [Self::Calling(*call), Self::Answered(*call)]);
        transactions.chain(calls)
    }

    /// The point with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().find(|point| point.to_string() == name)
    }
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uncommitted(tx) => write!(f, "{tx}.uncommitted"),
            Self::Committed(tx) => write!(f, "{tx}.committed"),
            Self::Calling(call) => write!(f, "pg_{call}.calling"),
            Self::Answered(call) => write!(f, "pg_{call}.answered"),
        }
    }
}

/// The points of one paygauge. A clone is the same switch.
#[derive(Clone, Default)]
pub struct CrashSwitch {
    #[cfg(feature = "dev")]
    wires: std::sync::Arc<armed::Wires>,
}

impl fmt::Debug for CrashSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CrashSwitch")
    }
}

#[cfg(not(feature = "dev"))]
impl CrashSwitch {
    /// Nothing: this build has no crash points.
    #[expect(clippy::unused_async, reason = "the same signature as where points exist")]
    pub async fn reach(&self, _point: CrashPoint) {}

    /// Never.
    #[must_use]
    pub const fn is_watched(&self) -> bool {
        false
    }
}

#[cfg(feature = "dev")]
mod armed;

#[cfg(feature = "dev")]
pub use armed::CrashPlan;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        for point in CrashPoint::all() {
            assert_eq!(CrashPoint::parse(&point.to_string()), Some(point), "{point}");
        }
        assert_eq!(CrashPoint::parse("nowhere"), None);
    }

    #[tokio::test]
    async fn an_armed_point_holds_the_first_task_only() {
        let switch = CrashSwitch::default();
        let point = CrashPoint::Committed(Tx::ConfirmIntend);
        switch.arm(CrashPlan::Hold(point));
        let held = tokio::spawn({
            let switch = switch.clone();
            async move { switch.reach(point).await }
        });
        switch.held().await;
        switch.reach(point).await;
        assert!(!held.is_finished());
        held.abort();
        assert!(switch.reached().contains(&point));
    }
}
