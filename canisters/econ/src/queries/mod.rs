//! Methods that only read.

pub mod accounts;
pub mod catalogue;
pub mod settlement;
pub mod standards;
