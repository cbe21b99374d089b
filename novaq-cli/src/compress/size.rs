//! The size of an artifact before it is made, byte by byte, from the headers alone.

use std::collections::{BTreeMap, BTreeSet};

use novaq_engine::artifact::{
    ArtifactError, Codec, Estimates, Manifest, ManifestDraft, Outline, Verification,
};
use novaq_engine::model::{CachePrecision, KvCache};
use serde::Serialize;

use super::HELD_OUT_TEXT;
use super::plan::{MatrixCodec, Part, Plan};
use super::quantization::HELD_OUT_SEQUENCES;
use crate::checkpoint::Checkpoint;
use crate::evaluate::text::SEQUENCE_TOKENS;

/// A measurement that takes as many bytes in a manifest as any can: 24 for a number, as RFC 8785 writes the shortest
/// decimals that stand for it, and a sign for the divergence, which may be 0 but for rounding.
fn widest() -> Verification {
    Verification {
        text: HELD_OUT_TEXT.to_owned(),
        tokens: (HELD_OUT_SEQUENCES * SEQUENCE_TOKENS) as u64,
        perplexity: WIDEST,
        perplexity_original: WIDEST,
        kl: -WIDEST,
        top1_agreement: WIDEST,
    }
}

/// 17 digits behind 6 zeros.
const WIDEST: f64 = 1.234_567_890_123_456_7e-6;

/// What it takes to run the model with the codecs of `plan`, as [`novaq_engine::model::Model`] counts it.
fn estimates(checkpoint: &Checkpoint, plan: &Plan, parts: &[Part]) -> Estimates {
    let config = checkpoint.config();
    let (mut heap_bytes, mut instructions) = (0, 0);
    for part in parts {
        let Some([rows, columns]) = part.matrix() else { continue };
        let form = plan.codec(part).form();
        heap_bytes += form.heap_bytes(rows, columns) as u64;
        // The row of one token costs next to nothing; a tied head is a product all the same.
        if part.name != super::plan::EMBEDDING || config.tie_word_embeddings {
            instructions += form.work(rows, columns);
        }
    }
    let attention = config.attention_work(Estimates::CONTEXT);
    Estimates {
        heap_bytes,
        cache_bytes_per_token: KvCache::bytes_per_position(config, CachePrecision::Int8) as u64,
        instructions_per_token: instructions + attention,
    }
}

/// Tells the size of artifacts of one checkpoint.
pub(super) struct Sizes<'a> {
    checkpoint: &'a Checkpoint,
    parts: Vec<Part>,
    tokenizer_bytes: u64,
    /// What the manifest says whatever the codecs are.
    draft: ManifestDraft,
}

impl<'a> Sizes<'a> {
    /// For artifacts with a compact tokenizer of `tokenizer_bytes`; of `draft`, estimates and quality don't matter.
    pub(super) fn new(checkpoint: &'a Checkpoint, tokenizer_bytes: u64, draft: ManifestDraft) -> Self {
        Self { checkpoint, parts: Part::all(checkpoint), tokenizer_bytes, draft }
    }

    /// The manifest of an artifact with the codecs of `plan`, but for hashes and measured quality: no manifest of such
    /// an artifact is longer.
    ///
    /// The lengths that measured numbers may have are all that varies. The two ratios of a smaller file could have a
    /// digit more each, but perplexities are at least 1, and no such number is longer than 23 bytes.
    pub(super) fn manifest(&self, plan: &Plan) -> Result<Manifest, ArtifactError> {
        self.with_verification(plan, widest())
    }

    /// What it takes to run the model with the codecs of `plan`.
    pub(super) fn estimates(&self, plan: &Plan) -> Estimates {
        estimates(self.checkpoint, plan, &self.parts)
    }

    /// Bytes of the longest and of the shortest artifact with the codecs of `plan`.
    pub(super) fn range(&self, plan: &Plan) -> Result<[u64; 2], ArtifactError> {
        let shortest = Verification {
            tokens: 0,
            perplexity: 1.0,
            perplexity_original: 1.0,
            kl: 0.0,
            top1_agreement: 0.0,
            ..widest()
        };
        let [most, least] =
            [self.manifest(plan)?, self.with_verification(plan, shortest)?].map(|m| m.compression.bytes);
        Ok([most, least])
    }

    fn with_verification(&self, plan: &Plan, verification: Verification) -> Result<Manifest, ArtifactError> {
        let mut outline = Outline::default();
        outline.tokenizer(self.tokenizer_bytes);
        let mut sets = BTreeMap::new();
        for part in &self.parts {
            let Some(shape) = part.matrix() else {
                outline.tensor(&part.name, part.shape.clone(), Codec::F16, 2 * part.weights());
                continue;
            };
            let codec = plan.codec(part);
            let stored = match codec {
                MatrixCodec::Int8 => Codec::Int8,
                MatrixCodec::Int4 => Codec::Int4,
                MatrixCodec::Fp8 => Codec::Fp8,
                MatrixCodec::F16 => Codec::F16,
                MatrixCodec::Aq(additive) => {
                    // Matrices of a layer that read one input share a set; embedding and head have their own.
                    let name = if part.input.is_none() { part.name.as_str() } else { "" };
                    let codebooks = sets.entry((part.input, name, additive)).or_insert_with(|| {
                        outline.codebooks(additive.books, additive.dim, codec.codebook_bytes()).0
                    });
                    Codec::Aq { codebooks: codebooks.clone(), row_means: false }
                }
            };
            outline.tensor(&part.name, part.shape.clone(), stored, codec.matrix_bytes(shape));
        }
        let draft = ManifestDraft {
            verification: Some(verification),
            estimates: self.estimates(plan),
            ..self.draft.clone()
        };
        outline.manifest(draft, |_| [0; 32])
    }

    /// The bytes of `manifest`, an artifact with the codecs of `plan`, by what they are for.
    pub(super) fn by_kind(&self, plan: &Plan, manifest: &Manifest) -> Vec<Kind> {
        let sections: BTreeMap<&str, u64> =
            manifest.tensors.iter().map(|t| (t.name.as_str(), t.section.length)).collect();
        let of_kind = |kind: &'static str, holds: &dyn Fn(&Part) -> bool| {
            let parts: Vec<&Part> = self.parts.iter().filter(|part| holds(part)).collect();
            let codecs = parts.iter().filter(|part| part.matrix().is_some()).map(|part| plan.codec(part));
            let codecs: BTreeSet<MatrixCodec> = codecs.collect();
            Kind {
                kind,
                tensors: parts.len(),
                weights: parts.iter().map(|part| part.weights()).sum(),
                codecs: codecs.iter().map(ToString::to_string).collect(),
                bytes: parts.iter().filter_map(|part| sections.get(part.name.as_str())).sum(),
            }
        };
        let named =
            |text: &'static str| move |part: &Part| part.matrix().is_some() && part.name.contains(text);
        let mut kinds = vec![
            of_kind("embedding", &named("embed_tokens")),
            of_kind("attention", &named(".self_attn.")),
            of_kind("feed-forward", &named(".mlp.")),
            of_kind("head", &named("lm_head")),
            of_kind("norms and biases", &|part| part.matrix().is_none()),
        ];
        kinds.retain(|kind| kind.tensors > 0);
        let plain = |kind, bytes| Kind { kind, tensors: 0, weights: 0, codecs: Vec::new(), bytes };
        let codebooks = manifest.codebooks.iter().map(|set| set.section.length).sum();
        let tokenizer = manifest.tokenizer.section.length;
        let sections: u64 = sections.values().sum::<u64>() + codebooks + tokenizer;
        kinds.extend([
            plain("codebooks", codebooks),
            plain("tokenizer", tokenizer),
            plain("shard headers, padding", manifest.shard_bytes() - sections),
            plain("manifest", manifest.compression.bytes - manifest.shard_bytes()),
        ]);
        kinds
    }
}

/// A part of an artifact's bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Kind {
    /// What they are for.
    pub kind: &'static str,
    /// Number of tensors.
    pub tensors: usize,
    /// Weights of these tensors.
    pub weights: u64,
    /// Codecs of its matrices.
    pub codecs: Vec<String>,
    /// Bytes: of matrices with row scales, without codebooks.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_written_longer_than_the_widest() {
        let length = |value: f64| serde_json_canonicalizer::to_string(&value).unwrap().len();
        assert_eq!((length(WIDEST), length(-WIDEST)), (24, 25));
        let mut bits = 1u64;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = f64::from_bits(bits).abs();
            let small = (bits >> 11) as f64 * 2f64.powi(-53) * 10f64.powi(-((bits % 9) as i32));
            for value in [value, small].into_iter().filter(|v| v.is_finite()) {
                assert!(length(value) <= 24, "{value}");
                assert!(value < 1.0 || length(value) <= 23, "{value}");
            }
        }
    }
}
