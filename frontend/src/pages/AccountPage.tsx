import { useMutation, useQueryClient } from "@tanstack/react-query";
import { unwrap } from "@ohms/client";
import { useState } from "react";
import { Button, ConfirmButton, ErrorNotice, Facts, Id, Notice, PageHeading, Panel, When } from "../components/ui.tsx";
import { count } from "../format.ts";
import { allAgents, collect, readable, saveFile } from "../export.ts";
import { useCanisters, useSignedIn } from "../session.tsx";
import { OwnTokens } from "./OwnTokens.tsx";

/** Who one is here, and what is kept. */
export function AccountPage() {
  const { principal, expires, signOut } = useSignedIn();
  const canisters = useCanisters();
  const queries = useQueryClient();
  const [step, setStep] = useState("");

  const exporting = useMutation({
    mutationFn: async () => {
      const data = await collect(canisters, principal.toText(), setStep);
      saveFile(`ohms-${new Date().toISOString().slice(0, 10)}.json`, "application/json", readable(data));
      return data.agents.length;
    },
  });
  const deletion = useMutation({
    mutationFn: async () => {
      const agents = await allAgents(canisters);
      for (const [at, { key }] of agents.entries()) {
        setStep(`Deleting ${at + 1} of ${agents.length}`);
        unwrap(await canisters.factory.delete_agent(key));
      }
      return agents.length;
    },
    onSettled: () => queries.invalidateQueries({ queryKey: [principal.toText()] }),
  });

  return (
    <>
      <PageHeading title="Account" />
      <div className="grid gap-4">
        <Panel title="You" actions={<Button onClick={() => void signOut()}>Sign out</Button>}>
          <Facts
            facts={[
              ["Principal", <Id key="" value={principal.toText()} label="principal" />],
              ["Session ends", expires ? `${expires.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit" })} at the latest` : "with this tab"],
            ]}
          />
          <p className="mt-3 max-w-prose text-sm text-ink-2">
            A session also ends after 30 minutes without a key or a pointer. Signing out does so in all tabs, and removes what this browser keeps of your
            data.
          </p>
        </Panel>
        {canisters.has("econ") && <OwnTokens />}
        <Panel title="Your data">
          <div className="grid gap-5">
            <div className="flex flex-wrap items-center justify-between gap-3">
              <p className="max-w-prose text-ink-2">Your agents with all their jobs, texts, receipts, memory and payments, your projects, invoices and runs, as one JSON file.</p>
              <Button busy={exporting.isPending} onClick={() => exporting.mutate()}>
                Export my data
              </Button>
            </div>
            {exporting.isPending && <Notice>{step || "Reading"}</Notice>}
            {exporting.isSuccess && <Notice tone="good">{count(exporting.data, "agent")} exported. The file is among your downloads.</Notice>}
            {exporting.error && <ErrorNotice error={exporting.error} onRetry={() => exporting.mutate()} />}
            <div className="flex flex-wrap items-center justify-between gap-3 border-t border-line pt-5">
              <p className="max-w-prose text-ink-2">Deletes all your agents with everything in them. What you have paid, and what your projects recorded, stays: bookkeeping needs it.</p>
              <ConfirmButton label="Delete my data" title="Delete all your agents?" confirm="Delete everything" busy={deletion.isPending} onConfirm={() => deletion.mutate()}>
                All jobs, texts and receipts are gone for good. If you want to keep them, export them first.
              </ConfirmButton>
            </div>
            {deletion.isPending && <Notice>{step || "Deleting"}</Notice>}
            {deletion.isSuccess && (
              <Notice tone="good">
                Deleted: {count(deletion.data, "agent")}. <When date={new Date()} />
              </Notice>
            )}
            {deletion.error && <ErrorNotice error={deletion.error} onRetry={() => deletion.mutate()} />}
          </div>
        </Panel>
      </div>
    </>
  );
}
