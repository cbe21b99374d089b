import { Outlet } from "@tanstack/react-router";
import { useSession } from "../session.tsx";
import { Welcome } from "../pages/HomePage.tsx";

/** Pages for people who are signed in; others are asked to. */
export function SignedIn() {
  return useSession().principal ? <Outlet /> : <Welcome />;
}
