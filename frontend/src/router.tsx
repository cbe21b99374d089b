import { createRootRoute, createRoute, createRouter, lazyRouteComponent } from "@tanstack/react-router";
import { AgentLayout } from "./pages/AgentLayout.tsx";
import { AgentsPage } from "./pages/AgentsPage.tsx";
import { ChatPage } from "./pages/ChatPage.tsx";
import { Shell } from "./components/Shell.tsx";
import { SignedIn } from "./components/SignedIn.tsx";
import { BrokenPage, HomePage, LostPage } from "./pages/HomePage.tsx";

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
const memory = createRoute({
  getParentRoute: () => agent,
  path: "/memory",
  component: lazyRouteComponent(() => import("./pages/agent/MemoryPage.tsx"), "MemoryPage"),
});
const newConversation = createRoute({
  getParentRoute: () => agent,
  path: "/talk",
  component: lazyRouteComponent(() => import("./pages/agent/TalkPage.tsx"), "TalkPage"),
});
const conversation = createRoute({
  getParentRoute: () => agent,
  path: "/talk/$conversation",
  component: lazyRouteComponent(() => import("./pages/agent/TalkPage.tsx"), "TalkPage"),
});
const agentWallet = createRoute({
  getParentRoute: () => agent,
  path: "/wallet",
  component: lazyRouteComponent(() => import("./pages/agent/WalletPage.tsx"), "WalletPage"),
});
const profile = createRoute({
  getParentRoute: () => agent,
  path: "/profile",
  component: lazyRouteComponent(() => import("./pages/agent/ProfilePage.tsx"), "ProfilePage"),
});
const projects = createRoute({
  getParentRoute: () => people,
  path: "/projects",
  component: lazyRouteComponent(() => import("./pages/projects/ProjectsPage.tsx"), "ProjectsPage"),
});
const talk = createRoute({
  getParentRoute: () => people,
  path: "/talk",
  component: lazyRouteComponent(() => import("./pages/projects/TalkPage.tsx"), "TalkPage"),
});
const project = createRoute({
  getParentRoute: () => people,
  path: "/projects/$project",
  component: lazyRouteComponent(() => import("./pages/projects/ProjectLayout.tsx"), "ProjectLayout"),
});
const projectWork = createRoute({
  getParentRoute: () => project,
  path: "/",
  component: lazyRouteComponent(() => import("./pages/projects/WorkPage.tsx"), "WorkPage"),
});
const projectTask = createRoute({
  getParentRoute: () => project,
  path: "/tasks/$task",
  component: lazyRouteComponent(() => import("./pages/projects/TaskPage.tsx"), "TaskPage"),
});
const projectMessages = createRoute({
  getParentRoute: () => project,
  path: "/messages",
  component: lazyRouteComponent(() => import("./pages/projects/MessagesPage.tsx"), "MessagesPage"),
});
const projectPlan = createRoute({
  getParentRoute: () => project,
  path: "/plan",
  component: lazyRouteComponent(() => import("./pages/projects/PlanPage.tsx"), "PlanPage"),
});
const projectLog = createRoute({
  getParentRoute: () => project,
  path: "/log",
  component: lazyRouteComponent(() => import("./pages/projects/LogPage.tsx"), "LogPage"),
});
const subscription = createRoute({
  getParentRoute: () => people,
  path: "/subscription",
  component: lazyRouteComponent(() => import("./pages/subscription/SubscriptionLayout.tsx"), "SubscriptionLayout"),
});
const tier = createRoute({
  getParentRoute: () => subscription,
  path: "/",
  component: lazyRouteComponent(() => import("./pages/subscription/TierPage.tsx"), "TierPage"),
});
const usage = createRoute({
  getParentRoute: () => subscription,
  path: "/usage",
  component: lazyRouteComponent(() => import("./pages/subscription/UsagePage.tsx"), "UsagePage"),
});
const invoices = createRoute({
  getParentRoute: () => subscription,
  path: "/invoices",
  component: lazyRouteComponent(() => import("./pages/subscription/InvoicesPage.tsx"), "InvoicesPage"),
});
const wallets = createRoute({
  getParentRoute: () => subscription,
  path: "/wallets",
  component: lazyRouteComponent(() => import("./pages/subscription/WalletsPage.tsx"), "WalletsPage"),
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
const adminEconomics = createRoute({
  getParentRoute: () => admin,
  path: "/economics",
  component: lazyRouteComponent(() => import("./pages/admin/EconomicsPage.tsx"), "EconomicsPage"),
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
      agent.addChildren([chat, newConversation, conversation, memory, agentWallet, profile, jobs, job, receipts, settings]),
      projects,
      talk,
      project.addChildren([projectWork, projectTask, projectMessages, projectPlan, projectLog]),
      subscription.addChildren([tier, usage, invoices, wallets]),
      account,
      admin.addChildren([adminModels, adminModel, adminProposals, adminCanisters, adminEconomics, adminAudit, adminRoles]),
    ]),
  ]),
  scrollRestoration: true,
  defaultErrorComponent: BrokenPage,
  defaultPreload: "intent",
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
