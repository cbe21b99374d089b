// The identity provider's side of ICRC-29 (windows) and ICRC-34 (delegations), for local networks.

import type { DerEncodedPublicKey } from "@icp-sdk/core/agent";
import { DelegationChain } from "@icp-sdk/core/identity";
import { Principal } from "@icp-sdk/core/principal";
import { HeartbeatServer } from "@icp-sdk/signer/web";
import { localIdentity } from "./local-identity.ts";

/** A request for a delegation, as ICRC-34 defines it. */
interface DelegationRequest {
  id: string | number;
  params: { publicKey: string; targets?: string[]; maxTimeToLive?: string };
}

const EIGHT_HOURS_NS = 8n * 3_600n * 1_000_000_000n;

const bytesOf = (base64: string) => Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
const base64Of = (bytes: Uint8Array) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
const element = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;

let party: { origin: string; window: Window } | undefined;
let request: DelegationRequest | undefined;
let name: string | undefined;

const say = (words: string) => {
  element("message").textContent = words;
};

/** Answers once there are both a request and a name. */
async function answer(): Promise<void> {
  if (!party || !request || name === undefined) return;
  const { publicKey, targets, maxTimeToLive } = request.params;
  const lifetime = BigInt(maxTimeToLive ?? EIGHT_HOURS_NS);
  const expiration = new Date(Date.now() + Number(lifetime / 1_000_000n));
  const session = { toDer: () => bytesOf(publicKey) as DerEncodedPublicKey };
  const options = targets ? { targets: targets.map((target) => Principal.fromText(target)) } : {};
  const chain = await DelegationChain.create(localIdentity(name), session, expiration, options);
  const signerDelegation = chain.delegations.map(({ delegation, signature }) => ({
    delegation: {
      pubkey: base64Of(delegation.pubkey),
      expiration: String(delegation.expiration),
      ...(delegation.targets ? { targets: delegation.targets.map((target) => target.toText()) } : {}),
    },
    signature: base64Of(signature),
  }));
  const result = { publicKey: base64Of(chain.publicKey), signerDelegation };
  party.window.postMessage({ jsonrpc: "2.0", id: request.id, result }, party.origin);
  say(`You are ${name}. This window may be closed.`);
}

new HeartbeatServer({
  establishTimeout: 600_000,
  onEstablish: (origin, source) => {
    party = { origin, window: source as Window };
    void answer();
  },
  onEstablishTimeout: () => say("No page asked who you are. Open this from an app's sign-in."),
  onDisconnect: () => say("The page that asked is gone."),
});

addEventListener("message", (event: MessageEvent<DelegationRequest & { method?: string }>) => {
  if (event.data?.method !== "icrc34_delegation" || !party || event.origin !== party.origin) return;
  request = event.data;
  void answer();
});

const sign = (who: string) => {
  name = who;
  say("Signing in…");
  void answer();
};

element<HTMLFormElement>("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const button = event.submitter as HTMLButtonElement | null;
  const other = element<HTMLInputElement>("name").value.trim();
  if (button?.id !== "other" && button?.value) sign(button.value);
  else if (other !== "") sign(other);
});
