//! The circuit breaker of one operation of one PG, as a state machine over values: time is an argument, nothing here
//! waits, locks, logs or measures. `protection` owns one for each operation and does all of that.
//!
//! Why none from crates.io (recloser 1.4 and failsafe 1.3 were read): they wrap a call, or let everybody in while
//! half-open, or count the late results of calls that began before the breaker opened. Here the
//! right to call is taken before a transaction and the result is told after the call, a right may be given back
//! unused (the request turned out to be a repeat), half-open means one call at a time, and a hundred confirms that
//! time out half a minute after the breaker opened must not open it again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::telemetry::labels::BreakerState;

/// Results that are older than this say nothing about now.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The most results that are remembered.
const REMEMBERED_MAX: usize = 20;
/// How long to wait for the one call that is finding out.
const PROBE_POLL: Duration = Duration::from_secs(1);

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerRules {
    /// Technical failures among the last 20 results of the last minute, which must also be half of them.
    pub failures: u32,
    /// How long no call goes through.
    pub open: Duration,
}

/// What the result of a call says about the PG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answered, be it with a no.
    Answers,
    /// Timeout, connection lost, unreachable, 5xx, or nothing that can be read.
    Fails,
}

/// The right to one call: the state in which it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    epoch: u64,
}

/// The breaker.
#[derive(Debug)]
pub struct Breaker {
    rules: BreakerRules,
    state: State,
    /// Counts the states; a result from an earlier one comes too late to count.
    epoch: u64,
}

#[derive(Debug)]
enum State {
    Closed { recent: VecDeque<(Instant, Health)> },
    Open { until: Instant },
    HalfOpen { probing: bool },
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub const fn new(rules: BreakerRules) -> Self {
        Self { rules, state: State::Closed { recent: VecDeque::new() }, epoch: 0 }
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// The right to a call, or how long to wait before asking again.
    pub fn admit(&mut self, now: Instant) -> Result<Ticket, Duration> {
        if let Some(wait) = self.closed_to(now) {
            return Err(wait);
        }
        if let State::Open { .. } = self.state {
            self.enter(State::HalfOpen { probing: false });
        }
        if let State::HalfOpen { probing } = &mut self.state {
            *probing = true;
        }
        Ok(Ticket { epoch: self.epoch })
    }

    /// How long nobody is admitted, if nobody is.
    #[must_use]
    pub fn closed_to(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Open { until } if now < until => Some(until - now),
            State::HalfOpen { probing: true } => Some(PROBE_POLL),
            State::Closed { .. } | State::Open { .. } | State::HalfOpen { probing: false } => None,
        }
    }

    /// Takes the result of a call.
    pub fn report(&mut self, ticket: Ticket, health: Health, now: Instant) {
        if ticket.epoch != self.epoch {
            return;
        }
        match (&mut self.state, health) {
            (State::Closed { recent }, _) => {
                remember(recent, health, now);
                if is_failing(recent, self.rules.failures) {
                    self.open(now);
                }
            }
            (State::HalfOpen { .. }, Health::Answers) => self.enter(State::Closed { recent: VecDeque::new() }),
            (State::HalfOpen { .. }, Health::Fails) => self.open(now),
            // No ticket is given while open, and one from before has another epoch.
            (State::Open { .. }, _) => {}
        }
    }

    /// Takes a right back that was not used.
    pub fn give_back(&mut self, ticket: Ticket) {
        if let State::HalfOpen { probing } = &mut self.state
            && ticket.epoch == self.epoch
        {
            *probing = false;
        }
    }

    fn open(&mut self, now: Instant) {
        self.enter(State::Open { until: now + self.rules.open });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
}

fn remember(recent: &mut VecDeque<(Instant, Health)>, health: Health, now: Instant) {
    recent.retain(|(at, _)| now.saturating_duration_since(*at) < REMEMBERED);
    if recent.len() == REMEMBERED_MAX {
        recent.pop_front();
    }
    recent.push_back((now, health));
}

fn is_failing(recent: &VecDeque<(Instant, Health)>, limit: u32) -> bool {
    let failures = recent.iter().filter(|(_, health)| *health == Health::Fails).count();
    let enough = u32::try_from(failures).is_ok_and(|failures| failures >= limit);
    enough && failures * 2 >= recent.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: BreakerRules = BreakerRules { failures: 5, open: Duration::from_secs(10) };

    fn call(breaker: &mut Breaker, health: Health, now: Instant) {
        let ticket = breaker.admit(now).expect("admitted");
        breaker.report(ticket, health, now);
    }

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(RULES);
        for _ in 0..RULES.failures {
            call(&mut breaker, Health::Fails, now);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[test]
    fn it_opens_at_the_limit_and_says_how_long() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.admit(now), Err(RULES.open));
        assert_eq!(breaker.admit(now + Duration::from_secs(9)), Err(Duration::from_secs(1)));
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn failures_among_many_answers_do_not_open_it() {
        let (now, mut breaker) = (Instant::now(), Breaker::new(RULES));
        for _ in 0..1_000 {
            call(&mut breaker, Health::Answers, now);
            call(&mut breaker, Health::Answers, now);
            call(&mut breaker, Health::Fails, now);
        }
        assert_eq!(breaker.state(), BreakerState::Closed, "a third is not half");
    }

    #[test]
    fn failures_that_lie_far_apart_do_not_open_it() {
        let (mut now, mut breaker) = (Instant::now(), Breaker::new(RULES));
        for _ in 0..100 {
            now += Duration::from_secs(16);
            call(&mut breaker, Health::Fails, now);
        }
        assert_eq!(breaker.state(), BreakerState::Closed, "there are four of them in a minute");
    }

    #[test]
    fn half_open_lets_one_at_a_time_find_out() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let due = now + RULES.open;
        assert_eq!(breaker.closed_to(due), None);
        let probe = breaker.admit(due).expect("a probe");
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert_eq!(breaker.admit(due), Err(PROBE_POLL), "somebody is finding out already");
        breaker.report(probe, Health::Answers, due);
        assert_eq!(breaker.state(), BreakerState::Closed);
        call(&mut breaker, Health::Fails, due);
        assert_eq!(breaker.state(), BreakerState::Closed, "the failures of before are forgotten");
    }

    #[test]
    fn a_probe_that_fails_opens_it_again() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let due = now + RULES.open;
        call(&mut breaker, Health::Fails, due);
        assert_eq!(breaker.admit(due), Err(RULES.open));
    }

    #[test]
    fn a_probe_that_was_not_needed_makes_room_for_another() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let due = now + RULES.open;
        let probe = breaker.admit(due).expect("a probe");
        breaker.give_back(probe);
        assert!(breaker.admit(due).is_ok());
    }

    #[test]
    fn results_of_calls_from_before_it_opened_come_too_late() {
        let (now, mut breaker) = (Instant::now(), Breaker::new(RULES));
        let slow: Vec<Ticket> = (0..20).map(|_| breaker.admit(now).expect("admitted")).collect();
        let (quick, late) = slow.split_at(5);
        for ticket in quick {
            breaker.report(*ticket, Health::Fails, now);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        let due = now + RULES.open;
        let probe = breaker.admit(due).expect("a probe");
        for ticket in late {
            breaker.report(*ticket, Health::Fails, due);
            breaker.give_back(*ticket);
        }
        assert_eq!(breaker.state(), BreakerState::HalfOpen, "they neither fail the probe nor make room beside it");
        assert!(breaker.admit(due).is_err());
        breaker.report(probe, Health::Answers, due);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }
}
