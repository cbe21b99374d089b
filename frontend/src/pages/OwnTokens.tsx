import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type econTypes as types } from "@ohms/client";
import { type FormEvent, useRef, useState } from "react";
import { useBalance } from "../agent/queries.ts";
import { Loaded } from "../components/Loaded.tsx";
import { Button, ErrorNotice, Field, Input, Panel } from "../components/ui.tsx";
import { send } from "../economy/ledger.ts";
import { useLedgers } from "../economy/queries.ts";
import { parseAmount, tokenAmount } from "../economy/words.ts";
import { useSignedIn } from "../session.tsx";

/** What the person's own account has: where agents' tokens go when they are taken out, or the agent is deleted. */
export function OwnTokens() {
  const ledgers = useLedgers();
  return (
    <Panel title="Your tokens">
      <div className="grid gap-5">
        <p className="max-w-prose text-ink-2">
          What is in the account of your principal at the tokens' ledgers. What you take out of an agent's own account comes here, and what the agent still has
          when you delete it. Send it on from here.
        </p>
        <Loaded query={ledgers}>
          {(all) => (all.length === 0 ? <p className="text-ink-2">This site knows no token.</p> : all.map((token) => <OwnToken key={token.args.canister.toText()} token={token} />))}
        </Loaded>
      </div>
    </Panel>
  );
}

function OwnToken({ token }: { token: types.LedgerInfo }) {
  const { agent, principal } = useSignedIn();
  const queries = useQueryClient();
  const ledger = token.args.canister.toText();
  const balance = useBalance(ledger, principal.toText());
  const [to, setTo] = useState("");
  const [text, setText] = useState("");
  // Sent again after an answer that was lost, it is the same transfer.
  const first = useRef<{ words: string; time: bigint }>(undefined);
  const amount = parseAmount(text, token.decimals);
  const most = balance.data === undefined || balance.data < token.fee ? 0n : balance.data - token.fee;
  const sending = useMutation({
    mutationFn: async () => {
      if (!amount) return undefined;
      const words = `${to.trim()} ${amount}`;
      if (first.current?.words !== words) first.current = { words, time: BigInt(Date.now()) * 1_000_000n };
      const block = await send(agent, ledger, to.trim(), amount, first.current.time);
      first.current = undefined;
      setText("");
      return block;
    },
    onSettled: () => queries.invalidateQueries({ queryKey: [principal.toText(), "balance"] }),
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    sending.mutate();
  };
  return (
    <section aria-label={`Your ${token.symbol}`} className="grid gap-3 border-t border-line pt-5">
      <Loaded query={balance} lines={1}>
        {(it) => (
          <p>
            <span className="text-2xl font-semibold tabular-nums">{tokenAmount(it, token.decimals)}</span> <span className="text-ink-2">{token.symbol}</span>
          </p>
        )}
      </Loaded>
      {most > 0n && (
        <form onSubmit={submit} className="grid gap-3">
          {sending.error && <ErrorNotice error={sending.error} />}
          <div className="grid gap-4 sm:grid-cols-[1fr_10rem]">
            <Field label={`Send ${token.symbol} to`}>
              {(ids) => <Input {...ids} required autoComplete="off" spellCheck={false} value={to} onChange={(event) => setTo(event.target.value)} placeholder="a principal" />}
            </Field>
            <Field label={`Amount, ${token.symbol}`} hint={`At most ${tokenAmount(most, token.decimals)}.`}>
              {(ids) => <Input {...ids} required inputMode="decimal" autoComplete="off" value={text} onChange={(event) => setText(event.target.value)} />}
            </Field>
          </div>
          <div>
            <Button type="submit" busy={sending.isPending} disabled={!amount || amount > most || to.trim() === ""}>
              Send
            </Button>
          </div>
        </form>
      )}
      {sending.data !== undefined && (
        <p role="status" className="text-sm text-good">
          Sent, in block {String(sending.data)} of the ledger.
        </p>
      )}
    </section>
  );
}
