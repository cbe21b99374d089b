import { keepPreviousData, QueryClient, queryOptions, useInfiniteQuery, useQuery } from "@tanstack/react-query";
import type { Principal } from "@icp-sdk/core/principal";
import {
  allPages,
  type agentTypes,
  CanisterError,
  type factoryTypes,
  type modelTypes,
  optional,
  tag,
  unwrap,
} from "@ohms/client";
import { useCanisters, useSession } from "./session.tsx";

/** Items of a page of any list. */
const PAGE = 25;

/** Errors of a canister's rules stay the same when asked again. */
export const queryClient = new QueryClient({
  defaultOptions: {
    queries: {
      retry: (failures, error) => failures < 2 && !(error instanceof CanisterError),
      staleTime: 5_000,
      gcTime: 24 * 60 * 60 * 1_000,
      networkMode: "always",
    },
    mutations: { networkMode: "always" },
  },
});

/** Keys of everything that is asked for on behalf of the session begin with its principal. */
function useMe(): string {
  return useSession().principal?.toText() ?? "anonymous";
}

/** Whether an agent is on its way from one state to another. */
export function isMoving(record: factoryTypes.AgentRecord): boolean {
  return ["Creating", "Installing", "Stopping", "Starting", "Upgrading", "Deleting"].includes(tag(record.state));
}

/** The caller's agents. */
export function useAgents() {
  const { factory } = useCanisters();
  return useInfiniteQuery({
    queryKey: [useMe(), "agents"],
    initialPageParam: undefined as string | undefined,
    queryFn: ({ pageParam }) => factory.list_agents({ after: pageParam === undefined ? [] : [pageParam], limit: PAGE }),
    getNextPageParam: (page) => optional(page.next),
    refetchInterval: ({ state }) => (state.data?.pages.some((page) => page.agents.some(isMoving)) ? 1_000 : 15_000),
  });
}

/** One of the caller's agents. */
export function useAgentRecord(key: string, enabled = true) {
  const { factory } = useCanisters();
  return useQuery({
    queryKey: [useMe(), "agent", key],
    enabled,
    queryFn: async () => unwrap(await factory.get_agent(key)),
    refetchInterval: ({ state }) => (!state.data || isMoving(state.data) ? 1_000 : false),
  });
}

/** What an agent says of itself. */
export function useAgentStatus(canister: string | undefined) {
  const canisters = useCanisters();
  return useQuery({
    queryKey: [useMe(), "agent-status", canister],
    enabled: canister !== undefined,
    queryFn: async () => unwrap(await canisters.agent(canister ?? "").status()),
    refetchInterval: ({ state }) => {
      const status = state.data;
      return status && (status.open_jobs > 0n || "Loading" in status.load) ? 1_500 : 10_000;
    },
  });
}

/** Whether a job has ended. */
export function hasEnded(job: agentTypes.JobRecord): boolean {
  return "Done" in job.state || "Failed" in job.state || "Cancelled" in job.state;
}

/** All jobs that an agent keeps, newest first: at most 256. */
export function useJobs(canister: string) {
  const canisters = useCanisters();
  return useQuery({
    queryKey: [useMe(), "jobs", canister],
    queryFn: async () => {
      const agent = canisters.agent(canister);
      const jobs = await allPages(async (after: [] | [bigint]) => {
        const page = unwrap(await agent.list_jobs({ after, limit: 100 }));
        return { items: page.jobs, next: page.next };
      });
      return jobs.reverse();
    },
    refetchInterval: ({ state }) => (state.data?.some((job) => !hasEnded(job)) ? 1_500 : 15_000),
  });
}

/** A job. */
export function useJob(canister: string, jobId: bigint) {
  const canisters = useCanisters();
  return useQuery({
    queryKey: [useMe(), "job", canister, String(jobId)],
    queryFn: async () => unwrap(await canisters.agent(canister).get_job(jobId)),
    refetchInterval: ({ state }) => (state.data && hasEnded(state.data) ? false : 1_000),
  });
}

/** What a job goes on from; it never changes. */
export function usePrompt(canister: string, jobId: bigint) {
  const canisters = useCanisters();
  return useQuery({
    queryKey: [useMe(), "prompt", canister, String(jobId)],
    staleTime: Infinity,
    queryFn: async () => unwrap(await canisters.agent(canister).get_prompt(jobId)),
  });
}

/** Tokens and text of a job so far. */
export interface Output {
  tokens: number[];
  text: string;
  job: agentTypes.JobRecord;
}

/** Reads a job's output from the token `after` on. */
export async function readOutput(
  agent: { job_progress: agentTypes._SERVICE["job_progress"] },
  jobId: bigint,
  after = 0,
): Promise<Output> {
  const tokens: number[] = [];
  let text = "";
  for (;;) {
    const progress = unwrap(await agent.job_progress({ job_id: jobId, after_token: after }));
    tokens.push(...progress.tokens);
    text += progress.text;
    after = progress.next_token;
    if (progress.tokens.length === 0 || after >= progress.job.counts.generated_tokens) {
      return { tokens, text, job: progress.job };
    }
  }
}

/** The output of a job that has ended; it never changes. */
export function useOutput(canister: string, jobId: bigint, enabled: boolean) {
  const canisters = useCanisters();
  return useQuery({
    queryKey: [useMe(), "output", canister, String(jobId)],
    staleTime: Infinity,
    enabled,
    queryFn: () => readOutput(canisters.agent(canister), jobId),
  });
}

/** A page of receipts, newest first: sequence numbers are without gaps, so pages can be counted from the end. */
export function useReceipts(canister: string) {
  const canisters = useCanisters();
  return useInfiniteQuery({
    queryKey: [useMe(), "receipts", canister],
    initialPageParam: undefined as bigint | undefined,
    queryFn: async ({ pageParam }) => {
      const agent = canisters.agent(canister);
      const list = async (after: bigint, limit: number) => unwrap(await agent.list_receipts({ after: [after], limit }));
      const end = pageParam ?? (await list(2n ** 62n, 1)).head.sequence;
      const after = end > BigInt(PAGE) ? end - BigInt(PAGE) : 0n;
      const page = await list(after, Number(end - after) || 1);
      const receipts = page.receipts.filter((receipt) => receipt.sequence <= end).reverse();
      return { receipts, head: page.head, before: receipts.length > 0 && after > 0n ? after : undefined };
    },
    getNextPageParam: (page) => page.before,
  });
}

/** Models of the catalogue that the caller may see. */
export function useModels(status?: modelTypes.ModelStatus) {
  const { model } = useCanisters();
  return useInfiniteQuery({
    queryKey: [useMe(), "models", status ? tag(status) : "all"],
    initialPageParam: undefined as Uint8Array | undefined,
    queryFn: ({ pageParam }) =>
      model.list_models({ status: status ? [status] : [], filter: [], after: pageParam ? [pageParam] : [], limit: PAGE }),
    getNextPageParam: (page) => {
      const next = optional(page.next);
      return next && Uint8Array.from(next);
    },
    refetchInterval: ({ state }) =>
      state.data?.pages.some((page) => page.models.some((it) => "Pending" in it.status && !("Passed" in it.validation))) ? 2_000 : 30_000,
    placeholderData: keepPreviousData,
  });
}

/** The parts of a manifest that pages show (`novaq-engine/src/artifact/manifest.rs`). */
export interface Manifest {
  name: string;
  architecture: string;
  chat_template: string | null;
  config?: { max_position_embeddings?: number; [name: string]: unknown };
  compression?: Record<string, unknown>;
  verification?: Record<string, unknown> | null;
  estimates?: Record<string, unknown>;
  origin?: Record<string, unknown>;
  tags?: string[];
}

/** How a model's manifest is read; it never changes. */
export function manifestQuery(model: ReturnType<typeof useCanisters>["model"], modelId: Uint8Array | number[]) {
  const id = Uint8Array.from(modelId);
  return queryOptions({
    queryKey: ["manifest", id.join()],
    staleTime: Infinity,
    queryFn: async () => {
      const bytes = Uint8Array.from(unwrap(await model.get_manifest(id)));
      return JSON.parse(new TextDecoder().decode(bytes)) as Manifest;
    },
  });
}

/** A model's manifest. */
export function useManifest(modelId: Uint8Array | number[], enabled = true) {
  const { model } = useCanisters();
  return useQuery({ ...manifestQuery(model, modelId), enabled });
}

/** What the session's principal may administer. */
export interface Rights {
  /** Roles in the model repository. */
  model: Set<string>;
  /** Whether it administers the agent factory. */
  factory: boolean;
  /** Whether it administers the econ canister. */
  econ: boolean;
}

/** Whether there is anything to administer. */
export const isAdmin = (rights: Rights | undefined) =>
  rights !== undefined && (rights.factory || rights.econ || rights.model.size > 0);

/** Whether it votes on proposals of the repository. */
export const mayVote = (rights: Rights | undefined) => rights?.model.has("Admin") || rights?.model.has("Owner") || false;

/** The rights of the session's principal. The canisters refuse what it may not do anyway; this is for what to show. */
export function useRights() {
  const { principal } = useSession();
  const { model, factory, econ, has } = useCanisters();
  return useQuery({
    queryKey: [useMe(), "rights"],
    enabled: principal !== undefined,
    staleTime: 60_000,
    queryFn: async (): Promise<Rights> => {
      const me = principal?.toText();
      const grants = allPages(async (after: [] | [modelTypes.RoleGrant]) => {
        const page = await model.list_roles({ after, limit: 100 });
        return { items: page.grants, next: page.next };
      });
      // Where it does not answer, the others are administered nevertheless.
      const economy = has("econ") ? econ().status().catch(() => undefined) : undefined;
      const [roles, factoryStatus, econStatus] = await Promise.all([grants, factory.status(), economy]);
      const isOneOf = (admins: Principal[] = []) => admins.some((admin) => admin.toText() === me);
      return {
        model: new Set(roles.filter((grant) => grant.principal.toText() === me).map((grant) => tag(grant.role))),
        factory: isOneOf(factoryStatus.admins),
        econ: isOneOf(econStatus?.admins),
      };
    },
  });
}
