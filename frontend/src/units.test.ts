import { Principal } from "@icp-sdk/core/principal";
import { agentTypes, CanisterError, coordinatorTypes, econTypes, factoryTypes, modelTypes } from "@ohms/client";
import type { IDL } from "@icp-sdk/core/candid";
import { expect, test } from "vitest";
import { environmentOf, isLocal } from "./env.ts";
import { explain } from "./errors.ts";
import { readable } from "./export.ts";
import { frontierOf } from "./frontier.ts";
import type { Manifest } from "./queries.ts";
import { ago, bytes, compact, count, duration, sentence, shorten } from "./format.ts";
import { parse, stringify } from "./offline.ts";

test("numbers read like a person wrote them", () => {
  expect(compact(1_943_000_000_000n)).toBe("1.94 T");
  expect(compact(999)).toBe("999");
  expect(bytes(1_790_000)).toBe("1.79 MB");
  expect(bytes(12)).toBe("12 B");
  expect(count(1, "job")).toBe("1 job");
  expect(count(2_000, "job")).toBe("2,000 jobs");
  expect(duration(950)).toBe("950 ms");
  expect(duration(61_000)).toBe("1 min 1 s");
  expect(shorten("abcdefghijklmnop")).toBe("abcde…lmnop");
  expect(shorten("abc")).toBe("abc");
  expect([sentence("the queue is full"), sentence("Done.")]).toEqual(["The queue is full.", "Done."]);
  const now = Date.now();
  expect(ago(new Date(now - 120_000), now)).toBe("2 minutes ago");
});

test("what is kept for later keeps its types", () => {
  const value = {
    big: 2n ** 64n,
    blob: Uint8Array.of(0, 255),
    principal: Principal.fromText("aaaaa-aa"),
    set: new Set(["Admin"]),
    opt: [] as [],
    params: [undefined, "a"],
    text: "$bigint",
  };
  const back = parse<typeof value>(stringify(value));
  expect(back).toEqual(value);
  expect(back.principal.toText()).toBe("aaaaa-aa");
});

test("an export is plain JSON", () => {
  const text = readable({ a: 5n, b: 2n ** 60n, blob: Uint8Array.of(1, 255), who: Principal.fromText("aaaaa-aa") });
  expect(JSON.parse(text)).toEqual({ a: 5, b: "1152921504606846976", blob: "01ff", who: "aaaaa-aa" });
});

test("another identity provider and another wallet are for this machine only", () => {
  const variables = {
    PUBLIC_IDENTITY_PROVIDER: "http://x.localhost:1/identity.html",
    PUBLIC_WALLET: "http://x.localhost:1/wallet.html",
    "PUBLIC_CANISTER_ID:model": "aaaaa-aa",
  };
  const here = environmentOf(new Uint8Array(), variables, "abc.localhost");
  expect(here.identityProvider).toBe("http://x.localhost:1/identity.html");
  expect(here.wallet).toBe("http://x.localhost:1/wallet.html");
  expect(here.canisters).toEqual({ model: "aaaaa-aa" });
  const there = environmentOf(new Uint8Array(), variables, "abc.icp0.io");
  expect(there).toMatchObject({ identityProvider: "https://id.ai/authorize", wallet: "https://oisy.com/sign", local: false });
  expect(isLocal("localhost.example.com")).toBe(false);
  expect(isLocal("evil-localhost")).toBe(false);
});

/** Alternatives of a Candid variant. */
const alternatives = (type: IDL.VariantClass) => type._fields.map(([name]) => name);

test("every error of the canisters that people call is explained", () => {
  const kinds = [agentTypes.AgentError, factoryTypes.FactoryError, coordinatorTypes.CoordinatorError, econTypes.EconError].flatMap(alternatives);
  const admins = ["UnknownTemplate", "WrongTemplateHash", "TemplateIncomplete", "NotAdoptable"];
  for (const kind of new Set(kinds)) {
    if (admins.includes(kind)) continue;
    const { what, todo } = explain(new CanisterError({ [kind]: {} }));
    expect(what.startsWith(kind), `${kind} has no sentence`).toBe(false);
    expect(todo.length).toBeGreaterThan(5);
  }
  expect(alternatives(modelTypes.ModelError).length).toBeGreaterThan(5);
});

test("errors that are not the canisters' say what to do, too", () => {
  expect(explain(new Error("Failed to fetch"))).toEqual({ what: "The network does not answer.", todo: "Check your connection and try again." });
  expect(explain(new CanisterError({ Surprise: { field: "x" } })).what).toBe("Surprise: field x");
  expect(explain("odd").what).toBe("odd");
});

test("on the frontier is what nothing smaller beats, of the same original measured on the same text", () => {
  const manifest = (bits: number, kl: number, text = "a tale"): Manifest => ({
    name: "m",
    architecture: "llama",
    chat_template: null,
    compression: { parameters: 7, bits_per_weight_file: bits, bytes: 1_000 * bits },
    verification: { text, perplexity_original: 9, kl, top1_agreement: 0.5 },
  });
  const all = [manifest(3, 0.1), manifest(1, 0.9), manifest(2, 0.95), manifest(4, 0.05, "news")];
  const sizes = frontierOf(manifest(2, 0.2), all.map((it, at) => ({ id: String(at), name: "m", manifest: it })));
  expect(sizes.map(({ id, best }) => [id, best])).toEqual([["1", true], ["2", false], ["0", true]]);
  expect(frontierOf(manifest(2, 0.2), [{ id: "", name: "", manifest: { ...manifest(1, 1), verification: null } }])).toEqual([]);
});
