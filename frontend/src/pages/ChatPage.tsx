import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type agentTypes, optional, unwrap } from "@ohms/client";
import { Settings2 } from "lucide-react";
import { lazy, Suspense, useEffect, useRef, useState } from "react";
import { useConversationNames } from "../agent/queries.ts";
import { Answer, LiveAnswer } from "../components/Answer.tsx";
import { Composer } from "../components/Composer.tsx";
import { Loaded } from "../components/Loaded.tsx";
import { Button, Empty, ErrorNotice, Field, Input, Loading } from "../components/ui.tsx";
import { hasEnded, useJobs, useManifest, usePrompt } from "../queries.ts";
import { useCanisters, useSignedIn } from "../session.tsx";
import { isText, randomSeed, textKey } from "../texts.ts";
import { useAgentOfPage } from "./AgentLayout.tsx";

const Talk = lazy(() => import("./agent/TalkPage.tsx").then((it) => ({ default: it.Talk })));

/** Texts that are shown at first. */
const SHOWN = 10;

interface Sampling {
  maxTokens: number;
  temperature: number;
  /** Empty for a new one each time. */
  seed: string;
}

/** Talks to the agent: its last conversation if its model has a chat template, otherwise texts that it continues. */
export function ChatPage() {
  const { record, canister } = useAgentOfPage();
  const manifest = useManifest(record?.model_id ?? [], record !== undefined);
  if (!record || !canister) return <Loading />;
  return (
    <Loaded query={manifest}>
      {({ chat_template }) => (chat_template === null || chat_template === undefined ? <Texts canister={canister} /> : <LastConversation canister={canister} />)}
    </Loaded>
  );
}

function LastConversation({ canister }: { canister: string }) {
  const names = useConversationNames(canister);
  return (
    <Loaded query={names} lines={6}>
      {(all) => (
        <Suspense fallback={<Loading lines={6} />}>
          <Talk key={all[0] ?? ""} canister={canister} name={all[0]} />
        </Suspense>
      )}
    </Loaded>
  );
}

function Texts({ canister }: { canister: string }) {
  const { principal } = useSignedIn();
  const canisters = useCanisters();
  const queries = useQueryClient();
  const jobs = useJobs(canister);
  const [shown, setShown] = useState(SHOWN);
  const [sampling, setSampling] = useState<Sampling>({ maxTokens: 128, temperature: 0.7, seed: "" });

  // Newest last, as people read.
  const texts = (jobs.data ?? []).filter(isText).reverse();
  const visible = texts.slice(-shown);
  const last = texts.at(-1);
  const open = last && !hasEnded(last) ? last : undefined;

  const submission = useMutation({
    mutationFn: async (text: string) =>
      unwrap(
        await canisters.agent(canister).submit_job({
          key: [textKey()],
          prompt: text,
          messages: [],
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
            json_schema: [],
            when_full: [],
          },
        }),
      ),
    onSuccess: (job) => {
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
      <Loaded query={jobs} lines={6}>
        {() => (
          <div className="min-h-[38vh]">
            {visible.length === 0 && (
              <Empty title="Begin a text">
                <p>This model continues texts: write a beginning, and the agent goes on from there. The first one brings the model into its memory.</p>
              </Empty>
            )}
            {texts.length > visible.length && (
              <div className="mb-4 text-center">
                <Button onClick={() => setShown(shown + SHOWN)}>Show earlier ones</Button>
              </div>
            )}
            <ol className="grid gap-6" aria-label="Texts">
              {visible.map((job) => (
                <Text key={String(job.job_id)} canister={canister} job={job} />
              ))}
            </ol>
          </div>
        )}
      </Loaded>
      {(submission.error ?? stop.error) && <ErrorNotice error={submission.error ?? stop.error} />}
      <TextComposer
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

function TextComposer({
  busy,
  sampling,
  onSampling,
  onSend,
  onStop,
  stopping,
}: {
  busy: boolean;
  sampling: Sampling;
  onSampling: (sampling: Sampling) => void;
  onSend: (text: string) => Promise<boolean>;
  onStop: (() => void) | undefined;
  stopping: boolean;
}) {
  const [open, setOpen] = useState(false);
  return (
    <Composer
      label="Beginning of the text"
      placeholder="Once upon a time"
      send="Continue"
      maxLength={16_000}
      busy={busy}
      onSend={onSend}
      onStop={onStop}
      stopping={stopping}
      options={
        <Button look="quiet" aria-expanded={open} aria-controls="sampling" onClick={() => setOpen(!open)}>
          <Settings2 aria-hidden className="size-4" />
          <span className="max-sm:sr-only">{`${sampling.maxTokens} tokens, temperature ${sampling.temperature}`}</span>
        </Button>
      }
      panel={
        open && (
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
        )
      }
    />
  );
}

function Text({ canister, job }: { canister: string; job: agentTypes.JobRecord }) {
  const { key } = useAgentOfPage();
  // Whoever saw it being written goes on seeing it there.
  const [live] = useState(!hasEnded(job));
  const prompt = usePrompt(canister, job.job_id);
  const messages = prompt.data && optional(prompt.data.messages);
  const beginning = (messages ? messages.at(-1)?.content : prompt.data?.prompt) ?? "";
  return (
    <li>
      {live ? (
        <LiveAnswer agent={key} canister={canister} jobId={job.job_id} beginning={beginning} />
      ) : (
        <Answer agent={key} canister={canister} job={job} beginning={beginning} />
      )}
    </li>
  );
}
