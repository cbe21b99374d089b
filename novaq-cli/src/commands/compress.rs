//! `novaq compress`: makes an artifact of a checkpoint.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::Context;
use clap::Args as ClapArgs;

use crate::checkpoint::Checkpoint;
use crate::compress::plan::{Additive, EmbeddingCodec};
use crate::compress::{self, Options, STOP, Summary};
use crate::output::{self, HintExt};

/// Compress a checkpoint to an artifact.
///
/// Checkpoints are folders in Hugging Face's layout, GGUF files (F32, F16, BF16, `Q8_0`, `Q4_0`, `Q4_K`, `Q6_K`) and
/// files of llama2.c, all of the Llama architecture.
///
/// Weights become sums of codewords from codebooks of 16 entries, fitted to what the layers do on calibration text.
/// A compression that was stopped goes on when the same command is given again.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The checkpoint: a folder with config.json, tokenizer.json and safetensors files, a file `*.gguf`, or a file
    /// `*.bin` of llama2.c with its tokenizer, `tok*.bin` or `tok*.model`, beside it.
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// Folder to write the artifact to; it must not exist.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,

    /// Bits per weight of the layers' matrices, 1 to 4: the codes alone.
    ///
    /// Row scales (16 bits a row) and codebooks come on top and are counted in what is reported. 1, 1.5, 2, 2.5, 3,
    /// 3.5 and 4 are 2 to 8 codebooks over vectors of 8 weights for every matrix; between them, codebooks go where they
    /// help most.
    #[arg(long, value_name = "BITS", default_value_t = 2.0, value_parser = bits_per_weight)]
    bpw: f64,

    /// Bits per weight of the embedding and the head: 1 to 4 in steps of 0.5, 8 (integers) or 16 (floats).
    #[arg(long, value_name = "BITS", default_value = "4", value_parser = embedding_codec)]
    embedding_bpw: EmbeddingCodec,

    /// One codec for all layers in place of `--bpw`, as `2x16@4`: 2 codebooks of 16 over vectors of 4 weights.
    #[arg(long, value_name = "CODEC", conflicts_with = "bpw")]
    codec: Option<Additive>,

    /// Text to calibrate on; without it the model writes its own, at temperature 1.
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,

    /// Tokens of calibration text; by default what makes a pass over it take about as long for every model.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(256..))]
    calibration_tokens: Option<u32>,

    /// Seed of all random choices; the same seed gives the same artifact.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Name of the model in the catalogue; by default that of its folder or file.
    #[arg(long)]
    name: Option<String>,

    /// Semantic version of the artifact.
    #[arg(long, value_name = "VERSION", default_value = "1.0.0")]
    model_version: String,

    /// Licence of the weights; by default what the front matter of the checkpoint's README.md says.
    #[arg(long)]
    license: Option<String>,

    /// Print what the artifact would take, and do nothing.
    #[arg(long)]
    dry_run: bool,

    /// Throw away the work of an earlier call that was stopped.
    #[arg(long)]
    restart: bool,

    /// Stop after this many layers, as if interrupted.
    #[arg(long, value_name = "LAYERS", hide = true)]
    stop_after: Option<usize>,

    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

fn bits_per_weight(text: &str) -> Result<f64, String> {
    let bits: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (1.0..=4.0).contains(&bits) { Ok(bits) } else { Err(format!("{bits} is not between 1 and 4")) }
}

fn embedding_codec(text: &str) -> Result<EmbeddingCodec, String> {
    EmbeddingCodec::for_bits(text.parse().map_err(|_| format!("`{text}` is no number"))?)
}

/// Runs the command.
///
/// # Errors
/// If the checkpoint can't be read, the output exists or can't be written, or the user stopped it.
pub fn run(args: Args) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&args.model)
        .with_context(|| format!("`{}` can't be compressed", args.model.display()))
        .hint(|| "name a folder with config.json, tokenizer.json and model.safetensors, or a file `*.gguf` or `*.bin`".to_owned())?;
    let options = Options {
        output: args.output,
        bits_per_weight: args.bpw,
        codec: args.codec,
        embedding: args.embedding_bpw,
        calibration: args.calibration,
        calibration_tokens: args.calibration_tokens.map(|n| n as usize),
        seed: args.seed,
        name: args.name,
        version: args.model_version,
        license: args.license,
        restart: args.restart,
        stop_after: args.stop_after,
    };
    if args.dry_run {
        let estimate = compress::estimate(&checkpoint, &options);
        if args.json {
            return output::json(&estimate);
        }
        crate::say!("Parameters: {}", estimate.parameters);
        crate::say!("Matrices: {} (codes, scales, codebooks)", output::bytes(estimate.matrix_bytes));
        crate::say!("Ratio: {:.1} times smaller than 32-bit floats", estimate.ratio_fp32);
        crate::say!("Calibration: {} tokens", estimate.calibration_tokens);
        return Ok(());
    }
    stop_on_interrupt()?;
    let summary = compress::run(&checkpoint, &options)?;
    if args.json {
        return output::json(&summary);
    }
    print(&summary);
    Ok(())
}

/// The first Ctrl-C lets the layer in work end, the second ends the program; what is stored stays whole either way.
fn stop_on_interrupt() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if STOP.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
                eprintln!("stopping after this layer; press Ctrl-C again to stop at once");
            }
        });
    });
    Ok(())
}

fn print(summary: &Summary) {
    crate::say!("Model: {} ({})", summary.name, summary.id);
    crate::say!("Artifact: `{}`, {} shards", summary.output.display(), summary.shards);
    crate::say!(
        "Size: {}, {:.1} times smaller than 32-bit floats",
        output::bytes(summary.bytes),
        summary.ratio_fp32
    );
    crate::say!(
        "Bits per weight: {:.2} in the layers ({:.2} codes), {:.2} in the embedding, {:.2} over all files",
        summary.bits_per_weight_body,
        summary.bits_per_weight_codes,
        summary.bits_per_weight_embedding,
        summary.bits_per_weight_file
    );
    if let Some(measured) = &summary.verification {
        crate::say!(
            "Quality: KL {:.4} nats per token, perplexity {:.3} (original {:.3}), same top token {:.1} %",
            measured.kl,
            measured.perplexity,
            measured.perplexity_original,
            100.0 * measured.top1_agreement
        );
        crate::say!("Measured on: {} tokens {}", measured.tokens, measured.text);
    }
    crate::say!("Time: {:.1} s", summary.seconds);
}
