//! `novaq inspect`: what an artifact is, from its manifest.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use novaq_engine::artifact::{Codec, Manifest, TensorEntry};
use novaq_engine::model::{BertConfig, Config, Pooling, RopeScaling};
use serde::Serialize;

use crate::artifact_dir::ArtifactDir;
use crate::{output, say};

/// Show what an artifact is: model, size, bits per weight, quality, memory.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The artifact's folder.
    #[arg(value_name = "DIR")]
    artifact: PathBuf,

    /// List every tensor.
    #[arg(long)]
    tensors: bool,

    /// Print the manifest, the model's id and the sizes as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Inspection<'a> {
    model_id: String,
    bytes: u64,
    shard_bytes: u64,
    manifest_bytes: u64,
    manifest: &'a Manifest,
}

/// Runs the command.
///
/// # Errors
/// If the folder holds no valid manifest.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let artifact = ArtifactDir::open(&args.artifact)?;
    let manifest = artifact.manifest();
    if args.json {
        return output::json(&Inspection {
            model_id: hex::encode(artifact.model_id()),
            bytes: artifact.bytes(),
            shard_bytes: manifest.shard_bytes(),
            manifest_bytes: artifact.manifest_bytes().len() as u64,
            manifest,
        });
    }
    print_summary(&artifact)?;
    if args.tensors {
        say!("");
        output::table(["tensor", "shape", "codec", "shard", "bytes"], manifest.tensors.iter().map(row));
    }
    Ok(())
}

fn row(entry: &TensorEntry) -> [String; 5] {
    let shape: Vec<String> = entry.shape.iter().map(ToString::to_string).collect();
    [
        entry.name.clone(),
        shape.join(" × "),
        codec_name(&entry.codec),
        entry.section.shard.to_string(),
        output::count(entry.section.length),
    ]
}

/// A codec as it is printed.
fn codec_name(codec: &Codec) -> String {
    match codec {
        Codec::F32 => "f32".to_owned(),
        Codec::F16 => "f16".to_owned(),
        Codec::Int8 => "int8".to_owned(),
        Codec::Int4 => "int4".to_owned(),
        Codec::Fp8 => "fp8".to_owned(),
        Codec::Aq { codebooks, row_means } => {
            format!("aq {codebooks}{}", if *row_means { " + row means" } else { "" })
        }
        Codec::LowRank { rank, first, second } => format!("rank {rank}, aq {first} and {second}"),
    }
}

fn print_summary(artifact: &ArtifactDir) -> anyhow::Result<()> {
    let manifest = artifact.manifest();
    let compression = &manifest.compression;
    say!("Name: {} {}", manifest.name, manifest.version);
    say!("Model id: {}", hex::encode(artifact.model_id()));
    say!("License: {}", manifest.license);
    let revision = manifest.origin.revision.as_ref().map(|revision| format!(" at {revision}"));
    say!("Origin: {}{}", manifest.origin.repository, revision.unwrap_or_default());
    match &manifest.encoder {
        Some(config) => print_encoder(&manifest.architecture, config),
        None => print_decoder(&manifest.architecture, manifest.decoder()?),
    }
    say!("Parameters: {}", output::count(compression.parameters));
    say!(
        "Size: {} in {}, {:.1} times smaller than FP32, {:.1} than FP16",
        output::bytes(artifact.bytes()),
        output::counted(manifest.shards.len() as u64, "shard"),
        compression.ratio_fp32,
        compression.ratio_fp16
    );
    say!(
        "Bits per weight: {:.2} in the layers ({:.2} codes), {:.2} in embedding and head, {:.2} in all",
        compression.bits_per_weight_body,
        compression.bits_per_weight_codes,
        compression.bits_per_weight_embedding,
        compression.bits_per_weight_file
    );
    say!("Calibration: {}, seed {}", compression.calibration, compression.seed);
    match &manifest.verification {
        Some(verification) => say!(
            "Quality: KL {:.4} nats per token, perplexity {:.2} (original {:.2}), same first choice {:.1} %, on {}: {}",
            verification.kl,
            verification.perplexity,
            verification.perplexity_original,
            verification.top1_agreement * 100.0,
            output::counted(verification.tokens, "token"),
            verification.text
        ),
        None => match &manifest.similarity {
            Some(similarity) => say!(
                "Quality: cosine to the original's embeddings {:.4} on average, {:.4} at least, on {}: {}",
                similarity.mean_cosine,
                similarity.min_cosine,
                output::counted(similarity.texts, "text"),
                similarity.text
            ),
            None => say!("Quality: not measured (`novaq eval` measures it)"),
        },
    }
    let weights = output::bytes(manifest.estimates.heap_bytes);
    match manifest.estimates.cache_bytes_per_token {
        0 => say!("Memory: {weights} of weights"),
        cache => say!("Memory: {weights} of weights, {} of cache per token", output::bytes(cache)),
    }
    say!(
        "Instructions: {} per token in a canister, estimated",
        output::count(manifest.estimates.instructions_per_token)
    );
    if let Some(signature) = manifest.signature {
        say!("Signed by: {}", hex::encode(signature.public_key));
    }
    if !manifest.tags.is_empty() {
        say!("Tags: {}", manifest.tags.join(", "));
    }
    Ok(())
}

fn print_decoder(architecture: &str, config: &Config) {
    say!(
        "Architecture: {architecture}, {} layers, hidden {}, feed-forward {}, {} heads of {} ({} for keys and values)",
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.head_dim,
        config.num_key_value_heads
    );
    let scaling = match config.rope_scaling {
        RopeScaling::Default => String::new(),
        RopeScaling::Linear { factor } => format!(", RoPE scaled linearly by {factor}"),
        RopeScaling::Llama3 { factor, .. } => format!(", RoPE scaled as in Llama 3 by {factor}"),
    };
    let layers = config.num_hidden_layers;
    let sliding = (0..layers).filter(|&layer| config.window(layer).is_some()).count();
    let window = match config.variant.sliding_window {
        Some(window) if sliding == layers => format!(", attention over the last {window}"),
        Some(window) => format!(", attention over the last {window} in {sliding} of {layers} layers"),
        None => String::new(),
    };
    say!("Context: {} tokens{window}{scaling}", output::count(config.max_position_embeddings as u64));
    let head = if config.tie_word_embeddings { "tied head" } else { "separate head" };
    say!("Vocabulary: {}, {head}", output::count(config.vocab_size as u64));
}

fn print_encoder(architecture: &str, config: &BertConfig) {
    say!(
        "Architecture: {architecture} (encoder), {} layers, hidden {}, feed-forward {}, {} heads of {}",
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.head_dim()
    );
    let pooling = match config.pooling {
        Pooling::Mean => "mean of all tokens",
        Pooling::Cls => "the first token",
        Pooling::Max => "largest of all tokens",
    };
    let length = if config.normalize { ", of length one" } else { "" };
    say!("Embeddings: {} dimensions, {pooling}{length}", config.hidden_size);
    say!("Texts: up to {} tokens", output::count(config.max_seq_length as u64));
    say!("Vocabulary: {}", output::count(config.vocab_size as u64));
}
