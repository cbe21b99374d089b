//! `novaq frontier`: size against quality for several settings.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args as ClapArgs;

use crate::refine::{DEFAULT_STEPS, Refine};

use crate::checkpoint::Checkpoint;
use crate::compress::{Budget, DEFAULT_MEMORY, Options};
use crate::frontier::{self, DRAWINGS, POINTS, Point};
use crate::hub::Location;
use crate::{output, say};

use super::compress::{bits_per_weight, bytes, stop_on_interrupt};

/// Compress a checkpoint with several settings, and draw size against quality.
///
/// The folder gets an artifact for each setting, `frontier.json` with all points, and `frontier.svg` and `frontier.png`.
/// The same command goes on where it was stopped; more settings may be asked for later.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The checkpoint, as `novaq compress` takes it.
    #[arg(value_name = "MODEL")]
    model: Location,

    /// Folder of the artifacts and drawings.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,

    /// Bits per weight of the layers, several by commas [default: 1,1.5,2,3,4 where no `--size` is given].
    #[arg(long, value_name = "BITS", value_delimiter = ',', value_parser = bits_per_weight)]
    bpw: Vec<f64>,

    /// Sizes of the whole artifact, several by commas, as `2MB,4MB`.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', value_parser = bytes)]
    size: Vec<u64>,

    /// Text to calibrate on; without it the model writes its own, at temperature 1.
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,

    /// Tokens of calibration text.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(256..))]
    calibration_tokens: Option<u32>,

    /// How far the original teaches the compressed models what it would have said.
    #[arg(long, default_value_t, value_enum)]
    refine: Refine,

    /// Steps of `--refine full`, each on 8 sequences of text.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_STEPS)]
    refine_steps: usize,

    /// Seed of all random choices.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Memory for weights and caches while the model writes text [default: 1GiB].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,

    /// Print the points as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the checkpoint can't be read, the folder holds something else, or the user stopped it.
pub fn run(args: Args) -> anyhow::Result<()> {
    let model = args.model.fetch()?;
    let checkpoint =
        Checkpoint::open(&model.path).with_context(|| format!("`{}` can't be compressed", args.model))?;
    let mut settings: Vec<Budget> = args.bpw.iter().map(|&bits| Budget::Bits(bits)).collect();
    settings.extend(args.size.iter().map(|&bytes| Budget::Bytes(bytes)));
    if settings.is_empty() {
        settings.extend([1.0, 1.5, 2.0, 3.0, 4.0].map(Budget::Bits));
    }
    let options = Options {
        calibration: args.calibration,
        calibration_tokens: args.calibration_tokens.map(|n| n as usize),
        refine: args.refine,
        refine_steps: args.refine_steps,
        seed: args.seed,
        memory: args.memory.unwrap_or(DEFAULT_MEMORY),
        origin: model.origin,
        ..Options::new(PathBuf::new(), settings[0])
    };
    stop_on_interrupt()?;
    let done = |point: &Point| {
        if !args.json {
            let size = output::bytes(point.bytes);
            say!("Done: {}, {size}, KL {:.4}", point.setting, point.kl);
        }
    };
    let points = frontier::run(&checkpoint, &options, &settings, &args.output, done)?;
    if args.json {
        return output::json(&points);
    }
    say!("");
    let rows = points.iter().map(|p| {
        [
            p.setting.to_string(),
            output::count(p.bytes),
            format!("{:.1}", p.ratio_fp32),
            format!("{:.2}", p.bits_per_weight_body),
            format!("{:.4}", p.kl),
            format!("{:.3}", p.perplexity_ratio),
            format!("{:.1} %", 100.0 * p.top1_agreement),
        ]
    });
    let heads =
        ["setting", "bytes", "times smaller", "bits per weight", "KL", "perplexity ratio", "same top token"];
    output::table(heads, rows);
    say!("");
    let file = |name: &str| args.output.join(name).display().to_string();
    say!("Files: `{}`, `{}`, `{}`", file(POINTS), file(DRAWINGS[0]), file(DRAWINGS[1]));
    Ok(())
}
