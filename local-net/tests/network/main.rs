//! The network in this process: its rules, one by one.

#[path = "../common/mod.rs"]
mod common;

mod execution;
mod faults;
mod management;
mod permissions;
mod snapshots;
mod state_dir;
mod subnets;
mod system_canisters;
mod threshold;
