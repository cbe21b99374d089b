import { Link, Outlet, useParams, useRouterState } from "@tanstack/react-router";
import { optional, tag } from "@ohms/client";
import { PHASES } from "../agent/phases.ts";
import { Loaded } from "../components/Loaded.tsx";
import { Tab, Tabs } from "../components/Tabs.tsx";
import { Badge, buttonClass, ErrorNotice, Panel } from "../components/ui.tsx";
import { useAgentRecord, useAgentStatus, useManifest } from "../queries.ts";
import { agentState, loadState } from "../words.ts";

const TABS = [
  ["/agents/$key", "Chat"],
  ["/agents/$key/memory", "Memory"],
  ["/agents/$key/wallet", "Wallet"],
  ["/agents/$key/profile", "Profile"],
  ["/agents/$key/jobs", "Jobs"],
  ["/agents/$key/receipts", "Receipts"],
  ["/agents/$key/settings", "Settings"],
] as const;

/** The agent of the address: its key, record and canister, for the pages below. */
export function useAgentOfPage() {
  const { key } = useParams({ strict: false }) as { key: string };
  const record = useAgentRecord(key);
  return { key, record: record.data, canister: record.data && optional(record.data.canister)?.toText() };
}

/** The frame of an agent's pages. */
export function AgentLayout() {
  const { key } = useParams({ strict: false }) as { key: string };
  const query = useAgentRecord(key);
  const canister = query.data && "Running" in query.data.state ? optional(query.data.canister)?.toText() : undefined;
  const status = useAgentStatus(canister);
  const manifest = useManifest(query.data?.model_id ?? [], query.data !== undefined);
  const load = status.data && loadState(status.data);
  const phase = status.data && tag(status.data.phase);
  // Conversations have addresses of their own.
  const talks = useRouterState({ select: ({ location }) => /^\/agents\/[^/]+\/talk(\/|$)/.test(location.pathname) });
  return (
    <>
      <div className="mb-4">
        <nav aria-label="Path" className="text-sm">
          <Link to="/agents" className="text-ink-2 hover:text-ink">
            Agents
          </Link>
        </nav>
        <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
          <h1 className="break-all">{key}</h1>
          {load && (
            <Badge tone={load.tone} busy={load.busy ?? false}>
              {load.words}
            </Badge>
          )}
          {phase && phase !== "Active" && (
            <Link to="/agents/$key/settings" params={{ key }} title={PHASES[phase].meaning}>
              <Badge tone={PHASES[phase].tone}>{PHASES[phase].words}</Badge>
            </Link>
          )}
        </div>
        <p className="min-h-6 text-sm text-ink-2">{manifest.data?.name ?? " "}</p>
      </div>
      <Loaded query={query}>
        {(record) => {
          if (!("Running" in record.state)) {
            const state = agentState(record.state);
            return (
              <Panel>
                <div className="grid justify-items-start gap-3">
                  <Badge tone={state.tone} busy={state.busy ?? false}>
                    {state.words}
                  </Badge>
                  {"Failed" in record.state && <p>{record.state.Failed.reason}</p>}
                  {"Failed" in record.state ? (
                    <Link to="/new-agent" className={buttonClass()}>
                      Try again with the same name
                    </Link>
                  ) : (
                    <p className="text-ink-2">This page goes on by itself when it is done.</p>
                  )}
                </div>
              </Panel>
            );
          }
          return (
            <>
              <Tabs label="Agent">
                {TABS.map(([to, label]) => (
                  <Tab key={to} to={to} params={{ key }} activeOptions={{ exact: label === "Chat" }} {...(label === "Chat" && talks && { "aria-current": "page" })}>
                    {label}
                  </Tab>
                ))}
              </Tabs>
              {status.error && !status.data ? (
                <ErrorNotice error={status.error} onRetry={() => void status.refetch()} />
              ) : (
                <Outlet />
              )}
            </>
          );
        }}
      </Loaded>
    </>
  );
}
