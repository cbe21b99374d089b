//! Where a forward pass spends its instructions.

/// A part of a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Products of the layers' matrices, tables not included.
    Products,
    /// Rounding inputs and building their look-up tables.
    Tables,
    /// Keys and values put into the cache and read from it.
    Attention,
    /// The head, its tables included.
    Head,
    /// Embedding, norms, rotary embedding, activations, sums.
    Rest,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 5] = [Self::Products, Self::Tables, Self::Attention, Self::Head, Self::Rest];
}

/// Counts by the parts of all passes that it was part of. The meter is the caller's: the engine has no clock.
#[derive(Clone, Debug)]
pub struct Profile {
    meter: fn() -> u64,
    last: u64,
    counts: [u64; Part::ALL.len()],
}

impl Profile {
    /// A profile by `meter`, which must never go back.
    pub fn new(meter: fn() -> u64) -> Self {
        Self { meter, last: 0, counts: [0; Part::ALL.len()] }
    }

    /// What `part` took, in the meter's unit.
    pub fn count(&self, part: Part) -> u64 {
        self.counts[part as usize]
    }

    /// What comes next is counted from here.
    pub(super) fn start(&mut self) {
        self.last = (self.meter)();
    }

    /// What came since the last call belongs to `part`.
    pub(super) fn end(&mut self, part: Part) {
        let now = (self.meter)();
        self.counts[part as usize] += now.saturating_sub(self.last);
        self.last = now;
    }
}
