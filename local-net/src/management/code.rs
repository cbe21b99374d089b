//! Installing, upgrading and removing code. Either all of it happens, or nothing.

use super::{Sender, decode, empty_reply};
use crate::{
    canister::Code,
    execution::{Function, Instance},
    limits,
    memory::{self, Memory},
    module::{self, CompiledModule, START_EXPORT},
    network::{Keep, Network},
    reject::{ErrorCode, Reject, Response},
    system_api::{EntryPoint, Message},
};
use candid::Principal;
use ic_management_canister_types as types;
use sha2::{Digest, Sha256};
use std::{io, sync::Arc};
use types::CanisterInstallMode as Mode;

/// Who installs what.
struct Installation {
    canister: Principal,
    caller: Principal,
    mode: Mode,
    module: Arc<CompiledModule>,
    argument: Vec<u8>,
    /// How the history calls the caller.
    origin: types::ChangeOrigin,
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

    /// Checks that the heap is kept if and only if the modules say that they can do with it (Motoko's enhanced orthogonal
    /// persistence).
    fn check_persistence(&self, old: &CompiledModule) -> Result<(), Reject> {
        let persists = |module: &CompiledModule| module.metadata.contains_key(PERSISTENCE_SECTION);
        let chosen = match self.mode {
            Mode::Upgrade(Some(flags)) => flags.wasm_memory_persistence,
            _ => None,
        };
        let text = match chosen {
            Some(types::WasmMemoryPersistence::Keep) if !persists(&self.module) => {
                "Invalid upgrade option: The `wasm_memory_persistence: opt Keep` upgrade option requires that the new \
                 canister module supports enhanced orthogonal persistence."
            }
            None if persists(old) => {
                "Missing upgrade option: Enhanced orthogonal persistence requires the `wasm_memory_persistence` upgrade \
                 option."
            }
            _ => return Ok(()),
        };
        Err(Reject::new(ErrorCode::CanisterContractViolation, text))
    }

    fn skips_pre_upgrade(&self) -> bool {
        matches!(self.mode, Mode::Upgrade(Some(types::UpgradeFlags { skip_pre_upgrade: Some(true), .. })))
    }
}

/// Name of the metadata that modules with enhanced orthogonal persistence have.
const PERSISTENCE_SECTION: &str = "enhanced-orthogonal-persistence";

fn new_memory(new: fn() -> io::Result<Arc<Memory>>) -> Result<Arc<Memory>, Reject> {
    new().map_err(|e| Reject::new(ErrorCode::CanisterOutOfMemory, e.to_string()))
}

impl Network {
    pub(super) fn install_code(&mut self, sender: Sender, argument: &[u8]) -> Response {
        let args: types::InstallCodeArgs = decode(argument)?;
        self.controlled(args.canister_id, sender.id, "install_code")?;
        let module = module::compile(&args.wasm_module)?;
        self.install(&Installation {
            canister: args.canister_id,
            caller: sender.id,
            mode: args.mode,
            module,
            argument: args.arg,
            origin: sender.origin(args.sender_canister_version),
        })?;
        Ok(empty_reply())
    }

    pub(super) fn install_chunked_code(&mut self, sender: Sender, argument: &[u8]) -> Response {
        let args: types::InstallChunkedCodeArgs = decode(argument)?;
        let target = self.controlled(args.target_canister, sender.id, "install_chunked_code")?.subnet;
        let store_id = args.store_canister.unwrap_or(args.target_canister);
        let store = self.canister(store_id)?;
        if store_id != sender.id && !store.is_controlled_by(sender.id) {
            return Err(Reject::new(
                ErrorCode::CanisterInvalidController,
                format!("Only controllers of canister {store_id} can install from its chunk store"),
            ));
        }
        if store.subnet != target {
            return Err(Reject::bad_payload(format!("the canister {store_id} is on another subnet")));
        }
        let mut wasm = Vec::new();
        for chunk in &args.chunk_hashes_list {
            let hash = <[u8; 32]>::try_from(chunk.hash.as_slice()).ok();
            let bytes = hash.and_then(|hash| store.chunks.get(&hash)).ok_or_else(|| {
                Reject::bad_payload(format!("chunk {} is not in the chunk store", hex::encode(&chunk.hash)))
            })?;
            wasm.extend_from_slice(bytes);
            if wasm.len() > limits::MODULE_BYTES {
                return Err(module::ModuleError::TooLarge.into());
            }
        }
        let hash = Sha256::digest(&wasm);
        if hash[..] != args.wasm_module_hash {
            return Err(Reject::bad_payload(format!(
                "the chunks' hash is {}, not the expected {}",
                hex::encode(hash),
                hex::encode(&args.wasm_module_hash)
            )));
        }
        self.install(&Installation {
            canister: args.target_canister,
            caller: sender.id,
            mode: args.mode,
            module: module::compile(&wasm)?,
            argument: args.arg,
            origin: sender.origin(args.sender_canister_version),
        })?;
        Ok(empty_reply())
    }

    fn install(&mut self, installation: &Installation) -> Result<(), Reject> {
        let id = installation.canister;
        let canister = self.canister(id)?;
        let mode = match installation.mode {
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
            Mode::Install => types::CodeDeploymentMode::Install,
            Mode::Reinstall => types::CodeDeploymentMode::Reinstall,
            Mode::Upgrade(_) => types::CodeDeploymentMode::Upgrade,
        };
        canister.check_cycles(0)?;
        match installation.mode {
            Mode::Upgrade(_) => self.upgrade(installation)?,
            Mode::Install | Mode::Reinstall => self.install_fresh(installation)?,
        }
        let time = self.time();
        let canister = self.canister_mut(id)?;
        let details = types::ChangeDetails::CodeDeployment(types::CodeDeploymentRecord {
            mode,
            module_hash: installation.module.hash.to_vec(),
        });
        canister.record(time, installation.origin.clone(), details);
        canister.update_low_memory_hook();
        self.run_low_memory_hook(id);
        Ok(())
    }

    /// Upgrades a canister to the module it has, as its first controller, with empty Candid arguments.
    pub(crate) fn upgrade_to_itself(&mut self, id: Principal) -> Result<(), Reject> {
        let canister = self.canister(id)?;
        let code = canister.code.as_ref().ok_or_else(|| Reject::no_module(id))?;
        let caller = canister.settings.controllers.first().copied().unwrap_or(id);
        let installation = Installation {
            canister: id,
            caller,
            mode: Mode::Upgrade(None),
            module: code.module.clone(),
            argument: empty_reply(),
            origin: Sender { id: caller, is_canister: false }.origin(None),
        };
        self.install(&installation)
    }

    /// Installs with empty memories.
    fn install_fresh(&mut self, installation: &Installation) -> Result<(), Reject> {
        let (heap, stable) = (new_memory(memory::new_heap)?, new_memory(memory::new_stable)?);
        let canister = self.canister_mut(installation.canister)?;
        let heap = std::mem::replace(&mut canister.heap, heap);
        let stable = std::mem::replace(&mut canister.stable, stable);
        let code = canister.code.take();
        let certified_data = std::mem::take(&mut canister.certified_data);
        let timer = std::mem::take(&mut canister.timer);
        canister.version += 1;
        let result = self.start_module(installation, EntryPoint::Init, "canister_init");
        let canister = self.canister_mut(installation.canister)?;
        if result.is_ok() {
            if installation.mode == Mode::Reinstall {
                canister.log.clear();
            }
        } else {
            canister.version -= 1;
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
        let heap = if installation.keeps_heap() { None } else { Some(new_memory(memory::new_heap)?) };
        let canister = self.canister_mut(id)?;
        if let Some(code) = &canister.code {
            installation.check_persistence(&code.module)?;
        }
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
        let old_heap = canister.heap.clone();
        if let Some(heap) = heap {
            canister.heap = heap;
        }
        canister.timer = 0;
        canister.version += 1;
        let result = self.start_module(installation, EntryPoint::PostUpgrade, "canister_post_upgrade");
        let canister = self.canister_mut(id)?;
        if result.is_err() {
            canister.version -= 1;
            if let Some(code) = &mut code {
                code.instance.roll_back();
            }
            canister.heap = old_heap;
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
        let (heap, stable) = (canister.heap.clone(), canister.stable.clone());
        let message = installation.message(EntryPoint::Start);
        // A kept heap has its own content where the new module has data segments.
        let instantiate = if installation.keeps_heap() { Instance::resume } else { Instance::new };
        let mut instance = instantiate(&installation.module, heap, stable, environment, message)
            .map_err(|stop| stop.into_reject(id, ""))?;
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
        canister.check_cycles(0)?;
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

    pub(super) fn uninstall_code(&mut self, sender: Sender, argument: &[u8]) -> Response {
        let args: types::UninstallCodeArgs = decode(argument)?;
        self.controlled(args.canister_id, sender.id, "uninstall_code")?;
        self.uninstall_for(args.canister_id, sender.origin(args.sender_canister_version));
        Ok(empty_reply())
    }

    /// Removes a canister's code and memories at somebody's request.
    pub(super) fn uninstall_for(&mut self, id: Principal, origin: types::ChangeOrigin) {
        self.uninstall(id);
        let time = self.time();
        if let Some(canister) = self.canisters.get_mut(&id) {
            canister.record(time, origin, types::ChangeDetails::CodeUninstall);
        }
    }

    /// Removes code, memories, snapshots and history of a canister that cannot pay for its storage.
    pub(crate) fn run_out_of_cycles(&mut self, id: Principal) {
        self.uninstall(id);
        if let Some(canister) = self.canisters.get_mut(&id) {
            canister.snapshots.clear();
            canister.history.forget();
            canister.settings.compute_allocation = 0;
            canister.settings.memory_allocation = 0;
        }
    }

    /// Removes a canister's code, memories, chunk store and log.
    fn uninstall(&mut self, id: Principal) {
        if let Some(canister) = self.canisters.get_mut(&id) {
            canister.code = None;
            canister.heap.clear();
            canister.stable.clear();
            canister.certified_data.clear();
            canister.chunks.clear();
            canister.log.clear();
            canister.timer = 0;
            canister.version += 1;
            canister.update_low_memory_hook();
        }
        self.abandon_calls(id);
    }
}
