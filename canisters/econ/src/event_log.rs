//! The event log: the last [`SEGMENT_EVENTS`] events, and at most as many before them.
//!
//! Two segments take turns. When the newer one is full, the older one is emptied and becomes the newer one: dropping millions of events
//! costs no more than appending one. An event keeps its index, whatever was dropped before it.

use canister_common::cbor::Cbor;
use ic_stable_structures::{StableCell, StableLog};
use serde::{Deserialize, Serialize};

use crate::events::Event;
use crate::memory::Memory;

/// Events of a segment: with some 200 bytes each, the log takes 2 GB at most.
pub const SEGMENT_EVENTS: u64 = 5_000_000;

/// Where the segments stand.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Turns {
    /// Index of the first event that is kept.
    first: u64,
    /// Which segment is the older one: 0 or 1.
    older: usize,
}

/// The memories of a segment.
#[derive(Clone)]
pub struct SegmentMemories {
    /// Offsets of its events.
    pub index: Memory,
    /// Its events.
    pub data: Memory,
}

/// The memories of an event log.
pub struct EventLogMemories {
    /// Those of the segments.
    pub segments: [SegmentMemories; 2],
    /// Where the segments stand.
    pub turns: Memory,
}

/// The last events.
pub struct EventLog {
    segments: [StableLog<Cbor<Event>, Memory, Memory>; 2],
    memories: [SegmentMemories; 2],
    turns: StableCell<Cbor<Turns>, Memory>,
    segment_events: u64,
}

impl EventLog {
    /// Opens what the memories hold; a segment is full with `segment_events`.
    pub fn open(memories: EventLogMemories, segment_events: u64) -> Self {
        let segments = memories.segments.clone().map(|it| StableLog::init(it.index, it.data));
        let turns = StableCell::init(memories.turns, Cbor::default());
        Self { segments, memories: memories.segments, turns, segment_events }
    }

    fn turns(&self) -> Turns {
        self.turns.get().0
    }

    /// Index of the first event that is kept.
    pub fn first(&self) -> u64 {
        self.turns().first
    }

    /// Events recorded so far, those that are not kept any more included: the index of the next one.
    pub fn len(&self) -> u64 {
        self.first() + self.segments[0].len() + self.segments[1].len()
    }

    /// Whether nothing was recorded yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The event at `index`, while it is kept.
    pub fn get(&self, index: u64) -> Option<Event> {
        let Turns { first, older } = self.turns();
        let offset = index.checked_sub(first)?;
        let before = self.segments[older].len();
        let event = match offset.checked_sub(before) {
            None => self.segments[older].get(offset),
            Some(offset) => self.segments[1 - older].get(offset),
        };
        event.map(|event| event.0)
    }

    /// Appends an event.
    ///
    /// # Panics
    /// When stable memory can't grow: the message is then rolled back, so that nothing happens without its entry.
    pub fn append(&mut self, event: Event) {
        let Turns { mut first, mut older } = self.turns();
        if self.segments[1 - older].len() >= self.segment_events {
            first += self.segments[older].len();
            let SegmentMemories { index, data } = self.memories[older].clone();
            self.segments[older] = StableLog::new(index, data);
            older = 1 - older;
            self.turns.set(Cbor(Turns { first, older }));
        }
        self.segments[1 - older]
            .append(&Cbor(event))
            .unwrap_or_else(|error| panic!("the event log can't grow: {error:?}"));
    }
}

#[cfg(test)]
mod tests {
    use candid::Principal;
    use ic_stable_structures::DefaultMemoryImpl;
    use ic_stable_structures::memory_manager::MemoryManager;

    use super::*;
    use crate::events::EventKind;
    use crate::memory::Memories;

    #[test]
    fn the_last_events_are_kept_and_no_more() {
        let memory = MemoryManager::init_with_bucket_size(DefaultMemoryImpl::default(), 1);
        let open = || EventLog::open(Memories::divided(&memory).events, 4);
        let mut log = open();
        assert!(log.is_empty());
        let event = |n: u64| Event { time_ns: n, kind: EventKind::ServiceRevoked(Principal::anonymous()) };
        for n in 0..50 {
            log.append(event(n));
            if n % 7 == 0 {
                log = open();
            }
            let kept = log.len() - log.first();
            assert_eq!(log.len(), n + 1);
            assert!((4.min(n + 1)..=8).contains(&kept), "{kept} of {} are kept", n + 1);
            for index in 0..n + 10 {
                let expected = (log.first()..log.len()).contains(&index).then(|| event(index));
                assert_eq!(log.get(index), expected);
            }
        }
    }
}
