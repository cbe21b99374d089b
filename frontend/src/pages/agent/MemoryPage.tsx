import { useMutation } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type agentTypes as types, hex, optional, tag, unwrap } from "@ohms/client";
import { type FormEvent, type ReactNode, useState } from "react";
import { mayConfigure, maySubmit } from "../../agent/phases.ts";
import { exportMemory, useAgentAction, useConversations, useFacts, useFoundFacts, useProfile } from "../../agent/queries.ts";
import { DEFAULT_MEMORY } from "../../agent/profile.ts";
import { memoryPolicy } from "../../agent/words.ts";
import { Loaded } from "../../components/Loaded.tsx";
import { Button, buttonClass, ConfirmButton, Empty, ErrorNotice, Facts, Field, Id, Input, Loading, More, Notice, Panel, Table, TextArea, When } from "../../components/ui.tsx";
import { saveFile } from "../../export.ts";
import { count, dateOf } from "../../format.ts";
import { useAgentStatus } from "../../queries.ts";
import { useCanisters } from "../../session.tsx";
import { useAgentOfPage } from "../AgentLayout.tsx";

/** Most bytes of a fact (`MAX_FACT_BYTES` in `shared-types/src/agent/memory.rs`). */
const FACT_BYTES = 4_096;

/** What the agent remembers: facts, conversations, and how they are used. */
export function MemoryPage() {
  const { canister } = useAgentOfPage();
  return canister ? <Memory canister={canister} /> : <Loading />;
}

function Memory({ canister }: { canister: string }) {
  const status = useAgentStatus(canister);
  return (
    <Loaded query={status} lines={8}>
      {({ memory, phase }) => (
        <div className="grid gap-4">
          <Policy canister={canister} />
          <FactsPanel canister={canister} memory={memory} mayAdd={mayConfigure(tag(phase))} />
          <ConversationsPanel canister={canister} mayTalk={maySubmit(tag(phase))} />
          <Whole canister={canister} memory={memory} />
        </div>
      )}
    </Loaded>
  );
}

/** How it uses what it remembers, by its profile. */
function Policy({ canister }: { canister: string }) {
  const { key } = useAgentOfPage();
  const profile = useProfile(canister);
  return (
    <Panel
      title="How it remembers"
      actions={
        <Link to="/agents/$key/profile" params={{ key }} className={buttonClass()}>
          Change it in the profile
        </Link>
      }
    >
      <Loaded query={profile} lines={3}>
        {({ memory }) => (
          <ul className="grid max-w-prose gap-1">
            {memoryPolicy(memory[0] ?? DEFAULT_MEMORY).map((words) => (
              <li key={words}>{words}</li>
            ))}
          </ul>
        )}
      </Loaded>
    </Panel>
  );
}

/** A row of a list with what can be done to it at the right. */
function Row({ children, action }: { children: ReactNode; action: ReactNode }) {
  return (
    <li className="flex items-start justify-between gap-3 py-3 first:pt-0 last:pb-0">
      <div className="min-w-0">{children}</div>
      <div className="shrink-0">{action}</div>
    </li>
  );
}

function FactsPanel({ canister, memory, mayAdd }: { canister: string; memory: types.MemoryUse; mayAdd: boolean }) {
  const [typed, setTyped] = useState("");
  const [wanted, setWanted] = useState("");
  const search = (event: FormEvent) => {
    event.preventDefault();
    setWanted(typed.trim());
  };
  return (
    <Panel title={`Facts (${memory.facts.toLocaleString("en")})`}>
      <div className="grid gap-5">
        {mayAdd ? <Remember canister={canister} /> : <p className="text-sm text-ink-2">In this phase of its life nothing is added to its memory.</p>}
        <form role="search" onSubmit={search} className="flex flex-wrap items-end gap-2 border-t border-line pt-5">
          <div className="min-w-40 flex-1">
            <Field label="Search the facts">
              {(ids) => <Input {...ids} type="search" maxLength={1_000} value={typed} onChange={(event) => setTyped(event.target.value)} placeholder="what you look for" />}
            </Field>
          </div>
          <Button type="submit" disabled={typed.trim() === ""}>
            Search
          </Button>
          {wanted !== "" && (
            <Button
              look="quiet"
              onClick={() => {
                setTyped("");
                setWanted("");
              }}
            >
              Show all
            </Button>
          )}
        </form>
        {wanted === "" ? <FactList canister={canister} /> : <Found canister={canister} text={wanted} />}
      </div>
    </Panel>
  );
}

function Remember({ canister }: { canister: string }) {
  const [text, setText] = useState("");
  const remembering = useAgentAction<string, types.Fact[]>(canister, async (agent, fact) => {
    const facts = unwrap(await agent.remember({ facts: [{ text: fact, vector: [] }], encoder: [] }));
    setText("");
    return facts;
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    remembering.mutate(text.trim());
  };
  const bytes = new TextEncoder().encode(text.trim()).length;
  return (
    <form onSubmit={submit} className="grid gap-3">
      <Field label="Have it remember" hint={bytes > FACT_BYTES ? `Too long: ${bytes} bytes of at most ${FACT_BYTES}.` : "One fact, in a sentence that says on its own what it is about."}>
        {(ids) => <TextArea {...ids} required rows={2} value={text} onChange={(event) => setText(event.target.value)} placeholder="Our mill stands at the river north of Bremen." />}
      </Field>
      {remembering.error && <ErrorNotice error={remembering.error} />}
      <div className="flex flex-wrap items-center gap-3">
        <Button look="primary" type="submit" busy={remembering.isPending} disabled={bytes === 0 || bytes > FACT_BYTES}>
          Remember
        </Button>
        {remembering.data?.[0] && !remembering.isPending && (
          <span role="status" className="text-sm text-good">
            Remembered as number {String(remembering.data[0].id)}.
          </span>
        )}
      </div>
    </form>
  );
}

function FactList({ canister }: { canister: string }) {
  const facts = useFacts(canister);
  return (
    <Loaded query={facts} lines={4}>
      {({ pages }) => {
        const all = pages.flatMap((page) => page.facts);
        if (all.length === 0) return <Empty title="It remembers no fact yet">What you write above is looked up when you talk to it.</Empty>;
        return (
          <div>
            <ul aria-label="Facts" className="grid divide-y divide-line">
              {all.map((fact) => (
                <FactRow key={String(fact.id)} canister={canister} fact={fact} />
              ))}
            </ul>
            <More shown={all.length} hasMore={facts.hasNextPage} busy={facts.isFetchingNextPage} onMore={() => void facts.fetchNextPage()} />
          </div>
        );
      }}
    </Loaded>
  );
}

function Found({ canister, text }: { canister: string; text: string }) {
  const found = useFoundFacts(canister, text);
  return (
    <Loaded query={found} lines={4}>
      {({ facts, method, compared }) => (
        <div className="grid gap-4">
          <p role="status" className="text-sm text-ink-2">
            {count(facts.length, "fact")} found among {compared.toLocaleString("en")},{" "}
            {"InnerProduct" in method ? "by meaning: the score is how alike their vectors are" : "by the words that they share with what you look for: this agent's model makes no vectors of texts"}. The best comes first.
          </p>
          {facts.length > 0 && (
            <ul aria-label="Facts that were found" className="grid divide-y divide-line">
              {facts.map(({ fact, score }) => (
                <FactRow key={String(fact.id)} canister={canister} fact={fact} score={score} />
              ))}
            </ul>
          )}
        </div>
      )}
    </Loaded>
  );
}

function FactRow({ canister, fact, score }: { canister: string; fact: types.Fact; score?: number }) {
  const forgetting = useAgentAction(canister, async (agent) => unwrap(await agent.forget_fact(fact.id)));
  return (
    <Row
      action={
        <ConfirmButton label="Forget" title="Forget this fact?" confirm="Forget it" dismiss="Keep it" busy={forgetting.isPending} onConfirm={() => forgetting.mutate()}>
          It is gone for good: “{fact.text.slice(0, 200)}”
        </ConfirmButton>
      }
    >
      <p className="max-w-prose whitespace-pre-wrap break-words">{fact.text}</p>
      <p className="mt-0.5 text-sm text-ink-2 tabular-nums">
        No. {String(fact.id)} · <When date={dateOf(fact.time_ns)} />
        {score !== undefined && ` · score ${score.toFixed(3)}`}
        {fact.has_vector && " · has a vector"}
      </p>
      {forgetting.error && <ErrorNotice error={forgetting.error} />}
    </Row>
  );
}

function ConversationsPanel({ canister, mayTalk }: { canister: string; mayTalk: boolean }) {
  const { key } = useAgentOfPage();
  const conversations = useConversations(canister);
  return (
    <Panel
      title="Conversations"
      actions={
        mayTalk && (
          <Link to="/agents/$key/talk" params={{ key }} className={buttonClass()}>
            New conversation
          </Link>
        )
      }
    >
      <Loaded query={conversations} lines={3}>
        {({ pages }) => {
          const all = pages.flatMap((page) => page.conversations);
          if (all.length === 0) return <Empty title="No conversation yet">What you say to it, and what it answers, is kept here.</Empty>;
          return (
            <>
              <Table
                label="Conversations"
                rows={all}
                keyOf={(it) => it.name}
                columns={[
                  {
                    title: "Name",
                    cell: (it) => (
                      <Link to="/agents/$key/talk/$conversation" params={{ key, conversation: it.name }} className="break-all underline underline-offset-2">
                        {it.name}
                      </Link>
                    ),
                  },
                  { title: "Turns", right: true, cell: (it) => it.turns.toLocaleString("en") },
                  { title: "Summary", wide: true, cell: (it) => (optional(it.summary) ? `of the first ${count(it.summarised, "turn")}` : "") },
                  { title: "Began", wide: true, cell: (it) => <When date={dateOf(it.begun_at_ns)} /> },
                ]}
              />
              <More shown={all.length} hasMore={conversations.hasNextPage} busy={conversations.isFetchingNextPage} onMore={() => void conversations.fetchNextPage()} />
            </>
          );
        }}
      </Loaded>
    </Panel>
  );
}

/** All of it: numbers, export, erasure. */
function Whole({ canister, memory }: { canister: string; memory: types.MemoryUse }) {
  const { key } = useAgentOfPage();
  const canisters = useCanisters();
  const [lines, setLines] = useState(0);
  const exporting = useMutation({
    mutationFn: async () => {
      const text = await exportMemory((args) => canisters.agent(canister).export_memory(args), setLines);
      saveFile(`${key}-memory-${new Date().toISOString().slice(0, 10)}.jsonl`, "application/jsonl", text);
      return text.split("\n").length - 1;
    },
  });
  const erasing = useAgentAction(canister, async (agent) => unwrap(await agent.erase_memory()));
  const encoder = optional(memory.encoder);
  return (
    <Panel title="All of it">
      <div className="grid gap-4">
        <Facts
          facts={[
            ["Facts", memory.facts.toLocaleString("en")],
            ["With vectors", memory.vectors > 0n ? `${memory.vectors.toLocaleString("en")} of ${memory.dimensions} numbers` : "none"],
            ...(encoder ? [["Vectors by the model", <Id key="" value={hex(encoder)} label="model id" />] as [string, ReactNode]] : []),
            ["Conversations", memory.conversations.toLocaleString("en")],
          ]}
        />
        {exporting.isPending && <Notice>{count(lines, "line")} read</Notice>}
        {exporting.isSuccess && <Notice tone="good">{count(exporting.data, "line")} exported: the profile, facts, conversations. The file is among your downloads.</Notice>}
        {exporting.error && <ErrorNotice error={exporting.error} onRetry={() => exporting.mutate()} />}
        {erasing.isSuccess && <Notice tone="good">The agent remembers nothing any more.</Notice>}
        {erasing.error && <ErrorNotice error={erasing.error} onRetry={() => erasing.mutate()} />}
        <div className="flex flex-wrap gap-2">
          <Button busy={exporting.isPending} onClick={() => exporting.mutate()}>
            Export the memory
          </Button>
          <ConfirmButton label="Erase the memory" title="Erase all that it remembers?" confirm="Erase everything" dismiss="Keep it" busy={erasing.isPending} onConfirm={() => erasing.mutate()}>
            {count(memory.facts, "fact")} and {count(memory.conversations, "conversation")} are gone for good. The profile, jobs and receipts stay. If you want to keep the memory, export it first.
          </ConfirmButton>
        </div>
      </div>
    </Panel>
  );
}
