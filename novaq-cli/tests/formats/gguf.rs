//! GGUF files.

use std::fs;
use std::path::{Path, PathBuf};

use novaq_cli::checkpoint::{Checkpoint, CheckpointError, layer_name};
use novaq_engine::model::{Config, RopeScaling, Variant};
use novaq_engine::tokenizer::Tokenizer;
use serde_json::Value;

use super::{assert_same_tensors, fixture, logits, novaq, shards, shared_models, stored, write_folder};

/// Numbers of the metadata's types.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const LIST: u32 = 9;

/// Number of the tensors' type.
const TENSOR_F32: u32 = 0;

/// A tensor of a GGUF file.
#[derive(Clone)]
struct Tensor {
    name: String,
    /// Rows before columns; the file has it the other way round.
    shape: Vec<usize>,
    kind: u32,
    bytes: Vec<u8>,
}

/// A GGUF file to write.
#[derive(Clone)]
struct File {
    version: u32,
    /// Key, type, value.
    fields: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<Tensor>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn list(kind: u32, items: impl ExactSizeIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend((items.len() as u64).to_le_bytes());
    bytes.extend(items.flatten());
    bytes
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

impl File {
    fn put(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.fields.retain(|(known, ..)| known != key);
        self.fields.push((key.to_owned(), kind, value));
    }

    fn number(&mut self, key: &str, number: usize) {
        self.put(key, U32, u32::try_from(number).unwrap().to_le_bytes().to_vec());
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.fields.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.fields {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        let mut data: Vec<u8> = Vec::new();
        for tensor in &self.tensors {
            data.resize(data.len().next_multiple_of(32), 0);
            bytes.extend(text(&tensor.name));
            bytes.extend((tensor.shape.len() as u32).to_le_bytes());
            bytes.extend(tensor.shape.iter().rev().flat_map(|&d| (d as u64).to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        [bytes, data].concat()
    }

    fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("model.gguf");
        fs::write(&path, self.bytes()).unwrap();
        path
    }
}

/// The name of a layer's tensor in the GGUF files of `config`'s architecture.
fn written(config: &Config, name: &str) -> String {
    let (part, end) = name.rsplit_once('.').unwrap();
    let part = match part {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" if config.variant.post_norms => "post_attention_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        _ => "ffn_norm",
    };
    format!("{part}.{end}")
}

/// Hyper-parameters of `config`.
fn put_config(file: &mut File, config: &Config) {
    let architecture = match config.architecture() {
        "mistral" => "llama",
        "gemma3_text" => "gemma3",
        other => other,
    };
    let key = |name: &str| format!("{architecture}.{name}");
    file.put("general.architecture", TEXT, text(architecture));
    for (name, number) in [
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("block_count", config.num_hidden_layers),
        ("context_length", config.max_position_embeddings),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("attention.key_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
    ] {
        file.number(&key(name), number);
    }
    let float = |value: f64| (value as f32).to_le_bytes().to_vec();
    file.put(&key("attention.layer_norm_rms_epsilon"), F32, float(config.rms_norm_eps));
    file.put(&key("rope.freq_base"), F32, float(config.rope_theta));
    // Of Qwen's windows the converter writes none.
    if architecture != "qwen2"
        && let Some(window) = config.variant.sliding_window
    {
        file.number(&key("attention.sliding_window"), window);
        if architecture == "gemma3" {
            // Every second layer reads all positions.
            file.number(&key("attention.sliding_window_pattern"), 2);
        }
    }
    if let Some(base) = config.variant.rope_local_base_freq {
        file.put(&key("rope.freq_base_swa"), F32, float(base));
    }
    match config.rope_scaling {
        RopeScaling::Default => {}
        RopeScaling::Linear { factor } => {
            file.put(&key("rope.scaling.type"), TEXT, text("linear"));
            file.put(&key("rope.scaling.factor"), F32, float(factor));
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        } => {
            file.number(&key("rope.scaling.original_context_length"), original);
            // As llama.cpp's converter writes them.
            let factors: Vec<f32> = (0..config.head_dim / 2)
                .map(|i| {
                    let frequency = 1.0 / config.rope_theta.powf(2.0 * i as f64 / config.head_dim as f64);
                    let (wavelength, original) = (std::f64::consts::TAU / frequency, original as f64);
                    (if wavelength < original / high {
                        1.0
                    } else if wavelength > original / low {
                        factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        1.0 / ((1.0 - smooth) / factor + smooth)
                    }) as f32
                })
                .collect();
            let (shape, bytes) = (vec![factors.len()], floats(&factors));
            file.tensors.push(Tensor { name: "rope_freqs.weight".into(), shape, kind: TENSOR_F32, bytes });
        }
    }
}

/// A byte-level tokenizer of `count` tokens: letters, one merge, and two signs.
fn put_tokenizer(file: &mut File, count: usize) {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((b'!'..=b'~').map(|c| char::from(c).to_string()));
    tokens.push("he".to_owned());
    tokens.extend((tokens.len()..count).map(|id| format!("[PAD{id}]")));
    let kind = |id: usize| {
        if id == 0 {
            2
        } else if id < 3 {
            3
        } else if tokens[id].len() > 2 {
            5
        } else {
            1
        }
    };
    let kinds: Vec<Vec<u8>> = (0..count).map(|id| i32::to_le_bytes(kind(id)).to_vec()).collect();
    file.put("tokenizer.ggml.model", TEXT, text("gpt2"));
    file.put("tokenizer.ggml.pre", TEXT, text("gpt-2"));
    file.put("tokenizer.ggml.tokens", LIST, list(TEXT, tokens.iter().map(|token| text(token))));
    file.put("tokenizer.ggml.token_type", LIST, list(I32, kinds.into_iter()));
    file.put("tokenizer.ggml.merges", LIST, list(TEXT, [text("h e")].into_iter()));
    file.number("tokenizer.ggml.bos_token_id", 1);
    file.number("tokenizer.ggml.eos_token_id", 2);
    file.put("tokenizer.chat_template", TEXT, text("{{ messages }}"));
    file.put("general.license", TEXT, text("mit"));
}

/// One of the engine's random models, and a GGUF file of it in 32-bit floats.
fn converted(name: &str) -> (Checkpoint, File) {
    let checkpoint = fixture(name);
    let config = checkpoint.config();
    let mut file = File { version: 3, fields: Vec::new(), tensors: Vec::new() };
    put_config(&mut file, config);
    put_tokenizer(&mut file, config.vocab_size);
    let mut add = |written: String, name: &str| {
        let (shape, values) = stored(&checkpoint, name);
        file.tensors.push(Tensor { name: written, shape, kind: TENSOR_F32, bytes: floats(&values) });
    };
    add("token_embd.weight".into(), "model.embed_tokens.weight");
    add("output_norm.weight".into(), "model.norm.weight");
    if !config.tie_word_embeddings {
        add("output.weight".into(), "lm_head.weight");
    }
    for layer in 0..config.num_hidden_layers {
        let matrices = Checkpoint::LAYER_MATRICES.iter().copied().flatten().copied();
        for name in matrices.chain(checkpoint.layer_vectors()) {
            add(format!("blk.{layer}.{}", written(config, name)), &layer_name(layer, name));
        }
    }
    (checkpoint, file)
}

#[test]
fn a_converted_model_is_the_same_model() {
    for name in ["gqa-default", "mqa-linear-bias", "mha-llama3", "mistral", "qwen2", "qwen3", "gemma3"] {
        let folder = tempfile::tempdir().unwrap();
        let (original, mut file) = converted(name);
        let config = original.config();
        // What the format has no field for.
        let variant = match name {
            "qwen2" => config.variant.clone().with_windows(0, Vec::new()),
            _ => Variant { query_pre_attn_scalar: None, ..config.variant.clone() },
        };
        let config = Config { variant, ..config.clone() };
        for version in [2, 3] {
            file.version = version;
            let read = Checkpoint::open(&file.write(folder.path())).unwrap();
            assert_eq!(*read.config(), config, "{name}");
            assert_same_tensors(&read, &original);
            assert_eq!(read.chat_template().as_deref(), Some("{{ messages }}"));
            assert_eq!(read.license().as_deref(), Some("mit"));
        }
    }
}

/// What the metadata of Gemma does not say: which layers slide, with which frequencies, and how the largest one scales.
#[test]
fn gemma_is_completed_by_the_number_of_its_layers() {
    let folder = tempfile::tempdir().unwrap();
    let (original, mut file) = converted("gemma3");
    file.number("gemma3.block_count", 62);
    for layer in 3..62 {
        let of_first = file.tensors.iter().filter_map(|tensor| {
            let name = format!("blk.{layer}.{}", tensor.name.strip_prefix("blk.0.")?);
            Some(Tensor { name, ..tensor.clone() })
        });
        let copies: Vec<Tensor> = of_first.collect();
        file.tensors.extend(copies);
    }
    file.fields.retain(|(key, ..)| !["pattern", "freq_base_swa"].iter().any(|end| key.ends_with(end)));
    let checkpoint = Checkpoint::open(&file.write(folder.path())).unwrap();
    let config = checkpoint.config();
    let width = original.config().hidden_size / original.config().num_attention_heads;
    assert_eq!(config.variant.query_pre_attn_scalar, Some(width as f64));
    assert_eq!(config.variant.rope_local_base_freq, Some(1e4));
    for layer in 0..62 {
        assert_eq!(config.window(layer), (layer % 6 != 5).then_some(5), "layer {layer}");
    }
}

#[test]
fn compression_gives_the_same_shards() {
    let folder = tempfile::tempdir().unwrap();
    let (original, file) = converted("gqa-default");
    let tokenizer = Checkpoint::open(&file.write(folder.path())).unwrap().tokenizer_json().unwrap();
    write_folder(&folder.path().join("model"), &original, &tokenizer);
    for (input, output) in [("model", "from-folder"), ("model.gguf", "from-gguf")] {
        novaq(folder.path(), &["compress", input, "-o", output, "--calibration-tokens", "768"]);
        novaq(folder.path(), &["verify", output]);
    }
    let artifact = folder.path().join("from-gguf");
    assert!(shards(&artifact) == shards(&folder.path().join("from-folder")), "the shards differ");
    let manifest: Value = serde_json::from_slice(&fs::read(artifact.join("manifest.json")).unwrap()).unwrap();
    assert_eq!((&manifest["name"], &manifest["license"]), (&"model".into(), &"mit".into()));
    assert_eq!(manifest["origin"]["repository"], "model.gguf");
    assert_eq!(manifest["origin"]["files"][0]["path"], "model.gguf");

    let args = ["eval", "from-gguf", "--against", "model.gguf", "--max-tokens", "256", "--json"];
    let report: Value = serde_json::from_str(&novaq(folder.path(), &args)).unwrap();
    assert!(report["kl"].as_f64().unwrap() < 2.0, "{report}");
}

#[test]
fn quantized_tensors_are_widened() {
    let folder = tempfile::tempdir().unwrap();
    let (_, mut file) = converted("gqa-default");
    // Rows of 32 values: one block of Q8_0 each, d = 0.5 and the codes −16 to 15.
    let embedding = file.tensor("token_embd.weight");
    let rows = embedding.shape[0];
    let block: Vec<u8> = [0x00, 0x38].into_iter().chain((-16..16i8).map(i8::cast_unsigned)).collect();
    (embedding.kind, embedding.bytes) = (8, block.repeat(rows));
    // The upper halves of floats.
    let norm = file.tensor("output_norm.weight");
    (norm.kind, norm.bytes) = (30, [0x80, 0x3f].repeat(32));
    let read = Checkpoint::open(&file.write(folder.path())).unwrap();
    let embedding = read.matrix("model.embed_tokens.weight").unwrap();
    let expected: Vec<f32> = (-16..16i8).map(|q| 0.5 * f32::from(q)).collect();
    assert!(embedding.rows().into_iter().all(|row| row.to_vec() == expected));
    assert_eq!(read.vector("model.norm.weight").unwrap(), [1.0; 32]);
}

/// What is said about a file that `change` has damaged.
fn refused(change: impl FnOnce(&mut File)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (_, mut file) = converted("gqa-default");
    change(&mut file);
    let checkpoint = Checkpoint::open(&file.write(folder.path()));
    checkpoint.and_then(|c| c.model().map(drop)).unwrap_err().to_string()
}

#[test]
fn bad_files_are_refused_by_name() {
    type Damage = Box<dyn FnOnce(&mut File)>;
    let cases: [(&str, Damage); 24] = [
        (
            "`llama.final_logit_softcapping` is 30, which is not supported",
            Box::new(|f| f.put("llama.final_logit_softcapping", F32, 30f32.to_le_bytes().to_vec())),
        ),
        (
            "`llama.attention.sliding_window_pattern` is 0",
            Box::new(|f| {
                f.number("llama.attention.sliding_window", 8);
                f.number("llama.attention.sliding_window_pattern", 0);
            }),
        ),
        ("version 1 is not supported", Box::new(|f| f.version = 1)),
        (
            "model.gguf`: `general.architecture` is `phi3`; supported are `llama`, `qwen2`, `qwen3`, `gemma3`",
            Box::new(|f| f.put("general.architecture", TEXT, text("phi3"))),
        ),
        (
            "`llama.block_count` is missing",
            Box::new(|f| f.fields.retain(|(key, ..)| key != "llama.block_count")),
        ),
        ("`llama.block_count` is not a size", Box::new(|f| f.put("llama.block_count", BOOL, vec![1]))),
        ("`llama.expert_count` is 8", Box::new(|f| f.number("llama.expert_count", 8))),
        ("`split.count` is 2", Box::new(|f| f.number("split.count", 2))),
        ("`llama.rope.dimension_count` is 4", Box::new(|f| f.number("llama.rope.dimension_count", 4))),
        (
            "`llama.rope.scaling.type` is `yarn`",
            Box::new(|f| f.put("llama.rope.scaling.type", TEXT, text("yarn"))),
        ),
        ("is of the unknown type 77", Box::new(|f| f.put("general.name", 77, vec![]))),
        (
            "is a list of type 9, which is not supported",
            Box::new(|f| {
                f.put("general.tags", LIST, list(LIST, [].into_iter()));
            }),
        ),
        ("occurs twice in the metadata", Box::new(|f| f.fields.push(f.fields[0].clone()))),
        (
            "the file ends inside general.name",
            Box::new(|f| {
                f.put("general.name", TEXT, u64::MAX.to_le_bytes().to_vec());
            }),
        ),
        (
            "the file ends inside general.tags",
            Box::new(|f| {
                let lie = [&F32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
                f.put("general.tags", LIST, lie);
            }),
        ),
        (
            "tensor `blk.1.ffn_up.weight` is missing",
            Box::new(|f| {
                f.tensors.retain(|tensor| tensor.name != "blk.1.ffn_up.weight");
            }),
        ),
        (
            "tensor `blk.7.ffn_up.weight` is not one of this architecture's",
            Box::new(|f| {
                let extra = Tensor { name: "blk.7.ffn_up.weight".into(), ..f.tensors[0].clone() };
                f.tensors.push(extra);
            }),
        ),
        ("tensor `token_embd.weight` occurs twice", Box::new(|f| f.tensors.push(f.tensors[0].clone()))),
        (
            "tensor `blk.0.attn_k.weight` has shape [32, 16], expected [16, 32]",
            Box::new(|f| {
                f.tensor("blk.0.attn_k.weight").shape = vec![32, 16];
            }),
        ),
        (
            "tensor `blk.0.attn_k.weight` is of the ggml type 13; supported are F32 (0)",
            Box::new(|f| {
                f.tensor("blk.0.attn_k.weight").kind = 13;
            }),
        ),
        (
            "tensor `blk.0.ffn_down.weight` has rows of 48 values, no whole blocks of 32",
            Box::new(|f| {
                let tensor = f.tensor("blk.0.ffn_down.weight");
                (tensor.kind, tensor.shape) = (8, vec![32, 48]);
            }),
        ),
        (
            "tensor `output_norm.weight` has the shape [18446744073709551615, 4]",
            Box::new(|f| {
                f.tensor("output_norm.weight").shape = vec![usize::MAX, 4];
            }),
        ),
        (
            "tensor `output_norm.weight` has 0 dimensions",
            Box::new(|f| {
                f.tensor("output_norm.weight").shape = vec![];
            }),
        ),
        (
            "tensor `blk.0.attn_q.weight` holds NaN at element 1",
            Box::new(|f| {
                f.tensor("blk.0.attn_q.weight").bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
            }),
        ),
    ];
    for (words, change) in cases {
        let error = refused(change);
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
}

#[test]
fn every_truncation_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_, file) = converted("gqa-default");
    let path = file.write(folder.path());
    let whole = file.bytes();
    for len in (0..6000).step_by(7).chain([whole.len() - 1]) {
        fs::write(&path, &whole[..len]).unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        let is_typed = matches!(
            error,
            CheckpointError::Invalid { .. } | CheckpointError::Tensor { .. } | CheckpointError::Io { .. }
        );
        assert!(is_typed, "{len} bytes: {error:?}");
    }
    fs::write(&path, b"GGML and more").unwrap();
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(error.contains("model.gguf` is not valid: it does not begin with `GGUF`"), "{error}");
}

/// The tokenizer of a GGUF file whose tokens `change` has replaced.
fn tokenizer(change: impl FnOnce(&mut File)) -> Result<Tokenizer, String> {
    let folder = tempfile::tempdir().unwrap();
    let (_, mut file) = converted("gqa-default");
    change(&mut file);
    let checkpoint = Checkpoint::open(&file.write(folder.path())).unwrap();
    let json = checkpoint.tokenizer_json().map_err(|error| error.to_string())?;
    Tokenizer::from_json(&json).map_err(|error| error.to_string())
}

#[test]
fn byte_level_tokenizers_are_read() {
    let plain = tokenizer(|_| {}).unwrap();
    let id = |token: &str| plain.token_to_id(token).unwrap();
    let expected = [id("t"), id("he"), id("1"), id("2"), 2, id("!")];
    assert_eq!(plain.encode("the12</s>!", true).unwrap(), expected);
    assert_eq!(plain.decode(&expected, true).unwrap(), "the12!");

    // Llama 3 puts a beginning in front, and takes words whole that are tokens.
    let llama = tokenizer(|f| {
        f.put("tokenizer.ggml.pre", TEXT, text("llama-bpe"));
        f.put("tokenizer.ggml.merges", LIST, list(TEXT, [].into_iter()));
    });
    assert_eq!(llama.unwrap().encode("he", true).unwrap(), [1, id("he")]);
    let ending = tokenizer(|f| f.put("tokenizer.ggml.add_eos_token", BOOL, vec![1])).unwrap();
    assert_eq!(ending.encode("e", true).unwrap(), [id("e"), 2]);

    for (words, change) in [
        (
            "`tokenizer.ggml.pre` is `dbrx`; supported are default, gpt-2",
            ("tokenizer.ggml.pre", TEXT, text("dbrx")),
        ),
        (
            "`tokenizer.ggml.model` is `t5`; supported are `llama` and `gpt2`",
            ("tokenizer.ggml.model", TEXT, text("t5")),
        ),
        (
            "has 1 entries for 101 tokens",
            ("tokenizer.ggml.token_type", LIST, list(I32, [vec![1, 0, 0, 0]].into_iter())),
        ),
        ("`tokenizer.ggml.merges` is not a list of texts", ("tokenizer.ggml.merges", TEXT, text("h e"))),
        (
            "\"q\" is not in the vocabulary",
            ("tokenizer.ggml.tokens", LIST, { list(TEXT, (0..101).map(|id| text(&format!("{id}")))) }),
        ),
    ] {
        let (key, kind, value) = change;
        let merges = list(TEXT, [text("q u")].into_iter());
        let error = tokenizer(|f| {
            if words.contains("\"q\"") {
                f.put("tokenizer.ggml.merges", LIST, merges);
            }
            f.put(key, kind, value);
        });
        let error = error.unwrap_err();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
}

/// Tokens by scores: of `ab` and `bc` the better wins, of equal ones the leftmost; `<0xC3>` and `<0xA9>` are bytes.
fn put_scores(file: &mut File, ab: f32, bc: f32) {
    let tokens: [(&str, f32, i32); 11] = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("▁", -3.0, 1),
        ("a", -4.0, 1),
        ("b", -5.0, 1),
        ("c", -6.0, 1),
        ("ab", ab, 1),
        ("bc", bc, 1),
        ("<0xC3>", 0.0, 6),
        ("<0xA9>", 0.0, 6),
    ];
    let padding: Vec<String> = (tokens.len()..101).map(|id| format!("[PAD{id}]")).collect();
    let names = tokens.iter().map(|t| t.0).chain(padding.iter().map(String::as_str));
    let names: Vec<Vec<u8>> = names.map(text).collect();
    let scores: Vec<f32> = (0..101).map(|id| tokens.get(id).map_or(-100.0, |t| t.1)).collect();
    let kinds: Vec<i32> = (0..101).map(|id| tokens.get(id).map_or(5, |t| t.2)).collect();
    file.put("tokenizer.ggml.model", TEXT, text("llama"));
    file.put("tokenizer.ggml.tokens", LIST, list(TEXT, names.into_iter()));
    file.put("tokenizer.ggml.scores", LIST, list(F32, scores.iter().map(|s| s.to_le_bytes().to_vec())));
    file.put("tokenizer.ggml.token_type", LIST, list(I32, kinds.iter().map(|k| k.to_le_bytes().to_vec())));
}

#[test]
fn sentencepiece_tokenizers_are_read() {
    let better = tokenizer(|f| put_scores(f, -1.0, -2.0)).unwrap();
    assert_eq!(better.encode("abc", true).unwrap(), [1, 3, 7, 6]);
    assert_eq!(better.encode("a é", false).unwrap(), [3, 4, 3, 9, 10]);
    assert_eq!(better.decode(&[1, 3, 7, 3, 9, 10], true).unwrap(), "ab é");
    // Cut out of the text; what follows begins like a text.
    assert_eq!(better.encode("a</s>b", false).unwrap(), [3, 4, 2, 3, 5]);
    assert_eq!(better.encode("ax", false).unwrap(), [3, 4, 0]);
    let worse = tokenizer(|f| put_scores(f, -2.0, -1.0)).unwrap();
    assert_eq!(worse.encode("abc", false).unwrap(), [3, 4, 8]);
    let equal = tokenizer(|f| put_scores(f, -1.0, -1.0)).unwrap();
    assert_eq!(equal.encode("abcabc", false).unwrap(), [3, 7, 6, 7, 6]);
    let compact = Tokenizer::from_bytes(&equal.to_bytes()).unwrap();
    assert_eq!(compact.encode("abcabc", false).unwrap(), [3, 7, 6, 7, 6]);

    let bare = tokenizer(|f| {
        put_scores(f, -1.0, -2.0);
        f.put("tokenizer.ggml.add_space_prefix", BOOL, vec![0]);
        f.put("tokenizer.ggml.add_bos_token", BOOL, vec![0]);
    });
    assert_eq!(bare.unwrap().encode("abc", true).unwrap(), [7, 6]);
    let error = tokenizer(|f| put_scores(f, f32::NAN, 0.0)).unwrap_err();
    assert!(error.contains("`tokenizer.ggml.tokens` token 7 has the score NaN"), "{error}");
}

/// The same model as GGUF and as llama2.c's checkpoint.
#[test]
fn stories_are_the_same_in_both_formats() {
    let Some(folder) = shared_models("stories260K") else { return };
    let gguf = Checkpoint::open(&folder.join("stories260Ktok512.gguf")).unwrap();
    let bin = Checkpoint::open(&folder.join("stories260K.bin")).unwrap();
    let tokenizer =
        |checkpoint: &Checkpoint| Tokenizer::from_json(&checkpoint.tokenizer_json().unwrap()).unwrap();
    let story =
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.";
    let tokens = tokenizer(&gguf).encode(story, true).unwrap();
    assert_eq!(tokens, tokenizer(&bin).encode(story, true).unwrap());
    assert_eq!(tokenizer(&gguf).decode(&tokens, true).unwrap(), story);
    let (a, b) = (logits(&gguf, &tokens), logits(&bin, &tokens));
    let largest = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest < 1e-4, "a logit is off by {largest}");
    // A model that is read wrongly knows nothing of what comes next: chance is 6.2 nats.
    let loss: f32 = a
        .chunks_exact(gguf.config().vocab_size)
        .zip(&tokens[1..])
        .map(|(row, &next)| {
            let most = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f32 = row.iter().map(|x| (x - most).exp()).sum();
            most + sum.ln() - row[next as usize]
        })
        .sum();
    let loss = loss / (tokens.len() - 1) as f32;
    assert!(loss < 2.0, "{loss} nats per token");
}
