//! What a compression came to, matrix by matrix: the file beside the artifact, and its table.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use novaq_engine::artifact::{Compression, Manifest, Similarity, Verification};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::job::{Settings, Times};
use super::output::Written;
use super::plan::{Layout, Part, Plan};
use super::{Budget, Options};
use crate::output::{bytes, count, duration};
use crate::refine::Refine;
use crate::resources::Usage;

/// The report's version; a change that readers have to know of makes it larger.
const VERSION: u32 = 1;

/// What a compression came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Version of this form: 1.
    pub version: u32,
    /// Version of the program.
    pub novaq: String,
    /// Name of the model.
    pub name: String,
    /// Id of the model: SHA-256 of the manifest, in hexadecimal.
    pub id: String,
    /// Where the checkpoint comes from.
    pub repository: String,
    /// The commit of the checkpoint, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// What was asked for.
    pub settings: ReportSettings,
    /// Every matrix, in the order of the forward pass.
    pub matrices: Vec<MatrixReport>,
    /// Sizes, as in the manifest.
    pub totals: Compression,
    /// Quality of a decoder on held-out text, as in the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Verification>,
    /// Quality of an encoder on held-out texts, as in the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<Similarity>,
    /// What each step took, interrupted calls included.
    pub seconds: Seconds,
    /// Most memory resident at a time during the last call, in bytes, if the system says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportSettings {
    /// What the codecs could take.
    pub budget: Budget,
    /// Seed of all random choices.
    pub seed: u64,
    /// The calibration text.
    pub calibration: String,
    /// Tokens of it that were asked for.
    pub calibration_tokens: usize,
    /// How far the original refined the result.
    #[serde(default)]
    pub refine: Refine,
    /// Steps of the refinement of the whole model, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refine_steps: Option<usize>,
}

/// One matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MatrixReport {
    /// Name in the checkpoint.
    pub name: String,
    /// `[rows, columns]`.
    pub shape: [usize; 2],
    /// The codec: `Mx16@D` for M codebooks of 16 over vectors of D weights, `int8` or `f16`.
    pub codec: String,
    /// Bytes, row scales included and shared codebooks not.
    pub bytes: u64,
    /// Bits per weight of these bytes.
    pub bits_per_weight: f64,
    /// Squared error of the output of all matrices that read this input, relative to the output, on the calibration text;
    /// absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f64>,
    /// Time that it took, in seconds: its share, by its weights, of what was quantized together.
    pub seconds: f64,
}

/// Times, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Seconds {
    /// Sampling text from the original.
    pub text: f64,
    /// Quantizing, layers refined one by one included.
    pub quantization: f64,
    /// Refining the whole model.
    #[serde(default)]
    pub refinement: f64,
    /// Measuring the result.
    pub measurement: f64,
    /// All of it.
    pub total: f64,
}

/// Where the report of the artifact at `output` is, if nothing else is said: beside it, since an artifact is its manifest
/// and its shards and nothing else.
pub fn beside(output: &Path) -> PathBuf {
    let mut name = output.file_name().map_or_else(|| OsString::from("artifact"), OsString::from);
    name.push(".report.json");
    output.with_file_name(name)
}

impl Report {
    pub(super) fn new(
        layout: &dyn Layout,
        options: &Options,
        settings: &Settings,
        plan: &Plan,
        written: &Written,
        times: &Times,
    ) -> anyhow::Result<Self> {
        let manifest: &Manifest = &written.manifest;
        let section =
            |name: &str| manifest.tensors.iter().find(|t| t.name == name).map_or(0, |t| t.section.length);
        let matrices = Part::all(layout).into_iter().filter_map(|part| {
            let shape = part.matrix()?;
            let record = written.records.get(&part.name).copied().unwrap_or_default();
            let bytes = section(&part.name);
            Some(MatrixReport {
                codec: plan.codec(&part).to_string(),
                shape,
                bytes,
                bits_per_weight: 8.0 * bytes as f64 / part.weights() as f64,
                relative_error: record.relative_error,
                seconds: record.seconds,
                name: part.name,
            })
        });
        Ok(Self {
            version: VERSION,
            novaq: settings.novaq.clone(),
            name: manifest.name.clone(),
            id: hex::encode(manifest.id()?),
            repository: manifest.origin.repository.clone(),
            revision: manifest.origin.revision.clone(),
            settings: ReportSettings {
                budget: options.budget,
                seed: options.seed,
                calibration: settings.calibration.clone(),
                calibration_tokens: settings.calibration_tokens,
                refine: settings.refine,
                refine_steps: (settings.refine == Refine::Full).then_some(settings.refine_steps),
            },
            matrices: matrices.collect(),
            totals: manifest.compression.clone(),
            quality: manifest.verification.clone(),
            similarity: manifest.similarity.clone(),
            seconds: Seconds {
                text: times.text,
                quantization: times.quantization,
                refinement: times.refinement,
                measurement: times.measurement,
                total: times.text + times.quantization + times.refinement + times.measurement,
            },
            peak_memory_bytes: Usage::of_this_process().map(|usage| usage.peak_memory),
        })
    }

    /// Reads a report.
    ///
    /// # Errors
    /// If the file can't be read or is no report.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("`{}` can't be read", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("`{}` is no report", path.display()))
    }

    /// The report in Markdown: its facts and a table of the matrices.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_markdown(&mut text);
        text
    }

    fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        let t = &self.totals;
        writeln!(out, "# {}\n", self.name)?;
        writeln!(out, "- Id: {}", self.id)?;
        let revision = self.revision.as_ref().map(|commit| format!(" at {commit}")).unwrap_or_default();
        writeln!(out, "- Made of: {}{revision}, by novaq {}", self.repository, self.novaq)?;
        writeln!(out, "- Asked for: {}, seed {}", self.settings.budget, self.settings.seed)?;
        let tokens = count(self.settings.calibration_tokens as u64);
        writeln!(out, "- Calibration: {}, {tokens} tokens", self.settings.calibration)?;
        match (self.settings.refine, self.settings.refine_steps) {
            (Refine::None, _) => {}
            (refine, None) => writeln!(out, "- Refinement: {refine}")?,
            (refine, Some(steps)) => writeln!(out, "- Refinement: {refine}, {steps} steps")?,
        }
        writeln!(out, "- Size: {}, {:.1} times smaller than 32-bit floats", bytes(t.bytes), t.ratio_fp32)?;
        writeln!(
            out,
            "- Bits per weight: {:.2} in the layers ({:.2} codes), {:.2} in embedding and head, {:.2} over all files",
            t.bits_per_weight_body,
            t.bits_per_weight_codes,
            t.bits_per_weight_embedding,
            t.bits_per_weight_file
        )?;
        if let Some(q) = &self.quality {
            writeln!(
                out,
                "- Quality: KL {:.4} nats per token, perplexity {:.3} (original {:.3}), same top token {:.1} %, on {} tokens {}",
                q.kl,
                q.perplexity,
                q.perplexity_original,
                100.0 * q.top1_agreement,
                count(q.tokens),
                q.text
            )?;
        }
        if let Some(s) = &self.similarity {
            writeln!(
                out,
                "- Quality: cosine to the original's embeddings {:.4} on average, {:.4} at least, on {} {}",
                s.mean_cosine,
                s.min_cosine,
                count(s.texts),
                s.text
            )?;
        }
        let s = &self.seconds;
        let [text, quantization, refinement, measurement, total] =
            [s.text, s.quantization, s.refinement, s.measurement, s.total].map(duration);
        writeln!(
            out,
            "- Time: {total}: text {text}, quantization {quantization}, refinement {refinement}, measurement {measurement}"
        )?;
        if let Some(memory) = self.peak_memory_bytes {
            writeln!(out, "- Peak memory: {}", bytes(memory))?;
        }
        writeln!(out, "\n| matrix | shape | codec | bits per weight | bytes | relative error | seconds |")?;
        writeln!(out, "|---|---|---|---|---|---|---|")?;
        for m in &self.matrices {
            let error = m.relative_error.map_or_else(|| "-".to_owned(), |error| format!("{error:.4}"));
            let [rows, columns] = m.shape;
            writeln!(
                out,
                "| {} | {rows} × {columns} | {} | {:.3} | {} | {error} | {:.2} |",
                m.name,
                m.codec,
                m.bits_per_weight,
                count(m.bytes),
                m.seconds
            )?;
        }
        Ok(())
    }

    /// Writes the report to `path` and, as a table, beside it, each whole or not at all.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        super::output::write_whole(path, &json)?;
        super::output::write_whole(&path.with_extension("md"), self.markdown().as_bytes())
    }
}
