//! Settings, status and other facts about canisters.

use super::{Sender, cycles_of, decode, empty_reply, encode};
use crate::{
    canister::{Canister, LowMemoryHook, Settings, Status, Visibility},
    limits,
    network::Network,
    reject::{ErrorCode, Reject, Response},
};
use candid::{Nat, Principal};
use ic_management_canister_types as types;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

const SECONDS_PER_DAY: u64 = 86_400;

/// The candid types of the three visibility settings have the same shape.
macro_rules! convert_visibility {
    ($($candid:ident)*) => { $(
        impl From<types::$candid> for Visibility {
            fn from(visibility: types::$candid) -> Self {
                match visibility {
                    types::$candid::Controllers => Self::Controllers,
                    types::$candid::Public => Self::Public,
                    types::$candid::AllowedViewers(viewers) => Self::Viewers(viewers),
                }
            }
        }

        impl From<Visibility> for types::$candid {
            fn from(visibility: Visibility) -> Self {
                match visibility {
                    Visibility::Controllers => Self::Controllers,
                    Visibility::Public => Self::Public,
                    Visibility::Viewers(viewers) => Self::AllowedViewers(viewers),
                }
            }
        }
    )* };
}
convert_visibility!(LogVisibility SnapshotVisibility StatusVisibility);

impl From<LowMemoryHook> for types::OnLowWasmMemoryHookStatus {
    fn from(hook: LowMemoryHook) -> Self {
        match hook {
            LowMemoryHook::NotSatisfied => Self::ConditionNotSatisfied,
            LowMemoryHook::Ready => Self::Ready,
            LowMemoryHook::Executed => Self::Executed,
        }
    }
}

impl From<types::OnLowWasmMemoryHookStatus> for LowMemoryHook {
    fn from(status: types::OnLowWasmMemoryHookStatus) -> Self {
        match status {
            types::OnLowWasmMemoryHookStatus::ConditionNotSatisfied => Self::NotSatisfied,
            types::OnLowWasmMemoryHookStatus::Ready => Self::Ready,
            types::OnLowWasmMemoryHookStatus::Executed => Self::Executed,
        }
    }
}

fn check_number(name: &str, value: u128, limit: u128) -> Result<(), Reject> {
    if value > limit {
        return Err(Reject::bad_payload(format!("{name} {value} exceeds the limit of {limit}")));
    }
    Ok(())
}

/// Takes over a number of at most `limit`, if one is given.
fn take_number(name: &str, value: Option<&Nat>, limit: u64, target: &mut u64) -> Result<(), Reject> {
    if let Some(value) = value {
        let value = u64::try_from(&value.0)
            .map_err(|_| Reject::bad_payload(format!("{name} does not fit into 64 bits")))?;
        check_number(name, value.into(), limit.into())?;
        *target = value;
    }
    Ok(())
}

/// Takes over a visibility, if one is given.
fn take_visibility(
    name: &str,
    value: Option<impl Into<Visibility>>,
    target: &mut Visibility,
) -> Result<(), Reject> {
    if let Some(value) = value.map(Into::into) {
        if let Visibility::Viewers(viewers) = &value {
            check_number(
                &format!("{name}: number of viewers"),
                viewers.len() as u128,
                limits::VIEWERS as u128,
            )?;
        }
        *target = value;
    }
    Ok(())
}

/// The variables in the order of their names.
fn checked_variables(variables: Vec<types::EnvironmentVariable>) -> Result<Vec<(String, String)>, Reject> {
    check_number("number of environment_variables", variables.len() as u128, limits::VARIABLES as u128)?;
    let mut by_name = BTreeMap::new();
    for types::EnvironmentVariable { name, value } in variables {
        let limit = limits::VARIABLE_BYTES as u128;
        check_number("environment_variables: bytes of a name", name.len() as u128, limit)?;
        check_number("environment_variables: bytes of a value", value.len() as u128, limit)?;
        if let Some((name, _)) = by_name.get_key_value(&name) {
            return Err(Reject::bad_payload(format!("environment_variables: `{name}` is there twice")));
        }
        by_name.insert(name, value);
    }
    Ok(by_name.into_iter().collect())
}

impl Settings {
    /// Takes over every setting that is given.
    ///
    /// # Errors
    /// `IC0408` when a value is out of range; then nothing has changed.
    pub fn change(&mut self, new: types::CanisterSettings) -> Result<(), Reject> {
        let mut next = self.clone();
        if let Some(controllers) = new.controllers {
            check_number("number of controllers", controllers.len() as u128, limits::CONTROLLERS as u128)?;
            next.controllers = controllers.into();
        }
        let number = take_number;
        number("compute_allocation", new.compute_allocation.as_ref(), 100, &mut next.compute_allocation)?;
        number("memory_allocation", new.memory_allocation.as_ref(), u64::MAX, &mut next.memory_allocation)?;
        number(
            "freezing_threshold",
            new.freezing_threshold.as_ref(),
            u64::MAX,
            &mut next.freezing_threshold,
        )?;
        number(
            "wasm_memory_limit",
            new.wasm_memory_limit.as_ref(),
            (1 << 48) - 1,
            &mut next.wasm_memory_limit,
        )?;
        let threshold = new.wasm_memory_threshold.as_ref();
        number("wasm_memory_threshold", threshold, u64::MAX, &mut next.wasm_memory_threshold)?;
        let log_limit = new.log_memory_limit.as_ref();
        number("log_memory_limit", log_limit, limits::MAX_LOG_BYTES, &mut next.log_memory_limit)?;
        if (1..limits::LOG_BYTES).contains(&next.log_memory_limit) {
            return Err(Reject::bad_payload(format!(
                "log_memory_limit {} is neither 0 nor at least {}",
                next.log_memory_limit,
                limits::LOG_BYTES
            )));
        }
        if let Some(limit) = new.reserved_cycles_limit {
            next.reserved_cycles_limit = cycles_of(&limit)?;
        }
        if let Some(minimum) = new.minimum_incoming_canister_call_cycles {
            next.minimum_incoming_canister_call_cycles = cycles_of(&minimum)?;
        }
        take_visibility("log_visibility", new.log_visibility, &mut next.log_visibility)?;
        take_visibility("snapshot_visibility", new.snapshot_visibility, &mut next.snapshot_visibility)?;
        take_visibility("status_visibility", new.status_visibility, &mut next.status_visibility)?;
        if let Some(variables) = new.environment_variables {
            next.variables = checked_variables(variables)?.into();
        }
        *self = next;
        Ok(())
    }

    fn definite(&self) -> types::DefiniteCanisterSettings {
        types::DefiniteCanisterSettings {
            controllers: self.controllers.to_vec(),
            compute_allocation: self.compute_allocation.into(),
            memory_allocation: self.memory_allocation.into(),
            freezing_threshold: self.freezing_threshold.into(),
            reserved_cycles_limit: self.reserved_cycles_limit.into(),
            minimum_incoming_canister_call_cycles: self.minimum_incoming_canister_call_cycles.into(),
            log_visibility: self.log_visibility.clone().into(),
            log_memory_limit: self.log_memory_limit.into(),
            snapshot_visibility: self.snapshot_visibility.clone().into(),
            status_visibility: self.status_visibility.clone().into(),
            wasm_memory_limit: self.wasm_memory_limit.into(),
            wasm_memory_threshold: self.wasm_memory_threshold.into(),
            environment_variables: self
                .variables
                .iter()
                .map(|(name, value)| types::EnvironmentVariable { name: name.clone(), value: value.clone() })
                .collect(),
        }
    }

    /// The hash of the variables, a map (interface specification, "Hash of map"): SHA-256 of the sorted pairs of hashes.
    fn variables_hash(&self) -> Vec<u8> {
        let hash = |text: &str| <[u8; 32]>::from(Sha256::digest(text));
        let mut pairs: Vec<_> =
            self.variables.iter().map(|(name, value)| [hash(name), hash(value)].concat()).collect();
        pairs.sort_unstable();
        Sha256::digest(pairs.concat()).to_vec()
    }
}

impl Canister {
    /// Changes settings, as far as the balance allows.
    ///
    /// # Errors
    /// `IC0408` when a value is out of range, `IC0530` or `IC0531` when the canister would be frozen with a larger allocation;
    /// then nothing has changed.
    pub fn change_settings(&mut self, new: types::CanisterSettings) -> Result<(), Reject> {
        let old = self.settings.clone();
        self.settings.change(new)?;
        let missing = self.freezing_limit().saturating_sub(self.balance);
        let grown = if self.settings.compute_allocation > old.compute_allocation {
            Some(("compute", ErrorCode::InsufficientCyclesInComputeAllocation))
        } else if self.settings.memory_allocation > old.memory_allocation {
            Some(("memory", ErrorCode::InsufficientCyclesInMemoryAllocation))
        } else {
            None
        };
        if let Some((what, code)) = grown
            && missing > 0
        {
            self.settings = old;
            return Err(Reject::new(
                code,
                format!(
                    "Cannot increase {what} allocation due to insufficient cycles. At least {missing} additional cycles \
                     are required."
                ),
            ));
        }
        self.log.shrink(self.settings.log_memory_limit as usize);
        self.update_low_memory_hook();
        Ok(())
    }

    /// The entry of the history for the canister's creation.
    pub(super) fn creation(&self, has_variables: bool) -> types::ChangeDetails {
        types::ChangeDetails::Creation(types::CreationRecord {
            controllers: self.settings.controllers.to_vec(),
            environment_variables_hash: has_variables.then(|| self.settings.variables_hash()),
        })
    }
}

fn status(canister: &Canister) -> types::CanisterStatusResult {
    let memory = canister.memory();
    let queries = canister.query_stats;
    types::CanisterStatusResult {
        status: canister.status_type(),
        ready_for_migration: matches!(canister.status, Status::Stopped) && canister.open_calls.is_empty(),
        version: canister.version,
        settings: canister.settings.definite(),
        module_hash: canister.code.as_ref().map(|c| c.module.hash.to_vec()),
        memory_size: memory.total().into(),
        memory_metrics: types::MemoryMetrics {
            wasm_memory_size: memory.heap.into(),
            stable_memory_size: memory.stable.into(),
            global_memory_size: memory.globals.into(),
            wasm_binary_size: memory.module.into(),
            custom_sections_size: memory.metadata.into(),
            canister_history_size: memory.history.into(),
            wasm_chunk_store_size: memory.chunks.into(),
            snapshots_size: memory.snapshots.into(),
            log_memory_store_size: memory.log.into(),
        },
        cycles: canister.balance.into(),
        reserved_cycles: Nat::default(),
        idle_cycles_burned_per_day: canister.idle_cycles(SECONDS_PER_DAY).into(),
        query_stats: types::QueryStats {
            num_calls_total: queries.calls.into(),
            num_instructions_total: queries.instructions.into(),
            request_payload_bytes_total: queries.request_bytes.into(),
            response_payload_bytes_total: queries.response_bytes.into(),
        },
    }
}

impl Network {
    pub(super) fn update_settings(&mut self, sender: Sender, argument: &[u8]) -> Response {
        let args: types::UpdateSettingsArgs = decode(argument)?;
        let time = self.time();
        let canister = self.controlled(args.canister_id, sender.id, "update_settings")?;
        let changes_controllers = args.settings.controllers.is_some();
        canister.change_settings(args.settings)?;
        canister.version += 1;
        if changes_controllers {
            let controllers = canister.settings.controllers.to_vec();
            let details =
                types::ChangeDetails::ControllersChange(types::ControllersChangeRecord { controllers });
            canister.record(time, sender.origin(args.sender_canister_version), details);
        }
        self.run_low_memory_hook(args.canister_id);
        Ok(empty_reply())
    }

    pub(super) fn canister_status(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::CanisterIdRecord = decode(argument)?;
        let canister = self.canister(args.canister_id)?;
        if caller == args.canister_id || canister.lets_read(&canister.settings.status_visibility, caller) {
            return encode(status(canister));
        }
        Err(Reject::new(
            ErrorCode::CanisterStatusAccessDenied,
            format!("Caller {caller} is not allowed to access the status of canister {}", args.canister_id),
        ))
    }

    pub(super) fn canister_info(&mut self, argument: &[u8]) -> Response {
        let args: types::CanisterInfoArgs = decode(argument)?;
        let canister = self.canister(args.canister_id)?;
        let requested = args.num_requested_changes.unwrap_or(0);
        encode(types::CanisterInfoResult {
            total_num_changes: canister.history.total(),
            recent_changes: canister.history.newest(requested).cloned().collect(),
            module_hash: canister.code.as_ref().map(|c| c.module.hash.to_vec()),
            controllers: canister.settings.controllers.to_vec(),
        })
    }

    pub(super) fn canister_metadata(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::CanisterMetadataArgs = decode(argument)?;
        let canister = self.canister(args.canister_id)?;
        let rejected = |text: String| Err(Reject::new(ErrorCode::CanisterRejectedMessage, text));
        let Some(code) = &canister.code else {
            return rejected(format!(
                "The canister {} has no Wasm module and hence no metadata is available.",
                args.canister_id
            ));
        };
        match code.module.metadata.get(&args.name) {
            Some(m) if m.public || canister.is_controlled_by(caller) => {
                encode(types::CanisterMetadataResult { value: m.content.clone() })
            }
            _ => rejected(format!(
                "The canister {} has no metadata section with the name {}.",
                args.canister_id, args.name
            )),
        }
    }
}
