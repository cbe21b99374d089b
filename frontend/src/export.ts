import { allPages, type coordinatorTypes, type factoryTypes, optional, unwrap } from "@ohms/client";
import { exportMemory } from "./agent/queries.ts";
import { readLog } from "./projects/queries.ts";
import { hasEnded, readOutput } from "./queries.ts";
import type { useCanisters } from "./session.tsx";

type Canisters = ReturnType<typeof useCanisters>;

/** All agents of the caller. */
export function allAgents(canisters: Canisters): Promise<factoryTypes.AgentRecord[]> {
  return allPages(async (after: [] | [string]) => {
    const page = await canisters.factory.list_agents({ after, limit: 100 });
    return { items: page.agents, next: page.next };
  });
}

/** All projects that the coordinator keeps of the caller. */
export function allProjects(coordinator: Pick<coordinatorTypes._SERVICE, "projects">): Promise<coordinatorTypes.Project[]> {
  return allPages(async (after: [] | [bigint]) => {
    const page = unwrap(await coordinator.projects({ after, limit: 20 }));
    return { items: page.projects, next: page.next };
  });
}

/** The caller's projects with their tasks, messages and log. */
async function collectProjects(coordinator: ReturnType<Canisters["coordinator"]>, onStep: (words: string) => void) {
  const projects = await allProjects(coordinator);
  const whole = [];
  for (const project of projects) {
    onStep(`Project ${whole.length + 1} of ${projects.length}`);
    const tasks = await allPages(async (after: [] | [number]) => {
      const page = unwrap(await coordinator.tasks({ project: project.id, after, limit: 100 }));
      return { items: page.tasks, next: page.next };
    });
    const { events } = await readLog((args) => coordinator.events(args), project.id);
    whole.push({ project, tasks, events });
  }
  return whole;
}

/** The caller's subscription, invoices and runs. */
async function collectEconomy(econ: ReturnType<Canisters["econ"]>) {
  const invoices = await allPages(async (after: [] | [bigint]) => {
    const page = unwrap(await econ.invoices({ account: [], after, limit: 100 }));
    return { items: page.invoices, next: page.next };
  });
  const runs = await allPages(async (after: [] | [bigint]) => {
    const page = unwrap(await econ.usage({ account: [], after, limit: 100 }));
    return { items: page.records, next: page.next };
  });
  return { account: unwrap(await econ.account([])), invoices, runs };
}

/** Everything that the caller's canisters keep for it. `onStep` hears how far it is. */
export async function collect(canisters: Canisters, principal: string, onStep: (words: string) => void) {
  const records = await allAgents(canisters);
  const agents = [];
  for (const record of records) {
    const canister = optional(record.canister);
    if (!canister || !("Running" in record.state)) {
      agents.push({ record });
      continue;
    }
    const agent = canisters.agent(canister);
    const jobs = await allPages(async (after: [] | [bigint]) => {
      const page = unwrap(await agent.list_jobs({ after, limit: 100 }));
      return { items: page.jobs, next: page.next };
    });
    const receipts = await allPages(async (after: [] | [bigint]) => {
      const page = unwrap(await agent.list_receipts({ after, limit: 100 }));
      return { items: page.receipts, next: page.next };
    });
    const texts = [];
    for (const job of jobs) {
      onStep(`${record.key}: job ${texts.length + 1} of ${jobs.length}`);
      const prompt = unwrap(await agent.get_prompt(job.job_id));
      const output = hasEnded(job) ? await readOutput(agent, job.job_id) : undefined;
      texts.push({ job, prompt, text: output?.text, tokens: output?.tokens });
    }
    onStep(`${record.key}: memory and wallet`);
    // Its profile is the first line of what it remembers.
    const memory = await exportMemory((args) => agent.export_memory(args));
    const payments = await allPages(async (after: [] | [bigint]) => {
      const page = unwrap(await agent.list_payments({ after, limit: 100 }));
      return { items: page.payments, next: page.next };
    });
    agents.push({
      record,
      jobs: texts,
      receipts,
      memory: memory.split("\n").filter((line) => line !== "").map((line): unknown => JSON.parse(line)),
      wallet: { ...unwrap(await agent.wallet()), payments },
    });
  }
  const projects = canisters.has("coordinator") ? await collectProjects(canisters.coordinator(), onStep) : [];
  const economy = canisters.has("econ") ? await collectEconomy(canisters.econ()) : undefined;
  return { exported_at: new Date().toISOString(), principal, agents, projects, economy };
}

/** Candid values as JSON that any program reads: whole numbers beyond 2^53 as text, blobs as hexadecimal digits. */
export function readable(value: unknown): string {
  return JSON.stringify(
    value,
    (_, it: unknown) => {
      if (typeof it === "bigint") return it <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(it) : it.toString();
      if (it instanceof Uint8Array) return Array.from(it, (byte) => byte.toString(16).padStart(2, "0")).join("");
      if (it !== null && typeof it === "object" && "__principal__" in it) return it.__principal__;
      return it;
    },
    2,
  );
}

/** Has the browser save a text as a file. */
export function saveFile(name: string, type: string, text: string) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
