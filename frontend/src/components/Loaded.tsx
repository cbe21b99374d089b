import type { ReactNode } from "react";
import { ErrorNotice, Loading } from "./ui.tsx";

interface Query<T> {
  data: T | undefined;
  error: unknown;
  refetch: () => unknown;
}

/** What was asked for, once it is there; what is there stays when asking again fails. */
export function Loaded<T>({ query, lines = 3, children }: { query: Query<T>; lines?: number; children: (data: T) => ReactNode }) {
  if (query.data !== undefined) return children(query.data);
  if (query.error) return <ErrorNotice error={query.error} onRetry={() => void query.refetch()} />;
  return <Loading lines={lines} />;
}
