import { useQueryClient } from "@tanstack/react-query";
import { type agentTypes, CanisterError, unwrap } from "@ohms/client";
import { useEffect, useReducer } from "react";
import { hasEnded } from "./queries.ts";
import { useCanisters, useSession } from "./session.tsx";

/** A job while it runs: what the canister has, and what a query computed ahead of it. */
export interface Live {
  job: agentTypes.JobRecord | undefined;
  /** Text of the tokens that the canister has. */
  text: string;
  /** Tokens that the canister has. */
  tokens: number;
  /** How long the text was when the canister had so many tokens; the beginning of a draft is one of these numbers. */
  lengths: ReadonlyMap<number, number>;
  /** Text behind `text` that is a draft as yet. */
  draft: string;
  /** A draft of a state that the canister had, but this page has not seen yet. */
  early: agentTypes.Draft | undefined;
  /** Whether a draft turned out to be different from what followed: a bug. */
  differed: boolean;
  error: unknown;
}

export const NOTHING: Live = {
  job: undefined,
  text: "",
  tokens: 0,
  lengths: new Map([[0, 0]]),
  draft: "",
  early: undefined,
  differed: false,
  error: undefined,
};

export type Step =
  | { kind: "progress"; progress: agentTypes.JobProgress }
  | { kind: "draft"; draft: agentTypes.Draft }
  | { kind: "error"; error: unknown };

/** What a draft and the confirmed text have beyond the confirmed one; nothing if the draft is no continuation of it. */
function tail(confirmed: string, whole: string): string | undefined {
  if (whole.startsWith(confirmed)) return whole.slice(confirmed.length);
  return confirmed.startsWith(whole) ? "" : undefined;
}

/** The next state. What the canister has replaces what was drafted, and is compared with it. */
export function advance(live: Live, step: Step): Live {
  switch (step.kind) {
    case "error":
      return { ...live, error: step.error };
    case "progress": {
      const { progress } = step;
      const before = live.text + live.draft;
      const text = live.text + progress.text;
      const rest = tail(text, before);
      const next: Live = {
        job: progress.job,
        text,
        tokens: progress.next_token,
        lengths: new Map(live.lengths).set(progress.next_token, text.length),
        draft: hasEnded(progress.job) ? "" : (rest ?? ""),
        early: undefined,
        differed: live.differed || rest === undefined,
        error: undefined,
      };
      return live.early && !hasEnded(progress.job) ? advance(next, { kind: "draft", draft: live.early }) : next;
    }
    case "draft": {
      const begin = live.lengths.get(step.draft.first_token);
      if (begin === undefined) return step.draft.first_token > live.tokens ? { ...live, early: step.draft } : live;
      const rest = tail(live.text, live.text.slice(0, begin) + step.draft.text);
      if (rest === undefined) return { ...live, differed: true };
      return rest.length > live.draft.length ? { ...live, draft: rest } : live;
    }
  }
}

const POLL_MS = 350;
/** Tokens of a draft: enough to read on until the next slice ends. */
const DRAFT_TOKENS = 24;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Follows a job until it has ended. */
export function useLive(canister: string, jobId: bigint): Live {
  const canisters = useCanisters();
  const { principal } = useSession();
  const queries = useQueryClient();
  const [live, step] = useReducer(advance, NOTHING);
  const me = principal?.toText() ?? "anonymous";

  useEffect(() => {
    const agent = canisters.agent(canister);
    let stopped = false;
    let ended = false;
    let seen = 0;

    const follow = async () => {
      while (!stopped && !ended) {
        try {
          const progress = unwrap(await agent.job_progress({ job_id: jobId, after_token: seen }));
          if (stopped) return;
          step({ kind: "progress", progress });
          seen = progress.next_token;
          ended = hasEnded(progress.job) && seen >= progress.job.counts.generated_tokens;
        } catch (error) {
          if (stopped) return;
          step({ kind: "error", error });
          if (error instanceof CanisterError) return;
        }
        await pause(POLL_MS);
      }
      if (!stopped) {
        await queries.invalidateQueries({ queryKey: [me, "jobs", canister] });
        await queries.invalidateQueries({ queryKey: [me, "job", canister, String(jobId)] });
        await queries.invalidateQueries({ queryKey: [me, "receipts", canister] });
      }
    };
    const draft = async () => {
      while (!stopped && !ended) {
        try {
          const drafted = await agent.draft({ job_id: jobId, max_tokens: [DRAFT_TOKENS] });
          // Not every state can be drafted: a model that is not in memory, a job that has ended.
          if (!stopped && "Ok" in drafted) step({ kind: "draft", draft: drafted.Ok });
        } catch {
          // The text itself comes from `follow`, which says what is wrong.
        }
        await pause(POLL_MS);
      }
    };
    void follow();
    void draft();
    return () => {
      stopped = true;
    };
  }, [canisters, canister, jobId, queries, me]);

  return live;
}
