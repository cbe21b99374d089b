//! Slices of any size, cut off anywhere, give the tokens of an uninterrupted run.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use candid::Principal;
use ic_stable_structures::DefaultMemoryImpl;
use novaq_engine::artifact::{Manifest, Shards};
use novaq_engine::kernel::Fold;
use novaq_engine::model::{Config, RopeScaling, Variant};
use novaq_engine::synth::{Format, Synthetic};
use novaq_engine::tokenizer::Tokenizer;
use proptest::prelude::*;
use shared_types::ModelId;
use shared_types::agent::{
    ChatMessage, ChatRole, ContextPolicy, GenerationParams, JobProgressArgs, LoadState, LogitBias, Priority,
    SubmitJobArgs,
};
use shared_types::lifecycle::{ModelOperation, ModelStatus};
use shared_types::model::ModelError;

use super::*;
use crate::memory::Memories;
use crate::receipts::Issuer;
use crate::store::{MAX_ATTEMPTS, Part, refusal};

struct Artifact {
    manifest: Manifest,
    shards: Vec<Vec<u8>>,
}

fn artifact() -> Artifact {
    artifact_with(None)
}

fn artifact_with(chat_template: Option<&str>) -> Artifact {
    let json = include_bytes!("../../../models/ohms-tales-6m/tokenizer.json");
    let tokenizer = Tokenizer::from_json(json).unwrap();
    let config = Config {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        max_position_embeddings: 48,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: true,
        attention_bias: false,
        mlp_bias: false,
        eos_token_ids: vec![],
        bos_token_id: None,
        variant: Variant::default(),
    };
    let mut shards = Vec::new();
    let synthetic = Synthetic {
        config,
        body: Format::Aq { codebooks: 2, dimension: 4, fold: Fold::ONE },
        embedding: Format::Int8,
        seed: 11,
        tokenizer: tokenizer.to_bytes(),
    };
    let manifest = synthetic.write_with_template(&mut shards, chat_template).unwrap();
    Artifact { manifest, shards }
}

fn model_id(artifact: &Artifact) -> ModelId {
    ModelId::new(artifact.manifest.id().unwrap())
}

struct Agent {
    memory: DefaultMemoryImpl,
    jobs: Jobs,
    store: ModelStore,
    engine: Engine,
    limits: Limits,
}

impl Agent {
    fn new() -> Self {
        Self::open(DefaultMemoryImpl::default())
    }

    fn open(memory: DefaultMemoryImpl) -> Self {
        let it = Memories::of(memory.clone());
        Self {
            memory,
            jobs: Jobs::open(
                it.jobs,
                Issuer { agent: Principal::management_canister(), model_id: ModelId::ZERO },
            ),
            store: ModelStore::open(it.load, it.stored_shards, it.manifest, it.shards),
            engine: Engine::default(),
            limits: Limits::new(None, None),
        }
    }

    fn upgraded(self) -> Self {
        Self { limits: self.limits, ..Self::open(self.memory) }
    }

    /// With so many bytes of the heap for weights and caches.
    fn with_heap(self, heap_bytes: u64) -> Self {
        Self { limits: Limits { heap_bytes, ..self.limits }, ..self }
    }

    fn loaded(artifact: &Artifact) -> Self {
        let mut agent = Self::new();
        agent.store.begin(1);
        agent.store.manifest_arrived(&model_id(artifact), &artifact.manifest.to_bytes().unwrap(), 1).unwrap();
        for (index, shard) in artifact.shards.iter().enumerate() {
            agent.store.shard_arrived(index as u32, shard, 2).unwrap();
        }
        assert_eq!(*agent.store.state(), LoadState::Loaded);
        agent
    }

    /// A slice in which each look at the meter finds 1,000 instructions more.
    fn slice(&mut self, budget: u64) {
        let Some(job_id) = self.jobs.head() else { return };
        self.jobs.begin_attempt(job_id);
        let Self { jobs, store, engine, limits, .. } = self;
        engine.slice(jobs, store, job_id, *limits, budget, &meter(), 5).unwrap();
    }

    /// The draft of a query: what it does to the heap is discarded, here by beginning with a new one.
    fn draft(&mut self, job_id: JobId, max_tokens: usize, budget: u64) -> Result<Draft, AgentError> {
        let Self { jobs, store, engine, limits, .. } = self;
        engine.draft(jobs, store, job_id, max_tokens, *limits, budget, &meter())
    }
}

/// Each look finds 1,000 instructions more.
fn meter() -> impl Fn() -> u64 {
    let instructions = Cell::new(0);
    move || {
        instructions.set(instructions.get() + 1_000);
        instructions.get()
    }
}

fn params(temperature: f32, max_tokens: u32) -> GenerationParams {
    GenerationParams {
        max_tokens,
        temperature,
        top_k: Some(40),
        top_p: Some(0.9),
        seed: 3,
        ..GenerationParams::default()
    }
}

fn submit(agent: &mut Agent, prompt: &str, params: &GenerationParams) -> JobId {
    let args =
        SubmitJobArgs { prompt: prompt.to_owned(), params: params.clone(), ..SubmitJobArgs::default() };
    agent.jobs.submit(args, Principal::anonymous(), 0, 0).unwrap().job_id
}

/// The engine's own tokens and text, in one go.
fn reference(
    artifact: &Artifact,
    prompt: &str,
    params: &GenerationParams,
) -> (Vec<u32>, String, Option<FinishReason>) {
    let manifest = Arc::new(artifact.manifest.clone());
    let loaded = Loader::load(manifest, &Shards(artifact.shards.clone())).unwrap();
    let prompt = loaded.tokenizer.encode_prompt(prompt, loaded.model.config().bos_token_id).unwrap();
    let stop = params.stop.clone().unwrap_or_default();
    let mut generation =
        TextGeneration::new(&loaded, params.request(&loaded, prompt).unwrap(), &stop).unwrap();
    while generation.finished().is_none() {
        generation.advance(&loaded, &mut Budget::unlimited()).unwrap();
    }
    (
        generation.generated().to_vec(),
        generation.text().to_owned(),
        generation.finished().map(FinishReason::from),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn interruptions_change_no_token(
        slices in prop::collection::vec((2u64..40, prop::bool::weighted(0.2)), 1..40),
        temperature in prop_oneof![Just(0.0f32), Just(0.8)],
        all: bool,
        stop_at in 0..14usize,
    ) {
        let artifact = artifact();
        let mut params = params(temperature, 12);
        let prompt = "Once upon a time a fox";
        if all {
            params.min_p = Some(0.001);
            params.repetition_penalty = Some(1.3);
            params.repetition_window = Some(8);
            params.logit_bias = Some(vec![LogitBias { token: 40, bias: 2.0 }]);
            // Something that the text says, unless it is shorter.
            let said: String = reference(&artifact, prompt, &params).1.chars().skip(stop_at).take(3).collect();
            params.stop = Some([said, "never said".to_owned()].into_iter().filter(|s| !s.is_empty()).collect());
        }
        let mut agent = Agent::loaded(&artifact);
        let job_id = submit(&mut agent, prompt, &params);
        let mut text = String::new();
        let mut tokens = Vec::new();
        let mut messages = 0;
        for (steps, upgrade) in slices.into_iter().cycle() {
            agent.slice(steps * 1_000);
            messages += 1;
            let args = JobProgressArgs { job_id, after_token: tokens.len() as u32 };
            let page = agent.jobs.progress(&args).unwrap();
            tokens.extend(page.tokens);
            text.push_str(&page.text);
            if page.job.state.is_final() {
                let JobState::Done { reason } = page.job.state else { panic!("{:?}", page.job.state) };
                let (expected_tokens, expected_text, expected_reason) = reference(&artifact, prompt, &params);
                prop_assert_eq!(Some(reason), expected_reason);
                prop_assert_eq!((&tokens, &text), (&expected_tokens, &expected_text));
                prop_assert!(page.job.counts.messages <= messages);
                break;
            }
            // An upgrade in every slice would repeat the prefill for ever when slices are short.
            if upgrade && messages % 64 == 0 {
                agent = agent.upgraded();
            }
        }
    }
}

#[test]
fn messages_are_answered_by_the_template() {
    let artifact = artifact();
    let messages = |content: &str| SubmitJobArgs {
        messages: Some(vec![ChatMessage { role: ChatRole::User, content: content.to_owned() }]),
        params: params(0.0, 4),
        ..SubmitJobArgs::default()
    };
    let mut agent = Agent::loaded(&artifact);
    let id = agent.jobs.submit(messages("hello"), Principal::anonymous(), 0, 0).unwrap().job_id;
    while agent.jobs.head().is_some() {
        agent.slice(100_000);
    }
    let reason = "the model has no chat template".to_owned();
    assert_eq!(
        agent.jobs.get(id).unwrap().state,
        JobState::Failed { reason: JobFailure::ChatTemplate { reason } }
    );

    let template = "{% if messages[0].content == 'no' %}{{ raise_exception('not that') }}{% endif %}\
                    A fox said {{ messages[0].content }}";
    let artifact = artifact_with(Some(template));
    let mut agent = Agent::loaded(&artifact);
    let id = agent.jobs.submit(messages("hello"), Principal::anonymous(), 0, 0).unwrap().job_id;
    let refused = agent.jobs.submit(messages("no"), Principal::anonymous(), 0, 0).unwrap().job_id;
    while agent.jobs.head().is_some() {
        agent.slice(100_000);
    }
    assert_eq!(agent.jobs.tokens(id), reference(&artifact, "A fox said hello", &params(0.0, 4)).0);
    let JobState::Failed { reason: JobFailure::ChatTemplate { reason } } =
        agent.jobs.get(refused).unwrap().state
    else {
        panic!("the template refuses")
    };
    assert!(reason.ends_with("not that"), "{reason}");
}

#[test]
fn jobs_run_one_after_the_other() {
    let artifact = artifact();
    let mut agent = Agent::loaded(&artifact);
    let prompts = ["A hare", "A tortoise", "A crow"];
    let ids = prompts.map(|prompt| submit(&mut agent, prompt, &params(0.0, 4)));
    agent.jobs.cancel(ids[1], 1).unwrap();
    while agent.jobs.head().is_some() {
        agent.slice(7_000);
    }
    for (id, prompt) in [(ids[0], prompts[0]), (ids[2], prompts[2])] {
        assert_eq!(agent.jobs.tokens(id), reference(&artifact, prompt, &params(0.0, 4)).0);
        let counts = agent.jobs.get(id).unwrap().counts;
        assert!(counts.instructions > 0 && counts.messages > 0 && counts.prompt_tokens > 0);
    }
    assert!(agent.jobs.tokens(ids[1]).is_empty());
}

#[test]
fn the_context_window_ends_a_job() {
    let artifact = artifact();
    let mut agent = Agent::loaded(&artifact);
    let full = submit(&mut agent, "A fox", &params(0.0, 1_000));
    let long = submit(&mut agent, &"fox ".repeat(100), &params(0.0, 4));
    while agent.jobs.head().is_some() {
        agent.slice(100_000);
    }
    assert_eq!(agent.jobs.get(full).unwrap().state, JobState::Done { reason: FinishReason::ContextFull });
    let failed = agent.jobs.get(long).unwrap().state;
    assert!(
        matches!(failed, JobState::Failed { reason: JobFailure::PromptTooLong { context: 48, .. } }),
        "{failed:?}"
    );
}

#[test]
fn loading_asks_in_order_and_resumes() {
    let artifact = artifact();
    let manifest = artifact.manifest.to_bytes().unwrap();
    let id = model_id(&artifact);
    let mut agent = Agent::new();
    let mut in_flight = BTreeSet::new();
    assert!(agent.store.wanted(&in_flight, 4, 0).is_empty(), "nothing is asked for before loading begins");
    agent.store.begin(0);
    assert_eq!(agent.store.wanted(&in_flight, 4, 0), [Part::Manifest]);
    in_flight.insert(Part::Manifest);
    assert!(agent.store.wanted(&in_flight, 4, 0).is_empty());
    in_flight.clear();
    agent.store.manifest_arrived(&id, &manifest, 0).unwrap();
    let mut agent = agent.upgraded();
    let shards = artifact.shards.len() as u32;
    assert_eq!(agent.store.wanted(&in_flight, 100, 0), (0..shards).map(Part::Shard).collect::<Vec<_>>());
    for index in (0..shards).rev() {
        assert_eq!(*agent.store.state(), LoadState::Loading);
        agent.store.shard_arrived(index, &artifact.shards[index as usize], 9).unwrap();
        agent = agent.upgraded();
    }
    assert_eq!(*agent.store.state(), LoadState::Loaded);
    let counts = agent.store.counts();
    let bytes = manifest.len() + artifact.shards.iter().map(Vec::len).sum::<usize>();
    assert_eq!((counts.shards, counts.shards_loaded, counts.bytes), (shards, shards, bytes as u64));
    assert!(agent.store.loaded().is_some());

    // A failure that came later, when the engine built the model, leaves nothing to ask for.
    agent.store.fail(LoadError::Unsupported { reason: "for this version".to_owned() });
    assert!(agent.store.loaded().is_none());
    agent.store.begin(10);
    assert!(agent.store.loaded().is_some());
}

#[test]
fn wrong_content_is_refused() {
    let artifact = artifact();
    let manifest = artifact.manifest.to_bytes().unwrap();
    let mut agent = Agent::new();
    agent.store.begin(0);
    let wrong = |result| matches!(result, Err(LoadError::WrongContent { .. }));
    assert!(wrong(agent.store.shard_arrived(0, &artifact.shards[0], 0)), "no shard before the manifest");
    assert!(wrong(agent.store.manifest_arrived(&ModelId::of(b"another"), &manifest, 0)));
    assert!(wrong(agent.store.manifest_arrived(&model_id(&artifact), &manifest[1..], 0)));
    agent.store.manifest_arrived(&model_id(&artifact), &manifest, 0).unwrap();
    let mut flipped = artifact.shards[0].clone();
    flipped[100] ^= 1;
    assert!(wrong(agent.store.shard_arrived(0, &flipped, 0)));
    assert!(wrong(agent.store.shard_arrived(artifact.shards.len() as u32, &flipped, 0)));
    assert_eq!(agent.store.counts().shards_loaded, 0);
}

#[test]
fn a_silent_repository_is_given_up_after_some_attempts() {
    let mut agent = Agent::new();
    agent.store.begin(0);
    let mut now = 0;
    for attempt in 1..=MAX_ATTEMPTS {
        assert_eq!(agent.store.wanted(&BTreeSet::new(), 4, now), [Part::Manifest]);
        agent.store.asked(Part::Manifest);
        let result = agent.store.unanswered(Part::Manifest, "timeout", now);
        if attempt < MAX_ATTEMPTS {
            result.unwrap();
            assert!(agent.store.wanted(&BTreeSet::new(), 4, now).is_empty(), "it waits before it asks again");
            now += agent.store.pause_ns(now);
        } else {
            assert_eq!(result, Err(LoadError::NoAnswer { attempts: attempt, message: "timeout".to_owned() }));
        }
    }
    agent.store.fail(LoadError::UnknownModel);
    agent.store.begin(now);
    assert_eq!(agent.store.wanted(&BTreeSet::new(), 4, now), [Part::Manifest], "a new try starts from zero");
}

#[test]
fn refusals_keep_their_meaning() {
    let status = ModelStatus::Deprecated;
    let refused = ModelError::WrongStatus { status, operation: ModelOperation::Serve };
    assert_eq!(refusal(refused), LoadError::NotServed { status });
    assert_eq!(refusal(ModelError::UnknownModel { model_id: ModelId::ZERO }), LoadError::UnknownModel);
    assert!(matches!(refusal(ModelError::ShardMissing { index: 1 }), LoadError::WrongContent { .. }));
}

#[test]
fn drafts_are_the_tokens_to_come() {
    let artifact = artifact();
    let params = params(0.8, 12);
    let prompt = "Once upon a time a fox";
    let (expected, text, _) = reference(&artifact, prompt, &params);
    let mut agent = Agent::loaded(&artifact);
    let job_id = submit(&mut agent, prompt, &params);
    assert_eq!(agent.draft(job_id, 1, 1_000_000), Err(AgentError::NotInHeap));
    agent.slice(1_000_000_000);
    assert_eq!(agent.jobs.get(job_id).unwrap().counts.messages, 0, "the first slice builds the model");

    // From the beginning to the end, before any slice and in the middle.
    let whole = agent.draft(job_id, usize::MAX, u64::MAX).unwrap();
    assert_eq!((whole.first_token, whole.slices, whole.finished), (0, 0, Some(FinishReason::MaxTokens)));
    assert_eq!((&whole.tokens, &whole.text), (&expected, &text));
    while agent.jobs.tokens(job_id).len() < 5 {
        agent.slice(16_000);
        let before = agent.jobs.get(job_id).unwrap().counts;
        let draft = agent.draft(job_id, 3, u64::MAX).unwrap();
        let at = before.generated_tokens as usize;
        assert_eq!((draft.first_token as usize, draft.slices), (at, before.messages));
        assert_eq!(draft.tokens, expected[at..at + 3]);
        let after = agent.jobs.progress(&JobProgressArgs { job_id, after_token: 0 }).unwrap();
        assert_eq!(after.job.counts, before, "a draft leaves no trace");
        assert!(text.starts_with(&(after.text + &draft.text)));
    }
    // A short budget stops cleanly; the certified run goes on all the same.
    let short = agent.draft(job_id, usize::MAX, 7_000).unwrap();
    assert!(short.tokens.len() < 7 && short.finished.is_none() && short.instructions <= 9_000, "{short:?}");
    while agent.jobs.head().is_some() {
        agent.slice(100_000);
    }
    assert_eq!(agent.jobs.tokens(job_id), expected);
    assert_eq!(agent.draft(job_id, 1, u64::MAX), Err(AgentError::JobEnded { job_id }));

    let long = submit(&mut agent, &"fox ".repeat(100), &params);
    let too_long = agent.draft(long, 1, u64::MAX);
    assert!(matches!(too_long, Err(AgentError::Draft(JobFailure::PromptTooLong { .. }))), "{too_long:?}");
}

#[test]
fn a_budget_of_instructions_ends_a_job_with_its_tokens() {
    let artifact = artifact();
    let expected = reference(&artifact, "A fox", &params(0.0, 20)).0;
    let mut agent = Agent::loaded(&artifact);
    agent.slice(1_000_000_000);
    let submit = |agent: &mut Agent, max_instructions| {
        let args = SubmitJobArgs {
            prompt: "A fox".to_owned(),
            params: params(0.0, 20),
            max_instructions: Some(max_instructions),
            ..SubmitJobArgs::default()
        };
        agent.jobs.submit(args, Principal::anonymous(), 0, 0).unwrap().job_id
    };
    let run = |agent: &mut Agent, id| {
        while agent.jobs.head().is_some() {
            agent.slice(17_000);
        }
        (agent.jobs.get(id).unwrap(), agent.jobs.tokens(id))
    };
    let id = submit(&mut agent, 60_000);
    let (cut, tokens) = run(&mut agent, id);
    assert_eq!(cut.state, JobState::Done { reason: FinishReason::MaxInstructions });
    assert!(!tokens.is_empty() && tokens.len() < 20 && expected.starts_with(&tokens), "{tokens:?}");
    assert!(cut.counts.instructions <= 60_000 + 2_000, "{:?}", cut.counts);
    let id = submit(&mut agent, u64::MAX);
    let (whole, tokens) = run(&mut agent, id);
    assert_eq!((whole.state, tokens), (JobState::Done { reason: FinishReason::MaxTokens }, expected));
}

/// Bytes of the model's weights in the heap: all, and those without a layer.
fn weights(artifact: &Artifact) -> (u64, u64) {
    let bytes = |heap_bytes| {
        let mut agent = Agent::loaded(artifact).with_heap(heap_bytes);
        submit(&mut agent, "A fox", &params(0.0, 1));
        while agent.jobs.head().is_some() {
            agent.slice(1_000_000);
        }
        agent.engine.heap_use(heap_bytes).weight_bytes
    };
    (bytes(u64::MAX), bytes(1))
}

/// Where codes have a byte each, a shortage of memory costs half of the weights' bytes and no layer, at whatever moment it comes.
#[test]
fn short_memory_packs_codes_before_layers_leave() {
    let artifact = artifact();
    let params = params(0.8, 40);
    let expected = reference(&artifact, "Once upon a time", &params).0;
    let packed = {
        let mut agent = Agent::loaded(&artifact);
        let id = submit(&mut agent, "Once upon a time", &params);
        while agent.jobs.head().is_some() {
            agent.slice(5_000);
        }
        assert_eq!(agent.jobs.tokens(id), expected);
        agent.engine.heap_use(u64::MAX).weight_bytes
    };
    for short_after in [0, 1, 3, 12] {
        let mut agent = Agent::loaded(&artifact);
        agent.engine.packing = Packing::Bytes;
        let id = submit(&mut agent, "Once upon a time", &params);
        for _ in 0..short_after {
            agent.slice(5_000);
        }
        let before = agent.engine.heap_use(u64::MAX);
        assert!(short_after < 12 || before.weight_bytes > packed && before.layers_in_heap == 3, "{before:?}");
        assert!(agent.engine.memory_was_short(&agent.store, agent.limits.heap_bytes));
        while agent.jobs.head().is_some() {
            agent.slice(5_000);
        }
        assert_eq!(agent.jobs.tokens(id), expected);
        let after = agent.engine.heap_use(agent.limits.heap_bytes);
        assert_eq!((after.weight_bytes, after.layers_in_heap, after.shortages), (packed, 3, 1));
        assert_eq!(after.budget_bytes, agent.limits.heap_bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    /// Whatever room there is for the layers, however often memory gets short, whoever interrupts: the same tokens.
    #[test]
    fn a_small_heap_changes_no_token(
        room in 0..6u64,
        slices in prop::collection::vec((2u64..60, prop::bool::weighted(0.1), prop::bool::weighted(0.1)), 1..40),
        temperature in prop_oneof![Just(0.0f32), Just(0.8)],
        when_full in prop::option::of((0..8u32).prop_map(|keep| ContextPolicy::Shift { keep })),
    ) {
        let artifact = artifact();
        let (all, without_layers) = weights(&artifact);
        // The layer of a pass under way stays, whatever the budget; all three are equally large.
        let least = without_layers + (all - without_layers) / 3;
        // From less than a layer to more than everything.
        let heap_bytes = if room == 5 { 2 * all } else { without_layers + (all - without_layers) * room / 3 };
        let params = GenerationParams { when_full, ..params(temperature, 60) };
        let prompts = ["Once upon a time a fox", "A crow said"];
        let mut agent = Agent::loaded(&artifact).with_heap(heap_bytes);
        let ids = prompts.map(|prompt| submit(&mut agent, prompt, &params));
        let mut slices = slices.into_iter().cycle();
        let mut urgent = 0;
        while agent.jobs.head().is_some() {
            let (steps, short, interrupted) = slices.next().unwrap();
            agent.slice(steps * 1_000);
            let heap = agent.engine.heap_use(heap_bytes);
            let used = heap.weight_bytes + heap.kept_bytes + heap.cache_bytes;
            prop_assert!(used <= heap.budget_bytes.max(least + heap.cache_bytes), "{heap:?} of {least}..{all}");
            if short {
                agent.engine.memory_was_short(&agent.store, heap_bytes);
            }
            if interrupted && urgent < 3 {
                let args = SubmitJobArgs {
                    prompt: "Help".to_owned(),
                    priority: Some(Priority::RealTime),
                    params: self::params(0.0, 1),
                    ..SubmitJobArgs::default()
                };
                agent.jobs.submit(args, Principal::anonymous(), 0, 0).unwrap();
                urgent += 1;
            }
        }
        for (id, prompt) in ids.into_iter().zip(prompts) {
            prop_assert_eq!(agent.jobs.tokens(id), reference(&artifact, prompt, &params).0);
        }
        let heap = agent.engine.heap_use(heap_bytes);
        prop_assert_eq!(heap.layers, 3);
        prop_assert!(room < 5 || heap.shortages > 0 || heap.layers_brought == 3, "{heap:?}");
    }

    /// Jobs of class batch that share passes have their own tokens, texts, ends and receipts.
    #[test]
    fn jobs_that_share_passes_have_their_own_tokens(
        jobs in prop::collection::vec(("[a-z ]{1,40}", 1u32..20, any::<u64>()), 1..12),
        batch_width in 1..9usize,
        slices in prop::collection::vec((2u64..60, prop::bool::weighted(0.05)), 1..40),
        interruptions in prop::collection::vec(0..30u8, 20),
    ) {
        let artifact = artifact();
        let mut agent = Agent::loaded(&artifact);
        agent.limits.batch_width = batch_width;
        let jobs: Vec<(String, GenerationParams)> = jobs
            .into_iter()
            .map(|(prompt, max_tokens, seed)| (prompt, GenerationParams { seed, ..params(0.8, max_tokens) }))
            .collect();
        let of_class = |priority, (prompt, params): &(String, GenerationParams)| SubmitJobArgs {
            prompt: prompt.clone(),
            params: params.clone(),
            priority: Some(priority),
            ..SubmitJobArgs::default()
        };
        let batch: Vec<JobId> = jobs
            .iter()
            .map(|job| agent.jobs.submit(of_class(Priority::Batch, job), Principal::anonymous(), 0, 0).unwrap().job_id)
            .collect();
        let mut interruptions = interruptions.into_iter();
        let mut slices = slices.into_iter().cycle();
        let mut messages = 0;
        while agent.jobs.head().is_some() {
            let (steps, upgrade) = slices.next().unwrap();
            agent.slice(steps * 1_000);
            messages += 1;
            match interruptions.next() {
                Some(0) => {
                    let urgent = of_class(Priority::Standard, &jobs[0]);
                    agent.jobs.submit(urgent, Principal::anonymous(), 0, 0).unwrap();
                }
                Some(1) => {
                    // Whose turn it is may be paused or not, or have ended.
                    let _ = agent.jobs.pause(batch[0], 5);
                }
                Some(2) => {
                    let _ = agent.jobs.resume(batch[0], 5);
                }
                _ => {}
            }
            if agent.jobs.head().is_none() {
                let _ = agent.jobs.resume(batch[0], 5);
            }
            if upgrade && messages % 64 == 0 {
                agent = agent.upgraded();
            }
        }
        for (id, (prompt, params)) in batch.iter().zip(&jobs) {
            let (tokens, text, reason) = reference(&artifact, prompt, params);
            let progress = agent.jobs.progress(&JobProgressArgs { job_id: *id, after_token: 0 }).unwrap();
            prop_assert_eq!((&progress.tokens, &progress.text), (&tokens, &text));
            prop_assert_eq!(progress.job.state, JobState::Done { reason: reason.unwrap() });
            prop_assert!(progress.job.counts.messages > 0 && progress.job.counts.prompt_tokens > 0);
        }
    }
}

#[test]
fn instructions_of_shared_slices_are_shared_out() {
    let artifact = artifact();
    let run = |batch_width: usize| {
        let mut agent = Agent::loaded(&artifact);
        agent.limits.batch_width = batch_width;
        agent.slice(1_000_000_000);
        let ids = ["A fox", "A crow and a hare", "Once"].map(|prompt| {
            let args = SubmitJobArgs {
                prompt: prompt.to_owned(),
                params: params(0.0, 6),
                priority: Some(Priority::Batch),
                ..SubmitJobArgs::default()
            };
            agent.jobs.submit(args, Principal::anonymous(), 0, 0).unwrap().job_id
        });
        while agent.jobs.head().is_some() {
            agent.slice(50_000);
        }
        ids.map(|id| agent.jobs.get(id).unwrap().counts.instructions)
    };
    let (alone, together): ([u64; 3], [u64; 3]) = (run(1), run(3));
    // A step is a layer of a pass here, however many share it.
    assert!(together.iter().sum::<u64>() < alone.iter().sum::<u64>() * 2 / 3, "{together:?} {alone:?}");
    assert!(together.iter().all(|instructions| *instructions > 0), "{together:?}");
}

/// Interrupted by a more urgent job, a job goes on from its cache; an ended one's serves others of its caller only.
#[test]
fn what_a_caller_has_computed_is_not_computed_again() {
    let artifact = artifact();
    let mut agent = Agent::loaded(&artifact);
    let (mine, other) = (Principal::from_slice(&[7; 29]), Principal::from_slice(&[8; 29]));
    let long = "Once upon a time there was a fox who had a house and a hare who had none";
    let args = |prompt: &str, priority| SubmitJobArgs {
        prompt: prompt.to_owned(),
        params: params(0.8, 8),
        priority: Some(priority),
        ..SubmitJobArgs::default()
    };
    let run = |agent: &mut Agent, prompt: &str, caller| {
        let id = agent.jobs.submit(args(prompt, Priority::Standard), caller, 0, 0).unwrap().job_id;
        while agent.jobs.get_open(id).is_ok() {
            agent.slice(9_000);
        }
        assert_eq!(agent.jobs.tokens(id), reference(&artifact, prompt, &params(0.8, 8)).0);
        agent.jobs.get(id).unwrap().counts
    };
    let first = run(&mut agent, long, mine);
    assert_eq!(first.reused_tokens, None);
    let prompt_tokens = first.prompt_tokens;
    // The same again: all but the last token of the prompt.
    let again = run(&mut agent, long, mine);
    assert_eq!(again.reused_tokens, Some(prompt_tokens - 1));
    assert!(again.instructions < first.instructions, "{again:?} {first:?}");
    // Another end of the same beginning.
    let longer = run(&mut agent, &format!("{long} and a crow"), mine);
    assert!(longer.reused_tokens.unwrap() >= prompt_tokens - 1, "{longer:?}");
    // Somebody else pays for all of it, as if there had been nothing.
    let theirs = run(&mut agent, long, other);
    assert_eq!((theirs.reused_tokens, theirs.instructions), (None, first.instructions));
    // An upgrade loses what was kept.
    let mut agent = agent.upgraded();
    assert_eq!(run(&mut agent, long, mine).reused_tokens, None);

    // Interrupted in its prompt and in its text.
    let slow =
        agent.jobs.submit(args(&format!("A crow. {long}"), Priority::Batch), mine, 0, 0).unwrap().job_id;
    let mut undisturbed = 0;
    while agent.jobs.get_open(slow).is_ok() {
        agent.slice(9_000);
        undisturbed += 1;
        if undisturbed % 2 == 0 && undisturbed < 12 {
            run(&mut agent, "Help", other);
        }
    }
    let prompt = format!("A crow. {long}");
    assert_eq!(agent.jobs.tokens(slow), reference(&artifact, &prompt, &params(0.8, 8)).0);
    let interrupted = agent.jobs.get(slow).unwrap().counts.instructions;
    let slow = agent.jobs.submit(args(&prompt, Priority::Standard), other, 0, 0).unwrap().job_id;
    while agent.jobs.get_open(slow).is_ok() {
        agent.slice(9_000);
    }
    let alone = agent.jobs.get(slow).unwrap().counts.instructions;
    // What an interruption costs is the pass that was under way: at most three layers.
    assert!(interrupted <= alone + 6 * 4_000, "{interrupted} {alone}");
}

#[test]
fn a_context_that_moves_on_ends_with_the_tokens_asked_for() {
    let artifact = artifact();
    let mut agent = Agent::loaded(&artifact);
    let shift =
        |keep| GenerationParams { when_full: Some(ContextPolicy::Shift { keep }), ..params(0.8, 150) };
    let id = submit(&mut agent, "Once upon a time", &shift(4));
    let impossible = submit(&mut agent, "Once upon a time", &shift(47));
    while agent.jobs.head().is_some() {
        agent.slice(40_000);
    }
    let expected = reference(&artifact, "Once upon a time", &shift(4));
    assert_eq!((agent.jobs.tokens(id).len(), expected.2), (150, Some(FinishReason::MaxTokens)));
    assert_eq!(agent.jobs.tokens(id), expected.0);
    let (receipt, _) = agent.jobs.receipts().get(agent.jobs.receipt_of(id).unwrap()).unwrap();
    assert_eq!(receipt.params.when_full, Some(ContextPolicy::Shift { keep: 4 }));
    let JobState::Failed { reason: JobFailure::Engine { reason } } =
        agent.jobs.get(impossible).unwrap().state
    else {
        panic!("47 of 48 can't stay")
    };
    assert_eq!(reason, "`keep`: 47 tokens can't stay in a context of 48, at most 46 can");
}
