import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type coordinatorTypes as types, optional, unwrap } from "@ohms/client";
import { useRef, useState, type FormEvent } from "react";
import { Loaded } from "../../components/Loaded.tsx";
import { Badge, Button, Empty, ErrorNotice, Field, More, Panel, Select, TextArea, When } from "../../components/ui.tsx";
import { dateOf } from "../../format.ts";
import { useMessages, useProject } from "../../projects/queries.ts";
import { isOpen, messageKind, party } from "../../projects/words.ts";
import { useCanisters, useSignedIn } from "../../session.tsx";
import { useProjectId } from "./ProjectLayout.tsx";

const PAGE = 30;

/** What agents, coordinator and owner say to each other, newest first. */
export function MessagesPage() {
  const id = useProjectId();
  const project = useProject(id);
  const messages = useMessages(id);
  const [shown, setShown] = useState(PAGE);
  return (
    <div className="grid gap-4">
      {project.data && isOpen(project.data) && <Send project={project.data} />}
      <Panel title="Messages">
        <Loaded query={messages} lines={6}>
          {(all) =>
            all.length === 0 ? (
              <Empty title="No message yet">Requests, answers and states of the tasks appear here.</Empty>
            ) : (
              <>
                <ol className="grid gap-4">
                  {all
                    .slice(-shown)
                    .reverse()
                    .map((message) => (
                      <Message key={String(message.sequence)} message={message} />
                    ))}
                </ol>
                <More shown={Math.min(shown, all.length)} hasMore={all.length > shown} busy={false} onMore={() => setShown(shown + PAGE)} />
              </>
            )
          }
        </Loaded>
      </Panel>
    </div>
  );
}

function Message({ message }: { message: types.Message }) {
  const { tone, words } = messageKind(message.kind);
  const task = optional(message.task);
  return (
    <li className="grid gap-1 border-l-2 border-line pl-3">
      <div className="flex flex-wrap items-center gap-x-2 gap-y-1 text-sm text-ink-2">
        <Badge tone={tone}>{words}</Badge>
        <span className="break-all">
          <span className="font-medium text-ink">{party(message.from)}</span> to {party(message.to)}
        </span>
        {task !== undefined && <span>task {task}</span>}
        <When date={dateOf(message.time_ns)} />
      </div>
      <details className="[&[open]>summary]:hidden">
        <summary className="line-clamp-2 max-w-prose break-words">{message.body.trim() || "(empty)"}</summary>
        <p className="max-w-prose whitespace-pre-wrap break-words">{message.body.trim() || "(empty)"}</p>
      </details>
    </li>
  );
}

function Send({ project }: { project: types.Project }) {
  const { coordinator } = useCanisters();
  const { principal } = useSignedIn();
  const queries = useQueryClient();
  const [to, setTo] = useState("");
  const [body, setBody] = useState("");
  const id = useRef(crypto.randomUUID());
  const sending = useMutation({
    mutationFn: async () => {
      const receiver: types.Party = to === "" ? { Coordinator: null } : { Agent: to };
      unwrap(await coordinator().send_message({ project: project.id, id: id.current, to: receiver, body: body.trim(), kind: { NEGOTIATE: null }, task: [] }));
    },
    onSuccess: () => {
      id.current = crypto.randomUUID();
      setBody("");
    },
    onSettled: () => queries.invalidateQueries({ queryKey: [principal.toText(), "project", String(project.id)] }),
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    sending.mutate();
  };
  return (
    <Panel title="Say something">
      <form onSubmit={submit} className="grid gap-3">
        {sending.error && <ErrorNotice error={sending.error} onRetry={() => sending.mutate()} />}
        <div className="max-w-xs">
          <Field label="To">
            {(ids) => (
              <Select {...ids} value={to} onChange={(event) => setTo(event.target.value)}>
                <option value="">Coordinator</option>
                {project.plan.agents.map((agent) => (
                  <option key={agent.name}>{agent.name}</option>
                ))}
              </Select>
            )}
          </Field>
        </div>
        <Field label="Message" hint="It becomes part of the conversation that is kept with the project.">
          {(ids) => <TextArea {...ids} required rows={2} maxLength={4_000} value={body} onChange={(event) => setBody(event.target.value)} />}
        </Field>
        <div>
          <Button type="submit" busy={sending.isPending} disabled={body.trim() === ""}>
            Send
          </Button>
        </div>
      </form>
    </Panel>
  );
}
