//! One slice of work: build the model in the heap, or generate tokens, until the budget is used.
//!
//! Architecture Invariant: everything here is a cache of stable memory. A slice gives the same tokens whatever was lost
//! before it, since the engine's numbers depend neither on how the work was cut, nor on which layers and caches were there or
//! which other jobs shared a pass, nor on a random state.

use candid::Principal;
use novaq_engine::artifact::{ArtifactError, LoadedEncoder, LoadedModel, Loader};
use novaq_engine::chat::Message;
use novaq_engine::generate::GenerationError;
use novaq_engine::kernel::Packing;
use novaq_engine::model::{Budget, EncoderPass, ModelError, Progress};
use novaq_engine::text::{PassedText, TextBatch, TextError, TextGeneration};
use shared_types::FieldError;
use shared_types::agent::{
    AgentError, DEFAULT_BATCH_WIDTH, DEFAULT_HEAP_BYTES, Draft, Embedding, FinishReason, HeapUse, JobFailure,
    JobId, JobState, LoadError, LoadState,
};

use crate::decoder::Decoder;
use crate::heap::Monitor;
use crate::jobs::{JobInput, Jobs};
use crate::kept::Kept;
use crate::pace::{Pace, Steps};
use crate::store::ModelStore;

/// The smallest unit of the engine's own budget: it stops after every layer, and the meter decides whether to go on.
const ONE_LAYER: u64 = 1;

/// Of the heap's budget, kept caches may take this part.
const KEPT_PART: u64 = 4;

/// What the configuration allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the heap for weights and caches.
    pub heap_bytes: u64,
    /// Jobs that share a pass.
    pub batch_width: usize,
}

impl Limits {
    /// Those of a configuration.
    pub fn new(heap_bytes: Option<u64>, batch_width: Option<u32>) -> Self {
        Self {
            heap_bytes: heap_bytes.unwrap_or(DEFAULT_HEAP_BYTES),
            batch_width: batch_width.unwrap_or(DEFAULT_BATCH_WIDTH) as usize,
        }
    }
}

/// What is built of the model.
#[derive(Default)]
enum Built {
    #[default]
    Nothing,
    /// Tensors outside a decoder's layers, or an encoder's.
    Tensors(Loader),
    /// The decoder is there, and layers come as far as there is room.
    Layers(Box<Decoder>),
    Decoder(Box<Decoder>),
    Encoder(Box<LoadedEncoder>),
}

/// The model in the heap, as far as it is built, and the generations under way.
#[derive(Default)]
pub struct Engine {
    built: Built,
    /// Jobs whose passes are shared; usually there is one.
    group: Vec<Member>,
    batch: TextBatch,
    kept: Kept,
    spare: Option<EncoderPass>,
    steps: Steps,
    monitor: Monitor,
    /// How codes are packed where there is room for that.
    packing: Packing,
}

/// The generation of one job.
struct Member {
    job_id: JobId,
    caller: Principal,
    text: TextGeneration,
}

/// What a slice has brought a job, not yet stored.
#[derive(Default)]
struct Gain {
    tokens: Vec<(u32, String)>,
    /// Positions worked on since instructions were shared out last.
    positions: u64,
    instructions: u64,
}

/// What a slice has brought each job of the group, in its order.
struct Gains {
    gains: Vec<Gain>,
    /// Instructions of the message that were shared out.
    shared: u64,
}

impl Gains {
    /// Shares what was used since the last time out by the positions that were worked on; `used` are all instructions of the
    /// message. What is left of the division is the first job's.
    fn share_out(&mut self, used: u64) {
        let spent = used.saturating_sub(self.shared);
        self.shared = used;
        let positions: u64 = self.gains.iter().map(|gain| gain.positions).sum();
        let mut rest = spent;
        for gain in &mut self.gains {
            let share = u128::from(spent) * u128::from(gain.positions) / u128::from(positions.max(1));
            gain.instructions += share as u64;
            gain.positions = 0;
            rest -= share as u64;
        }
        if let Some(first) = self.gains.first_mut() {
            first.instructions += rest;
        }
    }
}

impl Engine {
    /// Whether the model is built.
    pub fn is_ready(&self) -> bool {
        matches!(self.built, Built::Decoder(_) | Built::Encoder(_))
    }

    /// Drops everything, so that the next slice builds it anew. What was learnt about the heap stays.
    pub fn clear(&mut self) {
        *self = Self { monitor: self.monitor, packing: self.packing, ..Self::default() };
    }

    /// Memory was short: gives up what is not needed. Returns whether the engine gets along with less from now on.
    pub fn memory_was_short(&mut self, store: &ModelStore, configured: u64) -> bool {
        if self.pack(store, configured) {
            return true;
        }
        let sizes = match &self.built {
            Built::Layers(decoder) | Built::Decoder(decoder) => {
                Some((decoder.all_bytes(), decoder.least_bytes()))
            }
            Built::Nothing | Built::Tensors(_) => store.decoder_bytes(),
            Built::Encoder(_) => None,
        };
        let Some((all, least)) = sizes else { return false };
        let wanted = all + cache_bytes(&self.group) + self.kept.bytes();
        let lower = self.monitor.short(self.monitor.budget(configured), wanted, least);
        self.trim(configured);
        lower
    }

    /// A loader that has loaded nothing yet, with the packing that there is room for.
    fn loader(&self, store: &ModelStore, configured: u64) -> Option<Loader> {
        let loader = Loader::without_layers(store.loaded()?).with_packing(self.packing);
        Some(loader.with_room(self.monitor.budget(configured)))
    }

    /// Memory was short: where codes have a byte each, the model is built again in half the memory, before any layer has to
    /// leave the heap. Returns whether that is so.
    fn pack(&mut self, store: &ModelStore, configured: u64) -> bool {
        let unpacked =
            self.loader(store, configured).is_some_and(|loader| loader.packing() == Packing::Bytes);
        if unpacked {
            self.packing = Packing::Nibbles;
            self.monitor.packed();
            self.built = Built::Nothing;
            self.batch.abandon();
        }
        unpacked
    }

    /// What the heap is used for.
    pub fn heap_use(&self, configured: u64) -> HeapUse {
        let mut heap = HeapUse {
            budget_bytes: self.monitor.budget(configured),
            shortages: self.monitor.shortages(),
            cache_bytes: cache_bytes(&self.group),
            kept_caches: self.kept.len() as u32,
            kept_bytes: self.kept.bytes(),
            ..HeapUse::default()
        };
        match &self.built {
            Built::Layers(decoder) | Built::Decoder(decoder) => {
                let places = decoder.places();
                heap.layers = places.len() as u32;
                heap.layers_in_heap = places.here() as u32;
                heap.layers_brought = places.brought();
                heap.weight_bytes = decoder.weight_bytes();
            }
            Built::Encoder(loaded) => {
                heap.layers = loaded.encoder.config().num_hidden_layers as u32;
                heap.layers_in_heap = heap.layers;
                heap.weight_bytes = loaded.encoder.heap_bytes() as u64;
            }
            Built::Nothing | Built::Tensors(_) => {}
        }
        heap
    }

    /// Works on `job_id`, and on the jobs that share its passes, until `meter` says that about `budget` instructions are used.
    /// The model must be loaded. A slice that builds the model ends with that.
    ///
    /// # Errors
    /// When the model can't be built: then no job can run.
    #[expect(clippy::too_many_arguments, reason = "what a message has")]
    pub fn slice(
        &mut self,
        jobs: &mut Jobs,
        store: &mut ModelStore,
        job_id: JobId,
        limits: Limits,
        budget: u64,
        meter: &dyn Fn() -> u64,
        now_ns: u64,
    ) -> Result<(), LoadError> {
        if !self.is_ready() {
            let built =
                self.build(store, &mut Pace::new(meter, budget, Steps::default()), limits.heap_bytes, meter);
            jobs.forget_attempts(job_id);
            return built;
        }
        let Ok(record) = jobs.get(job_id) else { return Ok(()) };
        let left = record.max_instructions.map(|most| most.saturating_sub(record.counts.instructions));
        let is_last = left.is_some_and(|left| left <= budget);
        self.gather(jobs, job_id, limits, meter, now_ns);
        let mut pace = Pace::new(meter, left.unwrap_or(budget).min(budget), self.steps);
        let gains = self.group.iter().map(|_| Gain::default()).collect();
        let mut gains = Gains { gains, shared: 0 };
        let worked = if self.group.is_empty() || is_last && !pace.may_begin() {
            Ok(())
        } else {
            let worked = self.work(jobs, store, &mut gains, limits, &mut pace, now_ns);
            self.steps = pace.steps();
            worked
        };
        gains.share_out(meter());
        for (member, gain) in self.group.iter().zip(gains.gains) {
            jobs.slice_done(member.job_id, gain.tokens, gain.instructions);
        }
        self.trim(limits.heap_bytes);
        if is_last && worked.is_ok() && self.group.iter().any(|member| member.job_id == job_id) {
            jobs.set_state(job_id, &JobState::Done { reason: FinishReason::MaxInstructions }, now_ns);
        }
        worked
    }

    /// The next tokens of an open job, at most `max_tokens`, as the slices to come will compute them. For a query, whose
    /// changes to the heap are discarded: the generation under way is used up instead of copied, so that what calls this in
    /// an update only makes the next slice begin anew.
    ///
    /// # Errors
    /// [`AgentError::UnknownJob`], [`AgentError::JobEnded`], [`AgentError::NotInHeap`], [`AgentError::Draft`].
    #[expect(clippy::too_many_arguments, reason = "what a message has")]
    pub fn draft(
        &mut self,
        jobs: &Jobs,
        store: &ModelStore,
        job_id: JobId,
        max_tokens: usize,
        limits: Limits,
        budget: u64,
        meter: &dyn Fn() -> u64,
    ) -> Result<Draft, AgentError> {
        let record = jobs.get_open(job_id)?;
        let Built::Decoder(decoder) = &self.built else {
            return Err(match self.built {
                Built::Encoder(_) => AgentError::Draft(JobFailure::NoDecoder),
                _ => AgentError::NotInHeap,
            });
        };
        self.batch.abandon();
        let under_way = self.group.iter().position(|member| member.job_id == job_id);
        let member = match under_way {
            Some(at) => self.group.swap_remove(at),
            None => Member::new(decoder.loaded(), jobs, job_id, &mut self.kept).map_err(AgentError::Draft)?.0,
        };
        self.group = vec![member];
        let mut pace = Pace::new(meter, budget, self.steps);
        let (mut tokens, mut text, mut finished) = (Vec::new(), String::new(), None);
        while finished.is_none() && tokens.len() < max_tokens && pace.may_begin() && self.is_ready() {
            for passed in
                self.step(store, limits).map_err(|error| AgentError::Draft(JobFailure::Load(error)))?
            {
                if let Some((token, piece)) =
                    passed.token.map_err(|error| AgentError::Draft(failure(&error)))?
                {
                    tokens.push(token);
                    text.push_str(&piece);
                }
            }
            finished = self.group[0].text.finished().map(FinishReason::from);
            pace.may_go_on();
        }
        self.group.clear();
        Ok(Draft {
            job_id,
            first_token: record.counts.generated_tokens,
            slices: record.counts.messages,
            tokens,
            text,
            finished,
            instructions: meter(),
        })
    }

    /// Embeds the first of `texts`, as many as `budget` instructions allow, and builds the encoder before if it is not there.
    /// The model must be loaded.
    ///
    /// # Errors
    /// [`AgentError::NotInHeap`] if the encoder is not built when the budget is used, [`AgentError::NotLoaded`] if it can't be,
    /// [`AgentError::NoEncoder`], [`AgentError::InvalidField`], [`AgentError::TextTooLong`].
    pub fn embed(
        &mut self,
        store: &mut ModelStore,
        texts: &[String],
        limits: Limits,
        budget: u64,
        meter: &dyn Fn() -> u64,
    ) -> Result<Vec<Embedding>, AgentError> {
        if !self.is_ready() {
            let mut pace = Pace::new(meter, budget, Steps::default());
            let built = self.build(store, &mut pace, limits.heap_bytes, meter);
            built.map_err(|reason| AgentError::NotLoaded { load: LoadState::Failed { reason } })?;
        }
        self.embed_now(texts, budget, meter)
    }

    /// As [`Self::embed`], with what is there.
    ///
    /// # Errors
    /// As [`Self::embed`].
    pub fn embed_now(
        &mut self,
        texts: &[String],
        budget: u64,
        meter: &dyn Fn() -> u64,
    ) -> Result<Vec<Embedding>, AgentError> {
        let Built::Encoder(loaded) = &self.built else {
            return Err(match self.built {
                Built::Layers(_) | Built::Decoder(_) => AgentError::NoEncoder,
                _ => AgentError::NotInHeap,
            });
        };
        let LoadedEncoder { encoder, tokenizer } = &**loaded;
        let config = encoder.config();
        let mut pace = Pace::new(meter, budget, Steps::default());
        let mut embeddings = Vec::new();
        'texts: for (index, text) in texts.iter().enumerate() {
            let refused =
                |reason: String| AgentError::InvalidField(FieldError::new(format!("texts[{index}]"), reason));
            let tokens = tokenizer
                .encode_truncated(text, config.max_seq_length)
                .map_err(|error| refused(error.to_string()))?;
            let too_long = AgentError::TextTooLong { index: index as u32, tokens: tokens.len() as u32 };
            let layer =
                encoder.work_per_token(tokens.len()) * tokens.len() as u64 / config.num_hidden_layers as u64;
            if !pace.fits(layer) {
                if embeddings.is_empty() {
                    return Err(too_long);
                }
                break;
            }
            let mut pass =
                encoder.begin(&tokens, self.spare.take()).map_err(|error| refused(error.to_string()))?;
            while encoder.advance(&mut pass, &mut Budget::new(ONE_LAYER), None) == Progress::Paused {
                if !pace.may_go_on() {
                    if embeddings.is_empty() {
                        return Err(too_long);
                    }
                    break 'texts;
                }
            }
            embeddings.push(Embedding { vector: pass.embedding().to_vec(), tokens: tokens.len() as u32 });
            self.spare = Some(pass);
        }
        Ok(embeddings)
    }

    /// Builds the model tensor by tensor, then layer by layer as there is room, as far as the pace allows.
    fn build(
        &mut self,
        store: &mut ModelStore,
        pace: &mut Pace,
        configured: u64,
        meter: &dyn Fn() -> u64,
    ) -> Result<(), LoadError> {
        let first = matches!(self.built, Built::Nothing);
        let built = self.build_on(store, pace, configured);
        store.built(meter(), first);
        built
    }

    fn build_on(&mut self, store: &ModelStore, pace: &mut Pace, configured: u64) -> Result<(), LoadError> {
        loop {
            self.built = match std::mem::take(&mut self.built) {
                Built::Nothing => {
                    Built::Tensors(self.loader(store, configured).ok_or_else(|| LoadError::Unsupported {
                        reason: "this version of the engine refuses the manifest".to_owned(),
                    })?)
                }
                Built::Tensors(mut loader) => match loader.step(store) {
                    Ok(Some(_)) => Built::Tensors(loader),
                    Ok(None) if loader.is_encoder() => Built::Encoder(Box::new(
                        loader.finish_encoder(store).map_err(|error| load_error(&error))?,
                    )),
                    Ok(None) => Built::Layers(Box::new(
                        Decoder::new(loader, store).map_err(|error| load_error(&error))?,
                    )),
                    Err(ArtifactError::OutOfMemory { .. }) if self.pack(store, configured) => Built::Nothing,
                    Err(error) => return Err(load_error(&error)),
                },
                Built::Layers(mut decoder) => {
                    let layer = decoder.places().here();
                    let room = self.monitor.budget(configured).saturating_sub(decoder.weight_bytes());
                    if layer == decoder.places().len() || decoder.places().bytes_of(layer) > room {
                        Built::Decoder(decoder)
                    } else {
                        match decoder.bring(layer, store) {
                            Ok(()) => Built::Layers(decoder),
                            Err(ArtifactError::OutOfMemory { .. }) if self.pack(store, configured) => {
                                Built::Nothing
                            }
                            Err(ArtifactError::OutOfMemory { .. }) => Built::Decoder(decoder),
                            Err(error) => return Err(load_error(&error)),
                        }
                    }
                }
                built @ (Built::Decoder(_) | Built::Encoder(_)) => {
                    self.built = built;
                    return Ok(());
                }
            };
            if !pace.may_go_on() {
                return Ok(());
            }
        }
    }

    /// Brings the jobs of this slice together: those that were under way go on, others are taken up where their tokens end.
    fn gather(
        &mut self,
        jobs: &mut Jobs,
        job_id: JobId,
        limits: Limits,
        meter: &dyn Fn() -> u64,
        now_ns: u64,
    ) {
        let wanted = jobs.together(job_id, limits.batch_width);
        if !wanted.iter().eq(self.group.iter().map(|member| &member.job_id)) {
            self.batch.abandon();
        }
        let mut before = std::mem::take(&mut self.group);
        for &job_id in &wanted {
            let under_way = before.iter().position(|member| member.job_id == job_id);
            let member = match (under_way, &self.built) {
                (Some(at), _) => Ok(before.swap_remove(at)),
                (None, Built::Decoder(decoder)) => {
                    let taken_up = Member::new(decoder.loaded(), jobs, job_id, &mut self.kept);
                    taken_up.map(|(member, reused)| {
                        let prompt = &member.text.generation().request().prompt;
                        jobs.taken_up(job_id, prompt, reused);
                        member
                    })
                }
                (None, _) => Err(JobFailure::NoDecoder),
            };
            match member {
                Ok(member) => {
                    if jobs.get(job_id).is_ok_and(|record| record.state != JobState::Running) {
                        jobs.set_state(job_id, &JobState::Running, now_ns);
                    }
                    self.group.push(member);
                }
                Err(reason) => {
                    let used = if wanted.len() == 1 { meter() } else { 0 };
                    jobs.slice_done(job_id, Vec::new(), used);
                    jobs.set_state(job_id, &JobState::Failed { reason }, now_ns);
                }
            }
        }
        // Those that wait again go on later, if there is room for their caches until then.
        for Member { job_id, caller, text } in before {
            self.kept.keep(caller, job_id, text);
        }
        self.trim(limits.heap_bytes);
    }

    /// Gives up what does not fit the budget: kept caches, then layers.
    fn trim(&mut self, configured: u64) {
        let budget = self.monitor.budget(configured);
        let under_way = cache_bytes(&self.group);
        let (Built::Layers(decoder) | Built::Decoder(decoder)) = &mut self.built else { return };
        let room = budget.saturating_sub(under_way + decoder.least_bytes()).min(budget / KEPT_PART);
        while self.kept.bytes() > room && self.kept.drop_oldest() {}
        decoder.give_up(budget.saturating_sub(under_way + self.kept.bytes()), self.batch.next_layer());
    }

    /// Advances the group until the pace says stop, all its jobs have ended, or one has and another waits to join.
    fn work(
        &mut self,
        jobs: &mut Jobs,
        store: &ModelStore,
        gains: &mut Gains,
        limits: Limits,
        pace: &mut Pace,
        now_ns: u64,
    ) -> Result<(), LoadError> {
        loop {
            let passed = self.step(store, limits)?;
            // Built again by the next slice, with less memory.
            if !self.is_ready() {
                return Ok(());
            }
            let is_over = !pace.may_go_on();
            let mut ended = Vec::new();
            for (at, passed) in passed.into_iter().enumerate() {
                let gain = &mut gains.gains[at];
                gain.positions += passed.positions as u64;
                match passed.token {
                    Ok(token) => gain.tokens.extend(token),
                    // What there is no memory for now there may be after others have given some up.
                    Err(error) if is_out_of_memory(&error) && self.free_memory(store, limits) => {}
                    Err(error) => {
                        ended.push((at, JobState::Failed { reason: failure(&error) }));
                        continue;
                    }
                }
                // An end must be known in the message of the last token, to which the text that was held back belongs.
                if let Some(reason) = self.group[at].text.finished() {
                    ended.push((at, JobState::Done { reason: reason.into() }));
                }
            }
            if !ended.is_empty() {
                gains.share_out(pace.used());
                for (at, state) in ended.into_iter().rev() {
                    let (Member { job_id, caller, text }, gain) =
                        (self.group.remove(at), gains.gains.remove(at));
                    jobs.slice_done(job_id, gain.tokens, gain.instructions);
                    jobs.set_state(job_id, &state, now_ns);
                    self.kept.keep(caller, job_id, text);
                }
                self.batch.abandon();
                let Some(first) = self.group.first() else { return Ok(()) };
                if jobs.together(first.job_id, limits.batch_width).len() > self.group.len() {
                    return Ok(());
                }
            }
            if is_over {
                return Ok(());
            }
        }
    }

    /// One layer for the group, or the head; returns what the pass brought if it is complete, otherwise nothing.
    fn step(&mut self, store: &ModelStore, limits: Limits) -> Result<Vec<PassedText>, LoadError> {
        let next = self.batch.next_layer();
        while let Built::Decoder(decoder) = &mut self.built
            && !decoder.has(next)
        {
            let budget = self.monitor.budget(limits.heap_bytes);
            let weights = decoder.weight_bytes() + decoder.places().bytes_of(next);
            let under_way = cache_bytes(&self.group);
            while weights + under_way + self.kept.bytes() > budget && self.kept.drop_oldest() {}
            let others = under_way + self.kept.bytes() + decoder.places().bytes_of(next);
            decoder.give_up(budget.saturating_sub(others), next);
            match decoder.bring(next, store) {
                Ok(()) => break,
                Err(ArtifactError::OutOfMemory { .. }) if self.free_memory(store, limits) => {}
                Err(error) => return Err(load_error(&error)),
            }
        }
        let Built::Decoder(decoder) = &self.built else { return Ok(Vec::new()) };
        let mut texts: Vec<&mut TextGeneration> =
            self.group.iter_mut().map(|member| &mut member.text).collect();
        let passed = self.batch.advance(decoder.loaded(), &mut texts, &mut Budget::new(ONE_LAYER));
        Ok(passed.unwrap_or_default())
    }

    /// Gives something up, what is missed least first; returns whether there was anything.
    fn free_memory(&mut self, store: &ModelStore, limits: Limits) -> bool {
        if self.kept.drop_oldest() || self.pack(store, limits.heap_bytes) {
            return true;
        }
        let next = self.batch.next_layer();
        let Built::Decoder(decoder) = &mut self.built else { return false };
        let caches = cache_bytes(&self.group);
        let wanted = decoder.weight_bytes() + caches;
        let least = decoder.least_bytes();
        let lower = self.monitor.short(self.monitor.budget(limits.heap_bytes), wanted, least);
        let before = decoder.places().here();
        decoder.give_up(self.monitor.budget(limits.heap_bytes).saturating_sub(caches), next);
        lower && decoder.places().here() < before
    }
}

/// Bytes of the caches of `group`.
fn cache_bytes(group: &[Member]) -> u64 {
    group.iter().map(|member| member.text.generation().cache_bytes() as u64).sum()
}

impl Member {
    /// Takes a job up where its tokens end; returns how many positions need not be computed, beside the job's own.
    fn new(
        loaded: &LoadedModel,
        jobs: &Jobs,
        job_id: JobId,
        kept: &mut Kept,
    ) -> Result<(Self, usize), JobFailure> {
        let LoadedModel { model, tokenizer, .. } = loaded;
        let record = jobs.get(job_id).map_err(|error| JobFailure::Engine { reason: error.to_string() })?;
        let caller = record.caller;
        if let Some(text) = kept.take(job_id)
            && text.generated().len() == record.counts.generated_tokens as usize
        {
            return Ok((Self { job_id, caller, text }, 0));
        }
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
        let stop = record.params.stop.clone().unwrap_or_default();
        let request = record.params.request(loaded, prompt).map_err(|error| failure(&error))?;
        let text = TextGeneration::resume(loaded, request, &stop, &generated);
        let mut text = text.map_err(|error| failure(&error))?;
        // Without memory for the copy it is computed.
        let alike = kept.most_like(caller, &text);
        let reused = alike.map_or(Ok(0), |alike| text.reuse(alike)).unwrap_or(0);
        Ok((Self { job_id, caller, text }, reused))
    }
}

fn failure(error: &TextError) -> JobFailure {
    JobFailure::Engine { reason: error.to_string() }
}

fn is_out_of_memory(error: &TextError) -> bool {
    matches!(error, TextError::Generation(GenerationError::Model(ModelError::OutOfMemory { .. })))
}

fn load_error(error: &ArtifactError) -> LoadError {
    match error {
        ArtifactError::OutOfMemory { .. } => LoadError::OutOfHeap { reason: error.to_string() },
        _ => LoadError::Unsupported { reason: error.to_string() },
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
