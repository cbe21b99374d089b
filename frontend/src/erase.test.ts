import type { coordinatorTypes as types } from "@ohms/client";
import { expect, test } from "vitest";
import { eraseProjects } from "./erase.ts";

const project = (id: bigint, state: string) => ({ id, state: { [state]: null } }) as unknown as types.Project;

/** A coordinator that answers `erase_projects` with these answers, one after the other. */
function coordinator(projects: types.Project[], answers: ({ Ok: bigint } | { Err: object })[]) {
  const calls: string[] = [];
  return {
    calls,
    service: {
      projects: async () => ({ Ok: { projects, next: [] } }),
      cancel_project: async (id: bigint) => {
        calls.push(`cancel ${id}`);
        return { Ok: project(id, "Canceled") };
      },
      erase_projects: async () => {
        calls.push("erase");
        return answers.shift() ?? { Ok: 0n };
      },
    } as unknown as Parameters<typeof eraseProjects>[0],
  };
}

test("what runs is cancelled, and erased once it is over; long histories take several calls", async () => {
  const { calls, service } = coordinator(
    [project(1n, "Completed"), project(2n, "Running"), project(3n, "Planned")],
    [{ Err: { ProjectNotOver: { project: 2n } } }, { Ok: 12_000n }, { Ok: 2_000n }, { Ok: 0n }],
  );
  const steps: string[] = [];
  expect(await eraseProjects(service, (words) => steps.push(words), async () => undefined)).toBe(3);
  expect(calls).toEqual(["cancel 2", "erase", "erase", "erase", "erase"]);
  expect(steps.join("; ")).toContain("Waiting until project 2 is over");
  expect(steps.join("; ")).toContain("2,000 entries left");
});

test("another refusal ends it, and says why", async () => {
  const { calls, service } = coordinator([], [{ Err: { Anonymous: null } }]);
  await expect(eraseProjects(service, () => undefined)).rejects.toMatchObject({ kind: "Anonymous" });
  expect(calls).toEqual(["erase"]);
});
