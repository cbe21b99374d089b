import { type agentTypes as types, tag } from "@ohms/client";
import { count } from "../format.ts";
import type { Wording } from "../words.ts";

/** Where a payment stands. */
export function paymentState(payment: types.PaymentRecord): Wording {
  switch (tag(payment.state)) {
    case "AwaitingApproval":
      return { tone: "warn", words: "Waits for you" };
    case "Ready":
      return { tone: "accent", words: "To be sent", busy: true };
    case "Submitted":
      return { tone: "accent", words: "Sent, no answer yet", busy: true };
    case "Done":
      return { tone: "good", words: "Paid" };
    case "Rejected":
      return { tone: "neutral", words: "Rejected" };
    case "Failed":
      return { tone: "bad", words: "Not paid" };
    case "Unknown":
      return { tone: "bad", words: "Unknown" };
  }
}

/** Why a payment stands where it does, if that is not clear. */
export function paymentReason({ state }: types.PaymentRecord): string | undefined {
  if ("Failed" in state) return state.Failed.reason;
  if ("Unknown" in state) return `${state.Unknown.reason}. Whether it was paid is in the ledger's blocks; it counts as spent and is not sent again.`;
  if ("Done" in state) return `block ${state.Done.block} of the ledger`;
  return undefined;
}

/** What a memory policy means, a sentence for each part. */
export function memoryPolicy(policy: types.MemoryPolicy): string[] {
  const bytes = policy.context_bytes[0];
  return [
    policy.recalled_facts === 0 ? "It looks up no facts when you talk to it." : `For each message it looks up ${count(policy.recalled_facts, "fact")} at most.`,
    "Summarise" in policy.when_full
      ? "When a conversation gets long, it writes a summary of the older turns, which later prompts begin with."
      : "When a conversation gets long, the oldest turns are left out of prompts.",
    bytes === undefined
      ? "A prompt takes in two bytes of memory for each token that the model can read."
      : `A prompt takes in ${count(bytes, "byte")} of memory at most, the instructions among them.`,
  ];
}

/** A name for a conversation that begins now: when, and its first words; at most 64 bytes. */
export function conversationName(message: string, now: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const day = `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`;
  const begin = `${day} ${two(now.getHours())}:${two(now.getMinutes())}:${two(now.getSeconds())} `;
  let words = message.trim().replace(/\s+/g, " ");
  const size = (text: string) => new TextEncoder().encode(text).length;
  if (size(begin + words) > 64) {
    while (size(`${begin}${words}…`) > 64) words = Array.from(words).slice(0, -1).join("");
    words = `${words.replace(/\s+\S*$/, "")}…`;
  }
  return (begin + words).trim();
}

/** What is in a list that a person writes: an item for each line or comma. */
export function itemsOf(text: string): string[] {
  return text
    .split(/[\n,]/)
    .map((item) => item.trim())
    .filter((item) => item !== "");
}
