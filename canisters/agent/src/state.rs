//! The canister's state: what stable memory holds, and the engine in the heap, which is a cache of it.

use std::cell::RefCell;

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::{DefaultMemoryImpl, StableCell};
use serde::{Deserialize, Serialize};
use shared_types::ModelId;
use shared_types::agent::AgentInitArgs;
use shared_types::agent::phase::AgentPhase;
use shared_types::agent::profile::AgentProfile;

use crate::conversations::Conversations;
use crate::engine::{Engine, Limits};
use crate::facts::Facts;
use crate::jobs::Jobs;
use crate::memory::{Memories, Memory};
use crate::receipts::Issuer;
use crate::store::ModelStore;
use crate::talk;
use crate::wallet::Wallet;

/// What the agent was installed with; absent only before `init` has run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Settings(Option<AgentInitArgs>);

/// What the owner makes of the agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Character {
    /// What it is for.
    pub profile: AgentProfile,
    /// Where it is in its life. An agent of a version without phases is Active.
    pub phase: AgentPhase,
}

/// What stable memory holds.
pub struct State {
    settings: StableCell<Cbor<Settings>, Memory>,
    character: StableCell<Cbor<Character>, Memory>,
    /// What the agent knows.
    pub facts: Facts,
    /// What was said.
    pub conversations: Conversations,
    /// Ledgers and payments.
    pub wallet: Wallet,
    /// Jobs and their tokens.
    pub jobs: Jobs,
    /// The model's manifest and shards.
    pub store: ModelStore,
}

impl State {
    fn open(memories: Memories) -> Self {
        let settings = StableCell::init(memories.settings, Cbor::<Settings>::default());
        let issuer = issuer(settings.get().0.0.as_ref());
        Self {
            settings,
            character: StableCell::init(memories.character, Cbor::default()),
            facts: Facts::open(memories.facts),
            conversations: Conversations::open(memories.conversations),
            wallet: Wallet::open(memories.wallet),
            jobs: Jobs::open(memories.jobs, issuer),
            store: ModelStore::open(
                memories.load,
                memories.stored_shards,
                memories.manifest,
                memories.shards,
            ),
        }
    }

    /// Sets up a new agent.
    pub fn install(&mut self, args: AgentInitArgs) {
        self.jobs.set_issuer(issuer(Some(&args)));
        let profile = args.profile.clone().unwrap_or_default();
        self.character.set(Cbor(Character { profile, phase: args.phase.unwrap_or_default() }));
        // The profile changes, and is kept once.
        self.settings.set(Cbor(Settings(Some(AgentInitArgs { profile: None, ..args }))));
    }

    /// What the owner makes of the agent.
    pub fn character(&self) -> &Character {
        &self.character.get().0
    }

    /// Changes what the agent is for.
    pub fn set_profile(&mut self, profile: AgentProfile) {
        let phase = self.character().phase;
        self.character.set(Cbor(Character { profile, phase }));
    }

    /// Moves the agent on to another phase of its life.
    pub fn set_phase(&mut self, phase: AgentPhase) {
        let profile = self.character().profile.clone();
        self.character.set(Cbor(Character { profile, phase }));
    }

    /// Says who may submit jobs beside the owner.
    pub fn set_coordinator(&mut self, coordinator: Option<Principal>) {
        let settings = AgentInitArgs { coordinator, ..self.settings().clone() };
        self.settings.set(Cbor(Settings(Some(settings))));
    }

    /// Owner, model and limits.
    pub fn settings(&self) -> &AgentInitArgs {
        self.settings.get().0.0.as_ref().expect("`init` runs before any other method")
    }

    /// What the configuration allows the engine.
    pub fn limits(&self) -> Limits {
        let config = &self.settings().config;
        Limits::new(config.heap_bytes, config.batch_width)
    }

    /// Whether `caller` is whom the agent obeys.
    pub fn is_owner(&self, caller: Principal) -> bool {
        self.settings().owner == caller
    }
}

/// This canister with the model that it was installed for, which never changes.
fn issuer(settings: Option<&AgentInitArgs>) -> Issuer {
    let model_id = settings.map_or(ModelId::ZERO, |settings| settings.model_id);
    Issuer { agent: ic_cdk::api::canister_self(), model_id }
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State::open(Memories::of(DefaultMemoryImpl::default())));
    static ENGINE: RefCell<Engine> = RefCell::new(Engine::default());
}

/// Reads the state.
pub fn read<R>(f: impl FnOnce(&State) -> R) -> R {
    STATE.with_borrow(f)
}

/// Changes the state; has conversations take in the jobs that have ended, and certifies the receipts if there are new ones.
pub fn mutate<R>(f: impl FnOnce(&mut State) -> R) -> R {
    STATE.with_borrow_mut(|state| {
        let result = f(state);
        for job_id in state.jobs.take_ended() {
            talk::job_ended(state, job_id);
        }
        if let Some(root) = state.jobs.take_changed_root() {
            ic_cdk::api::certified_data_set(root);
        }
        result
    })
}

/// Uses the engine.
pub fn with_engine<R>(f: impl FnOnce(&mut Engine) -> R) -> R {
    ENGINE.with_borrow_mut(f)
}
