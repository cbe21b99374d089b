//! What an instruction asks for, by rules over the words of role templates.
//!
//! The instruction is cut into clauses at marks and at words such as `then` and `that`. In each, the longest phrases that a role's
//! template names are found, and their weights added up: the best role from [`THRESHOLD`] on is what the clause asks for. Names of a
//! role (`developer`) ask for an agent each, whatever the rest says. Everything that the rules found is in the result; what they did not find
//! is asked. An instruction is only ever compared and copied, never followed.

use std::collections::BTreeMap;

use shared_types::coordinator::{Analysis, Clause, Intent, Question, QuestionTopic, RoleScore, RoleTemplate};

use crate::roles;
use crate::text::{self, Token};

/// A role is taken from this sum of weights on.
pub const THRESHOLD: u32 = 4;

/// What a name of a role weighs.
const NAME_WEIGHT: u32 = 10;

/// What a language weighs for a role that codes, where no signal of the role says so.
const LANGUAGE_WEIGHT: u32 = 4;

/// Words for agents of any role.
const ANYBODY: [&str; 16] = [
    "agent",
    "bot",
    "assistant",
    "people",
    "person",
    "someone",
    "somebody",
    "team",
    "crew",
    "group",
    "member",
    "colleague",
    "expert",
    "staff",
    "ai",
    "one",
];

/// Words that ask for agents to be there.
const CREATING: [&str; 16] = [
    "create", "make", "hire", "need", "want", "spin", "set", "get", "have", "give", "assemble", "add",
    "form", "spawn", "build", "bring",
];

/// Words that point to what was made before.
const POINTING: [&str; 12] =
    ["it", "them", "its", "their", "result", "results", "that", "these", "those", "this", "draft", "they"];

/// How a clause is joined to the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joint {
    /// It is the first, or stands in a list.
    List,
    /// `then`, `finally`: after all that was said.
    Then,
    /// `after …`: what follows it comes later.
    After,
    /// `before …`: it comes later.
    Before,
    /// `that`, `who`, `with`: it says more about the one before.
    Relative,
}

/// Tokens from `start` to `end`, and how they begin.
#[derive(Clone, Copy, Debug)]
struct Segment {
    start: usize,
    end: usize,
    joint: Joint,
    /// Whether a full stop is before it.
    new_sentence: bool,
}

/// A phrase of a role that was found.
#[derive(Clone, Debug)]
struct Match {
    /// First token.
    start: usize,
    /// Behind the last token.
    end: usize,
    /// Index of the role.
    role: usize,
    weight: u32,
    is_name: bool,
    text: String,
}

/// A phrase of a role.
struct Phrase {
    tokens: Vec<Token>,
    /// Index of the role.
    role: usize,
    weight: u32,
    is_name: bool,
}

impl Phrase {
    /// Whether `tokens` begin with it. A signal is compared by stems. A name has to be there as it is written, or in the plural: the
    /// verb has the stem of its doer (`review`, `reviewer`).
    fn begins(&self, tokens: &[Token]) -> bool {
        let is = |token: &Token, word: &Token| {
            !token.is_mark
                && if self.is_name {
                    token.word == word.word || token.word.strip_suffix('s') == Some(&word.word)
                } else {
                    token.stem == word.stem
                }
        };
        tokens.len() >= self.tokens.len()
            && tokens.iter().zip(&self.tokens).all(|(token, word)| is(token, word))
    }
}

/// Phrases by the stem that they begin with.
type Index = BTreeMap<String, Vec<Phrase>>;

fn index(roles: &[&RoleTemplate]) -> Index {
    let mut index = Index::new();
    let mut insert = |phrase: &str, role: usize, weight: u32, is_name: bool| {
        let tokens: Vec<Token> = text::tokens(phrase).into_iter().filter(|token| !token.is_mark).collect();
        if let Some(first) = tokens.first() {
            index.entry(first.stem.clone()).or_default().push(Phrase { tokens, role, weight, is_name });
        }
    };
    for (at, role) in roles.iter().enumerate() {
        for name in &role.names {
            insert(name, at, NAME_WEIGHT, true);
        }
        for signal in &role.signals {
            insert(&signal.text, at, signal.weight, false);
        }
    }
    index
}

fn begins_with(tokens: &[Token], phrase: &[String]) -> bool {
    tokens.len() >= phrase.len()
        && tokens.iter().zip(phrase).all(|(token, stem)| !token.is_mark && token.stem == *stem)
}

/// The longest phrases, which no longer one overlaps; several roles may have the same phrase.
fn matches(tokens: &[Token], index: &Index) -> Vec<Match> {
    let mut found = Vec::new();
    for start in 0..tokens.len() {
        let Some(candidates) = index.get(&tokens[start].stem) else { continue };
        for phrase in candidates.iter().filter(|phrase| phrase.begins(&tokens[start..])) {
            let end = start + phrase.tokens.len();
            let words: Vec<_> = tokens[start..end].iter().map(|token| token.word.as_str()).collect();
            let Phrase { role, weight, is_name, .. } = *phrase;
            found.push(Match { start, end, role, weight, is_name, text: words.join(" ") });
        }
    }
    // Longest first, then leftmost; what overlaps a longer one is dropped.
    found.sort_by_key(|it| (std::cmp::Reverse(it.end - it.start), it.start, it.role));
    let mut taken: Vec<Match> = Vec::new();
    for candidate in found {
        let overlaps = |it: &Match| {
            it.start < candidate.end
                && candidate.start < it.end
                && (it.start, it.end) != (candidate.start, candidate.end)
        };
        if !taken.iter().any(overlaps) {
            taken.push(candidate);
        }
    }
    taken.sort_by_key(|it| (it.start, it.role));
    taken
}

fn segments(tokens: &[Token]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut start = 0;
    let mut joint = Joint::List;
    let mut new_sentence = true;
    let close = |start: usize, end: usize, joint: Joint, new_sentence: bool, segments: &mut Vec<Segment>| {
        if end > start {
            segments.push(Segment { start, end, joint, new_sentence });
        }
    };
    for (at, token) in tokens.iter().enumerate() {
        if token.is_mark {
            close(start, at, joint, new_sentence, &mut segments);
            let ended_something = at > start;
            start = at + 1;
            if ended_something {
                joint = Joint::List;
                new_sentence = matches!(token.word.as_str(), "." | "!" | "?" | "\n" | ":");
            }
            continue;
        }
        let begins = match token.word.as_str() {
            "and" | "plus" | "while" | "or" => Some(Joint::List),
            "then" | "finally" | "afterwards" | "next" | "lastly" | "later" => Some(Joint::Then),
            "after" | "once" => Some(Joint::After),
            "before" => Some(Joint::Before),
            "that" | "who" | "which" | "with" | "for" | "whose" => Some(Joint::Relative),
            _ => None,
        };
        let Some(next) = begins else { continue };
        // `after that` is `then`.
        let points = tokens.get(at + 1).is_some_and(|next| POINTING.contains(&next.word.as_str()));
        let next = if next == Joint::After && points { Joint::Then } else { next };
        if next == Joint::Relative && joint == Joint::Then && start == at {
            continue;
        }
        if at > start {
            close(start, at, joint, new_sentence, &mut segments);
            new_sentence = false;
            joint = next;
        } else if joint == Joint::List || next == Joint::Then {
            joint = next;
        }
        start = at + 1;
    }
    close(start, tokens.len(), joint, new_sentence, &mut segments);
    segments
}

/// A number of agents that is said: in front of a name of a role, or of a word for anybody.
fn count_before(tokens: &[Token], segment: Segment, noun: usize) -> Option<u32> {
    // Up to three words may stand between: `two very good Rust developers`.
    let from = segment.start.max(noun.saturating_sub(4));
    let words = tokens[from..noun].iter().rev();
    for (distance, token) in words.enumerate() {
        let of = token.word == "of";
        if let Some(number) = text::number(&token.word)
            && !of
        {
            return Some(number);
        }
        if distance > 0 && token.is_mark {
            break;
        }
    }
    None
}

fn is_plural(token: &Token) -> bool {
    let word = &token.word;
    word == "people" || word.ends_with('s') && !word.ends_with("ss") && word.len() > 3
}

/// What a segment asks for.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a finding of its own")]
struct Item {
    role: usize,
    score: u32,
    /// Said in so many words.
    agents: Option<u32>,
    plural: bool,
    is_work: bool,
    joint: Joint,
    points_back: bool,
    new_sentence: bool,
    /// Tokens.
    start: usize,
    end: usize,
    reasons: Vec<String>,
}

/// What was found of one segment.
#[derive(Default)]
struct Found {
    items: Vec<Item>,
    /// A number in front of a word for anybody.
    anybody: Option<u32>,
    anybody_plural: bool,
    has_anybody: bool,
}

fn examine(
    tokens: &[Token],
    segment: Segment,
    roles: &[&RoleTemplate],
    matches: &[Match],
    languages: &[(usize, usize)],
) -> Found {
    let inside = |start: usize, end: usize| segment.start <= start && end <= segment.end;
    let here: Vec<&Match> = matches.iter().filter(|it| inside(it.start, it.end)).collect();
    let names: Vec<&&Match> = here.iter().filter(|it| it.is_name).collect();
    let language = languages.iter().find(|(start, end)| inside(*start, *end)).copied();
    let in_name = |at: usize| names.iter().any(|name| (name.start..name.end).contains(&at));

    let mut found = Found::default();
    let anybody: Vec<usize> = (segment.start..segment.end)
        .filter(|at| {
            let token = &tokens[*at];
            let singular = token.word.strip_suffix('s').unwrap_or(&token.word);
            !in_name(*at) && (ANYBODY.contains(&singular) || token.word == "people")
        })
        .collect();
    if let Some(&noun) = anybody.first() {
        // `one` and `someone` are their own number; `four of them` has the number first.
        let own = text::number(&tokens[noun].word);
        found.anybody = own.or_else(|| count_before(tokens, segment, noun));
        if tokens[noun].stem == "team" || tokens[noun].stem == "crew" || tokens[noun].stem == "group" {
            // `a team of five`: the number behind it counts, `a team` says none.
            let behind = tokens[noun..segment.end].iter().skip(1).take(2);
            found.anybody = behind.filter_map(|token| text::number(&token.word)).find(|number| *number > 1);
        }
        found.anybody_plural = anybody.iter().any(|at| is_plural(&tokens[*at]));
        found.has_anybody = true;
    } else if tokens[segment.start..segment.end]
        .windows(3)
        .any(|it| it[1].word == "of" && it[2].word == "them")
    {
        let at = (segment.start..segment.end).find(|at| tokens[*at].word == "of").unwrap_or(segment.start);
        found.anybody = at.checked_sub(1).and_then(|at| text::number(&tokens[at].word));
    }

    let points_back =
        tokens[segment.start..segment.end].iter().any(|token| POINTING.contains(&token.word.as_str()));
    let item = |role: usize, score: u32, reasons: Vec<String>| Item {
        role,
        score,
        agents: None,
        plural: false,
        is_work: false,
        joint: segment.joint,
        points_back,
        new_sentence: segment.new_sentence,
        start: segment.start,
        end: segment.end,
        reasons,
    };

    // Signals: the role with the highest sum.
    let mut scores: BTreeMap<usize, (u32, Vec<String>, usize)> = BTreeMap::new();
    for signal in here.iter().filter(|it| !it.is_name) {
        let entry = scores.entry(signal.role).or_insert((0, Vec::new(), signal.start));
        entry.0 += signal.weight;
        entry.1.push(format!("`{}` +{}", signal.text, signal.weight));
    }
    let coding = |role: usize| roles[role].capabilities.iter().any(|tag| tag == "coding");
    if let Some((start, _)) = language
        && names.is_empty()
    {
        let developer = roles.iter().position(|role| role.name == "developer");
        let coders = scores.keys().copied().filter(|role| coding(*role)).collect::<Vec<_>>();
        let coders = if coders.is_empty() { developer.into_iter().collect() } else { coders };
        for role in coders {
            let entry = scores.entry(role).or_insert((0, Vec::new(), start));
            entry.0 += LANGUAGE_WEIGHT;
            entry.1.push(format!("the language `{}` +{LANGUAGE_WEIGHT}", tokens[start].word));
        }
    }
    let best = scores.values().map(|(score, ..)| *score).max().unwrap_or(0);
    let first_name = names.iter().map(|name| name.start).min();
    let mut by_signals: Vec<Item> = scores
        .iter()
        .filter(|(_, (score, ..))| *score == best)
        .map(|(role, (score, reasons, _))| item(*role, *score, reasons.clone()))
        .collect();
    // What a role's name is said to do is that role's work, unless it is said before the name (`coordinate two developers`).
    let work_end = here.iter().filter(|it| !it.is_name).map(|it| it.end).max();
    if let Some(first_name) = first_name {
        by_signals.retain(|it| {
            let start = scores.get(&it.role).map_or(usize::MAX, |entry| entry.2);
            start < first_name && !names.iter().any(|name| name.role == it.role) && it.score > THRESHOLD
        });
    }
    let noun = anybody.last().copied();
    for it in &mut by_signals {
        // `Python coding agents` says what they are, `agents that code` what they do.
        it.is_work = noun.is_none_or(|noun| work_end.is_some_and(|end| end > noun));
    }

    for name in &names {
        let role = name.role;
        let mut named = item(role, NAME_WEIGHT, vec![format!("`{}` names the role", name.text)]);
        named.agents = count_before(tokens, segment, name.start);
        named.plural = is_plural(&tokens[name.end - 1]);
        named.is_work = here.iter().any(|it| !it.is_name && it.start >= name.end);
        found.items.push(named);
    }
    found.items.extend(by_signals);
    found.items.sort_by_key(|it| std::cmp::Reverse(it.score));
    if names.len() > 1 {
        found.items.sort_by_key(|it| it.role);
    }
    found
}

/// Analyses an instruction. A plan may have at most `max_agents` agents.
pub fn analyse(instruction: &str, own: &BTreeMap<String, RoleTemplate>, max_agents: u32) -> Analysis {
    let roles = roles::of(own);
    let tokens = text::tokens(instruction);
    let matches = matches(&tokens, &index(&roles));
    let mut languages = Vec::new();
    let mut capabilities = Vec::new();
    for (tag, phrases) in roles::capabilities() {
        for (start, phrase) in (0..tokens.len()).flat_map(|at| phrases.iter().map(move |phrase| (at, phrase)))
        {
            if begins_with(&tokens[start..], phrase) {
                if tag.starts_with("language:") {
                    languages.push((start, start + phrase.len()));
                }
                if !capabilities.contains(tag) {
                    capabilities.push(tag.clone());
                }
            }
        }
    }

    let mut items: Vec<Item> = Vec::new();
    let mut total: Option<u32> = None;
    let mut anybody_plural = false;
    let mut has_anybody = false;
    let mut pending: Option<u32> = None;
    let mut weak: BTreeMap<usize, (u32, Vec<String>)> = BTreeMap::new();
    for segment in segments(&tokens) {
        let found = examine(&tokens, segment, &roles, &matches, &languages);
        has_anybody |= found.has_anybody;
        anybody_plural |= found.anybody_plural;
        for item in &found.items {
            let entry = weak.entry(item.role).or_default();
            if item.score > entry.0 {
                *entry = (item.score, item.reasons.clone());
            }
        }
        let mut strong: Vec<Item> = found.items.into_iter().filter(|item| item.score >= THRESHOLD).collect();
        if strong.is_empty() {
            // It says more about what is before it.
            if let Some(last) = items.last_mut()
                && !segment.new_sentence
            {
                last.end = segment.end;
            }
            if let Some(number) = found.anybody {
                let ordinal = number == 1 && !items.is_empty();
                if number > 1 && total.is_none() && pending.is_none() {
                    pending = Some(number);
                    if items.is_empty() {
                        total = Some(number);
                    } else {
                        total = total.or(Some(number));
                    }
                } else if number == 1 && !ordinal {
                    pending = Some(1);
                }
            }
            continue;
        }
        // A relative clause without a name says what the one before does.
        if segment.joint == Joint::Relative
            && let Some(last) = items.last_mut()
            && strong
                .iter()
                .all(|item| item.role == last.role && item.reasons.iter().all(|it| !it.ends_with("role")))
        {
            last.end = segment.end;
            last.is_work |= strong.iter().any(|item| item.is_work);
            last.score = last.score.max(strong[0].score);
            continue;
        }
        if let (Some(number), [only]) = (found.anybody, &mut strong[..])
            && only.agents.is_none()
        {
            only.agents = Some(number);
        }
        items.extend(strong);
    }

    let mut questions = Vec::new();
    let explicit: u32 = items.iter().filter_map(|item| item.agents).fold(0, u32::saturating_add);
    // `Three agents write, review and title a tale` speaks of all three.
    if total.is_none()
        && let [first, rest @ ..] = &mut items[..]
        && let Some(number) = first.agents
        && !first.reasons.iter().any(|reason| reason.ends_with("role"))
        && number as usize == rest.len() + 1
        && rest.len() > 1
        && rest.iter().all(|item| item.agents.is_none())
    {
        total = Some(number);
        first.agents = None;
    }
    if total.is_none() && items.is_empty() {
        total = pending;
    }
    let clauses =
        clauses(instruction, &tokens, &roles, &items, total, anybody_plural, explicit, &mut questions);
    let agents: u64 = planned_agents(&clauses);
    if items.is_empty() {
        questions.push(Question {
            topic: QuestionTopic::Role,
            text: if has_anybody {
                "What should the agents do?".to_owned()
            } else {
                "I do not know which kind of agent this takes. Which role fits, or what exactly is to be done?".to_owned()
            },
            options: roles.iter().map(|role| role.name.clone()).collect(),
        });
    } else if agents > u64::from(max_agents) {
        questions.push(Question {
            topic: QuestionTopic::Count,
            text: format!(
                "This asks for {agents} agents, {max_agents} are possible. How many should there be?"
            ),
            options: vec![max_agents.to_string()],
        });
    }

    let mut scores: Vec<RoleScore> = weak
        .into_iter()
        .map(|(role, (score, reasons))| RoleScore {
            role: roles[role].name.clone(),
            score,
            taken: clauses.iter().any(|clause| clause.role == roles[role].name),
            reasons,
        })
        .collect();
    scores.sort_by(|a, b| (b.taken, b.score, &a.role).cmp(&(a.taken, a.score, &b.role)));
    let intent = intent(&tokens, &clauses, has_anybody);
    Analysis { intent, roles: scores, clauses, capabilities, agents: total, questions }
}

/// Agents of each role: what is said of it, at least one; together.
pub fn agents_by_role(clauses: &[Clause]) -> Vec<(String, u32)> {
    let mut by_role: Vec<(String, u32)> = Vec::new();
    for clause in clauses {
        match by_role.iter_mut().find(|(role, _)| *role == clause.role) {
            Some((_, agents)) => *agents = agents.saturating_add(clause.agents),
            None => by_role.push((clause.role.clone(), clause.agents)),
        }
    }
    for (_, agents) in &mut by_role {
        *agents = (*agents).max(1);
    }
    by_role
}

fn planned_agents(clauses: &[Clause]) -> u64 {
    agents_by_role(clauses).iter().map(|(_, agents)| u64::from(*agents)).sum()
}

#[allow(clippy::too_many_arguments, reason = "what the segments have shown, put together once")]
fn clauses(
    instruction: &str,
    tokens: &[Token],
    roles: &[&RoleTemplate],
    items: &[Item],
    total: Option<u32>,
    anybody_plural: bool,
    explicit: u32,
    questions: &mut Vec<Question>,
) -> Vec<Clause> {
    let mut clauses: Vec<Clause> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let role = &roles[item.role].name;
        let text = instruction[tokens[item.start].start..tokens[item.end - 1].end].trim().to_owned();
        // Said by number or by name; else the role's first clause brings its one agent, if no name does.
        let is_named = |item: &Item| item.reasons.iter().any(|reason| reason.ends_with("role"));
        let brought = |(other, it): (usize, &Item)| {
            other != at && it.role == item.role && (other < at || it.agents.is_some() || is_named(it))
        };
        let seen = items.iter().enumerate().any(brought);
        let agents = item.agents.unwrap_or(if item.plural {
            2
        } else if is_named(item) {
            1
        } else {
            u32::from(!seen)
        });
        clauses.push(Clause { text, role: role.clone(), agents, is_work: item.is_work, after: Vec::new() });
    }
    let planned = planned_agents(&clauses);
    match total {
        Some(total) if !items.is_empty() => {
            let roles: u64 = agents_by_role(&clauses).len() as u64;
            let counted = items.iter().all(|item| item.agents.is_some());
            if counted && u64::from(total) != planned || u64::from(total) < roles || explicit > total {
                questions.push(Question {
                    topic: QuestionTopic::Count,
                    text: format!("It says {total} agents, but what they should be adds up to {planned}. How many of each?"),
                    options: Vec::new(),
                });
            } else {
                share(items, &mut clauses, total);
            }
        }
        None if items.len() == 1 && anybody_plural && items[0].agents.is_none() => clauses[0].agents = 2,
        _ => {}
    }
    order(tokens, roles, items, &mut clauses);
    clauses
}

/// Gives `total` agents to the clauses: first one to each that has none of its own, then on and on in their order.
fn share(items: &[Item], clauses: &mut [Clause], total: u32) {
    let open: Vec<usize> = (0..items.len()).filter(|at| items[*at].agents.is_none()).collect();
    let mut left = u64::from(total).saturating_sub(planned_agents(clauses));
    // A later clause of the same role gets one of its own before anybody gets a second one.
    for at in &open {
        if left > 0 && clauses[*at].agents == 0 {
            clauses[*at].agents = 1;
            left -= 1;
        }
    }
    let mut turn = 0;
    while left > 0 && !open.is_empty() {
        let at = open[turn % open.len()];
        clauses[at].agents = clauses[at].agents.saturating_add(1);
        turn += 1;
        left -= 1;
    }
}

/// Says which clauses go before which: by the words that join them, else by what roles follow.
fn order(tokens: &[Token], roles: &[&RoleTemplate], items: &[Item], clauses: &mut [Clause]) {
    let count = items.len();
    let mut before = vec![vec![false; count]; count];
    let apart =
        tokens.iter().any(|token| matches!(token.word.as_str(), "parallel" | "independently" | "separately"));
    for at in 0..count {
        let previous = at.checked_sub(1);
        match (items[at].joint, previous) {
            (Joint::Then, _) => (0..at).for_each(|earlier| before[earlier][at] = true),
            // `after X, Y` and `Y after X`.
            (Joint::After, _) if items[at].new_sentence && at + 1 < count => before[at][at + 1] = true,
            (Joint::Before, _) if items[at].new_sentence && at + 1 < count => before[at + 1][at] = true,
            (Joint::After | Joint::Before, _) if items[at].new_sentence => {}
            (Joint::After, Some(previous)) => before[at][previous] = true,
            (Joint::Before, Some(previous)) => before[previous][at] = true,
            (_, Some(previous)) if items[at].points_back && !apart => before[previous][at] = true,
            _ => {}
        }
    }
    let reaches = |before: &Vec<Vec<bool>>, from: usize, to: usize| {
        let mut seen = vec![false; count];
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            if at == to {
                return true;
            }
            if !std::mem::replace(&mut seen[at], true) {
                open.extend((0..count).filter(|next| before[at][*next]));
            }
        }
        false
    };
    for at in 0..count {
        for other in 0..count {
            let follows =
                roles[items[at].role].follows.iter().any(|role| *role == roles[items[other].role].name);
            if at != other && follows && !reaches(&before, other, at) && !reaches(&before, at, other) {
                before[other][at] = true;
            }
        }
    }
    for (at, clause) in clauses.iter_mut().enumerate() {
        clause.after =
            (0..count).filter(|earlier| before[*earlier][at]).map(|earlier| earlier as u32).collect();
    }
}

fn intent(tokens: &[Token], clauses: &[Clause], has_anybody: bool) -> Intent {
    let first = tokens.iter().find(|token| !token.is_mark).map(|token| token.word.as_str());
    let asks = matches!(first, Some("what" | "who" | "how" | "which" | "can" | "why"));
    if clauses.iter().any(|clause| clause.is_work) {
        Intent::Do
    } else if !clauses.is_empty() || has_anybody {
        Intent::Create
    } else if asks && tokens.last().is_some_and(|token| token.word == "?") {
        Intent::Ask
    } else if first.is_some_and(|word| CREATING.contains(&word)) {
        Intent::Create
    } else {
        Intent::Unclear
    }
}

#[cfg(test)]
#[path = "analysis_tests.rs"]
mod tests;
