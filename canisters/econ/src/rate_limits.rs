//! Token buckets: how often each principal of each class may call, and how often something may be reserved for an account.
//!
//! A bucket is one number, the time at which it will be full again (the generic cell rate algorithm, ITU-T I.371): a call
//! moves it on by the limit's interval, and is refused when it would then lie further ahead than a whole bucket takes to
//! fill. So all arithmetic is on whole nanoseconds, and a bucket that is full is as good as none.
//!
//! Buckets live on the heap: an upgrade fills them.

use std::collections::{BTreeMap, BTreeSet};

use candid::Principal;
use shared_types::econ::RateClass;

/// Buckets that are kept at most. When so many are not full, further principals wait for the first one that is.
pub const MAX_BUCKETS: usize = 100_000;

/// Who is limited, and as what.
type Key = (Principal, RateClass);

/// The buckets that are not full.
#[derive(Debug, Default)]
pub struct RateLimits {
    /// When each will be full.
    full_at: BTreeMap<Key, u64>,
    /// The same by time.
    by_time: BTreeSet<(u64, Key)>,
}

impl RateLimits {
    /// Takes `calls` from the bucket of a principal and class.
    ///
    /// INV-E20: within any time `t`, a principal and class are granted at most the limit's burst and `t` by its interval.
    ///
    /// # Errors
    /// Nanoseconds after which the same would be granted, if nothing else is taken meanwhile; nothing was taken. More calls
    /// than a full bucket holds are never granted: their wait is `u64::MAX`.
    pub fn take(
        &mut self,
        principal: Principal,
        class: RateClass,
        calls: u32,
        now_ns: u64,
    ) -> Result<(), u64> {
        let limit = class.limit();
        if calls > limit.burst {
            return Err(u64::MAX);
        }
        let key = (principal, class);
        let before = self.full_at.get(&key).copied();
        let cost = u64::from(calls).saturating_mul(limit.interval_ns);
        let after = before.unwrap_or(0).max(now_ns).saturating_add(cost);
        let latest = now_ns.saturating_add(u64::from(limit.burst).saturating_mul(limit.interval_ns));
        if after > latest {
            return Err(after - latest);
        }
        match before {
            Some(before) => {
                self.by_time.remove(&(before, key));
            }
            None => self.make_room(now_ns)?,
        }
        self.full_at.insert(key, after);
        self.by_time.insert((after, key));
        Ok(())
    }

    /// Forgets buckets that are full, if there is no room for another one.
    fn make_room(&mut self, now_ns: u64) -> Result<(), u64> {
        while self.full_at.len() >= MAX_BUCKETS {
            match self.by_time.first().copied() {
                Some((full_at, key)) if full_at <= now_ns => {
                    self.by_time.remove(&(full_at, key));
                    self.full_at.remove(&key);
                }
                Some((full_at, _)) => return Err(full_at - now_ns),
                None => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared_types::econ::rate_limit::RateLimit;

    fn principal(n: u32) -> Principal {
        Principal::from_slice(&n.to_be_bytes())
    }

    /// The obvious token bucket: its content in parts of a call, so many of which make one.
    struct Bucket {
        content: u64,
        seen_ns: u64,
    }

    impl Bucket {
        fn take(&mut self, limit: RateLimit, calls: u32, now_ns: u64) -> bool {
            let full = u64::from(limit.burst) * limit.interval_ns;
            self.content = full.min(self.content + (now_ns - self.seen_ns));
            self.seen_ns = now_ns;
            let cost = u64::from(calls) * limit.interval_ns;
            let granted = cost <= self.content;
            if granted {
                self.content -= cost;
            }
            granted
        }
    }

    proptest! {
        /// INV-E20.
        #[test]
        fn grants_are_those_of_the_obvious_bucket(
            steps in proptest::collection::vec((0..3usize, 1..40u32, 0..20_000_000_000u64), 1..200),
        ) {
            let mut limits = RateLimits::default();
            let full = RateClass::ALL.map(|class| u64::from(class.limit().burst) * class.limit().interval_ns);
            let mut buckets = full.map(|content| Bucket { content, seen_ns: 7 });
            let mut granted: Vec<(usize, u64, u64)> = Vec::new();
            let mut now_ns = 7;
            for (n, calls, wait) in steps {
                now_ns += wait;
                let class = RateClass::ALL[n];
                let answer = limits.take(principal(1), class, calls, now_ns);
                prop_assert_eq!(answer.is_ok(), buckets[n].take(class.limit(), calls, now_ns));
                if let Err(retry_after) = answer {
                    // The hint is exact: a nanosecond earlier it is still too early.
                    prop_assert!(limits.take(principal(1), class, calls, now_ns + retry_after - 1).is_err());
                    now_ns += retry_after;
                    prop_assert_eq!(limits.take(principal(1), class, calls, now_ns), Ok(()));
                    prop_assert!(buckets[n].take(class.limit(), calls, now_ns));
                }
                granted.push((n, now_ns, u64::from(calls)));
                let limit = class.limit();
                let mut calls = 0;
                for (_, since, taken) in granted.iter().rev().filter(|(other, ..)| *other == n) {
                    calls += taken;
                    prop_assert!(calls <= u64::from(limit.burst) + (now_ns - since) / limit.interval_ns);
                }
            }
        }
    }

    #[test]
    fn buckets_are_bounded_and_nobody_loses_his() {
        let mut limits = RateLimits::default();
        let class = RateClass::Standard;
        let interval_ns = class.limit().interval_ns;
        for n in 0..MAX_BUCKETS as u32 {
            assert_eq!(limits.take(principal(n), class, 1 + n % 2, 1), Ok(()));
        }
        let newcomer = principal(MAX_BUCKETS as u32);
        assert_eq!(limits.take(newcomer, class, 1, 1), Err(interval_ns), "until the first one is full");
        assert_eq!(limits.take(newcomer, class, 1, 1 + interval_ns), Ok(()));
        assert_eq!(limits.full_at.len(), MAX_BUCKETS);
        let used = class.limit().burst - 1;
        assert_eq!(limits.take(principal(1), class, used, 1 + interval_ns), Ok(()), "one of two is back");
        assert!(limits.take(principal(1), class, 1, 1 + interval_ns).is_err());
        assert_eq!(limits.take(principal(1), class, class.limit().burst + 1, u64::MAX), Err(u64::MAX));
    }
}
