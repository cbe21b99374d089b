//! From an instruction to a plan.

use candid::CandidType;
use serde::{Deserialize, Serialize};

use super::MAX_INSTRUCTION_BYTES;
use super::project::ProjectId;
use super::registry::Preference;
use super::task::{TaskId, TaskKind};
use super::vote::VoteRule;
use crate::digest::ModelId;
use crate::field::FieldError;

/// Longest idempotency key in bytes.
pub const MAX_KEY_BYTES: usize = 64;

/// Longest prompt of a task in bytes, the artifacts that it takes not counted.
pub const MAX_TASK_PROMPT_BYTES: usize = 8_192;

/// What somebody who gives an instruction wants.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Agents; what they do comes later.
    Create,
    /// Work that is to be done now.
    Do,
    /// An answer about the coordinator itself.
    Ask,
    /// None that the rules recognise.
    Unclear,
}

/// How much speaks for a role.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RoleScore {
    /// The role.
    pub role: String,
    /// Sum of the weights, of the clause in which it is highest.
    pub score: u32,
    /// Whether the plan has the role.
    pub taken: bool,
    /// What each weight was given for.
    pub reasons: Vec<String>,
}

/// A part of the instruction that asks for one role.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Its words.
    pub text: String,
    /// The role that it asks for.
    pub role: String,
    /// Agents of this role that it asks for.
    pub agents: u32,
    /// Whether it is work, or only somebody who could do work.
    pub is_work: bool,
    /// The clauses that go before it.
    pub after: Vec<u32>,
}

/// What a question is about.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuestionTopic {
    /// What the agents should do or be.
    Role,
    /// How many agents.
    Count,
}

/// What the coordinator has to know before it can plan.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What it is about.
    pub topic: QuestionTopic,
    /// The question.
    pub text: String,
    /// Answers to choose from; another one may be given.
    pub options: Vec<String>,
}

/// What the rules found in an instruction.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Analysis {
    /// What is wanted.
    pub intent: Intent,
    /// Roles for which anything speaks, best first.
    pub roles: Vec<RoleScore>,
    /// The parts of the instruction that ask for a role, in its order.
    pub clauses: Vec<Clause>,
    /// Languages and technologies that are named, as tags.
    pub capabilities: Vec<String>,
    /// The number of agents that is named for all together.
    pub agents: Option<u32>,
    /// What is not clear; without a plan where there is any.
    pub questions: Vec<Question>,
}

/// An agent that a plan needs.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PlannedAgent {
    /// Its name, and its key at the factory.
    pub name: String,
    /// Its role.
    pub role: String,
    /// What it is to be good at, as tags.
    pub capabilities: Vec<String>,
    /// The model that it runs.
    pub model_id: ModelId,
    /// Whether the model answers conversations: it is asked by its chat template then.
    pub chats: bool,
    /// Whether it is there already and costs no creation.
    pub exists: bool,
}

/// A task of a plan.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PlannedTask {
    /// Its number in the project, from 1.
    pub id: TaskId,
    /// What to call it.
    pub title: String,
    /// Worked on by an agent, or decided by a vote.
    pub kind: TaskKind,
    /// The role that it needs; empty for a vote.
    pub role: String,
    /// What the agent is asked, without the artifacts that it takes.
    pub prompt: String,
    /// Tasks whose artifacts it takes, all of them numbered lower.
    pub after: Vec<TaskId>,
    /// The task that it is a part of.
    pub parent: Option<TaskId>,
    /// What its agent must be able to do, as tags; one that can do most of it is taken.
    pub capabilities: Vec<String>,
    /// Tokens that it may generate.
    pub max_tokens: u32,
    /// Temperature in thousandths.
    pub temperature_permille: u32,
}

/// What a plan takes from the quota.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanCost {
    /// Agents to create.
    pub creations: u32,
    /// Tokens at most: what tasks may generate, and what their prompts and the artifacts that they take may have.
    pub tokens: u64,
}

/// What it takes to do what was asked.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Its agents.
    pub agents: Vec<PlannedAgent>,
    /// Its tasks, each after those whose artifacts it takes.
    pub tasks: Vec<PlannedTask>,
    /// Its cost.
    pub cost: PlanCost,
}

/// A task as a caller describes it.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TaskSpec {
    /// What to call it; absent: the beginning of the prompt.
    pub title: Option<String>,
    /// The role that it needs.
    pub role: String,
    /// What the agent is asked, 1 to [`MAX_TASK_PROMPT_BYTES`] bytes.
    pub prompt: String,
    /// What its agent should be able to do.
    pub capabilities: Vec<String>,
    /// Tokens that it may generate; absent: as the role's template says.
    pub max_tokens: Option<u32>,
    /// Temperature in thousandths; absent: 0, the likeliest tokens.
    pub temperature_permille: Option<u32>,
}

/// Work composed of tasks.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// One task.
    Task(TaskSpec),
    /// One after the other, each with the artifacts of the one before.
    Sequence(Vec<Work>),
    /// Independent of each other.
    Parallel(Vec<Work>),
    /// Parts that are independent of each other, and a task that makes one result of theirs.
    Hierarchy {
        /// The task that takes the artifacts of all parts.
        lead: TaskSpec,
        /// The parts, each of which may be composed itself.
        parts: Vec<Work>,
    },
    /// The same task for several agents, whose answers are put to the vote.
    Vote {
        /// The task.
        task: TaskSpec,
        /// Agents that answer.
        voters: u32,
        /// How it is decided.
        rule: VoteRule,
    },
}

/// What a plan is made of.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PlanRequest {
    /// What is wanted, 1 to [`MAX_INSTRUCTION_BYTES`] bytes.
    pub instruction: String,
    /// The tasks, where the caller knows them; absent: the rules find them in the instruction.
    pub work: Option<Work>,
    /// The agents' model; absent: the coordinator chooses.
    pub model_id: Option<ModelId>,
    /// What matters when a task is given to an agent; absent: [`Preference::Balanced`].
    pub preference: Option<Preference>,
    /// Whether agents that the caller has already are used where they fit.
    pub reuse_agents: bool,
    /// Tokens that each task may generate; absent: as the role's template says.
    pub max_tokens_per_task: Option<u32>,
}

impl PlanRequest {
    /// A request with only an instruction.
    pub fn of(instruction: impl Into<String>) -> Self {
        Self {
            instruction: instruction.into(),
            work: None,
            model_id: None,
            preference: None,
            reuse_agents: false,
            max_tokens_per_task: None,
        }
    }

    /// Checks what can be checked without knowing roles and limits.
    ///
    /// # Errors
    /// Names the field that breaks a rule.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::check_text("instruction", &self.instruction, MAX_INSTRUCTION_BYTES)?;
        if self.max_tokens_per_task.is_some_and(|tokens| !(1..=crate::agent::MAX_TOKENS).contains(&tokens)) {
            let reason = format!("is not within 1..={}", crate::agent::MAX_TOKENS);
            return Err(FieldError::new("max_tokens_per_task", reason));
        }
        Ok(())
    }
}

/// Argument of `create_plan`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CreatePlanArgs {
    /// Chosen by the caller, 1 to [`MAX_KEY_BYTES`] bytes: the same key is the same project for as long as it is kept.
    pub key: Option<String>,
    /// What is wanted.
    pub request: PlanRequest,
}

/// Argument of `revise_plan`: another request in place of the one before, or answers to its questions.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RevisePlanArgs {
    /// The project, which must not be approved yet.
    pub project: ProjectId,
    /// What is wanted now.
    pub request: PlanRequest,
}
