//! What a language model on chain proposes for an instruction that no rule finds a role in.
//!
//! Its agent is asked with a JSON schema, so that whatever the model says is a list of known roles, numbers and short texts; whether that is
//! what was meant is for the owner to say, who sees it as a plan before anything happens. Only admins who have measured a model
//! (`cargo xtask bench meaning`) should name its agent.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use candid::Principal;
use ic_cdk::api::time;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use shared_types::agent::{ChatMessage, ChatRole, GenerationParams, JobState, SubmitJobArgs};
use shared_types::coordinator::{Analysis, Clause, Intent, QuestionTopic, RoleScore, RoleTemplate};

use crate::meaning::Asking;
use crate::{analysis, platform, roles, state};

/// Steps of a proposal at most.
const MAX_STEPS: usize = 6;

/// Agents of a step at most.
const MAX_AGENTS: u32 = 9;

/// Characters of what a step is to do, at most.
const MAX_TASK: usize = 120;

/// Tokens of an answer at most: as many as its longest steps take.
const MAX_TOKENS: u32 = 400;

/// Looks at the job that is to answer: each is a call, which takes a round or two.
const MAX_LOOKS: u32 = 120;

/// Questions to the model in [`WINDOW_NS`], of all owners together: they are not paid for, so they are few.
const MAX_ASKED: usize = 60;
const WINDOW_NS: u64 = 3_600_000_000_000;

/// What the model proposes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Proposal {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Step {
    role: String,
    agents: u32,
    /// Empty where somebody is wanted who could do work.
    task: String,
}

/// When the model was asked, the latest last.
#[derive(Debug, Default)]
pub struct Asked(VecDeque<u64>);

impl Asked {
    /// Takes note of a question, unless there were too many of late.
    fn admit(&mut self, now_ns: u64) -> bool {
        while self.0.front().is_some_and(|at| at.saturating_add(WINDOW_NS) <= now_ns) {
            self.0.pop_front();
        }
        let admitted = self.0.len() < MAX_ASKED;
        if admitted {
            self.0.push_back(now_ns);
        }
        admitted
    }
}

impl Proposal {
    /// Reads an answer; `None` if it broke off.
    pub fn read(answer: &str) -> Option<Self> {
        serde_json::from_str(answer).ok()
    }

    /// Names of its roles.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|step| step.role.as_str())
    }

    /// Puts the proposal in the place of the question which role is meant: each step after those before it. Nothing happens where there is
    /// no such question, a role is unknown, or there would be more than `max_agents` agents.
    pub fn take(&self, analysis: &mut Analysis, own: &BTreeMap<String, RoleTemplate>, max_agents: u32) {
        let asks = analysis.questions.iter().any(|question| question.topic == QuestionTopic::Role);
        let agents = self.steps.iter().fold(0, |sum: u32, step| sum.saturating_add(step.agents));
        let is_known = |step: &Step| step.agents > 0 && roles::find(own, &step.role).is_some();
        if !asks || self.steps.is_empty() || agents > max_agents || !self.steps.iter().all(is_known) {
            return;
        }
        analysis.questions.retain(|question| question.topic != QuestionTopic::Role);
        analysis.clauses.clear();
        for (at, Step { role, agents, task }) in (0..).zip(&self.steps) {
            let task = task.trim();
            let text = if task.is_empty() { role.clone() } else { task.to_owned() };
            let is_work = !task.is_empty();
            analysis.clauses.push(Clause {
                text,
                role: role.clone(),
                agents: *agents,
                is_work,
                after: (0..at).collect(),
            });
            let reason = "proposed by the language model".to_owned();
            match analysis.roles.iter_mut().find(|known| known.role == *role) {
                Some(known) if known.taken => {}
                Some(known) => {
                    known.taken = true;
                    known.reasons.push(reason);
                }
                None => analysis.roles.push(RoleScore {
                    role: role.clone(),
                    score: 0,
                    taken: true,
                    reasons: vec![reason],
                }),
            }
        }
        analysis.roles.sort_by_key(|it| !it.taken);
        let works = analysis.clauses.iter().any(|clause| clause.is_work);
        analysis.intent = if works { Intent::Do } else { Intent::Create };
    }
}

/// The JSON schema of proposals with these roles.
pub fn schema<'a>(roles: impl Iterator<Item = &'a RoleTemplate>) -> String {
    let names: Vec<&str> = roles.map(|role| role.name.as_str()).collect();
    let step = json!({
        "type": "object",
        "properties": {
            "role": {"enum": names},
            "agents": {"type": "integer", "minimum": 1, "maximum": MAX_AGENTS},
            "task": {"type": "string", "maxLength": MAX_TASK},
        },
        "required": ["role", "agents", "task"],
        "additionalProperties": false,
    });
    let steps = json!({"type": "array", "items": step, "minItems": 1, "maxItems": MAX_STEPS});
    json!({"type": "object", "properties": {"steps": steps}, "required": ["steps"], "additionalProperties": false})
        .to_string()
}

/// The conversation that asks for a proposal: what there is to choose from, two examples, the instruction.
pub fn messages<'a>(instruction: &str, roles: impl Iterator<Item = &'a RoleTemplate>) -> Vec<ChatMessage> {
    let mut system = "You plan teams. Say who does what, as JSON: a list of steps, each with a role, the number of agents, and the task in \
                      a few words, or an empty task if none is named. Roles:"
        .to_owned();
    for role in roles {
        let does = role.instructions.split_inclusive('.').next().unwrap_or_default();
        let _ = write!(system, "\n{}: {does}", role.name);
    }
    let message = |role, content: &str| ChatMessage { role, content: content.to_owned() };
    vec![
        message(ChatRole::System, &system),
        message(ChatRole::User, "I want a poem about the sea, checked by someone"),
        message(
            ChatRole::Assistant,
            r#"{"steps": [{"role": "writer", "agents": 1, "task": "Write a poem about the sea"}, {"role": "reviewer", "agents": 1, "task": "Check the poem"}]}"#,
        ),
        message(ChatRole::User, "Get me two people for Python"),
        message(ChatRole::Assistant, r#"{"steps": [{"role": "developer", "agents": 2, "task": ""}]}"#),
        message(ChatRole::User, instruction),
    ]
}

/// How the answer is chosen: the likeliest one of the schema.
pub fn params(schema: String) -> GenerationParams {
    GenerationParams { max_tokens: MAX_TOKENS, json_schema: Some(schema), ..GenerationParams::default() }
}

/// What the model proposes for an instruction that no rule finds a role in; `None` without a model, an answer, or where it was asked too
/// often. Nothing is lost with these calls: the same instruction has the same job, which ends by itself.
pub async fn of(owner: Principal, instruction: &str) -> Option<Proposal> {
    let (agent, messages, schema) = state::read(|state| {
        let config = &state.settings().config;
        let agent = config.planner?;
        state.store.read(owner, |workspace| {
            let found = analysis::analyse(instruction, &workspace.roles, config.max_agents);
            let roles = roles::of(&workspace.roles);
            let messages = messages(instruction, roles.iter().copied());
            found.clauses.is_empty().then(|| (agent, messages, schema(roles.iter().copied())))
        })
    })?;
    let _asking = Asking::begin()?;
    if !state::mutate(|state| state.asked.admit(time())) {
        return None;
    }
    let question =
        Sha256::new().chain_update(owner).chain_update(&schema).chain_update([0]).chain_update(instruction);
    let args = SubmitJobArgs {
        messages: Some(messages),
        params: params(schema),
        key: Some(format!("{:x}", question.finalize())),
        ..SubmitJobArgs::default()
    };
    let job = platform::submit_job(agent, args).await.ok()?.ok()?.job_id;
    for _ in 0..MAX_LOOKS {
        let progress = platform::job_progress(agent, job).await.ok()?.ok()?;
        match progress.job.state {
            JobState::Done { .. } => return Proposal::read(&progress.text),
            JobState::Failed { .. } | JobState::Cancelled => return None,
            _ => {}
        }
    }
    // Nobody waits for the answer any more; a job that can't be cancelled ends by itself.
    let _ = platform::cancel_job(agent, job).await;
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(role: &str, agents: u32, task: &str) -> Step {
        Step { role: role.to_owned(), agents, task: task.to_owned() }
    }

    #[test]
    fn a_proposal_stands_in_the_place_of_a_question() {
        let own = BTreeMap::new();
        let unclear = analysis::analyse("Something with the thing", &own, 10);
        let proposal = Proposal::read(
            r#"{"steps": [{"role": "writer", "agents": 2, "task": "Write it"}, {"role": "reviewer", "agents": 1, "task": ""}]}"#,
        )
        .unwrap();
        assert_eq!(proposal.roles().collect::<Vec<_>>(), ["writer", "reviewer"]);
        let mut analysis = unclear.clone();
        proposal.take(&mut analysis, &own, 10);
        assert_eq!(analysis.questions, []);
        assert_eq!(analysis.intent, Intent::Do);
        let clauses: Vec<_> = analysis
            .clauses
            .iter()
            .map(|it| (&it.text[..], &it.role[..], it.agents, it.is_work, &it.after[..]))
            .collect();
        assert_eq!(
            clauses,
            [("Write it", "writer", 2, true, &[][..]), ("reviewer", "reviewer", 1, false, &[0])]
        );
        assert!(
            analysis.roles[..2]
                .iter()
                .all(|it| it.taken && it.reasons.contains(&"proposed by the language model".to_owned()))
        );

        for refused in [
            Proposal { steps: Vec::new() },
            Proposal { steps: vec![step("nobody", 1, "")] },
            Proposal { steps: vec![step("writer", 0, "")] },
            Proposal { steps: vec![step("writer", 6, ""), step("reviewer", 5, "")] },
            Proposal { steps: vec![step("writer", u32::MAX, ""), step("reviewer", 5, "")] },
        ] {
            let mut analysis = unclear.clone();
            refused.take(&mut analysis, &own, 10);
            assert_eq!(analysis, unclear, "{refused:?}");
        }
        let clear = analysis::analyse("Create a developer", &own, 10);
        let mut analysis = clear.clone();
        proposal.take(&mut analysis, &own, 10);
        assert_eq!(analysis, clear, "what the rules find stays");
        assert_eq!(Proposal::read(r#"{"steps": [{"role": "wri"#), None);
    }

    #[test]
    fn the_examples_are_of_the_schema() {
        let own = BTreeMap::new();
        let roles = roles::of(&own);
        for message in messages("x", roles.iter().copied()).iter().filter(|it| it.role == ChatRole::Assistant)
        {
            let proposal = Proposal::read(&message.content).unwrap();
            assert!(proposal.roles().all(|role| roles.iter().any(|it| it.name == role)));
        }
        let schema: serde_json::Value = serde_json::from_str(&schema(roles.iter().copied())).unwrap();
        let names = &schema["properties"]["steps"]["items"]["properties"]["role"]["enum"];
        assert_eq!(names.as_array().unwrap().len(), roles.len());
    }

    #[test]
    fn the_model_is_asked_so_often_an_hour() {
        let mut asked = Asked::default();
        let admitted = |asked: &mut Asked, at| (0..100).filter(|_| asked.admit(at)).count();
        assert_eq!(admitted(&mut asked, 5), MAX_ASKED);
        assert_eq!(admitted(&mut asked, WINDOW_NS), 0);
        assert_eq!(admitted(&mut asked, WINDOW_NS + 5), MAX_ASKED);
    }
}
