//! The agent's wallet: payments within limits, approval, answers that are lost, and tokens that go back to the owner.

use std::time::Duration;

use candid::{CandidType, Principal};
use ohms_tests::artifact::Artifact;
use ohms_tests::ledger::{FEE, Ledger, minter};
use ohms_tests::network::{Agent, Network, owner, stranger, uploader};
use ohms_tests::wasm::Canister;
use serde::de::DeserializeOwned;
use shared_types::agent::phase::{AgentOperation, AgentPhase};
use shared_types::agent::wallet::{
    Account, ListPaymentsArgs, PayArgs, PaymentPage, PaymentRecord, PaymentState, SetLedgerArgs,
    SpendingLimits, Wallet, WalletAddress, WalletLedger, WithdrawArgs,
};
use shared_types::agent::{AgentConfig, AgentError};
use shared_types::factory::{AgentRecord, FactoryConfig, FactoryError};
use test_doubles::faults::{Fault, FaultRule, Moment, When};

const LIMITS: SpendingLimits =
    SpendingLimits { per_payment: 500_000, per_day: 1_000_000, approval_above: 100_000 };

/// An agent with tokens at a ledger.
struct Purse<'a> {
    network: &'a Network,
    agent: Principal,
    ledger: Ledger<'a>,
}

impl<'a> Purse<'a> {
    fn new(network: &'a Network, agent: Principal, tokens: u64) -> Self {
        let ledger = Ledger::install(network);
        ledger.mint(agent, tokens);
        let purse = Self { network, agent, ledger };
        let args = SetLedgerArgs { ledger: ledger.id, limits: LIMITS };
        let known: WalletLedger = purse.ask(owner(), "set_ledger", args).unwrap();
        assert_eq!((known.symbol.as_str(), known.decimals, known.fee), ("tUSD", 6, u128::from(FEE)));
        purse
    }

    fn ask<R: CandidType + DeserializeOwned>(
        &self,
        caller: Principal,
        method: &str,
        argument: impl CandidType,
    ) -> Result<R, AgentError> {
        self.network
            .update_patiently::<Result<R, AgentError>>(caller, self.agent, method, (argument,))
            .unwrap_or_else(|reject| panic!("{method}: {reject:?}"))
    }

    fn pay(&self, caller: Principal, amount: u128, key: &str) -> Result<PaymentRecord, AgentError> {
        let args = PayArgs {
            ledger: self.ledger.id,
            to: stranger().into(),
            amount,
            key: key.to_owned(),
            memo: None,
            purpose: "a tale".to_owned(),
        };
        self.ask(caller, "pay", args)
    }

    fn payments(&self) -> Vec<PaymentRecord> {
        let args = ListPaymentsArgs { after: None, limit: 100 };
        let page: Result<PaymentPage, AgentError> =
            self.network.query(owner(), self.agent, "list_payments", (args,));
        page.unwrap().payments
    }
}

fn agent(network: &Network) -> Agent<'_> {
    let repository = network.repository();
    network.agent(repository.id, Artifact::shared().id, AgentConfig::default())
}

fn is_done(record: &PaymentRecord) -> bool {
    matches!(record.state, PaymentState::Done { .. })
}

#[test]
fn payments_keep_to_the_owner_s_limits() {
    let network = Network::new();
    let purse = Purse::new(&network, agent(&network).id, 2_000_000);
    let coordinator = uploader();
    let set: Result<(), AgentError> = purse.ask(owner(), "set_coordinator", Some(coordinator));
    set.unwrap();

    let paid = purse.pay(owner(), 200_000, "a").unwrap();
    assert!(is_done(&paid), "{paid:?}");
    assert_eq!(purse.pay(owner(), 200_000, "a").unwrap(), paid, "the same key is the same payment");
    assert!(is_done(&purse.pay(coordinator, 50_000, "a").unwrap()), "little needs no approval");
    let waiting = purse.pay(coordinator, 200_000, "b").unwrap();
    assert_eq!(waiting.state, PaymentState::AwaitingApproval);
    let own: Result<PaymentRecord, AgentError> = purse.ask(coordinator, "approve_payment", waiting.id);
    assert_eq!(own, Err(AgentError::Unauthorized), "it can't approve what it asked for");
    assert!(is_done(&purse.ask(owner(), "approve_payment", waiting.id).unwrap()));
    assert_eq!(purse.ledger.balance(stranger()), 450_000);
    let refused = purse.pay(owner(), 500_000, "c");
    assert!(matches!(refused, Err(AgentError::LimitExceeded { .. })), "{refused:?}");
    assert_eq!(purse.pay(stranger(), 1, "d"), Err(AgentError::Unauthorized));

    // A pause stops payments, not the owner's withdrawal.
    let paused: Result<(), AgentError> = purse.ask(owner(), "set_phase", AgentPhase::Paused);
    paused.unwrap();
    let stopped = AgentError::WrongPhase { phase: AgentPhase::Paused, operation: AgentOperation::Pay };
    assert_eq!(purse.pay(owner(), 1, "e"), Err(stopped));
    let args =
        WithdrawArgs { ledger: purse.ledger.id, amount: None, key: "all".to_owned(), subaccount: None };
    let withdrawn: PaymentRecord = purse.ask(owner(), "withdraw", args).unwrap();
    assert!(is_done(&withdrawn), "{withdrawn:?}");
    assert_eq!((purse.ledger.balance(purse.agent), purse.ledger.balance(owner())), (0, 1_510_000));

    // Another day; what was, an upgrade keeps.
    network.upgrade(purse.agent, Canister::Agent);
    assert_eq!(purse.payments().len(), 4);
    let wallet: Result<Wallet, AgentError> = network.query(owner(), purse.agent, "wallet", ());
    let wallet = wallet.unwrap();
    assert_eq!((wallet.account, wallet.open_payments), (Account::from(purse.agent), 0));
    assert_eq!(wallet.ledgers[0].spent, 480_000);
    purse.ledger.validate();
}

#[test]
fn a_lost_answer_pays_once() {
    let network = Network::new();
    let purse = Purse::new(&network, agent(&network).id, 1_000_000);
    let lost = FaultRule {
        method: Some("icrc1_transfer".to_owned()),
        moment: Moment::AfterEffect,
        fault: Fault::Trap,
        when: When::Nth(0),
    };
    purse.ledger.set_faults(vec![lost]);
    let paid = purse.pay(owner(), 100_000, "a").unwrap();
    assert_eq!(paid.state, PaymentState::Submitted, "whether it was executed is not known");
    let done = network.wait_patiently("the payment", || {
        Some(purse.payments().remove(0)).filter(|payment| payment.state.is_final())
    });
    assert!(is_done(&done) && done.attempts == 2, "{done:?}");
    assert_eq!((purse.ledger.balance(stranger()), purse.ledger.balance(purse.agent)), (100_000, 890_000));
    purse.ledger.validate();
}

#[test]
fn deletion_sends_the_tokens_to_the_owner() {
    let network = Network::new();
    let repository = network.repository();
    let factory = network.factory(FactoryConfig::default());
    factory.upload_template(&Canister::Agent.wasm());
    let args = factory.agent_args("tale", &repository, Artifact::shared().id);
    let created: Result<AgentRecord, FactoryError> =
        network.update(owner(), factory.id, "create_agent", (args,));
    let purse = Purse::new(&network, created.unwrap().canister.unwrap(), 1_000_000);
    // Without the ledger the agent stays, and what it has.
    network.pic.stop_canister(purse.ledger.id, Some(ohms_tests::network::admin())).unwrap();
    let delete = || -> Result<(), FactoryError> {
        network.update_patiently(owner(), factory.id, "delete_agent", ("tale",)).unwrap()
    };
    let refused = delete();
    assert!(matches!(refused, Err(FactoryError::StepFailed { .. })), "{refused:?}");
    assert!(network.pic.canister_exists(purse.agent));
    network.pic.start_canister(purse.ledger.id, Some(ohms_tests::network::admin())).unwrap();
    delete().unwrap();
    assert!(!network.pic.canister_exists(purse.agent));
    assert_eq!(purse.ledger.balance(owner()), 1_000_000 - FEE);
    assert_eq!(purse.ledger.balance(minter()), 0);
}

#[test]
fn each_agent_has_an_address_of_its_own() {
    let network = Network::new();
    let repository = network.repository();
    let agents = [0, 1].map(|_| network.agent(repository.id, Artifact::shared().id, AgentConfig::default()));
    let addresses = agents.map(|agent| {
        let address: Result<WalletAddress, AgentError> =
            network.update(owner(), agent.id, "wallet_address", ());
        let address = address.unwrap();
        assert_eq!((address.public_key.len(), address.ethereum.len()), (33, 42));
        network.pic.advance_time(Duration::from_secs(1));
        let again: Result<WalletAddress, AgentError> =
            network.update(owner(), agent.id, "wallet_address", ());
        assert_eq!(again.unwrap(), address);
        address.ethereum
    });
    assert_ne!(addresses[0], addresses[1]);
}
