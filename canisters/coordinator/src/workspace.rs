//! The state of one owner, and the one function that changes it: [`Workspace::apply`].
//!
//! Nothing here decides. An event says what happened, and applying it is all that it takes: the same events give the same
//! workspace, wherever and whenever they are applied. An event that can't have happened is refused, and changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared_types::Digest;
use shared_types::coordinator::project::TaskCounts;
use shared_types::coordinator::{
    AfterFailure, AgentState, Artifact, Attempt, AttemptFailure, AttemptStage, Breaker, BreakerState,
    CallKind, ConversationId, Event, EventKind, Health, Measures, PlannedTask, Project, ProjectId,
    ProjectState, QuotaKind, RegisteredAgent, RoleTemplate, RunCounts, Stage, Task, TaskId, TaskKind,
    TaskState, Turn, concierge,
};
use shared_types::receipt::hash_of;

use crate::{registry, votes};

/// Attempts of a task that are kept.
const KEPT_ATTEMPTS: usize = 12;

/// An event that can't have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inconsistent(pub &'static str);

/// A call to another canister that has no answer yet, or is to be repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingCall {
    /// How often it was begun.
    pub begun: u32,
    /// Whether it was begun and no answer is recorded.
    pub open: bool,
    /// When it is repeated.
    pub retry_at_ns: u64,
    /// Why it failed last.
    pub reason: Option<String>,
}

/// Where a quota of a project stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quota {
    /// The reservation has begun; its outcome is not known.
    Asked,
    /// It is reserved, with this number.
    Held(Option<u64>),
    /// It is settled, or was refused.
    Settled,
}

/// A project with its tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectEntry {
    /// The project; its counts are those of the tasks.
    pub record: Project,
    /// Seed of all chance.
    pub seed: u64,
    /// Its tasks.
    pub tasks: BTreeMap<TaskId, Task>,
    /// Calls that have no recorded outcome.
    pub calls: BTreeMap<CallKind, PendingCall>,
    /// Whether the owner cancelled it.
    pub cancel_requested: bool,
    /// Its quotas, once they were asked for.
    pub quotas: BTreeMap<QuotaKind, Quota>,
    /// Why a quota was refused.
    pub refusal: Option<String>,
    /// Messages sent into it, by id, with their hashes.
    pub messages: BTreeMap<String, Digest>,
}

/// A conversation with the concierge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// Where it stands.
    pub stage: Stage,
    /// The last turn.
    pub last: Turn,
    /// Turns.
    pub turns: u32,
}

/// Everything that one owner has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Sequence number of the last event.
    pub last_sequence: u64,
    /// Sequence number of the last event that was erased.
    #[serde(default)]
    pub erased_through: u64,
    /// Number of the last project.
    pub last_project: ProjectId,
    /// Number of the last conversation.
    pub last_conversation: ConversationId,
    /// Roles that the owner has defined.
    pub roles: BTreeMap<String, RoleTemplate>,
    /// Projects that are kept.
    pub projects: BTreeMap<ProjectId, ProjectEntry>,
    /// Agents by name.
    pub agents: BTreeMap<String, RegisteredAgent>,
    /// Conversations that are kept.
    pub conversations: BTreeMap<ConversationId, Conversation>,
}

fn check(possible: bool, otherwise: &'static str) -> Result<(), Inconsistent> {
    if possible { Ok(()) } else { Err(Inconsistent(otherwise)) }
}

impl ProjectEntry {
    /// How many tasks stand where.
    pub fn counts(&self) -> TaskCounts {
        let mut counts = TaskCounts { total: self.tasks.len() as u32, ..TaskCounts::default() };
        for task in self.tasks.values() {
            *match task.state {
                TaskState::Submitted => &mut counts.submitted,
                TaskState::Working => &mut counts.working,
                TaskState::InputRequired | TaskState::AuthRequired => &mut counts.dead_letters,
                TaskState::Completed => &mut counts.completed,
                TaskState::Failed | TaskState::Canceled | TaskState::Rejected => &mut counts.unsuccessful,
            } += 1;
        }
        counts
    }

    /// The project as its owner sees it.
    pub fn view(&self) -> Project {
        Project { counts: self.counts(), settled: self.is_settled(), ..self.record.clone() }
    }

    /// Quotas that the plan takes from.
    pub fn needed_quotas(&self) -> impl Iterator<Item = QuotaKind> {
        let cost = self.record.plan.cost;
        let needed = [(QuotaKind::Creations, u64::from(cost.creations)), (QuotaKind::Tokens, cost.tokens)];
        needed.into_iter().filter(|(_, amount)| *amount > 0).map(|(kind, _)| kind)
    }

    /// Whether it has ended, and all that was reserved for it is settled.
    pub fn is_settled(&self) -> bool {
        self.record.state.is_terminal() && self.quotas.values().all(|quota| *quota == Quota::Settled)
    }

    /// An attempt.
    pub fn attempt(&self, task: TaskId, attempt: u32) -> Option<&Attempt> {
        self.tasks.get(&task)?.attempts.iter().find(|it| it.number == attempt)
    }

    fn task_mut(&mut self, task: TaskId) -> Result<&mut Task, Inconsistent> {
        self.tasks.get_mut(&task).ok_or(Inconsistent("there is no such task"))
    }

    /// Adds what a run of a task took.
    fn spend(&mut self, task: TaskId, used: RunCounts) -> Result<(), Inconsistent> {
        let task = self.task_mut(task)?;
        task.tokens = task.tokens.saturating_add(used.tokens());
        let record = &mut self.record;
        record.tokens = record.tokens.saturating_add(used.tokens());
        record.generated_tokens = record.generated_tokens.saturating_add(used.generated_tokens);
        record.instructions = record.instructions.saturating_add(used.instructions);
        Ok(())
    }
}

fn attempt_mut(task: &mut Task, attempt: u32) -> Result<&mut Attempt, Inconsistent> {
    let found = task.attempts.iter_mut().find(|it| it.number == attempt);
    found.ok_or(Inconsistent("there is no such attempt"))
}

fn enter(task: &mut Task, state: TaskState, reason: Option<String>, now_ns: u64) -> Result<(), Inconsistent> {
    check(task.state == state || task.state.may_become(state), "the task can't go into this state")?;
    check(!task.state.is_terminal(), "the task has ended")?;
    task.state = state;
    task.reason = reason;
    task.changed_at_ns = now_ns;
    Ok(())
}

fn new_task(plan: PlannedTask, now_ns: u64) -> Task {
    Task {
        plan,
        state: TaskState::Submitted,
        reason: None,
        attempts: Vec::new(),
        counted_attempts: 0,
        busy_attempts: 0,
        retry_at_ns: 0,
        artifact: None,
        tokens: 0,
        changed_at_ns: now_ns,
        stars: None,
    }
}

impl Workspace {
    /// What the events make of an empty workspace.
    ///
    /// # Errors
    /// [`Inconsistent`], when they are not the events of one workspace in their order.
    pub fn replay<'a>(events: impl IntoIterator<Item = &'a Event>) -> Result<Self, Inconsistent> {
        let mut workspace = Self::default();
        for event in events {
            workspace.apply(event)?;
        }
        Ok(workspace)
    }

    /// Whether there is anything to do that nobody has to ask for.
    pub fn is_active(&self) -> bool {
        self.active_project().is_some()
    }

    /// A project with which there is something to do that nobody has to ask for.
    pub fn active_project(&self) -> Option<ProjectId> {
        let closing = |project: &ProjectEntry| {
            project.tasks.values().any(|task| task.attempts.iter().any(|attempt| attempt.closing))
        };
        let is_active = |project: &&ProjectEntry| {
            let state = &project.record.state;
            state.is_open()
                || project.cancel_requested && !state.is_terminal()
                || state.is_terminal()
                    && (!project.is_settled() || !project.calls.is_empty() || closing(project))
        };
        self.projects.values().find(is_active).map(|project| project.record.id)
    }

    /// Whether there is nothing in it but the event that says so.
    pub fn is_erased(&self) -> bool {
        self.last_sequence <= self.erased_through + 1
    }

    /// Applies an event: the only way in which a workspace changes.
    ///
    /// # Errors
    /// [`Inconsistent`]; the workspace may have changed in part then, and must be dropped.
    pub fn apply(&mut self, event: &Event) -> Result<(), Inconsistent> {
        if let EventKind::Erased { last_project, last_conversation } = event.kind {
            return self.erase(event.sequence, last_project, last_conversation);
        }
        check(event.sequence == self.last_sequence + 1, "the event is not the next one")?;
        let now = event.time_ns;
        match (event.project, &event.kind) {
            (None, kind) => self.apply_here(kind)?,
            (Some(project), EventKind::Planned { key, request, analysis, plan, seed }) => {
                check(project == self.last_project + 1, "the project is not the next one")?;
                self.last_project = project;
                let record = Project {
                    id: project,
                    key: key.clone(),
                    request: request.clone(),
                    analysis: analysis.clone(),
                    plan: plan.clone(),
                    state: planned_state(analysis.questions.is_empty()),
                    counts: TaskCounts::default(),
                    tokens: 0,
                    generated_tokens: 0,
                    instructions: 0,
                    settled: false,
                    created_at_ns: now,
                    started_at_ns: None,
                    ended_at_ns: None,
                };
                self.projects.insert(
                    project,
                    ProjectEntry {
                        record,
                        seed: *seed,
                        tasks: BTreeMap::new(),
                        calls: BTreeMap::new(),
                        cancel_requested: false,
                        quotas: BTreeMap::new(),
                        refusal: None,
                        messages: BTreeMap::new(),
                    },
                );
            }
            (Some(project), EventKind::ProjectRemoved) => {
                let entry = self.projects.remove(&project);
                let entry = entry.ok_or(Inconsistent("there is no such project"))?;
                check(!entry.record.state.is_open(), "the project has not ended")?;
                // Agents that never were, or are not any more, go with their project.
                let failed = |agent: &RegisteredAgent| matches!(agent.state, AgentState::Failed { .. });
                self.agents.retain(|_, agent| agent.project != project || !failed(agent) || agent.load > 0);
            }
            (Some(project), kind) => self.apply_in(project, kind, event.sequence, now)?,
        }
        self.last_sequence = event.sequence;
        Ok(())
    }

    /// Empties it. What was before is not kept, so that a log may begin here.
    fn erase(
        &mut self,
        sequence: u64,
        last_project: ProjectId,
        last_conversation: ConversationId,
    ) -> Result<(), Inconsistent> {
        check(sequence > self.last_sequence, "the event is not the next one")?;
        check(!self.is_active(), "a project is not over")?;
        check(
            last_project >= self.last_project && last_conversation >= self.last_conversation,
            "numbers would be given twice",
        )?;
        *self = Self {
            last_sequence: sequence,
            erased_through: sequence - 1,
            last_project,
            last_conversation,
            ..Self::default()
        };
        Ok(())
    }

    /// What concerns the workspace.
    fn apply_here(&mut self, kind: &EventKind) -> Result<(), Inconsistent> {
        match kind {
            EventKind::RoleDefined(role) => {
                self.roles.insert(role.name.clone(), role.clone());
            }
            EventKind::RoleRemoved { name } => {
                check(self.roles.remove(name).is_some(), "there is no such role")?;
            }
            EventKind::BreakerOpened { agent, until_ns } => {
                let agent = self.agent_mut(agent)?;
                agent.breaker.state = BreakerState::Open(*until_ns);
                agent.breaker.opened = agent.breaker.opened.saturating_add(1);
            }
            EventKind::Conversed { conversation, turn } => {
                let is_new = *conversation == self.last_conversation + 1;
                check(
                    is_new || self.conversations.contains_key(conversation),
                    "there is no such conversation",
                )?;
                self.last_conversation = self.last_conversation.max(*conversation);
                let turns = self.conversations.get(conversation).map_or(0, |it| it.turns) + 1;
                let entry = Conversation { stage: turn.stage, last: turn.clone(), turns };
                self.conversations.insert(*conversation, entry);
                while self.conversations.len() > concierge::MAX_CONVERSATIONS {
                    self.conversations.pop_first();
                }
            }
            _ => return Err(Inconsistent("the event belongs to a project")),
        }
        Ok(())
    }

    fn agent_mut(&mut self, name: &str) -> Result<&mut RegisteredAgent, Inconsistent> {
        self.agents.get_mut(name).ok_or(Inconsistent("there is no such agent"))
    }

    fn project_mut(&mut self, project: ProjectId) -> Result<&mut ProjectEntry, Inconsistent> {
        self.projects.get_mut(&project).ok_or(Inconsistent("there is no such project"))
    }

    /// What concerns a project.
    fn apply_in(
        &mut self,
        id: ProjectId,
        kind: &EventKind,
        sequence: u64,
        now: u64,
    ) -> Result<(), Inconsistent> {
        let entry = self.project_mut(id)?;
        match kind {
            EventKind::Revised { request, analysis, plan } => {
                let open = matches!(entry.record.state, ProjectState::Unclear | ProjectState::Planned);
                check(open, "the project is approved")?;
                entry.record.request = request.clone();
                entry.record.analysis = analysis.clone();
                entry.record.plan = plan.clone();
                entry.record.state = planned_state(analysis.questions.is_empty());
            }
            EventKind::Approved => {
                check(entry.record.state == ProjectState::Planned, "there is no plan to approve")?;
                entry.record.state = ProjectState::Reserving;
            }
            EventKind::CallBegun { call } => {
                let pending = entry.calls.entry(call.clone()).or_default();
                pending.begun += 1;
                pending.open = true;
                pending.retry_at_ns = 0;
                if let CallKind::Reserve(quota) = call {
                    check(entry.record.state == ProjectState::Reserving, "nothing is to be reserved")?;
                    entry.quotas.insert(*quota, Quota::Asked);
                }
            }
            EventKind::CallFailed { call, reason, retry_at_ns } => {
                let pending = entry.calls.get_mut(call).ok_or(Inconsistent("the call was not begun"))?;
                pending.open = false;
                pending.retry_at_ns = *retry_at_ns;
                pending.reason = Some(reason.clone());
            }
            EventKind::Reserved { quota, reservation } => {
                entry.calls.remove(&CallKind::Reserve(*quota));
                check(entry.quotas.get(quota) == Some(&Quota::Asked), "the quota was not asked for")?;
                entry.quotas.insert(*quota, Quota::Held(*reservation));
            }
            EventKind::Refused { quota, reason } => {
                entry.calls.remove(&CallKind::Reserve(*quota));
                check(entry.quotas.get(quota) == Some(&Quota::Asked), "the quota was not asked for")?;
                entry.quotas.insert(*quota, Quota::Settled);
                entry.refusal = Some(reason.clone());
            }
            EventKind::Started => self.started(id, now)?,
            EventKind::AgentCreated { agent, canister } => {
                entry.calls.remove(&CallKind::CreateAgent(agent.clone()));
                let agent = self.agent_mut(agent)?;
                check(agent.state == AgentState::Creating, "the agent is not being created")?;
                agent.state = AgentState::Ready(*canister);
                agent.heard_at_ns = Some(now);
            }
            EventKind::AgentFailed { agent, reason } => {
                entry.calls.remove(&CallKind::CreateAgent(agent.clone()));
                let agent = self.agent_mut(agent)?;
                check(agent.state == AgentState::Creating, "the agent is not being created")?;
                agent.state = AgentState::Failed { reason: reason.clone() };
            }
            EventKind::TasksAdded { tasks } => {
                check(entry.record.state == ProjectState::Running, "the project does not run")?;
                for plan in tasks {
                    check(!entry.tasks.contains_key(&plan.id), "the task is there already")?;
                    entry.tasks.insert(plan.id, new_task(plan.clone(), now));
                }
            }
            EventKind::AttemptBegun { task, attempt, agent, lease_until_ns, input_bytes } => {
                let task = entry.task_mut(*task)?;
                check(!task.attempts.iter().any(|it| it.stage.is_open()), "an attempt is under way")?;
                check(
                    task.attempts.last().map_or(0, |it| it.number) + 1 == *attempt,
                    "not the next attempt",
                )?;
                enter(task, TaskState::Working, None, now)?;
                task.counted_attempts += 1;
                task.attempts.push(Attempt {
                    number: *attempt,
                    agent: agent.clone(),
                    began_at_ns: now,
                    lease_until_ns: *lease_until_ns,
                    job: None,
                    stage: AttemptStage::Submitting,
                    closing: false,
                    input_bytes: *input_bytes,
                });
                let removable = |it: &Attempt| !it.stage.is_open() && !it.closing;
                while task.attempts.len() > KEPT_ATTEMPTS
                    && let Some(at) = task.attempts.iter().position(removable)
                {
                    task.attempts.remove(at);
                }
                let agent = self.agent_mut(agent)?;
                if let BreakerState::Open(_) = agent.breaker.state {
                    agent.breaker.state = BreakerState::HalfOpen;
                }
                agent.load += 1;
            }
            EventKind::JobAccepted { task, attempt, job } => {
                entry.calls.remove(&CallKind::Submit { task: *task, attempt: *attempt });
                let attempt = attempt_mut(entry.task_mut(*task)?, *attempt)?;
                check(attempt.job.is_none(), "the job is known already")?;
                attempt.job = Some(*job);
                if attempt.stage == AttemptStage::Submitting {
                    attempt.stage = AttemptStage::Running(*job);
                } else {
                    // Nobody waits for it any more.
                    attempt.closing = true;
                }
                let name = attempt.agent.clone();
                self.agent_mut(&name)?.heard_at_ns = Some(now);
            }
            EventKind::LeaseRenewed { task, attempt, lease_until_ns, tokens: _ } => {
                let attempt = attempt_mut(entry.task_mut(*task)?, *attempt)?;
                check(attempt.stage.is_open(), "the attempt has ended")?;
                attempt.lease_until_ns = *lease_until_ns;
                let name = attempt.agent.clone();
                self.agent_mut(&name)?.heard_at_ns = Some(now);
            }
            EventKind::AttemptFailed { task, attempt, failure, then, used } => {
                entry.spend(*task, *used)?;
                self.attempt_failed(id, (*task, *attempt), failure, *then, now)?;
            }
            EventKind::TaskCompleted { .. } => self.completed(id, kind, sequence, now)?,
            EventKind::TaskEnded { task, state, reason, verdict: _ } => {
                let unsuccessful =
                    matches!(state, TaskState::Failed | TaskState::Canceled | TaskState::Rejected);
                check(unsuccessful, "not an end without an artifact")?;
                let ended = *task;
                let mut submitted = false;
                entry.calls.retain(|call, _| {
                    let is_of = matches!(call, CallKind::Submit { task, .. } if *task == ended);
                    submitted |= is_of;
                    !is_of
                });
                let task = entry.task_mut(*task)?;
                enter(task, *state, Some(reason.clone()), now)?;
                let mut agents = Vec::new();
                for attempt in task.attempts.iter_mut().filter(|it| it.stage.is_open()) {
                    // What was submitted without an answer may have arrived.
                    attempt.closing = attempt.job.is_some() || submitted;
                    attempt.stage = AttemptStage::Abandoned;
                    agents.push(attempt.agent.clone());
                }
                for agent in agents {
                    self.agent_mut(&agent)?.load -= 1;
                }
            }
            EventKind::TaskReplayed { task } => {
                let task = entry.task_mut(*task)?;
                check(task.state.is_dead_letter(), "the task is no dead letter")?;
                enter(task, TaskState::Submitted, None, now)?;
                (task.counted_attempts, task.busy_attempts, task.retry_at_ns) = (0, 0, now);
            }
            EventKind::JobClosed { task, attempt, late_result: _, used } => {
                entry.calls.remove(&CallKind::Close { task: *task, attempt: *attempt });
                entry.spend(*task, *used)?;
                let attempt = attempt_mut(entry.task_mut(*task)?, *attempt)?;
                check(attempt.closing, "the job is not being closed")?;
                attempt.closing = false;
            }
            EventKind::CancelRequested => {
                check(!entry.record.state.is_terminal(), "the project has ended")?;
                entry.cancel_requested = true;
            }
            EventKind::ProjectEnded { state } => {
                check(state.is_terminal() && !entry.record.state.is_terminal(), "the project has ended")?;
                check(entry.tasks.values().all(|task| task.state.is_terminal()), "a task has not ended")?;
                entry.record.state = state.clone();
                entry.record.ended_at_ns = Some(now);
                entry.calls.retain(|call, _| !matches!(call, CallKind::Reserve(_)));
                // Whose creation has not begun will not be created.
                let calls = entry.calls.clone();
                for planned in entry.record.plan.agents.clone() {
                    if let Some(agent) = self.agents.get_mut(&planned.name)
                        && agent.state == AgentState::Creating
                        && !planned.exists
                        && !calls.contains_key(&CallKind::CreateAgent(planned.name))
                    {
                        agent.state = AgentState::Failed { reason: "the project ended before".to_owned() };
                    }
                }
            }
            EventKind::Settled { quota, amount: _ } => {
                entry.calls.remove(&CallKind::Settle(*quota));
                check(
                    !matches!(entry.quotas.get(quota), None | Some(Quota::Settled)),
                    "nothing is to be settled",
                )?;
                entry.quotas.insert(*quota, Quota::Settled);
            }
            EventKind::MessageSent { from, message } => {
                let before = entry.messages.insert(message.id.clone(), hash_of(&(from, message)));
                check(before.is_none(), "the message was sent already")?;
            }
            EventKind::TaskRated { task, stars } => {
                let task = entry.task_mut(*task)?;
                check(task.state == TaskState::Completed, "the task is not completed")?;
                check(task.stars.replace(*stars).is_none(), "the task is rated already")?;
                let by = task.attempts.iter().find(|it| matches!(it.stage, AttemptStage::Completed(_)));
                if let Some(agent) = by.map(|attempt| attempt.agent.clone()) {
                    registry::rated(self.agent_mut(&agent)?, *stars);
                }
            }
            _ => return Err(Inconsistent("the event does not belong to a project")),
        }
        Ok(())
    }

    /// The project begins to run: its agents are known from now on, and its tasks are there.
    fn started(&mut self, id: ProjectId, now: u64) -> Result<(), Inconsistent> {
        let entry = self.project_mut(id)?;
        check(entry.record.state == ProjectState::Reserving, "nothing is to be begun")?;
        let held = |kind: QuotaKind| matches!(entry.quotas.get(&kind), Some(Quota::Held(_)));
        check(entry.needed_quotas().all(held), "not all quota is reserved")?;
        entry.record.state = ProjectState::Running;
        entry.record.started_at_ns = Some(now);
        let plan = entry.record.plan.clone();
        entry.tasks = plan.tasks.into_iter().map(|task| (task.id, new_task(task, now))).collect();
        for agent in plan.agents.into_iter().filter(|agent| !agent.exists) {
            check(!self.agents.contains_key(&agent.name), "the agent is there already")?;
            let registered = RegisteredAgent {
                name: agent.name.clone(),
                role: agent.role,
                capabilities: agent.capabilities,
                model_id: agent.model_id,
                chats: agent.chats,
                project: id,
                state: AgentState::Creating,
                breaker: Breaker::default(),
                load: 0,
                heard_at_ns: None,
                measures: Measures { quality_permille: 1_000, ..Measures::default() },
                health: Health::Unknown,
            };
            self.agents.insert(agent.name, registered);
        }
        Ok(())
    }

    fn attempt_failed(
        &mut self,
        id: ProjectId,
        (task, number): (TaskId, u32),
        failure: &AttemptFailure,
        then: AfterFailure,
        now: u64,
    ) -> Result<(), Inconsistent> {
        let entry = self.project_mut(id)?;
        let submitted = entry.calls.remove(&CallKind::Submit { task, attempt: number }).is_some();
        let task = entry.task_mut(task)?;
        let attempt = attempt_mut(task, number)?;
        check(attempt.stage.is_open(), "the attempt has ended")?;
        let unknown = matches!(
            failure,
            AttemptFailure::NoAnswer(_) | AttemptFailure::LeaseEnded | AttemptFailure::TimedOut
        );
        attempt.closing = unknown && (attempt.job.is_some() || submitted);
        attempt.stage = AttemptStage::Failed(failure.clone());
        let agent = attempt.agent.clone();
        if *failure == AttemptFailure::Busy {
            task.counted_attempts = task.counted_attempts.saturating_sub(1);
            task.busy_attempts += 1;
        }
        let reason = Some(failure.to_string());
        match then {
            AfterFailure::Retry(at_ns) => {
                task.retry_at_ns = at_ns;
                task.reason = reason;
            }
            AfterFailure::Park => enter(task, TaskState::InputRequired, reason, now)?,
            AfterFailure::Authorize => enter(task, TaskState::AuthRequired, reason, now)?,
            AfterFailure::Reject => enter(task, TaskState::Rejected, reason, now)?,
        }
        let agent = self.agent_mut(&agent)?;
        agent.load -= 1;
        if *failure == AttemptFailure::Gone {
            agent.state = AgentState::Failed { reason: failure.to_string() };
        } else if unknown || matches!(failure, AttemptFailure::Job(_)) {
            registry::failed(agent);
        } else {
            agent.heard_at_ns = Some(now);
        }
        Ok(())
    }

    fn completed(
        &mut self,
        id: ProjectId,
        kind: &EventKind,
        sequence: u64,
        now: u64,
    ) -> Result<(), Inconsistent> {
        let EventKind::TaskCompleted { task: task_id, attempt, text, elapsed_ns, used, receipt, verdict } =
            kind
        else {
            return Err(Inconsistent("not the end of a task"));
        };
        let entry = self.project_mut(id)?;
        entry.spend(*task_id, *used)?;
        let winner = verdict.as_ref().and_then(|verdict| verdict.winner);
        let taken = winner.and_then(|winner| entry.tasks.get(&winner)?.artifact.clone());
        let task = entry.task_mut(*task_id)?;
        enter(task, TaskState::Completed, None, now)?;
        let Some(number) = attempt else {
            check(matches!(task.plan.kind, TaskKind::Vote(_)), "only a vote needs no attempt")?;
            let taken = taken.ok_or(Inconsistent("the vote has no winner"))?;
            task.artifact = Some(Artifact { verdict: verdict.clone(), ..taken });
            return Ok(());
        };
        task.artifact = Some(Artifact {
            event: sequence,
            bytes: text.len() as u32,
            sha256: Digest::of(text.as_bytes()),
            canonical_sha256: Digest::of(votes::canonical(text).as_bytes()),
            receipt: *receipt,
            verdict: None,
        });
        let attempt = attempt_mut(task, *number)?;
        let AttemptStage::Running(job) = attempt.stage else {
            return Err(Inconsistent("the attempt does not run"));
        };
        attempt.stage = AttemptStage::Completed(job);
        let agent = attempt.agent.clone();
        let agent = self.agent_mut(&agent)?;
        agent.load -= 1;
        agent.heard_at_ns = Some(now);
        registry::succeeded(agent, *used, *elapsed_ns);
        Ok(())
    }
}

fn planned_state(is_clear: bool) -> ProjectState {
    if is_clear { ProjectState::Planned } else { ProjectState::Unclear }
}
