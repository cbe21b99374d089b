import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Link, Outlet, useParams } from "@tanstack/react-router";
import { tag, unwrap } from "@ohms/client";
import { Loaded } from "../../components/Loaded.tsx";
import { Tab, Tabs } from "../../components/Tabs.tsx";
import { Badge, Button, ConfirmButton, ErrorNotice } from "../../components/ui.tsx";
import { refreshProject, useLog, useProject } from "../../projects/queries.ts";
import { headline, isOpen, projectState } from "../../projects/words.ts";
import { useCanisters, useSignedIn } from "../../session.tsx";
import { PlanProposal } from "./PlanProposal.tsx";

const TABS = [
  ["/projects/$project", "Work"],
  ["/projects/$project/messages", "Messages"],
  ["/projects/$project/plan", "Plan"],
  ["/projects/$project/log", "Log"],
] as const;

/** The number of the project of the address. */
export function useProjectId(): bigint {
  const { project } = useParams({ strict: false }) as { project: string };
  return /^\d{1,18}$/.test(project) ? BigInt(project) : 0n;
}

/** Does something to a project, and reads it again. */
export function useProjectAction<T = void>(id: bigint, action: (argument: T) => Promise<unknown>) {
  const queries = useQueryClient();
  const { principal } = useSignedIn();
  const me = principal.toText();
  return useMutation({
    mutationFn: action,
    onSettled: () =>
      Promise.all([
        refreshProject(queries, me, id),
        ...["log", "projects", "dead-letters"].map((name) => queries.invalidateQueries({ queryKey: [me, name] })),
      ]),
  });
}

/** The frame of a project's pages. What waits for approval has no others yet. */
export function ProjectLayout() {
  const id = useProjectId();
  const query = useProject(id);
  const { coordinator } = useCanisters();
  useLog(id);
  const cancellation = useProjectAction(id, async () => unwrap(await coordinator().cancel_project(id)));
  const state = query.data && projectState(query.data.state);
  const waits = query.data && ["Unclear", "Planned"].includes(tag(query.data.state));
  return (
    <>
      <div className="mb-4">
        <nav aria-label="Path" className="text-sm">
          <Link to="/projects" className="text-ink-2 hover:text-ink">
            Projects
          </Link>
        </nav>
        <div className="flex flex-wrap items-start justify-between gap-3">
          <div className="flex min-w-0 flex-wrap items-center gap-x-3 gap-y-1">
            <h1 className="break-words">{query.data ? headline(query.data.request.instruction) : `Project ${id}`}</h1>
            {state && (
              <Badge tone={state.tone} busy={state.busy ?? false}>
                {state.words}
              </Badge>
            )}
          </div>
          {query.data && isOpen(query.data) && (
            <ConfirmButton
              label="Cancel project"
              title="Cancel this project?"
              confirm="Cancel the project"
              dismiss="Keep it running"
              busy={cancellation.isPending}
              onConfirm={() => cancellation.mutate()}
            >
              What is being worked on is stopped at its agents. Texts that are done stay; quota that was not used is given back.
            </ConfirmButton>
          )}
          {waits && (
            <Button busy={cancellation.isPending} onClick={() => cancellation.mutate()}>
              Drop this plan
            </Button>
          )}
        </div>
      </div>
      {cancellation.error && (
        <div className="mb-4">
          <ErrorNotice error={cancellation.error} onRetry={() => cancellation.mutate()} />
        </div>
      )}
      <Loaded query={query} lines={8}>
        {(project) =>
          waits ? (
            <PlanProposal project={project} />
          ) : (
            <>
              <Tabs label="Project">
                {TABS.map(([to, label]) => (
                  <Tab key={to} to={to} params={{ project: String(id) }} activeOptions={{ exact: label === "Work" }}>
                    {label}
                  </Tab>
                ))}
              </Tabs>
              <Outlet />
            </>
          )
        }
      </Loaded>
    </>
  );
}
