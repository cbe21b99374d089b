//! The canister's state in stable memory, and the one way to change it: [`Economy::record`].
//!
//! What may change is decided in [`crate::governance`], [`crate::quotas`], [`crate::billing`] and [`crate::charges`]: they look at the state and
//! record events. Here is what an event does. Applying one never fails: what could refuse it was asked before.

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::storable::{Blob, Bound, Storable};
use ic_stable_structures::{StableBTreeMap, StableCell};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shared_types::econ::payment::{InvoiceId, PAID_REMEMBERED_NS, VOID_REMEMBERED_NS};
use shared_types::econ::quota::{IDLE_REMEMBERED_NS, REMEMBERED_NS};
use shared_types::econ::{
    EconConfig, Invoice, InvoiceKind, InvoiceState, LedgerInfo, Meter, PaymentMethod, Quote, RateClass,
    Reservation, ReservationId, ReservationState, Resource, ServiceRole, Subscription, TierVersion,
    UsageTotals,
};

use crate::accounts::Accounts;
use crate::event_log::{EventLog, SEGMENT_EVENTS};
use crate::events::{Event, EventKind, Purpose, TransferId};
use crate::memory::{Memories, Memory};
use crate::settlement::Settlement;
use crate::transfers::Transfer;

/// Ended periods of an account whose meters are kept beside the current one. Reservations live a day at most, a period is at least
/// as long.
const KEPT_PERIODS: usize = 3;

/// Governance and what it sets.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// This canister.
    pub canister: Option<Principal>,
    /// Governance.
    pub admins: Vec<Principal>,
    /// Times and limits.
    pub config: EconConfig,
    /// Versions of the tiers.
    pub tiers: Vec<TierVersion>,
    /// Ledgers, ordered by canister.
    pub ledgers: Vec<LedgerInfo>,
}

/// What a billing period gives, and what was taken of it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PeriodMeters {
    /// The period.
    pub number: u32,
    /// Tokens taken.
    pub tokens: Meter,
    /// Creations taken.
    pub creations: Meter,
    /// Tokens that it gives.
    pub token_limit: u64,
    /// Creations that it gives.
    pub creation_limit: u64,
    /// Tokens beyond, for runs under way.
    pub overdraft: u64,
    /// Price in cents, for the cost of runs.
    pub price_cents: u64,
    /// Tokens for this price.
    pub priced_tokens: u64,
}

/// An account.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Its subscription.
    pub subscription: Subscription,
    /// Credit in cents: invoices take it first.
    pub credit_cents: u64,
    /// Who pays renewals.
    pub method: Option<PaymentMethod>,
    /// Meters of the last periods, the current one at the end.
    pub periods: Vec<PeriodMeters>,
    /// Agents that live.
    pub agents: u32,
    /// Agents whose creation is reserved.
    pub agents_reserved: u32,
    /// Reservations that are open.
    pub open_reservations: u32,
    /// Invoices that are open.
    pub open_invoices: Vec<InvoiceId>,
    /// Invoices that are kept.
    pub invoices: u32,
    /// Void ones among them.
    pub void_invoices: u32,
    /// When an account that has and had nothing is forgotten.
    pub idle_ns: Option<u64>,
    /// The last price that was asked for.
    pub quote: Option<Quote>,
    /// Number of the last run.
    pub last_run: u64,
    /// Runs that are kept.
    pub kept_runs: u64,
    /// Sums over all runs.
    pub totals: UsageTotals,
    /// Sums over the runs of days that are not kept any more.
    pub earlier: UsageTotals,
}

impl Account {
    /// The meters of a period, as long as they are kept.
    pub fn meters(&self, period: u32) -> Option<&PeriodMeters> {
        self.periods.iter().find(|meters| meters.number == period)
    }

    fn meters_mut(&mut self, period: u32) -> Option<&mut PeriodMeters> {
        self.periods.iter_mut().find(|meters| meters.number == period)
    }

    /// When time changes something about it.
    fn due_ns(&self) -> Option<u64> {
        self.subscription.due_ns.or(self.idle_ns)
    }

    /// Whether nothing would be lost with it: it never had a subscription, and no invoice is kept.
    fn is_idle(&self) -> bool {
        self.subscription == Subscription::default() && self.invoices == 0 && self.credit_cents == 0
    }

    /// How urgent its work is.
    pub fn rate_class(&self) -> RateClass {
        self.subscription.period.as_ref().map_or(RateClass::Standard, |period| period.terms.rate_class)
    }

    /// Gives back what a reservation holds.
    fn give_back(&mut self, reservation: &Reservation) {
        self.open_reservations = self.open_reservations.saturating_sub(1);
        match reservation.resource {
            Resource::Creation(agents) => {
                self.agents_reserved = self.agents_reserved.saturating_sub(agents);
                if let Some(meters) = self.meters_mut(reservation.period) {
                    meters.creations.reserved = meters.creations.reserved.saturating_sub(u64::from(agents));
                }
            }
            Resource::Tokens(tokens) => {
                if let Some(meters) = self.meters_mut(reservation.period) {
                    meters.tokens.reserved = meters.tokens.reserved.saturating_sub(tokens);
                }
            }
        }
    }

    /// Brings the current period's limits to what the subscription says.
    fn follow_period(&mut self) {
        let Some(period) = &self.subscription.period else { return };
        if self.periods.last().is_none_or(|last| last.number != period.number) {
            let surplus = (self.periods.len() + 1).saturating_sub(KEPT_PERIODS);
            self.periods.drain(..surplus);
            self.periods.push(PeriodMeters {
                number: period.number,
                tokens: Meter::default(),
                creations: Meter::default(),
                token_limit: 0,
                creation_limit: 0,
                overdraft: 0,
                price_cents: 0,
                priced_tokens: 0,
            });
        }
        if let Some(meters) = self.periods.last_mut() {
            meters.token_limit = period.tokens;
            meters.creation_limit = period.creations;
            meters.overdraft = period.terms.overdraft_tokens;
            meters.price_cents = period.terms.price_cents;
            meters.priced_tokens = period.terms.tokens;
        }
    }
}

/// The last numbers that were given, also to what is not kept any more.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Of an invoice.
    pub invoice: InvoiceId,
    /// Of a transfer.
    pub transfer: TransferId,
}

/// A reservation, and when it is looked at again.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StoredReservation {
    /// The reservation.
    pub reservation: Reservation,
    /// When it expires, or is forgotten.
    pub due_ns: u64,
}

/// An invoice and its transfers.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StoredInvoice {
    /// The invoice.
    pub invoice: Invoice,
    /// The transfer that collects it, while its outcome is not final.
    pub transfer: Option<TransferId>,
    /// The transfer that gives it back, while its outcome is not final.
    pub refund_transfer: Option<TransferId>,
    /// When it is forgotten, once it is closed.
    pub forget_ns: Option<u64>,
}

impl StoredInvoice {
    /// When its next attempt begins, or it is forgotten: not before its refund has ended.
    fn due_ns(&self) -> Option<u64> {
        self.invoice.next_attempt_ns.or(self.forget_ns.filter(|_| self.refund_transfer.is_none()))
    }
}

/// A transfer and its purpose.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StoredTransfer {
    /// What it is for.
    pub purpose: Purpose,
    /// The transfer.
    pub transfer: Transfer,
}

/// What has to be looked at when its time comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// A reservation expires, or is forgotten.
    Reservation(ReservationId),
    /// A subscription changes with time, or an account is forgotten.
    Account(Principal),
    /// The next attempt to collect an invoice begins, or it is forgotten.
    Invoice(InvoiceId),
    /// A transfer goes on, or is forgotten.
    Transfer(TransferId),
}

/// A task and its time: ordered by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// When.
    pub due_ns: u64,
    /// What.
    pub task: Task,
}

impl Storable for Due {
    // The time, a byte for the kind, a number or a principal.
    const BOUND: Bound = Bound::Bounded { max_size: 8 + 1 + 29, is_fixed_size: false };

    fn to_bytes(&self) -> std::borrow::Cow<'_, [u8]> {
        let mut bytes = self.due_ns.to_be_bytes().to_vec();
        match &self.task {
            Task::Reservation(id) => bytes.extend([&[0][..], &id.to_be_bytes()].concat()),
            Task::Account(account) => bytes.extend([&[1], account.as_slice()].concat()),
            Task::Invoice(id) => bytes.extend([&[2][..], &id.to_be_bytes()].concat()),
            Task::Transfer(id) => bytes.extend([&[3][..], &id.to_be_bytes()].concat()),
        }
        bytes.into()
    }

    fn into_bytes(self) -> Vec<u8> {
        self.to_bytes().into_owned()
    }

    fn from_bytes(bytes: std::borrow::Cow<[u8]>) -> Self {
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes of a number"));
        let (due_ns, kind, rest) = (number(&bytes[..8]), bytes[8], &bytes[9..]);
        let task = match kind {
            0 => Task::Reservation(number(rest)),
            1 => Task::Account(Principal::from_slice(rest)),
            2 => Task::Invoice(number(rest)),
            _ => Task::Transfer(number(rest)),
        };
        Self { due_ns, task }
    }
}

/// A key in an index: the digest of its parts, so that every key has the same length.
pub type KeyDigest = Blob<32>;

/// The digest of an idempotency key, of `account`, and of the caller where callers have keys of their own.
pub fn key_digest(account: Principal, caller: Option<Principal>, key: &str) -> KeyDigest {
    let mut hasher = Sha256::new();
    for part in [account.as_slice(), caller.as_ref().map_or(&[], |caller| caller.as_slice()), key.as_bytes()]
    {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    KeyDigest::try_from(&hasher.finalize()[..]).unwrap_or_default()
}

/// Structures in stable memory and the event log.
pub struct Economy {
    pub(crate) settings: StableCell<Cbor<Settings>, Memory>,
    pub(crate) services: StableBTreeMap<Principal, Cbor<ServiceRole>, Memory>,
    accounts: Accounts,
    pub(crate) agents: StableBTreeMap<(Principal, Principal), (), Memory>,
    pub(crate) reservations: StableBTreeMap<ReservationId, Cbor<StoredReservation>, Memory>,
    pub(crate) reservation_keys: StableBTreeMap<KeyDigest, ReservationId, Memory>,
    pub(crate) schedule: StableBTreeMap<Due, (), Memory>,
    /// Reservations have a schedule of their own, which stays small however many accounts there are.
    pub(crate) reservation_schedule: StableBTreeMap<Due, (), Memory>,
    pub(crate) invoices: StableBTreeMap<InvoiceId, Cbor<StoredInvoice>, Memory>,
    pub(crate) invoice_keys: StableBTreeMap<KeyDigest, InvoiceId, Memory>,
    pub(crate) account_invoices: StableBTreeMap<(Principal, InvoiceId), (), Memory>,
    pub(crate) transfers: StableBTreeMap<TransferId, Cbor<StoredTransfer>, Memory>,
    pub(crate) usage: crate::usage::History,
    pub(crate) settlement: Settlement,
    pub(crate) numbers: StableCell<Cbor<Numbers>, Memory>,
    pub(crate) events: EventLog,
}

impl Economy {
    /// Opens what the memories hold.
    pub fn open(memories: Memories) -> Self {
        Self {
            settings: StableCell::init(memories.settings, Cbor::default()),
            services: StableBTreeMap::init(memories.services),
            accounts: Accounts::open(memories.accounts),
            agents: StableBTreeMap::init(memories.agents),
            reservations: StableBTreeMap::init(memories.reservations),
            reservation_keys: StableBTreeMap::init(memories.reservation_keys),
            schedule: StableBTreeMap::init(memories.schedule),
            reservation_schedule: StableBTreeMap::init(memories.reservation_schedule),
            invoices: StableBTreeMap::init(memories.invoices),
            invoice_keys: StableBTreeMap::init(memories.invoice_keys),
            account_invoices: StableBTreeMap::init(memories.account_invoices),
            transfers: StableBTreeMap::init(memories.transfers),
            usage: crate::usage::History::open(memories.usage, memories.hours, memories.days),
            settlement: Settlement::open(memories.settlement),
            numbers: StableCell::init(memories.numbers, Cbor::default()),
            events: EventLog::open(memories.events, SEGMENT_EVENTS),
        }
    }

    /// Governance, tiers, ledgers.
    pub fn settings(&self) -> &Settings {
        &self.settings.get().0
    }

    /// An account; one that never did anything is as a new one.
    pub fn account(&self, principal: Principal) -> Account {
        self.accounts.get(principal)
    }

    /// Whether the account is kept.
    pub(crate) fn knows_account(&self, principal: Principal) -> bool {
        self.accounts.contains(principal)
    }

    /// All accounts.
    #[cfg(test)]
    pub(crate) fn accounts(&self) -> Vec<(Principal, Account)> {
        self.accounts.all()
    }

    /// Wallets, escrows and withdrawals.
    pub fn settlement(&self) -> &Settlement {
        &self.settlement
    }

    /// Accounts.
    pub fn accounts_len(&self) -> u64 {
        self.accounts.len()
    }

    /// Invoices.
    pub fn invoices_len(&self) -> u64 {
        self.invoices.len()
    }

    /// Events recorded so far, those that are not kept any more included.
    pub fn events_len(&self) -> u64 {
        self.events.len()
    }

    /// The event at `index`, while it is kept.
    pub fn event(&self, index: u64) -> Option<Event> {
        self.events.get(index)
    }

    /// Applies an event and appends it to the log.
    ///
    /// # Panics
    /// When stable memory can't grow: the message is then rolled back, so that nothing happens without its entry.
    pub fn record(&mut self, time_ns: u64, kind: EventKind) {
        let event = Event { time_ns, kind };
        self.apply(&event);
        self.events.append(event);
    }

    /// Tasks that are due at `now_ns`, at most `limit`, the longest overdue first.
    pub fn due(&self, now_ns: u64, limit: usize) -> Vec<Task> {
        let due = |schedule: &StableBTreeMap<Due, (), Memory>| -> Vec<Due> {
            schedule.keys().take_while(|due| due.due_ns <= now_ns).take(limit).collect()
        };
        let mut all = [due(&self.schedule), due(&self.reservation_schedule)].concat();
        all.sort_by_key(|due| due.due_ns);
        all.into_iter().map(|due| due.task).take(limit).collect()
    }

    /// Reservations that are due at `now_ns`, at most `limit`, the longest overdue first.
    pub(crate) fn due_reservations(&self, now_ns: u64, limit: usize) -> Vec<ReservationId> {
        let due = self.reservation_schedule.keys().take_while(|due| due.due_ns <= now_ns).take(limit);
        let reservation = |due: Due| match due.task {
            Task::Reservation(id) => Some(id),
            Task::Account(_) | Task::Invoice(_) | Task::Transfer(_) => None,
        };
        due.filter_map(reservation).collect()
    }

    fn schedule_of(&mut self, task: Task) -> &mut StableBTreeMap<Due, (), Memory> {
        match task {
            Task::Reservation(_) => &mut self.reservation_schedule,
            Task::Account(_) | Task::Invoice(_) | Task::Transfer(_) => &mut self.schedule,
        }
    }

    /// Does what time brings to a task that is due, as far as it takes no call; whether it takes one.
    pub fn take_up(&mut self, task: Task, now_ns: u64) -> bool {
        let is_over = |due_ns: Option<u64>| due_ns.is_some_and(|due_ns| due_ns <= now_ns);
        match task {
            Task::Reservation(id) => self.sweep_reservation(id, now_ns),
            Task::Account(account) => {
                self.advance_subscription(account, now_ns);
                if is_over(self.account(account).idle_ns) {
                    self.record(now_ns, EventKind::AccountForgotten(account));
                }
            }
            Task::Invoice(id) => match self.invoices.get(&id) {
                Some(Cbor(stored)) if !stored.invoice.is_closed() => return true,
                Some(Cbor(stored)) if is_over(stored.due_ns()) => {
                    self.record(now_ns, EventKind::InvoiceForgotten(id));
                }
                _ => {}
            },
            Task::Transfer(id) => match self.transfers.get(&id) {
                Some(Cbor(stored)) if !stored.transfer.is_final() => return true,
                Some(Cbor(stored)) if is_over(Some(stored.transfer.due_ns)) => {
                    self.record(now_ns, EventKind::TransferForgotten(id));
                }
                _ => {}
            },
        }
        false
    }

    /// When the next task is due.
    pub fn next_due_ns(&self) -> Option<u64> {
        let first = [&self.schedule, &self.reservation_schedule].map(StableBTreeMap::first_key_value);
        first.into_iter().flatten().map(|(due, ())| due.due_ns).min()
    }

    fn apply(&mut self, event: &Event) {
        let now_ns = event.time_ns;
        match &event.kind {
            EventKind::Installed { canister } => self.set(|settings| settings.canister = Some(*canister)),
            EventKind::AdminsSet(admins) => self.set(|settings| settings.admins.clone_from(admins)),
            EventKind::ConfigSet(config) => self.set(|settings| settings.config = config.clone()),
            EventKind::LedgerSet(ledger) => self.set(|settings| {
                settings.ledgers.retain(|other| other.args.canister != ledger.args.canister);
                settings.ledgers.push(ledger.clone());
                settings.ledgers.sort_by_key(|ledger| ledger.args.canister);
            }),
            EventKind::TierAnnounced(version) => self.set(|settings| {
                // The notice was checked when it was announced.
                let _ = shared_types::econ::tiers::announce(&mut settings.tiers, version.clone(), 0, now_ns);
            }),
            EventKind::ServiceGranted(grant) => {
                self.services.insert(grant.service, Cbor(grant.role));
            }
            EventKind::ServiceRevoked(service) => {
                self.services.remove(service);
            }
            EventKind::Reserved { account, caller, key, resource, period, expires_ns } => {
                let reservation = Reservation {
                    id: self.events.len(),
                    account: *account,
                    caller: *caller,
                    key: key.clone(),
                    resource: *resource,
                    period: *period,
                    expires_ns: *expires_ns,
                    rate_class: self.account(*account).rate_class(),
                    state: ReservationState::Open,
                };
                self.reserved(reservation, now_ns);
            }
            EventKind::Settled { reservation, settlement, agents, usage } => {
                self.settled(*reservation, *settlement, agents, usage.as_ref(), now_ns);
            }
            EventKind::Released(id) => self.end_reservation(*id, ReservationState::Released, now_ns),
            EventKind::Expired(id) => self.end_reservation(*id, ReservationState::Expired, now_ns),
            EventKind::Forgotten(id) => self.forget_reservation(*id),
            EventKind::AgentReturned { account, agent } => {
                if self.agents.remove(&(*account, *agent)).is_some() {
                    self.change_account(*account, now_ns, |account| {
                        account.agents = account.agents.saturating_sub(1);
                    });
                    self.services.remove(agent);
                }
            }
            EventKind::Subscription { account, input, at_ns } => {
                self.change_account(*account, now_ns, |account| {
                    // Whoever records it has tried it on a copy.
                    let taken = account.subscription.take(input, *at_ns);
                    debug_assert_eq!(taken, Ok(()));
                    account.follow_period();
                });
            }
            EventKind::MethodSet { account, method } => {
                self.change_account(*account, now_ns, |account| account.method = Some(*method));
            }
            EventKind::Credited { account, cents } => self.change_account(*account, now_ns, |account| {
                account.credit_cents = account.credit_cents.saturating_add(*cents);
            }),
            EventKind::Quoted { account, quote } => {
                self.change_account(*account, now_ns, |account| account.quote = Some(quote.clone()));
            }
            EventKind::InvoiceIssued(invoice) => self.issue(invoice, now_ns),
            EventKind::InvoicePriced { invoice, amount, rate } => self.change_invoice(*invoice, |stored| {
                stored.invoice.amount = Some(*amount);
                stored.invoice.rate = *rate;
            }),
            EventKind::InvoiceRedirected { invoice, method } => self.change_invoice(*invoice, |stored| {
                stored.invoice.method = *method;
                stored.invoice.amount = None;
                stored.invoice.rate = None;
                stored.invoice.next_attempt_ns = Some(now_ns);
            }),
            EventKind::InvoiceFailed { invoice, reason, next_attempt_ns } => {
                let next_attempt_ns = *next_attempt_ns;
                self.change_invoice(*invoice, |stored| {
                    stored.transfer = None;
                    stored.invoice.failed_attempts = stored.invoice.failed_attempts.saturating_add(1);
                    stored.invoice.last_failure = Some(reason.clone());
                    stored.invoice.next_attempt_ns = next_attempt_ns;
                    // The next attempt asks for the price again.
                    stored.invoice.amount = None;
                    stored.invoice.rate = None;
                });
            }
            EventKind::InvoicePaid { invoice, block, period } => {
                let (block, period) = (*block, *period);
                self.close_invoice(*invoice, now_ns, PAID_REMEMBERED_NS, |invoice| {
                    invoice.state = InvoiceState::Paid { block, time_ns: now_ns };
                    invoice.period = period.or(invoice.period);
                });
            }
            EventKind::InvoiceVoided { invoice, reason } => {
                let id = *invoice;
                if let Some(stored) = self.invoices.get(&id) {
                    let Invoice { account, credit_cents, .. } = stored.0.invoice;
                    self.change_account(account, now_ns, |account| {
                        account.credit_cents = account.credit_cents.saturating_add(credit_cents);
                        account.void_invoices += 1;
                    });
                }
                self.close_invoice(id, now_ns, VOID_REMEMBERED_NS, |invoice| {
                    invoice.state = InvoiceState::Void { reason: reason.clone() }
                });
            }
            EventKind::Refund { invoice, state } => self.change_invoice(*invoice, |stored| {
                if *state != shared_types::econ::RefundState::Pending {
                    stored.refund_transfer = None;
                }
                stored.invoice.refund = Some(state.clone());
            }),
            EventKind::TransferPlanned { purpose, order } => {
                let mut numbers = self.numbers.get().0;
                numbers.transfer += 1;
                self.numbers.set(Cbor(numbers));
                let id = numbers.transfer;
                let transfer = Transfer::new(*order, now_ns);
                self.schedule.insert(Due { due_ns: transfer.due_ns, task: Task::Transfer(id) }, ());
                self.transfers.insert(id, Cbor(StoredTransfer { purpose: *purpose, transfer }));
                match purpose {
                    Purpose::Charge(invoice) => self.change_invoice(*invoice, |stored| {
                        stored.transfer = Some(id);
                        stored.invoice.next_attempt_ns = None;
                    }),
                    Purpose::Refund(invoice) => {
                        self.change_invoice(*invoice, |stored| stored.refund_transfer = Some(id));
                    }
                    Purpose::Deposit(_) | Purpose::Withdrawal(_) => {}
                }
            }
            EventKind::InvoiceForgotten(id) => self.forget_invoice(*id, now_ns),
            EventKind::TransferForgotten(id) => {
                if let Some(Cbor(stored)) = self.transfers.remove(id) {
                    self.reschedule(Some(stored.transfer.due_ns), None, Task::Transfer(*id));
                }
            }
            EventKind::AccountForgotten(principal) => {
                if let Some(account) = self.accounts.remove(*principal) {
                    self.reschedule(account.due_ns(), None, Task::Account(*principal));
                }
            }
            EventKind::Settlement(event) => self.settlement.apply(event, now_ns),
            EventKind::StepBegun { transfer, step } => {
                self.change_transfer(*transfer, |transfer| transfer.begun(*step, now_ns));
            }
            EventKind::StepAnswered { transfer, answer } => {
                self.change_transfer(*transfer, |transfer| transfer.answered(answer, now_ns));
            }
        }
    }

    fn set(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings().clone();
        change(&mut settings);
        self.settings.set(Cbor(settings));
    }

    /// Changes an account, and keeps the schedule with it.
    fn change_account(&mut self, principal: Principal, now_ns: u64, change: impl FnOnce(&mut Account)) {
        self.change_account_and_usage(principal, now_ns, |account, _| change(account));
    }

    /// As [`Self::change_account`], with the history of runs. An account is written once however much of it changes: that is most of
    /// what a call on a million accounts costs.
    fn change_account_and_usage(
        &mut self,
        principal: Principal,
        now_ns: u64,
        change: impl FnOnce(&mut Account, &mut crate::usage::History),
    ) {
        let mut account = self.account(principal);
        let before = account.due_ns();
        change(&mut account, &mut self.usage);
        account.idle_ns = account.is_idle().then(|| now_ns.saturating_add(IDLE_REMEMBERED_NS));
        self.reschedule(before, account.due_ns(), Task::Account(principal));
        self.accounts.put(principal, account);
    }

    fn change_invoice(&mut self, id: InvoiceId, change: impl FnOnce(&mut StoredInvoice)) {
        let Some(Cbor(mut stored)) = self.invoices.get(&id) else { return };
        let before = stored.due_ns();
        change(&mut stored);
        self.reschedule(before, stored.due_ns(), Task::Invoice(id));
        self.invoices.insert(id, Cbor(stored));
    }

    fn change_transfer(&mut self, id: TransferId, change: impl FnOnce(&mut Transfer)) {
        let Some(Cbor(mut stored)) = self.transfers.get(&id) else { return };
        let before = stored.transfer.due_ns;
        change(&mut stored.transfer);
        self.reschedule(Some(before), Some(stored.transfer.due_ns), Task::Transfer(id));
        self.transfers.insert(id, Cbor(stored));
    }

    fn reschedule(&mut self, before: Option<u64>, after: Option<u64>, task: Task) {
        if before == after {
            return;
        }
        if let Some(due_ns) = before {
            self.schedule_of(task).remove(&Due { due_ns, task });
        }
        if let Some(due_ns) = after {
            self.schedule_of(task).insert(Due { due_ns, task }, ());
        }
    }

    fn issue(&mut self, invoice: &Invoice, now_ns: u64) {
        let id = invoice.id;
        let numbers = self.numbers.get().0;
        self.numbers.set(Cbor(Numbers { invoice: id, ..numbers }));
        self.change_account(invoice.account, now_ns, |account| {
            account.credit_cents = account.credit_cents.saturating_sub(invoice.credit_cents);
            account.open_invoices.push(id);
            account.invoices += 1;
            account.quote = None;
        });
        if invoice.kind != InvoiceKind::Renewal {
            self.invoice_keys.insert(key_digest(invoice.account, None, &invoice.key), id);
        }
        self.account_invoices.insert((invoice.account, id), ());
        self.reschedule(None, invoice.next_attempt_ns, Task::Invoice(id));
        let stored = StoredInvoice {
            invoice: invoice.clone(),
            transfer: None,
            refund_transfer: None,
            forget_ns: None,
        };
        self.invoices.insert(id, Cbor(stored));
    }

    fn close_invoice(
        &mut self,
        id: InvoiceId,
        now_ns: u64,
        remembered_ns: u64,
        change: impl FnOnce(&mut Invoice),
    ) {
        self.change_invoice(id, |stored| {
            stored.transfer = None;
            stored.forget_ns = Some(now_ns.saturating_add(remembered_ns));
            stored.invoice.next_attempt_ns = None;
            change(&mut stored.invoice);
        });
        if let Some(stored) = self.invoices.get(&id) {
            self.change_account(stored.0.invoice.account, now_ns, |account| {
                account.open_invoices.retain(|open| *open != id);
            });
        }
    }

    fn forget_invoice(&mut self, id: InvoiceId, now_ns: u64) {
        let Some(Cbor(stored)) = self.invoices.remove(&id) else { return };
        self.reschedule(stored.due_ns(), None, Task::Invoice(id));
        let Invoice { account, kind, key, state, .. } = stored.invoice;
        if kind != InvoiceKind::Renewal {
            self.invoice_keys.remove(&key_digest(account, None, &key));
        }
        self.account_invoices.remove(&(account, id));
        self.change_account(account, now_ns, |account| {
            account.invoices = account.invoices.saturating_sub(1);
            if matches!(state, InvoiceState::Void { .. }) {
                account.void_invoices = account.void_invoices.saturating_sub(1);
            }
        });
    }

    fn reserved(&mut self, reservation: Reservation, now_ns: u64) {
        let (id, due_ns) = (reservation.id, reservation.expires_ns);
        self.change_account(reservation.account, now_ns, |account| {
            account.open_reservations += 1;
            match reservation.resource {
                Resource::Creation(agents) => {
                    account.agents_reserved = account.agents_reserved.saturating_add(agents);
                    if let Some(meters) = account.meters_mut(reservation.period) {
                        meters.creations.reserved =
                            meters.creations.reserved.saturating_add(u64::from(agents));
                    }
                }
                Resource::Tokens(tokens) => {
                    if let Some(meters) = account.meters_mut(reservation.period) {
                        meters.tokens.reserved = meters.tokens.reserved.saturating_add(tokens);
                    }
                }
            }
        });
        let digest = key_digest(reservation.account, Some(reservation.caller), &reservation.key);
        self.reservation_keys.insert(digest, id);
        self.reschedule(None, Some(due_ns), Task::Reservation(id));
        self.reservations.insert(id, Cbor(StoredReservation { reservation, due_ns }));
    }

    fn settled(
        &mut self,
        id: ReservationId,
        settlement: shared_types::econ::Settlement,
        agents: &[Principal],
        usage: Option<&shared_types::econ::UsageEnvelope>,
        now_ns: u64,
    ) {
        let Some((reservation, was_open)) =
            self.close_reservation(id, ReservationState::Settled(settlement), now_ns)
        else {
            return;
        };
        let fresh =
            agents.iter().filter(|agent| self.agents.insert((reservation.account, **agent), ()).is_none());
        let fresh = fresh.count() as u32;
        for agent in agents {
            let role = ServiceRole::Agent { account: reservation.account };
            // A canister that governance has authorised keeps its role.
            if !self.services.contains_key(agent) {
                self.services.insert(*agent, Cbor(role));
            }
        }
        self.change_account_and_usage(reservation.account, now_ns, |account, history| {
            if was_open {
                account.give_back(&reservation);
            }
            account.agents = account.agents.saturating_add(fresh);
            if let Some(meters) = account.meters_mut(reservation.period) {
                let meter = match reservation.resource {
                    Resource::Creation(_) => &mut meters.creations,
                    Resource::Tokens(_) => &mut meters.tokens,
                };
                meter.used = meter.used.saturating_add(settlement.charged);
            }
            if let Some(envelope) = usage {
                crate::usage::add_run(history, account, &reservation, *envelope, settlement, now_ns);
            }
        });
    }

    /// Gives back what an open reservation holds, and keeps the reservation for a while.
    fn end_reservation(&mut self, id: ReservationId, state: ReservationState, now_ns: u64) {
        if let Some((reservation, true)) = self.close_reservation(id, state, now_ns) {
            self.change_account(reservation.account, now_ns, |account| account.give_back(&reservation));
        }
    }

    /// Keeps a reservation with its last state for a while; whether it was open.
    fn close_reservation(
        &mut self,
        id: ReservationId,
        state: ReservationState,
        now_ns: u64,
    ) -> Option<(Reservation, bool)> {
        let Cbor(mut stored) = self.reservations.get(&id)?;
        let was_open = stored.reservation.state == ReservationState::Open;
        stored.reservation.state = state;
        let before = stored.due_ns;
        stored.due_ns = now_ns.saturating_add(REMEMBERED_NS);
        self.reschedule(Some(before), Some(stored.due_ns), Task::Reservation(id));
        let reservation = stored.reservation.clone();
        self.reservations.insert(id, Cbor(stored));
        Some((reservation, was_open))
    }

    fn forget_reservation(&mut self, id: ReservationId) {
        let Some(Cbor(stored)) = self.reservations.remove(&id) else { return };
        self.reschedule(Some(stored.due_ns), None, Task::Reservation(id));
        let Reservation { account, caller, key, .. } = &stored.reservation;
        self.reservation_keys.remove(&key_digest(*account, Some(*caller), key));
    }
}
