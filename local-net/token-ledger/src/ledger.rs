//! The accounts of a token ledger and the transactions that change them.
//!
//! **Invariant**: the sum of all balances is what was minted, less what was burned and paid as fees; the transactions in the
//! blocks, executed again, give the balances. A refused transaction changes nothing. [`Ledger::validate_invariants`] checks it.

use crate::icrc3;
use icrc_ledger_types::icrc::generic_value::ICRC3Value;
use icrc_ledger_types::icrc1::account::Account;
use serde::{Deserialize, Serialize};
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

/// What names an account of a ledger.
pub trait LedgerAccount: Copy + Ord + From<Account> {
    /// The account as a block has it.
    fn value(&self) -> ICRC3Value;
}

/// What a transaction does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation<A> {
    /// New tokens.
    Mint {
        /// The account that receives them.
        to: A,
        /// How many.
        amount: u128,
    },
    /// Tokens cease to be.
    Burn {
        /// The account that pays.
        from: A,
        /// Who spends, if it is a `transfer_from`.
        spender: Option<A>,
        /// How many.
        amount: u128,
    },
    /// Tokens change hands.
    Transfer {
        /// The account that pays amount and fee.
        from: A,
        /// The account that receives the amount.
        to: A,
        /// Who spends, if it is a `transfer_from`.
        spender: Option<A>,
        /// How many.
        amount: u128,
        /// The fee, if the sender stated it.
        fee: Option<u128>,
    },
    /// A permission to spend, which takes the place of an earlier one.
    Approve {
        /// The account, which pays the fee.
        from: A,
        /// Who may spend.
        spender: A,
        /// How much, fees included.
        allowance: Allowance,
        /// What the owner believes the present allowance to be.
        expected_allowance: Option<u128>,
        /// The fee, if the sender stated it.
        fee: Option<u128>,
    },
}

impl<A: Copy> Operation<A> {
    /// The account that pays.
    pub fn from(&self) -> Option<A> {
        match *self {
            Self::Mint { .. } => None,
            Self::Burn { from, .. } | Self::Transfer { from, .. } | Self::Approve { from, .. } => Some(from),
        }
    }

    /// The account that receives.
    pub fn to(&self) -> Option<A> {
        match *self {
            Self::Mint { to, .. } | Self::Transfer { to, .. } => Some(to),
            Self::Burn { .. } | Self::Approve { .. } => None,
        }
    }

    /// The tokens that move; an approval moves none.
    pub fn amount(&self) -> u128 {
        match *self {
            Self::Mint { amount, .. } | Self::Burn { amount, .. } | Self::Transfer { amount, .. } => amount,
            Self::Approve { .. } => 0,
        }
    }

    /// Who spends in the name of another account.
    fn delegate(&self) -> Option<(A, A)>
    where
        A: PartialEq,
    {
        let (from, spender) = match *self {
            Self::Burn { from, spender, .. } | Self::Transfer { from, spender, .. } => (from, spender?),
            Self::Mint { .. } | Self::Approve { .. } => return None,
        };
        // Owners need no allowance.
        (spender != from).then_some((from, spender))
    }
}

/// What somebody asks a ledger to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction<A> {
    /// What is to be done.
    pub operation: Operation<A>,
    /// Bytes without meaning for the ledger.
    pub memo: Option<Vec<u8>>,
    /// When the sender made it, in nanoseconds since 1970. A transaction that says so is executed once, however often it
    /// is sent.
    pub created_at_time: Option<u64>,
}

impl<A> From<Operation<A>> for Transaction<A> {
    /// A transaction that may be repeated.
    fn from(operation: Operation<A>) -> Self {
        Self { operation, memo: None, created_at_time: None }
    }
}

/// What somebody may still spend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The ledger remembers as many transactions of the last 24 hours as it can.
    #[error("the ledger takes no further transaction with a creation time for now")]
    TemporarilyUnavailable,
    /// The tokens would be too many, or the accounts.
    #[error("the ledger cannot have more {0}")]
    Full(&'static str),
}

/// A transaction that was executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block<A> {
    /// The transaction.
    pub transaction: Transaction<A>,
    /// What it cost.
    pub fee: u128,
    /// When it was executed, in nanoseconds since 1970.
    pub timestamp: u64,
    /// The hash of the block before.
    pub parent_hash: Option<[u8; 32]>,
}

/// The state of a ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "A: Ord + Serialize + serde::de::DeserializeOwned")]
pub struct Ledger<A> {
    /// What all balances together can be.
    max_supply: u128,
    total_supply: u128,
    /// What was minted, burned and paid as fees; modulo 2^128, because tokens may be minted and burned without end.
    flows: Flows,
    /// Balances that are not 0.
    pub(crate) balances: BTreeMap<A, u128>,
    /// Allowances that are not 0, by owner and spender.
    allowances: BTreeMap<(A, A), Allowance>,
    /// The newest blocks.
    blocks: VecDeque<Block<A>>,
    block_count: u64,
    tip_hash: Option<[u8; 32]>,
    /// Blocks of the transactions of the last [`TRANSACTION_WINDOW`], by creation time and hash.
    remembered: BTreeMap<(u64, [u8; 32]), u64>,
}

/// Sums over all transactions, modulo 2^128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// Tokens that came to be.
    pub minted: u128,
    /// Tokens that ceased to be, fees apart.
    pub burned: u128,
    /// Fees; they are burned.
    pub fees: u128,
}

/// What a transaction changes, computed before anything is changed.
struct Effects<A> {
    /// New balances.
    balances: Vec<(A, u128)>,
    allowance: Option<((A, A), Allowance)>,
    supply: u128,
    minted: u128,
    burned: u128,
}

impl<A: LedgerAccount> Ledger<A> {
    /// A ledger without tokens; there can be `max_supply` of them.
    pub fn new(max_supply: u128) -> Self {
        Self {
            max_supply,
            total_supply: 0,
            flows: Flows::default(),
            balances: BTreeMap::new(),
            allowances: BTreeMap::new(),
            blocks: VecDeque::new(),
            block_count: 0,
            tip_hash: None,
            remembered: BTreeMap::new(),
        }
    }

    /// The balance of an account.
    pub fn balance(&self, account: &A) -> u128 {
        self.balances.get(account).copied().unwrap_or(0)
    }

    /// The sum of all balances.
    pub fn total_supply(&self) -> u128 {
        self.total_supply
    }

    /// What was minted, burned and paid as fees.
    pub fn flows(&self) -> Flows {
        self.flows
    }

    /// What `spender` may spend from `owner` at `now`.
    pub fn allowance(&self, owner: A, spender: A, now: u64) -> Allowance {
        let allowance = self.allowances.get(&(owner, spender)).copied().unwrap_or_default();
        if allowance.expires_at.is_some_and(|end| end <= now) { Allowance::default() } else { allowance }
    }

    /// The number of the oldest block that the ledger still has.
    pub fn first_block(&self) -> u64 {
        self.block_count - self.blocks.len() as u64
    }

    /// How many blocks there were.
    pub fn block_count(&self) -> u64 {
        self.block_count
    }

    /// The block number `index`.
    pub fn block(&self, index: u64) -> Option<&Block<A>> {
        self.blocks.get(usize::try_from(index.checked_sub(self.first_block())?).ok()?)
    }

    /// Executes a transaction that costs `fee`; the number of its block.
    ///
    /// # Errors
    /// Says why it is refused; then nothing has changed.
    pub fn execute(&mut self, now: u64, transaction: Transaction<A>, fee: u128) -> Result<u64, LedgerError> {
        let key = self.admit(now, &transaction)?;
        // Nobody pays for new tokens.
        let fee = if transaction.operation.from().is_some() { fee } else { 0 };
        let effects = self.effects(now, &transaction.operation, fee)?;
        for (account, balance) in effects.balances {
            set(&mut self.balances, account, balance);
        }
        if let Some((parties, allowance)) = effects.allowance {
            if allowance.amount == 0 {
                self.allowances.remove(&parties);
            } else {
                self.allowances.insert(parties, allowance);
            }
        }
        self.total_supply = effects.supply;
        let Flows { minted, burned, fees } = &mut self.flows;
        *minted = minted.wrapping_add(effects.minted);
        *burned = burned.wrapping_add(effects.burned);
        *fees = fees.wrapping_add(fee);
        Ok(self.append(Block { transaction, fee, timestamp: now, parent_hash: self.tip_hash }, key))
    }

    /// Checks when a transaction was made and that it is new; the key under which it will be remembered.
    fn admit(
        &mut self,
        now: u64,
        transaction: &Transaction<A>,
    ) -> Result<Option<(u64, [u8; 32])>, LedgerError> {
        let Some(time) = transaction.created_at_time else { return Ok(None) };
        let oldest = now.saturating_sub(TRANSACTION_WINDOW);
        if time < oldest {
            return Err(LedgerError::TooOld);
        }
        if time > now.saturating_add(PERMITTED_DRIFT) {
            return Err(LedgerError::CreatedInFuture);
        }
        self.remembered = self.remembered.split_off(&(oldest, [0; 32]));
        let key = (time, icrc3::transaction_value(transaction).hash());
        match self.remembered.get(&key) {
            Some(block) => Err(LedgerError::Duplicate(*block)),
            None if self.remembered.len() >= MAX_REMEMBERED => Err(LedgerError::TemporarilyUnavailable),
            None => Ok(Some(key)),
        }
    }

    /// What a transaction would change.
    fn effects(&self, now: u64, operation: &Operation<A>, fee: u128) -> Result<Effects<A>, LedgerError> {
        let amount = operation.amount();
        let total = amount.checked_add(fee);
        let mut allowance = None;
        if let Some((from, spender)) = operation.delegate() {
            let present = self.allowance(from, spender, now);
            let left = total.and_then(|total| present.amount.checked_sub(total));
            let left = left.ok_or(LedgerError::InsufficientAllowance(present.amount))?;
            allowance = Some(((from, spender), Allowance { amount: left, ..present }));
        }
        let mut balances = Vec::new();
        if let Some(from) = operation.from() {
            let balance = self.balance(&from);
            let left = total.and_then(|total| balance.checked_sub(total));
            balances.push((from, left.ok_or(LedgerError::InsufficientFunds(balance))?));
        }
        if let Operation::Approve { from, spender, allowance: given, expected_allowance, .. } = *operation {
            if given.expires_at.is_some_and(|end| end <= now) {
                return Err(LedgerError::Expired);
            }
            let present = self.allowance(from, spender, now).amount;
            if expected_allowance.is_some_and(|expected| expected != present) {
                return Err(LedgerError::AllowanceChanged(present));
            }
            if self.allowances.len() >= MAX_ENTRIES && !self.allowances.contains_key(&(from, spender)) {
                return Err(LedgerError::Full("allowances"));
            }
            allowance = Some(((from, spender), given));
        }
        let (minted, burned) = match operation {
            Operation::Mint { .. } => (amount, 0),
            Operation::Burn { .. } => (0, amount),
            Operation::Transfer { .. } | Operation::Approve { .. } => (0, 0),
        };
        // The payer has both.
        let supply = (self.total_supply - burned - fee).checked_add(minted).filter(|s| *s <= self.max_supply);
        let supply = supply.ok_or(LedgerError::Full("tokens"))?;
        if let Some(to) = operation.to() {
            if !self.balances.contains_key(&to) && self.balances.len() >= MAX_ENTRIES {
                return Err(LedgerError::Full("accounts"));
            }
            let payer = balances.first().filter(|(from, _)| *from == to);
            let balance = payer.map_or_else(|| self.balance(&to), |(_, left)| *left);
            balances.push((to, balance + amount));
        }
        Ok(Effects { balances, allowance, supply, minted, burned })
    }

    fn append(&mut self, block: Block<A>, key: Option<(u64, [u8; 32])>) -> u64 {
        let index = self.block_count;
        self.block_count += 1;
        self.tip_hash = Some(icrc3::block_value(&block).hash());
        self.blocks.push_back(block);
        if self.blocks.len() > MAX_BLOCKS {
            self.blocks.pop_front();
        }
        if let Some(key) = key {
            self.remembered.insert(key, index);
        }
        index
    }

    /// Checks that the sums are those of the flows, that each block names the hash of the one before, and, while the ledger
    /// has all blocks, that they give the balances.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn validate_invariants(&self) -> Result<(), String> {
        let sum = self.balances.values().try_fold(0u128, |sum, balance| sum.checked_add(*balance));
        if sum != Some(self.total_supply) {
            return Err(format!("the balances sum up to {sum:?}, the supply is {}", self.total_supply));
        }
        let Flows { minted, burned, fees } = self.flows;
        if minted.wrapping_sub(burned).wrapping_sub(fees) != self.total_supply {
            return Err(format!("{minted} minted, {burned} burned, {fees} fees: not {}", self.total_supply));
        }
        let hashes = self.blocks.iter().map(|block| Some(icrc3::block_value(block).hash()));
        let parents = self.blocks.iter().skip(1).map(|block| block.parent_hash).chain([self.tip_hash]);
        if let Some(n) = hashes.zip(parents).position(|(hash, parent)| hash != parent) {
            return Err(format!(
                "block {} has another hash than the next one says",
                self.first_block() + n as u64
            ));
        }
        if self.first_block() > 0 {
            return Ok(());
        }
        let mut replayed = Self::new(self.max_supply);
        for (n, Block { transaction, fee, timestamp, .. }) in self.blocks.iter().enumerate() {
            let block = replayed.execute(*timestamp, transaction.clone(), *fee);
            block.map_err(|error| format!("block {n} is not executed again: {error}"))?;
        }
        if replayed.balances != self.balances || replayed.allowances != self.allowances {
            return Err("the blocks give other balances or allowances".to_owned());
        }
        Ok(())
    }
}

/// Sets a balance; accounts without tokens are not kept.
fn set<A: Ord>(balances: &mut BTreeMap<A, u128>, account: A, balance: u128) {
    if balance == 0 {
        balances.remove(&account);
    } else {
        balances.insert(account, balance);
    }
}
