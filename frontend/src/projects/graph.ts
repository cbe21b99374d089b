import { Graph, layout } from "@dagrejs/dagre";

/** Where a task stands in the drawing: centre, in pixels. */
export interface Place {
  id: number;
  x: number;
  y: number;
}

/** A drawing of a graph of tasks. */
export interface Drawing {
  width: number;
  height: number;
  places: Place[];
  /** Corners of a line from one task to another. */
  lines: { from: number; to: number; points: { x: number; y: number }[] }[];
}

export const NODE = { width: 176, height: 60 };

/** Places tasks from the left to the right, each right of those whose artifacts it takes; or from the top down, each below them. */
export function draw(tasks: { id: number; after: ArrayLike<number> }[], direction: "LR" | "TB" = "LR"): Drawing {
  const graph = new Graph();
  graph.setGraph({ rankdir: direction, nodesep: 18, ranksep: direction === "LR" ? 44 : 32, marginx: 4, marginy: 4 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const { id } of tasks) graph.setNode(String(id), { ...NODE });
  for (const { id, after } of tasks) for (const before of Array.from(after)) graph.setEdge(String(before), String(id));
  layout(graph);
  const { width = 0, height = 0 } = graph.graph();
  return {
    width,
    height,
    places: tasks.map(({ id }) => {
      const { x = 0, y = 0 } = graph.node(String(id)) as { x?: number; y?: number };
      return { id, x, y };
    }),
    lines: graph.edges().map(({ v, w }) => ({
      from: Number(v),
      to: Number(w),
      points: (graph.edge(v, w) as { points?: { x: number; y: number }[] }).points ?? [],
    })),
  };
}
