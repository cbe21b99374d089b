import type { agentTypes as types } from "@ohms/client";
import { itemsOf } from "./words.ts";

/** A profile as the fields of a form have it; numbers are texts, empty where there is none. */
export interface ProfileFields {
  role: string;
  instructions: string;
  capabilities: string;
  /** Whether tokens are chosen as below, instead of as agents do by default. */
  ownParams: boolean;
  maxTokens: string;
  temperature: string;
  seed: string;
  topK: string;
  topP: string;
  minP: string;
  penalty: string;
  window: string;
  stop: string;
  /** Tokens at the beginning of the context that stay when it is full; empty: the text ends there. */
  keep: string;
  recalledFacts: string;
  summarise: boolean;
  contextBytes: string;
}

/** What agents do whose profile says nothing (`MemoryPolicy::default` and `GenerationParams::default` in `shared-types`). */
export const DEFAULT_MEMORY: types.MemoryPolicy = { recalled_facts: 4, when_full: { Summarise: null }, context_bytes: [] };
const DEFAULT_PARAMS: types.GenerationParams = {
  max_tokens: 128,
  temperature: 0,
  seed: 0n,
  top_k: [],
  top_p: [],
  min_p: [],
  stop: [],
  repetition_penalty: [],
  repetition_window: [],
  logit_bias: [],
  when_full: [],
  json_schema: [],
};

/** 32-bit floats with the digits that they were written with: 0.95 instead of 0.949999988. */
const float = (value: number) => String(Number(value.toPrecision(6)));
/** Strings one on each line: a line feed is written as `\n` and a backslash as `\\`. */
const linesOf = (strings: string[]) => strings.map((it) => it.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")).join("\n");
const stringsOf = (lines: string) =>
  lines
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.replace(/\\(n|\\)/g, (_, it) => (it === "n" ? "\n" : "\\")));
const text = (value: [] | [number]) => (value[0] === undefined ? "" : float(value[0]));

/** The form's fields for a profile. */
export function fieldsOf(profile: types.AgentProfile): ProfileFields {
  const params = profile.params[0] ?? DEFAULT_PARAMS;
  const memory = profile.memory[0] ?? DEFAULT_MEMORY;
  const full = params.when_full[0];
  return {
    role: profile.role,
    instructions: profile.instructions,
    capabilities: profile.capabilities.join("\n"),
    ownParams: profile.params.length > 0,
    maxTokens: String(params.max_tokens),
    temperature: float(params.temperature),
    seed: String(params.seed),
    topK: text(params.top_k),
    topP: text(params.top_p),
    minP: text(params.min_p),
    penalty: text(params.repetition_penalty),
    window: text(params.repetition_window),
    stop: linesOf(params.stop[0] ?? []),
    keep: full && "Shift" in full ? String(full.Shift.keep) : "",
    recalledFacts: String(memory.recalled_facts),
    summarise: "Summarise" in memory.when_full,
    contextBytes: text(memory.context_bytes),
  };
}

const opt = (value: string): [] | [number] => (value.trim() === "" ? [] : [Number(value)]);

/** The profile that the fields say; what the form does not show stays as it is in `before`. */
export function profileOf(fields: ProfileFields, before: types.AgentProfile): types.AgentProfile {
  const stop = stringsOf(fields.stop);
  return {
    role: fields.role.trim(),
    instructions: fields.instructions.trim(),
    capabilities: itemsOf(fields.capabilities),
    params: fields.ownParams
      ? [
          {
            max_tokens: Number(fields.maxTokens),
            temperature: Number(fields.temperature),
            seed: BigInt(fields.seed || "0"),
            top_k: opt(fields.topK),
            top_p: opt(fields.topP),
            min_p: opt(fields.minP),
            repetition_penalty: opt(fields.penalty),
            repetition_window: opt(fields.window),
            stop: stop.length > 0 ? [stop] : [],
            when_full: fields.keep.trim() === "" ? [] : [{ Shift: { keep: Number(fields.keep) } }],
            logit_bias: before.params[0]?.logit_bias ?? [],
            json_schema: before.params[0]?.json_schema ?? [],
          },
        ]
      : [],
    memory: [
      {
        recalled_facts: Number(fields.recalledFacts || "0"),
        when_full: fields.summarise ? { Summarise: null } : { LeaveOut: null },
        context_bytes: opt(fields.contextBytes),
      },
    ],
  };
}
