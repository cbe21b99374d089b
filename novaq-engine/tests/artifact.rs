//! Artifacts: what is written is read back, and bytes that are not what they should be are refused by name.

mod common;

use common::{artifact, config};
use novaq_engine::artifact::{
    ArtifactError, Codec, Loader, MAX_SHARD_BYTES, Manifest, ManifestDraft, ShardSource, Shards, Signature,
    VectorPrecision, Writer, decode_row, verify_shard,
};
use novaq_engine::codec::{
    AqMatrix, Codebooks, DenseMatrix, Fp8Matrix, Int4Matrix, Int8Matrix, LowRankMatrix, Matrix,
};
use novaq_engine::kernel::Fold;
use novaq_engine::model::{Config, LayerType, Variant};
use novaq_engine::synth::{Format, Synthetic};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

fn json_of(manifest: &Manifest) -> Value {
    serde_json::from_slice(&manifest.to_bytes().unwrap()).unwrap()
}

/// Parses `value` after putting `new` at `pointer`.
fn parse_with(manifest: &Manifest, pointer: &str, new: Value) -> Result<Manifest, ArtifactError> {
    let mut value = json_of(manifest);
    *value.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = new;
    Manifest::parse(&serde_json_canonicalizer::to_vec(&value).unwrap())
}

#[test]
fn manifest_round_trips_and_its_id_is_its_hash() {
    let (manifest, shards) = artifact(config(), 1);
    let bytes = manifest.to_bytes().unwrap();
    assert_eq!(Manifest::parse(&bytes).unwrap(), manifest);
    assert_eq!(
        manifest.compression.bytes,
        shards.iter().map(Vec::len).sum::<usize>() as u64 + bytes.len() as u64
    );
    assert_ne!(manifest.id().unwrap(), artifact(config(), 2).0.id().unwrap());
    let mut spaced = bytes.clone();
    spaced.insert(1, b' ');
    assert!(matches!(Manifest::parse(&spaced), Err(ArtifactError::NotCanonical)));
}

#[test]
fn a_signature_changes_neither_id_nor_sizes() {
    let (manifest, _) = artifact(config(), 1);
    let signature = Some(Signature { public_key: [3; 32], signature: [5; 64] });
    let signed = Manifest { signature, ..manifest.clone() };
    let bytes = signed.to_bytes().unwrap();
    assert_eq!(Manifest::parse(&bytes).unwrap(), signed);
    assert_eq!((signed.id().unwrap(), &signed.compression), (manifest.id().unwrap(), &manifest.compression));
    let short = json!({"public_key": "03", "signature": "05"});
    let mut value = json_of(&manifest);
    value["signature"] = short;
    let error = Manifest::parse(&serde_json_canonicalizer::to_vec(&value).unwrap()).unwrap_err();
    assert!(error.to_string().contains("signature.public_key"), "{error}");
}

#[test]
fn tensors_that_are_not_of_the_architecture_are_found() {
    for seed in [1, 3] {
        let (manifest, _) = artifact(config(), seed);
        manifest.check_tensors().unwrap();
        let refused = |change: fn(&mut Manifest)| {
            let mut changed = manifest.clone();
            change(&mut changed);
            changed.check_tensors().unwrap_err().to_string()
        };
        let missing = refused(|it| it.tensors.retain(|t| t.name != "model.layers.2.mlp.up_proj.weight"));
        assert_eq!(missing, "tensor `model.layers.2.mlp.up_proj.weight` is missing");
        let more = refused(|it| it.tensors[0].name = "extra".into());
        assert_eq!(more, "tensor `model.embed_tokens.weight` is missing");
        let shape = refused(|it| it.tensors[0].shape = vec![257, 73]);
        assert!(shape.contains("[257, 73], expected [257, 72]"), "{shape}");
        let left = refused(|it| it.config = Some(Config { num_hidden_layers: 2, ..config() }));
        assert!(left.ends_with("is not part of the architecture"), "{left}");
    }
}

/// Matrices of every codec whose rows fill no tile, and sections that begin anywhere in shards.
#[test]
fn a_row_decodes_alone_as_with_all_others() {
    let (rows, columns) = (300, 70);
    let weights: Vec<f32> = (0..rows * columns).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
    let set = |scale: f32| {
        let codewords: Vec<f32> = (0..2 * 16 * 8).map(|i| ((i * 29 % 67) as f32 - 33.0) * scale).collect();
        Arc::new(Codebooks::quantize(2, 8, &codewords).unwrap())
    };
    let coded = |rows: usize, columns: usize, set: &Arc<Codebooks>, means: bool| {
        let codes: Vec<u8> = (0..rows * columns.div_ceil(8) * 2).map(|i| (i * 7 % 16) as u8).collect();
        let scales: Vec<f32> = (0..rows).map(|r| 0.5 + r as f32 / 100.0).collect();
        let means = means.then(|| (0..rows).map(|r| r as f32 / 50.0 - 1.0).collect::<Vec<f32>>());
        AqMatrix::from_codes(rows, columns, Arc::clone(set), &codes, &scales, means.as_deref()).unwrap()
    };
    let (first, second) = (set(0.01), set(0.02));
    let low_rank = LowRankMatrix::new(coded(24, columns, &first, false), coded(rows, 24, &second, false));
    let matrices = [
        Matrix::Dense(DenseMatrix::new(rows, columns, weights.clone()).unwrap()),
        Matrix::Int8(Int8Matrix::quantize(rows, columns, &weights).unwrap()),
        Matrix::Int4(Int4Matrix::quantize(rows, columns, &weights).unwrap()),
        Matrix::Fp8(Fp8Matrix::quantize(rows, columns, &weights).unwrap()),
        Matrix::Aq(coded(rows, columns, &first, false)),
        Matrix::Aq(coded(rows, columns, &second, true)),
        Matrix::LowRank(low_rank.unwrap()),
    ];
    let mut shards: Vec<Vec<u8>> = Vec::new();
    let mut writer = Writer::new(&mut shards);
    // So that the tensors lie around the end of the first shard.
    writer.tokenizer(&vec![7; MAX_SHARD_BYTES - 100_000]).unwrap();
    for (i, matrix) in matrices.iter().enumerate() {
        writer.matrix(&format!("matrix.{i}"), matrix).unwrap();
    }
    writer.floats("half", vec![rows, columns], &weights, VectorPrecision::F16).unwrap();
    writer.vector("vector", &weights[..90], VectorPrecision::F32).unwrap();
    let template = artifact(config(), 1).0;
    let manifest = writer.finish(ManifestDraft {
        name: "rows".into(),
        version: "1.0.0".into(),
        license: "CC0-1.0".into(),
        origin: template.origin,
        architecture: config().into(),
        tokenizer_sha256: [0; 32],
        chat_template: None,
        seed: 0,
        calibration: "none".into(),
        verification: None,
        similarity: None,
        estimates: template.estimates,
        tags: Vec::new(),
    });
    let manifest = Arc::new(manifest.unwrap());
    assert!(shards.len() > 1);
    let source = Shards(shards);
    let mut loader = Loader::new(Arc::clone(&manifest));
    for (index, tensor) in manifest.tensors.iter().enumerate() {
        let whole = loader.decode(index, &source).unwrap();
        let columns = *tensor.shape.last().unwrap();
        for row in (0..whole.len() / columns).filter(|row| row % 41 == 0 || row % 128 == 127 || *row == 299) {
            let alone = decode_row(&manifest, index, row, &source).unwrap();
            assert_eq!(alone, whole[row * columns..][..columns], "row {row} of {}", tensor.name);
        }
        assert!(decode_row(&manifest, index, whole.len() / columns, &source).is_err());
    }
    assert!(decode_row(&manifest, manifest.tensors.len(), 0, &source).is_err());
}

#[test]
fn sections_span_shards() {
    let large = Config { vocab_size: 20_000, hidden_size: 256, ..config() };
    let (manifest, shards) = artifact(large, 3);
    assert!(shards.len() >= 3 && shards.iter().all(|s| s.len() <= MAX_SHARD_BYTES));
    for (i, shard) in shards.iter().enumerate() {
        verify_shard(&manifest, i as u32, shard).unwrap();
    }
    let loaded = Loader::load(Arc::new(manifest), &Shards(shards)).unwrap();
    assert_eq!(loaded.model.embed_tokens().rows(), 20_000);
}

/// A first section that ends just before, at and after the end of a shard.
#[test]
fn sections_begin_where_the_manifest_says() {
    let payload = MAX_SHARD_BYTES - 24;
    for length in (payload - 33..payload + 3).chain(2 * payload - 17..2 * payload + 2) {
        let synthetic = Synthetic {
            config: Config { num_hidden_layers: 1, ..config() },
            body: Format::Aq { codebooks: 2, dimension: 8, fold: Fold::ONE },
            embedding: Format::Int8,
            seed: 1,
            tokenizer: vec![7; length],
        };
        let mut shards = Vec::new();
        let manifest = synthetic.write(&mut shards).unwrap();
        assert_eq!(manifest.shards.len(), shards.len());
        for (i, shard) in shards.iter().enumerate() {
            verify_shard(&manifest, i as u32, shard).unwrap();
        }
        let source = Shards(shards);
        let mut last = vec![0; 5];
        let end = (length - 5) % payload;
        if end + 5 <= payload {
            source.read(((length - 5) / payload) as u32, (24 + end) as u64, &mut last).unwrap();
            assert_eq!(last, [7; 5], "{length}");
        }
        let mut loader = Loader::new(Arc::new(manifest.clone()));
        while loader.step(&source).unwrap().is_some() {}
        // Norms are around 1: a section that was read from elsewhere is not.
        let norm = manifest.tensors.iter().position(|t| t.name == "model.norm.weight").unwrap();
        let values = loader.decode(norm, &source).unwrap();
        assert!(values.iter().all(|v| (0.6..1.4).contains(v)), "{length}: {values:?}");
    }
}

#[test]
fn low_rank_tensors_are_checked() {
    let (manifest, _) = artifact(config(), 3);
    let at = manifest.tensors.iter().position(|t| matches!(t.codec, Codec::LowRank { .. })).unwrap();
    for (field, value, expected) in [
        ("rank", json!(21), "bytes don't hold shape"),
        ("rank", json!(0), "bytes don't hold shape"),
        ("rank", json!(9_007_199_254_740_991u64), "bytes don't hold shape"),
        ("first", json!("codebooks.99"), "codebook set `codebooks.99` is missing"),
        ("second", json!(""), "codebook set `` is missing"),
    ] {
        let error = parse_with(&manifest, &format!("/tensors/{at}/codec/{field}"), value).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn hostile_manifests_are_refused_by_field() {
    // A variant that can be damaged: layers of both types, scales and frequencies of their own.
    let variant =
        Variant { query_pre_attn_scalar: Some(20.0), rope_local_base_freq: Some(50.0), ..Variant::default() };
    let layer_types =
        vec![LayerType::SlidingAttention, LayerType::FullAttention, LayerType::SlidingAttention];
    let config = Config { variant: variant.with_windows(9, layer_types), ..config() };
    let (manifest, _) = artifact(config, 1);
    let huge = json!(9_007_199_254_740_991u64);
    for (pointer, value, expected) in [
        ("/format_version", json!(2), "format_version"),
        ("/name", json!(""), "name"),
        ("/name", json!("a\u{7}"), "name"),
        ("/version", json!("one"), "version"),
        ("/architecture", json!("gpt2"), "architecture"),
        ("/architecture", json!("llama"), "`llama` is not what `config` is: mistral"),
        ("/shards", json!([]), "shards"),
        ("/shards/0/bytes", json!(MAX_SHARD_BYTES + 1), "shards[0].bytes"),
        ("/shards/0/bytes", json!(24), "shards[0].bytes"),
        ("/shards/0/sha256", json!("00"), "sha256"),
        ("/tokenizer/section/length", huge.clone(), "tokenizer.section"),
        ("/tokenizer/section/shard", json!(7), "tokenizer.section"),
        ("/tensors/0/section/offset", huge.clone(), "tensors[0]"),
        ("/tensors/0/section/length", json!(3), "tensors[0]"),
        ("/tensors/0/shape", json!([huge, 72]), "tensors[0]"),
        ("/tensors/0/shape", json!([]), "tensors[0]"),
        ("/tensors/0/shape", json!([0, 72]), "tensors[0]"),
        ("/tensors/0/codec", json!({"kind": "int3"}), "int3"),
        ("/tensors/2/codec/codebooks", json!("none"), "codebook set `none`"),
        ("/tensors/1/name", json!("model.embed_tokens.weight"), "twice"),
        ("/codebooks/0/count", json!(9), "codebooks[0]"),
        ("/codebooks/0/dimension", json!(7), "codebooks[0]"),
        ("/compression/ratio_fp32", json!(100), "compression"),
        ("/config/hidden_size", json!(0), "hidden_size"),
        ("/config/num_key_value_heads", json!(4), "num_key_value_heads"),
        ("/config/head_dim", json!(15), "head_dim"),
        ("/config/rope_theta", json!(-1), "rope_theta"),
        ("/config/eos_token_ids", json!([257]), "257"),
        ("/config/variant", json!({"soft_cap": 30}), "soft_cap"),
        ("/config/variant", json!({"sliding_window": 0}), "sliding_window"),
        ("/config/variant/sliding_window", Value::Null, "sliding_window"),
        ("/config/variant/layer_types", json!(["full_attention"]), "layer_types"),
        ("/config/variant/layer_types", json!(vec!["full_attention"; 3]), "layer_types"),
        ("/config/variant/layer_types/0", json!("chunked_attention"), "layer_types"),
        ("/config/variant/query_pre_attn_scalar", json!(0), "query_pre_attn_scalar"),
        ("/config/variant/rope_local_base_freq", json!(1), "rope_local_base_freq"),
    ] {
        let error = parse_with(&manifest, pointer, value).expect_err(pointer).to_string();
        assert!(error.contains(expected), "{pointer}: `{error}` does not name `{expected}`");
    }
}

#[test]
fn a_fold_is_a_number_of_entries_that_kernels_average() {
    let (manifest, _) = artifact(config(), 1);
    for fold in [0, 3, 16] {
        let mut set = json_of(&manifest)["codebooks"][0].clone();
        set["fold"] = json!(fold);
        let error = parse_with(&manifest, "/codebooks/0", set).unwrap_err().to_string();
        assert!(error.contains("codebooks[0]") && error.contains("1, 2, 4 or 8"), "{error}");
    }
}

#[test]
fn models_that_lack_or_misshape_a_tensor_are_refused() {
    let (manifest, shards) = artifact(config(), 1);
    let load = |manifest| {
        Loader::load(Arc::new(manifest), &Shards(shards.clone())).map(|_| ()).unwrap_err().to_string()
    };
    let mut missing = manifest.clone();
    missing.tensors.retain(|t| t.name != "model.layers.1.mlp.up_proj.weight");
    assert_eq!(load(missing), "tensor `model.layers.1.mlp.up_proj.weight` is missing");
    let mut layers = manifest.clone();
    layers.config = Some(Config { num_hidden_layers: 1 << 24, ..config() });
    assert_eq!(load(layers), "tensor `model.layers.3.input_layernorm.weight` is missing");
    let mut shape = manifest;
    shape.config = Some(Config { intermediate_size: 160, ..config() });
    assert!(load(shape).contains("gate_proj.weight` is [168, 72], expected [160, 72]"));
}

#[test]
fn damaged_shards_are_refused() {
    let (manifest, shards) = artifact(config(), 1);
    let refused = |bytes: &[u8], index| verify_shard(&manifest, index, bytes).unwrap_err().to_string();
    assert!(refused(&shards[0][..100], 0).contains("100 bytes, the manifest says"));
    let mut flipped = shards[0].clone();
    flipped[5000] ^= 1;
    assert!(refused(&flipped, 0).contains("sha256 is"));
    assert!(refused(&shards[0], 1).contains("the manifest has 1 shards"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A manifest that anybody could have written, to shards that match it: an error or a model, never a panic.
    #[test]
    fn flipped_bits_never_panic(at in 0usize..1_000_000, bit in 0u8..8, cut in 0usize..1000, low_rank: bool) {
        let (manifest, mut shards) = artifact(config(), if low_rank { 3 } else { 1 });
        let at = 24 + at % (shards[0].len() - 24);
        shards[0][at] ^= 1 << bit;
        let _ = Loader::load(Arc::new(manifest.clone()), &Shards(shards.clone()));
        let left = shards[0].len() - cut;
        shards[0].truncate(left);
        let truncated = Loader::load(Arc::new(manifest.clone()), &Shards(shards));
        prop_assert!(cut < 16 || truncated.is_err());
        let mut bytes = manifest.to_bytes().unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let _ = Manifest::parse(&bytes);
        prop_assert!(Manifest::parse(&bytes[..at]).is_err());
    }
}
