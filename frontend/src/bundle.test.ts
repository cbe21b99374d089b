// What is built for production; `npm run build` goes before.

import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";

const dist = new URL("../dist", import.meta.url).pathname;

function files(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? files(path) : [path];
  });
}

test("no stand-in is part of the app", () => {
  for (const path of files(dist)) {
    const text = readFileSync(path, "utf8");
    expect(text.includes("ohms local identity"), path).toBe(false);
    // The window's side of signing in, and the wallet's side of paying.
    expect(text.includes("icrc29_status") && text.includes("HeartbeatServer"), path).toBe(false);
    for (const words of ["Local wallet", "sessionPermissionExpirationInMilliseconds"]) expect(text.includes(words), `${path}: ${words}`).toBe(false);
  }
});

test("the stand-ins have what the app must not have", () => {
  const texts = files(new URL("../dist-stand-in", import.meta.url).pathname).map((path) => readFileSync(path, "utf8"));
  for (const words of ["ohms local identity", "Local wallet", "sessionPermissionExpirationInMilliseconds"]) {
    expect(texts.some((text) => text.includes(words)), words).toBe(true);
  }
});

test("the page has nothing inline and nothing from elsewhere", () => {
  const page = readFileSync(join(dist, "index.html"), "utf8");
  expect(page).not.toMatch(/<style|\son\w+=|style=|javascript:/);
  for (const [, attributes = "", body = ""] of page.matchAll(/<script([^>]*)>([^<]*)<\/script>/g)) {
    expect(attributes).toMatch(/src="\/[^/]/);
    expect(body.trim()).toBe("");
  }
  for (const [, address = ""] of page.matchAll(/(?:src|href)="([^"]+)"/g)) expect(address).toMatch(/^\/[^/]/);
});

test("the first load has less than 300 kB of compressed script", () => {
  const page = readFileSync(join(dist, "index.html"), "utf8");
  const scripts = [...page.matchAll(/(?:src|href)="(\/[^"]+\.js)"/g)].map(([, path = ""]) => join(dist, path));
  expect(scripts.length).toBeGreaterThan(0);
  const size = scripts.reduce((sum, path) => sum + gzipSync(readFileSync(path)).length, 0);
  expect(size).toBeLessThan(300_000);
});
