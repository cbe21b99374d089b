// A local network with the suite, a model and the app on it: `ohms-demo`, as a person would start it.

import { spawn, spawnSync } from "node:child_process";
import { createInterface } from "node:readline";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));
/** Where `cargo build` puts programs. */
export const programs = process.env.OHMS_PROGRAMS ?? path("../target/debug");

/** An artifact to use instead of compressing the bundled model, which takes half a minute. */
const artifact = process.env.OHMS_ARTIFACT;

/** Starts the network; the result has what the demo printed, by name, and `stop`. */
export async function startNetwork() {
  const demo = spawn(
    `${programs}/ohms-demo`,
    [
      ...["--keep", "--site", path("dist"), "--stand-in", path("dist-stand-in"), "--max-tokens", "24"],
      ...(artifact ? ["--artifact", artifact] : []),
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const stop = () => demo.kill("SIGINT");
  process.once("exit", stop);
  const facts = {};
  const ended = new Promise((_, reject) => demo.once("exit", (code) => reject(new Error(`ohms-demo ended with ${code}`))));
  ended.catch(() => undefined);
  const ready = (async () => {
    for await (const line of createInterface({ input: demo.stdout })) {
      const [, name, value] = /^([a-z- ]+): (.+)$/.exec(line) ?? [];
      if (name) facts[name] = value;
      // The last line of what it says.
      if (name === "sign in") break;
    }
    // What comes after is nobody's business, but must not fill the pipe.
    demo.stdout.resume();
  })();
  await Promise.race([ready, ended]);
  return { ...facts, artifact: artifact ?? join(dirname(facts.identity), "artifact"), stop };
}

/** Runs `novaq`; throws with its words when it fails. */
export function novaq(...args) {
  const { status, stdout, stderr } = spawnSync(`${programs}/novaq`, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`novaq ${args[0]}: ${stderr}${stdout}`);
  return stdout;
}
