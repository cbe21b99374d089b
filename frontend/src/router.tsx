import { createRootRoute, createRoute, createRouter, lazyRouteComponent } from "@tanstack/react-router";
import { AgentLayout } from "./pages/AgentLayout.tsx";
import { AgentsPage } from "./pages/AgentsPage.tsx";
import { ChatPage } from "./pages/ChatPage.tsx";
import { Shell } from "./components/Shell.tsx";
import { SignedIn } from "./components/SignedIn.tsx";
import { HomePage, LostPage } from "./pages/HomePage.tsx";

const root = createRootRoute({ component: Shell, notFoundComponent: LostPage });
const home = createRoute({ getParentRoute: () => root, path: "/", component: HomePage });

const people = createRoute({ getParentRoute: () => root, id: "people", component: SignedIn });
const agents = createRoute({ getParentRoute: () => people, path: "/agents", component: AgentsPage });
const newAgent = createRoute({
  getParentRoute: () => people,
  path: "/new-agent",
  component: lazyRouteComponent(() => import("./pages/NewAgentPage.tsx"), "NewAgentPage"),
});
const agent = createRoute({ getParentRoute: () => people, path: "/agents/$key", component: AgentLayout });
const chat = createRoute({ getParentRoute: () => agent, path: "/", component: ChatPage });
const jobs = createRoute({
  getParentRoute: () => agent,
  path: "/jobs",
  component: lazyRouteComponent(() => import("./pages/JobsPage.tsx"), "JobsPage"),
});
const job = createRoute({
  getParentRoute: () => agent,
  path: "/jobs/$job",
  component: lazyRouteComponent(() => import("./pages/JobPage.tsx"), "JobPage"),
});
const receipts = createRoute({
  getParentRoute: () => agent,
  path: "/receipts",
  component: lazyRouteComponent(() => import("./pages/ReceiptsPage.tsx"), "ReceiptsPage"),
});
const settings = createRoute({
  getParentRoute: () => agent,
  path: "/settings",
  component: lazyRouteComponent(() => import("./pages/AgentSettingsPage.tsx"), "AgentSettingsPage"),
});
const account = createRoute({
  getParentRoute: () => people,
  path: "/account",
  component: lazyRouteComponent(() => import("./pages/AccountPage.tsx"), "AccountPage"),
});

const admin = createRoute({
  getParentRoute: () => people,
  path: "/admin",
  component: lazyRouteComponent(() => import("./pages/admin/AdminLayout.tsx"), "AdminLayout"),
});
const adminModels = createRoute({
  getParentRoute: () => admin,
  path: "/",
  component: lazyRouteComponent(() => import("./pages/admin/ModelsPage.tsx"), "ModelsPage"),
});
const adminModel = createRoute({
  getParentRoute: () => admin,
  path: "/models/$model",
  component: lazyRouteComponent(() => import("./pages/admin/ModelPage.tsx"), "ModelPage"),
});
const adminProposals = createRoute({
  getParentRoute: () => admin,
  path: "/proposals",
  component: lazyRouteComponent(() => import("./pages/admin/ProposalsPage.tsx"), "ProposalsPage"),
});
const adminCanisters = createRoute({
  getParentRoute: () => admin,
  path: "/canisters",
  component: lazyRouteComponent(() => import("./pages/admin/CanistersPage.tsx"), "CanistersPage"),
});
const adminAudit = createRoute({
  getParentRoute: () => admin,
  path: "/audit",
  component: lazyRouteComponent(() => import("./pages/admin/AuditPage.tsx"), "AuditPage"),
});
const adminRoles = createRoute({
  getParentRoute: () => admin,
  path: "/roles",
  component: lazyRouteComponent(() => import("./pages/admin/RolesPage.tsx"), "RolesPage"),
});

/** All addresses of the app. */
export const router = createRouter({
  routeTree: root.addChildren([
    home,
    people.addChildren([
      agents,
      newAgent,
      agent.addChildren([chat, jobs, job, receipts, settings]),
      account,
      admin.addChildren([adminModels, adminModel, adminProposals, adminCanisters, adminAudit, adminRoles]),
    ]),
  ]),
  scrollRestoration: true,
  defaultPreload: "intent",
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
