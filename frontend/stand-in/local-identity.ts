import { Ed25519KeyIdentity } from "@icp-sdk/core/identity";
import { sha256 } from "@ohms/client";

/** What makes a name an identity; `demo/src/network.rs` has the same words. */
const DOMAIN = "ohms local identity: ";

/** The identity of a name on local networks. Everybody knows it. */
export function localIdentity(name: string): Ed25519KeyIdentity {
  return Ed25519KeyIdentity.generate(sha256(DOMAIN + name));
}
