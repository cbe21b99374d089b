//! Whether a message may take another step, learnt from the steps before.
//!
//! Nothing says beforehand what a step (a layer of a pass) takes: that depends on the model, on how many positions it
//! works on, and on how many are in the cache already. So steps are measured, and one is taken only if one as long
//! as the longest of this slice and the slice before would fit, and an eighth more: attention grows with the
//! context, and from one step of a layer to the next it never grows by more.

/// The longest steps of the slices before; kept in the heap, where a new canister's first slice finds none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    longest: u64,
}

/// The pace of one message; `meter` counts its instructions.
pub struct Pace<'a> {
    meter: &'a dyn Fn() -> u64,
    budget: u64,
    last: u64,
    /// The longest step of the slice before.
    before: u64,
    /// The longest step of this one.
    longest: u64,
}

impl<'a> Pace<'a> {
    /// A message that may use `budget` instructions, of which some may be used already.
    pub fn new(meter: &'a dyn Fn() -> u64, budget: u64, before: Steps) -> Self {
        Self { meter, budget, last: meter(), before: before.longest, longest: 0 }
    }

    /// Instructions of the message when they were looked at last.
    pub fn used(&self) -> u64 {
        self.last
    }

    /// Measures the step that was taken, and says whether another one fits.
    pub fn may_go_on(&mut self) -> bool {
        let now = (self.meter)();
        self.longest = self.longest.max(now.saturating_sub(self.last));
        self.last = now;
        self.fits(self.expected())
    }

    /// Whether a step of so many instructions fits.
    pub fn fits(&self, instructions: u64) -> bool {
        self.last.saturating_add(instructions) <= self.budget
    }

    /// Whether a first step fits.
    pub fn may_begin(&self) -> bool {
        self.fits(self.expected())
    }

    fn expected(&self) -> u64 {
        let longest = self.longest.max(self.before);
        longest.saturating_add(longest / 8)
    }

    /// What the next slice learns from this one.
    pub fn steps(&self) -> Steps {
        Steps { longest: self.longest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    proptest! {
        /// Steps that grow by less than an eighth from one to the next stay within the budget, whatever the slices are.
        #[test]
        fn growing_steps_stay_within_the_budget(
            first in 1_000u64..1_000_000,
            growth in prop::collection::vec(0u64..=125, 1..200),
            budget in 2_000_000u64..20_000_000,
            overhead in 0u64..500_000,
        ) {
            let mut cost = first;
            let mut growth = growth.into_iter();
            let mut steps = Steps::default();
            'slices: loop {
                let used = Cell::new(overhead);
                let meter = || used.get();
                let mut pace = Pace::new(&meter, budget, steps);
                let mut taken = 0;
                loop {
                    used.set(used.get() + cost);
                    taken += 1;
                    let Some(more) = growth.next() else { break 'slices };
                    cost += cost * more / 1_000;
                    if !pace.may_go_on() {
                        break;
                    }
                }
                // The first step of a slice is always taken: without it there would be no progress.
                prop_assert!(taken == 1 || used.get() <= budget, "{} of {budget}", used.get());
                steps = pace.steps();
            }
        }
    }

    #[test]
    fn a_step_that_may_not_fit_is_not_begun() {
        let meter = || 100;
        assert!(Pace::new(&meter, 1_000, Steps { longest: 800 }).may_begin());
        assert!(!Pace::new(&meter, 1_000, Steps { longest: 801 }).may_begin());
    }
}
