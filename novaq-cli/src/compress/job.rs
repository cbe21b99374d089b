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
use novaq_engine::codec::{
    AqMatrix, Codebooks, DenseMatrix, Fp8Matrix, Int4Matrix, Int8Matrix, LowRankMatrix, Matrix,
};
use safetensors::tensor::{SafeTensors, TensorView};
use safetensors::{Dtype, serialize};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Budget;
use super::matrices::half_bytes;
use super::output::write_whole;
use super::plan::{Additive, Folding, MatrixCodec, Named, Plan};
use crate::layered::Tensors;
use crate::output::HintExt;
use crate::refine::Refine;

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
    pub(super) refine: Refine,
    pub(super) refine_steps: usize,
    pub(super) sources: Vec<SourceFile>,
    pub(super) folding: Folding,
}

/// Matrices that are done, by name, and what is to be reported of them.
#[derive(Clone, Default)]
pub(super) struct Unit {
    pub(super) tensors: Tensors,
    pub(super) records: BTreeMap<String, Record>,
}

impl Unit {
    /// Records the matrices `names`, quantized together since `began`; the time is shared by their weights.
    pub(super) fn record(&mut self, names: &[&str], relative_error: f64, began: Instant) {
        let weights =
            |name: &&str| self.tensors.matrices.get(*name).map_or(0, |m| m.rows() * m.columns()) as f64;
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
    #[serde(default)]
    pub(super) refinement: f64,
    pub(super) measurement: f64,
}

/// A set of matrices to be read back: name, shape.
pub(super) type Shapes = Vec<(String, [usize; 2])>;

/// A job's work folder.
pub(super) struct Job {
    folder: PathBuf,
    folding: Folding,
}

const SETTINGS: &str = "settings.json";
const TIMES: &str = "times.json";

/// What stands in place of a codebook set's number for matrices that have none.
const INT4: &str = "int4";
const INT8: &str = "int8";
const FP8: &str = "fp8";
const F16: &str = "f16";
/// The same for vectors, in 32-bit floats.
const VECTOR: &str = "vector";

impl Job {
    /// Opens the work folder, or makes it. With `restart`, what is there is thrown away.
    pub(super) fn open(folder: PathBuf, settings: &Settings, restart: bool) -> anyhow::Result<Self> {
        if restart && folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("`{}` can't be removed", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("`{}` can't be made", folder.display()))?;
        let job = Self { folder, folding: settings.folding };
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
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        let value = serde_json::from_slice(&bytes)
            .with_context(|| format!("`{}` is damaged", self.folder.join(name).display()))
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

    /// Reads a file, or `None` if it isn't there.
    pub(super) fn read(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let path = self.folder.join(name);
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(fs::read(&path).with_context(|| format!("`{}` can't be read", path.display()))?))
    }

    /// Removes a file that is no longer needed.
    pub(super) fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        fs::remove_file(&path).with_context(|| format!("`{}` can't be removed", path.display()))
    }

    /// Whether a unit is done.
    pub(super) fn has(&self, name: &str) -> bool {
        self.folder.join(Self::unit_name(name)).exists()
    }

    /// Stores a unit: every codebook set once, every matrix in its stored form.
    pub(super) fn store<'a>(&self, name: &str, unit: &'a Unit) -> anyhow::Result<()> {
        let mut sets: Vec<&'a Arc<Codebooks>> = Vec::new();
        let mut sections: Vec<(String, Vec<u8>)> = Vec::new();
        for (name, matrix) in &unit.tensors.matrices {
            let mut set = |codebooks: &'a Arc<Codebooks>| {
                let known = sets.iter().position(|set| Arc::ptr_eq(set, codebooks));
                known.unwrap_or_else(|| {
                    sets.push(codebooks);
                    sets.len() - 1
                })
            };
            let (form, bytes) = match matrix {
                Matrix::Aq(matrix) => (set(matrix.codebooks()).to_string(), matrix.to_bytes()),
                Matrix::Int4(matrix) => (INT4.to_owned(), matrix.to_bytes()),
                Matrix::Fp8(matrix) => (FP8.to_owned(), matrix.to_bytes()),
                Matrix::Int8(matrix) => (INT8.to_owned(), matrix.to_bytes()),
                // Only the 16-bit codec gives dense matrices.
                Matrix::Dense(matrix) => (F16.to_owned(), half_bytes(matrix)),
                Matrix::LowRank(matrix) => {
                    let [first, second] = [matrix.first(), matrix.second()].map(|m| set(m.codebooks()));
                    (format!("{first}*{second}*{}", matrix.rank()), matrix.to_bytes())
                }
            };
            sections.push((format!("{form}:{name}"), bytes));
        }
        for (name, vector) in &unit.tensors.vectors {
            let bytes = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
            sections.push((format!("{VECTOR}:{name}"), bytes));
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
        parse(&bytes, shapes, self.folding)
            .with_context(|| format!("`{}` is damaged", path.display()))
            .hint(|| "add `--restart` to begin again".to_owned())
    }

    /// Removes the folder when its work is done.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("`{}` can't be removed", self.folder.display()))
    }
}

fn parse(bytes: &[u8], shapes: &Shapes, folding: Folding) -> anyhow::Result<Unit> {
    let in_layer = shapes.iter().any(|(name, _)| name.contains(".layer"));
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let sections = SafeTensors::deserialize(bytes)?;
    let mut sets: BTreeMap<&str, Arc<Codebooks>> = BTreeMap::new();
    let names = sections.names();
    let split: Vec<(&str, &str)> = names.iter().filter_map(|name| name.split_once(':')).collect();
    for (set, name) in &split {
        if let Ok(codec) = name.parse::<Additive>() {
            let bytes = sections.tensor(&format!("{set}:{name}"))?;
            let codebooks = Codebooks::from_bytes(codec.books, codec.dim, bytes.data())?;
            sets.insert(set, Arc::new(codebooks.with_fold(folding.of(codec, in_layer))));
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
            form => {
                let set = |set: &str| {
                    let set = sets.get(set).map(Arc::clone);
                    set.with_context(|| format!("the codebooks of `{name}` are missing"))
                };
                let parts: Vec<&str> = form.split('*').collect();
                if let &[first, second, rank] = parts.as_slice() {
                    let shape = [*rows, rank.parse()?, *columns];
                    Matrix::LowRank(LowRankMatrix::from_bytes(shape, [set(first)?, set(second)?], bytes)?)
                } else {
                    Matrix::Aq(AqMatrix::from_bytes(*rows, *columns, set(form)?, false, bytes)?)
                }
            }
        };
        unit.tensors.matrices.insert(name.clone(), matrix);
    }
    for (_, name) in split.iter().filter(|(form, _)| *form == VECTOR) {
        let section = sections.tensor(&format!("{VECTOR}:{name}"))?;
        let values = section.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        unit.tensors.vectors.insert((*name).to_owned(), values);
    }
    for (name, record) in metadata.metadata().iter().flatten() {
        unit.records.insert(name.clone(), serde_json::from_str(record)?);
    }
    Ok(unit)
}
