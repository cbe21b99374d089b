import type { coordinatorTypes as types } from "@ohms/client";
import { expect, test } from "vitest";
import { draw, NODE } from "./graph.ts";
import { readLog } from "./queries.ts";
import { spansOf } from "./timeline.ts";
import { answered, eventWords, headline } from "./words.ts";

const event = (sequence: number, kind: object): types.Event => ({
  sequence: BigInt(sequence),
  time_ns: BigInt(sequence) * 1_000n,
  project: [1n],
  kind: kind as types.EventKind,
});
const begun = (task: number, attempt: number, agent: string) => ({ AttemptBegun: { task, attempt, agent, input_bytes: 0, lease_until_ns: 0n } });

const used = { prompt_tokens: 1n, generated_tokens: 2n, instructions: 3n };

test("attempts have a beginning, an end and an outcome", () => {
  const spans = spansOf([
    event(1, begun(1, 1, "a")),
    event(2, begun(2, 1, "b")),
    event(3, { AttemptFailed: { task: 1, attempt: 1, failure: { TimedOut: null }, then: { Retry: 0n }, used } }),
    event(4, begun(1, 2, "c")),
    event(5, { TaskCompleted: { task: 1, attempt: [2], text: "", elapsed_ns: 0n, used, receipt: [], verdict: [] } }),
  ]);
  expect(spans.map(({ agent, from, to, outcome }) => [agent, Number(from), to && Number(to), outcome])).toEqual([
    ["a", 1_000, 3_000, "failed"],
    ["b", 2_000, undefined, "working"],
    ["c", 4_000, 5_000, "done"],
  ]);
  const ended = spansOf([event(1, begun(1, 1, "a")), event(2, { ProjectEnded: { state: { Canceled: null } } })]);
  expect(ended[0]).toMatchObject({ to: 2_000n, outcome: "ended" });
});

test("a task stands right of those that go before it, and no two overlap", () => {
  const tasks = [
    { id: 1, after: [] },
    { id: 2, after: [1] },
    { id: 3, after: Uint32Array.of(1) },
    { id: 4, after: [2, 3] },
  ];
  const { places, lines, width, height } = draw(tasks);
  const at = (id: number) => places.find((place) => place.id === id) ?? { id, x: NaN, y: NaN };
  for (const { id, after } of tasks) for (const before of after) expect(at(before).x + NODE.width).toBeLessThanOrEqual(at(id).x);
  expect(Math.abs(at(2).y - at(3).y)).toBeGreaterThanOrEqual(NODE.height);
  expect(lines.map(({ from, to }) => [from, to])).toEqual([[1, 2], [1, 3], [2, 4], [3, 4]]);
  const down = draw(tasks, "TB").places;
  for (const { id, after } of tasks) {
    for (const before of after) expect((down.find((it) => it.id === before)?.y ?? NaN) + NODE.height).toBeLessThanOrEqual(down.find((it) => it.id === id)?.y ?? NaN);
  }
  for (const { x, y } of places) {
    expect(x + NODE.width / 2).toBeLessThanOrEqual(width);
    expect(y + NODE.height / 2).toBeLessThanOrEqual(height);
  }
});

test("the log goes on where it was read last, over pages that may be empty", async () => {
  const asked: (bigint | undefined)[] = [];
  const pages: types.EventPage[] = [
    { events: [event(4, { Approved: null })], next: [6n], last: 9n },
    { events: [], next: [8n], last: 9n },
    { events: [event(9, { Started: null })], next: [], last: 9n },
  ];
  const read = async ({ after }: types.EventsArgs) => {
    asked.push(after[0]);
    return { Ok: pages[asked.length - 1] ?? { events: [], next: [] as [], last: 9n } };
  };
  const log = await readLog(read, 1n, { events: [event(2, { Approved: null })], last: 3n });
  expect(asked).toEqual([3n, 6n, 8n]);
  expect(log.events.map(({ sequence }) => sequence)).toEqual([2n, 4n, 9n]);
  expect(log.last).toBe(9n);
  expect((await readLog(read, 1n, log)).events).toEqual(log.events);
});

test("answers go into the sentence as the coordinator's own conversation puts them", () => {
  expect(answered("I want some agents.", { Role: null }, " writers ")).toBe("I want some agents: writers");
  expect(answered("Create 500 developers", { Count: null }, "3")).toBe("Create 3 developers");
  expect(answered("Create many developers", { Count: null }, "3")).toBe("3 of these: Create many developers");
  expect(answered("Create 4 agents", { Count: null }, "two writers and a reviewer")).toBe("two writers and a reviewer");
});

test("events are told as sentences, and headlines are short", () => {
  expect(eventWords({ TaskEnded: { task: 2, reason: "its attempts are used up", state: { Failed: null }, verdict: [] } })).toBe(
    "Task 2 ended without a text: its attempts are used up.",
  );
  expect(eventWords({ CallBegun: { call: { CreateAgent: "a" } } })).toBeUndefined();
  expect(headline("  Write\n a  tale ")).toBe("Write a tale");
  expect(headline("word ".repeat(60)).length).toBeLessThanOrEqual(90);
});
