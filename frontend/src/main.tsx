import { RouterProvider } from "@tanstack/react-router";
import { PersistQueryClientProvider } from "@tanstack/react-query-persist-client";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { readEnvironment } from "./env.ts";
import { persister } from "./offline.ts";
import { queryClient } from "./queries.ts";
import { router } from "./router.tsx";
import { SessionProvider } from "./session.tsx";
import "./styles.css";

/** Forgets what belonged to a session that has ended. */
function forget() {
  queryClient.clear();
  void persister.removeClient();
}

const container = document.getElementById("root");
const environment = readEnvironment();
if (!container) throw new Error("the page has no place for the app");
const root = createRoot(container);
if (environment) {
  root.render(
    <StrictMode>
      <PersistQueryClientProvider client={queryClient} persistOptions={{ persister, maxAge: 7 * 24 * 60 * 60 * 1_000 }}>
        <SessionProvider environment={environment} onEnd={forget}>
          <RouterProvider router={router} />
        </SessionProvider>
      </PersistQueryClientProvider>
    </StrictMode>,
  );
} else {
  root.render(
    <main className="mx-auto max-w-prose p-8">
      <h1>This page does not know its network</h1>
      <p className="mt-2">
        It has to come from the ui canister, which sends the ids of the other canisters along. If it does, allow cookies for this site and reload.
      </p>
    </main>,
  );
}

if ("serviceWorker" in navigator && import.meta.env.PROD) {
  // Without it the app works, only not offline.
  navigator.serviceWorker.register("/sw.js").catch(() => undefined);
}
