import { Link, Navigate } from "@tanstack/react-router";
import { useState } from "react";
import { Button, buttonClass, ErrorNotice } from "../components/ui.tsx";
import { useSession } from "../session.tsx";

/** The first page: people who are signed in go to their agents. */
export function HomePage() {
  return useSession().principal ? <Navigate to="/agents" replace /> : <Welcome />;
}

const POINTS = [
  ["On chain, token by token", "A language model runs inside a canister that belongs to you. No server computes the answers."],
  ["Checked, not trusted", "Every answer has a receipt. Your browser checks it, and anybody can compute the same tokens again."],
  ["Yours", "Only you can talk to your agents. Stop them, take your data with you, delete them."],
];

/** What this is, and the way in. */
export function Welcome() {
  const { signIn, environment } = useSession();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const start = () => {
    setBusy(true);
    setError(undefined);
    signIn()
      .catch(setError)
      .finally(() => setBusy(false));
  };
  return (
    <div className="mx-auto max-w-2xl pt-[6vh]">
      <h1 className="text-3xl">Agents that think inside canisters</h1>
      <p className="mt-3 text-lg text-ink-2">
        OHMS runs language models on the Internet Computer. Create an agent, talk to it, and verify what it says.
      </p>
      <div className="mt-6">
        <Button look="primary" busy={busy} onClick={start} className="px-5 py-2 text-base">
          {environment.local ? "Sign in" : "Sign in with Internet Identity"}
        </Button>
      </div>
      {error !== undefined && (
        <div className="mt-4">
          <ErrorNotice error={error} onRetry={start} />
        </div>
      )}
      <dl className="mt-10 grid gap-5 sm:grid-cols-3">
        {POINTS.map(([title, text]) => (
          <div key={title}>
            <dt className="font-medium">{title}</dt>
            <dd className="mt-1 text-sm text-ink-2">{text}</dd>
          </div>
        ))}
      </dl>
    </div>
  );
}

/** An address that nothing is at. */
export function LostPage() {
  return (
    <div>
      <h1>There is no such page</h1>
      <p className="mt-1 mb-4 text-ink-2">The address is wrong, or what was there has been deleted.</p>
      <Link to="/" className={buttonClass()}>
        To the first page
      </Link>
    </div>
  );
}

/** In place of a page that can't be shown: what happened, and a way on. */
export function BrokenPage({ error, reset }: { error: unknown; reset: () => void }) {
  return (
    <div className="grid gap-4">
      <h1>This page can't be shown</h1>
      <ErrorNotice error={error} onRetry={reset} />
      <p>
        <Link to="/" className={buttonClass()}>
          To the first page
        </Link>
      </p>
    </div>
  );
}
