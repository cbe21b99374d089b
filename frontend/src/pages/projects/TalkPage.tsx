import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type coordinatorTypes as types, optional, tag, unwrap } from "@ohms/client";
import { type FormEvent, useEffect, useRef, useState } from "react";
import { Button, ErrorNotice, Input, PageHeading, Panel } from "../../components/ui.tsx";
import { useCanisters, useSignedIn } from "../../session.tsx";

/** What was said in a conversation with the coordinator. */
interface Talk {
  conversation: bigint | undefined;
  turns: { said: string; reply: types.ConverseReply }[];
}

const NEW: Talk = { conversation: undefined, turns: [] };

/** What can be said next, by where the conversation stands. */
const NEXT: Record<string, string[]> = { Planned: ["Yes", "No"], Running: ["How far is it?"] };

/** From a wish to a project by talking: it asks back, shows a plan, and says how far it is. */
export function TalkPage() {
  const { coordinator } = useCanisters();
  const { principal } = useSignedIn();
  const queries = useQueryClient();
  const queryKey = [principal.toText(), "talk"];
  // Kept with what was read last, so that it is there again when the page is.
  const talk = useQuery({ queryKey, queryFn: () => queries.getQueryData<Talk>(queryKey) ?? NEW, staleTime: Infinity }).data ?? NEW;
  const [text, setText] = useState("");
  const end = useRef<HTMLDivElement>(null);
  const saying = useMutation({
    mutationFn: async (said: string) => {
      const conversation: [] | [bigint] = talk.conversation === undefined ? [] : [talk.conversation];
      const reply = unwrap(await coordinator().converse({ conversation, text: said }));
      queries.setQueryData<Talk>(queryKey, { conversation: reply.conversation, turns: [...talk.turns, { said, reply }] });
      setText("");
    },
    onSettled: () => queries.invalidateQueries({ queryKey: [principal.toText(), "projects"] }),
  });
  useEffect(() => {
    end.current?.scrollIntoView({ block: "nearest" });
  }, [talk.turns.length]);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (text.trim() !== "") saying.mutate(text.trim());
  };
  const last = talk.turns.at(-1)?.reply;
  const options = last ? [...(last.questions[0]?.options ?? []), ...(NEXT[tag(last.stage)] ?? [])] : [];
  return (
    <>
      <nav aria-label="Path" className="text-sm">
        <Link to="/projects" className="text-ink-2 hover:text-ink">
          Projects
        </Link>
      </nav>
      <PageHeading
        title="Talk it over"
        lead="Say what you want. You are asked what is not clear, and nothing begins before your yes."
        actions={talk.turns.length > 0 && <Button onClick={() => queries.setQueryData<Talk>(queryKey, NEW)}>Begin anew</Button>}
      />
      <Panel>
        <div className="grid gap-4">
          <ol aria-label="Conversation" aria-live="polite" className="grid gap-3">
            {talk.turns.map(({ said, reply }, at) => {
              const project = optional(reply.project);
              return (
                <li key={at} className="grid gap-2">
                  <p className="ml-auto max-w-prose rounded-lg bg-accent-soft px-3 py-2 whitespace-pre-wrap break-words">{said}</p>
                  <div className="mr-auto max-w-prose rounded-lg bg-sunken px-3 py-2">
                    <p className="whitespace-pre-wrap break-words">{reply.text}</p>
                    {project !== undefined && (
                      <Link to="/projects/$project" params={{ project: String(project) }} className="text-sm underline underline-offset-2">
                        See project {String(project)}
                      </Link>
                    )}
                  </div>
                </li>
              );
            })}
          </ol>
          {saying.error && <ErrorNotice error={saying.error} />}
          {options.length > 0 && (
            <div role="group" aria-label="Answers to choose from" className="flex flex-wrap gap-2">
              {options.map((option) => (
                <Button key={option} disabled={saying.isPending} onClick={() => saying.mutate(option)}>
                  {option}
                </Button>
              ))}
            </div>
          )}
          <form onSubmit={submit} className="flex gap-2">
            <Input
              aria-label="What you say"
              required
              maxLength={4_000}
              autoComplete="off"
              placeholder="Create two writers and a reviewer"
              value={text}
              onChange={(event) => setText(event.target.value)}
            />
            <Button look="primary" type="submit" busy={saying.isPending} disabled={text.trim() === ""}>
              Say
            </Button>
          </form>
          <div ref={end} />
        </div>
      </Panel>
    </>
  );
}
