//! Writing the artifact.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use novaq_engine::artifact::{
    Estimates, Manifest, ManifestDraft, Origin, ShardSink, SourceFile, VectorPrecision, Verification, Writer,
};
use novaq_engine::codec::Matrix;
use novaq_engine::tokenizer::Tokenizer;
use sha2::{Digest, Sha256};

use super::Options;
use super::job::Job;
use super::plan::Part;
use crate::checkpoint::Checkpoint;

/// The folder in which the work for `output` is kept until it is complete.
pub(super) fn work_folder(output: &Path) -> PathBuf {
    let mut name = output.file_name().map_or_else(|| OsString::from("artifact"), OsString::from);
    name.push(".partial");
    output.with_file_name(name)
}

/// What the manifest says beyond sizes and tables.
pub(super) fn draft(
    checkpoint: &Checkpoint,
    options: &Options,
    files: Vec<SourceFile>,
    calibration: String,
    verification: Option<Verification>,
    estimates: Estimates,
) -> anyhow::Result<ManifestDraft> {
    let path = checkpoint.path().canonicalize().context("the checkpoint has gone")?;
    let repository = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    Ok(ManifestDraft {
        name: options.name.clone().unwrap_or_else(|| name.unwrap_or_default().to_string_lossy().into_owned()),
        version: options.version.clone(),
        license: options
            .license
            .clone()
            .or_else(|| checkpoint.license())
            .unwrap_or_else(|| "unspecified".to_owned()),
        origin: Origin { repository, revision: None, files },
        architecture: checkpoint.config().clone().into(),
        tokenizer_sha256: Sha256::digest(checkpoint.tokenizer_json()?).into(),
        chat_template: checkpoint.chat_template(),
        seed: options.seed,
        calibration,
        verification,
        similarity: None,
        estimates,
        tags: Vec::new(),
    })
}

/// Keeps shards as files.
struct Folder(PathBuf);

impl ShardSink for Folder {
    fn shard(&mut self, index: u32, bytes: &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(fs::write(self.0.join(format!("shard-{index:05}.novaq")), bytes)?)
    }
}

/// The folder inside the work folder in which the artifact is put together.
fn artifact_folder(job: &Job) -> PathBuf {
    job.folder().join("artifact")
}

/// Writes shards and manifest to the work folder, tensors in the order in which the forward pass needs them.
pub(super) fn write(
    checkpoint: &Checkpoint,
    job: &Job,
    matrices: &BTreeMap<String, Matrix>,
    tokenizer: &Tokenizer,
    draft: ManifestDraft,
) -> anyhow::Result<Manifest> {
    let folder = artifact_folder(job);
    fs::create_dir_all(&folder).with_context(|| format!("`{}` can't be made", folder.display()))?;
    let mut sink = Folder(folder.clone());
    let mut writer = Writer::new(&mut sink);
    writer.tokenizer(&tokenizer.to_bytes())?;
    let matrix = |writer: &mut Writer, name: &str| -> anyhow::Result<()> {
        match matrices.get(name).with_context(|| format!("`{name}` was not quantized"))? {
            // Only the 16-bit codec gives dense matrices.
            Matrix::Dense(m) => {
                let shape = vec![m.rows(), m.columns()];
                let values: Vec<f32> = (0..m.rows()).flat_map(|r| m.row(r)).copied().collect();
                writer.floats(name, shape, &values, VectorPrecision::F16)?;
            }
            matrix => writer.matrix(name, matrix)?,
        }
        Ok(())
    };
    let vector = |writer: &mut Writer, name: &str| -> anyhow::Result<()> {
        Ok(writer.vector(name, &checkpoint.vector(name)?, VectorPrecision::F16)?)
    };
    for part in Part::all(checkpoint) {
        match part.matrix() {
            Some(_) => matrix(&mut writer, &part.name)?,
            None => vector(&mut writer, &part.name)?,
        }
    }
    let manifest = writer.finish(draft)?;
    let path = folder.join("manifest.json");
    fs::write(&path, manifest.to_bytes()?)
        .with_context(|| format!("`{}` can't be written", path.display()))?;
    Ok(manifest)
}

/// Moves the finished artifact to `output` and removes the work folder.
pub(super) fn publish(job: Job, output: &Path) -> anyhow::Result<()> {
    fs::rename(artifact_folder(&job), output)
        .with_context(|| format!("`{}` can't be made", output.display()))?;
    job.finish()
}
