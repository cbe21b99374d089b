//! Which codec every matrix gets.

use std::fmt;
use std::str::FromStr;

use novaq_engine::codec::{AqMatrix, Codebooks};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::quantize::beam::MAX_BOOKS;

/// AQ(M, d): `M` codebooks of 16 codewords over vectors of `d` weights, written as in `4x16@8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Additive {
    /// Number of codebooks, `M`.
    pub books: usize,
    /// Weights per vector, `d`.
    pub dim: usize,
}

impl Additive {
    /// Bits of the codes per weight.
    pub fn bits(self) -> f64 {
        4.0 * self.books as f64 / self.dim as f64
    }
}

impl fmt::Display for Additive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x16@{}", self.books, self.dim)
    }
}

impl FromStr for Additive {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once("x16@").and_then(|(m, d)| Some((m.parse().ok()?, d.parse().ok()?)));
        match parts {
            Some((books, dim)) if (1..=MAX_BOOKS).contains(&books) && [4, 8].contains(&dim) => {
                Ok(Self { books, dim })
            }
            _ => Err(format!(
                "`{text}` is no codec; write `Mx16@D` with M from 1 to {MAX_BOOKS} codebooks over D = 4 or 8 weights"
            )),
        }
    }
}

/// How the embedding and the head are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingCodec {
    /// Additive codes.
    Aq(Additive),
    /// 8-bit integers with a scale per row.
    Int8,
    /// 16-bit floats.
    F16,
}

impl EmbeddingCodec {
    /// The codec for `bits` per weight: additive codes up to 4 bits, then 8-bit integers, then 16-bit floats.
    ///
    /// # Errors
    /// If no codec has that many bits.
    pub fn for_bits(bits: f64) -> Result<Self, String> {
        let books = bits * 2.0;
        if (2.0..=8.0).contains(&books) && books.fract() == 0.0 {
            Ok(Self::Aq(Additive { books: books as usize, dim: 8 }))
        } else if bits == 8.0 {
            Ok(Self::Int8)
        } else if bits == 16.0 {
            Ok(Self::F16)
        } else {
            Err(format!("{bits} bits: write 1 to 4 in steps of 0.5, 8 or 16"))
        }
    }
}

/// The codecs of a whole model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Per layer and linear input, in the order of [`Checkpoint::LAYER_MATRICES`].
    pub layers: Vec<[Additive; 4]>,
    /// Of the embedding, and of the head if it is not tied.
    pub embedding: EmbeddingCodec,
}

/// Mean squared error of AQ(M, 8) on a unit Gaussian for M from 1, as [`crate::quantize::additive`] reaches it.
const GAUSSIAN_ERROR: [f64; MAX_BOOKS] = [0.58, 0.337, 0.182, 0.097, 0.052, 0.028, 0.0155, 0.0085];

impl Plan {
    /// The same codec for every layer.
    pub fn uniform(checkpoint: &Checkpoint, body: Additive, embedding: EmbeddingCodec) -> Self {
        Self { layers: vec![[body; 4]; checkpoint.config().num_hidden_layers], embedding }
    }

    /// Codecs over vectors of 8 weights with at most `bits` of codes per weight of the layers on average. Codebooks
    /// go one by one to the linear input where one more lowers the expected error most for its bits.
    /// `noise` says per layer and linear input how large the relative error of the output is expected to be if
    /// vectors are quantized with an error of one.
    pub fn within_bits(
        checkpoint: &Checkpoint,
        bits: f64,
        noise: &[[f64; 4]],
        embedding: EmbeddingCodec,
    ) -> Self {
        let weights = input_weights(checkpoint);
        let total = weights.iter().sum::<u64>() * noise.len() as u64;
        let least = Additive { books: 2, dim: 8 };
        let mut plan = Self { layers: vec![[least; 4]; noise.len()], embedding };
        let mut left = ((bits - least.bits()) * total as f64) as u64;
        loop {
            let gain = |layer: usize, input: usize| {
                let books = plan.layers[layer][input].books;
                noise[layer][input] * (GAUSSIAN_ERROR[books - 1] - GAUSSIAN_ERROR[books])
                    / weights[input] as f64
            };
            let open = (0..noise.len()).flat_map(|layer| (0..4).map(move |input| (layer, input)));
            let best = open
                .filter(|&(l, i)| plan.layers[l][i].books < MAX_BOOKS && weights[i] / 2 <= left)
                .max_by(|&a, &b| gain(a.0, a.1).total_cmp(&gain(b.0, b.1)).then(b.cmp(&a)));
            let Some((layer, input)) = best else { return plan };
            left -= weights[input] / 2;
            plan.layers[layer][input].books += 1;
        }
    }

    /// Bytes of the matrices: codes, row scales and codebooks.
    pub fn matrix_bytes(&self, checkpoint: &Checkpoint) -> u64 {
        let additive = |codec: Additive, shapes: &[[usize; 2]]| {
            let codebooks =
                Codebooks::new(codec.books, codec.dim, 1.0, vec![0; codec.books * 16 * codec.dim]);
            let Ok(codebooks) = codebooks else { return 0 };
            let matrices = shapes.iter().map(|&[rows, columns]| {
                AqMatrix::stored_bytes(rows, columns, &codebooks, false).unwrap_or(0)
            });
            (matrices.sum::<usize>() + Codebooks::stored_bytes(codec.books, codec.dim).unwrap_or(0)) as u64
        };
        let layers = self.layers.iter().flat_map(|codecs| codecs.iter().zip(Checkpoint::LAYER_MATRICES));
        let body: u64 = layers
            .map(|(&codec, names)| {
                let shapes: Vec<_> = names.iter().map(|name| checkpoint.layer_matrix_shape(name)).collect();
                additive(codec, &shapes)
            })
            .sum();
        let config = checkpoint.config();
        let shape = [config.vocab_size, config.hidden_size];
        let weights = (shape[0] * shape[1]) as u64;
        let embedding = match self.embedding {
            EmbeddingCodec::Aq(codec) => additive(codec, &[shape]),
            EmbeddingCodec::Int8 => weights + 2 * shape[0] as u64,
            EmbeddingCodec::F16 => 2 * weights,
        };
        body + if config.tie_word_embeddings { embedding } else { 2 * embedding }
    }
}

/// Weights of a layer by linear input.
fn input_weights(checkpoint: &Checkpoint) -> [u64; 4] {
    Checkpoint::LAYER_MATRICES.map(|names| {
        names.iter().map(|name| checkpoint.layer_matrix_shape(name).iter().product::<usize>() as u64).sum()
    })
}
