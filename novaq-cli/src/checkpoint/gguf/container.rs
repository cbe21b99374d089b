//! The GGUF container, versions 2 and 3: metadata, then where each tensor is, then the tensors.
//!
//! Specification: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::super::storage::Storage;
use super::super::tensors::{Mapped, Stored};
use super::super::{CheckpointError, folder_of};

const MAGIC: &[u8] = b"GGUF";
const VERSIONS: [u32; 2] = [2, 3];

/// Tensors begin at multiples of this many bytes unless `general.alignment` says otherwise.
const ALIGNMENT: u64 = 32;

/// The number of the type "text", and of the type "list".
const TEXT: u32 = 8;
const LIST: u32 = 9;

/// A value of the metadata; lists and texts stay in the file.
#[derive(Debug)]
enum Value {
    Unsigned(u64),
    Signed(i64),
    Float32(f32),
    Float64(f64),
    Bool(bool),
    Text(Range<usize>),
    /// Type of the elements, and their bytes.
    List(u32, Range<usize>),
}

/// A mapped file's metadata.
#[derive(Debug)]
pub(super) struct Metadata {
    path: PathBuf,
    bytes: Arc<Mmap>,
    values: BTreeMap<String, Value>,
}

/// Reads the file from front to back.
struct Reader<'a> {
    file: &'a Mapped,
    at: usize,
}

impl Reader<'_> {
    /// The place of the next `len` bytes, which are part of `what`.
    fn take(&mut self, len: u64, what: &str) -> Result<Range<usize>, CheckpointError> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        let end = end
            .filter(|&end| end <= self.file.bytes.len())
            .ok_or_else(|| self.file.invalid(format!("the file ends inside {what}")))?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], CheckpointError> {
        let range = self.take(N as u64, what)?;
        Ok(self.file.bytes[range].try_into().expect("a range of N bytes"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, CheckpointError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// The place of a text: its length, then UTF-8.
    fn text(&mut self, what: &str) -> Result<Range<usize>, CheckpointError> {
        let len = self.u64(what)?;
        let range = self.take(len, what)?;
        match std::str::from_utf8(&self.file.bytes[range.clone()]) {
            Ok(_) => Ok(range),
            Err(e) => Err(self.file.invalid(format!("{what} is no UTF-8: {e}"))),
        }
    }

    fn name(&mut self, what: &str) -> Result<String, CheckpointError> {
        let range = self.text(what)?;
        Ok(String::from_utf8_lossy(&self.file.bytes[range]).into_owned())
    }

    /// A value of the metadata, by the number of its type.
    fn value(&mut self, kind: u32, what: &str) -> Result<Value, CheckpointError> {
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>(what)?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.array(what)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array(what)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array(what)?).into()),
            4 => Value::Unsigned(self.u32(what)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array(what)?).into()),
            6 => Value::Float32(f32::from_le_bytes(self.array(what)?)),
            7 => Value::Bool(self.array::<1>(what)?[0] != 0),
            TEXT => Value::Text(self.text(what)?),
            LIST => {
                let element = self.u32(what)?;
                let count = self.u64(what)?;
                let start = self.at;
                match width(element) {
                    Some(width) => {
                        // A product beyond 64 bits is longer than any file.
                        self.take(count.saturating_mul(width), what)?;
                    }
                    None if element == TEXT => (0..count).try_for_each(|_| self.text(what).map(drop))?,
                    None => {
                        let reason = format!("{what} is a list of type {element}, which is not supported");
                        return Err(self.file.invalid(reason));
                    }
                }
                Value::List(element, start..self.at)
            }
            10 => Value::Unsigned(self.u64(what)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(what)?)),
            12 => Value::Float64(f64::from_le_bytes(self.array(what)?)),
            _ => return Err(self.file.invalid(format!("{what} is of the unknown type {kind}"))),
        })
    }
}

/// Bytes of a value of a type, if all values of the type have as many.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// How a tensor of this ggml type is stored.
fn storage(kind: u32) -> Result<Storage, String> {
    Ok(match kind {
        0 => Storage::F32,
        1 => Storage::F16,
        2 => Storage::Q4_0,
        3 => Storage::Q4_1,
        6 => Storage::Q5_0,
        7 => Storage::Q5_1,
        8 => Storage::Q8_0,
        12 => Storage::Q4K,
        14 => Storage::Q6K,
        30 => Storage::Bf16,
        _ => {
            return Err(format!(
                "is of the ggml type {kind}; supported are F32 (0), F16 (1), Q4_0 (2), Q4_1 (3), Q5_0 (6), \
                 Q5_1 (7), Q8_0 (8), Q4_K (12), Q6_K (14) and BF16 (30)"
            ));
        }
    })
}

/// What stands before the tensors.
struct Header {
    metadata: Metadata,
    /// Name, shape with rows before columns, ggml type and offset of each tensor.
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    /// Where it ends.
    end: usize,
}

impl Header {
    /// Reads the header of `file`, which is at `path`.
    fn read(file: &Mapped, path: &Path) -> Result<Self, CheckpointError> {
        let mut reader = Reader { file, at: 0 };
        let magic = reader.take(4, "the header")?;
        if &file.bytes[magic] != MAGIC {
            return Err(file.invalid("it does not begin with `GGUF`"));
        }
        let version = reader.u32("the header")?;
        if !VERSIONS.contains(&version) {
            let reason = format!("version {version} is not supported, only 2 and 3, little-endian");
            return Err(file.invalid(reason));
        }
        let count = reader.u64("the header")?;
        let fields = reader.u64("the header")?;

        let mut values = BTreeMap::new();
        for _ in 0..fields {
            let key = reader.name("a key of the metadata")?;
            let kind = reader.u32(&key)?;
            let value = reader.value(kind, &key)?;
            if values.insert(key.clone(), value).is_some() {
                return Err(file.invalid(format!("`{key}` occurs twice in the metadata")));
            }
        }
        let metadata = Metadata { path: path.to_owned(), bytes: Arc::clone(&file.bytes), values };

        let mut tensors = Vec::new();
        for _ in 0..count {
            let name = reader.name("the name of a tensor")?;
            let what = format!("the place of tensor `{name}`");
            let dimensions = reader.u32(&what)?;
            if !(1..=4).contains(&dimensions) {
                let reason = format!("has {dimensions} dimensions");
                return Err(CheckpointError::Tensor { name, reason });
            }
            let mut shape = (0..dimensions).map(|_| reader.u64(&what)).collect::<Result<Vec<u64>, _>>()?;
            // The file has the innermost dimension first.
            shape.reverse();
            tensors.push((name, shape, reader.u32(&what)?, reader.u64(&what)?));
        }
        Ok(Self { metadata, tensors, end: reader.at })
    }
}

/// Maps the file at `path`.
fn map(path: &Path) -> Result<Mapped, CheckpointError> {
    Mapped::open(folder_of(path), &path.file_name().unwrap_or_default().to_string_lossy())
}

/// Whether the file at `path` reaches at least to the end of its header.
pub(crate) fn has_whole_header(path: &Path) -> bool {
    map(path).is_ok_and(|file| Header::read(&file, path).is_ok())
}

/// Reads all but the tensors' values: the file, its metadata, and the tensors by name.
pub(super) fn open(path: &Path) -> Result<(Mapped, Metadata, BTreeMap<String, Stored>), CheckpointError> {
    let file = map(path)?;
    let Header { metadata, tensors, end } = Header::read(&file, path)?;
    let alignment = metadata.size("general.alignment")?.map_or(ALIGNMENT, |size| size as u64);
    if alignment == 0 {
        return Err(metadata.invalid("general.alignment", "is 0"));
    }
    let data = (end as u64).checked_next_multiple_of(alignment).unwrap_or(u64::MAX);

    let mut index = BTreeMap::new();
    for (name, shape, kind, offset) in tensors {
        let stored = place(&file, &shape, storage(kind), data, alignment, offset)
            .map_err(|reason| CheckpointError::Tensor { name: name.clone(), reason })?;
        if index.contains_key(&name) {
            return Err(CheckpointError::Tensor { name, reason: "occurs twice".into() });
        }
        index.insert(name, stored);
    }
    Ok((file, metadata, index))
}

/// Where a tensor of `shape` is, `offset` behind `data`.
fn place(
    file: &Mapped,
    shape: &[u64],
    storage: Result<Storage, String>,
    data: u64,
    alignment: u64,
    offset: u64,
) -> Result<Stored, String> {
    let dimensions: Option<Vec<usize>> = shape.iter().map(|&d| usize::try_from(d).ok()).collect();
    let values = shape.iter().try_fold(1u64, |product, &d| product.checked_mul(d));
    let (Some(dimensions), Some(values @ 1..)) = (dimensions, values) else {
        return Err(format!("has the shape {shape:?}"));
    };
    // How long a tensor of an unknown type is nobody can say; it is refused when it is needed.
    let (block, bytes) = storage.as_ref().map_or((1, 0), |s| s.block());
    if let Some(columns) = dimensions.last().filter(|columns| !columns.is_multiple_of(block)) {
        return Err(format!("has rows of {columns} values, no whole blocks of {block}"));
    }
    if !offset.is_multiple_of(alignment) {
        return Err(format!("begins at {offset}, no multiple of {alignment}"));
    }
    let start = data.checked_add(offset);
    let end = start.and_then(|start| start.checked_add((values / block as u64).checked_mul(bytes as u64)?));
    match (start, end) {
        (Some(start), Some(end)) if end <= file.bytes.len() as u64 => {
            Ok(Stored { file: 0, shape: dimensions, storage, bytes: start as usize..end as usize })
        }
        _ => Err(format!("ends behind the end of the file, which has {} bytes", file.bytes.len())),
    }
}

impl Metadata {
    /// The error that field `key` is not usable.
    pub(super) fn invalid(&self, key: &str, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Metadata { path: self.path.clone(), key: key.to_owned(), reason: reason.into() }
    }

    /// The error that field `key` is missing, for one that is needed.
    pub(super) fn missing(&self, key: &str) -> CheckpointError {
        self.invalid(key, "is missing")
    }

    /// A size or a token's id.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        let size = match self.values.get(key) {
            None => return Ok(None),
            Some(&Value::Unsigned(value)) => usize::try_from(value).ok(),
            Some(&Value::Signed(value)) => usize::try_from(value).ok(),
            Some(_) => None,
        };
        size.map(Some).ok_or_else(|| self.invalid(key, "is not a size"))
    }

    /// A number. Of a 32-bit float it is the shortest decimal that rounds to it: what the model's author wrote, such
    /// as 0.00001, not 0.00000999999974….
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        let number = match self.values.get(key) {
            None => return Ok(None),
            Some(Value::Float32(value)) => value.to_string().parse().ok(),
            Some(&Value::Float64(value)) => Some(value),
            Some(_) => None,
        };
        number.map(Some).ok_or_else(|| self.invalid(key, "is not a number"))
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(&Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(self.invalid(key, "is not true or false")),
        }
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(range)) => Ok(std::str::from_utf8(&self.bytes[range.clone()]).ok()),
            Some(_) => Err(self.invalid(key, "is not a text")),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, CheckpointError> {
        let mut bytes = match self.values.get(key) {
            None => return Ok(None),
            Some(Value::List(TEXT, range)) => &self.bytes[range.clone()],
            Some(_) => return Err(self.invalid(key, "is not a list of texts")),
        };
        let mut texts = Vec::new();
        while let Some((len, rest)) = bytes.split_first_chunk() {
            // Lengths and texts were checked when the file was opened.
            let (text, rest) = rest.split_at(u64::from_le_bytes(*len) as usize);
            texts.push(std::str::from_utf8(text).unwrap_or_default());
            bytes = rest;
        }
        Ok(Some(texts))
    }

    /// A list of 32-bit floats.
    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::List(6, range)) => Ok(Some(Storage::F32.decode(&self.bytes[range.clone()]))),
            Some(_) => Err(self.invalid(key, "is not a list of 32-bit floats")),
        }
    }

    /// A list of 32-bit integers.
    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i32>>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::List(4 | 5, range)) => {
                let numbers = self.bytes[range.clone()].as_chunks().0;
                Ok(Some(numbers.iter().map(|&bytes| i32::from_le_bytes(bytes)).collect()))
            }
            Some(_) => Err(self.invalid(key, "is not a list of 32-bit integers")),
        }
    }
}
