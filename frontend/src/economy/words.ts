import { type econTypes as types, tag } from "@ohms/client";
import { dateOf } from "../format.ts";
import type { Wording } from "../words.ts";

/** Cents as dollars. */
export function dollars(cents: bigint): string {
  return `$${(cents / 100n).toLocaleString("en")}.${String(cents % 100n).padStart(2, "0")}`;
}

/** Millionths of a cent as dollars, down to a thousandth of a cent. */
export function microcents(value: bigint): string {
  return `$${(Number(value) / 1e8).toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 5 })}`;
}

/** An amount of a token in its smallest unit, as people write it. */
export function tokenAmount(amount: bigint, decimals: number): string {
  const unit = 10n ** BigInt(decimals);
  const rest = (amount % unit).toString().padStart(decimals, "0").replace(/0+$/, "");
  return `${(amount / unit).toLocaleString("en")}${rest === "" ? "" : `.${rest}`}`;
}

/** What somebody wrote as an amount of a token, in its smallest unit; nothing if it is none. */
export function parseAmount(text: string, decimals: number): bigint | undefined {
  const match = /^(\d{1,18})(?:\.(\d*))?$/.exec(text.trim().replaceAll(",", ""));
  if (!match || (match[2]?.length ?? 0) > decimals) return undefined;
  return BigInt(match[1] ?? "0") * 10n ** BigInt(decimals) + BigInt((match[2] ?? "").padEnd(decimals, "0") || "0");
}

/** Where a subscription stands. */
export function subscriptionStatus(status: types.SubscriptionStatus): Wording {
  switch (tag(status)) {
    case "None":
      return { tone: "neutral", words: "Not subscribed" };
    case "Active":
      return { tone: "good", words: "Active" };
    case "PastDue":
      return { tone: "warn", words: "Payment is due" };
    case "Suspended":
      return { tone: "bad", words: "Suspended" };
    case "Cancelled":
      return { tone: "warn", words: "Cancelled" };
    case "Expired":
      return { tone: "neutral", words: "Expired" };
  }
}

/** Whether quota can be reserved on a subscription. */
export const usable = (it: types.Subscription) => ["Active", "PastDue", "Cancelled"].includes(tag(it.status));

/** What happens next, and when. */
export function nextStep(it: types.Subscription): string {
  const when = it.due_ns[0] === undefined ? "" : dateOf(it.due_ns[0]).toLocaleDateString("en", { dateStyle: "long" });
  switch (tag(it.status)) {
    case "None":
      return "Choose a tier to begin.";
    case "Active":
      return `Renews on ${when}${it.next_tier[0] ? ` as ${it.next_tier[0]}` : ""}.`;
    case "PastDue":
      return `The renewal is not paid. Pay before ${when}; after that nothing runs any more.`;
    case "Suspended":
      return `Nothing runs until the open invoice is paid${when ? `, at the latest on ${when}` : ""}.`;
    case "Cancelled":
      return `Ends on ${when} and is not renewed.`;
    case "Expired":
      return "It is over. Choose a tier to begin again.";
  }
}

const left = (limit: bigint, meter: types.Meter) => {
  const taken = meter.used + meter.reserved;
  return taken > limit ? 0n : limit - taken;
};

/** Tokens of the current period that are neither used nor reserved. */
export const tokensLeft = (it: types.AccountSummary) => left(it.subscription.period[0]?.tokens ?? 0n, it.tokens);

/** Agents that can be created now: within the period's creations and the number that may live. */
export function creationsLeft(it: types.AccountSummary): bigint {
  const period = it.subscription.period[0];
  if (!period) return 0n;
  const living = BigInt(period.terms.max_agents - it.agents - it.agents_reserved);
  const creations = left(period.creations, it.creations);
  return living < 0n ? 0n : living < creations ? living : creations;
}

/** What an invoice is for. */
export function invoiceKind(kind: types.InvoiceKind): string {
  switch (tag(kind)) {
    case "Subscription":
      return "First period";
    case "Renewal":
      return "Renewal";
    case "Upgrade":
      return "Higher tier";
  }
}

/** Where an invoice stands. */
export function invoiceState(invoice: types.Invoice): Wording {
  if (invoice.refund[0] && "Done" in invoice.refund[0]) return { tone: "neutral", words: "Refunded" };
  if ("Paid" in invoice.state) return { tone: "good", words: "Paid" };
  if ("Void" in invoice.state) return { tone: "neutral", words: "Void" };
  return invoice.last_failure.length > 0 ? { tone: "warn", words: "Open, last attempt failed" } : { tone: "accent", words: "Being paid", busy: true };
}
