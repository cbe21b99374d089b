//! Building a model from an artifact, one section at a time.

use super::manifest::{Codec, Manifest, Section, TensorEntry};
use super::{ArtifactError, MAX_TOKENIZER_BYTES, ShardHeader};
use crate::codec::{
    AqMatrix, Codebooks, CodecError, DenseMatrix, Fp8Matrix, Int4Matrix, Int8Matrix, LowRankMatrix, Matrix,
    finite, read_f16,
};
use crate::constraint::{Constraint, ConstraintError, TokenBytes};
use crate::kernel::Packing;
use crate::model::{DecoderLayer, Encoder, Model, ModelError, TensorSource};
use crate::tokenizer::Tokenizer;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Where the payloads of shards are read from.
pub trait ShardSource {
    /// Fills `buffer` from byte `offset` of shard `index`, counted from the start of the file.
    ///
    /// # Errors
    /// If the shard is missing or too short, or the storage fails.
    fn read(
        &self,
        index: u32,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Shards in memory, each a whole file.
pub struct Shards<T>(pub Vec<T>);

impl<T: AsRef<[u8]>> ShardSource for Shards<T> {
    fn read(
        &self,
        index: u32,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let range = self.0.get(index as usize).and_then(|shard| {
            let start = usize::try_from(offset).ok()?;
            shard.as_ref().get(start..start.checked_add(buffer.len())?)
        });
        match range {
            Some(bytes) => buffer.copy_from_slice(bytes),
            None => return Err(format!("no {} bytes at {offset}", buffer.len()).into()),
        }
        Ok(())
    }
}

/// A model and its tokenizer.
#[derive(Debug)]
pub struct LoadedModel {
    /// The weights.
    pub model: Model,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template as the manifest has it.
    pub chat_template: Option<String>,
    /// What its tokens add to a text, once that is needed.
    token_bytes: OnceLock<Arc<TokenBytes>>,
}

impl LoadedModel {
    /// What makes the model's texts follow a JSON schema. The first call goes through the vocabulary.
    ///
    /// # Errors
    /// If the schema is none, uses what is not supported, or allows too much.
    pub fn constraint(&self, schema: &str) -> Result<Arc<Constraint>, ConstraintError> {
        let tokens = self.token_bytes.get_or_init(|| Arc::new(TokenBytes::of(&self.tokenizer)));
        let ends = self.model.config().eos_token_ids.clone();
        Ok(Arc::new(Constraint::new(schema, Arc::clone(tokens), ends)?))
    }
}

/// An encoder and its tokenizer.
#[derive(Debug)]
pub struct LoadedEncoder {
    /// The weights.
    pub encoder: Encoder,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
}

/// Loads an artifact whose shards have been verified, in steps that a caller with a budget can spread out; of a decoder, all
/// at once or layer by layer.
pub struct Loader {
    manifest: Arc<Manifest>,
    codebooks: BTreeMap<String, Arc<Codebooks>>,
    tensors: Loaded,
    next: usize,
    packing: Packing,
    /// Whether a decoder's layers are left to [`Loader::layer`].
    without_layers: bool,
}

/// What the names of a decoder's layers begin with.
const LAYERS: &str = "model.layers.";

/// The number of the layer that a decoder's tensor belongs to.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix(LAYERS)?.split('.').next()?.parse().ok()
}

/// Bytes of weights up to which a loader gives each code a byte where that is faster: a heap of 3 GiB, which canisters have by
/// default, has as much again and room for the cache.
const ROOM: u64 = 2 << 30;

#[derive(Default)]
struct Loaded {
    matrices: BTreeMap<String, Matrix>,
    vectors: BTreeMap<String, Vec<f32>>,
}

impl TensorSource for Loaded {
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError> {
        Ok(self.matrices.remove(name))
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        Ok(self.vectors.remove(name))
    }
}

impl Loader {
    /// A loader that has loaded nothing yet.
    pub fn new(manifest: Arc<Manifest>) -> Self {
        let (codebooks, tensors) = (BTreeMap::new(), Loaded::default());
        Self { manifest, codebooks, tensors, next: 0, packing: Packing::DEFAULT, without_layers: false }
            .with_room(ROOM)
    }

    /// The same with codes packed in another way than the [default](Packing::DEFAULT).
    #[must_use]
    pub fn with_packing(self, packing: Packing) -> Self {
        Self { packing, ..self }
    }

    /// The same where all weights may take `bytes` on the heap: unless they can have twice their stored size, codes stay in
    /// nibbles, which takes more instructions.
    #[must_use]
    pub fn with_room(self, bytes: u64) -> Self {
        let stored: u64 = self.manifest.tensors.iter().map(|tensor| tensor.section.length).sum();
        let packing = if stored.saturating_mul(2) <= bytes { self.packing } else { Packing::Nibbles };
        Self { packing, ..self }
    }

    /// How codes are packed.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// A loader whose model has empty places for a decoder's layers; [`Self::layer`] loads one.
    pub fn without_layers(manifest: Arc<Manifest>) -> Self {
        Self { without_layers: true, ..Self::new(manifest) }
    }

    /// Loads a layer of a decoder, as often as it is asked for.
    ///
    /// # Errors
    /// If there is no such layer, a tensor is missing or misshapen, its section can't be read, or there is no memory.
    pub fn layer(&mut self, index: usize, source: &dyn ShardSource) -> Result<DecoderLayer, ArtifactError> {
        let manifest = Arc::clone(&self.manifest);
        let config = manifest.decoder()?;
        for entry in manifest.tensors.iter().filter(|entry| layer_of(&entry.name) == Some(index)) {
            self.load_entry(entry, source)?;
        }
        Ok(DecoderLayer::load(&mut self.tensors, config, index)?)
    }

    /// About the bytes that a decoder's layers take on the heap, in their order: those of their sections, and twice as many of
    /// codes that get a byte each.
    ///
    /// # Errors
    /// If the model is an encoder, or a layer has no tensor.
    pub fn layer_bytes(&self) -> Result<Vec<u64>, ArtifactError> {
        let mut bytes: BTreeMap<usize, u64> = BTreeMap::new();
        for entry in &self.manifest.tensors {
            if let Some(layer) = layer_of(&entry.name) {
                let unpacked = self.packing == Packing::Bytes
                    && matches!(entry.codec, Codec::Aq { .. } | Codec::LowRank { .. });
                *bytes.entry(layer).or_default() += entry.section.length * (1 + u64::from(unpacked));
            }
        }
        let layers = self.manifest.decoder()?.num_hidden_layers;
        match (0..layers).find(|layer| !bytes.contains_key(layer)) {
            Some(layer) => Err(ModelError::MissingTensor(format!("{LAYERS}{layer}")).into()),
            None => Ok(bytes.into_values().take(layers).collect()),
        }
    }

    /// Whether the model is an encoder.
    pub fn is_encoder(&self) -> bool {
        self.manifest.encoder().is_ok()
    }

    /// Tensors loaded and tensors in all.
    pub fn progress(&self) -> (usize, usize) {
        (self.next, self.manifest.tensors.len())
    }

    /// Loads the next tensor and returns the bytes read for it, or `None` if all are loaded that are to be.
    ///
    /// # Errors
    /// If its section can't be read or decoded.
    pub fn step(&mut self, source: &dyn ShardSource) -> Result<Option<u64>, ArtifactError> {
        let manifest = Arc::clone(&self.manifest);
        while let Some(entry) = manifest.tensors.get(self.next) {
            if self.without_layers && layer_of(&entry.name).is_some() {
                self.next += 1;
                continue;
            }
            let read = self.load_entry(entry, source)?;
            self.next += 1;
            return Ok(Some(read));
        }
        Ok(None)
    }

    /// Reads tensor `index` of the manifest as floats, row-major: for exports. It counts as not loaded.
    ///
    /// # Errors
    /// If there is no such tensor, or its section can't be read or decoded.
    pub fn decode(&mut self, index: usize, source: &dyn ShardSource) -> Result<Vec<f32>, ArtifactError> {
        let manifest = Arc::clone(&self.manifest);
        let Some(entry) = manifest.tensors.get(index) else {
            return Err(ArtifactError::field("tensors", format!("there is no tensor {index}")));
        };
        self.load_entry(entry, source)?;
        let matrix = self.tensors.matrices.remove(&entry.name).map(|matrix| matrix.decode());
        Ok(matrix.or_else(|| self.tensors.vectors.remove(&entry.name)).unwrap_or_default())
    }

    /// Loads a tensor, and its codebooks if they are not there yet; returns the bytes read.
    fn load_entry(&mut self, entry: &TensorEntry, source: &dyn ShardSource) -> Result<u64, ArtifactError> {
        let mut read = entry.section.length;
        for name in entry.codec.codebook_sets() {
            if !self.codebooks.contains_key(name) {
                read += self.load_codebooks(name, source)?;
            }
        }
        self.load_tensor(entry, source)?;
        Ok(read)
    }

    fn load_codebooks(&mut self, name: &str, source: &dyn ShardSource) -> Result<u64, ArtifactError> {
        let (set, bytes) = read_codebooks(&self.manifest, name, source)?;
        self.codebooks.insert(name.to_string(), set);
        Ok(bytes)
    }

    fn codebook_set(&self, name: &str) -> Result<Arc<Codebooks>, ArtifactError> {
        let missing = || ArtifactError::field("codebooks", format!("`{name}` is missing"));
        self.codebooks.get(name).map(Arc::clone).ok_or_else(missing)
    }

    fn load_tensor(&mut self, entry: &TensorEntry, source: &dyn ShardSource) -> Result<(), ArtifactError> {
        // The bytes and what they become.
        let copies = if self.packing == Packing::Nibbles { 2 } else { 3 };
        room_for(entry.section.length.saturating_mul(copies))?;
        let bytes = read_section(&self.manifest, entry.section, source)?;
        let name = entry.name.clone();
        let fail = |e| tensor_error(&entry.name, e);
        let floats = match &entry.codec {
            Codec::F16 => Some(read_f16(&bytes, "values").map_err(fail)?),
            Codec::F32 => {
                let values = bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
                Some(finite(values, "values").map_err(fail)?)
            }
            Codec::Int8 | Codec::Int4 | Codec::Fp8 | Codec::Aq { .. } | Codec::LowRank { .. } => None,
        };
        let &[rows, columns] = entry.shape.as_slice() else {
            self.tensors.vectors.insert(name, floats.unwrap_or_default());
            return Ok(());
        };
        let matrix = match (&entry.codec, floats) {
            (_, Some(values)) => DenseMatrix::new(rows, columns, values).map(Matrix::Dense),
            (Codec::Aq { codebooks, row_means }, None) => {
                let set = self.codebook_set(codebooks)?;
                AqMatrix::read(rows, columns, set, *row_means, &bytes, self.packing).map(Matrix::Aq)
            }
            (Codec::LowRank { rank, first, second }, None) => {
                let sets = [self.codebook_set(first)?, self.codebook_set(second)?];
                LowRankMatrix::from_bytes([rows, *rank, columns], sets, &bytes)
                    .map(|matrix| Matrix::LowRank(matrix.packed(self.packing)))
            }
            (Codec::Int4, None) => Int4Matrix::from_bytes(rows, columns, &bytes).map(Matrix::Int4),
            (Codec::Fp8, None) => Fp8Matrix::from_bytes(rows, columns, &bytes).map(Matrix::Fp8),
            (_, None) => Int8Matrix::from_bytes(rows, columns, &bytes).map(Matrix::Int8),
        };
        self.tensors.matrices.insert(name, matrix.map_err(fail)?);
        Ok(())
    }

    /// Puts a decoder together once [`Self::step`] has returned `None`.
    ///
    /// # Errors
    /// If the model is an encoder, a tensor is missing or misshapen, or the tokenizer does not decode.
    pub fn finish(&mut self, source: &dyn ShardSource) -> Result<LoadedModel, ArtifactError> {
        let config = self.manifest.decoder()?.clone();
        let tokenizer = read_tokenizer(&self.manifest, source)?;
        let model = if self.without_layers {
            // As many places as there are layers: not as many as a hostile configuration says.
            self.layer_bytes()?;
            Model::load_without_layers(config, &mut self.tensors)?
        } else {
            Model::load(config, &mut self.tensors)?
        };
        let chat_template = self.manifest.chat_template.clone();
        Ok(LoadedModel { model, tokenizer, chat_template, token_bytes: OnceLock::new() })
    }

    /// Puts an encoder together once [`Self::step`] has returned `None`.
    ///
    /// # Errors
    /// If the model is a decoder, a tensor is missing or misshapen, or the tokenizer does not decode.
    pub fn finish_encoder(&mut self, source: &dyn ShardSource) -> Result<LoadedEncoder, ArtifactError> {
        let config = self.manifest.encoder()?.clone();
        let tokenizer = read_tokenizer(&self.manifest, source)?;
        let encoder = Encoder::load(config, &mut self.tensors)?;
        Ok(LoadedEncoder { encoder, tokenizer })
    }

    /// Loads a decoder at once.
    ///
    /// # Errors
    /// As [`Self::step`] and [`Self::finish`].
    pub fn load(manifest: Arc<Manifest>, source: &dyn ShardSource) -> Result<LoadedModel, ArtifactError> {
        manifest.decoder()?;
        let mut loader = Self::new(manifest);
        while loader.step(source)?.is_some() {}
        loader.finish(source)
    }

    /// Loads an encoder at once.
    ///
    /// # Errors
    /// As [`Self::step`] and [`Self::finish_encoder`].
    pub fn load_encoder(
        manifest: Arc<Manifest>,
        source: &dyn ShardSource,
    ) -> Result<LoadedEncoder, ArtifactError> {
        manifest.encoder()?;
        let mut loader = Self::new(manifest);
        while loader.step(source)?.is_some() {}
        loader.finish_encoder(source)
    }
}

/// The tokenizer of a valid manifest.
///
/// # Errors
/// If its section is longer than [`MAX_TOKENIZER_BYTES`], can't be read or does not decode.
pub fn read_tokenizer(manifest: &Manifest, source: &dyn ShardSource) -> Result<Tokenizer, ArtifactError> {
    let section = manifest.tokenizer.section;
    if section.length > MAX_TOKENIZER_BYTES {
        let reason = format!("{} bytes, at most {MAX_TOKENIZER_BYTES} are read", section.length);
        return Err(ArtifactError::field("tokenizer.section.length", reason));
    }
    Ok(Tokenizer::from_bytes(&read_section(manifest, section, source)?)?)
}

/// The codebook set `name`, and the bytes read for it.
pub(super) fn read_codebooks(
    manifest: &Manifest,
    name: &str,
    source: &dyn ShardSource,
) -> Result<(Arc<Codebooks>, u64), ArtifactError> {
    let Some(entry) = manifest.codebooks.iter().find(|set| set.name == *name) else {
        return Err(ArtifactError::field("codebooks", format!("`{name}` is missing")));
    };
    let bytes = read_section(manifest, entry.section, source)?;
    let set =
        Codebooks::from_bytes(entry.count, entry.dimension, &bytes).map_err(|e| tensor_error(name, e))?;
    Ok((Arc::new(set.with_fold(entry.fold)), entry.section.length))
}

pub(super) fn tensor_error(name: &str, source: CodecError) -> ArtifactError {
    ModelError::Tensor { name: name.to_string(), source }.into()
}

/// Looks whether there is memory for `bytes`, where an allocation that fails could only abort.
fn room_for(bytes: u64) -> Result<(), ArtifactError> {
    let mut room: Vec<u8> = Vec::new();
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    room.try_reserve_exact(length).map_err(|_| ArtifactError::OutOfMemory { bytes })
}

/// The bytes of `section`, which a valid manifest has inside its shards.
pub(super) fn read_section(
    manifest: &Manifest,
    section: Section,
    source: &dyn ShardSource,
) -> Result<Vec<u8>, ArtifactError> {
    let mut out = vec![0; section.length as usize];
    read_range(manifest, section, 0, &mut out, source)?;
    Ok(out)
}

/// Fills `buffer` from byte `from` of `section`.
pub(super) fn read_range(
    manifest: &Manifest,
    section: Section,
    from: u64,
    buffer: &mut [u8],
    source: &dyn ShardSource,
) -> Result<(), ArtifactError> {
    let mut rest = buffer;
    let (mut index, mut offset) = (section.shard, section.offset + from);
    while !rest.is_empty() {
        let Some(shard) = manifest.shards.get(index as usize) else {
            return Err(ArtifactError::shard(index, "a section runs past the last shard"));
        };
        let payload = shard.bytes - ShardHeader::BYTES as u64;
        let here = payload.saturating_sub(offset).min(rest.len() as u64);
        let (now, later) = rest.split_at_mut(here as usize);
        if !now.is_empty() {
            let read = source.read(index, ShardHeader::BYTES as u64 + offset, now);
            read.map_err(|source| ArtifactError::Io { index, source })?;
        }
        rest = later;
        (index, offset) = (index + 1, (offset + here) - payload.min(offset + here));
    }
    Ok(())
}
