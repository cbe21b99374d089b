//! `novaq embed`: turns texts into vectors with a compressed encoder.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args as ClapArgs;
use novaq_engine::artifact::LoadedEncoder;
use rayon::prelude::*;
use serde::Serialize;

use crate::artifact_dir::ArtifactDir;
use crate::evaluate::similarity::cosine;
use crate::output::{self, HintExt};
use crate::say;

/// Embed texts: one vector per text, whose cosine with another's says how close they are in meaning.
///
/// Works offline. Prints the numbers of a vector on one line, separated by spaces.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The artifact's folder.
    #[arg(value_name = "DIR")]
    artifact: PathBuf,

    /// The texts.
    #[arg(value_name = "TEXT", required_unless_present = "file", conflicts_with = "file")]
    texts: Vec<String>,

    /// File with a text on each line; empty lines are passed over.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Print the cosine of each text with each other, in place of the vectors.
    #[arg(long)]
    cosines: bool,

    /// Print texts, their numbers of tokens and vectors as JSON.
    #[arg(long)]
    json: bool,
}

/// The vector of one text.
#[derive(Debug, Serialize)]
struct Embedded {
    text: String,
    /// Tokens that were read; those of a text that is too long end early.
    tokens: usize,
    embedding: Vec<f32>,
}

#[derive(Debug, Serialize)]
struct Report {
    model_id: String,
    dimensions: usize,
    texts: Vec<Embedded>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cosines: Option<Vec<Vec<f64>>>,
}

/// Runs the command.
///
/// # Errors
/// If the artifact is damaged or no encoder, or the file can't be read or holds no text.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let texts = match &args.file {
        None => args.texts.clone(),
        Some(path) => {
            let file = std::fs::read_to_string(path)
                .with_context(|| format!("`{}` can't be read", path.display()))?;
            let texts: Vec<String> =
                file.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
            if texts.is_empty() {
                return Err(anyhow::anyhow!("`{}` holds no text", path.display()))
                    .hint(|| "write one text on each line".to_owned());
            }
            texts
        }
    };
    let artifact = ArtifactDir::open(&args.artifact)?;
    let spinner = output::spinner("Loading");
    let LoadedEncoder { encoder, tokenizer } = artifact.load_encoder()?;
    spinner.finish_and_clear();
    let bar = output::progress(texts.len() as u64, "Embedding", "texts");
    let embedded: Vec<Embedded> = texts
        .into_par_iter()
        .map(|text| {
            let tokens = tokenizer.encode_truncated(&text, encoder.config().max_seq_length)?;
            let embedding = encoder.embed(&tokens)?;
            bar.inc(1);
            Ok(Embedded { text, tokens: tokens.len(), embedding })
        })
        .collect::<anyhow::Result<_>>()?;
    bar.finish_and_clear();
    let cosines = args.cosines.then(|| {
        let row = |a: &Embedded| embedded.iter().map(|b| cosine(&a.embedding, &b.embedding)).collect();
        embedded.iter().map(row).collect::<Vec<Vec<f64>>>()
    });
    if args.json {
        return output::json(&Report {
            model_id: hex::encode(artifact.model_id()),
            dimensions: encoder.config().hidden_size,
            texts: embedded,
            cosines,
        });
    }
    if let Some(cosines) = cosines {
        for (row, text) in cosines.iter().zip(&embedded) {
            let cells: Vec<String> = row.iter().map(|cosine| format!("{cosine:7.4}")).collect();
            say!("{}  {}", cells.join(" "), text.text);
        }
        return Ok(());
    }
    for text in &embedded {
        let numbers: Vec<String> = text.embedding.iter().map(ToString::to_string).collect();
        say!("{}", numbers.join(" "));
    }
    Ok(())
}
