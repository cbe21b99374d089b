import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { canisters, writeBindings } from "../../scripts/bindings.mjs";

const committed = new URL("generated", import.meta.url).pathname;

test("the generated files are those of the committed Candid files: `npm run bindings`", async () => {
  const folder = mkdtempSync(join(tmpdir(), "ohms-bindings-"));
  try {
    await writeBindings(folder);
    const names = canisters().map((name) => `${name}.did.ts`).sort();
    expect(readdirSync(folder).sort()).toEqual(names);
    expect(readdirSync(committed).sort()).toEqual(names);
    for (const name of names) {
      expect(readFileSync(join(committed, name), "utf8"), name).toBe(readFileSync(join(folder, name), "utf8"));
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});
