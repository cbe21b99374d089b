//! From one sentence to a team: a person subscribes, says what is wanted, sees the plan and its cost, approves it, and reads what three
//! agents made of it; the sixth agent is one too many for the subscription.

use crate::canisters::Client;
use crate::economy::Economy;
use crate::{fact, step};
use anyhow::{Context, bail, ensure};
use candid::{Nat, Principal};
use icrc_ledger_types::icrc2::approve::{ApproveArgs, ApproveError};
use serde::Serialize;
use shared_types::agent::AgentError;
use shared_types::coordinator::{
    AgentPage, AgentState, AgentsArgs, CoordinatorError, CreatePlanArgs, Plan, PlanRequest, Project,
    ProjectId, ProjectState, RegisteredAgent, Task, TaskKey, TaskPage, TaskState, TasksArgs,
};
use shared_types::econ::usage::{UsageArgs, UsagePage};
use shared_types::econ::{
    Account, AccountSummary, EconError, Invoice, InvoiceState, PaymentMethod, SubscribeArgs,
    payment_subaccount,
};
use shared_types::receipt::{CertifiedReceipt, ReceiptKey};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// What the person says.
const INSTRUCTION: &str = "Create three agents that write a tale, review it and title it";

/// Tokens that each task may generate.
const TOKENS_PER_TASK: u32 = 96;

/// Name of the identity whose team it is.
pub const OWNER: &str = "owner";

/// What econ may take from the owner's account, in millionths of a dollar.
const ALLOWANCE: u64 = 50_000_000;

/// What the team did. The keys are those of `--json`.
#[derive(Serialize)]
pub struct TeamReport {
    team_tasks: u32,
    team_tokens: u64,
    team_seconds: f64,
    /// Why it was refused.
    pub sixth_agent: String,
}

impl fmt::Display for TeamReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tasks, {} tokens, {:.1} s", self.team_tasks, self.team_tokens, self.team_seconds)
    }
}

/// Has `owner` subscribe and make a team of agents.
pub async fn run(owner: &Client, economy: &Economy) -> anyhow::Result<TeamReport> {
    step("subscription");
    subscribe(owner, economy).await?;

    step("plan");
    let team = Team { owner, coordinator: economy.coordinator };
    let request = PlanRequest { max_tokens_per_task: Some(TOKENS_PER_TASK), ..PlanRequest::of(INSTRUCTION) };
    fact("instruction", INSTRUCTION);
    let project = team.plan(request).await?;
    show(&project.plan);

    step("team, as it works");
    let ended = team.run(project.id).await?;
    ensure!(ended.state == ProjectState::Completed, "the project ended as {:?}", ended.state);
    team.show_results(project.id).await?;

    step("usage");
    let args = UsageArgs { account: None, after: None, limit: 10 };
    let usage: UsagePage = owner.query::<_, EconError>(economy.econ, "usage", (args,)).await?;
    for run in &usage.records {
        let run = run.envelope;
        fact(
            "charged",
            format!(
                "{} tokens of prompts, {} generated, {:.2} B instructions, {:.1} s",
                run.tokens_in,
                run.tokens_out,
                run.instructions as f64 / 1e9,
                run.latency_ns as f64 / 1e9
            ),
        );
    }
    let account: AccountSummary =
        owner.query::<_, EconError>(economy.econ, "account", (None::<Principal>,)).await?;
    let period = account.subscription.period.context("there is no period")?;
    fact("agents", format!("{} of {}", account.agents, period.terms.max_agents));
    fact("tokens", format!("{} of {}", account.tokens.used, period.tokens));
    ensure!(account.tokens.used == ended.tokens, "{} tokens were used", ended.tokens);

    step("the sixth agent");
    let fifth = team.plan(PlanRequest::of("Create two developers")).await?;
    let fifth = team.run(fifth.id).await?;
    ensure!(fifth.state == ProjectState::Completed, "the project ended as {:?}", fifth.state);
    let sixth = team.plan(PlanRequest::of("Create a tester")).await?;
    let ProjectState::Failed { reason } = team.run(sixth.id).await?.state else {
        bail!("a sixth agent was created on Basic");
    };
    fact("refused", &reason);
    let seconds = ended.ended_at_ns.zip(ended.started_at_ns).map_or(0, |(end, start)| end - start);
    Ok(TeamReport {
        team_tasks: ended.counts.completed,
        team_tokens: ended.tokens,
        team_seconds: seconds as f64 / 1e9,
        sixth_agent: reason,
    })
}

/// Approves what econ may take, and subscribes to Basic.
async fn subscribe(owner: &Client, economy: &Economy) -> anyhow::Result<()> {
    let approve = ApproveArgs {
        from_subaccount: None,
        spender: Account { owner: economy.econ, subaccount: Some(payment_subaccount(owner.principal())) },
        amount: ALLOWANCE.into(),
        expected_allowance: None,
        expires_at: None,
        fee: None,
        memo: None,
        created_at_time: None,
    };
    let args = candid::encode_one(approve)?;
    let reply = owner.ic_agent().update(&economy.ledger, "icrc2_approve").with_arg(args).await;
    let approved: Result<Nat, ApproveError> = candid::decode_one(&reply.context("the allowance")?)?;
    approved.map_err(|error| anyhow::anyhow!("the allowance: {error:?}"))?;
    let method = PaymentMethod { ledger: economy.ledger, from: owner.principal().into() };
    let args = SubscribeArgs { tier: "Basic".to_owned(), method, key: "demo".to_owned() };
    let invoice: Invoice = owner.update::<_, EconError>(economy.econ, "subscribe", (args,)).await?;
    ensure!(matches!(invoice.state, InvoiceState::Paid { .. }), "the invoice is {:?}", invoice.state);
    fact("Basic", format!("${:.2}, paid on the ledger", invoice.total_cents as f64 / 100.0));
    Ok(())
}

fn show(plan: &Plan) {
    for agent in &plan.agents {
        fact("agent", format!("{} ({})", agent.name, agent.role));
    }
    for task in &plan.tasks {
        let after: Vec<String> = task.after.iter().map(u32::to_string).collect();
        let after = if after.is_empty() { String::new() } else { format!(", after {}", after.join(", ")) };
        fact("task", format!("{}. {} ({}{after})", task.id, task.title, task.role));
    }
    fact("cost", format!("{} creations, at most {} tokens", plan.cost.creations, plan.cost.tokens));
}

/// A person and a coordinator.
struct Team<'a> {
    owner: &'a Client,
    coordinator: Principal,
}

impl Team<'_> {
    async fn plan(&self, request: PlanRequest) -> anyhow::Result<Project> {
        let args = CreatePlanArgs { key: None, request };
        let project: Project =
            self.owner.update::<_, CoordinatorError>(self.coordinator, "create_plan", (args,)).await?;
        ensure!(project.state == ProjectState::Planned, "the plan: {:?}", project.analysis.questions);
        Ok(project)
    }

    /// Approves a plan, and says what happens until the project has ended and its quota is settled.
    async fn run(&self, id: ProjectId) -> anyhow::Result<Project> {
        self.owner
            .update::<Project, CoordinatorError>(self.coordinator, "approve_plan", (id,))
            .await
            .context("the approval")?;
        let began = Instant::now();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        loop {
            for (what, state) in self.states(id).await? {
                if seen.get(&what) != Some(&state) {
                    fact(&what, &state);
                    seen.insert(what, state);
                }
            }
            let project: Project =
                self.owner.query::<_, CoordinatorError>(self.coordinator, "get_project", (id,)).await?;
            if project.settled {
                return Ok(project);
            }
            ensure!(
                began.elapsed() < Duration::from_mins(5),
                "the project did not end: {:?}",
                project.counts
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Where the agents and tasks of a project stand.
    async fn states(&self, project: ProjectId) -> anyhow::Result<Vec<(String, String)>> {
        let mut states = Vec::new();
        for agent in self.agents().await?.into_iter().filter(|agent| agent.project == project) {
            let state = match agent.state {
                AgentState::Creating => "being created".to_owned(),
                AgentState::Ready(canister) => format!("runs in {canister}"),
                AgentState::Failed { reason } => reason,
            };
            states.push((agent.name, state));
        }
        for task in self.tasks(project).await? {
            let agent = task.attempts.last().map(|attempt| format!(", {}", attempt.agent));
            let agent = if task.state == TaskState::Working { agent } else { None };
            states.push((
                format!("task {}", task.plan.id),
                format!("{:?}{}", task.state, agent.unwrap_or_default()),
            ));
        }
        Ok(states)
    }

    async fn agents(&self) -> anyhow::Result<Vec<RegisteredAgent>> {
        let args = AgentsArgs { after: None, limit: 100 };
        let page: AgentPage =
            self.owner.query::<_, CoordinatorError>(self.coordinator, "agents", (args,)).await?;
        Ok(page.agents)
    }

    async fn tasks(&self, project: ProjectId) -> anyhow::Result<Vec<Task>> {
        let args = TasksArgs { project, after: None, limit: 100 };
        let page: TaskPage =
            self.owner.query::<_, CoordinatorError>(self.coordinator, "tasks", (args,)).await?;
        Ok(page.tasks)
    }

    /// Prints what each task made, with its agent's receipt.
    async fn show_results(&self, project: ProjectId) -> anyhow::Result<()> {
        let agents = self.agents().await?;
        for task in self.tasks(project).await? {
            let key = TaskKey { project, task: task.plan.id };
            let text: String =
                self.owner.query::<_, CoordinatorError>(self.coordinator, "artifact", (key,)).await?;
            println!("\n{}:\n{}\n", task.plan.title, text.trim());
            let name = &task.attempts.last().context("there was no attempt")?.agent;
            let agent = agents.iter().find(|agent| agent.name == *name).context("the agent is unknown")?;
            let AgentState::Ready(canister) = agent.state else { bail!("{name} does not run") };
            let number = task.artifact.as_ref().and_then(|it| it.receipt).context("there is no receipt")?;
            let certified: CertifiedReceipt = self
                .owner
                .query::<_, AgentError>(canister, "get_receipt", (ReceiptKey::Sequence(number),))
                .await?;
            fact("receipt", format!("{number} of {name}: {}", certified.hash));
        }
        Ok(())
    }
}
