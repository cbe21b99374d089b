//! Rate limits: how often somebody may call, and how urgently his work is treated.

use super::SECOND_NS;
use super::tiers::RateClass;
use crate::agent::Priority;

/// A token bucket: calls beyond it are refused with the time after which the next one is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Calls that a full bucket allows at once.
    pub burst: u32,
    /// Nanoseconds in which the bucket gets one call back.
    pub interval_ns: u64,
}

impl RateClass {
    /// All classes.
    pub const ALL: [Self; 3] = [Self::Standard, Self::Priority, Self::Premium];

    /// How often a principal of this class may call: 1, 5 or 20 calls a second, in bursts of a minute's worth.
    pub const fn limit(self) -> RateLimit {
        let per_second = match self {
            Self::Standard => 1,
            Self::Priority => 5,
            Self::Premium => 20,
        };
        RateLimit { burst: 60 * per_second, interval_ns: SECOND_NS / per_second as u64 }
    }

    /// The place in an agent's queue of work for an account of this class.
    pub const fn priority(self) -> Priority {
        match self {
            Self::Standard => Priority::Batch,
            Self::Priority => Priority::Standard,
            Self::Premium => Priority::RealTime,
        }
    }

    /// The place for work that asks for `wanted`: no earlier one than the class has.
    pub fn priority_for(self, wanted: Option<Priority>) -> Priority {
        wanted.map_or(self.priority(), |wanted| wanted.max(self.priority()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_class_comes_earlier_and_more_often() {
        for pair in RateClass::ALL.windows(2) {
            let [lower, higher] = [pair[0], pair[1]];
            assert!(higher.priority() < lower.priority());
            assert!(higher.limit().burst > lower.limit().burst);
            assert!(higher.limit().interval_ns < lower.limit().interval_ns);
        }
    }

    #[test]
    fn work_may_be_less_urgent_than_its_class_but_not_more() {
        assert_eq!(RateClass::Premium.priority_for(Some(Priority::Batch)), Priority::Batch);
        assert_eq!(RateClass::Premium.priority_for(None), Priority::RealTime);
        assert_eq!(RateClass::Priority.priority_for(Some(Priority::RealTime)), Priority::Standard);
        assert_eq!(RateClass::Standard.priority_for(Some(Priority::Standard)), Priority::Batch);
    }
}
