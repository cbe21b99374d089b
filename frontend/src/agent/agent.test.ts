import { agentTypes, hex } from "@ohms/client";
import type { IDL } from "@icp-sdk/core/candid";
import { expect, test } from "vitest";
import { PHASES } from "./phases.ts";
import { DEFAULT_MEMORY, fieldsOf, profileOf } from "./profile.ts";
import { exportMemory } from "./queries.ts";
import { conversationName, itemsOf, memoryPolicy } from "./words.ts";

test("every phase has its words, and every life can come to its end", () => {
  const phases = (agentTypes.AgentPhase as unknown as IDL.VariantClass)._fields.map(([name]) => name).sort();
  expect(Object.keys(PHASES).sort()).toEqual(phases);
  for (const [name, { steps }] of Object.entries(PHASES)) {
    if (name === "Archived") expect(steps).toEqual([]);
    else expect(steps.some(({ next }) => next === "Archived" || next === "Deprecated"), name).toBe(true);
    // What can't be taken back is asked about, and nothing else is.
    for (const { next, warning } of steps) expect(warning !== undefined, `${name} to ${next}`).toBe(["Deprecated", "Archived"].includes(next));
  }
});

test("a profile goes through the form unchanged", () => {
  const profile: agentTypes.AgentProfile = {
    role: "reviewer",
    instructions: "Be brief.",
    capabilities: ["reading", "style"],
    params: [
      {
        max_tokens: 64,
        temperature: Math.fround(0.7),
        seed: 2n ** 60n,
        top_k: [40],
        top_p: [Math.fround(0.95)],
        min_p: [],
        stop: [["\nUser:", "a\\n", "Fin"]],
        repetition_penalty: [Math.fround(1.1)],
        repetition_window: [32],
        logit_bias: [[{ token: 3, bias: 1 }]],
        when_full: [{ Shift: { keep: 8 } }],
        json_schema: ['{"type": "null"}'],
      },
    ],
    memory: [{ recalled_facts: 0, when_full: { LeaveOut: null }, context_bytes: [512] }],
  };
  const again = profileOf(fieldsOf(profile), profile);
  const rounded = JSON.parse(JSON.stringify(again, (_, it: unknown) => (typeof it === "bigint" ? String(it) : typeof it === "number" ? Math.fround(it) : it)));
  expect(rounded).toEqual(JSON.parse(JSON.stringify(profile, (_, it: unknown) => (typeof it === "bigint" ? String(it) : it))));
  expect(fieldsOf(profile)).toMatchObject({ temperature: "0.7", topP: "0.95", penalty: "1.1" });
  // Who says nothing about it gets what agents do by default.
  const bare: agentTypes.AgentProfile = { ...profile, params: [], memory: [] };
  expect(profileOf(fieldsOf(bare), bare)).toEqual({ ...bare, memory: [{ recalled_facts: 4, when_full: { Summarise: null }, context_bytes: [] }] });
});

test("a conversation's name begins with the day and fits", () => {
  const now = new Date(2026, 0, 9, 8, 5, 3);
  expect(conversationName("  Hello\n there ", now)).toBe("2026-01-09 08:05:03 Hello there");
  const long = conversationName("ä".repeat(100), now);
  expect(new TextEncoder().encode(long).length).toBeLessThanOrEqual(64);
  expect(long).toMatch(/^2026-01-09 08:05:03 ä{10,}…$/);
  expect(conversationName("Tell me of the mill that stands at the river and of its miller", now)).toBe("2026-01-09 08:05:03 Tell me of the mill that stands at the…");
  expect(hex(new TextEncoder().encode(conversationName("😀".repeat(40), now)))).not.toContain("efbfbd");
  expect(itemsOf(" a, b\n\n c ,")).toEqual(["a", "b", "c"]);
});

test("a memory policy is said in words", () => {
  expect(memoryPolicy({ recalled_facts: 1, when_full: { LeaveOut: null }, context_bytes: [2_000] })).toEqual([
    "For each message it looks up 1 fact at most.",
    "When a conversation gets long, the oldest turns are left out of prompts.",
    "A prompt takes in 2,000 bytes of memory at most, the instructions among them.",
  ]);
  expect(memoryPolicy({ ...DEFAULT_MEMORY, recalled_facts: 0 })[0]).toBe("It looks up no facts when you talk to it.");
});

test("an export has all pages, in their order", async () => {
  const asked: unknown[] = [];
  const pages: agentTypes.ExportedMemory[] = [
    { lines: "1\n2\n", next: [{ Facts: 2n }] },
    { lines: "3\n", next: [{ Turns: ["a", 0] }] },
    { lines: "", next: [] },
  ];
  const said: number[] = [];
  const text = await exportMemory(
    async ({ after }) => {
      asked.push(after[0]);
      return { Ok: pages[asked.length - 1] ?? { lines: "", next: [] } };
    },
    (lines) => said.push(lines),
  );
  expect(text).toBe("1\n2\n3\n");
  expect(said).toEqual([2, 3, 3]);
  expect(asked).toEqual([undefined, { Facts: 2n }, { Turns: ["a", 0] }]);
});
