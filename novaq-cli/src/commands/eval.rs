//! `novaq eval`: how far an artifact is from the checkpoint that it was made of.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args as ClapArgs;
use novaq_engine::artifact::Compression;
use serde::Serialize;

use crate::artifact_dir::ArtifactDir;
use crate::checkpoint::{Checkpoint, EncoderCheckpoint};
use crate::compress::HELD_OUT;
use crate::evaluate::{compare, similarity, text};
use crate::hub::Location;
use crate::layered::Layered;
use crate::output::{self, HintExt};
use crate::say;

/// Compare an artifact with its original: perplexity, KL divergence, agreement; of an encoder, cosines of embeddings.
///
/// The original runs in 32-bit floats, the artifact as it runs in a canister.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The artifact's folder.
    #[arg(value_name = "DIR")]
    artifact: PathBuf,

    /// The original checkpoint, as `novaq compress` takes it.
    #[arg(long, value_name = "MODEL")]
    against: Location,

    /// Text to measure on; without it the original writes some, at temperature 1. An encoder needs it: each line is a text.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Tokens to measure on at most, spread evenly over the text.
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    max_tokens: usize,

    /// Seed of the text that the original writes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What the command reports.
#[derive(Debug, Serialize)]
struct Report<M> {
    #[serde(flatten)]
    measured: M,
    bits_per_weight_body: f64,
    bits_per_weight_embedding: f64,
    bits_per_weight_file: f64,
    ratio_fp32: f64,
    bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// If the artifact or the checkpoint can't be read, or they are not of the same shape.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let artifact = ArtifactDir::open(&args.artifact)?;
    if artifact.manifest().encoder.is_some() {
        return run_encoder(args, &artifact);
    }
    let compressed = artifact.load()?;
    let manifest = artifact.manifest();
    let checkpoint = Checkpoint::open(&args.against.fetch()?.path)
        .with_context(|| format!("`{}` can't be compared with", args.against))?;
    if checkpoint.config() != manifest.decoder()? {
        return Err(anyhow::anyhow!("`{}` is another model than the artifact's", args.against))
            .hint(|| format!("the artifact was made of `{}`", manifest.origin.repository));
    }
    let mut original = Layered::original(&checkpoint)?.keeping(u64::MAX);
    let sequences = if let Some(path) = &args.text {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("`{}` can't be read", path.display()))?;
        text::windows(checkpoint.config(), &compressed.tokenizer, &text, args.max_tokens)
            .with_context(|| format!("`{}` can't be used", path.display()))?
    } else {
        let count = args.max_tokens.div_ceil(text::SEQUENCE_TOKENS).max(1);
        let bar = output::progress(count as u64, "Sampling", "sequences");
        let sequences =
            text::sample(&mut original, &text::seeds(args.seed ^ HELD_OUT, count), count, |done| {
                bar.inc(done);
            })?;
        bar.finish_and_clear();
        sequences
    };
    let measured = compare(&mut original, &mut compressed.model.into(), &sequences)?;

    let report = Report::new(measured, &manifest.compression);
    if args.json {
        return output::json(&report);
    }
    say!("Tokens: {}", measured.tokens);
    say!("KL divergence: {:.4} nats per token", measured.kl);
    say!("Perplexity: {:.3} (original {:.3})", measured.perplexity, measured.perplexity_original);
    say!("Same top token: {:.1} %", 100.0 * measured.top1_agreement);
    report.print_sizes();
    Ok(())
}

impl<M> Report<M> {
    fn new(measured: M, sizes: &Compression) -> Self {
        Self {
            measured,
            bits_per_weight_body: sizes.bits_per_weight_body,
            bits_per_weight_embedding: sizes.bits_per_weight_embedding,
            bits_per_weight_file: sizes.bits_per_weight_file,
            ratio_fp32: sizes.ratio_fp32,
            bytes: sizes.bytes,
        }
    }

    fn print_sizes(&self) {
        say!(
            "Bits per weight: {:.2} in the layers, {:.2} in the embedding, {:.2} over all files",
            self.bits_per_weight_body,
            self.bits_per_weight_embedding,
            self.bits_per_weight_file
        );
        say!("Size: {}, {:.1} times smaller than 32-bit floats", output::bytes(self.bytes), self.ratio_fp32);
    }
}

/// Compares an encoder's embeddings with the original's.
fn run_encoder(args: &Args, artifact: &ArtifactDir) -> anyhow::Result<()> {
    let Some(path) = &args.text else {
        return Err(anyhow::anyhow!("an encoder can't write the text that it is measured on"))
            .hint(|| "add `--text <FILE>` with one text per line".to_owned());
    };
    let compressed = artifact.load_encoder()?;
    let manifest = artifact.manifest();
    let checkpoint = EncoderCheckpoint::open(&args.against.fetch()?.path)
        .with_context(|| format!("`{}` can't be compared with", args.against))?;
    if checkpoint.config() != manifest.encoder()? {
        return Err(anyhow::anyhow!("`{}` is another model than the artifact's", args.against))
            .hint(|| format!("the artifact was made of `{}`", manifest.origin.repository));
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("`{}` can't be read", path.display()))?;
    let texts = similarity::lines(checkpoint.config(), &compressed.tokenizer, &text)
        .with_context(|| format!("`{}` can't be used", path.display()))?;
    let texts = similarity::spread(&texts, args.max_tokens);
    let bar = output::progress(texts.len() as u64, "Measuring", "texts");
    let measured = similarity::compare(&checkpoint.encoder()?, &compressed.encoder, &texts, || bar.inc(1))?;
    bar.finish_and_clear();
    let report = Report::new(measured, &manifest.compression);
    if args.json {
        return output::json(&report);
    }
    say!("Texts: {} with {}", output::count(measured.texts), output::counted(measured.tokens, "token"));
    say!(
        "Cosine to the original: {:.4} on average, {:.4} at least",
        measured.mean_cosine,
        measured.min_cosine
    );
    report.print_sizes();
    Ok(())
}
