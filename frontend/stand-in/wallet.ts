// The wallet's side of ICRC-25, 27, 29 and 49, for local networks: the library's signer, and a page that asks.

import { config } from "zod/v4/core";
import { localIdentity } from "./local-identity.ts";

/** Name of the identity whose tokens it spends; `demo/src/economy.rs` has the same word. */
const NAME = "wallet";

const element = (id: string) => document.getElementById(id) as HTMLElement;
const say = (words: string) => {
  element("message").textContent = words;
};

/** Shows a request with two buttons. */
function ask(words: string, yes: string, onYes: () => void, onNo: () => void) {
  const text = document.createElement("p");
  text.className = "request";
  text.textContent = words;
  const row = document.createElement("div");
  row.className = "row";
  for (const [label, action] of [[yes, onYes], ["Refuse", onNo]] as const) {
    const button = document.createElement("button");
    button.textContent = label;
    button.addEventListener("click", () => {
      element("request").replaceChildren();
      action();
    });
    row.append(button);
  }
  element("request").replaceChildren(text, row);
  say("");
}

// The library's checks must not be compiled: the pages' policy forbids it.
config({ jitless: true });
const { Signer } = await import("@dfinity/oisy-wallet-signer/signer");

const owner = localIdentity(NAME);
const principal = owner.getPrincipal().toText();
element("principal").textContent = principal;
const signer = Signer.init({ owner, host: location.origin });

signer.register({
  method: "icrc25_request_permissions",
  prompt: ({ origin, requestedScopes, confirm }) => {
    const decide = (state: "granted" | "denied") => () => confirm(requestedScopes.map(({ scope }) => ({ scope, state })));
    ask(`${origin} wants to see your account and to ask for payments.`, "Allow", decide("granted"), decide("denied"));
  },
});
signer.register({ method: "icrc27_accounts", prompt: ({ approve }) => approve([{ owner: principal }]) });
signer.register({
  method: "icrc21_call_consent_message",
  prompt: (payload) => {
    if (payload.status === "loading") return say("Reading what is asked for…");
    if (payload.status === "error") return say("What is asked for can't be shown, so it is not done.");
    const { consentInfo, approve, reject } = payload;
    const info = "Ok" in consentInfo ? consentInfo.Ok : consentInfo.Warn.consentInfo;
    const message = info.consent_message;
    const words = "GenericDisplayMessage" in message ? message.GenericDisplayMessage : JSON.stringify(message);
    ask(words, "Approve", approve, reject);
  },
});
signer.register({
  method: "icrc49_call_canister",
  prompt: ({ status }) => say({ executing: "Sending…", result: "Done.", error: "The call failed." }[status]),
});
