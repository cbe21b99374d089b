import { Link } from "@tanstack/react-router";
import { type coordinatorTypes as types, tag } from "@ohms/client";
import { useMemo, useSyncExternalStore } from "react";
import { cx } from "../../components/ui.tsx";
import { draw, NODE } from "../../projects/graph.ts";
import { taskState } from "../../projects/words.ts";

const STROKES = { neutral: "stroke-strong-line", accent: "stroke-accent", good: "stroke-good", warn: "stroke-warn", bad: "stroke-bad" };

/** Letters that fit into a node. */
const FIT = 24;
const cut = (text: string, most = FIT) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

const wide = matchMedia("(min-width: 48rem)");
const onWidth = (changed: () => void) => {
  wide.addEventListener("change", changed);
  return () => wide.removeEventListener("change", changed);
};
const useIsWide = () => useSyncExternalStore(onWidth, () => wide.matches);

/** The tasks as a graph: each right of those whose texts it takes, on narrow screens below them. The list has the same as a table. */
export function TaskGraph({ project, tasks }: { project: bigint; tasks: types.Task[] }) {
  // What stands where depends on the plan only, so that it stays where it is while the work goes on.
  const shape = JSON.stringify(tasks.map(({ plan }) => [plan.id, Array.from(plan.after)]));
  const direction = useIsWide() ? "LR" : "TB";
  const drawing = useMemo(() => draw((JSON.parse(shape) as [number, number[]][]).map(([id, after]) => ({ id, after })), direction), [shape, direction]);
  const byId = new Map(tasks.map((task) => [task.plan.id, task]));
  return (
    <div className="overflow-x-auto" tabIndex={0} role="region" aria-label="Graph of tasks">
      <svg width={drawing.width} height={drawing.height} viewBox={`0 0 ${drawing.width} ${drawing.height}`} className="mx-auto block">
        <defs>
          <marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">
            <path d="M0 0 8 4 0 8Z" className="fill-strong-line" />
          </marker>
        </defs>
        {drawing.lines.map(({ from, to, points }) => (
          <polyline
            key={`${from}-${to}`}
            points={points.map(({ x, y }) => `${x},${y}`).join(" ")}
            markerEnd="url(#arrow)"
            className="fill-none stroke-strong-line"
            strokeWidth={1.25}
          />
        ))}
        {drawing.places.map(({ id, x, y }) => {
          const task = byId.get(id);
          return task && <Node key={id} project={project} task={task} x={x - NODE.width / 2} y={y - NODE.height / 2} />;
        })}
      </svg>
    </div>
  );
}

function Node({ project, task, x, y }: { project: bigint; task: types.Task; x: number; y: number }) {
  const { plan } = task;
  const { tone, words } = taskState(task.state);
  const who = task.attempts.at(-1)?.agent ?? ("Vote" in plan.kind ? "a vote" : plan.role);
  return (
    <Link
      to="/projects/$project/tasks/$task"
      params={{ project: String(project), task: String(plan.id) }}
      className="group"
    >
      <rect
        x={x + 0.75}
        y={y + 0.75}
        width={NODE.width - 1.5}
        height={NODE.height - 1.5}
        rx={8}
        strokeWidth={1.5}
        className={cx("fill-panel group-hover:fill-sunken", STROKES[tone], "Submitted" === tag(task.state) && "[stroke-dasharray:4_3]")}
      />
      <text x={x + 10} y={y + 17} className="fill-ink-2 text-[11px]">
        {cut(`${plan.id} · ${who}`)}
      </text>
      <text x={x + 10} y={y + 33} className="fill-ink text-[13px] font-medium">
        {cut(plan.title, 22)}
      </text>
      <text x={x + 10} y={y + 50} className="fill-ink-2 text-[11px]">
        {words}
        {Number(task.tokens) > 0 ? ` · ${task.tokens.toLocaleString("en")} tokens` : ""}
      </text>
    </Link>
  );
}
