//! Size against quality: one checkpoint compressed with several settings.

mod chart;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use novaq_engine::artifact::SourceFile;
use serde::{Deserialize, Serialize};

use crate::artifact_dir::{ArtifactDir, MANIFEST_FILE};
use crate::checkpoint::Checkpoint;
use crate::compress::{self, Budget, Options};
use crate::output::HintExt;

/// What one setting gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The setting.
    pub setting: Budget,
    /// The artifact's folder.
    pub artifact: PathBuf,
    /// Bytes of all its files.
    pub bytes: u64,
    /// All bits per weight of the layers.
    pub bits_per_weight_body: f64,
    /// Bits of all files per weight.
    pub bits_per_weight_file: f64,
    /// How many times smaller than the weights in 32-bit floats.
    pub ratio_fp32: f64,
    /// KL divergence from the original, in nats per token.
    pub kl: f64,
    /// Perplexity on the original's held-out text.
    pub perplexity: f64,
    /// Perplexity of the original on it.
    pub perplexity_original: f64,
    /// `perplexity / perplexity_original`.
    pub perplexity_ratio: f64,
    /// Share of positions at which both find the same token most likely.
    pub top1_agreement: f64,
}

/// Everything that all points have in common; a folder holds the points of one frontier.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Common {
    novaq: String,
    seed: u64,
    calibration: Option<PathBuf>,
    calibration_tokens: Option<usize>,
    sources: Vec<SourceFile>,
}

/// Names of the files of a frontier, in its folder.
const COMMON: &str = "settings.json";
const TEXT: &str = "text.json";
/// The points.
pub const POINTS: &str = "frontier.json";
/// The drawings.
pub const DRAWINGS: [&str; 2] = ["frontier.svg", "frontier.png"];

/// The name of the artifact of `setting`.
fn artifact_name(setting: Budget) -> String {
    match setting {
        Budget::Bits(bits) => format!("bpw-{bits}"),
        Budget::Codec(codec) => format!("codec-{codec}"),
        Budget::Bytes(bytes) => format!("size-{bytes}"),
        Budget::Ratio(ratio) => format!("ratio-{ratio}"),
    }
}

/// Compresses `checkpoint` with each of `settings` to an artifact in `folder`; what is there already is taken as it is.
/// `options` are those of every artifact, but for output and budget. `done` is told of each point.
///
/// # Errors
/// If `folder` holds the frontier of something else, or as [`compress::run`].
pub fn run(
    checkpoint: &Checkpoint,
    options: &Options,
    settings: &[Budget],
    folder: &Path,
    mut done: impl FnMut(&Point),
) -> anyhow::Result<Vec<Point>> {
    fs::create_dir_all(folder).with_context(|| format!("`{}` can't be made", folder.display()))?;
    let common = Common {
        novaq: env!("CARGO_PKG_VERSION").to_owned(),
        seed: options.seed,
        calibration: options.calibration.clone(),
        calibration_tokens: options.calibration_tokens,
        sources: checkpoint.source_files()?,
    };
    let path = folder.join(COMMON);
    if path.exists() {
        let bytes = fs::read(&path).with_context(|| format!("`{}` can't be read", path.display()))?;
        if serde_json::from_slice::<Common>(&bytes).ok().is_none_or(|before| before != common) {
            return Err(anyhow::anyhow!(
                "`{}` holds artifacts of another model or with other options",
                folder.display()
            ))
            .hint(|| "write to another folder with `-o`".to_owned());
        }
    } else {
        compress::write_whole(&path, &serde_json::to_vec_pretty(&common)?)?;
    }
    let mut points = Vec::new();
    for &setting in settings {
        let output = folder.join(artifact_name(setting));
        if !output.join(MANIFEST_FILE).exists() {
            let options = Options {
                output: output.clone(),
                budget: setting,
                text: Some(folder.join(TEXT)),
                report: None,
                ..options.clone()
            };
            compress::run(checkpoint, &options)?;
        }
        let point = Point::of(setting, output)?;
        done(&point);
        points.push(point);
    }
    points.sort_by_key(|point| point.bytes);
    points.dedup_by_key(|point| point.artifact.clone());
    compress::write_whole(&folder.join(POINTS), &serde_json::to_vec_pretty(&points)?)?;
    let [svg, png] = DRAWINGS.map(|name| folder.join(name));
    compress::write_whole(&svg, chart::svg(&title(checkpoint, options), &points)?.as_bytes())?;
    compress::write_whole(&png, &chart::png(&title(checkpoint, options), &points)?)?;
    Ok(points)
}

/// What the drawings are of.
fn title(checkpoint: &Checkpoint, options: &Options) -> String {
    let path = checkpoint.path().canonicalize().unwrap_or_else(|_| checkpoint.path().to_owned());
    let of_path = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = options.name.clone();
    name.or_else(|| options.origin.as_ref().map(|origin| origin.repository.clone())).unwrap_or(of_path)
}

impl Point {
    fn of(setting: Budget, artifact: PathBuf) -> anyhow::Result<Self> {
        let opened = ArtifactDir::open(&artifact)?;
        let manifest = opened.manifest();
        let measured = manifest.verification.as_ref();
        let measured = measured.with_context(|| format!("`{}` was not measured", artifact.display()))?;
        let sizes = &manifest.compression;
        Ok(Self {
            setting,
            bytes: sizes.bytes,
            bits_per_weight_body: sizes.bits_per_weight_body,
            bits_per_weight_file: sizes.bits_per_weight_file,
            ratio_fp32: sizes.ratio_fp32,
            kl: measured.kl,
            perplexity: measured.perplexity,
            perplexity_original: measured.perplexity_original,
            perplexity_ratio: measured.perplexity / measured.perplexity_original,
            top1_agreement: measured.top1_agreement,
            artifact,
        })
    }

    /// The setting in a few letters.
    fn label(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = match self.setting {
            Budget::Bits(1.0) => write!(text, "1 bit"),
            Budget::Bits(bits) => write!(text, "{bits} bits"),
            Budget::Codec(codec) => write!(text, "{codec}"),
            Budget::Bytes(_) | Budget::Ratio(_) => write!(text, "{:.2} bits", self.bits_per_weight_body),
        };
        text
    }
}
