//! The accounts of a token ledger (ICRC-1, ICRC-2) and the transactions that change them.
//!
//! **Invariant**: the sum of all balances is what was minted, less what was burned and paid as fees. A refused transaction
//! changes nothing.

use super::account::AccountIdentifier;
use candid::CandidType;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};

/// How long a ledger accepts and remembers transactions that say when they were made (ICRC-1, `TX_WINDOW`), in nanoseconds.
pub const TRANSACTION_WINDOW: u64 = 24 * 60 * 60 * 1_000_000_000;
/// How far in the future a transaction may have been made (ICRC-1, `PERMITTED_DRIFT`), in nanoseconds.
pub const PERMITTED_DRIFT: u64 = 60 * 1_000_000_000;
/// Accounts with a balance that a ledger keeps at most, and allowances.
const MAX_ENTRIES: usize = 1_000_000;
/// Transactions that a ledger remembers at most.
const MAX_REMEMBERED: usize = 100_000;
/// Blocks that a ledger keeps at most; older ones are forgotten.
const MAX_BLOCKS: usize = 100_000;

/// A transfer. Tokens that come from no account are minted, tokens that go to none are burned.
#[derive(Clone, Debug, CandidType)]
pub struct Transfer {
    /// Who spends, if not the owner of `from`.
    pub spender: Option<AccountIdentifier>,
    /// The account that pays amount and fee.
    pub from: Option<AccountIdentifier>,
    /// The account that receives the amount.
    pub to: Option<AccountIdentifier>,
    /// The amount.
    pub amount: u128,
    /// What it costs besides.
    pub fee: u128,
    /// Bytes without meaning for the ledger.
    pub memo: Vec<u8>,
    /// When the sender made it, in nanoseconds since 1970. A transaction that says so is executed once, however often it
    /// is sent.
    pub created_at_time: Option<u64>,
}

/// A permission to spend from an account.
#[derive(Clone, Debug, CandidType)]
pub struct Approval {
    /// The account, which pays the fee.
    pub from: AccountIdentifier,
    /// Who may spend.
    pub spender: AccountIdentifier,
    /// How much, fees included. It takes the place of an earlier permission.
    pub allowance: Allowance,
    /// What the owner believes the present allowance to be.
    pub expected_allowance: Option<u128>,
    /// What it costs.
    pub fee: u128,
    /// Bytes without meaning for the ledger.
    pub memo: Vec<u8>,
    /// As in [`Transfer::created_at_time`].
    pub created_at_time: Option<u64>,
}

/// What somebody may still spend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, CandidType, Serialize, Deserialize)]
pub struct Allowance {
    /// The amount.
    pub amount: u128,
    /// When it ends, in nanoseconds since 1970.
    pub expires_at: Option<u64>,
}

/// Why a transaction is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Amount and fee exceed the balance.
    #[error("the account has {0} only")]
    InsufficientFunds(u128),
    /// Amount and fee exceed the allowance.
    #[error("the allowance is {0} only")]
    InsufficientAllowance(u128),
    /// The allowance is another than expected.
    #[error("the allowance is {0} now")]
    AllowanceChanged(u128),
    /// The approval ends before it begins.
    #[error("the approval has expired")]
    Expired,
    /// It was made too long ago.
    #[error("the transaction is older than 24 hours")]
    TooOld,
    /// It was made in the future.
    #[error("the transaction was made in the future")]
    CreatedInFuture,
    /// The block with this number has it already.
    #[error("the transaction is in block {0} already")]
    Duplicate(u64),
    /// The ledger remembers [`MAX_REMEMBERED`] transactions of the last 24 hours.
    #[error("the ledger takes no further transaction with a creation time for now")]
    TemporarilyUnavailable,
    /// The tokens would be too many, or the accounts.
    #[error("the ledger cannot have more {0}")]
    Full(&'static str),
}

/// A transfer that was executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The account that paid.
    pub from: Option<AccountIdentifier>,
    /// The account that received.
    pub to: Option<AccountIdentifier>,
    /// The amount.
    pub amount: u128,
    /// The memo.
    pub memo: Vec<u8>,
}

/// The state of a ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ledger {
    /// What all balances together can be.
    max_supply: u128,
    total_supply: u128,
    /// Balances that are not 0.
    balances: BTreeMap<AccountIdentifier, u128>,
    /// Allowances that are not 0, by owner and spender.
    allowances: BTreeMap<(AccountIdentifier, AccountIdentifier), Allowance>,
    /// The newest blocks; `None` is an approval.
    blocks: VecDeque<Option<Block>>,
    block_count: u64,
    /// Blocks of the transactions of the last [`TRANSACTION_WINDOW`], by creation time and hash.
    remembered: BTreeMap<(u64, [u8; 32]), u64>,
}

impl Ledger {
    /// A ledger without tokens; there can be `max_supply` of them.
    pub fn new(max_supply: u128) -> Self {
        Self {
            max_supply,
            total_supply: 0,
            balances: BTreeMap::new(),
            allowances: BTreeMap::new(),
            blocks: VecDeque::new(),
            block_count: 0,
            remembered: BTreeMap::new(),
        }
    }

    /// The balance of an account.
    pub fn balance(&self, account: &AccountIdentifier) -> u128 {
        self.balances.get(account).copied().unwrap_or(0)
    }

    /// The sum of all balances.
    pub fn total_supply(&self) -> u128 {
        self.total_supply
    }

    /// What `spender` may spend from `owner` at `now`.
    pub fn allowance(&self, owner: AccountIdentifier, spender: AccountIdentifier, now: u64) -> Allowance {
        let allowance = self.allowances.get(&(owner, spender)).copied().unwrap_or_default();
        if allowance.expires_at.is_some_and(|end| end <= now) { Allowance::default() } else { allowance }
    }

    /// The number of the oldest block that the ledger still has.
    pub fn first_block(&self) -> u64 {
        self.block_count - self.blocks.len() as u64
    }

    /// The transfer in the block number `index`.
    pub fn block(&self, index: u64) -> Option<&Block> {
        self.blocks.get(usize::try_from(index.checked_sub(self.first_block())?).ok()?)?.as_ref()
    }

    /// Executes a transfer; the number of its block.
    ///
    /// # Errors
    /// Any [`LedgerError`] but those of approvals.
    pub fn transfer(&mut self, now: u64, transfer: Transfer) -> Result<u64, LedgerError> {
        let key = self.admit(now, transfer.created_at_time, &transfer)?;
        let Transfer { spender, from, to, amount, fee, memo, .. } = transfer;
        let total = amount.checked_add(fee);
        let allowance = match (spender, from) {
            (Some(spender), Some(from)) if spender != from => {
                let allowance = self.allowance(from, spender, now);
                let left = total.and_then(|total| allowance.amount.checked_sub(total));
                let left = left.ok_or(LedgerError::InsufficientAllowance(allowance.amount))?;
                Some(((from, spender), Allowance { amount: left, ..allowance }))
            }
            _ => None,
        };
        let paid = match from {
            Some(from) => {
                let balance = self.balance(&from);
                let left = total.and_then(|total| balance.checked_sub(total));
                Some((from, left.ok_or(LedgerError::InsufficientFunds(balance))?))
            }
            None => None,
        };
        if to.is_some_and(|to| !self.balances.contains_key(&to)) && self.balances.len() >= MAX_ENTRIES {
            return Err(LedgerError::Full("accounts"));
        }
        let removed = if from.is_some() { fee + if to.is_none() { amount } else { 0 } } else { 0 };
        let minted = if from.is_none() && to.is_some() { amount } else { 0 };
        let supply = (self.total_supply - removed).checked_add(minted).filter(|s| *s <= self.max_supply);
        self.total_supply = supply.ok_or(LedgerError::Full("tokens"))?;

        if let Some((from, left)) = paid {
            set(&mut self.balances, from, left);
        }
        if let Some(to) = to {
            let balance = self.balance(&to) + amount;
            set(&mut self.balances, to, balance);
        }
        if let Some((parties, allowance)) = allowance {
            self.set_allowance(parties, allowance);
        }
        Ok(self.append(Some(Block { from, to, amount, memo }), key))
    }

    /// Executes an approval; the number of its block.
    ///
    /// # Errors
    /// Any [`LedgerError`] but those of transfers.
    pub fn approve(&mut self, now: u64, approval: &Approval) -> Result<u64, LedgerError> {
        let key = self.admit(now, approval.created_at_time, approval)?;
        let Approval { from, spender, allowance, expected_allowance, fee, .. } = *approval;
        if allowance.expires_at.is_some_and(|end| end <= now) {
            return Err(LedgerError::Expired);
        }
        let present = self.allowance(from, spender, now).amount;
        if expected_allowance.is_some_and(|expected| expected != present) {
            return Err(LedgerError::AllowanceChanged(present));
        }
        let balance = self.balance(&from);
        let left = balance.checked_sub(fee).ok_or(LedgerError::InsufficientFunds(balance))?;
        if self.allowances.len() >= MAX_ENTRIES && !self.allowances.contains_key(&(from, spender)) {
            return Err(LedgerError::Full("allowances"));
        }
        set(&mut self.balances, from, left);
        self.total_supply -= fee;
        self.set_allowance((from, spender), allowance);
        Ok(self.append(None, key))
    }

    /// Checks when a transaction was made and that it is new; the key under which it will be remembered.
    fn admit(
        &mut self,
        now: u64,
        created_at_time: Option<u64>,
        transaction: &impl CandidType,
    ) -> Result<Option<(u64, [u8; 32])>, LedgerError> {
        let Some(time) = created_at_time else { return Ok(None) };
        let oldest = now.saturating_sub(TRANSACTION_WINDOW + PERMITTED_DRIFT);
        if time < oldest {
            return Err(LedgerError::TooOld);
        }
        if time > now.saturating_add(PERMITTED_DRIFT) {
            return Err(LedgerError::CreatedInFuture);
        }
        self.remembered = self.remembered.split_off(&(oldest, [0; 32]));
        let bytes = candid::encode_one(transaction).expect("transactions have a Candid encoding");
        let key = (time, Sha256::digest(bytes).into());
        match self.remembered.get(&key) {
            Some(block) => Err(LedgerError::Duplicate(*block)),
            None if self.remembered.len() >= MAX_REMEMBERED => Err(LedgerError::TemporarilyUnavailable),
            None => Ok(Some(key)),
        }
    }

    fn append(&mut self, block: Option<Block>, key: Option<(u64, [u8; 32])>) -> u64 {
        let index = self.block_count;
        self.block_count += 1;
        self.blocks.push_back(block);
        if self.blocks.len() > MAX_BLOCKS {
            self.blocks.pop_front();
        }
        if let Some(key) = key {
            self.remembered.insert(key, index);
        }
        index
    }

    fn set_allowance(&mut self, parties: (AccountIdentifier, AccountIdentifier), allowance: Allowance) {
        if allowance.amount == 0 {
            self.allowances.remove(&parties);
        } else {
            self.allowances.insert(parties, allowance);
        }
    }
}

/// Sets a balance; accounts without tokens are not kept.
fn set(balances: &mut BTreeMap<AccountIdentifier, u128>, account: AccountIdentifier, balance: u128) {
    if balance == 0 {
        balances.remove(&account);
    } else {
        balances.insert(account, balance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One operation of a random history; accounts are small numbers.
    #[derive(Clone, Debug)]
    enum Operation {
        Transfer {
            spender: Option<u8>,
            from: Option<u8>,
            to: Option<u8>,
            amount: u128,
            fee: u128,
            age: Option<i64>,
        },
        Approve {
            from: u8,
            spender: u8,
            amount: u128,
            ends_in: Option<u64>,
            expected: Option<u128>,
        },
        Wait(u64),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let account = || proptest::option::weighted(0.9, 0..3u8);
        let amount = || prop_oneof![8 => 0..50u128, 1 => Just(u128::MAX), 1 => Just(0)];
        let hour = 3_600_000_000_000i64;
        let age = proptest::option::weighted(0.3, prop_oneof![0..4i64, Just(25 * hour), Just(-hour)]);
        let transfer =
            (proptest::option::weighted(0.3, 0..3u8), account(), account(), amount(), 0..3u128, age);
        prop_oneof![
            6 => transfer.prop_map(|(spender, from, to, amount, fee, age)| {
                Operation::Transfer { spender, from, to, amount, fee, age }
            }),
            2 => (0..3u8, 0..3u8, amount(), proptest::option::of(0..3u64), proptest::option::weighted(0.2, 0..9u128))
                .prop_map(|(from, spender, amount, ends_in, expected)| {
                    Operation::Approve { from, spender, amount, ends_in, expected }
                }),
            2 => prop_oneof![0..3u64, Just(TRANSACTION_WINDOW)].prop_map(Operation::Wait),
        ]
    }

    fn account(n: u8) -> AccountIdentifier {
        AccountIdentifier::of(candid::Principal::from_slice(&[n]), None)
    }

    /// The obvious ledger: balances and allowances in arrays, the whole history in a list.
    #[derive(Clone, Default)]
    struct Model {
        balances: [u128; 3],
        allowances: [[(u128, Option<u64>); 3]; 3],
        /// What was minted, burned and paid as fees.
        flows: [u128; 3],
        seen: Vec<(u64, String)>,
    }

    const MAX_SUPPLY: u128 = 100;

    impl Model {
        fn allowance(&self, from: u8, spender: u8, now: u64) -> u128 {
            let (amount, end) = self.allowances[usize::from(from)][usize::from(spender)];
            if end.is_some_and(|end| end <= now) { 0 } else { amount }
        }

        fn transfer(&mut self, now: u64, operation: &Operation) -> bool {
            let Operation::Transfer { spender, from, to, amount, fee, age } = operation.clone() else {
                return false;
            };
            let made = age.map(|age| now.saturating_add_signed(-age));
            if let Some(made) = made {
                if made + TRANSACTION_WINDOW + PERMITTED_DRIFT < now || made > now + PERMITTED_DRIFT {
                    return false;
                }
                let text = format!("{:?}", (spender, from, to, amount, fee));
                if self.seen.contains(&(made, text)) {
                    return false;
                }
            }
            let total = amount.saturating_add(fee);
            if let (Some(spender), Some(from)) = (spender, from)
                && spender != from
                && self.allowance(from, spender, now) < total
            {
                return false;
            }
            if from.is_some_and(|from| self.balances[usize::from(from)] < total) {
                return false;
            }
            let supply: u128 = self.balances.iter().sum();
            if from.is_none() && to.is_some() && amount > MAX_SUPPLY - supply {
                return false;
            }
            if let Some(from) = from {
                self.balances[usize::from(from)] -= total;
                self.flows[2] += fee;
                if let Some(spender) = spender
                    && spender != from
                {
                    self.allowances[usize::from(from)][usize::from(spender)].0 -= total;
                }
                if to.is_none() {
                    self.flows[1] += amount;
                }
            }
            if let Some(to) = to {
                self.balances[usize::from(to)] += amount;
                if from.is_none() {
                    self.flows[0] += amount;
                }
            }
            if let Some(made) = made {
                self.seen.push((made, format!("{:?}", (spender, from, to, amount, fee))));
            }
            true
        }

        fn approve(&mut self, now: u64, operation: &Operation) -> bool {
            let Operation::Approve { from, spender, amount, ends_in, expected } = *operation else {
                return false;
            };
            let end = ends_in.map(|d| now + d);
            let possible = end.is_none_or(|end| end > now)
                && expected.is_none_or(|e| e == self.allowance(from, spender, now))
                && self.balances[usize::from(from)] >= 1;
            if possible {
                self.balances[usize::from(from)] -= 1;
                self.flows[2] += 1;
                self.allowances[usize::from(from)][usize::from(spender)] = (amount, end);
            }
            possible
        }
    }

    fn apply(ledger: &mut Ledger, now: u64, operation: &Operation) -> Result<u64, LedgerError> {
        match *operation {
            Operation::Transfer { spender, from, to, amount, fee, age } => {
                let transfer = Transfer {
                    spender: spender.map(account),
                    from: from.map(account),
                    to: to.map(account),
                    amount,
                    fee,
                    memo: Vec::new(),
                    created_at_time: age.map(|age| now.saturating_add_signed(-age)),
                };
                ledger.transfer(now, transfer)
            }
            Operation::Approve { from, spender, amount, ends_in, expected } => {
                let approval = Approval {
                    from: account(from),
                    spender: account(spender),
                    allowance: Allowance { amount, expires_at: ends_in.map(|d| now + d) },
                    expected_allowance: expected,
                    fee: 1,
                    memo: Vec::new(),
                    created_at_time: None,
                };
                ledger.approve(now, &approval)
            }
            Operation::Wait(_) => Ok(0),
        }
    }

    proptest! {
        #[test]
        fn histories_end_like_those_of_the_obvious_ledger(history in proptest::collection::vec(operation(), 1..60)) {
            let mut now = 10 * TRANSACTION_WINDOW;
            let (mut ledger, mut model) = (Ledger::new(MAX_SUPPLY), Model::default());
            let mut blocks = 0;
            for operation in &history {
                let before = ledger.balances.clone();
                let done = match operation {
                    Operation::Wait(time) => {
                        now += time;
                        continue;
                    }
                    Operation::Transfer { .. } => model.transfer(now, operation),
                    Operation::Approve { .. } => model.approve(now, operation),
                };
                let result = apply(&mut ledger, now, operation);
                prop_assert_eq!(result.is_ok(), done, "{:?}: {:?}", operation, result);
                if let Ok(block) = result {
                    prop_assert_eq!(block, blocks);
                    blocks += 1;
                } else {
                    prop_assert_eq!(&ledger.balances, &before);
                }
                for n in 0..3u8 {
                    prop_assert_eq!(ledger.balance(&account(n)), model.balances[usize::from(n)]);
                    for m in 0..3u8 {
                        let allowance = ledger.allowance(account(n), account(m), now).amount;
                        prop_assert_eq!(allowance, model.allowance(n, m, now));
                    }
                }
                let [minted, burned, fees] = model.flows;
                prop_assert_eq!(ledger.balances.values().sum::<u128>(), minted - burned - fees);
                prop_assert_eq!(ledger.total_supply(), minted - burned - fees);
            }
        }
    }

    #[test]
    fn a_transfer_with_a_creation_time_is_executed_once() {
        let mut ledger = Ledger::new(100);
        let now = 2 * TRANSACTION_WINDOW;
        let mint = |created_at_time| Transfer {
            spender: None,
            from: None,
            to: Some(account(1)),
            amount: 10,
            fee: 0,
            memo: vec![1],
            created_at_time,
        };
        assert_eq!(ledger.transfer(now, mint(Some(now))), Ok(0));
        assert_eq!(ledger.transfer(now, mint(Some(now))), Err(LedgerError::Duplicate(0)));
        assert_eq!(ledger.transfer(now, Transfer { memo: vec![2], ..mint(Some(now)) }), Ok(1));
        assert_eq!(ledger.transfer(now, mint(None)), Ok(2));
        let later = now + TRANSACTION_WINDOW + PERMITTED_DRIFT;
        assert_eq!(ledger.transfer(later, mint(Some(now))), Err(LedgerError::Duplicate(0)));
        assert_eq!(ledger.transfer(later + 1, mint(Some(now))), Err(LedgerError::TooOld));
        let future = now + PERMITTED_DRIFT + 1;
        assert_eq!(ledger.transfer(now, mint(Some(future))), Err(LedgerError::CreatedInFuture));
        assert_eq!(ledger.block(1).map(|b| b.memo.clone()), Some(vec![2]));
        assert_eq!(ledger.block(3), None);
    }
}
