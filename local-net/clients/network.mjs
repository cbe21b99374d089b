// The network under test, as the environment describes it.

import { HttpAgent } from "@icp-sdk/core/agent";
import { Principal } from "@icp-sdk/core/principal";
import { readFileSync } from "node:fs";

function variable(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: these tests are started by \`cargo test\` (see README.md)`);
  return value;
}

/** Where the network's interface is. */
export const host = variable("LOCAL_NET_URL");
/** The network's root key, DER. */
export const rootKey = new Uint8Array(Buffer.from(variable("LOCAL_NET_ROOT_KEY"), "hex"));
/** A canister id to name in calls before any canister exists. */
export const effectiveCanisterId = Principal.fromText(variable("LOCAL_NET_EFFECTIVE_CANISTER"));
/** The test canister's Wasm. */
export const wasm = new Uint8Array(readFileSync(variable("LOCAL_NET_WASM")));

/** An agent that verifies everything with the network's root key. */
export function agent(identity, options = {}) {
  return HttpAgent.create({ host, rootKey, identity, retryTimes: 0, ...options });
}
