import { useQueries } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { hex, type modelTypes } from "@ohms/client";
import { useEffect } from "react";
import { Empty, Loading, Panel, Table } from "../../components/ui.tsx";
import { bytes } from "../../format.ts";
import { frontierOf, type Size } from "../../frontier.ts";
import { type Manifest, manifestQuery, useModels } from "../../queries.ts";
import { useCanisters } from "../../session.tsx";

const WIDTH = 560;
const HEIGHT = 220;
const MARGIN = { left: 56, right: 16, top: 12, bottom: 34 };

/** All sizes that the repository has of the model whose manifest this is: what each weighs, and what it loses. */
export function Frontier({ manifest, current }: { manifest: Manifest; current: string }) {
  const { model } = useCanisters();
  const models = useModels();
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = models;
  useEffect(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [hasNextPage, isFetchingNextPage, fetchNextPage]);
  const records: modelTypes.ModelRecord[] = models.data?.pages.flatMap((page) => page.models) ?? [];
  const manifests = useQueries({ queries: records.map((record) => manifestQuery(model, record.model_id)) });
  const sizes = frontierOf(
    manifest,
    records.flatMap((record, at) => {
      const data = manifests[at]?.data;
      return data ? [{ id: hex(record.model_id), name: `${record.name} ${record.version}`, manifest: data }] : [];
    }),
  );
  const loading = models.isPending || hasNextPage || manifests.some((query) => query.isPending);
  return (
    <Panel title="Quality frontier">
      {loading ? (
        <Loading lines={5} />
      ) : sizes.length === 0 ? (
        <Empty title="The loss of this model was not measured">Compress it with `novaq compress`, which measures it unless told otherwise.</Empty>
      ) : (
        <div className="grid gap-4">
          <Plot sizes={sizes} current={current} />
          <Table
            label="Sizes of this model"
            rows={sizes}
            keyOf={(size) => size.id}
            columns={[
              {
                title: "Model",
                cell: (size) =>
                  size.id === current ? (
                    <span className="font-medium">{size.name}, this one</span>
                  ) : (
                    <Link to="/admin/models/$model" params={{ model: size.id }} className="underline underline-offset-2">
                      {size.name}
                    </Link>
                  ),
              },
              { title: "Bits per weight", right: true, cell: (size) => size.bits.toFixed(2) },
              { title: "Size", right: true, wide: true, cell: (size) => bytes(size.bytes) },
              { title: "KL, nats", right: true, cell: (size) => size.kl.toPrecision(3) },
              { title: "Same first choice", right: true, wide: true, cell: (size) => `${(100 * size.top1).toFixed(1)} %` },
              { title: "", cell: (size) => (size.best ? "on the frontier" : "another one is smaller and better") },
            ]}
          />
        </div>
      )}
    </Panel>
  );
}

function Plot({ sizes, current }: { sizes: Size[]; current: string }) {
  const most = { bits: 1.15 * Math.max(...sizes.map((size) => size.bits)), kl: 1.15 * Math.max(...sizes.map((size) => size.kl)) };
  const x = (bits: number) => MARGIN.left + ((WIDTH - MARGIN.left - MARGIN.right) * bits) / most.bits;
  const y = (kl: number) => HEIGHT - MARGIN.bottom - ((HEIGHT - MARGIN.top - MARGIN.bottom) * kl) / most.kl;
  const line = sizes.filter((size) => size.best);
  return (
    <svg role="img" aria-label={`Loss against size for ${sizes.length} ${sizes.length === 1 ? "size" : "sizes"}; the table has the numbers`} viewBox={`0 0 ${WIDTH} ${HEIGHT}`} className="w-full max-w-2xl">
      {[0, 0.5, 1].map((at) => (
        <g key={at} className="fill-ink-2 text-[11px] tabular-nums">
          <line x1={MARGIN.left} x2={WIDTH - MARGIN.right} y1={y(at * most.kl)} y2={y(at * most.kl)} className="stroke-line" />
          <text x={MARGIN.left - 6} y={y(at * most.kl) + 4} textAnchor="end">
            {(at * most.kl).toPrecision(2)}
          </text>
          <text x={x(at * most.bits)} y={HEIGHT - MARGIN.bottom + 15} textAnchor={at === 1 ? "end" : "middle"}>
            {(at * most.bits).toFixed(1)}
          </text>
        </g>
      ))}
      <text x={(WIDTH + MARGIN.left) / 2} y={HEIGHT - 4} textAnchor="middle" className="fill-ink-2 text-[11px]">
        bits per weight of the whole file
      </text>
      <text transform={`translate(12 ${HEIGHT / 2}) rotate(-90)`} textAnchor="middle" className="fill-ink-2 text-[11px]">
        KL, nats per token
      </text>
      <polyline points={line.map((size) => `${x(size.bits)},${y(size.kl)}`).join(" ")} className="fill-none stroke-accent" strokeWidth={1.5} />
      {sizes.map((size) => (
        <circle key={size.id} cx={x(size.bits)} cy={y(size.kl)} r={size.id === current ? 6 : 4} className={size.best ? "fill-accent" : "fill-strong-line"}>
          <title>{`${size.name}: ${size.bits.toFixed(2)} bits, ${size.kl.toPrecision(3)} nats`}</title>
        </circle>
      ))}
    </svg>
  );
}
