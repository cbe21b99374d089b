//! The calls to other canisters that the steps of [`crate::agents`] consist of.

use candid::{CandidType, Encode, Principal};
use ic_cdk::api::canister_self;
use ic_cdk::call::{Call, CallFailed, CallRejected, Error, RejectCode};
use ic_cdk_management_canister::{
    CanisterInfoArgs, CanisterInstallMode, CanisterSettings, CanisterStatusArgs, ChunkHash,
    ClearChunkStoreArgs, CreateCanisterArgs, DeleteCanisterArgs, DepositCyclesArgs, InstallChunkedCodeArgs,
    InstallCodeArgs, StartCanisterArgs, StopCanisterArgs, UninstallCodeArgs, UpdateSettingsArgs,
    UploadChunkArgs, canister_info, canister_status, clear_chunk_store, create_canister, delete_canister,
    deposit_cycles, install_chunked_code, install_code, start_canister, stop_canister, uninstall_code,
    update_settings, upload_chunk,
};
use icrc_ledger_types::icrc1::account::Account;
use shared_types::Digest;
use shared_types::agent::profile::AgentProfile;
use shared_types::agent::{AgentConfig, AgentError, AgentInitArgs, AgentQuota};
use shared_types::factory::{AgentRecord, AgentState, AgentStep, FactoryError};

use crate::agents::Done;
use crate::{quota, state};

/// Largest Wasm module that travels in one `install_code` message of 2 MiB.
const MAX_SINGLE_INSTALL_BYTES: u64 = 1_900_000;

/// An agent's freezing threshold in seconds: 90 days, as the security guides of the Internet Computer advise.
const FREEZING_THRESHOLD_SECONDS: u64 = 90 * 24 * 3_600;

/// Seconds that an agent has to send its cycles or its tokens back.
const RETURN_SECONDS: u32 = 60;

/// How a new agent is set up.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Its limits.
    pub config: AgentConfig,
    /// What it is for.
    pub profile: Option<AgentProfile>,
}

/// Why a step did not succeed.
enum Failure {
    /// The canister does not exist.
    Gone,
    /// The reason as the Internet Computer gave it.
    Refused(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::CallRejected(rejected)
                if rejected.raw_reject_code() == RejectCode::DestinationInvalid as u32 =>
            {
                Self::Gone
            }
            _ => Self::Refused(error.to_string()),
        }
    }
}

impl From<CallFailed> for Failure {
    fn from(failed: CallFailed) -> Self {
        Error::from(failed).into()
    }
}

/// Performs a step.
///
/// # Errors
/// The reason as the Internet Computer gave it.
pub async fn perform(
    step: AgentStep,
    canister: Option<Principal>,
    record: &AgentRecord,
    wish: &Wish,
) -> Result<Done, String> {
    match step {
        AgentStep::Reserve | AgentStep::Settle | AgentStep::Release | AgentStep::ReturnQuota => {
            return quota::perform(step, record).await;
        }
        AgentStep::Refund => return refund(record.owner, record.refund_cycles).await.map(|()| Done::AsAsked),
        _ => {}
    }
    let Some(canister_id) = canister else {
        return create().await.map(Done::Created).map_err(|error| error.to_string());
    };
    let agent_cycles = state::read(|state| state.settings().config.agent_cycles);
    let as_asked = |()| Done::AsAsked;
    let done = match step {
        AgentStep::Create => prepare(canister_id, agent_cycles).await.map(Done::Granted),
        AgentStep::TopUp => top_up_to(canister_id, agent_cycles).await.map(Done::Granted),
        AgentStep::Install => install(canister_id, record, wish).await.map(as_asked),
        AgentStep::Upgrade => match record.state {
            AgentState::Upgrading { template, .. } => upgrade(canister_id, &template).await.map(as_asked),
            _ => Err(Failure::Refused("no template is named".to_owned())),
        },
        AgentStep::ReturnFunds => return_funds(canister_id).await.map(as_asked),
        AgentStep::ReturnCycles => return_cycles(canister_id).await.map(|cycles| {
            let refunds = state::read(|state| state.settings().config.cycles_ledger.is_some());
            if refunds { Done::CyclesReturned(cycles) } else { Done::AsAsked }
        }),
        AgentStep::Stop => {
            stop_canister(&StopCanisterArgs { canister_id }).await.map(as_asked).map_err(Failure::from)
        }
        AgentStep::Start => {
            start_canister(&StartCanisterArgs { canister_id }).await.map(as_asked).map_err(Failure::from)
        }
        AgentStep::Uninstall => {
            uninstall_code(&UninstallCodeArgs { canister_id }).await.map(as_asked).map_err(Failure::from)
        }
        AgentStep::Delete => {
            delete_canister(&DeleteCanisterArgs { canister_id }).await.map(as_asked).map_err(Failure::from)
        }
        AgentStep::Reserve
        | AgentStep::Settle
        | AgentStep::Release
        | AgentStep::ReturnQuota
        | AgentStep::Refund => unreachable!("performed above"),
    };
    match done {
        Ok(done) => Ok(done),
        Err(Failure::Gone) => Ok(Done::Gone),
        Err(Failure::Refused(reason)) => Err(reason),
    }
}

/// Creates a canister without cycles. Nothing but its id depends on the answer, so that little is at stake in the message
/// that takes it.
///
/// # Errors
/// As the Internet Computer gave it.
pub async fn create() -> Result<Principal, Error> {
    let settings = CanisterSettings {
        freezing_threshold: Some(FREEZING_THRESHOLD_SECONDS.into()),
        ..CanisterSettings::default()
    };
    let args = CreateCanisterArgs { settings: Some(settings) };
    Ok(create_canister(&args).await?.canister_id)
}

/// Brings a canister's balance to what a new agent starts with, and starts it: a deletion may have stopped it. Returns the cycles
/// of the factory in it, which are all of them: what a spare holds was the factory's.
async fn prepare(canister_id: Principal, cycles: u128) -> Result<u128, Failure> {
    set_freezing_threshold(canister_id, FREEZING_THRESHOLD_SECONDS).await?;
    top_up_to(canister_id, cycles).await?;
    start_canister(&StartCanisterArgs { canister_id }).await?;
    Ok(cycles)
}

async fn set_freezing_threshold(canister_id: Principal, seconds: u64) -> Result<(), Failure> {
    let settings =
        CanisterSettings { freezing_threshold: Some(seconds.into()), ..CanisterSettings::default() };
    Ok(update_settings(&UpdateSettingsArgs { canister_id, settings }).await?)
}

/// Brings a canister's balance to `cycles`; returns what was added.
async fn top_up_to(canister_id: Principal, cycles: u128) -> Result<u128, Failure> {
    let status = canister_status(&CanisterStatusArgs { canister_id }).await?;
    let balance = u128::try_from(status.cycles.0).unwrap_or(u128::MAX);
    let missing = cycles.saturating_sub(balance);
    if missing > 0 {
        deposit_cycles(&DepositCyclesArgs { canister_id }, missing).await?;
    }
    Ok(missing)
}

/// Adds cycles to a canister.
///
/// # Errors
/// The reason as the Internet Computer gave it.
pub async fn add_cycles(canister_id: Principal, cycles: u128) -> Result<u128, String> {
    let added = deposit_cycles(&DepositCyclesArgs { canister_id }, cycles).await;
    added.map(|()| cycles).map_err(|error| error.to_string())
}

/// Sends cycles to an owner's account at the cycles ledger. Waits for the answer without a bound: a call whose outcome is
/// not known would have to be made again, or not, and either could be wrong.
async fn refund(owner: Principal, cycles: u128) -> Result<(), String> {
    #[derive(CandidType)]
    struct DepositArgs {
        to: Account,
        memo: Option<Vec<u8>>,
    }
    let ledger = state::read(|state| state.settings().config.cycles_ledger);
    let ledger = ledger.ok_or("no cycles ledger is configured")?;
    let args = DepositArgs { to: Account::from(owner), memo: None };
    let call = Call::unbounded_wait(ledger, "deposit").with_arg(args).with_cycles(cycles);
    call.await.map(|_| ()).map_err(|failed| failed.to_string())
}

/// What speaks against making a canister a spare; `None` when the factory alone controls it, and it has no code.
///
/// # Errors
/// The reason why the Internet Computer did not say.
pub async fn objection(canister_id: Principal) -> Result<Option<String>, String> {
    let args = CanisterInfoArgs { canister_id, num_requested_changes: None };
    let info = canister_info(&args).await.map_err(|error| error.to_string())?;
    Ok(if info.controllers != [canister_self()] {
        Some("the factory is not its only controller".to_owned())
    } else if info.module_hash.is_some() {
        Some("it has code".to_owned())
    } else {
        None
    })
}

async fn install(canister_id: Principal, record: &AgentRecord, wish: &Wish) -> Result<(), Failure> {
    let quota = state::read(|state| {
        let settings = state.settings();
        settings.config.econ.map(|econ| AgentQuota { econ, prepaid: settings.coordinators.clone() })
    });
    let args = AgentInitArgs {
        owner: record.owner,
        model_canister: record.model_canister,
        model_id: record.model_id,
        config: wish.config.clone(),
        coordinator: record.coordinator,
        profile: wish.profile.clone(),
        phase: None,
        quota,
    };
    let arg = Encode!(&args).map_err(|error| Failure::Refused(error.to_string()))?;
    // The canister is nobody's yet. Should the answer of an installation have been lost, it is done again.
    install_template(canister_id, &record.template, CanisterInstallMode::Reinstall, arg).await
}

/// Installs a template. One that is too large for a message comes from the factory's own chunk store, which is filled once for
/// all agents.
async fn install_template(
    canister_id: Principal,
    template: &Digest,
    mode: CanisterInstallMode,
    arg: Vec<u8>,
) -> Result<(), Failure> {
    let refused = |error: FactoryError| Failure::Refused(error.to_string());
    let known = state::read(|state| state.templates.committed(Some(template))).map_err(refused)?;
    if known.bytes <= MAX_SINGLE_INSTALL_BYTES {
        let chunks = state::read(|state| state.templates.chunks(template).map(Iterator::collect::<Vec<_>>));
        let wasm_module = chunks.map_err(refused)?.concat();
        return Ok(install_code(&InstallCodeArgs { mode, canister_id, wasm_module, arg }).await?);
    }
    let stored = state::read(|state| state.templates.in_chunk_store(template)).map_err(refused)?;
    let chunks = match stored {
        Some(chunks) => chunks,
        None => fill_chunk_store(template).await?,
    };
    let hash = |chunk: Digest| ChunkHash { hash: chunk.as_bytes().to_vec() };
    let installed = install_chunked_code(&InstallChunkedCodeArgs {
        mode,
        target_canister: canister_id,
        store_canister: Some(canister_self()),
        chunk_hashes_list: chunks.into_iter().map(hash).collect(),
        wasm_module_hash: template.as_bytes().to_vec(),
        arg,
    })
    .await;
    if installed.is_err() {
        // Should the store have been emptied, the next attempt fills it.
        state::mutate(|state| state.templates.set_in_chunk_store(template, None)).map_err(refused)?;
    }
    Ok(installed?)
}

/// Puts a template's chunks into the factory's chunk store; what is there already costs a call and changes nothing.
async fn fill_chunk_store(template: &Digest) -> Result<Vec<Digest>, Failure> {
    let refused = |error: FactoryError| Failure::Refused(error.to_string());
    let canister_id = canister_self();
    if !state::read(|state| state.templates.fits_chunk_store(template)).map_err(refused)? {
        clear_chunk_store(&ClearChunkStoreArgs { canister_id }).await?;
        state::mutate(|state| state.templates.chunk_store_cleared());
    }
    let chunks = state::read(|state| state.templates.chunks(template).map(Iterator::collect::<Vec<_>>));
    let mut hashes = Vec::new();
    for chunk in chunks.map_err(refused)? {
        hashes.push(Digest::of(&chunk));
        upload_chunk(&UploadChunkArgs { canister_id, chunk }).await?;
    }
    state::mutate(|state| state.templates.set_in_chunk_store(template, Some(hashes.clone())))
        .map_err(refused)?;
    Ok(hashes)
}

/// Exchanges an agent's code; its memory stays.
async fn upgrade(canister_id: Principal, template: &Digest) -> Result<(), Failure> {
    let arg = Encode!().map_err(|error| Failure::Refused(error.to_string()))?;
    install_template(canister_id, template, CanisterInstallMode::Upgrade(None), arg).await
}

/// Has the agent send its cycles to the factory; returns how many. An agent that does not answer in time is not waited for.
async fn return_cycles(canister_id: Principal) -> Result<u128, Failure> {
    // What is set aside for storage is not needed any more; a canister that is not deleted after all gets its threshold back.
    set_freezing_threshold(canister_id, 0).await?;
    let call = Call::bounded_wait(canister_id, "return_cycles").change_timeout(RETURN_SECONDS);
    let returned: Result<u128, AgentError> = call.await?.candid().map_err(Error::from)?;
    match returned {
        Ok(0) => Err(Failure::Refused("the agent sent no cycles".to_owned())),
        Ok(cycles) => Ok(cycles),
        Err(error) => Err(Failure::Refused(error.to_string())),
    }
}

/// Has the agent send its tokens to its owner. A canister without code, or with code of a version that had no wallet, has none.
async fn return_funds(canister_id: Principal) -> Result<(), Failure> {
    let call = Call::bounded_wait(canister_id, "return_funds").change_timeout(RETURN_SECONDS);
    let returned: Result<u32, AgentError> = match call.await {
        Ok(answer) => answer.candid().map_err(Error::from)?,
        Err(CallFailed::CallRejected(rejected)) if has_no_wallet(&rejected) => return Ok(()),
        Err(failed) => return Err(failed.into()),
    };
    returned.map(|_| ()).map_err(|error| Failure::Refused(error.to_string()))
}

/// Whether a rejection says that there is no such method, in the Internet Computer's words.
fn has_no_wallet(rejected: &CallRejected) -> bool {
    let message = rejected.reject_message();
    rejected.raw_reject_code() == RejectCode::CanisterError as u32
        && (message.contains("has no update method") || message.contains("no Wasm module"))
}
