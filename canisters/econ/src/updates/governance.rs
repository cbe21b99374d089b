//! What admins change.

use candid::Principal;
use ic_cdk::api::time;
use shared_types::econ::{
    AnnounceTierArgs, EconConfig, EconError, Invoice, InvoiceArgs, LedgerArgs, LedgerInfo, RefundArgs,
    ServiceGrant,
};

use crate::guards::require_admin;
use crate::{driver, platform, state};

/// Hands governance over.
///
/// # Errors
/// Callers that are no admins are refused; [`EconError::InvalidField`].
pub fn set_admins(admins: Vec<Principal>) -> Result<(), EconError> {
    require_admin()?;
    state::mutate(|economy| economy.set_admins(admins, time()))
}

/// Changes times and limits.
///
/// # Errors
/// Callers that are no admins are refused; [`EconError::InvalidField`].
pub fn set_config(config: EconConfig) -> Result<(), EconError> {
    require_admin()?;
    state::mutate(|economy| economy.set_config(config, time()))
}

/// Announces a version of a tier.
///
/// # Errors
/// Callers that are no admins are refused; [`EconError::InvalidField`].
pub fn announce_tier(version: AnnounceTierArgs) -> Result<(), EconError> {
    require_admin()?;
    state::mutate(|economy| economy.announce_tier(version, time()))
}

/// Enters a ledger, after asking it for its symbol, decimals and fee.
///
/// # Errors
/// Callers that are no admins are refused; [`EconError::LedgerUnavailable`], [`EconError::LimitReached`].
pub async fn set_ledger(args: LedgerArgs) -> Result<LedgerInfo, EconError> {
    require_admin()?;
    let ledger = platform::describe(args).await?;
    state::mutate(|economy| economy.set_ledger(ledger.clone(), time()))?;
    Ok(ledger)
}

/// Authorises a canister.
///
/// # Errors
/// Callers that are no admins are refused; [`EconError::InvalidField`].
pub fn grant_service(grant: ServiceGrant) -> Result<(), EconError> {
    require_admin()?;
    state::mutate(|economy| economy.grant_service(grant, time()))
}

/// Withdraws an authorisation.
///
/// # Errors
/// Callers that are no admins are refused.
pub fn revoke_service(service: Principal) -> Result<(), EconError> {
    require_admin()?;
    state::mutate(|economy| economy.revoke_service(service, time()));
    Ok(())
}

/// Gives an invoice's payment back.
///
/// # Errors
/// As [`crate::economy::Economy::refund`]; callers that are no admins are refused.
pub async fn refund(args: RefundArgs) -> Result<Invoice, EconError> {
    require_admin()?;
    let admin = ic_cdk::api::msg_caller();
    state::mutate(|economy| economy.refund(&args, time()))?;
    let transfer = state::read(|economy| economy.stored_invoice(args.invoice))?.refund_transfer;
    if let Some(transfer) = transfer {
        driver::drive(transfer).await?;
    }
    state::read(|economy| economy.invoice(admin, &InvoiceArgs::Id(args.invoice)))
}
