//! Methods that only read.

pub mod accounts;
pub mod catalogue;
pub mod standards;
