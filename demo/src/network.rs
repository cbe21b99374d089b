//! The local network as a child process, and an identity to call it with.

use anyhow::{Context, bail};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ic_agent::identity::BasicIdentity;
use shared_types::Digest;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A program built beside this one.
pub fn program(name: &str) -> PathBuf {
    let folder = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    folder.unwrap_or_default().join(name).with_extension(std::env::consts::EXE_EXTENSION)
}

/// The canister `name`'s Wasm, as `cargo xtask build` leaves it.
pub fn wasm(name: &str) -> anyhow::Result<Vec<u8>> {
    let program = program(name);
    let target = program.parent().and_then(Path::parent).unwrap_or(Path::new("target"));
    let path = target.join("wasm32-unknown-unknown/canister").join(format!("{name}.wasm"));
    std::fs::read(&path).with_context(|| format!("no Wasm at `{}`: run `cargo xtask build`", path.display()))
}

/// A local network that ends when this is dropped.
pub struct LocalNetwork {
    process: Child,
    /// Where its HTTP interface is.
    pub url: String,
    /// Its root key, hexadecimal DER.
    pub root_key: String,
    /// Canister id to send the creation of canisters to.
    pub effective_canister_id: candid::Principal,
}

impl LocalNetwork {
    /// Starts a network on a free port.
    pub fn start() -> anyhow::Result<Self> {
        let mut process = Command::new(program("local-net"))
            .args(["serve", "--port", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .context("`local-net` can't be started")?;
        let output = process.stdout.take().context("`local-net` has no output")?;
        let (mut url, mut root_key, mut effective) = (None, None, None);
        for line in BufReader::new(output).lines() {
            let line = line.context("`local-net` can't be read")?;
            match line.split_once(": ") {
                Some(("url", value)) => url = Some(value.to_string()),
                Some(("root key", value)) => root_key = Some(value.to_string()),
                Some(("default effective canister id", value)) => effective = Some(value.parse()?),
                _ => {}
            }
            if let (Some(url), Some(root_key), Some(id)) = (&url, &root_key, effective) {
                let (url, root_key) = (url.clone(), root_key.clone());
                return Ok(Self { process, url, root_key, effective_canister_id: id });
            }
        }
        bail!("`local-net` ended before it was ready");
    }
}

impl Drop for LocalNetwork {
    fn drop(&mut self) {
        // It may have ended by the same Ctrl-C already; then there is nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The identity of a name on local networks, known to everybody: what the stand-in for Internet Identity makes of the name
/// (`frontend/stand-in/local-identity.ts`).
pub fn local_identity(name: &str) -> BasicIdentity {
    let seed = Digest::of(format!("ohms local identity: {name}").as_bytes());
    BasicIdentity::from_raw_key(seed.as_bytes())
}

/// Writes a new identity to `folder` and returns its path.
pub fn write_identity(folder: &Path) -> anyhow::Result<PathBuf> {
    let key = SigningKey::from_bytes(&rand::random());
    let path = folder.join("identity.pem");
    key.write_pkcs8_pem_file(&path, LineEnding::LF)
        .map_err(|e| anyhow::anyhow!("`{}`: {e}", path.display()))?;
    Ok(path)
}
