//! The size of an artifact before it is made, byte by byte, from the headers alone.

use std::collections::{BTreeMap, BTreeSet};

use novaq_engine::artifact::{
    ArtifactError, Codec, Estimates, Manifest, ManifestDraft, Outline, Similarity, Verification,
};
use novaq_engine::codec::Codebooks;
use novaq_engine::kernel::Fold;
use novaq_engine::model::Architecture;
use serde::Serialize;

use super::HELD_OUT_TEXT;
use super::encoder::{HELD_OUT_LINES, MOST_HELD_OUT};
use super::plan::{Folding, HEAD, Layout, MatrixCodec, Part, Plan, SIGNS};
use super::quantization::HELD_OUT_SEQUENCES;
use crate::evaluate::text::SEQUENCE_TOKENS;

/// A measurement of a decoder or an encoder, as the manifest has it.
#[derive(Clone)]
enum Quality {
    Decoder(Verification),
    Encoder(Similarity),
}

/// A measurement of an encoder that takes as many bytes in a manifest as any can: cosines may have a sign.
fn widest_similarity() -> Similarity {
    Similarity {
        text: HELD_OUT_LINES.to_owned(),
        texts: MOST_HELD_OUT as u64,
        tokens: 10u64.pow(6) - 1,
        mean_cosine: -WIDEST,
        min_cosine: -WIDEST,
    }
}

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

/// Tells the size of artifacts of one checkpoint.
pub(super) struct Sizes<'a> {
    layout: &'a dyn Layout,
    parts: Vec<Part>,
    tokenizer_bytes: u64,
    /// What the manifest says whatever the codecs are.
    draft: ManifestDraft,
    folding: Folding,
}

impl<'a> Sizes<'a> {
    /// For artifacts with a compact tokenizer of `tokenizer_bytes`; of `draft`, estimates and quality don't matter.
    pub(super) fn new(
        layout: &'a dyn Layout,
        tokenizer_bytes: u64,
        draft: ManifestDraft,
        folding: Folding,
    ) -> Self {
        Self { layout, parts: Part::all(layout), tokenizer_bytes, draft, folding }
    }

    /// The manifest of an artifact with the codecs of `plan`, but for hashes and measured quality: no manifest of such
    /// an artifact is longer.
    ///
    /// The lengths that measured numbers may have are all that varies. The two ratios of a smaller file could have a
    /// digit more each, but perplexities are at least 1, and no such number is longer than 23 bytes.
    pub(super) fn manifest(&self, plan: &Plan) -> Result<Manifest, ArtifactError> {
        self.with_quality(plan, self.widest())
    }

    /// What it takes to run the model with the codecs of `plan`.
    pub(super) fn estimates(&self, plan: &Plan) -> Estimates {
        self.layout.estimates(plan)
    }

    /// Bytes of the longest and of the shortest artifact with the codecs of `plan`.
    pub(super) fn range(&self, plan: &Plan) -> Result<[u64; 2], ArtifactError> {
        let shortest = match self.widest() {
            Quality::Decoder(widest) => Quality::Decoder(Verification {
                tokens: 0,
                perplexity: 1.0,
                perplexity_original: 1.0,
                kl: 0.0,
                top1_agreement: 0.0,
                ..widest
            }),
            Quality::Encoder(widest) => Quality::Encoder(Similarity {
                texts: 0,
                tokens: 0,
                mean_cosine: 0.0,
                min_cosine: 0.0,
                ..widest
            }),
        };
        let [most, least] =
            [self.manifest(plan)?, self.with_quality(plan, shortest)?].map(|m| m.compression.bytes);
        Ok([most, least])
    }

    fn widest(&self) -> Quality {
        match self.draft.architecture {
            Architecture::Decoder(_) => Quality::Decoder(widest()),
            Architecture::Encoder(_) => Quality::Encoder(widest_similarity()),
        }
    }

    fn with_quality(&self, plan: &Plan, quality: Quality) -> Result<Manifest, ArtifactError> {
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
                MatrixCodec::LowRank { rank } => {
                    let set = sets.entry((None, "", SIGNS)).or_insert_with(|| {
                        let bytes = Codebooks::signs().to_bytes().len() as u64;
                        outline.codebooks(SIGNS.books, SIGNS.dim, Fold::ONE, bytes).0
                    });
                    Codec::LowRank { rank, first: set.clone(), second: set.clone() }
                }
                MatrixCodec::Aq(additive) => {
                    // Matrices of a layer that read one input share a set; embedding and head have their own.
                    let name = if part.input.is_none() { part.name.as_str() } else { "" };
                    let codebooks = sets.entry((part.input, name, additive)).or_insert_with(|| {
                        let fold = self.folding.of(additive, part.input.is_some());
                        outline.codebooks(additive.books, additive.dim, fold, codec.codebook_bytes()).0
                    });
                    Codec::Aq { codebooks: codebooks.clone(), row_means: false }
                }
            };
            outline.tensor(&part.name, part.shape.clone(), stored, codec.matrix_bytes(shape));
        }
        let (verification, similarity) = match quality {
            Quality::Decoder(verification) => (Some(verification), None),
            Quality::Encoder(similarity) => (None, Some(similarity)),
        };
        let draft =
            ManifestDraft { verification, similarity, estimates: self.estimates(plan), ..self.draft.clone() };
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
        let is_table = |part: &Part| part.matrix().is_some() && part.input.is_none();
        let mut kinds = vec![
            of_kind("embedding", &|part| is_table(part) && part.name != HEAD),
            of_kind("attention", &|part| part.input.is_some_and(|(_, input)| input < 2)),
            of_kind("feed-forward", &|part| part.input.is_some_and(|(_, input)| input >= 2)),
            of_kind("head", &|part| part.name == HEAD),
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
