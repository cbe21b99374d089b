//! The econ canister as its callers see it: people, authorised canisters and governance, with a ledger and an exchange-rate
//! canister on the same network.

use std::time::Duration;

use candid::utils::ArgumentEncoder;
use candid::{CandidType, Encode, Principal};
use icrc_ledger_types::icrc21::errors::Icrc21Error;
use icrc_ledger_types::icrc21::requests::{
    ConsentMessageMetadata, ConsentMessageRequest, ConsentMessageSpec,
};
use icrc_ledger_types::icrc21::responses::{ConsentInfo, ConsentMessage};
use ohms_tests::exchange_rate::ExchangeRates;
use ohms_tests::ledger::{FEE, Ledger};
use ohms_tests::network::{Network, admin, owner, principal, stranger};
use ohms_tests::wasm::Canister;
use serde::de::DeserializeOwned;
use shared_types::econ::payment::ChangeTime;
use shared_types::econ::usage::ExportSubject;
use shared_types::econ::{
    Account, AccountSummary, BlockLog, ChangeTierArgs, Currency, DAY_NS, EconConfig, EconError, EconInitArgs,
    EconStatus, ExportArgs, ExportFormat, ExportPage, HOUR_NS, Invoice, InvoiceArgs, InvoiceKind,
    InvoicePage, InvoiceState, LedgerArgs, LedgerInfo, ListInvoicesArgs, PaymentMethod, Quote, QuoteArgs,
    RefundArgs, RefundState, Reservation, ReserveArgs, Resource, ReturnAgentArgs, SeriesArgs, SeriesPage,
    SeriesStep, ServiceGrant, ServiceRole, SettleArgs, Settlement, SubscribeArgs, SubscriptionStatus, Terms,
    TierVersion, UsageEnvelope, payment_subaccount,
};

/// The canister that reserves and settles.
pub fn coordinator() -> Principal {
    principal(5)
}

/// The wallet that pays for the owner: another principal than the one that signs in.
fn wallet() -> Principal {
    principal(6)
}

/// An econ canister, a ledger of dollars, and a wallet with $1,000 that has approved $500 to the owner's subaccount.
pub struct Shop<'a> {
    pub network: &'a Network,
    pub ledger: Ledger<'a>,
    pub id: Principal,
}

impl<'a> Shop<'a> {
    pub fn open(network: &'a Network, config: EconConfig) -> Self {
        let ledger = Ledger::install(network);
        let id = network.install(Canister::Econ, EconInitArgs { admins: vec![admin()], config });
        let shop = Self { network, ledger, id };
        shop.add_ledger(ledger.id, Currency::Dollar);
        let grant = ServiceGrant { service: coordinator(), role: ServiceRole::Coordinator };
        shop.update::<()>(admin(), "grant_service", (grant,)).unwrap();
        ledger.mint(wallet(), 1_000_000_000);
        shop.approve(500_000_000);
        shop
    }

    pub fn add_ledger(&self, canister: Principal, currency: Currency) {
        let args = LedgerArgs { canister, currency, block_log: BlockLog::Icrc3, enabled: true };
        let info: LedgerInfo = self.update(admin(), "set_ledger", (args,)).unwrap();
        assert_eq!((info.decimals, info.fee), (6, u128::from(FEE)));
    }

    pub fn approve(&self, amount: u64) {
        let spender = Account { owner: self.id, subaccount: Some(payment_subaccount(owner())) };
        self.ledger.approve(wallet(), spender, amount).unwrap();
    }

    pub fn update<R: CandidType + DeserializeOwned>(
        &self,
        caller: Principal,
        method: &str,
        args: impl ArgumentEncoder,
    ) -> Result<R, EconError> {
        self.network.update(caller, self.id, method, args)
    }

    pub fn query<R: CandidType + DeserializeOwned>(
        &self,
        caller: Principal,
        method: &str,
        args: impl ArgumentEncoder,
    ) -> Result<R, EconError> {
        self.network.query(caller, self.id, method, args)
    }

    pub fn method(&self) -> PaymentMethod {
        PaymentMethod { ledger: self.ledger.id, from: wallet().into() }
    }

    pub fn subscribe_args(&self, tier: &str, key: &str) -> SubscribeArgs {
        SubscribeArgs { tier: tier.to_owned(), method: self.method(), key: key.to_owned() }
    }

    pub fn subscribe(&self, tier: &str, key: &str) -> Invoice {
        self.update(owner(), "subscribe", (self.subscribe_args(tier, key),)).unwrap()
    }

    pub fn reserve(
        &self,
        caller: Principal,
        resource: Resource,
        key: &str,
    ) -> Result<Reservation, EconError> {
        let expires_ns = self.now_ns() + HOUR_NS;
        let args = ReserveArgs { account: owner(), resource, key: key.to_owned(), expires_ns };
        self.update(caller, "reserve", (args,))
    }

    pub fn account(&self) -> AccountSummary {
        self.query(owner(), "account", (None::<Principal>,)).unwrap()
    }

    pub fn invoices(&self) -> Vec<Invoice> {
        let args = ListInvoicesArgs { account: None, after: None, limit: 100 };
        let page: InvoicePage = self.query(owner(), "invoices", (args,)).unwrap();
        page.invoices
    }

    pub fn now_ns(&self) -> u64 {
        self.network.pic.get_time().as_nanos_since_unix_epoch()
    }

    /// Lets time pass, with a round now and then for the timers.
    pub fn pass(&self, time_ns: u64) {
        self.network.pic.advance_time(Duration::from_nanos(time_ns));
        for _ in 0..8 {
            self.network.pic.tick();
        }
    }
}

#[test]
fn somebody_subscribes_and_uses_what_was_paid() {
    let network = Network::new();
    let shop = Shop::open(&network, EconConfig::default());
    let refused = shop.reserve(coordinator(), Resource::Tokens(1), "early").unwrap_err();
    assert!(
        matches!(refused, EconError::NotSubscribed { status: SubscriptionStatus::None, .. }),
        "{refused}"
    );

    let invoice = shop.subscribe("Basic", "first");
    assert!(matches!(invoice.state, InvoiceState::Paid { block: Some(_), .. }), "{invoice:?}");
    assert_eq!(shop.subscribe("Basic", "first"), invoice, "the same key is the same invoice");
    assert_eq!(shop.ledger.balance(shop.id), 29_000_000);
    assert_eq!(shop.ledger.balance(wallet()), 971_000_000 - 2 * FEE, "less the fees of approval and payment");
    let other: Result<Invoice, _> =
        shop.update(owner(), "subscribe", (shop.subscribe_args("Pro", "second"),));
    assert!(matches!(other, Err(EconError::Subscription(_))), "{other:?}");

    // An agent is created, and works.
    let creation = shop.reserve(coordinator(), Resource::Creation(2), "agents").unwrap();
    let agent = principal(9);
    let args = SettleArgs { reservation: creation.id, amount: 1, agents: vec![agent], usage: None };
    let settled: Settlement = shop.update(coordinator(), "settle", (args,)).unwrap();
    assert_eq!(settled, Settlement { amount: 1, charged: 1, excess: 0 });
    let run = shop.reserve(agent, Resource::Tokens(1_000), "run").unwrap();
    let usage = UsageEnvelope { latency_ns: 7, tokens_in: 100, tokens_out: 150, instructions: 5, cycles: 9 };
    let args = SettleArgs { reservation: run.id, amount: 250, agents: Vec::new(), usage: Some(usage) };
    let settled: Settlement = shop.update(agent, "settle", (args.clone(),)).unwrap();
    assert_eq!(
        shop.update::<Settlement>(agent, "settle", (args,)),
        Ok(settled),
        "repeated, it answers as at first"
    );
    let released = shop.reserve(agent, Resource::Tokens(500), "released").unwrap();
    shop.update::<()>(agent, "release", (released.id,)).unwrap();
    let refused = shop.reserve(stranger(), Resource::Tokens(1), "stranger").unwrap_err();
    assert_eq!(refused, EconError::Unauthorized);

    let account = shop.account();
    assert_eq!((account.tokens.used, account.tokens.reserved, account.agents), (250, 0, 1));
    assert_eq!((account.totals.runs, account.totals.cost_microcents), (1, 2_900 * 1_000_000 * 250 / 100_000));
    let args = SeriesArgs { account: None, step: SeriesStep::Day, after_ns: None, limit: 10 };
    let series: SeriesPage = shop.query(owner(), "series", (args,)).unwrap();
    assert_eq!(series.points.len(), 1);
    assert_eq!(series.points[0].totals, account.totals);
    let args = ExportArgs {
        account: None,
        subject: ExportSubject::Invoices,
        format: ExportFormat::Csv,
        after: None,
        limit: 10,
    };
    let export: ExportPage = shop.query(owner(), "export", (args,)).unwrap();
    assert!(
        export.text.lines().nth(1).unwrap().contains("subscription,Basic,1,2900,0,2900"),
        "{}",
        export.text
    );

    network.upgrade(shop.id, Canister::Econ);
    assert_eq!(shop.account(), account, "an upgrade loses nothing");
    let back = ReturnAgentArgs { account: owner(), agent };
    shop.update::<()>(coordinator(), "return_agent", (back,)).unwrap();
    assert_eq!(shop.reserve(agent, Resource::Tokens(1), "late").unwrap_err(), EconError::Unauthorized);
}

#[test]
fn a_subscription_lives() {
    let network = Network::new();
    let shop = Shop::open(&network, EconConfig::default());
    shop.subscribe("Basic", "first");
    // Up at once, for the rest of the period.
    shop.pass(15 * DAY_NS);
    let up = ChangeTierArgs { tier: "Pro".to_owned(), time: ChangeTime::Now, key: "up".to_owned() };
    let upgrade: Option<Invoice> = shop.update(owner(), "change_tier", (up,)).unwrap();
    let upgrade = upgrade.unwrap();
    assert!(matches!(upgrade.state, InvoiceState::Paid { .. }), "{upgrade:?}");
    assert!((3_490..=3_500).contains(&upgrade.total_cents), "half of the difference: {upgrade:?}");
    // Down at once: the rest becomes credit, and the renewal takes it.
    let down = ChangeTierArgs { tier: "Basic".to_owned(), time: ChangeTime::Now, key: "down".to_owned() };
    let none: Option<Invoice> = shop.update(owner(), "change_tier", (down,)).unwrap();
    assert_eq!(none, None);
    let credit = shop.account().credit_cents;
    assert!((3_480..=upgrade.total_cents).contains(&credit), "{credit}");
    // A tier becomes dearer only after its notice.
    let terms = Terms { tier: "Basic".to_owned(), price_cents: 3_900, ..upgrade.terms.clone() };
    let version = TierVersion { terms, effective_ns: shop.now_ns() + DAY_NS };
    let soon: Result<(), _> = shop.update(admin(), "announce_tier", (version,));
    assert!(
        matches!(&soon, Err(EconError::InvalidField(field)) if field.field == "effective_ns"),
        "{soon:?}"
    );
    shop.pass(15 * DAY_NS);
    let account = shop.account();
    assert_eq!(account.subscription.status, SubscriptionStatus::Active);
    assert_eq!(account.subscription.period.unwrap().number, 2);
    let renewal = shop.invoices().into_iter().find(|invoice| invoice.kind == InvoiceKind::Renewal).unwrap();
    assert_eq!((renewal.subtotal_cents, renewal.credit_cents), (2_900, 2_900.min(credit)));

    // The wallet pays no more: past due, suspended, and with a payment again active.
    shop.approve(0);
    shop.pass(30 * DAY_NS);
    let account = shop.account();
    assert_eq!(account.subscription.status, SubscriptionStatus::PastDue);
    let refused = shop.reserve(coordinator(), Resource::Tokens(17_000), "much").unwrap_err();
    assert!(matches!(refused, EconError::QuotaExceeded { available: 16_666, .. }), "{refused}");
    for _ in 0..6 {
        shop.pass(DAY_NS);
    }
    assert_eq!(shop.account().subscription.status, SubscriptionStatus::Suspended);
    assert_eq!(shop.account().open_invoices, Vec::<u64>::new());
    shop.approve(100_000_000);
    let again = shop.subscribe("Basic", "again");
    assert!(matches!(again.state, InvoiceState::Paid { .. }), "{again:?}");
    let account = shop.account();
    assert_eq!(
        (account.subscription.status, account.subscription.period.unwrap().number),
        (SubscriptionStatus::Active, 4)
    );

    // Governance gives it back: to who paid, once.
    let before = shop.ledger.balance(wallet());
    let args = RefundArgs { invoice: again.id, reason: "a mistake".to_owned() };
    let refunded: Invoice = shop.update(admin(), "refund", (args.clone(),)).unwrap();
    assert!(matches!(refunded.refund, Some(RefundState::Done { .. })), "{refunded:?}");
    assert_eq!(shop.ledger.balance(wallet()), before + refunded.amount.unwrap() as u64);
    let twice: Result<Invoice, _> = shop.update(admin(), "refund", (args,));
    assert!(matches!(twice, Err(EconError::WrongInvoiceState { .. })), "{twice:?}");
    assert_eq!(shop.account().subscription.status, SubscriptionStatus::Expired);
}

#[test]
fn tokens_that_are_no_dollars_are_paid_at_a_rate() {
    let network = Network::new();
    let rates = ExchangeRates::install(&network);
    let config = EconConfig { exchange_rates: Some(rates.id), ..EconConfig::default() };
    let shop = Shop::open(&network, config);
    shop.add_ledger(shop.ledger.id, Currency::Asset { symbol: "ICP".to_owned() });
    let unquoted: Result<Invoice, _> =
        shop.update(owner(), "subscribe", (shop.subscribe_args("Basic", "first"),));
    assert_eq!(unquoted, Err(EconError::QuoteNeeded));
    let ask = || -> Result<Quote, EconError> {
        shop.update(owner(), "quote", (QuoteArgs { ledger: shop.ledger.id, tier: "Basic".to_owned() },))
    };
    assert!(matches!(ask(), Err(EconError::RateUnavailable { .. })));
    let mut unsure = ExchangeRates::quotation("ICP", 4_350_000_000);
    unsure.standard_deviation = 200_000_000;
    rates.set(unsure);
    assert!(matches!(ask(), Err(EconError::RateUnavailable { .. })), "the sources differ too much");
    rates.set(ExchangeRates::quotation("ICP", 4_350_000_000));
    let quote = ask().unwrap();
    assert_eq!((quote.cents, quote.amount), (2_900, 6_666_667));
    network.pic.advance_time(Duration::from_mins(11));
    let expired: Result<Invoice, _> =
        shop.update(owner(), "subscribe", (shop.subscribe_args("Basic", "first"),));
    assert_eq!(expired, Err(EconError::QuoteNeeded));
    let quote = ask().unwrap();
    let invoice = shop.subscribe("Basic", "first");
    assert!(matches!(invoice.state, InvoiceState::Paid { .. }), "{invoice:?}");
    assert_eq!((invoice.amount, invoice.rate), (Some(quote.amount), quote.rate));
    // The renewal asks for a rate by itself.
    rates.set(ExchangeRates::quotation("ICP", 8_700_000_000));
    shop.pass(30 * DAY_NS);
    let renewal = shop.invoices().pop().unwrap();
    assert!(matches!(renewal.state, InvoiceState::Paid { .. }), "{renewal:?}");
    assert_eq!(renewal.amount, Some(3_333_334));
}

#[test]
fn a_wallet_shows_what_is_to_be_signed() {
    let network = Network::new();
    let shop = Shop::open(&network, EconConfig::default());
    let consent = |method: &str, arg: Vec<u8>| -> Result<ConsentInfo, Icrc21Error> {
        let metadata = ConsentMessageMetadata { language: "en".to_owned(), utc_offset_minutes: None };
        let user_preferences = ConsentMessageSpec { metadata, device_spec: None };
        let request = ConsentMessageRequest { method: method.to_owned(), arg, user_preferences };
        network.update(owner(), shop.id, "icrc21_canister_call_consent_message", (request,))
    };
    let args = Encode!(&shop.subscribe_args("Basic", "first")).unwrap();
    let ConsentMessage::GenericDisplayMessage(text) = consent("subscribe", args).unwrap().consent_message
    else {
        panic!("a text was asked for");
    };
    assert!(text.contains("$29.00") && text.contains("Basic") && text.contains("tUSD"), "{text}");
    assert!(matches!(consent("subscribe", vec![1, 2]), Err(Icrc21Error::ConsentMessageUnavailable(_))));
    assert!(matches!(consent("reserve", Vec::new()), Err(Icrc21Error::UnsupportedCanisterCall(_))));
    let status: EconStatus = network.query(stranger(), shop.id, "status", ());
    assert_eq!(status.admins, [admin()]);
    let unknown: Result<Invoice, _> = shop.query(stranger(), "invoice", (InvoiceArgs::Id(1),));
    assert_eq!(unknown, Err(EconError::UnknownInvoice));
}
