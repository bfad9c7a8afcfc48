//! The arithmetic of one budget: a bucket that holds `requests`, and is filled again evenly within its window.
//!
//! Values only; whoever asks says how much time has passed. What is kept of a bucket is its debt: every request adds
//! the window's length to it, and every microsecond pays back as much as there are requests in the budget. All
//! numbers are whole and below 2^53, so that the same sums give the same results in Lua's doubles.

use std::time::Duration;

const MICROS: u64 = 1_000_000;

/// So many requests within so many seconds, all of them at once if they like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    requests: u32,
    window_s: u32,
}

impl Budget {
    /// The most requests of a budget.
    pub const REQUESTS_MAX: u32 = 1_000_000;
    /// The longest window, in seconds.
    pub const WINDOW_S_MAX: u32 = 3_600;

    /// A budget, if both numbers are within their bounds and none is 0.
    #[must_use]
    pub const fn new(requests: u32, window_s: u32) -> Option<Self> {
        if requests == 0 || requests > Self::REQUESTS_MAX || window_s == 0 || window_s > Self::WINDOW_S_MAX {
            return None;
        }
        Some(Self { requests, window_s })
    }

    /// So many requests a minute.
    pub(super) const fn a_minute(requests: u32) -> Self {
        Self { requests, window_s: 60 }
    }

    /// Reads `requests/seconds`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (requests, window_s) = text.split_once('/')?;
        Self::new(requests.trim().parse().ok()?, window_s.trim().parse().ok()?)
    }

    /// Requests within the window.
    #[must_use]
    pub const fn requests(self) -> u32 {
        self.requests
    }

    /// The window, in seconds.
    #[must_use]
    pub const fn window_s(self) -> u32 {
        self.window_s
    }

    /// What one request adds to the debt, and the window in microseconds.
    #[must_use]
    pub fn price(self) -> u64 {
        u64::from(self.window_s) * MICROS
    }

    /// The most debt there can be.
    #[must_use]
    pub fn debt_max(self) -> u64 {
        u64::from(self.requests) * self.price()
    }

    /// What is left of a debt after this many microseconds.
    #[must_use]
    pub fn paid_back(self, debt: u64, elapsed_us: u64) -> u64 {
        debt.saturating_sub(elapsed_us.min(self.price()) * u64::from(self.requests))
    }

    /// The debt with one more request, if there is room for it.
    #[must_use]
    pub fn charged(self, debt: u64) -> Option<u64> {
        debt.checked_add(self.price()).filter(|debt| *debt <= self.debt_max())
    }

    /// Requests that there is room for now.
    #[must_use]
    pub fn remaining(self, debt: u64) -> u64 {
        self.debt_max().saturating_sub(debt) / self.price()
    }

    /// How long until there is room for one more request.
    #[must_use]
    pub fn next_in(self, debt: u64) -> Duration {
        self.time_for((debt + self.price()).saturating_sub(self.debt_max()))
    }

    /// How long until the whole budget is there again.
    #[must_use]
    pub fn whole_in(self, debt: u64) -> Duration {
        self.time_for(debt)
    }

    fn time_for(self, debt: u64) -> Duration {
        Duration::from_micros(debt.div_ceil(u64::from(self.requests)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_budget() -> impl Strategy<Value = Budget> {
        let small = (1..=50_u32, 1..=120_u32);
        let any = (1..=Budget::REQUESTS_MAX, 1..=Budget::WINDOW_S_MAX);
        prop_oneof![small, any].prop_map(|(requests, window_s)| Budget::new(requests, window_s).expect("in bounds"))
    }

    /// A budget and a debt that it can have.
    fn in_debt() -> impl Strategy<Value = (Budget, u64)> {
        any_budget().prop_flat_map(|budget| (Just(budget), 0..=budget.debt_max()))
    }

    fn micros(time: Duration) -> u64 {
        u64::try_from(time.as_micros()).expect("within an hour")
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_admits_more_than_a_burst_and_what_came_back(
            (requests, window_s) in (1..=40_u32, 1..=10_u32),
            gaps in proptest::collection::vec(prop_oneof![Just(0_u64), 0..300_000_u64, 0..20_000_000_u64], 1..200),
        ) {
            let budget = Budget::new(requests, window_s).expect("in bounds");
            let (mut debt, mut now, mut admitted) = (0, 0, Vec::new());
            for gap in gaps {
                now += gap;
                debt = budget.paid_back(debt, gap);
                if let Some(more) = budget.charged(debt) {
                    debt = more;
                    admitted.push(now);
                }
            }
            for (first, start) in admitted.iter().enumerate() {
                for (last, end) in admitted.iter().enumerate().skip(first) {
                    let came_back = (end - start) * u64::from(requests) / budget.price();
                    let most = u64::from(requests) + came_back;
                    prop_assert!(u64::try_from(last - first + 1).expect("few") <= most, "{start}..{end}");
                }
            }
        }

        #[test]
        fn whoever_waits_as_told_is_admitted_and_nobody_sooner((budget, debt) in in_debt()) {
            let wait = micros(budget.next_in(debt));
            prop_assert!(budget.charged(budget.paid_back(debt, wait)).is_some());
            if wait > 0 {
                prop_assert_eq!(budget.charged(budget.paid_back(debt, wait - 1)), None);
            }
        }

        #[test]
        fn as_many_as_remain_are_admitted_at_once((budget, debt) in in_debt()) {
            let remaining = budget.remaining(debt);
            prop_assume!(remaining <= 2_000);
            let mut debt = debt;
            for _ in 0..remaining {
                debt = budget.charged(debt).expect("room");
            }
            prop_assert_eq!(budget.charged(debt), None);
        }

        #[test]
        fn a_debt_is_paid_back_in_full_and_at_any_pace((budget, debt) in in_debt(), part in 0..=1_000_u64) {
            let whole = micros(budget.whole_in(debt));
            prop_assert!(whole <= budget.price());
            prop_assert_eq!(budget.paid_back(debt, whole), 0);
            let first = whole * part / 1_000;
            let in_two = budget.paid_back(budget.paid_back(debt, first), whole - first);
            prop_assert_eq!(in_two, 0);
            let half = budget.paid_back(debt, first);
            prop_assert!(half <= debt);
        }

        #[test]
        fn every_sum_is_exact_in_a_double((budget, debt) in in_debt()) {
            prop_assert!(debt + budget.price() < 1 << 53);
        }
    }

    #[test]
    fn a_budget_is_read_as_requests_and_seconds() {
        assert_eq!(Budget::parse("600/60"), Budget::new(600, 60));
        assert_eq!(Budget::parse(" 1 / 3600 "), Budget::new(1, 3_600));
        for bad in ["", "600", "600/", "/60", "0/60", "600/0", "1000001/60", "1/3601", "-1/60", "1.5/60", "1/60/60"] {
            assert_eq!(Budget::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_budget_of_two_in_ten_seconds_gives_one_back_every_five() {
        let budget = Budget::new(2, 10).expect("in bounds");
        let used_up = budget.charged(budget.charged(0).expect("the first")).expect("the second");
        assert_eq!((budget.remaining(used_up), budget.charged(used_up)), (0, None));
        assert_eq!(budget.next_in(used_up), Duration::from_secs(5));
        assert_eq!(budget.whole_in(used_up), Duration::from_secs(10));
        let later = budget.paid_back(used_up, 5 * MICROS);
        assert_eq!((budget.remaining(later), budget.next_in(later)), (1, Duration::ZERO));
        assert_eq!(budget.paid_back(used_up, u64::MAX), 0);
    }
}
