// The journeys of people and of admins, in Chromium, against the real canisters on the local network.

import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { agentJourneys } from "./agents.mjs";
import { inspect, launch, newPerson, signIn } from "./browser.mjs";
import { novaq, startNetwork } from "./network.mjs";
import { projectJourneys } from "./projects.mjs";

let network;
let browser;
/** The person, with a page that stays open over the tests. */
let person;
let page;
/** Contexts of all people, for the last test. */
const people = [];
const AGENT = "Storyteller";

const at = (path) => new URL(path, network.app).href;
const headingOf = (page, name) => page.getByRole("heading", { level: 1, name, exact: true });
const heading = (name) => headingOf(page, name);

async function enter(name, path = "/") {
  const someone = await newPerson(browser);
  people.push(someone);
  const first = await someone.context.newPage();
  await first.goto(at(path));
  await signIn(first, name);
  return { ...someone, page: first };
}

before(async () => {
  [network, browser] = await Promise.all([startNetwork(), launch()]);
});

after(async () => {
  await browser?.close();
  network?.stop();
});

test("the gateway serves certified pages with their headers, variants and fallbacks", async () => {
  const { port } = new URL(network.app);
  const get = (path, headers = {}) => fetch(`http://127.0.0.1:${port}${path}`, { headers: { host: new URL(network.app).host, ...headers } });
  // `fetch` sets no host of its own: the canister's id in the query does as well.
  const id = new URL(network.app).hostname.split(".")[0];
  const response = await get(`/agents/some-agent?canisterId=${id}`);
  assert.equal(response.status, 200);
  const policy = response.headers.get("content-security-policy");
  assert.match(policy, /default-src 'none'; script-src 'self'/);
  // Nothing from elsewhere; `localhost` is where the wallet reaches this network.
  assert.doesNotMatch(policy.replace(` http://localhost:${port}`, ""), /unsafe|https?:/);
  assert.equal(response.headers.get("x-content-type-options"), "nosniff");
  assert.match(response.headers.get("set-cookie"), /^ic_env=ic_root_key%3D[0-9a-f]{266}%26/);
  const html = await response.text();
  const script = /src="(\/assets\/[^"]+\.js)"/.exec(html)[1];
  const asset = await get(`${script}?canisterId=${id}`, { "accept-encoding": "br" });
  assert.equal(asset.headers.get("cache-control"), "public, max-age=31536000, immutable");
  assert.equal(asset.headers.get("content-encoding"), "br");
  await asset.arrayBuffer();
  const lost = await get(`/assets/of-another-version.js?canisterId=${id}`);
  assert.equal(lost.status, 404);
  assert.equal(lost.headers.get("content-type"), "text/html; charset=utf-8");
});

test("the first page loads little, shifts nothing, and asks nobody else", async () => {
  const { context } = await newPerson(browser);
  const first = await context.newPage();
  const elsewhere = [];
  first.on("request", (request) => {
    if (new URL(request.url()).host !== new URL(network.app).host) elsewhere.push(request.url());
  });
  await first.addInitScript(() => {
    globalThis.shift = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) if (!entry.hadRecentInput) globalThis.shift += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
  });
  await first.goto(at("/"));
  await first.getByRole("heading", { level: 1 }).waitFor();
  await first.waitForTimeout(500);
  const { shift, script } = await first.evaluate(() => ({
    shift: globalThis.shift,
    script: performance
      .getEntriesByType("resource")
      .filter((entry) => entry.initiatorType === "script" || entry.name.endsWith(".js"))
      .reduce((sum, entry) => sum + entry.encodedBodySize, 0),
  }));
  assert.ok(shift < 0.02, `layout shift ${shift}`);
  assert.ok(script > 10_000 && script < 300_000, `${script} bytes of compressed script`);
  assert.deepEqual(elsewhere, []);
  await inspect(first, "welcome", { main: true });
  await context.close();
});

test("from nothing to a running agent, by keyboard", async () => {
  person = await enter("user");
  ({ page } = person);
  await heading("Agents").waitFor();
  await page.getByText("You have no agent yet").waitFor();
  await inspect(page, "agents-empty");
  const create = page.getByRole("link", { name: "New agent" });
  await create.focus();
  await page.keyboard.press("Enter");
  await heading("New agent").waitFor();
  await page.getByRole("radio").first().waitFor();
  await inspect(page, "new-agent", { main: true });
  await page.getByLabel("Name").focus();
  await page.keyboard.type(AGENT);
  await page.keyboard.press("Enter");
  await heading(AGENT).waitFor();
  await page.getByRole("textbox", { name: "Beginning of the text" }).waitFor();
  await inspect(page, "chat-empty");
});

test("a text appears on chain, and its receipt holds", async () => {
  const box = page.getByRole("textbox", { name: "Beginning of the text" });
  await page.getByRole("button", { name: /tokens, temperature/ }).click();
  await page.getByLabel("Tokens at most").fill("600");
  await page.getByLabel("Seed").fill("7");
  await page.getByRole("button", { name: /tokens, temperature/ }).click();
  await box.fill("Once upon a time there was a miller");
  await box.press("Enter");
  // While it is written, what one node computed ahead is marked as a draft.
  await page.getByText("on chain").waitFor();
  await page.getByText("a draft, not confirmed yet").waitFor();
  await inspect(page, "chat-writing");
  const verify = page.getByRole("link", { name: "Verify" });
  await verify.waitFor();
  assert.match(await page.getByRole("list", { name: "Texts" }).textContent(), /Once upon a time there was a miller.{200}/s);
  await inspect(page, "chat", { main: true });

  await verify.click();
  await page.getByRole("button", { name: "Verify in this browser" }).click();
  await page.getByText("All of it holds").waitFor();
  assert.equal(await page.getByLabel("Holds", { exact: true }).count(), 7);
  await page.getByText(/novaq replay receipt.json/).waitFor();
  await inspect(page, "job", { main: true });
});

test("work that was left is found again, and can be stopped", async () => {
  // With the queue paused the work waits for as long as the test takes.
  await page.getByRole("link", { name: "Settings" }).click();
  await page.getByRole("button", { name: "Pause the queue" }).click();
  await page.getByRole("button", { name: "Resume the queue" }).waitFor();
  await page.getByRole("link", { name: "Chat" }).click();
  await page.getByRole("textbox", { name: "Beginning of the text" }).fill("The king said");
  await page.getByRole("button", { name: "Continue" }).click();
  await page.getByText("Waiting", { exact: true }).waitFor();
  await page.goto(at("/agents"));
  await page.getByText(/1 job open/).waitFor();
  await page.getByRole("link", { name: AGENT }).click();
  await page.getByRole("button", { name: "Stop" }).click();
  await page.getByText("Cancelled").first().waitFor();
  await page.getByRole("link", { name: "Settings" }).click();
  await page.getByRole("button", { name: "Resume the queue" }).click();
  await page.getByRole("button", { name: "Pause the queue" }).waitFor();
  await page.getByRole("link", { name: "Jobs", exact: true }).click();
  await page.getByRole("region", { name: "Jobs" }).waitFor();
  await inspect(page, "jobs");
  await page.getByRole("link", { name: "Receipts" }).click();
  await page.getByText("Head of the chain: number 2").waitFor();
  await inspect(page, "receipts");
  await page.getByRole("link", { name: "Settings" }).click();
  await page.getByText("Ready", { exact: true }).first().waitFor();
  await inspect(page, "agent-settings", { main: true });
  await page.getByRole("link", { name: "Agents", exact: true }).first().click();
  await page.getByText(/2 jobs/).waitFor();
  await inspect(page, "agents", { main: true });
});

test("a person without a role sees nothing of the administration", async () => {
  assert.equal(await page.getByRole("link", { name: "Administration" }).count(), 0);
  await page.goto(at("/admin/roles"));
  await heading("There is no such page").waitFor();
  await inspect(page, "lost");
});

test("an agent of somebody else says that it is not yours", async () => {
  await page.goto(at("/agents/demo"));
  await page.getByRole("alert").getByText("You have no agent called “demo”.").waitFor();
});

test("data can be taken along", async () => {
  await page.goto(at("/account"));
  await heading("Account").waitFor();
  const downloading = page.waitForEvent("download");
  await page.getByRole("button", { name: "Export my data" }).click();
  const file = JSON.parse(readFileSync(await (await downloading).path(), "utf8"));
  assert.equal(file.agents.length, 1);
  assert.equal(file.agents[0].record.key, AGENT);
  assert.equal(file.agents[0].jobs.length, 2);
  assert.match(file.agents[0].jobs[0].prompt.prompt, /miller/);
  assert.equal(file.agents[0].receipts.length, 2);
  assert.equal(file.agents[0].memory[0].kind, "profile");
  assert.deepEqual(file.agents[0].wallet.payments, []);
  await page.getByText("1 agent exported").waitFor();
  await inspect(page, "account", { main: true });
});

test("without a connection the app opens with the last data, marked as such", async () => {
  await page.goto(at("/agents"));
  await page.getByRole("link", { name: AGENT }).waitFor();
  await page.evaluate(async () => (await navigator.serviceWorker.ready).active?.state);
  // What was read is written to the browser's database every two seconds.
  await page.waitForTimeout(3_000);
  await person.context.setOffline(true);
  await page.reload();
  await page.getByText(/Offline. What you see is from/).waitFor();
  await page.getByRole("link", { name: AGENT }).waitFor();
  await inspect(page, "offline");
  await person.context.setOffline(false);
  await page.getByText(/Offline/).waitFor({ state: "detached" });
});

test("signing out does so in all tabs, and leaves nothing behind", async () => {
  const second = await person.context.newPage();
  await second.goto(at("/agents"));
  await second.getByRole("link", { name: AGENT }).waitFor();
  await page.bringToFront();
  await page.getByRole("button", { name: "Sign out" }).click();
  await second.getByText("You signed out in another tab.").waitFor();
  await page.getByRole("main").getByRole("button", { name: "Sign in" }).waitFor();
  assert.equal(await second.getByRole("link", { name: AGENT }).count(), 0);
  await second.close();
  await signIn(page, "user");
  await page.getByRole("link", { name: AGENT }).waitFor();
});

test("a session ends by itself when nobody is there, and when its time is over", async () => {
  const { page: idle } = await enter("idler", "/agents");
  await idle.getByText("You have no agent yet").waitFor();
  await idle.clock.install();
  await idle.keyboard.press("Shift");
  await idle.clock.fastForward("29:00");
  await idle.keyboard.press("Shift");
  await idle.clock.fastForward("29:00");
  await idle.getByRole("button", { name: "Sign out" }).waitFor();
  assert.equal(await idle.getByText("You were signed out").count(), 0);
  await idle.clock.fastForward("02:00");
  await idle.getByText("You were signed out after 30 minutes without activity.").waitFor();
  await idle.context().close();

  const { page: late } = await enter("latecomer", "/agents");
  const other = await late.context().newPage();
  await other.goto(at("/account"));
  await headingOf(other, "Account").waitFor();
  await late.evaluate(() => localStorage.setItem("ic-delegation_expiration", String((Date.now() + 2_500) * 1e6)));
  await late.reload();
  await late.getByText("Your session has ended.").waitFor();
  await other.getByText("Your session has ended.").waitFor();
  await late.context().close();
});

test("an admin sees an upload, activates it, deprecates it, and checks the log", async () => {
  const user = page;
  ({ page } = await enter("admin"));
  await page.getByRole("link", { name: "Administration" }).click();
  await heading("Models").waitFor();
  await page.getByText("Active", { exact: true }).waitFor();
  const folder = mkdtempSync(join(tmpdir(), "ohms-e2e-"));
  try {
    // The demo's model under another name is another model.
    cpSync(network.artifact, folder, { recursive: true });
    const manifest = join(folder, "manifest.json");
    writeFileSync(manifest, readFileSync(manifest, "utf8").replace('"name":"ohms-tales-6m"', '"name":"ohms-tales-6n"'));
    novaq("upload", folder, "--network", network.url, "--canister", network.model, "--identity", network.identity);
  } finally {
    rmSync(folder, { recursive: true });
  }
  await page.reload();
  await page.getByText("Waiting for activation").waitFor();
  await inspect(page, "admin-models", { main: true });
  await page.getByRole("row", { name: /Waiting for activation/ }).getByRole("link").click();
  await page.getByRole("button", { name: "Activate" }).click();
  await page.getByText("Active since").waitFor();
  await page.getByText("All parts have their hashes").waitFor();
  await page.getByRole("region", { name: "Sizes of this model" }).getByRole("row").nth(2).waitFor();
  await inspect(page, "admin-model", { main: true });
  await page.getByRole("button", { name: "Deprecate" }).click();
  await page.getByLabel("Reason").fill("random weights");
  await page.getByRole("button", { name: "Deprecate" }).click();
  await page.getByText(/random weights/).first().waitFor();

  await page.getByRole("link", { name: "Proposals" }).click();
  await page.getByText("Deprecate a model").waitFor();
  await inspect(page, "admin-proposals");
  await page.getByRole("link", { name: "Audit log" }).click();
  await page.getByRole("button", { name: "Check the chain" }).click();
  await page.getByText("the chain holds").waitFor();
  await inspect(page, "admin-audit");
  await user.bringToFront();
});

test("an admin grants and revokes roles, and sees the canisters", async () => {
  await page.bringToFront();
  await page.getByRole("link", { name: "Roles" }).click();
  await page.getByRole("heading", { name: "Grant a role" }).waitFor();
  const principal = "2vxsx-fae";
  await page.getByRole("textbox", { name: "Principal" }).fill(principal);
  await page.getByRole("button", { name: "Grant" }).click();
  await page.getByRole("alert").getByText(/anonymous principal/).waitFor();
  await page.getByRole("textbox", { name: "Principal" }).fill("rrkah-fqaaa-aaaaa-aaaaq-cai");
  await page.getByRole("button", { name: "Grant" }).click();
  const row = page.getByRole("row", { name: /rrkah/ });
  await row.waitFor();
  await inspect(page, "admin-roles");
  await row.getByRole("button", { name: "Revoke" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
  await row.waitFor({ state: "detached" });
  await page.getByRole("link", { name: "Canisters" }).click();
  await page.getByRole("heading", { name: "This site" }).waitFor();
  await page.getByRole("region", { name: "Journal" }).waitFor();
  await page.getByRole("heading", { name: "Coordinator" }).waitFor();
  await inspect(page, "admin-canisters", { main: true });
  await page.getByRole("link", { name: "Economics" }).click();
  await page.getByText("The sum is right").waitFor();
  await page.getByRole("list", { name: "Events" }).getByRole("listitem").nth(1).waitFor();
  await inspect(page, "admin-economics", { main: true });
});

agentJourneys({ enter, at, network: () => network });
projectJourneys({ enter, at, network: () => network });

test("an agent can be deleted", async () => {
  page = person.page;
  await page.bringToFront();
  await page.goto(at(`/agents/${AGENT}/settings`));
  await page.getByRole("button", { name: "Delete agent" }).click();
  await page.getByRole("button", { name: "Delete for good" }).click();
  await page.getByText("You have no agent yet").waitFor();
});

test("no page complained", () => assert.deepEqual(people.flatMap(({ complaints }) => complaints), []));
