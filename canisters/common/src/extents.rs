//! First-fit allocation of byte ranges ("extents") in an address space that only grows at its end.

use ic_stable_structures::{Memory, StableBTreeMap};

/// The free extents below the end of what was ever allocated.
pub struct Extents<M: Memory> {
    /// Offset → length. Neighbours are merged, and no free extent touches the end.
    free: StableBTreeMap<u64, u64, M>,
    /// The end is itself kept here, under a key that no offset can have.
    end: u64,
}

/// The key under which the end of the allocated space is stored.
const END_KEY: u64 = u64::MAX;

/// The address space of 2^64 bytes is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address space is used up")]
pub struct AddressSpaceFull;

impl<M: Memory> Extents<M> {
    /// Opens the allocator that `memory` holds, or an empty one.
    pub fn init(memory: M) -> Self {
        let free = StableBTreeMap::init(memory);
        let end = free.get(&END_KEY).unwrap_or(0);
        Self { free, end }
    }

    /// The end of the allocated space: no extent reaches beyond it.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Takes `length` bytes from the first free extent that has them, else from the end; returns the offset.
    ///
    /// # Errors
    /// When the end would exceed the address space.
    pub fn allocate(&mut self, length: u64) -> Result<u64, AddressSpaceFull> {
        if length == 0 {
            return Ok(self.end);
        }
        let hole = self
            .free
            .iter()
            .map(|entry| (*entry.key(), entry.value()))
            .find(|&(at, len)| at != END_KEY && len >= length);
        if let Some((at, len)) = hole {
            self.free.remove(&at);
            if len > length {
                self.free.insert(at + length, len - length);
            }
            return Ok(at);
        }
        let at = self.end;
        self.set_end(at.checked_add(length).filter(|end| *end < END_KEY).ok_or(AddressSpaceFull)?);
        Ok(at)
    }

    /// Gives back an extent that [`Self::allocate`] returned, whole.
    pub fn release(&mut self, offset: u64, length: u64) {
        if length == 0 {
            return;
        }
        let (mut start, mut end) = (offset, offset + length);
        let before = self.free.range(..start).next_back().map(|entry| (*entry.key(), entry.value()));
        if let Some((at, _)) = before.filter(|(at, len)| at + len == start) {
            self.free.remove(&at);
            start = at;
        }
        if end != END_KEY
            && let Some(len) = self.free.remove(&end)
        {
            end += len;
        }
        if end == self.end {
            self.set_end(start);
        } else {
            self.free.insert(start, end - start);
        }
    }

    fn set_end(&mut self, end: u64) {
        self.end = end;
        self.free.insert(END_KEY, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ic_stable_structures::VectorMemory;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Allocate(u64),
        Release(prop::sample::Index),
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u64..40).prop_map(Step::Allocate),
            2 => any::<prop::sample::Index>().prop_map(Step::Release),
            1 => Just(Step::Reopen),
        ]
    }

    proptest! {
        #[test]
        fn extents_never_overlap_and_space_comes_back(steps in prop::collection::vec(step(), 0..120)) {
            let memory = VectorMemory::default();
            let mut extents = Extents::init(memory.clone());
            let mut held: Vec<(u64, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Allocate(length) => {
                        let at = extents.allocate(length).unwrap();
                        prop_assert!(held.iter().all(|&(a, l)| at + length <= a || a + l <= at || length == 0 || l == 0));
                        prop_assert!(at + length <= extents.end());
                        held.push((at, length));
                    }
                    Step::Release(which) if !held.is_empty() => {
                        let (at, length) = held.swap_remove(which.index(held.len()));
                        extents.release(at, length);
                    }
                    Step::Release(_) => {}
                    Step::Reopen => extents = Extents::init(memory.clone()),
                }
            }
            for (at, length) in held {
                extents.release(at, length);
            }
            prop_assert_eq!(extents.end(), 0, "everything was given back");
        }
    }

    #[test]
    fn the_address_space_has_an_end() {
        let mut extents = Extents::init(VectorMemory::default());
        assert_eq!(extents.allocate(u64::MAX), Err(AddressSpaceFull));
        assert_eq!(extents.allocate(10), Ok(0));
        assert_eq!(extents.allocate(u64::MAX - 5), Err(AddressSpaceFull));
    }
}
