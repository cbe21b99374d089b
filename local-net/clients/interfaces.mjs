// The Candid interfaces of the canisters that the tests call, and what Node and the browser do alike with them.

import { Actor } from "@icp-sdk/core/agent";
import { IDL } from "@icp-sdk/core/candid";
import { Principal } from "@icp-sdk/core/principal";

/** The methods of `test-canister.did`. */
export const testInterface = () =>
  IDL.Service({
    put: IDL.Func([IDL.Text, IDL.Nat64], [IDL.Opt(IDL.Nat64)], []),
    get: IDL.Func([IDL.Text], [IDL.Opt(IDL.Nat64)], ["query"]),
    put_then_trap: IDL.Func([IDL.Text, IDL.Nat64], [], []),
    whoami: IDL.Func([], [IDL.Principal], ["query"]),
    whoami_update: IDL.Func([], [IDL.Principal], []),
    reject: IDL.Func([IDL.Text], [], []),
    missing: IDL.Func([], [], []),
    certify: IDL.Func([IDL.Vec(IDL.Nat8)], [], []),
    certificate: IDL.Func([], [IDL.Opt(IDL.Vec(IDL.Nat8))], ["query"]),
    certify_pages: IDL.Func([], [], []),
  });

const canisterId = IDL.Record({ canister_id: IDL.Principal });

/** Some methods of the management canister. */
const managementInterface = () =>
  IDL.Service({
    provisional_create_canister_with_cycles: IDL.Func([IDL.Record({ amount: IDL.Opt(IDL.Nat) })], [canisterId], []),
    install_code: IDL.Func(
      [
        IDL.Record({
          mode: IDL.Variant({ install: IDL.Null, reinstall: IDL.Null }),
          canister_id: IDL.Principal,
          wasm_module: IDL.Vec(IDL.Nat8),
          arg: IDL.Vec(IDL.Nat8),
        }),
      ],
      [],
      [],
    ),
    canister_status: IDL.Func(
      [canisterId],
      [
        IDL.Record({
          status: IDL.Variant({ running: IDL.Null, stopping: IDL.Null, stopped: IDL.Null }),
          module_hash: IDL.Opt(IDL.Vec(IDL.Nat8)),
          cycles: IDL.Nat,
        }),
      ],
      [],
    ),
    stop_canister: IDL.Func([canisterId], [], []),
    start_canister: IDL.Func([canisterId], [], []),
  });

/** The management canister, for the canister with the id `effectiveCanisterId`. */
export function management(agent, effectiveCanisterId) {
  return Actor.createActor(managementInterface, { agent, canisterId: Principal.managementCanister(), effectiveCanisterId });
}

/** The test canister with this id. */
export function testCanister(agent, canisterId) {
  return Actor.createActor(testInterface, { agent, canisterId });
}

/** Creates a canister and installs `wasm` in it; its id. */
export async function install(agent, effectiveCanisterId, wasm) {
  const { canister_id } = await management(agent, effectiveCanisterId).provisional_create_canister_with_cycles({ amount: [] });
  const arg = IDL.encode([], []);
  await management(agent, canister_id).install_code({ mode: { install: null }, canister_id, wasm_module: wasm, arg });
  return canister_id;
}
