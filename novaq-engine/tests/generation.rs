//! Generation: the same tokens however the work is cut up, on every kernel, and after any interruption.

mod common;

use common::{config, model};
use novaq_engine::generate::{Event, FinishReason, Generation, GenerationError, Request};
use novaq_engine::kernel::Backend;
use novaq_engine::model::{Budget, CachePrecision, Config, Model, ModelError};
use novaq_engine::sampler::SamplingParams;
use proptest::prelude::*;

fn request(prompt: &[u32], max_tokens: usize, seed: u64) -> Request {
    let sampling = SamplingParams { temperature: 1.0, top_k: 40, top_p: 0.95, seed };
    Request { prompt: prompt.to_vec(), max_tokens, sampling, stop_tokens: Vec::new() }
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn cuts_kernels_and_interruptions_change_nothing(
        seed: u64,
        prompt in prop::collection::vec(0u32..256, 1..50),
        max_tokens in 1usize..30,
        interruptions in prop::collection::vec(0u32..60, 40),
    ) {
        let reference = model(config(), seed).model.with_backend(Backend::Scalar);
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

#[test]
fn logits_do_not_depend_on_how_a_text_is_cut() {
    let model = model(config(), 5).model;
    let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 256).collect();
    for precision in [CachePrecision::Int8, CachePrecision::F32] {
        let whole = model.forward(&tokens, precision, 40, None).unwrap();
        for chunk in [1, 3, 16] {
            assert_eq!(model.forward(&tokens, precision, chunk, None).unwrap(), whole, "chunks of {chunk}");
        }
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

#[test]
fn requests_that_make_no_sense_are_refused() {
    let model = model(config(), 5).model;
    let refused = |request| Generation::new(&model, request).map(|_| ()).unwrap_err();
    assert_eq!(refused(request(&[], 1, 0)), GenerationError::EmptyPrompt);
    assert_eq!(refused(request(&[1], 0, 0)), GenerationError::NoTokens);
    let token = GenerationError::Model(ModelError::Token { token: 257, vocab_size: 257 });
    assert_eq!(refused(request(&[257], 1, 0)), token);
    assert!(matches!(refused(request(&[1; 96], 1, 0)), GenerationError::Model(ModelError::Context { .. })));
    let hot = SamplingParams { temperature: f32::NAN, ..request(&[1], 1, 0).sampling };
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
