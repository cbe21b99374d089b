// Writes the client package's types and interfaces from the canisters' committed Candid files.

import { generate } from "@icp-sdk/bindgen/core";
import { existsSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = new URL("../../", import.meta.url);

/** Every canister that has a Candid file, by its folder's name. */
export function canisters() {
  const folders = readdirSync(new URL("canisters/", root)).sort();
  return folders.filter((name) => existsSync(new URL(`canisters/${name}/${name}.did`, root)));
}

/** Writes `<canister>.did.ts` for each canister into `outDir`. */
export async function writeBindings(outDir) {
  for (const name of canisters()) {
    await generate({
      didFile: fileURLToPath(new URL(`canisters/${name}/${name}.did`, root)),
      outDir,
      output: { force: true, actor: { disabled: true }, declarations: { flat: true, typescript: true, rootExports: true } },
    });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await writeBindings(fileURLToPath(new URL("../client/src/generated", import.meta.url)));
}
