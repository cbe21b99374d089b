//! The canisters' real Wasm on a network, as their callers see it.

mod agent;
mod chat;
mod factory;
mod faults;
mod kernels;
mod live;
mod queue;
mod receipts;
mod repository;
mod strangers;
