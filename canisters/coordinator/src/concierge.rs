//! The concierge: what is said in a conversation, what is answered, and what happens.
//!
//! It follows the deterministic rules of [`crate::analysis`]: a wish becomes a plan or questions, an answer goes into the wish, a yes approves the
//! plan, and while the project runs it reports.

use std::fmt::Write as _;

use shared_types::FieldError;
use shared_types::coordinator::concierge::MAX_TURNS;
use shared_types::coordinator::{
    ConversationId, CoordinatorConfig, CoordinatorError, CreatePlanArgs, EventKind, LimitKind,
    MAX_INSTRUCTION_BYTES, Plan, PlanRequest, Project, ProjectId, ProjectState, Question, QuestionTopic,
    RevisePlanArgs, Stage, TaskState, Turn,
};

use crate::commands::{self, Known};
use crate::decide::Next;
use crate::graph::too_many;
use crate::text;
use crate::workspace::{ProjectEntry, Workspace};

/// What the owner means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Yes,
    No,
    Progress,
    Other,
}

const YES: [&str; 14] = [
    "yes", "ok", "okay", "yep", "yeah", "sure", "go", "approve", "start", "begin", "agreed", "fine",
    "perfect", "please",
];
const NO: [&str; 8] = ["no", "stop", "cancel", "abort", "nope", "never", "quit", "forget"];
const PROGRESS: [&str; 9] =
    ["status", "progress", "far", "done", "ready", "news", "result", "results", "finished"];

/// Short sentences that answer; a longer one is a wish.
fn meaning(said: &str) -> Meaning {
    let words: Vec<String> =
        text::tokens(said).into_iter().filter(|token| !token.is_mark).map(|token| token.word).collect();
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    let begins = |list: &[&str]| words.first().is_some_and(|word| list.contains(&word.as_str()));
    if words.len() <= 4 && begins(&NO) {
        Meaning::No
    } else if words.len() <= 4 && begins(&YES) {
        Meaning::Yes
    } else if words.len() <= 7 && has(&PROGRESS) {
        Meaning::Progress
    } else {
        Meaning::Other
    }
}

/// The wish with what was answered to its questions.
fn answered(wish: &str, questions: &[Question], said: &str) -> String {
    let said = said.trim();
    match questions.first().map(|question| question.topic) {
        // A bare number stands in the place of the one that was not possible.
        Some(QuestionTopic::Count) if said.parse::<u32>().is_ok() => {
            let tokens = text::tokens(wish);
            let number =
                tokens.iter().find(|token| text::number(&token.word).is_some_and(|number| number > 1));
            match number {
                Some(token) => format!("{}{said}{}", &wish[..token.start], &wish[token.end..]),
                None => format!("{said} of these: {wish}"),
            }
        }
        Some(QuestionTopic::Count) => said.to_owned(),
        Some(QuestionTopic::Role) => {
            format!("{}: {said}", wish.trim_end_matches(['.', '!', '?', ' ', ':', ',']))
        }
        None => format!("{}. {said}", wish.trim_end_matches(['.', ' '])),
    }
}

/// What a plan is, in words.
fn describe(plan: &Plan) -> String {
    let mut text = format!("This takes {}: ", count(plan.agents.len(), "agent"));
    let agents: Vec<String> = plan
        .agents
        .iter()
        .map(|agent| {
            format!("{} ({}{})", agent.name, agent.role, if agent.exists { ", there already" } else { "" })
        })
        .collect();
    text.push_str(&agents.join(", "));
    text.push('.');
    if !plan.tasks.is_empty() {
        text.push_str(" Tasks:");
        for task in plan.tasks.iter().take(20) {
            let after: Vec<String> = task.after.iter().map(u32::to_string).collect();
            let after =
                if after.is_empty() { String::new() } else { format!(", after {}", after.join(", ")) };
            let _ = write!(text, " {}. {} ({}{after});", task.id, task.title, task.role);
        }
        if plan.tasks.len() > 20 {
            let _ = write!(text, " and {} more;", plan.tasks.len() - 20);
        }
        text.pop();
        text.push('.');
    }
    let _ = write!(
        text,
        " It costs {} and at most {} of your quota. Shall I begin?",
        count(plan.cost.creations as usize, "creation"),
        count(plan.cost.tokens as usize, "token"),
    );
    text
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Texts of artifacts, by the events that brought them.
pub type TextOf<'a> = &'a dyn Fn(u64) -> Option<String>;

/// Bytes of a result that an answer shows.
const SHOWN_BYTES: usize = 1_500;

/// How far a project is, in words, and what came of it.
fn report(entry: &ProjectEntry, text_of: TextOf) -> String {
    let Project { state, .. } = &entry.record;
    let counts = entry.counts();
    let done = format!("{} of {} done", counts.completed, count(counts.total as usize, "task"));
    let mut text = match state {
        ProjectState::Unclear => "I am waiting for your answer.".to_owned(),
        ProjectState::Planned => "The plan waits for your yes.".to_owned(),
        ProjectState::Reserving => "Your quota is being reserved.".to_owned(),
        ProjectState::Running => format!("It is running: {done}."),
        ProjectState::Completed => format!("It is finished: {done}."),
        ProjectState::Failed { reason } => format!("It ended without success: {reason}; {done}."),
        ProjectState::Canceled => format!("It is cancelled; {done}."),
    };
    let working = entry.tasks.values().filter(|task| task.state == TaskState::Working);
    let working: Vec<&str> = working.take(5).map(|task| task.plan.title.as_str()).collect();
    if state.is_open() && !working.is_empty() {
        let _ = write!(text, " Being worked on: {}.", working.join("; "));
    }
    if counts.dead_letters > 0 {
        let waiting = count(counts.dead_letters as usize, "task");
        let _ = write!(text, " Waiting for you: {waiting}, to replay or to discard.");
    }
    // The last task takes what the others made.
    let last = entry.tasks.values().next_back().filter(|_| state.is_terminal());
    if let Some((title, artifact)) = last.and_then(|task| Some((&task.plan.title, task.artifact.as_ref()?))) {
        let result = text_of(artifact.event).unwrap_or_default();
        let shown = text::beginning(result.trim(), SHOWN_BYTES);
        let cut = if shown.len() < result.trim().len() { " […]" } else { "" };
        let _ = write!(text, "\n\n{title}:\n{shown}{cut}");
    }
    text
}

/// What a turn of a conversation comes to.
pub struct Outcome {
    /// The turn, which becomes an event behind those of `events`.
    pub turn: Turn,
    /// What happens.
    pub events: Vec<Next>,
    /// What is asked back.
    pub questions: Vec<Question>,
}

/// Answers what the owner says; `conversation` is absent for a new one.
///
/// # Errors
/// [`CoordinatorError::InvalidField`], [`CoordinatorError::UnknownConversation`], [`CoordinatorError::TooMany`]. What a command refuses
/// is said in the answer.
pub fn converse(
    workspace: &Workspace,
    config: &CoordinatorConfig,
    known: Known,
    text_of: TextOf,
    conversation: Option<ConversationId>,
    said: &str,
) -> Result<Outcome, CoordinatorError> {
    FieldError::check_text("text", said, MAX_INSTRUCTION_BYTES).map_err(CoordinatorError::InvalidField)?;
    let before = match conversation {
        None => None,
        Some(conversation) => {
            let found = workspace.conversations.get(&conversation);
            let found = found.ok_or(CoordinatorError::UnknownConversation { conversation })?;
            if found.turns >= MAX_TURNS {
                return Err(too_many(LimitKind::Turns, found.turns + 1, MAX_TURNS));
            }
            Some(found)
        }
    };
    let wish = before.and_then(|it| it.last.wish.clone());
    let project = before.and_then(|it| it.last.project);
    let entry = project.and_then(|project| workspace.projects.get(&project));
    let stage = match (before.map_or(Stage::Wish, |it| it.stage), entry) {
        // A proposal has answered in the meantime.
        (Stage::Clarifying, Some(entry)) if entry.record.state == ProjectState::Planned => Stage::Planned,
        (stage, _) => stage,
    };
    let say = |answer: String, stage, wish, project, events| Outcome {
        turn: Turn { said: said.to_owned(), answer, stage, wish, project },
        events,
        questions: Vec::new(),
    };

    let outcome = match (stage, meaning(said), entry) {
        (Stage::Planned, Meaning::Yes, Some(entry)) => {
            match commands::approve_plan(workspace, config, entry.record.id) {
                Ok(event) => say(
                    "I have begun. Ask me how far it is.".to_owned(),
                    Stage::Running,
                    wish,
                    project,
                    event.into_iter().collect(),
                ),
                Err(error) => {
                    say(format!("I can't begin: {error}."), Stage::Planned, wish, project, Vec::new())
                }
            }
        }
        (Stage::Planned | Stage::Clarifying | Stage::Running, Meaning::No, Some(entry))
            if !entry.record.state.is_terminal() =>
        {
            let event = commands::cancel_project(workspace, entry.record.id)?;
            let events = event.into_iter().collect();
            say("It is cancelled. What else can I do for you?".to_owned(), Stage::Wish, None, project, events)
        }
        (Stage::Planned, Meaning::Progress, Some(entry)) => {
            say(describe(&entry.record.plan), Stage::Planned, wish, project, Vec::new())
        }
        (Stage::Running, _, Some(entry)) if !entry.record.state.is_terminal() => {
            say(report(entry, text_of), Stage::Running, wish, project, Vec::new())
        }
        (Stage::Running, Meaning::Progress | Meaning::Yes | Meaning::No, Some(entry)) => {
            say(report(entry, text_of), Stage::Running, wish, project, Vec::new())
        }
        (Stage::Clarifying | Stage::Planned, _, Some(entry)) => {
            let mut request = entry.record.request.clone();
            request.instruction = answered(&request.instruction, &entry.record.analysis.questions, said);
            plan(workspace, config, known, request, Some(entry.record.id), said)
        }
        _ => plan(workspace, config, known, PlanRequest::of(said), None, said),
    };
    Ok(outcome)
}

fn plan(
    workspace: &Workspace,
    config: &CoordinatorConfig,
    known: Known,
    request: PlanRequest,
    project: Option<ProjectId>,
    said: &str,
) -> Outcome {
    let planned = match project {
        Some(project) => {
            let args = RevisePlanArgs { project, request: request.clone() };
            commands::revise_plan(workspace, config, known, args).map(|event| (project, vec![event]))
        }
        None => commands::create_plan(
            workspace,
            config,
            known,
            CreatePlanArgs { key: None, request: request.clone() },
        ),
    };
    let (project, events) = match planned {
        Ok(planned) => planned,
        Err(error) => {
            let stage = if project.is_some() { Stage::Clarifying } else { Stage::Wish };
            let answer = format!("I can't plan that: {error}.");
            let turn = Turn { said: said.to_owned(), answer, stage, wish: None, project };
            return Outcome { turn, events: Vec::new(), questions: Vec::new() };
        }
    };
    let made = events.iter().find_map(|(_, event)| match event {
        EventKind::Planned { analysis, plan, .. } | EventKind::Revised { analysis, plan, .. } => {
            Some((analysis.clone(), plan.clone()))
        }
        _ => None,
    });
    let (questions, plan) =
        made.map_or((Vec::new(), Plan::default()), |(analysis, plan)| (analysis.questions, plan));
    let (answer, stage) = if questions.is_empty() {
        (describe(&plan), Stage::Planned)
    } else {
        let asked: Vec<&str> = questions.iter().map(|question| question.text.as_str()).collect();
        (asked.join(" "), Stage::Clarifying)
    };
    let turn = Turn { said: said.to_owned(), answer, stage, wish: Some(request), project: Some(project) };
    Outcome { turn, events, questions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::ModelId;
    use shared_types::coordinator::{Event, RoleTemplate};

    use crate::planner::ChosenModel;

    fn model(_: &RoleTemplate, _: Option<ModelId>) -> ChosenModel {
        ChosenModel { model_id: ModelId::ZERO, chats: false }
    }

    /// Talks, applies what happens, and returns the answers.
    fn talk(workspace: &mut Workspace, sentences: &[&str]) -> Vec<(String, Stage)> {
        let config = CoordinatorConfig { max_agents: 10, ..CoordinatorConfig::default() };
        let mut conversation = None;
        let mut answers = Vec::new();
        for said in sentences {
            let outcome = converse(
                workspace,
                &config,
                Known { model_of: &model, near: &[], proposal: None },
                &|_| None,
                conversation,
                said,
            )
            .unwrap();
            let id = conversation.unwrap_or(workspace.last_conversation + 1);
            answers.push((outcome.turn.answer.clone(), outcome.turn.stage));
            let said = (None, EventKind::Conversed { conversation: id, turn: outcome.turn });
            for (project, kind) in outcome.events.into_iter().chain([said]) {
                let sequence = workspace.last_sequence + 1;
                workspace.apply(&Event { sequence, time_ns: 1, project, kind }).unwrap();
            }
            conversation = Some(id);
        }
        answers
    }

    #[test]
    fn a_wish_becomes_a_run() {
        let mut workspace = Workspace::default();
        let answers = talk(
            &mut workspace,
            &["I want some agents", "writers", "make them reviewers too", "yes", "how far is it?"],
        );
        let stages: Vec<Stage> = answers.iter().map(|(_, stage)| *stage).collect();
        assert_eq!(
            stages,
            [Stage::Clarifying, Stage::Planned, Stage::Planned, Stage::Running, Stage::Running]
        );
        assert!(
            answers[1].0.contains("p1-writer-1") && answers[1].0.contains("Shall I begin?"),
            "{answers:?}"
        );
        assert!(answers[2].0.contains("reviewer"), "{answers:?}");
        assert_eq!(workspace.projects[&1].record.state, ProjectState::Reserving);
    }

    #[test]
    fn a_number_is_an_answer() {
        let mut workspace = Workspace::default();
        let answers = talk(&mut workspace, &["Create 500 developers", "3"]);
        assert_eq!(answers[1].1, Stage::Planned, "{answers:?}");
        assert_eq!(workspace.projects[&1].record.plan.agents.len(), 3);
    }

    #[test]
    fn a_no_cancels() {
        let mut workspace = Workspace::default();
        let answers = talk(&mut workspace, &["Write a poem", "no, stop", "Write a tale"]);
        assert_eq!(answers[1].1, Stage::Wish);
        assert!(workspace.projects[&1].cancel_requested);
        assert_eq!((answers[2].1, workspace.projects.len()), (Stage::Planned, 2));
    }
}
