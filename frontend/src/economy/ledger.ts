// Ledgers of ICRC-1 tokens, called by the session's own identity. The library is loaded when it is needed.

import type { HttpAgent } from "@icp-sdk/core/agent";
import { Principal } from "@icp-sdk/core/principal";
import { CanisterError } from "@ohms/client";

/** What a ledger says of its token. */
export interface Token {
  symbol: string;
  decimals: number;
  /** What a transfer costs, in the smallest unit. */
  fee: bigint;
}

async function ledgerOf(agent: HttpAgent, ledger: string) {
  const library = await import("@icp-sdk/canisters/ledger/icrc");
  return { ...library, canister: library.IcrcLedgerCanister.create({ agent, canisterId: Principal.fromText(ledger) }) };
}

/** What an account without a subaccount has, in the smallest unit. */
export async function balanceOf(agent: HttpAgent, ledger: string, owner: string): Promise<bigint> {
  const { canister } = await ledgerOf(agent, ledger);
  return canister.balance({ owner: Principal.fromText(owner), certified: false });
}

/** What the token is. */
export async function tokenOf(agent: HttpAgent, ledger: string): Promise<Token> {
  const { canister, mapTokenMetadata } = await ledgerOf(agent, ledger);
  const token = mapTokenMetadata(await canister.metadata({ certified: false }));
  if (!token) throw new Error("This canister is no ledger of an ICRC-1 token: it has no name, symbol or fee.");
  return { symbol: token.symbol, decimals: token.decimals, fee: token.fee };
}

/**
 * Sends tokens of the session's own account; the fee comes on top. `createdAt`, nanoseconds since 1970, is how the ledger tells a
 * repetition: the same transfer with the same time is executed once.
 */
export async function send(agent: HttpAgent, ledger: string, to: string, amount: bigint, createdAt: bigint): Promise<bigint> {
  const { canister, IcrcTransferError } = await ledgerOf(agent, ledger);
  try {
    return await canister.transfer({ to: { owner: Principal.fromText(to), subaccount: [] }, amount, created_at_time: createdAt });
  } catch (error) {
    const refusal: unknown = error instanceof IcrcTransferError ? error.errorType : undefined;
    // The answer to the first one was lost; this is it.
    if (refusal && typeof refusal === "object" && "Duplicate" in refusal) return (refusal as { Duplicate: { duplicate_of: bigint } }).Duplicate.duplicate_of;
    throw refusal && typeof refusal === "object" ? new CanisterError(refusal) : error;
  }
}
