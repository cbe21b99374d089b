//! Creating and deleting agents, as a machine that decides on steps and hears of their outcome.
//!
//! The machine makes no call. [`Agents::next`] names the step that an agent needs, the caller journals it with
//! [`Agents::begun`], performs it, and reports with [`Agents::completed`]. Whatever fails or is repeated, every canister
//! that a step created is an agent's, or a spare, or deleted: none is forgotten.

use std::ops::Bound;

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::storable::Blob;
use ic_stable_structures::{StableBTreeMap, StableCell, StableLog};
use shared_types::factory::{
    AgentPage, AgentQuota, AgentRecord, AgentState, AgentStep, CreateAgentArgs, FactoryError, JournalArgs,
    JournalEntry, JournalPage, ListAgentsArgs, MAX_KEY_BYTES, StepPhase,
};
use shared_types::{Digest, FieldError, paging};

use crate::memory::{AgentMemories, Memory};

/// An owner's key: a tuple in stable memory needs a bounded type.
type KeyBytes = Blob<MAX_KEY_BYTES>;

/// Agents that one look for unfinished ones finds.
const MAX_UNFINISHED: usize = 100;

fn key_bytes(key: &str) -> Option<KeyBytes> {
    KeyBytes::try_from(key.as_bytes()).ok()
}

/// The key in the journal for canisters of the pool; their owner is the factory.
pub const POOL_KEY: &str = "pool";

/// Agents of all owners, spare canisters and the journal.
pub struct Agents {
    by_owner: StableBTreeMap<(Principal, KeyBytes), Cbor<AgentRecord>, Memory>,
    spares: StableBTreeMap<Principal, (), Memory>,
    unfinished: StableBTreeMap<(Principal, KeyBytes), (), Memory>,
    pool_begun: StableCell<u64, Memory>,
    journal: StableLog<Cbor<JournalEntry>, Memory, Memory>,
}

/// What came of a step that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// What was asked for.
    AsAsked,
    /// As asked, with this many cycles added.
    Granted(u128),
    /// As asked: this many cycles came back.
    CyclesReturned(u128),
    /// Quota is reserved under this number.
    Reserved(u64),
    /// The number asked for belongs to a reservation that has ended: another one is needed.
    ReservationEnded,
    /// There is no quota, for this reason. Nothing is reserved.
    NoQuota(String),
    /// A new canister exists, without cycles.
    Created(Principal),
    /// The canister that the step was for does not exist any more.
    Gone,
}

/// What an agent needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The step is to be performed on the canister; only [`AgentStep::Create`] may come without one.
    Step(AgentStep, Option<Principal>),
    /// Nothing: the agent runs, or its creation failed.
    Nothing,
    /// Nothing: the agent is gone.
    Gone,
}

impl Agents {
    /// Opens what the memories hold.
    pub fn open(memories: AgentMemories) -> Self {
        Self {
            by_owner: StableBTreeMap::init(memories.agents),
            spares: StableBTreeMap::init(memories.spares),
            unfinished: StableBTreeMap::init(memories.unfinished),
            pool_begun: StableCell::init(memories.pool, 0),
            journal: StableLog::init(memories.journal_index, memories.journal_data),
        }
    }

    /// Agents of all owners.
    pub fn len(&self) -> u64 {
        self.by_owner.len()
    }

    /// Whether there is no agent.
    pub fn is_empty(&self) -> bool {
        self.by_owner.is_empty()
    }

    /// Canisters without code that wait for the next creation.
    pub fn spares(&self) -> u64 {
        self.spares.len()
    }

    /// Agents that something is to be done for though nobody asks: quota to settle or give back, an upgrade, a stop or a start that
    /// was interrupted.
    pub fn unfinished(&self) -> Vec<(Principal, String)> {
        let keys = self.unfinished.keys().take(MAX_UNFINISHED);
        keys.map(|(owner, key)| (owner, String::from_utf8_lossy(key.as_slice()).into_owned())).collect()
    }

    /// Whether something is to be done for the agent though nobody asks.
    pub fn is_unfinished(&self, owner: Principal, key: &str) -> bool {
        self.get(owner, key).is_ok_and(|record| is_unfinished(&record))
    }

    /// Creations for the pool that were begun and not heard of.
    pub fn pool_begun(&self) -> u64 {
        *self.pool_begun.get()
    }

    /// Journals that a canister is about to be created for the pool of `factory`.
    pub fn pool_creation_begun(&mut self, factory: Principal, now_ns: u64) {
        self.pool_begun.set(self.pool_begun() + 1);
        self.write(factory, POOL_KEY, None, AgentStep::Create, StepPhase::Begun, now_ns);
    }

    /// Journals the outcome of a creation for the pool; a canister becomes a spare.
    pub fn pool_creation_ended(
        &mut self,
        factory: Principal,
        outcome: Result<Principal, String>,
        now_ns: u64,
    ) {
        self.pool_begun.set(self.pool_begun().saturating_sub(1));
        let (canister, phase) = match outcome {
            Ok(canister) => (Some(canister), StepPhase::Done),
            Err(reason) => (None, StepPhase::Failed { reason }),
        };
        if let Some(canister) = canister {
            self.spares.insert(canister, ());
        }
        self.write(factory, POOL_KEY, canister, AgentStep::Create, phase, now_ns);
    }

    /// Journals which creations for the pool have lost their answers, given how many are under way.
    pub fn note_lost_pool_creations(&mut self, factory: Principal, under_way: u64, now_ns: u64) {
        for _ in under_way..self.pool_begun() {
            self.write(factory, POOL_KEY, None, AgentStep::Create, StepPhase::Unknown, now_ns);
        }
        if self.pool_begun() > under_way {
            self.pool_begun.set(under_way);
        }
    }

    /// Enters the wish for an agent, or finds the agent that the same wish made before. A creation that failed begins
    /// again. `coordinator` is who asks in the owner's place, `quota` what a new creation takes from the owner's.
    ///
    /// # Errors
    /// [`FactoryError::InvalidField`] for the key, [`FactoryError::KeyReused`], [`FactoryError::InProgress`] while the
    /// agent is being deleted, or the quota of a creation that failed is not given back, [`FactoryError::TooManyAgents`].
    #[expect(clippy::too_many_arguments, reason = "what a wish consists of")]
    pub fn request(
        &mut self,
        owner: Principal,
        coordinator: Option<Principal>,
        args: &CreateAgentArgs,
        quota: Option<AgentQuota>,
        template: Digest,
        max_agents: u32,
        now_ns: u64,
    ) -> Result<(), FactoryError> {
        FieldError::check_text("key", &args.key, MAX_KEY_BYTES).map_err(FactoryError::InvalidField)?;
        if let Ok(mut record) = self.get(owner, &args.key) {
            let differs = [
                ("model_canister", record.model_canister != args.model_canister),
                ("model_id", record.model_id != args.model_id),
                ("template", args.template.is_some_and(|wanted| wanted != record.template)),
            ];
            if let Some((field, _)) = differs.iter().find(|(_, differs)| *differs) {
                return Err(FactoryError::KeyReused { key: record.key, field: (*field).to_owned() });
            }
            return match record.state {
                AgentState::Deleting => Err(FactoryError::InProgress { key: record.key }),
                // What the failed creation holds may have been given back without an answer: it is good for nothing more.
                AgentState::Failed { .. } if is_held(record.quota) => {
                    Err(FactoryError::InProgress { key: record.key })
                }
                AgentState::Failed { .. } => {
                    // A newer default template may be what makes the repetition succeed.
                    record.template = template;
                    record.state = AgentState::Creating;
                    record.quota = record.quota.or(quota);
                    self.put(record);
                    Ok(())
                }
                _ => {
                    self.note_lost_creation(&record, now_ns);
                    Ok(())
                }
            };
        }
        let agents = self.of_owner(owner, None).count() as u32;
        if agents >= max_agents {
            return Err(FactoryError::TooManyAgents { agents });
        }
        self.put(AgentRecord {
            key: args.key.clone(),
            owner,
            coordinator,
            canister: None,
            state: AgentState::Creating,
            template,
            model_canister: args.model_canister,
            model_id: args.model_id,
            created_at_ns: now_ns,
            quota,
            granted_cycles: 0,
            refund_cycles: 0,
            topped_up_at_ns: None,
        });
        Ok(())
    }

    /// Enters the wish that an agent be stopped (`runs` is false) or started. One that is already as wished stays as it is.
    ///
    /// # Errors
    /// [`FactoryError::UnknownAgent`]; [`FactoryError::WrongState`] while it is created, upgraded or deleted.
    pub fn request_running(&mut self, owner: Principal, key: &str, runs: bool) -> Result<(), FactoryError> {
        let mut record = self.get(owner, key)?;
        record.state = match record.state {
            AgentState::Running | AgentState::Stopping | AgentState::Stopped | AgentState::Starting => {
                match (runs, &record.state) {
                    (true, AgentState::Running) | (false, AgentState::Stopped) => return Ok(()),
                    (true, _) => AgentState::Starting,
                    (false, _) => AgentState::Stopping,
                }
            }
            state => return Err(FactoryError::WrongState { key: record.key, state }),
        };
        self.put(record);
        Ok(())
    }

    /// Enters the wish that an agent get another template. An upgrade that was interrupted goes on to this template.
    ///
    /// # Errors
    /// [`FactoryError::UnknownAgent`]; [`FactoryError::WrongState`] unless it runs or is stopped.
    pub fn request_upgrade(
        &mut self,
        owner: Principal,
        key: &str,
        template: Digest,
    ) -> Result<(), FactoryError> {
        let mut record = self.get(owner, key)?;
        let restart = match record.state {
            AgentState::Running => true,
            AgentState::Stopped => false,
            AgentState::Upgrading { restart, .. } => restart,
            state => return Err(FactoryError::WrongState { key: record.key, state }),
        };
        record.state = AgentState::Upgrading { template, restart };
        self.put(record);
        Ok(())
    }

    /// Takes note that the owner has an agent topped up.
    ///
    /// # Errors
    /// [`FactoryError::UnknownAgent`]; [`FactoryError::ToppedUp`] if that was less than `interval_ns` ago.
    pub fn request_top_up(
        &mut self,
        owner: Principal,
        key: &str,
        interval_ns: u64,
        now_ns: u64,
    ) -> Result<(), FactoryError> {
        let mut record = self.get(owner, key)?;
        if let Some(after_ns) = record.topped_up_at_ns.map(|last| last.saturating_add(interval_ns))
            && now_ns < after_ns
        {
            return Err(FactoryError::ToppedUp { key: record.key, after_ns });
        }
        record.topped_up_at_ns = Some(now_ns);
        self.put(record);
        Ok(())
    }

    /// Journals what came of adding cycles, which is no part of a longer way.
    ///
    /// # Errors
    /// [`FactoryError::UnknownAgent`].
    pub fn topped_up(
        &mut self,
        owner: Principal,
        key: &str,
        outcome: Result<u128, String>,
        now_ns: u64,
    ) -> Result<AgentRecord, FactoryError> {
        let mut record = self.get(owner, key)?;
        let phase = match outcome {
            Ok(cycles) => {
                record.granted_cycles = record.granted_cycles.saturating_add(cycles);
                StepPhase::Done
            }
            Err(reason) => {
                record.topped_up_at_ns = None;
                StepPhase::Failed { reason }
            }
        };
        self.write(owner, key, record.canister, AgentStep::TopUp, phase, now_ns);
        self.put(record.clone());
        Ok(record)
    }

    /// Enters the wish that an agent be deleted.
    ///
    /// # Errors
    /// [`FactoryError::UnknownAgent`].
    pub fn request_deletion(&mut self, owner: Principal, key: &str, now_ns: u64) -> Result<(), FactoryError> {
        let mut record = self.get(owner, key)?;
        self.note_lost_creation(&record, now_ns);
        record.state = AgentState::Deleting;
        self.put(record);
        Ok(())
    }

    /// Journals that a creation has no known outcome. A request for the agent begins while no other is under way, so a creation
    /// that has begun, its quota being reserved, and brought no canister has lost its answer.
    fn note_lost_creation(&mut self, record: &AgentRecord, now_ns: u64) {
        let reserves = matches!(record.quota, Some(AgentQuota::Needed | AgentQuota::Asked(_)));
        if record.state == AgentState::Creating && record.canister.is_none() && !reserves {
            self.write(record.owner, &record.key, None, AgentStep::Create, StepPhase::Unknown, now_ns);
        }
    }

    /// Whether a canister is an agent's.
    pub fn is_agents(&self, canister: Principal) -> bool {
        self.by_owner.values().any(|record| record.0.canister == Some(canister))
    }

    /// Takes a canister without code among the spares.
    pub fn adopt(&mut self, canister: Principal) {
        self.spares.insert(canister, ());
    }

    /// What the agent needs next, given the last step that this request has performed and whether it succeeded.
    pub fn next(&mut self, owner: Principal, key: &str, last: Option<(AgentStep, bool)>) -> Next {
        let Ok(mut record) = self.get(owner, key) else { return Next::Gone };
        let canister = record.canister;
        match (&record.state, canister) {
            (AgentState::Creating, _)
                if matches!(record.quota, Some(AgentQuota::Needed | AgentQuota::Asked(_))) =>
            {
                Next::Step(AgentStep::Reserve, canister)
            }
            (AgentState::Creating, None) => {
                // A spare belongs to the agent from the moment it is chosen, before anything is awaited.
                if let Some((spare, ())) = self.spares.pop_first() {
                    record.canister = Some(spare);
                    self.put(record);
                    return Next::Step(AgentStep::Create, Some(spare));
                }
                Next::Step(AgentStep::Create, None)
            }
            (AgentState::Creating, canister) => Next::Step(AgentStep::Create, canister),
            (AgentState::Installing, canister) => Next::Step(AgentStep::Install, canister),
            (AgentState::Failed { step: AgentStep::Install, .. }, Some(canister)) => {
                Next::Step(AgentStep::Uninstall, Some(canister))
            }
            (AgentState::Failed { .. }, canister)
                if is_held(record.quota) && last != Some((AgentStep::Release, false)) =>
            {
                Next::Step(AgentStep::Release, canister)
            }
            (AgentState::Running, canister)
                if matches!(record.quota, Some(AgentQuota::Reserved(_)))
                    && last != Some((AgentStep::Settle, false)) =>
            {
                Next::Step(AgentStep::Settle, canister)
            }
            (AgentState::Running | AgentState::Stopped | AgentState::Failed { .. }, _) => Next::Nothing,
            (AgentState::Stopping, canister) => Next::Step(AgentStep::Stop, canister),
            (AgentState::Starting, canister) => Next::Step(AgentStep::Start, canister),
            (AgentState::Upgrading { .. }, canister) => Next::Step(
                match last {
                    None => AgentStep::Stop,
                    Some((AgentStep::Stop, true)) => AgentStep::Upgrade,
                    _ => AgentStep::Start,
                },
                canister,
            ),
            (AgentState::Deleting, None) => match record.quota {
                _ if record.refund_cycles > 0 => Next::Step(AgentStep::Refund, None),
                quota if is_held(quota) => Next::Step(AgentStep::Release, None),
                Some(AgentQuota::Charged(_)) => Next::Step(AgentStep::ReturnQuota, None),
                _ => {
                    if let Some(key) = key_bytes(key) {
                        self.by_owner.remove(&(owner, key));
                        self.unfinished.remove(&(owner, key));
                    }
                    Next::Gone
                }
            },
            // Whether it was charged may not be known: the answer may have been lost. It is charged, once, before its canister,
            // by which it is given back, is gone.
            (AgentState::Deleting, canister) if matches!(record.quota, Some(AgentQuota::Reserved(_))) => {
                Next::Step(AgentStep::Settle, canister)
            }
            (AgentState::Deleting, canister) => Next::Step(
                match last {
                    Some((AgentStep::Start, _)) => AgentStep::ReturnFunds,
                    Some((AgentStep::ReturnFunds, _)) => AgentStep::ReturnCycles,
                    Some((AgentStep::ReturnCycles, true)) => AgentStep::Stop,
                    // Deleting a canister burns its cycles, so one that kept them becomes a spare instead: once its quota, which goes by
                    // the canister, is given back. The next agent that has it is charged by it again.
                    Some((AgentStep::ReturnCycles, false))
                        if matches!(record.quota, Some(AgentQuota::Charged(_))) =>
                    {
                        AgentStep::ReturnQuota
                    }
                    Some((AgentStep::ReturnCycles, false) | (AgentStep::ReturnQuota, true)) => {
                        AgentStep::Uninstall
                    }
                    Some((AgentStep::Stop, _)) => AgentStep::Delete,
                    // A deletion or an upgrade that was interrupted may have stopped it.
                    _ => AgentStep::Start,
                },
                canister,
            ),
        }
    }

    /// Journals that a step is about to be performed.
    pub fn begun(&mut self, owner: Principal, key: &str, step: AgentStep, now_ns: u64) {
        let record = self.get(owner, key).ok();
        let index = self.journal.len();
        let canister = record.as_ref().and_then(|record| record.canister);
        self.write(owner, key, canister, step, StepPhase::Begun, now_ns);
        let Some(mut record) = record else { return };
        match step {
            AgentStep::Reserve if record.quota == Some(AgentQuota::Needed) => {
                record.quota = Some(AgentQuota::Asked(index));
            }
            // Cycles that were sent can't be asked for again, so they are no longer owed from here on.
            AgentStep::Refund => record.refund_cycles = 0,
            _ => return,
        }
        self.put(record);
    }

    /// Journals the outcome of a step and moves the agent on.
    ///
    /// # Errors
    /// [`FactoryError::StepFailed`] when the request must end here.
    pub fn completed(
        &mut self,
        owner: Principal,
        key: &str,
        step: AgentStep,
        outcome: Result<Done, String>,
        now_ns: u64,
    ) -> Result<(), FactoryError> {
        let mut record = self.get(owner, key)?;
        let phase = match &outcome {
            Ok(Done::NoQuota(reason)) | Err(reason) => StepPhase::Failed { reason: reason.clone() },
            Ok(_) => StepPhase::Done,
        };
        let canister = match &outcome {
            Ok(Done::Created(canister)) => Some(*canister),
            _ => record.canister,
        };
        self.write(owner, key, canister, step, phase, now_ns);

        let ends = match outcome {
            Ok(done) => self.succeeded(&mut record, step, done),
            Err(reason) => self.failed(&mut record, step, reason),
        };
        self.put(record);
        ends.map_or(Ok(()), |reason| Err(FactoryError::StepFailed { step, reason }))
    }

    /// What follows from a step that was performed; the reason if the request must end here.
    fn succeeded(&mut self, record: &mut AgentRecord, step: AgentStep, done: Done) -> Option<String> {
        match (step, done) {
            // It is known from now on; the next step, of the same name, adds cycles.
            (_, Done::Created(canister)) => record.canister = Some(canister),
            (_, Done::Gone) => {
                record.canister = None;
                record.state = match record.state {
                    AgentState::Creating | AgentState::Installing => AgentState::Creating,
                    AgentState::Deleting => AgentState::Deleting,
                    _ => AgentState::Failed { step, reason: "the canister does not exist".to_owned() },
                };
            }
            (AgentStep::Reserve, Done::Reserved(id)) => record.quota = Some(AgentQuota::Reserved(id)),
            (AgentStep::Reserve, Done::ReservationEnded) => record.quota = Some(AgentQuota::Needed),
            (AgentStep::Reserve, Done::NoQuota(reason)) => {
                record.quota = None;
                record.state = AgentState::Failed { step, reason: reason.clone() };
                return Some(reason);
            }
            (AgentStep::Create, done) => {
                if let Done::Granted(cycles) = done {
                    record.granted_cycles = cycles;
                }
                record.state = AgentState::Installing;
            }
            (AgentStep::Install, _) => {
                record.state = AgentState::Running;
                if let (Some(AgentQuota::ByCoordinator), Some(canister)) = (record.quota, record.canister) {
                    record.quota = Some(AgentQuota::Charged(canister));
                }
            }
            (AgentStep::Settle, _) => record.quota = record.canister.map(AgentQuota::Charged),
            (AgentStep::Release | AgentStep::ReturnQuota, _) => record.quota = None,
            (AgentStep::Uninstall, _) => self.spare(record.canister.take()),
            (AgentStep::ReturnCycles, Done::CyclesReturned(cycles)) => {
                let owed = cycles.saturating_sub(record.granted_cycles);
                record.refund_cycles = record.refund_cycles.saturating_add(owed);
                record.granted_cycles = record.granted_cycles.saturating_sub(cycles);
            }
            (AgentStep::Delete, _) => record.canister = None,
            (AgentStep::Stop, _) if record.state == AgentState::Stopping => {
                record.state = AgentState::Stopped;
            }
            (AgentStep::Start, _) => match record.state {
                AgentState::Starting | AgentState::Upgrading { restart: true, .. } => {
                    record.state = AgentState::Running;
                }
                AgentState::Upgrading { restart: false, .. } => record.state = AgentState::Stopping,
                _ => {}
            },
            (AgentStep::Upgrade, _) => {
                if let AgentState::Upgrading { template, .. } = record.state {
                    record.template = template;
                }
            }
            _ => {}
        }
        None
    }

    /// What follows from a step that failed; the reason if the request must end here.
    fn failed(&mut self, record: &mut AgentRecord, step: AgentStep, reason: String) -> Option<String> {
        let is_upgraded = matches!(record.state, AgentState::Upgrading { .. });
        match step {
            AgentStep::Settle if record.state == AgentState::Deleting => Some(reason),
            // The agent keeps its cycles, or the watch tries it again.
            AgentStep::ReturnCycles | AgentStep::Settle | AgentStep::TopUp => None,
            AgentStep::Stop | AgentStep::Upgrade if is_upgraded => None,
            // It may have been running, and what comes next says so if not.
            AgentStep::Start if record.state == AgentState::Deleting => None,
            AgentStep::Release if record.state != AgentState::Deleting => None,
            // The canister stays the agent's: creation or deletion goes on from here when it is asked for again.
            AgentStep::Stop
            | AgentStep::Start
            | AgentStep::Delete
            | AgentStep::Uninstall
            | AgentStep::Upgrade
            | AgentStep::Release
            | AgentStep::ReturnFunds
            | AgentStep::ReturnQuota
            | AgentStep::Refund => Some(reason),
            AgentStep::Reserve => {
                record.state = AgentState::Failed { step, reason: reason.clone() };
                Some(reason)
            }
            AgentStep::Create => {
                self.spare(record.canister.take());
                record.state = AgentState::Failed { step, reason };
                None
            }
            AgentStep::Install => {
                record.state = AgentState::Failed { step, reason };
                None
            }
        }
    }

    fn spare(&mut self, canister: Option<Principal>) {
        if let Some(canister) = canister {
            self.spares.insert(canister, ());
        }
    }

    /// Owes the owner cycles again that could not be sent.
    pub fn refund_failed(&mut self, owner: Principal, key: &str, cycles: u128) {
        if let Ok(record) = self.get(owner, key) {
            self.put(AgentRecord { refund_cycles: cycles, ..record });
        }
    }

    /// An agent.
    ///
    /// # Errors
    /// [`FactoryError::UnknownAgent`].
    pub fn get(&self, owner: Principal, key: &str) -> Result<AgentRecord, FactoryError> {
        let record = key_bytes(key).and_then(|key| self.by_owner.get(&(owner, key)));
        record.map(|record| record.0).ok_or_else(|| FactoryError::UnknownAgent { key: key.to_owned() })
    }

    /// A page of an owner's agents.
    pub fn list(&self, owner: Principal, args: &ListAgentsArgs) -> AgentPage {
        let (agents, next) =
            paging::page(self.of_owner(owner, args.after.as_deref()), args.limit, |agent| agent.key.clone());
        AgentPage { agents, next }
    }

    /// A page of the journal.
    pub fn journal(&self, args: &JournalArgs) -> JournalPage {
        let first = args.after.map_or(0, |after| after.saturating_add(1));
        let rest =
            (first..self.journal.len()).filter_map(|index| self.journal.get(index)).map(|entry| entry.0);
        let (entries, next) = paging::page(rest, args.limit, |entry| entry.index);
        JournalPage { entries, next }
    }

    /// The owner's agents whose key is greater than `after`.
    fn of_owner(&self, owner: Principal, after: Option<&str>) -> impl Iterator<Item = AgentRecord> {
        // An `after` longer than any key begins with all that matters for the order.
        let mut from = after.unwrap_or_default().as_bytes();
        from = &from[..from.len().min(MAX_KEY_BYTES)];
        let from = (owner, KeyBytes::try_from(from).unwrap_or_default());
        let rest = self.by_owner.range(from..).map(|entry| entry.value().0);
        let after = after.map(str::to_owned);
        rest.take_while(move |record| record.owner == owner)
            .filter(move |record| Some(&record.key) != after.as_ref())
    }

    /// Agents from `after` on, at most `limit`, in the order of owners and keys.
    pub fn from(&self, after: Option<(Principal, &str)>, limit: usize) -> Vec<AgentRecord> {
        let start = match after {
            Some((owner, key)) => {
                key_bytes(key).map_or(Bound::Unbounded, |key| Bound::Excluded((owner, key)))
            }
            None => Bound::Unbounded,
        };
        self.by_owner.range((start, Bound::Unbounded)).take(limit).map(|entry| entry.value().0).collect()
    }

    /// Whether an agent has this template, or gets it.
    pub fn any_has(&self, template: &Digest) -> bool {
        let has = |record: &AgentRecord| {
            record.template == *template
                && !matches!(record.state, AgentState::Failed { .. } | AgentState::Deleting)
        };
        self.by_owner.values().any(|record| has(&record.0))
    }

    fn put(&mut self, record: AgentRecord) {
        // `request` lets no longer key in.
        let Some(key) = key_bytes(&record.key) else { return };
        let at = (record.owner, key);
        if is_unfinished(&record) {
            self.unfinished.insert(at, ());
        } else {
            self.unfinished.remove(&at);
        }
        self.by_owner.insert(at, Cbor(record));
    }

    fn write(
        &mut self,
        owner: Principal,
        key: &str,
        canister: Option<Principal>,
        step: AgentStep,
        phase: StepPhase,
        time_ns: u64,
    ) {
        let index = self.journal.len();
        let entry = JournalEntry { index, time_ns, owner, key: key.to_owned(), canister, step, phase };
        // Without room for the journal nothing may be awaited: the message is rolled back.
        self.journal.append(&Cbor(entry)).unwrap_or_else(|error| panic!("the journal can't grow: {error:?}"));
    }
}

/// Whether `econ` may hold quota for a creation.
fn is_held(quota: Option<AgentQuota>) -> bool {
    matches!(quota, Some(AgentQuota::Asked(_) | AgentQuota::Reserved(_)))
}

/// Whether something is to be done for the agent though nobody asks.
fn is_unfinished(record: &AgentRecord) -> bool {
    match record.state {
        AgentState::Stopping | AgentState::Starting | AgentState::Upgrading { .. } => true,
        AgentState::Running => matches!(record.quota, Some(AgentQuota::Reserved(_))),
        AgentState::Failed { .. } => is_held(record.quota),
        AgentState::Deleting => record.canister.is_none(),
        AgentState::Creating | AgentState::Installing | AgentState::Stopped => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memories;
    use ic_stable_structures::DefaultMemoryImpl;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const MAX_AGENTS: u32 = 3;

    fn open(memory: &DefaultMemoryImpl) -> Agents {
        Agents::open(Memories::of(memory.clone()).agents)
    }

    fn owner(who: u8) -> Principal {
        Principal::from_slice(&[who])
    }

    fn args(key: &str) -> CreateAgentArgs {
        CreateAgentArgs {
            key: key.to_owned(),
            model_canister: owner(90),
            model_id: Digest::ZERO,
            config: None,
            template: None,
            owner: None,
            profile: None,
        }
    }

    fn request(agents: &mut Agents, who: u8, args: &CreateAgentArgs, most: u32) -> Result<(), FactoryError> {
        agents.request(owner(who), None, args, Some(AgentQuota::Needed), Digest::ZERO, most, 0)
    }

    /// What becomes of a step.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fate {
        Succeeds,
        Fails,
        /// It succeeds, but its answer is lost: the request ends there.
        Unanswered,
    }

    #[derive(Clone, Copy, Debug)]
    enum Wish {
        Create,
        Delete,
        Stop,
        Start,
        Upgrade,
    }

    fn wishes() -> impl Strategy<Value = Wish> {
        prop_oneof![
            6 => Just(Wish::Create),
            3 => Just(Wish::Delete),
            1 => Just(Wish::Stop),
            1 => Just(Wish::Start),
            1 => Just(Wish::Upgrade)
        ]
    }

    fn fates() -> impl Strategy<Value = Fate> {
        prop_oneof![6 => Just(Fate::Succeeds), 2 => Just(Fate::Fails), 1 => Just(Fate::Unanswered)]
    }

    /// Canisters as the Internet Computer has them.
    #[derive(Default)]
    struct World {
        created: u32,
        alive: BTreeSet<Principal>,
        with_code: BTreeSet<Principal>,
        /// Created, but nobody has heard of it.
        lost: BTreeSet<Principal>,
        /// Reservations at `econ`, by number; the number is the key. `None` when it was given back.
        reserved: BTreeMap<u64, Option<Principal>>,
        /// Agents that are charged.
        charged: BTreeSet<Principal>,
        /// Agents that may live at the same time; 0 for any number.
        most: usize,
    }

    impl World {
        /// What of the quota is taken.
        fn taken(&self) -> usize {
            self.reserved.values().flatten().count() + self.charged.len()
        }

        /// `owner` stands for the reservation in `reserved`.
        fn perform(&mut self, step: AgentStep, canister: Option<Principal>, record: &AgentRecord) -> Done {
            match (step, record.quota) {
                (AgentStep::Reserve, Some(AgentQuota::Asked(number))) => {
                    return match self.reserved.get(&number) {
                        Some(Some(_)) => Done::Reserved(number),
                        Some(None) => Done::ReservationEnded,
                        None if self.most > 0 && self.taken() >= self.most => {
                            Done::NoQuota("no quota".to_owned())
                        }
                        None => {
                            self.reserved.insert(number, Some(record.owner));
                            Done::Reserved(number)
                        }
                    };
                }
                (AgentStep::Settle, Some(AgentQuota::Reserved(number))) => {
                    self.reserved.insert(number, None);
                    self.charged.extend(canister);
                    return Done::AsAsked;
                }
                (AgentStep::Release, Some(AgentQuota::Asked(number) | AgentQuota::Reserved(number))) => {
                    self.reserved.insert(number, None);
                    return Done::AsAsked;
                }
                (AgentStep::ReturnQuota, Some(AgentQuota::Charged(agent))) => {
                    self.charged.remove(&agent);
                    return Done::AsAsked;
                }
                (AgentStep::Refund, _) => return Done::AsAsked,
                _ => {}
            }
            let Some(canister) = canister else {
                assert_eq!(step, AgentStep::Create, "only creation comes without a canister");
                self.created += 1;
                let id = Principal::from_slice(&[100, self.created as u8]);
                self.alive.insert(id);
                return Done::Created(id);
            };
            if !self.alive.contains(&canister) {
                return Done::Gone;
            }
            match step {
                AgentStep::Install => {
                    self.with_code.insert(canister);
                }
                AgentStep::Uninstall => {
                    self.with_code.remove(&canister);
                }
                AgentStep::Delete => {
                    self.alive.remove(&canister);
                    self.with_code.remove(&canister);
                }
                _ => {}
            }
            Done::AsAsked
        }
    }

    /// Drives a request until it ends or loses an answer, as when an upgrade cuts it off.
    fn drive(
        agents: &mut Agents,
        world: &mut World,
        who: u8,
        key: &str,
        fates: &mut impl Iterator<Item = Fate>,
    ) {
        let mut last = None;
        while let Next::Step(step, canister) = agents.next(owner(who), key, last) {
            agents.begun(owner(who), key, step, 1);
            let record = agents.get(owner(who), key).unwrap();
            let outcome = match fates.next().unwrap_or(Fate::Succeeds) {
                Fate::Succeeds => Ok(world.perform(step, canister, &record)),
                Fate::Fails => Err("refused".to_owned()),
                Fate::Unanswered => {
                    if let Done::Created(id) = world.perform(step, canister, &record) {
                        world.lost.insert(id);
                    }
                    return;
                }
            };
            last = Some((step, outcome.is_ok()));
            if agents.completed(owner(who), key, step, outcome, 2).is_err() {
                return;
            }
        }
    }

    /// Creations without a known outcome, as the journal has them.
    fn unknown_creations(agents: &Agents) -> usize {
        let entries = (0..agents.journal.len()).filter_map(|index| agents.journal.get(index));
        entries.filter(|entry| entry.0.phase == StepPhase::Unknown).count()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn no_canister_is_forgotten(
            requests in prop::collection::vec((0u8..2, 0usize..4, wishes()), 1..40),
            fates in prop::collection::vec(fates(), 0..160),
            most in 0usize..6,
        ) {
            let keys = ["a", "b", "c", "d"];
            let memory = DefaultMemoryImpl::default();
            let mut agents = open(&memory);
            let mut world = World { most, ..World::default() };
            let mut fates = fates.into_iter();
            for (who, key, wish) in requests {
                let asked = match wish {
                    Wish::Create => request(&mut agents, who, &args(keys[key]), MAX_AGENTS),
                    Wish::Delete => agents.request_deletion(owner(who), keys[key], 0),
                    Wish::Stop => agents.request_running(owner(who), keys[key], false),
                    Wish::Start => agents.request_running(owner(who), keys[key], true),
                    Wish::Upgrade => agents.request_upgrade(owner(who), keys[key], Digest::of(b"new")),
                };
                if asked.is_ok() {
                    drive(&mut agents, &mut world, who, keys[key], &mut fates);
                }
                agents = open(&memory);

                let mut known: Vec<Principal> = agents.spares.keys().collect();
                for who in 0..2 {
                    let page = agents.list(owner(who), &ListAgentsArgs { after: None, limit: 100 });
                    prop_assert!(page.agents.len() as u32 <= MAX_AGENTS);
                    for agent in page.agents {
                        prop_assert_eq!(agent.owner, owner(who));
                        if agent.state == AgentState::Running {
                            prop_assert!(world.with_code.contains(&agent.canister.unwrap()));
                        }
                        known.extend(agent.canister);
                    }
                }
                let unique: BTreeSet<_> = known.iter().copied().collect();
                prop_assert_eq!(unique.len(), known.len(), "a canister has one place");
                // A deletion whose answer was lost is known when it is asked for again.
                let mut accounted = unique;
                accounted.retain(|canister| world.alive.contains(canister));
                accounted.extend(&world.lost);
                prop_assert_eq!(accounted, world.alive.clone());
                prop_assert!(most == 0 || world.taken() <= most, "never more than the quota");
            }
            // What was interrupted is finished without anybody asking.
            for (who, key) in agents.unfinished() {
                drive(&mut agents, &mut world, who.as_slice()[0], &key, &mut std::iter::empty());
            }
            prop_assert_eq!(agents.unfinished(), []);
            let records = agents.from(None, 100);
            for record in &records {
                if record.state == AgentState::Running {
                    prop_assert!(world.charged.contains(&record.canister.unwrap()), "what runs is charged");
                }
            }
            // Asked again, every agent is created or deleted, and each lost creation is in the journal.
            for (who, key) in (0..2).flat_map(|who| keys.map(|key| (who, key))) {
                if agents.request_deletion(owner(who), key, 0).is_ok() {
                    drive(&mut agents, &mut world, who, key, &mut std::iter::empty());
                }
                prop_assert!(agents.get(owner(who), key).is_err());
            }
            prop_assert_eq!(world.taken(), 0, "quota is given back");
            prop_assert_eq!(unknown_creations(&agents), world.lost.len());
            for lost in &world.lost {
                prop_assert!(!agents.is_agents(*lost));
                agents.adopt(*lost);
            }
            prop_assert_eq!(agents.spares.keys().collect::<BTreeSet<_>>(), world.alive.clone());
        }
    }

    #[test]
    fn a_repeated_request_makes_one_agent_and_uses_the_spare() {
        let mut agents = open(&DefaultMemoryImpl::default());
        let mut world = World::default();
        // Creation succeeds, installation fails, the canister becomes a spare.
        request(&mut agents, 1, &args("tale"), 1).unwrap();
        drive(
            &mut agents,
            &mut world,
            1,
            "tale",
            &mut [Fate::Succeeds, Fate::Succeeds, Fate::Succeeds, Fate::Fails].into_iter(),
        );
        let failed = agents.get(owner(1), "tale").unwrap();
        assert!(matches!(failed.state, AgentState::Failed { step: AgentStep::Install, .. }));
        assert_eq!((failed.canister, agents.spares()), (None, 1));
        for _ in 0..2 {
            request(&mut agents, 1, &args("tale"), 1).unwrap();
            drive(&mut agents, &mut world, 1, "tale", &mut std::iter::empty());
        }
        assert_eq!(agents.get(owner(1), "tale").unwrap().state, AgentState::Running);
        assert_eq!((world.created, agents.spares(), agents.len()), (1, 0, 1));

        let other = CreateAgentArgs { model_id: Digest::of(b"other"), ..args("tale") };
        let refused = request(&mut agents, 1, &other, 1).unwrap_err();
        assert_eq!(refused, FactoryError::KeyReused { key: "tale".to_owned(), field: "model_id".to_owned() });
        let refused = request(&mut agents, 1, &args("second"), 1).unwrap_err();
        assert_eq!(refused, FactoryError::TooManyAgents { agents: 1 });
        assert!(agents.get(owner(2), "tale").is_err(), "another owner's agent is unknown");

        let page = agents.journal(&JournalArgs { after: None, limit: 100 });
        let steps: Vec<_> =
            page.entries.iter().filter(|e| e.phase == StepPhase::Begun).map(|e| e.step).collect();
        let prepared = [AgentStep::Create, AgentStep::Install];
        let (reserved, settled) = ([AgentStep::Reserve], [AgentStep::Settle]);
        let failed = [AgentStep::Uninstall, AgentStep::Release];
        let steps_expected =
            [&reserved[..], &[AgentStep::Create], &prepared, &failed, &reserved, &prepared, &settled]
                .concat();
        assert_eq!(steps, steps_expected, "a new canister is known before it is prepared");
    }

    #[test]
    fn a_deletion_that_failed_goes_on() {
        let mut agents = open(&DefaultMemoryImpl::default());
        let mut world = World::default();
        request(&mut agents, 1, &args("tale"), 1).unwrap();
        drive(&mut agents, &mut world, 1, "tale", &mut std::iter::empty());
        // The agent starts, returns its tokens and its cycles and stops, but can't be deleted at first.
        agents.request_deletion(owner(1), "tale", 0).unwrap();
        drive(
            &mut agents,
            &mut world,
            1,
            "tale",
            &mut [Fate::Succeeds, Fate::Succeeds, Fate::Succeeds, Fate::Succeeds, Fate::Fails].into_iter(),
        );
        assert_eq!(agents.get(owner(1), "tale").unwrap().state, AgentState::Deleting);
        let refused = request(&mut agents, 1, &args("tale"), 1).unwrap_err();
        assert_eq!(refused, FactoryError::InProgress { key: "tale".to_owned() });
        agents.request_deletion(owner(1), "tale", 0).unwrap();
        drive(&mut agents, &mut world, 1, "tale", &mut std::iter::empty());
        assert!(world.alive.is_empty() && agents.is_empty());
        let refused = agents.request_deletion(owner(1), "tale", 0).unwrap_err();
        assert_eq!(refused, FactoryError::UnknownAgent { key: "tale".to_owned() });
    }

    #[test]
    fn an_agent_that_keeps_its_cycles_becomes_a_spare() {
        let mut agents = open(&DefaultMemoryImpl::default());
        let mut world = World::default();
        request(&mut agents, 1, &args("tale"), 1).unwrap();
        drive(&mut agents, &mut world, 1, "tale", &mut std::iter::empty());
        agents.request_deletion(owner(1), "tale", 0).unwrap();
        drive(
            &mut agents,
            &mut world,
            1,
            "tale",
            &mut [Fate::Succeeds, Fate::Succeeds, Fate::Fails].into_iter(),
        );
        assert_eq!((agents.len(), agents.spares(), world.alive.len(), world.with_code.len()), (0, 1, 1, 0));
    }

    #[test]
    fn tokens_that_can_t_be_returned_keep_the_agent() {
        let mut agents = open(&DefaultMemoryImpl::default());
        let mut world = World::default();
        request(&mut agents, 1, &args("tale"), 1).unwrap();
        drive(&mut agents, &mut world, 1, "tale", &mut std::iter::empty());
        agents.request_deletion(owner(1), "tale", 0).unwrap();
        drive(&mut agents, &mut world, 1, "tale", &mut [Fate::Succeeds, Fate::Fails].into_iter());
        let record = agents.get(owner(1), "tale").unwrap();
        assert_eq!(
            (&record.state, world.with_code.len()),
            (&AgentState::Deleting, 1),
            "its code can still pay"
        );
    }

    #[test]
    fn who_has_no_quota_has_no_agent() {
        let mut agents = open(&DefaultMemoryImpl::default());
        let mut world = World { most: 1, ..World::default() };
        for key in ["first", "second"] {
            request(&mut agents, 1, &args(key), 5).unwrap();
            drive(&mut agents, &mut world, 1, key, &mut std::iter::empty());
        }
        let refused = AgentState::Failed { step: AgentStep::Reserve, reason: "no quota".to_owned() };
        assert_eq!(agents.get(owner(1), "second").unwrap().state, refused);
        assert_eq!((world.created, world.taken()), (1, 1), "nothing was created for it");
    }

    #[test]
    fn an_upgrade_that_fails_leaves_the_agent_running_as_it_was() {
        let mut agents = open(&DefaultMemoryImpl::default());
        let mut world = World::default();
        request(&mut agents, 1, &args("tale"), 1).unwrap();
        drive(&mut agents, &mut world, 1, "tale", &mut std::iter::empty());
        for (fates, template) in [
            (vec![Fate::Fails], Digest::ZERO),
            (vec![Fate::Succeeds, Fate::Fails], Digest::ZERO),
            (vec![], Digest::of(b"new")),
        ] {
            agents.request_upgrade(owner(1), "tale", Digest::of(b"new")).unwrap();
            drive(&mut agents, &mut world, 1, "tale", &mut fates.into_iter());
            let record = agents.get(owner(1), "tale").unwrap();
            assert_eq!((record.state, record.template), (AgentState::Running, template));
        }
        // One that is stopped stays so.
        agents.request_running(owner(1), "tale", false).unwrap();
        drive(&mut agents, &mut world, 1, "tale", &mut std::iter::empty());
        agents.request_upgrade(owner(1), "tale", Digest::ZERO).unwrap();
        drive(&mut agents, &mut world, 1, "tale", &mut std::iter::empty());
        let record = agents.get(owner(1), "tale").unwrap();
        assert_eq!((record.state, record.template), (AgentState::Stopped, Digest::ZERO));
    }
}
