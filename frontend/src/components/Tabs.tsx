import { createLink } from "@tanstack/react-router";
import type { ComponentPropsWithRef, ReactNode } from "react";

/** Links between pages that belong together, side by side; on narrow screens they take as many lines as they need. */
export function Tabs({ label, children }: { label: string; children: ReactNode }) {
  return (
    <nav aria-label={label} className="mb-4 border-b border-line">
      <ul className="-mb-px flex flex-wrap gap-x-1">{children}</ul>
    </nav>
  );
}

function TabAnchor(props: ComponentPropsWithRef<"a">) {
  return (
    <li>
      <a
        {...props}
        className="block border-b-2 border-transparent px-3 py-2 text-sm whitespace-nowrap text-ink-2 hover:text-ink aria-[current=page]:border-accent aria-[current=page]:font-medium aria-[current=page]:text-ink"
      />
    </li>
  );
}

/** One of {@link Tabs}. */
export const Tab = createLink(TabAnchor);
