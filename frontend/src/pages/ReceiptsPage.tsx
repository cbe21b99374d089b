import { Link } from "@tanstack/react-router";
import { hex, tag } from "@ohms/client";
import { Loaded } from "../components/Loaded.tsx";
import { Empty, Id, Loading, More, Panel, Table, When } from "../components/ui.tsx";
import { compact, dateOf } from "../format.ts";
import { useReceipts } from "../queries.ts";
import { useAgentOfPage } from "./AgentLayout.tsx";

/** The chain of what the agent certifies that it computed. */
export function ReceiptsPage() {
  const { canister } = useAgentOfPage();
  return canister ? <Receipts canister={canister} /> : <Loading />;
}

function Receipts({ canister }: { canister: string }) {
  const { key } = useAgentOfPage();
  const receipts = useReceipts(canister);
  return (
    <Panel title="Receipts">
      <Loaded query={receipts} lines={6}>
        {({ pages }) => {
          const all = pages.flatMap((page) => page.receipts);
          const head = pages[0]?.head;
          if (all.length === 0) {
            return (
              <Empty title="No receipts yet">
                <p>Every job that ends gets one. Each names the hash of the one before, so the last stands for all.</p>
              </Empty>
            );
          }
          return (
            <>
              {head && (
                <p className="mb-3 text-sm text-ink-2">
                  Head of the chain: number {String(head.sequence)}, <Id value={hex(head.hash)} label="hash" />
                </p>
              )}
              <Table
                label="Receipts"
                rows={all}
                keyOf={(receipt) => String(receipt.sequence)}
                columns={[
                  { title: "Number", cell: (receipt) => String(receipt.sequence) },
                  {
                    title: "Job",
                    cell: (receipt) => (
                      <Link to="/agents/$key/jobs/$job" params={{ key, job: String(receipt.job_id) }} className="underline underline-offset-2">
                        {String(receipt.job_id)}
                      </Link>
                    ),
                  },
                  { title: "Outcome", cell: (receipt) => tag(receipt.outcome) },
                  { title: "Tokens", right: true, cell: (receipt) => receipt.tokens.toLocaleString("en") },
                  { title: "Instructions", right: true, wide: true, cell: (receipt) => compact(receipt.instructions) },
                  { title: "Text", wide: true, cell: (receipt) => <Id value={hex(receipt.text_sha256)} label="hash" /> },
                  { title: "Ended", wide: true, cell: (receipt) => <When date={dateOf(receipt.finished_at_ns)} /> },
                ]}
              />
              <More shown={all.length} hasMore={receipts.hasNextPage} busy={receipts.isFetchingNextPage} onMore={() => void receipts.fetchNextPage()} />
            </>
          );
        }}
      </Loaded>
    </Panel>
  );
}
