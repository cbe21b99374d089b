//! Exports: runs and invoices as CSV or JSON lines, page by page.

use candid::Principal;
use serde::Serialize;
use shared_types::econ::payment::InvoiceState;
use shared_types::econ::usage::ExportSubject;
use shared_types::econ::{
    ExportArgs, ExportFormat, ExportPage, Invoice, ListInvoicesArgs, RefundState, UsageArgs, UsageRecord,
};

use crate::economy::Economy;

/// A run as a line.
#[derive(Serialize)]
struct RunLine {
    sequence: u64,
    time_ns: u64,
    period: u32,
    agent: String,
    reservation: u64,
    latency_ns: u64,
    tokens_in: u64,
    tokens_out: u64,
    charged_tokens: u64,
    instructions: u64,
    cycles: u128,
    cost_microcents: u64,
}

const RUN_HEADER: &str = "sequence,time_ns,period,agent,reservation,latency_ns,tokens_in,tokens_out,charged_tokens,\
                          instructions,cycles,cost_microcents";

impl From<UsageRecord> for RunLine {
    fn from(record: UsageRecord) -> Self {
        Self {
            sequence: record.sequence,
            time_ns: record.time_ns,
            period: record.period,
            agent: record.agent.to_text(),
            reservation: record.reservation,
            latency_ns: record.envelope.latency_ns,
            tokens_in: record.envelope.tokens_in,
            tokens_out: record.envelope.tokens_out,
            charged_tokens: record.charged_tokens,
            instructions: record.envelope.instructions,
            cycles: record.envelope.cycles,
            cost_microcents: record.cost_microcents,
        }
    }
}

/// An invoice as a line.
#[derive(Serialize)]
struct InvoiceLine {
    invoice: u64,
    issued_ns: u64,
    kind: String,
    tier: String,
    period: Option<u32>,
    subtotal_cents: u64,
    credit_cents: u64,
    total_cents: u64,
    ledger: String,
    amount: Option<u128>,
    state: String,
    block: Option<u64>,
    refund_block: Option<u64>,
    hash: String,
}

const INVOICE_HEADER: &str = "invoice,issued_ns,kind,tier,period,subtotal_cents,credit_cents,total_cents,ledger,amount,\
                              state,block,refund_block,hash";

impl From<Invoice> for InvoiceLine {
    fn from(invoice: Invoice) -> Self {
        let (state, block) = match &invoice.state {
            InvoiceState::Open => ("open", None),
            InvoiceState::Paid { block, .. } => ("paid", *block),
            InvoiceState::Void { .. } => ("void", None),
        };
        let refund_block = match invoice.refund {
            Some(RefundState::Done { block }) => Some(block),
            _ => None,
        };
        Self {
            invoice: invoice.id,
            issued_ns: invoice.issued_ns,
            kind: format!("{:?}", invoice.kind).to_lowercase(),
            hash: invoice.hash().to_string(),
            ledger: invoice.method.ledger.to_text(),
            tier: invoice.terms.tier,
            period: invoice.period,
            subtotal_cents: invoice.subtotal_cents,
            credit_cents: invoice.credit_cents,
            total_cents: invoice.total_cents,
            amount: invoice.amount,
            state: state.to_owned(),
            block,
            refund_block,
        }
    }
}

/// A page of an export.
pub fn page(economy: &Economy, account: Principal, args: &ExportArgs) -> ExportPage {
    let ExportArgs { subject, format, after, limit, .. } = *args;
    match subject {
        ExportSubject::Usage => {
            let page = economy.usage_page(account, &UsageArgs { account: None, after, limit });
            let lines = page.records.into_iter().map(RunLine::from);
            ExportPage { text: text(lines, format, RUN_HEADER, after), next: page.next }
        }
        ExportSubject::Invoices => {
            let page = economy.list_invoices(account, &ListInvoicesArgs { account: None, after, limit });
            let lines = page.invoices.into_iter().map(InvoiceLine::from);
            ExportPage { text: text(lines, format, INVOICE_HEADER, after), next: page.next }
        }
    }
}

fn text<L: Serialize>(
    lines: impl Iterator<Item = L>,
    format: ExportFormat,
    header: &str,
    after: Option<u64>,
) -> String {
    let mut text = String::new();
    if format == ExportFormat::Csv && after.is_none() {
        text.push_str(header);
        text.push_str("\r\n");
    }
    for line in lines {
        // Lines of numbers and texts can always be written.
        let json = serde_json::to_value(line).unwrap_or_default();
        match format {
            ExportFormat::Json => {
                text.push_str(&json.to_string());
                text.push('\n');
            }
            ExportFormat::Csv => {
                let fields = header.split(',').map(|name| field(json.get(name)));
                text.push_str(&fields.collect::<Vec<_>>().join(","));
                text.push_str("\r\n");
            }
        }
    }
    text
}

/// A field of RFC 4180: quoted if it has to be.
fn field(value: Option<&serde_json::Value>) -> String {
    match value {
        None | Some(serde_json::Value::Null) => String::new(),
        Some(serde_json::Value::String(text)) if text.contains([',', '"', '\r', '\n']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
