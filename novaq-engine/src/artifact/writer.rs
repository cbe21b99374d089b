//! Writing an artifact, shard by shard.

use super::manifest::{Codec, Compression, Estimates, Manifest, Origin, Section, Similarity, Verification};
use super::{ArtifactError, MAX_SHARD_BYTES, Outline, ShardHeader};
use crate::codec::{Codebooks, Matrix};
use crate::model::Architecture;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Receives each shard as soon as it is full.
pub trait ShardSink {
    /// Keeps shard `index`.
    ///
    /// # Errors
    /// What the storage says.
    fn shard(&mut self, index: u32, bytes: &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

impl ShardSink for Vec<Vec<u8>> {
    fn shard(&mut self, _index: u32, bytes: &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.push(bytes.to_vec());
        Ok(())
    }
}

/// How a vector is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorPrecision {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
}

/// What a manifest says beyond what the [`Writer`] has seen.
#[derive(Clone, Debug)]
pub struct ManifestDraft {
    /// Name of the model.
    pub name: String,
    /// Semantic version of the artifact.
    pub version: String,
    /// Licence of the weights.
    pub license: String,
    /// Where the model comes from.
    pub origin: Origin,
    /// Kind of model and hyper-parameters.
    pub architecture: Architecture,
    /// SHA-256 of the original `tokenizer.json`.
    pub tokenizer_sha256: [u8; 32],
    /// Chat template, if the model has one.
    pub chat_template: Option<String>,
    /// Seed of all random choices.
    pub seed: u64,
    /// The text that activations were measured on.
    pub calibration: String,
    /// Measured quality of a decoder.
    pub verification: Option<Verification>,
    /// Measured quality of an encoder.
    pub similarity: Option<Similarity>,
    /// What it takes to run the model.
    pub estimates: Estimates,
    /// Words to search by.
    pub tags: Vec<String>,
}

/// Cuts sections into shards and collects the tables of the manifest. Memory: one shard.
pub struct Writer<'a> {
    sink: &'a mut dyn ShardSink,
    shard: Vec<u8>,
    /// SHA-256 of the shards that are stored.
    hashes: Vec<[u8; 32]>,
    outline: Outline,
    /// Codebook sets that are stored, with their names.
    codebooks: Vec<(Arc<Codebooks>, String)>,
}

impl<'a> Writer<'a> {
    /// A writer that hands finished shards to `sink`.
    pub fn new(sink: &'a mut dyn ShardSink) -> Self {
        let shard = vec![0; ShardHeader::BYTES];
        Self { sink, shard, hashes: Vec::new(), outline: Outline::default(), codebooks: Vec::new() }
    }

    /// Adds the tokenizer's compact form.
    ///
    /// # Errors
    /// If a shard can't be stored.
    pub fn tokenizer(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        let section = self.outline.tokenizer(bytes.len() as u64);
        self.write(section, bytes)
    }

    /// Adds a matrix, and its codebook set the first time that set is seen; all sets of signs are one.
    ///
    /// # Errors
    /// If a shard can't be stored.
    pub fn matrix(&mut self, name: &str, matrix: &Matrix) -> Result<(), ArtifactError> {
        let (codec, bytes) = match matrix {
            Matrix::Dense(m) => {
                let values = (0..m.rows()).flat_map(|r| m.row(r)).flat_map(|v| v.to_le_bytes());
                (Codec::F32, values.collect())
            }
            Matrix::Int8(m) => (Codec::Int8, m.to_bytes()),
            Matrix::Int4(m) => (Codec::Int4, m.to_bytes()),
            Matrix::Fp8(m) => (Codec::Fp8, m.to_bytes()),
            Matrix::Aq(m) => {
                let codebooks = self.codebook_set(m.codebooks())?;
                (Codec::Aq { codebooks, row_means: m.has_row_means() }, m.to_bytes())
            }
            Matrix::LowRank(m) => {
                let first = self.codebook_set(m.first().codebooks())?;
                let second = self.codebook_set(m.second().codebooks())?;
                (Codec::LowRank { rank: m.rank(), first, second }, m.to_bytes())
            }
        };
        self.tensor(name, vec![matrix.rows(), matrix.columns()], codec, &bytes)
    }

    /// Adds a vector.
    ///
    /// # Errors
    /// If a shard can't be stored.
    pub fn vector(
        &mut self,
        name: &str,
        values: &[f32],
        precision: VectorPrecision,
    ) -> Result<(), ArtifactError> {
        self.floats(name, vec![values.len()], values, precision)
    }

    /// Adds a matrix of floats in either precision, `values` row-major.
    ///
    /// # Errors
    /// If a shard can't be stored.
    pub fn floats(
        &mut self,
        name: &str,
        shape: Vec<usize>,
        values: &[f32],
        precision: VectorPrecision,
    ) -> Result<(), ArtifactError> {
        let (codec, bytes): (_, Vec<u8>) = match precision {
            VectorPrecision::F32 => (Codec::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            VectorPrecision::F16 => {
                (Codec::F16, values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect())
            }
        };
        self.tensor(name, shape, codec, &bytes)
    }

    fn tensor(
        &mut self,
        name: &str,
        shape: Vec<usize>,
        codec: Codec,
        bytes: &[u8],
    ) -> Result<(), ArtifactError> {
        let section = self.outline.tensor(name, shape, codec, bytes.len() as u64);
        self.write(section, bytes)
    }

    fn codebook_set(&mut self, set: &Arc<Codebooks>) -> Result<String, ArtifactError> {
        let same = |known: &Arc<Codebooks>| Arc::ptr_eq(known, set) || (known.is_signs() && set.is_signs());
        if let Some((_, name)) = self.codebooks.iter().find(|(known, _)| same(known)) {
            return Ok(name.clone());
        }
        let bytes = set.to_bytes();
        let (name, section) =
            self.outline.codebooks(set.count(), set.dimension(), set.fold(), bytes.len() as u64);
        self.write(section, &bytes)?;
        self.codebooks.push((Arc::clone(set), name.clone()));
        Ok(name)
    }

    /// Appends `bytes` to the body at `section`, over as many shards as it takes.
    fn write(&mut self, section: Section, mut bytes: &[u8]) -> Result<(), ArtifactError> {
        if section.shard as usize > self.hashes.len() {
            self.flush()?;
        }
        self.shard.resize(ShardHeader::BYTES + section.offset as usize, 0);
        while !bytes.is_empty() {
            let room = MAX_SHARD_BYTES - self.shard.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.shard.extend_from_slice(now);
            bytes = later;
            if !bytes.is_empty() {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ArtifactError> {
        let index = self.hashes.len() as u32;
        let header = ShardHeader { index, payload_bytes: (self.shard.len() - ShardHeader::BYTES) as u64 };
        self.shard[..ShardHeader::BYTES].copy_from_slice(&header.to_bytes());
        let sha256 = Sha256::digest(&self.shard).into();
        self.sink.shard(index, &self.shard).map_err(|source| ArtifactError::Io { index, source })?;
        self.hashes.push(sha256);
        self.shard.truncate(ShardHeader::BYTES);
        Ok(())
    }

    /// Stores the last shard and returns the manifest, with its sizes counted.
    ///
    /// # Errors
    /// If the last shard can't be stored, there is no tokenizer, or the manifest would not be valid.
    pub fn finish(mut self, draft: ManifestDraft) -> Result<Manifest, ArtifactError> {
        if self.shard.len() > ShardHeader::BYTES {
            self.flush()?;
        }
        self.outline.manifest(draft, |index| self.hashes[index])
    }
}

impl Manifest {
    /// The same with its sizes counted again, as a change of a name, a tag or a table makes necessary.
    ///
    /// # Errors
    /// If they don't settle, or a number is not finite.
    pub fn recounted(mut self) -> Result<Self, ArtifactError> {
        self.count_sizes()?;
        Ok(self)
    }

    /// Fills in the sizes. The manifest's own length is among them, so this repeats until it no longer changes.
    pub(super) fn count_sizes(&mut self) -> Result<(), ArtifactError> {
        // A longer manifest can only change the digits of what depends on its length, so two rounds are the rule.
        for _ in 0..8 {
            let bytes = self.shard_bytes() + self.unsigned_bytes()?.len() as u64;
            if self.compression.bytes == bytes {
                return Ok(());
            }
            self.compression = self.counted(bytes);
        }
        Err(ArtifactError::field("compression.bytes", "does not settle; change the name or a tag"))
    }

    /// Checks the sizes against what the tables and the manifest's own length say.
    pub(super) fn validate_sizes(&self) -> Result<(), ArtifactError> {
        let bytes = self.shard_bytes() + self.unsigned_bytes()?.len() as u64;
        let counted = self.counted(bytes);
        if self.compression == counted {
            return Ok(());
        }
        Err(ArtifactError::field(
            "compression",
            format!("the files say {counted:?}, not {:?}", self.compression),
        ))
    }

    /// The compression report for files of `bytes` together.
    fn counted(&self, bytes: u64) -> Compression {
        let mut body = Count::default();
        let mut embedding = Count::default();
        let mut vectors = 0u64;
        let mut charged = BTreeSet::new();
        for tensor in &self.tensors {
            let weights: u64 = tensor.shape.iter().map(|&n| n as u64).product();
            if tensor.shape.len() < 2 {
                vectors += weights;
                continue;
            }
            let of_layer = ["model.layers.", "encoder.layer."].iter().any(|p| tensor.name.starts_with(p));
            let count = if of_layer { &mut body } else { &mut embedding };
            count.weights += weights;
            count.bits += 8 * tensor.section.length;
            count.code_bits += 8 * tensor.section.length;
            let rows = tensor.shape[0] as u64;
            count.code_bits -= match &tensor.codec {
                Codec::Aq { row_means: true, .. } => 32 * rows,
                Codec::Aq { row_means: false, .. } => 16 * rows,
                Codec::LowRank { rank, .. } => 16 * (rows + *rank as u64),
                Codec::F32 | Codec::F16 | Codec::Int8 | Codec::Int4 | Codec::Fp8 => 0,
            };
            for name in tensor.codec.codebook_sets().filter(|name| charged.insert(*name)) {
                let sets = self.codebooks.iter().filter(|set| set.name == *name);
                count.bits += sets.map(|set| 8 * set.section.length).sum::<u64>();
            }
        }
        let parameters = body.weights + embedding.weights + vectors;
        Compression {
            seed: self.compression.seed,
            calibration: self.compression.calibration.clone(),
            parameters,
            bits_per_weight_codes: ratio(body.code_bits, body.weights),
            bits_per_weight_body: ratio(body.bits, body.weights),
            bits_per_weight_embedding: ratio(embedding.bits, embedding.weights),
            bits_per_weight_file: ratio_of_fixed_length(8 * bytes, parameters),
            bytes,
            ratio_fp32: ratio_of_fixed_length(4 * parameters, bytes),
            ratio_fp16: ratio_of_fixed_length(2 * parameters, bytes),
        }
    }
}

#[derive(Default)]
struct Count {
    weights: u64,
    bits: u64,
    code_bits: u64,
}

/// `a / b` to four decimals.
fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { (a as f64 / b as f64 * 1e4).round() / 1e4 }
}

/// `a / b` to four decimals of which the last is not 0: its length in JSON does not change with small changes of
/// `a` or `b`, so that a manifest that counts its own length can settle.
fn ratio_of_fixed_length(a: u64, b: u64) -> f64 {
    let scaled = (ratio(a, b) * 1e4).round();
    if scaled % 10.0 == 0.0 { (scaled + 1.0) / 1e4 } else { scaled / 1e4 }
}
