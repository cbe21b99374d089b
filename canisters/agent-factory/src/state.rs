//! The canister's state: stable memory, and the requests under way, which live no longer than the heap.

use std::cell::RefCell;
use std::collections::BTreeSet;

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::{DefaultMemoryImpl, StableCell};
use serde::{Deserialize, Serialize};
use shared_types::factory::{FactoryConfig, FactoryError, FactoryInitArgs};

use crate::agents::Agents;
use crate::memory::{Memories, Memory};
use crate::templates::Templates;

/// Who administers the factory, and its limits.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    /// Who may upload templates.
    pub admins: Vec<Principal>,
    /// Who may have agents created for others.
    #[serde(default)]
    pub coordinators: Vec<Principal>,
    /// Limits and amounts.
    pub config: FactoryConfig,
}

/// What stable memory holds.
pub struct State {
    settings: StableCell<Cbor<Settings>, Memory>,
    /// Agent templates.
    pub templates: Templates,
    /// Agents and spare canisters.
    pub agents: Agents,
}

impl State {
    fn open(memories: Memories) -> Self {
        Self {
            settings: StableCell::init(memories.settings, Cbor::default()),
            templates: Templates::open(memories.templates, memories.extents, memories.bytes),
            agents: Agents::open(
                memories.agents,
                memories.spares,
                memories.journal_index,
                memories.journal_data,
            ),
        }
    }

    /// Sets up a new factory.
    pub fn install(&mut self, args: FactoryInitArgs) {
        self.settings.set(Cbor(Settings {
            admins: args.admins,
            coordinators: Vec::new(),
            config: args.config,
        }));
    }

    /// Says who may have agents created for others.
    pub fn set_coordinators(&mut self, coordinators: Vec<Principal>) {
        let settings = Settings { coordinators, ..self.settings().clone() };
        self.settings.set(Cbor(settings));
    }

    /// Admins and limits.
    pub fn settings(&self) -> &Settings {
        &self.settings.get().0
    }
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State::open(Memories::of(DefaultMemoryImpl::default())));
    static IN_PROGRESS: RefCell<BTreeSet<(Principal, String)>> = const { RefCell::new(BTreeSet::new()) };
}

/// Reads the state.
pub fn read<R>(f: impl FnOnce(&State) -> R) -> R {
    STATE.with_borrow(f)
}

/// Changes the state.
pub fn mutate<R>(f: impl FnOnce(&mut State) -> R) -> R {
    STATE.with_borrow_mut(f)
}

/// Creations and deletions under way.
pub fn in_progress() -> u32 {
    IN_PROGRESS.with_borrow(|set| set.len() as u32)
}

/// The right to work on one agent; given back on drop, also when a message after an await traps.
#[derive(Debug)]
pub struct Turn((Principal, String));

impl Turn {
    /// Takes the turn for the agent `key` of `owner`.
    ///
    /// # Errors
    /// [`FactoryError::InProgress`] when somebody has it, [`FactoryError::Busy`] when `max_concurrent` turns are taken.
    pub fn take(owner: Principal, key: &str, max_concurrent: u32) -> Result<Self, FactoryError> {
        IN_PROGRESS.with_borrow_mut(|set| {
            let in_progress = set.len() as u32;
            let agent = (owner, key.to_owned());
            if set.contains(&agent) {
                return Err(FactoryError::InProgress { key: agent.1 });
            }
            if in_progress >= max_concurrent {
                return Err(FactoryError::Busy { in_progress });
            }
            set.insert(agent.clone());
            Ok(Self(agent))
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        IN_PROGRESS.with_borrow_mut(|set| set.remove(&self.0));
    }
}
