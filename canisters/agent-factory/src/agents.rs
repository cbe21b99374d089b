//! Creating and deleting agents, as a machine that decides on steps and hears of their outcome.
//!
//! The machine makes no call. [`Agents::next`] names the step that an agent needs, the caller journals it with
//! [`Agents::begun`], performs it, and reports with [`Agents::completed`]. Whatever fails or is repeated, every canister
//! that a step created is an agent's, or a spare, or deleted: none is forgotten.

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::storable::Blob;
use ic_stable_structures::{StableBTreeMap, StableLog};
use shared_types::factory::{
    AgentPage, AgentRecord, AgentState, AgentStep, CreateAgentArgs, FactoryError, JournalArgs, JournalEntry,
    JournalPage, ListAgentsArgs, MAX_KEY_BYTES, StepPhase,
};
use shared_types::{Digest, FieldError, paging};

use crate::memory::Memory;

/// An owner's key: a tuple in stable memory needs a bounded type.
type KeyBytes = Blob<MAX_KEY_BYTES>;

fn key_bytes(key: &str) -> Option<KeyBytes> {
    KeyBytes::try_from(key.as_bytes()).ok()
}

/// Agents of all owners, spare canisters and the journal.
pub struct Agents {
    by_owner: StableBTreeMap<(Principal, KeyBytes), Cbor<AgentRecord>, Memory>,
    spares: StableBTreeMap<Principal, (), Memory>,
    journal: StableLog<Cbor<JournalEntry>, Memory, Memory>,
}

/// What came of a step that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// What was asked for.
    AsAsked,
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
    pub fn open(agents: Memory, spares: Memory, journal_index: Memory, journal_data: Memory) -> Self {
        Self {
            by_owner: StableBTreeMap::init(agents),
            spares: StableBTreeMap::init(spares),
            journal: StableLog::init(journal_index, journal_data),
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

    /// Enters the wish for an agent, or finds the agent that the same wish made before. A creation that failed begins
    /// again. `coordinator` is who asks in the owner's place.
    ///
    /// # Errors
    /// [`FactoryError::InvalidField`] for the key, [`FactoryError::KeyReused`], [`FactoryError::InProgress`] while the
    /// agent is being deleted, [`FactoryError::TooManyAgents`].
    pub fn request(
        &mut self,
        owner: Principal,
        coordinator: Option<Principal>,
        args: &CreateAgentArgs,
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
                AgentState::Failed { .. } => {
                    // A newer default template may be what makes the repetition succeed.
                    record.template = template;
                    record.state = AgentState::Creating;
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
        });
        Ok(())
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
    /// that has begun and brought no canister has lost its answer.
    fn note_lost_creation(&mut self, record: &AgentRecord, now_ns: u64) {
        if record.state == AgentState::Creating && record.canister.is_none() {
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
        match (&record.state, record.canister) {
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
            (AgentState::Running | AgentState::Failed { .. }, _) => Next::Nothing,
            (AgentState::Deleting, None) => {
                if let Some(key) = key_bytes(key) {
                    self.by_owner.remove(&(owner, key));
                }
                Next::Gone
            }
            (AgentState::Deleting, canister) => Next::Step(
                match last {
                    Some((AgentStep::ReturnCycles, true)) => AgentStep::Stop,
                    // Deleting a canister burns its cycles, so one that kept them becomes a spare instead.
                    Some((AgentStep::ReturnCycles, false)) => AgentStep::Uninstall,
                    Some((AgentStep::Stop, _)) => AgentStep::Delete,
                    _ => AgentStep::ReturnCycles,
                },
                canister,
            ),
        }
    }

    /// Journals that a step is about to be performed.
    pub fn begun(&mut self, owner: Principal, key: &str, step: AgentStep, now_ns: u64) {
        let canister = self.get(owner, key).ok().and_then(|record| record.canister);
        self.write(owner, key, canister, step, StepPhase::Begun, now_ns);
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
            Ok(_) => StepPhase::Done,
            Err(reason) => StepPhase::Failed { reason: reason.clone() },
        };
        let canister = match outcome {
            Ok(Done::Created(canister)) => Some(canister),
            _ => record.canister,
        };
        self.write(owner, key, canister, step, phase, now_ns);

        match (step, outcome) {
            // It is known from now on; the next step, of the same name, adds cycles.
            (_, Ok(Done::Created(canister))) => record.canister = Some(canister),
            (_, Ok(Done::Gone)) => {
                record.canister = None;
                if record.state != AgentState::Deleting {
                    record.state = AgentState::Creating;
                }
            }
            (AgentStep::Create, Ok(_)) => record.state = AgentState::Installing,
            (AgentStep::Install, Ok(_)) => record.state = AgentState::Running,
            (AgentStep::Uninstall, Ok(_)) => {
                if let Some(canister) = record.canister.take() {
                    self.spares.insert(canister, ());
                }
            }
            (AgentStep::Delete, Ok(_)) => record.canister = None,
            (AgentStep::ReturnCycles, _) | (AgentStep::Stop, Ok(_)) => {}
            // The canister stays the agent's: creation or deletion goes on from here when it is asked for again.
            (AgentStep::Stop | AgentStep::Delete | AgentStep::Uninstall, Err(reason)) => {
                return Err(FactoryError::StepFailed { step, reason });
            }
            (AgentStep::Create, Err(reason)) => {
                if let Some(spare) = record.canister.take() {
                    self.spares.insert(spare, ());
                }
                record.state = AgentState::Failed { step, reason: reason.clone() };
                self.put(record);
                return Err(FactoryError::StepFailed { step, reason });
            }
            (AgentStep::Install, Err(reason)) => record.state = AgentState::Failed { step, reason },
        }
        self.put(record);
        Ok(())
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

    fn put(&mut self, record: AgentRecord) {
        // `request` lets no longer key in.
        if let Some(key) = key_bytes(&record.key) {
            self.by_owner.insert((record.owner, key), Cbor(record));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memories;
    use ic_stable_structures::DefaultMemoryImpl;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const MAX_AGENTS: u32 = 3;

    fn open(memory: &DefaultMemoryImpl) -> Agents {
        let memories = Memories::of(memory.clone());
        Agents::open(memories.agents, memories.spares, memories.journal_index, memories.journal_data)
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
        }
    }

    /// What becomes of a step.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fate {
        Succeeds,
        Fails,
        /// It succeeds, but its answer is lost: the request ends there.
        Unanswered,
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
    }

    impl World {
        fn perform(&mut self, step: AgentStep, canister: Option<Principal>) -> Done {
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
                AgentStep::Create | AgentStep::ReturnCycles | AgentStep::Stop => {}
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
            let outcome = match fates.next().unwrap_or(Fate::Succeeds) {
                Fate::Succeeds => Ok(world.perform(step, canister)),
                Fate::Fails => Err("refused".to_owned()),
                Fate::Unanswered => {
                    if let Done::Created(id) = world.perform(step, canister) {
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
        #[test]
        fn no_canister_is_forgotten(
            requests in prop::collection::vec((0u8..2, 0usize..4, any::<bool>()), 1..40),
            fates in prop::collection::vec(fates(), 0..120),
        ) {
            let keys = ["a", "b", "c", "d"];
            let memory = DefaultMemoryImpl::default();
            let mut agents = open(&memory);
            let mut world = World::default();
            let mut fates = fates.into_iter();
            for (who, key, create) in requests {
                let asked = if create {
                    agents.request(owner(who), None, &args(keys[key]), Digest::ZERO, MAX_AGENTS, 0)
                } else {
                    agents.request_deletion(owner(who), keys[key], 0)
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
            }
            // Asked again, every agent is created or deleted, and each lost creation is in the journal.
            for (who, key) in (0..2).flat_map(|who| keys.map(|key| (who, key))) {
                if agents.request_deletion(owner(who), key, 0).is_ok() {
                    drive(&mut agents, &mut world, who, key, &mut std::iter::empty());
                }
                prop_assert!(agents.get(owner(who), key).is_err());
            }
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
        agents.request(owner(1), None, &args("tale"), Digest::ZERO, 1, 0).unwrap();
        drive(
            &mut agents,
            &mut world,
            1,
            "tale",
            &mut [Fate::Succeeds, Fate::Succeeds, Fate::Fails].into_iter(),
        );
        let failed = agents.get(owner(1), "tale").unwrap();
        assert!(matches!(failed.state, AgentState::Failed { step: AgentStep::Install, .. }));
        assert_eq!((failed.canister, agents.spares()), (None, 1));
        for _ in 0..2 {
            agents.request(owner(1), None, &args("tale"), Digest::ZERO, 1, 0).unwrap();
            drive(&mut agents, &mut world, 1, "tale", &mut std::iter::empty());
        }
        assert_eq!(agents.get(owner(1), "tale").unwrap().state, AgentState::Running);
        assert_eq!((world.created, agents.spares(), agents.len()), (1, 0, 1));

        let other = CreateAgentArgs { model_id: Digest::of(b"other"), ..args("tale") };
        let refused = agents.request(owner(1), None, &other, Digest::ZERO, 1, 0).unwrap_err();
        assert_eq!(refused, FactoryError::KeyReused { key: "tale".to_owned(), field: "model_id".to_owned() });
        let refused = agents.request(owner(1), None, &args("second"), Digest::ZERO, 1, 0).unwrap_err();
        assert_eq!(refused, FactoryError::TooManyAgents { agents: 1 });
        assert!(agents.get(owner(2), "tale").is_err(), "another owner's agent is unknown");

        let page = agents.journal(&JournalArgs { after: None, limit: 100 });
        let steps: Vec<_> =
            page.entries.iter().filter(|e| e.phase == StepPhase::Begun).map(|e| e.step).collect();
        let prepared = [AgentStep::Create, AgentStep::Install];
        let steps_expected =
            [&[AgentStep::Create], &prepared[..], &[AgentStep::Uninstall], &prepared].concat();
        assert_eq!(steps, steps_expected, "a new canister is known before it is prepared");
    }

    #[test]
    fn a_deletion_that_failed_goes_on() {
        let mut agents = open(&DefaultMemoryImpl::default());
        let mut world = World::default();
        agents.request(owner(1), None, &args("tale"), Digest::ZERO, 1, 0).unwrap();
        drive(&mut agents, &mut world, 1, "tale", &mut std::iter::empty());
        // The agent returns its cycles and stops, but can't be deleted at first.
        agents.request_deletion(owner(1), "tale", 0).unwrap();
        drive(
            &mut agents,
            &mut world,
            1,
            "tale",
            &mut [Fate::Succeeds, Fate::Succeeds, Fate::Fails].into_iter(),
        );
        assert_eq!(agents.get(owner(1), "tale").unwrap().state, AgentState::Deleting);
        let refused = agents.request(owner(1), None, &args("tale"), Digest::ZERO, 1, 0).unwrap_err();
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
        agents.request(owner(1), None, &args("tale"), Digest::ZERO, 1, 0).unwrap();
        drive(&mut agents, &mut world, 1, "tale", &mut std::iter::empty());
        agents.request_deletion(owner(1), "tale", 0).unwrap();
        drive(&mut agents, &mut world, 1, "tale", &mut [Fate::Fails].into_iter());
        assert_eq!((agents.len(), agents.spares(), world.alive.len(), world.with_code.len()), (0, 1, 1, 0));
    }
}
