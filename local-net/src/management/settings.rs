//! Settings, status and other facts about canisters.

use super::{decode, empty_reply, encode};
use crate::{
    canister::{Canister, Settings},
    limits,
    network::Network,
    reject::{ErrorCode, Reject, Response},
};
use candid::{Nat, Principal};
use ic_management_canister_types as types;

const SECONDS_PER_DAY: u64 = 86_400;

fn number(name: &str, value: &Nat) -> Result<u64, Reject> {
    u64::try_from(&value.0).map_err(|_| Reject::bad_payload(format!("{name} does not fit into 64 bits")))
}

impl Settings {
    /// Takes over every setting that is given.
    ///
    /// # Errors
    /// `IC0408` when a value is out of range; then nothing has changed.
    pub fn change(&mut self, new: types::CanisterSettings) -> Result<(), Reject> {
        let mut next = self.clone();
        if let Some(controllers) = new.controllers {
            if controllers.len() > limits::CONTROLLERS {
                return Err(Reject::bad_payload(format!(
                    "{} controllers exceed the limit of {}",
                    controllers.len(),
                    limits::CONTROLLERS
                )));
            }
            next.controllers = controllers.into();
        }
        let take = |name: &str, value: Option<Nat>, limit: u64, target: &mut u64| -> Result<(), Reject> {
            if let Some(value) = value {
                let value = number(name, &value)?;
                if value > limit {
                    return Err(Reject::bad_payload(format!("{name} {value} exceeds the limit of {limit}")));
                }
                *target = value;
            }
            Ok(())
        };
        take("compute_allocation", new.compute_allocation, 100, &mut next.compute_allocation)?;
        take("memory_allocation", new.memory_allocation, 1 << 43, &mut next.memory_allocation)?;
        take("freezing_threshold", new.freezing_threshold, u64::MAX, &mut next.freezing_threshold)?;
        take("wasm_memory_limit", new.wasm_memory_limit, 1 << 48, &mut next.wasm_memory_limit)?;
        take("wasm_memory_threshold", new.wasm_memory_threshold, u64::MAX, &mut next.wasm_memory_threshold)?;
        if let Some(limit) = new.reserved_cycles_limit {
            next.reserved_cycles_limit = super::cycles_of(&limit)?;
        }
        if let Some(visibility) = new.log_visibility {
            next.log_visibility = visibility;
        }
        if let Some(variables) = new.environment_variables {
            next.variables = variables.into_iter().map(|v| (v.name, v.value)).collect();
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
            minimum_incoming_canister_call_cycles: Nat::default(),
            log_visibility: self.log_visibility.clone(),
            log_memory_limit: limits::LOG_BYTES.into(),
            snapshot_visibility: types::SnapshotVisibility::Controllers,
            status_visibility: types::StatusVisibility::Controllers,
            wasm_memory_limit: self.wasm_memory_limit.into(),
            wasm_memory_threshold: self.wasm_memory_threshold.into(),
            environment_variables: self
                .variables
                .iter()
                .map(|(name, value)| types::EnvironmentVariable { name: name.clone(), value: value.clone() })
                .collect(),
        }
    }
}

fn status(canister: &Canister) -> types::CanisterStatusResult {
    let module_bytes = canister.code.as_ref().map_or(0, |c| c.module.bytes);
    let chunk_bytes: usize = canister.chunks.values().map(Vec::len).sum();
    let zero = Nat::default;
    types::CanisterStatusResult {
        status: canister.status_type(),
        ready_for_migration: false,
        version: canister.version,
        settings: canister.settings.definite(),
        module_hash: canister.code.as_ref().map(|c| c.module.hash.to_vec()),
        memory_size: canister.memory_usage().into(),
        memory_metrics: types::MemoryMetrics {
            wasm_memory_size: canister.heap.len().into(),
            stable_memory_size: canister.stable.len().into(),
            global_memory_size: zero(),
            wasm_binary_size: module_bytes.into(),
            custom_sections_size: zero(),
            canister_history_size: zero(),
            wasm_chunk_store_size: chunk_bytes.into(),
            snapshots_size: zero(),
            log_memory_store_size: zero(),
        },
        cycles: canister.balance.into(),
        reserved_cycles: zero(),
        idle_cycles_burned_per_day: canister.fees.storage(canister.memory_usage(), SECONDS_PER_DAY).into(),
        query_stats: types::QueryStats {
            num_calls_total: zero(),
            num_instructions_total: zero(),
            request_payload_bytes_total: zero(),
            response_payload_bytes_total: zero(),
        },
    }
}

impl Network {
    pub(super) fn update_settings(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::UpdateSettingsArgs = decode(argument)?;
        let canister = self.controlled(args.canister_id, caller, "update_settings")?;
        let changes_controllers = args.settings.controllers.is_some();
        canister.settings.change(args.settings)?;
        canister.version += 1;
        canister.total_changes += u64::from(changes_controllers);
        Ok(empty_reply())
    }

    pub(super) fn canister_status(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::CanisterIdRecord = decode(argument)?;
        if caller == args.canister_id {
            return encode(status(self.canister(args.canister_id)?));
        }
        encode(status(self.controlled(args.canister_id, caller, "canister_status")?))
    }

    pub(super) fn canister_info(&mut self, argument: &[u8]) -> Response {
        let args: types::CanisterInfoArgs = decode(argument)?;
        let canister = self.canister(args.canister_id)?;
        encode(types::CanisterInfoResult {
            total_num_changes: canister.total_changes,
            recent_changes: Vec::new(),
            module_hash: canister.code.as_ref().map(|c| c.module.hash.to_vec()),
            controllers: canister.settings.controllers.to_vec(),
        })
    }

    pub(super) fn canister_metadata(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::CanisterMetadataArgs = decode(argument)?;
        let canister = self.canister(args.canister_id)?;
        let metadata = canister.code.as_ref().and_then(|c| c.module.metadata.get(&args.name));
        match metadata {
            Some(m) if m.public || canister.is_controlled_by(caller) => {
                encode(types::CanisterMetadataResult { value: m.content.clone() })
            }
            _ => Err(Reject::new(
                ErrorCode::InvalidManagementPayload,
                format!("Canister {} has no metadata named '{}'", args.canister_id, args.name),
            )),
        }
    }
}
