import { Link, useParams } from "@tanstack/react-router";
import { type coordinatorTypes as types, hex, optional, unwrap } from "@ohms/client";
import { Star } from "lucide-react";
import { Loaded } from "../../components/Loaded.tsx";
import { cx, Empty, ErrorNotice, Facts, Id, Panel, Table, When } from "../../components/ui.tsx";
import { compact, count, dateOf } from "../../format.ts";
import { useTasks } from "../../projects/queries.ts";
import { attemptStage, isDeadLetter, verdict } from "../../projects/words.ts";
import { useCanisters } from "../../session.tsx";
import { DeadLetter } from "./DeadLetter.tsx";
import { useProjectAction, useProjectId } from "./ProjectLayout.tsx";
import { ArtifactText, TaskBadge } from "./WorkPage.tsx";

/** A task: its text, who made it and how, and what it was asked. */
export function TaskPage() {
  const project = useProjectId();
  const { task: number } = useParams({ strict: false }) as { task: string };
  const tasks = useTasks(project);
  return (
    <Loaded query={tasks} lines={6}>
      {(all) => {
        const task = all.find(({ plan }) => String(plan.id) === number);
        return task ? (
          <Details project={project} task={task} />
        ) : (
          <Panel>
            <Empty title={`This project has no task ${number}`}>
              <Link to="/projects/$project" params={{ project: String(project) }} className="underline underline-offset-2">
                To all tasks
              </Link>
            </Empty>
          </Panel>
        );
      }}
    </Loaded>
  );
}

function Details({ project, task }: { project: bigint; task: types.Task }) {
  const { plan } = task;
  const artifact = optional(task.artifact);
  const decision = artifact && optional(artifact.verdict);
  return (
    <div className="grid gap-4">
      <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
        <h2 className="text-lg">
          {plan.id} · {plan.title}
        </h2>
        <TaskBadge task={task} />
      </div>
      {isDeadLetter(task) && (
        <Panel title="This waits for you">
          <ul>
            <DeadLetter project={project} task={task} />
          </ul>
        </Panel>
      )}
      <Panel title="Text" actions={"Completed" in task.state && <Rating project={project} task={task} />}>
        <ArtifactText project={project} task={task} />
      </Panel>
      <Panel title="How it was made">
        <div className="grid gap-4">
          <Facts
            facts={[
              ["Role", plan.role || "a vote"],
              ["After", Array.from(plan.after).join(", ") || "at once"],
              ["Tokens", `${compact(task.tokens)}, ${"Vote" in plan.kind ? "of its voters" : `may generate ${count(plan.max_tokens, "token")}`}`],
              ["In this state since", <When key="" date={dateOf(task.changed_at_ns)} />],
              ...(optional(task.reason) ? [["Why", optional(task.reason)] as [string, string | undefined]] : []),
              ...(artifact ? [["Hash of the text", <Id key="" value={hex(artifact.sha256)} label="hash" />] as [string, React.ReactNode]] : []),
              ...(decision ? [["Vote", verdict(decision)] as [string, string]] : []),
            ]}
          />
          {task.attempts.length > 0 && (
            <Table
              label="Attempts"
              rows={task.attempts}
              keyOf={(attempt) => String(attempt.number)}
              columns={[
                { title: "Attempt", cell: (attempt) => String(attempt.number) },
                { title: "Agent", cell: (attempt) => <AgentOfAttempt attempt={attempt} /> },
                { title: "How far", cell: (attempt) => <span className="break-words">{attemptStage(attempt.stage)}</span> },
                { title: "Began", wide: true, cell: (attempt) => <When date={dateOf(attempt.began_at_ns)} /> },
              ]}
            />
          )}
        </div>
      </Panel>
      {plan.prompt && (
        <Panel title="What the agent is asked">
          <p className="max-w-prose whitespace-pre-wrap break-words">{plan.prompt}</p>
          <p className="mt-2 text-sm text-ink-2">Before it come its role's instructions and the texts of the tasks that go before it.</p>
        </Panel>
      )}
    </div>
  );
}

/** The agent, and its job there with the receipt. */
function AgentOfAttempt({ attempt }: { attempt: types.Attempt }) {
  const job = optional(attempt.job);
  return (
    <span className="break-all">
      <Link to="/agents/$key" params={{ key: attempt.agent }} className="underline underline-offset-2">
        {attempt.agent}
      </Link>
      {job !== undefined && (
        <>
          {", "}
          <Link to="/agents/$key/jobs/$job" params={{ key: attempt.agent, job: String(job) }} className="underline underline-offset-2">
            job {String(job)} and its receipt
          </Link>
        </>
      )}
    </span>
  );
}

/** One to five stars: better agents get more to do. */
function Rating({ project, task }: { project: bigint; task: types.Task }) {
  const { coordinator } = useCanisters();
  const given = optional(task.stars) ?? 0;
  const rating = useProjectAction(project, async (stars: number) => unwrap(await coordinator().rate_task({ task: { project, task: task.plan.id }, stars })));
  return (
    <div className="flex items-center gap-2">
      {rating.error && <ErrorNotice error={rating.error} />}
      <div role="group" aria-label="How good is it" className="flex">
        {[1, 2, 3, 4, 5].map((stars) => (
          <button
            key={stars}
            type="button"
            aria-label={count(stars, "star")}
            aria-pressed={given === stars}
            disabled={rating.isPending}
            onClick={() => rating.mutate(stars)}
            className="grid size-8 place-items-center rounded hover:bg-sunken"
          >
            <Star aria-hidden className={cx("size-5", stars <= given ? "fill-accent text-accent" : "text-ink-2")} />
          </button>
        ))}
      </div>
    </div>
  );
}
