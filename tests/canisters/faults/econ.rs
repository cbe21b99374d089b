//! Payments: whatever happens, an invoice is paid once and its block is on the ledger, and a refund likewise (INV-E1, INV-E2, INV-E5).
//! Wallets: whatever happens, no token is created or lost, an escrow ends once, and a withdrawal is made once (INV-E21, INV-E22, INV-E24).

use super::*;
use crate::econ::Shop;
use ohms_tests::ledger::{FEE, number};
use ohms_tests::network::{admin, owner, stranger};
use shared_types::econ::settlement::{
    Escrow, EscrowPurpose, EscrowState, OpenEscrowArgs, OpenWalletArgs, SettlementTotals, SpendingLimits,
    Wallet, WalletId, WithdrawArgs, Withdrawal, WithdrawalState, settlement_subaccount,
};
use shared_types::econ::{
    Account, DAY_NS, EconConfig, EconError, HOUR_NS, Invoice, InvoiceArgs, InvoiceState, RefundArgs,
    RefundState, SECOND_NS, SubscriptionStatus,
};

/// Repeats `request` until `done`; time passes meanwhile.
fn insist<R>(shop: &Shop, request: impl Fn() -> Option<R>, done: impl Fn() -> bool) {
    for round in 0..200 {
        if done() {
            return;
        }
        // Whatever comes of the request, it may be repeated.
        let _ = request();
        shop.pass(if round < 60 { 30 * SECOND_NS } else { HOUR_NS });
    }
    panic!("it does not come to an end");
}

fn try_update<R: candid::CandidType + serde::de::DeserializeOwned>(
    shop: &Shop,
    caller: Principal,
    method: &str,
    args: impl candid::utils::ArgumentEncoder,
) -> Option<R> {
    let answer: Result<Result<R, EconError>, _> =
        shop.network.update_patiently(caller, shop.id, method, args);
    answer.ok()?.ok()
}

fn try_query<R: candid::CandidType + serde::de::DeserializeOwned>(
    shop: &Shop,
    method: &str,
    args: impl candid::utils::ArgumentEncoder,
) -> Option<R> {
    let answer: Result<(Result<R, EconError>,), _> =
        pocket_ic::query_candid_as(&shop.network.pic, shop.id, owner(), method, args);
    answer.ok()?.0.ok()
}

/// Somebody subscribes, the renewal comes, governance gives it back, all under `plan`.
fn payments(plan: &FaultPlan) -> Option<FaultTrace> {
    let (network, faults) = network()?;
    let shop = Shop::open(&network, EconConfig::default());
    let funds = shop.ledger.balance(ohms_tests::network::principal(6));

    faults.set(plan);
    let query = |args: InvoiceArgs| try_query::<Invoice>(&shop, "invoice", (args,));
    let paid = |args: InvoiceArgs| {
        query(args).is_some_and(|invoice| matches!(invoice.state, InvoiceState::Paid { .. }))
    };
    let subscribe =
        || try_update::<Invoice>(&shop, owner(), "subscribe", (shop.subscribe_args("Basic", "first"),));
    insist(&shop, subscribe, || paid(InvoiceArgs::Key("first".to_owned())));
    shop.pass(30 * DAY_NS);
    insist(&shop, || Some(()), || paid(InvoiceArgs::Id(2)));
    let args = RefundArgs { invoice: 2, reason: "a test".to_owned() };
    let refund = || try_update::<Invoice>(&shop, admin(), "refund", (args.clone(),));
    let refunded =
        || query(InvoiceArgs::Id(2)).is_some_and(|i| matches!(i.refund, Some(RefundState::Done { .. })));
    insist(&shop, refund, refunded);
    let trace = faults.clear();
    for _ in 0..30 {
        shop.pass(HOUR_NS);
    }

    // What the invoices say is what the ledger has, and nothing else.
    let invoices = shop.invoices();
    assert_eq!(invoices.len(), 2, "{invoices:?} {trace}");
    let mut expected = Vec::new();
    for invoice in &invoices {
        let InvoiceState::Paid { block: Some(block), .. } = invoice.state else {
            panic!("{invoice:?} {trace}")
        };
        expected.push((block, invoice.hash()));
        if let Some(RefundState::Done { block }) = invoice.refund {
            expected.push((block, invoice.refund_hash()));
        }
    }
    let blocks = shop.ledger.blocks();
    // Before the plan, tokens were minted and approved.
    let transfers: Vec<_> = blocks.iter().skip(2).collect();
    assert_eq!(transfers.len(), expected.len(), "{invoices:?} {trace}");
    for (block, hash) in &expected {
        let found = transfers.iter().find(|transfer| number(&transfer.id) == *block);
        let text = format!("{:?}", found.expect("the block is there").block);
        assert!(
            text.contains(&format!("{:?}", serde_bytes::ByteBuf::from(hash.as_bytes().to_vec()))),
            "{text} {trace}"
        );
    }
    assert_eq!(shop.ledger.balance(shop.id), 29_000_000 - FEE, "{trace}");
    let spent = funds - shop.ledger.balance(ohms_tests::network::principal(6));
    assert_eq!(spent, 29_000_000 + 2 * FEE, "{trace}");
    assert_eq!(shop.account().subscription.status, SubscriptionStatus::Expired, "{trace}");
    Some(trace)
}

/// Tokens enter the owner's wallet, two jobs are paid by escrow, one of which is not done, and the rest leaves, all under `plan`.
fn wallets(plan: &FaultPlan) -> Option<FaultTrace> {
    let (network, faults) = network()?;
    let shop = Shop::open(&network, EconConfig::default());
    let id = |holder| WalletId { ledger: shop.ledger.id, holder };
    for holder in [owner(), stranger()] {
        let args = OpenWalletArgs { wallet: id(holder), limits: SpendingLimits::default() };
        let _: Wallet = shop.update(holder, "open_wallet", (args,)).unwrap();
    }
    let entrance: Account = network.query(owner(), shop.id, "deposit_account", (owner(),));
    shop.ledger.mint(entrance, 1_000_000 + FEE);

    faults.set(plan);
    let balance = || {
        let wallet: Option<Wallet> = try_query(&shop, "wallet", (id(owner()),));
        wallet.map_or(0, |wallet| wallet.balance)
    };
    let deposit = || try_update::<Wallet>(&shop, owner(), "deposit", (id(owner()),));
    insist(&shop, deposit, || balance() == 1_000_000);
    let deadline_ns = shop.now_ns() + 2 * DAY_NS;
    let purpose = EscrowPurpose::Job { job: "a tale".to_owned(), deadline_ns };
    let args = |key: &str| {
        let (key, purpose) = (key.to_owned(), purpose.clone());
        OpenEscrowArgs { payer: id(owner()), payee: stranger(), amount: 100_000, purpose, key }
    };
    let escrow = |n: u64| try_query::<Escrow>(&shop, "escrow", (n,));
    for (n, key) in [(1, "done"), (2, "not done")] {
        let open = || try_update::<Escrow>(&shop, owner(), "open_escrow", (args(key),));
        insist(&shop, open, || escrow(n).is_some());
    }
    let release = || try_update::<Escrow>(&shop, owner(), "release_escrow", (1u64,));
    let released = || escrow(1).is_some_and(|it| matches!(it.state, EscrowState::Released { .. }));
    insist(&shop, release, released);
    let (to, key) = (owner().into(), "rent".to_owned());
    let args = WithdrawArgs { wallet: id(owner()), to, amount: 300_000, key };
    let withdraw = || try_update::<Withdrawal>(&shop, owner(), "withdraw", (args.clone(),));
    let ended = || {
        let withdrawal: Option<Withdrawal> = try_query(&shop, "withdrawal", (3u64,));
        withdrawal.filter(|it| it.state != WithdrawalState::Pending)
    };
    insist(&shop, withdraw, || ended().is_some());
    shop.pass(2 * DAY_NS);
    let refunded = || escrow(2).is_some_and(|it| matches!(it.state, EscrowState::Refunded { .. }));
    insist(&shop, || Some(()), refunded);
    let trace = faults.clear();
    for _ in 0..30 {
        shop.pass(HOUR_NS);
    }

    // INV-E21, INV-E22 and INV-E24, on the ledger.
    let fee = u128::from(FEE);
    let arrived = u128::from(shop.ledger.balance(owner()));
    let left = match ended().expect("it has ended").state {
        WithdrawalState::Done { .. } => (900_000 - 300_000 - fee, 300_000),
        _ => (900_000, 0),
    };
    assert_eq!((balance(), arrived), left, "{trace}");
    let totals: SettlementTotals = network.query(owner(), shop.id, "settlement_totals", (shop.ledger.id,));
    assert!(totals.is_balanced() && totals.in_escrows == 0 && totals.withdrawing == 0, "{totals:?} {trace}");
    let pool = Account { owner: shop.id, subaccount: Some(settlement_subaccount()) };
    assert_eq!(u128::from(shop.ledger.balance(pool)), totals.in_wallets, "{trace}");
    assert_eq!(
        totals.in_wallets,
        balance() + 100_000,
        "the payee and the treasury share the other escrow: {trace}"
    );
    shop.ledger.validate();
    Some(trace)
}

fn econ_of(trace: &FaultTrace) -> Principal {
    trace.awaits[0].caller
}

#[test]
fn payments_are_made_once_whatever_happens_at_an_await() {
    explore(payments, |trace| sample(at_each_await(trace, |_| true), 16));
}

#[test]
fn payments_are_made_once_whatever_happens_between_two_messages() {
    explore(payments, |trace| sample(at_every_message(trace, econ_of(trace)), 16));
}

#[test]
fn payments_are_made_once_whatever_the_seed() {
    explore(payments, |trace| sample(at_random(0..60, econ_of(trace)), 6));
}

#[test]
fn wallets_keep_their_tokens_whatever_happens_at_an_await() {
    explore(wallets, |trace| sample(at_each_await(trace, |_| true), 10));
}

#[test]
fn wallets_keep_their_tokens_whatever_happens_between_two_messages() {
    explore(wallets, |trace| sample(at_every_message(trace, econ_of(trace)), 8));
}

#[test]
fn wallets_keep_their_tokens_whatever_the_seed() {
    explore(wallets, |trace| sample(at_random(0..60, econ_of(trace)), 6));
}
