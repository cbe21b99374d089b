//! An exchange rate canister on a test network, and typed calls to it.

use candid::Principal;
use ic_xrc_types::ExchangeRateError;
use test_doubles::exchange_rate::{Quotation, crypto, fiat};
use test_doubles::faults::{FaultPlan, FaultRule};

use crate::network::{Network, admin};
use crate::wasm::Canister;

/// An exchange rate canister, controlled by the admin.
#[derive(Clone, Copy)]
pub struct ExchangeRates<'a> {
    network: &'a Network,
    /// Its canister.
    pub id: Principal,
}

impl<'a> ExchangeRates<'a> {
    /// Installs one without rates.
    pub fn install(network: &'a Network) -> Self {
        Self { network, id: network.install(Canister::ExchangeRate, ()) }
    }

    /// A rate of dollars for a token, with nine decimals, a deviation of a thousandth, from five of seven exchanges.
    pub fn quotation(symbol: &str, rate: u64) -> Quotation {
        Quotation {
            base_asset: crypto(symbol),
            quote_asset: fiat("USD"),
            rate,
            decimals: 9,
            standard_deviation: rate / 1_000,
            sources: (7, 5),
            timestamp: None,
        }
    }

    /// Sets a rate.
    pub fn set(&self, quotation: Quotation) {
        let () = self.network.update(admin(), self.id, "set_rate", (quotation,));
    }

    /// Answers everything by an error from now on, or by rates again.
    pub fn set_error(&self, error: Option<ExchangeRateError>) {
        let () = self.network.update(admin(), self.id, "set_error", (error,));
    }

    /// Begins to follow a plan of faults.
    pub fn set_faults(&self, rules: Vec<FaultRule>) {
        let () = self.network.update(admin(), self.id, "set_faults", (FaultPlan { seed: 0, rules },));
    }
}
