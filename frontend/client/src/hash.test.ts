import { IDL } from "@icp-sdk/core/candid";
import { Principal } from "@icp-sdk/core/principal";
import { expect, test } from "vitest";
import { Receipt } from "./generated/agent.did.ts";
import { hashOf, hashTokens, hex, sha256 } from "./hash.ts";

/** The receipt of `shared-types/src/receipt.rs`, `the_hash_of_a_receipt_is_fixed`. */
export const receipt: Receipt = {
  sequence: 7n,
  previous: sha256("before"),
  agent: Principal.fromUint8Array(new Uint8Array(10).fill(1)),
  job_id: 9n,
  caller: Principal.fromUint8Array(new Uint8Array(29).fill(2)),
  model_id: sha256("model"),
  engine_version: "0.1.0",
  prompt_sha256: sha256("Once"),
  prompt_tokens_sha256: [hashTokens([1, 2])],
  prompt_tokens: 2,
  params: {
    max_tokens: 128,
    temperature: 0,
    top_k: [40],
    top_p: [],
    seed: 3n,
    min_p: [],
    repetition_penalty: [],
    repetition_window: [],
    logit_bias: [],
    json_schema: [],
    stop: [],
    when_full: [],
  },
  tokens_sha256: hashTokens([5, 6, 7]),
  tokens: 3,
  text_sha256: sha256(" upon a time"),
  outcome: { Done: { reason: { MaxTokens: null } } },
  instructions: 1_000_000_007n,
  repeats: [4n],
  submitted_at_ns: 1_700_000_000_000_000_000n,
  started_at_ns: [1_700_000_000_000_000_001n],
  finished_at_ns: 1_700_000_000_000_000_002n,
};

test("a receipt has the hash that the canister gives it", () => {
  expect(hex(hashOf(Receipt, receipt))).toBe("a3fc29055e97b54937a5401b1ff78c9b5d36b1e4e65428eb33fa8434944fe78f");
});

test("the hash is that of the interface specification's example", () => {
  const type = IDL.Record({
    request_type: IDL.Text,
    canister_id: IDL.Vec(IDL.Nat8),
    method_name: IDL.Text,
    arg: IDL.Vec(IDL.Nat8),
    nothing: IDL.Opt(IDL.Nat8),
  });
  const request = {
    request_type: "call",
    canister_id: Uint8Array.of(0, 0, 0, 0, 0, 0, 4, 0xd2),
    method_name: "hello",
    arg: Uint8Array.of(0x44, 0x49, 0x44, 0x4c, 0, 0xfd, 0x2a),
    nothing: [],
  };
  expect(hex(hashOf(type, request))).toBe("8781291c347db32a9d8c10eb62b710fce5a93be676474c42babc74c51858f94b");
});

test("numbers hash in LEB128", () => {
  expect(hashOf(IDL.Nat32, 624_485)).toEqual(sha256(Uint8Array.of(0xe5, 0x8e, 0x26)));
  expect(hashOf(IDL.Nat64, 0n)).toEqual(sha256(Uint8Array.of(0)));
  expect(hashOf(IDL.Int, -123_456n)).toEqual(sha256(Uint8Array.of(0xc0, 0xbb, 0x78)));
});

test("every field changes the hash of a receipt", () => {
  const hash = hex(hashOf(Receipt, receipt));
  const changed: Partial<Receipt>[] = [
    { sequence: 8n },
    { repeats: [] },
    { params: { ...receipt.params, temperature: 0.5 } },
    { params: { ...receipt.params, logit_bias: [[{ token: 1, bias: 2 }]] } },
    { params: { ...receipt.params, json_schema: ["{}"] } },
    { outcome: { Cancelled: null } },
    { outcome: { Done: { reason: { EndOfText: null } } } },
    { caller: Principal.anonymous() },
  ];
  for (const change of changed) expect(hex(hashOf(Receipt, { ...receipt, ...change }))).not.toBe(hash);
  // Absent and empty take no part.
  expect(hex(hashOf(Receipt, { ...receipt, params: { ...receipt.params, logit_bias: [[]] } }))).toBe(hash);
});
