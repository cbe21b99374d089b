//! How much of the heap weights and caches may take, and which layers are there.
//!
//! A forward pass goes over the layers in their order, again and again. So what is used next is known, and the layer that
//! leaves is the one whose next use is farthest (Belady, 1966): the one used last. The layer that was not used
//! for the longest time, which LRU would take, is the very next one (`docs/adr/0007-which-layer-leaves-the-heap.md`).

/// Watches for memory that gets short, and lowers what weights and caches may take. It is in the heap itself: after an
/// upgrade, which empties the heap, it begins anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Monitor {
    /// Bytes, if memory was short.
    ceiling: Option<u64>,
    shortages: u32,
}

impl Monitor {
    /// Bytes that weights and caches may take of the `configured` ones.
    pub fn budget(&self, configured: u64) -> u64 {
        self.ceiling.map_or(configured, |ceiling| ceiling.min(configured))
    }

    /// How often memory was short.
    pub fn shortages(&self) -> u32 {
        self.shortages
    }

    /// Memory was short, and the weights take less from now on.
    pub fn packed(&mut self) {
        self.shortages = self.shortages.saturating_add(1);
    }

    /// Memory was short with `budget` bytes allowed and `wanted` ones of use, of which `least` have to be there: half is allowed
    /// from now on. Returns whether that is less than before.
    pub fn short(&mut self, budget: u64, wanted: u64, least: u64) -> bool {
        self.shortages = self.shortages.saturating_add(1);
        let before = budget.min(wanted);
        let after = (before / 2).max(least);
        if after < before {
            self.ceiling = Some(after);
        }
        after < before
    }
}

/// The places of a model's layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Bytes of each layer: as stored until it was there for the first time.
    bytes: Vec<u64>,
    here: Vec<bool>,
    brought: u64,
}

impl Places {
    /// Empty places for layers of so many bytes.
    pub fn new(bytes: Vec<u64>) -> Self {
        Self { here: vec![false; bytes.len()], bytes, brought: 0 }
    }

    /// Layers in all.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of a layer.
    pub fn bytes_of(&self, layer: usize) -> u64 {
        self.bytes.get(layer).copied().unwrap_or(0)
    }

    /// Bytes of the largest layer.
    pub fn largest(&self) -> u64 {
        self.bytes.iter().max().copied().unwrap_or(0)
    }

    /// Layers that are here.
    pub fn here(&self) -> usize {
        self.here.iter().filter(|here| **here).count()
    }

    /// Bytes of the layers that are here.
    pub fn bytes(&self) -> u64 {
        self.bytes.iter().zip(&self.here).filter(|(_, here)| **here).map(|(bytes, _)| bytes).sum()
    }

    /// Layers that have come.
    pub fn brought(&self) -> u64 {
        self.brought
    }

    /// A layer has come, with so many bytes.
    pub fn came(&mut self, layer: usize, bytes: u64) {
        (self.bytes[layer], self.here[layer]) = (bytes, true);
        self.brought += 1;
    }

    /// A layer has left.
    pub fn left(&mut self, layer: usize) {
        self.here[layer] = false;
    }

    /// Which of the layers that are here is used last when `next` comes next; `next` itself stays.
    pub fn farthest(&self, next: usize) -> Option<usize> {
        let layers = self.len();
        (1..layers).rev().map(|distance| (next + distance) % layers).find(|layer| self.here[*layer])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Leaves {
        Farthest,
        LeastRecentlyUsed,
    }

    /// Layers that have to come in the third of three passes over `layers` of one byte with room for `room`.
    fn misses(layers: usize, room: u64, rule: Leaves) -> u64 {
        let mut places = Places::new(vec![1; layers]);
        let mut used: Vec<usize> = Vec::new();
        let mut before = 0;
        for _ in 0..3 {
            before = places.brought();
            for layer in 0..layers {
                if !places.here[layer] {
                    while places.bytes() + 1 > room {
                        let leaves = match rule {
                            Leaves::Farthest => places.farthest(layer),
                            Leaves::LeastRecentlyUsed => {
                                used.iter().copied().find(|layer| places.here[*layer])
                            }
                        };
                        let Some(leaves) = leaves else { break };
                        places.left(leaves);
                    }
                    places.came(layer, 1);
                }
                used.retain(|other| *other != layer);
                used.push(layer);
            }
        }
        places.brought() - before
    }

    /// The figures of `docs/adr/0007-which-layer-leaves-the-heap.md`.
    #[test]
    fn the_order_of_use_saves_what_lru_brings_again() {
        for (room, farthest) in [(28, 0), (27, 1), (21, 7), (14, 14), (7, 21), (1, 28)] {
            assert!(misses(28, room, Leaves::Farthest).abs_diff(farthest) <= 1, "room for {room}");
            let lru = if room == 28 { 0 } else { 28 };
            assert_eq!(misses(28, room, Leaves::LeastRecentlyUsed), lru, "room for {room}");
        }
    }

    proptest! {
        /// Of what is here, only `next` and layers that are used before it stay longer.
        #[test]
        fn what_leaves_is_used_last(here in prop::collection::vec(any::<bool>(), 1..40), next in 0..40usize) {
            let layers = here.len();
            let next = next % layers;
            let mut places = Places::new(vec![7; layers]);
            for layer in (0..layers).filter(|layer| here[*layer]) {
                places.came(layer, 9);
            }
            prop_assert_eq!(places.bytes(), 9 * places.here() as u64);
            let wait = |layer: usize| (layer + layers - next) % layers;
            let expected = (0..layers).filter(|layer| here[*layer] && *layer != next).max_by_key(|layer| wait(*layer));
            prop_assert_eq!(places.farthest(next), expected);
        }

        /// However often memory is short, what has to be there stays allowed, and the end is reached soon.
        #[test]
        fn shortages_end_at_the_least(configured in 1u64..1 << 40, wanted in 1u64..1 << 36, least in 1u64..1 << 30) {
            let mut monitor = Monitor::default();
            let mut times = 0;
            while monitor.short(monitor.budget(configured), wanted, least) {
                times += 1;
                prop_assert!(monitor.budget(configured) >= least.min(configured));
                prop_assert!(monitor.budget(configured) < configured.min(wanted));
            }
            prop_assert!(times <= 36, "{times}");
            prop_assert_eq!(monitor.shortages(), times + 1);
        }
    }
}
