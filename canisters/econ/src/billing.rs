//! Subscriptions and invoices: what people ask for, what time brings, and what payments mean.

use candid::Principal;
use shared_types::FieldError;
use shared_types::econ::payment::{
    ChangeTime, Currency, InvoiceId, MAX_INVOICES, MAX_VOID_INVOICES, PayArgs, tokens_of,
};
use shared_types::econ::{
    ChangeTierArgs, EconError, Invoice, InvoiceArgs, InvoiceKind, InvoicePage, InvoiceState,
    ListInvoicesArgs, MAX_KEY_BYTES, PaymentMethod, Quote, QuoteArgs, Rate, SubscribeArgs, SubscriptionInput,
    SubscriptionRefusal, SubscriptionStatus, Terms,
};
use shared_types::paging;

use crate::economy::{Account, Economy, StoredInvoice, key_digest};
use crate::events::EventKind;
use crate::rules::{Rule, holds};

/// A new invoice's price: of a tier for a period, or of the difference for the rest of one.
struct Price {
    kind: InvoiceKind,
    terms: Terms,
    period: Option<u32>,
    cents: u64,
}

impl Economy {
    /// Begins a subscription: writes the invoice for its first period, or finds the one that the same key made before.
    ///
    /// # Errors
    /// [`EconError::InvalidField`], [`EconError::KeyReused`], [`EconError::UnknownTier`], [`EconError::UnknownLedger`] for the
    /// arguments; [`EconError::Subscription`] while there is a subscription; [`EconError::InvoiceOpen`];
    /// [`EconError::QuoteNeeded`] for a ledger whose token is no dollar.
    pub fn subscribe(
        &mut self,
        caller: Principal,
        args: &SubscribeArgs,
        now_ns: u64,
    ) -> Result<InvoiceId, EconError> {
        let fits = |invoice: &Invoice| {
            [
                ("kind", invoice.kind == InvoiceKind::Subscription),
                ("tier", invoice.terms.tier == args.tier),
                ("method", invoice.method == args.method),
            ]
        };
        if let Some(id) = self.invoice_by_key(caller, &args.key, fits)? {
            return Ok(id);
        }
        self.advance_subscription(caller, now_ns);
        let account = self.account(caller);
        let terms = self.terms(&args.tier, now_ns)?;
        refuse_unless(&account, &SubscriptionInput::Started { terms: terms.clone() }, now_ns)?;
        check_new_invoice(&account)?;
        let cents = terms.price_cents;
        let price = Price { kind: InvoiceKind::Subscription, terms, period: None, cents };
        let (amount, rate) = self.priced(&account, args.method.ledger, &price, now_ns)?;
        self.set_method(caller, args.method, now_ns)?;
        Ok(self.issue_invoice(caller, &args.key, price, args.method, amount, rate, now_ns))
    }

    /// Changes the tier: at once or with the renewal. An upgrade at once writes an invoice for the difference, whose number comes back.
    ///
    /// # Errors
    /// As [`Economy::subscribe`]; [`EconError::Subscription`] unless the subscription is active.
    pub fn change_tier(
        &mut self,
        caller: Principal,
        args: &ChangeTierArgs,
        now_ns: u64,
    ) -> Result<Option<InvoiceId>, EconError> {
        let fits = |invoice: &Invoice| {
            [
                ("kind", invoice.kind == InvoiceKind::Upgrade),
                ("tier", invoice.terms.tier == args.tier),
                ("", true),
            ]
        };
        if let Some(id) = self.invoice_by_key(caller, &args.key, fits)? {
            return Ok(Some(id));
        }
        self.advance_subscription(caller, now_ns);
        let account = self.account(caller);
        let terms = self.terms(&args.tier, now_ns)?;
        if args.time == ChangeTime::Renewal {
            let chosen = SubscriptionInput::TierChosen { tier: Some(args.tier.clone()) };
            refuse_unless(&account, &chosen, now_ns)?;
            self.take(caller, chosen, now_ns, now_ns);
            return Ok(None);
        }
        let current = account.subscription.period.as_ref().filter(|_| account.subscription.is_usable());
        let dearer = current.is_none_or(|period| terms.price_cents >= period.terms.price_cents);
        if dearer {
            refuse_unless(&account, &SubscriptionInput::Upgraded { terms: terms.clone() }, now_ns)?;
            check_new_invoice(&account)?;
            let (Some(period), Some(method)) = (current, account.method) else {
                return Err(SubscriptionRefusal::WrongStatus { status: account.subscription.status }.into());
            };
            let cents = period.upgrade(&terms, now_ns).cents;
            let price = Price { kind: InvoiceKind::Upgrade, terms, period: Some(period.number), cents };
            let (amount, rate) = self.priced(&account, method.ledger, &price, now_ns)?;
            return Ok(Some(self.issue_invoice(caller, &args.key, price, method, amount, rate, now_ns)));
        }
        let Some(period) = current else {
            return Err(SubscriptionRefusal::WrongStatus { status: account.subscription.status }.into());
        };
        let meters = account.meters(period.number);
        let taken = |meter: shared_types::econ::Meter| meter.used.saturating_add(meter.reserved);
        let tokens_taken = meters.map_or(0, |meters| taken(meters.tokens));
        let creations_taken = meters.map_or(0, |meters| taken(meters.creations));
        let downgraded =
            SubscriptionInput::Downgraded { terms: terms.clone(), tokens_taken, creations_taken };
        refuse_unless(&account, &downgraded, now_ns)?;
        check_new_invoice(&account)?;
        let cents = period.downgrade(&terms, now_ns, tokens_taken, creations_taken).cents;
        self.take(caller, downgraded, now_ns, now_ns);
        self.record(now_ns, EventKind::Credited { account: caller, cents });
        Ok(None)
    }

    /// Ends the subscription: with the period if it is paid, at once otherwise.
    ///
    /// # Errors
    /// [`EconError::Subscription`] when there is nothing to cancel.
    pub fn cancel(&mut self, caller: Principal, now_ns: u64) -> Result<(), EconError> {
        self.take_if_possible(caller, SubscriptionInput::Cancelled, now_ns)?;
        self.void_stale_invoices(caller, "the subscription was cancelled", now_ns);
        Ok(())
    }

    /// Takes a cancellation back, before the period has ended.
    ///
    /// # Errors
    /// [`EconError::Subscription`] when it is not cancelled, or over.
    pub fn resume(&mut self, caller: Principal, now_ns: u64) -> Result<(), EconError> {
        self.take_if_possible(caller, SubscriptionInput::Resumed, now_ns)
    }

    /// Changes who pays renewals.
    ///
    /// # Errors
    /// [`EconError::UnknownLedger`], [`EconError::LimitReached`].
    pub fn set_method(
        &mut self,
        caller: Principal,
        method: PaymentMethod,
        now_ns: u64,
    ) -> Result<(), EconError> {
        self.usable_ledger(method.ledger)?;
        self.check_room_for(caller)?;
        if self.account(caller).method != Some(method) {
            self.record(now_ns, EventKind::MethodSet { account: caller, method });
        }
        Ok(())
    }

    /// Has an open invoice collected now, perhaps from another account.
    ///
    /// # Errors
    /// [`EconError::UnknownInvoice`], also for those of others; [`EconError::WrongInvoiceState`] when it is closed, or a
    /// transfer from another account is under way.
    pub fn pay(&mut self, caller: Principal, args: &PayArgs, now_ns: u64) -> Result<InvoiceId, EconError> {
        let StoredInvoice { invoice, transfer, .. } = self.stored_invoice(args.invoice)?;
        if invoice.account != caller {
            return Err(EconError::UnknownInvoice);
        }
        let wrong =
            |reason: &str| EconError::WrongInvoiceState { invoice: invoice.id, reason: reason.to_owned() };
        if invoice.is_closed() {
            return Err(wrong("it is closed"));
        }
        let method = args.method.unwrap_or(invoice.method);
        if method.ledger != invoice.method.ledger {
            // The invoice's hash names the ledger: one invoice is never collected on two.
            return Err(wrong("it is to be paid on the ledger that it names"));
        }
        if transfer.is_some() {
            return if method == invoice.method {
                Ok(invoice.id)
            } else {
                Err(wrong("a transfer is under way"))
            };
        }
        self.set_method(caller, method, now_ns)?;
        self.record(now_ns, EventKind::InvoiceRedirected { invoice: invoice.id, method });
        Ok(invoice.id)
    }

    /// What a tier costs the caller now, at a rate if the ledger's token is no dollar; the rate must be fresh.
    ///
    /// # Errors
    /// [`EconError::UnknownTier`], [`EconError::UnknownLedger`], [`EconError::RateUnavailable`], [`EconError::Subscription`].
    pub fn quote(
        &mut self,
        caller: Principal,
        args: &QuoteArgs,
        rate: Option<Rate>,
        now_ns: u64,
    ) -> Result<Quote, EconError> {
        self.advance_subscription(caller, now_ns);
        let ledger = self.usable_ledger(args.ledger)?.clone();
        let terms = self.terms(&args.tier, now_ns)?;
        self.check_room_for(caller)?;
        let account = self.account(caller);
        let current = account.subscription.period.as_ref().filter(|_| account.subscription.is_usable());
        let price = current.map_or(terms.price_cents, |period| period.upgrade(&terms, now_ns).cents);
        let cents = price - price.min(account.credit_cents);
        let rate = rate.filter(|_| ledger.args.currency != Currency::Dollar);
        let amount = tokens_of(cents, ledger.decimals, rate)
            .ok_or_else(|| EconError::RateUnavailable { reason: "the amount can't be written".to_owned() })?;
        let expires_ns = now_ns.saturating_add(self.settings().config.quote_ns);
        let quote = Quote {
            tier: args.tier.clone(),
            ledger: args.ledger,
            cents,
            amount,
            fee: ledger.fee,
            rate,
            expires_ns,
        };
        self.record(now_ns, EventKind::Quoted { account: caller, quote: quote.clone() });
        Ok(quote)
    }

    /// Lets a subscription live through the time until `now_ns`.
    pub fn advance_subscription(&mut self, principal: Principal, now_ns: u64) {
        loop {
            let account = self.account(principal);
            let Some(due_ns) = account.subscription.due_ns.filter(|due_ns| *due_ns <= now_ns) else { return };
            let config = &self.settings().config;
            let input = match account.subscription.status {
                SubscriptionStatus::PastDue => {
                    SubscriptionInput::GraceEnded { retention_ns: config.retention_ns }
                }
                SubscriptionStatus::Suspended => SubscriptionInput::RetentionEnded,
                _ => {
                    let Some(period) = &account.subscription.period else { return };
                    let tier = account.subscription.next_tier.as_ref().unwrap_or(&period.terms.tier);
                    // A tier that is not offered any more is renewed as it was.
                    let terms = self.terms(tier, due_ns).unwrap_or_else(|_| period.terms.clone());
                    let grace_ns = config.grace_ns.min(terms.period_ns());
                    SubscriptionInput::PeriodEnded { terms, grace_ns }
                }
            };
            self.take(principal, input, due_ns, now_ns);
            let account = self.account(principal);
            match account.subscription.status {
                SubscriptionStatus::PastDue => self.issue_renewal(principal, &account, now_ns),
                SubscriptionStatus::Suspended | SubscriptionStatus::Expired => {
                    self.void_stale_invoices(principal, "it was not paid in time", now_ns);
                }
                _ => {}
            }
        }
    }

    /// What the payment of an invoice means; a payment that means nothing any more is given back.
    pub(crate) fn invoice_paid(&mut self, id: InvoiceId, block: Option<u64>, now_ns: u64) {
        let Ok(StoredInvoice { invoice, .. }) = self.stored_invoice(id) else { return };
        self.advance_subscription(invoice.account, now_ns);
        let subscription = self.account(invoice.account).subscription;
        let current = subscription.period.as_ref().map(|period| period.number);
        let started = SubscriptionInput::Started { terms: invoice.terms.clone() };
        // An upgrade counts from when its price was told.
        let input = match (invoice.kind, subscription.status) {
            (InvoiceKind::Subscription, _) => Some((started, now_ns)),
            (InvoiceKind::Renewal, SubscriptionStatus::Suspended) if invoice.period == current => {
                Some((started, now_ns))
            }
            (InvoiceKind::Renewal, _) if invoice.period == current => {
                Some((SubscriptionInput::Renewed, now_ns))
            }
            (InvoiceKind::Upgrade, _) if invoice.period == current => {
                Some((SubscriptionInput::Upgraded { terms: invoice.terms.clone() }, invoice.issued_ns))
            }
            _ => None,
        };
        let input = input.filter(|(input, at_ns)| subscription.clone().take(input, *at_ns).is_ok());
        let Some((input, at_ns)) = input else {
            self.record(now_ns, EventKind::InvoicePaid { invoice: id, block, period: None });
            if holds(Rule::UselessPaymentReturns) {
                self.give_back(id, now_ns);
            }
            return;
        };
        self.take(invoice.account, input, at_ns, now_ns);
        let period = self.account(invoice.account).subscription.period.map(|period| period.number);
        self.record(now_ns, EventKind::InvoicePaid { invoice: id, block, period });
    }

    /// What it means that an attempt to collect an invoice has certainly failed.
    pub(crate) fn invoice_failed(&mut self, id: InvoiceId, reason: &str, now_ns: u64) {
        let Ok(StoredInvoice { invoice, .. }) = self.stored_invoice(id) else { return };
        self.advance_subscription(invoice.account, now_ns);
        let status = self.account(invoice.account).subscription.status;
        let pause = self.settings().config.retry_pauses_ns.get(invoice.failed_attempts as usize);
        let next_attempt_ns = pause.map(|pause| now_ns.saturating_add(*pause));
        let past_due = invoice.kind == InvoiceKind::Renewal && status == SubscriptionStatus::PastDue;
        let reason = reason.to_owned();
        let next_attempt_ns = next_attempt_ns.filter(|_| past_due);
        self.record(
            now_ns,
            EventKind::InvoiceFailed { invoice: id, reason: reason.clone(), next_attempt_ns },
        );
        // A renewal may still be paid until its grace ends; who asked for something else asks again.
        if !past_due {
            self.record(now_ns, EventKind::InvoiceVoided { invoice: id, reason });
        }
    }

    /// An invoice and its transfers.
    ///
    /// # Errors
    /// [`EconError::UnknownInvoice`].
    pub fn stored_invoice(&self, id: InvoiceId) -> Result<StoredInvoice, EconError> {
        self.invoices.get(&id).map(|stored| stored.0).ok_or(EconError::UnknownInvoice)
    }

    /// An invoice that `reader` may see.
    ///
    /// # Errors
    /// [`EconError::UnknownInvoice`].
    pub fn invoice(&self, reader: Principal, args: &InvoiceArgs) -> Result<Invoice, EconError> {
        let id = match args {
            InvoiceArgs::Id(id) => *id,
            InvoiceArgs::Key(key) => {
                self.invoice_keys.get(&key_digest(reader, None, key)).ok_or(EconError::UnknownInvoice)?
            }
        };
        let invoice = self.stored_invoice(id)?.invoice;
        if invoice.account == reader || self.is_admin(reader) {
            Ok(invoice)
        } else {
            Err(EconError::UnknownInvoice)
        }
    }

    /// A page of an account's invoices.
    pub fn list_invoices(&self, account: Principal, args: &ListInvoicesArgs) -> InvoicePage {
        let first = args.after.map_or(0, |after| after.saturating_add(1));
        let keys = self.account_invoices.range((account, first)..=(account, u64::MAX));
        let rest = keys.filter_map(|entry| Some(self.invoices.get(&entry.key().1)?.0.invoice));
        let (invoices, next) = paging::page(rest, args.limit, |invoice| invoice.id);
        InvoicePage { invoices, next }
    }

    fn take(&mut self, account: Principal, input: SubscriptionInput, at_ns: u64, now_ns: u64) {
        self.record(now_ns, EventKind::Subscription { account, input, at_ns });
    }

    fn take_if_possible(
        &mut self,
        principal: Principal,
        input: SubscriptionInput,
        now_ns: u64,
    ) -> Result<(), EconError> {
        self.advance_subscription(principal, now_ns);
        refuse_unless(&self.account(principal), &input, now_ns)?;
        self.take(principal, input, now_ns, now_ns);
        Ok(())
    }

    /// Ends the period that a refunded invoice has paid.
    pub(crate) fn end_refunded_period(&mut self, invoice: &Invoice, now_ns: u64) {
        self.advance_subscription(invoice.account, now_ns);
        let subscription = self.account(invoice.account).subscription;
        let current = subscription.period.as_ref().map(|period| period.number);
        let possible = subscription.clone().take(&SubscriptionInput::Refunded, now_ns).is_ok();
        if invoice.period.is_some() && invoice.period == current && possible {
            self.take(invoice.account, SubscriptionInput::Refunded, now_ns, now_ns);
        }
    }

    fn invoice_by_key(
        &self,
        caller: Principal,
        key: &str,
        fits: impl Fn(&Invoice) -> [(&'static str, bool); 3],
    ) -> Result<Option<InvoiceId>, EconError> {
        FieldError::check_text("key", key, MAX_KEY_BYTES)?;
        let Some(id) = self.invoice_keys.get(&key_digest(caller, None, key)) else { return Ok(None) };
        let known = self.stored_invoice(id)?.invoice;
        match fits(&known).into_iter().find(|(_, fits)| !fits) {
            Some((field, _)) => Err(EconError::KeyReused { key: key.to_owned(), field: field.to_owned() }),
            None => Ok(Some(id)),
        }
    }

    /// Whether there is room for an account that is not kept yet.
    fn check_room_for(&self, account: Principal) -> Result<(), EconError> {
        let most = self.settings().config.max_accounts;
        if self.accounts_len() >= most && !self.knows_account(account) {
            return Err(EconError::LimitReached { what: "accounts".to_owned(), most });
        }
        Ok(())
    }

    fn usable_ledger(&self, ledger: Principal) -> Result<&shared_types::econ::LedgerInfo, EconError> {
        let known = self.ledger(ledger)?;
        if known.args.enabled { Ok(known) } else { Err(EconError::UnknownLedger { ledger }) }
    }

    /// The amount of a new invoice: of dollars by the cent, of other tokens as the account's last quote says.
    fn priced(
        &self,
        account: &Account,
        ledger: Principal,
        price: &Price,
        now_ns: u64,
    ) -> Result<(Option<u128>, Option<Rate>), EconError> {
        let known = self.usable_ledger(ledger)?;
        let cents = price.cents - price.cents.min(account.credit_cents);
        if known.args.currency == Currency::Dollar {
            return Ok((tokens_of(cents, known.decimals, None), None));
        }
        let quote = account.quote.as_ref().filter(|quote| {
            quote.ledger == ledger && quote.tier == price.terms.tier && now_ns < quote.expires_ns
        });
        let quote = quote.ok_or(EconError::QuoteNeeded)?;
        // The difference of an upgrade shrinks by the minute: the quote's rate counts.
        Ok((tokens_of(cents, known.decimals, quote.rate), quote.rate))
    }

    #[allow(clippy::too_many_arguments, reason = "an invoice has as many parts")]
    fn issue_invoice(
        &mut self,
        principal: Principal,
        key: &str,
        price: Price,
        method: PaymentMethod,
        amount: Option<u128>,
        rate: Option<Rate>,
        now_ns: u64,
    ) -> InvoiceId {
        let id = self.numbers.get().0.invoice + 1;
        let credit_cents = price.cents.min(self.account(principal).credit_cents);
        let total_cents = price.cents - credit_cents;
        let invoice = Invoice {
            id,
            account: principal,
            key: key.to_owned(),
            kind: price.kind,
            period: price.period,
            terms: price.terms,
            subtotal_cents: price.cents,
            credit_cents,
            total_cents,
            method,
            amount,
            rate,
            issued_ns: now_ns,
            state: InvoiceState::Open,
            failed_attempts: 0,
            last_failure: None,
            next_attempt_ns: (total_cents > 0).then_some(now_ns),
            refund: None,
        };
        self.record(now_ns, EventKind::InvoiceIssued(Box::new(invoice)));
        if total_cents == 0 {
            self.invoice_paid(id, None, now_ns);
        }
        id
    }

    fn issue_renewal(&mut self, principal: Principal, account: &Account, now_ns: u64) {
        let (Some(period), Some(method)) = (&account.subscription.period, account.method) else { return };
        let (terms, cents) = (period.terms.clone(), period.terms.price_cents);
        let price = Price { kind: InvoiceKind::Renewal, terms, period: Some(period.number), cents };
        let dollar =
            self.ledger(method.ledger).ok().filter(|ledger| ledger.args.currency == Currency::Dollar);
        let total = cents - cents.min(account.credit_cents);
        let amount = dollar.and_then(|ledger| tokens_of(total, ledger.decimals, None));
        self.issue_invoice(principal, "", price, method, amount, None, now_ns);
    }

    /// Voids the open invoices that nothing is being transferred for, when they have lost their meaning.
    fn void_stale_invoices(&mut self, principal: Principal, reason: &str, now_ns: u64) {
        let account = self.account(principal);
        for id in account.open_invoices {
            let Ok(StoredInvoice { invoice, transfer, .. }) = self.stored_invoice(id) else { continue };
            if transfer.is_none() && invoice.kind != InvoiceKind::Subscription {
                self.record(now_ns, EventKind::InvoiceVoided { invoice: id, reason: reason.to_owned() });
            }
        }
    }
}

fn refuse_unless(account: &Account, input: &SubscriptionInput, now_ns: u64) -> Result<(), EconError> {
    Ok(account.subscription.clone().take(input, now_ns)?)
}

/// Whether an account may have another invoice written.
fn check_new_invoice(account: &Account) -> Result<(), EconError> {
    if let Some(invoice) = account.open_invoices.first() {
        return Err(EconError::InvoiceOpen { invoice: *invoice });
    }
    let bounds = [
        ("void invoices", account.void_invoices, MAX_VOID_INVOICES),
        ("invoices", account.invoices, MAX_INVOICES),
    ];
    match bounds.into_iter().find(|(_, kept, most)| kept >= most) {
        Some((what, _, most)) => Err(EconError::LimitReached { what: what.to_owned(), most: most.into() }),
        None => Ok(()),
    }
}
