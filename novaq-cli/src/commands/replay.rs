//! `novaq replay`: computes again what a receipt says.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use serde::Serialize;
use shared_types::receipt::Outcome;

use crate::artifact_dir::ArtifactDir;
use crate::network;
use crate::output::{self, HintExt};
use crate::receipt::{ReceiptFile, Replay};
use crate::say;

/// Compute again what a receipt says, and compare every token.
///
/// Works offline. Fails where the file was changed, where the receipt is of another model, and at the first token that
/// differs.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The file that `novaq receipt` wrote.
    #[arg(value_name = "RECEIPT")]
    receipt: PathBuf,

    /// The artifact's folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// Public key (DER, in hexadecimal) of the network that must have certified the receipt.
    #[arg(long, value_name = "HEX")]
    root_key: Option<String>,

    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Result {
    equal: bool,
    sequence: u64,
    agent: String,
    job: u64,
    certified: String,
    model_id: String,
    engine_version: &'static str,
    tokens: u32,
}

/// Runs the command.
///
/// # Errors
/// If the file was changed or is of another model, or anything that is computed again differs.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let file = ReceiptFile::read(&args.receipt)?;
    let name = args.receipt.display();
    file.check()
        .with_context(|| format!("`{name}` is not what the agent certified"))
        .hint(|| "`novaq receipt <AGENT> <JOB>` fetches it again".to_owned())?;
    if let Some(key) = &args.root_key {
        let key = hex::decode(key).context("`--root-key` is not hexadecimal")?;
        match &file.proof {
            Some(proof) if proof.root_key == key => {}
            Some(_) => bail!("`{name}` was certified by a network with another root key"),
            None => bail!("`{name}` holds no proof that it was certified"),
        }
    }
    let receipt = &file.receipt;
    let artifact = ArtifactDir::open(&args.model)?;
    let model_id = shared_types::ModelId::new(artifact.model_id());
    if model_id != receipt.model_id {
        Err(anyhow::anyhow!("`{}` is another model: {model_id}", args.model.display()))
            .hint(|| format!("the receipt's model is {}", receipt.model_id))?;
    }
    let spinner = output::spinner("Loading");
    let loaded = artifact.load()?;
    spinner.set_message("computing");
    let replay = file.replay(&loaded)?;
    spinner.finish_and_clear();
    let engine = novaq_engine::VERSION;
    let version = |_: &str| {
        if receipt.engine_version == engine {
            String::new()
        } else {
            format!("; the receipt's engine was {}, this one is {engine}", receipt.engine_version)
        }
    };
    match replay {
        Replay::Equal => {}
        Replay::Token { position, receipt: there, computed } => {
            let token =
                |token: Option<u32>| token.map_or_else(|| "no token".to_owned(), |id| format!("token {id}"));
            bail!(
                "position {position} differs: the receipt has {}, this machine computes {}{}",
                token(there),
                token(computed),
                version(engine)
            );
        }
        Replay::End { what } => bail!("all tokens are equal, but {what} differs{}", version(engine)),
    }
    if args.json {
        return output::json(&Result {
            equal: true,
            sequence: receipt.sequence,
            agent: receipt.agent.to_text(),
            job: receipt.job_id,
            certified: network::signer(file.proof.as_ref()),
            model_id: model_id.to_string(),
            engine_version: engine,
            tokens: receipt.tokens,
        });
    }
    say!("Receipt: {} of agent {}, job {}", receipt.sequence, receipt.agent, receipt.job_id);
    say!("Certified: {}", network::signer(file.proof.as_ref()));
    say!("Model id: {model_id}");
    if receipt.engine_version == engine {
        say!("Engine: {engine}");
    } else {
        say!("Engine: {engine}, the receipt's was {}", receipt.engine_version);
    }
    match &receipt.outcome {
        Outcome::Done { .. } => {}
        Outcome::Failed { reason } => say!("The job failed: {reason}"),
        Outcome::Cancelled => say!("The job was cancelled"),
    }
    say!("Prompt: {}, equal", output::counted(receipt.prompt_tokens.into(), "token"));
    say!("Generated: {}, equal", output::counted(receipt.tokens.into(), "token"));
    Ok(())
}
