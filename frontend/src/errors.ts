import { CanisterError } from "@ohms/client";

/** An error as a person reads it: what happened, and what to do. */
export interface Explanation {
  what: string;
  todo: string;
}

type Fields = Readonly<Record<string, unknown>>;

const number = (value: unknown) => Number(value ?? 0).toLocaleString("en");
const alternative = (value: unknown) => Object.keys((value ?? {}) as object)[0] ?? "";

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
  UnknownAgent: (f) => ({ what: `You have no agent called “${String(f["key"])}”.`, todo: "It may have been deleted: see the list of your agents." }),
  TooManyAgents: (f) => ({ what: `You have ${number(f["agents"])} agents, as many as you may.`, todo: "Delete one that you don't need." }),
  Busy: () => ({ what: "Many agents are being created at this moment.", todo: "Try again in a minute." }),
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
  TooMany: (f) => ({ what: `There are as many ${String(f["what"])} as there may be: ${number(f["limit"])}.`, todo: "Finish or drop some first." }),
  NotValidated: () => ({ what: "The upload was not finished.", todo: "Run `novaq upload` again: it sends what is missing." }),
  Incomplete: (f) => ({ what: `${number(f["missing"] ?? f["missing_chunks"])} parts are still missing.`, todo: "Run the upload again: it sends what is missing." }),
  LastAdmin: () => ({ what: "This is the last admin.", todo: "Make somebody else an admin first." }),
  QuotaExceeded: () => ({ what: "The uploader's storage is used up.", todo: "Discard uploads that are not needed." }),
  Draft: () => ({ what: "The next part of this job can't be computed.", todo: "See why in the job itself." }),
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
