//! The canister's state: stable memory, and the requests under way, which live no longer than the heap.

use std::cell::RefCell;
use std::collections::BTreeSet;

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::{DefaultMemoryImpl, StableCell};
use serde::{Deserialize, Serialize};
use shared_types::Digest;
use shared_types::factory::{FactoryConfig, FactoryError, FactoryInitArgs, Template};

use crate::agents::Agents;
use crate::memory::{Memories, Memory};
use crate::rollouts::Rollouts;
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
    /// The template that new agents get.
    #[serde(default)]
    pub default_template: Option<Digest>,
}

/// What stable memory holds.
pub struct State {
    settings: StableCell<Cbor<Settings>, Memory>,
    /// Agent templates.
    pub templates: Templates,
    /// Agents and spare canisters.
    pub agents: Agents,
    /// The latest rollout.
    pub rollouts: Rollouts,
}

impl State {
    fn open(memories: Memories) -> Self {
        Self {
            settings: StableCell::init(memories.settings, Cbor::default()),
            templates: Templates::open(memories.templates, memories.extents, memories.bytes),
            agents: Agents::open(memories.agents),
            rollouts: Rollouts::open(memories.rollout, memories.upgrades),
        }
    }

    /// Sets up a new factory.
    pub fn install(&mut self, args: FactoryInitArgs) {
        self.settings.set(Cbor(Settings {
            admins: args.admins,
            coordinators: Vec::new(),
            config: args.config,
            default_template: None,
        }));
    }

    /// Says who may have agents created for others.
    pub fn set_coordinators(&mut self, coordinators: Vec<Principal>) {
        let settings = Settings { coordinators, ..self.settings().clone() };
        self.settings.set(Cbor(settings));
    }

    /// Changes limits and amounts.
    pub fn set_config(&mut self, config: FactoryConfig) {
        let settings = Settings { config, ..self.settings().clone() };
        self.settings.set(Cbor(settings));
    }

    /// The template that new agents get.
    ///
    /// # Errors
    /// [`FactoryError::NoTemplate`].
    pub fn default_template(&self) -> Result<Digest, FactoryError> {
        // A factory of a version before there were rollouts has the one that was committed last.
        let last = || self.templates.committed(None).map(|template| template.sha256);
        self.settings().default_template.map_or_else(last, Ok)
    }

    /// Says which template new agents get.
    pub fn set_default_template(&mut self, template: Digest) {
        let settings = Settings { default_template: Some(template), ..self.settings().clone() };
        self.settings.set(Cbor(settings));
    }

    /// Commits a template. New agents get it if there was none, or if no agent has the one that they would get: otherwise a
    /// rollout decides.
    ///
    /// # Errors
    /// As [`Templates::commit`].
    pub fn commit_template(&mut self, sha256: &Digest, now_ns: u64) -> Result<Template, FactoryError> {
        let before = self.default_template();
        let template = self.templates.commit(sha256, now_ns)?;
        let rolls = self.rollouts.latest().is_some_and(|rollout| !rollout.state.has_ended());
        let is_used = before.as_ref().is_ok_and(|before| self.agents.any_has(before));
        self.set_default_template(before.ok().filter(|_| rolls || is_used).unwrap_or(*sha256));
        Ok(template)
    }

    /// Has new agents get the template of a rollout that is done.
    pub fn adopt_rollout_template(&mut self) {
        if let Some(rollout) = self.rollouts.latest().filter(|rollout| rollout.state.has_ended()) {
            let target = rollout.target();
            self.set_default_template(target);
        }
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

/// Requests, upgrades and creations for the pool under way.
pub fn in_progress() -> u32 {
    IN_PROGRESS.with_borrow(|set| set.len() as u32)
}

/// Whether somebody works on an agent.
pub fn is_taken(owner: Principal, key: &str) -> bool {
    IN_PROGRESS.with_borrow(|set| set.contains(&(owner, key.to_owned())))
}

/// Turns under way for agents of `owner`.
pub fn turns_of(owner: Principal) -> u64 {
    IN_PROGRESS.with_borrow(|set| set.iter().filter(|(of, _)| *of == owner).count() as u64)
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
