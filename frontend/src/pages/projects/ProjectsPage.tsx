import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { type coordinatorTypes, type Tag, unwrap } from "@ohms/client";
import { type FormEvent, useRef, useState } from "react";
import { Loaded } from "../../components/Loaded.tsx";
import { Badge, Button, Empty, ErrorNotice, Field, Input, More, PageHeading, Panel, Progress, Select, TextArea, When } from "../../components/ui.tsx";
import { count, dateOf } from "../../format.ts";
import { useProjects } from "../../projects/queries.ts";
import { headline, PREFERENCES, projectState } from "../../projects/words.ts";
import { useCanisters, useSignedIn } from "../../session.tsx";

const PAGE = 12;
const EXAMPLES = [
  "Create three agents that write a tale, review it and title it",
  "Research the history of tea, then write an article and have it reviewed",
  "Create a developer, a tester and a reviewer for a command line tool",
];

/** From a sentence to a plan, and all projects so far. */
export function ProjectsPage() {
  const projects = useProjects();
  return (
    <>
      <PageHeading title="Projects" lead="Say what you want done. You see the agents, the tasks and what it costs before anything runs." />
      <div className="grid gap-5">
        <NewProject />
        <Panel title="Your projects">
          <Loaded query={projects} lines={4}>
            {(all) =>
              all.length === 0 ? (
                <Empty title="No project yet">
                  <p>What you ask for above becomes your first one. It costs nothing until you approve its plan.</p>
                </Empty>
              ) : (
                <ProjectList projects={all} />
              )
            }
          </Loaded>
        </Panel>
      </div>
    </>
  );
}

/** What is asked of the coordinator, from the form's fields. */
export function planRequest(fields: {
  instruction: string;
  preference: Tag<coordinatorTypes.Preference>;
  tokens: string;
  reuse: boolean;
}): coordinatorTypes.PlanRequest {
  return {
    instruction: fields.instruction.trim(),
    preference: fields.preference === "Balanced" ? [] : [{ [fields.preference]: null } as coordinatorTypes.Preference],
    max_tokens_per_task: fields.tokens === "" ? [] : [Number(fields.tokens)],
    reuse_agents: fields.reuse,
    work: [],
    model_id: [],
  };
}

function NewProject() {
  const { coordinator } = useCanisters();
  const { principal } = useSignedIn();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const [instruction, setInstruction] = useState("");
  const [preference, setPreference] = useState<Tag<coordinatorTypes.Preference>>("Balanced");
  const [tokens, setTokens] = useState("");
  const [reuse, setReuse] = useState(true);
  // Sent again with the same words after an answer that was lost, it is the same project.
  const sent = useRef({ key: "", words: "" });
  const creation = useMutation({
    mutationFn: async () => {
      const request = planRequest({ instruction, preference, tokens, reuse });
      const words = JSON.stringify(request);
      if (sent.current.words !== words) sent.current = { key: crypto.randomUUID(), words };
      return unwrap(await coordinator().create_plan({ key: [sent.current.key], request }));
    },
    onSuccess: (project) => {
      queries.setQueryData([principal.toText(), "project", String(project.id)], project);
      return navigate({ to: "/projects/$project", params: { project: String(project.id) } });
    },
    onSettled: () => queries.invalidateQueries({ queryKey: [principal.toText(), "projects"] }),
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    creation.mutate();
  };
  return (
    <Panel>
      <form onSubmit={submit} className="grid gap-4">
        {creation.error && <ErrorNotice error={creation.error} onRetry={() => creation.mutate()} />}
        <Field label="What shall be done?" hint="Who should do what, in your words and in any order. Agents that are needed are created for you.">
          {(ids) => (
            <TextArea {...ids} required rows={3} maxLength={4_000} value={instruction} onChange={(event) => setInstruction(event.target.value)} />
          )}
        </Field>
        <div className="grid gap-1.5">
          <p className="text-sm text-ink-2">For example:</p>
          <ul className="grid justify-items-start gap-1">
            {EXAMPLES.map((example) => (
              <li key={example}>
                <button
                  type="button"
                  onClick={() => setInstruction(example)}
                  className="rounded text-left text-sm text-ink underline decoration-dotted underline-offset-4 hover:decoration-solid"
                >
                  {example}
                </button>
              </li>
            ))}
          </ul>
        </div>
        <details>
          <summary className="text-sm text-ink-2">More settings</summary>
          <div className="mt-3 grid gap-4 sm:grid-cols-2">
            <Field label="What matters when a task is given away">
              {(ids) => (
                <Select {...ids} value={preference} onChange={(event) => setPreference(event.target.value as Tag<coordinatorTypes.Preference>)}>
                  {PREFERENCES.map(([value, words]) => (
                    <option key={value} value={value}>
                      {words}
                    </option>
                  ))}
                </Select>
              )}
            </Field>
            <Field label="Tokens of a task at most" hint="Empty: as its role needs.">
              {(ids) => (
                <Input {...ids} type="number" min={1} max={100_000} inputMode="numeric" value={tokens} onChange={(event) => setTokens(event.target.value)} />
              )}
            </Field>
            <label className="flex items-center gap-2 text-sm">
              <input type="checkbox" checked={reuse} onChange={(event) => setReuse(event.target.checked)} className="accent-accent" />
              Use agents that I have already where they fit
            </label>
          </div>
        </details>
        <div className="flex flex-wrap items-center gap-3">
          <Button look="primary" type="submit" busy={creation.isPending} disabled={instruction.trim() === ""}>
            Make a plan
          </Button>
          <Link to="/talk" className="text-sm underline underline-offset-2">
            Talk it over instead
          </Link>
        </div>
      </form>
    </Panel>
  );
}

function ProjectList({ projects }: { projects: coordinatorTypes.Project[] }) {
  const [shown, setShown] = useState(PAGE);
  return (
    <>
      <ul className="grid divide-y divide-line">
        {projects.slice(0, shown).map((project) => {
          const { tone, words, busy } = projectState(project.state);
          const { counts } = project;
          return (
            <li key={String(project.id)} className="relative py-3 first:pt-0 last:pb-0">
              <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
                <Link
                  to="/projects/$project"
                  params={{ project: String(project.id) }}
                  className="font-medium break-words before:absolute before:inset-0"
                >
                  {headline(project.request.instruction)}
                </Link>
                <Badge tone={tone} busy={busy ?? false}>
                  {words}
                </Badge>
                {counts.dead_letters > 0 && <Badge tone="warn">{count(counts.dead_letters, "task")} for you</Badge>}
              </div>
              <p className="mt-0.5 text-sm text-ink-2">
                {count(project.plan.agents.length, "agent")} · {counts.total > 0 ? `${counts.completed} of ${count(counts.total, "task")} done` : count(project.plan.tasks.length, "task")} ·{" "}
                <When date={dateOf(project.created_at_ns)} />
              </p>
              {"Running" in project.state && (
                <div className="mt-2 max-w-xs">
                  <Progress done={counts.completed} of={counts.total} label={`${counts.completed} of ${counts.total} tasks done`} />
                </div>
              )}
            </li>
          );
        })}
      </ul>
      <More shown={Math.min(shown, projects.length)} hasMore={projects.length > shown} busy={false} onMore={() => setShown(shown + PAGE)} />
    </>
  );
}
