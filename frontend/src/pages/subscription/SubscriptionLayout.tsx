import { Outlet } from "@tanstack/react-router";
import { Tab, Tabs } from "../../components/Tabs.tsx";
import { PageHeading } from "../../components/ui.tsx";

/** The frame of the pages about what one pays and gets. */
export function SubscriptionLayout() {
  return (
    <>
      <PageHeading title="Subscription" />
      <Tabs label="Subscription">
        <Tab to="/subscription" activeOptions={{ exact: true }}>
          Tier
        </Tab>
        <Tab to="/subscription/usage">Usage</Tab>
        <Tab to="/subscription/invoices">Invoices</Tab>
        <Tab to="/subscription/wallets">Wallets</Tab>
      </Tabs>
      <Outlet />
    </>
  );
}
