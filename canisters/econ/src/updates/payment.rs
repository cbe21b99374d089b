//! What people ask for and pay: as often as their class allows ([`EconError::RateLimited`]).

use candid::Principal;
use ic_cdk::api::time;
use shared_types::econ::payment::{Currency, InvoiceId, PayArgs};
use shared_types::econ::{
    AccountSummary, ChangeTierArgs, EconError, Invoice, InvoiceArgs, PaymentMethod, Quote, QuoteArgs,
    SubscribeArgs,
};

use crate::guards::limited_caller;
use crate::{driver, platform, state};

/// Begins a subscription and collects its first invoice. A repeated call goes on with the collection.
///
/// # Errors
/// As [`crate::economy::Economy::subscribe`]; [`EconError::Busy`]. That a payment failed is in the invoice, not an error.
pub async fn subscribe(args: SubscribeArgs) -> Result<Invoice, EconError> {
    let caller = limited_caller()?;
    let invoice = state::mutate(|economy| economy.subscribe(caller, &args, time()))?;
    collected(caller, invoice).await
}

/// Changes the tier; an upgrade at once is collected, and its invoice returned.
///
/// # Errors
/// As [`crate::economy::Economy::change_tier`]; [`EconError::Busy`].
pub async fn change_tier(args: ChangeTierArgs) -> Result<Option<Invoice>, EconError> {
    let caller = limited_caller()?;
    match state::mutate(|economy| economy.change_tier(caller, &args, time()))? {
        Some(invoice) => collected(caller, invoice).await.map(Some),
        None => Ok(None),
    }
}

/// Has an open invoice collected now.
///
/// # Errors
/// As [`crate::economy::Economy::pay`]; [`EconError::Busy`].
pub async fn pay(args: PayArgs) -> Result<Invoice, EconError> {
    let caller = limited_caller()?;
    let invoice = state::mutate(|economy| economy.pay(caller, &args, time()))?;
    collected(caller, invoice).await
}

/// Ends the subscription.
///
/// # Errors
/// As [`crate::economy::Economy::cancel`].
pub fn cancel() -> Result<AccountSummary, EconError> {
    let caller = limited_caller()?;
    state::mutate(|economy| {
        economy.cancel(caller, time())?;
        Ok(economy.summary(caller))
    })
}

/// Takes a cancellation back.
///
/// # Errors
/// As [`crate::economy::Economy::resume`].
pub fn resume() -> Result<AccountSummary, EconError> {
    let caller = limited_caller()?;
    state::mutate(|economy| {
        economy.resume(caller, time())?;
        Ok(economy.summary(caller))
    })
}

/// Changes who pays renewals.
///
/// # Errors
/// As [`crate::economy::Economy::set_method`].
pub fn set_payment_method(method: PaymentMethod) -> Result<(), EconError> {
    let caller = limited_caller()?;
    state::mutate(|economy| economy.set_method(caller, method, time()))
}

/// What a tier costs the caller now in a ledger's token.
///
/// # Errors
/// As [`crate::economy::Economy::quote`].
pub async fn quote(args: QuoteArgs) -> Result<Quote, EconError> {
    let caller = limited_caller()?;
    let currency = state::read(|economy| {
        economy.terms(&args.tier, time())?;
        economy.ledger(args.ledger).map(|ledger| ledger.args.currency.clone())
    })?;
    let rate = match currency {
        Currency::Dollar => None,
        Currency::Asset { symbol } => {
            Some(platform::rate(&symbol).await.map_err(|reason| EconError::RateUnavailable { reason })?)
        }
    };
    state::mutate(|economy| economy.quote(caller, &args, rate, time()))
}

async fn collected(caller: Principal, invoice: InvoiceId) -> Result<Invoice, EconError> {
    driver::collect(invoice).await?;
    state::read(|economy| economy.invoice(caller, &InvoiceArgs::Id(invoice)))
}
