import { Link } from "@tanstack/react-router";
import { type agentTypes, optional, tag } from "@ohms/client";
import { useState } from "react";
import { Loaded } from "../components/Loaded.tsx";
import { Badge, Empty, Loading, More, Panel, Table, When } from "../components/ui.tsx";
import { compact, dateOf } from "../format.ts";
import { useJobs, usePrompt } from "../queries.ts";
import { jobState } from "../words.ts";
import { useAgentOfPage } from "./AgentLayout.tsx";

const PAGE = 20;

/** What the agent has to do, does, and has done. */
export function JobsPage() {
  const { canister } = useAgentOfPage();
  return canister ? <Jobs canister={canister} /> : <Loading />;
}

function Jobs({ canister }: { canister: string }) {
  const { key } = useAgentOfPage();
  const jobs = useJobs(canister);
  const [shown, setShown] = useState(PAGE);
  return (
    <Panel title="Jobs">
      <Loaded query={jobs} lines={6}>
        {(all) =>
          all.length === 0 ? (
            <Empty title="No jobs yet">
              <p>Each message to the agent is a job. They are listed here, the last 256 of them.</p>
            </Empty>
          ) : (
            <>
              <Table
                label="Jobs"
                rows={all.slice(0, shown)}
                keyOf={(job) => String(job.job_id)}
                columns={[
                  {
                    title: "Job",
                    cell: (job) => (
                      <Link to="/agents/$key/jobs/$job" params={{ key, job: String(job.job_id) }} className="underline underline-offset-2">
                        {String(job.job_id)}
                      </Link>
                    ),
                  },
                  { title: "Text", cell: (job) => <PromptText canister={canister} job={job} /> },
                  { title: "State", cell: (job) => <JobBadge job={job} /> },
                  { title: "Class", wide: true, cell: (job) => tag(job.priority) },
                  { title: "Tokens", right: true, cell: (job) => job.counts.generated_tokens.toLocaleString("en") },
                  { title: "Instructions", right: true, wide: true, cell: (job) => compact(job.counts.instructions) },
                  { title: "Submitted", wide: true, cell: (job) => <When date={dateOf(job.submitted_at_ns)} /> },
                ]}
              />
              <More shown={Math.min(shown, all.length)} hasMore={all.length > shown} busy={false} onMore={() => setShown(shown + PAGE)} />
            </>
          )
        }
      </Loaded>
    </Panel>
  );
}

export function JobBadge({ job }: { job: agentTypes.JobRecord }) {
  const { tone, words, busy } = jobState(job.state);
  return (
    <Badge tone={tone} busy={busy ?? false}>
      {words}
    </Badge>
  );
}

function PromptText({ canister, job }: { canister: string; job: agentTypes.JobRecord }) {
  const prompt = usePrompt(canister, job.job_id);
  const messages = prompt.data && optional(prompt.data.messages);
  return <span className="line-clamp-1 min-w-16 break-all">{(messages ? messages.at(-1)?.content : prompt.data?.prompt) ?? "…"}</span>;
}
