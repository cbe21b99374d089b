//! A plan from what the rules have found, or from the tasks that the caller names.

use std::collections::BTreeMap;

use shared_types::coordinator::{
    AgentState, Analysis, BreakerState, Clause, CoordinatorConfig, CoordinatorError, LimitKind, NoQuorum,
    Plan, PlanCost, PlanRequest, PlannedAgent, PlannedTask, ProjectId, RegisteredAgent, RoleTemplate, TaskId,
    TaskKind, TaskSpec, VoteRule, Work,
};
use shared_types::model::{Capability, ModelRecord};
use shared_types::{ModelId, lifecycle::ModelStatus};

use crate::commands::Known;
use crate::graph::{self, Flatten};
use crate::{analysis, meaning, roles, text};

/// Temperature of tasks that an instruction asks for.
const TEMPERATURE_PERMILLE: u32 = 700;

/// What a plan depends on beside the request.
pub struct Planner<'a> {
    /// The project that the plan is for.
    pub project: ProjectId,
    /// Roles of the owner.
    pub own: &'a BTreeMap<String, RoleTemplate>,
    /// Agents of the owner.
    pub agents: &'a BTreeMap<String, RegisteredAgent>,
    /// The model of agents.
    pub known: Known<'a>,
    /// Limits.
    pub config: &'a CoordinatorConfig,
}

impl Planner<'_> {
    /// Analyses the instruction and makes a plan of it, which is empty while there are questions.
    ///
    /// # Errors
    /// [`CoordinatorError::InvalidField`], and what [`graph`] refuses.
    pub fn plan(&self, request: &PlanRequest) -> Result<(Analysis, Plan), CoordinatorError> {
        request.validate().map_err(CoordinatorError::InvalidField)?;
        let mut analysis = analysis::analyse(&request.instruction, self.own, self.config.max_agents);
        if let Some(proposal) = self.known.proposal {
            proposal.take(&mut analysis, self.own, self.config.max_agents);
        }
        let tasks = match &request.work {
            Some(work) => {
                analysis.questions.clear();
                let mut flatten = self.flatten(request);
                flatten.add(work, &[], None, 0)?;
                flatten.tasks
            }
            None if !analysis.questions.is_empty() => {
                meaning::suggest(&mut analysis, self.known.near);
                return Ok((analysis, Plan::default()));
            }
            None => self.tasks_of_clauses(request, &analysis)?,
        };
        graph::admit(&tasks.iter().collect::<Vec<_>>(), self.config)?;
        let agents = self.agents(request, &analysis, &tasks)?;
        let creations = agents.iter().filter(|agent| !agent.exists).count() as u32;
        let tokens = graph::tokens(&tasks.iter().collect::<Vec<_>>());
        Ok((analysis, Plan { agents, tasks, cost: PlanCost { creations, tokens } }))
    }

    fn flatten<'a>(&'a self, request: &PlanRequest) -> Flatten<'a> {
        let (own, config, max_tokens) = (self.own, self.config, request.max_tokens_per_task);
        Flatten { own, config, first: 1, max_tokens, tasks: Vec::new() }
    }

    /// Tasks of the clauses that are work, each after those that go before it.
    fn tasks_of_clauses(
        &self,
        request: &PlanRequest,
        analysis: &Analysis,
    ) -> Result<Vec<PlannedTask>, CoordinatorError> {
        let mut flatten = self.flatten(request);
        let clauses = &analysis.clauses;
        let mut ends: BTreeMap<u32, Vec<TaskId>> = BTreeMap::new();
        // The clauses' order has no circle, so that each round finishes one.
        while ends.len() < clauses.len() {
            let next = (0..clauses.len() as u32).find(|at| {
                !ends.contains_key(at)
                    && clauses[*at as usize].after.iter().all(|before| ends.contains_key(before))
            });
            let Some(at) = next else { break };
            let clause = &clauses[at as usize];
            // What a clause without work would have given comes from those before it.
            let mut after: Vec<TaskId> =
                clause.after.iter().filter_map(|before| ends.get(before)).flatten().copied().collect();
            after.sort_unstable();
            after.dedup();
            let done = if clause.is_work {
                flatten.add(&self.work_of(clause, request, analysis), &after, None, 0)?
            } else {
                after
            };
            ends.insert(at, done);
        }
        Ok(flatten.tasks)
    }

    fn work_of(&self, clause: &Clause, request: &PlanRequest, analysis: &Analysis) -> Work {
        let instruction = request.instruction.trim();
        let mut prompt = clause.text.clone();
        if let Some(first) = prompt.get(..1) {
            prompt = format!("{}{}", first.to_uppercase(), &prompt[1..]);
        }
        let title = prompt.clone();
        if analysis.clauses.len() > 1 {
            prompt = format!("{prompt}\n\nIt is a part of this: {instruction}");
        } else {
            instruction.clone_into(&mut prompt);
        }
        let codes = roles::find(self.own, &clause.role)
            .is_some_and(|role| role.capabilities.iter().any(|tag| tag == "coding" || tag == "testing"));
        let spec = TaskSpec {
            title: Some(title),
            role: clause.role.clone(),
            prompt,
            capabilities: if codes { analysis.capabilities.clone() } else { Vec::new() },
            max_tokens: None,
            // The likeliest tokens for votes, which compare answers; elsewhere small models would only repeat themselves.
            temperature_permille: Some(TEMPERATURE_PERMILLE),
        };
        let voters = clause.agents.min(self.config.max_fan_out);
        if voters < 2 {
            return Work::Task(spec);
        }
        let words = text::tokens(instruction);
        let votes = |stem: &str| matches!(stem, "vote" | "major" | "consensus" | "quorum");
        if words.iter().any(|token| votes(&token.stem)) {
            let rule = VoteRule { quorum: voters / 2 + 1, timeout_ns: None, no_quorum: NoQuorum::Plurality };
            let task = TaskSpec { temperature_permille: None, ..spec };
            return Work::Vote { task, voters, rule };
        }
        let each = (1..=voters).map(|number| {
            let title = spec.title.as_deref().map(|title| format!("{title} ({number})"));
            Work::Task(TaskSpec { title, ..spec.clone() })
        });
        Work::Parallel(each.collect())
    }

    /// As many agents of each role as the instruction names, and those that the tasks need.
    fn agents(
        &self,
        request: &PlanRequest,
        analysis: &Analysis,
        tasks: &[PlannedTask],
    ) -> Result<Vec<PlannedAgent>, CoordinatorError> {
        let mut wanted =
            if request.work.is_some() { Vec::new() } else { analysis::agents_by_role(&analysis.clauses) };
        let mut at_least = |role: &str, agents: u32| match wanted.iter_mut().find(|(name, _)| name == role) {
            Some((_, number)) => *number = (*number).max(agents),
            None => wanted.push((role.to_owned(), agents)),
        };
        for task in tasks {
            match &task.kind {
                TaskKind::Work => at_least(&task.role, 1),
                // Each vote is another agent's.
                TaskKind::Vote(_) => {
                    let voters = tasks.iter().filter(|voter| task.after.contains(&voter.id));
                    let role = voters.clone().map(|voter| voter.role.as_str()).next().unwrap_or_default();
                    at_least(role, voters.count() as u32);
                }
            }
        }
        if request.work.is_some() {
            for (role, agents) in analysis::agents_by_role(&analysis.clauses) {
                if wanted.iter().any(|(name, _)| *name == role) {
                    wanted
                        .iter_mut()
                        .filter(|(name, _)| *name == role)
                        .for_each(|it| it.1 = it.1.max(agents));
                }
            }
        }
        let all: u64 = wanted.iter().map(|(_, agents)| u64::from(*agents)).sum();
        let most = u64::from(self.config.max_agents);
        if all > most {
            return Err(CoordinatorError::TooMany { what: LimitKind::Agents, asked: all, most });
        }
        let mut agents = Vec::new();
        for (role, number) in wanted {
            let Some(template) = roles::find(self.own, &role) else {
                return Err(CoordinatorError::UnknownRole { name: role });
            };
            let ChosenModel { model_id, chats } = (self.known.model_of)(template, request.model_id);
            let mut capabilities = template.capabilities.clone();
            if capabilities.iter().any(|tag| tag == "coding" || tag == "testing") {
                capabilities.extend(analysis.capabilities.iter().cloned());
            }
            let fits = |agent: &&RegisteredAgent| {
                agent.role == role
                    && agent.model_id == model_id
                    && matches!(agent.state, AgentState::Ready(_))
            };
            let mut reusable: Vec<&RegisteredAgent> =
                self.agents.values().filter(|_| request.reuse_agents).filter(fits).collect();
            // Those that failed last come last: their breakers may be closed by then.
            reusable.sort_by_key(|agent| matches!(agent.breaker.state, BreakerState::Open(_)));
            let mut of_role: Vec<PlannedAgent> = reusable
                .into_iter()
                .take(number as usize)
                .map(|agent| PlannedAgent {
                    name: agent.name.clone(),
                    role: role.clone(),
                    capabilities: agent.capabilities.clone(),
                    model_id,
                    chats: agent.chats,
                    exists: true,
                })
                .collect();
            for at in of_role.len() as u32..number {
                of_role.push(PlannedAgent {
                    name: format!("p{}-{role}-{}", self.project, at + 1),
                    role: role.clone(),
                    capabilities: capabilities.clone(),
                    model_id,
                    chats,
                    exists: false,
                });
            }
            agents.extend(of_role);
        }
        Ok(agents)
    }
}

/// The model of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChosenModel {
    /// Its id.
    pub model_id: ModelId,
    /// Whether it answers conversations.
    pub chats: bool,
}

/// The model for a role: the one that is wanted; else one that is made for code, by its name, where the role codes; else the default; else,
/// should the repository not serve that any more, the largest that it serves. Encoders, which generate nothing, are not chosen.
pub fn choose_model(
    catalogue: &[ModelRecord],
    role: &RoleTemplate,
    wanted: Option<ModelId>,
    default: ModelId,
) -> ChosenModel {
    let can =
        |model: &ModelRecord, what| model.card.as_ref().is_some_and(|it| it.capabilities.contains(&what));
    let active = || catalogue.iter().filter(|model| model.status == ModelStatus::Active);
    let choosable = || active().filter(|model| model.card.is_none() || can(model, Capability::Generate));
    let named = |id: ModelId| active().find(|model| model.model_id == id);
    let codes = role.capabilities.iter().any(|tag| tag == "coding");
    let for_code = |model: &&ModelRecord| codes && model.name.to_lowercase().contains("code");
    let largest_for_code = || choosable().filter(for_code).max_by_key(|model| model.bytes);
    let chosen = match wanted {
        Some(wanted) => named(wanted),
        None => largest_for_code()
            .or_else(|| named(default))
            .or_else(|| choosable().max_by_key(|model| model.bytes)),
    };
    let model_id = chosen.map_or(wanted.unwrap_or(default), |model| model.model_id);
    ChosenModel { model_id, chats: chosen.is_some_and(|model| can(model, Capability::Chat)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::coordinator::Intent;

    fn plan_of(request: &PlanRequest, max_agents: u32) -> Result<(Analysis, Plan), CoordinatorError> {
        let config = CoordinatorConfig { max_agents, ..CoordinatorConfig::default() };
        let (own, agents) = (BTreeMap::new(), BTreeMap::new());
        let model = |_: &RoleTemplate, _| ChosenModel { model_id: ModelId::ZERO, chats: false };
        Planner {
            project: 7,
            own: &own,
            agents: &agents,
            known: Known { model_of: &model, near: &[], proposal: None },
            config: &config,
        }
        .plan(request)
    }

    #[test]
    fn a_sentence_becomes_agents_and_tasks() {
        let request = PlanRequest::of("Create three agents that write a tale, review it and title it");
        let (analysis, plan) = plan_of(&request, 5).unwrap();
        assert_eq!(analysis.intent, Intent::Do);
        let agents: Vec<_> = plan.agents.iter().map(|agent| agent.name.as_str()).collect();
        assert_eq!(agents, ["p7-writer-1", "p7-writer-2", "p7-reviewer-1"]);
        let tasks: Vec<_> = plan
            .tasks
            .iter()
            .map(|task| (task.title.as_str(), task.role.as_str(), task.after.as_slice()))
            .collect();
        assert_eq!(
            tasks,
            [
                ("Write a tale", "writer", &[][..]),
                ("Review it", "reviewer", &[1]),
                ("Title it", "writer", &[2])
            ]
        );
        assert_eq!(plan.cost.creations, 3);
        assert!(plan.cost.tokens > 3 * 160);
    }

    #[test]
    fn agents_without_work_are_only_created() {
        let (analysis, plan) = plan_of(&PlanRequest::of("Create Python coding agents"), 5).unwrap();
        assert_eq!((analysis.intent, plan.agents.len(), plan.tasks.len()), (Intent::Create, 2, 0));
        assert!(plan.agents[0].capabilities.contains(&"language:python".to_owned()));
    }

    #[test]
    fn a_vote_needs_an_agent_for_each_ballot() {
        let request = PlanRequest::of("Three reviewers judge the essay, the majority decides");
        let (_, plan) = plan_of(&request, 5).unwrap();
        assert_eq!(plan.agents.len(), 3);
        assert_eq!(plan.tasks.iter().filter(|task| matches!(task.kind, TaskKind::Vote(_))).count(), 1);
        assert_eq!(plan.tasks.len(), 4);
    }

    #[test]
    fn what_is_not_clear_has_no_plan() {
        let (analysis, plan) = plan_of(&PlanRequest::of("Make some agents"), 5).unwrap();
        assert!(!analysis.questions.is_empty() && plan == Plan::default());
        let (analysis, _) = plan_of(&PlanRequest::of("Create six writers"), 5).unwrap();
        assert_eq!(analysis.questions.len(), 1);
    }
}
