import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { Principal } from "@icp-sdk/core/principal";
import { type agentTypes, hex, tag, unwrap } from "@ohms/client";
import { mayConfigure, maySubmit } from "../agent/phases.ts";
import { Loaded } from "../components/Loaded.tsx";
import { Button, ConfirmButton, ErrorNotice, Facts, Id, Loading, Notice, Panel, Progress } from "../components/ui.tsx";
import { bytes, compact } from "../format.ts";
import { useAgentStatus } from "../queries.ts";
import { useCanisters, useSignedIn } from "../session.tsx";
import { loadError, loadState } from "../words.ts";
import { useAgentOfPage } from "./AgentLayout.tsx";
import { PhasePanel } from "./agent/PhasePanel.tsx";

/** What an agent is made of, and the switches. */
export function AgentSettingsPage() {
  const { canister } = useAgentOfPage();
  return canister ? <Settings canister={canister} /> : <Loading />;
}

function Settings({ canister }: { canister: string }) {
  const { key, record } = useAgentOfPage();
  const { principal } = useSignedIn();
  const canisters = useCanisters();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const status = useAgentStatus(canister);
  const refresh = () => queries.invalidateQueries({ queryKey: [principal.toText()] });
  const agent = canisters.agent(canister);
  const load = useMutation({ mutationFn: async () => unwrap(await agent.load_model()), onSettled: refresh });
  const queue = useMutation({
    mutationFn: async (method: "pause_queue" | "resume_queue") => unwrap(await agent[method]()),
    onSettled: refresh,
  });
  const deletion = useMutation({
    mutationFn: async () => unwrap(await canisters.factory.delete_agent(key)),
    onSuccess: () => navigate({ to: "/agents" }),
    onSettled: refresh,
  });
  const permission = useMutation({
    mutationFn: async (coordinator: [] | [Principal]) => unwrap(await agent.set_coordinator(coordinator)),
    onSettled: refresh,
  });
  const error = load.error ?? queue.error ?? permission.error ?? deletion.error;
  return (
    <div className="grid gap-4">
      {error && <ErrorNotice error={error} />}
      <Loaded query={status} lines={8}>
        {(it) => {
          const loading = loadState(it);
          const counts = it.load_counts;
          return (
            <>
              {it.out_of_cycles[0] && (
                <Notice tone="bad">
                  The agent has {compact(it.out_of_cycles[0].balance)} cycles, and its next slice needs {compact(it.out_of_cycles[0].needed)}. Top its
                  canister up; it goes on by itself.
                </Notice>
              )}
              <PhasePanel canister={canister} status={it} />
              <Panel
                title="Model"
                actions={
                  "Loaded" in it.load || "Loading" in it.load || !mayConfigure(tag(it.phase)) ? undefined : (
                    <Button busy={load.isPending} onClick={() => load.mutate()}>
                      Load the model now
                    </Button>
                  )
                }
              >
                <div className="grid gap-4">
                  {"Loading" in it.load && <Progress done={counts.shards_loaded} of={counts.shards} label={loading.words} />}
                  {"Failed" in it.load && <Notice tone="bad">{loadError(it.load.Failed.reason)}</Notice>}
                  <Facts
                    facts={[
                      ["State", loading.words],
                      ["Model", <Id key="" value={hex(it.model_id)} label="model id" />],
                      ["Parts in its memory", `${counts.shards_loaded} of ${counts.shards || "?"}, ${bytes(counts.bytes)}`],
                      ["In the heap, ready to run", it.in_heap ? "yes" : "not now"],
                    ]}
                  />
                </div>
              </Panel>
              <Panel
                title="Canister"
                actions={
                  // In other phases it is the phase that says.
                  !maySubmit(tag(it.phase)) ? undefined : it.paused ? (
                    <Button look="primary" busy={queue.isPending} onClick={() => queue.mutate("resume_queue")}>
                      Resume the queue
                    </Button>
                  ) : (
                    <Button busy={queue.isPending} onClick={() => queue.mutate("pause_queue")}>
                      Pause the queue
                    </Button>
                  )
                }
              >
                <Facts
                  facts={[
                    ["Id", <Id key="" value={canister} label="canister id" />],
                    ["Cycles", compact(it.cycles)],
                    ["Version", it.version],
                    ["Jobs", `${it.jobs} kept, ${it.open_jobs} open${it.paused ? ", queue paused" : ""}`],
                    ["Slice", `${compact(it.config.slice_instructions)} instructions`],
                    ["Heap", bytes(it.heap_bytes)],
                    ["Stable memory", bytes(it.stable_bytes)],
                    ["Template", record ? <Id key="" value={hex(record.template)} label="template hash" /> : ""],
                  ]}
                />
              </Panel>
              {canisters.has("coordinator") && mayConfigure(tag(it.phase)) && (
                <Permission status={it} coordinator={canisters.id("coordinator")} busy={permission.isPending} onChange={permission.mutate} />
              )}
            </>
          );
        }}
      </Loaded>
      <Panel title="Delete">
        <div className="flex flex-wrap items-center justify-between gap-3">
          <p className="max-w-prose text-ink-2">
            Deletes the canister with its jobs, texts, receipts and memory. Tokens of its wallet are sent to your own account first; its cycles go back to the
            factory.
          </p>
          <ConfirmButton label="Delete agent" title={`Delete “${key}”?`} confirm="Delete for good" busy={deletion.isPending} onConfirm={() => deletion.mutate()}>
            Its jobs, texts, receipts and memory are gone for good. If you want to keep them, export your data first, under Account.
          </ConfirmButton>
        </div>
      </Panel>
    </div>
  );
}

/** Whether projects may give this agent tasks. */
function Permission({
  status,
  coordinator,
  busy,
  onChange,
}: {
  status: agentTypes.AgentStatus;
  coordinator: string;
  busy: boolean;
  onChange: (coordinator: [] | [Principal]) => void;
}) {
  const allowed = status.coordinator[0]?.toText() === coordinator;
  return (
    <Panel
      title="Projects"
      actions={
        allowed ? (
          <Button busy={busy} onClick={() => onChange([])}>
            Forbid it
          </Button>
        ) : (
          <Button busy={busy} onClick={() => onChange([Principal.fromText(coordinator)])}>
            Allow it
          </Button>
        )
      }
    >
      <p className="max-w-prose text-ink-2">
        {allowed
          ? "Your projects may give this agent tasks, and read what came of them. The coordinator sees none of its other jobs."
          : "Your projects may not give this agent tasks. What waits for it in a project waits for you."}
      </p>
    </Panel>
  );
}
