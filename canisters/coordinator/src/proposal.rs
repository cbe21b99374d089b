//! What a language model on chain proposes for an instruction that no rule finds a role in.
//!
//! Its agent is asked with a JSON schema, so that whatever the model says is a list of known roles, numbers and short texts. The project waits with
//! its question meanwhile, and becomes a plan when the answer is there, if nobody has answered before; whether that is what was meant is for the owner
//! to say, who sees it as a plan before anything happens. Only admins who have measured a model (`cargo xtask bench meaning`) should name its agent.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use candid::Principal;
use ic_cdk::api::time;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use shared_types::agent::{ChatMessage, ChatRole, GenerationParams, JobId, JobState, SubmitJobArgs};
use shared_types::coordinator::{
    Analysis, Clause, Intent, PlanRequest, ProjectId, ProjectState, QuestionTopic, RevisePlanArgs, RoleScore,
    RoleTemplate,
};

use crate::meaning::Asking;
use crate::updates::projects::with_models;
use crate::{commands, platform, roles, state};

/// Steps of a proposal at most.
const MAX_STEPS: usize = 4;

/// Agents of a step at most.
const MAX_AGENTS: u32 = 9;

/// Characters of what a step is to do, at most.
const MAX_TASK: usize = 80;

/// Tokens of an answer at most: the longest one of the schema, in tokens of one character.
const MAX_TOKENS: u32 = 600;

/// Looks at the job that is to answer, and the time between two: together more than a model takes that is being loaded.
const MAX_LOOKS: u32 = 300;
const LOOK: Duration = Duration::from_secs(2);

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

/// A job that is to propose steps for a project. It is kept in the heap alone: with it a proposal is lost, no more.
struct Question {
    owner: Principal,
    project: ProjectId,
    /// What was asked; another request since makes the answer void.
    request: PlanRequest,
    agent: Principal,
    job: JobId,
    looks: u32,
    _asking: Asking,
}

/// Has the model propose steps for a project that waits for an answer, if there is a model and it was not asked too often; the answer
/// comes later, and revises the project. The same instruction has the same job, which ends by itself.
pub fn ask(owner: Principal, project: ProjectId) {
    let Some((agent, request, args)) = state::read(|state| {
        let agent = state.settings().config.planner?;
        state.store.read(owner, |workspace| {
            let record = &workspace.projects.get(&project)?.record;
            let asks = record.analysis.questions.iter().any(|question| question.topic == QuestionTopic::Role);
            let unclear = asks && record.state == ProjectState::Unclear;
            let roles = roles::of(&workspace.roles);
            unclear.then(|| {
                (agent, record.request.clone(), job_args(owner, &record.request.instruction, &roles))
            })
        })
    }) else {
        return;
    };
    let Some(asking) = Asking::begin() else { return };
    if !state::mutate(|state| state.asked.admit(time())) {
        return;
    }
    ic_cdk_timers::set_timer(Duration::ZERO, async move {
        if let Ok(Ok(job)) = platform::submit_job(agent, args).await {
            let job = job.job_id;
            look_later(Question { owner, project, request, agent, job, looks: 0, _asking: asking });
        }
    });
}

fn job_args(owner: Principal, instruction: &str, roles: &[&RoleTemplate]) -> SubmitJobArgs {
    let schema = schema(roles.iter().copied());
    let question =
        Sha256::new().chain_update(owner).chain_update(&schema).chain_update([0]).chain_update(instruction);
    SubmitJobArgs {
        messages: Some(messages(instruction, roles.iter().copied())),
        params: params(schema),
        key: Some(format!("{:x}", question.finalize())),
        ..SubmitJobArgs::default()
    }
}

fn look_later(question: Question) {
    ic_cdk_timers::set_timer(LOOK, async move {
        let Question { agent, job, looks, .. } = question;
        match platform::job_progress(agent, job).await {
            Ok(Ok(progress)) => match progress.job.state {
                JobState::Done { .. } => {
                    if let Some(proposal) = Proposal::read(&progress.text) {
                        revise(&question, &proposal);
                    }
                    return;
                }
                JobState::Failed { .. } | JobState::Cancelled => return,
                _ => {}
            },
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        if looks < MAX_LOOKS {
            look_later(Question { looks: looks + 1, ..question });
        } else {
            // Nobody waits for the answer any more; a job that can't be cancelled ends by itself.
            let _ = platform::cancel_job(agent, job).await;
        }
    });
}

/// Makes a plan of the proposal where the question still waits for an answer.
fn revise(question: &Question, proposal: &Proposal) {
    let Question { owner, project, request, .. } = question;
    // What was refused leaves the question as it is.
    let _ = with_models(*owner, &[], Some(proposal), |workspace, config, known, _| {
        let record = &commands::project(workspace, *project)?.record;
        let waits = record.state == ProjectState::Unclear && record.request == *request;
        let args = RevisePlanArgs { project: *project, request: request.clone() };
        let event = waits.then(|| commands::revise_plan(workspace, config, known, args)).transpose()?;
        Ok(((), event.into_iter().collect()))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(role: &str, agents: u32, task: &str) -> Step {
        Step { role: role.to_owned(), agents, task: task.to_owned() }
    }

    use crate::analysis;

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
