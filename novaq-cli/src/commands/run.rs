//! `novaq run`: generates text with a compressed model.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::Args as ClapArgs;
use novaq_engine::model::{Budget, CachePrecision, KvCache, LogitsFor, Model};
use novaq_engine::text::TextEvent;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Serialize;

use crate::artifact_dir::ArtifactDir;
use crate::generation::{Input, InputArgs, Options, ended_by, reason_name};
use crate::output;
use crate::say;

/// Generate text. The same artifact, prompt, parameters and seed give the same tokens in an agent canister.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The artifact's folder.
    #[arg(value_name = "DIR")]
    artifact: PathBuf,

    #[command(flatten)]
    input: InputArgs,

    #[command(flatten)]
    options: Options,

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
    args.options.validate()?;
    let input = args.input.read()?;
    let artifact = ArtifactDir::open(&args.artifact)?;
    let spinner = output::spinner("Loading");
    let loaded = artifact.load()?;
    spinner.finish_and_clear();
    let prompt = input.encode(&loaded)?;
    if let Some(path) = &args.logits {
        return write_logits(&loaded.model, &prompt, path);
    }
    let mut text = args.options.begin(&loaded, prompt, &[])?;

    let started = Instant::now();
    if let (false, Input::Prompt(prompt)) = (args.json, &input) {
        output::print(format_args!("{prompt}"));
    }
    let mut budget = Budget::unlimited();
    let reason = loop {
        match text.advance(&loaded, &mut budget)? {
            TextEvent::Token(_, piece) if !args.json => output::print(format_args!("{piece}")),
            TextEvent::Token(..) | TextEvent::Paused => {}
            TextEvent::Finished(reason) => break reason,
        }
    };

    let seconds = started.elapsed().as_secs_f64();
    let tokens = text.generated().to_vec();
    let tokens_per_second = tokens.len() as f64 / seconds.max(f64::EPSILON);
    if args.json {
        return output::json(&Generated {
            model_id: hex::encode(artifact.model_id()),
            prompt_tokens: text.generation().request().prompt.clone(),
            tokens,
            text: text.text().to_owned(),
            finish_reason: reason_name(reason),
            seed: args.options.seed,
            seconds,
            tokens_per_second,
        });
    }
    say!("");
    eprintln!(
        "{} in {seconds:.1} s ({tokens_per_second:.0} per second), ended by {}",
        output::counted(tokens.len() as u64, "token"),
        ended_by(reason)
    );
    Ok(())
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
