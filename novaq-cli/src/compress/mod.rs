//! Compression of a checkpoint to an artifact.
//!
//! The embedding comes first, then layer after layer, each on the activations of the model quantized so far: what
//! one layer gets wrong, the next ones are fitted to. Between layers only the residual streams of the calibration text
//! are kept, so memory does not grow with the depth of the model.

pub mod baseline;
mod cost;
pub mod encoder;
mod forecast;
mod job;
mod matrices;
mod output;
pub mod pattern;
pub mod plan;
mod quantization;
mod refinement;
pub mod report;
pub mod sensitivity;
mod size;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use novaq_engine::artifact::{Similarity, Verification};
use novaq_engine::tokenizer::Tokenizer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::evaluate::{compare, text};
use crate::hub::Origin;
use crate::layered::Layered;
use crate::output::HintExt;
use crate::refine::{DEFAULT_STEPS, Refine};
use crate::resources::Usage;
pub use cost::Cost;
use forecast::Planning;
pub use forecast::{Forecast, default_calibration_tokens, forecast};
pub(crate) use output::write_whole;
pub use quantization::HELD_OUT;
pub use size::Kind;

use job::{Job, Settings};
use novaq_engine::kernel::Fold;
use output::Written;
use pattern::Override;
use plan::{Folding, MatrixCodec};
use quantization::Run;
use report::Report;

/// What to compress, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the artifact; must not exist yet.
    pub output: PathBuf,
    /// What the codecs may take.
    pub budget: Budget,
    /// Codec of the embedding, and of the head if it is not tied; by default 4 bits, or what a budget for the whole
    /// artifact leaves.
    pub embedding: Option<MatrixCodec>,
    /// Table entries that products average in 8 bits; by default one, of large models up to eight.
    pub fold: Option<Fold>,
    /// Codecs of single matrices.
    pub overrides: Vec<Override>,
    /// Calibration text; without one the model writes its own.
    pub calibration: Option<PathBuf>,
    /// Tokens of calibration text; by default what fits the model's size.
    pub calibration_tokens: Option<usize>,
    /// How far the teacher refines.
    pub refine: Refine,
    /// Steps of the refinement of the whole model.
    pub refine_steps: usize,
    /// Seed of all random choices.
    pub seed: u64,
    /// Bytes that weights and caches may take while text is sampled; the text does not depend on them.
    pub memory: u64,
    /// Name of the model; by default that of its folder.
    pub name: Option<String>,
    /// Semantic version of the artifact.
    pub version: String,
    /// Licence of the weights; by default what the model card says.
    pub license: Option<String>,
    /// Where the checkpoint comes from, if it was downloaded.
    pub origin: Option<Origin>,
    /// File in which sampled text is kept for other compressions of the same model, with the same seed and tokens.
    pub text: Option<PathBuf>,
    /// File of the report; by default beside the artifact, see [`report::beside`].
    pub report: Option<PathBuf>,
    /// Throw away the work of an earlier call that was stopped.
    pub restart: bool,
    /// Stop after so many layers, as if interrupted.
    pub stop_after: Option<usize>,
}

impl Options {
    /// An artifact in `output` within `budget`, everything else by default.
    pub fn new(output: PathBuf, budget: Budget) -> Self {
        Self {
            output,
            budget,
            embedding: None,
            fold: None,
            overrides: Vec::new(),
            calibration: None,
            calibration_tokens: None,
            refine: Refine::None,
            refine_steps: DEFAULT_STEPS,
            seed: 0,
            memory: DEFAULT_MEMORY,
            name: None,
            version: "1.0.0".to_owned(),
            license: None,
            origin: None,
            text: None,
            report: None,
            restart: false,
            stop_after: None,
        }
    }
}

/// What the codecs of a model may take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Most bits of codes per weight of the layers, on average.
    Bits(f64),
    /// One codec for all layers.
    Codec(MatrixCodec),
    /// Most bytes of all files of the artifact.
    Bytes(u64),
    /// How many times smaller than the weights in 32-bit floats all files of the artifact are at least.
    Ratio(f64),
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bits(bits) => write!(f, "{bits} bits per weight"),
            Self::Codec(codec) => write!(f, "codec {codec}"),
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Ratio(ratio) => write!(f, "{ratio} times smaller than 32-bit floats"),
        }
    }
}

/// What a compression came to.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Id of the model: SHA-256 of the manifest.
    pub id: String,
    /// Name of the model.
    pub name: String,
    /// Folder of the artifact.
    pub output: PathBuf,
    /// Bytes of all files.
    pub bytes: u64,
    /// Number of shards.
    pub shards: usize,
    /// Weights of the model.
    pub parameters: u64,
    /// How many times smaller than the weights in 32-bit floats.
    pub ratio_fp32: f64,
    /// Bits of the codes alone per weight of the layers.
    pub bits_per_weight_codes: f64,
    /// All bits per weight of the layers.
    pub bits_per_weight_body: f64,
    /// All bits per weight of the embedding and the head.
    pub bits_per_weight_embedding: f64,
    /// Bits of all files together per weight.
    pub bits_per_weight_file: f64,
    /// Quality on held-out text that the original wrote.
    pub verification: Option<Verification>,
    /// Quality of an encoder on held-out texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity: Option<Similarity>,
    /// Squared error of each linear layer's output relative to the output, on the calibration text.
    pub relative_errors: BTreeMap<String, f64>,
    /// File of the report.
    pub report: Option<PathBuf>,
    /// Most memory resident at a time, in bytes, if the system says so.
    pub peak_memory_bytes: Option<u64>,
    /// Time it took, in seconds.
    pub seconds: f64,
}

/// Set when the user asks to stop; work in progress ends at the next layer.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// [`Options::memory`] where nobody says how much.
pub const DEFAULT_MEMORY: u64 = 1 << 30;

/// What the held-out text is.
const HELD_OUT_TEXT: &str = "sampled from the original at temperature 1, not calibrated on";

/// Compresses `checkpoint` as `options` say.
///
/// # Errors
/// If the output exists, a file can't be read or written, the calibration text is too short, or the user stopped it.
pub fn run(checkpoint: &Checkpoint, options: &Options) -> anyhow::Result<Summary> {
    let began = Instant::now();
    output::refuse_existing(&options.output)?;
    let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer_json()?)
        .with_context(|| format!("the tokenizer of `{}` can't be used", checkpoint.path().display()))?;
    check_vocabulary(&tokenizer, plan::EMBEDDING, checkpoint.config().vocab_size)?;
    check_weights(checkpoint)?;
    let sources = checkpoint.source_files()?;
    let calibration = forecast::calibration(options);
    let named = forecast::overrides(checkpoint, options)?;
    let sizes = forecast::sizes(checkpoint, options, sources.clone(), &tokenizer)?;
    let planning = Planning { layout: checkpoint, options, named: &named, sizes: &sizes };
    let fixed = planning.fixed()?;
    let settings = Settings {
        novaq: env!("CARGO_PKG_VERSION").to_owned(),
        seed: options.seed,
        budget: options.budget,
        embedding: options.embedding,
        named: named.clone(),
        plan: fixed.clone(),
        calibration: calibration.clone(),
        calibration_tokens: forecast::calibration_tokens(checkpoint, options),
        refine: options.refine,
        refine_steps: options.refine_steps,
        sources: sources.clone(),
        folding: Folding::new(options.fold, checkpoint.parameters()),
    };
    // Read before anything is written, so that a bad text leaves nothing behind.
    let text = match &options.calibration {
        None => None,
        Some(path) => Some(
            std::fs::read_to_string(path).with_context(|| format!("`{}` can't be read", path.display()))?,
        ),
    };
    let windows = |tokens: usize| -> anyhow::Result<Option<Vec<Vec<u32>>>> {
        let (Some(text), Some(path)) = (&text, &options.calibration) else { return Ok(None) };
        let windows = text::windows(checkpoint.config(), &tokenizer, text, tokens);
        windows.with_context(|| format!("`{}` can't be used for calibration", path.display())).map(Some)
    };
    let calibration_text = windows(settings.calibration_tokens)?;
    let refinement_text = match options.refine {
        Refine::Full => windows(refinement::tokens(checkpoint.config(), options.refine_steps))?,
        Refine::None | Refine::Blocks => None,
    };
    let report = options.report.clone().unwrap_or_else(|| report::beside(&options.output));
    let job = Job::open(output::work_folder(&options.output), &settings, options.restart)?;
    let run = Run { checkpoint, options, planning: &planning, fixed, job };

    let sequences = run.sequences(calibration_text, settings.calibration_tokens)?;
    tracing::info!(seconds = began.elapsed().as_secs_f32(), "text is ready");
    let plan = run.quantize(&sequences.calibration)?;
    tracing::info!(seconds = began.elapsed().as_secs_f32(), "all matrices are quantized");
    run.refine(refinement_text)?;
    tracing::info!(seconds = began.elapsed().as_secs_f32(), "the model is refined");
    let measuring = Instant::now();
    let verification = verify(checkpoint, &run.job, &sequences.held_out)?;
    run.job.spend(|times| &mut times.measurement, measuring)?;
    tracing::info!(seconds = began.elapsed().as_secs_f32(), "quality is measured");
    let estimates = sizes.estimates(&plan);
    let draft = output::draft(checkpoint, options, sources, calibration, Some(verification), estimates)?;
    let written = output::write(checkpoint, &run.job, &tokenizer, draft)?;
    Report::new(checkpoint, options, &settings, &plan, &written, &run.job.times()?)?.write(&report)?;
    output::publish(run.job, &options.output)?;
    summary(written, options, Some(report), began)
}

/// Fails if the tokenizer has tokens that the `embedding` of so many `rows` has not. More rows than tokens are common: they
/// fill up tiles.
fn check_vocabulary(tokenizer: &Tokenizer, embedding: &str, rows: usize) -> anyhow::Result<()> {
    let tokens = tokenizer.vocab_size();
    if tokens <= rows {
        return Ok(());
    }
    Err(anyhow::anyhow!("the tokenizer has {tokens} tokens, the embedding `{embedding}` has {rows} rows"))
        .hint(|| "the tokenizer is one of another model".to_owned())
}

/// Reads every tensor once, so that one that can't be used is found before any work is done.
fn check_weights(checkpoint: &Checkpoint) -> anyhow::Result<()> {
    for part in plan::Part::all(checkpoint) {
        match part.matrix() {
            Some(_) => drop(checkpoint.matrix(&part.name)?),
            None => drop(checkpoint.vector(&part.name)?),
        }
    }
    Ok(())
}

/// Measures the compressed model on text that the original wrote.
fn verify(checkpoint: &Checkpoint, job: &Job, held_out: &[Vec<u32>]) -> anyhow::Result<Verification> {
    let mut original = Layered::original(checkpoint)?;
    let mut compressed = quantization::compressed(checkpoint, job)?;
    let measured = compare(&mut original, &mut compressed, held_out)?;
    Ok(Verification {
        text: HELD_OUT_TEXT.to_owned(),
        tokens: measured.tokens,
        perplexity: measured.perplexity,
        perplexity_original: measured.perplexity_original,
        kl: measured.kl,
        top1_agreement: measured.top1_agreement,
    })
}

fn summary(
    written: Written,
    options: &Options,
    report: Option<PathBuf>,
    began: Instant,
) -> anyhow::Result<Summary> {
    let Written { manifest, records } = written;
    let c = &manifest.compression;
    Ok(Summary {
        id: hex::encode(manifest.id()?),
        name: manifest.name.clone(),
        output: options.output.clone(),
        bytes: c.bytes,
        shards: manifest.shards.len(),
        parameters: c.parameters,
        ratio_fp32: c.ratio_fp32,
        bits_per_weight_codes: c.bits_per_weight_codes,
        bits_per_weight_body: c.bits_per_weight_body,
        bits_per_weight_embedding: c.bits_per_weight_embedding,
        bits_per_weight_file: c.bits_per_weight_file,
        verification: manifest.verification.clone(),
        similarity: manifest.similarity.clone(),
        relative_errors: records
            .into_iter()
            .filter_map(|(name, r)| Some((name, r.relative_error?)))
            .collect(),
        report,
        peak_memory_bytes: Usage::of_this_process().map(|usage| usage.peak_memory),
        seconds: began.elapsed().as_secs_f64(),
    })
}
