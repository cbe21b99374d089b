//! Payments: whatever happens, an invoice is paid once and its block is on the ledger, and a refund likewise (INV-E1, INV-E2, INV-E5).

use super::*;
use crate::econ::Shop;
use ohms_tests::ledger::{FEE, number};
use ohms_tests::network::{admin, owner};
use shared_types::econ::{
    DAY_NS, EconConfig, EconError, HOUR_NS, Invoice, InvoiceArgs, InvoiceState, RefundArgs, RefundState,
    SECOND_NS, SubscriptionStatus,
};

/// Asks for the owner's invoice of this key until `done`, repeating `request`; time passes meanwhile.
fn insist(shop: &Shop, request: impl Fn() -> bool, done: impl Fn() -> bool) {
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

/// Somebody subscribes, the renewal comes, governance gives it back, all under `plan`.
fn payments(plan: &FaultPlan) -> Option<FaultTrace> {
    let (network, faults) = network()?;
    let shop = Shop::open(&network, EconConfig::default());
    let funds = shop.ledger.balance(ohms_tests::network::principal(6));

    faults.set(plan);
    let query = |args: InvoiceArgs| -> Option<Invoice> {
        let answer: Result<(Result<Invoice, EconError>,), _> =
            pocket_ic::query_candid_as(&network.pic, shop.id, owner(), "invoice", (args,));
        answer.ok()?.0.ok()
    };
    let paid = |args: InvoiceArgs| {
        query(args).is_some_and(|invoice| matches!(invoice.state, InvoiceState::Paid { .. }))
    };
    let subscribe =
        || try_update::<Invoice>(&shop, owner(), "subscribe", (shop.subscribe_args("Basic", "first"),));
    insist(&shop, || subscribe().is_some(), || paid(InvoiceArgs::Key("first".to_owned())));
    shop.pass(30 * DAY_NS);
    insist(&shop, || true, || paid(InvoiceArgs::Id(2)));
    let args = RefundArgs { invoice: 2, reason: "a test".to_owned() };
    let refund = || try_update::<Invoice>(&shop, admin(), "refund", (args.clone(),));
    let refunded =
        || query(InvoiceArgs::Id(2)).is_some_and(|i| matches!(i.refund, Some(RefundState::Done { .. })));
    insist(&shop, || refund().is_some(), refunded);
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

fn econ_of(trace: &FaultTrace) -> Principal {
    trace.awaits[0].caller
}

#[test]
fn payments_are_made_once_whatever_happens_at_an_await() {
    explore(payments, |trace| at_each_await(trace, |_| true));
}

#[test]
fn payments_are_made_once_whatever_the_seed() {
    explore(payments, |trace| at_random(0..12, econ_of(trace)));
}
