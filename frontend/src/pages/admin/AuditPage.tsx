import { useInfiniteQuery, useMutation } from "@tanstack/react-query";
import { allPages, checkAuditChain, hex, type modelTypes, tag } from "@ohms/client";
import { Link2 } from "lucide-react";
import { Loaded } from "../../components/Loaded.tsx";
import { Button, ErrorNotice, Id, More, Notice, PageHeading, Panel, Table, When } from "../../components/ui.tsx";
import { count, dateOf } from "../../format.ts";
import { useCanisters, useSignedIn } from "../../session.tsx";

const PAGE = 50n;

/** Every change of the repository, newest first. */
export function AuditPage() {
  const { model } = useCanisters();
  const { principal } = useSignedIn();
  const log = useInfiniteQuery({
    queryKey: [principal.toText(), "audit"],
    initialPageParam: undefined as bigint | undefined,
    // Entries have no gaps, so pages can be counted from the end.
    queryFn: async ({ pageParam }) => {
      const end = pageParam ?? (await model.status()).audit_entries;
      const begin = end > PAGE ? end - PAGE : 0n;
      const page = await model.audit_log({ after: begin > 0n ? [begin - 1n] : [], limit: Number(end - begin) || 1 });
      const entries = page.entries.filter((entry) => entry.index < end).reverse();
      return { entries, before: begin > 0n ? begin : undefined };
    },
    getNextPageParam: (page) => page.before,
  });
  const check = useMutation({
    mutationFn: async () => {
      const status = await model.status();
      const entries = await allPages(
        async (after: [] | [bigint]) => {
          const page = await model.audit_log({ after, limit: 100 });
          return { items: page.entries, next: page.next };
        },
        Number.MAX_SAFE_INTEGER,
      );
      return checkAuditChain(entries.slice(0, Number(status.audit_entries)), status.audit_head);
    },
  });
  return (
    <>
      <PageHeading
        title="Audit log"
        lead="Every change of the model repository. Each entry has the hash of the one before."
        actions={
          <Button look="primary" busy={check.isPending} onClick={() => check.mutate()}>
            <Link2 aria-hidden className="size-4" />
            Check the chain
          </Button>
        }
      />
      <div className="grid gap-4">
        {check.error && <ErrorNotice error={check.error} onRetry={() => check.mutate()} />}
        {check.data && (
          <Notice tone={check.data.broken === undefined ? "good" : "bad"}>
            {check.data.broken === undefined
              ? `${count(check.data.entries, "entry", "entries")} recomputed in this browser: the chain holds, and its head is the canister's.`
              : `The chain breaks at entry ${check.data.broken}.`}
          </Notice>
        )}
        <Panel>
          <Loaded query={log} lines={8}>
            {({ pages }) => {
              const all = pages.flatMap((page) => page.entries);
              return (
                <>
                  <Table
                    label="Audit log"
                    rows={all}
                    keyOf={(entry) => String(entry.index)}
                    columns={[
                      { title: "No.", right: true, cell: (entry) => String(entry.index) },
                      { title: "What", cell: (entry) => describe(entry.event) },
                      { title: "Who", cell: (entry) => <Id value={entry.actor.toText()} label="principal" /> },
                      { title: "When", wide: true, cell: (entry) => <When date={dateOf(entry.time_ns)} /> },
                      { title: "Hash", wide: true, cell: (entry) => <Id value={hex(entry.hash)} label="hash" /> },
                    ]}
                  />
                  <More shown={all.length} hasMore={log.hasNextPage} busy={log.isFetchingNextPage} onMore={() => void log.fetchNextPage()} />
                </>
              );
            }}
          </Loaded>
        </Panel>
      </div>
    </>
  );
}

const spaced = (name: string) => name.replace(/(?<=[a-z])[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);

/** An event in words, with the model or the principal that it is about. */
function describe(event: modelTypes.AuditEvent) {
  const kind = tag(event);
  const fields = (event as Record<string, Record<string, unknown> | undefined>)[kind] ?? {};
  const { model_id: modelId, principal, role, index, reason, version } = fields;
  return (
    <span className="inline-flex flex-wrap items-center gap-x-2">
      {spaced(kind)}
      {typeof index === "number" && <span>{index}</span>}
      {role !== undefined && <span>{tag(role as object)}</span>}
      {principal !== undefined && <Id value={String(principal)} label="principal" />}
      {modelId !== undefined && <Id value={hex(modelId as Uint8Array)} label="model id" />}
      {version !== undefined && <span>{String(version)}</span>}
      {reason !== undefined && <span className="text-ink-2">{String(reason)}</span>}
    </span>
  );
}
