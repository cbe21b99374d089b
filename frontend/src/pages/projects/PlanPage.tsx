import { Loaded } from "../../components/Loaded.tsx";
import { Panel } from "../../components/ui.tsx";
import { useProject } from "../../projects/queries.ts";
import { PlanFacts } from "./PlanFacts.tsx";
import { useProjectId } from "./ProjectLayout.tsx";

/** What was asked for, and the plan that was approved. */
export function PlanPage() {
  const project = useProject(useProjectId());
  return (
    <Loaded query={project}>
      {(it) => (
        <div className="grid gap-4">
          <Panel title="What you asked for">
            <p className="max-w-prose whitespace-pre-wrap break-words">{it.request.instruction}</p>
          </Panel>
          <PlanFacts project={it} />
        </div>
      )}
    </Loaded>
  );
}
