import { type coordinatorTypes as types, tag, type Tag } from "@ohms/client";
import { compact, count } from "../format.ts";
import type { Wording } from "../words.ts";

/** Whether the coordinator is working on a project. */
export const isOpen = (project: types.Project) => ["Reserving", "Running"].includes(tag(project.state));

/** Where a project stands. */
export function projectState(state: types.ProjectState): Wording {
  switch (tag(state)) {
    case "Unclear":
      return { tone: "warn", words: "Has questions" };
    case "Planned":
      return { tone: "accent", words: "Waits for your approval" };
    case "Reserving":
      return { tone: "accent", words: "Reserving quota", busy: true };
    case "Running":
      return { tone: "accent", words: "Running", busy: true };
    case "Completed":
      return { tone: "good", words: "Completed" };
    case "Failed":
      return { tone: "bad", words: "Ended without success" };
    case "Canceled":
      return { tone: "neutral", words: "Cancelled" };
  }
}

/** Where a task stands. */
export function taskState(state: types.TaskState): Wording {
  switch (tag(state)) {
    case "Submitted":
      return { tone: "neutral", words: "Waiting" };
    case "Working":
      return { tone: "accent", words: "Worked on", busy: true };
    case "InputRequired":
      return { tone: "warn", words: "Needs you" };
    case "AuthRequired":
      return { tone: "warn", words: "Needs your permission" };
    case "Completed":
      return { tone: "good", words: "Done" };
    case "Failed":
      return { tone: "bad", words: "Failed" };
    case "Rejected":
      return { tone: "bad", words: "Rejected" };
    case "Canceled":
      return { tone: "neutral", words: "Cancelled" };
  }
}

/** Whether a task waits for its owner. */
export const isDeadLetter = (task: types.Task) => "InputRequired" in task.state || "AuthRequired" in task.state;

/** Who it is, in a conversation. */
export function party(it: types.Party): string {
  if ("Agent" in it) return it.Agent;
  return "Owner" in it ? "You" : "Coordinator";
}

/** What a message is. */
export function messageKind(kind: types.MessageKind): Wording {
  switch (tag(kind)) {
    case "TASK_REQUEST":
      return { tone: "accent", words: "Request" };
    case "TASK_RESPONSE":
      return { tone: "good", words: "Response" };
    case "STATUS_UPDATE":
      return { tone: "neutral", words: "Status" };
    case "NEGOTIATE":
      return { tone: "warn", words: "Negotiation" };
    case "ERROR":
      return { tone: "bad", words: "Error" };
  }
}

/** Why an attempt brought nothing. */
export function attemptFailure(failure: types.AttemptFailure): string {
  if ("Job" in failure) return `the job failed: ${failure.Job}`;
  if ("NoAnswer" in failure) return `the agent did not answer: ${failure.NoAnswer}`;
  if ("Refused" in failure) return `the agent refused: ${failure.Refused}`;
  if ("TooLong" in failure) {
    return `the prompt has ${count(failure.TooLong.tokens, "token")}, the model takes ${count(failure.TooLong.context, "token")}`;
  }
  switch (tag(failure)) {
    case "LeaseEnded":
      return "the agent was not heard of for too long";
    case "Busy":
      return "the agent's queue was full";
    case "Gone":
      return "the agent's canister does not exist any more";
    case "CancelledThere":
      return "the job was cancelled at the agent";
    case "Unauthorized":
      return "the agent does not obey the coordinator";
    default:
      return "it took too long";
  }
}

/** How far an attempt is. */
export function attemptStage(stage: types.AttemptStage): string {
  if ("Failed" in stage) return `failed: ${attemptFailure(stage.Failed)}`;
  if ("Running" in stage) return "the agent has it";
  if ("Completed" in stage) return "brought the text";
  return "Submitting" in stage ? "is being submitted" : "was given up, because the task had ended";
}

/** What matters when a task is given to an agent. */
export const PREFERENCES: [Tag<types.Preference>, string][] = [
  ["Balanced", "A balance of all"],
  ["Quality", "The best results so far"],
  ["Speed", "The quickest"],
  ["Cost", "The fewest instructions"],
  ["Privacy", "Only agents made for this project"],
];

const RULES = { Quorum: "a quorum", NoQuorum: "no quorum", Plurality: "the most votes", NoBallot: "no ballot" };

/** How a vote ended. */
export function verdict(it: types.Verdict): string {
  const winner = it.winner[0];
  return `${RULES[tag(it.outcome)]}, ${count(it.votes, "vote")} of ${count(it.ballots.length, "ballot")}${
    winner === undefined ? "" : ` for the answer of task ${winner}`
  }${it.timed_out ? ", decided when the time was over" : ""}`;
}

const quota = (kind: types.QuotaKind) => ("Tokens" in kind ? "tokens" : "creations of agents");

function call(kind: types.CallKind): string {
  if ("CreateAgent" in kind) return `creating ${kind.CreateAgent}`;
  if ("Reserve" in kind) return `reserving ${quota(kind.Reserve)}`;
  if ("Settle" in kind) return `settling ${quota(kind.Settle)}`;
  if ("Submit" in kind) return `giving task ${kind.Submit.task} to its agent`;
  return `cancelling the job of task ${kind.Close.task}`;
}

/** An event of a project as a sentence; nothing for those that say how, not what. */
export function eventWords(kind: types.EventKind): string | undefined {
  if ("Planned" in kind) return `Planned: ${count(kind.Planned.plan.agents.length, "agent")}, ${count(kind.Planned.plan.tasks.length, "task")}.`;
  if ("Revised" in kind) return `Planned anew: ${count(kind.Revised.plan.agents.length, "agent")}, ${count(kind.Revised.plan.tasks.length, "task")}.`;
  if ("Approved" in kind) return "You approved the plan.";
  if ("Reserved" in kind) return `Reserved at your subscription: ${quota(kind.Reserved.quota)}.`;
  if ("Refused" in kind) return `Not reserved, ${quota(kind.Refused.quota)}: ${kind.Refused.reason}.`;
  if ("Started" in kind) return "All quota is reserved; the project runs.";
  if ("AgentCreated" in kind) return `Created: ${kind.AgentCreated.agent}.`;
  if ("AgentFailed" in kind) return `Could not be created: ${kind.AgentFailed.agent}, ${kind.AgentFailed.reason}.`;
  if ("AttemptBegun" in kind) return `Task ${kind.AttemptBegun.task} was given to ${kind.AttemptBegun.agent}, attempt ${kind.AttemptBegun.attempt}.`;
  if ("AttemptFailed" in kind) return `Attempt ${kind.AttemptFailed.attempt} at task ${kind.AttemptFailed.task} failed: ${attemptFailure(kind.AttemptFailed.failure)}.`;
  if ("TaskCompleted" in kind) return `Task ${kind.TaskCompleted.task} is done, ${count(kind.TaskCompleted.used.prompt_tokens + kind.TaskCompleted.used.generated_tokens, "token")}.`;
  if ("TaskEnded" in kind) return `Task ${kind.TaskEnded.task} ended without a text: ${kind.TaskEnded.reason}.`;
  if ("TaskReplayed" in kind) return `You had task ${kind.TaskReplayed.task} tried again.`;
  if ("TaskRated" in kind) return `You gave task ${kind.TaskRated.task} ${count(kind.TaskRated.stars, "star")}.`;
  if ("TasksAdded" in kind) return `Added: ${count(kind.TasksAdded.tasks.length, "task")}.`;
  if ("MessageSent" in kind) return `A message from ${party(kind.MessageSent.from)} to ${party(kind.MessageSent.message.to)}.`;
  if ("BreakerOpened" in kind) return `${kind.BreakerOpened.agent} failed so often that it rests for a while.`;
  if ("CallFailed" in kind) return `No answer while ${call(kind.CallFailed.call)}: ${kind.CallFailed.reason}. It is tried again.`;
  if ("CancelRequested" in kind) return "You cancelled the project.";
  if ("JobClosed" in kind) return `The job of task ${kind.JobClosed.task} was ended at its agent.`;
  if ("Settled" in kind) return `Settled: ${compact(kind.Settled.amount)} ${quota(kind.Settled.quota)}.`;
  if ("ProjectEnded" in kind) return `The project has ended: ${projectState(kind.ProjectEnded.state).words.toLowerCase()}.`;
  return undefined;
}

/** An instruction as a heading. */
export function headline(instruction: string, most = 90): string {
  const line = instruction.trim().replace(/\s+/g, " ");
  return line.length <= most ? line : `${line.slice(0, most - 1).replace(/\s+\S*$/, "")}…`;
}

/** The instruction with the answer to a question about it; the coordinator reads it as if it had been said so at once. */
export function answered(instruction: string, topic: types.QuestionTopic, answer: string): string {
  const said = answer.trim();
  const wish = instruction.trim().replace(/[.!?:,\s]+$/, "");
  if ("Role" in topic) return `${wish}: ${said}`;
  // A bare number stands in the place of the one that was not possible.
  if (/^\d+$/.test(said)) {
    const number = /\b(?:[2-9]|\d{2,})\b/;
    return number.test(wish) ? wish.replace(number, said) : `${said} of these: ${wish}`;
  }
  return said;
}
