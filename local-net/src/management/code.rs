//! Installing, upgrading and removing code. Either all of it happens, or nothing.

use super::{decode, empty_reply};
use crate::{
    canister::Code,
    execution::{Function, Instance},
    memory,
    module::{self, CompiledModule, START_EXPORT},
    network::{Keep, Network},
    reject::{ErrorCode, Reject, Response},
    system_api::{EntryPoint, Message},
};
use candid::Principal;
use ic_management_canister_types as types;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use types::CanisterInstallMode as Mode;

/// Who installs what.
struct Installation {
    canister: Principal,
    caller: Principal,
    mode: Mode,
    module: Arc<CompiledModule>,
    argument: Vec<u8>,
}

impl Installation {
    fn message(&self, entry_point: EntryPoint) -> Message {
        Message { argument: self.argument.clone(), ..Message::new(entry_point, self.caller) }
    }

    fn keeps_heap(&self) -> bool {
        matches!(
            self.mode,
            Mode::Upgrade(Some(types::UpgradeFlags {
                wasm_memory_persistence: Some(types::WasmMemoryPersistence::Keep),
                ..
            }))
        )
    }

    fn skips_pre_upgrade(&self) -> bool {
        matches!(self.mode, Mode::Upgrade(Some(types::UpgradeFlags { skip_pre_upgrade: Some(true), .. })))
    }
}

impl Network {
    pub(super) fn install_code(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::InstallCodeArgs = decode(argument)?;
        self.controlled(args.canister_id, caller, "install_code")?;
        self.install(args.canister_id, caller, args.mode, &args.wasm_module, args.arg)
    }

    pub(super) fn install_chunked_code(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::InstallChunkedCodeArgs = decode(argument)?;
        self.controlled(args.target_canister, caller, "install_chunked_code")?;
        let store_id = args.store_canister.unwrap_or(args.target_canister);
        let store = self.canister(store_id)?;
        if store_id != caller && !store.is_controlled_by(caller) {
            return Err(Reject::new(
                ErrorCode::CanisterInvalidController,
                format!("Only controllers of canister {store_id} can install from its chunk store"),
            ));
        }
        let mut wasm = Vec::new();
        for chunk in &args.chunk_hashes_list {
            let hash = <[u8; 32]>::try_from(chunk.hash.as_slice()).ok();
            let bytes = hash.and_then(|hash| store.chunks.get(&hash)).ok_or_else(|| {
                Reject::bad_payload(format!("chunk {} is not in the chunk store", hex::encode(&chunk.hash)))
            })?;
            wasm.extend_from_slice(bytes);
        }
        let hash = Sha256::digest(&wasm);
        if hash[..] != args.wasm_module_hash {
            return Err(Reject::bad_payload(format!(
                "the chunks' hash is {}, not the expected {}",
                hex::encode(hash),
                hex::encode(&args.wasm_module_hash)
            )));
        }
        self.install(args.target_canister, caller, args.mode, &wasm, args.arg)
    }

    fn install(
        &mut self,
        id: Principal,
        caller: Principal,
        mode: Mode,
        wasm: &[u8],
        argument: Vec<u8>,
    ) -> Response {
        let canister = self.canister(id)?;
        match mode {
            Mode::Install if canister.code.is_some() => {
                return Err(Reject::new(
                    ErrorCode::CanisterNonEmpty,
                    format!(
                        "Canister {id} cannot be installed because the canister is not empty. Try installing with \
                         mode='reinstall' instead."
                    ),
                ));
            }
            Mode::Upgrade(_) if canister.code.is_none() => return Err(Reject::no_module(id)),
            _ => {}
        }
        let module = module::compile(wasm)?;
        self.install_module(&Installation { canister: id, caller, mode, module, argument })?;
        Ok(empty_reply())
    }

    fn install_module(&mut self, installation: &Installation) -> Result<(), Reject> {
        match installation.mode {
            Mode::Upgrade(_) => self.upgrade(installation)?,
            Mode::Install | Mode::Reinstall => self.install_fresh(installation)?,
        }
        let canister = self.canister_mut(installation.canister)?;
        canister.version += 1;
        canister.total_changes += 1;
        Ok(())
    }

    /// Upgrades a canister to the module it has, as its first controller, with empty Candid arguments.
    pub(crate) fn upgrade_to_itself(&mut self, id: Principal) -> Result<(), Reject> {
        let canister = self.canister(id)?;
        let code = canister.code.as_ref().ok_or_else(|| Reject::no_module(id))?;
        let installation = Installation {
            canister: id,
            caller: canister.settings.controllers.first().copied().unwrap_or(id),
            mode: Mode::Upgrade(None),
            module: code.module.clone(),
            argument: empty_reply(),
        };
        self.install_module(&installation)
    }

    /// Installs with empty memories.
    fn install_fresh(&mut self, installation: &Installation) -> Result<(), Reject> {
        let canister = self.canister_mut(installation.canister)?;
        let out_of_memory = |e: std::io::Error| Reject::new(ErrorCode::CanisterOutOfMemory, e.to_string());
        let (heap, stable) =
            (memory::new_heap().map_err(out_of_memory)?, memory::new_stable().map_err(out_of_memory)?);
        let heap = std::mem::replace(&mut canister.heap, heap);
        let stable = std::mem::replace(&mut canister.stable, stable);
        let code = canister.code.take();
        let certified_data = std::mem::take(&mut canister.certified_data);
        let timer = std::mem::take(&mut canister.timer);
        let result = self.start_module(installation, EntryPoint::Init, "canister_init");
        if result.is_err() {
            let canister = self.canister_mut(installation.canister)?;
            canister.heap = heap;
            canister.stable = stable;
            canister.code = code;
            canister.certified_data = certified_data;
            canister.timer = timer;
        }
        result
    }

    /// Exchanges the code; stable memory stays.
    fn upgrade(&mut self, installation: &Installation) -> Result<(), Reject> {
        let id = installation.canister;
        let canister = self.canister_mut(id)?;
        let has_hook = canister.code.as_ref().is_some_and(|c| c.module.exports("canister_pre_upgrade"));
        let (certified_data, timer) = (canister.certified_data.clone(), canister.timer);
        if has_hook && !installation.skips_pre_upgrade() {
            let message = installation.message(EntryPoint::PreUpgrade);
            let function = Function::Export("canister_pre_upgrade");
            // What the hook wrote to stable memory stays uncommitted until the new code has started.
            self.execute(id, function, Message { argument: Vec::new(), ..message }, Keep::Pending).result?;
        }
        let canister = self.canister_mut(id)?;
        let mut code = canister.code.take();
        let heap = canister.heap.clone();
        if !installation.keeps_heap() {
            canister.heap =
                memory::new_heap().map_err(|e| Reject::new(ErrorCode::CanisterOutOfMemory, e.to_string()))?;
        }
        canister.timer = 0;
        let result = self.start_module(installation, EntryPoint::PostUpgrade, "canister_post_upgrade");
        let canister = self.canister_mut(id)?;
        if result.is_err() {
            if let Some(Code { instance, module }) = &mut code {
                instance.roll_back(module);
            }
            canister.heap = heap;
            canister.code = code;
            canister.certified_data = certified_data;
            canister.timer = timer;
        }
        result
    }

    /// Instantiates the module on the canister's memories and runs its start function and `hook`.
    fn start_module(
        &mut self,
        installation: &Installation,
        entry_point: EntryPoint,
        hook: &str,
    ) -> Result<(), Reject> {
        let id = installation.canister;
        let environment = self.environment(id).ok_or_else(|| Reject::canister_not_found(id))?;
        let canister = self.canister_mut(id)?;
        let mut instance = Instance::new(
            &installation.module,
            canister.heap.clone(),
            canister.stable.clone(),
            environment,
            installation.message(EntryPoint::Start),
        )
        .map_err(|stop| stop.into_reject(id))?;
        let has_start = instance.has_start();
        canister.code = Some(Code { module: installation.module.clone(), instance });
        if has_start {
            self.execute(
                id,
                Function::Export(START_EXPORT),
                installation.message(EntryPoint::Start),
                Keep::Pending,
            )
            .result?;
        }
        if installation.module.exports(hook) {
            self.execute(id, Function::Export(hook), installation.message(entry_point), Keep::Pending)
                .result?;
        }
        let canister = self.canister_mut(id)?;
        canister
            .heap
            .commit(&canister.heap.scan())
            .and_then(|()| canister.stable.commit(&canister.stable.scan()))
            .map_err(|e| Reject::new(ErrorCode::CanisterOutOfMemory, e.to_string()))?;
        if let Some(code) = &mut canister.code {
            code.instance.commit_globals();
        }
        Ok(())
    }

    pub(super) fn uninstall_code(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::CanisterIdRecord = decode(argument)?;
        self.controlled(args.canister_id, caller, "uninstall_code")?;
        self.uninstall(args.canister_id);
        Ok(empty_reply())
    }

    /// Removes a canister's code and memories.
    pub(crate) fn uninstall(&mut self, id: Principal) {
        if let Some(canister) = self.canisters.get_mut(&id) {
            canister.code = None;
            canister.heap.clear();
            canister.stable.clear();
            canister.certified_data.clear();
            canister.timer = 0;
            canister.version += 1;
            canister.total_changes += 1;
        }
        self.abandon_calls(id);
    }
}
