// `@icp-sdk/core` in Chromium: a page of another origin, and a page that a canister serves.

import { IC_ROOT_KEY } from "@icp-sdk/core/agent";
import { build } from "esbuild";
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { effectiveCanisterId, host, rootKey, wasm } from "./network.mjs";

/** Milliseconds that a start or a page may take on a busy machine. */
const PATIENCE = 120_000;

const hex = (bytes) => Buffer.from(bytes).toString("hex");

let server;
let browser;
let page;
/** What went wrong in a page without anybody looking. */
const complaints = [];

before(async () => {
  const entry = new URL("page.mjs", import.meta.url).pathname;
  const bundle = await build({ entryPoints: [entry], bundle: true, format: "iife", globalName: "client", write: false });
  const files = {
    "/": ["text/html", '<!doctype html><meta charset="utf-8"><title>client</title><script src="/page.js"></script>'],
    "/page.js": ["text/javascript", bundle.outputFiles[0].contents],
    "/canister.wasm": ["application/wasm", wasm],
  };
  server = createServer((request, response) => {
    const [type, body] = files[request.url] ?? ["text/plain", ""];
    response.writeHead(files[request.url] ? 200 : 404, { "content-type": type });
    response.end(body);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    timeout: PATIENCE,
    // A test runs no foreign code, and nothing shall look for servers outside this machine.
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on("pageerror", (error) => complaints.push(error.stack));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
});

after(async () => {
  await browser?.close();
  server?.close();
});

let canister;

test("a page of another origin calls, asks and reads with everything verified", async () => {
  const network = { host, rootKey: hex(rootKey), effectiveCanisterId: effectiveCanisterId.toText() };
  const result = await page.evaluate((network) => globalThis.client.useNetwork(network), network);
  canister = result.canister;
  assert.notEqual(new URL(result.origin).origin, new URL(host).origin);
  assert.deepEqual(result.put, ["", "7"]);
  assert.equal(result.got, "8");
  assert.deepEqual(result.callers, [result.me, result.me]);
  assert.deepEqual(result.controllers, [result.me]);
  assert.equal(result.moduleHash, createHash("sha256").update(wasm).digest("hex"));
  assert.ok(Math.abs(result.time - Date.now()) < 60_000);
  assert.match(result.trap, /IC0503/);
  assert.equal(result.certifiedData, createHash("sha256").update("certified").digest("hex"));
});

test("another root key verifies nothing in a browser either", async () => {
  // A context of its own, as agents keep the node keys that they have verified in the browser's database.
  const context = await browser.newContext();
  context.setDefaultTimeout(PATIENCE);
  const elsewhere = await context.newPage();
  await elsewhere.goto(page.url());
  const network = { host, rootKey: IC_ROOT_KEY, canister };
  const failures = await elsewhere.evaluate((network) => globalThis.client.distrust(network), network);
  await context.close();
  assert.equal(failures.length, 3);
  for (const failure of failures) assert.match(failure, /^TrustError/);
});

test("a canister's page, with an agent that calls the page's own origin", async () => {
  const origin = `http://${canister}.localhost:${new URL(host).port}`;
  const response = await page.goto(`${origin}/`);
  assert.equal(response.status(), 200);
  assert.equal(await page.locator("h1").textContent(), "Welcome");
  await page.addScriptTag({ url: `http://127.0.0.1:${server.address().port}/page.js` });
  const network = { host: origin, rootKey: hex(rootKey), canister };
  const got = await page.evaluate((network) => globalThis.client.get(network), network);
  assert.equal(got, "8");

  const forged = await page.goto(`${origin}/forged`);
  assert.equal(forged.status(), 500);
  assert.doesNotMatch(await page.content(), /thief/);
});

test("no page complained", () => assert.deepEqual(complaints, []));
