//! What the commands that generate text have in common: options, what is gone on from, reasons for an end.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args as ClapArgs;
use novaq_engine::artifact::{LoadedModel, Manifest};
use novaq_engine::chat::{ChatError, Message};
use novaq_engine::constraint;
use novaq_engine::generate::{ContextPolicy, FinishReason, GenerationError, Request};
use novaq_engine::model::ModelError;
use novaq_engine::sampler::SamplingParams;
use novaq_engine::text::{StopStrings, TextError, TextGeneration};
use serde::{Deserialize, Serialize};

use crate::output::HintExt;

/// How tokens are chosen, and where the text ends.
#[derive(Debug, Clone, PartialEq, ClapArgs, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Tokens to generate at most.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_tokens: usize,

    /// Divides the logits; 0 always takes the most probable token.
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub temperature: f32,

    /// Draw from this many most probable tokens only; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: u32,

    /// Draw from the most probable tokens that together reach this probability; 1 for all.
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,

    /// Draw from tokens that are at least this probable relative to the most probable one; 0 for all.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub min_p: f32,

    /// Make tokens of the text so far less likely (above 1) or more likely (below 1).
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub repetition_penalty: f32,

    /// How many tokens at the end of the text the penalty looks at; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub repetition_window: u32,

    /// Add BIAS to the logit of the token ID, as in `--logit-bias 42=-5`; may be repeated.
    #[arg(long, value_name = "ID=BIAS", value_parser = parse_bias)]
    pub logit_bias: Vec<(u32, f32)>,

    /// End the text before TEXT; may be repeated.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,

    /// Seed of the draw.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// When the context is full, keep its first N tokens, drop the older half of the others, and go on; without it the text
    /// ends.
    #[arg(long, value_name = "N")]
    #[serde(default)]
    pub keep: Option<usize>,

    /// Hold the text to the JSON schema in FILE; it ends where it is complete. The model is not told: say in the prompt what is wanted.
    #[arg(long, value_name = "FILE", value_parser = read_schema)]
    #[serde(default)]
    pub json_schema: Option<String>,
}

fn read_schema(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| error.to_string())
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("it has no `=` between the token's id and the bias")?;
    let id = id.parse().map_err(|_| format!("`{id}` is not the id of a token"))?;
    let bias = bias.parse().map_err(|_| format!("`{bias}` is not a number"))?;
    Ok((id, bias))
}

impl Options {
    /// The engine's parameters.
    pub fn sampling(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            repetition_window: self.repetition_window,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
        }
    }

    /// Checks the options, without a model.
    ///
    /// # Errors
    /// If one is out of range.
    pub fn validate(&self) -> anyhow::Result<()> {
        if self.max_tokens == 0 {
            return Err(GenerationError::NoTokens.into());
        }
        self.sampling().validate()?;
        StopStrings::new(self.stop.clone())?;
        if let Some(schema) = &self.json_schema {
            constraint::check(schema)?;
        }
        Ok(())
    }

    /// Checks the options for the model of `manifest`.
    ///
    /// # Errors
    /// As [`Self::validate`], and if the model is an encoder or has not all tokens that are named.
    pub fn validate_for(&self, manifest: &Manifest) -> anyhow::Result<()> {
        self.validate()?;
        Ok(self.sampling().validate_vocabulary(manifest.decoder()?.vocab_size)?)
    }

    /// The text behind a prompt, of which `generated` are the first tokens.
    ///
    /// # Errors
    /// If an option or the prompt does not fit the model; with a hint.
    pub fn begin(
        &self,
        loaded: &LoadedModel,
        prompt: Vec<u32>,
        generated: &[u32],
    ) -> anyhow::Result<TextGeneration> {
        let schema = self.json_schema.as_deref();
        let request = Request {
            prompt,
            max_tokens: self.max_tokens,
            sampling: self.sampling(),
            stop_tokens: Vec::new(),
            when_full: self.keep.map_or(ContextPolicy::Stop, |keep| ContextPolicy::Shift { keep }),
            constraint: schema.map(|schema| loaded.constraint(schema)).transpose()?,
        };
        let text = TextGeneration::resume(loaded, request, &self.stop, generated);
        let too_long =
            matches!(text, Err(TextError::Generation(GenerationError::Model(ModelError::Context { .. }))));
        let text = text.context("the text cannot be generated");
        if too_long { text.hint(|| "a shorter prompt leaves room for an answer".to_owned()) } else { text }
    }
}

/// What a text goes on from, as it is typed.
#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct InputArgs {
    /// The text to go on from.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,

    /// The conversation to answer: a JSON list of objects with `role` (system, user, assistant, tool) and `content`.
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
}

impl InputArgs {
    /// Reads what is to be gone on from.
    ///
    /// # Errors
    /// If the file of messages is not one.
    pub fn read(&self) -> anyhow::Result<Input> {
        Ok(match (&self.messages, &self.prompt) {
            (Some(path), _) => Input::Messages(read_messages(path)?),
            (None, prompt) => Input::Prompt(prompt.clone().unwrap_or_default()),
        })
    }
}

/// What a text goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// A text to continue.
    Prompt(String),
    /// A conversation to answer.
    Messages(Vec<Message>),
}

impl Input {
    /// The prompt's tokens.
    ///
    /// # Errors
    /// If the model has no template for messages, or it does not take these; with a hint.
    pub fn encode(&self, loaded: &LoadedModel) -> anyhow::Result<Vec<u32>> {
        match self {
            Self::Prompt(text) => {
                Ok(loaded.tokenizer.encode_prompt(text, loaded.model.config().bos_token_id)?)
            }
            Self::Messages(messages) => template_hint(loaded.encode_messages(messages)),
        }
    }
}

/// Says what to do without a template.
///
/// # Errors
/// The same.
pub fn template_hint<T>(result: Result<T, ChatError>) -> anyhow::Result<T> {
    match result {
        Err(ChatError::NoTemplate) => {
            result.hint(|| "`novaq run <DIR> --prompt <TEXT>` goes on from a text".to_owned())
        }
        result => Ok(result?),
    }
}

/// Reads a conversation.
///
/// # Errors
/// If the file can't be read, or is not a list of messages.
pub fn read_messages(path: &Path) -> anyhow::Result<Vec<Message>> {
    let bytes = fs::read(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("`{}` is not a list of messages", path.display()))
        .hint(|| r#"it looks like [{"role": "user", "content": "Hello"}]"#.to_owned())
}

/// A reason for an end as JSON has it.
pub fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Context => "context",
        FinishReason::StopString => "stop_string",
    }
}

/// What ended a text, as it is said.
pub fn ended_by(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "the model",
        FinishReason::Length => "--max-tokens",
        FinishReason::Context => "the context's length",
        FinishReason::StopString => "a stop string",
    }
}
