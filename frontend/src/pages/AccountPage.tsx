import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Loaded } from "../components/Loaded.tsx";
import { Button, ConfirmButton, ErrorNotice, Facts, Id, Notice, PageHeading, Panel, When } from "../components/ui.tsx";
import { count } from "../format.ts";
import { eraseAll } from "../erase.ts";
import { allAgents, allProjects, collect, readable, saveFile } from "../export.ts";
import { persister } from "../offline.ts";
import { isOpen } from "../projects/words.ts";
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
    mutationFn: () => eraseAll(canisters, setStep),
    // Nothing of it stays in this browser either: neither in memory nor in its database.
    onSettled: async () => {
      await queries.resetQueries({ queryKey: [principal.toText()] });
      await persister.removeClient();
    },
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
              <p className="max-w-prose text-ink-2">
                Deletes all your agents with everything in them, and your projects with their plans, conversations, messages and texts. What stays is about money,
                because bookkeeping needs it: your subscription with its invoices and runs, and payments at the tokens' ledgers.
              </p>
              <ConfirmButton label="Delete my data" title="Delete all of it?" confirm="Delete everything" dismiss="Keep it" busy={deletion.isPending} onConfirm={() => deletion.mutate()}>
                <Gone />
              </ConfirmButton>
            </div>
            {deletion.isPending && <Notice>{step || "Deleting"}</Notice>}
            {deletion.isSuccess && (
              <Notice tone="good">
                Deleted: {count(deletion.data.agents, "agent")} and {count(deletion.data.projects, "project")}. <When date={new Date()} />
              </Notice>
            )}
            {deletion.error && <ErrorNotice error={deletion.error} onRetry={() => deletion.mutate()} />}
          </div>
        </Panel>
      </div>
    </>
  );
}

/** What is there to be deleted, asked for when somebody is about to. */
function Gone() {
  const { principal } = useSignedIn();
  const canisters = useCanisters();
  const all = useQuery({
    queryKey: [principal.toText(), "all-there-is"],
    gcTime: 0,
    queryFn: async () => {
      const projects = canisters.has("coordinator") ? await allProjects(canisters.coordinator()) : [];
      return { agents: (await allAgents(canisters)).length, projects: projects.length, open: projects.filter(isOpen).length };
    },
  });
  return (
    <Loaded query={all}>
      {({ agents, projects, open }) => (
        <div className="grid gap-3">
          <p>
            {count(agents, "agent")} and {count(projects, "project")} are gone for good, with all jobs, texts, receipts, memory, plans, conversations and messages. If
            you want to keep them, export them first.
          </p>
          {open > 0 && <p className="font-medium text-ink">{open === 1 ? "A project is running. It is" : `${open} projects are running. They are`} cancelled first, and unused quota is given back.</p>}
          <p>Tokens in the agents' own accounts are sent to yours. Your subscription goes on: you cancel it under Subscription.</p>
        </div>
      )}
    </Loaded>
  );
}
