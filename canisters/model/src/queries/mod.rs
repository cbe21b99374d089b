//! Methods that only read.

pub mod catalogue;
pub mod governance;
pub mod shards;
