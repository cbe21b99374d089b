import { Link } from "@tanstack/react-router";
import { type coordinatorTypes as types, hex, optional, tag } from "@ohms/client";
import { lazy, Suspense, useState } from "react";
import { Loaded } from "../../components/Loaded.tsx";
import { Badge, Button, Empty, Loading, More, Notice, Panel, Progress, Table } from "../../components/ui.tsx";
import { compact, count, dateOf, duration } from "../../format.ts";
import { hasEnded, useArtifact, useLog, useProject, useTasks } from "../../projects/queries.ts";
import { spansOf } from "../../projects/timeline.ts";
import { isDeadLetter, isOpen, taskState } from "../../projects/words.ts";
import { DeadLetter } from "./DeadLetter.tsx";
import { useProjectId } from "./ProjectLayout.tsx";
import { Timeline } from "./Timeline.tsx";

const TaskGraph = lazy(() => import("./TaskGraph.tsx").then((it) => ({ default: it.TaskGraph })));
/** Rows of a list before "Show more". */
const PAGE = 25;

/** What is being done, by whom, and what came of it. */
export function WorkPage() {
  const id = useProjectId();
  const project = useProject(id);
  const tasks = useTasks(id);
  return (
    <Loaded query={project}>
      {(it) => (
        <div className="grid gap-4">
          <Standing project={it} />
          <Loaded query={tasks} lines={6}>
            {(all) =>
              all.length === 0 ? (
                <Panel>
                  <Empty title={isOpen(it) ? "The agents are being created" : "No task"}>
                    <p>{"Failed" in it.state ? it.state.Failed.reason : "You find them under Agents."}</p>
                  </Empty>
                </Panel>
              ) : (
                <Work project={it} tasks={all} />
              )
            }
          </Loaded>
        </div>
      )}
    </Loaded>
  );
}

function Standing({ project }: { project: types.Project }) {
  const { counts, plan } = project;
  const started = optional(project.started_at_ns);
  const ended = optional(project.ended_at_ns);
  const took = started === undefined ? undefined : Number(((ended ?? BigInt(Date.now()) * 1_000_000n) - started) / 1_000_000n);
  return (
    <Panel>
      <div className="grid gap-3">
        {"Failed" in project.state && <Notice tone="bad">It ended without success: {project.state.Failed.reason}.</Notice>}
        <Progress done={counts.completed} of={counts.total} label={`${counts.completed} of ${counts.total} tasks done`} />
        <p className="text-sm text-ink-2 tabular-nums">
          {counts.completed} of {count(counts.total, "task")} done
          {counts.working > 0 && ` · ${counts.working} worked on`}
          {counts.dead_letters > 0 && ` · ${counts.dead_letters} for you`}
          {counts.unsuccessful > 0 && ` · ${counts.unsuccessful} without a text`}
          {" · "}
          {compact(project.tokens)} of at most {compact(plan.cost.tokens)} tokens
          {took !== undefined && ` · ${duration(Math.max(0, took))}`}
          {isOpen(project) && " · You can leave this page: the work goes on, and you find it under Projects."}
        </p>
      </div>
    </Panel>
  );
}

const VIEWS = ["Graph", "Timeline", "List"] as const;

function Work({ project, tasks }: { project: types.Project; tasks: types.Task[] }) {
  const [view, setView] = useState<(typeof VIEWS)[number]>(() => (matchMedia("(min-width: 48rem)").matches ? "Graph" : "List"));
  const log = useLog(project.id);
  const letters = tasks.filter(isDeadLetter);
  return (
    <>
      {letters.length > 0 && (
        <Panel title={`${count(letters.length, "task")} for you`}>
          <ul className="grid gap-4">
            {letters.slice(0, PAGE).map((task) => (
              <DeadLetter key={task.plan.id} project={project.id} task={task} />
            ))}
          </ul>
        </Panel>
      )}
      <Panel
        title="Tasks"
        actions={
          <div role="group" aria-label="View" className="flex">
            {VIEWS.map((name) => (
              <Button key={name} look="quiet" aria-pressed={view === name} onClick={() => setView(name)}>
                {name}
              </Button>
            ))}
          </div>
        }
      >
        {view === "Graph" && (
          <Suspense fallback={<Loading lines={4} />}>
            <TaskGraph project={project.id} tasks={tasks} />
          </Suspense>
        )}
        {view === "Timeline" && <Loaded query={log}>{({ events }) => <Timeline tasks={tasks} spans={spansOf(events)} />}</Loaded>}
        {view === "List" && <TaskList project={project.id} tasks={tasks} />}
      </Panel>
      <Results project={project.id} tasks={tasks} />
    </>
  );
}

function TaskList({ project, tasks }: { project: bigint; tasks: types.Task[] }) {
  const [shown, setShown] = useState(PAGE);
  return (
    <>
      <Table
        label="Tasks"
        rows={tasks.slice(0, shown)}
        keyOf={(task) => String(task.plan.id)}
        columns={[
          { title: "No.", cell: (task) => String(task.plan.id) },
          {
            title: "Task",
            cell: (task) => (
              <Link
                to="/projects/$project/tasks/$task"
                params={{ project: String(project), task: String(task.plan.id) }}
                className="break-words underline underline-offset-2"
              >
                {task.plan.title}
              </Link>
            ),
          },
          { title: "State", cell: (task) => <TaskBadge task={task} /> },
          { title: "Agent", wide: true, cell: (task) => <span className="break-all">{task.attempts.at(-1)?.agent ?? ""}</span> },
          { title: "After", wide: true, cell: (task) => Array.from(task.plan.after).join(", ") || "at once" },
          { title: "Began", wide: true, cell: (task) => began(task) },
          { title: "Tokens", right: true, cell: (task) => compact(task.tokens) },
        ]}
      />
      <More shown={Math.min(shown, tasks.length)} hasMore={tasks.length > shown} busy={false} onMore={() => setShown(shown + PAGE)} />
    </>
  );
}

function began(task: types.Task): string {
  const first = task.attempts[0];
  return first ? dateOf(first.began_at_ns).toLocaleTimeString("en") : "";
}

export function TaskBadge({ task }: { task: types.Task }) {
  const { tone, words, busy } = taskState(task.state);
  return (
    <Badge tone={tone} busy={busy ?? false}>
      {words}
    </Badge>
  );
}

/** The texts that nothing takes further: what the project was for. */
function Results({ project, tasks }: { project: bigint; tasks: types.Task[] }) {
  const taken = new Set(tasks.flatMap((task) => Array.from(task.plan.after)));
  const ends = tasks.filter((task) => !taken.has(task.plan.id) && "Completed" in task.state);
  if (ends.length === 0) return null;
  return (
    <Panel title={ends.length === 1 ? "Result" : "Results"}>
      <ul className="grid gap-5">
        {ends.slice(0, PAGE).map((task) => (
          <li key={task.plan.id}>
            <h3 className="mb-1 font-medium">
              <Link to="/projects/$project/tasks/$task" params={{ project: String(project), task: String(task.plan.id) }} className="underline underline-offset-2">
                {task.plan.title}
              </Link>
            </h3>
            <ArtifactText project={project} task={task} />
          </li>
        ))}
      </ul>
      {ends.length > PAGE && <p className="mt-3 text-sm text-ink-2">{ends.length - PAGE} more: see the list of tasks.</p>}
    </Panel>
  );
}

/** The text that a task has made. */
export function ArtifactText({ project, task }: { project: bigint; task: types.Task }) {
  const artifact = optional(task.artifact);
  const text = useArtifact({ project, task: task.plan.id }, artifact && hex(artifact.sha256));
  if (!artifact) return <p className="text-ink-2">{hasEnded(task) ? `It ended without a text: ${tag(task.state)}.` : "Not there yet."}</p>;
  return <Loaded query={text}>{(it) => <p className="max-w-prose whitespace-pre-wrap break-words">{it.trim() || "(an empty text)"}</p>}</Loaded>;
}
