import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { type agentTypes as types, CanisterError, optional, unwrap } from "@ohms/client";
import { useEffect, useRef, useState } from "react";
import { isOpenTurn, useAgentAction, useTurns } from "../../agent/queries.ts";
import { conversationName } from "../../agent/words.ts";
import { LiveAnswer, Outcome } from "../../components/Answer.tsx";
import { Composer } from "../../components/Composer.tsx";
import { Loaded } from "../../components/Loaded.tsx";
import { Button, buttonClass, ConfirmButton, Empty, ErrorNotice, Loading, Notice } from "../../components/ui.tsx";
import { Written } from "../../components/Written.tsx";
import { count } from "../../format.ts";
import { useJob } from "../../queries.ts";
import { useCanisters } from "../../session.tsx";
import { useAgentOfPage } from "../AgentLayout.tsx";

/** Time between two attempts while the model is being loaded, in milliseconds, and their number: a quarter of an hour. */
const LOADING_MS = 1_500;
const LOADING_ATTEMPTS = 600;

/** A conversation that the agent remembers; without a name in the address, one that begins. */
export function TalkPage() {
  const { canister } = useAgentOfPage();
  const { conversation } = useParams({ strict: false }) as { conversation?: string };
  return canister ? <Talk key={conversation ?? ""} canister={canister} name={conversation} /> : <Loading />;
}

/** Turns of a conversation, and the place to say the next thing. */
export function Talk({ canister, name }: { canister: string; name: string | undefined }) {
  const { key } = useAgentOfPage();
  const canisters = useCanisters();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const [loading, setLoading] = useState(false);
  const turns = useTurns(canister, name);
  const open = turns.data?.pages[0]?.turns.findLast(isOpenTurn);
  const stop = useAgentAction<bigint>(canister, async (agent, jobId) => unwrap(await agent.cancel_job(jobId)));
  const saying = useMutation({
    mutationFn: async (message: string) => {
      const args: types.ConverseArgs = { conversation: name ?? conversationName(message, new Date()), message, key: crypto.randomUUID(), priority: [] };
      for (let attempt = 1; ; attempt++) {
        try {
          return { turn: unwrap(await canisters.agent(canister).converse(args)), conversation: args.conversation };
        } catch (error) {
          const state = error instanceof CanisterError && error.kind === "NotLoaded" ? (error.fields["load"] as types.LoadState) : undefined;
          if (!state || "Failed" in state || attempt === LOADING_ATTEMPTS) throw error;
          // The same key is the same message: it goes out once the model is there.
          setLoading(true);
          await new Promise((resolve) => setTimeout(resolve, LOADING_MS));
        }
      }
    },
    onSuccess: ({ conversation }) => {
      if (name === undefined) void navigate({ to: "/agents/$key/talk/$conversation", params: { key, conversation }, replace: true });
    },
    onSettled: () => {
      setLoading(false);
      return queries.invalidateQueries({ predicate: ({ queryKey }) => queryKey.includes(canister) });
    },
  });
  return (
    <div className="flex flex-col gap-4">
      {name === undefined ? (
        <Empty title="Say something">
          <p>It remembers what is said in a conversation, and looks up facts of its memory that fit. The first message brings the model into the agent; that takes some seconds more.</p>
        </Empty>
      ) : (
        <Conversation canister={canister} name={name} turns={turns} />
      )}
      {loading && <Notice>The model is being loaded into the agent. Your message goes out when it is there.</Notice>}
      {(saying.error ?? stop.error) && <ErrorNotice error={saying.error ?? stop.error} />}
      <Composer
        label="Message"
        placeholder="Write a message"
        send="Send"
        maxLength={4_000}
        busy={saying.isPending}
        options={
          <Link to="/agents/$key/profile" params={{ key }} className="px-2 text-xs text-ink-2 underline underline-offset-2 hover:text-ink">
            Length and style
          </Link>
        }
        onStop={open ? () => stop.mutate(open.job_id) : undefined}
        stopping={stop.isPending}
        onSend={(text) => saying.mutateAsync(text.trim()).then(() => true, () => false)}
      />
    </div>
  );
}

function Conversation({ canister, name, turns }: { canister: string; name: string; turns: ReturnType<typeof useTurns> }) {
  const { key } = useAgentOfPage();
  const navigate = useNavigate();
  const forgetting = useAgentAction(canister, async (agent) => {
    unwrap(await agent.forget_conversation(name));
    await navigate({ to: "/agents/$key/memory", params: { key } });
  });
  const end = useRef<HTMLDivElement>(null);
  const newest = turns.data?.pages[0]?.turns.at(-1)?.index;
  useEffect(() => {
    if (newest !== undefined) end.current?.scrollIntoView({ block: "nearest" });
  }, [newest]);
  return (
    <>
      <div className="flex flex-wrap items-center justify-between gap-2">
        <h2 className="min-w-0 break-words">{name}</h2>
        <div className="flex flex-wrap gap-2">
          <Link to="/agents/$key/talk" params={{ key }} className={buttonClass()}>
            New conversation
          </Link>
          <ConfirmButton label="Forget it" title="Forget this conversation?" confirm="Forget it" dismiss="Keep it" busy={forgetting.isPending} onConfirm={() => forgetting.mutate()}>
            What was said in it is gone from the agent's memory for good. The jobs that gave the answers stay in the list of jobs for as long as it keeps them.
          </ConfirmButton>
        </div>
      </div>
      {forgetting.error && <ErrorNotice error={forgetting.error} />}
      <Loaded query={turns} lines={6}>
        {({ pages }) => {
          const conversation = pages[0]?.conversation;
          const all = pages.toReversed().flatMap((page) => page.turns);
          return (
            <div className="min-h-[30vh]">
              {conversation && <Summary conversation={conversation} />}
              {turns.hasNextPage && (
                <div className="mb-4 text-center">
                  <Button busy={turns.isFetchingNextPage} onClick={() => void turns.fetchNextPage()}>
                    Show earlier ones
                  </Button>
                </div>
              )}
              <ol className="grid gap-6" aria-label="Conversation">
                {all.map((turn) => (
                  <TurnItem key={turn.index} agent={key} canister={canister} turn={turn} />
                ))}
              </ol>
              <div ref={end} />
            </div>
          );
        }}
      </Loaded>
    </>
  );
}

function Summary({ conversation }: { conversation: types.Conversation }) {
  const summary = optional(conversation.summary);
  if (summary === undefined && conversation.summary_job.length === 0) return null;
  return (
    <details className="mb-5 rounded-md border border-line bg-panel px-4 py-3">
      <summary className="text-sm text-ink-2">
        {conversation.summary_job.length > 0 ? "A summary is being written" : `A summary stands for the first ${count(conversation.summarised, "turn")} in new prompts`}
      </summary>
      {summary !== undefined && <p className="mt-2 max-w-prose whitespace-pre-wrap break-words">{summary}</p>}
    </details>
  );
}

function TurnItem({ agent, canister, turn }: { agent: string; canister: string; turn: types.Turn }) {
  // Whoever saw the answer being written goes on seeing it there.
  const [live] = useState(isOpenTurn(turn));
  const taken = [
    ...(turn.turns_in_prompt > 0 ? [count(turn.turns_in_prompt, "earlier turn")] : []),
    ...(turn.facts_in_prompt.length > 0 ? [count(turn.facts_in_prompt.length, "fact")] : []),
  ];
  return (
    <li className="grid gap-2">
      <div className="ml-auto max-w-[85%] rounded-lg bg-accent-soft px-3.5 py-2 whitespace-pre-wrap break-words">
        <span className="sr-only">You: </span>
        {turn.message}
      </div>
      <div>
        {live ? <LiveAnswer agent={agent} canister={canister} jobId={turn.job_id} /> : <GivenAnswer agent={agent} canister={canister} turn={turn} />}
        {taken.length > 0 && <p className="mt-1 text-sm text-ink-2">Its prompt had {taken.join(" and ")} of the memory.</p>}
      </div>
    </li>
  );
}

/** An answer that the conversation keeps; how it came to be is known for as long as the job is kept. */
function GivenAnswer({ agent, canister, turn }: { agent: string; canister: string; turn: types.Turn }) {
  const job = useJob(canister, turn.job_id);
  return (
    <>
      {turn.failed ? <p className="text-ink-2">There was no answer.</p> : <Written beginning="" text={optional(turn.answer)?.trim() || "(an empty answer)"} />}
      {job.data && <Outcome agent={agent} job={job.data} />}
    </>
  );
}
