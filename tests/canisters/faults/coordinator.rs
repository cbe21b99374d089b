//! A project of two agents: whatever happens, each task reaches exactly one terminal state exactly once (INV-C1), the log is the state
//! (INV-C2), and what was reserved is settled with what was used (INV-C4).

use std::collections::BTreeMap;

use super::*;
use crate::econ::Shop;
use ohms_coordinator::workspace::Workspace;
use ohms_tests::artifact::Artifact;
use ohms_tests::coordinator::Coordinator;
use ohms_tests::network::{admin, owner};
use shared_types::agent::{AgentError, JobPage, ListJobsArgs};
use shared_types::coordinator::{
    AfterFailure, AgentState, CoordinatorConfig, CoordinatorError, CreatePlanArgs, EventKind, PlanRequest,
    Project, ProjectId, ProjectState, TaskSpec, Work,
};
use shared_types::econ::{EconConfig, ServiceGrant, ServiceRole};

const SECOND: u64 = 1_000_000_000;

/// Runs of a sweep, of those that are possible.
const SWEPT: usize = 20;

fn request() -> PlanRequest {
    let task = |role: &str, prompt: &str| {
        Work::Task(TaskSpec {
            title: None,
            role: role.to_owned(),
            prompt: prompt.to_owned(),
            capabilities: Vec::new(),
            max_tokens: Some(3),
            temperature_permille: None,
        })
    };
    let parallel = Work::Parallel(vec![task("writer", "One"), task("reviewer", "Two")]);
    let work = Work::Sequence(vec![parallel, task("writer", "Both")]);
    PlanRequest { work: Some(work), ..PlanRequest::of("A tale") }
}

/// Repeats a request until it is answered.
fn insist<R: candid::CandidType + serde::de::DeserializeOwned>(
    coordinator: &Coordinator,
    method: &str,
    args: &(impl candid::utils::ArgumentEncoder + Clone),
) -> R {
    for _ in 0..40 {
        let answer: Result<Result<R, CoordinatorError>, _> =
            coordinator.network.update_patiently(owner(), coordinator.id, method, args.clone());
        if let Ok(answer) = answer {
            return answer.unwrap_or_else(|error| panic!("{method}: {error}"));
        }
        coordinator.network.pic.advance_time(std::time::Duration::from_secs(20));
        coordinator.network.pic.tick();
    }
    panic!("{method} is not answered");
}

/// Somebody plans a project and approves it, under `plan`.
fn project(plan: &FaultPlan, may_fail: bool) -> Option<FaultTrace> {
    let (network, faults) = network()?;
    let shop = Shop::open(&network, EconConfig::default());
    shop.subscribe("Basic", "first");
    let config = CoordinatorConfig {
        lease_ns: 30 * SECOND,
        max_attempts: 6,
        dead_letter_ns: 300 * SECOND,
        ..CoordinatorConfig::default()
    };
    let coordinator = Coordinator::install(&network, &Artifact::long_context(), Some(shop.id), config);
    let grant = ServiceGrant { service: coordinator.id, role: ServiceRole::Coordinator };
    shop.update::<()>(admin(), "grant_service", (grant,)).unwrap();

    faults.set(plan);
    let args = CreatePlanArgs { key: Some("tale".to_owned()), request: request() };
    let id = insist::<Project>(&coordinator, "create_plan", &(args,)).id;
    insist::<Project>(&coordinator, "approve_plan", &(id,));
    // A canister that is being stopped or has no cycles answers no query.
    let ended = network.wait_patiently("the end of the project", || {
        let answer: Result<(Result<Project, CoordinatorError>,), _> =
            pocket_ic::query_candid_as(&network.pic, coordinator.id, owner(), "get_project", (id,));
        answer.ok()?.0.ok().filter(|project| project.settled)
    });
    let trace = faults.clear();
    if !may_fail {
        assert_eq!(ended.state, ProjectState::Completed, "{:?} {trace}", coordinator.tasks(id));
    }
    check(&coordinator, &shop, id, may_fail, &trace);
    Some(trace)
}

fn check(coordinator: &Coordinator, shop: &Shop, id: ProjectId, may_fail: bool, trace: &FaultTrace) {
    let events = coordinator.events();
    let mut ends: BTreeMap<u32, u32> = BTreeMap::new();
    for event in &events {
        match &event.kind {
            EventKind::TaskCompleted { task, .. }
            | EventKind::TaskEnded { task, .. }
            | EventKind::AttemptFailed { task, then: AfterFailure::Reject, .. } => {
                *ends.entry(*task).or_default() += 1;
            }
            _ => {}
        }
    }
    let project = coordinator.project(id);
    let tasks = coordinator.tasks(id);
    for task in &tasks {
        assert!(task.state.is_terminal(), "{task:?} {trace}");
        assert_eq!(ends.get(&task.plan.id), Some(&1), "task {} ends once {trace}", task.plan.id);
    }
    let replayed = Workspace::replay(&events).unwrap_or_else(|error| panic!("{} {trace}", error.0));
    assert_eq!(replayed.projects[&id].view(), project, "{trace}");

    // Each agent was created once, and is charged once; what jobs took is what was charged.
    let account = shop.account();
    let agents: Vec<Principal> = coordinator
        .agents()
        .iter()
        .filter_map(|agent| match agent.state {
            AgentState::Ready(canister) => Some(canister),
            _ => None,
        })
        .collect();
    let created = agents.len() as u64;
    assert_eq!((account.open_reservations, account.creations.used), (0, created), "{account:?} {trace}");
    assert_eq!(u64::from(account.agents), created, "{trace}");
    let mut tokens = 0;
    for agent in agents {
        let args = ListJobsArgs { after: None, limit: 100 };
        let page: Result<JobPage, AgentError> =
            coordinator.network.query(owner(), agent, "list_jobs", (args,));
        for job in page.expect("the owner may read").jobs {
            assert!(job.state.is_final(), "{job:?} {trace}");
            tokens += u64::from(job.counts.prompt_tokens) + u64::from(job.counts.generated_tokens);
        }
    }
    assert_eq!((account.tokens.used, account.tokens.reserved), (project.tokens, 0), "{trace}");
    let calls: Vec<_> = events.iter().map(|event| (event.sequence, &event.kind)).collect();
    // A job that its agent does not speak of for long is given up, and its tokens are charged to nobody.
    assert!(tokens >= project.tokens && (may_fail || tokens == project.tokens), "{calls:?} {trace}");
}

/// The coordinator's id, which is the same in each run: it is who calls the agents.
fn coordinator_of(trace: &FaultTrace) -> Principal {
    let submits = trace.awaits.iter().find(|point| point.method == "submit_job");
    submits.expect("a job was submitted").caller
}

#[test]
fn each_task_ends_once_whatever_happens_at_an_await() {
    explore(
        |plan| project(plan, false),
        |trace| sample(at_each_await(trace, |point| point.caller == coordinator_of(trace)), SWEPT),
    );
}

#[test]
fn each_task_ends_once_whatever_happens_between_two_messages() {
    explore(
        |plan| project(plan, false),
        |trace| sample(at_every_message(trace, coordinator_of(trace)), SWEPT),
    );
}

#[test]
fn each_task_ends_once_whatever_the_seed() {
    explore(|plan| project(plan, true), |trace| at_random(0..6, coordinator_of(trace)));
}
