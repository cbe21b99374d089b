//! What the tests' stand-ins for a token ledger and the exchange rate canister have in common with the tests: the types by
//! which they are told what to do, and their rules.
//!
//! The canisters are `tests/ledger-canister` and `tests/exchange-rate-canister`.

pub mod canister;
pub mod exchange_rate;
pub mod faults;
pub mod ledger;
