import { type QueryClient, useQuery, useQueryClient } from "@tanstack/react-query";
import { allPages, type coordinatorTypes as types, optional, tag, unwrap } from "@ohms/client";
import { useEffect } from "react";
import { useCanisters, useSession } from "../session.tsx";
import { isOpen } from "./words.ts";

/** Items of a page; the coordinator gives 20 projects at most. */
const PAGE = 100;
/** Time between two looks at a project that runs, in milliseconds. */
const POLL_MS = 1_000;
/** The same for one that has ended or waits for its owner. */
const REST_MS = 15_000;

function useMe(): string {
  return useSession().principal?.toText() ?? "anonymous";
}

/** The caller's projects, newest first: the coordinator keeps 64 of them. */
export function useProjects() {
  const { coordinator } = useCanisters();
  return useQuery({
    queryKey: [useMe(), "projects"],
    queryFn: async () => {
      const projects = await allPages(async (after: [] | [bigint]) => {
        const page = unwrap(await coordinator().projects({ after, limit: 20 }));
        return { items: page.projects, next: page.next };
      });
      return projects.reverse();
    },
    refetchInterval: ({ state }) => (state.data?.some(isOpen) ? 2 * POLL_MS : REST_MS),
  });
}

const projectKey = (me: string, id: bigint) => [me, "project", String(id)];

/** One of the caller's projects. Who shows it follows its events, too: they say when it has changed. */
export function useProject(id: bigint) {
  const { coordinator } = useCanisters();
  return useQuery({
    queryKey: projectKey(useMe(), id),
    queryFn: async () => unwrap(await coordinator().get_project(id)),
    refetchInterval: REST_MS,
  });
}

/** Tasks of a project, in order. */
export function useTasks(id: bigint) {
  const { coordinator } = useCanisters();
  return useQuery({
    queryKey: [...projectKey(useMe(), id), "tasks"],
    queryFn: () =>
      allPages(async (after: [] | [number]) => {
        const page = unwrap(await coordinator().tasks({ project: id, after, limit: PAGE }));
        return { items: page.tasks, next: page.next };
      }),
    refetchInterval: REST_MS,
  });
}

/** What happened in a project so far. */
export interface Log {
  events: types.Event[];
  /** Sequence number up to which the workspace's log was read. */
  last: bigint;
}

/** Reads what was added to the log since `before`. */
export async function readLog(
  events: (args: types.EventsArgs) => Promise<{ Ok: types.EventPage } | { Err: types.CoordinatorError }>,
  project: bigint,
  before: Log = { events: [], last: 0n },
): Promise<Log> {
  const log = { events: [...before.events], last: before.last };
  for (;;) {
    const page = unwrap(await events({ project: [project], after: [log.last], limit: PAGE }));
    log.events.push(...page.events);
    const next = optional(page.next);
    if (next === undefined) return { ...log, last: page.last };
    log.last = next;
  }
}

/** The log of a project: only what is new is asked for. When there is something new, what it changes is read again. */
export function useLog(id: bigint) {
  const { coordinator } = useCanisters();
  const queries = useQueryClient();
  const me = useMe();
  const queryKey = [me, "log", String(id)];
  const log = useQuery({
    queryKey,
    queryFn: () => readLog((args) => coordinator().events(args), id, queries.getQueryData<Log>(queryKey)),
    refetchInterval: ({ state }) => {
      const project = queries.getQueryData<types.Project>(projectKey(me, id));
      const unsettled = project !== undefined && project.started_at_ns.length > 0 && !project.settled;
      return !state.data || unsettled || (project && isOpen(project)) ? POLL_MS : REST_MS;
    },
  });
  const last = log.data?.events.at(-1)?.sequence;
  useEffect(() => {
    if (last !== undefined) void refreshProject(queries, me, id);
  }, [queries, me, id, last]);
  return log;
}

/** Reads again what a project consists of. */
export function refreshProject(queries: QueryClient, me: string, id: bigint) {
  return queries.invalidateQueries({ queryKey: projectKey(me, id) });
}

/** Messages of a project, in order. */
export function useMessages(id: bigint) {
  const { coordinator } = useCanisters();
  return useQuery({
    queryKey: [...projectKey(useMe(), id), "messages"],
    queryFn: () =>
      allPages(async (after: [] | [bigint]) => {
        const page = unwrap(await coordinator().messages({ project: id, after, limit: PAGE }));
        return { items: page.messages, next: page.next };
      }),
  });
}

/** The text that a task has made; `version` is its hash. */
export function useArtifact(key: types.TaskKey, version: string | undefined) {
  const { coordinator } = useCanisters();
  return useQuery({
    queryKey: [useMe(), "artifact", String(key.project), key.task, version],
    enabled: version !== undefined,
    staleTime: Infinity,
    queryFn: async () => unwrap(await coordinator().artifact(key)),
  });
}

/** Tasks of all projects that wait for the caller. */
export function useDeadLetters() {
  const { coordinator } = useCanisters();
  return useQuery({
    queryKey: [useMe(), "dead-letters"],
    queryFn: () =>
      allPages(async (after: [] | [types.TaskKey]) => {
        const page = unwrap(await coordinator().dead_letters({ after, limit: PAGE }));
        return { items: page.letters, next: page.next };
      }),
    refetchInterval: REST_MS,
  });
}

/** Agents that the coordinator knows of the caller. */
export function useTeam() {
  const { coordinator } = useCanisters();
  return useQuery({
    queryKey: [useMe(), "team"],
    queryFn: () =>
      allPages(async (after: [] | [string]) => {
        const page = unwrap(await coordinator().agents({ after, limit: PAGE }));
        return { items: page.agents, next: page.next };
      }),
    refetchInterval: REST_MS,
  });
}

/** Whether a task has ended, one way or another. */
export const hasEnded = (task: types.Task) => ["Completed", "Failed", "Canceled", "Rejected"].includes(tag(task.state));
