import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { type modelTypes, optional, tag, unwrap } from "@ohms/client";
import { type FormEvent, useState } from "react";
import { Loaded } from "../../components/Loaded.tsx";
import { Badge, Button, ConfirmButton, ErrorNotice, Facts, Field, Id, Input, Notice, PageHeading, Panel, Progress, When } from "../../components/ui.tsx";
import { bytes, compact, dateOf } from "../../format.ts";
import { type Manifest, mayVote, useManifest, useRights } from "../../queries.ts";
import { useCanisters, useSignedIn } from "../../session.tsx";
import { modelState } from "../../words.ts";
import { Frontier } from "./Frontier.tsx";

const bytesOf = (digits: string) => Uint8Array.from(digits.match(/../g) ?? [], (byte) => parseInt(byte, 16));

/** A model: where it stands, what its manifest says, and what may be done with it. */
export function ModelPage() {
  const { model: digits } = useParams({ strict: false }) as { model: string };
  const modelId = bytesOf(digits);
  const { model } = useCanisters();
  const { principal } = useSignedIn();
  const query = useQuery({
    queryKey: [principal.toText(), "model", digits],
    queryFn: async () => unwrap(await model.get_model(modelId)),
    refetchInterval: ({ state }) => (state.data && (state.data.missing > 0 || "Running" in state.data.validation) ? 2_000 : 30_000),
  });
  const manifest = useManifest(modelId);
  return (
    <>
      <p className="mb-1 text-sm">
        <Link to="/admin" className="text-ink-2 hover:text-ink">
          Models
        </Link>
      </p>
      <Loaded query={query} lines={6}>
        {(record) => {
          const state = modelState(record);
          return (
            <>
              <PageHeading
                title={`${record.name} ${record.version}`}
                lead={
                  <Badge tone={state.tone} busy={state.busy ?? false}>
                    {state.words}
                  </Badge>
                }
                actions={<ModelActions record={record} />}
              />
              <div className="grid gap-4">
                {record.missing > 0 && (
                  <Panel title="Upload">
                    <Progress done={record.shards - record.missing} of={record.shards} label="Parts that have arrived" />
                    <p className="mt-2 text-sm text-ink-2">
                      {record.shards - record.missing} of {record.shards} parts have arrived. `novaq upload` goes on where it stopped.
                    </p>
                  </Panel>
                )}
                {record.deprecation[0] && (
                  <Notice tone="warn">
                    Deprecated <When date={dateOf(record.deprecation[0].at_ns)} />: {record.deprecation[0].reason}
                  </Notice>
                )}
                <Panel title="Catalogue">
                  <Facts
                    facts={[
                      ["Id", <Id key="" value={digits} label="model id" />],
                      ["Size", bytes(record.bytes)],
                      ["Parts", record.shards],
                      ["Licence", record.license],
                      ["Uploader", <Id key="" value={record.uploader.toText()} label="principal" />],
                      ["Upload begun", <When key="" date={dateOf(record.created_at_ns)} />],
                      ...("Passed" in record.validation ? date("Validated", [record.validation.Passed.at_ns]) : []),
                      ...date("Active since", record.activated_at_ns),
                    ]}
                  />
                </Panel>
                {!("NotStarted" in record.validation) && <ValidationPanel modelId={modelId} running={"Running" in record.validation} />}
                <Loaded query={manifest}>{(it) => <ManifestPanels manifest={it} />}</Loaded>
                {manifest.data?.verification && <Frontier manifest={manifest.data} current={digits} />}
              </div>
            </>
          );
        }}
      </Loaded>
    </>
  );
}

function date(name: string, at: [] | [bigint]): [string, React.ReactNode][] {
  const ns = optional(at);
  return ns === undefined ? [] : [[name, <When key="" date={dateOf(ns)} />]];
}

function ModelActions({ record }: { record: modelTypes.ModelRecord }) {
  const { model } = useCanisters();
  const { principal } = useSignedIn();
  const rights = useRights();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const refresh = () => queries.invalidateQueries({ queryKey: [principal.toText()] });
  const activation = useMutation({ mutationFn: async () => unwrap(await model.propose({ Activate: { model_id: record.model_id } })), onSettled: refresh });
  const discarding = useMutation({
    mutationFn: async () => unwrap(await model.discard_upload(record.model_id)),
    onSuccess: () => navigate({ to: "/admin" }),
    onSettled: refresh,
  });
  const error = activation.error ?? discarding.error;
  const admin = mayVote(rights.data);
  const proposed = activation.data && "Open" in activation.data.state;
  const pending = "Pending" in record.status;
  return (
    <div className="grid gap-2">
      <div className="flex flex-wrap gap-2">
        {pending && admin && (
          <Button look="primary" busy={activation.isPending} disabled={!("Passed" in record.validation)} onClick={() => activation.mutate()}>
            Activate
          </Button>
        )}
        {pending && (
          <ConfirmButton label="Discard upload" title="Discard this upload?" confirm="Discard" busy={discarding.isPending} onConfirm={() => discarding.mutate()}>
            The parts that have arrived are deleted.
          </ConfirmButton>
        )}
        {"Active" in record.status && admin && <Deprecate record={record} onDone={refresh} />}
      </div>
      {proposed && <Proposed />}
      {error && <ErrorNotice error={error} />}
    </div>
  );
}

/** Said when a proposal needs other people's approvals. */
function Proposed() {
  return (
    <Notice>
      Proposed. It is done as soon as enough others approve it, under{" "}
      <Link to="/admin/proposals" className="underline">
        Proposals
      </Link>
      .
    </Notice>
  );
}

const CHECKS: Record<string, string> = {
  Manifest: "The manifest is sound",
  Signature: "The signature is a registered key's",
  License: "The licence is named",
  Version: "The version is greater than those before",
  Architecture: "The engine runs the architecture",
  Shards: "All parts have their hashes",
  Rows: "Rows decode to what they should",
  Tokenizer: "The tokenizer decodes, and the model knows its tokens",
};

/** What the canister itself found when it read the model. */
function ValidationPanel({ modelId, running }: { modelId: Uint8Array; running: boolean }) {
  const { model } = useCanisters();
  const { principal } = useSignedIn();
  const report = useQuery({
    queryKey: [principal.toText(), "validation", modelId.join()],
    queryFn: async () => unwrap(await model.validation_report(modelId)),
    refetchInterval: running ? 2_000 : false,
  });
  return (
    <Panel title="Validation report">
      <Loaded query={report}>
        {(it) => (
          <div className="grid gap-4">
            <ul className="grid gap-1.5">
              {it.checks.map((check) => {
                const kind = tag(check.kind);
                const outcome = tag(check.outcome);
                const reason = (check.outcome as Record<string, { reason?: string } | null>)[outcome]?.reason;
                return (
                  <li key={kind} className="flex items-start gap-2">
                    <Badge tone={outcome === "Passed" ? "good" : outcome === "Failed" ? "bad" : "neutral"}>{outcome}</Badge>
                    <span>
                      {CHECKS[kind] ?? kind} {reason && <span className="text-ink-2">{reason}</span>}
                    </span>
                  </li>
                );
              })}
            </ul>
            <Facts
              facts={[
                ["Read again", `${it.shards} parts, ${bytes(it.bytes)}`],
                ["Rows decoded", it.rows.length],
                ["Instructions", compact(it.instructions)],
                ["Messages", it.messages],
                ["Validator", it.validator],
              ]}
            />
          </div>
        )}
      </Loaded>
    </Panel>
  );
}

function Deprecate({ record, onDone }: { record: modelTypes.ModelRecord; onDone: () => void }) {
  const { model } = useCanisters();
  const [open, setOpen] = useState(false);
  const [reason, setReason] = useState("");
  const deprecation = useMutation({
    mutationFn: async () => unwrap(await model.propose({ Deprecate: { model_id: record.model_id, reason } })),
    onSuccess: () => setOpen(false),
    onSettled: onDone,
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    deprecation.mutate();
  };
  if (deprecation.data && "Open" in deprecation.data.state) return <Proposed />;
  if (!open) {
    return (
      <Button look="danger" onClick={() => setOpen(true)}>
        Deprecate
      </Button>
    );
  }
  return (
    <form onSubmit={submit} className="grid w-full max-w-md gap-3 rounded-md border border-line bg-panel p-3">
      <Field label="Reason" hint="Shown in the catalogue. Agents that have the model keep it; no other can load it, and this can't be undone.">
        {(ids) => <Input {...ids} required maxLength={1_000} autoFocus value={reason} onChange={(event) => setReason(event.target.value)} />}
      </Field>
      {deprecation.error && <ErrorNotice error={deprecation.error} />}
      <div className="flex gap-2">
        <Button look="danger" type="submit" busy={deprecation.isPending}>
          Deprecate
        </Button>
        <Button onClick={() => setOpen(false)}>Cancel</Button>
      </div>
    </form>
  );
}

/** A value of the manifest, as short as it can be. */
function show(value: unknown): string {
  if (typeof value === "number") return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4)));
  if (typeof value === "string") return value;
  if (typeof value === "boolean") return value ? "yes" : "no";
  return JSON.stringify(value);
}

const words = (name: string) => name.replaceAll("_", " ").replace(/^./, (first) => first.toUpperCase());

function section(values: Record<string, unknown> | null | undefined): [string, string][] {
  const plain = Object.entries(values ?? {}).filter(([, value]) => value !== null && typeof value !== "object");
  return plain.map(([name, value]) => [words(name), show(value)]);
}

function ManifestPanels({ manifest }: { manifest: Manifest }) {
  const sections: [string, [string, string][]][] = [
    ["Architecture", [["Kind", manifest.architecture], ["Chat template", manifest.chat_template ? "yes" : "none: continues texts"], ...section(manifest.config)]],
    ["Compression", section(manifest.compression)],
    ["Measured against the original", section(manifest.verification)],
    ["What it takes to run", section(manifest.estimates)],
    ["Origin", section(manifest.origin)],
  ];
  return sections.filter(([, facts]) => facts.length > 0).map(([title, facts]) => (
    <Panel key={title} title={title}>
      <Facts facts={facts} />
    </Panel>
  ));
}
