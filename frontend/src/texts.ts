import type { agentTypes } from "@ohms/client";

/** Most messages of a conversation that are sent along; the canister takes 256. */
const MOST_MESSAGES = 64;
/** Most bytes of them; the canister takes 65,536. */
const MOST_BYTES = 48_000;

const PREFIX = "chat";

/** The key of a job that belongs to a conversation: found again on any device. */
export function chatKey(thread: string, turn: number): string {
  return `${PREFIX}:${thread}:${turn}`;
}

/** The conversation and turn of a job, if it belongs to one. */
export function threadOf(job: { key: [] | [string] }): { thread: string; turn: number } | undefined {
  const match = /^chat:([0-9a-z]+):(\d+)$/.exec(job.key[0] ?? "");
  return match?.[1] === undefined ? undefined : { thread: match[1], turn: Number(match[2]) };
}

/** A new conversation's id. */
export function newThread(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A seed for the sampler: 53 random bits, which every language reads as a number. */
export function randomSeed(): bigint {
  const [high = 0, low = 0] = crypto.getRandomValues(new Uint32Array(2));
  return (BigInt(high & 0x1fffff) << 32n) | BigInt(low);
}

/** The messages to send for the next turn: the newest that fit, beginning with a person's. */
export function nextMessages(history: agentTypes.ChatMessage[], text: string): agentTypes.ChatMessage[] {
  const all = [...history, { role: { User: null }, content: text }];
  const system = all[0] && "System" in all[0].role ? all.slice(0, 1) : [];
  const size = (message: agentTypes.ChatMessage) => new TextEncoder().encode(message.content).length;
  let bytes = system.reduce((sum, message) => sum + size(message), 0);
  const kept: agentTypes.ChatMessage[] = [];
  for (const message of all.slice(system.length).reverse()) {
    bytes += size(message);
    if (kept.length > 0 && (bytes > MOST_BYTES || kept.length >= MOST_MESSAGES)) break;
    kept.unshift(message);
  }
  while (kept.length > 1 && kept[0] && !("User" in kept[0].role)) kept.shift();
  return [...system, ...kept];
}
