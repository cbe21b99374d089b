//! `novaq audit`: everything that changed in a repository, and the proof that nothing was changed afterwards.

use anyhow::{Context, ensure};
use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;
use shared_types::model::{AuditEntry, AuditHead};

use crate::network::{self, ModelCanister, NetworkArgs};
use crate::{output, say};

/// Show and verify the audit log of a repository.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compute the chain of hashes again, and check that the canister certifies its head.
    Verify(Common),
    /// Print the entries, verified.
    List(Common),
}

#[derive(Debug, ClapArgs)]
struct Common {
    #[command(flatten)]
    network: NetworkArgs,

    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Verified {
    entries: u64,
    head: String,
}

#[derive(Serialize)]
struct Row {
    index: u64,
    time_ns: u64,
    actor: String,
    event: String,
    hash: String,
}

impl From<&AuditEntry> for Row {
    fn from(entry: &AuditEntry) -> Self {
        Self {
            index: entry.index,
            time_ns: entry.time_ns,
            actor: entry.actor.to_text(),
            event: entry.event.canonical().trim_end().replace('\n', " "),
            hash: entry.hash.to_string(),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the repository cannot be reached, or the log is not what it claims to be: names the first entry that is not.
pub fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the asynchronous runtime cannot start")?;
    runtime.block_on(execute(args.command)).map_err(network::with_hint)
}

async fn execute(command: Command) -> anyhow::Result<()> {
    let (Command::Verify(common) | Command::List(common)) = &command;
    let (entries, head) = ModelCanister::connect(&common.network).await?.audit_log().await?;
    verify(&entries, head)?;
    if let Command::List(common) = &command {
        let rows = entries.iter().map(Row::from);
        if common.json {
            return output::json(&rows.collect::<Vec<_>>());
        }
        let rows = rows.map(|row| [row.index.to_string(), row.time_ns.to_string(), row.actor, row.event]);
        output::table(["entry", "time (ns)", "actor", "event"], rows);
        return Ok(());
    }
    if common.json {
        return output::json(&Verified { entries: head.entries, head: head.hash.to_string() });
    }
    say!("Entries: {}", output::count(head.entries));
    say!("Head: {}", head.hash);
    say!("Verified: every hash follows from the one before, and the canister certifies the last");
    Ok(())
}

/// Checks that `entries` are a whole log with this head.
///
/// # Errors
/// Names the first entry that is not what it claims to be.
pub fn verify(entries: &[AuditEntry], head: AuditHead) -> anyhow::Result<()> {
    let mut last = None;
    for entry in entries {
        ensure!(entry.follows(last), "entry {} is not what its hash says", entry.index);
        last = Some(entry);
    }
    let count = entries.len() as u64;
    ensure!(count == head.entries, "the log has {count} entries, its head says {}", head.entries);
    let hash = last.map_or(shared_types::Digest::ZERO, |entry| entry.hash);
    ensure!(hash == head.hash, "the last entry has the hash {hash}, the head says {}", head.hash);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candid::Principal;
    use shared_types::Digest;
    use shared_types::model::AuditEvent;

    #[test]
    fn a_log_that_was_changed_is_found() {
        let mut entries: Vec<AuditEntry> = Vec::new();
        for index in 0..4 {
            let event = AuditEvent::ShardStored { model_id: Digest::of(b"model"), index };
            let entry = AuditEntry::following(entries.last(), 7, Principal::anonymous(), event);
            entries.push(entry);
        }
        let head = AuditHead { entries: 4, hash: entries[3].hash };
        verify(&entries, head).unwrap();
        let shorter = verify(&entries[..3], head).unwrap_err().to_string();
        assert_eq!(shorter, "the log has 3 entries, its head says 4");
        entries[1].time_ns += 1;
        assert_eq!(verify(&entries, head).unwrap_err().to_string(), "entry 1 is not what its hash says");
    }
}
