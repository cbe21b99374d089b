//! The invariants of `docs/INVARIANTS.md`, under faults at every await and upgrades between any two messages.
//!
//! A scenario is a function of its seed: people subscribe, change, cancel and pay, canisters reserve and settle, time passes, and every call to
//! a ledger may be refused, lost on the way there or back, answered late, or answered to a message that traps. The rules are
//! those of the canister; the ledger is a small obvious one. Then the faults end, everything comes to rest, and what the
//! canister says is compared with what the ledger has.

use std::collections::{BTreeMap, BTreeSet};

use candid::Principal;
use ic_stable_structures::DefaultMemoryImpl;
use ic_stable_structures::memory_manager::MemoryManager;
use icrc_ledger_types::icrc1::account::Account as LedgerAccount;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use shared_types::econ::payment::{
    BlockLog, ChangeTime, Currency, InvoiceId, InvoiceState, LedgerArgs, PayArgs,
};
use shared_types::econ::tiers::initial;
use shared_types::econ::{
    ChangeTierArgs, DAY_NS, EconConfig, EconInitArgs, HOUR_NS, Invoice, InvoiceKind, LedgerInfo,
    PaymentMethod, QuoteArgs, Rate, RefundArgs, RefundState, ReserveArgs, Resource, ReturnAgentArgs,
    SECOND_NS, ServiceGrant, ServiceRole, SettleArgs, SubscribeArgs, UsageEnvelope, payment_subaccount,
};

use crate::charges::Work;
use crate::economy::{Economy, Task};
use crate::events::{EventKind, Purpose, TransferId};
use crate::memory::Memories;
use crate::rules::{Rule, break_rule};
use crate::transfers::{Answer, Next, Order, Phase, Refusal, Source, Step, WINDOW_NS};

/// Scenarios of the run: about 20 seconds on one core of a laptop.
const SCENARIOS: u64 = 10_000;

/// Actions of a scenario.
const ACTIONS: usize = 60;

/// When scenarios begin.
const START_NS: u64 = 1_800_000_000 * SECOND_NS;

/// What a wallet begins with.
const FUNDS: u128 = 1_000_000_000_000;

fn principal(who: u8) -> Principal {
    Principal::from_slice(&[who, 1])
}

fn econ() -> Principal {
    principal(100)
}

fn admin() -> Principal {
    principal(101)
}

fn coordinator() -> Principal {
    principal(102)
}

fn dollar_ledger() -> Principal {
    principal(103)
}

fn icp_ledger() -> Principal {
    principal(104)
}

fn wallet(user: u8) -> LedgerAccount {
    LedgerAccount { owner: principal(user + 50), subaccount: None }
}

#[derive(Debug, Clone)]
struct Block {
    from: LedgerAccount,
    to: LedgerAccount,
    amount: u128,
    fee: u128,
    memo: [u8; 32],
}

/// A ledger with the rules of ICRC-1 and ICRC-2, and as little else as possible.
#[derive(Debug)]
struct Ledger {
    balances: BTreeMap<(Principal, [u8; 32]), u128>,
    allowances: BTreeMap<[u8; 32], u128>,
    blocks: Vec<Block>,
    /// Transactions by content and time: the block and when it was made.
    known: BTreeMap<(Vec<u8>, u64), (u64, u64)>,
    fee: u128,
    /// How far its clock is ahead of the canister's.
    ahead_ns: i64,
}

impl Ledger {
    fn balance(&self, account: LedgerAccount) -> u128 {
        self.balances.get(&(account.owner, *account.effective_subaccount())).copied().unwrap_or(0)
    }

    fn add(&mut self, account: LedgerAccount, amount: u128) {
        *self.balances.entry((account.owner, *account.effective_subaccount())).or_default() += amount;
    }

    /// `icrc2_transfer_from` or `icrc1_transfer` by the econ canister.
    fn execute(&mut self, order: &Order, created_at_ns: u64, now_ns: u64) -> Answer {
        let now_ns = now_ns.saturating_add_signed(self.ahead_ns);
        if order.fee != self.fee {
            return Answer::Refused(Refusal::BadFee { expected: self.fee });
        }
        if created_at_ns + WINDOW_NS + 60 * SECOND_NS < now_ns {
            return Answer::Refused(Refusal::TooOld);
        }
        if created_at_ns > now_ns + 60 * SECOND_NS {
            return Answer::Refused(Refusal::CreatedInFuture);
        }
        let content = (serde_json::to_vec(order).unwrap(), created_at_ns);
        let (from, spender) = match order.source {
            Source::Allowance { spender, from } => (from, Some(spender)),
            Source::Own { subaccount } => (LedgerAccount { owner: econ(), subaccount }, None),
        };
        let total = order.amount + order.fee;
        // Allowances and funds before duplicates: the worst order for who has lost an answer.
        let allowance = spender.map(|spender| self.allowances.get(&spender).copied().unwrap_or(0));
        let duplicate = self.known.get(&content).map(|(block, _)| *block);
        if allowance.is_some_and(|allowance| allowance < total) {
            return Answer::Refused(Refusal::Final("insufficient allowance".to_owned()));
        }
        if self.balance(from) < total {
            return Answer::Refused(Refusal::Final("insufficient funds".to_owned()));
        }
        if let Some(block) = duplicate {
            return Answer::Block(block);
        }
        *self.balances.get_mut(&(from.owner, *from.effective_subaccount())).unwrap() -= total;
        if let Some(spender) = spender {
            *self.allowances.get_mut(&spender).unwrap() -= total;
        }
        self.add(order.to, order.amount);
        let block = self.blocks.len() as u64;
        let memo = *order.memo.as_bytes();
        self.blocks.push(Block { from, to: order.to, amount: order.amount, fee: order.fee, memo });
        self.known.insert(content, (block, now_ns));
        Answer::Block(block)
    }

    /// At most `most` blocks from `from` on.
    fn read(&self, order: &Order, from: u64, asked_ns: u64, most: u64) -> Answer {
        let log_length = self.blocks.len() as u64;
        let next = log_length.min(from + most);
        let from_account = match order.source {
            Source::Allowance { from, .. } => from,
            Source::Own { subaccount } => LedgerAccount { owner: econ(), subaccount },
        };
        let found = (from..next).find(|index| {
            let block = &self.blocks[*index as usize];
            block.memo == *order.memo.as_bytes() && block.from == from_account && block.amount == order.amount
        });
        Answer::Blocks { asked_ns, next, log_length, found }
    }
}

/// A call that the canister has made.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "few calls are under way at a time")]
enum Call {
    Step { transfer: TransferId, order: Order, step: Step, created_at_ns: u64 },
    Rate { invoice: InvoiceId },
}

/// A call under way: to be executed by the callee, or executed and to be answered.
#[derive(Debug, Clone)]
struct InFlight {
    call: Call,
    answer: Option<Answer>,
    /// Whether the canister still knows that it waits for the answer.
    awaited: bool,
}

struct World {
    random: ChaCha8Rng,
    memory: MemoryManager<DefaultMemoryImpl>,
    economy: Economy,
    now_ns: u64,
    ledgers: BTreeMap<Principal, Ledger>,
    calls: Vec<InFlight>,
    turns: BTreeSet<Task>,
    faults: bool,
    keys: u32,
    /// Reservations that their callers have not ended.
    reservations: Vec<(u64, Resource, Principal)>,
    agents: Vec<(Principal, Principal)>,
    last_agent: u32,
    /// What was charged, by account and period, added up here.
    charged: BTreeMap<(Principal, u32), u64>,
    /// Events at the last check of the quotas.
    checked: u64,
}

/// What went wrong: the invariant's number, and how.
type Violation = String;

impl World {
    fn new(seed: u64) -> Self {
        let random = ChaCha8Rng::seed_from_u64(seed);
        let memory = MemoryManager::init_with_bucket_size(DefaultMemoryImpl::default(), 1);
        let mut economy = Economy::open(Memories::divided(&memory));
        let now_ns = START_NS;
        let config = EconConfig {
            exchange_rates: Some(principal(105)),
            retry_pauses_ns: vec![HOUR_NS, DAY_NS, DAY_NS],
            ..EconConfig::default()
        };
        economy.install(econ(), EconInitArgs { admins: vec![admin()], config }, now_ns).unwrap();
        let service = ServiceGrant { service: coordinator(), role: ServiceRole::Coordinator };
        economy.grant_service(service, now_ns).unwrap();
        let mut ledgers = BTreeMap::new();
        for (canister, currency, decimals) in [
            (dollar_ledger(), Currency::Dollar, 6),
            (icp_ledger(), Currency::Asset { symbol: "ICP".to_owned() }, 8),
        ] {
            let args = LedgerArgs { canister, currency, block_log: BlockLog::Icrc3, enabled: true };
            let info = LedgerInfo { args, symbol: "T".to_owned(), decimals, fee: 10_000 };
            economy.set_ledger(info, now_ns).unwrap();
            let mut ledger = Ledger {
                balances: BTreeMap::new(),
                allowances: BTreeMap::new(),
                blocks: Vec::new(),
                known: BTreeMap::new(),
                fee: 10_000,
                ahead_ns: 0,
            };
            for user in 0..3 {
                ledger.add(wallet(user), FUNDS);
            }
            // Refunds cost a fee that no payment has brought.
            ledger.add(LedgerAccount { owner: econ(), subaccount: None }, FUNDS);
            ledgers.insert(canister, ledger);
        }
        Self {
            random,
            memory,
            economy,
            now_ns,
            ledgers,
            calls: Vec::new(),
            turns: BTreeSet::new(),
            faults: true,
            keys: 0,
            reservations: Vec::new(),
            agents: Vec::new(),
            last_agent: 0,
            charged: BTreeMap::new(),
            checked: 0,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn fault(&mut self, percent: u32) -> bool {
        self.faults && self.chance(percent)
    }

    fn user(&mut self) -> u8 {
        self.random.random_range(0..3)
    }

    fn tier(&mut self) -> String {
        initial().swap_remove(self.random.random_range(0..3)).tier
    }

    fn method(&mut self, user: u8) -> PaymentMethod {
        let ledger = if self.chance(75) { dollar_ledger() } else { icp_ledger() };
        PaymentMethod { ledger, from: wallet(user) }
    }

    fn key(&mut self) -> String {
        // Now and then a request is repeated.
        if self.keys == 0 || self.chance(85) {
            self.keys += 1;
        }
        self.keys.to_string()
    }

    /// A wallet approves; now and then too little.
    fn approve(&mut self, user: u8) {
        let amount = if self.chance(30) { 1_000_000 } else { 100_000_000_000 };
        self.allow(user, amount);
    }

    fn allow(&mut self, user: u8, amount: u128) {
        let spender = payment_subaccount(principal(user));
        for ledger in self.ledgers.values_mut() {
            ledger.allowances.insert(spender, amount);
        }
    }

    /// Takes the turn for a task and works on it until a call is to be awaited.
    fn start(&mut self, task: Task) {
        if !self.turns.insert(task) {
            return;
        }
        self.proceed(task);
    }

    /// Goes on with a task whose turn is held.
    fn proceed(&mut self, task: Task) {
        match task {
            Task::Invoice(invoice) => match self.economy.collect(invoice, self.now_ns) {
                Work::Nothing => _ = self.turns.remove(&task),
                Work::Rate(_) => {
                    self.calls.push(InFlight { call: Call::Rate { invoice }, answer: None, awaited: true });
                }
                Work::Transfer(transfer) => {
                    self.turns.remove(&task);
                    self.start(Task::Transfer(transfer));
                }
            },
            Task::Transfer(transfer) => match self.economy.next_step(transfer, self.now_ns) {
                Some(Next::NoteLoss) => {
                    self.economy.answer_step(transfer, Answer::Lost("trapped".to_owned()), self.now_ns);
                    self.proceed(task);
                }
                Some(Next::Step(step)) => {
                    self.economy.begin_step(transfer, step, self.now_ns);
                    let stored = self.economy.stored_transfer(transfer).unwrap().transfer;
                    let created_at_ns = stored.created_at_ns.unwrap_or(0);
                    let call = Call::Step { transfer, order: stored.order, step, created_at_ns };
                    self.calls.push(InFlight { call, answer: None, awaited: true });
                }
                _ => _ = self.turns.remove(&task),
            },
            _ => _ = self.turns.remove(&task),
        }
    }

    /// The callee executes a call, or does not.
    fn execute(&mut self, index: usize) {
        let InFlight { call, answer: None, .. } = self.calls[index].clone() else { return };
        let answer = match &call {
            Call::Rate { .. } => Answer::Tip(0),
            Call::Step { order, step, created_at_ns, .. } => {
                let lost = |what: &str| Answer::Lost(what.to_owned());
                match step {
                    Step::Submit if self.fault(8) => Answer::NotSent("queue full".to_owned()),
                    Step::Submit if self.fault(8) => lost("never delivered"),
                    Step::Submit if self.fault(8) => {
                        // The canister waits no longer; the request is still on its way.
                        let late = InFlight { awaited: false, ..self.calls[index].clone() };
                        self.calls.push(late);
                        lost("too late")
                    }
                    Step::Submit if self.fault(5) => Answer::Refused(Refusal::Unavailable("busy".to_owned())),
                    Step::Submit => {
                        let ledger = self.ledgers.get_mut(&order.ledger).unwrap();
                        let answer = ledger.execute(order, *created_at_ns, self.now_ns);
                        if self.fault(15) { lost("the answer") } else { answer }
                    }
                    _ if self.fault(15) => Answer::NotRead("no answer".to_owned()),
                    Step::ReadTip => Answer::Tip(self.ledgers[&order.ledger].blocks.len() as u64),
                    Step::ReadBlocks { from, asked_ns } => {
                        let most = self.random.random_range(1..4);
                        self.ledgers[&order.ledger].read(order, *from, *asked_ns, most)
                    }
                }
            }
        };
        self.calls[index].answer = Some(answer);
    }

    /// The canister takes an answer.
    fn deliver(&mut self, index: usize) {
        let InFlight { answer: Some(answer), call, awaited } = self.calls[index].clone() else { return };
        self.calls.swap_remove(index);
        if !awaited {
            return;
        }
        let trapped = self.fault(10);
        let task = match call {
            Call::Rate { invoice } => {
                let rate = if self.fault(20) {
                    Err("no rate".to_owned())
                } else {
                    Ok(Some(Rate {
                        rate: self.random.random_range(2_000..9_000),
                        decimals: 3,
                        time_ns: self.now_ns,
                    }))
                };
                if !trapped {
                    self.economy.price(invoice, rate, self.now_ns);
                }
                Task::Invoice(invoice)
            }
            Call::Step { transfer, .. } => {
                if !trapped {
                    self.economy.answer_step(transfer, answer, self.now_ns);
                }
                Task::Transfer(transfer)
            }
        };
        if trapped {
            self.turns.remove(&task);
        } else {
            self.proceed(task);
        }
    }

    fn tick(&mut self) {
        for task in self.economy.due(self.now_ns, 100) {
            if self.economy.take_up(task, self.now_ns) {
                self.start(task);
            }
        }
    }

    /// The canister is upgraded: its heap is new. Calls under way are executed, and nobody hears their answers.
    fn upgrade(&mut self) {
        self.economy = Economy::open(Memories::divided(&self.memory));
        self.turns.clear();
        for call in &mut self.calls {
            call.awaited = false;
        }
    }

    /// One message, or something that happens between two.
    fn act(&mut self) -> Result<(), Violation> {
        let now_ns = self.now_ns;
        let user = self.user();
        let who = principal(user);
        match self.random.random_range(0..100) {
            0..8 => self.approve(user),
            8..18 => {
                let (tier, method, key) = (self.tier(), self.method(user), self.key());
                if method.ledger == icp_ledger() {
                    let rate = Rate { rate: 5_000, decimals: 3, time_ns: now_ns };
                    let args = QuoteArgs { ledger: method.ledger, tier: tier.clone() };
                    let _ = self.economy.quote(who, &args, Some(rate), now_ns);
                }
                if let Ok(invoice) = self.economy.subscribe(who, &SubscribeArgs { tier, method, key }, now_ns)
                {
                    self.start(Task::Invoice(invoice));
                }
            }
            18..23 => {
                let time = if self.chance(70) { ChangeTime::Now } else { ChangeTime::Renewal };
                let (tier, key) = (self.tier(), self.key());
                let rate = Rate { rate: 5_000, decimals: 3, time_ns: now_ns };
                let args = QuoteArgs { ledger: icp_ledger(), tier: tier.clone() };
                let _ = self.economy.quote(who, &args, Some(rate), now_ns);
                let changed = self.economy.change_tier(who, &ChangeTierArgs { tier, time, key }, now_ns);
                if let Ok(Some(invoice)) = changed {
                    self.start(Task::Invoice(invoice));
                }
            }
            23..25 => _ = self.economy.cancel(who, now_ns),
            25..27 => _ = self.economy.resume(who, now_ns),
            27..30 => {
                if let Some(invoice) = self.economy.account(who).open_invoices.first().copied()
                    && self.economy.pay(who, &PayArgs { invoice, method: None }, now_ns).is_ok()
                {
                    self.start(Task::Invoice(invoice));
                }
            }
            30..32 => {
                let invoice = self.random.random_range(1..=self.economy.invoices_len().max(1));
                let args = RefundArgs { invoice, reason: "asked for".to_owned() };
                if self.economy.refund(&args, now_ns).is_ok()
                    && let Some(transfer) = self.economy.stored_invoice(invoice).unwrap().refund_transfer
                {
                    self.start(Task::Transfer(transfer));
                }
            }
            32..40 => self.reserve(who),
            40..47 => self.settle()?,
            47..48 => {
                if let Some((account, agent)) = self.agents.pop() {
                    self.economy
                        .return_agent(coordinator(), ReturnAgentArgs { account, agent }, now_ns)
                        .unwrap();
                }
            }
            48..56 => self.tick(),
            56..70 => {
                let (steps, pause) = match self.random.random_range(0..10) {
                    0..4 => (1, 10 * SECOND_NS),
                    4..6 => (1, HOUR_NS),
                    6..8 => (1, DAY_NS + HOUR_NS),
                    // A period, less or more, with a timer now and then.
                    _ => (self.random.random_range(20..34), DAY_NS),
                };
                for _ in 0..steps {
                    self.now_ns += pause;
                    if steps > 1 {
                        self.tick();
                    }
                }
            }
            70..72 => self.upgrade(),
            72..73 => {
                let ahead = self.random.random_range(-50..50) * SECOND_NS as i64;
                self.ledgers.values_mut().for_each(|ledger| ledger.ahead_ns = ahead);
            }
            73..74 => {
                let fee = self.random.random_range(1..4) * 10_000;
                self.ledgers.values_mut().for_each(|ledger| ledger.fee = fee);
            }
            _ => {
                if !self.calls.is_empty() {
                    let index = self.random.random_range(0..self.calls.len());
                    if self.calls[index].answer.is_none() { self.execute(index) } else { self.deliver(index) }
                }
            }
        }
        self.check_quotas()
    }

    fn reserve(&mut self, account: Principal) {
        let resource = if self.chance(25) {
            Resource::Creation(self.random.random_range(1..4))
        } else {
            Resource::Tokens(self.random.random_range(1..60_000))
        };
        let expires_ns = self.now_ns + self.random.random_range(1..24) * HOUR_NS;
        let args = ReserveArgs { account, resource, key: self.key(), expires_ns };
        if let Ok(reservation) = self.economy.reserve(coordinator(), &args, self.now_ns) {
            self.reservations.push((reservation.id, resource, account));
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "the steps of a scenario have one form")]
    fn settle(&mut self) -> Result<(), Violation> {
        if self.reservations.is_empty() {
            return Ok(());
        }
        let index = self.random.random_range(0..self.reservations.len());
        let (reservation, resource, account) = self.reservations[index];
        // A repeated settlement comes as well as the first one.
        if self.chance(90) {
            self.reservations.swap_remove(index);
        }
        if self.chance(20) {
            let _ = self.economy.release(coordinator(), reservation, self.now_ns);
            return Ok(());
        }
        let known = self.economy.reservation(reservation);
        let (amount, agents, usage) = match resource {
            Resource::Creation(most) => {
                let amount = self.random.random_range(0..=most);
                let agents: Vec<Principal> = (0..amount)
                    .map(|_| {
                        self.last_agent += 1;
                        Principal::from_slice(&[&self.last_agent.to_be_bytes()[..], &[9]].concat())
                    })
                    .collect();
                self.agents.extend(agents.iter().map(|agent| (account, *agent)));
                (u64::from(amount), agents, None)
            }
            Resource::Tokens(most) => {
                // Runs turn out longer than expected.
                let amount = self.random.random_range(0..=most + most / 4);
                let usage = UsageEnvelope {
                    tokens_in: amount / 3,
                    tokens_out: amount - amount / 3,
                    ..Default::default()
                };
                (amount, Vec::new(), Some(usage))
            }
        };
        let args = SettleArgs { reservation, amount, agents, usage };
        let first = known
            .as_ref()
            .is_ok_and(|known| !matches!(known.state, shared_types::econ::ReservationState::Settled(_)));
        let settled = self.economy.settle(coordinator(), &args, self.now_ns);
        if let (Ok(settled), Ok(known), true, Resource::Tokens(_)) = (settled, known, first, resource) {
            *self.charged.entry((account, known.period)).or_default() += settled.charged;
        }
        Ok(())
    }

    /// INV-E3, after every message that has changed something.
    fn check_quotas(&mut self) -> Result<(), Violation> {
        let events = self.economy.events_len();
        if std::mem::replace(&mut self.checked, events) == events {
            return Ok(());
        }
        for user in 0..3 {
            let account = self.economy.account(principal(user));
            for meters in &account.periods {
                let (tokens, creations) = (meters.tokens, meters.creations);
                let taken = tokens.used + tokens.reserved;
                if taken > meters.token_limit + meters.overdraft {
                    return Err(format!("INV-E3: {taken} tokens of {meters:?}"));
                }
                if creations.used + creations.reserved > meters.creation_limit {
                    return Err(format!("INV-E3: creations of {meters:?}"));
                }
                let counted = self.charged.get(&(principal(user), meters.number)).copied().unwrap_or(0);
                if counted != tokens.used {
                    return Err(format!("INV-E3: {} tokens were charged, {counted} settled", tokens.used));
                }
            }
        }
        Ok(())
    }

    /// Ends the faults and lets everything come to rest.
    fn rest(&mut self) -> Result<(), Violation> {
        self.faults = false;
        // What is late finds allowances that cover it: the worst case for who has taken it for failed.
        for user in 0..3 {
            self.allow(user, FUNDS);
        }
        for ledger in self.ledgers.values_mut() {
            ledger.ahead_ns = 0;
        }
        for _ in 0..200 {
            // Answers that nobody awaits come as well as the others.
            for _ in 0..10_000 {
                if self.calls.is_empty() {
                    break;
                }
                self.execute(0);
                self.deliver(0);
            }
            self.tick();
            if !self.calls.is_empty() {
                continue;
            }
            let transfers = self.economy.transfers.values().map(|stored| stored.0.transfer);
            let open = transfers.filter(|transfer| !transfer.is_final());
            match open.map(|transfer| transfer.due_ns).min() {
                None => return Ok(()),
                Some(due_ns) => self.now_ns = self.now_ns.max(due_ns),
            }
        }
        let mut transfers = self.economy.transfers.values().map(|stored| stored.0);
        Err(format!("INV-E5: a transfer does not end: {:?}", transfers.find(|it| !it.transfer.is_final())))
    }

    fn invoices(&self) -> Vec<Invoice> {
        self.economy.invoices.values().map(|stored| stored.0.invoice).collect()
    }

    fn check(&self) -> Result<(), Violation> {
        let (invoices, events) = (self.invoices(), self.events());
        self.check_charges(&invoices)?;
        check_periods(&invoices)?;
        self.check_money(&invoices, &events)?;
        self.check_credit(&events)?;
        self.check_journal(&events)
    }

    fn events(&self) -> Vec<EventKind> {
        (0..self.economy.events_len()).map(|index| self.economy.event(index).unwrap().kind).collect()
    }

    /// INV-E1: the charges and refunds of the invoices are the blocks of the ledgers.
    fn check_charges(&self, invoices: &[Invoice]) -> Result<(), Violation> {
        let mut expected = BTreeMap::new();
        let treasury = self.economy.treasury();
        for invoice in invoices {
            let (amount, payer) = (invoice.amount.unwrap_or(0), invoice.method.from);
            if let InvoiceState::Paid { block: Some(block), .. } = invoice.state {
                let entry = (payer, treasury, amount, *invoice.hash().as_bytes());
                if expected.insert((invoice.method.ledger, block), entry).is_some() {
                    return Err(format!("INV-E1: block {block} pays two invoices"));
                }
            }
            if let Some(RefundState::Done { block }) = invoice.refund {
                let entry = (treasury, payer, amount, *invoice.refund_hash().as_bytes());
                if expected.insert((invoice.method.ledger, block), entry).is_some() {
                    return Err(format!("INV-E1: block {block} is two transfers"));
                }
            }
        }
        for (canister, ledger) in &self.ledgers {
            for (index, block) in ledger.blocks.iter().enumerate() {
                let entry = expected.remove(&(*canister, index as u64));
                if entry != Some((block.from, block.to, block.amount, block.memo)) {
                    return Err(format!("INV-E1: block {index} is {block:?}, the invoices have {entry:?}"));
                }
            }
        }
        if expected.is_empty() { Ok(()) } else { Err(format!("INV-E1: no block has {expected:?}")) }
    }

    /// INV-E4: nothing is created or lost, in tokens and in cents.
    fn check_money(&self, invoices: &[Invoice], events: &[EventKind]) -> Result<(), Violation> {
        for (canister, ledger) in &self.ledgers {
            let of = |state: fn(&Invoice) -> bool| -> u128 {
                let on_ledger =
                    invoices.iter().filter(|invoice| invoice.method.ledger == *canister && state(invoice));
                on_ledger.map(|invoice| invoice.amount.unwrap_or(0)).sum()
            };
            let collected = of(|invoice| matches!(invoice.state, InvoiceState::Paid { block: Some(_), .. }));
            let returned = of(|invoice| matches!(invoice.refund, Some(RefundState::Done { .. })));
            let fees: u128 = ledger
                .blocks
                .iter()
                .filter(|block| block.from == self.economy.treasury())
                .map(|b| b.fee)
                .sum();
            let treasury = ledger.balance(self.economy.treasury());
            if treasury + returned + fees != FUNDS + collected {
                return Err(format!(
                    "INV-E4: {treasury} in the treasury, {collected} collected, {returned} returned"
                ));
            }
        }
        for invoice in invoices {
            if invoice.subtotal_cents != invoice.credit_cents + invoice.total_cents {
                return Err(format!("INV-E4: {invoice:?} does not add up"));
            }
        }
        // What was paid bought a period or a part of one, or went back.
        for event in events {
            let EventKind::InvoicePaid { invoice: id, block: Some(_), period: None } = event else {
                continue;
            };
            let invoice = invoices.iter().find(|invoice| invoice.id == *id);
            if !invoice.is_some_and(|invoice| matches!(invoice.refund, Some(RefundState::Done { .. }))) {
                return Err(format!("INV-E4: {invoice:?} bought nothing and was not given back"));
            }
        }
        Ok(())
    }

    /// INV-E4 for credit: what is left is what was credited, less what invoices took and did not give back.
    fn check_credit(&self, events: &[EventKind]) -> Result<(), Violation> {
        let mut credit: BTreeMap<Principal, i128> = BTreeMap::new();
        let mut taken: BTreeMap<InvoiceId, (Principal, i128)> = BTreeMap::new();
        for event in events {
            let (account, cents) = match event {
                EventKind::Credited { account, cents } => (*account, i128::from(*cents)),
                EventKind::InvoiceIssued(invoice) => {
                    let cents = i128::from(invoice.credit_cents);
                    taken.insert(invoice.id, (invoice.account, cents));
                    (invoice.account, -cents)
                }
                EventKind::InvoiceVoided { invoice, .. } => taken[invoice],
                _ => continue,
            };
            *credit.entry(account).or_default() += cents;
        }
        for user in 0..3 {
            let said = self.economy.account(principal(user)).credit_cents;
            let credit = credit.get(&principal(user)).copied().unwrap_or(0);
            if credit != i128::from(said) {
                return Err(format!("INV-E4: {said} cents of credit, {credit} by the events"));
            }
        }
        Ok(())
    }

    /// INV-E5: every entry before a call has one after it, and every transfer an outcome.
    fn check_journal(&self, events: &[EventKind]) -> Result<(), Violation> {
        let mut open: BTreeMap<TransferId, Step> = BTreeMap::new();
        for event in events {
            match event {
                // A reading whose answer was lost is begun again; a submission has an end of its own.
                EventKind::StepBegun { transfer, step }
                    if open.insert(*transfer, *step) == Some(Step::Submit) =>
                {
                    return Err(format!("INV-E5: a submission of transfer {transfer} has no end"));
                }
                EventKind::StepAnswered { transfer, .. } => _ = open.remove(transfer),
                _ => {}
            }
        }
        let submitted = open.values().any(|step| *step == Step::Submit);
        let unfinished = self.economy.transfers.values().any(|stored| !stored.0.transfer.is_final());
        if submitted || unfinished {
            return Err(format!("INV-E5: steps without end: {open:?}"));
        }
        for stored in self.economy.transfers.values() {
            let (Purpose::Charge(id), Phase::Done { block }) = (stored.0.purpose, stored.0.transfer.phase)
            else {
                continue;
            };
            let invoice = self.economy.stored_invoice(id).unwrap().invoice;
            if !matches!(invoice.state, InvoiceState::Paid { block: Some(paid), .. } if paid == block) {
                return Err(format!("INV-E5: the outcome of a transfer has not reached {invoice:?}"));
            }
        }
        Ok(())
    }
}

/// INV-E2: no period is charged twice, and no invoice is collected twice.
fn check_periods(invoices: &[Invoice]) -> Result<(), Violation> {
    let mut charged = BTreeSet::new();
    for invoice in invoices {
        let paid = matches!(invoice.state, InvoiceState::Paid { .. }) && invoice.refund.is_none();
        let whole = matches!(invoice.kind, InvoiceKind::Subscription | InvoiceKind::Renewal);
        if let (true, true, Some(period)) = (paid, whole, invoice.period)
            && !charged.insert((invoice.account, period))
        {
            return Err(format!("INV-E2: period {period} of {} was charged twice", invoice.account));
        }
    }
    Ok(())
}

/// Everything that the structures hold.
#[allow(clippy::redundant_closure_for_method_calls, reason = "the entries' types differ")]
fn contents(economy: &Economy) -> Vec<String> {
    vec![
        format!("{:?}", economy.settings()),
        format!("{:?}", economy.numbers.get()),
        format!("{:?}", economy.services.iter().map(|e| e.into_pair()).collect::<Vec<_>>()),
        format!("{:?}", economy.accounts()),
        format!("{:?}", economy.agents.iter().map(|e| e.into_pair()).collect::<Vec<_>>()),
        format!("{:?}", economy.reservations.iter().map(|e| e.into_pair()).collect::<Vec<_>>()),
        format!("{:?}", economy.reservation_keys.iter().map(|e| e.into_pair()).collect::<Vec<_>>()),
        format!("{:?}", economy.schedule.iter().map(|e| e.into_pair()).collect::<Vec<_>>()),
        format!("{:?}", economy.reservation_schedule.iter().map(|e| e.into_pair()).collect::<Vec<_>>()),
        format!("{:?}", economy.invoices.iter().map(|e| e.into_pair()).collect::<Vec<_>>()),
        format!("{:?}", economy.invoice_keys.iter().map(|e| e.into_pair()).collect::<Vec<_>>()),
        format!("{:?}", economy.account_invoices.iter().map(|e| e.into_pair()).collect::<Vec<_>>()),
        format!("{:?}", economy.transfers.iter().map(|e| e.into_pair()).collect::<Vec<_>>()),
        format!("{:?}", economy.usage.runs.iter().map(|e| e.into_pair()).collect::<Vec<_>>()),
        format!("{:?}", economy.usage.hours.iter().map(|e| e.into_pair()).collect::<Vec<_>>()),
        format!("{:?}", economy.usage.days.iter().map(|e| e.into_pair()).collect::<Vec<_>>()),
    ]
}

/// INV-E6: an empty state that takes in the events is as the structures are.
fn check_replay(economy: &Economy) -> Result<(), Violation> {
    let memory = MemoryManager::init_with_bucket_size(DefaultMemoryImpl::default(), 1);
    let mut replayed = Economy::open(Memories::divided(&memory));
    for index in 0..economy.events_len() {
        let event = economy.event(index).unwrap();
        replayed.record(event.time_ns, event.kind);
    }
    let (structures, replayed) = (contents(economy), contents(&replayed));
    let differs = structures.iter().zip(&replayed).find(|(one, other)| one != other);
    differs.map_or(Ok(()), |(one, other)| Err(format!("INV-E6: {one}\nafter a replay: {other}")))
}

/// Runs the scenario of a seed.
fn scenario(seed: u64) -> Result<World, Violation> {
    let mut world = World::new(seed);
    for user in 0..3 {
        world.approve(user);
    }
    for _ in 0..ACTIONS {
        world.act()?;
    }
    world.rest()?;
    world.check_quotas()?;
    world.check()?;
    if seed.is_multiple_of(16) {
        check_replay(&world.economy)?;
    }
    Ok(world)
}

/// INV-E1 to INV-E6 in 10,000 scenarios. `ECON_SEED` in the environment runs one.
#[test]
fn no_invariant_is_violated_whatever_happens() {
    if let Ok(seed) = std::env::var("ECON_SEED") {
        let outcome = scenario(seed.parse().expect("ECON_SEED is a number"));
        assert!(outcome.is_ok(), "{:?}", outcome.err());
        return;
    }
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let counts = std::thread::scope(|scope| {
        let part = |first| move || counts_of((first..SCENARIOS).step_by(threads as usize));
        let parts: Vec<_> = (0..threads).map(|first| scope.spawn(part(first))).collect();
        parts.into_iter().fold([0; 6], |mut sum, part| {
            let counts = part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            sum
        })
    });
    let [paid, refunded, voided, renewals, doubtful, periods] = counts;
    println!(
        "{SCENARIOS} scenarios: {paid} invoices paid, {renewals} of them renewals, {refunded} refunded, {voided} void; \
         {doubtful} transfers were in doubt; {periods} periods were used"
    );
    assert!(counts.iter().all(|count| *count > 100), "the scenarios reach everything: {counts:?}");
}

/// What the scenarios of some seeds have reached.
fn counts_of(seeds: impl Iterator<Item = u64>) -> [u64; 6] {
    let mut counts = [0; 6];
    for seed in seeds {
        let world = scenario(seed).unwrap_or_else(|violation| panic!("ECON_SEED={seed}: {violation}"));
        for invoice in world.invoices() {
            counts[0] += u64::from(matches!(invoice.state, InvoiceState::Paid { .. }));
            counts[1] += u64::from(matches!(invoice.refund, Some(RefundState::Done { .. })));
            counts[2] += u64::from(matches!(invoice.state, InvoiceState::Void { .. }));
            counts[3] += u64::from(
                invoice.kind == InvoiceKind::Renewal && matches!(invoice.state, InvoiceState::Paid { .. }),
            );
        }
        counts[4] +=
            world.economy.transfers.values().filter(|stored| stored.0.transfer.doubtful).count() as u64;
        counts[5] += world.charged.values().filter(|charged| **charged > 0).count() as u64;
    }
    counts
}

/// The same run finds that a rule is broken, and names an invariant that depends on it.
#[test]
fn a_broken_rule_is_found() {
    let rules = [
        (Rule::TimeIsFrozen, ["INV-E1", "INV-E2"]),
        (Rule::LossIsDoubt, ["INV-E1", "INV-E2"]),
        (Rule::WindowIsWaitedFor, ["INV-E1", "INV-E2"]),
    ];
    for (rule, invariants) in rules {
        break_rule(Some(rule));
        let found = (0..SCENARIOS).find_map(|seed| scenario(seed).err());
        break_rule(None);
        let found = found.unwrap_or_else(|| panic!("without {rule:?} the run finds nothing"));
        assert!(invariants.iter().any(|invariant| found.starts_with(invariant)), "without {rule:?}: {found}");
    }
}

/// Stories without other faults than those that are told, each of which only one rule brings to a good end.
impl World {
    fn of_a_story() -> Self {
        let mut world = Self::new(0);
        world.faults = false;
        world.allow(0, FUNDS);
        world
    }

    /// The first user subscribes; the reading of the ledger's end is under way.
    fn subscribe(&mut self) {
        let method = PaymentMethod { ledger: dollar_ledger(), from: wallet(0) };
        let args = SubscribeArgs { tier: "Basic".to_owned(), method, key: "first".to_owned() };
        let invoice = self.economy.subscribe(principal(0), &args, self.now_ns).unwrap();
        self.start(Task::Invoice(invoice));
    }

    /// The oldest call is executed, and answered by this instead, if anything.
    fn answer(&mut self, instead: Option<Answer>) {
        self.execute(0);
        if instead.is_some() {
            self.calls[0].answer = instead;
        }
        self.deliver(0);
    }

    fn rest_and_check(&mut self) -> Result<(), Violation> {
        self.check_quotas()?;
        self.rest()?;
        self.check()
    }
}

/// A submission comes late, its repetition is refused before: that says nothing about the first one.
fn late_behind_a_refusal() -> Result<(), Violation> {
    let mut world = World::of_a_story();
    world.subscribe();
    world.answer(None);
    let late = InFlight { awaited: false, ..world.calls[0].clone() };
    world.calls[0].answer = Some(Answer::Lost("too late".to_owned()));
    world.deliver(0);
    // No block has it, so it is submitted again, when the wallet has just taken its allowance back.
    world.answer(None);
    world.allow(0, 0);
    world.answer(None);
    world.calls.push(late);
    world.rest_and_check()
}

/// A run turns out longer than what is left.
fn longer_than_what_is_left() -> Result<(), Violation> {
    let mut world = World::of_a_story();
    world.subscribe();
    world.answer(None);
    world.answer(None);
    let (account, resource) = (principal(0), Resource::Tokens(100_000));
    let expires_ns = world.now_ns + HOUR_NS;
    let args = ReserveArgs { account, resource, key: "run".to_owned(), expires_ns };
    let reservation = world.economy.reserve(coordinator(), &args, world.now_ns).unwrap();
    let usage = UsageEnvelope { tokens_in: 1, tokens_out: 149_999, ..Default::default() };
    let (reservation, period) = (reservation.id, reservation.period);
    let args = SettleArgs { reservation, amount: 150_000, agents: Vec::new(), usage: Some(usage) };
    let settled = world.economy.settle(coordinator(), &args, world.now_ns).unwrap();
    world.charged.insert((account, period), settled.charged);
    world.rest_and_check()
}

/// An upgrade is paid, which becomes known when its period is over.
fn paid_for_a_period_that_is_over() -> Result<(), Violation> {
    let mut world = World::of_a_story();
    world.subscribe();
    world.answer(None);
    world.answer(None);
    world.now_ns += 30 * DAY_NS - HOUR_NS;
    let args = ChangeTierArgs { tier: "Pro".to_owned(), time: ChangeTime::Now, key: "up".to_owned() };
    let invoice = world.economy.change_tier(principal(0), &args, world.now_ns).unwrap().unwrap();
    world.start(Task::Invoice(invoice));
    world.answer(None);
    world.answer(Some(Answer::Lost("the answer".to_owned())));
    world.now_ns += 2 * HOUR_NS;
    world.rest_and_check()
}

/// An upgrade of the canister comes between a submission and its answer.
fn upgraded_before_the_answer() -> Result<(), Violation> {
    let mut world = World::of_a_story();
    world.subscribe();
    world.answer(None);
    world.upgrade();
    world.rest_and_check()
}

/// Each story ends well, and breaks the invariant that depends on its rule when that is broken.
#[test]
fn each_story_needs_its_rule() {
    type Story = fn() -> Result<(), Violation>;
    let stories: [(Rule, Story, &str); 4] = [
        (Rule::RefusalKeepsDoubt, late_behind_a_refusal, "INV-E1"),
        (Rule::ChargeHasRoom, longer_than_what_is_left, "INV-E3"),
        (Rule::UselessPaymentReturns, paid_for_a_period_that_is_over, "INV-E4"),
        (Rule::LossIsNoted, upgraded_before_the_answer, "INV-E5"),
    ];
    for (rule, story, invariant) in stories {
        assert_eq!(story(), Ok(()), "with {rule:?}");
        break_rule(Some(rule));
        let found = story();
        break_rule(None);
        assert!(
            found.as_ref().is_err_and(|found| found.starts_with(invariant)),
            "without {rule:?}: {found:?}"
        );
    }
}
