//! Checkpoints of BERT encoders: a folder as transformers writes it, or as sentence-transformers does, with the pooling and
//! the longest text in files of their own.

use std::path::{Path, PathBuf};

use ndarray::Array2;
use novaq_engine::artifact::SourceFile;
use novaq_engine::codec::Matrix;
use novaq_engine::model::{BertConfig, Encoder, ModelError, Pooling, TensorSource};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::hugging_face::Folder;
use super::tensors::{Convention, Tensors};
use super::{CheckpointError, Source, dense, lengths, read, safetensors, sources};

/// The fields of `config.json` that are read.
#[derive(Deserialize)]
struct RawConfig {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "epsilon")]
    layer_norm_eps: f64,
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
}

/// The defaults of transformers' `BertConfig`.
fn two() -> usize {
    2
}

fn epsilon() -> f64 {
    1e-12
}

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// `sentence_bert_config.json`.
#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

/// `config.json` of the pooling module: flags of which one is set.
type PoolingConfig = serde_json::Map<String, serde_json::Value>;

/// Names of the files.
const CONFIG: &str = "config.json";
const MODULES: &str = "modules.json";
const SENTENCE: &str = "sentence_bert_config.json";

/// What is beside the transformer in a folder of sentence-transformers.
struct Sentences {
    pooling: Pooling,
    normalize: bool,
    max_seq_length: Option<usize>,
    /// The files that say so.
    files: Vec<String>,
}

/// A checkpoint of an encoder on disk.
#[derive(Debug)]
pub struct EncoderCheckpoint {
    path: PathBuf,
    config: BertConfig,
    tensors: Tensors,
    folder: Folder,
    /// Names of the files that are read beside those of the tensors.
    files: Vec<String>,
}

impl EncoderCheckpoint {
    /// The matrices of one layer by the input they read, in the order of the forward pass, without the prefix
    /// `encoder.layer.N.`.
    pub const LAYER_MATRICES: [&'static [&'static str]; 4] = [
        &["attention.self.query.weight", "attention.self.key.weight", "attention.self.value.weight"],
        &["attention.output.dense.weight"],
        &["intermediate.dense.weight"],
        &["output.dense.weight"],
    ];

    /// The vectors of one layer, in the order of the forward pass, without the prefix.
    pub const LAYER_VECTORS: [&'static str; 10] = [
        "attention.self.query.bias",
        "attention.self.key.bias",
        "attention.self.value.bias",
        "attention.output.dense.bias",
        "attention.output.LayerNorm.weight",
        "attention.output.LayerNorm.bias",
        "intermediate.dense.bias",
        "output.dense.bias",
        "output.LayerNorm.weight",
        "output.LayerNorm.bias",
    ];

    /// The token embeddings.
    pub const WORDS: &'static str = "embeddings.word_embeddings.weight";

    /// The embeddings of positions.
    pub const POSITIONS: &'static str = "embeddings.position_embeddings.weight";

    /// The embeddings of the kinds of tokens.
    pub const KINDS: &'static str = "embeddings.token_type_embeddings.weight";

    /// The norm behind the embeddings.
    pub const EMBEDDING_VECTORS: [&'static str; 2] =
        ["embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias"];

    /// Whether the folder at `path` has the configuration of a BERT encoder.
    pub fn is_at(path: &Path) -> bool {
        #[derive(Deserialize)]
        struct Kind {
            model_type: String,
        }
        let json = std::fs::read(path.join(CONFIG)).unwrap_or_default();
        serde_json::from_slice::<Kind>(&json).is_ok_and(|kind| kind.model_type == "bert")
    }

    /// Opens the checkpoint in the folder `path` and checks that every tensor is there, in a supported type and of the
    /// right shape.
    ///
    /// # Errors
    /// What is missing or wrong, with the file, field or tensor.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let raw: RawConfig = json(&path.join(CONFIG))?;
        check_supported(&raw)?;
        let sentences = sentences(path)?;
        let config = BertConfig {
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: raw.num_attention_heads,
            max_position_embeddings: raw.max_position_embeddings,
            type_vocab_size: raw.type_vocab_size,
            layer_norm_eps: raw.layer_norm_eps,
            max_seq_length: sentences.max_seq_length.unwrap_or(raw.max_position_embeddings),
            pooling: sentences.pooling,
            normalize: sentences.normalize,
        };
        config.validate()?;
        let tensors = safetensors::open(path)?;
        let convention = convention(&tensors);
        let files = [vec![CONFIG.to_owned(), "tokenizer.json".to_owned()], sentences.files].concat();
        let checkpoint = Self {
            path: path.to_owned(),
            config,
            tensors: tensors.with_convention(convention),
            folder: Folder::new(path),
            files,
        };
        for (name, shape) in checkpoint.shapes() {
            checkpoint.tensors.check(&name, &shape)?;
        }
        Ok(checkpoint)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// Names and shapes of all tensors, in the order in which the forward pass needs them.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let c = &self.config;
        let mut shapes = vec![
            (Self::WORDS.to_owned(), vec![c.vocab_size, c.hidden_size]),
            (Self::POSITIONS.to_owned(), vec![c.max_position_embeddings, c.hidden_size]),
            (Self::KINDS.to_owned(), vec![c.type_vocab_size, c.hidden_size]),
        ];
        shapes.extend(Self::EMBEDDING_VECTORS.map(|name| (name.to_owned(), vec![c.hidden_size])));
        for layer in 0..c.num_hidden_layers {
            let vectors = Self::LAYER_VECTORS.iter();
            shapes.extend(
                vectors.map(|name| (encoder_layer_name(layer, name), vec![self.layer_vector_len(name)])),
            );
            let matrices = Self::LAYER_MATRICES.iter().copied().flatten();
            shapes.extend(
                matrices
                    .map(|name| (encoder_layer_name(layer, name), self.layer_matrix_shape(name).to_vec())),
            );
        }
        shapes
    }

    /// Shape of a layer's matrix by its name without the prefix.
    pub fn layer_matrix_shape(&self, name: &str) -> [usize; 2] {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        match name.split('.').next() {
            Some("attention") => [hidden, hidden],
            Some("intermediate") => [inner, hidden],
            _ => [hidden, inner],
        }
    }

    /// Length of a layer's vector by its name without the prefix.
    fn layer_vector_len(&self, name: &str) -> usize {
        let c = &self.config;
        if name.starts_with("intermediate") { c.intermediate_size } else { c.hidden_size }
    }

    /// Weights of the model.
    pub fn parameters(&self) -> u64 {
        self.shapes().iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }

    /// The matrix `name`, `[rows, columns]`.
    ///
    /// # Errors
    /// If it is missing, no matrix, or holds a value that is not finite.
    pub fn matrix(&self, name: &str) -> Result<Array2<f32>, CheckpointError> {
        self.tensors.matrix(name)
    }

    /// The vector `name`, rounded to the 16 bits that an artifact keeps of it.
    ///
    /// # Errors
    /// If it is missing or holds a value that is not finite in 16 bits.
    pub fn vector(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        self.tensors.half_vector(name)
    }

    /// The encoder in 32-bit floats.
    ///
    /// # Errors
    /// If a tensor can't be read.
    pub fn encoder(&self) -> Result<Encoder, CheckpointError> {
        self.load(|source| Encoder::load(self.config.clone(), source))
    }

    /// What `make` makes of the checkpoint's tensors in 32-bit floats.
    ///
    /// # Errors
    /// If a tensor can't be read, or what `make` says.
    pub fn load<T>(
        &self,
        make: impl FnOnce(&mut dyn TensorSource) -> Result<T, ModelError>,
    ) -> Result<T, CheckpointError> {
        let mut source = Original { tensors: &self.tensors, error: None };
        make(&mut source).map_err(|e| source.error.take().unwrap_or(e.into()))
    }

    /// The bytes of its `tokenizer.json`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, CheckpointError> {
        self.folder.tokenizer_json()
    }

    /// The licence that the model card names.
    pub fn license(&self) -> Option<String> {
        self.folder.license()
    }

    /// Every file that the artifact is made from, with length and hash.
    ///
    /// # Errors
    /// If one can't be read.
    pub fn source_files(&self) -> Result<Vec<SourceFile>, CheckpointError> {
        sources(&self.path, self.source_names())
    }

    /// The same with hashes of zeros: reads no file.
    ///
    /// # Errors
    /// If the system does not say how long a file is.
    pub fn source_lengths(&self) -> Result<Vec<SourceFile>, CheckpointError> {
        lengths(&self.path, self.source_names())
    }

    fn source_names(&self) -> Vec<String> {
        self.files.iter().cloned().chain(self.tensors.files().map(str::to_owned)).collect()
    }
}

/// Full name of a tensor of an encoder's layer.
pub fn encoder_layer_name(layer: usize, name: &str) -> String {
    format!("encoder.layer.{layer}.{name}")
}

/// Reads a file of JSON.
fn json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    serde_json::from_slice(&read(path)?)
        .map_err(|e| CheckpointError::Invalid { path: path.to_owned(), reason: e.to_string() })
}

/// Refuses what the forward pass does not do.
fn check_supported(config: &RawConfig) -> Result<(), CheckpointError> {
    const ARCHITECTURES: [&str; 3] = ["BertModel", "BertForMaskedLM", "BertForPreTraining"];
    let architecture = config.architectures.iter().flatten().next().map(String::as_str);
    let checks = [
        ("model_type", config.model_type.as_deref(), &["bert"][..]),
        ("architectures", architecture, &ARCHITECTURES),
        ("hidden_act", config.hidden_act.as_deref(), &["gelu"]),
        ("position_embedding_type", config.position_embedding_type.as_deref(), &["absolute"]),
    ];
    for (field, value, supported) in checks {
        if let Some(value) = value.filter(|value| !supported.contains(value)) {
            let reason = format!("is `{value}`; supported is `{}`", supported.join("`, `"));
            return Err(CheckpointError::Config { field, reason });
        }
    }
    Ok(())
}

/// What sentence-transformers' files say; without them, its defaults: the mean of all tokens as it is.
fn sentences(folder: &Path) -> Result<Sentences, CheckpointError> {
    let mut found =
        Sentences { pooling: Pooling::Mean, normalize: false, max_seq_length: None, files: Vec::new() };
    let modules = folder.join(MODULES);
    if modules.exists() {
        found.files.push(MODULES.to_owned());
        for module in json::<Vec<Module>>(&modules)? {
            match module.kind.rsplit('.').next() {
                Some("Transformer") if module.path.is_empty() => {}
                Some("Pooling") => {
                    let file = format!("{}/{CONFIG}", module.path);
                    found.pooling = pooling(&folder.join(&file))?;
                    found.files.push(file);
                }
                Some("Normalize") => found.normalize = true,
                _ => {
                    let reason = format!(
                        "module `{}` in `{}` is not supported: only Transformer, Pooling and Normalize are",
                        module.kind, module.path
                    );
                    return Err(CheckpointError::Invalid { path: modules, reason });
                }
            }
        }
    }
    let path = folder.join(SENTENCE);
    if path.exists() {
        let config: SentenceConfig = json(&path)?;
        if config.do_lower_case {
            let reason = "`do_lower_case` is not supported: the tokenizer decides about case".to_owned();
            return Err(CheckpointError::Invalid { path, reason });
        }
        found.max_seq_length = config.max_seq_length;
        found.files.push(SENTENCE.to_owned());
    }
    Ok(found)
}

/// The one way of pooling that the flags `pooling_mode_…` of the file at `path` choose.
fn pooling(path: &Path) -> Result<Pooling, CheckpointError> {
    let config: PoolingConfig = json(path)?;
    let is_set = |(name, value): (&String, &serde_json::Value)| {
        (name.starts_with("pooling_mode_") && value.as_bool() == Some(true)).then(|| name.clone())
    };
    let set: Vec<String> = config.iter().filter_map(is_set).collect();
    match set.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        ["pooling_mode_cls_token"] => Ok(Pooling::Cls),
        ["pooling_mode_max_tokens"] => Ok(Pooling::Max),
        _ => {
            let reason = format!(
                "pooling `{}` is not supported: write one of `pooling_mode_mean_tokens`, `_cls_token`, `_max_tokens`",
                set.join(" and ")
            );
            Err(CheckpointError::Invalid { path: path.to_owned(), reason })
        }
    }
}

/// How the files name the tensors: with a prefix where there are heads beside the encoder, and norms as the first
/// checkpoints of BERT have them.
fn convention(tensors: &Tensors) -> Convention {
    fn prefixed(name: &str) -> String {
        format!("bert.{name}")
    }
    fn first(name: &str) -> String {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    }
    fn first_prefixed(name: &str) -> String {
        prefixed(&first(name))
    }
    let norm = EncoderCheckpoint::EMBEDDING_VECTORS[0];
    let names: [fn(&str) -> String; 4] = [str::to_owned, prefixed, first, first_prefixed];
    let name = names.into_iter().find(|name| tensors.contains(&name(norm))).unwrap_or(str::to_owned);
    Convention { name, ..Convention::HUGGING_FACE }
}

/// Hands the tensors to the engine. The engine's error type knows no files, so the real error is kept here.
struct Original<'a> {
    tensors: &'a Tensors,
    error: Option<CheckpointError>,
}

impl Original<'_> {
    fn pass<T>(&mut self, result: Result<T, CheckpointError>) -> Option<T> {
        result.map_err(|error| self.error = Some(error)).ok()
    }
}

impl TensorSource for Original<'_> {
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError> {
        let fail = |source| ModelError::Tensor { name: name.to_owned(), source };
        self.pass(self.tensors.matrix(name)).map(|matrix| dense(matrix).map_err(fail)).transpose()
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        Ok(self.pass(self.tensors.read(name).map(|(_, values)| values)))
    }
}
