//! The programs from outside: clients that nobody here wrote, and servers in processes of their own.

#[path = "../common/mod.rs"]
mod common;

mod agent;
mod authentication;
mod browser;
mod gateway;
mod icp;
mod launcher;
mod node;
mod outcalls;
mod pocket_ic;
mod rust_canister;
mod scale;
