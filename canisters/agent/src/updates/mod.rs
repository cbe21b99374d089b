//! Methods that change the state.

pub mod cycles;
pub mod jobs;
pub mod model;
