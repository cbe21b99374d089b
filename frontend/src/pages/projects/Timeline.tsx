import type { coordinatorTypes as types } from "@ohms/client";
import { useEffect, useState } from "react";
import { cx, Empty } from "../../components/ui.tsx";
import { duration } from "../../format.ts";
import type { Span } from "../../projects/timeline.ts";

const FILLS = { working: "fill-accent", done: "fill-good", failed: "fill-bad", ended: "fill-strong-line" };
const OUTCOMES = { working: "under way", done: "done", failed: "failed", ended: "ended" };
const ROW = 26;
/** The drawing's own width: times are scaled to it, and it to the screen. */
const WIDTH = 1_000;

/** Who worked on what, when. The list has the same as a table. */
export function Timeline({ tasks, spans }: { tasks: types.Task[]; spans: Span[] }) {
  const now = useNow(spans.some((span) => span.to === undefined));
  const first = spans[0];
  if (!first) return <Empty title="Nothing has begun yet">Attempts appear here when tasks are given to agents.</Empty>;
  const begun = tasks.filter((task) => spans.some((span) => span.task === task.plan.id));
  const ms = (time: bigint) => Number((time - first.from) / 1_000_000n);
  const total = Math.max(1, ...spans.map((span) => ms(span.to ?? now)));
  const ticks = [0, 0.25, 0.5, 0.75, 1];
  return (
    <div className="grid gap-1">
      <div aria-hidden className="ml-[40%] flex justify-between text-xs text-ink-2 tabular-nums sm:ml-[28%]">
        {ticks.map((tick) => (
          <span key={tick} className="max-sm:[&:nth-child(even)]:hidden">
            {tick === 0 ? "0" : duration(tick * total)}
          </span>
        ))}
      </div>
      <ol aria-label="Timeline of tasks" className="grid">
        {begun.map((task) => {
          const own = spans.filter((span) => span.task === task.plan.id);
          const said = own.map((span) => `${span.agent}, ${duration(ms(span.to ?? now) - ms(span.from))}, ${OUTCOMES[span.outcome]}`);
          return (
            <li key={task.plan.id} className="flex items-center border-t border-line text-sm">
              <span className="w-2/5 min-w-0 truncate py-0.5 pr-2 sm:w-[28%]" title={task.plan.title}>
                {task.plan.id} · {task.plan.title}
              </span>
              <svg
                role="img"
                aria-label={said.join("; ")}
                viewBox={`0 0 ${WIDTH} ${ROW}`}
                preserveAspectRatio="none"
                className="h-[26px] min-w-0 flex-1 overflow-visible"
              >
                {own.map((span) => {
                  const x = (WIDTH * ms(span.from)) / total;
                  const width = Math.max(4, (WIDTH * (ms(span.to ?? now) - ms(span.from))) / total);
                  return (
                    <rect key={span.attempt} x={x} y={6} width={width} height={ROW - 12} className={cx(FILLS[span.outcome])}>
                      <title>{`${span.agent}, attempt ${span.attempt}: ${duration(ms(span.to ?? now) - ms(span.from))}, ${OUTCOMES[span.outcome]}`}</title>
                    </rect>
                  );
                })}
              </svg>
            </li>
          );
        })}
      </ol>
      <ul aria-label="Colours" className="mt-2 flex flex-wrap gap-x-4 text-xs text-ink-2">
        {(["working", "done", "failed", "ended"] as const).map((outcome) => (
          <li key={outcome} className="flex items-center gap-1.5">
            <svg aria-hidden width="10" height="10">
              <rect width="10" height="10" className={FILLS[outcome]} />
            </svg>
            {OUTCOMES[outcome]}
          </li>
        ))}
      </ul>
    </div>
  );
}

/** The time, each second while it matters; nanoseconds since 1970. */
function useNow(running: boolean): bigint {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!running) return;
    const timer = setInterval(() => setNow(Date.now()), 1_000);
    return () => clearInterval(timer);
  }, [running]);
  return BigInt(now) * 1_000_000n;
}
