/** Numbers and times as people read them. */

const UNITS: [number, string][] = [
  [1e15, " P"],
  [1e12, " T"],
  [1e9, " B"],
  [1e6, " M"],
  [1e3, " k"],
];

/** Three significant digits with a unit: 1.94 T. */
export function compact(value: bigint | number): string {
  const number = Number(value);
  const unit = UNITS.find(([size]) => Math.abs(number) >= size);
  if (!unit) return String(value);
  return `${Number((number / unit[0]).toPrecision(3))}${unit[1]}`;
}

/** Bytes in units of 1,000. */
export function bytes(value: bigint | number): string {
  const number = Number(value);
  for (const [size, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]] as const) {
    if (number >= size) return `${Number((number / size).toPrecision(3))} ${unit}`;
  }
  return `${number} B`;
}

/** A count with its noun. */
export function count(value: bigint | number, one: string, many = `${one}s`): string {
  return `${Number(value).toLocaleString("en")} ${Number(value) === 1 ? one : many}`;
}

/** A date from nanoseconds since 1970. */
export function dateOf(ns: bigint): Date {
  return new Date(Number(ns / 1_000_000n));
}

/** Words as a sentence: with a capital letter and a full stop. */
export function sentence(words: string): string {
  const text = words.trim();
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

/** How long something took. */
export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1_000;
  if (seconds < 60) return `${Number(seconds.toPrecision(3))} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3_600)} h ${Math.round((seconds % 3_600) / 60)} min`;
}

/** How long ago, or the date if it is long ago. */
export function ago(date: Date, now = Date.now()): string {
  const seconds = Math.round((now - date.getTime()) / 1_000);
  if (seconds < 45) return "just now";
  if (seconds < 3_600) return count(Math.max(1, Math.round(seconds / 60)), "minute") + " ago";
  if (seconds < 86_400) return count(Math.round(seconds / 3_600), "hour") + " ago";
  return date.toLocaleDateString("en", { year: "numeric", month: "short", day: "numeric" });
}

/** The ends of a long id. */
export function shorten(id: string, ends = 5): string {
  return id.length <= 2 * ends + 3 ? id : `${id.slice(0, ends)}…${id.slice(-ends)}`;
}
