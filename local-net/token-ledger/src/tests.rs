//! Random histories of the standards' methods beside the obvious ledger.

use crate::icrc::{self, Token};
use crate::ledger::{Flows, Ledger, PERMITTED_DRIFT, TRANSACTION_WINDOW};
use crate::{Operation, Transaction, icrc3};
use candid::{Nat, Principal};
use icrc_ledger_types::icrc::generic_value::ICRC3Value;
use icrc_ledger_types::icrc1::account::Account;
use icrc_ledger_types::icrc1::transfer::{Memo, TransferArg};
use icrc_ledger_types::icrc2::approve::{ApproveArgs, ApproveError};
use icrc_ledger_types::icrc2::transfer_from::{TransferFromArgs, TransferFromError};
use icrc_ledger_types::icrc3::blocks::GetBlocksRequest;
use proptest::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;

const FEE: u128 = 2;
const MAX_SUPPLY: u128 = 1_000;
/// The account that mints and burns; accounts are small numbers.
const MINTER: u8 = 0;

fn owner(n: u8) -> Principal {
    Principal::from_slice(&[n])
}

fn account(n: u8) -> Account {
    owner(n).into()
}

fn token() -> Token {
    Token {
        name: Cow::Borrowed("Test"),
        symbol: Cow::Borrowed("TST"),
        decimals: 6,
        fee: FEE,
        max_supply: MAX_SUPPLY,
        minting_account: Some(account(MINTER)),
    }
}

/// One operation of a random history.
#[derive(Clone, Debug)]
enum Step {
    Move {
        caller: u8,
        from: Option<u8>,
        to: u8,
        amount: u128,
        fee: Option<u128>,
        memo: Option<u8>,
        age: Option<i64>,
    },
    Approve {
        caller: u8,
        spender: u8,
        amount: u128,
        ends_in: Option<u64>,
        expected: Option<u128>,
        age: Option<i64>,
    },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let amount = || prop_oneof![8 => 0..50u128, 1 => Just(u128::MAX), 2 => 100..400u128];
    let near = i64::try_from(PERMITTED_DRIFT).expect("a minute");
    let far = i64::try_from(TRANSACTION_WINDOW).expect("a day");
    let age = move || {
        let age = prop_oneof![6 => 0..3i64, 1 => Just(far), 1 => Just(far + 1), 1 => Just(-near), 1 => Just(-near - 1)];
        proptest::option::weighted(0.5, age)
    };
    let from = proptest::option::weighted(0.5, 1..4u8);
    let fee = proptest::option::weighted(0.3, 0..3u128);
    let memo = proptest::option::weighted(0.3, 0..2u8);
    prop_oneof![
        8 => (0..4u8, from, 0..4u8, amount(), fee, memo, age()).prop_map(|(caller, from, to, amount, fee, memo, age)| {
            Step::Move { caller, from, to, amount, fee, memo, age }
        }),
        3 => (1..4u8, 1..4u8, amount(), proptest::option::of(0..3u64), proptest::option::weighted(0.3, 0..9u128), age())
            .prop_filter_map("self approval traps", |(caller, spender, amount, ends_in, expected, age)| {
                (caller != spender).then_some(Step::Approve { caller, spender, amount, ends_in, expected, age })
            }),
        2 => prop_oneof![0..3u64, Just(TRANSACTION_WINDOW)].prop_map(Step::Wait),
    ]
}

/// The obvious ledger: maps, and a list of everything that was ever done.
#[derive(Clone, Debug, Default)]
struct Model {
    balances: BTreeMap<u8, u128>,
    allowances: BTreeMap<(u8, u8), (u128, Option<u64>)>,
    /// Blocks: what was asked, if it said when it was made.
    done: Vec<Option<String>>,
    flows: Flows,
}

impl Model {
    fn balance(&self, account: u8) -> u128 {
        self.balances.get(&account).copied().unwrap_or(0)
    }

    fn allowance(&self, from: u8, spender: u8, now: u64) -> u128 {
        let (amount, end) = self.allowances.get(&(from, spender)).copied().unwrap_or((0, None));
        if end.is_some_and(|end| end <= now) { 0 } else { amount }
    }

    /// Checks the age, and looks for the same in the past.
    fn admit(&self, now: u64, made: Option<u64>, what: &str) -> Result<(), TransferFromError> {
        let Some(made) = made else { return Ok(()) };
        if made + TRANSACTION_WINDOW < now {
            return Err(TransferFromError::TooOld);
        }
        if made > now + PERMITTED_DRIFT {
            return Err(TransferFromError::CreatedInFuture { ledger_time: now });
        }
        match self.done.iter().position(|done| done.as_deref() == Some(what)) {
            Some(block) => Err(TransferFromError::Duplicate { duplicate_of: block.into() }),
            None => Ok(()),
        }
    }

    fn add(&mut self, made: Option<u64>, what: String) -> u64 {
        self.done.push(made.map(|_| what));
        self.done.len() as u64 - 1
    }

    fn transfer(&mut self, now: u64, step: &Step) -> Result<u64, TransferFromError> {
        let Step::Move { caller, from, to, amount, fee, memo, age } = *step else { unreachable!() };
        let made = age.map(|age| now.saturating_add_signed(-age));
        let (payer, spender) = (from.unwrap_or(caller), from.map(|_| caller));
        let cost = if payer == MINTER || to == MINTER { 0 } else { FEE };
        if fee.is_some_and(|fee| fee != cost) {
            return Err(TransferFromError::BadFee { expected_fee: cost.into() });
        }
        if to == MINTER && (amount == 0 || amount < FEE.min(self.balance(payer))) {
            let least = if amount == 0 { FEE } else { FEE.min(self.balance(payer)) };
            return Err(TransferFromError::BadBurn { min_burn_amount: least.into() });
        }
        let stated = fee.filter(|_| cost > 0);
        let what = format!("move {:?}", (payer, spender, to, amount, stated, memo, made));
        self.admit(now, made, &what)?;
        let total = amount.saturating_add(cost);
        if let Some(spender) = spender
            && spender != payer
        {
            let allowance = self.allowance(payer, spender, now);
            if allowance < total {
                return Err(TransferFromError::InsufficientAllowance { allowance: allowance.into() });
            }
        }
        let mints = payer == MINTER && to != MINTER;
        if !mints && self.balance(payer) < total {
            return Err(TransferFromError::InsufficientFunds { balance: self.balance(payer).into() });
        }
        let supply: u128 = self.balances.values().sum();
        if mints && amount > MAX_SUPPLY - supply {
            let message = "the ledger cannot have more tokens".to_owned();
            return Err(TransferFromError::GenericError { error_code: 1u8.into(), message });
        }
        if mints {
            self.flows.minted += amount;
        } else {
            *self.balances.entry(payer).or_default() -= total;
            self.flows.fees += cost;
        }
        if to == MINTER {
            self.flows.burned += amount;
        } else {
            *self.balances.entry(to).or_default() += amount;
        }
        if let Some(spender) = spender
            && spender != payer
            && total > 0
        {
            self.allowances.get_mut(&(payer, spender)).expect("it suffices").0 -= total;
        }
        Ok(self.add(made, what))
    }

    fn approve(&mut self, now: u64, step: &Step) -> Result<u64, ApproveError> {
        let Step::Approve { caller, spender, amount, ends_in, expected, age } = *step else { unreachable!() };
        let made = age.map(|age| now.saturating_add_signed(-age));
        let end = ends_in.map(|time| now + time);
        let amount = amount.min(MAX_SUPPLY);
        let what = format!("approve {:?}", (caller, spender, amount, end, expected, made));
        self.admit(now, made, &what).map_err(|error| match error {
            TransferFromError::TooOld => ApproveError::TooOld,
            TransferFromError::Duplicate { duplicate_of } => ApproveError::Duplicate { duplicate_of },
            _ => ApproveError::CreatedInFuture { ledger_time: now },
        })?;
        if self.balance(caller) < FEE {
            return Err(ApproveError::InsufficientFunds { balance: self.balance(caller).into() });
        }
        if end.is_some_and(|end| end <= now) {
            return Err(ApproveError::Expired { ledger_time: now });
        }
        let present = self.allowance(caller, spender, now);
        if expected.is_some_and(|expected| expected != present) {
            return Err(ApproveError::AllowanceChanged { current_allowance: present.into() });
        }
        *self.balances.entry(caller).or_default() -= FEE;
        self.flows.fees += FEE;
        self.allowances.insert((caller, spender), (amount, end));
        Ok(self.add(made, what))
    }
}

/// What the ledger answers; the error is its text.
fn apply(ledger: &mut Ledger<Account>, now: u64, step: &Step) -> Result<Nat, String> {
    let made = |age: Option<i64>| age.map(|age| now.saturating_add_signed(-age));
    let memo = |memo: Option<u8>| memo.map(|byte| Memo::from(vec![byte]));
    match *step {
        Step::Move { caller, from: Some(from), to, amount, fee, memo: byte, age } => {
            let args = TransferFromArgs {
                spender_subaccount: None,
                from: account(from),
                to: account(to),
                amount: amount.into(),
                fee: fee.map(Nat::from),
                memo: memo(byte),
                created_at_time: made(age),
            };
            let answer = icrc::transfer_from(ledger, &token(), owner(caller), now, args);
            answer.expect("no trap").map_err(|error| format!("{error:?}"))
        }
        Step::Move { caller, from: None, to, amount, fee, memo: byte, age } => {
            let args = TransferArg {
                from_subaccount: Some([0; 32]),
                to: account(to),
                amount: amount.into(),
                fee: fee.map(Nat::from),
                memo: memo(byte),
                created_at_time: made(age),
            };
            let answer = icrc::transfer(ledger, &token(), owner(caller), now, args);
            answer.expect("no trap").map_err(|error| format!("{error:?}"))
        }
        Step::Approve { caller, spender, amount, ends_in, expected, age } => {
            let args = ApproveArgs {
                from_subaccount: None,
                spender: account(spender),
                amount: amount.into(),
                expected_allowance: expected.map(Nat::from),
                expires_at: ends_in.map(|time| now + time),
                fee: None,
                memo: None,
                created_at_time: made(age),
            };
            let answer = icrc::approve(ledger, &token(), owner(caller), now, args);
            answer.expect("no trap").map_err(|error| format!("{error:?}"))
        }
        Step::Wait(_) => unreachable!("it is no call"),
    }
}

proptest! {
    #[test]
    fn histories_are_those_of_the_obvious_ledger(history in proptest::collection::vec(step(), 1..80)) {
        let mut now = 10 * TRANSACTION_WINDOW;
        let (mut ledger, mut model) = (Ledger::new(MAX_SUPPLY), Model::default());
        for step in &history {
            let expected = match step {
                Step::Wait(time) => {
                    now += time;
                    continue;
                }
                Step::Move { .. } => model.transfer(now, step).map_err(|error| format!("{error:?}")),
                Step::Approve { .. } => model.approve(now, step).map_err(|error| format!("{error:?}")),
            };
            let answer = apply(&mut ledger, now, step);
            prop_assert_eq!(answer, expected.map(Nat::from), "{:?}", step);
            for n in 0..4u8 {
                prop_assert_eq!(ledger.balance(&account(n)), model.balance(n));
                for m in 0..4u8 {
                    let allowance = ledger.allowance(account(n), account(m), now).amount;
                    prop_assert_eq!(allowance, model.allowance(n, m, now));
                }
            }
            prop_assert_eq!(ledger.flows(), model.flows);
        }
        prop_assert_eq!(ledger.validate_invariants(), Ok(()));
        prop_assert_eq!(ledger.block_count(), model.done.len() as u64);
    }
}

#[test]
fn a_ledger_that_lost_money_says_so() {
    let mut ledger = Ledger::new(MAX_SUPPLY);
    let mint = Operation::Mint { to: account(1), amount: 10 };
    ledger.execute(0, mint.into(), 0).expect("there is room");
    ledger.validate_invariants().expect("nothing is wrong");
    *ledger.balances.entry(account(1)).or_default() += 1;
    assert!(ledger.validate_invariants().expect_err("a token too many").contains("sum up"));
    ledger.balances.clear();
    ledger.balances.insert(account(2), 10);
    assert!(ledger.validate_invariants().expect_err("another's tokens").contains("other balances"));
}

#[test]
fn blocks_are_read_in_ranges_and_chained_by_their_hashes() {
    let mut ledger = Ledger::new(MAX_SUPPLY);
    let mint = Operation::Mint { to: account(1), amount: 100 };
    ledger.execute(5, mint.into(), 0).expect("there is room");
    let transfer =
        Operation::Transfer { from: account(1), to: account(2), spender: None, amount: 7, fee: Some(FEE) };
    let transfer = Transaction { operation: transfer, memo: Some(vec![9]), created_at_time: Some(6) };
    ledger.execute(7, transfer, FEE).expect("the account has as much");
    let all = GetBlocksRequest { start: 0u8.into(), length: Nat::from(u128::MAX) };
    let last = GetBlocksRequest { start: 1u8.into(), length: 1u8.into() };
    let none = GetBlocksRequest { start: Nat::from(u128::MAX), length: Nat::from(u128::MAX) };
    let blocks = icrc3::blocks(&ledger, &[last, none, all]);
    assert_eq!(blocks.iter().map(|block| block.id.clone()).collect::<Vec<_>>(), [1u8, 0, 1].map(Nat::from));
    let ICRC3Value::Map(block) = blocks[0].block.clone() else { panic!("a block is a map") };
    let parent = ICRC3Value::Blob(blocks[1].block.clone().hash().to_vec().into());
    assert_eq!(block.get("phash"), Some(&parent));
    assert_eq!(block.get("ts"), Some(&ICRC3Value::Nat(7u8.into())));
    assert_eq!(block.get("fee"), None, "it is in the transaction");
    let ICRC3Value::Map(tx) = &block["tx"] else { panic!("a transaction is a map") };
    assert_eq!(tx["op"], ICRC3Value::Text("xfer".to_owned()));
    assert_eq!(tx["amt"], ICRC3Value::Nat(7u8.into()));
    assert_eq!(tx["memo"], ICRC3Value::Blob(vec![9].into()));
    assert_eq!(tx["ts"], ICRC3Value::Nat(6u8.into()));
    assert_eq!(tx["from"], ICRC3Value::Array(vec![ICRC3Value::Blob(vec![1].into())]));
}

#[test]
fn calls_that_make_no_sense_trap() {
    let mut ledger = Ledger::<Account>::new(MAX_SUPPLY);
    let approve = |spender: u8| ApproveArgs {
        from_subaccount: None,
        spender: account(spender),
        amount: 1u8.into(),
        expected_allowance: None,
        expires_at: None,
        fee: None,
        memo: None,
        created_at_time: None,
    };
    assert!(icrc::approve(&mut ledger, &token(), owner(1), 0, approve(1)).is_err(), "self approval");
    assert!(icrc::approve(&mut ledger, &token(), owner(MINTER), 0, approve(1)).is_err(), "delegated mint");
    let transfer = |memo: usize| TransferArg {
        from_subaccount: None,
        to: account(1),
        amount: 1u8.into(),
        fee: None,
        memo: Some(Memo::from(vec![0; memo])),
        created_at_time: None,
    };
    assert!(icrc::transfer(&mut ledger, &token(), owner(MINTER), 0, transfer(32)).is_ok());
    assert!(icrc::transfer(&mut ledger, &token(), owner(MINTER), 0, transfer(33)).is_err(), "long memo");
}
