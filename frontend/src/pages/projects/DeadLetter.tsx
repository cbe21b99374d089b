import { Link } from "@tanstack/react-router";
import { type coordinatorTypes as types, optional, unwrap } from "@ohms/client";
import { Button, ConfirmButton, ErrorNotice } from "../../components/ui.tsx";
import { sentence } from "../../format.ts";
import { useCanisters } from "../../session.tsx";
import { useProjectAction } from "./ProjectLayout.tsx";
import { TaskBadge } from "./WorkPage.tsx";

/** A task that waits for its owner: why, and what can be done. */
export function DeadLetter({ project, task }: { project: bigint; task: types.Task }) {
  const { coordinator } = useCanisters();
  const key = { project, task: task.plan.id };
  const agent = task.attempts.at(-1)?.agent;
  const replay = useProjectAction(project, async () => unwrap(await coordinator().replay_task(key)));
  const discard = useProjectAction(project, async () => unwrap(await coordinator().discard_task(key)));
  const error = replay.error ?? discard.error;
  return (
    <li className="grid gap-2">
      <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
        <Link to="/projects/$project/tasks/$task" params={{ project: String(project), task: String(task.plan.id) }} className="font-medium underline underline-offset-2">
          {task.plan.title}
        </Link>
        <TaskBadge task={task} />
      </div>
      <p className="max-w-prose text-sm text-ink-2">{sentence(optional(task.reason) ?? "its attempts are used up")}</p>
      {"AuthRequired" in task.state && agent !== undefined && (
        <p className="max-w-prose text-sm">
          You decide that in{" "}
          <Link to="/agents/$key/settings" params={{ key: agent }} className="underline underline-offset-2">
            the settings of {agent}
          </Link>
          , under Projects. Then try again.
        </p>
      )}
      {error && <ErrorNotice error={error} />}
      <div className="flex flex-wrap gap-2">
        <Button look="primary" busy={replay.isPending} onClick={() => replay.mutate()}>
          Try again
        </Button>
        <ConfirmButton label="Discard" title={`Discard “${task.plan.title}”?`} confirm="Discard the task" dismiss="Keep it" busy={discard.isPending} onConfirm={() => discard.mutate()}>
          The task ends without a text, and so do those that wait for it.
        </ConfirmButton>
      </div>
    </li>
  );
}
