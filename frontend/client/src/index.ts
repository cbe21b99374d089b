/** Client of the OHMS canisters: actors, typed errors, pages, and what can be checked without trusting anybody. */

export { createActor, type CanisterName, type Services } from "./actors.ts";
export { checkAuditChain, type ChainCheck } from "./audit.ts";
export * as agentTypes from "./generated/agent.did.ts";
export * as factoryTypes from "./generated/agent-factory.did.ts";
export * as coordinatorTypes from "./generated/coordinator.did.ts";
export * as econTypes from "./generated/econ.did.ts";
export * as modelTypes from "./generated/model.did.ts";
export * as uiTypes from "./generated/ui.did.ts";
export { paymentSubaccount } from "./payment.ts";
export { hashOf, hashTokens, hex, sha256 } from "./hash.ts";
export { allPages, type Paged } from "./pages.ts";
export { replayCommands, verifyReceipt, type Check, type ReceiptEvidence } from "./receipt.ts";
export { CanisterError, optional, tag, unwrap, type Tag } from "./results.ts";
