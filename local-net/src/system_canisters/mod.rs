//! Canisters with well-known ids that clients count on, answered natively: the registry, the ICP ledger, the cycles minting
//! canister and the cycles ledger.
//!
//! Each has the part of its interface that `icp` and agents use; [`method`] is the table. Their balances are real state: cycles
//! of a canister that the cycles ledger creates or tops up are taken from an account. They have no Wasm and no settings, and take
//! part in no certificate but those of their answers.
//!
//! Sources: `ledger.did`, `cmc.did` and `registry.did` of dfinity/ic, `cycles-ledger.did` of dfinity/cycles-ledger, and the
//! standards ICRC-1 and ICRC-2.

mod account;
mod cycles_ledger;
mod cycles_minting;
mod icp_ledger;
mod icrc;

pub use account::AccountIdentifier;

use crate::{
    network::{Network, Query, Request},
    reject::{Reject, Response},
    system_api::Stop,
};
use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use token_ledger::{LedgerError, Operation};

/// The registry, `rwlgt-iiaaa-aaaaa-aaaaa-cai`.
pub const REGISTRY: Principal = Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
/// The governance canister, `rrkah-fqaaa-aaaaa-aaaaq-cai`. It does not exist here; its account mints ICP.
pub const GOVERNANCE: Principal = Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
/// The ICP ledger, `ryjl3-tyaaa-aaaaa-aaaba-cai`.
pub const ICP_LEDGER: Principal = Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 2, 1, 1]);
/// The cycles minting canister, `rkp4c-7iaaa-aaaaa-aaaca-cai`.
pub const CYCLES_MINTING: Principal = Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 4, 1, 1]);
/// The cycles ledger, `um5iw-rqaaa-aaaaq-qaaba-cai`.
pub const CYCLES_LEDGER: Principal = Principal::from_slice(&[0, 0, 0, 0, 2, 16, 0, 2, 1, 1]);

/// What the anonymous user has of ICP at the beginning, in e8s: 1,000,000,000 ICP, as on PocketIC.
const ANONYMOUS_ICP: u128 = 1_000_000_000 * 100_000_000;
/// What the anonymous user has of cycles at the beginning, as on PocketIC.
const ANONYMOUS_CYCLES: u128 = 1 << 127;

/// A ledger that knows its accounts by their identifiers.
type Ledger = token_ledger::Ledger<AccountIdentifier>;

/// The state of all system canisters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SystemCanisters {
    icp: Ledger,
    cycles: Ledger,
    /// Canisters that the cycles ledger created, by block.
    created: BTreeMap<u64, Principal>,
    /// Payments that the cycles minting canister has processed, by the ICP ledger's block: the method, and its reply.
    processed: BTreeMap<u64, (String, Vec<u8>)>,
}

impl SystemCanisters {
    /// Ledgers on which only the anonymous user has tokens.
    fn new() -> Self {
        let mut icp = Ledger::new(icp_ledger::TOKEN.max_supply);
        let mut cycles = Ledger::new(cycles_ledger::TOKEN.max_supply);
        for (ledger, amount) in [(&mut icp, ANONYMOUS_ICP), (&mut cycles, ANONYMOUS_CYCLES)] {
            let to = AccountIdentifier::of(Principal::anonymous(), None);
            mint(ledger, to, amount).expect("there is room for the first tokens");
        }
        Self { icp, cycles, created: BTreeMap::new(), processed: BTreeMap::new() }
    }

    fn ledger(&self, id: Principal) -> &Ledger {
        if id == ICP_LEDGER { &self.icp } else { &self.cycles }
    }

    fn ledger_mut(&mut self, id: Principal) -> &mut Ledger {
        if id == ICP_LEDGER { &mut self.icp } else { &mut self.cycles }
    }
}

/// Puts new tokens into an account; the block.
fn mint(ledger: &mut Ledger, to: AccountIdentifier, amount: u128) -> Result<u64, LedgerError> {
    ledger.execute(0, Operation::Mint { to, amount }.into(), 0)
}

/// A call to a system canister.
struct Call<'a> {
    callee: Principal,
    caller: Principal,
    argument: &'a [u8],
    /// Nanoseconds since 1970.
    now: u64,
    /// Attached cycles that nobody has accepted.
    cycles: u128,
}

impl Call<'_> {
    fn decode<T: for<'a> Deserialize<'a> + CandidType>(&self) -> Result<T, Reject> {
        candid::decode_one(self.argument)
            .map_err(|e| self.trap(format!("failed to decode call arguments: {e}")))
    }

    /// The reject of a canister that calls `ic0.trap`.
    fn trap(&self, reason: impl Into<String>) -> Reject {
        Stop::CalledTrap(reason.into()).into_reject(self.callee, "")
    }
}

fn reply(value: impl CandidType) -> Response {
    candid::encode_one(value).map_err(Reject::bad_payload)
}

/// A method of a system canister.
enum Method {
    Query(fn(&Network, &SystemCanisters, &Call) -> Response),
    Update(fn(&mut Network, &mut SystemCanisters, &mut Call) -> Response),
}

/// The interfaces: what `id` does when its method `name` is called.
fn method(id: Principal, name: &str) -> Option<Method> {
    use Method::{Query, Update};
    Some(match (id, name) {
        (REGISTRY, "get_subnet_for_canister") => Query(get_subnet_for_canister),
        (CYCLES_MINTING, "get_default_subnets") => Query(cycles_minting::get_default_subnets),
        (CYCLES_MINTING, "get_icp_xdr_conversion_rate") => Query(cycles_minting::get_icp_xdr_conversion_rate),
        (CYCLES_MINTING, "get_subnet_types_to_subnets") => Query(cycles_minting::get_subnet_types_to_subnets),
        (CYCLES_MINTING, "notify_mint_cycles") => Update(cycles_minting::notify_mint_cycles),
        (CYCLES_MINTING, "notify_top_up") => Update(cycles_minting::notify_top_up),
        (CYCLES_LEDGER, "create_canister") => Update(cycles_ledger::create_canister),
        (CYCLES_LEDGER, "deposit") => Update(cycles_ledger::deposit),
        (CYCLES_LEDGER, "withdraw") => Update(cycles_ledger::withdraw),
        (ICP_LEDGER, "account_balance") => Query(icp_ledger::account_balance),
        (ICP_LEDGER, "account_identifier") => Query(icp_ledger::account_identifier),
        (ICP_LEDGER, "transfer_fee") => Query(icp_ledger::transfer_fee),
        (ICP_LEDGER, "transfer") => Update(icp_ledger::transfer),
        (ICP_LEDGER | CYCLES_LEDGER, name) => icrc::method(name)?,
        _ => return None,
    })
}

#[derive(CandidType, Deserialize)]
struct GetSubnetForCanister {
    principal: Option<Principal>,
}

#[derive(CandidType)]
struct SubnetForCanister {
    subnet_id: Option<Principal>,
}

fn get_subnet_for_canister(network: &Network, _: &SystemCanisters, call: &Call) -> Response {
    let args: GetSubnetForCanister = call.decode()?;
    let Some(canister) = args.principal else {
        return reply(Err::<SubnetForCanister, _>("No canister_id provided".to_owned()));
    };
    let subnet = network.subnet_of(canister).map(|index| network.subnets()[index].id);
    reply(match subnet {
        Some(id) => Ok(SubnetForCanister { subnet_id: Some(id) }),
        None => Err(format!("Canister {canister} is not assigned to any subnet.")),
    })
}

impl Network {
    /// Adds the system canisters. The anonymous user has 1,000,000,000 ICP and 2^127 cycles; nobody else has any.
    pub fn add_system_canisters(&mut self) {
        self.system_canisters.get_or_insert_with(SystemCanisters::new);
    }

    /// Whether `id` is a system canister of this network.
    pub(crate) fn is_system_canister(&self, id: Principal) -> bool {
        self.system_canisters.is_some() && [REGISTRY, ICP_LEDGER, CYCLES_MINTING, CYCLES_LEDGER].contains(&id)
    }

    /// Executes a call to a system canister and answers it.
    pub(crate) fn call_system_canister(&mut self, request: &Request) {
        let mut call = Call {
            callee: request.callee,
            caller: request.caller,
            argument: &request.argument,
            now: self.time(),
            cycles: request.cycles,
        };
        let response = self.execute_system_canister(&mut call, &request.method);
        // A rejected call has accepted nothing.
        let refund = if response.is_ok() { call.cycles } else { request.cycles };
        self.respond(request.origin, response, refund);
    }

    fn execute_system_canister(&mut self, call: &mut Call, name: &str) -> Response {
        let Some(mut system) = self.system_canisters.take() else {
            return Err(Reject::canister_not_found(call.callee));
        };
        let response = match method(call.callee, name) {
            Some(Method::Query(run)) => run(self, &system, call),
            Some(Method::Update(run)) => run(self, &mut system, call),
            None => Err(Reject::no_method(call.callee, "update", name)),
        };
        self.system_canisters = Some(system);
        response
    }

    /// Executes a query of a system canister.
    pub(crate) fn query_system_canister(&self, query: &Query) -> Response {
        let Some(system) = &self.system_canisters else {
            return Err(Reject::canister_not_found(query.canister));
        };
        let Some(Method::Query(run)) = method(query.canister, &query.method) else {
            return Err(Reject::no_method(query.canister, "query", &query.method));
        };
        let call = Call {
            callee: query.canister,
            caller: query.caller,
            argument: &query.argument,
            now: self.time(),
            cycles: 0,
        };
        run(self, system, &call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_well_known_ones() {
        assert_eq!(REGISTRY.to_text(), "rwlgt-iiaaa-aaaaa-aaaaa-cai");
        assert_eq!(GOVERNANCE.to_text(), "rrkah-fqaaa-aaaaa-aaaaq-cai");
        assert_eq!(ICP_LEDGER.to_text(), "ryjl3-tyaaa-aaaaa-aaaba-cai");
        assert_eq!(CYCLES_MINTING.to_text(), "rkp4c-7iaaa-aaaaa-aaaca-cai");
        assert_eq!(CYCLES_LEDGER.to_text(), "um5iw-rqaaa-aaaaq-qaaba-cai");
    }
}
