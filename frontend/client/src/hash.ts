import { IDL } from "@icp-sdk/core/candid";
import { Principal } from "@icp-sdk/core/principal";
import { sha256 as nobleSha256 } from "@noble/hashes/sha2.js";

/** SHA-256 of bytes, or of a text in UTF-8. */
export function sha256(value: Uint8Array | string): Uint8Array {
  return nobleSha256(typeof value === "string" ? new TextEncoder().encode(value) : value);
}

/** Bytes as hexadecimal digits. */
export function hex(bytes: Uint8Array | number[]): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Whether two byte strings are the same. */
export function equal(a: Uint8Array | number[], b: Uint8Array | number[]): boolean {
  return a.length === b.length && Array.from(a).every((byte, at) => byte === b[at]);
}

export function concat(parts: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** SHA-256 of token ids: 4 bytes each, little-endian. */
export function hashTokens(tokens: Iterable<number>): Uint8Array {
  const ids = Array.from(tokens);
  const bytes = new DataView(new ArrayBuffer(4 * ids.length));
  ids.forEach((id, at) => bytes.setUint32(4 * at, id, true));
  return sha256(new Uint8Array(bytes.buffer));
}

/** Unsigned LEB128 of a number from 0, signed LEB128 of a negative one. */
function leb128(number: bigint): Uint8Array {
  const bytes: number[] = [];
  for (;;) {
    const low = Number(number & 0x7fn);
    const rest = number >> 7n;
    const last = number < 0n ? rest === -1n && (low & 0x40) !== 0 : rest === 0n;
    bytes.push(last ? low : low | 0x80);
    if (last) return Uint8Array.from(bytes);
    number = rest;
  }
}

const doubleBytes = (value: number) => {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  return new Uint8Array(view.buffer);
};

/** The hash of a value, or nothing where it takes no part: absent, or an empty list or record. */
class Hasher extends IDL.Visitor<unknown, Uint8Array | undefined> {
  override visitType<T>(type: IDL.Type<T>): never {
    throw new TypeError(`values of type ${type.name} have no representation-independent hash`);
  }
  override visitNull(): undefined {
    return undefined;
  }
  override visitBool(_type: IDL.BoolClass, value: unknown): Uint8Array | undefined {
    return sha256(Uint8Array.of(value ? 1 : 0));
  }
  override visitText(_type: IDL.TextClass, value: unknown): Uint8Array | undefined {
    return sha256(value as string);
  }
  override visitNumber<T>(_type: IDL.PrimitiveType<T>, value: unknown): Uint8Array | undefined {
    return sha256(leb128(BigInt(value as bigint | number)));
  }
  override visitFloat(_type: IDL.FloatClass, value: unknown): Uint8Array | undefined {
    return sha256(doubleBytes(value as number));
  }
  override visitPrincipal(_type: IDL.PrincipalClass, value: unknown): Uint8Array | undefined {
    return sha256((value as Principal).toUint8Array());
  }
  override visitOpt<T>(_type: IDL.OptClass<T>, inner: IDL.Type<T>, value: unknown): Uint8Array | undefined {
    const values = value as [] | [unknown];
    return values.length === 0 ? undefined : inner.accept(this, values[0]);
  }
  override visitVec<T>(_type: IDL.VecClass<T>, inner: IDL.Type<T>, value: unknown): Uint8Array | undefined {
    if (inner instanceof IDL.FixedNatClass && inner._bits === 8) {
      return sha256(Uint8Array.from(value as Uint8Array | number[]));
    }
    const elements = Array.from(value as Iterable<unknown>);
    if (elements.length === 0) return undefined;
    const hashes = elements.map((element) => inner.accept(this, element) ?? sha256(new Uint8Array()));
    return sha256(concat(hashes));
  }
  override visitRecord(_type: IDL.RecordClass, fields: [string, IDL.Type][], value: unknown): Uint8Array | undefined {
    const record = value as Record<string, unknown>;
    const pairs = fields.flatMap(([name, type]) => {
      const hash = type.accept(this, record[name]);
      return hash ? [concat([sha256(name), hash])] : [];
    });
    if (fields.length === 0) return undefined;
    pairs.sort((a, b) => (hex(a) < hex(b) ? -1 : 1));
    return sha256(concat(pairs));
  }
  override visitVariant(_type: IDL.VariantClass, fields: [string, IDL.Type][], value: unknown): Uint8Array | undefined {
    const variant = value as Record<string, unknown>;
    const [name, type] = fields.find(([name]) => name in variant) ?? [];
    if (name === undefined || type === undefined) throw new TypeError("the variant has no known alternative");
    if (type instanceof IDL.NullClass) return sha256(name);
    const hash = type.accept(this, variant[name]);
    return sha256(hash ? concat([sha256(name), hash]) : new Uint8Array());
  }
  override visitRec<T>(_type: IDL.RecClass<T>, inner: IDL.ConstructType<T>, value: unknown): Uint8Array | undefined {
    return inner.accept(this, value);
  }
}

/**
 * The representation-independent hash of a value of a Candid type, as receipts define it (`shared-types/src/receipt.rs`):
 * the Internet Computer's interface specification, by the names of the fields.
 */
export function hashOf(type: IDL.Type, value: unknown): Uint8Array {
  return type.accept(new Hasher(), value) ?? sha256(new Uint8Array());
}
