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
}

#[cfg(feature = "dev")]
pub use armed::CrashPlan;

#[cfg(feature = "dev")]
mod armed {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use tokio::sync::Notify;

    use super::{CrashPoint, CrashSwitch};

    /// What happens where.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum CrashPlan {
        /// The first task that reaches the point stops there for good, and [`CrashSwitch::held`] tells the test.
        Hold(CrashPoint),
        /// The process is killed there, as by SIGKILL.
        Kill(CrashPoint),
        /// The process is killed when the nth database statement of its life has ended.
        KillAfterStatement(u64),
    }

    impl CrashPlan {
        /// Reads `confirm_intend.committed` or `statement:17`: what a real process is to die at.
        #[must_use]
        pub fn parse(text: &str) -> Option<Self> {
            match text.strip_prefix("statement:") {
                Some(count) => count.parse().ok().map(Self::KillAfterStatement),
                None => CrashPoint::parse(text).map(Self::Kill),
            }
        }
    }

    #[derive(Default)]
    pub(super) struct Wires {
        /// Whether anybody looks on: without it a point costs one load.
        is_watched: AtomicBool,
        state: Mutex<State>,
        statements: AtomicU64,
        held: Notify,
    }

    #[derive(Default)]
    struct State {
        plan: Option<CrashPlan>,
        reached: BTreeSet<CrashPoint>,
    }

    impl CrashSwitch {
        /// Sets what happens next, and forgets which points were reached.
        pub fn arm(&self, plan: CrashPlan) {
            *self.state() = State { plan: Some(plan), reached: BTreeSet::new() };
            self.wires.is_watched.store(true, Ordering::SeqCst);
        }

        /// Only takes note of the points that are reached.
        pub fn watch(&self) {
            *self.state() = State::default();
            self.wires.is_watched.store(true, Ordering::SeqCst);
        }

        /// The points reached since [`arm`](Self::arm) or [`watch`](Self::watch).
        #[must_use]
        pub fn reached(&self) -> BTreeSet<CrashPoint> {
            self.state().reached.clone()
        }

        /// Resolves when a task is held at the armed point.
        pub async fn held(&self) {
            self.wires.held.notified().await;
        }

        /// A task is at `point`.
        pub async fn reach(&self, point: CrashPoint) {
            if !self.wires.is_watched.load(Ordering::Relaxed) {
                return;
            }
            if self.is_stopped_by(point) {
                self.wires.held.notify_one();
                std::future::pending::<()>().await;
            }
        }

        /// Whether the end of each statement is to be told.
        #[must_use]
        pub fn counts_statements(&self) -> bool {
            self.wires.is_watched.load(Ordering::Relaxed)
                && matches!(self.state().plan, Some(CrashPlan::KillAfterStatement(_)))
        }

        /// A database statement has ended.
        pub fn statement_ended(&self) {
            if !self.wires.is_watched.load(Ordering::Relaxed) {
                return;
            }
            let count = self.wires.statements.fetch_add(1, Ordering::SeqCst) + 1;
            if self.state().plan == Some(CrashPlan::KillAfterStatement(count)) {
                die();
            }
        }

        fn is_stopped_by(&self, point: CrashPoint) -> bool {
            let mut state = self.state();
            state.reached.insert(point);
            match state.plan {
                Some(CrashPlan::Kill(at)) if at == point => die(),
                Some(CrashPlan::Hold(at)) if at == point => {
                    state.plan = None;
                    true
                }
                Some(CrashPlan::Kill(_) | CrashPlan::Hold(_) | CrashPlan::KillAfterStatement(_)) | None => false,
            }
        }

        fn state(&self) -> MutexGuard<'_, State> {
            self.wires.state.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Ends the process as `kill -9` does: nothing is flushed, closed or dropped.
    #[expect(unsafe_code, reason = "only a signal ends a process without a trace")]
    fn die() -> ! {
        // SAFETY: getpid and kill take and return plain numbers; SIGKILL does not return.
        unsafe {
            libc::kill(libc::getpid(), libc::SIGKILL);
        }
        std::process::abort()
    }
}

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
