import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type econTypes as types, hex, optional, tag, unwrap } from "@ohms/client";
import { useEffect, useState } from "react";
import { Loaded } from "../../components/Loaded.tsx";
import { Badge, Button, ConfirmButton, cx, ErrorNotice, Facts, Id, Notice, Panel, Progress } from "../../components/ui.tsx";
import { useAccount, useInvoices, useLedgers, useTiers } from "../../economy/queries.ts";
import { dollars, nextStep, subscriptionStatus, tokenAmount, usable } from "../../economy/words.ts";
import { allowanceForInvoice, approve, loadWallet } from "../../economy/wallet.ts";
import { compact, count, dateOf } from "../../format.ts";
import { useCanisters, useSignedIn } from "../../session.tsx";
import { Payment } from "./Payment.tsx";

/** What one has subscribed to, and what else there is. */
export function TierPage() {
  const account = useAccount();
  const tiers = useTiers();
  useEffect(() => {
    // Before it is needed: see `loadWallet`.
    loadWallet().catch(() => undefined);
  }, []);
  return (
    <Loaded query={account} lines={10}>
      {(summary) => (
        <div className="grid gap-4">
          <Standing summary={summary} />
          <Loaded query={tiers} lines={6}>
            {({ tiers, announced }) => <Tiers summary={summary} tiers={tiers} announced={announced} />}
          </Loaded>
          {summary.method.length > 0 && <Method summary={summary} />}
        </div>
      )}
    </Loaded>
  );
}

/** Does something to the caller's subscription, and reads it again. */
export function useEconAction<T = void, R = unknown>(action: (argument: T) => Promise<R>) {
  const queries = useQueryClient();
  const { principal } = useSignedIn();
  return useMutation({ mutationFn: action, onSettled: () => queries.invalidateQueries({ queryKey: [principal.toText(), "econ"] }) });
}

function Standing({ summary }: { summary: types.AccountSummary }) {
  const { econ } = useCanisters();
  const { subscription } = summary;
  const { tone, words } = subscriptionStatus(subscription.status);
  const period = optional(subscription.period);
  const cancel = useEconAction(async () => unwrap(await econ().cancel()));
  const resume = useEconAction(async () => unwrap(await econ().resume()));
  const error = cancel.error ?? resume.error;
  const status = tag(subscription.status);
  return (
    <Panel
      title={period && usable(subscription) ? period.terms.tier : "Your subscription"}
      actions={
        <>
          <Badge tone={tone}>{words}</Badge>
          {status === "Cancelled" && (
            <Button look="primary" busy={resume.isPending} onClick={() => resume.mutate()}>
              Take the cancellation back
            </Button>
          )}
          {(status === "Active" || status === "PastDue") && (
            <ConfirmButton
              label="Cancel subscription"
              title="Cancel your subscription?"
              confirm="Cancel it"
              dismiss="Keep it"
              busy={cancel.isPending}
              onConfirm={() => cancel.mutate()}
            >
              {status === "Active"
                ? "It goes on until the period that is paid ends, and is not renewed. Until then you can take the cancellation back."
                : "The period that has begun is not paid, so that it ends at once."}
            </ConfirmButton>
          )}
        </>
      }
    >
      <div className="grid gap-4">
        {error && <ErrorNotice error={error} />}
        <OpenInvoices />
        <p>{nextStep(subscription)}</p>
        {period && usable(subscription) && (
          <>
            <div className="grid gap-4 sm:grid-cols-3">
              <Meter name="Tokens" used={summary.tokens.used} reserved={summary.tokens.reserved} of={period.tokens} />
              <Meter name="Agents created" used={summary.creations.used} reserved={summary.creations.reserved} of={period.creations} />
              <Meter name="Agents that live" used={BigInt(summary.agents)} reserved={BigInt(summary.agents_reserved)} of={BigInt(period.terms.max_agents)} />
            </div>
            <Facts
              facts={[
                ["Period", `${dateOf(period.start_ns).toLocaleDateString("en")} to ${dateOf(period.end_ns).toLocaleDateString("en")}`],
                ["Price", `${dollars(period.terms.price_cents)} for ${count(period.terms.period_days, "day")}`],
                ...(summary.credit_cents > 0n ? [["Credit for the next invoices", dollars(summary.credit_cents)] as [string, string]] : []),
              ]}
            />
          </>
        )}
      </div>
    </Panel>
  );
}

function Meter({ name, used, reserved, of }: { name: string; used: bigint; reserved: bigint; of: bigint }) {
  const taken = used + reserved;
  return (
    <div className="grid gap-1">
      <span className="text-sm text-ink-2">{name}</span>
      <Progress done={Number(taken > of ? of : taken)} of={Number(of)} label={`${name}: ${taken} of ${of}`} />
      <span className="text-sm tabular-nums">
        {compact(used)} of {compact(of)} used{reserved > 0n ? `, ${compact(reserved)} reserved` : ""}
      </span>
    </div>
  );
}

/** Invoices that are not paid. */
function OpenInvoices() {
  const invoices = useInvoices();
  const open = invoices.data?.filter((invoice) => "Open" in invoice.state) ?? [];
  return open.map((invoice) => <OpenInvoice key={String(invoice.id)} invoice={invoice} />);
}

/** How an invoice stands that is not paid, and the ways to pay it. */
function OpenInvoice({ invoice }: { invoice: types.Invoice }) {
  const { econ, id } = useCanisters();
  const { environment, principal } = useSignedIn();
  const ledgers = useLedgers();
  const ledger = ledgers.data?.find(({ args }) => args.canister.toText() === invoice.method.ledger.toText());
  const failure = optional(invoice.last_failure);
  const again = useEconAction(async () => unwrap(await econ().pay({ invoice: invoice.id, method: [] })));
  const approving = useEconAction(async () => {
    if (!ledger) return;
    const allowance = allowanceForInvoice(invoice, ledger, BigInt(Date.now()) * 1_000_000n);
    const method = await approve(environment, id("econ"), principal, ledger.args.canister, allowance);
    unwrap(await econ().pay({ invoice: invoice.id, method: [method] }));
  });
  const error = again.error ?? approving.error;
  const busy = again.isPending || approving.isPending;
  const wallet = environment.local ? "the local wallet" : "OISY";
  return (
    <section aria-label={`Invoice ${invoice.id}`} className={cx("grid gap-3 rounded-md px-4 py-3 text-sm", failure ? "bg-warn-soft text-warn" : "bg-accent-soft")}>
      <p role="status">
        Invoice {String(invoice.id)}, {dollars(invoice.total_cents)}: {failure ? `not paid. ${failure}` : "is being paid."}
        {failure && optional(invoice.next_attempt_ns) !== undefined && ` The next attempt is on ${dateOf(invoice.next_attempt_ns[0] ?? 0n).toLocaleString("en")}.`}
      </p>
      {approving.isPending && <p>Go on in the window of {wallet}. It closes by itself when it is done.</p>}
      {error && <ErrorNotice error={error} />}
      {failure && (
        <div className="flex flex-wrap gap-2">
          <Button look="primary" busy={approving.isPending} disabled={busy || !ledger} onClick={() => approving.mutate()}>
            Approve more and pay
          </Button>
          <Button busy={again.isPending} disabled={busy} onClick={() => again.mutate()}>
            Try again now
          </Button>
        </div>
      )}
      {failure && ledger && (
        <p>
          “Approve more” has {wallet} allow {tokenAmount(allowanceForInvoice(invoice, ledger, 0n).amount, ledger.decimals)} {ledger.symbol} at most: this invoice and two renewals.
        </p>
      )}
    </section>
  );
}

const RATES = { Standard: "Standard speed", Priority: "Before standard work", Premium: "Before all other work" };

function Tiers({ summary, tiers, announced }: { summary: types.AccountSummary; tiers: types.Terms[]; announced: types.TierVersion[] }) {
  const ledgers = useLedgers();
  const [chosen, setChosen] = useState<types.Terms>();
  const current = usable(summary.subscription) ? summary.subscription.period[0]?.terms : undefined;
  return (
    <Panel title="Tiers">
      <ul className="grid gap-3 md:grid-cols-3">
        {tiers.map((terms) => {
          const isCurrent = terms.tier === current?.tier;
          return (
            <li key={terms.tier} className={cx("grid content-start gap-3 rounded-lg border p-4", isCurrent ? "border-accent bg-accent-soft" : "border-line")}>
              <div>
                <h3 className="font-semibold">{terms.tier}</h3>
                <p>
                  <span className="text-2xl font-semibold tabular-nums">{dollars(terms.price_cents).replace(/\.00$/, "")}</span>{" "}
                  <span className="text-sm text-ink-2">for {count(terms.period_days, "day")}</span>
                </p>
              </div>
              <ul className="grid gap-1 text-sm">
                <li>{count(terms.max_agents, "agent")} at a time</li>
                <li>{count(terms.creations, "creation")} a period</li>
                <li>{terms.tokens.toLocaleString("en")} tokens a period</li>
                <li>{RATES[tag(terms.rate_class)]}</li>
              </ul>
              {isCurrent ? (
                <p className="text-sm font-medium">Your tier</p>
              ) : (
                <Button look={current ? "plain" : "primary"} aria-expanded={chosen?.tier === terms.tier} onClick={() => setChosen(terms)}>
                  {current ? `Change to ${terms.tier}` : `Subscribe to ${terms.tier}`}
                </Button>
              )}
            </li>
          );
        })}
      </ul>
      {announced.length > 0 && (
        <ul className="mt-3 grid gap-1 text-sm text-ink-2">
          {announced.map(({ terms, effective_ns }) => (
            <li key={`${terms.tier}-${effective_ns}`}>
              From {dateOf(effective_ns).toLocaleDateString("en", { dateStyle: "long" })} on, {terms.tier} costs {dollars(terms.price_cents)} for new periods.
            </li>
          ))}
        </ul>
      )}
      {chosen && (
        <div className="mt-5 border-t border-line pt-5">
          <Loaded query={ledgers}>
            {(all) => <Payment key={chosen.tier} terms={chosen} summary={summary} ledgers={all} onDone={() => setChosen(undefined)} />}
          </Loaded>
        </div>
      )}
    </Panel>
  );
}

/** Who pays renewals. */
function Method({ summary }: { summary: types.AccountSummary }) {
  const method = optional(summary.method);
  const ledgers = useLedgers();
  const tiers = useTiers();
  const [changing, setChanging] = useState(false);
  if (!method) return null;
  const ledger = ledgers.data?.find(({ args }) => args.canister.toText() === method.ledger.toText());
  const subaccount = optional(method.from.subaccount);
  const next = optional(summary.subscription.next_tier) ?? summary.subscription.period[0]?.terms.tier;
  const terms = tiers.data?.tiers.find(({ tier }) => tier === next);
  return (
    <Panel title="Payment method" actions={terms && usable(summary.subscription) && <Button onClick={() => setChanging(!changing)}>Change or approve more</Button>}>
      <div className="grid gap-4">
        <Facts
          facts={[
            ["Token", ledger?.symbol ?? <Id key="" value={method.ledger.toText()} label="ledger" />],
            ["From the wallet", <Id key="" value={method.from.owner.toText()} label="account" />],
            ...(subaccount ? [["Subaccount", <Id key="" value={hex(subaccount)} label="subaccount" />] as [string, React.ReactNode]] : []),
          ]}
        />
        <p className="max-w-prose text-sm text-ink-2">
          Renewals are taken from what this wallet has approved. When that is used up or its time is over, approve more here.
        </p>
        {changing && terms && ledgers.data && (
          <Payment terms={terms} summary={summary} ledgers={ledgers.data} renewalsOnly onDone={() => setChanging(false)} />
        )}
      </div>
    </Panel>
  );
}
