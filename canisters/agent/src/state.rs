//! The canister's state: what stable memory holds, and the engine in the heap, which is a cache of it.

use std::cell::RefCell;

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::{DefaultMemoryImpl, StableCell};
use serde::{Deserialize, Serialize};
use shared_types::ModelId;
use shared_types::agent::phase::AgentPhase;
use shared_types::agent::profile::AgentProfile;
use shared_types::agent::{AgentError, AgentInitArgs, JobRecord, SubmitJobArgs};

use crate::conversations::Conversations;
use crate::engine::{Engine, Limits};
use crate::facts::Facts;
use crate::jobs::Jobs;
use crate::memory::{Memories, Memory};
use crate::receipts::Issuer;
use crate::store::ModelStore;
use crate::wallet::Wallet;
use crate::{reservations, talk};

/// Reservations that may be open or not settled yet.
const MAX_RESERVATIONS: u64 = 512;

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

    /// `econ`, and whose quota jobs take from; none where nothing is metered.
    pub fn account(&self) -> Option<(Principal, Principal)> {
        let settings = self.settings();
        settings.quota.as_ref().map(|quota| (quota.econ, settings.owner))
    }

    /// Puts a job of `caller` into the queue, where it waits for the owner's quota if the caller has not reserved it.
    ///
    /// # Errors
    /// [`AgentError::QueueFull`] while too many reservations are not settled, and see [`Jobs::submit`].
    pub fn submit(
        &mut self,
        args: SubmitJobArgs,
        caller: Principal,
        cache_ns: u64,
        now_ns: u64,
    ) -> Result<JobRecord, AgentError> {
        let is_metered = self.settings().quota.as_ref().is_some_and(|quota| !quota.prepaid.contains(&caller));
        let reservations = self.jobs.quota().len();
        if is_metered && reservations >= MAX_RESERVATIONS {
            return Err(AgentError::QueueFull { open_jobs: reservations });
        }
        let last = self.jobs.last();
        let record = self.jobs.submit(args, caller, cache_ns, now_ns)?;
        if is_metered && record.job_id > last {
            let manifest = self.store.loaded();
            let config = manifest.as_ref().and_then(|manifest| manifest.config.as_ref());
            self.jobs.meter(record.job_id, config.map(|config| config.max_position_embeddings), now_ns);
        }
        Ok(record)
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

/// Changes the state; has conversations take in the jobs that have ended, certifies the receipts if there are new ones, and has quota
/// reserved and settled.
pub fn mutate<R>(f: impl FnOnce(&mut State) -> R) -> R {
    let (result, is_due) = STATE.with_borrow_mut(|state| {
        let result = f(state);
        for job_id in state.jobs.take_ended() {
            talk::job_ended(state, job_id);
        }
        if let Some(root) = state.jobs.take_changed_root() {
            ic_cdk::api::certified_data_set(root);
        }
        (result, state.jobs.quota_mut().take_new())
    });
    if is_due {
        reservations::schedule();
    }
    result
}

/// Uses the engine.
pub fn with_engine<R>(f: impl FnOnce(&mut Engine) -> R) -> R {
    ENGINE.with_borrow_mut(f)
}
