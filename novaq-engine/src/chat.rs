//! Chat templates: conversations become prompts as Hugging Face transformers' `apply_chat_template` makes them.
//!
//! A template is Jinja text that comes with the checkpoint, so it is not trusted: steps, nesting and output are bounded,
//! and it sees nothing but the conversation and the names of special tokens. (What it puts together on the way to its
//! output is bounded by memory alone, as in transformers.) There is no clock: `strftime_now` is not defined, and
//! templates that ask for it fall back on the date that they name.
//!
//! # Special tokens
//! Those that the template writes become token ids. Those that somebody writes into a message stay text, so that a
//! message cannot end its turn or speak for somebody else: wherever a message could spell a special token, alone or
//! together with the text beside it, a marker is put into the text that the template sees. The marker breaks the token,
//! and is taken out of the pieces of text before they are tokenized.

use std::io;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

use crate::artifact::LoadedModel;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Steps that a template may take; a conversation of hundreds of messages takes some ten thousand.
const FUEL: u64 = 500_000;

/// How deep a template may nest.
const RECURSION: usize = 100;

/// Longest prompt in bytes.
const MAX_PROMPT_BYTES: usize = 1 << 20;

const NAME: &str = "chat_template";

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Tells the model how to answer.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool that the model called.
    Tool,
}

impl Role {
    /// The role as templates know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// Why a conversation makes no prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// The checkpoint had no template.
    #[error("the model has no chat template")]
    NoTemplate,
    /// There is no message.
    #[error("`messages`: there are none")]
    NoMessages,
    /// The template is not valid.
    #[error("`chat_template`, line {line}: {reason}")]
    Syntax {
        /// Line of the template, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The template does not take this conversation, and says why.
    #[error("the model's chat template does not take these messages: {reason}")]
    Refused {
        /// The template's words.
        reason: String,
    },
    /// The template takes too many steps, nests too deep, or writes too much.
    #[error("`chat_template`: {reason}")]
    Limit {
        /// Which limit it exceeds.
        reason: String,
    },
    /// The template fails on this conversation.
    #[error("`chat_template`, line {line}: {reason}")]
    Render {
        /// Line of the template, from 1.
        line: usize,
        /// What the failure is.
        reason: String,
    },
    /// A message becomes a special token when the tokenizer normalizes it.
    #[error("message {index}: its text becomes the special token {token:?}")]
    Special {
        /// Index of the message, from 0.
        index: usize,
        /// The token.
        token: String,
    },
    /// The prompt can't be tokenized.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatError {
    /// The error of a template that was being rendered.
    fn rendering(error: &Error) -> Self {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(cause) = source {
            if let Some(Raised(reason)) = cause.downcast_ref() {
                return Self::Refused { reason: reason.clone() };
            }
            if let Some(cause) = cause.downcast_ref::<Error>() {
                match cause.kind() {
                    ErrorKind::OutOfFuel => {
                        return Self::Limit { reason: format!("takes more than {FUEL} steps") };
                    }
                    ErrorKind::WriteFailure => {
                        let reason = format!("writes more than {MAX_PROMPT_BYTES} bytes");
                        return Self::Limit { reason };
                    }
                    _ => {}
                }
            }
            source = cause.source();
        }
        Self::Render { line: error.line().unwrap_or(0), reason: reason(error) }
    }
}

fn reason(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl ChatTemplate {
    /// Compiles a template for a model whose tokens for the beginning and the end of a text are written like this.
    ///
    /// # Errors
    /// [`ChatError::Syntax`].
    pub fn new(source: &str, bos_token: Option<&str>, eos_token: Option<&str>) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| ChatError::rendering(&error))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
        });
        let compiled = environment.add_template_owned(NAME, without_generation_tags(source));
        compiled
            .map_err(|error| ChatError::Syntax { line: error.line().unwrap_or(0), reason: reason(&error) })?;
        let owned = |token: Option<&str>| token.map(str::to_owned);
        Ok(Self { environment, bos_token: owned(bos_token), eos_token: owned(eos_token) })
    }

    /// The template of a model.
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`], [`ChatError::Syntax`].
    pub fn of(loaded: &LoadedModel) -> Result<Self, ChatError> {
        let source = loaded.chat_template.as_deref().ok_or(ChatError::NoTemplate)?;
        let token = |id: Option<u32>| id.and_then(|id| loaded.tokenizer.id_to_token(id));
        let config = loaded.model.config();
        Self::new(source, token(config.bos_token_id), token(config.eos_token_ids.first().copied()))
    }

    /// The prompt that a conversation makes, as text; with `add_generation_prompt` it ends where the model's answer begins.
    ///
    /// # Errors
    /// If there is no message, or the template refuses them, fails, or exceeds a limit.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ChatError> {
        if messages.is_empty() {
            return Err(ChatError::NoMessages);
        }
        let template = self.environment.get_template(NAME).map_err(|error| ChatError::rendering(&error))?;
        let messages = messages
            .iter()
            .map(|message| Value::from_pairs([("role", message.role.name()), ("content", &message.content)]));
        let mut context: Vec<(&str, Value)> = vec![
            ("messages", messages.collect()),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ];
        for (name, token) in [("bos_token", &self.bos_token), ("eos_token", &self.eos_token)] {
            if let Some(token) = token {
                context.push((name, Value::from(token)));
            }
        }
        let mut prompt = Bounded(Vec::new());
        template
            .render_captured_to(Value::from_pairs(context), &mut prompt)
            .map_err(|error| ChatError::rendering(&error))?;
        // The template's text and the messages are UTF-8, and they are written whole.
        Ok(String::from_utf8_lossy(&prompt.0).into_owned())
    }

    /// The token ids of the prompt that a conversation makes; it ends where the model's answer begins.
    ///
    /// # Errors
    /// As [`Self::render`], and if the prompt can't be tokenized.
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>, ChatError> {
        let special: Vec<&str> = tokenizer.special_patterns().collect();
        let marker = marker(messages);
        let guarded: Vec<Message> = messages
            .iter()
            .map(|message| {
                let content = guard(&message.content, &special, marker);
                Message { role: message.role, content }
            })
            .collect();
        for (index, message) in guarded.iter().enumerate() {
            if let Some(token) = tokenizer.normalized_special(&message.content)? {
                return Err(ChatError::Special { index, token: token.to_owned() });
            }
        }
        let prompt = self.render(&guarded, true)?;
        Ok(tokenizer.encode_guarded(&prompt, marker)?)
    }
}

impl LoadedModel {
    /// The token ids of the prompt that a conversation makes by the model's template; it ends where the answer begins.
    ///
    /// # Errors
    /// As [`ChatTemplate::of`] and [`ChatTemplate::encode`].
    pub fn encode_messages(&self, messages: &[Message]) -> Result<Vec<u32>, ChatError> {
        ChatTemplate::of(self)?.encode(&self.tokenizer, messages)
    }
}

/// Output that ends with an error where it gets too long.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_PROMPT_BYTES {
            return Err(io::Error::other("the prompt is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The template without the tags around what the model says, which transformers defines for training; what is between
/// them stays.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let (before, tag) = (&rest[..start], &rest[start..start + length + 2]);
        text.push_str(before);
        let inner = tag[2..tag.len() - 2].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        match inner {
            "generation" => text.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => text.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => text.push_str(tag),
        }
        rest = &rest[start + length + 2..];
    }
    text + rest
}

/// `json.dumps(value, ensure_ascii=False)` of Python, which the filter is in transformers.
#[expect(clippy::needless_pass_by_value, reason = "the signature of a filter")]
fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if ascii == Some(true) || indent.is_some_and(|indent| indent > 16) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: this option is not supported"));
    }
    let mut json = String::new();
    write_json(value, indent, 0, &mut json)?;
    Ok(Value::from(json))
}

fn write_json(value: &Value, indent: Option<usize>, depth: usize, json: &mut String) -> Result<(), Error> {
    if depth > RECURSION {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: nested too deep"));
    }
    let string = |text: &str| serde_json::Value::from(text).to_string();
    let next = |first: bool, depth: usize, json: &mut String| match indent {
        Some(indent) => {
            json.push_str(if first { "\n" } else { ",\n" });
            json.extend(std::iter::repeat_n(' ', indent * depth));
        }
        None if first => {}
        None => json.push_str(", "),
    };
    let end = |empty: bool, json: &mut String| {
        if let (Some(indent), false) = (indent, empty) {
            json.push('\n');
            json.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    match value.kind() {
        ValueKind::None => json.push_str("null"),
        ValueKind::Bool => json.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => json.push_str(&value.to_string()),
        ValueKind::String => json.push_str(&string(value.as_str().unwrap_or_default())),
        ValueKind::Seq | ValueKind::Iterable => {
            json.push('[');
            let mut empty = true;
            for item in value.try_iter()? {
                next(empty, depth + 1, json);
                empty = false;
                write_json(&item, indent, depth + 1, json)?;
            }
            end(empty, json);
            json.push(']');
        }
        ValueKind::Map => {
            json.push('{');
            let mut empty = true;
            for key in value.try_iter()? {
                next(empty, depth + 1, json);
                empty = false;
                json.push_str(&string(&key.to_string()));
                json.push_str(": ");
                write_json(&value.get_item(&key)?, indent, depth + 1, json)?;
            }
            end(empty, json);
            json.push('}');
        }
        kind => {
            let reason = format!("tojson: a value of the kind {kind} has no JSON");
            return Err(Error::new(ErrorKind::InvalidOperation, reason));
        }
    }
    Ok(())
}

/// A character that is in no message: of those that Unicode reserves for use inside programs, or else for private use.
fn marker(messages: &[Message]) -> char {
    let unused = |marker: &char| !messages.iter().any(|message| message.content.contains(*marker));
    // Messages that hold all of them would be longer than any prompt.
    ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..='\u{ffffd}').find(unused).unwrap_or('\u{fdd0}')
}

/// `content` with `marker` behind the first character of everything that is one of the `special` tokens, or could be
/// part of one together with what a template puts beside it.
fn guard(content: &str, special: &[&str], marker: char) -> String {
    let mut first = [false; 256];
    for token in special {
        first[usize::from(token.as_bytes()[0])] = true;
    }
    // Templates take white space off the ends.
    let start = content.len() - content.trim_start().len();
    let end = content.trim_end().len();
    let mut guarded = String::with_capacity(content.len());
    for (at, character) in content.char_indices() {
        guarded.push(character);
        let rest = &content[at..];
        let trimmed = content.get(at..end).unwrap_or_default();
        let begins = first[usize::from(rest.as_bytes()[0])]
            && special.iter().any(|token| {
                rest.starts_with(token)
                    || token.starts_with(rest)
                    || (!trimmed.is_empty() && token.starts_with(trimmed))
            });
        // What begins outside the message and goes on or ends in it.
        let goes_on = (at == 0 || at == start)
            && special.iter().any(|token| {
                token.char_indices().skip(1).any(|(cut, _)| {
                    let tail = &token[cut..];
                    rest.starts_with(tail)
                        || tail.starts_with(rest)
                        || (!trimmed.is_empty() && tail.starts_with(trimmed))
                })
            });
        if begins || goes_on {
            guarded.push(marker);
        }
    }
    guarded
}
