//! Rules that tests break on purpose, to show that the tests of the invariants notice.

/// A rule of which something that must never happen depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A transfer in doubt keeps its time when it is submitted again (INV-E1, INV-E2).
    TimeIsFrozen,
    /// A lost answer is reconciled, not taken as a failure (INV-E1).
    LossIsDoubt,
    /// Only a reading that begins after the window is conclusive (INV-E1).
    WindowIsWaitedFor,
    /// A refusal while a submission is in doubt says nothing about that one (INV-E1).
    RefusalKeepsDoubt,
    /// A settlement is charged as far as there is room (INV-E3).
    ChargeHasRoom,
    /// A payment that means nothing any more is given back (INV-E4).
    UselessPaymentReturns,
    /// The answer of a message that has trapped is known to be lost (INV-E5).
    LossIsNoted,
}

#[cfg(test)]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

/// Whether `rule` holds: always, outside of tests.
#[cfg(not(test))]
pub const fn holds(_: Rule) -> bool {
    true
}

/// Whether `rule` holds.
#[cfg(test)]
pub fn holds(rule: Rule) -> bool {
    BROKEN.get() != Some(rule)
}

/// Breaks a rule, or none, on this thread.
#[cfg(test)]
pub fn break_rule(rule: Option<Rule>) {
    BROKEN.set(rule);
}
