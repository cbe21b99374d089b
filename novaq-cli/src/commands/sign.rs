//! `novaq sign`: puts a signature into an artifact's manifest.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use ed25519_dalek::SigningKey;
use novaq_engine::artifact::{Manifest, Signature};

use crate::artifact_dir::{ArtifactDir, MANIFEST_FILE};
use crate::compress::write_whole;
use crate::network::read_signing_key;
use crate::output::HintExt;
use crate::say;

/// Sign an artifact with an ed25519 key: its manifest says who vouches for it. The model's id stays.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The artifact's folder.
    #[arg(value_name = "DIR")]
    artifact: PathBuf,

    /// PEM file of the ed25519 key: that of the identity that will upload, or one that it has registered (`novaq keys
    /// register`).
    #[arg(long, env = "NOVAQ_IDENTITY", value_name = "FILE")]
    identity: PathBuf,

    /// Replace the signature of another key.
    #[arg(long)]
    replace: bool,
}

/// Runs the command.
///
/// # Errors
/// If the key or the artifact can't be read, or another key has signed it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let key = read_signing_key(&args.identity)?;
    let signature = sign(&args.artifact, &key, args.replace)?;
    say!("Signed: `{}`", args.artifact.display());
    say!("Key: {}", hex::encode(signature.public_key));
    Ok(())
}

/// Signs the artifact in the folder `path`.
///
/// # Errors
/// If the artifact can't be read or written, or another key has signed it and that is not to be replaced.
pub fn sign(path: &Path, key: &SigningKey, replace: bool) -> anyhow::Result<Signature> {
    let artifact = ArtifactDir::open(path)?;
    let signature = Signature::new(key, &artifact.model_id());
    if let Some(other) = artifact.manifest().signature
        && other.public_key != signature.public_key
        && !replace
    {
        let other = hex::encode(other.public_key);
        return Err(anyhow::anyhow!("`{}` is signed by the key {other}", path.display()))
            .hint(|| "`--replace` signs it with this key instead".to_owned());
    }
    write_whole(&path.join(MANIFEST_FILE), &signed(artifact.manifest(), signature)?)?;
    Ok(signature)
}

/// The bytes of the manifest with a signature.
///
/// # Errors
/// If the manifest has no canonical form.
pub fn signed(manifest: &Manifest, signature: Signature) -> anyhow::Result<Vec<u8>> {
    Ok(Manifest { signature: Some(signature), ..manifest.clone() }.to_bytes()?)
}
