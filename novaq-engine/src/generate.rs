//! Generation: a prompt goes in, tokens come out, in as many budgeted steps as it takes.

use std::sync::Arc;

use crate::constraint::{Constraint, Following};
use crate::model::{Budget, CachePrecision, KvCache, LogitsFor, Model, ModelError, Pass, Progress};
use crate::sampler::{Sampler, SamplingError, SamplingParams};

/// Positions that one pass works on at most: their matrix products share each tile of weights.
pub const PREFILL_CHUNK: usize = 16;

/// What happens when the context window is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContextPolicy {
    /// The text ends.
    #[default]
    Stop,
    /// The first `keep` tokens stay, the older half of the others (rounded up) leaves the context, and what is left moves up
    /// and is computed again. Which tokens are in the context follows from their number alone.
    Shift {
        /// Tokens that stay, prompt first.
        keep: usize,
    },
}

impl ContextPolicy {
    /// How many of the first `tokens` tokens of a text are no longer in a context of `context`.
    fn dropped(self, tokens: usize, context: usize) -> usize {
        match self {
            Self::Shift { keep } if tokens >= context => {
                let step = (context - keep).div_ceil(2);
                (1 + (tokens - context) / step) * step
            }
            Self::Stop | Self::Shift { .. } => 0,
        }
    }
}

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
    /// What happens when the context window is full.
    pub when_full: ContextPolicy,
    /// What the generated text has to follow; where that is complete, it ends.
    pub constraint: Option<Arc<Constraint>>,
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
    /// A shift would leave no room.
    #[error("`keep`: {keep} tokens can't stay in a context of {context}, at most {most} can", most = context.saturating_sub(2))]
    Keep {
        /// Tokens that are to stay.
        keep: usize,
        /// Positions of the context window.
        context: usize,
    },
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
    /// A token that ends the text was sampled, which is the last of the tokens, or what the text has to follow is complete.
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
    /// The budget is used up, or a layer is not in memory; nothing is lost.
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
    /// Tokens behind those that stay which the cache is without.
    dropped: usize,
    /// The batch of this generation alone.
    alone: Batch,
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
        let following = request.constraint.clone().map(Following::new);
        let mut sampler = Sampler::new(request.sampling.clone())?.constrained(following);
        let context = model.config().max_position_embeddings;
        let vocab_size = model.config().vocab_size;
        request.sampling.validate_vocabulary(vocab_size)?;
        let tokens: Vec<u32> = request.prompt.iter().chain(generated).copied().collect();
        let fits = match request.when_full {
            ContextPolicy::Stop => tokens.len() <= context,
            ContextPolicy::Shift { keep } if keep.saturating_add(2) > context => {
                return Err(GenerationError::Keep { keep, context });
            }
            ContextPolicy::Shift { .. } => true,
        };
        for &token in generated {
            sampler.push(token);
        }
        if request.prompt.len() >= context || !fits {
            return Err(ModelError::Context { positions: tokens.len() + 1, context }.into());
        }
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(ModelError::Token { token, vocab_size }.into());
        }
        // The last token is never fed back, so the cache needs no place for it.
        let most = request.prompt.len().saturating_add(request.max_tokens) - 1;
        let cache = KvCache::new(model.config(), CachePrecision::Int8, context.min(most.max(tokens.len())))?;
        let alone = Batch::default();
        let mut generation = Self { request, sampler, tokens, cache, dropped: 0, alone, finished: None };
        generation.dropped = generation.dropped_by_now(model);
        generation.finished = generation.finish_reason(model);
        generation.forget_constraint_at_the_end();
        Ok(generation)
    }

    /// A finished text is kept for its cache; the automaton would only take memory.
    fn forget_constraint_at_the_end(&mut self) {
        if self.finished.is_some() {
            self.request.constraint = None;
            self.sampler.forget_constraint();
        }
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

    /// Bytes of the cache on the heap.
    pub fn cache_bytes(&self) -> usize {
        self.cache.heap_bytes()
    }

    /// Positions of the cache of `other`, a generation with the same model, that this one would compute alike.
    pub fn shared_with(&self, other: &Self) -> usize {
        let common = self.context().zip(other.context()).take_while(|(own, other)| own == other).count();
        // The last token is computed in any case: its logits choose the next one.
        common.min(other.cache.len()).min(self.context().count() - 1)
    }

    /// Copies from the cache of `previous`, a generation with the same model, what it holds of the tokens with which both
    /// contexts begin: they are not computed again. Returns how many. The outcome is the same.
    ///
    /// # Errors
    /// If there is no memory for the copy.
    pub fn reuse(&mut self, previous: &Self) -> Result<usize, GenerationError> {
        let shared = self.shared_with(previous);
        if shared <= self.cache.len() {
            return Ok(0);
        }
        self.cache = previous.cache.prefix(shared, self.cache.capacity())?;
        self.alone = Batch::default();
        Ok(shared)
    }

    /// The tokens that are in the context, in order.
    fn context(&self) -> impl Iterator<Item = u32> {
        let (kept, rest) = self.tokens.split_at(self.kept());
        kept.iter().chain(&rest[self.dropped..]).copied()
    }

    /// Tokens at the beginning that stay in the context whatever comes.
    fn kept(&self) -> usize {
        match self.request.when_full {
            ContextPolicy::Shift { keep } => keep.min(self.tokens.len()),
            ContextPolicy::Stop => 0,
        }
    }

    fn dropped_by_now(&self, model: &Model) -> usize {
        self.request.when_full.dropped(self.tokens.len(), model.config().max_position_embeddings)
    }

    fn finish_reason(&self, model: &Model) -> Option<FinishReason> {
        let generated = self.generated();
        let last = generated.last()?;
        let config = model.config();
        if config.eos_token_ids.contains(last)
            || self.request.stop_tokens.contains(last)
            || self.sampler.is_complete()
        {
            Some(FinishReason::Stop)
        } else if generated.len() >= self.request.max_tokens {
            Some(FinishReason::Length)
        } else if self.request.when_full == ContextPolicy::Stop
            && self.tokens.len() >= model.config().max_position_embeddings
        {
            Some(FinishReason::Context)
        } else {
            None
        }
    }

    /// Works until there is a token, the budget is used up, or the generation has ended.
    ///
    /// # Errors
    /// If the logits are not numbers, or there is no memory for the context. `model` must be the one that the generation
    /// began with.
    pub fn advance(&mut self, model: &Model, budget: &mut Budget) -> Result<Event, GenerationError> {
        if let Some(reason) = self.finished {
            return Ok(Event::Finished(reason));
        }
        let mut alone = std::mem::take(&mut self.alone);
        let event = loop {
            match alone.advance(model, &mut [&mut *self], budget) {
                None => break Ok(Event::Paused),
                Some(mut passed) => match passed.pop() {
                    Some(Passed { token: Ok(Some(token)), .. }) => break Ok(Event::Token(token)),
                    Some(Passed { token: Err(error), .. }) => break Err(error),
                    Some(Passed { token: Ok(None), .. }) | None => {}
                },
            }
        };
        self.alone = alone;
        event
    }

    /// Brings the cache up to date with the policy; returns the next tokens that are not in it, at most `most`.
    fn pending(&mut self, model: &Model, most: usize) -> Vec<u32> {
        let dropped = self.dropped_by_now(model);
        if self.dropped != dropped {
            self.dropped = dropped;
            self.cache.truncate(self.kept());
        }
        self.context().skip(self.cache.len()).take(most).collect()
    }

    /// Tokens in the context that are not in the cache.
    fn missing(&self) -> usize {
        self.tokens.len() - self.dropped - self.cache.len()
    }

    fn sample(&mut self, model: &Model, logits: &[f32]) -> Result<u32, GenerationError> {
        let token = self.sampler.sample(logits, &self.tokens)?;
        self.tokens.push(token);
        self.sampler.push(token);
        self.finished = self.finish_reason(model);
        self.forget_constraint_at_the_end();
        Ok(token)
    }
}

/// Generations that share each pass over the weights. Each one's tokens are those that it has alone.
#[derive(Debug, Default)]
pub struct Batch {
    pass: Option<SharedPass>,
    /// A finished pass, kept for its buffers.
    spare: Option<Pass>,
}

/// A pass under way.
#[derive(Debug)]
struct SharedPass {
    pass: Pass,
    /// Of each generation: its positions in the pass, and whether a token follows.
    counts: Vec<(usize, LogitsFor)>,
}

/// What a pass brought to one of its generations.
#[derive(Clone, Debug, PartialEq)]
pub struct Passed {
    /// Positions that were worked on for it.
    pub positions: usize,
    /// Its next token, if its prompt is through. After an error it can't go on.
    pub token: Result<Option<u32>, GenerationError>,
}

impl Batch {
    /// The layer that comes next, counted as the model counts them; their number if only the head is left.
    pub fn next_layer(&self) -> usize {
        self.pass.as_ref().map_or(0, |shared| shared.pass.next_layer())
    }

    /// Gives the pass under way up, and with it at most the work of one pass: before the generations become others.
    pub fn abandon(&mut self) {
        if let Some(SharedPass { pass, .. }) = self.pass.take() {
            self.spare = Some(pass);
        }
    }

    /// Works until a pass is complete and returns what it brought to each of `generations`, or `None` if the budget is used
    /// up or a layer is not in memory. Until then, the next call must be given the same generations.
    ///
    /// A pass has a position of each generation that goes on, and up to [`PREFILL_CHUNK`] in all if some have prompts to
    /// read; where there are more generations than that, the last ones wait.
    pub fn advance(
        &mut self,
        model: &Model,
        generations: &mut [&mut Generation],
        budget: &mut Budget,
    ) -> Option<Vec<Passed>> {
        let mut shared = match self.pass.take().filter(|shared| shared.counts.len() == generations.len()) {
            Some(shared) => shared,
            None => match self.begin(model, generations) {
                Ok(shared) => shared,
                Err(passed) => return Some(passed),
            },
        };
        let progress =
            with_caches(generations, |caches| model.advance_batch(&mut shared.pass, caches, budget, None));
        if progress != Progress::Complete {
            self.pass = Some(shared);
            return None;
        }
        let SharedPass { pass, counts } = shared;
        let mut logits = pass.logits().chunks_exact(model.config().vocab_size);
        let passed = generations.iter_mut().zip(counts).map(|(generation, (positions, logits_for))| {
            let logits = if logits_for == LogitsFor::Last { logits.next() } else { None };
            let token = logits.map(|logits| generation.sample(model, logits)).transpose();
            Passed { positions, token }
        });
        let passed = passed.collect();
        self.spare = Some(pass);
        Some(passed)
    }

    /// A pass over the next tokens of each generation that are not in its cache yet; or which generations can't go on.
    fn begin(
        &mut self,
        model: &Model,
        generations: &mut [&mut Generation],
    ) -> Result<SharedPass, Vec<Passed>> {
        let open = generations.iter().filter(|generation| generation.finished.is_none()).count();
        let mut rows = PREFILL_CHUNK;
        let mut others = open;
        let mut tokens = Vec::new();
        let mut counts = Vec::with_capacity(generations.len());
        for generation in generations.iter_mut() {
            if generation.finished.is_some() || rows == 0 {
                counts.push((0, LogitsFor::None));
                continue;
            }
            others -= 1;
            let pending = generation.pending(model, rows.saturating_sub(others).max(1));
            rows -= pending.len();
            let is_last = pending.len() == generation.missing();
            counts.push((pending.len(), if is_last { LogitsFor::Last } else { LogitsFor::None }));
            tokens.extend(pending);
        }
        let rooms: Vec<Result<(), ModelError>> = generations
            .iter_mut()
            .zip(&counts)
            .map(|(generation, (count, _))| {
                let end = generation.cache.len() + count;
                generation.cache.make_room(end)
            })
            .collect();
        let spare = self.spare.take();
        let pass = match rooms.iter().find_map(|room| room.clone().err()) {
            None => with_caches(generations, |caches| model.begin_ragged(caches, &tokens, &counts, spare)),
            Some(error) => Err(error),
        };
        pass.map(|pass| SharedPass { pass, counts }).map_err(|error| {
            // Those that have no room are named; if none of them is at fault, none can go on.
            let all = rooms.iter().all(Result::is_ok);
            let failed = |room: Result<(), ModelError>| match room {
                Ok(()) if all => Err(error.clone().into()),
                room => room.map(|()| None).map_err(GenerationError::from),
            };
            rooms.into_iter().map(|room| Passed { positions: 0, token: failed(room) }).collect()
        })
    }
}

/// Lends the caches of `generations`, in their order, as one list.
fn with_caches<R>(generations: &mut [&mut Generation], f: impl FnOnce(&mut [KvCache]) -> R) -> R {
    let taken = generations.iter_mut().map(|generation| std::mem::take(&mut generation.cache));
    let mut caches: Vec<KvCache> = taken.collect();
    let result = f(&mut caches);
    for (generation, cache) in generations.iter_mut().zip(caches) {
        generation.cache = cache;
    }
    result
}
