//! Methods that change the state.

pub mod agent;
pub mod template;
