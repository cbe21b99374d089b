// What the pages of `browser.test.mjs` do. Results are text: they travel from the browser to the test.

import { CanisterStatus, Certificate, HttpAgent } from "@icp-sdk/core/agent";
import { Ed25519KeyIdentity } from "@icp-sdk/core/identity";
import { Principal } from "@icp-sdk/core/principal";
import { install, testCanister } from "./interfaces.mjs";

const bytesOf = (hex) => Uint8Array.from(hex.match(/../g), (byte) => parseInt(byte, 16));
const hexOf = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

async function agentOf({ host, rootKey }, identity) {
  return HttpAgent.create({ host, rootKey: bytesOf(rootKey), identity, retryTimes: 0 });
}

/** Creates a canister and uses it in every way. */
export async function useNetwork(network) {
  const identity = Ed25519KeyIdentity.generate();
  const agent = await agentOf(network, identity);
  const wasm = new Uint8Array(await (await fetch("/canister.wasm")).arrayBuffer());
  const id = await install(agent, Principal.fromText(network.effectiveCanisterId), wasm);
  const canister = testCanister(agent, id);
  const put = [String(await canister.put("a", 7n)), String(await canister.put("a", 8n))];
  const paths = ["time", "controllers", "module_hash"];
  const state = await CanisterStatus.request({ canisterId: id, agent, paths });
  const trap = await canister.put_then_trap("a", 1n).then(
    () => "no error",
    (error) => error.message,
  );
  const data = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode("certified")));
  await canister.certify(data);
  const [bytes] = await canister.certificate();
  const certificate = await Certificate.create({
    certificate: new Uint8Array(bytes),
    rootKey: agent.rootKey,
    principal: { canisterId: id },
  });
  const certified = certificate.lookup_path(["canister", id.toUint8Array(), "certified_data"]);
  const result = {
    origin: location.origin,
    canister: id.toText(),
    me: identity.getPrincipal().toText(),
    put,
    got: String(await canister.get("a")),
    callers: [(await canister.whoami_update()).toText(), (await canister.whoami()).toText()],
    controllers: state.get("controllers").map(String),
    moduleHash: state.get("module_hash"),
    time: state.get("time").getTime(),
    trap,
    certifiedData: hexOf(certified.value),
  };
  // The pages that the canister serves from now on are certified.
  await canister.certify_pages();
  return result;
}

/** What an update, a query and a reading of the state fail with. */
export async function distrust(network) {
  const agent = await agentOf(network);
  const id = Principal.fromText(network.canister);
  const canister = testCanister(agent, id);
  const attempts = [canister.whoami_update(), canister.whoami(), CanisterStatus.request({ canisterId: id, agent, paths: ["time"] })];
  const outcomes = await Promise.allSettled(attempts);
  return outcomes.filter((outcome) => outcome.status === "rejected").map((outcome) => String(outcome.reason));
}

/** The value under the key `a`. */
export async function get(network) {
  const canister = testCanister(await agentOf(network), Principal.fromText(network.canister));
  return String(await canister.get("a"));
}
