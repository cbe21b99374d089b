//! Methods that change the state.

pub mod agent;
pub mod coordinators;
pub mod template;
