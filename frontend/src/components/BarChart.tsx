import { useState } from "react";
import { compact } from "../format.ts";

/** A bar: what it stands for, and how high it is. */
export interface Bar {
  name: string;
  value: number;
}

const WIDTH = 600;
const HEIGHT = 160;

/** The next of 1, 2, 5, 10, 20, … that is not below `value`. */
export function niceCeiling(value: number): number {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * ([1, 2, 5].find((step) => step * power >= value) ?? 10);
}

/** Bars side by side, and the same as a table for those who can't see them. */
export function BarChart({ label, unit, bars }: { label: string; unit: string; bars: Bar[] }) {
  const [asTable, setAsTable] = useState(false);
  const most = niceCeiling(Math.max(0, ...bars.map((bar) => bar.value)));
  const step = WIDTH / Math.max(1, bars.length);
  const total = bars.reduce((sum, bar) => sum + bar.value, 0);
  return (
    <figure className="grid gap-2">
      {asTable ? (
        <div className="max-h-52 overflow-y-auto" tabIndex={0} role="region" aria-label={label}>
          <table className="w-full text-sm">
            <tbody>
              {bars
                .filter((bar) => bar.value > 0)
                .map((bar) => (
                  <tr key={bar.name} className="border-b border-line last:border-0">
                    <th scope="row" className="py-1 text-left font-normal">
                      {bar.name}
                    </th>
                    <td className="py-1 text-right tabular-nums">{bar.value.toLocaleString("en")}</td>
                  </tr>
                ))}
            </tbody>
          </table>
          {total === 0 && <p className="text-ink-2">Nothing in these days.</p>}
        </div>
      ) : (
        <div className="flex gap-2">
          <div aria-hidden className="flex h-40 w-10 shrink-0 flex-col justify-between text-right text-xs text-ink-2 tabular-nums">
            <span className="-mt-2">{compact(most)}</span>
            <span>{most >= 2 ? compact(most / 2) : ""}</span>
            <span className="-mb-2">0</span>
          </div>
          <svg role="img" aria-label={`${label}: ${total.toLocaleString("en")} ${unit} in all`} viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" className="h-40 min-w-0 flex-1">
            {[0, 0.5, 1].map((at) => (
              <line key={at} x1={0} x2={WIDTH} y1={at * HEIGHT} y2={at * HEIGHT} className="stroke-line" vectorEffect="non-scaling-stroke" />
            ))}
            {bars.map((bar, at) => {
              const height = (HEIGHT * bar.value) / most;
              return (
                <rect key={bar.name} x={at * step + step * 0.15} width={step * 0.7} y={HEIGHT - height} height={height} className="fill-accent">
                  <title>{`${bar.name}: ${bar.value.toLocaleString("en")} ${unit}`}</title>
                </rect>
              );
            })}
          </svg>
        </div>
      )}
      <figcaption className="flex items-center justify-between gap-3 pl-12 text-xs text-ink-2">
        <span>{bars[0]?.name}</span>
        <button type="button" onClick={() => setAsTable(!asTable)} className="rounded px-1 underline decoration-dotted underline-offset-4">
          {asTable ? "Show as bars" : "Show as a table"}
        </button>
        <span>{bars.at(-1)?.name}</span>
      </figcaption>
    </figure>
  );
}
