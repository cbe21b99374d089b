//! Random histories: whatever others answer, do not answer, answer late or twice, and whatever the owner asks for meanwhile,
//! each task reaches exactly one terminal state exactly once, and the log gives the state.

use std::collections::{BTreeMap, BTreeSet};

use candid::Principal;
use proptest::prelude::*;
use shared_types::ModelId;
use shared_types::agent::{
    FinishReason, GenerationParams, JobCounts, JobFailure, JobProgress, JobRecord, JobState, Priority,
};
use shared_types::coordinator::{
    AgentState, AttemptFailure, CallKind, CoordinatorConfig, CoordinatorError, CreatePlanArgs, Event,
    EventKind, NoQuorum, PlanRequest, ProjectId, QuotaKind, RoleTemplate, RunCounts, TaskId, TaskKey,
    TaskSpec, TaskState, VoteRule, Work,
};

use crate::commands::{self, Known};
use crate::decide::{self, Due, InFlight, Next, answers};
use crate::planner::ChosenModel;
use crate::workspace::{Inconsistent, Workspace};

const SECOND: u64 = 1_000_000_000;

fn config() -> CoordinatorConfig {
    CoordinatorConfig { dead_letter_ns: 600 * SECOND, ..CoordinatorConfig::default() }
}

/// An answer on its way.
#[derive(Clone, Debug)]
enum Answer {
    Call(ProjectId, CallKind, Fate),
    Poll(ProjectId, TaskId, u32, Fate),
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It does what was asked.
    Good,
    /// It is refused in a way that may pass.
    Refused,
    /// It is refused for good.
    Never,
    /// It is done, but the answer is lost with the message that takes it.
    Lost,
    /// No answer came.
    NoAnswer,
}

/// The workspace with everything around it, driven by numbers.
struct World {
    workspace: Workspace,
    log: Vec<Event>,
    config: CoordinatorConfig,
    now_ns: u64,
    in_flight: InFlight,
    polling: BTreeSet<(ProjectId, TaskId, u32)>,
    answers: Vec<Answer>,
    /// What agents did, by attempt: how many looks until it ends.
    jobs: BTreeMap<(ProjectId, TaskId, u32), u32>,
    /// Creations and reservations that took place, for each at most one.
    created: BTreeSet<String>,
}

impl World {
    fn new() -> Self {
        Self {
            workspace: Workspace::default(),
            log: Vec::new(),
            config: config(),
            now_ns: SECOND,
            in_flight: InFlight::new(),
            polling: BTreeSet::new(),
            answers: Vec::new(),
            jobs: BTreeMap::new(),
            created: BTreeSet::new(),
        }
    }

    fn record(&mut self, (project, kind): Next) {
        let sequence = self.workspace.last_sequence + 1;
        let event = Event { sequence, time_ns: self.now_ns, project, kind };
        if let Err(Inconsistent(reason)) = self.workspace.apply(&event) {
            panic!("{reason}: {event:?}");
        }
        self.log.push(event);
    }

    fn plan(&mut self, work: Option<Work>, instruction: &str) -> ProjectId {
        let request = PlanRequest { work, ..PlanRequest::of(instruction) };
        let args = CreatePlanArgs { key: None, request };
        let model =
            |_: &RoleTemplate, _: Option<ModelId>| ChosenModel { model_id: ModelId::ZERO, chats: false };
        let (id, events) = commands::create_plan(
            &self.workspace,
            &self.config,
            Known { model_of: &model, near: &[], proposal: None },
            args,
        )
        .expect("a plan");
        for event in events {
            self.record(event);
        }
        if let Ok(Some(event)) = commands::approve_plan(&self.workspace, &self.config, id) {
            self.record(event);
        }
        id
    }

    /// What follows without anybody, and the calls that are due.
    fn settle(&mut self, fates: &mut impl Iterator<Item = Fate>) {
        let mut events = 0;
        while let Some(next) = decide::next_event(&self.workspace, &self.config, &self.in_flight, self.now_ns)
        {
            self.record(next);
            events += 1;
            assert!(events < 5_000, "it does not come to rest");
        }
        for due in decide::due(&self.workspace, &self.in_flight, self.now_ns) {
            let fate = fates.next().unwrap_or(Fate::Good);
            match due {
                Due::Call(project, call) => {
                    self.record((Some(project), EventKind::CallBegun { call: call.clone() }));
                    self.in_flight.insert((project, call.clone()));
                    self.answers.push(Answer::Call(project, call, fate));
                }
                Due::Poll(project, task, attempt) => {
                    if self.polling.insert((project, task, attempt)) {
                        self.answers.push(Answer::Poll(project, task, attempt, fate));
                    }
                }
            }
        }
    }

    fn progress(key: (ProjectId, TaskId, u32), state: JobState) -> JobProgress {
        let counts = JobCounts { prompt_tokens: 5, generated_tokens: 3, ..JobCounts::default() };
        JobProgress {
            job: JobRecord {
                job_id: u64::from(key.1),
                caller: Principal::anonymous(),
                key: None,
                priority: Priority::Standard,
                max_instructions: None,
                deadline_ns: None,
                params: GenerationParams::default(),
                state,
                counts,
                submitted_at_ns: 0,
                started_at_ns: None,
                finished_at_ns: None,
                receipt: None,
                repeats: None,
            },
            tokens: vec![1, 2, 3],
            text: format!("text of {}", key.1 % 2),
            next_token: 3,
        }
    }

    /// An answer arrives, as the driver takes it.
    fn arrive(&mut self, answer: Answer) {
        match answer {
            Answer::Poll(project, task, attempt, fate) => {
                self.polling.remove(&(project, task, attempt));
                let key = (project, task, attempt);
                let looks = self.jobs.entry(key).or_insert(task % 3);
                let ended = *looks == 0;
                *looks = looks.saturating_sub(1);
                let state = match fate {
                    Fate::Lost | Fate::NoAnswer => return,
                    Fate::Good | Fate::Refused if !ended => JobState::Running,
                    Fate::Good => JobState::Done { reason: FinishReason::MaxTokens },
                    Fate::Refused => JobState::Failed {
                        reason: JobFailure::SliceTrapped { attempts: 3, message: "trapped".to_owned() },
                    },
                    Fate::Never if task % 2 == 0 => {
                        JobState::Failed { reason: JobFailure::PromptTooLong { tokens: 300, context: 256 } }
                    }
                    Fate::Never => JobState::Cancelled,
                };
                let progress = Self::progress(key, state);
                let Some(entry) = self.workspace.projects.get(&project) else { return };
                let event = answers::progress(entry, &self.config, (task, attempt), progress, self.now_ns);
                if let Some(event) = event {
                    self.record((Some(project), event));
                }
            }
            Answer::Call(project, call, fate) => {
                self.in_flight.remove(&(project, call.clone()));
                if fate == Fate::Lost {
                    return;
                }
                let event = self.answer(project, call, fate);
                if let Some(event) = event {
                    self.record((Some(project), event));
                }
            }
        }
    }

    fn answer(&mut self, project: ProjectId, call: CallKind, fate: Fate) -> Option<EventKind> {
        let entry = self.workspace.projects.get(&project)?;
        let unanswered = |call| answers::unanswered(entry, &self.config, call, "no".to_owned(), self.now_ns);
        if fate == Fate::NoAnswer {
            return unanswered(call);
        }
        match call {
            CallKind::Reserve(quota) => match fate {
                Fate::Good => answers::reserved(entry, quota, Some(1)),
                Fate::Never => answers::refused(entry, quota, "quota".to_owned()),
                _ => unanswered(CallKind::Reserve(quota)),
            },
            CallKind::Settle(quota) => match fate {
                Fate::Good => answers::settled(entry, quota, 1),
                _ => unanswered(CallKind::Settle(quota)),
            },
            CallKind::CreateAgent(agent) => {
                let creating = self.workspace.agents.get(&agent)?.state == AgentState::Creating;
                match fate {
                    Fate::Good => {
                        self.created.insert(agent.clone());
                        let canister = Principal::management_canister();
                        creating.then_some(EventKind::AgentCreated { agent, canister })
                    }
                    Fate::Never => {
                        creating.then(|| EventKind::AgentFailed { agent, reason: "no".to_owned() })
                    }
                    _ => unanswered(CallKind::CreateAgent(agent)),
                }
            }
            CallKind::Submit { task, attempt } => {
                let open = entry.attempt(task, attempt)?.stage.is_open();
                let failed = |failure| {
                    open.then(|| {
                        answers::failed(
                            entry,
                            &self.config,
                            (task, attempt),
                            failure,
                            RunCounts::default(),
                            self.now_ns,
                        )
                    })
                };
                match fate {
                    Fate::Good => answers::accepted(entry, (task, attempt), u64::from(task)),
                    Fate::Refused => failed(AttemptFailure::Busy),
                    Fate::Never if task % 3 == 0 => failed(AttemptFailure::Refused("no".to_owned())),
                    _ => failed(AttemptFailure::Unauthorized),
                }
            }
            CallKind::Close { task, attempt } => {
                let late = (fate == Fate::Good).then(|| {
                    Self::progress(
                        (project, task, attempt),
                        JobState::Done { reason: FinishReason::EndOfText },
                    )
                });
                answers::closed(entry, (task, attempt), late)
            }
        }
    }

    /// Lets everything succeed until nothing is left to do.
    fn finish(&mut self) {
        for _ in 0..3_000 {
            self.settle(&mut std::iter::empty());
            if self.answers.is_empty() && !self.workspace.is_active() {
                return;
            }
            for answer in std::mem::take(&mut self.answers) {
                self.arrive(answer);
            }
            self.now_ns += 30 * SECOND;
        }
        panic!("it does not end: {:?}", self.workspace.projects);
    }

    /// The promises.
    fn check(&self) {
        let replayed = Workspace::replay(&self.log).expect("the log replays");
        assert_eq!(replayed, self.workspace, "the log gives the state");
        let begin = self.log.iter().rposition(|event| matches!(event.kind, EventKind::Erased { .. }));
        let kept = Workspace::replay(&self.log[begin.unwrap_or(0)..]).expect("what is kept replays");
        assert_eq!(kept, self.workspace, "what is kept gives the state");
        let mut ends: BTreeMap<(ProjectId, TaskId), u32> = BTreeMap::new();
        let mut settled: BTreeMap<(ProjectId, QuotaKind), u32> = BTreeMap::new();
        let mut project_ends: BTreeMap<ProjectId, u32> = BTreeMap::new();
        for event in &self.log {
            let project = event.project.unwrap_or_default();
            match &event.kind {
                EventKind::TaskCompleted { task, .. }
                | EventKind::TaskEnded { task, .. }
                | EventKind::AttemptFailed {
                    task,
                    then: shared_types::coordinator::AfterFailure::Reject,
                    ..
                } => *ends.entry((project, *task)).or_default() += 1,
                EventKind::Settled { quota, .. } | EventKind::Refused { quota, .. } => {
                    *settled.entry((project, *quota)).or_default() += 1;
                }
                EventKind::ProjectEnded { .. } => *project_ends.entry(project).or_default() += 1,
                _ => {}
            }
        }
        assert!(ends.values().all(|ends| *ends == 1), "no task ends twice, erased or not");
        for (id, entry) in &self.workspace.projects {
            assert!(entry.record.state.is_terminal(), "{:?}", entry.record.state);
            assert_eq!(project_ends.get(id), Some(&1), "each project ends once");
            assert!(entry.is_settled(), "{:?}", entry.quotas);
            for quota in entry.quotas.keys() {
                assert_eq!(settled.get(&(*id, *quota)), Some(&1), "each quota is settled once");
            }
            for task in entry.tasks.values() {
                assert!(task.state.is_terminal());
                assert_eq!(ends.get(&(*id, task.plan.id)), Some(&1), "task {} ends once", task.plan.id);
                assert_eq!(task.state == TaskState::Completed, task.artifact.is_some());
                assert!(task.attempts.iter().all(|attempt| !attempt.stage.is_open() && !attempt.closing));
            }
        }
        assert!(self.workspace.agents.values().all(|agent| agent.load == 0), "nobody has anything to do");
        for agent in self.workspace.agents.values() {
            assert_ne!(agent.state, AgentState::Creating);
        }
    }
}

fn spec(role: &str, name: &str) -> TaskSpec {
    TaskSpec {
        title: None,
        role: role.to_owned(),
        prompt: name.to_owned(),
        capabilities: Vec::new(),
        max_tokens: Some(8),
        temperature_permille: None,
    }
}

fn work() -> Work {
    let writer = |name: &str| Work::Task(spec("writer", name));
    let rule = VoteRule { quorum: 2, timeout_ns: Some(900 * SECOND), no_quorum: NoQuorum::Fail };
    Work::Sequence(vec![
        Work::Parallel(vec![writer("a"), writer("b"), writer("c")]),
        Work::Hierarchy {
            lead: spec("lead", "d"),
            parts: vec![writer("e"), Work::Task(spec("reviewer", "f"))],
        },
        Work::Vote { task: spec("writer", "g"), voters: 3, rule },
    ])
}

#[derive(Clone, Debug)]
enum Step {
    /// Answers arrive, from this position of those under way on.
    Arrive(usize),
    /// Time passes, in seconds.
    Wait(u64),
    /// The messages of an upgrade: nothing is under way after it.
    Upgrade,
    CancelProject,
    CancelTask(u32),
    Replay(u32),
    Discard(u32),
    Rate(u32),
    AddTask(u32),
    Another,
    Erase,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0usize..8).prop_map(Step::Arrive),
        8 => prop_oneof![1u64..5, 100u64..200, 500u64..4_000].prop_map(Step::Wait),
        1 => Just(Step::Upgrade),
        1 => Just(Step::CancelProject),
        1 => (1u32..11).prop_map(Step::CancelTask),
        2 => (1u32..11).prop_map(Step::Replay),
        1 => (1u32..11).prop_map(Step::Discard),
        1 => (1u32..11).prop_map(Step::Rate),
        1 => (1u32..11).prop_map(Step::AddTask),
        1 => Just(Step::Another),
        1 => Just(Step::Erase),
    ]
}

fn fate(number: u8) -> Fate {
    match number % 16 {
        0..10 => Fate::Good,
        10..12 => Fate::Refused,
        12 => Fate::Never,
        13 => Fate::Lost,
        _ => Fate::NoAnswer,
    }
}

fn run(steps: &[Step], fates: &[u8]) -> World {
    let mut world = World::new();
    let mut fates = fates.iter().cycle().map(|number| fate(*number)).take(100_000);
    let first = world.plan(Some(work()), "Write and review tales");
    for step in steps {
        world.settle(&mut fates);
        let project = world.workspace.last_project;
        let key = |task: u32| TaskKey { project, task };
        let event = match step {
            Step::Arrive(at) => {
                if !world.answers.is_empty() {
                    let at = at % world.answers.len();
                    let answer = world.answers.remove(at);
                    world.arrive(answer);
                }
                None
            }
            Step::Wait(seconds) => {
                world.now_ns += seconds * SECOND;
                None
            }
            Step::Upgrade => {
                world.in_flight.clear();
                world.polling.clear();
                world.answers.clear();
                None
            }
            Step::CancelProject => commands::cancel_project(&world.workspace, first).ok().flatten(),
            Step::CancelTask(task) => commands::cancel_task(&world.workspace, key(*task)).ok(),
            Step::Replay(task) => commands::replay_task(&world.workspace, key(*task)).ok(),
            Step::Discard(task) => commands::discard_task(&world.workspace, key(*task)).ok(),
            Step::Rate(task) => {
                let args = shared_types::coordinator::RateTaskArgs { task: key(*task), stars: 4 };
                commands::rate_task(&world.workspace, &args).ok()
            }
            Step::AddTask(task) => {
                let work = Work::Task(spec("reviewer", "more"));
                let args = shared_types::coordinator::AddTasksArgs { project, parent: Some(*task), work };
                commands::add_tasks(&world.workspace, &world.config, &args).ok()
            }
            Step::Another if world.workspace.last_project < 3 => {
                world.plan(None, "Create two agents that write a tale, then review it");
                None
            }
            Step::Another => None,
            Step::Erase => commands::erase(&world.workspace).ok().flatten(),
        };
        if let Some(event) = event {
            world.record(event);
        }
    }
    world.finish();
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8 * ProptestConfig::default().cases))]

    /// INV-C1, INV-C2, INV-C4.
    #[test]
    fn each_task_ends_once_whatever_happens(
        steps in prop::collection::vec(step(), 0..120),
        fates in prop::collection::vec(any::<u8>(), 1..60),
    ) {
        run(&steps, &fates).check();
    }
}

/// The numbers of what was erased are not given again: an agent takes a job with a known key for the one that it has.
#[test]
fn erased_workspaces_begin_anew_with_new_numbers() {
    let mut world = run(&[], &[0]);
    world.record(commands::erase(&world.workspace).expect("all is over").expect("there is something"));
    assert!(world.workspace.projects.is_empty() && world.workspace.agents.is_empty());
    assert_eq!(commands::erase(&world.workspace), Ok(None), "nothing is left to erase");
    let next = world.plan(Some(work()), "Write and review tales");
    assert_eq!(next, 2);
    world.settle(&mut std::iter::empty());
    let refused = CoordinatorError::ProjectNotOver { project: next };
    assert_eq!(commands::erase(&world.workspace), Err(refused));
    world.finish();
    world.check();
}

/// The check finds what it looks for.
#[test]
fn a_second_end_is_refused() {
    let world = run(&[], &[0]);
    world.check();
    let ended =
        world.log.iter().find(|event| matches!(event.kind, EventKind::TaskCompleted { .. })).expect("an end");
    let mut workspace = world.workspace.clone();
    let again = Event { sequence: workspace.last_sequence + 1, ..ended.clone() };
    assert!(workspace.apply(&again).is_err());
    let mut log = world.log.clone();
    log.swap(3, 4);
    assert!(Workspace::replay(&log).is_err());
}

#[test]
fn undisturbed_everything_is_completed() {
    let world = run(&[], &[0]);
    let entry = &world.workspace.projects[&1];
    assert_eq!(
        entry.record.state,
        shared_types::coordinator::ProjectState::Completed,
        "{:?}",
        entry.counts()
    );
    // Two equal answers decide the vote; the third voter may not be needed any more.
    assert!(entry.counts().completed >= 9, "{:?}", entry.counts());
}
