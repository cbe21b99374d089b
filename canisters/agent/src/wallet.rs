//! The wallet: which payments may be made, and how far each is; see `shared_types::agent::wallet`.
//!
//! The module makes no call. [`Wallet::next`] names the payments to submit, the caller journals each with [`Wallet::begun`], submits what
//! that returns, and reports with [`Wallet::answered`]. Whatever is lost or repeated, a payment is executed at most once: all its
//! submissions have the `created_at_time` of the first, by which an ICRC-1 ledger tells them, and there is none after the ledger may have
//! forgotten it. When it is certain that the ledger did not execute it, the payment has failed; when it is not, it is unknown and
//! counts as spent.

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::{StableBTreeMap, StableCell};
use serde::{Deserialize, Serialize};
use shared_types::agent::wallet::{
    Account, ListPaymentsArgs, MAX_LEDGERS, MAX_OPEN_PAYMENTS, MAX_STORED_PAYMENTS, PayArgs, PaymentId,
    PaymentKind, PaymentPage, PaymentRecord, PaymentState, SpendingLimits, WalletAddress, WalletLedger,
};
use shared_types::agent::{AgentError, MAX_KEY_BYTES};
use shared_types::{FieldError, paging};

use crate::memory::{Memory, WalletMemories};

const DAY_NS: u64 = 24 * 3_600 * 1_000_000_000;

/// No submission is made so long after the first: an ICRC-1 ledger remembers transactions for 24 hours (`TRANSACTION_WINDOW` of the
/// standard), and clocks differ.
const WINDOW_NS: u64 = DAY_NS - 10 * 60 * 1_000_000_000;

/// Nanoseconds to wait after the first answer that was lost; doubled with each further one.
const BACKOFF_NS: u64 = 10_000_000_000;

/// Longest wait.
const MAX_BACKOFF_NS: u64 = 3_600 * 1_000_000_000;

/// Calls that were not delivered, after which a payment that was never submitted is given up.
const MAX_ATTEMPTS: u32 = 10;

/// A payment, and what only the machine needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    record: PaymentRecord,
    /// Whether the answer of a submission was lost: the ledger may have executed it.
    doubtful: bool,
    /// It is not submitted before this time.
    not_before_ns: u64,
    /// The day that it counts as spent on; `None` while it is not counted.
    day: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Head {
    last: PaymentId,
    address: Option<WalletAddress>,
}

/// Ledgers and payments.
pub struct Wallet {
    ledgers: StableBTreeMap<Principal, Cbor<WalletLedger>, Memory>,
    payments: StableBTreeMap<PaymentId, Cbor<Entry>, Memory>,
    open: StableBTreeMap<PaymentId, (), Memory>,
    keys: StableBTreeMap<String, PaymentId, Memory>,
    head: StableCell<Cbor<Head>, Memory>,
}

/// What a ledger said to a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is executed, now or before, in this block.
    Done(u64),
    /// Its fee is another one; it was not executed.
    BadFee(u128),
    /// It can't execute anything now, or thinks that the time has not come.
    NotNow(String),
    /// It refused.
    Refused(String),
    /// The call was certainly not delivered.
    NotSent(String),
    /// It is not known whether the call was executed.
    Lost(String),
}

impl Wallet {
    /// Opens what the memories hold.
    pub fn open(memories: WalletMemories) -> Self {
        Self {
            ledgers: StableBTreeMap::init(memories.ledgers),
            payments: StableBTreeMap::init(memories.payments),
            open: StableBTreeMap::init(memories.open_payments),
            keys: StableBTreeMap::init(memories.payment_keys),
            head: StableCell::init(memories.wallet, Cbor::default()),
        }
    }

    /// The ledgers.
    pub fn ledgers(&self) -> Vec<WalletLedger> {
        self.ledgers.values().map(|ledger| ledger.0).collect()
    }

    /// A ledger.
    ///
    /// # Errors
    /// [`AgentError::UnknownLedger`].
    pub fn ledger(&self, ledger: Principal) -> Result<WalletLedger, AgentError> {
        self.ledgers.get(&ledger).map(|known| known.0).ok_or(AgentError::UnknownLedger { ledger })
    }

    /// Payments that have not ended.
    pub fn open_payments(&self) -> u64 {
        self.open.len()
    }

    /// The threshold-ECDSA key, if it was asked for.
    pub fn address(&self) -> Option<WalletAddress> {
        self.head.get().0.address.clone()
    }

    /// Keeps the threshold-ECDSA key.
    pub fn set_address(&mut self, address: WalletAddress) {
        let head = Head { address: Some(address), ..self.head.get().0.clone() };
        self.head.set(Cbor(head));
    }

    /// Whether another ledger may be registered.
    ///
    /// # Errors
    /// [`AgentError::TooManyLedgers`].
    pub fn check_room(&self, ledger: Principal) -> Result<(), AgentError> {
        if !self.ledgers.contains_key(&ledger) && self.ledgers.len() >= MAX_LEDGERS {
            return Err(AgentError::TooManyLedgers { ledgers: self.ledgers.len() });
        }
        Ok(())
    }

    /// Registers a ledger, or changes its limits; what was spent today stays.
    pub fn set_ledger(&mut self, ledger: WalletLedger) {
        let known = self.ledgers.get(&ledger.ledger).map(|known| known.0);
        let (day, spent) = known.map_or((0, 0), |known| (known.day, known.spent));
        self.ledgers.insert(ledger.ledger, Cbor(WalletLedger { day, spent, ..ledger }));
    }

    /// Changes the limits of a ledger.
    ///
    /// # Errors
    /// [`AgentError::UnknownLedger`].
    pub fn set_limits(&mut self, ledger: Principal, limits: SpendingLimits) -> Result<(), AgentError> {
        let known = self.ledger(ledger)?;
        self.ledgers.insert(ledger, Cbor(WalletLedger { limits, ..known }));
        Ok(())
    }

    /// Forgets a ledger.
    ///
    /// # Errors
    /// [`AgentError::UnknownLedger`]; [`AgentError::OpenPayments`] while payments at it have not ended.
    pub fn remove_ledger(&mut self, ledger: Principal) -> Result<(), AgentError> {
        self.ledger(ledger)?;
        let open = self.open_at(ledger).len() as u64;
        if open > 0 {
            return Err(AgentError::OpenPayments { payments: open });
        }
        self.ledgers.remove(&ledger);
        Ok(())
    }

    /// Enters a payment, or finds the one that the same caller and key made before. One of the coordinator beyond `approval_above` waits
    /// for the owner.
    ///
    /// # Errors
    /// [`AgentError::InvalidField`], [`AgentError::UnknownLedger`], [`AgentError::KeyReused`] (with the payment's number),
    /// [`AgentError::LimitExceeded`], [`AgentError::TooManyPayments`].
    pub fn request(
        &mut self,
        caller: Principal,
        by_owner: bool,
        args: PayArgs,
        now_ns: u64,
    ) -> Result<PaymentRecord, AgentError> {
        args.validate()?;
        if let Some(known) = self.known(caller, &args.key) {
            let differs = [
                ("ledger", known.ledger != args.ledger),
                ("to", known.to != args.to),
                ("amount", known.amount != args.amount),
                ("memo", known.memo != args.memo),
            ];
            return match differs.iter().find(|(_, differs)| *differs) {
                None => Ok(known),
                Some((field, _)) => {
                    Err(AgentError::KeyReused { key: args.key, job_id: known.id, field: (*field).to_owned() })
                }
            };
        }
        let ledger = self.ledger(args.ledger)?;
        let awaits = !by_owner && total(args.amount, ledger.fee)? > ledger.limits.approval_above;
        let state = if awaits { PaymentState::AwaitingApproval } else { PaymentState::Ready };
        let mut entry = self.new_entry(PaymentKind::Payment, caller, args, ledger.fee, state, now_ns)?;
        if awaits {
            // What can never be approved is refused at once.
            within("per_payment", total(entry.record.amount, ledger.fee)?, ledger.limits.per_payment)?;
        } else {
            self.spend(&mut entry, now_ns)?;
        }
        Ok(self.insert(entry))
    }

    /// Enters a withdrawal to the owner, who has no limits, or finds the one that the same key made before.
    ///
    /// # Errors
    /// [`AgentError::InvalidField`], [`AgentError::UnknownLedger`], [`AgentError::TooManyPayments`].
    pub fn withdraw(
        &mut self,
        owner: Principal,
        ledger: Principal,
        (to, amount, key): (Account, u128, String),
        now_ns: u64,
    ) -> Result<PaymentRecord, AgentError> {
        let args = PayArgs { ledger, to, amount, key, memo: None, purpose: "withdrawal".to_owned() };
        args.validate()?;
        if let Some(known) = self.known(owner, &args.key) {
            return Ok(known);
        }
        let fee = self.ledger(ledger)?.fee;
        let entry = self.new_entry(PaymentKind::Withdrawal, owner, args, fee, PaymentState::Ready, now_ns)?;
        Ok(self.insert(entry))
    }

    /// The payment that the same caller and key made before.
    pub fn known(&self, caller: Principal, key: &str) -> Option<PaymentRecord> {
        self.get(self.keys.get(&stored_key(caller, key))?).ok()
    }

    /// The owner's decision on a payment that waits for it. One that does not wait stays as it is.
    ///
    /// # Errors
    /// [`AgentError::UnknownPayment`], [`AgentError::LimitExceeded`].
    pub fn decide(
        &mut self,
        id: PaymentId,
        approves: bool,
        now_ns: u64,
    ) -> Result<PaymentRecord, AgentError> {
        let mut entry = self.entry(id)?;
        if entry.record.state != PaymentState::AwaitingApproval {
            return Ok(entry.record);
        }
        if approves {
            entry.record.fee = self.ledger(entry.record.ledger)?.fee;
            self.spend(&mut entry, now_ns)?;
            entry.record.state = PaymentState::Ready;
        } else {
            entry.record.state = PaymentState::Rejected;
        }
        Ok(self.put(entry, now_ns))
    }

    /// Rejects what has not been submitted of a ledger's payments, and names the others that have not ended.
    pub fn wind_up(&mut self, ledger: Principal, now_ns: u64) -> Vec<PaymentId> {
        let mut under_way = Vec::new();
        for id in self.open_at(ledger) {
            let Ok(mut entry) = self.entry(id) else { continue };
            if entry.record.created_at_ns.is_none() {
                self.unspend(&mut entry);
                entry.record.state = PaymentState::Rejected;
                self.put(entry, now_ns);
            } else {
                under_way.push(id);
            }
        }
        under_way
    }

    /// The payments to submit now, those in `in_flight` not among them.
    pub fn next(&self, in_flight: impl Fn(PaymentId) -> bool, now_ns: u64) -> Vec<PaymentId> {
        let due = |id: &PaymentId| {
            self.entry(*id).is_ok_and(|entry| {
                entry.record.state != PaymentState::AwaitingApproval && entry.not_before_ns <= now_ns
            })
        };
        self.open.keys().filter(|id| !in_flight(*id)).filter(due).collect()
    }

    /// Whether a payment is to be submitted, now or later.
    pub fn is_busy(&self) -> bool {
        let awaits = |id| self.get(id).is_ok_and(|record| record.state == PaymentState::AwaitingApproval);
        self.open.keys().any(|id| !awaits(id))
    }

    /// Journals that a payment is about to be submitted; returns it as it is to be submitted, or `None` when it must not be any more.
    /// For who knows that no submission of it is under way: one that was begun and not answered is lost.
    ///
    /// # Errors
    /// [`AgentError::UnknownPayment`].
    pub fn begun(&mut self, id: PaymentId, now_ns: u64) -> Result<Option<PaymentRecord>, AgentError> {
        let mut entry = self.entry(id)?;
        match entry.record.state {
            PaymentState::Submitted => entry.doubtful = true,
            PaymentState::Ready => {}
            _ => return Ok(None),
        }
        let created_at_ns = *entry.record.created_at_ns.get_or_insert(now_ns);
        if now_ns >= created_at_ns.saturating_add(WINDOW_NS) {
            let reason = "answers were lost for a day".to_owned();
            if entry.doubtful {
                entry.record.state = PaymentState::Unknown { reason };
            } else {
                self.unspend(&mut entry);
                entry.record.state =
                    PaymentState::Failed { reason: "the ledger was not reached for a day".to_owned() };
            }
            self.put(entry, now_ns);
            return Ok(None);
        }
        entry.record.state = PaymentState::Submitted;
        entry.record.attempts += 1;
        Ok(Some(self.put(entry, now_ns)))
    }

    /// Takes in what came of a submission.
    ///
    /// # Errors
    /// [`AgentError::UnknownPayment`].
    pub fn answered(
        &mut self,
        id: PaymentId,
        answer: Answer,
        now_ns: u64,
    ) -> Result<PaymentRecord, AgentError> {
        let mut entry = self.entry(id)?;
        if entry.record.state != PaymentState::Submitted {
            return Ok(entry.record);
        }
        let attempts = entry.record.attempts;
        let later = now_ns.saturating_add((BACKOFF_NS << attempts.min(16)).min(MAX_BACKOFF_NS));
        match answer {
            Answer::Done(block) => entry.record.state = PaymentState::Done { block },
            Answer::Lost(_) => {
                entry.doubtful = true;
                entry.not_before_ns = later;
            }
            Answer::NotNow(reason) | Answer::NotSent(reason)
                if attempts >= MAX_ATTEMPTS && !entry.doubtful =>
            {
                self.unspend(&mut entry);
                entry.record.state = PaymentState::Failed { reason };
            }
            Answer::NotNow(_) | Answer::NotSent(_) => {
                if !entry.doubtful {
                    // Nothing was executed: what was heard is no reason to wait for the same repetition.
                    entry.record.state = PaymentState::Ready;
                }
                entry.not_before_ns = later;
            }
            Answer::BadFee(_) | Answer::Refused(_) if entry.doubtful => {
                // An earlier submission may be why it is refused now: it stays unknown, and is not submitted any more.
                let reason = match answer {
                    Answer::Refused(reason) => reason,
                    _ => "the ledger's fee has changed".to_owned(),
                };
                entry.record.state = PaymentState::Unknown { reason };
            }
            Answer::BadFee(fee) => {
                self.unspend(&mut entry);
                if let Ok(ledger) = self.ledger(entry.record.ledger) {
                    self.ledgers.insert(ledger.ledger, Cbor(WalletLedger { fee, ..ledger }));
                }
                let reason = format!("the ledger's fee is {fee}, not {}", entry.record.fee);
                entry.record.state = PaymentState::Failed { reason };
            }
            Answer::Refused(reason) => {
                self.unspend(&mut entry);
                entry.record.state = PaymentState::Failed { reason };
            }
        }
        Ok(self.put(entry, now_ns))
    }

    /// A payment.
    ///
    /// # Errors
    /// [`AgentError::UnknownPayment`].
    pub fn get(&self, id: PaymentId) -> Result<PaymentRecord, AgentError> {
        Ok(self.entry(id)?.record)
    }

    /// A page of the payments.
    pub fn list(&self, args: &ListPaymentsArgs) -> PaymentPage {
        let first = args.after.map_or(0, |after| after.saturating_add(1));
        let rest = self.payments.range(first..).map(|entry| entry.value().0.record);
        let (payments, next) = paging::page(rest, args.limit, |payment| payment.id);
        PaymentPage { payments, next }
    }

    fn entry(&self, id: PaymentId) -> Result<Entry, AgentError> {
        let entry = self.payments.get(&id);
        entry.map(|entry| entry.0).ok_or(AgentError::UnknownPayment { payment: id })
    }

    fn open_at(&self, ledger: Principal) -> Vec<PaymentId> {
        let at = |id: &PaymentId| self.get(*id).is_ok_and(|record| record.ledger == ledger);
        self.open.keys().filter(at).collect()
    }

    fn new_entry(
        &self,
        kind: PaymentKind,
        caller: Principal,
        args: PayArgs,
        fee: u128,
        state: PaymentState,
        now_ns: u64,
    ) -> Result<Entry, AgentError> {
        if self.open_payments() >= MAX_OPEN_PAYMENTS {
            return Err(AgentError::TooManyPayments { payments: self.open_payments() });
        }
        let record = PaymentRecord {
            id: self.head.get().0.last + 1,
            kind,
            caller,
            key: args.key,
            ledger: args.ledger,
            to: args.to,
            amount: args.amount,
            fee,
            memo: args.memo,
            purpose: args.purpose,
            state,
            attempts: 0,
            requested_at_ns: now_ns,
            created_at_ns: None,
            ended_at_ns: None,
        };
        Ok(Entry { record, doubtful: false, not_before_ns: 0, day: None })
    }

    /// Stores a new payment under its number.
    fn insert(&mut self, entry: Entry) -> PaymentRecord {
        let record = entry.record.clone();
        self.head.set(Cbor(Head { last: record.id, ..self.head.get().0.clone() }));
        self.keys.insert(stored_key(record.caller, &record.key), record.id);
        self.open.insert(record.id, ());
        self.payments.insert(record.id, Cbor(entry));
        while self.payments.len() > MAX_STORED_PAYMENTS {
            let ended = self.payments.values().map(|entry| entry.0.record).find(|it| it.state.is_final());
            let Some(ended) = ended else { break };
            self.payments.remove(&ended.id);
            self.keys.remove(&stored_key(ended.caller, &ended.key));
        }
        record
    }

    fn put(&mut self, mut entry: Entry, now_ns: u64) -> PaymentRecord {
        if entry.record.state.is_final() {
            entry.record.ended_at_ns = Some(now_ns);
            self.open.remove(&entry.record.id);
        }
        let record = entry.record.clone();
        self.payments.insert(record.id, Cbor(entry));
        record
    }

    /// Counts a payment as spent today.
    fn spend(&mut self, entry: &mut Entry, now_ns: u64) -> Result<(), AgentError> {
        let mut ledger = self.ledger(entry.record.ledger)?;
        let total = total(entry.record.amount, entry.record.fee)?;
        let today = now_ns / DAY_NS;
        // A clock that goes back does not begin a new day.
        if today > ledger.day {
            (ledger.day, ledger.spent) = (today, 0);
        }
        within("per_payment", total, ledger.limits.per_payment)?;
        within("per_day", total, ledger.limits.per_day.saturating_sub(ledger.spent))?;
        ledger.spent = ledger.spent.saturating_add(total);
        entry.day = Some(ledger.day);
        self.ledgers.insert(ledger.ledger, Cbor(ledger));
        Ok(())
    }

    /// Counts a payment as not spent: it was certainly not executed.
    fn unspend(&mut self, entry: &mut Entry) {
        let Some(day) = entry.day.take() else { return };
        if let Ok(mut ledger) = self.ledger(entry.record.ledger)
            && ledger.day == day
        {
            ledger.spent = ledger.spent.saturating_sub(entry.record.amount.saturating_add(entry.record.fee));
            self.ledgers.insert(ledger.ledger, Cbor(ledger));
        }
    }
}

fn total(amount: u128, fee: u128) -> Result<u128, AgentError> {
    let too_large = || AgentError::InvalidField(FieldError::new("amount", "is too large"));
    amount.checked_add(fee).ok_or_else(too_large)
}

fn within(limit: &str, requested: u128, available: u128) -> Result<(), AgentError> {
    if requested > available {
        return Err(AgentError::LimitExceeded { limit: limit.to_owned(), requested, available });
    }
    Ok(())
}

/// Keys belong to their callers: a principal's text has no space in it.
fn stored_key(caller: Principal, key: &str) -> String {
    debug_assert!(key.len() <= MAX_KEY_BYTES, "keys are checked before");
    format!("{caller} {key}")
}

#[cfg(test)]
#[path = "wallet_tests.rs"]
mod tests;
