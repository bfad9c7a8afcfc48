//! The buckets of this process alone: all there is without Redis, and the fallback while Redis is away.
//!
//! Bounded: when there is no room for another bucket, those that are full again go first, and then those that soonest
//! would be. Whoever loses a bucket that way gets a fresh one: a limit that forgets is better than a process
//! that runs out of memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Bucket, Taken};

/// The most buckets that are remembered, some 100 bytes each.
const BUCKETS_MAX: usize = 50_000;

/// The buckets of one process.
#[derive(Debug)]
pub struct Local {
    levels: Mutex<HashMap<Bucket, Level>>,
    buckets_max: usize,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    debt: u64,
    /// When the debt was this much, in microseconds.
    at_us: u64,
}

impl Level {
    fn debt_of(&self, bucket: &Bucket, now_us: u64) -> u64 {
        bucket.budget.paid_back(self.debt, now_us.saturating_sub(self.at_us))
    }
}

impl Default for Local {
    fn default() -> Self {
        Self::with_room_for(BUCKETS_MAX)
    }
}

impl Local {
    fn with_room_for(buckets_max: usize) -> Self {
        Self { levels: Mutex::default(), buckets_max }
    }

    /// Takes one request from each of the buckets, or from none if one has no room. `now` counts from any fixed
    /// moment.
    pub fn take(&self, buckets: &[Bucket], now: Duration) -> Taken {
        let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let debt_of = |bucket: &Bucket| levels.get(bucket).map_or(0, |level| level.debt_of(bucket, now_us));
        let before: Vec<u64> = buckets.iter().map(debt_of).collect();
        let charged = |(bucket, debt): (&Bucket, &u64)| bucket.budget.charged(*debt);
        let after: Option<Vec<u64>> = buckets.iter().zip(&before).map(charged).collect();
        let Some(after) = after else { return Taken { is_admitted: false, debts: before } };
        for (bucket, debt) in buckets.iter().zip(&after) {
            if levels.len() >= self.buckets_max && !levels.contains_key(bucket) {
                make_room(&mut levels, now_us);
            }
            levels.insert(*bucket, Level { debt: *debt, at_us: now_us });
        }
        Taken { is_admitted: true, debts: after }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Frees at least a quarter, so that it is not done for every request.
fn make_room(levels: &mut HashMap<Bucket, Level>, now_us: u64) {
    let kept_max = levels.len() / 4 * 3;
    levels.retain(|bucket, level| level.debt_of(bucket, now_us) > 0);
    if levels.len() <= kept_max {
        return;
    }
    let whole_in = |bucket: &Bucket, level: &Level| bucket.budget.whole_in(level.debt_of(bucket, now_us));
    let mut waits: Vec<Duration> = levels.iter().map(|(bucket, level)| whole_in(bucket, level)).collect();
    waits.sort_unstable_by(|a, b| b.cmp(a));
    let least = waits.get(kept_max).copied().unwrap_or(Duration::MAX);
    levels.retain(|bucket, level| whole_in(bucket, level) > least);
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::super::{Budget, Class, Subject};
    use super::*;

    fn bucket(number: u32, requests: u32) -> Bucket {
        let address = IpAddr::V4(Ipv4Addr::from_bits(number));
        let budget = Budget::new(requests, 60).expect("in bounds");
        Bucket { class: Class::Orders, subject: Subject::Address(address), budget }
    }

    #[test]
    fn all_or_none_of_several_buckets_are_charged() {
        let (local, narrow, wide) = (Local::default(), bucket(1, 1), bucket(2, 10));
        assert!(local.take(&[narrow, wide], Duration::ZERO).is_admitted);
        let refused = local.take(&[narrow, wide], Duration::ZERO);
        assert_eq!((refused.is_admitted, wide.budget.remaining(refused.debts[1])), (false, 9));
        let alone = local.take(&[wide], Duration::ZERO);
        assert_eq!((alone.is_admitted, wide.budget.remaining(alone.debts[0])), (true, 8));
        assert!(local.take(&[narrow, wide], Duration::from_secs(60)).is_admitted, "it is full again");
    }

    #[test]
    fn any_number_of_callers_needs_bounded_memory_and_the_worst_are_remembered() {
        let (local, worst) = (Local::with_room_for(1_000), bucket(0, 100));
        for _ in 0..100 {
            assert!(local.take(&[worst], Duration::ZERO).is_admitted);
        }
        for number in 1..20_000 {
            assert!(local.take(&[bucket(number, 100)], Duration::from_micros(number.into())).is_admitted);
            assert!(local.len() <= 1_000, "{}", local.len());
        }
        assert!(!local.take(&[worst], Duration::from_millis(30)).is_admitted, "it is still used up");
        let hour = Duration::from_secs(3_600);
        for number in 20_000..21_000 {
            local.take(&[bucket(number, 100)], hour);
        }
        assert!(local.take(&[worst], hour).is_admitted);
    }

    #[test]
    fn a_clock_read_late_takes_nothing_away() {
        let (local, one) = (Local::default(), bucket(1, 2));
        assert!(local.take(&[one], Duration::from_secs(100)).is_admitted);
        assert!(local.take(&[one], Duration::from_secs(99)).is_admitted);
        assert!(!local.take(&[one], Duration::from_secs(98)).is_admitted);
    }
}
