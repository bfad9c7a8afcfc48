//! What an armed point does; only in builds with the feature `dev`.

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
    /// The first task that reaches the point panics there.
    Panic(CrashPoint),
    /// The process is killed when the nth database statement of its life has ended.
    KillAfterStatement(u64),
}

impl CrashPlan {
    /// Reads `confirm_intend.committed` or `statement:17`, what a real process is to die at, or
    /// `panic:confirm_intend.committed`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(point) = text.strip_prefix("panic:") {
            return CrashPoint::parse(point).map(Self::Panic);
        }
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

    /// Whether anybody looks on.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.wires.is_watched.load(Ordering::Relaxed)
    }

    /// A task is at `point`.
    pub async fn reach(&self, point: CrashPoint) {
        if !self.is_watched() {
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
        self.is_watched() && matches!(self.state().plan, Some(CrashPlan::KillAfterStatement(_)))
    }

    /// A database statement has ended.
    pub fn statement_ended(&self) {
        if !self.is_watched() {
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
            Some(CrashPlan::Panic(at)) if at == point => {
                state.plan = None;
                drop(state);
                defect(point)
            }
            Some(CrashPlan::Kill(_) | CrashPlan::Hold(_) | CrashPlan::Panic(_) | CrashPlan::KillAfterStatement(_))
            | None => false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.wires.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Panics with a text that was put together at run time, as a failed `unwrap` does.
#[expect(clippy::panic, reason = "what a test asked for")]
fn defect(point: CrashPoint) -> ! {
    panic!("armed to panic at {point}")
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
