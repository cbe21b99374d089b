import type { agentTypes as types, Tag } from "@ohms/client";
import type { Tone } from "../components/ui.tsx";

/** Where an agent is in its life. */
export type Phase = Tag<types.AgentPhase>;

/** A change of phase: what the button says, and what is to be thought of before, if it can't be taken back. */
export interface Step {
  next: Phase;
  label: string;
  warning?: string;
}

/** A phase in words, and the changes that the canister allows from there (`shared-types/src/agent/phase.rs`). */
export interface PhaseWords {
  words: string;
  tone: Tone;
  meaning: string;
  steps: Step[];
}

const DEPRECATE: Step = {
  next: "Deprecated",
  label: "Retire it",
  warning:
    "It finishes the jobs that it has and takes nothing new; its profile and its memory stay as they are. There is no way back to work: what comes after is the archive.",
};

/** The phases in the order of life. */
export const PHASES: Record<Phase, PhaseWords> = {
  Registered: {
    words: "Registered",
    tone: "neutral",
    meaning: "It exists and is being set up. It takes no jobs yet.",
    steps: [{ next: "Staged", label: "Try it out" }, DEPRECATE],
  },
  Staged: {
    words: "Staged",
    tone: "accent",
    meaning: "You try it out. Projects can't give it tasks yet, and it pays nobody.",
    steps: [{ next: "Active", label: "Put it to work" }, DEPRECATE],
  },
  Active: {
    words: "Active",
    tone: "good",
    meaning: "It works: you talk to it, projects may give it tasks, and it pays within its limits.",
    steps: [{ next: "Paused", label: "Pause it" }, DEPRECATE],
  },
  Paused: {
    words: "Paused",
    tone: "warn",
    meaning: "It takes no new jobs, and those that wait rest until it goes on.",
    steps: [{ next: "Active", label: "Go on" }, DEPRECATE],
  },
  Deprecated: {
    words: "Retired",
    tone: "warn",
    meaning: "It finishes the jobs that it has and takes nothing new. Its profile and its memory don't change any more, but you can forget what is in it.",
    steps: [
      {
        next: "Archived",
        label: "Archive it",
        warning: "It does nothing any more after that, for good. You can still read, export and empty it, take its tokens out, and delete it.",
      },
    ],
  },
  Archived: {
    words: "Archived",
    tone: "neutral",
    meaning: "It does nothing any more. You can read, export and empty it, take its tokens out, and delete it.",
    steps: [],
  },
};

/** Whether profile, memory and ledgers may change. */
export const mayConfigure = (phase: Phase) => ["Registered", "Staged", "Active", "Paused"].includes(phase);

/** Whether it takes messages. */
export const maySubmit = (phase: Phase) => phase === "Staged" || phase === "Active";
