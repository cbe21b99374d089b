//! Methods that change something.

pub mod governance;
pub mod payment;
pub mod quota;
pub mod settlement;
