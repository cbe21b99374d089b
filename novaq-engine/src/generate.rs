//! Generation: a prompt goes in, tokens come out, in as many budgeted steps as it takes.

use crate::model::{Budget, CachePrecision, KvCache, LogitsFor, Model, ModelError, Pass, Progress};
use crate::sampler::{Sampler, SamplingError, SamplingParams};

/// Prompt positions that one pass works on: their matrix products share each tile of weights.
pub const PREFILL_CHUNK: usize = 16;

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Token ids of the prompt; at least one.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// How the next token is chosen.
    pub sampling: SamplingParams,
    /// Tokens that end the text, besides the model's own.
    pub stop_tokens: Vec<u32>,
}

/// Why a generation can't begin or go on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GenerationError {
    /// The prompt holds no token.
    #[error("`prompt`: there is no token in it")]
    EmptyPrompt,
    /// No token was asked for.
    #[error("`max_tokens`: must be at least 1")]
    NoTokens,
    /// The prompt or the context does not fit the model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The sampling parameters are out of range, or the logits are not numbers.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A token that ends the text was sampled; it is the last of the tokens.
    Stop,
    /// As many tokens as asked for were generated.
    Length,
    /// The context window is full.
    Context,
    /// The text came to a stop string, which only [`TextGeneration`](crate::text::TextGeneration) looks for.
    StopString,
}

/// What a step ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next token.
    Token(u32),
    /// The budget is used up; nothing is lost.
    Paused,
    /// There will be no more tokens.
    Finished(FinishReason),
}

/// A generation in progress.
///
/// Its whole outcome follows from the model and the [`Request`]: it can be dropped at any point and resumed from
/// the tokens so far with the same result, since a token's numbers depend neither on how the passes were cut nor
/// on a random state.
#[derive(Debug)]
pub struct Generation {
    request: Request,
    sampler: Sampler,
    /// Prompt and generated tokens.
    tokens: Vec<u32>,
    cache: KvCache,
    pass: Option<Pass>,
    /// A finished pass, kept for its buffers.
    spare: Option<Pass>,
    finished: Option<FinishReason>,
}

impl Generation {
    /// Begins a generation.
    ///
    /// # Errors
    /// If the request is invalid or its prompt does not fit the model's context window.
    pub fn new(model: &Model, request: Request) -> Result<Self, GenerationError> {
        Self::resume(model, request, &[])
    }

    /// Goes on with a generation of which `generated` are the first tokens. The cache is computed anew.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn resume(model: &Model, request: Request, generated: &[u32]) -> Result<Self, GenerationError> {
        if request.prompt.is_empty() {
            return Err(GenerationError::EmptyPrompt);
        }
        if request.max_tokens == 0 {
            return Err(GenerationError::NoTokens);
        }
        let sampler = Sampler::new(request.sampling.clone())?;
        let context = model.config().max_position_embeddings;
        let vocab_size = model.config().vocab_size;
        request.sampling.validate_vocabulary(vocab_size)?;
        let tokens: Vec<u32> = request.prompt.iter().chain(generated).copied().collect();
        if request.prompt.len() >= context || tokens.len() > context {
            return Err(ModelError::Context { positions: tokens.len() + 1, context }.into());
        }
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(ModelError::Token { token, vocab_size }.into());
        }
        // The last token is never fed back, so the cache needs no place for it.
        let capacity =
            context.min(request.prompt.len().saturating_add(request.max_tokens) - 1).max(tokens.len());
        let cache = KvCache::new(model.config(), CachePrecision::Int8, capacity)?;
        let mut generation =
            Self { request, sampler, tokens, cache, pass: None, spare: None, finished: None };
        generation.finished = generation.finish_reason(model);
        Ok(generation)
    }

    /// Tokens generated so far.
    pub fn generated(&self) -> &[u32] {
        &self.tokens[self.request.prompt.len()..]
    }

    /// The request.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Why there will be no more tokens, if that is so.
    pub fn finished(&self) -> Option<FinishReason> {
        self.finished
    }

    /// Positions in the cache: what an interruption would have to compute again.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Takes over what the cache of `previous`, a generation with the same model, holds of the tokens with which both
    /// begin: they are not computed again. The outcome is the same.
    ///
    /// # Errors
    /// If there is no memory for the rest of the text.
    pub fn reuse(&mut self, previous: Self) -> Result<(), GenerationError> {
        let common = self.tokens.iter().zip(&previous.tokens).take_while(|(own, other)| own == other).count();
        // The last token is computed in any case: its logits choose the next one.
        let shared = common.min(previous.cache.len()).min(self.tokens.len() - 1);
        if shared > self.cache.len() {
            let mut cache = previous.cache;
            cache.truncate(shared);
            cache.grow(self.cache.capacity())?;
            self.cache = cache;
            self.pass = None;
        }
        Ok(())
    }

    fn finish_reason(&self, model: &Model) -> Option<FinishReason> {
        let generated = self.generated();
        let last = generated.last()?;
        if model.config().eos_token_ids.contains(last) || self.request.stop_tokens.contains(last) {
            Some(FinishReason::Stop)
        } else if generated.len() >= self.request.max_tokens {
            Some(FinishReason::Length)
        } else if self.tokens.len() >= model.config().max_position_embeddings {
            Some(FinishReason::Context)
        } else {
            None
        }
    }

    /// Works until there is a token, the budget is used up, or the generation has ended.
    ///
    /// # Errors
    /// If the logits are not numbers. `model` must be the one that the generation began with.
    pub fn advance(&mut self, model: &Model, budget: &mut Budget) -> Result<Event, GenerationError> {
        if let Some(reason) = self.finished {
            return Ok(Event::Finished(reason));
        }
        loop {
            let mut pass = match self.pass.take() {
                Some(pass) => pass,
                None => self.begin_pass(model)?,
            };
            if model.advance(&mut pass, &mut self.cache, budget, None) == Progress::Paused {
                self.pass = Some(pass);
                return Ok(Event::Paused);
            }
            if self.cache.len() < self.tokens.len() {
                self.spare = Some(pass);
                continue;
            }
            let token = self.sampler.sample(pass.logits(), &self.tokens)?;
            self.spare = Some(pass);
            self.tokens.push(token);
            self.finished = self.finish_reason(model);
            return Ok(Event::Token(token));
        }
    }

    /// A pass over the next tokens that are not in the cache yet.
    fn begin_pass(&mut self, model: &Model) -> Result<Pass, ModelError> {
        let pending = &self.tokens[self.cache.len()..];
        let chunk = &pending[..pending.len().min(PREFILL_CHUNK)];
        let logits_for = if chunk.len() == pending.len() { LogitsFor::Last } else { LogitsFor::None };
        let spare = self.spare.take();
        model.begin(&mut self.cache, chunk, logits_for, spare)
    }
}
