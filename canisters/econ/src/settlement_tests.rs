//! Random histories of wallets and escrows beside the obvious book of accounts.

use std::collections::BTreeMap;

use candid::Principal;
use ic_stable_structures::DefaultMemoryImpl;
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager};
use icrc_ledger_types::icrc1::account::Account;
use proptest::prelude::*;
use shared_types::econ::settlement::{
    DISPUTE_NS, DisputeArgs, ESCROW_REMEMBERED_NS, EscrowId, EscrowPurpose, EscrowState, MIN_ESCROW_NS,
    OpenEscrowArgs, OpenWalletArgs, RefundReason, SettlementTotals, SpendingLimits, WalletId, WithdrawArgs,
};
use shared_types::econ::{DAY_NS, EconError};

use crate::settlement::{Actor, Decision, Settlement, SettlementEvent, SettlementMemories, TREASURY};

const FEE_BP: u32 = 250;
const LEDGER_FEE: u128 = 10;
/// Agents are 0, 1 and 2; each has an owner of its own.
const AGENTS: u8 = 3;
const START_NS: u64 = 20_000 * DAY_NS;

fn agent(n: u8) -> Principal {
    Principal::from_slice(&[1, n])
}

fn owner_of(n: u8) -> Principal {
    Principal::from_slice(&[2, n])
}

fn governance() -> Actor {
    Actor { principal: Principal::from_slice(&[3]), admin: true }
}

fn person(principal: Principal) -> Actor {
    Actor { principal, admin: false }
}

fn wallet_of(n: u8) -> WalletId {
    WalletId { ledger: Principal::from_slice(&[9]), holder: agent(n) }
}

fn open_settlement() -> Settlement {
    let manager = MemoryManager::init_with_bucket_size(DefaultMemoryImpl::default(), 1);
    let [wallets, escrows, withdrawals, keys, agenda, totals, last] =
        [0, 1, 2, 3, 4, 5, 6].map(|n| manager.get(MemoryId::new(n)));
    Settlement::open(SettlementMemories { wallets, escrows, withdrawals, keys, agenda, totals, last })
}

/// A settlement in which every agent has a wallet.
fn with_wallets() -> Settlement {
    let mut settlement = open_settlement();
    for n in 0..AGENTS {
        let args = OpenWalletArgs { wallet: wallet_of(n), limits: SpendingLimits::default() };
        let event = settlement.open_wallet(person(owner_of(n)), true, &args).expect("it is his agent");
        settlement.apply(&event, START_NS);
    }
    settlement
}

/// Who acts: an agent, its owner, or governance.
#[derive(Clone, Copy, Debug)]
enum Who {
    Agent(u8),
    Owner(u8),
    Governance,
}

impl Who {
    fn actor(self) -> Actor {
        match self {
            Self::Agent(n) => person(agent(n)),
            Self::Owner(n) => person(owner_of(n)),
            Self::Governance => governance(),
        }
    }

    fn is(self, n: u8) -> bool {
        matches!(self, Self::Agent(m) | Self::Owner(m) if n == m)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Credit(u8, u128),
    Limit(u8, Option<u128>, Option<u128>),
    Open { who: Who, payer: u8, payee: u8, amount: u128, days: Option<u64>, key: u8 },
    Release(Who, usize),
    Refund(Who, usize),
    Dispute(Who, usize),
    Withdraw { who: Who, from: u8, amount: u128, key: u8 },
    Arrive(usize, bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0..AGENTS;
    let who = || prop_oneof![3 => n().prop_map(Who::Agent), 2 => n().prop_map(Who::Owner), 1 => Just(Who::Governance)];
    let amount = || prop_oneof![8 => 1..5_000u128, 1 => Just(0), 1 => Just(u128::MAX)];
    let limit = || proptest::option::of(100..6_000u128);
    let open = (who(), n(), n(), amount(), proptest::option::weighted(0.8, 1..40u64), 0..6u8);
    prop_oneof![
        2 => (n(), 1..10_000u128).prop_map(|(n, amount)| Step::Credit(n, amount)),
        1 => (n(), limit(), limit()).prop_map(|(n, once, daily)| Step::Limit(n, once, daily)),
        6 => open.prop_map(|(who, payer, payee, amount, days, key)| {
            Step::Open { who, payer, payee, amount, days, key }
        }),
        3 => (who(), 0..12usize).prop_map(|(who, id)| Step::Release(who, id)),
        2 => (who(), 0..12usize).prop_map(|(who, id)| Step::Refund(who, id)),
        2 => (who(), 0..12usize).prop_map(|(who, id)| Step::Dispute(who, id)),
        2 => (who(), n(), amount(), 0..6u8).prop_map(|(who, from, amount, key)| {
            Step::Withdraw { who, from, amount, key }
        }),
        2 => (0..12usize, any::<bool>()).prop_map(|(id, ok)| Step::Arrive(id, ok)),
        2 => prop_oneof![1..DAY_NS, DAY_NS..20 * DAY_NS].prop_map(Step::Wait),
    ]
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Open(u64),
    Disputed(u64),
    Released,
    Refunded,
    Withdrawing,
    Out,
    Returned,
}

/// An escrow, transfer or withdrawal in the book.
#[derive(Clone, Debug)]
struct Line {
    /// What was asked for, as text.
    asked: String,
    from: u8,
    to: u8,
    amount: u128,
    fee: u128,
    stage: Stage,
}

/// The obvious book: what everybody has, and a line for all that was ever asked for.
#[derive(Default)]
struct Book {
    has: [u128; 3],
    treasury: u128,
    deposited: u128,
    limits: [(Option<u128>, Option<u128>); 3],
    /// What was spent, by agent and day.
    spent: BTreeMap<(u8, u64), u128>,
    lines: Vec<Line>,
    keys: BTreeMap<(u8, u8), usize>,
}

impl Book {
    /// Whether a key is free; `Err` with whether the request is the same as before.
    fn key(&self, from: u8, key: u8, asked: &str) -> Result<(), bool> {
        self.keys.get(&(from, key)).map_or(Ok(()), |line| Err(self.lines[*line].asked == asked))
    }

    fn enter(&mut self, line: Line, key: u8) {
        self.keys.insert((line.from, key), self.lines.len());
        self.lines.push(line);
    }

    /// Whether the request is granted.
    fn open(&mut self, step: &Step, now_ns: u64) -> bool {
        let Step::Open { who, payer, payee, amount, days, key } = *step else { unreachable!() };
        if !who.is(payer) {
            return false;
        }
        let deadline = days.map(|days| now_ns + days * DAY_NS);
        let asked = format!("{:?}", (payee, amount, deadline));
        if let Err(same) = self.key(payer, key, &asked) {
            return same;
        }
        let (once, daily) = self.limits[usize::from(payer)];
        let day = (payer, now_ns / DAY_NS);
        let spent = self.spent.get(&day).copied().unwrap_or(0);
        let refused = amount == 0
            || payee == payer
            || days.is_some_and(|days| days > 31)
            || self.has[usize::from(payer)] < amount
            || once.is_some_and(|limit| amount > limit)
            || daily.is_some_and(|limit| spent + amount > limit);
        if refused {
            return false;
        }
        self.has[usize::from(payer)] -= amount;
        *self.spent.entry(day).or_default() += amount;
        let fee = if days.is_some() { amount * u128::from(FEE_BP) / 10_000 } else { 0 };
        let stage = deadline.map_or(Stage::Released, Stage::Open);
        if deadline.is_none() {
            self.has[usize::from(payee)] += amount;
        }
        self.enter(Line { asked, from: payer, to: payee, amount, fee, stage }, key);
        true
    }

    fn end(&mut self, who: Who, id: usize, release: bool) -> bool {
        let Some(line) = self.lines.get_mut(id) else { return false };
        let may = if release { who.is(line.from) } else { who.is(line.to) };
        if !may && !matches!(who, Who::Governance) {
            return false;
        }
        match (&line.stage, release) {
            (Stage::Open(_) | Stage::Disputed(_), true) => {
                line.stage = Stage::Released;
                self.has[usize::from(line.to)] += line.amount - line.fee;
                self.treasury += line.fee;
                true
            }
            (Stage::Open(_) | Stage::Disputed(_), false) => {
                line.stage = Stage::Refunded;
                self.has[usize::from(line.from)] += line.amount;
                true
            }
            (stage, release) => *stage == if release { Stage::Released } else { Stage::Refunded },
        }
    }

    fn dispute(&mut self, who: Who, id: usize, now_ns: u64) -> bool {
        let Some(line) = self.lines.get_mut(id).filter(|line| who.is(line.to)) else { return false };
        match line.stage {
            Stage::Open(deadline) if now_ns < deadline => {
                line.stage = Stage::Disputed(now_ns + DISPUTE_NS);
                true
            }
            Stage::Disputed(_) => true,
            _ => false,
        }
    }

    fn withdraw(&mut self, who: Who, from: u8, amount: u128, key: u8) -> bool {
        if !matches!(who, Who::Owner(n) if n == from) {
            return false;
        }
        let asked = format!("withdraw {amount}");
        if let Err(same) = self.key(from, key, &asked) {
            return same;
        }
        let total = amount.saturating_add(LEDGER_FEE);
        if amount == 0 || self.has[usize::from(from)] < total {
            return false;
        }
        self.has[usize::from(from)] -= total;
        let stage = Stage::Withdrawing;
        self.enter(Line { asked, from, to: AGENTS, amount: total, fee: 0, stage }, key);
        true
    }

    fn pass(&mut self, now_ns: u64) {
        for line in &mut self.lines {
            if let Stage::Open(end) | Stage::Disputed(end) = line.stage
                && end <= now_ns
            {
                line.stage = Stage::Refunded;
                self.has[usize::from(line.from)] += line.amount;
            }
        }
    }

    fn sum(&self, stages: impl Fn(&Stage) -> bool) -> u128 {
        self.lines.iter().filter(|line| stages(&line.stage)).map(|line| line.amount).sum()
    }
}

fn open_args(step: &Step, now_ns: u64) -> OpenEscrowArgs {
    let Step::Open { payer, payee, amount, days, key, .. } = *step else { unreachable!() };
    let purpose = days.map_or(EscrowPurpose::Transfer, |days| EscrowPurpose::Job {
        job: "job".to_owned(),
        deadline_ns: now_ns + days * DAY_NS,
    });
    OpenEscrowArgs { payer: wallet_of(payer), payee: agent(payee), amount, purpose, key: key.to_string() }
}

/// Applies a decision, if it is one.
fn take(settlement: &mut Settlement, decision: Result<Decision, EconError>, now_ns: u64) -> bool {
    match decision {
        Ok(Decision::Event(event)) => {
            settlement.apply(&event, now_ns);
            true
        }
        Ok(Decision::Known(_)) => true,
        Err(_) => false,
    }
}

proptest! {
    /// INV-E21, INV-E22, INV-E23, INV-E24.
    #[test]
    fn histories_are_those_of_the_obvious_book(history in proptest::collection::vec(step(), 1..60)) {
        let (mut settlement, mut book) = (with_wallets(), Book::default());
        let mut now_ns = START_NS;
        for step in &history {
            let id = |line: usize| line as u64 + 1;
            let granted = match *step {
                Step::Credit(n, amount) => {
                    book.has[usize::from(n)] += amount;
                    book.deposited += amount;
                    let begun = settlement.deposit(person(agent(n)), wallet_of(n), amount).expect("his wallet");
                    settlement.apply(&begun.expect("no other one is on its way"), now_ns);
                    let again = settlement.deposit(person(owner_of(n)), wallet_of(n), amount);
                    prop_assert_eq!(again, Ok(None));
                    let event = SettlementEvent::Credited { wallet: wallet_of(n), amount };
                    settlement.apply(&event, now_ns);
                    true
                }
                Step::Limit(n, per_transfer, per_day) => {
                    book.limits[usize::from(n)] = (per_transfer, per_day);
                    let limits = SpendingLimits { per_transfer, per_day };
                    let args = OpenWalletArgs { wallet: wallet_of(n), limits };
                    prop_assert!(settlement.open_wallet(person(agent(n)), true, &args).is_err(), "not the owner");
                    let event = settlement.open_wallet(person(owner_of(n)), false, &args).expect("the owner");
                    settlement.apply(&event, now_ns);
                    true
                }
                Step::Open { who, .. } => {
                    let decision = settlement.open_escrow(who.actor(), &open_args(step, now_ns), FEE_BP, now_ns);
                    take(&mut settlement, decision, now_ns) == book.open(step, now_ns)
                }
                Step::Release(who, line) => {
                    let decision = settlement.release(who.actor(), id(line));
                    take(&mut settlement, decision, now_ns) == book.end(who, line, true)
                }
                Step::Refund(who, line) => {
                    let decision = settlement.refund(who.actor(), id(line));
                    take(&mut settlement, decision, now_ns) == book.end(who, line, false)
                }
                Step::Dispute(who, line) => {
                    let args = DisputeArgs { escrow: id(line), reason: "it is done".to_owned() };
                    let decision = settlement.dispute(who.actor(), &args, now_ns);
                    take(&mut settlement, decision, now_ns) == book.dispute(who, line, now_ns)
                }
                Step::Withdraw { who, from, amount, key } => {
                    let to = Account::from(owner_of(from));
                    let args = WithdrawArgs { wallet: wallet_of(from), to, amount, key: key.to_string() };
                    let decision = settlement.withdraw(who.actor(), &args, LEDGER_FEE);
                    take(&mut settlement, decision, now_ns) == book.withdraw(who, from, amount, key)
                }
                Step::Arrive(line, arrived) => {
                    let event = if arrived {
                        SettlementEvent::WithdrawalDone { withdrawal: id(line), block: 7 }
                    } else {
                        SettlementEvent::WithdrawalFailed { withdrawal: id(line), reason: "no".to_owned() }
                    };
                    // An answer may come again, or for something that is no withdrawal: then it changes nothing.
                    settlement.apply(&event, now_ns);
                    if let Some(line) = book.lines.get_mut(line)
                        && line.stage == Stage::Withdrawing
                    {
                        line.stage = if arrived { Stage::Out } else { Stage::Returned };
                        if !arrived {
                            book.has[usize::from(line.from)] += line.amount;
                        }
                    }
                    true
                }
                Step::Wait(time) => {
                    now_ns += time;
                    book.pass(now_ns);
                    for event in settlement.due(now_ns, 1_000) {
                        // The book forgets nothing.
                        if !matches!(event, SettlementEvent::Forgotten { .. }) {
                            settlement.apply(&event, now_ns);
                        }
                    }
                    true
                }
            };
            prop_assert!(granted, "{:?}", step);
            for n in 0..AGENTS {
                let wallet = settlement.wallet(wallet_of(n)).expect("a wallet");
                prop_assert_eq!(wallet.balance, book.has[usize::from(n)], "{:?}", step);
            }
            let treasury = settlement.wallet(WalletId { holder: TREASURY, ..wallet_of(0) });
            prop_assert_eq!(treasury.map_or(0, |wallet| wallet.balance), book.treasury);
            let totals = settlement.totals(wallet_of(0).ledger);
            prop_assert!(totals.is_balanced(), "{:?}", totals);
            prop_assert_eq!(totals, SettlementTotals {
                deposited: book.deposited,
                withdrawn: book.sum(|stage| *stage == Stage::Out),
                withdrawing: book.sum(|stage| *stage == Stage::Withdrawing),
                in_wallets: book.has.iter().sum::<u128>() + book.treasury,
                in_escrows: book.sum(|stage| matches!(stage, Stage::Open(_) | Stage::Disputed(_))),
            });
        }
    }
}

/// An escrow of 1,000 that agent 0 pays to agent 1 within a day.
fn open_one(settlement: &mut Settlement, key: &str, now_ns: u64) -> EscrowId {
    let purpose = EscrowPurpose::Job { job: "job".to_owned(), deadline_ns: now_ns + DAY_NS };
    let args =
        OpenEscrowArgs { payer: wallet_of(0), payee: agent(1), amount: 1_000, purpose, key: key.to_owned() };
    let opened = settlement.open_escrow(person(agent(0)), &args, FEE_BP, now_ns);
    match opened.expect("the wallet has as much") {
        Decision::Event(event) => {
            settlement.apply(&event, now_ns);
            settlement.last_id()
        }
        Decision::Known(id) => id,
    }
}

fn with_money() -> Settlement {
    let mut settlement = with_wallets();
    settlement.apply(&SettlementEvent::Credited { wallet: wallet_of(0), amount: 10_000 }, START_NS);
    settlement
}

/// INV-E24: for as long as a record is kept.
#[test]
fn a_key_is_one_escrow_until_it_is_forgotten() {
    let mut settlement = with_money();
    let id = open_one(&mut settlement, "a", START_NS);
    assert_eq!(open_one(&mut settlement, "a", START_NS), id);
    assert_ne!(open_one(&mut settlement, "b", START_NS), id);
    let other = OpenEscrowArgs { amount: 999, ..settlement.escrow(id).expect("it is kept").args };
    let reused = settlement.open_escrow(person(owner_of(0)), &other, FEE_BP, START_NS);
    assert!(matches!(reused, Err(EconError::KeyReused { .. })), "{reused:?}");
    let released = settlement.release(governance(), id);
    assert!(take(&mut settlement, released, START_NS));
    let forgotten_ns = START_NS + ESCROW_REMEMBERED_NS;
    assert_eq!(settlement.next_due_ns(), Some(START_NS + DAY_NS), "the other's deadline");
    for event in settlement.due(forgotten_ns, 10) {
        settlement.apply(&event, forgotten_ns);
    }
    assert!(settlement.escrow(id).is_err());
    assert_eq!(settlement.escrow(id + 1).map(|escrow| escrow.state.is_final()), Ok(true), "timed out");
    let again = open_one(&mut settlement, "a", forgotten_ns);
    assert_eq!(again, id + 2);
}

#[test]
fn a_dispute_outlives_the_deadline_and_ends_in_a_refund() {
    let mut settlement = with_money();
    let id = open_one(&mut settlement, "a", START_NS);
    let args = DisputeArgs { escrow: id, reason: "delivered".to_owned() };
    let disputed = settlement.dispute(person(agent(1)), &args, START_NS + 1);
    assert!(take(&mut settlement, disputed, START_NS + 1));
    assert!(settlement.due(START_NS + DAY_NS, 10).is_empty());
    let end_ns = START_NS + 1 + DISPUTE_NS;
    let due = settlement.due(end_ns, 10);
    let [event] = &due[..] else { panic!("one thing happens") };
    settlement.apply(event, end_ns);
    let state = EscrowState::Refunded { time_ns: end_ns, reason: RefundReason::Timeout };
    assert_eq!(settlement.escrow(id).map(|escrow| escrow.state), Ok(state));
    assert_eq!(settlement.wallet(wallet_of(0)).map(|wallet| wallet.balance), Ok(10_000));
}

#[test]
fn governance_has_the_fees() {
    let mut settlement = with_money();
    let id = open_one(&mut settlement, "a", START_NS);
    let released = settlement.release(governance(), id);
    assert!(take(&mut settlement, released, START_NS));
    let treasury = WalletId { holder: TREASURY, ..wallet_of(0) };
    let args =
        WithdrawArgs { wallet: treasury, to: Account::from(owner_of(1)), amount: 15, key: "fees".to_owned() };
    assert_eq!(settlement.withdraw(person(TREASURY), &args, 10), Err(EconError::Unauthorized));
    let withdrawn = settlement.withdraw(governance(), &args, 10);
    assert!(take(&mut settlement, withdrawn, START_NS));
    assert_eq!(settlement.wallet(treasury).map(|wallet| wallet.balance), Ok(0), "2.5 % of 1,000");
    let too_short = MIN_ESCROW_NS - 1;
    let purpose = EscrowPurpose::Job { job: "job".to_owned(), deadline_ns: START_NS + too_short };
    let args = OpenEscrowArgs { purpose, key: "b".to_owned(), ..settlement.escrow(id).expect("kept").args };
    let refused = settlement.open_escrow(person(agent(0)), &args, FEE_BP, START_NS);
    assert!(matches!(refused, Err(EconError::InvalidField(_))), "{refused:?}");
}
