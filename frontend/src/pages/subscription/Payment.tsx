import { useQuery } from "@tanstack/react-query";
import { CanisterError, type econTypes as types, optional, unwrap } from "@ohms/client";
import { useRef, useState } from "react";
import { Loaded } from "../../components/Loaded.tsx";
import { Button, Empty, ErrorNotice, Facts, Field, Notice, Select } from "../../components/ui.tsx";
import { dollars, tokenAmount, usable } from "../../economy/words.ts";
import { allowanceFor, approve } from "../../economy/wallet.ts";
import { count } from "../../format.ts";
import { useCanisters, useSignedIn } from "../../session.tsx";
import { useEconAction } from "./TierPage.tsx";

/** For how many periods a wallet approves in advance. */
const PERIODS = [1, 3, 12];
const nowNs = () => BigInt(Date.now()) * 1_000_000n;

/** From a tier to a payment: what it costs, the wallet's approval, and the subscription or its change. */
export function Payment({
  terms,
  summary,
  ledgers,
  renewalsOnly = false,
  onDone,
}: {
  terms: types.Terms;
  summary: types.AccountSummary;
  ledgers: types.LedgerInfo[];
  /** Only approves what renewals take, and remembers the account. */
  renewalsOnly?: boolean;
  onDone: () => void;
}) {
  const { econ, id } = useCanisters();
  const { environment, principal } = useSignedIn();
  const [ledgerId, setLedgerId] = useState(() => (optional(summary.method)?.ledger ?? ledgers[0]?.args.canister)?.toText());
  const [periods, setPeriods] = useState(3);
  const [time, setTime] = useState<"Now" | "Renewal">("Now");
  // The same request sent again is the same invoice.
  const key = useRef(crypto.randomUUID());
  const ledger = ledgers.find(({ args }) => args.canister.toText() === ledgerId);
  const current = usable(summary.subscription) ? summary.subscription.period[0]?.terms : undefined;
  const isUpgrade = current !== undefined && terms.price_cents > current.price_cents;
  const paysNow = !renewalsOnly && (!current || (isUpgrade && time === "Now"));

  const quote = useQuery({
    queryKey: [principal.toText(), "quote", terms.tier, ledgerId],
    enabled: ledger !== undefined && (paysNow || renewalsOnly),
    staleTime: 60_000,
    queryFn: async (): Promise<types.Quote> => {
      if (!ledger) throw new Error("there is no ledger to pay with");
      return unwrap(await econ().quote({ tier: terms.tier, ledger: ledger.args.canister }));
    },
  });
  const refuseVoid = (invoice: types.Invoice | undefined) => {
    if (!invoice || !("Void" in invoice.state)) return;
    // What is asked for next is another invoice.
    key.current = crypto.randomUUID();
    throw new CanisterError({ PaymentFailed: { reason: invoice.state.Void.reason } });
  };
  const allowance = (it: types.Quote) => allowanceFor(terms, it, ledger?.decimals ?? 0, periods, paysNow, nowNs());
  const action = useEconAction(async () => {
    const needsWallet = paysNow || renewalsOnly;
    let method: types.PaymentMethod | undefined;
    if (needsWallet) {
      if (!ledger || !quote.data) throw new Error("The price is not known yet: try again in a moment.");
      method = await approve(environment, id("econ"), principal, ledger.args.canister, allowance(quote.data));
    }
    if (renewalsOnly) {
      if (method) unwrap(await econ().set_payment_method(method));
    } else if (!current) {
      if (method) refuseVoid(unwrap(await econ().subscribe({ key: key.current, tier: terms.tier, method })));
    } else {
      if (method) unwrap(await econ().set_payment_method(method));
      const changed = unwrap(await econ().change_tier({ key: key.current, tier: terms.tier, time: time === "Now" ? { Now: null } : { Renewal: null } }));
      refuseVoid(optional(changed));
    }
    onDone();
  });

  if (ledgers.length === 0) return <Empty title="No token is taken yet">An admin has to add a ledger to the econ canister.</Empty>;
  const wallet = environment.local ? "the local wallet" : "OISY";
  return (
    <section aria-label={`Payment for ${terms.tier}`} className="grid gap-4">
      <h3 className="font-semibold">{renewalsOnly ? "Approve renewals" : current ? `Change to ${terms.tier}` : `Subscribe to ${terms.tier}`}</h3>
      {current && !renewalsOnly && (
        <fieldset className="grid gap-1.5 text-sm">
          <legend className="mb-1 font-medium">When</legend>
          {(["Now", "Renewal"] as const).map((value) => (
            <label key={value} className="flex items-start gap-2">
              <input type="radio" name={`time-${terms.tier}`} checked={time === value} onChange={() => setTime(value)} className="mt-1 accent-accent" />
              {value === "Renewal"
                ? "With the next period"
                : isUpgrade
                  ? "At once: you pay the difference for the rest of this period"
                  : "At once: the difference becomes credit for the next invoices"}
            </label>
          ))}
        </fieldset>
      )}
      {(paysNow || renewalsOnly) && (
        <>
          <div className="grid gap-4 sm:grid-cols-2">
            <Field label="Pay with">
              {(ids) => (
                <Select {...ids} value={ledgerId} onChange={(event) => setLedgerId(event.target.value)}>
                  {ledgers.map(({ args, symbol }) => (
                    <option key={args.canister.toText()} value={args.canister.toText()}>
                      {symbol}
                    </option>
                  ))}
                </Select>
              )}
            </Field>
            <Field label="Approve in advance" hint="Nothing is taken before it is due; you can cancel at any time.">
              {(ids) => (
                <Select {...ids} value={periods} onChange={(event) => setPeriods(Number(event.target.value))}>
                  {PERIODS.map((value) => (
                    <option key={value} value={value}>
                      {count(value, "period")} of {count(terms.period_days, "day")}
                    </option>
                  ))}
                </Select>
              )}
            </Field>
          </div>
          <Loaded query={quote}>
            {(it) => (
              <Facts
                facts={[
                  paysNow
                    ? ["You pay now", `${tokenAmount(it.amount, ledger?.decimals ?? 0)} ${ledger?.symbol ?? ""} (${dollars(it.cents)})`]
                    : ["A period costs", dollars(terms.price_cents)],
                  ["The ledger's fee", `${tokenAmount(it.fee, ledger?.decimals ?? 0)} ${ledger?.symbol ?? ""}`],
                  ["You approve at most", `${tokenAmount(allowance(it).amount, ledger?.decimals ?? 0)} ${ledger?.symbol ?? ""}`],
                ]}
              />
            )}
          </Loaded>
        </>
      )}
      {action.isPending && (paysNow || renewalsOnly) && <Notice>Go on in the window of {wallet}. It closes by itself when it is done.</Notice>}
      {action.error && <ErrorNotice error={action.error} onRetry={() => action.mutate()} />}
      <div className="flex flex-wrap gap-2">
        <Button look="primary" busy={action.isPending} disabled={(paysNow || renewalsOnly) && !quote.data} onClick={() => action.mutate()}>
          {paysNow || renewalsOnly ? `Approve with ${wallet}` : "Change the tier"}
        </Button>
        <Button disabled={action.isPending} onClick={onDone}>
          Not now
        </Button>
      </div>
    </section>
  );
}
