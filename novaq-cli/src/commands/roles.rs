//! `novaq roles`: who may do what in a repository.

use anyhow::Context;
use candid::Principal;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use serde::Serialize;
use shared_types::model::{ProposalAction, Role, RoleGrant};

use super::governance::print_proposal;
use crate::network::{self, ModelCanister, NetworkArgs};
use crate::output;

/// List the roles of a repository, and propose to grant or revoke one.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List who has which role.
    List {
        #[command(flatten)]
        network: NetworkArgs,

        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Propose to give a role; done at once where one approval is enough.
    Grant(Grant),
    /// Propose to take a role.
    Revoke(Grant),
}

#[derive(Debug, ClapArgs)]
struct Grant {
    /// Who has it or is to have it.
    #[arg(value_name = "PRINCIPAL")]
    principal: Principal,

    /// The role.
    #[arg(value_name = "ROLE")]
    role: RoleName,

    #[command(flatten)]
    network: NetworkArgs,

    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// A role as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleName {
    /// Votes, and may stop any proposal alone.
    Owner,
    /// Proposes and votes, and whatever uploaders and auditors may do.
    Admin,
    /// Uploads models and proposes their activation.
    Uploader,
    /// Reads models before they are active, and has models validated again.
    Auditor,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Owner => Self::Owner,
            RoleName::Admin => Self::Admin,
            RoleName::Uploader => Self::Uploader,
            RoleName::Auditor => Self::Auditor,
        }
    }
}

/// A role as it is printed.
pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Owner => "owner",
        Role::Admin => "admin",
        Role::Uploader => "uploader",
        Role::Auditor => "auditor",
    }
}

#[derive(Serialize)]
struct Row {
    principal: String,
    role: &'static str,
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
        Command::List { network, json } => {
            let grants = ModelCanister::connect(&network).await?.list_roles().await?;
            let rows =
                grants.iter().map(|it| Row { principal: it.principal.to_text(), role: role_name(it.role) });
            if json {
                return output::json(&rows.collect::<Vec<_>>());
            }
            output::table(["principal", "role"], rows.map(|row| [row.principal, row.role.to_owned()]));
            Ok(())
        }
        Command::Grant(grant) => propose(&grant, ProposalAction::GrantRole).await,
        Command::Revoke(grant) => propose(&grant, ProposalAction::RevokeRole).await,
    }
}

async fn propose(grant: &Grant, action: impl FnOnce(RoleGrant) -> ProposalAction) -> anyhow::Result<()> {
    let canister = ModelCanister::connect(&grant.network).await?;
    let proposal =
        canister.propose(action(RoleGrant { principal: grant.principal, role: grant.role.into() })).await?;
    print_proposal(&proposal, grant.json)
}
