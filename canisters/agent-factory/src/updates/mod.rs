//! Methods that change the state.

pub mod agent;
pub mod rollout;
pub mod settings;
pub mod template;
