//! `ohms-ui-publish`: a folder of files on the web, by two people.

use anyhow::Context;
use candid::Principal;
use clap::{Args, Parser, Subcommand};
use ic_agent::Agent;
use ic_agent::identity::{BasicIdentity, Secp256k1Identity};
use ohms_ui_publish::{Folder, commit, prepare};
use std::path::{Path, PathBuf};

/// Publish a folder of files with the ui canister. One principal prepares it, another one, who has built the same folder,
/// commits it.
#[derive(Parser)]
#[command(name = "ohms-ui-publish", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the hash of a folder as a site.
    Hash {
        /// The folder.
        folder: PathBuf,
    },
    /// Send the folder and propose it (role Prepare).
    Prepare {
        /// The folder.
        folder: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// Publish a batch, if it is this folder (role Commit).
    Commit {
        /// The folder.
        folder: PathBuf,
        /// The batch's number, as `prepare` printed it.
        batch: u64,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Args)]
struct Target {
    /// Where the network's interface is. The root key of another network than the Internet Computer is fetched from it.
    #[arg(long, value_name = "URL", default_value = "https://icp-api.io")]
    network: String,
    /// The ui canister.
    #[arg(long, value_name = "ID")]
    canister: Principal,
    /// Private key, PEM.
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
}

impl Target {
    async fn agent(&self) -> anyhow::Result<Agent> {
        let builder = Agent::builder().with_url(&self.network);
        let agent = with_identity(builder, &self.identity)?.build()?;
        if !self.network.starts_with("https://") {
            agent.fetch_root_key().await.context("the network does not answer")?;
        }
        Ok(agent)
    }
}

fn with_identity(
    builder: ic_agent::agent::AgentBuilder,
    path: &Path,
) -> anyhow::Result<ic_agent::agent::AgentBuilder> {
    if let Ok(identity) = BasicIdentity::from_pem_file(path) {
        return Ok(builder.with_identity(identity));
    }
    let identity = Secp256k1Identity::from_pem_file(path)
        .with_context(|| format!("`{}` is no private key in PEM", path.display()))?;
    Ok(builder.with_identity(identity))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Hash { folder } => println!("{}", Folder::read(&folder)?.hash()),
        Command::Prepare { folder, target } => {
            let site = Folder::read(&folder)?;
            let batch = prepare(&target.agent().await?, target.canister, &site).await?;
            println!("batch: {}", batch.batch_id);
            println!("hash: {}", batch.hash);
            println!("files: {}, {} bytes with their variants", batch.files, batch.bytes);
            println!(
                "next, as another principal: `ohms-ui-publish commit {} {} --network {} --canister {} --identity …`",
                folder.display(),
                batch.batch_id,
                target.network,
                target.canister
            );
        }
        Command::Commit { folder, batch, target } => {
            let hash = Folder::read(&folder)?.hash();
            let publication = commit(&target.agent().await?, target.canister, batch, hash).await?;
            println!("published: {}, number {}", publication.hash, publication.number);
        }
    }
    Ok(())
}
