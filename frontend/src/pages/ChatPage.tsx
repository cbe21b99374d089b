import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type agentTypes, CanisterError, optional, unwrap } from "@ohms/client";
import { ArrowUp, CircleCheck, Settings2, Square } from "lucide-react";
import { type FormEvent, type KeyboardEvent, useEffect, useMemo, useRef, useState } from "react";
import { chatKey, newThread, nextMessages, randomSeed, threadOf } from "../conversation.ts";
import { Loaded } from "../components/Loaded.tsx";
import { Written } from "../components/Written.tsx";
import { Badge, Button, Empty, ErrorNotice, Field, Input, Loading, Notice, TextArea } from "../components/ui.tsx";
import { compact, count, dateOf, duration } from "../format.ts";
import { useLive } from "../live.ts";
import { hasEnded, readOutput, useJobs, useManifest, useOutput, usePrompt } from "../queries.ts";
import { useCanisters, useSignedIn } from "../session.tsx";
import { finishReason, jobFailure, jobState } from "../words.ts";
import { useAgentOfPage } from "./AgentLayout.tsx";

/** Exchanges that are shown at first. */
const SHOWN = 10;

interface Sampling {
  maxTokens: number;
  temperature: number;
  /** Empty for a new one each time. */
  seed: string;
}

/** Talks to the agent: a conversation if its model has a chat template, otherwise texts that it continues. */
export function ChatPage() {
  const { record, canister } = useAgentOfPage();
  const manifest = useManifest(record?.model_id ?? [], record !== undefined);
  if (!record || !canister) return <Loading />;
  return (
    <Loaded query={manifest}>
      {({ chat_template }) => <Chat canister={canister} conversational={chat_template !== null && chat_template !== undefined} />}
    </Loaded>
  );
}

function Chat({ canister, conversational }: { canister: string; conversational: boolean }) {
  const { principal } = useSignedIn();
  const canisters = useCanisters();
  const queries = useQueryClient();
  const jobs = useJobs(canister);
  const [shown, setShown] = useState(SHOWN);
  const [thread, setThread] = useState<string>();
  const [fresh, setFresh] = useState(false);
  const [sampling, setSampling] = useState<Sampling>({ maxTokens: 128, temperature: 0.7, seed: "" });

  const chats = useMemo(() => (jobs.data ?? []).filter((job) => threadOf(job)), [jobs.data]);
  const current = thread ?? (fresh ? undefined : chats[0] && threadOf(chats[0])?.thread);
  // Newest last, as people read. Texts to continue belong to no conversation: all of them are shown.
  const exchanges = chats.filter((job) => !conversational || threadOf(job)?.thread === current).reverse();
  const visible = exchanges.slice(-shown);
  const last = exchanges.at(-1);
  const open = last && !hasEnded(last) ? last : undefined;

  const submission = useMutation({
    mutationFn: async (text: string) => {
      const agent = canisters.agent(canister);
      const id = current ?? newThread();
      const turn = last ? (threadOf(last)?.turn ?? 0) + 1 : 0;
      let history: agentTypes.ChatMessage[] = [];
      if (conversational && last) {
        const [prompt, output] = await Promise.all([agent.get_prompt(last.job_id), readOutput(agent, last.job_id)]);
        history = [...(optional(unwrap(prompt).messages) ?? []), { role: { Assistant: null }, content: output.text }];
      }
      const job = unwrap(
        await agent.submit_job({
          key: [chatKey(id, turn)],
          prompt: conversational ? "" : text,
          messages: conversational ? [nextMessages(history, text)] : [],
          priority: [{ RealTime: null }],
          deadline_ns: [],
          max_instructions: [],
          params: {
            max_tokens: sampling.maxTokens,
            temperature: sampling.temperature,
            seed: sampling.seed === "" ? randomSeed() : BigInt(sampling.seed),
            top_k: [40],
            top_p: [0.95],
            min_p: [],
            stop: [],
            repetition_penalty: [],
            repetition_window: [],
            logit_bias: [],
            when_full: [],
          },
        }),
      );
      return { id, job };
    },
    onSuccess: ({ id, job }) => {
      setThread(id);
      setFresh(false);
      void queries.invalidateQueries({ queryKey: [principal.toText(), "agent-status", canister] });
      queries.setQueryData<agentTypes.JobRecord[]>([principal.toText(), "jobs", canister], (old) => [
        job,
        ...(old ?? []).filter((it) => it.job_id !== job.job_id),
      ]);
    },
  });
  const stop = useMutation({
    mutationFn: async (jobId: bigint) => unwrap(await canisters.agent(canister).cancel_job(jobId)),
    onSettled: () => queries.invalidateQueries({ queryKey: [principal.toText(), "jobs", canister] }),
  });

  const end = useRef<HTMLDivElement>(null);
  const newest = last?.job_id;
  useEffect(() => {
    if (newest !== undefined) end.current?.scrollIntoView({ block: "end" });
  }, [newest]);

  return (
    <div className="flex flex-col gap-4">
      {conversational && exchanges.length > 0 && (
        <div className="flex justify-end">
          <Button
            look="quiet"
            onClick={() => {
              setThread(undefined);
              setFresh(true);
            }}
          >
            New conversation
          </Button>
        </div>
      )}
      <Loaded query={jobs} lines={6}>
        {() => (
          <div className="min-h-[38vh]">
            {visible.length === 0 && (
              <Empty title={conversational ? "Say something" : "Begin a text"}>
                <p>
                  {conversational
                    ? "The first message brings the model into the agent's memory; that takes some seconds more."
                    : "This model continues texts: write a beginning, and the agent goes on from there. The first one brings the model into its memory."}
                </p>
              </Empty>
            )}
            {exchanges.length > visible.length && (
              <div className="mb-4 text-center">
                <Button onClick={() => setShown(shown + SHOWN)}>Show earlier ones</Button>
              </div>
            )}
            <ol className="grid gap-6" aria-label={conversational ? "Conversation" : "Texts"}>
              {visible.map((job) => (
                <Exchange key={String(job.job_id)} canister={canister} job={job} conversational={conversational} />
              ))}
            </ol>
          </div>
        )}
      </Loaded>
      {(submission.error ?? stop.error) && <ErrorNotice error={submission.error ?? stop.error} />}
      <Composer
        conversational={conversational}
        busy={submission.isPending}
        sampling={sampling}
        onSampling={setSampling}
        onSend={(text) => submission.mutateAsync(text).then(() => true, () => false)}
        onStop={open ? () => stop.mutate(open.job_id) : undefined}
        stopping={stop.isPending}
      />
      <div ref={end} />
    </div>
  );
}

function Composer({
  conversational,
  busy,
  sampling,
  onSampling,
  onSend,
  onStop,
  stopping,
}: {
  conversational: boolean;
  busy: boolean;
  sampling: Sampling;
  onSampling: (sampling: Sampling) => void;
  onSend: (text: string) => Promise<boolean>;
  onStop: (() => void) | undefined;
  stopping: boolean;
}) {
  const [text, setText] = useState("");
  const [open, setOpen] = useState(false);
  const send = async () => {
    if (text.trim() === "" || busy || onStop) return;
    // A text that was refused stays, to be changed and sent again.
    if (await onSend(text)) setText("");
  };
  const submit = (event: FormEvent) => {
    event.preventDefault();
    void send();
  };
  const key = (event: KeyboardEvent) => {
    if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) {
      event.preventDefault();
      void send();
    }
  };
  return (
    <form onSubmit={submit} className="sticky bottom-0 bg-canvas pb-2 max-md:bottom-[3.75rem]">
      <div className="rounded-lg border border-strong-line bg-panel p-2 focus-within:border-accent">
        <label htmlFor="message" className="sr-only">
          {conversational ? "Message" : "Beginning of the text"}
        </label>
        <TextArea
          id="message"
          rows={2}
          value={text}
          maxLength={16_000}
          onChange={(event) => setText(event.target.value)}
          onKeyDown={key}
          placeholder={conversational ? "Write a message" : "Once upon a time"}
          aria-describedby="composer-hint"
          className="!resize-none border-0 !outline-none"
        />
        <div className="flex items-center gap-2">
          <Button look="quiet" aria-expanded={open} aria-controls="sampling" onClick={() => setOpen(!open)}>
            <Settings2 aria-hidden className="size-4" />
            <span className="max-sm:sr-only">{`${sampling.maxTokens} tokens, temperature ${sampling.temperature}`}</span>
          </Button>
          <span id="composer-hint" className="ml-auto text-xs text-ink-2 max-sm:hidden">
            Enter sends, Shift+Enter makes a line
          </span>
          {onStop ? (
            <Button onClick={onStop} busy={stopping} className="max-sm:ml-auto">
              <Square aria-hidden className="size-3.5" />
              Stop
            </Button>
          ) : (
            <Button look="primary" type="submit" busy={busy} disabled={text.trim() === ""} className="max-sm:ml-auto">
              <ArrowUp aria-hidden className="size-4" />
              {conversational ? "Send" : "Continue"}
            </Button>
          )}
        </div>
        {open && (
          <div id="sampling" className="mt-2 grid gap-3 border-t border-line p-2 pt-3 sm:grid-cols-3">
            <Field label="Tokens at most">
              {(ids) => (
                <Input
                  {...ids}
                  type="number"
                  min={1}
                  max={32_768}
                  value={sampling.maxTokens}
                  onChange={(event) => onSampling({ ...sampling, maxTokens: Math.max(1, Math.trunc(event.target.valueAsNumber) || 1) })}
                />
              )}
            </Field>
            <Field label="Temperature" hint="0 takes the likeliest word each time.">
              {(ids) => (
                <Input
                  {...ids}
                  type="number"
                  min={0}
                  max={10}
                  step={0.1}
                  value={sampling.temperature}
                  onChange={(event) => onSampling({ ...sampling, temperature: Math.max(0, event.target.valueAsNumber || 0) })}
                />
              )}
            </Field>
            <Field label="Seed" hint="The same seed gives the same text.">
              {(ids) => (
                <Input
                  {...ids}
                  inputMode="numeric"
                  pattern="[0-9]*"
                  maxLength={18}
                  placeholder="a new one each time"
                  value={sampling.seed}
                  onChange={(event) => onSampling({ ...sampling, seed: event.target.value.replace(/\D/g, "") })}
                />
              )}
            </Field>
          </div>
        )}
      </div>
    </form>
  );
}

function Exchange({ canister, job, conversational }: { canister: string; job: agentTypes.JobRecord; conversational: boolean }) {
  const prompt = usePrompt(canister, job.job_id);
  const messages = prompt.data && optional(prompt.data.messages);
  const asked = messages ? messages.at(-1)?.content : prompt.data?.prompt;
  return (
    <li className="grid gap-2">
      {conversational && (
        <div className="ml-auto max-w-[85%] rounded-lg bg-accent-soft px-3.5 py-2 whitespace-pre-wrap break-words">
          <span className="sr-only">You: </span>
          {asked ?? "…"}
        </div>
      )}
      {hasEnded(job) ? (
        <Answer canister={canister} job={job} beginning={conversational ? "" : (asked ?? "")} />
      ) : (
        <LiveAnswer canister={canister} job={job} beginning={conversational ? "" : (asked ?? "")} />
      )}
    </li>
  );
}

function Answer({ canister, job, beginning }: { canister: string; job: agentTypes.JobRecord; beginning: string }) {
  const output = useOutput(canister, job.job_id, true);
  return (
    <Loaded query={output} lines={2}>
      {({ text }) => (
        <>
          <Written beginning={beginning} text={text} />
          <Outcome job={job} />
        </>
      )}
    </Loaded>
  );
}

function LiveAnswer({ canister, job, beginning }: { canister: string; job: agentTypes.JobRecord; beginning: string }) {
  const live = useLive(canister, job.job_id);
  const record = live.job ?? job;
  const state = jobState(record.state);
  return (
    <div aria-busy={!hasEnded(record)}>
      <Written beginning={beginning} text={live.text} draft={live.draft} />
      {live.differed && (
        <Notice tone="bad">A draft was different from the text that followed. This is a bug; please report it with the number of this job, {String(job.job_id)}.</Notice>
      )}
      {live.error !== undefined && (
        <div className="mt-2">
          <ErrorNotice error={live.error} />
        </div>
      )}
      {hasEnded(record) ? (
        <Outcome job={record} />
      ) : (
        <p className="mt-1.5 flex flex-wrap items-center gap-x-3 gap-y-1 text-sm text-ink-2">
          <Badge tone={state.tone} busy={state.busy ?? false}>
            {state.words}
          </Badge>
          <span>{count(live.tokens, "token")} on chain</span>
          {live.draft && <span className="underline decoration-dotted underline-offset-4">dotted: a draft, not confirmed yet</span>}
        </p>
      )}
    </div>
  );
}

/** How a job ended, and the way to its receipt. */
function Outcome({ job }: { job: agentTypes.JobRecord }) {
  const { key } = useAgentOfPage();
  const state = jobState(job.state);
  const finished = optional(job.finished_at_ns);
  const took = finished === undefined ? undefined : dateOf(finished).getTime() - dateOf(job.submitted_at_ns).getTime();
  return (
    <div className="mt-1.5 grid gap-1 text-sm text-ink-2">
      {"Failed" in job.state && <ErrorNotice error={new CanisterError({ InvalidField: { field: "The agent could not answer", reason: jobFailure(job.state.Failed.reason) } })} />}
      <p className="flex flex-wrap items-center gap-x-2">
        {"Done" in job.state ? (
          <CircleCheck aria-hidden className="size-4 text-good" />
        ) : (
          <Badge tone={state.tone}>{state.words}</Badge>
        )}
        <span title={"Done" in job.state ? finishReason(job.state.Done.reason) : undefined}>{count(job.counts.generated_tokens, "token")}</span>
        <span aria-hidden>·</span>
        <span>{compact(job.counts.instructions)} instructions</span>
        {took !== undefined && (
          <>
            <span aria-hidden>·</span>
            <span>{duration(took)}</span>
          </>
        )}
        <span aria-hidden>·</span>
        <Link to="/agents/$key/jobs/$job" params={{ key, job: String(job.job_id) }} className="underline underline-offset-2 hover:text-ink">
          Verify
        </Link>
      </p>
    </div>
  );
}
