import { AuthClient } from "@icp-sdk/auth/client";
import { AnonymousIdentity, HttpAgent, type Identity } from "@icp-sdk/core/agent";
import type { Principal } from "@icp-sdk/core/principal";
import { createActor } from "@ohms/client";
import { createContext, type ReactNode, useCallback, useContext, useEffect, useMemo, useState } from "react";
import { type Environment } from "./env.ts";

/** A session ends after this long without a key or a pointer, in milliseconds. */
const IDLE_MS = 30 * 60 * 1_000;
/** A session ends after this long in any case, in nanoseconds. */
const LONGEST_NS = 8n * 60n * 60n * 1_000_000_000n;
const EXPIRY_KEY = "ic-delegation_expiration";

/** Who uses the app. */
export interface Session {
  environment: Environment;
  agent: HttpAgent;
  /** Absent when nobody is signed in. */
  principal: Principal | undefined;
  /** When the session ends at the latest. */
  expires: Date | undefined;
  /** Why the last session ended, if it was not asked for. */
  notice: string | undefined;
  signIn: () => Promise<void>;
  signOut: (notice?: string) => Promise<void>;
}

const SessionContext = createContext<Session | undefined>(undefined);

/** The session of the app. */
export function useSession(): Session {
  const session = useContext(SessionContext);
  if (!session) throw new Error("useSession outside of SessionProvider");
  return session;
}

/** The session of somebody who is signed in. */
export function useSignedIn(): Session & { principal: Principal } {
  const session = useSession();
  if (!session.principal) throw new Error("nobody is signed in");
  return session as Session & { principal: Principal };
}

function expiry(): Date | undefined {
  const value = localStorage.getItem(EXPIRY_KEY);
  return value && /^\d+$/.test(value) ? new Date(Number(BigInt(value) / 1_000_000n)) : undefined;
}

/** Keeps the session, in all tabs alike. `onEnd` forgets what belongs to it. */
export function SessionProvider({
  environment,
  onEnd,
  children,
}: {
  environment: Environment;
  onEnd: () => void;
  children: ReactNode;
}) {
  const client = useMemo(
    () =>
      new AuthClient({
        identityProvider: environment.identityProvider,
        idleOptions: { idleTimeout: IDLE_MS, disableDefaultIdleCallback: true },
      }),
    [environment],
  );
  const channel = useMemo(() => new BroadcastChannel("ohms-session"), []);
  const [identity, setIdentity] = useState<Identity>();
  const [notice, setNotice] = useState<string>();

  useEffect(() => {
    const stored = client.isAuthenticated() ? client.getIdentity() : Promise.resolve(new AnonymousIdentity());
    stored.then(setIdentity, () => setIdentity(new AnonymousIdentity()));
  }, [client]);

  const signOut = useCallback(
    async (reason?: string) => {
      await client.signOut();
      onEnd();
      setNotice(reason);
      setIdentity(new AnonymousIdentity());
      channel.postMessage({ kind: "signed-out", reason });
    },
    [client, channel, onEnd],
  );

  const signIn = useCallback(async () => {
    const signedIn = await client.signIn({ maxTimeToLive: LONGEST_NS });
    setNotice(undefined);
    setIdentity(signedIn);
    channel.postMessage({ kind: "signed-in" });
  }, [client, channel]);

  useEffect(() => {
    channel.onmessage = (event: MessageEvent<{ kind: string; reason?: string }>) => {
      if (event.data.kind === "signed-in") return location.reload();
      onEnd();
      setNotice(event.data.reason ?? "You signed out in another tab.");
      setIdentity(new AnonymousIdentity());
    };
  }, [channel, onEnd]);

  const principal = identity && !identity.getPrincipal().isAnonymous() ? identity.getPrincipal() : undefined;
  const signedInAs = principal?.toText();

  useEffect(() => {
    if (!signedInAs) return;
    client.idleManager?.registerCallback(() => void signOut("You were signed out after 30 minutes without activity."));
    const left = (expiry()?.getTime() ?? Infinity) - Date.now();
    // Longer than timers can count is longer than a session.
    if (left > 2 ** 31 - 1) return;
    const timer = setTimeout(() => void signOut("Your session has ended."), Math.max(0, left));
    return () => clearTimeout(timer);
  }, [client, signedInAs, signOut]);

  const session = useMemo(() => {
    if (!identity) return undefined;
    const agent = HttpAgent.createSync({
      host: location.origin,
      identity,
      rootKey: environment.rootKey,
    });
    return { environment, agent, principal, expires: principal && expiry(), notice, signIn, signOut };
    // `principal` belongs to `identity`.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [environment, identity, notice, signIn, signOut]);

  return session ? <SessionContext value={session}>{children}</SessionContext> : null;
}

/** The canisters of the suite, as the session's identity calls them. */
export function useCanisters() {
  const { agent, environment } = useSession();
  return useMemo(() => {
    const id = (name: string) => {
      const canister = environment.canisters[name];
      if (!canister) throw new Error(`this site does not know the canister “${name}”: an admin has to configure it`);
      return canister;
    };
    return {
      id,
      has: (name: string) => name in environment.canisters,
      model: createActor("model", id("model"), agent),
      factory: createActor("agent-factory", id("agent-factory"), agent),
      /** Sites may be without it: `has` says. */
      coordinator: () => createActor("coordinator", id("coordinator"), agent),
      /** Sites may be without it: `has` says. */
      econ: () => createActor("econ", id("econ"), agent),
      agent: (canister: Principal | string) => createActor("agent", canister, agent),
      ui: (canister: Principal | string) => createActor("ui", canister, agent),
    };
  }, [agent, environment]);
}
