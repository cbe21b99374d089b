//! `novaq synth`: artifacts of random weights.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args as ClapArgs;
use clap::builder::PossibleValuesParser;
use novaq_engine::kernel::Fold;
use novaq_engine::synth::{Format, Synthetic, config_like, shape_names, tokenizer};

use crate::artifact_dir::{MANIFEST_FILE, ShardFiles};
use crate::compress::write_whole;
use crate::output::{self, HintExt};
use crate::say;

/// Make an artifact of random weights in the shape of a published model, to measure what such a model takes. It writes nonsense.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The model whose shape it has.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(shape_names()))]
    like: String,

    /// Bits per weight of the layers: 0.5 to 4 in steps of 0.5.
    #[arg(long, value_name = "BITS", default_value_t = 2.0)]
    bpw: f64,

    /// Bits per weight of the embedding and the head: 0.5 to 4 in steps of 0.5.
    #[arg(long, value_name = "BITS", default_value_t = 3.0)]
    embedding_bpw: f64,

    /// Folder of the artifact; must not exist yet.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,

    /// Seed of the weights.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Runs the command.
///
/// # Errors
/// If no codebooks have so many bits, or the folder exists or can't be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let Args { like, bpw, embedding_bpw, output, seed } = args;
    let format = |flag: &str, bits: f64, fold: Fold| {
        let format = Format::of_bits(bits, fold);
        format.with_context(|| format!("`{flag} {bits}`: write 0.5 to 4 in steps of 0.5"))
    };
    let body = format("--bpw", *bpw, Fold::of_bits(*bpw))?;
    let embedding = format("--embedding-bpw", *embedding_bpw, Fold::of_head_bits(*embedding_bpw))?;
    let config = config_like(like).with_context(|| format!("no shape is called `{like}`"))?;
    if output.exists() {
        return Err(anyhow::anyhow!("`{}` exists already", output.display()))
            .hint(|| "write to another folder with `--output`".to_owned());
    }
    let spinner = output::spinner("Writing");
    let tokenizer = tokenizer(config.vocab_size)?.to_bytes();
    let synthetic = Synthetic { config, body, embedding, seed: *seed, tokenizer };
    let mut name = output.file_name().map(OsString::from).unwrap_or_default();
    name.push(".incomplete");
    let part = output.with_file_name(name);
    if part.exists() {
        std::fs::remove_dir_all(&part).with_context(|| format!("`{}` can't be removed", part.display()))?;
    }
    std::fs::create_dir_all(&part).with_context(|| format!("`{}` can't be made", part.display()))?;
    let manifest = synthetic.write(&mut ShardFiles(part.clone()))?;
    write_whole(&part.join(MANIFEST_FILE), &manifest.to_bytes()?)?;
    std::fs::rename(&part, output).with_context(|| format!("`{}` can't be made", output.display()))?;
    spinner.finish_and_clear();
    say!(
        "Artifact:  `{}`, {} bytes, random weights in the shape of {like}",
        output.display(),
        manifest.compression.bytes
    );
    Ok(())
}
