//! The messages that drive the workspaces: a timer asks what there is to do, calls are made, their answers become events.
//!
//! Before a call that changes something elsewhere the journal says that it was begun; that is committed when it is awaited. An answer that is
//! lost, with the message that takes it or otherwise, leaves the call in the journal, and it is repeated: each carries a key.
//!
//! Invariant: while a workspace has something to do, a timer is armed that no single message can take along when it traps. A message
//! that traps loses the one-shot timer that started it, and the timer it would have set; the watch, a repeated timer, is left.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use candid::Principal;
use ic_cdk::api::{CanisterStatusCode, canister_status, time};
use ic_cdk_timers::TimerId;
use shared_types::agent::{AgentError, ChatMessage, ChatRole, GenerationParams, JobProgress, SubmitJobArgs};
use shared_types::coordinator::{
    AgentState, AttemptFailure, AttemptStage, CallKind, CoordinatorInitArgs, EventKind, Project, ProjectId,
    QuotaKind, RunCounts, TaskId,
};
use shared_types::econ::{EconError, ReserveArgs, Resource, SettleArgs, UsageEnvelope};
use shared_types::factory::{AgentState as FactoryState, CreateAgentArgs, FactoryError};

use crate::decide::{self, Due, InFlight, answers};
use crate::platform::{self, NoAnswer};
use crate::workspace::{Quota, Workspace};
use crate::{prompt, retry, roles, state};

/// While there is work, it is taken up again at least this often, whatever trapped.
const WATCH: Duration = Duration::from_secs(30);

/// Workspaces that one turn begins to work on.
const WORKSPACES: usize = 16;

/// Events of one workspace that one message records before it lets others go on.
const EVENTS: usize = 200;

/// How long a reservation holds; `econ` lets it hold for a day.
const RESERVATION_NS: u64 = 23 * 3_600 * 1_000_000_000;

thread_local! {
    static TIMER: Cell<Option<(TimerId, u64)>> = const { Cell::new(None) };
    static WATCH_TIMER: Cell<Option<TimerId>> = const { Cell::new(None) };
    static WAKES: RefCell<BTreeMap<Principal, u64>> = const { RefCell::new(BTreeMap::new()) };
    static IN_FLIGHT: RefCell<BTreeMap<Principal, InFlight>> = const { RefCell::new(BTreeMap::new()) };
    static POLLS: RefCell<BTreeMap<Look, Polled>> = const { RefCell::new(BTreeMap::new()) };
}

/// Whose job is looked at.
type Look = (Principal, ProjectId, TaskId, u32);

/// How a job is looked at.
#[derive(Clone, Copy, Debug)]
enum Polled {
    UnderWay,
    At(u64),
}

/// A call under way; taken off the list on drop, also when the message that takes its answer traps.
struct Flight(Principal, (ProjectId, CallKind));

impl Flight {
    fn new(owner: Principal, call: (ProjectId, CallKind)) -> Self {
        IN_FLIGHT.with_borrow_mut(|all| all.entry(owner).or_default().insert(call.clone()));
        Self(owner, call)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        IN_FLIGHT.with_borrow_mut(|all| {
            if let Some(calls) = all.get_mut(&self.0) {
                calls.remove(&self.1);
                if calls.is_empty() {
                    all.remove(&self.0);
                }
            }
        });
    }
}

/// A look under way; when it ends, the next one has its time.
struct Looking(Look);

impl Looking {
    fn new(look: Look) -> Self {
        POLLS.with_borrow_mut(|polls| polls.insert(look, Polled::UnderWay));
        Self(look)
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        POLLS.with_borrow_mut(|polls| polls.insert(self.0, Polled::At(time())));
    }
}

/// Calls under way.
pub fn calls() -> u32 {
    let calls: usize = IN_FLIGHT.with_borrow(|all| all.values().map(BTreeSet::len).sum());
    let looks = POLLS.with_borrow(|polls| polls.values().filter(|it| matches!(it, Polled::UnderWay)).count());
    (calls + looks) as u32
}

/// Whether a workspace may make another call: it has its share of those that there may be, if it is not alone.
fn may_call(owner: Principal, max_concurrent: u32) -> bool {
    if calls() >= max_concurrent {
        return false;
    }
    let mut by_owner: BTreeMap<Principal, u32> =
        IN_FLIGHT.with_borrow(|all| all.iter().map(|(owner, calls)| (*owner, calls.len() as u32)).collect());
    POLLS.with_borrow(|polls| {
        for (look, _) in polls.iter().filter(|(_, it)| matches!(it, Polled::UnderWay)) {
            *by_owner.entry(look.0).or_default() += 1;
        }
    });
    let own = *by_owner.entry(owner).or_default();
    own < max_concurrent.div_ceil(by_owner.len() as u32)
}

fn in_flight(owner: Principal) -> InFlight {
    IN_FLIGHT.with_borrow(|all| all.get(&owner).cloned().unwrap_or_default())
}

/// Has a workspace looked at after `delay`; the earlier of two times counts.
pub fn wake(owner: Principal, delay: Duration) {
    let at = time().saturating_add(delay.as_nanos() as u64);
    WAKES.with_borrow_mut(|wakes| {
        wakes.entry(owner).and_modify(|earlier| *earlier = at.min(*earlier)).or_insert(at);
    });
    arm();
}

/// Has every workspace looked at that has something to do: after an upgrade nothing else knows of them.
pub fn wake_all() {
    let owners = state::read(|state| state.store.active_owners());
    let now = time();
    WAKES.with_borrow_mut(|wakes| wakes.extend(owners.into_iter().map(|owner| (owner, now))));
    arm();
}

/// Sets the timer for the workspace that is to be looked at first.
fn arm() {
    let Some(at) = WAKES.with_borrow(|wakes| wakes.values().min().copied()) else { return };
    let now = time();
    if let Some((earlier, set_for)) = TIMER.get() {
        if set_for <= at && set_for > now {
            return;
        }
        ic_cdk_timers::clear_timer(earlier);
    }
    let delay = Duration::from_nanos(at.saturating_sub(now));
    TIMER.set(Some((ic_cdk_timers::set_timer(delay, async { turn() }), at)));
    if WATCH_TIMER.get().is_none() {
        WATCH_TIMER.set(Some(ic_cdk_timers::set_timer_interval(WATCH, || async { watch() })));
    }
}

/// Takes the work up again, or ends the watch when there is none. A turn too many does no harm.
fn watch() {
    if state::read(|state| state.store.active() > 0) {
        TIMER.set(None);
        wake_all();
    } else if let Some(watch) = WATCH_TIMER.take() {
        ic_cdk_timers::clear_timer(watch);
    }
}

/// Begins the work on the workspaces whose time has come, each in a message of its own: one that traps stops no other.
fn turn() {
    TIMER.set(None);
    // A canister that is being stopped makes no calls; the watch goes on after it was started again.
    if canister_status() != CanisterStatusCode::Running {
        return;
    }
    let now = time();
    let due: Vec<Principal> = WAKES.with_borrow_mut(|wakes| {
        let mut due: Vec<(u64, Principal)> =
            wakes.iter().filter(|(_, at)| **at <= now).map(|(owner, at)| (*at, *owner)).collect();
        due.sort_unstable();
        due.truncate(WORKSPACES);
        wakes.retain(|owner, at| !due.contains(&(*at, *owner)));
        due.into_iter().map(|(_, owner)| owner).collect()
    });
    if let [owner] = due[..] {
        work_on(owner);
    } else {
        for owner in due {
            ic_cdk_timers::set_timer(Duration::ZERO, async move { work_on(owner) });
        }
    }
    arm();
}

/// Records what follows, begins the calls that are due, and has the workspace looked at again when the next time comes.
fn work_on(owner: Principal) {
    if let Some(at) = advance(owner) {
        wake(owner, Duration::from_nanos(at.saturating_sub(time())));
    }
}

/// Records what follows, and begins the calls that are due; returns when the workspace is to be looked at again.
fn advance(owner: Principal) -> Option<u64> {
    let settings = state::read(|state| state.settings().clone());
    let now = time();
    let flying = in_flight(owner);
    let settled = state::mutate(|state| {
        for _ in 0..EVENTS {
            let next = decide::next_event(state.store.load(owner), &settings.config, &flying, now);
            let Some(next) = next else { return true };
            state.store.record(owner, next, now);
        }
        false
    });
    if !settled {
        return Some(now);
    }
    if !state::read(|state| state.store.is_active(owner)) {
        return None;
    }
    let (due, wakes_at, running) = state::mutate(|state| {
        let workspace = state.store.load(owner);
        let due = decide::due(workspace, &flying, now);
        (due, decide::wakes_at(workspace, &settings.config, now), running(workspace, owner))
    });
    // What does not run any more needs no look.
    POLLS.with_borrow_mut(|polls| {
        polls.retain(|look, it| look.0 != owner || matches!(it, Polled::UnderWay) || running.contains(look));
    });
    let (mut poll_at, mut blocked): (Option<u64>, Option<u64>) = (None, None);
    for due in due {
        match due {
            Due::Call(project, call) => {
                if !may_call(owner, settings.config.max_concurrent) {
                    blocked = Some(now.saturating_add(settings.config.poll_ns / 2));
                    continue;
                }
                state::mutate(|state| {
                    let begun = EventKind::CallBegun { call: call.clone() };
                    state.store.record(owner, (Some(project), begun), now);
                });
                let flight = Flight::new(owner, (project, call));
                ic_cdk::futures::spawn(make(flight, settings.clone()));
            }
            Due::Poll(project, task, attempt) => {
                let look = (owner, project, task, attempt);
                let last = POLLS.with_borrow(|polls| polls.get(&look).copied());
                let at = match last {
                    Some(Polled::UnderWay) => continue,
                    Some(Polled::At(last)) => last.saturating_add(settings.config.poll_ns),
                    None => now.saturating_add(settings.config.poll_ns / 2),
                };
                if last.is_none() {
                    // The first look comes when there is something to see.
                    POLLS.with_borrow_mut(|polls| {
                        polls.insert(look, Polled::At(at.saturating_sub(settings.config.poll_ns)))
                    });
                }
                if at <= now && may_call(owner, settings.config.max_concurrent) {
                    ic_cdk::futures::spawn(look_at(Looking::new(look), settings.clone()));
                } else {
                    let at = at.max(now.saturating_add(settings.config.poll_ns / 4));
                    poll_at = Some(poll_at.map_or(at, |it| it.min(at)));
                }
            }
        }
    }
    [wakes_at, poll_at, blocked].into_iter().flatten().min()
}

fn running(workspace: &Workspace, owner: Principal) -> BTreeSet<Look> {
    let tasks =
        workspace.projects.iter().flat_map(|(id, project)| project.tasks.values().map(move |it| (*id, it)));
    tasks
        .flat_map(|(id, task)| {
            let attempts = task.attempts.iter().filter(|it| matches!(it.stage, AttemptStage::Running(_)));
            attempts.map(move |attempt| (owner, id, task.plan.id, attempt.number))
        })
        .collect()
}

/// Records the event that an answer has become, if the state has not moved on meanwhile, and looks what follows.
fn answered(owner: Principal, event: impl FnOnce(&Workspace) -> Option<(ProjectId, EventKind)>) {
    state::mutate(|state| {
        if let Some((project, event)) = event(state.store.load(owner)) {
            state.store.record(owner, (Some(project), event), time());
        }
    });
    wake(owner, Duration::ZERO);
}

/// Makes a call that is journalled.
async fn make(flight: Flight, settings: CoordinatorInitArgs) {
    match flight.1.1.clone() {
        CallKind::Reserve(quota) => reserve(flight, &settings, quota).await,
        CallKind::Settle(quota) => settle(flight, &settings, quota).await,
        CallKind::CreateAgent(name) => create_agent(flight, &settings, name).await,
        CallKind::Submit { task, attempt } => submit(flight, &settings, (task, attempt)).await,
        CallKind::Close { task, attempt } => close(flight, &settings, (task, attempt)).await,
    }
}

/// Journals that a call brought nothing, unless nobody waits for it any more.
fn unanswered(
    owner: Principal,
    settings: &CoordinatorInitArgs,
    project: ProjectId,
    call: CallKind,
    reason: String,
) {
    answered(owner, |workspace| {
        let entry = workspace.projects.get(&project)?;
        answers::unanswered(entry, &settings.config, call, reason, time()).map(|event| (project, event))
    });
}

async fn create_agent(flight: Flight, settings: &CoordinatorInitArgs, name: String) {
    let (owner, (project, call)) = (flight.0, flight.1.clone());
    let args = state::mutate(|state| {
        let agent = state.store.load(owner).agents.get(&name)?;
        Some(CreateAgentArgs {
            key: name.clone(),
            model_canister: settings.model_canister,
            model_id: agent.model_id,
            config: None,
            template: None,
            owner: Some(owner),
            profile: None,
        })
    });
    let Some(args) = args else { return };
    let answer = platform::create_agent(settings.factory, args).await;
    drop(flight);
    let failed = |reason: String| EventKind::AgentFailed { agent: name.clone(), reason };
    let event = match answer {
        Ok(Ok(record)) => match (record.state, record.canister) {
            (FactoryState::Running, Some(canister)) => {
                EventKind::AgentCreated { agent: name.clone(), canister }
            }
            (state, _) => {
                return unanswered(owner, settings, project, call, format!("the agent is {state:?}"));
            }
        },
        // What may pass is tried again.
        Ok(Err(
            error @ (FactoryError::Busy { .. }
            | FactoryError::InProgress { .. }
            | FactoryError::StepFailed { .. }
            | FactoryError::OutOfCycles { .. }),
        )) => return unanswered(owner, settings, project, call, error.to_string()),
        Ok(Err(error)) => failed(error.to_string()),
        Err(NoAnswer { reason, .. }) => return unanswered(owner, settings, project, call, reason),
    };
    answered(owner, |workspace| {
        let creating = workspace.agents.get(&name)?.state == AgentState::Creating;
        creating.then_some((project, event))
    });
}

/// Key of an attempt's job at its agent: 64 bytes at most, and no other attempt's.
fn job_key(project: ProjectId, (task, attempt): (TaskId, u32)) -> String {
    format!("p{project}/{task}/{attempt}")
}

async fn submit(flight: Flight, settings: &CoordinatorInitArgs, at: (TaskId, u32)) {
    let (owner, (project, call)) = (flight.0, flight.1.clone());
    let Some((canister, args)) = state::mutate(|state| job_of(state, owner, project, at)) else { return };
    let answer = platform::submit_job(canister, args).await;
    drop(flight);
    match answer {
        Ok(Ok(record)) => answered(owner, |workspace| {
            let event = answers::accepted(workspace.projects.get(&project)?, at, record.job_id)?;
            Some((project, event))
        }),
        Ok(Err(error)) => {
            let failure = match error {
                AgentError::QueueFull { .. } | AgentError::CallerQueueFull { .. } => AttemptFailure::Busy,
                AgentError::Unauthorized => AttemptFailure::Unauthorized,
                error => AttemptFailure::Refused(error.to_string()),
            };
            attempt_failed(owner, settings, project, at, failure);
        }
        Err(NoAnswer { is_gone: true, .. }) => {
            attempt_failed(owner, settings, project, at, AttemptFailure::Gone);
        }
        Err(NoAnswer { reason, .. }) => unanswered(owner, settings, project, call, reason),
    }
}

fn attempt_failed(
    owner: Principal,
    settings: &CoordinatorInitArgs,
    project: ProjectId,
    at: (TaskId, u32),
    failure: AttemptFailure,
) {
    answered(owner, |workspace| {
        let entry = workspace.projects.get(&project)?;
        let open = entry.attempt(at.0, at.1)?.stage.is_open();
        let used = RunCounts::default();
        open.then(|| (project, answers::failed(entry, &settings.config, at, failure, used, time())))
    });
}

/// What an attempt's agent is asked, and its canister.
fn job_of(
    state: &mut state::State,
    owner: Principal,
    project: ProjectId,
    (task, attempt): (TaskId, u32),
) -> Option<(Principal, SubmitJobArgs)> {
    let timeout = state.settings().config.attempt_timeout_ns;
    state.store.load(owner);
    let (canister, mut args, inputs, (instructions, chats), prompt, input_bytes) =
        state.store.read(owner, |workspace| {
            let entry = workspace.projects.get(&project)?;
            let plan = &entry.tasks.get(&task)?.plan;
            let tried = entry.attempt(task, attempt)?;
            let agent = workspace.agents.get(&tried.agent)?;
            let AgentState::Ready(canister) = agent.state else { return None };
            let inputs: Vec<(String, u64)> = plan
                .after
                .iter()
                .filter_map(|before| entry.tasks.get(before))
                .filter_map(|before| Some((before.plan.title.clone(), before.artifact.as_ref()?.event)))
                .collect();
            let params = GenerationParams {
                max_tokens: plan.max_tokens,
                temperature: plan.temperature_permille as f32 / 1_000.0,
                seed: retry::chance(entry.seed, &format!("sampler of task {task}")),
                ..GenerationParams::default()
            };
            let args = SubmitJobArgs {
                params,
                key: Some(job_key(project, (task, attempt))),
                deadline_ns: Some(tried.began_at_ns.saturating_add(timeout)),
                ..SubmitJobArgs::default()
            };
            let told = roles::find(&workspace.roles, &plan.role).map(|role| role.instructions.clone());
            let told = (told.unwrap_or_default(), agent.chats);
            Some((canister, args, inputs, told, plan.prompt.clone(), tried.input_bytes as usize))
        })?;
    let texts: Vec<(String, String)> = inputs
        .into_iter()
        .map(|(title, event)| (title, state.store.artifact(owner, event).unwrap_or_default()))
        .collect();
    if chats {
        let message = |role, content| ChatMessage { role, content };
        let request = prompt::request(&prompt, &texts, input_bytes);
        let told = message(ChatRole::System, instructions);
        args.messages = Some(vec![told, message(ChatRole::User, request)]);
    } else {
        args.prompt = prompt::compose(&instructions, &prompt, &texts, input_bytes);
    }
    Some((canister, args))
}

/// The job of an attempt that counts no more, if its agent has one. Where the number is not known, the submission is repeated with a deadline
/// that has passed: its key finds the job, and no new one is taken.
async fn job_to_close(
    owner: Principal,
    project: ProjectId,
    at: (TaskId, u32),
) -> Result<Option<(Principal, u64)>, NoAnswer> {
    if let Some(known) = job_at(owner, project, at) {
        return Ok(Some(known));
    }
    let Some((canister, args)) = state::mutate(|state| job_of(state, owner, project, at)) else {
        return Ok(None);
    };
    let args = SubmitJobArgs { deadline_ns: Some(1), ..args };
    match platform::submit_job(canister, args).await {
        Ok(found) => Ok(found.ok().map(|record| (canister, record.job_id))),
        Err(NoAnswer { is_gone: true, .. }) => Ok(None),
        Err(no_answer) => Err(no_answer),
    }
}

/// The canister and the job of an attempt.
fn job_at(owner: Principal, project: ProjectId, (task, attempt): (TaskId, u32)) -> Option<(Principal, u64)> {
    state::mutate(|state| {
        let workspace = state.store.load(owner);
        let tried = workspace.projects.get(&project)?.attempt(task, attempt)?;
        let AgentState::Ready(canister) = workspace.agents.get(&tried.agent)?.state else { return None };
        Some((canister, tried.job?))
    })
}

async fn look_at(looking: Looking, settings: CoordinatorInitArgs) {
    let (owner, project, task, attempt) = looking.0;
    let Some((canister, job)) = job_at(owner, project, (task, attempt)) else { return };
    let answer = platform::job_progress(canister, job).await;
    drop(looking);
    match answer {
        Ok(Ok(progress)) => answered(owner, |workspace| {
            let entry = workspace.projects.get(&project)?;
            let event = answers::progress(entry, &settings.config, (task, attempt), progress, time())?;
            Some((project, event))
        }),
        Ok(Err(AgentError::Unauthorized)) => {
            attempt_failed(owner, &settings, project, (task, attempt), AttemptFailure::Unauthorized);
        }
        // The job is gone: the agent was installed anew, or has had many others since.
        Ok(Err(error)) => {
            attempt_failed(
                owner,
                &settings,
                project,
                (task, attempt),
                AttemptFailure::Job(error.to_string()),
            );
        }
        Err(NoAnswer { is_gone: true, .. }) => {
            attempt_failed(owner, &settings, project, (task, attempt), AttemptFailure::Gone);
        }
        // Not heard of: the lease says how long that may last.
        Err(_) => wake(owner, Duration::from_nanos(settings.config.poll_ns)),
    }
}

/// Cancels a job that is not wanted any more; what it had brought by then is recorded and not applied.
async fn close(flight: Flight, settings: &CoordinatorInitArgs, at: (TaskId, u32)) {
    let (owner, (project, call)) = (flight.0, flight.1.clone());
    let mut brought: Option<JobProgress> = None;
    let mut failed = None;
    match job_to_close(owner, project, at).await {
        Ok(Some((canister, job))) => match platform::cancel_job(canister, job).await {
            Ok(Ok(_) | Err(AgentError::JobEnded { .. })) => match platform::job_progress(canister, job).await
            {
                Ok(progress) => brought = progress.ok(),
                Err(NoAnswer { reason, .. }) => failed = Some(reason),
            },
            // It is not there, or not ours to cancel.
            Ok(Err(_)) | Err(NoAnswer { is_gone: true, .. }) => {}
            Err(NoAnswer { reason, .. }) => failed = Some(reason),
        },
        Ok(None) => {}
        Err(NoAnswer { reason, .. }) => failed = Some(reason),
    }
    drop(flight);
    if let Some(reason) = failed {
        return unanswered(owner, settings, project, call, reason);
    }
    answered(owner, |workspace| {
        let event = answers::closed(workspace.projects.get(&project)?, at, brought)?;
        Some((project, event))
    });
}

/// What is reserved at `econ` for a quota of a project.
fn reservation_of(owner: Principal, project: ProjectId, quota: QuotaKind) -> Option<ReserveArgs> {
    state::mutate(|state| {
        let cost = state.store.load(owner).projects.get(&project)?.record.plan.cost;
        let resource = match quota {
            QuotaKind::Creations => Resource::Creation(cost.creations),
            QuotaKind::Tokens => Resource::Tokens(cost.tokens),
        };
        let key = format!("p{project}/{quota:?}");
        let expires_ns = time().saturating_add(RESERVATION_NS);
        Some(ReserveArgs { account: owner, resource, key, expires_ns })
    })
}

async fn reserve(flight: Flight, settings: &CoordinatorInitArgs, quota: QuotaKind) {
    let (owner, (project, call)) = (flight.0, flight.1.clone());
    let Some(args) = reservation_of(owner, project, quota) else { return };
    let outcome = match settings.econ {
        None => Ok(None),
        Some(econ) => match platform::reserve(econ, args).await {
            Ok(Ok(reservation)) => Ok(Some(reservation.id)),
            Ok(Err(error @ (EconError::Busy { .. } | EconError::RateLimited { .. }))) => {
                drop(flight);
                return unanswered(owner, settings, project, call, error.to_string());
            }
            Ok(Err(EconError::QuotaExceeded { resource, requested, available, .. })) => Err(format!(
                "the subscription has room for {available} more {resource}, {requested} are asked for"
            )),
            Ok(Err(error)) => Err(error.to_string()),
            Err(NoAnswer { reason, .. }) => {
                drop(flight);
                return unanswered(owner, settings, project, call, reason);
            }
        },
    };
    drop(flight);
    answered(owner, |workspace| {
        let entry = workspace.projects.get(&project)?;
        let event = match outcome {
            Ok(reservation) => answers::reserved(entry, quota, reservation),
            Err(reason) => answers::refused(entry, quota, reason),
        };
        event.map(|event| (project, event))
    });
}

async fn settle(flight: Flight, settings: &CoordinatorInitArgs, quota: QuotaKind) {
    let (owner, (project, call)) = (flight.0, flight.1.clone());
    let used = state::mutate(|state| {
        let workspace = state.store.load(owner);
        let entry = workspace.projects.get(&project)?;
        let used = match quota {
            QuotaKind::Creations => {
                let agents = decide::created_agents(workspace, entry);
                (agents.len() as u64, agents, None)
            }
            QuotaKind::Tokens => (entry.record.tokens, Vec::new(), Some(usage_of(&entry.record))),
        };
        Some((*entry.quotas.get(&quota)?, used))
    });
    let Some((held, used)) = used else { return };
    let amount = used.0;
    if let Some(econ) = settings.econ
        && let Err(NoAnswer { reason, .. }) = settle_at(econ, (owner, project, quota), held, used).await
    {
        drop(flight);
        return unanswered(owner, settings, project, call, reason);
    }
    drop(flight);
    answered(owner, |workspace| {
        let event = answers::settled(workspace.projects.get(&project)?, quota, amount)?;
        Some((project, event))
    });
}

/// What a project's runs were like together. Agents count instructions and not cycles.
fn usage_of(record: &Project) -> UsageEnvelope {
    let began = record.started_at_ns.unwrap_or(record.created_at_ns);
    UsageEnvelope {
        latency_ns: record.ended_at_ns.unwrap_or(began).saturating_sub(began),
        tokens_in: record.tokens.saturating_sub(record.generated_tokens),
        tokens_out: record.generated_tokens,
        instructions: record.instructions,
        cycles: 0,
    }
}

/// Settles at `econ`. A reservation whose outcome is not known is asked for again first: the same key is the same reservation.
async fn settle_at(
    econ: Principal,
    (owner, project, quota): (Principal, ProjectId, QuotaKind),
    held: Quota,
    (amount, agents, usage): (u64, Vec<Principal>, Option<UsageEnvelope>),
) -> Result<(), NoAnswer> {
    let reservation = match held {
        Quota::Held(reservation) => reservation,
        Quota::Settled => None,
        Quota::Asked => match reservation_of(owner, project, quota) {
            Some(args) => platform::reserve(econ, args).await?.ok().map(|it| it.id),
            None => None,
        },
    };
    let Some(reservation) = reservation else { return Ok(()) };
    let outcome = if amount == 0 {
        platform::release(econ, reservation).await?
    } else {
        let args = SettleArgs { reservation, amount, agents, usage };
        platform::settle(econ, args).await?.map(|_| ())
    };
    match outcome {
        // What is not known there any more was settled before, or has expired.
        Ok(()) | Err(EconError::UnknownReservation { .. } | EconError::ReservationEnded { .. }) => Ok(()),
        Err(error) => Err(NoAnswer::of(error)),
    }
}
