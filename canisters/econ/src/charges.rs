//! Collecting invoices and giving payments back: which transfers are made, and what their outcome means.

use candid::Principal;
use icrc_ledger_types::icrc1::account::Account as LedgerAccount;
use shared_types::FieldError;
use shared_types::econ::payment::{Currency, InvoiceId, tokens_of};
use shared_types::econ::{
    EconError, Invoice, InvoiceKind, InvoiceState, Rate, RefundArgs, RefundState, SubscriptionInput,
    payment_subaccount,
};

use crate::economy::{Economy, StoredInvoice, StoredTransfer};
use crate::events::{EventKind, Purpose, TransferId};
use crate::transfers::{Answer, Next, Order, Source, Step};

/// Longest reason of a refund in bytes.
const MAX_REASON_BYTES: usize = 200;

/// What an invoice needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// The rate of this asset in dollars; [`Economy::price`] hears it.
    Rate(String),
    /// Steps of this transfer.
    Transfer(TransferId),
    /// Nothing, or nothing now.
    Nothing,
}

impl Economy {
    /// What the collection of an invoice needs now. A transfer is planned here and nowhere else, and only while none is under way.
    pub fn collect(&mut self, id: InvoiceId, now_ns: u64) -> Work {
        let Ok(StoredInvoice { invoice, transfer, .. }) = self.stored_invoice(id) else {
            return Work::Nothing;
        };
        if let Some(transfer) = transfer {
            return Work::Transfer(transfer);
        }
        if invoice.is_closed() || invoice.next_attempt_ns.is_none_or(|next| next > now_ns) {
            return Work::Nothing;
        }
        self.advance_subscription(invoice.account, now_ns);
        let Ok(StoredInvoice { invoice, .. }) = self.stored_invoice(id) else { return Work::Nothing };
        if invoice.is_closed() {
            return Work::Nothing;
        }
        if !self.is_meaningful(&invoice, now_ns) {
            let reason = "the subscription has changed meanwhile".to_owned();
            self.record(now_ns, EventKind::InvoiceVoided { invoice: id, reason });
            return Work::Nothing;
        }
        let Ok(ledger) = self.ledger(invoice.method.ledger).cloned() else {
            self.invoice_failed(id, "the ledger is not known any more", now_ns);
            return Work::Nothing;
        };
        let amount = match (invoice.amount, &ledger.args.currency) {
            (Some(amount), _) => amount,
            (None, Currency::Asset { symbol }) => return Work::Rate(symbol.clone()),
            (None, Currency::Dollar) => {
                self.price(id, Ok(None), now_ns);
                match self.stored_invoice(id).ok().and_then(|stored| stored.invoice.amount) {
                    Some(amount) => amount,
                    None => return Work::Nothing,
                }
            }
        };
        let order = Order {
            ledger: ledger.args.canister,
            source: Source::Allowance {
                spender: payment_subaccount(invoice.account),
                from: invoice.method.from,
            },
            to: self.treasury(),
            amount,
            fee: ledger.fee,
            memo: invoice.hash(),
        };
        self.record(now_ns, EventKind::TransferPlanned { purpose: Purpose::Charge(id), order });
        self.stored_invoice(id).ok().and_then(|stored| stored.transfer).map_or(Work::Nothing, Work::Transfer)
    }

    /// Hears the rate for an invoice; `None` where the token is a dollar. Without a rate the attempt has failed.
    pub fn price(&mut self, id: InvoiceId, rate: Result<Option<Rate>, String>, now_ns: u64) {
        let Ok(StoredInvoice { invoice, transfer, .. }) = self.stored_invoice(id) else { return };
        if invoice.is_closed() || transfer.is_some() || invoice.amount.is_some() {
            return;
        }
        let decimals = self.ledger(invoice.method.ledger).map(|ledger| ledger.decimals);
        let amount = rate.and_then(|rate| {
            let decimals = decimals.map_err(|error| error.to_string())?;
            let amount = tokens_of(invoice.total_cents, decimals, rate);
            amount.map(|amount| (amount, rate)).ok_or_else(|| "the amount can't be written".to_owned())
        });
        match amount {
            Ok((amount, rate)) => self.record(now_ns, EventKind::InvoicePriced { invoice: id, amount, rate }),
            Err(reason) => self.invoice_failed(id, &reason, now_ns),
        }
    }

    /// What a transfer needs next. [`Next::NoteLoss`] is only for who knows that no call is under way.
    pub fn next_step(&self, id: TransferId, now_ns: u64) -> Option<Next> {
        self.transfers.get(&id).map(|stored| stored.0.transfer.next(now_ns))
    }

    /// A transfer.
    pub fn stored_transfer(&self, id: TransferId) -> Option<StoredTransfer> {
        self.transfers.get(&id).map(|stored| stored.0)
    }

    /// Journals that a step is about to be performed.
    pub fn begin_step(&mut self, id: TransferId, step: Step, now_ns: u64) {
        self.record(now_ns, EventKind::StepBegun { transfer: id, step });
    }

    /// Journals what came of a step, and does what follows from it.
    pub fn answer_step(&mut self, id: TransferId, answer: Answer, now_ns: u64) {
        let Some(before) = self.stored_transfer(id).filter(|stored| !stored.transfer.is_final()) else {
            return;
        };
        let answer = self.answer_for(before.purpose, before.transfer.order.ledger, answer, now_ns);
        self.record(now_ns, EventKind::StepAnswered { transfer: id, answer });
        let outcome = self.next_step(id, now_ns);
        match (before.purpose, outcome) {
            (Purpose::Charge(invoice), Some(Next::Done(block))) => {
                self.invoice_paid(invoice, Some(block), now_ns);
            }
            (Purpose::Charge(invoice), Some(Next::Failed(reason))) => {
                self.invoice_failed(invoice, &reason, now_ns);
            }
            (Purpose::Refund(invoice), Some(Next::Done(block))) => {
                self.record(now_ns, EventKind::Refund { invoice, state: RefundState::Done { block } });
            }
            (Purpose::Refund(invoice), Some(Next::Failed(reason))) => {
                self.record(now_ns, EventKind::Refund { invoice, state: RefundState::Failed { reason } });
            }
            (purpose, Some(Next::Done(block))) => {
                self.wallet_transfer_done(purpose, before.transfer.order.amount, block, now_ns);
            }
            (purpose, Some(Next::Failed(reason))) => self.wallet_transfer_failed(purpose, reason, now_ns),
            _ => {}
        }
    }

    /// Gives an invoice's payment back to who paid, and ends the period that it paid. After a refund that failed, it is tried again.
    ///
    /// # Errors
    /// [`EconError::UnknownInvoice`], [`EconError::WrongInvoiceState`]; [`EconError::InvalidField`] for the reason.
    pub fn refund(&mut self, args: &RefundArgs, now_ns: u64) -> Result<(), EconError> {
        FieldError::check_text("reason", &args.reason, MAX_REASON_BYTES)?;
        let StoredInvoice { invoice, .. } = self.stored_invoice(args.invoice)?;
        let wrong =
            |reason: &str| EconError::WrongInvoiceState { invoice: args.invoice, reason: reason.to_owned() };
        match (&invoice.state, &invoice.refund) {
            (InvoiceState::Paid { block: Some(_), .. }, None | Some(RefundState::Failed { .. })) => {}
            (InvoiceState::Paid { block: Some(_), .. }, Some(RefundState::Pending)) => return Ok(()),
            (InvoiceState::Paid { block: Some(_), .. }, Some(RefundState::Done { .. })) => {
                return Err(wrong("it was given back already"));
            }
            (InvoiceState::Paid { block: None, .. }, _) => return Err(wrong("credit paid it, no transfer")),
            _ => return Err(wrong("it is not paid")),
        }
        self.end_refunded_period(&invoice, now_ns);
        self.give_back(args.invoice, now_ns);
        Ok(())
    }

    /// Plans the transfer that gives an invoice's payment back.
    pub(crate) fn give_back(&mut self, id: InvoiceId, now_ns: u64) {
        let Ok(StoredInvoice { invoice, refund_transfer: None, .. }) = self.stored_invoice(id) else {
            return;
        };
        let paid = matches!(invoice.state, InvoiceState::Paid { block: Some(_), .. });
        let returned = matches!(invoice.refund, Some(RefundState::Done { .. } | RefundState::Pending));
        if !paid {
            // Credit alone has paid it.
            self.return_credit(&invoice, now_ns);
        }
        let (true, false, Some(amount)) = (paid, returned, invoice.amount) else { return };
        if invoice.refund.is_none() {
            self.return_credit(&invoice, now_ns);
        }
        self.record(now_ns, EventKind::Refund { invoice: id, state: RefundState::Pending });
        let fee = self.ledger(invoice.method.ledger).map_or(0, |ledger| ledger.fee);
        let order = Order {
            ledger: invoice.method.ledger,
            source: Source::Own { subaccount: None },
            to: invoice.method.from,
            amount,
            fee,
            memo: invoice.refund_hash(),
        };
        self.record(now_ns, EventKind::TransferPlanned { purpose: Purpose::Refund(id), order });
    }

    fn return_credit(&mut self, invoice: &Invoice, now_ns: u64) {
        if invoice.credit_cents > 0 {
            let (account, cents) = (invoice.account, invoice.credit_cents);
            self.record(now_ns, EventKind::Credited { account, cents });
        }
    }

    /// Whether the payment of an invoice would still mean what it says.
    fn is_meaningful(&self, invoice: &Invoice, now_ns: u64) -> bool {
        let subscription = self.account(invoice.account).subscription;
        let current = subscription.period.as_ref().map(|period| period.number);
        let input = match invoice.kind {
            InvoiceKind::Subscription => SubscriptionInput::Started { terms: invoice.terms.clone() },
            InvoiceKind::Renewal => SubscriptionInput::Renewed,
            InvoiceKind::Upgrade => SubscriptionInput::Upgraded { terms: invoice.terms.clone() },
        };
        let fits = invoice.kind == InvoiceKind::Subscription || invoice.period == current;
        fits && subscription.clone().take(&input, now_ns).is_ok()
    }

    /// Where payments go.
    pub fn treasury(&self) -> LedgerAccount {
        LedgerAccount { owner: self.canister(), subaccount: None }
    }

    fn canister(&self) -> Principal {
        self.settings().canister.unwrap_or(Principal::management_canister())
    }
}
