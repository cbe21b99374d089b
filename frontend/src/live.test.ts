import type { agentTypes } from "@ohms/client";
import { expect, test } from "vitest";
import { advance, type Live, NOTHING, type Step } from "./live.ts";

const job = (state: agentTypes.JobState) => ({ state }) as agentTypes.JobRecord;
const progress = (text: string, next_token: number, state: agentTypes.JobState = { Running: null }): Step => ({
  kind: "progress",
  progress: { job: job(state), text, next_token, tokens: new Uint32Array() },
});
const draft = (text: string, first_token: number): Step => ({
  kind: "draft",
  draft: { text, first_token } as agentTypes.Draft,
});
const run = (...steps: Step[]): Live => steps.reduce(advance, NOTHING);

test("a draft stands behind the text until the canister has it", () => {
  expect(run(draft("Once upon", 0))).toMatchObject({ text: "", draft: "Once upon" });
  expect(run(draft("Once upon", 0), progress("Once", 1))).toMatchObject({ text: "Once", draft: " upon", differed: false });
  expect(run(draft("Once upon", 0), progress("Once upon a", 3))).toMatchObject({ text: "Once upon a", draft: "", differed: false });
});

test("a draft of a state that is past gives what it has beyond", () => {
  const live = run(progress("Once", 1), progress(" upon", 2), draft(" upon a time", 1));
  expect(live).toMatchObject({ text: "Once upon", draft: " a time", differed: false });
});

test("a draft of a state that was not seen yet waits for it", () => {
  const early = run(progress("Once", 1), draft(" a", 2));
  expect(early).toMatchObject({ text: "Once", draft: "" });
  expect(advance(early, progress(" upon", 2))).toMatchObject({ text: "Once upon", draft: " a" });
  // One that begins between two states that were seen is of no use.
  expect(advance(early, progress(" upon a", 3))).toMatchObject({ text: "Once upon a", draft: "" });
});

test("a draft that differs is told", () => {
  expect(run(draft("Twice", 0), progress("Once", 1)).differed).toBe(true);
  expect(run(progress("Once", 1), progress(" upon", 2), draft(" more", 1)).differed).toBe(true);
});

test("when the job has ended nothing is a draft", () => {
  const live = run(draft("Once upon a", 0), progress("Once", 1, { Cancelled: null }));
  expect(live).toMatchObject({ text: "Once", draft: "", differed: false });
});
