import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { type econTypes as types, optional, tag, unwrap } from "@ohms/client";
import type { Principal } from "@icp-sdk/core/principal";
import { Loaded } from "../../components/Loaded.tsx";
import { Badge, Empty, Facts, Id, More, PageHeading, Panel, Table, When } from "../../components/ui.tsx";
import { useTiers } from "../../economy/queries.ts";
import { dollars, tokenAmount } from "../../economy/words.ts";
import { compact, count, dateOf, duration } from "../../format.ts";
import { useRights } from "../../queries.ts";
import { useCanisters, useSignedIn } from "../../session.tsx";
import { LostPage } from "../HomePage.tsx";
import { useStatus } from "./CanistersPage.tsx";

/** Accounts, money and who may spend quota; for admins of the econ canister. */
export function EconomicsPage() {
  const rights = useRights();
  if (!rights.data?.econ) return <LostPage />;
  return (
    <>
      <PageHeading title="Economics" lead="What people have subscribed to, where their tokens are, and which canisters spend their quota." />
      <div className="grid gap-4">
        <Overview />
        <Ledgers />
        <TierTable />
        <Grants />
        <Events />
      </div>
    </>
  );
}

const ms = (ns: bigint) => Number(ns / 1_000_000n);
const days = (ns: bigint) => count(ns / 86_400_000_000_000n, "day");

function Overview() {
  const { econ } = useCanisters();
  const status = useStatus("econ", () => econ().status());
  return (
    <Panel title="Overview">
      <Loaded query={status} lines={4}>
        {(it) => (
          <Facts
            facts={[
              ["Accounts", it.accounts.toLocaleString("en")],
              ["Invoices", it.invoices.toLocaleString("en")],
              ["Payments under way", `${it.payments_in_progress} of at most ${it.config.max_concurrent}`],
              ["Events in the log", it.events.toLocaleString("en")],
              ["Cycles", compact(it.cycles)],
              ["Notice before a tier changes", days(it.config.notice_ns)],
              ["Grace for an unpaid renewal", days(it.config.grace_ns)],
              ["A quote holds", duration(ms(it.config.quote_ns))],
              ["Fee of an escrow", `${it.config.escrow_fee_bp / 100} %`],
              ["Admins", it.admins.length],
            ]}
          />
        )}
      </Loaded>
    </Panel>
  );
}

function Ledgers() {
  const { econ } = useCanisters();
  const ledgers = useQuery({ queryKey: ["all-ledgers"], queryFn: () => econ().ledgers() });
  return (
    <Panel title="Tokens">
      <Loaded query={ledgers}>
        {(all) =>
          all.length === 0 ? (
            <Empty title="No token is taken yet">Add a ledger with `set_ledger`; then people can subscribe.</Empty>
          ) : (
            <ul className="grid gap-6">
              {all.map((ledger) => (
                <LedgerTotals key={ledger.args.canister.toText()} ledger={ledger} />
              ))}
            </ul>
          )
        }
      </Loaded>
    </Panel>
  );
}

/** A ledger, and whether all tokens that entered wallets are accounted for. */
function LedgerTotals({ ledger }: { ledger: types.LedgerInfo }) {
  const { econ } = useCanisters();
  const { principal } = useSignedIn();
  const totals = useQuery({
    queryKey: [principal.toText(), "settlement-totals", ledger.args.canister.toText()],
    queryFn: () => econ().settlement_totals(ledger.args.canister),
    refetchInterval: 15_000,
  });
  const show = (amount: bigint) => `${tokenAmount(amount, ledger.decimals)} ${ledger.symbol}`;
  return (
    <li className="grid gap-3">
      <div className="flex flex-wrap items-center gap-3">
        <h3 className="font-medium">{ledger.symbol}</h3>
        <Badge tone={ledger.args.enabled ? "good" : "neutral"}>{ledger.args.enabled ? "Taken" : "Not taken"}</Badge>
        <Id value={ledger.args.canister.toText()} label="canister id" />
        <span className="text-sm text-ink-2">
          {"Dollar" in ledger.args.currency ? "a token is a dollar" : `priced as ${ledger.args.currency.Asset.symbol}`}, fee {show(ledger.fee)}
        </span>
      </div>
      <Loaded query={totals} lines={2}>
        {(it) => {
          const sum = it.in_wallets + it.in_escrows + it.withdrawing + it.withdrawn;
          return (
            <div className="grid gap-3">
              <Facts
                facts={[
                  ["Entered wallets", show(it.deposited)],
                  ["In wallets", show(it.in_wallets)],
                  ["In escrows", show(it.in_escrows)],
                  ["On the way out", show(it.withdrawing)],
                  ["Left, with fees", show(it.withdrawn)],
                ]}
              />
              <p className="text-sm">
                {sum === it.deposited ? (
                  <Badge tone="good">The sum is right</Badge>
                ) : (
                  <Badge tone="bad">The parts add up to {show(sum)}: look into the log</Badge>
                )}
              </p>
            </div>
          );
        }}
      </Loaded>
    </li>
  );
}

function TierTable() {
  const tiers = useTiers();
  return (
    <Panel title="Tiers">
      <Loaded query={tiers}>
        {({ tiers, announced }) => (
          <Table
            label="Tiers"
            rows={[...tiers.map((terms) => ({ terms, from: undefined as bigint | undefined })), ...announced.map(({ terms, effective_ns }) => ({ terms, from: effective_ns }))]}
            keyOf={({ terms, from }) => `${terms.tier}-${from ?? "now"}`}
            columns={[
              { title: "Tier", cell: ({ terms }) => terms.tier },
              { title: "Price", right: true, cell: ({ terms }) => dollars(terms.price_cents) },
              { title: "Days", right: true, wide: true, cell: ({ terms }) => terms.period_days },
              { title: "Agents", right: true, wide: true, cell: ({ terms }) => terms.max_agents },
              { title: "Creations", right: true, wide: true, cell: ({ terms }) => terms.creations },
              { title: "Tokens", right: true, cell: ({ terms }) => compact(terms.tokens) },
              { title: "Class", wide: true, cell: ({ terms }) => tag(terms.rate_class) },
              { title: "From", cell: ({ from }) => <span className="whitespace-nowrap">{from === undefined ? "in force" : dateOf(from).toLocaleDateString("en")}</span> },
            ]}
          />
        )}
      </Loaded>
    </Panel>
  );
}

function serviceRole(role: types.ServiceRole): string {
  if ("Agent" in role) return "Agent, for its owner";
  return "Factory" in role ? "Factory, for everybody" : "Coordinator, for everybody";
}

/** Canisters that may reserve and settle. */
function Grants() {
  const { econ } = useCanisters();
  const { principal } = useSignedIn();
  const grants = useInfiniteQuery({
    queryKey: [principal.toText(), "services"],
    initialPageParam: undefined as Principal | undefined,
    queryFn: async ({ pageParam }) => unwrap(await econ().list_services({ after: pageParam ? [pageParam] : [], limit: 25 })),
    getNextPageParam: (page) => optional(page.next),
  });
  return (
    <Panel title="Canisters that spend quota">
      <Loaded query={grants}>
        {({ pages }) => {
          const all = pages.flatMap((page) => page.services);
          if (all.length === 0) return <Empty title="None yet">Grant the coordinator and the factory with `grant_service`.</Empty>;
          return (
            <>
              <Table
                label="Canisters that spend quota"
                rows={all}
                keyOf={(grant) => grant.service.toText()}
                columns={[
                  { title: "Canister", cell: (grant) => <Id value={grant.service.toText()} label="canister id" /> },
                  { title: "As", cell: (grant) => serviceRole(grant.role) },
                ]}
              />
              <More shown={all.length} hasMore={grants.hasNextPage} busy={grants.isFetchingNextPage} onMore={() => void grants.fetchNextPage()} />
            </>
          );
        }}
      </Loaded>
    </Panel>
  );
}

/** The log, of which every change of state is an entry. */
function Events() {
  const { econ } = useCanisters();
  const { principal } = useSignedIn();
  const events = useInfiniteQuery({
    queryKey: [principal.toText(), "econ-events"],
    initialPageParam: undefined as bigint | undefined,
    queryFn: async ({ pageParam }) => unwrap(await econ().events({ after: pageParam === undefined ? [] : [pageParam], limit: 25 })),
    getNextPageParam: (page) => optional(page.next),
  });
  return (
    <Panel title="Event log">
      <Loaded query={events} lines={5}>
        {({ pages }) => {
          const all = pages.flatMap((page) => page.events);
          return (
            <>
              <ol aria-label="Events" className="grid gap-2 text-sm">
                {all.map((event) => (
                  <li key={String(event.index)} className="grid gap-x-3 gap-y-0.5 border-b border-line pb-2 last:border-0 sm:grid-cols-[7rem_1fr]">
                    <span className="text-ink-2 tabular-nums">
                      {String(event.index)} · <When date={dateOf(event.time_ns)} />
                    </span>
                    <code className="font-mono text-xs break-all">{event.event}</code>
                  </li>
                ))}
              </ol>
              <More shown={all.length} hasMore={events.hasNextPage} busy={events.isFetchingNextPage} onMore={() => void events.fetchNextPage()} />
            </>
          );
        }}
      </Loaded>
    </Panel>
  );
}
