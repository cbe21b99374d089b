//! Wallets and escrows on the econ canister's and the ledger's real Wasm.

use candid::{CandidType, Principal};
use ohms_tests::ledger::{FEE, Ledger};
use ohms_tests::network::{Network, admin, owner, stranger, uploader};
use ohms_tests::wasm::Canister;
use serde::de::DeserializeOwned;
use shared_types::econ::settlement::EscrowPage;
use shared_types::econ::settlement::{
    DepositState, Escrow, EscrowPurpose, EscrowState, ListEscrowsArgs, OpenEscrowArgs, OpenWalletArgs,
    RefundReason, SettlementTotals, SpendingLimits, Wallet, WalletId, WithdrawArgs, Withdrawal,
    WithdrawalState,
};
use shared_types::econ::{
    Account, BlockLog, Currency, DAY_NS, EconConfig, EconError, EconInitArgs, LedgerArgs, LedgerInfo,
};
use std::time::Duration;
use test_doubles::faults::{Fault, FaultRule, Moment, When};

struct Market<'a> {
    network: &'a Network,
    ledger: Ledger<'a>,
    econ: Principal,
}

impl<'a> Market<'a> {
    /// A market in which the owner and the stranger have wallets, the owner's with a million.
    fn open(network: &'a Network) -> Self {
        let ledger = Ledger::install(network);
        let args = EconInitArgs { admins: vec![admin()], config: EconConfig::default() };
        let econ = network.install(Canister::Econ, args);
        let market = Self { network, ledger, econ };
        let args = LedgerArgs {
            canister: ledger.id,
            currency: Currency::Dollar,
            block_log: BlockLog::Icrc3,
            enabled: true,
        };
        let _: LedgerInfo = market.granted(admin(), "set_ledger", args);
        for holder in [owner(), stranger()] {
            let args = OpenWalletArgs { wallet: market.wallet_of(holder), limits: SpendingLimits::default() };
            let _: Wallet = market.granted(holder, "open_wallet", args);
        }
        ledger.mint(market.deposit_account(owner()), 1_000_000 + FEE);
        let wallet: Wallet = market.granted(owner(), "deposit", market.wallet_of(owner()));
        assert_eq!((wallet.balance, wallet.deposit), (1_000_000, None));
        market
    }

    fn wallet_of(&self, holder: Principal) -> WalletId {
        WalletId { ledger: self.ledger.id, holder }
    }

    fn deposit_account(&self, holder: Principal) -> Account {
        self.network.query(holder, self.econ, "deposit_account", (holder,))
    }

    fn ask<R: CandidType + DeserializeOwned>(
        &self,
        caller: Principal,
        method: &str,
        args: impl CandidType,
    ) -> Result<R, EconError> {
        let answer = self.network.update_patiently(caller, self.econ, method, (args,));
        answer.unwrap_or_else(|reject| panic!("{method}: {reject:?}"))
    }

    fn granted<R: CandidType + DeserializeOwned>(
        &self,
        caller: Principal,
        method: &str,
        args: impl CandidType,
    ) -> R {
        self.ask(caller, method, args).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn balance(&self, holder: Principal) -> u128 {
        let wallet: Result<Wallet, EconError> =
            self.network.query(admin(), self.econ, "wallet", (self.wallet_of(holder),));
        wallet.expect("the admin may read").balance
    }

    fn escrow(&self, key: &str, amount: u128, days: u64) -> OpenEscrowArgs {
        let deadline_ns = self.network.pic.get_time().as_nanos_since_unix_epoch() + days * DAY_NS;
        let purpose = EscrowPurpose::Job { job: "a tale".to_owned(), deadline_ns };
        OpenEscrowArgs {
            payer: self.wallet_of(owner()),
            payee: stranger(),
            amount,
            purpose,
            key: key.to_owned(),
        }
    }

    /// The canister's books, which are balanced and agree with the ledger.
    fn totals(&self) -> SettlementTotals {
        let totals: SettlementTotals =
            self.network.query(admin(), self.econ, "settlement_totals", (self.ledger.id,));
        assert!(totals.is_balanced(), "{totals:?}");
        totals
    }

    /// INV-E21 against the ledger: what wallets and escrows have is on the pool's account.
    fn check_against_the_ledger(&self) {
        let pool = Account {
            owner: self.econ,
            subaccount: Some(shared_types::econ::settlement::settlement_subaccount()),
        };
        let totals = self.totals();
        assert_eq!(totals.withdrawing, 0);
        assert_eq!(
            u128::from(self.ledger.balance(pool)),
            totals.in_wallets + totals.in_escrows,
            "{totals:?}"
        );
        self.ledger.validate();
    }
}

#[test]
fn a_job_is_paid_when_it_is_done_and_not_otherwise() {
    let network = Network::new();
    let market = Market::open(&network);
    let done: Escrow = market.granted(owner(), "open_escrow", market.escrow("done", 100_050, 1));
    let late: Escrow = market.granted(owner(), "open_escrow", market.escrow("late", 200_000, 2));
    assert_eq!((market.balance(owner()), done.fee), (699_950, 1_000));
    let refused: Result<Escrow, _> = market.ask(stranger(), "release_escrow", done.id);
    assert_eq!(refused, Err(EconError::Unauthorized));
    let refused: Result<Escrow, _> = market.ask(uploader(), "refund_escrow", done.id);
    assert!(
        matches!(refused, Err(EconError::UnknownEscrow { .. })),
        "a third party sees nothing: {refused:?}"
    );
    for _ in 0..2 {
        let released: Escrow = market.granted(owner(), "release_escrow", done.id);
        assert!(matches!(released.state, EscrowState::Released { .. }));
    }
    assert_eq!(market.balance(stranger()), 99_050);
    // An upgrade in between changes nothing; then the deadline passes.
    network.upgrade(market.econ, Canister::Econ);
    network.pic.advance_time(Duration::from_nanos(2 * DAY_NS));
    network.wait_for("the refund", || {
        let escrow: Result<Escrow, EconError> = network.query(owner(), market.econ, "escrow", (late.id,));
        let state = escrow.expect("the payer may read").state;
        matches!(state, EscrowState::Refunded { reason: RefundReason::Timeout, .. }).then_some(())
    });
    assert_eq!(market.balance(owner()), 899_950);
    let page: Result<EscrowPage, EconError> = network.query(
        owner(),
        market.econ,
        "escrows",
        (ListEscrowsArgs { payer: market.wallet_of(owner()), after: None, limit: 10 },),
    );
    assert_eq!(page.map(|page| page.escrows.len()), Ok(2));
    market.check_against_the_ledger();

    // The owner's limits bind.
    let limits = SpendingLimits { per_transfer: Some(50_000), per_day: Some(60_000) };
    let args = OpenWalletArgs { wallet: market.wallet_of(owner()), limits };
    let _: Wallet = market.granted(owner(), "open_wallet", args);
    let too_much: Result<Escrow, _> = market.ask(owner(), "open_escrow", market.escrow("large", 50_001, 1));
    assert!(matches!(too_much, Err(EconError::SpendingLimit { .. })), "{too_much:?}");
    let transfer =
        OpenEscrowArgs { purpose: EscrowPurpose::Transfer, ..market.escrow("transfer", 50_000, 1) };
    let made: Escrow = market.granted(owner(), "open_escrow", transfer.clone());
    assert_eq!(market.granted::<Escrow>(owner(), "open_escrow", transfer), made, "the same key");
    assert_eq!(market.balance(stranger()), 149_050);
    let again: Result<Escrow, _> = market.ask(owner(), "open_escrow", market.escrow("more", 10_001, 1));
    assert!(matches!(again, Err(EconError::SpendingLimit { .. })), "{again:?}");
    market.check_against_the_ledger();
}

/// Withdraws 300,000 while the ledger's transfers follow a rule; afterwards everything must be in its place.
fn withdraw_under(fault: Fault, moment: Moment) {
    let network = Network::new();
    let market = Market::open(&network);
    let method = Some("icrc1_transfer".to_owned());
    market.ledger.set_faults(vec![FaultRule { method, when: When::Nth(0), moment, fault }]);
    let args = WithdrawArgs {
        wallet: market.wallet_of(owner()),
        to: owner().into(),
        amount: 300_000,
        key: "rent".to_owned(),
    };
    let first: Withdrawal = market.granted(owner(), "withdraw", args.clone());
    market.ledger.release();
    let ended = network.wait_patiently("the end of the withdrawal", || {
        let withdrawal: Withdrawal = market.granted(owner(), "withdraw", args.clone());
        assert_eq!(withdrawal.id, first.id, "the same key");
        (withdrawal.state != WithdrawalState::Pending).then_some(withdrawal)
    });
    let what = format!("{fault:?} {moment:?}: {ended:?}");
    let arrived = market.ledger.balance(owner());
    match ended.state {
        WithdrawalState::Done { .. } => {
            assert_eq!((market.balance(owner()), arrived), (700_000 - u128::from(FEE), 300_000), "{what}");
        }
        _ => assert_eq!((market.balance(owner()), arrived), (1_000_000, 0), "{what}"),
    }
    assert_eq!(market.ledger.injected().len(), 1, "{what}");
    market.check_against_the_ledger();
}

/// INV-E21, whatever the ledger answers.
#[test]
fn a_withdrawal_happens_once_or_not_at_all() {
    for moment in [Moment::BeforeEffect, Moment::AfterEffect] {
        for fault in
            [Fault::Reject, Fault::Trap, Fault::Unavailable, Fault::Late(90_000_000_000), Fault::Never]
        {
            // A ledger that says "not now" and did it anyway lies: nothing could be known from its answers.
            if (fault, moment) != (Fault::Unavailable, Moment::AfterEffect) {
                withdraw_under(fault, moment);
            }
        }
    }
}

#[test]
fn a_fee_that_changed_costs_nobody_anything() {
    let network = Network::new();
    let market = Market::open(&network);
    market.ledger.set_fee(3 * FEE);
    let args = |key: &str| WithdrawArgs {
        wallet: market.wallet_of(owner()),
        to: owner().into(),
        amount: 300_000,
        key: key.to_owned(),
    };
    let failed: Withdrawal = market.granted(owner(), "withdraw", args("first"));
    assert!(matches!(failed.state, WithdrawalState::Failed { .. }), "{failed:?}");
    assert_eq!(market.balance(owner()), 1_000_000);
    let done: Withdrawal = market.granted(owner(), "withdraw", args("second"));
    assert!(matches!(done.state, WithdrawalState::Done { .. }), "{done:?}");
    assert_eq!(market.balance(owner()), 700_000 - 3 * u128::from(FEE));
    // A deposit that the fee would eat stays where it is.
    market.ledger.mint(market.deposit_account(stranger()), 2 * FEE);
    let wallet: Wallet = market.granted(stranger(), "deposit", market.wallet_of(stranger()));
    assert!(!matches!(wallet.deposit, Some(DepositState::Pending)), "{wallet:?}");
    assert_eq!(wallet.balance, 0);
    market.check_against_the_ledger();
}
