//! Strangers at the econ canister.

use candid::Principal;
use icrc_ledger_types::icrc21::requests::{
    ConsentMessageMetadata, ConsentMessageRequest, ConsentMessageSpec,
};
use ohms_tests::ledger::FEE;
use ohms_tests::network::{Network, admin, owner, stranger};
use ohms_tests::wasm::Canister;
use shared_types::econ::payment::ChangeTime;
use shared_types::econ::settlement::{
    DisputeArgs, Escrow, EscrowPurpose, ListEscrowsArgs, OpenEscrowArgs, OpenWalletArgs, SpendingLimits,
    Wallet, WalletId, WithdrawArgs, Withdrawal,
};
use shared_types::econ::usage::ExportSubject;
use shared_types::econ::{
    Account, BlockLog, ChangeTierArgs, Currency, DAY_NS, EconConfig, EconError, EconStatus, EventsArgs,
    ExportArgs, ExportFormat, InvoiceArgs, LedgerArgs, ListInvoicesArgs, ListServicesArgs, PayArgs,
    PaymentMethod, QuoteArgs, RefundArgs, ReserveArgs, Resource, ReturnAgentArgs, SeriesArgs, SeriesStep,
    ServiceGrant, ServiceRole, SettleArgs, SubscribeArgs, TierVersion, UsageArgs, tiers,
};

use super::{Answer, Case, case, check};
use crate::econ::{Shop, coordinator};

/// Calls of the econ canister about what the owner has there; the answers to rights that are missing, and to things that the caller does
/// not have.
fn econ_cases(ledger: Principal, right: Answer, own: impl Fn(&'static str) -> Answer) -> Vec<Case> {
    let (account, nobody) = (owner(), stranger());
    let method = PaymentMethod { ledger: nobody, from: nobody.into() };
    let (tier, key) = ("Basic".to_owned(), "mine".to_owned());
    let version = TierVersion { terms: tiers::initial().swap_remove(0), effective_ns: u64::MAX };
    let ledger_args = LedgerArgs {
        canister: nobody,
        currency: Currency::Dollar,
        block_log: BlockLog::Icrc3,
        enabled: true,
    };
    let resource = Resource::Tokens(1);
    let reserve = ReserveArgs { account, resource, key: key.clone(), expires_ns: u64::MAX };
    let settle = SettleArgs { reservation: 1, amount: 0, agents: Vec::new(), usage: None };
    let subscribe = SubscribeArgs { tier: tier.clone(), method, key: key.clone() };
    let change = ChangeTierArgs { tier: tier.clone(), time: ChangeTime::Now, key: key.clone() };
    let wallet = WalletId { ledger, holder: account };
    let withdraw = WithdrawArgs { wallet, to: nobody.into(), amount: 1, key: key.clone() };
    let purpose = EscrowPurpose::Transfer;
    let escrow = OpenEscrowArgs { payer: wallet, payee: nobody, amount: 1, purpose, key };
    let escrows = ListEscrowsArgs { payer: wallet, after: None, limit: 1 };
    let list = ListInvoicesArgs { account: Some(account), after: None, limit: 1 };
    let usage = UsageArgs { account: Some(account), after: None, limit: 1 };
    let step = SeriesStep::Day;
    let series = SeriesArgs { account: Some(account), step, after_ns: None, limit: 1 };
    let (subject, format) = (ExportSubject::Usage, ExportFormat::Csv);
    let export = ExportArgs { account: Some(account), subject, format, after: None, limit: 1 };
    let metadata = ConsentMessageMetadata { language: "en".to_owned(), utc_offset_minutes: None };
    let user_preferences = ConsentMessageSpec { metadata, device_spec: None };
    let consent = ConsentMessageRequest { method: "cancel".to_owned(), arg: Vec::new(), user_preferences };
    vec![
        case("set_admins", (vec![nobody],), right),
        case("set_config", (EconConfig::default(),), right),
        case("announce_tier", (version,), right),
        case("set_ledger", (ledger_args,), right),
        case("grant_service", (ServiceGrant { service: nobody, role: ServiceRole::Factory },), right),
        case("revoke_service", (nobody,), right),
        case("refund", (RefundArgs { invoice: 1, reason: "mine".to_owned() },), right),
        case("list_services", (ListServicesArgs { after: None, limit: 1 },), right),
        case("events", (EventsArgs { after: None, limit: 1 },), right),
        case("reserve", (reserve,), right),
        case("return_agent", (ReturnAgentArgs { account, agent: nobody },), right),
        case("account", (Some(account),), right),
        case("invoices", (list,), right),
        case("usage", (usage,), right),
        case("series", (series,), right),
        case("export", (export,), right),
        case("open_wallet", (OpenWalletArgs { wallet, limits: SpendingLimits::default() },), right),
        case("wallet", (wallet,), right),
        case("deposit", (wallet,), right),
        case("withdraw", (withdraw,), right),
        case("open_escrow", (escrow,), right),
        case("escrows", (escrows,), right),
        case("escrow", (1u64,), own("UnknownEscrow")),
        case("release_escrow", (1u64,), own("UnknownEscrow")),
        case("refund_escrow", (1u64,), own("UnknownEscrow")),
        case("dispute_escrow", (DisputeArgs { escrow: 1, reason: "mine".to_owned() },), own("UnknownEscrow")),
        case("withdrawal", (2u64,), own("UnknownWithdrawal")),
        case("settle", (settle,), own("UnknownReservation")),
        case("release", (1u64,), own("UnknownReservation")),
        case("reservation", (1u64,), own("UnknownReservation")),
        case("invoice", (InvoiceArgs::Id(1),), own("UnknownInvoice")),
        case("pay", (PayArgs { invoice: 1, method: None },), own("UnknownInvoice")),
        case("subscribe", (subscribe,), own("UnknownLedger")),
        case("quote", (QuoteArgs { ledger: nobody, tier },), own("UnknownLedger")),
        case("set_payment_method", (method,), own("UnknownLedger")),
        case("change_tier", (change,), own("Subscription")),
        case("cancel", (), own("Subscription")),
        case("resume", (), own("Subscription")),
        case("deposit_account", (account,), Answer::Public),
        case("settlement_totals", (ledger,), Answer::Public),
        case("tiers", (), Answer::Public),
        case("ledgers", (), Answer::Public),
        case("status", (), Answer::Public),
        case("icrc10_supported_standards", (), Answer::Public),
        case("icrc21_canister_call_consent_message", (consent,), Answer::Public),
    ]
}

/// The owner has an invoice, a reservation, a wallet, an escrow and a withdrawal; nobody else reads, changes or learns of them.
#[test]
fn strangers_are_refused_by_the_econ_canister() {
    let network = Network::new();
    let shop = Shop::open(&network, EconConfig::default());
    shop.subscribe("Basic", "first");
    shop.reserve(coordinator(), Resource::Tokens(1), "run").unwrap();
    let wallet = |holder| WalletId { ledger: shop.ledger.id, holder };
    for holder in [owner(), admin()] {
        let args = OpenWalletArgs { wallet: wallet(holder), limits: SpendingLimits::default() };
        let _: Wallet = shop.update(holder, "open_wallet", (args,)).unwrap();
    }
    let deposit_account: Account = network.query(owner(), shop.id, "deposit_account", (owner(),));
    shop.ledger.mint(deposit_account, 100_000 + FEE);
    let _: Wallet = shop.update(owner(), "deposit", (wallet(owner()),)).unwrap();
    let (key, deadline_ns) = ("a key".to_owned(), shop.now_ns() + DAY_NS);
    let purpose = EscrowPurpose::Job { job: "a tale".to_owned(), deadline_ns };
    let args = OpenEscrowArgs { payer: wallet(owner()), payee: admin(), amount: 1_000, purpose, key };
    let escrow: Escrow = shop.update(owner(), "open_escrow", (args,)).unwrap();
    let key = "another".to_owned();
    let args = WithdrawArgs { wallet: wallet(owner()), to: owner().into(), amount: 1_000, key };
    let withdrawal: Withdrawal = shop.update(owner(), "withdraw", (args,)).unwrap();
    assert_eq!((escrow.id, withdrawal.id), (1, 2));
    let before: EconStatus = network.query(stranger(), shop.id, "status", ());

    let cases = econ_cases(shop.ledger.id, Answer::Refused("Unauthorized"), Answer::Refused);
    check::<EconError>(&network, shop.id, Canister::Econ, stranger(), &cases);
    let anonymous = Answer::Refused("Anonymous");
    let cases = econ_cases(shop.ledger.id, anonymous, |_| anonymous);
    check::<EconError>(&network, shop.id, Canister::Econ, Principal::anonymous(), &cases);
    let after: EconStatus = network.query(stranger(), shop.id, "status", ());
    assert_eq!(after.events, before.events, "nothing has happened");
}
