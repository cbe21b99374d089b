import { Cbor, Certificate, type HashTree, LookupPathStatus, lookup_path, reconstruct } from "@icp-sdk/core/agent";
import { IDL } from "@icp-sdk/core/candid";
import type { Principal } from "@icp-sdk/core/principal";
import { ChatMessage, type CertifiedReceipt, type JobPrompt, Receipt } from "./generated/agent.did.ts";
import { equal, hashOf, hashTokens, hex, sha256 } from "./hash.ts";

/** Something that was checked about a receipt. */
export interface Check {
  /** What is claimed. */
  claim: string;
  /** Whether it holds; `undefined` if what is needed to check it is not kept any more. */
  holds: boolean | undefined;
  /** What was compared. */
  detail: string;
}

/** What a receipt is checked against. */
export interface ReceiptEvidence {
  /** The agent's answer. */
  certified: CertifiedReceipt;
  /** The agent's canister. */
  agent: Principal;
  /** The network's root key, DER. */
  rootKey: Uint8Array;
  /** What the job went on from, while the agent keeps it. */
  prompt?: JobPrompt | undefined;
  /** The generated tokens, while the agent keeps them. */
  tokens?: number[] | undefined;
  /** The generated text. */
  text?: string | undefined;
}

const found = (tree: HashTree, path: (string | Uint8Array)[]): Uint8Array | undefined => {
  const result = lookup_path(path, tree);
  return result.status === LookupPathStatus.Found ? result.value : undefined;
};

function sequenceLabel(sequence: bigint): Uint8Array {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, sequence);
  return new Uint8Array(view.buffer);
}

/** The root of the agent's hash tree that the network's certificate vouches for. */
async function certifiedData({ certified, agent, rootKey }: ReceiptEvidence): Promise<Uint8Array | string> {
  const [bytes] = certified.certificate;
  if (!bytes) return "the answer has no certificate: it was not asked for by a query";
  try {
    const certificate = await Certificate.create({
      certificate: Uint8Array.from(bytes),
      rootKey,
      principal: { canisterId: agent },
    });
    const data = certificate.lookup_path(["canister", agent.toUint8Array(), "certified_data"]);
    return data.status === LookupPathStatus.Found ? data.value : "the certificate does not name the agent";
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Checks all that a receipt claims, with this machine's own arithmetic. What can't be had any more is left undecided. */
export async function verifyReceipt(evidence: ReceiptEvidence): Promise<Check[]> {
  const { certified, agent, prompt, tokens, text } = evidence;
  const { receipt } = certified;
  const hash = hashOf(Receipt, receipt);
  const witness = Cbor.decode<HashTree>(Uint8Array.from(certified.witness));
  const root = await reconstruct(witness);
  const data = await certifiedData(evidence);
  const short = (bytes: Uint8Array | number[]) => `${hex(bytes).slice(0, 16)}…`;
  const compare = (claim: string, expected: Uint8Array | number[], actual: Uint8Array | undefined): Check => ({
    claim,
    holds: actual ? equal(expected, actual) : undefined,
    detail: actual
      ? equal(expected, actual)
        ? short(actual)
        : `receipt ${short(expected)}, recomputed ${short(actual)}`
      : "the agent does not keep it any more",
  });
  const promptHash = () => {
    if (!prompt) return undefined;
    const [messages] = prompt.messages;
    return messages ? hashOf(IDL.Vec(ChatMessage), messages) : sha256(prompt.prompt);
  };
  const inTree = found(witness, ["receipt", sequenceLabel(receipt.sequence)]);
  return [
    {
      claim: "The network certifies the agent's state",
      holds: typeof data === "string" ? false : equal(data, root),
      detail: typeof data === "string" ? data : `root of the hash tree ${short(root)}`,
    },
    {
      claim: "The agent certifies this receipt",
      holds: inTree !== undefined && equal(inTree, hash),
      detail: inTree ? `entry ${receipt.sequence} of the tree ${short(inTree)}` : "the tree does not have it",
    },
    compare("No field of the receipt was changed", certified.hash, hash),
    {
      claim: "It is this agent's",
      holds: receipt.agent.compareTo(agent) === "eq",
      detail: receipt.agent.toText(),
    },
    compare("The prompt is the one that was answered", receipt.prompt_sha256, promptHash()),
    compare("The tokens are the ones that were generated", receipt.tokens_sha256, tokens && hashTokens(tokens)),
    compare("The text is the one that was generated", receipt.text_sha256, text === undefined ? undefined : sha256(text)),
  ];
}

/** The commands that compute the tokens of a receipt again, natively. */
export function replayCommands(agent: Principal, jobId: bigint, network: string): string[] {
  return [
    `novaq receipt ${agent.toText()} ${jobId} --network ${network} --identity id.pem -o receipt.json`,
    "novaq replay receipt.json --model <DIR>",
  ];
}
