//! Prints what compression costs an encoder: `cargo run --example embeddings -- <MODEL_DIR> <CALIBRATION> <HELD_OUT>...`.
//!
//! Each line of the files is a text. Nothing of the held-out files is calibrated on. The first rows have other codecs for all
//! matrices; the others have the embeddings of words at 4 bits.

use std::path::PathBuf;

use anyhow::Context;
use novaq_cli::artifact_dir::ArtifactDir;
use novaq_cli::checkpoint::EncoderCheckpoint;
use novaq_cli::compress::plan::MatrixCodec;
use novaq_cli::compress::{Budget, DEFAULT_MEMORY, Options, encoder};
use novaq_cli::evaluate::similarity::{Measured, compare, lines, spread};
use novaq_cli::refine::Refine;
use novaq_engine::tokenizer::Tokenizer;

/// Tokens to measure on, of each file.
const TOKENS: usize = 16_384;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).map(PathBuf::from);
    let usage = "usage: embeddings <MODEL_DIR> <CALIBRATION> <HELD_OUT>...";
    let (model, calibration) = (args.next().context(usage)?, args.next().context(usage)?);
    let checkpoint = EncoderCheckpoint::open(&model)?;
    let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer_json()?)?;
    let mut held_out = Vec::new();
    for path in args {
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("`{}` can't be read", path.display()))?;
        held_out.extend(spread(&lines(checkpoint.config(), &tokenizer, &text)?, TOKENS));
    }
    anyhow::ensure!(!held_out.is_empty(), usage);
    let original = checkpoint.encoder()?;
    println!("| codes | bits per weight of the layers | of the embeddings | bytes | mean cosine | least |");
    println!("|---|---|---|---|---|---|");
    let codec = |name: &str| name.parse::<MatrixCodec>().map_err(anyhow::Error::msg);
    let rows = [
        ("INT8", Budget::Codec(codec("int8")?), Some(codec("int8")?)),
        ("INT4, groups of 32", Budget::Codec(codec("int4")?), Some(codec("int4")?)),
        ("AQ 4", Budget::Bits(4.0), None),
        ("AQ 3", Budget::Bits(3.0), None),
        ("AQ 2", Budget::Bits(2.0), None),
    ];
    let folder = tempfile::tempdir()?;
    for (codes, budget, embedding) in rows {
        let options = Options {
            output: folder.path().join(codes),
            budget,
            embedding,
            overrides: Vec::new(),
            calibration: Some(calibration.clone()),
            calibration_tokens: None,
            refine: Refine::None,
            refine_steps: 0,
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
        encoder::run(&checkpoint, &options)?;
        let artifact = ArtifactDir::open(&options.output)?;
        let compressed = artifact.load_encoder()?.encoder;
        let Measured { mean_cosine, min_cosine, .. } = compare(&original, &compressed, &held_out, || {})?;
        let sizes = &artifact.manifest().compression;
        println!(
            "| {codes} | {:.2} | {:.2} | {} | {mean_cosine:.4} | {min_cosine:.4} |",
            sizes.bits_per_weight_body, sizes.bits_per_weight_embedding, sizes.bytes
        );
    }
    Ok(())
}
