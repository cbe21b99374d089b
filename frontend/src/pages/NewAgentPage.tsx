import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { hex, type modelTypes, optional, tag, unwrap } from "@ohms/client";
import { Principal } from "@icp-sdk/core/principal";
import { CircleCheck, Circle, LoaderCircle } from "lucide-react";
import { type FormEvent, useEffect, useState } from "react";
import { Loaded } from "../components/Loaded.tsx";
import { Button, buttonClass, cx, Empty, ErrorNotice, Field, Input, More, PageHeading, Panel, Select, TextArea } from "../components/ui.tsx";
import { bytes } from "../format.ts";
import { useAgentRecord, useManifest, useModels } from "../queries.ts";
import { useCanisters } from "../session.tsx";

/** Slices that agents can be created with: how often tokens appear against what they cost. */
const SLICES: [bigint, string][] = [
  [2_000_000_000n, "Every round (2 B instructions): tokens appear at once"],
  [10_000_000_000n, "Every few rounds (10 B): cheaper"],
  [38_000_000_000n, "As late as possible (38 B): cheapest"],
];

/** From a model and a name to a running agent. */
export function NewAgentPage() {
  const models = useModels({ Active: null });
  const { factory, id } = useCanisters();
  const queries = useQueryClient();
  const [chosen, setChosen] = useState<string>();
  const [name, setName] = useState("");
  const [role, setRole] = useState("");
  const [instructions, setInstructions] = useState("");
  const [slice, setSlice] = useState(SLICES[0]?.[0] ?? 0n);
  const key = name.trim();
  const all = models.data?.pages.flatMap((page) => page.models) ?? [];
  const model = all.find((it) => hex(it.model_id) === chosen) ?? all[0];

  const creation = useMutation({
    mutationFn: async () => {
      if (!model) throw new Error("there is no model to choose");
      return unwrap(
        await factory.create_agent({
          key,
          owner: [],
          profile: role.trim() || instructions.trim() ? [{ role: role.trim(), instructions: instructions.trim(), capabilities: [], params: [], memory: [] }] : [],
          template: [],
          model_canister: Principal.fromText(id("model")),
          model_id: model.model_id,
          config: [{ slice_instructions: slice, load_window: 4, cache_seconds: [], batch_width: [], heap_bytes: [] }],
        }),
      );
    },
    onSettled: () => queries.invalidateQueries(),
  });

  if (creation.isPending || creation.isSuccess) return <Creation name={key} error={creation.error} />;

  const submit = (event: FormEvent) => {
    event.preventDefault();
    creation.mutate();
  };
  return (
    <>
      <PageHeading title="New agent" lead="It gets a canister of its own, which only you can talk to." />
      <form onSubmit={submit} className="grid gap-5">
        {creation.error && <ErrorNotice error={creation.error} onRetry={() => creation.mutate()} />}
        <Panel title="Model">
          <Loaded query={models}>
            {() =>
              all.length === 0 ? (
                <Empty title="No model is active yet">
                  <p>An admin has to upload a model with `novaq upload` and activate it. It appears here when that is done.</p>
                </Empty>
              ) : (
                <fieldset>
                  <legend className="sr-only">Model</legend>
                  <div className="grid gap-2">
                    {all.map((it) => (
                      <ModelChoice key={hex(it.model_id)} model={it} checked={it === model} onChoose={() => setChosen(hex(it.model_id))} />
                    ))}
                  </div>
                  <More shown={all.length} hasMore={models.hasNextPage} busy={models.isFetchingNextPage} onMore={() => void models.fetchNextPage()} />
                </fieldset>
              )
            }
          </Loaded>
        </Panel>
        <Panel title="Agent">
          <div className="grid max-w-md gap-4">
            <Field label="Name" hint="Up to 64 characters. It stays as it is.">
              {(ids) => (
                <Input {...ids} required maxLength={64} autoComplete="off" value={name} onChange={(event) => setName(event.target.value)} placeholder="Storyteller" />
              )}
            </Field>
            <details>
              <summary className="text-sm text-ink-2">More settings</summary>
              <div className="mt-3 grid gap-4">
                <Field label="Role" hint="Its place in a team, such as reviewer. You can change it later.">
                  {(ids) => <Input {...ids} maxLength={64} autoComplete="off" value={role} onChange={(event) => setRole(event.target.value)} />}
                </Field>
                <Field label="Instructions" hint="Each of its conversations begins with them. You can change them later.">
                  {(ids) => <TextArea {...ids} rows={3} maxLength={8_192} value={instructions} onChange={(event) => setInstructions(event.target.value)} />}
                </Field>
                <Field label="How often tokens appear" hint="An agent works in slices; what a slice has written shows when it ends.">
                  {(ids) => (
                    <Select {...ids} value={String(slice)} onChange={(event) => setSlice(BigInt(event.target.value))}>
                      {SLICES.map(([value, words]) => (
                        <option key={String(value)} value={String(value)}>
                          {words}
                        </option>
                      ))}
                    </Select>
                  )}
                </Field>
              </div>
            </details>
          </div>
        </Panel>
        <div className="flex gap-2">
          <Button look="primary" type="submit" disabled={!model || key === ""}>
            Create agent
          </Button>
          <Link to="/agents" className={buttonClass()}>
            Cancel
          </Link>
        </div>
      </form>
    </>
  );
}

function ModelChoice({ model, checked, onChoose }: { model: modelTypes.ModelRecord; checked: boolean; onChoose: () => void }) {
  const manifest = useManifest(model.model_id);
  const kind = manifest.data && (manifest.data.chat_template ? "holds conversations" : "continues texts");
  return (
    <label
      className={cx(
        "flex cursor-pointer items-start gap-3 rounded-md border px-3 py-2.5",
        checked ? "border-accent bg-accent-soft" : "border-line hover:bg-sunken",
      )}
    >
      <input type="radio" name="model" checked={checked} onChange={onChoose} className="mt-1 accent-accent" />
      <span className="min-w-0">
        <span className="block font-medium break-words">
          {model.name} <span className="font-normal text-ink-2">{model.version}</span>
        </span>
        <span className="block min-h-5 text-sm text-ink-2">
          {[kind, bytes(model.bytes), model.license].filter(Boolean).join(" · ")}
        </span>
      </span>
    </label>
  );
}

const STEPS = ["Creating", "Installing", "Running"] as const;
const STEP_WORDS = ["A canister is created", "The engine is installed", "The agent runs"];

/** How far the creation is. It goes on when the page is left: the list of agents shows it. */
function Creation({ name, error }: { name: string; error: unknown }) {
  const navigate = useNavigate();
  const record = useAgentRecord(name);
  const state = record.data ? tag(record.data.state) : "Creating";
  const step = STEPS.findIndex((it) => it === state);
  const running = state === "Running" && record.data && optional(record.data.canister) !== undefined;
  useEffect(() => {
    if (running) void navigate({ to: "/agents/$key", params: { key: name }, replace: true });
  }, [running, name, navigate]);
  return (
    <>
      <PageHeading title={`Creating “${name}”`} lead="This takes a few seconds. You can leave this page: the list of your agents shows how far it is." />
      <Panel>
        <ol className="grid gap-3" aria-live="polite">
          {STEP_WORDS.map((words, at) => (
            <li key={words} className={cx("flex items-center gap-3", at > step && "text-ink-2")}>
              {at < step || running ? (
                <CircleCheck aria-hidden className="size-5 text-good" />
              ) : at === step ? (
                <LoaderCircle aria-hidden className="size-5 animate-spin text-accent" />
              ) : (
                <Circle aria-hidden className="size-5" />
              )}
              {words}
            </li>
          ))}
        </ol>
        {error !== null && error !== undefined && (
          <div className="mt-4">
            <ErrorNotice error={error} />
          </div>
        )}
      </Panel>
    </>
  );
}
