import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";

const client = new URL("..", import.meta.url).pathname;

/** What a program of somebody else's says that has nothing but the package and what it asks for. */
const PROGRAM = `
  import { CanisterError, createActor, hex, sha256, tag, unwrap } from "@ohms/client";
  import { HttpAgent } from "@icp-sdk/core/agent";
  const agent = HttpAgent.createSync({ host: "http://localhost:1", rootKey: new Uint8Array(133) });
  const methods = Object.keys(createActor("coordinator", "aaaaa-aa", agent)).sort();
  let refused;
  try { unwrap({ Err: { UnknownProject: { project: 7n } } }); } catch (error) { refused = error instanceof CanisterError && error.kind; }
  console.log(JSON.stringify({ create: typeof createActor("econ", "aaaaa-aa", agent).subscribe, plans: methods.includes("create_plan"), hash: hex(sha256("a")), tag: tag({ Ok: 1 }), refused }));
`;

test("the package that npm packs runs by itself, and has its types", () => {
  const folder = mkdtempSync(join(tmpdir(), "ohms-pack-"));
  try {
    // Scripts are run here, not by `npm pack`: people forbid it to.
    execFileSync("npm", ["run", "build"], { cwd: client, stdio: "ignore" });
    const [packed] = JSON.parse(execFileSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], { cwd: client, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }));
    const files: string[] = packed.files.map(({ path }: { path: string }) => path);
    expect(files).toContain("dist/index.js");
    expect(files).toContain("dist/index.d.ts");
    expect(files).toContain("README.md");
    expect(files.filter((path) => path.includes(".test.") || path.startsWith("src/"))).toEqual([]);

    execFileSync("npm", ["init", "--yes"], { cwd: folder, stdio: "ignore" });
    const modules = join(folder, "node_modules");
    execFileSync("mkdir", ["-p", join(modules, "@ohms/client")]);
    execFileSync("tar", ["-xzf", join(folder, packed.filename), "-C", join(modules, "@ohms/client"), "--strip-components=1"]);
    // What the package asks for is what is installed here.
    const wanted = JSON.parse(readFileSync(join(modules, "@ohms/client/package.json"), "utf8"));
    for (const scope of new Set(Object.keys({ ...wanted.dependencies, ...wanted.peerDependencies }).map((name) => name.split("/")[0] ?? ""))) {
      symlinkSync(join(client, "../node_modules", scope), join(modules, scope));
    }
    const said = execFileSync("node", ["--input-type=module", "--eval", PROGRAM], { cwd: folder, encoding: "utf8" });
    expect(JSON.parse(said)).toEqual({
      create: "function",
      plans: true,
      hash: "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
      tag: "Ok",
      refused: "UnknownProject",
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
