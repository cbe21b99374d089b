//! Which calls are under way: each is made by one message at a time.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::thread::LocalKey;

/// The keys of the calls that are under way. In the heap: after an upgrade nobody waits for an answer.
pub type UnderWay<K> = RefCell<BTreeSet<K>>;

/// The right to make a call; given back on drop, also when the message that takes the answer traps.
pub struct Turn<K: Ord + Copy + 'static> {
    key: K,
    under_way: &'static LocalKey<UnderWay<K>>,
}

impl<K: Ord + Copy> Turn<K> {
    /// The right to make the call of `key`, unless it is under way.
    pub fn take(under_way: &'static LocalKey<UnderWay<K>>, key: K) -> Option<Self> {
        // Lazily: a turn that is not taken must not be given back.
        under_way.with_borrow_mut(|keys| keys.insert(key)).then(|| Self { key, under_way })
    }
}

impl<K: Ord + Copy> Drop for Turn<K> {
    fn drop(&mut self) {
        self.under_way.with_borrow_mut(|keys| keys.remove(&self.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static UNDER_WAY: UnderWay<u64> = const { RefCell::new(BTreeSet::new()) };
    }

    #[test]
    fn a_turn_is_taken_once_and_given_back() {
        let turn = Turn::take(&UNDER_WAY, 1);
        assert!(turn.is_some());
        assert!((0..2).all(|_| Turn::take(&UNDER_WAY, 1).is_none()), "asking does not give it back");
        assert!(Turn::take(&UNDER_WAY, 2).is_some(), "another call");
        drop(turn);
        assert!(Turn::take(&UNDER_WAY, 1).is_some());
    }
}
