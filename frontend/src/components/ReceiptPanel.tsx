import { useMutation, useQuery } from "@tanstack/react-query";
import { Principal } from "@icp-sdk/core/principal";
import { type Check, hex, replayCommands, tag, unwrap, verifyReceipt } from "@ohms/client";
import { CircleCheck, CircleHelp, CircleX, ShieldCheck } from "lucide-react";
import { readOutput } from "../queries.ts";
import { useCanisters, useSignedIn } from "../session.tsx";
import { Loaded } from "./Loaded.tsx";
import { Button, Command, ErrorNotice, Facts, Id, Notice, Panel } from "./ui.tsx";

/** The receipt of a job, with a button that checks it in this browser. */
export function ReceiptPanel({ canister, jobId }: { canister: string; jobId: bigint }) {
  const canisters = useCanisters();
  const { environment, principal } = useSignedIn();
  const query = useQuery({
    queryKey: [principal.toText(), "receipt", canister, String(jobId)],
    staleTime: Infinity,
    queryFn: async () => unwrap(await canisters.agent(canister).get_receipt({ Job: jobId })).receipt,
  });
  const verification = useMutation({
    mutationFn: async () => {
      const agent = canisters.agent(canister);
      // Asked for anew: a certificate is valid for minutes.
      const certified = unwrap(await agent.get_receipt({ Job: jobId }));
      const prompt = await agent.get_prompt(jobId);
      const output = await readOutput(agent, jobId).catch(() => undefined);
      return verifyReceipt({
        certified,
        agent: Principal.fromText(canister),
        rootKey: environment.rootKey,
        prompt: "Ok" in prompt ? prompt.Ok : undefined,
        tokens: output?.tokens,
        text: output?.text,
      });
    },
  });
  return (
    <Panel
      title="Receipt"
      actions={
        <Button look="primary" busy={verification.isPending} onClick={() => verification.mutate()}>
          <ShieldCheck aria-hidden className="size-4" />
          Verify in this browser
        </Button>
      }
    >
      <Loaded query={query}>
        {(receipt) => (
          <div className="grid gap-4">
            <Facts
              facts={[
                ["Number in the agent's chain", String(receipt.sequence)],
                ["Model", <Id key="" value={hex(receipt.model_id)} label="model id" />],
                ["Engine", receipt.engine_version],
                ["Prompt", <Id key="" value={hex(receipt.prompt_sha256)} label="hash" />],
                ["Tokens", <Id key="" value={hex(receipt.tokens_sha256)} label="hash" />],
                ["Text", <Id key="" value={hex(receipt.text_sha256)} label="hash" />],
                ["Receipt before it", <Id key="" value={hex(receipt.previous)} label="hash" />],
                ["Outcome", tag(receipt.outcome)],
              ]}
            />
            {verification.error && <ErrorNotice error={verification.error} onRetry={() => verification.mutate()} />}
            {verification.data && <Checks checks={verification.data} />}
            <div>
              <p className="mb-1 text-sm text-ink-2">To compute the tokens again on a machine of your own, with your key and the model's folder:</p>
              <Command lines={replayCommands(Principal.fromText(canister), jobId, location.origin)} />
            </div>
          </div>
        )}
      </Loaded>
    </Panel>
  );
}

/** The checks one by one, and what follows from all of them. */
function Checks({ checks }: { checks: Check[] }) {
  const failed = checks.filter((check) => check.holds === false);
  const open = checks.filter((check) => check.holds === undefined);
  return (
    <div className="grid gap-3">
      <Notice tone={failed.length > 0 ? "bad" : open.length > 0 ? "warn" : "good"}>
        {failed.length > 0
          ? "Something does not hold. Don't rely on this answer."
          : open.length > 0
            ? "All that could be checked holds; the agent does not keep the rest any more."
            : "All of it holds, by this browser's own arithmetic."}
      </Notice>
      <ul className="grid gap-1.5 text-sm">
        {checks.map(({ claim, holds, detail }) => {
          const Icon = holds === true ? CircleCheck : holds === false ? CircleX : CircleHelp;
          const colour = holds === true ? "text-good" : holds === false ? "text-bad" : "text-ink-2";
          return (
            <li key={claim} className="flex items-start gap-2">
              <Icon aria-label={holds === true ? "Holds" : holds === false ? "Does not hold" : "Open"} className={`mt-0.5 size-4 shrink-0 ${colour}`} />
              <span>
                {claim} <span className="break-all text-ink-2">{detail}</span>
              </span>
            </li>
          );
        })}
      </ul>
    </div>
  );
}
