import { Outlet } from "@tanstack/react-router";
import { Tab, Tabs } from "../../components/Tabs.tsx";
import { ErrorNotice, Loading } from "../../components/ui.tsx";
import { isAdmin, useRights } from "../../queries.ts";
import { LostPage } from "../HomePage.tsx";

const TABS = [
  ["/admin", "Models"],
  ["/admin/proposals", "Proposals"],
  ["/admin/canisters", "Canisters"],
  ["/admin/economics", "Economics"],
  ["/admin/audit", "Audit log"],
  ["/admin/roles", "Roles"],
] as const;

/** The frame of the pages for admins. To others they are not there. */
export function AdminLayout() {
  const rights = useRights();
  if (rights.error && !rights.data) return <ErrorNotice error={rights.error} onRetry={() => void rights.refetch()} />;
  if (!rights.data) return <Loading />;
  if (!isAdmin(rights.data)) return <LostPage />;
  return (
    <>
      <Tabs label="Administration">
        {TABS.filter(([to]) => to !== "/admin/economics" || rights.data.econ).map(([to, label]) => (
          <Tab key={to} to={to} activeOptions={{ exact: to === "/admin" }}>
            {label}
          </Tab>
        ))}
      </Tabs>
      <Outlet />
    </>
  );
}
