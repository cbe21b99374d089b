//! Conversations: their turns, what of them a prompt takes in, and their summaries; see `shared_types::agent::memory`.

use canister_common::cbor::Cbor;
use ic_stable_structures::StableBTreeMap;
use ic_stable_structures::storable::Blob;
use serde::{Deserialize, Serialize};
use shared_types::agent::memory::{
    Conversation, ConversationPage, ConverseArgs, FoundFact, GetConversationArgs, ListConversationsArgs,
    MAX_CONVERSATIONS, MAX_TURNS, Turn, TurnPage,
};
use shared_types::agent::profile::{AgentProfile, MemoryPolicy, WhenFull};
use shared_types::agent::{AgentError, ChatMessage, ChatRole, GenerationParams, JobId, MAX_KEY_BYTES};
use shared_types::paging;

use crate::memory::{ConversationMemories, Memory};

/// Tokens of a summary.
const SUMMARY_TOKENS: u32 = 128;

/// Longest summary in bytes: a fact's, which leaves room for turns in every context that is not tiny.
const MAX_SUMMARY_BYTES: usize = 2_048;

/// Bytes of messages and answers of a page, unless a single turn has more: a reply of 2 MiB has room for them in JSON too.
const PAGE_BYTES: usize = 512 << 10;

/// What asks the model for a summary.
const SUMMARY_REQUEST: &str =
    "Summarise this conversation in a few sentences. Keep names, numbers, wishes and decisions.";

/// A conversation's name: a tuple in stable memory needs a bounded type.
type Name = Blob<MAX_KEY_BYTES>;

fn name_bytes(name: &str) -> Option<Name> {
    Name::try_from(name.as_bytes()).ok()
}

/// What a job's end means for a conversation.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Awaited {
    conversation: String,
    awaits: Awaits,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Awaits {
    /// It answers this turn.
    Answer(u32),
    /// It tells of the turns before this one.
    Summary(u32),
}

/// All conversations.
pub struct Conversations {
    by_name: StableBTreeMap<Name, Cbor<Conversation>, Memory>,
    turns: StableBTreeMap<(Name, u32), Cbor<Turn>, Memory>,
    /// Turns by their keys.
    keys: StableBTreeMap<(Name, Name), u32, Memory>,
    /// Conversations by the jobs that they wait for.
    awaited: StableBTreeMap<JobId, Cbor<Awaited>, Memory>,
}

/// What a prompt takes in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Instructions, summary and facts.
    pub system: String,
    /// The turns, oldest first.
    pub turns: Vec<(String, String)>,
    /// The facts' numbers.
    pub facts: Vec<u64>,
}

/// A prompt as a job takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation, of which the model's chat template makes a text.
    Messages(Vec<ChatMessage>),
    /// A text, for a model without a chat template; it ends where one of the strings begins.
    Text(String, Vec<String>),
}

impl Conversations {
    /// Opens what the memories hold.
    pub fn open(memories: ConversationMemories) -> Self {
        Self {
            by_name: StableBTreeMap::init(memories.conversations),
            turns: StableBTreeMap::init(memories.turns),
            keys: StableBTreeMap::init(memories.keys),
            awaited: StableBTreeMap::init(memories.awaited),
        }
    }

    /// Conversations.
    pub fn len(&self) -> u64 {
        self.by_name.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// A conversation.
    ///
    /// # Errors
    /// [`AgentError::UnknownConversation`].
    pub fn get(&self, name: &str) -> Result<Conversation, AgentError> {
        let conversation = name_bytes(name).and_then(|name| self.by_name.get(&name));
        let unknown = || AgentError::UnknownConversation { name: name.to_owned() };
        conversation.map(|conversation| conversation.0).ok_or_else(unknown)
    }

    /// The turn that the same key has made before.
    ///
    /// # Errors
    /// [`AgentError::InvalidField`] if the key belongs to another message.
    pub fn known(&self, args: &ConverseArgs) -> Result<Option<Turn>, AgentError> {
        let (Some(name), Some(key)) = (name_bytes(&args.conversation), name_bytes(&args.key)) else {
            return Ok(None);
        };
        let turn = self.keys.get(&(name, key)).and_then(|index| self.turns.get(&(name, index)));
        match turn {
            Some(Cbor(turn)) if turn.message != args.message => {
                let error = shared_types::FieldError::new("key", "belongs to another message");
                Err(AgentError::InvalidField(error))
            }
            turn => Ok(turn.map(|turn| turn.0)),
        }
    }

    /// Whether there is room for a conversation of this name.
    ///
    /// # Errors
    /// [`AgentError::TooManyConversations`].
    pub fn check_room(&self, name: &str) -> Result<(), AgentError> {
        if self.get(name).is_err() && self.len() >= MAX_CONVERSATIONS {
            return Err(AgentError::TooManyConversations { conversations: self.len() });
        }
        Ok(())
    }

    /// What a prompt takes in within `bytes`: the instructions in any case; then facts, best first, in a quarter of the rest; the
    /// summary; and the last turns that have answers, as many as there is room for.
    pub fn context(
        &self,
        profile: &AgentProfile,
        name: &str,
        message: &str,
        facts: &[FoundFact],
        bytes: usize,
    ) -> Context {
        let mut left = bytes.saturating_sub(profile.instructions.len() + message.len());
        let mut context = Context::default();
        let mut system = profile.instructions.clone();
        let mut known = String::new();
        let most = left / 4;
        for found in facts {
            let line = format!("\n- {}", found.fact.text);
            if known.len() + line.len() <= most {
                known.push_str(&line);
                context.facts.push(found.fact.id);
            }
        }
        if !known.is_empty() {
            push_paragraph(&mut system, "What you know:");
            system.push_str(&known);
        }
        left = left.saturating_sub(known.len());
        let conversation = self.get(name).ok();
        let (mut first, mut next) = (0, 0);
        if let Some(conversation) = &conversation {
            next = conversation.turns;
            if let Some(summary) = conversation.summary.as_ref().filter(|summary| summary.len() <= left) {
                push_paragraph(&mut system, &format!("What was said before: {summary}"));
                left -= summary.len();
                first = conversation.summarised;
            }
        }
        for turn in self.turns_between(name, first, next).into_iter().rev() {
            let Some(answer) = turn.answer else { continue };
            let Some(rest) = left.checked_sub(turn.message.len() + answer.len()) else { break };
            left = rest;
            context.turns.push((turn.message, answer));
        }
        context.turns.reverse();
        context.system = system;
        context
    }

    /// Adds a turn, whose answer `job_id` gives; the oldest makes room.
    pub fn said(
        &mut self,
        args: ConverseArgs,
        job_id: JobId,
        context: &Context,
        now_ns: u64,
    ) -> Option<Turn> {
        let (name, key) = (name_bytes(&args.conversation)?, name_bytes(&args.key)?);
        let mut conversation = self.get(&args.conversation).unwrap_or_else(|_| Conversation {
            name: args.conversation.clone(),
            turns: 0,
            summary: None,
            summarised: 0,
            summary_job: None,
            begun_at_ns: now_ns,
        });
        let turn = Turn {
            index: conversation.turns,
            key: args.key,
            message: args.message,
            job_id,
            answer: None,
            failed: false,
            turns_in_prompt: context.turns.len() as u32,
            facts_in_prompt: context.facts.clone(),
            time_ns: now_ns,
        };
        conversation.turns += 1;
        if let Some(oldest) = turn.index.checked_sub(MAX_TURNS) {
            self.remove_turn(name, oldest);
        }
        self.keys.insert((name, key), turn.index);
        self.turns.insert((name, turn.index), Cbor(turn.clone()));
        let awaited = Awaited { conversation: args.conversation, awaits: Awaits::Answer(turn.index) };
        self.awaited.insert(job_id, Cbor(awaited));
        self.by_name.insert(name, Cbor(conversation));
        Some(turn)
    }

    /// What a summary is to be written of, when the turns that none tells of take more than three quarters of `bytes`: the older half of
    /// them, by their bytes. `None` when there is room, or a summary is being written.
    pub fn summary_due(&self, name: &str, policy: MemoryPolicy, bytes: usize) -> Option<(u32, String)> {
        let conversation = self.get(name).ok()?;
        if policy.when_full != WhenFull::Summarise || conversation.summary_job.is_some() {
            return None;
        }
        let turns = self.turns_between(name, conversation.summarised, conversation.turns);
        let length = |turn: &Turn| turn.message.len() + turn.answer.as_ref().map_or(0, String::len);
        let all: usize = turns.iter().map(length).sum();
        if all * 4 <= bytes * 3 {
            return None;
        }
        let mut text =
            conversation.summary.map_or_else(String::new, |summary| format!("Before: {summary}\n"));
        let (mut taken, mut until) = (0, conversation.summarised);
        for turn in turns {
            // What has no answer yet is not over.
            let Some(answer) = turn.answer.as_ref().filter(|_| taken * 2 < all) else {
                if turn.failed && taken * 2 < all {
                    until = turn.index + 1;
                    continue;
                }
                break;
            };
            taken += length(&turn);
            text.push_str(&said(&turn.message, answer));
            until = turn.index + 1;
        }
        (taken > 0).then_some((until, text))
    }

    /// Takes note that a job writes a summary of the turns before `until`.
    pub fn summary_begun(&mut self, name: &str, job_id: JobId, until: u32) {
        let (Ok(mut conversation), Some(bytes)) = (self.get(name), name_bytes(name)) else { return };
        conversation.summary_job = Some(job_id);
        self.by_name.insert(bytes, Cbor(conversation));
        let awaited = Awaited { conversation: name.to_owned(), awaits: Awaits::Summary(until) };
        self.awaited.insert(job_id, Cbor(awaited));
    }

    /// Whether the end of a job means something for a conversation.
    pub fn awaits(&self, job_id: JobId) -> bool {
        self.awaited.contains_key(&job_id)
    }

    /// Takes in what a job has come to: its text, or `None` for one without. Returns the conversation.
    pub fn job_ended(&mut self, job_id: JobId, text: Option<String>) -> Option<String> {
        let Cbor(Awaited { conversation: name, awaits }) = self.awaited.remove(&job_id)?;
        let bytes = name_bytes(&name)?;
        match awaits {
            Awaits::Answer(index) => {
                let Cbor(mut turn) = self.turns.get(&(bytes, index))?;
                turn.failed = text.is_none();
                turn.answer = text.map(|text| text.trim().to_owned());
                self.turns.insert((bytes, index), Cbor(turn));
            }
            Awaits::Summary(until) => {
                let mut conversation = self.get(&name).ok()?;
                conversation.summary_job = None;
                if let Some(text) =
                    text.map(|text| shortened(text.trim()).to_owned()).filter(|it| !it.is_empty())
                {
                    conversation.summary = Some(text);
                    conversation.summarised = until;
                }
                self.by_name.insert(bytes, Cbor(conversation));
            }
        }
        Some(name)
    }

    /// Forgets a conversation. Jobs under way go on, and their answers are in their records.
    ///
    /// # Errors
    /// [`AgentError::UnknownConversation`].
    pub fn remove(&mut self, name: &str) -> Result<(), AgentError> {
        let conversation = self.get(name)?;
        let Some(bytes) = name_bytes(name) else { return Ok(()) };
        for index in conversation.turns.saturating_sub(MAX_TURNS)..conversation.turns {
            self.remove_turn(bytes, index);
        }
        if let Some(job_id) = conversation.summary_job {
            self.awaited.remove(&job_id);
        }
        self.by_name.remove(&bytes);
        Ok(())
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.by_name.clear_new();
        self.turns.clear_new();
        self.keys.clear_new();
        self.awaited.clear_new();
    }

    /// A page of the conversations.
    pub fn list(&self, args: &ListConversationsArgs) -> ConversationPage {
        let mut from = args.after.as_deref().unwrap_or_default().as_bytes();
        // An `after` longer than any name begins with all that matters for the order.
        from = &from[..from.len().min(MAX_KEY_BYTES)];
        let from = Name::try_from(from).unwrap_or_default();
        let rest = self.by_name.range(from..).map(|entry| entry.value().0);
        let rest = rest.filter(|conversation| Some(&conversation.name) != args.after.as_ref());
        let (conversations, next) = paging::page(rest, args.limit, |conversation| conversation.name.clone());
        ConversationPage { conversations, next }
    }

    /// A page of a conversation's turns.
    ///
    /// # Errors
    /// [`AgentError::UnknownConversation`].
    pub fn turns(&self, args: &GetConversationArgs) -> Result<TurnPage, AgentError> {
        let conversation = self.get(&args.name)?;
        let first = args.after.map_or(0, |after| after.saturating_add(1));
        let Some(name) = name_bytes(&args.name) else {
            return Ok(TurnPage { conversation, turns: Vec::new(), next: None });
        };
        let rest = self.turns.range((name, first)..=(name, u32::MAX)).map(|entry| entry.value().0);
        let (mut turns, mut next) = paging::page(rest, args.limit, |turn| turn.index);
        let mut bytes = 0;
        let fitting = turns.iter().take_while(|turn| {
            bytes += turn.message.len() + turn.answer.as_ref().map_or(0, String::len);
            bytes <= PAGE_BYTES
        });
        let fitting = fitting.count().max(1);
        if fitting < turns.len() {
            turns.truncate(fitting);
            next = turns.last().map(|turn| turn.index);
        }
        Ok(TurnPage { conversation, turns, next })
    }

    fn turns_between(&self, name: &str, first: u32, next: u32) -> Vec<Turn> {
        let Some(name) = name_bytes(name) else { return Vec::new() };
        self.turns.range((name, first)..(name, next)).map(|entry| entry.value().0).collect()
    }

    fn remove_turn(&mut self, name: Name, index: u32) {
        let Some(Cbor(turn)) = self.turns.remove(&(name, index)) else { return };
        self.awaited.remove(&turn.job_id);
        if let Some(key) = name_bytes(&turn.key)
            && self.keys.get(&(name, key)) == Some(index)
        {
            self.keys.remove(&(name, key));
        }
    }
}

/// The prompt that answers `message`, for a model with a chat template or without one.
pub fn prompt(context: &Context, message: &str, has_template: bool) -> Prompt {
    if has_template {
        let spoken = |role, content: &str| ChatMessage { role, content: content.to_owned() };
        let mut messages = Vec::new();
        if !context.system.is_empty() {
            messages.push(spoken(ChatRole::System, &context.system));
        }
        for (message, answer) in &context.turns {
            messages.push(spoken(ChatRole::User, message));
            messages.push(spoken(ChatRole::Assistant, answer));
        }
        messages.push(spoken(ChatRole::User, message));
        return Prompt::Messages(messages);
    }
    let mut text = context.system.clone();
    if !text.is_empty() {
        text.push_str("\n\n");
    }
    for (message, answer) in &context.turns {
        text.push_str(&said(message, answer));
    }
    let asked = format!("User: {message}\nAssistant:");
    Prompt::Text(text + &asked, vec!["\nUser:".to_owned()])
}

/// A turn in a text, for models without a chat template, and for summaries.
fn said(message: &str, answer: &str) -> String {
    format!("User: {message}\nAssistant: {answer}\n")
}

/// The prompt that asks for a summary of `text`, and how its tokens are chosen.
pub fn summary_prompt(text: &str, has_template: bool) -> (Prompt, GenerationParams) {
    let request = format!("{SUMMARY_REQUEST}\n\n{text}");
    let params = GenerationParams { max_tokens: SUMMARY_TOKENS, ..GenerationParams::default() };
    (prompt(&Context::default(), &request, has_template), params)
}

fn push_paragraph(text: &mut String, paragraph: &str) {
    if !text.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(paragraph);
}

/// The beginning of a text, at most [`MAX_SUMMARY_BYTES`] bytes.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(MAX_SUMMARY_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memories;
    use ic_stable_structures::DefaultMemoryImpl;
    use proptest::prelude::*;
    use shared_types::agent::memory::Fact;

    fn open(memory: &DefaultMemoryImpl) -> Conversations {
        Conversations::open(Memories::of(memory.clone()).conversations)
    }

    fn args(conversation: &str, message: &str, key: &str) -> ConverseArgs {
        ConverseArgs {
            conversation: conversation.to_owned(),
            message: message.to_owned(),
            key: key.to_owned(),
            priority: None,
        }
    }

    /// A turn of "m<n>" and its answer.
    fn turn(conversations: &mut Conversations, name: &str, n: u64, answer: Option<&str>) -> u32 {
        let args = args(name, &format!("m{n}"), &format!("k{n}"));
        let turn = conversations.said(args, n, &Context::default(), n).unwrap();
        conversations.job_ended(n, answer.map(str::to_owned));
        turn.index
    }

    fn profile(instructions: &str) -> AgentProfile {
        AgentProfile { instructions: instructions.to_owned(), ..AgentProfile::default() }
    }

    proptest! {
        /// Whatever was said, a prompt keeps to its bytes, and has the last answered turns that fit, without a gap.
        #[test]
        fn a_prompt_has_the_last_turns_that_fit(
            answers in prop::collection::vec(prop::option::weighted(0.8, 1usize..60), 0..20),
            bytes in 0usize..400,
        ) {
            let mut conversations = open(&DefaultMemoryImpl::default());
            let mut expected = Vec::new();
            for (n, answer) in answers.iter().enumerate() {
                let answer = answer.map(|length| "a".repeat(length));
                turn(&mut conversations, "tale", n as u64 + 1, answer.as_deref());
                expected.extend(answer.map(|answer| (format!("m{}", n + 1), answer)));
            }
            let context = conversations.context(&profile("Be short."), "tale", "now", &[], bytes);
            let length = |turns: &[(String, String)]| turns.iter().map(|(a, b)| a.len() + b.len()).sum::<usize>();
            let room = bytes.saturating_sub("Be short.".len() + "now".len());
            let mut fitting = 0;
            while fitting < expected.len() && length(&expected[expected.len() - fitting - 1..]) <= room {
                fitting += 1;
            }
            prop_assert_eq!(&context.turns[..], &expected[expected.len() - fitting..]);
            prop_assert_eq!(context.system, "Be short.");
        }
    }

    #[test]
    fn the_same_key_is_the_same_turn() {
        let memory = DefaultMemoryImpl::default();
        let mut conversations = open(&memory);
        turn(&mut conversations, "tale", 1, Some(" Hello. "));
        let conversations = open(&memory);
        let known = conversations.known(&args("tale", "m1", "k1")).unwrap().unwrap();
        assert_eq!((known.index, known.answer.as_deref()), (0, Some("Hello.")));
        assert_eq!(conversations.known(&args("other", "m1", "k1")).unwrap(), None);
        assert!(matches!(conversations.known(&args("tale", "m2", "k1")), Err(AgentError::InvalidField(_))));
    }

    #[test]
    fn a_summary_takes_the_place_of_the_older_half() {
        let mut conversations = open(&DefaultMemoryImpl::default());
        for n in 1..=6 {
            turn(&mut conversations, "tale", n, Some(&"a".repeat(20)));
        }
        let policy = MemoryPolicy::default();
        assert_eq!(conversations.summary_due("tale", policy, 1_000), None, "there is room");
        let kept = MemoryPolicy { when_full: WhenFull::LeaveOut, ..policy };
        assert_eq!(conversations.summary_due("tale", kept, 100), None);
        let (until, text) = conversations.summary_due("tale", policy, 100).unwrap();
        assert_eq!((until, text.matches("Assistant").count()), (3, 3));
        conversations.summary_begun("tale", 90, until);
        assert_eq!(conversations.summary_due("tale", policy, 100), None, "one at a time");
        assert!(conversations.awaits(90));
        // Without a text nothing is summarised, and it is tried again.
        conversations.job_ended(90, None);
        assert_eq!(conversations.summary_due("tale", policy, 100).unwrap().0, 3);
        conversations.summary_begun("tale", 91, until);
        conversations.job_ended(91, Some("They met.".to_owned()));
        let context = conversations.context(&profile("Be short."), "tale", "now", &[], 400);
        assert_eq!(context.system, "Be short.\n\nWhat was said before: They met.");
        assert_eq!(context.turns.first().unwrap().0, "m4");
    }

    #[test]
    fn facts_take_a_quarter() {
        let conversations = open(&DefaultMemoryImpl::default());
        let found = |id, text: &str| FoundFact {
            fact: Fact { id, text: text.to_owned(), has_vector: false, time_ns: 0 },
            score: 1.0,
        };
        let facts = [found(1, "The fox is red."), found(2, &"x".repeat(200)), found(3, "The crow sings.")];
        let context = conversations.context(&profile(""), "tale", "who?", &facts, 164);
        assert_eq!(context.facts, [1, 3]);
        assert_eq!(context.system, "What you know:\n- The fox is red.\n- The crow sings.");
        let Prompt::Text(text, stop) = prompt(&context, "who?", false) else { panic!() };
        assert!(text.ends_with("- The crow sings.\n\nUser: who?\nAssistant:"), "{text}");
        assert_eq!(stop, ["\nUser:"]);
        let Prompt::Messages(messages) = prompt(&context, "who?", true) else { panic!() };
        let roles: Vec<ChatRole> = messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, [ChatRole::System, ChatRole::User]);
    }

    #[test]
    fn what_is_forgotten_is_gone() {
        let memory = DefaultMemoryImpl::default();
        let mut conversations = open(&memory);
        turn(&mut conversations, "tale", 1, Some("a"));
        turn(&mut conversations, "other", 2, Some("b"));
        let pending = conversations.said(args("tale", "m3", "k3"), 3, &Context::default(), 3).unwrap();
        assert_eq!(pending.index, 1);
        conversations.remove("tale").unwrap();
        assert_eq!(conversations.job_ended(3, Some("late".to_owned())), None);
        assert!(matches!(conversations.remove("tale"), Err(AgentError::UnknownConversation { .. })));
        assert_eq!((conversations.turns.len(), conversations.keys.len()), (1, 1));
        conversations.clear();
        assert!(conversations.is_empty() && conversations.turns.is_empty() && conversations.keys.is_empty());
    }
}
