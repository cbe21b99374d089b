//! The tests' token ledger: the standards' answers, and its faults.

use candid::{Nat, Principal};
use icrc_ledger_types::icrc::generic_metadata_value::MetadataValue;
use icrc_ledger_types::icrc::generic_value::ICRC3Value;
use icrc_ledger_types::icrc1::account::Account;
use icrc_ledger_types::icrc1::transfer::{Memo, TransferArg, TransferError};
use icrc_ledger_types::icrc2::transfer_from::{TransferFromArgs, TransferFromError};
use icrc_ledger_types::icrc3::blocks::SupportedBlockType;
use ohms_tests::ledger::{FEE, Ledger, minter};
use ohms_tests::network::{Network, owner, stranger, uploader};
use ohms_tests::wasm::Canister;
use pocket_ic::RejectResponse;
use std::time::Duration;
use test_doubles::faults::{Fault, FaultPlan, FaultRule, Moment, When};
use token_ledger::icrc::Standard;

type Answer = Result<Nat, TransferError>;

fn now(network: &Network) -> u64 {
    network.pic.get_time().as_nanos_since_unix_epoch()
}

#[test]
fn the_standards_methods_answer() {
    let network = Network::new();
    let ledger = Ledger::install(&network);
    let ask = |method: &str| -> Vec<Standard> { network.query(owner(), ledger.id, method, ()) };
    let names = ask("icrc10_supported_standards").into_iter().map(|standard| standard.name);
    assert_eq!(names.collect::<Vec<_>>(), ["ICRC-1", "ICRC-2", "ICRC-3", "ICRC-10"]);
    assert_eq!(ask("icrc1_supported_standards"), ask("icrc10_supported_standards"));
    let metadata: Vec<(String, MetadataValue)> = network.query(owner(), ledger.id, "icrc1_metadata", ());
    assert!(metadata.contains(&("icrc1:symbol".to_owned(), MetadataValue::Text("tUSD".to_owned()))));
    let kinds: Vec<SupportedBlockType> = network.query(owner(), ledger.id, "icrc3_supported_block_types", ());
    assert_eq!(kinds.len(), 5);

    ledger.mint(owner(), 1_000_000);
    ledger.approve(owner(), uploader(), 500_000).expect("the fee is there");
    let made = now(&network);
    let args = TransferFromArgs {
        spender_subaccount: None,
        from: owner().into(),
        to: stranger().into(),
        amount: 300_000u32.into(),
        fee: Some(FEE.into()),
        memo: Some(Memo::from(vec![7; 32])),
        created_at_time: Some(made),
    };
    let spend = |args: &TransferFromArgs| -> Result<Nat, TransferFromError> {
        network.update(uploader(), ledger.id, "icrc2_transfer_from", (args.clone(),))
    };
    assert_eq!(spend(&args), Ok(2u8.into()));
    assert_eq!(spend(&args), Err(TransferFromError::Duplicate { duplicate_of: 2u8.into() }));
    let again = TransferFromArgs { memo: None, ..args.clone() };
    assert_eq!(spend(&again), Err(TransferFromError::InsufficientAllowance { allowance: 190_000u32.into() }));
    assert_eq!(ledger.allowance(owner(), uploader()), 190_000);
    assert_eq!((ledger.balance(owner()), ledger.balance(stranger())), (680_000, 300_000));
    network.pic.advance_time(Duration::from_mins(24 * 60 + 1));
    assert_eq!(spend(&args), Err(TransferFromError::TooOld));
    let early = TransferFromArgs { created_at_time: Some(now(&network) + 120_000_000_000), ..args };
    assert!(matches!(spend(&early), Err(TransferFromError::CreatedInFuture { .. })));
    let burn = TransferArg { fee: Some(0u8.into()), ..Ledger::transfer_args(minter(), 300_000) };
    assert_eq!(ledger.transfer(stranger(), burn), Ok(3u8.into()));
    ledger.set_fee(2 * FEE);
    let stated = TransferArg { fee: Some(FEE.into()), ..Ledger::transfer_args(stranger(), 1) };
    assert_eq!(
        ledger.transfer(owner(), stated),
        Err(TransferError::BadFee { expected_fee: (2 * FEE).into() })
    );

    // Blocks are the same from the ledger and from the archive, and after an upgrade.
    let blocks = ledger.blocks();
    let ICRC3Value::Map(block) = &blocks[2].block else { panic!("a block is a map") };
    let ICRC3Value::Map(tx) = &block["tx"] else { panic!("a transaction is a map") };
    assert_eq!(tx["memo"], ICRC3Value::Blob(vec![7; 32].into()));
    assert_eq!(tx["ts"], ICRC3Value::Nat(made.into()));
    for end in [1, 3, 4] {
        ledger.set_archived(end);
        assert_eq!(ledger.blocks(), blocks, "{end} in the archive");
    }
    network.upgrade(ledger.id, Canister::Ledger);
    assert_eq!(ledger.blocks(), blocks);
    ledger.validate();
}

/// A transfer of 1,000 while the ledger follows a rule: its answer, if it comes, and what the receiver got.
fn transfer_under(fault: Fault, moment: Moment) -> (Option<Result<Answer, RejectResponse>>, u64) {
    let network = Network::new();
    let ledger = Ledger::install(&network);
    ledger.mint(owner(), 1_000_000);
    let method = Some("icrc1_transfer".to_owned());
    ledger.set_faults(vec![FaultRule { method, when: When::Nth(1), moment, fault }]);
    let args = Ledger::transfer_args(stranger(), 1_000);
    ledger.transfer(owner(), args.clone()).expect("the first one is undisturbed");
    let bytes = candid::encode_one(&args).expect("encodable");
    let request = network.pic.submit_call(ledger.id, owner(), "icrc1_transfer", bytes).expect("accepted");
    let begun = now(&network);
    let mut answer = None;
    for _ in 0..20 {
        network.pic.tick();
        network.pic.advance_time(Duration::from_secs(1));
        answer = answer.or_else(|| network.pic.ingress_status(request.clone()));
        if answer.is_some() {
            break;
        }
    }
    if let Fault::Late(nanos) = fault {
        assert!(now(&network) - begun >= nanos, "it was late");
    }
    let received = ledger.balance(stranger()) - 1_000;
    assert_eq!(ledger.injected().len(), 1);
    ledger.release();
    let released = network.wait_for("the answer", || network.pic.ingress_status(request.clone()));
    assert_eq!(answer.is_none(), fault == Fault::Never, "{released:?}");
    if fault == Fault::Never {
        // The one who waited hears of it in the end.
        assert_eq!(released.is_ok(), moment == Moment::AfterEffect);
        assert_eq!(ledger.balance(stranger()) - 1_000, received);
    }
    ledger.validate();
    let decode = |bytes: Vec<u8>| candid::decode_one(&bytes).expect("an answer of the method");
    (answer.map(|answer| answer.map(decode)), received)
}

#[test]
fn faults_happen_before_or_after_the_effect() {
    for (moment, effect) in [(Moment::BeforeEffect, 0), (Moment::AfterEffect, 1_000)] {
        let (answer, received) = transfer_under(Fault::Reject, moment);
        let reject = answer.expect("an answer").expect_err("a reject");
        assert!(reject.reject_message.contains("rejected by plan"), "{reject}");
        assert_eq!(received, effect);
        let (answer, received) = transfer_under(Fault::Trap, moment);
        let reject = answer.expect("an answer").expect_err("a reject");
        assert!(reject.reject_message.contains("traps by plan"), "{reject}");
        assert_eq!(received, effect);
        let (answer, received) = transfer_under(Fault::Unavailable, moment);
        assert_eq!(answer.expect("an answer").expect("a reply"), Err(TransferError::TemporarilyUnavailable));
        assert_eq!(received, effect);
        let (answer, received) = transfer_under(Fault::Late(5_000_000_000), moment);
        assert_eq!(answer.expect("an answer").expect("a reply"), Ok(2u8.into()));
        assert_eq!(received, 1_000, "late is not never");
        let (answer, received) = transfer_under(Fault::Never, moment);
        assert!(answer.is_none());
        assert_eq!(received, effect);
    }
}

#[test]
fn only_controllers_tell_the_ledger_what_to_do() {
    let network = Network::new();
    let ledger = Ledger::install(&network);
    for caller in [stranger(), Principal::anonymous()] {
        let refused: Result<u64, _> =
            network.try_update(caller, ledger.id, "mint", (Account::from(caller), 5u64));
        assert!(refused.is_err());
        let refused: Result<(), _> =
            network.try_update(caller, ledger.id, "set_faults", (FaultPlan::default(),));
        assert!(refused.is_err());
    }
    // Queries fail when the plan says so.
    let always = |method: &str| FaultRule {
        method: Some(method.to_owned()),
        when: When::Always,
        moment: Moment::BeforeEffect,
        fault: Fault::Trap,
    };
    ledger.set_faults(vec![always("icrc1_balance_of")]);
    let balance = || -> Result<(Nat,), RejectResponse> {
        let account = Account::from(owner());
        pocket_ic::query_candid_as(&network.pic, ledger.id, owner(), "icrc1_balance_of", (account,))
    };
    assert!(balance().is_err());
    ledger.set_faults(Vec::new());
    assert_eq!(balance().expect("a reply").0, 0u8);
}
