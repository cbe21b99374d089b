//! Prints what compression costs in quality, beside GPTQ: `cargo run --example quality -- <MODEL_DIR> [TEXT]`.
//!
//! Everything is calibrated on text that the model wrote; it is measured on `TEXT`, or on other text that the model
//! wrote. All rows have the same embedding, at 4 bits.

use std::path::{Path, PathBuf};

use anyhow::Context;
use novaq_cli::artifact_dir::ArtifactDir;
use novaq_cli::checkpoint::Checkpoint;
use novaq_cli::compress::{
    Budget, DEFAULT_MEMORY, HELD_OUT, Options, baseline, default_calibration_tokens, run,
};
use novaq_cli::evaluate::{Measured, compare, text};
use novaq_cli::layered::Layered;
use novaq_engine::tokenizer::Tokenizer;

/// Tokens to measure on.
const TOKENS: usize = 40_960;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().map(PathBuf::from).context("usage: quality <MODEL_DIR> [TEXT]")?;
    let checkpoint = Checkpoint::open(&model)?;
    let mut original = Layered::original(&checkpoint)?.keeping(u64::MAX);
    let held_out = if let Some(path) = args.next() {
        let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer_json()?)?;
        let text = std::fs::read_to_string(&path).with_context(|| format!("`{path}` can't be read"))?;
        text::windows(checkpoint.config(), &tokenizer, &text, TOKENS)?
    } else {
        let count = TOKENS / text::SEQUENCE_TOKENS;
        text::sample(&mut original, count, 1 ^ HELD_OUT, count, |_| {})?
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
    for bits in [1.0, 1.5, 2.0, 3.0] {
        let artifact = compress(&checkpoint, &folder.path().join(bits.to_string()), bits)?;
        let compressed = artifact.load()?.model;
        embedding = Some(compressed.embed_tokens().clone());
        row(&format!("AQ {bits}"), artifact.manifest().compression.bits_per_weight_body, compressed.into())?;
    }
    let embedding = embedding.context("no artifact was made")?;
    let count = default_calibration_tokens(&checkpoint).div_ceil(text::SEQUENCE_TOKENS);
    let sequences = text::sample(&mut original, count, 0, count, |_| {})?;
    for bits in [2, 3] {
        let compressed = baseline::gptq(&checkpoint, &sequences, &embedding, bits, 64)?;
        row(&format!("GPTQ {bits}, groups of 64"), f64::from(bits) + 0.5, compressed)?;
    }
    Ok(())
}

fn compress(checkpoint: &Checkpoint, output: &Path, bits_per_weight: f64) -> anyhow::Result<ArtifactDir> {
    let options = Options {
        output: output.to_owned(),
        budget: Budget::Bits(bits_per_weight),
        embedding: None,
        overrides: Vec::new(),
        calibration: None,
        calibration_tokens: None,
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
    };
    run(checkpoint, &options)?;
    ArtifactDir::open(output)
}
