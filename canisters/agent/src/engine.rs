//! One slice of work: build the model in the heap, or generate tokens, until the budget is used.
//!
//! Architecture Invariant: everything here is a cache of stable memory. A slice gives the same tokens whatever was lost
//! before it, since the engine's numbers depend neither on how the work was cut nor on a random state.

use novaq_engine::artifact::{ArtifactError, LoadedModel, Loader};
use novaq_engine::chat::Message;
use novaq_engine::generate::Request;
use novaq_engine::model::Budget;
use novaq_engine::sampler::SamplingParams;
use novaq_engine::text::{TextError, TextEvent, TextGeneration};
use shared_types::agent::{AgentError, Draft, FinishReason, JobFailure, JobId, JobState, LoadError};

use crate::jobs::{JobInput, Jobs};
use crate::pace::{Pace, Steps};
use crate::store::ModelStore;

/// The smallest unit of the engine's own budget: it stops after every layer, and the meter decides whether to go on.
const ONE_LAYER: u64 = 1;

/// The model in the heap, as far as it is built, and the generation under way.
#[derive(Default)]
pub struct Engine {
    loader: Option<Loader>,
    model: Option<LoadedModel>,
    current: Option<Current>,
    steps: Steps,
}

/// The generation of one job.
struct Current {
    job_id: JobId,
    generation: TextGeneration,
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

    /// Works on `job_id` until `meter` says that about `budget` instructions are used. The model must be loaded. A slice
    /// that builds the model ends with that.
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
        let Some(model) = &self.model else {
            let first = self.loader.is_none();
            let built = self.build(store, &mut Pace::new(meter, budget, Steps::default()));
            store.built(meter(), first);
            jobs.forget_attempts(job_id);
            return built;
        };
        let Ok(record) = jobs.get(job_id) else { return Ok(()) };
        if record.state != JobState::Running {
            jobs.set_state(job_id, &JobState::Running, now_ns);
        }
        let left = record.max_instructions.map(|most| most.saturating_sub(record.counts.instructions));
        let is_last = left.is_some_and(|left| left <= budget);
        let mut current = match self.current.take().filter(|current| current.job_id == job_id) {
            Some(current) => current,
            None => match Current::new(model, jobs, job_id) {
                Ok(current) => {
                    jobs.prompt_encoded(job_id, &current.generation.generation().request().prompt);
                    current
                }
                Err(reason) => {
                    jobs.slice_done(job_id, Vec::new(), meter());
                    jobs.set_state(job_id, &JobState::Failed { reason }, now_ns);
                    return Ok(());
                }
            },
        };
        let mut pace = Pace::new(meter, left.unwrap_or(budget).min(budget), self.steps);
        let mut tokens = Vec::new();
        let end = if is_last && !pace.may_begin() {
            Ok(None)
        } else {
            let end = current.generate(model, &mut pace, &mut tokens, usize::MAX);
            self.steps = pace.steps();
            end
        };
        jobs.slice_done(job_id, tokens, meter());
        match end {
            Ok(None) if is_last => {
                let reason = FinishReason::MaxInstructions;
                jobs.set_state(job_id, &JobState::Done { reason }, now_ns);
            }
            Ok(None) => self.current = Some(current),
            Ok(Some(reason)) => jobs.set_state(job_id, &JobState::Done { reason }, now_ns),
            Err(reason) => jobs.set_state(job_id, &JobState::Failed { reason }, now_ns),
        }
        Ok(())
    }

    /// The next tokens of an open job, at most `max_tokens`, as the slices to come will compute them. For a query, whose
    /// changes to the heap are discarded: the generation under way is used up instead of copied, so that what calls this in
    /// an update only makes the next slice begin anew.
    ///
    /// # Errors
    /// [`AgentError::UnknownJob`], [`AgentError::JobEnded`], [`AgentError::NotInHeap`], [`AgentError::Draft`].
    pub fn draft(
        &mut self,
        jobs: &Jobs,
        job_id: JobId,
        max_tokens: usize,
        budget: u64,
        meter: &dyn Fn() -> u64,
    ) -> Result<Draft, AgentError> {
        let record = jobs.get_open(job_id)?;
        let Some(model) = &self.model else { return Err(AgentError::NotInHeap) };
        let mut current = match self.current.take().filter(|current| current.job_id == job_id) {
            Some(current) => current,
            None => Current::new(model, jobs, job_id).map_err(AgentError::Draft)?,
        };
        let mut pace = Pace::new(meter, budget, self.steps);
        let mut tokens = Vec::new();
        let finished = if pace.may_begin() {
            current.generate(model, &mut pace, &mut tokens, max_tokens).map_err(AgentError::Draft)?
        } else {
            None
        };
        let (tokens, texts): (Vec<u32>, Vec<String>) = tokens.into_iter().unzip();
        Ok(Draft {
            job_id,
            first_token: record.counts.generated_tokens,
            slices: record.counts.messages,
            tokens,
            text: texts.concat(),
            finished,
            instructions: meter(),
        })
    }

    /// Builds the model tensor by tensor, as far as the pace allows.
    fn build(&mut self, store: &ModelStore, pace: &mut Pace) -> Result<(), LoadError> {
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
                return Ok(());
            }
            if !pace.may_go_on() {
                self.loader = Some(loader);
                return Ok(());
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
                let messages: Vec<Message> = messages.into_iter().map(Message::from).collect();
                loaded
                    .encode_messages(&messages)
                    .map_err(|error| JobFailure::ChatTemplate { reason: error.to_string() })?
            }
        };
        let context = model.config().max_position_embeddings;
        if prompt.len() >= context {
            return Err(JobFailure::PromptTooLong { tokens: prompt.len() as u32, context: context as u32 });
        }
        let generated = jobs.tokens(job_id);
        let request = Request {
            prompt,
            max_tokens: record.params.max_tokens as usize,
            sampling: SamplingParams::from(&record.params),
            stop_tokens: Vec::new(),
        };
        let stop = record.params.stop.unwrap_or_default();
        let generation = TextGeneration::resume(loaded, request, &stop, &generated);
        let generation = generation.map_err(|error| failure(&error))?;
        Ok(Self { job_id, generation })
    }

    /// Generates until the pace says stop or there are `max_tokens`; returns why generation ended, if it has.
    fn generate(
        &mut self,
        loaded: &LoadedModel,
        pace: &mut Pace,
        tokens: &mut Vec<(u32, String)>,
        max_tokens: usize,
    ) -> Result<Option<FinishReason>, JobFailure> {
        loop {
            let event = self.generation.advance(loaded, &mut Budget::new(ONE_LAYER));
            match event.map_err(|error| failure(&error))? {
                TextEvent::Token(id, text) => tokens.push((id, text)),
                TextEvent::Paused | TextEvent::Finished(_) => {}
            }
            // An end must be known in the message of the last token, to which the text that was held back belongs.
            if let Some(reason) = self.generation.finished() {
                return Ok(Some(FinishReason::from(reason)));
            }
            if tokens.len() >= max_tokens || !pace.may_go_on() {
                return Ok(None);
            }
        }
    }
}

fn failure(error: &TextError) -> JobFailure {
    JobFailure::Engine { reason: error.to_string() }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
