//! Which exchange rates are good enough to charge somebody by.

use ic_xrc_types::{Asset, AssetClass, ExchangeRate, ExchangeRateError, GetExchangeRateRequest};
use shared_types::econ::{EconConfig, Rate, SECOND_NS};

/// Cycles that come with a request; the exchange-rate canister takes at most this much and sends the rest back (its README).
pub const REQUEST_CYCLES: u128 = 1_000_000_000;

/// Fewest sources that must have had a price of the asset.
pub const MIN_SOURCES: usize = 3;

/// Most decimals of a rate.
const MAX_DECIMALS: u32 = 18;

/// The request for dollars per token.
pub fn request(symbol: &str) -> GetExchangeRateRequest {
    GetExchangeRateRequest {
        base_asset: Asset { symbol: symbol.to_owned(), class: AssetClass::Cryptocurrency },
        quote_asset: Asset { symbol: "USD".to_owned(), class: AssetClass::FiatCurrency },
        timestamp: None,
    }
}

/// The rate of an answer, if it is what was asked for, fresh enough, from enough sources, and if these agree well enough.
///
/// # Errors
/// Says what is wrong with it.
pub fn usable(
    symbol: &str,
    answer: Result<ExchangeRate, ExchangeRateError>,
    config: &EconConfig,
    now_ns: u64,
) -> Result<Rate, String> {
    let answer = answer.map_err(|error| format!("the exchange-rate canister refused: {error:?}"))?;
    let asked = request(symbol);
    if answer.base_asset != asked.base_asset || answer.quote_asset != asked.quote_asset {
        return Err("the rate is of other assets".to_owned());
    }
    let (metadata, rate) = (&answer.metadata, answer.rate);
    if rate == 0 || metadata.decimals > MAX_DECIMALS {
        return Err(format!("the rate is {rate} with {} decimals", metadata.decimals));
    }
    let time_ns = answer.timestamp.saturating_mul(SECOND_NS);
    // The clocks of two subnets may differ a little either way.
    if now_ns.abs_diff(time_ns) > config.max_rate_age_ns {
        return Err(format!("the rate is of {time_ns}, it is {now_ns}"));
    }
    let sources = metadata.base_asset_num_received_rates;
    if sources < MIN_SOURCES {
        return Err(format!("the rate has {sources} sources, {MIN_SOURCES} are needed"));
    }
    let deviation = u128::from(metadata.standard_deviation) * 10_000;
    if deviation > u128::from(rate) * u128::from(config.max_rate_deviation_bp) {
        return Err(format!("the sources differ by {} of {rate}", metadata.standard_deviation));
    }
    Ok(Rate { rate, decimals: metadata.decimals, time_ns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ic_xrc_types::ExchangeRateMetadata;

    fn answer() -> ExchangeRate {
        let request = request("ICP");
        ExchangeRate {
            base_asset: request.base_asset,
            quote_asset: request.quote_asset,
            timestamp: 1_000,
            rate: 4_350_000_000,
            metadata: ExchangeRateMetadata {
                decimals: 9,
                base_asset_num_received_rates: 5,
                base_asset_num_queried_sources: 7,
                quote_asset_num_received_rates: 5,
                quote_asset_num_queried_sources: 7,
                standard_deviation: 10_000_000,
                forex_timestamp: None,
            },
        }
    }

    #[test]
    fn only_good_rates_are_used() {
        let config = EconConfig::default();
        let now = 1_000 * SECOND_NS;
        let check = |change: &dyn Fn(&mut ExchangeRate)| {
            let mut rate = answer();
            change(&mut rate);
            usable("ICP", Ok(rate), &config, now)
        };
        assert_eq!(check(&|_| ()), Ok(Rate { rate: 4_350_000_000, decimals: 9, time_ns: now }));
        assert!(check(&|rate| rate.rate = 0).is_err());
        assert!(check(&|rate| rate.timestamp = 399).unwrap_err().contains("it is"));
        assert!(check(&|rate| rate.timestamp = 400).is_ok());
        assert!(check(&|rate| rate.metadata.standard_deviation = 87_000_001).is_err());
        assert!(check(&|rate| rate.metadata.standard_deviation = 87_000_000).is_ok());
        assert!(check(&|rate| rate.metadata.base_asset_num_received_rates = 2).is_err());
        assert!(check(&|rate| rate.base_asset.symbol = "BTC".to_owned()).is_err());
        assert!(usable("ICP", Err(ExchangeRateError::Pending), &config, now).is_err());
    }
}
