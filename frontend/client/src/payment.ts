import type { Principal } from "@icp-sdk/core/principal";
import { concat, sha256 } from "./hash.ts";

/**
 * The subaccount of the econ canister that draws on what a wallet has approved for `user`, and nobody else
 * (`payment_subaccount` in `shared-types/src/econ/payment.rs`).
 */
export function paymentSubaccount(user: Principal): Uint8Array {
  return sha256(concat([new TextEncoder().encode("\x0cohms-payment"), user.toUint8Array()]));
}
