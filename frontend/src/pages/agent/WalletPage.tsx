import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { Principal } from "@icp-sdk/core/principal";
import { type agentTypes as types, hex, optional, tag, unwrap } from "@ohms/client";
import { type FormEvent, useEffect, useRef, useState } from "react";
import { mayConfigure } from "../../agent/phases.ts";
import { useAgentAction, useBalance, usePayments, useWallet } from "../../agent/queries.ts";
import { paymentReason, paymentState } from "../../agent/words.ts";
import { Loaded } from "../../components/Loaded.tsx";
import { Badge, Button, ConfirmButton, Empty, ErrorNotice, Facts, Field, Id, Input, Loading, More, Notice, Panel, Select, Table, When } from "../../components/ui.tsx";
import { tokenOf } from "../../economy/ledger.ts";
import { useHasEconomy, useLedgers } from "../../economy/queries.ts";
import { loadWallet, transfer } from "../../economy/wallet.ts";
import { parseAmount, tokenAmount } from "../../economy/words.ts";
import { dateOf } from "../../format.ts";
import { useAgentStatus } from "../../queries.ts";
import { useSession, useSignedIn } from "../../session.tsx";
import { useAgentOfPage } from "../AgentLayout.tsx";

const PAGE = 20;

/** The agent's own account: what it has, may spend, and has paid. */
export function WalletPage() {
  const { canister } = useAgentOfPage();
  return canister ? <Wallet canister={canister} /> : <Loading />;
}

function Wallet({ canister }: { canister: string }) {
  const wallet = useWallet(canister);
  const status = useAgentStatus(canister);
  const payments = usePayments(canister);
  const hasEconomy = useHasEconomy();
  useEffect(() => {
    // Before it is needed: see `loadWallet`.
    loadWallet().catch(() => undefined);
  }, []);
  const phase = status.data && tag(status.data.phase);
  const waiting = payments.data?.filter(({ state }) => "AwaitingApproval" in state) ?? [];
  return (
    <Loaded query={wallet} lines={8}>
      {(it) => (
        <div className="grid gap-4">
          <p className="max-w-prose text-ink-2">
            This is the agent's own account at the tokens' ledgers: it can pay anybody from it, within limits that you set. What agents pay each other, or hold back for a job, comes from{" "}
            {hasEconomy ? (
              <Link to="/subscription/wallets" className="underline underline-offset-2">
                the wallets under Subscription
              </Link>
            ) : (
              "wallets of the econ canister"
            )}
            , which are other accounts.
          </p>
          {waiting.length > 0 && <Waiting canister={canister} payments={waiting} ledgers={it.ledgers} />}
          {it.ledgers.length === 0 && (
            <Panel title="Tokens">
              <Empty title="The agent knows no token yet">
                {phase && mayConfigure(phase) ? "Add one below, with limits of what the agent may spend. Then it has an account to put tokens into." : "In this phase of its life none can be added."}
              </Empty>
            </Panel>
          )}
          {it.ledgers.map((ledger) => (
            <LedgerPanel key={ledger.ledger.toText()} canister={canister} ledger={ledger} phase={phase} />
          ))}
          {phase === "Active" && it.ledgers.length > 0 && <Pay canister={canister} ledgers={it.ledgers} />}
          {phase && mayConfigure(phase) && <AddLedger canister={canister} known={it.ledgers.map(({ ledger }) => ledger.toText())} />}
          <Panel title="Payments">
            <Loaded query={payments}>{(all) => <PaymentList payments={all} ledgers={it.ledgers} />}</Loaded>
          </Panel>
          <Address canister={canister} wallet={it} />
        </div>
      )}
    </Loaded>
  );
}

const ledgerOf = (payment: types.PaymentRecord, ledgers: types.WalletLedger[]) => ledgers.find(({ ledger }) => ledger.toText() === payment.ledger.toText());

/** An amount of a payment; without its ledger, in the smallest unit. */
function amountOf(payment: types.PaymentRecord, ledgers: types.WalletLedger[]): string {
  const ledger = ledgerOf(payment, ledgers);
  return ledger ? `${tokenAmount(payment.amount, ledger.decimals)} ${ledger.symbol}` : `${payment.amount.toLocaleString("en")} units`;
}

/** Payments that projects asked for, beyond what the agent may decide. */
function Waiting({ canister, payments, ledgers }: { canister: string; payments: types.PaymentRecord[]; ledgers: types.WalletLedger[] }) {
  const approving = useAgentAction<bigint>(canister, async (agent, id) => unwrap(await agent.approve_payment(id)));
  const rejecting = useAgentAction<bigint>(canister, async (agent, id) => unwrap(await agent.reject_payment(id)));
  const error = approving.error ?? rejecting.error;
  return (
    <Panel title={payments.length === 1 ? "A payment waits for you" : `${payments.length} payments wait for you`}>
      <div className="grid gap-4">
        {error && <ErrorNotice error={error} />}
        <ul aria-label="Payments that wait" className="grid divide-y divide-line">
          {payments.slice(0, PAGE).map((payment) => (
            <li key={String(payment.id)} className="flex flex-wrap items-start justify-between gap-3 py-3 first:pt-0 last:pb-0">
              <div className="min-w-0">
                <p className="font-medium tabular-nums">{amountOf(payment, ledgers)}</p>
                <p className="max-w-prose break-words">{payment.purpose || "No purpose was given."}</p>
                <p className="text-sm text-ink-2">
                  To <Id value={payment.to.owner.toText()} label="principal" /> · asked for by <Id value={payment.caller.toText()} label="principal" /> ·{" "}
                  <When date={dateOf(payment.requested_at_ns)} />
                </p>
              </div>
              <div className="flex gap-2">
                <Button look="primary" busy={approving.isPending && approving.variables === payment.id} onClick={() => approving.mutate(payment.id)}>
                  Approve
                </Button>
                <Button look="danger" busy={rejecting.isPending && rejecting.variables === payment.id} onClick={() => rejecting.mutate(payment.id)}>
                  Reject
                </Button>
              </div>
            </li>
          ))}
        </ul>
        {payments.length > PAGE && <p className="text-sm text-ink-2">{payments.length - PAGE} more come when these are decided.</p>}
      </div>
    </Panel>
  );
}

function LedgerPanel({ canister, ledger, phase }: { canister: string; ledger: types.WalletLedger; phase: ReturnType<typeof tag<types.AgentPhase>> | undefined }) {
  const id = ledger.ledger.toText();
  const balance = useBalance(id, canister);
  const removing = useAgentAction(canister, async (agent) => unwrap(await agent.remove_ledger(ledger.ledger)));
  const show = (amount: bigint) => `${tokenAmount(amount, ledger.decimals)} ${ledger.symbol}`;
  const today = BigInt(Math.floor(Date.now() / 86_400_000));
  const spent = ledger.day === today ? ledger.spent : 0n;
  return (
    <Panel
      title={ledger.symbol}
      actions={
        <ConfirmButton label="Remove" title={`Remove ${ledger.symbol}?`} confirm="Remove it" dismiss="Keep it" busy={removing.isPending} onConfirm={() => removing.mutate()}>
          The agent forgets this ledger and its limits, and can't pay with the token any more. What it has there stays there: take it out first.
        </ConfirmButton>
      }
    >
      <div className="grid gap-5">
        {removing.error && <ErrorNotice error={removing.error} />}
        <Loaded query={balance} lines={1}>
          {(amount) => (
            <p>
              <span className="text-2xl font-semibold tabular-nums">{tokenAmount(amount, ledger.decimals)}</span> <span className="text-ink-2">{ledger.symbol}</span>
            </p>
          )}
        </Loaded>
        <Facts
          facts={[
            ["With one payment, at most", show(ledger.limits.per_payment)],
            ["In a day, at most", show(ledger.limits.per_day)],
            ["Asks you above", show(ledger.limits.approval_above)],
            ["Spent today", show(spent)],
            ["The ledger's fee", show(ledger.fee)],
            ["Ledger", <Id key="" value={id} label="ledger" />],
          ]}
        />
        <div className="grid gap-5 border-t border-line pt-5 md:grid-cols-2">
          <PutIn canister={canister} ledger={ledger} />
          <TakeOut canister={canister} ledger={ledger} balance={balance.data} />
        </div>
        {phase && mayConfigure(phase) && (
          <details className="border-t border-line pt-4">
            <summary className="text-sm text-ink-2">Change the limits</summary>
            <div className="mt-3">
              <LimitsForm
                key={[ledger.limits.per_payment, ledger.limits.per_day, ledger.limits.approval_above].join()}
                canister={canister}
                ledger={id}
                token={ledger}
                limits={ledger.limits}
                button="Set the limits"
              />
            </div>
          </details>
        )}
      </div>
    </Panel>
  );
}

function PutIn({ canister, ledger }: { canister: string; ledger: types.WalletLedger }) {
  const { environment } = useSignedIn();
  const [text, setText] = useState("");
  const amount = parseAmount(text, ledger.decimals);
  const paying = useAgentAction(canister, async () => {
    if (!amount) return;
    await transfer(environment, ledger.ledger, { owner: Principal.fromText(canister), subaccount: [] }, amount);
    setText("");
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    paying.mutate();
  };
  const name = environment.local ? "the local wallet" : "OISY";
  return (
    <form onSubmit={submit} className="grid content-start gap-3">
      <Field label={`Put in, ${ledger.symbol}`} hint="From your wallet, which opens in a window of its own.">
        {(ids) => <Input {...ids} required inputMode="decimal" autoComplete="off" value={text} onChange={(event) => setText(event.target.value)} className="max-w-40" />}
      </Field>
      {paying.isPending && <Notice>Go on in the window of {name}. It closes by itself when it is done.</Notice>}
      {paying.error && <ErrorNotice error={paying.error} />}
      <div>
        <Button type="submit" look="primary" busy={paying.isPending} disabled={!amount}>
          Pay with {name}
        </Button>
      </div>
    </form>
  );
}

function TakeOut({ canister, ledger, balance }: { canister: string; ledger: types.WalletLedger; balance: bigint | undefined }) {
  const [text, setText] = useState("");
  // The same request sent again is the same withdrawal.
  const key = useRef(crypto.randomUUID());
  const all = text.trim() === "";
  const amount = all ? undefined : parseAmount(text, ledger.decimals);
  const most = balance === undefined ? undefined : balance > ledger.fee ? balance - ledger.fee : 0n;
  const taking = useAgentAction(canister, async (agent) => {
    const payment = unwrap(await agent.withdraw({ key: key.current, ledger: ledger.ledger, subaccount: [], amount: amount === undefined ? [] : [amount] }));
    key.current = crypto.randomUUID();
    setText("");
    return payment;
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    taking.mutate();
  };
  const tooMuch = most !== undefined && amount !== undefined && amount > most;
  return (
    <form onSubmit={submit} className="grid content-start gap-3">
      <Field
        label={`Take out, ${ledger.symbol}`}
        hint={most === undefined ? "Empty: all there is." : `Empty: all there is, ${tokenAmount(most, ledger.decimals)} after the fee. It goes to your own account, which no limit holds back.`}
      >
        {(ids) => <Input {...ids} inputMode="decimal" autoComplete="off" value={text} onChange={(event) => setText(event.target.value)} className="max-w-40" />}
      </Field>
      {taking.error && <ErrorNotice error={taking.error} />}
      {taking.data && !taking.isPending && (
        <Notice tone={"Failed" in taking.data.state ? "bad" : "good"}>
          {"Failed" in taking.data.state ? (
            <>Nothing was taken out: {taking.data.state.Failed.reason}.</>
          ) : (
            <>
              {tokenAmount(taking.data.amount, ledger.decimals)} {ledger.symbol} {"Done" in taking.data.state ? "are" : "go"} to your own account. You find them, and send them on, under{" "}
              <Link to="/account" className="underline underline-offset-2">
                Account
              </Link>
              .
            </>
          )}
        </Notice>
      )}
      <div>
        <Button type="submit" busy={taking.isPending} disabled={most === 0n || tooMuch || (!all && !amount)}>
          {all ? "Take all out" : "Take out"}
        </Button>
      </div>
    </form>
  );
}

/** Limits of a ledger that the agent knows, or is to know. */
function LimitsForm({
  canister,
  ledger,
  token,
  limits,
  button,
}: {
  canister: string;
  ledger: string;
  token: { symbol: string; decimals: number };
  limits?: types.SpendingLimits;
  button: string;
}) {
  const show = (amount: bigint | undefined) => (amount === undefined ? "" : tokenAmount(amount, token.decimals));
  const [once, setOnce] = useState(show(limits?.per_payment));
  const [daily, setDaily] = useState(show(limits?.per_day));
  const [above, setAbove] = useState(show(limits?.approval_above));
  const read = (text: string) => parseAmount(text, token.decimals);
  const wanted = { per_payment: read(once), per_day: read(daily), approval_above: read(above) };
  const complete = wanted.per_payment !== undefined && wanted.per_day !== undefined && wanted.approval_above !== undefined;
  const setting = useAgentAction(canister, async (agent) => {
    const { per_payment, per_day, approval_above } = wanted;
    if (per_payment === undefined || per_day === undefined || approval_above === undefined) return;
    unwrap(await agent.set_ledger({ ledger: Principal.fromText(ledger), limits: { per_payment, per_day, approval_above } }));
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    setting.mutate();
  };
  return (
    <form onSubmit={submit} className="grid gap-4">
      {setting.error && <ErrorNotice error={setting.error} />}
      <div className="grid gap-4 sm:grid-cols-3">
        <Field label={`With one payment, ${token.symbol}`} hint="The fee counts, too.">
          {(ids) => <Input {...ids} required inputMode="decimal" autoComplete="off" value={once} onChange={(event) => setOnce(event.target.value)} placeholder="1" />}
        </Field>
        <Field label={`In a day, ${token.symbol}`} hint="A day of UTC.">
          {(ids) => <Input {...ids} required inputMode="decimal" autoComplete="off" value={daily} onChange={(event) => setDaily(event.target.value)} placeholder="5" />}
        </Field>
        <Field label={`Asks you above, ${token.symbol}`} hint="What projects ask for beyond this waits for you.">
          {(ids) => <Input {...ids} required inputMode="decimal" autoComplete="off" value={above} onChange={(event) => setAbove(event.target.value)} placeholder="0.5" />}
        </Field>
      </div>
      <div>
        <Button type="submit" busy={setting.isPending} disabled={!complete}>
          {button}
        </Button>
      </div>
    </form>
  );
}

function AddLedger({ canister, known }: { canister: string; known: string[] }) {
  const hasEconomy = useHasEconomy();
  const { agent, principal } = useSession();
  const offered = useLedgers(hasEconomy);
  const choices = (offered.data ?? []).filter(({ args }) => !known.includes(args.canister.toText()));
  const [chosen, setChosen] = useState("");
  const [typed, setTyped] = useState("");
  const other = choices.length === 0 || chosen === "other";
  const ledger = other ? typed.trim() : chosen || (choices[0]?.args.canister.toText() ?? "");
  const valid = /^[a-z0-9]{5}(-[a-z0-9]{3,5})+$/.test(ledger) && !known.includes(ledger);
  const token = useQuery({ queryKey: [principal?.toText() ?? "anonymous", "token", ledger], enabled: valid, retry: false, staleTime: 60_000, queryFn: () => tokenOf(agent, ledger) });
  return (
    <Panel title={known.length > 0 ? "Add another token" : "Add a token"}>
      <div className="grid gap-4">
        <div className="grid gap-4 sm:grid-cols-2">
          {choices.length > 0 && (
            <Field label="Token">
              {(ids) => (
                <Select {...ids} value={other ? "other" : ledger} onChange={(event) => setChosen(event.target.value)}>
                  {choices.map(({ args, symbol }) => (
                    <option key={args.canister.toText()} value={args.canister.toText()}>
                      {symbol}
                    </option>
                  ))}
                  <option value="other">Another one</option>
                </Select>
              )}
            </Field>
          )}
          {other && (
            <Field label="Ledger" hint="The canister id of an ICRC-1 ledger.">
              {(ids) => <Input {...ids} autoComplete="off" spellCheck={false} value={typed} onChange={(event) => setTyped(event.target.value)} placeholder="ryjl3-tyaaa-aaaaa-aaaba-cai" />}
            </Field>
          )}
        </div>
        {valid && (
          <Loaded query={token} lines={2}>
            {(it) => <LimitsForm key={ledger} canister={canister} ledger={ledger} token={it} button={`Add ${it.symbol}`} />}
          </Loaded>
        )}
      </div>
    </Panel>
  );
}

/** A payment that the owner has the agent make. */
function Pay({ canister, ledgers }: { canister: string; ledgers: types.WalletLedger[] }) {
  const [chosen, setChosen] = useState("");
  const [to, setTo] = useState("");
  const [text, setText] = useState("");
  const [purpose, setPurpose] = useState("");
  const key = useRef(crypto.randomUUID());
  const ledger = ledgers.find((it) => it.ledger.toText() === chosen) ?? ledgers[0];
  const amount = ledger && parseAmount(text, ledger.decimals);
  const paying = useAgentAction(canister, async (agent) => {
    if (!ledger || !amount) return undefined;
    const account = { owner: Principal.fromText(to.trim()), subaccount: [] as [] };
    const payment = unwrap(await agent.pay({ key: key.current, ledger: ledger.ledger, to: account, amount, memo: [], purpose: purpose.trim() }));
    key.current = crypto.randomUUID();
    setText("");
    setPurpose("");
    return payment;
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    paying.mutate();
  };
  if (!ledger) return null;
  return (
    <Panel title="Have it pay">
      <form onSubmit={submit} className="grid gap-4">
        {paying.error && <ErrorNotice error={paying.error} />}
        {paying.data && !paying.isPending && (
          <Notice tone={"Failed" in paying.data.state ? "bad" : "good"}>
            {"Failed" in paying.data.state ? `The ledger refused it: ${paying.data.state.Failed.reason}.` : `Payment ${paying.data.id}: ${paymentState(paying.data).words.toLowerCase()}.`}
          </Notice>
        )}
        <div className="grid gap-4 sm:grid-cols-2">
          <Field label="Whom" hint="A principal: a person's, or another agent's canister.">
            {(ids) => <Input {...ids} required autoComplete="off" spellCheck={false} value={to} onChange={(event) => setTo(event.target.value)} />}
          </Field>
          <Field label="What for">
            {(ids) => <Input {...ids} maxLength={120} autoComplete="off" value={purpose} onChange={(event) => setPurpose(event.target.value)} />}
          </Field>
          <Field label={ledgers.length > 1 ? "Amount" : `Amount, ${ledger.symbol}`} hint={`The fee of ${tokenAmount(ledger.fee, ledger.decimals)} comes on top.`}>
            {(ids) => <Input {...ids} required inputMode="decimal" autoComplete="off" value={text} onChange={(event) => setText(event.target.value)} />}
          </Field>
          {ledgers.length > 1 && (
            <Field label="Token to pay with">
              {(ids) => (
                <Select {...ids} value={ledger.ledger.toText()} onChange={(event) => setChosen(event.target.value)}>
                  {ledgers.map((it) => (
                    <option key={it.ledger.toText()} value={it.ledger.toText()}>
                      {it.symbol}
                    </option>
                  ))}
                </Select>
              )}
            </Field>
          )}
        </div>
        <div>
          <Button type="submit" busy={paying.isPending} disabled={!amount || to.trim() === ""}>
            Pay
          </Button>
        </div>
      </form>
    </Panel>
  );
}

function PaymentList({ payments, ledgers }: { payments: types.PaymentRecord[]; ledgers: types.WalletLedger[] }) {
  const [shown, setShown] = useState(PAGE);
  if (payments.length === 0) return <Empty title="None yet">What the agent pays, and what you take out, appears here.</Empty>;
  return (
    <>
      <Table
        label="Payments"
        rows={payments.slice(0, shown)}
        keyOf={(payment) => String(payment.id)}
        columns={[
          { title: "No.", cell: (payment) => String(payment.id) },
          { title: "For", cell: (payment) => <span className="break-words">{"Withdrawal" in payment.kind ? "Taken out by you" : payment.purpose || "no purpose given"}</span> },
          { title: "To", wide: true, cell: (payment) => <Id value={payment.to.owner.toText()} label="principal" /> },
          { title: "Amount", right: true, cell: (payment) => <span className="whitespace-nowrap">{amountOf(payment, ledgers)}</span> },
          { title: "State", cell: (payment) => <PaymentBadge payment={payment} /> },
          { title: "Asked for", wide: true, cell: (payment) => <When date={dateOf(payment.requested_at_ns)} /> },
        ]}
      />
      <More shown={Math.min(shown, payments.length)} hasMore={payments.length > shown} busy={false} onMore={() => setShown(shown + PAGE)} />
    </>
  );
}

function PaymentBadge({ payment }: { payment: types.PaymentRecord }) {
  const { tone, words, busy } = paymentState(payment);
  const reason = paymentReason(payment);
  return (
    <span className="grid justify-items-start gap-0.5">
      <Badge tone={tone} busy={busy ?? false}>
        {words}
      </Badge>
      {reason && <span className="text-xs break-words text-ink-2">{reason}</span>}
    </span>
  );
}

/** Where others send tokens. */
function Address({ canister, wallet }: { canister: string; wallet: types.Wallet }) {
  const asking = useAgentAction(canister, async (agent) => unwrap(await agent.wallet_address()));
  const address = optional(wallet.address);
  return (
    <Panel
      title="Addresses"
      actions={
        !address && (
          <Button busy={asking.isPending} onClick={() => asking.mutate()}>
            Ask for its key
          </Button>
        )
      }
    >
      <div className="grid gap-4">
        {asking.error && <ErrorNotice error={asking.error} />}
        <Facts
          facts={[
            ["Account at every ICRC-1 ledger", <Id key="" value={wallet.account.owner.toText()} label="account" />],
            ...(address
              ? ([
                  ["Ethereum address", <Id key="" value={address.ethereum} label="Ethereum address" />],
                  ["Public key", <Id key="" value={hex(address.public_key)} label="public key" />],
                  ["Key of the network", address.key_name],
                ] as [string, React.ReactNode][])
              : []),
          ]}
        />
        <p className="max-w-prose text-sm text-ink-2">
          {address
            ? "The key is held by the network's nodes together (threshold ECDSA); nobody has it whole. The agent can't send from this address yet: don't send coins to it."
            : "The network's nodes hold a key for each agent together (threshold ECDSA). Asking for it shows the agent's Ethereum address."}
        </p>
      </div>
    </Panel>
  );
}
