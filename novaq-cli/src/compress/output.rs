//! Writing the artifact.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use novaq_engine::artifact::{
    Estimates, Manifest, ManifestDraft, Origin, SourceFile, VectorPrecision, Verification, Writer,
};
use novaq_engine::chat::ChatTemplate;
use novaq_engine::codec::Matrix;
use novaq_engine::model::Architecture;
use novaq_engine::tokenizer::Tokenizer;
use sha2::{Digest, Sha256};

use super::Options;
use super::job::{Job, Record, Unit};
use super::plan::{EMBEDDING, Part};
use super::quantization::{finished, finished_layer};
use crate::artifact_dir::{MANIFEST_FILE, ShardFiles};
use crate::checkpoint::{Checkpoint, split_layer_name};
use crate::output::HintExt;

/// The folder in which the work for `output` is kept until it is complete.
pub(super) fn work_folder(output: &Path) -> PathBuf {
    let mut name = output.file_name().map_or_else(|| OsString::from("artifact"), OsString::from);
    name.push(".partial");
    output.with_file_name(name)
}

/// Fails if there is something at `output`.
pub(super) fn refuse_existing(output: &Path) -> anyhow::Result<()> {
    if output.exists() {
        return Err(anyhow::anyhow!("`{}` exists already", output.display()))
            .hint(|| "remove it, or write to another folder with `-o`".to_owned());
    }
    Ok(())
}

/// What a checkpoint says about its model.
pub(super) struct Described<'a> {
    pub(super) path: &'a Path,
    pub(super) license: Option<String>,
    pub(super) tokenizer_json: Vec<u8>,
    pub(super) chat_template: Option<String>,
    pub(super) architecture: Architecture,
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
    let described = Described {
        path: checkpoint.path(),
        license: checkpoint.license(),
        tokenizer_json: checkpoint.tokenizer_json()?,
        chat_template: checkpoint.chat_template(),
        architecture: checkpoint.config().clone().into(),
    };
    if let Some(Err(error)) = described.chat_template.as_deref().map(|it| ChatTemplate::new(it, None, None)) {
        tracing::warn!("the model will not take conversations: {error}");
    }
    let draft = draft_of(described, options, files, calibration, estimates)?;
    Ok(ManifestDraft { verification, ..draft })
}

/// The same for any model, without measured quality.
pub(super) fn draft_of(
    described: Described,
    options: &Options,
    files: Vec<SourceFile>,
    calibration: String,
    estimates: Estimates,
) -> anyhow::Result<ManifestDraft> {
    let path = described.path.canonicalize().context("the checkpoint has gone")?;
    let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (repository, revision) = match &options.origin {
        Some(origin) => (origin.repository.clone(), Some(origin.revision.clone())),
        None => (file_name, None),
    };
    let name = match &options.origin {
        Some(origin) => origin.repository.rsplit('/').next().map(OsStr::new),
        None if path.is_dir() => path.file_name(),
        None => path.file_stem(),
    };
    Ok(ManifestDraft {
        name: options.name.clone().unwrap_or_else(|| name.unwrap_or_default().to_string_lossy().into_owned()),
        version: options.version.clone(),
        license: options.license.clone().or(described.license).unwrap_or_else(|| "unspecified".to_owned()),
        origin: Origin { repository, revision, files },
        architecture: described.architecture,
        tokenizer_sha256: Sha256::digest(described.tokenizer_json).into(),
        chat_template: described.chat_template,
        seed: options.seed,
        calibration,
        verification: None,
        similarity: None,
        estimates,
        tags: Vec::new(),
    })
}

/// Writes a file whole or not at all: under another name first, which is taken away again if that fails.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(".unfinished");
    let unfinished = path.with_file_name(name);
    let written = fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written.with_context(|| format!("`{}` can't be written", path.display()))
}

/// The folder inside the work folder in which the artifact is put together.
fn artifact_folder(job: &Job) -> PathBuf {
    job.folder().join("artifact")
}

/// What was written.
pub(super) struct Written {
    pub(super) manifest: Manifest,
    /// By the full name of a matrix.
    pub(super) records: BTreeMap<String, Record>,
}

/// Writes shards and manifest to the work folder, tensors in the order in which the forward pass needs them, from what
/// the job has finished; one layer at a time is in memory.
pub(super) fn write(
    checkpoint: &Checkpoint,
    job: &Job,
    tokenizer: &Tokenizer,
    draft: ManifestDraft,
) -> anyhow::Result<Written> {
    write_parts(job, tokenizer, draft, |writer| write_finished(checkpoint, job, writer))
}

/// Adds the tensors that the job has finished; returns what is recorded of them.
fn write_finished(
    checkpoint: &Checkpoint,
    job: &Job,
    writer: &mut Writer,
) -> anyhow::Result<BTreeMap<String, Record>> {
    let mut records = BTreeMap::new();
    // The layer that `unit` is, the last one that was read.
    let mut at = None;
    let mut unit = Unit::default();
    for part in Part::all(checkpoint) {
        let (layer, short) = split_layer_name(&part.name);
        if at != Some(layer) || layer.is_none() {
            unit = match (layer, part.matrix()) {
                (Some(layer), _) => finished_layer(checkpoint, job, layer)?,
                (None, Some(_)) => finished(checkpoint, job, &part.name)?,
                (None, None) => finished(checkpoint, job, EMBEDDING)?,
            };
            at = Some(layer);
        }
        if part.matrix().is_none() {
            let vector = match unit.tensors.vectors.get(short) {
                Some(vector) => vector.clone(),
                None => checkpoint.vector(&part.name)?,
            };
            writer.vector(&part.name, &vector, VectorPrecision::F16)?;
            continue;
        }
        records.extend(unit.records.get(short).map(|record| (part.name.clone(), *record)));
        let matrix = unit.tensors.matrices.get(short);
        let matrix = matrix.with_context(|| format!("`{}` was not quantized", part.name))?;
        write_matrix(writer, &part.name, matrix)?;
    }
    Ok(records)
}

/// Writes a matrix of a unit.
pub(super) fn write_matrix(writer: &mut Writer, name: &str, matrix: &Matrix) -> anyhow::Result<()> {
    match matrix {
        // Only the 16-bit codec gives dense matrices.
        Matrix::Dense(m) => {
            let shape = vec![m.rows(), m.columns()];
            let values: Vec<f32> = (0..m.rows()).flat_map(|r| m.row(r)).copied().collect();
            writer.floats(name, shape, &values, VectorPrecision::F16)?;
        }
        matrix => writer.matrix(name, matrix)?,
    }
    Ok(())
}

/// Writes shards and manifest to the work folder; `tensors` adds the tensors and returns what is recorded of them.
pub(super) fn write_parts(
    job: &Job,
    tokenizer: &Tokenizer,
    draft: ManifestDraft,
    tensors: impl FnOnce(&mut Writer) -> anyhow::Result<BTreeMap<String, Record>>,
) -> anyhow::Result<Written> {
    let folder = artifact_folder(job);
    fs::create_dir_all(&folder).with_context(|| format!("`{}` can't be made", folder.display()))?;
    let mut sink = ShardFiles(folder.clone());
    let mut writer = Writer::new(&mut sink);
    writer.tokenizer(&tokenizer.to_bytes())?;
    let records = tensors(&mut writer)?;
    let manifest = writer.finish(draft)?;
    write_whole(&folder.join(MANIFEST_FILE), &manifest.to_bytes()?)?;
    Ok(Written { manifest, records })
}

/// Moves the finished artifact to `output` and removes the work folder.
pub(super) fn publish(job: Job, output: &Path) -> anyhow::Result<()> {
    fs::rename(artifact_folder(&job), output)
        .with_context(|| format!("`{}` can't be made", output.display()))?;
    job.finish()
}
