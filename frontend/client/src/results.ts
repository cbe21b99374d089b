/** The name of a variant's alternative. */
export type Tag<V> = V extends unknown ? keyof V & string : never;

/** The name of the alternative that `variant` is. */
export function tag<V extends object>(variant: V): Tag<V> {
  return Object.keys(variant)[0] as Tag<V>;
}

/** What a canister answered instead of a result: a typed error. */
export class CanisterError extends Error {
  /** The error's name in the Candid interface. */
  readonly kind: string;
  /** Its fields. */
  readonly fields: Readonly<Record<string, unknown>>;

  constructor(error: object) {
    const kind = Object.keys(error)[0] ?? "Unknown";
    super(kind);
    this.name = "CanisterError";
    this.kind = kind;
    this.fields = ((error as Record<string, unknown>)[kind] ?? {}) as Record<string, unknown>;
  }
}

/** The value of a result; throws a {@link CanisterError} if it is an error. */
export function unwrap<T>(result: { Ok: T } | { Err: object }): T {
  if ("Ok" in result) return result.Ok;
  throw new CanisterError(result.Err);
}

/** The value of a Candid `opt`. */
export function optional<T>(value: [] | [T]): T | undefined {
  return value[0];
}
