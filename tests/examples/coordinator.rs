//! `cargo xtask bench coordinator`: how many tasks an hour go through the coordinator, by the number of agents, in the network's own time. A
//! round is a second, which is slower than the Internet Computer's; the model has the bundled one's context, and random weights.

use std::io::Write;
use std::time::Duration;

use ohms_tests::artifact::Artifact;
use ohms_tests::coordinator::Coordinator;
use ohms_tests::network::Network;
use shared_types::coordinator::{CoordinatorConfig, PlanRequest, Project, ProjectState, TaskSpec, Work};

const TASKS: usize = 200;

/// What a round takes on the network.
const ROUND: Duration = Duration::from_secs(1);

/// Tokens that a task generates.
const TOKENS: u32 = 48;

fn task(number: usize) -> Work {
    Work::Task(TaskSpec {
        title: None,
        role: "writer".to_owned(),
        prompt: format!("Write tale number {number}"),
        capabilities: Vec::new(),
        max_tokens: Some(TOKENS),
        temperature_permille: None,
    })
}

/// Runs the tasks on so many agents; the project as it ended, rounds, and the cycles that the coordinator took.
fn run(artifact: &Artifact, agents: u32) -> anyhow::Result<(Project, u32, u128, usize)> {
    let network = Network::new();
    let coordinator = Coordinator::install(&network, artifact, None, CoordinatorConfig::default());
    let work = Work::Parallel((0..TASKS).map(task).collect());
    let instruction = format!("Create {agents} writers");
    let request = PlanRequest { work: Some(work), ..PlanRequest::of(instruction) };
    let plan = coordinator.plan(request)?;
    anyhow::ensure!(plan.plan.agents.len() == agents as usize, "{} agents", plan.plan.agents.len());
    let before = network.pic.cycle_balance(coordinator.id);
    coordinator.approve(plan.id);
    for round in 0..20_000 {
        network.pic.advance_time(ROUND);
        network.pic.tick();
        let project = coordinator.project(plan.id);
        if project.settled {
            anyhow::ensure!(project.state == ProjectState::Completed, "{:?}", project.state);
            let cycles = before - network.pic.cycle_balance(coordinator.id);
            return Ok((project, round + 1, cycles, coordinator.events().len()));
        }
    }
    anyhow::bail!("the tasks did not end")
}

fn main() -> anyhow::Result<()> {
    let artifact = Artifact::long_context();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "| agents | tasks | tokens | network time | tasks per hour | coordinator's cycles per task | events |\n|---|---|---|---|---|---|---|"
    )?;
    for agents in [1, 5, 20] {
        let (project, rounds, cycles, events) = run(&artifact, agents)?;
        // With the creation of the agents and the load of their models.
        let began = project.started_at_ns.unwrap_or(project.created_at_ns);
        let seconds = project.ended_at_ns.unwrap_or(began).saturating_sub(began) as f64 / 1e9;
        writeln!(
            out,
            "| {agents} | {} | {} | {seconds:.0} s in {rounds} rounds | {:.0} | {:.1} M | {events} |",
            project.counts.completed,
            project.tokens,
            f64::from(project.counts.completed) * 3_600.0 / seconds,
            cycles as f64 / 1e6 / TASKS as f64,
        )?;
    }
    Ok(())
}
