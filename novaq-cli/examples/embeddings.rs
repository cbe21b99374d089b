//! Prints what compression costs an encoder: `cargo run --example embeddings -- <MODEL_DIR> <CALIBRATION> <HELD_OUT>...`.
//!
//! Each line of the files is a text. Nothing of the held-out files is calibrated or refined on. Rows of plain codecs have them
//! for all matrices; the others have the embeddings of words in a codec of their own.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use novaq_cli::artifact_dir::ArtifactDir;
use novaq_cli::checkpoint::EncoderCheckpoint;
use novaq_cli::compress::plan::MatrixCodec;
use novaq_cli::compress::{Budget, Options, encoder};
use novaq_cli::evaluate::similarity::{Measured, compare, lines, spread};
use novaq_cli::refine::Refine;
use novaq_engine::tokenizer::Tokenizer;

/// Tokens to measure on, of each file.
const TOKENS: usize = 16_384;

#[derive(Parser)]
struct Args {
    /// Folder of the checkpoint.
    model: PathBuf,

    /// Texts to calibrate and to refine on.
    calibration: PathBuf,

    /// Texts to measure on.
    #[arg(required = true)]
    held_out: Vec<PathBuf>,

    /// Steps of refinement of the whole model; a row without any comes first.
    #[arg(long, default_value_t = 0)]
    refine_steps: usize,

    /// Bits per weight of the layers.
    #[arg(long, value_delimiter = ',', default_values_t = [4.0, 3.0, 2.0])]
    bits: Vec<f64>,

    /// Codec of the embeddings of words; by default that of a compression.
    #[arg(long)]
    embedding: Option<MatrixCodec>,

    /// Codecs for all matrices.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_values_t = [MatrixCodec::Int8, MatrixCodec::Int4])]
    codecs: Vec<MatrixCodec>,

    /// Tokens to calibrate on.
    #[arg(long)]
    calibration_tokens: Option<usize>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let checkpoint = EncoderCheckpoint::open(&args.model)?;
    let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer_json()?)?;
    let mut held_out = Vec::new();
    for path in &args.held_out {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("`{}` can't be read", path.display()))?;
        held_out.push(spread(&lines(checkpoint.config(), &tokenizer, &text)?, TOKENS));
    }
    let original = checkpoint.encoder()?;
    println!(
        "| codes | bits per weight of the layers | of the embeddings | bytes | mean cosine | least | seconds |"
    );
    println!("|---|---|---|---|---|---|---|");
    let folder = tempfile::tempdir()?;
    let row = |codes: &str, budget: Budget, embedding: Option<MatrixCodec>, steps: usize| {
        let output = folder.path().join(codes);
        let summary = encoder::run(&checkpoint, &options(&args, &output, budget, embedding, steps))?;
        let artifact = ArtifactDir::open(&output)?;
        let compressed = artifact.load_encoder()?.encoder;
        let (mut means, mut least) = (Vec::new(), 1.0f64);
        for texts in &held_out {
            let Measured { mean_cosine, min_cosine, .. } = compare(&original, &compressed, texts, || {})?;
            means.push(format!("{mean_cosine:.4}"));
            least = least.min(min_cosine);
        }
        let sizes = &artifact.manifest().compression;
        println!(
            "| {codes} | {:.2} | {:.2} | {} | {} | {least:.4} | {:.0} |",
            sizes.bits_per_weight_body,
            sizes.bits_per_weight_embedding,
            sizes.bytes,
            means.join(", "),
            summary.seconds
        );
        anyhow::Ok(())
    };
    for &codec in &args.codecs {
        row(&codec.to_string(), Budget::Codec(codec), Some(codec), 0)?;
    }
    for &bits in &args.bits {
        row(&format!("AQ {bits}"), Budget::Bits(bits), args.embedding, 0)?;
        if args.refine_steps > 0 {
            let codes = format!("AQ {bits}, {} steps of refinement", args.refine_steps);
            row(&codes, Budget::Bits(bits), args.embedding, args.refine_steps)?;
        }
    }
    Ok(())
}

fn options(
    args: &Args,
    output: &Path,
    budget: Budget,
    embedding: Option<MatrixCodec>,
    steps: usize,
) -> Options {
    Options {
        embedding,
        calibration: Some(args.calibration.clone()),
        calibration_tokens: args.calibration_tokens,
        refine: if steps > 0 { Refine::Full } else { Refine::None },
        refine_steps: steps,
        ..Options::new(output.to_owned(), budget)
    }
}
