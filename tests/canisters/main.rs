//! The canisters' real Wasm on a network, as their callers see it.

mod agent;
mod chat;
mod coordinator;
mod econ;
mod embed;
mod exchange_rate;
mod factory;
mod faults;
mod heap;
mod kernels;
mod ledger;
mod live;
mod memory;
mod queue;
mod quota;
mod receipts;
mod repository;
mod settlement;
mod site;
mod strangers;
mod wallet;
