//! The functions of the import module `ic0`.

use super::{
    Closure, Execution, OutgoingCall, Stop, charge,
    entry_point::{
        ALL, ALL_AND_START, ANSWER, ARGUMENT, BURN, CALL, CALL_CYCLES, CALLBACKS, CALLER_INFO, CERTIFICATE,
        CERTIFY, CYCLES, DEADLINE, EntryPoints, INSPECT, REJECT_CODE, REJECT_MESSAGE, TIMER,
    },
    used,
};
use crate::{
    costs::{CALL_NEW, CALL_PERFORM, PERFORMANCE_COUNTER, STABLE_ACCESS, SYSTEM_CALL, WASM_PAGE},
    limits,
    management::{MAX_RESPONSE_BYTES, THRESHOLD_KEYS},
};
use candid::{CandidType, Deserialize, Principal};
use wasmtime::{Caller, Error, Linker, Result};

/// What a stable memory function returns when it cannot grow.
const GROW_FAILED: u64 = u64::MAX;

fn check(caller: &Caller<'_, Execution>, name: &str, allowed: EntryPoints) -> Result<(), Stop> {
    let entry = caller.data().message.entry_point;
    if allowed.contains(entry) {
        Ok(())
    } else {
        Err(Stop::Contract(format!("\"ic0_{name}\" cannot be executed in {} mode", entry.name())))
    }
}

/// Defines functions: from where each may be called, what it costs, and what it does with the execution's state.
macro_rules! define {
    ($linker:ident; $($allowed:expr, $cost:expr =>
        fn $name:ident($c:ident $(, $a:ident: $t:ty)*) $(-> $r:ty)? $body:block)*) => { $(
        #[allow(unused_parens)]
        $linker.func_wrap(
            "ic0",
            stringify!($name),
            |mut caller: Caller<'_, Execution> $(, $a: $t)*| -> Result<($($r)?)> {
                check(&caller, stringify!($name), $allowed).map_err(Error::new)?;
                charge(&mut caller, $cost).map_err(Error::new)?;
                #[allow(unused_variables)]
                let $c = caller.data_mut();
                #[allow(clippy::redundant_closure_call)]
                (move || -> Result<($($r)?), Stop> { Ok($body) })().map_err(Error::new)
            },
        )?;
    )* };
}

/// Defines the pair `…_size` and `…_copy` for a value.
macro_rules! define_value {
    ($linker:ident; $($allowed:expr => $size:ident, $copy:ident, |$c:ident| $value:expr;)*) => { $(
        define!($linker;
            $allowed, SYSTEM_CALL => fn $size($c) -> u32 { let value: &[u8] = $value; value.len() as u32 }
            $allowed, SYSTEM_CALL + u64::from(size) => fn $copy($c, dst: u32, offset: u32, size: u32) {
                let value: &[u8] = $value;
                $c.put(dst, value, offset, size)?;
            }
        );
    )* };
}

fn wide(high: u64, low: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

fn narrow(cycles: u128) -> Result<u64, Stop> {
    u64::try_from(cycles).map_err(|_| Stop::Trapped("cycles amount exceeds 64-bit representation".into()))
}

/// Adds all functions of `ic0` 1.2.0 to `linker`, and the deprecated 32-bit and 64-bit ones of the specification.
///
/// # Errors
/// When a name is defined twice.
pub fn link(linker: &mut Linker<Execution>) -> Result<()> {
    link_message(linker)?;
    link_cycles(linker)?;
    link_calls(linker)?;
    link_stable(linker)?;
    link_canister(linker)?;
    link_costs(linker)?;
    link_counter(linker)
}

fn link_message(linker: &mut Linker<Execution>) -> Result<()> {
    define_value!(linker;
        ARGUMENT => msg_arg_data_size, msg_arg_data_copy, |c| &c.message.argument;
        ALL => msg_caller_size, msg_caller_copy, |c| c.message.caller.as_slice();
        CALLER_INFO => msg_caller_info_data_size, msg_caller_info_data_copy, |c| &[];
        CALLER_INFO => msg_caller_info_signer_size, msg_caller_info_signer_copy, |c| &[];
        REJECT_MESSAGE => msg_reject_msg_size, msg_reject_msg_copy,
            |c| c.message.reject.as_ref().map_or("", |r| &r.message).as_bytes();
        INSPECT => msg_method_name_size, msg_method_name_copy, |c| c.message.method.as_bytes();
    );
    define!(linker;
        REJECT_CODE, SYSTEM_CALL => fn msg_reject_code(c) -> u32 {
            c.message.reject.as_ref().map_or(0, |r| r.code.reject_code() as u32)
        }
        DEADLINE, SYSTEM_CALL => fn msg_deadline(c) -> u64 { c.message.deadline }
        ANSWER, SYSTEM_CALL + u64::from(size) => fn msg_reply_data_append(c, src: u32, size: u32) {
            c.append_reply(src, size)?;
        }
        ANSWER, SYSTEM_CALL => fn msg_reply(c) {
            let reply = std::mem::take(&mut c.reply);
            c.answer(Ok(reply))?;
        }
        ANSWER, SYSTEM_CALL + u64::from(size) => fn msg_reject(c, src: u32, size: u32) {
            let text = c.name(src, size, "reject message")?;
            c.answer(Err(text))?;
        }
        INSPECT, SYSTEM_CALL => fn accept_message(c) {
            if std::mem::replace(&mut c.effects.accepted, true) {
                return Err(Stop::Contract("the message has already been accepted".into()));
            }
        }
        ALL_AND_START, SYSTEM_CALL + u64::from(size) => fn debug_print(c, src: u32, size: u32) {
            let line = c.heap_bytes(src, size).unwrap_or(b"(debug_print message out of memory bounds)");
            c.effects.log.push(line.to_vec());
        }
        ALL_AND_START, SYSTEM_CALL + u64::from(size) => fn trap(c, src: u32, size: u32) {
            Err(Stop::CalledTrap(c.text(src, size)?))?;
        }
    );
    Ok(())
}

fn link_cycles(linker: &mut Linker<Execution>) -> Result<()> {
    fn accept(c: &mut Execution, limit: u128) -> u128 {
        let amount = limit.min(c.message.cycles_available);
        c.message.cycles_available -= amount;
        c.effects.cycles_accepted += amount;
        c.effects.balance += amount;
        amount
    }
    define!(linker;
        CYCLES, SYSTEM_CALL => fn msg_cycles_available128(c, dst: u32) { c.put_u128(dst, c.message.cycles_available)?; }
        CYCLES, SYSTEM_CALL => fn msg_cycles_available(c) -> u64 { narrow(c.message.cycles_available)? }
        CALLBACKS, SYSTEM_CALL => fn msg_cycles_refunded128(c, dst: u32) { c.put_u128(dst, c.message.cycles_refunded)?; }
        CALLBACKS, SYSTEM_CALL => fn msg_cycles_refunded(c) -> u64 { narrow(c.message.cycles_refunded)? }
        CYCLES, SYSTEM_CALL => fn msg_cycles_accept128(c, high: u64, low: u64, dst: u32) {
            let amount = accept(c, wide(high, low));
            c.put_u128(dst, amount)?;
        }
        CYCLES, SYSTEM_CALL => fn msg_cycles_accept(c, limit: u64) -> u64 { accept(c, u128::from(limit)) as u64 }
        BURN, SYSTEM_CALL => fn cycles_burn128(c, high: u64, low: u64, dst: u32) {
            let amount = wide(high, low).min(c.liquid_balance());
            c.effects.balance -= amount;
            c.put_u128(dst, amount)?;
        }
        ALL, SYSTEM_CALL => fn canister_cycle_balance128(c, dst: u32) { c.put_u128(dst, c.effects.balance)?; }
        ALL, SYSTEM_CALL => fn canister_cycle_balance(c) -> u64 { narrow(c.effects.balance)? }
        ALL, SYSTEM_CALL => fn canister_liquid_cycle_balance128(c, dst: u32) { c.put_u128(dst, c.liquid_balance())?; }
    );
    Ok(())
}

fn link_calls(linker: &mut Linker<Execution>) -> Result<()> {
    define!(linker;
        CALL, CALL_NEW => fn call_new(
            c, callee_src: u32, callee_size: u32, name_src: u32, name_size: u32,
            reply_fun: u32, reply_env: u32, reject_fun: u32, reject_env: u32
        ) {
            c.abandon_call();
            let callee = Principal::try_from_slice(c.heap_bytes(callee_src, callee_size)?)
                .map_err(|e| Stop::Contract(format!("the callee is no principal: {e}")))?;
            if name_size as usize > limits::METHOD_NAME_BYTES {
                return Err(Stop::Contract(format!(
                    "the method name of {name_size} bytes exceeds the limit of {}", limits::METHOD_NAME_BYTES
                )));
            }
            let method = c.name(name_src, name_size, "method name")?;
            c.call = Some(OutgoingCall {
                callee,
                method,
                argument: Vec::new(),
                cycles: 0,
                on_reply: Closure { function: reply_fun, environment: reply_env },
                on_reject: Closure { function: reject_fun, environment: reject_env },
                on_cleanup: None,
                timeout_seconds: None,
                prepaid: 0,
                sender_version: c.environment.version,
            });
        }
        CALL, SYSTEM_CALL => fn call_on_cleanup(c, function: u32, environment: u32) {
            let call = c.current_call()?;
            if call.on_cleanup.replace(Closure { function, environment }).is_some() {
                return Err(Stop::Contract("the call has a cleanup callback already".into()));
            }
        }
        CALL, SYSTEM_CALL + u64::from(size) => fn call_data_append(c, src: u32, size: u32) {
            c.append_argument(src, size)?;
        }
        CALL, SYSTEM_CALL => fn call_with_best_effort_response(c, timeout_seconds: u32) {
            let call = c.current_call()?;
            if call.timeout_seconds.replace(timeout_seconds).is_some() {
                return Err(Stop::Contract("the call has a timeout already".into()));
            }
        }
        CALL_CYCLES, SYSTEM_CALL => fn call_cycles_add128(c, high: u64, low: u64) { c.add_call_cycles(wide(high, low))?; }
        CALL_CYCLES, SYSTEM_CALL => fn call_cycles_add(c, amount: u64) { c.add_call_cycles(u128::from(amount))?; }
        CALL, CALL_PERFORM => fn call_perform(c) -> u32 { c.perform_call()? }
    );
    Ok(())
}

/// Grows stable memory by `pages`; the old number of pages, or [`GROW_FAILED`].
fn grow_stable(c: &mut Execution, pages: u64) -> u64 {
    let old = (c.stable.len() / WASM_PAGE) as u64;
    let new = old.checked_add(pages).and_then(|pages| pages.checked_mul(WASM_PAGE as u64));
    match new {
        Some(bytes) if bytes <= limits::STABLE_BYTES && c.stable.grow(bytes as usize) => old,
        _ => GROW_FAILED,
    }
}

fn stable_write(caller: &mut Caller<'_, Execution>, offset: u64, src: u64, size: u64) -> Result<(), Stop> {
    let c = caller.data_mut();
    let range = c.stable_range(offset, size)?;
    let instructions = c.touch_stable(range, true)?;
    charge(caller, STABLE_ACCESS + instructions)?;
    let c = caller.data();
    let (Ok(src), Ok(size)) = (u32::try_from(src), u32::try_from(size)) else {
        return Err(Stop::heap_out_of_bounds());
    };
    let bytes = c.heap_bytes(src, size)?;
    if c.stable.write(offset as usize, bytes) { Ok(()) } else { Err(Stop::stable_out_of_bounds()) }
}

fn stable_read(caller: &mut Caller<'_, Execution>, dst: u64, offset: u64, size: u64) -> Result<(), Stop> {
    let c = caller.data_mut();
    let range = c.stable_range(offset, size)?;
    let instructions = c.touch_stable(range.clone(), false)?;
    charge(caller, STABLE_ACCESS + instructions)?;
    let c = caller.data();
    let bytes = c.stable.get(range).ok_or_else(Stop::stable_out_of_bounds)?;
    let written = usize::try_from(dst).is_ok_and(|dst| c.heap.write(dst, bytes));
    if written { Ok(()) } else { Err(Stop::heap_out_of_bounds()) }
}

/// The size of stable memory for the 32-bit interface.
fn narrow_stable(c: &Execution) -> Result<u64, Stop> {
    let bytes = c.stable.len() as u64;
    if bytes > limits::HEAP_BYTES { Err(Stop::stable_too_large()) } else { Ok(bytes) }
}

fn link_stable(linker: &mut Linker<Execution>) -> Result<()> {
    define!(linker;
        ALL_AND_START, STABLE_ACCESS => fn stable64_size(c) -> u64 { (c.stable.len() / WASM_PAGE) as u64 }
        ALL_AND_START, SYSTEM_CALL => fn stable64_grow(c, pages: u64) -> u64 { grow_stable(c, pages) }
        ALL_AND_START, STABLE_ACCESS => fn stable_size(c) -> u32 { (narrow_stable(c)? / WASM_PAGE as u64) as u32 }
        ALL_AND_START, SYSTEM_CALL => fn stable_grow(c, pages: u32) -> u32 {
            if narrow_stable(c)? + u64::from(pages) * WASM_PAGE as u64 > limits::HEAP_BYTES {
                u32::MAX
            } else {
                grow_stable(c, u64::from(pages)) as u32
            }
        }
    );
    linker.func_wrap(
        "ic0",
        "stable64_write",
        |mut c: Caller<'_, Execution>, offset: u64, src: u64, size: u64| {
            stable_write(&mut c, offset, src, size).map_err(Error::new)
        },
    )?;
    linker.func_wrap(
        "ic0",
        "stable64_read",
        |mut c: Caller<'_, Execution>, dst: u64, offset: u64, size: u64| {
            stable_read(&mut c, dst, offset, size).map_err(Error::new)
        },
    )?;
    linker.func_wrap(
        "ic0",
        "stable_write",
        |mut c: Caller<'_, Execution>, offset: u32, src: u32, size: u32| {
            narrow_stable(c.data()).map_err(Error::new)?;
            stable_write(&mut c, u64::from(offset), u64::from(src), u64::from(size)).map_err(Error::new)
        },
    )?;
    linker.func_wrap(
        "ic0",
        "stable_read",
        |mut c: Caller<'_, Execution>, dst: u32, offset: u32, size: u32| {
            narrow_stable(c.data()).map_err(Error::new)?;
            stable_read(&mut c, u64::from(dst), u64::from(offset), u64::from(size)).map_err(Error::new)
        },
    )?;
    Ok(())
}

fn link_canister(linker: &mut Linker<Execution>) -> Result<()> {
    fn variable(c: &Execution, src: u32, size: u32) -> Result<Option<&str>, Stop> {
        let name = c.name(src, size, "name of the environment variable")?;
        Ok(c.environment.variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str()))
    }
    fn variable_name(c: &Execution, index: u32) -> Result<&[u8], Stop> {
        let entry = c.environment.variables.get(index as usize);
        entry
            .map(|(name, _)| name.as_bytes())
            .ok_or_else(|| Stop::Contract(format!("no environment variable has the index {index}")))
    }
    fn known(value: Option<&str>) -> Result<&[u8], Stop> {
        value.map(str::as_bytes).ok_or_else(|| Stop::Contract("no environment variable has this name".into()))
    }
    define_value!(linker;
        ALL => canister_self_size, canister_self_copy, |c| c.environment.canister.as_slice();
        ALL => subnet_self_size, subnet_self_copy, |c| c.environment.subnet.as_slice();
        BURN => root_key_size, root_key_copy, |c| &c.environment.root_key;
        CERTIFICATE => data_certificate_size, data_certificate_copy, |c| c.message.certificate.as_ref()
            .ok_or_else(|| Stop::Contract("there is no data certificate".into()))?
            .bytes();
    );
    define!(linker;
        ALL, SYSTEM_CALL => fn canister_status(c) -> u32 { c.environment.status }
        ALL, SYSTEM_CALL => fn canister_version(c) -> u64 { c.environment.version }
        ALL, SYSTEM_CALL => fn subnet_self_node_count(c) -> u32 { c.environment.fees.nodes }
        CERTIFY, SYSTEM_CALL + u64::from(size) => fn certified_data_set(c, src: u32, size: u32) {
            if size as usize > limits::CERTIFIED_DATA_BYTES {
                return Err(Stop::Contract(format!(
                    "{size} bytes of certified data exceed the limit of {}", limits::CERTIFIED_DATA_BYTES
                )));
            }
            c.effects.certified_data = Some(c.heap_bytes(src, size)?.to_vec());
        }
        ALL, SYSTEM_CALL => fn data_certificate_present(c) -> u32 { u32::from(c.message.certificate.is_some()) }
        ALL, SYSTEM_CALL => fn time(c) -> u64 { c.environment.time }
        TIMER, SYSTEM_CALL => fn global_timer_set(c, time: u64) -> u64 {
            c.effects.timer.replace(time).unwrap_or(c.timer_before)
        }
        ALL_AND_START, SYSTEM_CALL + u64::from(size) => fn is_controller(c, src: u32, size: u32) -> u32 {
            let principal = Principal::try_from_slice(c.heap_bytes(src, size)?)
                .map_err(|e| Stop::Contract(format!("not a principal: {e}")))?;
            u32::from(c.environment.controllers.contains(&principal))
        }
        ALL_AND_START, SYSTEM_CALL => fn in_replicated_execution(c) -> u32 {
            u32::from(c.message.entry_point.is_replicated())
        }
        ALL, SYSTEM_CALL => fn env_var_count(c) -> u32 { c.environment.variables.len() as u32 }
        ALL, SYSTEM_CALL => fn env_var_name_size(c, index: u32) -> u32 { variable_name(c, index)?.len() as u32 }
        ALL, SYSTEM_CALL + u64::from(size) => fn env_var_name_copy(c, index: u32, dst: u32, offset: u32, size: u32) {
            c.put(dst, variable_name(c, index)?, offset, size)?;
        }
        ALL, SYSTEM_CALL => fn env_var_name_exists(c, src: u32, size: u32) -> u32 {
            u32::from(variable(c, src, size)?.is_some())
        }
        ALL, SYSTEM_CALL => fn env_var_value_size(c, src: u32, size: u32) -> u32 {
            known(variable(c, src, size)?)?.len() as u32
        }
        ALL, SYSTEM_CALL + u64::from(size) => fn env_var_value_copy(
            c, src: u32, src_size: u32, dst: u32, offset: u32, size: u32
        ) {
            c.put(dst, known(variable(c, src, src_size)?)?, offset, size)?;
        }
    );
    Ok(())
}

fn link_costs(linker: &mut Linker<Execution>) -> Result<()> {
    define!(linker;
        ALL_AND_START, SYSTEM_CALL => fn cost_call(c, name_size: u64, payload_size: u64, dst: u32) {
            let bytes = name_size.saturating_add(payload_size);
            c.put_u128(dst, c.environment.fees.call(bytes) + c.environment.fees.response_reserve())?;
        }
        ALL_AND_START, SYSTEM_CALL => fn cost_create_canister(c, dst: u32) {
            c.put_u128(dst, c.environment.fees.canister_creation())?;
        }
        ALL_AND_START, SYSTEM_CALL => fn cost_http_request(c, request_size: u64, max_res_bytes: u64, dst: u32) {
            c.put_u128(dst, c.environment.fees.http_request(request_size, max_res_bytes))?;
        }
        ALL_AND_START, SYSTEM_CALL + u64::from(size) => fn cost_http_request_v2(c, src: u32, size: u32, dst: u32) {
            let resources: HttpResources = candid::decode_one(c.heap_bytes(src, size)?)
                .map_err(|e| Stop::Contract(format!("cost_http_request_v2: {e}")))?;
            // Enough for a response of any size: this network charges by the limit that the request will name.
            let fee = c.environment.fees.http_request(resources.request_bytes, MAX_RESPONSE_BYTES);
            c.put_u128(dst, fee)?;
        }
        ALL_AND_START, SYSTEM_CALL + u64::from(size) => fn cost_sign_with_ecdsa(
            c, src: u32, size: u32, curve: u32, dst: u32
        ) -> u32 { threshold_cost(c, src, size, curve, dst)? }
        ALL_AND_START, SYSTEM_CALL + u64::from(size) => fn cost_sign_with_schnorr(
            c, src: u32, size: u32, algorithm: u32, dst: u32
        ) -> u32 { threshold_cost(c, src, size, algorithm, dst)? }
        ALL_AND_START, SYSTEM_CALL + u64::from(size) => fn cost_vetkd_derive_key(
            c, src: u32, size: u32, curve: u32, dst: u32
        ) -> u32 { threshold_cost(c, src, size, curve, dst)? }
    );
    Ok(())
}

/// What an outcall will use, as far as it is charged for.
#[derive(CandidType, Deserialize)]
struct HttpResources {
    request_bytes: u64,
}

/// Writes the fee of a threshold operation; 0, or 1 for an unknown curve or algorithm, or 2 for an unknown key.
fn threshold_cost(c: &Execution, src: u32, size: u32, curve: u32, dst: u32) -> Result<u32, Stop> {
    let name = c.text(src, size)?;
    if curve > 1 {
        return Ok(1);
    }
    if !THRESHOLD_KEYS.contains(&name.as_str()) {
        return Ok(2);
    }
    c.put_u128(dst, c.environment.fees.threshold_signature(&name))?;
    Ok(0)
}

fn link_counter(linker: &mut Linker<Execution>) -> Result<()> {
    linker.func_wrap("ic0", "performance_counter", |mut caller: Caller<'_, Execution>, kind: u32| {
        let now = used(&mut caller);
        let pages = caller.data_mut().touch_heap(now);
        charge(&mut caller, PERFORMANCE_COUNTER + pages).map_err(Error::new)?;
        let now = used(&mut caller);
        match kind {
            0 => Ok(now),
            1 => Ok(caller.data().message.earlier_instructions + now),
            _ => Err(Error::new(Stop::Contract(format!("there is no performance counter {kind}")))),
        }
    })?;
    Ok(())
}
