//! Methods that change the state.

pub mod roles;
pub mod status;
pub mod upload;
