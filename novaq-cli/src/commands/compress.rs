//! `novaq compress`: makes an artifact of a checkpoint.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::Context;
use clap::{ArgGroup, Args as ClapArgs, ValueEnum};

use super::sign::sign;
use crate::checkpoint::{Checkpoint, EncoderCheckpoint};
use crate::compress::pattern::Override;
use crate::compress::plan::{Additive, MatrixCodec};
use crate::compress::{self, Budget, Forecast, Options, STOP, Summary};
use crate::config_file;
use crate::hub::Location;
use crate::hub::Origin;
use crate::network::read_signing_key;
use crate::output::{self, HintExt};
use crate::refine::{DEFAULT_STEPS, Refine};
use novaq_engine::kernel::Fold;

/// Compress a checkpoint to an artifact.
///
/// Checkpoints are folders in Hugging Face's layout, GGUF files (F32, F16, BF16, `Q8_0`, `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q4_K`, `Q6_K`) and
/// files of llama2.c: Llama, Mistral, Qwen2, Qwen3 and Gemma 3 (text).
///
/// Weights become sums of codewords from codebooks of 16 entries, fitted to what the layers do on calibration text.
/// A compression that was stopped goes on when the same command is given again.
#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("budget").multiple(false))]
pub struct Args {
    /// The checkpoint: a folder with config.json, tokenizer.json and safetensors files, a file `*.gguf`, or a file
    /// `*.bin` of llama2.c with its tokenizer, `tok*.bin` or `tok*.model`, beside it.
    ///
    /// `hf:OWNER/NAME`, with `@REVISION` or `/FILE.gguf` behind it, is a model of the Hugging Face Hub. It is downloaded
    /// to the hub's cache, from `HF_ENDPOINT`, with the token in `HF_TOKEN`.
    #[arg(value_name = "MODEL")]
    model: Location,

    /// Folder to write the artifact to; it must not exist.
    #[arg(short, long, value_name = "DIR", required_unless_present_any = ["dry_run", "config"])]
    output: Option<PathBuf>,

    /// Bits per weight of the layers' matrices, 1 to 4: the codes alone [default: 2].
    ///
    /// Row scales (16 bits a row) and codebooks come on top and are counted in what is reported. Each matrix gets 2 to 8
    /// codebooks over vectors of 8 weights, half a bit each; they go where noise was measured to change the
    /// predictions most for its bits, and in encoders alike to all. `--codec 4x16@8` gives all matrices the same.
    #[arg(long, value_name = "BITS", group = "budget", value_parser = bits_per_weight)]
    bpw: Option<f64>,

    /// Most bytes of the whole artifact, as `4MB`, `1.5MiB` or `1800000`: weights, tokenizer and manifest.
    ///
    /// All matrices begin at 1 bit per weight, and more go where noise was measured to change the predictions most for
    /// the bytes, up to 8-bit integers and 16-bit floats. Below 1 bit, matrices are products of signs.
    #[arg(long, value_name = "BYTES", group = "budget", value_parser = bytes)]
    size: Option<u64>,

    /// How many times smaller than its weights in 32-bit floats the whole artifact is, at least; see `--size`.
    #[arg(long, value_name = "TIMES", group = "budget", value_parser = ratio)]
    ratio: Option<f64>,

    /// A setting by name.
    #[arg(long, group = "budget")]
    preset: Option<Preset>,

    /// Bits per weight of the embedding and the head: 1 to 4 in steps of 0.5, 8 (integers) or 16 (floats), or a codec
    /// as in `--codec` [default: 4, or what `--size`, `--ratio` or `--preset` leave].
    #[arg(long, value_name = "BITS")]
    embedding_bpw: Option<MatrixCodec>,

    /// Table entries that products average in 8 bits when the model runs: 1, 2, 4 or 8. More take up to half as many
    /// instructions and cost some quality, which the report shows [default: 1; of models from 50 M weights on up to 8,
    /// fewer with more bits].
    #[arg(long, value_name = "N", value_parser = table_entries)]
    fold: Option<Fold>,

    /// One codec for all layers in place of `--bpw`: `int4` (integers, groups of 32), `int8`, `fp8` (E4M3), `f16`, or
    /// codebooks as in `2x16@4`: 2 of 16 over vectors of 4 weights.
    #[arg(long, value_name = "CODEC", group = "budget")]
    codec: Option<MatrixCodec>,

    /// Codec of the matrices whose names match a pattern, as `model.layers.0.*=3`; may be given several times.
    ///
    /// `*` stands for any characters, `?` for one. The codec is bits per weight (1 to 4 in steps of 0.5, 8, 16),
    /// or one as in `--codec`. The first pattern that a name matches counts. `--size` and `--ratio`
    /// count these matrices, `--bpw` leaves them out.
    #[arg(long, value_name = "PATTERN=CODEC")]
    tensor: Vec<Override>,

    /// Text to calibrate on; without it the model writes its own, at temperature 1.
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,

    /// Tokens of calibration text; by default what makes a pass over it take about as long for every model.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(256..))]
    calibration_tokens: Option<u32>,

    /// Seed of all random choices; the same seed gives the same artifact [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Memory for weights and caches while the model writes text, as `4GiB` [default: 1GiB].
    ///
    /// With less, more of the weights are read again for each token. The artifact does not depend on it.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,

    /// Name of the model in the catalogue; by default that of its folder or file.
    #[arg(long)]
    name: Option<String>,

    /// How far the original teaches the compressed model what it would have said [default: none].
    ///
    /// `blocks` refines layer by layer. `full` goes on with the whole model, which has to fit in memory several times; it
    /// takes by far the longest and brings the most.
    #[arg(long)]
    refine: Option<Refine>,

    /// Steps of `--refine full`, each on 8 sequences of text, or 32 texts of an encoder [default: 400].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    refine_steps: Option<u32>,

    /// Semantic version of the artifact [default: 1.0.0].
    #[arg(long, value_name = "VERSION")]
    model_version: Option<String>,

    /// Licence of the weights; by default what the front matter of the checkpoint's README.md says.
    #[arg(long)]
    license: Option<String>,

    /// PEM file of the ed25519 key to sign the artifact with; `novaq sign` does it later.
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,

    /// TOML file with options under the names of their flags, as `bpw = 2.5` or `tensor = ["lm_head.*=8"]`.
    ///
    /// Flags win over the file; patterns of `--tensor` come before those of the file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// File of the report, which has every matrix; a table of it is written beside it [default: `DIR.report.json`].
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Print what the artifact and the compression would take, from the headers alone, and do nothing.
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

/// Options that belong to a call and not to an artifact: a configuration file does not have them.
const OF_A_CALL: &[&str] = &["model", "config", "dry_run", "restart", "stop_after", "json"];

/// A setting by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// `--bpw 1.5 --embedding-bpw 3`.
    Small,
    /// `--bpw 2 --embedding-bpw 4`, as without any setting.
    Balanced,
    /// `--bpw 4 --embedding-bpw 8`.
    Faithful,
}

impl Preset {
    /// Bits per weight of the layers and codec of the embedding.
    fn setting(self) -> (f64, MatrixCodec) {
        let books = |books| MatrixCodec::Aq(Additive { books, dim: 8 });
        match self {
            Self::Small => (1.5, books(6)),
            Self::Balanced => (2.0, books(8)),
            Self::Faithful => (4.0, MatrixCodec::Int8),
        }
    }
}

pub(super) fn bits_per_weight(text: &str) -> Result<f64, String> {
    let bits: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (1.0..=4.0).contains(&bits) { Ok(bits) } else { Err(format!("{bits} is not between 1 and 4")) }
}

fn ratio(text: &str) -> Result<f64, String> {
    let times: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if times >= 1.0 && times.is_finite() { Ok(times) } else { Err(format!("{times} is not 1 or more")) }
}

/// A number of bytes, with a decimal or binary unit or none.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1000),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("k", 1000),
        ("M", 1_000_000),
        ("B", 1),
    ];
    let unit = UNITS.iter().find_map(|&(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
    let (number, unit) = unit.unwrap_or((text, 1));
    let bytes = match (number.parse::<u64>(), number.trim().parse::<f64>()) {
        (Ok(whole), _) => whole.checked_mul(unit),
        // Exact as long as the sizes of files are.
        (_, Ok(number)) => Some(number * unit as f64).filter(|b| (1.0..9e15).contains(b)).map(|b| b as u64),
        _ => {
            return Err(format!(
                "`{text}` is no size: write bytes, or a number with kB, MB, GB, KiB, MiB or GiB"
            ));
        }
    };
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| format!("`{text}` is no size that a file can have"))
}

impl Args {
    /// The options with those of the configuration file where they are not given.
    fn with_config(mut self) -> anyhow::Result<Self> {
        let Some(path) = &self.config else { return Ok(self) };
        let mut file: Self = config_file::read(path, &[".", "--dry-run"], OF_A_CALL)?;
        if self.bpw.is_some()
            || self.size.is_some()
            || self.ratio.is_some()
            || self.preset.is_some()
            || self.codec.is_some()
        {
            (file.bpw, file.size, file.ratio, file.preset, file.codec) = (None, None, None, None, None);
        }
        self.tensor.append(&mut file.tensor);
        Ok(Self {
            output: self.output.or(file.output),
            bpw: self.bpw.or(file.bpw),
            size: self.size.or(file.size),
            ratio: self.ratio.or(file.ratio),
            preset: self.preset.or(file.preset),
            embedding_bpw: self.embedding_bpw.or(file.embedding_bpw),
            fold: self.fold.or(file.fold),
            codec: self.codec.or(file.codec),
            calibration: self.calibration.or(file.calibration),
            calibration_tokens: self.calibration_tokens.or(file.calibration_tokens),
            refine: self.refine.or(file.refine),
            refine_steps: self.refine_steps.or(file.refine_steps),
            seed: self.seed.or(file.seed),
            memory: self.memory.or(file.memory),
            name: self.name.or(file.name),
            model_version: self.model_version.or(file.model_version),
            license: self.license.or(file.license),
            sign: self.sign.or(file.sign),
            report: self.report.or(file.report),
            ..self
        })
    }

    /// What the codecs may take, and the codec of the embedding if it is given.
    fn budget(&self) -> (Budget, Option<MatrixCodec>) {
        let given = [
            self.codec.map(Budget::Codec),
            self.size.map(Budget::Bytes),
            self.ratio.map(Budget::Ratio),
            self.bpw.map(Budget::Bits),
        ];
        match (given.into_iter().flatten().next(), self.preset) {
            (Some(budget), _) => (budget, self.embedding_bpw),
            (None, preset) => {
                let (bits, embedding) = preset.unwrap_or(Preset::Balanced).setting();
                (Budget::Bits(bits), self.embedding_bpw.or(Some(embedding)))
            }
        }
    }

    /// What to compress, and how.
    fn options(self, origin: Option<Origin>) -> Options {
        let (budget, embedding) = self.budget();
        let options = Options::new(self.output.unwrap_or_default(), budget);
        Options {
            embedding,
            fold: self.fold,
            overrides: self.tensor,
            calibration: self.calibration,
            calibration_tokens: self.calibration_tokens.map(|n| n as usize),
            refine: self.refine.unwrap_or_default(),
            refine_steps: self.refine_steps.map_or(DEFAULT_STEPS, |n| n as usize),
            seed: self.seed.unwrap_or(options.seed),
            memory: self.memory.unwrap_or(options.memory),
            name: self.name,
            version: self.model_version.unwrap_or(options.version),
            license: self.license,
            origin,
            report: self.report,
            restart: self.restart,
            stop_after: self.stop_after,
            ..options
        }
    }
}

/// Reads a number of table entries.
fn table_entries(text: &str) -> Result<Fold, String> {
    let fold = text.parse().ok().and_then(Fold::new);
    fold.ok_or_else(|| format!("`{text}` is no number of table entries; write 1, 2, 4 or 8"))
}

/// Runs the command.
///
/// # Errors
/// If the checkpoint can't be read, the output exists or can't be written, or the user stopped it.
pub fn run(args: Args) -> anyhow::Result<()> {
    let args = args.with_config()?;
    if args.output.is_none() && !args.dry_run {
        return Err(anyhow::anyhow!("there is no folder to write to"))
            .hint(|| "add `-o <DIR>`, or `output` to the configuration file".to_owned());
    }
    let model = if args.dry_run { args.model.fetch_headers()? } else { args.model.fetch()? };
    let (path, name, dry_run, json) = (model.path.clone(), args.model.to_string(), args.dry_run, args.json);
    // A key that can't be read is better known before the work than after it.
    let key = args.sign.as_deref().map(read_signing_key).transpose()?;
    let options = args.options(model.origin.clone());
    let folder = options.output.clone();
    let signed = move |summary: Summary| -> anyhow::Result<Summary> {
        if let Some(key) = &key {
            sign(&folder, key, false)?;
        }
        Ok(summary)
    };
    if EncoderCheckpoint::is_at(&path) {
        let checkpoint =
            EncoderCheckpoint::open(&path).with_context(|| format!("`{name}` can't be compressed"))?;
        if dry_run {
            return forecasted(&compress::encoder::forecast(&checkpoint, &options)?, None, json);
        }
        stop_on_interrupt()?;
        return finished(&signed(compress::encoder::run(&checkpoint, &options)?)?, json);
    }
    let checkpoint = Checkpoint::open(&path)
        .with_context(|| format!("`{name}` can't be compressed"))
        .hint(|| "name a folder with config.json, tokenizer.json and model.safetensors, or a file `*.gguf` or `*.bin`".to_owned())?;
    if dry_run {
        let context = checkpoint.config().max_position_embeddings;
        return forecasted(&compress::forecast(&checkpoint, &options)?, Some(context), json);
    }
    stop_on_interrupt()?;
    finished(&signed(compress::run(&checkpoint, &options)?)?, json)
}

/// Shows what a compression would come to; `context` is that of a decoder, in tokens.
fn forecasted(forecast: &Forecast, context: Option<usize>, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(forecast);
    }
    print_forecast(forecast, context);
    Ok(())
}

/// Shows what a compression came to.
fn finished(summary: &Summary, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(summary);
    }
    print(summary);
    Ok(())
}

fn print_forecast(forecast: &Forecast, context: Option<usize>) {
    let f = forecast;
    crate::say!("Parameters: {}", output::count(f.parameters));
    if f.exact {
        crate::say!(
            "Size: {} ({} bytes at most, up to {} fewer by the digits of what is measured), {}",
            output::bytes(f.bytes),
            output::count(f.bytes),
            f.variable_bytes,
            output::counted(f.shards as u64, "shard")
        );
    } else {
        crate::say!(
            "Size: about {}, {}; which codecs get how many bits depends on what is measured",
            output::bytes(f.bytes),
            output::counted(f.shards as u64, "shard")
        );
    }
    crate::say!("Ratio: {:.1} times smaller than FP32, {:.1} than FP16", f.ratio_fp32, f.ratio_fp16);
    crate::say!(
        "Bits per weight: {:.2} in the layers ({:.2} codes), {:.2} in embedding and head, {:.2} in all",
        f.bits_per_weight_body,
        f.bits_per_weight_codes,
        f.bits_per_weight_embedding,
        f.bits_per_weight_file
    );
    let weights = output::bytes(f.estimates.heap_bytes);
    match context {
        Some(context) => crate::say!(
            "Memory in a canister: {weights} of weights, {} of cache per token ({} for a context of {})",
            output::bytes(f.estimates.cache_bytes_per_token),
            output::bytes(f.estimates.cache_bytes_per_token * context as u64),
            output::count(context as u64)
        ),
        None => crate::say!("Memory in a canister: {weights} of weights"),
    }
    crate::say!(
        "Instructions: {} per token in a canister, estimated",
        output::count(f.estimates.instructions_per_token)
    );
    crate::say!("Calibration: {} tokens", output::count(f.calibration_tokens as u64));
    crate::say!("Memory to compress: at most {}", output::bytes(f.cost.peak_memory_bytes));
    crate::say!(
        "Time to compress: about {}, at the speed of this machine with a sample of random weights",
        output::duration(f.cost.seconds)
    );
    crate::say!("");
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let number = |number: u64| if number == 0 { "-".to_owned() } else { output::count(number) };
    let mut rows: Vec<[String; 6]> = (f.kinds.iter())
        .map(|kind| {
            let bits = 8.0 * kind.bytes as f64 / kind.weights as f64;
            [
                kind.kind.to_owned(),
                number(kind.tensors as u64),
                number(kind.weights),
                dash(kind.codecs.join(", ")),
                output::count(kind.bytes),
                if kind.weights == 0 { "-".to_owned() } else { format!("{bits:.2}") },
            ]
        })
        .collect();
    rows.push([
        "all".to_owned(),
        output::count(f.kinds.iter().map(|kind| kind.tensors as u64).sum()),
        output::count(f.parameters),
        "-".to_owned(),
        output::count(f.bytes),
        format!("{:.2}", f.bits_per_weight_file),
    ]);
    output::table(["kind", "tensors", "weights", "codecs", "bytes", "bits per weight"], rows.into_iter());
}

/// The first Ctrl-C lets the layer in work end, the second ends the program; what is stored stays whole either way.
pub(super) fn stop_on_interrupt() -> anyhow::Result<()> {
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
    if let Some(memory) = summary.peak_memory_bytes {
        crate::say!("Peak memory: {}", output::bytes(memory));
    }
    crate::say!("Time: {:.1} s", summary.seconds);
    if let Some(report) = &summary.report {
        crate::say!("Report: `{}`", report.display());
    }
    if let Some(measured) = &summary.similarity {
        crate::say!(
            "Quality: cosine to the original's embeddings {:.4} on average, {:.4} at least",
            measured.mean_cosine,
            measured.min_cosine
        );
        crate::say!("Measured on: {} {}", measured.texts, measured.text);
    }
}
