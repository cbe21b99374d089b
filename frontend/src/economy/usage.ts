import type { econTypes as types } from "@ohms/client";

const DAY_NS = 86_400_000_000_000n;

/** `count` days from `first`, counted from 1970, each with its sums; days without runs have none. */
export function daysOf(points: types.SeriesPoint[], first: bigint, count: number): { day: bigint; totals: types.UsageTotals | undefined }[] {
  const byDay = new Map(points.map((point) => [point.start_ns / DAY_NS, point.totals]));
  return Array.from({ length: count }, (_, at) => ({ day: first + BigInt(at), totals: byDay.get(first + BigInt(at)) }));
}
