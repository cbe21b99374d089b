//! A model of random weights in the heap, and what its tokens take: the benchmark of the chain.

#![allow(clippy::needless_pass_by_value, reason = "ic-cdk hands decoded arguments to an endpoint by value")]

use std::cell::RefCell;

use ic_cdk::api::performance_counter;
use ic_cdk::update;
use novaq_engine::kernel::Fold;
use novaq_engine::model::{Budget, CachePrecision, KvCache, LogitsFor, Model, Part, Pass, Profile};
use novaq_engine::sampler::{Sampler, SamplingParams};
use novaq_engine::synth::{Format, Synthetic, config_like};

/// Random weights give nearly equal logits. This makes the distribution about as peaked as that of a model that knows a language.
const TEMPERATURE: f32 = 0.25;

/// A model to measure.
#[derive(candid::CandidType, candid::Deserialize, Debug, Clone)]
pub struct Spec {
    /// A name that `config_like` knows.
    pub shape: String,
    /// Bits per weight of the layers.
    pub bits: f64,
    /// Bits per weight of embedding and head.
    pub embedding_bits: f64,
    /// Positions that the cache has room for.
    pub context: u32,
}

/// What a message took.
#[derive(candid::CandidType, candid::Deserialize, Debug, Clone, Default)]
pub struct Counts {
    /// Instructions by part of the forward pass, in the order of [`Part::ALL`].
    pub parts: Vec<u64>,
    /// Instructions of sampling.
    pub sampling: u64,
    /// Instructions of the whole message as the canister's counter gives them, as far as it knows of pages.
    pub all: u64,
}

struct Run {
    model: Model,
    cache: KvCache,
    spare: Option<Pass>,
    last: u32,
}

thread_local! {
    static RUN: RefCell<Option<Run>> = const { RefCell::new(None) };
}

fn meter() -> u64 {
    performance_counter(0)
}

/// Makes the model; returns its bytes on the heap.
#[update]
fn load(spec: Spec) -> Result<u64, String> {
    let config = config_like(&spec.shape).ok_or_else(|| format!("no shape is called `{}`", spec.shape))?;
    let format = |bits, fold| {
        Format::of_bits(bits, fold).ok_or_else(|| format!("{bits} bits are no number of codebooks"))
    };
    let synthetic = Synthetic {
        config,
        body: format(spec.bits, Fold::of_bits(spec.bits))?,
        embedding: format(spec.embedding_bits, Fold::of_head_bits(spec.embedding_bits))?,
        seed: 1,
        tokenizer: Vec::new(),
    };
    let model = synthetic.model().map_err(|error| error.to_string())?;
    let cache =
        model.cache(CachePrecision::Int8, spec.context as usize).map_err(|error| error.to_string())?;
    let bytes = model.heap_bytes() as u64;
    RUN.set(Some(Run { model, cache, spare: None, last: 1 }));
    Ok(bytes)
}

/// Runs `positions` more positions in passes of `chunk`; with `sample`, each pass ends with a token that the next begins with.
#[update]
fn advance(positions: u32, chunk: u32, sample: bool) -> Result<Counts, String> {
    RUN.with_borrow_mut(|run| {
        let run = run.as_mut().ok_or("there is no model")?;
        let mut sampler = Sampler::new(SamplingParams {
            temperature: TEMPERATURE,
            top_p: 0.95,
            ..SamplingParams::default()
        })
        .map_err(|error| error.to_string())?;
        let mut counts = Counts::default();
        let mut profile = Some(Profile::new(meter));
        let mut done = 0;
        while done < positions {
            let size = chunk.min(positions - done);
            let tokens: Vec<u32> = (0..size).map(|i| (run.last + 7 * i) % 32_000).collect();
            let logits_for = if sample { LogitsFor::Last } else { LogitsFor::None };
            let mut pass = run
                .model
                .begin(&mut run.cache, &tokens, logits_for, run.spare.take())
                .map_err(|error| error.to_string())?;
            if let Some(profile) = profile.take() {
                pass.set_profile(profile);
            }
            run.model.advance(&mut pass, &mut run.cache, &mut Budget::unlimited(), None);
            done += size;
            if sample {
                let start = meter();
                let so_far = vec![0; run.cache.len()];
                run.last = sampler.sample(pass.logits(), &so_far).map_err(|error| error.to_string())?;
                counts.sampling += meter() - start;
            }
            run.spare = Some(pass);
        }
        let profile = run.spare.as_ref().and_then(Pass::profile);
        counts.parts =
            Part::ALL.iter().map(|&part| profile.map_or(0, |profile| profile.count(part))).collect();
        counts.all = meter();
        Ok(counts)
    })
}
