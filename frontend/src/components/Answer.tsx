import { Link } from "@tanstack/react-router";
import { type agentTypes, CanisterError, optional } from "@ohms/client";
import { CircleCheck } from "lucide-react";
import { compact, count, dateOf, duration } from "../format.ts";
import { useLive } from "../live.ts";
import { hasEnded, useOutput } from "../queries.ts";
import { finishReason, jobFailure, jobState } from "../words.ts";
import { Loaded } from "./Loaded.tsx";
import { Badge, ErrorNotice, Notice } from "./ui.tsx";
import { Written } from "./Written.tsx";

/** A job of an agent, and what the person had written as its beginning. */
interface Part {
  agent: string;
  canister: string;
  beginning?: string;
}

/** The text of a job that has ended. */
export function Answer({ agent, canister, job, beginning = "" }: Part & { job: agentTypes.JobRecord }) {
  const output = useOutput(canister, job.job_id, true);
  return (
    <Loaded query={output} lines={2}>
      {({ text }) => (
        <>
          <Written beginning={beginning} text={text} />
          <Outcome agent={agent} job={job} />
        </>
      )}
    </Loaded>
  );
}

/** The text of a job as it appears. */
export function LiveAnswer({ agent, canister, jobId, beginning = "" }: Part & { jobId: bigint }) {
  const live = useLive(canister, jobId);
  const ended = live.job && hasEnded(live.job);
  const state = jobState(live.job?.state ?? { Queued: null });
  return (
    <div aria-busy={!ended}>
      <Written beginning={beginning} text={live.text} draft={live.draft} />
      {live.differed && (
        <Notice tone="bad">A draft was different from the text that followed. This is a bug; please report it with the number of this job, {String(jobId)}.</Notice>
      )}
      {live.error !== undefined && (
        <div className="mt-2">
          <ErrorNotice error={live.error} />
        </div>
      )}
      {live.job && ended ? (
        <Outcome agent={agent} job={live.job} />
      ) : (
        <p className="mt-1.5 flex flex-wrap items-center gap-x-3 gap-y-1 text-sm text-ink-2">
          <Badge tone={state.tone} busy={state.busy ?? false}>
            {state.words}
          </Badge>
          <span>{count(live.tokens, "token")} on chain</span>
          {live.draft && <span className="underline decoration-dotted underline-offset-4">dotted: a draft, not confirmed yet</span>}
        </p>
      )}
    </div>
  );
}

const DOTTED = "relative pl-4 before:absolute before:left-1.5 before:content-['·']";

/** How a job ended, and the way to its receipt. */
export function Outcome({ agent, job }: { agent: string; job: agentTypes.JobRecord }) {
  const state = jobState(job.state);
  const finished = optional(job.finished_at_ns);
  const took = finished === undefined ? undefined : dateOf(finished).getTime() - dateOf(job.submitted_at_ns).getTime();
  return (
    <div className="mt-1.5 grid gap-1 text-sm text-ink-2">
      {"Failed" in job.state && <ErrorNotice error={new CanisterError({ InvalidField: { field: "The agent could not answer", reason: jobFailure(job.state.Failed.reason) } })} />}
      {/* Dots stand between what is on one line: those before the first of a line are cut off at the edge. */}
      <div className="-m-1 overflow-hidden p-1">
        <p className="-ml-4 flex flex-wrap items-center">
          <span className="flex items-center gap-2 pl-4">
            {"Done" in job.state ? (
              <CircleCheck aria-hidden className="size-4 text-good" />
            ) : (
              <Badge tone={state.tone}>{state.words}</Badge>
            )}
            <span title={"Done" in job.state ? finishReason(job.state.Done.reason) : undefined}>{count(job.counts.generated_tokens, "token")}</span>
          </span>
          <span className={DOTTED}>{compact(job.counts.instructions)} instructions</span>
          {took !== undefined && <span className={DOTTED}>{duration(took)}</span>}
          <span className={DOTTED}>
            <Link to="/agents/$key/jobs/$job" params={{ key: agent, job: String(job.job_id) }} className="underline underline-offset-2 hover:text-ink">
              Verify
            </Link>
          </span>
        </p>
      </div>
    </div>
  );
}
