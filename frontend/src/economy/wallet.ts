// The person's own wallet, in a window of its own: OISY, or any that speaks ICRC-25, 27, 29 and 49.

import { Principal } from "@icp-sdk/core/principal";
import type { Environment } from "../env.ts";
import { type econTypes as types, paymentSubaccount } from "@ohms/client";

const DAY_NS = 86_400_000_000_000n;
/** Days that an allowance outlives what it is for, so that a late attempt is still paid. */
const GRACE_DAYS = 10n;

/** Loads the wallet's library; called early, so that the window opens within the moment that browsers allow it after a click. */
export async function loadWallet() {
  const { config } = await import("zod/v4/core");
  // The library checks messages by Zod, which would compile its checks: the pages' policy forbids that.
  config({ jitless: true });
  return import("@dfinity/oisy-wallet-signer/icrc-wallet");
}

type Wallet = Awaited<ReturnType<Awaited<ReturnType<typeof loadWallet>>["IcrcWallet"]["connect"]>>;

/** Where the wallet is, and where it reaches a local network. */
export type Place = Pick<Environment, "wallet" | "walletHost">;

/** Opens the wallet, has the person choose an account, does something with it, and closes it. */
async function withWallet<T>(place: Place, use: (wallet: Wallet, owner: string) => Promise<T>): Promise<T> {
  const { IcrcWallet } = await loadWallet();
  const wallet = await IcrcWallet.connect({ url: place.wallet, ...(place.walletHost && { host: place.walletHost }) });
  try {
    const { allPermissionsGranted } = await wallet.requestPermissionsNotGranted();
    if (!allPermissionsGranted) throw new Error("The wallet was not allowed to show its account or to pay.");
    const [account] = await wallet.accounts();
    if (!account) throw new Error("The wallet has no account.");
    return await use(wallet, account.owner);
  } finally {
    await wallet.disconnect();
  }
}

/** What the econ canister may take, at most and until when. */
export interface Allowance {
  amount: bigint;
  /** Nanoseconds since 1970. */
  expires: bigint;
}

/** Tokens, in their smallest unit, that are worth some cents, rounded up; without a rate a token is a dollar. */
export function tokensOf(cents: bigint, decimals: number, rate: types.Rate | undefined): bigint {
  const value = cents * 10n ** BigInt(decimals + (rate?.decimals ?? 0));
  const divisor = 100n * (rate?.rate ?? 1n);
  return (value + divisor - 1n) / divisor;
}

/**
 * The allowance for some periods of a tier, with the ledger's fee for each: what the quote says for the first one if it is paid `now`,
 * and the full price for the others. `time` is nanoseconds since 1970.
 */
export function allowanceFor(terms: types.Terms, quote: types.Quote, decimals: number, periods: number, paysNow: boolean, time: bigint): Allowance {
  const full = tokensOf(terms.price_cents, decimals, quote.rate[0]) + quote.fee;
  const first = paysNow ? quote.amount + quote.fee : full;
  const days = BigInt(terms.period_days * periods) + GRACE_DAYS;
  return { amount: first + BigInt(periods - 1) * full, expires: time + days * DAY_NS };
}

/**
 * The allowance that pays an open invoice and leaves enough for two renewals, with the ledger's fee for each: an approval takes the place of
 * the one before.
 */
export function allowanceForInvoice(invoice: types.Invoice, { decimals, fee }: Pick<types.LedgerInfo, "decimals" | "fee">, time: bigint): Allowance {
  const { terms, total_cents } = invoice;
  const rate = invoice.rate[0];
  const due = (invoice.amount[0] ?? tokensOf(total_cents, decimals, rate)) + fee;
  const renewals = 2n * (tokensOf(terms.price_cents, decimals, rate) + fee);
  return { amount: due + renewals, expires: time + (BigInt(terms.period_days * 3) + GRACE_DAYS) * DAY_NS };
}

/** Has the wallet approve that the econ canister takes tokens for `user`; the payment method that comes of it. */
export function approve(place: Place, econ: string, user: Principal, ledger: Principal, allowance: Allowance): Promise<types.PaymentMethod> {
  return withWallet(place, async (wallet, owner) => {
    await wallet.approve({
      owner,
      ledgerCanisterId: ledger.toText(),
      params: {
        spender: { owner: Principal.fromText(econ), subaccount: [paymentSubaccount(user)] },
        amount: allowance.amount,
        expires_at: allowance.expires,
      },
    });
    return { ledger, from: { owner: Principal.fromText(owner), subaccount: [] } };
  });
}

/** Has the wallet send tokens to an account; the account that they came from. */
export function transfer(place: Place, ledger: Principal, to: types.Account, amount: bigint): Promise<string> {
  return withWallet(place, async (wallet, owner) => {
    await wallet.transfer({ owner, ledgerCanisterId: ledger.toText(), params: { to, amount } });
    return owner;
  });
}
