//! Accounts by principal.
//!
//! A tree says where an account stands, and the account is written there, in a slot of its own. So a change costs one walk down the tree,
//! through small nodes, and not the rewriting of a leaf full of accounts.

use std::cell::RefCell;

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::storable::{Blob, Storable};
use ic_stable_structures::{StableBTreeMap, StableVec};

use crate::economy::Account;
use crate::memory::{AccountMemories, Memory};

/// Bytes of a slot: a subscribed account of three periods with a payment method and a quote takes about 900.
const SLOT_BYTES: usize = 1_280;

/// The account that was read or written last: a message is about one, and looks at it several times.
struct Last {
    principal: Principal,
    slot: Option<u64>,
    account: Account,
}

/// All accounts.
pub struct Accounts {
    places: StableBTreeMap<Principal, u64, Memory>,
    /// Accounts as CBOR; a slot is empty when it is free, or its account too large.
    slots: StableVec<Blob<SLOT_BYTES>, Memory>,
    free: StableBTreeMap<u64, (), Memory>,
    /// Accounts that are too large for their slots.
    large: StableBTreeMap<u64, Cbor<Account>, Memory>,
    last: RefCell<Option<Last>>,
}

impl Accounts {
    /// Opens what the memories hold.
    pub fn open(memories: AccountMemories) -> Self {
        Self {
            places: StableBTreeMap::init(memories.places),
            slots: StableVec::init(memories.slots),
            free: StableBTreeMap::init(memories.free),
            large: StableBTreeMap::init(memories.large),
            last: RefCell::new(None),
        }
    }

    /// Accounts that are kept.
    pub fn len(&self) -> u64 {
        self.places.len()
    }

    /// Whether the account is kept.
    pub fn contains(&self, principal: Principal) -> bool {
        self.places.contains_key(&principal)
    }

    /// An account; one that is not kept is as a new one.
    pub fn get(&self, principal: Principal) -> Account {
        let mut last = self.last.borrow_mut();
        match &*last {
            Some(last) if last.principal == principal => last.account.clone(),
            _ => {
                let slot = self.places.get(&principal);
                let account = slot.map(|slot| self.read(slot)).unwrap_or_default();
                *last = Some(Last { principal, slot, account: account.clone() });
                account
            }
        }
    }

    fn read(&self, slot: u64) -> Account {
        let stored = self.slots.get(slot).unwrap_or_default();
        if stored.as_slice().is_empty() {
            return self.large.get(&slot).map(|account| account.0).unwrap_or_default();
        }
        Cbor::from_bytes(stored.as_slice().into()).0
    }

    /// Keeps an account.
    ///
    /// # Panics
    /// When stable memory can't grow: the message is then rolled back.
    pub fn put(&mut self, principal: Principal, account: Account) {
        let known = self.last.get_mut().take().filter(|last| last.principal == principal);
        let slot = known.and_then(|last| last.slot).or_else(|| self.places.get(&principal));
        let slot = slot.unwrap_or_else(|| {
            let slot = self.free.pop_first().map_or_else(|| self.new_slot(), |(slot, ())| slot);
            self.places.insert(principal, slot);
            slot
        });
        let record = Cbor(account);
        if let Ok(bytes) = Blob::try_from(&record.to_bytes()[..]) {
            if !self.large.is_empty() {
                self.large.remove(&slot);
            }
            self.slots.set(slot, &bytes);
        } else {
            self.slots.set(slot, &Blob::default());
            self.large.insert(slot, record.clone());
        }
        *self.last.get_mut() = Some(Last { principal, slot: Some(slot), account: record.0 });
    }

    fn new_slot(&self) -> u64 {
        let slot = self.slots.len();
        self.slots.push(&Blob::default());
        slot
    }

    /// Forgets an account; it as it was.
    pub fn remove(&mut self, principal: Principal) -> Option<Account> {
        *self.last.get_mut() = None;
        let slot = self.places.remove(&principal)?;
        let account = self.read(slot);
        self.large.remove(&slot);
        self.slots.set(slot, &Blob::default());
        self.free.insert(slot, ());
        Some(account)
    }

    /// All accounts, in the order of their principals.
    #[cfg(test)]
    pub fn all(&self) -> Vec<(Principal, Account)> {
        self.places.iter().map(|entry| (*entry.key(), self.read(entry.value()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ic_stable_structures::DefaultMemoryImpl;
    use proptest::prelude::*;

    use super::*;
    use crate::memory::Memories;

    fn open(memory: &DefaultMemoryImpl) -> Accounts {
        Accounts::open(Memories::of(memory.clone()).accounts)
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// An account with so many open invoices: with many it is too large for its slot.
        Put(u8, usize),
        Remove(u8),
        Get(u8),
        Upgrade,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u8..12, prop_oneof![0usize..4, 1_000usize..2_000]).prop_map(|(who, n)| Step::Put(who, n)),
            2 => (0u8..12).prop_map(Step::Remove),
            3 => (0u8..12).prop_map(Step::Get),
            1 => Just(Step::Upgrade),
        ]
    }

    proptest! {
        #[test]
        fn accounts_are_those_of_a_map(steps in prop::collection::vec(step(), 0..80)) {
            let memory = DefaultMemoryImpl::default();
            let (mut accounts, mut model) = (open(&memory), BTreeMap::new());
            let principal = |who: u8| Principal::from_slice(&[who, 7]);
            for step in steps {
                match step {
                    Step::Put(who, invoices) => {
                        let account =
                            Account { open_invoices: (0..invoices as u64).collect(), ..Account::default() };
                        accounts.put(principal(who), account.clone());
                        model.insert(principal(who), account);
                    }
                    Step::Remove(who) => {
                        prop_assert_eq!(accounts.remove(principal(who)), model.remove(&principal(who)));
                    }
                    Step::Get(who) => {
                        let expected = model.get(&principal(who)).cloned().unwrap_or_default();
                        prop_assert_eq!(accounts.get(principal(who)), expected);
                    }
                    Step::Upgrade => accounts = open(&memory),
                }
                prop_assert_eq!(accounts.len(), model.len() as u64);
                prop_assert!(accounts.slots.len() <= 12, "slots are used again");
            }
            prop_assert_eq!(accounts.all(), model.into_iter().collect::<Vec<_>>());
        }
    }
}
