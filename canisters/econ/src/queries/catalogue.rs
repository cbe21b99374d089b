//! Tiers, ledgers, governance.

use shared_types::econ::{
    EconError, EconStatus, EventsArgs, EventsPage, LedgerInfo, ListServicesArgs, ServicePage, TierVersion,
};

use crate::guards::require_admin;
use crate::lifecycle::VERSION;
use crate::state;

/// The tiers, those announced included.
pub fn tiers() -> Vec<TierVersion> {
    state::read(|economy| economy.settings().tiers.clone())
}

/// The ledgers.
pub fn ledgers() -> Vec<LedgerInfo> {
    state::read(|economy| economy.settings().ledgers.clone())
}

/// A page of the authorised canisters.
///
/// # Errors
/// Callers that are no admins are refused.
pub fn list_services(args: &ListServicesArgs) -> Result<ServicePage, EconError> {
    require_admin()?;
    Ok(state::read(|economy| economy.list_services(args)))
}

/// A page of the event log.
///
/// # Errors
/// Callers that are no admins are refused.
pub fn events(args: &EventsArgs) -> Result<EventsPage, EconError> {
    require_admin()?;
    Ok(state::read(|economy| economy.list_events(args)))
}

/// Limits, counts, balance.
pub fn status() -> EconStatus {
    state::read(|economy| {
        let settings = economy.settings();
        EconStatus {
            version: VERSION.to_owned(),
            admins: settings.admins.clone(),
            config: settings.config.clone(),
            accounts: economy.accounts_len(),
            invoices: economy.invoices_len(),
            payments_in_progress: u64::from(state::in_progress()),
            events: economy.events_len(),
            cycles: ic_cdk::api::canister_cycle_balance(),
        }
    })
}
