import type { Manifest } from "./queries.ts";

/** A size of a model: what it weighs, and what it loses. */
export interface Size {
  id: string;
  name: string;
  /** Bits of the whole file per weight. */
  bits: number;
  bytes: number;
  /** Kullback-Leibler divergence from the original, nats per token. */
  kl: number;
  /** Share of positions with the same likeliest token. */
  top1: number;
  /** Whether none is both smaller and better. */
  best: boolean;
}

interface Candidate {
  id: string;
  name: string;
  manifest: Manifest;
}

const number = (value: unknown) => (typeof value === "number" && Number.isFinite(value) ? value : undefined);

/** Those of `all` that were made of the same original as `model` and measured on the same text, the smallest first. */
export function frontierOf(model: Manifest, all: Candidate[]): Size[] {
  const original = (it: Manifest) => JSON.stringify([it.architecture, it.compression?.["parameters"], it.origin?.["repository"], it.verification?.["text"], it.verification?.["perplexity_original"]]);
  const sizes = all.flatMap(({ id, name, manifest }) => {
    const bits = number(manifest.compression?.["bits_per_weight_file"]);
    const bytes = number(manifest.compression?.["bytes"]);
    const kl = number(manifest.verification?.["kl"]);
    const top1 = number(manifest.verification?.["top1_agreement"]);
    if (bits === undefined || bytes === undefined || kl === undefined || top1 === undefined || original(manifest) !== original(model)) return [];
    return [{ id, name, bits, bytes, kl, top1 }];
  });
  sizes.sort((a, b) => a.bits - b.bits || a.kl - b.kl);
  let last = { bits: 0, kl: Infinity };
  return sizes.map((size) => {
    const best = size.kl < last.kl || (size.kl === last.kl && size.bits === last.bits);
    if (best) last = size;
    return { ...size, best };
  });
}
