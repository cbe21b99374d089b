// The journey of an agent that talks: profile, conversations, memory, wallet, and the phases of its life.

import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { inspect } from "./browser.mjs";
import { callAs, ledgerAs, principalOf } from "./caller.mjs";
import { novaq } from "./network.mjs";
import { inWallet } from "./wallet.mjs";

const NAME = "keeper";
const AGENT = "Librarian";
const MODEL = "ohms-tales-6c";
/** Who stands for the coordinator where one asks for payments. */
const OTHER = "steward";
const TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:";

/** The same manifest with a chat template; what it says of its sizes holds again, for they count the manifest's bytes, too. */
function withTemplate(manifest) {
  const { compression } = JSON.parse(manifest);
  const rounded = (value) => Math.round(value * 1e4) / 1e4;
  let changed = manifest.replace('"name":"ohms-tales-6m"', `"name":"${MODEL}"`).replace('"chat_template":null', `"chat_template":${JSON.stringify(TEMPLATE)}`);
  const bytes = compression.bytes + changed.length - manifest.length;
  const sizes = {
    bytes,
    bits_per_weight_file: rounded((bytes * 8) / compression.parameters),
    ratio_fp32: rounded((compression.parameters * 4) / bytes),
    ratio_fp16: rounded((compression.parameters * 2) / bytes),
  };
  for (const [name, value] of Object.entries(sizes)) changed = changed.replace(`"${name}":${compression[name]}`, `"${name}":${value}`);
  return changed;
}

/** The demo's model with a chat template: another model, which holds conversations. */
function uploadTalker(network) {
  const folder = mkdtempSync(join(tmpdir(), "ohms-e2e-"));
  try {
    cpSync(network.artifact, folder, { recursive: true });
    const path = join(folder, "manifest.json");
    writeFileSync(path, withTemplate(readFileSync(path, "utf8")));
    const on = ["--network", network.url, "--canister", network.model, "--identity", network.identity];
    novaq("upload", folder, ...on);
    novaq("models", "activate", JSON.parse(novaq("inspect", folder, "--json")).model_id, ...on);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Adds the tests; `enter` signs somebody in at a path, `at` makes an address, `network` gives the local network. */
export function agentJourneys({ enter, at, network }) {
  let page;
  const heading = (name) => page.getByRole("heading", { level: 1, name, exact: true });
  const tab = (name) => page.getByRole("navigation", { name: "Agent" }).getByRole("link", { name, exact: true }).click();
  const inDialog = (name) => page.getByRole("dialog").getByRole("button", { name }).click();
  /** The ledger of the local dollars. */
  const usd = async () => (await (await callAs(NAME, network().url, "econ", network().econ)).ledgers())[0].args;
  /** The agent, as somebody calls it. */
  const agentAs = async (name) => {
    const factory = await callAs(NAME, network().url, "agent-factory", network()["agent-factory"]);
    const { Ok: record } = await factory.get_agent(AGENT);
    return callAs(name, network().url, "agent", record.canister[0]);
  };

  test("an agent is told what it is for", async () => {
    uploadTalker(network());
    ({ page } = await enter(NAME, "/new-agent"));
    await page.getByRole("radio", { name: new RegExp(MODEL) }).click();
    await page.getByLabel("Name").fill(AGENT);
    await page.getByText("More settings").click();
    await page.getByLabel("Role").fill("librarian");
    await page.getByRole("button", { name: "Create agent" }).click();
    await heading(AGENT).waitFor();
    await tab("Profile");
    assert.equal(await page.getByLabel("Role").inputValue(), "librarian");
    await page.getByLabel("Instructions").fill("You know all tales.");
    await page.getByLabel("What it can do").fill("reading\ntelling");
    await page.getByLabel("Facts that are looked up for a message").fill("2");
    await page.getByLabel("Choose it here").check();
    await page.getByLabel("Tokens of an answer at most").fill("16");
    await page.getByLabel("Temperature").fill("0.7");
    await page.getByRole("button", { name: "Save the profile" }).click();
    await page.getByText("Saved. It holds from the next message on.").waitFor();
    await inspect(page, "agent-profile", { main: true });
    await page.reload();
    await page.getByLabel("Role").waitFor();
    assert.equal(await page.getByLabel("What it can do").inputValue(), "reading\ntelling");
    assert.equal(await page.getByLabel("Temperature").inputValue(), "0.7");
    // What is wrong is named with its field, and nothing is lost.
    await page.getByLabel("What it can do").fill("x".repeat(65));
    await page.getByRole("button", { name: "Save the profile" }).click();
    await page.getByRole("alert").getByText(/capabilities\[0\]/).waitFor();
    assert.equal(await page.getByLabel("Role").inputValue(), "librarian");
  });

  test("facts are remembered, found and forgotten", async () => {
    await tab("Memory");
    await page.getByText("It remembers no fact yet").waitFor();
    await page.getByText("For each message it looks up 2 facts at most.").waitFor();
    for (const fact of ["The miller's name is Jonas, and his mill stands north of Bremen.", "The library closes at six in the evening.", "A fox lives behind the mill."]) {
      await page.getByLabel("Have it remember").fill(fact);
      await page.getByRole("button", { name: "Remember", exact: true }).click();
      await page.getByRole("list", { name: "Facts" }).getByText(fact).waitFor();
    }
    await page.getByLabel("Search the facts").fill("where is the mill");
    await page.getByRole("button", { name: "Search" }).click();
    const found = page.getByRole("list", { name: "Facts that were found" }).getByRole("listitem");
    await found.first().waitFor();
    // By words: the best has more of them, and a score that says so.
    const texts = await found.allTextContents();
    const scores = texts.map((text) => Number(/score ([\d.]+)/.exec(text)?.[1]));
    assert.ok(texts.length >= 2 && scores.every((score, at) => score > 0 && (at === 0 || score <= scores[at - 1])), texts.join(" | "));
    assert.match(texts.slice(0, 2).join(), /mill/);
    await page.getByText(/facts? found among 3/).waitFor();
    await inspect(page, "agent-memory-search");
    await page.getByRole("button", { name: "Show all" }).click();
    const fox = page.getByRole("list", { name: "Facts" }).getByRole("listitem").filter({ hasText: "A fox lives" });
    await fox.getByRole("button", { name: "Forget" }).click();
    await inDialog("Forget it");
    await fox.waitFor({ state: "detached" });
    await page.getByRole("heading", { name: "Facts (2)" }).waitFor();
  });

  test("a conversation is remembered, with the facts that went into it", async () => {
    await tab("Chat");
    await page.getByLabel("Message").fill("What is the miller called?");
    await page.getByLabel("Message").press("Enter");
    await page.getByText(/Its prompt had [12] facts? of the memory\./).waitFor();
    await page.getByRole("link", { name: "Verify" }).waitFor();
    await page.getByLabel("Message").fill("And when does the library close?");
    await page.getByLabel("Message").press("Enter");
    await page.getByText(/Its prompt had 1 earlier turn and [12] facts? of the memory\./).waitFor();
    await page.getByRole("link", { name: "Verify" }).nth(1).waitFor();
    await inspect(page, "agent-conversation", { main: true });
    await tab("Memory");
    await page.getByRole("region", { name: "Conversations" }).getByRole("row", { name: /What is the miller called/ }).getByRole("cell", { name: "2", exact: true }).waitFor();
    await inspect(page, "agent-memory", { main: true });
    const downloading = page.waitForEvent("download");
    await page.getByRole("button", { name: "Export the memory" }).click();
    const lines = readFileSync(await (await downloading).path(), "utf8").trim().split("\n").map((line) => JSON.parse(line));
    assert.deepEqual(lines.map(({ kind }) => kind), ["profile", "fact", "fact", "conversation", "turn", "turn"]);
    assert.equal(lines[0].role, "librarian");
    assert.match(lines[4].message, /miller/);
    assert.ok(lines[4].answer.length > 0);
  });

  test("a conversation is summarised where it gets long, and forgotten, and then all the rest", async () => {
    await tab("Profile");
    await page.getByLabel("Bytes of memory in a prompt").fill("64");
    await page.getByRole("button", { name: "Save the profile" }).click();
    await page.getByText("Saved. It holds from the next message on.").waitFor();
    await tab("Memory");
    await page.getByRole("link", { name: "New conversation" }).click();
    await page.getByLabel("Message").fill("Good evening, and tell me of the mill that stands at the river");
    await page.getByLabel("Message").press("Enter");
    await page.getByRole("link", { name: "Verify" }).waitFor();
    const summary = page.getByText("A summary stands for the first 1 turn in new prompts");
    await summary.click();
    const written = page.getByRole("group").filter({ has: summary }).getByRole("paragraph");
    assert.match(await written.textContent(), /\p{L}{2}.{20}/su);
    await inspect(page, "agent-summary");
    await page.getByRole("button", { name: "Forget it" }).click();
    await inDialog("Forget it");
    const conversations = page.getByRole("region", { name: "Conversations" }).getByRole("row");
    await conversations.nth(1).waitFor();
    await page.getByText("Good evening").waitFor({ state: "detached" });
    assert.equal(await conversations.count(), 2);
    await page.getByRole("button", { name: "Erase the memory" }).click();
    await inDialog("Erase everything");
    await page.getByText("The agent remembers nothing any more.").waitFor();
    await page.getByText("It remembers no fact yet").waitFor();
    await page.getByText("No conversation yet").waitFor();
  });

  test("an agent has an account of its own, with limits", async () => {
    await tab("Wallet");
    await page.getByText("The agent knows no token yet").waitFor();
    await page.getByLabel("With one payment, USD").fill("2");
    await page.getByLabel("In a day, USD").fill("4");
    await page.getByLabel("Asks you above, USD").fill("0.5");
    await page.getByRole("button", { name: "Add USD" }).click();
    await page.getByRole("heading", { name: "USD", exact: true }).waitFor();
    await page.getByLabel("Put in, USD").fill("5");
    await inWallet(page, () => page.getByRole("button", { name: "Pay with the local wallet" }).click(), ["Allow", "Approve"]);
    await page.getByText("5", { exact: true }).waitFor();
    // More than it may: the canister says which limit, the form keeps what was written.
    await page.getByLabel("Whom").fill(principalOf(OTHER).toText());
    await page.getByLabel("Amount, USD").fill("3");
    await page.getByRole("button", { name: "Pay", exact: true }).click();
    await page.getByRole("alert").getByText("That is over the agent's limit at a time.").waitFor();
    await page.getByLabel("What for").fill("a new book");
    await page.getByLabel("Amount, USD").fill("1");
    await page.getByRole("button", { name: "Pay", exact: true }).click();
    await page.getByRole("row", { name: /a new book/ }).getByText("Paid").waitFor();
    await page.getByText("3.99", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Ask for its key" }).click();
    await page.getByText("Ethereum address", { exact: true }).waitFor();
    await page.getByText("Change the limits").click();
    await page.getByLabel("In a day, USD").fill("6");
    await page.getByRole("button", { name: "Set the limits" }).click();
    await page.getByText("6 USD", { exact: true }).waitFor();
  });

  test("what others ask for beyond the limit waits for the owner", async () => {
    const owner = await agentAs(NAME);
    assert.ok("Ok" in (await owner.set_coordinator([principalOf(OTHER)])));
    const other = await agentAs(OTHER);
    const { ledgers } = (await owner.wallet()).Ok;
    const ask = async (key, amount, purpose) => {
      const answer = await other.pay({ key, ledger: ledgers[0].ledger, to: { owner: principalOf(OTHER), subaccount: [] }, amount, memo: [], purpose });
      assert.ok("AwaitingApproval" in answer.Ok.state, JSON.stringify(answer, (_, it) => (typeof it === "bigint" ? String(it) : it)));
    };
    await ask("lamp", 700_000n, "a reading lamp");
    await ask("gold", 1_900_000n, "a golden pen");
    await page.reload();
    const waiting = page.getByRole("list", { name: "Payments that wait" }).getByRole("listitem");
    await waiting.nth(1).waitFor();
    await inspect(page, "agent-wallet", { main: true });
    await waiting.filter({ hasText: "golden pen" }).getByRole("button", { name: "Reject" }).click();
    await page.getByRole("row", { name: /golden pen/ }).getByText("Rejected").waitFor();
    await waiting.filter({ hasText: "reading lamp" }).getByRole("button", { name: "Approve" }).click();
    await page.getByRole("row", { name: /reading lamp/ }).getByText("Paid").waitFor();
    await page.getByText("3.28", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Take all out" }).click();
    await page.getByText(/3\.27 USD are to your own account/).waitFor();
    await page.getByText("0", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Remove" }).click();
    await inDialog("Remove it");
    await page.getByText("The agent knows no token yet").waitFor();
  });

  test("what was taken out can be sent on", async () => {
    await page.goto(at("/account"));
    const own = page.getByRole("region", { name: "Your USD" });
    await own.getByText("3.27", { exact: true }).waitFor();
    await own.getByLabel("Send USD to").fill(principalOf(OTHER).toText());
    await own.getByLabel("Amount, USD").fill("3");
    await own.getByRole("button", { name: "Send" }).click();
    await own.getByText(/Sent, in block \d+ of the ledger/).waitFor();
    await own.getByText("0.26", { exact: true }).waitFor();
  });

  test("an agent rests, goes on, retires and is archived", async () => {
    await page.goto(at(`/agents/${AGENT}/settings`));
    const phase = page.getByRole("list", { name: "Phases of an agent's life" });
    const isIn = (name) => phase.locator("[aria-current=step]", { hasText: name }).waitFor();
    await isIn("Active");
    await (await agentAs(NAME)).set_ledger({ ledger: (await usd()).canister, limits: { per_payment: 0n, per_day: 0n, approval_above: 0n } });
    await page.getByRole("button", { name: "Pause it" }).click();
    await isIn("Paused");
    await inspect(page, "agent-phase");
    await tab("Chat");
    await page.getByLabel("Message").fill("Are you there?");
    await page.getByLabel("Message").press("Enter");
    await page.getByRole("alert").getByText("That is not possible while the agent is paused.").waitFor();
    await tab("Settings");
    await page.getByRole("button", { name: "Go on" }).click();
    await isIn("Active");
    await page.getByRole("button", { name: "Retire it" }).click();
    await inDialog("Cancel");
    await isIn("Active");
    await page.getByRole("button", { name: "Retire it" }).click();
    await inDialog("Retire it");
    await isIn("Retired");
    await page.getByRole("button", { name: "Archive it" }).click();
    await inDialog("Archive it");
    await isIn("Archived");
    await page.getByText("Nothing comes after this.").waitFor();
    await tab("Profile");
    await page.getByText("An agent that is archived keeps its profile as it is.").waitFor();
    assert.ok(await page.getByLabel("Role").isDisabled());
    await tab("Memory");
    await page.getByText("In this phase of its life nothing is added to its memory.").waitFor();
  });

  test("an agent that is deleted sends its tokens to its owner", async () => {
    const ledger = await usd();
    const id = (await (await agentAs(NAME)).wallet()).Ok.account.owner;
    await (await ledgerAs(OTHER, network().url, ledger.canister)).transfer({ to: { owner: id, subaccount: [] }, amount: 1_000_000n });
    await tab("Wallet");
    await page.getByText("1", { exact: true }).waitFor();
    await tab("Settings");
    await page.getByRole("button", { name: "Delete agent" }).click();
    await inDialog("Delete for good");
    await page.getByText("You have no agent yet").waitFor();
    await page.goto(at("/account"));
    await page.getByRole("region", { name: "Your USD" }).getByText("1.25", { exact: true }).waitFor();
  });
}
