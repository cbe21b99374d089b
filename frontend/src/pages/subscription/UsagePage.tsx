import { type econTypes as types, unwrap } from "@ohms/client";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { Loaded } from "../../components/Loaded.tsx";
import { Button, Empty, ErrorNotice, Facts, Id, More, Panel, Table, When } from "../../components/ui.tsx";
import { daysOf } from "../../economy/usage.ts";
import { saveFile } from "../../export.ts";
import { useAccount, useDays, useRuns } from "../../economy/queries.ts";
import { microcents } from "../../economy/words.ts";
import { compact, dateOf, duration } from "../../format.ts";
import { useCanisters } from "../../session.tsx";
import { BarChart } from "../../components/BarChart.tsx";

const DAYS = 30;
const DAY_NS = 86_400_000_000_000n;
const MEASURES = {
  Tokens: (totals: types.UsageTotals) => Number(totals.tokens_in + totals.tokens_out),
  Runs: (totals: types.UsageTotals) => Number(totals.runs),
  Instructions: (totals: types.UsageTotals) => Number(totals.instructions),
} as const;

/** What was used: by day, in all, and run by run. */
export function UsagePage() {
  const account = useAccount();
  return (
    <div className="grid gap-4">
      <Chart />
      <Loaded query={account}>{(summary) => <Totals totals={summary.totals} />}</Loaded>
      <Runs />
    </div>
  );
}

function Chart() {
  const today = (BigInt(Date.now()) * 1_000_000n) / DAY_NS;
  const [first] = useState(today - BigInt(DAYS - 1));
  const days = useDays(first * DAY_NS - 1n);
  const [measure, setMeasure] = useState<keyof typeof MEASURES>("Tokens");
  return (
    <Panel
      title={`${measure} of the last ${DAYS} days`}
      actions={
        <div role="group" aria-label="What is shown" className="flex">
          {(Object.keys(MEASURES) as (keyof typeof MEASURES)[]).map((name) => (
            <Button key={name} look="quiet" aria-pressed={measure === name} onClick={() => setMeasure(name)}>
              {name}
            </Button>
          ))}
        </div>
      }
    >
      <div className="min-h-52">
        <Loaded query={days} lines={5}>
          {(points) => (
            <BarChart
              label={`${measure} by day`}
              unit={measure.toLowerCase()}
              bars={daysOf(points, first, DAYS).map(({ day, totals }) => ({
                name: dateOf(day * DAY_NS).toLocaleDateString("en", { month: "short", day: "numeric", timeZone: "UTC" }),
                value: totals ? MEASURES[measure](totals) : 0,
              }))}
            />
          )}
        </Loaded>
      </div>
    </Panel>
  );
}

function Totals({ totals }: { totals: types.UsageTotals }) {
  return (
    <Panel title="In all">
      <Facts
        facts={[
          ["Runs", totals.runs.toLocaleString("en")],
          ["Tokens read", totals.tokens_in.toLocaleString("en")],
          ["Tokens written", totals.tokens_out.toLocaleString("en")],
          ["Instructions", compact(totals.instructions)],
          ["Cycles", compact(totals.cycles)],
          ["Share of what you paid", microcents(totals.cost_microcents)],
          ["Time of a run", totals.runs > 0n ? duration(Number(totals.latency_ns / totals.runs / 1_000_000n)) : "none yet"],
        ]}
      />
    </Panel>
  );
}

function Runs() {
  const runs = useRuns();
  return (
    <Panel title="Runs" actions={<ExportButtons subject="Usage" />}>
      <Loaded query={runs} lines={5}>
        {({ pages }) => {
          const all = pages.flatMap((page) => page.records);
          if (all.length === 0) return <Empty title="No run yet">What your projects and agents use appears here when it is settled.</Empty>;
          return (
            <>
              <Table
                label="Runs"
                rows={all}
                keyOf={(run) => String(run.sequence)}
                columns={[
                  { title: "No.", cell: (run) => String(run.sequence) },
                  { title: "When", cell: (run) => <When date={dateOf(run.time_ns)} /> },
                  { title: "Settled by", wide: true, cell: (run) => <Id value={run.agent.toText()} label="canister id" /> },
                  { title: "Tokens", right: true, cell: (run) => (run.envelope.tokens_in + run.envelope.tokens_out).toLocaleString("en") },
                  { title: "Charged", right: true, cell: (run) => run.charged_tokens.toLocaleString("en") },
                  { title: "Instructions", right: true, wide: true, cell: (run) => compact(run.envelope.instructions) },
                  { title: "Share of the price", right: true, wide: true, cell: (run) => microcents(run.cost_microcents) },
                ]}
              />
              <More shown={all.length} hasMore={runs.hasNextPage} busy={runs.isFetchingNextPage} onMore={() => void runs.fetchNextPage()} />
            </>
          );
        }}
      </Loaded>
    </Panel>
  );
}

/** Saves all runs, or all invoices, as a file. */
export function ExportButtons({ subject }: { subject: "Usage" | "Invoices" }) {
  const { econ } = useCanisters();
  const saving = useMutation({
    mutationFn: async (format: "Csv" | "Json") => {
      let text = "";
      for (let after: [] | [bigint] = []; ; ) {
        const args: types.ExportArgs = {
          account: [],
          after,
          limit: 100,
          subject: { [subject]: null } as types.ExportSubject,
          format: { [format]: null } as types.ExportFormat,
        };
        const page = unwrap(await econ().export(args));
        text += page.text;
        after = page.next;
        if (after.length === 0) break;
      }
      const name = `ohms-${subject.toLowerCase()}-${new Date().toISOString().slice(0, 10)}`;
      if (format === "Csv") saveFile(`${name}.csv`, "text/csv", text);
      else saveFile(`${name}.jsonl`, "application/jsonl", text);
    },
  });
  return (
    <>
      {saving.error && <ErrorNotice error={saving.error} />}
      {(["Csv", "Json"] as const).map((format) => (
        <Button key={format} busy={saving.isPending && saving.variables === format} onClick={() => saving.mutate(format)}>
          Save as {format.toUpperCase()}
        </Button>
      ))}
    </>
  );
}
