//! The work folder: what is done so far, so that a compression that was stopped goes on where it was.
//!
//! Every file is written under another name first and renamed when it is whole.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use half::f16;
use novaq_engine::artifact::SourceFile;
use novaq_engine::codec::{AqMatrix, Codebooks, DenseMatrix, Fp8Matrix, Int4Matrix, Int8Matrix, Matrix};
use safetensors::tensor::{SafeTensors, TensorView};
use safetensors::{Dtype, serialize};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Budget;
use super::matrices::half_bytes;
use super::output::write_whole;
use super::plan::{Additive, MatrixCodec, Named, Plan};
use crate::output::HintExt;

/// Everything that the result depends on; a job goes on only with the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// Version of this program.
    pub(super) novaq: String,
    pub(super) seed: u64,
    pub(super) budget: Budget,
    pub(super) embedding: Option<MatrixCodec>,
    pub(super) named: Named,
    /// The plan, where it follows from the headers.
    pub(super) plan: Option<Plan>,
    pub(super) calibration: String,
    pub(super) calibration_tokens: usize,
    pub(super) sources: Vec<SourceFile>,
}

/// Matrices that are done, by name, and what is to be reported of them.
#[derive(Clone, Default)]
pub(super) struct Unit {
    pub(super) matrices: BTreeMap<String, Matrix>,
    pub(super) records: BTreeMap<String, Record>,
}

impl Unit {
    /// Records the matrices `names`, quantized together since `began`; the time is shared by their weights.
    pub(super) fn record(&mut self, names: &[&str], relative_error: f64, began: Instant) {
        let weights = |name: &&str| self.matrices.get(*name).map_or(0, |m| m.rows() * m.columns()) as f64;
        let seconds = began.elapsed().as_secs_f64() / names.iter().map(weights).sum::<f64>();
        let records = names.iter().map(|name| {
            let record = Record { relative_error: Some(relative_error), seconds: seconds * weights(name) };
            ((*name).to_owned(), record)
        });
        let records: Vec<_> = records.collect();
        self.records.extend(records);
    }
}

/// What is to be reported of a matrix.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// Relative error of the outputs of what was quantized with it, if it was measured.
    pub(super) relative_error: Option<f64>,
    /// Its share of the time that this took.
    pub(super) seconds: f64,
}

/// What the steps of a job took so far, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Times {
    pub(super) text: f64,
    pub(super) quantization: f64,
    pub(super) measurement: f64,
}

/// A set of matrices to be read back: name, shape.
pub(super) type Shapes = Vec<(String, [usize; 2])>;

/// A job's work folder.
pub(super) struct Job {
    folder: PathBuf,
}

const SETTINGS: &str = "settings.json";
const TIMES: &str = "times.json";

/// What stands in place of a codebook set's number for matrices that have none.
const INT4: &str = "int4";
const INT8: &str = "int8";
const FP8: &str = "fp8";
const F16: &str = "f16";

impl Job {
    /// Opens the work folder, or makes it. With `restart`, what is there is thrown away.
    pub(super) fn open(folder: PathBuf, settings: &Settings, restart: bool) -> anyhow::Result<Self> {
        if restart && folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("`{}` can't be removed", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("`{}` can't be made", folder.display()))?;
        let job = Self { folder };
        match job.json::<Settings>(SETTINGS)? {
            None => job.write(SETTINGS, &serde_json::to_vec_pretty(settings)?)?,
            Some(before) if before == *settings => {}
            Some(_) => {
                return Err(anyhow::anyhow!("`{}` holds work with other settings", job.folder.display()))
                    .hint(|| "add `--restart` to throw it away, or write to another folder".to_owned());
            }
        }
        Ok(job)
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads a JSON file, or `None` if it isn't there yet.
    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let path = self.folder.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = fs::read(&path).with_context(|| format!("`{}` can't be read", path.display()))?;
        let value = serde_json::from_slice(&bytes)
            .with_context(|| format!("`{}` is damaged", path.display()))
            .hint(|| "add `--restart` to begin again".to_owned())?;
        Ok(Some(value))
    }

    /// Writes a file whole or not at all.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        write_whole(&self.folder.join(name), bytes)
    }

    /// What the steps took so far.
    pub(super) fn times(&self) -> anyhow::Result<Times> {
        Ok(self.json(TIMES)?.unwrap_or_default())
    }

    /// Adds the time since `began` to that of a step.
    pub(super) fn spend(
        &self,
        step: impl FnOnce(&mut Times) -> &mut f64,
        began: Instant,
    ) -> anyhow::Result<()> {
        let mut times = self.times()?;
        *step(&mut times) += began.elapsed().as_secs_f64();
        self.write(TIMES, &serde_json::to_vec(&times)?)
    }

    fn unit_name(name: &str) -> String {
        format!("{name}.safetensors")
    }

    /// Whether a unit is done.
    pub(super) fn has(&self, name: &str) -> bool {
        self.folder.join(Self::unit_name(name)).exists()
    }

    /// Stores a unit: every codebook set once, every matrix in its stored form.
    pub(super) fn store(&self, name: &str, unit: &Unit) -> anyhow::Result<()> {
        let mut sets: Vec<&Arc<Codebooks>> = Vec::new();
        let mut sections: Vec<(String, Vec<u8>)> = Vec::new();
        for (name, matrix) in &unit.matrices {
            let matrix = match matrix {
                Matrix::Aq(matrix) => matrix,
                Matrix::Int4(matrix) => {
                    sections.push((format!("{INT4}:{name}"), matrix.to_bytes()));
                    continue;
                }
                Matrix::Int8(matrix) => {
                    sections.push((format!("{INT8}:{name}"), matrix.to_bytes()));
                    continue;
                }
                Matrix::Fp8(matrix) => {
                    sections.push((format!("{FP8}:{name}"), matrix.to_bytes()));
                    continue;
                }
                // Only the 16-bit codec gives dense matrices.
                Matrix::Dense(matrix) => {
                    sections.push((format!("{F16}:{name}"), half_bytes(matrix)));
                    continue;
                }
            };
            let known = sets.iter().position(|set| Arc::ptr_eq(set, matrix.codebooks()));
            let set = known.unwrap_or_else(|| {
                sets.push(matrix.codebooks());
                sets.len() - 1
            });
            sections.push((format!("{set}:{name}"), matrix.to_bytes()));
        }
        for (index, set) in sets.iter().enumerate() {
            sections.push((format!("{index}:{}x16@{}", set.count(), set.dimension()), set.to_bytes()));
        }
        let records: HashMap<String, String> = unit
            .records
            .iter()
            .map(|(name, record)| Ok((name.clone(), serde_json::to_string(record)?)))
            .collect::<Result<_, serde_json::Error>>()?;
        let views: Vec<(&str, TensorView)> = sections
            .iter()
            .map(|(name, bytes)| Ok((name.as_str(), TensorView::new(Dtype::U8, vec![bytes.len()], bytes)?)))
            .collect::<Result<_, safetensors::SafeTensorError>>()?;
        self.write(&Self::unit_name(name), &serialize(views, Some(records))?)
    }

    /// Reads back a unit of matrices with these shapes.
    pub(super) fn load(&self, name: &str, shapes: &Shapes) -> anyhow::Result<Unit> {
        let path = self.folder.join(Self::unit_name(name));
        let bytes = fs::read(&path).with_context(|| format!("`{}` can't be read", path.display()))?;
        parse(&bytes, shapes)
            .with_context(|| format!("`{}` is damaged", path.display()))
            .hint(|| "add `--restart` to begin again".to_owned())
    }

    /// Removes the folder when its work is done.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("`{}` can't be removed", self.folder.display()))
    }
}

fn parse(bytes: &[u8], shapes: &Shapes) -> anyhow::Result<Unit> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let sections = SafeTensors::deserialize(bytes)?;
    let mut sets: BTreeMap<&str, Arc<Codebooks>> = BTreeMap::new();
    let names = sections.names();
    let split: Vec<(&str, &str)> = names.iter().filter_map(|name| name.split_once(':')).collect();
    for (set, name) in &split {
        if let Ok(codec) = name.parse::<Additive>() {
            let bytes = sections.tensor(&format!("{set}:{name}"))?;
            sets.insert(set, Arc::new(Codebooks::from_bytes(codec.books, codec.dim, bytes.data())?));
        }
    }
    let mut unit = Unit::default();
    for (name, [rows, columns]) in shapes {
        let found = split.iter().find(|(_, n)| n == name);
        let (set, _) = found.with_context(|| format!("`{name}` is missing"))?;
        let bytes = sections.tensor(&format!("{set}:{name}"))?.data();
        let matrix = match *set {
            INT4 => Matrix::Int4(Int4Matrix::from_bytes(*rows, *columns, bytes)?),
            INT8 => Matrix::Int8(Int8Matrix::from_bytes(*rows, *columns, bytes)?),
            FP8 => Matrix::Fp8(Fp8Matrix::from_bytes(*rows, *columns, bytes)?),
            F16 => {
                let halves = bytes.as_chunks().0.iter();
                let values = halves.map(|&b| f16::from_le_bytes(b).to_f32()).collect();
                Matrix::Dense(DenseMatrix::new(*rows, *columns, values)?)
            }
            set => {
                let codebooks =
                    sets.get(set).with_context(|| format!("the codebooks of `{name}` are missing"))?;
                Matrix::Aq(AqMatrix::from_bytes(*rows, *columns, Arc::clone(codebooks), false, bytes)?)
            }
        };
        unit.matrices.insert(name.clone(), matrix);
    }
    for (name, record) in metadata.metadata().iter().flatten() {
        unit.records.insert(name.clone(), serde_json::from_str(record)?);
    }
    Ok(unit)
}
