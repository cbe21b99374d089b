/** A key for a job that continues a text of the person: by it any device finds the text again among the agent's jobs. */
export function textKey(): string {
  return `chat:${Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("")}:0`;
}

/** Whether a job continues a text of the person. */
export function isText(job: { key: [] | [string] }): boolean {
  return /^chat:[0-9a-z]+:\d+$/.test(job.key[0] ?? "");
}

/** A seed for the sampler: 53 random bits, which every language reads as a number. */
export function randomSeed(): bigint {
  const [high = 0, low = 0] = crypto.getRandomValues(new Uint32Array(2));
  return (BigInt(high & 0x1fffff) << 32n) | BigInt(low);
}
