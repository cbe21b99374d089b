import { type econTypes as types, optional } from "@ohms/client";
import { useState } from "react";
import { Loaded } from "../../components/Loaded.tsx";
import { Badge, Empty, More, Panel, Table, When } from "../../components/ui.tsx";
import { useInvoices } from "../../economy/queries.ts";
import { dollars, invoiceKind, invoiceState } from "../../economy/words.ts";
import { dateOf } from "../../format.ts";
import { ExportButtons } from "./UsagePage.tsx";

const PAGE = 20;

/** What was to be paid, and whether it was. */
export function InvoicesPage() {
  const invoices = useInvoices();
  const [shown, setShown] = useState(PAGE);
  return (
    <Panel title="Invoices" actions={<ExportButtons subject="Invoices" />}>
      <Loaded query={invoices} lines={5}>
        {(all) =>
          all.length === 0 ? (
            <Empty title="No invoice yet">The first one is written when you subscribe.</Empty>
          ) : (
            <>
              <Table
                label="Invoices"
                rows={all.slice(0, shown)}
                keyOf={(invoice) => String(invoice.id)}
                columns={[
                  { title: "No.", cell: (invoice) => String(invoice.id) },
                  { title: "For", cell: (invoice) => `${invoice.terms.tier}: ${invoiceKind(invoice.kind).toLowerCase()}` },
                  { title: "Issued", wide: true, cell: (invoice) => <When date={dateOf(invoice.issued_ns)} /> },
                  { title: "Credit", right: true, wide: true, cell: (invoice) => (invoice.credit_cents > 0n ? dollars(invoice.credit_cents) : "") },
                  { title: "Total", right: true, cell: (invoice) => dollars(invoice.total_cents) },
                  { title: "State", cell: (invoice) => <State invoice={invoice} /> },
                  { title: "Ledger's block", right: true, wide: true, cell: block },
                ]}
              />
              <More shown={Math.min(shown, all.length)} hasMore={all.length > shown} busy={false} onMore={() => setShown(shown + PAGE)} />
            </>
          )
        }
      </Loaded>
    </Panel>
  );
}

function block(invoice: types.Invoice): string {
  if (!("Paid" in invoice.state)) return "";
  const number = optional(invoice.state.Paid.block);
  return number === undefined ? "paid by credit" : String(number);
}

function State({ invoice }: { invoice: types.Invoice }) {
  const { tone, words, busy } = invoiceState(invoice);
  const why = "Void" in invoice.state ? invoice.state.Void.reason : optional(invoice.last_failure);
  return (
    <span className="grid justify-items-start gap-0.5">
      <Badge tone={tone} busy={busy ?? false}>
        {words}
      </Badge>
      {why && !("Paid" in invoice.state) && <span className="text-xs break-words text-ink-2">{why}</span>}
    </span>
  );
}
