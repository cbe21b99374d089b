//! Checkpoints of llama2.c.

use std::fs;
use std::path::{Path, PathBuf};

use novaq_cli::checkpoint::{Checkpoint, layer_name};
use novaq_engine::tokenizer::Tokenizer;

use super::{assert_same_tensors, fixture, logits, novaq, shared_models, stored};

/// The layers' tensors in the order of the file.
const LAYERS: [&str; 9] = [
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.down_proj.weight",
    "mlp.up_proj.weight",
];

/// The bytes of a checkpoint, with a head of its own if `shared` is not set.
fn bytes(checkpoint: &Checkpoint, shared: bool) -> Vec<u8> {
    let c = checkpoint.config();
    let mut header = [
        c.hidden_size,
        c.intermediate_size,
        c.num_hidden_layers,
        c.num_attention_heads,
        c.num_key_value_heads,
        c.vocab_size,
        c.max_position_embeddings,
    ]
    .map(|size| i32::try_from(size).unwrap());
    if !shared {
        header[5] = -header[5];
    }
    let mut values = stored(checkpoint, "model.embed_tokens.weight").1;
    let embedding = values.clone();
    for name in LAYERS {
        for layer in 0..c.num_hidden_layers {
            values.extend(stored(checkpoint, &layer_name(layer, name)).1);
        }
    }
    values.extend(stored(checkpoint, "model.norm.weight").1);
    values.extend(vec![0.5; c.max_position_embeddings * c.head_dim]);
    if !shared {
        values.extend(embedding);
    }
    let header = header.iter().flat_map(|n| n.to_le_bytes());
    header.chain(values.iter().flat_map(|v| v.to_le_bytes())).collect()
}

/// The bytes of a tokenizer of 101 tokens: `ab` merges.
fn tokenizer_bytes() -> Vec<u8> {
    let mut tokens = ["<unk>", "\n<s>\n", "\n</s>\n", " ", "a", "b", "c", "ab"].map(str::to_owned).to_vec();
    tokens.extend((tokens.len()..101).map(|id| format!("{id:03}")));
    let mut bytes = 7u32.to_le_bytes().to_vec();
    for (id, token) in tokens.iter().enumerate() {
        bytes.extend((-(id as f32)).to_le_bytes());
        bytes.extend((token.len() as i32).to_le_bytes());
        bytes.extend(token.as_bytes());
    }
    bytes
}

fn write(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("model.bin");
    fs::write(&path, bytes).unwrap();
    fs::write(folder.join("tok101.bin"), tokenizer_bytes()).unwrap();
    path
}

#[test]
fn a_checkpoint_is_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let original = fixture("gqa-default");
    let read = Checkpoint::open(&write(folder.path(), &bytes(&original, true))).unwrap();
    assert_same_tensors(&read, &original);
    let config = read.config();
    assert!(config.tie_word_embeddings);
    assert_eq!((config.rms_norm_eps, config.rope_theta, config.head_dim), (1e-5, 10_000.0, 8));
    assert_eq!((config.vocab_size, config.max_position_embeddings), (101, 64));

    let untied = Checkpoint::open(&write(folder.path(), &bytes(&original, false))).unwrap();
    assert!(!untied.config().tie_word_embeddings);
    assert_eq!(
        untied.matrix("lm_head.weight").unwrap(),
        original.matrix("model.embed_tokens.weight").unwrap()
    );

    let tokenizer = Tokenizer::from_json(&read.tokenizer_json().unwrap()).unwrap();
    assert_eq!(tokenizer.encode("abc a", true).unwrap(), [1, 3, 7, 6, 3, 4]);
    assert_eq!(tokenizer.decode(&[1, 3, 7, 6, 3, 4], true).unwrap(), "abc a");
}

#[test]
fn a_checkpoint_is_compressed() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &bytes(&fixture("gqa-default"), true));
    novaq(folder.path(), &["compress", "model.bin", "-o", "out", "--calibration-tokens", "768"]);
    novaq(folder.path(), &["verify", "out"]);
    let args = ["eval", "out", "--against", "model.bin", "--max-tokens", "256", "--json"];
    let report: serde_json::Value = serde_json::from_str(&novaq(folder.path(), &args)).unwrap();
    assert!(report["kl"].as_f64().unwrap() < 2.0, "{report}");
    let manifest = fs::read(folder.path().join("out/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let files: Vec<&str> =
        manifest["origin"]["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert_eq!(files, ["tok101.bin", "model.bin"]);
}

#[test]
fn bad_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let whole = bytes(&fixture("gqa-default"), true);
    let refused = |bytes: &[u8]| {
        let checkpoint = Checkpoint::open(&write(folder.path(), bytes));
        checkpoint.and_then(|c| c.model().map(drop)).unwrap_err().to_string()
    };
    let header = |at: usize, value: i32| {
        let mut bytes = whole.clone();
        bytes[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let mut nan = whole.clone();
    nan[28 + 8..28 + 12].copy_from_slice(&f32::NAN.to_le_bytes());
    for (words, bytes) in [
        ("model.bin` is not valid: the file ends inside the header", whole[..20].to_vec()),
        (
            "tensor `model.layers.0.self_attn.q_proj.weight` ends behind",
            whole[..28 + 4 * 101 * 32 + 300].to_vec(),
        ),
        ("its header stands for", [&whole[..], &[0; 4]].concat()),
        ("`n_heads` in the header is 0", header(3, 0)),
        ("`n_heads` in the header is 5, which does not divide", header(3, 5)),
        ("`dim` in the header is -1", header(0, -1)),
        ("version after the first", header(0, 0x616b_3432)),
        ("tensor `model.embed_tokens.weight` ends behind", header(5, 1 << 24)),
        ("vocab_size", header(5, i32::MIN)),
        ("tensor `model.embed_tokens.weight` holds NaN at element 2", nan),
    ] {
        let error = refused(&bytes);
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
}

#[test]
fn bad_tokenizers_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), &bytes(&fixture("gqa-default"), true));
    let tokenizer = folder.path().join("tok101.bin");
    let error = || Checkpoint::open(&path).and_then(|c| c.tokenizer_json()).unwrap_err().to_string();
    let whole = tokenizer_bytes();
    fs::write(&tokenizer, &whole[..whole.len() - 1]).unwrap();
    assert!(error().contains("tok101.bin` is not valid: it ends inside a token"), "{}", error());
    fs::write(&tokenizer, &whole[..whole.len() - 11]).unwrap();
    assert!(error().contains("it has 100 tokens, the checkpoint 101"), "{}", error());
    fs::write(folder.path().join("tokenizer.bin"), &whole).unwrap();
    assert!(error().contains("2 files beside it could be its tokenizer"), "{}", error());
    fs::remove_file(folder.path().join("tokenizer.bin")).unwrap();
    fs::remove_file(&tokenizer).unwrap();
    assert!(error().contains("its tokenizer, `tok*.bin` or `tok*.model`, is not beside it"), "{}", error());
    fs::write(folder.path().join("tok.model"), [0x0a, 0xff]).unwrap();
    assert!(error().contains("tok.model` is not valid: it is no SentencePiece model"), "{}", error());
    // A trainer's settings (field 2) with the algorithm (field 3) unigram (1).
    fs::write(folder.path().join("tok.model"), [0x12, 0x02, 0x18, 0x01]).unwrap();
    assert!(error().contains("its algorithm is number 1"), "{}", error());
}

/// A real checkpoint with a `SentencePiece` model of characters.
#[test]
fn a_model_of_characters_is_read() {
    let Some(folder) = shared_models("babyllama-tok105") else { return };
    let checkpoint = Checkpoint::open(&folder.join("model5000.bin")).unwrap();
    let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer_json().unwrap()).unwrap();
    let story = "Once upon a time, there was a little girl named Lily.";
    let tokens = tokenizer.encode(story, true).unwrap();
    // The beginning, a space, and the letters.
    assert_eq!(tokens.len(), story.len() + 2);
    assert_eq!(tokenizer.decode(&tokens, true).unwrap(), story);
    // Where the model has read enough, it knows most letters.
    let logits = logits(&checkpoint, &tokens);
    let rows = logits.chunks_exact(checkpoint.config().vocab_size);
    let hits = rows.zip(&tokens[1..]).filter(|(row, next)| {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(id, _)| id as u32);
        best == Some(**next)
    });
    let hits = hits.count();
    assert!(hits > tokens.len() / 2, "{hits} of {}", tokens.len());
}
