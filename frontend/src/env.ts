import { safeGetCanisterEnv } from "@icp-sdk/core/agent/canister-env";
import { hex } from "@ohms/client";

/** The network that this page is on. */
export interface Environment {
  /** The network's root key, DER. */
  rootKey: Uint8Array;
  /** Canister ids by the suite's names. */
  canisters: Readonly<Record<string, string>>;
  /** Where people sign in. */
  identityProvider: string;
  /** Where people's tokens are: the page of a wallet that speaks ICRC-25, 27, 29 and 49. */
  wallet: string;
  /** Where the wallet reaches a local network; absent for the Internet Computer. */
  walletHost: string | undefined;
  /** Whether the network runs on this machine. */
  local: boolean;
}

const REMEMBERED = "ohms-environment";
const OISY = "https://oisy.com/sign";
const INTERNET_IDENTITY = "https://id.ai/authorize";
const CANISTER_PREFIX = "PUBLIC_CANISTER_ID:";

type Variables = Record<string, string>;

/** Whether a host name is this machine's. */
export function isLocal(hostname: string): boolean {
  return hostname === "127.0.0.1" || hostname === "localhost" || hostname.endsWith(".localhost");
}

/** What the variables of the `ic_env` cookie say. Others than Internet Identity and OISY are for local networks only. */
export function environmentOf(rootKey: Uint8Array, variables: Variables, hostname: string): Environment {
  const ids = Object.entries(variables).filter(([name]) => name.startsWith(CANISTER_PREFIX));
  const local = isLocal(hostname);
  const standIns: Variables = local ? variables : {};
  return {
    rootKey,
    canisters: Object.fromEntries(ids.map(([name, id]) => [name.slice(CANISTER_PREFIX.length), id])),
    identityProvider: standIns["PUBLIC_IDENTITY_PROVIDER"] ?? INTERNET_IDENTITY,
    wallet: standIns["PUBLIC_WALLET"] ?? OISY,
    walletHost: standIns["PUBLIC_WALLET"] && new URL(standIns["PUBLIC_WALLET"]).origin,
    local,
  };
}

const bytesOf = (digits: string) => Uint8Array.from(digits.match(/../g) ?? [], (byte) => parseInt(byte, 16));

/** The environment, from the cookie that comes with the page; offline, the one of the last visit. */
export function readEnvironment(): Environment | undefined {
  const found = safeGetCanisterEnv<Variables>();
  if (found) {
    const { IC_ROOT_KEY: rootKey, ...variables } = found as unknown as { IC_ROOT_KEY: Uint8Array } & Variables;
    localStorage.setItem(REMEMBERED, JSON.stringify({ rootKey: hex(rootKey), variables }));
    return environmentOf(rootKey, variables as Variables, location.hostname);
  }
  const remembered = localStorage.getItem(REMEMBERED);
  if (!remembered) return undefined;
  const { rootKey, variables } = JSON.parse(remembered) as { rootKey: string; variables: Variables };
  return environmentOf(bytesOf(rootKey), variables, location.hostname);
}
