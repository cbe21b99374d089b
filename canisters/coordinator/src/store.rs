//! The workspaces: their events in stable memory, which are the truth, and their states in the heap, which follow from them.
//!
//! A state is rebuilt from the last snapshot and the events after it. A snapshot saves time and nothing else.

use std::collections::BTreeMap;

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::StableBTreeMap;
use shared_types::coordinator::{
    AgentState, AttemptFailure, Event, EventKind, EventPage, ProjectId, RegisteredAgent,
};
use shared_types::paging;

use crate::decide::Next;
use crate::memory::{Memory, StoreMemories};
use crate::workspace::Workspace;

/// Events between two snapshots.
const SNAPSHOT_EVENTS: u64 = 128;

/// States kept in the heap; beyond, those that have nothing to do are left to their events.
const MAX_CACHED: usize = 256;

/// Bytes of a page of events, roughly: a reply holds 2 MiB.
const MAX_PAGE_BYTES: usize = 1_000_000;

/// Events looked through for one page.
const MAX_SCANNED: usize = 2_000;

/// Erased events that a message removes at most: each takes less than a million instructions.
const REMOVED_AT_ONCE: usize = 10_000;

struct Cached {
    workspace: Workspace,
    /// Sequence number of the last snapshot.
    snapshot: u64,
}

/// All workspaces.
pub struct Store {
    events: StableBTreeMap<(Principal, u64), Cbor<Event>, Memory>,
    snapshots: StableBTreeMap<Principal, Cbor<Workspace>, Memory>,
    active: StableBTreeMap<Principal, (), Memory>,
    owners: StableBTreeMap<Principal, (), Memory>,
    canisters: StableBTreeMap<Principal, Cbor<(Principal, String)>, Memory>,
    cache: BTreeMap<Principal, Cached>,
}

impl Store {
    /// Opens what the memories hold.
    pub fn open(memories: StoreMemories) -> Self {
        Self {
            events: StableBTreeMap::init(memories.events),
            snapshots: StableBTreeMap::init(memories.snapshots),
            active: StableBTreeMap::init(memories.active),
            owners: StableBTreeMap::init(memories.owners),
            canisters: StableBTreeMap::init(memories.canisters),
            cache: BTreeMap::new(),
        }
    }

    /// Brings an owner's state into the heap, if it is not there.
    pub fn load(&mut self, owner: Principal) -> &Workspace {
        if !self.cache.contains_key(&owner) {
            if self.cache.len() >= MAX_CACHED {
                let active = &self.active;
                self.cache.retain(|owner, _| active.contains_key(owner));
            }
            let workspace = self.rebuild(owner);
            let snapshot = self.snapshots.get(&owner).map_or(0, |it| it.0.last_sequence);
            self.cache.insert(owner, Cached { workspace, snapshot });
        }
        &self.cache.get(&owner).expect("it was inserted").workspace
    }

    /// The owner's state, from the heap or from the events; for queries, which keep nothing.
    pub fn read<R>(&self, owner: Principal, f: impl FnOnce(&Workspace) -> R) -> R {
        match self.cache.get(&owner) {
            Some(cached) => f(&cached.workspace),
            None => f(&self.rebuild(owner)),
        }
    }

    fn rebuild(&self, owner: Principal) -> Workspace {
        let mut workspace = self.snapshots.get(&owner).map(|it| it.0).unwrap_or_default();
        for event in self.events_after(owner, workspace.last_sequence) {
            // Only what was applied before is in the log.
            workspace.apply(&event).unwrap_or_else(|error| panic!("the log does not replay: {}", error.0));
        }
        workspace
    }

    fn events_after(&self, owner: Principal, sequence: u64) -> impl Iterator<Item = Event> {
        let first = (owner, sequence.saturating_add(1));
        self.events.range(first..=(owner, u64::MAX)).map(|entry| entry.value().0)
    }

    /// Applies an event and records it; returns its sequence number.
    ///
    /// # Panics
    /// When the event can't have happened: the message is rolled back then.
    pub fn record(&mut self, owner: Principal, (project, kind): Next, time_ns: u64) -> u64 {
        self.load(owner);
        let cached = self.cache.get_mut(&owner).expect("it was loaded");
        let sequence = cached.workspace.last_sequence + 1;
        let event = Event { sequence, time_ns, project, kind };
        for gone in canisters_gone(&cached.workspace, &event) {
            self.canisters.remove(&gone);
        }
        if let Err(error) = cached.workspace.apply(&event) {
            panic!("{} ({:?})", error.0, event.kind);
        }
        if let EventKind::AgentCreated { agent, canister } = &event.kind {
            self.canisters.insert(*canister, Cbor((owner, agent.clone())));
        }
        if sequence == 1 {
            self.owners.insert(owner, ());
        }
        // What was erased must not be needed any more, and may be removed later.
        let erased = matches!(event.kind, EventKind::Erased { .. });
        self.events.insert((owner, sequence), Cbor(event));
        if erased || sequence - cached.snapshot >= SNAPSHOT_EVENTS {
            cached.snapshot = sequence;
            self.snapshots.insert(owner, Cbor(cached.workspace.clone()));
        }
        let is_active = cached.workspace.is_active();
        if is_active {
            self.active.insert(owner, ());
        } else {
            self.active.remove(&owner);
        }
        sequence
    }

    /// Removes events that were erased; how many are left for the next time.
    pub fn remove_erased(&mut self, owner: Principal) -> u64 {
        let erased_through = self.load(owner).erased_through;
        let erased = (owner, 0)..=(owner, erased_through);
        let keys: Vec<_> = self.events.keys_range(erased.clone()).take(REMOVED_AT_ONCE).collect();
        for key in keys {
            self.events.remove(&key);
        }
        let first = self.events.keys_range(erased).next();
        first.map_or(0, |(_, first)| erased_through + 1 - first)
    }

    /// An event.
    pub fn event(&self, owner: Principal, sequence: u64) -> Option<Event> {
        self.events.get(&(owner, sequence)).map(|it| it.0)
    }

    /// Text of the artifact that an event brought.
    pub fn artifact(&self, owner: Principal, sequence: u64) -> Option<String> {
        match self.event(owner, sequence)?.kind {
            EventKind::TaskCompleted { text, .. } => Some(text),
            _ => None,
        }
    }

    /// A page of events that `wanted` turns into what is listed, of about [`MAX_PAGE_BYTES`], with the sequence number to go on from.
    pub fn scan<T>(
        &self,
        owner: Principal,
        after: Option<u64>,
        limit: u32,
        wanted: impl Fn(Event) -> Option<(T, usize)>,
    ) -> (Vec<T>, Option<u64>) {
        let size = paging::page_size(limit);
        let (mut page, mut bytes) = (Vec::new(), 0);
        let mut last = None;
        let erased_through = self.read(owner, |workspace| workspace.erased_through);
        let after = after.unwrap_or(0).max(erased_through);
        for (scanned, event) in self.events_after(owner, after).enumerate() {
            let sequence = event.sequence;
            let item = wanted(event);
            let too_big =
                item.as_ref().is_some_and(|(_, size)| !page.is_empty() && bytes + size > MAX_PAGE_BYTES);
            if page.len() >= size || scanned >= MAX_SCANNED || too_big {
                return (page, last);
            }
            if let Some((item, size)) = item {
                bytes += size;
                page.push(item);
            }
            last = Some(sequence);
        }
        (page, None)
    }

    /// A page of an owner's events.
    pub fn page(
        &self,
        owner: Principal,
        project: Option<ProjectId>,
        after: Option<u64>,
        limit: u32,
    ) -> EventPage {
        let wanted = |event: Event| {
            crate::messages::is_of(&event, project).then(|| {
                let bytes = size_of_event(&event);
                (event, bytes)
            })
        };
        let (events, next) = self.scan(owner, after, limit, wanted);
        let last = self.read(owner, |workspace| workspace.last_sequence);
        EventPage { events, next, last }
    }

    /// Owners whose workspaces have something to do; `max_active_workspaces` bounds them.
    pub fn active_owners(&self) -> Vec<Principal> {
        self.active.iter().map(|entry| *entry.key()).collect()
    }

    /// Whose agent a canister is, and its name.
    pub fn agent_of(&self, canister: Principal) -> Option<(Principal, String)> {
        self.canisters.get(&canister).map(|it| it.0)
    }

    /// Workspaces that have something to do.
    pub fn active(&self) -> u64 {
        self.active.len()
    }

    /// Whether a workspace has something to do.
    pub fn is_active(&self, owner: Principal) -> bool {
        self.active.contains_key(&owner)
    }

    /// Workspaces that there are.
    pub fn workspaces(&self) -> u64 {
        self.owners.len()
    }

    /// Whether somebody has a workspace.
    pub fn has(&self, owner: Principal) -> bool {
        self.owners.contains_key(&owner)
    }

    /// States in the heap.
    pub fn cached(&self) -> u64 {
        self.cache.len() as u64
    }
}

/// Canisters of agents that the workspace does not know any more after an event.
fn canisters_gone(workspace: &Workspace, event: &Event) -> Vec<Principal> {
    let canister = |agent: &RegisteredAgent| match agent.state {
        AgentState::Ready(canister) => Some(canister),
        _ => None,
    };
    match event.kind {
        EventKind::AttemptFailed { task, attempt, failure: AttemptFailure::Gone, .. } => {
            let project = event.project.and_then(|project| workspace.projects.get(&project));
            let attempt = project.and_then(|project| project.attempt(task, attempt));
            let agent = attempt.and_then(|attempt| workspace.agents.get(&attempt.agent));
            agent.and_then(canister).into_iter().collect()
        }
        EventKind::Erased { .. } => workspace.agents.values().filter_map(canister).collect(),
        _ => Vec::new(),
    }
}

/// Bytes of an event, roughly: of the texts that can be long.
fn size_of_event(event: &Event) -> usize {
    const REST: usize = 500;
    REST + match &event.kind {
        EventKind::Planned { request, plan, analysis, .. }
        | EventKind::Revised { request, plan, analysis } => {
            let prompts: usize = plan.tasks.iter().map(|task| task.prompt.len() + REST).sum();
            let reasons: usize = analysis.roles.len() * REST + analysis.clauses.len() * REST;
            request.instruction.len() + prompts * 2 + reasons + plan.agents.len() * REST
        }
        EventKind::TasksAdded { tasks } => tasks.iter().map(|task| task.prompt.len() + REST).sum(),
        EventKind::TaskCompleted { text, .. } => text.len(),
        EventKind::JobClosed { late_result, .. } => late_result.as_ref().map_or(0, String::len),
        EventKind::MessageSent { message, .. } => message.body.len(),
        EventKind::RoleDefined(role) => {
            role.instructions.len() + 32 * (role.signals.len() + role.names.len())
        }
        EventKind::Conversed { turn, .. } => turn.answer.len() + 2 * turn.said.len(),
        _ => 0,
    }
}
