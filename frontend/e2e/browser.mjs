// The browser, and what every journey does with it.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

/** Milliseconds that anything may take on a busy machine. */
export const PATIENCE = Number(process.env.OHMS_PATIENCE ?? 180_000);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const screenshots = process.env.OHMS_SCREENSHOTS ?? fileURLToPath(new URL("../screenshots", import.meta.url));
mkdirSync(screenshots, { recursive: true });

export const WIDE = { width: 1280, height: 800 };
export const NARROW = { width: 360, height: 740 };

export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    timeout: PATIENCE,
    // A test runs no foreign code, and nothing shall look for servers outside this machine.
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
}

/** A browser of a person of their own. Whatever a page complains about is in `complaints`. */
export async function newPerson(browser, options = {}) {
  const context = await browser.newContext({ viewport: WIDE, acceptDownloads: true, ...options });
  context.setDefaultTimeout(PATIENCE);
  const complaints = [];
  context.on("page", (page) => {
    page.on("pageerror", (error) => complaints.push(String(error.stack)));
    page.on("console", (message) => {
      // What was violated, and what was left uncaught. A refused request is what some journeys are about.
      if (message.type() === "error" && /Content Security Policy|Uncaught|React/.test(message.text())) complaints.push(message.text());
    });
  });
  return { context, complaints };
}

/** Signs in by the window of the stand-in. */
export async function signIn(page, name) {
  const opened = page.waitForEvent("popup");
  await page.getByRole("main").getByRole("button", { name: "Sign in" }).click();
  const window = await opened;
  if (["user", "admin"].includes(name)) await window.getByRole("button", { name, exact: true }).click();
  else {
    await window.getByLabel("or another name").fill(name);
    await window.getByRole("button", { name: "Sign in" }).click();
  }
  await page.getByRole("button", { name: "Sign out" }).first().waitFor();
}

/** What axe-core finds serious or worse on the page. */
export async function accessibility(page) {
  if (!(await page.evaluate(() => "axe" in globalThis))) await page.evaluate(axe);
  const violations = await page.evaluate(async () => {
    const { violations } = await globalThis.axe.run(document, { resultTypes: ["violations"] });
    return violations
      .filter(({ impact }) => impact === "serious" || impact === "critical")
      .map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.html.slice(0, 160)).join(" | ")}`);
  });
  return violations;
}

/**
 * Looks at the page in both themes, wide and narrow: a picture of each, nothing wider than the screen, no serious finding. Those are looked for
 * in each size and each theme once, for what is wrong with a page is mostly wrong with both of the pair; on main pages in all four.
 */
export async function inspect(page, name, { main = false } = {}) {
  for (const [size, viewport] of [["wide", WIDE], ["narrow", NARROW]]) {
    await page.setViewportSize(viewport);
    await page.waitForTimeout(100);
    // As high as the page, so that what sticks to the edges stands where it does at the end.
    const height = await page.evaluate(() => document.documentElement.scrollHeight);
    await page.setViewportSize({ ...viewport, height: Math.min(2_400, Math.max(viewport.height, height)) });
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(overflow <= 0, `${name}, ${size}: ${overflow} px wider than the screen`);
    for (const theme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme: theme, reducedMotion: "reduce" });
      await page.evaluate((theme) => (document.documentElement.dataset.theme = theme), theme);
      // The picture must not be taken of what was painted in the theme before.
      await page.evaluate(() => new Promise((painted) => requestAnimationFrame(() => setTimeout(painted, 50))));
      await page.screenshot({ path: `${screenshots}/${name}-${size}-${theme}.png` });
      if (main || (size === "wide") === (theme === "light")) assert.deepEqual(await accessibility(page), [], `${name}, ${size}, ${theme}`);
    }
  }
  await page.setViewportSize(WIDE);
  await page.evaluate(() => delete document.documentElement.dataset.theme);
  await page.emulateMedia({ colorScheme: "light", reducedMotion: "reduce" });
}
