//! Version of the layout of stable memory, and the repository's rules.

use canister_common::cbor::Extensible;
use ic_stable_structures::{Memory, StableCell};
use serde::{Deserialize, Serialize};
use shared_types::model::Policy;

/// Version of the layout of stable memory that this code writes. It rises when older code could no longer read what newer code
/// wrote; structures, fields, roles and events that are added don't raise it.
///
/// 1: version 0.1.0, which had no settings. 2: validation, governance, versions; see [`crate::migration`].
pub const LAYOUT: u32 = 2;

#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    layout: u32,
    policy: Policy,
}

/// The settings.
pub struct Settings<M: Memory>(StableCell<Extensible<Stored>, M>);

impl<M: Memory> Settings<M> {
    /// Opens what the memory holds; nothing is what layout 1 left.
    pub fn init(memory: M) -> Self {
        let first = Stored { layout: 1, policy: Policy::default() };
        Self(StableCell::init(memory, Extensible::new(first)))
    }

    /// Version of the layout that stable memory has.
    pub fn layout(&self) -> u32 {
        self.0.get().layout
    }

    /// The rules.
    pub fn policy(&self) -> Policy {
        self.0.get().policy
    }

    /// Stable memory has the layout [`LAYOUT`] now.
    pub fn set_current_layout(&mut self) {
        self.change(|stored| stored.layout = LAYOUT);
    }

    /// Changes the rules.
    pub fn set_policy(&mut self, policy: Policy) {
        self.change(|stored| stored.policy = policy);
    }

    fn change(&mut self, change: impl FnOnce(&mut Stored)) {
        let mut stored = self.0.get().clone();
        change(&mut stored);
        self.0.set(stored);
    }
}
