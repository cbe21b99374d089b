import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { type agentTypes, optional, tag, unwrap } from "@ohms/client";
import { Loaded } from "../components/Loaded.tsx";
import { ReceiptPanel } from "../components/ReceiptPanel.tsx";
import { Written } from "../components/Written.tsx";
import { Button, ConfirmButton, ErrorNotice, Facts, Id, Loading, Panel, When } from "../components/ui.tsx";
import { compact, dateOf, duration } from "../format.ts";
import { useLive } from "../live.ts";
import { hasEnded, useJob, useOutput, usePrompt } from "../queries.ts";
import { useCanisters, useSignedIn } from "../session.tsx";
import { finishReason, jobFailure } from "../words.ts";
import { useAgentOfPage } from "./AgentLayout.tsx";
import { JobBadge } from "./JobsPage.tsx";

/** A job: what was asked, what was written, what it took, and the receipt. */
export function JobPage() {
  const { canister } = useAgentOfPage();
  const { job } = useParams({ strict: false }) as { job: string };
  if (!canister) return <Loading />;
  if (!/^\d{1,20}$/.test(job)) return <ErrorNotice error={new Error(`“${job}” is not the number of a job`)} />;
  return <Job canister={canister} jobId={BigInt(job)} />;
}

function Job({ canister, jobId }: { canister: string; jobId: bigint }) {
  const { key } = useAgentOfPage();
  const query = useJob(canister, jobId);
  return (
    <div className="grid gap-4">
      <p className="text-sm">
        <Link to="/agents/$key/jobs" params={{ key }} className="text-ink-2 underline underline-offset-2">
          All jobs
        </Link>
      </p>
      <Loaded query={query} lines={8}>
        {(job) => (
          <>
            <Panel
              title={
                <span className="flex items-center gap-2">
                  Job {String(jobId)} <JobBadge job={job} />
                </span>
              }
              actions={<JobActions canister={canister} job={job} />}
            >
              <JobFacts job={job} />
            </Panel>
            <Panel title="Text">
              <Text canister={canister} jobId={jobId} ended={hasEnded(job)} />
            </Panel>
            {hasEnded(job) && optional(job.receipt) !== undefined && <ReceiptPanel canister={canister} jobId={jobId} />}
          </>
        )}
      </Loaded>
    </div>
  );
}

function JobFacts({ job }: { job: agentTypes.JobRecord }) {
  const { params, counts } = job;
  const started = optional(job.started_at_ns);
  const finished = optional(job.finished_at_ns);
  const facts: [string, React.ReactNode][] = [
    ["Submitted", <When key="" date={dateOf(job.submitted_at_ns)} />],
    ["By", <Id key="" value={job.caller.toText()} label="principal" />],
    ["Class", tag(job.priority)],
    ["Tokens", `${counts.prompt_tokens} read, ${counts.generated_tokens} of ${params.max_tokens} written`],
    ["Instructions", compact(counts.instructions)],
    ["Slices", counts.messages],
    ["Temperature", Number(params.temperature.toPrecision(4))],
    ["Seed", String(params.seed)],
  ];
  if (started !== undefined && finished !== undefined) {
    facts.splice(1, 0, ["Took", duration(dateOf(finished).getTime() - dateOf(started).getTime())]);
  }
  if ("Done" in job.state) facts.push(["Ended because", finishReason(job.state.Done.reason)]);
  return (
    <>
      {"Failed" in job.state && (
        <div className="mb-4">
          <ErrorNotice error={new Error(jobFailure(job.state.Failed.reason))} />
        </div>
      )}
      <Facts facts={facts} />
    </>
  );
}

function JobActions({ canister, job }: { canister: string; job: agentTypes.JobRecord }) {
  const { principal } = useSignedIn();
  const canisters = useCanisters();
  const queries = useQueryClient();
  const action = useMutation({
    mutationFn: async (method: "pause_job" | "resume_job" | "cancel_job") =>
      unwrap(await canisters.agent(canister)[method](job.job_id)),
    onSettled: () => queries.invalidateQueries({ queryKey: [principal.toText()] }),
  });
  if (hasEnded(job)) return null;
  return (
    <>
      {action.error && <ErrorNotice error={action.error} />}
      {"Paused" in job.state ? (
        <Button busy={action.isPending} onClick={() => action.mutate("resume_job")}>
          Resume
        </Button>
      ) : (
        <Button busy={action.isPending} onClick={() => action.mutate("pause_job")}>
          Pause
        </Button>
      )}
      <ConfirmButton label="Cancel job" title="Cancel this job?" confirm="Cancel the job" busy={action.isPending} onConfirm={() => action.mutate("cancel_job")}>
        What it has written so far stays readable. It can't go on afterwards.
      </ConfirmButton>
    </>
  );
}

const SPEAKERS = { System: "Instruction", User: "You", Assistant: "Agent", Tool: "Tool" };

/** What was asked, and what was written. */
function Text({ canister, jobId, ended }: { canister: string; jobId: bigint; ended: boolean }) {
  const prompt = usePrompt(canister, jobId);
  return (
    <Loaded query={prompt} lines={3}>
      {(it) => {
        const messages = optional(it.messages) ?? [];
        const of = { canister, jobId, beginning: it.prompt };
        return (
          <>
            {messages.length > 0 && (
              <ul className="mb-3 grid gap-2">
                {messages.map((message, at) => (
                  <li key={`${at}`} className="max-w-prose">
                    <span className="text-sm text-ink-2">{SPEAKERS[tag(message.role)]}</span>
                    <p className="whitespace-pre-wrap break-words">{message.content}</p>
                  </li>
                ))}
                <li className="text-sm text-ink-2">{SPEAKERS.Assistant}</li>
              </ul>
            )}
            {ended ? <FinalText {...of} /> : <LiveText {...of} />}
          </>
        );
      }}
    </Loaded>
  );
}

interface Place {
  canister: string;
  jobId: bigint;
  beginning: string;
}

function FinalText({ canister, jobId, beginning }: Place) {
  const output = useOutput(canister, jobId, true);
  return <Loaded query={output}>{({ text }) => <Written beginning={beginning} text={text} />}</Loaded>;
}

function LiveText({ canister, jobId, beginning }: Place) {
  const live = useLive(canister, jobId);
  return (
    <div aria-busy>
      <Written beginning={beginning} text={live.text} draft={live.draft} />
      {live.error !== undefined && <ErrorNotice error={live.error} />}
    </div>
  );
}
