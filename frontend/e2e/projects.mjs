// The journey from a sentence to agents that work: plan, subscription, payment, project, usage, wallet.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { inspect } from "./browser.mjs";
import { callAs, ledgerAs, principalOf } from "./caller.mjs";
import { inWallet } from "./wallet.mjs";

const WISH = "Create three agents that write a tale, review it and title it";
const NAME = "maker";

/** Adds the tests; `enter` signs somebody in at a path, `at` makes an address, `network` gives the local network. */
export function projectJourneys({ enter, at, network }) {
  let page;
  const heading = (name) => page.getByRole("heading", { level: 1, name, exact: true });
  /** The address of the project, to find it again. */
  let project;
  /** An agent that it makes. */
  const agent = "p2-writer-1";
  /** Allows projects to use that agent, or forbids it. */
  const permission = async (button) => {
    await page.goto(at(`/agents/${agent}/settings`));
    await page.getByRole("button", { name: button }).click();
    await page.getByRole("button", { name: button === "Forbid it" ? "Allow it" : "Forbid it" }).waitFor();
  };

  test("a sentence that is not clear gets a question, and its answer a plan", async () => {
    ({ page } = await enter(NAME, "/projects"));
    await heading("Projects").waitFor();
    await page.getByText("No project yet").waitFor();
    await inspect(page, "projects-empty");
    await page.getByLabel("What shall be done?").fill("I want some agents");
    await page.keyboard.press("Tab");
    await page.getByRole("button", { name: "Make a plan" }).click();
    await page.getByText("What should the agents do?").waitFor();
    await inspect(page, "project-question");
    await page.getByRole("button", { name: "writer", exact: true }).click();
    await page.getByRole("button", { name: "Answer", exact: true }).click();
    await page.getByText("Waits for your approval").waitFor();
    await page.getByText("p1-writer-1").waitFor();
    // Said differently, it is another plan of the same project.
    const address = page.url();
    await page.getByLabel("What shall be done").fill("Create a developer and a tester");
    await page.getByRole("button", { name: "Plan anew" }).click();
    await heading("Create a developer and a tester").waitFor();
    const agents = page.getByRole("region", { name: "Agents of the plan" });
    await agents.getByText("p1-tester-1").waitFor();
    await agents.getByText("p1-developer-1").waitFor();
    assert.equal(await agents.getByText("writer").count(), 0);
    assert.equal(page.url(), address);
    await page.getByRole("button", { name: "Drop this plan" }).click();
    await page.getByText("Cancelled", { exact: true }).waitFor();
  });

  test("a sentence becomes a plan with agents, tasks, reasons and its cost, before anything runs", async () => {
    await page.getByRole("link", { name: "Projects" }).first().click();
    await page.getByLabel("What shall be done?").fill(WISH);
    await page.getByText("More settings").click();
    await page.getByLabel("Tokens of a task at most").fill("40");
    await page.getByRole("button", { name: "Make a plan" }).click();
    await heading(WISH).waitFor();
    project = page.url();
    await page.getByRole("region", { name: "Agents of the plan" }).getByText("Created for this").nth(2).waitFor();
    assert.equal(await page.getByRole("region", { name: "Tasks of the plan" }).getByRole("row").count(), 4);
    await page.getByText("You need a subscription to run it.").waitFor();
    await inspect(page, "project-plan", { main: true });
  });

  test("a subscription is paid from a wallet of its own", async () => {
    await page.getByRole("link", { name: "Choose a subscription" }).click();
    await page.getByText("Not subscribed").waitFor();
    await page.getByRole("button", { name: "Subscribe to Basic" }).waitFor();
    await page.getByRole("button", { name: "Subscribe to Basic" }).click();
    await page.getByText("29 USD ($29.00)").waitFor();
    await inspect(page, "subscription-payment");
    const said = [];
    await inWallet(page, () => page.getByRole("button", { name: "Approve with the local wallet" }).click(), ["Allow", "Approve"], async (window) => {
      said.push(await window.getByRole("main").textContent());
    });
    // Three periods with a fee each, to the account of this user alone.
    assert.match(said[1], /87\.03 USD/);
    await page.getByText("Active", { exact: true }).waitFor();
    await page.getByText(/^Renews on/).waitFor();
    await inspect(page, "subscription", { main: true });
    await page.getByRole("link", { name: "Invoices" }).click();
    await page.getByRole("row", { name: /Basic: first period/ }).getByText("Paid").waitFor();
    await inspect(page, "invoices");
    const downloading = page.waitForEvent("download");
    await page.getByRole("button", { name: "Save as CSV" }).click();
    const lines = readFileSync(await (await downloading).path(), "utf8").trim().split(/\r?\n/);
    assert.equal(lines.length, 2);
    assert.match(lines[1], /Basic/);
  });

  test("approved, three agents come to be and work one after the other", async () => {
    await page.goto(project);
    await page.getByText(/of 5 left/).waitFor();
    await page.getByRole("button", { name: "Approve and begin" }).click();
    await page.getByText("Running", { exact: true }).waitFor();
    await inspect(page, "project-running");
    // It can be left and found again.
    await page.getByRole("link", { name: "Projects" }).first().click();
    await page.getByRole("link", { name: WISH }).waitFor();
    await page.getByRole("link", { name: WISH }).click();
    await page.getByText("Completed", { exact: true }).waitFor();
    await page.getByRole("heading", { name: "Result" }).waitFor();
    // Tasks and events are asked for apart from the project.
    const done = page.getByRole("region", { name: "Graph of tasks" }).getByRole("link", { name: /Done/ });
    await done.nth(2).waitFor();
    assert.equal(await done.count(), 3);
    await inspect(page, "project-graph", { main: true });
    await page.getByRole("button", { name: "Timeline" }).click();
    const begun = page.getByRole("list", { name: "Timeline of tasks" }).getByRole("listitem");
    await begun.nth(2).waitFor();
    assert.equal(await begun.count(), 3);
    await inspect(page, "project-timeline");
    await page.getByRole("button", { name: "List" }).click();
    assert.equal(await page.getByRole("region", { name: "Tasks" }).getByRole("row").count(), 4);
    await inspect(page, "project-list");
  });

  test("what they said, did and made can be read, rated and verified", async () => {
    await page.getByRole("link", { name: "Messages" }).click();
    await page.getByText("Response", { exact: true }).nth(2).waitFor();
    await inspect(page, "project-messages", { main: true });
    await page.getByRole("link", { name: "Log" }).click();
    await page.getByText(/^Settled: .* tokens\.$/).waitFor();
    await page.getByRole("link", { name: "Plan", exact: true }).click();
    await page.getByRole("region", { name: "Agents of the plan" }).waitFor();
    await page.getByRole("link", { name: "Work" }).click();
    await page.getByRole("button", { name: "List" }).click();
    await page.getByRole("region", { name: "Tasks" }).getByRole("link").first().click();
    await page.getByRole("button", { name: "4 stars" }).click();
    await page.getByRole("button", { name: "4 stars", pressed: true }).waitFor();
    await inspect(page, "project-task", { main: true });
    await page.getByRole("link", { name: /and its receipt/ }).click();
    await page.getByRole("button", { name: "Verify in this browser" }).click();
    await page.getByText("All of it holds").waitFor();
  });

  test("what was used is charged and drawn", async () => {
    await page.getByRole("link", { name: "Subscription" }).click();
    await page.getByText(/^3 of 10 used/).waitFor();
    // What was reserved for the project is settled with what it took.
    await page.getByText(/^[1-9]\d* of 100 k used$/).waitFor();
    await page.getByRole("link", { name: "Usage" }).click();
    const chart = page.getByRole("img", { name: /^Tokens by day: [1-9][\d,]* tokens in all$/ });
    await chart.waitFor();
    const tokens = (/: ([\d,]+) tokens/.exec(await chart.getAttribute("aria-label")) ?? [])[1];
    const run = page.getByRole("region", { name: "Runs" }).getByRole("row").nth(1);
    await run.getByRole("cell", { name: tokens, exact: true }).first().waitFor();
    await inspect(page, "usage", { main: true });
    await page.getByRole("button", { name: "Show as a table" }).click();
    await page.getByRole("region", { name: "Tokens by day" }).getByRole("cell", { name: tokens, exact: true }).waitFor();
    await page.getByRole("button", { name: "Instructions" }).click();
    assert.match(await page.getByRole("region", { name: "Instructions by day" }).textContent(), /[1-9][\d,]{6}/);
    const downloading = page.waitForEvent("download");
    await page.getByRole("button", { name: "Save as JSON" }).click();
    const lines = readFileSync(await (await downloading).path(), "utf8").trim().split("\n").map((line) => JSON.parse(line));
    assert.equal(lines.length, 1);
    assert.equal(lines[0].tokens_in + lines[0].tokens_out, Number(tokens.replaceAll(",", "")));
    assert.equal(lines[0].charged_tokens, lines[0].tokens_in + lines[0].tokens_out);
    assert.ok(lines[0].tokens_in > 0 && lines[0].tokens_out > 0 && lines[0].instructions > 1e6 && lines[0].latency_ns > 0 && lines[0].cost_microcents > 0, JSON.stringify(lines[0]));
  });

  test("a task whose agent does not obey waits for its owner, and goes on", async () => {
    await permission("Forbid it");
    await page.goto(at("/projects"));
    await page.getByLabel("What shall be done?").fill("Write a tale about a fox");
    await page.getByText("More settings").click();
    await page.getByLabel("Tokens of a task at most").fill("12");
    await page.getByRole("button", { name: "Make a plan" }).click();
    await page.getByText("You have it already").waitFor();
    await page.getByRole("button", { name: "Approve and begin" }).click();
    await page.getByText("1 task for you").first().waitFor();
    await page.getByText("Needs your permission").first().waitFor();
    await inspect(page, "project-dead-letter");
    const address = page.url();
    // Meanwhile its owner can say something to the agent.
    await page.getByRole("link", { name: "Messages" }).click();
    await page.getByLabel("To", { exact: true }).selectOption(agent);
    await page.getByLabel("Message", { exact: true }).fill("Take your time with the fox.");
    await page.getByRole("button", { name: "Send" }).click();
    const message = page.getByRole("listitem").filter({ hasText: "Take your time with the fox." });
    await message.getByText(`You to ${agent}`).waitFor();
    assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "");
    await permission("Allow it");
    await page.goto(address);
    await page.getByRole("button", { name: "Try again" }).click();
    await page.getByText("Completed", { exact: true }).waitFor();
  });

  test("a task that waits for its owner can be discarded", async () => {
    await permission("Forbid it");
    await page.goto(at("/projects"));
    await page.getByLabel("What shall be done?").fill("Write a tale about a hen");
    await page.getByRole("button", { name: "Make a plan" }).click();
    await page.getByRole("button", { name: "Approve and begin" }).click();
    await page.getByText("1 task for you").first().waitFor();
    await page.getByRole("button", { name: "Discard" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Discard the task" }).click();
    await page.getByText("Ended without success", { exact: true }).waitFor();
    assert.equal(await page.getByText("1 task for you").count(), 0);
    await permission("Allow it");
  });

  test("talking leads to a plan, too", async () => {
    await page.goto(at("/projects"));
    await page.getByRole("link", { name: "Talk it over instead" }).click();
    await page.getByLabel("What you say").fill("I want some agents");
    await page.getByLabel("What you say").press("Enter");
    await page.getByText("What should the agents do?").waitFor();
    await page.getByRole("button", { name: "reviewer" }).click();
    await page.getByText("Shall I begin?").waitFor();
    await inspect(page, "talk");
    await page.getByRole("button", { name: "No", exact: true }).click();
    await page.getByText("It is cancelled. What else can I do for you?").waitFor();
  });

  test("a project that runs can be cancelled", async () => {
    await page.goto(at(`/agents/${agent}/settings`));
    await page.getByRole("button", { name: "Pause the queue" }).click();
    await page.getByRole("button", { name: "Resume the queue" }).waitFor();
    await page.goto(at("/projects"));
    await page.getByLabel("What shall be done?").fill("Write a tale about an owl");
    await page.getByRole("button", { name: "Make a plan" }).click();
    await page.getByRole("button", { name: "Approve and begin" }).click();
    await page.getByText("1 worked on").waitFor();
    await page.getByRole("button", { name: "Cancel project" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Cancel the project" }).click();
    await page.getByText("Cancelled", { exact: true }).first().waitFor();
  });

  test("a wallet is opened, filled, limited and emptied", async () => {
    await page.goto(at("/subscription/wallets"));
    await page.getByRole("button", { name: "Open the wallet" }).click();
    await page.getByText("None yet").waitFor();
    await page.getByLabel("Put in, USD").fill("5");
    await inWallet(page, () => page.getByRole("button", { name: "Pay with the local wallet" }).click(), ["Approve"]);
    await page.getByText("5", { exact: true }).waitFor();
    await page.getByLabel("In a day, USD").fill("2.5");
    await page.getByRole("button", { name: "Set the limits" }).click();
    await page.getByText("They hold from now on.").waitFor();
    await inspect(page, "wallet", { main: true });
    await page.getByLabel("To the account of").fill("2vxsx-fae");
    await page.getByLabel("Amount, USD").fill("4.99");
    await page.getByRole("button", { name: "Take out" }).click();
    await page.getByText("On its way.").waitFor();
    await page.getByText("0", { exact: true }).waitFor();
  });

  test("a tier can be changed and a subscription cancelled, and both taken back", async () => {
    await page.getByRole("link", { name: "Tier", exact: true }).click();
    await page.getByRole("button", { name: "Change to Pro" }).click();
    await page.getByLabel("With the next period").click();
    await page.getByRole("button", { name: "Change the tier" }).click();
    await page.getByText(/^Renews on .* as Pro\.$/).waitFor();
    await page.getByRole("button", { name: "Cancel subscription" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Cancel it" }).click();
    await page.getByText(/^Ends on .* and is not renewed\.$/).waitFor();
    await page.getByRole("button", { name: "Take the cancellation back" }).click();
    await page.getByText("Active", { exact: true }).waitFor();
  });

  test("a payment that fails says so, and can be made again", async () => {
    const [{ args: ledger }] = await (await callAs(NAME, network().url, "econ", network().econ)).ledgers();
    const account = (name) => ({ owner: principalOf(name), subaccount: [] });
    const move = async (from, to, amount) => (await ledgerAs(from, network().url, ledger.canister)).transfer({ to: account(to), amount });
    // The wallet has enough to approve, and not enough to pay.
    const wallet = await ledgerAs("wallet", network().url, ledger.canister);
    const rest = (await wallet.balance({ owner: principalOf("wallet"), certified: false })) - 1_000_000n;
    await move("wallet", "banker", rest);
    await page.getByRole("button", { name: "Change to Pro" }).click();
    await page.getByLabel(/^At once: you pay the difference/).click();
    await page.getByText("You pay now").waitFor();
    const approve = () => page.getByRole("button", { name: "Approve with the local wallet" }).click();
    await inWallet(page, approve, ["Approve"]);
    await page.getByRole("alert").getByText(/^It could not be paid: /).waitFor();
    await inspect(page, "subscription-unpaid");
    await page.getByRole("heading", { level: 2, name: "Basic", exact: true }).waitFor();
    await move("banker", "wallet", rest - 20_000n);
    await inWallet(page, approve, ["Approve"]);
    await page.getByRole("heading", { level: 2, name: "Pro", exact: true }).waitFor();
    await page.getByText(/of 500 k used/).waitFor();
    await page.getByRole("link", { name: "Invoices" }).click();
    await page.getByRole("row", { name: /Pro: higher tier/ }).filter({ hasText: "Paid" }).waitFor();
    await page.getByRole("row", { name: /Pro: higher tier/ }).filter({ hasText: "Void" }).waitFor();
  });

  test("all of it can be deleted, and what was paid stays", async () => {
    // Its agent rests, so that the project goes on until it is cancelled.
    await page.goto(at("/projects"));
    await page.getByLabel("What shall be done?").fill("Write a tale about a goose");
    await page.getByRole("button", { name: "Make a plan" }).click();
    await page.getByRole("button", { name: "Approve and begin" }).click();
    await page.getByText("1 worked on").waitFor();
    await page.goto(at("/account"));
    await page.getByRole("button", { name: "Delete my data" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText(/^3 agents and \d+ projects are gone for good/).waitFor();
    await dialog.getByText("A project is running. It is cancelled first").waitFor();
    await dialog.getByRole("button", { name: "Keep it" }).click();
    await page.getByRole("button", { name: "Delete my data" }).click();
    await dialog.getByRole("button", { name: "Delete everything" }).click();
    await page.getByText(/^Deleted: 3 agents and \d+ projects\./).waitFor();
    await page.goto(at("/projects"));
    await page.getByText("No project yet").waitFor();
    await page.goto(project);
    await page.getByRole("alert").getByText("You have no project 2.").waitFor();
    await page.goto(at("/talk"));
    await heading("Talk it over").waitFor();
    assert.equal(await page.getByRole("list", { name: "Conversation" }).getByRole("listitem").count(), 0);
    await page.goto(at("/agents"));
    await page.getByText("You have no agent yet").waitFor();
    const coordinator = await callAs(NAME, network().url, "coordinator", network().coordinator);
    assert.deepEqual((await coordinator.projects({ after: [], limit: 20 })).Ok.projects, []);
    await page.goto(at("/subscription/invoices"));
    await page.getByRole("row", { name: /Basic: first period/ }).getByText("Paid").waitFor();
  });
}
