//! `novaq keys`: the keys whose signatures a repository takes for an uploader's.

use std::path::PathBuf;

use anyhow::Context;
use candid::Principal;
use clap::{Args as ClapArgs, Subcommand};
use ed25519_dalek::Signer;
use serde_bytes::ByteBuf;
use shared_types::model::{RegisterKeyArgs, key_possession_message};

use crate::network::{self, ModelCanister, NetworkArgs, read_signing_key};
use crate::say;

/// List, register and revoke the ed25519 keys that sign an uploader's models. The key of an identity needs no registration.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the keys of an uploader.
    List {
        /// Whose keys; by default those of the identity.
        #[arg(value_name = "PRINCIPAL")]
        uploader: Option<Principal>,

        #[command(flatten)]
        network: NetworkArgs,
    },
    /// Register a key for the identity.
    Register {
        /// PEM file of the ed25519 key.
        #[arg(value_name = "FILE")]
        key: PathBuf,

        #[command(flatten)]
        network: NetworkArgs,
    },
    /// Take a key off; models that it signed stay.
    Revoke {
        /// The public key, in hexadecimal.
        #[arg(value_name = "KEY", value_parser = public_key)]
        key: [u8; 32],

        #[command(flatten)]
        network: NetworkArgs,
    },
}

fn public_key(text: &str) -> Result<[u8; 32], String> {
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key).map_err(|_| "a key is 64 hexadecimal digits".to_owned())?;
    Ok(key)
}

/// Runs the command.
///
/// # Errors
/// If the repository cannot be reached or refuses the call, or the key can't be read.
pub fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the asynchronous runtime cannot start")?;
    runtime.block_on(execute(args.command)).map_err(network::with_hint)
}

async fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { uploader, network } => {
            let canister = ModelCanister::connect(&network).await?;
            let uploader = uploader.map_or_else(|| canister.caller(), Ok)?;
            let keys = canister.list_keys(uploader).await?;
            if keys.is_empty() {
                say!("No keys are registered for {uploader}");
            }
            for key in keys {
                say!("{}", hex::encode(key.public_key));
            }
        }
        Command::Register { key, network } => {
            let key = read_signing_key(&key)?;
            let canister = ModelCanister::connect(&network).await?;
            let message = key_possession_message(canister.id(), canister.caller()?);
            let public_key = key.verifying_key().to_bytes();
            let possession = key.sign(&message).to_bytes();
            let args = RegisterKeyArgs {
                public_key: ByteBuf::from(public_key),
                possession: ByteBuf::from(possession),
            };
            canister.register_key(args).await?;
            say!("Registered: {}", hex::encode(public_key));
        }
        Command::Revoke { key, network } => {
            ModelCanister::connect(&network).await?.revoke_key(key).await?;
            say!("Revoked: {}", hex::encode(key));
        }
    }
    Ok(())
}
