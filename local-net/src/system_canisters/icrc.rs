//! The methods of the standards ICRC-1 and ICRC-2, which both ledgers have.

use super::{Call, ICP_LEDGER, Method, SystemCanisters, cycles_ledger, icp_ledger, reply};
use crate::{
    network::Network,
    reject::{Reject, Response},
};
use candid::{CandidType, Nat, Principal};
use icrc_ledger_types::icrc1::account::Account;
use serde::Deserialize;
use token_ledger::icrc::{self, Standard, Token, Trap};

fn token(ledger: Principal) -> &'static Token {
    if ledger == ICP_LEDGER { &icp_ledger::TOKEN } else { &cycles_ledger::TOKEN }
}

/// The methods by name.
pub fn method(name: &str) -> Option<Method> {
    use Method::{Query, Update};
    Some(match name {
        "icrc1_name" => Query(|_, _, call| reply(&*token(call.callee).name)),
        "icrc1_symbol" => Query(|_, _, call| reply(&*token(call.callee).symbol)),
        "icrc1_decimals" => Query(|_, _, call| reply(token(call.callee).decimals)),
        "icrc1_fee" => Query(|_, _, call| reply(Nat::from(token(call.callee).fee))),
        "icrc1_minting_account" => Query(|_, _, call| reply(token(call.callee).minting_account)),
        "icrc1_metadata" => Query(|_, _, call| reply(token(call.callee).metadata())),
        "icrc1_supported_standards" => Query(|_, _, _| reply([1, 2].map(Standard::icrc))),
        "icrc1_total_supply" => {
            Query(|_, system, call| reply(Nat::from(system.ledger(call.callee).total_supply())))
        }
        "icrc1_balance_of" => Query(balance_of),
        "icrc2_allowance" => Query(allowance),
        "icrc1_transfer" => Update(|_, system, call| update(system, call, icrc::transfer)),
        "icrc2_approve" => Update(|_, system, call| update(system, call, icrc::approve)),
        "icrc2_transfer_from" => Update(|_, system, call| update(system, call, icrc::transfer_from)),
        _ => return None,
    })
}

fn balance_of(_: &Network, system: &SystemCanisters, call: &Call) -> Response {
    let account: Account = call.decode()?;
    reply(Nat::from(system.ledger(call.callee).balance(&account.into())))
}

fn allowance(_: &Network, system: &SystemCanisters, call: &Call) -> Response {
    let args = call.decode()?;
    reply(icrc::allowance(system.ledger(call.callee), call.now, &args))
}

/// Answers a call of a method that changes the ledger.
fn update<Args, Answer>(
    system: &mut SystemCanisters,
    call: &Call,
    rule: impl FnOnce(&mut super::Ledger, &Token, Principal, u64, Args) -> Result<Answer, Trap>,
) -> Response
where
    Args: for<'a> Deserialize<'a> + CandidType,
    Answer: CandidType,
{
    let args = call.decode()?;
    let answer = rule(system.ledger_mut(call.callee), token(call.callee), call.caller, call.now, args);
    reply(answer.map_err(|Trap(reason)| -> Reject { call.trap(reason) })?)
}
