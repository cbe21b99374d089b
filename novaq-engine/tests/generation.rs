//! Generation: the same tokens however the work is cut up, on every kernel, and after any interruption.

mod common;

use common::{artifact, config, configs, model};
use novaq_engine::artifact::{Loader, Shards};
use novaq_engine::codec::{DenseMatrix, Matrix};
use novaq_engine::generate::{
    Batch, ContextPolicy, Event, FinishReason, Generation, GenerationError, Request,
};
use novaq_engine::kernel::{Backend, Fold};
use novaq_engine::model::{
    Budget, CachePrecision, Config, KvCache, LayerType, LogitsFor, Model, ModelError, Pass, Progress,
    TensorSource, Variant,
};
use novaq_engine::sampler::{Sampler, SamplingParams};
use novaq_engine::synth::{Format, Synthetic};
use novaq_engine::text::{TextError, TextEvent, TextGeneration};
use proptest::prelude::*;

fn request(prompt: &[u32], max_tokens: usize, seed: u64) -> Request {
    let sampling =
        SamplingParams { temperature: 1.0, top_k: 40, top_p: 0.95, seed, ..SamplingParams::default() };
    Request {
        prompt: prompt.to_vec(),
        max_tokens,
        sampling,
        stop_tokens: Vec::new(),
        when_full: ContextPolicy::Stop,
        constraint: None,
    }
}

/// Runs to the end with budgets of `limit`, dropping and resuming the generation when `interrupt` says so.
fn run(
    model: &Model,
    request: &Request,
    limit: u64,
    mut interrupt: impl FnMut() -> bool,
) -> (Vec<u32>, FinishReason) {
    let mut generation = Generation::new(model, request.clone()).unwrap();
    let mut tokens = Vec::new();
    loop {
        match generation.advance(model, &mut Budget::new(limit)).unwrap() {
            Event::Token(token) => tokens.push(token),
            Event::Paused => {}
            Event::Finished(reason) => {
                assert_eq!(generation.generated(), tokens);
                return (tokens, reason);
            }
        }
        if interrupt() {
            generation = Generation::resume(model, request.clone(), &tokens).unwrap();
        }
    }
}

/// Where this fails, the engine's numbers have changed: then its version changes too, since receipts name it.
#[test]
fn the_version_names_these_numbers() {
    let config = config();
    let body = Format::Aq { codebooks: 4, dimension: 8, fold: Fold::of_bits(2.0) };
    let embedding = Format::Aq { codebooks: 6, dimension: 8, fold: Fold::ONE };
    let model = Synthetic { config, body, embedding, seed: 5, tokenizer: Vec::new() }.model().unwrap();
    let tokens: Vec<u32> = (0..20).map(|i| i * 7 % 200).collect();
    let logits = model.forward(&tokens, CachePrecision::Int8, 16, None).unwrap();
    // FNV-1a over the words.
    let hash = logits.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, x| {
        (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3)
    });
    assert_eq!((novaq_engine::VERSION, hash), ("0.2.0", 2_632_692_280_392_911_392));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn cuts_kernels_and_interruptions_change_nothing(
        config in configs(),
        seed: u64,
        prompt in prop::collection::vec(0u32..256, 1..50),
        max_tokens in 1usize..30,
        interruptions in prop::collection::vec(0u32..60, 40),
    ) {
        let reference = model(config, seed).model.with_backend(Backend::Scalar);
        let request = request(&prompt, max_tokens, seed);
        let expected = run(&reference, &request, u64::MAX, || false);
        for backend in Backend::available() {
            let model = reference.clone().with_backend(backend);
            prop_assert_eq!(&run(&model, &request, 1, || false), &expected, "{:?}, layer by layer", backend);
            let mut interruptions = interruptions.iter().map(|&n| n == 0);
            let interrupted = run(&model, &request, 1, || interruptions.next() == Some(true));
            prop_assert_eq!(&interrupted, &expected, "{:?}, interrupted", backend);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn logits_do_not_depend_on_how_a_text_is_cut(config in configs(), seed: u64, chunk in 1usize..20) {
        let reference = model(config, seed).model.with_backend(Backend::Scalar);
        let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 256).collect();
        for precision in [CachePrecision::Int8, CachePrecision::F32] {
            let whole = reference.forward(&tokens, precision, 40, None).unwrap();
            prop_assert!(whole.iter().all(|logit| logit.is_finite()));
            for backend in Backend::available() {
                let model = reference.clone().with_backend(backend);
                let logits = model.forward(&tokens, precision, chunk, None).unwrap();
                prop_assert!(logits == whole, "{backend:?}, chunks of {chunk}");
            }
        }
    }

    /// With one layer, what a position reads ends at the window: two more positions count with two layers.
    #[test]
    fn a_token_counts_as_far_as_the_windows_reach(
        config in configs(),
        seed: u64,
        window in 1usize..12,
        layers in 1usize..3,
    ) {
        let variant = Variant { layer_types: Vec::new(), sliding_window: Some(window), ..config.variant };
        let model = model(Config { num_hidden_layers: layers, variant, ..config }, seed).model;
        let reach = layers * (window - 1);
        let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 256).collect();
        let last = |tokens: &[u32]| {
            let logits = model.forward(tokens, CachePrecision::F32, 16, None).unwrap();
            logits[logits.len() - model.config().vocab_size..].to_vec()
        };
        let expected = last(&tokens);
        for (distance, changes) in [(reach + 1, false), (reach, true)] {
            let mut other = tokens.clone();
            let position = tokens.len() - 1 - distance;
            other[position] = (other[position] + 100) % 256;
            prop_assert_eq!(last(&other) != expected, changes, "{} positions before", distance);
        }
    }
}

#[test]
fn a_window_costs_no_more_than_it_reads() {
    let sliding = Variant { sliding_window: Some(10), ..Variant::default() };
    let layer_types =
        vec![LayerType::SlidingAttention, LayerType::FullAttention, LayerType::SlidingAttention];
    let mixed = Config { variant: sliding.clone().with_windows(10, layer_types), ..config() };
    let all = Config { variant: sliding, ..config() };
    assert_eq!(config().attention_work(64), 3 * config().layer_attention_work(0, 64));
    assert_eq!(all.attention_work(64), config().attention_work(10));
    assert_eq!(all.attention_work(4), config().attention_work(4));
    let work = config().layer_attention_work(0, 64) + 2 * config().layer_attention_work(0, 10);
    assert_eq!(mixed.attention_work(64), work);
}

/// Runs `pass` to its end.
fn complete(model: &Model, mut pass: Pass, caches: &mut [KvCache]) -> Pass {
    let progress = model.advance_batch(&mut pass, caches, &mut Budget::unlimited(), None);
    assert_eq!(progress, Progress::Complete);
    pass
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn sequences_of_a_batch_do_not_see_each_other(config in configs()) {
        let model = model(config, 5).model;
        let texts: Vec<Vec<u32>> =
            (1..=5u32).map(|text| (0..12).map(|i| (i * 7 * text + text) % 256).collect()).collect();
        for precision in [CachePrecision::Int8, CachePrecision::F32] {
            let expected: Vec<f32> =
                texts.iter().flat_map(|tokens| model.forward(tokens, precision, 12, None).unwrap()).collect();
            // Eight positions of each sequence, then one by one.
            let mut caches = vec![model.cache(precision, 12).unwrap(); texts.len()];
            let mut found = vec![Vec::new(); texts.len()];
            for (at, end) in [(0, 8), (8, 9), (9, 10), (10, 11), (11, 12)] {
                let tokens: Vec<u32> = texts.iter().flat_map(|text| &text[at..end]).copied().collect();
                let pass = model.begin_batch(&mut caches, &tokens, LogitsFor::All, None).unwrap();
                let pass = complete(&model, pass, &mut caches);
                for (found, logits) in found.iter_mut().zip(pass.logits().chunks_exact((end - at) * 257)) {
                    found.extend_from_slice(logits);
                }
            }
            assert!(found.concat() == expected, "{precision:?}");

            let tokens = texts.concat();
            let mut caches = vec![model.cache(precision, 12).unwrap(); texts.len()];
            let pass = model.begin_batch(&mut caches, &tokens, LogitsFor::Last, None).unwrap();
            let last = complete(&model, pass, &mut caches).logits().to_vec();
            let ends: Vec<f32> =
                expected.chunks_exact(12 * 257).flat_map(|text| &text[11 * 257..]).copied().collect();
            assert!(last == ends, "{precision:?}");
        }
    }
}

#[test]
fn sequences_that_are_not_alike_make_no_batch() {
    let model = model(config(), 5).model;
    let refused = |caches: &mut [KvCache], tokens: &[u32]| {
        model.begin_batch(caches, tokens, LogitsFor::None, None).map(|_| ()).unwrap_err()
    };
    let mut caches = vec![model.cache(CachePrecision::Int8, 4).unwrap(); 2];
    assert!(
        matches!(refused(&mut caches, &[1, 2, 3]), ModelError::Context { .. }),
        "no whole number of each"
    );
    assert!(matches!(refused(&mut [], &[]), ModelError::Context { .. }), "no sequence");
    let pass = model.begin(&mut caches[0], &[1], LogitsFor::None, None).unwrap();
    complete(&model, pass, &mut caches[..1]);
    assert!(matches!(refused(&mut caches, &[1, 2]), ModelError::Context { .. }), "caches of two lengths");
}

/// Tensors of random weights, as often as they are asked for.
struct Noise(Config);

impl TensorSource for Noise {
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError> {
        let c = &self.0;
        let [rows, columns] = match name.rsplit('.').nth(1) {
            Some("q_proj") => [c.query_width(), c.hidden_size],
            Some("k_proj" | "v_proj") => [c.key_value_width(), c.hidden_size],
            Some("o_proj") => [c.hidden_size, c.query_width()],
            Some("gate_proj" | "up_proj") => [c.intermediate_size, c.hidden_size],
            Some("down_proj") => [c.hidden_size, c.intermediate_size],
            _ => [c.vocab_size, c.hidden_size],
        };
        let mut state = name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
        let values = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 0.2
        });
        Ok(DenseMatrix::new(rows, columns, values.take(rows * columns).collect()).ok().map(Matrix::Dense))
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let vectors = self.0.layer_vectors();
        let length = vectors.iter().find(|(short, _)| name.ends_with(short)).map(|(_, length)| *length);
        Ok(Some(vec![1.0; length.unwrap_or(self.0.hidden_size)]))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn parts_of_a_model_give_what_the_whole_does(config in configs()) {
        let layers = config.num_hidden_layers;
        let load = |range| Model::load_part(config.clone(), range, &mut Noise(config.clone())).unwrap();
        let tokens: Vec<u32> = (0..20).map(|i| i * 11 % 256).collect();
        let whole = load(0..layers).forward(&tokens, CachePrecision::F32, 20, None).unwrap();

        let vocabulary = load(0..0);
        let mut nothing = vocabulary.cache(CachePrecision::F32, 20).unwrap();
        let pass = vocabulary.begin(&mut nothing, &tokens, LogitsFor::None, None).unwrap();
        let mut hidden = pass.hidden().to_vec();
        for part in [0..1, 1..layers] {
            let part = load(part);
            let mut cache = [part.cache(CachePrecision::F32, 20).unwrap()];
            let pass = part.begin_with_hidden(&mut cache[0], &hidden, LogitsFor::None, None).unwrap();
            hidden = complete(&part, pass, &mut cache).hidden().to_vec();
        }
        let pass = vocabulary.begin_with_hidden(&mut nothing, &hidden, LogitsFor::All, None).unwrap();
        assert!(complete(&vocabulary, pass, std::slice::from_mut(&mut nothing)).logits() == whole);

        let none = Model::load_part(config.clone(), 0..layers + 1, &mut Noise(config.clone()));
        assert!(matches!(none, Err(ModelError::Config { field: "num_hidden_layers", .. })));
    }
}

#[test]
fn a_generation_ends_for_a_reason() {
    let model = model(config(), 5).model;
    let all = |request: &Request| run(&model, request, u64::MAX, || false);
    let (tokens, reason) = all(&request(&[1, 2, 3], 7, 0));
    assert_eq!((tokens.len(), reason), (7, FinishReason::Length));
    let stopping = Request { stop_tokens: vec![tokens[2]], ..request(&[1, 2, 3], 7, 0) };
    let stop = tokens.iter().position(|t| *t == tokens[2]).unwrap();
    assert_eq!(all(&stopping), (tokens[..=stop].to_vec(), FinishReason::Stop));
    let (tokens, reason) = all(&request(&[9; 90], 1000, 0));
    assert!(reason == FinishReason::Stop || (tokens.len(), reason) == (6, FinishReason::Context));
}

/// Everything that looks at the tokens so far or at the text: a text that is taken up again ends alike.
#[test]
fn a_text_resumes_with_every_parameter() {
    let loaded = model(config(), 5);
    let sampling = SamplingParams {
        min_p: 0.02,
        repetition_penalty: 1.4,
        repetition_window: 6,
        logit_bias: vec![(65, 1.5), (66, -3.0)],
        ..request(&[], 0, 3).sampling
    };
    let request = Request { sampling, ..request(&b"a tale of".map(u32::from), 40, 3) };
    let whole = |stop: &[String]| {
        let mut text = TextGeneration::new(&loaded, request.clone(), stop).unwrap();
        let mut pieces = String::new();
        while text.finished().is_none() {
            match text.advance(&loaded, &mut Budget::new(3)).unwrap() {
                TextEvent::Token(_, piece) => pieces.push_str(&piece),
                TextEvent::Paused => {}
                TextEvent::Finished(reason) => panic!("{reason:?} was known before"),
            }
        }
        let reason = text.finished().unwrap();
        assert_eq!(text.advance(&loaded, &mut Budget::new(0)), Ok(TextEvent::Finished(reason)));
        assert_eq!(text.text(), pieces);
        (text.generated().to_vec(), pieces, reason)
    };
    let (tokens, text, reason) = whole(&[]);
    assert_eq!(text, loaded.tokenizer.decode(&tokens, true).unwrap());
    assert_ne!(reason, FinishReason::StopString);
    let letters: Vec<char> = text.chars().collect();
    for at in 0..letters.len().saturating_sub(3) {
        let stop = vec![letters[at..at + 3].iter().collect::<String>(), "never said".to_owned()];
        let expected = whole(&stop);
        assert_eq!(expected.2, FinishReason::StopString);
        assert_eq!(expected.1, text[..text.find(&stop[0]).unwrap()]);
        assert_eq!(expected.0, tokens[..expected.0.len()]);
        for taken_up in 0..=expected.0.len() {
            let begun = &expected.0[..taken_up];
            let mut resumed = TextGeneration::resume(&loaded, request.clone(), &stop, begun).unwrap();
            while resumed.finished().is_none() {
                resumed.advance(&loaded, &mut Budget::unlimited()).unwrap();
            }
            let ended =
                (resumed.generated().to_vec(), resumed.text().to_owned(), resumed.finished().unwrap());
            assert_eq!(ended, expected);
        }
    }
    let refused = TextGeneration::new(&loaded, request, &[String::new()]).map(|_| ()).unwrap_err();
    assert!(matches!(refused, TextError::StopStrings { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A text that begins like the one before does not compute the beginning again, and ends alike.
    #[test]
    fn what_texts_have_in_common_is_computed_once(
        config in configs(),
        common in prop::collection::vec(0..257u32, 1..30),
        [first, second] in prop::array::uniform2(prop::collection::vec(0..257u32, 0..10)),
        steps in prop::collection::vec(1..4u64, 0..60),
    ) {
        let model = model(config, 3).model;
        let request = |rest: &[u32], max_tokens| request(&[&common, rest].concat(), max_tokens, 9);
        let mut previous = Generation::new(&model, request(&first, 4)).unwrap();
        for limit in steps {
            previous.advance(&model, &mut Budget::new(limit)).unwrap();
        }
        let held = previous.cached();
        let expected = run(&model, &request(&second, 12), u64::MAX, || false);
        let mut generation = Generation::new(&model, request(&second, 12)).unwrap();
        let copied = generation.reuse(&previous).unwrap();
        prop_assert_eq!((copied, previous.cached()), (generation.cached(), held));
        prop_assert!(generation.cached() >= held.min(common.len()).min(common.len() + second.len() - 1));
        let reason = loop {
            if let Event::Finished(reason) = generation.advance(&model, &mut Budget::unlimited()).unwrap() {
                break reason;
            }
        };
        prop_assert_eq!((generation.generated().to_vec(), reason), expected);
    }
}

/// Runs `requests` in one batch, in budgets of `limits`, to their ends. `leaves` says when one of them, by turns, is taken out and
/// taken up again from its tokens.
fn run_together(
    model: &Model,
    requests: &[Request],
    mut limits: impl FnMut() -> u64,
    mut leaves: impl FnMut() -> bool,
) -> Vec<(Vec<u32>, FinishReason)> {
    let mut generations: Vec<Generation> =
        requests.iter().map(|request| Generation::new(model, request.clone()).unwrap()).collect();
    let mut batch = Batch::default();
    let mut turn = 0;
    while generations.iter().any(|generation| generation.finished().is_none()) {
        let mut members: Vec<&mut Generation> = generations.iter_mut().collect();
        let before: Vec<usize> = members.iter().map(|member| member.generated().len()).collect();
        if let Some(passed) = batch.advance(model, &mut members, &mut Budget::new(limits())) {
            assert!(passed.iter().map(|passed| passed.positions).sum::<usize>() <= 16.max(requests.len()));
            for ((passed, member), before) in passed.into_iter().zip(&members).zip(before) {
                let new = member.generated()[before..].first().copied();
                assert_eq!(passed.token, Ok(new));
            }
        }
        if leaves() {
            batch.abandon();
            turn = (turn + 1) % requests.len();
            let tokens = generations[turn].generated().to_vec();
            generations[turn] = Generation::resume(model, requests[turn].clone(), &tokens).unwrap();
        }
    }
    let ends = generations.iter().map(|it| (it.generated().to_vec(), it.finished().unwrap()));
    ends.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Generations that share passes have the tokens that they have alone, whoever is beside them.
    #[test]
    fn a_batch_changes_no_token(
        config in configs(),
        prompts in prop::collection::vec((prop::collection::vec(0u32..256, 1..40), 1usize..24, any::<u64>()), 1..19),
        limits in prop::collection::vec(prop_oneof![Just(1u64), Just(u64::MAX), 1..2_000_000u64], 1..8),
        leaves in prop::collection::vec(prop::bool::weighted(0.02), 400),
    ) {
        let model = model(config, 4).model;
        let requests: Vec<Request> =
            prompts.iter().map(|(prompt, most, seed)| request(prompt, *most, *seed)).collect();
        let expected: Vec<_> = requests.iter().map(|request| run(&model, request, u64::MAX, || false)).collect();
        for backend in Backend::available() {
            let model = model.clone().with_backend(backend);
            let (mut limits, mut leaves) = (limits.iter().cycle(), leaves.iter());
            let together = run_together(
                &model,
                &requests,
                || *limits.next().unwrap(),
                || leaves.next() == Some(&true),
            );
            prop_assert_eq!(&together, &expected, "{:?}", backend);
        }
    }

    /// A context that moves on is the one that its definition gives, and cuts, interruptions and company change nothing.
    #[test]
    fn a_shifted_context_follows_from_the_tokens(
        config in configs(),
        prompt in prop::collection::vec(0u32..256, 1..30),
        keep in 0usize..30,
        seed: u64,
        interruptions in prop::collection::vec(0u32..40, 200),
    ) {
        let context = 32;
        let config = Config { max_position_embeddings: context, eos_token_ids: vec![], ..config };
        let model = model(config, 4).model;
        let when_full = ContextPolicy::Shift { keep };
        let request = Request { when_full, ..request(&prompt, 90, seed) };
        let expected = run(&model, &request, u64::MAX, || false);
        prop_assert_eq!((expected.0.len(), expected.1), (90, FinishReason::Length));
        let mut interrupted = interruptions.iter().map(|&n| n == 0);
        prop_assert_eq!(&run(&model, &request, 1, || interrupted.next() == Some(true)), &expected);
        let others = [request.clone(), common_request(&prompt), request.clone()];
        let together = run_together(&model, &others, || u64::MAX, || false);
        prop_assert_eq!((&together[0], &together[2]), (&expected, &expected));

        // The definition: a list of tokens of which the older half behind those kept goes when it is full.
        let mut window = prompt.clone();
        let mut sampler = Sampler::new(request.sampling.clone()).unwrap();
        let mut tokens = prompt.clone();
        for token in &expected.0 {
            if window.len() == context {
                window.drain(keep..keep + (context - keep).div_ceil(2));
            }
            let logits = model.forward(&window, CachePrecision::Int8, 7, None).unwrap();
            let computed = sampler.sample(&logits[logits.len() - 257..], &tokens).unwrap();
            prop_assert_eq!(computed, *token);
            window.push(computed);
            tokens.push(computed);
        }
    }
}

/// Another text beside those of a test.
fn common_request(prompt: &[u32]) -> Request {
    request(&prompt[..1], 20, 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Layers that come when their turn is and leave at any time change no token.
    #[test]
    fn layers_that_come_and_go_change_nothing(
        config in configs(),
        prompt in prop::collection::vec(0u32..256, 1..40),
        stays in prop::collection::vec(any::<bool>(), 1..40),
    ) {
        let config = Config { num_hidden_layers: 4, variant: Variant { layer_types: vec![], ..config.variant }, ..config };
        let (manifest, shards) = artifact(config, 6);
        let (manifest, shards) = (std::sync::Arc::new(manifest), Shards(shards));
        let whole = Loader::load(std::sync::Arc::clone(&manifest), &shards).unwrap();
        let request = request(&prompt, 12, 8);
        let expected = run(&whole.model, &request, u64::MAX, || false);

        let mut loader = Loader::without_layers(manifest);
        while loader.step(&shards).unwrap().is_some() {}
        let mut loaded = loader.finish(&shards).unwrap();
        let outside = loaded.model.heap_bytes();
        let mut generation = Generation::new(&loaded.model, request).unwrap();
        let mut batch = Batch::default();
        let mut stays = stays.iter().cycle();
        while generation.finished().is_none() {
            let layer = batch.next_layer();
            if layer < 4 && !loaded.model.has_layer(layer) {
                let waits = batch.advance(&loaded.model, &mut [&mut generation], &mut Budget::unlimited());
                prop_assert!(waits.is_none());
                loaded.model.put_layer(layer, loader.layer(layer, &shards).unwrap());
            }
            batch.advance(&loaded.model, &mut [&mut generation], &mut Budget::new(1));
            if !stays.next().unwrap() {
                loaded.model.take_layer(layer);
            }
        }
        prop_assert_eq!((generation.generated().to_vec(), generation.finished().unwrap()), expected);
        for layer in 0..4 {
            loaded.model.take_layer(layer);
        }
        prop_assert_eq!(loaded.model.heap_bytes(), outside);
        prop_assert!(loader.layer(4, &shards).is_err());
    }
}

/// The engine starts no thread; those of its callers may share a model.
#[test]
fn any_number_of_threads_gives_the_same_tokens() {
    let model = &model(config(), 5).model;
    let requests: Vec<Request> = (0..6u32).map(|i| request(&[i, 7, 3 * i], 12, u64::from(i))).collect();
    let expected: Vec<_> = requests.iter().map(|request| run(model, request, u64::MAX, || false)).collect();
    for threads in [1, 2, 3, 6] {
        let results: Vec<_> = std::thread::scope(|scope| {
            let share = |requests| {
                move || -> Vec<_> {
                    let requests: &[Request] = requests;
                    requests.iter().map(|request| run(model, request, 1, || false)).collect()
                }
            };
            let running: Vec<_> =
                requests.chunks(6 / threads).map(|requests| scope.spawn(share(requests))).collect();
            running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(results, expected, "{threads} threads");
    }
}

/// Memory follows the context that is used, whatever is allowed.
#[test]
fn a_cache_takes_memory_for_what_is_used() {
    let config = Config { max_position_embeddings: 8_192, ..config() };
    let model = model(config.clone(), 5).model;
    let per_position = KvCache::bytes_per_position(&config, CachePrecision::Int8);
    let mut generation = Generation::new(&model, request(&[1; 40], 8_000, 0)).unwrap();
    assert_eq!(generation.cache_bytes(), 0);
    for tokens in 1..=200 {
        generation.advance(&model, &mut Budget::unlimited()).unwrap();
        let used = generation.cached();
        assert_eq!(used, 39 + tokens);
        let room = used.next_multiple_of(64).max(64);
        assert!(generation.cache_bytes() <= 2 * room * per_position, "{used}: {}", generation.cache_bytes());
    }
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let model = model(config(), 5).model;
    let refused = |request| Generation::new(&model, request).map(|_| ()).unwrap_err();
    assert_eq!(refused(request(&[], 1, 0)), GenerationError::EmptyPrompt);
    assert_eq!(refused(request(&[1], 0, 0)), GenerationError::NoTokens);
    let token = GenerationError::Model(ModelError::Token { token: 257, vocab_size: 257 });
    assert_eq!(refused(request(&[257], 1, 0)), token);
    assert!(matches!(refused(request(&[1; 96], 1, 0)), GenerationError::Model(ModelError::Context { .. })));
    let shift = |keep| Request { when_full: ContextPolicy::Shift { keep }, ..request(&[1], 1, 0) };
    Generation::new(&model, shift(94)).unwrap();
    for keep in [95, 96, usize::MAX] {
        assert_eq!(refused(shift(keep)), GenerationError::Keep { keep, context: 96 });
    }
    let hot = SamplingParams { temperature: f32::NAN, ..request(&[1], 1, 0).sampling };
    let biased = SamplingParams { logit_bias: vec![(257, 1.0)], ..SamplingParams::default() };
    let refusal = refused(Request { sampling: biased, ..request(&[1], 1, 0) });
    assert_eq!(refusal.to_string(), "sampling `logit_bias`: there is no token 257, the vocabulary has 257");
    assert!(matches!(
        refused(Request { sampling: hot, ..request(&[1], 1, 0) }),
        GenerationError::Sampling(_)
    ));
}

#[test]
fn a_budget_is_kept_to_the_layer() {
    let model = model(Config { num_hidden_layers: 6, ..config() }, 5).model;
    let mut generation = Generation::new(&model, request(&[1; 16], 4, 0)).unwrap();
    let mut budget = Budget::new(0);
    assert_eq!(generation.advance(&model, &mut budget).unwrap(), Event::Paused);
    assert_eq!(budget.spent, 0, "nothing may be done on an empty budget");
    let mut one = Budget::new(1);
    assert_eq!(generation.advance(&model, &mut one).unwrap(), Event::Paused);
    let mut rest = Budget::unlimited();
    assert!(matches!(generation.advance(&model, &mut rest).unwrap(), Event::Token(_)));
    assert!(one.spent > 0 && one.spent * 4 < rest.spent, "a layer cost {one:?}, the rest {rest:?}");
}
