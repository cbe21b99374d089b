//! The natively answered canisters: registry, ICP ledger, cycles minting canister and cycles ledger.

use crate::common::{Net, code, decode, user};
use candid::{CandidType, Deserialize, Nat, Principal};
use ic_management_canister_types as types;
use icrc_ledger_types::{
    icrc1::{
        account::Account,
        transfer::{TransferArg, TransferError},
    },
    icrc2::{
        allowance::{Allowance, AllowanceArgs},
        approve::{ApproveArgs, ApproveError},
        transfer_from::{TransferFromArgs, TransferFromError},
    },
};
use local_net::{
    network::{Network, SubnetKind},
    reject::{ErrorCode, Response},
    system_canisters::{AccountIdentifier, CYCLES_LEDGER, CYCLES_MINTING, GOVERNANCE, ICP_LEDGER, REGISTRY},
};
use serde_bytes::ByteBuf;

const CYCLES_FEE: u128 = 100_000_000;
const ICP_FEE: u128 = 10_000;
const CREATION_FEE: u128 = 500_000_000_000;
const TRILLION: u128 = 1_000_000_000_000;

fn net() -> Net {
    let mut net = Net::new();
    net.network.add_system_canisters();
    net
}

fn call_as(
    net: &mut Net,
    canister: Principal,
    sender: Principal,
    method: &str,
    argument: impl CandidType,
) -> Response {
    net.call_as(canister, sender, method, candid::encode_one(argument).unwrap())
}

fn ask<T: for<'a> Deserialize<'a> + CandidType>(
    net: &mut Net,
    canister: Principal,
    method: &str,
    argument: impl CandidType,
) -> T {
    decode(&net.query(canister, method, candid::encode_one(argument).unwrap()))
}

fn balance(net: &mut Net, ledger: Principal, owner: Principal) -> u128 {
    let balance: Nat = ask(net, ledger, "icrc1_balance_of", Account::from(owner));
    balance.0.try_into().unwrap()
}

fn supply(net: &mut Net, ledger: Principal) -> u128 {
    let supply: Nat = ask(net, ledger, "icrc1_total_supply", ());
    supply.0.try_into().unwrap()
}

fn to(owner: Principal, amount: u128) -> TransferArg {
    TransferArg {
        from_subaccount: None,
        to: owner.into(),
        fee: None,
        created_at_time: None,
        memo: None,
        amount: amount.into(),
    }
}

/// `icrc1_transfer` by `sender`.
fn transfer(
    net: &mut Net,
    ledger: Principal,
    sender: Principal,
    argument: TransferArg,
) -> Result<Nat, TransferError> {
    decode(&call_as(net, ledger, sender, "icrc1_transfer", argument))
}

/// Gives `owner` tokens of the anonymous user.
fn give(net: &mut Net, ledger: Principal, owner: Principal, amount: u128) {
    transfer(net, ledger, Principal::anonymous(), to(owner, amount)).unwrap();
}

#[test]
fn a_network_without_them_has_none() {
    let mut net = Net::new();
    for id in [REGISTRY, ICP_LEDGER, CYCLES_MINTING, CYCLES_LEDGER] {
        assert_eq!(code(&net.query(id, "icrc1_name", vec![])), ErrorCode::CanisterNotFound);
        assert_eq!(code(&net.call(id, "icrc1_name", vec![])), ErrorCode::CanisterNotFound);
    }
}

#[test]
fn their_ids_are_taken() {
    let args =
        |id| types::ProvisionalCreateCanisterWithCyclesArgs { specified_id: Some(id), ..Default::default() };
    for id in [REGISTRY, ICP_LEDGER, CYCLES_MINTING, CYCLES_LEDGER] {
        let taken = net().manage("provisional_create_canister_with_cycles", args(id));
        assert_eq!(code(&taken), ErrorCode::CanisterIdAlreadyExists);
        Net::new().manage("provisional_create_canister_with_cycles", args(id)).unwrap();
    }
}

#[test]
fn unknown_methods_and_arguments_are_rejected() {
    let mut net = net();
    for id in [REGISTRY, ICP_LEDGER, CYCLES_MINTING, CYCLES_LEDGER] {
        assert_eq!(code(&net.query(id, "missing", vec![])), ErrorCode::CanisterMethodNotFound);
        assert_eq!(code(&net.call(id, "missing", vec![])), ErrorCode::CanisterMethodNotFound);
    }
    assert_eq!(code(&net.query(ICP_LEDGER, "transfer", vec![])), ErrorCode::CanisterMethodNotFound);
    let nonsense = b"no candid".to_vec();
    assert_eq!(code(&net.query(ICP_LEDGER, "icrc1_balance_of", nonsense)), ErrorCode::CanisterCalledTrap);
}

#[test]
fn the_anonymous_user_has_what_pocket_ic_gives() {
    let mut net = net();
    let anonymous = Principal::anonymous();
    assert_eq!(balance(&mut net, ICP_LEDGER, anonymous), 100_000_000_000_000_000);
    assert_eq!(balance(&mut net, CYCLES_LEDGER, anonymous), 1 << 127);
    assert_eq!(balance(&mut net, ICP_LEDGER, user()), 0);
    assert_eq!(ask::<String>(&mut net, ICP_LEDGER, "icrc1_symbol", ()), "ICP");
    assert_eq!(ask::<String>(&mut net, CYCLES_LEDGER, "icrc1_symbol", ()), "TCYCLES");
    assert_eq!(ask::<u8>(&mut net, ICP_LEDGER, "icrc1_decimals", ()), 8);
    assert_eq!(ask::<Nat>(&mut net, CYCLES_LEDGER, "icrc1_fee", ()), CYCLES_FEE);
    let minter: Option<Account> = ask(&mut net, ICP_LEDGER, "icrc1_minting_account", ());
    assert_eq!(minter, Some(GOVERNANCE.into()));
}

#[test]
fn transfers_are_checked_and_cost_the_fee() {
    let mut net = net();
    give(&mut net, ICP_LEDGER, user(), 100_000);
    let before = supply(&mut net, ICP_LEDGER);
    let friend = Principal::from_slice(&[7]);
    let too_much = transfer(&mut net, ICP_LEDGER, user(), to(friend, 100_000 - ICP_FEE + 1));
    assert_eq!(too_much, Err(TransferError::InsufficientFunds { balance: 100_000u64.into() }));
    let bad_fee = TransferArg { fee: Some(1u8.into()), ..to(friend, 1) };
    let bad_fee = transfer(&mut net, ICP_LEDGER, user(), bad_fee);
    assert_eq!(bad_fee, Err(TransferError::BadFee { expected_fee: ICP_FEE.into() }));
    let huge = TransferArg { amount: Nat::parse(&[b'9'; 60]).unwrap(), ..to(friend, 0) };
    let huge = transfer(&mut net, ICP_LEDGER, user(), huge);
    assert_eq!(huge, Err(TransferError::InsufficientFunds { balance: 100_000u64.into() }));

    transfer(&mut net, ICP_LEDGER, user(), to(friend, 30_000)).unwrap();
    assert_eq!(balance(&mut net, ICP_LEDGER, user()), 100_000 - 30_000 - ICP_FEE);
    assert_eq!(balance(&mut net, ICP_LEDGER, friend), 30_000);
    assert_eq!(supply(&mut net, ICP_LEDGER), before - ICP_FEE);

    // The governance canister's account mints and burns without fee.
    transfer(&mut net, ICP_LEDGER, GOVERNANCE, to(friend, 5)).unwrap();
    assert_eq!(balance(&mut net, ICP_LEDGER, friend), 30_005);
    let small = transfer(&mut net, ICP_LEDGER, friend, to(GOVERNANCE, ICP_FEE - 1));
    assert_eq!(small, Err(TransferError::BadBurn { min_burn_amount: ICP_FEE.into() }));
    transfer(&mut net, ICP_LEDGER, friend, to(GOVERNANCE, 30_005)).unwrap();
    assert_eq!(supply(&mut net, ICP_LEDGER), before - ICP_FEE - 30_000);

    let now = net.network.time();
    let once = TransferArg { created_at_time: Some(now), ..to(friend, 1) };
    let block = transfer(&mut net, ICP_LEDGER, user(), once.clone()).unwrap();
    let again = transfer(&mut net, ICP_LEDGER, user(), once);
    assert_eq!(again, Err(TransferError::Duplicate { duplicate_of: block }));
}

#[test]
fn an_allowance_can_be_spent() {
    let mut net = net();
    let (friend, shop) = (Principal::from_slice(&[7]), Principal::from_slice(&[8]));
    give(&mut net, CYCLES_LEDGER, user(), TRILLION);
    let approval = |amount: u128| ApproveArgs {
        from_subaccount: None,
        spender: friend.into(),
        amount: amount.into(),
        expected_allowance: None,
        expires_at: None,
        fee: None,
        memo: None,
        created_at_time: None,
    };
    let approve = |net: &mut Net, args: ApproveArgs| -> Result<Nat, ApproveError> {
        decode(&call_as(net, CYCLES_LEDGER, user(), "icrc2_approve", args))
    };
    let spend = |net: &mut Net, amount: u128| -> Result<Nat, TransferFromError> {
        let args = TransferFromArgs {
            spender_subaccount: None,
            from: user().into(),
            to: shop.into(),
            amount: amount.into(),
            fee: None,
            memo: None,
            created_at_time: None,
        };
        decode(&call_as(net, CYCLES_LEDGER, friend, "icrc2_transfer_from", args))
    };
    let allowance = |net: &mut Net| -> Allowance {
        let args = AllowanceArgs { account: user().into(), spender: friend.into() };
        ask(net, CYCLES_LEDGER, "icrc2_allowance", args)
    };

    let none = spend(&mut net, 1);
    assert_eq!(none, Err(TransferFromError::InsufficientAllowance { allowance: 0u8.into() }));
    approve(&mut net, approval(3 * CYCLES_FEE)).unwrap();
    assert_eq!(balance(&mut net, CYCLES_LEDGER, user()), TRILLION - CYCLES_FEE);
    spend(&mut net, CYCLES_FEE).unwrap();
    assert_eq!(allowance(&mut net).allowance, CYCLES_FEE);
    assert_eq!(balance(&mut net, CYCLES_LEDGER, shop), CYCLES_FEE);
    assert_eq!(balance(&mut net, CYCLES_LEDGER, user()), TRILLION - 3 * CYCLES_FEE);
    let rest = spend(&mut net, 1);
    assert_eq!(rest, Err(TransferFromError::InsufficientAllowance { allowance: CYCLES_FEE.into() }));

    let expected = ApproveArgs { expected_allowance: Some(5u8.into()), ..approval(1) };
    let changed = approve(&mut net, expected);
    assert_eq!(changed, Err(ApproveError::AllowanceChanged { current_allowance: CYCLES_FEE.into() }));
    let end = net.network.time() + 1_000_000_000;
    approve(&mut net, ApproveArgs { expires_at: Some(end), ..approval(TRILLION) }).unwrap();
    assert_eq!(allowance(&mut net), Allowance { allowance: TRILLION.into(), expires_at: Some(end) });
    net.network.set_time(end);
    assert_eq!(allowance(&mut net), Allowance { allowance: 0u8.into(), expires_at: None });
    let to_oneself = ApproveArgs { spender: user().into(), ..approval(1) };
    let to_oneself = call_as(&mut net, CYCLES_LEDGER, user(), "icrc2_approve", to_oneself);
    assert_eq!(code(&to_oneself), ErrorCode::CanisterCalledTrap);
}

#[derive(CandidType)]
struct CreationArgs {
    settings: Option<types::CanisterSettings>,
    subnet_selection: Option<SubnetSelection>,
}

#[derive(CandidType)]
enum SubnetSelection {
    Subnet { subnet: Principal },
}

#[derive(CandidType)]
struct CreateCanisterArgs {
    from_subaccount: Option<Vec<u8>>,
    created_at_time: Option<u64>,
    amount: Nat,
    creation_args: Option<CreationArgs>,
}

#[derive(CandidType, Deserialize, Debug, PartialEq)]
struct CreateCanisterSuccess {
    block_id: Nat,
    canister_id: Principal,
}

#[derive(CandidType, Deserialize, Debug, PartialEq)]
enum CreateCanisterError {
    InsufficientFunds { balance: Nat },
    Duplicate { duplicate_of: Nat, canister_id: Option<Principal> },
    FailedToCreate { fee_block: Option<Nat>, refund_block: Option<Nat>, error: String },
}

fn create(amount: u128) -> CreateCanisterArgs {
    CreateCanisterArgs {
        from_subaccount: None,
        created_at_time: None,
        amount: amount.into(),
        creation_args: None,
    }
}

fn create_canister(
    net: &mut Net,
    args: CreateCanisterArgs,
) -> Result<CreateCanisterSuccess, CreateCanisterError> {
    decode(&call_as(net, CYCLES_LEDGER, user(), "create_canister", args))
}

#[test]
fn the_cycles_ledger_creates_canisters_and_takes_what_they_get() {
    let mut net = net();
    give(&mut net, CYCLES_LEDGER, user(), 5 * TRILLION);
    let before = supply(&mut net, CYCLES_LEDGER);
    let created = create_canister(&mut net, create(2 * TRILLION)).unwrap();
    assert_eq!(net.balance(created.canister_id), 2 * TRILLION - CREATION_FEE);
    assert_eq!(net.network.canister(created.canister_id).unwrap().settings.controllers[..], [user()]);
    assert_eq!(balance(&mut net, CYCLES_LEDGER, user()), 3 * TRILLION - CYCLES_FEE);
    assert_eq!(supply(&mut net, CYCLES_LEDGER), before - 2 * TRILLION - CYCLES_FEE);

    let poor = create_canister(&mut net, create(4 * TRILLION));
    let left = 3 * TRILLION - CYCLES_FEE;
    assert_eq!(poor, Err(CreateCanisterError::InsufficientFunds { balance: left.into() }));

    // Less than the fee of a canister: the cycles come back, less the ledger's fees.
    let Err(CreateCanisterError::FailedToCreate { refund_block: Some(_), error, .. }) =
        create_canister(&mut net, create(TRILLION / 10))
    else {
        panic!("a canister cannot be created for less than the fee")
    };
    assert!(error.contains("fee of 500000000000 cycles"), "{error}");
    assert_eq!(balance(&mut net, CYCLES_LEDGER, user()), left - 2 * CYCLES_FEE);

    let friend = Principal::from_slice(&[7]);
    let settings = types::CanisterSettings { controllers: Some(vec![friend]), ..Default::default() };
    let creation_args = Some(CreationArgs { settings: Some(settings), subnet_selection: None });
    let now = net.network.time();
    let args = || CreateCanisterArgs { created_at_time: Some(now), ..create(TRILLION) };
    let created = create_canister(&mut net, CreateCanisterArgs { creation_args, ..args() }).unwrap();
    assert_eq!(net.network.canister(created.canister_id).unwrap().settings.controllers[..], [friend]);
    let again = create_canister(&mut net, args());
    assert_eq!(
        again,
        Err(CreateCanisterError::Duplicate {
            duplicate_of: created.block_id,
            canister_id: Some(created.canister_id)
        })
    );
}

#[derive(CandidType)]
struct GetSubnetForCanister {
    principal: Option<Principal>,
}

#[derive(CandidType, Deserialize)]
struct SubnetForCanister {
    subnet_id: Option<Principal>,
}

#[test]
fn canisters_are_created_on_the_subnet_that_is_asked_for() {
    let kinds = [SubnetKind::NNS, SubnetKind::Application, SubnetKind::Application];
    let mut net = Net::new();
    net.network = Network::with_subnets([7; 32], net.network.time(), &kinds);
    net.network.add_system_canisters();
    give(&mut net, CYCLES_LEDGER, user(), 10 * TRILLION);
    let subnets: Vec<Principal> = ask(&mut net, CYCLES_MINTING, "get_default_subnets", ());
    let ids: Vec<Principal> = net.network.subnets().iter().map(|s| s.id).collect();
    assert_eq!(subnets, ids[1..]);
    for subnet in subnets {
        let selection = Some(SubnetSelection::Subnet { subnet });
        let creation_args = Some(CreationArgs { settings: None, subnet_selection: selection });
        let args = CreateCanisterArgs { creation_args, ..create(TRILLION) };
        let created = create_canister(&mut net, args).unwrap();
        let args = GetSubnetForCanister { principal: Some(created.canister_id) };
        let found: Result<SubnetForCanister, String> =
            ask(&mut net, REGISTRY, "get_subnet_for_canister", args);
        assert_eq!(found.unwrap().subnet_id, Some(subnet));
    }
    let selection = Some(SubnetSelection::Subnet { subnet: user() });
    let creation_args = Some(CreationArgs { settings: None, subnet_selection: selection });
    let nowhere = create_canister(&mut net, CreateCanisterArgs { creation_args, ..create(TRILLION) });
    assert!(matches!(nowhere, Err(CreateCanisterError::FailedToCreate { .. })));
}

#[derive(CandidType)]
struct WithdrawArgs {
    to: Principal,
    amount: Nat,
    from_subaccount: Option<Vec<u8>>,
    created_at_time: Option<u64>,
}

#[derive(CandidType, Deserialize, Debug, PartialEq)]
enum WithdrawError {
    FailedToWithdraw { fee_block: Option<Nat>, rejection_reason: String },
    InvalidReceiver { receiver: Principal },
    InsufficientFunds { balance: Nat },
}

#[test]
fn cycles_are_withdrawn_to_canisters() {
    let mut net = net();
    give(&mut net, CYCLES_LEDGER, user(), TRILLION);
    let canister = net.create_with(0, None);
    let withdraw = |net: &mut Net, to: Principal, amount: u128| -> Result<Nat, WithdrawError> {
        let args = WithdrawArgs { to, amount: amount.into(), from_subaccount: None, created_at_time: None };
        decode(&call_as(net, CYCLES_LEDGER, user(), "withdraw", args))
    };
    withdraw(&mut net, canister, 1_000).unwrap();
    assert_eq!(net.balance(canister), 1_000);
    assert_eq!(balance(&mut net, CYCLES_LEDGER, user()), TRILLION - 1_000 - CYCLES_FEE);

    let invalid = withdraw(&mut net, user(), 1_000);
    assert_eq!(invalid, Err(WithdrawError::InvalidReceiver { receiver: user() }));
    let balance_before = balance(&mut net, CYCLES_LEDGER, user());
    let poor = withdraw(&mut net, canister, TRILLION);
    assert_eq!(poor, Err(WithdrawError::InsufficientFunds { balance: balance_before.into() }));
    assert_eq!(balance(&mut net, CYCLES_LEDGER, user()), balance_before);
    let nobody = Principal::from_slice(&[0, 0, 0, 255, 9, 9, 9, 9, 1, 1]);
    let Err(WithdrawError::FailedToWithdraw { fee_block: Some(_), .. }) = withdraw(&mut net, nobody, 1)
    else {
        panic!("nobody can be topped up who does not exist")
    };
    assert_eq!(balance(&mut net, CYCLES_LEDGER, user()), balance_before - CYCLES_FEE);
}

/// The bytes as they stand in a WebAssembly text.
fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}\\{byte:02x}"))
}

#[derive(CandidType)]
struct DepositArgs {
    to: Account,
    memo: Option<Vec<u8>>,
}

#[derive(CandidType, Deserialize)]
struct DepositResult {
    balance: Nat,
    block_index: Nat,
}

#[test]
fn a_canister_deposits_cycles() {
    let mut net = net();
    let argument = candid::encode_one(DepositArgs { to: user().into(), memo: None }).unwrap();
    // `deposit` attaches 300,000,000 cycles to the call and passes the answer on.
    let text = crate::common::module(&format!(
        r#"
  (data (i32.const 2000) "{}")
  (data (i32.const 2100) "deposit")
  (data (i32.const 2200) "{}")
  (func $pass_on (param i32)
    (call $arg_copy (i32.const 3000) (i32.const 0) (call $arg_size))
    (call $append (i32.const 3000) (call $arg_size))
    (call $reply))
  (func $pass_reject (param i32) (call $reject (i32.const 2100) (i32.const 7)))
  (elem (i32.const 6) $pass_on $pass_reject)
  (func (export "canister_update deposit")
    (call $call_new (i32.const 2000) (i32.const 10) (i32.const 2100) (i32.const 7)
      (i32.const 6) (i32.const 0) (i32.const 7) (i32.const 0))
    (call $call_append (i32.const 2200) (i32.const {}))
    (call $call_cycles (i64.const 300000000))
    (drop (call $perform)))
"#,
        escaped(CYCLES_LEDGER.as_slice()),
        escaped(&argument),
        argument.len(),
    ));
    let canister = net.canister(&text);
    let before = net.balance(canister);
    let result: DepositResult = decode(&net.call(canister, "deposit", vec![]));
    assert_eq!(result.balance, 300_000_000 - CYCLES_FEE);
    assert_eq!(result.block_index, 1u8);
    assert_eq!(balance(&mut net, CYCLES_LEDGER, user()), 300_000_000 - CYCLES_FEE);
    let used = before - net.balance(canister);
    assert!((300_000_000..400_000_000).contains(&used), "{used} cycles");
    // Users cannot attach cycles.
    let none =
        call_as(&mut net, CYCLES_LEDGER, user(), "deposit", DepositArgs { to: user().into(), memo: None });
    assert_eq!(code(&none), ErrorCode::CanisterCalledTrap);
}

#[derive(CandidType, Deserialize, Debug)]
struct Tokens {
    e8s: u64,
}

#[derive(CandidType)]
struct LegacyTransferArgs {
    memo: u64,
    amount: Tokens,
    fee: Tokens,
    from_subaccount: Option<Vec<u8>>,
    to: ByteBuf,
    created_at_time: Option<u64>,
}

#[derive(CandidType, Deserialize, Debug)]
enum LegacyTransferError {
    InsufficientFunds { balance: Tokens },
}

#[derive(CandidType)]
struct NotifyMintArgs {
    block_index: u64,
    to_subaccount: Option<Vec<u8>>,
    deposit_memo: Option<Vec<u8>>,
}

#[derive(CandidType)]
struct NotifyTopUpArgs {
    block_index: u64,
    canister_id: Principal,
}

#[derive(CandidType, Deserialize, Debug)]
struct NotifyMintSuccess {
    balance: Nat,
    block_index: Nat,
    minted: Nat,
}

#[derive(CandidType, Deserialize, Debug, PartialEq)]
enum NotifyError {
    Refunded { reason: String, block_index: Option<u64> },
    InvalidTransaction(String),
}

/// Pays the cycles minting canister for `beneficiary`; the block.
fn pay(net: &mut Net, beneficiary: Principal, memo: u64, e8s: u64) -> u64 {
    let mut subaccount = [0; 32];
    let bytes = beneficiary.as_slice();
    subaccount[0] = bytes.len() as u8;
    subaccount[1..=bytes.len()].copy_from_slice(bytes);
    let to = AccountIdentifier::of(CYCLES_MINTING, Some(subaccount));
    let args = LegacyTransferArgs {
        memo,
        amount: Tokens { e8s },
        fee: Tokens { e8s: ICP_FEE as u64 },
        from_subaccount: None,
        to: ByteBuf::from(to.as_bytes().to_vec()),
        created_at_time: None,
    };
    let paid: Result<u64, LegacyTransferError> = decode(&call_as(net, ICP_LEDGER, user(), "transfer", args));
    paid.unwrap()
}

const MINT: u64 = 0x544e_494d;
const TOP_UP: u64 = 0x5055_5054;

#[test]
fn icp_becomes_cycles() {
    let mut net = net();
    give(&mut net, ICP_LEDGER, user(), 1_000_000_000);
    let supply_before = supply(&mut net, ICP_LEDGER);
    let block = pay(&mut net, user(), MINT, 100_000_000);
    let notify =
        |net: &mut Net, sender: Principal, block_index: u64| -> Result<NotifyMintSuccess, NotifyError> {
            let args = NotifyMintArgs { block_index, to_subaccount: None, deposit_memo: None };
            decode(&call_as(net, CYCLES_MINTING, sender, "notify_mint_cycles", args))
        };
    let invalid = notify(&mut net, Principal::from_slice(&[7]), block);
    assert!(matches!(invalid, Err(NotifyError::InvalidTransaction(_))), "the payment is another's");
    let invalid = notify(&mut net, user(), 0);
    assert!(matches!(invalid, Err(NotifyError::InvalidTransaction(_))), "the block is no payment");
    assert!(notify(&mut net, user(), 99).is_err());

    let minted = notify(&mut net, user(), block).unwrap();
    assert_eq!(minted.minted, 3_520_000_000_000u64);
    assert_eq!(minted.balance, 3_520_000_000_000 - CYCLES_FEE);
    assert_eq!(balance(&mut net, CYCLES_LEDGER, user()), 3_520_000_000_000 - CYCLES_FEE);
    // The ICP are burned, and so is the fee.
    assert_eq!(supply(&mut net, ICP_LEDGER), supply_before - 100_000_000 - ICP_FEE);

    // A second notification changes nothing.
    let again = notify(&mut net, user(), block).unwrap();
    assert_eq!(again.block_index, minted.block_index);
    assert_eq!(balance(&mut net, CYCLES_LEDGER, user()), 3_520_000_000_000 - CYCLES_FEE);

    // Too little for the fee of a deposit: the payment comes back.
    let before = balance(&mut net, ICP_LEDGER, user());
    let block = pay(&mut net, user(), MINT, 1_000);
    let refunded = notify(&mut net, user(), block);
    assert!(matches!(refunded, Err(NotifyError::Refunded { block_index: Some(_), .. })), "{refunded:?}");
    assert_eq!(balance(&mut net, ICP_LEDGER, user()), before - ICP_FEE);
}

#[test]
fn icp_tops_a_canister_up() {
    let mut net = net();
    give(&mut net, ICP_LEDGER, user(), 1_000_000_000);
    let canister = net.create_with(0, None);
    let notify = |net: &mut Net, canister_id: Principal, block_index: u64| -> Result<Nat, NotifyError> {
        let args = NotifyTopUpArgs { block_index, canister_id };
        decode(&call_as(net, CYCLES_MINTING, user(), "notify_top_up", args))
    };
    let wrong_memo = pay(&mut net, canister, MINT, 100_000_000);
    assert!(matches!(notify(&mut net, canister, wrong_memo), Err(NotifyError::InvalidTransaction(_))));
    let block = pay(&mut net, canister, TOP_UP, 100_000_000);
    for _ in 0..2 {
        assert_eq!(notify(&mut net, canister, block), Ok(3_520_000_000_000u64.into()));
        assert_eq!(net.balance(canister), 3_520_000_000_000);
    }
    let nobody = Principal::from_slice(&[0, 0, 0, 255, 9, 9, 9, 9, 1, 1]);
    let before = balance(&mut net, ICP_LEDGER, user());
    let block = pay(&mut net, nobody, TOP_UP, 100_000_000);
    assert!(matches!(notify(&mut net, nobody, block), Err(NotifyError::Refunded { .. })));
    assert_eq!(balance(&mut net, ICP_LEDGER, user()), before - ICP_FEE);
}
