//! Settlement as part of the economy: who asks, which ledgers there are, and the transfers by which tokens enter and leave.

use candid::Principal;
use icrc_ledger_types::icrc1::account::Account as LedgerAccount;
use shared_types::Digest;
use shared_types::econ::settlement::{
    DisputeArgs, Escrow, EscrowId, OpenEscrowArgs, OpenWalletArgs, Wallet, WalletId, WithdrawArgs,
    settlement_subaccount, wallet_subaccount,
};
use shared_types::econ::{EconError, LedgerInfo};

use crate::economy::Economy;
use crate::events::{EventKind, Purpose, TransferId};
use crate::settlement::{Actor, Decision, SettlementEvent};
use crate::transfers::{Answer, Order, Refusal, Source};

impl Economy {
    /// The caller, and whether governance speaks.
    pub fn actor(&self, principal: Principal) -> Actor {
        Actor { principal, admin: self.is_admin(principal) }
    }

    /// `open_wallet`.
    ///
    /// # Errors
    /// [`EconError::UnknownLedger`], and those of [`crate::settlement::Settlement::open_wallet`].
    pub fn open_wallet(
        &mut self,
        caller: Principal,
        args: &OpenWalletArgs,
        now_ns: u64,
    ) -> Result<Wallet, EconError> {
        self.ledger(args.wallet.ledger)?;
        let owns = self.agents.contains_key(&(caller, args.wallet.holder));
        let event = self.settlement.open_wallet(self.actor(caller), owns, args)?;
        self.record(now_ns, EventKind::Settlement(event));
        self.settlement.wallet(args.wallet)
    }

    /// `open_escrow`.
    ///
    /// # Errors
    /// Those of [`crate::settlement::Settlement::open_escrow`].
    pub fn open_escrow(
        &mut self,
        caller: Principal,
        args: &OpenEscrowArgs,
        now_ns: u64,
    ) -> Result<Escrow, EconError> {
        let fee_bp = self.settings().config.escrow_fee_bp;
        let decision = self.settlement.open_escrow(self.actor(caller), args, fee_bp, now_ns)?;
        let id = self.decided(decision, now_ns);
        self.settlement.escrow(id)
    }

    /// `release_escrow`.
    ///
    /// # Errors
    /// Those of [`crate::settlement::Settlement::release`].
    pub fn release_escrow(
        &mut self,
        caller: Principal,
        id: EscrowId,
        now_ns: u64,
    ) -> Result<Escrow, EconError> {
        let decision = self.settlement.release(self.actor(caller), id)?;
        self.decided(decision, now_ns);
        self.settlement.escrow(id)
    }

    /// `refund_escrow`.
    ///
    /// # Errors
    /// Those of [`crate::settlement::Settlement::refund`].
    pub fn refund_escrow(
        &mut self,
        caller: Principal,
        id: EscrowId,
        now_ns: u64,
    ) -> Result<Escrow, EconError> {
        let decision = self.settlement.refund(self.actor(caller), id)?;
        self.decided(decision, now_ns);
        self.settlement.escrow(id)
    }

    /// `dispute_escrow`.
    ///
    /// # Errors
    /// Those of [`crate::settlement::Settlement::dispute`].
    pub fn dispute_escrow(
        &mut self,
        caller: Principal,
        args: &DisputeArgs,
        now_ns: u64,
    ) -> Result<Escrow, EconError> {
        let decision = self.settlement.dispute(self.actor(caller), args, now_ns)?;
        self.decided(decision, now_ns);
        self.settlement.escrow(args.escrow)
    }

    /// Records what was decided; the number of what was opened or is known.
    fn decided(&mut self, decision: Decision, now_ns: u64) -> u64 {
        match decision {
            Decision::Known(id) => id,
            Decision::Event(event) => {
                self.record(now_ns, EventKind::Settlement(event));
                self.settlement.last_id()
            }
        }
    }

    /// Plans the transfer of `balance` from a wallet's subaccount, unless one is on its way or the balance would not cover
    /// the ledger's fee; the transfer, if there is a new one.
    ///
    /// # Errors
    /// Those of [`crate::settlement::Settlement::deposit`].
    pub fn begin_deposit(
        &mut self,
        caller: Principal,
        wallet: WalletId,
        balance: u128,
        now_ns: u64,
    ) -> Result<Option<TransferId>, EconError> {
        let fee = self.ledger(wallet.ledger)?.fee;
        let amount = balance.saturating_sub(fee);
        let event = self.settlement.deposit(self.actor(caller), wallet, amount)?;
        let Some(event) = event.filter(|_| amount > 0) else { return Ok(None) };
        // No two deposits have the same memo: the log only grows.
        let memo = memo_of("deposit", wallet, self.events_len());
        self.record(now_ns, EventKind::Settlement(event));
        let order = Order {
            ledger: wallet.ledger,
            source: Source::Own { subaccount: Some(wallet_subaccount(wallet.holder)) },
            to: self.pool(),
            amount,
            fee,
            memo,
        };
        self.record(now_ns, EventKind::TransferPlanned { purpose: Purpose::Deposit(wallet), order });
        Ok(Some(self.numbers.get().0.transfer))
    }

    /// Takes what is withdrawn out of the wallet and plans the transfer; the withdrawal, and the transfer if it is new.
    ///
    /// # Errors
    /// Those of [`crate::settlement::Settlement::withdraw`].
    pub fn begin_withdrawal(
        &mut self,
        caller: Principal,
        args: &WithdrawArgs,
        now_ns: u64,
    ) -> Result<(u64, Option<TransferId>), EconError> {
        let fee = self.ledger(args.wallet.ledger)?.fee;
        match self.settlement.withdraw(self.actor(caller), args, fee)? {
            Decision::Known(id) => Ok((id, None)),
            Decision::Event(event) => {
                self.record(now_ns, EventKind::Settlement(event));
                let id = self.settlement.last_id();
                let order = Order {
                    ledger: args.wallet.ledger,
                    source: Source::Own { subaccount: Some(settlement_subaccount()) },
                    to: args.to,
                    amount: args.amount,
                    fee,
                    memo: memo_of("withdrawal", args.wallet, id),
                };
                self.record(now_ns, EventKind::TransferPlanned { purpose: Purpose::Withdrawal(id), order });
                Ok((id, Some(self.numbers.get().0.transfer)))
            }
        }
    }

    /// What an answer means for a purpose: a wallet has paid the fee that the ledger had, so a transfer at another fee is not
    /// made; the next one knows the new fee.
    pub(crate) fn answer_for(
        &mut self,
        purpose: Purpose,
        ledger: Principal,
        answer: Answer,
        now_ns: u64,
    ) -> Answer {
        match (purpose, answer) {
            (Purpose::Deposit(_) | Purpose::Withdrawal(_), Answer::Refused(Refusal::BadFee { expected })) => {
                if let Ok(info) = self.ledger(ledger).cloned() {
                    self.record(now_ns, EventKind::LedgerSet(LedgerInfo { fee: expected, ..info }));
                }
                Answer::Refused(Refusal::Final(format!("the ledger's fee is {expected} now")))
            }
            (_, answer) => answer,
        }
    }

    /// Hears that a transfer for a wallet is executed.
    pub(crate) fn wallet_transfer_done(&mut self, purpose: Purpose, amount: u128, block: u64, now_ns: u64) {
        let event = match purpose {
            Purpose::Deposit(wallet) => SettlementEvent::Credited { wallet, amount },
            Purpose::Withdrawal(withdrawal) => SettlementEvent::WithdrawalDone { withdrawal, block },
            Purpose::Charge(_) | Purpose::Refund(_) => return,
        };
        self.record(now_ns, EventKind::Settlement(event));
    }

    /// Hears that a transfer for a wallet is certainly not executed.
    pub(crate) fn wallet_transfer_failed(&mut self, purpose: Purpose, reason: String, now_ns: u64) {
        let event = match purpose {
            Purpose::Deposit(wallet) => SettlementEvent::DepositFailed { wallet, reason },
            Purpose::Withdrawal(withdrawal) => SettlementEvent::WithdrawalFailed { withdrawal, reason },
            Purpose::Charge(_) | Purpose::Refund(_) => return,
        };
        self.record(now_ns, EventKind::Settlement(event));
    }

    /// Deadlines of escrows, ends of disputes, records to forget: at most `limit` of what is due.
    pub fn sweep_settlement(&mut self, now_ns: u64, limit: usize) {
        for event in self.settlement.due(now_ns, limit) {
            self.record(now_ns, EventKind::Settlement(event));
        }
    }

    /// The account that has the tokens of all wallets and escrows.
    pub fn pool(&self) -> LedgerAccount {
        LedgerAccount { subaccount: Some(settlement_subaccount()), ..self.treasury() }
    }

    /// The account to which tokens for a wallet are sent.
    pub fn deposit_account(&self, holder: Principal) -> LedgerAccount {
        LedgerAccount { subaccount: Some(wallet_subaccount(holder)), ..self.treasury() }
    }
}

/// The memo of a transfer: what it is for, of which wallet, and a number that is used once.
fn memo_of(what: &str, wallet: WalletId, number: u64) -> Digest {
    let parts = [what.as_bytes(), wallet.ledger.as_slice(), wallet.holder.as_slice(), &number.to_be_bytes()];
    let bytes: Vec<u8> = parts.iter().flat_map(|part| [&[part.len() as u8], *part].concat()).collect();
    Digest::of(&bytes)
}
