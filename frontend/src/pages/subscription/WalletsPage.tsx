import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { Principal } from "@icp-sdk/core/principal";
import { CanisterError, type econTypes as types, hex, optional, tag, unwrap } from "@ohms/client";
import { type FormEvent, useEffect, useRef, useState } from "react";
import { Loaded } from "../../components/Loaded.tsx";
import { Badge, Button, Empty, ErrorNotice, Facts, Field, Id, Input, More, Notice, Panel, Select, Table, type Tone, When } from "../../components/ui.tsx";
import { useLedgers } from "../../economy/queries.ts";
import { loadWallet, transfer } from "../../economy/wallet.ts";
import { parseAmount, tokenAmount } from "../../economy/words.ts";
import { dateOf } from "../../format.ts";
import { useAgents } from "../../queries.ts";
import { useCanisters, useSignedIn } from "../../session.tsx";
import { useEconAction } from "./TierPage.tsx";

/** Whose wallet is shown. */
interface Holder {
  name: string;
  principal: string;
}

/** Wallets of the person and of their agents: what they have, may spend, and have spent. */
export function WalletsPage() {
  const { principal } = useSignedIn();
  const ledgers = useLedgers();
  const agents = useAgents();
  const holders: Holder[] = [
    { name: "Your own", principal: principal.toText() },
    ...(agents.data?.pages ?? []).flatMap((page) =>
      page.agents.flatMap((record) => {
        const canister = optional(record.canister);
        return canister ? [{ name: record.key, principal: canister.toText() }] : [];
      }),
    ),
  ];
  const [holder, setHolder] = useState(principal.toText());
  const [ledger, setLedger] = useState<string>();
  useEffect(() => {
    loadWallet().catch(() => undefined);
  }, []);
  const chosen = holders.find((it) => it.principal === holder) ?? holders[0];
  return (
    <Loaded query={ledgers} lines={6}>
      {(all) => {
        const token = all.find(({ args }) => args.canister.toText() === ledger) ?? all[0];
        if (!token || !chosen) return <Empty title="No token is taken yet">An admin has to add a ledger to the econ canister.</Empty>;
        return (
          <div className="grid gap-4">
            <p className="max-w-prose text-ink-2">
              A wallet holds tokens for what agents pay each other, or hold back until a job is done. Its holder may spend within the limits that you set; only
              you can take tokens out. Each agent also has an account of its own, from which it can pay anybody: you find it under Agents, in the agent's wallet.
            </p>
            <div className="grid gap-4 sm:grid-cols-2">
              <Field label="Wallet">
                {(ids) => (
                  <Select {...ids} value={chosen.principal} onChange={(event) => setHolder(event.target.value)}>
                    {holders.map(({ name, principal }) => (
                      <option key={principal} value={principal}>
                        {name}
                      </option>
                    ))}
                  </Select>
                )}
              </Field>
              <Field label="Token">
                {(ids) => (
                  <Select {...ids} value={token.args.canister.toText()} onChange={(event) => setLedger(event.target.value)}>
                    {all.map(({ args, symbol }) => (
                      <option key={args.canister.toText()} value={args.canister.toText()}>
                        {symbol}
                      </option>
                    ))}
                  </Select>
                )}
              </Field>
            </div>
            {agents.hasNextPage && (
              <div>
                <Button busy={agents.isFetchingNextPage} onClick={() => void agents.fetchNextPage()}>
                  Read more agents
                </Button>
              </div>
            )}
            <WalletOf key={`${chosen.principal}-${token.args.canister.toText()}`} holder={chosen} token={token} />
          </div>
        );
      }}
    </Loaded>
  );
}

const idOf = (holder: Holder, token: types.LedgerInfo): types.WalletId => ({ holder: Principal.fromText(holder.principal), ledger: token.args.canister });

function WalletOf({ holder, token }: { holder: Holder; token: types.LedgerInfo }) {
  const { econ } = useCanisters();
  const { principal } = useSignedIn();
  const wallet = useQuery({
    queryKey: [principal.toText(), "econ", "wallet", holder.principal, token.args.canister.toText()],
    queryFn: async () => {
      try {
        return unwrap(await econ().wallet(idOf(holder, token)));
      } catch (error) {
        if (error instanceof CanisterError && error.kind === "UnknownWallet") return null;
        throw error;
      }
    },
    refetchInterval: ({ state }) => (state.data?.deposit[0] && "Pending" in state.data.deposit[0] ? 1_500 : 15_000),
  });
  const open = useEconAction(async () => unwrap(await econ().open_wallet({ wallet: idOf(holder, token), limits: { per_transfer: [], per_day: [] } })));
  return (
    <Loaded query={wallet} lines={6}>
      {(it) =>
        it === null ? (
          <Panel title={holder.name}>
            {open.error && <ErrorNotice error={open.error} onRetry={() => open.mutate()} />}
            <Empty title="There is no such wallet yet">
              <p>Opening one costs nothing. You become its owner.</p>
              <Button look="primary" busy={open.isPending} onClick={() => open.mutate()}>
                Open the wallet
              </Button>
            </Empty>
          </Panel>
        ) : (
          <>
            <Balance holder={holder} token={token} wallet={it} />
            <Limits holder={holder} token={token} wallet={it} />
            <Withdraw holder={holder} token={token} wallet={it} />
            <Escrows holder={holder} token={token} />
          </>
        )
      }
    </Loaded>
  );
}

interface Part {
  holder: Holder;
  token: types.LedgerInfo;
  wallet: types.Wallet;
}

function Balance({ holder, token, wallet }: Part) {
  const { econ } = useCanisters();
  const { environment } = useSignedIn();
  const [text, setText] = useState("");
  const amount = parseAmount(text, token.decimals);
  const deposit = optional(wallet.deposit);
  const collect = useEconAction(async () => unwrap(await econ().deposit(idOf(holder, token))));
  const paying = useEconAction(async () => {
    if (amount === undefined) return;
    const account = await econ().deposit_account(Principal.fromText(holder.principal));
    // The deposit itself costs a fee: it goes from the wallet's own account to that of all wallets.
    await transfer(environment, token.args.canister, account, amount + token.fee);
    unwrap(await econ().deposit(idOf(holder, token)));
    setText("");
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    paying.mutate();
  };
  const name = environment.local ? "the local wallet" : "OISY";
  return (
    <Panel title={holder.name} actions={<Button busy={collect.isPending} onClick={() => collect.mutate()}>Look for deposits</Button>}>
      <div className="grid gap-4">
        <p>
          <span className="text-2xl font-semibold tabular-nums">{tokenAmount(wallet.balance, token.decimals)}</span> <span className="text-ink-2">{token.symbol}</span>
        </p>
        {deposit && "Pending" in deposit && <Notice>A deposit is on its way.</Notice>}
        {deposit && "Failed" in deposit && <Notice tone="warn">The last deposit did not arrive: {deposit.Failed.reason}. Look for it again.</Notice>}
        {(collect.error ?? paying.error) && <ErrorNotice error={collect.error ?? paying.error} />}
        <form onSubmit={submit} className="flex flex-wrap items-end gap-3">
          <div className="w-40">
            <Field label={`Put in, ${token.symbol}`}>
              {(ids) => <Input {...ids} required inputMode="decimal" autoComplete="off" value={text} onChange={(event) => setText(event.target.value)} placeholder="10" />}
            </Field>
          </div>
          <Button look="primary" type="submit" busy={paying.isPending} disabled={!amount}>
            Pay with {name}
          </Button>
        </form>
        {paying.isPending && <Notice>Go on in the window of {name}. It closes by itself when it is done.</Notice>}
      </div>
    </Panel>
  );
}

function Limits({ holder, token, wallet }: Part) {
  const { econ } = useCanisters();
  const show = (limit: [] | [bigint]) => (limit[0] === undefined ? "" : tokenAmount(limit[0], token.decimals));
  const [once, setOnce] = useState(show(wallet.limits.per_transfer));
  const [daily, setDaily] = useState(show(wallet.limits.per_day));
  const read = (text: string): [] | [bigint] | undefined => {
    if (text.trim() === "") return [];
    const amount = parseAmount(text, token.decimals);
    return amount === undefined ? undefined : [amount];
  };
  const limits = { per_transfer: read(once), per_day: read(daily) };
  const { per_transfer, per_day } = limits;
  const saving = useEconAction(async () => {
    if (!per_transfer || !per_day) return;
    unwrap(await econ().open_wallet({ wallet: idOf(holder, token), limits: { per_transfer, per_day } }));
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    saving.mutate();
  };
  return (
    <Panel title="Limits">
      <form onSubmit={submit} className="grid gap-4">
        {saving.error && <ErrorNotice error={saving.error} />}
        <div className="grid gap-4 sm:grid-cols-2">
          <Field label={`At a time, ${token.symbol}`} hint="Empty: all it has.">
            {(ids) => <Input {...ids} inputMode="decimal" autoComplete="off" value={once} onChange={(event) => setOnce(event.target.value)} />}
          </Field>
          <Field label={`In a day, ${token.symbol}`} hint={`Empty: all it has. Spent today: ${tokenAmount(wallet.spent_in_day, token.decimals)}.`}>
            {(ids) => <Input {...ids} inputMode="decimal" autoComplete="off" value={daily} onChange={(event) => setDaily(event.target.value)} />}
          </Field>
        </div>
        <div className="flex items-center gap-3">
          <Button type="submit" busy={saving.isPending} disabled={!per_transfer || !per_day}>
            Set the limits
          </Button>
          {saving.isSuccess && <span role="status" className="text-sm text-good">They hold from now on.</span>}
        </div>
      </form>
    </Panel>
  );
}

function Withdraw({ holder, token, wallet }: Part) {
  const { econ } = useCanisters();
  const [to, setTo] = useState("");
  const [text, setText] = useState("");
  const key = useRef(crypto.randomUUID());
  const amount = parseAmount(text, token.decimals);
  const most = wallet.balance > token.fee ? wallet.balance - token.fee : 0n;
  const taking = useEconAction(async () => {
    if (!amount) return;
    const account: types.Account = { owner: Principal.fromText(to.trim()), subaccount: [] };
    unwrap(await econ().withdraw({ key: key.current, wallet: idOf(holder, token), to: account, amount }));
    key.current = crypto.randomUUID();
    setText("");
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    taking.mutate();
  };
  return (
    <Panel title="Take out">
      <form onSubmit={submit} className="grid gap-4">
        {taking.error && <ErrorNotice error={taking.error} />}
        <div className="grid gap-4 sm:grid-cols-[1fr_10rem]">
          <Field label="To the account of">
            {(ids) => <Input {...ids} required autoComplete="off" spellCheck={false} value={to} onChange={(event) => setTo(event.target.value)} placeholder="a principal" />}
          </Field>
          <Field label={`Amount, ${token.symbol}`} hint={`At most ${tokenAmount(most, token.decimals)}.`}>
            {(ids) => <Input {...ids} required inputMode="decimal" autoComplete="off" value={text} onChange={(event) => setText(event.target.value)} />}
          </Field>
        </div>
        <div className="flex items-center gap-3">
          <Button type="submit" busy={taking.isPending} disabled={!amount || amount > most || to.trim() === ""}>
            Take out
          </Button>
          {taking.isSuccess && <span role="status" className="text-sm text-good">On its way.</span>}
        </div>
      </form>
    </Panel>
  );
}

const ESCROWS: Record<string, [Tone, string]> = {
  Open: ["accent", "Held"],
  Released: ["good", "Paid"],
  Refunded: ["neutral", "Given back"],
  Disputed: ["warn", "Disputed"],
};

/** What the wallet paid, or holds back for a job. */
function Escrows({ holder, token }: { holder: Holder; token: types.LedgerInfo }) {
  const { econ } = useCanisters();
  const { principal } = useSignedIn();
  const escrows = useInfiniteQuery({
    queryKey: [principal.toText(), "econ", "escrows", holder.principal, token.args.canister.toText()],
    initialPageParam: undefined as bigint | undefined,
    queryFn: async ({ pageParam }) =>
      unwrap(await econ().escrows({ payer: idOf(holder, token), after: pageParam === undefined ? [] : [pageParam], limit: 25 })),
    getNextPageParam: (page) => optional(page.next),
  });
  return (
    <Panel title="Payments of this wallet">
      <Loaded query={escrows}>
        {({ pages }) => {
          const all = pages.flatMap((page) => page.escrows);
          if (all.length === 0) return <Empty title="None yet">What the holder pays, or puts aside for a job, appears here.</Empty>;
          return (
            <>
              <Table
                label="Payments"
                rows={all}
                keyOf={(escrow) => String(escrow.id)}
                columns={[
                  { title: "No.", cell: (escrow) => String(escrow.id) },
                  { title: "For", cell: (escrow) => ("Job" in escrow.args.purpose ? escrow.args.purpose.Job.job : "Transfer") },
                  { title: "To", wide: true, cell: (escrow) => <Id value={escrow.args.payee.toText()} label="principal" /> },
                  { title: "Amount", right: true, cell: (escrow) => `${tokenAmount(escrow.args.amount, token.decimals)} ${token.symbol}` },
                  {
                    title: "State",
                    cell: (escrow) => {
                      const [tone, words] = ESCROWS[tag(escrow.state)] ?? ["neutral", tag(escrow.state)];
                      return <Badge tone={tone}>{words}</Badge>;
                    },
                  },
                  { title: "Opened", wide: true, cell: (escrow) => <When date={dateOf(escrow.opened_ns)} /> },
                ]}
              />
              <More shown={all.length} hasMore={escrows.hasNextPage} busy={escrows.isFetchingNextPage} onMore={() => void escrows.fetchNextPage()} />
            </>
          );
        }}
      </Loaded>
      <DepositAccount holder={holder} />
    </Panel>
  );
}

/** Where others send tokens for this wallet. */
function DepositAccount({ holder }: { holder: Holder }) {
  const { econ } = useCanisters();
  const account = useQuery({ queryKey: ["deposit-account", holder.principal], staleTime: Infinity, queryFn: () => econ().deposit_account(Principal.fromText(holder.principal)) });
  if (!account.data) return null;
  const subaccount = optional(account.data.subaccount);
  return (
    <details className="mt-4">
      <summary className="text-sm text-ink-2">Paying in from elsewhere</summary>
      <p className="mt-2 mb-3 max-w-prose text-sm text-ink-2">Send tokens to this account of the ledger, then press “Look for deposits”.</p>
      <Facts
        facts={[
          ["Owner", <Id key="" value={account.data.owner.toText()} label="owner" />],
          ["Subaccount", subaccount ? <Id key="" value={hex(subaccount)} label="subaccount" /> : "none"],
        ]}
      />
    </details>
  );
}
