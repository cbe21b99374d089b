//! Which codec every matrix gets.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use novaq_engine::artifact::Estimates;
use novaq_engine::codec::{Codebooks, MatrixForm};
use novaq_engine::kernel::Fold;
use novaq_engine::model::{CachePrecision, KvCache};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::matrices::Fitted;
use super::pattern::Override;
use super::sensitivity::Sensitivity;

use crate::checkpoint::{Checkpoint, EncoderCheckpoint, encoder_layer_name, layer_name};
use crate::quantize::beam::MAX_BOOKS;

/// AQ(M, d): `M` codebooks of 16 codewords over vectors of `d` weights, written as in `4x16@8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
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

/// How many table entries products of coded matrices average in 8 bits ([`Fold`]): the more, the fewer instructions a token
/// takes, and the more noise it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Folding {
    /// One entry, as small models have it: they are fast anyway.
    Small,
    /// What large models take for their bits.
    Large,
    /// So many everywhere.
    Fixed(usize),
}

impl Folding {
    /// Weights from which a model is a large one.
    const LARGE: u64 = 50_000_000;

    /// What was asked for, or else what fits a model of so many weights.
    pub(super) fn new(asked: Option<Fold>, parameters: u64) -> Self {
        match asked {
            Some(fold) => Self::Fixed(fold.entries()),
            None if parameters < Self::LARGE => Self::Small,
            None => Self::Large,
        }
    }

    /// That of a matrix in `codec`, of a layer or of embedding and head.
    pub(super) fn of(self, codec: Additive, in_layer: bool) -> Fold {
        match self {
            // A table of signs adds up few weights.
            _ if codec == SIGNS => Fold::ONE,
            Self::Small => Fold::ONE,
            Self::Large if in_layer => Fold::of_bits(codec.bits()),
            Self::Large => Fold::of_head_bits(codec.bits()),
            Self::Fixed(entries) => Fold::new(entries).unwrap_or_default(),
        }
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

/// How a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MatrixCodec {
    /// Additive codes.
    Aq(Additive),
    /// 8-bit integers with a scale per row.
    Int8,
    /// 4-bit integers with a scale per group of 32 columns.
    Int4,
    /// 8-bit floats with a scale per row.
    Fp8,
    /// 16-bit floats.
    F16,
    /// The product of two matrices of signs with row scales.
    LowRank {
        /// Columns of the one, rows of the other.
        rank: usize,
    },
}

/// AQ(1, 4) as the codes of signs: a nibble is four of them.
pub(super) const SIGNS: Additive = Additive { books: 1, dim: 4 };

impl MatrixCodec {
    /// Additive codes of `books` codebooks over 8 weights: half a bit per weight each.
    const fn books(books: usize) -> Self {
        Self::Aq(Additive { books, dim: 8 })
    }

    /// The codec for `bits` per weight: additive codes up to 4 bits, then 8-bit integers, then 16-bit floats.
    ///
    /// # Errors
    /// If no codec has that many bits.
    pub fn for_bits(bits: f64) -> Result<Self, String> {
        let books = bits * 2.0;
        if (2.0..=8.0).contains(&books) && books.fract() == 0.0 {
            Ok(Self::books(books as usize))
        } else if bits == 8.0 {
            Ok(Self::Int8)
        } else if bits == 16.0 {
            Ok(Self::F16)
        } else {
            Err(format!("{bits} bits: write 1 to 4 in steps of 0.5, 8 or 16"))
        }
    }

    /// The codec as the engine keeps it.
    pub(super) fn form(self) -> MatrixForm {
        match self {
            Self::Aq(Additive { books, dim }) => MatrixForm::Aq { codebooks: books, dimension: dim },
            Self::Int8 => MatrixForm::Int8,
            Self::Int4 => MatrixForm::Int4,
            Self::Fp8 => MatrixForm::Fp8,
            Self::F16 => MatrixForm::F16,
            Self::LowRank { rank } => {
                MatrixForm::LowRank { rank, codebooks: SIGNS.books, dimension: SIGNS.dim }
            }
        }
    }

    /// The codec as it is fitted to inputs; plain formats are not.
    pub(super) fn fitted(self) -> Option<Fitted> {
        match self {
            Self::Aq(codec) => Some(Fitted::Aq(codec)),
            Self::LowRank { rank } => Some(Fitted::LowRank { rank }),
            Self::Int8 | Self::Int4 | Self::Fp8 | Self::F16 => None,
        }
    }

    /// Bytes of the codebook set that matrices with the same input share; 0 if there is none. That of signs is one for
    /// the whole artifact.
    pub(super) fn codebook_bytes(self) -> u64 {
        match self {
            Self::Aq(codec) => Codebooks::stored_bytes(codec.books, codec.dim).unwrap_or(0) as u64,
            Self::Int8 | Self::Int4 | Self::Fp8 | Self::F16 | Self::LowRank { .. } => 0,
        }
    }

    /// Bytes of a matrix with `shape`, codebooks not counted.
    pub(super) fn matrix_bytes(self, [rows, columns]: [usize; 2]) -> u64 {
        self.form().stored_bytes(rows, columns).unwrap_or(usize::MAX) as u64
    }
}

impl fmt::Display for MatrixCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aq(codec) => codec.fmt(f),
            Self::Int8 => f.write_str("int8"),
            Self::Int4 => f.write_str("int4"),
            Self::Fp8 => f.write_str("fp8"),
            Self::F16 => f.write_str("f16"),
            Self::LowRank { rank } => write!(f, "rank{rank}"),
        }
    }
}

impl FromStr for MatrixCodec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "int8" => Ok(Self::Int8),
            "int4" => Ok(Self::Int4),
            "fp8" => Ok(Self::Fp8),
            "f16" => Ok(Self::F16),
            _ if text.contains('x') => text.parse().map(Self::Aq),
            _ => match (text.strip_prefix("rank").map(str::parse), text.parse()) {
                (Some(Ok(rank)), _) if (1..=LARGEST_RANK).contains(&rank) => Ok(Self::LowRank { rank }),
                (None, Ok(bits)) => Self::for_bits(bits),
                _ => Err(format!(
                    "`{text}` is no codec: write bits per weight, `int4`, `int8`, `fp8`, `f16`, `Mx16@D`, or `rankR` with R up to \
                     {LARGEST_RANK}"
                )),
            },
        }
    }
}

/// Codebooks that every matrix gets at least: with a single one, the loss is larger than noise of its size tells.
const FEWEST_BOOKS: usize = 2;

/// The codecs that a budget in bytes is spent on, from the smallest, with the mean squared error of each relative to
/// the weights: of Gaussian weights with rows whose largest value is 4 standard deviations, for the last two.
const LADDER: [(MatrixCodec, f64); 9] = [
    (MatrixCodec::books(FEWEST_BOOKS), GAUSSIAN_ERROR[FEWEST_BOOKS - 1]),
    (MatrixCodec::books(3), GAUSSIAN_ERROR[2]),
    (MatrixCodec::books(4), GAUSSIAN_ERROR[3]),
    (MatrixCodec::books(5), GAUSSIAN_ERROR[4]),
    (MatrixCodec::books(6), GAUSSIAN_ERROR[5]),
    (MatrixCodec::books(7), GAUSSIAN_ERROR[6]),
    (MatrixCodec::books(8), GAUSSIAN_ERROR[7]),
    (MatrixCodec::Int8, 8.3e-5),
    (MatrixCodec::F16, 2e-8),
];

/// Largest inner dimension of a low-rank matrix; with more, no matrix of a language model has less than one bit.
const LARGEST_RANK: usize = 4096;

/// How many times the rank of the layers' matrices the embedding's is, and a head's: they are the largest by far, and
/// tied ones are read twice.
const EMBEDDING_RANK: f64 = 1.75;

/// What ranks are multiples of: a nibble is four signs.
const RANK_STEP: usize = 4;

/// Names of the embedding and of a head that is not tied.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const HEAD: &str = "lm_head.weight";

/// A matrix or a vector of the model, in the order in which an artifact holds them: that in which the forward pass
/// needs them.
#[derive(Clone, Debug)]
pub struct Part {
    /// Name in the artifact.
    pub name: String,
    /// `[rows, columns]` of a matrix, `[length]` of a vector.
    pub shape: Vec<usize>,
    /// Layer and linear input of a layer's matrix.
    pub input: Option<(usize, usize)>,
}

impl Part {
    /// All parts of a model.
    pub(super) fn all(layout: &dyn Layout) -> Vec<Self> {
        layout.parts()
    }

    /// The shape of a matrix.
    pub(super) fn matrix(&self) -> Option<[usize; 2]> {
        self.shape.as_slice().try_into().ok()
    }

    /// Number of weights.
    pub(super) fn weights(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}

/// What codecs and sizes follow from: the tensors of a model, without their values.
pub trait Layout {
    /// Number of layers.
    fn layers(&self) -> usize;

    /// The matrices of one layer by the input they read, under their names without the layer's prefix.
    fn layer_matrices(&self) -> [&'static [&'static str]; 4];

    /// Full name of a layer's tensor.
    fn layer_name(&self, layer: usize, name: &str) -> String;

    /// Shape of a layer's matrix by its name without the prefix.
    fn layer_matrix_shape(&self, name: &str) -> [usize; 2];

    /// Whether noise in one linear input after the other says where few bits hurt. In encoders, whose layers each add to what the
    /// ones before have left of a text's meaning, errors of many layers at 1 bit come to more than the sum of their own: all-MiniLM-L6-v2 at 2 bits
    /// has a mean cosine of 0.90 with bits given out so, and of 0.93 with the same everywhere.
    fn tells_by_noise(&self) -> bool;

    /// All tensors, in the order of the forward pass.
    fn parts(&self) -> Vec<Part>;

    /// What it takes to run the model with the codecs of `plan`, as the engine counts it.
    fn estimates(&self, plan: &Plan) -> Estimates;
}

/// Bytes on the heap and work for one position of all matrices of `parts`, but for the work of tables of which single rows
/// are read.
fn heap_and_work(parts: &[Part], plan: &Plan, is_table: impl Fn(&Part) -> bool) -> (u64, u64) {
    let (mut heap_bytes, mut instructions) = (0, 0);
    for part in parts {
        let Some([rows, columns]) = part.matrix() else { continue };
        let form = plan.codec(part).form();
        heap_bytes += form.heap_bytes(rows, columns) as u64;
        if !is_table(part) {
            instructions += form.work(rows, columns);
        }
    }
    (heap_bytes, instructions)
}

impl Layout for Checkpoint {
    fn layers(&self) -> usize {
        self.config().num_hidden_layers
    }

    fn layer_matrices(&self) -> [&'static [&'static str]; 4] {
        Self::LAYER_MATRICES
    }

    fn layer_name(&self, layer: usize, name: &str) -> String {
        layer_name(layer, name)
    }

    fn layer_matrix_shape(&self, name: &str) -> [usize; 2] {
        self.layer_matrix_shape(name)
    }

    fn tells_by_noise(&self) -> bool {
        true
    }

    fn parts(&self) -> Vec<Part> {
        let config = self.config();
        let vocabulary = |name: &str| Part {
            name: name.to_owned(),
            shape: vec![config.vocab_size, config.hidden_size],
            input: None,
        };
        let mut parts = vec![vocabulary(EMBEDDING)];
        for layer in 0..config.num_hidden_layers {
            parts.extend(config.layer_vectors().into_iter().map(|(name, length)| Part {
                name: layer_name(layer, name),
                shape: vec![length],
                input: None,
            }));
            for (input, names) in Self::LAYER_MATRICES.iter().enumerate() {
                parts.extend(names.iter().map(|name| Part {
                    name: layer_name(layer, name),
                    shape: self.layer_matrix_shape(name).to_vec(),
                    input: Some((layer, input)),
                }));
            }
        }
        let norm = vec![config.hidden_size];
        parts.push(Part { name: "model.norm.weight".to_owned(), shape: norm, input: None });
        if !config.tie_word_embeddings {
            parts.push(vocabulary(HEAD));
        }
        parts
    }

    fn estimates(&self, plan: &Plan) -> Estimates {
        let config = self.config();
        // A tied head is a product all the same.
        let is_table = |part: &Part| part.name == EMBEDDING && !config.tie_word_embeddings;
        let (heap_bytes, instructions) = heap_and_work(&self.parts(), plan, is_table);
        let attention = config.attention_work(Estimates::CONTEXT);
        Estimates {
            heap_bytes,
            cache_bytes_per_token: KvCache::bytes_per_position(config, CachePrecision::Int8) as u64,
            instructions_per_token: instructions + attention,
        }
    }
}

impl Layout for EncoderCheckpoint {
    fn layers(&self) -> usize {
        self.config().num_hidden_layers
    }

    fn layer_matrices(&self) -> [&'static [&'static str]; 4] {
        Self::LAYER_MATRICES
    }

    fn layer_name(&self, layer: usize, name: &str) -> String {
        encoder_layer_name(layer, name)
    }

    fn layer_matrix_shape(&self, name: &str) -> [usize; 2] {
        self.layer_matrix_shape(name)
    }

    fn tells_by_noise(&self) -> bool {
        false
    }

    fn parts(&self) -> Vec<Part> {
        let inputs: BTreeMap<String, (usize, usize)> = (0..self.layers())
            .flat_map(|layer| Self::LAYER_MATRICES.into_iter().zip(0..).map(move |at| (layer, at)))
            .flat_map(|(layer, (names, input))| {
                names.iter().map(move |name| (encoder_layer_name(layer, name), (layer, input)))
            })
            .collect();
        let part = |(name, shape): (String, Vec<usize>)| {
            let input = inputs.get(&name).copied();
            Part { name, shape, input }
        };
        self.shapes().into_iter().map(part).collect()
    }

    fn estimates(&self, plan: &Plan) -> Estimates {
        let config = self.config();
        let (heap_bytes, instructions) = heap_and_work(&self.parts(), plan, |part| part.input.is_none());
        let tokens = Estimates::CONTEXT.min(config.max_seq_length);
        let attention = config.attention_work(tokens) * config.num_hidden_layers as u64;
        let instructions_per_token = instructions + attention;
        Estimates { heap_bytes, cache_bytes_per_token: 0, instructions_per_token }
    }
}

/// Codecs of single matrices, by name.
pub type Named = BTreeMap<String, MatrixCodec>;

/// The matrices of a model that `overrides` name, each with the codec of the first pattern that it matches.
///
/// # Errors
/// The first pattern that matches no matrix.
pub(super) fn named(layout: &dyn Layout, overrides: &[Override]) -> Result<Named, String> {
    let names: Vec<String> =
        Part::all(layout).into_iter().filter(|part| part.matrix().is_some()).map(|part| part.name).collect();
    let idle = overrides.iter().find(|o| !names.iter().any(|name| o.pattern.matches(name)));
    if let Some(idle) = idle {
        return Err(format!("`{}` matches no matrix of the model", idle.pattern));
    }
    let codec = |name: &String| overrides.iter().find(|o| o.pattern.matches(name)).map(|o| o.codec);
    Ok(names.into_iter().filter_map(|name| codec(&name).map(|codec| (name, codec))).collect())
}

/// The codecs of a whole model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Per layer and linear input, in the order of [`Checkpoint::LAYER_MATRICES`].
    pub layers: Vec<[MatrixCodec; 4]>,
    /// Of the embedding, and of the head if it is not tied.
    pub embedding: MatrixCodec,
    /// Of single matrices in place of these.
    pub named: Named,
}

/// Mean squared error of AQ(M, 8) on a unit Gaussian for M from 1, as [`crate::quantize::additive`] reaches it.
const GAUSSIAN_ERROR: [f64; MAX_BOOKS] = [0.58, 0.337, 0.182, 0.097, 0.052, 0.028, 0.0155, 0.0085];

/// No plan fits into the bytes that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{target} bytes can't be reached: with factors of rank {RANK_STEP}, the smallest of any codec, the artifact has {smallest}"
)]
pub struct TooSmall {
    /// Bytes that were asked for.
    pub target: u64,
    /// Bytes with the fewest bits in every matrix whose codec is not given.
    pub smallest: u64,
}

impl Plan {
    /// The same codec for every layer.
    pub fn uniform(layout: &dyn Layout, body: MatrixCodec, embedding: MatrixCodec, named: Named) -> Self {
        let layers = vec![[body; 4]; layout.layers()];
        Self { layers, embedding, named }
    }

    /// Codecs over vectors of 8 weights with at most `bits` of codes per weight of the layers on average. Codebooks
    /// go one by one to the linear input where one more lowers the expected loss most for its bits; without a `sensitivity` every weight
    /// counts the same. Matrices in `named` are left out of the count.
    pub fn within_bits(
        layout: &dyn Layout,
        bits: f64,
        sensitivity: Option<&Sensitivity>,
        embedding: MatrixCodec,
        named: Named,
    ) -> Self {
        let weights = input_weights(layout, &named);
        let total = weights.iter().flatten().sum::<u64>();
        let least = Additive { books: FEWEST_BOOKS, dim: 8 };
        let mut books = vec![[least.books; 4]; weights.len()];
        let mut left = ((bits - least.bits()) * total as f64) as u64;
        loop {
            let gain = |layer: usize, input: usize| {
                let books = books[layer][input];
                let of_input = sensitivity.map_or(weights[layer][input] as f64, |it| it.layers[layer][input]);
                of_input * (GAUSSIAN_ERROR[books - 1] - GAUSSIAN_ERROR[books]) / weights[layer][input] as f64
            };
            let open = (0..weights.len()).flat_map(|layer| (0..4).map(move |input| (layer, input)));
            let best = open
                .filter(|&(l, i)| books[l][i] < MAX_BOOKS && weights[l][i] > 0 && weights[l][i] / 2 <= left)
                .max_by(|&a, &b| gain(a.0, a.1).total_cmp(&gain(b.0, b.1)).then(b.cmp(&a)));
            let Some((layer, input)) = best else {
                let layers = books.into_iter().map(|of_layer| of_layer.map(MatrixCodec::books)).collect();
                return Self { layers, embedding, named };
            };
            left -= weights[layer][input] / 2;
            books[layer][input] += 1;
        }
    }

    /// Codecs for an artifact of at most `target` bytes, where `size` says how many an artifact with a plan has.
    ///
    /// If 1 bit in all matrices is too much, all become products of two matrices of signs, of the highest rank that
    /// fits. Otherwise all matrices begin at 1 bit. Then the linear input, or the embedding, for which the next codec of the ladder
    /// lowers the expected loss most for its bytes gets it, until nothing more fits. With `embedding` given, that stays as it
    /// is.
    ///
    /// # Errors
    /// [`TooSmall`] if the smallest plan does not fit, or what `size` says.
    pub fn within_bytes<E: From<TooSmall>>(
        layout: &dyn Layout,
        target: u64,
        embedding: Option<MatrixCodec>,
        named: Named,
        sensitivity: &Sensitivity,
        mut size: impl FnMut(&Self) -> Result<u64, E>,
    ) -> Result<Self, E> {
        let layers = layout.layers();
        let fewest = LADDER[0].0;
        let mut plan =
            Self { layers: vec![[fewest; 4]; layers], embedding: embedding.unwrap_or(fewest), named };
        if size(&plan)? > target {
            return Self::of_low_rank(target, embedding, &plan, size);
        }
        // A unit without an input is the embedding.
        let inputs = (0..layers).flat_map(|layer| (0..4).map(move |input| Some((layer, input))));
        let mut open: Vec<Option<(usize, usize)>> =
            inputs.chain(embedding.is_none().then_some(None)).collect();
        loop {
            let gain = |unit: Option<(usize, usize)>| -> Option<(MatrixCodec, f64)> {
                let (before, weight) = match unit {
                    Some((layer, input)) => (plan.layers[layer][input], sensitivity.layers[layer][input]),
                    None => (plan.embedding, sensitivity.vocabulary),
                };
                let rung = LADDER.iter().position(|&(codec, _)| codec == before)?;
                let &(after, error) = LADDER.get(rung + 1)?;
                let [now, then] = [before, after].map(|codec| plan.unit_bytes(layout, unit, codec));
                // Padding can make more bits smaller; a unit whose matrices are all named has no bytes to gain.
                let bytes = then.saturating_sub(now).max(1);
                (then > 0).then(|| (after, weight * (LADDER[rung].1 - error) / bytes as f64))
            };
            let candidates = open.iter().enumerate();
            let gains = candidates.filter_map(|(at, &unit)| Some((at, gain(unit)?)));
            let best = gains.max_by(|(i, (_, a)), (j, (_, b))| a.total_cmp(b).then(j.cmp(i)));
            let Some((at, (codec, _))) = best else { return Ok(plan) };
            let mut larger = plan.clone();
            match open[at] {
                Some((layer, input)) => larger.layers[layer][input] = codec,
                None => larger.embedding = codec,
            }
            if size(&larger)? <= target {
                plan = larger;
            } else {
                open.remove(at);
            }
        }
    }

    /// Whether all layers have the fewest bits that [`Self::within_bits`] gives, or the most.
    pub(super) fn is_at_an_end(&self) -> bool {
        let all = |codec| self.layers.iter().flatten().all(|&given| given == codec);
        all(MatrixCodec::books(FEWEST_BOOKS)) || all(MatrixCodec::books(MAX_BOOKS))
    }

    /// Whether the budget made products of signs of the layers.
    pub(super) fn is_low_rank(&self) -> bool {
        matches!(self.layers.first(), Some([MatrixCodec::LowRank { .. }, ..]))
    }

    /// `plan` with low-rank matrices of the highest rank for which the artifact has at most `target` bytes.
    fn of_low_rank<E: From<TooSmall>>(
        target: u64,
        embedding: Option<MatrixCodec>,
        plan: &Self,
        mut size: impl FnMut(&Self) -> Result<u64, E>,
    ) -> Result<Self, E> {
        let of_rank = |steps: usize| {
            let rank = RANK_STEP * steps;
            let wider = ((steps as f64 * EMBEDDING_RANK).round() as usize).max(1) * RANK_STEP;
            Self {
                layers: vec![[MatrixCodec::LowRank { rank }; 4]; plan.layers.len()],
                embedding: embedding.unwrap_or(MatrixCodec::LowRank { rank: wider }),
                named: plan.named.clone(),
            }
        };
        let smallest = size(&of_rank(1))?;
        if smallest > target {
            return Err(TooSmall { target, smallest }.into());
        }
        let (mut fits, mut too_large) = (1, LARGEST_RANK / RANK_STEP);
        while too_large - fits > 1 {
            let middle = usize::midpoint(fits, too_large);
            if size(&of_rank(middle))? <= target { fits = middle } else { too_large = middle }
        }
        // What is left goes to the embedding, then to one input after the other, as far as the next rank goes.
        let (mut best, next) = (of_rank(fits), of_rank(fits + 1));
        let raise = |plan: &mut Self, unit: Option<(usize, usize)>| -> bool {
            let (codec, most) = match unit {
                Some((layer, input)) => (&mut plan.layers[layer][input], next.layers[layer][input]),
                None => (&mut plan.embedding, next.embedding),
            };
            let (MatrixCodec::LowRank { rank }, MatrixCodec::LowRank { rank: most }) = (codec, most) else {
                return false;
            };
            *rank += RANK_STEP;
            *rank <= most
        };
        let inputs = (0..best.layers.len()).flat_map(|layer| (0..4).map(move |input| Some((layer, input))));
        for unit in std::iter::once(None).chain(inputs) {
            loop {
                let mut larger = best.clone();
                if !raise(&mut larger, unit) || size(&larger)? > target {
                    break;
                }
                best = larger;
            }
        }
        Ok(best)
    }

    /// The codec of a matrix.
    pub(super) fn codec(&self, part: &Part) -> MatrixCodec {
        match (self.named.get(&part.name), part.input) {
            (Some(&codec), _) => codec,
            (None, Some((layer, input))) => self.layers[layer][input],
            (None, None) => self.embedding,
        }
    }

    /// The codec of the embedding or of the head.
    pub(super) fn vocabulary(&self, name: &str) -> MatrixCodec {
        self.named.get(name).copied().unwrap_or(self.embedding)
    }

    /// The matrices of `layer` that read `input`, by codec, under their names without the layer's prefix: those with
    /// the same additive codec share a codebook set.
    pub(super) fn groups(
        &self,
        layout: &dyn Layout,
        layer: usize,
        input: usize,
    ) -> Vec<(MatrixCodec, Vec<&'static str>)> {
        let mut groups: Vec<(MatrixCodec, Vec<&'static str>)> = Vec::new();
        for &name in layout.layer_matrices()[input] {
            let named = self.named.get(&layout.layer_name(layer, name)).copied();
            let codec = named.unwrap_or(self.layers[layer][input]);
            match groups.iter_mut().find(|(known, _)| *known == codec) {
                Some((_, names)) => names.push(name),
                None => groups.push((codec, vec![name])),
            }
        }
        groups
    }

    /// Bytes in `codec` of what a layer's linear input, or with none the embedding and the head, hold beside the named
    /// matrices; codebooks included.
    fn unit_bytes(&self, layout: &dyn Layout, unit: Option<(usize, usize)>, codec: MatrixCodec) -> u64 {
        let set = |shapes: Vec<[usize; 2]>| -> u64 {
            let codebooks = if shapes.is_empty() { 0 } else { codec.codebook_bytes() };
            codebooks + shapes.into_iter().map(|shape| codec.matrix_bytes(shape)).sum::<u64>()
        };
        let Some((layer, input)) = unit else {
            let parts = Part::all(layout).into_iter().filter(|part| part.input.is_none());
            let free = parts.filter(|part| !self.named.contains_key(&part.name));
            return free.filter_map(|part| part.matrix()).map(|shape| set(vec![shape])).sum();
        };
        let names = layout.layer_matrices()[input].iter();
        let free = names.filter(|name| !self.named.contains_key(&layout.layer_name(layer, name)));
        set(free.map(|name| layout.layer_matrix_shape(name)).collect())
    }
}

/// Weights per layer and linear input, those of `named` matrices not counted.
fn input_weights(layout: &dyn Layout, named: &Named) -> Vec<[u64; 4]> {
    let layer = |layer: usize| {
        layout.layer_matrices().map(|names| {
            let free = names.iter().filter(|name| !named.contains_key(&layout.layer_name(layer, name)));
            free.map(|name| layout.layer_matrix_shape(name).iter().product::<usize>() as u64).sum()
        })
    };
    (0..layout.layers()).map(layer).collect()
}
