//! Reading checkpoints: Hugging Face's folders, GGUF files, and those of llama2.c.
//!
//! A format is a `Source` with the tensors' places; all that is done with tensors is the same for every format, under
//! the names of Hugging Face's checkpoints. Files are mapped, not read: a tensor costs memory only while it is used.

mod config;
mod encoder;
mod gguf;
mod hugging_face;
mod llama2c;
mod safetensors;
mod sentencepiece;
mod storage;
mod tensors;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ndarray::Array2;
use novaq_engine::artifact::SourceFile;
use novaq_engine::codec::{CodecError, DenseMatrix, Matrix};
use novaq_engine::model::{Config, Model, ModelError, TensorSource};
use sha2::{Digest, Sha256};

pub use config::{eos_json, to_json as config_json};
pub use encoder::{EncoderCheckpoint, encoder_layer_name};
pub(crate) use gguf::has_whole_header;
use tensors::Tensors;

/// Why a checkpoint can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is missing or unreadable.
    #[error("`{}` can't be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("`{}` is not valid: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A field of `config.json` is missing, out of range, or stands for something that is not supported.
    #[error("config.json: `{field}` {reason}")]
    Config {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A field of a GGUF file's metadata is missing, out of range, or stands for something that is not supported.
    #[error("`{}`: `{key}` {reason}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// Name of the field.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor can't be used.
    #[error("tensor `{name}` {reason}")]
    Tensor {
        /// Name in the checkpoint.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The tensors don't make a model.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// What a format has beside the tensors.
trait Source: Debug + Send + Sync {
    /// The tokenizer, as `tokenizer.json` describes it.
    fn tokenizer_json(&self) -> Result<Vec<u8>, CheckpointError>;

    /// The chat template.
    fn chat_template(&self) -> Option<String>;

    /// The licence of the weights.
    fn license(&self) -> Option<String>;

    /// Names of the files that the artifact is made from, but for those of the tensors.
    fn files(&self) -> Vec<String>;

    /// Whether the tensor that the files call `tensor` may be there although the model does not need it.
    fn tolerates(&self, tensor: &str) -> bool;
}

/// What opening a format gives; the tensors are not checked against the configuration yet.
struct Opened {
    config: Config,
    tensors: Tensors,
    source: Box<dyn Source>,
}

/// A checkpoint on disk.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: Config,
    tensors: Tensors,
    source: Box<dyn Source>,
}

/// Names under which the embedding may be stored; a tied model needs only one of them.
const EMBEDDING_NAMES: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];

impl Checkpoint {
    /// Opens the checkpoint at `path` and checks that every tensor its architecture needs is there, in a supported
    /// type and of the right shape. A folder is Hugging Face's, a file `*.gguf` one of GGUF, a file `*.bin` one of
    /// llama2.c.
    ///
    /// # Errors
    /// What is missing or wrong, with the file, field or tensor.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let Opened { config, tensors, source } = match path.extension().and_then(|e| e.to_str()) {
            Some("gguf") if !path.is_dir() => gguf::open(path)?,
            Some("bin") if !path.is_dir() => llama2c::open(path)?,
            _ => hugging_face::open(path)?,
        };
        let checkpoint = Self { path: path.to_owned(), config, tensors, source };
        checkpoint.check_tensors()?;
        Ok(checkpoint)
    }

    /// The folder or file that it was opened as.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder in which its files are.
    fn directory(&self) -> &Path {
        if self.path.is_dir() { &self.path } else { folder_of(&self.path) }
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The matrices of one layer by the input they read, in the order of the forward pass, without the prefix
    /// `model.layers.N.`.
    pub const LAYER_MATRICES: [&'static [&'static str]; 4] = [
        &["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"],
        &["self_attn.o_proj.weight"],
        &["mlp.gate_proj.weight", "mlp.up_proj.weight"],
        &["mlp.down_proj.weight"],
    ];

    /// The vectors of one layer, in the order of the forward pass, without the prefix: norms, and the biases that the
    /// configuration has.
    pub fn layer_vectors(&self) -> Vec<&'static str> {
        self.config.layer_vectors().into_iter().map(|(name, _)| name).collect()
    }

    /// Shape of a layer's matrix by its name without the prefix.
    pub fn layer_matrix_shape(&self, name: &str) -> [usize; 2] {
        let c = &self.config;
        match name.split('.').nth(1) {
            Some("q_proj") => [c.query_width(), c.hidden_size],
            Some("k_proj" | "v_proj") => [c.key_value_width(), c.hidden_size],
            Some("o_proj") => [c.hidden_size, c.query_width()],
            Some("gate_proj" | "up_proj") => [c.intermediate_size, c.hidden_size],
            _ => [c.hidden_size, c.intermediate_size],
        }
    }

    fn check_tensors(&self) -> Result<(), CheckpointError> {
        let mut needed = BTreeSet::new();
        let mut check = |name: &str, shape: &[usize]| {
            needed.insert(self.tensors.stored_name(name));
            self.tensors.check(name, shape)
        };
        let embedding = [self.config.vocab_size, self.config.hidden_size];
        check(self.embedding_name(), &embedding)?;
        for layer in 0..self.config.num_hidden_layers {
            for name in Self::LAYER_MATRICES.iter().copied().flatten() {
                check(&layer_name(layer, name), &self.layer_matrix_shape(name))?;
            }
            for (name, length) in self.config.layer_vectors() {
                check(&layer_name(layer, name), &[length])?;
            }
        }
        check("model.norm.weight", &[self.config.hidden_size])?;
        if !self.config.tie_word_embeddings {
            check("lm_head.weight", &embedding)?;
        }
        let mut others = self.tensors.stored_names().filter(|&name| !needed.contains(name));
        match others.find(|name| !self.source.tolerates(name)) {
            Some(name) => Err(CheckpointError::Tensor {
                name: name.to_owned(),
                reason: "is not one of this architecture's".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// The name under which the token embedding is stored: a tied model may have only the head.
    fn embedding_name(&self) -> &'static str {
        let [embedding, head] = EMBEDDING_NAMES;
        let only_head = self.config.tie_word_embeddings && !self.tensors.contains(embedding);
        if only_head && self.tensors.contains(head) { head } else { embedding }
    }

    /// Weights of the model, a tied head counted once.
    pub fn parameters(&self) -> u64 {
        self.config.parameters()
    }

    /// Weights of the matrices of one layer.
    pub fn layer_weights(&self) -> u64 {
        let shapes = Self::LAYER_MATRICES.iter().copied().flatten().map(|n| self.layer_matrix_shape(n));
        shapes.map(|[n, k]| (n * k) as u64).sum()
    }

    /// The matrix `name`, `[rows, columns]`.
    ///
    /// # Errors
    /// If it is missing, no matrix, or holds a value that is not finite.
    pub fn matrix(&self, name: &str) -> Result<Array2<f32>, CheckpointError> {
        let name = if name == EMBEDDING_NAMES[0] { self.embedding_name() } else { name };
        self.tensors.matrix(name)
    }

    /// The vector `name`, rounded to the 16 bits that an artifact keeps of it.
    ///
    /// # Errors
    /// If it is missing or holds a value that is not finite in 16 bits.
    pub fn vector(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        self.tensors.half_vector(name)
    }

    /// The vector `name` as it is stored.
    ///
    /// # Errors
    /// If it is missing or holds a value that is not finite.
    pub fn exact_vector(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        Ok(self.tensors.read(name)?.1)
    }

    /// The model in 32-bit floats.
    ///
    /// # Errors
    /// If a tensor can't be read.
    pub fn model(&self) -> Result<Model, CheckpointError> {
        let mut source = Original { checkpoint: self, error: None };
        Model::load(self.config.clone(), &mut source).map_err(|e| source.error.take().unwrap_or(e.into()))
    }

    /// The bytes of its `tokenizer.json`, or of one that says what its tokenizer does.
    ///
    /// # Errors
    /// If the tokenizer is missing, can't be read, or is of a kind that is not supported.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, CheckpointError> {
        self.source.tokenizer_json()
    }

    /// The chat template; `None` if the model has none.
    pub fn chat_template(&self) -> Option<String> {
        self.source.chat_template()
    }

    /// The licence that the checkpoint names.
    pub fn license(&self) -> Option<String> {
        self.source.license()
    }

    /// Every file that the artifact is made from, with length and hash.
    ///
    /// # Errors
    /// If one can't be read.
    pub fn source_files(&self) -> Result<Vec<SourceFile>, CheckpointError> {
        sources(self.directory(), self.source_names())
    }

    /// The same with hashes of zeros: reads no file.
    ///
    /// # Errors
    /// If the system does not say how long a file is.
    pub fn source_lengths(&self) -> Result<Vec<SourceFile>, CheckpointError> {
        lengths(self.directory(), self.source_names())
    }

    /// Names of the files that the artifact is made from.
    fn source_names(&self) -> Vec<String> {
        let mut names = self.source.files();
        names.extend(self.tensors.files().map(str::to_owned));
        names
    }
}

/// Full name of a layer's tensor.
pub fn layer_name(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.{name}")
}

/// How the names of norms end.
pub const NORM_SUFFIX: &str = "norm.weight";

/// What Hugging Face's checkpoints of `config`'s architecture leave out in the weights of norms: Gemma stores them less
/// one. The engine and its artifacts have whole weights.
pub fn stored_norm_offset(config: &Config) -> f32 {
    if config.variant.post_norms { 1.0 } else { 0.0 }
}

/// The layer that a tensor belongs to, if it does, and the rest of its name.
pub fn split_layer_name(name: &str) -> (Option<usize>, &str) {
    let parts = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    match parts.and_then(|(layer, rest)| Some((layer.parse().ok()?, rest))) {
        Some((layer, rest)) => (Some(layer), rest),
        None => (None, name),
    }
}

/// A dense matrix for the engine, of `values` in standard layout.
///
/// # Errors
/// If it has no rows or no columns.
pub fn dense(values: Array2<f32>) -> Result<Matrix, CodecError> {
    let (rows, columns) = values.dim();
    Ok(Matrix::Dense(DenseMatrix::new(rows, columns, values.into_raw_vec_and_offset().0)?))
}

/// Hands a checkpoint's tensors to the engine. The engine's error type knows no files, so the real error is kept here.
struct Original<'a> {
    checkpoint: &'a Checkpoint,
    error: Option<CheckpointError>,
}

impl Original<'_> {
    fn pass<T>(&mut self, name: &str, result: Result<T, CheckpointError>) -> Result<Option<T>, ModelError> {
        result.map(Some).map_err(|error| {
            self.error = Some(error);
            ModelError::MissingTensor(name.to_owned())
        })
    }
}

impl TensorSource for Original<'_> {
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError> {
        let matrix = self.checkpoint.matrix(name).and_then(|m| {
            dense(m).map_err(|e| CheckpointError::Tensor { name: name.into(), reason: e.to_string() })
        });
        self.pass(name, matrix)
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let vector = self.checkpoint.exact_vector(name);
        self.pass(name, vector)
    }
}

/// The folder that a file is in.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn read(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    std::fs::read(path).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })
}

/// The files `names` in `directory`, with length and hash.
fn sources(directory: &Path, names: Vec<String>) -> Result<Vec<SourceFile>, CheckpointError> {
    let file = |path: String| {
        let (bytes, sha256) = hash(&directory.join(&path))?;
        Ok(SourceFile { path, bytes, sha256 })
    };
    names.into_iter().map(file).collect()
}

/// The files `names` in `directory`, with length and a hash of zeros.
fn lengths(directory: &Path, names: Vec<String>) -> Result<Vec<SourceFile>, CheckpointError> {
    let file = |path: String| {
        let full = directory.join(&path);
        let metadata = std::fs::metadata(&full);
        let bytes = metadata.map_err(|source| CheckpointError::Io { path: full, source })?.len();
        Ok(SourceFile { path, bytes, sha256: [0; 32] })
    };
    names.into_iter().map(file).collect()
}

/// Length and SHA-256 of a file.
fn hash(path: &Path) -> Result<(u64, [u8; 32]), CheckpointError> {
    let fail = |source| CheckpointError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(fail)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(fail)?;
        if read == 0 {
            return Ok((bytes, digest.finalize().into()));
        }
        digest.update(&buffer[..read]);
        bytes += read as u64;
    }
}
