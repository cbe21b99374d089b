//! The manifest: canonical JSON that names everything in the artifact by hash.

use super::{ArtifactError, FORMAT_VERSION, MAX_MANIFEST_BYTES, MAX_SHARD_BYTES, ShardHeader, Signature};
#[cfg(doc)]
use crate::codec::LowRankMatrix;
use crate::codec::{AqMatrix, Codebooks, Fp8Matrix, Int4Matrix, Int8Matrix};
use crate::kernel::Fold;
use crate::model::{Architecture, BertConfig, Config, ModelError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// A range of the body. It continues in the following shards if it is longer than what is left of its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// Shard in which it begins.
    pub shard: u32,
    /// Byte of that shard's payload at which it begins.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// One shard file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// Length of the file, header included.
    pub bytes: u64,
    /// SHA-256 of the file.
    #[serde(with = "hex::serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", regex(pattern = "^[0-9a-f]{64}$")))]
    pub sha256: [u8; 32],
}

/// How a tensor is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Codec {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 8-bit integers, 16-bit scale per row.
    Int8,
    /// 4-bit integers, 16-bit scale per group of 32 columns: see [`Int4Matrix`].
    Int4,
    /// 8-bit floats (E4M3), 32-bit scale per row: see [`Fp8Matrix`].
    Fp8,
    /// Additive quantization: see [`AqMatrix`].
    Aq {
        /// Name of the codebook set.
        codebooks: String,
        /// Whether each row has a mean.
        row_means: bool,
    },
    /// A product of two matrices in additive codes, one section after the other: see [`LowRankMatrix`].
    LowRank {
        /// Rows of the first factor, columns of the second.
        rank: usize,
        /// Name of the first factor's codebook set.
        first: String,
        /// Name of the second factor's codebook set.
        second: String,
    },
}

impl Codec {
    /// Names of the codebook sets that the tensor needs.
    pub fn codebook_sets(&self) -> impl Iterator<Item = &String> {
        let names = match self {
            Self::F32 | Self::F16 | Self::Int8 | Self::Int4 | Self::Fp8 => [None, None],
            Self::Aq { codebooks, .. } => [Some(codebooks), None],
            Self::LowRank { first, second, .. } => [Some(first), Some(second)],
        };
        names.into_iter().flatten()
    }
}

/// A tensor of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Name as in the checkpoint.
    pub name: String,
    /// `[rows, columns]` of a matrix, `[length]` of a vector.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub codec: Codec,
    /// Where.
    pub section: Section,
}

/// A set of codebooks, shared by the tensors that name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CodebookEntry {
    /// Name by which tensors refer to it.
    pub name: String,
    /// Number of codebooks M.
    pub count: usize,
    /// Weights per codeword d.
    pub dimension: usize,
    /// Table entries that products average in 8 bits; see [`Fold`]. Absent for one.
    #[serde(default, skip_serializing_if = "Fold::is_one", with = "fold_entries")]
    #[cfg_attr(feature = "schema", schemars(with = "usize"))]
    pub fold: Fold,
    /// Where.
    pub section: Section,
}

/// A fold as the number of its entries.
mod fold_entries {
    use crate::kernel::Fold;
    use serde::de::{Error, Unexpected};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(fold: &Fold, serializer: S) -> Result<S::Ok, S::Error> {
        fold.entries().serialize(serializer)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<Fold, D::Error> {
        let entries = usize::deserialize(deserializer)?;
        let error = || D::Error::invalid_value(Unexpected::Unsigned(entries as u64), &"1, 2, 4 or 8");
        Fold::new(entries).ok_or_else(error)
    }
}

/// The tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenizerEntry {
    /// Where its compact form is.
    pub section: Section,
    /// SHA-256 of the `tokenizer.json` that it was made from.
    #[serde(with = "hex::serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", regex(pattern = "^[0-9a-f]{64}$")))]
    pub source_sha256: [u8; 32],
}

/// A file of the original checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Path inside the checkpoint.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256.
    #[serde(with = "hex::serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", regex(pattern = "^[0-9a-f]{64}$")))]
    pub sha256: [u8; 32],
}

/// Where the model comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Repository or folder that held the checkpoint.
    pub repository: String,
    /// Revision of the repository, if known.
    pub revision: Option<String>,
    /// Its files.
    pub files: Vec<SourceFile>,
}

/// What compression did, counted on what is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Compression {
    /// Seed of all random choices.
    pub seed: u64,
    /// The text that activations were measured on.
    pub calibration: String,
    /// Weights of the model, a tied head counted once.
    pub parameters: u64,
    /// Bits of the codes alone per weight of the layers' matrices.
    pub bits_per_weight_codes: f64,
    /// All bits per weight of the layers' matrices: codes, scales, means and codebooks.
    pub bits_per_weight_body: f64,
    /// All bits per weight of the embedding and the head.
    pub bits_per_weight_embedding: f64,
    /// Bits of all files together, manifest (without a signature) and tokenizer included, per weight.
    pub bits_per_weight_file: f64,
    /// Bytes of all files together, a signature not counted.
    pub bytes: u64,
    /// How many times smaller that is than the weights in 32-bit floats.
    pub ratio_fp32: f64,
    /// How many times smaller that is than the weights in 16-bit floats.
    pub ratio_fp16: f64,
}

/// What the compressed model loses, measured against the original.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// What the text is.
    pub text: String,
    /// Tokens predicted.
    pub tokens: u64,
    /// Perplexity of the compressed model.
    pub perplexity: f64,
    /// Perplexity of the original.
    pub perplexity_original: f64,
    /// Kullback-Leibler divergence of the compressed model's distribution from the original's, nats per token.
    pub kl: f64,
    /// Share of positions at which both find the same token most likely.
    pub top1_agreement: f64,
}

/// How close the embeddings of a compressed encoder are to the original's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Similarity {
    /// What the texts are.
    pub text: String,
    /// Texts embedded.
    pub texts: u64,
    /// Tokens that they have together.
    pub tokens: u64,
    /// Mean cosine of the two embeddings of a text.
    pub mean_cosine: f64,
    /// Smallest cosine.
    pub min_cosine: f64,
}

/// What it takes to run the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Estimates {
    /// Bytes of weights on the heap, with codes as in the artifact; a canister that has the room gives each code a byte.
    pub heap_bytes: u64,
    /// Bytes of the key/value cache per token of context; an encoder has none.
    pub cache_bytes_per_token: u64,
    /// WebAssembly instructions to decode one token with 256 tokens before it; of an encoder, per token of a text of 256.
    pub instructions_per_token: u64,
}

/// Everything there is to know about an artifact. Its [`id`](Self::id) is the model's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Name of the model.
    pub name: String,
    /// Semantic version of this artifact.
    pub version: String,
    /// SPDX expression or name of the weights' licence.
    pub license: String,
    /// Where the model comes from.
    pub origin: Origin,
    /// Architecture of the model: [`Config::architecture`] of a decoder, `bert` for an encoder.
    pub architecture: String,
    /// Hyper-parameters of a decoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Config>,
    /// Hyper-parameters of an encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<BertConfig>,
    /// Tokenizer.
    pub tokenizer: TokenizerEntry,
    /// Template that turns a conversation into a prompt, if the model has one.
    pub chat_template: Option<String>,
    /// Codebook sets.
    pub codebooks: Vec<CodebookEntry>,
    /// Tensors, in the order in which the forward pass needs them.
    pub tensors: Vec<TensorEntry>,
    /// Shards, in order.
    pub shards: Vec<ShardEntry>,
    /// What compression did.
    pub compression: Compression,
    /// What it cost in quality, if it was measured.
    pub verification: Option<Verification>,
    /// The same for an encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<Similarity>,
    /// What it takes to run the model.
    pub estimates: Estimates,
    /// Words to search by.
    pub tags: Vec<String>,
    /// Who vouches for it. It is no part of what the id is the hash of, nor of the sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

impl Estimates {
    /// Tokens before the one whose instructions are estimated.
    pub const CONTEXT: usize = 256;
}

/// The architecture of encoders.
const ENCODER: &str = "bert";

impl Manifest {
    /// Architecture, and hyper-parameters of a decoder or of an encoder, as a manifest has them.
    pub(super) fn architecture_fields(
        architecture: Architecture,
    ) -> (String, Option<Config>, Option<BertConfig>) {
        match architecture {
            Architecture::Decoder(config) => (config.architecture().to_string(), Some(config), None),
            Architecture::Encoder(config) => (ENCODER.to_string(), None, Some(config)),
        }
    }

    /// The hyper-parameters of a decoder.
    ///
    /// # Errors
    /// [`ArtifactError::Kind`] if the model is an encoder.
    pub fn decoder(&self) -> Result<&Config, ArtifactError> {
        match (&self.config, &self.encoder) {
            (Some(config), None) => Ok(config),
            (Some(_), Some(_)) => Err(ArtifactError::field("encoder", "is there beside `config`")),
            (None, Some(_)) => Err(ArtifactError::Kind { found: "an encoder", needed: "a decoder" }),
            (None, None) => Err(ArtifactError::field("config", "is missing")),
        }
    }

    /// The hyper-parameters of an encoder.
    ///
    /// # Errors
    /// [`ArtifactError::Kind`] if the model is a decoder.
    pub fn encoder(&self) -> Result<&BertConfig, ArtifactError> {
        match (&self.encoder, &self.config) {
            (Some(config), None) => Ok(config),
            (Some(_), Some(_)) => Err(ArtifactError::field("config", "is there beside `encoder`")),
            (None, Some(_)) => Err(ArtifactError::Kind { found: "a decoder", needed: "an encoder" }),
            (None, None) => Err(ArtifactError::field("encoder", "is missing")),
        }
    }

    /// Reads and validates a manifest.
    ///
    /// # Errors
    /// If `bytes` is not the canonical JSON of a valid manifest; the error names the field.
    pub fn parse(bytes: &[u8]) -> Result<Self, ArtifactError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            let reason = format!("{} bytes, at most {MAX_MANIFEST_BYTES} are allowed", bytes.len());
            return Err(ArtifactError::Json(reason));
        }
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let manifest: Self = serde_path_to_error::deserialize(&mut json)
            .map_err(|e| ArtifactError::field(e.path().to_string(), e.inner().to_string()))?;
        json.end().map_err(|e| ArtifactError::Json(e.to_string()))?;
        manifest.validate()?;
        if manifest.to_bytes()? != bytes {
            return Err(ArtifactError::NotCanonical);
        }
        Ok(manifest)
    }

    /// The canonical JSON (RFC 8785).
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ArtifactError> {
        serde_json_canonicalizer::to_vec(self).map_err(|e| ArtifactError::Json(e.to_string()))
    }

    /// The model's id: SHA-256 of the canonical JSON without the signature.
    ///
    /// # Errors
    /// As [`Self::to_bytes`].
    pub fn id(&self) -> Result<[u8; 32], ArtifactError> {
        Ok(Sha256::digest(self.unsigned_bytes()?).into())
    }

    /// The canonical JSON without the signature.
    pub(super) fn unsigned_bytes(&self) -> Result<Vec<u8>, ArtifactError> {
        let unsigned = match self.signature {
            None => Cow::Borrowed(self),
            Some(_) => Cow::Owned(Self { signature: None, ..self.clone() }),
        };
        unsigned.to_bytes()
    }

    /// Checks that the tensors are those of the architecture: each that it needs, in its shape, and no other.
    ///
    /// # Errors
    /// The first tensor that is missing, misshapen or not part of the architecture.
    pub fn check_tensors(&self) -> Result<(), ArtifactError> {
        let mut stored: BTreeMap<&str, &[usize]> =
            self.tensors.iter().map(|entry| (entry.name.as_str(), entry.shape.as_slice())).collect();
        let expected: Box<dyn Iterator<Item = (String, Vec<usize>)>> = match &self.encoder {
            Some(_) => Box::new(self.encoder()?.tensors()),
            None => Box::new(self.decoder()?.tensors()),
        };
        for (name, shape) in expected {
            let Some(got) = stored.remove(name.as_str()) else {
                return Err(ModelError::MissingTensor(name).into());
            };
            if got != shape {
                let pair = |shape: &[usize]| [shape[0], shape.get(1).copied().unwrap_or(1)];
                return Err(ModelError::TensorShape { name, got: pair(got), expected: pair(&shape) }.into());
            }
        }
        match stored.keys().next() {
            Some(name) => {
                Err(ArtifactError::field("tensors", format!("`{name}` is not part of the architecture")))
            }
            None => Ok(()),
        }
    }

    /// Bytes of all shards together.
    pub fn shard_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.bytes).sum()
    }

    /// Checks every field against the others.
    ///
    /// # Errors
    /// The first field that is off.
    pub fn validate(&self) -> Result<(), ArtifactError> {
        if self.format_version != FORMAT_VERSION {
            let reason = format!("{} is not supported, only {FORMAT_VERSION}", self.format_version);
            return Err(ArtifactError::field("format_version", reason));
        }
        for (field, text, longest) in [
            ("name", &self.name, 128),
            ("version", &self.version, 64),
            ("license", &self.license, 128),
            ("origin.repository", &self.origin.repository, 512),
        ] {
            if text.is_empty() || text.len() > longest || text.chars().any(char::is_control) {
                return Err(ArtifactError::field(field, format!("must be 1 to {longest} printable bytes")));
            }
        }
        if let Err(error) = semver::Version::parse(&self.version) {
            return Err(ArtifactError::field(
                "version",
                format!("`{}` is not a semantic version: {error}", self.version),
            ));
        }
        match self.architecture.as_str() {
            ENCODER => self.encoder()?.validate()?,
            name if Config::ARCHITECTURES.contains(&name) => {
                let config = self.decoder()?;
                config.validate()?;
                let architecture = config.architecture();
                if name != architecture {
                    let reason = format!("`{name}` is not what `config` is: {architecture}");
                    return Err(ArtifactError::field("architecture", reason));
                }
            }
            other => {
                return Err(ArtifactError::field("architecture", format!("`{other}` is not supported")));
            }
        }
        self.validate_shards()?;
        self.validate_section("tokenizer.section", self.tokenizer.section)?;
        let sets = self.validate_codebooks()?;
        self.validate_tensors(&sets)?;
        if self.tags.len() > 32 || self.tags.iter().any(|tag| tag.is_empty() || tag.len() > 64) {
            return Err(ArtifactError::field("tags", "at most 32 tags of 1 to 64 bytes"));
        }
        self.validate_sizes()
    }

    fn validate_shards(&self) -> Result<(), ArtifactError> {
        if self.shards.is_empty() {
            return Err(ArtifactError::field("shards", "there are none"));
        }
        for (i, shard) in self.shards.iter().enumerate() {
            if !(ShardHeader::BYTES as u64 + 1..=MAX_SHARD_BYTES as u64).contains(&shard.bytes) {
                let reason =
                    format!("{} is not in {}..={MAX_SHARD_BYTES}", shard.bytes, ShardHeader::BYTES + 1);
                return Err(ArtifactError::field(format!("shards[{i}].bytes"), reason));
            }
        }
        Ok(())
    }

    /// Checks that `section` lies inside the shards, following it from shard to shard.
    fn validate_section(&self, field: &str, section: Section) -> Result<(), ArtifactError> {
        let payload = |index: usize| self.shards.get(index).map(|s| s.bytes - ShardHeader::BYTES as u64);
        let mut index = section.shard as usize;
        let Some(first) = payload(index).and_then(|bytes| bytes.checked_sub(section.offset)) else {
            return Err(ArtifactError::field(field, "begins outside the shards"));
        };
        let mut left = section.length.saturating_sub(first);
        while left > 0 {
            index += 1;
            match payload(index) {
                Some(bytes) => left = left.saturating_sub(bytes),
                None => {
                    return Err(ArtifactError::field(
                        field,
                        format!("ends {left} bytes after the last shard"),
                    ));
                }
            }
        }
        Ok(())
    }

    fn validate_codebooks(&self) -> Result<BTreeMap<&str, Codebooks>, ArtifactError> {
        let mut sets = BTreeMap::new();
        for (i, entry) in self.codebooks.iter().enumerate() {
            let field = format!("codebooks[{i}] ({})", entry.name);
            let Some(expected) = Codebooks::stored_bytes(entry.count, entry.dimension) else {
                let reason =
                    format!("{} codebooks over {} weights are not supported", entry.count, entry.dimension);
                return Err(ArtifactError::field(field, reason));
            };
            if entry.section.length != expected as u64 {
                let reason = format!("{} bytes, {expected} expected", entry.section.length);
                return Err(ArtifactError::field(field, reason));
            }
            self.validate_section(&field, entry.section)?;
            let codewords = vec![0; expected - 4];
            let set = Codebooks::new(entry.count, entry.dimension, 0.0, codewords)
                .map_err(|e| ArtifactError::field(&field, e.to_string()))?;
            if sets.insert(entry.name.as_str(), set).is_some() {
                return Err(ArtifactError::field(field, "the name is used twice"));
            }
        }
        Ok(sets)
    }

    fn validate_tensors(&self, sets: &BTreeMap<&str, Codebooks>) -> Result<(), ArtifactError> {
        let mut names = BTreeSet::new();
        for (i, entry) in self.tensors.iter().enumerate() {
            let field = format!("tensors[{i}] ({})", entry.name);
            if !names.insert(entry.name.as_str()) {
                return Err(ArtifactError::field(field, "the name is used twice"));
            }
            let (rows, columns) = match entry.shape[..] {
                [rows, columns] if rows > 0 && columns > 0 => (rows, columns),
                [length] if length > 0 && matches!(entry.codec, Codec::F32 | Codec::F16) => (1, length),
                _ => {
                    return Err(ArtifactError::field(
                        field,
                        format!("shape {:?} does not fit the codec", entry.shape),
                    ));
                }
            };
            let set = |name: &str| {
                let missing = || ArtifactError::field(&field, format!("codebook set `{name}` is missing"));
                sets.get(name).ok_or_else(missing)
            };
            let expected = match &entry.codec {
                Codec::F32 => rows.checked_mul(columns).and_then(|n| n.checked_mul(4)),
                Codec::F16 => rows.checked_mul(columns).and_then(|n| n.checked_mul(2)),
                Codec::Int8 => Int8Matrix::stored_bytes(rows, columns),
                Codec::Int4 => Int4Matrix::stored_bytes(rows, columns),
                Codec::Fp8 => Fp8Matrix::stored_bytes(rows, columns),
                Codec::Aq { codebooks, row_means } => {
                    AqMatrix::stored_bytes(rows, columns, set(codebooks)?, *row_means)
                }
                Codec::LowRank { rank, first, second } => {
                    let [first, second] = [set(first)?, set(second)?];
                    let bytes = AqMatrix::stored_bytes(*rank, columns, first, false);
                    bytes.and_then(|n| n.checked_add(AqMatrix::stored_bytes(rows, *rank, second, false)?))
                }
            };
            if expected.map(|bytes| bytes as u64) != Some(entry.section.length) {
                let reason = format!("{} bytes don't hold shape {:?}", entry.section.length, entry.shape);
                return Err(ArtifactError::field(field, reason));
            }
            self.validate_section(&field, entry.section)?;
        }
        Ok(())
    }
}
