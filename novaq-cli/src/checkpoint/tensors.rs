//! The tensors of a checkpoint, whatever its format: where each is, and its values.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use memmap2::Mmap;
use ndarray::Array2;

use super::storage::Storage;
use super::{CheckpointError, NORM_SUFFIX};

/// One mapped file.
#[derive(Debug)]
pub(super) struct Mapped {
    /// Name in the checkpoint's folder.
    pub(super) name: String,
    path: PathBuf,
    pub(super) bytes: Arc<Mmap>,
}

impl Mapped {
    /// Maps the file `name` in `directory`.
    pub(super) fn open(directory: &Path, name: &str) -> Result<Self, CheckpointError> {
        let path = directory.join(name);
        let fail = |source| CheckpointError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(fail)?;
        // SAFETY: the mapping is read-only; a checkpoint that somebody changes while it is compressed gives wrong
        // weights, as any way of reading it piece by piece would.
        let bytes = Arc::new(unsafe { Mmap::map(&file) }.map_err(fail)?);
        Ok(Self { name: name.to_owned(), path, bytes })
    }

    /// Gives the pages of `range` back to the system, which reads them again should they be needed: otherwise all tensors
    /// that were ever read would stay in memory.
    fn release(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let Some(bytes) = self.bytes.get(range.clone()) {
            // SAFETY: a read-only mapping of a file holds the file's bytes again when it is read next.
            let _ = unsafe {
                self.bytes.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    bytes.len(),
                )
            };
        }
    }

    /// The error that this file is not valid.
    pub(super) fn invalid(&self, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Invalid { path: self.path.clone(), reason: reason.into() }
    }
}

/// Where and how a tensor is stored.
#[derive(Debug)]
pub(super) struct Stored {
    /// Number of its file.
    pub(super) file: usize,
    /// Rows before columns.
    pub(super) shape: Vec<usize>,
    /// How its values are stored, or the reason why they can't be read.
    pub(super) storage: Result<Storage, String>,
    /// Its bytes in the file.
    pub(super) bytes: Range<usize>,
}

/// In what a format differs from the names and the order of Hugging Face's checkpoints.
#[derive(Debug, Clone, Copy)]
pub(super) struct Convention {
    /// How the format names the tensor of this name.
    pub(super) name: fn(&str) -> String,
    /// The width of a head, where the rows of the query and key projections are stored in the order of rotary
    /// embeddings on neighbours, (x₀, x₁), (x₂, x₃), …; Hugging Face's rotate (x₀, x₍d/2₎), (x₁, x₍d/2₊₁₎), …
    pub(super) interleaved_head: Option<usize>,
    /// What has to be added to the weights of norms.
    pub(super) norm_offset: f32,
}

impl Convention {
    /// Hugging Face's checkpoints.
    pub(super) const HUGGING_FACE: Self =
        Self { name: str::to_owned, interleaved_head: None, norm_offset: 0.0 };
}

/// The tensors of all files of a checkpoint.
#[derive(Debug)]
pub(super) struct Tensors {
    files: Vec<Mapped>,
    /// By the names in the files.
    index: BTreeMap<String, Stored>,
    convention: Convention,
}

impl Tensors {
    /// The tensors that `index` lists, with the names and the order of Hugging Face's checkpoints.
    pub(super) fn new(files: Vec<Mapped>, index: BTreeMap<String, Stored>) -> Self {
        Self { files, index, convention: Convention::HUGGING_FACE }
    }

    /// The same tensors, whose names and order are those of `convention`.
    pub(super) fn with_convention(self, convention: Convention) -> Self {
        Self { convention, ..self }
    }

    /// Names of the files.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|f| f.name.as_str())
    }

    /// Names of the tensors, as they are in the files.
    pub(super) fn stored_names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// How the files name the tensor `name`.
    pub(super) fn stored_name(&self, name: &str) -> String {
        (self.convention.name)(name)
    }

    /// Whether there is a tensor `name`.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.index.contains_key(&self.stored_name(name))
    }

    /// The tensor `name` and its name in the file.
    fn stored(&self, name: &str) -> Result<(&Stored, String), CheckpointError> {
        let name = self.stored_name(name);
        match self.index.get(&name) {
            Some(stored) => Ok((stored, name)),
            None => Err(CheckpointError::Tensor { name, reason: "is missing".into() }),
        }
    }

    /// Checks that tensor `name` has `shape` and a type that can be read.
    pub(super) fn check(&self, name: &str, shape: &[usize]) -> Result<(), CheckpointError> {
        let (stored, name) = self.stored(name)?;
        if stored.shape != shape {
            let reason = format!("has shape {:?}, expected {shape:?}", stored.shape);
            return Err(CheckpointError::Tensor { name, reason });
        }
        match &stored.storage {
            Ok(_) => Ok(()),
            Err(reason) => Err(CheckpointError::Tensor { name, reason: reason.clone() }),
        }
    }

    /// Shape and values of tensor `name`.
    pub(super) fn read(&self, name: &str) -> Result<(&[usize], Vec<f32>), CheckpointError> {
        let is_rotated = ["q_proj", "k_proj"].iter().any(|part| name.split('.').any(|p| p == *part));
        let is_norm = name.ends_with(NORM_SUFFIX);
        let (stored, name) = self.stored(name)?;
        let storage = match &stored.storage {
            Ok(storage) => storage,
            Err(reason) => return Err(CheckpointError::Tensor { name, reason: reason.clone() }),
        };
        let bytes = self.files[stored.file].bytes.get(stored.bytes.clone()).unwrap_or_default();
        let mut values = storage.decode(bytes);
        self.files[stored.file].release(&stored.bytes);
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let reason = format!("holds {} at element {at}", values[at]);
            return Err(CheckpointError::Tensor { name, reason });
        }
        if let Some(head) = self.convention.interleaved_head
            && is_rotated
        {
            let columns = stored.shape.get(1).copied().unwrap_or(1);
            values = halves(&values, head, columns);
        }
        if is_norm {
            for weight in &mut values {
                *weight += self.convention.norm_offset;
            }
        }
        Ok((&stored.shape, values))
    }

    /// The matrix `name`, `[rows, columns]`.
    pub(super) fn matrix(&self, name: &str) -> Result<Array2<f32>, CheckpointError> {
        let (shape, values) = self.read(name)?;
        let fail = |reason| CheckpointError::Tensor { name: name.to_owned(), reason };
        let &[rows, columns] = shape else { return Err(fail(format!("has shape {shape:?}, no matrix"))) };
        Array2::from_shape_vec((rows, columns), values).map_err(|e| fail(e.to_string()))
    }

    /// The vector `name`, rounded to 16-bit floats.
    pub(super) fn half_vector(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let mut values = self.read(name)?.1;
        for value in &mut values {
            *value = f16::from_f32(*value).to_f32();
            if !value.is_finite() {
                let reason = "holds a value beyond the range of 16-bit floats".to_owned();
                return Err(CheckpointError::Tensor { name: name.to_owned(), reason });
            }
        }
        Ok(values)
    }
}

/// Rows of `columns` values, with the even rows of each `head` of them before its odd ones.
fn halves(values: &[f32], head: usize, columns: usize) -> Vec<f32> {
    let mut ordered = Vec::with_capacity(values.len());
    for head in values.chunks(head * columns) {
        for parity in [0, 1] {
            ordered.extend(head.chunks(columns).skip(parity).step_by(2).flatten());
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_halves() {
        // Two heads of four rows with two columns: row r holds r and r + 0.5.
        let rows = |order: [u8; 8]| -> Vec<f32> {
            order.iter().flat_map(|&r| [f32::from(r), f32::from(r) + 0.5]).collect()
        };
        let stored = rows([0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(halves(&stored, 4, 2), rows([0, 2, 1, 3, 4, 6, 5, 7]));
        assert_eq!(halves(&[0.0, 1.0, 2.0, 3.0], 4, 1), [0.0, 2.0, 1.0, 3.0]);
    }
}
