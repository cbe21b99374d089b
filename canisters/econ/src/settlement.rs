//! Wallets, escrows and withdrawals: what may happen to them, and what it does.
//!
//! A request is decided on without changing anything, and gives a [`SettlementEvent`]; [`Settlement::apply`] is the only place
//! where anything changes, and never fails. `shared_types::econ::settlement` says who may do what.
//!
//! - INV-E21: no money is created or lost. What entered a ledger's wallets is in wallets, in escrows, on its way out, or out.
//! - INV-E22: an escrow ends once, and the payer and payee get together what it held, less the fee.
//! - INV-E23: an agent spends no more than its owner's limits, at a time and in a day.
//! - INV-E24: one key is one escrow, transfer or withdrawal.

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::{StableBTreeMap, StableCell};
use serde::{Deserialize, Serialize};
use shared_types::econ::settlement::{
    DISPUTE_NS, DepositState, DisputeArgs, ESCROW_REMEMBERED_NS, Escrow, EscrowId, EscrowPage, EscrowPurpose,
    EscrowState, ListEscrowsArgs, MAX_ESCROWS, MAX_OPEN_ESCROWS, MAX_WALLETS, OpenEscrowArgs, OpenWalletArgs,
    RefundReason, SettlementTotals, SpendingLimits, Wallet, WalletId, WithdrawArgs, Withdrawal,
    WithdrawalState, escrow_fee,
};
use shared_types::econ::{DAY_NS, EconError, MAX_KEY_BYTES};
use shared_types::{FieldError, paging};

use crate::economy::{KeyDigest, key_digest};
use crate::memory::Memory;

/// Tokens that enter all wallets of a ledger at most, so that no sum of what is on its way overflows.
const MAX_DEPOSITED: u128 = u128::MAX / 2;

/// Escrows that a page looks at; those of other payers lie between.
const ESCROWS_LOOKED_AT: usize = 5_000;

/// Longest reason of a dispute in bytes.
const MAX_REASON_BYTES: usize = 200;

/// The holder of the wallets that get the fees. Governance owns them; nobody can call as this principal.
pub const TREASURY: Principal = Principal::management_canister();

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The caller.
    pub principal: Principal,
    /// Whether governance speaks.
    pub admin: bool,
}

/// What changed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum SettlementEvent {
    /// A wallet is this one's, or has other limits.
    WalletSet {
        /// Which.
        wallet: WalletId,
        /// Whose.
        owner: Principal,
        /// What may be spent.
        limits: SpendingLimits,
    },
    /// Tokens on a wallet's subaccount are on their way in.
    DepositBegun(WalletId),
    /// They are in.
    Credited {
        /// Which wallet.
        wallet: WalletId,
        /// How many.
        amount: u128,
    },
    /// They are still on the subaccount.
    DepositFailed {
        /// Which wallet.
        wallet: WalletId,
        /// Why.
        reason: String,
    },
    /// An escrow holds tokens; its number follows the last one's.
    EscrowOpened {
        /// As asked for.
        args: OpenEscrowArgs,
        /// What a release will cost.
        fee: u128,
    },
    /// The payee says that the job is done.
    EscrowDisputed {
        /// Which.
        escrow: EscrowId,
        /// Why.
        reason: String,
        /// When the amount goes back.
        ends_ns: u64,
    },
    /// The payee has the tokens.
    EscrowReleased(EscrowId),
    /// The payer has the tokens back.
    EscrowRefunded {
        /// Which.
        escrow: EscrowId,
        /// Why.
        reason: RefundReason,
    },
    /// Tokens are on their way out; the withdrawal's number follows the last one's.
    WithdrawalBegun {
        /// As asked for.
        args: WithdrawArgs,
        /// The ledger's fee.
        fee: u128,
    },
    /// They are out, in this block.
    WithdrawalDone {
        /// Which.
        withdrawal: u64,
        /// The block.
        block: u64,
    },
    /// They certainly are not and will not be: the wallet has them back.
    WithdrawalFailed {
        /// Which.
        withdrawal: u64,
        /// Why.
        reason: String,
    },
    /// A record of something that ended long ago is dropped.
    Forgotten {
        /// Its number.
        id: u64,
        /// When it was to be dropped.
        due_ns: u64,
    },
}

/// What a request comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It was made before: this record.
    Known(u64),
    /// This happens.
    Event(SettlementEvent),
}

/// Wallets, escrows, withdrawals.
pub struct Settlement {
    wallets: StableBTreeMap<(Principal, Principal), Cbor<Wallet>, Memory>,
    escrows: StableBTreeMap<EscrowId, Cbor<Escrow>, Memory>,
    withdrawals: StableBTreeMap<u64, Cbor<Withdrawal>, Memory>,
    /// Escrows and withdrawals by wallet and key.
    keys: StableBTreeMap<KeyDigest, u64, Memory>,
    /// What is due when: deadlines, ends of disputes, times to forget.
    agenda: StableBTreeMap<(u64, u64), (), Memory>,
    totals: StableBTreeMap<Principal, Cbor<SettlementTotals>, Memory>,
    /// Number of the last escrow or withdrawal.
    last: StableCell<u64, Memory>,
}

/// The memories of a settlement.
pub struct SettlementMemories {
    /// Wallets.
    pub wallets: Memory,
    /// Escrows.
    pub escrows: Memory,
    /// Withdrawals.
    pub withdrawals: Memory,
    /// Escrows and withdrawals by key.
    pub keys: Memory,
    /// What is due when.
    pub agenda: Memory,
    /// Sums by ledger.
    pub totals: Memory,
    /// The last number.
    pub last: Memory,
}

/// The index key of a wallet's key.
fn wallet_key(wallet: WalletId, key: &str) -> KeyDigest {
    key_digest(wallet.ledger, Some(wallet.holder), key)
}

impl Settlement {
    /// Opens what the memories hold.
    pub fn open(memories: SettlementMemories) -> Self {
        Self {
            wallets: StableBTreeMap::init(memories.wallets),
            escrows: StableBTreeMap::init(memories.escrows),
            withdrawals: StableBTreeMap::init(memories.withdrawals),
            keys: StableBTreeMap::init(memories.keys),
            agenda: StableBTreeMap::init(memories.agenda),
            totals: StableBTreeMap::init(memories.totals),
            last: StableCell::init(memories.last, 0),
        }
    }

    /// A wallet.
    ///
    /// # Errors
    /// [`EconError::UnknownWallet`].
    pub fn wallet(&self, id: WalletId) -> Result<Wallet, EconError> {
        let wallet = self.wallets.get(&(id.ledger, id.holder)).map(|wallet| wallet.0);
        wallet.ok_or(EconError::UnknownWallet { holder: id.holder })
    }

    /// A wallet, for its holder, its owner and governance.
    ///
    /// # Errors
    /// [`EconError::UnknownWallet`], [`EconError::Unauthorized`].
    pub fn readable_wallet(&self, actor: Actor, id: WalletId) -> Result<Wallet, EconError> {
        let wallet = self.wallet(id)?;
        if speaks_for(actor, &wallet) || actor.admin { Ok(wallet) } else { Err(EconError::Unauthorized) }
    }

    /// An escrow.
    ///
    /// # Errors
    /// [`EconError::UnknownEscrow`].
    pub fn escrow(&self, id: EscrowId) -> Result<Escrow, EconError> {
        self.escrows.get(&id).map(|escrow| escrow.0).ok_or(EconError::UnknownEscrow { escrow: id })
    }

    /// An escrow, for those who pay or are paid by it, and governance.
    ///
    /// # Errors
    /// [`EconError::UnknownEscrow`], also for others.
    pub fn readable_escrow(&self, actor: Actor, id: EscrowId) -> Result<Escrow, EconError> {
        let escrow = self.escrow(id)?;
        let party = self.is_payer(actor, &escrow) || self.is_payee(actor, &escrow);
        if party || actor.admin { Ok(escrow) } else { Err(EconError::UnknownEscrow { escrow: id }) }
    }

    /// A withdrawal.
    pub fn withdrawal(&self, id: u64) -> Option<Withdrawal> {
        self.withdrawals.get(&id).map(|withdrawal| withdrawal.0)
    }

    /// A page of the escrows that a wallet pays.
    ///
    /// # Errors
    /// As [`Settlement::readable_wallet`].
    pub fn list_escrows(&self, actor: Actor, args: &ListEscrowsArgs) -> Result<EscrowPage, EconError> {
        self.readable_wallet(actor, args.payer)?;
        let start = args.after.map_or(0, |after| after.saturating_add(1));
        let limit = paging::page_size(args.limit);
        let (mut escrows, mut next) = (Vec::new(), None);
        for (n, entry) in self.escrows.range(start..).enumerate() {
            if escrows.len() == limit || n == ESCROWS_LOOKED_AT {
                break;
            }
            next = Some(*entry.key());
            let escrow = entry.value().0;
            if escrow.args.payer == args.payer {
                escrows.push(escrow);
            }
        }
        let more =
            next.is_some_and(|next| self.escrows.last_key_value().is_some_and(|(last, _)| last > next));
        Ok(EscrowPage { escrows, next: next.filter(|_| more) })
    }

    /// Sums of a ledger.
    pub fn totals(&self, ledger: Principal) -> SettlementTotals {
        self.totals.get(&ledger).map(|totals| totals.0).unwrap_or_default()
    }

    /// `open_wallet`; `owns` says whether the caller has the holder as an agent.
    ///
    /// # Errors
    /// [`EconError::Unauthorized`] for a holder that is neither the caller nor his agent, or that has another owner,
    /// [`EconError::LimitReached`].
    pub fn open_wallet(
        &self,
        actor: Actor,
        owns: bool,
        args: &OpenWalletArgs,
    ) -> Result<SettlementEvent, EconError> {
        let OpenWalletArgs { wallet, limits } = *args;
        match self.wallet(wallet) {
            Ok(known) if known.owner != actor.principal => return Err(EconError::Unauthorized),
            Err(_) if !owns && wallet.holder != actor.principal => return Err(EconError::Unauthorized),
            Err(_) if self.wallets.len() >= MAX_WALLETS => {
                return Err(EconError::LimitReached { what: "wallets".to_owned(), most: MAX_WALLETS });
            }
            _ => {}
        }
        Ok(SettlementEvent::WalletSet { wallet, owner: actor.principal, limits })
    }

    /// `open_escrow`.
    ///
    /// # Errors
    /// The field that breaks a rule; [`EconError::UnknownWallet`] of payer or payee, [`EconError::Unauthorized`],
    /// [`EconError::KeyReused`], [`EconError::SpendingLimit`], [`EconError::InsufficientBalance`],
    /// [`EconError::LimitReached`].
    pub fn open_escrow(
        &self,
        actor: Actor,
        args: &OpenEscrowArgs,
        fee_bp: u32,
        now_ns: u64,
    ) -> Result<Decision, EconError> {
        let payer = self.wallet(args.payer)?;
        if !speaks_for(actor, &payer) {
            return Err(EconError::Unauthorized);
        }
        if let Some(id) = self.keys.get(&wallet_key(args.payer, &args.key)) {
            return match self.escrows.get(&id) {
                Some(Cbor(escrow)) if escrow.args == *args => Ok(Decision::Known(id)),
                _ => Err(key_reused(&args.key)),
            };
        }
        args.validate(now_ns)?;
        self.wallet(WalletId { holder: args.payee, ..args.payer })?;
        check_limits(&payer, args.amount, now_ns)?;
        check_balance(&payer, Some(args.amount))?;
        if payer.open_escrows >= MAX_OPEN_ESCROWS {
            return Err(EconError::LimitReached {
                what: "open escrows".to_owned(),
                most: MAX_OPEN_ESCROWS.into(),
            });
        }
        self.check_room()?;
        let fee = match args.purpose {
            EscrowPurpose::Job { .. } => escrow_fee(args.amount, fee_bp),
            EscrowPurpose::Transfer => 0,
        };
        Ok(Decision::Event(SettlementEvent::EscrowOpened { args: args.clone(), fee }))
    }

    /// `release_escrow`: by the payer, or governance.
    ///
    /// # Errors
    /// [`EconError::UnknownEscrow`], [`EconError::Unauthorized`], [`EconError::EscrowEnded`] when it was refunded.
    pub fn release(&self, actor: Actor, id: EscrowId) -> Result<Decision, EconError> {
        let escrow = self.readable_escrow(actor, id)?;
        if !self.is_payer(actor, &escrow) && !actor.admin {
            return Err(EconError::Unauthorized);
        }
        match escrow.state {
            EscrowState::Open | EscrowState::Disputed { .. } => {
                Ok(Decision::Event(SettlementEvent::EscrowReleased(id)))
            }
            EscrowState::Released { .. } => Ok(Decision::Known(id)),
            EscrowState::Refunded { .. } => {
                Err(EconError::EscrowEnded { escrow: id, state: "refunded".to_owned() })
            }
        }
    }

    /// `refund_escrow`: by the payee, who could not do the job, or by governance.
    ///
    /// # Errors
    /// [`EconError::UnknownEscrow`], [`EconError::Unauthorized`], [`EconError::EscrowEnded`] when it was released.
    pub fn refund(&self, actor: Actor, id: EscrowId) -> Result<Decision, EconError> {
        let escrow = self.readable_escrow(actor, id)?;
        let reason = match (self.is_payee(actor, &escrow), actor.admin) {
            (true, _) => RefundReason::Failure,
            (false, true) => RefundReason::Governance,
            (false, false) => return Err(EconError::Unauthorized),
        };
        match escrow.state {
            EscrowState::Open | EscrowState::Disputed { .. } => {
                Ok(Decision::Event(SettlementEvent::EscrowRefunded { escrow: id, reason }))
            }
            EscrowState::Refunded { .. } => Ok(Decision::Known(id)),
            EscrowState::Released { .. } => {
                Err(EconError::EscrowEnded { escrow: id, state: "released".to_owned() })
            }
        }
    }

    /// `dispute_escrow`: by the payee, before the deadline.
    ///
    /// # Errors
    /// The field that breaks a rule, [`EconError::UnknownEscrow`], [`EconError::Unauthorized`], [`EconError::EscrowEnded`],
    /// also when the deadline has passed.
    pub fn dispute(&self, actor: Actor, args: &DisputeArgs, now_ns: u64) -> Result<Decision, EconError> {
        FieldError::check_text("reason", &args.reason, MAX_REASON_BYTES)?;
        let id = args.escrow;
        let escrow = self.readable_escrow(actor, id)?;
        if !self.is_payee(actor, &escrow) {
            return Err(EconError::Unauthorized);
        }
        let ended = |state: &str| Err(EconError::EscrowEnded { escrow: id, state: state.to_owned() });
        match (&escrow.state, &escrow.args.purpose) {
            (EscrowState::Disputed { .. }, _) => Ok(Decision::Known(id)),
            (EscrowState::Open, EscrowPurpose::Job { deadline_ns, .. }) if now_ns < *deadline_ns => {
                Ok(Decision::Event(SettlementEvent::EscrowDisputed {
                    escrow: id,
                    reason: args.reason.clone(),
                    ends_ns: now_ns.saturating_add(DISPUTE_NS),
                }))
            }
            (EscrowState::Released { .. }, _) => ended("released"),
            (EscrowState::Refunded { .. }, _) => ended("refunded"),
            _ => ended("past its deadline"),
        }
    }

    /// `withdraw`: by the owner of a wallet; from the treasury by governance. `fee` is the ledger's.
    ///
    /// # Errors
    /// The field that breaks a rule, [`EconError::UnknownWallet`], [`EconError::Unauthorized`], [`EconError::KeyReused`],
    /// [`EconError::InsufficientBalance`], [`EconError::LimitReached`].
    pub fn withdraw(&self, actor: Actor, args: &WithdrawArgs, fee: u128) -> Result<Decision, EconError> {
        let wallet = self.wallet(args.wallet)?;
        let owner = if wallet.id.holder == TREASURY { actor.admin } else { wallet.owner == actor.principal };
        if !owner {
            return Err(EconError::Unauthorized);
        }
        if let Some(id) = self.keys.get(&wallet_key(args.wallet, &args.key)) {
            return match self.withdrawals.get(&id) {
                Some(Cbor(withdrawal)) if withdrawal.args == *args => Ok(Decision::Known(id)),
                _ => Err(key_reused(&args.key)),
            };
        }
        FieldError::check_text("key", &args.key, MAX_KEY_BYTES)?;
        if args.amount == 0 {
            return Err(FieldError::new("amount", "must not be 0").into());
        }
        check_balance(&wallet, args.amount.checked_add(fee))?;
        self.check_room()?;
        Ok(Decision::Event(SettlementEvent::WithdrawalBegun { args: args.clone(), fee }))
    }

    /// `deposit` of `amount`: by anybody who may read the wallet. `None` while another one is on its way.
    ///
    /// # Errors
    /// [`EconError::UnknownWallet`], [`EconError::Unauthorized`], [`EconError::LimitReached`].
    pub fn deposit(
        &self,
        actor: Actor,
        id: WalletId,
        amount: u128,
    ) -> Result<Option<SettlementEvent>, EconError> {
        let wallet = self.readable_wallet(actor, id)?;
        if self.totals(id.ledger).deposited.checked_add(amount).is_none_or(|sum| sum > MAX_DEPOSITED) {
            return Err(EconError::LimitReached { what: "tokens".to_owned(), most: u64::MAX });
        }
        let pending = wallet.deposit == Some(DepositState::Pending);
        Ok((!pending).then_some(SettlementEvent::DepositBegun(id)))
    }

    /// What happens by itself at `now_ns`, at most `limit` events: deadlines, ends of disputes, records to forget.
    pub fn due(&self, now_ns: u64, limit: usize) -> Vec<SettlementEvent> {
        let due = self.agenda.keys().take_while(|(due_ns, _)| *due_ns <= now_ns).take(limit);
        let event = |(due_ns, id): (u64, u64)| match self.escrows.get(&id) {
            Some(Cbor(escrow)) if !escrow.state.is_final() => {
                SettlementEvent::EscrowRefunded { escrow: id, reason: RefundReason::Timeout }
            }
            _ => SettlementEvent::Forgotten { id, due_ns },
        };
        due.map(event).collect()
    }

    /// When the next thing happens by itself.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.agenda.first_key_value().map(|((due_ns, _), ())| due_ns)
    }

    /// The number of the last escrow or withdrawal.
    pub fn last_id(&self) -> u64 {
        *self.last.get()
    }

    /// Does what an event says.
    pub fn apply(&mut self, event: &SettlementEvent, now_ns: u64) {
        match event {
            SettlementEvent::WalletSet { wallet, owner, limits } => {
                let new = Wallet { owner: *owner, limits: *limits, ..new_wallet(*wallet) };
                let known = self.wallet(*wallet);
                self.put_wallet(known.map_or(new, |known| Wallet {
                    owner: *owner,
                    limits: *limits,
                    ..known
                }));
            }
            SettlementEvent::Credited { wallet, amount } => {
                self.change_wallet(*wallet, |wallet| {
                    wallet.balance += amount;
                    wallet.deposit = None;
                });
                self.change_totals(wallet.ledger, |totals| {
                    totals.deposited += amount;
                    totals.in_wallets += amount;
                });
            }
            SettlementEvent::DepositBegun(wallet) => {
                self.change_wallet(*wallet, |wallet| wallet.deposit = Some(DepositState::Pending));
            }
            SettlementEvent::DepositFailed { wallet, reason } => {
                let failed = DepositState::Failed { reason: reason.clone() };
                self.change_wallet(*wallet, |wallet| wallet.deposit = Some(failed));
            }
            SettlementEvent::EscrowOpened { args, fee } => self.open_at(args, *fee, now_ns),
            SettlementEvent::EscrowDisputed { escrow, reason, ends_ns } => {
                let disputed = EscrowState::Disputed { reason: reason.clone(), ends_ns: *ends_ns };
                self.change_escrow(*escrow, disputed);
            }
            SettlementEvent::EscrowReleased(id) => {
                let Some(escrow) = self.change_escrow(*id, EscrowState::Released { time_ns: now_ns }) else {
                    return;
                };
                let Escrow { args: OpenEscrowArgs { payer, payee, amount, .. }, fee, .. } = escrow;
                self.change_wallet(payer, |wallet| wallet.open_escrows -= 1);
                self.change_wallet(WalletId { holder: payee, ..payer }, |wallet| {
                    wallet.balance += amount - fee;
                });
                if fee > 0 {
                    self.change_wallet(WalletId { holder: TREASURY, ..payer }, |wallet| {
                        wallet.balance += fee;
                    });
                }
                self.leave_escrow(payer.ledger, amount);
            }
            SettlementEvent::EscrowRefunded { escrow, reason } => {
                let refunded = EscrowState::Refunded { time_ns: now_ns, reason: *reason };
                let Some(escrow) = self.change_escrow(*escrow, refunded) else { return };
                let OpenEscrowArgs { payer, amount, .. } = escrow.args;
                self.change_wallet(payer, |wallet| {
                    wallet.open_escrows -= 1;
                    wallet.balance += amount;
                });
                self.leave_escrow(payer.ledger, amount);
            }
            SettlementEvent::WithdrawalBegun { args, fee } => {
                let id = self.next_id();
                let total = args.amount + fee;
                self.change_wallet(args.wallet, |wallet| wallet.balance -= total);
                self.change_totals(args.wallet.ledger, |totals| {
                    totals.in_wallets -= total;
                    totals.withdrawing += total;
                });
                self.keys.insert(wallet_key(args.wallet, &args.key), id);
                let state = WithdrawalState::Pending;
                let withdrawal = Withdrawal { id, args: args.clone(), fee: *fee, begun_ns: now_ns, state };
                self.withdrawals.insert(id, Cbor(withdrawal));
            }
            SettlementEvent::WithdrawalDone { withdrawal, block } => {
                let done = WithdrawalState::Done { block: *block };
                let Some((wallet, total)) = self.end_withdrawal(*withdrawal, done, now_ns) else { return };
                self.change_totals(wallet.ledger, |totals| totals.withdrawn += total);
            }
            SettlementEvent::WithdrawalFailed { withdrawal, reason } => {
                let failed = WithdrawalState::Failed { reason: reason.clone() };
                let Some((wallet, total)) = self.end_withdrawal(*withdrawal, failed, now_ns) else { return };
                self.change_wallet(wallet, |wallet| wallet.balance += total);
                self.change_totals(wallet.ledger, |totals| totals.in_wallets += total);
            }
            SettlementEvent::Forgotten { id, due_ns } => self.forget(*id, *due_ns),
        }
    }

    fn open_at(&mut self, args: &OpenEscrowArgs, fee: u128, now_ns: u64) {
        let id = self.next_id();
        self.change_wallet(args.payer, |wallet| {
            wallet.balance -= args.amount;
            wallet.open_escrows += 1;
            let day = day_of(wallet, now_ns);
            wallet.spent_in_day = spent_in(wallet, day).saturating_add(args.amount);
            wallet.day = day;
        });
        self.change_totals(args.payer.ledger, |totals| {
            totals.in_wallets -= args.amount;
            totals.in_escrows += args.amount;
        });
        self.keys.insert(wallet_key(args.payer, &args.key), id);
        let escrow = Escrow { id, args: args.clone(), opened_ns: now_ns, fee, state: EscrowState::Open };
        self.agenda.insert((due_ns(&escrow), id), ());
        self.escrows.insert(id, Cbor(escrow));
        if args.purpose == EscrowPurpose::Transfer {
            self.apply(&SettlementEvent::EscrowReleased(id), now_ns);
        }
    }

    /// Moves an escrow that has not ended to another state; `None` when there is nothing to move.
    fn change_escrow(&mut self, id: EscrowId, state: EscrowState) -> Option<Escrow> {
        let mut escrow = self.escrows.get(&id)?.0;
        if escrow.state.is_final() {
            return None;
        }
        self.agenda.remove(&(due_ns(&escrow), id));
        escrow.state = state;
        self.agenda.insert((due_ns(&escrow), id), ());
        self.escrows.insert(id, Cbor(escrow.clone()));
        Some(escrow)
    }

    fn leave_escrow(&mut self, ledger: Principal, amount: u128) {
        self.change_totals(ledger, |totals| {
            totals.in_escrows -= amount;
            totals.in_wallets += amount;
        });
    }

    /// The wallet, and what is not on its way any more.
    fn end_withdrawal(&mut self, id: u64, state: WithdrawalState, now_ns: u64) -> Option<(WalletId, u128)> {
        let mut withdrawal = self.withdrawals.get(&id)?.0;
        if withdrawal.state != WithdrawalState::Pending {
            return None;
        }
        withdrawal.state = state;
        let (wallet, total) = (withdrawal.args.wallet, withdrawal.args.amount + withdrawal.fee);
        self.change_totals(wallet.ledger, |totals| totals.withdrawing -= total);
        self.agenda.insert((now_ns.saturating_add(ESCROW_REMEMBERED_NS), id), ());
        self.withdrawals.insert(id, Cbor(withdrawal));
        Some((wallet, total))
    }

    fn forget(&mut self, id: u64, due_ns: u64) {
        self.agenda.remove(&(due_ns, id));
        if let Some(Cbor(escrow)) = self.escrows.remove(&id) {
            self.keys.remove(&wallet_key(escrow.args.payer, &escrow.args.key));
        }
        if let Some(Cbor(withdrawal)) = self.withdrawals.remove(&id) {
            self.keys.remove(&wallet_key(withdrawal.args.wallet, &withdrawal.args.key));
        }
    }

    fn next_id(&mut self) -> u64 {
        let id = self.last.get() + 1;
        self.last.set(id);
        id
    }

    fn put_wallet(&mut self, wallet: Wallet) {
        self.wallets.insert((wallet.id.ledger, wallet.id.holder), Cbor(wallet));
    }

    /// Changes a wallet; that of the treasury comes to be with its first fee.
    fn change_wallet(&mut self, id: WalletId, change: impl FnOnce(&mut Wallet)) {
        let mut wallet = self.wallet(id).unwrap_or_else(|_| new_wallet(id));
        change(&mut wallet);
        self.put_wallet(wallet);
    }

    fn change_totals(&mut self, ledger: Principal, change: impl FnOnce(&mut SettlementTotals)) {
        let mut totals = self.totals(ledger);
        change(&mut totals);
        self.totals.insert(ledger, Cbor(totals));
    }

    fn check_room(&self) -> Result<(), EconError> {
        if self.escrows.len() + self.withdrawals.len() >= MAX_ESCROWS {
            return Err(EconError::LimitReached { what: "escrows".to_owned(), most: MAX_ESCROWS });
        }
        Ok(())
    }

    fn is_payer(&self, actor: Actor, escrow: &Escrow) -> bool {
        self.wallet(escrow.args.payer).is_ok_and(|wallet| speaks_for(actor, &wallet))
    }

    fn is_payee(&self, actor: Actor, escrow: &Escrow) -> bool {
        let payee = WalletId { holder: escrow.args.payee, ..escrow.args.payer };
        self.wallet(payee).is_ok_and(|wallet| speaks_for(actor, &wallet))
    }
}

/// Whether the caller is a wallet's holder or owner.
fn speaks_for(actor: Actor, wallet: &Wallet) -> bool {
    actor.principal == wallet.id.holder || actor.principal == wallet.owner
}

fn new_wallet(id: WalletId) -> Wallet {
    Wallet {
        id,
        owner: id.holder,
        balance: 0,
        limits: SpendingLimits::default(),
        day: 0,
        spent_in_day: 0,
        open_escrows: 0,
        deposit: None,
    }
}

/// The day in which something is spent now: days don't go back, even if the clock does.
fn day_of(wallet: &Wallet, now_ns: u64) -> u64 {
    wallet.day.max(now_ns / DAY_NS)
}

fn spent_in(wallet: &Wallet, day: u64) -> u128 {
    if wallet.day == day { wallet.spent_in_day } else { 0 }
}

/// INV-E23.
fn check_limits(wallet: &Wallet, amount: u128, now_ns: u64) -> Result<(), EconError> {
    let SpendingLimits { per_transfer, per_day } = wallet.limits;
    let spent = spent_in(wallet, day_of(wallet, now_ns));
    let left = per_day.map(|limit| limit.saturating_sub(spent));
    for (limit, available) in [("per_transfer", per_transfer), ("per_day", left)] {
        if let Some(available) = available.filter(|available| *available < amount) {
            return Err(EconError::SpendingLimit { limit: limit.to_owned(), requested: amount, available });
        }
    }
    Ok(())
}

/// Checks that a wallet has an amount; `None` is more than anybody has.
fn check_balance(wallet: &Wallet, amount: Option<u128>) -> Result<(), EconError> {
    if amount.is_some_and(|amount| amount <= wallet.balance) {
        return Ok(());
    }
    let required = amount.unwrap_or(u128::MAX);
    Err(EconError::InsufficientBalance { balance: wallet.balance, required })
}

fn key_reused(key: &str) -> EconError {
    EconError::KeyReused { key: key.to_owned(), field: "argument".to_owned() }
}

/// When something happens to an escrow by itself.
fn due_ns(escrow: &Escrow) -> u64 {
    match (&escrow.state, &escrow.args.purpose) {
        (EscrowState::Open, EscrowPurpose::Job { deadline_ns, .. }) => *deadline_ns,
        (EscrowState::Open, EscrowPurpose::Transfer) => escrow.opened_ns,
        (EscrowState::Disputed { ends_ns, .. }, _) => *ends_ns,
        (EscrowState::Released { time_ns } | EscrowState::Refunded { time_ns, .. }, _) => {
            time_ns.saturating_add(ESCROW_REMEMBERED_NS)
        }
    }
}
