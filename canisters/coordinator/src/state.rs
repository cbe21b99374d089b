//! The canister's state: what stable memory holds, and its cache in the heap.

use std::cell::RefCell;

use canister_common::cbor::Cbor;
use ic_stable_structures::{DefaultMemoryImpl, StableCell};
use serde::{Deserialize, Serialize};
use shared_types::coordinator::{CoordinatorConfig, CoordinatorInitArgs};
use shared_types::model::ModelRecord;

use crate::meaning::Vectors;
use crate::memory::{Memories, Memory};
use crate::proposal::Asked;
use crate::store::Store;

/// What the canister was installed with; absent only before `init` has run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Settings(Option<CoordinatorInitArgs>);

/// What the canister knows.
pub struct State {
    settings: StableCell<Cbor<Settings>, Memory>,
    /// The workspaces.
    pub store: Store,
    /// The repository's Active models when it was asked last, and when that was.
    pub catalogue: (Vec<ModelRecord>, u64),
    /// Vectors of roles.
    pub vectors: Vectors,
    /// When the planner's model was asked.
    pub asked: Asked,
}

impl State {
    fn open(memories: Memories) -> Self {
        Self {
            settings: StableCell::init(memories.settings, Cbor::<Settings>::default()),
            store: Store::open(memories.store),
            catalogue: (Vec::new(), 0),
            vectors: Vectors::default(),
            asked: Asked::default(),
        }
    }

    /// Sets up a new coordinator.
    pub fn install(&mut self, args: CoordinatorInitArgs) {
        self.settings.set(Cbor(Settings(Some(args))));
    }

    /// What the canister was installed with.
    pub fn settings(&self) -> &CoordinatorInitArgs {
        self.settings.get().0.0.as_ref().expect("`init` runs before any other method")
    }

    /// Changes limits and times.
    pub fn set_config(&mut self, config: CoordinatorConfig) {
        let settings = CoordinatorInitArgs { config, ..self.settings().clone() };
        self.install(settings);
    }
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State::open(Memories::of(DefaultMemoryImpl::default())));
}

/// Reads the state.
pub fn read<R>(f: impl FnOnce(&State) -> R) -> R {
    STATE.with_borrow(f)
}

/// Changes the state.
pub fn mutate<R>(f: impl FnOnce(&mut State) -> R) -> R {
    STATE.with_borrow_mut(f)
}
