//! The coordinator and the econ canister, and a ledger whose tokens stand for dollars: what people plan, run and pay with.

use crate::canisters::Client;
use crate::network::local_identity;
use crate::team::OWNER;
use anyhow::Context;
use candid::{Principal, encode_args};
use ic_agent::Identity;
use shared_types::ModelId;
use shared_types::coordinator::{CoordinatorConfig, CoordinatorInitArgs};
use shared_types::econ::{
    Account, BlockLog, Currency, EconConfig, EconError, EconInitArgs, LedgerArgs, LedgerInfo, ServiceGrant,
    ServiceRole,
};
use shared_types::factory::FactoryError;
use test_doubles::ledger::LedgerInitArgs;

/// Name of the identity that the stand-in for a wallet signs with (`frontend/stand-in/wallet.ts`).
const WALLET: &str = "wallet";
/// What that wallet has at the beginning, in the ledger's smallest unit: 1,000 dollars.
const WALLET_BALANCE: u64 = 1_000_000_000;
/// What a team's owner has at the beginning, in the same unit: 100 dollars.
const OWNER_BALANCE: u64 = 100_000_000;
/// What a transaction of the ledger costs, in the same unit: a cent.
const FEE: u64 = 10_000;

/// The canisters' ids.
pub struct Economy {
    /// The ledger of local dollars.
    pub ledger: Principal,
    /// Tiers, quotas, payments.
    pub econ: Principal,
    /// Plans and projects.
    pub coordinator: Principal,
}

/// Installs ledger, econ and coordinator, which trust each other and the `factory`; the caller and `admin` are their admins.
pub async fn deploy(
    client: &Client,
    admin: Principal,
    factory: Principal,
    model_canister: Principal,
    default_model: ModelId,
) -> anyhow::Result<Economy> {
    let admins = vec![client.principal(), admin];
    let ledger = deploy_ledger(client).await?;
    let args = EconInitArgs { admins: admins.clone(), config: EconConfig::default() };
    let econ = client.deploy("ohms_econ", args).await?;
    let args = LedgerArgs {
        canister: ledger,
        currency: Currency::Dollar,
        block_log: BlockLog::Icrc3,
        enabled: true,
    };
    client.update::<LedgerInfo, EconError>(econ, "set_ledger", (args,)).await?;

    let args = CoordinatorInitArgs {
        admins,
        factory,
        econ: Some(econ),
        model_canister,
        default_model,
        config: CoordinatorConfig::default(),
    };
    let coordinator = client.deploy("ohms_coordinator", args).await?;
    let grant = ServiceGrant { service: coordinator, role: ServiceRole::Coordinator };
    client.update::<(), EconError>(econ, "grant_service", (grant,)).await?;
    client.update::<(), FactoryError>(factory, "set_coordinators", (vec![coordinator],)).await?;
    Ok(Economy { ledger, econ, coordinator })
}

/// Installs the ledger of the tests and gives the stand-in for a wallet its tokens.
async fn deploy_ledger(client: &Client) -> anyhow::Result<Principal> {
    let args = LedgerInitArgs {
        name: "Local dollar".to_owned(),
        symbol: "USD".to_owned(),
        decimals: 6,
        fee: FEE,
        minting_account: client.principal().into(),
    };
    let ledger = client.deploy("ledger_canister", args).await?;
    for (name, balance) in [(WALLET, WALLET_BALANCE), (OWNER, OWNER_BALANCE)] {
        let account = Account::from(local_identity(name).sender().map_err(anyhow::Error::msg)?);
        let args = encode_args((account, balance))?;
        client.ic_agent().update(&ledger, "mint").with_arg(args).await.context("mint")?;
    }
    Ok(ledger)
}
