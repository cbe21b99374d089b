//! What the canister answers, and what it charges for it.

use candid::{CandidType, Deserialize};
use ic_xrc_types::{
    Asset, AssetClass, ExchangeRate, ExchangeRateError, ExchangeRateMetadata, GetExchangeRateRequest,
    GetExchangeRateResult,
};
use std::collections::BTreeSet;

/// Cycles that must be attached to a request (`XRC_REQUEST_CYCLES_COST`); what is not needed comes back.
pub const REQUEST_CYCLES: u128 = 1_000_000_000;
/// What an answer costs that needs no exchange (`XRC_BASE_CYCLES_COST` of dfinity/exchange-rate-canister).
pub const CACHED_CYCLES: u128 = 20_000_000;
/// What an answer costs for which the exchanges are asked for one asset: the base and one outcall
/// (`XRC_OUTBOUND_HTTP_CALL_CYCLES_COST`).
pub const FETCHED_CYCLES: u128 = CACHED_CYCLES + 240_000_000;
/// What an error costs (`XRC_MINIMUM_FEE_COST`).
pub const ERROR_CYCLES: u128 = 1_000_000;
/// Rates are for whole minutes.
const MINUTE: u64 = 60;

/// A token.
pub fn crypto(symbol: &str) -> Asset {
    Asset { symbol: symbol.to_owned(), class: AssetClass::Cryptocurrency }
}

/// Money of a country.
pub fn fiat(symbol: &str) -> Asset {
    Asset { symbol: symbol.to_owned(), class: AssetClass::FiatCurrency }
}

/// A rate that the canister is told.
#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
pub struct Quotation {
    /// What is priced.
    pub base_asset: Asset,
    /// In what it is priced.
    pub quote_asset: Asset,
    /// What one of the base asset costs, scaled by 10 to the decimals.
    pub rate: u64,
    /// Of the rate and the deviation.
    pub decimals: u32,
    /// Of the rates that the exchanges would have answered, scaled as the rate.
    pub standard_deviation: u64,
    /// Exchanges that would have been asked, and that would have answered.
    pub sources: (u32, u32),
    /// The time of the rate in seconds since 1970, whatever is asked for; none: the time that is asked for.
    pub timestamp: Option<u64>,
}

/// What the canister was told, and what it was asked.
#[derive(Debug, Default)]
pub struct Rates {
    quotations: Vec<Quotation>,
    error: Option<ExchangeRateError>,
    /// Asset pairs and minutes that were asked for before.
    cached: BTreeSet<(String, String, u64)>,
}

impl Rates {
    /// Sets a rate; it takes the place of an earlier one of the same assets.
    pub fn set(&mut self, quotation: Quotation) {
        self.quotations
            .retain(|q| (&q.base_asset, &q.quote_asset) != (&quotation.base_asset, &quotation.quote_asset));
        self.quotations.push(quotation);
    }

    /// Answers everything by an error from now on, or by rates again.
    pub fn set_error(&mut self, error: Option<ExchangeRateError>) {
        self.error = error;
    }

    /// The answer at `now` (seconds since 1970) with so many cycles attached, and what it costs.
    pub fn get(
        &mut self,
        request: &GetExchangeRateRequest,
        anonymous: bool,
        cycles: u128,
        now: u64,
    ) -> (GetExchangeRateResult, u128) {
        if anonymous {
            return (Err(ExchangeRateError::AnonymousPrincipalNotAllowed), 0);
        }
        if cycles < REQUEST_CYCLES {
            return (Err(ExchangeRateError::NotEnoughCycles), 0);
        }
        if let Some(error) = &self.error {
            return (Err(error.clone()), ERROR_CYCLES);
        }
        let GetExchangeRateRequest { base_asset, quote_asset, timestamp } = request;
        let found =
            self.quotations.iter().find(|q| (&q.base_asset, &q.quote_asset) == (base_asset, quote_asset));
        let Some(quotation) = found else {
            let fiat = |asset: &Asset| asset.class == AssetClass::FiatCurrency;
            let error = match (fiat(base_asset), fiat(quote_asset)) {
                (true, true) => ExchangeRateError::ForexAssetsNotFound,
                (true, false) => ExchangeRateError::CryptoQuoteAssetNotFound,
                _ => ExchangeRateError::CryptoBaseAssetNotFound,
            };
            return (Err(error), ERROR_CYCLES);
        };
        let minute = timestamp.unwrap_or(now) / MINUTE * MINUTE;
        let (queried, received) = (quotation.sources.0 as usize, quotation.sources.1 as usize);
        let rate = ExchangeRate {
            base_asset: base_asset.clone(),
            quote_asset: quote_asset.clone(),
            timestamp: quotation.timestamp.unwrap_or(minute),
            rate: quotation.rate,
            metadata: ExchangeRateMetadata {
                decimals: quotation.decimals,
                base_asset_num_queried_sources: queried,
                base_asset_num_received_rates: received,
                quote_asset_num_queried_sources: queried,
                quote_asset_num_received_rates: received,
                standard_deviation: quotation.standard_deviation,
                forex_timestamp: None,
            },
        };
        let new = self.cached.insert((base_asset.symbol.clone(), quote_asset.symbol.clone(), minute));
        (Ok(rate), if new { FETCHED_CYCLES } else { CACHED_CYCLES })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(base: &str) -> GetExchangeRateRequest {
        GetExchangeRateRequest { base_asset: crypto(base), quote_asset: fiat("USD"), timestamp: None }
    }

    #[test]
    fn answers_and_charges_are_those_of_the_exchange_rate_canister() {
        let mut rates = Rates::default();
        let quotation = Quotation {
            base_asset: crypto("ICP"),
            quote_asset: fiat("USD"),
            rate: 4_500_000_000,
            decimals: 9,
            standard_deviation: 1_000,
            sources: (7, 5),
            timestamp: None,
        };
        rates.set(quotation.clone());
        let mut ask = |base, anonymous, cycles, now| rates.get(&request(base), anonymous, cycles, now);
        let refusal = |(answer, charge): (GetExchangeRateResult, u128)| {
            (format!("{:?}", answer.expect_err("no rate")), charge)
        };
        let anonymous = refusal(ask("ICP", true, REQUEST_CYCLES, 130));
        assert_eq!(anonymous, ("AnonymousPrincipalNotAllowed".to_owned(), 0));
        let poor = refusal(ask("ICP", false, REQUEST_CYCLES - 1, 130));
        assert_eq!(poor, ("NotEnoughCycles".to_owned(), 0));
        let (rate, charge) = ask("ICP", false, REQUEST_CYCLES, 130);
        let rate = rate.expect("there is a rate");
        assert_eq!((rate.timestamp, rate.rate, charge), (120, 4_500_000_000, FETCHED_CYCLES));
        assert_eq!(ask("ICP", false, REQUEST_CYCLES, 179).1, CACHED_CYCLES, "the same minute");
        assert_eq!(ask("ICP", false, REQUEST_CYCLES, 180).1, FETCHED_CYCLES, "the next one");
        let unknown = refusal(ask("XYZ", false, REQUEST_CYCLES, 180));
        assert_eq!(unknown, ("CryptoBaseAssetNotFound".to_owned(), ERROR_CYCLES));

        rates.set(Quotation { timestamp: Some(7), ..quotation });
        let stale = rates.get(&request("ICP"), false, REQUEST_CYCLES, 500).0.expect("there is a rate");
        assert_eq!(stale.timestamp, 7);
        rates.set_error(Some(ExchangeRateError::Pending));
        let error = refusal(rates.get(&request("ICP"), false, REQUEST_CYCLES, 500));
        assert_eq!(error, ("Pending".to_owned(), ERROR_CYCLES));
    }
}
