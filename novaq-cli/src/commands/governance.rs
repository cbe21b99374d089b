//! `novaq governance`: the rules of a repository, and the proposals to follow or change them.

use anyhow::Context;
use candid::Principal;
use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;
use shared_types::model::{Policy, Proposal, ProposalAction, ProposalState};

use super::compress::bytes;
use super::roles::role_name;
use crate::network::{self, ModelCanister, NetworkArgs};
use crate::{output, say};

/// Show the rules of a repository and its proposals; approve, reject and make them.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the rules, and how many vote.
    Status(Common),
    /// List proposals, the newest first.
    List {
        #[command(flatten)]
        common: Common,

        /// Only those that can be approved.
        #[arg(long)]
        open: bool,

        /// How many at most.
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: u32,
    },
    /// Show one proposal.
    Show(One),
    /// Approve a proposal; the last approval that it needs executes it.
    Approve(One),
    /// Reject a proposal, or take back one's own.
    Reject(One),
    /// Propose to change rules; those that are not given stay.
    Policy(Rules),
    /// Propose to give an uploader a quota of its own.
    Quota {
        /// The uploader.
        #[arg(value_name = "PRINCIPAL")]
        uploader: Principal,

        /// Bytes, as `10GiB`; without it the uploader gets what the rules say.
        #[arg(value_name = "BYTES", value_parser = bytes)]
        bytes: Option<u64>,

        #[command(flatten)]
        common: Common,
    },
    /// List the repositories that this one knows.
    Repositories(Common),
    /// Propose to have this repository know another one, or with `--forget` forget it.
    Repository {
        /// The other one's canister.
        #[arg(value_name = "CANISTER")]
        other: Principal,

        /// Forget it.
        #[arg(long)]
        forget: bool,

        #[command(flatten)]
        common: Common,
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
    /// The proposal's number.
    #[arg(value_name = "PROPOSAL")]
    id: u64,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, ClapArgs)]
struct Rules {
    /// Distinct approvals that a proposal needs.
    #[arg(long, value_name = "N")]
    approvals: Option<u32>,

    /// Seconds for which a proposal may be approved.
    #[arg(long, value_name = "SECONDS")]
    proposal_ttl: Option<u64>,

    /// Whether models have to be signed.
    #[arg(long, value_name = "BOOL")]
    require_signature: Option<bool>,

    /// Bytes that an uploader may have stored, as `32GiB`.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    quota: Option<u64>,

    /// Seconds after which an upload that nobody works on is dropped.
    #[arg(long, value_name = "SECONDS")]
    abandoned_after: Option<u64>,

    #[command(flatten)]
    common: Common,
}

impl Rules {
    fn applied_to(&self, policy: Policy) -> Policy {
        Policy {
            approvals: self.approvals.unwrap_or(policy.approvals),
            proposal_ttl_seconds: self.proposal_ttl.unwrap_or(policy.proposal_ttl_seconds),
            require_signature: self.require_signature.unwrap_or(policy.require_signature),
            uploader_quota_bytes: self.quota.unwrap_or(policy.uploader_quota_bytes),
            abandoned_after_seconds: self.abandoned_after.unwrap_or(policy.abandoned_after_seconds),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the repository cannot be reached or refuses the call.
pub fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the asynchronous runtime cannot start")?;
    runtime.block_on(execute(args.command)).map_err(network::with_hint)
}

async fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Status(common) => status(&common).await,
        Command::List { common, open, limit } => {
            let canister = ModelCanister::connect(&common.network).await?;
            let proposals = canister.list_proposals(open, limit as usize).await?;
            if common.json {
                return output::json(&proposals.iter().map(Row::from).collect::<Vec<_>>());
            }
            let rows = proposals.iter().map(Row::from).map(|row| {
                let votes = format!("{} for, {} against", row.approvals.len(), row.rejections.len());
                [row.id.to_string(), row.state, votes, row.action]
            });
            output::table(["proposal", "state", "votes", "action"], rows);
            Ok(())
        }
        Command::Show(one) => {
            let canister = ModelCanister::connect(&one.common.network).await?;
            print_proposal(&canister.get_proposal(one.id).await?, one.common.json)
        }
        Command::Approve(one) => vote(&one, true).await,
        Command::Reject(one) => vote(&one, false).await,
        Command::Policy(rules) => {
            let canister = ModelCanister::connect(&rules.common.network).await?;
            let policy = rules.applied_to(canister.governance().await?.policy);
            let proposal = canister.propose(ProposalAction::SetPolicy(policy)).await?;
            print_proposal(&proposal, rules.common.json)
        }
        Command::Quota { uploader, bytes, common } => {
            let canister = ModelCanister::connect(&common.network).await?;
            let proposal = canister.propose(ProposalAction::SetQuota { uploader, bytes }).await?;
            print_proposal(&proposal, common.json)
        }
        Command::Repositories(common) => repositories(&common).await,
        Command::Repository { other: canister, forget, common } => {
            let action = if forget {
                ProposalAction::RemoveRepository { canister }
            } else {
                ProposalAction::AddRepository { canister }
            };
            let proposal = ModelCanister::connect(&common.network).await?.propose(action).await?;
            print_proposal(&proposal, common.json)
        }
    }
}

/// A repository as it is printed in JSON.
#[derive(Serialize)]
struct Known {
    canister: String,
    models: u64,
    free_bytes: u64,
    answered_at_ns: Option<u64>,
    failure: Option<String>,
}

async fn repositories(common: &Common) -> anyhow::Result<()> {
    let known = ModelCanister::connect(&common.network).await?.list_repositories().await?;
    let rows = known.into_iter().map(|known| Known {
        canister: known.canister.to_text(),
        models: known.models,
        free_bytes: known.free_bytes,
        answered_at_ns: known.answered_at_ns,
        failure: known.failure,
    });
    if common.json {
        return output::json(&rows.collect::<Vec<_>>());
    }
    let rows = rows.map(|row| {
        let state = row.failure.unwrap_or_else(|| "answers".to_owned());
        [row.canister, row.models.to_string(), output::bytes(row.free_bytes), state]
    });
    output::table(["repository", "models", "free", "state"], rows);
    Ok(())
}

async fn vote(one: &One, approve: bool) -> anyhow::Result<()> {
    let canister = ModelCanister::connect(&one.common.network).await?;
    print_proposal(&canister.vote(one.id, approve).await?, one.common.json)
}

#[derive(Serialize)]
struct Status {
    approvals: u32,
    voters: u32,
    open_proposals: u32,
    proposals: u64,
    proposal_ttl_seconds: u64,
    require_signature: bool,
    uploader_quota_bytes: u64,
    abandoned_after_seconds: u64,
}

async fn status(common: &Common) -> anyhow::Result<()> {
    let summary = ModelCanister::connect(&common.network).await?.governance().await?;
    let policy = summary.policy;
    let status = Status {
        approvals: policy.approvals,
        voters: summary.voters,
        open_proposals: summary.open,
        proposals: summary.proposals,
        proposal_ttl_seconds: policy.proposal_ttl_seconds,
        require_signature: policy.require_signature,
        uploader_quota_bytes: policy.uploader_quota_bytes,
        abandoned_after_seconds: policy.abandoned_after_seconds,
    };
    if common.json {
        return output::json(&status);
    }
    say!("Approvals: {} of {} who vote", status.approvals, status.voters);
    say!("Proposals: {} open, {} in all", status.open_proposals, status.proposals);
    say!("Time to approve: {}", output::duration(status.proposal_ttl_seconds as f64));
    say!("Signatures: {}", if status.require_signature { "required" } else { "not required" });
    say!("Quota: {} per uploader", output::bytes(status.uploader_quota_bytes));
    say!("Abandoned uploads: dropped after {}", output::duration(status.abandoned_after_seconds as f64));
    Ok(())
}

/// A proposal as it is printed in JSON.
#[derive(Debug, Serialize)]
struct Row {
    id: u64,
    action: String,
    state: String,
    proposer: String,
    created_at_ns: u64,
    expires_at_ns: u64,
    approvals: Vec<String>,
    rejections: Vec<String>,
}

impl From<&Proposal> for Row {
    fn from(proposal: &Proposal) -> Self {
        Self {
            id: proposal.id,
            action: action_text(&proposal.action),
            state: state_text(&proposal.state),
            proposer: proposal.proposer.to_text(),
            created_at_ns: proposal.created_at_ns,
            expires_at_ns: proposal.expires_at_ns,
            approvals: proposal.approvals.iter().map(Principal::to_text).collect(),
            rejections: proposal.rejections.iter().map(Principal::to_text).collect(),
        }
    }
}

/// What a proposal would do, in words.
fn action_text(action: &ProposalAction) -> String {
    match action {
        ProposalAction::Activate { model_id } => format!("activate {model_id}"),
        ProposalAction::Deprecate { model_id, reason } => format!("deprecate {model_id}: {reason}"),
        ProposalAction::GrantRole(it) => format!("grant {} to {}", role_name(it.role), it.principal),
        ProposalAction::RevokeRole(it) => format!("revoke {} from {}", role_name(it.role), it.principal),
        ProposalAction::SetPolicy(policy) => format!(
            "rules: {} approvals within {} s, signatures {}, {} bytes per uploader, uploads dropped after {} s",
            policy.approvals,
            policy.proposal_ttl_seconds,
            if policy.require_signature { "required" } else { "not required" },
            policy.uploader_quota_bytes,
            policy.abandoned_after_seconds
        ),
        ProposalAction::SetQuota { uploader, bytes: Some(bytes) } => {
            format!("quota of {uploader}: {bytes} bytes")
        }
        ProposalAction::SetQuota { uploader, bytes: None } => {
            format!("quota of {uploader}: as the rules say")
        }
        ProposalAction::AddRepository { canister } => format!("know the repository {canister}"),
        ProposalAction::RemoveRepository { canister } => format!("forget the repository {canister}"),
    }
}

fn state_text(state: &ProposalState) -> String {
    match state {
        ProposalState::Open => "open".to_owned(),
        ProposalState::Executed { .. } => "executed".to_owned(),
        ProposalState::Failed { reason, .. } => format!("failed: {reason}"),
        ProposalState::Rejected { .. } => "rejected".to_owned(),
        ProposalState::Expired => "expired".to_owned(),
    }
}

/// Prints where a proposal stands.
///
/// # Errors
/// Never: a proposal has a JSON form.
pub(super) fn print_proposal(proposal: &Proposal, json: bool) -> anyhow::Result<()> {
    let row = Row::from(proposal);
    if json {
        return output::json(&row);
    }
    say!("Proposal: {}", row.id);
    say!("Action: {}", row.action);
    say!("State: {}", row.state);
    say!(
        "Approved by: {}",
        if row.approvals.is_empty() { "nobody".to_owned() } else { row.approvals.join(", ") }
    );
    if !row.rejections.is_empty() {
        say!("Rejected by: {}", row.rejections.join(", "));
    }
    if proposal.state == ProposalState::Open {
        say!("Next: `novaq governance approve {}`, by another admin", row.id);
    }
    Ok(())
}
