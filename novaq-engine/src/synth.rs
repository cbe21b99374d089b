//! Models and artifacts with random weights, made directly in compressed form: for tests, and to measure shapes whose real
//! weights are not at hand.

use crate::artifact::{
    ArtifactError, Estimates, Manifest, ManifestDraft, Origin, ShardSink, VectorPrecision, Writer,
};
use crate::codec::{AqMatrix, Codebooks, CodecError, Int8Matrix, LowRankMatrix, Matrix};
use crate::kernel::Fold;
use crate::model::{
    Architecture, BertConfig, CachePrecision, Config, KvCache, Model, ModelError, Pooling, RopeScaling,
    TensorSource, Variant,
};
use crate::tokenizer::{Tokenizer, TokenizerError, byte_level};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The form of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Additive quantization with `codebooks` codebooks over `dimension` weights.
    Aq {
        /// Number of codebooks M.
        codebooks: usize,
        /// Weights per codeword d.
        dimension: usize,
        /// Table entries that products average.
        fold: Fold,
    },
    /// 8-bit integers.
    Int8,
    /// A product of two binary factors.
    LowRank {
        /// Columns of the one, rows of the other.
        rank: usize,
    },
}

impl Format {
    /// Codebooks over vectors of 8 weights that take `bits` per weight, with products that average `fold` table entries. `None`
    /// unless that is a number of codebooks: a multiple of a half from 0.5 to 4.
    pub fn of_bits(bits: f64, fold: Fold) -> Option<Self> {
        let codebooks = 2.0 * bits;
        let whole = codebooks.fract() == 0.0 && (1.0..=8.0).contains(&codebooks);
        whole.then_some(Self::Aq { codebooks: codebooks as usize, dimension: 8, fold })
    }
}

/// What to make.
#[derive(Clone, Debug)]
pub struct Synthetic {
    /// Hyper-parameters.
    pub config: Config,
    /// Form of the layers' matrices.
    pub body: Format,
    /// Form of the embedding and the head.
    pub embedding: Format,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Compact form of a tokenizer for `config.vocab_size` entries.
    pub tokenizer: Vec<u8>,
}

/// Shapes of published models: name, vocabulary, width, inner width, layers, heads, key heads, width of a head, context, base of
/// the rotary embedding, whether the head is tied (the checkpoints' `config.json`).
type Shape = (&'static str, [usize; 8], f64, bool);
const SHAPES: [Shape; 5] = [
    ("smollm2-135m", [49_152, 576, 1_536, 30, 9, 3, 64, 8_192], 100_000.0, true),
    ("smollm2-360m", [49_152, 960, 2_560, 32, 15, 5, 64, 8_192], 100_000.0, true),
    ("qwen2.5-0.5b", [151_936, 896, 4_864, 24, 14, 2, 64, 32_768], 1_000_000.0, true),
    ("qwen3-0.6b", [151_936, 1_024, 3_072, 28, 16, 8, 128, 40_960], 1_000_000.0, true),
    ("tinyllama-1.1b", [32_000, 2_048, 5_632, 22, 32, 4, 64, 2_048], 10_000.0, false),
];

/// Names that [`config_like`] knows.
pub fn shape_names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|(name, ..)| *name)
}

/// The hyper-parameters of a published model, with no special tokens.
pub fn config_like(name: &str) -> Option<Config> {
    let &(name, sizes, rope_theta, tie_word_embeddings) = SHAPES.iter().find(|(known, ..)| *known == name)?;
    let [vocab_size, hidden_size, intermediate_size, layers, heads, key_heads, head_dim, context] = sizes;
    Some(Config {
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: key_heads,
        head_dim,
        max_position_embeddings: context,
        rms_norm_eps: 1e-5,
        rope_theta,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        variant: Variant {
            qkv_bias: name.starts_with("qwen2"),
            qk_norm: name.starts_with("qwen3"),
            ..Variant::default()
        },
    })
}

/// A tokenizer of `vocab_size` entries, at least 256: a token for each byte, and more that no text has.
///
/// # Errors
/// If there are fewer.
pub fn tokenizer(vocab_size: usize) -> Result<Tokenizer, TokenizerError> {
    let bytes = (0..=255u8).map(|byte| byte_level::to_char(byte).to_string());
    let others = (256..vocab_size).map(|id| format!("\u{fffd}{id}"));
    let vocab: serde_json::Map<String, serde_json::Value> =
        bytes.chain(others).take(vocab_size).zip(0..).map(|(token, id)| (token, u32::into(id))).collect();
    let byte_level = serde_json::json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false
    });
    let json = serde_json::json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []
        }
    });
    Tokenizer::from_json(json.to_string().as_bytes())
}

/// Random tensors of a [`Synthetic`] model, in whatever order they are asked for: each name has its own stream of numbers.
struct Random<'a> {
    of: &'a Synthetic,
    matrices: RandomMatrices,
    /// Estimated instructions of the products of the matrices made so far.
    work: u64,
    heap_bytes: u64,
}

/// A stream of random numbers.
struct Stream(ChaCha8Rng);

impl Stream {
    fn new(seed: u64, name: &str) -> Self {
        // FNV-1a of the name picks the stream.
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(name.bytes().fold(0xcbf2_9ce4_8422_2325, hash));
        Self(rng)
    }

    /// Uniform in -1..1.
    fn uniform(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// Random codes, with row scales around `scale`.
    fn codes(
        &mut self,
        [rows, columns]: [usize; 2],
        set: &Arc<Codebooks>,
        scale: f32,
    ) -> Result<AqMatrix, CodecError> {
        let size = AqMatrix::stored_bytes(rows, columns, set, false);
        let size = size.ok_or_else(|| CodecError::shape("rows", rows, "a matrix that fits in memory"))?;
        // Any nibble is a code, so that tiles are random bytes.
        let mut bytes = vec![0; size];
        let (scales, tiles) = bytes.split_at_mut(2 * rows);
        for stored in scales.as_chunks_mut::<2>().0 {
            *stored = half::f16::from_f32(scale * (1.0 + 0.2 * self.uniform())).to_le_bytes();
        }
        self.0.fill_bytes(tiles);
        AqMatrix::from_bytes(rows, columns, Arc::clone(set), false, &bytes)
    }
}

/// Random matrices that share codebooks where they share inputs.
struct RandomMatrices {
    seed: u64,
    /// By the input that their matrices share.
    sets: BTreeMap<String, Arc<Codebooks>>,
}

impl RandomMatrices {
    fn new(seed: u64) -> Self {
        Self { seed, sets: BTreeMap::new() }
    }

    fn set(
        &mut self,
        key: &str,
        codebooks: usize,
        dimension: usize,
        fold: Fold,
    ) -> Result<Arc<Codebooks>, CodecError> {
        if let Some(set) = self.sets.get(key) {
            return Ok(Arc::clone(set));
        }
        let mut stream = Stream::new(self.seed, key);
        let codewords: Vec<f32> = (0..codebooks * 16 * dimension).map(|_| stream.uniform()).collect();
        let set = Arc::new(Codebooks::quantize(codebooks, dimension, &codewords)?.with_fold(fold));
        self.sets.insert(key.to_owned(), Arc::clone(&set));
        Ok(set)
    }

    /// A matrix whose products keep the size of their inputs.
    fn matrix(
        &mut self,
        name: &str,
        [rows, columns]: [usize; 2],
        format: Format,
    ) -> Result<Matrix, CodecError> {
        let mut stream = Stream::new(self.seed, name);
        // The variance of a uniform number in -1..1 is 1/3, that of a sign 1.
        let scale = (3.0 / columns as f32).sqrt();
        match format {
            Format::Aq { codebooks, dimension, fold } => {
                let set = self.set(&input_of(name), codebooks, dimension, fold)?;
                stream.codes([rows, columns], &set, scale / (codebooks as f32).sqrt()).map(Matrix::Aq)
            }
            Format::LowRank { rank } => {
                let signs = || Arc::new(Codebooks::signs());
                let set = Arc::clone(self.sets.entry("signs".to_owned()).or_insert_with(signs));
                let scale = |columns: usize| 1.0 / (columns as f32).sqrt();
                let first = stream.codes([rank, columns], &set, scale(columns))?;
                let second = stream.codes([rows, rank], &set, scale(rank))?;
                LowRankMatrix::new(first, second).map(Matrix::LowRank)
            }
            Format::Int8 => {
                let weights: Vec<f32> = (0..rows * columns).map(|_| scale * stream.uniform()).collect();
                Int8Matrix::quantize(rows, columns, &weights).map(Matrix::Int8)
            }
        }
    }
}

/// A name for the input that the matrix `name` reads: matrices that read the same one share codebooks.
fn input_of(name: &str) -> String {
    let (prefix, matrix) =
        name.strip_suffix(".weight").unwrap_or(name).rsplit_once('.').unwrap_or(("", name));
    let input = match matrix {
        "q_proj" | "k_proj" | "v_proj" => "qkv",
        "gate_proj" | "up_proj" => "gate_up",
        "query" | "key" | "value" => "self",
        other => other,
    };
    format!("{prefix}.{input}")
}

impl TensorSource for Random<'_> {
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError> {
        let Some(shape) = self.of.shape(name) else { return Ok(None) };
        let format = if name.starts_with("model.layers.") { self.of.body } else { self.of.embedding };
        let matrix = self.matrices.matrix(name, shape, format);
        let matrix = matrix.map_err(|source| ModelError::Tensor { name: name.into(), source })?;
        self.heap_bytes += matrix.heap_bytes() as u64;
        // A look-up of one embedding row costs next to nothing; a tied head is a product all the same.
        if name != EMBEDDING || self.of.config.tie_word_embeddings {
            self.work += matrix.work();
        }
        Ok(Some(matrix))
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(length) = self.of.length(name) else { return Ok(None) };
        let mean = if name.rsplit('.').next() == Some("bias") { 0.0 } else { 1.0 };
        let mut stream = Stream::new(self.of.seed, name);
        // As an artifact holds it: in 16 bits.
        let value = |x: f32| half::f16::from_f32(mean + 0.3 * x).to_f32();
        Ok(Some((0..length).map(|_| value(stream.uniform())).collect()))
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";

impl Synthetic {
    /// Matrices of a layer, in the order of the forward pass, with the vectors before each that the layer has.
    const LAYER: [&str; 20] = [
        "input_layernorm.weight",
        "self_attn.q_proj.bias",
        "self_attn.k_proj.bias",
        "self_attn.v_proj.bias",
        "self_attn.q_norm.weight",
        "self_attn.k_norm.weight",
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.o_proj.bias",
        "self_attn.o_proj.weight",
        "post_attention_layernorm.weight",
        "pre_feedforward_layernorm.weight",
        "mlp.gate_proj.bias",
        "mlp.up_proj.bias",
        "mlp.down_proj.bias",
        "post_feedforward_layernorm.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
    ];

    /// Shape of the matrix `name`, if the model has it.
    fn shape(&self, name: &str) -> Option<[usize; 2]> {
        let vocabulary = [self.config.vocab_size, self.config.hidden_size];
        match name {
            EMBEDDING => Some(vocabulary),
            "lm_head.weight" => (!self.config.tie_word_embeddings).then_some(vocabulary),
            _ => {
                let name = name.strip_prefix("model.layers.")?.split_once('.')?.1;
                let matrices = self.config.layer_matrices();
                matrices.into_iter().find(|(known, _)| *known == name).map(|(_, shape)| shape)
            }
        }
    }

    /// Length of the vector `name`, if the model has it.
    fn length(&self, name: &str) -> Option<usize> {
        if name == "model.norm.weight" {
            return Some(self.config.hidden_size);
        }
        let name = name.strip_prefix("model.layers.")?.split_once('.')?.1;
        self.config.layer_vectors().into_iter().find(|(known, _)| *known == name).map(|(_, length)| length)
    }

    fn random(&self) -> Random<'_> {
        Random { of: self, matrices: RandomMatrices::new(self.seed), work: 0, heap_bytes: 0 }
    }

    /// The model, without an artifact.
    ///
    /// # Errors
    /// If the configuration or a format is invalid.
    pub fn model(&self) -> Result<Model, ModelError> {
        Model::load(self.config.clone(), &mut self.random())
    }

    /// Writes the artifact's shards to `sink` and returns its manifest.
    ///
    /// # Errors
    /// If the configuration or a format is invalid, or a shard can't be stored.
    pub fn write(&self, sink: &mut dyn ShardSink) -> Result<Manifest, ArtifactError> {
        self.write_with_template(sink, None)
    }

    /// The same with a chat template.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_with_template(
        &self,
        sink: &mut dyn ShardSink,
        chat_template: Option<&str>,
    ) -> Result<Manifest, ArtifactError> {
        let config = &self.config;
        config.validate()?;
        let mut writer = Writer::new(sink);
        writer.tokenizer(&self.tokenizer)?;
        let mut random = self.random();
        let layers = (0..config.num_hidden_layers)
            .flat_map(|layer| Self::LAYER.map(|name| format!("model.layers.{layer}.{name}")));
        let last = ["model.norm.weight", "lm_head.weight"].map(str::to_owned);
        for name in [EMBEDDING.to_owned()].into_iter().chain(layers).chain(last) {
            if let Some(matrix) = random.matrix(&name)? {
                writer.matrix(&name, &matrix)?;
            } else if let Some(vector) = random.vector(&name)? {
                writer.vector(&name, &vector, VectorPrecision::F16)?;
            }
        }
        let Random { work, heap_bytes, .. } = random;
        let estimates = Estimates {
            heap_bytes,
            cache_bytes_per_token: KvCache::bytes_per_position(config, CachePrecision::Int8) as u64,
            instructions_per_token: work + config.attention_work(Estimates::CONTEXT),
        };
        writer.finish(ManifestDraft {
            chat_template: chat_template.map(str::to_owned),
            ..draft(config.clone(), estimates, self.seed)
        })
    }
}

/// What manifests of random weights have in common.
fn draft(architecture: impl Into<Architecture>, estimates: Estimates, seed: u64) -> ManifestDraft {
    ManifestDraft {
        name: "synthetic".into(),
        version: "1.0.0".into(),
        license: "CC0-1.0".into(),
        origin: Origin { repository: "random weights".into(), revision: None, files: Vec::new() },
        architecture: architecture.into(),
        tokenizer_sha256: [0; 32],
        chat_template: None,
        seed,
        calibration: "none".into(),
        verification: None,
        similarity: None,
        estimates,
        tags: vec!["synthetic".into()],
    }
}

/// An encoder to make.
#[derive(Clone, Debug)]
pub struct SyntheticEncoder {
    /// Hyper-parameters.
    pub config: BertConfig,
    /// Form of the layers' matrices.
    pub body: Format,
    /// Form of the embeddings.
    pub embedding: Format,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Compact form of a tokenizer for `config.vocab_size` entries.
    pub tokenizer: Vec<u8>,
}

impl SyntheticEncoder {
    /// Hyper-parameters of all-MiniLM-L6-v2 (its `config.json` and `sentence_bert_config.json`).
    pub fn minilm() -> BertConfig {
        BertConfig {
            vocab_size: 30_522,
            hidden_size: 384,
            intermediate_size: 1_536,
            num_hidden_layers: 6,
            num_attention_heads: 12,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            max_seq_length: 256,
            pooling: Pooling::Mean,
            normalize: true,
        }
    }

    /// Writes the artifact's shards to `sink` and returns its manifest.
    ///
    /// # Errors
    /// If the configuration or a format is invalid, or a shard can't be stored.
    pub fn write(&self, sink: &mut dyn ShardSink) -> Result<Manifest, ArtifactError> {
        let config = &self.config;
        config.validate()?;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let mut writer = Writer::new(sink);
        writer.tokenizer(&self.tokenizer)?;
        let mut matrices = RandomMatrices::new(self.seed);
        let (mut heap_bytes, mut work) = (0, 0);
        let mut matrix = |writer: &mut Writer, name: &str, shape, format| -> Result<(), ArtifactError> {
            let name = format!("{name}.weight");
            let matrix = matrices.matrix(&name, shape, format);
            let matrix = matrix.map_err(|source| ModelError::Tensor { name: name.clone(), source })?;
            heap_bytes += matrix.heap_bytes() as u64;
            work += if name.starts_with("encoder.layer.") { matrix.work() } else { 0 };
            writer.matrix(&name, &matrix)
        };
        let vector = |writer: &mut Writer, name: String, length: usize| {
            let mean = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
            let mut stream = Stream::new(self.seed, &name);
            let values: Vec<f32> = (0..length).map(|_| mean + 0.3 * stream.uniform()).collect();
            writer.vector(&name, &values, VectorPrecision::F16)
        };
        let norm = |writer: &mut Writer, name: &str| {
            vector(writer, format!("{name}.LayerNorm.weight"), hidden)?;
            vector(writer, format!("{name}.LayerNorm.bias"), hidden)
        };
        let embeddings = [
            ("word", config.vocab_size),
            ("position", config.max_position_embeddings),
            ("token_type", config.type_vocab_size),
        ];
        for (name, rows) in embeddings {
            matrix(&mut writer, &format!("embeddings.{name}_embeddings"), [rows, hidden], self.embedding)?;
        }
        norm(&mut writer, "embeddings")?;
        for layer in 0..config.num_hidden_layers {
            let prefix = format!("encoder.layer.{layer}");
            let attention = format!("{prefix}.attention");
            let linears = [
                (format!("{attention}.self.query"), [hidden, hidden]),
                (format!("{attention}.self.key"), [hidden, hidden]),
                (format!("{attention}.self.value"), [hidden, hidden]),
                (format!("{attention}.output.dense"), [hidden, hidden]),
                (format!("{prefix}.intermediate.dense"), [inner, hidden]),
                (format!("{prefix}.output.dense"), [hidden, inner]),
            ];
            for (name, shape) in linears {
                matrix(&mut writer, &name, shape, self.body)?;
                vector(&mut writer, format!("{name}.bias"), shape[0])?;
            }
            norm(&mut writer, &format!("{attention}.output"))?;
            norm(&mut writer, &format!("{prefix}.output"))?;
        }
        let attention = config.attention_work(Estimates::CONTEXT) * config.num_hidden_layers as u64;
        let estimates =
            Estimates { heap_bytes, cache_bytes_per_token: 0, instructions_per_token: work + attention };
        writer.finish(draft(config.clone(), estimates, self.seed))
    }
}
