import { CanisterError, type coordinatorTypes, unwrap } from "@ohms/client";
import { allAgents, allProjects } from "./export.ts";
import { count } from "./format.ts";
import { isOpen } from "./projects/words.ts";
import type { useCanisters } from "./session.tsx";

type Canisters = ReturnType<typeof useCanisters>;
type Coordinator = Pick<coordinatorTypes._SERVICE, "projects" | "cancel_project" | "erase_projects">;

/** Time between two attempts while a project is being wound up, in milliseconds, and how many there are: ten minutes. */
const PAUSE_MS = 1_000;
const ATTEMPTS = 600;

/**
 * Cancels what runs, waits until the quota of all projects is settled, and has the coordinator erase them with their plans, conversations
 * and messages; says how many projects there were. `onStep` hears how far it is.
 */
export async function eraseProjects(
  coordinator: Coordinator,
  onStep: (words: string) => void,
  pause = () => new Promise<void>((resolve) => setTimeout(resolve, PAUSE_MS)),
): Promise<number> {
  const projects = await allProjects(coordinator);
  for (const project of projects.filter(isOpen)) {
    onStep(`Cancelling project ${project.id}`);
    unwrap(await coordinator.cancel_project(project.id));
  }
  for (let attempt = 1; ; ) {
    try {
      const left = unwrap(await coordinator.erase_projects());
      if (left === 0n) return projects.length;
      onStep(`Erasing what projects recorded: ${count(left, "entry", "entries")} left`);
    } catch (error) {
      if (!(error instanceof CanisterError) || error.kind !== "ProjectNotOver" || attempt === ATTEMPTS) throw error;
      attempt += 1;
      onStep(`Waiting until project ${String(error.fields["project"])} is over and its quota settled`);
      await pause();
    }
  }
}

/** Erases the caller's projects, and then deletes all agents; what projects still do at agents is over by then. */
export async function eraseAll(canisters: Canisters, onStep: (words: string) => void): Promise<{ projects: number; agents: number }> {
  const projects = canisters.has("coordinator") ? await eraseProjects(canisters.coordinator(), onStep) : 0;
  const agents = await allAgents(canisters);
  for (const [at, { key }] of agents.entries()) {
    onStep(`Deleting agent ${at + 1} of ${agents.length}`);
    unwrap(await canisters.factory.delete_agent(key));
  }
  return { projects, agents: agents.length };
}
