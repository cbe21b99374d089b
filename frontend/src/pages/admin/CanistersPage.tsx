import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { type factoryTypes, hex, optional, tag, unwrap } from "@ohms/client";
import type { ReactNode } from "react";
import { Loaded } from "../../components/Loaded.tsx";
import { Badge, Empty, Facts, Id, More, PageHeading, Panel, Table, When } from "../../components/ui.tsx";
import { bytes, compact, dateOf } from "../../format.ts";
import { useRights } from "../../queries.ts";
import { useCanisters, useSession, useSignedIn } from "../../session.tsx";

/** Below this many cycles a canister of the suite should be topped up. */
const LOW_CYCLES = 5_000_000_000_000n;

/** The suite's own canisters: whether they are well, and what the factory did. */
export function CanistersPage() {
  const rights = useRights();
  return (
    <>
      <PageHeading title="Canisters" lead="The suite's own canisters, and what the factory did with the agents'." />
      <div className="grid gap-4">
        <ModelHealth />
        <FactoryHealth />
        <CoordinatorHealth />
        <EconHealth />
        <SiteHealth />
        {rights.data?.factory && <Templates />}
        {rights.data?.factory && <Journal />}
      </div>
    </>
  );
}

function Health({ title, id, cycles, facts }: { title: string; id: string; cycles: bigint; facts: [string, ReactNode][] }) {
  const low = cycles < LOW_CYCLES;
  return (
    <Panel title={title} actions={<Badge tone={low ? "warn" : "good"}>{low ? "Low on cycles" : "Well"}</Badge>}>
      <Facts facts={[["Id", <Id key="" value={id} label="canister id" />], ["Cycles", compact(cycles)], ...facts]} />
    </Panel>
  );
}

/** What a canister of the suite says of itself. */
export function useStatus<T>(name: string, read: () => Promise<T>, enabled = true) {
  const { principal } = useSignedIn();
  return useQuery({ queryKey: [principal.toText(), "status", name], queryFn: read, enabled, refetchInterval: 10_000 });
}

function ModelHealth() {
  const { model, id } = useCanisters();
  const status = useStatus("model", () => model.status());
  return (
    <Loaded query={status}>
      {(it) => (
        <Health
          title="Model repository"
          id={id("model")}
          cycles={it.cycles}
          facts={[
            ["Version", it.version],
            ["Models", String(it.models)],
            ["Reserved", bytes(it.reserved_bytes)],
            ["Audit entries", String(it.audit_entries)],
          ]}
        />
      )}
    </Loaded>
  );
}

function FactoryHealth() {
  const { factory, id } = useCanisters();
  const status = useStatus("agent-factory", () => factory.status());
  return (
    <Loaded query={status}>
      {(it) => (
        <Health
          title="Agent factory"
          id={id("agent-factory")}
          cycles={it.cycles}
          facts={[
            ["Version", it.version],
            ["Agents", String(it.agents)],
            ["Being created or deleted", `${it.in_progress} of at most ${it.config.max_concurrent}`],
            ["Spare canisters", String(it.spares)],
            ["Cycles of a new agent", compact(it.config.agent_cycles)],
            ["Agents per person", it.config.max_agents_per_owner],
          ]}
        />
      )}
    </Loaded>
  );
}

function CoordinatorHealth() {
  const { coordinator, has, id } = useCanisters();
  const known = has("coordinator");
  const status = useStatus("coordinator", () => coordinator().status(), known);
  if (!known) return null;
  return (
    <Loaded query={status}>
      {(it) => (
        <Health
          title="Coordinator"
          id={id("coordinator")}
          cycles={it.cycles}
          facts={[
            ["Version", it.version],
            ["Workspaces at work", String(it.active_workspaces)],
            ["Calls under way", `${it.calls} of at most ${it.settings.config.max_concurrent}`],
            ["Agents of a plan", `at most ${it.settings.config.max_agents}`],
            ["Tasks of a project", `at most ${it.settings.config.max_tasks}`],
            ["Projects of a person at work", `at most ${it.settings.config.max_open_projects}`],
            ["Asked which roles are near", it.settings.config.encoder[0]?.toText() ?? "nobody"],
            ["Asked for a plan", it.settings.config.planner[0]?.toText() ?? "nobody"],
          ]}
        />
      )}
    </Loaded>
  );
}

function EconHealth() {
  const { econ, has, id } = useCanisters();
  const known = has("econ");
  const status = useStatus("econ", () => econ().status(), known);
  if (!known) return null;
  return (
    <Loaded query={status}>
      {(it) => (
        <Health
          title="Economics"
          id={id("econ")}
          cycles={it.cycles}
          facts={[
            ["Version", it.version],
            ["Accounts", String(it.accounts)],
            ["Invoices", String(it.invoices)],
            ["Payments under way", `${it.payments_in_progress} of at most ${it.config.max_concurrent}`],
          ]}
        />
      )}
    </Loaded>
  );
}

function SiteHealth() {
  const canisters = useCanisters();
  const { environment } = useSession();
  const id = environment.canisters["ui"];
  const status = useStatus("ui", async () => (id ? await canisters.ui(id).status() : undefined));
  if (!id) return null;
  return (
    <Loaded query={status}>
      {(it) =>
        it ? (
          <Health
            title="This site"
            id={id}
            cycles={it.cycles}
            facts={[
              ["Version", it.version],
              ["Files", `${bytes(it.stored_bytes)} stored`],
              ["Batches on their way", it.batches.length],
              ...published(optional(it.published)),
            ]}
          />
        ) : null
      }
    </Loaded>
  );
}

function published(publication: { number: bigint; hash: Uint8Array | number[]; committed_at_ns: bigint } | undefined): [string, ReactNode][] {
  if (!publication) return [["Published", "nothing"]];
  return [
    ["Published", <When key="" date={dateOf(publication.committed_at_ns)} />],
    ["Publication", `number ${publication.number}`],
    ["Hash", <Id key="" value={hex(publication.hash)} label="hash" />],
  ];
}

function Templates() {
  const { factory } = useCanisters();
  const { principal } = useSignedIn();
  const templates = useInfiniteQuery({
    queryKey: [principal.toText(), "templates"],
    initialPageParam: undefined as Uint8Array | undefined,
    queryFn: ({ pageParam }) => factory.list_templates({ after: pageParam ? [pageParam] : [], limit: 25 }),
    getNextPageParam: (page) => {
      const next = optional(page.next);
      return next && Uint8Array.from(next);
    },
  });
  return (
    <Panel title="Agent templates">
      <Loaded query={templates}>
        {({ pages }) => {
          const all = pages.flatMap((page) => page.templates);
          if (all.length === 0) return <Empty title="No template yet">Agents can be created when there is one.</Empty>;
          return (
            <>
              <Table
                label="Agent templates"
                rows={all}
                keyOf={(template) => hex(template.sha256)}
                columns={[
                  { title: "Version", cell: (template) => template.version },
                  { title: "Hash", cell: (template) => <Id value={hex(template.sha256)} label="hash" /> },
                  { title: "Size", right: true, cell: (template) => bytes(template.bytes) },
                  {
                    title: "Committed",
                    cell: (template) => {
                      const at = optional(template.committed_at_ns);
                      return at === undefined ? `${template.missing_chunks.length} chunks missing` : <When date={dateOf(at)} />;
                    },
                  },
                ]}
              />
              <More shown={all.length} hasMore={templates.hasNextPage} busy={templates.isFetchingNextPage} onMore={() => void templates.fetchNextPage()} />
            </>
          );
        }}
      </Loaded>
    </Panel>
  );
}

function Journal() {
  const { factory } = useCanisters();
  const { principal } = useSignedIn();
  const journal = useInfiniteQuery({
    queryKey: [principal.toText(), "journal"],
    initialPageParam: undefined as bigint | undefined,
    queryFn: async ({ pageParam }) => unwrap(await factory.journal({ after: pageParam === undefined ? [] : [pageParam], limit: 50 })),
    getNextPageParam: (page) => optional(page.next),
  });
  return (
    <Panel title="Journal of creations and deletions">
      <Loaded query={journal}>
        {({ pages }) => {
          const all = pages.flatMap((page) => page.entries);
          if (all.length === 0) return <Empty title="Nothing was created yet" />;
          return (
            <>
              <Table
                label="Journal"
                rows={all}
                keyOf={(entry) => String(entry.index)}
                columns={[
                  { title: "No.", cell: (entry) => String(entry.index) },
                  { title: "Agent", cell: (entry) => <span className="break-all">{entry.key}</span> },
                  { title: "Owner", wide: true, cell: (entry) => <Id value={entry.owner.toText()} label="principal" /> },
                  { title: "Step", cell: (entry) => `${tag(entry.step)}: ${phase(entry.phase)}` },
                  {
                    title: "Canister",
                    wide: true,
                    cell: (entry) => {
                      const canister = optional(entry.canister);
                      return canister ? <Id value={canister.toText()} label="canister id" /> : "";
                    },
                  },
                  { title: "When", cell: (entry) => <When date={dateOf(entry.time_ns)} /> },
                ]}
              />
              <More shown={all.length} hasMore={journal.hasNextPage} busy={journal.isFetchingNextPage} onMore={() => void journal.fetchNextPage()} />
            </>
          );
        }}
      </Loaded>
    </Panel>
  );
}

function phase(it: factoryTypes.StepPhase): string {
  if ("Failed" in it) return `failed, ${it.Failed.reason}`;
  return tag(it).toLowerCase();
}
