//! The tables of an artifact, from lengths alone.

use super::manifest::{
    CodebookEntry, Codec, Compression, Manifest, Section, ShardEntry, TensorEntry, TokenizerEntry,
};
use super::{ArtifactError, FORMAT_VERSION, MAX_SHARD_BYTES, ManifestDraft, SECTION_ALIGNMENT, ShardHeader};
use crate::kernel::Fold;

/// Bytes of payload that a shard has room for.
const MAX_PAYLOAD_BYTES: u64 = (MAX_SHARD_BYTES - ShardHeader::BYTES) as u64;

/// Where the sections of an artifact lie and what its manifest says about them. [`Writer`](super::Writer) follows it
/// byte by byte; without bytes it tells the size of an artifact that is yet to be made.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// Payload bytes of the shards that are full.
    full: Vec<u64>,
    /// Payload bytes of the shard that is being filled.
    open: u64,
    tokenizer: Option<Section>,
    codebooks: Vec<CodebookEntry>,
    tensors: Vec<TensorEntry>,
}

impl Outline {
    /// Adds the tokenizer's compact form of `length` bytes.
    pub fn tokenizer(&mut self, length: u64) -> Section {
        let section = self.place(length);
        self.tokenizer = Some(section);
        section
    }

    /// Adds a set of `count` codebooks over `dimension` weights whose products average `fold` table entries, and names it.
    pub fn codebooks(
        &mut self,
        count: usize,
        dimension: usize,
        fold: Fold,
        length: u64,
    ) -> (String, Section) {
        let name = format!("codebooks.{}", self.codebooks.len());
        let section = self.place(length);
        self.codebooks.push(CodebookEntry { name: name.clone(), count, dimension, fold, section });
        (name, section)
    }

    /// Adds a tensor that takes `length` bytes in `codec`.
    pub fn tensor(&mut self, name: &str, shape: Vec<usize>, codec: Codec, length: u64) -> Section {
        let section = self.place(length);
        self.tensors.push(TensorEntry { name: name.to_string(), shape, codec, section });
        section
    }

    /// Puts a section of `length` bytes after the others, aligned, over as many shards as it takes.
    fn place(&mut self, length: u64) -> Section {
        let aligned = self.open.next_multiple_of(SECTION_ALIGNMENT as u64);
        if aligned >= MAX_PAYLOAD_BYTES {
            self.full.push(self.open);
            self.open = 0;
        } else {
            self.open = aligned;
        }
        let section = Section { shard: self.full.len() as u32, offset: self.open, length };
        self.open += length;
        while self.open > MAX_PAYLOAD_BYTES {
            self.full.push(MAX_PAYLOAD_BYTES);
            self.open -= MAX_PAYLOAD_BYTES;
        }
        section
    }

    /// The manifest, with its sizes counted; `sha256` gives the hash of each shard. A hash takes as many bytes as any
    /// other, so one that is not known yet changes no size.
    ///
    /// # Errors
    /// If there is no tokenizer, or the manifest would not be valid.
    pub fn manifest(
        self,
        draft: ManifestDraft,
        sha256: impl Fn(usize) -> [u8; 32],
    ) -> Result<Manifest, ArtifactError> {
        let Some(section) = self.tokenizer else {
            return Err(ArtifactError::field("tokenizer", "there is none"));
        };
        let open = Some(self.open).filter(|&bytes| bytes > 0);
        let payloads = self.full.into_iter().chain(open).enumerate();
        let shards = payloads.map(|(index, payload)| ShardEntry {
            bytes: ShardHeader::BYTES as u64 + payload,
            sha256: sha256(index),
        });
        let (architecture, config, encoder) = Manifest::architecture_fields(draft.architecture);
        let mut manifest = Manifest {
            format_version: FORMAT_VERSION,
            name: draft.name,
            version: draft.version,
            license: draft.license,
            origin: draft.origin,
            architecture,
            config,
            encoder,
            tokenizer: TokenizerEntry { section, source_sha256: draft.tokenizer_sha256 },
            chat_template: draft.chat_template,
            codebooks: self.codebooks,
            tensors: self.tensors,
            shards: shards.collect(),
            compression: Compression {
                seed: draft.seed,
                calibration: draft.calibration,
                parameters: 0,
                bits_per_weight_codes: 0.0,
                bits_per_weight_body: 0.0,
                bits_per_weight_embedding: 0.0,
                bits_per_weight_file: 0.0,
                bytes: 0,
                ratio_fp32: 0.0,
                ratio_fp16: 0.0,
            },
            verification: draft.verification,
            similarity: draft.similarity,
            estimates: draft.estimates,
            tags: draft.tags,
            signature: None,
        };
        manifest.count_sizes()?;
        manifest.validate()?;
        Ok(manifest)
    }
}
