// Calls to canisters without the app, by the identities that the stand-in makes of names: for what others do to a person's agents.

import { IcrcLedgerCanister } from "@icp-sdk/canisters/ledger/icrc";
import { HttpAgent } from "@icp-sdk/core/agent";
import { fileURLToPath } from "node:url";
import { runnerImport } from "vite";

const root = fileURLToPath(new URL("..", import.meta.url));
/** A TypeScript module of the workspace. */
const load = async (path) => (await runnerImport(`${root}${path}`, { root, configFile: `${root}vite.config.ts` })).module;

const [{ createActor }, { localIdentity }] = await Promise.all([load("client/src/index.ts"), load("stand-in/local-identity.ts")]);

/** The principal of a name. */
export const principalOf = (name) => localIdentity(name).getPrincipal();

const agentOf = (name, url) => HttpAgent.create({ host: url, identity: localIdentity(name), shouldFetchRootKey: true });

/** The canister `id`, one of kind `kind`, as `name` calls it. */
export async function callAs(name, url, kind, id) {
  return createActor(kind, id, await agentOf(name, url));
}

/** The ledger `id`, as `name` calls it. */
export async function ledgerAs(name, url, id) {
  return IcrcLedgerCanister.create({ agent: await agentOf(name, url), canisterId: id });
}
