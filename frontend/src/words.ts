import { type agentTypes, type factoryTypes, type modelTypes, tag } from "@ohms/client";
import type { Tone } from "./components/ui.tsx";
import { compact } from "./format.ts";

/** A state in words. */
export interface Wording {
  tone: Tone;
  words: string;
  busy?: boolean;
}

/** How far an agent is. */
export function agentState(state: factoryTypes.AgentState): Wording {
  switch (tag(state)) {
    case "Creating":
      return { tone: "accent", words: "Creating its canister", busy: true };
    case "Installing":
      return { tone: "accent", words: "Installing its code", busy: true };
    case "Running":
      return { tone: "good", words: "Running" };
    case "Stopping":
      return { tone: "warn", words: "Being stopped", busy: true };
    case "Stopped":
      return { tone: "warn", words: "Stopped" };
    case "Starting":
      return { tone: "accent", words: "Being started", busy: true };
    case "Upgrading":
      return { tone: "accent", words: "Getting newer code", busy: true };
    case "Deleting":
      return { tone: "warn", words: "Being deleted", busy: true };
    case "Failed":
      return { tone: "bad", words: "Creation failed" };
  }
}

/** Where a job stands. */
export function jobState(state: agentTypes.JobState): Wording {
  switch (tag(state)) {
    case "Queued":
      return { tone: "neutral", words: "Waiting" };
    case "Loading":
      return { tone: "accent", words: "Loading the model", busy: true };
    case "Running":
      return { tone: "accent", words: "Writing", busy: true };
    case "Paused":
      return { tone: "warn", words: "Paused" };
    case "OutOfCycles":
      return { tone: "bad", words: "Out of cycles" };
    case "Done":
      return { tone: "good", words: "Done" };
    case "Failed":
      return { tone: "bad", words: "Failed" };
    case "Cancelled":
      return { tone: "neutral", words: "Cancelled" };
  }
}

/** Why a text ends where it does. */
export function finishReason(reason: agentTypes.FinishReason): string {
  switch (tag(reason)) {
    case "MaxTokens":
      return "The length asked for was reached.";
    case "EndOfText":
      return "The model ended the text.";
    case "StopString":
      return "A stop string was reached.";
    case "ContextFull":
      return "The model's context is full.";
    case "Deadline":
      return "The deadline has passed.";
    case "MaxInstructions":
      return "The instructions it was allowed are used up.";
  }
}

/** Why loading a model failed. */
export function loadError(error: agentTypes.LoadError): string {
  if ("NoAnswer" in error) return `The model canister did not answer ${error.NoAnswer.attempts} times: ${error.NoAnswer.message}`;
  if ("OutOfStorage" in error) return `There is no room for the model's ${compact(error.OutOfStorage.bytes)} bytes.`;
  if ("Unsupported" in error) return `The engine can't run this model: ${error.Unsupported.reason}`;
  if ("NotServed" in error) return `The model is ${tag(error.NotServed.status).toLowerCase()}: create an agent with another one.`;
  if ("WrongContent" in error) return `The model canister sent something else: ${error.WrongContent.reason}`;
  return "The model is not in the catalogue any more: create an agent with another one.";
}

/** Why a job failed. */
export function jobFailure(failure: agentTypes.JobFailure): string {
  if ("SliceTrapped" in failure) return `It was tried ${failure.SliceTrapped.attempts} times: ${failure.SliceTrapped.message}`;
  if ("PromptTooLong" in failure) {
    return `The text has ${failure.PromptTooLong.tokens} tokens, the model's context ${failure.PromptTooLong.context}: shorten it.`;
  }
  if ("Engine" in failure) return failure.Engine.reason;
  if ("Load" in failure) return loadError(failure.Load);
  if ("NoDecoder" in failure) return "The model turns texts into vectors and writes none: create an agent with another one.";
  if ("Quota" in failure) return `Your subscription does not cover it: ${failure.Quota.reason.replace(/\.$/, "")}. See what is left under Subscription.`;
  return `The model's chat template refuses the conversation: ${failure.ChatTemplate.reason}`;
}

/** How far a model is loaded. */
export function loadState(status: agentTypes.AgentStatus): Wording {
  const counts = status.load_counts;
  switch (tag(status.load)) {
    case "NotLoaded":
      return { tone: "neutral", words: "Model not loaded yet" };
    case "Loading":
      return { tone: "accent", words: `Loading the model: ${counts.shards_loaded} of ${counts.shards || "?"} parts`, busy: true };
    case "Loaded":
      return { tone: "good", words: status.in_heap ? "Ready" : "Model loaded" };
    case "Failed":
      return { tone: "bad", words: "Loading failed" };
  }
}

/** Where a model stands. */
export function modelState(model: modelTypes.ModelRecord): Wording {
  switch (tag(model.status)) {
    case "Active":
      return { tone: "good", words: "Active" };
    case "Deprecated":
      return { tone: "warn", words: "Deprecated" };
    case "Pending":
      if (model.missing > 0) return { tone: "accent", words: "Uploading", busy: true };
      switch (tag(model.validation)) {
        case "NotStarted":
          return { tone: "accent", words: "Uploaded, not finished" };
        case "Running":
          return { tone: "accent", words: "Being validated", busy: true };
        case "Failed":
          return { tone: "bad", words: "Validation failed" };
        case "Passed":
          return { tone: "accent", words: "Waiting for activation" };
      }
  }
}

/** What a proposal would do. */
export function proposalAction(action: modelTypes.ProposalAction): string {
  switch (tag(action)) {
    case "Activate":
      return "Activate a model";
    case "Deprecate":
      return "Deprecate a model";
    case "GrantRole":
      return "Grant a role";
    case "RevokeRole":
      return "Revoke a role";
    case "SetPolicy":
      return "Change the rules";
    case "SetQuota":
      return "Change an uploader's quota";
    case "AddRepository":
      return "Add a repository";
    case "RemoveRepository":
      return "Remove a repository";
  }
}

/** Where a proposal stands. */
export function proposalState(state: modelTypes.ProposalState): Wording {
  switch (tag(state)) {
    case "Open":
      return { tone: "accent", words: "Open" };
    case "Executed":
      return { tone: "good", words: "Done" };
    case "Failed":
      return { tone: "bad", words: "Could not be done" };
    case "Rejected":
      return { tone: "neutral", words: "Rejected" };
    case "Expired":
      return { tone: "neutral", words: "Expired" };
  }
}
