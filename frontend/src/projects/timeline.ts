import type { coordinatorTypes as types } from "@ohms/client";

/** An attempt at a task, from the log. */
export interface Span {
  task: number;
  attempt: number;
  agent: string;
  from: bigint;
  /** Absent while it is under way. */
  to: bigint | undefined;
  outcome: "working" | "done" | "failed" | "ended";
}

/** The attempts of a project, in the order in which they began. Times are nanoseconds since 1970. */
export function spansOf(events: types.Event[]): Span[] {
  const spans: Span[] = [];
  const end = (task: number, attempt: number | undefined, time: bigint, outcome: Span["outcome"]) => {
    for (const span of spans) {
      if (span.task === task && span.to === undefined && (attempt === undefined || span.attempt === attempt)) Object.assign(span, { to: time, outcome });
    }
  };
  for (const { kind, time_ns } of events) {
    if ("AttemptBegun" in kind) {
      const { task, attempt, agent } = kind.AttemptBegun;
      spans.push({ task, attempt, agent, from: time_ns, to: undefined, outcome: "working" });
    } else if ("AttemptFailed" in kind) end(kind.AttemptFailed.task, kind.AttemptFailed.attempt, time_ns, "failed");
    else if ("TaskCompleted" in kind) end(kind.TaskCompleted.task, kind.TaskCompleted.attempt[0], time_ns, "done");
    else if ("TaskEnded" in kind) end(kind.TaskEnded.task, undefined, time_ns, "ended");
    else if ("ProjectEnded" in kind) for (const { task } of spans) end(task, undefined, time_ns, "ended");
  }
  return spans;
}
