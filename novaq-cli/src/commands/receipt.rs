//! `novaq receipt`: fetches the receipt of a job from its agent.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use candid::Principal;
use clap::Args as ClapArgs;
use shared_types::agent::JobId;

use crate::network::{self, AgentCanister, EndpointArgs};
use crate::receipt::ReceiptFile;
use crate::{output, say};

/// Fetch the receipt of a job that has ended, check that the agent certifies it, and write it to a file.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The agent's canister.
    #[arg(value_name = "AGENT")]
    agent: Principal,

    /// The job's number.
    #[arg(value_name = "JOB")]
    job: JobId,

    /// Where to write it, instead of `receipt-NUMBER.json`.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Runs the command.
///
/// # Errors
/// If the agent cannot be reached, has no such receipt, or does not certify it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the asynchronous runtime cannot start")?;
    let file = runtime.block_on(async {
        let agent = AgentCanister::connect(&args.endpoint, args.agent).await?;
        agent.receipt_file(args.job).await
    });
    let file = file.map_err(network::with_hint)?;
    file.check().context("the agent's answer contradicts itself")?;
    let path = args.output.clone();
    let path = path.unwrap_or_else(|| PathBuf::from(format!("receipt-{}.json", file.receipt.sequence)));
    write(&file, &path)?;
    say!("Receipt: {} of agent {}, job {}", file.receipt.sequence, file.receipt.agent, file.receipt.job_id);
    say!("Hash: {}", file.hash);
    say!("Certified: {}", network::signer(file.proof.as_ref()));
    say!("Tokens: {}", output::count(file.receipt.tokens.into()));
    say!("File: {}", path.display());
    say!("Next: `novaq replay {} --model <DIR>`", path.display());
    Ok(())
}

/// Writes the file in one go.
fn write(file: &ReceiptFile, path: &Path) -> anyhow::Result<()> {
    let failed = || format!("`{}` cannot be written", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
    let mut json = serde_json::to_vec_pretty(file)?;
    json.push(b'\n');
    temporary.write_all(&json).with_context(failed)?;
    temporary.persist(path).with_context(failed)?;
    Ok(())
}
