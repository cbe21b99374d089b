// `@icp-sdk/core` in Node: the agent verifies certificates and query signatures itself.

import { AnonymousIdentity, CanisterStatus, Certificate, Expiry, IC_ROOT_KEY, polling } from "@icp-sdk/core/agent";
import { IDL } from "@icp-sdk/core/candid";
import { DelegationChain, DelegationIdentity, ECDSAKeyIdentity, Ed25519KeyIdentity } from "@icp-sdk/core/identity";
import { Secp256k1KeyIdentity } from "@icp-sdk/core/identity/secp256k1";
import { Principal } from "@icp-sdk/core/principal";
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { before, test } from "node:test";
import { install, management, testCanister } from "./interfaces.mjs";
import { agent, effectiveCanisterId, host, rootKey, wasm } from "./network.mjs";

const me = Ed25519KeyIdentity.generate();
let mine;
let id;
let canister;

before(async () => {
  mine = await agent(me);
  id = await install(mine, effectiveCanisterId, wasm);
  canister = testCanister(mine, id);
});

/** The fields of the error's code object, which say what went wrong. */
async function failure(promise) {
  const error = await promise.then(
    (value) => assert.fail(`an error is expected, not ${JSON.stringify(value)}`),
    (error) => error,
  );
  assert.ok(error.cause?.code, `an agent's error is expected, not ${error.stack}`);
  return error.cause.code;
}

test("the fetched root key is the given one", async () => {
  const fetching = await agent(me, { rootKey: undefined, shouldFetchRootKey: true });
  assert.deepEqual(Buffer.from(fetching.rootKey), Buffer.from(rootKey));
});

test("updates and queries, with certificates and signatures verified", async () => {
  assert.deepEqual(await canister.put("a", 7n), []);
  assert.deepEqual(await canister.put("a", 8n), [7n]);
  assert.deepEqual(await canister.get("a"), [8n]);
  assert.deepEqual(await canister.get("b"), []);
});

test("identities of every kind", async () => {
  const session = Ed25519KeyIdentity.generate();
  const user = Secp256k1KeyIdentity.generate();
  const hour = new Date(Date.now() + 3_600_000);
  const chain = await DelegationChain.create(user, session.getPublicKey(), hour, { targets: [id] });
  const further = Ed25519KeyIdentity.generate();
  const longer = await DelegationChain.create(session, further.getPublicKey(), hour, { previous: chain });
  const identities = {
    anonymous: new AnonymousIdentity(),
    ed25519: Ed25519KeyIdentity.generate(),
    secp256k1: user,
    p256: await ECDSAKeyIdentity.generate(),
    delegation: DelegationIdentity.fromDelegation(session, chain),
    "two delegations": DelegationIdentity.fromDelegation(further, longer),
  };
  for (const [name, identity] of Object.entries(identities)) {
    const actor = testCanister(await agent(identity), id);
    const expected = identity.getPrincipal().toText();
    assert.equal((await actor.whoami_update()).toText(), expected, `${name}, update`);
    assert.equal((await actor.whoami()).toText(), expected, `${name}, query`);
  }
  assert.equal(identities["two delegations"].getPrincipal().toText(), user.getPrincipal().toText());
});

test("delegations that are expired or meant for other canisters are refused", async () => {
  const [user, session] = [Ed25519KeyIdentity.generate(), Ed25519KeyIdentity.generate()];
  const hour = new Date(Date.now() + 3_600_000);
  const elsewhere = { targets: [Principal.fromText("ryjl3-tyaaa-aaaaa-aaaba-cai")] };
  const chains = [
    [await DelegationChain.create(user, session.getPublicKey(), new Date(Date.now() - 3_600_000)), /expired/],
    [await DelegationChain.create(user, session.getPublicKey(), hour, elsewhere), /target/],
  ];
  for (const [chain, reason] of chains) {
    const actor = testCanister(await agent(DelegationIdentity.fromDelegation(session, chain)), id);
    const code = await failure(actor.whoami_update());
    assert.equal(code.status, 400);
    assert.match(code.bodyText, reason);
  }
});

test("a call is answered at once, or polled for", async () => {
  const call = { methodName: "whoami_update", arg: IDL.encode([], []), effectiveCanisterId: id };
  const decode = (reply) => IDL.decode([IDL.Principal], reply)[0].toText();

  const sync = await mine.call(id, { ...call, callSync: true });
  assert.equal(sync.response.status, 200);
  assert.ok(sync.response.body.certificate, "the answer is a certificate");
  const fromSync = await polling.pollForResponse(mine, id, sync.requestId);
  assert.equal(decode(fromSync.reply), me.getPrincipal().toText());

  const async = await mine.call(id, { ...call, callSync: false });
  assert.equal(async.response.status, 202);
  const polled = await polling.pollForResponse(mine, id, async.requestId);
  assert.equal(decode(polled.reply), me.getPrincipal().toText());
});

test("the state of a canister", async () => {
  const absent = { kind: "metadata", key: "absent", path: "absent", decodeStrategy: "utf-8" };
  const paths = ["time", "controllers", "module_hash", "candid", "subnet", absent];
  const state = await CanisterStatus.request({ canisterId: id, agent: mine, paths });
  assert.ok(Math.abs(state.get("time") - Date.now()) < 60_000, `the network's time is ${state.get("time")}`);
  assert.deepEqual(state.get("controllers").map(String), [me.getPrincipal().toText()]);
  assert.equal(state.get("module_hash"), createHash("sha256").update(wasm).digest("hex"));
  assert.match(state.get("candid"), /whoami : \(\) -> \(principal\) query/);
  assert.equal(state.get("absent"), null);
  assert.equal(state.get("subnet").nodeKeys.size, 1);
});

test("a canister is stopped and started", async () => {
  const controller = management(mine, id);
  const status = async () => Object.keys((await controller.canister_status({ canister_id: id })).status);
  assert.deepEqual(await status(), ["running"]);
  await controller.stop_canister({ canister_id: id });
  assert.deepEqual(await status(), ["stopped"]);
  assert.equal((await failure(canister.whoami_update())).rejectErrorCode, "IC0508");
  await controller.start_canister({ canister_id: id });
  assert.deepEqual(await status(), ["running"]);
});

test("the clock can be read from the network", async () => {
  await mine.syncTime(id);
  assert.ok(mine.hasSyncedTime());
  assert.ok(Math.abs(mine.getTimeDiffMsecs()) < 60_000);
});

test("rejects come with their codes", async () => {
  const cases = [
    [() => canister.put_then_trap("a", 1n), 5, "IC0503", /put and trapped/],
    [() => canister.reject("not today"), 4, "IC0406", /not today/],
    [() => canister.missing(), 5, "IC0536", /no update method 'missing'/],
  ];
  for (const [run, rejectCode, errorCode, message] of cases) {
    const code = await failure(run());
    assert.equal(code.name, "CertifiedRejectErrorCode");
    assert.equal(code.rejectCode, rejectCode);
    assert.equal(code.rejectErrorCode, errorCode);
    assert.match(code.rejectMessage, message);
  }
  const before = await canister.get("a");
  await failure(canister.put_then_trap("a", 123n));
  assert.deepEqual(await canister.get("a"), before, "a trap undoes the change");

  const nobody = Principal.fromUint8Array(new Uint8Array([0, 0, 0, 255, 0, 9, 0, 0, 1, 1]));
  const code = await failure(testCanister(mine, nobody).whoami());
  assert.equal(code.rejectCode, 3);
  assert.equal(code.rejectErrorCode, "IC0301");
});

test("certified data", async () => {
  const data = createHash("sha256").update("certified").digest();
  await canister.certify(data);
  const [bytes] = await canister.certificate();
  const certificate = await Certificate.create({ certificate: new Uint8Array(bytes), rootKey, principal: { canisterId: id } });
  const found = certificate.lookup_path(["canister", id.toUint8Array(), "certified_data"]);
  assert.equal(Buffer.from(found.value).toString("hex"), data.toString("hex"));
});

test("a request with an expiry in the past, or too far in the future, is refused", async () => {
  for (const minutes of [-1, 60]) {
    const wrong = await agent(me);
    wrong.addTransform("update", async (request) => {
      request.body.ingress_expiry = Expiry.fromDeltaInMilliseconds(minutes * 60_000);
      return request;
    });
    const code = await failure(testCanister(wrong, id).put("late", 1n));
    assert.equal(code.name, "IngressExpiryInvalidErrorCode");
  }
  assert.deepEqual(await canister.get("late"), []);
});

test("another root key verifies nothing", async () => {
  const wrong = await agent(me, { rootKey: new Uint8Array(Buffer.from(IC_ROOT_KEY, "hex")) });
  const attempts = [
    testCanister(wrong, id).whoami_update(),
    testCanister(wrong, id).whoami(),
    CanisterStatus.request({ canisterId: id, agent: wrong, paths: ["time"] }),
  ];
  for (const outcome of await Promise.allSettled(attempts)) {
    assert.equal(outcome.status, "rejected");
    assert.equal(outcome.reason.name, "TrustError");
  }
});

test("a query's answer that was changed on the way is noticed", async () => {
  let changed = 0;
  const needle = Buffer.from(me.getPrincipal().toUint8Array());
  const tampering = async (url, options) => {
    const response = await fetch(url, options);
    const body = Buffer.from(await response.arrayBuffer());
    const at = String(url).endsWith("/query") ? body.indexOf(needle) : -1;
    if (at >= 0) {
      body[at] ^= 1;
      changed += 1;
    }
    return new Response(body, { status: response.status, headers: response.headers });
  };
  const actor = testCanister(await agent(me, { fetch: tampering }), id);
  const code = await failure(actor.whoami());
  assert.equal(code.name, "QuerySignatureVerificationFailedErrorCode");
  assert.ok(changed > 0);
});

test("the status names the interface", async () => {
  const response = await fetch(`${host}/api/v2/status`);
  assert.equal(response.status, 200);
  assert.match(response.headers.get("content-type"), /cbor/);
});
