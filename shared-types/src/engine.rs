//! The interface's words in the engine's: what is left out has the value that changes nothing.

use novaq_engine::artifact::LoadedModel;
use novaq_engine::chat::{Message, Role};
use novaq_engine::constraint;
use novaq_engine::generate::{ContextPolicy as EnginePolicy, FinishReason as EngineFinish, Request};
use novaq_engine::sampler::{self, SamplingParams};
use novaq_engine::text::{self, TextError};

use crate::agent::{self, ChatMessage, ChatRole, ContextPolicy, FinishReason, GenerationParams, LogitBias};

// What the interface promises is what the engine takes.
const _: () = {
    assert!(agent::MAX_LOGIT_BIASES == sampler::MAX_LOGIT_BIASES);
    assert!(agent::MAX_LOGIT_BIAS == sampler::MAX_LOGIT_BIAS);
    assert!(*agent::REPETITION_PENALTIES.start() == *sampler::REPETITION_PENALTIES.start());
    assert!(*agent::REPETITION_PENALTIES.end() == *sampler::REPETITION_PENALTIES.end());
    assert!(agent::MAX_JSON_SCHEMA_BYTES == constraint::MAX_SCHEMA_BYTES);
    assert!(agent::MAX_STOP_STRINGS == text::MAX_STOP_STRINGS);
    assert!(agent::MAX_STOP_STRING_BYTES == text::MAX_STOP_STRING_BYTES);
};

impl From<&GenerationParams> for SamplingParams {
    fn from(params: &GenerationParams) -> Self {
        let biases = params.logit_bias.iter().flatten();
        let none = Self::default();
        Self {
            temperature: params.temperature,
            top_k: params.top_k.unwrap_or(none.top_k),
            top_p: params.top_p.unwrap_or(none.top_p),
            min_p: params.min_p.unwrap_or(none.min_p),
            repetition_penalty: params.repetition_penalty.unwrap_or(none.repetition_penalty),
            repetition_window: params.repetition_window.unwrap_or(none.repetition_window),
            logit_bias: biases.map(|&LogitBias { token, bias }| (token, bias)).collect(),
            seed: params.seed,
        }
    }
}

impl GenerationParams {
    /// What is asked of the engine of `loaded`, behind the tokens of `prompt`. The stop strings are not part of it.
    ///
    /// # Errors
    /// If the schema is none that the engine follows.
    pub fn request(&self, loaded: &LoadedModel, prompt: Vec<u32>) -> Result<Request, TextError> {
        let schema = self.json_schema.as_deref();
        Ok(Request {
            prompt,
            max_tokens: self.max_tokens as usize,
            sampling: SamplingParams::from(self),
            stop_tokens: Vec::new(),
            when_full: self.when_full.unwrap_or_default().into(),
            constraint: schema.map(|schema| loaded.constraint(schema)).transpose()?,
        })
    }
}

impl From<ContextPolicy> for EnginePolicy {
    fn from(policy: ContextPolicy) -> Self {
        match policy {
            ContextPolicy::Stop => Self::Stop,
            ContextPolicy::Shift { keep } => Self::Shift { keep: keep as usize },
        }
    }
}

impl From<EngineFinish> for FinishReason {
    fn from(reason: EngineFinish) -> Self {
        match reason {
            EngineFinish::Stop => Self::EndOfText,
            EngineFinish::Length => Self::MaxTokens,
            EngineFinish::Context => Self::ContextFull,
            EngineFinish::StopString => Self::StopString,
        }
    }
}

impl From<ChatMessage> for Message {
    fn from(message: ChatMessage) -> Self {
        let role = match message.role {
            ChatRole::System => Role::System,
            ChatRole::User => Role::User,
            ChatRole::Assistant => Role::Assistant,
            ChatRole::Tool => Role::Tool,
        };
        Self { role, content: message.content }
    }
}
