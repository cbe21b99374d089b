import type { agentTypes as types } from "@ohms/client";
import { tag, unwrap } from "@ohms/client";
import { PHASES, type Phase } from "../../agent/phases.ts";
import { useAgentAction } from "../../agent/queries.ts";
import { Badge, Button, ConfirmButton, cx, ErrorNotice, Panel } from "../../components/ui.tsx";

/** Where the agent is in its life, what that means, and where it can go from there. */
export function PhasePanel({ canister, status }: { canister: string; status: types.AgentStatus }) {
  const phase = tag(status.phase);
  const { words, tone, meaning, steps } = PHASES[phase];
  const moving = useAgentAction<Phase>(canister, async (agent, next) => unwrap(await agent.set_phase({ [next]: null } as types.AgentPhase)));
  return (
    <Panel title="Phase" actions={<Badge tone={tone}>{words}</Badge>}>
      <div className="grid gap-4">
        {moving.error && <ErrorNotice error={moving.error} />}
        <ol aria-label="Phases of an agent's life" className="flex flex-wrap gap-x-1 gap-y-1 text-sm">
          {(Object.keys(PHASES) as Phase[]).map((name, at) => (
            <li key={name} aria-current={name === phase ? "step" : undefined} className="flex items-center gap-1 text-ink-2">
              {at > 0 && <span aria-hidden>{name === "Paused" ? "⇄" : "→"}</span>}
              <span className={cx("rounded-full px-2 py-0.5", name === phase && "bg-accent-soft font-medium text-ink")}>{PHASES[name].words}</span>
            </li>
          ))}
        </ol>
        <p className="max-w-prose text-ink-2">{meaning}</p>
        {steps.length > 0 ? (
          <div className="flex flex-wrap gap-2">
            {steps.map(({ next, label, warning }) => {
              const busy = moving.isPending && moving.variables === next;
              return warning ? (
                <ConfirmButton key={next} label={label} title={`${label.replace(/ it$/, "")} this agent?`} confirm={label} busy={busy} onConfirm={() => moving.mutate(next)}>
                  {warning}
                </ConfirmButton>
              ) : (
                <Button key={next} look={phase === "Active" ? "plain" : "primary"} busy={busy} onClick={() => moving.mutate(next)}>
                  {label}
                </Button>
              );
            })}
          </div>
        ) : (
          <p className="text-sm text-ink-2">Nothing comes after this.</p>
        )}
      </div>
    </Panel>
  );
}
