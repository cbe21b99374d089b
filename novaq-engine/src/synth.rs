//! Artifacts with random weights, made directly in compressed form: for tests, and to measure shapes whose real
//! weights are not at hand.

use crate::artifact::{
    ArtifactError, Estimates, Manifest, ManifestDraft, Origin, ShardSink, VectorPrecision, Writer,
};
use crate::codec::{AqMatrix, Codebooks, CodecError, Int8Matrix, LowRankMatrix, Matrix};
use crate::model::{CachePrecision, Config, KvCache, ModelError};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
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
    },
    /// 8-bit integers.
    Int8,
    /// A product of two binary factors.
    LowRank {
        /// Columns of the one, rows of the other.
        rank: usize,
    },
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

struct Random(ChaCha8Rng);

impl Random {
    /// Uniform in -1..1.
    fn uniform(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// A codebook set, `None` for formats that have none.
    fn codebooks(&mut self, format: Format) -> Result<Option<Arc<Codebooks>>, ModelError> {
        let (codebooks, dimension) = match format {
            Format::Aq { codebooks, dimension } => (codebooks, dimension),
            Format::Int8 => return Ok(None),
            Format::LowRank { .. } => return Ok(Some(Arc::new(Codebooks::signs()))),
        };
        let codewords: Vec<f32> = (0..codebooks * 16 * dimension).map(|_| self.uniform()).collect();
        let set = Codebooks::quantize(codebooks, dimension, &codewords);
        set.map(|set| Some(Arc::new(set)))
            .map_err(|source| ModelError::Tensor { name: "codebooks".into(), source })
    }

    /// A matrix whose products keep the size of their inputs.
    fn matrix(
        &mut self,
        name: &str,
        [rows, columns]: [usize; 2],
        format: Format,
        set: Option<&Arc<Codebooks>>,
    ) -> Result<Matrix, ModelError> {
        // The variance of a uniform number in -1..1 is 1/3, that of a sign 1.
        let scale = (3.0 / columns as f32).sqrt();
        let matrix = match (format, set) {
            (Format::LowRank { rank }, Some(set)) => {
                let scale = |columns: usize| 1.0 / (columns as f32).sqrt();
                self.codes([rank, columns], set, scale(columns)).and_then(|first| {
                    let second = self.codes([rows, rank], set, scale(rank))?;
                    LowRankMatrix::new(first, second).map(Matrix::LowRank)
                })
            }
            (_, Some(set)) => {
                self.codes([rows, columns], set, scale / (set.count() as f32).sqrt()).map(Matrix::Aq)
            }
            (_, None) => {
                let weights: Vec<f32> = (0..rows * columns).map(|_| scale * self.uniform()).collect();
                Int8Matrix::quantize(rows, columns, &weights).map(Matrix::Int8)
            }
        };
        matrix.map_err(|source| ModelError::Tensor { name: name.into(), source })
    }

    /// Random codes, with row scales around `scale`.
    fn codes(
        &mut self,
        [rows, columns]: [usize; 2],
        set: &Arc<Codebooks>,
        scale: f32,
    ) -> Result<AqMatrix, CodecError> {
        let codes: Vec<u8> =
            (0..rows * set.groups(columns) * set.count()).map(|_| (self.0.next_u32() >> 28) as u8).collect();
        let scales: Vec<f32> = (0..rows).map(|_| scale * (1.0 + 0.2 * self.uniform())).collect();
        AqMatrix::from_codes(rows, columns, Arc::clone(set), &codes, &scales, None)
    }
}

impl Synthetic {
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
        let mut random = Random(ChaCha8Rng::seed_from_u64(self.seed));
        let mut writer = Writer::new(sink);
        writer.tokenizer(&self.tokenizer)?;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (query, key) = (config.query_width(), config.key_value_width());
        let vector = |writer: &mut Writer<'_>, random: &mut Random, name: &str, length: usize| {
            let mean = if name.rsplit('.').next() == Some("bias") { 0.0 } else { 1.0 };
            let values: Vec<f32> = (0..length).map(|_| mean + 0.3 * random.uniform()).collect();
            writer.vector(name, &values, VectorPrecision::F16)
        };
        let embedding = random.codebooks(self.embedding)?;
        let mut heap_bytes = 0;
        let mut instructions = config.attention_work(Estimates::CONTEXT);
        let mut matrix = |writer: &mut Writer<'_>,
                          random: &mut Random,
                          name: &str,
                          shape,
                          (format, set): (Format, Option<&Arc<Codebooks>>)| {
            let matrix = random.matrix(name, shape, format, set)?;
            heap_bytes += matrix.heap_bytes() as u64;
            // A table look-up of one embedding row costs next to nothing; a tied head is a product all the same.
            if name != "model.embed_tokens.weight" || config.tie_word_embeddings {
                instructions += matrix.work();
            }
            writer.matrix(name, &matrix)
        };
        let vocabulary = [config.vocab_size, hidden];
        matrix(
            &mut writer,
            &mut random,
            "model.embed_tokens.weight",
            vocabulary,
            (self.embedding, embedding.as_ref()),
        )?;
        for layer in 0..config.num_hidden_layers {
            let prefix = format!("model.layers.{layer}");
            let vectors = config.layer_vectors();
            // The first is the norm before attention; the others are needed before the feed-forward layers end.
            let (first, others) = vectors.split_at(1);
            let put = |writer: &mut Writer<'_>, random: &mut Random, vectors: &[(&str, usize)]| {
                vectors.iter().try_for_each(|&(name, length)| {
                    vector(writer, random, &format!("{prefix}.{name}"), length)
                })
            };
            put(&mut writer, &mut random, first)?;
            let groups: [&[(&str, [usize; 2])]; 4] = [
                &[
                    ("self_attn.q_proj", [query, hidden]),
                    ("self_attn.k_proj", [key, hidden]),
                    ("self_attn.v_proj", [key, hidden]),
                ],
                &[("self_attn.o_proj", [hidden, query])],
                &[("mlp.gate_proj", [inner, hidden]), ("mlp.up_proj", [inner, hidden])],
                &[("mlp.down_proj", [hidden, inner])],
            ];
            for (i, group) in groups.iter().enumerate() {
                if i == 2 {
                    put(&mut writer, &mut random, others)?;
                }
                let set = random.codebooks(self.body)?;
                for (name, shape) in *group {
                    matrix(
                        &mut writer,
                        &mut random,
                        &format!("{prefix}.{name}.weight"),
                        *shape,
                        (self.body, set.as_ref()),
                    )?;
                }
            }
        }
        vector(&mut writer, &mut random, "model.norm.weight", hidden)?;
        if !config.tie_word_embeddings {
            matrix(
                &mut writer,
                &mut random,
                "lm_head.weight",
                vocabulary,
                (self.embedding, embedding.as_ref()),
            )?;
        }
        writer.finish(ManifestDraft {
            name: "synthetic".into(),
            version: "1.0.0".into(),
            license: "CC0-1.0".into(),
            origin: Origin { repository: "random weights".into(), revision: None, files: Vec::new() },
            architecture: config.clone().into(),
            tokenizer_sha256: [0; 32],
            chat_template: chat_template.map(str::to_owned),
            seed: self.seed,
            calibration: "none".into(),
            verification: None,
            similarity: None,
            estimates: Estimates {
                heap_bytes,
                cache_bytes_per_token: KvCache::bytes_per_position(config, CachePrecision::Int8) as u64,
                instructions_per_token: instructions,
            },
            tags: vec!["synthetic".into()],
        })
    }
}
