//! The calls to other canisters that the steps of [`crate::agents`] consist of.

use candid::{Encode, Principal};
use ic_cdk::call::{Call, Error};
use ic_cdk_management_canister::{
    CanisterInstallMode, CanisterSettings, CanisterStatusArgs, ChunkHash, ClearChunkStoreArgs,
    CreateCanisterArgs, DeleteCanisterArgs, DepositCyclesArgs, InstallChunkedCodeArgs, InstallCodeArgs,
    StopCanisterArgs, UninstallCodeArgs, UploadChunkArgs, canister_status, clear_chunk_store,
    create_canister_with_extra_cycles, delete_canister, deposit_cycles, install_chunked_code, install_code,
    stop_canister, uninstall_code, upload_chunk,
};
use shared_types::agent::{AgentConfig, AgentError, AgentInitArgs};
use shared_types::factory::{AgentRecord, AgentStep};

use crate::state;

/// Largest Wasm module that travels in one `install_code` message of 2 MiB.
const MAX_SINGLE_INSTALL_BYTES: u64 = 1_900_000;

/// An agent's freezing threshold in seconds: 90 days, as the security guides of the Internet Computer advise.
const FREEZING_THRESHOLD_SECONDS: u64 = 90 * 24 * 3_600;

/// Seconds that an agent has to send its cycles back.
const RETURN_CYCLES_SECONDS: u32 = 60;

/// Performs a step; a created canister is returned.
///
/// # Errors
/// The reason as the Internet Computer gave it.
pub async fn perform(
    step: AgentStep,
    canister: Option<Principal>,
    record: &AgentRecord,
    config: &AgentConfig,
) -> Result<Option<Principal>, String> {
    let agent_cycles = state::read(|state| state.settings().config.agent_cycles);
    let Some(canister_id) = canister else {
        return create(agent_cycles).await.map(Some).map_err(|error| error.to_string());
    };
    let done = match step {
        AgentStep::Create => refill(canister_id, agent_cycles).await,
        AgentStep::Install => return install(canister_id, record, config).await.map(|()| None),
        AgentStep::ReturnCycles => return return_cycles(canister_id).await.map(|()| None),
        AgentStep::Stop => stop_canister(&StopCanisterArgs { canister_id }).await,
        AgentStep::Uninstall => uninstall_code(&UninstallCodeArgs { canister_id }).await,
        AgentStep::Delete => delete_canister(&DeleteCanisterArgs { canister_id }).await,
    };
    done.map(|()| None).map_err(|error| error.to_string())
}

async fn create(cycles: u128) -> Result<Principal, Error> {
    let settings = CanisterSettings {
        freezing_threshold: Some(FREEZING_THRESHOLD_SECONDS.into()),
        ..CanisterSettings::default()
    };
    let args = CreateCanisterArgs { settings: Some(settings) };
    Ok(create_canister_with_extra_cycles(&args, cycles).await?.canister_id)
}

/// Brings a spare canister's balance to what a new agent starts with.
async fn refill(canister_id: Principal, cycles: u128) -> Result<(), Error> {
    let status = canister_status(&CanisterStatusArgs { canister_id }).await?;
    let balance = u128::try_from(status.cycles.0).unwrap_or(u128::MAX);
    if balance < cycles {
        deposit_cycles(&DepositCyclesArgs { canister_id }, cycles - balance).await?;
    }
    Ok(())
}

async fn install(canister_id: Principal, record: &AgentRecord, config: &AgentConfig) -> Result<(), String> {
    let args = AgentInitArgs {
        owner: record.owner,
        model_canister: record.model_canister,
        model_id: record.model_id,
        config: config.clone(),
    };
    let arg = Encode!(&args).map_err(|error| error.to_string())?;
    let chunks: Vec<Vec<u8>> = state::read(|state| {
        state.templates.chunks(&record.template).map(Iterator::collect).map_err(|error| error.to_string())
    })?;
    let bytes: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
    let mode = CanisterInstallMode::Install;
    let installed = if bytes <= MAX_SINGLE_INSTALL_BYTES {
        install_code(&InstallCodeArgs { mode, canister_id, wasm_module: chunks.concat(), arg }).await
    } else {
        let mut chunk_hashes_list: Vec<ChunkHash> = Vec::new();
        for chunk in chunks {
            let uploaded = upload_chunk(&UploadChunkArgs { canister_id, chunk }).await;
            chunk_hashes_list.push(uploaded.map_err(|error| error.to_string())?);
        }
        let installed = install_chunked_code(&InstallChunkedCodeArgs {
            mode,
            target_canister: canister_id,
            store_canister: None,
            chunk_hashes_list,
            wasm_module_hash: record.template.as_bytes().to_vec(),
            arg,
        })
        .await;
        // The chunks cost storage and serve nobody any more; they go also when the installation failed.
        let cleared = clear_chunk_store(&ClearChunkStoreArgs { canister_id }).await;
        installed.and(cleared)
    };
    installed.map_err(|error| error.to_string())
}

/// Has the agent send its cycles to the factory. An agent that does not answer in time is not waited for.
async fn return_cycles(canister_id: Principal) -> Result<(), String> {
    let call = Call::bounded_wait(canister_id, "return_cycles").change_timeout(RETURN_CYCLES_SECONDS);
    let response = call.await.map_err(|error| error.to_string())?;
    let returned: Result<u128, AgentError> = response.candid().map_err(|error| error.to_string())?;
    match returned {
        Ok(0) => Err("the agent sent no cycles".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
