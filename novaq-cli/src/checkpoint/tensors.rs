//! Tensors in safetensors files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, SafeTensors, TensorInfo};
use serde::Deserialize;

use super::{CheckpointError, read};

/// One mapped file.
#[derive(Debug)]
struct Mapped {
    name: String,
    bytes: Mmap,
    /// Where the tensors' bytes begin.
    data: usize,
    metadata: Metadata,
}

/// The tensors of all files of a checkpoint.
#[derive(Debug)]
pub(super) struct Tensors {
    files: Vec<Mapped>,
    /// File of each tensor.
    index: BTreeMap<String, usize>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl Tensors {
    /// Maps the files in `directory`: those that the index names, or the only one.
    pub(super) fn open(directory: &Path) -> Result<Self, CheckpointError> {
        let index_path = directory.join(INDEX);
        if !index_path.exists() {
            let file = Mapped::open(directory, SINGLE)?;
            let index = file.metadata.tensors().into_keys().map(|name| (name, 0)).collect();
            return Ok(Self { files: vec![file], index });
        }
        let index: Index = serde_json::from_slice(&read(&index_path)?)
            .map_err(|e| CheckpointError::Invalid { path: index_path.clone(), reason: e.to_string() })?;
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        let files = names
            .iter()
            .map(|name| {
                // The index comes from elsewhere: it must not lead out of the folder.
                let mut parts = Path::new(name).components();
                if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                    let reason = format!("names `{name}`, which is no file of this folder");
                    return Err(CheckpointError::Invalid { path: index_path.clone(), reason });
                }
                Mapped::open(directory, name)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let position: BTreeMap<&String, usize> = names.into_iter().zip(0..).collect();
        let tensors = index.weight_map.iter().map(|(tensor, file)| {
            let at = position[file];
            if files[at].metadata.info(tensor).is_none() {
                let reason = format!("is not in `{file}`, where the index says it is");
                return Err(CheckpointError::Tensor { name: tensor.clone(), reason });
            }
            Ok((tensor.clone(), at))
        });
        let index = tensors.collect::<Result<_, _>>()?;
        Ok(Self { files, index })
    }

    /// Names of the files.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|f| f.name.as_str())
    }

    /// Whether there is a tensor `name`.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    fn info(&self, name: &str) -> Result<(&Mapped, &TensorInfo), CheckpointError> {
        let file = self.index.get(name).map(|&at| &self.files[at]);
        file.and_then(|f| Some((f, f.metadata.info(name)?)))
            .ok_or_else(|| CheckpointError::Tensor { name: name.into(), reason: "is missing".into() })
    }

    /// Checks that tensor `name` has `shape` and a type that can be read.
    pub(super) fn check(&self, name: &str, shape: &[usize]) -> Result<(), CheckpointError> {
        let (_, info) = self.info(name)?;
        if info.shape != shape {
            let reason = format!("has shape {:?}, expected {shape:?}", info.shape);
            return Err(CheckpointError::Tensor { name: name.into(), reason });
        }
        supported(name, info.dtype)
    }

    /// Shape and values of tensor `name`.
    pub(super) fn read(&self, name: &str) -> Result<(&[usize], Vec<f32>), CheckpointError> {
        let (file, info) = self.info(name)?;
        supported(name, info.dtype)?;
        let (start, end) = info.data_offsets;
        let bytes = file.bytes.get(file.data + start..file.data + end).unwrap_or_default();
        let values: Vec<f32> = match info.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            _ => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        };
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let reason = format!("holds {} at element {at}", values[at]);
            return Err(CheckpointError::Tensor { name: name.into(), reason });
        }
        Ok((&info.shape, values))
    }
}

fn supported(name: &str, dtype: Dtype) -> Result<(), CheckpointError> {
    if matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        return Ok(());
    }
    let reason = format!("is of type {dtype:?}; supported are F32, F16 and BF16");
    Err(CheckpointError::Tensor { name: name.into(), reason })
}

impl Mapped {
    fn open(directory: &Path, name: &str) -> Result<Self, CheckpointError> {
        let path: PathBuf = directory.join(name);
        let fail = |source| CheckpointError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(fail)?;
        // SAFETY: the mapping is read-only; a checkpoint that somebody changes while it is compressed gives wrong
        // weights, as any way of reading it piece by piece would.
        let bytes = unsafe { Mmap::map(&file) }.map_err(fail)?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| CheckpointError::Invalid { path: path.clone(), reason: e.to_string() })?;
        Ok(Self { name: name.to_owned(), data: header + 8, bytes, metadata })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::tensor::TensorView;

    use super::*;

    fn write(directory: &Path, name: &str, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
        let views: HashMap<&str, TensorView> = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
            })
            .collect();
        safetensors::serialize_to_file(views, None, &directory.join(name)).unwrap();
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn every_float_type_is_widened() {
        let dir = tempfile::tempdir().unwrap();
        let half: Vec<u8> = [1.5, -2.0].iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        let brain: Vec<u8> = [3.0, 0.5].iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
        write(
            dir.path(),
            SINGLE,
            &[
                ("a", Dtype::F32, vec![2], floats(&[0.25, 7.0])),
                ("b", Dtype::F16, vec![2], half),
                ("c", Dtype::BF16, vec![1, 2], brain),
            ],
        );
        let tensors = Tensors::open(dir.path()).unwrap();
        assert_eq!(tensors.read("a").unwrap().1, [0.25, 7.0]);
        assert_eq!(tensors.read("b").unwrap().1, [1.5, -2.0]);
        assert_eq!(tensors.read("c").unwrap(), (&[1, 2][..], vec![3.0, 0.5]));
    }

    #[test]
    fn the_index_joins_several_files() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "one.safetensors", &[("a", Dtype::F32, vec![1], floats(&[1.0]))]);
        write(dir.path(), "two.safetensors", &[("b", Dtype::F32, vec![1], floats(&[2.0]))]);
        let index = |map: &str| {
            std::fs::write(dir.path().join(INDEX), format!(r#"{{"weight_map": {map}}}"#)).unwrap();
        };
        index(r#"{"a": "one.safetensors", "b": "two.safetensors"}"#);
        let tensors = Tensors::open(dir.path()).unwrap();
        assert_eq!((tensors.read("a").unwrap().1[0], tensors.read("b").unwrap().1[0]), (1.0, 2.0));

        index(r#"{"a": "two.safetensors"}"#);
        assert!(
            Tensors::open(dir.path()).unwrap_err().to_string().contains("`a` is not in `two.safetensors`")
        );
        index(r#"{"a": "../one.safetensors"}"#);
        assert!(Tensors::open(dir.path()).unwrap_err().to_string().contains("no file of this folder"));
    }

    #[test]
    fn bad_tensors_are_named() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            SINGLE,
            &[("nan", Dtype::F32, vec![2], floats(&[0.0, f32::NAN])), ("bytes", Dtype::U8, vec![1], vec![0])],
        );
        let tensors = Tensors::open(dir.path()).unwrap();
        let error = |result: Result<(), CheckpointError>| result.unwrap_err().to_string();
        assert_eq!(error(tensors.read("nan").map(|_| ())), "tensor `nan` holds NaN at element 1");
        assert!(error(tensors.check("bytes", &[1])).contains("is of type U8"));
        assert_eq!(error(tensors.check("nan", &[3])), "tensor `nan` has shape [2], expected [3]");
        assert_eq!(error(tensors.check("none", &[3])), "tensor `none` is missing");
    }

    #[test]
    fn damaged_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), SINGLE, &[("a", Dtype::F32, vec![8], floats(&[1.0; 8]))]);
        let path = dir.path().join(SINGLE);
        let whole = std::fs::read(&path).unwrap();
        for bytes in [
            &whole[..whole.len() - 1],
            &whole[..20],
            &whole[..3],
            &[],
            // A header longer than any file, and one that is no JSON.
            &[0xff; 16][..],
            &[&8u64.to_le_bytes()[..], b"{\"a\": 1x"].concat(),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert!(Tensors::open(dir.path()).is_err(), "{} bytes", bytes.len());
        }
        // Offsets beyond the file, and sizes whose product overflows.
        for header in [
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,99999999]}}"#,
            r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        ] {
            let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
            std::fs::write(&path, bytes).unwrap();
            assert!(Tensors::open(dir.path()).is_err(), "{header}");
        }
    }
}
