import { Link, Outlet, useRouterState } from "@tanstack/react-router";
import { Bot, LogIn, LogOut, Moon, ShieldCheck, Sun, UserRound, Wallet, WifiOff, Workflow } from "lucide-react";
import { type ComponentType, useEffect, useRef, useState } from "react";
import { useOnline } from "../offline.ts";
import { isAdmin, queryClient, useRights } from "../queries.ts";
import { useSession } from "../session.tsx";
import { Button, cx, ErrorNotice, Notice } from "./ui.tsx";

interface Destination {
  to: "/agents" | "/projects" | "/subscription" | "/account" | "/admin";
  label: string;
  /** For narrow screens, where the label is too long. */
  short?: string;
  icon: ComponentType<{ className?: string; "aria-hidden"?: boolean }>;
}

/** The frame of every page: where one can go, who one is, and what is wrong. */
export function Shell() {
  const { environment, principal, notice } = useSession();
  const rights = useRights();
  const destinations: Destination[] = principal
    ? [
        ...("coordinator" in environment.canisters ? [{ to: "/projects", label: "Projects", icon: Workflow } as const] : []),
        { to: "/agents", label: "Agents", icon: Bot },
        ...("econ" in environment.canisters ? [{ to: "/subscription", label: "Subscription", short: "Billing", icon: Wallet } as const] : []),
        ...(isAdmin(rights.data) ? [{ to: "/admin", label: "Administration", short: "Admin", icon: ShieldCheck } as const] : []),
        { to: "/account", label: "Account", icon: UserRound },
      ]
    : [];
  return (
    <div className="flex min-h-dvh flex-col md:flex-row">
      <a
        href="#content"
        className="absolute left-2 top-2 z-20 -translate-y-20 rounded-md bg-accent px-3 py-2 text-accent-ink focus:translate-y-0"
      >
        Skip to the content
      </a>
      <header className="flex items-center gap-2 border-line bg-panel px-4 py-2 max-md:border-b md:sticky md:top-0 md:h-dvh md:w-56 md:flex-col md:items-stretch md:gap-1 md:border-r md:px-3 md:py-4">
        <Link to="/" className="mr-auto flex items-center gap-2 rounded-md px-2 py-1 text-lg font-semibold tracking-tight md:mr-0 md:mb-3">
          <img src="/icon.svg" alt="" width={26} height={26} />
          OHMS
        </Link>
        <nav aria-label="Main" className="max-md:fixed max-md:inset-x-0 max-md:bottom-0 max-md:z-10 max-md:border-t max-md:border-line max-md:bg-panel max-md:pb-[env(safe-area-inset-bottom)] empty:hidden">
          {destinations.length > 0 && (
            <ul className="flex md:flex-col md:gap-1">
              {destinations.map(({ to, label, short, icon: Icon }) => (
                <li key={to} className="max-md:flex-1">
                  <Link
                    to={to}
                    className="flex items-center gap-2.5 rounded-md px-2 py-1.5 text-ink-2 hover:bg-sunken max-md:flex-col max-md:gap-0.5 max-md:px-0 max-md:py-2 max-md:text-xs aria-[current=page]:bg-accent-soft aria-[current=page]:font-medium aria-[current=page]:text-ink"
                  >
                    <Icon aria-hidden className="size-5" />
                    {short && <span className="md:hidden">{short}</span>}
                    <span className={cx(short && "max-md:hidden")}>{label}</span>
                  </Link>
                </li>
              ))}
            </ul>
          )}
        </nav>
        <div className="flex items-center gap-1 md:mt-auto md:flex-col md:items-stretch">
          <ThemeButton />
          <SessionButton />
        </div>
      </header>
      <div className="min-w-0 flex-1">
        <OfflineBar />
        <main id="content" tabIndex={-1} className="mx-auto w-full max-w-5xl px-4 py-6 outline-none max-md:pb-24 md:px-8 md:py-8">
          {notice && !principal && (
            <div className="mb-4">
              <Notice tone="warn">{notice}</Notice>
            </div>
          )}
          <Outlet />
        </main>
      </div>
      <RouteAnnouncer />
    </div>
  );
}

function SessionButton() {
  const { principal, signIn, signOut } = useSession();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const run = (action: () => Promise<void>) => {
    setBusy(true);
    setError(undefined);
    action()
      .catch(setError)
      .finally(() => setBusy(false));
  };
  return (
    <>
      {principal ? (
        <Button look="quiet" busy={busy} onClick={() => run(signOut)} className="md:justify-start md:px-2" aria-label="Sign out">
          <LogOut aria-hidden className="size-5" />
          <span className="max-md:hidden">Sign out</span>
        </Button>
      ) : (
        <Button look="primary" busy={busy} onClick={() => run(signIn)}>
          <LogIn aria-hidden className="size-4" />
          Sign in
        </Button>
      )}
      {error !== undefined && (
        <div className="fixed inset-x-4 bottom-24 z-20 mx-auto max-w-lg md:bottom-6">
          <ErrorNotice error={error} onRetry={() => run(principal ? signOut : signIn)} />
        </div>
      )}
    </>
  );
}

function systemTheme(): "light" | "dark" {
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

function ThemeButton() {
  const [theme, setTheme] = useState(() => (document.documentElement.dataset["theme"] as "light" | "dark") ?? systemTheme());
  const other = theme === "dark" ? "light" : "dark";
  const change = () => {
    document.documentElement.dataset["theme"] = other;
    localStorage.setItem("ohms-theme", other);
    setTheme(other);
  };
  const Icon = theme === "dark" ? Sun : Moon;
  return (
    <Button look="quiet" onClick={change} className="md:justify-start md:px-2" aria-label={`Use the ${other} theme`}>
      <Icon aria-hidden className="size-5" />
      <span className="max-md:hidden">{other === "dark" ? "Dark theme" : "Light theme"}</span>
    </Button>
  );
}

/** Says that there is no connection, and how old what is shown is. */
function OfflineBar() {
  const online = useOnline();
  if (online) return null;
  const times = queryClient.getQueryCache().getAll().map((query) => query.state.dataUpdatedAt);
  const last = Math.max(0, ...times);
  return (
    <div role="status" className="flex items-center gap-2 bg-warn-soft px-4 py-2 text-sm text-warn">
      <WifiOff aria-hidden className="size-4" />
      <span>
        Offline. {last > 0 ? `What you see is from ${new Date(last).toLocaleString("en")}.` : "Nothing was read on this device yet."}
      </span>
    </div>
  );
}

/** Tells screen readers, and the tab, which page this is; moves the focus to it. */
function RouteAnnouncer() {
  const path = useRouterState({ select: (state) => state.location.pathname });
  const [words, setWords] = useState("");
  const first = useRef(true);
  useEffect(() => {
    const timer = setTimeout(() => {
      const heading = document.querySelector("h1")?.textContent;
      document.title = heading && heading !== "OHMS" ? `${heading} · OHMS` : "OHMS";
      setWords(heading ?? "");
      if (first.current) first.current = false;
      // Who has begun to write goes on writing.
      else if (!document.activeElement?.matches("input, textarea, select")) document.getElementById("content")?.focus({ preventScroll: true });
    }, 100);
    return () => clearTimeout(timer);
  }, [path]);
  return (
    <div aria-live="polite" className={cx("sr-only")}>
      {words}
    </div>
  );
}
