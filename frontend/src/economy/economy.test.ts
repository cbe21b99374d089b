import { Principal } from "@icp-sdk/core/principal";
import { type econTypes as types, hex, paymentSubaccount } from "@ohms/client";
import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { tiersAt } from "./queries.ts";
import { daysOf } from "./usage.ts";
import { allowanceFor, allowanceForInvoice, tokensOf } from "./wallet.ts";
import { creationsLeft, dollars, microcents, parseAmount, tokenAmount, tokensLeft } from "./words.ts";

test("money reads like a person wrote it, and is read back exactly", () => {
  expect(dollars(2_900n)).toBe("$29.00");
  expect(dollars(123_456_705n)).toBe("$1,234,567.05");
  expect(microcents(123_400_000n)).toBe("$1.234");
  expect(tokenAmount(29_010_000n, 6)).toBe("29.01");
  expect(tokenAmount(5n, 6)).toBe("0.000005");
  for (const amount of [0n, 1n, 999_999n, 1_000_000n, 123_456_789_012n]) expect(parseAmount(tokenAmount(amount, 6), 6)).toBe(amount);
  expect(parseAmount("7", 0)).toBe(7n);
  for (const wrong of ["", "-1", "1.2345678", "1e3", "ten", "1.2.3"]) expect(parseAmount(wrong, 6), wrong).toBeUndefined();
});

test("tokens are worth the cents, rounded up", () => {
  expect(tokensOf(2_900n, 6, undefined)).toBe(29_000_000n);
  // $29 at $4.50 a token of 8 digits: 6.44444445.
  expect(tokensOf(2_900n, 8, { rate: 4_500_000_000n, decimals: 9, time_ns: 0n })).toBe(644_444_445n);
  expect(tokensOf(1n, 1, undefined)).toBe(1n);
});

const terms = { tier: "Basic", price_cents: 2_900n, period_days: 30, max_agents: 5, creations: 10, tokens: 100_000n, overdraft_tokens: 0n, rate_class: { Standard: null } };

test("an allowance covers the periods, their fees, and no more", () => {
  const quote: types.Quote = { tier: "Basic", ledger: Principal.managementCanister(), cents: 900n, amount: 9_000_000n, fee: 10_000n, rate: [], expires_ns: 0n };
  expect(allowanceFor(terms, quote, 6, 1, true, 0n).amount).toBe(9_010_000n);
  expect(allowanceFor(terms, quote, 6, 3, true, 0n).amount).toBe(9_010_000n + 2n * 29_010_000n);
  expect(allowanceFor(terms, quote, 6, 3, false, 0n)).toEqual({ amount: 3n * 29_010_000n, expires: 100n * 86_400_000_000_000n });
});

test("an allowance for an open invoice covers it and two renewals", () => {
  const invoice = { terms, total_cents: 7_000n, amount: [], rate: [] } as unknown as types.Invoice;
  const ledger = { decimals: 6, fee: 10_000n };
  expect(allowanceForInvoice(invoice, ledger, 0n)).toEqual({ amount: 70_010_000n + 2n * 29_010_000n, expires: 100n * 86_400_000_000_000n });
  expect(allowanceForInvoice({ ...invoice, amount: [5n] }, ledger, 0n).amount).toBe(10_005n + 2n * 29_010_000n);
});

test("the subaccount that draws on an allowance is that of the user", () => {
  const user = Principal.fromText("rrkah-fqaaa-aaaaa-aaaaq-cai");
  const expected = createHash("sha256").update("\x0cohms-payment").update(user.toUint8Array()).digest("hex");
  expect(hex(paymentSubaccount(user))).toBe(expected);
});

test("of a tier's versions the one counts that began last", () => {
  const version = (tier: string, price_cents: bigint, effective_ns: bigint): types.TierVersion => ({ terms: { ...terms, tier, price_cents }, effective_ns });
  const { tiers, announced } = tiersAt([version("Pro", 9_900n, 0n), version("Basic", 2_900n, 0n), version("Basic", 3_900n, 5n), version("Basic", 4_900n, 90n)], 10n);
  expect(tiers.map(({ tier, price_cents }) => [tier, price_cents])).toEqual([["Basic", 3_900n], ["Pro", 9_900n]]);
  expect(announced.map(({ terms }) => terms.price_cents)).toEqual([4_900n]);
});

test("what is left is neither used nor reserved, and never less than nothing", () => {
  const period = { terms, start_ns: 0n, end_ns: 1n, tokens: 100_000n, creations: 10n, number: 1 };
  const summary = {
    subscription: { status: { Active: null }, next_tier: [], due_ns: [], period: [period] },
    tokens: { used: 60_000n, reserved: 30_000n },
    creations: { used: 2n, reserved: 0n },
    agents: 3,
    agents_reserved: 1,
  } as unknown as types.AccountSummary;
  expect(tokensLeft(summary)).toBe(10_000n);
  expect(tokensLeft({ ...summary, tokens: { used: 100_500n, reserved: 0n } })).toBe(0n);
  // Five may live, and four do or will.
  expect(creationsLeft(summary)).toBe(1n);
  expect(creationsLeft({ ...summary, agents: 0, creations: { used: 7n, reserved: 1n } })).toBe(2n);
});

test("days without runs are there, too", () => {
  const day = 86_400_000_000_000n;
  const totals = { runs: 1n } as types.UsageTotals;
  expect(daysOf([{ start_ns: 7n * day, totals }], 5n, 4).map((it) => [it.day, it.totals?.runs])).toEqual([
    [5n, undefined],
    [6n, undefined],
    [7n, 1n],
    [8n, undefined],
  ]);
});
