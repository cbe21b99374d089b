//! Prints what compression costs in quality, beside GPTQ and rounding to nearest: `cargo run --example quality -- <MODEL_DIR> [TEXT]`.
//!
//! Everything is calibrated and refined on text that the model wrote; it is measured on `TEXT`, or on other text that the
//! model wrote. All rows have the same embedding, at 4 bits; refinement moves it too.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use novaq_cli::artifact_dir::ArtifactDir;
use novaq_cli::checkpoint::Checkpoint;
use novaq_cli::compress::baseline::Rounding;
use novaq_cli::compress::{Budget, HELD_OUT, Options, baseline, default_calibration_tokens, run};
use novaq_cli::evaluate::{Measured, compare, text};
use novaq_cli::layered::Layered;
use novaq_cli::refine::Refine;
use novaq_engine::tokenizer::Tokenizer;

/// Tokens to measure on.
const TOKENS: usize = 40_960;

#[derive(Parser)]
struct Args {
    /// Folder of the checkpoint.
    model: PathBuf,

    /// Text to measure on; without it, what the model writes.
    text: Option<PathBuf>,

    /// Steps of refinement of the whole model; a row without any comes first.
    #[arg(long, default_value_t = 0)]
    refine_steps: usize,

    /// Bits per weight of the layers.
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 1.5, 2.0, 3.0])]
    bits: Vec<f64>,
}

fn main() -> anyhow::Result<()> {
    let Args { model, text, refine_steps, bits } = Args::parse();
    let checkpoint = Checkpoint::open(&model)?;
    let mut original = Layered::original(&checkpoint)?.keeping(u64::MAX);
    let held_out = if let Some(path) = text {
        let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer_json()?)?;
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("`{}` can't be read", path.display()))?;
        text::windows(checkpoint.config(), &tokenizer, &text, TOKENS)?
    } else {
        let count = TOKENS / text::SEQUENCE_TOKENS;
        text::sample(&mut original, &text::seeds(1 ^ HELD_OUT, count), count, |_| {})?
    };
    println!(
        "| codes | bits per weight, scales and codebooks too | KL | perplexity ratio | same top token |"
    );
    println!("|---|---|---|---|---|");
    let row = |codes: &str, bits: f64, mut compressed: Layered| -> anyhow::Result<()> {
        let mut original = Layered::original(&checkpoint)?;
        let Measured { kl, perplexity, perplexity_original, top1_agreement, .. } =
            compare(&mut original, &mut compressed, &held_out)?;
        let ratio = perplexity / perplexity_original;
        println!("| {codes} | {bits:.2} | {kl:.4} | {ratio:.3} | {:.1} % |", 100.0 * top1_agreement);
        Ok(())
    };

    let folder = tempfile::tempdir()?;
    let mut embedding = None;
    for bits in bits {
        for steps in [Some(0), Some(refine_steps).filter(|&steps| steps > 0)].into_iter().flatten() {
            let output = folder.path().join(format!("{bits}-{steps}"));
            let artifact = compress(&checkpoint, &output, bits, steps)?;
            let compressed = artifact.load()?.model;
            if steps == 0 {
                embedding = Some(compressed.embed_tokens().clone());
            }
            let refined = if steps > 0 { format!(", {steps} steps of refinement") } else { String::new() };
            let bits_of_body = artifact.manifest().compression.bits_per_weight_body;
            row(&format!("AQ {bits}{refined}"), bits_of_body, compressed.into())?;
        }
    }
    let embedding = embedding.context("no artifact was made")?;
    let count = default_calibration_tokens(&checkpoint).div_ceil(text::SEQUENCE_TOKENS);
    let sequences = text::sample(&mut original, &text::seeds(0, count), count, |_| {})?;
    for (name, rounding) in [("GPTQ", Rounding::Gptq), ("round to nearest", Rounding::Nearest)] {
        for bits in [2, 3] {
            let compressed = baseline::on_grids(rounding, &checkpoint, &sequences, &embedding, bits, 64)?;
            row(&format!("{name} {bits}, groups of 64"), f64::from(bits) + 0.5, compressed)?;
        }
    }
    Ok(())
}

fn compress(
    checkpoint: &Checkpoint,
    output: &Path,
    bits_per_weight: f64,
    steps: usize,
) -> anyhow::Result<ArtifactDir> {
    let options = Options {
        refine: if steps > 0 { Refine::Full } else { Refine::None },
        refine_steps: steps,
        ..Options::new(output.to_owned(), Budget::Bits(bits_per_weight))
    };
    run(checkpoint, &options)?;
    ArtifactDir::open(output)
}
