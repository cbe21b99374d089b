import { type agentTypes as types, tag, unwrap } from "@ohms/client";
import { type FormEvent, useState } from "react";
import { mayConfigure, PHASES } from "../../agent/phases.ts";
import { fieldsOf, type ProfileFields, profileOf } from "../../agent/profile.ts";
import { useAgentAction, useProfile } from "../../agent/queries.ts";
import { Loaded } from "../../components/Loaded.tsx";
import { Button, ErrorNotice, Field, Input, Loading, Notice, Panel, Select, TextArea } from "../../components/ui.tsx";
import { useAgentStatus } from "../../queries.ts";
import { useAgentOfPage } from "../AgentLayout.tsx";

/** What the agent is for: role, instructions, capabilities, how it chooses tokens, and how it remembers. */
export function ProfilePage() {
  const { canister } = useAgentOfPage();
  return canister ? <Profile canister={canister} /> : <Loading />;
}

function Profile({ canister }: { canister: string }) {
  const profile = useProfile(canister);
  const status = useAgentStatus(canister);
  const phase = status.data && tag(status.data.phase);
  return (
    <Loaded query={profile} lines={10}>
      {(it) => (
        <div className="grid gap-4">
          {phase && !mayConfigure(phase) && <Notice tone="warn">An agent that is {PHASES[phase].words.toLowerCase()} keeps its profile as it is.</Notice>}
          <ProfileForm canister={canister} profile={it} fixed={phase !== undefined && !mayConfigure(phase)} />
        </div>
      )}
    </Loaded>
  );
}

function ProfileForm({ canister, profile, fixed }: { canister: string; profile: types.AgentProfile; fixed: boolean }) {
  const [fields, setFields] = useState<ProfileFields>(() => fieldsOf(profile));
  const saving = useAgentAction(canister, async (agent) => {
    const next = profileOf(fields, profile);
    unwrap(await agent.configure(next));
    setFields(fieldsOf(next));
  });
  const change = (part: Partial<ProfileFields>) => {
    saving.reset();
    setFields({ ...fields, ...part });
  };
  const input = (name: keyof ProfileFields) => ({
    value: String(fields[name]),
    onChange: (event: { target: { value: string } }) => change({ [name]: event.target.value }),
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    saving.mutate();
  };
  return (
    <form onSubmit={submit}>
      <fieldset disabled={fixed} className="grid gap-4">
        <legend className="sr-only">Profile</legend>
        <Panel title="What it is for">
          <div className="grid gap-4">
            <div className="max-w-md">
              <Field label="Role" hint="Its place in a team. Projects look for agents by it.">
                {(ids) => <Input {...ids} maxLength={64} autoComplete="off" placeholder="reviewer" {...input("role")} />}
              </Field>
            </div>
            <Field label="Instructions" hint="Each of its conversations begins with them.">
              {(ids) => <TextArea {...ids} rows={4} maxLength={8_192} placeholder="You read tales and say in three sentences what could be better." {...input("instructions")} />}
            </Field>
            <Field label="What it can do" hint="A word or two on each line, at most 32 of them. Projects look for these words.">
              {(ids) => <TextArea {...ids} rows={3} placeholder={"writing\nproofreading"} {...input("capabilities")} />}
            </Field>
          </div>
        </Panel>
        <Panel title="How it remembers">
          <div className="grid gap-4 sm:grid-cols-2">
            <Field label="Facts that are looked up for a message" hint="0 for none, at most 32. More facts leave less room for what was said.">
              {(ids) => <Input {...ids} type="number" required min={0} max={32} {...input("recalledFacts")} />}
            </Field>
            <Field label="When a conversation gets long" hint="All turns stay readable in any case.">
              {(ids) => (
                <Select {...ids} value={fields.summarise ? "Summarise" : "LeaveOut"} onChange={(event) => change({ summarise: event.target.value === "Summarise" })}>
                  <option value="Summarise">It writes a summary of the older turns</option>
                  <option value="LeaveOut">The oldest turns are left out</option>
                </Select>
              )}
            </Field>
            <Field label="Bytes of memory in a prompt" hint="From 64 to 65,536, instructions among them. Empty: two for each token that the model can read.">
              {(ids) => <Input {...ids} type="number" min={64} max={65_536} {...input("contextBytes")} />}
            </Field>
          </div>
        </Panel>
        <Panel title="How it writes">
          <div className="grid gap-4">
            <label className="flex items-start gap-2">
              <input type="checkbox" checked={fields.ownParams} onChange={(event) => change({ ownParams: event.target.checked })} className="mt-1 accent-accent" />
              <span>
                Choose it here
                <span className="block text-sm text-ink-2">Otherwise an answer has at most 128 tokens, and each is the likeliest one.</span>
              </span>
            </label>
            {fields.ownParams && <Sampling input={input} />}
          </div>
        </Panel>
        {saving.error && <ErrorNotice error={saving.error} />}
        <div className="flex flex-wrap items-center gap-3">
          <Button look="primary" type="submit" busy={saving.isPending}>
            Save the profile
          </Button>
          {saving.isSuccess && (
            <span role="status" className="text-sm text-good">
              Saved. It holds from the next message on.
            </span>
          )}
        </div>
      </fieldset>
    </form>
  );
}

function Sampling({ input }: { input: (name: keyof ProfileFields) => { value: string; onChange: (event: { target: { value: string } }) => void } }) {
  return (
    <div className="grid gap-4 sm:grid-cols-2 lg:grid-cols-3">
      <Field label="Tokens of an answer at most">
        {(ids) => <Input {...ids} type="number" required min={1} max={32_768} {...input("maxTokens")} />}
      </Field>
      <Field label="Temperature" hint="0 takes the likeliest token each time.">
        {(ids) => <Input {...ids} type="number" required min={0} max={10} step="any" {...input("temperature")} />}
      </Field>
      <Field label="Seed" hint="The same prompt and seed give the same text.">
        {(ids) => <Input {...ids} required inputMode="numeric" pattern="[0-9]{1,19}" {...input("seed")} />}
      </Field>
      <Field label="Only the k likeliest tokens" hint="Empty: all.">
        {(ids) => <Input {...ids} type="number" min={1} {...input("topK")} />}
      </Field>
      <Field label="Only those that together have the probability" hint="Above 0, at most 1. Empty: all.">
        {(ids) => <Input {...ids} type="number" min={0} max={1} step="any" {...input("topP")} />}
      </Field>
      <Field label="Only those at least so probable as the likeliest, times" hint="From 0 to 1. Empty: all.">
        {(ids) => <Input {...ids} type="number" min={0} max={1} step="any" {...input("minP")} />}
      </Field>
      <Field label="Repetition penalty" hint="Above 1, what was said already is less likely. Empty: none.">
        {(ids) => <Input {...ids} type="number" min={0.01} max={100} step="any" {...input("penalty")} />}
      </Field>
      <Field label="Tokens that the penalty looks at" hint="Empty: all.">
        {(ids) => <Input {...ids} type="number" min={1} {...input("window")} />}
      </Field>
      <Field label="When the context is full, tokens that stay" hint="The older half of the others leaves. Empty: the text ends there.">
        {(ids) => <Input {...ids} type="number" min={0} {...input("keep")} />}
      </Field>
      <Field label="Strings that end the text" hint="One on each line, at most 16. Write \n for a line feed.">
        {(ids) => <TextArea {...ids} rows={2} {...input("stop")} />}
      </Field>
    </div>
  );
}
