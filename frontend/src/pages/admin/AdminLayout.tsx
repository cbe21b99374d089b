import { Link, Outlet } from "@tanstack/react-router";
import { cx, ErrorNotice, Loading } from "../../components/ui.tsx";
import { isAdmin, useRights } from "../../queries.ts";
import { LostPage } from "../HomePage.tsx";

const TABS = [
  ["/admin", "Models"],
  ["/admin/proposals", "Proposals"],
  ["/admin/canisters", "Canisters"],
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
      <nav aria-label="Administration" className="mb-5 border-b border-line">
        <ul className="-mb-px flex gap-1 overflow-x-auto">
          {TABS.map(([to, label]) => (
            <li key={to}>
              <Link
                to={to}
                activeOptions={{ exact: to === "/admin" }}
                className={cx(
                  "block border-b-2 border-transparent px-3 py-2 text-sm whitespace-nowrap text-ink-2 hover:text-ink",
                  "aria-[current=page]:border-accent aria-[current=page]:font-medium aria-[current=page]:text-ink",
                )}
              >
                {label}
              </Link>
            </li>
          ))}
        </ul>
      </nav>
      <Outlet />
    </>
  );
}
