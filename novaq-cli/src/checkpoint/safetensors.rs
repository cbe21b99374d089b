//! Checkpoints whose tensors are in safetensors files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, SafeTensors};
use serde::Deserialize;

use super::storage::Storage;
use super::tensors::{Mapped, Stored, Tensors};
use super::{CheckpointError, read};

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Maps the files in `directory`: those that the index names, or the only one.
pub(super) fn open(directory: &Path) -> Result<Tensors, CheckpointError> {
    let index_path = directory.join(INDEX);
    if !index_path.exists() {
        let (file, header) = open_file(directory, SINGLE)?;
        let tensors = header.metadata.tensors();
        let index = tensors.keys().filter_map(|name| Some((name.clone(), header.stored(name, 0)?))).collect();
        return Ok(Tensors::new(vec![file], index));
    }
    let index: Index = serde_json::from_slice(&read(&index_path)?)
        .map_err(|e| CheckpointError::Invalid { path: index_path.clone(), reason: e.to_string() })?;
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    let opened = names.iter().map(|name| {
        // The index comes from elsewhere: it must not lead out of the folder.
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            let reason = format!("names `{name}`, which is no file of this folder");
            return Err(CheckpointError::Invalid { path: index_path.clone(), reason });
        }
        open_file(directory, name)
    });
    let (files, headers): (Vec<Mapped>, Vec<Header>) =
        opened.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    let position: BTreeMap<&String, usize> = names.into_iter().zip(0..).collect();
    let tensors = index.weight_map.iter().map(|(tensor, file)| {
        let at = position[file];
        let stored = headers[at].stored(tensor, at).ok_or_else(|| {
            let reason = format!("is not in `{file}`, where the index says it is");
            CheckpointError::Tensor { name: tensor.clone(), reason }
        })?;
        Ok((tensor.clone(), stored))
    });
    let index = tensors.collect::<Result<_, CheckpointError>>()?;
    Ok(Tensors::new(files, index))
}

/// The header of one file.
struct Header {
    /// Where the tensors' bytes begin.
    data: usize,
    metadata: Metadata,
}

impl Header {
    /// Where tensor `name` is; `file` is the number of this file.
    fn stored(&self, name: &str, file: usize) -> Option<Stored> {
        let info = self.metadata.info(name)?;
        let (start, end) = info.data_offsets;
        let storage = match info.dtype {
            Dtype::F32 => Ok(Storage::F32),
            Dtype::F16 => Ok(Storage::F16),
            Dtype::BF16 => Ok(Storage::Bf16),
            other => Err(format!("is of type {other:?}; supported are F32, F16 and BF16")),
        };
        Some(Stored { file, shape: info.shape.clone(), storage, bytes: self.data + start..self.data + end })
    }
}

fn open_file(directory: &Path, name: &str) -> Result<(Mapped, Header), CheckpointError> {
    let file = Mapped::open(directory, name)?;
    let (header, metadata) =
        SafeTensors::read_metadata(&file.bytes).map_err(|e| file.invalid(e.to_string()))?;
    Ok((file, Header { data: header + 8, metadata }))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use half::{bf16, f16};
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
        let tensors = open(dir.path()).unwrap();
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
        let tensors = open(dir.path()).unwrap();
        assert_eq!((tensors.read("a").unwrap().1[0], tensors.read("b").unwrap().1[0]), (1.0, 2.0));

        index(r#"{"a": "two.safetensors"}"#);
        assert!(open(dir.path()).unwrap_err().to_string().contains("`a` is not in `two.safetensors`"));
        index(r#"{"a": "../one.safetensors"}"#);
        assert!(open(dir.path()).unwrap_err().to_string().contains("no file of this folder"));
    }

    #[test]
    fn bad_tensors_are_named() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            SINGLE,
            &[("nan", Dtype::F32, vec![2], floats(&[0.0, f32::NAN])), ("bytes", Dtype::U8, vec![1], vec![0])],
        );
        let tensors = open(dir.path()).unwrap();
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
            assert!(open(dir.path()).is_err(), "{} bytes", bytes.len());
        }
        // Offsets beyond the file, and sizes whose product overflows.
        for header in [
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,99999999]}}"#,
            r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        ] {
            let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
            std::fs::write(&path, bytes).unwrap();
            assert!(open(dir.path()).is_err(), "{header}");
        }
    }
}
