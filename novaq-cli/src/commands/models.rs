//! `novaq models`: the catalogue of a model repository, and the life of its models.

use anyhow::Context;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use serde::Serialize;
use shared_types::ModelId;
use shared_types::lifecycle::ModelStatus;
use shared_types::model::{
    Capability, Check, CheckKind, ModelCard, ModelFilter, ModelRecord, Outcome, ProposalAction, Quality,
    Validation, ValidationReport,
};

use super::compress::bytes;
use super::governance::print_proposal;
use super::upload::status_name;
use crate::network::{self, ModelCanister, NetworkArgs, Repository};
use crate::output::{self, HintExt};
use crate::say;

/// List and show the models of a repository, as it certifies them; propose to activate and deprecate them.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the models that the identity may see.
    List(Listing),
    /// Show one model: its card, and with `--json` its manifest.
    Show(One),
    /// Show the greatest version of a name that is active.
    Latest {
        /// The name.
        #[arg(value_name = "NAME")]
        name: String,

        #[command(flatten)]
        common: Common,
    },
    /// Show what validation has found.
    Report(One),
    /// Have the repository validate a model again, from what it has stored.
    Revalidate(One),
    /// Drop an upload that is not active.
    Discard(One),
    /// Propose to make an uploaded model available to agents; it cannot be changed afterwards. Done at once where one approval is
    /// enough.
    Activate(One),
    /// Propose to withdraw a model: agents can no longer load it.
    Deprecate {
        #[command(flatten)]
        one: One,

        /// Why; shown in the catalogue.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Show how much the identity has stored, and may.
    Usage(Common),
}

#[derive(Debug, ClapArgs)]
struct Listing {
    /// Only models of this status.
    #[arg(long)]
    status: Option<StatusName>,

    /// Only models of this name.
    #[arg(long)]
    name: Option<String>,

    /// Only models with this tag.
    #[arg(long)]
    tag: Option<String>,

    /// Only models of this architecture, as `llama`.
    #[arg(long)]
    architecture: Option<String>,

    /// Only models that can do this.
    #[arg(long)]
    capability: Option<CapabilityName>,

    /// Only models of at least this size, as `1MB`.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    min_size: Option<u64>,

    /// Only models of at most this size.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_size: Option<u64>,

    #[command(flatten)]
    common: Common,
}

impl Listing {
    fn filter(&self) -> Option<ModelFilter> {
        let filter = ModelFilter {
            name: self.name.clone(),
            tag: self.tag.clone(),
            architecture: self.architecture.clone(),
            capability: self.capability.map(Capability::from),
            min_bytes: self.min_size,
            max_bytes: self.max_size,
        };
        (filter != ModelFilter::default()).then_some(filter)
    }
}

/// A status as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StatusName {
    /// Uploaded or being uploaded.
    Pending,
    /// Served to agents.
    Active,
    /// Withdrawn.
    Deprecated,
}

impl From<StatusName> for ModelStatus {
    fn from(name: StatusName) -> Self {
        match name {
            StatusName::Pending => Self::Pending,
            StatusName::Active => Self::Active,
            StatusName::Deprecated => Self::Deprecated,
        }
    }
}

/// A capability as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CapabilityName {
    /// Going on with a text.
    Generate,
    /// Answering conversations.
    Chat,
    /// Embedding texts.
    Embed,
}

impl From<CapabilityName> for Capability {
    fn from(name: CapabilityName) -> Self {
        match name {
            CapabilityName::Generate => Self::Generate,
            CapabilityName::Chat => Self::Chat,
            CapabilityName::Embed => Self::Embed,
        }
    }
}

/// A capability as it is printed.
fn capability_name(capability: Capability) -> &'static str {
    match capability {
        Capability::Generate => "generate",
        Capability::Chat => "chat",
        Capability::Embed => "embed",
    }
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
    validation: &'static str,
    created_at_ns: u64,
    activated_at_ns: Option<u64>,
    deprecated_at_ns: Option<u64>,
    deprecation_reason: Option<String>,
    card: Option<ModelCard>,
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
            validation: validation_name(record.validation),
            created_at_ns: record.created_at_ns,
            activated_at_ns: record.activated_at_ns,
            deprecated_at_ns: record.deprecation.as_ref().map(|deprecation| deprecation.at_ns),
            deprecation_reason: record.deprecation.as_ref().map(|deprecation| deprecation.reason.clone()),
            card: record.card.clone(),
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
            Command::List(listing) => list(listing).await,
            Command::Show(one) => show(one).await,
            Command::Latest { name, common } => {
                let canister = ModelCanister::connect(&common.network).await?;
                print_record(&canister.latest(&name).await?, common.json)
            }
            Command::Report(one) => {
                let (canister, model_id) = find(&one).await?;
                print_report(&canister.validation_report(model_id).await?, one.common.json)
            }
            Command::Revalidate(one) => {
                let (canister, model_id) = find(&one).await?;
                canister.revalidate(model_id).await?;
                print_report(&canister.validation_report(model_id).await?, one.common.json)
            }
            Command::Discard(one) => {
                let (canister, model_id) = find(&one).await?;
                canister.discard_upload(model_id).await?;
                say!("Dropped: {model_id}");
                Ok(())
            }
            Command::Activate(one) => {
                let (canister, model_id) = find(&one).await?;
                let proposal = canister.propose(ProposalAction::Activate { model_id }).await?;
                print_proposal(&proposal, one.common.json)
            }
            Command::Deprecate { one, reason } => {
                let (canister, model_id) = find(&one).await?;
                let proposal = canister.propose(ProposalAction::Deprecate { model_id, reason }).await?;
                print_proposal(&proposal, one.common.json)
            }
            Command::Usage(common) => usage(&common).await,
        }
    });
    result.map_err(network::with_hint)
}

async fn list(listing: Listing) -> anyhow::Result<()> {
    let canister = ModelCanister::connect(&listing.common.network).await?;
    let models = canister.list_models(listing.status.map(ModelStatus::from), listing.filter()).await?;
    if listing.common.json {
        return output::json(&models.iter().map(Row::from).collect::<Vec<_>>());
    }
    if models.is_empty() {
        say!("The catalogue has no such models that this identity may see");
        return Ok(());
    }
    let rows = models.iter().map(|record| {
        let card = record.card.as_ref();
        [
            record.model_id.to_string()[..12].to_owned(),
            record.name.clone(),
            record.version.clone(),
            status_name(record.status).to_owned(),
            output::bytes(record.bytes),
            card.map_or_else(|| "-".to_owned(), |card| card.architecture.clone()),
            card.map_or_else(|| "-".to_owned(), |card| format!("{:.2}", card.bits_per_weight_body)),
        ]
    });
    output::table(["model", "name", "version", "status", "size", "architecture", "bits"], rows);
    Ok(())
}

async fn show(one: One) -> anyhow::Result<()> {
    let (canister, model_id) = find(&one).await?;
    let record = canister.get_certified_model(model_id).await?;
    if one.common.json {
        let manifest: serde_json::Value = serde_json::from_slice(&canister.get_manifest(model_id).await?)
            .context("the manifest is not JSON")?;
        let mut value = serde_json::to_value(Row::from(&record))?;
        value["manifest"] = manifest;
        return output::json(&value);
    }
    print_record(&record, false)
}

#[derive(Serialize)]
struct Usage {
    used_bytes: u64,
    quota_bytes: u64,
    open_uploads: u32,
}

async fn usage(common: &Common) -> anyhow::Result<()> {
    let usage = ModelCanister::connect(&common.network).await?.usage().await?;
    if common.json {
        let (used_bytes, quota_bytes, open_uploads) =
            (usage.used_bytes, usage.quota_bytes, usage.open_uploads);
        return output::json(&Usage { used_bytes, quota_bytes, open_uploads });
    }
    say!("Stored: {} of {}", output::bytes(usage.used_bytes), output::bytes(usage.quota_bytes));
    say!("Open uploads: {}", usage.open_uploads);
    Ok(())
}

/// The canister, and the model whose id begins as `one` says.
async fn find(one: &One) -> anyhow::Result<(ModelCanister, ModelId)> {
    let canister = ModelCanister::connect(&one.common.network).await?;
    if let Ok(model_id) = one.model.parse() {
        return Ok((canister, model_id));
    }
    let beginning = one.model.to_lowercase();
    let models = canister.list_models(None, None).await?;
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
    say!("Validation: {}", validation_name(record.validation));
    if let Some(card) = &record.card {
        print_card(card);
    }
    Ok(())
}

fn print_card(card: &ModelCard) {
    let capabilities: Vec<_> = card.capabilities.iter().copied().map(capability_name).collect();
    say!("Architecture: {}, {} parameters", card.architecture, output::count(card.parameters));
    say!("Can: {}", capabilities.join(", "));
    let revision = card.revision.as_ref().map(|revision| format!(" at {revision}"));
    say!("Origin: {}{}", card.origin, revision.unwrap_or_default());
    say!(
        "Bits per weight: {:.2} in the layers, {:.2} in all, {:.1} times smaller than FP32",
        card.bits_per_weight_body,
        card.bits_per_weight_file,
        card.ratio_fp32
    );
    match &card.quality {
        Some(Quality::Predictions { text, tokens, perplexity, perplexity_original, kl, .. }) => say!(
            "Quality: KL {kl:.4} nats per token, perplexity {perplexity:.2} (original {perplexity_original:.2}), on {}: {text}",
            output::counted(*tokens, "token")
        ),
        Some(Quality::Embeddings { text, texts, mean_cosine, min_cosine }) => say!(
            "Quality: cosine {mean_cosine:.4} on average, {min_cosine:.4} at least, on {}: {text}",
            output::counted(*texts, "text")
        ),
        None => say!("Quality: not measured"),
    }
    say!("Context: {} tokens", output::count(card.context_tokens));
    say!(
        "Memory: {} of weights, {} of cache per token",
        output::bytes(card.heap_bytes),
        output::bytes(card.cache_bytes_per_token)
    );
    say!("Instructions: {} per token in a canister, estimated", output::count(card.instructions_per_token));
    if !card.tags.is_empty() {
        say!("Tags: {}", card.tags.join(", "));
    }
    match &card.signed_by {
        Some(key) => say!("Signed by: {}", hex::encode(key)),
        None => say!("Signed by: nobody"),
    }
}

/// How far validation is, as it is printed.
fn validation_name(validation: Validation) -> &'static str {
    match validation {
        Validation::NotStarted => "not started",
        Validation::Running { .. } => "running",
        Validation::Passed { .. } => "passed",
        Validation::Failed { .. } => "failed",
    }
}

/// What a check looks at, as it is printed.
fn check_name(kind: CheckKind) -> &'static str {
    match kind {
        CheckKind::Manifest => "manifest",
        CheckKind::License => "license",
        CheckKind::Version => "version",
        CheckKind::Signature => "signature",
        CheckKind::Architecture => "architecture",
        CheckKind::Shards => "shards",
        CheckKind::Rows => "rows",
        CheckKind::Tokenizer => "tokenizer",
    }
}

fn print_report(report: &ValidationReport, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(report);
    }
    say!("Model id: {}", report.model_id);
    for Check { kind, outcome } in &report.checks {
        let found = match outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Failed { reason } => format!("failed, {reason}"),
            Outcome::Skipped { reason } => format!("skipped, {reason}"),
        };
        say!("Check of {}: {found}", check_name(*kind));
    }
    for row in &report.rows {
        say!(
            "Row {} of {}: {} numbers, rms {:.4}, SHA-256 {}",
            row.row,
            row.tensor,
            row.columns,
            row.rms,
            row.sha256
        );
    }
    say!("Shards: {} ({})", report.shards, output::bytes(report.bytes));
    say!(
        "Work: {} instructions in {}",
        output::count(report.instructions),
        output::counted(report.messages.into(), "message")
    );
    let result = match (report.finished_at_ns.is_some(), report.passed()) {
        (false, _) => "running",
        (true, true) => "passed",
        (true, false) => "failed",
    };
    say!("Result: {result}");
    Ok(())
}
