//! `novaq run`: generates text with a compressed model.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::Args as ClapArgs;
use novaq_engine::artifact::LoadedModel;
use novaq_engine::generate::{Event, FinishReason, Generation, GenerationError, Request};
use novaq_engine::model::{Budget, CachePrecision, KvCache, LogitsFor, Model, ModelError};
use novaq_engine::sampler::SamplingParams;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Serialize;

use crate::artifact_dir::ArtifactDir;
use crate::output::{self, HintExt};
use crate::say;

/// Generate text. The same artifact, prompt, parameters and seed give the same tokens in an agent canister.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The artifact's folder.
    #[arg(value_name = "DIR")]
    artifact: PathBuf,

    /// The text to go on from.
    #[arg(long, value_name = "TEXT")]
    prompt: String,

    /// Tokens to generate at most.
    #[arg(long, value_name = "N", default_value_t = 200)]
    max_tokens: usize,

    /// Divides the logits; 0 always takes the most probable token.
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temperature: f32,

    /// Draw from this many most probable tokens only; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: u32,

    /// Draw from the most probable tokens that together reach this probability; 1 for all.
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f32,

    /// Seed of the draw.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Print tokens and text as JSON when all is generated.
    #[arg(long)]
    json: bool,

    /// Write the logits at each token of the prompt to a safetensors file, and generate nothing.
    #[arg(long, value_name = "FILE", hide = true)]
    logits: Option<PathBuf>,
}

#[derive(Serialize)]
struct Generated {
    model_id: String,
    prompt_tokens: Vec<u32>,
    tokens: Vec<u32>,
    text: String,
    finish_reason: &'static str,
    seed: u64,
    seconds: f64,
    tokens_per_second: f64,
}

/// Runs the command.
///
/// # Errors
/// If the artifact is damaged, or the prompt or a parameter does not fit the model.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let sampling = SamplingParams {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
        ..SamplingParams::default()
    };
    sampling.validate()?;
    let artifact = ArtifactDir::open(&args.artifact)?;
    let spinner = output::spinner("Loading");
    let LoadedModel { model, tokenizer, .. } = artifact.load()?;
    spinner.finish_and_clear();
    let prompt = tokenizer.encode_prompt(&args.prompt, model.config().bos_token_id)?;
    if let Some(path) = &args.logits {
        return write_logits(&model, &prompt, path);
    }
    let request = Request { prompt, max_tokens: args.max_tokens, sampling, stop_tokens: Vec::new() };
    let mut generation = match Generation::new(&model, request).context("the text cannot be generated") {
        Err(error)
            if matches!(error.downcast_ref(), Some(GenerationError::Model(ModelError::Context { .. }))) =>
        {
            Err(error).hint(|| "a shorter prompt leaves room for an answer".to_owned())?
        }
        generation => generation?,
    };

    let started = Instant::now();
    let mut stream = tokenizer.decode_stream(true);
    let mut text = String::new();
    let mut show = |piece: &str| {
        if !args.json {
            output::print(format_args!("{piece}"));
        }
        text.push_str(piece);
    };
    if !args.json {
        output::print(format_args!("{}", args.prompt));
    }
    let mut budget = Budget::unlimited();
    let reason = loop {
        match generation.advance(&model, &mut budget)? {
            Event::Token(token) => show(&stream.push(&tokenizer, token)?),
            Event::Paused => {}
            Event::Finished(reason) => break reason,
        }
    };
    show(&stream.finish(&tokenizer)?);

    let seconds = started.elapsed().as_secs_f64();
    let tokens = generation.generated().to_vec();
    let tokens_per_second = tokens.len() as f64 / seconds.max(f64::EPSILON);
    if args.json {
        return output::json(&Generated {
            model_id: hex::encode(artifact.model_id()),
            prompt_tokens: generation.request().prompt.clone(),
            tokens,
            text,
            finish_reason: reason_name(reason),
            seed: args.seed,
            seconds,
            tokens_per_second,
        });
    }
    say!("");
    eprintln!(
        "{} in {seconds:.1} s ({tokens_per_second:.0} per second), ended by {}",
        output::counted(tokens.len() as u64, "token"),
        match reason {
            FinishReason::Stop => "the model",
            FinishReason::Length => "--max-tokens",
            FinishReason::Context => "the context's length",
            FinishReason::StopString => "a stop string",
        }
    );
    Ok(())
}

/// A reason as JSON has it.
fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Context => "context",
        FinishReason::StopString => "stop_string",
    }
}

/// Writes `tokens` (I32 `[n]`) and the `logits` after each of them (F32 `[n, vocabulary]`), computed with the int8
/// cache that generation uses.
fn write_logits(model: &Model, tokens: &[u32], path: &Path) -> anyhow::Result<()> {
    let mut cache = KvCache::new(model.config(), CachePrecision::Int8, tokens.len())?;
    let mut pass = model.begin(&mut cache, tokens, LogitsFor::All, None)?;
    model.advance(&mut pass, &mut cache, &mut Budget::unlimited(), None);
    let logits: Vec<u8> = pass.logits().iter().flat_map(|logit| logit.to_le_bytes()).collect();
    let ids: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    let shape = vec![tokens.len(), model.config().vocab_size];
    let tensors = [
        ("tokens", TensorView::new(Dtype::I32, vec![tokens.len()], &ids)?),
        ("logits", TensorView::new(Dtype::F32, shape, &logits)?),
    ];
    safetensors::serialize_to_file(tensors, None, path)
        .with_context(|| format!("`{}` cannot be written", path.display()))
}
