import { CanisterError } from "@ohms/client";
import { dateOf, duration } from "./format.ts";

/** An error as a person reads it: what happened, and what to do. */
export interface Explanation {
  what: string;
  todo: string;
}

type Fields = Readonly<Record<string, unknown>>;

const number = (value: unknown) => Number(value ?? 0).toLocaleString("en");
const seconds = (ns: unknown) => duration(Number((ns as bigint | undefined) ?? 0n) / 1e6);
const day = (ns: unknown) => dateOf((ns as bigint | undefined) ?? 0n).toLocaleDateString("en", { dateStyle: "long" });
/** `OpenProjects` as words. */
const limit = (what: unknown) => alternative(what).replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase();
const alternative = (value: unknown) => Object.keys((value ?? {}) as object)[0] ?? "";

/** Why a change does not apply to a subscription. */
function refusal(fields: Fields): string {
  if ("WrongDirection" in fields) return "at once, a higher tier must be dearer and a lower one cheaper";
  if ("NotDue" in fields) return "the moment has not come";
  const status = (fields["WrongStatus"] as { status?: unknown } | undefined)?.status;
  return `it is ${alternative(status).toLowerCase() || "in another state"}`;
}

/** Sentences for the errors of the canisters, by the error's name. The fields are those of the Candid interface. */
const EXPLANATIONS: Record<string, (fields: Fields) => Explanation> = {
  Anonymous: () => ({ what: "You are not signed in.", todo: "Sign in and try again." }),
  Unauthorized: (f) => ({
    what: f["required"] ? `This needs the role ${alternative(f["required"])}.` : "This is not yours to do.",
    todo: "Ask an admin for the role, or sign in with the identity that has it.",
  }),
  InvalidField: (f) => ({ what: `${String(f["field"])}: ${String(f["reason"])}.`, todo: "Change this value and try again." }),
  InvalidManifest: (f) => ({
    what: `The manifest was refused: ${String(f["field"])} ${String(f["reason"])}.`,
    todo: "Compress the model again with this version of novaq.",
  }),
  QueueFull: (f) => ({ what: `${number(f["open_jobs"])} jobs are waiting already.`, todo: "Wait until some have ended, or cancel one." }),
  CallerQueueFull: (f) => ({ what: `You have ${number(f["open_jobs"])} jobs waiting already.`, todo: "Wait until some have ended, or cancel one." }),
  TextTooLong: (f) => ({ what: `Text ${number(f["index"])} has ${number(f["tokens"])} tokens, more than one call can take.`, todo: "Shorten it, or send the texts one by one." }),
  NotLoaded: () => ({ what: "The agent has not loaded its model yet.", todo: "Load it under Settings, then try again." }),
  NoEncoder: () => ({ what: "This model makes no vectors of texts.", todo: "Create an agent with an encoder." }),
  UnknownJob: () => ({ what: "The agent does not keep this job any more.", todo: "Its receipt may still be there: look under Receipts." }),
  UnknownReceipt: () => ({ what: "The agent does not keep this receipt any more.", todo: "The newer ones still prove it through the chain." }),
  JobEnded: () => ({ what: "The job has ended already.", todo: "Reload to see how." }),
  JobOpen: () => ({ what: "The job has not ended, so it has no receipt yet.", todo: "Wait for it, or cancel it." }),
  NoReceipt: () => ({ what: "This job ended before agents gave receipts.", todo: "Run it again for one." }),
  KeyReused: (f) => ({ what: `The name is taken by a request with another ${String(f["field"])}.`, todo: "Choose another name." }),
  UnknownAgent: (f) => ({ what: `You have no agent called “${String(f["key"] ?? f["name"])}”.`, todo: "It may have been deleted: see the list of your agents." }),
  TooManyAgents: (f) => ({ what: `You have ${number(f["agents"])} agents, as many as you may.`, todo: "Delete one that you don't need." }),
  Busy: (f) =>
    "retry_after_ns" in f
      ? { what: "The coordinator has as much to do as it can.", todo: `Try again in ${seconds(f["retry_after_ns"])}.` }
      : { what: "So much is going on that no more can begin.", todo: "Try again in a minute." },
  InProgress: () => ({ what: "This agent is being worked on.", todo: "Wait until it is done." }),
  OutOfCycles: () => ({ what: "The factory has too few cycles to create an agent.", todo: "An admin has to top it up." }),
  NoTemplate: () => ({ what: "No agent code has been published yet.", todo: "An admin has to upload a template to the factory." }),
  StepFailed: (f) => ({ what: `Creation stopped at the step “${alternative(f["step"])}”: ${String(f["reason"])}`, todo: "Try again: nothing is created twice." }),
  UnknownModel: () => ({ what: "The model is not in the catalogue.", todo: "Choose another model." }),
  WrongStatus: (f) => ({ what: `The model is ${alternative(f["status"]).toLowerCase()}, which does not allow this.`, todo: "Reload to see where it stands." }),
  ValidationFailed: (f) => ({ what: `Validation failed: ${String(f["reason"])}.`, todo: "See the report; compress and upload the model again." }),
  ValidationRunning: () => ({ what: "The canister is still reading the model.", todo: "Wait until it has been validated." }),
  ProposalClosed: (f) => ({ what: `Proposal ${String(f["id"])} is closed: ${alternative(f["state"]).toLowerCase()}.`, todo: "Reload to see what came of it." }),
  UnknownProposal: (f) => ({ what: `There is no proposal ${String(f["id"])} any more.`, todo: "See the list of proposals." }),
  ThresholdOutOfReach: (f) => ({ what: `There would be ${String(f["voters"])} voters for ${String(f["approvals"])} approvals.`, todo: "Lower the approvals that are needed first, or add voters." }),
  TooMany: (f) =>
    "most" in f
      ? { what: `That makes ${number(f["asked"])} ${limit(f["what"])}; at most ${number(f["most"])} are possible.`, todo: "Ask for less, or end some first." }
      : { what: `There are as many ${String(f["what"])} as there may be: ${number(f["limit"])}.`, todo: "Finish or drop some first." },
  NotValidated: () => ({ what: "The upload was not finished.", todo: "Run `novaq upload` again: it sends what is missing." }),
  Incomplete: (f) => ({ what: `${number(f["missing"] ?? f["missing_chunks"])} parts are still missing.`, todo: "Run the upload again: it sends what is missing." }),
  LastAdmin: () => ({ what: "This is the last admin.", todo: "Make somebody else an admin first." }),
  QuotaExceeded: (f) =>
    "resets_ns" in f
      ? {
          what: `Your subscription has ${number(f["available"])} ${String(f["resource"])} left, and this takes ${number(f["requested"])}.`,
          todo: `Take a larger tier under Subscription, or wait until ${day(f["resets_ns"])}.`,
        }
      : { what: "The uploader's storage is used up.", todo: "Discard uploads that are not needed." },
  Draft: () => ({ what: "The next part of this job can't be computed.", todo: "See why in the job itself." }),
  UnknownProject: (f) => ({ what: `You have no project ${String(f["project"])}.`, todo: "Old projects make room for new ones: see the list." }),
  UnknownTask: () => ({ what: "The project has no such task.", todo: "See the list of its tasks." }),
  UnknownRole: (f) => ({ what: `There is no role “${String(f["name"])}”.`, todo: "Choose one of the list, or define it first." }),
  UnknownConversation: () => ({ what: "This conversation is not kept any more.", todo: "Begin a new one." }),
  IdReused: () => ({ what: "Another message has this id.", todo: "Reload, then send it again." }),
  WrongProjectState: (f) => ({ what: `The project is in another state: ${alternative(f["state"]).toLowerCase()}.`, todo: "Reload to see where it stands." }),
  ProjectNotOver: (f) => ({ what: `Project ${String(f["project"])} is not over yet.`, todo: "Cancel it, or wait until its quota is settled; then try again." }),
  WrongTaskState: (f) => ({ what: `The task is in another state: ${alternative(f["state"]).toLowerCase()}.`, todo: "Reload to see where it stands." }),
  NoAnswer: (f) => ({ what: `Another canister did not answer: ${String(f["reason"])}.`, todo: "Try again in a minute." }),
  NotSubscribed: () => ({ what: "You have no subscription that can be used.", todo: "Choose a tier under Subscription." }),
  QuoteNeeded: () => ({ what: "The price in this token has changed meanwhile.", todo: "Try again for a new one." }),
  UnknownTier: (f) => ({ what: `There is no tier “${String(f["tier"])}”.`, todo: "Choose one of the list." }),
  UnknownLedger: () => ({ what: "Payments can't use this token.", todo: "Choose another one." }),
  LedgerUnavailable: (f) => ({ what: `The token's ledger does not answer: ${String(f["reason"])}.`, todo: "Try again in a minute." }),
  RateUnavailable: (f) => ({ what: `The token's price can't be had: ${String(f["reason"])}.`, todo: "Try again later, or pay with another token." }),
  InvoiceOpen: (f) => ({ what: `Invoice ${String(f["invoice"])} is still open.`, todo: "Pay it first, or wait until it is paid." }),
  UnknownInvoice: () => ({ what: "You have no such invoice.", todo: "See the list of your invoices." }),
  WrongInvoiceState: () => ({ what: "The invoice does not allow this now.", todo: "Reload to see where it stands." }),
  Subscription: (f) => ({ what: `Your subscription does not allow this now: ${refusal(f)}.`, todo: "Reload to see where it stands." }),
  InsufficientBalance: () => ({ what: "The wallet has less than that.", todo: "Put tokens in first, or choose a smaller amount." }),
  // An invoice that came to nothing.
  PaymentFailed: (f) => ({ what: `It could not be paid: ${String(f["reason"]).replace(/\.$/, "")}.`, todo: "Nothing was taken. Look at your wallet, then try again." }),
  // What ledgers say.
  InsufficientFunds: () => ({ what: "The account has less than that and the ledger's fee.", todo: "Choose a smaller amount." }),
  TooOld: () => ({ what: "The transfer waited for so long that the ledger can't tell whether it is a repetition.", todo: "Look at the balance, then send it anew." }),
  BadFee: () => ({ what: "The ledger's fee has changed.", todo: "Reload, then try again." }),
  TemporarilyUnavailable: () => ({ what: "The ledger has no time now.", todo: "Try again in a minute." }),
  SpendingLimit: (f) => ({ what: `That is over the wallet's limit ${f["limit"] === "per_day" ? "for a day" : "at a time"}.`, todo: "Raise the limit, or choose a smaller amount." }),
  UnknownWallet: () => ({ what: "There is no such wallet yet.", todo: "Open it first." }),
  UnknownEscrow: () => ({ what: "There is no such payment any more.", todo: "See the list of the wallet's payments." }),
  EscrowEnded: () => ({ what: "This payment has ended already.", todo: "Reload to see how." }),
  UnknownWithdrawal: () => ({ what: "There is no such withdrawal any more.", todo: "The wallet's balance says what is there." }),
  UnknownReservation: () => ({ what: "There is no such reservation any more.", todo: "Your usage says what was charged." }),
  ReservationEnded: () => ({ what: "The reservation has ended already.", todo: "Reload to see how." }),
  TooManyReservations: () => ({ what: "Too much of your quota is reserved at the same time.", todo: "Wait until some work has ended." }),
  RateLimited: (f) => ({ what: "You have called more often than your tier allows.", todo: `Try again in ${seconds(f["retry_after_ns"])}.` }),
  LimitReached: (f) => ({ what: `There are as many ${String(f["what"])} as there may be: ${number(f["most"])}.`, todo: "End some first." }),
  WrongPhase: (f) => ({ what: `That is not possible while the agent is ${alternative(f["phase"]).toLowerCase()}.`, todo: "Move it on to another phase first." }),
  NoSuchStep: (f) => ({ what: `An agent that is ${alternative(f["phase"]).toLowerCase()} can't become ${alternative(f["next"]).toLowerCase()}.`, todo: "See which phases come next." }),
  OpenJobs: (f) => ({ what: `${number(f["jobs"])} jobs wait or run.`, todo: "Wait until they have ended, or cancel them." }),
  MemoryFull: (f) => ({ what: `The agent remembers ${number(f["facts"])} facts and has no room for more.`, todo: "Forget some first." }),
  TooManyConversations: (f) => ({ what: `There are ${number(f["conversations"])} conversations, as many as there may be.`, todo: "Forget one first." }),
  TooManyLedgers: (f) => ({ what: `The agent knows ${number(f["ledgers"])} tokens, as many as it may.`, todo: "Remove one first." }),
  UnknownPayment: () => ({ what: "The agent does not keep this payment any more.", todo: "The ledger still has its block." }),
  TooManyPayments: (f) => ({ what: `${number(f["payments"])} payments have not ended.`, todo: "Wait until some have, or decide on those that wait for you." }),
  OpenPayments: (f) => ({ what: `${number(f["payments"])} payments with this token have not ended.`, todo: "Wait until they have." }),
  LimitExceeded: (f) => ({ what: `That is over the agent's limit ${f["limit"] === "per_day" ? "for a day" : "at a time"}.`, todo: "Raise the limit, or choose a smaller amount." }),
  FundsRemain: (f) => ({ what: `The agent's tokens could not be sent to you: ${String(f["reason"])}.`, todo: "Try again in a minute: nothing is deleted before." }),
  NoAddress: (f) => ({ what: `The network gave no key: ${String(f["reason"])}.`, todo: "Try again in a minute." }),
  WrongState: (f) => ({ what: `The agent is in another state: ${alternative(f["state"]).toLowerCase()}.`, todo: "Wait until it runs." }),
  ToppedUp: (f) => ({ what: "The agent was topped up a short while ago.", todo: `Try again after ${dateOf((f["after_ns"] as bigint | undefined) ?? 0n).toLocaleString("en")}.` }),
  NoRollout: (f) => ({ what: `No rollout is in such a state: ${String(f["reason"])}.`, todo: "Reload to see where it stands." }),
  NotInHeap: () => ({ what: "The model is not in memory yet.", todo: "It gets there with the first message." }),
};

/** What happened, and what to do about it. */
export function explain(error: unknown): Explanation {
  if (error instanceof CanisterError) {
    const sentence = EXPLANATIONS[error.kind];
    if (sentence) return sentence(error.fields);
    const detail = Object.entries(error.fields).map(([name, value]) => `${name} ${String(value)}`).join(", ");
    return { what: `${error.kind}${detail ? `: ${detail}` : ""}`, todo: "Reload the page; if it stays, tell an admin these words." };
  }
  const message = error instanceof Error ? error.message : String(error);
  if (typeof navigator !== "undefined" && navigator.onLine === false) {
    return { what: "This device is offline.", todo: "What you see is from your last visit. Try again when you are connected." };
  }
  if (/Failed to fetch|NetworkError|Load failed/i.test(message)) {
    return { what: "The network does not answer.", todo: "Check your connection and try again." };
  }
  if (/IC0508|IC0509|stopped|stopping/i.test(message)) {
    return { what: "The canister is stopped, probably for an upgrade.", todo: "Try again in a minute." };
  }
  if (/IC0207|out of cycles|freezing/i.test(message)) {
    return { what: "The canister is out of cycles.", todo: "Top it up with cycles." };
  }
  if (/IC0301|not found/i.test(message) && /canister/i.test(message)) {
    return { what: "There is no such canister any more.", todo: "It may have been deleted: go back to the list." };
  }
  if (/signature|certificate|TrustError/i.test(message)) {
    return { what: "An answer could not be verified, so it is not shown.", todo: "Check this device's clock, then reload." };
  }
  return { what: message.split("\n")[0] ?? message, todo: "Try again; if it stays, tell an admin these words." };
}
