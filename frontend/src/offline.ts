import { createAsyncStoragePersister } from "@tanstack/query-async-storage-persister";
import { Principal } from "@icp-sdk/core/principal";
import { del, get, set } from "idb-keyval";
import { useSyncExternalStore } from "react";

const encodeBase64 = (bytes: Uint8Array) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
const decodeBase64 = (text: string) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));

/** JSON of Candid values: whole numbers, blobs and principals keep their types. */
export function stringify(value: unknown): string {
  return JSON.stringify(value, (_, it: unknown) => {
    if (typeof it === "bigint") return { $bigint: it.toString() };
    if (it instanceof Uint8Array) return { $bytes: encodeBase64(it) };
    if (it instanceof Set) return { $set: [...it] };
    if (it === undefined) return { $undefined: true };
    return it;
  });
}

/** What {@link stringify} was given. */
export function parse<T>(text: string): T {
  return JSON.parse(text, (_, it: unknown) => {
    if (it === null || typeof it !== "object") return it;
    if ("$bigint" in it) return BigInt(it.$bigint as string);
    if ("$bytes" in it) return decodeBase64(it.$bytes as string);
    if ("$set" in it) return new Set(it.$set as unknown[]);
    if ("$undefined" in it) return undefined;
    if ("__principal__" in it) return Principal.fromText(it.__principal__ as string);
    return it;
  }) as T;
}

/** Keeps what was read last in the browser's database, for when there is no connection. */
export const persister = createAsyncStoragePersister({
  key: "ohms-last-data",
  throttleTime: 2_000,
  storage: { getItem: (key) => get<string>(key).then((value) => value ?? null), setItem: set, removeItem: del },
  serialize: stringify,
  deserialize: parse,
});

function subscribe(changed: () => void): () => void {
  addEventListener("online", changed);
  addEventListener("offline", changed);
  return () => {
    removeEventListener("online", changed);
    removeEventListener("offline", changed);
  };
}

/** Whether the browser has a connection. */
export const useOnline = () => useSyncExternalStore(subscribe, () => navigator.onLine);
