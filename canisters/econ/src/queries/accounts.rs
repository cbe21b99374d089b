//! What belongs to an account: for the account itself and for admins.

use candid::Principal;
use shared_types::econ::{
    AccountSummary, EconError, ExportArgs, ExportPage, Invoice, InvoiceArgs, InvoicePage, ListInvoicesArgs,
    Reservation, ReservationId, SeriesArgs, SeriesPage, UsageArgs, UsagePage,
};

use crate::guards::{readable, signed_caller};
use crate::{exports, state};

/// Subscription and what is left of the quotas; for authorised canisters, too.
///
/// # Errors
/// [`EconError::Unauthorized`].
pub fn account(account: Option<Principal>) -> Result<AccountSummary, EconError> {
    let caller = signed_caller()?;
    let account = account.unwrap_or(caller);
    state::read(|economy| {
        let may = account == caller || economy.is_admin(caller) || economy.may_reserve(caller, account);
        if may { Ok(economy.summary(account)) } else { Err(EconError::Unauthorized) }
    })
}

/// A reservation, for its caller, its account and admins.
///
/// # Errors
/// [`EconError::UnknownReservation`].
pub fn reservation(id: ReservationId) -> Result<Reservation, EconError> {
    let caller = signed_caller()?;
    state::read(|economy| {
        let reservation = economy.reservation(id)?;
        let may = [reservation.caller, reservation.account].contains(&caller) || economy.is_admin(caller);
        if may { Ok(reservation) } else { Err(EconError::UnknownReservation { reservation: id }) }
    })
}

/// An invoice.
///
/// # Errors
/// [`EconError::UnknownInvoice`].
pub fn invoice(args: &InvoiceArgs) -> Result<Invoice, EconError> {
    let caller = signed_caller()?;
    state::read(|economy| economy.invoice(caller, args))
}

/// A page of the invoices.
///
/// # Errors
/// [`EconError::Unauthorized`].
pub fn invoices(args: &ListInvoicesArgs) -> Result<InvoicePage, EconError> {
    let account = readable(args.account)?;
    Ok(state::read(|economy| economy.list_invoices(account, args)))
}

/// A page of the runs.
///
/// # Errors
/// [`EconError::Unauthorized`].
pub fn usage(args: &UsageArgs) -> Result<UsagePage, EconError> {
    let account = readable(args.account)?;
    Ok(state::read(|economy| economy.usage_page(account, args)))
}

/// A page of a series.
///
/// # Errors
/// [`EconError::Unauthorized`].
pub fn series(args: &SeriesArgs) -> Result<SeriesPage, EconError> {
    let account = readable(args.account)?;
    Ok(state::read(|economy| economy.series_page(account, args)))
}

/// A page of an export.
///
/// # Errors
/// [`EconError::Unauthorized`].
pub fn export(args: &ExportArgs) -> Result<ExportPage, EconError> {
    let account = readable(args.account)?;
    Ok(state::read(|economy| exports::page(economy, account, args)))
}
