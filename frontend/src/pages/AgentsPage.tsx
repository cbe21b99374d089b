import { Link } from "@tanstack/react-router";
import { type factoryTypes, optional, tag } from "@ohms/client";
import { Plus } from "lucide-react";
import { PHASES } from "../agent/phases.ts";
import { Loaded } from "../components/Loaded.tsx";
import { Badge, buttonClass, Empty, More, PageHeading, Panel } from "../components/ui.tsx";
import { compact, count } from "../format.ts";
import { useAgents, useAgentStatus, useManifest } from "../queries.ts";
import { useCanisters } from "../session.tsx";
import { agentState, loadState } from "../words.ts";

/** The person's agents. */
export function AgentsPage() {
  const agents = useAgents();
  const { has } = useCanisters();
  const create = (
    <Link to="/new-agent" className={buttonClass("primary")}>
      <Plus aria-hidden className="size-4" />
      New agent
    </Link>
  );
  const some = agents.data?.pages.some((page) => page.agents.length > 0);
  return (
    <>
      <PageHeading title="Agents" lead="Each one is a canister of its own that runs a language model for you." actions={some && create} />
      <Loaded query={agents} lines={5}>
        {({ pages }) => {
          const all = pages.flatMap((page) => page.agents);
          if (all.length === 0) {
            return (
              <Panel>
                <Empty title="You have no agent yet">
                  <p>Choose a model and a name. A minute later your agent runs, and you can talk to it.</p>
                  {create}
                  {has("coordinator") && (
                    <p>
                      Or{" "}
                      <Link to="/projects" className="underline underline-offset-2">
                        say what you want done
                      </Link>
                      , and the agents that it takes are made for you.
                    </p>
                  )}
                </Empty>
              </Panel>
            );
          }
          return (
            <>
              <ul className="grid gap-3">
                {all.map((record) => (
                  <AgentRow key={record.key} record={record} />
                ))}
              </ul>
              <More shown={all.length} hasMore={agents.hasNextPage} busy={agents.isFetchingNextPage} onMore={() => void agents.fetchNextPage()} />
            </>
          );
        }}
      </Loaded>
    </>
  );
}

function AgentRow({ record }: { record: factoryTypes.AgentRecord }) {
  const running = "Running" in record.state;
  const status = useAgentStatus(running ? optional(record.canister)?.toText() : undefined);
  const manifest = useManifest(record.model_id);
  const state = agentState(record.state);
  const load = status.data && loadState(status.data);
  const phase = status.data && tag(status.data.phase);
  return (
    <li className="relative rounded-lg border border-line bg-panel px-4 py-3 hover:border-strong-line">
      <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
        <Link to="/agents/$key" params={{ key: record.key }} className="font-medium break-all before:absolute before:inset-0">
          {record.key}
        </Link>
        <Badge tone={state.tone} busy={state.busy ?? false}>
          {state.words}
        </Badge>
        {phase && phase !== "Active" && <Badge tone={PHASES[phase].tone}>{PHASES[phase].words}</Badge>}
        {load && running && (
          <Badge tone={load.tone} busy={load.busy ?? false}>
            {load.words}
          </Badge>
        )}
      </div>
      <p className="mt-1 min-h-6 text-sm text-ink-2">
        {manifest.data?.name ?? " "}
        {status.data && (
          <>
            {" · "}
            {status.data.open_jobs > 0n ? `${count(status.data.open_jobs, "job")} open` : count(status.data.jobs, "job")}
            {" · "}
            {compact(status.data.cycles)} cycles
          </>
        )}
      </p>
    </li>
  );
}
