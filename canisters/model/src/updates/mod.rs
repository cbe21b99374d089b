//! Methods that change the state.

pub mod governance;
pub mod upload;
