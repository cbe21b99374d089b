//! `novaq models`: the catalogue of a model repository, and the life of its models.

use anyhow::Context;
use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;
use shared_types::ModelId;
use shared_types::model::ModelRecord;

use super::upload::status_name;
use crate::network::{self, ModelCanister, NetworkArgs};
use crate::output::{self, HintExt};
use crate::say;

/// List, show, activate and deprecate the models of a repository.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the models that the identity may see.
    List(Common),
    /// Show one model with its manifest.
    Show(One),
    /// Make an uploaded model available to agents; it cannot be changed afterwards.
    Activate(One),
    /// Withdraw a model: agents can no longer load it.
    Deprecate {
        #[command(flatten)]
        one: One,

        /// Why; shown in the catalogue.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

#[derive(Debug, ClapArgs)]
struct Common {
    #[command(flatten)]
    network: NetworkArgs,

    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
struct One {
    /// The model's id, or its beginning.
    #[arg(value_name = "MODEL")]
    model: String,

    #[command(flatten)]
    common: Common,
}

/// A record as it is printed in JSON.
#[derive(Debug, Serialize)]
struct Row {
    model_id: String,
    name: String,
    version: String,
    license: String,
    status: &'static str,
    uploader: String,
    bytes: u64,
    shards: u32,
    missing: u32,
    validated: bool,
    created_at_ns: u64,
    activated_at_ns: Option<u64>,
    deprecated_at_ns: Option<u64>,
    deprecation_reason: Option<String>,
}

impl From<&ModelRecord> for Row {
    fn from(record: &ModelRecord) -> Self {
        Self {
            model_id: record.model_id.to_string(),
            name: record.name.clone(),
            version: record.version.clone(),
            license: record.license.clone(),
            status: status_name(record.status),
            uploader: record.uploader.to_text(),
            bytes: record.bytes,
            shards: record.shards,
            missing: record.missing,
            validated: record.validated_at_ns.is_some(),
            created_at_ns: record.created_at_ns,
            activated_at_ns: record.activated_at_ns,
            deprecated_at_ns: record.deprecation.as_ref().map(|deprecation| deprecation.at_ns),
            deprecation_reason: record.deprecation.as_ref().map(|deprecation| deprecation.reason.clone()),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the repository cannot be reached or refuses the call.
pub fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the asynchronous runtime cannot start")?;
    let result = runtime.block_on(async {
        match args.command {
            Command::List(common) => list(common).await,
            Command::Show(one) => show(one).await,
            Command::Activate(one) => {
                let (canister, model_id) = find(&one).await?;
                print_record(&canister.activate(model_id).await?, one.common.json)
            }
            Command::Deprecate { one, reason } => {
                let (canister, model_id) = find(&one).await?;
                let record = canister.deprecate(model_id, reason).await?;
                print_record(&record, one.common.json)
            }
        }
    });
    result.map_err(network::with_hint)
}

async fn list(common: Common) -> anyhow::Result<()> {
    let models = ModelCanister::connect(&common.network).await?.list_models().await?;
    if common.json {
        return output::json(&models.iter().map(Row::from).collect::<Vec<_>>());
    }
    if models.is_empty() {
        say!("The catalogue has no models that this identity may see");
        return Ok(());
    }
    let rows = models.iter().map(|record| {
        [
            record.model_id.to_string()[..12].to_owned(),
            record.name.clone(),
            record.version.clone(),
            status_name(record.status).to_owned(),
            output::bytes(record.bytes),
            record.shards.to_string(),
        ]
    });
    output::table(["model", "name", "version", "status", "size", "shards"], rows);
    Ok(())
}

async fn show(one: One) -> anyhow::Result<()> {
    let (canister, model_id) = find(&one).await?;
    let record = canister.get_model(model_id).await?;
    if one.common.json {
        let manifest: serde_json::Value = serde_json::from_slice(&canister.get_manifest(model_id).await?)
            .context("the manifest is not JSON")?;
        let mut value = serde_json::to_value(Row::from(&record))?;
        value["manifest"] = manifest;
        return output::json(&value);
    }
    print_record(&record, false)
}

/// The canister, and the model whose id begins as `one` says.
async fn find(one: &One) -> anyhow::Result<(ModelCanister, ModelId)> {
    let canister = ModelCanister::connect(&one.common.network).await?;
    if let Ok(model_id) = one.model.parse() {
        return Ok((canister, model_id));
    }
    let beginning = one.model.to_lowercase();
    let models = canister.list_models().await?;
    let mut found =
        models.iter().map(|record| record.model_id).filter(|id| id.to_string().starts_with(&beginning));
    let hint = || "`novaq models list` shows the models".to_owned();
    match (found.next(), found.next()) {
        (Some(model_id), None) => Ok((canister, model_id)),
        (None, _) => Err(anyhow::anyhow!("no model has an id that begins with `{}`", one.model)).hint(hint),
        (Some(_), Some(_)) => {
            Err(anyhow::anyhow!("more than one model has an id that begins with `{}`", one.model)).hint(hint)
        }
    }
}

fn print_record(record: &ModelRecord, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(&Row::from(record));
    }
    say!("Model id: {}", record.model_id);
    say!("Name: {} {}", record.name, record.version);
    say!("License: {}", record.license);
    say!("Status: {}", status_name(record.status));
    if let Some(deprecation) = &record.deprecation {
        say!("Reason: {}", deprecation.reason);
    }
    say!("Size: {} in {}", output::bytes(record.bytes), output::counted(record.shards.into(), "shard"));
    if record.missing > 0 {
        say!("Missing: {}", output::counted(record.missing.into(), "shard"));
    }
    say!("Uploader: {}", record.uploader);
    Ok(())
}
