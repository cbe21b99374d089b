import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { allPages, type econTypes as types, optional, unwrap } from "@ohms/client";
import { useCanisters, useSession } from "../session.tsx";

/** Items of a page. */
const PAGE = 25;

function useMe(): string {
  return useSession().principal?.toText() ?? "anonymous";
}

/** Whether this site has an econ canister, and so subscriptions. */
export function useHasEconomy(): boolean {
  return useCanisters().has("econ");
}

/** What the caller has subscribed to, and what is left of it. */
export function useAccount() {
  const { econ } = useCanisters();
  const enabled = useHasEconomy();
  return useQuery({
    queryKey: [useMe(), "econ", "account"],
    enabled,
    queryFn: async () => unwrap(await econ().account([])),
    refetchInterval: 10_000,
  });
}

/** The tiers in force, the cheapest first, and those that are announced. */
export function useTiers() {
  const { econ } = useCanisters();
  return useQuery({
    queryKey: ["tiers"],
    queryFn: async () => tiersAt(await econ().tiers(), BigInt(Date.now()) * 1_000_000n),
    staleTime: 60_000,
  });
}

/** Versions of tiers at a moment, nanoseconds since 1970: in force, and announced. */
export function tiersAt(versions: types.TierVersion[], now: bigint) {
  const inForce = new Map<string, types.TierVersion>();
  for (const version of versions) {
    const before = inForce.get(version.terms.tier);
    if (version.effective_ns <= now && (!before || before.effective_ns <= version.effective_ns)) inForce.set(version.terms.tier, version);
  }
  const byPrice = (a: types.TierVersion, b: types.TierVersion) => Number(a.terms.price_cents - b.terms.price_cents);
  return {
    tiers: [...inForce.values()].sort(byPrice).map(({ terms }) => terms),
    announced: versions.filter((version) => version.effective_ns > now),
  };
}

/** Ledgers whose tokens are taken. */
export function useLedgers(enabled = true) {
  const { econ } = useCanisters();
  return useQuery({
    queryKey: ["ledgers"],
    enabled,
    queryFn: async () => (await econ().ledgers()).filter(({ args }) => args.enabled),
    staleTime: 60_000,
  });
}

/** Newest first: invoices have no gaps that a page could be counted from, so that all are read. */
export function useInvoices() {
  const { econ } = useCanisters();
  return useQuery({
    queryKey: [useMe(), "econ", "invoices"],
    queryFn: async () => {
      const invoices = await allPages(async (after: [] | [bigint]) => {
        const page = unwrap(await econ().invoices({ account: [], after, limit: 100 }));
        return { items: page.invoices, next: page.next };
      });
      return invoices.reverse();
    },
    refetchInterval: ({ state }) => (state.data?.some((invoice) => "Open" in invoice.state) ? 2_000 : 30_000),
  });
}

/** Sums of days since `from`, nanoseconds since 1970; days without runs are left out. */
export function useDays(from: bigint) {
  const { econ } = useCanisters();
  return useQuery({
    queryKey: [useMe(), "econ", "days", String(from)],
    queryFn: () =>
      allPages(async (after_ns: [] | [bigint]) => {
        const page = unwrap(await econ().series({ account: [], step: { Day: null }, after_ns: after_ns.length ? after_ns : [from], limit: 100 }));
        return { items: page.points, next: page.next };
      }),
    refetchInterval: 30_000,
  });
}

/** The runs of the caller, from the oldest that is kept. */
export function useRuns() {
  const { econ } = useCanisters();
  return useInfiniteQuery({
    queryKey: [useMe(), "econ", "runs"],
    initialPageParam: undefined as bigint | undefined,
    queryFn: async ({ pageParam }) =>
      unwrap(await econ().usage({ account: [], after: pageParam === undefined ? [] : [pageParam], limit: PAGE })),
    getNextPageParam: (page) => optional(page.next),
  });
}
