import { Link } from "@tanstack/react-router";
import { type coordinatorTypes as types, unwrap } from "@ohms/client";
import { type FormEvent, useState } from "react";
import { Button, buttonClass, cx, ErrorNotice, Field, Input, Notice, Panel, TextArea } from "../../components/ui.tsx";
import { useAccount, useHasEconomy } from "../../economy/queries.ts";
import { creationsLeft, tokensLeft, usable } from "../../economy/words.ts";
import { count, dateOf } from "../../format.ts";
import { answered } from "../../projects/words.ts";
import { useCanisters } from "../../session.tsx";
import { PlanFacts } from "./PlanFacts.tsx";
import { useProjectAction } from "./ProjectLayout.tsx";

/** A plan before anything runs: what it takes and costs, or what is not clear. */
export function PlanProposal({ project }: { project: types.Project }) {
  const { coordinator } = useCanisters();
  const { id, request, analysis } = project;
  const revision = useProjectAction(id, async (instruction: string) =>
    unwrap(await coordinator().revise_plan({ project: id, request: { ...request, instruction } })),
  );
  return (
    <div className="grid gap-4">
      {revision.error && <ErrorNotice error={revision.error} />}
      {analysis.questions.length > 0 ? (
        <Questions key={request.instruction} questions={analysis.questions} instruction={request.instruction} busy={revision.isPending} onAnswer={revision.mutate} />
      ) : (
        <>
          <Cost project={project} />
          <PlanFacts project={project} />
        </>
      )}
      <Panel title="Say it differently">
        <Rewording key={request.instruction} instruction={request.instruction} busy={revision.isPending} onSend={revision.mutate} />
      </Panel>
    </div>
  );
}

/** What the plan takes of the quota, what is there, and the button that begins. */
function Cost({ project }: { project: types.Project }) {
  const { coordinator } = useCanisters();
  const hasEconomy = useHasEconomy();
  const account = useAccount();
  const approval = useProjectAction(project.id, async () => unwrap(await coordinator().approve_plan(project.id)));
  const { creations, tokens } = project.plan.cost;
  const summary = account.data;
  const subscribed = !hasEconomy || (summary && usable(summary.subscription));
  const short =
    summary && subscribed && hasEconomy
      ? [
          ...(BigInt(creations) > creationsLeft(summary) ? [count(BigInt(creations) - creationsLeft(summary), "creation")] : []),
          ...(tokens > tokensLeft(summary) ? [count(tokens - tokensLeft(summary), "token")] : []),
        ]
      : [];
  return (
    <Panel title="What it costs">
      <div className="grid gap-4">
        {approval.error && <ErrorNotice error={approval.error} onRetry={() => approval.mutate()} />}
        <dl className="grid gap-x-6 gap-y-3 sm:grid-cols-2">
          <Amount name="Agents created" cost={BigInt(creations)} left={summary && subscribed ? creationsLeft(summary) : undefined} />
          <Amount name="Tokens, at most" cost={tokens} left={summary && subscribed ? tokensLeft(summary) : undefined} />
        </dl>
        {account.error && !summary && <ErrorNotice error={account.error} onRetry={() => void account.refetch()} />}
        {summary && !subscribed && (
          <Notice tone="warn">You need a subscription to run it. The plan waits here meanwhile.</Notice>
        )}
        {short.length > 0 && (
          <Notice tone="warn">
            Your subscription lacks {short.join(" and ")}
            {summary?.subscription.period[0] ? ` until ${dateOf(summary.subscription.period[0].end_ns).toLocaleDateString("en")}` : ""}. Ask for less
            below, or take a larger tier.
          </Notice>
        )}
        <div className="flex flex-wrap items-center gap-3">
          {summary && !subscribed ? (
            <Link to="/subscription" className={buttonClass("primary")}>
              Choose a subscription
            </Link>
          ) : (
            <Button look="primary" busy={approval.isPending} disabled={short.length > 0 || (hasEconomy && !summary)} onClick={() => approval.mutate()}>
              Approve and begin
            </Button>
          )}
          {short.length > 0 && (
            <Link to="/subscription" className={buttonClass()}>
              See the tiers
            </Link>
          )}
          <p className="text-sm text-ink-2">Nothing runs before. What is not used is given back.</p>
        </div>
      </div>
    </Panel>
  );
}

function Amount({ name, cost, left }: { name: string; cost: bigint; left: bigint | undefined }) {
  return (
    <div>
      <dt className="text-sm text-ink-2">{name}</dt>
      <dd className="tabular-nums">
        <span className="text-lg font-semibold">{cost.toLocaleString("en")}</span>
        {left !== undefined && <span className={cx("ml-2 text-sm", cost > left ? "text-bad" : "text-ink-2")}>of {left.toLocaleString("en")} left</span>}
      </dd>
    </div>
  );
}

function Questions({
  questions,
  instruction,
  busy,
  onAnswer,
}: {
  questions: types.Question[];
  instruction: string;
  busy: boolean;
  onAnswer: (instruction: string) => void;
}) {
  const question = questions[0];
  const [answer, setAnswer] = useState("");
  if (!question) return null;
  const submit = (event: FormEvent) => {
    event.preventDefault();
    onAnswer(answered(instruction, question.topic, answer));
  };
  return (
    <Panel title={questions.length > 1 ? `Question 1 of ${questions.length}` : "A question first"}>
      <form onSubmit={submit} className="grid gap-4">
        <p className="max-w-prose text-lg">{question.text}</p>
        {question.options.length > 0 && (
          <div role="group" aria-label="Answers to choose from" className="flex flex-wrap gap-2">
            {question.options.map((option) => (
              <button
                key={option}
                type="button"
                aria-pressed={answer === option}
                onClick={() => setAnswer(option)}
                className={cx(buttonClass(), "aria-pressed:border-accent aria-pressed:bg-accent-soft")}
              >
                {option}
              </button>
            ))}
          </div>
        )}
        <Field label="Your answer">
          {(ids) => <Input {...ids} required maxLength={1_000} autoComplete="off" value={answer} onChange={(event) => setAnswer(event.target.value)} className="max-w-md" />}
        </Field>
        <div>
          <Button look="primary" type="submit" busy={busy} disabled={answer.trim() === ""}>
            Answer
          </Button>
        </div>
      </form>
    </Panel>
  );
}

function Rewording({ instruction, busy, onSend }: { instruction: string; busy: boolean; onSend: (instruction: string) => void }) {
  const [words, setWords] = useState(instruction);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    onSend(words.trim());
  };
  return (
    <form onSubmit={submit} className="grid gap-3">
      <Field label="What shall be done" hint="A new plan takes the place of this one.">
        {(ids) => <TextArea {...ids} required rows={3} maxLength={4_000} value={words} onChange={(event) => setWords(event.target.value)} />}
      </Field>
      <div>
        <Button type="submit" busy={busy} disabled={words.trim() === "" || words.trim() === instruction}>
          Plan anew
        </Button>
      </div>
    </form>
  );
}
