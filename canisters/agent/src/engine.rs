//! One slice of work: build the model in the heap, or generate tokens, until the budget is used.
//!
//! Architecture Invariant: everything here is a cache of stable memory. A slice gives the same tokens whatever was lost
//! before it, since the engine's numbers depend neither on how the work was cut nor on a random state.

use novaq_engine::artifact::{ArtifactError, LoadedModel, Loader};
use novaq_engine::chat::{Message, Role};
use novaq_engine::generate::{FinishReason as EngineFinish, Request};
use novaq_engine::model::Budget;
use novaq_engine::sampler::{self, SamplingParams};
use novaq_engine::text::{self, TextError, TextEvent, TextGeneration};
use shared_types::agent::{
    self, ChatMessage, ChatRole, FinishReason, GenerationParams, JobFailure, JobId, JobState, LoadError,
    LogitBias,
};

use crate::jobs::{JobInput, Jobs};
use crate::store::ModelStore;

/// The smallest unit of the engine's own budget: it stops after every layer, and the meter decides whether to go on.
const ONE_LAYER: u64 = 1;

/// The model in the heap, as far as it is built, and the generation under way.
#[derive(Default)]
pub struct Engine {
    loader: Option<Loader>,
    model: Option<LoadedModel>,
    current: Option<Current>,
}

/// The generation of one job.
struct Current {
    job_id: JobId,
    prompt_tokens: u32,
    generation: TextGeneration,
}

/// Whether a slice may take another step: the meter counts instructions of this message, and a step is taken only if
/// one as long as the longest so far would still fit.
struct Pace<'a> {
    meter: &'a dyn Fn() -> u64,
    budget: u64,
    last: u64,
    longest: u64,
}

impl Pace<'_> {
    fn may_go_on(&mut self) -> bool {
        let now = (self.meter)();
        self.longest = self.longest.max(now.saturating_sub(self.last));
        self.last = now;
        now.saturating_add(self.longest) <= self.budget
    }
}

impl Engine {
    /// Whether the model is built.
    pub fn is_ready(&self) -> bool {
        self.model.is_some()
    }

    /// Drops everything, so that the next slice builds it anew.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Works on `job_id` until `meter` says that about `budget` instructions are used. The model must be loaded.
    ///
    /// # Errors
    /// When the model can't be built: then no job can run.
    pub fn slice(
        &mut self,
        jobs: &mut Jobs,
        store: &mut ModelStore,
        job_id: JobId,
        budget: u64,
        meter: &dyn Fn() -> u64,
        now_ns: u64,
    ) -> Result<(), LoadError> {
        let mut pace = Pace { meter, budget, last: 0, longest: 0 };
        let first = self.loader.is_none();
        if self.model.is_none() {
            let built = self.build(store, &mut pace);
            store.built(meter(), first);
            if !built? {
                jobs.forget_attempts(job_id);
                return Ok(());
            }
        }
        let build_instructions = pace.last;
        let Some(model) = &self.model else { return Ok(()) };

        if self.current.as_ref().is_none_or(|current| current.job_id != job_id) {
            self.current = None;
            jobs.set_state(job_id, &JobState::Running, now_ns);
            match Current::new(model, jobs, job_id) {
                Ok(current) => self.current = Some(current),
                Err(reason) => {
                    jobs.slice_done(job_id, 0, Vec::new(), meter().saturating_sub(build_instructions));
                    jobs.set_state(job_id, &JobState::Failed { reason }, now_ns);
                    return Ok(());
                }
            }
        }
        let Some(current) = &mut self.current else { return Ok(()) };
        let mut tokens = Vec::new();
        let end = current.generate(model, &mut pace, &mut tokens);
        let used = meter().saturating_sub(build_instructions);
        jobs.slice_done(job_id, current.prompt_tokens, tokens, used);
        match end {
            Ok(None) => {}
            Ok(Some(reason)) => {
                jobs.set_state(job_id, &JobState::Done { reason }, now_ns);
                self.current = None;
            }
            Err(reason) => {
                jobs.set_state(job_id, &JobState::Failed { reason }, now_ns);
                self.current = None;
            }
        }
        Ok(())
    }

    /// Builds the model tensor by tensor; returns whether it is ready.
    fn build(&mut self, store: &ModelStore, pace: &mut Pace) -> Result<bool, LoadError> {
        let unsupported = |error: ArtifactError| LoadError::Unsupported { reason: error.to_string() };
        let mut loader = match self.loader.take() {
            Some(loader) => loader,
            None => Loader::new(store.loaded().ok_or_else(|| LoadError::Unsupported {
                reason: "this version of the engine refuses the manifest".to_owned(),
            })?),
        };
        loop {
            if loader.step(store).map_err(unsupported)?.is_none() {
                self.model = Some(loader.finish(store).map_err(unsupported)?);
                return Ok(pace.may_go_on());
            }
            if !pace.may_go_on() {
                self.loader = Some(loader);
                return Ok(false);
            }
        }
    }
}

impl Current {
    /// Takes a job up where its tokens end.
    fn new(loaded: &LoadedModel, jobs: &Jobs, job_id: JobId) -> Result<Self, JobFailure> {
        let LoadedModel { model, tokenizer, .. } = loaded;
        let record = jobs.get(job_id).map_err(|error| JobFailure::Engine { reason: error.to_string() })?;
        let prompt = match jobs.input(job_id) {
            JobInput::Text(text) => tokenizer
                .encode_prompt(&text, model.config().bos_token_id)
                .map_err(|error| failure(&error.into()))?,
            JobInput::Messages(messages) => {
                let messages: Vec<Message> = messages.into_iter().map(message).collect();
                loaded
                    .encode_messages(&messages)
                    .map_err(|error| JobFailure::ChatTemplate { reason: error.to_string() })?
            }
        };
        let prompt_tokens = prompt.len() as u32;
        let context = model.config().max_position_embeddings;
        if prompt.len() >= context {
            return Err(JobFailure::PromptTooLong { tokens: prompt_tokens, context: context as u32 });
        }
        let generated = jobs.tokens(job_id);
        let request = Request {
            prompt,
            max_tokens: record.params.max_tokens as usize,
            sampling: sampling(&record.params),
            stop_tokens: Vec::new(),
        };
        let stop = record.params.stop.unwrap_or_default();
        let generation = TextGeneration::resume(loaded, request, &stop, &generated);
        let generation = generation.map_err(|error| failure(&error))?;
        Ok(Self { job_id, prompt_tokens, generation })
    }

    /// Generates until the pace says stop; returns why generation ended, if it has.
    fn generate(
        &mut self,
        loaded: &LoadedModel,
        pace: &mut Pace,
        tokens: &mut Vec<(u32, String)>,
    ) -> Result<Option<FinishReason>, JobFailure> {
        loop {
            let event = self.generation.advance(loaded, &mut Budget::new(ONE_LAYER));
            match event.map_err(|error| failure(&error))? {
                TextEvent::Token(id, text) => tokens.push((id, text)),
                TextEvent::Paused | TextEvent::Finished(_) => {}
            }
            // An end must be known in the message of the last token, to which the text that was held back belongs.
            if let Some(reason) = self.generation.finished() {
                return Ok(Some(finish_reason(reason)));
            }
            if !pace.may_go_on() {
                return Ok(None);
            }
        }
    }
}

// What the interface promises is what the engine takes.
const _: () = {
    assert!(agent::MAX_LOGIT_BIASES == sampler::MAX_LOGIT_BIASES);
    assert!(agent::MAX_LOGIT_BIAS == sampler::MAX_LOGIT_BIAS);
    assert!(*agent::REPETITION_PENALTIES.start() == *sampler::REPETITION_PENALTIES.start());
    assert!(*agent::REPETITION_PENALTIES.end() == *sampler::REPETITION_PENALTIES.end());
    assert!(agent::MAX_STOP_STRINGS == text::MAX_STOP_STRINGS);
    assert!(agent::MAX_STOP_STRING_BYTES == text::MAX_STOP_STRING_BYTES);
};

/// The engine's form of the parameters: what is left out has the value that changes nothing.
pub fn sampling(params: &GenerationParams) -> SamplingParams {
    let biases = params.logit_bias.iter().flatten();
    let none = SamplingParams::default();
    SamplingParams {
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

/// The engine's form of a message.
fn message(message: ChatMessage) -> Message {
    let role = match message.role {
        ChatRole::System => Role::System,
        ChatRole::User => Role::User,
        ChatRole::Assistant => Role::Assistant,
        ChatRole::Tool => Role::Tool,
    };
    Message { role, content: message.content }
}

fn finish_reason(reason: EngineFinish) -> FinishReason {
    match reason {
        EngineFinish::Stop => FinishReason::EndOfText,
        EngineFinish::Length => FinishReason::MaxTokens,
        EngineFinish::Context => FinishReason::ContextFull,
        EngineFinish::StopString => FinishReason::StopString,
    }
}

fn failure(error: &TextError) -> JobFailure {
    JobFailure::Engine { reason: error.to_string() }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
