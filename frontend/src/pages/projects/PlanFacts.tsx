import { type coordinatorTypes as types, tag } from "@ohms/client";
import { Badge, Empty, More, Panel, Table } from "../../components/ui.tsx";
import { count } from "../../format.ts";
import { useManifest } from "../../queries.ts";
import { useState } from "react";

/** Tasks of a list before "Show more". */
const PAGE = 25;

/** What a plan consists of, and why. */
export function PlanFacts({ project }: { project: types.Project }) {
  const { plan, analysis } = project;
  const roles = analysis.roles.filter((role) => role.taken);
  const others = analysis.roles.filter((role) => !role.taken);
  const [tasks, setTasks] = useState(PAGE);
  const [agents, setAgents] = useState(PAGE);
  return (
    <>
      <Panel title={count(plan.agents.length, "agent")}>
        <Table
          label="Agents of the plan"
          rows={plan.agents.slice(0, agents)}
          keyOf={(agent) => agent.name}
          columns={[
            { title: "Name", cell: (agent) => <span className="break-all">{agent.name}</span> },
            { title: "Role", cell: (agent) => agent.role },
            { title: "Can do", wide: true, cell: (agent) => agent.capabilities.join(", ") },
            { title: "Model", wide: true, cell: (agent) => <ModelName id={agent.model_id} /> },
            {
              title: "",
              cell: (agent) => (agent.exists ? <Badge>You have it already</Badge> : <Badge tone="accent">Created for this</Badge>),
            },
          ]}
        />
        <More shown={agents} hasMore={plan.agents.length > agents} busy={false} onMore={() => setAgents(agents + PAGE)} />
      </Panel>
      <Panel title={count(plan.tasks.length, "task")}>
        {plan.tasks.length === 0 ? (
          <Empty title="No task">The agents are created and wait for what you ask of them.</Empty>
        ) : (
          <>
            <Table
              label="Tasks of the plan"
              rows={plan.tasks.slice(0, tasks)}
              keyOf={(task) => String(task.id)}
              columns={[
                { title: "No.", cell: (task) => String(task.id) },
                { title: "Task", cell: (task) => <span className="break-words">{task.title}</span> },
                { title: "Role", cell: (task) => ("Vote" in task.kind ? <Badge>Vote, {task.kind.Vote.quorum} must agree</Badge> : task.role) },
                { title: "After", cell: (task) => Array.from(task.after).join(", ") || "at once" },
                { title: "Tokens", right: true, wide: true, cell: (task) => ("Vote" in task.kind ? "" : `up to ${task.max_tokens}`) },
              ]}
            />
            <More shown={tasks} hasMore={plan.tasks.length > tasks} busy={false} onMore={() => setTasks(tasks + PAGE)} />
          </>
        )}
      </Panel>
      <Panel title="Why">
        <div className="grid gap-3">
          <p className="max-w-prose text-sm text-ink-2">
            {INTENTS[tag(analysis.intent)]} Roles were found by these words; the same words always give the same plan.
          </p>
          {roles.length > 0 && <Reasons roles={roles} />}
          {others.length > 0 && (
            <details>
              <summary className="text-sm text-ink-2">{count(others.length, "role")} that something speaks for, but not enough</summary>
              <div className="mt-2">
                <Reasons roles={others} />
              </div>
            </details>
          )}
        </div>
      </Panel>
    </>
  );
}

const INTENTS: Record<string, string> = {
  Create: "You ask for agents.",
  Do: "You ask for work to be done now.",
  Ask: "You ask a question.",
  Unclear: "It is not clear what you ask for.",
};

function Reasons({ roles }: { roles: types.RoleScore[] }) {
  return (
    <dl className="grid gap-2 text-sm">
      {roles.map((role) => (
        <div key={role.role} className="grid gap-x-4 sm:grid-cols-[10rem_1fr]">
          <dt className="font-medium">
            {role.role} <span className="font-normal text-ink-2">({role.score})</span>
          </dt>
          <dd className="text-ink-2">{role.reasons.join("; ").replace(/`([^`]*)`/g, "“$1”")}</dd>
        </div>
      ))}
    </dl>
  );
}

function ModelName({ id }: { id: Uint8Array | number[] }) {
  const manifest = useManifest(id);
  return <>{manifest.data?.name ?? "…"}</>;
}
