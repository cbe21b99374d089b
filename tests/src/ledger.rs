//! A token ledger on a test network, and typed calls to it.

use candid::{Nat, Principal};
use icrc_ledger_types::icrc1::account::Account;
use icrc_ledger_types::icrc1::transfer::{TransferArg, TransferError};
use icrc_ledger_types::icrc2::allowance::{Allowance, AllowanceArgs};
use icrc_ledger_types::icrc2::approve::{ApproveArgs, ApproveError};
use icrc_ledger_types::icrc3::blocks::{BlockWithId, GetBlocksRequest, GetBlocksResult};
use test_doubles::faults::{FaultPlan, FaultRule, Injected};
use test_doubles::ledger::LedgerInitArgs;

use crate::network::{Network, admin, principal};
use crate::wasm::Canister;

/// What a transaction costs on the tests' ledgers.
pub const FEE: u64 = 10_000;

/// The account that mints and burns.
pub fn minter() -> Principal {
    principal(77)
}

/// The number; amounts in tests fit.
///
/// # Panics
/// When it does not.
pub fn number(nat: &Nat) -> u64 {
    u64::try_from(&nat.0).expect("a number of 64 bits")
}

/// A ledger of a stable token, controlled by the admin.
#[derive(Clone, Copy)]
pub struct Ledger<'a> {
    network: &'a Network,
    /// Its canister.
    pub id: Principal,
}

impl<'a> Ledger<'a> {
    /// Installs a ledger.
    pub fn install(network: &'a Network) -> Self {
        let args = LedgerInitArgs {
            name: "Test dollar".to_owned(),
            symbol: "tUSD".to_owned(),
            decimals: 6,
            fee: FEE,
            minting_account: minter().into(),
        };
        Self { network, id: network.install(Canister::Ledger, args) }
    }

    /// Puts new tokens into an account; the block.
    pub fn mint(&self, to: impl Into<Account>, amount: u64) -> u64 {
        self.network.update(admin(), self.id, "mint", (to.into(), amount))
    }

    /// Changes what a transaction costs.
    pub fn set_fee(&self, fee: u64) {
        let () = self.network.update(admin(), self.id, "set_fee", (fee,));
    }

    /// Has the blocks below number `end` in the archive.
    pub fn set_archived(&self, end: u64) {
        let () = self.network.update(admin(), self.id, "set_archived", (end,));
    }

    /// Begins to follow a plan of faults.
    pub fn set_faults(&self, rules: Vec<FaultRule>) {
        let () = self.network.update(admin(), self.id, "set_faults", (FaultPlan { seed: 0, rules },));
    }

    /// Lets the calls go on that wait without end.
    pub fn release(&self) {
        let () = self.network.update(admin(), self.id, "release", ());
    }

    /// What went wrong since the plan was set.
    pub fn injected(&self) -> Vec<Injected> {
        self.network.query(admin(), self.id, "injected", ())
    }

    /// The balance of an account.
    pub fn balance(&self, account: impl Into<Account>) -> u64 {
        let balance: Nat = self.network.query(admin(), self.id, "icrc1_balance_of", (account.into(),));
        number(&balance)
    }

    /// What `spender` may spend from `account`.
    pub fn allowance(&self, account: impl Into<Account>, spender: impl Into<Account>) -> u64 {
        let args = AllowanceArgs { account: account.into(), spender: spender.into() };
        let allowance: Allowance = self.network.query(admin(), self.id, "icrc2_allowance", (args,));
        number(&allowance.allowance)
    }

    /// Arguments of a transfer without fee, memo and time.
    pub fn transfer_args(to: impl Into<Account>, amount: u64) -> TransferArg {
        TransferArg {
            from_subaccount: None,
            to: to.into(),
            fee: None,
            created_at_time: None,
            memo: None,
            amount: amount.into(),
        }
    }

    /// `icrc1_transfer`.
    ///
    /// # Errors
    /// As the ledger says.
    pub fn transfer(&self, caller: Principal, args: TransferArg) -> Result<Nat, TransferError> {
        self.network.update(caller, self.id, "icrc1_transfer", (args,))
    }

    /// `icrc2_approve` without expiry.
    ///
    /// # Errors
    /// As the ledger says.
    pub fn approve(
        &self,
        caller: Principal,
        spender: impl Into<Account>,
        amount: u64,
    ) -> Result<Nat, ApproveError> {
        let args = ApproveArgs {
            from_subaccount: None,
            spender: spender.into(),
            amount: amount.into(),
            expected_allowance: None,
            expires_at: None,
            fee: None,
            memo: None,
            created_at_time: None,
        };
        self.network.update(caller, self.id, "icrc2_approve", (args,))
    }

    /// All blocks, those in the archive included.
    ///
    /// # Panics
    /// When the archive does not have them.
    pub fn blocks(&self) -> Vec<BlockWithId> {
        let mut blocks: Vec<BlockWithId> = Vec::new();
        loop {
            let range = GetBlocksRequest { start: blocks.len().into(), length: 1_000u32.into() };
            let page: GetBlocksResult =
                self.network.query(admin(), self.id, "icrc3_get_blocks", (vec![range],));
            let before = blocks.len();
            for archived in &page.archived_blocks {
                let callback = &archived.callback;
                let archive: GetBlocksResult = self.network.query(
                    admin(),
                    callback.canister_id,
                    &callback.method,
                    (archived.args.clone(),),
                );
                blocks.extend(archive.blocks);
            }
            // The next page begins where the archive's answer ended.
            if page.blocks.first().is_some_and(|block| block.id == blocks.len()) {
                blocks.extend(page.blocks);
            }
            if page.log_length == blocks.len() {
                return blocks;
            }
            assert!(blocks.len() > before, "the ledger says it has {} blocks", page.log_length);
        }
    }

    /// Checks the ledger against its own blocks.
    ///
    /// # Panics
    /// When it contradicts itself.
    pub fn validate(&self) {
        let valid: Result<(), String> = self.network.query(admin(), self.id, "validate_invariants", ());
        valid.expect("the ledger keeps its invariants");
    }
}
