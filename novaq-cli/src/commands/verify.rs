//! `novaq verify`: whether every byte of an artifact is what its manifest says.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args as ClapArgs;
use novaq_engine::artifact::Loader;
use novaq_engine::chat::{ChatError, ChatTemplate};
use serde::Serialize;

use crate::artifact_dir::ArtifactDir;
use crate::{output, say};

/// Check an artifact: manifest, hashes and headers of all shards, and that every tensor and the tokenizer decode.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The artifact's folder.
    #[arg(value_name = "DIR")]
    artifact: PathBuf,

    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Verified {
    model_id: String,
    shards: usize,
    bytes: u64,
    tensors: usize,
    /// Why the chat template is of no use; `None` if it is, or there is none.
    chat_template_error: Option<String>,
    vocab_size: usize,
    /// The key that signed the manifest, in hexadecimal.
    signed_by: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Names what is missing or damaged.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let artifact = ArtifactDir::open(&args.artifact)?;
    let manifest = artifact.manifest();
    let bar = output::progress_bytes(manifest.shard_bytes(), "Hashing");
    artifact.verify_shards(|bytes| bar.inc(bytes))?;
    bar.finish_and_clear();

    if let Some(signature) = manifest.signature {
        anyhow::ensure!(signature.verifies(&artifact.model_id()), "the signature is not one of this model");
    }
    let bar = output::progress(manifest.tensors.len() as u64, "Decoding", "tensors");
    let mut loader = Loader::new(Arc::clone(manifest));
    while loader.step(&artifact).map_err(|error| artifact.load_error(error))?.is_some() {
        bar.inc(1);
    }
    let loaded = if manifest.encoder.is_some() {
        loader.finish_encoder(&artifact).map(|loaded| (loaded.tokenizer, None))
    } else {
        loader.finish(&artifact).map(|loaded| {
            let template = ChatTemplate::of(&loaded).err().filter(|error| *error != ChatError::NoTemplate);
            (loaded.tokenizer, template)
        })
    };
    let (tokenizer, template_error) = loaded.map_err(|error| artifact.load_error(error))?;
    bar.finish_and_clear();

    let verified = Verified {
        model_id: hex::encode(artifact.model_id()),
        shards: manifest.shards.len(),
        bytes: artifact.bytes(),
        tensors: manifest.tensors.len(),
        chat_template_error: template_error.map(|error| error.to_string()),
        vocab_size: tokenizer.vocab_size(),
        signed_by: manifest.signature.map(|signature| hex::encode(signature.public_key)),
    };
    if args.json {
        return output::json(&verified);
    }
    say!("Model id: {}", verified.model_id);
    say!(
        "Shards: {} ({}), hashes and headers as in the manifest",
        verified.shards,
        output::bytes(manifest.shard_bytes())
    );
    say!("Tensors: {} decoded, a complete {} model", verified.tensors, manifest.architecture);
    say!("Tokenizer: {} tokens", output::count(verified.vocab_size as u64));
    match (&verified.chat_template_error, &manifest.chat_template) {
        (Some(error), _) => say!("Chat template: of no use ({error})"),
        (None, Some(_)) => say!("Chat template: compiles"),
        (None, None) => {}
    }
    if let Some(key) = &verified.signed_by {
        say!("Signed by: {key}");
    }
    say!("Verified: `{}`", artifact.path().display());
    Ok(())
}
