//! Composed work becomes tasks, and what may not be is refused before anything runs.

use std::collections::{BTreeMap, BTreeSet};

use shared_types::FieldError;
use shared_types::coordinator::plan::MAX_TASK_PROMPT_BYTES;
use shared_types::coordinator::{
    CoordinatorConfig, CoordinatorError, LimitKind, PlannedTask, RoleTemplate, TaskId, TaskKind, TaskSpec,
    VoteRule, Work,
};

use crate::{roles, text};

/// Longest title of a task in bytes.
const MAX_TITLE_BYTES: usize = 80;

/// Highest temperature in thousandths.
const MAX_TEMPERATURE_PERMILLE: u32 = 10_000;

/// Bytes of a token, for estimates: what the tokenizers of the bundled models have on English text, rounded down.
const BYTES_PER_TOKEN: u64 = 3;

/// Makes tasks of work, numbered on from `first`.
pub struct Flatten<'a> {
    /// Roles of the owner.
    pub own: &'a BTreeMap<String, RoleTemplate>,
    /// Limits.
    pub config: &'a CoordinatorConfig,
    /// Number of the first task.
    pub first: TaskId,
    /// Tokens that each task may generate.
    pub max_tokens: Option<u32>,
    /// What came of it so far.
    pub tasks: Vec<PlannedTask>,
}

impl Flatten<'_> {
    /// Adds `work`, which takes the artifacts of `after`, at `depth` levels; returns the tasks that have its results.
    ///
    /// # Errors
    /// [`CoordinatorError::TooMany`], [`CoordinatorError::UnknownRole`], [`CoordinatorError::InvalidField`].
    pub fn add(
        &mut self,
        work: &Work,
        after: &[TaskId],
        parent: Option<TaskId>,
        depth: u32,
    ) -> Result<Vec<TaskId>, CoordinatorError> {
        let most = self.config.max_depth;
        if depth > most {
            return Err(too_many(LimitKind::Depth, depth, most));
        }
        let parts = match work {
            Work::Task(_) | Work::Vote { .. } => 1,
            Work::Sequence(parts) | Work::Parallel(parts) | Work::Hierarchy { parts, .. } => {
                parts.len() as u32
            }
        };
        if parts == 0 {
            let reason = "a composition has no parts";
            return Err(CoordinatorError::InvalidField(FieldError::new("work", reason)));
        }
        match work {
            Work::Task(spec) => Ok(vec![self.task(spec, TaskKind::Work, after.to_vec(), parent)?]),
            Work::Sequence(parts) => {
                let mut ends = after.to_vec();
                for part in parts {
                    ends = self.add(part, &ends, parent, depth + 1)?;
                }
                Ok(ends)
            }
            Work::Parallel(parts) => {
                self.check_fan_out(parts.len() as u32)?;
                let mut ends = Vec::new();
                for part in parts {
                    ends.extend(self.add(part, after, parent, depth + 1)?);
                }
                Ok(ends)
            }
            Work::Hierarchy { lead, parts } => {
                self.check_fan_out(parts.len() as u32)?;
                let begin = self.tasks.len();
                let mut ends = Vec::new();
                for part in parts {
                    ends.extend(self.add(part, after, parent, depth + 1)?);
                }
                let lead = self.task(lead, TaskKind::Work, ends, parent)?;
                let end = self.tasks.len() - 1;
                for part in self.tasks[begin..end].iter_mut().filter(|task| task.parent == parent) {
                    part.parent = Some(lead);
                }
                Ok(vec![lead])
            }
            Work::Vote { task, voters, rule } => self.vote(task, *voters, *rule, after, parent),
        }
    }

    fn vote(
        &mut self,
        spec: &TaskSpec,
        voters: u32,
        rule: VoteRule,
        after: &[TaskId],
        parent: Option<TaskId>,
    ) -> Result<Vec<TaskId>, CoordinatorError> {
        self.check_fan_out(voters)?;
        if !(1..=voters).contains(&rule.quorum) {
            let reason = format!("is {}, not within 1..={voters} voters", rule.quorum);
            return Err(CoordinatorError::InvalidField(FieldError::new("rule.quorum", reason)));
        }
        let begin = self.tasks.len();
        let mut ends = Vec::new();
        for _ in 0..voters {
            ends.push(self.task(spec, TaskKind::Work, after.to_vec(), parent)?);
        }
        let title = format!("Vote: {}", self.tasks[begin].title);
        let id = self.next_id()?;
        self.tasks.push(PlannedTask {
            id,
            title: text::beginning(&title, MAX_TITLE_BYTES).to_owned(),
            kind: TaskKind::Vote(rule),
            role: String::new(),
            prompt: String::new(),
            after: ends,
            parent,
            capabilities: Vec::new(),
            max_tokens: 0,
            temperature_permille: 0,
        });
        for voter in &mut self.tasks[begin..] {
            if voter.id != id {
                voter.parent = Some(id);
            }
        }
        Ok(vec![id])
    }

    fn check_fan_out(&self, parts: u32) -> Result<(), CoordinatorError> {
        let most = self.config.max_fan_out;
        if parts > most { Err(too_many(LimitKind::FanOut, parts, most)) } else { Ok(()) }
    }

    fn next_id(&self) -> Result<TaskId, CoordinatorError> {
        let id = self.first.saturating_add(self.tasks.len() as u32);
        let most = self.config.max_tasks;
        if id > most { Err(too_many(LimitKind::Tasks, id, most)) } else { Ok(id) }
    }

    fn task(
        &mut self,
        spec: &TaskSpec,
        kind: TaskKind,
        after: Vec<TaskId>,
        parent: Option<TaskId>,
    ) -> Result<TaskId, CoordinatorError> {
        let invalid = |error| CoordinatorError::InvalidField(error);
        FieldError::check_text("prompt", &spec.prompt, MAX_TASK_PROMPT_BYTES).map_err(invalid)?;
        let Some(role) = roles::find(self.own, &spec.role) else {
            return Err(CoordinatorError::UnknownRole { name: spec.role.clone() });
        };
        let max_tokens = spec.max_tokens.or(self.max_tokens).unwrap_or(role.max_tokens);
        if !(1..=shared_types::agent::MAX_TOKENS).contains(&max_tokens) {
            let reason = format!("is {max_tokens}, not within 1..={}", shared_types::agent::MAX_TOKENS);
            return Err(invalid(FieldError::new("max_tokens", reason)));
        }
        let temperature_permille = spec.temperature_permille.unwrap_or(0);
        if temperature_permille > MAX_TEMPERATURE_PERMILLE {
            let reason = format!("is {temperature_permille}, at most {MAX_TEMPERATURE_PERMILLE} are allowed");
            return Err(invalid(FieldError::new("temperature_permille", reason)));
        }
        if spec.capabilities.len() > shared_types::coordinator::role::MAX_TAGS {
            return Err(invalid(FieldError::new("capabilities", "are too many")));
        }
        for tag in &spec.capabilities {
            FieldError::check_text("capabilities", tag, shared_types::coordinator::role::MAX_SIGNAL_BYTES)
                .map_err(invalid)?;
        }
        let title = spec.title.as_deref().unwrap_or(&spec.prompt);
        let id = self.next_id()?;
        self.tasks.push(PlannedTask {
            id,
            title: text::beginning(title, MAX_TITLE_BYTES).to_owned(),
            kind,
            role: spec.role.clone(),
            prompt: spec.prompt.clone(),
            after,
            parent,
            capabilities: spec.capabilities.clone(),
            max_tokens,
            temperature_permille,
        });
        Ok(id)
    }
}

/// Checks the tasks of a project against each other and the limits: every dependency is there, none goes round in a circle, nothing is too deep
/// or too wide, and together they stay within the budget of tokens.
///
/// # Errors
/// [`CoordinatorError::InvalidField`], [`CoordinatorError::TooMany`].
pub fn admit(tasks: &[&PlannedTask], config: &CoordinatorConfig) -> Result<(), CoordinatorError> {
    if tasks.len() as u64 > u64::from(config.max_tasks) {
        return Err(too_many(LimitKind::Tasks, tasks.len() as u32, config.max_tasks));
    }
    let by_id: BTreeMap<TaskId, &PlannedTask> = tasks.iter().map(|task| (task.id, *task)).collect();
    let invalid =
        |field: &str, reason: String| CoordinatorError::InvalidField(FieldError::new(field, reason));
    if by_id.len() != tasks.len() {
        return Err(invalid("id", "two tasks have the same number".to_owned()));
    }
    let mut followers: BTreeMap<TaskId, u32> = BTreeMap::new();
    for task in tasks {
        let distinct: BTreeSet<_> = task.after.iter().collect();
        if distinct.len() != task.after.len() {
            return Err(invalid("after", format!("task {} names a task twice", task.id)));
        }
        for before in &task.after {
            if !by_id.contains_key(before) {
                return Err(invalid(
                    "after",
                    format!("task {} waits for {before}, which is not there", task.id),
                ));
            }
            *followers.entry(*before).or_default() += 1;
        }
        if task.after.len() as u64 > u64::from(config.max_fan_out) {
            return Err(too_many(LimitKind::FanOut, task.after.len() as u32, config.max_fan_out));
        }
    }
    if let Some(most) = followers.values().max().filter(|most| **most > config.max_fan_out) {
        return Err(too_many(LimitKind::FanOut, *most, config.max_fan_out));
    }
    // Kahn: what can be done, is; the rest goes round in a circle.
    let mut done: BTreeSet<TaskId> = BTreeSet::new();
    loop {
        let ready: Vec<TaskId> = tasks
            .iter()
            .filter(|task| !done.contains(&task.id) && task.after.iter().all(|before| done.contains(before)))
            .map(|task| task.id)
            .collect();
        if ready.is_empty() {
            break;
        }
        done.extend(ready);
    }
    if let Some(task) = tasks.iter().find(|task| !done.contains(&task.id)) {
        return Err(invalid("after", format!("task {} waits for itself, by way of others", task.id)));
    }
    for task in tasks {
        let (mut depth, mut at) = (0, task.parent);
        while let Some(parent) = at {
            depth += 1;
            if depth > config.max_depth {
                return Err(too_many(LimitKind::Depth, depth, config.max_depth));
            }
            let Some(above) = by_id.get(&parent) else {
                return Err(invalid(
                    "parent",
                    format!("task {} is a part of {parent}, which is not there", task.id),
                ));
            };
            at = above.parent;
        }
    }
    let bytes: u64 = tasks.iter().map(|task| task.prompt.len() as u64).sum();
    if bytes > u64::from(config.max_prompt_bytes) {
        let most = config.max_prompt_bytes.into();
        return Err(CoordinatorError::TooMany { what: LimitKind::PromptBytes, asked: bytes, most });
    }
    let tokens = tokens(tasks);
    if tokens > config.max_tokens {
        let (asked, most) = (tokens, config.max_tokens);
        return Err(CoordinatorError::TooMany { what: LimitKind::Tokens, asked, most });
    }
    Ok(())
}

/// Tokens that the tasks may take: what they generate, their prompts, and the artifacts that they are given.
pub fn tokens(tasks: &[&PlannedTask]) -> u64 {
    let generated: BTreeMap<TaskId, u64> =
        tasks.iter().map(|task| (task.id, u64::from(task.max_tokens))).collect();
    let of = |task: &&PlannedTask| {
        if matches!(task.kind, TaskKind::Vote(_)) {
            return 0;
        }
        let told = shared_types::coordinator::role::MAX_INSTRUCTIONS_BYTES as u64 / 4;
        let prompt = (task.prompt.len() as u64 + told) / BYTES_PER_TOKEN;
        let given: u64 = task.after.iter().filter_map(|before| generated.get(before)).sum();
        u64::from(task.max_tokens) + prompt + given
    };
    tasks.iter().map(of).sum()
}

pub(crate) fn too_many(what: LimitKind, asked: u32, most: u32) -> CoordinatorError {
    CoordinatorError::TooMany { what, asked: asked.into(), most: most.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared_types::coordinator::NoQuorum;

    fn spec(prompt: &str) -> TaskSpec {
        TaskSpec {
            title: None,
            role: "writer".to_owned(),
            prompt: prompt.to_owned(),
            capabilities: Vec::new(),
            max_tokens: Some(8),
            temperature_permille: None,
        }
    }

    fn task(prompt: &str) -> Work {
        Work::Task(spec(prompt))
    }

    fn flatten(work: &Work, config: &CoordinatorConfig) -> Result<Vec<PlannedTask>, CoordinatorError> {
        let own = BTreeMap::new();
        let mut flatten = Flatten { own: &own, config, first: 1, max_tokens: None, tasks: Vec::new() };
        flatten.add(work, &[], None, 0)?;
        Ok(flatten.tasks)
    }

    #[test]
    fn compositions_become_a_graph() {
        let rule = VoteRule { quorum: 2, timeout_ns: None, no_quorum: NoQuorum::Fail };
        let work = Work::Sequence(vec![
            Work::Hierarchy {
                lead: spec("lead"),
                parts: vec![task("a"), Work::Sequence(vec![task("b"), task("c")])],
            },
            Work::Parallel(vec![task("d"), Work::Vote { task: spec("e"), voters: 3, rule }]),
        ]);
        let tasks = flatten(&work, &CoordinatorConfig::default()).unwrap();
        let shape: Vec<_> = tasks.iter().map(|task| (task.id, task.after.clone(), task.parent)).collect();
        assert_eq!(
            shape,
            [
                (1, vec![], Some(4)),
                (2, vec![], Some(4)),
                (3, vec![2], Some(4)),
                (4, vec![1, 3], None),
                (5, vec![4], None),
                (6, vec![4], Some(9)),
                (7, vec![4], Some(9)),
                (8, vec![4], Some(9)),
                (9, vec![6, 7, 8], None),
            ]
        );
        admit(&tasks.iter().collect::<Vec<_>>(), &CoordinatorConfig::default()).unwrap();
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let config =
            CoordinatorConfig { max_depth: 2, max_fan_out: 2, max_tasks: 3, ..CoordinatorConfig::default() };
        let refused = |work: &Work| match flatten(work, &config) {
            Err(CoordinatorError::TooMany { what, .. }) => Some(what),
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        };
        let nest = |levels: u32| (0..levels).fold(task("x"), |work, _| Work::Sequence(vec![work]));
        assert_eq!((refused(&nest(2)), refused(&nest(3))), (None, Some(LimitKind::Depth)));
        let wide = |parts: usize| Work::Parallel(vec![task("x"); parts]);
        assert_eq!((refused(&wide(2)), refused(&wide(3))), (None, Some(LimitKind::FanOut)));
        assert_eq!(refused(&Work::Sequence(vec![task("x"); 4])), Some(LimitKind::Tasks));
        let unknown = TaskSpec { role: "wizard".to_owned(), ..spec("x") };
        assert!(matches!(flatten(&Work::Task(unknown), &config), Err(CoordinatorError::UnknownRole { .. })));
        assert!(matches!(flatten(&Work::Parallel(vec![]), &config), Err(CoordinatorError::InvalidField(_))));
        let budget = CoordinatorConfig { max_tokens: 10, ..CoordinatorConfig::default() };
        let tasks = flatten(&task("x"), &budget).unwrap();
        let refused = admit(&tasks.iter().collect::<Vec<_>>(), &budget);
        assert!(matches!(refused, Err(CoordinatorError::TooMany { what: LimitKind::Tokens, .. })));
    }

    proptest! {
        /// Against the obvious: a graph has a circle if a path from a task leads back to it.
        #[test]
        fn circles_are_found(edges in prop::collection::btree_set((1u32..7, 1u32..7), 0..12)) {
            let tasks: Vec<PlannedTask> = (1..7).map(|id| PlannedTask {
                after: edges.iter().filter(|(_, to)| *to == id).map(|(from, _)| *from).collect(),
                ..flatten(&task("x"), &CoordinatorConfig::default()).unwrap().remove(0)
            }).zip(1..).map(|(task, id)| PlannedTask { id, ..task }).collect();
            let mut paths = edges.clone();
            for _ in 0..6 {
                let longer: Vec<_> = paths
                    .iter()
                    .flat_map(|(a, b)| edges.iter().filter(move |(c, _)| b == c).map(move |(_, d)| (*a, *d)))
                    .collect();
                paths.extend(longer);
            }
            let circle = paths.iter().any(|(from, to)| from == to);
            let admitted = admit(&tasks.iter().collect::<Vec<_>>(), &CoordinatorConfig::default());
            prop_assert_eq!(admitted.is_err(), circle);
        }
    }
}
