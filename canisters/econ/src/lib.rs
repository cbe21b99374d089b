//! The econ canister: tiers, subscriptions, quotas, payments, usage.
//!
//! Endpoints only; `shared_types::econ` documents them, `econ.did` is the interface. The rules are in [`quotas`], [`billing`],
//! [`charges`] and [`transfers`], which know nothing of `ic-cdk`; every change of state is an event that [`economy`] applies. [`platform`] makes
//! the calls that the rules decide on.

#![allow(clippy::needless_pass_by_value, reason = "ic-cdk hands decoded arguments to an endpoint by value")]

mod accounts;
pub mod billing;
pub mod blocks;
pub mod charges;
pub mod consent;
pub mod driver;
pub mod economy;
pub mod event_log;
pub mod events;
pub mod exports;
pub mod governance;
pub mod guards;
#[cfg(test)]
mod invariants;
pub mod lifecycle;
pub mod memory;
pub mod platform;
pub mod pricing;
pub mod queries;
pub mod quotas;
#[cfg(test)]
mod quotas_tests;
pub mod rate_limits;
#[cfg(test)]
mod retention_tests;
pub mod rules;
pub mod settlement;
#[cfg(test)]
mod settlement_tests;
pub mod state;
pub mod timers;
pub mod transfers;
pub mod updates;
pub mod usage;
#[cfg(test)]
mod usage_tests;
pub mod wallets;

use candid::Principal;
use ic_cdk::{query, update};
use icrc_ledger_types::icrc21::errors::Icrc21Error;
use icrc_ledger_types::icrc21::requests::ConsentMessageRequest;
use icrc_ledger_types::icrc21::responses::ConsentInfo;
use queries::standards::SupportedStandard;
use shared_types::econ::settlement::{
    DisputeArgs, Escrow, EscrowId, EscrowPage, ListEscrowsArgs, OpenEscrowArgs, OpenWalletArgs,
    SettlementTotals, Wallet, WalletId, WithdrawArgs, Withdrawal,
};
use shared_types::econ::{
    Account, AccountSummary, AnnounceTierArgs, ChangeTierArgs, EconConfig, EconError, EconStatus, EventsArgs,
    EventsPage, ExportArgs, ExportPage, Invoice, InvoiceArgs, InvoicePage, LedgerArgs, LedgerInfo,
    ListInvoicesArgs, ListServicesArgs, PayArgs, PaymentMethod, Quote, QuoteArgs, RefundArgs, Reservation,
    ReservationId, ReserveArgs, ReturnAgentArgs, SeriesArgs, SeriesPage, ServiceGrant, ServicePage,
    SettleArgs, Settlement, SubscribeArgs, TierVersion, UsageArgs, UsagePage,
};

#[update]
fn reserve(args: ReserveArgs) -> Result<Reservation, EconError> {
    updates::quota::reserve(&args)
}

#[update]
fn settle(args: SettleArgs) -> Result<Settlement, EconError> {
    updates::quota::settle(&args)
}

#[update]
fn release(reservation: ReservationId) -> Result<(), EconError> {
    updates::quota::release(reservation)
}

#[update]
fn return_agent(args: ReturnAgentArgs) -> Result<(), EconError> {
    updates::quota::return_agent(args)
}

#[update]
fn open_wallet(args: OpenWalletArgs) -> Result<Wallet, EconError> {
    updates::settlement::open_wallet(&args)
}

#[update]
async fn deposit(wallet: WalletId) -> Result<Wallet, EconError> {
    updates::settlement::deposit(wallet).await
}

#[update]
async fn withdraw(args: WithdrawArgs) -> Result<Withdrawal, EconError> {
    updates::settlement::withdraw(args).await
}

#[update]
fn open_escrow(args: OpenEscrowArgs) -> Result<Escrow, EconError> {
    updates::settlement::open_escrow(&args)
}

#[update]
fn release_escrow(escrow: EscrowId) -> Result<Escrow, EconError> {
    updates::settlement::release_escrow(escrow)
}

#[update]
fn refund_escrow(escrow: EscrowId) -> Result<Escrow, EconError> {
    updates::settlement::refund_escrow(escrow)
}

#[update]
fn dispute_escrow(args: DisputeArgs) -> Result<Escrow, EconError> {
    updates::settlement::dispute_escrow(&args)
}

#[query]
fn wallet(id: WalletId) -> Result<Wallet, EconError> {
    queries::settlement::wallet(id)
}

#[query]
fn deposit_account(holder: Principal) -> Account {
    queries::settlement::deposit_account(holder)
}

#[query]
fn escrow(id: EscrowId) -> Result<Escrow, EconError> {
    queries::settlement::escrow(id)
}

#[query]
fn escrows(args: ListEscrowsArgs) -> Result<EscrowPage, EconError> {
    queries::settlement::escrows(&args)
}

#[query]
fn withdrawal(id: u64) -> Result<Withdrawal, EconError> {
    queries::settlement::withdrawal(id)
}

#[query]
fn settlement_totals(ledger: Principal) -> SettlementTotals {
    queries::settlement::settlement_totals(ledger)
}

#[update]
async fn quote(args: QuoteArgs) -> Result<Quote, EconError> {
    updates::payment::quote(args).await
}

#[update]
async fn subscribe(args: SubscribeArgs) -> Result<Invoice, EconError> {
    updates::payment::subscribe(args).await
}

#[update]
async fn change_tier(args: ChangeTierArgs) -> Result<Option<Invoice>, EconError> {
    updates::payment::change_tier(args).await
}

#[update]
async fn pay(args: PayArgs) -> Result<Invoice, EconError> {
    updates::payment::pay(args).await
}

#[update]
fn cancel() -> Result<AccountSummary, EconError> {
    updates::payment::cancel()
}

#[update]
fn resume() -> Result<AccountSummary, EconError> {
    updates::payment::resume()
}

#[update]
fn set_payment_method(method: PaymentMethod) -> Result<(), EconError> {
    updates::payment::set_payment_method(method)
}

#[update]
fn set_admins(admins: Vec<Principal>) -> Result<(), EconError> {
    updates::governance::set_admins(admins)
}

#[update]
fn set_config(config: EconConfig) -> Result<(), EconError> {
    updates::governance::set_config(config)
}

#[update]
fn announce_tier(args: AnnounceTierArgs) -> Result<(), EconError> {
    updates::governance::announce_tier(args)
}

#[update]
async fn set_ledger(args: LedgerArgs) -> Result<LedgerInfo, EconError> {
    updates::governance::set_ledger(args).await
}

#[update]
fn grant_service(grant: ServiceGrant) -> Result<(), EconError> {
    updates::governance::grant_service(grant)
}

#[update]
fn revoke_service(service: Principal) -> Result<(), EconError> {
    updates::governance::revoke_service(service)
}

#[update]
async fn refund(args: RefundArgs) -> Result<Invoice, EconError> {
    updates::governance::refund(args).await
}

#[query]
fn account(account: Option<Principal>) -> Result<AccountSummary, EconError> {
    queries::accounts::account(account)
}

#[query]
fn reservation(id: ReservationId) -> Result<Reservation, EconError> {
    queries::accounts::reservation(id)
}

#[query]
fn invoice(args: InvoiceArgs) -> Result<Invoice, EconError> {
    queries::accounts::invoice(&args)
}

#[query]
fn invoices(args: ListInvoicesArgs) -> Result<InvoicePage, EconError> {
    queries::accounts::invoices(&args)
}

#[query]
fn usage(args: UsageArgs) -> Result<UsagePage, EconError> {
    queries::accounts::usage(&args)
}

#[query]
fn series(args: SeriesArgs) -> Result<SeriesPage, EconError> {
    queries::accounts::series(&args)
}

#[query]
fn export(args: ExportArgs) -> Result<ExportPage, EconError> {
    queries::accounts::export(&args)
}

#[query]
fn tiers() -> Vec<TierVersion> {
    queries::catalogue::tiers()
}

#[query]
fn ledgers() -> Vec<LedgerInfo> {
    queries::catalogue::ledgers()
}

#[query]
fn list_services(args: ListServicesArgs) -> Result<ServicePage, EconError> {
    queries::catalogue::list_services(&args)
}

#[query]
fn events(args: EventsArgs) -> Result<EventsPage, EconError> {
    queries::catalogue::events(&args)
}

#[query]
fn status() -> EconStatus {
    queries::catalogue::status()
}

#[query]
fn icrc10_supported_standards() -> Vec<SupportedStandard> {
    queries::standards::supported_standards()
}

#[update]
fn icrc21_canister_call_consent_message(request: ConsentMessageRequest) -> Result<ConsentInfo, Icrc21Error> {
    queries::standards::consent_message(&request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::econ::EconInitArgs;

    candid::export_service!();

    #[test]
    fn candid_file_is_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/econ.did");
        canister_common::interface::assert_candid_file(path, &__export_service());
    }
}
