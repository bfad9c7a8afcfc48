//! What stands between us and a PG that fails: a bounded number of calls for each lane (bulkhead), and a circuit
//! breaker for each operation.
//!
//! A breaker for each operation, not one for the PG: when confirms hang, inquiries that still work must go on ending
//! doubts, and must not make the breaker believe that confirms work. The right to call is a [`Permit`], taken before
//! an intent is written and used up by the call. Refusing takes no time and leaves nothing behind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::breaker::{Breaker, BreakerRules, Health, Ticket};
use crate::telemetry::labels::{AdmissionRefusal, BreakerState, Lane, ProviderLabel, ProviderOperation};
use crate::telemetry::record;

/// When a place in a full lane is usually free again.
const SATURATED_POLL: Duration = Duration::from_secs(1);

/// The limits of one PG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls of requests at a time.
    pub caller_calls_max: u32,
    /// Calls of recovery, webhooks and operators at a time, beside those.
    pub background_calls_max: u32,
    /// How long recovery and webhooks wait for a place.
    pub background_wait: Duration,
    /// When a breaker opens, and for how long.
    pub breaker: BreakerRules,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            caller_calls_max: 64,
            background_calls_max: 16,
            background_wait: Duration::from_secs(2),
            breaker: BreakerRules { failures: 5, open: Duration::from_secs(10) },
        }
    }
}

/// A call that was not even tried. Nothing left us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the PG is not asked now: {reason}")]
pub struct Refused {
    /// Why.
    pub reason: AdmissionRefusal,
    /// When to ask again.
    pub retry_after: Duration,
}

/// The protection of one PG.
pub struct Protection {
    label: ProviderLabel,
    limits: Limits,
    breakers: BTreeMap<ProviderOperation, Mutex<Breaker>>,
    callers: Arc<Semaphore>,
    background: Arc<Semaphore>,
}

impl Protection {
    /// Everything closed and free.
    #[must_use]
    pub fn new(label: ProviderLabel, limits: Limits) -> Arc<Self> {
        let of = |operation: &ProviderOperation| {
            record::breaker_state(label, *operation, BreakerState::Closed);
            (*operation, Mutex::new(Breaker::new(limits.breaker)))
        };
        record::provider_permits_max(label, Lane::Caller, limits.caller_calls_max);
        record::provider_permits_max(label, Lane::Background, limits.background_calls_max);
        Arc::new(Self {
            label,
            limits,
            breakers: ProviderOperation::ALL.iter().map(of).collect(),
            callers: semaphore(limits.caller_calls_max),
            background: semaphore(limits.background_calls_max),
        })
    }

    /// The right to one call of a request, now or not at all.
    pub fn admit(self: &Arc<Self>, operation: ProviderOperation) -> Result<Permit, Refused> {
        match Arc::clone(&self.callers).try_acquire_owned() {
            Ok(place) => self.permit(Lane::Caller, operation, place),
            Err(_) => Err(self.saturated(Lane::Caller, operation)),
        }
    }

    /// The right to one call of the background lane, after a bounded wait for a place in it.
    pub async fn admit_soon(self: &Arc<Self>, operation: ProviderOperation) -> Result<Permit, Refused> {
        let place = Arc::clone(&self.background).acquire_owned();
        match tokio::time::timeout(self.limits.background_wait, place).await {
            Ok(Ok(place)) => self.permit(Lane::Background, operation, place),
            Ok(Err(_)) | Err(_) => Err(self.saturated(Lane::Background, operation)),
        }
    }

    /// How many questions of `operation` the background may plan now: none while the breaker is open, one to find out
    /// whether it may close, else as many as there are places.
    #[must_use]
    pub fn background_room(&self, operation: ProviderOperation) -> u32 {
        let Some(breaker) = self.breaker(operation) else { return self.limits.background_calls_max };
        match breaker.state() {
            BreakerState::Closed => self.limits.background_calls_max,
            BreakerState::Open | BreakerState::HalfOpen => u32::from(breaker.closed_to(Instant::now()).is_none()),
        }
    }

    /// Where each breaker stands.
    #[must_use]
    pub fn states(&self) -> Vec<(ProviderOperation, BreakerState)> {
        let state = |breaker: &Mutex<Breaker>| lock(breaker).state();
        self.breakers.iter().map(|(operation, breaker)| (*operation, state(breaker))).collect()
    }

    fn permit(
        self: &Arc<Self>,
        lane: Lane,
        operation: ProviderOperation,
        place: OwnedSemaphorePermit,
    ) -> Result<Permit, Refused> {
        let ticket = self.ticket(operation).map_err(|retry_after| {
            self.refused(lane, operation, Refused { reason: AdmissionRefusal::BreakerOpen, retry_after })
        })?;
        let counted = record::provider_permit(self.label, lane);
        Ok(Permit { protection: Arc::clone(self), operation, ticket: Some(ticket), _place: place, _counted: counted })
    }

    fn saturated(&self, lane: Lane, operation: ProviderOperation) -> Refused {
        let refused = Refused { reason: AdmissionRefusal::Saturated, retry_after: SATURATED_POLL };
        self.refused(lane, operation, refused)
    }

    fn refused(&self, lane: Lane, operation: ProviderOperation, refused: Refused) -> Refused {
        record::admission_refused(self.label, operation, lane, refused.reason);
        tracing::debug!(
            provider = self.label.as_str(),
            operation = operation.as_str(),
            lane = lane.as_str(),
            reason = refused.reason.as_str(),
            "a call to the PG was not tried"
        );
        refused
    }

    fn ticket(&self, operation: ProviderOperation) -> Result<Ticket, Duration> {
        self.change(operation, |breaker| breaker.admit(Instant::now()))
    }

    fn breaker(&self, operation: ProviderOperation) -> Option<MutexGuard<'_, Breaker>> {
        self.breakers.get(&operation).map(lock)
    }

    /// Does something with a breaker, and tells when that changed its state.
    #[expect(clippy::expect_used, reason = "the map is made from the list of all operations")]
    fn change<T>(&self, operation: ProviderOperation, with: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker(operation).expect("every operation has a breaker");
        let before = breaker.state();
        let result = with(&mut breaker);
        let after = breaker.state();
        if before != after {
            // Told under the lock, so that the gauge and the log have the order of the facts.
            self.tell(operation, before, after);
        }
        result
    }

    fn tell(&self, operation: ProviderOperation, from: BreakerState, to: BreakerState) {
        record::breaker_transition(self.label, operation, to);
        let (provider, operation, from) = (self.label.as_str(), operation.as_str(), from.as_str());
        match to {
            BreakerState::Open => tracing::warn!(
                provider,
                operation,
                from,
                to = to.as_str(),
                open_s = self.limits.breaker.open.as_secs_f64(),
                "the PG fails: it is not asked for a while; no decline has part in this"
            ),
            BreakerState::HalfOpen => {
                tracing::info!(
                    provider,
                    operation,
                    from,
                    to = to.as_str(),
                    "one call finds out whether the PG is back"
                );
            }
            BreakerState::Closed => tracing::info!(provider, operation, from, to = to.as_str(), "the PG answers again"),
        }
    }
}

fn lock(breaker: &Mutex<Breaker>) -> MutexGuard<'_, Breaker> {
    breaker.lock().unwrap_or_else(PoisonError::into_inner)
}

fn semaphore(places: u32) -> Arc<Semaphore> {
    let places = usize::try_from(places).unwrap_or(Semaphore::MAX_PERMITS);
    Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)))
}

/// The right to one call. Dropped without a result it says nothing about the PG.
pub struct Permit {
    protection: Arc<Protection>,
    operation: ProviderOperation,
    ticket: Option<Ticket>,
    _place: OwnedSemaphorePermit,
    _counted: record::Active,
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit").field("operation", &self.operation).field("ticket", &self.ticket).finish()
    }
}

impl Permit {
    /// What it is for.
    #[must_use]
    pub const fn operation(&self) -> ProviderOperation {
        self.operation
    }

    /// Tells what a call said about the PG.
    pub(super) fn report(&mut self, health: Health) {
        if let Some(ticket) = self.ticket.take() {
            self.protection.change(self.operation, |breaker| breaker.report(ticket, health, Instant::now()));
        }
    }

    /// The right to the same call once more, after the first was reported.
    pub(super) fn renew(&mut self) -> bool {
        self.ticket = self.protection.ticket(self.operation).ok();
        self.ticket.is_some()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.protection.change(self.operation, |breaker| breaker.give_back(ticket));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protection() -> Arc<Protection> {
        let limits = Limits {
            caller_calls_max: 2,
            background_calls_max: 1,
            background_wait: Duration::from_millis(5),
            ..Limits::default()
        };
        Protection::new(ProviderLabel::Toss, limits)
    }

    fn reason(refused: Result<Permit, Refused>) -> Option<AdmissionRefusal> {
        refused.err().map(|refused| refused.reason)
    }

    #[tokio::test]
    async fn a_full_lane_refuses_and_leaves_the_other_alone() {
        let protection = protection();
        let confirm = || protection.admit(ProviderOperation::Confirm);
        let (one, two) = (confirm().expect("a place"), confirm().expect("a place"));
        assert_eq!(reason(confirm()), Some(AdmissionRefusal::Saturated));
        let own = protection.admit_soon(ProviderOperation::Inquire).await.expect("the background's own place");
        let second = protection.admit_soon(ProviderOperation::Inquire).await;
        assert_eq!(reason(second), Some(AdmissionRefusal::Saturated), "its wait is bounded");
        drop(one);
        assert!(confirm().is_ok(), "the background's places are not the callers'");
        drop((two, own));
    }

    #[tokio::test]
    async fn an_open_breaker_refuses_its_operation_in_both_lanes_and_no_other() {
        let protection = protection();
        for _ in 0..Limits::default().breaker.failures {
            let mut permit = protection.admit(ProviderOperation::Confirm).expect("a place");
            permit.report(Health::Fails);
        }
        let soon = protection.admit_soon(ProviderOperation::Confirm).await;
        for admitted in [protection.admit(ProviderOperation::Confirm), soon] {
            let refused = admitted.expect_err("open");
            assert_eq!(refused.reason, AdmissionRefusal::BreakerOpen);
            assert!(refused.retry_after > Duration::from_secs(9), "{:?}", refused.retry_after);
        }
        assert!(protection.admit(ProviderOperation::Inquire).is_ok());
        assert_eq!(protection.background_room(ProviderOperation::Confirm), 0);
        assert_eq!(protection.background_room(ProviderOperation::Inquire), 1);
    }

    #[tokio::test]
    async fn a_refusal_by_the_breaker_takes_no_place() {
        let protection = protection();
        for _ in 0..100 {
            let mut permit = protection.admit_soon(ProviderOperation::Inquire).await.ok();
            permit.iter_mut().for_each(|permit| permit.report(Health::Fails));
        }
        assert_eq!(protection.background.available_permits(), 1);
        assert!(protection.admit_soon(ProviderOperation::Cancel).await.is_ok());
    }
}
