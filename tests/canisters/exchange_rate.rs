//! The tests' exchange rate canister.

use ic_xrc_types::{ExchangeRate, ExchangeRateError, GetExchangeRateRequest, GetExchangeRateResult};
use ohms_tests::exchange_rate::ExchangeRates;
use ohms_tests::network::{Network, admin, owner};
use test_doubles::exchange_rate::{
    CACHED_CYCLES, ERROR_CYCLES, FETCHED_CYCLES, Quotation, REQUEST_CYCLES, crypto, fiat,
};
use test_doubles::faults::{Fault, FaultRule, Moment, When};

/// The answer, an error as its name.
type Answer = Result<ExchangeRate, String>;

#[test]
fn rates_are_those_that_were_set_and_cost_what_they_cost() {
    let network = Network::new();
    let (rates, asker) = (ExchangeRates::install(&network), ExchangeRates::install(&network));
    let request =
        GetExchangeRateRequest { base_asset: crypto("ICP"), quote_asset: fiat("USD"), timestamp: None };
    let ask = |cycles: u128| -> (Answer, u128) {
        let args = (rates.id, request.clone(), cycles);
        let reply: Result<(GetExchangeRateResult, u128), _> =
            pocket_ic::update_candid_as(&network.pic, asker.id, admin(), "ask", args);
        let (answer, back) = reply.expect("an answer");
        (answer.map_err(|error| format!("{error:?}")), back)
    };
    assert_eq!(
        ask(REQUEST_CYCLES),
        (Err("CryptoBaseAssetNotFound".to_owned()), REQUEST_CYCLES - ERROR_CYCLES)
    );
    rates.set(ExchangeRates::quotation("ICP", 4_500_000_000));
    assert_eq!(ask(REQUEST_CYCLES - 1), (Err("NotEnoughCycles".to_owned()), REQUEST_CYCLES - 1));
    let (rate, back) = ask(REQUEST_CYCLES);
    let rate = rate.expect("there is a rate");
    let now = network.pic.get_time().as_nanos_since_unix_epoch() / 1_000_000_000;
    assert_eq!((rate.rate, rate.metadata.decimals, rate.timestamp % 60), (4_500_000_000, 9, 0));
    assert!(now - rate.timestamp < 61, "{now} {rate:?}");
    assert_eq!(back, REQUEST_CYCLES - FETCHED_CYCLES);
    rates.set(Quotation { timestamp: Some(60), standard_deviation: 1, ..ExchangeRates::quotation("ICP", 7) });
    let (stale, back) = ask(REQUEST_CYCLES);
    let stale = stale.expect("there is a rate");
    assert_eq!((stale.timestamp, stale.rate, stale.metadata.standard_deviation), (60, 7, 1));
    assert_eq!(back, REQUEST_CYCLES - CACHED_CYCLES);

    rates.set_error(Some(ExchangeRateError::InconsistentRatesReceived));
    assert_eq!(ask(REQUEST_CYCLES).0, Err("InconsistentRatesReceived".to_owned()));
    let rule = FaultRule {
        method: None,
        when: When::Always,
        moment: Moment::AfterEffect,
        fault: Fault::Unavailable,
    };
    rates.set_faults(vec![rule]);
    assert_eq!(ask(REQUEST_CYCLES).0, Err("Pending".to_owned()));
    rates.set_faults(Vec::new());
    // Users cannot attach cycles.
    let answer: GetExchangeRateResult =
        network.update(owner(), rates.id, "get_exchange_rate", (request.clone(),));
    assert!(matches!(answer, Err(ExchangeRateError::NotEnoughCycles)));
}
